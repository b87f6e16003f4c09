//! What a client may rely on from real servers: observers, expiry, standing alone, an orderly stop.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::client::Client;
use common::{Ensemble, free_ports, signal, wait_end, wait_for};

#[test]
fn an_observer_serves_reads_and_writes_and_counts_for_nothing() {
    let mut ensemble = Ensemble::with_observers(4, 1, "");
    for member in &mut ensemble.members {
        member.start();
    }
    ensemble.wait_level();
    assert_eq!(ensemble.members[3].role(), "observer");
    let mut client = Client::connect(ensemble.members[3].client, 10_000).expect("a session");
    for n in 0..50 {
        assert_eq!(client.create(&format!("/o{n}"), b"seen", 0).expect("a reply"), 0);
    }
    assert_eq!(client.get("/o49").expect("a reply").as_deref(), Some(&b"seen"[..]));
    let leader = ensemble.wait_leader();
    let status = ensemble.members[leader].status().expect("a status");
    let observers = status["learners"].as_array().expect("a list").iter();
    assert_eq!(observers.filter(|learner| learner["role"] == "observer").count(), 1);
    // Two of three voters gone: the observer does not replace them.
    for follower in ensemble.followers().into_iter().filter(|n| *n != 3) {
        ensemble.members[follower].kill();
    }
    wait_for("the quorum to be missed", Duration::from_secs(5), || {
        (ensemble.members[leader].role() == "looking").then_some(())
    });
    // It comes back level when they do.
    for member in &mut ensemble.members {
        if !member.is_running() {
            member.start();
        }
    }
    ensemble.wait_level();
    assert_eq!(ensemble.members[3].role(), "observer");
}

#[test]
fn a_silent_session_expires_and_its_ephemerals_go_everywhere() {
    let ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let follower = ensemble.followers()[0];
    // The shortest time-out granted is two ticks, 400 ms.
    let mut silent = Client::connect(ensemble.members[follower].client, 1).expect("a session");
    assert_eq!(silent.create("/e", b"", 1).expect("a reply"), 0);
    let begun = Instant::now();
    let mut other = Client::connect(ensemble.members[leader].client, 10_000).expect("a session");
    assert!(other.get("/e").expect("a reply").is_some());
    wait_for("the ephemeral to go", Duration::from_secs(5), || {
        other.get("/e").expect("a reply").is_none().then_some(())
    });
    let lived = begun.elapsed();
    assert!(lived >= Duration::from_millis(200), "expired after {lived:?}");
    // Its connection is closed without a frame, and the session cannot be resumed.
    assert!(silent.receive().is_err());
    let address = ensemble.members[follower].client;
    let resumed = Client::attach(address, 4000, silent.session, &silent.password, silent.zxid);
    assert!(resumed.is_err(), "an expired session was resumed");
    ensemble.wait_level();
}

#[test]
fn a_wrong_password_gives_no_session_and_disturbs_none() {
    let ensemble = Ensemble::started(1, "");
    let address = ensemble.members[0].client;
    let mut owner = Client::connect(address, 10_000).expect("a session");
    let thief = Client::attach(address, 10_000, owner.session, &[7; 16], 0);
    assert!(thief.is_err(), "a wrong password was accepted");
    assert_eq!(owner.create("/mine", b"", 0).expect("undisturbed"), 0);
    let zxid = owner.zxid;
    let ahead = Client::attach(address, 10_000, 0, &[0; 16], zxid + 100);
    assert!(ahead.is_err(), "a client from the future was accepted");
    // The rightful owner moves to a new connection; the old one ends.
    let mut moved = Client::attach(address, 10_000, owner.session, &owner.password, zxid)
        .expect("the right password");
    assert_eq!(moved.session, owner.session);
    assert_eq!(moved.create("/moved", b"", 0).expect("a reply"), 0);
    assert!(owner.receive().is_err(), "the former connection goes on");
    moved.close().expect("an orderly end");
}

#[test]
fn a_terminated_server_answers_what_is_under_way_and_exits_with_zero() {
    let mut ensemble = Ensemble::started(1, "");
    let mut client = Client::connect(ensemble.members[0].client, 10_000).expect("a session");
    for n in 0..100 {
        let body = Client::create_body(&format!("/n{n}"), b"", 0);
        client.send(1, &body).expect("it is sent");
    }
    // One answer shows that the server has begun to take them.
    assert_eq!(client.receive().expect("a reply").err, 0);
    assert_eq!(ensemble.members[0].terminate(), Some(0));
    let answered = std::iter::from_fn(|| client.receive().ok()).count() + 1;
    ensemble.members[0].start();
    ensemble.wait_level();
    let mut after = Client::connect(ensemble.members[0].client, 10_000).expect("a session");
    let stored = after.children("/").expect("a list").len() - 1;
    assert!(stored >= answered, "{answered} were answered, {stored} are there");
}

#[test]
fn a_server_stands_alone_without_a_file_and_dumps_its_histograms() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = free_ports(1)[0];
    let mut child = Command::new(env!("CARGO_BIN_EXE_quorated"))
        .args(["--standalone", "--client-address", "127.0.0.1", "--client-port"])
        .arg(port.to_string())
        .arg("--data-dir")
        .arg(folder.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("quorated starts");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut client =
        wait_for("a session", Duration::from_secs(10), || Client::connect(address, 4000).ok());
    assert_eq!(client.create("/alone", b"", 0).expect("a reply"), 0);
    signal(child.id(), "USR1");
    let dump = folder.path().join("quorate-1.hlog");
    let text = wait_for("the dump", Duration::from_secs(5), || {
        std::fs::read_to_string(&dump).ok().filter(|text| text.contains("Tag=log_device"))
    });
    assert!(text.contains("Tag=end_to_end"), "{text}");
    signal(child.id(), "TERM");
    assert_eq!(wait_end(&mut child), Some(0));
}
