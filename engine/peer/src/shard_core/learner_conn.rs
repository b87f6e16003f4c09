//! The leader's side of a learner's connection: handshake, the sync stream, live traffic.
//!
//! From the moment of its `SyncTask` on, everything broadcast is queued behind the learner's sync
//! stream, so that nothing between the two is skipped or doubled (R18).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use quorate_proto::leader::LearnerRole;
use quorate_proto::learner_handler::LearnerHandler;
use quorate_proto::{Epoch, Instant, ServerId, SyncPlan, Ticks, ToLeader, ToLearner, Zxid};
use quorate_wire::Frame;
use quorate_wire::native::header::SNAP_CHUNK_BODY_MAX;
use quorate_wire::native::packet::{decode_to_leader, encode_to_learner};
use quorate_wire::native::proposal::{is_proposal, proposal_zxid};
use quorate_wire::reader::FrameReader;

use super::{Fault, Kind, ShardCore};
use crate::links::{ConnKey, NetOp, SyncTask, ToLog, ToQuorum, ToTree};

/// Bytes of a snapshot in one frame.
const SNAP_FRAME_LEN: usize = SNAP_CHUNK_BODY_MAX as usize / 2;

#[derive(Debug)]
pub(super) struct LearnerConn {
    pub(super) reader: FrameReader,
    sid: ServerId,
    role: Option<LearnerRole>,
    handler: LearnerHandler,
    stage: Stage,
    /// Proposals that an observer gets when they are committed.
    informs: VecDeque<(Zxid, Frame)>,
    new_leader: Zxid,
    heard: Option<Instant>,
    /// The first piece of its snapshot, if the tree core was faster than the quorum core's task.
    early_chunk: Option<(Frame, bool)>,
}

#[derive(Debug)]
enum Stage {
    /// Before its sync plan is known.
    Handshake,
    Syncing(Syncing),
    Live,
}

#[derive(Debug)]
struct Syncing {
    source: Source,
    task: Box<SyncTask>,
    held: Vec<Frame>,
    held_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Snapshot,
    Log,
}

impl LearnerConn {
    pub(super) fn new(now: Instant, reader: FrameReader, sid: ServerId, ticks: Ticks) -> Self {
        Self {
            reader,
            sid,
            role: None,
            handler: LearnerHandler::new(now, ticks),
            stage: Stage::Handshake,
            informs: VecDeque::new(),
            new_leader: Zxid::ZERO,
            heard: None,
            early_chunk: None,
        }
    }

    fn is_observer(&self) -> bool {
        self.role == Some(LearnerRole::Observer)
    }
}

impl ShardCore {
    fn learner(&mut self, conn: ConnKey) -> Option<&mut LearnerConn> {
        match self.conns.get_mut(&conn).map(|entry| &mut entry.kind) {
            Some(Kind::Learner(learner)) => Some(learner),
            _ => None,
        }
    }

    // --- what the learner sends ----------------------------------------------------------------

    pub(super) fn learner_frame(
        &mut self,
        now: Instant,
        conn: ConnKey,
        frame: Frame,
    ) -> Result<(), Fault> {
        let packet = decode_to_leader(&frame)?;
        let half_tick = self.config.ticks.half_tick();
        let Some(learner) = self.learner(conn) else { return Ok(()) };
        learner.handler.admit(now, &packet).map_err(|error| Fault::Refused(error.to_string()))?;
        match packet {
            ToLeader::FollowerInfo { sid, accepted_epoch } => {
                self.join(conn, sid, LearnerRole::Follower, accepted_epoch)?;
            }
            ToLeader::ObserverInfo { sid, accepted_epoch } => {
                self.join(conn, sid, LearnerRole::Observer, accepted_epoch)?;
            }
            ToLeader::AckEpoch { current_epoch, last_zxid } => {
                self.to_quorum(ToQuorum::EpochAcked(conn, current_epoch, last_zxid));
            }
            ToLeader::Ack { zxid } if zxid == learner.new_leader => {
                self.to_quorum(ToQuorum::Synced(conn));
            }
            ToLeader::Ack { zxid } => self.to_quorum(ToQuorum::Acked(conn, zxid)),
            ToLeader::Request(request) => {
                let heard = learner.heard.is_some_and(|at| now.since(at) < half_tick);
                if !heard {
                    learner.heard = Some(now);
                    self.to_quorum(ToQuorum::Heard(conn, None));
                }
                self.to_tree(ToTree::Forwarded(conn, request, now));
            }
            ToLeader::Ping { round, touched } => {
                self.to_quorum(ToQuorum::Heard(conn, Some(round)));
                if !touched.is_empty() {
                    self.to_tree(ToTree::Touched(conn, touched));
                }
            }
            ToLeader::Revalidate { session, timeout: _ } => {
                self.to_tree(ToTree::Revalidate(conn, session));
            }
        }
        Ok(())
    }

    fn join(
        &mut self,
        conn: ConnKey,
        sid: ServerId,
        role: LearnerRole,
        accepted: Epoch,
    ) -> Result<(), Fault> {
        // The leader judges it too, but only when the older connection of that server is closed.
        let may_join = self.config.membership.may_join(sid, role);
        let Some(learner) = self.learner(conn) else { return Ok(()) };
        if learner.sid != sid || !may_join {
            let why = format!("server {sid} may not join as {role:?}");
            return Err(Fault::Refused(why));
        }
        learner.role = Some(role);
        self.learners.push(conn);
        self.to_quorum(ToQuorum::Joined(conn, sid, role, accepted));
        Ok(())
    }

    pub(super) fn learner_closed(&mut self, conn: ConnKey, learner: &LearnerConn) {
        self.learners.retain(|other| *other != conn);
        if let Stage::Syncing(_) = learner.stage {
            self.to_log(ToLog::StreamCancel(conn));
        }
        self.to_tree(ToTree::LearnerGone(conn));
        self.to_quorum(ToQuorum::Gone(conn));
    }

    pub(super) fn close_learners(&mut self, now: Instant) {
        let learners: Vec<ConnKey> = self
            .conns
            .iter()
            .filter(|(_, entry)| matches!(entry.kind, Kind::Learner(_)))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in learners {
            self.net(NetOp::Close { conn, flush: false });
            self.forget(now, conn, "this server does not lead any more");
        }
    }

    // --- handshake and sync --------------------------------------------------------------------

    pub(super) fn leader_info(&mut self, conn: ConnKey, epoch: Epoch) {
        let Some(learner) = self.learner(conn) else { return };
        learner.handler.sent_leader_info();
        self.send_packet(conn, &ToLearner::LeaderInfo { epoch });
    }

    fn send_packet(&mut self, conn: ConnKey, packet: &ToLearner<Frame>) {
        let frame = self.encode(|out| encode_to_learner(packet, out));
        self.send_frame(conn, frame);
    }

    pub(super) fn begin_sync(&mut self, now: Instant, conn: ConnKey, mut task: Box<SyncTask>) {
        let (plan, cut, at, from_log) = (task.plan, task.cut, task.snapshot_at, task.from_log);
        let Some(learner) = self.learner(conn) else { return };
        let source = if plan == SyncPlan::Snap { Source::Snapshot } else { Source::Log };
        learner.new_leader = task.new_leader;
        if learner.is_observer() {
            // They are due at their commit, which may be held behind this stream.
            let outstanding = core::mem::take(&mut task.outstanding);
            let informs = outstanding.into_iter().map(|frame| (proposal_zxid(&frame), frame));
            learner.informs.extend(informs);
        }
        learner.stage = Stage::Syncing(Syncing { source, task, held: Vec::new(), held_bytes: 0 });
        let packet = match plan {
            SyncPlan::Diff { .. } => ToLearner::Diff { zxid: cut },
            SyncPlan::Trunc { to } | SyncPlan::TruncThenDiff { to } => {
                ToLearner::Trunc { zxid: to }
            }
            SyncPlan::Snap => ToLearner::Snap { zxid: at },
        };
        self.send_packet(conn, &packet);
        match source {
            Source::Snapshot => {
                let early = self.learner(conn).and_then(|learner| learner.early_chunk.take());
                if let Some((bytes, last)) = early {
                    self.snap_chunk(now, conn, bytes, last);
                }
            }
            Source::Log => self.stream_log(now, conn, from_log),
        }
    }

    pub(super) fn snap_chunk(&mut self, now: Instant, conn: ConnKey, bytes: Frame, last: bool) {
        match self.learner(conn) {
            Some(LearnerConn { stage: Stage::Handshake, early_chunk, .. }) => {
                // Links from different cores have no order: its task comes from the quorum core.
                *early_chunk = Some((bytes, last));
                return;
            }
            Some(LearnerConn { stage: Stage::Syncing(sync), .. })
                if sync.source == Source::Snapshot => {}
            // The learner went while its cut was being made: the cut must not stay open.
            Some(_) | None => return self.to_tree(ToTree::LearnerGone(conn)),
        }
        // A slice holds at least one whole node, which may be longer than a frame's body.
        let mut rest = bytes;
        while rest.len() > SNAP_FRAME_LEN {
            let bytes = rest.slice(..SNAP_FRAME_LEN);
            rest = rest.slice(SNAP_FRAME_LEN..);
            self.send_packet(conn, &ToLearner::SnapChunk { bytes, last: false });
        }
        self.send_packet(conn, &ToLearner::SnapChunk { bytes: rest, last });
        if !last {
            self.notify_below(conn);
            return;
        }
        let Some(learner) = self.learner(conn) else { return };
        let Stage::Syncing(sync) = &mut learner.stage else { return };
        sync.source = Source::Log;
        let from_log = sync.task.from_log;
        self.stream_log(now, conn, from_log);
    }

    /// Asks for the log's part of the stream, if it has one.
    fn stream_log(&mut self, now: Instant, conn: ConnKey, from_log: Option<(Zxid, Zxid)>) {
        match from_log {
            Some((after, through)) => self.to_log(ToLog::Stream(conn, after, through)),
            None => self.finish_sync(now, conn),
        }
    }

    pub(super) fn stream_chunk(
        &mut self,
        now: Instant,
        conn: ConnKey,
        frames: Vec<Frame>,
        last: bool,
    ) {
        let is_syncing = self.learner(conn).is_some_and(
            |learner| matches!(&learner.stage, Stage::Syncing(sync) if sync.source == Source::Log),
        );
        if !is_syncing {
            return self.to_log(ToLog::StreamCancel(conn));
        }
        for frame in frames {
            self.send_proposal(now, conn, frame);
        }
        if last {
            self.finish_sync(now, conn);
        } else {
            self.notify_below(conn);
        }
    }

    /// The next piece is asked for when the connection has drained this far.
    fn notify_below(&mut self, conn: ConnKey) {
        self.net(NetOp::NotifyBelow(conn, self.config.limits.chunk_len));
    }

    pub(super) fn learner_writable(&mut self, now: Instant, conn: ConnKey) {
        let Some(learner) = self.learner(conn) else { return };
        let Stage::Syncing(sync) = &learner.stage else { return };
        learner.handler.sent_stream(now);
        match sync.source {
            Source::Snapshot => self.to_tree(ToTree::NextChunk(conn)),
            Source::Log => self.to_log(ToLog::StreamNext(conn)),
        }
        // Progress is life: a learner that drains a long stream is not silent.
        self.to_quorum(ToQuorum::Heard(conn, None));
    }

    /// Everything up to the cut has been sent: the rest of the stream, then live traffic.
    fn finish_sync(&mut self, now: Instant, conn: ConnKey) {
        let Some(learner) = self.learner(conn) else { return };
        let Stage::Syncing(sync) = core::mem::replace(&mut learner.stage, Stage::Live) else {
            return;
        };
        for frame in sync.task.tail {
            self.send_proposal(now, conn, frame);
        }
        let zxid = sync.task.new_leader;
        if let Some(learner) = self.learner(conn) {
            learner.handler.sent_new_leader(zxid);
        }
        self.send_packet(conn, &ToLearner::NewLeader { zxid });
        for frame in sync.task.outstanding {
            self.send_proposal(now, conn, frame);
        }
        for frame in sync.held {
            self.send_held(now, conn, frame);
        }
    }

    fn send_held(&mut self, now: Instant, conn: ConnKey, frame: Frame) {
        if is_proposal(&frame) {
            self.send_proposal(now, conn, frame);
        } else {
            self.send_frame(conn, frame);
        }
    }

    fn send_proposal(&mut self, now: Instant, conn: ConnKey, frame: Frame) {
        let Some(learner) = self.learner(conn) else { return };
        learner.handler.sent_proposal(now, proposal_zxid(&frame));
        self.send_frame(conn, frame);
    }

    pub(super) fn up_to_date(&mut self, conn: ConnKey, committed: Zxid) {
        let Some(learner) = self.learner(conn) else { return };
        learner.handler.sent_up_to_date();
        self.send_packet(conn, &ToLearner::UpToDate { committed });
    }

    // --- live traffic --------------------------------------------------------------------------

    /// Sends to one learner now, or behind its sync stream.
    fn send_live(&mut self, now: Instant, conn: ConnKey, frame: Frame) {
        let backlog_max = self.config.limits.backlog_max;
        let Some(learner) = self.learner(conn) else { return };
        match &mut learner.stage {
            Stage::Handshake => {}
            Stage::Live => self.send_held(now, conn, frame),
            Stage::Syncing(sync) => {
                sync.held_bytes += frame.len();
                sync.held.push(frame);
                if sync.held_bytes > backlog_max {
                    let why = "it is too slow to catch up".to_string();
                    self.fail(now, conn, &Fault::Refused(why));
                }
            }
        }
    }

    pub(super) fn propose(&mut self, now: Instant, zxid: Zxid, frame: &Frame) {
        self.each_learner(|shard, conn| match shard.learner(conn) {
            Some(learner)
                if learner.is_observer() && !matches!(learner.stage, Stage::Handshake) =>
            {
                learner.informs.push_back((zxid, frame.clone()));
            }
            _ => shard.send_live(now, conn, frame.clone()),
        });
    }

    /// Does something for each learner, in the order in which they joined; it may close that learner.
    fn each_learner(&mut self, mut each: impl FnMut(&mut Self, ConnKey)) {
        let mut at = 0;
        while let Some(conn) = self.learners.get(at).copied() {
            each(self, conn);
            if self.learners.get(at) == Some(&conn) {
                at += 1;
            }
        }
    }

    pub(super) fn commit(&mut self, now: Instant, through: Zxid) {
        let frame = self.encode(|out| encode_to_learner(&ToLearner::Commit { zxid: through }, out));
        self.each_learner(|shard, conn| {
            shard.inform(now, conn, through);
            shard.send_live(now, conn, frame.clone());
        });
    }

    /// An observer gets the transactions that are committed now.
    fn inform(&mut self, now: Instant, conn: ConnKey, through: Zxid) {
        loop {
            let Some(learner) = self.learner(conn) else { return };
            match learner.informs.front() {
                Some((zxid, _)) if *zxid <= through => {}
                Some(_) | None => return,
            }
            if let Some((_, frame)) = learner.informs.pop_front() {
                self.send_live(now, conn, frame);
            }
        }
    }

    pub(super) fn ping(&mut self, now: Instant, round: u64, committed: Zxid) {
        let packet = ToLearner::Ping { round, committed };
        let frame = self.encode(|out| encode_to_learner(&packet, out));
        self.each_learner(|shard, conn| {
            match shard.learner(conn).and_then(|learner| learner.handler.overdue(now)) {
                Some(overdue) => shard.fail(now, conn, &Fault::Refused(overdue.to_string())),
                None => shard.send_live(now, conn, frame.clone()),
            }
        });
    }

    pub(super) fn to_learner(&mut self, now: Instant, conn: ConnKey, packet: &ToLearner<Frame>) {
        let frame = self.encode(|out| encode_to_learner(packet, out));
        self.send_live(now, conn, frame);
    }
}
