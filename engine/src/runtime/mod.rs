//! Threads, CPUs, queues, sockets and files: everything around the cores that touches the system.
//!
//! It decides nothing about the protocol and parses no byte. Cores run unchanged on one thread or
//! many; what differs is the [`placement::Plan`] and which [`host`] turns them.

pub mod bell;
pub mod clock;
pub mod host;
pub mod idle;
pub mod net;
pub mod placement;
mod pool;
pub mod queue;
pub mod topology;
pub mod uring;
