//! What a leader wants done, and why it stops.
//!
//! Data only; the order of the effects is the order in which they must be executed.

use core::fmt;
use core::time::Duration;

use crate::{Epoch, ServerId, SyncPlan, Zxid};

/// What must be done for the leader, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderEffect<P> {
    /// Make the promise not to follow lower epochs durable; answered by
    /// [`crate::Durable::AcceptedEpoch`].
    PersistAcceptedEpoch(Epoch),
    /// Make the epoch that is being led durable; answered by [`crate::Durable::CurrentEpoch`].
    PersistCurrentEpoch(Epoch),
    /// Send LEADERINFO.
    LeaderInfo {
        /// The learner.
        to: ServerId,
        /// The new epoch.
        epoch: Epoch,
    },
    /// Bring a learner level: the plan's packet, then the snapshot or nothing, then every
    /// transaction up to `cut`, then NEWLEADER, then, to followers, the proposals after `cut` that
    /// were broadcast before this effect (all of them are in [`super::Leader::window`]). Every later
    /// Broadcast, Commit and Ping goes to this learner too, behind all that (R18). Execute it before
    /// the next call of [`super::Leader::propose`].
    Sync {
        /// The learner.
        to: ServerId,
        /// How.
        plan: SyncPlan,
        /// Where a snapshot is cut: what has been announced as committed so far.
        snapshot_at: Zxid,
        /// The end of the stream before NEWLEADER.
        cut: Zxid,
    },
    /// A quorum holds this server's history: it is committed, and proposals may begin.
    Established {
        /// The epoch.
        epoch: Epoch,
        /// The end of the initial history.
        committed: Zxid,
    },
    /// Send UPTODATE.
    UpToDate {
        /// The learner.
        to: ServerId,
        /// Everything up to here is committed.
        committed: Zxid,
    },
    /// Append to the own log; answered by [`crate::Durable::Log`].
    Append {
        /// The transaction's place.
        zxid: Zxid,
        /// The transaction.
        txn: P,
    },
    /// Send PROPOSAL to every follower in the forwarding set.
    Broadcast {
        /// The transaction's place.
        zxid: Zxid,
        /// The transaction.
        txn: P,
    },
    /// Everything up to here is committed: apply it, send COMMIT to followers and INFORM to
    /// observers.
    Commit {
        /// The highest committed zxid.
        through: Zxid,
    },
    /// Send PING to every learner in the forwarding set.
    Ping {
        /// The round, to be repeated in the answer.
        round: u64,
        /// Everything up to here is committed.
        committed: Zxid,
    },
    /// A sync may be answered: everything proposed before it is committed, and this server was
    /// still the leader after it had arrived (R24).
    SyncConfirmed {
        /// The token given to [`super::Leader::sync`].
        token: u64,
    },
    /// The end: leave the role. The last effect.
    Resign(ResignReason),
}

/// Why a leader gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResignReason {
    /// No quorum joined or synchronised within initLimit.
    QuorumNotJoined,
    /// No quorum was heard of within syncLimit (R24).
    QuorumSilent,
    /// This server stood still for longer than syncLimit (R44).
    Paused {
        /// How long it was not called.
        gap: Duration,
    },
    /// A follower's history is newer than ours.
    HistoryAhead {
        /// The follower.
        sid: ServerId,
    },
    /// A voter has promised a later epoch; the next one will be above it.
    EpochPassed {
        /// The voter.
        sid: ServerId,
        /// The epoch that it has promised.
        epoch: Epoch,
    },
    /// The zxid counter of this epoch is used up (ZOOKEEPER-1277).
    CounterExhausted,
    /// There is no epoch after [`Epoch::MAX`].
    EpochsExhausted,
}

impl fmt::Display for ResignReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::QuorumNotJoined => f.write_str("no quorum joined within initLimit"),
            Self::QuorumSilent => f.write_str("no quorum was heard of within syncLimit"),
            Self::Paused { gap } => write!(f, "this server stood still for {gap:?}"),
            Self::HistoryAhead { sid } => write!(f, "server {sid} has a newer history"),
            Self::EpochPassed { sid, epoch } => {
                write!(f, "server {sid} has promised the later epoch {epoch}")
            }
            Self::CounterExhausted => f.write_str("the zxid counter of this epoch is used up"),
            Self::EpochsExhausted => f.write_str("there is no epoch left"),
        }
    }
}
