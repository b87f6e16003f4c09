//! One thread of a server: its share of the cores, its ring, its queues, one turn at a time.
//!
//! Moves bytes and messages. Decides nothing and looks into no packet.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_peer::links::{ConnKey, Message, NetInput, NetOp, Port, ToShard, ToTree};
use quorate_peer::notice::Level;
use quorate_peer::{Output, Peer, StateMachine};
use quorate_proto::{Instant, ServerId};
use quorate_storage::disk::{DiskDone, DiskOp};
use quorate_tree::hash::IdMap;
use quorate_wire::Frame;
use quorate_wire::jute::client::XID_PING;

use crate::addresses::Addresses;
use crate::control::Control;
use crate::in_process::{Arrival, ConnectionId, Door, Entrance, Mailbox};
use crate::memory_disk::MemoryDisk;
use crate::metrics::Recorder;
use crate::runtime::clock::{Clock, wall_ms};
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
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) door: Arc<Door>,
    pub(crate) ping_every: Duration,
    /// Bytes that may be queued towards a peer, or lie in a mailbox.
    pub(crate) backlog_max: usize,
    /// Bytes that may be queued towards a client.
    pub(crate) client_backlog_max: usize,
}

/// The server's end of an in-process connection.
#[derive(Debug)]
struct Local {
    mailbox: Arc<Mailbox>,
    is_session: bool,
    /// Whether it was answered: its session is open from then on.
    is_open: bool,
    /// Pings in its name that were not answered yet. It never sees the answers: nobody reads the
    /// mailbox of an idle session.
    touches: usize,
    /// Not read for now: what was sent waits in the shard.
    paused: bool,
    /// Its client is gone; it stays until what was sent is read.
    leaving: bool,
    /// Arrivals in its mailbox are looked at again when so many bytes were pushed.
    allowed: u64,
}

type Locals = IdMap<ConnectionId, Local>;

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
    locals: Locals,
    /// Locals that are leaving.
    leaving: Vec<ConnectionId>,
    rung: Vec<Arc<Mailbox>>,
    /// By the connection's place in the ring: whether a client has it.
    is_client: Vec<bool>,
    events: Vec<NetEvent>,
    done: Vec<DiskDone>,
    next_wall: Instant,
    next_ping: Instant,
    dump_seen: u64,
    drained: bool,
    published: Option<(&'static str, bool)>,
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
            locals: Locals::default(),
            leaving: Vec::new(),
            rung: Vec::new(),
            is_client: Vec::new(),
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
                    note_client(&mut self.is_client, conn, port == Port::Client);
                    NetInput::Accepted { conn: key(shard, conn), port, peer: Some(peer) }
                }
                NetEvent::Connected { token, conn } => {
                    note_client(&mut self.is_client, conn, false);
                    NetInput::Connected { token, conn: key(shard, conn) }
                }
                NetEvent::ConnectFailed { token, error } => {
                    NetInput::ConnectFailed { token, reason: error.to_string() }
                }
                NetEvent::Received { conn, bytes } => {
                    NetInput::Received { conn: key(shard, conn), bytes: Frame::from(bytes) }
                }
                NetEvent::Drained { conn } => NetInput::Writable(key(shard, conn)),
                NetEvent::Closed { conn, error } => {
                    let reason = error.map(|error| error.to_string());
                    NetInput::Closed { conn: key(shard, conn), reason }
                }
            };
            self.peer.handle_net(now, shard, input);
        }
        busy
    }

    fn take_entrances(&mut self, now: Instant) -> bool {
        let Some(net) = &self.net else { return false };
        let shard = net.shard;
        let mut busy = false;
        for _ in 0..TURN_BUDGET {
            let Some(entrance) = net.door.pop() else { break };
            busy = true;
            let input = match entrance {
                Entrance::Open { id, port, mailbox } => {
                    let local = Local {
                        mailbox,
                        is_session: port == Port::Client,
                        is_open: false,
                        touches: 0,
                        paused: false,
                        leaving: false,
                        allowed: 0,
                    };
                    self.locals.insert(id, local);
                    NetInput::Accepted { conn: local_key(shard, id), port, peer: None }
                }
                Entrance::Bytes(id, bytes) => {
                    NetInput::Received { conn: local_key(shard, id), bytes: Frame::from(bytes) }
                }
                Entrance::Close(id) => match self.locals.get_mut(&id) {
                    None => continue,
                    // As on a socket: the end is seen behind everything that was sent before it.
                    Some(local) if local.paused => {
                        local.leaving = true;
                        self.leaving.push(id);
                        continue;
                    }
                    Some(_) => {
                        self.locals.remove(&id);
                        NetInput::Closed { conn: local_key(shard, id), reason: None }
                    }
                },
            };
            self.peer.handle_net(now, shard, input);
        }
        busy
    }

    /// Ends the connections whose clients are gone and whose requests are all read by now.
    fn take_leaving(&mut self, now: Instant) -> bool {
        let Some(net) = &self.net else { return false };
        let shard = net.shard;
        let mut busy = false;
        let (locals, peer) = (&mut self.locals, &mut self.peer);
        self.leaving.retain(|id| match locals.get(id) {
            Some(local) if local.paused => true,
            None => false,
            Some(_) => {
                locals.remove(id);
                let input = NetInput::Closed { conn: local_key(shard, *id), reason: None };
                peer.handle_net(now, shard, input);
                busy = true;
                false
            }
        });
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
        for (id, local) in &mut self.locals {
            if local.is_session && local.is_open {
                local.touches += 1;
                self.peer.handle_net(now, shard, NetInput::Touch(local_key(shard, *id)));
            }
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
        if self.peer.poll_timeout().is_none_or(|at| at > now) {
            return false;
        }
        // What came before the time did counts first: after a stall, pings and acknowledgements that
        // waited for this thread must not look as if they had never come.
        self.work();
        self.peer.handle_timeout(self.clock.now());
        true
    }

    // --- outputs -------------------------------------------------------------------------------

    /// Lets the cores act on what they were given, and carries out what follows.
    fn work(&mut self) -> bool {
        let clock = self.clock;
        let mut busy = false;
        loop {
            let more = self.peer.run(TURN_BUDGET, &mut || clock.now());
            // Before anything leaves: a broken state must reach neither a peer nor another thread.
            self.peer.check_invariants();
            let fed = self.drain_outputs();
            // A memory disk completes at once; its completions belong to this turn.
            let more_disk = matches!(&self.disk, Some(Disk::Memory(disk)) if !disk.is_idle())
                && self.take_disk(clock.now());
            if !more && !fed && !more_disk {
                return busy;
            }
            busy = true;
        }
    }

    /// Carries out what the cores want; whether that gave them something to act on. Once one core of
    /// this server has failed, nothing that another wants is done any more.
    fn drain_outputs(&mut self) -> bool {
        let mut fed = false;
        if self.control.has_failed() {
            return fed;
        }
        while let Some(output) = self.peer.poll_output() {
            match output {
                Output::Remote(message) => {
                    let home = self.homes.of(&message);
                    self.outboxes[home].as_mut().expect("another thread").push(message);
                }
                Output::Net(_, op) => fed |= self.execute_net(op),
                Output::Disk(op) => self.execute_disk(op),
                Output::Notice(notice) => self.control.say(notice.level, &notice.text),
                Output::Fatal(why) => {
                    self.control.fail(why);
                    break;
                }
            }
        }
        fed
    }

    fn execute_disk(&mut self, op: DiskOp) {
        match &mut self.disk {
            Some(Disk::Ring(ring)) => ring.submit(op),
            Some(Disk::Memory(disk)) => disk.submit(op),
            None => unreachable!("only a log core has a disk"),
        }
    }

    /// Whether the cores were told of something by it.
    fn execute_net(&mut self, op: NetOp) -> bool {
        let Some(net) = &mut self.net else { unreachable!("only a shard has a network") };
        match op {
            NetOp::Connect { token, to, port } => match net.addresses.find(to, port) {
                Some(address) => net.ring.connect(token, address, CONNECT_TIME),
                None => {
                    let shard = net.shard;
                    let reason = format!("the address of server {to} is not known");
                    let input = NetInput::ConnectFailed { token, reason };
                    self.peer.handle_net(self.clock.now(), shard, input);
                    return true;
                }
            },
            NetOp::Send(conn, frame) => {
                return match local_id(conn) {
                    Some(id) => self.send_local(id, frame.into_bytes()),
                    None => self.send_remote(conn, frame),
                };
            }
            NetOp::Close { conn, flush } => match local_id(conn) {
                Some(id) => self.close_local(id),
                None if flush => net.ring.close_after_flush(ring_id(conn)),
                None => net.ring.close(ring_id(conn)),
            },
            NetOp::Pause(conn) => match local_id(conn) {
                Some(id) => self.pause_local(id, true),
                None => net.ring.pause(ring_id(conn)),
            },
            NetOp::Resume(conn) => match local_id(conn) {
                Some(id) => self.pause_local(id, false),
                None => net.ring.resume(ring_id(conn)),
            },
            NetOp::NotifyBelow(conn, below) => net.ring.notify_below(ring_id(conn), below),
        }
        false
    }

    fn send_remote(&mut self, conn: ConnKey, frame: Frame) -> bool {
        let Some(net) = &mut self.net else { return false };
        let id = ring_id(conn);
        net.ring.send(id, frame);
        let is_client = self.is_client.get(id.index as usize).copied().unwrap_or(false);
        let max = if is_client { net.client_backlog_max } else { net.backlog_max };
        if net.ring.queued_bytes(id) <= max || !net.ring.is_open(id) {
            return false;
        }
        net.ring.close(id);
        self.tell_closed(conn);
        true
    }

    /// Tells the shard, and the operator, that a connection had to be closed.
    fn tell_closed(&mut self, conn: ConnKey) {
        let text = "closed a connection that does not read what it is sent".to_owned();
        self.control.say(Level::Warn, &text);
        let input = NetInput::Closed { conn, reason: Some(text) };
        self.peer.handle_net(self.clock.now(), conn.shard, input);
    }

    fn send_local(&mut self, id: ConnectionId, bytes: Bytes) -> bool {
        let Some(net) = &self.net else { return false };
        let shard = net.shard;
        let Some(local) = self.locals.get_mut(&id) else { return false };
        if local.touches > 0 && is_ping_answer(&bytes) {
            local.touches -= 1;
            return false;
        }
        local.is_open = true;
        if local.leaving {
            return false;
        }
        let pushed = local.mailbox.push(Arrival::Bytes(id, bytes));
        if self.rung.last().is_none_or(|last| !Arc::ptr_eq(last, &local.mailbox)) {
            self.rung.push(Arc::clone(&local.mailbox));
        }
        if pushed > local.allowed {
            local.allowed = local.mailbox.taken() + net.backlog_max as u64;
            if pushed > local.allowed {
                self.close_local(id);
                self.tell_closed(local_key(shard, id));
                return true;
            }
        }
        false
    }

    fn close_local(&mut self, id: ConnectionId) {
        if let Some(local) = self.locals.remove(&id) {
            local.mailbox.push(Arrival::Closed(id));
            self.rung.push(local.mailbox);
        }
    }

    /// What a client in the process sends waits in the shard's reader while it is not read. There is
    /// no socket that could hold it back, and the memory is its own process's.
    fn pause_local(&mut self, id: ConnectionId, paused: bool) {
        if let Some(local) = self.locals.get_mut(&id) {
            local.paused = paused;
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
        self.peer.drain_timings(|stage, nanos| recorder.record(stage, nanos));
        let wanted = self.control.dumps_wanted();
        if wanted != self.dump_seen {
            self.dump_seen = wanted;
            recorder.drain(|histograms| self.control.collect(histograms));
        }
    }

    /// Tells the owner what changed; most turns change nothing.
    fn publish(&mut self) {
        let role = self.peer.quorum().map_or("", |quorum| quorum.role_name());
        let serving = self.peer.tree().is_some_and(|tree| tree.is_serving());
        let state = (role, serving);
        if self.published == Some(state) {
            return;
        }
        self.published = Some(state);
        if self.peer.quorum().is_some() {
            self.control.publish_role(role);
        }
        if self.has_tree {
            self.control.publish_serving(serving);
        }
    }

    /// The owner wants to stop: no new request is taken. Whether that is news.
    fn take_drain(&mut self) -> bool {
        if self.drained || !self.control.is_draining() {
            return false;
        }
        self.drained = true;
        if let Some(net) = &self.net {
            self.peer.deliver(Message::Shard(net.shard, ToShard::Drain));
        }
        true
    }

    /// What a draining server's threads tell each other at a turn's end: the shards that their last
    /// requests are handed on, and then the tree core that the last answers are.
    fn drain_on(&self, drains_now: bool, was_drained: bool) {
        if drains_now && self.net.is_some() {
            self.control.note_drained();
        }
        if was_drained && let Some(tree) = self.peer.tree() {
            self.control.publish_quiet(tree.is_quiet());
        }
    }

    /// The server stops in order: answers that are on their way still leave.
    fn finish(&mut self) {
        if self.drained && !self.control.has_failed() {
            self.take_messages();
            self.work();
            self.flush();
        }
    }

    /// A thread that stands still delays heartbeats; the operator should know which, and for how
    /// long.
    fn note_slow_turn(&self, begun: Instant) {
        let lasted = self.clock.now().since(begun);
        if lasted >= SLOW_TURN {
            let text = format!("a turn took {} ms", lasted.as_millis());
            self.control.say(Level::Warn, &text);
        }
    }
}

impl<M: StateMachine> Drop for Node<M> {
    /// Whatever ends this thread, nobody in the process waits for it any longer.
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Now, and not once the rings are taken apart: until then the other cores would go on.
            self.control.halt();
        }
        self.recorder.drain(|histograms| self.control.keep(histograms));
        if let Some(net) = &self.net {
            net.door.shut();
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
            self.finish();
            return Progress::Stopped;
        }
        let was_drained = self.control.is_drained();
        let drains_now = self.take_drain();
        let mut busy = self.take_disk(now);
        busy |= self.take_network(now);
        busy |= self.take_messages();
        busy |= self.take_entrances(now);
        busy |= self.take_leaving(now);
        busy |= self.take_time(now);
        busy |= self.work();
        if !self.control.has_failed() {
            self.flush();
        }
        self.record();
        self.publish();
        if self.drained {
            self.drain_on(drains_now, was_drained);
        }
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

/// Whether a frame is the answer to a ping: its xid stands behind its length.
fn is_ping_answer(frame: &[u8]) -> bool {
    frame.get(4..8) == Some(&XID_PING.to_be_bytes())
}

fn note_client(is_client: &mut Vec<bool>, conn: ConnId, is: bool) {
    let index = conn.index as usize;
    if index >= is_client.len() {
        is_client.resize(index + 1, false);
    }
    is_client[index] = is;
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
