//! `Vote` and `Notification`: what servers say about who should lead.
//!
//! Data and one order; counting is the election's business.

use crate::{Epoch, ServerId, Zxid};

/// A proposal to make `leader` the leader, on the ground of its history.
///
/// The order is ZooKeeper's total order: peer epoch, then zxid, then sid (`quorum.md` 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vote {
    /// The proposed leader's current epoch (not its accepted one, and not its zxid's).
    pub peer_epoch: Epoch,
    /// The end of the proposed leader's durable history.
    pub zxid: Zxid,
    /// The proposed leader.
    pub leader: ServerId,
}

impl Vote {
    /// What a server without a vote says: it asks who leads, and is counted nowhere. The sid is
    /// ZooKeeper's `Long.MIN_VALUE`, the initial vote of an observer.
    pub const NOBODY: Self =
        Self { peer_epoch: Epoch::ZERO, zxid: Zxid::ZERO, leader: ServerId(1 << 63) };
}

/// What a server is doing; 0 to 3 in ZooKeeper's notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It looks for a leader.
    Looking,
    /// It follows, and votes.
    Following,
    /// It leads.
    Leading,
    /// It follows, and does not vote.
    Observing,
}

/// One message of an election. Only the newest of each sender counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The sender.
    pub from: ServerId,
    /// What the sender is doing.
    pub state: PeerState,
    /// LOOKING: the vote that the sender supports; otherwise the one that made its role.
    pub vote: Vote,
    /// The sender's round (ZooKeeper's electionEpoch), 1 and up; otherwise the round of the vote.
    pub round: u64,
}
