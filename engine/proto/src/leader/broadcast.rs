//! `Broadcast`: what each voter has acknowledged and answered, the ranks that a quorum has reached,
//! the syncs that wait for such a rank, and when the quorum was last heard of.
//!
//! Sends nothing. Knows voters by index; observers never get here.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::quorum::{AckTable, QuorumVerifier};
use crate::{Instant, VoterIndex, Zxid};

/// A sync that must not be answered before it is proved that no other leader has taken over.
#[derive(Clone, Copy, Debug)]
struct PendingSync {
    token: u64,
    /// Everything proposed before it arrived.
    after: Zxid,
    /// A PING round that begins after it arrived.
    round: u64,
}

#[derive(Debug)]
pub(super) struct Broadcast {
    me: VoterIndex,
    acked: AckTable,
    /// The PING rounds that voters have answered; ours is always answered.
    answered: AckTable<u64>,
    /// When voters were last heard of; we always hear ourselves.
    heard: AckTable<Instant>,
    round: u64,
    /// A round that was begun for a sync; while it flies, later syncs wait for the next one.
    sync_round: u64,
    syncs: VecDeque<PendingSync>,
}

impl Broadcast {
    pub(super) fn new(voters: usize, me: VoterIndex) -> Self {
        let mut answered = AckTable::new(voters);
        answered.raise(me, u64::MAX);
        let mut heard = AckTable::new(voters);
        heard.raise(me, Instant::from_nanos(u64::MAX));
        Self {
            me,
            acked: AckTable::new(voters),
            answered,
            heard,
            round: 0,
            sync_round: 0,
            syncs: VecDeque::new(),
        }
    }

    /// True if the acknowledgement was news.
    pub(super) fn ack(&mut self, voter: VoterIndex, zxid: Zxid) -> bool {
        self.acked.raise(voter, zxid)
    }

    pub(super) fn hear(&mut self, voter: VoterIndex, now: Instant) {
        self.heard.raise(voter, now);
    }

    /// True if the answer was news.
    pub(super) fn answer(&mut self, voter: VoterIndex, round: u64) -> bool {
        self.answered.raise(voter, round)
    }

    /// The connection is gone: what was said over it does not count any more. That the voter lived
    /// a moment ago stays true.
    pub(super) fn forget(&mut self, voter: VoterIndex) {
        self.acked.forget(voter);
        self.answered.forget(voter);
    }

    /// What a quorum has made durable.
    pub(super) fn rank(&self, verifier: &QuorumVerifier) -> Zxid {
        verifier.committed(&self.acked)
    }

    /// When the quorum will have been silent for `limit`; `None` if we are a quorum alone.
    pub(super) fn silent_at(
        &self,
        verifier: &QuorumVerifier,
        established: Instant,
        limit: Duration,
    ) -> Option<Instant> {
        let heard = verifier.committed(&self.heard);
        let alone = heard == Instant::from_nanos(u64::MAX);
        (!alone).then(|| heard.max(established) + limit)
    }

    pub(super) const fn round(&self) -> u64 {
        self.round
    }

    /// Begins a PING round.
    pub(super) const fn begin_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }

    pub(super) fn push_sync(&mut self, token: u64, after: Zxid) {
        self.syncs.push_back(PendingSync { token, after, round: self.round + 1 });
    }

    /// Begins a round if a sync waits for one that has not begun, unless an earlier sync's round
    /// still flies: a flood of syncs shares rounds as proposals share disk writes. The regular PING
    /// of each half tick is a round too, so a lost one is not waited for.
    pub(super) fn begin_sync_round(&mut self, verifier: &QuorumVerifier) -> Option<u64> {
        let wanted = self.syncs.back()?.round;
        let answered = verifier.committed(&self.answered);
        if wanted <= self.round || wanted <= answered || answered < self.sync_round {
            return None;
        }
        self.sync_round = self.begin_round();
        Some(self.sync_round)
    }

    /// The next sync whose proposals are committed and whose round a quorum has answered.
    pub(super) fn pop_confirmed(
        &mut self,
        verifier: &QuorumVerifier,
        committed: Zxid,
    ) -> Option<u64> {
        let sync = *self.syncs.front()?;
        if sync.after > committed || sync.round > verifier.committed(&self.answered) {
            return None;
        }
        self.syncs.pop_front();
        Some(sync.token)
    }

    pub(super) fn check_invariants(&self, verifier: &QuorumVerifier, last_proposed: Zxid) {
        self.acked.check_invariants();
        self.answered.check_invariants();
        self.heard.check_invariants();
        assert!(self.rank(verifier) <= last_proposed, "a quorum beyond the last proposal");
        assert_eq!(self.answered.reached(self.me), u64::MAX, "we do not answer ourselves");
        assert!(self.sync_round <= self.round, "a round that never began");
    }
}
