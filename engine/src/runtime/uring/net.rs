//! `NetRing`: the sockets of one shard, behind one ring.
//!
//! It accepts, connects, receives and sends bytes; it knows no frame boundary and limits nobody's
//! backlog, but tells how long it is ([`NetRing::queued_bytes`]). It reads no clock: its few time
//! limits are the kernel's.
//!
//! A turn is `poll`, then whatever the events ask for, then `flush`. Only `flush` submits, so a
//! turn costs one `io_uring_enter`, and none when nothing happened.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use io_uring::{cqueue, opcode, squeue, types};
use quorate_wire::Frame;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::put;
use super::receive::{Blocks, GROUP, ReceiveBuffers};
use super::ring::{Completion, Ring, RingMode, timespec};
use super::send_queue::{SendQueue, Transmit};

/// The settings of a [`NetRing`].
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Entries of the submission queue, a power of two. More than that in one turn costs another
    /// enter.
    pub sq_entries: u32,
    /// Entries of the completion queue, a power of two.
    pub cq_entries: u32,
    /// Receive buffers shared by all connections, a power of two.
    pub buffers: u16,
    /// The length of one receive buffer in bytes.
    pub buffer_len: u32,
    /// The length in bytes of the blocks in which received bytes are handed out.
    pub block_len: usize,
    /// How long [`NetRing::close_after_flush`] waits for the peer to take what is queued and to
    /// close its side.
    pub linger: Duration,
    /// The ring's mode; `None` for the best that the kernel offers.
    pub mode: Option<RingMode>,
}

impl Default for NetConfig {
    /// 256 buffers of 16 KiB, blocks of 256 KiB, 2 s to linger.
    fn default() -> Self {
        Self {
            sq_entries: 512,
            cq_entries: 4096,
            buffers: 256,
            buffer_len: 16 * 1024,
            block_len: 256 * 1024,
            linger: Duration::from_secs(2),
            mode: None,
        }
    }
}

/// Names a connection of one [`NetRing`]. Stale once the connection is closed; everything done
/// with a stale id has no effect, but [`NetRing::notify_below`] is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// The place, used again by later connections.
    pub index: u32,
    /// Which of the connections at this place.
    pub generation: u32,
}

/// What happened on a socket.
#[derive(Debug)]
pub enum NetEvent {
    /// A listener accepted a connection. Its bytes follow as they come.
    Accepted {
        /// The token of [`NetRing::listen`].
        listener: u32,
        /// The new connection.
        conn: ConnId,
        /// Who connected.
        peer: SocketAddr,
    },
    /// [`NetRing::connect`] succeeded.
    Connected {
        /// Its token.
        token: u64,
        /// The new connection.
        conn: ConnId,
    },
    /// [`NetRing::connect`] failed; `TimedOut` after the time limit.
    ConnectFailed {
        /// Its token.
        token: u64,
        /// Why.
        error: io::Error,
    },
    /// Bytes in the order sent, cut anywhere. Never empty.
    Received {
        /// From whom.
        conn: ConnId,
        /// The bytes. They share a block with others: keep slices briefly, copy what must stay.
        bytes: Bytes,
    },
    /// The send queue is as short as [`NetRing::notify_below`] asked for.
    Drained {
        /// Whose.
        conn: ConnId,
    },
    /// The connection is gone, by the peer's doing; the id is stale now. Nothing follows for it.
    Closed {
        /// The connection.
        conn: ConnId,
        /// `None` if the peer closed in order: then everything it sent was handed out before, and
        /// what was queued until the end of that turn was sent first.
        error: Option<io::Error>,
    },
}

/// What a [`NetRing`] has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Completed receives.
    pub receives: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Completed sends.
    pub sends: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// How often the kernel found no free receive buffer.
    pub buffers_short: u64,
    /// Accepts that failed for want of descriptors or memory.
    pub accepts_failed: u64,
}

/// Completions taken per poll: half the buffers, so that the kernel does not run out of them
/// within one poll.
const REAP_MAX: usize = 128;

/// A pause before accepting again when descriptors or memory are short; both need time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an operation is, in the top byte of its user data; the index of its object is below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Receive = 1,
    Send = 2,
    Linger = 4,
    Accept = 8,
    AcceptPause = 16,
    Connect = 32,
    ConnectTimeout = 64,
    /// Its own outcome does not matter: what it cancels completes.
    Cancel = 128,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Receive,
        Self::Send,
        Self::Linger,
        Self::Accept,
        Self::AcceptPause,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Cancel,
    ];

    fn user_data(self, index: usize) -> u64 {
        (u64::from(self as u8) << 56) | index as u64
    }

    fn split(user_data: u64) -> Option<(Self, usize)> {
        let kind = (user_data >> 56) as u8;
        let kind = Self::ALL.into_iter().find(|known| *known as u8 == kind)?;
        Some((kind, usize::try_from(user_data & u64::from(u32::MAX)).ok()?))
    }
}

/// The operations under way on one object. Its memory and its place stay until there are none, so
/// that no completion can meet a successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct UnderWay(u8);

impl UnderWay {
    fn has(self, kind: Kind) -> bool {
        self.0 & kind as u8 != 0
    }

    fn begin(&mut self, kind: Kind) {
        debug_assert!(!self.has(kind), "one operation of a kind at a time");
        self.0 |= kind as u8;
    }

    fn end(&mut self, kind: Kind) {
        self.0 &= !(kind as u8);
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnState {
    Open,
    /// The owner is done; what is queued is being sent.
    Flushing,
    /// Everything is sent, our side is shut; the peer's end is awaited, because closing with
    /// unread bytes would reset the connection under what the peer has yet to read.
    Lingering,
    /// Operations are being cancelled.
    Closing,
}

#[derive(Debug)]
struct Conn {
    socket: TcpStream,
    state: ConnState,
    under_way: UnderWay,
    paused: bool,
    /// The peer will send no more.
    ended: bool,
    /// Its owner waits until fewer bytes than this are queued.
    notify_below: Option<usize>,
    /// Listed in `dirty`.
    dirty: bool,
    queue: SendQueue,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    conn: Option<Conn>,
}

#[derive(Debug)]
struct Listener {
    token: u32,
    socket: TcpListener,
    under_way: UnderWay,
    closing: bool,
}

#[derive(Debug)]
struct Connecting {
    token: u64,
    socket: Socket,
    /// Both read by the kernel when the operation is submitted.
    address: Box<SockAddr>,
    limit: Box<types::Timespec>,
    under_way: UnderWay,
    outcome: Option<Result<(), io::Error>>,
    timed_out: bool,
}

/// Time limits, at addresses that do not change: the kernel reads them at submission.
#[derive(Debug)]
struct Limits {
    linger: types::Timespec,
    accept_pause: types::Timespec,
}

/// The sockets of one thread.
#[derive(Debug)]
pub struct NetRing {
    ring: Ring,
    /// Wrapped so that it can be leaked should the kernel not let go of it.
    memory: mem::ManuallyDrop<Memory>,
    blocks: Blocks,
    free: VecDeque<usize>,
    /// Connections with something to send and no send under way.
    dirty: Vec<usize>,
    /// Connections to receive from again.
    rearm: Vec<usize>,
    /// Connections whose peer ended, to be closed at the next poll, when their owner has seen what
    /// came before the end.
    ended: Vec<ConnId>,
    /// Events that did not come from a completion.
    ready: Vec<NetEvent>,
    completions: Vec<Completion>,
    stats: NetStats,
}

/// Everything that operations under way point to. Freed only once none is, else leaked.
#[derive(Debug)]
struct Memory {
    buffers: ReceiveBuffers,
    places: Vec<Place>,
    listeners: Vec<Option<Listener>>,
    connecting: Vec<Option<Connecting>>,
    limits: Box<Limits>,
}

impl NetRing {
    /// A ring for the calling thread; completions ring `bell`, an eventfd.
    ///
    /// # Errors
    /// When io_uring cannot be used, with cause and remedy in the text.
    pub fn new(config: NetConfig, bell: BorrowedFd<'_>) -> io::Result<Self> {
        let mut ring = Ring::open(config.mode, config.sq_entries, config.cq_entries)?;
        ring.register_eventfd(bell)?;
        let buffers = ReceiveBuffers::new(&ring, config.buffers, config.buffer_len)?;
        let limits = Box::new(Limits {
            linger: timespec(config.linger),
            accept_pause: timespec(ACCEPT_PAUSE),
        });
        let memory = Memory {
            buffers,
            places: Vec::new(),
            listeners: Vec::new(),
            connecting: Vec::new(),
            limits,
        };
        Ok(Self {
            ring,
            memory: mem::ManuallyDrop::new(memory),
            blocks: Blocks::new(config.block_len.max(config.buffer_len as usize)),
            free: VecDeque::new(),
            dirty: Vec::new(),
            rearm: Vec::new(),
            ended: Vec::new(),
            ready: Vec::new(),
            completions: Vec::with_capacity(2 * REAP_MAX),
            stats: NetStats::default(),
        })
    }

    /// Counters since the start.
    pub fn stats(&self) -> NetStats {
        NetStats { enters: self.ring.enters(), ..self.stats }
    }

    /// Accepts connections from `listener` until [`unlisten`](Self::unlisten).
    pub fn listen(&mut self, token: u32, listener: TcpListener) {
        let listener =
            Listener { token, socket: listener, under_way: UnderWay::default(), closing: false };
        let index = put(&mut self.memory.listeners, listener);
        self.accept(index);
    }

    /// Stops accepting for a token. Connections already accepted stay.
    pub fn unlisten(&mut self, token: u32) {
        for index in 0..self.memory.listeners.len() {
            let Some(listener) = &mut self.memory.listeners[index] else { continue };
            if listener.token != token || listener.closing {
                continue;
            }
            listener.closing = true;
            cancel_all(&mut self.ring, listener.under_way, index);
        }
    }

    /// Connects to `address`, for at most `limit`; [`NetEvent::Connected`] or
    /// [`NetEvent::ConnectFailed`] tells the outcome under the same token.
    pub fn connect(&mut self, token: u64, address: SocketAddr, limit: Duration) {
        match stream_socket(address) {
            Ok(socket) => self.begin_connect(token, socket, address, limit),
            Err(error) => self.ready.push(NetEvent::ConnectFailed { token, error }),
        }
    }

    fn begin_connect(&mut self, token: u64, socket: Socket, address: SocketAddr, limit: Duration) {
        let mut under_way = UnderWay::default();
        under_way.begin(Kind::Connect);
        under_way.begin(Kind::ConnectTimeout);
        let address = Box::new(SockAddr::from(address));
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
        let limit = Box::new(timespec(limit));
        let connecting = Connecting {
            token,
            socket,
            address,
            limit,
            under_way,
            outcome: None,
            timed_out: false,
        };
        let limit: *const types::Timespec = &raw const *connecting.limit;
        let index = put(&mut self.memory.connecting, connecting);
        // SAFETY: the address is boxed and stays until the operation is done.
        unsafe { push(&mut self.ring, entry, Kind::Connect, index) };
        // SAFETY: the limit is boxed and stays until the timer is done.
        unsafe { set_timer(&mut self.ring, limit, Kind::ConnectTimeout, index) };
    }

    /// Takes over a connected stream, blocking or not.
    ///
    /// # Errors
    /// When the stream is not one over TCP.
    pub fn adopt(&mut self, stream: TcpStream) -> io::Result<ConnId> {
        stream.set_nodelay(true)?;
        // io_uring does not wait for a non-blocking socket, it answers EAGAIN.
        stream.set_nonblocking(false)?;
        Ok(self.admit(stream))
    }

    fn admit(&mut self, socket: TcpStream) -> ConnId {
        let conn = Conn {
            socket,
            state: ConnState::Open,
            under_way: UnderWay::default(),
            paused: false,
            ended: false,
            notify_below: None,
            dirty: false,
            queue: SendQueue::default(),
        };
        let index = self.free.pop_front().unwrap_or_else(|| {
            self.memory.places.push(Place::default());
            self.memory.places.len() - 1
        });
        self.memory.places[index].conn = Some(conn);
        self.receive(index);
        self.id(index)
    }

    fn id(&self, index: usize) -> ConnId {
        let generation = self.memory.places[index].generation;
        ConnId { index: u32::try_from(index).expect("fewer places than descriptors"), generation }
    }

    /// The connection of this id, open or not.
    fn conn(&self, id: ConnId) -> Option<&Conn> {
        let place = self.memory.places.get(id.index as usize)?;
        place.conn.as_ref().filter(|_| place.generation == id.generation)
    }

    /// The open connection of this id.
    fn open(&mut self, id: ConnId) -> Option<&mut Conn> {
        let place = self.memory.places.get_mut(id.index as usize)?;
        if place.generation != id.generation {
            return None;
        }
        place.conn.as_mut().filter(|conn| conn.state == ConnState::Open)
    }

    /// Queues a frame; it leaves at [`flush`](Self::flush), or as soon as the send before it is
    /// done.
    pub fn send(&mut self, id: ConnId, frame: Frame) {
        let Some(conn) = self.open(id) else { return };
        conn.queue.push(frame);
        if !conn.dirty && !conn.under_way.has(Kind::Send) {
            conn.dirty = true;
            self.dirty.push(id.index as usize);
        }
    }

    /// Bytes queued for a connection that the kernel has not taken yet; 0 for a stale id.
    pub fn queued_bytes(&self, id: ConnId) -> usize {
        self.conn(id).map_or(0, |conn| conn.queue.queued())
    }

    /// Whether the id names an open connection.
    pub fn is_open(&self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|conn| conn.state == ConnState::Open)
    }

    /// Reports [`NetEvent::Drained`] once fewer than `below` bytes are queued, at the next poll if
    /// that is so already or the id is stale. Asked again before that, it is reported once, for the
    /// later `below`; a close takes the wish back.
    pub fn notify_below(&mut self, id: ConnId, below: usize) {
        match self.open(id) {
            Some(conn) if conn.queue.queued() >= below => conn.notify_below = Some(below),
            Some(_) | None => self.ready.push(NetEvent::Drained { conn: id }),
        }
    }

    /// Stops receiving, so that the peer's sends back up. What the kernel has already handed over
    /// still comes; the peer's end is reported after [`resume`](Self::resume).
    pub fn pause(&mut self, id: ConnId) {
        let Some(conn) = self.open(id) else { return };
        if !conn.paused {
            conn.paused = true;
            if conn.under_way.has(Kind::Receive) {
                cancel(&mut self.ring, Kind::Receive, id.index as usize);
            }
        }
    }

    /// Receives again.
    pub fn resume(&mut self, id: ConnId) {
        let Some(conn) = self.open(id) else { return };
        if !mem::take(&mut conn.paused) {
            return;
        }
        if conn.ended {
            self.ended.push(id);
        } else if !conn.under_way.has(Kind::Receive) {
            self.receive(id.index as usize);
        }
    }

    /// Closes at once; what is queued is dropped. No event follows.
    pub fn close(&mut self, id: ConnId) {
        if self.open(id).is_some() {
            self.begin_closing(id.index as usize);
        }
    }

    /// Closes when everything queued is sent, at the latest after the configured time. No event
    /// follows, and what the peer still sends is dropped.
    pub fn close_after_flush(&mut self, id: ConnId) {
        let Some(conn) = self.open(id) else { return };
        conn.state = ConnState::Flushing;
        conn.under_way.begin(Kind::Linger);
        let index = id.index as usize;
        let limit = &raw const self.memory.limits.linger;
        // SAFETY: the limits are boxed, and like all of `Memory` they outlive every operation.
        unsafe { set_timer(&mut self.ring, limit, Kind::Linger, index) };
        self.linger_if_flushed(index);
    }

    /// Appends what has happened. Makes a system call only if the kernel says that it has work to
    /// do on this thread, and no completion is there already.
    ///
    /// # Panics
    /// When the kernel refuses the ring itself, which only a mistake of ours can bring about; a
    /// host turns it into an error.
    pub fn poll(&mut self, events: &mut Vec<NetEvent>) {
        events.append(&mut self.ready);
        self.close_ended(events);
        let mut completions = mem::take(&mut self.completions);
        self.ring.reap(&mut completions, REAP_MAX);
        let mut receiving = None;
        for completion in completions.drain(..) {
            self.handle(completion, &mut receiving, events);
        }
        self.hand_out(&mut receiving, events);
        self.completions = completions;
        // Buffers first, or receives that ran out of them would do so again.
        self.memory.buffers.publish();
        while let Some(index) = self.rearm.pop() {
            self.receive(index);
        }
    }

    /// Submits everything queued, in one enter if it fits into the submission queue. Makes no
    /// system call if there is nothing.
    ///
    /// # Panics
    /// As [`poll`](Self::poll).
    pub fn flush(&mut self) {
        while let Some(index) = self.dirty.pop() {
            if let Some(conn) = &mut self.memory.places[index].conn {
                conn.dirty = false;
                self.start_send(index);
                self.free_if_closed(index);
            }
        }
        self.ring.submit();
    }

    /// Whether the thread may wait for the bell; asked after the bell is armed, as its last look.
    pub fn may_sleep(&self) -> bool {
        self.dirty.is_empty()
            && self.rearm.is_empty()
            && self.ended.is_empty()
            && self.ready.is_empty()
            && self.ring.may_sleep()
    }

    fn handle(
        &mut self,
        completion: Completion,
        receiving: &mut Option<ConnId>,
        events: &mut Vec<NetEvent>,
    ) {
        let Some((kind, index)) = Kind::split(completion.user_data) else { return };
        if kind != Kind::Receive {
            // Bytes go before whatever came after them.
            self.hand_out(receiving, events);
        }
        match kind {
            Kind::Receive => self.handle_receive(index, completion, receiving, events),
            Kind::Send => self.handle_send(index, completion.result, events),
            Kind::Linger => self.handle_linger(index),
            Kind::Accept => self.handle_accept(index, completion, events),
            Kind::AcceptPause => self.handle_accept_pause(index),
            Kind::Connect => self.handle_connect(index, completion.result, events),
            Kind::ConnectTimeout => self.handle_connect_timeout(index, completion.result, events),
            Kind::Cancel => {}
        }
    }

    // Receiving.

    /// Arms the multishot receive unless the connection is not to be read.
    fn receive(&mut self, index: usize) {
        let Some(conn) = &mut self.memory.places[index].conn else { return };
        let reads = match conn.state {
            ConnState::Open => !conn.paused,
            ConnState::Flushing | ConnState::Lingering => true,
            ConnState::Closing => false,
        };
        if !reads || conn.ended || conn.under_way.has(Kind::Receive) {
            return;
        }
        conn.under_way.begin(Kind::Receive);
        let fd = types::Fd(conn.socket.as_raw_fd());
        let entry = opcode::RecvMulti::new(fd, GROUP).build();
        // SAFETY: the kernel writes into the group's buffers only, and like all of `Memory` they
        // outlive every operation.
        unsafe { push(&mut self.ring, entry, Kind::Receive, index) };
    }

    fn handle_receive(
        &mut self,
        index: usize,
        completion: Completion,
        receiving: &mut Option<ConnId>,
        events: &mut Vec<NetEvent>,
    ) {
        let id = self.id(index);
        if *receiving != Some(id) {
            self.hand_out(receiving, events);
        }
        let buffer = cqueue::buffer_select(completion.flags);
        if let (Some(buffer), Ok(len @ 1..)) = (buffer, usize::try_from(completion.result)) {
            self.take_bytes(id, buffer, len, receiving, events);
        }
        if let Some(buffer) = buffer {
            self.memory.buffers.give_back(buffer);
        }
        if cqueue::more(completion.flags) {
            return;
        }
        let Some(conn) = &mut self.memory.places[index].conn else { return };
        conn.under_way.end(Kind::Receive);
        match completion.result {
            0 => {
                self.hand_out(receiving, events);
                self.handle_end(index);
            }
            1.. => self.rearm.push(index),
            errno => match -errno {
                libc::ENOBUFS => {
                    self.stats.buffers_short += 1;
                    self.rearm.push(index);
                }
                // A pause; or a resume came before its cancellation took effect.
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => self.rearm.push(index),
                errno => {
                    self.hand_out(receiving, events);
                    self.fail(index, io::Error::from_raw_os_error(errno), events);
                }
            },
        }
        self.free_if_closed(index);
    }

    /// Copies received bytes behind those of the same connection in the same poll.
    fn take_bytes(
        &mut self,
        id: ConnId,
        buffer: u16,
        len: usize,
        receiving: &mut Option<ConnId>,
        events: &mut Vec<NetEvent>,
    ) {
        self.stats.receives += 1;
        self.stats.received_bytes += len as u64;
        if self.open(id).is_none() {
            return;
        }
        if !self.blocks.fits(len) {
            self.hand_out(receiving, events);
            self.blocks.make_room(len);
        }
        self.blocks.append(self.memory.buffers.bytes(buffer, len));
        *receiving = Some(id);
    }

    fn hand_out(&mut self, receiving: &mut Option<ConnId>, events: &mut Vec<NetEvent>) {
        if let Some(conn) = receiving.take() {
            events.push(NetEvent::Received { conn, bytes: self.blocks.take() });
        }
    }

    /// The peer sends no more.
    fn handle_end(&mut self, index: usize) {
        let id = self.id(index);
        let Some(conn) = &mut self.memory.places[index].conn else { return };
        conn.ended = true;
        match conn.state {
            ConnState::Open if !conn.paused => self.ended.push(id),
            ConnState::Lingering => self.begin_closing(index),
            // Reported after the resume, or closed when flushed.
            ConnState::Open | ConnState::Flushing | ConnState::Closing => {}
        }
    }

    /// Closes the connections that ended before the last poll returned and have nothing to send;
    /// the others when their sends are done.
    fn close_ended(&mut self, events: &mut Vec<NetEvent>) {
        for id in mem::take(&mut self.ended) {
            let Some(conn) = self.open(id) else { continue };
            if !conn.paused && conn.queue.queued() == 0 {
                self.begin_closing(id.index as usize);
                events.push(NetEvent::Closed { conn: id, error: None });
            }
        }
    }

    // Sending.

    fn start_send(&mut self, index: usize) {
        let Some(conn) = &mut self.memory.places[index].conn else { return };
        let sends = matches!(conn.state, ConnState::Open | ConnState::Flushing);
        if !sends || conn.under_way.has(Kind::Send) {
            return;
        }
        let fd = types::Fd(conn.socket.as_raw_fd());
        // WAITALL lets the kernel go on by itself after a part was taken.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = match conn.queue.start() {
            None => return,
            Some(Transmit::Run { start, len }) => {
                // A longer run goes in several sends; the kernel tells how much it took.
                let len = u32::try_from(len).unwrap_or(1 << 30);
                opcode::Send::new(fd, start, len).flags(flags).build()
            }
            Some(Transmit::Gather(header)) => {
                opcode::SendMsg::new(fd, header).flags(flags.cast_unsigned()).build()
            }
        };
        conn.under_way.begin(Kind::Send);
        // SAFETY: the queue keeps what it gave out until `complete`, and the connection is not
        // freed while the send is under way.
        unsafe { push(&mut self.ring, entry, Kind::Send, index) };
    }

    fn handle_send(&mut self, index: usize, result: i32, events: &mut Vec<NetEvent>) {
        let id = self.id(index);
        let Some(conn) = &mut self.memory.places[index].conn else { return };
        conn.under_way.end(Kind::Send);
        match usize::try_from(result) {
            Ok(sent) => {
                conn.queue.complete(sent);
                self.stats.sends += 1;
                self.stats.sent_bytes += sent as u64;
            }
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN | libc::ENOBUFS) => {}
            Err(_) => self.fail(index, io::Error::from_raw_os_error(-result), events),
        }
        self.start_send(index);
        self.linger_if_flushed(index);
        let Some(conn) = &mut self.memory.places[index].conn else { return };
        if conn.state == ConnState::Open {
            let queued = conn.queue.queued();
            if conn.notify_below.take_if(|below| queued < *below).is_some() {
                events.push(NetEvent::Drained { conn: id });
            }
            if queued == 0 && conn.ended && !conn.paused {
                self.ended.push(id);
            }
        }
        self.free_if_closed(index);
    }

    // Closing.

    /// The connection broke.
    fn fail(&mut self, index: usize, error: io::Error, events: &mut Vec<NetEvent>) {
        let conn = self.id(index);
        if self.open(conn).is_some() {
            events.push(NetEvent::Closed { conn, error: Some(error) });
        }
        self.begin_closing(index);
    }

    /// Goes from flushing to lingering when everything is sent.
    fn linger_if_flushed(&mut self, index: usize) {
        let Some(conn) = &mut self.memory.places[index].conn else { return };
        if conn.state != ConnState::Flushing || conn.queue.queued() > 0 {
            return;
        }
        conn.state = ConnState::Lingering;
        // Fails only if the peer has reset the connection.
        if conn.ended || conn.socket.shutdown(Shutdown::Write).is_err() {
            self.begin_closing(index);
        } else {
            self.receive(index);
        }
    }

    fn handle_linger(&mut self, index: usize) {
        let Some(conn) = &mut self.memory.places[index].conn else { return };
        conn.under_way.end(Kind::Linger);
        self.begin_closing(index);
        self.free_if_closed(index);
    }

    fn begin_closing(&mut self, index: usize) {
        let Some(conn) = &mut self.memory.places[index].conn else { return };
        if conn.state == ConnState::Closing {
            return;
        }
        conn.state = ConnState::Closing;
        cancel_all(&mut self.ring, conn.under_way, index);
        self.free_if_closed(index);
    }

    fn free_if_closed(&mut self, index: usize) {
        let place = &mut self.memory.places[index];
        let closed = |conn: &mut Conn| {
            conn.state == ConnState::Closing && conn.under_way.is_empty() && !conn.dirty
        };
        if place.conn.take_if(closed).is_some() {
            place.generation = place.generation.wrapping_add(1);
            self.free.push_back(index);
        }
    }

    // Accepting and connecting.

    /// Accepts on a listener that has nothing under way, and frees it if it is closing.
    fn accept(&mut self, index: usize) {
        let place = &mut self.memory.listeners[index];
        place.take_if(|listener| listener.closing);
        let Some(listener) = place else { return };
        listener.under_way.begin(Kind::Accept);
        let fd = types::Fd(listener.socket.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: without an address the kernel writes nothing.
        unsafe { push(&mut self.ring, entry, Kind::Accept, index) };
    }

    fn handle_accept(&mut self, index: usize, completion: Completion, events: &mut Vec<NetEvent>) {
        let Some(listener) = &mut self.memory.listeners[index] else { return };
        let (token, closing) = (listener.token, listener.closing);
        let ended = !cqueue::more(completion.flags);
        if ended {
            listener.under_way.end(Kind::Accept);
        }
        if completion.result >= 0 {
            // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(completion.result) };
            if !closing {
                self.handle_accepted(token, TcpStream::from(fd), events);
            }
        }
        if !ended {
            return;
        }
        match -completion.result {
            errno @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) if !closing => {
                self.pause_accepting(index, errno);
            }
            _ => self.accept(index),
        }
    }

    fn handle_accepted(&mut self, listener: u32, stream: TcpStream, events: &mut Vec<NetEvent>) {
        // Both fail if the peer is gone already; then nothing is lost with it.
        if let (Ok(peer), Ok(())) = (stream.peer_addr(), stream.set_nodelay(true)) {
            let conn = self.admit(stream);
            events.push(NetEvent::Accepted { listener, conn, peer });
        }
    }

    /// Accepting at once would fail again at once, as fast as the CPU goes.
    fn pause_accepting(&mut self, index: usize, errno: i32) {
        let Some(listener) = &mut self.memory.listeners[index] else { return };
        self.stats.accepts_failed += 1;
        let error = io::Error::from_raw_os_error(errno);
        tracing::warn!(%error, "no connection can be accepted for now");
        listener.under_way.begin(Kind::AcceptPause);
        let limit = &raw const self.memory.limits.accept_pause;
        // SAFETY: the limits are boxed, and like all of `Memory` they outlive every operation.
        unsafe { set_timer(&mut self.ring, limit, Kind::AcceptPause, index) };
    }

    fn handle_accept_pause(&mut self, index: usize) {
        let Some(listener) = &mut self.memory.listeners[index] else { return };
        listener.under_way.end(Kind::AcceptPause);
        self.accept(index);
    }

    fn handle_connect(&mut self, index: usize, result: i32, events: &mut Vec<NetEvent>) {
        let Some(connecting) = &mut self.memory.connecting[index] else { return };
        connecting.under_way.end(Kind::Connect);
        connecting.outcome = Some(match result {
            0.. => Ok(()),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        });
        cancel(&mut self.ring, Kind::ConnectTimeout, index);
        self.finish_connect(index, events);
    }

    fn handle_connect_timeout(&mut self, index: usize, result: i32, events: &mut Vec<NetEvent>) {
        let Some(connecting) = &mut self.memory.connecting[index] else { return };
        connecting.under_way.end(Kind::ConnectTimeout);
        if result == -libc::ETIME && connecting.outcome.is_none() {
            connecting.timed_out = true;
            cancel(&mut self.ring, Kind::Connect, index);
        }
        self.finish_connect(index, events);
    }

    /// Reports the outcome when both operations are done.
    fn finish_connect(&mut self, index: usize, events: &mut Vec<NetEvent>) {
        let done = |connecting: &mut Connecting| connecting.under_way.is_empty();
        let Some(connecting) = self.memory.connecting[index].take_if(done) else { return };
        let token = connecting.token;
        let timed_out = connecting.timed_out;
        let connected = connecting.outcome.unwrap_or(Ok(()));
        let stream =
            connected.and_then(|()| checked_stream(connecting.socket, &connecting.address));
        events.push(match stream {
            Ok(stream) => NetEvent::Connected { token, conn: self.admit(stream) },
            Err(_) if timed_out => {
                NetEvent::ConnectFailed { token, error: io::ErrorKind::TimedOut.into() }
            }
            Err(error) => NetEvent::ConnectFailed { token, error },
        });
    }

    /// Cancels everything and waits until the kernel has let go of our memory.
    fn shut_down(&mut self) -> bool {
        for index in 0..self.memory.places.len() {
            if let Some(conn) = &mut self.memory.places[index].conn {
                conn.dirty = false;
                self.begin_closing(index);
                // One that was closing already may have waited for its turn to send only.
                self.free_if_closed(index);
            }
        }
        for index in 0..self.memory.listeners.len() {
            if let Some(listener) = &mut self.memory.listeners[index] {
                listener.closing = true;
                cancel_all(&mut self.ring, listener.under_way, index);
            }
        }
        for index in 0..self.memory.connecting.len() {
            if let Some(connecting) = &self.memory.connecting[index] {
                cancel_all(&mut self.ring, connecting.under_way, index);
            }
        }
        let mut events = Vec::new();
        for _ in 0..100 {
            if self.is_quiet() {
                return true;
            }
            self.ring.wait(Some(Duration::from_millis(10)));
            self.poll(&mut events);
            // Connections that were made meanwhile.
            for event in events.drain(..) {
                if let NetEvent::Connected { conn, .. } = event {
                    self.close(conn);
                }
            }
        }
        self.is_quiet()
    }

    /// Whether the kernel has nothing of ours.
    fn is_quiet(&self) -> bool {
        let memory = &self.memory;
        memory.places.iter().all(|place| place.conn.is_none())
            && memory.listeners.iter().flatten().all(|listener| listener.under_way.is_empty())
            && memory.connecting.iter().flatten().all(|one| one.under_way.is_empty())
    }
}

impl Drop for NetRing {
    fn drop(&mut self) {
        if self.shut_down() {
            // SAFETY: dropped here and nowhere else, and not used after: neither by us nor by the
            // kernel, which has no operation left.
            unsafe { mem::ManuallyDrop::drop(&mut self.memory) };
        } else {
            // Freed memory that the kernel still writes to would be somebody else's.
            tracing::error!("a socket operation could not be cancelled; its memory is kept");
        }
    }
}

/// # Safety
/// As [`Ring::push`].
unsafe fn push(ring: &mut Ring, entry: squeue::Entry, kind: Kind, index: usize) {
    // SAFETY: the caller's promise.
    unsafe { ring.push(entry.user_data(kind.user_data(index))) }
}

fn cancel_all(ring: &mut Ring, under_way: UnderWay, index: usize) {
    for kind in Kind::ALL.into_iter().filter(|kind| under_way.has(*kind)) {
        cancel(ring, kind, index);
    }
}

fn cancel(ring: &mut Ring, kind: Kind, index: usize) {
    let entry = opcode::AsyncCancel::new(kind.user_data(index)).build();
    // SAFETY: a cancellation points to nothing.
    unsafe { push(ring, entry, Kind::Cancel, index) }
}

/// # Safety
/// `limit` must stay valid until the timer is done.
unsafe fn set_timer(ring: &mut Ring, limit: *const types::Timespec, kind: Kind, index: usize) {
    let entry = opcode::Timeout::new(limit).build();
    // SAFETY: the caller's promise.
    unsafe { push(ring, entry, kind, index) }
}

fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Refuses a connection of a socket to itself: a port of the ephemeral range that nobody listens
/// on can be given to the very socket that connects to it.
fn checked_stream(socket: Socket, peer: &SockAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::from(socket);
    if Some(stream.local_addr()?) == peer.as_socket() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}
