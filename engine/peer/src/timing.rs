//! How long each step of a write took, noted by the cores for whoever keeps the histograms.
//!
//! Knows no histogram and reads no clock: stamps are the `now` of the calls.

mod stage;

use alloc::vec::Vec;

use quorate_proto::Instant;

pub use stage::Stage;

/// A core's notes since they were last drained.
#[derive(Debug, Default)]
pub struct Timings(Vec<(Stage, u64)>);

impl Timings {
    /// No note yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Notes that `stage` lasted from `from` to `to`.
    pub fn note(&mut self, stage: Stage, from: Instant, to: Instant) {
        self.0.push((stage, to.as_nanos().saturating_sub(from.as_nanos())));
    }

    /// Hands over all notes, stage and nanoseconds, and forgets them.
    pub fn drain(&mut self) -> impl Iterator<Item = (Stage, u64)> {
        self.0.drain(..)
    }
}
