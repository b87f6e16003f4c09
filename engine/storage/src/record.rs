//! Log records: native PROPOSAL frames, recognised by their 32-byte header.
//!
//! A record is byte for byte what travels between servers; this module does not look into the body.

use quorate_proto::Zxid;
use quorate_wire::native::header::{HEADER_LEN, Header, MAGIC, VERSION, checksum};

use crate::error::Reason;

/// The length of a record's header in bytes.
pub const RECORD_HEADER_LEN: usize = HEADER_LEN;

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
        let header = Header::read(bytes).ok_or(Reason::ShortFile)?;
        if header.magic != MAGIC {
            return Err(Reason::Blank);
        }
        if header.version != VERSION {
            return Err(Reason::Version { got: header.version.into() });
        }
        if header.reserved.to_native() != 0 {
            return Err(Reason::Value);
        }
        let body_len = header.body_len.to_native();
        if body_len > body_len_max {
            return Err(Reason::Length { got: body_len.into(), max: body_len_max.into() });
        }
        Ok(Self {
            kind: header.kind,
            body_len,
            zxid: Zxid::from_u64(header.zxid.to_native()),
            committed: Zxid::from_u64(header.committed.to_native()),
            checksum: header.checksum.to_native(),
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

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use quorate_proto::Epoch;
    use quorate_wire::native::proposal::ProposalEncoder;

    use super::*;
    use crate::bytes_at::put;

    fn encode(zxid: Zxid, committed: Zxid, body: &[u8]) -> Vec<u8> {
        let mut encoder = ProposalEncoder::new();
        encoder.begin(zxid, committed).extend_from_slice(body);
        encoder.finish().to_vec()
    }

    #[test]
    fn a_record_reads_back_and_any_flipped_bit_is_noticed() {
        let zxid = Zxid::new(Epoch::new(3), 9);
        let mut frame = encode(zxid, Zxid::new(Epoch::new(3), 4), b"hello");
        // The log does not judge the kind.
        frame[3] = 7;
        let sum = checksum(&frame);
        put(&mut frame, 24, &sum.to_le_bytes());
        let header = RecordHeader::parse(&frame, 100).unwrap();
        assert_eq!((header.kind, header.body_len, header.zxid), (7, 5, zxid));
        assert_eq!(header.verify(&frame), Ok(()));
        assert_eq!(header.committed, Zxid::new(Epoch::new(3), 4));
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let seen = RecordHeader::parse(&bad, 100).and_then(|h| h.verify(&bad));
            assert!(seen.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_anything_is_read() {
        let frame = encode(Zxid::ZERO, Zxid::ZERO, &[0; 64]);
        let max = Reason::Length { got: 64, max: 63 };
        assert_eq!(RecordHeader::parse(&frame, 63), Err(max));
    }
}
