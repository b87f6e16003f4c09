//! Threads that turn: a shard's, inside a glommio executor, and plain ones.
//!
//! Both run the same [`Turn`] in the same way: turn while there is work, look for a while, then
//! sleep until the bell rings or a time comes. What a turn does is not their business. glommio is
//! used in this file and nowhere else, but for the file that `uring::sys` makes for it.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement as GlommioPlacement};
use quorate_proto::Instant;
use thiserror::Error;

use super::bell::Bell;
use super::clock::Clock;
use super::idle::Idle;
use super::uring::sys;

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There was work; there may be more.
    Busy,
    /// There was none, and there will be none before the bell rings or `until` comes.
    Idle {
        /// When to turn again without a bell.
        until: Option<Instant>,
    },
    /// The loop is to end, in order.
    Stopped,
}

/// Something that a thread turns: one core, or several with their rings and queues.
pub trait Turn {
    /// Takes what has arrived up to a limit, does it, hands on what follows. `now` never goes
    /// back.
    fn turn(&mut self, now: Instant) -> Progress;

    /// The last look before sleeping, after the bell was armed: whether every queue is empty and
    /// every ring agrees ([`NetRing::may_sleep`](super::uring::NetRing::may_sleep)).
    fn may_sleep(&self) -> bool;
}

/// Why a loop ended.
#[derive(Debug, Error)]
pub enum HostError {
    /// A turn panicked; whatever it held is lost.
    #[error("{thread} panicked: {message}")]
    Panicked {
        /// The thread's name.
        thread: String,
        /// What it said.
        message: String,
    },
    /// It could not be built, or the system refused something it needs.
    #[error("{thread} failed: {error}")]
    Failed {
        /// The thread's name.
        thread: String,
        /// The reason.
        #[source]
        error: io::Error,
    },
}

/// Ends loops at their next turn. Clones are the same flag.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it. Threads that sleep must be woken with their bells; [`ThreadHandle::stop`] does both.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Told how a loop ended, on its thread.
pub type OnExit = Box<dyn FnOnce(&Result<(), HostError>) + Send>;

/// A thread to be.
pub struct ThreadSpec {
    /// Its name; the kernel shows the first 15 bytes.
    pub name: String,
    /// The CPU to bind it to.
    pub cpu: Option<usize>,
    /// What it does without work.
    pub idle: Idle,
    /// Its bell.
    pub bell: Arc<Bell>,
    /// Called last; lets the owner notice an end without waiting for it.
    pub on_exit: Option<OnExit>,
}

impl ThreadSpec {
    /// An unbound, adaptively spinning thread.
    pub fn new(name: impl Into<String>, bell: Arc<Bell>) -> Self {
        Self { name: name.into(), cpu: None, idle: Idle::ADAPTIVE, bell, on_exit: None }
    }
}

impl fmt::Debug for ThreadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadSpec")
            .field("name", &self.name)
            .field("cpu", &self.cpu)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

/// What a turn is built with, on its thread: rings belong to the thread that makes them.
#[derive(Clone, Debug)]
pub struct TurnContext {
    /// The thread's bell; its rings signal their completions there.
    pub bell: Arc<Bell>,
    /// The clock that `now` comes from.
    pub clock: Clock,
    /// Set when the loop is to end.
    pub stop: Stop,
}

/// A running loop.
#[derive(Debug)]
pub struct ThreadHandle {
    name: String,
    bell: Arc<Bell>,
    stop: Stop,
    thread: JoinHandle<Result<(), HostError>>,
}

impl ThreadHandle {
    /// Asks the loop to end after its current turn. What it has not handed on by then is lost; a
    /// loop that has an orderly way out is told by its queue and ends with [`Progress::Stopped`].
    pub fn stop(&self) {
        self.stop.set();
        self.bell.ring_anyway();
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it panicked or failed.
    pub fn join(self) -> Result<(), HostError> {
        let panicked = |payload| HostError::Panicked { message: text(payload), thread: self.name };
        self.thread.join().map_err(panicked)?
    }
}

/// Runs a turn as a shard: inside a glommio executor of its own, so that its wake-ups and timers
/// are the executor's. `build` runs on the new thread.
///
/// # Errors
/// When the thread cannot be started; everything later is told by [`ThreadHandle::join`].
pub fn run_shard_thread<T: Turn>(
    spec: ThreadSpec,
    build: impl FnOnce(TurnContext) -> io::Result<T> + Send + 'static,
) -> io::Result<ThreadHandle> {
    start(spec, shard_main, build)
}

/// Runs a turn on a plain thread, which sleeps in poll(2). `build` runs on the new thread.
///
/// # Errors
/// As [`run_shard_thread`].
pub fn run_plain_thread<T: Turn>(
    spec: ThreadSpec,
    build: impl FnOnce(TurnContext) -> io::Result<T> + Send + 'static,
) -> io::Result<ThreadHandle> {
    start(spec, plain_main, build)
}

/// What a thread's main function needs of its specification.
struct Loop {
    name: String,
    cpu: Option<usize>,
    idle: Idle,
    context: TurnContext,
}

fn start<B: Send + 'static>(
    spec: ThreadSpec,
    main: fn(Loop, B) -> io::Result<()>,
    build: B,
) -> io::Result<ThreadHandle> {
    let ThreadSpec { name, cpu, idle, bell, on_exit } = spec;
    let stop = Stop::new();
    let context = TurnContext { bell: Arc::clone(&bell), clock: Clock::new(), stop: stop.clone() };
    let thread_name = name.clone();
    let body = move || {
        let name = thread_name.clone();
        let run = move || main(Loop { name, cpu, idle, context }, build);
        // The turn is not used after a panic, so nothing broken is seen.
        let result = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(HostError::Failed { thread: thread_name, error }),
            Err(payload) => {
                Err(HostError::Panicked { thread: thread_name, message: text(payload) })
            }
        };
        if let Err(error) = &result {
            tracing::error!(%error, "a thread ended");
        }
        if let Some(on_exit) = on_exit {
            on_exit(&result);
        }
        result
    };
    let thread = thread::Builder::new().name(name.clone()).spawn(body)?;
    Ok(ThreadHandle { name, bell, stop, thread })
}

fn text(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => match payload.downcast::<&str>() {
            Ok(message) => (*message).to_owned(),
            Err(_) => "without a message".to_owned(),
        },
    }
}

/// What a driver does next.
enum Next {
    Turn,
    Sleep { until: Option<Instant> },
    End,
}

/// The part of the loop that both hosts share.
struct Driver<T> {
    turn: T,
    idle: Idle,
    context: TurnContext,
    /// When there was work last.
    worked: Instant,
    now: Instant,
}

impl<T: Turn> Driver<T> {
    fn new(turn: T, idle: Idle, context: TurnContext) -> Self {
        let now = context.clock.now();
        Self { turn, idle, context, worked: now, now }
    }

    /// One turn. After `Sleep` the bell is armed and nothing waits.
    fn step(&mut self) -> Next {
        if self.context.stop.is_set() {
            return Next::End;
        }
        self.now = self.context.clock.now();
        match self.turn.turn(self.now) {
            Progress::Busy => {
                self.worked = self.now;
                Next::Turn
            }
            Progress::Stopped => Next::End,
            Progress::Idle { until } => self.rest(until),
        }
    }

    fn rest(&mut self, until: Option<Instant>) -> Next {
        let spent = self.now.since(self.worked);
        if self.idle.budget().is_none_or(|budget| spent < budget) {
            std::hint::spin_loop();
            return Next::Turn;
        }
        if until.is_some_and(|until| until <= self.now) {
            return Next::Turn;
        }
        self.context.bell.arm();
        if self.turn.may_sleep() && !self.context.stop.is_set() {
            return Next::Sleep { until };
        }
        self.context.bell.disarm();
        Next::Turn
    }

    /// How long to sleep at most.
    fn timeout(&self, until: Option<Instant>) -> Option<Duration> {
        until.map(|until| Clock::until(self.context.clock.now(), until))
    }

    fn wake(&mut self) {
        self.context.bell.disarm();
        // Whoever woke us has more to say, as a rule: look for the whole budget again.
        self.worked = self.context.clock.now();
    }
}

fn plain_main<T: Turn>(
    run: Loop,
    build: impl FnOnce(TurnContext) -> io::Result<T>,
) -> io::Result<()> {
    if let Some(cpu) = run.cpu {
        sys::pin(cpu)?;
    }
    let bell = Arc::clone(&run.context.bell);
    let turn = build(run.context.clone())?;
    let mut driver = Driver::new(turn, run.idle, run.context);
    loop {
        match driver.step() {
            Next::Turn => {}
            Next::Sleep { until } => {
                bell.wait(driver.timeout(until))?;
                driver.wake();
            }
            Next::End => return Ok(()),
        }
    }
}

/// Never, in effect. When its preemption timer fires after the executor has looked after its rings
/// and before it runs a task, glommio 0.9 takes that for "nothing to run" and parks with a runnable
/// task: on a busy machine one wake-up in some ten thousand was lost with a timer of 1 ms. The driver is
/// the executor's only task and needs its rings only when it sleeps, so nothing has to preempt it.
const PREEMPT_TIMER: Duration = Duration::from_secs(3600);

/// The longest sleep. Turns whatever else of that kind may be left from a hang into a pause.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The executor registers this much memory three times. We give it no disk to write to, and its
/// default of 10 MiB does not fit into the usual limit of locked memory.
const IO_MEMORY: usize = 1 << 20;

fn shard_main<T: Turn>(
    run: Loop,
    build: impl FnOnce(TurnContext) -> io::Result<T>,
) -> io::Result<()> {
    let placement = run.cpu.map_or(GlommioPlacement::Unbound, GlommioPlacement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .name(&run.name)
        .preempt_timer(PREEMPT_TIMER)
        .io_memory(IO_MEMORY)
        .make()
        .map_err(|error| io::Error::other(error.to_string()))?;
    executor.run(async move {
        // The first timer of an executor is late by up to 10 ms; let it be this one.
        Timer::new(Duration::from_micros(1)).await;
        let turn = build(run.context.clone())?;
        // Last, because from here on it must be finished.
        let bell = BellWait::new(&run.context.bell)?;
        drive(Driver::new(turn, run.idle, run.context), bell).await
    })
}

async fn drive<T: Turn>(mut driver: Driver<T>, mut bell: BellWait) -> io::Result<()> {
    let result = loop {
        match driver.step() {
            Next::Turn => {}
            Next::Sleep { until } => {
                let timeout = driver.timeout(until).map_or(SLEEP_MAX, |time| time.min(SLEEP_MAX));
                let woken = bell.wait(timeout).await;
                driver.wake();
                if let Err(error) = woken {
                    break Err(error);
                }
            }
            Next::End => break Ok(()),
        }
    };
    bell.finish(&driver.context.bell).await;
    result
}

type PendingRead = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// The executor's way to wait for an eventfd: a read through its ring.
struct BellWait {
    eventfd: Rc<BufferedFile>,
    /// Under way across sleeps that ended with their timer: dropped, it would eat a later ring.
    pending: Option<PendingRead>,
}

impl BellWait {
    fn new(bell: &Bell) -> io::Result<Self> {
        let fd = bell.as_fd().try_clone_to_owned()?;
        let eventfd = Rc::new(sys::buffered_file(fd));
        Ok(Self { eventfd, pending: None })
    }

    /// Until the bell rings, or `timeout` has passed.
    async fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let eventfd = &self.eventfd;
        let read = self.pending.get_or_insert_with(|| Box::pin(read(Rc::clone(eventfd))));
        let mut timer = Timer::new(timeout);
        let rang = std::future::poll_fn(|context| {
            if let Poll::Ready(result) = read.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            Pin::new(&mut timer).poll(context).map(|_| None)
        })
        .await;
        match rang {
            None => Ok(()),
            Some(result) => {
                self.pending = None;
                result
            }
        }
    }

    /// Ends a read that is under way and closes the descriptor, so that nothing outlives the executor:
    /// glommio closes a file that is dropped later, and there is no later here.
    async fn finish(mut self, bell: &Bell) {
        if let Some(read) = self.pending.take() {
            bell.ring_anyway();
            if let Err(error) = read.await {
                tracing::warn!(%error, "the last wait for a bell failed");
            }
        }
        if let Some(eventfd) = Rc::into_inner(self.eventfd)
            && let Err(error) = eventfd.close().await
        {
            tracing::warn!(%error, "a bell's descriptor could not be closed");
        }
    }
}

async fn read(eventfd: Rc<BufferedFile>) -> io::Result<()> {
    match eventfd.read_at(0, 8).await {
        Ok(_) => Ok(()),
        Err(error) => Err(io::Error::other(error.to_string())),
    }
}
