//! `Log`: appends, group commit, roll and truncation of the running log.
//!
//! Whatever gathers while a write is in flight is the next batch; there is no timer. The log does
//! not read: recovery does before it, streams do beside it. It does not make segments either, it
//! says which one it needs.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use quorate_proto::{HistoryIndex, Zxid};
use quorate_wire::Frame;
use quorate_wire::native::proposal::proposal_committed;

use crate::disk::{BLOCK_SIZE, FileId, OpId};
use crate::ops::{Ops, Owner};
use crate::segment::{BLOCK_HEADER_LEN, BlockHeader, SegmentHeader, block_len};
use crate::supply::MadeSegment;

/// One entry of a segment's index for so many bytes.
const INDEX_STEP: u64 = 64 * 1024;

/// A segment of the history, the active one included.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    /// The zxid before its first record.
    pub(crate) after: Zxid,
    /// Its last durable zxid, `after` if it has none.
    pub(crate) last: Zxid,
    /// The end of the durable blocks in bytes.
    pub(crate) end: u64,
    /// Some of its blocks: the zxid before each, and where it begins. Empty if it was not read.
    pub(crate) index: Vec<(Zxid, u64)>,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader, after: Zxid) -> Self {
        let entries = header.len / INDEX_STEP + 1;
        let index = Vec::with_capacity(usize::try_from(entries).unwrap_or(0));
        Self { header, after, last: after, end: BLOCK_SIZE as u64, index }
    }

    /// Takes in a block that begins at `offset`.
    pub(crate) fn note_block(&mut self, after: Zxid, offset: u64) {
        if self.index.last().is_none_or(|(_, indexed)| offset - indexed >= INDEX_STEP) {
            self.index.push((after, offset));
        }
    }

    /// Where to start reading for what follows `after`.
    pub(crate) fn seek(&self, after: Zxid) -> u64 {
        let behind = self.index.partition_point(|(before, _)| *before <= after);
        behind.checked_sub(1).map_or(BLOCK_SIZE as u64, |found| self.index[found].1)
    }

    fn cut(&mut self, to: Zxid) {
        self.last = self.last.min(to);
        self.index.retain(|(before, _)| *before < to);
    }
}

/// A record that is not durable yet.
#[derive(Clone, Debug)]
struct Pending {
    zxid: Zxid,
    frame: Frame,
}

/// A block on its way to the disk.
#[derive(Debug)]
struct Batch {
    id: OpId,
    after: Zxid,
    last: Zxid,
    records: usize,
    offset: u64,
    end: u64,
    done: bool,
}

/// What was asked for behind a barrier.
#[derive(Debug)]
enum Held {
    Append(Pending),
    Truncate(Zxid),
    Restart(Zxid),
}

/// A change of the log's end that has to be durable before anything is written behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// TRUNC to `to`; `ordered` once the segment that makes it durable is being made.
    Truncate { to: Zxid, ordered: bool },
    /// A received snapshot replaces the log.
    Restart { zxid: Zxid },
}

/// Where the next block goes.
#[derive(Debug)]
struct Active {
    file: FileId,
    offset: u64,
    chain: u32,
}

/// What the log wants from its surroundings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogEvent {
    /// The log is durable up to here.
    Durable(Zxid),
    /// The truncation is durable.
    Truncated(Zxid),
    /// A segment for TRUNC is needed, behind the segment `previous`.
    NeedCut { to: Zxid, previous: u64 },
    /// The next segment is needed before long, behind the segment `previous`.
    NeedNext { previous: u64 },
    /// The next segment, if one is being made, is not wanted any more.
    CancelNext,
    /// A segment, by number and length, that is void or not needed any more.
    Retire { seq: u64, len: u64 },
}

/// The bounds of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    pub(crate) batch_len_max: usize,
    pub(crate) writes_max: usize,
}

#[derive(Debug)]
pub(crate) struct Log {
    limits: LogLimits,
    /// What the log will be when everything asked for is done.
    history: HistoryIndex,
    /// Records before the barrier: those in flight, then those waiting.
    pending: VecDeque<Pending>,
    /// How many of them are in flight.
    sent: usize,
    in_flight: VecDeque<Batch>,
    /// The last zxid handed to the disk.
    written: Zxid,
    durable: Zxid,
    committed: Zxid,
    barrier: Option<Barrier>,
    held: VecDeque<Held>,
    /// The history's segments, oldest first; the last one is active.
    segments: Vec<Segment>,
    active: Active,
    next: Option<MadeSegment>,
    starving: bool,
    events: VecDeque<LogEvent>,
}

impl Log {
    /// A log that goes on in the last of `segments` at `offset`.
    pub(crate) fn new(
        limits: LogLimits,
        history: HistoryIndex,
        committed: Zxid,
        segments: Vec<Segment>,
        file: FileId,
        chain: u32,
    ) -> Self {
        let last = history.last();
        let offset = segments.last().expect("a log has an active segment").end;
        Self {
            limits,
            history,
            pending: VecDeque::with_capacity(1024),
            sent: 0,
            in_flight: VecDeque::with_capacity(limits.writes_max),
            written: last,
            durable: last,
            committed,
            barrier: None,
            held: VecDeque::new(),
            segments,
            active: Active { file, offset, chain },
            next: None,
            starving: false,
            events: VecDeque::new(),
        }
    }

    pub(crate) fn history(&self) -> &HistoryIndex {
        &self.history
    }

    pub(crate) fn durable(&self) -> Zxid {
        self.durable
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.barrier.is_none() && self.held.is_empty()
    }

    /// Whether the next batch waits for its segment.
    pub(crate) fn is_starving(&self) -> bool {
        self.starving
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(crate) fn active(&self) -> &Segment {
        self.segments.last().expect("a log has an active segment")
    }

    pub(crate) fn note_committed(&mut self, zxid: Zxid) {
        self.committed = self.committed.max(zxid);
    }

    pub(crate) fn poll_event(&mut self) -> Option<LogEvent> {
        self.events.pop_front()
    }

    /// The one way into the log (R4).
    pub(crate) fn append(&mut self, zxid: Zxid, frame: Frame) {
        self.history.append(zxid);
        let record = Pending { zxid, frame };
        if self.barrier.is_some() {
            self.held.push_back(Held::Append(record));
        } else {
            self.pending.push_back(record);
        }
    }

    pub(crate) fn truncate(&mut self, to: Zxid) {
        self.history.truncate(to);
        // R2: a truncation lowers everything at once, whenever it becomes durable itself.
        self.durable = self.durable.min(to);
        if self.barrier.is_some() {
            self.held.push_back(Held::Truncate(to));
        } else {
            self.begin_truncate(to);
        }
    }

    /// From now on the log follows a received snapshot, whose segment is being made.
    pub(crate) fn begin_restart(&mut self, zxid: Zxid) {
        self.history = HistoryIndex::new(zxid);
        if self.barrier.is_some() {
            // What was asked for behind the barrier is part of what the snapshot replaces.
            self.held.clear();
            self.held.push_back(Held::Restart(zxid));
        } else {
            self.restart(zxid);
        }
    }

    /// Whether nothing of the old log is under way any more, and the snapshot may take its place.
    pub(crate) fn can_restart(&self) -> bool {
        matches!(self.barrier, Some(Barrier::Restart { .. })) && self.in_flight.is_empty()
    }

    /// The received snapshot has its name, and `made` follows it.
    pub(crate) fn finish_restart(&mut self, ops: &mut Ops, made: MadeSegment) {
        let Some(Barrier::Restart { zxid }) = self.barrier else {
            unreachable!("a restart was begun")
        };
        assert!(self.in_flight.is_empty(), "an old write could hit the file in its next use");
        self.pending.clear();
        self.sent = 0;
        for segment in core::mem::take(&mut self.segments) {
            self.retire(&segment.header);
        }
        self.drop_next(ops);
        self.enter(ops, made, zxid);
        self.committed = self.committed.max(zxid);
        self.settle(zxid);
    }

    /// The segment after the active one is there.
    pub(crate) fn set_next(&mut self, ops: &mut Ops, made: MadeSegment) {
        let wanted = self.barrier.is_none()
            && self.next.is_none()
            && made.header.previous == self.active().header.seq;
        if wanted {
            self.next = Some(made);
        } else {
            ops.close(made.file);
            self.retire(&made.header);
        }
    }

    /// The segment that makes a truncation durable is there.
    pub(crate) fn finish_truncate(&mut self, ops: &mut Ops, made: MadeSegment) {
        let to = made.header.continues_after;
        while let Some(mut last) = self.segments.pop() {
            if last.header.seq == made.header.previous {
                last.cut(to);
                self.segments.push(last);
                break;
            }
            self.retire(&last.header);
        }
        self.enter(ops, made, to);
        self.truncated(to);
    }

    pub(crate) fn advance(&mut self, ops: &mut Ops) {
        self.starving = false;
        // The segment's header tells recovery how many there may be.
        let writes_max = self.limits.writes_max.min(self.active().header.writes_max.into());
        while self.in_flight.len() < writes_max && self.sent < self.pending.len() {
            if !self.write_batch(ops) {
                break;
            }
        }
        if let Some(Barrier::Truncate { to, ordered: false }) = self.barrier
            && self.pending.is_empty()
        {
            self.cut(ops, to);
        }
    }

    /// A batch is durable.
    pub(crate) fn handle_written(&mut self, id: OpId) {
        let batch = self.in_flight.iter_mut().find(|batch| batch.id == id);
        batch.expect("a batch is in flight until its write is done").done = true;
        let mut durable = self.durable;
        // Durable is the longest completed prefix.
        while self.in_flight.front().is_some_and(|batch| batch.done) {
            let batch = self.in_flight.pop_front().expect("the loop saw a batch");
            self.pending.drain(..batch.records);
            self.sent -= batch.records;
            durable = batch.last;
            let segment = self.segments.last_mut().expect("a log has an active segment");
            segment.last = batch.last;
            segment.end = batch.end;
            segment.note_block(batch.after, batch.offset);
        }
        // R2: what completes behind a truncation was asked for before it and proves nothing.
        if durable != self.durable && self.barrier.is_none() {
            self.durable = durable;
            self.events.push_back(LogEvent::Durable(durable));
        }
    }

    /// Whether no change of the log's end is under way.
    pub(crate) fn is_settled(&self) -> bool {
        self.barrier.is_none()
    }

    /// The records after `after` that are not durable yet, oldest first.
    pub(crate) fn in_memory(&self, after: Zxid) -> impl Iterator<Item = (Zxid, &Frame)> {
        let held = self.held.iter().filter_map(|held| match held {
            Held::Append(record) => Some(record),
            Held::Truncate(_) | Held::Restart(_) => None,
        });
        let ours = self.pending.iter().chain(held).filter(move |record| record.zxid > after);
        ours.map(|record| (record.zxid, &record.frame))
    }

    /// Gives up the oldest segments as long as all their records are at or before `through`.
    pub(crate) fn forget(&mut self, through: Zxid) {
        // A rolled segment without a durable block does not say yet where it starts.
        let starts = |segment: &Segment| {
            segment.header.starts_after().is_some() || segment.last > segment.after
        };
        let surplus = |pair: &&[Segment]| pair[1].after <= through && starts(&pair[1]);
        let count = self.segments.windows(2).take_while(surplus).count();
        let kept = self.segments.split_off(count);
        for segment in core::mem::replace(&mut self.segments, kept) {
            self.retire(&segment.header);
        }
        if self.barrier.is_none() {
            self.history.forget_before(self.segments[0].after);
        }
    }

    pub(crate) fn check_invariants(&self) {
        assert!(self.sent <= self.pending.len());
        assert_eq!(self.sent, self.in_flight.iter().map(|batch| batch.records).sum::<usize>());
        assert!(self.durable <= self.written, "durable beyond what was written");
        let front = self.pending.front().map(|record| record.zxid);
        assert!(front.is_none_or(|zxid| zxid > self.durable), "a durable record is pending");
        assert!(self.active().end <= self.active.offset);
        assert!(self.active.offset.is_multiple_of(BLOCK_SIZE as u64));
        if self.barrier.is_none() {
            assert!(self.held.is_empty(), "something is held behind no barrier");
            let end = self.pending.back().map_or(self.durable, |record| record.zxid);
            assert_eq!(self.history.last(), end, "the history and the log disagree");
        }
        for pair in self.segments.windows(2) {
            assert!(pair[0].last == pair[1].after, "segments do not follow each other");
        }
    }

    /// Writes one batch; false if it has to wait for a segment.
    fn write_batch(&mut self, ops: &mut Ops) -> bool {
        let mut room = self.active().header.len - self.active.offset;
        let first = self.pending[self.sent].frame.len() as u64;
        if block_len(first) > room {
            // The new segment's first block continues the old one's last, which must be durable.
            if !self.in_flight.is_empty() {
                return false;
            }
            let Some(next) = self.next.take() else {
                self.starving = true;
                return false;
            };
            self.enter(ops, next, self.written);
            room = self.active().header.len - self.active.offset;
            assert!(block_len(first) <= room, "a record must fit an empty segment");
        }
        let (records, payload_len) = self.gather(room);
        let batch = self.pending.range(self.sent..self.sent + records);
        let mut parts = Vec::with_capacity(records + 1);
        parts.push(Frame::default());
        let (after, mut last) = (self.written, self.written);
        for record in batch {
            self.committed = self.committed.max(proposal_committed(&record.frame));
            last = record.zxid;
            parts.push(record.frame.clone());
        }
        let offset = self.active.offset;
        let header = BlockHeader {
            seq: self.active().header.seq,
            generation: self.active().header.generation,
            position: (offset / BLOCK_SIZE as u64) as u32,
            payload_len: payload_len as u32,
            after,
            durable: self.durable,
            committed: self.committed,
            chain: self.active.chain,
        };
        let (bytes, chain) = header.encode();
        parts[0] = Frame::copy_from(&bytes);
        let id = ops.write(Owner::Batch, self.active.file, offset, parts, true);
        let end = offset + header.block_len();
        self.in_flight.push_back(Batch { id, after, last, records, offset, end, done: false });
        self.active.offset = end;
        self.active.chain = chain;
        self.written = last;
        self.sent += records;
        true
    }

    /// How many waiting records go into one block, and their length: at least one, as many as the
    /// limit and the segment's room allow.
    fn gather(&self, room: u64) -> (usize, usize) {
        let room = (room as usize - BLOCK_HEADER_LEN).min(self.limits.batch_len_max);
        let (mut records, mut len) = (0, 0);
        for record in self.pending.range(self.sent..) {
            let with = len + record.frame.len();
            if records > 0 && with > room {
                break;
            }
            records += 1;
            len = with;
        }
        (records, len)
    }

    fn begin_truncate(&mut self, to: Zxid) {
        let keep = self.pending.iter().position(|r| r.zxid > to).unwrap_or(self.pending.len());
        self.pending.truncate(keep.max(self.sent));
        self.barrier = Some(Barrier::Truncate { to, ordered: false });
    }

    fn restart(&mut self, zxid: Zxid) {
        self.pending.truncate(self.sent);
        self.barrier = Some(Barrier::Restart { zxid });
        self.events.push_back(LogEvent::CancelNext);
    }

    /// Everything up to `to` is durable, and nothing is in flight.
    fn cut(&mut self, ops: &mut Ops, to: Zxid) {
        if self.written == to {
            self.truncated(to);
            return;
        }
        self.barrier = Some(Barrier::Truncate { to, ordered: true });
        self.events.push_back(LogEvent::CancelNext);
        self.drop_next(ops);
        let holder = self.segments.iter().rev().find(|segment| segment.after < to);
        let previous = holder.map_or(0, |segment| segment.header.seq);
        self.events.push_back(LogEvent::NeedCut { to, previous });
    }

    fn truncated(&mut self, to: Zxid) {
        self.events.push_back(LogEvent::Truncated(to));
        self.settle(to);
    }

    /// The barrier is behind us; what was held goes on from `end`.
    fn settle(&mut self, end: Zxid) {
        self.written = end;
        let cuts = self.held.iter().filter_map(|held| match held {
            Held::Truncate(to) => Some(*to),
            Held::Append(_) | Held::Restart(_) => None,
        });
        self.durable = cuts.fold(end, Zxid::min);
        self.barrier = None;
        while let Some(held) = self.held.pop_front() {
            match held {
                Held::Append(record) => self.pending.push_back(record),
                Held::Truncate(to) => {
                    self.begin_truncate(to);
                    return;
                }
                Held::Restart(zxid) => {
                    self.restart(zxid);
                    return;
                }
            }
        }
    }

    /// Goes on in a new segment and asks for the one after it.
    fn enter(&mut self, ops: &mut Ops, made: MadeSegment, after: Zxid) {
        ops.close(self.active.file);
        let chain = made.header.chain_start().unwrap_or(self.active.chain);
        self.active = Active { file: made.file, offset: BLOCK_SIZE as u64, chain };
        self.segments.push(Segment::new(made.header, after));
        self.events.push_back(LogEvent::NeedNext { previous: made.header.seq });
    }

    fn drop_next(&mut self, ops: &mut Ops) {
        if let Some(next) = self.next.take() {
            ops.close(next.file);
            self.retire(&next.header);
        }
    }

    fn retire(&mut self, header: &SegmentHeader) {
        self.events.push_back(LogEvent::Retire { seq: header.seq, len: header.len });
    }
}
