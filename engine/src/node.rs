//! One thread of a server: its share of the cores, its ring, its queues, one turn at a time.
//!
//! Moves bytes and messages. Decides nothing and looks into no packet.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_peer::links::{ConnKey, Message, NetInput, NetOp, Port, ToShard, ToTree};
use quorate_peer::notice::{Level, Notice};
use quorate_peer::{Output, Peer, StateMachine};
use quorate_proto::{Instant, ServerId};
use quorate_storage::disk::{DiskDone, DiskOp};
use quorate_wire::Frame;

use crate::control::Control;
use crate::in_process::{Arrival, ConnectionId, Door, Entrance, Mailbox};
use crate::memory_disk::MemoryDisk;
use crate::metrics::Recorder;
use crate::runtime::clock::Clock;
use crate::runtime::host::{Progress, Turn};
use crate::runtime::queue::{Receiver, Sender};
use crate::runtime::uring::{ConnId, DiskRing, NetEvent, NetRing};

/// Messages that a turn hands on before it looks at the network again.
const TURN_BUDGET: usize = 4096;
/// How often the tree core is told the wall clock's reading.
const WALL_CLOCK_EVERY: Duration = Duration::from_millis(50);
/// A turn that takes longer is told to the operator.
const SLOW_TURN: Duration = Duration::from_millis(200);
/// How long a connection to a peer may take (`zookeeper.cnxTimeout`).
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// In-process connections have this bit in their key's index; the ring's never reach it.
const LOCAL_BIT: u32 = 1 << 31;

/// Where the peers are.
pub(crate) type Addresses = Arc<dyn Fn(ServerId, Port) -> Option<SocketAddr> + Send + Sync>;

/// The disk of a log core.
#[derive(Debug)]
pub(crate) enum Disk {
    Ring(DiskRing),
    Memory(MemoryDisk),
}

/// The network of a shard.
pub(crate) struct Net {
    pub(crate) shard: u16,
    pub(crate) ring: NetRing,
    pub(crate) addresses: Addresses,
    pub(crate) door: Arc<Door>,
    pub(crate) ping_every: Duration,
    pub(crate) backlog_max: usize,
}

#[derive(Debug)]
struct Local {
    mailbox: Arc<Mailbox>,
    is_session: bool,
}

/// One thread's share of a server.
pub(crate) struct Node<M: StateMachine> {
    peer: Peer<M>,
    net: Option<Net>,
    disk: Option<Disk>,
    inboxes: Vec<Receiver<Message>>,
    /// By thread; `None` for this one.
    outboxes: Vec<Option<Sender<Message>>>,
    homes: Homes,
    control: Arc<Control>,
    clock: Clock,
    recorder: Recorder,
    has_tree: bool,
    locals: HashMap<ConnectionId, Local>,
    rung: Vec<Arc<Mailbox>>,
    awaited: Vec<(ConnKey, usize)>,
    events: Vec<NetEvent>,
    done: Vec<DiskDone>,
    next_wall: Instant,
    next_ping: Instant,
    dump_seen: u64,
    drained: bool,
    published: Option<(&'static str, bool, bool)>,
}

/// Which thread each core lives on.
#[derive(Clone, Debug)]
pub(crate) struct Homes {
    pub(crate) shards: Vec<usize>,
    pub(crate) quorum: usize,
    pub(crate) tree: usize,
    pub(crate) log: usize,
}

impl Homes {
    fn of(&self, message: &Message) -> usize {
        match message {
            Message::Shard(index, _) => self.shards[usize::from(*index)],
            Message::Shards(_) => unreachable!("split by the peer into one message a shard"),
            Message::Quorum(_) => self.quorum,
            Message::Tree(_) => self.tree,
            Message::Log(_) => self.log,
        }
    }
}

/// What a node is made of.
pub(crate) struct NodeParts<M: StateMachine> {
    pub(crate) peer: Peer<M>,
    pub(crate) net: Option<Net>,
    pub(crate) disk: Option<Disk>,
    pub(crate) inboxes: Vec<Receiver<Message>>,
    pub(crate) outboxes: Vec<Option<Sender<Message>>>,
    pub(crate) homes: Homes,
    pub(crate) control: Arc<Control>,
    pub(crate) clock: Clock,
}

impl<M: StateMachine> Node<M> {
    pub(crate) fn new(parts: NodeParts<M>) -> Self {
        let NodeParts { mut peer, net, disk, inboxes, outboxes, homes, control, clock } = parts;
        // Cores act on their start: the log core begins to read, the shards to call their peers.
        peer.handle_timeout(clock.now());
        Self {
            has_tree: peer.tree().is_some(),
            peer,
            net,
            disk,
            inboxes,
            outboxes,
            homes,
            control,
            clock,
            recorder: Recorder::new(),
            locals: HashMap::new(),
            rung: Vec::new(),
            awaited: Vec::new(),
            events: Vec::new(),
            done: Vec::new(),
            next_wall: Instant::ZERO,
            next_ping: Instant::ZERO,
            dump_seen: 0,
            drained: false,
            published: None,
        }
    }

    // --- inputs --------------------------------------------------------------------------------

    fn take_network(&mut self, now: Instant) -> bool {
        let Some(net) = &mut self.net else { return false };
        net.ring.poll(&mut self.events);
        let shard = net.shard;
        let busy = !self.events.is_empty();
        for event in self.events.drain(..) {
            let input = match event {
                NetEvent::Accepted { listener, conn, peer } => {
                    let port = port_of(listener);
                    NetInput::Accepted { conn: key(shard, conn), port, peer: Some(peer) }
                }
                NetEvent::Connected { token, conn } => {
                    NetInput::Connected { token, conn: key(shard, conn) }
                }
                NetEvent::ConnectFailed { token, error } => {
                    NetInput::ConnectFailed { token, reason: error.to_string() }
                }
                NetEvent::Received { conn, bytes } => {
                    NetInput::Received { conn: key(shard, conn), bytes: Frame::from(bytes) }
                }
                NetEvent::Drained { .. } => continue,
                NetEvent::Closed { conn, error } => {
                    let reason = error.map(|error| error.to_string());
                    NetInput::Closed { conn: key(shard, conn), reason }
                }
            };
            self.peer.handle_net(now, shard, input);
        }
        busy
    }

    /// Tells a shard of connections that have drained as far as it asked.
    fn take_drained(&mut self, now: Instant) -> bool {
        let Some(net) = &self.net else { return false };
        let shard = net.shard;
        let mut drained = Vec::new();
        self.awaited.retain(|(conn, below)| {
            let is_drained = net.ring.queued_bytes(ring_id(*conn)) < *below;
            if is_drained {
                drained.push(*conn);
            }
            !is_drained
        });
        for conn in &drained {
            self.peer.handle_net(now, shard, NetInput::Writable(*conn));
        }
        !drained.is_empty()
    }

    fn take_entrances(&mut self, now: Instant) -> bool {
        let Some(net) = &self.net else { return false };
        let shard = net.shard;
        let door = Arc::clone(&net.door);
        let mut busy = false;
        for _ in 0..TURN_BUDGET {
            let Some(entrance) = door.pop() else { break };
            busy = true;
            let input = match entrance {
                Entrance::Open { id, port, mailbox } => {
                    self.locals.insert(id, Local { mailbox, is_session: port == Port::Client });
                    NetInput::Accepted { conn: local_key(shard, id), port, peer: None }
                }
                Entrance::Bytes(id, bytes) => {
                    NetInput::Received { conn: local_key(shard, id), bytes: Frame::from(bytes) }
                }
                Entrance::Close(id) => {
                    if self.locals.remove(&id).is_none() {
                        continue;
                    }
                    NetInput::Closed { conn: local_key(shard, id), reason: None }
                }
            };
            self.peer.handle_net(now, shard, input);
        }
        busy
    }

    /// Sessions in the process have no thread that could ping; as long as they are held, they live.
    fn ping_locals(&mut self, now: Instant) {
        let Some(net) = &self.net else { return };
        if now < self.next_ping {
            return;
        }
        self.next_ping = now + net.ping_every;
        let shard = net.shard;
        let sessions: Vec<ConnectionId> =
            self.locals.iter().filter(|(_, local)| local.is_session).map(|(id, _)| *id).collect();
        for id in sessions {
            self.peer.handle_net(now, shard, NetInput::Touch(local_key(shard, id)));
        }
    }

    fn take_disk(&mut self, now: Instant) -> bool {
        match &mut self.disk {
            None => return false,
            Some(Disk::Ring(ring)) => ring.poll(&mut self.done),
            Some(Disk::Memory(disk)) => {
                while let Some(done) = disk.poll() {
                    self.done.push(done);
                }
            }
        }
        let busy = !self.done.is_empty();
        for done in self.done.drain(..) {
            self.peer.handle_disk(now, done);
        }
        busy
    }

    fn take_messages(&mut self) -> bool {
        let mut busy = false;
        for inbox in &mut self.inboxes {
            for _ in 0..TURN_BUDGET {
                let Some(message) = inbox.pop() else { break };
                busy = true;
                self.peer.deliver(message);
            }
        }
        busy
    }

    fn take_time(&mut self, now: Instant) -> bool {
        if self.has_tree && now >= self.next_wall {
            self.next_wall = now + WALL_CLOCK_EVERY;
            self.peer.deliver(Message::Tree(ToTree::WallClock(wall_ms())));
        }
        self.ping_locals(now);
        let due = self.peer.poll_timeout().is_some_and(|at| at <= now);
        if due {
            self.peer.handle_timeout(now);
        }
        due
    }

    // --- outputs -------------------------------------------------------------------------------

    fn drain_outputs(&mut self) {
        while let Some(output) = self.peer.poll_output() {
            match output {
                Output::Remote(message) => {
                    let home = self.homes.of(&message);
                    self.outboxes[home].as_mut().expect("another thread").push(message);
                }
                Output::Net(_, op) => self.execute_net(op),
                Output::Disk(op) => self.execute_disk(op),
                Output::Notice(notice) => self.control.notice(&notice),
                Output::Fatal(why) => self.control.fail(why),
            }
        }
    }

    fn execute_disk(&mut self, op: DiskOp) {
        match &mut self.disk {
            Some(Disk::Ring(ring)) => ring.submit(op),
            Some(Disk::Memory(disk)) => disk.submit(op),
            None => unreachable!("only a log core has a disk"),
        }
    }

    fn execute_net(&mut self, op: NetOp) {
        let Some(net) = &mut self.net else { unreachable!("only a shard has a network") };
        match op {
            NetOp::Connect { token, to, port } => match (net.addresses)(to, port) {
                Some(address) => net.ring.connect(token, address, CONNECT_TIME),
                None => {
                    let shard = net.shard;
                    let reason = format!("the address of server {to} cannot be resolved");
                    let input = NetInput::ConnectFailed { token, reason };
                    self.peer.handle_net(self.clock.now(), shard, input);
                }
            },
            NetOp::Send(conn, frame) => match local_id(conn) {
                Some(id) => self.send_local(id, frame.into_bytes()),
                None => self.send_remote(conn, frame),
            },
            NetOp::Close { conn, flush } => match local_id(conn) {
                Some(id) => self.close_local(id),
                None if flush => net.ring.close_after_flush(ring_id(conn)),
                None => net.ring.close(ring_id(conn)),
            },
            NetOp::Pause(conn) if local_id(conn).is_none() => net.ring.pause(ring_id(conn)),
            NetOp::Resume(conn) if local_id(conn).is_none() => net.ring.resume(ring_id(conn)),
            // A client in the process is not read ahead of: its bytes wait in the frame reader.
            NetOp::Pause(_) | NetOp::Resume(_) => {}
            NetOp::NotifyBelow(conn, below) => self.awaited.push((conn, below)),
        }
    }

    fn send_remote(&mut self, conn: ConnKey, frame: Frame) {
        let Some(net) = &mut self.net else { return };
        let id = ring_id(conn);
        net.ring.send(id, frame);
        if net.ring.queued_bytes(id) > net.backlog_max {
            net.ring.close(id);
            let shard = net.shard;
            let text =
                format!("closed connection {}: it does not read what it is sent", conn.index);
            self.control.notice(&Notice { level: Level::Warn, text: text.clone() });
            let reason = Some(text);
            self.peer.handle_net(self.clock.now(), shard, NetInput::Closed { conn, reason });
        }
    }

    fn send_local(&mut self, id: ConnectionId, bytes: Bytes) {
        if let Some(local) = self.locals.get(&id) {
            local.mailbox.push(Arrival::Bytes(id, bytes));
            self.rung.push(Arc::clone(&local.mailbox));
        }
    }

    fn close_local(&mut self, id: ConnectionId) {
        if let Some(local) = self.locals.remove(&id) {
            local.mailbox.push(Arrival::Closed(id));
            self.rung.push(local.mailbox);
        }
    }

    fn flush(&mut self) {
        if let Some(net) = &mut self.net {
            net.ring.flush();
        }
        if let Some(Disk::Ring(ring)) = &mut self.disk {
            ring.flush();
        }
        for outbox in self.outboxes.iter_mut().flatten() {
            outbox.flush();
        }
        for mailbox in self.rung.drain(..) {
            mailbox.ring();
        }
    }

    fn record(&mut self) {
        let recorder = &mut self.recorder;
        self.peer.drain_timings(|step, nanos| recorder.record(step.into(), nanos));
        let wanted = self.control.dumps_wanted();
        if wanted != self.dump_seen {
            self.dump_seen = wanted;
            self.control.collect(self.recorder.take());
        }
    }

    /// Tells the owner what changed; most turns change nothing.
    fn publish(&mut self) {
        let role = self.peer.quorum().map_or("", |quorum| quorum.role_name());
        let (serving, quiet) =
            self.peer.tree().map_or((false, true), |tree| (tree.is_serving(), tree.is_quiet()));
        let state = (role, serving, quiet);
        if self.published == Some(state) {
            return;
        }
        self.published = Some(state);
        if self.peer.quorum().is_some() {
            self.control.publish_role(role);
        }
        if self.has_tree {
            self.control.publish_serving(serving, quiet);
        }
    }

    /// The owner wants to stop: no new request is taken.
    fn take_drain(&mut self) {
        if self.drained || !self.control.is_draining() {
            return;
        }
        self.drained = true;
        if let Some(net) = &self.net {
            self.peer.deliver(Message::Shard(net.shard, ToShard::Drain));
        }
    }

    /// A thread that stands still delays heartbeats; the operator should know which, and for how
    /// long.
    fn note_slow_turn(&self, begun: Instant) {
        let lasted = self.clock.now().since(begun);
        if lasted >= SLOW_TURN {
            let text = format!("a turn took {} ms", lasted.as_millis());
            self.control.notice(&Notice { level: Level::Warn, text });
        }
    }

    fn has_overflow(&self) -> bool {
        self.outboxes.iter().flatten().any(Sender::has_overflow)
    }
}

impl<M: StateMachine> Drop for Node<M> {
    /// Whatever ends this thread, nobody in the process waits for it any longer.
    fn drop(&mut self) {
        if let Some(net) = &self.net {
            net.door.shut();
            while let Some(entrance) = net.door.pop() {
                if let Entrance::Open { id, mailbox, .. } = entrance {
                    self.locals.insert(id, Local { mailbox, is_session: false });
                }
            }
        }
        for (id, local) in self.locals.drain() {
            local.mailbox.push(Arrival::Closed(id));
            local.mailbox.ring();
        }
    }
}

impl<M: StateMachine> Turn for Node<M> {
    fn turn(&mut self, now: Instant) -> Progress {
        if self.control.is_stopping() {
            return Progress::Stopped;
        }
        let clock = self.clock;
        self.take_drain();
        let mut busy = self.take_disk(now);
        busy |= self.take_network(now);
        busy |= self.take_messages();
        busy |= self.take_entrances(now);
        busy |= self.take_time(now);
        busy |= self.take_drained(now);
        loop {
            let more = self.peer.run(TURN_BUDGET, &mut || clock.now());
            self.drain_outputs();
            // A memory disk completes at once; its completions belong to this turn.
            let more_disk = matches!(&self.disk, Some(Disk::Memory(disk)) if !disk.is_idle())
                && self.take_disk(clock.now());
            if !more && !more_disk {
                break;
            }
            busy = true;
        }
        self.peer.check_invariants();
        self.drain_outputs();
        if !self.control.has_failed() {
            self.flush();
        }
        self.record();
        self.publish();
        self.note_slow_turn(now);
        if busy {
            Progress::Busy
        } else {
            let wall = self.has_tree.then_some(self.next_wall);
            let ping = self.net.is_some().then_some(self.next_ping);
            let until = self.peer.poll_timeout().into_iter().chain(wall).chain(ping).min();
            Progress::Idle { until }
        }
    }

    fn may_sleep(&self) -> bool {
        self.inboxes.iter().all(Receiver::is_empty)
            && self.net.as_ref().is_none_or(|net| net.door.is_empty())
            && !self.has_overflow()
            && self.dump_seen == self.control.dumps_wanted()
            && self.drained == self.control.is_draining()
            && !self.control.is_stopping()
            && self.net.as_ref().is_none_or(|net| net.ring.may_sleep())
            && match &self.disk {
                Some(Disk::Ring(ring)) => ring.may_sleep(),
                Some(Disk::Memory(disk)) => disk.is_idle(),
                None => true,
            }
    }
}

const fn key(shard: u16, conn: ConnId) -> ConnKey {
    ConnKey { shard, index: conn.index, generation: conn.generation }
}

const fn local_key(shard: u16, id: ConnectionId) -> ConnKey {
    ConnKey { shard, index: LOCAL_BIT, generation: id.0 }
}

const fn local_id(conn: ConnKey) -> Option<ConnectionId> {
    if conn.index == LOCAL_BIT { Some(ConnectionId(conn.generation)) } else { None }
}

const fn ring_id(conn: ConnKey) -> ConnId {
    ConnId { index: conn.index, generation: conn.generation }
}

/// Listeners' tokens.
pub(crate) const LISTEN_CLIENT: u32 = 0;
pub(crate) const LISTEN_QUORUM: u32 = 1;
pub(crate) const LISTEN_ELECTION: u32 = 2;

fn port_of(listener: u32) -> Port {
    match listener {
        LISTEN_CLIENT => Port::Client,
        LISTEN_QUORUM => Port::Quorum,
        LISTEN_ELECTION => Port::Election,
        other => unreachable!("listener {other} was never opened"),
    }
}

/// Notices at their level, as the host's subscriber wants them.
pub(crate) fn log(level: Level, sid: ServerId, text: &str) {
    match level {
        Level::Debug => tracing::debug!(server = sid.0, "{text}"),
        Level::Info => tracing::info!(server = sid.0, "{text}"),
        Level::Warn => tracing::warn!(server = sid.0, "{text}"),
        Level::Error => tracing::error!(server = sid.0, "{text}"),
    }
}

/// The wall clock, milliseconds since 1970.
fn wall_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
