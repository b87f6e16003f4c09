//! The log, the epochs and the snapshots of one server behind one link.
//!
//! Wraps `storage::Store`: turns messages into its calls and its events into messages. Executes no
//! disk operation.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use quorate_proto::{Durable, Instant, Zxid};
use quorate_storage::disk::{DiskDone, DiskOp, Listing};
use quorate_storage::{SnapshotKind, Store, StoreConfig, StoreEvent, StreamId, TailFault};
use quorate_tree::hash::IdMap;
use quorate_wire::Frame;
use quorate_wire::native::proposal::{is_proposal, proposal_zxid};

use crate::core_trait::Core;
use crate::links::{
    ConnKey, Effect, LINK_SHARD, Message, Recovered, ToLog, ToQuorum, ToShard, ToTree,
};
use crate::notice::{Level, Notice};
use crate::quorum_core::may_forget;
use crate::timing::{Stage, Timings};

/// What happens to a log core.
#[derive(Clone, Debug)]
pub enum LogInput {
    /// A message of another core.
    Link(ToLog),
    /// A disk operation has ended.
    Disk(DiskDone),
}

/// The core that owns what survives.
#[derive(Debug)]
pub struct LogCore {
    store: Store,
    streams: IdMap<StreamId, ConnKey>,
    by_conn: IdMap<ConnKey, StreamId>,
    /// Records handed over and not yet written, with the moment.
    queued: VecDeque<(Zxid, Instant)>,
    /// Records handed to the device, with the moment.
    written: VecDeque<(Zxid, Instant)>,
    /// The snapshot being written, ours or the leader's.
    writing: Option<Writing>,
    /// What speaks of records that another link has yet to bring.
    early: Vec<ToLog>,
    /// A mark of quarantine is on its way to the disk, and what came since waits for it.
    guarding: bool,
    held: VecDeque<ToLog>,
    /// The history's floor as the quorum core knows it; none before the disk has been read.
    floor: Option<Zxid>,
    failed: bool,
    effects: VecDeque<Effect>,
    timings: Timings,
}

#[derive(Debug, PartialEq, Eq)]
enum Writing {
    /// Whether the tree core waits for room.
    Own { zxid: Zxid, waits: bool },
    /// Whether the link to the leader is paused, what came since, whether this server was in
    /// quarantine before, and whether the snapshot puts it there until it is level.
    Installed { paused: bool, queue: VecDeque<Behind>, was_quarantined: bool, forgets: bool },
}

/// What waits for room behind a received snapshot.
#[derive(Debug, PartialEq, Eq)]
enum Behind {
    Chunk(Frame, bool),
    Record(Zxid, Frame),
}

impl LogCore {
    /// A core that begins by reading what the data directory holds.
    pub fn new(config: StoreConfig, listing: Listing) -> Self {
        Self {
            store: Store::open(config, listing),
            streams: IdMap::default(),
            by_conn: IdMap::default(),
            queued: VecDeque::new(),
            written: VecDeque::new(),
            writing: None,
            early: Vec::new(),
            guarding: false,
            held: VecDeque::new(),
            floor: None,
            failed: false,
            effects: VecDeque::new(),
            timings: Timings::default(),
        }
    }

    /// The steps noted since the last call.
    pub const fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }

    fn send(&mut self, message: Message) {
        self.effects.push_back(Effect::Send(message));
    }

    fn tell_snapshot_room(&mut self, room: bool) {
        self.send(Message::Shard(LINK_SHARD, ToShard::SnapshotRoom(room)));
    }

    fn notice(&mut self, level: Level, text: alloc::string::String) {
        self.effects.push_back(Effect::Notice(Notice { level, text }));
    }

    /// Whether a message speaks of a record that is still on its way from the quorum core: links
    /// from different cores have no order among each other.
    fn is_early(&self, message: &ToLog) -> bool {
        match message {
            ToLog::BeginSnapshot(zxid) | ToLog::Stream(_, _, zxid) => {
                *zxid > self.store.last_appended()
            }
            ToLog::SnapshotChunk(..) | ToLog::AbortSnapshot => {
                self.early.iter().any(|early| matches!(early, ToLog::BeginSnapshot(_)))
            }
            _ => false,
        }
    }

    fn handle_link(&mut self, now: Instant, message: ToLog) {
        if self.guarding && is_from_quorum(&message) {
            self.held.push_back(message);
            return;
        }
        if self.is_early(&message) {
            self.early.push(message);
            return;
        }
        match message {
            ToLog::Append(zxid, frame, at) => {
                self.timings.note(Stage::Proposed, at, now);
                match &mut self.writing {
                    Some(Writing::Installed { queue, .. }) if !queue.is_empty() => {
                        // It follows the snapshot, the last pieces of which wait for room.
                        queue.push_back(Behind::Record(zxid, frame));
                    }
                    Some(_) | None => self.append(now, zxid, frame),
                }
            }
            ToLog::Rebuilt => self.store.rebuilt(),
            ToLog::Quarantine => {
                self.store.quarantine();
                self.guarding = true;
            }
            ToLog::Truncate(to) => {
                self.queued.clear();
                self.written.clear();
                self.store.truncate(to);
            }
            ToLog::SaveEpochs(accepted, current) => self.store.save_epochs(accepted, current),
            ToLog::BeginInstall(zxid) => {
                self.abort_own();
                let was_quarantined = self.store.is_quarantined();
                let forgets = may_forget(self.store.last_appended(), zxid);
                if forgets {
                    self.store.quarantine();
                }
                self.store.begin_snapshot(zxid, SnapshotKind::Installed);
                let queue = VecDeque::new();
                let paused = false;
                self.writing = Some(Writing::Installed { paused, queue, was_quarantined, forgets });
            }
            ToLog::InstallChunk(bytes, last) => self.install_chunk(now, bytes, last),
            ToLog::AbortInstall => {
                if let Some(Writing::Installed { paused, was_quarantined, forgets, .. }) =
                    self.writing.take()
                {
                    self.store.abort_snapshot();
                    // The old history is still whole.
                    if forgets && !was_quarantined {
                        self.store.rebuilt();
                    }
                    if paused {
                        self.tell_snapshot_room(true);
                    }
                }
            }
            ToLog::BeginSnapshot(zxid) => {
                // The quorum core's snapshot of the leader has overtaken the tree core's own.
                if matches!(self.writing, Some(Writing::Installed { .. })) {
                    self.send(Message::Tree(ToTree::SnapshotFailed(zxid)));
                    return;
                }
                self.store.begin_snapshot(zxid, SnapshotKind::Own);
                self.writing = Some(Writing::Own { zxid, waits: false });
            }
            ToLog::SnapshotChunk(bytes, last) => {
                if let Some(Writing::Own { waits, .. }) = &mut self.writing {
                    *waits = !last;
                    self.store.snapshot_chunk(bytes, last);
                }
            }
            ToLog::AbortSnapshot => self.abort_own(),
            ToLog::Stream(conn, after, through) => self.stream(conn, after, through),
            ToLog::StreamNext(conn) => {
                if let Some(stream) = self.by_conn.get(&conn) {
                    self.store.stream_next(*stream);
                }
            }
            ToLog::StreamCancel(conn) => {
                if let Some(stream) = self.by_conn.remove(&conn) {
                    self.streams.remove(&stream);
                    self.store.cancel_stream(stream);
                }
            }
        }
    }

    fn append(&mut self, now: Instant, zxid: Zxid, frame: Frame) {
        self.queued.push_back((zxid, now));
        self.store.append(zxid, frame);
        if !self.early.is_empty() {
            for message in core::mem::take(&mut self.early) {
                self.handle_link(now, message);
            }
        }
    }

    fn abort_own(&mut self) {
        if matches!(self.writing, Some(Writing::Own { .. })) {
            self.writing = None;
            self.store.abort_snapshot();
        }
    }

    fn install_chunk(&mut self, now: Instant, bytes: Frame, last: bool) {
        if let Some(Writing::Installed { queue, .. }) = &mut self.writing {
            queue.push_back(Behind::Chunk(bytes, last));
            self.give_snapshot_room(now);
        }
    }

    /// Hands on what a snapshot's source may add now, and holds the source while there is no room.
    /// Whether the store was given anything.
    fn give_snapshot_room(&mut self, now: Instant) -> bool {
        let mut gave = false;
        match &mut self.writing {
            Some(Writing::Own { zxid, waits }) if *waits && self.store.snapshot_room() => {
                *waits = false;
                let zxid = *zxid;
                self.send(Message::Tree(ToTree::SnapshotNext(zxid)));
            }
            Some(Writing::Own { .. }) => {}
            Some(Writing::Installed { paused, queue, forgets, .. }) => {
                while let Some(Behind::Chunk(_, last)) = queue.front() {
                    // With the last piece the old history is gone: not before the disk knows that
                    // this server must not vote until it is level again (R19).
                    let waits = *last && *forgets && !self.store.is_quarantine_durable();
                    if waits || !self.store.snapshot_room() {
                        break;
                    }
                    if let Some(Behind::Chunk(bytes, last)) = queue.pop_front() {
                        self.store.snapshot_chunk(bytes, last);
                        gave = true;
                    }
                }
                // Behind the last piece there are records only.
                let mut records = VecDeque::new();
                if matches!(queue.front(), Some(Behind::Record(..))) {
                    records = core::mem::take(queue);
                }
                let full = queue.len() > 8;
                let drained = queue.is_empty();
                if full && !*paused {
                    *paused = true;
                    self.tell_snapshot_room(false);
                } else if drained && *paused {
                    *paused = false;
                    self.tell_snapshot_room(true);
                }
                for behind in records {
                    if let Behind::Record(zxid, frame) = behind {
                        self.append(now, zxid, frame);
                        gave = true;
                    }
                }
            }
            None => {}
        }
        gave
    }

    fn stream(&mut self, conn: ConnKey, after: Zxid, through: Zxid) {
        match self.store.stream(after, through) {
            Ok(stream) => {
                self.streams.insert(stream, conn);
                self.by_conn.insert(conn, stream);
                self.store.stream_next(stream);
            }
            Err(error) => {
                let why = format!("the log no longer has what it needs: {error}");
                self.send(Message::Shard(conn.shard, ToShard::CloseLearner(conn, why)));
            }
        }
    }

    fn note_durable(&mut self, now: Instant, through: Zxid) {
        while let Some((zxid, since)) = self.written.front().copied() {
            if zxid > through {
                break;
            }
            self.timings.note(Stage::LogDevice, since, now);
            self.written.pop_front();
        }
    }

    fn drain_store(&mut self, now: Instant) {
        if self.guarding && self.store.is_quarantine_durable() {
            self.guarding = false;
            for message in core::mem::take(&mut self.held) {
                self.handle_link(now, message);
            }
        }
        loop {
            while let Some(event) = self.store.poll_event() {
                self.handle_event(now, event);
            }
            while let Some(op) = self.store.poll_op() {
                self.note_write(now, &op);
                self.effects.push_back(Effect::Disk(op));
            }
            // Perhaps nothing is under way that would bring the next turn.
            if !self.give_snapshot_room(now) {
                break;
            }
        }
        self.tell_floor();
    }

    /// Learners behind what the log holds must be given a snapshot.
    fn tell_floor(&mut self) {
        let Some(known) = self.floor else { return };
        let floor = self.store.history().floor();
        if floor > known {
            self.floor = Some(floor);
            self.send(Message::Quorum(ToQuorum::Forgot(floor)));
        }
    }

    /// A durable write carries everything that was queued before it.
    fn note_write(&mut self, now: Instant, op: &DiskOp) {
        let DiskOp::Write { sync: true, parts, .. } = op else { return };
        let last = parts.iter().rev().find(|part| is_proposal(part));
        if let Some(submitted) = last.map(|frame| proposal_zxid(frame)) {
            while let Some((zxid, since)) = self.queued.front().copied() {
                if zxid > submitted {
                    break;
                }
                self.timings.note(Stage::LogWait, since, now);
                self.queued.pop_front();
                self.written.push_back((zxid, now));
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: StoreEvent) {
        match event {
            StoreEvent::SnapshotChunk { bytes, last } => {
                self.send(Message::Tree(ToTree::RecoveredChunk(bytes, last)));
            }
            StoreEvent::Record { zxid, frame } => {
                self.send(Message::Tree(ToTree::RecoveredRecord(zxid, frame)));
            }
            StoreEvent::Recovered(found) => {
                if let TailFault::Torn { file, offset, reason } = &found.tail {
                    let text = format!("cut a torn tail of {file} at offset {offset}: {reason}");
                    self.notice(Level::Warn, text);
                }
                self.notice(
                    Level::Info,
                    format!(
                        "recovered up to {} (accepted epoch {}, current epoch {})",
                        found.history.last(),
                        found.accepted_epoch,
                        found.current_epoch
                    ),
                );
                self.floor = Some(found.history.floor());
                self.send(Message::Tree(ToTree::RecoveredEnd(Box::new(Recovered {
                    fresh: found.fresh,
                    accepted_epoch: found.accepted_epoch,
                    current_epoch: found.current_epoch,
                    history: found.history,
                    committed_hint: found.committed_hint,
                    quarantined: found.quarantined.map(|reason| reason.to_string()),
                }))));
            }
            StoreEvent::Durable(durable) => {
                if let Durable::Log { through } = durable {
                    self.note_durable(now, through);
                }
                if matches!(durable, Durable::Snapshot { .. }) {
                    self.writing = None;
                }
                self.send(Message::Quorum(ToQuorum::Durable(durable)));
            }
            StoreEvent::StreamChunk { stream, frames, last } => {
                let Some(conn) = self.streams.get(&stream).copied() else { return };
                if last {
                    self.streams.remove(&stream);
                    self.by_conn.remove(&conn);
                }
                self.send(Message::Shard(conn.shard, ToShard::StreamChunk(conn, frames, last)));
            }
            StoreEvent::SnapshotWritten { zxid } => {
                self.writing = None;
                self.send(Message::Tree(ToTree::SnapshotWritten(zxid)));
            }
            StoreEvent::SnapshotFailed { zxid, error } => {
                self.writing = None;
                self.notice(Level::Warn, format!("no snapshot at {zxid}: {error}"));
                self.send(Message::Tree(ToTree::SnapshotFailed(zxid)));
            }
            StoreEvent::Failed(error) => {
                self.failed = true;
                self.effects.push_back(Effect::Fatal(error.to_string()));
            }
        }
    }
}

/// Whether the quorum core said this.
const fn is_from_quorum(message: &ToLog) -> bool {
    match message {
        ToLog::Append(..)
        | ToLog::Truncate(_)
        | ToLog::SaveEpochs(..)
        | ToLog::Quarantine
        | ToLog::BeginInstall(_)
        | ToLog::InstallChunk(..)
        | ToLog::AbortInstall
        | ToLog::Rebuilt => true,
        ToLog::BeginSnapshot(_)
        | ToLog::SnapshotChunk(..)
        | ToLog::AbortSnapshot
        | ToLog::Stream(..)
        | ToLog::StreamNext(_)
        | ToLog::StreamCancel(_) => false,
    }
}

impl Core for LogCore {
    type Input = LogInput;
    type Effect = Effect;

    fn handle(&mut self, now: Instant, input: LogInput) {
        if self.failed {
            return;
        }
        match input {
            LogInput::Link(message) => self.handle_link(now, message),
            LogInput::Disk(done) => self.store.handle_done(done),
        }
        self.drain_store(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.drain_store(now);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn check_invariants(&self) {
        self.store.check_invariants();
    }
}
