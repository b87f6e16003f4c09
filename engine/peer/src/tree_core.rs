//! Requests in, transactions out, transactions applied: the state machine and everybody who waits
//! for it. Keeps each client's requests in order and owns the sessions' clocks on the leader.
//!
//! Decides no order between servers and sends nothing by itself.

mod client;
mod leading;
mod snapshots;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::BytesMut;
use quorate_proto::{Instant, ServerId, SessionId, Ticks, ToLeader, Zxid};
use quorate_tree::hash::IdMap;
use quorate_tree::session::SessionIds;
use quorate_wire::Frame;
use quorate_wire::jute::txn::{HEADER_LEN, decode_header};
use quorate_wire::native::proposal::{ProposalEncoder, proposal_body, proposal_committed};

use self::client::Client;
use self::leading::{Leading, Owner};
use self::snapshots::Snapshots;
use crate::admin;
use crate::core_trait::Core;
use crate::limits::Limits;
use crate::links::{ConnKey, Effect, LINK_SHARD, Message, Term, ToQuorum, ToShard, ToTree};
use crate::machine::{Event, SessionChange, StateMachine};
use crate::notice::{Level, Notice};
use crate::timing::{Stage, Timings};

/// What a tree core must know from its configuration.
#[derive(Clone, Debug)]
pub struct TreeConfig {
    /// This server; its low byte becomes the high byte of session ids.
    pub sid: ServerId,
    /// tickTime, the width of an expiry bucket.
    pub ticks: Ticks,
    /// The bounds.
    pub limits: Limits,
    /// The shortest session time-out granted.
    pub session_timeout_min: Duration,
    /// The longest session time-out granted.
    pub session_timeout_max: Duration,
    /// Transactions between two snapshots (snapCount).
    pub snap_count: u64,
    /// The version text for administrators.
    pub version: &'static str,
}

/// Whether and how this server serves.
#[derive(Debug)]
enum Mode {
    /// The disk is being read, or there is no leader.
    Idle,
    Following(Term),
    Leading(Leading),
}

/// The core that owns the replicated state.
#[derive(Debug)]
pub struct TreeCore<M: StateMachine> {
    config: TreeConfig,
    machine: M,
    mode: Mode,
    /// Logged, or on the way to the log, and not known to be committed.
    staged: VecDeque<(Zxid, Frame)>,
    applied: Zxid,
    applied_count: u64,
    clients: IdMap<ConnKey, Client>,
    by_session: IdMap<SessionId, ConnKey>,
    /// Re-attachments that wait for the leader's answer, oldest first.
    revalidating: VecDeque<(SessionId, ConnKey)>,
    /// Sessions heard of since the leader's last PING.
    touched: IdMap<SessionId, Duration>,
    session_ids: SessionIds,
    /// Names a sync at the quorum core; never the same twice, whatever the term.
    sync_token: u64,
    snapshots: Snapshots<M>,
    encoder: ProposalEncoder,
    replies: BytesMut,
    events: Vec<Event>,
    wall: (Instant, i64),
    room: bool,
    effects: VecDeque<Effect>,
    timings: Timings,
}

impl<M: StateMachine> TreeCore<M> {
    /// A core around `machine`, which is empty and is filled by what the log core recovers.
    pub fn new(config: TreeConfig, machine: M) -> Self {
        Self {
            session_ids: SessionIds::new(config.sid),
            sync_token: 0,
            snapshots: Snapshots::default(),
            config,
            machine,
            mode: Mode::Idle,
            staged: VecDeque::new(),
            applied: Zxid::ZERO,
            applied_count: 0,
            clients: IdMap::default(),
            by_session: IdMap::default(),
            revalidating: VecDeque::new(),
            touched: IdMap::default(),
            encoder: ProposalEncoder::new(),
            replies: BytesMut::new(),
            events: Vec::new(),
            wall: (Instant::ZERO, 0),
            room: true,
            effects: VecDeque::new(),
            timings: Timings::default(),
        }
    }

    /// The steps noted since the last call.
    pub const fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }

    /// The last transaction that the state reflects.
    pub const fn applied(&self) -> Zxid {
        self.applied
    }

    /// Transactions applied since start, those of recovery included.
    pub const fn applied_count(&self) -> u64 {
        self.applied_count
    }

    /// Whether requests are taken.
    pub const fn is_serving(&self) -> bool {
        !matches!(self.mode, Mode::Idle)
    }

    /// Whether nobody waits for a commit.
    pub fn is_quiet(&self) -> bool {
        self.staged.is_empty() && self.clients.values().all(Client::is_quiet)
    }

    /// The replicated state.
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    fn send(&mut self, message: Message) {
        self.effects.push_back(Effect::Send(message));
    }

    fn to_shard(&mut self, conn: ConnKey, message: ToShard) {
        self.send(Message::Shard(conn.shard, message));
    }

    fn to_quorum(&mut self, message: ToQuorum) {
        self.send(Message::Quorum(message));
    }

    fn to_leader(&mut self, term: Term, packet: ToLeader<Frame>) {
        self.send(Message::Shard(LINK_SHARD, ToShard::ToLeader(term, packet)));
    }

    /// Hands on the events of what the machine did last, in order.
    fn send_events(&mut self) {
        for Event { conn, frame } in self.events.drain(..) {
            let message = Message::Shard(conn.shard, ToShard::Event(conn, frame));
            self.effects.push_back(Effect::Send(message));
        }
    }

    fn notice(&mut self, level: Level, text: String) {
        self.effects.push_back(Effect::Notice(Notice { level, text }));
    }

    fn fatal(&mut self, why: String) {
        self.effects.push_back(Effect::Fatal(why));
    }

    fn wall_ms(&self, now: Instant) -> i64 {
        self.wall.1 + now.since(self.wall.0).as_millis() as i64
    }

    // --- the committed stream ------------------------------------------------------------------

    fn stage(&mut self, zxid: Zxid, frame: Frame) {
        let last = self.last_staged();
        assert!(zxid > last, "staged {zxid} behind {last}");
        self.staged.push_back((zxid, frame));
    }

    fn last_staged(&self) -> Zxid {
        self.staged.back().map_or(self.applied, |(zxid, _)| *zxid)
    }

    fn unstage_after(&mut self, last: Zxid) {
        while self.staged.back().is_some_and(|(zxid, _)| *zxid > last) {
            self.staged.pop_back();
        }
    }

    fn commit(&mut self, now: Instant, through: Zxid, decided: Instant) {
        while let Some((zxid, _)) = self.staged.front() {
            if *zxid > through {
                break;
            }
            let (zxid, frame) = self.staged.pop_front().expect("the loop saw a front");
            self.timings.note(Stage::Committed, decided, now);
            self.apply(now, zxid, &frame);
        }
        self.after_commit(now);
    }

    fn apply(&mut self, now: Instant, zxid: Zxid, frame: &Frame) {
        let body = proposal_body(frame);
        let header = decode_header(body).expect("a logged transaction has a header (R39)");
        assert_eq!(header.zxid, zxid, "a transaction's header names another zxid");
        let change = self.machine.apply(&header, &body[HEADER_LEN..], &mut self.events);
        self.applied = zxid;
        self.applied_count += 1;
        self.send_events();
        if let Mode::Leading(leading) = &mut self.mode {
            self.machine.staged_applied(zxid);
            leading.note_applied(&header, change);
        }
        self.finish_write(now, &header, change);
        if change == SessionChange::Closed {
            self.close_session_of(header.session);
        }
    }

    fn after_commit(&mut self, now: Instant) {
        self.answer_revalidations();
        self.take_waiting(now);
        self.maybe_snapshot();
    }

    // --- roles ---------------------------------------------------------------------------------

    fn look(&mut self, last: Zxid) {
        if let Mode::Leading(_) = &self.mode {
            self.machine.forget_staged();
        }
        self.mode = Mode::Idle;
        self.unstage_after(last);
        self.drop_clients();
        self.revalidating.clear();
        self.touched.clear();
        self.end_learner_cuts();
        self.set_room(true);
    }

    fn set_room(&mut self, room: bool) {
        if self.room != room {
            self.room = room;
            self.effects.push_back(Effect::Broadcast(ToShard::Room(room)));
        }
    }
}

impl<M: StateMachine> Core for TreeCore<M> {
    type Input = ToTree;
    type Effect = Effect;

    fn handle(&mut self, now: Instant, input: ToTree) {
        match input {
            ToTree::WallClock(ms) => self.wall = (now, ms),
            ToTree::RecoveredChunk(bytes, last) => {
                if let Err(why) = self.restore_chunk(&bytes, last) {
                    self.fatal(format!("the newest snapshot cannot be loaded: {why}"));
                }
            }
            ToTree::RecoveredRecord(zxid, frame) => {
                let known = proposal_committed(&frame);
                self.stage(zxid, frame);
                self.commit(now, known, now);
            }
            ToTree::RecoveredEnd(recovered) => {
                self.commit(now, recovered.committed_hint, now);
                self.to_quorum(ToQuorum::Recovered(recovered));
            }
            ToTree::Lead(epoch) => self.lead(now, epoch),
            ToTree::Follow(term) => self.mode = Mode::Following(term),
            ToTree::Look(last) => self.look(last),
            ToTree::Stage(zxid, frame) => self.stage(zxid, frame),
            ToTree::Truncate(to) => {
                assert!(to >= self.applied, "truncation to {to}, {} is applied", self.applied);
                self.unstage_after(to);
            }
            ToTree::Commit(through, decided) => self.commit(now, through, decided),
            ToTree::BeginRestore => self.begin_restore(),
            ToTree::RestoreChunk(bytes, last) => {
                // Its checksums were right: either side's state cannot be trusted any more.
                if let Err(why) = self.restore_chunk(&bytes, last) {
                    self.fatal(format!("the leader's snapshot does not hold together: {why}"));
                }
            }
            ToTree::AbortRestore => self.abort_restore(),
            ToTree::AnswerPing(term, round) => self.answer_ping(term, round),
            ToTree::Synced(request) => self.handle_synced(now, &request),
            ToTree::Revalidated(session, valid) => self.handle_revalidated(session, valid),
            ToTree::SyncConfirmed(token) => self.handle_sync_confirmed(now, token),
            ToTree::CutFor(conn, at) => self.cut_for(conn, at),
            ToTree::NextChunk(conn) => self.next_chunk(conn),
            ToTree::LearnerGone(conn) => self.learner_gone(conn),
            ToTree::Connect(conn, attempt) => self.connect(now, conn, *attempt),
            ToTree::ConnectProposer(conn) => self.connect_proposer(now, conn),
            ToTree::Request(conn, request) => self.request(now, conn, request),
            ToTree::Disconnect(conn) => self.forget(conn),
            ToTree::Forwarded(conn, frame, at) => self.handle_forwarded(now, conn, &frame, at),
            ToTree::Touched(conn, touches) => self.handle_touched(now, conn, &touches),
            ToTree::Revalidate(conn, session) => {
                self.submit_revalidate(now, Owner::Learner(conn), conn, session);
            }
            ToTree::SnapshotNext(zxid) => self.snapshot_next(zxid),
            ToTree::SnapshotWritten(zxid) => {
                self.own_snapshot_ended(zxid);
                self.notice(Level::Info, format!("snapshot at {zxid} written and verified"));
            }
            ToTree::SnapshotFailed(zxid) => self.own_snapshot_ended(zxid),
            ToTree::Admin(conn, word, shard, quorum) => {
                let mut facts = BTreeMap::new();
                self.machine.facts(&mut |name, value| {
                    facts.insert(name, value);
                });
                let state = admin::AdminTree {
                    applied: self.applied,
                    digest: self.machine.digest(),
                    clients: self.by_session.len(),
                    waiting: self.staged.len(),
                    facts,
                };
                let text = admin::answer(word, self.config.version, &shard, &quorum, &state);
                self.to_shard(
                    conn,
                    ToShard::AdminReply(conn, Frame::from(bytes::Bytes::from(text))),
                );
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.mode {
            Mode::Leading(leading) => leading.next_expiry(),
            Mode::Idle | Mode::Following(_) => None,
        }
    }

    fn check_invariants(&self) {
        if let Some((first, _)) = self.staged.front() {
            assert!(*first > self.applied, "{first} is staged and applied");
        }
        if let Mode::Leading(leading) = &self.mode {
            assert!(leading.last_proposed() >= self.last_staged(), "staged beyond proposed");
        }
        debug_assert!(
            self.by_session.values().all(|conn| self.clients.contains_key(conn)),
            "a session without its connection"
        );
    }
}
