//! Threads that turn: shards inside glommio and plain ones, end to end.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant as StdInstant};

use quorate::runtime::bell::Bell;
use quorate::runtime::host::{
    HostError, Progress, ThreadHandle, ThreadSpec, Turn, TurnContext, run_plain_thread,
    run_shard_thread,
};
use quorate::runtime::idle::Idle;
use quorate::runtime::net::bind;
use quorate::runtime::queue::{Receiver, Sender, channel};
use quorate::runtime::uring::{NetConfig, NetEvent, NetRing};
use quorate_proto::Instant;
use quorate_wire::Frame;

const PATIENCE: Duration = Duration::from_secs(60);

/// Sends back what it receives.
struct Echo {
    net: NetRing,
    events: Vec<NetEvent>,
    turns: Arc<AtomicU64>,
}

impl Echo {
    fn new(
        context: &TurnContext,
        listener: TcpListener,
        turns: Arc<AtomicU64>,
    ) -> std::io::Result<Self> {
        let mut net = NetRing::new(NetConfig::default(), context.bell.as_fd())?;
        net.listen(0, listener);
        net.flush();
        Ok(Self { net, events: Vec::new(), turns })
    }
}

impl Turn for Echo {
    fn turn(&mut self, _now: Instant) -> Progress {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.net.poll(&mut self.events);
        let busy = !self.events.is_empty();
        for event in self.events.drain(..) {
            if let NetEvent::Received { conn, bytes } = event {
                self.net.send(conn, Frame::from(bytes));
            }
        }
        self.net.flush();
        if busy { Progress::Busy } else { Progress::Idle { until: None } }
    }

    fn may_sleep(&self) -> bool {
        self.net.may_sleep()
    }
}

/// Hands every item on to the other side, with one added, up to a limit.
struct Hopper {
    inbox: Receiver<u64>,
    outbox: Sender<u64>,
    limit: u64,
    seen: u64,
    last: Option<Instant>,
    /// The longest time between two items, in nanoseconds.
    longest: Arc<AtomicU64>,
}

impl Turn for Hopper {
    fn turn(&mut self, now: Instant) -> Progress {
        let mut busy = false;
        while let Some(item) = self.inbox.pop() {
            busy = true;
            let gap = self.last.replace(now).map_or(Duration::ZERO, |last| now.since(last));
            self.longest.fetch_max(gap.as_nanos() as u64, Ordering::Relaxed);
            assert!(item > self.seen || item == 0);
            self.seen = item;
            if item < self.limit {
                self.outbox.push(item + 1);
            }
        }
        self.outbox.flush();
        match busy {
            _ if self.seen + 1 >= self.limit => Progress::Stopped,
            true => Progress::Busy,
            false => Progress::Idle { until: None },
        }
    }

    fn may_sleep(&self) -> bool {
        self.inbox.is_empty()
    }
}

fn bell() -> Arc<Bell> {
    Arc::new(Bell::new().unwrap())
}

fn spec(name: &str, bell: &Arc<Bell>, idle: Idle) -> ThreadSpec {
    ThreadSpec { idle, ..ThreadSpec::new(name, Arc::clone(bell)) }
}

type Runner<T> = fn(
    ThreadSpec,
    Box<dyn FnOnce(TurnContext) -> std::io::Result<T> + Send>,
) -> std::io::Result<ThreadHandle>;

/// Both hosts.
fn runners<T: Turn + 'static>() -> [Runner<T>; 2] {
    [run_shard_thread, run_plain_thread]
}

/// Fails the test instead of hanging it.
fn join_within(handle: ThreadHandle, time: Duration) -> Result<(), HostError> {
    let deadline = StdInstant::now() + time;
    while !handle.is_finished() {
        assert!(StdInstant::now() < deadline, "the thread does not end");
        thread::yield_now();
    }
    handle.join()
}

fn echo_thread(
    run: Runner<Echo>,
    name: &str,
    idle: Idle,
) -> (ThreadHandle, SocketAddr, Arc<AtomicU64>) {
    let listener = bind("127.0.0.1:0".parse().unwrap(), 128).unwrap();
    let address = listener.local_addr().unwrap();
    let turns = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&turns);
    let build = move |context: TurnContext| Echo::new(&context, listener, counter);
    let handle = run(spec(name, &bell(), idle), Box::new(build)).unwrap();
    (handle, address, turns)
}

fn ping_pong(address: SocketAddr, rounds: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for round in 0..rounds {
        let sent = (round as u64).to_be_bytes();
        stream.write_all(&sent).unwrap();
        let mut received = [0; 8];
        stream.read_exact(&mut received).unwrap();
        assert_eq!(received, sent);
    }
}

#[test]
fn an_echo_is_served_by_either_host_however_it_idles() {
    for run in runners() {
        for idle in [Idle::Park, Idle::ADAPTIVE, Idle::SpinThenPark(Duration::from_millis(2))] {
            let (handle, address, _) = echo_thread(run, "echo", idle);
            let clients: Vec<_> =
                (0..3).map(|_| thread::spawn(move || ping_pong(address, 500))).collect();
            clients.into_iter().for_each(|client| client.join().unwrap());
            handle.stop();
            join_within(handle, PATIENCE).unwrap();
        }
    }
}

/// Sends an item to and fro; tells the longest time that one hop there and back took.
fn hop(hops: u64, idle: Idle) -> Duration {
    let (left, right) = (bell(), bell());
    let (mut to_left, at_left) = channel(16, Arc::clone(&left), Arc::clone(&right));
    let (to_right, at_right) = channel(16, Arc::clone(&right), Arc::clone(&left));
    let longest = Arc::new(AtomicU64::new(0));
    to_left.push(1);
    let hopper = |inbox, outbox| Hopper {
        inbox,
        outbox,
        limit: hops,
        seen: 0,
        last: None,
        longest: Arc::clone(&longest),
    };
    let (on_left, on_right) = (hopper(at_left, to_right), hopper(at_right, to_left));
    let shard = run_shard_thread(spec("shard", &left, idle), move |_| Ok(on_left)).unwrap();
    let plain = run_plain_thread(spec("plain", &right, idle), move |_| Ok(on_right)).unwrap();
    let deadline = Duration::from_secs(120);
    join_within(shard, deadline).unwrap();
    join_within(plain, deadline).unwrap();
    Duration::from_nanos(longest.load(Ordering::Relaxed))
}

/// Shorter than the pause to which a shard limits a lost wake-up.
const HOP_MAX: Duration = Duration::from_millis(900);

/// The wake-up test: every hop finds the other side asleep, or about to sleep.
#[test]
fn a_hundred_thousand_hops_between_a_shard_and_a_plain_thread_lose_no_wakeup() {
    for idle in [Idle::Park, Idle::SpinThenPark(Duration::from_micros(5))] {
        let longest = hop(100_000, idle);
        assert!(longest < HOP_MAX, "{idle:?}: a wake-up was lost for {longest:?}");
    }
}

/// Threads that are taken off their CPU at any point, also between two steps of going to sleep.
#[test]
fn hops_on_a_busy_machine_lose_no_wakeup() {
    let stop = Arc::new(AtomicBool::new(false));
    let burn = || {
        let stop = Arc::clone(&stop);
        thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
    };
    let burners: Vec<_> = (0..4).map(|_| burn()).collect();
    let longest = hop(200_000, Idle::Park);
    stop.store(true, Ordering::Relaxed);
    burners.into_iter().for_each(|burner| burner.join().unwrap());
    assert!(longest < HOP_MAX, "a wake-up was lost for {longest:?}");
}

/// The CPU time of a thread in ticks of 10 ms.
fn cpu_ticks(thread_name: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let stats = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
    let stat = stats.into_iter().find(|stat| stat.contains(&format!("({thread_name})"))).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_idle_thread_takes_no_turns_and_no_cpu() {
    for (run, name) in runners().into_iter().zip(["idle-shard", "idle-plain"]) {
        let (handle, address, turns) = echo_thread(run, name, Idle::ADAPTIVE);
        ping_pong(address, 10);
        // Long enough to see a thread that turns; how long exactly does not matter.
        let quiet = StdInstant::now() + Duration::from_millis(50);
        while StdInstant::now() < quiet {
            thread::park_timeout(Duration::from_millis(10));
        }
        let (ticks, taken) = (cpu_ticks(name), turns.load(Ordering::Relaxed));
        let end = StdInstant::now() + Duration::from_millis(1000);
        while StdInstant::now() < end {
            thread::park_timeout(Duration::from_millis(100));
        }
        assert!(cpu_ticks(name) - ticks <= 1, "{name} used the CPU");
        let turned = turns.load(Ordering::Relaxed) - taken;
        // A shard looks up once a second, and then spins for its budget.
        assert!(turned <= 2 || name == "idle-shard", "{name} turned {turned} times");
        ping_pong(address, 10);
        handle.stop();
        join_within(handle, PATIENCE).unwrap();
    }
}

/// Wants to be turned at times, and tells how late it was.
struct Ticker {
    next: Instant,
    left: u32,
    late: mpsc::Sender<Duration>,
}

impl Turn for Ticker {
    fn turn(&mut self, now: Instant) -> Progress {
        if now >= self.next {
            self.late.send(now.since(self.next)).unwrap();
            self.next = now + Duration::from_millis(5);
            self.left -= 1;
        }
        if self.left == 0 { Progress::Stopped } else { Progress::Idle { until: Some(self.next) } }
    }

    fn may_sleep(&self) -> bool {
        true
    }
}

#[test]
fn a_sleeping_thread_turns_when_its_time_comes_and_not_before() {
    for run in runners() {
        for idle in [Idle::Park, Idle::ADAPTIVE] {
            let (late, times) = mpsc::channel();
            let build = move |context: TurnContext| {
                Ok(Ticker { next: context.clock.now(), left: 20, late })
            };
            let handle = run(spec("ticker", &bell(), idle), Box::new(build)).unwrap();
            join_within(handle, PATIENCE).unwrap();
            let mut late: Vec<_> = times.iter().collect();
            assert_eq!(late.len(), 20);
            late.sort_unstable();
            assert!(late[10] < Duration::from_millis(5), "half of them were late: {late:?}");
        }
    }
}

struct Panicking;

impl Turn for Panicking {
    fn turn(&mut self, _now: Instant) -> Progress {
        panic!("the invariant {} does not hold", 7);
    }

    fn may_sleep(&self) -> bool {
        true
    }
}

#[test]
fn a_panic_in_a_turn_is_an_error_of_its_thread_and_nothing_more() {
    for run in runners() {
        let (exits, exited) = mpsc::channel();
        let mut spec = spec("fragile", &bell(), Idle::Park);
        spec.on_exit = Some(Box::new(move |result| {
            exits.send(result.as_ref().unwrap_err().to_string()).unwrap();
        }));
        let handle = run(spec, Box::new(|_| Ok(Panicking))).unwrap();
        let told = exited.recv_timeout(PATIENCE).unwrap();
        assert_eq!(told, "fragile panicked: the invariant 7 does not hold");
        assert!(matches!(join_within(handle, PATIENCE), Err(HostError::Panicked { .. })));
    }
}

#[test]
fn a_turn_that_cannot_be_built_is_an_error_with_its_reason() {
    for run in runners::<Panicking>() {
        let build = |_| Err(std::io::Error::other("no such disk"));
        let handle = run(spec("unbuilt", &bell(), Idle::Park), Box::new(build)).unwrap();
        let error = join_within(handle, PATIENCE).unwrap_err();
        assert_eq!(error.to_string(), "unbuilt failed: no such disk");
    }
}

#[test]
fn a_thread_bound_to_a_cpu_that_does_not_exist_fails_with_an_error() {
    for run in runners::<Panicking>() {
        let mut spec = spec("lost", &bell(), Idle::Park);
        spec.cpu = Some(4000);
        let handle = run(spec, Box::new(|_| Ok(Panicking))).unwrap();
        assert!(matches!(join_within(handle, PATIENCE), Err(HostError::Failed { .. })));
    }
}

#[test]
fn a_sleeping_thread_is_stopped() {
    for run in runners() {
        let (handle, address, _) = echo_thread(run, "echo", Idle::Park);
        ping_pong(address, 1);
        handle.stop();
        join_within(handle, PATIENCE).unwrap();
        assert!(TcpStream::connect(address).is_err(), "its rings are gone with it");
    }
}
