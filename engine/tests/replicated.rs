//! States of an embedder's own on three servers: one order for all, restarts, snapshots, refusals.
//!
//! Waits for conditions with a deadline; nothing here sleeps for a fixed time.

mod common;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{PATIENCE, TICKS, wait_for};
use quorate::{Config, Error, ErrorCode, Machine, Proposer, Replicated, Role, Server, Zxid};
use tempfile::TempDir;

/// What a server's copy of the state has lived through, seen from outside.
#[derive(Debug, Default)]
struct Seen {
    restored: AtomicUsize,
    applied: AtomicUsize,
}

/// Every command in its order. A command's reply is its place.
#[derive(Default)]
struct Journal {
    entries: Vec<Vec<u8>>,
    last: Zxid,
    seen: Arc<Seen>,
}

impl Replicated for Journal {
    fn apply(&mut self, zxid: Zxid, command: &[u8], reply: &mut Vec<u8>) {
        assert!(zxid > self.last, "{zxid} behind {}", self.last);
        self.last = zxid;
        self.entries.push(command.to_vec());
        self.seen.applied.fetch_add(1, Ordering::SeqCst);
        reply.extend((self.entries.len() as u64 - 1).to_le_bytes());
    }

    /// The entry at a place, or all of them.
    fn ask(&self, question: &[u8], answer: &mut Vec<u8>) {
        match <[u8; 8]>::try_from(question) {
            Ok(place) => answer.extend(&self.entries[u64::from_le_bytes(place) as usize]),
            Err(_) => answer.extend(self.snapshot()),
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = self.last.as_u64().to_le_bytes().to_vec();
        for entry in &self.entries {
            bytes.extend((entry.len() as u32).to_le_bytes());
            bytes.extend(entry);
        }
        bytes
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let (last, mut rest) = snapshot.split_first_chunk::<8>().ok_or("no zxid")?;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (len, behind) = rest.split_first_chunk::<4>().ok_or("a torn length")?;
            let len = u32::from_le_bytes(*len) as usize;
            let (entry, behind) = behind.split_at_checked(len).ok_or("a torn entry")?;
            entries.push(entry.to_vec());
            rest = behind;
        }
        self.entries = entries;
        self.last = Zxid::from_u64(u64::from_le_bytes(*last));
        self.seen.restored.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Three servers, each of which can be stopped and started from its disk.
struct Ensemble {
    // Before the folder: servers end before their disks do.
    servers: Vec<Option<Server>>,
    configs: Vec<Config>,
    seen: Vec<Arc<Seen>>,
    _folder: TempDir,
}

impl Ensemble {
    /// `snap_count` transactions between two snapshots.
    fn start(snap_count: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let configs = Config::local_ensemble_with(folder.path(), 3, |builder| {
            builder.ticks(TICKS).with(|settings| settings.snap_count = snap_count)
        })
        .expect("three configurations");
        let mut ensemble = Self {
            servers: vec![None, None, None],
            configs,
            seen: vec![Arc::default(); 3],
            _folder: folder,
        };
        (0..3).for_each(|at| ensemble.start_one(at));
        ensemble.wait_all();
        ensemble
    }

    fn start_one(&mut self, at: usize) {
        let seen = Arc::new(Seen::default());
        self.seen[at] = Arc::clone(&seen);
        let state = Journal { seen, ..Journal::default() };
        let server = Server::start_with(self.configs[at].clone(), Machine::new(state));
        self.servers[at] = Some(server.expect("a server starts"));
    }

    fn stop_one(&mut self, at: usize) {
        let server = self.servers[at].take().expect("a running server");
        server.shutdown().expect("an orderly end");
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Server)> {
        self.servers.iter().enumerate().filter_map(|(at, server)| Some((at, server.as_ref()?)))
    }

    fn wait_all(&self) {
        common::wait_all(self.running().map(|(_, server)| server));
    }

    fn server(&self, at: usize) -> &Server {
        self.servers[at].as_ref().expect("a running server")
    }

    fn leader(&self) -> usize {
        wait_for("a leader", || {
            self.running().find(|(_, server)| server.role() == Role::Leader).map(|(at, _)| at)
        })
    }

    fn follower(&self) -> usize {
        wait_for("a follower", || {
            self.running().find(|(_, server)| server.role() == Role::Follower).map(|(at, _)| at)
        })
    }

    /// The state of every running server, once they are equal.
    fn level(&self) -> Vec<u8> {
        wait_for("equal states", || {
            let states: Option<Vec<Vec<u8>>> =
                self.running().map(|(_, server)| server.proposer().ask(b"").wait().ok()).collect();
            let states = states?;
            states.windows(2).all(|pair| pair[0] == pair[1]).then(|| states[0].clone())
        })
    }
}

/// Proposes and gives the place that the command got.
fn place_of(proposer: &Proposer, command: &[u8]) -> u64 {
    let reply = proposer.propose(command).wait().expect("a committed command");
    u64::from_le_bytes(reply.try_into().expect("a place has 8 bytes"))
}

/// Proposes these numbers, one after the other.
fn append(proposer: &Proposer, numbers: Range<u64>) {
    for n in numbers {
        assert_eq!(place_of(proposer, &n.to_le_bytes()), n, "nobody else proposes");
    }
}

/// Until the ensemble takes it: an election may be under way.
fn insist(server: &Server, command: &[u8]) -> u64 {
    wait_for("a commit", || {
        let reply = server.proposer().propose(command).wait().ok()?;
        Some(u64::from_le_bytes(reply.try_into().expect("a place has 8 bytes")))
    })
}

fn count(state: Vec<u8>) -> usize {
    let mut journal = Journal::default();
    journal.restore(&state).expect("a state that a server gave");
    journal.entries.len()
}

#[test]
fn commands_through_every_server_have_one_order() {
    let ensemble = Ensemble::start(100_000);
    let proposers: Vec<Proposer> =
        ensemble.running().map(|(_, server)| server.proposer()).collect();
    let pending: Vec<_> =
        (0..300_u32).map(|n| proposers[n as usize % 3].propose(&n.to_le_bytes())).collect();
    let mut places = Vec::new();
    for pending in pending {
        let reply = pending.wait().expect("a committed command");
        places.push(u64::from_le_bytes(reply.try_into().expect("8 bytes")));
    }
    // Each proposer's own commands kept their order, and no place was given twice.
    for own in 0..3 {
        let own: Vec<u64> = places.iter().copied().skip(own).step_by(3).collect();
        assert!(own.windows(2).all(|pair| pair[0] < pair[1]), "{own:?}");
    }
    let state = ensemble.level();
    let mut journal = Journal::default();
    journal.restore(&state).expect("a whole state");
    for (n, place) in places.iter().enumerate() {
        assert_eq!(journal.entries[*place as usize], (n as u32).to_le_bytes());
    }
    places.sort_unstable();
    assert_eq!(places, (0..300).collect::<Vec<u64>>());
}

#[test]
fn a_question_sees_the_commands_that_its_proposer_made_before() {
    let ensemble = Ensemble::start(100_000);
    let proposer = ensemble.server(ensemble.follower()).proposer();
    for n in 0..50_u64 {
        let command = n.to_be_bytes();
        let _in_flight = proposer.propose(&command);
        // Not waited for: the question itself waits behind the command.
        let entry = proposer.ask(&n.to_le_bytes()).wait().expect("an answer");
        assert_eq!(entry, command);
    }
}

#[test]
fn commands_of_any_length_come_back_whole() {
    let ensemble = Ensemble::start(100_000);
    let proposer = ensemble.server(ensemble.follower()).proposer();
    for len in [0, 1, 4095, 4096, 4097, 300_000, 1_000_000] {
        let command: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let place = place_of(&proposer, &command);
        let entry = proposer.ask(&place.to_le_bytes()).wait().expect("an answer");
        assert!(entry == command, "{len} bytes came back as {}", entry.len());
    }
    ensemble.level();
}

#[test]
fn a_server_that_comes_back_from_its_disk_is_brought_level() {
    let mut ensemble = Ensemble::start(100_000);
    let at = ensemble.follower();
    let leader = ensemble.server(ensemble.leader()).proposer();
    append(&leader, 0..100);
    ensemble.stop_one(at);
    append(&leader, 100..200);
    ensemble.start_one(at);
    ensemble.wait_all();
    assert_eq!(count(ensemble.level()), 200);
    let applied = ensemble.seen[at].applied.load(Ordering::SeqCst);
    assert_eq!(applied, 200, "without a snapshot every command is applied again, once");
    // And it takes part again.
    assert_eq!(insist(ensemble.server(at), b"more"), 200);
}

#[test]
fn a_restart_goes_on_from_the_newest_snapshot() {
    let mut ensemble = Ensemble::start(50);
    let at = ensemble.follower();
    let proposer = ensemble.server(at).proposer();
    append(&proposer, 0..500);
    drop(proposer);
    ensemble.stop_one(at);
    ensemble.start_one(at);
    ensemble.wait_all();
    assert_eq!(count(ensemble.level()), 500);
    let seen = &ensemble.seen[at];
    assert_eq!(seen.restored.load(Ordering::SeqCst), 1, "its own snapshot, and no other");
    let applied = seen.applied.load(Ordering::SeqCst);
    assert!(applied < 400, "{applied} of 500 commands were applied again");
}

#[test]
fn a_new_leader_goes_on_where_the_old_one_was() {
    let mut ensemble = Ensemble::start(100_000);
    let follower = ensemble.follower();
    let proposer = ensemble.server(follower).proposer();
    append(&proposer, 0..100);
    let old = ensemble.leader();
    ensemble.stop_one(old);
    assert_eq!(insist(ensemble.server(follower), b"after"), 100);
    assert_ne!(ensemble.leader(), old);
    ensemble.start_one(old);
    ensemble.wait_all();
    assert_eq!(count(ensemble.level()), 101);
}

#[test]
fn all_servers_come_back_from_their_disks_with_everything_committed() {
    let mut ensemble = Ensemble::start(40);
    let proposer = ensemble.server(0).proposer();
    append(&proposer, 0..150);
    drop(proposer);
    (0..3).for_each(|at| ensemble.stop_one(at));
    (0..3).for_each(|at| ensemble.start_one(at));
    ensemble.wait_all();
    assert_eq!(insist(ensemble.server(1), b"next"), 150);
    assert_eq!(count(ensemble.level()), 151);
}

#[test]
fn a_proposer_of_a_server_that_stopped_reports_a_lost_connection() {
    let mut ensemble = Ensemble::start(100_000);
    let at = ensemble.follower();
    let proposer = ensemble.server(at).proposer();
    place_of(&proposer, b"one");
    ensemble.stop_one(at);
    assert!(matches!(proposer.propose(b"two").wait(), Err(Error::ConnectionLost)));
    assert!(matches!(proposer.ask(b"").wait(), Err(Error::ConnectionLost)));
}

#[test]
fn a_server_in_memory_writes_no_file_and_forgets() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config::builder(folder.path().join("none"))
        .durable(false)
        .ticks(TICKS)
        .build()
        .expect("a configuration");
    let start = || {
        let server = Server::start_with(config.clone(), Machine::new(Journal::default()));
        let server = server.expect("a server starts");
        server.wait_serving(PATIENCE).expect("it serves");
        server
    };
    let first = start();
    place_of(&first.proposer(), b"one");
    first.shutdown().expect("an orderly end");
    assert!(!config.data_dir.exists(), "nothing was written");
    let second = start();
    assert_eq!(place_of(&second.proposer(), b"two"), 0, "memory only: it forgot");
}

#[test]
fn the_tree_refuses_commands_and_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config::builder(folder.path()).ticks(TICKS).build().expect("a configuration");
    let server = common::start(config);
    let result = server.proposer().propose(b"a command that no tree knows").wait();
    assert!(matches!(result, Err(Error::Refused(ErrorCode::Unimplemented))), "{result:?}");
    server.session(PATIENCE).expect("a session of the same server");
}
