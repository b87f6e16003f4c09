//! Single cores, one input at a time: what only an order between two links can bring about.
//!
//! Takes the ensemble's disk, and no ensemble.

mod ensemble;

use std::time::Duration;

use ensemble::client::encoded;
use ensemble::disk::Disk;

use quorate_peer::links::{
    ConnKey, Effect, Message, NetInput, NetOp, Port, ShardInput, SyncTask, Term, ToLog, ToQuorum,
    ToShard,
};
use quorate_peer::log_core::{LogCore, LogInput};
use quorate_peer::shard_core::{ShardConfig, ShardCore, Words};
use quorate_peer::{Core, Limits};
use quorate_proto::leader::LearnerRole;
use quorate_proto::quorum::Membership;
use quorate_proto::{
    Durable, Epoch, Instant, ServerId, SyncPlan, Ticks, ToLeader, ToLearner, Zxid,
};
use quorate_storage::{DiskOp, StoreConfig};
use quorate_wire::Frame;
use quorate_wire::native::hello::{Hello, Purpose, Status, VERSION_MAX, Welcome};
use quorate_wire::native::packet::{
    decode_to_leader, decode_to_learner, to_leader_frame, to_learner_frame,
};
use quorate_wire::native::proposal::ProposalEncoder;

const NOW: Instant = Instant::from_nanos(1_000_000_000);

fn conn(generation: u32) -> ConnKey {
    ConnKey { shard: 0, index: 1, generation }
}

fn shard() -> ShardCore {
    ShardCore::new(ShardConfig {
        index: 0,
        sid: ServerId(1),
        membership: Membership::majority(vec![ServerId(1), ServerId(2), ServerId(3)], Vec::new()),
        ticks: Ticks::default(),
        limits: Limits::DEFAULT,
        config_hash: 1,
        cluster_id: 1,
        clients_per_host_max: 0,
        words: Words::All,
    })
}

fn effects(core: &mut ShardCore) -> Vec<Effect> {
    core::iter::from_fn(|| core.poll_effect()).collect()
}

fn link(core: &mut ShardCore, message: ToShard) -> Vec<Effect> {
    core.handle(NOW, ShardInput::Link(message));
    effects(core)
}

fn net(core: &mut ShardCore, input: NetInput) -> Vec<Effect> {
    core.handle(NOW, ShardInput::Net(input));
    effects(core)
}

fn sent(effects: &[Effect]) -> Vec<Frame> {
    let frame = |effect: &Effect| match effect {
        Effect::Net(NetOp::Send(_, frame)) => Some(frame.clone()),
        _ => None,
    };
    effects.iter().filter_map(frame).collect()
}

fn told(effects: &[Effect]) -> Vec<&ToQuorum> {
    let message = |effect| match effect {
        &Effect::Send(Message::Quorum(ref message)) => Some(message),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

/// A shard with a welcomed link to the leader, of term 2.
fn linked() -> ShardCore {
    let mut core = shard();
    let effects = link(&mut core, ToShard::ConnectLeader(ServerId(2), Term(2)));
    let [Effect::Net(NetOp::Connect { token, .. })] = effects[..] else {
        panic!("no attempt: {effects:?}");
    };
    net(&mut core, NetInput::Connected { token, conn: conn(1) });
    let welcome = Welcome { version: VERSION_MAX, sid: ServerId(2), status: Status::Welcome };
    let bytes = encoded(|out| welcome.encode(out));
    let effects = net(&mut core, NetInput::Received { conn: conn(1), bytes });
    assert!(matches!(told(&effects)[..], [ToQuorum::LeaderUp(Term(2))]));
    core
}

#[test]
fn what_was_meant_for_another_leader_is_not_sent_to_this_one() {
    let mut core = linked();
    let packet = ToLeader::Ack { zxid: Zxid::new(Epoch::new(1), 4) };
    assert_eq!(sent(&link(&mut core, ToShard::ToLeader(Term(1), packet.clone()))), []);
    let frames = sent(&link(&mut core, ToShard::ToLeader(Term(2), packet.clone())));
    assert_eq!(frames.len(), 1);
    assert_eq!(decode_to_leader(&frames[0]), Ok(packet));
}

#[test]
fn what_a_leader_says_carries_the_term_of_its_link() {
    let mut core = linked();
    let packet = ToLearner::LeaderInfo { epoch: Epoch::new(3) };
    let bytes = to_learner_frame(&packet);
    let effects = net(&mut core, NetInput::Received { conn: conn(1), bytes });
    let said = told(&effects);
    assert!(matches!(&said[..], [ToQuorum::FromLeader(Term(2), got)] if *got == packet));
    let effects = net(&mut core, NetInput::Closed { conn: conn(1), reason: None });
    assert!(matches!(told(&effects)[..], [ToQuorum::LeaderDown(Term(2), _)]));
}

/// A shard of a leader with a follower that has promised and waits for its stream.
fn with_promised_learner() -> ShardCore {
    let mut core = shard();
    link(&mut core, ToShard::Accepting(true));
    net(&mut core, NetInput::Accepted { conn: conn(7), port: Port::Quorum, peer: None });
    let hello = Hello::ours(ServerId(3), Purpose::Learner, 1, 1);
    let say = |core: &mut ShardCore, bytes| {
        let effects = net(core, NetInput::Received { conn: conn(7), bytes });
        assert!(!effects.iter().any(|e| matches!(e, Effect::Notice(_))), "{effects:?}");
        effects
    };
    say(&mut core, encoded(|out| hello.encode(out)));
    let info = ToLeader::FollowerInfo { sid: ServerId(3), accepted_epoch: Epoch::ZERO };
    let effects = say(&mut core, to_leader_frame(&info));
    assert!(matches!(told(&effects)[..], [ToQuorum::Joined(_, _, LearnerRole::Follower, _)]));
    link(&mut core, ToShard::LeaderInfo(conn(7), Epoch::new(1)));
    let promise = ToLeader::AckEpoch { current_epoch: None, last_zxid: Zxid::ZERO };
    say(&mut core, to_leader_frame(&promise));
    core
}

#[test]
fn a_piece_of_a_snapshot_that_overtakes_its_task_is_kept() {
    let at = Zxid::new(Epoch::new(1), 9);
    let new_leader = Epoch::new(1).start();
    let chunk = ToShard::SnapChunk(conn(7), Frame::from_static(b"whole"), true);
    let task = ToShard::Sync(
        conn(7),
        Box::new(SyncTask {
            plan: SyncPlan::Snap,
            snapshot_at: at,
            cut: at,
            from_log: None,
            tail: Vec::new(),
            outstanding: Vec::new(),
            new_leader,
        }),
    );
    let mut core = with_promised_learner();
    assert_eq!(sent(&link(&mut core, chunk.clone())), []);
    let early = sent(&link(&mut core, task.clone()));
    let packets: Vec<_> =
        early.iter().map(|frame| decode_to_learner(frame).expect("ours")).collect();
    assert_eq!(
        packets,
        [
            ToLearner::Snap { zxid: at },
            ToLearner::SnapChunk { bytes: Frame::from_static(b"whole"), last: true },
            ToLearner::NewLeader { zxid: new_leader },
        ]
    );
    let mut core = with_promised_learner();
    let mut in_order = sent(&link(&mut core, task));
    in_order.extend(sent(&link(&mut core, chunk)));
    assert_eq!(in_order, early, "either order gives the same stream");
}

/// The attempts that a shard makes at its start to reach its peers.
fn election_attempts(core: &mut ShardCore) -> Vec<(u64, ServerId)> {
    core.handle_timeout(NOW);
    let attempt = |effect: &Effect| match effect {
        Effect::Net(NetOp::Connect { token, to, port: Port::Election }) => Some((*token, *to)),
        _ => None,
    };
    effects(core).iter().filter_map(attempt).collect()
}

#[test]
fn an_election_link_that_is_closed_is_told_by_the_name_of_its_server() {
    let mut core = shard();
    let attempts = election_attempts(&mut core);
    let (token, _) = attempts.iter().find(|(_, to)| *to == ServerId(3)).expect("to each voter");
    net(&mut core, NetInput::Connected { token: *token, conn: conn(1) });
    let welcome = Welcome { version: VERSION_MAX, sid: ServerId(3), status: Status::Config };
    let bytes = encoded(|out| welcome.encode(out));
    let effects = net(&mut core, NetInput::Received { conn: conn(1), bytes });
    let lines: Vec<&str> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notice(notice) => Some(notice.text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("closed election link to server 3: "), "{lines:?}");
}

#[test]
fn a_peer_that_takes_a_connection_and_says_nothing_is_tried_again() {
    let mut core = shard();
    let attempts = election_attempts(&mut core);
    assert_eq!(attempts.len(), 2, "one to each of the other voters");
    net(&mut core, NetInput::Connected { token: attempts[0].0, conn: conn(1) });
    let late = NOW + Duration::from_secs(6);
    core.handle_timeout(late);
    let closed = effects(&mut core);
    assert!(
        closed
            .iter()
            .any(|e| matches!(e, Effect::Net(NetOp::Close { conn: c, .. }) if *c == conn(1)))
    );
    core.handle_timeout(late + Duration::from_secs(2));
    let again = effects(&mut core);
    assert!(again.iter().any(|e| matches!(e, Effect::Net(NetOp::Connect { .. }))));
}

/// What a log core wants done on its disk.
fn disk_ops(core: &mut LogCore) -> (Vec<DiskOp>, Vec<Message>) {
    let (mut ops, mut said) = (Vec::new(), Vec::new());
    while let Some(effect) = core.poll_effect() {
        match effect {
            Effect::Disk(op) => ops.push(op),
            Effect::Send(message) => said.push(message),
            Effect::Notice(_) => {}
            other => panic!("not a log core's: {other:?}"),
        }
    }
    (ops, said)
}

/// Does all that a log core wants done, and gives what it says meanwhile.
fn settle(core: &mut LogCore, disk: &mut Disk) -> Vec<Message> {
    let mut all = Vec::new();
    loop {
        let (ops, said) = disk_ops(core);
        all.extend(said);
        ops.into_iter().for_each(|op| disk.submit(op));
        let Some(done) = disk.step() else { return all };
        core.handle(NOW, LogInput::Disk(done));
    }
}

/// The snapshot and the records that are said to be durable, the newest of each.
fn durable(said: &[Message]) -> (Option<Zxid>, Option<Zxid>) {
    let (mut snapshot, mut log) = (None, None);
    for message in said {
        match message {
            Message::Quorum(ToQuorum::Durable(Durable::Snapshot { zxid })) => {
                snapshot = Some(*zxid)
            }
            Message::Quorum(ToQuorum::Durable(Durable::Log { through })) => log = Some(*through),
            _ => {}
        }
    }
    (snapshot, log)
}

#[test]
fn the_last_piece_of_a_snapshot_that_waits_for_the_quarantine_waits_for_nothing_else() {
    let at = Zxid::new(Epoch::new(1), 9);
    let next = Zxid::new(Epoch::new(1), 10);
    for has_record in [false, true] {
        let mut disk = Disk::default();
        let config = StoreConfig {
            segment_len: 128 * 1024,
            body_len_max: 64 * 1024,
            ..StoreConfig::new(ServerId(1), 1)
        };
        let mut core = LogCore::new(config, disk.listing());
        core.handle_timeout(NOW);
        settle(&mut core, &mut disk);
        // The log is empty, so the snapshot may lack what this server has acknowledged.
        let mut inputs = vec![
            ToLog::BeginInstall(at),
            ToLog::InstallChunk(Frame::from_static(b"first"), false),
            ToLog::InstallChunk(Frame::from_static(b"last"), true),
        ];
        if has_record {
            let mut encoder = ProposalEncoder::new();
            encoder.begin(next, at).extend_from_slice(b"record");
            inputs.push(ToLog::Append(next, encoder.finish(), NOW));
        }
        for input in inputs {
            core.handle(NOW, LogInput::Link(input));
        }
        // The mark is on the disk when everything else that can be done is done.
        let (mut ops, _) = disk_ops(&mut core);
        let is_mark = |op: &DiskOp| matches!(op, DiskOp::Write { sync: true, .. });
        let mark = ops.remove(ops.iter().position(is_mark).expect("the mark is written"));
        ops.into_iter().for_each(|op| disk.submit(op));
        assert_eq!(durable(&settle(&mut core, &mut disk)), (None, None), "not before the mark");
        disk.submit(mark);
        let said = settle(&mut core, &mut disk);
        assert_eq!(durable(&said), (Some(at), has_record.then_some(next)));
    }
}
