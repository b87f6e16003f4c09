//! What the tests of servers share: ticks and patience, servers that serve, waiting for something.
//!
//! Starts servers as they were configured, and judges nothing that they do.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this module")]

use std::thread;
use std::time::{Duration, Instant};

use quorate::{Config, Server, Ticks};

/// Longer than anything here takes, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Short ticks: an election and an expiry take a few of them.
pub const TICKS: Ticks = Ticks { tick: Duration::from_millis(100), init_limit: 50, sync_limit: 20 };

/// Asks until there is an answer.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < until, "waited {PATIENCE:?} for {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// One server, serving.
pub fn start(config: Config) -> Server {
    let server = Server::start(config).expect("a server starts");
    server.wait_serving(PATIENCE).expect("it serves");
    server
}

/// Several, started before the first is waited for, all serving.
pub fn start_all(configs: Vec<Config>) -> Vec<Server> {
    let servers: Vec<Server> =
        configs.into_iter().map(|config| Server::start(config).expect("a server starts")).collect();
    wait_all(&servers);
    servers
}

/// Waits until all of them serve.
pub fn wait_all<'a>(servers: impl IntoIterator<Item = &'a Server>) {
    for server in servers {
        server.wait_serving(PATIENCE).expect("a server serves");
    }
}
