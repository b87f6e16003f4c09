//! `Leader`: discovery, synchronization and broadcast of one epoch, from the election's result to the
//! resignation.
//!
//! Opens no connection, touches no disk and reads no clock: it is told what learners said and what
//! the disk confirmed, and it says what to send and to write. It never looks inside a transaction.
//!
//! What is committed: the initial history, when a quorum has acknowledged NEWLEADER; after that the
//! proposals of this epoch that a quorum has made durable, in order (R22). The leader's own copy
//! counts like anybody's, when its disk has confirmed it (R23).

mod broadcast;
mod discovery;
mod effect;
mod outstanding;
mod synchronization;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

pub use discovery::EPOCH_STEP_MAX;
pub(crate) use discovery::plausible_limit;
pub use effect::{LeaderEffect, ResignReason};
pub use synchronization::LearnerRole;

use self::broadcast::Broadcast;
use self::discovery::{Discovery, HistoryEnd};
use self::outstanding::Outstanding;
use self::synchronization::{Seat, SeatStage, Synchronization};
use crate::quorum::Membership;
use crate::{
    Durable, Epoch, HistoryIndex, Instant, ProtocolError, ServerId, Ticks, VoterIndex, Zxid,
};

/// What a server brings along when it begins to lead. All of it is durable: a server whose disk is
/// not level with its memory does not take part in elections (S14).
#[derive(Clone, Debug)]
pub struct LeaderStart {
    /// The epoch that it has accepted.
    pub accepted_epoch: Epoch,
    /// The epoch whose leader's history it holds.
    pub current_epoch: Epoch,
    /// Its history.
    pub history: HistoryIndex,
    /// What it knows to be committed.
    pub committed: Zxid,
    /// How many committed proposals it keeps in memory for learners that join.
    pub window_max: usize,
}

/// Where a leader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderPhase {
    /// It waits for a quorum to join, and then for a quorum of promises.
    Discovery,
    /// It brings a quorum to its own history.
    Synchronization,
    /// It is established and proposes.
    Broadcast,
}

/// A server that was elected, for as long as it leads or tries to.
///
/// Call [`Leader::poll_effect`] until it gives nothing after each batch of inputs, and execute the
/// effects in order; no call panics because of what a learner said.
#[derive(Debug)]
pub struct Leader<P> {
    me: VoterIndex,
    sid: ServerId,
    membership: Membership,
    ticks: Ticks,
    epoch: Epoch,
    stage: Stage,
    history: HistoryIndex,
    initial: Zxid,
    /// What has been announced as committed.
    committed: Zxid,
    seats: Vec<Seat>,
    broadcast: Broadcast,
    outstanding: Outstanding<P>,
    effects: VecDeque<LeaderEffect<P>>,
    /// Whether an acknowledgement, an answer or a durable write may have moved a rank.
    recount: bool,
    phase_since: Instant,
    called_at: Instant,
    ping_at: Option<Instant>,
    resigned: bool,
}

#[derive(Debug)]
enum Stage {
    /// No quorum has joined.
    Joining(Discovery),
    /// The epoch is chosen; our own promise is not durable.
    Opening(Discovery),
    /// LEADERINFO goes out, promises come in.
    Promising(Discovery),
    Synchronization(Synchronization),
    Broadcast,
}

impl<P: Clone> Leader<P> {
    /// Begins to lead. With one voter the epoch opens at once.
    ///
    /// # Panics
    /// If this server is not a voter, or knows of commits beyond its history.
    pub fn new(
        now: Instant,
        sid: ServerId,
        membership: Membership,
        ticks: Ticks,
        start: LeaderStart,
    ) -> Self {
        let me = membership.voter_index(sid).expect("only voters are elected");
        let initial = start.history.last();
        assert!(start.committed <= initial, "commits beyond the history");
        assert!(start.current_epoch <= start.accepted_epoch, "a current epoch never accepted");
        let ours = HistoryEnd { current_epoch: start.current_epoch, last_zxid: initial };
        let mut leader = Self {
            me,
            sid,
            ticks,
            epoch: start.accepted_epoch,
            stage: Stage::Joining(Discovery::new(me, start.accepted_epoch, ours)),
            // The floor is a snapshot's zxid, and snapshots hold only what is committed (R11).
            committed: start.committed.max(start.history.floor()),
            history: start.history,
            initial,
            seats: Vec::new(),
            broadcast: Broadcast::new(membership.voters().len(), me),
            membership,
            outstanding: Outstanding::new(initial, start.window_max),
            effects: VecDeque::new(),
            recount: false,
            phase_since: now,
            called_at: now,
            ping_at: None,
            resigned: false,
        };
        leader.try_open(now);
        leader
    }

    /// The epoch that is opened or led; before one is chosen, the accepted one.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where it stands.
    pub const fn phase(&self) -> LeaderPhase {
        match self.stage {
            Stage::Joining(_) | Stage::Opening(_) | Stage::Promising(_) => LeaderPhase::Discovery,
            Stage::Synchronization(_) => LeaderPhase::Synchronization,
            Stage::Broadcast => LeaderPhase::Broadcast,
        }
    }

    /// What has been announced as committed.
    pub const fn committed(&self) -> Zxid {
        self.committed
    }

    /// The last proposal; before the first one, the end of the initial history.
    pub fn last_proposed(&self) -> Zxid {
        self.history.last()
    }

    /// What this server holds, proposals included.
    pub const fn history(&self) -> &HistoryIndex {
        &self.history
    }

    /// The log no longer holds what comes before `floor`, because a snapshot has replaced it:
    /// learners further back get a snapshot.
    pub fn forget_before(&mut self, floor: Zxid) {
        self.history.forget_before(floor);
    }

    /// Gives the history back at the end.
    pub fn into_history(self) -> HistoryIndex {
        self.history
    }

    /// The proposals in (after, through], if memory has all of them: those that are not committed,
    /// and the last `window_max` that are. Otherwise they are in the log.
    pub fn window(
        &self,
        after: Zxid,
        through: Zxid,
    ) -> Option<impl Iterator<Item = (Zxid, &P)> + '_> {
        self.outstanding.range(after, through)
    }

    /// What a learner has made durable; `None` if it is not here.
    pub fn acked(&self, sid: ServerId) -> Option<Zxid> {
        self.seats.iter().find(|seat| seat.sid == sid).map(Seat::acked)
    }

    // --- what learners say ---------------------------------------------------------------------

    /// FOLLOWERINFO or OBSERVERINFO came. A learner that is here already starts anew.
    ///
    /// # Errors
    /// A follower that is no voter, an observer that the configuration does not know, this server's
    /// own id (R41), or an accepted epoch that is implausibly far ahead (R25).
    pub fn handle_joined(
        &mut self,
        now: Instant,
        sid: ServerId,
        role: LearnerRole,
        accepted_epoch: Epoch,
    ) -> Result<(), ProtocolError> {
        if !self.observe(now) {
            return self.ignore_after_resignation();
        }
        if !self.membership.may_join(sid, role) || sid == self.sid {
            return Err(ProtocolError::UnknownServer { sid });
        }
        let voter = self.membership.voter_index(sid).filter(|_| role == LearnerRole::Follower);
        self.handle_gone(now, sid);
        let mut stage = SeatStage::Joined;
        match &mut self.stage {
            Stage::Joining(discovery) => {
                discovery.check_plausible(accepted_epoch)?;
                discovery.join(voter, accepted_epoch);
            }
            Stage::Opening(_)
            | Stage::Promising(_)
            | Stage::Synchronization(_)
            | Stage::Broadcast
                if accepted_epoch > self.epoch && voter.is_some() =>
            {
                return self.make_way(sid, accepted_epoch);
            }
            Stage::Opening(_) => {}
            Stage::Promising(_) | Stage::Synchronization(_) | Stage::Broadcast => {
                self.effects.push_back(LeaderEffect::LeaderInfo { to: sid, epoch: self.epoch });
                stage = SeatStage::Informed;
            }
        }
        self.seats.push(Seat { sid, voter, accepted_epoch, stage });
        self.hear(now, voter);
        self.try_open(now);
        Ok(())
    }

    /// A voter that has promised a later epoch, to a candidate that never led, can not follow this
    /// one. In ZooKeeper it stays out until the next election, and so does the fault that it should
    /// help to survive. Here the leader accepts that epoch and resigns, so that the next one is
    /// above it.
    fn make_way(&mut self, sid: ServerId, epoch: Epoch) -> Result<(), ProtocolError> {
        let limit = plausible_limit(self.epoch);
        if epoch > limit {
            return Err(ProtocolError::ImplausibleEpoch { got: epoch, limit });
        }
        self.effects.push_back(LeaderEffect::PersistAcceptedEpoch(epoch));
        self.resign(ResignReason::EpochPassed { sid, epoch });
        Ok(())
    }

    /// ACKEPOCH came: the learner's promise is durable. `None`: it had accepted this epoch before,
    /// and does not count. While promises are counted a history newer than ours ends this
    /// leadership (a follower's) or is refused (an observer's).
    ///
    /// # Errors
    /// A learner that was sent no LEADERINFO, or one that is ahead.
    pub fn handle_epoch_acked(
        &mut self,
        now: Instant,
        sid: ServerId,
        current_epoch: Option<Epoch>,
        last_zxid: Zxid,
    ) -> Result<(), ProtocolError> {
        if !self.observe(now) {
            return self.ignore_after_resignation();
        }
        let at = self.seat_of(sid)?;
        let seat = &mut self.seats[at];
        let voter = seat.voter;
        if seat.stage != SeatStage::Informed {
            let expected = "an answer to what it was sent";
            return Err(ProtocolError::OutOfPhase { packet: "ACKEPOCH", expected });
        }
        if let Some(current) = current_epoch
            && current > self.epoch
        {
            return Err(ProtocolError::StaleEpoch { accepted: current, got: self.epoch });
        }
        if let Stage::Promising(discovery) = &mut self.stage
            && let Some(current_epoch) = current_epoch
        {
            if discovery.is_ahead(HistoryEnd { current_epoch, last_zxid }) {
                if voter.is_none() {
                    return Err(ProtocolError::LearnerAhead { sid, last_zxid });
                }
                self.resign(ResignReason::HistoryAhead { sid });
                return Ok(());
            }
            if let Some(voter) = voter {
                discovery.promise(voter);
            }
        }
        seat.stage = SeatStage::Promised { last_zxid };
        self.hear(now, voter);
        self.try_synchronize(now);
        self.start_sync(at);
        Ok(())
    }

    /// The acknowledgement of NEWLEADER came: the learner holds what the stream held, durably.
    pub fn handle_synced(&mut self, now: Instant, sid: ServerId) {
        if !self.observe(now) {
            return;
        }
        let Ok(at) = self.seat_of(sid) else { return self.ignore_stranger() };
        let seat = &mut self.seats[at];
        let SeatStage::Syncing { cut, held } = seat.stage else {
            return self.ignore_repeated_synced();
        };
        let acked = cut.max(held);
        seat.stage = SeatStage::Synced { acked };
        let voter = seat.voter;
        self.hear(now, voter);
        if let Some(voter) = voter {
            self.recount |= self.broadcast.ack(voter, acked);
        }
        match &mut self.stage {
            Stage::Joining(_) | Stage::Opening(_) | Stage::Promising(_) => {
                unreachable!("a learner is synchronised before the epoch was promised")
            }
            Stage::Synchronization(synchronization) => {
                if let Some(voter) = voter {
                    synchronization.sync(voter);
                }
                self.try_establish(now);
            }
            Stage::Broadcast => {
                let committed = self.committed;
                self.effects.push_back(LeaderEffect::UpToDate { to: sid, committed });
            }
        }
    }

    /// ACK came: everything up to `zxid` is durable at the learner. One that overtook the
    /// acknowledgement of NEWLEADER is held until that has come (R21).
    ///
    /// # Errors
    /// A learner that is not here, that was sent no proposals, or an acknowledgement beyond the last
    /// proposal.
    pub fn handle_ack(
        &mut self,
        now: Instant,
        sid: ServerId,
        zxid: Zxid,
    ) -> Result<(), ProtocolError> {
        if !self.observe(now) {
            return self.ignore_after_resignation();
        }
        let at = self.seat_of(sid)?;
        let proposed = self.history.last();
        // NEWLEADER's own zxid is repeated after UPTODATE and is no position (quorum.md 11, 10).
        if zxid > proposed && zxid != self.epoch.start() {
            return Err(ProtocolError::BeyondProposed { proposed, got: zxid });
        }
        let seat = &mut self.seats[at];
        let voter = seat.voter;
        match &mut seat.stage {
            SeatStage::Joined | SeatStage::Informed | SeatStage::Promised { .. } => {
                let expected = "a learner that was sent NEWLEADER";
                return Err(ProtocolError::OutOfPhase { packet: "ACK", expected });
            }
            SeatStage::Syncing { held, .. } => {
                if zxid.counter() > 0 {
                    *held = zxid.max(*held);
                }
            }
            SeatStage::Synced { acked } => {
                if zxid <= *acked || zxid.counter() == 0 {
                    self.ignore_stale_ack();
                } else {
                    *acked = zxid;
                    if let Some(voter) = voter {
                        self.recount |= self.broadcast.ack(voter, zxid);
                    }
                }
            }
        }
        self.hear(now, voter);
        Ok(())
    }

    /// A packet of a learner came, of whatever kind; `round` if it answers a PING.
    pub fn handle_heard(&mut self, now: Instant, sid: ServerId, round: Option<u64>) {
        if !self.observe(now) {
            return;
        }
        let Ok(at) = self.seat_of(sid) else { return self.ignore_stranger() };
        let voter = self.seats[at].voter;
        self.hear(now, voter);
        if let (Some(voter), Some(round)) = (voter, round) {
            if round > self.broadcast.round() {
                return self.ignore_unknown_round();
            }
            self.recount |= self.broadcast.answer(voter, round);
        }
    }

    /// A learner's connection is gone; nothing that was said over it counts any more (R21).
    pub fn handle_gone(&mut self, now: Instant, sid: ServerId) {
        if !self.observe(now) {
            return;
        }
        let Ok(at) = self.seat_of(sid) else { return self.ignore_stranger() };
        let Some(voter) = self.seats.swap_remove(at).voter else { return };
        self.broadcast.forget(voter);
        match &mut self.stage {
            Stage::Joining(discovery) | Stage::Opening(discovery) | Stage::Promising(discovery) => {
                discovery.leave(voter);
            }
            Stage::Synchronization(synchronization) => synchronization.leave(voter),
            Stage::Broadcast => {}
        }
    }

    // --- what the disk says --------------------------------------------------------------------

    /// The disk has confirmed something of ours.
    ///
    /// # Panics
    /// If it confirms what was not proposed, or a truncation: a leader never goes back.
    pub fn handle_durable(&mut self, now: Instant, durable: Durable) {
        if !self.observe(now) {
            return;
        }
        match durable {
            Durable::AcceptedEpoch(epoch) => self.handle_accepted(now, epoch),
            Durable::CurrentEpoch(epoch) => self.handle_current(now, epoch),
            Durable::Log { through } => {
                assert!(through <= self.history.last(), "the disk is ahead of the proposals");
                self.recount |= self.broadcast.ack(self.me, through);
            }
            Durable::Truncated { .. } | Durable::Snapshot { .. } => {
                panic!("the history changed under a leader: {durable:?}")
            }
        }
    }

    fn handle_accepted(&mut self, now: Instant, epoch: Epoch) {
        match self.stage {
            Stage::Opening(mut discovery) if epoch == self.epoch => {
                discovery.promise(self.me);
                self.stage = Stage::Promising(discovery);
                self.phase_since = now;
                for seat in &mut self.seats {
                    if seat.stage == SeatStage::Joined {
                        seat.stage = SeatStage::Informed;
                        let info = LeaderEffect::LeaderInfo { to: seat.sid, epoch };
                        self.effects.push_back(info);
                    }
                }
                self.try_synchronize(now);
            }
            // A promise that this server made as a learner, confirmed late.
            Stage::Joining(_)
            | Stage::Opening(_)
            | Stage::Promising(_)
            | Stage::Synchronization(_)
            | Stage::Broadcast => {}
        }
    }

    fn handle_current(&mut self, now: Instant, epoch: Epoch) {
        match &mut self.stage {
            Stage::Synchronization(synchronization)
                if epoch == self.epoch && !synchronization.opened =>
            {
                synchronization.opened = true;
                // Our history was durable before the election.
                synchronization.sync(self.me);
                self.ping_at = Some(now + self.ticks.half_tick());
                for at in 0..self.seats.len() {
                    self.start_sync(at);
                }
                self.try_establish(now);
            }
            // An epoch that this server followed before, confirmed late.
            Stage::Joining(_)
            | Stage::Opening(_)
            | Stage::Promising(_)
            | Stage::Synchronization(_)
            | Stage::Broadcast => {}
        }
    }

    // --- what clients want ---------------------------------------------------------------------

    /// Orders a transaction. The last counter of the epoch is the last proposal: when it is
    /// committed, the leader resigns.
    ///
    /// # Panics
    /// Before establishment, or if `zxid` is not the next one of this epoch (R4).
    pub fn propose(&mut self, now: Instant, zxid: Zxid, txn: P) {
        if !self.observe(now) {
            return;
        }
        assert!(matches!(self.stage, Stage::Broadcast), "a proposal before establishment");
        assert_eq!(zxid.epoch(), self.epoch, "a proposal of another epoch");
        assert!(zxid.counter() <= Zxid::COUNTER_MAX, "a proposal after the last counter");
        self.history.append(zxid);
        self.outstanding.push(zxid, txn.clone());
        self.effects.push_back(LeaderEffect::Append { zxid, txn: txn.clone() });
        self.effects.push_back(LeaderEffect::Broadcast { zxid, txn });
    }

    /// Asks for a proof that everything proposed so far is committed and that no other leader has
    /// taken over meanwhile; answered by [`LeaderEffect::SyncConfirmed`]. ZooKeeper's own sync lacks
    /// the second half (ZOOKEEPER-1675).
    pub fn sync(&mut self, now: Instant, token: u64) {
        if !self.observe(now) {
            return;
        }
        self.broadcast.push_sync(token, self.history.last());
        self.recount = true;
    }

    // --- time ----------------------------------------------------------------------------------

    /// Sends the PING of each half tick and watches the limits.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.observe(now) {
            return;
        }
        if self.ping_at.is_some_and(|at| at <= now) {
            self.ping_at = Some(now + self.ticks.half_tick());
            self.ping();
        }
    }

    /// When [`Leader::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.resigned {
            return None;
        }
        self.limit().into_iter().chain(self.ping_at).min()
    }

    /// When the limit of the current phase ends this leadership.
    fn limit(&self) -> Option<Instant> {
        match self.stage {
            Stage::Joining(_)
            | Stage::Opening(_)
            | Stage::Promising(_)
            | Stage::Synchronization(_) => Some(self.phase_since + self.ticks.init_time()),
            Stage::Broadcast => self.broadcast.silent_at(
                self.membership.verifier(),
                self.phase_since,
                self.ticks.sync_time(),
            ),
        }
    }

    /// Every input passes here first: a leader whose time is over does nothing any more, whatever
    /// has queued up meanwhile (R24, R44). False if it has resigned.
    fn observe(&mut self, now: Instant) -> bool {
        if self.resigned {
            return false;
        }
        let gap = now.since(self.called_at);
        self.called_at = self.called_at.max(now);
        let Some(limit) = self.limit() else { return true };
        let established = matches!(self.stage, Stage::Broadcast);
        if established && gap > self.ticks.sync_time() {
            self.resign(ResignReason::Paused { gap });
        } else if now >= limit {
            self.resign(if established {
                ResignReason::QuorumSilent
            } else {
                ResignReason::QuorumNotJoined
            });
        }
        !self.resigned
    }

    // --- effects -------------------------------------------------------------------------------

    /// What must be done now. Commits are counted here, when everything else is said: one Commit
    /// covers what many acknowledgements have moved.
    pub fn poll_effect(&mut self) -> Option<LeaderEffect<P>> {
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        if self.resigned || !self.recount || !matches!(self.stage, Stage::Broadcast) {
            return None;
        }
        if let Some(through) = self.commit() {
            return Some(LeaderEffect::Commit { through });
        }
        let verifier = self.membership.verifier();
        if let Some(token) = self.broadcast.pop_confirmed(verifier, self.committed) {
            return Some(LeaderEffect::SyncConfirmed { token });
        }
        self.recount = false;
        let committed = self.committed;
        let begun = self.broadcast.begin_sync_round(verifier);
        begun.map(|round| LeaderEffect::Ping { round, committed })
    }

    fn commit(&mut self) -> Option<Zxid> {
        let through = self.broadcast.rank(self.membership.verifier());
        if through.epoch() != self.epoch || through <= self.committed {
            return None;
        }
        assert!(through <= self.history.last(), "a commit beyond the proposals");
        self.committed = through;
        self.outstanding.trim(through);
        if through.counter() == Zxid::COUNTER_MAX {
            self.resign(ResignReason::CounterExhausted);
        }
        Some(through)
    }

    /// Asserts what must hold between batches.
    pub fn check_invariants(&self) {
        assert!(self.committed <= self.history.last(), "committed beyond proposed");
        self.outstanding.check_invariants();
        self.broadcast.check_invariants(self.membership.verifier(), self.history.last());
        let established = matches!(self.stage, Stage::Broadcast);
        assert!(established || self.history.last() == self.initial, "proposed too early");
        assert!(!established || self.committed >= self.initial, "the initial history is lost");
        for (at, seat) in self.seats.iter().enumerate() {
            let twice = self.seats[at + 1..].iter().any(|other| other.sid == seat.sid);
            assert!(!twice, "server {} sits twice", seat.sid);
            assert!(seat.acked() <= self.history.last(), "acknowledged beyond proposed");
            let promised = seat.voter.is_some() && !matches!(self.stage, Stage::Joining(_));
            assert!(!promised || seat.accepted_epoch <= self.epoch, "a promise to a later epoch");
        }
    }

    // --- phases --------------------------------------------------------------------------------

    fn try_open(&mut self, now: Instant) {
        let Stage::Joining(discovery) = self.stage else { return };
        if !discovery.is_joined_by_quorum(self.membership.verifier()) {
            return;
        }
        let Some(epoch) = discovery.next_epoch() else {
            return self.resign(ResignReason::EpochsExhausted);
        };
        self.stage = Stage::Opening(discovery);
        self.epoch = epoch;
        self.phase_since = now;
        self.effects.push_back(LeaderEffect::PersistAcceptedEpoch(epoch));
    }

    fn try_synchronize(&mut self, now: Instant) {
        let Stage::Promising(discovery) = &self.stage else { return };
        if discovery.is_promised_by_quorum(self.membership.verifier()) {
            self.stage = Stage::Synchronization(Synchronization::default());
            self.phase_since = now;
            self.effects.push_back(LeaderEffect::PersistCurrentEpoch(self.epoch));
        }
    }

    /// Starts the stream of a learner that has promised, once our own epoch is durable. From this
    /// effect on the learner is in the forwarding set: the cut and the entry are one step (R18).
    fn start_sync(&mut self, at: usize) {
        let established = match &self.stage {
            Stage::Joining(_) | Stage::Opening(_) | Stage::Promising(_) => return,
            Stage::Synchronization(synchronization) if !synchronization.opened => return,
            Stage::Synchronization(_) => false,
            Stage::Broadcast => true,
        };
        let seat = &mut self.seats[at];
        let SeatStage::Promised { last_zxid } = seat.stage else { return };
        let (plan, cut) =
            synchronization::plan(last_zxid, &self.history, self.committed, established);
        seat.stage = SeatStage::Syncing { cut, held: Zxid::ZERO };
        let snapshot_at = self.committed;
        self.effects.push_back(LeaderEffect::Sync { to: seat.sid, plan, snapshot_at, cut });
    }

    fn try_establish(&mut self, now: Instant) {
        let Stage::Synchronization(synchronization) = &self.stage else { return };
        if !synchronization.is_synced_by_quorum(self.membership.verifier()) {
            return;
        }
        self.stage = Stage::Broadcast;
        self.phase_since = now;
        self.committed = self.initial;
        self.broadcast.ack(self.me, self.initial);
        self.recount = true;
        let (epoch, committed) = (self.epoch, self.committed);
        self.effects.push_back(LeaderEffect::Established { epoch, committed });
        for seat in &self.seats {
            if matches!(seat.stage, SeatStage::Synced { .. }) {
                self.effects.push_back(LeaderEffect::UpToDate { to: seat.sid, committed });
            }
        }
    }

    fn ping(&mut self) {
        let round = self.broadcast.begin_round();
        if !self.seats.is_empty() {
            let committed = self.committed;
            self.effects.push_back(LeaderEffect::Ping { round, committed });
        }
    }

    fn resign(&mut self, reason: ResignReason) {
        self.resigned = true;
        self.effects.push_back(LeaderEffect::Resign(reason));
    }

    fn hear(&mut self, now: Instant, voter: Option<VoterIndex>) {
        if let Some(voter) = voter {
            self.broadcast.hear(voter, now);
        }
    }

    fn seat_of(&self, sid: ServerId) -> Result<usize, ProtocolError> {
        let found = self.seats.iter().position(|seat| seat.sid == sid);
        found.ok_or(ProtocolError::UnknownServer { sid })
    }

    // --- what is dropped, and why --------------------------------------------------------------

    /// Whatever comes after the resignation is for the next term.
    #[expect(clippy::unnecessary_wraps, reason = "it stands for the results of the handlers")]
    const fn ignore_after_resignation(&self) -> Result<(), ProtocolError> {
        Ok(())
    }

    /// Something said over a connection that is gone.
    const fn ignore_stranger(&self) {}

    /// Java learners acknowledge NEWLEADER again after UPTODATE.
    const fn ignore_repeated_synced(&self) {}

    /// Cumulative acknowledgements may repeat, and Java followers acknowledge what came before
    /// NEWLEADER (quorum.md 11, 10).
    const fn ignore_stale_ack(&self) {}

    /// An answer to a PING that was never sent proves nothing.
    const fn ignore_unknown_round(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TICKS, at, history, z};
    use alloc::vec;

    type Effects = Vec<LeaderEffect<u32>>;

    fn start(accepted: u32) -> LeaderStart {
        LeaderStart {
            accepted_epoch: Epoch::new(accepted),
            current_epoch: Epoch::new(1),
            history: history(Zxid::ZERO, &[z(1, 1)]),
            committed: Zxid::ZERO,
            window_max: 2,
        }
    }

    fn leader(voters: &[u64], accepted: u32) -> Leader<u32> {
        let voters = voters.iter().copied().map(ServerId).collect();
        let membership = Membership::majority(voters, vec![ServerId(9)]);
        Leader::new(at(0), ServerId(3), membership, TICKS, start(accepted))
    }

    fn effects(leader: &mut Leader<u32>) -> Effects {
        leader.check_invariants();
        core::iter::from_fn(|| leader.poll_effect()).collect()
    }

    fn join(leader: &mut Leader<u32>, now: Instant, sid: u64, accepted: u32) {
        leader
            .handle_joined(now, ServerId(sid), LearnerRole::Follower, Epoch::new(accepted))
            .expect("a voter may join");
    }

    /// Established in epoch 2, with server 1 synchronised.
    fn established() -> Leader<u32> {
        let mut leader = leader(&[1, 2, 3], 1);
        join(&mut leader, at(0), 1, 1);
        leader.handle_durable(at(0), Durable::AcceptedEpoch(Epoch::new(2)));
        leader
            .handle_epoch_acked(at(0), ServerId(1), Some(Epoch::new(1)), z(1, 1))
            .expect("an equal history");
        leader.handle_durable(at(0), Durable::CurrentEpoch(Epoch::new(2)));
        leader.handle_synced(at(0), ServerId(1));
        assert_eq!(leader.phase(), LeaderPhase::Broadcast);
        effects(&mut leader);
        leader
    }

    fn resigns(leader: &mut Leader<u32>) -> Option<ResignReason> {
        match effects(leader).pop() {
            Some(LeaderEffect::Resign(reason)) => Some(reason),
            Some(_) | None => None,
        }
    }

    #[test]
    fn one_commit_covers_what_many_acknowledgements_have_moved() {
        let mut leader = established();
        for counter in 1..=5 {
            leader.propose(at(1), z(2, counter), counter);
        }
        effects(&mut leader);
        for counter in 1..=4 {
            leader.handle_ack(at(2), ServerId(1), z(2, counter)).expect("it was proposed");
        }
        assert_eq!(effects(&mut leader), [], "one voter is no quorum");
        leader.handle_durable(at(3), Durable::Log { through: z(2, 5) });
        assert_eq!(effects(&mut leader), [LeaderEffect::Commit { through: z(2, 4) }]);
        leader.handle_ack(at(3), ServerId(1), z(2, 2)).expect("old, and harmless");
        assert_eq!(effects(&mut leader), []);
        assert_eq!(leader.acked(ServerId(1)), Some(z(2, 4)));
    }

    #[test]
    fn an_acknowledgement_beyond_the_proposals_is_an_error_and_moves_nothing() {
        let mut leader = established();
        leader.propose(at(1), z(2, 1), 1);
        leader.handle_durable(at(1), Durable::Log { through: z(2, 1) });
        effects(&mut leader);
        let error = leader.handle_ack(at(1), ServerId(1), z(2, 2));
        let (proposed, got) = (z(2, 1), z(2, 2));
        assert_eq!(error, Err(ProtocolError::BeyondProposed { proposed, got }));
        assert_eq!(effects(&mut leader), []);
    }

    #[test]
    fn acknowledgements_of_a_lost_connection_do_not_count() {
        let mut leader = established();
        leader.propose(at(1), z(2, 1), 1);
        leader.handle_ack(at(1), ServerId(1), z(2, 1)).expect("it was proposed");
        leader.handle_gone(at(1), ServerId(1));
        leader.handle_durable(at(1), Durable::Log { through: z(2, 1) });
        let commits =
            effects(&mut leader).iter().any(|effect| matches!(effect, LeaderEffect::Commit { .. }));
        assert!(!commits, "a quorum of one connection that is gone");
    }

    #[test]
    fn an_acknowledgement_that_overtakes_newleader_is_held() {
        let mut leader = established();
        join(&mut leader, at(1), 2, 1);
        leader
            .handle_epoch_acked(at(1), ServerId(2), Some(Epoch::new(1)), z(1, 1))
            .expect("late joiners are not compared");
        leader.handle_gone(at(1), ServerId(1));
        leader.propose(at(1), z(2, 1), 1);
        leader.handle_durable(at(1), Durable::Log { through: z(2, 1) });
        leader.handle_ack(at(1), ServerId(2), z(2, 1)).expect("held");
        let commits = |leader: &mut Leader<u32>| {
            effects(leader).contains(&LeaderEffect::Commit { through: z(2, 1) })
        };
        assert!(!commits(&mut leader));
        leader.handle_synced(at(1), ServerId(2));
        assert!(commits(&mut leader));
    }

    #[test]
    fn an_observer_that_acknowledges_is_not_counted() {
        let mut leader = established();
        let observer = ServerId(9);
        leader
            .handle_joined(at(1), observer, LearnerRole::Observer, Epoch::new(0))
            .expect("a configured observer");
        leader
            .handle_epoch_acked(at(1), observer, Some(Epoch::new(0)), Zxid::ZERO)
            .expect("a promise");
        leader.handle_synced(at(1), observer);
        leader.propose(at(1), z(2, 1), 1);
        leader.handle_durable(at(1), Durable::Log { through: z(2, 1) });
        leader.handle_ack(at(1), observer, z(2, 1)).expect("taken, for its lag only");
        let commits =
            effects(&mut leader).iter().any(|effect| matches!(effect, LeaderEffect::Commit { .. }));
        assert!(!commits);
    }

    #[test]
    fn a_promise_that_was_made_before_does_not_count_but_may_synchronise() {
        let mut leader = leader(&[1, 2, 3], 1);
        join(&mut leader, at(0), 1, 1);
        leader.handle_durable(at(0), Durable::AcceptedEpoch(Epoch::new(2)));
        leader.handle_epoch_acked(at(0), ServerId(1), None, z(1, 1)).expect("an equal history");
        assert_eq!(leader.phase(), LeaderPhase::Discovery);
        join(&mut leader, at(0), 2, 1);
        leader
            .handle_epoch_acked(at(0), ServerId(2), Some(Epoch::new(1)), z(1, 1))
            .expect("an equal history");
        assert_eq!(leader.phase(), LeaderPhase::Synchronization);
    }

    #[test]
    fn the_last_counter_of_an_epoch_is_the_last_proposal() {
        let mut leader = established();
        // As if four billion proposals had been committed.
        let before = z(2, Zxid::COUNTER_MAX - 1);
        leader.history = HistoryIndex::new(before);
        leader.committed = before;
        leader.outstanding = Outstanding::new(before, 2);
        let last = z(2, Zxid::COUNTER_MAX);
        leader.propose(at(1), last, 1);
        effects(&mut leader);
        leader.handle_durable(at(1), Durable::Log { through: last });
        leader.handle_ack(at(1), ServerId(1), last).expect("it was proposed");
        assert_eq!(
            effects(&mut leader),
            [
                LeaderEffect::Commit { through: last },
                LeaderEffect::Resign(ResignReason::CounterExhausted)
            ]
        );
    }

    #[test]
    fn there_is_no_epoch_after_the_highest() {
        let mut leader = leader(&[3], Epoch::MAX.get());
        assert_eq!(effects(&mut leader), [LeaderEffect::Resign(ResignReason::EpochsExhausted)]);
    }

    #[test]
    fn an_implausible_epoch_of_one_peer_does_not_use_the_epochs_up() {
        let mut leader = leader(&[1, 2, 3], 1);
        let far = Epoch::new(2 + EPOCH_STEP_MAX);
        let refused = leader.handle_joined(at(0), ServerId(1), LearnerRole::Follower, far);
        let limit = Epoch::new(1 + EPOCH_STEP_MAX);
        assert_eq!(refused, Err(ProtocolError::ImplausibleEpoch { got: far, limit }));
        assert_eq!(effects(&mut leader), []);
    }

    #[test]
    fn strangers_and_doubles_may_not_join() {
        let mut leader = leader(&[1, 2, 3], 1);
        let mut refused = |sid, role| {
            let sid = ServerId(sid);
            let joined = leader.handle_joined(at(0), sid, role, Epoch::ZERO);
            joined == Err(ProtocolError::UnknownServer { sid })
        };
        assert!(refused(7, LearnerRole::Follower));
        assert!(refused(7, LearnerRole::Observer));
        assert!(refused(9, LearnerRole::Follower));
        assert!(refused(3, LearnerRole::Follower), "our own id");
    }

    #[test]
    fn a_candidate_without_a_quorum_gives_up_after_init_limit() {
        let mut leader = leader(&[1, 2, 3], 1);
        assert_eq!(leader.poll_timeout(), Some(at(2000)));
        leader.handle_timeout(at(1999));
        assert_eq!(resigns(&mut leader), None);
        leader.handle_timeout(at(2000));
        assert_eq!(resigns(&mut leader), Some(ResignReason::QuorumNotJoined));
        assert_eq!(leader.poll_timeout(), None);
        assert_eq!(leader.handle_ack(at(2001), ServerId(1), z(9, 9)), Ok(()), "it is over");
    }

    #[test]
    fn a_leader_whose_quorum_is_silent_gives_up_before_it_looks_at_late_acknowledgements() {
        let mut leader = established();
        leader.propose(at(0), z(2, 1), 1);
        leader.handle_durable(at(0), Durable::Log { through: z(2, 1) });
        for millis in (100..1000).step_by(100) {
            leader.handle_timeout(at(millis));
        }
        assert_eq!(resigns(&mut leader), None);
        leader.handle_ack(at(1000), ServerId(1), z(2, 1)).expect("not looked at");
        assert_eq!(resigns(&mut leader), Some(ResignReason::QuorumSilent));
        assert_eq!(leader.committed(), z(1, 1));
    }

    #[test]
    fn a_sync_needs_a_round_that_begins_after_it() {
        let mut leader = established();
        leader.handle_timeout(at(100));
        assert_eq!(effects(&mut leader), [LeaderEffect::Ping { round: 1, committed: z(1, 1) }]);
        leader.sync(at(110), 7);
        leader.sync(at(110), 8);
        assert_eq!(
            effects(&mut leader),
            [LeaderEffect::Ping { round: 2, committed: z(1, 1) }],
            "both share one round"
        );
        leader.handle_heard(at(120), ServerId(1), Some(1));
        leader.handle_heard(at(120), ServerId(1), Some(99));
        assert_eq!(effects(&mut leader), []);
        leader.handle_heard(at(130), ServerId(1), Some(2));
        assert_eq!(
            effects(&mut leader),
            [LeaderEffect::SyncConfirmed { token: 7 }, LeaderEffect::SyncConfirmed { token: 8 }]
        );
    }

    #[test]
    fn the_window_holds_what_is_outstanding_and_the_last_committed_ones() {
        let mut leader = established();
        for counter in 1..=6 {
            leader.propose(at(1), z(2, counter), counter);
        }
        leader.handle_durable(at(1), Durable::Log { through: z(2, 4) });
        leader.handle_ack(at(1), ServerId(1), z(2, 4)).expect("it was proposed");
        effects(&mut leader);
        let window = |after, through| {
            leader.window(after, through).map(|all| all.map(|(_, txn)| *txn).collect::<Vec<_>>())
        };
        assert_eq!(window(z(2, 2), z(2, 6)), Some(vec![3, 4, 5, 6]));
        assert_eq!(window(z(2, 1), z(2, 6)), None, "2/2 is in the log only");
        assert_eq!(window(z(2, 6), z(2, 6)), Some(vec![]));
        assert_eq!(leader.last_proposed(), z(2, 6));
    }

    #[test]
    #[should_panic(expected = "history gap")]
    fn a_gap_in_the_proposals_is_a_stop() {
        established().propose(at(1), z(2, 2), 2);
    }
}
