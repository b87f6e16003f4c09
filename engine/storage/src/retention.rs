//! Retention: which snapshots and segments may go, and their slow removal or recycling.
//!
//! Never the last two snapshots, never a segment that is needed behind the oldest snapshot kept,
//! never one that a stream reads. One operation is under way at a time, and nobody waits for it.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use quorate_proto::Zxid;

use crate::name;
use crate::ops::{Ops, Owner};

/// At least so many snapshots are kept, whatever the configuration says (R12).
pub const SNAPSHOTS_RETAINED_MIN: usize = 2;

/// A finished snapshot in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptSnapshot {
    pub(crate) zxid: Zxid,
    /// The history that it belongs to.
    pub(crate) log_floor: u64,
    /// It was whole when it was written, and nothing else was seen since.
    pub(crate) whole: bool,
}

/// Sorts newest first and takes out what is not needed. Only whole snapshots count.
pub(crate) fn take_surplus(kept: &mut Vec<KeptSnapshot>, retained: usize) -> Vec<KeptSnapshot> {
    let retained = retained.max(SNAPSHOTS_RETAINED_MIN);
    kept.sort_by_key(|snapshot| core::cmp::Reverse((snapshot.log_floor, snapshot.zxid)));
    let whole = kept.iter().enumerate().filter(|(_, snapshot)| snapshot.whole);
    let Some((last, _)) = whole.map(|(at, s)| (at, *s)).nth(retained - 1) else {
        return Vec::new();
    };
    kept.split_off(last + 1)
}

/// The zxid up to which the log is not needed by any whole snapshot of the history `log_floor`.
pub(crate) fn log_needed_after(kept: &[KeptSnapshot], log_floor: u64) -> Option<Zxid> {
    let ours = kept.iter().filter(|snapshot| snapshot.whole && snapshot.log_floor == log_floor);
    ours.map(|snapshot| snapshot.zxid).min()
}

/// Something to be done when the disk has time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Removes a file.
    Remove(String),
    /// Makes a segment file a spare; its name is free again once the directory is synced.
    Recycle { from: String, to: String },
}

impl Chore {
    pub(crate) fn remove_snapshot(zxid: Zxid) -> Self {
        Self::Remove(name::snapshot(zxid))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Retention {
    chores: VecDeque<Chore>,
    under_way: Option<Chore>,
    renamed: bool,
}

impl Retention {
    pub(crate) fn push(&mut self, chore: Chore) {
        self.chores.push_back(chore);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.chores.is_empty() && self.under_way.is_none()
    }

    pub(crate) fn advance(&mut self, ops: &mut Ops) {
        if self.under_way.is_some() {
            return;
        }
        let Some(chore) = self.chores.pop_front() else { return };
        match &chore {
            Chore::Remove(path) => ops.remove(Owner::Retention, path.clone()),
            Chore::Recycle { from, to } => {
                ops.rename(Owner::Retention, from.clone(), to.clone());
            }
        }
        self.renamed = false;
        self.under_way = Some(chore);
    }

    /// The path of a spare file, once there is one.
    pub(crate) fn handle_done(&mut self, ops: &mut Ops) -> Option<String> {
        match self.under_way.take().expect("a chore was under way") {
            Chore::Remove(_) => None,
            chore @ Chore::Recycle { .. } if !self.renamed => {
                ops.sync_dir(Owner::Retention);
                self.renamed = true;
                self.under_way = Some(chore);
                None
            }
            Chore::Recycle { to, .. } => Some(to),
        }
    }

    /// The path that is being worked on, for an error.
    pub(crate) fn path(&self) -> String {
        match &self.under_way {
            Some(Chore::Remove(path) | Chore::Recycle { from: path, .. }) => path.clone(),
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::Epoch;

    use super::*;

    fn snapshot(log_floor: u64, counter: u32, whole: bool) -> KeptSnapshot {
        KeptSnapshot { zxid: Zxid::new(Epoch::new(1), counter), log_floor, whole }
    }

    #[test]
    fn the_last_two_whole_snapshots_stay_whatever_is_configured() {
        let mut kept = alloc::vec![snapshot(0, 1, true), snapshot(0, 2, true)];
        assert_eq!(take_surplus(&mut kept, 0), []);
        kept.push(snapshot(0, 3, true));
        assert_eq!(take_surplus(&mut kept, 1), [snapshot(0, 1, true)]);
        assert_eq!(kept.len(), 2);
    }

    #[test]
    fn a_damaged_snapshot_counts_for_nothing() {
        let mut kept =
            alloc::vec![snapshot(0, 1, true), snapshot(0, 2, true), snapshot(0, 3, false)];
        assert_eq!(take_surplus(&mut kept, 2), []);
        kept.push(snapshot(0, 4, true));
        assert_eq!(take_surplus(&mut kept, 2), [snapshot(0, 1, true)]);
        let first = Zxid::new(Epoch::new(1), 2);
        assert_eq!(log_needed_after(&kept, 0), Some(first));
    }

    #[test]
    fn a_received_snapshot_is_newer_than_any_of_the_history_before_it() {
        let mut kept =
            alloc::vec![snapshot(0, 9, true), snapshot(0, 8, true), snapshot(5, 3, true)];
        assert_eq!(take_surplus(&mut kept, 2), [snapshot(0, 8, true)]);
        assert_eq!(log_needed_after(&kept, 5), Some(Zxid::new(Epoch::new(1), 3)));
    }
}
