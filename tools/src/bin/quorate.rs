//! `quorate`: the operator's and the performance engineer's command.
//!
//! Parses the command line and prints what the modules of this package give back.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use quorate_tools::chart::Chart;
use quorate_tools::hist::{Dump, comparison, comparison_json};
use quorate_tools::{log, snapshot, status};
use serde_json::{Value, json};

/// What was asked for could be read, and is not in order.
const EXIT_NOT_WELL: u8 = 3;
/// Progress is shown for what takes longer.
const PATIENCE: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  quorate status zoo1:2181 zoo2:2181 zoo3:2181
        who leads, and how far the others are behind; ZooKeeper's servers too
  quorate hist target/quorate-bench/client.hlog
        percentiles of a load generator's run
  quorate hist --tag quorum --tag log_device --svg commit.svg stages.hlog
        two stages of a commit as a picture for the browser
  quorate hist --compare before.hlog after.hlog
  quorate log --records /var/lib/zookeeper
        every transaction in the log of a stopped server
  quorate snapshot /var/lib/zookeeper
        whether its snapshots are whole

Exit codes: 0 all is well; 1 something could not be read; 2 the command line is wrong; 3 it was read
and is not well: a server that does not serve, a damaged log or snapshot.";

/// Looks at servers, latencies, logs and snapshots of quorate.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_long_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Role, epoch, zxid, learners and their lag of running servers
    Status(StatusArgs),
    /// Percentiles of HdrHistogram logs: table, picture, SVG, PNG, comparison
    Hist(HistArgs),
    /// Reads and verifies the log of a stopped server
    Log(LogArgs),
    /// Reads and verifies snapshots
    Snapshot(SnapshotArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example: quorate status zoo1:2181 zoo2:2181 zoo3:2181 --json")]
struct StatusArgs {
    /// Client ports
    #[arg(required = true, value_name = "HOST:PORT")]
    servers: Vec<String>,
    /// How long a server may take to answer, in seconds
    #[arg(long, default_value = "2", value_parser = seconds, value_name = "SECONDS")]
    timeout: Duration,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  quorate hist client.hlog stages.hlog\n  \
                        quorate hist --png latency.png --tag end_to_end stages.hlog\n  \
                        quorate hist --compare before.hlog after.hlog --json")]
struct HistArgs {
    /// HdrHistogram logs
    #[arg(required_unless_present = "compare", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Compare two logs
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with = "files")]
    compare: Option<Vec<PathBuf>>,
    /// Only this tag; may be given more than once
    #[arg(long, value_name = "NAME")]
    tag: Vec<String>,
    /// Only the table, no picture
    #[arg(long)]
    plain: bool,
    /// Also draw the percentiles of all tags into an SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Also draw them into a PNG file
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: quorate log --records /var/lib/zookeeper | less\n\nA log that a \
                        running server writes looks torn at its end now and then.")]
struct LogArgs {
    /// Segments, or data directories
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Print every transaction
    #[arg(long)]
    records: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example: quorate snapshot --nodes /var/lib/zookeeper/quorate/snapshot.0000000200000007"
)]
struct SnapshotArgs {
    /// Snapshots, or data directories
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Print every session and znode
    #[arg(long)]
    nodes: bool,
    /// Print one JSON object per line
    #[arg(long, conflicts_with = "nodes")]
    json: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Status(args) => run_status(&args),
        Command::Hist(args) => run_hist(&args).map(|()| true),
        Command::Log(args) => run_log(&args),
        Command::Snapshot(args) => run_snapshot(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_NOT_WELL),
        // Somebody who reads only the beginning has what they wanted.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().map(io::Error::kind)
    };
    error.chain().any(|cause| kind(cause) == Some(io::ErrorKind::BrokenPipe))
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse().ok().filter(|seconds| (0.001..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("expected seconds, e.g. --timeout 2")
}

/// Whether all of them serve.
fn run_status(args: &StatusArgs) -> Result<bool> {
    let asked: Vec<_> = args
        .servers
        .iter()
        .map(|server| {
            let (name, limit) = (server.clone(), args.timeout);
            thread::spawn(move || status::ask(&name, limit))
        })
        .collect();
    let answers = args.servers.iter().zip(asked).map(|(server, asked)| {
        let answer = asked.join().unwrap_or_else(|_| Err("asking it has failed".to_owned()));
        (server.clone(), answer)
    });
    let answers: Vec<_> = answers.collect();
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&status::json(&answers))?)?;
    } else {
        write!(out, "{}", status::table(&answers))?;
    }
    Ok(answers.iter().all(|(_, answer)| answer.as_ref().is_ok_and(status::Status::is_serving)))
}

fn run_hist(args: &HistArgs) -> Result<()> {
    let read = |path: &PathBuf| Dump::read(path)?.select(&args.tag);
    let mut out = io::stdout().lock();
    if let Some([a, b]) = args.compare.as_deref() {
        let (a, b) = (read(a)?, read(b)?);
        if args.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&comparison_json(&a, &b))?)?;
        } else {
            write!(out, "{}", comparison(&a, &b))?;
        }
        return draw(args, &[a, b]);
    }
    let dumps: Vec<Dump> = args.files.iter().map(read).collect::<Result<_>>()?;
    if args.json {
        let files: Vec<Value> = dumps.iter().map(Dump::json).collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "files": files }))?)?;
    } else {
        for (at, dump) in dumps.iter().enumerate() {
            let gap = if at == 0 { "" } else { "\n" };
            write!(out, "{gap}{}", dump.table())?;
            if !args.plain {
                write!(out, "\n{}", dump.picture())?;
            }
        }
    }
    draw(args, &dumps)
}

fn draw(args: &HistArgs, dumps: &[Dump]) -> Result<()> {
    if args.svg.is_none() && args.png.is_none() {
        return Ok(());
    }
    let names: Vec<String> = dumps.iter().map(|dump| file_name(&dump.path)).collect();
    let mut curves = Vec::new();
    for (at, (dump, name)) in dumps.iter().zip(&names).enumerate() {
        for (tag, histogram) in &dump.tags {
            // Files of one name are told apart by their place.
            let twice = names.iter().filter(|other| *other == name).count() > 1;
            let curve = match (dumps.len(), twice) {
                (1, _) => tag.clone(),
                (_, false) => format!("{name} {tag}"),
                (_, true) => format!("{} {tag}", at + 1),
            };
            curves.push((curve, histogram.clone()));
        }
    }
    let chart = Chart::percentiles(&names.join(", "), &curves);
    if let Some(path) = &args.svg {
        std::fs::write(path, chart.svg()).with_context(|| path.display().to_string())?;
        eprintln!("written: {}", path.display());
    }
    if let Some(path) = &args.png {
        let mut bytes = Vec::new();
        chart.write_png(&mut bytes)?;
        std::fs::write(path, bytes).with_context(|| path.display().to_string())?;
        eprintln!("written: {}", path.display());
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Whether the logs are in order.
fn run_log(args: &LogArgs) -> Result<bool> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut progress = Progress::new();
    let mut is_well = true;
    for path in &args.paths {
        let mut segments = Vec::new();
        for file in log::segments_of(path)? {
            let segment = log::read_segment(&file, |record| {
                progress.tell(|| format!("{}: {}", file.display(), record.zxid));
                match (args.records, args.json) {
                    (false, _) => Ok(()),
                    (true, false) => record.write_line(&mut out),
                    (true, true) => writeln!(out, "{}", record.json()),
                }
            })?;
            if args.json {
                writeln!(out, "{}", segment.json())?;
            } else {
                writeln!(out, "{}", segment.line())?;
            }
            segments.push(segment);
        }
        progress.clear();
        is_well &= run_epochs(args, path, &mut out)?;
        for fault in log::faults(&segments) {
            is_well = false;
            eprintln!("damaged: {fault}");
        }
    }
    out.flush()?;
    Ok(is_well)
}

/// Whether the epochs of a data directory are in order; true if it has none.
fn run_epochs(args: &LogArgs, path: &Path, out: &mut impl Write) -> Result<bool> {
    let Some(epochs) = log::epochs_of(path)? else { return Ok(true) };
    if args.json {
        let line = json!({
            "sid": epochs.sid.0,
            "accepted_epoch": epochs.accepted.get(),
            "current_epoch": epochs.current.get(),
            "durable": epochs.durable.to_string(),
            "quarantined": epochs.quarantined,
            "damaged": epochs.damaged,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(
            out,
            "epochs: server {}, accepted {}, current {}, durable up to {}{}{}",
            epochs.sid,
            epochs.accepted,
            epochs.current,
            epochs.durable,
            if epochs.quarantined {
                "; quarantined until a leader has synchronised it"
            } else {
                ""
            },
            if epochs.damaged { "; one of the two copies is damaged" } else { "" },
        )?;
    }
    Ok(!epochs.quarantined && !epochs.damaged)
}

/// Whether all snapshots are whole.
fn run_snapshot(args: &SnapshotArgs) -> Result<bool> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut progress = Progress::new();
    let mut is_well = true;
    for path in &args.paths {
        for file in snapshot::snapshots_of(path)? {
            progress.tell(|| format!("verifying {}", file.display()));
            let nodes = args.nodes.then_some(&mut out as &mut dyn Write);
            let found = snapshot::verify(&file, nodes);
            progress.clear();
            match found? {
                Ok(snapshot) if args.json => writeln!(out, "{}", snapshot.json())?,
                Ok(snapshot) => writeln!(out, "{}", snapshot.line())?,
                Err(error) => {
                    is_well = false;
                    if args.json {
                        let line = json!({ "file": file, "valid": false, "error": error });
                        writeln!(out, "{line}")?;
                    } else {
                        eprintln!("damaged: {error}");
                    }
                }
            }
        }
    }
    out.flush()?;
    Ok(is_well)
}

/// A line on standard error while something takes long, on terminals only.
struct Progress {
    begun: Instant,
    next: Duration,
    is_shown: bool,
    calls: u32,
}

impl Progress {
    fn new() -> Self {
        Self { begun: Instant::now(), next: PATIENCE, is_shown: false, calls: 0 }
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        self.calls = self.calls.wrapping_add(1);
        // The clock is read now and then: a record takes less time than that.
        if !self.calls.is_multiple_of(1024) && self.calls != 1 {
            return;
        }
        let elapsed = self.begun.elapsed();
        if elapsed >= self.next && io::stderr().is_terminal() {
            self.next = elapsed + Duration::from_secs(1);
            self.is_shown = true;
            eprint!("\r\x1b[K{}", what());
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            eprint!("\r\x1b[K");
        }
    }
}
