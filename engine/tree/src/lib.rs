//! Znodes, sessions and watches: a request goes in, a transaction comes out; a transaction goes in,
//! the tree changes.
//!
//! This crate does no I/O, reads no clock and draws no random number. It never sees the machines of
//! the protocol, only their ids, and knows no encoding: bytes are the business of the wire crate.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acl;
mod acl_table;
pub mod apply;
pub mod data_tree;
pub mod digest;
pub mod error;
mod expiry;
pub mod hash;
mod overlay;
mod owners;
pub mod path;
mod path_index;
pub mod prep;
pub mod request;
pub mod session;
mod slab;
pub mod snapshot;
pub mod stat;
pub mod txn;
pub mod watch;
mod znode;

pub use acl::{Acl, Permissions};
pub use apply::Outcome;
pub use data_tree::{Children, DataTree};
pub use digest::DIGEST_VERSION;
pub use error::ErrorCode;
pub use prep::{Prep, PrepLimits};
pub use request::{CreateMode, Op, Query, Request};
pub use session::{SessionIds, SessionTracker};
pub use snapshot::{Cut, Entry, Restore, RestoreError, SnapshotEnd};
pub use stat::{Stat, StatPersisted};
pub use txn::{Txn, TxnHeader};
pub use watch::{Fired, ReplayedWatches, WatchKind, WatchTable};
