//! Servers that end and start again in one process, over and over: what they leave behind.
//!
//! Alone in its process, because it counts threads and descriptors.

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, TICKS};
use quorate::config::Placement;
use quorate::{Config, CreateMode};

const ROUNDS: usize = 6;

fn count(folder: &str) -> usize {
    fs::read_dir(folder).expect("a folder of /proc").count()
}

/// The kernel takes rings apart some time after they were closed.
fn settles_at(folder: &str, most: usize) -> usize {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let now = count(folder);
        if now <= most || Instant::now() > until {
            return now;
        }
        thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn servers_leave_no_thread_and_no_descriptor_behind() {
    for (placement, shards) in
        [(Placement::Single, 1), (Placement::Compact, 1), (Placement::Dedicated, 2)]
    {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // The same ports and directories each time.
        let configs = Config::local_ensemble_with(folder.path(), 3, |builder| {
            builder.ticks(TICKS).placement(placement).shards(2)
        })
        .expect("configurations");
        let (threads, files) = (count("/proc/self/task"), count("/proc/self/fd"));
        for round in 0..ROUNDS {
            // Ports and locks are free.
            let servers = common::start_all(configs.clone());
            let session = servers[round % 3].session(PATIENCE).expect("a session");
            let path = format!("/round-{round}");
            session.create(&path, b"", CreateMode::Persistent).wait().expect("a create");
            for before in 0..round {
                session.exists(&format!("/round-{before}")).wait().expect("what was written");
            }
            for (index, server) in servers.into_iter().enumerate() {
                // In order, and without it.
                if (index + round) % 2 == 0 {
                    server.shutdown().expect("an orderly end");
                } else {
                    drop(server);
                }
            }
            // Held beyond its server.
            assert!(session.exists("/").wait().is_err());
        }
        assert!(settles_at("/proc/self/task", threads) <= threads, "{placement:?}: threads");
        // An executor of glommio 0.9 keeps one eventfd for ever.
        let most = files + ROUNDS * 3 * shards;
        let now = settles_at("/proc/self/fd", most);
        assert!(now <= most, "{placement:?}: {files} descriptors before, {now} after");
    }
}
