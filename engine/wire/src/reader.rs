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
            let want = known.unwrap_or(self.framing.prefix_len());
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
