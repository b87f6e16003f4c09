//! `Detected`: what a connection's first four bytes announce.
//!
//! Reads nothing else and keeps nothing: the four bytes stay in the stream.

use crate::native::header::MAGIC;

/// What kind of conversation a connection opens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// The native encoding: a frame header's magic.
    Native,
    /// An administrator's word (`ruok`, `mntr`, …): four lower-case letters. Which words are served
    /// is the caller's business; one that is not is a jute length far above every limit.
    FourLetterWord([u8; 4]),
    /// Jute: the four bytes are the length of the first record.
    Jute,
}

impl Detected {
    /// Decides by the first four bytes. The three are disjoint: read as a jute length, the magic and
    /// every word exceed 1.3 GB, which no limit allows.
    pub const fn detect(first: &[u8; 4]) -> Self {
        if first[0] == MAGIC[0] && first[1] == MAGIC[1] {
            return Self::Native;
        }
        let mut at = 0;
        while at < first.len() {
            if !first[at].is_ascii_lowercase() {
                return Self::Jute;
            }
            at += 1;
        }
        Self::FourLetterWord(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_a_magic_and_a_length_are_told_apart() {
        assert_eq!(Detected::detect(b"Qr\x01\x43"), Detected::Native);
        assert_eq!(Detected::detect(b"ruok"), Detected::FourLetterWord(*b"ruok"));
        assert_eq!(Detected::detect(&[0, 0, 0, 45]), Detected::Jute);
        assert_eq!(Detected::detect(&[0xff; 4]), Detected::Jute);
        assert_eq!(Detected::detect(b"GET "), Detected::Jute);
        for first in [*b"Qr\0\0", *b"aaaa"] {
            assert!(i32::from_be_bytes(first) > 1_300_000_000);
        }
    }
}
