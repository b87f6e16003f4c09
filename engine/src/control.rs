//! What a server's threads and its owner share: failure, role, stopping, histogram dumps.
//!
//! No core sees it; threads publish into it between turns.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_peer::notice::{Level, Notice};
use quorate_proto::ServerId;

use crate::error::Error;
use crate::metrics::Histograms;
use crate::runtime::bell::Bell;
use crate::server::Role;

#[derive(Debug)]
pub(crate) struct Control {
    sid: ServerId,
    /// ZooKeeper's `initialize` file, which has done its work once this server serves: left there,
    /// it would let the server vote after its directory was wiped.
    mark: PathBuf,
    threads: usize,
    bells: Vec<Arc<Bell>>,
    stop: AtomicBool,
    failed: AtomicBool,
    draining: AtomicBool,
    quiet: AtomicBool,
    dumps: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    role: Role,
    serving: bool,
    failure: Option<String>,
    end_requested: bool,
    collected: Vec<Histograms>,
    total: Histograms,
}

impl Control {
    pub(crate) fn new(sid: ServerId, bells: Vec<Arc<Bell>>, mark: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            sid,
            mark,
            threads: bells.len(),
            bells,
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            quiet: AtomicBool::new(true),
            dumps: AtomicU64::new(0),
            state: Mutex::new(State {
                role: Role::Looking,
                serving: false,
                failure: None,
                end_requested: false,
                collected: Vec::new(),
                total: Histograms::new(),
            }),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_all(&self) {
        self.bells.iter().for_each(|bell| bell.ring_anyway());
    }

    pub(crate) fn notice(&self, notice: &Notice) {
        crate::node::log(notice.level, self.sid, &notice.text);
    }

    // --- failure and stopping ------------------------------------------------------------------

    /// The server cannot go on: nothing leaves it any more, and its owner learns why.
    pub(crate) fn fail(&self, why: String) {
        crate::node::log(Level::Error, self.sid, &why);
        self.failed.store(true, Ordering::SeqCst);
        self.state().failure.get_or_insert(why);
        self.stop();
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        // Under the lock, or a waiter between its look and its sleep would miss it.
        drop(self.state());
        self.changed.notify_all();
        self.ring_all();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// No new request is to be taken.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.ring_all();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Somebody wants the owner to stop the server.
    pub(crate) fn request_end(&self) {
        self.state().end_requested = true;
        self.changed.notify_all();
    }

    /// Waits until the server has stopped by itself or its end was asked for.
    pub(crate) fn wait_end(&self) {
        let mut state = self.state();
        while !self.is_stopping() && !state.end_requested {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    // --- role ----------------------------------------------------------------------------------

    pub(crate) fn publish_role(&self, name: &'static str) {
        let role = Role::from_name(name);
        let mut state = self.state();
        if state.role != role {
            state.role = role;
            self.changed.notify_all();
        }
    }

    pub(crate) fn publish_serving(&self, serving: bool, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
        let mut state = self.state();
        if state.serving != serving {
            state.serving = serving;
            self.changed.notify_all();
            drop(state);
            if serving {
                self.consume_mark();
            }
        }
    }

    fn consume_mark(&self) {
        match std::fs::remove_file(&self.mark) {
            Ok(()) => self.say(Level::Info, &format!("{} was consumed", self.mark.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                self.say(Level::Warn, &format!("{} stays: {error}", self.mark.display()));
            }
        }
    }

    fn say(&self, level: Level, text: &str) {
        crate::node::log(level, self.sid, text);
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    pub(crate) fn role(&self) -> Role {
        self.state().role
    }

    pub(crate) fn wait_serving(&self, limit: Duration) -> Result<Role, Error> {
        let until = Instant::now() + limit;
        let mut state = self.state();
        loop {
            if let Some(why) = &state.failure {
                return Err(Error::Failed(why.clone()));
            }
            if state.serving && state.role != Role::Looking {
                return Ok(state.role);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NotServing { waited: limit });
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    // --- histograms ----------------------------------------------------------------------------

    pub(crate) fn dumps_wanted(&self) -> u64 {
        self.dumps.load(Ordering::Relaxed)
    }

    pub(crate) fn collect(&self, histograms: Histograms) {
        self.state().collected.push(histograms);
        self.changed.notify_all();
    }

    /// What all threads recorded since the last call. Threads that have stopped add nothing.
    pub(crate) fn dump(&self) -> Histograms {
        self.state().collected.clear();
        self.dumps.fetch_add(1, Ordering::SeqCst);
        self.ring_all();
        let until = Instant::now() + Duration::from_secs(2);
        let mut state = self.state();
        while state.collected.len() < self.threads && !self.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut merged = Histograms::new();
        for part in std::mem::take(&mut state.collected) {
            merged.merge(&part);
        }
        state.total.merge(&merged);
        merged
    }

    /// Everything that was ever dumped, with what was recorded since.
    pub(crate) fn total(&self) -> Histograms {
        self.dump();
        self.state().total.clone()
    }
}
