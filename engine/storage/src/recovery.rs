//! Recovery: opens what a crash left, and tells a torn tail from a damaged middle (R6).
//!
//! Reads only, apart from the epochs of a new directory. Gives the newest whole snapshot and the
//! records behind it as it goes; what has to be written before the store can run is in its outcome.
//!
//! The order of things: epochs, the first bytes of every file, the newest snapshot that is whole
//! (read twice: once to check it, once to give it), the segments of its history. Segments are a list
//! from the newest back to the oldest by the links in their headers, and what is not in the list is
//! void.

use alloc::collections::VecDeque;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use quorate_proto::{Epoch, HistoryIndex, Zxid};
use quorate_wire::Frame;
use quorate_wire::native::proposal::proposal_committed;

use crate::config::StoreConfig;
use crate::disk::{BLOCK_SIZE, DiskError, FileId, Listing, OpenMode};
use crate::epochs::{EPOCHS_LEN, FoundEpochs, Identity, decode, first_file};
use crate::error::{Reason, StoreError};
use crate::event::{StoreEvent, TailFault};
use crate::log::Segment;
use crate::name::{self, FileName};
use crate::ops::{Ops, Owner};
use crate::retention::KeptSnapshot;
use crate::segment::{BlockHeader, Origin, Parsed, SegmentHeader, SegmentReader, part};
use crate::snapshot::{SnapshotHeader, SnapshotPart, SnapshotReader};

/// How much is read at once, in bytes.
const READ_LEN: usize = 1024 * 1024;
/// How much of each file is read to sort it out: a segment's header and its first block's header.
const HEAD_LEN: usize = 2 * BLOCK_SIZE;
/// How many events may wait for the consumer; past it recovery waits.
const EVENTS_MAX: usize = 1024;

/// How the store goes on behind what was found.
#[derive(Debug)]
pub(crate) enum Resume {
    /// In the last segment, which is clean.
    Append { chain: u32 },
    /// In a new segment.
    Start { origin: Origin, previous: u64, after: Zxid },
}

/// What recovery found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) fresh: bool,
    pub(crate) epochs_file: FileId,
    pub(crate) epochs: FoundEpochs,
    pub(crate) snapshot: Option<Zxid>,
    pub(crate) snapshots: Vec<KeptSnapshot>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) history: HistoryIndex,
    pub(crate) committed: Zxid,
    pub(crate) tail: TailFault,
    pub(crate) quarantined: Option<StoreError>,
    pub(crate) resume: Resume,
    /// The segment after the last one, made in good time by the process before.
    pub(crate) next: Option<SegmentHeader>,
    /// Segments of no use, by number and length.
    pub(crate) void: Vec<(u64, u64)>,
    pub(crate) spares: Vec<(u64, bool)>,
    pub(crate) unfinished: Vec<(u64, String)>,
    pub(crate) seq_max: u64,
    pub(crate) generation_max: u32,
    pub(crate) log_floor: u64,
}

/// The one file that is being read.
#[derive(Debug)]
struct OpenFile {
    path: String,
    file: FileId,
}

#[derive(Debug)]
enum Wait {
    Nothing,
    Open { at: u64, len: usize },
    Read { at: u64, len: usize },
    Other,
}

#[derive(Debug)]
enum Stage {
    OpenEpochs,
    ReadEpochs,
    CreateEpochs,
    WriteEpochs,
    RenameEpochs,
    SyncDir,
    Heads(usize),
    Verify(SnapshotReader),
    Deliver(SnapshotReader),
    Scan(SegmentReader),
    Sweep { at: u64, fault: Sweeping },
    Done,
}

/// A segment's rest is searched for blocks behind its end.
#[derive(Debug)]
struct Sweeping {
    offset: u64,
    reason: Reason,
    later: usize,
    first_later: Option<u64>,
    durable_max: Zxid,
}

impl Sweeping {
    fn new(offset: u64, reason: Reason) -> Self {
        Self { offset, reason, later: 0, first_later: None, durable_max: Zxid::ZERO }
    }
}

#[derive(Debug)]
struct FoundSnapshot {
    zxid: Zxid,
    header: Result<SnapshotHeader, StoreError>,
}

#[derive(Clone, Debug)]
struct FoundSegment {
    seq: u64,
    header: Result<SegmentHeader, Reason>,
    first: Option<BlockHeader>,
}

impl FoundSegment {
    /// The zxid before its first record, if it is known.
    fn after(&self) -> Option<Zxid> {
        let header = self.header.as_ref().ok()?;
        header.starts_after().or_else(|| self.first.map(|block| block.after))
    }
}

/// Where the scan of the log stands.
#[derive(Debug, Default)]
struct Progress {
    /// The list, oldest first.
    list: Vec<FoundSegment>,
    /// Which of the list is being read.
    at: usize,
    segments: Vec<Segment>,
    history: Option<HistoryIndex>,
    chain: Option<u32>,
    /// How the log ends, once its last record was read; what follows must be empty.
    tail: Option<TailFault>,
    next: Option<SegmentHeader>,
}

#[derive(Debug)]
pub(crate) struct Recovery {
    config: StoreConfig,
    identity: Identity,
    stage: Stage,
    wait: Wait,
    open: Option<OpenFile>,
    window: Frame,
    window_at: u64,
    short: bool,

    has_epochs: bool,
    /// Snapshots and segments with their sizes, in any order.
    files: Vec<(FileName, String)>,
    spares: Vec<(u64, bool)>,
    unfinished: Vec<(u64, String)>,

    epochs_file: Option<FileId>,
    epochs: Option<FoundEpochs>,
    snapshots: Vec<FoundSnapshot>,
    segments: Vec<FoundSegment>,
    /// Whole headers, best last.
    candidates: Vec<SnapshotHeader>,
    bad_snapshots: Vec<(Zxid, StoreError)>,
    chosen: Option<SnapshotHeader>,
    pending_chunk: Option<Frame>,
    scan: Progress,
    committed: Zxid,
    damage: Option<StoreError>,
    outcome: Option<Outcome>,
}

impl Recovery {
    pub(crate) fn new(config: StoreConfig, listing: Listing) -> Self {
        let mut recovery = Self {
            config,
            identity: Identity { sid: config.sid, cluster_id: config.cluster_id },
            stage: Stage::OpenEpochs,
            wait: Wait::Nothing,
            open: None,
            window: Frame::default(),
            window_at: 0,
            short: false,
            has_epochs: false,
            files: Vec::new(),
            spares: Vec::new(),
            unfinished: Vec::new(),
            epochs_file: None,
            epochs: None,
            snapshots: Vec::new(),
            segments: Vec::new(),
            candidates: Vec::new(),
            bad_snapshots: Vec::new(),
            chosen: None,
            pending_chunk: None,
            scan: Progress::default(),
            committed: Zxid::ZERO,
            damage: None,
            outcome: None,
        };
        for (path, size) in listing {
            match FileName::parse(&path) {
                FileName::Epochs => recovery.has_epochs = true,
                name @ (FileName::Segment(_) | FileName::Snapshot(_)) => {
                    recovery.files.push((name, path));
                }
                FileName::Spare(number) => {
                    recovery.spares.push((number, size == config.segment_len));
                }
                FileName::Unfinished(number) => recovery.unfinished.push((number, path)),
                FileName::Other => {}
            }
        }
        recovery
    }

    pub(crate) fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// The path that is being read, for an error.
    pub(crate) fn path(&self) -> String {
        self.open.as_ref().map_or_else(|| name::EPOCHS.to_string(), |open| open.path.clone())
    }

    pub(crate) fn advance(
        &mut self,
        ops: &mut Ops,
        events: &mut VecDeque<StoreEvent>,
    ) -> Result<(), StoreError> {
        while matches!(self.wait, Wait::Nothing) && events.len() < EVENTS_MAX {
            match core::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Done => return Ok(()),
                Stage::OpenEpochs => self.open_epochs(ops)?,
                Stage::ReadEpochs => self.read_epochs()?,
                Stage::CreateEpochs => self.create_epochs(ops),
                Stage::WriteEpochs => {
                    let file = self.epochs_file.expect("it was just created");
                    let parts = vec![first_file(self.identity)];
                    ops.write(Owner::Recovery, file, 0, parts, true);
                    self.wait_then(Stage::RenameEpochs);
                }
                Stage::RenameEpochs => {
                    let from = name::EPOCHS_TMP.to_string();
                    ops.rename(Owner::Recovery, from, name::EPOCHS.to_string());
                    self.wait_then(Stage::SyncDir);
                }
                Stage::SyncDir => {
                    ops.sync_dir(Owner::Recovery);
                    self.epochs = Some(FoundEpochs {
                        record: Default::default(),
                        generation: 1,
                        damaged: false,
                    });
                    self.wait_then(Stage::Heads(0));
                }
                Stage::Heads(next) => self.read_heads(ops, next)?,
                Stage::Verify(reader) => self.verify(ops, reader),
                Stage::Deliver(reader) => self.deliver(ops, events, reader)?,
                Stage::Scan(reader) => self.scan(ops, events, reader)?,
                Stage::Sweep { at, fault } => self.sweep(ops, at, fault)?,
            }
        }
        Ok(())
    }

    /// Takes in an outcome. A read error is like damage to the bytes; anything else ends the server.
    pub(crate) fn handle_done(
        &mut self,
        ops: &mut Ops,
        result: Result<Option<Frame>, DiskError>,
    ) -> Result<(), StoreError> {
        let bytes = match result {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(_) if matches!(self.wait, Wait::Read { .. }) => Frame::default(),
            Err(error) => {
                let reason = Reason::Disk { what: error.what, errno: error.errno };
                return Err(StoreError { file: self.path(), offset: 0, reason });
            }
        };
        match core::mem::replace(&mut self.wait, Wait::Nothing) {
            Wait::Nothing | Wait::Other => {}
            Wait::Open { at, len } => {
                let file = self.open.as_ref().expect("it was opened").file;
                ops.read(Owner::Recovery, file, at, len);
                self.wait = Wait::Read { at, len };
            }
            Wait::Read { at, len } => {
                self.short = bytes.len() < len;
                (self.window, self.window_at) = (bytes, at);
            }
        }
        Ok(())
    }

    fn open_epochs(&mut self, ops: &mut Ops) -> Result<(), StoreError> {
        if !self.has_epochs {
            if !self.files.is_empty() {
                return Err(error(name::EPOCHS, 0, Reason::NoEpochs));
            }
            // An unfinished file of the same name would be in the way.
            ops.remove(Owner::Recovery, name::EPOCHS_TMP.to_string());
            self.wait_then(Stage::CreateEpochs);
            return Ok(());
        }
        self.read(ops, name::EPOCHS.to_string(), OpenMode::Write, 0, EPOCHS_LEN);
        self.stage = Stage::ReadEpochs;
        Ok(())
    }

    fn create_epochs(&mut self, ops: &mut Ops) {
        let path = name::EPOCHS_TMP.to_string();
        self.epochs_file = Some(ops.open(Owner::Recovery, path, OpenMode::CreateNew));
        self.wait_then(Stage::WriteEpochs);
    }

    fn read_epochs(&mut self) -> Result<(), StoreError> {
        let found = decode(self.identity, &self.window)
            .map_err(|(offset, reason)| error(name::EPOCHS, offset, reason))?;
        if found.damaged {
            self.note_damage(error(name::EPOCHS, 0, Reason::EpochsSlot));
        }
        if found.record.quarantined {
            self.note_damage(error(name::EPOCHS, 0, Reason::NotRebuilt));
        }
        self.epochs = Some(found);
        // The handle stays open: it is written through later.
        self.epochs_file = self.open.take().map(|open| open.file);
        self.stage = Stage::Heads(0);
        Ok(())
    }

    fn read_heads(&mut self, ops: &mut Ops, next: usize) -> Result<(), StoreError> {
        if let Some((name, path)) = next.checked_sub(1).map(|read| self.files[read].clone()) {
            self.take_head(name, &path)?;
        }
        if let Some((_, path)) = self.files.get(next).cloned() {
            self.read(ops, path, OpenMode::Read, 0, HEAD_LEN);
            self.stage = Stage::Heads(next + 1);
            return Ok(());
        }
        self.segments.sort_by_key(|segment| segment.seq);
        self.snapshots.sort_by_key(|snapshot| snapshot.zxid);
        let whole = self.snapshots.iter().filter_map(|snapshot| snapshot.header.as_ref().ok());
        self.candidates = whole.copied().collect();
        self.candidates.sort_by_key(|header| (header.log_floor, header.zxid));
        for snapshot in &self.snapshots {
            if let Err(error) = &snapshot.header {
                self.bad_snapshots.push((snapshot.zxid, error.clone()));
            }
        }
        self.stage = self.next_candidate();
        Ok(())
    }

    fn take_head(&mut self, name: FileName, path: &str) -> Result<(), StoreError> {
        match name {
            FileName::Segment(seq) => {
                let mut header = SegmentHeader::decode(&self.window);
                if let Ok(found) = &header {
                    self.identity
                        .check(found.sid, found.cluster_id)
                        .map_err(|reason| error(path, 0, reason))?;
                    if found.seq != seq || found.len < HEAD_LEN as u64 {
                        header = Err(Reason::Misplaced);
                    }
                }
                if let Err(reason @ Reason::Version { .. }) = header {
                    return Err(error(path, 0, reason));
                }
                let block = part(&self.window, 0, BLOCK_SIZE as u64, BLOCK_SIZE);
                let first = block.and_then(|bytes| BlockHeader::decode(bytes).ok());
                let first = first.map(|(block, _)| block).filter(|block| {
                    let own = header.as_ref().ok();
                    own.is_some_and(|header| block.belongs(header, BLOCK_SIZE as u64))
                });
                self.segments.push(FoundSegment { seq, header, first });
            }
            FileName::Snapshot(zxid) => {
                let header = match SnapshotHeader::decode(&self.window) {
                    Ok(header) if header.zxid == zxid => {
                        self.identity
                            .check(header.sid, header.cluster_id)
                            .map_err(|reason| error(path, 0, reason))?;
                        Ok(header)
                    }
                    Ok(_) => Err(error(path, 0, Reason::Misplaced)),
                    Err(reason @ Reason::Version { .. }) => return Err(error(path, 0, reason)),
                    Err(reason) => Err(error(path, 0, reason)),
                };
                self.snapshots.push(FoundSnapshot { zxid, header });
            }
            FileName::Epochs | FileName::Spare(_) | FileName::Unfinished(_) | FileName::Other => {}
        }
        Ok(())
    }

    /// The best snapshot not tried yet, or the log without one.
    fn next_candidate(&mut self) -> Stage {
        self.clear_window();
        match self.candidates.last() {
            Some(_) => Stage::Verify(SnapshotReader::new(self.config.chunk_len_max)),
            None => self.plan_scan(),
        }
    }

    fn verify(&mut self, ops: &mut Ops, mut reader: SnapshotReader) {
        let candidate = *self.candidates.last().expect("a candidate is being checked");
        let path = name::snapshot(candidate.zxid);
        self.stage = loop {
            match self.next_part(ops, &path, &mut reader) {
                Ok(Some(SnapshotPart::End(_))) => {
                    self.chosen = Some(candidate);
                    self.clear_window();
                    break Stage::Deliver(SnapshotReader::new(self.config.chunk_len_max));
                }
                Ok(Some(_)) => {}
                Ok(None) => break Stage::Verify(reader),
                Err(error) => return self.refuse_candidate(error),
            }
        };
    }

    /// The next header, chunk or end of a snapshot; `None` once more of it is being read.
    fn next_part(
        &mut self,
        ops: &mut Ops,
        path: &str,
        reader: &mut SnapshotReader,
    ) -> Result<Option<SnapshotPart>, StoreError> {
        match reader.next(&self.window, self.window_at) {
            SnapshotPart::More { offset, len } if self.can_read(offset, len) => {
                self.read(ops, path.to_string(), OpenMode::Read, offset, len.max(READ_LEN));
                Ok(None)
            }
            SnapshotPart::More { offset, .. } => Err(error(path, offset, Reason::ShortFile)),
            SnapshotPart::Fault { offset, reason } => Err(error(path, offset, reason)),
            part => Ok(Some(part)),
        }
    }

    fn refuse_candidate(&mut self, error: StoreError) {
        let candidate = self.candidates.pop().expect("a candidate was being checked");
        self.bad_snapshots.push((candidate.zxid, error));
        self.stage = self.next_candidate();
    }

    fn deliver(
        &mut self,
        ops: &mut Ops,
        events: &mut VecDeque<StoreEvent>,
        mut reader: SnapshotReader,
    ) -> Result<(), StoreError> {
        let path = name::snapshot(self.chosen.expect("a snapshot was chosen").zxid);
        // It was whole a moment ago: what is wrong with it now ends the server.
        while let Some(part) = self.next_part(ops, &path, &mut reader)? {
            match part {
                SnapshotPart::Chunk(bytes) => {
                    // One behind, so that the last one is known as such.
                    if let Some(bytes) = self.pending_chunk.replace(bytes) {
                        events.push_back(StoreEvent::SnapshotChunk { bytes, last: false });
                    }
                }
                SnapshotPart::End(_) => {
                    let bytes = self.pending_chunk.take().unwrap_or_default();
                    events.push_back(StoreEvent::SnapshotChunk { bytes, last: true });
                    self.clear_window();
                    self.stage = self.plan_scan();
                    return Ok(());
                }
                SnapshotPart::Header(_)
                | SnapshotPart::More { .. }
                | SnapshotPart::Fault { .. } => {}
            }
            if events.len() >= EVENTS_MAX {
                break;
            }
        }
        self.stage = Stage::Deliver(reader);
        Ok(())
    }

    /// Lists the segments of the chosen snapshot's history and starts to read them.
    fn plan_scan(&mut self) -> Stage {
        let floor = self.log_floor();
        let zxid = self.snapshot_zxid();
        let list = list_segments(&self.segments, floor);
        self.judge_unlisted(&list, floor);
        if list.is_empty() {
            let promised = self.epochs.as_ref().is_some_and(|e| e.record.accepted > Epoch::ZERO);
            let expected = !self.segments.is_empty() || self.chosen.is_some() || promised;
            if expected || !self.bad_snapshots.is_empty() {
                self.note_damage(error("", 0, Reason::NoLog));
            }
            self.finish();
            return Stage::Done;
        }
        let start = list.iter().rposition(|s| s.after().is_some_and(|after| after <= zxid));
        let Some(start) = start else {
            let first = &list[0];
            let reason = first.header.as_ref().err().cloned();
            let reason = reason.unwrap_or(Reason::Unreachable { snapshot: zxid });
            self.note_damage(error(&name::segment(first.seq), 0, reason));
            self.finish();
            return Stage::Done;
        };
        for (at, found) in list[..start].iter().enumerate() {
            // Kept for older snapshots; not read, so nothing is streamed from it.
            let (Ok(header), Some(after), Some(last)) =
                (found.header.clone(), found.after(), list[at + 1].after())
            else {
                self.scan.segments.clear();
                continue;
            };
            let mut segment = Segment::new(header, after);
            segment.last = last;
            self.scan.segments.push(segment);
        }
        let after = list[start].after().expect("it was chosen by it");
        self.scan.history = Some(HistoryIndex::new(after));
        self.scan.list = list;
        self.scan.at = start;
        self.begin_segment()
    }

    /// Damage in files that are in no list.
    fn judge_unlisted(&mut self, list: &[FoundSegment], floor: u64) {
        let top = list.last().map_or(0, |segment| segment.seq);
        let mut damage = None;
        for found in &self.segments {
            let fault = match &found.header {
                // Behind the newest of the list it may have been the newest. A segment gets its
                // name after its header is durable, so that no crash leaves this.
                Err(reason) if found.seq > top => Some(reason.clone()),
                // A newer history with records, whose snapshot is not there.
                Ok(header) if header.log_floor > floor && found.first.is_some() => {
                    Some(Reason::Unreachable { snapshot: header.continues_after })
                }
                // A newer history without records is an installation that did not finish, unless
                // there is a snapshot that could be its snapshot but cannot be read.
                Ok(header) if header.log_floor > floor && !self.bad_snapshots.is_empty() => {
                    Some(Reason::Unreachable { snapshot: header.continues_after })
                }
                Ok(_) | Err(_) => None,
            };
            if let Some(reason) = fault {
                damage = Some(error(&name::segment(found.seq), 0, reason));
            }
        }
        if let Some(damage) = damage {
            self.note_damage(damage);
        }
    }

    fn begin_segment(&mut self) -> Stage {
        self.clear_window();
        let found = &self.scan.list[self.scan.at];
        let path = name::segment(found.seq);
        let header = match &found.header {
            Ok(header) => *header,
            Err(reason) => {
                let damage = error(&path, 0, reason.clone());
                self.note_damage(damage);
                self.finish();
                return Stage::Done;
            }
        };
        if self.scan.tail.is_some() {
            let at = BLOCK_SIZE as u64;
            return Stage::Sweep { at, fault: Sweeping::new(at, Reason::Blank) };
        }
        let last = self.scan.history.as_ref().expect("the scan began").last();
        self.scan.segments.push(Segment::new(header, last));
        Stage::Scan(SegmentReader::new(header, self.scan.chain, self.config.body_len_max))
    }

    /// Where the segment being read must end, if a later one says so.
    fn until(&self) -> Option<Zxid> {
        self.scan.list.get(self.scan.at + 1).and_then(FoundSegment::after)
    }

    fn scan(
        &mut self,
        ops: &mut Ops,
        events: &mut VecDeque<StoreEvent>,
        mut reader: SegmentReader,
    ) -> Result<(), StoreError> {
        let until = self.until();
        let snapshot = self.snapshot_zxid();
        loop {
            let last = self.scan.history.as_ref().expect("the scan began").last();
            if until.is_some_and(|until| last >= until) {
                self.end_segment(&reader);
                return Ok(());
            }
            let parsed = match reader.next(&self.window, self.window_at) {
                Parsed::More { offset, len } if !self.can_read(offset, len) => reader.short(),
                parsed => parsed,
            };
            let segment = self.scan.segments.last_mut().expect("a segment is being read");
            match parsed {
                Parsed::Block { offset, header } => {
                    segment.note_block(header.after, offset);
                    segment.end = offset + header.block_len();
                    self.committed = self.committed.max(header.committed);
                }
                Parsed::Record { zxid, frame, .. } => {
                    if !zxid.follows(last) {
                        let reason = Reason::Gap { after: last, got: zxid };
                        self.scan_ended(reader.offset(), reason, reader.offset());
                        return Ok(());
                    }
                    self.scan.history.as_mut().expect("the scan began").append(zxid);
                    segment.last = zxid;
                    self.committed = self.committed.max(proposal_committed(&frame));
                    if zxid > snapshot {
                        events.push_back(StoreEvent::Record { zxid, frame });
                    }
                }
                Parsed::More { offset, len } => {
                    let path = self.segment_path();
                    let rest = (segment_len(&self.scan) - offset) as usize;
                    let len = READ_LEN.min(rest).max(len);
                    self.read(ops, path, OpenMode::Read, offset, len);
                    self.stage = Stage::Scan(reader);
                    return Ok(());
                }
                Parsed::End { offset, reason, behind } => {
                    self.scan.chain = reader.chain();
                    self.scan_ended(offset, reason, behind);
                    return Ok(());
                }
            }
            if events.len() >= EVENTS_MAX {
                self.stage = Stage::Scan(reader);
                return Ok(());
            }
        }
    }

    /// The segment was read as far as the next one says.
    fn end_segment(&mut self, reader: &SegmentReader) {
        self.scan.chain = reader.chain();
        self.scan.at += 1;
        self.stage = self.begin_segment();
    }

    /// No further record can be read.
    fn scan_ended(&mut self, offset: u64, reason: Reason, behind: u64) {
        if self.until().is_some() || reason == Reason::ShortFile {
            let damage = error(&self.segment_path(), offset, reason);
            self.note_damage(damage);
            self.finish();
            return;
        }
        self.clear_window();
        self.stage = Stage::Sweep { at: behind, fault: Sweeping::new(offset, reason) };
    }

    /// Looks for blocks behind the end.
    fn sweep(&mut self, ops: &mut Ops, mut at: u64, mut fault: Sweeping) -> Result<(), StoreError> {
        let header = *self.scan.list[self.scan.at].header.as_ref().expect("it was read");
        while at + BLOCK_SIZE as u64 <= header.len {
            let Some(bytes) = part(&self.window, self.window_at, at, BLOCK_SIZE) else {
                if !self.can_read(at, BLOCK_SIZE) {
                    // What cannot be read may be a block behind the end.
                    let damage = error(&self.segment_path(), at, Reason::ShortFile);
                    self.note_damage(damage);
                    self.finish();
                    return Ok(());
                }
                let len = READ_LEN.min((header.len - at) as usize);
                let path = self.segment_path();
                self.read(ops, path, OpenMode::Read, at, len);
                self.stage = Stage::Sweep { at, fault };
                return Ok(());
            };
            let mut step = BLOCK_SIZE as u64;
            if let Ok((block, _)) = BlockHeader::decode(bytes)
                && block.belongs(&header, at)
            {
                fault.later += 1;
                fault.first_later.get_or_insert(at);
                fault.durable_max = fault.durable_max.max(block.durable);
                // Its records are a client's bytes and are not looked into.
                step = block.block_len();
            }
            at += step;
        }
        self.judge_end(&header, fault);
        Ok(())
    }

    fn judge_end(&mut self, header: &SegmentHeader, fault: Sweeping) {
        let (offset, in_next) = (fault.offset, self.scan.tail.is_some());
        match self.judge(header, fault) {
            Err(reason) => {
                let damage = error(&self.segment_path(), offset, reason);
                self.note_damage(damage);
                self.finish();
                return;
            }
            Ok(TailFault::Clean) if in_next => {
                self.scan.next.get_or_insert(*header);
            }
            Ok(tail) => self.scan.tail = Some(tail),
        }
        self.scan.at += 1;
        if self.scan.at < self.scan.list.len() {
            self.stage = self.begin_segment();
        } else {
            self.finish();
        }
    }

    /// Tells what a crash leaves from what it cannot leave (R6, R7).
    fn judge(&self, header: &SegmentHeader, fault: Sweeping) -> Result<TailFault, Reason> {
        let last = self.scan.history.as_ref().expect("the scan began").last();
        if fault.durable_max > last {
            return Err(Reason::Lost { durable: fault.durable_max, last });
        }
        // With several writes in flight the first may be lost and the others not. Nothing is
        // written into the next segment before all of this one is durable.
        let may_be_torn = match &self.scan.tail {
            None => true,
            Some(TailFault::Clean) => header.origin == Origin::Roll,
            Some(TailFault::Torn { .. }) => false,
        };
        let legal = if may_be_torn { usize::from(header.writes_max).saturating_sub(1) } else { 0 };
        let in_next = self.scan.tail.is_some();
        if fault.later > legal || (in_next && header.origin != Origin::Roll) {
            return Err(Reason::BlockBehind { offset: fault.first_later.unwrap_or(fault.offset) });
        }
        let plain = matches!(fault.reason, Reason::Blank | Reason::Stale | Reason::Full);
        if plain && fault.later == 0 {
            return Ok(TailFault::Clean);
        }
        let file = self.segment_path();
        Ok(TailFault::Torn { file, offset: fault.offset, reason: fault.reason })
    }

    /// Everything is read; says what it means.
    fn finish(&mut self) {
        self.stage = Stage::Done;
        let zxid = self.snapshot_zxid();
        let scan = core::mem::take(&mut self.scan);
        let mut segments = scan.segments;
        let mut history = scan.history.unwrap_or_else(|| HistoryIndex::new(zxid));
        if !reaches(&history, zxid) {
            let reason = Reason::Unreachable { snapshot: zxid };
            self.note_damage(error(&name::snapshot(zxid), 0, reason));
            history = HistoryIndex::new(zxid);
            segments.clear();
        }
        self.judge_watermark(&history, &segments);
        self.judge_snapshots(&history);

        let last = history.last();
        let epochs = *self.epochs.as_ref().expect("they were read first");
        let untouched = segments.is_empty() && self.segments.is_empty() && self.chosen.is_none();
        let fresh = untouched && epochs.record.accepted == Epoch::ZERO && self.damage.is_none();
        let clean = matches!(scan.tail, Some(TailFault::Clean)) && self.damage.is_none();
        let chain = scan.chain.or_else(|| segments.last().and_then(|s| s.header.chain_start()));
        let resume = match chain {
            Some(chain) if clean => Resume::Append { chain },
            Some(_) | None => {
                let holder = segments.iter().rposition(|segment| segment.after < last);
                segments.truncate(holder.map_or(0, |at| at + 1));
                let previous = segments.last().map_or(0, |segment| segment.header.seq);
                let origin = if fresh { Origin::Fresh } else { Origin::Recovery };
                Resume::Start { origin, previous, after: last }
            }
        };
        let next = scan.next.filter(|next| {
            let follows = segments.last().is_some_and(|last| last.header.seq == next.previous);
            follows && matches!(resume, Resume::Append { .. })
        });
        let used = |seq: u64| {
            segments.iter().any(|segment| segment.header.seq == seq)
                || next.is_some_and(|next| next.seq == seq)
        };
        let void = self.segments.iter().filter(|found| !used(found.seq));
        let len = |found: &FoundSegment| found.header.as_ref().map_or(0, |header| header.len);
        let void = void.map(|found| (found.seq, len(found))).collect();
        let headers = self.segments.iter().filter_map(|found| found.header.as_ref().ok());
        let generation_max = headers.map(|header| header.generation).max().unwrap_or(0);
        let names = self.segments.iter().map(|found| found.seq).max().unwrap_or(0);
        let floors = self.snapshots.iter().filter_map(|s| s.header.as_ref().ok());
        let floors = floors.map(|header| header.log_floor).max().unwrap_or(0);
        let sure = !self.segments.is_empty() && self.damage.is_none();
        for (_, usable) in &mut self.spares {
            // Without a segment it is not known which numbers their old blocks carry.
            *usable &= sure;
        }
        self.outcome = Some(Outcome {
            fresh,
            epochs_file: self.epochs_file.expect("it is open"),
            epochs,
            snapshot: self.chosen.map(|header| header.zxid),
            snapshots: self.kept_snapshots(),
            committed: self.committed.max(zxid).min(last),
            tail: scan.tail.unwrap_or(TailFault::Clean),
            quarantined: self.damage.take(),
            resume,
            next,
            void,
            spares: core::mem::take(&mut self.spares),
            unfinished: core::mem::take(&mut self.unfinished),
            seq_max: names.max(floors).max(epochs.record.durable_seq),
            generation_max,
            log_floor: self.log_floor(),
            segments,
            history,
        });
    }

    /// The epochs remember how far the log was durable when they were written, unless a later
    /// segment says that it was cut.
    fn judge_watermark(&mut self, history: &HistoryIndex, segments: &[Segment]) {
        let Some(epochs) = &self.epochs else { return };
        let (durable, seq) = (epochs.record.durable, epochs.record.durable_seq);
        let cut = segments
            .iter()
            .any(|segment| segment.header.seq > seq && segment.header.starts_after().is_some());
        let last = history.last();
        if !cut && last < durable {
            let file = name::segment(seq);
            self.note_damage(error(&file, 0, Reason::Lost { durable, last }));
        }
    }

    /// An unreadable snapshot is harmless only if the log reaches it from an older one.
    fn judge_snapshots(&mut self, history: &HistoryIndex) {
        let chosen = self.snapshot_zxid();
        let missed =
            self.bad_snapshots.iter().find(|(zxid, _)| *zxid > chosen && !reaches(history, *zxid));
        if let Some((_, error)) = missed {
            let error = error.clone();
            self.note_damage(error);
        }
    }

    fn kept_snapshots(&self) -> Vec<KeptSnapshot> {
        let kept = self.snapshots.iter().map(|snapshot| KeptSnapshot {
            zxid: snapshot.zxid,
            log_floor: snapshot.header.as_ref().map_or(0, |header| header.log_floor),
            whole: !self.bad_snapshots.iter().any(|(zxid, _)| *zxid == snapshot.zxid),
        });
        kept.collect()
    }

    fn note_damage(&mut self, damage: StoreError) {
        self.damage.get_or_insert(damage);
    }

    fn log_floor(&self) -> u64 {
        self.chosen.map_or(0, |header| header.log_floor)
    }

    fn snapshot_zxid(&self) -> Zxid {
        self.chosen.map_or(Zxid::ZERO, |header| header.zxid)
    }

    fn segment_path(&self) -> String {
        name::segment(self.scan.list[self.scan.at].seq)
    }

    fn clear_window(&mut self) {
        (self.window, self.window_at, self.short) = (Frame::default(), 0, false);
    }

    /// Whether asking for these bytes can bring anything new.
    fn can_read(&self, offset: u64, len: usize) -> bool {
        let end = self.window_at + self.window.len() as u64;
        !(self.short && offset >= self.window_at && offset + len as u64 > end)
    }

    fn wait_then(&mut self, stage: Stage) {
        self.wait = Wait::Other;
        self.stage = stage;
    }

    /// Reads from a file, which is opened first unless it is the one that is open.
    fn read(&mut self, ops: &mut Ops, path: String, mode: OpenMode, at: u64, len: usize) {
        if let Some(open) = &self.open {
            if open.path == path {
                ops.read(Owner::Recovery, open.file, at, len);
                self.wait = Wait::Read { at, len };
                return;
            }
            ops.close(open.file);
        }
        let file = ops.open(Owner::Recovery, path.clone(), mode);
        self.open = Some(OpenFile { path, file });
        self.wait = Wait::Open { at, len };
    }

    /// Forgets the file that was read last.
    pub(crate) fn close(&mut self, ops: &mut Ops) {
        if let Some(open) = self.open.take() {
            ops.close(open.file);
        }
    }
}

fn segment_len(scan: &Progress) -> u64 {
    let segment = scan.segments.last().expect("a segment is being read");
    segment.header.len
}

/// Whether the history holds `zxid`, or spans it if it is the start of an epoch.
fn reaches(history: &HistoryIndex, zxid: Zxid) -> bool {
    let starts_epoch = zxid.counter() == 0 && history.floor() <= zxid && zxid <= history.last();
    history.contains(zxid) || starts_epoch
}

/// The segments of a history, oldest first: from the newest back by their links.
fn list_segments(all: &[FoundSegment], floor: u64) -> Vec<FoundSegment> {
    let ours =
        |found: &&FoundSegment| found.header.as_ref().is_ok_and(|header| header.log_floor == floor);
    let mut list = Vec::new();
    let mut next = all.iter().filter(ours).max_by_key(|found| found.seq);
    while let Some(found) = next {
        list.push(found.clone());
        let Ok(header) = &found.header else { break };
        // Links lead downwards, so that this ends whatever the files say.
        let previous = header.previous;
        next = all.iter().find(|other| other.seq == previous && other.seq < header.seq);
    }
    list.reverse();
    list
}

fn error(file: &str, offset: u64, reason: Reason) -> StoreError {
    StoreError { file: file.to_string(), offset, reason }
}
