//! `quorated`: one server, from a `zoo.cfg` or standing alone, until SIGTERM or SIGINT.
//!
//! Reads its configuration, starts the server, reports through the log, and stops in order. Decides
//! nothing about either.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::Parser;
use quorate::config::HostPort;
use quorate::{Config, ConfigError, Server};
use quorate_tools::log::STORE_FOLDER;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

/// The configuration cannot be used.
const EXIT_CONFIG: u8 = 2;
/// The server could not start.
const EXIT_START: u8 = 3;
/// The server stopped because it could not go on.
const EXIT_FAILED: u8 = 4;

const EXAMPLES: &str = "\
Examples:
  quorated /etc/zookeeper/conf/zoo.cfg       a member of the ensemble that the file describes
  quorated --standalone                      one server, data in ./quorate-data, clients on 2181
  quorated --standalone --data-dir /var/lib/quorate --client-port 12181

SIGUSR1 writes what the steps of writes took since the last one to dataDir/quorate-N.hlog, for
`quorate hist`. SIGTERM and SIGINT drain and stop.

Exit codes: 0 stopped by a signal, 2 wrong configuration, 3 could not start, 4 could not go on.
The log's detail follows RUST_LOG, e.g. RUST_LOG=debug.";

/// Runs one server of a ZooKeeper ensemble.
///
/// A zoo.cfg has ZooKeeper's own keys; keys that have no effect here are named in the log. The data
/// lie in dataLogDir/quorate (dataDir/quorate without a dataLogDir), beside ZooKeeper's, which are
/// never touched.
#[derive(Debug, Parser)]
#[command(version, after_long_help = EXAMPLES)]
struct Args {
    /// The configuration file
    #[arg(value_name = "ZOO.CFG", required_unless_present = "standalone")]
    config: Option<PathBuf>,
    /// Run alone, without a configuration file
    #[arg(long, conflicts_with = "config")]
    standalone: bool,
    /// Where the data lie
    #[arg(long, requires = "standalone", default_value = "quorate-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where clients connect
    #[arg(long, requires = "standalone", default_value_t = 2181, value_name = "PORT")]
    client_port: u16,
    /// The address on which clients connect; all of the machine's by default
    #[arg(long, requires = "standalone", default_value = "", value_name = "HOST")]
    client_address: String,
    /// Check the configuration, say what it means, and start nothing
    #[arg(long)]
    check: bool,
}

impl Args {
    fn config(&self) -> Result<Config, ConfigError> {
        match &self.config {
            Some(path) => Config::from_zoo_cfg(path),
            None => Config::standalone(&self.data_dir)
                .client(HostPort::new(self.client_address.clone(), self.client_port))
                .build(),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("quorated: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    if args.check {
        println!("server {}: {}", config.my_sid, summary(&config));
        return ExitCode::SUCCESS;
    }
    run(config)
}

fn summary(config: &Config) -> String {
    let place = match config.standalone {
        true => "stands alone".to_owned(),
        false => format!("one of {}", config.servers.len()),
    };
    let client = match &config.client {
        Some(client) => format!("clients on {client}"),
        None => "no client port".to_owned(),
    };
    let data = match config.durable {
        true => config.data_log_dir.join(STORE_FOLDER).display().to_string(),
        false => "memory".to_owned(),
    };
    format!("{place}, {client}, data in {data}")
}

fn run(config: Config) -> ExitCode {
    tracing::info!("server {}: {}", config.my_sid, summary(&config));
    let folder = config.data_dir.clone();
    let server = match Server::start(config) {
        Ok(server) => Arc::new(server),
        Err(error) => {
            eprintln!("quorated: {error}");
            return ExitCode::from(EXIT_START);
        }
    };
    let mut signals = match Signals::new([SIGTERM, SIGINT, SIGUSR1]) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("quorated: signals cannot be handled: {error}");
            return ExitCode::from(EXIT_START);
        }
    };
    let handle = signals.handle();
    let stopping = Arc::clone(&server);
    let listener = thread::spawn(move || {
        let mut dumps = 0;
        for signal in signals.forever() {
            if signal == SIGUSR1 {
                dumps += 1;
                dump_histograms(&stopping, &folder.join(format!("quorate-{dumps}.hlog")));
                continue;
            }
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            tracing::info!("{name}: draining, then stopping");
            stopping.request_stop();
            return;
        }
    });
    let failure = server.wait();
    handle.close();
    if listener.join().is_err() {
        tracing::error!("the signal thread panicked");
    }
    let outcome = Arc::into_inner(server).map(Server::shutdown);
    match (failure, outcome) {
        (Some(why), _) | (None, Some(Err(quorate::Error::Failed(why)))) => {
            tracing::error!("stopped: {why}");
            ExitCode::from(EXIT_FAILED)
        }
        (None, Some(Err(error))) => {
            tracing::error!("{error}");
            ExitCode::from(EXIT_FAILED)
        }
        (None, Some(Ok(())) | None) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
    }
}

fn dump_histograms(server: &Server, file: &Path) {
    let histograms = server.take_histograms();
    match File::create(file).and_then(|mut out| histograms.write_log(&mut out)) {
        Ok(()) => tracing::info!("histograms written to {}", file.display()),
        Err(error) => tracing::error!("{}: {error}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_the_folder_that_has_the_data() {
        let builder = Config::standalone("data");
        let of = |builder: quorate::config::Builder| summary(&builder.build().expect("settings"));
        let alone = "stands alone, clients on :2181, data in";
        assert_eq!(of(builder.clone()), format!("{alone} data/quorate"));
        assert_eq!(of(builder.clone().data_log_dir("log")), format!("{alone} log/quorate"));
        assert_eq!(of(builder.durable(false)), format!("{alone} memory"));
    }
}
