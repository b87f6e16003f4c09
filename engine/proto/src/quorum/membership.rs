//! `Membership`: which servers vote, which observe, and what counts as a quorum.
//!
//! Knows no address; immutable while in force.

use alloc::vec::Vec;

use super::QuorumVerifier;
use crate::leader::LearnerRole;
use crate::{ServerId, VoterIndex, VoterSet};

/// The servers of a configuration. Voters are sorted by sid, and a voter's place is its
/// [`VoterIndex`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    voters: Vec<ServerId>,
    observers: Vec<ServerId>,
    verifier: QuorumVerifier,
}

impl Membership {
    /// A configuration; the voters may come in any order, the verifier counts them in sid order.
    ///
    /// # Panics
    /// If there is no voter or more than [`VoterSet::CAPACITY`], if a server appears twice, or if
    /// the verifier was made for another number of voters.
    pub fn new(
        mut voters: Vec<ServerId>,
        mut observers: Vec<ServerId>,
        verifier: QuorumVerifier,
    ) -> Self {
        voters.sort_unstable();
        observers.sort_unstable();
        assert!(!voters.is_empty(), "a configuration without voters");
        assert!(voters.len() <= VoterSet::CAPACITY, "{} voters are too many", voters.len());
        assert_eq!(verifier.voters(), voters.len(), "the verifier counts other voters");
        assert!(voters.windows(2).all(|pair| pair[0] != pair[1]), "a voter appears twice");
        assert!(
            !observers.iter().any(|sid| voters.binary_search(sid).is_ok()),
            "a server is voter and observer"
        );
        Self { voters, observers, verifier }
    }

    /// A configuration in which more than half of the voters decide.
    ///
    /// # Panics
    /// As [`Membership::new`].
    pub fn majority(voters: Vec<ServerId>, observers: Vec<ServerId>) -> Self {
        let verifier = QuorumVerifier::Majority { voters: voters.len() as u8 };
        Self::new(voters, observers, verifier)
    }

    /// A voter's index; `None` for observers and strangers.
    pub fn voter_index(&self, sid: ServerId) -> Option<VoterIndex> {
        self.voters.binary_search(&sid).ok().map(|at| VoterIndex(at as u8))
    }

    /// Whether the configuration lists this server as an observer.
    pub fn is_observer(&self, sid: ServerId) -> bool {
        self.observers.binary_search(&sid).is_ok()
    }

    /// Whether this server may join a leader as `role`. A voter that may have forgotten something
    /// observes until it is level, so every member may observe.
    pub fn may_join(&self, sid: ServerId, role: LearnerRole) -> bool {
        self.voter_index(sid).is_some() || (role == LearnerRole::Observer && self.is_observer(sid))
    }

    /// The voters, sorted by sid.
    pub fn voters(&self) -> &[ServerId] {
        &self.voters
    }

    /// The observers, sorted by sid.
    pub fn observers(&self) -> &[ServerId] {
        &self.observers
    }

    /// What counts as a quorum.
    pub const fn verifier(&self) -> &QuorumVerifier {
        &self.verifier
    }

    /// Whether this server may be elected: a voter with weight.
    pub fn is_electable(&self, sid: ServerId) -> bool {
        self.voter_index(sid).is_some_and(|voter| self.verifier.is_electable(voter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_are_indexed_in_sid_order_and_observers_have_no_index() {
        let sids = |all: &[u64]| all.iter().copied().map(ServerId).collect::<Vec<_>>();
        let membership = Membership::majority(sids(&[7, 2, 5]), sids(&[9]));
        assert_eq!(membership.voters(), sids(&[2, 5, 7]));
        assert_eq!(membership.voter_index(ServerId(7)), Some(VoterIndex(2)));
        assert_eq!(membership.voter_index(ServerId(9)), None);
        assert!(membership.is_observer(ServerId(9)));
        assert!(!membership.is_electable(ServerId(9)));
    }

    #[test]
    fn voters_may_join_in_either_role_observers_in_theirs_and_strangers_in_none() {
        let membership =
            Membership::majority([1, 2].map(ServerId).into(), [9].map(ServerId).into());
        let roles = [LearnerRole::Follower, LearnerRole::Observer];
        for (sid, expected) in [(2, [true, true]), (9, [false, true]), (4, [false, false])] {
            assert_eq!(roles.map(|role| membership.may_join(ServerId(sid), role)), expected);
        }
    }
}
