//! One watermark per voter, kept sorted, so that the rank which a majority has reached is a lookup.
//!
//! Decides nothing: what a rank means, and which ranks count, is the verifier's business.

use alloc::vec::Vec;

use crate::{VoterIndex, VoterSet, Zxid};

/// The highest value that each voter has reached.
///
/// With zxids it is the table of acknowledgements; the leader also keeps PING rounds and times of
/// life in such tables. A voter's value only rises, until [`AckTable::forget`] takes it back
/// because its connection is gone (R21: acknowledgements count over the current connection).
///
/// Raising costs one step per voter that is overtaken: next to nothing, because voters advance
/// together. Counting then needs no set per proposal (`runtime.md` 6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckTable<T = Zxid> {
    /// Ascending by value; among equals in any order.
    sorted: Vec<(T, VoterIndex)>,
    /// Where each voter stands in `sorted`.
    position: Vec<u8>,
}

impl<T: Copy + Ord + Default> AckTable<T> {
    /// A table of `voters` voters, all at the lowest value.
    ///
    /// # Panics
    /// If there are more than [`VoterSet::CAPACITY`] voters.
    pub fn new(voters: usize) -> Self {
        assert!(voters <= VoterSet::CAPACITY, "{voters} voters are too many");
        let all = 0..voters as u8;
        Self {
            sorted: all.clone().map(|voter| (T::default(), VoterIndex(voter))).collect(),
            position: all.collect(),
        }
    }

    /// How many voters the table has.
    pub const fn voters(&self) -> usize {
        self.position.len()
    }

    /// What a voter has reached.
    pub fn reached(&self, voter: VoterIndex) -> T {
        self.sorted[self.position[usize::from(voter.0)] as usize].0
    }

    /// Raises a voter's value; false, and no change, if it is there already.
    pub fn raise(&mut self, voter: VoterIndex, value: T) -> bool {
        let mut at = self.position[usize::from(voter.0)] as usize;
        if self.sorted[at].0 >= value {
            return false;
        }
        while at + 1 < self.sorted.len() && self.sorted[at + 1].0 < value {
            self.shift(at + 1, at);
            at += 1;
        }
        self.place(at, value, voter);
        true
    }

    /// Takes a voter's value back to the lowest.
    pub fn forget(&mut self, voter: VoterIndex) {
        let mut at = self.position[usize::from(voter.0)] as usize;
        while at > 0 {
            self.shift(at - 1, at);
            at -= 1;
        }
        self.place(0, T::default(), voter);
    }

    /// The highest value that at least `count` voters have reached.
    ///
    /// # Panics
    /// If `count` is 0 or more than the voters.
    pub fn rank(&self, count: usize) -> T {
        assert!(count > 0, "a rank of nobody");
        self.sorted[self.sorted.len() - count].0
    }

    /// Voters and their values, highest first.
    pub fn descending(&self) -> impl Iterator<Item = (VoterIndex, T)> + '_ {
        self.sorted.iter().rev().map(|&(value, voter)| (voter, value))
    }

    /// Asserts that the table is sorted and finds every voter (openraft f076cf6f: a quorum scan that
    /// relied on an order which was not kept).
    pub fn check_invariants(&self) {
        assert!(self.sorted.is_sorted_by_key(|entry| entry.0), "acknowledgements out of order");
        for (at, &(_, voter)) in self.sorted.iter().enumerate() {
            assert_eq!(self.position[usize::from(voter.0)] as usize, at, "a voter is misplaced");
        }
    }

    fn shift(&mut self, from: usize, to: usize) {
        let (value, voter) = self.sorted[from];
        self.place(to, value, voter);
    }

    fn place(&mut self, at: usize, value: T, voter: VoterIndex) {
        self.sorted[at] = (value, voter);
        self.position[usize::from(voter.0)] = at as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Lcg;

    #[test]
    fn the_table_agrees_with_a_plain_array_under_random_raises_and_losses() {
        for voters in 1..=9_usize {
            let mut lcg = Lcg::new(voters as u64);
            let mut table = AckTable::<u64>::new(voters);
            let mut plain = alloc::vec![0_u64; voters];
            for _ in 0..2000 {
                let voter = lcg.below(voters as u64) as usize;
                if lcg.below(20) == 0 {
                    table.forget(VoterIndex(voter as u8));
                    plain[voter] = 0;
                } else {
                    let value = lcg.below(40);
                    let rose = table.raise(VoterIndex(voter as u8), value);
                    assert_eq!(rose, value > plain[voter]);
                    plain[voter] = plain[voter].max(value);
                }
                table.check_invariants();
                let mut sorted = plain.clone();
                sorted.sort_unstable();
                for count in 1..=voters {
                    assert_eq!(table.rank(count), sorted[voters - count]);
                }
                for (index, value) in plain.iter().enumerate() {
                    assert_eq!(table.reached(VoterIndex(index as u8)), *value);
                }
            }
        }
    }
}
