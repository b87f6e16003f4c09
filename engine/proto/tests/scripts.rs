//! Dialogues with a whole ensemble, and what came of each line.
//!
//! A file of `tests/scripts` is a list of blocks: commands, `----`, and the recorded output. After a
//! wanted change of behaviour `UPDATE=1` records anew; the difference is what a reviewer reads.

mod ensemble;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ensemble::{Ensemble, parse_chunk, parse_zxid};
use quorate_proto::quorum::Membership;
use quorate_proto::{Epoch, ServerId, Ticks};

fn script_paths() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of scripts")
        .map(|entry| entry.expect("a readable entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn every_script_says_what_was_recorded() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut differing = Vec::new();
    for path in script_paths() {
        let recorded = std::fs::read_to_string(&path).expect("a readable script");
        let played = play(&recorded);
        if played == recorded {
            continue;
        }
        if update {
            std::fs::write(&path, played).expect("a writable script");
        } else {
            differing.push(format!(
                "{}:\n{}",
                path.display(),
                first_difference(&recorded, &played)
            ));
        }
    }
    assert!(differing.is_empty(), "UPDATE=1 records anew:\n{}", differing.join("\n"));
}

#[test]
fn every_flow_has_a_script() {
    assert!(script_paths().len() >= 15, "scripts are missing");
}

fn first_difference(recorded: &str, played: &str) -> String {
    let mut lines = recorded.lines().zip(played.lines()).enumerate();
    lines.find(|(_, (old, new))| old != new).map_or_else(
        || "one ends before the other".to_string(),
        |(at, (old, new))| format!("line {}: recorded {old:?}, now {new:?}", at + 1),
    )
}

/// Replays a script: its commands stay, its outputs are made anew.
fn play(script: &str) -> String {
    let mut ensemble: Option<Ensemble> = None;
    let mut out = String::new();
    let mut in_output = false;
    let mut block_is_open = false;
    for line in script.lines() {
        if in_output {
            in_output = !line.is_empty();
            continue;
        }
        if line == "----" {
            in_output = true;
            block_is_open = false;
            write_output(&mut out, &mut ensemble);
        } else {
            block_is_open |= !line.is_empty() && !line.starts_with('#');
            writeln!(out, "{line}").expect("strings take everything");
            if !line.is_empty() && !line.starts_with('#') {
                command(&mut ensemble, line);
            }
        }
    }
    if block_is_open {
        write_output(&mut out, &mut ensemble);
    }
    let mut out = out.trim_end().to_string();
    out.push('\n');
    out
}

fn write_output(out: &mut String, ensemble: &mut Option<Ensemble>) {
    let lines = ensemble.as_mut().map(Ensemble::take_trace).unwrap_or_default();
    writeln!(out, "----").expect("strings take everything");
    for line in if lines.is_empty() { vec!["nothing".to_string()] } else { lines } {
        writeln!(out, "{line}").expect("strings take everything");
    }
    writeln!(out).expect("strings take everything");
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn sids(words: &[&str]) -> Vec<ServerId> {
    words.iter().map(|word| ServerId(number(word))).collect()
}

fn duration(word: &str) -> Duration {
    if let Some(millis) = word.strip_suffix("ms") {
        return Duration::from_millis(number(millis));
    }
    Duration::from_secs(number(word.strip_suffix('s').expect("ms or s")))
}

fn command(slot: &mut Option<Ensemble>, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words[0] == "ensemble" {
        *slot = Some(build(&words[1..]));
        return;
    }
    let ensemble = slot.as_mut().expect("a script begins with its ensemble");
    match words[..] {
        ["start", ..] => sids(&words[1..]).into_iter().for_each(|sid| ensemble.start(sid)),
        ["settle"] => ensemble.settle(),
        ["run", time] => ensemble.run(duration(time)),
        ["pause", time] => ensemble.pause(duration(time)),
        ["propose", sid, ..] => {
            for txn in &words[2..] {
                if !ensemble.propose(ServerId(number(sid)), txn) {
                    ensemble.say(&format!("{sid} does not lead"));
                }
            }
        }
        ["sync", sid, token] => {
            if !ensemble.sync(ServerId(number(sid)), number(token)) {
                ensemble.say(&format!("{sid} does not lead"));
            }
        }
        ["crash", ..] => sids(&words[1..]).into_iter().for_each(|sid| ensemble.crash(sid, 0, 0)),
        ["cut", a, b] => ensemble.cut(ServerId(number(a)), ServerId(number(b))),
        ["heal", a, b] => ensemble.heal(ServerId(number(a)), ServerId(number(b))),
        ["disk", sid, "hold"] => ensemble.disk(ServerId(number(sid))).held = true,
        ["disk", sid, "free"] => ensemble.disk(ServerId(number(sid))).held = false,
        ["disk", sid, "has", accepted, current, floor, ..] => {
            let disk = ensemble.disk(ServerId(number(sid)));
            disk.accepted = Epoch::new(number(accepted) as u32);
            disk.current = Epoch::new(number(current) as u32);
            disk.floor = parse_zxid(floor);
            disk.history = parse_chunk(&words[6..].join(" "));
        }
        ["hide", ..] => {
            ensemble.hidden = words[1..].iter().map(ToString::to_string).collect();
        }
        ["state"] => ensemble.print_state(),
        _ => panic!("no such command: {line}"),
    }
}

/// `ensemble VOTERS [observers OBSERVERS] [window N]`; tickTime is 200 ms, initLimit 10, syncLimit 5.
fn build(words: &[&str]) -> Ensemble {
    let (mut voters, mut observers, mut window) = (Vec::new(), Vec::new(), 100);
    let mut words = words.iter().peekable();
    let mut observing = false;
    while let Some(word) = words.next() {
        match *word {
            "observers" => observing = true,
            "window" => window = number(words.next().expect("a number")) as usize,
            sid if observing => observers.push(ServerId(number(sid))),
            sid => voters.push(ServerId(number(sid))),
        }
    }
    let ticks = Ticks { tick: Duration::from_millis(200), init_limit: 10, sync_limit: 5 };
    Ensemble::new(Membership::majority(voters, observers), ticks, window)
}
