//! The link to the leader: Hello, Welcome, then the learner's packets both ways.
//!
//! Judges no packet but the form of its transaction: the rest is the learner's business, in the quorum
//! core.

use alloc::format;

use quorate_proto::{ServerId, ToLeader, ToLearner};
use quorate_wire::Frame;
use quorate_wire::jute::txn::{HEADER_LEN, decode_header};
use quorate_wire::native::hello::{Purpose, Status, Welcome};
use quorate_wire::native::packet::{
    decode_to_learner, encode_to_leader, proposal_body, proposal_committed,
};
use quorate_wire::reader::FrameReader;

use super::{Fault, Kind, ShardCore};
use crate::links::{ConnKey, LINK_SHARD, NetOp, Port, Term, ToQuorum};

#[derive(Debug)]
pub(super) struct LeaderLink {
    pub(super) reader: FrameReader,
    sid: ServerId,
    pub(super) term: Term,
    welcomed: bool,
}

/// Where the link to the leader stands; a shard other than the one chosen has none.
#[derive(Debug, Default)]
pub(super) enum LeaderSeat {
    #[default]
    None,
    Connecting {
        token: u64,
        sid: ServerId,
        term: Term,
    },
    Connected {
        conn: ConnKey,
        term: Term,
    },
}

impl LeaderSeat {
    pub(super) fn closed(&mut self, closed: ConnKey) {
        if matches!(self, Self::Connected { conn, .. } if *conn == closed) {
            *self = Self::None;
        }
    }

    /// The term whose attempt has failed, if this was the one.
    pub(super) fn failed(&mut self, failed: u64) -> Option<Term> {
        match *self {
            Self::Connecting { token, term, .. } if token == failed => {
                *self = Self::None;
                Some(term)
            }
            Self::None | Self::Connecting { .. } | Self::Connected { .. } => None,
        }
    }
}

impl ShardCore {
    pub(super) fn connect_leader(&mut self, sid: ServerId, term: Term) {
        if self.config.index != LINK_SHARD {
            return;
        }
        self.drop_leader();
        let token = self.token();
        self.leader = LeaderSeat::Connecting { token, sid, term };
        self.net(NetOp::Connect { token, to: sid, port: Port::Quorum });
    }

    pub(super) fn drop_leader(&mut self) {
        if let LeaderSeat::Connected { conn, .. } = self.leader {
            self.conns.remove(&conn);
            self.net(NetOp::Close { conn, flush: false });
        }
        self.leader = LeaderSeat::None;
    }

    /// Whether the new connection is the one to the leader.
    pub(super) fn leader_connected(&mut self, token: u64, conn: ConnKey) -> bool {
        let LeaderSeat::Connecting { token: ours, sid, term } = self.leader else { return false };
        if ours != token {
            return false;
        }
        self.leader = LeaderSeat::Connected { conn, term };
        self.greet(conn, Purpose::Learner, |reader| {
            Kind::Leader(LeaderLink { reader, sid, term, welcomed: false })
        });
        true
    }

    pub(super) fn leader_frame(&mut self, conn: ConnKey, frame: &Frame) -> Result<(), Fault> {
        let Some(Kind::Leader(link)) = self.conns.get_mut(&conn).map(|entry| &mut entry.kind)
        else {
            return Ok(());
        };
        let term = link.term;
        if link.welcomed {
            let packet = decode_to_learner(frame)?;
            self.judge_transaction(&packet)?;
            self.to_quorum(ToQuorum::FromLeader(term, packet));
            return Ok(());
        }
        let welcome = Welcome::decode(frame)?;
        if welcome.status == Status::NotLeading {
            // It will lead in a moment, or somebody else will: the quorum core tries again.
            self.drop_leader();
            let why = format!("server {} does not lead", welcome.sid);
            self.to_quorum(ToQuorum::LeaderDown(term, why));
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
        self.to_quorum(ToQuorum::LeaderUp(term));
        Ok(())
    }

    /// A transaction must be one that this server can apply: it is logged before it is looked into,
    /// and there it could only stop the server (R28, R39).
    fn judge_transaction(&self, packet: &ToLearner<Frame>) -> Result<(), Fault> {
        let (ToLearner::Proposal { zxid, txn, .. } | ToLearner::Inform { zxid, txn }) = packet
        else {
            return Ok(());
        };
        let body = proposal_body(txn);
        let header = decode_header(body)?;
        if header.zxid != *zxid || proposal_committed(txn) > *zxid {
            return Err(Fault::Refused(format!("transaction {zxid} contradicts its header")));
        }
        let record = body.get(HEADER_LEN..).unwrap_or_default();
        (self.judge)(header.kind, record)
            .map_err(|why| Fault::Refused(format!("transaction {zxid} cannot be applied: {why}")))
    }

    /// Sends a packet, if the link is still that of its term.
    pub(super) fn to_leader(&mut self, of: Term, packet: &ToLeader<Frame>) {
        if let LeaderSeat::Connected { conn, term } = self.leader
            && term == of
        {
            let frame = self.encode(|out| encode_to_leader(packet, out));
            self.send_frame(conn, frame);
        }
    }

    /// The disk must catch up with a snapshot that the leader sends, or has caught up.
    pub(super) fn set_leader_room(&mut self, room: bool) {
        if let LeaderSeat::Connected { conn, .. } = self.leader {
            self.net(if room { NetOp::Resume(conn) } else { NetOp::Pause(conn) });
        }
    }
}
