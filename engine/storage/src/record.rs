//! Log records: native PROPOSAL frames, recognised by their 32-byte header.
//!
//! A record is byte for byte what travels between servers; this module does not look into the body.

use quorate_proto::Zxid;

use crate::bytes_at::{u32_at, u64_at};
use crate::error::Reason;

/// The length of a record's header in bytes.
pub const RECORD_HEADER_LEN: usize = 32;

const MAGIC: [u8; 2] = *b"Qr";
const VERSION: u8 = 1;
const CHECKSUM_AT: usize = 24;

/// What a record's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The frame's kind; the log stores what it is given and does not judge it.
    pub kind: u8,
    /// The body's length in bytes.
    pub body_len: u32,
    /// The transaction.
    pub zxid: Zxid,
    /// How far the leader had committed when it encoded the frame.
    pub committed: Zxid,
    /// CRC-32C of the header with this field zero, then of the body.
    pub checksum: u32,
}

impl RecordHeader {
    /// Reads a header; `bytes` may go on behind it.
    ///
    /// # Errors
    /// A [`Reason`] if there is no header, or its body is longer than `body_len_max`.
    pub fn parse(bytes: &[u8], body_len_max: u32) -> Result<Self, Reason> {
        if bytes.len() < RECORD_HEADER_LEN {
            return Err(Reason::ShortFile);
        }
        if bytes[..2] != MAGIC {
            return Err(Reason::Blank);
        }
        if bytes[2] != VERSION {
            return Err(Reason::Version { got: bytes[2].into() });
        }
        if u32_at(bytes, 28) != 0 {
            return Err(Reason::Value);
        }
        let body_len = u32_at(bytes, 4);
        if body_len > body_len_max {
            return Err(Reason::Length { got: body_len.into(), max: body_len_max.into() });
        }
        Ok(Self {
            kind: bytes[3],
            body_len,
            zxid: Zxid::from_u64(u64_at(bytes, 8)),
            committed: Zxid::from_u64(u64_at(bytes, 16)),
            checksum: u32_at(bytes, CHECKSUM_AT),
        })
    }

    /// Header and body in bytes.
    pub const fn frame_len(&self) -> usize {
        RECORD_HEADER_LEN + self.body_len as usize
    }

    /// Checks the whole frame against its checksum.
    ///
    /// # Errors
    /// [`Reason::Checksum`] or [`Reason::ShortFile`].
    pub fn verify(&self, frame: &[u8]) -> Result<(), Reason> {
        let frame = frame.get(..self.frame_len()).ok_or(Reason::ShortFile)?;
        if checksum(frame) == self.checksum { Ok(()) } else { Err(Reason::Checksum) }
    }
}

/// The committed watermark that rides in a frame's header. The frame was made by this process or
/// checked on its way in, so that nothing is verified again.
pub(crate) fn committed_of(frame: &[u8]) -> Zxid {
    frame.get(16..24).map_or(Zxid::ZERO, |bytes| Zxid::from_u64(u64_at(bytes, 0)))
}

fn checksum(frame: &[u8]) -> u32 {
    let head = crc32c::crc32c(&frame[..CHECKSUM_AT]);
    let zeroed = crc32c::crc32c_append(head, &[0; 4]);
    crc32c::crc32c_append(zeroed, &frame[CHECKSUM_AT + 4..])
}

/// A record with `body`, as the wire crate's encoder makes it. For tests and tools.
pub fn encode_record(
    kind: u8,
    zxid: Zxid,
    committed: Zxid,
    body: &[u8],
    out: &mut alloc::vec::Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind]);
    let body_len = u32::try_from(body.len()).expect("a body is far below 4 GiB");
    out.extend_from_slice(&body_len.to_le_bytes());
    out.extend_from_slice(&zxid.as_u64().to_le_bytes());
    out.extend_from_slice(&committed.as_u64().to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(body);
    let sum = checksum(&out[start..]);
    crate::bytes_at::put(&mut out[start..], CHECKSUM_AT, &sum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use quorate_proto::Epoch;

    use super::*;

    #[test]
    fn a_record_reads_back_and_any_flipped_bit_is_noticed() {
        let zxid = Zxid::new(Epoch::new(3), 9);
        let mut frame = Vec::new();
        encode_record(7, zxid, Zxid::new(Epoch::new(3), 4), b"hello", &mut frame);
        let header = RecordHeader::parse(&frame, 100).unwrap();
        assert_eq!((header.kind, header.body_len, header.zxid), (7, 5, zxid));
        assert_eq!(header.verify(&frame), Ok(()));
        assert_eq!(committed_of(&frame), Zxid::new(Epoch::new(3), 4));
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let seen = RecordHeader::parse(&bad, 100).and_then(|h| h.verify(&bad));
            assert!(seen.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_anything_is_read() {
        let mut frame = Vec::new();
        encode_record(1, Zxid::ZERO, Zxid::ZERO, &[0; 64], &mut frame);
        let max = Reason::Length { got: 64, max: 63 };
        assert_eq!(RecordHeader::parse(&frame, 63), Err(max));
    }
}
