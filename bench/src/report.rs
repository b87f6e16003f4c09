//! What a run found: for people a table, for scripts one JSON object, for viewers HdrHistogram logs.
//!
//! Measures nothing.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quorate::metrics::{Histograms, Interval, LogWriter, Nanos, Stage, Summary};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::environment::Environment;
use crate::load::Measured;

/// The settings of a run, as they appear in its results.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    /// `embedded` or `running`.
    pub(crate) servers: &'static str,
    /// `tcp` or `in process`.
    pub(crate) transport: &'static str,
    pub(crate) server_count: usize,
    pub(crate) addresses: Vec<String>,
    pub(crate) durable: Option<bool>,
    pub(crate) clients: usize,
    pub(crate) pipeline: usize,
    pub(crate) threads: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) keys: usize,
    pub(crate) read_share: f64,
    pub(crate) create_share: f64,
    /// Requests per second of an open loop; a closed loop has none.
    pub(crate) rate: Option<f64>,
    pub(crate) arrivals: Option<&'static str>,
    pub(crate) warmup_seconds: u64,
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
}

impl Settings {
    /// One line for people.
    fn line(&self) -> String {
        let kind = match self.durable {
            Some(true) => ", durable",
            Some(false) => ", in memory",
            None => "",
        };
        let pace = match (self.rate, self.arrivals) {
            (Some(rate), Some(arrivals)) => format!("open loop at {rate} per second ({arrivals})"),
            _ => "closed loop".to_owned(),
        };
        format!(
            "{} {} servers{kind}; {} sessions x {} in flight by {}, {pace}; {} bytes, {} znodes, \
             {} % reads",
            self.server_count,
            self.servers,
            self.clients,
            self.pipeline,
            self.transport,
            self.payload_bytes,
            self.keys,
            self.read_share * 100.0
        )
    }
}

/// Everything a run found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) settings: Settings,
    pub(crate) machine: Environment,
    /// How long the measured time was.
    pub(crate) measured_for: Duration,
    pub(crate) measured: Measured,
    /// Of servers in this process.
    pub(crate) stages: Option<Histograms>,
    pub(crate) files: Vec<PathBuf>,
    /// What the reader must know to trust the numbers.
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// Requests done per second.
    pub(crate) fn throughput(&self) -> f64 {
        self.measured.done as f64 / self.measured_for.as_secs_f64().max(1e-9)
    }

    /// The table.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n\n", self.settings.line(), self.machine.line());
        let errors = self.measured.error_count();
        text += &format!(
            "{} requests in {:.1} s: {} per second, {}\n\n",
            grouped(self.measured.done),
            self.measured_for.as_secs_f64(),
            grouped(self.throughput().round() as u64),
            if errors == 0 { "no errors".to_owned() } else { format!("{errors} errors") },
        );
        for (name, count) in &self.measured.errors {
            text += &format!("  {name}: {}\n", grouped(*count));
        }
        if errors > 0 {
            text.push('\n');
        }
        text += &Summary::head();
        text.push('\n');
        for (name, summary) in self.latencies() {
            text += &summary.row(name);
            text.push('\n');
        }
        if let Some(stages) = &self.stages {
            text += "\nStages of all servers:\n";
            for stage in Stage::ALL.into_iter().filter(|&stage| !stages.stage(stage).is_empty()) {
                text += &Summary::of(stages.stage(stage)).row(stage.name());
                text.push('\n');
            }
        }
        for note in &self.notes {
            text += &format!("\nNote: {note}\n");
        }
        for (at, file) in self.files.iter().enumerate() {
            text += &format!(
                "{}{}\n",
                if at == 0 { "\nWritten: " } else { "         " },
                file.display()
            );
        }
        text
    }

    /// Client latencies that have values: reads and writes, both together if there are both.
    fn latencies(&self) -> Vec<(&'static str, Summary)> {
        let Measured { writes, reads, .. } = &self.measured;
        let mut found = vec![("write", Summary::of(writes)), ("read", Summary::of(reads))];
        found.retain(|(_, summary)| summary.count > 0);
        if found.len() == 2 {
            found.insert(0, ("all", Summary::of(&self.measured.all())));
        }
        found
    }

    /// One object.
    pub(crate) fn json(&self) -> Value {
        let mut by_kind = Map::new();
        for (name, summary) in self.latencies() {
            by_kind.insert(name.to_owned(), micros(&summary));
        }
        let mut stages = Map::new();
        for stage in Stage::ALL {
            if let Some(found) = self.stages.as_ref().map(|stages| stages.stage(stage))
                && !found.is_empty()
            {
                stages.insert(stage.name().to_owned(), micros(&Summary::of(found)));
            }
        }
        json!({
            "throughput": rounded(self.throughput()),
            "operations": self.measured.done,
            "errors": self.measured.error_count(),
            "errors_by_name": self.measured.errors,
            "latency_us": micros(&Summary::of(&self.measured.all())),
            "latency_us_by_kind": by_kind,
            "lateness_us": micros(&Summary::of(&self.measured.lateness)),
            "stages": stages,
            "measured_seconds": rounded(self.measured_for.as_secs_f64()),
            "settings": self.settings,
            "machine": self.machine,
            "files": self.files,
            "notes": self.notes,
            "version": env!("CARGO_PKG_VERSION"),
        })
    }
}

/// A summary in microseconds, under the names that scripts know.
fn micros(summary: &Summary) -> Value {
    let mut object = Map::new();
    for (name, nanos) in Summary::NAMES.into_iter().zip(summary.values()) {
        object.insert(name.to_owned(), rounded(nanos as f64 / 1000.0).into());
    }
    object.insert("count".to_owned(), summary.count.into());
    object.into()
}

/// Three decimals: nanoseconds in a number of microseconds.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One second, for the progress line.
pub(crate) fn progress(second: u64, of: u64, is_warmup: bool, found: &Measured) -> String {
    let summary = Summary::of(&found.all());
    let kind = if is_warmup { "warm-up" } else { "measured" };
    let errors = match found.error_count() {
        0 => String::new(),
        count => format!(", {count} errors"),
    };
    format!(
        "{kind} {second}/{of} s: {} per second, p50 {}, p99 {}, max {}{errors}",
        grouped(found.done),
        Nanos(summary.p50),
        Nanos(summary.p99),
        Nanos(summary.max),
    )
}

/// The clients' view, second by second, as an HdrHistogram log.
#[derive(Debug)]
pub(crate) struct ClientLog {
    path: PathBuf,
    writer: LogWriter<BufWriter<File>>,
}

impl ClientLog {
    pub(crate) fn create(dir: &Path, start: SystemTime) -> io::Result<Self> {
        let path = dir.join("client.hlog");
        let writer = LogWriter::begin(BufWriter::new(File::create(&path)?), start)?;
        Ok(Self { path, writer })
    }

    pub(crate) fn write(
        &mut self,
        start: SystemTime,
        duration: Duration,
        found: &Measured,
    ) -> io::Result<()> {
        let all = [("write", &found.writes), ("read", &found.reads), ("lateness", &found.lateness)];
        for (tag, histogram) in all.into_iter().filter(|(_, histogram)| !histogram.is_empty()) {
            let (tag, histogram) = (tag.to_owned(), histogram.clone());
            self.writer.write(&Interval { tag, start, duration, histogram })?;
        }
        Ok(())
    }

    /// Completes the file; its path.
    pub(crate) fn finish(self) -> io::Result<PathBuf> {
        self.writer.finish()?;
        Ok(self.path)
    }
}

/// The servers' stages as an HdrHistogram log; its path.
pub(crate) fn write_stages(dir: &Path, stages: &Histograms) -> io::Result<PathBuf> {
    let path = dir.join("stages.hlog");
    let mut out = BufWriter::new(File::create(&path)?);
    stages.write_log(&mut out)?;
    out.into_inner()?.sync_all()?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut measured = Measured::new();
        for micros in 1..=1000 {
            measured.writes.record(micros * 1000).unwrap();
        }
        measured.done = 1000;
        measured.errors.insert("no_node", 2);
        let mut recorder = quorate::metrics::Recorder::new();
        recorder.record(Stage::Quorum, 40_000);
        Report {
            settings: Settings {
                servers: "running",
                transport: "tcp",
                server_count: 3,
                addresses: vec!["127.0.0.1:2181".to_owned()],
                durable: None,
                clients: 4,
                pipeline: 8,
                threads: 1,
                payload_bytes: 128,
                keys: 10,
                read_share: 0.25,
                create_share: 0.0,
                rate: None,
                arrivals: None,
                warmup_seconds: 1,
                seconds: 2,
                seed: 1,
            },
            machine: Environment { cpu: "CPU".to_owned(), cpus: 2, ..Environment::default() },
            measured_for: Duration::from_secs(2),
            measured,
            stages: Some(recorder.take()),
            files: vec![PathBuf::from("out/client.hlog")],
            notes: vec!["a note".to_owned()],
        }
    }

    #[test]
    fn the_json_object_has_what_scripts_ask_for() {
        let json = report().json();
        assert_eq!(json["throughput"], 500.0);
        assert_eq!(json["errors"], 2);
        assert_eq!(json["errors_by_name"]["no_node"], 2);
        for name in ["p50", "p90", "p99", "p99_9", "max"] {
            let value = json["latency_us"][name].as_f64().unwrap();
            assert!((490.0..1001.0).contains(&value), "{name} {value}");
        }
        assert_eq!(json["stages"]["quorum"]["count"], 1);
        assert_eq!(json["settings"]["clients"], 4);
        assert_eq!(json["machine"]["cpus"], 2);
        assert_eq!(json["latency_us_by_kind"]["write"]["count"], 1000);
        assert!(json["latency_us_by_kind"].get("read").is_none());
    }

    #[test]
    fn the_text_has_throughput_percentiles_stages_and_files() {
        let text = report().text();
        assert!(text.contains("1,000 requests in 2.0 s: 500 per second, 2 errors"), "{text}");
        assert!(
            text.contains("3 running servers; 4 sessions x 8 in flight by tcp, closed loop"),
            "{text}"
        );
        assert!(text.contains("  no_node: 2\n"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("write ") && line.ends_with("1000")));
        assert!(text.lines().any(|line| line.starts_with("quorum ")), "{text}");
        assert!(text.contains("Written: out/client.hlog"), "{text}");
        assert!(!text.contains("\nread "), "{text}");
    }

    #[test]
    fn digits_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        assert!(cases.into_iter().all(|(number, text)| grouped(number) == text));
    }

    #[test]
    fn the_client_log_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut log = ClientLog::create(dir.path(), start).unwrap();
        let found = report().measured;
        let second = Duration::from_secs(1);
        log.write(start, second, &found).unwrap();
        log.write(start + second, second, &found).unwrap();
        let read = quorate::metrics::read_log(&std::fs::read(log.finish().unwrap()).unwrap());
        let tags: Vec<(String, u64)> =
            read.unwrap().into_iter().map(|i| (i.tag, i.histogram.len())).collect();
        assert_eq!(tags, [("write".to_owned(), 1000), ("write".to_owned(), 1000)]);
    }
}
