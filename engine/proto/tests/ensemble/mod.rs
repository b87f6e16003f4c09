//! A whole ensemble in one thread: `Election`, `Leader`, `Learner` and `LearnerHandler` over FIFO
//! links, disks that can be held, and virtual time.
//!
//! Opens no socket and reads no clock. What happens next is chosen by whoever drives it: round
//! robin by the scripts, a seed by the random runs.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test crate uses a part of this module"
)]

mod disk;
mod node;
mod oracle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use disk::{Disk, File};
pub use oracle::Oracle;

pub use node::{parse_chunk, parse_zxid};

use node::{Link, Node, Role};
use quorate_proto::election::{Election, ElectionConfig, ElectionEffect, Notification, PeerState};
use quorate_proto::leader::{Leader, LeaderEffect, LeaderPhase, LeaderStart, LearnerRole};
use quorate_proto::learner::{Learner, LearnerEffect, LearnerStart};
use quorate_proto::learner_handler::LearnerHandler;
use quorate_proto::quorum::Membership;
use quorate_proto::{Instant, ServerId, SyncPlan, Ticks, ToLeader, ToLearner, Zxid};

/// Pause between two attempts to reach a leader that does not listen yet.
const CONNECT_RETRY: Duration = Duration::from_millis(20);
/// Attempts before the learner looks again.
const CONNECT_ATTEMPTS: u32 = 20;

/// A connection between a learner and its leader, with what is in flight.
#[derive(Debug)]
struct Conn {
    leader: ServerId,
    handler: LearnerHandler,
    role: LearnerRole,
    /// In the forwarding set.
    forwarding: bool,
    /// For observers: what they get when it is committed.
    informs: VecDeque<(Zxid, String)>,
    to_leader: VecDeque<ToLeader<String>>,
    to_learner: VecDeque<ToLearner<String>>,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A notification arrives.
    Notification { from: ServerId, to: ServerId },
    /// A packet of this learner arrives at its leader.
    ToLeader { learner: ServerId },
    /// A packet arrives at this learner.
    ToLearner { learner: ServerId },
    /// A server's disk finishes what it is doing to a file.
    Disk { server: ServerId, file: File },
}

pub struct Ensemble {
    pub now: Instant,
    ticks: Ticks,
    membership: Membership,
    window_max: usize,
    nodes: BTreeMap<ServerId, Node>,
    notifications: BTreeMap<(ServerId, ServerId), VecDeque<Notification>>,
    conns: BTreeMap<ServerId, Conn>,
    cuts: BTreeSet<(ServerId, ServerId)>,
    pub oracle: Oracle,
    pub hidden: BTreeSet<String>,
    trace: Vec<String>,
}

/// A zxid as epoch/counter.
pub fn z(zxid: Zxid) -> String {
    format!("{}/{}", zxid.epoch(), zxid.counter())
}

impl Ensemble {
    pub fn new(membership: Membership, ticks: Ticks, window_max: usize) -> Self {
        let everybody = membership.voters().iter().chain(membership.observers());
        let nodes = everybody
            .map(|sid| {
                let election = Election::new(*sid, membership.clone(), ElectionConfig::default());
                (*sid, Node::new(*sid, election))
            })
            .collect();
        Self {
            now: Instant::ZERO,
            ticks,
            window_max,
            nodes,
            notifications: BTreeMap::new(),
            conns: BTreeMap::new(),
            cuts: BTreeSet::new(),
            oracle: Oracle::new(membership.clone()),
            membership,
            hidden: BTreeSet::new(),
            trace: Vec::new(),
        }
    }

    pub fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    fn note(&mut self, sid: ServerId, kind: &str, text: &str) {
        if !self.hidden.contains(kind) {
            self.trace.push(format!("{sid} {kind} {text}").trim_end().to_string());
        }
    }

    pub fn servers(&self) -> Vec<ServerId> {
        self.nodes.keys().copied().collect()
    }

    pub fn is_up(&self, sid: ServerId) -> bool {
        !matches!(self.nodes[&sid].role, Role::Down)
    }

    /// The server that leads, as far as it knows itself, in the highest epoch.
    pub fn leader(&self) -> Option<ServerId> {
        let leading = self.nodes.values().filter_map(|node| match &node.role {
            Role::Leading(leader) if leader.phase() == LeaderPhase::Broadcast => {
                Some((leader.epoch(), node.sid))
            }
            _ => None,
        });
        leading.max().map(|(_, sid)| sid)
    }

    pub fn is_level(&self, sid: ServerId) -> bool {
        match &self.nodes[&sid].role {
            Role::Leading(leader) => leader.phase() == LeaderPhase::Broadcast,
            Role::Learning(learner, _) => learner.is_serving(),
            Role::Down | Role::Settling | Role::Looking => false,
        }
    }

    pub fn committed(&self, sid: ServerId) -> Zxid {
        self.nodes[&sid].committed
    }

    pub fn disk(&mut self, sid: ServerId) -> &mut Disk {
        &mut self.nodes.get_mut(&sid).expect("a configured server").disk
    }

    // --- what the driver does ------------------------------------------------------------------

    pub fn start(&mut self, sid: ServerId) {
        let election = Election::new(sid, self.membership.clone(), ElectionConfig::default());
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        assert!(matches!(node.role, Role::Down), "started twice");
        node.boot(election);
        self.try_look(sid);
        for other in self.servers() {
            if other != sid && self.is_up(other) && !self.is_cut(sid, other) {
                self.link_up(other, sid);
                self.link_up(sid, other);
            }
        }
    }

    /// Stops a server; some of its pending disk operations reach the disk all the same.
    pub fn crash(&mut self, sid: ServerId, log_written: usize, epochs_written: usize) {
        self.drop_conns(|learner, conn| learner == sid || conn.leader == sid, Some(sid));
        self.notifications.retain(|(from, to), _| *from != sid && *to != sid);
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        node.role = Role::Down;
        node.disk.crash(log_written, epochs_written);
    }

    pub fn cut(&mut self, a: ServerId, b: ServerId) {
        self.cuts.insert((a.min(b), a.max(b)));
        self.notifications.remove(&(a, b));
        self.notifications.remove(&(b, a));
        self.drop_conns(
            |learner, conn| {
                (learner == a && conn.leader == b) || (learner == b && conn.leader == a)
            },
            None,
        );
    }

    pub fn heal(&mut self, a: ServerId, b: ServerId) {
        if self.cuts.remove(&(a.min(b), a.max(b))) && self.is_up(a) && self.is_up(b) {
            self.link_up(a, b);
            self.link_up(b, a);
        }
    }

    pub fn heal_all(&mut self) {
        for (a, b) in self.cuts.clone() {
            self.heal(a, b);
        }
    }

    /// Proposes at a server that leads; false if it does not.
    pub fn propose(&mut self, sid: ServerId, txn: &str) -> bool {
        let now = self.now;
        let Some(leader) = self.established(sid) else { return false };
        let last = leader.last_proposed().max(leader.epoch().start());
        let Some(zxid) = last.next() else { return false };
        leader.propose(now, zxid, txn.to_string());
        self.drain(sid);
        true
    }

    pub fn sync(&mut self, sid: ServerId, token: u64) -> bool {
        let now = self.now;
        let Some(leader) = self.established(sid) else { return false };
        leader.sync(now, token);
        self.oracle.sync_asked(sid, token);
        self.drain(sid);
        true
    }

    /// The machine of a server that leads and may propose.
    fn established(&mut self, sid: ServerId) -> Option<&mut Leader<String>> {
        match &mut self.nodes.get_mut(&sid).expect("a configured server").role {
            Role::Leading(leader) if leader.phase() == LeaderPhase::Broadcast => Some(leader),
            _ => None,
        }
    }

    // --- what happens by itself ----------------------------------------------------------------

    /// Everything that can happen now.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for ((from, to), queue) in &self.notifications {
            if !queue.is_empty() {
                steps.push(Step::Notification { from: *from, to: *to });
            }
        }
        for (learner, conn) in &self.conns {
            if !conn.to_leader.is_empty() {
                steps.push(Step::ToLeader { learner: *learner });
            }
            if !conn.to_learner.is_empty() {
                steps.push(Step::ToLearner { learner: *learner });
            }
        }
        for node in self.nodes.values() {
            for file in [File::Log, File::Epochs] {
                if node.disk.is_busy(file) {
                    steps.push(Step::Disk { server: node.sid, file });
                }
            }
        }
        steps
    }

    pub fn take(&mut self, step: Step) {
        match step {
            Step::Notification { from, to } => {
                let queue = self.notifications.get_mut(&(from, to));
                if let Some(notification) = queue.and_then(VecDeque::pop_front) {
                    let now = self.now;
                    let node = self.nodes.get_mut(&to).expect("links join servers");
                    node.election.handle_notification(now, notification);
                    self.drain(to);
                }
            }
            Step::ToLeader { learner } => self.deliver_to_leader(learner),
            Step::ToLearner { learner } => self.deliver_to_learner(learner),
            Step::Disk { server, file } => self.finish_disk(server, file),
        }
        self.check();
    }

    /// The next moment at which a timer is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.nodes.values().filter_map(Node::poll_timeout).min()
    }

    /// Moves time on, and fires what is due.
    pub fn advance(&mut self, to: Instant) {
        self.now = self.now.max(to);
        for sid in self.servers() {
            self.fire(sid);
        }
        self.drop_overdue();
        self.check();
    }

    /// Takes every step in turn until nothing is in flight.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let steps = self.steps();
            if steps.is_empty() {
                return;
            }
            for step in steps {
                self.take(step);
            }
        }
        let last = &self.trace[self.trace.len().saturating_sub(60)..];
        panic!("the ensemble never comes to rest:\n{}", last.join("\n"));
    }

    /// Lets time pass, with everything delivered at once.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(at) = self.next_timeout().filter(|at| *at <= end) {
            self.advance(at);
            self.settle();
        }
        self.advance(end);
        self.settle();
    }

    /// Lets time pass for nobody, as if every server had stood still.
    pub fn pause(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    fn check(&mut self) {
        for node in self.nodes.values() {
            node.check_invariants();
        }
        self.oracle.check_disks(self.nodes.values().map(|node| (node.sid, &node.disk)));
    }

    fn is_cut(&self, a: ServerId, b: ServerId) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    fn link_up(&mut self, from: ServerId, to: ServerId) {
        let now = self.now;
        let node = self.nodes.get_mut(&from).expect("a configured server");
        node.election.handle_connected(now, to);
        self.drain(from);
    }

    // --- roles ---------------------------------------------------------------------------------

    fn try_look(&mut self, sid: ServerId) {
        let now = self.now;
        let is_voter = self.membership.voter_index(sid).is_some();
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        if !matches!(node.role, Role::Settling) || node.disk.is_pending() {
            return;
        }
        node.reload();
        node.role = Role::Looking;
        let own = node.own_vote().filter(|_| is_voter);
        node.election.look(now, own);
        self.drain(sid);
    }

    fn leave(&mut self, sid: ServerId, why: &str) {
        self.note(sid, "leaves", &format!("({why})"));
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        node.role = Role::Settling;
        self.drop_conns(|learner, conn| learner == sid || conn.leader == sid, Some(sid));
        self.try_look(sid);
    }

    fn begin_role(&mut self, sid: ServerId, vote: quorate_proto::election::Vote) {
        let (now, ticks, window_max) = (self.now, self.ticks, self.window_max);
        self.note(
            sid,
            "elects",
            &format!("{} in round {}", vote.leader, { self.nodes[&sid].election.round() }),
        );
        let role = self.learner_role(sid);
        let membership = self.membership.clone();
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        let (accepted_epoch, current_epoch) = (node.disk.accepted, node.disk.current);
        let (history, committed) = (node.disk.index(), node.committed);
        if vote.leader == sid {
            node.election.settle(PeerState::Leading, vote);
            let start =
                LeaderStart { accepted_epoch, current_epoch, history, committed, window_max };
            node.role = Role::Leading(Leader::new(now, sid, membership, ticks, start));
        } else {
            let state = match role {
                LearnerRole::Follower => PeerState::Following,
                LearnerRole::Observer => PeerState::Observing,
            };
            node.election.settle(state, vote);
            let durable = history.last();
            let start = LearnerStart { accepted_epoch, current_epoch, history, durable, committed };
            let learner = Learner::new(now, sid, role, ticks, start);
            let link = Link { leader: vote.leader, retry_at: Some(now), attempts: 0 };
            node.role = Role::Learning(learner, link);
            self.connect(sid);
        }
    }

    fn learner_role(&self, sid: ServerId) -> LearnerRole {
        if self.membership.is_observer(sid) { LearnerRole::Observer } else { LearnerRole::Follower }
    }

    fn connect(&mut self, sid: ServerId) {
        let (now, ticks, role) = (self.now, self.ticks, self.learner_role(sid));
        let Role::Learning(_, link) = &self.nodes[&sid].role else { return };
        let leader = link.leader;
        let listens = !self.is_cut(sid, leader)
            && self.nodes.get(&leader).is_some_and(|node| matches!(node.role, Role::Leading(_)));
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        let Role::Learning(learner, link) = &mut node.role else { return };
        link.attempts += 1;
        if !listens {
            link.retry_at = Some(now + CONNECT_RETRY);
            if link.attempts >= CONNECT_ATTEMPTS {
                self.leave(sid, "the leader does not listen");
            }
            return;
        }
        link.retry_at = None;
        let conn = Conn {
            leader,
            handler: LearnerHandler::new(now, ticks),
            role,
            forwarding: false,
            informs: VecDeque::new(),
            to_leader: VecDeque::new(),
            to_learner: VecDeque::new(),
        };
        self.conns.insert(sid, conn);
        learner.connected(now);
        self.drain(sid);
    }

    /// Removes connections and tells both ends, except a dead one or one that knows.
    fn drop_conns(&mut self, which: impl Fn(ServerId, &Conn) -> bool, knows: Option<ServerId>) {
        let dropped: Vec<(ServerId, ServerId)> = self
            .conns
            .iter()
            .filter(|(learner, conn)| which(**learner, conn))
            .map(|(learner, conn)| (*learner, conn.leader))
            .collect();
        for (learner, _) in &dropped {
            self.conns.remove(learner);
        }
        for (learner, leader) in dropped {
            let now = self.now;
            if knows != Some(leader) {
                let node = self.nodes.get_mut(&leader).expect("a configured server");
                if let Role::Leading(machine) = &mut node.role {
                    machine.handle_gone(now, learner);
                }
                self.drain(leader);
            }
            if knows != Some(learner) && self.is_up(learner) {
                self.leave(learner, "the connection is gone");
            }
        }
    }

    fn drop_overdue(&mut self) {
        let now = self.now;
        for learner in self.conns.keys().copied().collect::<Vec<_>>() {
            let Some(conn) = self.conns.get(&learner) else { continue };
            if let Some(overdue) = conn.handler.overdue(now) {
                let leader = conn.leader;
                self.note(leader, "drops", &format!("{learner} ({overdue})"));
                self.drop_conns(|sid, _| sid == learner, None);
            }
        }
    }

    // --- deliveries ----------------------------------------------------------------------------

    fn deliver_to_leader(&mut self, learner: ServerId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&learner) else { return };
        let Some(packet) = conn.to_leader.pop_front() else { return };
        let leader_sid = conn.leader;
        let admitted = conn.handler.admit(now, &packet);
        let node = self.nodes.get_mut(&leader_sid).expect("a configured server");
        let Role::Leading(leader) = &mut node.role else { panic!("a connection to a non-leader") };
        let handled = admitted.and_then(|()| match packet {
            ToLeader::FollowerInfo { sid, accepted_epoch } => {
                leader.handle_joined(now, sid, LearnerRole::Follower, accepted_epoch)
            }
            ToLeader::ObserverInfo { sid, accepted_epoch } => {
                leader.handle_joined(now, sid, LearnerRole::Observer, accepted_epoch)
            }
            ToLeader::AckEpoch { current_epoch, last_zxid } => {
                leader.handle_epoch_acked(now, learner, current_epoch, last_zxid)
            }
            ToLeader::Ack { zxid } if zxid.counter() == 0 => {
                leader.handle_synced(now, learner);
                Ok(())
            }
            ToLeader::Ack { zxid } => leader.handle_ack(now, learner, zxid),
            ToLeader::Ping { round, touched: _ } => {
                leader.handle_heard(now, learner, Some(round));
                Ok(())
            }
            ToLeader::Request(_) | ToLeader::Revalidate { .. } => Ok(()),
        });
        if let Err(error) = handled {
            self.note(leader_sid, "drops", &format!("{learner} ({error})"));
            self.drop_conns(|sid, _| sid == learner, None);
        }
        self.drain(leader_sid);
    }

    fn deliver_to_learner(&mut self, sid: ServerId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&sid) else { return };
        let Some(packet) = conn.to_learner.pop_front() else { return };
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        let Role::Learning(learner, _) = &mut node.role else { panic!("not a learner") };
        let handled = learner.handle_packet(now, packet);
        self.drain(sid);
        if let Err(error) = handled {
            self.oracle.protocol_error(sid, &error);
            self.leave(sid, &error.to_string());
        }
    }

    fn finish_disk(&mut self, sid: ServerId, file: File) {
        let now = self.now;
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        for durable in node.disk.finish(file) {
            match &mut node.role {
                Role::Leading(leader) => leader.handle_durable(now, durable),
                Role::Learning(learner, _) => learner.handle_durable(now, durable),
                Role::Down | Role::Settling | Role::Looking => {}
            }
        }
        self.drain(sid);
        self.try_look(sid);
    }

    fn fire(&mut self, sid: ServerId) {
        let now = self.now;
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        node.election.handle_timeout(now);
        let mut retry = false;
        match &mut node.role {
            Role::Leading(leader) => leader.handle_timeout(now),
            Role::Learning(learner, link) => {
                learner.handle_timeout(now);
                retry = link.retry_at.is_some_and(|at| at <= now);
            }
            Role::Down | Role::Settling | Role::Looking => {}
        }
        self.drain(sid);
        if retry {
            self.connect(sid);
        }
    }

    // --- effects -------------------------------------------------------------------------------

    fn drain(&mut self, sid: ServerId) {
        loop {
            let node = self.nodes.get_mut(&sid).expect("a configured server");
            if matches!(node.role, Role::Down) {
                return;
            }
            if let Some(effect) = node.election.poll_effect() {
                self.execute_election(sid, effect);
                continue;
            }
            match &mut node.role {
                Role::Leading(leader) => {
                    let Some(effect) = leader.poll_effect() else { return };
                    self.execute_leader(sid, effect);
                }
                Role::Learning(learner, _) => {
                    let Some(effect) = learner.poll_effect() else { return };
                    self.execute_learner(sid, effect);
                }
                Role::Down | Role::Settling | Role::Looking => return,
            }
        }
    }

    fn execute_election(&mut self, sid: ServerId, effect: ElectionEffect) {
        match effect {
            ElectionEffect::Notify { to, notification } => {
                let Notification { from: _, state, vote, round } = notification;
                let text = format!(
                    "{to} {state:?} vote {} {} epoch {} round {round}",
                    vote.leader,
                    z(vote.zxid),
                    vote.peer_epoch
                );
                self.note(sid, "notify", &text);
                if self.nodes.contains_key(&to) && self.is_up(to) && !self.is_cut(sid, to) {
                    self.notifications.entry((sid, to)).or_default().push_back(notification);
                }
            }
            ElectionEffect::Elected(vote) => {
                if matches!(self.nodes[&sid].role, Role::Looking) {
                    self.begin_role(sid, vote);
                }
            }
        }
    }

    fn send_to_learner(&mut self, to: ServerId, packet: ToLearner<String>) {
        if let Some(conn) = self.conns.get_mut(&to) {
            conn.to_learner.push_back(packet);
        }
    }

    fn forwarding(&self, leader: ServerId) -> Vec<ServerId> {
        let conns = self.conns.iter();
        conns
            .filter(|(_, conn)| conn.leader == leader && conn.forwarding)
            .map(|(learner, _)| *learner)
            .collect()
    }

    fn execute_leader(&mut self, sid: ServerId, effect: LeaderEffect<String>) {
        match effect {
            LeaderEffect::PersistAcceptedEpoch(epoch) => {
                self.note(sid, "persists", &format!("accepted epoch {epoch}"));
                self.disk(sid).write_accepted(epoch);
            }
            LeaderEffect::PersistCurrentEpoch(epoch) => {
                self.note(sid, "persists", &format!("current epoch {epoch}"));
                self.disk(sid).write_current(epoch);
            }
            LeaderEffect::LeaderInfo { to, epoch } => {
                self.note(sid, "sends", &format!("{to} LEADERINFO {epoch}"));
                if let Some(conn) = self.conns.get_mut(&to) {
                    conn.handler.sent_leader_info();
                }
                self.send_to_learner(to, ToLearner::LeaderInfo { epoch });
            }
            LeaderEffect::Sync { to, plan, snapshot_at, cut } => {
                self.begin_sync(sid, to, plan, snapshot_at, cut);
            }
            LeaderEffect::Established { epoch, committed } => {
                self.note(sid, "establishes", &format!("epoch {epoch} at {}", z(committed)));
                self.oracle.established(sid, epoch);
                let node = self.nodes.get_mut(&sid).expect("a configured server");
                node.election.refresh_peer_epoch(epoch);
                self.commit(sid, committed, true);
            }
            LeaderEffect::UpToDate { to, committed } => {
                self.note(sid, "sends", &format!("{to} UPTODATE {}", z(committed)));
                if let Some(conn) = self.conns.get_mut(&to) {
                    conn.handler.sent_up_to_date();
                }
                self.send_to_learner(to, ToLearner::UpToDate { committed });
            }
            LeaderEffect::Append { zxid, txn } => {
                self.note(sid, "appends", &format!("{}={txn}", z(zxid)));
                self.append(sid, zxid, txn);
            }
            LeaderEffect::Broadcast { zxid, txn } => {
                let to = self.forwarding(sid);
                self.note(sid, "broadcasts", &format!("{}={txn} to {}", z(zxid), list(&to)));
                for learner in to {
                    self.send_proposal(learner, zxid, &txn);
                }
            }
            LeaderEffect::Commit { through } => {
                let to = self.forwarding(sid);
                self.note(sid, "commits", &format!("{} to {}", z(through), list(&to)));
                self.commit(sid, through, true);
                for learner in to {
                    self.send_commit(learner, through);
                }
            }
            LeaderEffect::Ping { round, committed } => {
                let to = self.forwarding(sid);
                self.note(sid, "pings", &format!("round {round} to {}", list(&to)));
                for learner in to {
                    self.send_to_learner(learner, ToLearner::Ping { round, committed });
                }
            }
            LeaderEffect::SyncConfirmed { token } => {
                self.note(sid, "confirms", &format!("sync {token}"));
                let committed = self.nodes[&sid].committed;
                self.oracle.sync_confirmed(sid, token, committed);
            }
            LeaderEffect::Resign(reason) => {
                self.leave(sid, &reason.to_string());
            }
        }
    }

    fn send_proposal(&mut self, learner: ServerId, zxid: Zxid, txn: &str) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&learner) else { return };
        match conn.role {
            LearnerRole::Follower => {
                conn.handler.sent_proposal(now, zxid);
                let txn = txn.to_string();
                let committed = Zxid::ZERO;
                conn.to_learner.push_back(ToLearner::Proposal { zxid, txn, committed });
            }
            LearnerRole::Observer => conn.informs.push_back((zxid, txn.to_string())),
        }
    }

    fn send_commit(&mut self, learner: ServerId, through: Zxid) {
        let Some(conn) = self.conns.get_mut(&learner) else { return };
        match conn.role {
            LearnerRole::Follower => {
                conn.to_learner.push_back(ToLearner::Commit { zxid: through });
            }
            LearnerRole::Observer => {
                while conn.informs.front().is_some_and(|(zxid, _)| *zxid <= through) {
                    let (zxid, txn) = conn.informs.pop_front().expect("the front was seen");
                    conn.to_learner.push_back(ToLearner::Inform { zxid, txn });
                }
            }
        }
    }

    fn begin_sync(
        &mut self,
        sid: ServerId,
        to: ServerId,
        plan: SyncPlan,
        snapshot_at: Zxid,
        cut: Zxid,
    ) {
        let now = self.now;
        self.note(sid, "syncs", &format!("{to} {} up to {}", describe(plan, snapshot_at), z(cut)));
        let node = &self.nodes[&sid];
        let Role::Leading(leader) = &node.role else { panic!("a sync without a leader") };
        let mut packets = Vec::new();
        let after = match plan {
            SyncPlan::Diff { after } => {
                packets.push(ToLearner::Diff { zxid: cut });
                after
            }
            SyncPlan::Trunc { to } | SyncPlan::TruncThenDiff { to } => {
                packets.push(ToLearner::Trunc { zxid: to });
                to
            }
            SyncPlan::Snap => {
                assert!(snapshot_at <= node.committed, "a snapshot of what is not committed");
                packets.push(ToLearner::Snap { zxid: snapshot_at });
                packets.extend(node.snapshot(snapshot_at));
                snapshot_at
            }
        };
        let stream = node.memory.iter().filter(|(zxid, _)| *zxid > after && *zxid <= cut);
        let streamed: Vec<(Zxid, String)> = stream.cloned().collect();
        if let Some(window) = leader.window(after, cut).filter(|_| after < cut) {
            let window: Vec<(Zxid, String)> = window.map(|(z, txn)| (z, txn.clone())).collect();
            assert_eq!(window, streamed, "the window differs from the log");
        }
        let outstanding: Vec<(Zxid, String)> = leader
            .window(cut, leader.last_proposed())
            .expect("everything after the cut is in memory")
            .map(|(zxid, txn)| (zxid, txn.clone()))
            .collect();
        let new_leader = leader.epoch().start();
        let Some(conn) = self.conns.get_mut(&to) else { return };
        for (zxid, txn) in streamed {
            conn.handler.sent_proposal(now, zxid);
            packets.push(ToLearner::Proposal { zxid, txn, committed: Zxid::ZERO });
        }
        packets.push(ToLearner::NewLeader { zxid: new_leader });
        conn.handler.sent_new_leader(new_leader);
        conn.forwarding = true;
        conn.to_learner.extend(packets);
        for (zxid, txn) in outstanding {
            self.send_proposal(to, zxid, &txn);
        }
    }

    fn append(&mut self, sid: ServerId, zxid: Zxid, txn: String) {
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        node.memory.push((zxid, txn.clone()));
        node.disk.append(zxid, txn);
    }

    fn commit(&mut self, sid: ServerId, through: Zxid, by_leader: bool) {
        let node = self.nodes.get_mut(&sid).expect("a configured server");
        node.committed = node.committed.max(through);
        let disks: Vec<(ServerId, &Disk)> =
            self.nodes.values().map(|node| (node.sid, &node.disk)).collect();
        let node = &self.nodes[&sid];
        self.oracle.committed(sid, &node.memory, through, by_leader, &disks);
    }

    fn execute_learner(&mut self, sid: ServerId, effect: LearnerEffect<String>) {
        match effect {
            LearnerEffect::Send(packet) => {
                self.note(sid, "sends", &name(&packet));
                if let Some(conn) = self.conns.get_mut(&sid) {
                    conn.to_leader.push_back(packet);
                }
            }
            LearnerEffect::AnswerPing { round } => {
                self.note(sid, "answers", &format!("round {round}"));
                if let Some(conn) = self.conns.get_mut(&sid) {
                    conn.to_leader.push_back(ToLeader::Ping { round, touched: String::new() });
                }
            }
            LearnerEffect::PersistAcceptedEpoch(epoch) => {
                self.note(sid, "persists", &format!("accepted epoch {epoch}"));
                self.disk(sid).write_accepted(epoch);
            }
            LearnerEffect::PersistCurrentEpoch(epoch) => {
                self.note(sid, "persists", &format!("current epoch {epoch}"));
                self.disk(sid).write_current(epoch);
            }
            LearnerEffect::Append { zxid, txn } => {
                self.note(sid, "appends", &format!("{}={txn}", z(zxid)));
                self.append(sid, zxid, txn);
            }
            LearnerEffect::Truncate { to } => {
                self.note(sid, "truncates", &format!("to {}", z(to)));
                let node = self.nodes.get_mut(&sid).expect("a configured server");
                assert!(to >= node.committed, "a truncation below a commit (S12)");
                node.memory.retain(|(zxid, _)| *zxid <= to);
                node.disk.truncate(to);
            }
            LearnerEffect::BeginSnapshot { zxid } => {
                self.note(sid, "begins", &format!("snapshot {}", z(zxid)));
                let node = self.nodes.get_mut(&sid).expect("a configured server");
                node.memory.clear();
                node.disk.begin_snapshot(zxid);
            }
            LearnerEffect::SnapshotChunk { bytes, last } => {
                self.note(sid, "installs", &format!("[{bytes}]{}", if last { " end" } else { "" }));
                let node = self.nodes.get_mut(&sid).expect("a configured server");
                node.memory.extend(node::parse_chunk(&bytes));
                node.disk.snapshot_chunk(node::parse_chunk(&bytes), last);
            }
            LearnerEffect::Serve { epoch, committed } => {
                self.note(sid, "serves", &format!("epoch {epoch} at {}", z(committed)));
                let node = self.nodes.get_mut(&sid).expect("a configured server");
                node.election.refresh_peer_epoch(epoch);
                self.commit(sid, committed, false);
            }
            LearnerEffect::Commit { through } => {
                self.note(sid, "commits", &z(through));
                self.commit(sid, through, false);
            }
            LearnerEffect::Revalidated { .. } | LearnerEffect::Synced { .. } => {}
            LearnerEffect::Leave(reason) => self.leave(sid, &reason.to_string()),
        }
    }

    pub fn say(&mut self, text: &str) {
        self.trace.push(text.to_string());
    }

    pub fn print_state(&mut self) {
        let lines = self.describe();
        self.trace.extend(lines);
    }

    /// One line for each server.
    pub fn describe(&self) -> Vec<String> {
        self.nodes.values().map(|node| node.describe()).collect()
    }
}

fn list(sids: &[ServerId]) -> String {
    if sids.is_empty() {
        return "nobody".to_string();
    }
    sids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn describe(plan: SyncPlan, snapshot_at: Zxid) -> String {
    match plan {
        SyncPlan::Diff { after } => format!("DIFF after {}", z(after)),
        SyncPlan::Trunc { to } => format!("TRUNC to {}", z(to)),
        SyncPlan::TruncThenDiff { to } => format!("TRUNC to {} then DIFF", z(to)),
        SyncPlan::Snap => format!("SNAP at {}", z(snapshot_at)),
    }
}

fn name(packet: &ToLeader<String>) -> String {
    match packet {
        ToLeader::FollowerInfo { sid: _, accepted_epoch } => {
            format!("FOLLOWERINFO {accepted_epoch}")
        }
        ToLeader::ObserverInfo { sid: _, accepted_epoch } => {
            format!("OBSERVERINFO {accepted_epoch}")
        }
        ToLeader::AckEpoch { current_epoch: Some(epoch), last_zxid } => {
            format!("ACKEPOCH current {epoch} last {}", z(*last_zxid))
        }
        ToLeader::AckEpoch { current_epoch: None, last_zxid } => {
            format!("ACKEPOCH again last {}", z(*last_zxid))
        }
        ToLeader::Ack { zxid } => format!("ACK {}", z(*zxid)),
        ToLeader::Request(_) => "REQUEST".to_string(),
        ToLeader::Ping { round, touched: _ } => format!("PING {round}"),
        ToLeader::Revalidate { .. } => "REVALIDATE".to_string(),
    }
}
