//! The ensemble of znode trees with a narrator's verbs: open a session, ask, wait for the answer.
#![allow(dead_code, reason = "each test file uses its part")]

use std::ops::{Deref, DerefMut};

use quorate_peer::znode::ZnodeMachine;
use quorate_wire::Frame;

use crate::ensemble::client::Heard;
use crate::ensemble::{Ensemble, Options, SHAPES, Shape};

/// Tells a story in each shape, with a few orders of events.
pub(crate) fn tell(options: impl Fn(Shape) -> Options, story: impl Fn(&mut Told, usize)) {
    for shape in SHAPES {
        for seed in 1..4 {
            let mut e = Told::start(Options { seed, ..options(shape) });
            let leader = e.await_leader();
            story(&mut e, leader);
        }
    }
}

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) xid: i32,
    pub(crate) zxid: i64,
    pub(crate) err: i32,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct Told(pub(crate) Ensemble<ZnodeMachine>);

impl Deref for Told {
    type Target = Ensemble<ZnodeMachine>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Told {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Told {
    pub(crate) fn start(options: Options) -> Self {
        Self(Ensemble::new(options, |options| {
            ZnodeMachine::with_limits(options.seed, 2 * options.limits.client_frame_max as usize)
        }))
    }

    /// Waits until every server that is up serves.
    pub(crate) fn await_leader(&mut self) -> usize {
        self.run_until("a leader", |e| {
            e.leader().is_some()
                && (0..e.servers.len()).all(|at| !e.servers[at].up || e.is_serving(at))
        });
        self.leader().expect("just seen")
    }

    /// Opens a session on a server.
    pub(crate) fn open(&mut self, server: usize) -> usize {
        let c = self.client(server);
        self.run_until("a session", |e| !e.clients[c].heard.is_empty());
        assert!(
            matches!(self.clients[c].heard[0], Heard::Session { timeout_ms: 1.., .. }),
            "{:?}",
            self.clients[c].heard
        );
        self.clients[c].seen = 1;
        c
    }

    /// The next thing that a client hears.
    pub(crate) fn next(&mut self, c: usize) -> Heard {
        let at = self.clients[c].seen;
        self.run_until("something to hear", |e| e.clients[c].heard.len() > at);
        self.clients[c].seen = at + 1;
        self.clients[c].heard[at].clone()
    }

    /// The next thing that a client hears, which must be an answer.
    pub(crate) fn answer(&mut self, c: usize) -> Answer {
        match self.next(c) {
            Heard::Reply { xid, zxid, err, body } => Answer { xid, zxid, err, body },
            other => panic!("no answer but {other:?}"),
        }
    }

    /// Sends a request with the client's next number.
    pub(crate) fn tell(&mut self, c: usize, request: impl FnOnce(i32) -> Frame) -> i32 {
        let xid = self.clients[c].xid();
        self.send(c, request(xid));
        xid
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(&mut self, c: usize, request: impl FnOnce(i32) -> Frame) -> Answer {
        let xid = self.tell(c, request);
        let answer = self.answer(c);
        assert_eq!(answer.xid, xid, "answers come in order");
        answer
    }
}
