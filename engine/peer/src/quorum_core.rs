//! The role of this server: looking, following, leading, observing; the order and the counting.
//!
//! Owns `Election` and, in turn, `Leader` or `Learner`. Touches no byte of a transaction and no
//! connection: it speaks of connections by key and leaves the sending to the shards.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use quorate_proto::election::{
    Election, ElectionConfig, ElectionEffect, Notification, PeerState, Vote,
};
use quorate_proto::leader::{
    Leader, LeaderEffect, LeaderPhase, LeaderStart, LearnerRole, ResignReason,
};
use quorate_proto::learner::{Learner, LearnerEffect, LearnerStart, LeaveReason};
use quorate_proto::quorum::Membership;
use quorate_proto::{
    Durable, Epoch, HistoryIndex, Instant, ProtocolError, ServerId, SyncPlan, Ticks, Zxid,
};
use quorate_wire::Frame;

use crate::core_trait::Core;
use crate::limits::Limits;
use crate::links::{
    AdminQuorum, ConnKey, Effect, LINK_SHARD, Message, Recovered, SyncTask, Term, ToLog, ToQuorum,
    ToShard, ToTree,
};
use crate::notice::{Level, Notice};
use crate::timing::{Stage, Timings};

/// Pause between two attempts to reach a new leader; ZooKeeper's
/// `leaderConnectDelayDuringRetryMs` is twice as long.
const LEADER_RETRY: Duration = Duration::from_millis(50);

/// Attempts to reach a new leader before the election starts again: half a second, as ZooKeeper's
/// five attempts.
const LEADER_ATTEMPTS_MAX: u32 = 10;

/// What a quorum core must know from its configuration.
#[derive(Clone, Debug)]
pub struct QuorumConfig {
    /// This server.
    pub sid: ServerId,
    /// Voters, observers and what counts as a quorum.
    pub membership: Membership,
    /// tickTime, initLimit, syncLimit.
    pub ticks: Ticks,
    /// The bounds.
    pub limits: Limits,
    /// Whether an empty directory may vote without hearing that all others are empty too
    /// (ZooKeeper's `initialize` file).
    pub initialize: bool,
}

#[derive(Debug)]
enum Role {
    /// The disk is being read.
    Recovering,
    /// Out of a role, waiting until memory and disk agree (S14).
    Settling,
    Looking,
    Leading(Leader<Frame>),
    Learning(Following),
}

#[derive(Debug)]
struct Following {
    learner: Learner<Frame>,
    /// What it joined as: a voter that had to be kept out of quorums joined as an observer.
    role: LearnerRole,
    leader: ServerId,
    link: Link,
}

#[derive(Debug, PartialEq, Eq)]
enum Link {
    Connecting { attempts: u32 },
    Waiting { attempts: u32, until: Instant },
    Up,
}

/// A received snapshot on its way to the disk.
#[derive(Debug)]
struct Install {
    complete: bool,
    /// Whether it may lack what this server has acknowledged ([`may_forget`]).
    forgets: bool,
}

/// Whether a server whose history ends at `last` may have acknowledged what a snapshot at `zxid`
/// lacks. A snapshot holds what is committed (R11): one that reaches beyond the old history has all of
/// it that counts. An empty history says nothing of what was there before.
pub(crate) fn may_forget(last: Zxid, zxid: Zxid) -> bool {
    last == Zxid::ZERO || last > zxid
}

#[derive(Debug)]
struct LearnerSeat {
    sid: ServerId,
    role: LearnerRole,
    sync: Option<(Stage, Instant)>,
    level: bool,
}

/// A proposal whose commit is awaited, with the stamps of its steps.
#[derive(Debug)]
struct Awaited {
    zxid: Zxid,
    proposed: Instant,
}

/// The core that decides the order.
#[derive(Debug)]
pub struct QuorumCore {
    config: QuorumConfig,
    election: Election,
    role: Role,
    accepted: Epoch,
    current: Epoch,
    /// The history outside a term; inside one the leader or the learner owns it.
    history: HistoryIndex,
    durable: Zxid,
    committed: Zxid,
    truncating: bool,
    install: Option<Install>,
    quarantined: Option<String>,
    /// The last leader wanted a truncation that this history cannot make.
    wants_snapshot: bool,
    /// Empty, and not allowed to vote before all voters are known to be empty.
    awaiting_empty: bool,
    empty_voters: BTreeSet<ServerId>,
    /// The attempt to follow that is under way or was the last.
    term: Term,
    seats: BTreeMap<ConnKey, LearnerSeat>,
    awaited: VecDeque<Awaited>,
    /// How many of `awaited`, from the front, a follower has.
    acked_by_one: usize,
    pings: VecDeque<(u64, Instant)>,
    effects: VecDeque<Effect>,
    timings: Timings,
}

impl QuorumCore {
    /// A core that waits for the log core to say what the disk holds. `seed` varies the election's
    /// timing between servers.
    pub fn new(config: QuorumConfig) -> Self {
        let election =
            Election::new(config.sid, config.membership.clone(), ElectionConfig::default());
        Self {
            config,
            election,
            role: Role::Recovering,
            accepted: Epoch::ZERO,
            current: Epoch::ZERO,
            history: HistoryIndex::new(Zxid::ZERO),
            durable: Zxid::ZERO,
            committed: Zxid::ZERO,
            truncating: false,
            install: None,
            quarantined: None,
            wants_snapshot: false,
            awaiting_empty: false,
            empty_voters: BTreeSet::new(),
            term: Term::default(),
            seats: BTreeMap::new(),
            awaited: VecDeque::new(),
            acked_by_one: 0,
            pings: VecDeque::new(),
            effects: VecDeque::new(),
            timings: Timings::default(),
        }
    }

    /// The steps noted since the last call.
    pub const fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }

    /// The highest zxid that this server knows to be committed.
    pub const fn committed(&self) -> Zxid {
        self.committed
    }

    /// `leader`, `follower`, `observer`, `looking` or `standalone`.
    pub fn role_name(&self) -> &'static str {
        match &self.role {
            Role::Recovering | Role::Settling | Role::Looking => "looking",
            Role::Leading(leader) => match leader.phase() {
                LeaderPhase::Broadcast if self.is_standalone() => "standalone",
                LeaderPhase::Broadcast => "leader",
                LeaderPhase::Discovery | LeaderPhase::Synchronization => "looking",
            },
            Role::Learning(following) if following.learner.is_serving() => {
                match self.learner_role() {
                    LearnerRole::Follower => "follower",
                    LearnerRole::Observer => "observer",
                }
            }
            Role::Learning(_) => "looking",
        }
    }

    fn is_standalone(&self) -> bool {
        let membership = &self.config.membership;
        membership.voters().len() == 1 && membership.observers().is_empty()
    }

    /// A voter that may have forgotten what it promised, or that came back empty, first joins as an
    /// observer: its promise must not count (R26).
    fn learner_role(&self) -> LearnerRole {
        let is_observer = self.config.membership.is_observer(self.config.sid);
        if is_observer || self.quarantined.is_some() || self.awaits_others() {
            LearnerRole::Observer
        } else {
            LearnerRole::Follower
        }
    }

    fn send(&mut self, message: Message) {
        self.effects.push_back(Effect::Send(message));
    }

    fn notice(&mut self, level: Level, text: String) {
        self.effects.push_back(Effect::Notice(Notice { level, text }));
    }

    fn to_tree(&mut self, message: ToTree) {
        self.send(Message::Tree(message));
    }

    fn to_log(&mut self, message: ToLog) {
        self.send(Message::Log(message));
    }

    fn to_shards(&mut self, message: ToShard) {
        self.effects.push_back(Effect::Broadcast(message));
    }

    fn to_learner(&mut self, sid: ServerId, message: impl FnOnce(ConnKey) -> ToShard) {
        if let Some(conn) = self.conn_of(sid) {
            self.send(Message::Shard(conn.shard, message(conn)));
        }
    }

    fn conn_of(&self, sid: ServerId) -> Option<ConnKey> {
        self.seats.iter().find(|(_, seat)| seat.sid == sid).map(|(conn, _)| *conn)
    }

    fn save_epochs(&mut self) {
        assert!(self.current <= self.accepted, "current epoch above the accepted one");
        self.to_log(ToLog::SaveEpochs(self.accepted, self.current));
    }

    // --- start and change of roles -------------------------------------------------------------

    fn handle_recovered(&mut self, now: Instant, recovered: Recovered) {
        assert!(matches!(self.role, Role::Recovering), "recovered twice");
        self.accepted = recovered.accepted_epoch;
        self.current = recovered.current_epoch;
        self.durable = recovered.history.last();
        self.history = recovered.history;
        self.committed = recovered.committed_hint;
        self.quarantined = recovered.quarantined;
        // A directory that only has a store's first files says no more than an empty one: whoever
        // emptied it may have stopped the server right after its start.
        let is_blank = self.accepted == Epoch::ZERO && self.durable == Zxid::ZERO;
        self.awaiting_empty = (recovered.fresh || is_blank) && !self.config.initialize;
        self.empty_voters.insert(self.config.sid);
        if let Some(reason) = self.quarantined.clone() {
            if self.config.membership.voters() == [self.config.sid] {
                // Nobody else could bring it level.
                let why = format!("its data are damaged, restore them from a backup: {reason}");
                return self.effects.push_back(Effect::Fatal(why));
            }
            self.notice(
                Level::Warn,
                format!("this server does not vote until a leader has brought it level: {reason}"),
            );
        }
        self.role = Role::Settling;
        self.try_look(now);
    }

    fn own_vote(&self) -> Option<Vote> {
        let is_voter = self.config.membership.voter_index(self.config.sid).is_some();
        (is_voter && self.quarantined.is_none() && !self.awaits_others()).then_some(Vote {
            leader: self.config.sid,
            zxid: self.durable,
            peer_epoch: self.current,
        })
    }

    /// An empty server votes only when every voter is known to be empty: otherwise one wiped and one
    /// lagging server could elect each other and lose what the third acknowledged (R26).
    fn awaits_others(&self) -> bool {
        let voters = self.config.membership.voters();
        self.awaiting_empty && !voters.iter().all(|sid| self.empty_voters.contains(sid))
    }

    fn try_look(&mut self, now: Instant) {
        let settled = self.durable == self.history.last()
            && !self.truncating
            && self.install.as_ref().is_none_or(|install| !install.complete);
        if !matches!(self.role, Role::Settling) || !settled {
            return;
        }
        self.install = None;
        self.role = Role::Looking;
        let vote = self.own_vote();
        self.election.look(now, vote);
        if self.awaits_others() {
            self.tell_empty();
        }
        self.drain_election(now);
    }

    /// Tells the other voters that this server is empty, by the vote that only an empty server has.
    fn tell_empty(&mut self) {
        let sid = self.config.sid;
        let vote = Vote { leader: sid, zxid: Zxid::ZERO, peer_epoch: Epoch::ZERO };
        let note = Notification { from: sid, state: PeerState::Looking, vote, round: 0 };
        for to in self.config.membership.voters().to_vec() {
            if to != sid {
                self.send(Message::Shard(LINK_SHARD, ToShard::Notify(to, note)));
            }
        }
    }

    fn handle_notified(&mut self, now: Instant, notification: Notification) {
        let vote = notification.vote;
        let is_empty = notification.state == PeerState::Looking
            && vote.leader == notification.from
            && vote.zxid == Zxid::ZERO
            && vote.peer_epoch == Epoch::ZERO;
        if self.awaiting_empty && is_empty {
            let news = self.empty_voters.insert(notification.from);
            let looking = matches!(self.role, Role::Looking);
            if news && looking {
                self.tell_empty();
                if !self.awaits_others() {
                    self.notice(
                        Level::Info,
                        "every voter is empty: a new ensemble begins".to_string(),
                    );
                    let own = self.own_vote();
                    self.election.look(now, own);
                }
            }
        }
        if notification.round > 0 {
            self.election.handle_notification(now, notification);
        }
        self.drain_election(now);
    }

    fn drain_election(&mut self, now: Instant) {
        while let Some(effect) = self.election.poll_effect() {
            match effect {
                ElectionEffect::Notify { to, notification } => {
                    self.send(Message::Shard(LINK_SHARD, ToShard::Notify(to, notification)));
                }
                ElectionEffect::Elected(vote) => self.handle_elected(now, vote),
            }
        }
    }

    fn handle_elected(&mut self, now: Instant, vote: Vote) {
        if !matches!(self.role, Role::Looking) {
            return;
        }
        if vote.leader == self.config.sid {
            self.begin_leading(now, vote);
        } else {
            self.begin_following(now, vote);
        }
    }

    fn begin_leading(&mut self, now: Instant, vote: Vote) {
        self.notice(Level::Info, format!("elected to lead, last zxid {}", self.durable));
        self.election.settle(PeerState::Leading, vote);
        let start = LeaderStart {
            accepted_epoch: self.accepted,
            current_epoch: self.current,
            history: core::mem::take(&mut self.history),
            committed: self.committed,
            window_max: self.config.limits.window_max,
        };
        let leader = Leader::new(
            now,
            self.config.sid,
            self.config.membership.clone(),
            self.config.ticks,
            start,
        );
        self.role = Role::Leading(leader);
        self.to_shards(ToShard::Accepting(true));
        self.drain_leader(now);
    }

    fn begin_following(&mut self, now: Instant, vote: Vote) {
        let leader = vote.leader;
        self.notice(Level::Info, format!("following server {leader}"));
        if self.awaits_others() && self.quarantined.is_none() {
            // What it learns until it is level may be less than what it once acknowledged (R26).
            self.quarantined = Some("it came back empty and is not level yet".to_string());
            self.to_log(ToLog::Quarantine);
        }
        let role = self.learner_role();
        let state = match role {
            LearnerRole::Follower => PeerState::Following,
            LearnerRole::Observer => PeerState::Observing,
        };
        self.election.settle(state, vote);
        let start = LearnerStart {
            accepted_epoch: self.accepted,
            current_epoch: self.current,
            history: core::mem::take(&mut self.history),
            durable: self.durable,
            committed: self.committed,
        };
        let mut learner = Learner::new(now, self.config.sid, role, self.config.ticks, start);
        if core::mem::take(&mut self.wants_snapshot) {
            learner.ask_for_snapshot();
        }
        let link = Link::Connecting { attempts: 1 };
        self.role = Role::Learning(Following { learner, role, leader, link });
        self.term.0 += 1;
        self.connect_leader(leader);
    }

    /// Ends a term in whatever phase it is. The reported zxid is always the disk's (S14), so the
    /// next election waits until memory and disk agree.
    fn leave(&mut self, now: Instant, why: &str) {
        self.leave_saying(now, Level::Warn, why);
    }

    fn leave_saying(&mut self, now: Instant, level: Level, why: &str) {
        match core::mem::replace(&mut self.role, Role::Settling) {
            Role::Leading(leader) => {
                self.notice(level, format!("stops leading: {why}"));
                self.history = leader.into_history();
                self.to_shards(ToShard::Accepting(false));
                self.seats.clear();
                self.awaited.clear();
                self.acked_by_one = 0;
                self.pings.clear();
            }
            Role::Learning(following) => {
                self.notice(level, format!("leaves server {}: {why}", following.leader));
                self.history = following.learner.into_history();
                self.send(Message::Shard(LINK_SHARD, ToShard::DropLeader));
                match &self.install {
                    // What a snapshot has not reached yet is not held any more; this server is in
                    // quarantine until it is.
                    Some(install) if install.complete => {
                        self.committed = self.committed.min(self.history.last());
                    }
                    Some(_) => {
                        self.install = None;
                        self.to_log(ToLog::AbortInstall);
                        self.to_tree(ToTree::AbortRestore);
                    }
                    None => {}
                }
            }
            role @ (Role::Recovering | Role::Settling | Role::Looking) => {
                self.role = role;
                return;
            }
        }
        self.to_tree(ToTree::Look(self.history.last()));
        self.try_look(now);
    }

    // --- leading -------------------------------------------------------------------------------

    /// Runs `f` on the leader; a protocol error closes that learner's connection.
    fn with_leader(
        &mut self,
        now: Instant,
        conn: ConnKey,
        f: impl FnOnce(&mut Leader<Frame>, ServerId) -> Result<(), ProtocolError>,
    ) {
        let Some(seat) = self.seats.get(&conn) else { return };
        let sid = seat.sid;
        let Role::Leading(leader) = &mut self.role else { return };
        if let Err(error) = f(leader, sid) {
            self.drop_learner(now, conn, &error.to_string());
        }
        self.drain_leader(now);
    }

    fn drop_learner(&mut self, now: Instant, conn: ConnKey, why: &str) {
        let Some(seat) = self.seats.remove(&conn) else { return };
        if let Role::Leading(leader) = &mut self.role {
            leader.handle_gone(now, seat.sid);
        }
        self.send(Message::Shard(conn.shard, ToShard::CloseLearner(conn, why.to_string())));
    }

    fn handle_joined(
        &mut self,
        now: Instant,
        conn: ConnKey,
        sid: ServerId,
        role: LearnerRole,
        accepted: Epoch,
    ) {
        if !matches!(self.role, Role::Leading(_)) {
            let why = ToShard::CloseLearner(conn, "this server does not lead".to_string());
            self.send(Message::Shard(conn.shard, why));
            return;
        }
        if let Some(old) = self.conn_of(sid) {
            self.drop_learner(now, old, "replaced by a newer connection of the same server");
        }
        self.seats.insert(conn, LearnerSeat { sid, role, sync: None, level: false });
        self.with_leader(now, conn, |leader, sid| leader.handle_joined(now, sid, role, accepted));
    }

    fn handle_gone(&mut self, now: Instant, conn: ConnKey) {
        if let Some(seat) = self.seats.remove(&conn)
            && let Role::Leading(leader) = &mut self.role
        {
            leader.handle_gone(now, seat.sid);
        }
        self.drain_leader(now);
    }

    fn note_ack(&mut self, now: Instant, conn: ConnKey, zxid: Zxid) {
        let counts = self.seats.get(&conn).is_some_and(|seat| seat.role == LearnerRole::Follower);
        if !counts {
            return;
        }
        while let Some(awaited) = self.awaited.get(self.acked_by_one)
            && awaited.zxid <= zxid
        {
            self.timings.note(Stage::FirstAck, awaited.proposed, now);
            self.acked_by_one += 1;
        }
    }

    fn handle_proposed(&mut self, now: Instant, zxid: Zxid, frame: Frame, at: Instant) {
        let Role::Leading(leader) = &mut self.role else { return };
        if zxid.epoch() != leader.epoch() || leader.phase() != LeaderPhase::Broadcast {
            return;
        }
        self.timings.note(Stage::Prepared, at, now);
        self.awaited.push_back(Awaited { zxid, proposed: now });
        leader.propose(now, zxid, frame);
        self.drain_leader(now);
    }

    fn drain_leader(&mut self, now: Instant) {
        loop {
            let Role::Leading(leader) = &mut self.role else { return };
            let Some(effect) = leader.poll_effect() else { return };
            match effect {
                LeaderEffect::PersistAcceptedEpoch(epoch) => {
                    self.accepted = epoch;
                    self.save_epochs();
                }
                LeaderEffect::PersistCurrentEpoch(epoch) => {
                    self.current = epoch;
                    self.save_epochs();
                }
                LeaderEffect::LeaderInfo { to, epoch } => {
                    self.to_learner(to, |conn| ToShard::LeaderInfo(conn, epoch));
                }
                LeaderEffect::Sync { to, plan, snapshot_at, cut } => {
                    self.begin_sync(now, to, plan, snapshot_at, cut);
                }
                LeaderEffect::Established { epoch, committed } => {
                    self.notice(
                        Level::Info,
                        format!("leads epoch {epoch}, history committed up to {committed}"),
                    );
                    self.election.refresh_peer_epoch(epoch);
                    self.awaiting_empty = false;
                    self.commit(now, committed);
                    self.to_tree(ToTree::Lead(epoch));
                }
                LeaderEffect::UpToDate { to, committed } => {
                    self.note_level(now, to);
                    self.to_learner(to, |conn| ToShard::UpToDate(conn, committed));
                }
                LeaderEffect::Append { zxid, txn } => self.to_log(ToLog::Append(zxid, txn, now)),
                LeaderEffect::Broadcast { zxid, txn } => {
                    if !self.seats.is_empty() {
                        self.to_shards(ToShard::Propose(zxid, txn));
                    }
                }
                LeaderEffect::Commit { through } => {
                    self.commit(now, through);
                    if !self.seats.is_empty() {
                        self.to_shards(ToShard::Commit(through));
                    }
                }
                LeaderEffect::Ping { round, committed } => {
                    self.pings.push_back((round, now));
                    if self.pings.len() > 64 {
                        self.pings.pop_front();
                    }
                    self.to_shards(ToShard::Ping(round, committed));
                }
                LeaderEffect::SyncConfirmed { token } => {
                    self.to_tree(ToTree::SyncConfirmed(token));
                }
                LeaderEffect::Resign(ResignReason::EpochsExhausted) => {
                    let why = ResignReason::EpochsExhausted.to_string();
                    return self.effects.push_back(Effect::Fatal(why));
                }
                LeaderEffect::Resign(reason) => self.leave(now, &reason.to_string()),
            }
        }
    }

    fn begin_sync(
        &mut self,
        now: Instant,
        to: ServerId,
        plan: SyncPlan,
        snapshot_at: Zxid,
        cut: Zxid,
    ) {
        let Some(conn) = self.conn_of(to) else { return };
        let Role::Leading(leader) = &self.role else { return };
        let (after, step) = match plan {
            SyncPlan::Diff { after } => (after, Stage::SyncDiff),
            SyncPlan::Trunc { to } | SyncPlan::TruncThenDiff { to } => (to, Stage::SyncTrunc),
            SyncPlan::Snap => (snapshot_at, Stage::SyncSnap),
        };
        let mut from_log = None;
        let mut tail = Vec::new();
        if after < cut {
            match leader.window(after, cut) {
                Some(window) => tail.extend(window.map(|(_, frame)| frame.clone())),
                None => from_log = Some((after, cut)),
            }
        }
        let outstanding = leader
            .window(cut, leader.last_proposed())
            .map(|window| window.map(|(_, frame)| frame.clone()).collect())
            .unwrap_or_default();
        let new_leader = leader.epoch().start();
        let task = SyncTask { plan, snapshot_at, cut, from_log, tail, outstanding, new_leader };
        if let Some(seat) = self.seats.get_mut(&conn) {
            seat.sync = Some((step, now));
        }
        self.notice(Level::Info, format!("synchronises server {to}: {plan:?} up to {cut}"));
        // Behind every Commit sent so far: the cut is exactly at `snapshot_at`.
        if plan == SyncPlan::Snap {
            self.to_tree(ToTree::CutFor(conn, snapshot_at));
        }
        self.send(Message::Shard(conn.shard, ToShard::Sync(conn, Box::new(task))));
    }

    fn note_level(&mut self, now: Instant, sid: ServerId) {
        let Some(conn) = self.conn_of(sid) else { return };
        let Some(seat) = self.seats.get_mut(&conn) else { return };
        seat.level = true;
        if let Some((step, since)) = seat.sync.take() {
            self.timings.note(step, since, now);
        }
    }

    fn commit(&mut self, now: Instant, through: Zxid) {
        if through <= self.committed {
            return;
        }
        self.committed = through;
        while let Some(awaited) = self.awaited.front() {
            if awaited.zxid > through {
                break;
            }
            self.timings.note(Stage::Quorum, awaited.proposed, now);
            self.awaited.pop_front();
            self.acked_by_one = self.acked_by_one.saturating_sub(1);
        }
        self.to_tree(ToTree::Commit(through, now));
    }

    // --- learning ------------------------------------------------------------------------------

    fn handle_leader_up(&mut self, now: Instant) {
        let Role::Learning(following) = &mut self.role else { return };
        following.link = Link::Up;
        following.learner.connected(now);
        self.drain_learner(now);
    }

    fn handle_leader_down(&mut self, now: Instant, why: &str) {
        let Role::Learning(following) = &mut self.role else { return };
        match following.link {
            Link::Connecting { attempts } if attempts < LEADER_ATTEMPTS_MAX => {
                following.link = Link::Waiting { attempts, until: now + LEADER_RETRY };
            }
            Link::Waiting { .. } => {}
            Link::Connecting { .. } | Link::Up => self.leave(now, why),
        }
    }

    fn retry_link(&mut self, now: Instant) {
        let Role::Learning(following) = &mut self.role else { return };
        if let Link::Waiting { attempts, until } = following.link
            && until <= now
        {
            following.link = Link::Connecting { attempts: attempts + 1 };
            let leader = following.leader;
            self.connect_leader(leader);
        }
    }

    fn connect_leader(&mut self, leader: ServerId) {
        let message = ToShard::ConnectLeader(leader, self.term);
        self.send(Message::Shard(LINK_SHARD, message));
    }

    fn drain_learner(&mut self, now: Instant) {
        loop {
            let Role::Learning(following) = &mut self.role else { return };
            let Some(effect) = following.learner.poll_effect() else { return };
            match effect {
                LearnerEffect::Send(packet) => {
                    let message = ToShard::ToLeader(self.term, packet);
                    self.send(Message::Shard(LINK_SHARD, message));
                }
                LearnerEffect::AnswerPing { round } => {
                    self.to_tree(ToTree::AnswerPing(self.term, round));
                }
                LearnerEffect::PersistAcceptedEpoch(epoch) => {
                    self.accepted = epoch;
                    self.save_epochs();
                }
                LearnerEffect::PersistCurrentEpoch(epoch) => {
                    self.current = epoch;
                    // Everything that the leader sent is durable: nothing is missing any more.
                    self.to_log(ToLog::Rebuilt);
                    self.save_epochs();
                }
                LearnerEffect::Append { zxid, txn } => {
                    self.to_tree(ToTree::Stage(zxid, txn.clone()));
                    self.to_log(ToLog::Append(zxid, txn, now));
                }
                LearnerEffect::Truncate { to } => {
                    assert!(to >= self.committed, "truncation to {to} below a commit");
                    self.truncating = true;
                    // Lowered at once: it speaks of what the history holds (R2).
                    self.durable = to;
                    self.to_tree(ToTree::Truncate(to));
                    self.to_log(ToLog::Truncate(to));
                }
                LearnerEffect::BeginSnapshot { zxid } => {
                    let forgets = may_forget(self.durable, zxid);
                    self.install = Some(Install { complete: false, forgets });
                    self.to_tree(ToTree::BeginRestore);
                    self.to_log(ToLog::BeginInstall(zxid));
                }
                LearnerEffect::SnapshotChunk { bytes, last } => {
                    if last && let Some(install) = &mut self.install {
                        install.complete = true;
                        // The old history is not ours any more.
                        self.durable = Zxid::ZERO;
                        if install.forgets {
                            let why = "its history was replaced by a snapshot and is not level yet";
                            self.quarantined.get_or_insert_with(|| why.to_string());
                        }
                    }
                    self.to_tree(ToTree::RestoreChunk(bytes.clone(), last));
                    self.to_log(ToLog::InstallChunk(bytes, last));
                }
                LearnerEffect::Serve { epoch, committed } => self.serve(now, epoch, committed),
                LearnerEffect::Commit { through } => self.commit(now, through),
                LearnerEffect::Revalidated { session, valid } => {
                    self.to_tree(ToTree::Revalidated(session, valid));
                }
                LearnerEffect::Synced { request } => self.to_tree(ToTree::Synced(request)),
                LearnerEffect::Leave(reason) => {
                    self.wants_snapshot = matches!(reason, LeaveReason::NeedsSnapshot { .. });
                    self.leave(now, &reason.to_string());
                }
            }
        }
    }

    /// UPTODATE: this server is level.
    fn serve(&mut self, now: Instant, epoch: Epoch, committed: Zxid) {
        self.notice(Level::Info, format!("serves in epoch {epoch}"));
        self.election.refresh_peer_epoch(epoch);
        let Role::Learning(following) = &self.role else { return };
        let joined_as = following.role;
        self.quarantined = None;
        self.awaiting_empty = false;
        // A snapshot may have taken the tree back below what was known here, so it is told anew.
        self.committed = self.committed.max(committed);
        self.to_tree(ToTree::Commit(committed, now));
        self.to_tree(ToTree::Follow(self.term));
        let is_observer = self.config.membership.is_observer(self.config.sid);
        if joined_as == LearnerRole::Observer && !is_observer {
            self.leave_saying(now, Level::Info, "level again, it joins anew as a voter");
        }
    }

    fn handle_durable(&mut self, now: Instant, durable: Durable) {
        match durable {
            Durable::AcceptedEpoch(_) | Durable::CurrentEpoch(_) => {}
            Durable::Log { through } => self.durable = through,
            Durable::Truncated { to } => {
                self.truncating = false;
                self.durable = self.durable.max(to);
            }
            Durable::Snapshot { zxid } => {
                self.install = None;
                self.durable = self.durable.max(zxid);
                self.committed = self.committed.max(zxid);
            }
        }
        match &mut self.role {
            Role::Leading(leader) => {
                leader.handle_durable(now, durable);
                self.drain_leader(now);
            }
            Role::Learning(following) => {
                following.learner.handle_durable(now, durable);
                self.drain_learner(now);
            }
            Role::Recovering | Role::Settling | Role::Looking => self.try_look(now),
        }
    }

    fn admin(&self) -> AdminQuorum {
        let (epoch, leader, learners, last) = match &self.role {
            Role::Leading(leader) => {
                let learners = self
                    .seats
                    .values()
                    .map(|seat| {
                        (
                            seat.sid,
                            seat.role,
                            leader.acked(seat.sid).unwrap_or_default(),
                            seat.level,
                        )
                    })
                    .collect();
                (leader.epoch(), Some(self.config.sid), learners, leader.last_proposed())
            }
            Role::Learning(following) => (
                self.current,
                Some(following.leader),
                Vec::new(),
                following.learner.history().last(),
            ),
            Role::Recovering | Role::Settling | Role::Looking => {
                (self.current, None, Vec::new(), self.history.last())
            }
        };
        AdminQuorum {
            sid: self.config.sid,
            role: self.role_name(),
            epoch,
            leader,
            committed: self.committed,
            last,
            learners,
        }
    }
}

impl Core for QuorumCore {
    type Input = ToQuorum;
    type Effect = Effect;

    fn handle(&mut self, now: Instant, input: ToQuorum) {
        match input {
            ToQuorum::Recovered(recovered) => self.handle_recovered(now, *recovered),
            ToQuorum::Durable(durable) => self.handle_durable(now, durable),
            ToQuorum::Forgot(floor) => match &mut self.role {
                Role::Leading(leader) => leader.forget_before(floor),
                Role::Learning(following) => following.learner.forget_before(floor),
                Role::Recovering | Role::Settling | Role::Looking => {
                    self.history.forget_before(floor);
                }
            },
            ToQuorum::Joined(conn, sid, role, accepted) => {
                self.handle_joined(now, conn, sid, role, accepted);
            }
            ToQuorum::EpochAcked(conn, current, last) => {
                self.with_leader(now, conn, |leader, sid| {
                    leader.handle_epoch_acked(now, sid, current, last)
                });
            }
            ToQuorum::Synced(conn) => self.with_leader(now, conn, |leader, sid| {
                leader.handle_synced(now, sid);
                Ok(())
            }),
            ToQuorum::Acked(conn, zxid) => {
                self.note_ack(now, conn, zxid);
                self.with_leader(now, conn, |leader, sid| leader.handle_ack(now, sid, zxid));
            }
            ToQuorum::Heard(conn, round) => {
                if let Some(round) = round
                    && let Some((_, sent)) = self.pings.iter().find(|(sent, _)| *sent == round)
                {
                    self.timings.note(Stage::PingRoundTrip, *sent, now);
                }
                self.with_leader(now, conn, |leader, sid| {
                    leader.handle_heard(now, sid, round);
                    Ok(())
                });
            }
            ToQuorum::Gone(conn) => self.handle_gone(now, conn),
            ToQuorum::Proposed { zxid, frame, at } => self.handle_proposed(now, zxid, frame, at),
            ToQuorum::Sync(token) => {
                if let Role::Leading(leader) = &mut self.role {
                    leader.sync(now, token);
                    self.drain_leader(now);
                }
            }
            ToQuorum::Notified(notification) => self.handle_notified(now, notification),
            ToQuorum::PeerUp(sid) => {
                self.election.handle_connected(now, sid);
                if matches!(self.role, Role::Looking) && self.awaits_others() {
                    self.tell_empty();
                }
                self.drain_election(now);
            }
            ToQuorum::LeaderUp(term)
            | ToQuorum::LeaderDown(term, _)
            | ToQuorum::FromLeader(term, _)
                if term != self.term => {}
            ToQuorum::LeaderUp(_) => self.handle_leader_up(now),
            ToQuorum::LeaderDown(_, why) => self.handle_leader_down(now, &why),
            ToQuorum::FromLeader(_, packet) => {
                let Role::Learning(following) = &mut self.role else { return };
                if let Err(error) = following.learner.handle_packet(now, packet) {
                    self.leave(now, &error.to_string());
                }
                self.drain_learner(now);
            }
            ToQuorum::Admin(conn, word, shard) => {
                let quorum = self.admin();
                self.to_tree(ToTree::Admin(conn, word, shard, Box::new(quorum)));
            }
            ToQuorum::Relay(conn, packet) => {
                self.send(Message::Shard(conn.shard, ToShard::ToLearner(conn, packet)));
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.election.handle_timeout(now);
        self.drain_election(now);
        match &mut self.role {
            Role::Leading(leader) => {
                leader.handle_timeout(now);
                self.drain_leader(now);
            }
            Role::Learning(following) => {
                following.learner.handle_timeout(now);
                self.drain_learner(now);
                self.retry_link(now);
            }
            Role::Recovering | Role::Settling | Role::Looking => {}
        }
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let role = match &self.role {
            Role::Leading(leader) => leader.poll_timeout(),
            Role::Learning(following) => {
                let retry = match following.link {
                    Link::Waiting { until, .. } => Some(until),
                    Link::Connecting { .. } | Link::Up => None,
                };
                following.learner.poll_timeout().into_iter().chain(retry).min()
            }
            Role::Recovering | Role::Settling | Role::Looking => None,
        };
        self.election.poll_timeout().into_iter().chain(role).min()
    }

    fn check_invariants(&self) {
        assert!(self.current <= self.accepted, "current epoch above the accepted one (S10)");
        self.election.check_invariants();
        match &self.role {
            Role::Leading(leader) => leader.check_invariants(),
            Role::Learning(following) => following.learner.check_invariants(),
            Role::Recovering | Role::Settling | Role::Looking => {
                assert!(self.durable <= self.history.last(), "durable beyond the history");
            }
        }
    }
}
