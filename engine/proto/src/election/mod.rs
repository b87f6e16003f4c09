//! Fast leader election: rounds, votes, notifications, and the quiet time before a result.
//!
//! A result is a suggestion: whether the elected server may lead is proved afterwards, by the
//! epochs and histories of the quorum that joins it. Opens no connection and draws no random
//! number; knows the history of this server only as the vote that it is given.
//!
//! Follows `FastLeaderElection` (`quorum.md` 5.5, 5.6) with four deliberate differences. The quiet
//! time is skipped when every voter agrees, since no better vote can come. The back-off has a cap
//! of seconds (R29). A role that was taken is announced to everybody, so that stragglers and
//! observers need not ask. A server that finds a leader may count itself as its follower, so that a
//! lone follower which was restarted need not wait until its leader has given up; if that leader
//! turns out to be unreachable or refuses, it is left alone for a while (no reconnect storms, R46).

mod vote;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

pub use vote::{Notification, PeerState, Vote};

use crate::quorum::Membership;
use crate::{Epoch, Instant, ServerId, VoterIndex, VoterSet};

/// A round further ahead than this is not believed: one bad peer must not use the rounds up.
const ROUND_STEP_MAX: u64 = 1 << 32;

/// The election's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElectionConfig {
    /// Silence after which the vote is sent again for the first time
    /// (`fastleader.minNotificationInterval`).
    pub notification_interval_min: Duration,
    /// The interval doubles up to this (`fastleader.maxNotificationInterval`, 60 s there; R29).
    pub notification_interval_max: Duration,
    /// How long a quorum must stay without a better vote (`finalizeWait`).
    pub finalize_wait: Duration,
}

impl Default for ElectionConfig {
    /// 200 ms, doubling to 3.2 s; 200 ms of quiet.
    fn default() -> Self {
        Self {
            notification_interval_min: Duration::from_millis(200),
            notification_interval_max: Duration::from_millis(3200),
            finalize_wait: Duration::from_millis(200),
        }
    }
}

/// What must be done for the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionEffect {
    /// Send this; it replaces whatever still waits to be sent to that server.
    Notify {
        /// The receiver.
        to: ServerId,
        /// The message.
        notification: Notification,
    },
    /// The round has a result: take the role and call [`Election::settle`], or look again.
    Elected(Vote),
}

/// The search for a leader, and the memory of its result.
#[derive(Debug)]
pub struct Election {
    sid: ServerId,
    membership: Membership,
    config: ElectionConfig,
    /// The logical clock: grows with each search and follows higher ones.
    round: u64,
    stage: Stage,
    /// The leader of the last term, if it never brought us level: not followed again before the
    /// first repetition of our vote, and not on the ground of our own voice for longer.
    shunned: Option<ServerId>,
    effects: VecDeque<ElectionEffect>,
}

#[derive(Debug)]
enum Stage {
    /// Nobody has asked yet.
    Idle,
    Looking(Looking),
    /// A role is taken: `vote` made it in `round`.
    Settled {
        state: PeerState,
        vote: Vote,
        round: u64,
        /// Whether the epoch of that leader was established with us.
        established: bool,
    },
}

#[derive(Debug)]
struct Looking {
    /// `None`: this server may not be voted for, and is not counted.
    own: Option<Vote>,
    /// The best vote of the round; `None` only without an own vote.
    proposal: Option<Vote>,
    /// The newest message of each voter in this round, LOOKING or not.
    received: Vec<Option<Vote>>,
    /// What voters with a role last said, of whatever round.
    settled: Vec<Option<Settled>>,
    interval: Duration,
    notify_at: Instant,
    /// When the quorum has been quiet for long enough.
    finalize_at: Option<Instant>,
    elected: bool,
}

#[derive(Clone, Copy, Debug)]
struct Settled {
    leading: bool,
    vote: Vote,
    round: u64,
}

impl Election {
    /// An election that waits for [`Election::look`].
    pub const fn new(sid: ServerId, membership: Membership, config: ElectionConfig) -> Self {
        Self {
            sid,
            membership,
            config,
            round: 0,
            stage: Stage::Idle,
            shunned: None,
            effects: VecDeque::new(),
        }
    }

    /// Starts a round. `own` is this server's durable history as a vote; `None` if it may not be
    /// voted for (observers; quarantined and wiped servers, R26): it then asks who leads, and its
    /// voice counts nowhere. What an earlier round still wanted to say is dropped.
    ///
    /// # Panics
    /// If `own` names another server.
    pub fn look(&mut self, now: Instant, own: Option<Vote>) {
        assert!(own.is_none_or(|vote| vote.leader == self.sid), "an own vote for another server");
        self.shunned = match self.stage {
            Stage::Settled { state, vote, established: false, .. }
                if state != PeerState::Leading =>
            {
                Some(vote.leader)
            }
            Stage::Settled { .. } => None,
            Stage::Idle | Stage::Looking(_) => self.shunned,
        };
        self.round += 1;
        self.effects.clear();
        let voters = self.membership.voters().len();
        let looking = Looking {
            own,
            proposal: own,
            received: vec![None; voters],
            settled: vec![None; voters],
            interval: self.config.notification_interval_min,
            notify_at: now + self.config.notification_interval_min,
            finalize_at: None,
            elected: false,
        };
        self.stage = Stage::Looking(looking);
        self.count_own_vote();
        self.notify_all(false);
        self.conclude(now);
    }

    /// The role is taken: from now on LOOKING servers are answered with `vote` and the round that it
    /// was made in. Announces it to everybody.
    pub fn settle(&mut self, state: PeerState, vote: Vote) {
        assert!(state != PeerState::Looking, "settled without a role");
        self.stage = Stage::Settled { state, vote, round: self.round, established: false };
        self.notify_all(true);
    }

    /// The leader's epoch is established here: all members now show the same vote
    /// (ZOOKEEPER-1732).
    pub fn refresh_peer_epoch(&mut self, epoch: Epoch) {
        match &mut self.stage {
            Stage::Settled { vote, established, .. } => {
                vote.peer_epoch = epoch;
                *established = true;
            }
            Stage::Idle | Stage::Looking(_) => {}
        }
    }

    /// Takes in a message. Messages of strangers, and for strangers, change nothing here.
    pub fn handle_notification(&mut self, now: Instant, notification: Notification) {
        let from = notification.from;
        if from == self.sid {
            return self.ignore_own_echo();
        }
        if notification.round > self.round.saturating_add(ROUND_STEP_MAX) {
            return self.ignore_implausible_round();
        }
        let Some(voter) = self.membership.voter_index(from) else {
            return self.answer_asker(notification);
        };
        if self.membership.voter_index(notification.vote.leader).is_none() {
            self.withdraw(voter);
            // Without that vote there may be no quorum for the result that was about to stand.
            self.conclude(now);
            return self.answer_asker(notification);
        }
        match self.stage {
            Stage::Idle => self.ignore_before_first_round(),
            Stage::Settled { .. } => self.answer_asker(notification),
            Stage::Looking(_) => match notification.state {
                PeerState::Looking => self.handle_vote(now, voter, notification),
                PeerState::Following | PeerState::Leading => {
                    self.handle_settled(voter, notification);
                }
                // A voter that observes (it is quarantined) is evidence of nothing.
                PeerState::Observing => self.withdraw(voter),
            },
        }
        self.conclude(now);
    }

    /// The link to a server came up: whatever it last heard from us may have been lost.
    pub fn handle_connected(&mut self, _now: Instant, sid: ServerId) {
        if sid != self.sid {
            self.notify(sid);
        }
    }

    /// Sends the vote again, or ends the quiet time, whichever is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Stage::Looking(looking) = &mut self.stage else { return };
        if looking.notify_at <= now {
            looking.interval = (looking.interval * 2).min(self.config.notification_interval_max);
            looking.notify_at = now + looking.interval;
            // By now others had time to elect somebody else; give the shunned one another chance.
            if looking.interval >= self.config.notification_interval_min * 4 {
                self.shunned = None;
            }
            self.notify_all(false);
        }
        self.conclude(now);
    }

    /// When [`Election::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Looking(looking) if !looking.elected => {
                Some(looking.finalize_at.map_or(looking.notify_at, |at| at.min(looking.notify_at)))
            }
            Stage::Looking(_) | Stage::Idle | Stage::Settled { .. } => None,
        }
    }

    /// What must be done now.
    pub fn poll_effect(&mut self) -> Option<ElectionEffect> {
        self.effects.pop_front()
    }

    /// The logical clock.
    pub const fn round(&self) -> u64 {
        self.round
    }

    /// Asserts what must hold between batches.
    pub fn check_invariants(&self) {
        match &self.stage {
            Stage::Idle => assert_eq!(self.round, 0, "a round without a search"),
            Stage::Looking(looking) => {
                assert!(self.round > 0, "a search outside of any round");
                assert!(
                    looking.own.is_none() || looking.proposal.is_some(),
                    "a voter without a proposal"
                );
                if let (Some(own), Some(proposal)) = (looking.own, looking.proposal) {
                    assert!(!self.is_better(own, proposal), "a proposal worse than the own vote");
                }
                let supporters = self.supporters(looking);
                assert!(
                    looking.finalize_at.is_none()
                        || self.membership.verifier().contains_quorum(supporters),
                    "a quiet time without a quorum"
                );
            }
            Stage::Settled { state, vote, .. } => {
                assert_eq!(
                    *state == PeerState::Leading,
                    vote.leader == self.sid,
                    "a role that its vote did not make"
                );
            }
        }
    }

    // --- what is heard while looking -----------------------------------------------------------

    fn handle_vote(&mut self, now: Instant, voter: VoterIndex, heard: Notification) {
        let Stage::Looking(looking) = &mut self.stage else { return };
        looking.settled[usize::from(voter.0)] = None;
        if looking.own.is_none() {
            return self.ignore_without_own_vote();
        }
        if heard.round < self.round {
            return self.answer_stale_round(heard.from);
        }
        if heard.round > self.round {
            self.round = heard.round;
            looking.received.fill(None);
            looking.proposal = looking.own;
            looking.finalize_at = None;
            self.count_own_vote();
            self.adopt_better(heard.vote);
            self.restart_interval(now);
            self.notify_all(false);
        } else if self.adopt_better(heard.vote) {
            self.restart_interval(now);
            self.notify_all(false);
        }
        self.count(voter, heard.vote);
    }

    /// A member with a role is evidence of the round that made its role, and of its leader.
    fn handle_settled(&mut self, voter: VoterIndex, heard: Notification) {
        let in_round = heard.round == self.round;
        let Stage::Looking(looking) = &mut self.stage else { return };
        let leading = heard.state == PeerState::Leading && heard.vote.leader == heard.from;
        looking.settled[usize::from(voter.0)] =
            Some(Settled { leading, vote: heard.vote, round: heard.round });
        // Counted, not adopted: its peer epoch may have been refreshed, and LOOKING servers that
        // spread such a vote would elect a leader that may be gone by now.
        if in_round && looking.own.is_some() {
            self.count(voter, heard.vote);
        }
    }

    /// True if the proposal changed.
    fn adopt_better(&mut self, vote: Vote) -> bool {
        let Stage::Looking(looking) = &self.stage else { return false };
        if looking.proposal.is_some_and(|proposal| !self.is_better(vote, proposal)) {
            return false;
        }
        let Stage::Looking(looking) = &mut self.stage else { return false };
        looking.proposal = Some(vote);
        looking.finalize_at = None;
        self.count_own_vote();
        true
    }

    /// The total order, in which nobody without weight is ever ahead.
    fn is_better(&self, new: Vote, than: Vote) -> bool {
        let rank = |vote: Vote| (self.membership.is_electable(vote.leader), vote);
        rank(new) > rank(than)
    }

    fn count(&mut self, voter: VoterIndex, vote: Vote) {
        if let Stage::Looking(looking) = &mut self.stage {
            looking.received[usize::from(voter.0)] = Some(vote);
        }
    }

    fn count_own_vote(&mut self) {
        let Some(voter) = self.membership.voter_index(self.sid) else { return };
        let Stage::Looking(looking) = &mut self.stage else { return };
        if looking.own.is_some() {
            looking.received[usize::from(voter.0)] = looking.proposal;
        }
    }

    fn restart_interval(&mut self, now: Instant) {
        if let Stage::Looking(looking) = &mut self.stage {
            looking.interval = self.config.notification_interval_min;
            looking.notify_at = now + looking.interval;
        }
    }

    // --- results -------------------------------------------------------------------------------

    fn conclude(&mut self, now: Instant) {
        let Stage::Looking(looking) = &self.stage else { return };
        if looking.elected {
            return;
        }
        if let Some(found) = self.established_leader(looking) {
            self.round = found.round;
            return self.elect(found.vote);
        }
        let supporters = self.supporters(looking);
        let has_quorum = self.membership.verifier().contains_quorum(supporters);
        let all_agree = supporters.len() == self.membership.voters().len();
        let wait = self.config.finalize_wait;
        let Stage::Looking(looking) = &mut self.stage else { return };
        if !has_quorum {
            looking.finalize_at = None;
            return;
        }
        let finalize_at = *looking.finalize_at.get_or_insert(now + wait);
        if let Some(proposal) = looking.proposal
            && (all_agree || finalize_at <= now)
        {
            self.elect(proposal);
        }
    }

    fn elect(&mut self, vote: Vote) {
        if let Stage::Looking(looking) = &mut self.stage {
            looking.elected = true;
            looking.finalize_at = None;
            self.effects.push_back(ElectionEffect::Elected(vote));
        }
    }

    /// Who agrees with our proposal; nobody if that may not be elected.
    fn supporters(&self, looking: &Looking) -> VoterSet {
        let electable = |vote: &Vote| self.membership.is_electable(vote.leader);
        let Some(proposal) = looking.proposal.filter(electable) else { return VoterSet::EMPTY };
        let agreeing = looking.received.iter().enumerate();
        agreeing
            .filter(|(_, vote)| **vote == Some(proposal))
            .map(|(voter, _)| VoterIndex(voter as u8))
            .collect()
    }

    /// A leader that says so itself, with a quorum that names it. Round, zxid and peer epoch are not
    /// compared: members of one term may show different ones for a while (ZOOKEEPER-1732, -1805),
    /// and the leader itself is asked next anyway (R27).
    fn established_leader(&self, looking: &Looking) -> Option<Settled> {
        let myself = self.membership.voter_index(self.sid).filter(|_| looking.own.is_some());
        looking.settled.iter().flatten().copied().filter(|claim| claim.leading).find(|claim| {
            let leader = claim.vote.leader;
            let named = looking.settled.iter().enumerate();
            let mut set: VoterSet = named
                .filter(|(_, said)| said.is_some_and(|said| said.vote.leader == leader))
                .map(|(voter, _)| VoterIndex(voter as u8))
                .collect();
            let shunned = self.shunned == Some(leader);
            if shunned && looking.interval == self.config.notification_interval_min {
                return false;
            }
            if let Some(myself) = myself
                && !shunned
            {
                set.insert(myself);
            }
            self.membership.verifier().contains_quorum(set)
        })
    }

    // --- what is said --------------------------------------------------------------------------

    fn current_notification(&self) -> Option<Notification> {
        let from = self.sid;
        match &self.stage {
            Stage::Idle => None,
            Stage::Looking(looking) => {
                let vote = match looking.own {
                    Some(_) => looking.proposal.unwrap_or(Vote::NOBODY),
                    None => Vote::NOBODY,
                };
                Some(Notification { from, state: PeerState::Looking, vote, round: self.round })
            }
            Stage::Settled { state, vote, round, .. } => {
                Some(Notification { from, state: *state, vote: *vote, round: *round })
            }
        }
    }

    fn notify(&mut self, to: ServerId) {
        if let Some(notification) = self.current_notification() {
            self.effects.push_back(ElectionEffect::Notify { to, notification });
        }
    }

    /// Tells all voters but ourselves, and the observers if they must know.
    fn notify_all(&mut self, observers: bool) {
        let Some(notification) = self.current_notification() else { return };
        let observers = if observers { self.membership.observers() } else { &[] };
        let everybody = self.membership.voters().iter().chain(observers);
        let peers = everybody.copied().filter(|to| *to != self.sid);
        self.effects.extend(peers.map(|to| ElectionEffect::Notify { to, notification }));
    }

    /// Answers a server that looks and whose vote does not count, or need not count here. While we
    /// look ourselves there is nothing to tell it, and two that only ask would answer each other
    /// for ever.
    fn answer_asker(&mut self, heard: Notification) {
        let settled = matches!(self.stage, Stage::Settled { .. });
        if settled && heard.state == PeerState::Looking {
            self.notify(heard.from);
        }
    }

    /// A LOOKING voter of an earlier round learns of ours and joins it.
    fn answer_stale_round(&mut self, to: ServerId) {
        self.notify(to);
    }

    const fn ignore_own_echo(&self) {}

    const fn ignore_before_first_round(&self) {}

    /// Votes among those who look cannot be joined without a vote of one's own; their result can.
    const fn ignore_without_own_vote(&self) {}

    const fn ignore_implausible_round(&self) {}

    /// What this voter said earlier is no longer true.
    fn withdraw(&mut self, voter: VoterIndex) {
        if let Stage::Looking(looking) = &mut self.stage {
            looking.settled[usize::from(voter.0)] = None;
            looking.received[usize::from(voter.0)] = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Zxid;
    use crate::quorum::{Hierarchical, QuorumVerifier};

    const MS: Duration = Duration::from_millis(1);

    fn sids(all: &[u64]) -> Vec<ServerId> {
        all.iter().copied().map(ServerId).collect()
    }

    fn vote(leader: u64, epoch: u32, counter: u32) -> Vote {
        let peer_epoch = Epoch::new(epoch);
        Vote { peer_epoch, zxid: Zxid::new(peer_epoch, counter), leader: ServerId(leader) }
    }

    fn says(from: u64, state: PeerState, vote: Vote, round: u64) -> Notification {
        Notification { from: ServerId(from), state, vote, round }
    }

    fn election(sid: u64, voters: &[u64], observers: &[u64]) -> Election {
        let membership = Membership::majority(sids(voters), sids(observers));
        Election::new(ServerId(sid), membership, ElectionConfig::default())
    }

    fn effects(election: &mut Election) -> Vec<ElectionEffect> {
        election.check_invariants();
        core::iter::from_fn(|| election.poll_effect()).collect()
    }

    fn elected(election: &mut Election) -> Option<ServerId> {
        effects(election).into_iter().find_map(|effect| match effect {
            ElectionEffect::Elected(vote) => Some(vote.leader),
            ElectionEffect::Notify { .. } => None,
        })
    }

    fn told(election: &mut Election) -> Vec<(u64, Notification)> {
        let said = effects(election).into_iter().filter_map(|effect| match effect {
            ElectionEffect::Notify { to, notification } => Some((to.0, notification)),
            ElectionEffect::Elected(_) => None,
        });
        said.collect()
    }

    #[test]
    fn votes_compare_by_peer_epoch_then_zxid_then_sid() {
        assert!(vote(1, 2, 1) > vote(9, 1, 9));
        assert!(vote(1, 1, 2) > vote(9, 1, 1));
        assert!(vote(2, 1, 1) > vote(1, 1, 1));
    }

    #[test]
    fn a_quorum_waits_for_a_better_vote_and_a_full_agreement_does_not() {
        let now = Instant::ZERO;
        let mut one = election(1, &[1, 2, 3], &[]);
        one.look(now, Some(vote(1, 1, 1)));
        one.handle_notification(now, says(2, PeerState::Looking, vote(2, 1, 1), 1));
        assert_eq!(elected(&mut one), None);
        assert_eq!(one.poll_timeout(), Some(now + 200 * MS));
        // A better vote shortly before the end begins a new quiet time.
        let later = now + 199 * MS;
        one.handle_notification(later, says(3, PeerState::Looking, vote(3, 1, 1), 1));
        one.handle_timeout(now + 200 * MS);
        assert_eq!(elected(&mut one), None);
        one.handle_notification(later, says(2, PeerState::Looking, vote(3, 1, 1), 1));
        assert_eq!(elected(&mut one), Some(ServerId(3)));
    }

    #[test]
    fn a_withdrawn_vote_ends_the_quiet_time_that_it_made() {
        let now = Instant::ZERO;
        let mut one = election(1, &[1, 2, 3], &[]);
        one.look(now, Some(vote(1, 1, 1)));
        one.handle_notification(now, says(2, PeerState::Looking, vote(1, 1, 1), 1));
        assert_eq!(one.poll_timeout(), Some(now + 200 * MS));
        one.handle_notification(now + MS, says(2, PeerState::Looking, Vote::NOBODY, 1));
        one.check_invariants();
        one.handle_timeout(now + 200 * MS);
        assert_eq!(elected(&mut one), None);
    }

    #[test]
    fn a_later_round_discards_what_was_counted_and_an_earlier_one_is_answered() {
        let now = Instant::ZERO;
        let mut one = election(1, &[1, 2, 3], &[]);
        one.look(now, Some(vote(1, 1, 5)));
        one.handle_notification(now, says(2, PeerState::Looking, vote(2, 1, 9), 1));
        effects(&mut one);
        one.handle_notification(now, says(3, PeerState::Looking, vote(3, 1, 1), 7));
        assert_eq!(one.round(), 7);
        let said = told(&mut one);
        assert!(said.iter().all(|(_, note)| note.round == 7 && note.vote == vote(1, 1, 5)));
        one.handle_notification(now, says(2, PeerState::Looking, vote(2, 1, 9), 3));
        assert_eq!(told(&mut one), [(2, says(1, PeerState::Looking, vote(1, 1, 5), 7))]);
    }

    #[test]
    fn a_server_without_a_vote_is_told_by_its_own_words_that_it_counts_nowhere() {
        let now = Instant::ZERO;
        let mut two = election(2, &[1, 2, 3], &[]);
        two.look(now, None);
        for (_, said) in told(&mut two) {
            assert_eq!(said.vote, Vote::NOBODY);
        }
        // It does not make a quorum with a lagging server, nor does it elect by others' votes.
        let mut one = election(1, &[1, 2, 3], &[]);
        one.look(now, Some(vote(1, 1, 1)));
        one.handle_notification(now, says(2, PeerState::Looking, Vote::NOBODY, 1));
        one.handle_timeout(now + 400 * MS);
        assert_eq!(elected(&mut one), None);
        two.handle_notification(now, says(1, PeerState::Looking, vote(3, 1, 1), 1));
        two.handle_notification(now, says(3, PeerState::Looking, vote(3, 1, 1), 1));
        two.handle_timeout(now + 400 * MS);
        assert_eq!(elected(&mut two), None);
        // Once the others have settled it follows, by a quorum without itself.
        two.handle_notification(now, says(3, PeerState::Leading, vote(3, 1, 1), 1));
        assert_eq!(elected(&mut two), None);
        two.handle_notification(now, says(1, PeerState::Following, vote(3, 1, 1), 1));
        assert_eq!(elected(&mut two), Some(ServerId(3)));
    }

    #[test]
    fn only_voters_are_believed_and_only_votes_for_voters() {
        let now = Instant::ZERO;
        let mut one = election(1, &[1, 2, 3], &[4]);
        one.look(now, Some(vote(1, 1, 1)));
        effects(&mut one);
        one.handle_notification(now, says(4, PeerState::Looking, vote(4, 9, 9), 1));
        one.handle_notification(now, says(2, PeerState::Looking, vote(4, 9, 9), 1));
        one.handle_notification(now, says(7, PeerState::Leading, vote(7, 9, 9), 1));
        one.handle_notification(now, says(2, PeerState::Looking, vote(2, 9, 9), u64::MAX));
        assert_eq!(effects(&mut one), []);
        assert_eq!(one.round(), 1);
    }

    #[test]
    fn a_settled_server_answers_with_the_vote_and_round_that_made_its_role() {
        let now = Instant::ZERO;
        let mut one = election(1, &[1, 2, 3], &[4]);
        one.look(now, Some(vote(1, 1, 1)));
        effects(&mut one);
        one.settle(PeerState::Following, vote(3, 1, 1));
        assert_eq!(told(&mut one).iter().map(|said| said.0).collect::<Vec<_>>(), [2, 3, 4]);
        one.refresh_peer_epoch(Epoch::new(2));
        one.handle_notification(now, says(2, PeerState::Looking, vote(2, 1, 1), 5));
        one.handle_notification(now, says(4, PeerState::Looking, Vote::NOBODY, 5));
        one.handle_notification(now, says(3, PeerState::Leading, vote(3, 1, 1), 1));
        let established = Vote { peer_epoch: Epoch::new(2), ..vote(3, 1, 1) };
        let answer = says(1, PeerState::Following, established, 1);
        assert_eq!(told(&mut one), [(2, answer), (4, answer)]);
    }

    #[test]
    fn a_lone_follower_rejoins_its_leader_but_not_one_that_just_failed_it() {
        let now = Instant::ZERO;
        let mut one = election(1, &[1, 2, 3], &[]);
        one.look(now, Some(vote(1, 1, 1)));
        one.handle_notification(now, says(3, PeerState::Leading, vote(3, 1, 9), 4));
        assert_eq!(elected(&mut one), Some(ServerId(3)));
        one.settle(PeerState::Following, vote(3, 1, 9));
        one.look(now, Some(vote(1, 1, 1)));
        one.handle_notification(now, says(3, PeerState::Leading, vote(3, 1, 9), 4));
        assert_eq!(elected(&mut one), None);
        // Others follow it: worth another try, but not at once.
        one.handle_notification(now, says(2, PeerState::Following, vote(3, 1, 9), 4));
        assert_eq!(elected(&mut one), None);
        one.handle_timeout(now + 200 * MS);
        assert_eq!(elected(&mut one), Some(ServerId(3)));
    }

    #[test]
    fn repetitions_back_off_to_a_cap_of_seconds() {
        let mut one = election(1, &[1, 2, 3], &[]);
        one.look(Instant::ZERO, Some(vote(1, 1, 1)));
        let mut waits = Vec::new();
        let mut now = Instant::ZERO;
        for _ in 0..7 {
            let at = one.poll_timeout().expect("a lone server repeats its vote");
            waits.push(at.since(now).as_millis());
            now = at;
            one.handle_timeout(now);
        }
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 3200, 3200]);
    }

    #[test]
    fn a_reconnected_peer_hears_the_last_word_again() {
        let mut one = election(1, &[1, 2, 3], &[]);
        one.handle_connected(Instant::ZERO, ServerId(2));
        assert_eq!(effects(&mut one), []);
        one.look(Instant::ZERO, Some(vote(1, 1, 1)));
        effects(&mut one);
        one.handle_connected(Instant::ZERO, ServerId(2));
        assert_eq!(told(&mut one), [(2, says(1, PeerState::Looking, vote(1, 1, 1), 1))]);
    }

    #[test]
    fn a_voter_without_weight_is_never_elected_even_with_the_longest_history() {
        let now = Instant::ZERO;
        let weights = Hierarchical::new(&[(1, 1), (1, 1), (1, 0)]);
        let membership =
            Membership::new(sids(&[1, 2, 3]), Vec::new(), QuorumVerifier::Hierarchical(weights));
        let mut three = Election::new(ServerId(3), membership.clone(), ElectionConfig::default());
        three.look(now, Some(vote(3, 9, 9)));
        three.handle_notification(now, says(1, PeerState::Looking, vote(2, 1, 1), 1));
        three.handle_notification(now, says(2, PeerState::Looking, vote(2, 1, 1), 1));
        assert_eq!(elected(&mut three), Some(ServerId(2)));
        let mut one = Election::new(ServerId(1), membership, ElectionConfig::default());
        one.look(now, Some(vote(1, 1, 1)));
        effects(&mut one);
        one.handle_notification(now, says(3, PeerState::Looking, vote(3, 9, 9), 1));
        assert_eq!(effects(&mut one), [], "a vote for a server without weight changes nothing");
    }
}
