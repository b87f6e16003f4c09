//! The course of a run, the same for all threads: sessions open, load runs, what is under way comes
//! home, sessions end.
//!
//! Moves no bytes. Each thread walks it by its own clock readings; the main thread sets the times.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::load::{Load, Measured};
use crate::target::jute::Nanos;

/// What was under way at the end may take this long to come home.
const DRAIN_TIME: Nanos = 5_000_000_000;
/// Sessions may take this long to be closed.
const CLOSE_TIME: Nanos = 2_000_000_000;
/// How often measurements are handed over.
pub(crate) const SAMPLE_EVERY: Nanos = 1_000_000_000;
/// Not yet known.
const NEVER: Nanos = Nanos::MAX;

/// When what begins, in nanoseconds since the run's clock began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) warmup: Nanos,
    pub(crate) measured: Nanos,
}

/// What the threads and the main thread tell each other.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Instant,
    pub(crate) plan: Plan,
    /// When the load begins.
    start: AtomicU64,
    /// Somebody wants the run to end early.
    stop: AtomicBool,
    /// Open sessions of all threads.
    pub(crate) ready: AtomicUsize,
    trouble: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn new(plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            clock: Instant::now(),
            plan,
            start: AtomicU64::new(NEVER),
            stop: AtomicBool::new(false),
            ready: AtomicUsize::new(0),
            trouble: Mutex::new(None),
        })
    }

    pub(crate) fn now(&self) -> Nanos {
        self.clock.elapsed().as_nanos() as Nanos
    }

    /// Lets the load begin; when it does.
    pub(crate) fn start(&self) -> Nanos {
        // A little later, so that all threads have seen it by then.
        let start = self.now() + 20_000_000;
        self.start.store(start, Ordering::Release);
        start
    }

    /// Ends the run at once.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Why a connection was lost most recently, over all threads.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a thread hands to the main thread.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Which second of the whole load, warm-up included, from 0.
    pub(crate) second: u64,
    /// Whether it belongs to the measured time.
    pub(crate) is_measured: bool,
    pub(crate) measured: Measured,
}

/// What a thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It moves bytes.
    Go,
    /// The run is over.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Running { second: u64 },
    Draining { until: Nanos },
    Closing { until: Nanos },
}

/// One thread's walk through the run.
#[derive(Debug)]
pub(crate) struct Course {
    shared: Arc<Shared>,
    samples: Sender<Sample>,
    stage: Stage,
    reported_ready: usize,
    reported_trouble: bool,
}

impl Course {
    pub(crate) const fn new(shared: Arc<Shared>, samples: Sender<Sample>) -> Self {
        Self { shared, samples, stage: Stage::Opening, reported_ready: 0, reported_trouble: false }
    }

    pub(crate) fn now(&self) -> Nanos {
        self.shared.now()
    }

    /// Does what the time asks for.
    pub(crate) fn step(&mut self, load: &mut Load, now: Nanos, trouble: Option<&str>) -> Step {
        self.report(load, trouble);
        let stopped = self.shared.stop.load(Ordering::Relaxed);
        match self.stage {
            Stage::Opening => {
                let start = self.shared.start.load(Ordering::Acquire);
                if stopped {
                    self.close(load, now);
                } else if start <= now {
                    load.start(now, start + self.shared.plan.warmup);
                    self.stage = Stage::Running { second: 0 };
                }
            }
            Stage::Running { second } => {
                let start = self.shared.start.load(Ordering::Relaxed);
                self.sample_if_due(load, now, start, second);
                let end = start + self.shared.plan.warmup + self.shared.plan.measured;
                if now >= end || stopped {
                    load.stop(now);
                    self.stage = Stage::Draining { until: now + DRAIN_TIME };
                }
            }
            Stage::Draining { until } => {
                if load.is_drained() || now >= until {
                    load.give_up(now);
                    let start = self.shared.start.load(Ordering::Relaxed);
                    self.hand_over(load, now.saturating_sub(start) / SAMPLE_EVERY, true);
                    self.close(load, now);
                }
            }
            Stage::Closing { until } => {
                if load.is_closed() || now >= until {
                    return Step::Over;
                }
            }
        }
        Step::Go
    }

    fn close(&mut self, load: &mut Load, now: Nanos) {
        load.close(now);
        self.stage = Stage::Closing { until: now + CLOSE_TIME };
    }

    fn sample_if_due(&mut self, load: &mut Load, now: Nanos, start: Nanos, second: u64) {
        // A thread that did not run for seconds does not hand over empty ones.
        let passed = (now - start) / SAMPLE_EVERY;
        if passed > second {
            let is_measured = (second + 1) * SAMPLE_EVERY > self.shared.plan.warmup;
            self.hand_over(load, second, is_measured);
            self.stage = Stage::Running { second: passed };
        }
    }

    fn hand_over(&self, load: &mut Load, second: u64, is_measured: bool) {
        let measured = load.swap(Measured::new());
        // Nobody listens any more only if the main thread has failed, which then ends the run.
        let _ = self.samples.send(Sample { second, is_measured, measured });
    }

    fn report(&mut self, load: &Load, trouble: Option<&str>) {
        let ready = load.ready();
        if ready != self.reported_ready {
            self.shared.ready.fetch_add(ready, Ordering::Relaxed);
            self.shared.ready.fetch_sub(self.reported_ready, Ordering::Relaxed);
            self.reported_ready = ready;
        }
        if let (Some(trouble), false) = (trouble, self.reported_trouble) {
            let mut told = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            *told = Some(trouble.to_owned());
            self.reported_trouble = true;
        }
    }
}
