//! `Seat` and `Synchronization`: how far each learner has come, its sync plan, and the count of
//! NEWLEADER acknowledgements.
//!
//! Streams nothing: whoever executes the plan finds the bytes.

use crate::quorum::QuorumVerifier;
use crate::sync::{HistoryIndex, SyncPlan, plan_sync};
use crate::{Epoch, ServerId, VoterIndex, VoterSet, Zxid};

/// How a learner joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnerRole {
    /// It sends FOLLOWERINFO, acknowledges proposals, and counts.
    Follower,
    /// It sends OBSERVERINFO and counts nowhere. A voter that has lost its memory (quarantined,
    /// wiped) joins as an observer too, until it is level again.
    Observer,
}

/// How far a learner has come on its current connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SeatStage {
    /// FOLLOWERINFO came.
    Joined,
    /// LEADERINFO was sent.
    Informed,
    /// ACKEPOCH came, with the end of its history.
    Promised { last_zxid: Zxid },
    /// The sync stream up to `cut` and NEWLEADER are on their way; `held` is an acknowledgement that
    /// overtook the one of NEWLEADER (R21, ZOOKEEPER-4685).
    Syncing { cut: Zxid, held: Zxid },
    /// NEWLEADER is acknowledged.
    Synced { acked: Zxid },
}

/// A learner as the leader sees it.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) sid: ServerId,
    /// `Some` if its word counts: a voter that joined as a follower.
    pub(super) voter: Option<VoterIndex>,
    pub(super) accepted_epoch: Epoch,
    pub(super) stage: SeatStage,
}

impl Seat {
    pub(super) const fn acked(&self) -> Zxid {
        match self.stage {
            SeatStage::Joined
            | SeatStage::Informed
            | SeatStage::Promised { .. }
            | SeatStage::Syncing { .. } => Zxid::ZERO,
            SeatStage::Synced { acked } => acked,
        }
    }
}

/// A learner's plan, with the end of its stream.
///
/// Before the epoch is established the stream is our whole history, because a quorum that holds it
/// commits it. Afterwards it ends at what is committed (`quorum.md` 3.7: nothing uncommitted before
/// NEWLEADER), or where the learner already is if it comes back with proposals of this epoch.
pub(super) fn plan(
    last_zxid: Zxid,
    history: &HistoryIndex,
    committed: Zxid,
    established: bool,
) -> (SyncPlan, Zxid) {
    let plan = plan_sync(last_zxid, history);
    if !established {
        return (plan, history.last());
    }
    let held = match plan {
        SyncPlan::Diff { after } => after,
        SyncPlan::Trunc { to } | SyncPlan::TruncThenDiff { to } => to,
        SyncPlan::Snap => committed,
    };
    (plan, committed.max(held).min(history.last()))
}

/// The count of those that hold our whole history and have this epoch as their current one.
#[derive(Debug, Default)]
pub(super) struct Synchronization {
    synced: VoterSet,
    /// Whether our own current epoch is durable.
    pub(super) opened: bool,
}

impl Synchronization {
    pub(super) fn sync(&mut self, voter: VoterIndex) {
        self.synced.insert(voter);
    }

    pub(super) fn leave(&mut self, voter: VoterIndex) {
        self.synced.remove(voter);
    }

    pub(super) fn is_synced_by_quorum(&self, verifier: &QuorumVerifier) -> bool {
        verifier.contains_quorum(self.synced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{history, z};

    #[test]
    fn before_establishment_the_stream_ends_at_the_whole_history() {
        let ours = history(Zxid::ZERO, &[z(1, 1), z(1, 2), z(1, 3)]);
        assert_eq!(
            plan(z(1, 1), &ours, z(1, 2), false),
            (SyncPlan::Diff { after: z(1, 1) }, z(1, 3))
        );
    }

    #[test]
    fn after_establishment_the_stream_ends_at_the_commit_or_where_the_learner_is() {
        let ours = history(Zxid::ZERO, &[z(1, 1), z(2, 1), z(2, 2), z(2, 3), z(2, 4)]);
        assert_eq!(
            plan(z(1, 1), &ours, z(2, 2), true),
            (SyncPlan::Diff { after: z(1, 1) }, z(2, 2))
        );
        assert_eq!(
            plan(z(2, 3), &ours, z(2, 2), true),
            (SyncPlan::Diff { after: z(2, 3) }, z(2, 3))
        );
        assert_eq!(
            plan(z(1, 9), &ours, z(2, 2), true),
            (SyncPlan::TruncThenDiff { to: z(1, 1) }, z(2, 2))
        );
        // Counter 0: nothing of this epoch, although nothing before it is in our index either.
        assert_eq!(
            plan(z(2, 0), &ours, z(2, 2), true),
            (SyncPlan::Diff { after: z(2, 0) }, z(2, 2))
        );
    }
}
