//! What a server's threads and its owner share: failure, role, stopping, histogram dumps.
//!
//! No core sees it; threads publish into it between turns.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_peer::notice::Level;
use quorate_proto::ServerId;

use crate::error::Error;
use crate::metrics::Histograms;
use crate::runtime::bell::Bell;
use crate::server::Role;

/// How long a dump waits for threads that stand still.
const DUMP_TIME: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Control {
    sid: ServerId,
    /// ZooKeeper's `initialize` file, which has done its work once this server serves: left there,
    /// it would let the server vote after its directory was wiped.
    mark: PathBuf,
    /// Shards that may still take requests while the server drains.
    undrained: AtomicUsize,
    bells: Vec<Arc<Bell>>,
    stop: AtomicBool,
    failed: AtomicBool,
    draining: AtomicBool,
    dumps: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
    /// One dump at a time: what the threads hand in belongs to one caller.
    dumping: Mutex<()>,
}

#[derive(Debug)]
struct State {
    role: Role,
    serving: bool,
    quiet: bool,
    failure: Option<String>,
    end_requested: bool,
    /// Handed in and not given to anybody yet.
    collected: Option<Histograms>,
    /// Threads that have answered the last call for histograms.
    answers: usize,
    total: Histograms,
}

impl Control {
    /// Shared by as many threads as there are bells, `shards` of which take requests.
    pub(crate) fn new(
        sid: ServerId,
        bells: Vec<Arc<Bell>>,
        shards: usize,
        mark: PathBuf,
    ) -> Arc<Self> {
        Arc::new(Self {
            sid,
            mark,
            undrained: AtomicUsize::new(shards),
            bells,
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            dumps: AtomicU64::new(0),
            state: Mutex::new(State {
                role: Role::Looking,
                serving: false,
                quiet: false,
                failure: None,
                end_requested: false,
                collected: None,
                answers: 0,
                total: Histograms::new(),
            }),
            changed: Condvar::new(),
            dumping: Mutex::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_all(&self) {
        self.bells.iter().for_each(|bell| bell.ring_anyway());
    }

    /// Waits as long as `goes_on`, at most `limit`; whether it still does then.
    fn wait_while(
        &self,
        limit: Duration,
        goes_on: impl FnMut(&mut State) -> bool,
    ) -> (MutexGuard<'_, State>, bool) {
        let waited = self.changed.wait_timeout_while(self.state(), limit, goes_on);
        let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        (state, result.timed_out())
    }

    /// Tells the operator.
    pub(crate) fn say(&self, level: Level, text: &str) {
        crate::node::log(level, self.sid, text);
    }

    // --- failure and stopping ------------------------------------------------------------------

    /// The server cannot go on: nothing leaves it any more, and its owner learns why.
    pub(crate) fn fail(&self, why: String) {
        // Before anything that takes time, as telling the operator may.
        self.failed.store(true, Ordering::SeqCst);
        self.say(Level::Error, &why);
        self.state().failure.get_or_insert(why);
        self.stop();
    }

    /// The same while the reason is not known yet; [`Control::fail`] follows with it.
    pub(crate) fn halt(&self) {
        self.failed.store(true, Ordering::SeqCst);
        self.stop();
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
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

    /// A shard takes no request any more, and has handed on those that it took.
    pub(crate) fn note_drained(&self) {
        if self.undrained.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.ring_all();
        }
    }

    /// Whether no shard takes a request any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.undrained.load(Ordering::SeqCst) == 0
    }

    /// Nobody waits for an answer any more, and all answers are on their way.
    pub(crate) fn publish_quiet(&self, quiet: bool) {
        let mut state = self.state();
        if state.quiet != quiet {
            state.quiet = quiet;
            self.changed.notify_all();
        }
    }

    /// Waits until that is so or the server has stopped by itself, at most `limit`.
    pub(crate) fn wait_quiet(&self, limit: Duration) {
        drop(self.wait_while(limit, |state| !state.quiet && !self.is_stopping()));
    }

    /// Somebody wants the owner to stop the server.
    pub(crate) fn request_end(&self) {
        self.state().end_requested = true;
        self.changed.notify_all();
    }

    /// Waits until the server has stopped by itself or its end was asked for.
    pub(crate) fn wait_end(&self) {
        let goes_on = |state: &mut State| {
            !state.end_requested
                && (!self.is_stopping() || (self.has_failed() && state.failure.is_none()))
        };
        let ended = self.changed.wait_while(self.state(), goes_on);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
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

    pub(crate) fn publish_serving(&self, serving: bool) {
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

    pub(crate) fn role(&self) -> Role {
        self.state().role
    }

    pub(crate) fn wait_serving(&self, limit: Duration) -> Result<Role, Error> {
        let (state, too_late) = self.wait_while(limit, |state| {
            state.failure.is_none() && (!state.serving || state.role == Role::Looking)
        });
        match &state.failure {
            Some(why) => Err(Error::Failed(why.clone())),
            None if too_late => Err(Error::NotServing { waited: limit }),
            None => Ok(state.role),
        }
    }

    // --- histograms ----------------------------------------------------------------------------

    pub(crate) fn dumps_wanted(&self) -> u64 {
        self.dumps.load(Ordering::Relaxed)
    }

    /// A thread's answer to the last call for histograms.
    pub(crate) fn collect(&self, histograms: &Histograms) {
        let mut state = self.state();
        state.keep(histograms);
        state.answers += 1;
        self.changed.notify_all();
    }

    /// What a thread that ends recorded last.
    pub(crate) fn keep(&self, histograms: &Histograms) {
        self.state().keep(histograms);
    }

    /// What all threads recorded since the last call. One that stands still adds its part to the next.
    pub(crate) fn dump(&self) -> Histograms {
        let _one = self.dumping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        state.answers = 0;
        self.dumps.fetch_add(1, Ordering::SeqCst);
        drop(state);
        self.ring_all();
        let goes_on = |state: &mut State| state.answers < self.bells.len() && !self.is_stopping();
        (state, _) = self.wait_while(DUMP_TIME, goes_on);
        let dumped = state.collected.take().unwrap_or_default();
        state.total.merge(&dumped);
        dumped
    }

    /// Everything that was ever dumped, with what was recorded since.
    pub(crate) fn total(&self) -> Histograms {
        self.dump();
        self.state().total.clone()
    }
}

impl State {
    fn keep(&mut self, histograms: &Histograms) {
        self.collected.get_or_insert_default().merge(histograms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Recorder, Stage};

    fn control(threads: usize) -> Arc<Control> {
        let bells = (0..threads).map(|_| Arc::new(Bell::new().expect("a bell"))).collect();
        Control::new(ServerId(1), bells, 1, PathBuf::from("no such file"))
    }

    fn one_value() -> Histograms {
        let mut recorder = Recorder::new();
        recorder.record(Stage::Quorum, 1000);
        recorder.take()
    }

    fn answer_dumps(control: &Control, stop: &AtomicBool) {
        let mut seen = 0;
        while !stop.load(Ordering::Relaxed) {
            let wanted = control.dumps_wanted();
            if wanted != seen {
                seen = wanted;
                control.collect(&one_value());
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn dumps_of_two_callers_lose_and_double_nothing() {
        const DUMPS: u64 = 50;
        let control = control(1);
        let stop = AtomicBool::new(false);
        let count = |dumped: Histograms| dumped.stage(Stage::Quorum).len();
        std::thread::scope(|scope| {
            scope.spawn(|| answer_dumps(&control, &stop));
            let callers: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| (0..DUMPS).map(|_| count(control.dump())).sum::<u64>()))
                .collect();
            let dumped: u64 = callers.into_iter().map(|c| c.join().expect("no panic")).sum();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(dumped, 2 * DUMPS);
        });
        control.stop();
        assert_eq!(count(control.total()), 2 * DUMPS);
    }

    #[test]
    fn what_a_thread_recorded_before_it_ended_is_in_the_total() {
        let control = control(1);
        control.keep(&one_value());
        control.stop();
        assert_eq!(control.total().stage(Stage::Quorum).len(), 1);
    }

    #[test]
    fn whoever_waits_for_the_end_learns_the_reason_that_comes_late() {
        let control = control(1);
        control.halt();
        assert!(control.has_failed() && control.is_stopping());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                control.wait_end();
                control.failure()
            });
            control.fail("broken".to_owned());
            assert_eq!(waiter.join().expect("no panic").as_deref(), Some("broken"));
        });
    }

    #[test]
    fn whoever_waits_without_a_limit_learns_that_the_server_serves() {
        let control = control(1);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| control.wait_serving(Duration::MAX).ok());
            control.publish_role("leader");
            control.publish_serving(true);
            assert_eq!(waiter.join().expect("no panic"), Some(Role::Leader));
        });
    }

    #[test]
    fn a_server_is_drained_once_its_last_shard_is() {
        let bells = vec![Arc::new(Bell::new().expect("a bell"))];
        let control = Control::new(ServerId(1), bells, 2, PathBuf::from("no such file"));
        assert!(!control.state().quiet, "nobody has looked yet");
        control.note_drained();
        assert!(!control.is_drained());
        control.note_drained();
        assert!(control.is_drained());
    }
}
