//! Random runs of a whole ensemble: crashes, cuts, held disks, any order of deliveries.
//!
//! The seeds are fixed; a failure names its seed. Each run ends with every fault removed, and the
//! ensemble must heal.

mod ensemble;

use std::time::Duration;

use ensemble::Ensemble;
use quorate_proto::quorum::Membership;
use quorate_proto::{ServerId, Ticks};

struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn ticks() -> Ticks {
    Ticks { tick: Duration::from_millis(200), init_limit: 10, sync_limit: 5 }
}

fn build(voters: u64, observers: u64) -> Ensemble {
    let sids = |from: u64, to: u64| (from..=to).map(ServerId).collect::<Vec<_>>();
    let membership = Membership::majority(sids(1, voters), sids(voters + 1, voters + observers));
    Ensemble::new(membership, ticks(), 3)
}

/// Counts what a run did, so that a test can tell that the runs did something.
#[derive(Default)]
struct Done {
    proposals: usize,
    crashes: usize,
    syncs: usize,
}

fn fault(ensemble: &mut Ensemble, lcg: &mut Lcg, done: &mut Done, rate: usize) {
    let servers = ensemble.servers();
    let sid = servers[lcg.below(servers.len())];
    let other = servers[lcg.below(servers.len())];
    if ensemble.is_up(sid) {
        if lcg.one_in(rate * 4) {
            done.crashes += 1;
            let (log_written, epochs_written) = (lcg.below(4), lcg.below(2));
            ensemble.crash(sid, log_written, epochs_written);
        }
    } else if lcg.one_in(rate) {
        ensemble.start(sid);
    }
    if sid != other {
        if lcg.one_in(rate * 3) {
            ensemble.cut(sid, other);
        } else if lcg.one_in(rate * 2) {
            ensemble.heal(sid, other);
        }
    }
    // A leader that is alone, and does not know it yet.
    if lcg.one_in(rate * 3)
        && let Some(leader) = ensemble.leader()
    {
        for other in servers.iter().filter(|other| **other != leader) {
            ensemble.cut(leader, *other);
        }
    }
    if lcg.one_in(rate * 2) {
        ensemble.disk(sid).held = true;
    } else if lcg.one_in(rate) {
        ensemble.disk(sid).held = false;
    }
    // Snapshots of what is committed make later learners need SNAP.
    if lcg.one_in(rate * 2) {
        let committed = ensemble.committed(sid);
        let disk = ensemble.disk(sid);
        let is_held = disk.history.iter().any(|(zxid, _)| *zxid == committed);
        if is_held && committed > disk.floor && !disk.is_pending() && !ensemble.is_up(sid) {
            ensemble.disk(sid).floor = committed;
        }
    }
}

fn act(ensemble: &mut Ensemble, lcg: &mut Lcg, done: &mut Done) {
    let servers = ensemble.servers();
    let sid = servers[lcg.below(servers.len())];
    if lcg.one_in(6) {
        let txn = format!("t{}", done.proposals);
        if ensemble.propose(sid, &txn) {
            done.proposals += 1;
        }
    }
    if lcg.one_in(12) && ensemble.sync(sid, done.syncs as u64) {
        done.syncs += 1;
    }
}

fn run(seed: u64, done: &mut Done) {
    let mut lcg = Lcg(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
    let voters = [3, 3, 5, 1][lcg.below(4)];
    let mut ensemble = build(voters, lcg.below(2) as u64);
    let rate = 5 + lcg.below(40);
    for sid in ensemble.servers() {
        ensemble.start(sid);
    }
    for step in 0..1500 {
        let steps = ensemble.steps();
        if steps.is_empty() || lcg.one_in(30) {
            let at = ensemble.next_timeout().unwrap_or(ensemble.now);
            ensemble.advance(at);
        } else {
            ensemble.take(steps[lcg.below(steps.len())]);
        }
        act(&mut ensemble, &mut lcg, done);
        // Storms and calms: without the latter little is ever committed.
        if step / 150 % 2 == 0 && lcg.one_in(3) {
            fault(&mut ensemble, &mut lcg, done, rate);
        } else if step / 150 % 2 == 1 && lcg.one_in(30) {
            let servers = ensemble.servers();
            let sid = servers[lcg.below(servers.len())];
            ensemble.disk(sid).held = false;
            if !ensemble.is_up(sid) {
                ensemble.start(sid);
            }
        }
        ensemble.take_trace();
    }
    heal(&mut ensemble);
}

/// Every fault goes; a leader must be established, everybody must serve, and a write must commit.
fn heal(ensemble: &mut Ensemble) {
    ensemble.heal_all();
    for sid in ensemble.servers() {
        ensemble.disk(sid).held = false;
        if !ensemble.is_up(sid) {
            ensemble.start(sid);
        }
    }
    ensemble.run(Duration::from_secs(12));
    let leader = ensemble.leader().expect("no leader after everything was healed");
    assert!(ensemble.propose(leader, "last"));
    ensemble.run(Duration::from_secs(1));
    assert_eq!(ensemble.leader(), Some(leader), "the leader changes while nothing fails");
    let last = ensemble.oracle.last_committed();
    for sid in ensemble.servers() {
        assert!(ensemble.is_level(sid), "server {sid} does not serve: {:#?}", ensemble.describe());
        assert_eq!(ensemble.committed(sid), last, "server {sid} is behind");
    }
    assert_eq!(ensemble.oracle.committed.last().expect("a commit").1, "last");
}

fn run_all(seeds: std::ops::Range<u64>) {
    let mut done = Done::default();
    for seed in seeds {
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, &mut done)));
        if let Err(panic) = run {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
    assert!(done.proposals > 1000, "only {} proposals", done.proposals);
    assert!(done.crashes > 100, "only {} crashes", done.crashes);
    assert!(done.syncs > 100, "only {} syncs", done.syncs);
}

#[test]
fn faults_break_no_safety_property_and_the_ensemble_heals() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300);
    let from = std::env::var("FROM").ok().and_then(|from| from.parse().ok()).unwrap_or(0);
    run_all(from..from + seeds);
}
