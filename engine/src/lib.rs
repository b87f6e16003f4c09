//! The runtime of quorate.

pub mod config;
pub mod metrics;
