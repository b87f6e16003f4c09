//! Servers in this process, for a run that is not told of running ones.
//!
//! Knows no request: the load reaches them as it reaches others.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use quorate::Server;
use quorate::config::{Builder, Config};
use quorate::metrics::Histograms;

/// An election among servers that have just started takes well below a second.
const SERVE_WITHIN: Duration = Duration::from_secs(30);

/// Running servers of this process. Dropping them stops them.
#[derive(Debug)]
pub(crate) struct Ensemble {
    servers: Vec<Server>,
}

impl Ensemble {
    /// Starts `count` servers whose data lies below `dir`, each changed by `change`, and waits until
    /// all of them serve.
    ///
    /// # Errors
    /// If a server cannot start, or they do not find a leader.
    pub(crate) fn start(
        count: u16,
        dir: &Path,
        change: impl Fn(Builder) -> Builder,
    ) -> Result<Self> {
        let mut servers = Vec::new();
        for config in Config::local_ensemble_with(dir, count, change)? {
            let sid = config.my_sid;
            servers.push(Server::start(config).with_context(|| format!("server {sid}"))?);
        }
        let deadline = Instant::now() + SERVE_WITHIN;
        for server in &servers {
            server.wait_serving(deadline.saturating_duration_since(Instant::now()))?;
        }
        Ok(Self { servers })
    }

    /// Where clients connect, one address a server.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().filter_map(Server::client_address).collect()
    }

    /// The server that thread `thread` of an in-process load talks to.
    pub(crate) fn server_of(&self, thread: usize) -> &Server {
        &self.servers[thread % self.servers.len()]
    }

    /// What the steps of writes took since this was last called, all servers together.
    pub(crate) fn take_histograms(&self) -> Histograms {
        let mut all = Histograms::new();
        for server in &self.servers {
            all.merge(&server.take_histograms());
        }
        all
    }

    /// Stops all servers.
    ///
    /// # Errors
    /// If one of them had stopped before because it could not go on.
    pub(crate) fn stop(self) -> Result<()> {
        for server in self.servers {
            server.shutdown()?;
        }
        Ok(())
    }
}
