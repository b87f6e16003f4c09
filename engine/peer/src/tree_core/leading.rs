//! The leader's side of requests: sessions' owners and clocks, preparation, and room.
//!
//! Knows learners by their connection only.

use alloc::collections::VecDeque;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;

use quorate_proto::{Epoch, Instant, SessionId, ToLearner, Zxid};
use quorate_tree::ErrorCode;
use quorate_tree::acl::Id;
use quorate_tree::hash::IdMap;
use quorate_tree::session::SessionTracker;
use quorate_tree::{Txn, TxnHeader};
use quorate_wire::Frame;
use quorate_wire::jute::opcode;
use quorate_wire::jute::txn::{HEADER_LEN, encode_header, encode_record};
use quorate_wire::native::request::{ForwardedRequest, Touches};

use super::{Mode, TreeCore};
use crate::links::{ConnKey, ToQuorum};
use crate::machine::{OP_PROPOSE, Proposal, RequestClass, SessionChange, StateMachine, millis};
use crate::timing::Stage;

/// Which server's connection a session belongs to: ours, or a learner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Local,
    Learner(ConnKey),
}

/// A sync whose confirmation is awaited.
#[derive(Debug)]
enum SyncOrigin {
    Local(ConnKey, i32),
    Learner(ConnKey, Frame),
}

/// A request with everything that its preparation needs.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) owner: Owner,
    pub(super) session: SessionId,
    pub(super) cxid: i32,
    pub(super) opcode: i32,
    pub(super) body: Frame,
    pub(super) at: Instant,
}

/// What waits for room, in order.
#[derive(Debug)]
enum Waiting {
    Write(Submission, Vec<Id>),
    Sync(SyncOrigin),
    /// A re-attachment, which must not overtake what the session asked for through the same server.
    Revalidate(Owner, ConnKey, SessionId),
}

#[derive(Debug)]
pub(super) struct Leading {
    last: Zxid,
    tracker: SessionTracker<Owner>,
    syncs: IdMap<u64, SyncOrigin>,
    /// Re-attachments of learners' sessions, each with what was proposed before it.
    revalidated: VecDeque<(Zxid, ConnKey, SessionId, bool)>,
    waiting: VecDeque<Waiting>,
    expired: Vec<SessionId>,
}

impl Leading {
    pub(super) const fn last_proposed(&self) -> Zxid {
        self.last
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.tracker.next_expiry()
    }

    pub(super) fn note_applied(&mut self, header: &TxnHeader, change: SessionChange) {
        if change == SessionChange::Closed {
            self.tracker.remove(header.session);
        }
    }
}

impl<M: StateMachine> TreeCore<M> {
    pub(super) fn lead(&mut self, now: Instant, epoch: Epoch) {
        assert!(self.staged.is_empty(), "established with an uncommitted history");
        let mut tracker = SessionTracker::new(self.config.ticks.tick);
        let mut sessions = Vec::new();
        self.machine.for_each_session(&mut |session, timeout| sessions.push((session, timeout)));
        tracker.lead(now, sessions);
        self.mode = Mode::Leading(Leading {
            last: epoch.start(),
            tracker,
            syncs: IdMap::default(),
            revalidated: VecDeque::new(),
            waiting: VecDeque::new(),
            expired: Vec::new(),
        });
    }

    fn outstanding_full(&self) -> bool {
        self.staged.len() >= self.config.limits.outstanding_max
    }

    /// Orders a write, now or when there is room.
    pub(super) fn submit(&mut self, now: Instant, submission: Submission, ids: &[Id]) {
        let full = self.outstanding_full();
        let Mode::Leading(leading) = &mut self.mode else { return };
        if full || !leading.waiting.is_empty() {
            leading.waiting.push_back(Waiting::Write(submission, ids.to_vec()));
            self.set_room(false);
            return;
        }
        self.propose(now, &submission, ids);
    }

    fn submit_sync(&mut self, origin: SyncOrigin) {
        let Mode::Leading(leading) = &mut self.mode else { return };
        if leading.waiting.is_empty() {
            self.begin_sync(origin);
        } else {
            leading.waiting.push_back(Waiting::Sync(origin));
        }
    }

    pub(super) fn submit_local_sync(&mut self, conn: ConnKey, xid: i32) {
        self.submit_sync(SyncOrigin::Local(conn, xid));
    }

    fn begin_sync(&mut self, origin: SyncOrigin) {
        let Mode::Leading(leading) = &mut self.mode else { return };
        self.sync_token += 1;
        let token = self.sync_token;
        leading.syncs.insert(token, origin);
        self.to_quorum(ToQuorum::Sync(token));
    }

    pub(super) fn take_waiting(&mut self, now: Instant) {
        loop {
            let full = self.outstanding_full();
            let Mode::Leading(leading) = &mut self.mode else { return };
            if full {
                return;
            }
            match leading.waiting.pop_front() {
                Some(Waiting::Write(submission, ids)) => self.propose(now, &submission, &ids),
                Some(Waiting::Sync(origin)) => self.begin_sync(origin),
                Some(Waiting::Revalidate(owner, conn, session)) => {
                    self.revalidate(now, owner, conn, session);
                }
                None => break,
            }
        }
        self.set_room(true);
    }

    /// Whether the session may make this request through this owner; its clock is touched.
    fn admit(&mut self, now: Instant, submission: &Submission) -> Result<(), ErrorCode> {
        let Mode::Leading(leading) = &mut self.mode else { return Ok(()) };
        let Submission { owner, session, opcode, .. } = *submission;
        match opcode {
            OP_PROPOSE => Ok(()),
            opcode::CREATE_SESSION => {
                let timeout = session_timeout_of(&submission.body);
                leading.tracker.add(session, timeout, Some(owner), now);
                Ok(())
            }
            opcode::CLOSE_SESSION => {
                leading.tracker.check_owner(session, owner)?;
                leading.tracker.close(session);
                Ok(())
            }
            _ => {
                leading.tracker.check_owner(session, owner)?;
                leading.tracker.touch(session, now);
                Ok(())
            }
        }
    }

    fn propose(&mut self, now: Instant, submission: &Submission, ids: &[Id]) {
        self.timings.note(Stage::Received, submission.at, now);
        let verdict = self.admit(now, submission);
        self.propose_judged(now, submission, ids, verdict);
    }

    fn propose_judged(
        &mut self,
        now: Instant,
        submission: &Submission,
        ids: &[Id],
        verdict: Result<(), ErrorCode>,
    ) {
        let time_ms = self.wall_ms(now);
        let Mode::Leading(leading) = &mut self.mode else { return };
        // The counter is used up: the quorum core gives up the epoch (ZOOKEEPER-1277), and the
        // request's client learns of it by losing its connection.
        let Some(zxid) = leading.last.next() else { return };
        leading.last = zxid;
        let Submission { session, cxid, opcode, .. } = *submission;
        let out = self.encoder.begin(zxid, self.applied);
        let start = out.len();
        encode_header(&TxnHeader { session, cxid, zxid, time: time_ms, kind: opcode::ERROR }, out);
        match verdict {
            Ok(()) => {
                let proposal =
                    Proposal { session, cxid, opcode, ids, body: &submission.body, zxid, time_ms };
                let kind = self.machine.prepare(&proposal, out);
                out[start + HEADER_LEN - 4..start + HEADER_LEN]
                    .copy_from_slice(&kind.to_be_bytes());
            }
            Err(code) => {
                encode_record(&Txn::Error(code), None, out);
            }
        }
        let frame = self.encoder.finish();
        self.stage(zxid, frame.clone());
        self.to_quorum(ToQuorum::Proposed { zxid, frame, at: now });
    }

    /// Ends the sessions whose time is up: a transaction like any other (R30).
    pub(super) fn expire(&mut self, now: Instant) {
        let Mode::Leading(leading) = &mut self.mode else { return };
        let mut expired = core::mem::take(&mut leading.expired);
        leading.tracker.expire(now, &mut expired);
        for session in expired.drain(..) {
            let submission = Submission {
                owner: Owner::Local,
                session,
                cxid: 0,
                opcode: opcode::CLOSE_SESSION,
                body: Frame::default(),
                at: now,
            };
            self.propose_judged(now, &submission, &[], Ok(()));
        }
        if let Mode::Leading(leading) = &mut self.mode {
            leading.expired = expired;
        }
    }

    // --- what learners forward -----------------------------------------------------------------

    pub(super) fn handle_forwarded(
        &mut self,
        now: Instant,
        conn: ConnKey,
        frame: &Frame,
        at: Instant,
    ) {
        if !matches!(self.mode, Mode::Leading(_)) {
            return;
        }
        let request = match ForwardedRequest::decode(frame) {
            Ok(request) => request,
            Err(error) => {
                // The shard has checked the frame's checksum: the learner itself is at fault.
                return self.refuse_learner(conn, error.to_string());
            }
        };
        if self.machine.classify(request.opcode) == RequestClass::Sync {
            self.submit_sync(SyncOrigin::Learner(conn, frame.clone()));
            return;
        }
        self.submit(
            now,
            Submission {
                owner: Owner::Learner(conn),
                session: request.session,
                cxid: request.cxid,
                opcode: request.opcode,
                body: request.body,
                at,
            },
            &request.ids,
        );
    }

    pub(super) fn handle_touched(&mut self, now: Instant, conn: ConnKey, touches: &Frame) {
        let touches = match Touches::decode(touches) {
            Ok(touches) => touches,
            Err(error) => return self.refuse_learner(conn, error.to_string()),
        };
        let Mode::Leading(leading) = &mut self.mode else { return };
        for (session, _) in touches.iter() {
            leading.tracker.touch(session, now);
        }
    }

    /// A client of ours, or of a learner, wants its session back.
    pub(super) fn submit_revalidate(
        &mut self,
        now: Instant,
        owner: Owner,
        conn: ConnKey,
        session: SessionId,
    ) {
        let Mode::Leading(leading) = &mut self.mode else { return };
        if leading.waiting.is_empty() {
            self.revalidate(now, owner, conn, session);
        } else {
            leading.waiting.push_back(Waiting::Revalidate(owner, conn, session));
        }
    }

    fn revalidate(&mut self, now: Instant, owner: Owner, conn: ConnKey, session: SessionId) {
        let Mode::Leading(leading) = &mut self.mode else { return };
        let valid = leading.tracker.revalidate(session, owner, now);
        if owner == Owner::Local {
            return self.attach(conn, valid);
        }
        // Behind the commit of everything that the session proposed through its former server:
        // observers learn of a proposal no earlier, and clients number anew on each connection.
        leading.revalidated.push_back((leading.last, conn, session, valid));
        if valid {
            self.close_moved(session, None);
        }
        self.answer_revalidations();
    }

    /// Answers the re-attachments before which everything is applied.
    pub(super) fn answer_revalidations(&mut self) {
        let applied = self.applied;
        let nothing_staged = self.staged.is_empty();
        loop {
            let Mode::Leading(leading) = &mut self.mode else { return };
            match leading.revalidated.front() {
                Some((after, ..)) if *after <= applied || nothing_staged => {}
                Some(_) | None => return,
            }
            let Some((_, conn, session, valid)) = leading.revalidated.pop_front() else { return };
            // It may have ended meanwhile.
            let valid = valid && leading.tracker.owner(session).is_some();
            let packet = ToLearner::Revalidate { session, valid };
            self.to_quorum(ToQuorum::Relay(conn, packet));
        }
    }

    pub(super) fn touch_local(&mut self, now: Instant, session: SessionId) {
        if let Mode::Leading(leading) = &mut self.mode {
            leading.tracker.touch(session, now);
        }
    }

    pub(super) fn handle_sync_confirmed(&mut self, now: Instant, token: u64) {
        let Mode::Leading(leading) = &mut self.mode else { return };
        match leading.syncs.remove(&token) {
            Some(SyncOrigin::Local(conn, xid)) => self.finish_sync(now, conn, xid),
            Some(SyncOrigin::Learner(conn, request)) => {
                self.to_quorum(ToQuorum::Relay(conn, ToLearner::Sync { request }));
            }
            None => {}
        }
    }
}

/// The time-out in a createSession's body, as ZooKeeper encodes it (4 bytes, milliseconds).
fn session_timeout_of(body: &[u8]) -> Duration {
    millis(body.first_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes)))
}
