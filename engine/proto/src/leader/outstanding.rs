//! `Outstanding`: the proposals of this epoch in zxid order, and the last committed ones before them.
//!
//! Counts no acknowledgement. Holds nothing of earlier epochs: the log has those.

use alloc::collections::VecDeque;

use crate::Zxid;

/// A ring of proposals. Within an epoch counters are consecutive, so a zxid's place is arithmetic.
#[derive(Debug)]
pub(super) struct Outstanding<P> {
    /// The zxid that the oldest entry follows.
    after: Zxid,
    ring: VecDeque<(Zxid, P)>,
    /// How many committed entries are kept for learners that join.
    committed_max: usize,
}

impl<P> Outstanding<P> {
    pub(super) const fn new(after: Zxid, committed_max: usize) -> Self {
        Self { after, ring: VecDeque::new(), committed_max }
    }

    /// Takes in the next proposal; the caller has checked that it follows the last one.
    pub(super) fn push(&mut self, zxid: Zxid, txn: P) {
        self.ring.push_back((zxid, txn));
    }

    /// Drops what is older than the last `committed_max` committed entries.
    pub(super) fn trim(&mut self, committed: Zxid) {
        let kept_from = self.place_after(committed).saturating_sub(self.committed_max);
        if let Some((zxid, _)) = self.ring.drain(..kept_from).next_back() {
            self.after = zxid;
        }
    }

    /// The proposals in (after, through], if all of them are here.
    pub(super) fn range(
        &self,
        after: Zxid,
        through: Zxid,
    ) -> Option<impl Iterator<Item = (Zxid, &P)> + '_> {
        let covered = after >= through || (after >= self.after && through <= self.last());
        covered.then(|| {
            let first = self.place_after(after);
            let end = self.place_after(through).max(first);
            self.ring.range(first..end).map(|(zxid, txn)| (*zxid, txn))
        })
    }

    fn last(&self) -> Zxid {
        self.ring.back().map_or(self.after, |(zxid, _)| *zxid)
    }

    /// How many entries lie at or below `zxid`.
    fn place_after(&self, zxid: Zxid) -> usize {
        match self.ring.front() {
            Some((front, _)) if zxid >= *front => {
                if zxid.epoch() == front.epoch() {
                    let place = (zxid.counter() - front.counter()) as usize + 1;
                    place.min(self.ring.len())
                } else {
                    self.ring.len()
                }
            }
            Some(_) | None => 0,
        }
    }

    pub(super) fn check_invariants(&self) {
        let (Some((front, _)), Some((back, _))) = (self.ring.front(), self.ring.back()) else {
            return;
        };
        assert!(*front > self.after, "the ring starts before its own start");
        assert_eq!(front.epoch(), back.epoch(), "proposals of two epochs");
        let span = (back.counter() - front.counter()) as usize + 1;
        assert_eq!(span, self.ring.len(), "a gap among the proposals");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::z;
    use alloc::vec::Vec;

    fn counters(ring: &Outstanding<u32>, after: Zxid, through: Zxid) -> Option<Vec<u32>> {
        ring.range(after, through).map(|range| range.map(|(_, txn)| *txn).collect())
    }

    #[test]
    fn ranges_are_what_a_scan_gives_for_every_start_and_end() {
        let mut ring = Outstanding::new(z(3, 7), 2);
        for counter in 1..=6 {
            ring.push(z(5, counter), counter);
        }
        for trimmed in 0..=6 {
            ring.trim(z(5, trimmed));
            ring.check_invariants();
            let first = trimmed.saturating_sub(2) + 1;
            for after in 0..=7 {
                for through in 0..=6 {
                    let expected = if after >= through {
                        Some(Vec::new())
                    } else {
                        (after + 1 >= first).then(|| (after + 1..=through).collect())
                    };
                    assert_eq!(
                        counters(&ring, z(5, after), z(5, through)),
                        expected,
                        "after {after} through {through} trimmed {trimmed}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_range_that_begins_in_an_earlier_epoch_starts_at_the_initial_history_only() {
        let mut ring = Outstanding::new(z(3, 7), 10);
        ring.push(z(5, 1), 1);
        ring.push(z(5, 2), 2);
        assert_eq!(counters(&ring, z(3, 7), z(5, 2)), Some(alloc::vec![1, 2]));
        assert_eq!(counters(&ring, z(3, 6), z(5, 2)), None, "3/7 is not in memory");
        assert_eq!(counters(&ring, z(5, 2), z(5, 3)), None, "5/3 is not proposed");
    }
}
