//! Servers that cannot start for want of descriptors, wherever in their start that shows.
//!
//! Alone in its process, because it lowers the limit of the whole process.

mod common;

use std::fs;
use std::time::Instant;

use common::PATIENCE;
use quorate::config::{HostPort, Placement};
use quorate::{Config, Error, Server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The process may have so many descriptors; gives back how many it might have before.
fn limit_descriptors(limit: u64) -> u64 {
    let before = getrlimit(Resource::Nofile);
    let after = Rlimit { current: Some(limit), maximum: before.maximum };
    setrlimit(Resource::Nofile, after).expect("a limit below the maximum");
    before.current.expect("a process has a limit")
}

/// The limit that leaves so many descriptors free.
fn limit_with_spare(spare: usize) -> u64 {
    let used: Vec<u64> = fs::read_dir("/proc/self/fd")
        .expect("a folder of /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    (0..).filter(|number| !used.contains(number)).nth(spare).expect("numbers do not end")
}

/// The threads of servers, by their names: the kernel has some of its own.
fn threads() -> Vec<String> {
    fs::read_dir("/proc/self/task")
        .expect("a folder of /proc")
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("q-"))
        .collect()
}

#[test]
fn a_server_without_descriptors_starts_as_a_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let config = Config::builder(folder.path())
        .client(HostPort::new("127.0.0.1", port))
        .placement(Placement::Dedicated)
        .shards(2)
        .build()
        .expect("a configuration");
    // glommio 0.9 asks the kernel once a process what io_uring can do. Without a descriptor for that it
    // panics, then and for ever after.
    drop(Server::start(config.clone()).expect("a server starts"));
    let (mut refused, mut failed, mut served) = (0, 0, 0);
    for spare in 0..100 {
        let usual = limit_descriptors(limit_with_spare(spare));
        let started = Server::start(config.clone());
        match started {
            Err(_) => refused += 1,
            Ok(server) => {
                match server.wait_serving(PATIENCE) {
                    Ok(_) => served += 1,
                    Err(Error::Failed(_)) => {
                        failed += 1;
                        let late = server.session(PATIENCE);
                        assert!(matches!(late, Err(Error::ConnectionLost)), "{late:?}");
                    }
                    Err(other) => panic!("with {spare} descriptors: {other}"),
                }
                drop(server);
            }
        }
        limit_descriptors(usual);
        // One that was waited for is listed until the kernel is done with it.
        let until = Instant::now() + PATIENCE;
        while !threads().is_empty() {
            assert!(Instant::now() < until, "with {spare} descriptors goes on: {:?}", threads());
            std::thread::yield_now();
        }
        if served > 2 {
            break;
        }
    }
    assert!(refused > 0 && failed > 0 && served > 0, "{refused} {failed} {served}");
    // Ports and locks are free.
    common::start(config).shutdown().expect("an orderly end");
}
