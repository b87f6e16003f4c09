//! What a server owes to the clients of its process, and to those that misbehave.
//!
//! Waits for conditions with a deadline. What never arrives is given several times the time in which
//! it would.

mod common;

use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use common::{PATIENCE, TICKS, wait_for};
use quorate::config::{FourLetterWords, HostPort, Placement};
use quorate::in_process::{Arrival, Connection, Mailbox};
use quorate::{Config, CreateMode, Error, Machine, Proposer, Replicated, Server, Session, Zxid};
use quorate_wire::jute::client as jute;
use tempfile::TempDir;

/// One server in memory, with a client port.
fn in_memory() -> Server {
    let config = Config::builder("unused")
        .durable(false)
        .ticks(TICKS)
        .client(HostPort::new("127.0.0.1", 0))
        .build()
        .expect("a configuration");
    common::start(config)
}

fn session(server: &Server) -> Session {
    server.session(Duration::from_secs(30)).expect("a session")
}

fn connect_request() -> Bytes {
    let mut out = BytesMut::new();
    jute::ConnectRequest::fresh(400).encode(&mut out);
    out.freeze()
}

fn get_data(xid: i32, path: &str) -> Bytes {
    let mut out = BytesMut::new();
    jute::encode_get_data(xid, path.as_bytes(), false, &mut out);
    out.freeze()
}

/// A ping: its length, xid -2, type 11.
const PING: [u8; 12] = [0, 0, 0, 8, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11];

/// The next bytes of the mailbox; `None` once its connection is closed.
fn next(mailbox: &Mailbox) -> Option<Bytes> {
    let arrival = wait_for("an arrival", || {
        mailbox.wait(Duration::from_millis(100));
        mailbox.take()
    });
    match arrival {
        Arrival::Bytes(_, bytes) => Some(bytes),
        Arrival::Closed(_) => None,
    }
}

fn open(server: &Server, mailbox: &Arc<Mailbox>) -> Connection {
    let connection = server.connect(mailbox);
    connection.send(connect_request());
    let response = next(mailbox).expect("a connect response");
    let response = jute::ConnectResponse::decode(&response[4..]).expect("a connect response");
    assert!(response.timeout_ms > 0, "no session");
    connection
}

#[test]
fn a_server_and_what_it_gives_out_may_be_shared_by_threads() {
    fn check<T: Send + Sync>() {}
    check::<Server>();
    check::<Session>();
    check::<Proposer>();
    check::<Connection>();
    check::<Mailbox>();
}

#[test]
fn a_session_that_is_only_held_fills_no_mailbox() {
    let server = in_memory();
    let mailbox = Mailbox::new();
    let connection = open(&server, &mailbox);
    // Its pings are the server's own; their answers would pile up where nobody looks.
    assert!(!mailbox.wait(Duration::from_millis(800)), "{:?}", mailbox.take());
    // It lives: twice its time-out has passed. And pings of its own are answered.
    for _ in 0..3 {
        connection.send(Bytes::from_static(&PING));
        let pong = next(&mailbox).expect("an answer");
        let (header, _) = jute::ReplyHeader::decode(&pong[4..]).expect("a reply");
        assert_eq!((header.xid, header.err), (jute::XID_PING, 0));
    }
    server.shutdown().expect("an orderly end");
}

#[test]
fn the_words_that_are_listed_are_answered_and_of_the_others_srvr() {
    let config = Config::builder("unused")
        .durable(false)
        .ticks(TICKS)
        .with(|settings| {
            settings.four_letter_words = FourLetterWords::Listed(vec!["mntr".to_owned()]);
        })
        .build()
        .expect("a configuration");
    let server = common::start(config);
    let answer = |word: &'static [u8; 4]| {
        let mailbox = Mailbox::new();
        let connection = server.connect(&mailbox);
        connection.send(Bytes::from_static(word));
        next(&mailbox)
    };
    assert!(answer(b"mntr").is_some() && answer(b"srvr").is_some());
    assert_eq!(answer(b"stat"), None, "the connection is closed");
}

/// Wakes its task late: it holds up the thread of the server that it is woken on.
struct Stall(std::sync::atomic::AtomicBool);

impl std::task::Wake for Stall {
    fn wake(self: Arc<Self>) {
        if !self.0.swap(true, std::sync::atomic::Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1000));
        }
    }
}

#[test]
fn a_session_that_is_held_survives_a_server_that_stood_still() {
    let config = Config::builder("unused")
        .durable(false)
        .ticks(TICKS)
        .placement(Placement::Single)
        .build()
        .expect("a configuration");
    let server = common::start(config);
    let session = || server.session(Duration::from_millis(400)).expect("a session");
    let (held, other) = (session(), session());
    assert!(held.timeout() <= Duration::from_millis(400), "{:?}", held.timeout());
    held.create("/held", b"", CreateMode::Ephemeral).wait().expect("an ephemeral");

    let stall = Arc::new(Stall(std::sync::atomic::AtomicBool::new(false)));
    let waker = std::task::Waker::from(Arc::clone(&stall));
    let mut asked = std::pin::pin!(other.exists("/"));
    let mut context = std::task::Context::from_waker(&waker);
    wait_for("an answer", || match asked.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => Some(answer.expect("a read")),
        std::task::Poll::Pending => None,
    });
    wait_for("the stall", || stall.0.load(std::sync::atomic::Ordering::SeqCst).then_some(()));
    // Answered once the server turns again, by a session that is as old as the stall.
    held.exists("/held").wait().expect("the session and its ephemeral");
    other.exists("/held").wait().expect("the session and its ephemeral");
    server.shutdown().expect("an orderly end");
}

/// 300 times a node of almost a megabyte are more than any client may leave unread.
const READS: i32 = 300;
const BIG: usize = 1_000_000;

fn with_a_big_node() -> (Server, Session) {
    let server = in_memory();
    let session = session(&server);
    session.create("/big", &vec![7; BIG], CreateMode::Persistent).wait().expect("a create");
    (server, session)
}

/// Gives the server the time to answer everything before a byte is taken.
fn wait_for_other_work(other: &Session) {
    let mut answers = 0;
    wait_for("the server's other work", || {
        other.exists("/big").wait().expect("others are served");
        answers += 1;
        (answers > 500).then_some(())
    });
}

#[test]
fn a_client_in_the_process_that_never_reads_is_closed() {
    let (server, other) = with_a_big_node();
    let mailbox = Mailbox::new();
    let connection = open(&server, &mailbox);
    for xid in 1..=READS {
        connection.send(get_data(xid, "/big"));
    }
    wait_for_other_work(&other);
    let mut read = 0;
    while next(&mailbox).is_some() {
        read += 1;
    }
    assert!((1..READS).contains(&read), "{read} of {READS} answers were kept for it");
    other.exists("/big").wait().expect("others are served");
    server.shutdown().expect("an orderly end");
}

#[test]
fn a_client_over_tcp_that_never_reads_is_closed() {
    let (server, other) = with_a_big_node();
    let mut stream =
        TcpStream::connect(server.client_address().expect("a client port")).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream.write_all(&connect_request()).expect("sent");
    let mut response = [0; 4 + 37];
    stream.read_exact(&mut response).expect("a connect response");
    for xid in 1..=READS {
        stream.write_all(&get_data(xid, "/big")).expect("sent");
    }
    wait_for_other_work(&other);
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        read += len;
    }
    assert!(read < READS as usize * BIG / 2, "{read} bytes were kept for it");
    other.exists("/big").wait().expect("others are served");
    server.shutdown().expect("an orderly end");
}

#[test]
fn what_was_sent_takes_effect_though_nobody_waits_for_it() {
    // More than one connection may have under way.
    const WRITES: i32 = 10_000;
    let server = in_memory();
    let watcher = session(&server);
    let writer = session(&server);
    writer.create("/n", b"", CreateMode::Persistent).wait().expect("a create");
    for _ in 0..WRITES {
        drop(writer.set_data("/n", b"x", -1));
    }
    drop(writer.create("/last", b"", CreateMode::Persistent));
    drop(writer);
    wait_for("the last write", || watcher.exists("/last").wait().ok());
    assert_eq!(watcher.exists("/n").wait().expect("a node").version, WRITES);
    server.shutdown().expect("an orderly end");
}

#[test]
fn an_orderly_end_answers_what_was_asked_before() {
    for _ in 0..5 {
        let server = in_memory();
        let session = session(&server);
        session.create("/n", b"", CreateMode::Persistent).wait().expect("a create");
        let last = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut last = 0;
                loop {
                    match session.set_data("/n", b"x", -1).wait() {
                        Ok(stat) => last = stat.version,
                        Err(Error::ConnectionLost) => return last,
                        Err(other) => panic!("expected a lost connection, got: {other}"),
                    }
                }
            });
            wait_for("some writes", || {
                (session.exists("/n").wait().expect("a node").version > 50).then_some(())
            });
            let begun = Instant::now();
            server.shutdown().expect("an orderly end");
            assert!(begun.elapsed() < Duration::from_secs(3), "nothing kept it from its end");
            writer.join().expect("no panic")
        });
        assert!(last > 0);
    }
}

#[test]
fn an_orderly_end_leaves_a_wake_up_to_the_thread_that_it_was_meant_for() {
    let server = in_memory();
    thread::current().unpark();
    server.shutdown().expect("an orderly end");
    let begun = Instant::now();
    thread::park_timeout(PATIENCE / 6);
    assert!(begun.elapsed() < PATIENCE / 6, "the wake-up is gone");
}

/// A state that one command breaks.
#[derive(Default)]
struct Fragile(u64);

impl Replicated for Fragile {
    fn apply(&mut self, _zxid: Zxid, command: &[u8], reply: &mut Vec<u8>) {
        assert!(command != b"break", "told to break");
        self.0 += 1;
        reply.extend(self.0.to_le_bytes());
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let bytes = snapshot.try_into().map_err(|_| "8 bytes".to_owned())?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

fn fragile(folder: &TempDir, placement: Placement) -> Server {
    let config = Config::builder(folder.path())
        .ticks(TICKS)
        .placement(placement)
        .shards(2)
        .build()
        .expect("a configuration");
    Server::start_with(config, Machine::new(Fragile::default())).expect("a server starts")
}

#[test]
fn a_core_that_breaks_ends_its_server_and_nobody_waits_for_it() {
    for placement in [Placement::Single, Placement::Compact, Placement::Dedicated] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = fragile(&folder, placement);
        server.wait_serving(PATIENCE).expect("it serves");
        let others: Vec<Proposer> = (0..4).map(|_| server.proposer()).collect();
        for other in &others {
            other.propose(b"fine").wait().expect("a command");
        }
        let broken = others[0].propose(b"break").wait();
        assert!(matches!(broken, Err(Error::ConnectionLost)), "{broken:?}");
        let why = server.wait().expect("a reason");
        assert!(why.contains("panicked") && why.contains("told to break"), "{why}");
        for other in &others {
            let lost = other.propose(b"fine").wait();
            assert!(matches!(lost, Err(Error::ConnectionLost)), "{lost:?}");
        }
        assert!(matches!(server.session(PATIENCE), Err(Error::ConnectionLost)));
        assert!(matches!(server.wait_serving(PATIENCE), Err(Error::Failed(_))));
        // What the threads had recorded is not lost with them.
        let stage = server.histograms().stage(quorate::Stage::EndToEnd).len();
        assert_eq!(stage, 4, "{placement:?}");
        assert!(matches!(server.shutdown(), Err(Error::Failed(_))));
    }
}
