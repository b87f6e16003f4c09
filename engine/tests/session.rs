//! Sessions through the public API, on real sockets and real disks.
//!
//! Waits for conditions with a deadline; nothing here sleeps for a fixed time.

mod common;

use std::future::Future;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use common::{PATIENCE, TICKS, wait_for};
use quorate::config::HostPort;
use quorate::metrics::Histograms;
use quorate::{Config, CreateMode, Error, ErrorCode, Op, Role, Server, Session, Stage};
use quorate_tree::Acl;
use quorate_wire::jute::client::EventKind;
use tempfile::TempDir;

/// Three servers in this process, all serving, each with a disk of its own.
struct Ensemble {
    // Before the folder: servers end before their disks do.
    servers: Vec<Server>,
    _folder: TempDir,
}

impl Ensemble {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let configs = Config::local_ensemble_with(folder.path(), 3, |builder| builder.ticks(TICKS))
            .expect("three configurations");
        Self { servers: common::start_all(configs), _folder: folder }
    }

    fn with_role(&self, role: Role) -> &Server {
        self.servers.iter().find(|server| server.role() == role).expect("a server of that role")
    }

    fn leader(&self) -> &Server {
        self.with_role(Role::Leader)
    }

    fn follower(&self) -> &Server {
        self.with_role(Role::Follower)
    }
}

fn session(server: &Server) -> Session {
    server.session(Duration::from_secs(30)).expect("a session")
}

/// One server that stands alone, without ports.
fn alone(folder: &TempDir) -> Server {
    let config = Config::builder(folder.path()).ticks(TICKS).build().expect("a configuration");
    let server = Server::start(config).expect("a server starts");
    assert_eq!(server.wait_serving(PATIENCE).expect("it serves"), Role::Standalone);
    server
}

fn refused<T>(result: Result<T, Error>) -> ErrorCode {
    match result {
        Err(Error::Refused(code)) => code,
        Err(other) => panic!("expected a refusal, got: {other}"),
        Ok(_) => panic!("expected a refusal, got a result"),
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor: this thread, one future.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let until = Instant::now() + PATIENCE;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        // Longer than the test has: only the waker can end this in time.
        thread::park_timeout(until.saturating_duration_since(Instant::now()));
        assert!(Instant::now() < until, "the future was not woken");
    }
}

#[test]
fn what_a_follower_wrote_the_leader_reads_and_the_other_way_round() {
    let ensemble = Ensemble::start();
    let (leader, follower) = (session(ensemble.leader()), session(ensemble.follower()));
    assert_ne!(leader.id(), follower.id());
    assert!(follower.timeout() > Duration::ZERO);

    let path = follower.create("/f", b"one", CreateMode::Persistent).wait().expect("a create");
    assert_eq!(path, "/f");
    leader.sync("/f").wait().expect("a sync");
    let (data, stat) = leader.get_data("/f").wait().expect("a read");
    assert_eq!((data.as_slice(), stat.version), (&b"one"[..], 0));

    let stat = leader.set_data("/f", b"two", 0).wait().expect("a write");
    assert_eq!(stat.version, 1);
    follower.sync("/f").wait().expect("a sync");
    assert_eq!(follower.get_data("/f").wait().expect("a read").0, b"two");
    assert!(follower.last_zxid() > quorate::Zxid::ZERO);

    leader.create("/f/c", b"", CreateMode::Persistent).wait().expect("a child");
    follower.sync("/").wait().expect("a sync");
    assert_eq!(follower.get_children("/f").wait().expect("its children"), ["c"]);
    follower.delete("/f/c", -1).wait().expect("a delete");
    follower.delete("/f", 1).wait().expect("a delete of version 1");
    assert_eq!(refused(follower.exists("/f").wait()), ErrorCode::NoNode);
}

#[test]
fn refusals_carry_zookeepers_codes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = alone(&folder);
    let session = session(&server);
    session.create("/a", b"", CreateMode::Persistent).wait().expect("a create");
    session.create("/e", b"", CreateMode::Ephemeral).wait().expect("an ephemeral");
    let again = session.create("/a", b"", CreateMode::Persistent).wait();
    assert_eq!(refused(again), ErrorCode::NodeExists);
    assert_eq!(refused(session.set_data("/a", b"", 7).wait()), ErrorCode::BadVersion);
    assert_eq!(refused(session.delete("/none", -1).wait()), ErrorCode::NoNode);
    let child = session.create("/e/c", b"", CreateMode::Persistent).wait();
    assert_eq!(refused(child), ErrorCode::NoChildrenForEphemerals);
    session.create("/a/c", b"", CreateMode::Persistent).wait().expect("a child");
    assert_eq!(refused(session.delete("/a", -1).wait()), ErrorCode::NotEmpty);
    let no_path = session.create("a", b"", CreateMode::Persistent).wait();
    assert_eq!(refused(no_path), ErrorCode::BadArguments);
    // A refusal ends nothing: the session goes on.
    session.get_data("/a").wait().expect("a read after refusals");
}

#[test]
fn operations_of_one_session_take_effect_in_the_order_made() {
    let ensemble = Ensemble::start();
    let session = session(ensemble.follower());
    session.create("/order", b"", CreateMode::Persistent).wait().expect("a create");
    let pending: Vec<_> =
        (0..500).map(|n: u32| session.set_data("/order", &n.to_le_bytes(), n as i32)).collect();
    let read = session.get_data("/order");
    for (n, pending) in pending.into_iter().enumerate() {
        let stat = pending.wait().expect("every version is the one before plus one");
        assert_eq!(stat.version as usize, n + 1);
    }
    let (data, stat) = read.wait().expect("the read behind them");
    assert_eq!((data, stat.version), (499_u32.to_le_bytes().to_vec(), 500));
}

#[test]
fn an_awaited_result_wakes_its_task() {
    let ensemble = Ensemble::start();
    let session = session(ensemble.follower());
    block_on(async {
        session.create("/async", b"1", CreateMode::Persistent).await.expect("a create");
        let first = session.set_data("/async", b"2", -1);
        let second = session.get_data("/async");
        // In the other order than made: each future finds its own answer.
        assert_eq!(second.await.expect("a read").0, b"2");
        assert_eq!(first.await.expect("a write").version, 1);
        assert_eq!(refused(session.exists("/none").await), ErrorCode::NoNode);
    });
}

#[test]
fn two_tasks_of_two_threads_await_results_of_one_session() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = alone(&folder);
    let session = session(&server);
    thread::scope(|scope| {
        for name in ["/a", "/b", "/c"] {
            let session = &session;
            scope.spawn(move || {
                block_on(async {
                    session.create(name, b"", CreateMode::Persistent).await.expect("a create");
                    for n in 0..200 {
                        let stat = session.set_data(name, name.as_bytes(), -1).await;
                        assert_eq!(stat.expect("a write").version, n + 1);
                    }
                });
            });
        }
    });
}

#[test]
fn two_threads_wait_on_one_session_and_each_gets_its_own_answers() {
    let ensemble = Ensemble::start();
    let session = session(ensemble.follower());
    thread::scope(|scope| {
        for name in ["/left", "/right"] {
            let session = &session;
            scope.spawn(move || {
                session.create(name, b"", CreateMode::Persistent).wait().expect("a create");
                for n in 0..200 {
                    let stat = session.set_data(name, name.as_bytes(), n).wait();
                    assert_eq!(stat.expect("a write").version, n + 1);
                    let (data, _) = session.get_data(name).wait().expect("a read");
                    assert_eq!(data, name.as_bytes());
                }
            });
        }
    });
}

#[test]
fn a_watch_fires_once_and_before_the_change_is_read() {
    let ensemble = Ensemble::start();
    let (watcher, writer) = (session(ensemble.follower()), session(ensemble.leader()));
    writer.create("/w", b"0", CreateMode::Persistent).wait().expect("a create");
    watcher.sync("/w").wait().expect("a sync");
    watcher.get_data_and_watch("/w").wait().expect("a read with a watch");
    assert_eq!(watcher.next_event(), None);

    writer.set_data("/w", b"1", -1).wait().expect("a write");
    wait_for("the new data", || {
        (watcher.get_data("/w").wait().expect("a read").0 == b"1").then_some(())
    });
    // The answer that shows the change came behind the event.
    let event = watcher.next_event().expect("the event before the reply");
    assert_eq!((event.kind, event.path.as_str()), (EventKind::NodeDataChanged, "/w"));

    writer.set_data("/w", b"2", -1).wait().expect("a write");
    watcher.sync("/w").wait().expect("a sync");
    assert_eq!(watcher.get_data("/w").wait().expect("a read").0, b"2");
    assert_eq!(watcher.next_event(), None, "a watch fires once");

    watcher.get_data_and_watch("/w").wait().expect("a read with a watch");
    writer.delete("/w", -1).wait().expect("a delete");
    let event = wait_for("the deletion's event", || watcher.next_event());
    assert_eq!((event.kind, event.path.as_str()), (EventKind::NodeDeleted, "/w"));
}

fn create<'a>(path: &'a [u8], data: &'a [u8]) -> Op<'a> {
    let acl = vec![Acl::open()];
    Op::Create {
        path,
        data: Some(data),
        acl,
        flags: CreateMode::Persistent.flags(),
        with_stat: false,
    }
}

#[test]
fn a_multi_does_all_or_nothing() {
    let ensemble = Ensemble::start();
    let session = session(ensemble.follower());
    let both = [create(b"/m", b"x"), create(b"/m/c", b"y")];
    session.multi(&both).wait().expect("parent and child at once");
    let half = [
        Op::SetData { path: b"/m", data: Some(b"z"), version: -1 },
        Op::Check { path: b"/m/c", version: 9 },
        Op::Delete { path: b"/m/c", version: -1 },
    ];
    assert_eq!(refused(session.multi(&half).wait()), ErrorCode::BadVersion);
    let (data, stat) = session.get_data("/m").wait().expect("a read");
    assert_eq!((data.as_slice(), stat.version), (&b"x"[..], 0), "nothing of it was done");
    session.exists("/m/c").wait().expect("the child is there still");
    session.multi(&[]).wait().expect("an empty multi");
}

#[test]
fn ephemerals_go_when_their_session_is_closed() {
    let ensemble = Ensemble::start();
    let (owner, other) = (session(ensemble.follower()), session(ensemble.leader()));
    let path =
        owner.create("/e-", b"", CreateMode::EphemeralSequential).wait().expect("an ephemeral");
    assert!(path.starts_with("/e-") && path.len() > 3, "{path}");
    other.sync("/").wait().expect("a sync");
    let stat = other.exists(&path).wait().expect("it is there");
    assert_eq!(stat.ephemeral_owner, owner.id().0 as i64);
    owner.close().wait().expect("the session's end");
    other.sync("/").wait().expect("a sync");
    assert_eq!(refused(other.exists(&path).wait()), ErrorCode::NoNode);
}

#[test]
fn ephemerals_of_a_dropped_session_expire() {
    let ensemble = Ensemble::start();
    let other = session(ensemble.leader());
    let owner = ensemble.follower().session(Duration::from_millis(200)).expect("a session");
    assert!(owner.timeout() <= Duration::from_secs(2), "{:?}", owner.timeout());
    owner.create("/gone", b"", CreateMode::Ephemeral).wait().expect("an ephemeral");
    drop(owner);
    wait_for("the session to expire", || {
        matches!(other.exists("/gone").wait(), Err(Error::Refused(ErrorCode::NoNode))).then_some(())
    });
}

#[test]
fn a_session_that_is_held_outlives_its_timeout() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = alone(&folder);
    let (held, clock) = (
        server.session(Duration::from_millis(200)).expect("a session"),
        server.session(Duration::from_millis(200)).expect("a session"),
    );
    let timeout = held.timeout();
    held.create("/held", b"", CreateMode::Ephemeral).wait().expect("an ephemeral");
    let begun = Instant::now();
    while begun.elapsed() < 5 * timeout {
        clock.exists("/held").wait().expect("the ephemeral of a session that is held");
        thread::park_timeout(Duration::from_millis(10));
    }
    held.exists("/held").wait().expect("the session itself goes on");
}

#[test]
fn a_shut_down_leaves_no_waiter_without_an_answer() {
    let mut ensemble = Ensemble::start();
    let at = ensemble.servers.iter().position(|s| s.role() == Role::Follower).expect("a follower");
    let server = ensemble.servers.remove(at);
    let session = session(&server);
    session.create("/s", b"", CreateMode::Persistent).wait().expect("a create");
    let (mut done, mut lost) = (0, 0);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut done, mut lost) = (0, 0);
                    while lost == 0 {
                        let burst: Vec<_> =
                            (0..50).map(|_| session.set_data("/s", b"x", -1)).collect();
                        for pending in burst {
                            match pending.wait() {
                                Ok(_) => done += 1,
                                Err(Error::ConnectionLost) => lost += 1,
                                Err(other) => panic!("expected a lost connection, got: {other}"),
                            }
                        }
                    }
                    (done, lost)
                })
            })
            .collect();
        wait_for("some writes", || {
            (session.exists("/s").wait().expect("a read").version > 100).then_some(())
        });
        server.shutdown().expect("an orderly end");
        for writer in writers {
            let (more_done, more_lost) = writer.join().expect("no panic");
            done += more_done;
            lost += more_lost;
        }
    });
    assert!(done > 100 && lost > 0, "{done} done, {lost} lost");
    // What was answered before is known to the others; what was lost may or may not be.
    let other = self::session(ensemble.leader());
    let version = other.exists("/s").wait().expect("a read").version;
    assert!(version >= done && version <= done + lost, "{version}: {done} done, {lost} lost");
    assert!(matches!(session.get_data("/s").wait(), Err(Error::ConnectionLost)));
    let awaited = block_on(session.get_data("/s"));
    assert!(matches!(awaited, Err(Error::ConnectionLost)));
}

#[test]
fn a_write_through_a_leader_fills_every_stage_of_a_write() {
    let ensemble = Ensemble::start();
    let session = session(ensemble.leader());
    session.create("/h", b"", CreateMode::Persistent).wait().expect("a create");
    for _ in 0..100 {
        session.set_data("/h", b"x", -1).wait().expect("a write");
    }
    let histograms = ensemble.leader().histograms();
    for stage in Stage::ALL.into_iter().filter(|stage| stage.is_of_a_write()) {
        let count = histograms.stage(stage).len();
        assert!(count > 0, "{stage} is empty");
    }
    let end_to_end = histograms.stage(Stage::EndToEnd);
    assert!(end_to_end.len() >= 101, "{}", end_to_end.len());
    // A step is no longer than the whole, up to the histogram's two digits.
    for stage in [Stage::Received, Stage::Prepared, Stage::Quorum, Stage::Applied] {
        let (part, whole) = (histograms.stage(stage).min(), end_to_end.max());
        assert!(part <= whole, "{stage}: {part} ns of {whole} ns");
    }
    // A follower's write is timed where its client is, and the rest of the way at the leader.
    let follower = self::session(ensemble.follower());
    follower.set_data("/h", b"y", -1).wait().expect("a write");
    let own = ensemble.follower().histograms();
    assert!(!own.stage(Stage::LogDevice).is_empty() && !own.stage(Stage::EndToEnd).is_empty());
    assert!(own.stage(Stage::Quorum).is_empty(), "only a leader counts quorums");
}

#[test]
fn taken_histograms_start_again_and_read_back_from_their_log() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = alone(&folder);
    let session = session(&server);
    session.create("/t", b"", CreateMode::Persistent).wait().expect("a create");
    let first = wait_for("the steps of the create", || {
        let taken = server.take_histograms();
        (!taken.stage(Stage::EndToEnd).is_empty()).then_some(taken)
    });
    let mut log = Vec::new();
    first.write_log(&mut log).expect("a log in memory");
    let read = Histograms::read_log(&log).expect("our own log");
    assert_eq!(read.stage(Stage::EndToEnd), first.stage(Stage::EndToEnd));
    session.set_data("/t", b"x", -1).wait().expect("a write");
    let second = wait_for("the steps of the write", || {
        let taken = server.take_histograms();
        (!taken.stage(Stage::EndToEnd).is_empty()).then_some(taken)
    });
    assert_eq!(second.stage(Stage::EndToEnd).len(), 1, "the create was taken before");
    assert!(server.histograms().stage(Stage::EndToEnd).len() >= 2, "the total has both");
}

#[test]
fn a_second_server_on_one_data_directory_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = alone(&folder);
    let config = || Config::builder(folder.path()).build().expect("a configuration");
    match Server::start(config()) {
        Err(Error::InUse { path }) => assert_eq!(path, folder.path()),
        Err(other) => panic!("expected InUse, got: {other}"),
        Ok(_) => panic!("two servers on one directory"),
    }
    session(&first).create("/a", b"1", CreateMode::Persistent).wait().expect("the first goes on");
    first.shutdown().expect("an orderly end");
    let second = Server::start(config()).expect("the directory is free again");
    second.wait_serving(PATIENCE).expect("it serves");
    assert_eq!(session(&second).get_data("/a").wait().expect("what the first wrote").0, b"1");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config::standalone(folder.path())
        .client(HostPort::new("127.0.0.1", address.port()))
        .build()
        .expect("a configuration");
    let error = Server::start(config).expect_err("the port is taken");
    assert!(matches!(error, Error::Address(_)), "{error:?}");
    assert_eq!(error.to_string(), format!("{address} is in use by another process"));
}

#[test]
fn a_server_without_a_quorum_does_not_serve_and_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut configs = Config::local_ensemble(folder.path(), 3).expect("three configurations");
    let lone = Server::start(configs.remove(0)).expect("a server starts");
    let limit = Duration::from_millis(300);
    match lone.wait_serving(limit) {
        Err(Error::NotServing { waited }) => assert_eq!(waited, limit),
        other => panic!("expected NotServing, got {other:?}"),
    }
    assert_eq!(lone.role(), Role::Looking);
    assert!(matches!(lone.session(Duration::from_secs(5)), Err(Error::ConnectionLost)));
}
