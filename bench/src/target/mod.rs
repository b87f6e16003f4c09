//! What load is put on: the client protocol, and the ways its bytes reach servers.

pub(crate) mod in_process;
pub(crate) mod jute;
pub(crate) mod setup;
pub(crate) mod tcp;

use anyhow::{Context, Result};

use crate::load::Load;
use crate::run::Course;
use jute::Nanos;

/// How often idle sessions are looked after.
const CARE_EVERY: Nanos = 100_000_000;
/// What a server without a quorum, or with too many connections of one host, does.
const CLOSED: &str = "the server closed the connection";

/// How long nothing is due: no request, and no care for idle sessions before `next_care`.
fn idle_time(load: &Load, next_care: Nanos, now: Nanos) -> Nanos {
    load.due().unwrap_or(Nanos::MAX).min(next_care).saturating_sub(now)
}

/// How one thread's sessions reach their servers.
#[derive(Debug)]
pub(crate) enum Target {
    /// By sockets.
    Tcp(tcp::Tcp),
    /// Within the process.
    InProcess(in_process::InProcess),
}

impl Target {
    /// Runs `load` until the course of the run says that it is over.
    pub(crate) fn run(&mut self, load: &mut Load, course: &mut Course) -> Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.run(load, course).context("the load's poll loop failed"),
            Self::InProcess(in_process) => {
                in_process.run(load, course);
                Ok(())
            }
        }
    }
}
