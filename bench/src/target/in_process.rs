//! Load within the process: the same bytes as over TCP, through a server's mailboxes instead of
//! sockets. What is left is the engine's own time.
//!
//! All sessions of a thread are at one server. A connection that is lost stays lost: servers of this
//! process do not go away during a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate::Server;
use quorate::in_process::{Arrival, Connection, ConnectionId, Mailbox};

use super::jute::Nanos;
use super::{CARE_EVERY, CLOSED, idle_time};
use crate::load::Load;
use crate::run::{Course, Step};

/// Parking costs more than this, so what is due within it is awaited awake.
const AWAKE: Nanos = 200_000;

/// The connections of one thread's sessions.
#[derive(Debug)]
pub(crate) struct InProcess {
    mailbox: Arc<Mailbox>,
    /// By session.
    connections: Vec<Option<Connection>>,
    sessions: BTreeMap<ConnectionId, usize>,
    next_care: Nanos,
    trouble: Option<&'static str>,
}

impl InProcess {
    /// `count` connections to `server`.
    pub(crate) fn new(server: &Server, count: usize) -> Self {
        let mailbox = Mailbox::new();
        let connections: Vec<_> = (0..count).map(|_| server.connect(&mailbox)).collect();
        let sessions = connections.iter().enumerate().map(|(at, c)| (c.id(), at)).collect();
        Self {
            mailbox,
            connections: connections.into_iter().map(Some).collect(),
            sessions,
            next_care: 0,
            trouble: None,
        }
    }

    /// Runs `load` until the course of the run says that it is over.
    pub(crate) fn run(&mut self, load: &mut Load, course: &mut Course) {
        let now = course.now();
        for index in 0..self.connections.len() {
            load.connected(index, now);
        }
        loop {
            let now = course.now();
            if course.step(load, now, self.trouble) == Step::Over {
                return;
            }
            load.tick(now);
            if now >= self.next_care {
                load.ping(now);
                self.next_care = now + CARE_EVERY;
            }
            self.flush(load);
            self.wait(load, course.now());
            while let Some(arrival) = self.mailbox.take() {
                self.arrived(load, &arrival, course.now());
            }
        }
    }

    fn wait(&self, load: &Load, now: Nanos) {
        let wait = idle_time(load, self.next_care, now);
        if wait > AWAKE {
            self.mailbox.wait(Duration::from_nanos(wait - AWAKE));
        } else {
            std::thread::yield_now();
        }
    }

    fn arrived(&mut self, load: &mut Load, arrival: &Arrival, now: Nanos) {
        let (id, lost) = match arrival {
            Arrival::Bytes(id, bytes) => {
                let Some(&index) = self.sessions.get(id) else { return };
                (id, load.receive(index, bytes, now).err().map(|broken| broken.0))
            }
            Arrival::Closed(id) => (id, Some(CLOSED)),
        };
        if let Some(why) = lost
            && let Some(index) = self.sessions.remove(id)
        {
            self.trouble = Some(why);
            self.connections[index] = None;
            load.disconnected(index);
        }
    }

    /// Hands over everything and wakes the server once.
    fn flush(&self, load: &mut Load) {
        let mut last = None;
        while let Some(index) = load.next_dirty() {
            let Some(connection) = &self.connections[index] else { continue };
            connection.push(Bytes::from(load.session(index).take_out()));
            last = Some(connection);
        }
        if let Some(connection) = last {
            connection.flush();
        }
    }
}
