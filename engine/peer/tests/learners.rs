//! Scenarios of learners and leaders: how each comes level, and what a fault in the middle leaves.
//!
//! Knows no clock and no socket: time is the ensemble's.

mod ensemble;
mod told;

use ensemble::client::{self, Heard, PERSISTENT};
use ensemble::{Ensemble, Options, SHAPES, Shape, ms};
use quorate_peer::Limits;
use quorate_peer::znode::ZnodeMachine;
use told::{Told, tell};

/// A window of one proposal: what is older comes from the log.
fn without_window(shape: Shape) -> Options {
    let options = Options { snap_count: 8, ..Options::new(shape, 3) };
    Options { limits: Limits { window_max: 1, ..options.limits }, ..options }
}

fn fill(e: &mut Told, server: usize, count: usize, len: usize) {
    let c = e.open(server);
    let data = vec![b'x'; len];
    for n in 0..count {
        let path = format!("/f{server}n{n}t{}", e.now.as_nanos());
        assert_eq!(e.ask(c, |xid| client::create(xid, &path, &data, PERSISTENT)).err, 0);
    }
    e.hang_up(c);
}

/// Fills until the logs no longer reach back to the beginning: who was away needs a snapshot.
fn outgrow(e: &mut Told, server: usize) {
    fill(e, server, 36, 14_000);
}

fn noticed(e: &Ensemble<ZnodeMachine>, text: &str) -> usize {
    e.notices.iter().filter(|(_, notice)| notice.text.contains(text)).count()
}

fn await_notice(e: &mut Told, text: &str, more_than: usize) {
    e.run_until(text, |e| noticed(e, text) > more_than);
}

/// Writes that reach the leader's own log and nobody else; the leader then dies.
fn leave_proposals_behind(e: &mut Told, leader: usize) {
    let c = e.open(leader);
    e.hold(leader, (leader + 1) % 3, true);
    e.hold(leader, (leader + 2) % 3, true);
    for n in 0..5 {
        let path = format!("/lost{n}");
        e.tell(c, |xid| client::create(xid, &path, b"", PERSISTENT));
    }
    e.run_for(ms(50));
    assert_eq!(e.clients[c].heard.len(), 1, "nothing is acknowledged");
    e.kill(leader);
}

#[test]
fn a_follower_that_was_away_shortly_gets_a_diff_from_memory() {
    tell(
        |shape| Options::new(shape, 3),
        |e, leader| {
            let away = (leader + 1) % 3;
            fill(e, leader, 3, 10);
            e.crash(away);
            fill(e, leader, 10, 10);
            e.start(away);
            e.run_until("level", |e| e.is_level());
            assert!(noticed(e, "Diff") >= 1);
            assert_eq!(noticed(e, "Snap "), 0);
        },
    );
}

#[test]
fn a_follower_that_was_away_for_longer_gets_a_diff_from_the_log() {
    let options = |shape| Options { snap_count: 1_000_000, ..without_window(shape) };
    tell(options, |e, leader| {
        let away = (leader + 1) % 3;
        e.crash(away);
        fill(e, leader, 50, 100);
        e.start(away);
        // Writes go on behind the stream.
        fill(e, (leader + 2) % 3, 10, 100);
        e.run_until("level", |e| e.is_level());
        assert_eq!(noticed(e, "Snap "), 0);
    });
}

#[test]
fn a_leader_that_comes_back_truncates_what_only_it_had() {
    tell(
        |shape| Options::new(shape, 3),
        |e, leader| {
            fill(e, leader, 3, 10);
            leave_proposals_behind(e, leader);
            e.await_leader();
            e.start(leader);
            e.run_until("level", |e| e.is_level());
            assert_eq!(noticed(e, "synchronises server") - noticed(e, "Diff"), noticed(e, "Trunc"));
            assert!(noticed(e, "Trunc") >= 1);
            for at in 0..3 {
                let tree = e.tree(at).machine().tree();
                assert!(tree.exists(b"/lost0", &[]).is_err(), "the new epoch began without it");
            }
        },
    );
}

#[test]
fn a_leader_that_comes_back_late_truncates_and_then_gets_the_diff() {
    tell(
        |shape| Options::new(shape, 3),
        |e, leader| {
            fill(e, leader, 3, 10);
            leave_proposals_behind(e, leader);
            let new = e.await_leader();
            fill(e, new, 10, 10);
            e.start(leader);
            e.run_until("level", |e| e.is_level());
            assert!(noticed(e, "TruncThenDiff") >= 1, "{}", e.state());
        },
    );
}

#[test]
fn proposals_that_learners_hold_too_survive_the_leader() {
    tell(
        |shape| Options::new(shape, 3),
        |e, leader| {
            let c = e.open(leader);
            for n in 0..5 {
                let path = format!("/kept{n}");
                e.tell(c, |xid| client::create(xid, &path, b"", PERSISTENT));
            }
            // Everybody has them on disk; nobody was told of a commit.
            let last = e.tree(leader).applied();
            e.run_for(ms(3));
            e.servers[leader].disk_held = true;
            e.run_for(ms(20));
            let acked =
                e.clients[c].heard.iter().filter(|heard| matches!(heard, Heard::Reply { .. }));
            let acked = acked.count();
            e.crash(leader);
            e.await_leader();
            e.start(leader);
            e.run_until("level", |e| e.is_level());
            let tree = e.tree(leader).machine().tree();
            for n in 0..acked {
                assert!(tree.exists(format!("/kept{n}").as_bytes(), &[]).is_ok());
            }
            assert!(e.tree(leader).applied() >= last);
        },
    );
}

#[test]
fn an_emptied_follower_gets_a_snapshot_while_writes_go_on() {
    tell(without_window, |e, leader| {
        let away = (leader + 1) % 3;
        outgrow(e, leader);
        e.crash(away);
        e.servers[away].disk.wipe();
        e.start(away);
        fill(e, leader, 30, 100);
        e.run_until("level", |e| e.is_level());
        assert!(noticed(e, "Snap ") >= 1, "{}", e.state());
        assert!(noticed(e, "level again, it joins anew as a voter") >= 1);
        assert_eq!(noticed(e, "silent"), 0, "nobody waits for what was dropped");
        assert_eq!(e.role(away), "follower");
    });
}

#[test]
fn a_node_that_is_longer_than_a_frame_of_the_snapshot_arrives_whole() {
    let options = |shape| {
        let options = without_window(shape);
        let limits = Limits {
            client_frame_max: 1 << 20,
            body_max: 3 << 20,
            backlog_max: 64 << 20,
            ..options.limits
        };
        Options { limits, ..options }
    };
    for shape in SHAPES {
        let mut e = Told::start(options(shape));
        let leader = e.await_leader();
        let away = (leader + 1) % 3;
        fill(&mut e, leader, 12, 700_000);
        e.crash(away);
        e.servers[away].disk.wipe();
        e.start(away);
        e.run_until("level", |e| e.is_level());
        assert!(noticed(&e, "Snap ") >= 1, "{}", e.state());
    }
}

/// A snapshot is under way, and after ever more turns `fault` strikes; then everything must heal.
fn during_a_snapshot(fault: impl Fn(&mut Told, usize, usize)) {
    for shape in SHAPES {
        for step in 0..6u32 {
            let mut e = Told::start(Options { seed: u64::from(step), ..without_window(shape) });
            let leader = e.await_leader();
            let away = (leader + 1) % 3;
            outgrow(&mut e, leader);
            e.crash(away);
            e.servers[away].disk.wipe();
            e.start(away);
            await_notice(&mut e, "Snap ", 0);
            e.run_for(std::time::Duration::from_micros(100) * (6 * step * step));
            fault(&mut e, leader, away);
            e.start_all();
            e.run_until("level", |e| e.is_level());
            let leader = e.leader().expect("level");
            fill(&mut e, leader, 3, 10);
            e.run_until("level", |e| e.is_level());
            assert_eq!(e.fatals, Vec::new());
        }
    }
}

#[test]
fn a_learner_that_dies_in_its_snapshot_starts_over() {
    during_a_snapshot(|e, _, away| {
        e.crash(away);
    });
}

#[test]
fn a_learner_whose_leader_dies_in_the_snapshot_finds_another() {
    during_a_snapshot(|e, leader, _| {
        e.crash(leader);
        e.run_for(ms(700));
    });
}

#[test]
fn a_learner_that_loses_its_link_between_snap_and_newleader_goes_on() {
    during_a_snapshot(|e, leader, away| {
        e.servers[away].disk_held = true;
        e.run_for(ms(1));
        e.reset(leader, away);
        e.run_for(ms(20));
        e.servers[away].disk_held = false;
    });
}

#[test]
fn a_learner_and_its_leader_die_in_the_snapshot() {
    during_a_snapshot(|e, leader, away| {
        e.crash(leader);
        e.crash(away);
        e.run_for(ms(20));
    });
}

#[test]
fn an_observer_gets_everything_also_when_it_joins_while_commits_happen() {
    let options = |shape| Options { observers: 1, ..Options::new(shape, 3) };
    tell(options, |e, leader| {
        for _ in 0..4 {
            let c = e.open(leader);
            for n in 0..30 {
                let path = format!("/o{n}t{}", e.now.as_nanos());
                e.tell(c, |xid| client::create(xid, &path, b"", PERSISTENT));
            }
            e.run_for(ms(1));
            e.restart(3);
            for _ in 0..30 {
                assert_eq!(e.answer(c).err, 0);
            }
            e.run_until("level", |e| e.is_level());
        }
        assert_eq!(e.role(3), "observer");
        let c = e.open(3);
        assert_eq!(e.ask(c, |xid| client::create(xid, "/through", b"", PERSISTENT)).err, 0);
    });
}

#[test]
fn a_session_that_moves_to_an_observer_is_not_answered_for_its_former_writes() {
    let options = |shape| Options { observers: 1, ..Options::new(shape, 3) };
    tell(options, |e, leader| {
        let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
        let c = e.open(leader);
        e.ask(c, |xid| client::create(xid, "/moved", b"0", PERSISTENT));
        let c = {
            let old = c;
            e.hang_up(old);
            e.reattach(old, leader)
        };
        assert!(matches!(e.next(c), Heard::Session { timeout_ms: 1.., .. }));
        // Number 1 is proposed and cannot commit.
        e.servers[a].disk_held = true;
        e.servers[b].disk_held = true;
        e.tell(c, |xid| client::set(xid, "/moved", b"old"));
        e.run_for(ms(20));
        e.hang_up(c);
        let c = e.reattach(c, 3);
        e.run_for(ms(20));
        e.servers[a].disk_held = false;
        e.servers[b].disk_held = false;
        assert!(matches!(e.next(c), Heard::Session { timeout_ms: 1.., .. }));
        // Number 1 again: an error, where the old write was none.
        let refused = e.ask(c, |xid| client::create(xid, "/moved", b"", PERSISTENT));
        assert_ne!(refused.err, 0, "the answer is that of the new request");
    });
}

#[test]
fn an_emptied_voter_does_not_vote_until_it_is_level() {
    tell(
        |shape| Options::new(shape, 3),
        |e, leader| {
            let (emptied, lagging) = ((leader + 1) % 3, (leader + 2) % 3);
            e.crash(lagging);
            fill(e, leader, 5, 10);
            e.crash(emptied);
            e.crash(leader);
            e.servers[emptied].disk.wipe();
            e.start(emptied);
            // Restarted it has the files of a store, and still nothing in them.
            e.run_for(ms(500));
            e.restart(emptied);
            e.start(lagging);
            e.run_for(ms(10_000));
            assert_eq!(e.leader(), None, "one lagging and one empty server are no quorum");
            e.start(leader);
            e.run_until("level", |e| e.is_level());
            assert!(e.tree(emptied).machine().tree().node_count() >= 6);
        },
    );
}

#[test]
fn a_voter_with_a_damaged_log_does_not_vote_until_it_is_level() {
    tell(
        |shape| Options::new(shape, 3),
        |e, leader| {
            let (damaged, lagging) = ((leader + 1) % 3, (leader + 2) % 3);
            e.crash(lagging);
            fill(e, leader, 20, 1000);
            e.kill(damaged);
            e.crash(leader);
            let log = e.servers[damaged].disk.bytes("log.");
            log[5 * 4096 + 100] ^= 0x40;
            e.start(damaged);
            e.start(lagging);
            e.run_for(ms(10_000));
            assert_eq!(e.leader(), None, "a server that may have forgotten does not count");
            assert!(noticed(e, "does not vote until") >= 1);
            e.start(leader);
            e.run_until("level", |e| e.is_level());
            assert_eq!(e.role(damaged), "follower");
        },
    );
}

#[test]
fn empty_servers_without_a_mark_wait_until_all_voters_are_there() {
    for shape in SHAPES {
        let options = Options { initialize: false, ..Options::new(shape, 3) };
        let mut e = Told::start(options);
        e.kill(2);
        e.run_for(ms(5000));
        assert_eq!(e.leader(), None);
        e.start(2);
        e.run_until("level", |e| e.is_level());
    }
}

#[test]
fn a_learner_too_slow_to_catch_up_is_dropped_and_the_others_are_not() {
    tell(without_window, |e, leader| {
        let (slow, other) = ((leader + 1) % 3, (leader + 2) % 3);
        e.crash(slow);
        fill(e, leader, 50, 1000);
        let syncs = noticed(e, "synchronises server");
        e.start(slow);
        await_notice(e, "synchronises server", syncs);
        e.hold(leader, slow, true);
        // The other one is served behind the slow one.
        let left = noticed(e, "leaves server");
        e.reset(leader, other);
        await_notice(e, "leaves server", left);
        e.run_until("it follows again", |e| e.is_serving(other));
        let left = noticed(e, "leaves server");
        let c = e.open(leader);
        let data = vec![b'y'; 12_000];
        for n in 0..40 {
            let path = format!("/slow{n}");
            e.tell(c, |xid| client::create(xid, &path, &data, PERSISTENT));
        }
        for _ in 0..40 {
            assert_eq!(e.answer(c).err, 0);
        }
        assert_eq!(noticed(e, "it is too slow to catch up"), 1, "{}", e.state());
        assert_eq!(e.role(other), "follower");
        assert_eq!(noticed(e, "leaves server"), left, "the other one missed nothing");
        e.mend();
        e.run_until("level", |e| e.is_level());
    });
}

#[test]
fn own_snapshots_are_taken_while_writes_go_on_and_restarts_begin_from_them() {
    let options = |shape| Options { snap_count: 5, ..Options::new(shape, 3) };
    tell(options, |e, leader| {
        let c = e.open(leader);
        for n in 0..100 {
            let path = format!("/s{n}");
            e.tell(c, |xid| client::create(xid, &path, b"data", PERSISTENT));
        }
        for _ in 0..100 {
            assert_eq!(e.answer(c).err, 0);
        }
        assert!(noticed(e, "written and verified") >= 6);
        for at in 0..3 {
            e.crash(at);
        }
        e.start_all();
        e.run_until("level", |e| e.is_level());
        assert!(noticed(e, "state restored") >= 3);
        assert_eq!(
            e.tree(0).machine().tree().node_count(),
            e.tree(1).machine().tree().node_count()
        );
        assert!(e.tree(0).machine().tree().exists(b"/s99", &[]).is_ok());
    });
}

#[test]
fn a_leader_that_is_cut_off_answers_nothing_and_follows_when_it_is_back() {
    tell(
        |shape| Options::new(shape, 3),
        |e, leader| {
            let c = e.open(leader);
            e.isolate(leader);
            e.tell(c, |xid| client::create(xid, "/never", b"", PERSISTENT));
            e.tell(c, |xid| client::sync(xid, "/"));
            e.run_until("another leads", |e| e.leader().is_some_and(|at| at != leader));
            e.run_until("its clients are sent away", |e| e.clients[c].closed);
            assert_eq!(e.clients[c].heard.len(), 2, "a session, then the end");
            e.mend();
            e.run_until("level", |e| e.is_level());
            assert_ne!(e.leader(), Some(leader));
        },
    );
}

#[test]
fn one_voter_alone_writes_restarts_and_writes_again() {
    tell(
        |shape| Options::new(shape, 1),
        |e, _| {
            for _ in 0..4 {
                fill(e, 0, 5, 100);
                e.crash(0);
                e.start(0);
                e.await_leader();
            }
            assert_eq!(e.role(0), "standalone");
            assert_eq!(
                e.tree(0).machine().tree().exists(b"/", &[]).expect("root").num_children,
                21
            );
        },
    );
}

#[test]
fn an_emptied_voter_that_dies_before_it_is_level_still_does_not_vote() {
    for shape in SHAPES {
        for step in 0..8u32 {
            let options = Options { snap_count: 1_000_000, ..without_window(shape) };
            let mut e = Told::start(Options { seed: u64::from(step), ..options });
            let leader = e.await_leader();
            let (emptied, other) = ((leader + 1) % 3, (leader + 2) % 3);
            fill(&mut e, leader, 60, 2000);
            e.crash(emptied);
            e.servers[emptied].disk.wipe();
            e.start(emptied);
            let syncs = noticed(&e, "synchronises server");
            await_notice(&mut e, "synchronises server", syncs);
            // Some of the stream arrives and is written, and never all of it.
            e.run_for(std::time::Duration::from_micros(100) * (step * 3));
            e.hold(leader, emptied, true);
            e.run_for(ms(50));
            for at in [emptied, leader, other] {
                e.kill(at);
            }
            e.start(emptied);
            e.start(other);
            e.run_for(ms(5000));
            assert_eq!(e.leader(), None, "an emptied server makes no quorum: {}", e.state());
            e.start(leader);
            e.run_until("level", |e| e.is_level());
            for at in 0..3 {
                assert!(e.tree(at).machine().tree().node_count() >= 61);
            }
        }
    }
}
