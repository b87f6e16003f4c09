//! `QuorumVerifier`: whether a set of voters is a quorum, and what a quorum has reached.
//!
//! The strategy is chosen once per configuration; it is an enum, not a trait object.

use alloc::boxed::Box;

use super::{AckTable, Hierarchical};
use crate::{VoterIndex, VoterSet};

/// What counts as a quorum. Any two quorums of one verifier have a voter in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuorumVerifier {
    /// More than half of the voters.
    Majority {
        /// How many voters there are.
        voters: u8,
    },
    /// More than half of the groups, each by more than half of its weight.
    Hierarchical(Hierarchical),
    /// While the voters change: a quorum of both configurations (the two-config rule). The indexes
    /// of both stand for the same servers.
    Joint {
        /// The configuration in force.
        current: Box<Self>,
        /// The one that is being agreed on.
        proposed: Box<Self>,
    },
}

impl QuorumVerifier {
    /// Whether the set contains a quorum.
    pub fn contains_quorum(&self, set: VoterSet) -> bool {
        match self {
            Self::Majority { voters } => set.below(*voters).len() > usize::from(*voters) / 2,
            Self::Hierarchical(groups) => groups.contains_quorum(set),
            Self::Joint { current, proposed } => {
                current.contains_quorum(set) && proposed.contains_quorum(set)
            }
        }
    }

    /// The highest value that a quorum has reached: with zxids, what is committed.
    pub fn committed<T: Copy + Ord + Default>(&self, acked: &AckTable<T>) -> T {
        match self {
            Self::Majority { voters } if usize::from(*voters) == acked.voters() => {
                acked.rank(usize::from(*voters) / 2 + 1)
            }
            Self::Majority { .. } | Self::Hierarchical(_) => self.accumulated(acked),
            Self::Joint { current, proposed } => {
                current.committed(acked).min(proposed.committed(acked))
            }
        }
    }

    /// Whether this voter may be elected: voters of weight 0 may not.
    pub fn is_electable(&self, voter: VoterIndex) -> bool {
        match self {
            Self::Majority { voters } => voter.0 < *voters,
            Self::Hierarchical(groups) => groups.weight(voter) > 0,
            Self::Joint { current, proposed } => {
                current.is_electable(voter) || proposed.is_electable(voter)
            }
        }
    }

    /// How many voters it was made for.
    pub fn voters(&self) -> usize {
        match self {
            Self::Majority { voters } => usize::from(*voters),
            Self::Hierarchical(groups) => groups.voters(),
            Self::Joint { current, proposed } => current.voters().max(proposed.voters()),
        }
    }

    /// Takes voters from the highest value down until they are a quorum.
    fn accumulated<T: Copy + Ord + Default>(&self, acked: &AckTable<T>) -> T {
        let mut set = VoterSet::EMPTY;
        for (voter, value) in acked.descending() {
            set.insert(voter);
            if self.contains_quorum(set) {
                return value;
            }
        }
        T::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Zxid;
    use crate::testing::Lcg;

    /// Tries every value: the highest one whose set of voters is a quorum.
    fn dumb_twin(verifier: &QuorumVerifier, acked: &[u64]) -> u64 {
        let has = |value: u64| -> VoterSet {
            (0..acked.len()).filter(|v| acked[*v] >= value).map(|v| VoterIndex(v as u8)).collect()
        };
        (0..=acked.iter().copied().max().unwrap_or(0))
            .rev()
            .find(|value| verifier.contains_quorum(has(*value)))
            .unwrap_or(0)
    }

    fn table(acked: &[u64]) -> AckTable {
        let mut table = AckTable::new(acked.len());
        for (voter, zxid) in acked.iter().enumerate() {
            table.raise(VoterIndex(voter as u8), Zxid::from_u64(*zxid));
        }
        table
    }

    #[test]
    fn a_majority_is_more_than_half_for_every_set_of_up_to_seven_voters() {
        for voters in 1..=7_u8 {
            let verifier = QuorumVerifier::Majority { voters };
            for bits in 0..1_u64 << voters {
                let set = (0..voters).filter(|v| bits >> v & 1 == 1).map(VoterIndex).collect();
                let expected = bits.count_ones() * 2 > u32::from(voters);
                assert_eq!(verifier.contains_quorum(set), expected, "{bits:b} of {voters}");
            }
        }
    }

    #[test]
    fn the_committed_rank_of_every_small_table_is_what_trying_all_values_gives() {
        for voters in 1..=5_u32 {
            let verifier = QuorumVerifier::Majority { voters: voters as u8 };
            for shape in 0..4_u64.pow(voters) {
                let acked: alloc::vec::Vec<u64> =
                    (0..voters).map(|v| shape / 4_u64.pow(v) % 4).collect();
                assert_eq!(
                    verifier.committed(&table(&acked)).as_u64(),
                    dumb_twin(&verifier, &acked),
                    "{acked:?}"
                );
            }
        }
    }

    #[test]
    fn weighted_and_joint_ranks_are_what_trying_all_values_gives() {
        let mut lcg = Lcg::new(7);
        for _ in 0..500 {
            let voters = 3 + lcg.below(5) as usize;
            let config: alloc::vec::Vec<(u64, u64)> =
                (0..voters).map(|_| (lcg.below(3), lcg.below(4))).collect();
            let groups = QuorumVerifier::Hierarchical(Hierarchical::new(&config));
            let smaller = QuorumVerifier::Majority { voters: voters as u8 - 1 };
            let joint = QuorumVerifier::Joint {
                current: Box::new(smaller.clone()),
                proposed: Box::new(QuorumVerifier::Majority { voters: voters as u8 }),
            };
            let acked: alloc::vec::Vec<u64> = (0..voters).map(|_| lcg.below(9)).collect();
            for verifier in [&groups, &smaller, &joint] {
                assert_eq!(
                    verifier.committed(&table(&acked)).as_u64(),
                    dumb_twin(verifier, &acked),
                    "{verifier:?} {acked:?}"
                );
            }
        }
    }

    #[test]
    fn a_joint_quorum_needs_both_configurations() {
        let joint = QuorumVerifier::Joint {
            current: Box::new(QuorumVerifier::Majority { voters: 3 }),
            proposed: Box::new(QuorumVerifier::Majority { voters: 5 }),
        };
        let set = |voters: &[u8]| voters.iter().copied().map(VoterIndex).collect::<VoterSet>();
        assert!(!joint.contains_quorum(set(&[0, 1])));
        assert!(!joint.contains_quorum(set(&[0, 3, 4])));
        assert!(joint.contains_quorum(set(&[0, 1, 4])));
    }

    #[test]
    fn voters_without_weight_are_not_electable() {
        let groups = QuorumVerifier::Hierarchical(Hierarchical::new(&[(1, 1), (1, 0)]));
        assert!(groups.is_electable(VoterIndex(0)));
        assert!(!groups.is_electable(VoterIndex(1)));
    }
}
