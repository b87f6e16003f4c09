//! `Frame`: immutable bytes that are encoded once and shared by the log and every connection.
//!
//! Knows nothing of what the bytes mean.

use core::fmt;
use core::ops::Deref;

use bytes::Bytes;

/// A run of immutable bytes, cheap to clone and to slice. Cloning shares the buffer.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// A frame over existing shared bytes.
    pub const fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// A frame over constant bytes.
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }

    /// A frame with its own copy of the bytes.
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    /// A part of this frame that shares its buffer.
    ///
    /// # Panics
    /// If the range lies outside the frame.
    pub fn slice(&self, range: impl core::ops::RangeBounds<usize>) -> Self {
        Self(self.0.slice(range))
    }

    /// The shared bytes.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.0.len())
    }
}
