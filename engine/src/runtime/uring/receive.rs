//! Where received bytes land: the buffers shared with the kernel, and the blocks handed out.
//!
//! Knows no connection. Nothing outside keeps a reference into a kernel buffer: bytes are copied
//! once into a block, whose memory is used again when the last slice of it is gone.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::{Bytes, BytesMut};
use io_uring::types::BufRingEntry;

use super::ring::Ring;
use crate::runtime::pool::AlignedBuf;

/// The buffer group of our receive buffers; a ring has one.
pub(super) const GROUP: u16 = 0;

/// Buffers that the kernel fills in the order it likes (a provided buffer ring, Linux 5.19).
pub(super) struct ReceiveBuffers {
    entries: AlignedBuf,
    buffers: AlignedBuf,
    count: u16,
    len: u32,
    tail: u16,
}

impl ReceiveBuffers {
    /// `count` (a power of two) buffers of `len` bytes, registered with the ring. They must stay
    /// while a receive of the group is under way.
    pub(super) fn new(ring: &Ring, count: u16, len: u32) -> io::Result<Self> {
        if !count.is_power_of_two() || count > 1 << 15 || len == 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let entries = AlignedBuf::zeroed(usize::from(count) * size_of::<BufRingEntry>());
        let buffers = AlignedBuf::zeroed(usize::from(count) * len as usize);
        // SAFETY: the entries are page-aligned and as long as said. The kernel reads them for a
        // receive of the group only, and they stay until none is under way, as said above.
        unsafe {
            let address = entries.address() as u64;
            ring.submitter().register_buf_ring_with_flags(address, count, GROUP, 0)?;
        }
        let mut buffers = Self { entries, buffers, count, len, tail: 0 };
        (0..count).for_each(|index| buffers.give_back(index));
        buffers.publish();
        Ok(buffers)
    }

    /// The first `len` bytes of a buffer that the kernel handed to us.
    pub(super) fn bytes(&self, index: u16, len: usize) -> &[u8] {
        assert!(index < self.count, "the kernel knows buffers that we gave it, and no other");
        let whole = self.len as usize;
        // SAFETY: within the buffers and initialised, and no reference to the others is made. This
        // one is ours until it is given back, which the borrow of `self` puts off.
        unsafe {
            let start = self.buffers.address().add(usize::from(index) * whole);
            slice::from_raw_parts(start, len.min(whole))
        }
    }

    /// Gives a buffer back; the kernel sees it after [`publish`](Self::publish).
    pub(super) fn give_back(&mut self, index: u16) {
        let slot = usize::from(self.tail & (self.count - 1));
        let address = self.buffers.address() as u64 + u64::from(index) * u64::from(self.len);
        // SAFETY: `slot` is below `count`, the length of the entries; the kernel reads only
        // entries below the published tail, and this one lies at or above it. The tail itself
        // shares memory with a field that these setters do not touch.
        unsafe {
            let entry = &mut *self.entries.address().cast::<BufRingEntry>().add(slot);
            entry.set_addr(address);
            entry.set_len(self.len);
            entry.set_bid(index);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all buffers given back.
    pub(super) fn publish(&mut self) {
        // SAFETY: the tail lies within the first entry, is aligned to 2 and read by the kernel
        // with acquire ordering.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.address().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }
}

impl fmt::Debug for ReceiveBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiveBuffers({} x {} bytes)", self.count, self.len)
    }
}

/// How many blocks wait for their last slice to go; those beyond are left to their slices.
const RETIRED_MAX: usize = 8;

/// Blocks of received bytes: one is filled, earlier ones wait until they are free again.
#[derive(Debug)]
pub(super) struct Blocks {
    current: BytesMut,
    retired: VecDeque<BytesMut>,
    len: usize,
}

impl Blocks {
    /// Blocks of `len` bytes, the first made when needed.
    pub(super) fn new(len: usize) -> Self {
        Self { current: BytesMut::new(), retired: VecDeque::new(), len }
    }

    /// Whether `count` more bytes fit behind those not taken yet.
    pub(super) fn fits(&self, count: usize) -> bool {
        self.current.capacity() - self.current.len() >= count
    }

    /// Makes room for `count` bytes. What was appended must have been taken.
    pub(super) fn make_room(&mut self, count: usize) {
        debug_assert!(self.current.is_empty(), "appended bytes are taken before a new block");
        let wanted = self.len.max(count);
        if self.current.try_reclaim(wanted) {
            return;
        }
        let reclaimed = self.retired.iter_mut().position(|block| block.try_reclaim(wanted));
        let block = match reclaimed.and_then(|index| self.retired.remove(index)) {
            Some(block) => block,
            None => BytesMut::with_capacity(wanted),
        };
        let full = std::mem::replace(&mut self.current, block);
        if self.retired.len() == RETIRED_MAX {
            self.retired.pop_front();
        }
        self.retired.push_back(full);
    }

    /// Appends bytes for which there is room.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        debug_assert!(self.fits(bytes.len()), "room was made");
        self.current.extend_from_slice(bytes);
    }

    /// Everything appended since the last take, in one piece.
    pub(super) fn take(&mut self) -> Bytes {
        self.current.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(blocks: &mut Blocks, bytes: &[u8]) -> Bytes {
        if !blocks.fits(bytes.len()) {
            blocks.make_room(bytes.len());
        }
        blocks.append(bytes);
        blocks.take()
    }

    #[test]
    fn a_block_is_used_again_when_its_slices_are_gone() {
        let mut blocks = Blocks::new(1024);
        let mut addresses = std::collections::BTreeSet::new();
        for round in 0..100u8 {
            let bytes = put(&mut blocks, &[round; 300]);
            assert_eq!(bytes, vec![round; 300]);
            addresses.insert(bytes.as_ptr() as usize);
        }
        assert!(addresses.len() <= 4, "{} places for 100 pieces", addresses.len());
    }

    #[test]
    fn bytes_that_are_kept_stay_as_they_were() {
        let mut blocks = Blocks::new(512);
        let kept: Vec<Bytes> = (0..50u8).map(|round| put(&mut blocks, &[round; 200])).collect();
        for (round, bytes) in kept.iter().enumerate() {
            assert!(bytes.iter().all(|&byte| usize::from(byte) == round));
        }
    }

    #[test]
    fn more_than_a_block_fits_into_a_larger_one() {
        let mut blocks = Blocks::new(16);
        assert_eq!(put(&mut blocks, &[1; 100]).len(), 100);
        assert_eq!(put(&mut blocks, &[2; 3]), vec![2; 3]);
    }
}
