//! `quorate-bench`: the load generator.
//!
//! Puts the parts of a run together; see `args` for what can be asked. Uses the engine's public API
//! and the client protocol only.

mod args;
mod ensemble;
mod environment;
mod load;
mod open_loop;
mod progress;
mod report;
mod run;
mod target;
mod workload;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc::Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;

use args::{Args, Servers};
use ensemble::Ensemble;
use environment::Environment;
use load::{Load, Measured, Pacing};
use open_loop::OpenLoop;
use progress::Progress;
use report::{ClientLog, Report, Settings};
use run::{Course, Plan, Sample, Shared};
use target::Target;
use target::in_process::InProcess;
use target::setup::Direct;
use target::tcp::Tcp;
use workload::{Workload, all_paths, key_path};

/// Servers and sessions must be there by then.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// The run was made, and some requests failed.
const EXIT_ERRORS: u8 = 3;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.check() {
        eprintln!("quorate-bench: {error}");
        return ExitCode::from(2);
    }
    match run(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(EXIT_ERRORS),
        Err(error) => {
            eprintln!("quorate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes the run; how many requests failed.
fn run(args: &Args) -> Result<u64> {
    let out = &args.out;
    fs::create_dir_all(out).with_context(|| format!("--out {}", out.display()))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let mut progress = Progress::new(args.quiet);
    let servers = Started::new(args, &mut progress)?;
    let report =
        Measuring { args, servers: &servers, interrupted: &interrupted }.run(&mut progress);
    progress.end();
    // Also after a failed run: nothing may stay behind.
    servers.stop()?;
    let mut report = report?;
    let results = out.join("results.json");
    report.files.push(results.clone());
    let json = serde_json::to_string_pretty(&report.json())?;
    fs::write(&results, format!("{json}\n")).with_context(|| results.display().to_string())?;
    if args.json {
        println!("{json}");
    } else {
        print!("{}", report.text());
    }
    Ok(report.measured.error_count())
}

/// The servers of a run, and where their data is.
struct Started {
    addresses: Vec<SocketAddr>,
    embedded: Option<(Ensemble, tempfile::TempDir)>,
    environment: Environment,
}

impl Started {
    fn new(args: &Args, progress: &mut Progress) -> Result<Self> {
        let count = match args.servers()? {
            Servers::Running(addresses) => {
                let environment = Environment::read(None);
                return Ok(Self { addresses, embedded: None, environment });
            }
            Servers::Embedded(count) => count,
        };
        progress.say(&format!("starting {count} servers in this process"));
        let mut folder = tempfile::Builder::new();
        folder.prefix("quorate-bench-");
        let folder = match &args.data_dir {
            Some(dir) => folder.tempdir_in(dir),
            None => folder.tempdir(),
        };
        let folder = folder.context("--data-dir: cannot make a temporary folder")?;
        let environment = Environment::read((!args.memory).then(|| folder.path()));
        let ensemble = Ensemble::start(count, folder.path(), |builder| {
            let Args { memory, placement, idle, shards, .. } = *args;
            builder.durable(!memory).placement(placement).idle(idle).shards(shards)
        })?;
        let addresses = ensemble.addresses();
        Ok(Self { addresses, embedded: Some((ensemble, folder)), environment })
    }

    fn stop(self) -> Result<()> {
        if let Some((ensemble, folder)) = self.embedded {
            ensemble.stop()?;
            folder.close().context("cannot remove the servers' temporary folder")?;
        }
        Ok(())
    }
}

/// One run against servers that are there.
struct Measuring<'a> {
    args: &'a Args,
    servers: &'a Started,
    interrupted: &'a AtomicBool,
}

/// The threads of a run and what they say.
struct Threads {
    shared: Arc<Shared>,
    samples: Receiver<Sample>,
    handles: Vec<JoinHandle<Result<u64>>>,
}

/// What the samples of all threads add up to.
struct Found {
    measured: Measured,
    measured_for: Duration,
    stages: Option<quorate::metrics::Histograms>,
    log: ClientLog,
}

impl Measuring<'_> {
    fn run(&self, progress: &mut Progress) -> Result<Report> {
        let root = format!("/quorate-bench-{:08x}", run_id());
        progress.say("connecting, and making znodes");
        self.prepare(&root)?;
        let made = self.measure(&root, progress);
        progress.say("removing znodes");
        let created = made.as_ref().map_or(&[][..], |(_, created)| created);
        let removed = self.clean_up(&root, created);
        let (found, _) = made?;
        let mut notes = self.notes(&found);
        if let Err(error) = removed {
            notes.push(format!("znodes below {root} could not be removed: {error:#}"));
        }
        let mut files = vec![found.log.finish()?];
        if let Some(stages) = &found.stages {
            files.push(report::write_stages(&self.args.out, stages)?);
        }
        Ok(Report {
            settings: self.settings(),
            machine: self.servers.environment.clone(),
            measured_for: found.measured_for,
            measured: found.measured,
            stages: found.stages,
            files,
            notes,
        })
    }

    fn prepare(&self, root: &str) -> Result<()> {
        let deadline = Instant::now() + OPEN_WITHIN;
        let mut direct = Direct::open(self.servers.addresses[0], deadline)?;
        let mut paths = vec![root.to_owned()];
        paths.extend((0..self.args.keys).map(|key| key_path(root, key)));
        direct.create(&paths, &vec![0; self.args.payload])?;
        direct.close();
        // A server may lag behind; load that finds no znode would be counted as errors.
        let last = key_path(root, self.args.keys - 1);
        for &server in &self.servers.addresses {
            let mut direct = Direct::open(server, deadline)?;
            direct.wait_for(&last, deadline)?;
            direct.close();
        }
        Ok(())
    }

    fn clean_up(&self, root: &str, created: &[u64]) -> Result<()> {
        let deadline = Instant::now() + OPEN_WITHIN;
        let mut direct = Direct::open(self.servers.addresses[0], deadline)?;
        direct.delete(&all_paths(root, self.args.keys, created))?;
        direct.close();
        Ok(())
    }

    /// Runs the load; what was found, and how many znodes each thread created.
    fn measure(&self, root: &str, progress: &mut Progress) -> Result<(Found, Vec<u64>)> {
        let threads = self.start_threads(root)?;
        let found =
            self.wait_ready(&threads, progress).and_then(|()| self.gather(&threads, progress));
        threads.shared.stop();
        let mut created = Vec::new();
        for handle in threads.handles {
            created.push(handle.join().map_err(|_| anyhow!("a load thread has panicked"))??);
        }
        Ok((found?, created))
    }

    fn start_threads(&self, root: &str) -> Result<Threads> {
        let args = self.args;
        let shared = Shared::new(Plan {
            warmup: args.warmup * 1_000_000_000,
            measured: args.seconds * 1_000_000_000,
        });
        let (sender, samples) = mpsc::channel();
        let mut handles = Vec::new();
        let mut first = 0;
        for thread in 0..args.threads {
            let count = (args.clients - first) / (args.threads - thread);
            let workload = Workload::new(&args.mix(), root, thread, args.seed);
            let pacing = args.rate.map_or(Pacing::Closed, |rate| {
                let seed = args.seed.wrapping_add(thread as u64);
                Pacing::Open(OpenLoop::new(rate / args.threads as f64, args.arrivals, seed))
            });
            let timeout = args.session_timeout as i32;
            let load = Load::new(count, timeout, args.pipeline, pacing, workload);
            let target = self.target(thread, count, first)?;
            let course = Course::new(Arc::clone(&shared), Sender::clone(&sender));
            handles.push(
                thread::Builder::new()
                    .name(format!("load-{thread}"))
                    .spawn(move || drive(target, load, course))?,
            );
            first += count;
        }
        Ok(Threads { shared, samples, handles })
    }

    fn target(&self, thread: usize, count: usize, first: usize) -> Result<Target> {
        match &self.servers.embedded {
            Some((ensemble, _)) if self.args.in_process => {
                Ok(Target::InProcess(InProcess::new(ensemble.server_of(thread), count)))
            }
            _ => Ok(Target::Tcp(Tcp::new(&self.servers.addresses, count, first)?)),
        }
    }

    fn wait_ready(&self, threads: &Threads, progress: &mut Progress) -> Result<()> {
        let begun = Instant::now();
        loop {
            let ready = threads.shared.ready.load(Ordering::Relaxed);
            if ready == self.args.clients {
                return Ok(());
            }
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted while sessions were being opened");
            }
            if begun.elapsed() > OPEN_WITHIN {
                let trouble = threads.shared.trouble();
                bail!(
                    "only {ready} of {} sessions are open after {} s{}; a ZooKeeper server allows \
                     60 connections per host unless its configuration says maxClientCnxns=0",
                    self.args.clients,
                    OPEN_WITHIN.as_secs(),
                    trouble.map_or_else(String::new, |why| format!(" ({why})"))
                );
            }
            progress.say(&format!("opening sessions: {ready} of {}", self.args.clients));
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Adds up what the threads measure, until the last of them has ended.
    fn gather(&self, threads: &Threads, progress: &mut Progress) -> Result<Found> {
        let start = threads.shared.start();
        let second = Duration::from_nanos(run::SAMPLE_EVERY);
        let wall = SystemTime::now() + Duration::from_nanos(start - threads.shared.now());
        let mut found = Found {
            measured: Measured::new(),
            measured_for: Duration::ZERO,
            stages: None,
            log: ClientLog::create(&self.args.out, wall)?,
        };
        // What was recorded before the measured time is not part of it.
        if self.args.warmup == 0 {
            self.take_stages();
        }
        let mut open: BTreeMap<u64, (usize, Measured)> = BTreeMap::new();
        while let Some(sample) = self.next_sample(threads) {
            let at = sample.second;
            if sample.is_measured {
                found.measured.merge(&sample.measured);
            }
            let (count, mut sum) = open.remove(&at).unwrap_or_else(|| (0, Measured::new()));
            sum.merge(&sample.measured);
            if count + 1 < threads.handles.len() {
                open.insert(at, (count + 1, sum));
                continue;
            }
            self.second_is_over(at, &sum, progress);
            if sample.is_measured {
                found.log.write(wall + second * at as u32, second, &sum)?;
            }
        }
        for (at, (_, sum)) in open {
            found.log.write(wall + second * at as u32, second, &sum)?;
        }
        let ran = Duration::from_nanos(threads.shared.now().saturating_sub(start));
        let planned = Duration::from_secs(self.args.seconds);
        found.measured_for = planned.min(ran.saturating_sub(Duration::from_secs(self.args.warmup)));
        found.stages = self.take_stages();
        Ok(found)
    }

    fn next_sample(&self, threads: &Threads) -> Option<Sample> {
        loop {
            match threads.samples.recv_timeout(Duration::from_millis(100)) {
                Ok(sample) => return Some(sample),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    if self.interrupted.load(Ordering::Relaxed) {
                        threads.shared.stop();
                    }
                }
            }
        }
    }

    fn second_is_over(&self, at: u64, sum: &Measured, progress: &mut Progress) {
        let Args { warmup, seconds, .. } = *self.args;
        if at + 1 == warmup {
            self.take_stages();
        }
        if at < warmup {
            progress.second(&report::progress(at + 1, warmup, true, sum));
        } else if at < warmup + seconds {
            progress.second(&report::progress(at + 1 - warmup, seconds, false, sum));
        }
    }

    fn take_stages(&self) -> Option<quorate::metrics::Histograms> {
        let (ensemble, _) = self.servers.embedded.as_ref()?;
        Some(ensemble.take_histograms())
    }

    fn settings(&self) -> Settings {
        let args = self.args;
        let is_embedded = self.servers.embedded.is_some();
        Settings {
            servers: if is_embedded { "embedded" } else { "running" },
            transport: if args.in_process { "in process" } else { "tcp" },
            server_count: self.servers.addresses.len(),
            addresses: self.servers.addresses.iter().map(ToString::to_string).collect(),
            durable: is_embedded.then_some(!args.memory),
            clients: args.clients,
            pipeline: args.pipeline,
            threads: args.threads,
            payload_bytes: args.payload,
            keys: args.keys,
            read_share: args.read_share,
            create_share: args.create_share,
            rate: args.rate,
            arrivals: args.rate.map(|_| args.arrivals.name()),
            warmup_seconds: args.warmup,
            seconds: args.seconds,
            seed: args.seed,
        }
    }

    /// What makes the numbers mean less than they seem to.
    fn notes(&self, found: &Found) -> Vec<String> {
        let mut notes = Vec::new();
        let is_tmpfs = |disk: &environment::Disk| disk.filesystem == "tmpfs";
        if self.servers.environment.disk.as_ref().is_some_and(is_tmpfs) {
            notes.push(
                "the servers' data was on tmpfs, where a durable write costs nothing: choose a disk \
                 with --data-dir"
                    .to_owned(),
            );
        }
        if found.measured_for < Duration::from_secs(self.args.seconds) {
            notes.push("the run was ended early".to_owned());
        }
        if let Some(rate) = self.args.rate
            && (found.measured.done as f64) < 0.98 * rate * found.measured_for.as_secs_f64()
        {
            notes.push(format!(
                "{rate} requests per second were due and not all were done in time: latencies grow \
                 with the length of such a run"
            ));
        }
        notes
    }
}

/// A load thread: runs, and tells how many znodes it created.
fn drive(mut target: Target, mut load: Load, mut course: Course) -> Result<u64> {
    target.run(&mut load, &mut course)?;
    Ok(load.created())
}

/// Tells runs against the same servers apart.
fn run_id() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.subsec_nanos() ^ std::process::id().rotate_left(16)
}
