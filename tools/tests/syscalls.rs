//! Under load a shard's messages share system calls: counted by strace on the leader's shard.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use common::client::Client;
use common::{Ensemble, signal};

/// The thread of the server that turns its shard.
fn shard_thread(pid: u32) -> String {
    fs::read_dir(format!("/proc/{pid}/task"))
        .expect("a Linux process")
        .flatten()
        .find(|task| {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            name.starts_with("q-shard") && has_ring_work(&task.path())
        })
        .map(|task| task.file_name().to_string_lossy().into_owned())
        .expect("a shard thread")
}

/// glommio starts a helper thread of the same name, which only ever waits for a futex.
fn has_ring_work(task: &std::path::Path) -> bool {
    let wchan = fs::read_to_string(task.join("wchan")).unwrap_or_default();
    !wchan.starts_with("futex")
}

#[test]
fn messages_of_a_loaded_shard_share_their_system_calls() {
    let can_trace = Command::new("strace")
        .args(["-c", "-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can_trace {
        eprintln!("skipped: strace is missing or may not trace");
        return;
    }
    let ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let member = &ensemble.members[leader];
    let mut client = Client::connect(member.client, 20_000).expect("a session");
    assert_eq!(client.create("/k", b"", 0).expect("a reply"), 0);
    let mut body = vec![0, 0, 0, 2, b'/', b'k', 0, 0, 0, 128];
    body.extend([7; 128]);
    body.extend((-1i32).to_be_bytes());

    let mut strace = Command::new("strace")
        .args(["-c", "-p", &shard_thread(member.pid())])
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace starts");
    let mut output = BufReader::new(strace.stderr.take().expect("a pipe"));
    let mut attached = String::new();
    output.read_line(&mut attached).expect("a line");
    assert!(attached.contains("attached"), "{attached}");

    let (batches, batch) = (100, 200);
    for _ in 0..batches {
        for _ in 0..batch {
            client.send(5, &body).expect("it is sent");
        }
        for _ in 0..batch {
            assert_eq!(client.receive().expect("a reply").err, 0);
        }
    }
    signal(strace.id(), "INT");
    let mut table = String::new();
    output.read_to_string(&mut table).expect("text");
    strace.wait().expect("strace ends");
    let total = table.lines().rev().find(|line| line.ends_with("total")).expect("a total");
    let numbers: Vec<&str> = total.split_whitespace().collect();
    let calls: u64 = numbers[3].parse().expect("a count of calls");

    // Each write is a request, a reply, a proposal to two followers and their acknowledgements. The
    // bound counts the client's two messages only: half a call for each of them would be twice what
    // is seen on a slow machine, and one call for each message six times.
    let writes = batches * batch;
    eprintln!("{calls} system calls for {writes} writes\n{table}");
    assert!(calls < writes, "{calls} system calls for {writes} writes\n{table}");
    // The traced thread did the work: a handful would mean that another one did.
    assert!(calls > 100, "{calls} system calls are none of a shard\n{table}");
}
