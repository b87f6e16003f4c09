//! Every placement of cores on threads under the same short load: over TCP and within the process,
//! with a leader that leaves.
//!
//! Measures nothing, and says nothing about which placement is best.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use bytes::{Bytes, BytesMut};
use common::{PATIENCE, TICKS, start_all, wait_all, wait_for};
use quorate::config::{HostPort, Placement};
use quorate::{Acl, Config, CreateMode, Role, Server, Session};
use quorate_wire::jute::client as jute;
use tempfile::TempDir;

/// Writes of each session, and sessions of each kind and server.
const WRITES: i32 = 40;
const SESSIONS: usize = 4;

/// A client of the client port: one request at a time, its answer's code and body.
struct TcpClient {
    stream: TcpStream,
    xid: i32,
}

impl TcpClient {
    /// Connects and opens a session; `None` if the server does not serve.
    fn try_open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.set_nodelay(true).expect("an option of TCP");
        let mut client = Self { stream, xid: 0 };
        let mut out = BytesMut::new();
        jute::ConnectRequest::fresh(30_000).encode(&mut out);
        client.stream.write_all(&out).ok()?;
        let frame = client.frame()?;
        let response = jute::ConnectResponse::decode(&frame).expect("a connect response");
        (response.timeout_ms > 0).then_some(client)
    }

    fn open(address: SocketAddr) -> Self {
        wait_for("a session over TCP", || Self::try_open(address))
    }

    fn frame(&mut self) -> Option<Bytes> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len).ok()?;
        let mut body = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut body).ok()?;
        Some(Bytes::from(body))
    }

    fn ask(&mut self, encode: impl FnOnce(i32, &mut BytesMut)) -> (i32, Bytes) {
        self.xid += 1;
        let mut out = BytesMut::new();
        encode(self.xid, &mut out);
        self.stream.write_all(&out).expect("a request is sent");
        let frame = self.frame().expect("a reply");
        let (header, _) = jute::ReplyHeader::decode(&frame).expect("a reply header");
        assert_eq!(header.xid, self.xid, "replies come in the order of the requests");
        (header.err, frame.slice(jute::ReplyHeader::LEN..))
    }

    fn create(&mut self, path: &str) {
        let acl = [Acl::open()];
        let flags = CreateMode::Persistent.flags();
        let (err, _) = self.ask(|xid, out| {
            jute::encode_create(xid, path.as_bytes(), Some(b""), &acl, flags, false, out);
        });
        assert_eq!(err, 0, "create {path}");
    }

    fn set(&mut self, path: &str, data: &[u8], version: i32) {
        let (err, _) = self.ask(|xid, out| {
            jute::encode_set_data(xid, path.as_bytes(), Some(data), version, out);
        });
        assert_eq!(err, 0, "set {path}");
    }

    fn get(&mut self, path: &str) -> (Vec<u8>, i32) {
        let (err, body) =
            self.ask(|xid, out| jute::encode_get_data(xid, path.as_bytes(), false, out));
        assert_eq!(err, 0, "get {path}");
        let (data, stat) = jute::decode_data_and_stat(&body).expect("data and a stat");
        (data.unwrap_or_default().to_vec(), stat.version)
    }

    fn sync(&mut self) {
        let (err, _) = self.ask(|xid, out| jute::encode_sync(xid, b"/", out));
        assert_eq!(err, 0, "sync");
    }
}

fn start(folder: &TempDir, placement: Placement, shards: u16) -> Vec<Server> {
    let change = |builder: quorate::config::Builder| {
        builder
            .ticks(TICKS)
            .placement(placement)
            .shards(shards)
            .client(HostPort::new("127.0.0.1", 0))
    };
    let configs = Config::local_ensemble_with(folder.path(), 3, change).expect("configurations");
    start_all(configs)
}

/// Writes and reads back with each version, so that a lost or doubled write is seen.
fn write_in_process(session: &Session, path: &str) {
    session.create(path, b"", CreateMode::Persistent).wait().expect("a create");
    let pending: Vec<_> =
        (0..WRITES).map(|n| session.set_data(path, &n.to_be_bytes(), n)).collect();
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.wait().expect("a write").version as usize, n + 1);
    }
    let (data, stat) = session.get_data(path).wait().expect("a read of one's own writes");
    assert_eq!((data, stat.version), ((WRITES - 1).to_be_bytes().to_vec(), WRITES));
}

fn write_over_tcp(client: &mut TcpClient, path: &str) {
    client.create(path);
    for n in 0..WRITES {
        client.set(path, &n.to_be_bytes(), n);
    }
    assert_eq!(client.get(path), ((WRITES - 1).to_be_bytes().to_vec(), WRITES));
}

/// Everything that `round` wrote, as each server shows it to both kinds of clients.
fn check(servers: &[Server], paths: &[String]) {
    for server in servers {
        let session = wait_for("a session", || server.session(PATIENCE).ok());
        session.sync("/").wait().expect("a sync");
        let mut client = TcpClient::open(server.client_address().expect("a client port"));
        client.sync();
        for path in paths {
            let (data, stat) = session.get_data(path).wait().expect("a node");
            assert_eq!((&data[..], stat.version), (&(WRITES - 1).to_be_bytes()[..], WRITES));
            assert_eq!(client.get(path), (data, stat.version), "{path}");
        }
    }
}

/// All sessions of all servers write at the same time; the paths written.
fn load(servers: &[Server], round: &str) -> Vec<String> {
    let mut paths = Vec::new();
    thread::scope(|scope| {
        for (server_index, server) in servers.iter().enumerate() {
            for index in 0..SESSIONS {
                let inside = format!("/{round}-in-{server_index}-{index}");
                let outside = format!("/{round}-tcp-{server_index}-{index}");
                paths.extend([inside.clone(), outside.clone()]);
                scope.spawn(move || {
                    let session = wait_for("a session", || server.session(PATIENCE).ok());
                    write_in_process(&session, &inside);
                });
                scope.spawn(move || {
                    let address = server.client_address().expect("a client port");
                    write_over_tcp(&mut TcpClient::open(address), &outside);
                });
            }
        }
    });
    paths
}

fn serves_and_survives_its_leader(placement: Placement, shards: u16) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut servers = start(&folder, placement, shards);
    let first = load(&servers, "first");
    check(&servers, &first);

    let leads = |server: &Server| server.role() == Role::Leader;
    let leader = servers.iter().position(leads).expect("a leader");
    servers.remove(leader).shutdown().expect("an orderly end");
    wait_for("another leader", || servers.iter().any(leads).then_some(()));
    wait_all(&servers);
    let second = load(&servers, "second");
    check(&servers, &second);
    check(&servers, &first);
    for server in servers {
        server.shutdown().expect("an orderly end");
    }
}

#[test]
fn one_thread_serves_and_survives_its_leader() {
    serves_and_survives_its_leader(Placement::Single, 0);
}

#[test]
fn two_threads_serve_and_survive_their_leader() {
    serves_and_survives_its_leader(Placement::Compact, 0);
}

#[test]
fn two_shards_serve_and_survive_their_leader() {
    serves_and_survives_its_leader(Placement::Dedicated, 2);
}

#[test]
fn servers_that_are_known_by_name_find_each_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let named = |builder: quorate::config::Builder| {
        builder.ticks(TICKS).with(|settings| {
            let members = settings.servers.iter_mut();
            for address in members.flat_map(|member| &mut member.addresses) {
                address.host = "localhost".to_owned();
            }
        })
    };
    let configs = Config::local_ensemble_with(folder.path(), 3, named).expect("configurations");
    let servers = start_all(configs);
    write_in_process(&servers[0].session(PATIENCE).expect("a session"), "/by-name");
}

#[test]
fn a_watch_on_one_shard_sees_a_write_through_the_other() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config::builder(folder.path())
        .ticks(TICKS)
        .placement(Placement::Dedicated)
        .shards(2)
        .build()
        .expect("a configuration");
    let server = common::start(config);
    // Sessions take the shards in turn, so that neighbours are on different ones.
    let sessions: Vec<Session> =
        (0..4).map(|_| server.session(PATIENCE).expect("a session")).collect();
    sessions[0].create("/w", b"", CreateMode::Persistent).wait().expect("a create");
    for watcher in &sessions {
        watcher.get_data_and_watch("/w").wait().expect("a read with a watch");
    }
    sessions[1].set_data("/w", b"x", -1).wait().expect("a write");
    for watcher in &sessions {
        let event = wait_for("the event", || watcher.next_event());
        assert_eq!(event.path, "/w");
    }
    server.shutdown().expect("an orderly end");
}
