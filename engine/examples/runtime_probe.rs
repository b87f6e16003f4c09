//! What the runtime costs on this machine: round trips, hand-offs, durable writes.
//!
//! Measures only the layer below the cores; it knows no protocol and proves nothing about a server.
//!
//! ```text
//! runtime_probe rtt            echo round trips, parked and spinning, both hosts
//! runtime_probe hop            hand-offs between two threads
//! runtime_probe disk [DIR]     durable writes of 4 KiB
//! runtime_probe load           64 connections with 16 messages in flight each
//! runtime_probe serve SECONDS  an echo server alone, for strace -c -f; prints its address
//! runtime_probe drive ADDRESS SECONDS CONNECTIONS IN_FLIGHT
//! ```

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant as StdInstant};

use hdrhistogram::Histogram;
use quorate::runtime::bell::Bell;
use quorate::runtime::host::{
    Progress, ThreadHandle, ThreadSpec, Turn, TurnContext, run_plain_thread, run_shard_thread,
};
use quorate::runtime::idle::Idle;
use quorate::runtime::net::bind;
use quorate::runtime::queue::{Receiver, Sender, channel};
use quorate::runtime::uring::{
    DiskConfig, DiskRing, NetConfig, NetEvent, NetRing, NetStats, probe,
};
use quorate_proto::Instant;
use quorate_storage::disk::{BLOCK_SIZE, DiskOp, FileId, OpId, OpenMode};
use quorate_wire::Frame;

type Outcome = Result<(), Box<dyn Error>>;

const MESSAGE: usize = 64;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    println!("ring mode: {:?}", probe()?);
    match args.as_slice() {
        ["rtt"] => rtt(),
        ["hop"] => hop(),
        ["disk"] => disk(std::env::temp_dir()),
        ["disk", dir] => disk(PathBuf::from(dir)),
        ["load"] => load(),
        ["serve", seconds] => serve(seconds.parse()?),
        ["drive", address, seconds, connections, in_flight] => {
            let time = Duration::from_secs(seconds.parse()?);
            let count = drive(address.parse()?, time, connections.parse()?, in_flight.parse()?)?;
            println!("{count} messages");
            Ok(())
        }
        _ => Err("one of rtt, hop, disk, load, serve, drive; see the source".into()),
    }
}

/// Sends back what it receives and publishes its counters.
struct Echo {
    net: NetRing,
    events: Vec<NetEvent>,
    stats: Arc<Mutex<NetStats>>,
}

impl Turn for Echo {
    fn turn(&mut self, _now: Instant) -> Progress {
        self.net.poll(&mut self.events);
        let busy = !self.events.is_empty();
        for event in self.events.drain(..) {
            match event {
                NetEvent::Received { conn, bytes } => self.net.send(conn, Frame::from(bytes)),
                NetEvent::Closed { .. } => {
                    *self.stats.lock().expect("nobody panics with it") = self.net.stats();
                }
                NetEvent::Accepted { .. }
                | NetEvent::Connected { .. }
                | NetEvent::ConnectFailed { .. }
                | NetEvent::Drained { .. } => {}
            }
        }
        self.net.flush();
        if busy { Progress::Busy } else { Progress::Idle { until: None } }
    }

    fn may_sleep(&self) -> bool {
        self.net.may_sleep()
    }
}

#[derive(Clone, Copy, Debug)]
enum Host {
    Shard,
    Plain,
}

struct Server {
    handle: ThreadHandle,
    address: SocketAddr,
    stats: Arc<Mutex<NetStats>>,
}

fn start(host: Host, idle: Idle) -> Result<Server, Box<dyn Error>> {
    let listener: TcpListener = bind("127.0.0.1:0".parse()?, 1024)?;
    let address = listener.local_addr()?;
    let stats = Arc::new(Mutex::new(NetStats::default()));
    let published = Arc::clone(&stats);
    let build = move |context: TurnContext| {
        let mut net = NetRing::new(NetConfig::default(), context.bell.as_fd())?;
        net.listen(0, listener);
        net.flush();
        Ok(Echo { net, events: Vec::new(), stats: published })
    };
    let spec = ThreadSpec { idle, ..ThreadSpec::new("echo", Arc::new(Bell::new()?)) };
    let handle = match host {
        Host::Shard => run_shard_thread(spec, build)?,
        Host::Plain => run_plain_thread(spec, build)?,
    };
    Ok(Server { handle, address, stats })
}

fn percentiles(times: &Histogram<u64>) -> String {
    let at = |quantile| Duration::from_nanos(times.value_at_quantile(quantile));
    format!("p50 {:?} p99 {:?} max {:?}", at(0.5), at(0.99), Duration::from_nanos(times.max()))
}

fn rtt() -> Outcome {
    const ROUNDS: usize = 20_000;
    for host in [Host::Shard, Host::Plain] {
        for idle in [Idle::Park, Idle::ADAPTIVE, Idle::Spin] {
            let server = start(host, idle)?;
            let mut stream = TcpStream::connect(server.address)?;
            stream.set_nodelay(true)?;
            // A client that sleeps would measure its own wake-up.
            stream.set_nonblocking(true)?;
            let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
            let mut buffer = [0; MESSAGE];
            for _ in 0..ROUNDS {
                let sent = StdInstant::now();
                stream.write_all(&[1; MESSAGE])?;
                let mut received = 0;
                while received < MESSAGE {
                    match stream.read(&mut buffer) {
                        Ok(count) => received += count,
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                            std::hint::spin_loop();
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                times.saturating_record(sent.elapsed().as_nanos() as u64);
            }
            drop(stream);
            server.handle.stop();
            server.handle.join()?;
            println!("echo {host:?} {idle:?}: {}", percentiles(&times));
        }
    }
    Ok(())
}

/// Sends every item back.
struct Mirror {
    inbox: Receiver<u64>,
    outbox: Sender<u64>,
}

impl Turn for Mirror {
    fn turn(&mut self, _now: Instant) -> Progress {
        let mut busy = false;
        while let Some(item) = self.inbox.pop() {
            self.outbox.push(item);
            busy = true;
        }
        self.outbox.flush();
        if busy { Progress::Busy } else { Progress::Idle { until: None } }
    }

    fn may_sleep(&self) -> bool {
        self.inbox.is_empty()
    }
}

fn hop() -> Outcome {
    const HOPS: u64 = 50_000;
    for host in [Host::Shard, Host::Plain] {
        for idle in [Idle::Park, Idle::ADAPTIVE, Idle::Spin] {
            let (here, there) = (Arc::new(Bell::new()?), Arc::new(Bell::new()?));
            let (mut out, inbox) = channel(1024, Arc::clone(&there), Arc::clone(&here));
            let (outbox, mut back) = channel(1024, here, Arc::clone(&there));
            let spec = ThreadSpec { idle, ..ThreadSpec::new("mirror", there) };
            let build = move |_: TurnContext| Ok(Mirror { inbox, outbox });
            let handle = match host {
                Host::Shard => run_shard_thread(spec, build)?,
                Host::Plain => run_plain_thread(spec, build)?,
            };
            let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
            for hop in 0..HOPS {
                let sent = StdInstant::now();
                out.push(hop);
                out.flush();
                while back.pop().is_none() {
                    std::hint::spin_loop();
                }
                times.saturating_record(sent.elapsed().as_nanos() as u64);
            }
            handle.stop();
            handle.join()?;
            println!("hop there and back {host:?} {idle:?}: {}", percentiles(&times));
        }
    }
    Ok(())
}

fn disk(dir: PathBuf) -> Outcome {
    const WRITES: u64 = 2000;
    let path = format!("runtime_probe.{}", std::process::id());
    let mut ring = DiskRing::new(DiskConfig::new(&dir), None)?;
    let file = FileId(0);
    let mut done = Vec::new();
    let mut id = 0;
    let mut run = |ring: &mut DiskRing, op: &dyn Fn(OpId) -> DiskOp| -> Outcome {
        id += 1;
        ring.submit(op(OpId(id)));
        while ring.pending() > 0 {
            ring.wait(None);
            ring.poll(&mut done);
        }
        done.drain(..)
            .try_for_each(|done| done.result.map(|_| ()))
            .map_err(|error| format!("{}: errno {}", error.what, error.errno).into())
    };
    let mode = OpenMode::CreateNew;
    run(&mut ring, &|id| DiskOp::Open { id, file, path: path.clone(), mode, direct: true })?;
    // Blocks that were never written cost a journal commit each.
    let len = 1 << 20;
    for step in 0..16 {
        let offset = step * len as u64;
        let parts = Vec::new();
        let op =
            |id| DiskOp::Write { id, file, offset, parts: Vec::clone(&parts), len, sync: false };
        run(&mut ring, &op)?;
    }
    run(&mut ring, &|id| DiskOp::Sync { id, file })?;
    let frame = Frame::copy_from(&[1; 1000]);
    for len in [BLOCK_SIZE, 16 * BLOCK_SIZE] {
        let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
        for step in 0..WRITES {
            let offset = step * len as u64 % (16 << 20);
            let parts = vec![frame.clone()];
            let given = StdInstant::now();
            run(&mut ring, &|id| DiskOp::Write {
                id,
                file,
                offset,
                parts: parts.clone(),
                len,
                sync: true,
            })?;
            times.saturating_record(given.elapsed().as_nanos() as u64);
        }
        let access = if ring.is_direct() { "direct" } else { "buffered" };
        println!("durable write of {len} bytes, {access}: {}", percentiles(&times));
    }
    run(&mut ring, &|id| DiskOp::Remove { id, path: path.clone() })
}

/// Keeps `in_flight` messages under way on each connection. Returns how many came back.
fn drive(
    address: SocketAddr,
    time: Duration,
    connections: usize,
    in_flight: usize,
) -> Result<u64, Box<dyn Error>> {
    let bell = Bell::new()?;
    let mut net = NetRing::new(NetConfig::default(), bell.as_fd())?;
    let frame = Frame::copy_from(&[1; MESSAGE]);
    for _ in 0..connections {
        let conn = net.adopt(TcpStream::connect(address)?)?;
        (0..in_flight).for_each(|_| net.send(conn, frame.clone()));
    }
    let mut events = Vec::new();
    let mut received = 0;
    let end = StdInstant::now() + time;
    while StdInstant::now() < end {
        net.poll(&mut events);
        for event in events.drain(..) {
            if let NetEvent::Received { conn, bytes } = event {
                received += bytes.len() as u64;
                net.send(conn, Frame::from(bytes));
            }
        }
        net.flush();
    }
    Ok(received / MESSAGE as u64)
}

fn load() -> Outcome {
    let time = Duration::from_secs(2);
    for host in [Host::Shard, Host::Plain] {
        for idle in [Idle::Park, Idle::ADAPTIVE] {
            for (connections, in_flight) in [(1, 1), (1, 64), (64, 1), (64, 16)] {
                let server = start(host, idle)?;
                let count = drive(server.address, time, connections, in_flight)?;
                let end = StdInstant::now() + Duration::from_secs(5);
                while server.stats.lock().is_ok_and(|stats| stats.enters == 0)
                    && StdInstant::now() < end
                {
                    thread::yield_now();
                }
                server.handle.stop();
                server.handle.join()?;
                let stats = *server.stats.lock().expect("its thread has ended");
                let messages = stats.received_bytes / MESSAGE as u64;
                println!(
                    "load {host:?} {idle:?} {connections} x {in_flight}: {} messages/s, \
                     {:.4} enters, {:.4} receives and {:.4} sends per message",
                    count / time.as_secs(),
                    stats.enters as f64 / messages as f64,
                    stats.receives as f64 / messages as f64,
                    stats.sends as f64 / messages as f64,
                );
            }
        }
    }
    Ok(())
}

fn serve(seconds: u64) -> Outcome {
    let server = start(Host::Shard, Idle::ADAPTIVE)?;
    println!("{}", server.address);
    let end = StdInstant::now() + Duration::from_secs(seconds);
    while let Some(left) = end.checked_duration_since(StdInstant::now()).filter(|t| !t.is_zero()) {
        thread::park_timeout(left);
    }
    server.handle.stop();
    server.handle.join()?;
    println!("{:?}", *server.stats.lock().expect("its thread has ended"));
    Ok(())
}
