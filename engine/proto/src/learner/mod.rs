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
                self.expect_stream("COMMIT")?;
                self.note_commit(zxid)
            }
            ToLearner::Inform { zxid, txn } => {
                self.handle_proposal("INFORM", zxid, txn)?;
                self.note_commit(zxid)
            }
            ToLearner::Ping { round, committed } => self.handle_ping(round, committed),
            ToLearner::Revalidate { session, valid } => {
                self.expect_serving("REVALIDATE")?;
                self.effects.push_back(LearnerEffect::Revalidated { session, valid });
                Ok(())
            }
            ToLearner::Sync { request } => {
                self.expect_serving("SYNC")?;
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
        if self.stage != Stage::Introduced {
            return Err(self.out_of_phase("LEADERINFO"));
        }
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
        self.expect_plan("DIFF")?;
        self.stage = Stage::Streaming { base: self.history.last(), after_snapshot: false };
        Ok(())
    }

    fn handle_trunc(&mut self, to: Zxid) -> Result<(), ProtocolError> {
        self.expect_plan("TRUNC")?;
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
        self.expect_plan("SNAP")?;
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
        self.expect_stream(packet)?;
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
        match self.stage {
            Stage::Connecting | Stage::Introduced | Stage::Accepting => {
                return Err(self.out_of_phase("PING"));
            }
            // A leader may PING before the stream; its commits are not what we have received.
            Stage::Promised | Stage::Receiving { .. } => {}
            Stage::Streaming { .. }
            | Stage::Flushing { .. }
            | Stage::Opening { .. }
            | Stage::Level { .. }
            | Stage::Serving => self.note_commit(committed)?,
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

    fn expect_plan(&self, packet: &'static str) -> Result<(), ProtocolError> {
        match self.stage {
            Stage::Promised => Ok(()),
            Stage::Connecting
            | Stage::Introduced
            | Stage::Accepting
            | Stage::Receiving { .. }
            | Stage::Streaming { .. }
            | Stage::Flushing { .. }
            | Stage::Opening { .. }
            | Stage::Level { .. }
            | Stage::Serving => Err(self.out_of_phase(packet)),
        }
    }

    fn expect_stream(&self, packet: &'static str) -> Result<(), ProtocolError> {
        match self.stage {
            Stage::Streaming { .. }
            | Stage::Flushing { .. }
            | Stage::Opening { .. }
            | Stage::Level { .. }
            | Stage::Serving => Ok(()),
            Stage::Connecting
            | Stage::Introduced
            | Stage::Accepting
            | Stage::Promised
            | Stage::Receiving { .. } => Err(self.out_of_phase(packet)),
        }
    }

    fn expect_serving(&self, packet: &'static str) -> Result<(), ProtocolError> {
        if self.is_serving() { Ok(()) } else { Err(self.out_of_phase(packet)) }
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
