//! `NetRing` over real sockets of the loopback interface.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::iter;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use quorate::runtime::bell::Bell;
use quorate::runtime::net::bind;
use quorate::runtime::uring::{ConnId, NetConfig, NetEvent, NetRing, RingMode};
use quorate_wire::Frame;

/// Longer than anything here takes, so that a lost completion fails the test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A ring that is turned as a host would: poll, handle, flush, sleep when it says so.
struct Server {
    bell: Arc<Bell>,
    net: NetRing,
    events: Vec<NetEvent>,
}

impl Server {
    fn new(config: NetConfig) -> Self {
        let bell = Arc::new(Bell::new().unwrap());
        let net = NetRing::new(config, bell.as_fd()).unwrap();
        Self { bell, net, events: Vec::new() }
    }

    fn listening(config: NetConfig) -> (Self, SocketAddr) {
        let mut server = Self::new(config);
        let listener = loopback();
        let address = listener.local_addr().unwrap();
        server.net.listen(7, listener);
        (server, address)
    }

    /// The next events, at least one.
    fn next(&mut self) -> Vec<NetEvent> {
        self.next_within(PATIENCE).expect("something happens")
    }

    fn next_within(&mut self, time: Duration) -> Option<Vec<NetEvent>> {
        let deadline = Instant::now() + time;
        loop {
            self.net.flush();
            self.net.poll(&mut self.events);
            if !self.events.is_empty() {
                return Some(std::mem::take(&mut self.events));
            }
            if Instant::now() > deadline {
                return None;
            }
            self.bell.arm();
            if self.net.may_sleep() {
                self.bell.wait(Some(deadline.saturating_duration_since(Instant::now()))).unwrap();
            }
            self.bell.disarm();
        }
    }

    fn accept(&mut self) -> ConnId {
        let events = self.next();
        match events.as_slice() {
            [NetEvent::Accepted { listener: 7, conn, .. }] => *conn,
            other => panic!("expected one accept: {other:?}"),
        }
    }

    /// Everything received from a connection until it closes.
    fn read_to_end(&mut self, id: ConnId) -> (Vec<u8>, Option<std::io::Error>) {
        let mut received = Vec::new();
        loop {
            for event in self.next() {
                match event {
                    NetEvent::Received { conn, bytes } if conn == id => received.extend(&bytes),
                    NetEvent::Closed { conn, error } if conn == id => return (received, error),
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
    }

    /// Sends back whatever comes until `closed` connections have closed. Returns how many were
    /// accepted.
    fn echo(&mut self, closed: usize) -> usize {
        let (mut accepted, mut gone) = (0, 0);
        while gone < closed {
            for event in self.next() {
                match event {
                    NetEvent::Accepted { .. } => accepted += 1,
                    NetEvent::Received { conn, bytes } => self.net.send(conn, Frame::from(bytes)),
                    NetEvent::Closed { .. } => gone += 1,
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
        accepted
    }
}

fn loopback() -> TcpListener {
    bind("127.0.0.1:0".parse().unwrap(), 1024).unwrap()
}

/// Reproducible bytes without a pattern that a shifted copy would match.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends bytes, in steps of at most these lengths, and expects them back.
fn echo_client(
    address: SocketAddr,
    seed: u64,
    len: usize,
    steps: impl Iterator<Item = usize> + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let sent = noise(seed, len);
        let mut stream = client(address);
        let mut writer = stream.try_clone().unwrap();
        let copy = sent.clone();
        let writing = thread::spawn(move || {
            let mut rest = copy.as_slice();
            for step in steps {
                let (now, later) = rest.split_at(step.min(rest.len()));
                writer.write_all(now).unwrap();
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert!(received == sent, "client {seed}");
    })
}

#[test]
fn an_echo_returns_thousands_of_frames_cut_anywhere() {
    for mode in [RingMode::Deferred, RingMode::Cooperative, RingMode::Plain] {
        let config = NetConfig { mode: Some(mode), ..NetConfig::default() };
        let (mut server, address) = Server::listening(config);
        let steps = || iter::successors(Some(1), |step| Some(step * 7 % 193 + 1));
        let clients: Vec<_> =
            (0..3).map(|seed| echo_client(address, seed, 300_000, steps())).collect();
        assert_eq!(server.echo(3), 3);
        clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

#[test]
fn many_connections_keep_their_bytes_apart() {
    const CONNECTIONS: usize = 200;
    let (mut server, address) = Server::listening(NetConfig::default());
    let clients = thread::spawn(move || {
        let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| client(address)).collect();
        for round in 0..20u64 {
            for (index, stream) in streams.iter_mut().enumerate() {
                stream.write_all(&noise(round * 1000 + index as u64, 100 + index)).unwrap();
            }
            for (index, stream) in streams.iter_mut().enumerate() {
                let mut received = vec![0; 100 + index];
                stream.read_exact(&mut received).unwrap();
                assert!(received == noise(round * 1000 + index as u64, 100 + index));
            }
        }
    });
    assert_eq!(server.echo(CONNECTIONS), CONNECTIONS);
    clients.join().unwrap();
}

#[test]
fn frames_of_a_mebibyte_and_small_ones_between_them_arrive_in_order() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        client(address).read_to_end(&mut received).unwrap();
        received
    });
    let conn = server.accept();
    let mut sent = Vec::new();
    for index in 0..40u64 {
        let len = [1 << 20, 10, 5000, 3, 70_000, 0][index as usize % 6];
        let bytes = noise(index, len);
        sent.extend_from_slice(&bytes);
        server.net.send(conn, Frame::copy_from(&bytes));
    }
    assert_eq!(server.net.queued_bytes(conn), sent.len());
    server.net.close_after_flush(conn);
    assert!(!server.net.is_open(conn));
    while !reader.is_finished() {
        assert!(server.next_within(Duration::from_millis(1)).is_none(), "no event after a close");
    }
    assert!(reader.join().unwrap() == sent);
}

/// The next event, which is to be the only one: that this connection has drained.
fn expect_drained(server: &mut Server, conn: ConnId) {
    let events = server.next();
    assert!(
        matches!(events.as_slice(), [NetEvent::Drained { conn: id }] if *id == conn),
        "{events:?}"
    );
}

#[test]
fn a_drained_queue_is_reported_once_and_only_if_that_was_asked_for() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let mut stream = client(address);
    let conn = server.accept();
    let frames = [Frame::copy_from(&noise(1, 8 << 20)), Frame::copy_from(&noise(2, 4 << 20))];
    let sent = [&frames[0][..], &frames[1][..]].concat();
    server.net.send(conn, frames[0].clone());
    server.net.flush();
    // Leaves behind the first.
    server.net.send(conn, frames[1].clone());
    server.net.notify_below(conn, 1);
    server.net.notify_below(conn, frames[1].len());
    server.net.notify_below(conn, frames[1].len() + 1);
    let quiet = server.next_within(Duration::from_millis(20));
    assert!(quiet.is_none(), "nobody reads, and {quiet:?}");
    let reader = thread::spawn(move || {
        let mut received = vec![0; 12 << 20];
        stream.read_exact(&mut received).unwrap();
        (received, stream)
    });
    expect_drained(&mut server, conn);
    assert_eq!(server.net.queued_bytes(conn), frames[1].len());
    server.net.notify_below(conn, 1);
    expect_drained(&mut server, conn);
    assert_eq!(server.net.queued_bytes(conn), 0);
    let (received, mut stream) = reader.join().unwrap();
    assert!(received == sent);

    server.net.send(conn, frames[0].clone());
    let reader = thread::spawn(move || {
        stream.read_exact(&mut vec![0; 8 << 20]).unwrap();
        stream
    });
    while !reader.is_finished() || server.net.queued_bytes(conn) > 0 {
        assert!(server.next_within(Duration::from_millis(1)).is_none(), "nobody asked");
    }
}

#[test]
fn whoever_asks_for_a_queue_that_is_short_or_gone_is_answered_at_once() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let _stream = client(address);
    let conn = server.accept();
    server.net.notify_below(conn, 1);
    expect_drained(&mut server, conn);
    server.net.send(conn, Frame::from_static(b"12345"));
    server.net.notify_below(conn, 6);
    assert!(!server.net.may_sleep(), "the answer waits");
    expect_drained(&mut server, conn);

    server.net.send(conn, Frame::copy_from(&vec![1; 64 << 20]));
    server.net.flush();
    server.net.notify_below(conn, 1);
    server.net.close(conn);
    assert!(server.next_within(Duration::from_millis(50)).is_none(), "no event after a close");
    server.net.notify_below(conn, 1);
    expect_drained(&mut server, conn);
    assert!(server.next_within(Duration::from_millis(20)).is_none(), "one answer each");
}

#[test]
fn a_paused_connection_pushes_back_and_loses_nothing() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let sent = noise(5, 16 << 20);
    let copy = sent.clone();
    let (progress, written) = std::sync::mpsc::channel();
    let writer = thread::spawn(move || {
        let mut stream = client(address);
        for chunk in copy.chunks(64 * 1024) {
            stream.write_all(chunk).unwrap();
            progress.send(chunk.len()).unwrap();
        }
    });
    let conn = server.accept();
    server.net.pause(conn);
    let mut received = Vec::new();
    // What was under way comes, then nothing more: the writer stands.
    while let Some(events) = server.next_within(Duration::from_millis(300)) {
        for event in events {
            let NetEvent::Received { bytes, .. } = event else { panic!("{event:?}") };
            received.extend(&bytes);
        }
    }
    let taken: usize = written.try_iter().sum();
    assert!(taken < sent.len(), "the writer was held up");
    assert!(!writer.is_finished());
    for _ in 0..3 {
        // Turned off and on while the cancellation is under way.
        server.net.resume(conn);
        server.net.pause(conn);
    }
    server.net.resume(conn);
    let (rest, error) = server.read_to_end(conn);
    assert!(error.is_none());
    received.extend(rest);
    assert!(received == sent);
    writer.join().unwrap();
}

#[test]
fn the_end_of_a_paused_connection_waits_for_the_resume() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let mut stream = client(address);
    let conn = server.accept();
    stream.write_all(b"ruok").unwrap();
    assert!(
        matches!(server.next().as_slice(), [NetEvent::Received { bytes, .. }] if bytes == "ruok")
    );
    server.net.pause(conn);
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(server.next_within(Duration::from_millis(50)).is_none());
    server.net.send(conn, Frame::from_static(b"imok"));
    server.net.flush();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"imok");
    server.net.resume(conn);
    let events = server.next();
    assert!(matches!(events.as_slice(), [NetEvent::Closed { error: None, .. }]), "{events:?}");
}

#[test]
fn an_answer_to_a_peer_that_has_half_closed_still_arrives() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let asking = thread::spawn(move || {
        let mut stream = client(address);
        stream.write_all(b"ruok").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    let mut answered = false;
    'turns: loop {
        for event in server.next() {
            match event {
                NetEvent::Accepted { .. } => {}
                NetEvent::Received { conn, bytes } => {
                    assert_eq!(bytes, "ruok");
                    server.net.send(conn, Frame::copy_from(&noise(3, 3 << 20)));
                    answered = true;
                }
                NetEvent::Closed { error: None, .. } => {
                    assert!(answered);
                    break 'turns;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    server.next_within(Duration::from_millis(1));
    assert!(asking.join().unwrap() == noise(3, 3 << 20));
}

#[test]
fn a_reset_is_an_error_and_frees_the_place_for_the_next() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let mut ids = BTreeMap::new();
    for round in 0..50 {
        let stream = client(address);
        let conn = server.accept();
        assert!(ids.insert(conn, round).is_none(), "an id is never used twice");
        // Closing with unread bytes resets.
        server.net.send(conn, Frame::from_static(b"unread"));
        server.net.flush();
        while stream.peek(&mut [0; 6]).unwrap() < 6 {}
        drop(stream);
        let (received, error) = server.read_to_end(conn);
        assert!(received.is_empty());
        assert_eq!(error.unwrap().kind(), std::io::ErrorKind::ConnectionReset);
        assert!(!server.net.is_open(conn));
        server.net.send(conn, Frame::from_static(b"stale"));
        server.net.close(conn);
        assert_eq!(server.net.queued_bytes(conn), 0);
    }
    assert!(ids.keys().all(|id| id.index < 4), "places are used again: {ids:?}");
}

#[test]
fn a_close_drops_what_is_queued_and_reports_nothing() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let mut stream = client(address);
    let conn = server.accept();
    server.net.send(conn, Frame::copy_from(&vec![1; 64 << 20]));
    server.net.flush();
    server.net.close(conn);
    assert!(server.next_within(Duration::from_millis(50)).is_none());
    let mut received = Vec::new();
    // An end or a reset: either way not all of it.
    let _ = stream.read_to_end(&mut received);
    assert!(received.len() < 64 << 20);
}

#[test]
fn a_peer_that_reads_nothing_cannot_hold_a_closing_connection() {
    let config = NetConfig { linger: Duration::from_millis(50), ..NetConfig::default() };
    let (mut server, address) = Server::listening(config);
    let mut stream = client(address);
    let conn = server.accept();
    server.net.send(conn, Frame::copy_from(&vec![1; 64 << 20]));
    server.net.close_after_flush(conn);
    assert!(server.next_within(Duration::from_millis(300)).is_none());
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    assert!(received.len() < 64 << 20, "the time limit ended it");
}

#[test]
fn connections_out_succeed_fail_and_run_out_of_time() {
    const LIMIT: Duration = Duration::from_millis(100);
    let mut server = Server::new(NetConfig::default());
    let listener = loopback();
    server.net.connect(1, listener.local_addr().unwrap(), LIMIT);
    let events = server.next();
    let [NetEvent::Connected { token: 1, conn }] = events.as_slice() else { panic!("{events:?}") };
    let (mut accepted, _) = listener.accept().unwrap();
    server.net.send(*conn, Frame::from_static(b"hello"));
    server.net.flush();
    let mut hello = [0; 5];
    accepted.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");

    let refused = loopback().local_addr().unwrap();
    server.net.connect(2, refused, LIMIT);
    let events = server.next();
    assert!(
        matches!(events.as_slice(), [NetEvent::ConnectFailed { token: 2, error }]
            if error.kind() == std::io::ErrorKind::ConnectionRefused),
        "{events:?}"
    );

    // A listener whose queue of unaccepted connections is full answers no more.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    full.listen(1).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut failed = None;
    for token in 10..20 {
        server.net.connect(token, address, LIMIT);
        match server.next().as_slice() {
            [NetEvent::Connected { .. }] => {}
            [NetEvent::ConnectFailed { error, .. }] => {
                failed = Some(error.kind());
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failed, Some(std::io::ErrorKind::TimedOut));
}

#[test]
fn an_adopted_stream_is_served_even_if_it_was_non_blocking() {
    let mut server = Server::new(NetConfig::default());
    let listener = loopback();
    let mut stream = client(listener.local_addr().unwrap());
    let (accepted, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let conn = server.net.adopt(accepted).unwrap();
    assert!(server.next_within(Duration::from_millis(20)).is_none());
    stream.write_all(b"abc").unwrap();
    let events = server.next();
    assert!(
        matches!(events.as_slice(), [NetEvent::Received { conn: id, bytes }]
            if *id == conn && bytes == "abc"),
        "{events:?}"
    );
}

#[test]
fn an_unlistened_port_refuses_and_its_connections_live_on() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let mut stream = client(address);
    let conn = server.accept();
    server.net.unlisten(7);
    assert!(server.next_within(Duration::from_millis(20)).is_none());
    assert!(TcpStream::connect(address).is_err());
    stream.write_all(b"still here").unwrap();
    let events = server.next();
    assert!(matches!(events.as_slice(), [NetEvent::Received { conn: id, .. }] if *id == conn));
    server.net.listen(7, bind(address, 1024).unwrap());
    let _second = client(address);
    assert_ne!(server.accept(), conn);
}

#[test]
fn too_few_receive_buffers_delay_but_lose_nothing() {
    let config = NetConfig { buffers: 2, buffer_len: 512, block_len: 2048, ..NetConfig::default() };
    let (mut server, address) = Server::listening(config);
    let clients: Vec<_> =
        (0..8).map(|seed| echo_client(address, seed, 200_000, iter::once(usize::MAX))).collect();
    server.echo(8);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(server.net.stats().buffers_short > 0, "the case was met");
}

#[test]
fn an_idle_ring_makes_no_system_call() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let _stream = client(address);
    server.accept();
    assert!(server.next_within(Duration::from_millis(20)).is_none());
    let before = server.net.stats().enters;
    let mut events = Vec::new();
    for _ in 0..1000 {
        server.net.poll(&mut events);
        server.net.flush();
    }
    assert_eq!(server.net.stats().enters, before);
    assert!(events.is_empty());
}

#[test]
fn a_dropped_ring_closes_its_connections() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let mut streams: Vec<_> = (0..5).map(|_| client(address)).collect();
    let mut accepted = 0;
    while accepted < 5 {
        accepted += server.next().len();
    }
    drop(server);
    for stream in &mut streams {
        // A plain read may be interrupted by what the dropped ring leaves this thread to do.
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received.is_empty());
    }
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_dropped_ring_closes_a_connection_that_was_closed_with_something_to_send() {
    let (mut server, address) = Server::listening(NetConfig::default());
    let mut stream = client(address);
    let conn = server.accept();
    // So that no operation is under way on it.
    server.net.pause(conn);
    assert!(server.next_within(Duration::from_millis(20)).is_none());
    server.net.send(conn, Frame::from_static(b"unsent"));
    server.net.close(conn);
    drop(server);
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert!(received.is_empty());
}
