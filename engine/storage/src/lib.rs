//! Formats and logic of the log, the snapshots and the epochs, as disk operations that others execute.
//!
//! This crate touches no file. It says what to do as [`disk::DiskOp`] and learns of the outcome as
//! [`disk::DiskDone`]; a real disk and a simulated one look the same to it. [`Store`] is all that a
//! server needs; the formats are public for tools that print and check files.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bytes_at;
pub mod config;
pub mod disk;
mod epochs;
pub mod error;
pub mod event;
pub mod inspect;
mod log;
mod name;
mod ops;
pub mod record;
mod recovery;
pub mod retention;
pub mod segment;
pub mod snapshot;
mod snapshot_store;
pub mod store;
pub mod stream;
mod supply;

pub use config::StoreConfig;
pub use disk::{DiskDone, DiskOp, FileId, OpId};
pub use error::{NotHeld, Reason, StoreError};
pub use event::{Recovered, StoreEvent, TailFault};
pub use snapshot::SnapshotKind;
pub use store::Store;
pub use stream::StreamId;
