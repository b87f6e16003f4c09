//! `Learner`: follower and observer, from the connection to the leader until it is given up.
//!
//! Opens no connection, touches no disk and reads no clock. It holds each promise and each
//! acknowledgement until the disk has confirmed what it says (R1), and announces commits only of
//! what it has received. It never looks inside a transaction.
//!
//! The order of durable steps is that of `quorum.md` 3.6: accepted epoch, ACKEPOCH; then the history
//! as the stream gives it, then the current epoch, then the one acknowledgement of NEWLEADER, and
//! only then acknowledgements of proposals (ZOOKEEPER-3911, -4643, -4646, -4685).

mod effect;

use alloc::collections::VecDeque;

pub use effect::{LearnerEffect, LeaveReason};

use crate::leader::{LearnerRole, plausible_limit};
use crate::{
    Durable, Epoch, HistoryIndex, Instant, ProtocolError, ServerId, Ticks, ToLeader, ToLearner,
    Zxid,
};

/// What a server brings along when it begins to follow.
#[derive(Clone, Debug)]
pub struct LearnerStart {
    /// The epoch that it has accepted.
    pub accepted_epoch: Epoch,
    /// The epoch whose leader's history it holds.
    pub current_epoch: Epoch,
    /// Its history.
    pub history: HistoryIndex,
    /// How far the history is durable: its end (S14).
    pub durable: Zxid,
    /// What it knows to be committed.
    pub committed: Zxid,
}

/// Where a learner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnerPhase {
    /// It has no connection yet.
    Connecting,
    /// It introduces itself and promises.
    Discovery,
    /// It is brought level; ends with UPTODATE.
    Synchronization,
    /// It serves.
    Broadcast,
}

/// A server that follows or observes one leader over one connection.
///
/// Call [`Learner::poll_effect`] until it gives nothing after each batch of inputs, and execute the
/// effects in order. After an error, or after [`LearnerEffect::Leave`], it does nothing any more.
#[derive(Debug)]
pub struct Learner<P> {
    sid: ServerId,
    role: LearnerRole,
    ticks: Ticks,
    stage: Stage,
    accepted_epoch: Epoch,
    current_epoch: Epoch,
    /// The leader's epoch, once it is known: the accepted one, or a lower one for observers.
    epoch: Epoch,
    /// What was received, in order; the log holds a prefix of it.
    history: HistoryIndex,
    log: LogPosition,
    /// The highest zxid known to be committed, within what was received.
    committed: Zxid,
    /// The highest one that was announced.
    announced: Zxid,
    /// What was known to be committed before this leader: its history must reach it (S12).
    committed_before: Zxid,
    /// The highest zxid that was acknowledged to this leader.
    acked: Zxid,
    wants_snapshot: bool,
    heard_at: Instant,
    effects: VecDeque<LearnerEffect<P>>,
    left: bool,
}

/// What each stage waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The connection.
    Connecting,
    /// LEADERINFO.
    Introduced,
    /// The disk: the promise.
    Accepting,
    /// DIFF, TRUNC or SNAP.
    Promised,
    /// Pieces of a snapshot.
    Receiving { zxid: Zxid },
    /// Proposals up to NEWLEADER. `base` is where the plan's packet left us; duplicates at or below
    /// it are tolerated after a snapshot, because ZooKeeper's is fuzzy (`quorum.md` 3.4).
    Streaming { base: Zxid, after_snapshot: bool },
    /// The disk: everything that the stream held.
    Flushing { base: Zxid, through: Zxid },
    /// The disk: the current epoch.
    Opening { base: Zxid, through: Zxid },
    /// UPTODATE; NEWLEADER is acknowledged.
    Level { base: Zxid },
    /// Nothing: it serves.
    Serving,
}

/// How far the disk has come in the generation of the log that counts (R2).
#[derive(Clone, Copy, Debug)]
struct LogPosition {
    durable: Zxid,
    /// A truncation that the disk has not confirmed: no earlier completion counts.
    truncating: Option<Zxid>,
    /// A snapshot that the disk has not confirmed.
    installing: Option<Zxid>,
}

impl LogPosition {
    fn holds(&self, through: Zxid) -> bool {
        self.truncating.is_none() && self.installing.is_none() && self.durable >= through
    }
}

impl<P> Learner<P> {
    /// A learner without a connection.
    ///
    /// # Panics
    /// If the history is not durable to its end, or ends before what is committed: such a server
    /// must not have taken part in the election.
    pub fn new(
        now: Instant,
        sid: ServerId,
        role: LearnerRole,
        ticks: Ticks,
        start: LearnerStart,
    ) -> Self {
        assert_eq!(start.durable, start.history.last(), "memory ahead of the disk (S14)");
        assert!(start.committed <= start.durable, "commits beyond the history");
        Self {
            sid,
            role,
            ticks,
            stage: Stage::Connecting,
            accepted_epoch: start.accepted_epoch,
            current_epoch: start.current_epoch,
            epoch: start.accepted_epoch,
            log: LogPosition { durable: start.durable, truncating: None, installing: None },
            // The floor is a snapshot's zxid, and snapshots hold only what is committed (R11).
            committed: start.committed.max(start.history.floor()),
            announced: start.committed,
            committed_before: start.committed.max(start.history.floor()),
            acked: Zxid::ZERO,
            history: start.history,
            wants_snapshot: false,
            heard_at: now,
            effects: VecDeque::new(),
            left: false,
        }
    }

    /// After [`LeaveReason::NeedsSnapshot`], before [`Learner::connected`]: reports a history that
    /// ends at zxid 0, so that the leader sends a snapshot. As the report is not the truth it must
    /// not count as a promise, and says so like a repeated one.
    pub const fn ask_for_snapshot(&mut self) {
        self.wants_snapshot = true;
    }

    /// The leader's epoch once it is known; before that the accepted one.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What is known to be committed.
    pub const fn committed(&self) -> Zxid {
        self.committed
    }

    /// What was received, in order.
    pub const fn history(&self) -> &HistoryIndex {
        &self.history
    }

    /// The log no longer holds what comes before `floor`, because a snapshot has replaced it:
    /// as the leader of a later term it would send a snapshot.
    pub fn forget_before(&mut self, floor: Zxid) {
        self.history.forget_before(floor);
    }

    /// Gives the history back at the end. It may be ahead of the disk: enter no election before the
    /// disk has caught up (S14).
    pub fn into_history(self) -> HistoryIndex {
        self.history
    }

    /// Where it stands.
    pub const fn phase(&self) -> LearnerPhase {
        match self.stage {
            Stage::Connecting => LearnerPhase::Connecting,
            Stage::Introduced | Stage::Accepting => LearnerPhase::Discovery,
            Stage::Promised
            | Stage::Receiving { .. }
            | Stage::Streaming { .. }
            | Stage::Flushing { .. }
            | Stage::Opening { .. }
            | Stage::Level { .. } => LearnerPhase::Synchronization,
            Stage::Serving => LearnerPhase::Broadcast,
        }
    }

    /// Whether UPTODATE has come.
    pub const fn is_serving(&self) -> bool {
        matches!(self.stage, Stage::Serving)
    }

    // --- inputs --------------------------------------------------------------------------------

    /// The connection to the leader is open.
    pub fn connected(&mut self, now: Instant) {
        if self.left || self.stage != Stage::Connecting {
            return self.ignore_second_connection();
        }
        self.heard_at = now;
        self.stage = Stage::Introduced;
        let (sid, accepted_epoch) = (self.sid, self.accepted_epoch);
        self.send(match self.role {
            LearnerRole::Follower => ToLeader::FollowerInfo { sid, accepted_epoch },
            LearnerRole::Observer => ToLeader::ObserverInfo { sid, accepted_epoch },
        });
    }

    /// The leader said something.
    ///
    /// # Errors
    /// Whatever breaks the protocol; the connection must be given up.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        packet: ToLearner<P>,
    ) -> Result<(), ProtocolError> {
        if self.left {
            return self.ignore_after_leaving();
        }
        self.heard_at = now;
        let handled = self.dispatch(packet);
        self.left |= handled.is_err();
        handled
    }

    fn dispatch(&mut self, packet: ToLearner<P>) -> Result<(), ProtocolError> {
        match packet {
            ToLearner::LeaderInfo { epoch } => self.handle_leader_info(epoch),
            ToLearner::Diff { zxid: _ } => self.handle_diff(),
            ToLearner::Trunc { zxid } => self.handle_trunc(zxid),
            ToLearner::Snap { zxid } => self.handle_snap(zxid),
            ToLearner::SnapChunk { bytes, last } => self.handle_chunk(bytes, last),
            ToLearner::NewLeader { zxid } => self.handle_new_leader(zxid),
            ToLearner::UpToDate { committed } => self.handle_up_to_date(committed),
            ToLearner::Proposal { zxid, txn, committed } => {
                self.handle_proposal("PROPOSAL", zxid, txn)?;
                self.note_commit(committed)
            }
            ToLearner::Commit { zxid } => {
                self.expect("COMMIT", self.in_stream())?;
                self.note_commit(zxid)
            }
            ToLearner::Inform { zxid, txn } => {
                self.handle_proposal("INFORM", zxid, txn)?;
                self.note_commit(zxid)
            }
            ToLearner::Ping { round, committed } => self.handle_ping(round, committed),
            ToLearner::Revalidate { session, valid } => {
                self.expect("REVALIDATE", self.is_serving())?;
                self.effects.push_back(LearnerEffect::Revalidated { session, valid });
                Ok(())
            }
            ToLearner::Sync { request } => {
                self.expect("SYNC", self.is_serving())?;
                self.announce_commit();
                self.effects.push_back(LearnerEffect::Synced { request });
                Ok(())
            }
        }
    }

    /// The disk has confirmed something of ours.
    ///
    /// # Panics
    /// If it confirms more than it was given.
    pub fn handle_durable(&mut self, _now: Instant, durable: Durable) {
        if self.left {
            return;
        }
        match durable {
            Durable::AcceptedEpoch(epoch) => {
                if self.stage == Stage::Accepting && epoch == self.accepted_epoch {
                    self.send_ack_epoch(Some(self.current_epoch));
                }
            }
            Durable::CurrentEpoch(epoch) => {
                if let Stage::Opening { base, through } = self.stage
                    && epoch == self.epoch
                {
                    self.current_epoch = epoch;
                    // The acknowledgement of NEWLEADER says all that the stream held.
                    self.acked = through;
                    self.stage = Stage::Level { base };
                    self.send(ToLeader::Ack { zxid: epoch.start() });
                }
            }
            Durable::Log { through } => self.handle_log_durable(through),
            Durable::Truncated { to } => {
                if self.log.truncating == Some(to) {
                    self.log.truncating = None;
                    self.log.durable = to;
                    self.try_flush();
                } else {
                    self.ignore_durable_of_earlier_generation();
                }
            }
            Durable::Snapshot { zxid } => {
                if self.log.installing == Some(zxid) && !self.is_receiving() {
                    self.log.installing = None;
                    self.log.durable = self.log.durable.max(zxid);
                    self.try_flush();
                } else {
                    self.ignore_durable_of_earlier_generation();
                }
            }
        }
    }

    fn handle_log_durable(&mut self, through: Zxid) {
        let replaced = self.log.installing.is_some_and(|zxid| through <= zxid);
        if self.log.truncating.is_some() || replaced || through <= self.log.durable {
            return self.ignore_durable_of_earlier_generation();
        }
        assert!(through <= self.history.last(), "the disk is ahead of what was received");
        self.log.durable = through;
        self.try_flush();
    }

    /// Leaves a leader that was silent for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.leave(LeaveReason::LeaderSilent);
        }
    }

    /// When [`Learner::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let limit = match self.stage {
            Stage::Serving => self.ticks.sync_time(),
            // The leader may have to wait for a quorum, in each of these.
            Stage::Connecting
            | Stage::Introduced
            | Stage::Accepting
            | Stage::Promised
            | Stage::Receiving { .. }
            | Stage::Streaming { .. }
            | Stage::Flushing { .. }
            | Stage::Opening { .. }
            | Stage::Level { .. } => self.ticks.init_time(),
        };
        (!self.left).then(|| self.heard_at + limit)
    }

    /// What must be done now. One ACK covers all that the disk has confirmed meanwhile, one Commit
    /// all that the leader has committed.
    pub fn poll_effect(&mut self) -> Option<LearnerEffect<P>> {
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        if self.left {
            return None;
        }
        if let Some(zxid) = self.due_ack() {
            self.acked = zxid;
            return Some(LearnerEffect::Send(ToLeader::Ack { zxid }));
        }
        self.announce_commit();
        self.effects.pop_front()
    }

    /// Asserts what must hold between batches.
    pub fn check_invariants(&self) {
        let received = self.history.last();
        assert!(self.current_epoch <= self.accepted_epoch, "a current epoch never accepted (S10)");
        assert!(self.is_receiving() || self.committed <= received, "committed beyond received");
        assert!(self.announced <= self.committed, "announced beyond committed");
        assert!(self.acked <= self.log.durable, "acknowledged beyond durable (R1)");
        assert!(
            self.log.truncating.is_some()
                || self.log.installing.is_some()
                || self.log.durable <= received,
            "durable beyond received"
        );
        match self.stage {
            Stage::Connecting | Stage::Introduced | Stage::Accepting | Stage::Promised => {
                assert_eq!(received, self.log.durable, "a promise about what is not durable (S14)");
            }
            Stage::Receiving { zxid } => assert_eq!(self.log.installing, Some(zxid)),
            Stage::Streaming { .. } | Stage::Flushing { .. } => {}
            Stage::Opening { .. } => assert!(self.acked == Zxid::ZERO, "acknowledged too early"),
            Stage::Level { base } => assert!(self.log.holds(base), "level without its history"),
            Stage::Serving => assert_eq!(self.current_epoch, self.epoch, "serves another epoch"),
        }
    }

    // --- discovery -----------------------------------------------------------------------------

    fn handle_leader_info(&mut self, epoch: Epoch) -> Result<(), ProtocolError> {
        self.expect("LEADERINFO", self.stage == Stage::Introduced)?;
        let accepted = self.accepted_epoch;
        let bound = match self.role {
            LearnerRole::Follower => accepted,
            // Nobody counts an observer's promise, so it need not stay out of this term.
            LearnerRole::Observer => self.current_epoch,
        };
        if epoch < bound {
            return Err(ProtocolError::StaleEpoch { accepted: bound, got: epoch });
        }
        let limit = plausible_limit(accepted);
        if epoch > limit {
            return Err(ProtocolError::ImplausibleEpoch { got: epoch, limit });
        }
        self.epoch = epoch;
        if epoch <= accepted {
            // Promised before, perhaps to another connection: it may synchronise, not count.
            self.send_ack_epoch(None);
        } else {
            self.accepted_epoch = epoch;
            self.stage = Stage::Accepting;
            self.effects.push_back(LearnerEffect::PersistAcceptedEpoch(epoch));
        }
        Ok(())
    }

    fn send_ack_epoch(&mut self, current_epoch: Option<Epoch>) {
        self.stage = Stage::Promised;
        self.send(if self.wants_snapshot {
            ToLeader::AckEpoch { current_epoch: None, last_zxid: Zxid::ZERO }
        } else {
            ToLeader::AckEpoch { current_epoch, last_zxid: self.log.durable }
        });
    }

    // --- synchronization -----------------------------------------------------------------------

    /// DIFF: its zxid is a target and is not adopted (ZOOKEEPER-2355).
    fn handle_diff(&mut self) -> Result<(), ProtocolError> {
        self.expect("DIFF", self.stage == Stage::Promised)?;
        self.stage = Stage::Streaming { base: self.history.last(), after_snapshot: false };
        Ok(())
    }

    fn handle_trunc(&mut self, to: Zxid) -> Result<(), ProtocolError> {
        self.expect("TRUNC", self.stage == Stage::Promised)?;
        if to < self.committed {
            return Err(ProtocolError::CannotTruncate { to, committed: self.committed });
        }
        if !self.history.contains(to) {
            self.leave(LeaveReason::NeedsSnapshot { to });
            return Ok(());
        }
        if to < self.history.last() {
            self.history.truncate(to);
            self.log.durable = to;
            self.log.truncating = Some(to);
            self.effects.push_back(LearnerEffect::Truncate { to });
        }
        self.stage = Stage::Streaming { base: to, after_snapshot: false };
        Ok(())
    }

    fn handle_snap(&mut self, zxid: Zxid) -> Result<(), ProtocolError> {
        self.expect("SNAP", self.stage == Stage::Promised)?;
        self.stage = Stage::Receiving { zxid };
        self.log.installing = Some(zxid);
        self.effects.push_back(LearnerEffect::BeginSnapshot { zxid });
        Ok(())
    }

    /// The old history stays ours until the last piece is here (R19).
    fn handle_chunk(&mut self, bytes: P, last: bool) -> Result<(), ProtocolError> {
        let Stage::Receiving { zxid } = self.stage else {
            return Err(self.out_of_phase("a piece of a snapshot"));
        };
        self.effects.push_back(LearnerEffect::SnapshotChunk { bytes, last });
        if last {
            self.history = HistoryIndex::new(zxid);
            self.log.durable = Zxid::ZERO;
            self.committed = zxid;
            self.announced = self.announced.min(zxid);
            self.stage = Stage::Streaming { base: zxid, after_snapshot: true };
        }
        Ok(())
    }

    fn handle_proposal(
        &mut self,
        packet: &'static str,
        zxid: Zxid,
        txn: P,
    ) -> Result<(), ProtocolError> {
        self.expect(packet, self.in_stream())?;
        let after = self.history.last();
        if let Stage::Streaming { base, after_snapshot: true } = self.stage
            && zxid <= base
        {
            self.ignore_contained_in_snapshot();
            return Ok(());
        }
        if !zxid.follows(after) || zxid.epoch() > self.epoch {
            return Err(ProtocolError::Gap { after, got: zxid });
        }
        self.history.append(zxid);
        self.effects.push_back(LearnerEffect::Append { zxid, txn });
        Ok(())
    }

    fn handle_new_leader(&mut self, zxid: Zxid) -> Result<(), ProtocolError> {
        let Stage::Streaming { base, after_snapshot: _ } = self.stage else {
            return Err(self.out_of_phase("NEWLEADER"));
        };
        if zxid != self.epoch.start() {
            let (accepted, got) = (self.epoch, zxid.epoch());
            return Err(ProtocolError::StaleEpoch { accepted, got });
        }
        let (through, committed) = (self.history.last(), self.committed_before);
        if through < committed {
            return Err(ProtocolError::CannotTruncate { to: through, committed });
        }
        self.stage = Stage::Flushing { base, through };
        self.try_flush();
        Ok(())
    }

    /// History first, then the epoch: a server with the new epoch and an old history would win
    /// elections and truncate what is committed (ZOOKEEPER-4643).
    fn try_flush(&mut self) {
        if let Stage::Flushing { base, through } = self.stage
            && self.log.holds(through)
        {
            self.stage = Stage::Opening { base, through };
            self.effects.push_back(LearnerEffect::PersistCurrentEpoch(self.epoch));
        }
    }

    fn handle_up_to_date(&mut self, committed: Zxid) -> Result<(), ProtocolError> {
        let Stage::Level { base } = self.stage else {
            return Err(self.out_of_phase("UPTODATE"));
        };
        if committed.as_u64() == u64::MAX {
            // ZooKeeper's UPTODATE names no zxid. Its leaders bring a learner to what is committed
            // (DIFF), or to their own history's end (TRUNC), before any proposal.
            self.note_commit(base)?;
        } else {
            self.note_commit(committed)?;
        }
        self.stage = Stage::Serving;
        self.announced = self.committed;
        let (epoch, committed) = (self.epoch, self.committed);
        self.effects.push_back(LearnerEffect::Serve { epoch, committed });
        Ok(())
    }

    // --- broadcast -----------------------------------------------------------------------------

    /// Answered in every phase from the promise on, so that the leader sees life.
    fn handle_ping(&mut self, round: u64, committed: Zxid) -> Result<(), ProtocolError> {
        if self.in_stream() {
            self.note_commit(committed)?;
        } else {
            // A leader may PING before the stream; its commits are not what we have received.
            self.expect("PING", self.is_receiving() || self.stage == Stage::Promised)?;
        }
        self.effects.push_back(LearnerEffect::AnswerPing { round });
        Ok(())
    }

    fn note_commit(&mut self, zxid: Zxid) -> Result<(), ProtocolError> {
        let proposed = self.history.last();
        if zxid > proposed {
            return Err(ProtocolError::BeyondProposed { proposed, got: zxid });
        }
        self.committed = self.committed.max(zxid);
        Ok(())
    }

    fn announce_commit(&mut self) {
        if self.is_serving() && self.committed > self.announced {
            self.announced = self.committed;
            let through = self.committed;
            self.effects.push_back(LearnerEffect::Commit { through });
        }
    }

    /// Proposals are acknowledged after NEWLEADER only (ZOOKEEPER-4685), by followers only, and
    /// only those of this epoch.
    fn due_ack(&self) -> Option<Zxid> {
        let acknowledges = match self.role {
            LearnerRole::Follower => {
                matches!(self.stage, Stage::Level { .. } | Stage::Serving)
            }
            LearnerRole::Observer => false,
        };
        let durable = self.log.durable;
        let news = durable > self.acked && durable > self.epoch.start();
        (acknowledges && news).then_some(durable)
    }

    // --- what is expected ----------------------------------------------------------------------

    const fn expect(&self, packet: &'static str, holds: bool) -> Result<(), ProtocolError> {
        if holds { Ok(()) } else { Err(self.out_of_phase(packet)) }
    }

    /// Whether proposals and commits may come.
    const fn in_stream(&self) -> bool {
        match self.stage {
            Stage::Streaming { .. }
            | Stage::Flushing { .. }
            | Stage::Opening { .. }
            | Stage::Level { .. }
            | Stage::Serving => true,
            Stage::Connecting
            | Stage::Introduced
            | Stage::Accepting
            | Stage::Promised
            | Stage::Receiving { .. } => false,
        }
    }

    const fn out_of_phase(&self, packet: &'static str) -> ProtocolError {
        let expected = match self.stage {
            Stage::Connecting => "nothing before the connection",
            Stage::Introduced => "LEADERINFO",
            Stage::Accepting => "nothing before ACKEPOCH",
            Stage::Promised => "DIFF, TRUNC or SNAP",
            Stage::Receiving { .. } => "the rest of the snapshot",
            Stage::Streaming { .. } => "proposals or NEWLEADER",
            Stage::Flushing { .. } | Stage::Opening { .. } => "proposals",
            Stage::Level { .. } => "proposals or UPTODATE",
            Stage::Serving => "broadcast packets",
        };
        ProtocolError::OutOfPhase { packet, expected }
    }

    const fn is_receiving(&self) -> bool {
        matches!(self.stage, Stage::Receiving { .. })
    }

    fn send(&mut self, packet: ToLeader<P>) {
        self.effects.push_back(LearnerEffect::Send(packet));
    }

    fn leave(&mut self, reason: LeaveReason) {
        self.left = true;
        self.effects.push_back(LearnerEffect::Leave(reason));
    }

    // --- what is dropped, and why --------------------------------------------------------------

    const fn ignore_second_connection(&self) {}

    /// The connection was given up; what it still delivers is nobody's (R21).
    #[expect(clippy::unnecessary_wraps, reason = "it stands for the result of the handler")]
    const fn ignore_after_leaving(&self) -> Result<(), ProtocolError> {
        Ok(())
    }

    /// Written before a truncation or a snapshot replaced it (R2).
    const fn ignore_durable_of_earlier_generation(&self) {}

    /// ZooKeeper's fuzzy snapshots repeat what they contain.
    const fn ignore_contained_in_snapshot(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TICKS, history, z};
    use alloc::vec::Vec;

    const NOW: Instant = Instant::ZERO;

    fn learner(role: LearnerRole) -> Learner<u32> {
        let start = LearnerStart {
            accepted_epoch: Epoch::new(1),
            current_epoch: Epoch::new(1),
            history: history(Zxid::ZERO, &[z(1, 1), z(1, 2), z(1, 3)]),
            durable: z(1, 3),
            committed: z(1, 1),
        };
        let mut learner = Learner::new(NOW, ServerId(1), role, TICKS, start);
        learner.connected(NOW);
        learner
    }

    fn effects(learner: &mut Learner<u32>) -> Vec<LearnerEffect<u32>> {
        learner.check_invariants();
        core::iter::from_fn(|| learner.poll_effect()).collect()
    }

    fn proposal(zxid: Zxid) -> ToLearner<u32> {
        ToLearner::Proposal { zxid, txn: zxid.counter(), committed: Zxid::ZERO }
    }

    fn ack(zxid: Zxid) -> LearnerEffect<u32> {
        LearnerEffect::Send(ToLeader::Ack { zxid })
    }

    /// Promised epoch 2.
    fn promised(role: LearnerRole) -> Learner<u32> {
        let mut learner = learner(role);
        let epoch = Epoch::new(2);
        learner.handle_packet(NOW, ToLearner::LeaderInfo { epoch }).expect("a later epoch");
        effects(&mut learner);
        learner.handle_durable(NOW, Durable::AcceptedEpoch(epoch));
        effects(&mut learner);
        learner
    }

    fn feed(learner: &mut Learner<u32>, packets: impl IntoIterator<Item = ToLearner<u32>>) {
        for packet in packets {
            learner.handle_packet(NOW, packet).expect("a packet in order");
        }
    }

    /// Serves in epoch 2 with history 1/1 to 1/3.
    fn serving(role: LearnerRole) -> Learner<u32> {
        let mut learner = promised(role);
        let new_leader = ToLearner::NewLeader { zxid: z(2, 0) };
        feed(&mut learner, [ToLearner::Diff { zxid: z(1, 3) }, new_leader]);
        learner.handle_durable(NOW, Durable::CurrentEpoch(Epoch::new(2)));
        feed(&mut learner, [ToLearner::UpToDate { committed: z(1, 3) }]);
        effects(&mut learner);
        assert!(learner.is_serving());
        learner
    }

    #[test]
    fn the_promise_is_durable_before_it_is_given() {
        let mut learner = learner(LearnerRole::Follower);
        effects(&mut learner);
        let epoch = Epoch::new(4);
        feed(&mut learner, [ToLearner::LeaderInfo { epoch }]);
        assert_eq!(effects(&mut learner), [LearnerEffect::PersistAcceptedEpoch(epoch)]);
        learner.handle_durable(NOW, Durable::AcceptedEpoch(Epoch::new(1)));
        assert_eq!(effects(&mut learner), [], "an older promise was confirmed");
        learner.handle_durable(NOW, Durable::AcceptedEpoch(epoch));
        let current_epoch = Some(Epoch::new(1));
        let promise = ToLeader::AckEpoch { current_epoch, last_zxid: z(1, 3) };
        assert_eq!(effects(&mut learner), [LearnerEffect::Send(promise)]);
    }

    #[test]
    fn a_lower_epoch_is_refused_by_followers_and_an_equal_one_does_not_count() {
        let stale = ToLearner::LeaderInfo { epoch: Epoch::ZERO };
        let mut follower = learner(LearnerRole::Follower);
        let (accepted, got) = (Epoch::new(1), Epoch::ZERO);
        assert_eq!(
            follower.handle_packet(NOW, stale),
            Err(ProtocolError::StaleEpoch { accepted, got })
        );
        let mut follower = learner(LearnerRole::Follower);
        effects(&mut follower);
        feed(&mut follower, [ToLearner::LeaderInfo { epoch: Epoch::new(1) }]);
        let again = ToLeader::AckEpoch { current_epoch: None, last_zxid: z(1, 3) };
        assert_eq!(effects(&mut follower), [LearnerEffect::Send(again)]);
    }

    #[test]
    fn history_then_epoch_then_newleader_then_proposals() {
        let mut learner = promised(LearnerRole::Follower);
        feed(
            &mut learner,
            [
                ToLearner::Diff { zxid: z(1, 4) },
                proposal(z(1, 4)),
                ToLearner::NewLeader { zxid: z(2, 0) },
                proposal(z(2, 1)),
            ],
        );
        let append = |zxid: Zxid| LearnerEffect::Append { zxid, txn: zxid.counter() };
        assert_eq!(effects(&mut learner), [append(z(1, 4)), append(z(2, 1))]);
        learner.handle_durable(NOW, Durable::CurrentEpoch(Epoch::new(2)));
        assert_eq!(effects(&mut learner), [], "nobody asked for that yet");
        learner.handle_durable(NOW, Durable::Log { through: z(2, 1) });
        assert_eq!(effects(&mut learner), [LearnerEffect::PersistCurrentEpoch(Epoch::new(2))]);
        learner.handle_durable(NOW, Durable::CurrentEpoch(Epoch::new(2)));
        assert_eq!(effects(&mut learner), [ack(z(2, 0)), ack(z(2, 1))]);
    }

    #[test]
    fn commits_before_uptodate_are_remembered_and_announced_after_it() {
        let mut learner = promised(LearnerRole::Follower);
        let new_leader = ToLearner::NewLeader { zxid: z(2, 0) };
        feed(&mut learner, [ToLearner::Diff { zxid: z(1, 3) }, new_leader, proposal(z(2, 1))]);
        feed(&mut learner, [ToLearner::Commit { zxid: z(1, 3) }]);
        learner.handle_durable(NOW, Durable::CurrentEpoch(Epoch::new(2)));
        let announced = effects(&mut learner).into_iter().any(|effect| {
            matches!(effect, LearnerEffect::Commit { .. } | LearnerEffect::Serve { .. })
        });
        assert!(!announced);
        feed(&mut learner, [ToLearner::UpToDate { committed: z(1, 2) }]);
        feed(&mut learner, [ToLearner::Commit { zxid: z(2, 1) }]);
        let (epoch, committed) = (Epoch::new(2), z(1, 3));
        assert_eq!(
            effects(&mut learner),
            [LearnerEffect::Serve { epoch, committed }, LearnerEffect::Commit { through: z(2, 1) }]
        );
    }

    #[test]
    fn one_acknowledgement_covers_what_the_disk_confirmed_and_one_commit_what_was_committed() {
        let mut learner = serving(LearnerRole::Follower);
        feed(&mut learner, (1..=4).map(|counter| proposal(z(2, counter))));
        feed(&mut learner, (1..=3).map(|counter| ToLearner::Commit { zxid: z(2, counter) }));
        let announced = effects(&mut learner).split_off(4);
        assert_eq!(announced, [LearnerEffect::Commit { through: z(2, 3) }]);
        learner.handle_durable(NOW, Durable::Log { through: z(2, 1) });
        learner.handle_durable(NOW, Durable::Log { through: z(2, 4) });
        assert_eq!(effects(&mut learner), [ack(z(2, 4))]);
        learner.handle_durable(NOW, Durable::Log { through: z(2, 2) });
        assert_eq!(effects(&mut learner), [], "a completion out of order");
    }

    #[test]
    fn observers_log_and_commit_but_never_acknowledge_a_proposal() {
        let mut learner = serving(LearnerRole::Observer);
        feed(&mut learner, [ToLearner::Inform { zxid: z(2, 1), txn: 1 }]);
        learner.handle_durable(NOW, Durable::Log { through: z(2, 1) });
        assert_eq!(
            effects(&mut learner),
            [
                LearnerEffect::Append { zxid: z(2, 1), txn: 1 },
                LearnerEffect::Commit { through: z(2, 1) }
            ]
        );
    }

    #[test]
    fn gaps_and_commits_beyond_what_was_received_are_errors() {
        let mut learner = serving(LearnerRole::Follower);
        let (after, got) = (z(1, 3), z(2, 2));
        let gap = learner.handle_packet(NOW, proposal(got));
        assert_eq!(gap, Err(ProtocolError::Gap { after, got }));
        assert_eq!(learner.handle_packet(NOW, proposal(z(2, 1))), Ok(()), "it is over");
        assert_eq!(effects(&mut learner), []);
        let mut learner = serving(LearnerRole::Follower);
        let (proposed, got) = (z(1, 3), z(2, 1));
        assert_eq!(
            learner.handle_packet(NOW, ToLearner::Commit { zxid: got }),
            Err(ProtocolError::BeyondProposed { proposed, got })
        );
    }

    #[test]
    fn a_truncation_below_a_commit_is_refused_and_one_into_nowhere_asks_for_a_snapshot() {
        let mut learner = promised(LearnerRole::Follower);
        let (to, committed) = (Zxid::ZERO, z(1, 1));
        assert_eq!(
            learner.handle_packet(NOW, ToLearner::Trunc { zxid: to }),
            Err(ProtocolError::CannotTruncate { to, committed })
        );
        let mut learner = promised(LearnerRole::Follower);
        let to = z(1, 7);
        feed(&mut learner, [ToLearner::Trunc { zxid: to }]);
        assert_eq!(
            effects(&mut learner),
            [LearnerEffect::Leave(LeaveReason::NeedsSnapshot { to })]
        );
    }

    #[test]
    fn completions_from_before_a_truncation_do_not_count() {
        let mut learner = promised(LearnerRole::Follower);
        let new_leader = ToLearner::NewLeader { zxid: z(2, 0) };
        feed(&mut learner, [ToLearner::Trunc { zxid: z(1, 2) }, new_leader]);
        assert_eq!(effects(&mut learner), [LearnerEffect::Truncate { to: z(1, 2) }]);
        learner.handle_durable(NOW, Durable::Log { through: z(1, 3) });
        learner.handle_durable(NOW, Durable::Truncated { to: z(1, 1) });
        assert_eq!(effects(&mut learner), []);
        learner.handle_durable(NOW, Durable::Truncated { to: z(1, 2) });
        assert_eq!(effects(&mut learner), [LearnerEffect::PersistCurrentEpoch(Epoch::new(2))]);
    }

    #[test]
    fn an_unfinished_snapshot_leaves_the_history_and_a_finished_one_replaces_it() {
        let mut learner = promised(LearnerRole::Follower);
        feed(&mut learner, [ToLearner::Snap { zxid: z(1, 9) }]);
        feed(&mut learner, [ToLearner::SnapChunk { bytes: 1, last: false }]);
        assert_eq!(learner.history().last(), z(1, 3));
        feed(&mut learner, [ToLearner::SnapChunk { bytes: 2, last: true }]);
        // ZooKeeper repeats what its fuzzy snapshot may hold.
        feed(&mut learner, [proposal(z(1, 9)), proposal(z(1, 10))]);
        feed(&mut learner, [ToLearner::NewLeader { zxid: z(2, 0) }]);
        assert_eq!(effects(&mut learner).len(), 4, "begin, two pieces, one append");
        learner.handle_durable(NOW, Durable::Log { through: z(1, 10) });
        assert_eq!(effects(&mut learner), [], "the snapshot itself is not durable");
        learner.handle_durable(NOW, Durable::Snapshot { zxid: z(1, 9) });
        assert_eq!(effects(&mut learner), [LearnerEffect::PersistCurrentEpoch(Epoch::new(2))]);
    }

    #[test]
    fn a_stream_that_ends_below_a_known_commit_is_refused() {
        let mut learner = promised(LearnerRole::Follower);
        feed(&mut learner, [ToLearner::Snap { zxid: Zxid::ZERO }]);
        feed(&mut learner, [ToLearner::SnapChunk { bytes: 1, last: true }]);
        let (to, committed) = (Zxid::ZERO, z(1, 1));
        assert_eq!(
            learner.handle_packet(NOW, ToLearner::NewLeader { zxid: z(2, 0) }),
            Err(ProtocolError::CannotTruncate { to, committed })
        );
    }

    #[test]
    fn silence_is_measured_by_init_limit_until_uptodate_and_by_sync_limit_after() {
        assert_eq!(promised(LearnerRole::Follower).poll_timeout(), Some(NOW + TICKS.init_time()));
        let mut learner = serving(LearnerRole::Follower);
        assert_eq!(learner.poll_timeout(), Some(NOW + TICKS.sync_time()));
        learner.handle_timeout(NOW + TICKS.sync_time());
        assert_eq!(effects(&mut learner), [LearnerEffect::Leave(LeaveReason::LeaderSilent)]);
        assert_eq!(learner.poll_timeout(), None);
    }

    #[test]
    fn zookeepers_uptodate_names_no_zxid() {
        let mut learner = promised(LearnerRole::Follower);
        let new_leader = ToLearner::NewLeader { zxid: z(2, 0) };
        feed(&mut learner, [ToLearner::Diff { zxid: z(1, 3) }, new_leader]);
        learner.handle_durable(NOW, Durable::CurrentEpoch(Epoch::new(2)));
        feed(&mut learner, [ToLearner::UpToDate { committed: Zxid::from_u64(u64::MAX) }]);
        assert_eq!(learner.committed(), z(1, 3));
    }

    /// A learner in each stage, with its name.
    fn stages() -> Vec<(&'static str, Learner<u32>)> {
        let mut receiving = promised(LearnerRole::Follower);
        feed(&mut receiving, [ToLearner::Snap { zxid: z(1, 9) }]);
        let mut streaming = promised(LearnerRole::Follower);
        feed(&mut streaming, [ToLearner::Diff { zxid: z(1, 3) }]);
        let mut flushing = promised(LearnerRole::Follower);
        let new_leader = ToLearner::NewLeader { zxid: z(2, 0) };
        feed(&mut flushing, [ToLearner::Diff { zxid: z(1, 3) }, proposal(z(1, 4))]);
        feed(&mut flushing, [new_leader.clone()]);
        let mut opening = promised(LearnerRole::Follower);
        feed(&mut opening, [ToLearner::Diff { zxid: z(1, 3) }, new_leader]);
        let mut level = promised(LearnerRole::Follower);
        let new_leader = ToLearner::NewLeader { zxid: z(2, 0) };
        feed(&mut level, [ToLearner::Diff { zxid: z(1, 3) }, new_leader]);
        level.handle_durable(NOW, Durable::CurrentEpoch(Epoch::new(2)));
        let mut accepting = learner(LearnerRole::Follower);
        feed(&mut accepting, [ToLearner::LeaderInfo { epoch: Epoch::new(2) }]);
        alloc::vec![
            ("introduced", learner(LearnerRole::Follower)),
            ("accepting", accepting),
            ("promised", promised(LearnerRole::Follower)),
            ("receiving", receiving),
            ("streaming", streaming),
            ("flushing", flushing),
            ("opening", opening),
            ("level", level),
            ("serving", serving(LearnerRole::Follower)),
        ]
    }

    #[test]
    fn each_stage_admits_its_packets_and_no_others() {
        let admitted = |stage: &str| -> &str {
            match stage {
                "introduced" => "leader_info",
                "promised" => "diff trunc snap ping",
                "receiving" => "chunk ping",
                "streaming" => "new_leader proposal commit inform ping",
                "level" => "up_to_date proposal commit inform ping",
                "flushing" | "opening" => "proposal commit inform ping",
                "serving" => "proposal commit inform ping revalidate sync",
                _ => "",
            }
        };
        for (index, (stage, pattern)) in stages().into_iter().enumerate() {
            let next = pattern.history().last().next().expect("far from the end");
            let (round, committed) = (1, Zxid::ZERO);
            let session = crate::SessionId(1);
            let packets = [
                ("leader_info", ToLearner::LeaderInfo { epoch: Epoch::new(2) }),
                ("diff", ToLearner::Diff { zxid: z(1, 3) }),
                ("trunc", ToLearner::Trunc { zxid: z(1, 3) }),
                ("snap", ToLearner::Snap { zxid: z(1, 3) }),
                ("chunk", ToLearner::SnapChunk { bytes: 1, last: false }),
                ("new_leader", ToLearner::NewLeader { zxid: z(2, 0) }),
                ("up_to_date", ToLearner::UpToDate { committed: z(1, 3) }),
                ("proposal", proposal(next)),
                ("commit", ToLearner::Commit { zxid: z(1, 3) }),
                ("inform", ToLearner::Inform { zxid: next, txn: 1 }),
                ("ping", ToLearner::Ping { round, committed }),
                ("revalidate", ToLearner::Revalidate { session, valid: true }),
                ("sync", ToLearner::Sync { request: 1 }),
            ];
            for (name, packet) in packets {
                let mut learner = stages().swap_remove(index).1;
                let handled = learner.handle_packet(NOW, packet);
                let expected = admitted(stage).split(' ').any(|word| word == name);
                assert_eq!(handled.is_ok(), expected, "{name} while {stage}: {handled:?}");
                let out_of_phase = matches!(handled, Err(ProtocolError::OutOfPhase { .. }));
                assert!(expected || out_of_phase, "{name} while {stage}: {handled:?}");
            }
        }
    }
}
