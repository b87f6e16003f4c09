//! `Slab`: things with a small number each, in chunks, so that growing never moves what is there.
//!
//! Knows nothing of what it holds.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// Slots per chunk: small enough that a new chunk is no pause, large enough to be rare.
const CHUNK: usize = 512;

/// Numbered storage; freed numbers are given out again, the latest first.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    /// Slots ever used.
    bound: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), bound: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.bound as usize - self.free.len()
    }

    /// One more than the highest number ever given out.
    pub(crate) const fn bound(&self) -> u32 {
        self.bound
    }

    /// The number that the next insertion will take.
    pub(crate) fn next_index(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.bound)
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.chunks[index as usize / CHUNK][index as usize % CHUNK] = Some(value);
            return index;
        }
        let index = self.bound;
        assert!(index < u32::MAX, "a slab is full");
        if (index as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk = self.chunks.last_mut().expect("a chunk was made for this slot");
        chunk.push(Some(value));
        self.bound += 1;
        index
    }

    pub(crate) fn remove(&mut self, index: u32) -> T {
        let slot = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        let value = slot.take().expect("a slot is removed once");
        self.free.push(index);
        value
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.chunks.iter().flatten().enumerate();
        slots.filter_map(|(index, slot)| slot.as_ref().map(|value| (index as u32, value)))
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        let slot = &self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        slot.as_ref().expect("an index names a filled slot")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        let slot = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        slot.as_mut().expect("an index names a filled slot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_numbers_come_back_and_the_rest_stay_put() {
        let mut slab = Slab::new();
        for n in 0..1500u32 {
            assert_eq!(slab.next_index(), n);
            assert_eq!(slab.insert(n), n);
        }
        assert_eq!(slab.remove(700), 700);
        assert_eq!(slab.remove(3), 3);
        assert_eq!(slab.len(), 1498);
        assert_eq!(slab.get(3), None);
        assert_eq!(slab.next_index(), 3);
        assert_eq!(slab.insert(9003), 3);
        assert_eq!(slab.insert(9700), 700);
        assert_eq!(slab.bound(), 1500);
        assert_eq!(slab.iter().count(), 1500);
        assert_eq!((slab[3], slab[700], slab[1499]), (9003, 9700, 1499));
    }
}
