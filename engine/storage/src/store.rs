//! `Store`: the one object that the server's log core drives; log, snapshots and epochs behind it.
//!
//! Touches no file: it says what to do as [`DiskOp`] and learns of the outcome as [`DiskDone`].
//! Reads no clock and decides nothing about the protocol. Drive it like this: give it inputs, then
//! call [`Store::poll_op`] and [`Store::poll_event`] until both are empty, then
//! [`Store::check_invariants`].

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::ToString;
use alloc::vec::Vec;

use quorate_proto::{Durable, Epoch, HistoryIndex, Zxid};
use quorate_wire::Frame;

use crate::config::StoreConfig;
use crate::disk::{DiskDone, DiskError, DiskOp, DiskOutput, FileId, Listing, OpId, OpenMode};
use crate::epochs::{EpochsFile, EpochsRecord, Identity};
use crate::error::{NotHeld, Reason, StoreError};
use crate::event::{Recovered, StoreEvent};
use crate::log::{Log, LogEvent, LogLimits, Segment};
use crate::name;
use crate::ops::{Ops, Owner};
use crate::record::{RECORD_HEADER_LEN, RecordHeader};
use crate::recovery::{Outcome, Recovery, Resume};
use crate::retention::{Chore, KeptSnapshot, Retention, log_needed_after, take_surplus};
use crate::segment::{Origin, SegmentHeader};
use crate::snapshot::{SnapshotHeader, SnapshotKind};
use crate::snapshot_store::{Gate, Progress, SnapshotWriter};
use crate::stream::{StreamId, StreamLimits, Streams};
use crate::supply::{MadeSegment, Pressure, SegmentSupply};

/// So many batches may pass before a piece of background work gets its turn under load.
const BATCHES_PER_PIECE: u32 = 8;

#[derive(Debug)]
enum Phase {
    Recovering(Box<Recovery>),
    Finishing(Box<Finishing>),
    Running,
    Failed,
}

/// What is left to do between recovery and the first append.
#[derive(Debug)]
struct Finishing {
    outcome: Outcome,
    step: FinishStep,
}

#[derive(Clone, Copy, Debug)]
enum FinishStep {
    Epochs,
    Opening { file: FileId },
    OpeningNext { file: FileId, next: MadeSegment },
    Making,
}

/// Log, snapshots and epochs of one server. See the module's description for how to drive it.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    ops: Ops,
    events: VecDeque<StoreEvent>,
    phase: Phase,
    epochs: Option<EpochsFile>,
    log: Option<Log>,
    supply: SegmentSupply,
    streams: Streams,
    retention: Retention,
    snapshot: Option<SnapshotWriter>,
    /// Given up while an operation was under way, whose outcome decides what becomes of the file.
    abandoned: Vec<SnapshotWriter>,
    /// The segment behind a received snapshot.
    restart: Option<MadeSegment>,
    restart_ordered: bool,
    snapshots: Vec<KeptSnapshot>,
    next_snapshot: u64,
    next_seq: u64,
    generation: u32,
    log_floor: u64,
    batches: u32,
    /// Segments of no use that are left for whoever wants to look at the damage.
    withheld: Vec<(u64, u64)>,
}

impl Store {
    /// Starts recovery of a data directory with these files.
    ///
    /// # Panics
    /// If the configuration is not consistent.
    pub fn open(config: StoreConfig, listing: Listing) -> Self {
        config.check();
        let limits =
            StreamLimits { piece_len: config.stream_len, body_len_max: config.body_len_max };
        Self {
            config,
            ops: Ops::default(),
            events: VecDeque::new(),
            phase: Phase::Recovering(Box::new(Recovery::new(config, listing))),
            epochs: None,
            log: None,
            supply: SegmentSupply::new(config.segment_len, config.fill_len, config.spares_max),
            streams: Streams::new(limits),
            retention: Retention::default(),
            snapshot: None,
            abandoned: Vec::new(),
            restart: None,
            restart_ordered: false,
            snapshots: Vec::new(),
            next_snapshot: 0,
            next_seq: 0,
            generation: 0,
            log_floor: 0,
            batches: 0,
            withheld: Vec::new(),
        }
    }

    /// Appends the next record. Becomes durable with the batch it falls into, see
    /// [`Durable::Log`].
    ///
    /// # Panics
    /// Before [`StoreEvent::Recovered`]; if `zxid` does not follow the last one (R4); if the frame
    /// is longer than a record may be.
    pub fn append(&mut self, zxid: Zxid, frame: Frame) {
        let len_max = RECORD_HEADER_LEN + self.config.body_len_max as usize;
        assert!(frame.len() <= len_max, "a record above the limit");
        debug_assert!(
            RecordHeader::parse(&frame, self.config.body_len_max)
                .is_ok_and(|header| { header.zxid == zxid && header.frame_len() == frame.len() }),
            "not a record of {zxid}"
        );
        self.log_mut().append(zxid, frame);
    }

    /// Cuts the log behind `to`; [`Durable::Truncated`] confirms it, also if nothing was behind it. What is appended after this
    /// call is written after that. Streams are cancelled.
    ///
    /// # Panics
    /// Before [`StoreEvent::Recovered`]; if `to` is not in [`Store::history`], or below a snapshot,
    /// finished or under way, which holds committed transactions only (R20).
    pub fn truncate(&mut self, to: Zxid) {
        let own = self.snapshot.as_ref().map(SnapshotWriter::header);
        let own = own.filter(|header| header.kind == SnapshotKind::Own).map(|header| header.zxid);
        let newest = self.newest_snapshot().max(own);
        assert!(
            newest.is_none_or(|zxid| to >= zxid),
            "truncation to {to} below snapshot {newest:?}"
        );
        self.streams.cancel_all(&mut self.ops);
        self.log_mut().truncate(to);
    }

    /// Saves both epochs; [`Durable::AcceptedEpoch`] and [`Durable::CurrentEpoch`] confirm those
    /// that changed, and both at once if none did.
    ///
    /// # Panics
    /// Before [`StoreEvent::Recovered`]; if one of them would decrease, or the current one be above
    /// the accepted one (R10).
    pub fn save_epochs(&mut self, accepted: Epoch, current: Epoch) {
        let durable = self.epochs_ref().durable();
        if (accepted, current) == (durable.accepted, durable.current) {
            self.events.push_back(StoreEvent::Durable(Durable::AcceptedEpoch(accepted)));
            self.events.push_back(StoreEvent::Durable(Durable::CurrentEpoch(current)));
        }
        self.want_epochs(|record| (record.accepted, record.current) = (accepted, current));
    }

    /// A leader has synchronised this server, and what it got from it is durable: it has nothing to
    /// hide any more. Without this a damage that was found once is reported at every start.
    pub fn rebuilt(&mut self) {
        if self.epochs_ref().wanted().quarantined {
            self.want_epochs(|record| record.quarantined = false);
        }
        for (seq, len) in core::mem::take(&mut self.withheld) {
            self.retire_segment(seq, len);
        }
    }

    /// A received snapshot is about to replace the history, and until a leader has brought this
    /// server level it may lack what it once acknowledged: after a crash it must not vote
    /// ([`Store::rebuilt`] lifts that, R19).
    ///
    /// # Panics
    /// Before [`StoreEvent::Recovered`].
    pub fn quarantine(&mut self) {
        self.want_epochs(|record| record.quarantined = true);
    }

    /// Whether a crash now would find the quarantine on the disk.
    pub fn is_quarantine_durable(&self) -> bool {
        self.epochs.as_ref().is_some_and(|epochs| epochs.durable().quarantined)
    }

    /// How far the leader, or this server as leader, knows the history to be committed. Written
    /// with the next batch, found again as [`Recovered::committed_hint`].
    pub fn note_committed(&mut self, zxid: Zxid) {
        self.log_mut().note_committed(zxid);
    }

    /// Begins a snapshot at `zxid`. An own one that is under way is given up. A received one changes nothing until its last chunk.
    ///
    /// # Panics
    /// Before [`StoreEvent::Recovered`]; if a received snapshot is under way; if an own one is
    /// beyond the history.
    pub fn begin_snapshot(&mut self, zxid: Zxid, kind: SnapshotKind) {
        let installing =
            self.snapshot.as_ref().is_some_and(|s| s.header().kind != SnapshotKind::Own);
        assert!(!installing, "a received snapshot is under way");
        self.abort_snapshot();
        let log_floor = match kind {
            SnapshotKind::Own => {
                assert!(zxid <= self.last_appended(), "a snapshot beyond the history");
                self.log_floor
            }
            SnapshotKind::Installed => self.take_seq(),
        };
        let (sid, cluster_id) = (self.config.sid, self.config.cluster_id);
        let header = SnapshotHeader { zxid, sid, cluster_id, kind, log_floor };
        self.next_snapshot += 1;
        self.snapshot =
            Some(SnapshotWriter::new(self.next_snapshot, header, self.config.chunk_len_max));
    }

    /// Gives the next chunk of the snapshot that was begun; a longer one than
    /// [`StoreConfig::chunk_len_max`] comes back as several. With the last chunk of a received
    /// snapshot the history begins again at its zxid; [`Durable::Snapshot`] confirms that. An own
    /// one is confirmed by [`StoreEvent::SnapshotWritten`].
    ///
    /// # Panics
    /// If no snapshot was begun or its last chunk was given.
    pub fn snapshot_chunk(&mut self, bytes: Frame, last: bool) {
        let snapshot = self.snapshot.as_mut().expect("a chunk follows begin_snapshot");
        snapshot.push(bytes, last);
        let SnapshotHeader { zxid, kind, .. } = *snapshot.header();
        if last && kind == SnapshotKind::Installed {
            self.streams.cancel_all(&mut self.ops);
            self.log_mut().begin_restart(zxid);
        }
    }

    /// Gives up the snapshot that is under way, if any. An own one that is just getting its name
    /// comes through nevertheless.
    ///
    /// # Panics
    /// If it is a received one whose last chunk was given: the history has changed.
    pub fn abort_snapshot(&mut self) {
        let Some(snapshot) = self.snapshot.take() else { return };
        let begun = snapshot.is_complete() && snapshot.header().kind == SnapshotKind::Installed;
        assert!(!begun, "a received snapshot is given up before its last chunk, or not at all");
        if snapshot.is_resting() {
            self.drop_snapshot(snapshot);
        } else {
            self.abandoned.push(snapshot);
        }
    }

    /// Whether another chunk may be given; the producer waits otherwise.
    pub fn snapshot_room(&self) -> bool {
        self.snapshot.as_ref().is_some_and(SnapshotWriter::has_room)
    }

    /// Whether a snapshot is under way, and which one.
    pub fn snapshot_under_way(&self) -> Option<(Zxid, SnapshotKind)> {
        self.snapshot.as_ref().map(|snapshot| (snapshot.header().zxid, snapshot.header().kind))
    }

    /// Begins to read back the records after `after` up to and with `through`, which may not be
    /// durable yet. `after` may also be the start of an epoch that is held.
    ///
    /// # Errors
    /// [`NotHeld`] if the log does not hold the whole range.
    pub fn stream(&mut self, after: Zxid, through: Zxid) -> Result<StreamId, NotHeld> {
        let log = self.log.as_ref().ok_or(NotHeld { after, through })?;
        let history = log.history();
        let held = history.extends(after)
            && (history.contains(through) || through == after)
            && after <= through;
        if held { Ok(self.streams.begin(after, through)) } else { Err(NotHeld { after, through }) }
    }

    /// Asks a stream for its next piece. A stream that is over or cancelled gives none.
    pub fn stream_next(&mut self, stream: StreamId) {
        self.streams.want(stream);
    }

    /// Forgets a stream.
    pub fn cancel_stream(&mut self, stream: StreamId) {
        self.streams.cancel(&mut self.ops, stream);
    }

    /// What the log holds, what is not durable yet included.
    ///
    /// # Panics
    /// Before [`StoreEvent::Recovered`].
    pub fn history(&self) -> &HistoryIndex {
        self.log_ref().history()
    }

    /// The last zxid of the history.
    ///
    /// # Panics
    /// Before [`StoreEvent::Recovered`].
    pub fn last_appended(&self) -> Zxid {
        self.log_ref().history().last()
    }

    /// How far the log is durable.
    ///
    /// # Panics
    /// Before [`StoreEvent::Recovered`].
    pub fn durable(&self) -> Zxid {
        self.log_ref().durable()
    }

    /// Whether the store runs and everything that was asked of log and epochs is durable.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Running)
            && self.log.as_ref().is_some_and(Log::is_idle)
            && self.epochs.as_ref().is_some_and(EpochsFile::is_idle)
    }

    /// Whether damage was found and not rebuilt since.
    pub fn is_quarantined(&self) -> bool {
        self.epochs.as_ref().is_some_and(|epochs| epochs.wanted().quarantined)
    }

    /// Whether nothing at all is under way, background work included.
    pub fn is_quiet(&self) -> bool {
        self.is_idle()
            && self.snapshot.is_none()
            && self.abandoned.is_empty()
            && self.retention.is_idle()
    }

    /// The next thing to do on the disk.
    pub fn poll_op(&mut self) -> Option<DiskOp> {
        if matches!(self.phase, Phase::Failed) {
            return None;
        }
        if let Some(op) = self.ops.pop() {
            return Some(op);
        }
        self.advance();
        if matches!(self.phase, Phase::Failed) { None } else { self.ops.pop() }
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<StoreEvent> {
        if self.events.is_empty() {
            self.advance();
        }
        self.events.pop_front()
    }

    /// Takes in the outcome of an operation. Outcomes may come in any order between files.
    pub fn handle_done(&mut self, done: DiskDone) {
        let DiskDone { id, result } = done;
        let Some(owner) = self.ops.finish(id) else { return };
        let result = result.map(|output| match output {
            DiskOutput::Done => None,
            DiskOutput::Bytes(bytes) => Some(bytes),
        });
        let outcome = match (&mut self.phase, owner) {
            (Phase::Failed, _) => return,
            (Phase::Recovering(recovery), Owner::Recovery) => {
                recovery.handle_done(&mut self.ops, result)
            }
            (_, owner) => match result {
                Ok(bytes) => self.handle_output(id, owner, bytes),
                Err(error) => self.handle_error(owner, error),
            },
        };
        if let Err(error) = outcome {
            self.fail(error);
        }
    }

    /// Asserts what must hold between batches.
    ///
    /// # Panics
    /// If an invariant is broken: the server must stop before another byte leaves (R47).
    pub fn check_invariants(&self) {
        if let Some(log) = &self.log {
            log.check_invariants();
        }
        if let Some(epochs) = &self.epochs {
            let (durable, wanted) = (epochs.durable(), epochs.wanted());
            assert!(durable.accepted <= wanted.accepted, "memory is behind the disk (R10)");
            assert!(durable.current <= durable.accepted, "current epoch above the accepted one");
        }
    }

    fn advance(&mut self) {
        if let Err(error) = self.try_advance() {
            self.fail(error);
        }
    }

    fn try_advance(&mut self) -> Result<(), StoreError> {
        if let Phase::Recovering(recovery) = &mut self.phase {
            recovery.advance(&mut self.ops, &mut self.events)?;
            let Some(outcome) = recovery.take_outcome() else { return Ok(()) };
            recovery.close(&mut self.ops);
            self.begin_finish(outcome)?;
        }
        if let Some(epochs) = &mut self.epochs {
            epochs.advance(&mut self.ops);
        }
        self.finish_recovery();
        if let Some(log) = &mut self.log {
            log.advance(&mut self.ops);
        }
        self.drain_log();
        self.advance_supply();
        self.advance_snapshot()?;
        if let Some(log) = &self.log {
            let events = &mut self.events;
            self.streams.advance(&mut self.ops, log, |piece| {
                events.push_back(StoreEvent::StreamChunk {
                    stream: piece.stream,
                    frames: piece.frames,
                    last: piece.last,
                });
            })?;
            self.retention.advance(&mut self.ops);
        }
        Ok(())
    }

    fn begin_finish(&mut self, mut outcome: Outcome) -> Result<(), StoreError> {
        let identity = Identity { sid: self.config.sid, cluster_id: self.config.cluster_id };
        let mut epochs = EpochsFile::new(identity, outcome.epochs_file, &outcome.epochs);
        let mut record = outcome.epochs.record;
        let last = outcome.history.last();
        if record.accepted < last.epoch() {
            let (accepted, got) = (record.accepted, last.epoch());
            if outcome.quarantined.is_none() {
                let reason = Reason::EpochsBehind { accepted, got };
                return Err(StoreError { file: name::EPOCHS.to_string(), offset: 0, reason });
            }
            record.accepted = got;
        }
        if outcome.quarantined.is_none() {
            // Owning a transaction of epoch e in order implies owning all of leader e's initial
            // history; the crash came between the history and the current epoch (quorum.md 3.8).
            record.current = record.current.max(last.epoch());
        }
        // The first append hides the traces of damage in the log, so the mark comes before.
        record.quarantined = outcome.quarantined.is_some();
        epochs.want(record);
        outcome.epochs.record = record;
        self.epochs = Some(epochs);
        self.next_seq = outcome.seq_max + 1;
        self.generation = outcome.generation_max;
        self.log_floor = outcome.log_floor;
        self.snapshots = core::mem::take(&mut outcome.snapshots);
        for (number, _) in &outcome.spares {
            self.supply.note_spare(*number);
        }
        let step = FinishStep::Epochs;
        self.phase = Phase::Finishing(Box::new(Finishing { outcome, step }));
        Ok(())
    }

    fn finish_recovery(&mut self) {
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        let idle = self.epochs.as_ref().is_some_and(EpochsFile::is_idle);
        if !matches!(finishing.step, FinishStep::Epochs) || !idle {
            return;
        }
        match finishing.outcome.resume {
            Resume::Append { .. } => {
                let last = finishing.outcome.segments.last();
                let seq = last.expect("the log goes on in its last segment").header.seq;
                let file = self.ops.open(Owner::Recovery, name::segment(seq), OpenMode::Write);
                finishing.step = FinishStep::Opening { file };
            }
            Resume::Start { origin, previous, after } => {
                finishing.step = FinishStep::Making;
                let seq = self.take_seq();
                let header = self.segment_header(seq, origin, previous, after, self.log_floor);
                self.supply.order(header);
            }
        }
    }

    /// The file that a step of the start was opening is open.
    fn handle_opened(&mut self) {
        let Phase::Finishing(finishing) = &mut self.phase else { return };
        match (finishing.step, finishing.outcome.next) {
            (FinishStep::Opening { file }, Some(header)) => {
                let path = name::segment(header.seq);
                let opened = self.ops.open(Owner::Recovery, path, OpenMode::Write);
                let next = MadeSegment { header, file: opened };
                finishing.step = FinishStep::OpeningNext { file, next };
            }
            (FinishStep::Opening { file }, None) => self.run(file, None),
            (FinishStep::OpeningNext { file, next }, _) => self.run(file, Some(next)),
            (FinishStep::Epochs | FinishStep::Making, _) => {}
        }
    }

    /// Everything is in place: the log runs in `file`.
    fn run(&mut self, file: FileId, next: Option<MadeSegment>) {
        let phase = core::mem::replace(&mut self.phase, Phase::Running);
        let Phase::Finishing(finishing) = phase else { unreachable!("recovery was finishing") };
        let Outcome { epochs, segments, history, committed, resume, .. } = finishing.outcome;
        let active = segments.last().expect("the log has an active segment").header;
        let chain = match resume {
            Resume::Append { chain } => chain,
            Resume::Start { .. } => {
                active.chain_start().expect("a segment of a start says where it begins")
            }
        };
        let limits = LogLimits {
            batch_len_max: self.config.batch_len_max,
            writes_max: self.config.writes_max,
        };
        let mut log = Log::new(limits, history.clone(), committed, segments, file, chain);
        match next {
            Some(next) => log.set_next(&mut self.ops, next),
            None => self.order_next(active.seq),
        }
        self.log = Some(log);
        if finishing.outcome.quarantined.is_some() {
            self.withheld = finishing.outcome.void;
        } else {
            for (seq, len) in finishing.outcome.void {
                self.retire_segment(seq, len);
            }
        }
        for (number, usable) in finishing.outcome.spares {
            let path = name::spare(number);
            if usable && self.supply.wants_recycled() {
                self.supply.recycle(path);
            } else {
                self.retention.push(Chore::Remove(path));
            }
        }
        for (number, path) in finishing.outcome.unfinished {
            self.next_snapshot = self.next_snapshot.max(number);
            self.retention.push(Chore::Remove(path));
        }
        self.events.push_back(StoreEvent::Recovered(Recovered {
            fresh: finishing.outcome.fresh,
            accepted_epoch: epochs.record.accepted,
            current_epoch: epochs.record.current,
            snapshot: finishing.outcome.snapshot,
            history,
            committed_hint: committed,
            quarantined: finishing.outcome.quarantined,
            tail: finishing.outcome.tail,
        }));
    }

    fn drain_log(&mut self) {
        while let Some(event) = self.log.as_mut().and_then(Log::poll_event) {
            match event {
                LogEvent::Durable(through) => self.confirm_log(through),
                LogEvent::Truncated(to) => {
                    self.events.push_back(StoreEvent::Durable(Durable::Truncated { to }));
                }
                LogEvent::NeedCut { to, previous } => {
                    let (seq, floor) = (self.take_seq(), self.log_floor);
                    let header = self.segment_header(seq, Origin::Truncation, previous, to, floor);
                    self.supply.order(header);
                }
                LogEvent::NeedNext { previous } => self.order_next(previous),
                LogEvent::CancelNext => self.supply.cancel_roll(),
                LogEvent::Retire { seq, len } => self.retire_segment(seq, len),
            }
        }
    }

    /// Watermarks merge: only the newest that was not taken yet is kept.
    fn confirm_log(&mut self, through: Zxid) {
        let event = StoreEvent::Durable(Durable::Log { through });
        match self.events.back_mut() {
            Some(back @ StoreEvent::Durable(Durable::Log { .. })) => *back = event,
            Some(_) | None => self.events.push_back(event),
        }
    }

    fn advance_supply(&mut self) {
        let pressure = self.pressure();
        self.supply.advance(&mut self.ops, pressure);
        if let Some(path) = self.supply.take_discarded() {
            self.retention.push(Chore::Remove(path));
        }
    }

    fn pressure(&mut self) -> Pressure {
        let Some(log) = &self.log else { return Pressure::Starving };
        if log.is_starving() {
            Pressure::Starving
        } else if log.is_idle() || self.batches >= BATCHES_PER_PIECE {
            self.batches = 0;
            Pressure::Room
        } else {
            Pressure::Busy
        }
    }

    /// A segment has its name.
    fn place(&mut self, made: MadeSegment) {
        match made.header.origin {
            Origin::Roll => {
                if let Some(log) = &mut self.log {
                    log.set_next(&mut self.ops, made);
                }
            }
            Origin::Truncation => {
                if let Some(log) = &mut self.log {
                    log.finish_truncate(&mut self.ops, made);
                }
            }
            Origin::Installed => self.restart = Some(made),
            Origin::Fresh | Origin::Recovery => {
                if let Phase::Finishing(finishing) = &mut self.phase {
                    let after = made.header.continues_after;
                    let segments = &mut finishing.outcome.segments;
                    if let Some(last) = segments.last_mut() {
                        last.last = after;
                    }
                    segments.push(Segment::new(made.header, after));
                    self.run(made.file, None);
                }
            }
        }
        self.drain_log();
    }

    fn advance_snapshot(&mut self) -> Result<(), StoreError> {
        let Some(snapshot) = &mut self.snapshot else { return Ok(()) };
        if snapshot.gate() == Gate::Waiting {
            let header = *snapshot.header();
            let log = self.log.as_ref().expect("a snapshot is written beside a running log");
            let open = match header.kind {
                SnapshotKind::Own => log.durable() >= header.zxid,
                SnapshotKind::Installed => self.restart.is_some(),
            };
            if open {
                snapshot.open_gate();
            } else if header.kind == SnapshotKind::Installed
                && log.can_restart()
                && !self.restart_ordered
            {
                self.restart_ordered = true;
                let (seq, zxid) = (header.log_floor, header.zxid);
                let header = self.segment_header(seq, Origin::Installed, 0, zxid, seq);
                self.supply.order(header);
                self.advance_supply();
                return Ok(());
            }
        }
        let snapshot = self.snapshot.as_mut().expect("it was there above");
        let progress = snapshot.advance(&mut self.ops);
        self.handle_progress(progress)
    }

    fn handle_progress(&mut self, progress: Progress) -> Result<(), StoreError> {
        match progress {
            Progress::Going => Ok(()),
            Progress::Done => {
                self.finish_snapshot();
                Ok(())
            }
            Progress::Bad { offset, reason } => self.lose_snapshot(offset, reason),
        }
    }

    fn finish_snapshot(&mut self) {
        let snapshot = self.snapshot.take().expect("it just got its name");
        self.keep_snapshot(&snapshot);
    }

    fn keep_snapshot(&mut self, snapshot: &SnapshotWriter) {
        let SnapshotHeader { zxid, kind, log_floor, .. } = *snapshot.header();
        self.snapshots.retain(|kept| kept.zxid != zxid);
        self.snapshots.push(KeptSnapshot { zxid, log_floor, whole: true });
        match kind {
            SnapshotKind::Own => self.events.push_back(StoreEvent::SnapshotWritten { zxid }),
            SnapshotKind::Installed => {
                let made = self.restart.take().expect("the gate opened on it");
                self.restart_ordered = false;
                self.log_floor = log_floor;
                let log = self.log.as_mut().expect("a snapshot is written beside a running log");
                log.finish_restart(&mut self.ops, made);
                self.events.push_back(StoreEvent::Durable(Durable::Snapshot { zxid }));
                self.drain_log();
            }
        }
        self.retire_surplus();
    }

    /// A snapshot that cannot be written: an own one is only given up, the log goes on (3082).
    fn lose_snapshot(&mut self, offset: u64, reason: Reason) -> Result<(), StoreError> {
        let snapshot = self.snapshot.take().expect("it was under way");
        let error = StoreError { file: snapshot.path().to_string(), offset, reason };
        if snapshot.header().kind == SnapshotKind::Installed {
            return Err(error);
        }
        let zxid = snapshot.header().zxid;
        self.drop_snapshot(snapshot);
        self.events.push_back(StoreEvent::SnapshotFailed { zxid, error });
        Ok(())
    }

    /// The operation of a snapshot that was given up is over.
    fn end_abandoned(&mut self, number: u64) {
        let Some(mut snapshot) = self.take_abandoned(number) else { return };
        if !snapshot.is_being_named() {
            self.drop_snapshot(snapshot);
        } else if snapshot.handle_done(&mut self.ops, None) == Progress::Done {
            self.keep_snapshot(&snapshot);
        } else {
            self.abandoned.push(snapshot);
        }
    }

    fn take_abandoned(&mut self, number: u64) -> Option<SnapshotWriter> {
        let found = self.abandoned.iter().position(|snapshot| snapshot.number() == number)?;
        Some(self.abandoned.swap_remove(found))
    }

    fn drop_snapshot(&mut self, snapshot: SnapshotWriter) {
        self.retention.push(Chore::Remove(snapshot.path().to_string()));
        snapshot.abandon(&mut self.ops);
    }

    fn retire_surplus(&mut self) {
        for snapshot in take_surplus(&mut self.snapshots, self.config.snapshots_retained) {
            self.retention.push(Chore::remove_snapshot(snapshot.zxid));
        }
        let needed = log_needed_after(&self.snapshots, self.log_floor);
        if let (Some(needed), Some(log)) = (needed, &mut self.log) {
            let through = self.streams.floor().map_or(needed, |floor| floor.min(needed));
            log.forget(through);
        }
        self.drain_log();
    }

    fn retire_segment(&mut self, seq: u64, len: u64) {
        let from = name::segment(seq);
        let chore = if len == self.config.segment_len && self.supply.wants_recycled() {
            Chore::Recycle { from, to: self.supply.spare_path() }
        } else {
            Chore::Remove(from)
        };
        self.retention.push(chore);
    }

    fn handle_output(
        &mut self,
        id: OpId,
        owner: Owner,
        bytes: Option<Frame>,
    ) -> Result<(), StoreError> {
        match owner {
            Owner::Recovery => self.handle_opened(),
            Owner::Epochs => self.handle_epochs_written(),
            Owner::Batch => {
                let log = self.log.as_mut().expect("a batch is written by a running log");
                log.handle_written(id);
                self.batches += 1;
                self.drain_log();
            }
            Owner::Supply => {
                if let Some(made) = self.supply.handle_done(&mut self.ops) {
                    self.place(made);
                }
            }
            Owner::Retention => {
                if let Some(path) = self.retention.handle_done(&mut self.ops) {
                    if self.supply.wants_recycled() {
                        self.supply.recycle(path);
                    } else {
                        self.retention.push(Chore::Remove(path));
                    }
                }
            }
            Owner::Snapshot(number) => {
                let ours = self.snapshot.as_mut().filter(|snapshot| snapshot.number() == number);
                if let Some(snapshot) = ours {
                    let progress = snapshot.handle_done(&mut self.ops, bytes);
                    self.handle_progress(progress)?;
                } else {
                    self.end_abandoned(number);
                }
            }
            Owner::Stream(stream) => self.streams.handle_done(stream, bytes)?,
        }
        Ok(())
    }

    fn handle_epochs_written(&mut self) {
        let epochs = self.epochs.as_mut().expect("the epochs were being written");
        let before = epochs.handle_written();
        let now = *epochs.durable();
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        if now.accepted != before.accepted {
            self.events.push_back(StoreEvent::Durable(Durable::AcceptedEpoch(now.accepted)));
        }
        if now.current != before.current {
            self.events.push_back(StoreEvent::Durable(Durable::CurrentEpoch(now.current)));
        }
    }

    fn handle_error(&mut self, owner: Owner, error: DiskError) -> Result<(), StoreError> {
        let reason = Reason::Disk { what: error.what, errno: error.errno };
        let (file, offset) = match owner {
            Owner::Recovery => {
                let Phase::Finishing(finishing) = &self.phase else { return Ok(()) };
                let last = finishing.outcome.segments.last();
                (last.map(|last| name::segment(last.header.seq)).unwrap_or_default(), 0)
            }
            Owner::Epochs => (name::EPOCHS.to_string(), 0),
            Owner::Batch => {
                let active = self.log_ref().active();
                (name::segment(active.header.seq), active.end)
            }
            Owner::Supply => {
                let path = self.supply.path();
                if !self.supply.handle_failed(&mut self.ops) {
                    return Ok(());
                }
                (path, 0)
            }
            Owner::Retention => (self.retention.path(), 0),
            Owner::Snapshot(number) => {
                let ours = self.snapshot.as_ref().filter(|snapshot| snapshot.number() == number);
                let Some(snapshot) = ours else {
                    if let Some(snapshot) = self.take_abandoned(number) {
                        self.drop_snapshot(snapshot);
                    }
                    return Ok(());
                };
                let offset = snapshot.offset();
                return self.lose_snapshot(offset, reason);
            }
            Owner::Stream(stream) => {
                let Some((seq, offset)) = self.streams.place(stream) else { return Ok(()) };
                (name::segment(seq), offset)
            }
        };
        Err(StoreError { file, offset, reason })
    }

    fn fail(&mut self, error: StoreError) {
        if !matches!(self.phase, Phase::Failed) {
            self.phase = Phase::Failed;
            self.events.push_back(StoreEvent::Failed(error));
        }
    }

    /// Has the epochs written again if `change` changes them.
    fn want_epochs(&mut self, change: impl FnOnce(&mut EpochsRecord)) {
        let log = self.log_ref();
        // A log whose end is being changed has no watermark to speak of.
        let durable = if log.is_settled() { log.durable() } else { Zxid::ZERO };
        let durable_seq = log.active().header.seq;
        let epochs = self.epochs.as_mut().expect("the store has recovered");
        let mut record = *epochs.wanted();
        change(&mut record);
        if record != *epochs.wanted() {
            epochs.want(EpochsRecord { durable, durable_seq, ..record });
        }
    }

    fn order_next(&mut self, previous: u64) {
        let (seq, floor) = (self.take_seq(), self.log_floor);
        let header = self.segment_header(seq, Origin::Roll, previous, Zxid::ZERO, floor);
        self.supply.order_roll(header);
    }

    fn segment_header(
        &mut self,
        seq: u64,
        origin: Origin,
        previous: u64,
        continues_after: Zxid,
        log_floor: u64,
    ) -> SegmentHeader {
        self.generation = self.generation.wrapping_add(1);
        SegmentHeader {
            cluster_id: self.config.cluster_id,
            sid: self.config.sid,
            seq,
            previous,
            generation: self.generation,
            origin,
            writes_max: self.config.writes_max as u8,
            continues_after,
            log_floor,
            len: self.config.segment_len,
        }
    }

    fn take_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    fn newest_snapshot(&self) -> Option<Zxid> {
        let ours = self.snapshots.iter().filter(|kept| kept.log_floor == self.log_floor);
        ours.filter(|kept| kept.whole).map(|kept| kept.zxid).max()
    }

    fn log_ref(&self) -> &Log {
        self.log.as_ref().expect("the store has recovered")
    }

    fn log_mut(&mut self) -> &mut Log {
        self.log.as_mut().expect("the store has recovered")
    }

    fn epochs_ref(&self) -> &EpochsFile {
        self.epochs.as_ref().expect("the store has recovered")
    }
}
