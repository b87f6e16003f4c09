//! `StoreError` and `Reason`: what is wrong with a file, and where.
//!
//! Decides nothing: whether a fault is a torn tail, damage or the end of the server is recovery's
//! business.

use alloc::string::String;
use core::fmt;

use quorate_proto::{Epoch, ServerId, Zxid};

/// A fault in a file, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// The file's path in the data directory.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub reason: Reason,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.file, self.offset, self.reason)
    }
}

impl core::error::Error for StoreError {}

/// What is wrong with bytes on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// No known first bytes: never written, zeroed, or overwritten.
    Blank,
    /// A whole block of an earlier use of the file.
    Stale,
    /// The segment ends here; nothing more fits.
    Full,
    /// A format version that this server does not know (R50).
    Version {
        /// The version in the file.
        got: u32,
    },
    /// The checksum does not fit the bytes.
    Checksum,
    /// A length above its limit.
    Length {
        /// The length in the file.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// A valid block or header that belongs to another place: a misdirected write.
    Misplaced,
    /// A block that does not continue the one before it.
    Chain,
    /// A field with a value that does not exist.
    Value,
    /// A transaction that does not follow the one before it (R4).
    Gap {
        /// The last zxid.
        after: Zxid,
        /// The one found.
        got: Zxid,
    },
    /// The file is shorter than it says.
    ShortFile,
    /// A whole block behind a bad one: the bad one had been durable (R6).
    BlockBehind {
        /// Where the whole block stands.
        offset: u64,
    },
    /// The log was durable further than it reaches now (R7).
    Lost {
        /// How far it was durable.
        durable: Zxid,
        /// Where it ends now.
        last: Zxid,
    },
    /// The log does not continue the snapshot that it has to continue.
    Unreachable {
        /// The snapshot.
        snapshot: Zxid,
    },
    /// There is no log segment where there must be one.
    NoLog,
    /// A damage that was found at an earlier start and not rebuilt since.
    NotRebuilt,
    /// The file belongs to another server (R41).
    WrongServer {
        /// Its owner.
        got: ServerId,
    },
    /// The file belongs to another ensemble (R41).
    WrongCluster {
        /// Its ensemble.
        got: u64,
    },
    /// A log or a snapshot without the epochs, or epochs of which no slot is readable (R10).
    NoEpochs,
    /// One of the two slots of the epochs is damaged, and it may have been the newer one.
    EpochsSlot,
    /// The log holds transactions of an epoch that was never promised: the epochs are older than
    /// the log, as after a restored backup.
    EpochsBehind {
        /// The promised epoch.
        accepted: Epoch,
        /// The epoch of the last transaction.
        got: Epoch,
    },
    /// The disk refused an operation (R3).
    Disk {
        /// What it said.
        what: String,
        /// The system's error number.
        errno: i32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => write!(f, "nothing was written here"),
            Self::Stale => write!(f, "bytes of an earlier use of the file"),
            Self::Full => write!(f, "the segment is full"),
            Self::Version { got } => write!(f, "unknown format version {got}"),
            Self::Checksum => write!(f, "the checksum does not fit"),
            Self::Length { got, max } => write!(f, "length {got} is above {max}"),
            Self::Misplaced => write!(f, "valid bytes of another place"),
            Self::Chain => write!(f, "the block does not continue the one before it"),
            Self::Value => write!(f, "a field has a value that does not exist"),
            Self::Gap { after, got } => write!(f, "zxid {got} does not follow {after}"),
            Self::ShortFile => write!(f, "the file ends too early"),
            Self::BlockBehind { offset } => {
                write!(f, "damaged, a whole block follows at offset {offset}")
            }
            Self::Lost { durable, last } => {
                write!(f, "the log was durable up to {durable} and ends at {last}")
            }
            Self::Unreachable { snapshot } => {
                write!(f, "the log does not continue snapshot {snapshot}")
            }
            Self::NoLog => write!(f, "the log is missing"),
            Self::NotRebuilt => write!(f, "damage of an earlier start is not rebuilt yet"),
            Self::WrongServer { got } => write!(f, "belongs to server {got}"),
            Self::WrongCluster { got } => write!(f, "belongs to ensemble {got:#x}"),
            Self::NoEpochs => write!(
                f,
                "the epochs are missing or unreadable although there is a log or a snapshot; \
                 without them this server could break a promise: empty its data directory"
            ),
            Self::EpochsSlot => write!(f, "a slot of the epochs is damaged"),
            Self::EpochsBehind { accepted, got } => write!(
                f,
                "the log reaches epoch {got}, but the epochs know only {accepted}; they are older \
                 than the log, as after a restored backup: empty the data directory"
            ),
            Self::Disk { what, errno } => write!(f, "{what} (errno {errno})"),
        }
    }
}

/// A range that this server's log does not hold (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHeld {
    /// After which transaction it was to start.
    pub after: Zxid,
    /// With which it was to end.
    pub through: Zxid,
}

impl fmt::Display for NotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log does not hold the range after {} through {}", self.after, self.through)
    }
}

impl core::error::Error for NotHeld {}
