//! The connections of one shard: learners (the leader's side), clients, the link to the leader, the
//! election links, and administrators' words.
//!
//! Cuts bytes into frames and frames into messages, and back. Decides nothing about order, epochs
//! or state; a peer's bad bytes close that peer's connection and nothing else.

mod client_conn;
mod election_link;
mod leader_link;
mod learner_conn;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use bytes::BytesMut;
use quorate_proto::leader::LearnerRole;
use quorate_proto::quorum::Membership;
use quorate_proto::{Instant, ServerId, Ticks};
use quorate_tree::hash::IdMap;
use quorate_wire::native::hello::{Hello, Purpose, Status, Welcome};
use quorate_wire::reader::{FrameReader, Framing};
use quorate_wire::{DecodeError, Frame};

use self::client_conn::ClientConn;
use self::election_link::ElectionLinks;
use self::leader_link::LeaderLink;
use self::learner_conn::LearnerConn;
use crate::block;
use crate::core_trait::Core;
use crate::limits::Limits;
use crate::links::{
    ConnKey, Effect, Message, NetInput, NetOp, Port, ShardInput, ToLog, ToQuorum, ToShard, ToTree,
};
use crate::notice::{Level, Notice};
use crate::timing::Timings;

/// How long a peer may take to introduce itself.
const PEER_HELLO_TIME: Duration = Duration::from_secs(5);
/// How long a client may take to ask for a session (`zookeeper.nio.sessionlessCnxnTimeout`).
const CLIENT_CONNECT_TIME: Duration = Duration::from_secs(10);
/// How often deadlines of strangers are looked at.
const SWEEP_TIME: Duration = Duration::from_millis(500);

/// What a shard must know from its configuration.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// This shard; shard 0 also keeps the election links.
    pub index: u16,
    /// This server.
    pub sid: ServerId,
    /// Who may introduce itself as what.
    pub membership: Membership,
    /// tickTime, initLimit, syncLimit.
    pub ticks: Ticks,
    /// The bounds.
    pub limits: Limits,
    /// A fingerprint of the member list: servers with different lists refuse each other.
    pub config_hash: u64,
    /// The cluster's id, 0 if it has none.
    pub cluster_id: u64,
    /// Client connections that one address may have on this shard (maxClientCnxns), 0 for any
    /// number.
    pub clients_per_host_max: u32,
    /// The four-letter words that are answered (`4lw.commands.whitelist`).
    pub words: Words,
}

/// Which four-letter words are answered, of those that are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    /// All of them.
    All,
    /// These; `srvr` and `qsta` always are.
    Listed(Vec<[u8; 4]>),
}

impl Words {
    fn allow(&self, word: [u8; 4]) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => matches!(&word, b"srvr" | b"qsta") || listed.contains(&word),
        }
    }
}

/// Whether a transaction's type and record can be applied; if not, why.
pub(crate) type JudgeTransaction = fn(i32, &[u8]) -> Result<(), String>;

#[derive(Debug)]
struct Conn {
    peer: Option<SocketAddr>,
    kind: Kind,
}

impl Conn {
    /// The other end's name for the operator. Links of our own have no address; only election links
    /// are named here, the quorum core tells of the one to the leader.
    fn name(&self) -> String {
        match self.kind {
            Kind::ElectionOut { sid, .. } => format!("server {sid}"),
            _ => name(self.peer),
        }
    }
}

#[derive(Debug)]
enum Kind {
    /// On a peer port, before its Hello.
    Stranger {
        reader: FrameReader,
        port: Port,
        deadline: Instant,
    },
    Client(ClientConn),
    Learner(LearnerConn),
    Leader(LeaderLink),
    /// A peer sends us its notifications.
    ElectionIn {
        reader: FrameReader,
        sid: ServerId,
    },
    /// We send a peer our notifications.
    ElectionOut {
        reader: FrameReader,
        sid: ServerId,
    },
}

/// Why a connection is being closed by us.
#[derive(Debug)]
enum Fault {
    Bytes(DecodeError),
    Refused(String),
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::Bytes(error)
    }
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Bytes(error) => write!(f, "{error}"),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// The core that owns a shard's connections.
#[derive(Debug)]
pub struct ShardCore {
    config: ShardConfig,
    conns: IdMap<ConnKey, Conn>,
    /// Connections that have not introduced themselves.
    strangers: usize,
    /// Live learners, in the order in which they joined.
    learners: Vec<ConnKey>,
    clients: usize,
    leader: leader_link::LeaderSeat,
    elections: ElectionLinks,
    next_token: u64,
    accepting: bool,
    room: bool,
    draining: bool,
    next_sweep: Option<Instant>,
    out: BytesMut,
    judge: JudgeTransaction,
    effects: VecDeque<Effect>,
    timings: Timings,
}

impl ShardCore {
    /// A shard without connections.
    pub fn new(config: ShardConfig) -> Self {
        Self {
            elections: ElectionLinks::new(&config),
            config,
            conns: IdMap::default(),
            strangers: 0,
            learners: Vec::new(),
            clients: 0,
            leader: leader_link::LeaderSeat::default(),
            next_token: 0,
            accepting: false,
            room: true,
            draining: false,
            next_sweep: None,
            out: BytesMut::new(),
            judge: |_, _| Ok(()),
            effects: VecDeque::new(),
            timings: Timings::default(),
        }
    }

    /// What decides whether a leader's transaction can be applied here.
    pub(crate) const fn judge_with(&mut self, judge: JudgeTransaction) {
        self.judge = judge;
    }

    /// The steps noted since the last call.
    pub const fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }

    fn send(&mut self, message: Message) {
        self.effects.push_back(Effect::Send(message));
    }

    fn to_quorum(&mut self, message: ToQuorum) {
        self.send(Message::Quorum(message));
    }

    fn to_tree(&mut self, message: ToTree) {
        self.send(Message::Tree(message));
    }

    fn to_log(&mut self, message: ToLog) {
        self.send(Message::Log(message));
    }

    fn net(&mut self, op: NetOp) {
        self.effects.push_back(Effect::Net(op));
    }

    fn send_frame(&mut self, conn: ConnKey, frame: Frame) {
        self.net(NetOp::Send(conn, frame));
    }

    /// Encodes one frame with this shard's buffer.
    fn encode(&mut self, encode: impl FnOnce(&mut BytesMut)) -> Frame {
        block::frame(&mut self.out, encode)
    }

    fn notice(&mut self, level: Level, text: String) {
        self.effects.push_back(Effect::Notice(Notice { level, text }));
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    // --- connections come and go ---------------------------------------------------------------

    fn accepted(&mut self, now: Instant, conn: ConnKey, port: Port, peer: Option<SocketAddr>) {
        if self.strangers >= self.config.limits.strangers_max {
            self.net(NetOp::Close { conn, flush: false });
            self.notice(
                Level::Warn,
                format!("refused {}: too many connections without a session", name(peer)),
            );
            return;
        }
        let body_max = self.config.limits.body_max;
        let kind = match port {
            Port::Client if self.has_too_many(peer) => {
                self.net(NetOp::Close { conn, flush: false });
                let max = self.config.clients_per_host_max;
                self.notice(
                    Level::Warn,
                    format!(
                        "refused {}: its host has {max} connections (maxClientCnxns)",
                        name(peer)
                    ),
                );
                return;
            }
            Port::Client => {
                self.strangers += 1;
                self.clients += 1;
                let deadline = now + CLIENT_CONNECT_TIME;
                Kind::Client(ClientConn::new(self.config.limits.client_frame_max, deadline))
            }
            Port::Propose => {
                self.clients += 1;
                self.to_tree(ToTree::ConnectProposer(conn));
                Kind::Client(ClientConn::proposer(self.config.limits.body_max))
            }
            Port::Quorum | Port::Election => {
                self.strangers += 1;
                let reader = FrameReader::new(Framing::Native { body_max });
                Kind::Stranger { reader, port, deadline: now + PEER_HELLO_TIME }
            }
        };
        self.conns.insert(conn, Conn { peer, kind });
        if self.strangers > 0 && self.next_sweep.is_none() {
            self.next_sweep = Some(now + SWEEP_TIME);
        }
    }

    fn has_too_many(&self, peer: Option<SocketAddr>) -> bool {
        let max = self.config.clients_per_host_max as usize;
        let Some(host) = peer.map(|peer| peer.ip()).filter(|_| max > 0) else { return false };
        let is_same = |entry: &&Conn| {
            matches!(entry.kind, Kind::Client(_)) && entry.peer.map(|peer| peer.ip()) == Some(host)
        };
        self.conns.values().filter(is_same).count() >= max
    }

    fn received(&mut self, now: Instant, conn: ConnKey, bytes: Frame) {
        let Some(entry) = self.conns.get_mut(&conn) else { return };
        entry.kind.reader().push(bytes.into_bytes());
        if let Err(fault) = self.pump(now, conn) {
            self.fail(now, conn, &fault);
        }
    }

    /// Takes every whole frame of a connection.
    fn pump(&mut self, now: Instant, conn: ConnKey) -> Result<(), Fault> {
        loop {
            let Some(entry) = self.conns.get_mut(&conn) else { return Ok(()) };
            if matches!(entry.kind, Kind::Client(_)) {
                return self.pump_client(now, conn);
            }
            let Some(frame) = entry.kind.reader().next_frame()? else { return Ok(()) };
            match entry.kind {
                Kind::Client(_) => {}
                Kind::Stranger { port, .. } => self.introduce(now, conn, port, &frame)?,
                Kind::Learner(_) => self.learner_frame(now, conn, frame)?,
                Kind::Leader(_) => self.leader_frame(conn, &frame)?,
                Kind::ElectionIn { sid, .. } => self.election_frame(sid, &frame)?,
                Kind::ElectionOut { sid, .. } => self.election_welcome(now, conn, sid, &frame)?,
            }
        }
    }

    /// A connection is at fault: it is closed, with one line that says whose and why.
    fn fail(&mut self, now: Instant, conn: ConnKey, fault: &Fault) {
        let Some(entry) = self.conns.get(&conn) else { return };
        // Of the link to the leader the quorum core tells, with the same reason.
        if !matches!(entry.kind, Kind::Leader(_)) {
            let text = format!("closed {} {}: {fault}", entry.kind.noun(), entry.name());
            self.notice(Level::Warn, text);
        }
        self.net(NetOp::Close { conn, flush: false });
        self.forget(now, conn, &fault.to_string());
    }

    /// Removes a connection that is closed or being closed, and tells whoever must know.
    fn forget(&mut self, now: Instant, conn: ConnKey, why: &str) {
        let Some(entry) = self.conns.remove(&conn) else { return };
        match entry.kind {
            Kind::Stranger { .. } => self.strangers -= 1,
            Kind::Client(client) => {
                self.uncount(&client);
                self.to_tree(ToTree::Disconnect(conn));
            }
            Kind::Learner(learner) => self.learner_closed(conn, &learner),
            Kind::Leader(link) => {
                self.leader.closed(conn);
                self.to_quorum(ToQuorum::LeaderDown(link.term, why.to_string()));
            }
            Kind::ElectionIn { .. } => {}
            Kind::ElectionOut { sid, .. } => self.elections.closed(now, sid),
        }
    }

    /// A client's connection was removed.
    fn uncount(&mut self, client: &ClientConn) {
        self.clients -= 1;
        if client.is_stranger() {
            self.strangers -= 1;
        }
    }

    // --- Hello on the peer ports ---------------------------------------------------------------

    fn introduce(
        &mut self,
        now: Instant,
        conn: ConnKey,
        port: Port,
        frame: &Frame,
    ) -> Result<(), Fault> {
        let hello = Hello::decode(frame)?;
        let verdict = self.judge(port, &hello);
        let welcome = Welcome {
            version: hello.version_max.min(quorate_wire::native::hello::VERSION_MAX),
            sid: self.config.sid,
            status: verdict,
        };
        let answer = self.encode(|out| welcome.encode(out));
        self.send_frame(conn, answer);
        if verdict != Status::Welcome {
            self.net(NetOp::Close { conn, flush: true });
            // Not leading is the normal answer while an election settles; the rest is for humans.
            if verdict != Status::NotLeading {
                let peer = self.conns.get(&conn).and_then(|entry| entry.peer);
                self.notice(
                    Level::Warn,
                    format!("refused server {} from {}: {verdict}", hello.sid, name(peer)),
                );
            }
            self.forget(now, conn, "refused");
            return Ok(());
        }
        let body_max = self.config.limits.body_max;
        let Some(entry) = self.conns.get_mut(&conn) else { return Ok(()) };
        let Kind::Stranger { reader, .. } = &mut entry.kind else { return Ok(()) };
        self.strangers -= 1;
        let reader = core::mem::replace(reader, FrameReader::new(Framing::Native { body_max }));
        entry.kind = match port {
            Port::Election => Kind::ElectionIn { reader, sid: hello.sid },
            Port::Quorum | Port::Client | Port::Propose => {
                Kind::Learner(LearnerConn::new(now, reader, hello.sid, self.config.ticks))
            }
        };
        Ok(())
    }

    fn judge(&self, port: Port, hello: &Hello) -> Status {
        // Every member may observe.
        let is_member = self.config.membership.may_join(hello.sid, LearnerRole::Observer);
        let purpose = match port {
            Port::Election => Purpose::Election,
            Port::Quorum | Port::Client | Port::Propose => Purpose::Learner,
        };
        if !hello.speaks_our_version() {
            Status::Version
        } else if hello.purpose != purpose {
            Status::Purpose
        } else if hello.config_hash != self.config.config_hash
            || hello.cluster_id != self.config.cluster_id
        {
            Status::Config
        } else if !is_member || hello.sid == self.config.sid {
            Status::UnknownServer
        } else if purpose == Purpose::Learner && !self.accepting {
            Status::NotLeading
        } else {
            Status::Welcome
        }
    }

    /// Introduces this server on a connection that it has opened.
    fn greet(&mut self, conn: ConnKey, purpose: Purpose, kind: impl FnOnce(FrameReader) -> Kind) {
        let ShardConfig { sid, config_hash, cluster_id, limits, .. } = self.config;
        let reader = FrameReader::new(Framing::Native { body_max: limits.body_max });
        self.conns.insert(conn, Conn { peer: None, kind: kind(reader) });
        let hello = Hello::ours(sid, purpose, config_hash, cluster_id);
        let frame = self.encode(|out| hello.encode(out));
        self.send_frame(conn, frame);
    }

    // --- time ----------------------------------------------------------------------------------

    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|at| at > now) {
            return;
        }
        let overdue: Vec<ConnKey> = self
            .conns
            .iter()
            .filter(|(_, entry)| entry.kind.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in overdue {
            let why = "it did not introduce itself in time".to_string();
            self.fail(now, conn, &Fault::Refused(why));
        }
        self.next_sweep = (self.strangers > 0).then(|| now + SWEEP_TIME);
    }
}

impl Kind {
    const fn reader(&mut self) -> &mut FrameReader {
        match self {
            Self::Stranger { reader, .. }
            | Self::ElectionIn { reader, .. }
            | Self::ElectionOut { reader, .. } => reader,
            Self::Client(client) => &mut client.reader,
            Self::Learner(learner) => &mut learner.reader,
            Self::Leader(link) => &mut link.reader,
        }
    }

    const fn noun(&self) -> &'static str {
        match self {
            Self::Stranger { port: Port::Election, .. } => "election connection from",
            Self::Stranger { .. } => "quorum connection from",
            Self::Client(_) => "client",
            Self::Learner(_) => "learner",
            Self::Leader(_) => "leader's link",
            Self::ElectionIn { .. } => "election peer",
            Self::ElectionOut { .. } => "election link to",
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Stranger { deadline, .. } => Some(*deadline),
            Self::Client(client) => client.deadline(),
            Self::Learner(_)
            | Self::Leader(_)
            | Self::ElectionIn { .. }
            | Self::ElectionOut { .. } => None,
        }
    }
}

/// A peer's name for the operator.
fn name(peer: Option<SocketAddr>) -> String {
    peer.map_or_else(|| "this process".to_string(), |peer| peer.to_string())
}

impl Core for ShardCore {
    type Input = ShardInput;
    type Effect = Effect;

    fn handle(&mut self, now: Instant, input: ShardInput) {
        match input {
            ShardInput::Link(message) => self.handle_link(now, message),
            ShardInput::Net(NetInput::Accepted { conn, port, peer }) => {
                self.accepted(now, conn, port, peer);
            }
            ShardInput::Net(NetInput::Connected { token, conn }) => {
                if !self.leader_connected(token, conn) {
                    self.election_connected(now, token, conn);
                }
            }
            ShardInput::Net(NetInput::ConnectFailed { token, reason }) => {
                if let Some(term) = self.leader.failed(token) {
                    self.to_quorum(ToQuorum::LeaderDown(term, reason));
                } else {
                    self.elections.connect_failed(now, token);
                }
            }
            ShardInput::Net(NetInput::Received { conn, bytes }) => self.received(now, conn, bytes),
            ShardInput::Net(NetInput::Writable(conn)) => self.learner_writable(now, conn),
            ShardInput::Net(NetInput::Touch(conn)) => self.touch_client(now, conn),
            ShardInput::Net(NetInput::Closed { conn, reason }) => {
                let why = reason.unwrap_or_else(|| "the connection was closed".to_string());
                self.forget(now, conn, &why);
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.sweep(now);
        self.election_timeout(now);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next_sweep.into_iter().chain(self.elections.next_retry()).min()
    }

    fn check_invariants(&self) {
        assert!(self.strangers <= self.conns.len(), "more strangers than connections");
        debug_assert!(
            self.learners.iter().all(|conn| self.conns.contains_key(conn)),
            "a learner without its connection"
        );
    }
}

impl ShardCore {
    fn handle_link(&mut self, now: Instant, message: ToShard) {
        match message {
            ToShard::Notify(to, notification) => self.notify(now, to, notification),
            ToShard::Accepting(accepting) => {
                self.accepting = accepting;
                if !accepting {
                    self.close_learners(now);
                }
            }
            ToShard::ConnectLeader(sid, term) => self.connect_leader(sid, term),
            ToShard::DropLeader => self.drop_leader(),
            ToShard::ToLeader(term, packet) => self.to_leader(term, &packet),
            ToShard::LeaderInfo(conn, epoch) => self.leader_info(conn, epoch),
            ToShard::Sync(conn, task) => self.begin_sync(now, conn, task),
            ToShard::UpToDate(conn, committed) => self.up_to_date(conn, committed),
            ToShard::Propose(zxid, frame) => self.propose(now, zxid, &frame),
            ToShard::Commit(through) => self.commit(now, through),
            ToShard::Ping(round, committed) => self.ping(now, round, committed),
            ToShard::CloseLearner(conn, why) => {
                if self.conns.contains_key(&conn) {
                    self.fail(now, conn, &Fault::Refused(why));
                }
            }
            ToShard::ToLearner(conn, packet) => self.to_learner(now, conn, &packet),
            ToShard::StreamChunk(conn, frames, last) => self.stream_chunk(now, conn, frames, last),
            ToShard::SnapChunk(conn, bytes, last) => self.snap_chunk(now, conn, bytes, last),
            ToShard::SessionOpen(conn, frame) => self.session_open(now, conn, frame),
            ToShard::Reply(conn, frame, stamps) => self.reply(now, conn, frame, stamps),
            ToShard::Event(conn, frame) => {
                if self.conns.contains_key(&conn) {
                    self.send_frame(conn, frame);
                }
            }
            ToShard::CloseClient(conn, frame) => self.close_client(conn, frame),
            ToShard::AdminReply(conn, frame) => self.close_client(conn, Some(frame)),
            ToShard::Room(room) => self.set_room(now, room),
            ToShard::Drain => {
                self.draining = true;
                self.set_room(now, false);
            }
            ToShard::SnapshotRoom(room) => self.set_leader_room(room),
        }
    }
}
