//! Everything servers say to each other on the quorum port, split by direction so that a misdirected
//! packet cannot be written down.
//!
//! `P` is an opaque payload: here nothing looks inside. The names are those of ZooKeeper's `Leader`
//! class; its numbers and bytes are the business of the wire crate.

use core::time::Duration;

use crate::{Epoch, ServerId, SessionId, Zxid};

/// What a learner sends to its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToLeader<P> {
    /// A follower introduces itself and says which epoch it has promised.
    FollowerInfo {
        /// The follower.
        sid: ServerId,
        /// The epoch that it has durably accepted.
        accepted_epoch: Epoch,
    },
    /// An observer introduces itself.
    ObserverInfo {
        /// The observer.
        sid: ServerId,
        /// The epoch that it has durably accepted.
        accepted_epoch: Epoch,
    },
    /// Answers LEADERINFO: the promise is durable, and this is the learner's history.
    AckEpoch {
        /// The learner's current epoch; `None` if it had already accepted this epoch, in which case
        /// it may synchronise but does not count towards the quorum of promises.
        current_epoch: Option<Epoch>,
        /// The end of its durable history.
        last_zxid: Zxid,
    },
    /// Everything up to `zxid` is durable at the sender. With counter 0 it answers NEWLEADER.
    Ack {
        /// The highest durable zxid.
        zxid: Zxid,
    },
    /// A client's write or sync, forwarded.
    Request(P),
    /// Answers a PING and carries the sessions that were heard of since the last one.
    Ping {
        /// The round of the PING that is answered.
        round: u64,
        /// The touched sessions with their time-outs, encoded.
        touched: P,
    },
    /// Asks whether a session that moved here is alive, and to extend it.
    Revalidate {
        /// The session.
        session: SessionId,
        /// Its negotiated time-out.
        timeout: Duration,
    },
}

/// What a leader sends to a learner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToLearner<P> {
    /// The new epoch, to be promised.
    LeaderInfo {
        /// The epoch.
        epoch: Epoch,
    },
    /// Proposals after the learner's last zxid follow, up to `zxid`.
    Diff {
        /// The end of what follows; a target, not a position reached (ZOOKEEPER-2355).
        zxid: Zxid,
    },
    /// Remove everything after `zxid`.
    Trunc {
        /// The last zxid to keep.
        zxid: Zxid,
    },
    /// A snapshot follows.
    Snap {
        /// The one zxid at which it was cut.
        zxid: Zxid,
    },
    /// A piece of the snapshot, in order.
    SnapChunk {
        /// The bytes.
        bytes: P,
        /// Whether the snapshot ends with this piece.
        last: bool,
    },
    /// The synchronisation stream ends here: make it durable, then acknowledge.
    NewLeader {
        /// The new epoch's start, `epoch << 32`.
        zxid: Zxid,
    },
    /// A quorum is synchronised; serve.
    UpToDate {
        /// Everything up to here is committed.
        committed: Zxid,
    },
    /// A transaction to be made durable.
    Proposal {
        /// Its place in the order.
        zxid: Zxid,
        /// The transaction.
        txn: P,
        /// What the leader knew to be committed when it encoded the proposal (a commit that rides).
        committed: Zxid,
    },
    /// Everything up to `zxid` is committed.
    Commit {
        /// The highest committed zxid.
        zxid: Zxid,
    },
    /// For observers: a transaction that is already committed.
    Inform {
        /// Its place in the order.
        zxid: Zxid,
        /// The transaction.
        txn: P,
    },
    /// The leader's heartbeat.
    Ping {
        /// Grows with each PING of this leader; the answer repeats it.
        round: u64,
        /// Everything up to here is committed.
        committed: Zxid,
    },
    /// Answers REVALIDATE.
    Revalidate {
        /// The session.
        session: SessionId,
        /// Whether it lives; its owner is now the asking learner.
        valid: bool,
    },
    /// Answers a forwarded sync: all that was committed when it arrived has been sent before this.
    Sync {
        /// The request that is answered.
        request: P,
    },
}
