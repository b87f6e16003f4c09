//! Frames and the two encodings of what servers and clients say: native (rkyv) and jute.
//!
//! This crate opens no socket and decides nothing. Bytes from outside never panic here: they become
//! a [`DecodeError`] that says what was wrong and where.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod detect;
pub mod error;
pub mod frame;
pub mod jute;
pub mod native;
pub mod reader;

#[cfg(test)]
mod testing;

pub use error::DecodeError;
pub use frame::Frame;
pub use reader::{FrameReader, Framing};
