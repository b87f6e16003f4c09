//! A whole ensemble in one thread: virtual time, connections in memory, disks in memory, and a seed
//! for everything that may happen in more than one order.
//!
//! Each server is one [`Peer`] with all cores, or one a core, joined by a queue for each ordered pair
//! with no order between different pairs (the Dedicated placement). Judges little by itself: cores'
//! invariants, and that servers at one zxid have one digest.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod client;
pub(crate) mod disk;
pub(crate) mod prng;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use quorate_peer::links::{ConnKey, Message, NetInput, NetOp, Port, ToShard, ToTree};
use quorate_peer::log_core::LogCore;
use quorate_peer::notice::{Level, Notice};
use quorate_peer::quorum_core::{QuorumConfig, QuorumCore};
use quorate_peer::shard_core::{ShardConfig, ShardCore, Words};
use quorate_peer::tree_core::{TreeConfig, TreeCore};
use quorate_peer::{Limits, Output, Peer, StateMachine};
use quorate_proto::quorum::Membership;
use quorate_proto::{Instant, ServerId, SessionId, Ticks};
use quorate_storage::StoreConfig;
use quorate_wire::Frame;

use self::client::{Client, Heard};
use self::disk::Disk;
use self::prng::Prng;

pub(crate) const CONFIG_HASH: u64 = 0xc0;
pub(crate) const CLUSTER_ID: u64 = 7;
/// How much time passes while every queue gets a turn.
const TURN: Duration = Duration::from_micros(100);
/// Bytes that a connection takes before its sender must wait.
const SOCKET_LEN: usize = 64 * 1024;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How a server's cores share threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// All in one.
    Whole,
    /// Each core, and each of two shards, on its own.
    Split,
}

pub(crate) const SHAPES: [Shape; 2] = [Shape::Whole, Shape::Split];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    pub(crate) voters: usize,
    pub(crate) observers: usize,
    pub(crate) limits: Limits,
    pub(crate) snap_count: u64,
    pub(crate) initialize: bool,
}

impl Options {
    pub(crate) fn new(shape: Shape, voters: usize) -> Self {
        let limits = Limits {
            client_frame_max: 16 * 1024,
            body_max: 64 * 1024,
            chunk_len: 1024,
            backlog_max: 256 * 1024,
            strangers_max: 64,
            ..Limits::DEFAULT
        };
        Self {
            seed: 1,
            shape,
            voters,
            observers: 0,
            limits,
            snap_count: 1_000_000,
            initialize: true,
        }
    }
}

/// Where a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Server {
        server: usize,
        key: ConnKey,
    },
    Client(usize),
    /// A test speaks raw bytes here.
    Raw(usize),
}

#[derive(Clone, Debug)]
enum Item {
    Accepted { port: Port, peer: Option<SocketAddr> },
    Connected { token: u64 },
    Bytes(Frame),
    Closed,
}

/// The test's end of a raw connection.
#[derive(Debug, Default)]
struct Raw {
    conn: usize,
    side: usize,
    heard: Vec<u8>,
    closed: bool,
}

/// One direction of a connection.
#[derive(Debug)]
struct Way {
    to: End,
    items: VecDeque<Item>,
    queued: usize,
    /// The receiver does not read.
    paused: bool,
    /// The sender wants to hear when fewer than this are queued.
    notify_below: Option<usize>,
}

/// A connection: what the first end sends, and what the second one does.
#[derive(Debug)]
struct Conn {
    ends: [End; 2],
    ways: [Way; 2],
    /// A network that delivers nothing and closes nothing.
    held: bool,
}

pub(crate) struct Server<M: StateMachine> {
    groups: Vec<Peer<M>>,
    queues: BTreeMap<(usize, usize), VecDeque<Message>>,
    pub(crate) disk: Disk,
    pub(crate) up: bool,
    /// The disk does nothing.
    pub(crate) disk_held: bool,
    conns: BTreeMap<ConnKey, usize>,
    next_conn: u32,
    lives: u32,
}

/// The ensemble, its network and its clients.
pub(crate) struct Ensemble<M: StateMachine> {
    pub(crate) options: Options,
    pub(crate) now: Instant,
    pub(crate) prng: Prng,
    pub(crate) servers: Vec<Server<M>>,
    make: fn(&Options) -> M,
    conns: BTreeMap<usize, Conn>,
    next_conn: usize,
    connects: VecDeque<(usize, u32, u64, usize, Port)>,
    cut: BTreeSet<(usize, usize)>,
    pub(crate) clients: Vec<Client>,
    client_conns: BTreeMap<usize, usize>,
    raws: BTreeMap<usize, Raw>,
    /// Whoever wants this server's quorum port gets a raw connection instead.
    pub(crate) impostor: Option<usize>,
    pub(crate) notices: Vec<(usize, Notice)>,
    pub(crate) fatals: Vec<(usize, String)>,
    /// The digest of the state at a zxid, whoever has computed it first.
    digests: BTreeMap<u64, u64>,
    pub(crate) sends: u64,
}

impl<M: StateMachine> Ensemble<M> {
    /// All servers up, with empty disks.
    pub(crate) fn new(options: Options, make: fn(&Options) -> M) -> Self {
        let count = options.voters + options.observers;
        let mut ensemble = Self {
            options,
            now: Instant::from_nanos(1_000_000_000),
            prng: Prng::new(options.seed),
            servers: Vec::new(),
            make,
            conns: BTreeMap::new(),
            next_conn: 0,
            connects: VecDeque::new(),
            cut: BTreeSet::new(),
            clients: Vec::new(),
            client_conns: BTreeMap::new(),
            raws: BTreeMap::new(),
            impostor: None,
            notices: Vec::new(),
            fatals: Vec::new(),
            digests: BTreeMap::new(),
            sends: 0,
        };
        for _ in 0..count {
            ensemble.servers.push(Server {
                groups: Vec::new(),
                queues: BTreeMap::new(),
                disk: Disk::default(),
                up: false,
                disk_held: false,
                conns: BTreeMap::new(),
                next_conn: 0,
                lives: 0,
            });
        }
        for server in 0..count {
            ensemble.start(server);
        }
        ensemble
    }

    fn shards(&self) -> u16 {
        match self.options.shape {
            Shape::Whole => 1,
            Shape::Split => 2,
        }
    }

    pub(crate) fn ticks(&self) -> Ticks {
        Ticks { tick: ms(200), init_limit: 10, sync_limit: 5 }
    }

    pub(crate) fn membership(&self) -> Membership {
        let sid = |n: usize| ServerId(n as u64 + 1);
        let (voters, all) = (self.options.voters, self.servers.len());
        Membership::majority((0..voters).map(sid).collect(), (voters..all).map(sid).collect())
    }

    // --- servers come and go -------------------------------------------------------------------

    pub(crate) fn start(&mut self, at: usize) {
        assert!(!self.servers[at].up, "started twice");
        let sid = ServerId(at as u64 + 1);
        let (ticks, membership, limits) = (self.ticks(), self.membership(), self.options.limits);
        let shards = self.shards();
        let shard = |index| {
            ShardCore::new(ShardConfig {
                index,
                sid,
                membership: membership.clone(),
                ticks,
                limits,
                config_hash: CONFIG_HASH,
                cluster_id: CLUSTER_ID,
                clients_per_host_max: 0,
                words: Words::All,
            })
        };
        let initialize = self.options.initialize && self.servers[at].lives == 0;
        let quorum = QuorumCore::new(QuorumConfig {
            sid,
            membership: membership.clone(),
            ticks,
            limits,
            initialize,
        });
        let tree = TreeCore::new(
            TreeConfig {
                sid,
                ticks,
                limits,
                session_timeout_min: ms(400),
                session_timeout_max: ms(8000),
                snap_count: self.options.snap_count,
                version: "test",
            },
            (self.make)(&self.options),
        );
        let body_len_max = limits.body_max;
        let record = (u64::from(body_len_max) + 64).next_multiple_of(4096);
        let store = StoreConfig {
            segment_len: (record + 8192).max(128 * 1024),
            body_len_max,
            stream_len: 2000,
            fill_len: 32 * 1024,
            snapshots_retained: 2,
            ..StoreConfig::new(sid, CLUSTER_ID)
        };
        let log = LogCore::new(store, self.servers[at].disk.listing());
        let new = || Peer::<M>::new(shards);
        let mut groups = Vec::new();
        match self.options.shape {
            Shape::Whole => {
                let mut peer = new();
                peer.add_shard(0, shard(0));
                peer.add_quorum(quorum);
                peer.add_tree(tree);
                peer.add_log(log);
                groups.push(peer);
            }
            Shape::Split => {
                for index in 0..shards {
                    let mut peer = new();
                    peer.add_shard(index, shard(index));
                    groups.push(peer);
                }
                let (mut q, mut t, mut l) = (new(), new(), new());
                q.add_quorum(quorum);
                t.add_tree(tree);
                l.add_log(log);
                groups.extend([q, t, l]);
            }
        }
        let now = self.now;
        let wall = 1_700_000_000_000 + (now.as_nanos() / 1_000_000) as i64;
        let tree_group = self.group_of(&Message::Tree(ToTree::AbortRestore));
        groups[tree_group].deliver(Message::Tree(ToTree::WallClock(wall)));
        let server = &mut self.servers[at];
        server.groups = groups;
        server.queues.clear();
        server.up = true;
        server.lives += 1;
        for group in 0..self.servers[at].groups.len() {
            self.servers[at].groups[group].handle_timeout(now);
            self.drain(at, group);
        }
    }

    /// Starts every server that is down.
    pub(crate) fn start_all(&mut self) {
        for at in 0..self.servers.len() {
            if !self.servers[at].up {
                self.start(at);
            }
        }
    }

    fn group_of(&self, message: &Message) -> usize {
        if self.options.shape == Shape::Whole {
            return 0;
        }
        let shards = usize::from(self.shards());
        match message {
            Message::Shard(index, _) => usize::from(*index),
            Message::Quorum(_) => shards,
            Message::Tree(_) => shards + 1,
            Message::Log(_) => shards + 2,
        }
    }

    fn down(&mut self, at: usize) {
        let server = &mut self.servers[at];
        server.up = false;
        server.disk_held = false;
        server.groups.clear();
        server.queues.clear();
        let conns: Vec<usize> = core::mem::take(&mut server.conns).into_values().collect();
        for conn in conns {
            self.break_conn(conn);
        }
        self.connects.retain(|(from, ..)| *from != at);
    }

    /// The power goes: what was not synced may be lost.
    pub(crate) fn crash(&mut self, at: usize) {
        if self.servers[at].up {
            self.down(at);
            let prng = &mut self.prng;
            self.servers[at].disk.crash(prng);
        }
    }

    /// The process is killed; what was written stays.
    pub(crate) fn kill(&mut self, at: usize) {
        self.down(at);
        while self.servers[at].disk.step().is_some() {}
        self.servers[at].disk.stop();
    }

    pub(crate) fn restart(&mut self, at: usize) {
        self.kill(at);
        self.start(at);
    }

    // --- the network's faults ------------------------------------------------------------------

    /// Both ends hear that the connection is gone; what is under way is lost.
    fn break_conn(&mut self, id: usize) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.held = false;
        for way in &mut conn.ways {
            way.items.clear();
            way.items.push_back(Item::Closed);
            way.paused = false;
        }
    }

    fn conns_between(&self, a: usize, b: usize) -> Vec<usize> {
        let is = |end: &End, at| matches!(end, End::Server { server, .. } if *server == at);
        let joins = |conn: &Conn| {
            let [x, y] = &conn.ends;
            (is(x, a) && is(y, b)) || (is(x, b) && is(y, a))
        };
        self.conns.iter().filter(|(_, conn)| joins(conn)).map(|(id, _)| *id).collect()
    }

    /// Two servers cannot reach each other until [`Ensemble::mend`].
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        self.reset(a, b);
    }

    pub(crate) fn isolate(&mut self, at: usize) {
        for other in 0..self.servers.len() {
            if other != at {
                self.cut(at, other);
            }
        }
    }

    /// The connections of two servers break; new ones may be made.
    pub(crate) fn reset(&mut self, a: usize, b: usize) {
        for id in self.conns_between(a, b) {
            self.break_conn(id);
        }
    }

    /// Nothing arrives between the two, and nobody notices.
    pub(crate) fn hold(&mut self, a: usize, b: usize, held: bool) {
        for id in self.conns_between(a, b) {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.held = held;
            }
        }
    }

    pub(crate) fn mend(&mut self) {
        self.cut.clear();
        for conn in self.conns.values_mut() {
            conn.held = false;
        }
    }

    fn open(&mut self, ends: [End; 2]) -> usize {
        let id = self.next_conn;
        self.next_conn += 1;
        let way =
            |to| Way { to, items: VecDeque::new(), queued: 0, paused: false, notify_below: None };
        let ways = [way(ends[1]), way(ends[0])];
        for end in ends {
            if let End::Server { server, key } = end {
                self.servers[server].conns.insert(key, id);
            }
        }
        self.conns.insert(id, Conn { ends, ways, held: false });
        id
    }

    fn key(&mut self, server: usize, shard: u16) -> ConnKey {
        let server = &mut self.servers[server];
        server.next_conn += 1;
        // Places are used again, generations tell them apart.
        ConnKey { shard, index: server.next_conn % 16, generation: server.next_conn }
    }

    fn accept(&mut self, from: End, to: usize, port: Port) -> usize {
        let shard = (self.prng.next() % u64::from(self.shards())) as u16;
        let key = self.key(to, shard);
        let id = self.open([from, End::Server { server: to, key }]);
        let peer = (port != Port::Propose)
            .then(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1000 + id as u16));
        let conn = self.conns.get_mut(&id).expect("just opened");
        conn.ways[0].items.push_back(Item::Accepted { port, peer });
        id
    }

    // --- clients -------------------------------------------------------------------------------

    /// A client that asks for a new session; its number.
    pub(crate) fn client(&mut self, server: usize) -> usize {
        self.client_with(server, SessionId(0), &[0; 16], 4000, 0)
    }

    pub(crate) fn client_with(
        &mut self,
        server: usize,
        session: SessionId,
        password: &[u8],
        timeout_ms: i32,
        seen: i64,
    ) -> usize {
        let at = self.dial(server, Port::Client, false);
        let frame = client::connect(session, password, timeout_ms, seen);
        self.send(at, frame);
        at
    }

    /// A client's session on a new connection, as kazoo does it: its numbers begin anew.
    pub(crate) fn reattach(&mut self, old: usize, server: usize) -> usize {
        let (session, password) = (self.clients[old].session, self.clients[old].password.clone());
        let seen = self.clients[old].zxid_seen;
        self.client_with(server, session, &password, 4000, seen)
    }

    pub(crate) fn dial(&mut self, server: usize, port: Port, is_text: bool) -> usize {
        let at = self.clients.len();
        self.clients.push(Client::new(server, is_text));
        if self.servers[server].up {
            let id = self.accept(End::Client(at), server, port);
            self.client_conns.insert(at, id);
        } else {
            self.clients[at].closed = true;
            self.clients[at].heard.push(Heard::Closed);
        }
        at
    }

    pub(crate) fn send(&mut self, client: usize, bytes: Frame) {
        self.sends += 1;
        let Some(id) = self.client_conns.get(&client) else { return };
        if let Some(conn) = self.conns.get_mut(id) {
            conn.ways[0].queued += bytes.len();
            conn.ways[0].items.push_back(Item::Bytes(bytes));
        }
    }

    /// The client closes its connection without a word.
    pub(crate) fn hang_up(&mut self, client: usize) {
        if let Some(id) = self.client_conns.remove(&client)
            && let Some(conn) = self.conns.get_mut(&id)
        {
            conn.ways[0].items.push_back(Item::Closed);
            self.clients[client].closed = true;
        }
    }

    /// The client stops to read, or reads again.
    pub(crate) fn client_reads(&mut self, client: usize, reads: bool) {
        if let Some(conn) = self.client_conns.get(&client).and_then(|id| self.conns.get_mut(id)) {
            conn.ways[1].paused = !reads;
        }
    }

    /// Whether the server reads this client's bytes.
    pub(crate) fn is_read(&self, client: usize) -> bool {
        let conn = self.client_conns.get(&client).and_then(|id| self.conns.get(id));
        conn.is_some_and(|conn| !conn.ways[0].paused)
    }

    // --- raw connections -----------------------------------------------------------------------

    /// A connection on which the test itself speaks; its number.
    pub(crate) fn raw(&mut self, server: usize, port: Port) -> usize {
        let at = self.raws.len();
        let conn = self.accept(End::Raw(at), server, port);
        self.raws.insert(at, Raw { conn, ..Raw::default() });
        at
    }

    pub(crate) fn raw_send(&mut self, raw: usize, bytes: &[u8]) {
        let Raw { conn: id, side, .. } = self.raws[&raw];
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.ways[side].items.push_back(Item::Bytes(Frame::copy_from(bytes)));
        }
    }

    pub(crate) fn raw_heard(&self, raw: usize) -> &[u8] {
        &self.raws[&raw].heard
    }

    pub(crate) fn raw_closed(&self, raw: usize) -> bool {
        self.raws[&raw].closed
    }

    /// How many raw connections there are: the newest has the number below.
    pub(crate) fn raw_count(&self) -> usize {
        self.raws.len()
    }

    // --- looking -------------------------------------------------------------------------------

    pub(crate) fn tree(&self, at: usize) -> &TreeCore<M> {
        self.servers[at].groups.iter().find_map(Peer::tree).expect("a server has a tree core")
    }

    pub(crate) fn quorum(&self, at: usize) -> &QuorumCore {
        self.servers[at].groups.iter().find_map(Peer::quorum).expect("a server has a quorum core")
    }

    pub(crate) fn role(&self, at: usize) -> &'static str {
        if self.servers[at].up { self.quorum(at).role_name() } else { "down" }
    }

    /// The server that leads, if exactly one does.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| matches!(self.role(*at), "leader" | "standalone");
        let mut leaders = (0..self.servers.len()).filter(leads);
        let first = leaders.next()?;
        leaders.next().is_none().then_some(first)
    }

    pub(crate) fn is_serving(&self, at: usize) -> bool {
        self.servers[at].up && self.role(at) != "looking" && self.tree(at).is_serving()
    }

    /// Every server is up and serves, and all reflect the same zxid.
    pub(crate) fn is_level(&self) -> bool {
        let all = || 0..self.servers.len();
        all().all(|at| self.is_serving(at))
            && self.leader().is_some()
            && all().all(|at| {
                self.tree(at).applied() == self.tree(0).applied() && self.tree(at).is_quiet()
            })
    }

    pub(crate) fn warnings(&self) -> Vec<&str> {
        let warns = |notice: &&(usize, Notice)| notice.1.level >= Level::Warn;
        self.notices.iter().filter(warns).map(|(_, notice)| notice.text.as_str()).collect()
    }

    // --- time ----------------------------------------------------------------------------------

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.turn(end);
        }
    }

    /// Goes on until `is_done`; the virtual time is bounded.
    pub(crate) fn run_until(&mut self, what: &str, is_done: impl Fn(&Self) -> bool) {
        let end = self.now + Duration::from_secs(60);
        while !is_done(self) {
            assert!(self.now < end, "{what}: never. {}", self.state());
            self.turn(end);
        }
    }

    pub(crate) fn state(&self) -> String {
        let mut text = format!("seed {} {:?}", self.options.seed, self.options.shape);
        for at in 0..self.servers.len() {
            text.push_str(&format!("\nserver {at} {}", self.role(at)));
            if self.servers[at].up {
                text.push_str(&format!(
                    " serving {} applied {} committed {}",
                    self.tree(at).is_serving(),
                    self.tree(at).applied(),
                    self.quorum(at).committed()
                ));
            }
        }
        for (at, notice) in self.notices.iter().rev().take(30).rev() {
            text.push_str(&format!("\n  {at}: {notice:?}"));
        }
        text
    }

    /// Every queue that holds something may get a turn.
    fn turn(&mut self, end: Instant) {
        let mut busy = false;
        for at in 0..self.servers.len() {
            if self.servers[at].up {
                busy |= self.turn_server(at);
            }
        }
        busy |= self.turn_connects();
        busy |= self.turn_network();
        self.now = self.now + TURN;
        if !busy && let Some(next) = self.next_timeout() {
            self.now = self.now.max(next.min(end));
        }
        let now = self.now;
        for at in 0..self.servers.len() {
            for group in 0..self.servers[at].groups.len() {
                if self.servers[at].groups[group].poll_timeout().is_some_and(|due| due <= now) {
                    self.servers[at].groups[group].handle_timeout(now);
                    self.drain(at, group);
                    busy = true;
                }
            }
        }
        if busy {
            self.check();
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.servers.iter().flat_map(|s| s.groups.iter()).filter_map(Peer::poll_timeout).min()
    }

    fn turn_server(&mut self, at: usize) -> bool {
        let mut busy = false;
        let now = self.now;
        // Different pairs of cores have no order: some wait while others hurry on.
        let pairs: Vec<(usize, usize)> = self.servers[at].queues.keys().copied().collect();
        for pair in pairs {
            let waiting = self.servers[at].queues[&pair].len();
            if waiting == 0 {
                continue;
            }
            busy = true;
            let taken = match self.prng.below(4) {
                0 => 0,
                1 => 1,
                _ => self.prng.below(waiting + 1),
            };
            for _ in 0..taken {
                let queue = self.servers[at].queues.get_mut(&pair).expect("seen above");
                let message = queue.pop_front().expect("counted above");
                self.servers[at].groups[pair.1].deliver(message);
                while self.servers[at].groups[pair.1].step(now) {}
                self.drain(at, pair.1);
                if !self.servers[at].up {
                    return true;
                }
            }
        }
        for group in 0..self.servers[at].groups.len() {
            let steps = 1 + self.prng.below(16);
            for _ in 0..steps {
                if !self.servers[at].groups[group].step(now) {
                    break;
                }
                busy = true;
                self.drain(at, group);
                if !self.servers[at].up {
                    return true;
                }
            }
        }
        if !self.servers[at].disk_held && !self.servers[at].disk.is_idle() {
            busy = true;
            let steps = self.prng.below(4);
            for _ in 0..steps {
                let Some(done) = self.servers[at].disk.step() else { break };
                let log = self.servers[at].groups.len() - 1;
                self.servers[at].groups[log].handle_disk(now, done);
                self.drain(at, log);
                if !self.servers[at].up {
                    return true;
                }
            }
        }
        busy
    }

    fn turn_connects(&mut self) -> bool {
        let mut busy = false;
        for _ in 0..self.connects.len() {
            let Some((from, life, token, to, port)) = self.connects.pop_front() else { break };
            if self.servers[from].lives != life || !self.servers[from].up {
                continue;
            }
            busy = true;
            let is_cut = self.cut.contains(&(from.min(to), from.max(to)));
            if is_cut || !self.servers[to].up {
                let reason = "refused".to_string();
                self.net(from, 0, NetInput::ConnectFailed { token, reason });
                continue;
            }
            let key = self.key(from, 0);
            if self.impostor == Some(to) && port == Port::Quorum {
                let at = self.raws.len();
                let conn = self.open([End::Server { server: from, key }, End::Raw(at)]);
                self.raws.insert(at, Raw { conn, side: 1, ..Raw::default() });
                let conn = self.conns.get_mut(&conn).expect("just opened");
                conn.ways[1].items.push_back(Item::Connected { token });
                continue;
            }
            let id = self.accept(End::Server { server: from, key }, to, port);
            let conn = self.conns.get_mut(&id).expect("just opened");
            conn.ways[1].items.push_back(Item::Connected { token });
        }
        busy
    }

    fn turn_network(&mut self) -> bool {
        let mut busy = false;
        let ids: Vec<usize> = self.conns.keys().copied().collect();
        for id in ids {
            for way in 0..2 {
                let Some(conn) = self.conns.get(&id) else { break };
                let ready =
                    !conn.held && !conn.ways[way].paused && !conn.ways[way].items.is_empty();
                if !ready {
                    continue;
                }
                busy = true;
                let taken = self.prng.below(6);
                for _ in 0..taken {
                    if !self.arrive(id, way) {
                        break;
                    }
                }
            }
        }
        busy
    }

    /// The next item of one direction arrives; false if none could.
    fn arrive(&mut self, id: usize, way: usize) -> bool {
        let splits = self.prng.one_in(8);
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        let w = &mut conn.ways[way];
        if w.paused {
            return false;
        }
        let Some(mut item) = w.items.pop_front() else { return false };
        // A stream has no frames: bytes may come in pieces.
        if splits
            && let Item::Bytes(bytes) = &item
            && bytes.len() > 1
        {
            let rest = bytes.slice(bytes.len() / 2..);
            w.items.push_front(Item::Bytes(rest));
            item = Item::Bytes(bytes.slice(..bytes.len() / 2));
        }
        if let Item::Bytes(bytes) = &item {
            w.queued = w.queued.saturating_sub(bytes.len());
        }
        let sender = conn.ends[way];
        let notify = w.notify_below.is_some_and(|below| w.queued < below);
        if notify {
            w.notify_below = None;
        }
        let to = w.to;
        match to {
            End::Client(at) => match item {
                Item::Bytes(bytes) => self.clients[at].hear(bytes),
                Item::Closed => {
                    self.clients[at].heard.push(Heard::Closed);
                    self.clients[at].closed = true;
                    self.client_conns.remove(&at);
                    self.conns.remove(&id);
                }
                Item::Accepted { .. } | Item::Connected { .. } => unreachable!("not a client's"),
            },
            End::Raw(at) => {
                let raw = self.raws.get_mut(&at).expect("it was made");
                match item {
                    Item::Bytes(bytes) => raw.heard.extend_from_slice(&bytes),
                    Item::Closed => {
                        raw.closed = true;
                        self.conns.remove(&id);
                    }
                    Item::Accepted { .. } | Item::Connected { .. } => unreachable!("a test's"),
                }
            }
            End::Server { server, key } => {
                let input = match item {
                    Item::Accepted { port, peer } => NetInput::Accepted { conn: key, port, peer },
                    Item::Connected { token } => NetInput::Connected { token, conn: key },
                    Item::Bytes(bytes) => NetInput::Received { conn: key, bytes },
                    Item::Closed => {
                        self.servers[server].conns.remove(&key);
                        let conn = self.conns.get_mut(&id).expect("seen above");
                        // The other end hears of it too, if it has not closed itself.
                        let other = &mut conn.ways[1 - way];
                        if let Some(Item::Closed) = other.items.back() {
                        } else {
                            other.items.clear();
                            other.items.push_back(Item::Closed);
                        }
                        let other_gone = match conn.ends[way] {
                            End::Server { server, key } => {
                                !self.servers[server].conns.contains_key(&key)
                            }
                            End::Client(at) => !self.client_conns.contains_key(&at),
                            End::Raw(_) => false,
                        };
                        if other_gone {
                            self.conns.remove(&id);
                        }
                        NetInput::Closed { conn: key, reason: None }
                    }
                };
                if self.servers[server].up {
                    self.net(server, key.shard, input);
                }
            }
        }
        if notify
            && let End::Server { server, key } = sender
            && self.servers[server].conns.contains_key(&key)
        {
            self.net(server, key.shard, NetInput::Writable(key));
        }
        true
    }

    fn net(&mut self, server: usize, shard: u16, input: NetInput) {
        let group = self.hear(server, shard, input);
        self.drain(server, group);
    }

    /// A shard hears of something on its network; the group that it lives in.
    fn hear(&mut self, server: usize, shard: u16, input: NetInput) -> usize {
        let group = match self.options.shape {
            Shape::Whole => 0,
            Shape::Split => usize::from(shard),
        };
        let now = self.now;
        self.servers[server].groups[group].handle_net(now, shard, input);
        group
    }

    // --- outputs -------------------------------------------------------------------------------

    fn drain(&mut self, at: usize, group: usize) {
        while let Some(output) = self.servers[at].groups[group].poll_output() {
            match output {
                Output::Remote(message) => {
                    let to = self.group_of(&message);
                    assert_ne!(to, group, "a message to its own group");
                    self.servers[at].queues.entry((group, to)).or_default().push_back(message);
                }
                Output::Net(_, op) => self.net_op(at, op),
                Output::Disk(op) => self.servers[at].disk.submit(op),
                Output::Notice(notice) => self.notices.push((at, notice)),
                Output::Fatal(why) => {
                    self.fatals.push((at, why));
                    self.down(at);
                    self.servers[at].disk.stop();
                    return;
                }
            }
        }
    }

    fn way_of(&mut self, at: usize, key: ConnKey, from_here: bool) -> Option<&mut Way> {
        let id = self.servers[at].conns.get(&key)?;
        let conn = self.conns.get_mut(id)?;
        let ours = End::Server { server: at, key };
        let first = conn.ends[0] == ours;
        Some(&mut conn.ways[usize::from(first != from_here)])
    }

    fn net_op(&mut self, at: usize, op: NetOp) {
        match op {
            NetOp::Connect { token, to, port } => {
                let life = self.servers[at].lives;
                self.connects.push_back((at, life, token, to.0 as usize - 1, port));
            }
            NetOp::Send(key, frame) => {
                if let Some(way) = self.way_of(at, key, true)
                    && !matches!(way.items.back(), Some(Item::Closed))
                {
                    way.queued += frame.len();
                    way.items.push_back(Item::Bytes(frame));
                }
            }
            NetOp::Close { conn: key, flush } => {
                if let Some(way) = self.way_of(at, key, true)
                    && !matches!(way.items.back(), Some(Item::Closed))
                {
                    if !flush {
                        way.items.retain(|item| {
                            matches!(item, Item::Accepted { .. } | Item::Connected { .. })
                        });
                    }
                    way.items.push_back(Item::Closed);
                }
                if let Some(way) = self.way_of(at, key, false) {
                    // Nobody reads here any more; the other end's closing is all that counts.
                    way.items.clear();
                }
                self.servers[at].conns.remove(&key);
            }
            NetOp::Pause(key) => {
                if let Some(way) = self.way_of(at, key, false) {
                    way.paused = true;
                }
            }
            NetOp::Resume(key) => {
                if let Some(way) = self.way_of(at, key, false) {
                    way.paused = false;
                }
            }
            NetOp::NotifyBelow(key, below) => {
                if let Some(way) = self.way_of(at, key, true) {
                    way.notify_below = Some(below);
                    if way.queued < below {
                        way.notify_below = None;
                        // The queue is short already: the shard hears of it behind what it sent.
                        self.hear(at, key.shard, NetInput::Writable(key));
                    }
                }
            }
        }
    }

    pub(crate) fn deliver(&mut self, at: usize, message: Message) {
        let group = self.group_of(&message);
        self.servers[at].groups[group].deliver(message);
    }

    pub(crate) fn drain_shards(&mut self, at: usize) {
        for shard in 0..self.shards() {
            self.deliver(at, Message::Shard(shard, ToShard::Drain));
        }
    }

    fn check(&mut self) {
        for at in 0..self.servers.len() {
            if !self.servers[at].up {
                continue;
            }
            self.servers[at].groups.iter().for_each(Peer::check_invariants);
            let tree = self.tree(at);
            let (zxid, digest) = (tree.applied().as_u64(), tree.machine().digest());
            let first = *self.digests.entry(zxid).or_insert(digest);
            assert_eq!(digest, first, "server {at} differs at {zxid:#x}. {}", self.state());
        }
    }
}
