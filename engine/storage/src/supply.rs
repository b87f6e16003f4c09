//! `SegmentSupply`: makes segment files off the hot path and gives them their durable names.
//!
//! A file is preallocated and written full of zeros, or recycled from a segment that is not needed
//! any more, so that the log's writes convert no extents. Nothing depends on the zeros: a segment
//! is also good without, only slower. The supply does not decide when the log needs a segment.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::disk::{FileId, OpenMode};
use crate::name;
use crate::ops::{Ops, Owner};
use crate::segment::{Origin, SegmentHeader};

/// How much is written with zeros at once while nobody else uses the disk, in bytes.
const URGENT_FILL_LEN: u64 = 1024 * 1024;

/// A segment whose header and name are durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MadeSegment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: FileId,
}

/// An open file that is no segment yet.
#[derive(Debug)]
struct BlankFile {
    file: FileId,
    path: String,
    /// How far it was written before, in bytes.
    filled: u64,
    synced: bool,
}

/// The one operation under way.
#[derive(Clone, Copy, Debug)]
enum Step {
    Rest,
    Opening { recycled: bool },
    Allocating,
    Filling { to: u64 },
    Syncing,
    Heading(SegmentHeader),
    Renaming(SegmentHeader),
    SyncingDir(SegmentHeader),
}

/// How much the log needs what is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pressure {
    /// The log is busy: stay off the disk.
    Busy,
    /// There is room for a piece of work.
    Room,
    /// The log waits for the next segment.
    Starving,
}

#[derive(Debug)]
pub(crate) struct SegmentSupply {
    segment_len: u64,
    fill_len: u64,
    next_spare: u64,
    recycled: Vec<String>,
    recycled_max: usize,
    blank: Option<BlankFile>,
    /// A segment that something waits for.
    order: Option<SegmentHeader>,
    /// The next segment of the log, made in good time.
    roll: Option<SegmentHeader>,
    step: Step,
    /// Making the next segment in good time failed (a full disk); tried again when the log needs it.
    stalled: bool,
    starving: bool,
    discarded: Option<String>,
}

impl SegmentSupply {
    pub(crate) fn new(segment_len: u64, fill_len: u64, recycled_max: usize) -> Self {
        Self {
            segment_len,
            fill_len,
            next_spare: 0,
            recycled: Vec::new(),
            recycled_max,
            blank: None,
            order: None,
            roll: None,
            step: Step::Rest,
            stalled: false,
            starving: false,
            discarded: None,
        }
    }

    /// Names a spare file that was not used before in this directory.
    pub(crate) fn spare_path(&mut self) -> String {
        self.next_spare += 1;
        name::spare(self.next_spare)
    }

    /// A number that is taken.
    pub(crate) fn note_spare(&mut self, number: u64) {
        self.next_spare = self.next_spare.max(number);
    }

    /// Whether another file can be kept for its next use.
    pub(crate) fn wants_recycled(&self) -> bool {
        self.recycled.len() < self.recycled_max
    }

    pub(crate) fn recycle(&mut self, path: String) {
        self.recycled.push(path);
        self.stalled = false;
    }

    /// Asks for a segment that something waits for.
    pub(crate) fn order(&mut self, header: SegmentHeader) {
        assert!(self.order.is_none(), "one segment is ordered at a time");
        assert!(header.origin != Origin::Roll);
        self.order = Some(header);
    }

    /// Asks for the segment after the active one, in good time.
    pub(crate) fn order_roll(&mut self, header: SegmentHeader) {
        assert!(header.origin == Origin::Roll);
        self.roll = Some(header);
    }

    /// The next segment is not wanted any more; it may come nevertheless.
    pub(crate) fn cancel_roll(&mut self) {
        self.roll = None;
    }

    /// The path of a file that could not be made into a segment and is to be removed.
    pub(crate) fn take_discarded(&mut self) -> Option<String> {
        self.discarded.take()
    }

    pub(crate) fn advance(&mut self, ops: &mut Ops, pressure: Pressure) {
        self.starving = pressure == Pressure::Starving;
        if !matches!(self.step, Step::Rest) {
            return;
        }
        let Some(header) = self.order.or(self.roll) else { return };
        let urgent = self.order.is_some() || self.starving;
        if self.stalled && !urgent {
            return;
        }
        let Some(blank) = &self.blank else {
            self.open(ops);
            return;
        };
        // The first segment of a new directory is filled before anyone waits for a write.
        let fill = blank.filled < self.segment_len && (!urgent || header.origin == Origin::Fresh);
        if fill {
            if urgent {
                self.fill(ops, self.fill_len.max(URGENT_FILL_LEN));
            } else if pressure == Pressure::Room {
                self.fill(ops, self.fill_len);
            }
        } else if !blank.synced && !urgent {
            ops.sync(Owner::Supply, blank.file);
            self.step = Step::Syncing;
        } else {
            ops.write(Owner::Supply, blank.file, 0, vec![header.encode()], true);
            self.step = Step::Heading(header);
            if self.order.take().is_none() {
                self.roll = None;
            }
        }
    }

    /// Takes in an outcome; gives the segment once its name is durable.
    pub(crate) fn handle_done(&mut self, ops: &mut Ops) -> Option<MadeSegment> {
        let segment_len = self.segment_len;
        let step = core::mem::replace(&mut self.step, Step::Rest);
        let blank = self.blank.as_mut().expect("every step has its file");
        match step {
            Step::Rest => unreachable!("nothing was under way"),
            Step::Opening { recycled: true } => {
                blank.filled = segment_len;
                blank.synced = true;
            }
            Step::Opening { recycled: false } => {
                ops.allocate(Owner::Supply, blank.file, segment_len);
                self.step = Step::Allocating;
            }
            Step::Allocating => {}
            Step::Filling { to } => blank.filled = to,
            Step::Syncing => blank.synced = true,
            Step::Heading(header) => {
                let to = name::segment(header.seq);
                ops.rename(Owner::Supply, blank.path.clone(), to);
                self.step = Step::Renaming(header);
            }
            Step::Renaming(header) => {
                ops.sync_dir(Owner::Supply);
                self.step = Step::SyncingDir(header);
            }
            Step::SyncingDir(header) => {
                let file = blank.file;
                self.blank = None;
                return Some(MadeSegment { header, file });
            }
        }
        None
    }

    /// Takes in a failure; true if the server has to stop for it.
    pub(crate) fn handle_failed(&mut self, ops: &mut Ops) -> bool {
        let early = match self.step {
            Step::Opening { .. } | Step::Allocating | Step::Filling { .. } | Step::Syncing => true,
            Step::Rest | Step::Heading(_) | Step::Renaming(_) | Step::SyncingDir(_) => false,
        };
        if !early || self.order.is_some() || self.starving {
            return true;
        }
        // R3: the file is not used again. The log goes on in what it has.
        self.step = Step::Rest;
        self.stalled = true;
        if let Some(blank) = self.blank.take() {
            ops.close(blank.file);
            self.discarded = Some(blank.path);
        }
        false
    }

    /// The path of the file that is being worked on, for an error.
    pub(crate) fn path(&self) -> String {
        self.blank.as_ref().map(|blank| blank.path.clone()).unwrap_or_default()
    }

    fn open(&mut self, ops: &mut Ops) {
        let recycled = self.recycled.pop();
        self.step = Step::Opening { recycled: recycled.is_some() };
        let mode = if recycled.is_some() { OpenMode::Write } else { OpenMode::CreateNew };
        let path = match recycled {
            Some(path) => path,
            None => self.spare_path(),
        };
        let file = ops.open(Owner::Supply, path.clone(), mode);
        self.blank = Some(BlankFile { file, path, filled: 0, synced: false });
    }

    fn fill(&mut self, ops: &mut Ops, len: u64) {
        let blank = self.blank.as_ref().expect("the caller saw the file");
        let to = self.segment_len.min(blank.filled + len);
        let len = (to - blank.filled) as usize;
        ops.write_zeros(Owner::Supply, blank.file, blank.filled, len);
        self.step = Step::Filling { to };
    }
}
