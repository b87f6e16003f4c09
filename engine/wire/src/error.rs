//! `DecodeError`: why bytes were refused.

use core::fmt;

/// Bytes that are not what they should be. The connection that sent them is closed; a file that
/// holds them is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The first bytes belong to no known encoding.
    BadMagic {
        /// The first four bytes.
        got: [u8; 4],
    },
    /// A version outside the range that this server speaks.
    BadVersion {
        /// The version that came.
        got: u8,
    },
    /// A packet, record or operation that does not exist.
    UnknownKind {
        /// The number that came.
        got: i32,
    },
    /// A length that is negative or above its limit. Nothing was allocated for it.
    BadLength {
        /// The length that came.
        got: i64,
        /// The limit.
        max: u64,
    },
    /// A body whose size its kind fixes has another size.
    WrongSize {
        /// The size that came, in bytes.
        got: u64,
        /// The size (or least size) of that kind, in bytes.
        expected: u64,
    },
    /// The bytes end inside a value.
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// The checksum does not fit the bytes.
    BadChecksum {
        /// The checksum that came.
        got: u32,
        /// The one computed.
        computed: u32,
    },
    /// A value that its type does not have.
    BadValue {
        /// What was being read.
        what: &'static str,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadMagic { got } => write!(f, "unknown first bytes {got:02x?}"),
            Self::BadVersion { got } => write!(f, "unknown version {got}"),
            Self::UnknownKind { got } => write!(f, "unknown type {got}"),
            Self::BadLength { got, max } => write!(f, "length {got} is not between 0 and {max}"),
            Self::WrongSize { got, expected } => {
                write!(f, "size {got} where {expected} bytes belong")
            }
            Self::Truncated { what } => write!(f, "bytes end inside {what}"),
            Self::BadChecksum { got, computed } => {
                write!(f, "checksum {got:#010x} does not fit, computed {computed:#010x}")
            }
            Self::BadValue { what } => write!(f, "{what} has a value that does not exist"),
        }
    }
}

impl core::error::Error for DecodeError {}
