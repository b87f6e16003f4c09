//! Formats and logic of the log, the snapshots and the epochs, as disk operations that others execute.
//!
//! This crate touches no file. It says what to do as [`disk::DiskOp`] and learns of the outcome as
//! [`disk::DiskDone`]; a real disk and a simulated one look the same to it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod disk;

pub use disk::{DiskDone, DiskOp, FileId, OpId};
