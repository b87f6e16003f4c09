//! What a learner wants done, and why it leaves.
//!
//! Data only; the order of the effects is the order in which they must be executed.

use core::fmt;

use crate::{Epoch, SessionId, ToLeader, Zxid};

/// What must be done for the learner, in order. Everything that goes to the log is executed in this
/// order too: a truncation before the appends behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LearnerEffect<P> {
    /// Send this to the leader: FOLLOWERINFO, OBSERVERINFO, ACKEPOCH or ACK.
    Send(ToLeader<P>),
    /// Answer a PING, with the sessions that were touched since the last answer.
    AnswerPing {
        /// The round of the PING.
        round: u64,
    },
    /// Make the promise durable; answered by [`crate::Durable::AcceptedEpoch`].
    PersistAcceptedEpoch(Epoch),
    /// Make the current epoch durable; answered by [`crate::Durable::CurrentEpoch`]. What arrived
    /// before it is complete and durable: a received snapshot may take the place of the old history
    /// no earlier than here (R19).
    PersistCurrentEpoch(Epoch),
    /// Append to the log; answered by [`crate::Durable::Log`].
    Append {
        /// The transaction's place.
        zxid: Zxid,
        /// The transaction.
        txn: P,
    },
    /// Remove everything after `to` from the log; answered by [`crate::Durable::Truncated`].
    Truncate {
        /// The last zxid to keep.
        to: Zxid,
    },
    /// A snapshot begins; answered, after its last piece, by [`crate::Durable::Snapshot`].
    BeginSnapshot {
        /// The zxid at which it was cut.
        zxid: Zxid,
    },
    /// A piece of the snapshot.
    SnapshotChunk {
        /// The bytes.
        bytes: P,
        /// Whether the snapshot ends with this piece.
        last: bool,
    },
    /// UPTODATE: everything up to `committed` is committed, and clients may be served.
    Serve {
        /// The leader's epoch.
        epoch: Epoch,
        /// The highest committed zxid.
        committed: Zxid,
    },
    /// Everything up to here is committed. It never runs ahead of what was received, but may run
    /// ahead of the own disk.
    Commit {
        /// The highest committed zxid.
        through: Zxid,
    },
    /// The leader's answer to a REVALIDATE.
    Revalidated {
        /// The session.
        session: SessionId,
        /// Whether it lives.
        valid: bool,
    },
    /// The leader's answer to a forwarded sync; every commit that belongs before it was announced
    /// before it.
    Synced {
        /// The request that is answered.
        request: P,
    },
    /// The end: close the connection and look for a leader. The last effect.
    Leave(LeaveReason),
}

/// Why a learner gave its leader up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// The leader was silent for longer than initLimit, or than syncLimit once UPTODATE had come.
    LeaderSilent,
    /// The leader wants a truncation to a zxid that this history does not have. The next
    /// [`super::Learner`] must be told by [`super::Learner::ask_for_snapshot`].
    NeedsSnapshot {
        /// The zxid.
        to: Zxid,
    },
}

impl fmt::Display for LeaveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LeaderSilent => f.write_str("the leader is silent"),
            Self::NeedsSnapshot { to } => {
                write!(f, "the leader keeps {to}, which is not in this history")
            }
        }
    }
}
