//! The epochs file: accepted and current epoch in two alternating slots (R10).
//!
//! One slot is written at a time and the other one stays as it is, so that a crash leaves the old
//! record or the new one. Checks only that the epochs never decrease; when to save them is the
//! protocol's business.

use alloc::vec;

use quorate_proto::{Epoch, ServerId, Zxid};
use quorate_wire::Frame;

use crate::bytes_at::{put, u32_at, u64_at};
use crate::disk::{BLOCK_SIZE, FileId};
use crate::error::Reason;
use crate::ops::{Ops, Owner};

/// The length of the epochs file in bytes.
pub(crate) const EPOCHS_LEN: usize = 2 * BLOCK_SIZE;

const MAGIC: [u8; 8] = *b"QrEpochs";
const VERSION: u32 = 1;
/// All inside one sector, which a write leaves old or new.
const SLOT_LEN: usize = 80;
const QUARANTINED: u32 = 1;

/// What the epochs file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EpochsRecord {
    pub(crate) accepted: Epoch,
    pub(crate) current: Epoch,
    /// Damage was found and not rebuilt since. Kept here because the first append after the damage
    /// hides its traces in the log.
    pub(crate) quarantined: bool,
    /// What was durable when this was written, so that a tail that disappeared is missed (R7).
    pub(crate) durable: Zxid,
    /// The segment in which it was: a later truncation may have taken it back.
    pub(crate) durable_seq: u64,
}

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) sid: ServerId,
    pub(crate) cluster_id: u64,
}

impl Identity {
    pub(crate) fn check(self, sid: ServerId, cluster_id: u64) -> Result<(), Reason> {
        if sid != self.sid {
            return Err(Reason::WrongServer { got: sid });
        }
        if cluster_id != self.cluster_id {
            return Err(Reason::WrongCluster { got: cluster_id });
        }
        Ok(())
    }
}

/// The epochs as found at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundEpochs {
    pub(crate) record: EpochsRecord,
    pub(crate) generation: u64,
    /// One slot is unreadable. A torn write cannot do that, and it may have been the newer one.
    pub(crate) damaged: bool,
}

fn encode_slot(identity: Identity, generation: u64, record: &EpochsRecord) -> [u8; SLOT_LEN] {
    let mut out = [0; SLOT_LEN];
    put(&mut out, 0, &MAGIC);
    put(&mut out, 8, &VERSION.to_le_bytes());
    let flags = if record.quarantined { QUARANTINED } else { 0 };
    put(&mut out, 12, &flags.to_le_bytes());
    put(&mut out, 16, &generation.to_le_bytes());
    put(&mut out, 24, &identity.sid.0.to_le_bytes());
    put(&mut out, 32, &identity.cluster_id.to_le_bytes());
    put(&mut out, 40, &record.accepted.get().to_le_bytes());
    put(&mut out, 44, &record.current.get().to_le_bytes());
    put(&mut out, 48, &record.durable.as_u64().to_le_bytes());
    put(&mut out, 56, &record.durable_seq.to_le_bytes());
    let crc = crc32c::crc32c(&out[..SLOT_LEN - 4]);
    put(&mut out, SLOT_LEN - 4, &crc.to_le_bytes());
    out
}

fn decode_slot(identity: Identity, bytes: &[u8]) -> Result<(u64, EpochsRecord), Reason> {
    let bytes = bytes.get(..SLOT_LEN).ok_or(Reason::ShortFile)?;
    if bytes[..8] != MAGIC {
        return Err(Reason::Blank);
    }
    if crc32c::crc32c(&bytes[..SLOT_LEN - 4]) != u32_at(bytes, SLOT_LEN - 4) {
        return Err(Reason::Checksum);
    }
    if u32_at(bytes, 8) != VERSION {
        return Err(Reason::Version { got: u32_at(bytes, 8) });
    }
    identity.check(ServerId(u64_at(bytes, 24)), u64_at(bytes, 32))?;
    let record = EpochsRecord {
        accepted: Epoch::new(u32_at(bytes, 40)),
        current: Epoch::new(u32_at(bytes, 44)),
        quarantined: u32_at(bytes, 12) & QUARANTINED != 0,
        durable: Zxid::from_u64(u64_at(bytes, 48)),
        durable_seq: u64_at(bytes, 56),
    };
    if record.current > record.accepted {
        return Err(Reason::Value);
    }
    Ok((u64_at(bytes, 16), record))
}

/// Whose file it is, from a slot that is whole.
pub(crate) fn owner(bytes: &[u8]) -> Option<Identity> {
    let slots = [0, BLOCK_SIZE].into_iter().filter_map(|at| bytes.get(at..at + SLOT_LEN));
    let whole = |slot: &&[u8]| {
        slot[..8] == MAGIC && crc32c::crc32c(&slot[..SLOT_LEN - 4]) == u32_at(slot, SLOT_LEN - 4)
    };
    let slot = slots.into_iter().find(whole)?;
    Some(Identity { sid: ServerId(u64_at(slot, 24)), cluster_id: u64_at(slot, 32) })
}

/// Reads the file. A slot of another server, ensemble or version refuses the whole directory.
pub(crate) fn decode(identity: Identity, bytes: &[u8]) -> Result<FoundEpochs, (u64, Reason)> {
    let slot = |at: usize| {
        let bytes = bytes.get(at..).unwrap_or_default();
        match decode_slot(identity, bytes) {
            Ok(found) => Ok(Some(found)),
            Err(
                reason @ (Reason::WrongServer { .. }
                | Reason::WrongCluster { .. }
                | Reason::Version { .. }),
            ) => Err((at as u64, reason)),
            Err(_) => Ok(None),
        }
    };
    match (slot(0)?, slot(BLOCK_SIZE)?) {
        (None, None) => Err((0, Reason::NoEpochs)),
        (Some((generation, record)), None) | (None, Some((generation, record))) => {
            Ok(FoundEpochs { record, generation, damaged: true })
        }
        (Some(first), Some(second)) => {
            let (generation, record) = if first.0 >= second.0 { first } else { second };
            Ok(FoundEpochs { record, generation, damaged: false })
        }
    }
}

/// The whole file of a new directory.
pub(crate) fn first_file(identity: Identity) -> Frame {
    let mut bytes = [0; BLOCK_SIZE + SLOT_LEN];
    let record = EpochsRecord::default();
    put(&mut bytes, 0, &encode_slot(identity, 0, &record));
    put(&mut bytes, BLOCK_SIZE, &encode_slot(identity, 1, &record));
    Frame::copy_from(&bytes)
}

/// The open epochs file.
#[derive(Debug)]
pub(crate) struct EpochsFile {
    identity: Identity,
    file: FileId,
    generation: u64,
    durable: EpochsRecord,
    wanted: EpochsRecord,
    /// What is being written, if anything.
    writing: Option<EpochsRecord>,
}

impl EpochsFile {
    pub(crate) fn new(identity: Identity, file: FileId, found: &FoundEpochs) -> Self {
        let FoundEpochs { record, generation, damaged: _ } = *found;
        Self { identity, file, generation, durable: record, wanted: record, writing: None }
    }

    /// What will be durable when all is done.
    pub(crate) fn wanted(&self) -> &EpochsRecord {
        &self.wanted
    }

    /// What is durable.
    pub(crate) fn durable(&self) -> &EpochsRecord {
        &self.durable
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.writing.is_none() && self.wanted == self.durable
    }

    pub(crate) fn want(&mut self, record: EpochsRecord) {
        assert!(record.current <= record.accepted, "current epoch above the accepted one");
        assert!(record.accepted >= self.wanted.accepted, "the accepted epoch must not decrease");
        assert!(record.current >= self.wanted.current, "the current epoch must not decrease");
        self.wanted = record;
    }

    /// Starts the next write: disk first, memory after.
    pub(crate) fn advance(&mut self, ops: &mut Ops) {
        if self.writing.is_some() || self.wanted == self.durable {
            return;
        }
        self.generation += 1;
        let offset = (self.generation % 2) * BLOCK_SIZE as u64;
        let slot = encode_slot(self.identity, self.generation, &self.wanted);
        ops.write(Owner::Epochs, self.file, offset, vec![Frame::copy_from(&slot)], true);
        self.writing = Some(self.wanted);
    }

    /// The write is durable; gives what was durable before.
    pub(crate) fn handle_written(&mut self) -> EpochsRecord {
        let written = self.writing.take().expect("a write of the epochs was under way");
        core::mem::replace(&mut self.durable, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Identity = Identity { sid: ServerId(3), cluster_id: 11 };

    fn file(slots: [Option<(u64, u32)>; 2]) -> alloc::vec::Vec<u8> {
        let mut bytes = vec![0; EPOCHS_LEN];
        for (at, slot) in [0, BLOCK_SIZE].into_iter().zip(slots) {
            let Some((generation, accepted)) = slot else { continue };
            let record = EpochsRecord { accepted: Epoch::new(accepted), ..Default::default() };
            put(&mut bytes, at, &encode_slot(OURS, generation, &record));
        }
        bytes
    }

    #[test]
    fn the_newer_slot_counts_wherever_it_stands() {
        for (slots, accepted) in [([(4, 8), (3, 7)], 8), ([(4, 8), (5, 9)], 9)] {
            let found = decode(OURS, &file(slots.map(Some))).unwrap();
            assert_eq!((found.record.accepted.get(), found.damaged), (accepted, false));
        }
    }

    #[test]
    fn one_lost_slot_is_noticed_and_two_are_no_zero() {
        let found = decode(OURS, &file([Some((4, 8)), None])).unwrap();
        assert!(found.damaged);
        assert_eq!(decode(OURS, &file([None, None])), Err((0, Reason::NoEpochs)));
    }

    #[test]
    fn the_file_of_another_server_or_ensemble_is_refused() {
        let bytes = file([Some((4, 8)), Some((3, 8))]);
        let other = Identity { sid: ServerId(4), ..OURS };
        assert_eq!(decode(other, &bytes), Err((0, Reason::WrongServer { got: ServerId(3) })));
        let other = Identity { cluster_id: 12, ..OURS };
        assert_eq!(decode(other, &bytes), Err((0, Reason::WrongCluster { got: 11 })));
    }

    #[test]
    fn the_first_file_reads_back_as_zero() {
        let found = decode(OURS, &first_file(OURS)).unwrap();
        assert_eq!((found.record, found.generation), (EpochsRecord::default(), 1));
        assert!(!found.damaged);
    }
}
