//! A fixed hash for keys that this server chose itself: connections, sessions, tokens.
//!
//! Not for anything that a client may choose freely: it does not resist crafted collisions.

use core::hash::{BuildHasherDefault, Hasher};

/// A map with a fixed hash: the same run twice iterates in the same order.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<Mix>>;

/// Multiplies and folds, 64 bits at a time.
#[derive(Debug, Default)]
pub(crate) struct Mix(u64);

impl Mix {
    const fn add(&mut self, word: u64) {
        let product = (self.0 ^ word) as u128 * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u16(&mut self, n: u16) {
        self.add(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.add(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.add(n);
    }
}
