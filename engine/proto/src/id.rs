//! Who takes part: `ServerId`, `SessionId`, and dense `VoterIndex` with its `VoterSet`.
//!
//! Knows no address and no role.

use core::fmt;

/// A server's number (`myid`, the N of `server.N`), 1 to 255 in practice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u64);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A client session's id; printed, as ZooKeeper prints it, in hexadecimal. 0 is no session.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A voter's dense position in the configuration: 0 to [`VoterSet::CAPACITY`] - 1, in sid order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoterIndex(pub u8);

/// A set of voters as one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VoterSet(u64);

impl VoterSet {
    /// How many voters a configuration may have.
    pub const CAPACITY: usize = 64;

    /// No voter.
    pub const EMPTY: Self = Self(0);

    /// Adds a voter; true if it was not yet there.
    pub fn insert(&mut self, voter: VoterIndex) -> bool {
        let fresh = !self.contains(voter);
        self.0 |= 1 << voter.0;
        fresh
    }

    /// Removes a voter; true if it was there.
    pub fn remove(&mut self, voter: VoterIndex) -> bool {
        let present = self.contains(voter);
        self.0 &= !(1 << voter.0);
        present
    }

    /// Whether the voter is in the set.
    pub const fn contains(self, voter: VoterIndex) -> bool {
        self.0 & (1 << voter.0) != 0
    }

    /// How many voters are in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether no voter is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The voters whose index is below `bound`.
    pub const fn below(self, bound: u8) -> Self {
        if bound as usize >= Self::CAPACITY { self } else { Self(self.0 & ((1 << bound) - 1)) }
    }

    /// The voters in index order.
    pub fn iter(self) -> impl Iterator<Item = VoterIndex> {
        (0..Self::CAPACITY as u8).map(VoterIndex).filter(move |v| self.contains(*v))
    }
}

impl FromIterator<VoterIndex> for VoterSet {
    fn from_iter<I: IntoIterator<Item = VoterIndex>>(voters: I) -> Self {
        let mut set = Self::EMPTY;
        for voter in voters {
            set.insert(voter);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_set_counts_each_voter_once() {
        let mut set = VoterSet::EMPTY;
        assert!(set.insert(VoterIndex(3)));
        assert!(!set.insert(VoterIndex(3)));
        assert!(set.insert(VoterIndex(63)));
        assert_eq!(set.len(), 2);
        assert!(set.remove(VoterIndex(3)));
        assert!(!set.remove(VoterIndex(3)));
        assert_eq!(set.iter().collect::<alloc::vec::Vec<_>>(), [VoterIndex(63)]);
    }
}
