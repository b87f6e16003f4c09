//! Proposals: one frame that is encoded once and then is the log's record and every learner's packet.
//!
//! Does not look into the transaction.

use alloc::collections::VecDeque;

use bytes::BytesMut;
use quorate_proto::Zxid;

use super::header::{HEADER_LEN, Header, Kind, seal, verify};
use crate::{DecodeError, Frame};

/// Bytes of a block of proposals unless [`ProposalEncoder::with_blocks`] says otherwise.
pub const BLOCK_LEN: usize = 256 * 1024;
/// Full blocks that are kept for reuse unless [`ProposalEncoder::with_blocks`] says otherwise.
pub const BLOCKS_MAX: usize = 128;

/// Encodes proposals into blocks that are shared with the frames handed out, and used again when the
/// last frame of a block is gone: when warm, a proposal allocates nothing.
#[derive(Debug)]
pub struct ProposalEncoder {
    block: BytesMut,
    block_len: usize,
    blocks_max: usize,
    /// Full blocks, oldest first; frames still share them.
    full: VecDeque<BytesMut>,
    /// Room in `block` when the present proposal was begun.
    room: usize,
    /// The longest body since the block was begun, and in the block before it.
    body_seen: [usize; 2],
    /// Whether a body outgrew the block, so that it now lies in memory of another size.
    outgrown: bool,
    zxid: Zxid,
    committed: Zxid,
}

impl Default for ProposalEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ProposalEncoder {
    /// An encoder with [`BLOCK_LEN`] and [`BLOCKS_MAX`]. The first proposal allocates the first block.
    pub fn new() -> Self {
        Self::with_blocks(BLOCK_LEN, BLOCKS_MAX)
    }

    /// An encoder with blocks of `block_len` bytes, of which up to `blocks_max` full ones wait to be
    /// used again; more than that are freed with their last frame.
    pub fn with_blocks(block_len: usize, blocks_max: usize) -> Self {
        Self {
            block: BytesMut::new(),
            block_len,
            blocks_max,
            full: VecDeque::with_capacity(blocks_max.min(BLOCKS_MAX) + 1),
            room: 0,
            body_seen: [0; 2],
            outgrown: true,
            zxid: Zxid::ZERO,
            committed: Zxid::ZERO,
        }
    }

    /// Begins a proposal: append the transaction behind what the buffer holds already, then call
    /// [`finish`](Self::finish). A proposal that was begun and not finished is forgotten.
    #[inline]
    pub fn begin(&mut self, zxid: Zxid, committed: Zxid) -> &mut BytesMut {
        self.block.clear();
        // Bodies are about as long as the recent ones; one that is not still fits, at the price of
        // an allocation.
        let wanted = HEADER_LEN + self.body_seen[0].max(self.body_seen[1]);
        if self.block.capacity() < wanted || self.outgrown {
            self.next_block(wanted);
        }
        (self.zxid, self.committed) = (zxid, committed);
        self.room = self.block.capacity();
        self.block.extend_from_slice(&[0; HEADER_LEN]);
        &mut self.block
    }

    /// The frame of the proposal that was begun last, with its checksum.
    ///
    /// # Panics
    /// If no proposal was begun, or its buffer was shortened to less than it held at first.
    #[inline]
    pub fn finish(&mut self) -> Frame {
        seal(Kind::Proposal, self.zxid, self.committed, &mut self.block);
        self.body_seen[0] = self.body_seen[0].max(self.block.len() - HEADER_LEN);
        self.outgrown = self.block.capacity() != self.room;
        Frame::new(self.block.split().freeze())
    }

    #[cold]
    fn next_block(&mut self, wanted: usize) {
        let len = wanted.max(self.block_len);
        self.body_seen = [0, self.body_seen[0]];
        let block = core::mem::take(&mut self.block);
        if !self.outgrown {
            self.full.push_back(block);
        }
        self.outgrown = false;
        // Frames are let go about in the order of their blocks.
        if let Some(mut oldest) = self.full.pop_front() {
            if oldest.try_reclaim(len) {
                self.block = oldest;
                return;
            }
            if self.full.len() < self.blocks_max {
                self.full.push_front(oldest);
            }
        }
        self.block = BytesMut::with_capacity(len);
    }
}

/// Whether a whole frame is a proposal.
#[inline]
pub fn is_proposal(frame: &[u8]) -> bool {
    header_of(frame).kind == Kind::Proposal as u8
}

/// The place of a proposal in the order.
///
/// # Panics
/// Like its neighbours, if `frame` is not a whole frame; it came from the encoder, from the decoder
/// or from [`verify_proposal`].
#[inline]
pub fn proposal_zxid(frame: &[u8]) -> Zxid {
    Zxid::from_u64(header_of(frame).zxid.to_native())
}

/// What the leader knew to be committed when it encoded the proposal.
///
/// # Panics
/// See [`proposal_zxid`].
#[inline]
pub fn proposal_committed(frame: &[u8]) -> Zxid {
    Zxid::from_u64(header_of(frame).committed.to_native())
}

/// The transaction.
///
/// # Panics
/// See [`proposal_zxid`].
#[inline]
pub fn proposal_body(frame: &[u8]) -> &[u8] {
    &frame[HEADER_LEN..]
}

/// Checks that bytes from the disk are exactly one proposal, checksum included.
///
/// # Errors
/// [`DecodeError::UnknownKind`] for another frame, otherwise as [`verify`].
pub fn verify_proposal(bytes: &[u8]) -> Result<Zxid, DecodeError> {
    let opened = verify(bytes)?;
    match opened.kind {
        Kind::Proposal => Ok(opened.zxid),
        other => Err(DecodeError::UnknownKind { got: other as i32 }),
    }
}

#[inline]
fn header_of(frame: &[u8]) -> &Header {
    Header::read(frame).expect("a whole frame has a header")
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use quorate_proto::Epoch;

    use super::*;
    use crate::native::header::seal_bare;

    fn zxid(counter: u32) -> Zxid {
        Zxid::new(Epoch::new(1), counter)
    }

    fn encode(encoder: &mut ProposalEncoder, counter: u32, body: &[u8]) -> Frame {
        encoder.begin(zxid(counter), zxid(counter - 1)).extend_from_slice(body);
        encoder.finish()
    }

    #[test]
    fn a_proposal_says_what_was_put_in() {
        let mut encoder = ProposalEncoder::new();
        let frame = encode(&mut encoder, 7, b"the transaction");
        assert!(is_proposal(&frame));
        assert_eq!(proposal_zxid(&frame), zxid(7));
        assert_eq!(proposal_committed(&frame), zxid(6));
        assert_eq!(proposal_body(&frame), b"the transaction");
        assert_eq!(verify_proposal(&frame), Ok(zxid(7)));
    }

    #[test]
    fn an_unfinished_proposal_leaves_no_trace() {
        let mut encoder = ProposalEncoder::new();
        encoder.begin(zxid(1), Zxid::ZERO).extend_from_slice(b"lost");
        let frame = encode(&mut encoder, 1, b"kept");
        assert_eq!(proposal_body(&frame), b"kept");
        assert_eq!(proposal_body(&encode(&mut encoder, 2, b"")), b"");
    }

    #[test]
    fn blocks_are_used_again_when_their_frames_are_gone() {
        let mut encoder = ProposalEncoder::with_blocks(1024, 4);
        let mut held = VecDeque::new();
        let mut blocks: Vec<usize> = Vec::new();
        for counter in 1..1000 {
            let frame = encode(&mut encoder, counter, &[counter as u8; 100]);
            let block = frame.as_ptr() as usize;
            if !blocks.iter().any(|start| (*start..*start + 1024).contains(&block)) {
                blocks.push(block);
            }
            held.push_back((counter, frame));
            if held.len() > 10 {
                let (counter, frame) = held.pop_front().unwrap();
                assert_eq!(proposal_body(&frame), [counter as u8; 100]);
                assert_eq!(verify_proposal(&frame), Ok(zxid(counter)));
            }
        }
        assert!(blocks.len() <= 5, "{} blocks for 10 frames in flight", blocks.len());
    }

    #[test]
    fn frames_in_use_are_never_written_over_whatever_their_sizes() {
        let mut rng = crate::testing::Rng::new(5);
        let mut encoder = ProposalEncoder::with_blocks(2048, 3);
        let mut held: Vec<(Vec<u8>, Frame)> = Vec::new();
        for counter in 1..3000 {
            let bound = if counter % 50 == 0 { 5000 } else { 300 };
            let body = rng.bytes(bound);
            let frame = encode(&mut encoder, counter, &body);
            held.push((body, frame));
            if held.len() > 20 {
                let (body, frame) = held.swap_remove(rng.below(20));
                assert_eq!(proposal_body(&frame), body);
                assert!(verify_proposal(&frame).is_ok());
            }
        }
        assert!(encoder.full.len() <= 3);
    }

    #[test]
    fn bodies_of_one_size_never_outgrow_their_block_after_the_first() {
        let mut encoder = ProposalEncoder::with_blocks(4096, 3);
        encode(&mut encoder, 1, &[1; 1000]);
        for counter in 2..200 {
            encode(&mut encoder, counter, &[1; 1000]);
            assert!(!encoder.outgrown);
        }
    }

    #[test]
    fn bytes_that_are_not_one_whole_proposal_are_refused() {
        let mut encoder = ProposalEncoder::new();
        let frame = encode(&mut encoder, 3, b"abc");
        crate::testing::assert_truncation_fails(&frame, |bytes| verify_proposal(bytes).is_err());
        let mut longer = frame.to_vec();
        longer.push(0);
        let wrong = DecodeError::WrongSize { got: 4, expected: 3 };
        assert_eq!(verify_proposal(&longer), Err(wrong));
        let mut flipped = frame.to_vec();
        flipped[HEADER_LEN] ^= 1;
        assert!(matches!(verify_proposal(&flipped), Err(DecodeError::BadChecksum { .. })));
        let ack = seal_bare(Kind::Ack, zxid(3), Zxid::ZERO);
        assert_eq!(verify_proposal(&ack), Err(DecodeError::UnknownKind { got: 3 }));
    }
}
