//! An ensemble within one process, on loopback: for examples, tests and the load generator.
//!
//! Asks the system for free ports, and starts nothing.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use quorate_proto::ServerId;

use super::{Builder, Config, ConfigError, Member};

impl Config {
    /// The configurations of `count` voters with server ids from 1, each with a folder of its own
    /// below `folder`, on loopback ports that were free a moment ago. Clients connect on a port that
    /// the system chooses, see [`Server::client_address`](crate::Server::client_address).
    ///
    /// # Errors
    /// [`ConfigError`] if `count` is no ensemble's size or no port is free.
    pub fn local_ensemble(folder: &Path, count: u16) -> Result<Vec<Self>, ConfigError> {
        Self::local_ensemble_with(folder, count, |builder| builder)
    }

    /// As [`Config::local_ensemble`], each configuration changed by `change` before it is checked.
    ///
    /// # Errors
    /// As there, and what `change` made wrong.
    pub fn local_ensemble_with(
        folder: &Path,
        count: u16,
        change: impl Fn(Builder) -> Builder,
    ) -> Result<Vec<Self>, ConfigError> {
        let ports = free_ports(2 * usize::from(count))?;
        let cluster_id = cluster_of(folder);
        let members: Vec<Member> = (1..=count)
            .zip(ports.chunks(2))
            .map(|(sid, ports)| {
                Member::new(ServerId(u64::from(sid)), "127.0.0.1", ports[0], ports[1])
            })
            .collect();
        (1..=count)
            .map(|sid| {
                let server = ServerId(u64::from(sid));
                let own = folder.join(format!("server{sid}"));
                let builder = Self::embedded(server, members.clone(), own);
                change(builder.with(|settings| settings.cluster_id = cluster_id)).build()
            })
            .collect()
    }
}

/// Ensembles that come and go on one machine use each other's former ports, and must not take each
/// other's servers for their own. The same folder is the same ensemble.
fn cluster_of(folder: &Path) -> u64 {
    let path = folder.as_os_str().as_encoded_bytes();
    let high = crc32c::crc32c(path);
    u64::from(high) << 32 | u64::from(crc32c::crc32c_append(high, path)) | 1
}

/// Where the search begins; ports from 10,000 on are rarely anybody's.
const FIRST_PORT: u32 = 10_000;
/// Linux gives ports from 32,768 on to outgoing connections, which could take a server's port while
/// it is down.
const PORTS: u32 = 22_000;

/// Distinct ports that are free now; all are held until the last is found.
fn free_ports(count: usize) -> Result<Vec<u16>, ConfigError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let mut listeners = Vec::new();
    for _ in 0..PORTS {
        if listeners.len() == count {
            break;
        }
        let at = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = u16::try_from(FIRST_PORT + at).expect("a port below the outgoing ones");
        listeners.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    if listeners.len() < count {
        return Err(ConfigError::setting("server.N", "too few ports are free on loopback"));
    }
    let ports: Result<Vec<u16>, std::io::Error> =
        listeners.iter().map(|listener| listener.local_addr().map(|a| a.port())).collect();
    ports.map_err(|error| ConfigError::setting("server.N", error.to_string()))
}
