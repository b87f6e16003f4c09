//! `FrameReader`: cuts a stream of received buffers into whole, verified frames.
//!
//! A frame that lies within one buffer is a slice of it. A frame that was cut is assembled once, in
//! memory that grows with what arrives and never with what is announced. What a frame means is the
//! business of its decoder.

use alloc::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::native::header::{self, Limits, PREFIX_LEN};
use crate::{DecodeError, Frame};

/// How a stream says where a frame ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Native frames: handed out with their header, their checksum verified.
    Native {
        /// The longest body of a request or a transaction, bytes; other kinds have limits of their
        /// own (see [`Kind::body_max`](crate::native::header::Kind::body_max)).
        body_max: u32,
    },
    /// Jute records behind a length of four bytes, which is not handed out.
    Jute {
        /// The longest record, bytes (jute.maxbuffer).
        max: u32,
    },
}

/// The least room that a cut frame gets, bytes.
const PARTIAL_MIN: usize = 256;
/// Bytes of a jute record's length.
const JUTE_PREFIX_LEN: usize = 4;

/// A stream that is being cut into frames. After an error the stream has no further frames: where
/// the next one begins is not known any more.
#[derive(Debug)]
pub struct FrameReader {
    framing: Framing,
    received: VecDeque<Bytes>,
    /// The beginning of a frame that was cut; nothing in `received` precedes it.
    partial: BytesMut,
    failed: Option<DecodeError>,
}

impl FrameReader {
    /// A reader at the beginning of a stream.
    pub fn new(framing: Framing) -> Self {
        Self { framing, received: VecDeque::new(), partial: BytesMut::new(), failed: None }
    }

    /// Takes the next bytes of the stream.
    #[inline]
    pub fn push(&mut self, received: Bytes) {
        if !received.is_empty() {
            self.received.push_back(received);
        }
    }

    /// The next whole frame, or `None` until more arrives.
    ///
    /// # Errors
    /// For a length, kind, version or checksum that is refused; then the same error for ever.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let next = self.take_frame();
        if let Err(error) = next {
            self.failed = Some(error);
            self.received.clear();
            self.partial = BytesMut::new();
        }
        next
    }

    /// The next four bytes of the stream, left in place; for [`Detected`](crate::detect::Detected).
    pub fn peek4(&self) -> Option<[u8; 4]> {
        let mut first = [0; 4];
        let mut len = 0;
        let parts = core::iter::once(&self.partial[..]).chain(self.received.iter().map(|b| &b[..]));
        for byte in parts.flatten() {
            first[len] = *byte;
            len += 1;
            if len == first.len() {
                return Some(first);
            }
        }
        None
    }

    /// Bytes that have arrived and were not yet handed out.
    pub fn buffered_len(&self) -> usize {
        self.partial.len() + self.received.iter().map(Bytes::len).sum::<usize>()
    }

    fn take_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        if !self.partial.is_empty() {
            return self.assemble();
        }
        let Some(front) = self.received.front_mut() else { return Ok(None) };
        if let Some(len) = self.framing.frame_len(front)?
            && front.len() >= len
        {
            let bytes = if front.len() == len {
                self.received.pop_front().expect("a front was seen")
            } else {
                front.split_to(len)
            };
            return self.framing.hand_out(bytes).map(Some);
        }
        // The copy frees the received buffer, of which a slow sender would otherwise pin a whole
        // one for each of its bytes.
        self.assemble()
    }

    /// Completes the frame that begins in `partial`, as far as bytes are there.
    fn assemble(&mut self) -> Result<Option<Frame>, DecodeError> {
        loop {
            let known = self.framing.frame_len(&self.partial)?;
            let want = known.unwrap_or_else(|| self.framing.prefix_len());
            while self.partial.len() < want {
                let Some(front) = self.received.front_mut() else { return Ok(None) };
                let take = front.len().min(want - self.partial.len());
                reserve(&mut self.partial, take, want);
                self.partial.extend_from_slice(&front[..take]);
                front.advance(take);
                if front.is_empty() {
                    self.received.pop_front();
                }
            }
            if known.is_some() {
                let whole = self.partial.split().freeze();
                return self.framing.hand_out(whole).map(Some);
            }
        }
    }
}

/// Makes room for `take` more bytes of a frame of `want`: at most twice what has arrived, and never
/// beyond the frame, apart from a small minimum.
fn reserve(partial: &mut BytesMut, take: usize, want: usize) {
    let len = partial.len();
    if partial.capacity() < len + take {
        partial.reserve(take.max(len).min(want - len).max(PARTIAL_MIN));
    }
}

impl Framing {
    const fn prefix_len(self) -> usize {
        match self {
            Self::Native { .. } => PREFIX_LEN,
            Self::Jute { .. } => JUTE_PREFIX_LEN,
        }
    }

    /// The length of the frame that `bytes` begin, prefix included; `None` until it is known.
    #[inline]
    fn frame_len(self, bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
        match self {
            Self::Native { body_max } => {
                let Some(prefix) = bytes.first_chunk() else { return Ok(None) };
                header::frame_len(prefix, Limits { body_max }).map(Some)
            }
            Self::Jute { max } => {
                let Some(prefix) = bytes.first_chunk() else { return Ok(None) };
                let len = i32::from_be_bytes(*prefix);
                match u32::try_from(len) {
                    Ok(len) if len <= max => Ok(Some(JUTE_PREFIX_LEN + len as usize)),
                    _ => Err(DecodeError::BadLength { got: len.into(), max: max.into() }),
                }
            }
        }
    }

    /// The frame of exactly these bytes, verified.
    #[inline]
    fn hand_out(self, mut bytes: Bytes) -> Result<Frame, DecodeError> {
        match self {
            Self::Native { .. } => {
                header::verify(&bytes)?;
            }
            Self::Jute { .. } => bytes.advance(JUTE_PREFIX_LEN),
        }
        Ok(Frame::new(bytes))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use quorate_proto::{ToLeader, ToLearner, Zxid};

    use super::*;
    use crate::native::packet::{ProposalEncoder, to_leader_frame, to_learner_frame};
    use crate::testing::{Rng, hex};

    const NATIVE: Framing = Framing::Native { body_max: 4000 };
    const JUTE: Framing = Framing::Jute { max: 4000 };

    /// A stream and the frames that it consists of.
    fn stream(framing: Framing, rng: &mut Rng) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut bytes, mut frames) = (Vec::new(), Vec::new());
        let mut encoder = ProposalEncoder::new();
        for counter in 1..40 {
            let bound = [1, 50, 4000][rng.below(3)];
            let payload = rng.bytes(bound);
            let frame = match framing {
                Framing::Jute { .. } => {
                    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
                    payload
                }
                Framing::Native { .. } => match rng.below(4) {
                    0 => to_leader_frame(&ToLeader::Ack { zxid: Zxid::from_u64(counter) }),
                    1 => to_leader_frame(&ToLeader::Request(Frame::copy_from(&payload))),
                    2 => {
                        let bytes = Frame::copy_from(&payload);
                        to_learner_frame(&ToLearner::SnapChunk { bytes, last: false })
                    }
                    _ => {
                        let zxid = Zxid::from_u64(counter);
                        encoder.begin(zxid, Zxid::ZERO).extend_from_slice(&payload);
                        encoder.finish()
                    }
                }
                .to_vec(),
            };
            bytes.extend_from_slice(&frame);
            frames.push(frame);
        }
        (bytes, frames)
    }

    fn drain(reader: &mut FrameReader, frames: &mut Vec<Vec<u8>>) {
        while let Some(frame) = reader.next_frame().unwrap() {
            frames.push(frame.to_vec());
        }
    }

    #[test]
    fn any_cutting_of_a_stream_gives_the_same_frames() {
        for seed in 0..200 {
            for framing in [NATIVE, JUTE] {
                let mut rng = Rng::new(seed);
                let (bytes, expected) = stream(framing, &mut rng);
                let (mut reader, mut frames, mut rest) =
                    (FrameReader::new(framing), Vec::new(), &bytes[..]);
                while !rest.is_empty() {
                    let bound = [2, 12, 60, 9000][rng.below(4)];
                    let (part, behind) = rest.split_at(rng.below(bound).min(rest.len()));
                    reader.push(Bytes::copy_from_slice(part));
                    rest = behind;
                    // Several pushes may come before anybody asks.
                    if rng.below(3) > 0 {
                        drain(&mut reader, &mut frames);
                    }
                }
                drain(&mut reader, &mut frames);
                assert_eq!(reader.buffered_len(), 0);
                assert_eq!(frames, expected, "seed {seed}, {framing:?}");
            }
        }
    }

    #[test]
    fn a_stream_that_comes_byte_by_byte_gives_the_same_frames() {
        for framing in [NATIVE, JUTE] {
            let (bytes, expected) = stream(framing, &mut Rng::new(9));
            let (mut reader, mut frames) = (FrameReader::new(framing), Vec::new());
            for byte in bytes {
                reader.push(Bytes::copy_from_slice(&[byte]));
                drain(&mut reader, &mut frames);
            }
            assert_eq!(frames, expected);
        }
    }

    #[test]
    fn frames_within_one_buffer_are_slices_of_it() {
        for framing in [NATIVE, JUTE] {
            let (bytes, expected) = stream(framing, &mut Rng::new(3));
            let bytes = Bytes::from(bytes);
            let mut reader = FrameReader::new(framing);
            reader.push(bytes.clone());
            for _ in &expected {
                let frame = reader.next_frame().unwrap().unwrap();
                assert!(
                    frame.is_empty() || bytes.as_ptr_range().contains(&frame.as_ptr_range().start)
                );
            }
            assert_eq!(reader.next_frame(), Ok(None));
        }
    }

    #[test]
    fn a_cut_frame_pins_no_received_buffer() {
        let mut reader = FrameReader::new(JUTE);
        for byte in hex("00000004 01") {
            let received = Bytes::from(alloc::vec![byte]);
            reader.push(received.clone());
            assert_eq!(reader.next_frame(), Ok(None));
            assert!(received.is_unique());
        }
        assert_eq!(reader.buffered_len(), 5);
    }

    #[test]
    fn memory_grows_with_what_arrives_and_not_with_what_is_announced() {
        let max = 1 << 30;
        let mut reader = FrameReader::new(Framing::Jute { max });
        reader.push(Bytes::copy_from_slice(&max.to_be_bytes()));
        for arrived in 1..2000 {
            reader.push(Bytes::from_static(b"x"));
            assert_eq!(reader.next_frame(), Ok(None));
            assert!(reader.partial.capacity() <= 2 * (arrived + 4) + 2 * PARTIAL_MIN);
        }
    }

    #[test]
    fn a_length_is_refused_as_soon_as_it_is_known() {
        let refused = |framing, text: &str| {
            let mut reader = FrameReader::new(framing);
            reader.push(Bytes::from(hex(text)));
            let error = reader.next_frame().unwrap_err();
            // The stream is lost: nothing that comes later is looked at.
            reader.push(Bytes::from_static(&[0; 64]));
            assert_eq!(reader.next_frame(), Err(error));
            error
        };
        let max = 4000;
        assert_eq!(refused(JUTE, "00000fa1"), DecodeError::BadLength { got: 4001, max });
        assert_eq!(refused(JUTE, "ffffffff"), DecodeError::BadLength { got: -1, max });
        let got = i64::from(i32::MAX);
        assert_eq!(refused(JUTE, "7fffffff"), DecodeError::BadLength { got, max });
        assert_eq!(refused(NATIVE, "51720102 a10f0000"), DecodeError::BadLength { got: 4001, max });
        let got = *b"mntr";
        assert_eq!(refused(NATIVE, "6d6e7472 00000000"), DecodeError::BadMagic { got });
    }

    #[test]
    fn a_frame_with_a_flipped_bit_is_not_handed_out() {
        let frame = to_leader_frame(&ToLeader::Request(Frame::from_static(b"request")));
        for bit in 0..frame.len() * 8 {
            let mut bytes = frame.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut reader = FrameReader::new(NATIVE);
            reader.push(Bytes::from(bytes));
            // A longer length waits for bytes that do not come; everything else is noticed.
            assert!(!matches!(reader.next_frame(), Ok(Some(_))), "bit {bit}");
        }
    }

    #[test]
    fn the_first_four_bytes_can_be_seen_before_they_are_taken() {
        let mut reader = FrameReader::new(JUTE);
        for part in [&b"r"[..], b"", b"u", b"o"] {
            reader.push(Bytes::copy_from_slice(part));
            assert_eq!(reader.peek4(), None);
        }
        reader.push(Bytes::from_static(b"kxx"));
        assert_eq!(reader.peek4(), Some(*b"ruok"));
        assert_eq!(reader.buffered_len(), 6);
        let mut reader = FrameReader::new(JUTE);
        reader.push(Bytes::from_static(&[0, 0]));
        assert_eq!(reader.next_frame(), Ok(None));
        reader.push(Bytes::from_static(&[0, 1, 7]));
        assert_eq!(reader.peek4(), Some([0, 0, 0, 1]));
        assert_eq!(reader.next_frame(), Ok(Some(Frame::from_static(&[7]))));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = Rng::new(77);
        for round in 0..3000 {
            let framing = if rng.coin() { NATIVE } else { JUTE };
            let mut reader = FrameReader::new(framing);
            let (mut bytes, _) = stream(framing, &mut Rng::new(round % 10));
            for _ in 0..rng.below(4) {
                let at = rng.below(bytes.len());
                bytes[at] = rng.next() as u8;
            }
            let (first, second) = bytes.split_at(rng.below(bytes.len()));
            for part in [first, second] {
                reader.push(Bytes::copy_from_slice(part));
                let mut frames = 0;
                while let Ok(Some(frame)) = reader.next_frame() {
                    assert!(frame.len() <= 4000 + 33);
                    frames += 1;
                }
                assert!(frames <= bytes.len() / 4);
            }
        }
    }
}
