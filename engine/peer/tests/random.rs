//! Whole ensembles under random faults, many seeds: crashes, kills, cuts, silence, held disks, and
//! clients that read and write through all of it.
//!
//! Each seed has a storm, then a calm in which everything must heal. Run one seed with
//! `QUORATE_SEED=17 cargo test -p quorate-peer --test random`.

mod ensemble;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use ensemble::client::{self, Heard};
use ensemble::prng::Prng;
use ensemble::{Options, SHAPES, ms};
use quorate_peer::Limits;
use quorate_wire::jute::client::{decode_data_and_stat, decode_stat};
use told::Told;

const KEYS: usize = 4;

#[derive(Clone, Debug)]
enum Asked {
    Create { path: String, lasting: bool },
    Set { key: usize, value: u64 },
    Get { key: usize },
    Sync { acked_before: i64 },
    Close,
}

/// A client of the storm: one connection at a time, each numbered anew.
#[derive(Debug, Default)]
struct Actor {
    conn: Option<usize>,
    asked: Vec<(i32, Asked)>,
    answered: usize,
    /// The zxid of the newest own write to each key that was acknowledged.
    own: BTreeMap<usize, i64>,
}

#[derive(Debug, Default)]
struct Book {
    unique: u64,
    created: BTreeSet<String>,
    /// zxid of an acknowledged write: key and value.
    set: BTreeMap<i64, (usize, u64)>,
    acked: i64,
    answers: u64,
}

struct Run {
    e: Told,
    prng: Prng,
    actors: Vec<Actor>,
    book: Book,
    storm: usize,
    wiped: bool,
}

fn options(seed: u64) -> Options {
    let mut prng = Prng::new(seed);
    let mut options = Options::new(SHAPES[(seed % 2) as usize], [1, 3, 3, 3, 5][prng.below(5)]);
    options.seed = seed;
    options.observers = prng.below(2);
    options.snap_count = [7, 25, 1_000_000][prng.below(3)];
    options.limits = Limits {
        window_max: [1, 8, 1000][prng.below(3)],
        outstanding_max: [4, 64 * 1024][prng.below(2)],
        pipeline_max: [2, 4096][prng.below(2)],
        ..options.limits
    };
    options
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut e = Told::start(options(seed));
        e.await_leader();
        let c = e.open(0);
        for key in 0..KEYS {
            let path = format!("/k{key}");
            assert_eq!(e.ask(c, |xid| client::create(xid, &path, b"0", client::PERSISTENT)).err, 0);
        }
        e.hang_up(c);
        let actors = (0..5).map(|_| Actor::default()).collect();
        Self {
            e,
            prng: Prng::new(seed ^ 0xabcd),
            actors,
            book: Book::default(),
            storm: 60,
            wiped: false,
        }
    }

    fn storm(&mut self) {
        for _ in 0..self.storm {
            if self.prng.one_in(3) {
                self.fault();
            }
            for actor in 0..self.actors.len() {
                if self.prng.one_in(2) {
                    self.act(actor);
                }
            }
            let pause = ms(1 + self.prng.below(60) as u64);
            self.e.run_for(pause);
            self.listen();
        }
    }

    fn fault(&mut self) {
        let count = self.e.servers.len();
        let at = self.prng.below(count);
        let other = self.prng.below(count);
        match self.prng.below(13) {
            0 => self.e.crash(at),
            1 if self.e.servers[at].up => self.e.kill(at),
            2..=5 => self.e.start_all(),
            6 if at != other => self.e.cut(at, other),
            7 if at != other => self.e.reset(at, other),
            8 if at != other => self.e.hold(at, other, true),
            9 => self.e.isolate(at),
            10 if self.e.servers[at].up => {
                self.e.servers[at].disk_held = !self.e.servers[at].disk_held;
            }
            // One server at a time may forget: more would be more than a quorum survives (R26).
            11 if self.e.options.voters >= 3 && !self.wiped => {
                self.e.crash(at);
                self.e.servers[at].disk.wipe();
                self.wiped = true;
            }
            _ => self.e.mend(),
        }
    }

    fn act(&mut self, at: usize) {
        let server = self.prng.below(self.e.servers.len());
        let Some(conn) = self.actors[at].conn else {
            self.actors[at] = Actor { conn: Some(self.e.client(server)), ..Actor::default() };
            return;
        };
        if self.e.clients[conn].closed || self.prng.one_in(20) {
            // Back with the same session, somewhere, with numbers that begin anew.
            if self.e.clients[conn].session.0 == 0 || self.prng.one_in(5) {
                self.actors[at].conn = None;
                return;
            }
            if self.prng.one_in(2) {
                self.e.hang_up(conn);
            }
            let seen = self.e.clients[conn].zxid_seen;
            let new = self.e.reattach(conn, server);
            self.e.clients[new].zxid_seen = seen;
            let own = std::mem::take(&mut self.actors[at].own);
            self.actors[at] = Actor { conn: Some(new), own, ..Actor::default() };
            return;
        }
        for _ in 0..self.prng.below(5) {
            self.ask(at, conn);
        }
    }

    fn ask(&mut self, at: usize, conn: usize) {
        if self.actors[at].asked.last().is_some_and(|(_, asked)| matches!(asked, Asked::Close)) {
            return;
        }
        self.book.unique += 1;
        let unique = self.book.unique;
        let key = self.prng.below(KEYS);
        let path = format!("/k{key}");
        let xid = self.e.clients[conn].xid();
        let (frame, asked) = match self.prng.below(40) {
            0..=8 => {
                let path = format!("/n{unique}");
                let lasting = self.prng.one_in(2);
                let flags = if lasting { client::PERSISTENT } else { client::EPHEMERAL };
                (client::create(xid, &path, b"", flags), Asked::Create { path, lasting })
            }
            9..=20 => {
                let value = unique.to_string();
                (client::set(xid, &path, value.as_bytes()), Asked::Set { key, value: unique })
            }
            21..=33 => (client::get(xid, &path, self.prng.one_in(2)), Asked::Get { key }),
            34..=38 => (client::sync(xid, &path), Asked::Sync { acked_before: self.book.acked }),
            _ => (client::close(xid), Asked::Close),
        };
        self.e.send(conn, frame);
        self.actors[at].asked.push((xid, asked));
    }

    fn listen(&mut self) {
        for at in 0..self.actors.len() {
            let Some(conn) = self.actors[at].conn else { continue };
            while let Some(heard) = self.e.clients[conn].heard.get(self.e.clients[conn].seen) {
                let heard = heard.clone();
                self.e.clients[conn].seen += 1;
                self.hear(at, heard);
            }
        }
    }

    fn hear(&mut self, at: usize, heard: Heard) {
        let Heard::Reply { xid, zxid, err, body } = heard else { return };
        let actor = &mut self.actors[at];
        let (expected, asked) = actor.asked[actor.answered].clone();
        let seed = self.e.options.seed;
        assert_eq!(xid, expected, "seed {seed}: answers come in the order of the requests");
        actor.answered += 1;
        self.book.answers += 1;
        assert_eq!(err, 0, "seed {seed}: {asked:?} was refused");
        match asked {
            Asked::Create { path, lasting } => {
                if lasting {
                    self.book.created.insert(path);
                }
                self.book.acked = self.book.acked.max(zxid);
            }
            Asked::Set { key, value } => {
                let stat = decode_stat(&body).expect("a stat");
                assert_eq!(stat.mzxid.as_u64() as i64, zxid);
                let before = self.book.set.insert(zxid, (key, value));
                assert_eq!(before, None, "seed {seed}: two writes at {zxid:#x}");
                actor.own.insert(key, zxid);
                self.book.acked = self.book.acked.max(zxid);
            }
            Asked::Get { key } => {
                let (data, stat) = decode_data_and_stat(&body).expect("data");
                let mzxid = stat.mzxid.as_u64() as i64;
                let own = actor.own.get(&key).copied().unwrap_or(0);
                assert!(mzxid >= own, "seed {seed}: a read at {mzxid:#x} misses its own {own:#x}");
                self.check_value(key, mzxid, data.unwrap_or_default());
            }
            Asked::Sync { acked_before } => {
                assert!(
                    zxid >= acked_before,
                    "seed {seed}: a sync saw {zxid:#x}, not {acked_before:#x}"
                );
            }
            Asked::Close => {}
        }
    }

    fn check_value(&self, key: usize, mzxid: i64, data: &[u8]) {
        if let Some((set_key, value)) = self.book.set.get(&mzxid) {
            let seed = self.e.options.seed;
            assert_eq!(*set_key, key, "seed {seed}: {mzxid:#x} wrote another key");
            assert_eq!(data, value.to_string().as_bytes(), "seed {seed}: at {mzxid:#x}");
        }
    }

    /// All faults end: everything must heal, and nothing that was acknowledged may be missing.
    fn calm(&mut self) {
        self.e.mend();
        for at in 0..self.e.servers.len() {
            self.e.servers[at].disk_held = false;
        }
        self.e.start_all();
        self.e.run_until("all are level", |e| e.is_level());
        let leader = self.e.leader().expect("level");
        for server in 0..self.e.servers.len() {
            let c = self.e.open(server);
            assert_eq!(self.e.ask(c, |xid| client::set(xid, "/k0", b"calm")).err, 0);
            self.e.hang_up(c);
        }
        self.listen();
        for actor in 0..self.actors.len() {
            if let Some(conn) = self.actors[actor].conn {
                self.e.hang_up(conn);
            }
        }
        self.e.run_until("sessions end", |e| {
            e.is_level()
                && (0..e.servers.len()).all(|at| e.tree(at).machine().tree().session_count() == 0)
        });
        let seed = self.e.options.seed;
        assert_eq!(
            self.e.leader(),
            Some(leader),
            "seed {seed}: nothing failed, yet the leader changed"
        );
        assert_eq!(self.e.fatals, Vec::new(), "seed {seed}");
        for at in 0..self.e.servers.len() {
            let tree = self.e.tree(at).machine().tree();
            assert_eq!(
                tree.ephemeral_count(),
                0,
                "seed {seed}: an ephemeral node outlived its session"
            );
            for path in &self.book.created {
                assert!(
                    tree.exists(path.as_bytes(), &[]).is_ok(),
                    "seed {seed}: {path} is lost on {at}"
                );
            }
            for key in 0..KEYS {
                let (data, stat) =
                    tree.get_data(format!("/k{key}").as_bytes(), &[]).expect("keys stay");
                let mzxid = stat.mzxid.as_u64() as i64;
                let newest =
                    self.book.set.iter().filter(|(_, (set, _))| *set == key).map(|(z, _)| *z).max();
                assert!(
                    newest.is_none_or(|zxid| mzxid >= zxid),
                    "seed {seed}: a write to /k{key} is lost"
                );
                self.check_value(key, mzxid, data.unwrap_or_default());
            }
        }
    }
}

fn run(seed: u64) -> u64 {
    let mut run = Run::new(seed);
    let told = catch_unwind(AssertUnwindSafe(|| {
        run.storm();
        run.calm();
    }));
    if let Err(why) = told {
        eprintln!("{}", run.e.state());
        if std::env::var("QUORATE_SEED").is_ok() {
            for (at, notice) in &run.e.notices {
                eprintln!("{at} {}", notice.text);
            }
        }
        resume_unwind(why);
    }
    run.book.answers
}

#[test]
fn whatever_fails_nothing_acknowledged_is_lost_and_everything_heals() {
    if let Ok(seed) = std::env::var("QUORATE_SEED") {
        let seed = seed.parse().expect("a number");
        run(seed);
        return;
    }
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("QUORATE_FIRST").unwrap_or(0);
    let seeds = number("QUORATE_SEEDS").unwrap_or(60);
    let answers: u64 = (first..first + seeds).map(run).sum();
    assert!(answers > 20 * seeds, "the storm let too little through: {answers}");
}
