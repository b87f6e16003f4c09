//! One server as four pure cores: shard, quorum, tree and log, and the links between them.
//!
//! No I/O, no threads, no clock: a runtime gives each core a CPU and real queues, a simulator gives
//! a whole ensemble one thread and a seed.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod admin;
mod block;
pub mod core_trait;
pub mod limits;
pub mod links;
pub mod log_core;
pub mod machine;
pub mod notice;
pub mod peer;
pub mod quorum_core;
pub mod shard_core;
pub mod timing;
pub mod tree_core;
pub mod znode;

pub use core_trait::Core;
pub use limits::Limits;
pub use machine::StateMachine;
pub use peer::{Output, Peer};
