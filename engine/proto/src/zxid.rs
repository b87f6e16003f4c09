//! `Zxid` and `Epoch`: order, parts, successor, and the end of the counter.
//!
//! Knows nothing of who leads or what a transaction says.

use core::fmt;

/// The number of a leader's reign: the high 32 bits of every [`Zxid`] it proposes.
///
/// Epochs grow by at least one with each established leader. ZooKeeper carries an epoch in a signed
/// 32-bit field of ACKEPOCH, so [`Epoch::MAX`] is `i32::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch before any leader.
    pub const ZERO: Self = Self(0);
    /// The highest epoch that ACKEPOCH's signed field can carry.
    pub const MAX: Self = Self(i32::MAX as u32);

    /// An epoch from its number.
    pub const fn new(epoch: u32) -> Self {
        Self(epoch)
    }

    /// The plain number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The following epoch, or `None` past [`Epoch::MAX`].
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX).then(|| Self(self.0 + 1))
    }

    /// The zxid `epoch << 32`, which names NEWLEADER and never a transaction.
    pub const fn start(self) -> Zxid {
        Zxid((self.0 as u64) << 32)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A transaction's place in the total order: epoch in the high 32 bits, counter in the low 32 bits.
///
/// The first transaction of an epoch has counter 1; counter 0 is never a transaction. The last
/// usable counter is `0xffff_fffe` (ZOOKEEPER-1277): after it the leader gives up its epoch.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zxid(u64);

impl Zxid {
    /// Before every transaction.
    pub const ZERO: Self = Self(0);
    /// The last counter that a transaction may have.
    pub const COUNTER_MAX: u32 = 0xffff_fffe;

    /// A zxid from its parts.
    pub const fn new(epoch: Epoch, counter: u32) -> Self {
        Self(((epoch.0 as u64) << 32) | counter as u64)
    }

    /// A zxid from its 64-bit form.
    pub const fn from_u64(zxid: u64) -> Self {
        Self(zxid)
    }

    /// The 64-bit form.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The epoch in which it was proposed.
    pub const fn epoch(self) -> Epoch {
        Epoch((self.0 >> 32) as u32)
    }

    /// Its number within the epoch; 0 is the epoch's start, not a transaction.
    pub const fn counter(self) -> u32 {
        self.0 as u32
    }

    /// The next zxid of the same epoch, or `None` when the counter is used up.
    pub fn next(self) -> Option<Self> {
        (self.counter() < Self::COUNTER_MAX).then(|| Self(self.0 + 1))
    }

    /// Whether `self` may directly follow `previous` in a log: the next counter of the same epoch,
    /// or the first transaction of a later epoch.
    pub fn follows(self, previous: Self) -> bool {
        if self.epoch() == previous.epoch() {
            self.0 == previous.0.wrapping_add(1)
        } else {
            self.epoch() > previous.epoch() && self.counter() == 1
        }
    }
}

impl fmt::Debug for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::z;

    #[test]
    fn the_counter_ends_before_it_spills_into_the_epoch() {
        let last = z(3, Zxid::COUNTER_MAX);
        assert_eq!(last.next(), None);
        assert_eq!(z(3, 7).next(), Some(z(3, 8)));
    }

    #[test]
    fn only_the_next_counter_or_the_first_of_a_later_epoch_follows() {
        assert!(z(1, 2).follows(z(1, 1)));
        assert!(z(1, 1).follows(z(1, 0)));
        assert!(z(1, 1).follows(Zxid::ZERO));
        assert!(z(4, 1).follows(z(1, 9)));
        assert!(!z(1, 3).follows(z(1, 1)));
        assert!(!z(4, 2).follows(z(1, 9)));
        assert!(!z(1, 1).follows(z(1, 1)));
        assert!(!z(1, 1).follows(z(2, 1)));
    }

    #[test]
    fn epochs_end_at_what_ackepoch_can_carry() {
        assert_eq!(Epoch::MAX.next(), None);
        assert_eq!(Epoch::new(1).next(), Some(Epoch::new(2)));
        assert_eq!(Epoch::new(2).start().as_u64(), 2 << 32);
    }
}
