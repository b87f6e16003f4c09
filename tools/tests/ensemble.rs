//! Three real servers: clients of the field, a leader killed again and again, sessions that move.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::client::Client;
use common::{Ensemble, python_with_kazoo, run_kazoo, wait_for};

#[test]
fn kazoo_does_its_work_on_a_follower() {
    let Some(python) = python_with_kazoo() else { return };
    let ensemble = Ensemble::started(3, "");
    let followers = ensemble.followers();
    let address = |n: usize| ensemble.members[n].client.to_string();
    run_kazoo(python, "basics.py", &[address(followers[0]), address(followers[1])]);
    ensemble.wait_level();
}

#[test]
fn ten_thousand_kazoo_writes_through_all_servers_read_back_equal() {
    let Some(python) = python_with_kazoo() else { return };
    let ensemble = Ensemble::started(3, "");
    let addresses: Vec<String> =
        ensemble.members.iter().map(|member| member.client.to_string()).collect();
    run_kazoo(python, "writes.py", &addresses);
    ensemble.wait_level();
}

#[test]
fn a_kazoo_session_of_a_dead_server_goes_on_elsewhere_with_its_ephemerals() {
    let Some(python) = python_with_kazoo() else { return };
    let mut ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let others: Vec<String> =
        (0..3).filter(|n| *n != leader).map(|n| ensemble.members[n].client.to_string()).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kazoo/moves.py");
    let mut child = Command::new(python)
        .arg(script)
        .args([ensemble.members[leader].client.to_string(), others.join(",")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "attached");
    ensemble.members[leader].kill();
    writeln!(child.stdin.take().expect("a pipe"), "killed").expect("the script listens");
    assert_eq!(lines.next().expect("a line").expect("text"), "ok");
    assert!(child.wait().expect("the script ends").success());
}

/// One writer of the crash test: its own session, always reconnecting; what was acknowledged.
struct Writer {
    acknowledged: Arc<Mutex<BTreeMap<String, String>>>,
    /// The longest time between two acknowledgements.
    gap: Arc<Mutex<Duration>>,
}

fn write_until(
    stop: &AtomicBool,
    name: usize,
    addresses: &[std::net::SocketAddr],
    writer: &Writer,
) {
    let mut client: Option<Client> = None;
    let mut at = name;
    let mut last = Instant::now();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(session) = &mut client else {
            at = (at + 1) % addresses.len();
            client = Client::connect(addresses[at], 4000).ok();
            if client.is_none() {
                thread::park_timeout(Duration::from_millis(5));
            }
            continue;
        };
        n += 1;
        let path = format!("/w{name}-{n}");
        match session.create(&path, path.as_bytes(), 0) {
            Ok(0) => {
                let mut gap = writer.gap.lock().expect("no panic");
                *gap = (*gap).max(last.elapsed());
                last = Instant::now();
                writer.acknowledged.lock().expect("no panic").insert(path.clone(), path);
            }
            Ok(code) => panic!("create {path}: {code}"),
            Err(_) => client = None,
        }
    }
}

#[test]
fn no_acknowledged_write_is_lost_when_the_leader_is_killed_twenty_times() {
    let mut ensemble = Ensemble::started(3, "");
    let addresses: Vec<_> = ensemble.members.iter().map(|member| member.client).collect();
    let stop = AtomicBool::new(false);
    let writers: Vec<Writer> =
        (0..3).map(|_| Writer { acknowledged: Arc::default(), gap: Arc::default() }).collect();
    let mut outages = Vec::new();
    thread::scope(|scope| {
        for (name, writer) in writers.iter().enumerate() {
            let (stop, addresses) = (&stop, &addresses);
            scope.spawn(move || write_until(stop, name, addresses, writer));
        }
        let count =
            || -> usize { writers.iter().map(|w| w.acknowledged.lock().expect("ok").len()).sum() };
        for _ in 0..20 {
            let before = count();
            wait_for("writes to flow", Duration::from_secs(20), || {
                (count() > before + 50).then_some(())
            });
            let leader = ensemble.wait_leader();
            ensemble.members[leader].kill();
            let killed = Instant::now();
            let after = count();
            wait_for("a write after the kill", Duration::from_secs(20), || {
                (count() > after + 3).then_some(())
            });
            outages.push(killed.elapsed());
            ensemble.members[leader].start();
            ensemble.wait_leader();
        }
        stop.store(true, Ordering::Relaxed);
    });
    ensemble.wait_level();
    let longest = outages.iter().max().expect("twenty outages");
    let mut sorted = outages.clone();
    sorted.sort();
    eprintln!("write outages: median {:?}, longest {longest:?}", sorted[10]);
    for member in &ensemble.members {
        let mut client = Client::connect(member.client, 10_000).expect("a session");
        client.sync("/").expect("a sync");
        let mut total = 0;
        for writer in &writers {
            for (path, value) in writer.acknowledged.lock().expect("no panic").iter() {
                total += 1;
                let found = client.get(path).expect("a read");
                assert_eq!(
                    found.as_deref(),
                    Some(value.as_bytes()),
                    "{path} is lost on server {}",
                    member.sid
                );
            }
        }
        assert!(total > 1000, "only {total} writes were acknowledged");
    }
    assert!(*longest < Duration::from_secs(2), "an outage of {longest:?}: {outages:?}");
}
