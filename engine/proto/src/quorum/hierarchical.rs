//! Weighted voters in groups, as ZooKeeper's `group.g=1:2:3` and `weight.s=n` configure them.
//!
//! Knows voters by index only.

use alloc::vec::Vec;

use crate::{VoterIndex, VoterSet};

/// A quorum is more than half of the groups, and a group is won by more than half of its weight
/// (`quorum.md` 5.7, ZooKeeper's `QuorumHierarchical`).
///
/// Groups whose weight is 0 are not counted among the groups, and voters of weight 0 are never
/// elected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchical {
    weights: Vec<u64>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: u64,
    members: VoterSet,
    weight: u64,
}

impl Hierarchical {
    /// One (group, weight) per voter, in sid order; every voter stands in exactly one group.
    ///
    /// # Panics
    /// If there are more than [`VoterSet::CAPACITY`] voters.
    pub fn new(voters: &[(u64, u64)]) -> Self {
        assert!(voters.len() <= VoterSet::CAPACITY, "{} voters are too many", voters.len());
        let mut groups: Vec<Group> = Vec::new();
        for (index, &(name, weight)) in voters.iter().enumerate() {
            let at = groups.iter().position(|group| group.name == name).unwrap_or_else(|| {
                groups.push(Group { name, members: VoterSet::EMPTY, weight: 0 });
                groups.len() - 1
            });
            groups[at].members.insert(VoterIndex(index as u8));
            groups[at].weight += weight;
        }
        groups.retain(|group| group.weight > 0);
        Self { weights: voters.iter().map(|voter| voter.1).collect(), groups }
    }

    /// How many voters are configured.
    pub const fn voters(&self) -> usize {
        self.weights.len()
    }

    /// A voter's weight.
    pub fn weight(&self, voter: VoterIndex) -> u64 {
        self.weights.get(usize::from(voter.0)).copied().unwrap_or(0)
    }

    /// Whether the set wins more than half of the groups that have any weight.
    pub fn contains_quorum(&self, voters: VoterSet) -> bool {
        let won = self.groups.iter().filter(|group| self.is_won(group, voters)).count();
        won > self.groups.len() / 2
    }

    fn is_won(&self, group: &Group, voters: VoterSet) -> bool {
        let weight: u64 =
            voters.iter().filter(|v| group.members.contains(*v)).map(|v| self.weight(v)).sum();
        weight > group.weight / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    /// `QuorumHierarchical.containsQuorum` as ZooKeeper writes it: maps of sums.
    fn dumb_twin(voters: &[(u64, u64)], set: VoterSet) -> bool {
        let mut total: BTreeMap<u64, u64> = BTreeMap::new();
        let mut got: BTreeMap<u64, u64> = BTreeMap::new();
        for (index, &(group, weight)) in voters.iter().enumerate() {
            *total.entry(group).or_default() += weight;
            if set.contains(VoterIndex(index as u8)) {
                *got.entry(group).or_default() += weight;
            }
        }
        let groups = total.values().filter(|weight| **weight > 0).count();
        let won = got.iter().filter(|(group, weight)| **weight > total[group] / 2).count();
        won > groups / 2
    }

    #[test]
    fn weighted_groups_agree_with_sums_for_every_small_configuration() {
        for voters in 1..=5_usize {
            for shape in 0..6_u64.pow(voters as u32) {
                let config: Vec<(u64, u64)> = (0..voters)
                    .map(|v| shape / 6_u64.pow(v as u32) % 6)
                    .map(|digit| (digit % 2, digit / 2))
                    .collect();
                let quorums = Hierarchical::new(&config);
                for set in 0..1_u64 << voters {
                    let set: VoterSet =
                        (0..voters as u8).filter(|v| set >> v & 1 == 1).map(VoterIndex).collect();
                    assert_eq!(quorums.contains_quorum(set), dumb_twin(&config, set), "{config:?}");
                }
            }
        }
    }

    #[test]
    fn a_group_without_weight_is_no_group() {
        // Three groups of three; the last has no weight, so both others must be won.
        let config = [(1, 1), (1, 1), (1, 1), (2, 1), (2, 1), (2, 1), (3, 0), (3, 0), (3, 0)];
        let quorums = Hierarchical::new(&config);
        let set = |voters: &[u8]| voters.iter().copied().map(VoterIndex).collect::<VoterSet>();
        assert!(quorums.contains_quorum(set(&[0, 1, 3, 4])));
        assert!(!quorums.contains_quorum(set(&[0, 1, 2, 3, 6, 7, 8])));
        assert_eq!(quorums.weight(VoterIndex(6)), 0);
    }
}
