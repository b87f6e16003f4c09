//! Load over TCP: one thread, one poll loop, many sessions, to any server that speaks ZooKeeper's
//! client protocol.
//!
//! Moves bytes between sockets and the sessions, connects again what was lost. Knows no request.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::jute::Nanos;
use super::{CARE_EVERY, CLOSED, idle_time};
use crate::load::Load;
use crate::run::{Course, Step};

/// One read takes what a busy socket buffer holds.
const READ_LEN: usize = 256 * 1024;
/// Before a lost connection is made again, so that a server which refuses is not flooded.
const RETRY_AFTER: Nanos = 100_000_000;
/// A connection or a session that is not open by then is tried at the next server.
const OPEN_WITHIN: Nanos = 5_000_000_000;
/// epoll waits in whole milliseconds, so what is due earlier is awaited awake.
const POLL_STEP: Nanos = 1_000_000;

#[derive(Debug)]
enum Link {
    /// No connection; the next attempt is at this time.
    Down { retry_at: Nanos },
    /// Connected, or about to be. It is blocked while the socket takes no bytes.
    Up { stream: TcpStream, since: Nanos, established: bool, blocked: bool },
}

/// The sockets of one thread's sessions.
#[derive(Debug)]
pub(crate) struct Tcp {
    poll: Poll,
    links: Vec<Link>,
    servers: Vec<SocketAddr>,
    /// Which server each session tries next.
    next_server: Vec<usize>,
    buffer: Box<[u8]>,
    next_care: Nanos,
    /// Why a connection was lost most recently.
    trouble: Option<String>,
}

impl Tcp {
    /// `count` sessions, spread over the servers from the `first`th on.
    pub(crate) fn new(servers: &[SocketAddr], count: usize, first: usize) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            links: (0..count).map(|_| Link::Down { retry_at: 0 }).collect(),
            servers: servers.to_vec(),
            next_server: (0..count).map(|index| (first + index) % servers.len()).collect(),
            buffer: vec![0; READ_LEN].into_boxed_slice(),
            next_care: 0,
            trouble: None,
        })
    }

    /// Runs `load` until the course of the run says that it is over.
    pub(crate) fn run(&mut self, load: &mut Load, course: &mut Course) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let now = course.now();
            match course.step(load, now, self.trouble.as_deref()) {
                Step::Go => {}
                Step::Over => return Ok(()),
            }
            load.tick(now);
            if now >= self.next_care {
                self.care(load, now);
                self.next_care = now + CARE_EVERY;
            }
            self.flush(load, now);
            // Rounded down: epoll's own rounding up would be late.
            let steps = idle_time(load, self.next_care, course.now()) / POLL_STEP;
            let wait = Duration::from_millis(steps);
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            if events.is_empty() && wait.is_zero() {
                // What is due within the millisecond is awaited awake, and the CPU left to servers.
                std::thread::yield_now();
            }
            for event in &events {
                let index = event.token().0;
                let now = course.now();
                if event.is_writable() {
                    self.writable(load, index, now);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.readable(load, index, course);
                }
                // What an answer made room for leaves at once, before other answers are read.
                self.flush(load, course.now());
            }
        }
    }

    /// Makes lost connections again, gives up those that do not open, keeps sessions alive.
    fn care(&mut self, load: &mut Load, now: Nanos) {
        for index in 0..self.links.len() {
            match &self.links[index] {
                Link::Down { retry_at } if *retry_at <= now && !load.session(index).is_closed() => {
                    self.connect(load, index, now);
                }
                Link::Up { since, .. }
                    if now - since > OPEN_WITHIN
                        && !load.session(index).is_ready()
                        && !load.session(index).is_closed() =>
                {
                    self.lose(load, index, now, "no session within 5 s");
                }
                Link::Down { .. } | Link::Up { .. } => {}
            }
        }
        load.ping(now);
    }

    fn connect(&mut self, load: &mut Load, index: usize, now: Nanos) {
        let server = self.servers[self.next_server[index]];
        self.next_server[index] = (self.next_server[index] + 1) % self.servers.len();
        let opened = TcpStream::connect(server).and_then(|mut stream| {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(index), both)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                self.links[index] =
                    Link::Up { stream, since: now, established: false, blocked: true };
            }
            Err(error) => self.lose(load, index, now, &format!("{server}: {error}")),
        }
    }

    fn lose(&mut self, load: &mut Load, index: usize, now: Nanos, why: &str) {
        self.trouble = Some(why.to_owned());
        // Dropping the stream closes it and takes it from the poll.
        self.links[index] = Link::Down { retry_at: now + RETRY_AFTER };
        load.disconnected(index);
    }

    fn writable(&mut self, load: &mut Load, index: usize, now: Nanos) {
        let Link::Up { stream, established, blocked, .. } = &mut self.links[index] else { return };
        *blocked = false;
        if !*established {
            let peer = stream.take_error().and_then(|error| match error {
                Some(error) => Err(error),
                None => stream.peer_addr(),
            });
            match peer {
                Err(error) if error.kind() == ErrorKind::NotConnected => return,
                Err(error) => return self.lose(load, index, now, &error.to_string()),
                Ok(_) => {}
            }
            *established = true;
            if let Err(error) = stream.set_nodelay(true) {
                return self.lose(load, index, now, &error.to_string());
            }
            load.connected(index, now);
        }
        self.write(load, index, now);
    }

    fn flush(&mut self, load: &mut Load, now: Nanos) {
        while let Some(index) = load.next_dirty() {
            self.write(load, index, now);
        }
    }

    fn write(&mut self, load: &mut Load, index: usize, now: Nanos) {
        let Link::Up { stream, established: true, blocked: blocked @ false, .. } =
            &mut self.links[index]
        else {
            return;
        };
        let session = load.session(index);
        while !session.out().is_empty() {
            match stream.write(session.out()) {
                Ok(count) => session.sent(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    *blocked = true;
                    return;
                }
                Err(error) => return self.lose(load, index, now, &error.to_string()),
            }
        }
    }

    /// Reads until the socket is empty: its readiness is told once.
    fn readable(&mut self, load: &mut Load, index: usize, course: &Course) {
        loop {
            let Link::Up { stream, established: true, .. } = &mut self.links[index] else { return };
            let read = stream.read(&mut self.buffer);
            // After the read: what it took belongs to the latency that a client sees.
            let now = course.now();
            match read {
                Ok(0) => return self.lose(load, index, now, CLOSED),
                Ok(count) => {
                    if let Err(broken) = load.receive(index, &self.buffer[..count], now) {
                        return self.lose(load, index, now, broken.0);
                    }
                    // A short read has emptied the socket; what comes later is told again.
                    if count < self.buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.lose(load, index, now, &error.to_string()),
            }
        }
    }
}
