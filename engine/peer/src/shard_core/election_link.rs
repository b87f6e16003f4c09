//! Election links: one to every peer for our notifications, one from every peer for theirs.
//!
//! Only the newest notification for a peer matters (`quorum.md` 5.4), so a link that is down keeps
//! one.

use alloc::string::ToString;
use core::time::Duration;

use quorate_proto::election::{Notification, PeerState, Vote};
use quorate_proto::{Instant, ServerId};
use quorate_tree::hash::IdMap;
use quorate_wire::Frame;
use quorate_wire::native::hello::{Purpose, Status, Welcome};
use quorate_wire::native::notification::{WireNotification, WireState};

use super::{Fault, Kind, PEER_HELLO_TIME, ShardConfig, ShardCore};
use crate::links::{ConnKey, NetOp, Port, ToQuorum};

/// The first pause before a peer is tried again.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest pause; seconds, not a minute (R29).
const RETRY_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Link {
    state: State,
    pause: Duration,
    pending: Option<Notification>,
}

#[derive(Debug)]
enum State {
    Down { retry: Instant },
    Connecting { token: u64 },
    Greeting { conn: ConnKey, deadline: Instant },
    Up { conn: ConnKey },
}

#[derive(Debug)]
pub(super) struct ElectionLinks {
    links: IdMap<ServerId, Link>,
    serves: bool,
}

impl ElectionLinks {
    /// Links to every voter from the start; to observers when there is something to say.
    pub(super) fn new(config: &ShardConfig) -> Self {
        let serves = config.index == 0;
        let mut links = IdMap::default();
        if serves {
            for sid in config.membership.voters() {
                if *sid != config.sid {
                    links.insert(*sid, Link::down(Instant::ZERO));
                }
            }
        }
        Self { links, serves }
    }

    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.links
            .values()
            .filter_map(|link| match link.state {
                State::Down { retry } => Some(retry),
                // A peer that takes the connection and says nothing may be stopped.
                State::Greeting { deadline, .. } => Some(deadline),
                State::Connecting { .. } | State::Up { .. } => None,
            })
            .min()
    }

    pub(super) fn closed(&mut self, now: Instant, sid: ServerId) {
        if let Some(link) = self.links.get_mut(&sid) {
            link.fall(now);
        }
    }

    pub(super) fn connect_failed(&mut self, now: Instant, token: u64) {
        for link in self.links.values_mut() {
            if matches!(link.state, State::Connecting { token: ours } if ours == token) {
                link.fall(now);
            }
        }
    }
}

impl Link {
    const fn down(retry: Instant) -> Self {
        Self { state: State::Down { retry }, pause: RETRY_MIN, pending: None }
    }

    fn fall(&mut self, now: Instant) {
        self.state = State::Down { retry: now + self.pause };
        self.pause = (self.pause * 2).min(RETRY_MAX);
    }
}

impl ShardCore {
    pub(super) fn election_timeout(&mut self, now: Instant) {
        let due: alloc::vec::Vec<ServerId> = self
            .elections
            .links
            .iter()
            .filter(|(_, link)| matches!(link.state, State::Down { retry } if retry <= now))
            .map(|(sid, _)| *sid)
            .collect();
        for sid in due {
            self.connect_peer(sid);
        }
        let overdue = self.elections.links.values().find_map(|link| match link.state {
            State::Greeting { conn, deadline } if deadline <= now => Some(conn),
            _ => None,
        });
        if let Some(conn) = overdue {
            let why = "it did not answer our greeting in time".to_string();
            self.fail(now, conn, &Fault::Refused(why));
        }
    }

    fn connect_peer(&mut self, sid: ServerId) {
        let token = self.token();
        if let Some(link) = self.elections.links.get_mut(&sid) {
            link.state = State::Connecting { token };
            self.net(NetOp::Connect { token, to: sid, port: Port::Election });
        }
    }

    pub(super) fn election_connected(&mut self, now: Instant, token: u64, conn: ConnKey) {
        let found = self.elections.links.iter_mut().find(
            |(_, link)| matches!(link.state, State::Connecting { token: ours } if ours == token),
        );
        let Some((sid, link)) = found else {
            self.net(NetOp::Close { conn, flush: false });
            return;
        };
        let sid = *sid;
        link.state = State::Greeting { conn, deadline: now + PEER_HELLO_TIME };
        self.greet(conn, Purpose::Election, |reader| Kind::ElectionOut { reader, sid });
    }

    pub(super) fn election_welcome(
        &mut self,
        now: Instant,
        conn: ConnKey,
        sid: ServerId,
        frame: &Frame,
    ) -> Result<(), Fault> {
        let welcome = Welcome::decode(frame)?;
        if welcome.status != Status::Welcome {
            return Err(Fault::Refused(alloc::format!("it refuses us: {}", welcome.status)));
        }
        if welcome.sid != sid {
            let why = alloc::format!("server {} answers where server {sid} should", welcome.sid);
            return Err(Fault::Refused(why));
        }
        let Some(link) = self.elections.links.get_mut(&sid) else { return Ok(()) };
        link.state = State::Up { conn };
        link.pause = RETRY_MIN;
        let pending = link.pending.take();
        if let Some(notification) = pending {
            self.notify(now, sid, notification);
        }
        self.to_quorum(ToQuorum::PeerUp(sid));
        Ok(())
    }

    pub(super) fn notify(&mut self, now: Instant, to: ServerId, notification: Notification) {
        if !self.elections.serves {
            return;
        }
        let link = self.elections.links.entry(to).or_insert_with(|| Link::down(now));
        if let State::Up { conn } = link.state {
            let wire = WireNotification {
                from: notification.from,
                state: to_wire(notification.state),
                leader: notification.vote.leader,
                zxid: notification.vote.zxid,
                peer_epoch: notification.vote.peer_epoch,
                round: notification.round,
            };
            let frame = self.encode(|out| wire.encode(out));
            self.send_frame(conn, frame);
        } else {
            link.pending = Some(notification);
        }
    }

    pub(super) fn election_frame(&mut self, sid: ServerId, frame: &Frame) -> Result<(), Fault> {
        let wire = WireNotification::decode(frame)?;
        if wire.from != sid {
            return Err(Fault::Refused("it speaks for another server".to_string()));
        }
        self.to_quorum(ToQuorum::Notified(Notification {
            from: wire.from,
            state: from_wire(wire.state),
            vote: Vote { leader: wire.leader, zxid: wire.zxid, peer_epoch: wire.peer_epoch },
            round: wire.round,
        }));
        Ok(())
    }
}

const fn to_wire(state: PeerState) -> WireState {
    match state {
        PeerState::Looking => WireState::Looking,
        PeerState::Following => WireState::Following,
        PeerState::Leading => WireState::Leading,
        PeerState::Observing => WireState::Observing,
    }
}

const fn from_wire(state: WireState) -> PeerState {
    match state {
        WireState::Looking => PeerState::Looking,
        WireState::Following => PeerState::Following,
        WireState::Leading => PeerState::Leading,
        WireState::Observing => PeerState::Observing,
    }
}
