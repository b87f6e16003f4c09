//! Streams: ranges of the log read back for learners, without getting in the way of its writes.
//!
//! A stream reads with a handle of its own and gives what is not durable yet from memory. It gives
//! one bounded piece each time it is asked, so that a slow learner holds nothing up.

use alloc::vec::Vec;

use quorate_proto::Zxid;
use quorate_wire::Frame;

use crate::disk::{BLOCK_SIZE, FileId, OpenMode};
use crate::error::{Reason, StoreError};
use crate::log::{Log, Segment};
use crate::name;
use crate::ops::{Ops, Owner};
use crate::segment::{Parsed, SegmentReader};

/// Names a stream. Never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamPiece {
    pub(crate) stream: StreamId,
    pub(crate) frames: Vec<Frame>,
    pub(crate) last: bool,
}

/// The bounds of streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamLimits {
    /// Of one piece, in bytes; a single longer record makes a piece of its own.
    pub(crate) piece_len: usize,
    pub(crate) body_len_max: u32,
}

/// An open segment.
#[derive(Debug)]
struct OpenSegment {
    seq: u64,
    file: FileId,
    reader: SegmentReader,
    window: Frame,
    at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Rest,
    Opening,
    Reading {
        at: u64,
        len: usize,
    },
    /// The last piece was given.
    Over,
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    /// The last zxid that was read.
    after: Zxid,
    through: Zxid,
    wanted: bool,
    step: Step,
    segment: Option<OpenSegment>,
    frames: Vec<Frame>,
    len: usize,
}

/// All streams of a store.
#[derive(Debug)]
pub(crate) struct Streams {
    limits: StreamLimits,
    next_id: u64,
    streams: Vec<Stream>,
}

impl Streams {
    pub(crate) const fn new(limits: StreamLimits) -> Self {
        Self { limits, next_id: 0, streams: Vec::new() }
    }

    pub(crate) fn begin(&mut self, after: Zxid, through: Zxid) -> StreamId {
        let id = StreamId(self.next_id);
        self.next_id += 1;
        self.streams.push(Stream {
            id,
            after,
            through,
            wanted: false,
            step: Step::Rest,
            segment: None,
            frames: Vec::new(),
            len: 0,
        });
        id
    }

    /// Asks for one more piece; a stream that ended or was cancelled gives none.
    pub(crate) fn want(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) {
            stream.wanted = true;
        }
    }

    pub(crate) fn cancel(&mut self, ops: &mut Ops, id: StreamId) {
        if let Some(found) = self.streams.iter().position(|stream| stream.id == id) {
            self.streams.swap_remove(found).close(ops);
        }
    }

    pub(crate) fn cancel_all(&mut self, ops: &mut Ops) {
        for mut stream in self.streams.drain(..) {
            stream.close(ops);
        }
    }

    /// What no stream needs any more: everything at or before this.
    pub(crate) fn floor(&self) -> Option<Zxid> {
        self.streams.iter().map(|stream| stream.after).min()
    }

    pub(crate) fn advance(
        &mut self,
        ops: &mut Ops,
        log: &Log,
        mut emit: impl FnMut(StreamPiece),
    ) -> Result<(), StoreError> {
        // While the log's end changes, what is in memory is not yet in order.
        if !log.is_settled() {
            return Ok(());
        }
        let limits = self.limits;
        for stream in &mut self.streams {
            if stream.wanted && stream.step == Step::Rest {
                stream.advance(ops, log, limits)?;
                if let Some(piece) = stream.take_piece(limits) {
                    emit(piece);
                }
            }
        }
        for mut stream in self.streams.extract_if(.., |stream| stream.step == Step::Over) {
            stream.close(ops);
        }
        Ok(())
    }

    /// An operation of a stream is done; of a cancelled one nothing follows.
    pub(crate) fn handle_done(
        &mut self,
        id: StreamId,
        bytes: Option<Frame>,
    ) -> Result<(), StoreError> {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) else {
            return Ok(());
        };
        let step = core::mem::replace(&mut stream.step, Step::Rest);
        let (Step::Reading { at, len }, Some(bytes)) = (step, bytes) else { return Ok(()) };
        let segment = stream.segment.as_mut().expect("a read has its segment");
        if bytes.len() < len {
            let offset = at + bytes.len() as u64;
            return Err(fault(segment.seq, offset, Reason::ShortFile));
        }
        (segment.window, segment.at) = (bytes, at);
        Ok(())
    }

    /// Where a stream was reading, for an error.
    pub(crate) fn place(&self, id: StreamId) -> Option<(u64, u64)> {
        let stream = self.streams.iter().find(|stream| stream.id == id)?;
        stream.segment.as_ref().map(|segment| (segment.seq, segment.reader.offset()))
    }
}

impl Stream {
    /// Goes on until the piece is full, the range is at its end, or the disk is asked.
    fn advance(
        &mut self,
        ops: &mut Ops,
        log: &Log,
        limits: StreamLimits,
    ) -> Result<(), StoreError> {
        while !self.is_full(limits) && self.after < self.through {
            if self.after >= log.durable() {
                self.take_from_memory(log, limits);
                return Ok(());
            }
            let held = log.segments();
            // The last segment that starts at or before `after`, unless that has nothing behind it.
            let found = held.partition_point(|segment| segment.after <= self.after);
            let found = found.checked_sub(1).expect("the range was checked against the history");
            let ahead = self.after >= held[found].last;
            let segment = &held[if ahead { found + 1 } else { found }];
            if self.segment.as_ref().is_none_or(|open| open.seq != segment.header.seq) {
                self.open(ops, segment, limits);
                return Ok(());
            }
            self.read_on(ops, segment, limits)?;
            if self.step != Step::Rest {
                return Ok(());
            }
        }
        Ok(())
    }

    fn open(&mut self, ops: &mut Ops, segment: &Segment, limits: StreamLimits) {
        self.close(ops);
        let seq = segment.header.seq;
        let file = ops.open(Owner::Stream(self.id), name::segment(seq), OpenMode::Read);
        let start = segment.seek(self.after);
        let reader = SegmentReader::at(segment.header, start, limits.body_len_max);
        let window = Frame::default();
        self.segment = Some(OpenSegment { seq, file, reader, window, at: 0 });
        self.step = Step::Opening;
    }

    fn close(&mut self, ops: &mut Ops) {
        if let Some(open) = self.segment.take() {
            ops.close(open.file);
        }
    }

    fn read_on(
        &mut self,
        ops: &mut Ops,
        segment: &Segment,
        limits: StreamLimits,
    ) -> Result<(), StoreError> {
        let open = self.segment.as_mut().expect("the caller opened it");
        while self.after < self.through && self.after < segment.last && self.len < limits.piece_len
        {
            match open.reader.next(&open.window, open.at) {
                Parsed::Block { .. } => {}
                Parsed::Record { zxid, frame, .. } => {
                    if zxid > self.after {
                        self.after = zxid;
                        self.len += frame.len();
                        self.frames.push(frame);
                    }
                }
                Parsed::More { offset, len } => {
                    // Never beyond the durable end: what is read there now is written later.
                    let end = segment.end.max(offset + len as u64);
                    let piece = limits.piece_len.next_multiple_of(BLOCK_SIZE) as u64;
                    let len = piece.min(end - offset).max(len as u64) as usize;
                    ops.read(Owner::Stream(self.id), open.file, offset, len);
                    self.step = Step::Reading { at: offset, len };
                    return Ok(());
                }
                // It was whole when it was written or recovered.
                Parsed::End { offset, reason, .. } => {
                    return Err(fault(open.seq, offset, reason));
                }
            }
        }
        Ok(())
    }

    fn take_from_memory(&mut self, log: &Log, limits: StreamLimits) {
        for (zxid, frame) in log.in_memory(self.after) {
            if zxid > self.through || self.len >= limits.piece_len {
                break;
            }
            self.after = zxid;
            self.len += frame.len();
            self.frames.push(frame.clone());
        }
    }

    fn is_full(&self, limits: StreamLimits) -> bool {
        self.len >= limits.piece_len
    }

    fn take_piece(&mut self, limits: StreamLimits) -> Option<StreamPiece> {
        let last = self.after >= self.through;
        if self.step != Step::Rest || !(last || self.is_full(limits)) {
            return None;
        }
        if last {
            self.step = Step::Over;
        }
        self.wanted = false;
        self.len = 0;
        Some(StreamPiece { stream: self.id, frames: core::mem::take(&mut self.frames), last })
    }
}

fn fault(seq: u64, offset: u64, reason: Reason) -> StoreError {
    StoreError { file: name::segment(seq), offset, reason }
}
