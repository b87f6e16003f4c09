//! Connections within the process: a client's bytes reach a shard, and a shard's bytes a client,
//! without a socket.
//!
//! They carry exactly what a socket would carry, so a session in the process and one over TCP take
//! the same way through the server. Knows no request and no reply.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::queue::SegQueue;
use crossbeam::utils::CachePadded;
use quorate_peer::links::Port;

use crate::runtime::bell::Bell;

/// What a client finds in its mailbox. Arrivals of one connection are in the order in which a socket
/// would give them; those of different connections are in no order.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// Bytes of one of its connections, whole frames with their length.
    Bytes(ConnectionId, Bytes),
    /// One of its connections is gone.
    Closed(ConnectionId),
}

/// Names an in-process connection within its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// Where a client's bytes arrive, for one connection or for many.
///
/// A connection is closed by the server when some 256 MiB wait here: its client does not read.
/// Several threads may take from one mailbox.
#[derive(Debug, Default)]
pub struct Mailbox {
    queue: SegQueue<Arrival>,
    /// Bytes that ever arrived, and those that were taken: one side writes each, and the other side's
    /// is rarely looked at.
    pushed: CachePadded<AtomicU64>,
    taken: CachePadded<AtomicU64>,
    waiting: AtomicBool,
    sleepers: Mutex<Sleepers>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Sleepers {
    /// A number and no flag: one waiter's next wait must not take back another's wake-up.
    rings: u64,
    wakers: Vec<Waker>,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The next arrival, if there is one.
    pub fn take(&self) -> Option<Arrival> {
        let arrival = self.queue.pop()?;
        if let Arrival::Bytes(_, bytes) = &arrival {
            self.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Some(arrival)
    }

    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something has arrived, at most `limit`; false if nothing did. It may come back early,
    /// and another thread may take first what has arrived: look again.
    pub fn wait(&self, limit: Duration) -> bool {
        self.wait_unless(limit, || false);
        !self.queue.is_empty()
    }

    /// The same, and not at all once `is_done`: whoever makes it so rings afterwards.
    pub(crate) fn wait_unless(&self, limit: Duration, is_done: impl Fn() -> bool) {
        if !self.queue.is_empty() {
            return;
        }
        let sleepers = self.sleepers();
        let rings = sleepers.rings;
        self.waiting.store(true, Ordering::SeqCst);
        // The last look: whoever comes after it finds `waiting`.
        if !self.queue.is_empty() || is_done() {
            return;
        }
        let rested = self.wake.wait_timeout_while(sleepers, limit, |now| now.rings == rings);
        drop(rested.unwrap_or_else(PoisonError::into_inner));
    }

    /// Has `waker` woken at the next arrival; whether nothing has arrived yet. A task that is polled
    /// again and again is kept once.
    pub(crate) fn register(&self, waker: &Waker) -> bool {
        let mut sleepers = self.sleepers();
        if !sleepers.wakers.iter().rev().any(|known| known.will_wake(waker)) {
            sleepers.wakers.push(waker.clone());
        }
        self.waiting.store(true, Ordering::SeqCst);
        self.queue.is_empty()
    }

    /// Adds an arrival; how many bytes ever arrived here.
    pub(crate) fn push(&self, arrival: Arrival) -> u64 {
        let len = match &arrival {
            Arrival::Bytes(_, bytes) => bytes.len() as u64,
            Arrival::Closed(_) => 0,
        };
        let pushed = self.pushed.fetch_add(len, Ordering::Relaxed) + len;
        self.queue.push(arrival);
        pushed
    }

    /// How many bytes were ever taken out.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Wakes the threads that wait, not the tasks: something changed that [`Mailbox::wait_unless`]
    /// asks for.
    pub(crate) fn ring_threads(&self) {
        if self.waiting.load(Ordering::SeqCst) {
            self.sleepers().rings += 1;
            self.wake.notify_all();
        }
    }

    /// Wakes whoever waits; once for a batch of arrivals.
    pub(crate) fn ring(&self) {
        if !self.waiting.swap(false, Ordering::SeqCst) {
            return;
        }
        let mut sleepers = self.sleepers();
        sleepers.rings += 1;
        let wakers = std::mem::take(&mut sleepers.wakers);
        drop(sleepers);
        self.wake.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// What reaches a shard from the clients of its process.
#[derive(Debug)]
pub(crate) enum Entrance {
    Open { id: ConnectionId, port: Port, mailbox: Arc<Mailbox> },
    Bytes(ConnectionId, Bytes),
    Close(ConnectionId),
}

/// The way into one shard.
#[derive(Debug)]
pub(crate) struct Door {
    queue: SegQueue<Entrance>,
    bell: Arc<Bell>,
    shut: AtomicBool,
}

impl Door {
    pub(crate) fn new(bell: Arc<Bell>) -> Arc<Self> {
        Arc::new(Self { queue: SegQueue::new(), bell, shut: AtomicBool::new(false) })
    }

    pub(crate) fn pop(&self) -> Option<Entrance> {
        self.queue.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn enter(&self, entrance: Entrance) {
        self.queue.push(entrance);
        // Either this sees that the door was shut meanwhile, or whoever shut it sees the entrance:
        // both are sequentially consistent, as are the queue's ends.
        if self.shut.load(Ordering::SeqCst) {
            self.turn_away();
        }
    }

    /// Nobody comes in any more; whoever tries learns it from the connection.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        self.turn_away();
    }

    fn turn_away(&self) {
        while let Some(entrance) = self.queue.pop() {
            if let Entrance::Open { id, mailbox, .. } = entrance {
                mailbox.push(Arrival::Closed(id));
                mailbox.ring();
            }
        }
    }
}

/// The ways into a server, a door for each shard.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    doors: Vec<Arc<Door>>,
    opened: AtomicU32,
}

impl Doors {
    pub(crate) fn push(&mut self, door: Arc<Door>) {
        self.doors.push(door);
    }

    pub(crate) fn shut(&self) {
        self.doors.iter().for_each(|door| door.shut());
    }

    /// Connections take the shards in turn.
    fn next(&self) -> (ConnectionId, &Arc<Door>) {
        let id = self.opened.fetch_add(1, Ordering::Relaxed);
        (ConnectionId(id), &self.doors[id as usize % self.doors.len()])
    }
}

/// One end of an in-process connection; dropping it closes the connection, and a session that was
/// opened over it expires. The server needs no pings from it.
///
/// ```
/// use std::time::Duration;
///
/// use quorate::in_process::{Arrival, Mailbox};
/// use quorate::{Config, Error, Server};
///
/// # fn main() -> Result<(), Error> {
/// // In memory, without a port: for this example.
/// let server = Server::start(Config::builder("unused").durable(false).build()?)?;
/// server.wait_serving(Duration::from_secs(30))?;
///
/// // An administrator's word is the shortest conversation of the client port.
/// let mailbox = Mailbox::new();
/// let connection = server.connect(&mailbox);
/// connection.send(bytes::Bytes::from_static(b"srvr"));
/// let answer = loop {
///     match mailbox.take() {
///         Some(Arrival::Bytes(from, bytes)) if from == connection.id() => break bytes,
///         Some(_) => continue,
///         None => drop(mailbox.wait(Duration::from_secs(1))),
///     }
/// };
/// assert!(answer.starts_with(b"Zookeeper version: quorate-"));
/// # server.shutdown()
/// # }
/// ```
#[derive(Debug)]
pub struct Connection {
    id: ConnectionId,
    door: Arc<Door>,
    mailbox: Arc<Mailbox>,
}

impl Connection {
    pub(crate) fn open(doors: &Doors, port: Port, mailbox: &Arc<Mailbox>) -> Self {
        let (id, door) = doors.next();
        let mailbox = Arc::clone(mailbox);
        door.enter(Entrance::Open { id, port, mailbox: Arc::clone(&mailbox) });
        door.bell.ring();
        Self { id, door: Arc::clone(door), mailbox }
    }

    /// The connection's name in its mailbox.
    pub const fn id(&self) -> ConnectionId {
        self.id
    }

    /// The mailbox where its bytes arrive.
    pub const fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Sends bytes, as on a socket: whole frames with their length, or any part of them.
    pub fn send(&self, bytes: Bytes) {
        self.push(bytes);
        self.door.bell.ring();
    }

    /// Queues bytes without waking the server; [`Connection::flush`] does.
    pub fn push(&self, bytes: Bytes) {
        self.door.enter(Entrance::Bytes(self.id, bytes));
    }

    /// Wakes the server after [`Connection::push`].
    pub fn flush(&self) {
        self.door.bell.ring();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.door.enter(Entrance::Close(self.id));
        self.door.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_wakes_its_waiter_once_something_arrived() {
        let mailbox = Mailbox::new();
        let theirs = Arc::clone(&mailbox);
        let sender = std::thread::spawn(move || {
            theirs.push(Arrival::Closed(ConnectionId(1)));
            theirs.ring();
        });
        while mailbox.queue.is_empty() {
            mailbox.wait(Duration::from_secs(5));
        }
        sender.join().expect("the sender ends");
        assert!(matches!(mailbox.take(), Some(Arrival::Closed(ConnectionId(1)))));
        assert!(mailbox.take().is_none());
        assert!(!mailbox.wait(Duration::from_millis(1)), "nothing more has arrived");
    }

    struct Count(AtomicU32);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_that_is_polled_often_is_kept_and_woken_once() {
        let mailbox = Mailbox::new();
        let (one, other) = (Arc::new(Count(AtomicU32::new(0))), Arc::new(Count(AtomicU32::new(0))));
        let (first, second) = (Waker::from(Arc::clone(&one)), Waker::from(Arc::clone(&other)));
        for _ in 0..1000 {
            assert!(mailbox.register(&first));
            assert!(mailbox.register(&second));
        }
        assert_eq!(mailbox.sleepers().wakers.len(), 2);
        mailbox.push(Arrival::Closed(ConnectionId(1)));
        mailbox.ring();
        mailbox.ring();
        assert_eq!((one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn a_waiter_whose_answer_somebody_else_took_does_not_wait() {
        let mailbox = Mailbox::new();
        let begun = std::time::Instant::now();
        mailbox.wait_unless(Duration::from_secs(20), || true);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    /// One waiter goes back to sleep at once: the other, who is still waking up, must not.
    #[test]
    fn a_ring_wakes_every_waiter_even_if_one_waits_again() {
        let mailbox = Mailbox::new();
        for _ in 0..200 {
            let woken = AtomicU32::new(0);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let begun = std::time::Instant::now();
                        mailbox.wait_unless(Duration::from_secs(20), || false);
                        woken.fetch_add(1, Ordering::SeqCst);
                        mailbox.wait_unless(Duration::from_secs(20), || {
                            woken.load(Ordering::SeqCst) == 3
                        });
                        assert!(begun.elapsed() < Duration::from_secs(10), "a wake-up was lost");
                        mailbox.ring_threads();
                    });
                }
                while woken.load(Ordering::SeqCst) < 3 {
                    mailbox.ring();
                    std::thread::yield_now();
                }
            });
        }
    }

    fn closed(mailbox: &Mailbox) -> bool {
        mailbox.wait(Duration::from_secs(20));
        matches!(mailbox.take(), Some(Arrival::Closed(_)))
    }

    fn doors() -> Doors {
        let mut doors = Doors::default();
        doors.push(Door::new(Arc::new(Bell::new().expect("a bell"))));
        doors
    }

    #[test]
    fn whoever_comes_while_the_door_is_shut_learns_it() {
        for _ in 0..1000 {
            let doors = doors();
            let mailbox = Mailbox::new();
            std::thread::scope(|scope| {
                scope.spawn(|| doors.shut());
                let connection = Connection::open(&doors, Port::Client, &mailbox);
                connection.send(Bytes::from_static(b"x"));
                assert!(closed(&mailbox), "nobody answers a connection");
            });
        }
    }

    #[test]
    fn nothing_is_kept_behind_a_shut_door() {
        let doors = doors();
        let mailbox = Mailbox::new();
        let connection = Connection::open(&doors, Port::Client, &mailbox);
        doors.shut();
        assert!(closed(&mailbox));
        for _ in 0..10 {
            connection.send(Bytes::from_static(b"x"));
        }
        drop(connection);
        assert!(doors.doors[0].is_empty());
        let late = Connection::open(&doors, Port::Client, &mailbox);
        assert!(closed(&mailbox));
        drop(late);
        assert!(doors.doors[0].is_empty());
    }

    #[test]
    fn connections_take_the_shards_in_turn_and_have_names_of_their_own() {
        let mut doors = doors();
        doors.push(Door::new(Arc::new(Bell::new().expect("a bell"))));
        let mailbox = Mailbox::new();
        let open = || Connection::open(&doors, Port::Client, &mailbox);
        let connections: Vec<_> = (0..4).map(|_| open()).collect();
        for door in &doors.doors {
            assert_eq!(door.queue.len(), 2);
        }
        let mut ids: Vec<_> = connections.iter().map(Connection::id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 4);
    }
}
