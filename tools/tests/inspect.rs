//! What the tools say of a data directory that a real server has written, whole and damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use quorate::{Config, CreateMode, Server};
use quorate_tools::{log, snapshot};
use serde_json::Value;
use tempfile::TempDir;

/// Transactions of the test's server: enough for a few snapshots, whose nodes fill a buffer.
const WRITES: usize = 100;

/// A folder in which a server has served, and stopped.
fn written() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config::builder(folder.path())
        .with(|settings| settings.snap_count = 20)
        .build()
        .expect("a configuration");
    let server = Server::start(config).expect("a server");
    server.wait_serving(Duration::from_secs(30)).expect("it serves");
    let session = server.session(Duration::from_secs(10)).expect("a session");
    for n in 0..WRITES {
        let path = format!("/node{n}");
        session.create(&path, b"data", CreateMode::Persistent).wait().expect("a znode");
    }
    drop(session);
    server.shutdown().expect("it stops in order");
    folder
}

fn quorate(arguments: &[&str], path: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments).arg(path).output().expect("the program runs")
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).expect("the file");
    bytes[usize::try_from(offset).expect("a small file")] ^= 0xff;
    fs::write(path, bytes).expect("the file is ours");
}

fn last(mut paths: Vec<PathBuf>) -> PathBuf {
    paths.pop().expect("there is one")
}

#[test]
fn every_write_of_a_server_stands_in_its_log() {
    let folder = written();
    let mut created = Vec::new();
    let mut segments = Vec::new();
    for file in log::segments_of(folder.path()).expect("segments") {
        let segment = log::read_segment(&file, |record| {
            let json = record.json();
            let txn = json["txn"].as_str().expect("a transaction of the tree");
            created.extend(txn.strip_prefix("create /node").map(str::to_owned));
            Ok(())
        });
        segments.push(segment.expect("a segment"));
    }
    let expected: Vec<String> = (0..WRITES).map(|n| format!("{n} 4 bytes")).collect();
    assert_eq!(created, expected);
    assert_eq!(log::faults(&segments), Vec::<String>::new());
    let epochs = log::epochs_of(folder.path()).expect("epochs").expect("a store has them");
    assert_eq!(epochs.sid.0, 1);
    assert!(!epochs.quarantined && !epochs.damaged);
}

#[test]
fn snapshots_of_a_server_are_whole_and_a_flipped_byte_is_found() {
    let folder = written();
    let files = snapshot::snapshots_of(folder.path()).expect("snapshots");
    for file in &files {
        let found = snapshot::verify(file, None).expect("the file").expect("a whole snapshot");
        assert!(found.tree.nodes > 20, "{}", found.line());
    }
    let file = last(files);
    let output = quorate(&["snapshot", "--json"], &file);
    assert!(output.status.success());
    let json: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(json["valid"], true);
    let len = fs::metadata(&file).expect("the file").len();
    for part in 1..8 {
        flip(&file, len * part / 8);
        let is_padding = snapshot::verify(&file, None).expect("the file").is_ok();
        let output = quorate(&["snapshot"], &file);
        assert_eq!(output.status.code(), Some(if is_padding { 0 } else { 3 }));
        flip(&file, len * part / 8);
    }
    flip(&file, 20);
    assert!(snapshot::verify(&file, None).expect("the file").is_err(), "the header is checked");
}

#[test]
fn whoever_reads_only_the_beginning_of_a_snapshot_is_told_of_no_damage() {
    let folder = written();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(["snapshot", "--nodes"])
        .arg(folder.path())
        .stdout(writer)
        .output()
        .expect("the program runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn a_record_that_is_damaged_before_others_is_reported_with_its_place() {
    let folder = written();
    let clean = quorate(&["log"], folder.path());
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    let mut records = Vec::new();
    let mut of_file = PathBuf::new();
    for file in log::segments_of(folder.path()).expect("segments") {
        let before = records.len();
        log::read_segment(&file, |record| {
            records.push((file.clone(), record.offset));
            Ok(())
        })
        .expect("a segment");
        if before < records.len() {
            of_file = file;
        }
    }
    let (_, offset) = records.iter().find(|(file, _)| *file == of_file).expect("a record");
    flip(&of_file, offset + 40);
    let output = quorate(&["log"], folder.path());
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("damaged: ") && text.contains("a whole block follows"), "{text}");
}

#[test]
fn a_damaged_copy_of_the_epochs_is_not_well() {
    let folder = written();
    let epochs = folder.path().join("quorate/epochs");
    for slot in [0, 4096] {
        flip(&epochs, slot + 40);
        let output = quorate(&["log"], folder.path());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("one of the two copies is damaged"), "{text}");
        assert_eq!(output.status.code(), Some(3), "{text}");
        flip(&epochs, slot + 40);
    }
}

#[test]
fn a_time_that_no_server_can_be_given_is_a_wrong_command_line() {
    for timeout in ["0", "-1", "soon", "1e9", "NaN"] {
        let option = format!("--timeout={timeout}");
        let output = quorate(&["status", &option], Path::new("127.0.0.1:1"));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{timeout}: {text}");
        assert!(text.contains("--timeout"), "{text}");
    }
}

#[test]
fn records_are_listed_one_a_line() {
    let folder = written();
    let output = quorate(&["log", "--records"], folder.path());
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.lines().any(|line| line.ends_with("create /node7 4 bytes")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("epochs: server 1, ")), "{text}");
}

#[test]
fn a_folder_without_a_log_is_an_error_that_says_what_was_expected() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for command in ["log", "snapshot"] {
        let output = quorate(&[command], folder.path());
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("expected a dataDir"), "{text}");
    }
}
