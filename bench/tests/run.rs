//! Whole runs of the load generator against servers in its own process, short ones.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use quorate::metrics::{Histograms, Stage, read_log};
use serde_json::Value;

/// A second of load, without warm-up.
fn bench(out: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate-bench"))
        .args(["--seconds", "1", "--warmup", "0", "--keys", "50", "--clients", "4"])
        .args(["--json", "--out"])
        .arg(out)
        .args(arguments)
        .env("TMPDIR", out)
        .output()
        .expect("the program runs")
}

fn json_of(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// What lies in `out` by name.
fn names(out: &Path) -> Vec<String> {
    let entries = fs::read_dir(out).expect("the folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn an_ensemble_on_disk_is_measured_and_nothing_stays_behind_but_the_results() {
    let out = tempfile::tempdir().expect("a temporary folder");
    let json = json_of(&bench(out.path(), &["--servers", "3", "--read-share", "0.5"]));
    assert_eq!(json["errors"], 0);
    assert!(json["throughput"].as_f64().expect("a number") > 100.0, "{json}");
    for kind in ["all", "write", "read"] {
        let found = &json["latency_us_by_kind"][kind];
        let at = |name: &str| found[name].as_f64().expect("a number");
        assert!(0.0 < at("p50") && at("p50") <= at("p99") && at("p99") <= at("max"), "{found}");
    }
    assert_eq!(json["settings"]["durable"], true);
    assert!(json["machine"]["disk"]["filesystem"].is_string(), "{json}");
    assert_eq!(names(out.path()), ["client.hlog", "results.json", "stages.hlog"]);
    let stages = fs::read(out.path().join("stages.hlog")).expect("the stages");
    let stages = Histograms::read_log(&stages).expect("a log");
    let of_write = Stage::ALL.into_iter().filter(|stage| stage.is_of_a_write());
    for stage in of_write {
        assert!(!stages.stage(stage).is_empty(), "{stage}");
    }
    let client = fs::read(out.path().join("client.hlog")).expect("the clients' view");
    let written: u64 = read_log(&client)
        .expect("a log")
        .iter()
        .filter(|interval| interval.tag == "write")
        .map(|interval| interval.histogram.len())
        .sum();
    assert_eq!(json["latency_us_by_kind"]["write"]["count"], written);
}

#[test]
fn an_open_loop_keeps_its_rate_in_memory_and_within_the_process() {
    let out = tempfile::tempdir().expect("a temporary folder");
    let arguments = ["--servers", "1", "--memory", "--in-process", "--rate", "500"];
    let json = json_of(&bench(out.path(), &arguments));
    let done = json["operations"].as_u64().expect("a number");
    // A Poisson process of 500: six standard deviations are 134.
    assert!((366..=634).contains(&done), "{done}");
    assert_eq!(
        (&json["settings"]["durable"], &json["machine"]["disk"]),
        (&false.into(), &Value::Null)
    );
    assert!(json["lateness_us"]["count"].as_u64().expect("a number") >= done);
}

#[test]
fn several_threads_create_znodes_and_remove_them_again() {
    let out = tempfile::tempdir().expect("a temporary folder");
    let arguments = ["--servers", "1", "--memory", "--threads", "2", "--create-share", "1"];
    let json = json_of(&bench(out.path(), &arguments));
    assert_eq!(json["errors"], 0);
    assert_eq!(json["notes"], Value::Array(Vec::new()), "what was created was removed");
}

#[test]
fn a_server_that_is_not_there_is_an_error_that_says_what_to_do() {
    let out = tempfile::tempdir().expect("a temporary folder");
    let output = bench(out.path(), &["--servers", "no-port"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("expected HOST:PORT"), "{text}");
    for wrong in [["--read-share", "2"], ["--servers", "0"], ["--servers", "10"]] {
        let output = bench(out.path(), &wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
