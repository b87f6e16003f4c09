//! A client's connection: four-letter word or session, then requests as long as there is room.
//!
//! Reads a request's header only; its body is the tree core's.

use alloc::boxed::Box;
use alloc::format;

use quorate_proto::Instant;
use quorate_wire::Frame;
use quorate_wire::detect::Detected;
use quorate_wire::jute::client::{ConnectRequest, RequestHeader, XID_PING};
use quorate_wire::jute::opcode;
use quorate_wire::reader::{FrameReader, Framing};

use super::{Fault, Kind, ShardCore};
use crate::admin;
use crate::links::{
    AdminShard, ConnKey, ConnectAttempt, NetOp, RawRequest, ReplyStamps, ToQuorum, ToTree,
};
use crate::timing::Stage;

#[derive(Debug)]
pub(super) struct ClientConn {
    pub(super) reader: FrameReader,
    state: State,
    in_flight: usize,
    paused: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The first bytes decide between a word and a session.
    First {
        deadline: Instant,
    },
    /// An administrator's word is being answered.
    Admin,
    /// The tree core decides on the session; what the client sent meanwhile waits here.
    Opening,
    Open,
}

impl ClientConn {
    pub(super) fn new(frame_max: u32, deadline: Instant) -> Self {
        Self {
            reader: FrameReader::new(Framing::Jute { max: frame_max }),
            state: State::First { deadline },
            in_flight: 0,
            paused: false,
        }
    }

    pub(super) fn proposer(frame_max: u32) -> Self {
        Self {
            reader: FrameReader::new(Framing::Jute { max: frame_max }),
            state: State::Opening,
            in_flight: 0,
            paused: false,
        }
    }

    pub(super) const fn is_stranger(&self) -> bool {
        matches!(self.state, State::First { .. })
    }

    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::First { deadline } => Some(deadline),
            State::Admin | State::Opening | State::Open => None,
        }
    }
}

impl ShardCore {
    fn client(&mut self, conn: ConnKey) -> Option<&mut ClientConn> {
        match self.conns.get_mut(&conn).map(|entry| &mut entry.kind) {
            Some(Kind::Client(client)) => Some(client),
            _ => None,
        }
    }

    pub(super) fn pump_client(&mut self, now: Instant, conn: ConnKey) -> Result<(), Fault> {
        loop {
            let room = self.room;
            let pipeline_max = self.config.limits.pipeline_max;
            let peer = self.conns.get(&conn).and_then(|entry| entry.peer);
            let Some(client) = self.client(conn) else { return Ok(()) };
            match client.state {
                State::First { .. } => {
                    let Some(first) = client.reader.peek4() else { return Ok(()) };
                    if let Some(word) = self.served_word(first) {
                        self.admin_word(conn, word);
                        return Ok(());
                    }
                }
                State::Admin | State::Opening => return Ok(()),
                State::Open if !room || client.in_flight >= pipeline_max => {
                    if !client.paused {
                        client.paused = true;
                        self.net(NetOp::Pause(conn));
                    }
                    return Ok(());
                }
                State::Open => {}
            }
            let Some(client) = self.client(conn) else { return Ok(()) };
            let Some(frame) = client.reader.next_frame()? else { return Ok(()) };
            if client.state == State::Open {
                client.in_flight += 1;
                let (RequestHeader { xid, opcode }, _) = RequestHeader::decode(&frame)?;
                let body = frame.slice(RequestHeader::LEN..);
                self.to_tree(ToTree::Request(conn, RawRequest { xid, opcode, body, at: now }));
                continue;
            }
            if self.draining {
                self.close_client(conn, None);
                return Ok(());
            }
            if frame.len() > self.config.limits.connect_frame_max as usize {
                let why = format!("a first frame of {} bytes", frame.len());
                return Err(Fault::Refused(why));
            }
            let request = ConnectRequest::decode(&frame)?;
            let attempt = ConnectAttempt {
                last_zxid_seen: request.last_zxid_seen,
                timeout_ms: request.timeout_ms,
                session: request.session,
                password: request.password.into(),
                has_read_only: request.read_only.is_some(),
                peer,
            };
            if let Some(client) = self.client(conn) {
                client.state = State::Opening;
                self.strangers -= 1;
            }
            self.to_tree(ToTree::Connect(conn, Box::new(attempt)));
        }
    }

    /// A ping in the client's name; its answer goes the usual way.
    pub(super) fn touch_client(&mut self, now: Instant, conn: ConnKey) {
        let Some(client) = self.client(conn) else { return };
        if client.state == State::Open {
            client.in_flight += 1;
            let (xid, opcode) = (XID_PING, opcode::PING);
            let ping = RawRequest { xid, opcode, body: Frame::default(), at: now };
            self.to_tree(ToTree::Request(conn, ping));
        }
    }

    /// The word that the first bytes are, if it is answered here; anything else is a length.
    fn served_word(&self, first: [u8; 4]) -> Option<[u8; 4]> {
        match Detected::detect(&first) {
            Detected::FourLetterWord(word)
                if admin::is_served(word) && self.config.words.allow(word) =>
            {
                Some(word)
            }
            Detected::FourLetterWord(_) | Detected::Jute | Detected::Native => None,
        }
    }

    fn admin_word(&mut self, conn: ConnKey, word: [u8; 4]) {
        if let Some(client) = self.client(conn) {
            client.state = State::Admin;
            self.strangers -= 1;
        }
        let shard = AdminShard { connections: self.clients };
        self.to_quorum(ToQuorum::Admin(conn, word, shard));
    }

    pub(super) fn session_open(&mut self, now: Instant, conn: ConnKey, frame: Frame) {
        let Some(client) = self.client(conn) else { return };
        client.state = State::Open;
        if !frame.is_empty() {
            self.send_frame(conn, frame);
        }
        self.pump_or_fail(now, conn);
    }

    fn pump_or_fail(&mut self, now: Instant, conn: ConnKey) {
        if let Err(fault) = self.pump_client(now, conn) {
            self.fail(now, conn, &fault);
        }
    }

    pub(super) fn reply(&mut self, now: Instant, conn: ConnKey, frame: Frame, stamps: ReplyStamps) {
        let room = self.room;
        let resume_below = self.config.limits.pipeline_max / 2;
        let Some(client) = self.client(conn) else { return };
        client.in_flight = client.in_flight.saturating_sub(1);
        let resumes = client.paused && room && client.in_flight <= resume_below;
        if let Some(applied) = stamps.applied {
            self.timings.note(Stage::Replied, applied, now);
            self.timings.note(Stage::EndToEnd, stamps.received, now);
        }
        self.send_frame(conn, frame);
        if resumes {
            self.resume_client(now, conn);
        }
    }

    fn resume_client(&mut self, now: Instant, conn: ConnKey) {
        let Some(client) = self.client(conn) else { return };
        client.paused = false;
        self.net(NetOp::Resume(conn));
        self.pump_or_fail(now, conn);
    }

    pub(super) fn set_room(&mut self, now: Instant, room: bool) {
        self.room = room && !self.draining;
        if !self.room {
            return;
        }
        let paused: alloc::vec::Vec<ConnKey> = self
            .conns
            .iter()
            .filter(|(_, entry)| matches!(&entry.kind, Kind::Client(client) if client.paused))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in paused {
            self.resume_client(now, conn);
        }
    }

    /// The tree core has already forgotten this client.
    pub(super) fn close_client(&mut self, conn: ConnKey, frame: Option<Frame>) {
        let Some(entry) = self.conns.remove(&conn) else { return };
        if let Kind::Client(client) = &entry.kind {
            self.uncount(client);
        }
        if let Some(frame) = frame {
            self.send_frame(conn, frame);
        }
        self.net(NetOp::Close { conn, flush: true });
    }
}
