//! The runtime of quorate.

pub mod metrics;
