//! `LearnerHandler`: the leader's side of one learner's connection: handshake order, the order of
//! acknowledgements, and the limits of silence.
//!
//! Lives where the connection lives. Counts no quorum, keeps no proposal, and closes nothing: it
//! says what is wrong.

use alloc::collections::VecDeque;
use core::fmt;

use crate::{Instant, ProtocolError, Ticks, ToLeader, Zxid};

/// Proposals are remembered in runs of a quarter of a tick: memory stays bounded, and a learner is
/// given up at most that much too late.
const RUNS_PER_TICK: u32 = 4;

/// Why a learner should be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// It was silent for longer than initLimit during the handshake.
    Handshake,
    /// It was silent for longer than syncLimit.
    Silent,
    /// It did not acknowledge a proposal within syncLimit, although it is not silent.
    Unacknowledged {
        /// What it has acknowledged.
        acked: Zxid,
    },
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Handshake => f.write_str("silent for longer than initLimit in the handshake"),
            Self::Silent => f.write_str("silent for longer than syncLimit"),
            Self::Unacknowledged { acked } => {
                write!(f, "no acknowledgement after that of {acked} within syncLimit")
            }
        }
    }
}

/// What a learner on this connection may say next, and what it has said.
#[derive(Clone, Debug)]
pub struct LearnerHandler {
    ticks: Ticks,
    phase: Phase,
    acknowledges: bool,
    heard_at: Instant,
    /// The zxid of NEWLEADER, once it was sent.
    new_leader: Zxid,
    /// The highest proposal of this epoch that it has acknowledged.
    acked: Zxid,
    /// The last proposal that was sent before NEWLEADER; acknowledgements up to here say nothing.
    streamed: Zxid,
    sent: Zxid,
    unacked: VecDeque<Run>,
}

/// Proposals that were sent at about the same time.
#[derive(Clone, Copy, Debug)]
struct Run {
    through: Zxid,
    sent_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// FOLLOWERINFO or OBSERVERINFO is awaited.
    Unknown,
    /// LEADERINFO was not sent yet.
    Waiting,
    /// ACKEPOCH is awaited.
    Informed,
    /// The stream is on its way.
    Syncing,
    /// The acknowledgement of NEWLEADER is awaited.
    Flushing,
    /// UPTODATE was not sent yet.
    Synced,
    /// It serves.
    Serving,
}

impl LearnerHandler {
    /// A connection that was just accepted.
    pub const fn new(now: Instant, ticks: Ticks) -> Self {
        Self {
            ticks,
            phase: Phase::Unknown,
            acknowledges: false,
            heard_at: now,
            new_leader: Zxid::ZERO,
            acked: Zxid::ZERO,
            streamed: Zxid::ZERO,
            sent: Zxid::ZERO,
            unacked: VecDeque::new(),
        }
    }

    /// Whether this packet may come now. An admitted ACK with counter 0 acknowledges NEWLEADER.
    ///
    /// # Errors
    /// A packet that this phase does not know, an acknowledgement of what was not sent, or one that
    /// goes back.
    pub fn admit<P>(&mut self, now: Instant, packet: &ToLeader<P>) -> Result<(), ProtocolError> {
        match packet {
            ToLeader::FollowerInfo { sid: _, accepted_epoch: _ } => {
                self.introduce("FOLLOWERINFO", true)?;
            }
            ToLeader::ObserverInfo { sid: _, accepted_epoch: _ } => {
                self.introduce("OBSERVERINFO", false)?;
            }
            ToLeader::AckEpoch { current_epoch: _, last_zxid: _ } => {
                self.expect("ACKEPOCH", self.phase == Phase::Informed)?;
                self.phase = Phase::Syncing;
            }
            ToLeader::Ack { zxid } => self.admit_ack(*zxid)?,
            ToLeader::Request(_) => self.expect("REQUEST", self.phase == Phase::Serving)?,
            ToLeader::Ping { round: _, touched: _ } => {
                let past_promise = match self.phase {
                    Phase::Unknown | Phase::Waiting | Phase::Informed => false,
                    Phase::Syncing | Phase::Flushing | Phase::Synced | Phase::Serving => true,
                };
                self.expect("PING", past_promise)?;
            }
            ToLeader::Revalidate { session: _, timeout: _ } => {
                self.expect("REVALIDATE", self.phase == Phase::Serving)?;
            }
        }
        self.heard_at = self.heard_at.max(now);
        Ok(())
    }

    fn introduce(&mut self, packet: &'static str, acknowledges: bool) -> Result<(), ProtocolError> {
        self.expect(packet, self.phase == Phase::Unknown)?;
        self.acknowledges = acknowledges;
        self.phase = Phase::Waiting;
        Ok(())
    }

    /// After NEWLEADER acknowledgements may come in any order with that of NEWLEADER itself, and may
    /// repeat what the stream held (`quorum.md` 12: Java learners do both).
    fn admit_ack(&mut self, zxid: Zxid) -> Result<(), ProtocolError> {
        match self.phase {
            Phase::Unknown | Phase::Waiting | Phase::Informed | Phase::Syncing => {
                return Err(self.out_of_phase("ACK"));
            }
            Phase::Flushing | Phase::Synced | Phase::Serving => {}
        }
        if zxid == self.new_leader {
            if self.phase == Phase::Flushing {
                self.phase = Phase::Synced;
            }
            return Ok(());
        }
        let proposed = self.sent.max(self.streamed);
        if zxid > proposed {
            return Err(ProtocolError::BeyondProposed { proposed, got: zxid });
        }
        if zxid <= self.streamed || zxid < self.new_leader {
            self.ignore_ack_of_stream();
            return Ok(());
        }
        if zxid < self.acked {
            return Err(ProtocolError::AckWentBack { acked: self.acked, got: zxid });
        }
        self.acked = zxid;
        while self.unacked.front().is_some_and(|run| run.through <= zxid) {
            self.unacked.pop_front();
        }
        Ok(())
    }

    /// LEADERINFO was sent.
    pub fn sent_leader_info(&mut self) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Informed;
        }
    }

    /// NEWLEADER was sent, behind the whole stream.
    pub fn sent_new_leader(&mut self, zxid: Zxid) {
        if self.phase == Phase::Syncing {
            self.phase = Phase::Flushing;
            self.new_leader = zxid;
            self.streamed = self.streamed.max(self.sent);
            self.unacked.clear();
        }
    }

    /// UPTODATE was sent.
    pub fn sent_up_to_date(&mut self) {
        if self.phase == Phase::Synced {
            self.phase = Phase::Serving;
        }
    }

    /// A proposal was sent, in the stream or behind it.
    pub fn sent_proposal(&mut self, now: Instant, zxid: Zxid) {
        self.sent = zxid;
        if !self.acknowledges || matches!(self.phase, Phase::Syncing) {
            return;
        }
        let run_time = self.run_time();
        match self.unacked.back_mut() {
            Some(run) if now.since(run.sent_at) < run_time => run.through = zxid,
            Some(_) | None => self.unacked.push_back(Run { through: zxid, sent_at: now }),
        }
    }

    /// Bytes of the stream have left: a learner that takes a long snapshot is alive, though it has
    /// nothing to say (ZOOKEEPER-1697).
    pub fn sent_stream(&mut self, now: Instant) {
        if self.phase == Phase::Syncing {
            self.heard_at = self.heard_at.max(now);
        }
    }

    /// Whether the learner should be given up.
    pub fn overdue(&self, now: Instant) -> Option<Overdue> {
        if now >= self.silence_limit() {
            let handshake = self.phase != Phase::Serving;
            return Some(if handshake { Overdue::Handshake } else { Overdue::Silent });
        }
        let late = self.ack_limit().is_some_and(|at| now >= at);
        late.then_some(Overdue::Unacknowledged { acked: self.acked })
    }

    /// When [`LearnerHandler::overdue`] may have something to say.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let silence = self.silence_limit();
        Some(self.ack_limit().map_or(silence, |at| at.min(silence)))
    }

    fn silence_limit(&self) -> Instant {
        match self.phase {
            Phase::Unknown
            | Phase::Waiting
            | Phase::Informed
            | Phase::Syncing
            | Phase::Flushing
            | Phase::Synced => self.heard_at + self.ticks.init_time(),
            Phase::Serving => self.heard_at + self.ticks.sync_time(),
        }
    }

    /// Only a learner that serves is held to its acknowledgements: before, it is still writing what
    /// the stream held.
    fn ack_limit(&self) -> Option<Instant> {
        let oldest = self.unacked.front().filter(|_| self.phase == Phase::Serving)?;
        Some(oldest.sent_at + self.run_time() + self.ticks.sync_time())
    }

    fn run_time(&self) -> core::time::Duration {
        self.ticks.tick / RUNS_PER_TICK
    }

    const fn expect(&self, packet: &'static str, holds: bool) -> Result<(), ProtocolError> {
        if holds { Ok(()) } else { Err(self.out_of_phase(packet)) }
    }

    const fn out_of_phase(&self, packet: &'static str) -> ProtocolError {
        let expected = match self.phase {
            Phase::Unknown => "FOLLOWERINFO or OBSERVERINFO",
            Phase::Waiting => "nothing before LEADERINFO",
            Phase::Informed => "ACKEPOCH",
            Phase::Syncing => "nothing but PING before NEWLEADER",
            Phase::Flushing => "the acknowledgement of NEWLEADER",
            Phase::Synced => "acknowledgements before UPTODATE",
            Phase::Serving => "broadcast packets",
        };
        ProtocolError::OutOfPhase { packet, expected }
    }

    /// The learner holds it since NEWLEADER, and says so again.
    const fn ignore_ack_of_stream(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TICKS, at, z};
    use crate::{Epoch, ServerId, SessionId};
    use core::time::Duration;

    fn ack(zxid: Zxid) -> ToLeader<()> {
        ToLeader::Ack { zxid }
    }

    fn info() -> ToLeader<()> {
        ToLeader::FollowerInfo { sid: ServerId(1), accepted_epoch: Epoch::ZERO }
    }

    fn promise() -> ToLeader<()> {
        ToLeader::AckEpoch { current_epoch: None, last_zxid: Zxid::ZERO }
    }

    /// A handler in each phase; the stream held 2/1 and 2/2.
    fn in_phase(phase: Phase) -> LearnerHandler {
        let mut handler = LearnerHandler::new(at(0), TICKS);
        let steps: [fn(&mut LearnerHandler); 6] = [
            |handler| handler.admit(at(0), &info()).expect("the first packet"),
            LearnerHandler::sent_leader_info,
            |handler| handler.admit(at(0), &promise()).expect("the answer"),
            |handler| {
                handler.sent_proposal(at(0), z(2, 1));
                handler.sent_proposal(at(0), z(2, 2));
                handler.sent_new_leader(z(2, 0));
            },
            |handler| handler.admit(at(0), &ack(z(2, 0))).expect("NEWLEADER is acknowledged"),
            LearnerHandler::sent_up_to_date,
        ];
        for step in steps {
            if handler.phase == phase {
                break;
            }
            step(&mut handler);
        }
        assert_eq!(handler.phase, phase);
        handler
    }

    const PHASES: [Phase; 7] = [
        Phase::Unknown,
        Phase::Waiting,
        Phase::Informed,
        Phase::Syncing,
        Phase::Flushing,
        Phase::Synced,
        Phase::Serving,
    ];

    #[test]
    fn each_phase_admits_its_packets_and_no_others() {
        for phase in PHASES {
            let admitted = match phase {
                Phase::Unknown => "info",
                Phase::Waiting => "",
                Phase::Informed => "promise",
                Phase::Syncing => "ping",
                Phase::Flushing | Phase::Synced => "ack ping",
                Phase::Serving => "ack ping request revalidate",
            };
            let timeout = Duration::from_secs(1);
            let packets = [
                ("info", info()),
                ("promise", promise()),
                ("ack", ack(z(2, 0))),
                ("ping", ToLeader::Ping { round: 1, touched: () }),
                ("request", ToLeader::Request(())),
                ("revalidate", ToLeader::Revalidate { session: SessionId(1), timeout }),
            ];
            for (name, packet) in packets {
                let handled = in_phase(phase).admit(at(0), &packet);
                let expected = admitted.split(' ').any(|word| word == name);
                assert_eq!(handled.is_ok(), expected, "{name} while {phase:?}: {handled:?}");
            }
        }
    }

    #[test]
    fn acknowledgements_of_the_stream_say_nothing_and_later_ones_only_rise() {
        let mut handler = in_phase(Phase::Flushing);
        handler.admit(at(0), &ack(z(2, 2))).expect("Java acknowledges the stream");
        assert_eq!(handler.acked, Zxid::ZERO);
        assert_eq!(handler.phase, Phase::Flushing);
        handler.admit(at(0), &ack(z(2, 0))).expect("NEWLEADER");
        assert_eq!(handler.phase, Phase::Synced);
        handler.sent_up_to_date();
        handler.admit(at(0), &ack(z(2, 0))).expect("Java acknowledges NEWLEADER twice");
        for counter in 3..=5 {
            handler.sent_proposal(at(0), z(2, counter));
        }
        handler.admit(at(0), &ack(z(2, 4))).expect("it was sent");
        handler.admit(at(0), &ack(z(2, 4))).expect("a repetition");
        let (acked, got) = (z(2, 4), z(2, 3));
        assert_eq!(handler.admit(at(0), &ack(got)), Err(ProtocolError::AckWentBack { acked, got }));
        let (proposed, got) = (z(2, 5), z(2, 6));
        assert_eq!(
            handler.admit(at(0), &ack(got)),
            Err(ProtocolError::BeyondProposed { proposed, got })
        );
        assert_eq!(handler.acked, z(2, 4));
    }

    #[test]
    fn silence_is_measured_by_init_limit_until_uptodate_and_by_sync_limit_after() {
        for phase in PHASES {
            let handler = in_phase(phase);
            let (limit, overdue) = match phase {
                Phase::Unknown
                | Phase::Waiting
                | Phase::Informed
                | Phase::Syncing
                | Phase::Flushing
                | Phase::Synced => (2000, Overdue::Handshake),
                Phase::Serving => (1000, Overdue::Silent),
            };
            assert_eq!(handler.poll_timeout(), Some(at(limit)));
            assert_eq!(handler.overdue(at(limit - 1)), None);
            assert_eq!(handler.overdue(at(limit)), Some(overdue), "{phase:?}");
        }
    }

    #[test]
    fn a_long_stream_that_moves_is_life() {
        let mut handler = in_phase(Phase::Syncing);
        handler.sent_stream(at(1900));
        assert_eq!(handler.overdue(at(3800)), None);
    }

    #[test]
    fn a_follower_that_answers_but_does_not_acknowledge_is_overdue_and_an_observer_is_not() {
        let ping = ToLeader::Ping { round: 1, touched: () };
        let mut handler = in_phase(Phase::Serving);
        handler.sent_proposal(at(0), z(2, 3));
        handler.sent_proposal(at(500), z(2, 4));
        handler.admit(at(900), &ack(z(2, 3))).expect("it was sent");
        handler.admit(at(1500), &ping).expect("it lives");
        assert_eq!(handler.overdue(at(1549)), None);
        let acked = z(2, 3);
        assert_eq!(handler.overdue(at(1550)), Some(Overdue::Unacknowledged { acked }));
        handler.admit(at(1550), &ack(z(2, 4))).expect("it was sent");
        assert_eq!(handler.overdue(at(1551)), None);

        let mut handler = in_phase(Phase::Serving);
        handler.acknowledges = false;
        handler.sent_proposal(at(0), z(2, 3));
        handler.admit(at(1500), &ping).expect("it lives");
        assert_eq!(handler.overdue(at(1600)), None);
    }

    #[test]
    fn a_flood_of_proposals_is_remembered_in_few_runs() {
        let mut handler = in_phase(Phase::Serving);
        for counter in 3..10_003 {
            handler.sent_proposal(at(u64::from(counter) / 10), z(2, counter));
        }
        assert!(handler.unacked.len() <= 21, "{} runs", handler.unacked.len());
    }
}
