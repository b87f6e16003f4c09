//! `Ops`: disk operations on their way out, and who is waiting for each.
//!
//! Executes nothing and orders nothing: whoever needs an order waits for the outcome first.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use quorate_wire::Frame;

use crate::disk::{BLOCK_SIZE, DiskOp, FileId, OpId, OpenMode};
use crate::stream::StreamId;

/// Who gets an operation's outcome. All but the log's batches and the streams have at most one
/// operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Reading what an earlier process left.
    Recovery,
    /// The epochs file.
    Epochs,
    /// A batch of the log.
    Batch,
    /// The making of segments.
    Supply,
    /// Removal and recycling.
    Retention,
    /// A snapshot being written, by its number.
    Snapshot(u64),
    /// A stream of the log.
    Stream(StreamId),
}

/// The queue of operations.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    next_op: u64,
    next_file: u64,
    queue: VecDeque<DiskOp>,
    under_way: Vec<(OpId, Owner)>,
}

impl Ops {
    pub(crate) fn pop(&mut self) -> Option<DiskOp> {
        self.queue.pop_front()
    }

    /// Takes note of an outcome; `None` if nobody asked.
    pub(crate) fn finish(&mut self, id: OpId) -> Option<Owner> {
        let found = self.under_way.iter().position(|(op, _)| *op == id)?;
        Some(self.under_way.swap_remove(found).1)
    }

    pub(crate) fn open(&mut self, owner: Owner, path: String, mode: OpenMode) -> FileId {
        let file = FileId(self.next_file);
        self.next_file += 1;
        let id = self.begin(owner);
        self.queue.push_back(DiskOp::Open { id, file, path, mode, direct: true });
        file
    }

    pub(crate) fn close(&mut self, file: FileId) {
        self.queue.push_back(DiskOp::Close { file });
    }

    /// A write of `parts` padded to whole blocks.
    pub(crate) fn write(
        &mut self,
        owner: Owner,
        file: FileId,
        offset: u64,
        parts: Vec<Frame>,
        sync: bool,
    ) -> OpId {
        let len = parts.iter().map(|part| part.len()).sum::<usize>().next_multiple_of(BLOCK_SIZE);
        let id = self.begin(owner);
        self.queue.push_back(DiskOp::Write { id, file, offset, parts, len, sync });
        id
    }

    pub(crate) fn write_zeros(&mut self, owner: Owner, file: FileId, offset: u64, len: usize) {
        let id = self.begin(owner);
        let parts = Vec::new();
        self.queue.push_back(DiskOp::Write { id, file, offset, parts, len, sync: false });
    }

    pub(crate) fn allocate(&mut self, owner: Owner, file: FileId, len: u64) {
        let id = self.begin(owner);
        self.queue.push_back(DiskOp::Allocate { id, file, len });
    }

    pub(crate) fn sync(&mut self, owner: Owner, file: FileId) {
        let id = self.begin(owner);
        self.queue.push_back(DiskOp::Sync { id, file });
    }

    pub(crate) fn read(&mut self, owner: Owner, file: FileId, offset: u64, len: usize) {
        let id = self.begin(owner);
        let len = u32::try_from(len).expect("reads are bounded by the longest record or chunk");
        self.queue.push_back(DiskOp::Read { id, file, offset, len });
    }

    pub(crate) fn rename(&mut self, owner: Owner, from: String, to: String) {
        let id = self.begin(owner);
        self.queue.push_back(DiskOp::Rename { id, from, to });
    }

    pub(crate) fn remove(&mut self, owner: Owner, path: String) {
        let id = self.begin(owner);
        self.queue.push_back(DiskOp::Remove { id, path });
    }

    pub(crate) fn sync_dir(&mut self, owner: Owner) {
        let id = self.begin(owner);
        self.queue.push_back(DiskOp::SyncDir { id });
    }

    fn begin(&mut self, owner: Owner) -> OpId {
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.under_way.push((id, owner));
        id
    }
}
