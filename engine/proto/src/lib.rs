//! Zab, leader election and quorum counting over opaque payloads.
//!
//! This crate does no I/O, reads no clock, draws no random number and knows neither an address nor
//! the content of a payload. Every machine in it has one shape: `handle_*` takes what happened,
//! `poll_*` gives what must be done now, time is an argument, and `check_invariants` asserts what
//! must hold between batches.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod durable;
pub mod election;
pub mod error;
pub mod id;
pub mod leader;
pub mod learner;
pub mod learner_handler;
pub mod packet;
pub mod quorum;
pub mod sync;
#[cfg(test)]
mod testing;
pub mod time;
pub mod zxid;

pub use durable::Durable;
pub use error::ProtocolError;
pub use id::{ServerId, SessionId, VoterIndex, VoterSet};
pub use packet::{ToLeader, ToLearner};
pub use sync::{HistoryIndex, SyncPlan, plan_sync};
pub use time::{Instant, Ticks};
pub use zxid::{Epoch, Zxid};
