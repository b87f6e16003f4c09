//! A learner comes back: by DIFF, by SNAP, by TRUNC, on real sockets and disks.

mod common;

use std::time::Duration;

use common::client::Client;
use common::{Ensemble, wait_for};

/// What the members' logs say about how `sid` was brought level, newest last.
fn plans_for(ensemble: &Ensemble, sid: u64) -> Vec<String> {
    let mark = format!("synchronises server {sid}: ");
    let logs = ensemble.logs();
    logs.lines()
        .filter_map(|line| line.split_once(&mark).map(|(_, plan)| plan.to_owned()))
        .collect()
}

fn write(client: &mut Client, from: usize, count: usize, data: &[u8]) {
    for n in from..from + count {
        assert_eq!(client.create(&format!("/n{n}"), data, 0).expect("a reply"), 0);
    }
}

fn read_all(ensemble: &Ensemble, count: usize) {
    for member in &ensemble.members {
        let mut client = Client::connect(member.client, 10_000).expect("a session");
        client.sync("/").expect("a sync");
        let names: Vec<String> = client
            .children("/")
            .expect("a list")
            .into_iter()
            .filter(|n| n != "zookeeper")
            .collect();
        assert_eq!(names.len(), count, "server {} has other nodes", member.sid);
    }
}

/// Member `n` starts and is brought level `by` this plan; then all have `count` nodes.
fn comes_back(ensemble: &mut Ensemble, n: usize, by: &str, count: usize) {
    ensemble.members[n].start();
    ensemble.wait_level();
    let plans = plans_for(ensemble, ensemble.members[n].sid);
    assert!(plans.last().is_some_and(|plan| plan.starts_with(by)), "{plans:?}");
    read_all(ensemble, count);
}

#[test]
fn a_follower_that_missed_ten_writes_comes_back_by_diff() {
    let mut ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let follower = ensemble.followers()[0];
    let mut client = Client::connect(ensemble.members[leader].client, 10_000).expect("a session");
    write(&mut client, 0, 5, b"before");
    ensemble.members[follower].terminate();
    write(&mut client, 5, 10, b"missed");
    comes_back(&mut ensemble, follower, "Diff", 15);
}

#[test]
fn a_follower_that_missed_more_than_the_logs_hold_comes_back_by_snap() {
    let extra = "snapCount=200\ncommitLogCount=64\njute.maxbuffer=4096\npreAllocSize=256";
    let mut ensemble = Ensemble::started(3, extra);
    let leader = ensemble.wait_leader();
    let follower = ensemble.followers()[0];
    let mut client = Client::connect(ensemble.members[leader].client, 10_000).expect("a session");
    write(&mut client, 0, 5, b"before");
    ensemble.members[follower].terminate();
    let data = vec![b'x'; 1000];
    write(&mut client, 5, 2000, &data);
    comes_back(&mut ensemble, follower, "Snap", 2005);
    // What it was given is on its disk: it comes back from that alone.
    write(&mut client, 2005, 1, b"after");
    ensemble.members[follower].kill();
    comes_back(&mut ensemble, follower, "Diff", 2006);
}

#[test]
fn a_former_leader_with_an_uncommitted_tail_comes_back_by_trunc() {
    let mut ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let followers = ensemble.followers();
    let mut client = Client::connect(ensemble.members[leader].client, 10_000).expect("a session");
    write(&mut client, 0, 5, b"committed");
    ensemble.wait_level();
    for follower in &followers {
        ensemble.members[*follower].kill();
    }
    // Nobody is left to acknowledge: these reach the leader's log and no other.
    for n in 0..5 {
        let body = Client::create_body(&format!("/lost{n}"), b"uncommitted", 0);
        client.send(1, &body).expect("the leader still listens");
    }
    wait_for("the tail to be logged", Duration::from_secs(2), || {
        let status = ensemble.members[leader].status()?;
        (status["last"] != status["committed"]).then_some(())
    });
    ensemble.members[leader].kill();
    for follower in &followers {
        ensemble.members[*follower].start();
    }
    let new = ensemble.wait_leader();
    let mut client = wait_for("a session", Duration::from_secs(10), || {
        Client::connect(ensemble.members[new].client, 10_000).ok()
    });
    write(&mut client, 5, 5, b"after");
    comes_back(&mut ensemble, leader, "Trunc", 10);
}

fn wipe(ensemble: &Ensemble, n: usize) {
    let folder = ensemble.members[n].dir.join("quorate");
    std::fs::remove_dir_all(folder).expect("a data folder");
}

#[test]
fn a_wiped_follower_is_brought_level_and_then_counts_again() {
    let mut ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let followers = ensemble.followers();
    let mut client = Client::connect(ensemble.members[leader].client, 10_000).expect("a session");
    write(&mut client, 0, 20, b"before");
    ensemble.members[followers[0]].kill();
    wipe(&ensemble, followers[0]);
    ensemble.members[followers[0]].start();
    ensemble.wait_level();
    // Only it and the leader are left: without its vote and its acknowledgements nothing commits.
    ensemble.members[followers[1]].kill();
    write(&mut client, 20, 20, b"after");
    ensemble.members[followers[1]].start();
    ensemble.wait_level();
    read_all(&ensemble, 40);
}

#[test]
fn a_wiped_and_a_lagging_server_elect_nobody_and_lose_nothing() {
    let mut ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let followers = ensemble.followers();
    let mut client = Client::connect(ensemble.members[leader].client, 10_000).expect("a session");
    write(&mut client, 0, 10, b"before");
    let (lagging, wiped) = (followers[0], followers[1]);
    ensemble.members[lagging].kill();
    write(&mut client, 10, 10, b"acknowledged by the leader and one follower");
    ensemble.members[wiped].kill();
    ensemble.members[leader].kill();
    wipe(&ensemble, wiped);
    ensemble.members[lagging].start();
    ensemble.members[wiped].start();
    wait_for("both to run", Duration::from_secs(5), || {
        let runs = |n: usize| ensemble.members[n].status().is_some();
        (runs(lagging) && runs(wiped)).then_some(())
    });
    // ZooKeeper 3.8.0 serves here within a second, without the last ten writes.
    let until = std::time::Instant::now() + Duration::from_secs(3);
    while std::time::Instant::now() < until {
        assert_eq!(ensemble.members[lagging].role(), "looking");
        assert_eq!(ensemble.members[wiped].role(), "looking");
    }
    ensemble.members[leader].start();
    ensemble.wait_level();
    read_all(&ensemble, 20);
}
