//! The format of a snapshot file, and the reader that checks it.
//!
//! A header block, chunks of the caller's bytes each in whole blocks, and a footer block that says
//! how much there must have been. What the chunks contain is not looked into.

use quorate_proto::{ServerId, Zxid};
use quorate_wire::Frame;

use crate::bytes_at::{put, u32_at, u64_at};
use crate::disk::BLOCK_SIZE;
use crate::error::Reason;
use crate::segment::part;

/// The format that this code writes, and the only one that it reads.
pub const SNAPSHOT_VERSION: u32 = 1;
/// The length of a chunk's header in bytes.
pub const CHUNK_HEADER_LEN: usize = 16;

const MAGIC: [u8; 8] = *b"QrSnapsh";
const FOOTER_MAGIC: [u8; 4] = *b"QrSe";
const CHUNK_MAGIC: [u8; 4] = *b"QrSc";
const HEADER_LEN: usize = 64;
const FOOTER_LEN: usize = 40;

/// Where a snapshot comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// Cut from this server's own tree; the log goes on beside it.
    Own,
    /// Received from the leader; the log starts again behind it.
    Installed,
}

/// The first block of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The transaction at which it was cut.
    pub zxid: Zxid,
    /// The server.
    pub sid: ServerId,
    /// The ensemble.
    pub cluster_id: u64,
    /// Where it comes from.
    pub kind: SnapshotKind,
    /// The history that it belongs to; log segments of another one are void.
    pub log_floor: u64,
}

impl SnapshotHeader {
    pub(crate) fn encode(&self) -> Frame {
        let mut out = [0; HEADER_LEN];
        put(&mut out, 0, &MAGIC);
        put(&mut out, 8, &SNAPSHOT_VERSION.to_le_bytes());
        put(&mut out, 12, &(self.kind as u32).to_le_bytes());
        put(&mut out, 16, &self.zxid.as_u64().to_le_bytes());
        put(&mut out, 24, &self.sid.0.to_le_bytes());
        put(&mut out, 32, &self.cluster_id.to_le_bytes());
        put(&mut out, 40, &self.log_floor.to_le_bytes());
        let crc = crc32c::crc32c(&out[..HEADER_LEN - 4]);
        put(&mut out, HEADER_LEN - 4, &crc.to_le_bytes());
        Frame::copy_from(&out)
    }

    /// Reads the header block.
    ///
    /// # Errors
    /// A [`Reason`] if there is none, or one of an unknown version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Reason> {
        let bytes = bytes.get(..HEADER_LEN).ok_or(Reason::ShortFile)?;
        if bytes[..8] != MAGIC {
            return Err(Reason::Blank);
        }
        if crc32c::crc32c(&bytes[..HEADER_LEN - 4]) != u32_at(bytes, HEADER_LEN - 4) {
            return Err(Reason::Checksum);
        }
        if u32_at(bytes, 8) != SNAPSHOT_VERSION {
            return Err(Reason::Version { got: u32_at(bytes, 8) });
        }
        let kind = match u32_at(bytes, 12) {
            0 => SnapshotKind::Own,
            1 => SnapshotKind::Installed,
            _ => return Err(Reason::Value),
        };
        Ok(Self {
            zxid: Zxid::from_u64(u64_at(bytes, 16)),
            sid: ServerId(u64_at(bytes, 24)),
            cluster_id: u64_at(bytes, 32),
            kind,
            log_floor: u64_at(bytes, 40),
        })
    }
}

/// What the chunks of a snapshot add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotTotals {
    /// How many chunks.
    pub chunks: u32,
    /// How many bytes of payload.
    pub bytes: u64,
    /// CRC-32C over the checksums of the chunks.
    pub crc: u32,
}

impl SnapshotTotals {
    /// The header of the next chunk.
    pub(crate) fn encode_chunk(&mut self, payload: &[u8]) -> Frame {
        let mut out = [0; CHUNK_HEADER_LEN];
        put(&mut out, 0, &CHUNK_MAGIC);
        put(&mut out, 4, &self.chunks.to_le_bytes());
        let len = u32::try_from(payload.len()).expect("a chunk's length was checked");
        put(&mut out, 8, &len.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..12]), payload);
        put(&mut out, 12, &crc.to_le_bytes());
        self.add(payload.len(), crc);
        Frame::copy_from(&out)
    }

    pub(crate) fn encode_footer(&self, zxid: Zxid) -> Frame {
        let mut out = [0; FOOTER_LEN];
        put(&mut out, 0, &FOOTER_MAGIC);
        put(&mut out, 4, &self.chunks.to_le_bytes());
        put(&mut out, 8, &zxid.as_u64().to_le_bytes());
        put(&mut out, 16, &self.bytes.to_le_bytes());
        put(&mut out, 24, &self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..FOOTER_LEN - 4]);
        put(&mut out, FOOTER_LEN - 4, &crc.to_le_bytes());
        Frame::copy_from(&out)
    }

    fn add(&mut self, len: usize, crc: u32) {
        self.chunks += 1;
        self.bytes += len as u64;
        self.crc = crc32c::crc32c_append(self.crc, &crc.to_le_bytes());
    }
}

/// What the next bytes of a snapshot are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotPart {
    /// The header.
    Header(SnapshotHeader),
    /// A whole chunk, checked.
    Chunk(Frame),
    /// The footer, which fits all that came before: the snapshot is whole.
    End(SnapshotTotals),
    /// These bytes have to be read first.
    More {
        /// From where; a multiple of [`BLOCK_SIZE`].
        offset: u64,
        /// How many at least; a multiple of [`BLOCK_SIZE`].
        len: usize,
    },
    /// The snapshot is not usable.
    Fault {
        /// Where.
        offset: u64,
        /// Why.
        reason: Reason,
    },
}

/// Reads a snapshot from its beginning and checks everything there is to check.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    chunk_len_max: usize,
    offset: u64,
    header: Option<SnapshotHeader>,
    totals: SnapshotTotals,
}

impl SnapshotReader {
    /// A reader that refuses chunks above `chunk_len_max` bytes.
    pub const fn new(chunk_len_max: usize) -> Self {
        let totals = SnapshotTotals { chunks: 0, bytes: 0, crc: 0 };
        Self { chunk_len_max, offset: 0, header: None, totals }
    }

    /// Where it stands in the file.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads on in `window`, which are the file's bytes from `at` on.
    pub fn next(&mut self, window: &Frame, at: u64) -> SnapshotPart {
        match self.step(window, at) {
            Ok(part) => part,
            Err(reason) => SnapshotPart::Fault { offset: self.offset, reason },
        }
    }

    fn step(&mut self, window: &Frame, at: u64) -> Result<SnapshotPart, Reason> {
        let Some(bytes) = part(window, at, self.offset, HEADER_LEN) else {
            return Ok(self.more(BLOCK_SIZE));
        };
        let Some(header) = self.header else {
            let header = SnapshotHeader::decode(bytes)?;
            self.header = Some(header);
            self.offset += BLOCK_SIZE as u64;
            return Ok(SnapshotPart::Header(header));
        };
        if bytes[..4] == FOOTER_MAGIC {
            return self.footer(header, bytes).map(SnapshotPart::End);
        }
        if bytes[..4] != CHUNK_MAGIC {
            return Err(Reason::Blank);
        }
        if u32_at(bytes, 4) != self.totals.chunks {
            return Err(Reason::Misplaced);
        }
        let len = u32_at(bytes, 8) as usize;
        if len > self.chunk_len_max {
            return Err(Reason::Length { got: len as u64, max: self.chunk_len_max as u64 });
        }
        let whole = CHUNK_HEADER_LEN + len;
        let Some(bytes) = part(window, at, self.offset, whole) else {
            return Ok(self.more(whole.next_multiple_of(BLOCK_SIZE)));
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[CHUNK_HEADER_LEN..]);
        if crc != u32_at(bytes, 12) {
            return Err(Reason::Checksum);
        }
        let start = (self.offset - at) as usize;
        let payload = window.slice(start + CHUNK_HEADER_LEN..start + whole);
        self.totals.add(len, crc);
        self.offset += whole.next_multiple_of(BLOCK_SIZE) as u64;
        Ok(SnapshotPart::Chunk(payload))
    }

    fn footer(&self, header: SnapshotHeader, bytes: &[u8]) -> Result<SnapshotTotals, Reason> {
        if crc32c::crc32c(&bytes[..FOOTER_LEN - 4]) != u32_at(bytes, FOOTER_LEN - 4) {
            return Err(Reason::Checksum);
        }
        let said = SnapshotTotals {
            chunks: u32_at(bytes, 4),
            bytes: u64_at(bytes, 16),
            crc: u32_at(bytes, 24),
        };
        if said != self.totals || u64_at(bytes, 8) != header.zxid.as_u64() {
            return Err(Reason::Misplaced);
        }
        Ok(said)
    }

    fn more(&self, len: usize) -> SnapshotPart {
        SnapshotPart::More { offset: self.offset, len }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use quorate_proto::Epoch;

    use super::*;

    fn header() -> SnapshotHeader {
        SnapshotHeader {
            zxid: Zxid::new(Epoch::new(2), 5),
            sid: ServerId(1),
            cluster_id: 4,
            kind: SnapshotKind::Own,
            log_floor: 0,
        }
    }

    fn file(chunks: &[&[u8]]) -> Vec<u8> {
        let mut totals = SnapshotTotals::default();
        let mut bytes = header().encode().to_vec();
        bytes.resize(BLOCK_SIZE, 0);
        for chunk in chunks {
            bytes.extend_from_slice(&totals.encode_chunk(chunk));
            bytes.extend_from_slice(chunk);
            bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
        }
        bytes.extend_from_slice(&totals.encode_footer(header().zxid));
        bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, (u64, Reason)> {
        let mut reader = SnapshotReader::new(1 << 16);
        let (mut window, mut at, mut chunks) = (Frame::default(), 0, Vec::new());
        loop {
            match reader.next(&window, at) {
                SnapshotPart::Header(found) => assert_eq!(found, header()),
                SnapshotPart::Chunk(chunk) => chunks.push(chunk.to_vec()),
                SnapshotPart::End(_) => return Ok(chunks),
                SnapshotPart::More { offset, len } => {
                    let Some(read) = bytes.get(offset as usize..offset as usize + len) else {
                        return Err((offset, Reason::ShortFile));
                    };
                    (window, at) = (Frame::copy_from(read), offset);
                }
                SnapshotPart::Fault { offset, reason } => return Err((offset, reason)),
            }
        }
    }

    #[test]
    fn chunks_keep_their_boundaries() {
        let long = [7; 10_000];
        let bytes = file(&[b"one", &long, b""]);
        assert_eq!(read(&bytes).unwrap(), [b"one".to_vec(), long.to_vec(), Vec::new()]);
    }

    #[test]
    fn a_snapshot_without_its_end_or_with_a_chunk_missing_is_not_whole() {
        let bytes = file(&[b"one", b"two", b"three"]);
        for blocks in 1..bytes.len() / BLOCK_SIZE {
            assert!(read(&bytes[..blocks * BLOCK_SIZE]).is_err(), "{blocks} blocks");
        }
        let mut missing = bytes[..BLOCK_SIZE].to_vec();
        missing.extend_from_slice(&bytes[2 * BLOCK_SIZE..]);
        assert_eq!(read(&missing), Err((4096, Reason::Misplaced)));
        let mut missing = bytes[..2 * BLOCK_SIZE].to_vec();
        missing.extend_from_slice(&bytes[4 * BLOCK_SIZE..]);
        assert_eq!(read(&missing), Err((8192, Reason::Misplaced)));
    }

    #[test]
    fn every_flipped_bit_that_carries_meaning_is_noticed() {
        let bytes = file(&[b"one"]);
        for at in (0..HEADER_LEN).chain(4096..4096 + 19).chain(8192..8192 + FOOTER_LEN) {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(read(&bad).is_err(), "flip at {at}");
        }
    }
}
