//! Bad bytes on every port close that one connection, with one line that names peer and reason.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::client::Client;
use common::{Ensemble, wait_for};

/// Sends bytes on a fresh connection and waits until the server has closed it; our own address.
fn send_and_see_it_closed(to: SocketAddr, bytes: &[u8]) -> SocketAddr {
    let mut stream = TcpStream::connect(to).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(8))).expect("a socket option");
    let own = stream.local_addr().expect("a bound socket");
    // The server may close before everything is sent.
    let _ = stream.write_all(bytes);
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "{to} did not close the connection: {error}"
        ),
    }
    own
}

/// A fixed sequence that looks random.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// A native frame with a right checksum.
fn native(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![b'Q', b'r', 1, kind];
    frame.extend((body.len() as u32).to_le_bytes());
    frame.extend([0; 24]);
    frame.extend(body);
    let crc = crc32c::crc32c(&frame);
    frame[24..28].copy_from_slice(&crc.to_le_bytes());
    frame
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a Linux process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a memory line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn bad_bytes_close_one_connection_and_disturb_nothing() {
    let ensemble = Ensemble::started(3, "");
    let leader = ensemble.wait_leader();
    let member = &ensemble.members[leader];
    let mut client = Client::connect(member.client, 10_000).expect("a session");
    assert_eq!(client.create("/steady", b"", 0).expect("a reply"), 0);
    let epoch = member.status().expect("a status")["epoch"].clone();
    let memory = resident_kib(member.pid());

    let mut wrong_checksum = native(1, b"hello");
    wrong_checksum[24] ^= 1;
    let mut oversized = native(1, b"");
    oversized[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let unknown_type = native(0xee, b"");
    // A well-formed acknowledgement where a Hello should be.
    let out_of_phase = native(3, &[]);
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("a wrong checksum", wrong_checksum),
        ("an oversized length", oversized),
        ("an unknown type", unknown_type),
        ("an out-of-phase packet", out_of_phase),
        ("ZooKeeper's follower", {
            let mut packet = 11i32.to_be_bytes().to_vec();
            packet.extend([0; 8]);
            packet.extend(20i32.to_be_bytes());
            packet.extend([0; 24]);
            packet
        }),
    ];
    for seed in 0..8 {
        cases.push(("noise", noise(seed, 100 + 997 * seed as usize)));
    }
    for (what, bytes) in &cases {
        for port in [member.quorum, member.election] {
            let own = send_and_see_it_closed(port, bytes);
            let line = wait_for(what, Duration::from_secs(2), || {
                let log = member.log();
                log.lines().find(|line| line.contains(&own.to_string())).map(str::to_owned)
            });
            assert!(line.contains("closed"), "no reason for {what}: {line}");
        }
    }

    let client_cases: Vec<Vec<u8>> = vec![
        0x7fff_ffffi32.to_be_bytes().to_vec(),
        (-5i32).to_be_bytes().to_vec(),
        [3i32.to_be_bytes().to_vec(), b"abc".to_vec()].concat(),
        [60i32.to_be_bytes().to_vec(), noise(5, 60)].concat(),
        noise(77, 4000),
    ];
    for bytes in &client_cases {
        send_and_see_it_closed(member.client, bytes);
    }

    // A session's own bad request ends that session's connection only.
    let mut bad = Client::connect(member.client, 10_000).expect("a session");
    bad.send(4242, b"").expect("it is sent");
    let reply = bad.receive().expect("an unknown operation is answered");
    assert_eq!(reply.err, -6);
    assert!(bad.receive().is_err(), "and then closed");

    // Thousands of announced, never sent, megabytes cost no memory.
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(member.client).expect("the port is open");
        stream.write_all(&1_000_000i32.to_be_bytes()).expect("four bytes");
        idle.push(stream);
    }
    let grown = resident_kib(member.pid()).saturating_sub(memory);
    assert!(grown < 64 * 1024, "memory grew by {grown} KiB");

    assert_eq!(client.set("/steady", b"still").expect("undisturbed"), 0);
    let status = member.status().expect("a status");
    assert_eq!((&status["role"], &status["epoch"]), (&"leader".into(), &epoch));
}

#[test]
fn a_wrong_configuration_is_refused_with_its_line() {
    let ensemble = Ensemble::new(1, "tickTime=banana");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_quorated"))
        .arg(&ensemble.members[0].config)
        .output()
        .expect("quorated runs");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("zoo1.cfg") && text.contains("tickTime"), "{text}");
}

#[test]
fn a_server_of_another_ensemble_is_refused_and_disturbs_nothing() {
    // All three are new: the two need the mark to begin without hearing that the third is empty.
    let mut ensemble = Ensemble::new(3, "");
    for member in &ensemble.members[..2] {
        std::fs::write(member.dir.join("initialize"), "").expect("a mark");
    }
    let stranger = std::fs::read_to_string(&ensemble.members[2].config).expect("a configuration");
    let stranger = stranger.replace("quorate.clusterId=", "quorate.clusterId=7");
    std::fs::write(&ensemble.members[2].config, stranger).expect("a configuration");
    for member in &mut ensemble.members {
        member.start();
    }
    let leader = ensemble.wait_leader();
    let mut client = Client::connect(ensemble.members[leader].client, 10_000).expect("a session");
    wait_for("the stranger to be refused", Duration::from_secs(5), || {
        let log = ensemble.members[leader].log();
        log.contains("refused server 3 from").then_some(())
    });
    for n in 0..100 {
        assert_eq!(client.create(&format!("/n{n}"), b"", 0).expect("undisturbed"), 0);
    }
    assert_eq!(ensemble.members[2].role(), "looking");
    assert_eq!(ensemble.wait_leader(), leader);
    assert!(!ensemble.members[0].dir.join("initialize").exists(), "the mark was not consumed");
}
