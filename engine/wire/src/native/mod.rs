//! The native encoding: one fixed header, then bodies whose structs are their own archives.
//!
//! A body with fixed fields is a `#[repr(C)]` rkyv `Portable` struct of unaligned little-endian
//! fields: the struct is the archive, readable in place at any offset, with no padding and no
//! dependence on rkyv's build-wide features. Lists are counted runs of such structs.

#[macro_use]
mod portable;

pub mod header;
pub mod hello;
pub mod notification;
pub mod packet;
pub mod proposal;
pub mod request;
pub mod snapshot;
