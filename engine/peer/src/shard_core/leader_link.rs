//! The link to the leader: Hello, Welcome, then the learner's packets both ways.
//!
//! Judges no packet: that is the learner's business, in the quorum core.

use alloc::format;

use quorate_proto::{Instant, ServerId, ToLeader};
use quorate_wire::Frame;
use quorate_wire::native::hello::{Purpose, Status, Welcome};
use quorate_wire::native::packet::{decode_to_learner, encode_to_leader};
use quorate_wire::reader::{FrameReader, Framing};

use super::{Conn, Fault, Kind, ShardCore};
use crate::links::{ConnKey, NetOp, Port, ToQuorum};

#[derive(Debug)]
pub(super) struct LeaderLink {
    pub(super) reader: FrameReader,
    sid: ServerId,
    welcomed: bool,
}

/// Where the link to the leader stands; a shard other than the one chosen has none.
#[derive(Debug, Default)]
pub(super) enum LeaderSeat {
    #[default]
    None,
    Connecting { token: u64, sid: ServerId },
    Connected { conn: ConnKey },
}

impl LeaderSeat {
    pub(super) fn closed(&mut self, closed: ConnKey) {
        if matches!(self, Self::Connected { conn } if *conn == closed) {
            *self = Self::None;
        }
    }

    /// Whether the failed attempt was ours.
    pub(super) fn failed(&mut self, failed: u64) -> bool {
        let ours = matches!(self, Self::Connecting { token, .. } if *token == failed);
        if ours {
            *self = Self::None;
        }
        ours
    }
}

impl ShardCore {
    pub(super) fn connect_leader(&mut self, sid: ServerId) {
        if self.config.index != 0 {
            return;
        }
        self.drop_leader();
        let token = self.token();
        self.leader = LeaderSeat::Connecting { token, sid };
        self.net(NetOp::Connect { token, to: sid, port: Port::Quorum });
    }

    pub(super) fn drop_leader(&mut self) {
        if let LeaderSeat::Connected { conn } = self.leader {
            self.conns.remove(&conn);
            self.net(NetOp::Close { conn, flush: false });
        }
        self.leader = LeaderSeat::None;
    }

    /// Whether the new connection is the one to the leader.
    pub(super) fn leader_connected(&mut self, token: u64, conn: ConnKey) -> bool {
        let LeaderSeat::Connecting { token: ours, sid } = self.leader else { return false };
        if ours != token {
            return false;
        }
        self.leader = LeaderSeat::Connected { conn };
        let body_max = self.config.limits.body_max;
        let reader = FrameReader::new(Framing::Native { body_max });
        let kind = Kind::Leader(LeaderLink { reader, sid, welcomed: false });
        self.conns.insert(conn, Conn { peer: None, kind });
        let hello = self.hello(Purpose::Learner);
        let frame = self.encode(|out| hello.encode(out));
        self.send_frame(conn, frame);
        true
    }

    pub(super) fn leader_frame(
        &mut self,
        _now: Instant,
        conn: ConnKey,
        frame: &Frame,
    ) -> Result<(), Fault> {
        let Some(Kind::Leader(link)) = self.conns.get_mut(&conn).map(|entry| &mut entry.kind)
        else {
            return Ok(());
        };
        if link.welcomed {
            let packet = decode_to_learner(frame)?;
            self.to_quorum(ToQuorum::FromLeader(packet));
            return Ok(());
        }
        let welcome = Welcome::decode(frame)?;
        if welcome.status == Status::NotLeading {
            // It will lead in a moment, or somebody else will: the quorum core tries again.
            self.drop_leader();
            self.to_quorum(ToQuorum::LeaderDown(format!("server {} does not lead", welcome.sid)));
            return Ok(());
        }
        if welcome.status != Status::Welcome {
            return Err(Fault::Refused(format!("it refuses us: {}", welcome.status)));
        }
        if welcome.sid != link.sid {
            let why = format!("server {} answers where server {} should", welcome.sid, link.sid);
            return Err(Fault::Refused(why));
        }
        link.welcomed = true;
        self.to_quorum(ToQuorum::LeaderUp);
        Ok(())
    }

    pub(super) fn to_leader(&mut self, packet: &ToLeader<Frame>) {
        if let LeaderSeat::Connected { conn } = self.leader {
            let frame = self.encode(|out| encode_to_leader(packet, out));
            self.send_frame(conn, frame);
        }
    }

    /// The disk must catch up with a snapshot that the leader sends, or has caught up.
    pub(super) fn set_leader_room(&mut self, room: bool) {
        if let LeaderSeat::Connected { conn } = self.leader {
            self.net(if room { NetOp::Resume(conn) } else { NetOp::Pause(conn) });
        }
    }
}
