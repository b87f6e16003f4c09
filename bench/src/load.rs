//! The load itself: many sessions, when each of them asks for what, and how long it took.
//!
//! Moves no bytes and reads no clock: a target brings what servers sent and takes what is to be sent
//! to them, so that a test can be the server.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;

use crate::open_loop::OpenLoop;
use crate::target::jute::{Asked, Broken, Event, Nanos, Session, code_name};
use crate::workload::{Kind, Workload};

/// Longer than any run lets a request take.
const NANOS_MAX: u64 = 3_600_000_000_000;

/// When requests are sent.
#[derive(Debug)]
pub(crate) enum Pacing {
    /// Each session keeps `depth` requests under way. Finds the highest throughput; its latencies
    /// leave out what clients with a schedule of their own would have waited.
    Closed,
    /// By a schedule; latency counts from the time of the schedule.
    Open(OpenLoop),
}

/// What was measured within an interval.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Latencies of requests that were done, in nanoseconds.
    pub(crate) writes: Histogram<u64>,
    pub(crate) reads: Histogram<u64>,
    /// How much later than intended the generator sent a request: its own share of the latencies
    /// of an open loop, beside sessions that had no room.
    pub(crate) lateness: Histogram<u64>,
    /// Requests that were done.
    pub(crate) done: u64,
    /// Requests that failed, by name.
    pub(crate) errors: BTreeMap<&'static str, u64>,
}

impl Measured {
    pub(crate) fn new() -> Self {
        let empty = Histogram::new_with_bounds(1, NANOS_MAX, 3)
            .expect("1 ns to 1 h with three digits are bounds that a histogram can have");
        Self {
            writes: empty.clone(),
            reads: empty.clone(),
            lateness: empty,
            done: 0,
            errors: BTreeMap::new(),
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        let same = "all have the same bounds";
        self.writes.add(&other.writes).expect(same);
        self.reads.add(&other.reads).expect(same);
        self.lateness.add(&other.lateness).expect(same);
        self.done += other.done;
        for (name, count) in &other.errors {
            *self.errors.entry(name).or_default() += count;
        }
    }

    /// Reads and writes together.
    pub(crate) fn all(&self) -> Histogram<u64> {
        let mut all = self.writes.clone();
        all.add(&self.reads).expect("all have the same bounds");
        all
    }

    pub(crate) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    fn error(&mut self, name: &'static str, count: usize) {
        if count > 0 {
            *self.errors.entry(name).or_default() += count as u64;
        }
    }

    fn latency(&mut self, kind: Kind, nanos: u64) {
        let histogram = match kind {
            Kind::Read => &mut self.reads,
            Kind::SetData | Kind::Create => &mut self.writes,
        };
        histogram.saturating_record(nanos.max(1));
    }
}

/// Where the run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Sessions open; nothing is asked.
    Waiting,
    /// Requests are sent: warm-up, and from `measured_from` on what is measured.
    Running { measured_from: Nanos },
    /// Nothing new falls due. Requests that were due before `until` are still sent and measured.
    Draining { measured_from: Nanos, until: Nanos },
}

/// The sessions of one thread and what they do.
#[derive(Debug)]
pub(crate) struct Load {
    sessions: Vec<Session>,
    workload: Workload,
    pacing: Pacing,
    depth: usize,
    phase: Phase,
    /// Sessions with room in their pipeline, each once; some may have lost their connection since.
    free: VecDeque<usize>,
    is_free: Vec<bool>,
    /// Sessions with bytes to be sent, each once.
    dirty: Vec<usize>,
    is_dirty: Vec<bool>,
    ready: usize,
    measured: Measured,
}

impl Load {
    /// `count` sessions that ask for `timeout_ms`, each with up to `depth` requests under way.
    pub(crate) fn new(
        count: usize,
        timeout_ms: i32,
        depth: usize,
        pacing: Pacing,
        workload: Workload,
    ) -> Self {
        Self {
            sessions: (0..count).map(|_| Session::new(timeout_ms)).collect(),
            workload,
            pacing,
            depth,
            phase: Phase::Waiting,
            free: VecDeque::with_capacity(count),
            is_free: vec![false; count],
            dirty: Vec::with_capacity(count),
            is_dirty: vec![false; count],
            ready: 0,
            measured: Measured::new(),
        }
    }

    /// How many sessions are open.
    pub(crate) const fn ready(&self) -> usize {
        self.ready
    }

    /// How many znodes it has asked to be created.
    pub(crate) const fn created(&self) -> u64 {
        self.workload.created()
    }

    pub(crate) fn session(&mut self, index: usize) -> &mut Session {
        &mut self.sessions[index]
    }

    /// Begins to send; requests that are due from `measured_from` on are measured.
    pub(crate) fn start(&mut self, now: Nanos, measured_from: Nanos) {
        self.phase = Phase::Running { measured_from };
        if let Pacing::Open(open) = &mut self.pacing {
            open.start(now);
        }
        for index in 0..self.sessions.len() {
            self.offer(index, now);
        }
        self.tick(now);
    }

    /// Nothing is due any more; what was due before `now` is still sent and waited for.
    pub(crate) fn stop(&mut self, now: Nanos) {
        if let Phase::Running { measured_from } = self.phase {
            if let Pacing::Open(open) = &mut self.pacing {
                open.stop(now);
            }
            self.phase = Phase::Draining { measured_from, until: now };
        }
    }

    /// Whether everything that was due is answered.
    pub(crate) fn is_drained(&self) -> bool {
        let is_waiting = matches!(&self.pacing, Pacing::Open(open) if open.is_waiting());
        !is_waiting && self.sessions.iter().all(|session| session.outstanding() == 0)
    }

    /// Counts what was never answered: it took at least until now. An open loop would otherwise leave
    /// out just the longest waits.
    pub(crate) fn give_up(&mut self, now: Nanos) {
        let Phase::Draining { measured_from, .. } = self.phase else { return };
        let unanswered = self.sessions.iter().flat_map(Session::unanswered);
        let mut lost = 0;
        for (asked, intended) in unanswered.filter(|&(_, intended)| intended >= measured_from) {
            if let Asked::Load(kind) = asked {
                self.measured.latency(kind, now - intended);
                lost += 1;
            }
        }
        if let Pacing::Open(open) = &mut self.pacing {
            for intended in open.never_sent().filter(|&intended| intended >= measured_from) {
                self.measured.latency(Kind::SetData, now - intended);
                lost += 1;
            }
        }
        self.measured.error("unanswered", lost);
    }

    /// Asks all open sessions to end.
    pub(crate) fn close(&mut self, now: Nanos) {
        for index in 0..self.sessions.len() {
            if self.sessions[index].is_ready() {
                self.sessions[index].close(now);
                self.mark(index);
            }
        }
    }

    /// Whether all sessions have ended or lost their connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.sessions.iter().all(|session| session.is_closed() || session.outstanding() == 0)
    }

    /// What was measured since this was last called; `empty` takes its place.
    pub(crate) fn swap(&mut self, empty: Measured) -> Measured {
        std::mem::replace(&mut self.measured, empty)
    }

    /// Session `index` has a connection.
    pub(crate) fn connected(&mut self, index: usize, now: Nanos) {
        self.sessions[index].connect(now);
        self.mark(index);
    }

    /// Session `index` has lost its connection.
    pub(crate) fn disconnected(&mut self, index: usize) {
        self.ready -= usize::from(self.sessions[index].is_ready());
        let lost = self.sessions[index].disconnect();
        if self.phase != Phase::Waiting {
            self.measured.error("connection_loss", lost);
        }
    }

    /// Sends what is due by `now`: requests of an open loop.
    pub(crate) fn tick(&mut self, now: Nanos) {
        if !matches!(self.pacing, Pacing::Open(_)) || self.phase == Phase::Waiting {
            return;
        }
        while let Some(index) = self.free_session() {
            let Pacing::Open(open) = &mut self.pacing else { return };
            let Some(intended) = open.take(now) else { return };
            self.send(index, intended, now);
            if self.sessions[index].outstanding() >= self.depth {
                self.free.pop_front();
                self.is_free[index] = false;
            } else {
                // The next one is another session's.
                self.free.rotate_left(1);
            }
        }
        if let Pacing::Open(open) = &mut self.pacing {
            open.gather(now);
        }
    }

    /// When the next request is due, if the time of one is known and a session is free for it.
    pub(crate) fn due(&self) -> Option<Nanos> {
        match (&self.pacing, self.phase) {
            (Pacing::Open(open), Phase::Running { .. }) if !self.free.is_empty() => {
                Some(open.due())
            }
            _ => None,
        }
    }

    /// Sends pings of sessions that would otherwise be silent for too long.
    pub(crate) fn ping(&mut self, now: Nanos) {
        for index in 0..self.sessions.len() {
            if self.sessions[index].ping(now) {
                self.mark(index);
            }
        }
    }

    /// A session with bytes to be sent.
    pub(crate) fn next_dirty(&mut self) -> Option<usize> {
        let index = self.dirty.pop()?;
        self.is_dirty[index] = false;
        Some(index)
    }

    /// Bytes of a server came for session `index`.
    ///
    /// # Errors
    /// [`Broken`] if its connection is to be closed.
    pub(crate) fn receive(&mut self, index: usize, bytes: &[u8], now: Nanos) -> Result<(), Broken> {
        let Self { sessions, measured, phase, ready, .. } = self;
        let mut answered = false;
        sessions[index].receive(bytes, |event| match event {
            Event::Ready => {
                *ready += 1;
                answered = true;
            }
            Event::Expired => measured.error("session_expired", 1),
            Event::Replied { asked: Asked::Load(kind), intended, code } => {
                answered = true;
                note(measured, *phase, kind, intended, code, now);
            }
            Event::Replied { asked: Asked::Setup, .. } => {}
            Event::Replied { asked: Asked::Close, .. } => *ready -= 1,
        })?;
        if answered {
            self.offer(index, now);
        }
        if !self.sessions[index].out().is_empty() {
            self.mark(index);
        }
        Ok(())
    }

    const fn is_draining(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    /// Session `index` may have room.
    fn offer(&mut self, index: usize, now: Nanos) {
        if self.phase == Phase::Waiting || !self.sessions[index].is_ready() {
            return;
        }
        match self.pacing {
            Pacing::Closed if self.is_draining() => {}
            Pacing::Closed => {
                while self.sessions[index].outstanding() < self.depth {
                    self.send(index, now, now);
                }
            }
            Pacing::Open(_) => {
                let room = self.sessions[index].outstanding() < self.depth;
                if room && !std::mem::replace(&mut self.is_free[index], true) {
                    self.free.push_back(index);
                }
            }
        }
    }

    /// The first session that is free and still connected.
    fn free_session(&mut self) -> Option<usize> {
        while let Some(&index) = self.free.front() {
            if self.sessions[index].is_ready() {
                return Some(index);
            }
            self.free.pop_front();
            self.is_free[index] = false;
        }
        None
    }

    fn send(&mut self, index: usize, intended: Nanos, now: Nanos) {
        self.sessions[index].send(&self.workload.next(), intended, now);
        if let (
            Pacing::Open(_),
            Phase::Running { measured_from } | Phase::Draining { measured_from, .. },
        ) = (&self.pacing, self.phase)
            && intended >= measured_from
        {
            self.measured.lateness.saturating_record((now - intended).max(1));
        }
        self.mark(index);
    }

    fn mark(&mut self, index: usize) {
        if !std::mem::replace(&mut self.is_dirty[index], true) {
            self.dirty.push(index);
        }
    }
}

/// Takes a reply down, if it belongs to what is measured.
fn note(measured: &mut Measured, phase: Phase, kind: Kind, intended: Nanos, code: i32, now: Nanos) {
    let (from, until) = match phase {
        Phase::Waiting => return,
        Phase::Running { measured_from } => (measured_from, Nanos::MAX),
        Phase::Draining { measured_from, until } => (measured_from, until),
    };
    // Throughput is what was done within the time measured, latency that of all requests which were
    // due in it, however long they took.
    if code != 0 {
        measured.error(code_name(code), 1);
    } else if now <= until {
        measured.done += 1;
    }
    // What was due in the warm-up belongs to it, and shows only in its own samples.
    if code == 0 && (intended >= from || now < from) {
        measured.latency(kind, now - intended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open_loop::Arrivals;
    use crate::workload::Mix;

    const MS: u64 = 1_000_000;
    const CONNECTED: [u8; 41] = {
        let mut frame = [0; 41];
        frame[3] = 37;
        frame[10] = 0x27;
        frame[11] = 0x10;
        frame[19] = 1;
        frame[23] = 16;
        frame
    };

    fn load(count: usize, depth: usize, pacing: Pacing) -> Load {
        let mix = Mix { read_share: 0.0, create_share: 0.0, payload_len: 8, keys: 4 };
        let mut load = Load::new(count, 10_000, depth, pacing, Workload::new(&mix, "/r", 0, 1));
        for index in 0..count {
            load.connected(index, 0);
            load.session(index).take_out();
            load.receive(index, &CONNECTED, 0).unwrap();
        }
        assert_eq!(load.ready(), count);
        load
    }

    /// What a server answers to all whole frames in `bytes`.
    fn answers(bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            all.extend_from_slice(&16_u32.to_be_bytes());
            all.extend_from_slice(&rest[4..8]);
            all.extend_from_slice(&[0; 12]);
            rest = &rest[4 + len..];
        }
        all
    }

    /// A server that answers all sessions once every `step`, but not between `from` and `to`.
    fn run(load: &mut Load, step: u64, stall: std::ops::Range<u64>, end: u64) {
        load.start(0, 0);
        let mut now = 0;
        while now < end {
            now += step;
            load.tick(now);
            if !stall.contains(&now) {
                for index in 0..load.sessions.len() {
                    let bytes = load.session(index).take_out();
                    load.receive(index, &answers(&bytes), now).unwrap();
                }
            }
        }
        load.stop(now);
    }

    #[test]
    fn an_open_loop_shows_a_stall_in_every_request_that_was_due_in_it() {
        // 1000 requests a second for ten seconds; the server stands still for one of them.
        let open = OpenLoop::new(1_000.0, Arrivals::Fixed, 1);
        let mut load = load(4, 16, Pacing::Open(open));
        run(&mut load, MS, 5_000 * MS..6_000 * MS, 10_000 * MS);
        let measured = load.swap(Measured::new());
        assert_eq!(measured.writes.len(), 10_000);
        // A tenth of all requests was due in the stall and waited half of it on average.
        let waited = |ms| measured.writes.count_between(ms * MS, u64::MAX);
        assert!((480..=520).contains(&waited(500)), "{}", waited(500));
        assert!((80..=120).contains(&waited(900)), "{}", waited(900));
        assert!((990 * MS..1_010 * MS).contains(&measured.writes.max()));
        // Only 64 of them were under way; the others waited for room, which counts as well.
        assert!(measured.lateness.max() > 900 * MS);
    }

    #[test]
    fn a_closed_loop_shows_a_stall_only_in_what_was_under_way() {
        let mut load = load(4, 1, Pacing::Closed);
        run(&mut load, MS, 5_000 * MS..6_000 * MS, 10_000 * MS);
        let measured = load.swap(Measured::new());
        assert_eq!(measured.writes.count_between(500 * MS, u64::MAX), 4);
    }

    #[test]
    fn a_closed_loop_keeps_every_pipeline_full() {
        let mut load = load(3, 5, Pacing::Closed);
        run(&mut load, MS, 0..0, 100 * MS);
        assert!((0..3).all(|index| load.session(index).outstanding() == 5));
        assert_eq!(load.swap(Measured::new()).done, 3 * 5 * 100);
    }

    #[test]
    fn what_was_never_answered_counts_with_its_wait_so_far() {
        let open = OpenLoop::new(1_000.0, Arrivals::Fixed, 1);
        let mut load = load(1, 2, Pacing::Open(open));
        run(&mut load, MS, 0..u64::MAX, 100 * MS);
        assert!(!load.is_drained());
        load.give_up(200 * MS);
        let measured = load.swap(Measured::new());
        assert_eq!(measured.writes.len(), 100);
        assert_eq!((measured.done, measured.errors["unanswered"]), (0, 100));
        assert!(measured.writes.min() >= 99 * MS && measured.writes.max() >= 199 * MS);
    }

    #[test]
    fn what_was_due_before_the_end_is_sent_after_it() {
        let open = OpenLoop::new(1_000.0, Arrivals::Fixed, 1);
        let mut load = load(1, 1, Pacing::Open(open));
        load.start(0, 0);
        load.stop(3 * MS);
        assert!(!load.is_drained());
        for now in [4 * MS, 5 * MS, 6 * MS] {
            load.tick(now);
            let bytes = load.session(0).take_out();
            load.receive(0, &answers(&bytes), now).unwrap();
        }
        assert!(load.is_drained());
        load.tick(100 * MS);
        load.give_up(100 * MS);
        let measured = load.swap(Measured::new());
        assert_eq!((measured.writes.len(), measured.error_count()), (3, 0));
        assert_eq!(measured.done, 0, "none of it was done within the time");
    }

    #[test]
    fn what_was_due_before_the_measured_time_is_left_out() {
        let mut load = load(1, 1, Pacing::Closed);
        load.start(0, 50);
        let first = load.session(0).take_out();
        load.receive(0, &answers(&first), 40).unwrap();
        assert_eq!(load.swap(Measured::new()).done, 1, "the warm-up's own sample");
        let second = load.session(0).take_out();
        load.receive(0, &answers(&second), 60).unwrap();
        let third = load.session(0).take_out();
        load.receive(0, &answers(&third), 70).unwrap();
        let measured = load.swap(Measured::new());
        assert_eq!((measured.done, measured.writes.len()), (2, 1));
        assert_eq!(measured.writes.max(), 10);
    }

    #[test]
    fn a_lost_connection_counts_its_requests_and_the_others_go_on() {
        let open = OpenLoop::new(1_000_000.0, Arrivals::Fixed, 1);
        let mut load = load(2, 3, Pacing::Open(open));
        load.start(0, 0);
        load.tick(4_000);
        assert_eq!(load.session(0).outstanding(), 2);
        load.disconnected(0);
        load.tick(10_000);
        assert_eq!((load.ready(), load.session(1).outstanding()), (1, 3));
        assert_eq!(load.swap(Measured::new()).errors["connection_loss"], 2);
        load.connected(0, 11_000);
        load.receive(0, &CONNECTED, 12_000).unwrap();
        load.tick(12_000);
        assert_eq!(load.session(0).outstanding(), 3, "it takes part again");
    }

    #[test]
    fn an_error_reply_is_counted_by_its_name() {
        let mut load = load(1, 1, Pacing::Closed);
        load.start(0, 0);
        let mut reply = answers(&load.session(0).take_out());
        reply[16..20].copy_from_slice(&(-101_i32).to_be_bytes());
        load.receive(0, &reply, 5).unwrap();
        let measured = load.swap(Measured::new());
        assert_eq!((measured.done, measured.errors["no_node"]), (0, 1));
        assert_eq!(measured.error_count(), 1);
    }
}
