//! Nodes as large as requests may make them, through a snapshot and a restart.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use quorate::config::JUTE_MAXBUFFER_MAX;
use quorate::{Acl, Config, CreateMode, Op, Permissions, Server, Session};
use quorate_proto::Ticks;
use quorate_tree::acl::Id;
use tempfile::TempDir;

/// Longer than anything here takes, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
const TICKS: Ticks = Ticks { tick: Duration::from_millis(100), init_limit: 50, sync_limit: 20 };

fn start(folder: &TempDir, jute_maxbuffer: u32) -> Server {
    let config = Config::builder(folder.path()).ticks(TICKS).with(|settings| {
        settings.jute_maxbuffer = jute_maxbuffer;
        settings.snap_count = 2;
    });
    let server = Server::start(config.build().expect("a configuration")).expect("it starts");
    server.wait_serving(PATIENCE).expect("it serves");
    server
}

fn session(server: &Server) -> Session {
    server.session(PATIENCE).expect("a session")
}

/// Its name ends in its zxid.
fn newest_snapshot(folder: &TempDir) -> Option<u64> {
    let names = fs::read_dir(folder.path().join("quorate")).expect("the store's folder");
    let zxids = names.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        u64::from_str_radix(name.strip_prefix("snapshot.")?, 16).ok()
    });
    zxids.max()
}

/// Writes until a snapshot holds everything up to now.
fn wait_for_snapshot(folder: &TempDir, session: &Session) {
    let (now, until) = (session.last_zxid().as_u64(), Instant::now() + PATIENCE);
    session.create("/tick", b"", CreateMode::Persistent).wait().expect("a create");
    while newest_snapshot(folder).is_none_or(|zxid| zxid < now) {
        session.set_data("/tick", b"", -1).wait().expect("a write");
        assert!(Instant::now() < until, "waited {PATIENCE:?} for a snapshot");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A list with one entry of `len` bytes.
fn long_list(len: usize) -> Vec<Acl> {
    let mut id = vec![b'x'; len];
    id[0] = b':';
    let everyone = Acl::open();
    let scheme = (*b"digest").into();
    vec![everyone, Acl { perms: Permissions::READ, id: Id { scheme, id: id.into() } }]
}

fn create(session: &Session, path: &str, acl: Vec<Acl>) {
    let path = path.as_bytes();
    let create = Op::Create { path, data: None, acl, flags: 0, with_stat: false };
    session.multi(&[create]).wait().expect("a create");
}

#[test]
fn the_largest_node_comes_back_from_a_snapshot() {
    let len = JUTE_MAXBUFFER_MAX as usize - 200;
    let data: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = start(&folder, JUTE_MAXBUFFER_MAX);
    let writer = session(&server);
    create(&writer, "/large", long_list(len));
    writer.set_data("/large", &data, -1).wait().expect("a write");
    wait_for_snapshot(&folder, &writer);
    drop(writer);
    server.shutdown().expect("an orderly end");
    let server = start(&folder, JUTE_MAXBUFFER_MAX);
    let (found, _) = session(&server).get_data("/large").wait().expect("a read");
    assert!(found == data);
}

#[test]
fn nodes_with_long_lists_come_back_from_a_snapshot() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = start(&folder, 0xf_ffff);
    let writer = session(&server);
    for n in 0..6 {
        create(&writer, &format!("/long-{n}"), long_list(1_000_000));
    }
    wait_for_snapshot(&folder, &writer);
    drop(writer);
    server.shutdown().expect("an orderly end");
    let server = start(&folder, 0xf_ffff);
    session(&server).exists("/long-5").wait().expect("a read");
}
