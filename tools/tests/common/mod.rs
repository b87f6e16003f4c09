//! Real `quorated` processes for the tests: configured, started, signalled, asked, ended.
//!
//! Uses loopback, free ports and temporary folders only, and ends only what it started.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this module")]

pub mod client;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One member of an ensemble, running or not.
pub struct Member {
    pub sid: u64,
    pub dir: PathBuf,
    pub config: PathBuf,
    pub client: SocketAddr,
    pub quorum: SocketAddr,
    pub election: SocketAddr,
    child: Option<Child>,
}

/// Some members that know each other.
pub struct Ensemble {
    pub members: Vec<Member>,
    _folder: tempfile::TempDir,
}

/// Distinct ports that were free a moment ago, below those that the system gives to outgoing
/// connections: such a connection could take a server's port while it is down.
pub fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let mut listeners = Vec::new();
    while listeners.len() < count {
        let at = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 10_000 + (at % 20_000) as u16;
        listeners.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    listeners.iter().map(|l| l.local_addr().expect("a bound address").port()).collect()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Ensemble {
    /// `count` voters with tickTime 200 ms, initLimit 25, syncLimit 5, and `extra` lines of
    /// configuration; none is started.
    pub fn new(count: usize, extra: &str) -> Self {
        Self::with_observers(count, 0, extra)
    }

    /// As [`Ensemble::new`], with the last `observers` of `count` members observing.
    pub fn with_observers(count: usize, observers: usize, extra: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = free_ports(count * 3);
        let mut servers = String::new();
        for n in 0..count {
            let (quorum, election) = (ports[n * 3 + 1], ports[n * 3 + 2]);
            let role = if n + observers >= count { ":observer" } else { "" };
            servers += &format!("server.{}=127.0.0.1:{quorum}:{election}{role}\n", n + 1);
        }
        let mut members = Vec::new();
        for n in 0..count {
            let sid = n as u64 + 1;
            let dir = folder.path().join(format!("server{sid}"));
            fs::create_dir_all(&dir).expect("a data folder");
            fs::write(dir.join("myid"), format!("{sid}\n")).expect("a myid file");
            let config = folder.path().join(format!("zoo{sid}.cfg"));
            let text = format!(
                "tickTime=200\ninitLimit=25\nsyncLimit=5\ndataDir={}\nclientPort={}\n\
                 clientPortAddress=127.0.0.1\nmaxClientCnxns=0\nquorate.clusterId={}\n\
                 {extra}\n{servers}",
                dir.display(),
                ports[n * 3],
                // Another test's servers may come to use a port that ours had.
                u64::from(std::process::id()) << 16 | u64::from(ports[0])
            );
            fs::write(&config, text).expect("a configuration file");
            members.push(Member {
                sid,
                dir,
                config,
                client: loopback(ports[n * 3]),
                quorum: loopback(ports[n * 3 + 1]),
                election: loopback(ports[n * 3 + 2]),
                child: None,
            });
        }
        Self { members, _folder: folder }
    }

    /// All of them started, and one of them leading with all others following.
    pub fn started(count: usize, extra: &str) -> Self {
        let mut ensemble = Self::new(count, extra);
        for member in &mut ensemble.members {
            member.start();
        }
        ensemble.wait_level();
        ensemble
    }

    /// The index of the member that leads, if one of the running ones does.
    pub fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| {
            member.is_running() && member.status().is_some_and(|s| s["role"] == "leader")
        })
    }

    pub fn followers(&self) -> Vec<usize> {
        let leader = self.leader();
        (0..self.members.len()).filter(|n| Some(*n) != leader).collect()
    }

    /// Waits until a member leads; its index.
    pub fn wait_leader(&self) -> usize {
        wait_for("a leader", Duration::from_secs(30), || self.leader())
    }

    /// Waits until every running member serves, with equal zxids and digests.
    pub fn wait_level(&self) {
        wait_for("all members to be level", Duration::from_secs(60), || {
            let mut seen = Vec::new();
            for member in self.members.iter().filter(|member| member.is_running()) {
                let status = member.status()?;
                if status["role"] == "looking" {
                    return None;
                }
                seen.push((status["zxid"].clone(), status["digest"].clone()));
            }
            seen.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        });
    }

    /// The logs of all members, for a failed test's output.
    pub fn logs(&self) -> String {
        self.members.iter().map(Member::log).collect()
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

impl Member {
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "server {} runs already", self.sid);
        let log =
            File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_quorated"))
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("quorated starts");
        self.child = Some(child);
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        format!("--- server {} ---\n{text}", self.sid)
    }

    pub const fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a killed child ends");
        }
    }

    /// SIGTERM; the exit code, within ten seconds.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        wait_end(&mut self.child.take().expect("the server runs"))
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Answer to a four-letter word, empty if there is none.
    pub fn word(&self, word: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&self.client, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(word.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        ask().unwrap_or_default()
    }

    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.word("qsta")).ok()
    }

    pub fn role(&self) -> String {
        self.status()
            .and_then(|status| status["role"].as_str().map(str::to_owned))
            .unwrap_or_else(|| "down".to_owned())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal to a process that the test has started.
pub fn signal(pid: u32, name: &str) {
    let kill = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(kill.expect("kill runs").success(), "kill -{name} failed");
}

/// The exit code of a process that ends within ten seconds.
pub fn wait_end(child: &mut Child) -> Option<i32> {
    let status = wait_for("the server to end", Duration::from_secs(10), || {
        child.try_wait().expect("a child can be asked")
    });
    status.code()
}

/// Asks every 10 ms until there is an answer.
///
/// # Panics
/// If there is none within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// The Python that has kazoo, or `None` with one clear line.
pub fn python_with_kazoo() -> Option<&'static str> {
    for python in ["/usr/bin/python3", "python3"] {
        let found = Command::new(python)
            .args(["-c", "import kazoo"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if found {
            return Some(python);
        }
    }
    eprintln!("skipped: no Python with kazoo (Debian: python3-kazoo)");
    None
}

/// Runs one of the scripts in `tests/kazoo` to its end.
pub fn run_kazoo(python: &str, script: &str, args: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kazoo").join(script);
    let output = Command::new(python).arg(path).args(args).output().expect("Python runs");
    assert!(
        output.status.success(),
        "{script} failed\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
