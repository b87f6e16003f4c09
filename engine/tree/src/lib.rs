//! Znodes, sessions and watches: a request goes in, a transaction comes out; a transaction goes in,
//! the tree changes.
//!
//! This crate does no I/O, reads no clock and draws no random number. It never sees the machines of
//! the protocol, only their ids, and knows no encoding: bytes are the business of the wire crate.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acl;
pub mod error;
pub mod request;
pub mod stat;
pub mod txn;

pub use acl::{Acl, Permissions};
pub use error::ErrorCode;
pub use request::{CreateMode, Op, Request};
pub use stat::{Stat, StatPersisted};
pub use txn::{Txn, TxnHeader};
