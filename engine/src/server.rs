//! `Server`: starts the threads of one server, tells what it is, and stops it.
//!
//! Puts cores, rings and queues together. Decides nothing of the protocol.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_peer::links::{Message, Port};
use quorate_peer::log_core::LogCore;
use quorate_peer::quorum_core::{QuorumConfig, QuorumCore};
use quorate_peer::shard_core::{ShardConfig, ShardCore, Words};
use quorate_peer::tree_core::{TreeConfig, TreeCore};
use quorate_peer::znode::ZnodeMachine;
use quorate_peer::{Limits, Peer, StateMachine};
use quorate_proto::ServerId;
use quorate_proto::quorum::{Hierarchical, Membership, QuorumVerifier};
use quorate_storage::StoreConfig;
use quorate_wire::native::snapshot::ENTRY_LEN_MAX;

use crate::addresses::{Addresses, Lookups};
use crate::config::{self, Config, HostPort};
use crate::control::Control;
use crate::error::Error;
use crate::in_process::{Connection, Door, Doors, Mailbox};
use crate::memory_disk::MemoryDisk;
use crate::metrics::Histograms;
use crate::node::{
    Disk, Homes, LISTEN_CLIENT, LISTEN_ELECTION, LISTEN_QUORUM, Net, Node, NodeParts,
};
use crate::runtime::bell::Bell;
use crate::runtime::host::{
    ThreadHandle, ThreadSpec, TurnContext, run_plain_thread, run_shard_thread,
};
use crate::runtime::idle::Idle;
use crate::runtime::net::{AddressError, bind, resolve};
use crate::runtime::placement::{Placement, Plan, PlanOptions, Role as PlannedRole};
use crate::runtime::queue::{Receiver, Sender, channel};
use crate::runtime::topology::{Cpu, Topology};
use crate::runtime::uring::disk::list;
use crate::runtime::uring::{DiskConfig, DiskRing, NetConfig, NetRing, probe};
use crate::session::{Proposer, Session};

/// What administrators read as the version.
const VERSION: &str = concat!("quorate-", env!("CARGO_PKG_VERSION"));
/// Messages that a queue between two threads holds before the sender keeps them itself.
const QUEUE_LEN: usize = 16 * 1024;
/// How long a stopping server waits for what is under way.
const DRAIN_TIME: Duration = Duration::from_secs(3);
/// How long a port may be held by a predecessor that has ended.
const BIND_TIME: Duration = Duration::from_secs(2);
/// Connections of peers that may wait to be accepted.
const PEER_BACKLOG: u32 = 128;

/// What a server is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has no leader and does not serve.
    Looking,
    /// It leads.
    Leader,
    /// It follows and votes.
    Follower,
    /// It follows and does not vote.
    Observer,
    /// It is alone.
    Standalone,
}

impl Role {
    pub(crate) fn from_name(name: &str) -> Self {
        match name {
            "leader" => Self::Leader,
            "follower" => Self::Follower,
            "observer" => Self::Observer,
            "standalone" => Self::Standalone,
            _ => Self::Looking,
        }
    }
}

/// A running server. Dropping it stops it without waiting for what is under way;
/// [`Server::shutdown`] waits.
#[derive(Debug)]
pub struct Server {
    control: Arc<Control>,
    threads: Vec<ThreadHandle>,
    doors: Doors,
    client_address: Option<SocketAddr>,
    _lookups: Lookups,
    _lock: Option<File>,
}

impl Server {
    /// Starts a server whose replicated state is the znode tree.
    ///
    /// # Errors
    /// If a port cannot be bound, the data directory cannot be used, or io_uring is refused. What
    /// the data directory holds is read by the running server: see [`Server::wait_serving`].
    pub fn start(config: Config) -> Result<Self, Error> {
        let txn_len_max = txn_len_max(config.jute_maxbuffer) as usize;
        Self::start_with(config, ZnodeMachine::with_limits(hash_seed(), txn_len_max))
    }

    /// Starts a server with a replicated state of the embedder's own.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with<M: StateMachine>(config: Config, machine: M) -> Result<Self, Error> {
        let parts = Parts::prepare(&config)?;
        parts.launch(&config, machine)
    }

    /// Waits until the server serves; its role then.
    ///
    /// # Errors
    /// If it does not within `limit`, or has stopped because it could not go on.
    pub fn wait_serving(&self, limit: Duration) -> Result<Role, Error> {
        self.control.wait_serving(limit)
    }

    /// What the server is now.
    pub fn role(&self) -> Role {
        self.control.role()
    }

    /// Where clients connect, if a client port was configured; with port 0 the one that was chosen.
    pub const fn client_address(&self) -> Option<SocketAddr> {
        self.client_address
    }

    /// Opens a session in this process, with the time-out asked for.
    ///
    /// # Errors
    /// If the server does not serve, or stops meanwhile.
    pub fn session(&self, timeout: Duration) -> Result<Session, Error> {
        Session::open(&self.doors, timeout)
    }

    /// A way to propose to the replicated state machine directly, without a session. Its operations
    /// fail with [`Error::ConnectionLost`] while the server does not serve.
    pub fn proposer(&self) -> Proposer {
        Proposer::open(&self.doors)
    }

    /// A bare client connection in this process: it speaks ZooKeeper's client protocol, and what the
    /// server sends arrives in `mailbox`. Many connections may share a mailbox. For load generators
    /// and proxies; [`Server::session`] is the comfortable way.
    pub fn connect(&self, mailbox: &Arc<Mailbox>) -> Connection {
        Connection::open(&self.doors, Port::Client, mailbox)
    }

    /// What the steps of every write took since the server started.
    pub fn histograms(&self) -> Histograms {
        self.control.total()
    }

    /// What the steps of every write took since the last call of this or [`Server::histograms`].
    pub fn take_histograms(&self) -> Histograms {
        self.control.dump()
    }

    /// Waits until the server stops because it could not go on, or [`Server::request_stop`] was
    /// called; the reason in the first case.
    pub fn wait(&self) -> Option<String> {
        self.control.wait_end();
        self.control.failure()
    }

    /// Ends every [`Server::wait`]; whoever waits there then calls [`Server::shutdown`]. The server
    /// goes on until then.
    pub fn request_stop(&self) {
        self.control.request_end();
    }

    /// Takes no new request, waits up to three seconds for what is under way, and stops.
    ///
    /// # Errors
    /// If a thread had stopped before because it could not go on.
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.control.drain();
        self.control.wait_quiet(DRAIN_TIME);
        self.stop()
    }

    fn stop(&mut self) -> Result<(), Error> {
        self.doors.shut();
        self.control.stop();
        let mut failure = self.control.failure();
        for thread in self.threads.drain(..) {
            thread.stop();
            if let Err(error) = thread.join() {
                failure.get_or_insert_with(|| error.to_string());
            }
        }
        failure.map_or(Ok(()), |why| Err(Error::Failed(why)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The owner did not ask for the outcome; a failure was logged when it happened.
        let _ = self.stop();
    }
}

/// Everything of a server that exists before its threads do.
struct Parts {
    lock: Option<File>,
    listing: Vec<(String, u64)>,
    listeners: Vec<(u32, TcpListener)>,
    client_address: Option<SocketAddr>,
    membership: Membership,
}

impl Parts {
    fn prepare(config: &Config) -> Result<Self, Error> {
        // Before anything else: what the kernel refuses is told in words that say what to do.
        probe().map_err(|error| Error::Start(error.to_string()))?;
        let mut lock = None;
        let mut listing = Vec::new();
        if config.durable {
            let file = |path: &Path, source| Error::File { path: path.to_owned(), source };
            fs::create_dir_all(&config.data_dir).map_err(|e| file(&config.data_dir, e))?;
            let folder = store_folder(config);
            fs::create_dir_all(&folder).map_err(|e| file(&folder, e))?;
            lock = Some(lock_folder(&config.data_log_dir)?);
            listing = list(&folder).map_err(|e| file(&folder, e))?;
        }
        let mut listeners = Vec::new();
        let mut client_address = None;
        if let Some(client) = &config.client {
            let listener = listen(client, config.client_backlog)?;
            client_address = listener.local_addr().ok();
            listeners.push((LISTEN_CLIENT, listener));
        }
        if let Some(me) = config.me().filter(|_| !config.standalone) {
            let on = |port: HostPort| {
                if config.quorum_listen_on_all_ips { HostPort::new("", port.port) } else { port }
            };
            for address in &me.addresses {
                let quorum = listen(&on(address.quorum()), PEER_BACKLOG)?;
                listeners.push((LISTEN_QUORUM, quorum));
                let election = listen(&on(address.election()), PEER_BACKLOG)?;
                listeners.push((LISTEN_ELECTION, election));
            }
        }
        Ok(Self { lock, listing, listeners, client_address, membership: membership(config) })
    }

    fn launch<M: StateMachine>(self, config: &Config, machine: M) -> Result<Server, Error> {
        let plan = plan(config);
        let start = |error: io::Error| Error::Start(error.to_string());
        let bells = (0..plan.threads.len())
            .map(|_| Bell::new().map(Arc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(start)?;
        let homes = homes(&plan);
        let shards = plan.shards();
        let mark = initialize_mark(config);
        let control = Control::new(config.my_sid, bells.clone(), shards, mark);
        let limits = limits(config);
        let mut queues = Queues::new(&bells);
        let mut machine = Some(machine);
        let (addresses, lookups) = Addresses::start(&config.servers).map_err(start)?;
        // From here on an error drops it, which stops the threads that run already.
        let mut server = Server {
            control: Arc::clone(&control),
            threads: Vec::new(),
            doors: Doors::default(),
            client_address: self.client_address,
            _lookups: lookups,
            _lock: self.lock,
        };
        let mut listing = Some(self.listing);
        let config_hash = config_hash(config);
        for (index, thread) in plan.threads.iter().enumerate() {
            let mut peer = Peer::new(shards as u16);
            let mut shard = None;
            let mut has_disk = false;
            for role in &thread.roles {
                match role {
                    PlannedRole::Shard(number) => {
                        shard = Some(*number);
                        peer.add_shard(
                            *number,
                            ShardCore::new(ShardConfig {
                                index: *number,
                                sid: config.my_sid,
                                membership: self.membership.clone(),
                                ticks: config.ticks(),
                                limits,
                                config_hash,
                                cluster_id: config.cluster_id,
                                clients_per_host_max: config.max_client_cnxns,
                                words: words(config),
                            }),
                        );
                    }
                    PlannedRole::Quorum => peer.add_quorum(QuorumCore::new(QuorumConfig {
                        sid: config.my_sid,
                        membership: self.membership.clone(),
                        ticks: config.ticks(),
                        limits,
                        initialize: has_initialize_mark(config),
                    })),
                    PlannedRole::Tree => {
                        let machine = machine.take().expect("a plan has one tree core");
                        peer.add_tree(TreeCore::new(tree_config(config, limits), machine));
                    }
                    PlannedRole::Log => {
                        has_disk = true;
                        let listing = listing.take().expect("a plan has one log core");
                        peer.add_log(LogCore::new(store_config(config, limits), listing));
                    }
                }
            }
            let door = Door::new(Arc::clone(&bells[index]));
            let mut listeners = Vec::new();
            if shard.is_some() {
                server.doors.push(Arc::clone(&door));
                for (token, listener) in &self.listeners {
                    listeners.push((*token, listener.try_clone().map_err(start)?));
                }
            }
            let seed = Seed {
                peer,
                shard,
                listeners,
                door: Arc::clone(&door),
                disk: has_disk.then(|| config.durable.then(|| store_folder(config))),
                addresses: Arc::clone(&addresses),
                ping_every: config.min_session_timeout / 3,
                backlog_max: limits.backlog_max,
                client_backlog_max: limits.client_backlog_max,
                inboxes: std::mem::take(&mut queues.inboxes[index]),
                outboxes: std::mem::take(&mut queues.outboxes[index]),
                homes: homes.clone(),
                control: Arc::clone(&control),
            };
            let mut spec = ThreadSpec::new(thread.name(), Arc::clone(&bells[index]));
            spec.cpu = thread.cpu;
            spec.idle = thread.idle;
            let watcher = Arc::clone(&control);
            spec.on_exit = Some(Box::new(move |outcome| {
                if let Err(error) = outcome {
                    watcher.fail(error.to_string());
                }
                // Also of a thread that never had a node: whoever came in learns that it is gone.
                door.shut();
            }));
            let handle = if thread.is_shard() {
                run_shard_thread(spec, move |context| seed.grow(&context))
            } else {
                run_plain_thread(spec, move |context| seed.grow(&context))
            };
            server.threads.push(handle.map_err(start)?);
        }
        Ok(server)
    }
}

/// What a thread needs to make its node; rings are made on the thread that uses them.
struct Seed<M: StateMachine> {
    peer: Peer<M>,
    shard: Option<u16>,
    listeners: Vec<(u32, TcpListener)>,
    door: Arc<Door>,
    /// The folder of a log core's disk; `Some(None)` for a disk in memory.
    disk: Option<Option<PathBuf>>,
    addresses: Arc<Addresses>,
    ping_every: Duration,
    backlog_max: usize,
    client_backlog_max: usize,
    inboxes: Vec<Receiver<Message>>,
    outboxes: Vec<Option<Sender<Message>>>,
    homes: Homes,
    control: Arc<Control>,
}

impl<M: StateMachine> Seed<M> {
    fn grow(self, context: &TurnContext) -> io::Result<Node<M>> {
        let bell = context.bell.as_fd();
        let net = match self.shard {
            None => None,
            Some(shard) => {
                let mut ring = NetRing::new(NetConfig::default(), bell)?;
                for (token, listener) in self.listeners {
                    ring.listen(token, listener);
                }
                Some(Net {
                    shard,
                    ring,
                    addresses: self.addresses,
                    door: self.door,
                    ping_every: self.ping_every,
                    backlog_max: self.backlog_max,
                    client_backlog_max: self.client_backlog_max,
                })
            }
        };
        let disk = match self.disk {
            None => None,
            Some(None) => Some(Disk::Memory(MemoryDisk::default())),
            Some(Some(folder)) => {
                Some(Disk::Ring(DiskRing::new(DiskConfig::new(folder), Some(bell))?))
            }
        };
        Ok(Node::new(NodeParts {
            peer: self.peer,
            net,
            disk,
            inboxes: self.inboxes,
            outboxes: self.outboxes,
            homes: self.homes,
            control: self.control,
            clock: context.clock,
        }))
    }
}

/// A queue from every thread to every other.
struct Queues {
    inboxes: Vec<Vec<Receiver<Message>>>,
    outboxes: Vec<Vec<Option<Sender<Message>>>>,
}

impl Queues {
    fn new(bells: &[Arc<Bell>]) -> Self {
        let count = bells.len();
        let mut inboxes: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        let mut outboxes: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        for from in 0..count {
            for to in 0..count {
                if from == to {
                    outboxes[from].push(None);
                    continue;
                }
                let (consumer, producer) = (Arc::clone(&bells[to]), Arc::clone(&bells[from]));
                let (sender, receiver) = channel(QUEUE_LEN, consumer, producer);
                outboxes[from].push(Some(sender));
                inboxes[to].push(receiver);
            }
        }
        Self { inboxes, outboxes }
    }
}

fn plan(config: &Config) -> Plan {
    let placement = match config.placement {
        config::Placement::Auto => None,
        config::Placement::Single => Some(Placement::Single),
        config::Placement::Compact => Some(Placement::Compact),
        config::Placement::Dedicated => Some(Placement::Dedicated),
    };
    let idle = match config.idle {
        config::Idle::Auto => None,
        config::Idle::Spin => Some(Idle::Spin),
        config::Idle::SpinThenPark(budget) => Some(Idle::SpinThenPark(budget)),
        config::Idle::Park => Some(Idle::Park),
    };
    let shards = (config.shards > 0).then_some(config.shards);
    let pin = placement == Some(Placement::Dedicated);
    Plan::new(&PlanOptions { placement, shards, pin, idle }, &topology())
}

/// Without an affinity mask to read, one CPU is a safe guess.
fn topology() -> Topology {
    Topology::detect().unwrap_or_else(|_| Topology::new(vec![Cpu { id: 0, core: 0 }]))
}

fn homes(plan: &Plan) -> Homes {
    let home = |role: PlannedRole| {
        plan.threads
            .iter()
            .position(|thread| thread.roles.contains(&role))
            .expect("a plan has every role")
    };
    Homes {
        shards: (0..plan.shards() as u16).map(|n| home(PlannedRole::Shard(n))).collect(),
        quorum: home(PlannedRole::Quorum),
        tree: home(PlannedRole::Tree),
        log: home(PlannedRole::Log),
    }
}

const _: () = {
    // A node's path and data come with one request, its access control list with one transaction.
    let node = config::JUTE_MAXBUFFER_MAX + txn_len_max(config::JUTE_MAXBUFFER_MAX);
    assert!(node + 64 * 1024 <= ENTRY_LEN_MAX);
};

/// A transaction may have twice a request's length (jute.maxbuffer.extrasize).
const fn txn_len_max(jute_maxbuffer: u32) -> u32 {
    2 * jute_maxbuffer
}

fn limits(config: &Config) -> Limits {
    Limits {
        client_frame_max: config.jute_maxbuffer,
        // A transaction with its header, or a forwarded request with its identities.
        body_max: txn_len_max(config.jute_maxbuffer) + 64 * 1024,
        window_max: config.window_max,
        ..Limits::DEFAULT
    }
}

fn words(config: &Config) -> Words {
    match &config.four_letter_words {
        config::FourLetterWords::All => Words::All,
        config::FourLetterWords::Listed(words) => {
            Words::Listed(words.iter().filter_map(|word| word.as_bytes().try_into().ok()).collect())
        }
    }
}

fn tree_config(config: &Config, limits: Limits) -> TreeConfig {
    TreeConfig {
        sid: config.my_sid,
        ticks: config.ticks(),
        limits,
        session_timeout_min: config.min_session_timeout,
        session_timeout_max: config.max_session_timeout,
        snap_count: config.snap_count,
        version: VERSION,
    }
}

fn store_config(config: &Config, limits: Limits) -> StoreConfig {
    let mut store = StoreConfig::new(config.my_sid, config.cluster_id);
    store.snapshots_retained = config.snap_retain_count as usize;
    store.body_len_max = limits.body_max;
    store.segment_len = config.segment_len.max(smallest_segment(store.body_len_max));
    store.spares_max = 2;
    store
}

/// A segment must hold at least one record of the largest kind, with its block's header.
fn smallest_segment(body_len_max: u32) -> u64 {
    (u64::from(body_len_max) + 64 * 1024).next_multiple_of(64 * 1024)
}

fn membership(config: &Config) -> Membership {
    let voters: Vec<ServerId> = if config.servers.is_empty() {
        vec![config.my_sid]
    } else {
        config.voters().map(|member| member.sid).collect()
    };
    let observers = config.observers().map(|member| member.sid).collect();
    if config.groups.is_empty() && config.weights.is_empty() {
        return Membership::majority(voters, observers);
    }
    // In the order of their sids, as the members of a configuration are.
    let group_of = |sid: &ServerId| {
        config.groups.iter().find(|(_, sids)| sids.contains(sid)).map_or(0, |(group, _)| *group)
    };
    let weights: Vec<(u64, u64)> =
        voters.iter().map(|sid| (group_of(sid), config.weight(*sid))).collect();
    let verifier = QuorumVerifier::Hierarchical(Hierarchical::new(&weights));
    Membership::new(voters, observers, verifier)
}

/// A fingerprint of who takes part in which role: servers with different lists must not form
/// quorums together (ZOOKEEPER-2819).
fn config_hash(config: &Config) -> u64 {
    let mut text = String::new();
    for member in &config.servers {
        let role = if member.is_voter() { 'v' } else { 'o' };
        text.push_str(&format!("{}{role}{}", member.sid, config.weight(member.sid)));
        // Hosts may be written differently on each server, ports may not.
        for address in &member.addresses {
            text.push_str(&format!(",{}:{}", address.quorum_port, address.election_port));
        }
        text.push(';');
    }
    for (group, sids) in &config.groups {
        text.push_str(&format!("g{group}{sids:?}"));
    }
    let low = crc32c::crc32c(text.as_bytes());
    u64::from(low) << 32 | u64::from(crc32c::crc32c_append(low, text.as_bytes()))
}

/// ZooKeeper's own mark that an empty directory is meant to be empty.
fn initialize_mark(config: &Config) -> PathBuf {
    config.data_dir.join("initialize")
}

fn has_initialize_mark(config: &Config) -> bool {
    config.standalone || initialize_mark(config).exists()
}

/// Our files lie beside ZooKeeper's `version-2`, never in it, and all of them where the log is
/// wanted: a snapshot that is written elsewhere could not be ordered with it.
fn store_folder(config: &Config) -> PathBuf {
    config.data_log_dir.join("quorate")
}

fn listen(address: &HostPort, backlog: u32) -> Result<TcpListener, Error> {
    let resolved = if address.host.is_empty() {
        SocketAddr::from(([0, 0, 0, 0], address.port))
    } else {
        *resolve(&address.to_string())?.first().expect("a resolved name has an address")
    };
    // The kernel takes rings apart some milliseconds after their process has ended, and until then
    // a killed predecessor's sockets keep their ports.
    let until = Instant::now() + BIND_TIME;
    loop {
        match bind(resolved, backlog) {
            Ok(listener) => return Ok(listener),
            Err(AddressError::InUse { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Held as long as the server lives: two servers on one directory would destroy it.
fn lock_folder(folder: &Path) -> Result<File, Error> {
    let path = folder.join("quorate.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| Error::File { path, source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::InUse { path: folder.to_owned() }),
        Err(fs::TryLockError::Error(source)) => {
            Err(Error::File { path: folder.to_owned(), source })
        }
    }
}

/// Unpredictable to clients, so that none can choose paths that collide in a hash table. It changes
/// nothing that is replicated.
fn hash_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
