//! The steps that are measured, as an enum with stable names.
//!
//! Measures nothing itself.

use core::fmt;

/// A step of a write, or of a learner's life. Each has one histogram per core.
///
/// The steps of a write follow each other except where noted: the log, the first acknowledgement and
/// the quorum run side by side, all from the proposal on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stage {
    /// From the request's bytes at a shard until the leader's tree core takes it up.
    Received,
    /// From there until its proposal reaches the quorum core.
    Prepared,
    /// From there until the log core has it.
    Proposed,
    /// From there until its write is handed to the device: the wait for the write in flight.
    LogWait,
    /// From there until the device says that it is durable.
    LogDevice,
    /// From the proposal at the quorum core until the first follower's ACK.
    FirstAck,
    /// From the proposal at the quorum core until a quorum has acknowledged it.
    Quorum,
    /// From the decision to commit until the tree core learns of it.
    Committed,
    /// From there until it is applied.
    Applied,
    /// From there until its reply is handed to the connection.
    Replied,
    /// From the request's bytes at a shard until its reply is handed to the connection.
    EndToEnd,
    /// From a PING to its answer, at the leader.
    PingRoundTrip,
    /// A learner's synchronisation by DIFF, from the plan to its ACK of NEWLEADER.
    SyncDiff,
    /// The same by TRUNC, alone or with a DIFF behind it.
    SyncTrunc,
    /// The same by SNAP.
    SyncSnap,
}

impl Stage {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All of them, in the order of a write, those of learners last.
    pub const ALL: [Self; 15] = [
        Self::Received,
        Self::Prepared,
        Self::Proposed,
        Self::LogWait,
        Self::LogDevice,
        Self::FirstAck,
        Self::Quorum,
        Self::Committed,
        Self::Applied,
        Self::Replied,
        Self::EndToEnd,
        Self::PingRoundTrip,
        Self::SyncDiff,
        Self::SyncTrunc,
        Self::SyncSnap,
    ];

    /// The stage's name in histogram logs, JSON and tables. Names never change: dumps of different
    /// releases are compared.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Prepared => "prepared",
            Self::Proposed => "proposed",
            Self::LogWait => "log_wait",
            Self::LogDevice => "log_device",
            Self::FirstAck => "first_ack",
            Self::Quorum => "quorum",
            Self::Committed => "committed",
            Self::Applied => "applied",
            Self::Replied => "replied",
            Self::EndToEnd => "end_to_end",
            Self::PingRoundTrip => "ping_round_trip",
            Self::SyncDiff => "sync_diff",
            Self::SyncTrunc => "sync_trunc",
            Self::SyncSnap => "sync_snap",
        }
    }

    /// The stage with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// Whether it belongs to a write; the others are a learner's.
    pub const fn is_of_a_write(self) -> bool {
        (self as u8) <= (Self::EndToEnd as u8)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_found_by_its_name_and_stands_at_its_index() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(Stage::from_name(stage.name()), Some(stage));
            assert_eq!(stage as usize, index);
            let fits_a_tag = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(stage.name().chars().all(fits_a_tag), "{stage}");
        }
        assert_eq!(Stage::from_name("Received"), None);
    }

    #[test]
    fn eleven_stages_belong_to_a_write() {
        assert_eq!(Stage::ALL.into_iter().filter(|s| s.is_of_a_write()).count(), 11);
    }
}
