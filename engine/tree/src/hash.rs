//! Fixed hashes: one for paths, with a seed, and one for ids that servers chose themselves.
//!
//! No randomness: the seed is a parameter, and the same seed gives the same tables.

use core::hash::{BuildHasherDefault, Hasher};

/// A map keyed by small ids; the same insertions give the same iteration. Not for keys that a client
/// may choose freely: the hash does not resist crafted collisions.
pub type IdMap<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<IdHasher>>;

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xe703_7ed1_a0b4_28db;
const K2: u64 = 0x8ebc_6af0_9c88_c6e3;

/// The full product of two words, folded to one.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// The hash of a path. 32 bits are kept so that a table entry of 8 bytes holds hash and index, and
/// growing a table never touches the nodes.
pub(crate) fn hash_path(seed: u64, path: &[u8]) -> u32 {
    let mut hash = seed ^ fold(path.len() as u64 ^ K0, K1);
    let mut chunks = path.chunks_exact(16);
    for chunk in &mut chunks {
        hash = fold(word(chunk) ^ K1, word(&chunk[8..]) ^ hash);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut tail = [0; 16];
        tail[..rest.len()].copy_from_slice(rest);
        hash = fold(word(&tail) ^ K2, word(&tail[8..]) ^ hash);
    }
    (fold(hash ^ K0, K2) >> 32) as u32
}

/// Spreads a stored 32-bit hash over the 64 bits that a table looks at (the low and the top ones).
pub(crate) const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(K0)
}

/// Multiplies and folds, a word at a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(padded));
        }
    }

    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.0 = fold(self.0 ^ n ^ K0, K1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::format;

    #[test]
    fn path_hashes_depend_on_every_byte_and_on_the_seed() {
        let path = b"/services/payment/instances/0000000042";
        let hash = hash_path(1, path);
        assert_eq!(hash, hash_path(1, path));
        assert_ne!(hash, hash_path(2, path));
        for at in 0..path.len() {
            let mut changed = *path;
            changed[at] ^= 1;
            assert_ne!(hash, hash_path(1, &changed), "byte {at}");
        }
    }

    #[test]
    fn path_hashes_of_numbered_nodes_rarely_collide() {
        let mut seen = BTreeSet::new();
        for n in 0..100_000 {
            seen.insert(hash_path(0, format!("/a/n{n:010}").as_bytes()));
        }
        assert!(seen.len() > 99_990, "{} of 100000 distinct", seen.len());
    }
}
