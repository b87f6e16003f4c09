//! Memory at page alignment: for unbuffered disk access and for what is shared with the kernel.
//!
//! Registers nothing with a ring; [`FixedPool`] only says which of its buffers are free.
#![allow(unsafe_code)]

use std::alloc::{self, Layout};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

/// The alignment of every buffer: the page size, and no smaller than any disk's logical block.
pub(crate) const ALIGNMENT: usize = 4096;

/// A zeroed run of bytes at page alignment. Its address does not change while it lives.
pub(crate) struct AlignedBuf {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an exclusively owned run of bytes; nothing in it refers to a thread.
unsafe impl Send for AlignedBuf {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// If `len` is zero or beyond half the address space.
    pub(crate) fn zeroed(len: usize) -> Self {
        assert!(len > 0, "an empty buffer has no address");
        let layout = Layout::from_size_align(len, ALIGNMENT).expect("lengths are bounded");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc::alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { alloc::handle_alloc_error(layout) };
        Self { start, layout }
    }

    /// The address of the first byte, for the kernel.
    pub(crate) fn address(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout and freed only here.
        unsafe { alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `size` initialised bytes that live as long as `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.layout.size())
    }
}

/// A few buffers of one length that are used over and over.
#[derive(Debug)]
pub(crate) struct FixedPool {
    buffers: Vec<AlignedBuf>,
    free: Vec<u16>,
}

impl FixedPool {
    /// `count` buffers of `len` bytes.
    pub(crate) fn new(count: u16, len: usize) -> Self {
        Self {
            buffers: (0..count).map(|_| AlignedBuf::zeroed(len)).collect(),
            free: (0..count).collect(),
        }
    }

    /// All buffers, in the order of their indices.
    pub(crate) fn buffers(&self) -> &[AlignedBuf] {
        &self.buffers
    }

    /// The index of a free buffer that holds `len` bytes, now taken.
    pub(crate) fn take(&mut self, len: usize) -> Option<u16> {
        if self.buffers.first().is_none_or(|buffer| buffer.len() < len) {
            return None;
        }
        self.free.pop()
    }

    /// A taken buffer.
    pub(crate) fn buffer(&mut self, index: u16) -> &mut AlignedBuf {
        debug_assert!(!self.free.contains(&index), "only a taken buffer is written");
        &mut self.buffers[usize::from(index)]
    }

    /// Gives a taken buffer back.
    pub(crate) fn give_back(&mut self, index: u16) {
        debug_assert!(!self.free.contains(&index), "a buffer comes back once");
        self.free.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_writable() {
        for len in [1, 512, 4096, 4097, 1 << 20] {
            let mut buffer = AlignedBuf::zeroed(len);
            assert_eq!(buffer.address() as usize % ALIGNMENT, 0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            assert_eq!(buffer[len - 1], 7);
        }
    }

    #[test]
    fn a_pool_hands_each_buffer_out_once_until_it_comes_back() {
        let mut pool = FixedPool::new(2, 4096);
        assert_eq!(pool.take(4097), None, "too long for a pooled buffer");
        let (a, b) = (pool.take(4096).unwrap(), pool.take(1).unwrap());
        assert_ne!(a, b);
        assert_eq!(pool.take(1), None);
        pool.buffer(a).fill(1);
        pool.give_back(a);
        assert_eq!(pool.take(1), Some(a));
        assert_eq!(FixedPool::new(0, 1).take(1), None);
    }
}
