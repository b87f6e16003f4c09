//! Servers that fall silent: a stopped learner is dropped, a leader without a quorum stops serving.

mod common;

use std::time::{Duration, Instant};

use common::client::Client;
use common::{Ensemble, wait_for};

#[test]
fn a_stopped_follower_is_dropped_after_sync_limit_and_the_others_go_on() {
    let ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let follower = ensemble.followers()[0];
    let sid = ensemble.members[follower].sid;
    let mut client = Client::connect(ensemble.members[leader].client, 10_000).expect("a session");
    assert_eq!(client.create("/before", b"", 0).expect("a reply"), 0);
    ensemble.members[follower].signal("STOP");
    let stopped = Instant::now();
    let mut writes = 0;
    // syncLimit is 5 ticks of 200 ms; the check runs with each PING.
    let dropped = wait_for("the learner to be dropped", Duration::from_secs(5), || {
        writes += 1;
        let path = format!("/during{writes}");
        assert_eq!(client.create(&path, b"", 0).expect("writes go on"), 0);
        let status = ensemble.members[leader].status()?;
        let learners = status["learners"].as_array()?.clone();
        (!learners.iter().any(|learner| learner["sid"] == sid)).then(|| stopped.elapsed())
    });
    assert!(dropped >= Duration::from_millis(500), "dropped after {dropped:?}");
    assert!(dropped <= Duration::from_secs(2), "dropped after {dropped:?}");
    ensemble.members[follower].signal("CONT");
    ensemble.wait_level();
    let status = ensemble.members[leader].status().expect("a leader");
    assert_eq!(status["role"], "leader", "the leader changed: {status}");
}

#[test]
fn a_leader_without_a_quorum_stops_serving_within_sync_limit() {
    let ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let mut client = Client::connect(ensemble.members[leader].client, 10_000).expect("a session");
    assert_eq!(client.create("/before", b"", 0).expect("a reply"), 0);
    for follower in ensemble.followers() {
        ensemble.members[follower].signal("STOP");
    }
    let stopped = Instant::now();
    let body = Client::create_body("/never", b"", 0);
    client.send(1, &body).expect("the leader still listens");
    // The client loses its connection, never gets an answer.
    assert!(client.receive().is_err(), "an unacknowledged write was answered");
    let silent = stopped.elapsed();
    assert!(silent <= Duration::from_secs(2), "served for {silent:?} without a quorum");
    assert_eq!(ensemble.members[leader].role(), "looking");
    assert!(Client::connect(ensemble.members[leader].client, 10_000).is_err());
    for follower in 0..3 {
        if follower != leader {
            ensemble.members[follower].signal("CONT");
        }
    }
    ensemble.wait_level();
}
