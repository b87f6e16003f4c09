//! `Discovery`: collects accepted epochs, opens the new one, and collects the promises.
//!
//! Sends nothing and persists nothing; compares histories only as (current epoch, last zxid).

use crate::quorum::QuorumVerifier;
use crate::{Epoch, ProtocolError, VoterIndex, VoterSet, Zxid};

/// How far a peer's accepted epoch may be ahead of what is known here (R25): a million elections.
/// Without the bound one bad peer could use up the epochs.
pub const EPOCH_STEP_MAX: u32 = 1 << 20;

/// The end of a history, in the order of elections and promises: current epoch, then last zxid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HistoryEnd {
    pub(super) current_epoch: Epoch,
    pub(super) last_zxid: Zxid,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Discovery {
    joined: VoterSet,
    promised: VoterSet,
    /// The highest accepted epoch of everybody who joined, observers included.
    highest: Epoch,
    ours: HistoryEnd,
}

impl Discovery {
    pub(super) fn new(me: VoterIndex, accepted_epoch: Epoch, ours: HistoryEnd) -> Self {
        let joined = [me].into_iter().collect();
        Self { joined, promised: VoterSet::EMPTY, highest: accepted_epoch, ours }
    }

    /// Takes in an accepted epoch; `voter` if the learner counts.
    pub(super) fn join(&mut self, voter: Option<VoterIndex>, accepted_epoch: Epoch) {
        self.highest = self.highest.max(accepted_epoch);
        if let Some(voter) = voter {
            self.joined.insert(voter);
        }
    }

    /// Refuses an accepted epoch that is far outside of what can be expected.
    pub(super) fn check_plausible(&self, accepted_epoch: Epoch) -> Result<(), ProtocolError> {
        let limit = plausible_limit(self.highest);
        if accepted_epoch > limit {
            return Err(ProtocolError::ImplausibleEpoch { got: accepted_epoch, limit });
        }
        Ok(())
    }

    pub(super) fn leave(&mut self, voter: VoterIndex) {
        self.joined.remove(voter);
        self.promised.remove(voter);
    }

    pub(super) fn is_joined_by_quorum(&self, verifier: &QuorumVerifier) -> bool {
        verifier.contains_quorum(self.joined)
    }

    /// 1 + the highest accepted epoch (R25); `None` at the end of all epochs.
    pub(super) fn next_epoch(&self) -> Option<Epoch> {
        self.highest.next()
    }

    /// Whether this history is ahead of ours: then we lack something that may be committed.
    pub(super) fn is_ahead(&self, theirs: HistoryEnd) -> bool {
        theirs > self.ours
    }

    pub(super) fn promise(&mut self, voter: VoterIndex) {
        self.promised.insert(voter);
    }

    pub(super) fn is_promised_by_quorum(&self, verifier: &QuorumVerifier) -> bool {
        verifier.contains_quorum(self.promised)
    }
}

/// The highest epoch that is believed of a peer by a server that knows of `known`.
pub(crate) fn plausible_limit(known: Epoch) -> Epoch {
    Epoch::new(known.get().saturating_add(EPOCH_STEP_MAX)).min(Epoch::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::z;

    const OURS: HistoryEnd = HistoryEnd { current_epoch: Epoch::new(4), last_zxid: z(4, 9) };

    #[test]
    fn the_epoch_is_one_above_everybody_who_joined_and_observers_do_not_make_a_quorum() {
        let verifier = QuorumVerifier::Majority { voters: 3 };
        let mut discovery = Discovery::new(VoterIndex(0), Epoch::new(4), OURS);
        discovery.join(None, Epoch::new(30));
        assert!(!discovery.is_joined_by_quorum(&verifier));
        discovery.join(Some(VoterIndex(2)), Epoch::new(7));
        assert!(discovery.is_joined_by_quorum(&verifier));
        assert_eq!(discovery.next_epoch(), Some(Epoch::new(31)));
        discovery.leave(VoterIndex(2));
        assert!(!discovery.is_joined_by_quorum(&verifier));
    }

    #[test]
    fn histories_compare_by_current_epoch_before_zxid() {
        let discovery = Discovery::new(VoterIndex(0), Epoch::new(4), OURS);
        let end = |current, epoch, counter| HistoryEnd {
            current_epoch: Epoch::new(current),
            last_zxid: z(epoch, counter),
        };
        assert!(!discovery.is_ahead(end(4, 4, 9)));
        assert!(discovery.is_ahead(end(4, 4, 10)));
        assert!(discovery.is_ahead(end(5, 3, 1)));
        assert!(!discovery.is_ahead(end(3, 4, 10)));
    }

    #[test]
    fn an_epoch_far_ahead_is_refused() {
        let discovery = Discovery::new(VoterIndex(0), Epoch::new(4), OURS);
        assert!(discovery.check_plausible(Epoch::new(4 + EPOCH_STEP_MAX)).is_ok());
        assert!(discovery.check_plausible(Epoch::new(5 + EPOCH_STEP_MAX)).is_err());
        assert_eq!(plausible_limit(Epoch::MAX), Epoch::MAX);
    }
}
