//! Clients of this server: their sessions, and their requests in order.
//!
//! A session's requests take effect and are answered in the order sent (R37): what cannot be
//! answered yet is parked, and everything behind it waits.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::BytesMut;
use quorate_proto::{Instant, SessionId, ToLeader, Zxid};
use quorate_tree::ErrorCode;
use quorate_tree::acl::Id;
use quorate_tree::session::{password, password_matches};
use quorate_tree::txn::TxnHeader;
use quorate_wire::Frame;
use quorate_wire::jute::client as jute;
use quorate_wire::jute::opcode;
use quorate_wire::native::request::{ForwardedRequest, Touches};

use super::leading::{Owner, Submission};
use super::{Mode, TreeCore};
use crate::block;
use crate::links::{ConnKey, ConnectAttempt, RawRequest, ReplyStamps, Term, ToQuorum, ToShard};
use crate::machine::{Query, RequestClass, SessionChange, StateMachine, millis};
use crate::notice::Level;

/// More than a touched session takes in the answer to a PING, bytes.
const TOUCH_LEN_MAX: usize = 16;

/// A client's connection as the tree core sees it.
#[derive(Debug)]
pub(super) struct Client {
    session: SessionId,
    timeout: Duration,
    state: State,
    ids: Vec<Id>,
    has_read_only: bool,
    parked: VecDeque<Parked>,
    /// Parked syncs that are not answered, and writes that they hold back.
    syncs: usize,
    behind: usize,
    /// Transactions up to here cannot be this connection's: they were proposed before it had the
    /// session. Clients begin their numbers anew with each connection.
    open_after: Zxid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits for its createSession.
    Opening,
    /// Waits for the leader's word on its session.
    Revalidating,
    Open,
    /// Proposes for the embedding process, without a session.
    Proposer,
    /// Has sent closeSession.
    Closing,
}

#[derive(Debug)]
struct Parked {
    request: RawRequest,
    wait: Wait,
}

#[derive(Debug)]
enum Wait {
    /// For its transaction.
    Commit,
    /// For the confirmation of a sync.
    Sync,
    /// For the answer of a sync before it, and then for this: a read between the two must not see a
    /// write that was sent after it.
    Behind(Held),
    /// For its turn only.
    Turn,
    /// For its turn, with the answer ready.
    Answered { reply: Frame, applied: Option<Instant> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Write,
    Sync,
}

impl Client {
    pub(super) fn is_quiet(&self) -> bool {
        self.parked.is_empty()
    }
}

impl<M: StateMachine> TreeCore<M> {
    /// Clamps a time-out into the configured range.
    fn granted(&self, timeout_ms: i32) -> Duration {
        millis(timeout_ms).clamp(self.config.session_timeout_min, self.config.session_timeout_max)
    }

    // --- sessions ------------------------------------------------------------------------------

    pub(super) fn connect(&mut self, now: Instant, conn: ConnKey, attempt: ConnectAttempt) {
        if !self.is_serving() || attempt.last_zxid_seen > self.applied {
            // The client tries the next server; a server that is behind what it has seen must not
            // take it back in time (R34).
            return self.close(conn, None);
        }
        let timeout = self.granted(attempt.timeout_ms);
        let mut ids = Vec::new();
        if let Some(peer) = attempt.peer {
            let text = format!("{}", peer.ip());
            ids.push(Id { scheme: Box::from(&b"ip"[..]), id: text.into_bytes().into() });
        }
        let mut client = Client {
            session: attempt.session,
            timeout,
            state: State::Opening,
            ids,
            has_read_only: attempt.has_read_only,
            parked: VecDeque::new(),
            syncs: 0,
            behind: 0,
            open_after: self.last_staged(),
        };
        if attempt.session == SessionId(0) {
            client.session = self.session_ids.next(self.wall_ms(now));
            self.by_session.insert(client.session, conn);
            self.clients.insert(conn, client);
            let timeout_ms = timeout.as_millis() as i32;
            let body = Frame::copy_from(&timeout_ms.to_be_bytes());
            let request = RawRequest { xid: 0, opcode: opcode::CREATE_SESSION, body, at: now };
            return self.order(now, conn, request);
        }
        // The password first, and nothing done to the present connection before (R33).
        if !password_matches(attempt.session, &attempt.password) {
            return self.refuse_session(conn, attempt.has_read_only);
        }
        client.state = State::Revalidating;
        let session = attempt.session;
        self.clients.insert(conn, client);
        match self.mode {
            Mode::Idle => {}
            Mode::Leading(_) => {
                self.close_outdated(session);
                self.revalidating.push_back((session, conn));
                self.submit_revalidate(now, Owner::Local, conn, session);
            }
            Mode::Following(term) => {
                self.close_outdated(session);
                self.revalidating.push_back((session, conn));
                let packet = ToLeader::Revalidate { session, timeout };
                self.to_leader(term, packet);
            }
        }
    }

    pub(super) fn connect_proposer(&mut self, now: Instant, conn: ConnKey) {
        if !self.is_serving() {
            return self.close(conn, None);
        }
        let session = self.session_ids.next(self.wall_ms(now));
        let client = Client {
            session,
            timeout: Duration::ZERO,
            state: State::Proposer,
            ids: Vec::new(),
            has_read_only: false,
            parked: VecDeque::new(),
            syncs: 0,
            behind: 0,
            open_after: Zxid::ZERO,
        };
        self.by_session.insert(session, conn);
        self.clients.insert(conn, client);
        self.to_shard(conn, ToShard::SessionOpen(conn, Frame::default()));
    }

    pub(super) fn handle_revalidated(&mut self, session: SessionId, valid: bool) {
        // Answers about one session come in the order of its questions, those of connections that
        // have gone meanwhile included.
        if let Some(at) = self.revalidating.iter().position(|(asked, _)| *asked == session)
            && let Some((_, conn)) = self.revalidating.remove(at)
        {
            self.attach(conn, valid);
        }
    }

    /// The answer to a re-attachment is known.
    pub(super) fn attach(&mut self, conn: ConnKey, valid: bool) {
        self.revalidating.retain(|(_, asked)| *asked != conn);
        let open_after = self.last_staged();
        let Some(client) = self.clients.get_mut(&conn) else { return };
        if client.state != State::Revalidating {
            return;
        }
        let (session, timeout, has_read_only) =
            (client.session, client.timeout, client.has_read_only);
        if !valid {
            return self.refuse_session(conn, has_read_only);
        }
        client.state = State::Open;
        client.open_after = open_after;
        self.close_moved(session, Some(conn));
        self.by_session.insert(session, conn);
        self.open(conn, session, timeout, has_read_only);
    }

    fn open(&mut self, conn: ConnKey, session: SessionId, timeout: Duration, read_only: bool) {
        let secret = password(session);
        let timeout_ms = timeout.as_millis() as i32;
        let frame = self.encode(|out| {
            jute::encode_connect_response(timeout_ms, session, &secret, read_only, out);
        });
        self.to_shard(conn, ToShard::SessionOpen(conn, frame));
    }

    /// Tells a client that its session is gone, or that its password is wrong; the two look alike.
    fn refuse_session(&mut self, conn: ConnKey, read_only: bool) {
        let frame = self.encode(|out| {
            jute::encode_connect_response(0, SessionId(0), &[0; 16], read_only, out);
        });
        self.close(conn, Some(frame));
    }

    /// Closes the connection that a session had before it moved to `to`.
    pub(super) fn close_moved(&mut self, session: SessionId, to: Option<ConnKey>) {
        if let Some(old) = self.by_session.get(&session).copied()
            && Some(old) != to
        {
            self.close(old, None);
        }
    }

    /// Closes every other connection of a session that re-attaches here. To the leader all of them are
    /// this server, so nothing that an old one still says may follow the question: the new one numbers
    /// its requests anew, and would be given the old one's answers.
    fn close_outdated(&mut self, session: SessionId) {
        self.close_moved(session, None);
        for at in 0..self.revalidating.len() {
            let (asked, conn) = self.revalidating[at];
            if asked == session && self.clients.contains_key(&conn) {
                self.close(conn, None);
            }
        }
    }

    /// The session has ended by its transaction: an open connection is closed without a frame.
    pub(super) fn close_session_of(&mut self, session: SessionId) {
        let Some(conn) = self.by_session.get(&session).copied() else { return };
        let answers_later = self
            .clients
            .get(&conn)
            .is_some_and(|client| client.state == State::Closing && !client.parked.is_empty());
        if !answers_later {
            self.close(conn, None);
        }
    }

    /// Forgets a client and closes its connection, after a last frame.
    fn close(&mut self, conn: ConnKey, last: Option<Frame>) {
        self.forget(conn);
        self.to_shard(conn, ToShard::CloseClient(conn, last));
    }

    pub(super) fn forget(&mut self, conn: ConnKey) {
        if let Some(client) = self.clients.remove(&conn)
            && self.by_session.get(&client.session) == Some(&conn)
        {
            self.by_session.remove(&client.session);
        }
        self.machine.connection_gone(conn);
    }

    /// This server does not serve any more: every client goes elsewhere.
    pub(super) fn drop_clients(&mut self) {
        let conns: Vec<ConnKey> = self.clients.keys().copied().collect();
        for conn in conns {
            self.close(conn, None);
        }
    }

    // --- requests ------------------------------------------------------------------------------

    pub(super) fn request(&mut self, now: Instant, conn: ConnKey, request: RawRequest) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let (session, timeout, state) = (client.session, client.timeout, client.state);
        match (state, request.opcode) {
            // A request behind closeSession is not answered; the others wait at the shard.
            (State::Closing | State::Opening | State::Revalidating, _) => return,
            (State::Open, opcode::AUTH) => return self.handle_auth(conn, &request),
            (State::Open, opcode::PING) => {
                self.touch(now, session, timeout);
                return self.answer(conn, jute::XID_PING, 0, request.at);
            }
            (State::Open, _) => self.touch(now, session, timeout),
            (State::Proposer, _) => {}
        }
        match self.machine.classify(request.opcode) {
            RequestClass::Read => self.read(conn, request),
            RequestClass::Write => self.park(now, conn, request, Wait::Commit),
            RequestClass::Sync => self.park(now, conn, request, Wait::Sync),
            RequestClass::Close if state == State::Open => {
                if let Some(client) = self.clients.get_mut(&conn) {
                    client.state = State::Closing;
                }
                self.park(now, conn, request, Wait::Commit);
            }
            RequestClass::Close | RequestClass::Unknown => self.refuse_opcode(conn, &request),
        }
    }

    fn touch(&mut self, now: Instant, session: SessionId, timeout: Duration) {
        match self.mode {
            Mode::Leading(_) => self.touch_local(now, session),
            Mode::Following(_) => {
                self.touched.insert(session, timeout);
            }
            Mode::Idle => {}
        }
    }

    /// A reply without a body.
    fn answer(&mut self, conn: ConnKey, xid: i32, err: i32, received: Instant) {
        let applied = self.applied.as_u64() as i64;
        let frame = self.encode(|out| jute::encode_reply_header(xid, applied, err, out));
        let stamps = ReplyStamps { received, applied: None };
        self.to_shard(conn, ToShard::Reply(conn, frame, stamps));
    }

    fn refuse_opcode(&mut self, conn: ConnKey, request: &RawRequest) {
        let err = ErrorCode::Unimplemented.code();
        let frame = self.encode(|out| jute::encode_reply_header(request.xid, -1, err, out));
        self.close(conn, Some(frame));
        self.notice(
            Level::Warn,
            format!("client sent operation {}, which is not known; closed", request.opcode),
        );
    }

    /// Only the `ip` scheme, which every connection has from the start, is served so far.
    fn handle_auth(&mut self, conn: ConnKey, request: &RawRequest) {
        let accepted = jute::decode_auth(&request.body).is_ok_and(|auth| auth.scheme == b"ip");
        let err = if accepted { 0 } else { ErrorCode::AuthFailed.code() };
        let frame = self.encode(|out| jute::encode_reply_header(request.xid, 0, err, out));
        if accepted {
            let stamps = ReplyStamps { received: request.at, applied: None };
            self.to_shard(conn, ToShard::Reply(conn, frame, stamps));
        } else {
            self.close(conn, Some(frame));
        }
    }

    fn read(&mut self, conn: ConnKey, request: RawRequest) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        if client.parked.is_empty() {
            self.answer_read(conn, &request);
        } else {
            client.parked.push_back(Parked { request, wait: Wait::Turn });
        }
    }

    fn answer_read(&mut self, conn: ConnKey, request: &RawRequest) {
        let Some(client) = self.clients.get(&conn) else { return };
        let query = Query {
            conn,
            session: client.session,
            xid: request.xid,
            opcode: request.opcode,
            ids: &client.ids,
            body: &request.body,
        };
        let frame = block::frame(&mut self.replies, |out| {
            self.machine.query(&query, self.applied, &mut self.events, out);
        });
        self.send_events();
        let stamps = ReplyStamps { received: request.at, applied: None };
        self.to_shard(conn, ToShard::Reply(conn, frame, stamps));
    }

    /// Parks a write or a sync and hands it to whoever orders it.
    fn park(&mut self, now: Instant, conn: ConnKey, request: RawRequest, wait: Wait) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let is_sync = matches!(wait, Wait::Sync);
        if client.behind > 0 || (client.syncs > 0 && !is_sync) {
            client.behind += 1;
            let held = if is_sync { Held::Sync } else { Held::Write };
            client.parked.push_back(Parked { request, wait: Wait::Behind(held) });
            return;
        }
        client.syncs += usize::from(is_sync);
        client.parked.push_back(Parked { request: request.clone(), wait });
        self.hand_on(now, conn, request, is_sync);
    }

    /// Hands a parked write or sync to whoever orders it.
    fn hand_on(&mut self, now: Instant, conn: ConnKey, request: RawRequest, is_sync: bool) {
        if is_sync && matches!(self.mode, Mode::Leading(_)) {
            self.submit_local_sync(conn, request.xid);
        } else {
            self.order(now, conn, request);
        }
    }

    /// Hands a request to the leader: to this server's own preparation, or over the link.
    fn order(&mut self, now: Instant, conn: ConnKey, request: RawRequest) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let session = client.session;
        // Lent for the call, so that nothing is copied.
        let mut ids = core::mem::take(&mut client.ids);
        let RawRequest { xid: cxid, opcode, body, at } = request;
        match self.mode {
            Mode::Idle => {}
            Mode::Leading(_) => {
                let owner = Owner::Local;
                let submission = Submission { owner, session, cxid, opcode, body, at };
                self.submit(now, submission, &ids);
            }
            Mode::Following(term) => {
                let request = ForwardedRequest { session, cxid, opcode, ids, body };
                let frame = self.encode(|out| request.encode(out));
                ids = request.ids;
                self.to_leader(term, ToLeader::Request(frame));
            }
        }
        if let Some(client) = self.clients.get_mut(&conn) {
            client.ids = ids;
        }
    }

    /// A transaction was applied: if one of our clients waits for it, its answer is ready.
    pub(super) fn finish_write(&mut self, now: Instant, header: &TxnHeader, change: SessionChange) {
        let Some(conn) = self.by_session.get(&header.session).copied() else { return };
        let Some(client) = self.clients.get_mut(&conn) else { return };
        if header.zxid <= client.open_after {
            return;
        }
        if let SessionChange::Opened(timeout) = change {
            if client.state == State::Opening {
                client.state = State::Open;
                client.open_after = header.zxid;
                let read_only = client.has_read_only;
                self.open(conn, header.session, timeout, read_only);
            }
            return;
        }
        let waiting = client.parked.iter_mut().find(|parked| matches!(parked.wait, Wait::Commit));
        let Some(parked) = waiting else { return };
        if parked.request.xid != header.cxid {
            return;
        }
        let reply = block::frame(&mut self.replies, |out| self.machine.encode_reply(header, out));
        parked.wait = Wait::Answered { reply, applied: Some(now) };
        self.release(now, conn);
    }

    pub(super) fn finish_sync(&mut self, now: Instant, conn: ConnKey, xid: i32) {
        let applied = self.applied;
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let waiting = client
            .parked
            .iter_mut()
            .find(|parked| matches!(parked.wait, Wait::Sync) && parked.request.xid == xid);
        let Some(parked) = waiting else { return };
        let reply = block::frame(&mut self.replies, |out| {
            jute::encode_sync_reply(xid, applied.as_u64() as i64, &parked.request.body, out);
        });
        parked.wait = Wait::Answered { reply, applied: None };
        client.syncs -= 1;
        self.release(now, conn);
    }

    pub(super) fn handle_synced(&mut self, now: Instant, request: &Frame) {
        match ForwardedRequest::decode(request) {
            Ok(request) => {
                if let Some(conn) = self.by_session.get(&request.session).copied() {
                    self.finish_sync(now, conn, request.cxid);
                }
            }
            Err(error) => self.notice(
                Level::Warn,
                format!("the leader answered a sync that cannot be read: {error}"),
            ),
        }
    }

    /// Answers everything at the front that need not wait any longer.
    fn release(&mut self, now: Instant, conn: ConnKey) {
        loop {
            let Some(client) = self.clients.get_mut(&conn) else { return };
            match client.parked.front().map(|parked| &parked.wait) {
                Some(Wait::Answered { .. } | Wait::Turn) => {}
                Some(Wait::Commit | Wait::Sync | Wait::Behind(_)) | None => break,
            }
            let parked = client.parked.pop_front().expect("a front was seen");
            match parked.wait {
                Wait::Answered { reply, applied } => {
                    let stamps = ReplyStamps { received: parked.request.at, applied };
                    if is_session_moved(&reply) {
                        // Never told to a client: it finds out by reconnecting.
                        return self.close(conn, None);
                    }
                    if parked.request.opcode == opcode::CLOSE_SESSION {
                        return self.close(conn, Some(reply));
                    }
                    self.to_shard(conn, ToShard::Reply(conn, reply, stamps));
                }
                Wait::Turn => self.answer_read(conn, &parked.request),
                Wait::Commit | Wait::Sync | Wait::Behind(_) => {}
            }
        }
        self.order_held(now, conn);
    }

    /// Hands on the writes that no sync holds back any more.
    fn order_held(&mut self, now: Instant, conn: ConnKey) {
        loop {
            let Some(client) = self.clients.get_mut(&conn) else { return };
            if client.behind == 0 {
                return;
            }
            let first = client
                .parked
                .iter_mut()
                .find(|parked| matches!(parked.wait, Wait::Sync | Wait::Behind(_)));
            let Some(parked) = first else { return };
            let Wait::Behind(held) = parked.wait else { return };
            let is_sync = held == Held::Sync;
            parked.wait = if is_sync { Wait::Sync } else { Wait::Commit };
            client.behind -= 1;
            client.syncs += usize::from(is_sync);
            let request = parked.request.clone();
            self.hand_on(now, conn, request, is_sync);
        }
    }

    /// Encodes one frame with the replies' buffer.
    fn encode(&mut self, encode: impl FnOnce(&mut BytesMut)) -> Frame {
        block::frame(&mut self.replies, encode)
    }

    // --- the leader's questions ----------------------------------------------------------------

    pub(super) fn answer_ping(&mut self, term: Term, round: u64) {
        // What does not fit a packet is told in the next answer.
        let max = self.config.limits.body_max as usize / TOUCH_LEN_MAX;
        let touches = self
            .touched
            .extract_if(|_, _| true)
            .take(max)
            .map(|(session, timeout)| (session, timeout.as_millis() as i32));
        let touched = block::frame(&mut self.replies, |out| Touches::encode(touches, out));
        let packet = ToLeader::Ping { round, touched };
        self.to_leader(term, packet);
    }

    pub(super) fn refuse_learner(&mut self, conn: ConnKey, why: String) {
        self.to_quorum(ToQuorum::Gone(conn));
        self.to_shard(conn, ToShard::CloseLearner(conn, why));
    }
}

/// Whether a framed reply carries SessionMoved.
fn is_session_moved(reply: &[u8]) -> bool {
    // Length, xid, zxid, err: 4 + 4 + 8 + 4 bytes.
    reply.get(16..20) == Some(&ErrorCode::SessionMoved.code().to_be_bytes())
}
