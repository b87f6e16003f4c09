//! The names of the files in the data directory.
//!
//! Whether a name found there is to be trusted is recovery's business.

use alloc::format;
use alloc::string::String;

use quorate_proto::Zxid;

/// The epochs file.
pub(crate) const EPOCHS: &str = "epochs";
/// The epochs file while it is made.
pub(crate) const EPOCHS_TMP: &str = "epochs.tmp";

/// What a name in the data directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileName {
    /// The epochs.
    Epochs,
    /// A log segment, by its sequence number.
    Segment(u64),
    /// A finished snapshot, by its zxid.
    Snapshot(Zxid),
    /// A segment file that waits for its next use, by a number without meaning.
    Spare(u64),
    /// A snapshot that was not finished, by its number, or epochs (0); it can be removed.
    Unfinished(u64),
    /// Not ours.
    Other,
}

impl FileName {
    pub(crate) fn parse(name: &str) -> Self {
        if name == EPOCHS {
            return Self::Epochs;
        }
        if let Some(hex) = name.strip_prefix("log.") {
            return hex_number(hex).map_or(Self::Other, Self::Segment);
        }
        if let Some(hex) = name.strip_prefix("spare.") {
            return hex_number(hex).map_or(Self::Other, Self::Spare);
        }
        if name == EPOCHS_TMP {
            return Self::Unfinished(0);
        }
        let Some(rest) = name.strip_prefix("snapshot.") else { return Self::Other };
        if let Some(rest) = rest.strip_suffix(".tmp") {
            let number = rest.rsplit('.').next().and_then(|number| number.parse().ok());
            return Self::Unfinished(number.unwrap_or(0));
        }
        hex_number(rest).map_or(Self::Other, |zxid| Self::Snapshot(Zxid::from_u64(zxid)))
    }
}

pub(crate) fn segment(seq: u64) -> String {
    format!("log.{seq:016x}")
}

pub(crate) fn spare(number: u64) -> String {
    format!("spare.{number:016x}")
}

pub(crate) fn snapshot(zxid: Zxid) -> String {
    format!("snapshot.{:016x}", zxid.as_u64())
}

/// `number` keeps the names of an abandoned and a new attempt at the same zxid apart.
pub(crate) fn snapshot_tmp(zxid: Zxid, number: u64) -> String {
    format!("snapshot.{:016x}.{number}.tmp", zxid.as_u64())
}

/// Exactly the 16 digits that we write; anything else is not ours.
fn hex_number(hex: &str) -> Option<u64> {
    let ours = hex.len() == 16 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if ours { u64::from_str_radix(hex, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_foreign_names_are_left_alone() {
        let zxid = Zxid::from_u64(0x2_0000_0001);
        assert_eq!(FileName::parse(&segment(0x1f)), FileName::Segment(0x1f));
        assert_eq!(FileName::parse(&spare(3)), FileName::Spare(3));
        assert_eq!(FileName::parse(&snapshot(zxid)), FileName::Snapshot(zxid));
        assert_eq!(FileName::parse(&snapshot_tmp(zxid, 2)), FileName::Unfinished(2));
        assert_eq!(FileName::parse(EPOCHS), FileName::Epochs);
        for other in ["log.1", "log.000000000000000G", "myid", "log.0000000000000001.bak", ""] {
            assert_eq!(FileName::parse(other), FileName::Other, "{other}");
        }
    }
}
