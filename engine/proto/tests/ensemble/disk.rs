//! A fake disk: operations are queued, finish together, and are lost in a crash unless they had
//! reached the medium.
//!
//! A received snapshot stays beside the old history until the current epoch is written (R19).

use std::collections::VecDeque;

use quorate_proto::{Durable, Epoch, HistoryIndex, Zxid};

#[derive(Clone, Debug)]
enum Op {
    Accepted(Epoch),
    Current(Epoch),
    Append(Zxid, String),
    Truncate(Zxid),
    BeginSnapshot(Zxid),
    Chunk(Vec<(Zxid, String)>, bool),
}

/// A file of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    Log,
    Epochs,
}

/// What survives, and what is still on its way.
#[derive(Debug, Default)]
pub struct Disk {
    pub accepted: Epoch,
    pub current: Epoch,
    /// Everything up to here is in a snapshot and not in the log.
    pub floor: Zxid,
    /// The whole history, what the snapshot holds included.
    pub history: Vec<(Zxid, String)>,
    staged: Option<Staged>,
    /// The log's and the snapshot's operations, in order.
    log: VecDeque<Op>,
    /// The epochs are another file: nothing orders them against the log.
    epochs: VecDeque<Op>,
    pub held: bool,
}

#[derive(Debug)]
struct Staged {
    floor: Zxid,
    history: Vec<(Zxid, String)>,
}

impl Disk {
    pub fn last(&self) -> Zxid {
        self.history.last().map_or(self.floor, |(zxid, _)| (*zxid).max(self.floor))
    }

    pub fn index(&self) -> HistoryIndex {
        let mut index = HistoryIndex::new(self.floor);
        for (zxid, _) in self.history.iter().filter(|(zxid, _)| *zxid > self.floor) {
            index.append(*zxid);
        }
        index
    }

    /// Whether a file would finish something if it were let.
    pub fn is_busy(&self, file: File) -> bool {
        !self.held
            && match file {
                File::Log => !self.log.is_empty(),
                File::Epochs => !self.epochs.is_empty(),
            }
    }

    pub fn is_pending(&self) -> bool {
        !self.log.is_empty() || !self.epochs.is_empty()
    }

    pub fn write_accepted(&mut self, epoch: Epoch) {
        self.epochs.push_back(Op::Accepted(epoch));
    }

    pub fn write_current(&mut self, epoch: Epoch) {
        self.epochs.push_back(Op::Current(epoch));
    }

    pub fn append(&mut self, zxid: Zxid, txn: String) {
        self.log.push_back(Op::Append(zxid, txn));
    }

    pub fn truncate(&mut self, to: Zxid) {
        self.log.push_back(Op::Truncate(to));
    }

    pub fn begin_snapshot(&mut self, zxid: Zxid) {
        self.log.push_back(Op::BeginSnapshot(zxid));
    }

    pub fn snapshot_chunk(&mut self, txns: Vec<(Zxid, String)>, last: bool) {
        self.log.push_back(Op::Chunk(txns, last));
    }

    /// Finishes everything that is queued for a file; one confirmation covers a run of appends.
    pub fn finish(&mut self, file: File) -> Vec<Durable> {
        let mut done: Vec<Durable> = Vec::new();
        while let Some(op) = match file {
            File::Log => self.log.pop_front(),
            File::Epochs => self.epochs.pop_front(),
        } {
            let durable = self.write(op);
            if let (Some(Durable::Log { .. }), Some(Durable::Log { .. })) = (done.last(), durable) {
                done.pop();
            }
            done.extend(durable);
        }
        done
    }

    /// Some of what was queued reaches the medium, and nobody is told.
    pub fn crash(&mut self, log_written: usize, epochs_written: usize) {
        for _ in 0..log_written {
            if let Some(op) = self.log.pop_front() {
                self.write(op);
            }
        }
        for _ in 0..epochs_written {
            if let Some(op) = self.epochs.pop_front() {
                self.write(op);
            }
        }
        self.log.clear();
        self.epochs.clear();
        self.recover();
        self.held = false;
    }

    /// What is not complete is not used; the owner of a transaction of epoch e holds all of leader
    /// e's initial history (`quorum.md` 3.8).
    pub fn recover(&mut self) {
        self.staged = None;
        if self.last().epoch() > self.current {
            assert!(self.last().epoch() <= self.accepted, "a history of an epoch never accepted");
            self.current = self.last().epoch();
        }
    }

    fn write(&mut self, op: Op) -> Option<Durable> {
        match op {
            Op::Accepted(epoch) => {
                assert!(epoch >= self.accepted, "the accepted epoch goes back (S10)");
                self.accepted = epoch;
                Some(Durable::AcceptedEpoch(epoch))
            }
            Op::Current(epoch) => {
                assert!(epoch >= self.current, "the current epoch goes back (S10)");
                assert!(epoch <= self.accepted, "current beyond accepted (S10)");
                if let Some(staged) = self.staged.take() {
                    self.floor = staged.floor;
                    self.history = staged.history;
                }
                self.current = epoch;
                Some(Durable::CurrentEpoch(epoch))
            }
            Op::Append(zxid, txn) => {
                let history = match &mut self.staged {
                    Some(staged) => &mut staged.history,
                    None => &mut self.history,
                };
                if let Some((last, _)) = history.last() {
                    assert!(zxid.follows(*last), "a gap on the disk: {zxid} after {last} (S13)");
                }
                history.push((zxid, txn));
                Some(Durable::Log { through: zxid })
            }
            Op::Truncate(to) => {
                self.history.retain(|(zxid, _)| *zxid <= to);
                Some(Durable::Truncated { to })
            }
            Op::BeginSnapshot(floor) => {
                self.staged = Some(Staged { floor, history: Vec::new() });
                None
            }
            Op::Chunk(txns, last) => {
                let staged = self.staged.as_mut()?;
                staged.history.extend(txns);
                last.then_some(Durable::Snapshot { zxid: staged.floor })
            }
        }
    }
}
