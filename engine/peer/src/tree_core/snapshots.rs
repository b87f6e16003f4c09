//! Cuts of the state for learners and for the disk, and the way back.
//!
//! Every cut is pulled: the next slice is made when its receiver has room, so a slow receiver costs
//! no memory and commits go on between two slices.

use alloc::format;
use alloc::string::String;

use bytes::BytesMut;
use quorate_proto::Zxid;
use quorate_tree::hash::IdMap;
use quorate_wire::Frame;

use super::TreeCore;
use crate::links::{ConnKey, Message, ToLog, ToShard};
use crate::machine::StateMachine;
use crate::notice::Level;

pub(super) struct Snapshots<M: StateMachine> {
    restore: Option<M::Restore>,
    learners: IdMap<ConnKey, M::Cut>,
    /// Our own snapshot while pieces of it are to be made.
    own: Option<M::Cut>,
    /// Where our own snapshot was begun, until the disk has it or gave it up.
    writing: Option<Zxid>,
    /// `applied_count` when the newest own snapshot was begun.
    own_at: u64,
}

impl<M: StateMachine> core::fmt::Debug for Snapshots<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Snapshots")
            .field("restoring", &self.restore.is_some())
            .field("learners", &self.learners.len())
            .field("own", &self.own.is_some())
            .finish_non_exhaustive()
    }
}

impl<M: StateMachine> Default for Snapshots<M> {
    fn default() -> Self {
        Self { restore: None, learners: IdMap::default(), own: None, writing: None, own_at: 0 }
    }
}

impl<M: StateMachine> TreeCore<M> {
    fn slice(&mut self, cut: &mut M::Cut) -> (Frame, bool) {
        let mut out = BytesMut::with_capacity(self.config.limits.chunk_len + 4096);
        let last = self.machine.cut_slice(cut, self.config.limits.chunk_len, &mut out);
        (Frame::from(out.freeze()), last)
    }

    // --- for a learner -------------------------------------------------------------------------

    pub(super) fn cut_for(&mut self, conn: ConnKey, at: Zxid) {
        assert_eq!(at, self.applied, "a cut is asked for where the state is (R18)");
        self.learner_gone(conn);
        let cut = self.machine.begin_cut(self.applied);
        self.snapshots.learners.insert(conn, cut);
        self.next_chunk(conn);
    }

    pub(super) fn next_chunk(&mut self, conn: ConnKey) {
        let Some(mut cut) = self.snapshots.learners.remove(&conn) else { return };
        let (bytes, last) = self.slice(&mut cut);
        self.to_shard(conn, ToShard::SnapChunk(conn, bytes, last));
        if last {
            self.machine.end_cut(cut);
        } else {
            self.snapshots.learners.insert(conn, cut);
        }
    }

    pub(super) fn learner_gone(&mut self, conn: ConnKey) {
        if let Some(cut) = self.snapshots.learners.remove(&conn) {
            self.machine.end_cut(cut);
        }
    }

    pub(super) fn end_learner_cuts(&mut self) {
        for (_, cut) in core::mem::take(&mut self.snapshots.learners) {
            self.machine.end_cut(cut);
        }
    }

    // --- for the disk --------------------------------------------------------------------------

    /// Begins a snapshot when enough was applied since the last one. Only committed state is ever
    /// applied, so only committed state is ever in a snapshot (R11, R15).
    pub(super) fn maybe_snapshot(&mut self) {
        let due = self.applied_count - self.snapshots.own_at >= self.config.snap_count;
        let busy = self.snapshots.writing.is_some() || self.snapshots.restore.is_some();
        if !due || busy || !self.is_serving() {
            return;
        }
        self.snapshots.own_at = self.applied_count;
        self.snapshots.own = Some(self.machine.begin_cut(self.applied));
        self.snapshots.writing = Some(self.applied);
        self.send(Message::Log(ToLog::BeginSnapshot(self.applied)));
        self.snapshot_next(self.applied);
    }

    pub(super) fn snapshot_next(&mut self, zxid: Zxid) {
        if self.snapshots.writing != Some(zxid) {
            return;
        }
        let Some(mut cut) = self.snapshots.own.take() else { return };
        let (bytes, last) = self.slice(&mut cut);
        self.send(Message::Log(ToLog::SnapshotChunk(bytes, last)));
        if last {
            self.machine.end_cut(cut);
        } else {
            self.snapshots.own = Some(cut);
        }
    }

    fn abort_own(&mut self) {
        if self.snapshots.own.is_some() {
            self.send(Message::Log(ToLog::AbortSnapshot));
        }
        self.end_own_cut();
        // What the log core still says of it speaks of the past.
        self.snapshots.writing = None;
    }

    /// The disk has our own snapshot, or gave it up.
    pub(super) fn own_snapshot_ended(&mut self, zxid: Zxid) {
        if self.snapshots.writing == Some(zxid) {
            self.snapshots.writing = None;
            self.end_own_cut();
        }
    }

    fn end_own_cut(&mut self) {
        if let Some(cut) = self.snapshots.own.take() {
            self.machine.end_cut(cut);
        }
    }

    // --- the way back --------------------------------------------------------------------------

    pub(super) fn begin_restore(&mut self) {
        self.abort_own();
        self.end_learner_cuts();
        self.snapshots.restore = Some(self.machine.begin_restore());
    }

    pub(super) fn abort_restore(&mut self) {
        self.snapshots.restore = None;
    }

    pub(super) fn restore_chunk(&mut self, bytes: &[u8], last: bool) -> Result<(), String> {
        let fresh = || self.machine.begin_restore();
        let mut restore = self.snapshots.restore.take().unwrap_or_else(fresh);
        self.machine.restore_chunk(&mut restore, bytes)?;
        if !last {
            self.snapshots.restore = Some(restore);
            return Ok(());
        }
        let zxid: Zxid = self.machine.finish_restore(restore)?;
        self.applied = zxid;
        self.staged.clear();
        self.snapshots.own_at = self.applied_count;
        self.notice(Level::Info, format!("state restored at {zxid}"));
        Ok(())
    }
}
