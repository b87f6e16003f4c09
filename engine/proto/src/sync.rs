//! How a learner is brought level: what this server holds, and the plan that follows from it.
//!
//! Pure functions over zxids. Who streams the bytes, and from where, is decided elsewhere.

use alloc::vec::Vec;

use crate::{Epoch, Zxid};

/// Which zxids a server's history holds: contiguous after `floor`, described by the last zxid of
/// each epoch (within an epoch counters are consecutive, `quorum.md` 7.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryIndex {
    floor: Zxid,
    ends: Vec<Zxid>,
}

impl HistoryIndex {
    /// A history that holds nothing after `floor` (the zxid of the oldest snapshot that the log
    /// follows, or [`Zxid::ZERO`]).
    pub const fn new(floor: Zxid) -> Self {
        Self { floor, ends: Vec::new() }
    }

    /// The last zxid, or the floor if nothing follows it.
    pub fn last(&self) -> Zxid {
        self.ends.last().copied().unwrap_or(self.floor)
    }

    /// The zxid after which every transaction is held.
    pub const fn floor(&self) -> Zxid {
        self.floor
    }

    /// Takes in the next transaction.
    ///
    /// # Panics
    /// If `zxid` does not follow the last one: a gap is never a warning (R4).
    pub fn append(&mut self, zxid: Zxid) {
        let last = self.last();
        assert!(zxid.follows(last), "history gap: {zxid} after {last}");
        match self.ends.last_mut() {
            Some(end) if end.epoch() == zxid.epoch() => *end = zxid,
            Some(_) | None => self.ends.push(zxid),
        }
    }

    /// Forgets everything after `to`.
    ///
    /// # Panics
    /// If `to` is not in the history and not its floor.
    pub fn truncate(&mut self, to: Zxid) {
        assert!(self.contains(to), "truncation to {to}, which is not held");
        while self.ends.last().is_some_and(|end| *end > to) {
            let end = self.ends.pop().expect("the loop saw an end");
            let holds_to = end.epoch() == to.epoch() && to > self.floor && to.counter() > 0;
            if holds_to {
                self.ends.push(to);
            }
        }
    }

    /// Raises the floor after old segments were removed.
    pub fn forget_before(&mut self, floor: Zxid) {
        if floor > self.floor {
            self.floor = floor;
            self.ends.retain(|end| *end > floor);
        }
    }

    /// Whether `zxid` is held, or is the floor itself.
    pub fn contains(&self, zxid: Zxid) -> bool {
        if zxid == self.floor {
            return true;
        }
        zxid > self.floor
            && zxid.counter() > 0
            && self.end_of(zxid.epoch()).is_some_and(|end| zxid <= end)
    }

    /// Whether this history goes on from `zxid`: it is held, or it is counter 0 of an epoch that is,
    /// where a learner stands that took the leader's initial history and nothing of the epoch itself.
    pub fn extends(&self, zxid: Zxid) -> bool {
        let starts_epoch =
            zxid >= self.floor && zxid.counter() == 0 && self.end_of(zxid.epoch()).is_some();
        self.contains(zxid) || starts_epoch
    }

    /// The last zxid of `epoch`, if the history has any of that epoch.
    pub fn end_of(&self, epoch: Epoch) -> Option<Zxid> {
        let found = self.ends.binary_search_by_key(&epoch, |end| end.epoch()).ok()?;
        Some(self.ends[found])
    }
}

/// How a learner's history is made a prefix of the leader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPlan {
    /// Send what follows `after`; nothing if that is the end.
    Diff {
        /// The learner's last zxid.
        after: Zxid,
    },
    /// The learner cuts its history at `to`, which is also the leader's end.
    Trunc {
        /// The last zxid to keep.
        to: Zxid,
    },
    /// The learner cuts its history at `to`, then receives what follows.
    TruncThenDiff {
        /// The last zxid to keep.
        to: Zxid,
    },
    /// The learner's history cannot be extended: it receives a snapshot.
    Snap,
}

/// Chooses how to synchronise a learner whose durable history ends at `learner_last`.
///
/// A learner that holds a transaction of epoch e holds all of leader e's history before it, so the
/// histories agree up to the shorter of the two within e. If `ours` has nothing of e, no common
/// point is certain, and only a snapshot is safe (`quorum.md` 3.2 "a TRUNC must not cross an
/// epoch", 3.8 "TRUNC to a zxid that is not in the log").
pub fn plan_sync(learner_last: Zxid, ours: &HistoryIndex) -> SyncPlan {
    if learner_last < ours.floor() {
        return SyncPlan::Snap;
    }
    if ours.extends(learner_last) {
        return SyncPlan::Diff { after: learner_last };
    }
    match ours.end_of(learner_last.epoch()) {
        Some(end) if end == ours.last() => SyncPlan::Trunc { to: end },
        Some(end) => SyncPlan::TruncThenDiff { to: end },
        None => SyncPlan::Snap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{history, z};

    #[test]
    fn a_learner_inside_our_history_gets_a_diff() {
        let ours = history(z(1, 2), &[z(1, 3), z(1, 4), z(3, 1), z(3, 2)]);
        assert_eq!(plan_sync(z(1, 2), &ours), SyncPlan::Diff { after: z(1, 2) });
        assert_eq!(plan_sync(z(1, 4), &ours), SyncPlan::Diff { after: z(1, 4) });
        assert_eq!(plan_sync(z(3, 2), &ours), SyncPlan::Diff { after: z(3, 2) });
        assert_eq!(plan_sync(z(3, 0), &ours), SyncPlan::Diff { after: z(3, 0) });
    }

    #[test]
    fn an_uncommitted_tail_is_cut_at_the_end_of_its_own_epoch() {
        let ours = history(z(0, 0), &[z(1, 1), z(1, 2)]);
        assert_eq!(plan_sync(z(1, 5), &ours), SyncPlan::Trunc { to: z(1, 2) });
        let ours = history(z(0, 0), &[z(1, 1), z(1, 2), z(4, 1)]);
        assert_eq!(plan_sync(z(1, 5), &ours), SyncPlan::TruncThenDiff { to: z(1, 2) });
    }

    #[test]
    fn without_a_certain_common_point_only_a_snapshot_is_safe() {
        let ours = history(z(1, 2), &[z(1, 3), z(3, 1)]);
        assert_eq!(plan_sync(z(1, 1), &ours), SyncPlan::Snap, "below the floor");
        assert_eq!(plan_sync(z(2, 1), &ours), SyncPlan::Snap, "an epoch we never had");
        assert_eq!(plan_sync(z(9, 4), &ours), SyncPlan::Snap, "a later epoch");
    }

    #[test]
    fn truncation_keeps_exactly_the_prefix() {
        let all = [z(1, 1), z(1, 2), z(3, 1), z(3, 2), z(7, 1)];
        for kept in 0..=all.len() {
            let to = if kept == 0 { z(0, 0) } else { all[kept - 1] };
            let mut cut = history(z(0, 0), &all);
            cut.truncate(to);
            assert_eq!(cut, history(z(0, 0), &all[..kept]), "cut at {to}");
        }
    }
}
