//! The command line.
//!
//! Opens nothing: what is asked for is checked here as far as it can be alone.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use quorate::config::{ConfigError, Idle, Placement};

use crate::open_loop::Arrivals;
use crate::workload::Mix;

/// Measures throughput and latency of quorate, ZooKeeper, or anything else that speaks ZooKeeper's
/// client protocol.
///
/// Without arguments: three servers in this process on loopback with real logs in a temporary
/// folder, a warm-up, then ten seconds of writes with pipelined sessions.
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// How many servers to start in this process, or the addresses of running ones, separated by
    /// commas
    #[arg(long, default_value = "3", value_name = "N|HOST:PORT,...")]
    pub(crate) servers: String,
    /// Sessions, spread evenly over the servers
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub(crate) clients: usize,
    /// Requests that each session may have under way
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub(crate) pipeline: usize,
    /// Bytes of data of each write
    #[arg(long, default_value_t = 128, value_name = "BYTES")]
    pub(crate) payload: usize,
    /// The share of requests that read (getData), 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) read_share: f64,
    /// The share of writes that create a znode instead of setting one's data, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(crate) create_share: f64,
    /// Znodes that reads and writes spread over
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub(crate) keys: usize,
    /// Open loop: requests per second by a schedule, latency counted from the schedule. Without it
    /// a closed loop: an answer makes room for the next request
    #[arg(long, value_name = "PER_SECOND")]
    pub(crate) rate: Option<f64>,
    /// How requests of an open loop follow each other
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub(crate) arrivals: Arrivals,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) seconds: u64,
    /// Seconds of load before that
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) warmup: u64,
    /// Servers in this process keep everything in memory instead of on disk
    #[arg(long)]
    pub(crate) memory: bool,
    /// Sessions reach the servers of this process without sockets, those of a load thread all at one
    /// server
    #[arg(long)]
    pub(crate) in_process: bool,
    /// The folder in which servers in this process get a temporary folder for their data
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where the threads of servers in this process run
    #[arg(
        long,
        default_value = "auto",
        value_parser = one_of::<Placement>(&["auto", "single", "compact", "dedicated"])
    )]
    pub(crate) placement: Placement,
    /// What they do while there is nothing to do
    #[arg(long, default_value = "auto", value_parser = one_of::<Idle>(&["auto", "spin", "park"]))]
    pub(crate) idle: Idle,
    /// Shards of each server in this process, if the placement is dedicated; 0 for what fits the
    /// CPUs
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) shards: u16,
    /// Threads that generate load
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) threads: usize,
    /// Session time-out in milliseconds
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    pub(crate) session_timeout: u32,
    /// Seed of the requests and of the schedule
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Where the .hlog files and results.json stay
    #[arg(long, default_value = "target/quorate-bench", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  quorate-bench
        the canonical run: three servers in this process, durable writes
  quorate-bench --servers 1 --memory --clients 8 --pipeline 1
        latency of a single server without a disk
  quorate-bench --servers zk1:2181,zk2:2181,zk3:2181 --read-share 0.9 --seconds 60
        a running ensemble, ZooKeeper's included, nine reads to each write
  quorate-bench --rate 20000 --json > run.json
        20,000 writes per second by a schedule, for a script
  quorate hist target/quorate-bench/client.hlog
        looks at the latencies of the run before

Exit codes: 0 all requests were answered without error; 1 the run could not be made; 2 the command
line is wrong; 3 the run was made, and some requests failed.";

/// Those of a configuration's values that have a name.
fn one_of<T>(names: &[&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = ConfigError> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names.iter().copied()).try_map(|name| name.parse())
}

/// What `--servers` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// This many in this process.
    Embedded(u16),
    /// Running ones.
    Running(Vec<SocketAddr>),
}

impl Args {
    /// Checks what belongs together.
    ///
    /// # Errors
    /// In words that name the option.
    pub(crate) fn check(&self) -> Result<()> {
        let share = |name: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => bail!("--{name} {value}: expected a share from 0 to 1"),
        };
        share("read-share", self.read_share)?;
        share("create-share", self.create_share)?;
        let counts = [
            ("clients", self.clients, 1..=100_000),
            ("pipeline", self.pipeline, 1..=65_536),
            ("payload", self.payload, 0..=1024 * 1024 - 256),
            ("keys", self.keys, 1..=1_000_000),
            ("threads", self.threads, 1..=1024),
        ];
        for (name, value, range) in counts {
            if !range.contains(&value) {
                bail!("--{name} {value}: expected {} to {}", range.start(), range.end());
            }
        }
        match self.servers.parse::<u16>() {
            Ok(1..=9) => {}
            Ok(count) => bail!("--servers {count}: expected 1 to 9 servers in this process"),
            Err(_) if self.memory || self.in_process || self.data_dir.is_some() => {
                bail!("--memory, --in-process and --data-dir are for servers in this process");
            }
            Err(_) => {}
        }
        if self.threads > self.clients {
            bail!("--threads {}: expected at most one for each of --clients", self.threads);
        }
        if !(1..=86_400).contains(&self.seconds) || self.warmup > 86_400 {
            bail!("--seconds and --warmup: expected at least a second to measure, at most a day");
        }
        if self.rate.is_some_and(|rate| !(0.001..=100e6).contains(&rate)) {
            bail!("--rate: expected requests per second, e.g. --rate 20000");
        }
        if !(100..=i32::MAX as u32).contains(&self.session_timeout) {
            bail!("--session-timeout: expected 100 to 2147483647 milliseconds");
        }
        Ok(())
    }

    pub(crate) const fn mix(&self) -> Mix {
        Mix {
            read_share: self.read_share,
            create_share: self.create_share,
            payload_len: self.payload,
            keys: self.keys,
        }
    }

    /// What `--servers` means; names are resolved.
    ///
    /// # Errors
    /// If it is neither a count nor a list of addresses. The count is checked by [`Args::check`].
    pub(crate) fn servers(&self) -> Result<Servers> {
        if let Ok(count) = self.servers.parse::<u16>() {
            return Ok(Servers::Embedded(count));
        }
        let resolve = |name: &str| {
            let mut found = name.trim().to_socket_addrs().with_context(|| {
                format!(
                    "--servers: {name:?} is no address; expected HOST:PORT, e.g. localhost:2181"
                )
            })?;
            found.next().with_context(|| format!("--servers: {name} has no address"))
        };
        let addresses = self.servers.split(',').map(resolve).collect::<Result<_>>()?;
        Ok(Servers::Running(addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &[&str]) -> Args {
        Args::parse_from(std::iter::once(&"quorate-bench").chain(line))
    }

    #[test]
    fn the_defaults_are_the_canonical_run() {
        let args = args(&[]);
        assert!(args.check().is_ok());
        assert_eq!(args.servers().unwrap(), Servers::Embedded(3));
        assert!(args.rate.is_none() && !args.memory);
    }

    #[test]
    fn addresses_are_told_from_counts() {
        let servers = args(&["--servers", "127.0.0.1:2181, [::1]:2182"]).servers().unwrap();
        let expected = ["127.0.0.1:2181", "[::1]:2182"].map(|text| text.parse().unwrap());
        assert_eq!(servers, Servers::Running(expected.to_vec()));
        let error = args(&["--servers", "localhost"]).servers().unwrap_err();
        assert!(error.to_string().contains("expected HOST:PORT"), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for line in [
            ["--servers", "0"],
            ["--servers", "10"],
            ["--read-share", "1.5"],
            ["--clients", "0"],
            ["--payload", "2000000"],
            ["--rate", "0"],
            ["--seconds", "0"],
            ["--threads", "33"],
            ["--session-timeout", "1"],
        ] {
            let error = args(&line).check().unwrap_err().to_string();
            assert!(error.contains(line[0]), "{error}");
        }
    }

    #[test]
    fn what_is_for_servers_of_this_process_is_refused_for_others() {
        for option in ["--memory", "--in-process", "--data-dir=."] {
            assert!(args(&[option]).check().is_ok());
            let error = args(&[option, "--servers", "localhost:2181"]).check().unwrap_err();
            assert!(error.to_string().contains("in this process"), "{error}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
