//! The runtime of quorate.

pub mod config;
pub mod metrics;
// For this package's tests and examples; not part of what we promise.
#[doc(hidden)]
pub mod runtime;
