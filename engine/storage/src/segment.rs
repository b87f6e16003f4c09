//! The format of a log segment: its header, its blocks, and the reader that both recovery and tools
//! use.
//!
//! A segment is a file of fixed length: one header block, then blocks, each a header with records
//! behind it, zero-padded to [`BLOCK_SIZE`]. A block is written once and never again. This module
//! touches no file and does not judge what a fault means.

use quorate_proto::{ServerId, Zxid};
use quorate_wire::Frame;

use crate::bytes_at::{put, u16_at, u32_at, u64_at};
use crate::disk::BLOCK_SIZE;
use crate::error::Reason;
use crate::record::{RECORD_HEADER_LEN, RecordHeader};

/// The length of a block's header in bytes.
pub const BLOCK_HEADER_LEN: usize = 64;

/// The format of segments and blocks that this code writes, and the only one that it reads.
pub const SEGMENT_VERSION: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"QrLogSeg";
const SEGMENT_HEADER_LEN: usize = 96;
/// The header stands twice, each copy inside one sector: a write leaves a sector old or new, so a
/// copy that is neither is damage, and damage to one copy loses nothing.
const SECOND_COPY_AT: usize = 2048;
const BLOCK_MAGIC: [u8; 4] = *b"QrBk";

/// Why a segment was started, which says where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The one before was full. It ends where its blocks end; this segment's first block names that
    /// zxid. So the header can be written, and its name made durable, long before it is needed.
    Roll,
    /// A new data directory.
    Fresh,
    /// TRUNC: records above `continues_after` in the segments before are void.
    Truncation,
    /// A start after a crash: what was torn behind `continues_after` is void.
    Recovery,
    /// A received snapshot at `continues_after`: everything before is void as soon as the snapshot
    /// has its name.
    Installed,
}

impl Origin {
    const ALL: [Self; 5] =
        [Self::Roll, Self::Fresh, Self::Truncation, Self::Recovery, Self::Installed];
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The ensemble.
    pub cluster_id: u64,
    /// The server.
    pub sid: ServerId,
    /// The segment's number. Grows with each segment and is never used again.
    pub seq: u64,
    /// The segment that holds the records before this one's, or 0 if a snapshot does.
    /// Segments between the two are void.
    pub previous: u64,
    /// Grows with each use of a file, so that blocks of an earlier use are never taken for new ones.
    pub generation: u32,
    /// Why it was started.
    pub origin: Origin,
    /// How many durable writes may have been in flight at once, which is how many blocks may
    /// legally follow a hole, plus one.
    pub writes_max: u8,
    /// The last zxid before this segment; without meaning for [`Origin::Roll`].
    pub continues_after: Zxid,
    /// The history that the segment belongs to: 0, or the number of the first segment after the
    /// last received snapshot. Segments of another history than the snapshot's are void.
    pub log_floor: u64,
    /// The file's length in bytes.
    pub len: u64,
}

impl SegmentHeader {
    /// The header block without its padding.
    pub fn encode(&self) -> Frame {
        let mut block = [0; SECOND_COPY_AT + SEGMENT_HEADER_LEN];
        let copy = self.encode_copy();
        put(&mut block, 0, &copy);
        put(&mut block, SECOND_COPY_AT, &copy);
        Frame::copy_from(&block)
    }

    /// Reads the header block.
    ///
    /// # Errors
    /// What is wrong with the first copy, if the second is not good either.
    pub fn decode(block: &[u8]) -> Result<Self, Reason> {
        let first = Self::decode_copy(block);
        match (first, block.get(SECOND_COPY_AT..).ok_or(Reason::ShortFile)) {
            (Ok(header), _) => Ok(header),
            (Err(reason), Ok(second)) => Self::decode_copy(second).map_err(|_| reason),
            (Err(reason), Err(_)) => Err(reason),
        }
    }

    /// Where the chain of blocks starts if the segment says so itself.
    pub(crate) fn chain_start(&self) -> Option<u32> {
        match self.origin {
            Origin::Roll => None,
            Origin::Fresh | Origin::Truncation | Origin::Recovery | Origin::Installed => {
                Some(u32_at(&self.encode_copy(), SEGMENT_HEADER_LEN - 4))
            }
        }
    }

    /// `continues_after`, where it has a meaning.
    pub fn starts_after(&self) -> Option<Zxid> {
        match self.origin {
            Origin::Roll => None,
            Origin::Fresh | Origin::Truncation | Origin::Recovery | Origin::Installed => {
                Some(self.continues_after)
            }
        }
    }

    fn encode_copy(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0; SEGMENT_HEADER_LEN];
        put(&mut out, 0, &SEGMENT_MAGIC);
        put(&mut out, 8, &SEGMENT_VERSION.to_le_bytes());
        put(&mut out, 12, &[self.origin as u8, self.writes_max]);
        put(&mut out, 16, &self.cluster_id.to_le_bytes());
        put(&mut out, 24, &self.sid.0.to_le_bytes());
        put(&mut out, 32, &self.seq.to_le_bytes());
        put(&mut out, 40, &self.previous.to_le_bytes());
        put(&mut out, 48, &self.continues_after.as_u64().to_le_bytes());
        put(&mut out, 56, &self.log_floor.to_le_bytes());
        put(&mut out, 64, &self.len.to_le_bytes());
        put(&mut out, 72, &self.generation.to_le_bytes());
        let crc = crc32c::crc32c(&out[..SEGMENT_HEADER_LEN - 4]);
        put(&mut out, SEGMENT_HEADER_LEN - 4, &crc.to_le_bytes());
        out
    }

    fn decode_copy(bytes: &[u8]) -> Result<Self, Reason> {
        let bytes = bytes.get(..SEGMENT_HEADER_LEN).ok_or(Reason::ShortFile)?;
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(Reason::Blank);
        }
        let crc = crc32c::crc32c(&bytes[..SEGMENT_HEADER_LEN - 4]);
        if crc != u32_at(bytes, SEGMENT_HEADER_LEN - 4) {
            return Err(Reason::Checksum);
        }
        let version = u32_at(bytes, 8);
        if version != SEGMENT_VERSION {
            return Err(Reason::Version { got: version });
        }
        let origin = Origin::ALL.get(usize::from(bytes[12])).ok_or(Reason::Value)?;
        Ok(Self {
            cluster_id: u64_at(bytes, 16),
            sid: ServerId(u64_at(bytes, 24)),
            seq: u64_at(bytes, 32),
            previous: u64_at(bytes, 40),
            generation: u32_at(bytes, 72),
            origin: *origin,
            writes_max: bytes[13],
            continues_after: Zxid::from_u64(u64_at(bytes, 48)),
            log_floor: u64_at(bytes, 56),
            len: u64_at(bytes, 64),
        })
    }
}

/// What stands before the records of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// The segment's number.
    pub seq: u64,
    /// The segment's generation.
    pub generation: u32,
    /// Where the block stands, in units of [`BLOCK_SIZE`]: a misdirected write is noticed.
    pub position: u32,
    /// The length of the records in bytes, without the padding.
    pub payload_len: u32,
    /// The last zxid before this block.
    pub after: Zxid,
    /// What was durable when the block was written (R7).
    pub durable: Zxid,
    /// What was known to be committed when the block was written.
    pub committed: Zxid,
    /// The checksum of the block header before this one, or of the segment header.
    pub chain: u32,
}

impl BlockHeader {
    /// The bytes, and their checksum, which the next block carries as its chain.
    pub(crate) fn encode(&self) -> ([u8; BLOCK_HEADER_LEN], u32) {
        let mut out = [0; BLOCK_HEADER_LEN];
        put(&mut out, 0, &BLOCK_MAGIC);
        put(&mut out, 4, &(SEGMENT_VERSION as u16).to_le_bytes());
        put(&mut out, 8, &self.seq.to_le_bytes());
        put(&mut out, 16, &self.after.as_u64().to_le_bytes());
        put(&mut out, 24, &self.durable.as_u64().to_le_bytes());
        put(&mut out, 32, &self.committed.as_u64().to_le_bytes());
        put(&mut out, 40, &self.generation.to_le_bytes());
        put(&mut out, 44, &self.position.to_le_bytes());
        put(&mut out, 48, &self.payload_len.to_le_bytes());
        put(&mut out, 52, &self.chain.to_le_bytes());
        let crc = crc32c::crc32c(&out[..BLOCK_HEADER_LEN - 4]);
        put(&mut out, BLOCK_HEADER_LEN - 4, &crc.to_le_bytes());
        (out, crc)
    }

    /// Reads a block header, and its checksum.
    ///
    /// # Errors
    /// [`Reason::Blank`], [`Reason::Checksum`], [`Reason::Version`] or [`Reason::ShortFile`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, u32), Reason> {
        let bytes = bytes.get(..BLOCK_HEADER_LEN).ok_or(Reason::ShortFile)?;
        if bytes[..4] != BLOCK_MAGIC {
            return Err(Reason::Blank);
        }
        let crc = crc32c::crc32c(&bytes[..BLOCK_HEADER_LEN - 4]);
        if crc != u32_at(bytes, BLOCK_HEADER_LEN - 4) {
            return Err(Reason::Checksum);
        }
        let version = u32::from(u16_at(bytes, 4));
        if version != SEGMENT_VERSION {
            return Err(Reason::Version { got: version });
        }
        let header = Self {
            seq: u64_at(bytes, 8),
            generation: u32_at(bytes, 40),
            position: u32_at(bytes, 44),
            payload_len: u32_at(bytes, 48),
            after: Zxid::from_u64(u64_at(bytes, 16)),
            durable: Zxid::from_u64(u64_at(bytes, 24)),
            committed: Zxid::from_u64(u64_at(bytes, 32)),
            chain: u32_at(bytes, 52),
        };
        Ok((header, crc))
    }

    /// The length of header, records and padding in bytes.
    pub fn block_len(&self) -> u64 {
        block_len(self.payload_len.into())
    }

    /// Whether this is a block of the segment that `header` starts, at its own place.
    pub(crate) fn belongs(&self, header: &SegmentHeader, offset: u64) -> bool {
        self.seq == header.seq
            && self.generation == header.generation
            && u64::from(self.position) * BLOCK_SIZE as u64 == offset
    }
}

/// The length of a block with `payload_len` bytes of records.
pub(crate) const fn block_len(payload_len: u64) -> u64 {
    (BLOCK_HEADER_LEN as u64 + payload_len).next_multiple_of(BLOCK_SIZE as u64)
}

/// What the next bytes of a segment are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A block begins.
    Block {
        /// Where.
        offset: u64,
        /// Its header.
        header: BlockHeader,
    },
    /// A whole record, checked.
    Record {
        /// Where its header begins.
        offset: u64,
        /// The transaction.
        zxid: Zxid,
        /// The frame, sharing the bytes it was read from.
        frame: Frame,
    },
    /// These bytes have to be read first.
    More {
        /// From where; a multiple of [`BLOCK_SIZE`].
        offset: u64,
        /// How many at least; a multiple of [`BLOCK_SIZE`].
        len: usize,
    },
    /// No further record can be read. Whether that is the end or damage depends on what follows.
    End {
        /// Where.
        offset: u64,
        /// What is there instead.
        reason: Reason,
        /// Where a block that matters could stand next: at `offset` if that may hold the header of
        /// a block out of place, else behind the block that is bad.
        behind: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct OpenBlock {
    /// Where the records end.
    end: u64,
}

/// Reads the records of one segment in order, checking everything there is to check: checksums,
/// chain, places, and that each record follows the one before it.
#[derive(Clone, Debug)]
pub struct SegmentReader {
    header: SegmentHeader,
    body_len_max: u32,
    offset: u64,
    block: Option<OpenBlock>,
    chain: Option<u32>,
    last: Option<Zxid>,
}

impl SegmentReader {
    /// A reader at the first block. `chain` is the checksum of the last block header of the segment
    /// before, if it is known and the segment was rolled to.
    pub fn new(header: SegmentHeader, chain: Option<u32>, body_len_max: u32) -> Self {
        Self {
            header,
            body_len_max,
            offset: BLOCK_SIZE as u64,
            block: None,
            chain: header.chain_start().or(chain),
            last: header.starts_after(),
        }
    }

    /// A reader at a block further in, which is taken as it comes.
    pub(crate) fn at(header: SegmentHeader, offset: u64, body_len_max: u32) -> Self {
        Self { header, body_len_max, offset, block: None, chain: None, last: None }
    }

    /// The end of what was read, at which a writer could go on once [`Parsed::End`] came.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The checksum of the last block header read.
    pub fn chain(&self) -> Option<u32> {
        self.chain
    }

    /// Reads on in `window`, which are the segment's bytes from `at` on.
    pub fn next(&mut self, window: &Frame, at: u64) -> Parsed {
        if let Some(block) = self.block {
            if self.offset < block.end {
                return self.next_record(block, window, at);
            }
            self.block = None;
            self.offset = self.offset.next_multiple_of(BLOCK_SIZE as u64);
        }
        self.next_block(window, at)
    }

    /// What to say when a read came back shorter than the segment's length allows.
    pub(crate) fn short(&self) -> Parsed {
        self.end(Reason::ShortFile)
    }

    fn next_block(&mut self, window: &Frame, at: u64) -> Parsed {
        let offset = self.offset;
        if offset + BLOCK_SIZE as u64 > self.header.len {
            return self.end(Reason::Full);
        }
        let Some(bytes) = part(window, at, offset, BLOCK_HEADER_LEN) else {
            return Parsed::More { offset, len: BLOCK_SIZE };
        };
        let (header, crc) = match BlockHeader::decode(bytes) {
            Ok(decoded) => decoded,
            Err(reason) => return self.end(reason),
        };
        if let Err(reason) = self.check_block(&header, offset) {
            return self.end(reason);
        }
        self.chain = Some(crc);
        self.last = Some(header.after);
        self.offset = offset + BLOCK_HEADER_LEN as u64;
        self.block = Some(OpenBlock { end: self.offset + u64::from(header.payload_len) });
        Parsed::Block { offset, header }
    }

    fn check_block(&self, header: &BlockHeader, offset: u64) -> Result<(), Reason> {
        if header.seq != self.header.seq || header.generation != self.header.generation {
            return Err(Reason::Stale);
        }
        if !header.belongs(&self.header, offset) {
            return Err(Reason::Misplaced);
        }
        if self.chain.is_some_and(|chain| chain != header.chain) {
            return Err(Reason::Chain);
        }
        if offset + header.block_len() > self.header.len {
            let max = self.header.len - offset;
            return Err(Reason::Length { got: header.payload_len.into(), max });
        }
        match self.last {
            Some(last) if last != header.after => {
                Err(Reason::Gap { after: last, got: header.after })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn next_record(&mut self, block: OpenBlock, window: &Frame, at: u64) -> Parsed {
        let offset = self.offset;
        let Some(bytes) = part(window, at, offset, RECORD_HEADER_LEN) else {
            return more(offset, RECORD_HEADER_LEN);
        };
        let header = match RecordHeader::parse(bytes, self.body_len_max) {
            Ok(header) => header,
            Err(reason) => return self.end(reason),
        };
        let len = header.frame_len();
        if offset + len as u64 > block.end {
            let max = block.end - offset;
            return self.end(Reason::Length { got: header.body_len.into(), max });
        }
        let Some(bytes) = part(window, at, offset, len) else {
            return more(offset, len);
        };
        if let Err(reason) = header.verify(bytes) {
            return self.end(reason);
        }
        let last = self.last.expect("a block was opened, and it names the zxid before it");
        if !header.zxid.follows(last) {
            return self.end(Reason::Gap { after: last, got: header.zxid });
        }
        self.last = Some(header.zxid);
        self.offset = offset + len as u64;
        let start = (offset - at) as usize;
        Parsed::Record { offset, zxid: header.zxid, frame: window.slice(start..start + len) }
    }

    fn end(&self, reason: Reason) -> Parsed {
        let after = self.block.map_or(self.offset, |block| block.end);
        Parsed::End {
            offset: self.offset,
            reason,
            behind: after.next_multiple_of(BLOCK_SIZE as u64),
        }
    }
}

fn more(offset: u64, len: usize) -> Parsed {
    let block = BLOCK_SIZE as u64;
    let start = offset - offset % block;
    let end = (offset + len as u64).next_multiple_of(block);
    Parsed::More { offset: start, len: (end - start) as usize }
}

/// The `len` bytes at `offset` of a window that begins at `at`.
pub(crate) fn part(window: &Frame, at: u64, offset: u64, len: usize) -> Option<&[u8]> {
    let start = usize::try_from(offset.checked_sub(at)?).ok()?;
    window.get(start..start.checked_add(len)?)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use quorate_proto::Epoch;
    use quorate_wire::native::proposal::ProposalEncoder;

    use super::*;

    pub(crate) fn header(origin: Origin) -> SegmentHeader {
        SegmentHeader {
            cluster_id: 7,
            sid: ServerId(2),
            seq: 5,
            previous: 4,
            generation: 9,
            origin,
            writes_max: 1,
            continues_after: Zxid::new(Epoch::new(1), 3),
            log_floor: 0,
            len: 64 * 1024,
        }
    }

    fn z(counter: u32) -> Zxid {
        Zxid::new(Epoch::new(1), counter)
    }

    /// A segment with one block for each run of counters.
    fn segment(header: &SegmentHeader, runs: &[&[u32]]) -> Vec<u8> {
        let mut bytes = header.encode().to_vec();
        bytes.resize(BLOCK_SIZE, 0);
        let mut chain = header.chain_start().unwrap_or(0);
        let mut encoder = ProposalEncoder::new();
        for run in runs {
            let mut payload = Vec::new();
            for counter in *run {
                let body = encoder.begin(z(*counter), Zxid::ZERO);
                body.extend_from_slice(&[*counter as u8; 3000]);
                payload.extend_from_slice(&encoder.finish());
            }
            let block = BlockHeader {
                seq: header.seq,
                generation: header.generation,
                position: (bytes.len() / BLOCK_SIZE) as u32,
                payload_len: payload.len() as u32,
                after: z(run[0] - 1),
                durable: z(run[0] - 1),
                committed: Zxid::ZERO,
                chain,
            };
            let (head, crc) = block.encode();
            chain = crc;
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(&payload);
            bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
        }
        bytes.resize(header.len as usize, 0);
        bytes
    }

    /// Reads with windows of exactly what is asked for.
    fn read(header: SegmentHeader, bytes: &[u8]) -> (Vec<Zxid>, u64, Reason) {
        let mut reader = SegmentReader::new(header, None, 1 << 20);
        let (mut window, mut at, mut zxids) = (Frame::default(), 0, Vec::new());
        loop {
            match reader.next(&window, at) {
                Parsed::Block { .. } => {}
                Parsed::Record { zxid, .. } => zxids.push(zxid),
                Parsed::More { offset, len } => {
                    at = offset;
                    window = Frame::copy_from(&bytes[at as usize..][..len]);
                }
                Parsed::End { offset, reason, .. } => return (zxids, offset, reason),
            }
        }
    }

    #[test]
    fn a_segment_header_survives_the_loss_of_either_copy() {
        let header = header(Origin::Truncation);
        let whole = header.encode();
        assert_eq!(SegmentHeader::decode(&whole), Ok(header));
        for lost in [0..512, SECOND_COPY_AT..whole.len()] {
            let mut bytes = whole.to_vec();
            bytes[lost].fill(0);
            assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        }
        assert_eq!(SegmentHeader::decode(&[0; 4096]), Err(Reason::Blank));
    }

    #[test]
    fn records_come_back_in_order_until_the_blank_rest() {
        let header = header(Origin::Recovery);
        let bytes = segment(&header, &[&[4], &[5, 6, 7], &[8]]);
        let (zxids, offset, reason) = read(header, &bytes);
        assert_eq!(zxids, [4, 5, 6, 7, 8].map(z));
        assert_eq!((offset, reason), (6 * 4096, Reason::Blank));
    }

    #[test]
    fn no_flipped_bit_in_a_block_changes_what_is_read_before_it() {
        let header = header(Origin::Recovery);
        let bytes = segment(&header, &[&[4], &[5, 6]]);
        for at in (4096..4096 + 64 + 3032).chain(8192..8192 + 64 + 6064).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            let (zxids, _, _) = read(header, &bad);
            assert!(zxids.len() < 3, "flip at {at} was not noticed");
            assert_eq!(zxids, [4, 5].map(z)[..zxids.len()]);
        }
    }

    #[test]
    fn a_block_of_another_use_of_the_file_is_stale() {
        let old = header(Origin::Recovery);
        let bytes = segment(&old, &[&[4]]);
        let new = SegmentHeader { seq: 6, generation: 10, ..old };
        assert_eq!(read(new, &bytes).2, Reason::Stale);
    }

    #[test]
    fn a_block_that_skips_its_predecessor_breaks_the_chain() {
        let header = header(Origin::Recovery);
        let mut bytes = segment(&header, &[&[4], &[5]]);
        let other = segment(&header, &[&[4, 5], &[6]]);
        bytes[8192..12288].copy_from_slice(&other[12288..16384]);
        assert_eq!(read(header, &bytes).2, Reason::Misplaced);
        let other = segment(&SegmentHeader { previous: 3, ..header }, &[&[4], &[5]]);
        let mut bytes = segment(&header, &[&[4], &[5]]);
        bytes[8192..12288].copy_from_slice(&other[8192..12288]);
        assert_eq!(read(header, &bytes).2, Reason::Chain);
    }
}
