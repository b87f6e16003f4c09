//! Connections within the process: a client's bytes reach a shard, and a shard's bytes a client,
//! without a socket.
//!
//! They carry exactly what a socket would carry, so a session in the process and one over TCP take
//! the same way through the server. Knows no request and no reply.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::queue::SegQueue;
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
/// Has no bound: a client that does not take what arrives lets it grow. Several threads may take from
/// one mailbox.
#[derive(Debug, Default)]
pub struct Mailbox {
    queue: SegQueue<Arrival>,
    waiting: AtomicBool,
    sleepers: Mutex<Sleepers>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Sleepers {
    rung: bool,
    wakers: VecDeque<Waker>,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The next arrival, if there is one.
    pub fn take(&self) -> Option<Arrival> {
        self.queue.pop()
    }

    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something has arrived, at most `limit`; false if nothing did. It may come back early,
    /// and another thread may take first what has arrived: look again.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut sleepers = self.sleepers();
        sleepers.rung = false;
        self.waiting.store(true, Ordering::SeqCst);
        if !self.queue.is_empty() {
            return true;
        }
        let (sleepers, _) = self
            .wake
            .wait_timeout_while(sleepers, limit, |sleepers| !sleepers.rung)
            .unwrap_or_else(PoisonError::into_inner);
        drop(sleepers);
        !self.queue.is_empty()
    }

    /// Has `waker` woken at the next arrival.
    pub(crate) fn register(&self, waker: &Waker) -> bool {
        let mut sleepers = self.sleepers();
        sleepers.wakers.push_back(waker.clone());
        self.waiting.store(true, Ordering::SeqCst);
        self.queue.is_empty()
    }

    pub(crate) fn push(&self, arrival: Arrival) {
        self.queue.push(arrival);
    }

    /// Wakes whoever waits; once for a batch of arrivals.
    pub(crate) fn ring(&self) {
        if !self.waiting.swap(false, Ordering::SeqCst) {
            return;
        }
        let mut sleepers = self.sleepers();
        sleepers.rung = true;
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
    next: AtomicU32,
    shut: AtomicBool,
}

impl Door {
    pub(crate) fn new(bell: Arc<Bell>) -> Arc<Self> {
        Arc::new(Self {
            queue: SegQueue::new(),
            bell,
            next: AtomicU32::new(1),
            shut: AtomicBool::new(false),
        })
    }

    pub(crate) fn pop(&self) -> Option<Entrance> {
        self.queue.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Nobody comes in any more; clients learn it from their connections.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
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
    pub(crate) fn open(door: &Arc<Door>, port: Port, mailbox: &Arc<Mailbox>) -> Self {
        let id = ConnectionId(door.next.fetch_add(1, Ordering::Relaxed));
        let connection = Self { id, door: Arc::clone(door), mailbox: Arc::clone(mailbox) };
        if door.shut.load(Ordering::SeqCst) {
            mailbox.push(Arrival::Closed(id));
            mailbox.ring();
        } else {
            door.queue.push(Entrance::Open { id, port, mailbox: Arc::clone(mailbox) });
            door.bell.ring();
        }
        connection
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
        self.door.queue.push(Entrance::Bytes(self.id, bytes));
    }

    /// Wakes the server after [`Connection::push`].
    pub fn flush(&self) {
        self.door.bell.ring();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.door.queue.push(Entrance::Close(self.id));
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
}
