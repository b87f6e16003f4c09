//! What this crate's tests share: hexadecimal, a seeded generator, and the truncation check.
//!
//! Compiled for tests only.

use alloc::vec::Vec;

use quorate_proto::Zxid;
use quorate_tree::acl::Id;
use quorate_tree::{Acl, Permissions, Stat};

/// Bytes from hexadecimal digits; white space is skipped.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    assert_eq!(digits.len() % 2, 0, "half a byte");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Asserts that every proper prefix of `bytes` is refused.
pub(crate) fn assert_truncation_fails(bytes: &[u8], is_refused: impl Fn(&[u8]) -> bool) {
    for len in 0..bytes.len() {
        assert!(is_refused(&bytes[..len]), "the first {len} of {} bytes pass", bytes.len());
    }
}

/// xorshift64*: reproducible, and good enough to choose test inputs.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    /// Whether a coin falls on heads.
    pub(crate) fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// Fewer than `bound` random bytes.
    pub(crate) fn bytes(&mut self, bound: usize) -> Vec<u8> {
        let len = self.below(bound);
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Any stat.
pub(crate) fn stat(rng: &mut Rng) -> Stat {
    Stat {
        czxid: Zxid::from_u64(rng.next()),
        mzxid: Zxid::from_u64(rng.next()),
        ctime: rng.next() as i64,
        mtime: rng.next() as i64,
        version: rng.next() as i32,
        cversion: rng.next() as i32,
        aversion: rng.next() as i32,
        ephemeral_owner: rng.next() as i64,
        data_length: rng.next() as i32,
        num_children: rng.next() as i32,
        pzxid: Zxid::from_u64(rng.next()),
    }
}

/// Any short access control list.
pub(crate) fn acl(rng: &mut Rng) -> Vec<Acl> {
    (0..rng.below(4))
        .map(|_| Acl {
            perms: Permissions(rng.next() as i32),
            id: Id { scheme: rng.bytes(8).into(), id: rng.bytes(30).into() },
        })
        .collect()
}

/// What operations and transactions are made of.
pub(crate) struct Parts {
    pub(crate) path: Vec<u8>,
    pub(crate) data: Option<Vec<u8>>,
    pub(crate) acl: Vec<Acl>,
    pub(crate) number: i32,
    pub(crate) flag: bool,
}

/// Any parts.
pub(crate) fn parts(rng: &mut Rng) -> Parts {
    Parts {
        path: rng.bytes(30),
        data: rng.coin().then(|| rng.bytes(100)),
        acl: acl(rng),
        number: rng.next() as i32,
        flag: rng.coin(),
    }
}
