//! Jute, ZooKeeper's encoding: big endian, no tags, no alignment, records as runs of fields.
//!
//! Only the client protocol and the transactions; servers speak the native encoding to each other.

pub mod archive;
pub mod client;
pub mod opcode;
pub mod txn;
