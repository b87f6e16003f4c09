//! What the tools use: walk through a segment, check a snapshot, read the epochs, from any bytes.
//!
//! Prints nothing and judges nothing beyond what the readers say: whether an end is torn or damage
//! depends on the files around it, which only recovery sees.

use quorate_proto::{Epoch, ServerId, Zxid};
use quorate_wire::Frame;

use crate::disk::BLOCK_SIZE;
use crate::epochs::{EPOCHS_LEN, FoundEpochs, Identity, decode, owner};
use crate::error::Reason;
use crate::segment::{BlockHeader, Parsed, SegmentHeader, SegmentReader, part};
use crate::snapshot::{SnapshotHeader, SnapshotPart, SnapshotReader, SnapshotTotals};

/// How much is read at once, in bytes.
const READ_LEN: usize = 1024 * 1024;

/// A file to be looked into.
pub trait ByteSource {
    /// The bytes at `offset`, at most `len`; fewer at the end of the file or if it cannot be read.
    fn read_at(&mut self, offset: u64, len: usize) -> Frame;
}

impl ByteSource for Frame {
    fn read_at(&mut self, offset: u64, len: usize) -> Frame {
        let start = usize::try_from(offset).map_or(self.len(), |at| at.min(self.len()));
        let end = start.saturating_add(len).min(self.len());
        self.slice(start..end)
    }
}

/// Something found in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentItem {
    /// The segment's header; always first if it can be read.
    Header(SegmentHeader),
    /// A block begins.
    Block {
        /// Where.
        offset: u64,
        /// Its header.
        header: BlockHeader,
    },
    /// A record.
    Record {
        /// Where.
        offset: u64,
        /// The transaction.
        zxid: Zxid,
        /// The frame.
        frame: Frame,
    },
    /// The records end here, or cannot be read further.
    End {
        /// Where.
        offset: u64,
        /// What is there instead.
        reason: Reason,
    },
    /// Behind the end stands a whole block of this segment, out of reach.
    Behind {
        /// Where.
        offset: u64,
        /// Its header.
        header: BlockHeader,
    },
}

#[derive(Debug)]
enum Stage {
    Header,
    Records(SegmentHeader, SegmentReader),
    Behind(SegmentHeader, u64),
    Over,
}

/// Walks through a segment; see [`inspect_segment`].
#[derive(Debug)]
pub struct InspectSegment<S> {
    source: S,
    window: Frame,
    at: u64,
    body_len_max: u32,
    stage: Stage,
}

/// Walks through a segment from its first byte, with everything checked on the way.
pub fn inspect_segment<S: ByteSource>(source: S, body_len_max: u32) -> InspectSegment<S> {
    InspectSegment { source, window: Frame::default(), at: 0, body_len_max, stage: Stage::Header }
}

impl<S: ByteSource> Iterator for InspectSegment<S> {
    type Item = SegmentItem;

    fn next(&mut self) -> Option<SegmentItem> {
        match core::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Header => match SegmentHeader::decode(&self.source.read_at(0, BLOCK_SIZE)) {
                Ok(header) => {
                    let reader = SegmentReader::new(header, None, self.body_len_max);
                    self.stage = Stage::Records(header, reader);
                    Some(SegmentItem::Header(header))
                }
                Err(reason) => Some(SegmentItem::End { offset: 0, reason }),
            },
            Stage::Records(header, reader) => Some(self.next_record(header, reader)),
            Stage::Behind(header, from) => self.next_behind(header, from),
            Stage::Over => None,
        }
    }
}

impl<S: ByteSource> InspectSegment<S> {
    fn next_record(&mut self, header: SegmentHeader, mut reader: SegmentReader) -> SegmentItem {
        loop {
            let (item, behind) = match reader.next(&self.window, self.at) {
                Parsed::Block { offset, header } => (SegmentItem::Block { offset, header }, None),
                Parsed::Record { offset, zxid, frame } => {
                    (SegmentItem::Record { offset, zxid, frame }, None)
                }
                Parsed::More { offset, len } if self.fetch(offset, len) => continue,
                Parsed::More { offset, .. } => {
                    (SegmentItem::End { offset, reason: Reason::ShortFile }, Some(u64::MAX))
                }
                Parsed::End { offset, reason, behind } => {
                    (SegmentItem::End { offset, reason }, Some(behind))
                }
            };
            self.stage = match behind {
                Some(behind) => Stage::Behind(header, behind),
                None => Stage::Records(header, reader),
            };
            return item;
        }
    }

    fn next_behind(&mut self, header: SegmentHeader, from: u64) -> Option<SegmentItem> {
        let mut offset = from;
        while offset < header.len {
            if part(&self.window, self.at, offset, BLOCK_SIZE).is_none()
                && !self.fetch(offset, BLOCK_SIZE)
            {
                return None;
            }
            let bytes = part(&self.window, self.at, offset, BLOCK_SIZE)?;
            if let Ok((found, _)) = BlockHeader::decode(bytes)
                && found.belongs(&header, offset)
            {
                self.stage = Stage::Behind(header, offset + found.block_len());
                return Some(SegmentItem::Behind { offset, header: found });
            }
            offset += BLOCK_SIZE as u64;
        }
        None
    }

    /// Reads at least `len` bytes at `offset`; false if the source does not have them.
    fn fetch(&mut self, offset: u64, len: usize) -> bool {
        self.window = self.source.read_at(offset, len.max(READ_LEN));
        self.at = offset;
        self.window.len() >= len
    }
}

/// Reads a whole snapshot and gives each chunk to `take`. A snapshot is usable only if this is
/// `Ok`, whatever was given before.
///
/// # Errors
/// The place and what is wrong there.
pub fn verify_snapshot<S: ByteSource>(
    mut source: S,
    chunk_len_max: usize,
    mut take: impl FnMut(Frame),
) -> Result<(SnapshotHeader, SnapshotTotals), (u64, Reason)> {
    let mut reader = SnapshotReader::new(chunk_len_max);
    let (mut window, mut at) = (Frame::default(), 0);
    let mut header = None;
    loop {
        match reader.next(&window, at) {
            SnapshotPart::Header(found) => header = Some(found),
            SnapshotPart::Chunk(chunk) => take(chunk),
            SnapshotPart::End(totals) => {
                let header = header.expect("the reader gives the header first");
                return Ok((header, totals));
            }
            SnapshotPart::More { offset, len } => {
                window = source.read_at(offset, len.max(READ_LEN));
                at = offset;
                if window.len() < len {
                    return Err((offset, Reason::ShortFile));
                }
            }
            SnapshotPart::Fault { offset, reason } => return Err((offset, reason)),
        }
    }
}

/// What an epochs file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// The server.
    pub sid: ServerId,
    /// The ensemble.
    pub cluster_id: u64,
    /// The promise not to follow lower epochs.
    pub accepted: Epoch,
    /// The epoch whose leader's initial history is held.
    pub current: Epoch,
    /// Damage was found and not rebuilt since.
    pub quarantined: bool,
    /// What was durable when it was written.
    pub durable: Zxid,
    /// One of the two slots is unreadable.
    pub damaged: bool,
}

/// Reads an epochs file of any server.
///
/// # Errors
/// The place and what is wrong there.
pub fn inspect_epochs<S: ByteSource>(mut source: S) -> Result<Epochs, (u64, Reason)> {
    let bytes = source.read_at(0, EPOCHS_LEN);
    let identity = owner(&bytes).ok_or((0, Reason::NoEpochs))?;
    let FoundEpochs { record, damaged, .. } = decode(identity, &bytes)?;
    let Identity { sid, cluster_id } = identity;
    Ok(Epochs {
        sid,
        cluster_id,
        accepted: record.accepted,
        current: record.current,
        quarantined: record.quarantined,
        durable: record.durable,
        damaged,
    })
}
