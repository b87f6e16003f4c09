//! How long each step of a write took, noted by the cores for whoever keeps the histograms.
//!
//! Knows no histogram and reads no clock: stamps are the `now` of the calls.

use alloc::vec::Vec;

use quorate_proto::Instant;

/// A step of a write, or of a learner's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// From the bytes at a shard until the leader's tree core takes the request up.
    Received,
    /// From there until the proposal reaches the quorum core.
    Prepared,
    /// From there until the log core has it.
    Proposed,
    /// From there until its write is handed to the device.
    LogWait,
    /// From there until the device says that it is durable.
    LogDevice,
    /// From the proposal at the quorum core until the first follower's acknowledgement.
    FirstAck,
    /// From the proposal at the quorum core until a quorum has it.
    Quorum,
    /// From the commit's decision until the tree core learns of it.
    Committed,
    /// From there until it is applied.
    Applied,
    /// From there until its reply is handed to the connection.
    Replied,
    /// From the request's bytes at a shard until its reply is handed to the connection.
    EndToEnd,
    /// From PING to its answer, at the leader.
    PingRoundTrip,
    /// A learner's synchronisation by DIFF, from the plan to its acknowledgement of NEWLEADER.
    SyncDiff,
    /// The same by TRUNC, alone or with a DIFF.
    SyncTrunc,
    /// The same by SNAP.
    SyncSnap,
}

/// A core's notes since they were last drained.
#[derive(Debug, Default)]
pub struct Timings(Vec<(Step, u64)>);

impl Timings {
    /// No note yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Notes that `step` lasted from `from` to `to`.
    pub fn note(&mut self, step: Step, from: Instant, to: Instant) {
        self.0.push((step, to.as_nanos().saturating_sub(from.as_nanos())));
    }

    /// Hands over all notes, step and nanoseconds, and forgets them.
    pub fn drain(&mut self) -> impl Iterator<Item = (Step, u64)> {
        self.0.drain(..)
    }
}
