//! Scenarios of sessions and requests, told over a whole ensemble in memory, in both shapes.
//!
//! Knows no clock and no socket: time is the ensemble's.

mod ensemble;
mod told;

use ensemble::client::{self, EPHEMERAL, Heard, PERSISTENT};
use ensemble::{Options, ms};
use quorate_peer::Limits;
use quorate_peer::links::Port;
use quorate_proto::SessionId;
use quorate_tree::ErrorCode;
use quorate_tree::request::Query;
use quorate_wire::Frame;
use quorate_wire::jute::client::{ClientRequest, EventKind, decode_data_and_stat};
use told::Told;

fn tell(voters: usize, story: impl Fn(&mut Told, usize)) {
    told::tell(|shape| Options::new(shape, voters), story);
}

fn value(body: &[u8]) -> String {
    let (data, _) = decode_data_and_stat(body).expect("a node's data");
    String::from_utf8(data.unwrap_or_default().to_vec()).expect("text")
}

#[test]
fn a_write_is_answered_through_the_leader_and_through_a_follower() {
    tell(3, |e, leader| {
        for server in [leader, (leader + 1) % 3] {
            let c = e.open(server);
            let path = format!("/from{server}");
            assert_eq!(e.ask(c, |xid| client::create(xid, &path, b"x", PERSISTENT)).err, 0);
            assert_eq!(e.ask(c, |xid| client::get(xid, &path, false)).err, 0);
        }
        e.run_until("all are level", |e| e.is_level());
        assert_eq!(e.warnings(), Vec::<&str>::new());
    });
}

#[test]
fn a_pipeline_of_reads_writes_syncs_and_errors_is_answered_in_order() {
    tell(3, |e, leader| {
        for server in [leader, (leader + 1) % 3] {
            let c = e.open(server);
            let path = format!("/p{server}");
            let mut sent = Vec::new();
            sent.push((e.tell(c, |xid| client::create(xid, &path, b"0", PERSISTENT)), 0, None));
            for n in 1..20 {
                sent.push((e.tell(c, |xid| client::sync(xid, &path)), 0, None));
                let expected = Some((n - 1).to_string());
                sent.push((e.tell(c, |xid| client::get(xid, &path, false)), 0, expected));
                let refused = ErrorCode::NodeExists.code();
                let create = |xid| client::create(xid, &path, b"", PERSISTENT);
                sent.push((e.tell(c, create), refused, None));
                let data = n.to_string();
                sent.push((e.tell(c, |xid| client::set(xid, &path, data.as_bytes())), 0, None));
                sent.push((e.tell(c, |xid| client::get(xid, &path, false)), 0, Some(data)));
            }
            for (xid, err, data) in sent {
                let answer = e.answer(c);
                assert_eq!((answer.xid, answer.err), (xid, err));
                if let Some(data) = data {
                    assert_eq!(
                        value(&answer.body),
                        data,
                        "a read sees what was sent before it, and no more"
                    );
                }
            }
        }
    });
}

#[test]
fn a_sync_waits_for_a_quorum_and_not_for_the_leaders_belief() {
    tell(3, |e, leader| {
        let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
        let c = e.open(leader);
        e.hold(leader, a, true);
        e.hold(leader, b, true);
        e.tell(c, |xid| client::sync(xid, "/"));
        e.run_for(ms(300));
        assert_eq!(e.clients[c].heard.len(), 1, "no quorum has answered");
        e.hold(leader, a, false);
        let answer = e.answer(c);
        assert_eq!(answer.err, 0);
    });
}

#[test]
fn a_sync_through_a_follower_shows_what_was_acknowledged_before_it() {
    tell(3, |e, leader| {
        let follower = (leader + 1) % 3;
        let (w, r) = (e.open(leader), e.open(follower));
        e.ask(w, |xid| client::create(xid, "/s", b"0", PERSISTENT));
        for n in 1..20 {
            let data = n.to_string();
            let zxid = e.ask(w, |xid| client::set(xid, "/s", data.as_bytes())).zxid;
            e.tell(r, |xid| client::sync(xid, "/s"));
            e.tell(r, |xid| client::get(xid, "/s", false));
            assert!(e.answer(r).zxid >= zxid);
            assert_eq!(value(&e.answer(r).body), data);
        }
    });
}

#[test]
fn a_watch_fires_before_the_reply_that_shows_the_change() {
    tell(3, |e, leader| {
        let follower = (leader + 1) % 3;
        let (own, other) = (e.open(follower), e.open(follower));
        e.ask(own, |xid| client::create(xid, "/w", b"0", PERSISTENT));
        e.ask(other, |xid| client::sync(xid, "/w"));
        for c in [own, other] {
            assert_eq!(e.ask(c, |xid| client::get(xid, "/w", true)).err, 0);
        }
        e.tell(own, |xid| client::set(xid, "/w", b"1"));
        let event = Heard::Event { kind: EventKind::NodeDataChanged, path: "/w".to_string() };
        assert_eq!(e.next(own), event, "the writer's own watch, before its reply");
        assert_eq!(e.answer(own).err, 0);
        e.tell(other, |xid| client::get(xid, "/w", false));
        assert_eq!(e.next(other), event);
        assert_eq!(value(&e.answer(other).body), "1");
        e.ask(own, |xid| client::set(xid, "/w", b"2"));
        e.run_for(ms(50));
        assert_eq!(e.clients[other].heard.len(), e.clients[other].seen, "a watch fires once");
    });
}

#[test]
fn set_watches_fires_what_was_missed_and_arms_the_rest() {
    tell(3, |e, leader| {
        let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
        let (w, c) = (e.open(leader), e.open(a));
        for path in ["/old", "/new"] {
            e.ask(w, |xid| client::create(xid, path, b"", PERSISTENT));
        }
        e.ask(c, |xid| client::sync(xid, "/"));
        for path in ["/old", "/new"] {
            e.ask(c, |xid| client::get(xid, path, true));
        }
        let relative = e.clients[c].zxid_seen as u64;
        e.hang_up(c);
        e.ask(w, |xid| client::set(xid, "/old", b"x"));
        let c = e.reattach(c, b);
        assert!(matches!(e.next(c), Heard::Session { timeout_ms: 1.., .. }));
        e.ask(c, |xid| client::sync(xid, "/"));
        let watches = Query::SetWatches {
            relative_zxid: relative as i64,
            data: vec![b"/old", b"/new"],
            exist: Vec::new(),
            child: Vec::new(),
        };
        e.send(c, client::request(-8, &ClientRequest::Read(watches)));
        let changed =
            |path: &str| Heard::Event { kind: EventKind::NodeDataChanged, path: path.to_string() };
        assert_eq!(e.next(c), changed("/old"));
        assert_eq!(e.answer(c).xid, -8);
        e.ask(w, |xid| client::set(xid, "/new", b"x"));
        assert_eq!(e.next(c), changed("/new"));
    });
}

#[test]
fn ephemeral_nodes_end_with_close_and_with_expiry() {
    tell(3, |e, leader| {
        let follower = (leader + 1) % 3;
        let (w, closing, silent) = (e.open(leader), e.open(follower), e.open(follower));
        e.ask(closing, |xid| client::create(xid, "/closing", b"", EPHEMERAL));
        e.ask(silent, |xid| client::create(xid, "/silent", b"", EPHEMERAL));
        let xid = e.tell(closing, client::close);
        assert_eq!(e.answer(closing).xid, xid);
        assert_eq!(e.next(closing), Heard::Closed);
        let gone = ErrorCode::NoNode.code();
        e.ask(w, |xid| client::sync(xid, "/"));
        assert_eq!(e.ask(w, |xid| client::exists(xid, "/closing", false)).err, gone);
        assert_eq!(e.ask(w, |xid| client::exists(xid, "/silent", true)).err, 0);
        // Nobody hears of the silent one any more; the watcher keeps its own session with pings.
        for _ in 0..60 {
            e.run_for(ms(100));
            e.send(w, client::ping());
        }
        let mut heard = e.next(w);
        while matches!(heard, Heard::Reply { xid: -2, .. }) {
            heard = e.next(w);
        }
        let event = Heard::Event { kind: EventKind::NodeDeleted, path: "/silent".to_string() };
        assert_eq!(heard, event);
        assert!(e.clients[silent].closed, "the expired session's connection is closed");
        assert_eq!(e.clients[silent].heard.last(), Some(&Heard::Closed), "without a frame");
    });
}

#[test]
fn pings_through_a_follower_keep_a_session_alive() {
    tell(3, |e, leader| {
        let c = e.open((leader + 1) % 3);
        for _ in 0..40 {
            e.run_for(ms(500));
            e.send(c, client::ping());
        }
        assert!(!e.clients[c].closed);
        assert_eq!(e.tree(leader).machine().tree().session_count(), 1);
    });
}

#[test]
fn requests_behind_close_session_are_not_answered() {
    tell(3, |e, leader| {
        for server in [leader, (leader + 1) % 3] {
            let c = e.open(server);
            let before = e.tell(c, |xid| client::create(xid, "/before", b"", EPHEMERAL));
            let close = e.tell(c, client::close);
            e.tell(c, |xid| client::create(xid, "/behind", b"", PERSISTENT));
            e.tell(c, |xid| client::get(xid, "/", false));
            assert_eq!(e.answer(c).xid, before);
            assert_eq!(e.answer(c).xid, close);
            assert_eq!(e.next(c), Heard::Closed);
        }
        let c = e.open(leader);
        let gone = ErrorCode::NoNode.code();
        assert_eq!(e.ask(c, |xid| client::exists(xid, "/behind", false)).err, gone);
    });
}

#[test]
fn a_session_reattaches_here_and_elsewhere_and_its_numbers_begin_anew() {
    tell(3, |e, leader| {
        let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
        let first = e.open(a);
        let session = e.clients[first].session;
        e.ask(first, |xid| client::create(xid, "/mine", b"", EPHEMERAL));
        let mut c = first;
        for server in [a, b, leader, a, leader, leader] {
            let old = c;
            c = e.reattach(old, server);
            assert_eq!(e.next(c), Heard::Session { id: session, timeout_ms: 4000 }, "at {server}");
            // The very numbers of the connection before, other writes.
            for n in 0..3 {
                let data = format!("{server}.{n}");
                let zxid = e.ask(c, |xid| client::set(xid, "/mine", data.as_bytes())).zxid;
                let read = e.ask(c, |xid| client::get(xid, "/mine", false));
                assert_eq!(value(&read.body), data);
                assert!(read.zxid >= zxid);
            }
            // The old connection may write no more.
            if !e.clients[old].closed {
                e.tell(old, |xid| client::set(xid, "/mine", b"stolen"));
                e.run_until("the old connection ends", |e| e.clients[old].closed);
            }
            let read = e.ask(c, |xid| client::get(xid, "/mine", false));
            assert_eq!(value(&read.body), format!("{server}.2"));
        }
    });
}

#[test]
fn a_wrong_password_is_refused_and_the_rightful_connection_is_not_touched() {
    tell(3, |e, leader| {
        for server in [leader, (leader + 1) % 3] {
            let c = e.open(server);
            let session = e.clients[c].session;
            let thief = e.client_with(server, session, &[9; 16], 4000, 0);
            assert_eq!(e.next(thief), Heard::Session { id: SessionId(0), timeout_ms: 0 });
            assert_eq!(e.next(thief), Heard::Closed);
            assert_eq!(e.ask(c, |xid| client::exists(xid, "/", false)).err, 0);
            let path = format!("/{server}");
            assert_eq!(e.ask(c, |xid| client::create(xid, &path, b"", PERSISTENT)).err, 0);
        }
    });
}

#[test]
fn a_dead_session_is_refused_with_a_frame() {
    tell(3, |e, leader| {
        for server in [leader, (leader + 1) % 3] {
            let c = e.open(server);
            e.tell(c, client::close);
            e.run_until("the end", |e| e.clients[c].closed);
            let c = e.reattach(c, server);
            assert_eq!(e.next(c), Heard::Session { id: SessionId(0), timeout_ms: 0 });
            assert_eq!(e.next(c), Heard::Closed);
        }
    });
}

#[test]
fn a_client_that_has_seen_more_than_this_server_is_sent_away() {
    tell(3, |e, leader| {
        let seen = (e.tree(leader).applied().as_u64() + 100) as i64;
        let c = e.client_with(leader, SessionId(0), &[0; 16], 4000, seen);
        assert_eq!(e.next(c), Heard::Closed, "without a word");
    });
}

#[test]
fn a_new_leader_grants_every_session_its_full_timeout() {
    tell(3, |e, leader| {
        let other = (leader + 1) % 3;
        let c = e.open(other);
        e.ask(c, |xid| client::create(xid, "/mine", b"", EPHEMERAL));
        e.run_for(ms(3000));
        e.crash(leader);
        let new = e.await_leader();
        assert_ne!(new, leader);
        // The leader change took its time: by the old clock the session would be over soon.
        e.run_for(ms(2500));
        assert_eq!(e.tree(new).machine().tree().session_count(), 1);
        let c = e.reattach(c, new);
        assert!(matches!(e.next(c), Heard::Session { timeout_ms: 4000, .. }));
        assert_eq!(e.ask(c, |xid| client::exists(xid, "/mine", false)).err, 0);
        e.hang_up(c);
        e.run_for(ms(6000));
        assert_eq!(e.tree(new).machine().tree().session_count(), 0);
        assert_eq!(e.tree(new).machine().tree().ephemeral_count(), 0);
    });
}

#[test]
fn outstanding_and_pipeline_limits_pause_clients_and_lose_nothing() {
    let options = |shape| {
        let options = Options::new(shape, 3);
        let limits = Limits { outstanding_max: 3, pipeline_max: 4, ..options.limits };
        Options { limits, ..options }
    };
    told::tell(options, |e, leader| {
        let follower = (leader + 1) % 3;
        e.run_for(ms(10));
        let clients = [e.open(leader), e.open(follower), e.open(leader)];
        for n in 0..60 {
            for (at, c) in clients.iter().enumerate() {
                let path = format!("/c{at}n{n}");
                e.tell(*c, |xid| client::create(xid, &path, b"", PERSISTENT));
            }
        }
        // Nothing commits while two disks are held: the pressure must reach the clients.
        for server in [follower, (leader + 2) % 3] {
            e.servers[server].disk_held = true;
        }
        e.run_for(ms(100));
        assert!(!e.is_read(clients[0]), "a client of the leader is not read any more");
        for server in [follower, (leader + 2) % 3] {
            e.servers[server].disk_held = false;
        }
        for c in clients {
            for n in 0..60 {
                let answer = e.answer(c);
                assert_eq!((answer.xid, answer.err), (n + 1, 0));
            }
        }
        assert!(e.is_read(clients[0]));
    });
}

#[test]
fn an_unknown_operation_is_refused_and_ends_the_connection() {
    tell(3, |e, leader| {
        let c = e.open(leader);
        let mut bytes = vec![0, 0, 0, 8, 0, 0, 0, 1];
        bytes.extend_from_slice(&77i32.to_be_bytes());
        e.send(c, Frame::copy_from(&bytes));
        assert_eq!(e.answer(c).err, ErrorCode::Unimplemented.code());
        assert_eq!(e.next(c), Heard::Closed);
    });
}

#[test]
fn an_administrators_words_are_answered_also_without_a_leader() {
    tell(3, |e, leader| {
        let ask = |e: &mut Told, word: &[u8]| {
            let c = e.dial(leader, Port::Client, true);
            e.send(c, Frame::copy_from(word));
            e.run_until("the answer ends", |e| e.clients[c].closed);
            match e.next(c) {
                Heard::Text(text) => text,
                other => panic!("{other:?}"),
            }
        };
        assert!(ask(e, b"srvr").contains("Mode: leader"));
        assert!(ask(e, b"qsta").contains("\"synced\":true"));
        e.isolate(leader);
        e.run_until("it stops to lead", |e| e.role(leader) == "looking");
        assert!(ask(e, b"srvr").contains("not currently serving"));
    });
}

#[test]
fn a_draining_server_answers_what_it_has_taken_and_takes_no_more() {
    tell(3, |e, leader| {
        let follower = (leader + 1) % 3;
        let c = e.open(follower);
        for n in 0..10 {
            let path = format!("/{n}");
            e.tell(c, |xid| client::create(xid, &path, b"", PERSISTENT));
        }
        e.run_for(ms(2));
        e.drain_shards(follower);
        e.run_until("quiet", |e| e.tree(follower).is_quiet());
        e.run_for(ms(20));
        let answered = e.clients[c].heard.len();
        e.tell(c, |xid| client::create(xid, "/late", b"", PERSISTENT));
        let late = e.client(follower);
        e.run_for(ms(100));
        assert_eq!(e.clients[c].heard.len(), answered, "nothing is taken any more");
        assert!(
            !matches!(e.clients[late].heard.first(), Some(Heard::Session { .. })),
            "and no session is opened"
        );
        assert!(!e.clients[c].closed, "the connection is the driver's to close");
    });
}
