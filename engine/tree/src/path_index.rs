//! `PathIndex`: from a path's hash to its node, open addressing with linear probing.
//!
//! Hash and node stand together, so a lookup in a large tree waits for one cache line here and not
//! for two. Does not know the paths; whoever looks something up compares them.

use alloc::vec;
use alloc::vec::Vec;

use crate::znode::NIL;

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    /// `NIL` is an empty slot.
    node: u32,
}

const EMPTY: Slot = Slot { hash: 0, node: NIL };

/// Slots of the smallest table; a power of two like all later lengths.
const SLOTS_MIN: usize = 16;

#[derive(Debug)]
pub(crate) struct PathIndex {
    slots: Vec<Slot>,
    len: usize,
}

impl PathIndex {
    pub(crate) fn new() -> Self {
        Self { slots: vec![EMPTY; SLOTS_MIN], len: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    const fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// The node under this hash that `is_it` recognises.
    pub(crate) fn find(&self, hash: u32, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.slot_of(hash, is_it).map(|at| self.slots[at].node)
    }

    fn slot_of(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<usize> {
        let mask = self.mask();
        let mut at = hash as usize & mask;
        // Ends: the table is never full.
        loop {
            let slot = self.slots[at];
            if slot.node == NIL {
                return None;
            }
            if slot.hash == hash && is_it(slot.node) {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Files a node that is not filed yet.
    pub(crate) fn insert(&mut self, hash: u32, node: u32) {
        // At most five eighths full: most lookups end in the first cache line.
        if (self.len + 1) * 8 > self.slots.len() * 5 {
            self.grow();
        }
        self.place(Slot { hash, node });
        self.len += 1;
    }

    fn place(&mut self, slot: Slot) {
        let mask = self.mask();
        let mut at = slot.hash as usize & mask;
        while self.slots[at].node != NIL {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    /// Doubles. The low bits say the place, so both halves are filled in order, at the speed of a
    /// copy rather than of as many lookups.
    fn grow(&mut self) {
        let doubled = vec![EMPTY; self.slots.len() * 2];
        let old = core::mem::replace(&mut self.slots, doubled);
        for slot in old.into_iter().filter(|slot| slot.node != NIL) {
            self.place(slot);
        }
    }

    /// Removes a filed node, and moves what was displaced behind it forward, so that no marks of
    /// removed nodes gather.
    ///
    /// # Panics
    /// If the node is not filed under this hash.
    pub(crate) fn remove(&mut self, hash: u32, node: u32) {
        let mask = self.mask();
        let mut gap = self.slot_of(hash, |other| other == node).expect("the node is filed");
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.node == NIL {
                break;
            }
            let home = slot.hash as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.slots[gap] = slot;
                gap = at;
            }
        }
        self.slots[gap] = EMPTY;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    #[test]
    fn the_index_finds_what_a_sorted_map_finds() {
        let mut state = 5u64;
        let mut random = |bound: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u32 % bound
        };
        // Few distinct hashes, at both ends of the table, make long and wrapping runs.
        for spread in [3, 40, 100_000] {
            let mut index = PathIndex::new();
            let mut map = BTreeMap::new();
            for _ in 0..20_000 {
                let node = random(500);
                let hash = (node % spread).wrapping_mul(0x9e37_79b9).wrapping_sub(2);
                if map.remove(&node).is_some() {
                    index.remove(hash, node);
                } else {
                    map.insert(node, hash);
                    index.insert(hash, node);
                }
                let asked = random(500);
                let hash = (asked % spread).wrapping_mul(0x9e37_79b9).wrapping_sub(2);
                let found = index.find(hash, |node| node == asked);
                assert_eq!(found, map.contains_key(&asked).then_some(asked));
                assert_eq!(index.len(), map.len());
            }
            for (node, hash) in &map {
                assert_eq!(index.find(*hash, |other| other == *node), Some(*node));
            }
        }
    }
}
