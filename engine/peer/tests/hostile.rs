//! Scenarios of bad bytes and silence on every kind of connection: they cost that connection, one
//! line for the operator, and nothing else (R28).
//!
//! Knows no clock and no socket: time is the ensemble's.

mod ensemble;
mod told;

use std::ops::Deref;

use ensemble::client::{self, Heard, PERSISTENT, encoded};
use ensemble::prng::Prng;
use ensemble::{CLUSTER_ID, CONFIG_HASH, Options, SHAPES, ms};
use quorate_peer::links::Port;
use quorate_proto::{Epoch, ServerId, SessionId, ToLeader, ToLearner, Zxid};
use quorate_tree::TxnHeader;
use quorate_wire::Frame;
use quorate_wire::jute::opcode;
use quorate_wire::jute::txn::encode_header;
use quorate_wire::native::hello::{Hello, Purpose, Status, VERSION_MAX, Welcome};
use quorate_wire::native::packet::{to_leader_frame, to_learner_frame};
use quorate_wire::native::proposal::ProposalEncoder;
use quorate_wire::native::request::ForwardedRequest;
use told::Told;

/// An ensemble with an observer that is down: the test speaks in its name.
fn with_absent_observer(seed: u64, shape: ensemble::Shape) -> (Told, usize) {
    let mut e = Told::start(Options { seed, observers: 1, ..Options::new(shape, 3) });
    e.await_leader();
    e.kill(3);
    let leader = e.await_leader();
    e.notices.clear();
    (e, leader)
}

fn hello(purpose: Purpose) -> Frame {
    let hello = Hello::ours(ServerId(4), purpose, CONFIG_HASH, CLUSTER_ID);
    encoded(|out| hello.encode(out))
}

fn garbage(prng: &mut Prng) -> Vec<u8> {
    let len = 40 + prng.below(100);
    (0..len).map(|_| prng.next() as u8).collect()
}

/// What the absent observer says on the way to the leader's service, step by step.
fn observers_steps() -> Vec<Frame> {
    vec![
        hello(Purpose::Learner),
        to_leader_frame(&ToLeader::ObserverInfo {
            sid: ServerId(4),
            accepted_epoch: Epoch::new(1),
        }),
        to_leader_frame(&ToLeader::AckEpoch { current_epoch: None, last_zxid: Zxid::ZERO }),
        to_leader_frame(&ToLeader::Ack { zxid: Epoch::new(1).start() }),
    ]
}

/// A connection on which these steps were said and taken.
fn speak(e: &mut Told, server: usize, port: Port, steps: &[Frame]) -> usize {
    let raw = e.raw(server, port);
    for step in steps {
        e.raw_send(raw, step);
        e.run_for(ms(10));
        assert!(!e.raw_closed(raw), "{} steps: {}", steps.len(), e.state());
    }
    raw
}

/// The ensemble goes on as if nothing had happened.
fn assert_undisturbed(e: &mut Told, leader: usize) {
    assert_eq!(e.leader(), Some(leader), "{}", e.state());
    let c = e.open((leader + 1) % 3);
    let path = format!("/t{}", e.now.as_nanos());
    assert_eq!(e.ask(c, |xid| client::create(xid, &path, b"", PERSISTENT)).err, 0);
    e.hang_up(c);
    assert_eq!(e.fatals, Vec::new());
}

/// Sends `bad` after each number of steps; each time one connection and one line must be the price.
fn after_each_step<B>(port: Port, steps: &[Frame], bad: impl Fn(&mut Prng) -> B)
where
    B: Deref<Target = [u8]>,
{
    for shape in SHAPES {
        let (mut e, leader) = with_absent_observer(1, shape);
        let mut prng = Prng::new(5);
        for taken in 0..=steps.len() {
            e.notices.clear();
            let raw = speak(&mut e, leader, port, &steps[..taken]);
            e.raw_send(raw, &bad(&mut prng));
            e.run_until("it is closed", |e| e.raw_closed(raw));
            e.run_for(ms(10));
            assert_eq!(e.warnings().len(), 1, "step {taken}: {:?}", e.warnings());
            assert_undisturbed(&mut e, leader);
        }
    }
}

#[test]
fn garbage_costs_a_learners_connection_in_every_state() {
    after_each_step(Port::Quorum, &observers_steps(), garbage);
}

#[test]
fn a_flipped_bit_costs_a_learners_connection_in_every_state() {
    after_each_step(Port::Quorum, &observers_steps(), |_| {
        let ping = ToLeader::Ping { round: 1, touched: Frame::default() };
        let mut bytes = to_leader_frame(&ping).to_vec();
        bytes[34] ^= 1;
        bytes
    });
}

#[test]
fn an_oversized_length_costs_a_learners_connection_at_its_first_bytes() {
    after_each_step(Port::Quorum, &observers_steps(), |_| {
        vec![b'Q', b'r', 1, 1, 0xff, 0xff, 0xff, 0x7f]
    });
}

#[test]
fn a_leaders_packet_costs_a_learners_connection() {
    after_each_step(Port::Quorum, &observers_steps(), |_| {
        to_learner_frame(&ToLearner::Commit { zxid: Zxid::new(Epoch::new(9), 9) })
    });
}

#[test]
fn garbage_costs_an_election_connection_in_every_state() {
    after_each_step(Port::Election, &[hello(Purpose::Election)], garbage);
}

#[test]
fn garbage_costs_a_clients_connection_in_every_state() {
    let steps = [client::connect(SessionId(0), &[0; 16], 4000, 0)];
    after_each_step(Port::Client, &steps, |_| vec![0xff; 64]);
    // A header that is too short; a length beyond jute.maxbuffer.
    after_each_step(Port::Client, &steps, |_| vec![0, 0, 0, 3, 1, 2, 3]);
    after_each_step(Port::Client, &steps, |_| vec![0, 1, 0, 0]);
}

#[test]
fn a_first_frame_may_not_be_long() {
    let mut bytes = vec![0, 0, 0x3f, 0xff];
    bytes.resize(4 + 0x3fff, 0);
    let mut options = Options::new(SHAPES[0], 3);
    options.limits.connect_frame_max = 1000;
    let mut e = Told::start(options);
    let leader = e.await_leader();
    let raw = e.raw(leader, Port::Client);
    e.raw_send(raw, &bytes);
    e.run_until("it is closed", |e| e.raw_closed(raw));
    assert!(e.raw_heard(raw).is_empty());
    assert_eq!(e.warnings().len(), 1);
    assert_undisturbed(&mut e, leader);
}

#[test]
fn a_forwarded_request_that_cannot_be_read_costs_the_learner() {
    for shape in SHAPES {
        let (mut e, leader) = with_absent_observer(1, shape);
        for payload in [vec![1, 2, 3], vec![0xff; 40]] {
            e.notices.clear();
            let raw = speak(&mut e, leader, Port::Quorum, &observers_steps());
            let request = ToLeader::Request(Frame::copy_from(&payload));
            e.raw_send(raw, &to_leader_frame(&request));
            e.run_until("it is closed", |e| e.raw_closed(raw));
            e.run_for(ms(10));
            assert_eq!(e.warnings().len(), 1, "{:?}", e.warnings());
            assert_undisturbed(&mut e, leader);
        }
    }
}

#[test]
fn whatever_operation_a_learner_forwards_the_order_goes_on() {
    for shape in SHAPES {
        let (mut e, leader) = with_absent_observer(1, shape);
        let mut prng = Prng::new(3);
        let raw = speak(&mut e, leader, Port::Quorum, &observers_steps());
        for n in 0..300 {
            let opcodes = [-11, -10, -1, 0, 1, 2, 4, 5, 7, 9, 14, 15, 77, 100, 101];
            let len = prng.below(60);
            let body: Vec<u8> = (0..len).map(|_| prng.next() as u8).collect();
            let request = ForwardedRequest {
                session: SessionId(prng.below(3) as u64),
                cxid: n,
                opcode: opcodes[prng.below(opcodes.len())],
                ids: Vec::new(),
                body: Frame::copy_from(&body),
            };
            let payload = encoded(|out| request.encode(out));
            e.raw_send(raw, &to_leader_frame(&ToLeader::Request(payload)));
        }
        e.run_for(ms(500));
        assert_undisturbed(&mut e, leader);
        assert!(!e.raw_closed(raw), "{}", e.state());
    }
}

#[test]
fn strangers_on_every_port_must_introduce_themselves_in_time() {
    for shape in SHAPES {
        for port in [Port::Client, Port::Quorum, Port::Election] {
            let (mut e, leader) = with_absent_observer(1, shape);
            let silent = e.raw(leader, port);
            let slow = e.raw(leader, port);
            e.raw_send(slow, b"Q");
            let follower = (leader + 1) % 3;
            for _ in 0..110 {
                e.run_for(ms(100));
            }
            assert!(e.raw_closed(silent) && e.raw_closed(slow), "{port:?}");
            assert_eq!(e.warnings().len(), 2, "{:?}", e.warnings());
            assert_eq!(e.role(follower), "follower");
            assert_undisturbed(&mut e, leader);
        }
    }
}

#[test]
fn strangers_beyond_the_limit_are_refused_and_members_still_come_in() {
    let (mut e, leader) = with_absent_observer(1, SHAPES[0]);
    for _ in 0..80 {
        e.raw(leader, Port::Client);
    }
    e.run_for(ms(100));
    assert!(e.warnings().iter().any(|text| text.contains("too many")), "{:?}", e.warnings());
    e.run_for(ms(11_000));
    assert_undisturbed(&mut e, leader);
}

#[test]
fn a_server_of_another_ensemble_or_with_another_list_is_refused() {
    for shape in SHAPES {
        let (mut e, leader) = with_absent_observer(1, shape);
        let ours = Hello::ours(ServerId(4), Purpose::Learner, CONFIG_HASH, CLUSTER_ID);
        let strange = [
            (Hello { cluster_id: 99, ..ours }, Status::Config),
            (Hello { config_hash: 99, ..ours }, Status::Config),
            (Hello { sid: ServerId(77), ..ours }, Status::UnknownServer),
            (Hello { sid: ServerId(leader as u64 + 1), ..ours }, Status::UnknownServer),
            (Hello { purpose: Purpose::Election, ..ours }, Status::Purpose),
        ];
        for (hello, expected) in strange {
            e.notices.clear();
            let raw = e.raw(leader, Port::Quorum);
            e.raw_send(raw, &encoded(|out| hello.encode(out)));
            e.run_until("it is closed", |e| e.raw_closed(raw));
            let welcome = Welcome::decode(e.raw_heard(raw)).expect("an answer");
            assert_eq!(welcome.status, expected);
            assert_eq!(e.warnings().len(), 1, "{:?}", e.warnings());
        }
        assert_undisturbed(&mut e, leader);
    }
}

// --- a leader that lies --------------------------------------------------------------------------

/// A follower falls into the hands of somebody in its leader's place; the welcome is said.
fn fall_for_an_impostor(e: &mut Told, leader: usize, follower: usize) -> usize {
    let known = e.raw_count();
    e.impostor = Some(leader);
    e.reset(leader, follower);
    e.run_until("the follower comes", |e| e.raw_count() > known);
    let raw = e.raw_count() - 1;
    let sid = ServerId(leader as u64 + 1);
    let welcome = Welcome { version: VERSION_MAX, sid, status: Status::Welcome };
    e.raw_send(raw, &encoded(|out| welcome.encode(out)));
    raw
}

fn proposal(zxid: Zxid, committed: Zxid, body: &[u8]) -> Frame {
    let mut encoder = ProposalEncoder::new();
    encoder.begin(zxid, committed).extend_from_slice(body);
    encoder.finish()
}

/// A transaction's header as it should be, and a record.
fn txn(zxid: Zxid, kind: i32, record: &[u8]) -> Frame {
    let header = TxnHeader { session: SessionId(7), cxid: 1, zxid, time: 5, kind };
    encoded(|out| {
        encode_header(&header, out);
        out.extend_from_slice(record);
    })
}

#[test]
fn a_leader_that_lies_costs_its_link_and_not_the_server() {
    let epoch = Epoch::new(1);
    let at = |last: Zxid, n: u32| Zxid::new(last.epoch(), last.counter() + n);
    type Lie = Box<dyn Fn(Zxid) -> Vec<Frame>>;
    // In a stream that begins as it should.
    let behind_diff = move |last: Zxid, frame: Frame| {
        vec![to_learner_frame(&ToLearner::Diff { zxid: last }), frame]
    };
    let lies: Vec<(&str, Lie)> = vec![
        ("garbage", Box::new(|_| vec![Frame::copy_from(&[0xaa; 64])])),
        (
            "a learner's packet",
            Box::new(|last| vec![to_leader_frame(&ToLeader::Ack { zxid: last })]),
        ),
        (
            "a commit before the plan",
            Box::new(|last| vec![to_learner_frame(&ToLearner::Commit { zxid: last })]),
        ),
        (
            "a truncation below the commits",
            Box::new(|_| vec![to_learner_frame(&ToLearner::Trunc { zxid: Zxid::ZERO })]),
        ),
        (
            "a header that names another zxid",
            Box::new(move |last| {
                let body = txn(at(last, 7), opcode::ERROR, &1i32.to_be_bytes());
                behind_diff(last, proposal(at(last, 1), Zxid::ZERO, &body))
            }),
        ),
        (
            "a record that ends early",
            Box::new(move |last| {
                let body = txn(at(last, 1), opcode::CREATE, &[0, 0, 0, 9, 1]);
                behind_diff(last, proposal(at(last, 1), Zxid::ZERO, &body))
            }),
        ),
        (
            "a type that does not exist",
            Box::new(move |last| {
                let body = txn(at(last, 1), 4711, &[]);
                behind_diff(last, proposal(at(last, 1), Zxid::ZERO, &body))
            }),
        ),
        (
            "no header at all",
            Box::new(move |last| behind_diff(last, proposal(at(last, 1), Zxid::ZERO, &[1, 2, 3]))),
        ),
        (
            "a gap",
            Box::new(move |last| {
                let body = txn(at(last, 5), opcode::ERROR, &1i32.to_be_bytes());
                behind_diff(last, proposal(at(last, 5), Zxid::ZERO, &body))
            }),
        ),
        (
            "a commit beyond itself",
            Box::new(move |last| {
                let body = txn(at(last, 1), opcode::ERROR, &1i32.to_be_bytes());
                behind_diff(last, proposal(at(last, 1), at(last, 9), &body))
            }),
        ),
        (
            "an inform with a commit beyond itself",
            Box::new(move |last| {
                let body = txn(at(last, 1), opcode::ERROR, &1i32.to_be_bytes());
                let inner = proposal(at(last, 1), at(last, 9), &body);
                let inform = ToLearner::Inform { zxid: at(last, 1), txn: inner };
                behind_diff(last, to_learner_frame(&inform))
            }),
        ),
        (
            "uptodate before newleader",
            Box::new(move |last| {
                behind_diff(last, to_learner_frame(&ToLearner::UpToDate { committed: last }))
            }),
        ),
        (
            "newleader of another epoch",
            Box::new(move |last| {
                let zxid = Epoch::new(9).start();
                behind_diff(last, to_learner_frame(&ToLearner::NewLeader { zxid }))
            }),
        ),
        (
            "a piece of no snapshot",
            Box::new(move |last| {
                let chunk = ToLearner::SnapChunk { bytes: Frame::copy_from(&[1; 50]), last: true };
                behind_diff(last, to_learner_frame(&chunk))
            }),
        ),
    ];
    for shape in SHAPES {
        for (name, lie) in &lies {
            let (mut e, leader) = with_absent_observer(1, shape);
            let follower = (leader + 1) % 3;
            let c = e.open(leader);
            assert_eq!(e.ask(c, |xid| client::create(xid, "/a", b"", PERSISTENT)).err, 0);
            e.run_until("level", |e| e.tree(follower).applied() == e.tree(leader).applied());
            let raw = fall_for_an_impostor(&mut e, leader, follower);
            e.raw_send(raw, &to_learner_frame(&ToLearner::LeaderInfo { epoch }));
            e.run_for(ms(20));
            let last = e.tree(follower).applied();
            e.notices.clear();
            e.impostor = None;
            let bytes: Vec<u8> = lie(last).iter().flat_map(|frame| frame.to_vec()).collect();
            e.raw_send(raw, &bytes);
            e.run_until(name, |e| e.raw_closed(raw));
            e.run_for(ms(1));
            let mine = e.notices.iter().filter(|(at, notice)| {
                *at == follower && notice.level >= quorate_peer::notice::Level::Warn
            });
            assert_eq!(mine.count(), 1, "{name}: {}", e.state());
            e.run_until("it follows again", |e| e.is_serving(follower));
            assert_undisturbed(&mut e, leader);
        }
    }
}

#[test]
fn a_snapshot_that_breaks_off_leaves_the_old_history() {
    for shape in SHAPES {
        let (mut e, leader) = with_absent_observer(1, shape);
        let follower = (leader + 1) % 3;
        let c = e.open(leader);
        assert_eq!(e.ask(c, |xid| client::create(xid, "/a", b"", PERSISTENT)).err, 0);
        e.run_until("level", |e| e.tree(follower).applied() == e.tree(leader).applied());
        let last = e.tree(follower).applied();
        let raw = fall_for_an_impostor(&mut e, leader, follower);
        e.raw_send(raw, &to_learner_frame(&ToLearner::LeaderInfo { epoch: Epoch::new(1) }));
        e.run_for(ms(20));
        e.raw_send(raw, &to_learner_frame(&ToLearner::Snap { zxid: last }));
        let chunk = ToLearner::SnapChunk { bytes: Frame::copy_from(&[]), last: false };
        e.raw_send(raw, &to_learner_frame(&chunk));
        e.run_for(ms(20));
        e.impostor = None;
        e.raw_send(raw, &[0; 64]);
        e.run_until("it follows again", |e| e.is_serving(follower));
        assert_undisturbed(&mut e, leader);
        assert!(e.tree(follower).applied() >= last);
    }
}

#[test]
fn a_clients_request_that_cannot_be_read_keeps_its_place() {
    for shape in SHAPES {
        let (mut e, leader) = with_absent_observer(1, shape);
        let c = e.open((leader + 1) % 3);
        for opcode in [opcode::CREATE, opcode::GET_DATA, opcode::MULTI, opcode::SET_WATCHES] {
            let xid = e.clients[c].xid();
            let mut bytes = vec![0, 0, 0, 12];
            bytes.extend_from_slice(&xid.to_be_bytes());
            bytes.extend_from_slice(&opcode.to_be_bytes());
            bytes.extend_from_slice(&[0xff, 0, 0, 1]);
            e.send(c, Frame::copy_from(&bytes));
            let answer = e.answer(c);
            assert_eq!(answer.xid, xid);
            assert_ne!(answer.err, 0);
        }
        assert_eq!(e.ask(c, |xid| client::create(xid, "/a", b"", PERSISTENT)).err, 0);
        e.tell(c, client::close);
        e.run_until("the end", |e| e.clients[c].closed);
        assert_eq!(e.clients[c].heard.last(), Some(&Heard::Closed));
    }
}
