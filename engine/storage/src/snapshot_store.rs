//! `SnapshotWriter`: one snapshot on its way to its name (R12), beside the running log.
//!
//! A snapshot counts when it is written, synced, read back and checked, renamed, and the directory
//! synced. One operation is under way at a time, so that the log's writes are never behind more
//! than one chunk. What a snapshot contains, and which ones to keep, is decided elsewhere.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;

use quorate_wire::Frame;

use crate::disk::{BLOCK_SIZE, FileId, OpenMode};
use crate::error::Reason;
use crate::name;
use crate::ops::{Ops, Owner};
use crate::snapshot::{
    CHUNK_HEADER_LEN, SnapshotHeader, SnapshotPart, SnapshotReader, SnapshotTotals,
};

/// How much is read at once to check a snapshot, in bytes.
const CHECK_LEN: usize = 256 * 1024;
/// How much the producer may be ahead of the disk, in bytes.
const WAITING_MAX: usize = 1024 * 1024;

/// What has to happen outside before the snapshot gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Not there yet.
    Closed,
    /// Written and checked; the caller opens the gate.
    Waiting,
    /// It may be renamed.
    Open,
}

#[derive(Debug)]
enum Step {
    Rest,
    Opening,
    Writing,
    Syncing,
    OpeningToCheck,
    Checking { at: u64, len: usize },
    Renaming,
    SyncingDir,
}

#[derive(Debug)]
struct Check {
    file: FileId,
    reader: SnapshotReader,
    window: Frame,
    at: u64,
}

/// A snapshot being written.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    number: u64,
    header: SnapshotHeader,
    path: String,
    file: Option<FileId>,
    offset: u64,
    totals: SnapshotTotals,
    waiting: VecDeque<Frame>,
    waiting_len: usize,
    /// The last chunk was given.
    complete: bool,
    footer_written: bool,
    synced: bool,
    chunk_len_max: usize,
    check: Option<Check>,
    gate: Gate,
    step: Step,
}

/// How a step of a snapshot ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to do.
    Going,
    /// It has its name.
    Done,
    /// What was read back is not what was written.
    Bad { offset: u64, reason: Reason },
}

impl SnapshotWriter {
    pub(crate) fn new(number: u64, header: SnapshotHeader, chunk_len_max: usize) -> Self {
        Self {
            number,
            header,
            path: name::snapshot_tmp(header.zxid, number),
            file: None,
            offset: 0,
            totals: SnapshotTotals::default(),
            waiting: VecDeque::new(),
            waiting_len: 0,
            complete: false,
            footer_written: false,
            synced: false,
            chunk_len_max,
            check: None,
            gate: Gate::Closed,
            step: Step::Rest,
        }
    }

    pub(crate) fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn open_gate(&mut self) {
        assert!(self.gate == Gate::Waiting);
        self.gate = Gate::Open;
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.complete && self.waiting_len < WAITING_MAX
    }

    /// Takes the next chunk; one above the limit becomes several in the file.
    pub(crate) fn push(&mut self, mut bytes: Frame, last: bool) {
        assert!(!self.complete, "a chunk after the last one");
        self.waiting_len += bytes.len();
        while bytes.len() > self.chunk_len_max {
            self.waiting.push_back(bytes.slice(..self.chunk_len_max));
            bytes = bytes.slice(self.chunk_len_max..);
        }
        self.waiting.push_back(bytes);
        self.complete = last;
    }

    /// Whether no operation is under way.
    pub(crate) fn is_resting(&self) -> bool {
        matches!(self.step, Step::Rest)
    }

    /// Whether it is too late to give it up: it is getting its name.
    pub(crate) fn is_being_named(&self) -> bool {
        matches!(self.step, Step::Renaming | Step::SyncingDir)
    }

    /// Gives up what is open; the caller removes the file.
    pub(crate) fn abandon(self, ops: &mut Ops) {
        for file in self.file.into_iter().chain(self.check.map(|check| check.file)) {
            ops.close(file);
        }
    }

    pub(crate) fn advance(&mut self, ops: &mut Ops) -> Progress {
        if !matches!(self.step, Step::Rest) {
            return Progress::Going;
        }
        let owner = Owner::Snapshot(self.number);
        if let Some(check) = &self.check {
            let file = check.file;
            return self.check_on(ops, file);
        }
        match self.gate {
            Gate::Waiting => return Progress::Going,
            Gate::Open => {
                ops.rename(owner, self.path.clone(), name::snapshot(self.header.zxid));
                self.step = Step::Renaming;
                return Progress::Going;
            }
            Gate::Closed => {}
        }
        let Some(file) = self.file else {
            self.file = Some(ops.open(owner, self.path.clone(), OpenMode::CreateNew));
            self.step = Step::Opening;
            return Progress::Going;
        };
        if self.synced {
            // Read back with a handle of its own, so that nothing comes from where it was written.
            ops.close(file);
            self.file = None;
            let file = ops.open(owner, self.path.clone(), OpenMode::Read);
            let reader = SnapshotReader::new(self.chunk_len_max);
            self.check = Some(Check { file, reader, window: Frame::default(), at: 0 });
            self.step = Step::OpeningToCheck;
        } else if self.footer_written {
            ops.sync(owner, file);
            self.step = Step::Syncing;
        } else {
            self.write_on(ops, file);
        }
        Progress::Going
    }

    pub(crate) fn handle_done(&mut self, ops: &mut Ops, bytes: Option<Frame>) -> Progress {
        let owner = Owner::Snapshot(self.number);
        match core::mem::replace(&mut self.step, Step::Rest) {
            Step::Rest => unreachable!("nothing was under way"),
            Step::Opening | Step::Writing | Step::OpeningToCheck => {}
            Step::Syncing => self.synced = true,
            Step::Checking { at, len } => {
                let bytes = bytes.unwrap_or_default();
                let check = self.check.as_mut().expect("a read has its file");
                if bytes.len() < len {
                    let offset = at + bytes.len() as u64;
                    return Progress::Bad { offset, reason: Reason::ShortFile };
                }
                (check.window, check.at) = (bytes, at);
            }
            Step::Renaming => {
                ops.sync_dir(owner);
                self.step = Step::SyncingDir;
            }
            Step::SyncingDir => return Progress::Done,
        }
        Progress::Going
    }

    fn write_on(&mut self, ops: &mut Ops, file: FileId) {
        let parts = if self.offset == 0 {
            vec![self.header.encode()]
        } else if let Some(chunk) = self.waiting.pop_front() {
            self.waiting_len -= chunk.len();
            vec![self.totals.encode_chunk(&chunk), chunk]
        } else if self.complete {
            self.footer_written = true;
            vec![self.totals.encode_footer(self.header.zxid)]
        } else {
            return;
        };
        let len = parts.iter().map(|part| part.len()).sum::<usize>().next_multiple_of(BLOCK_SIZE);
        ops.write(Owner::Snapshot(self.number), file, self.offset, parts, false);
        self.offset += len as u64;
        self.step = Step::Writing;
    }

    fn check_on(&mut self, ops: &mut Ops, file: FileId) -> Progress {
        let check = self.check.as_mut().expect("the caller saw it");
        loop {
            match check.reader.next(&check.window, check.at) {
                SnapshotPart::Header(found) if found == self.header => {}
                SnapshotPart::Header(_) => {
                    return Progress::Bad { offset: 0, reason: Reason::Misplaced };
                }
                SnapshotPart::Chunk(_) => {}
                SnapshotPart::End(totals) if totals == self.totals => {
                    ops.close(file);
                    self.check = None;
                    self.gate = Gate::Waiting;
                    return Progress::Going;
                }
                SnapshotPart::End(_) => {
                    let offset = check.reader.offset();
                    return Progress::Bad { offset, reason: Reason::Misplaced };
                }
                SnapshotPart::More { offset, len } => {
                    let rest = (self.offset.saturating_sub(offset)) as usize;
                    let len = CHECK_LEN.min(rest).max(len);
                    ops.read(Owner::Snapshot(self.number), file, offset, len);
                    self.step = Step::Checking { at: offset, len };
                    return Progress::Going;
                }
                SnapshotPart::Fault { offset, reason } => return Progress::Bad { offset, reason },
            }
        }
    }
}

/// The longest chunk as it stands in the file must fit a read.
pub(crate) const fn chunk_fits(chunk_len_max: usize) -> bool {
    chunk_len_max + CHUNK_HEADER_LEN + BLOCK_SIZE <= u32::MAX as usize
}
