//! `ZnodeMachine`: ZooKeeper's tree as the replicated state.
//!
//! Glues the tree to its encodings: jute requests and replies towards clients, ZooKeeper's
//! transactions in the log, our entries in snapshots. Judges nothing itself.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use bytes::BytesMut;
use quorate_proto::{SessionId, Zxid};
use quorate_tree::acl::{self, Id};
use quorate_tree::apply::Outcome;
use quorate_tree::data_tree::DataTree;
use quorate_tree::hash::IdMap;
use quorate_tree::prep::{Prep, PrepLimits};
use quorate_tree::request::{self, Request};
use quorate_tree::snapshot::{Cut, Entry, Restore};
use quorate_tree::txn::{Txn, TxnHeader};
use quorate_tree::watch::{Fired, ReplayedWatches, WatchTable};
use quorate_tree::{DIGEST_VERSION, ErrorCode, Permissions};
use quorate_wire::DecodeError;
use quorate_wire::jute::client::{self as jute, ClientRequest, OpResult};
use quorate_wire::jute::opcode;
use quorate_wire::jute::txn::{decode_record, encode_record};
use quorate_wire::native::snapshot::{self as stream, EntryReader};

use crate::block;
use crate::links::ConnKey;
use crate::machine::{Event, Proposal, Query, RequestClass, SessionChange, StateMachine, millis};

/// The znode tree, its watches on this server, and what is staged on the leader.
#[derive(Debug)]
pub struct ZnodeMachine {
    tree: DataTree,
    prep: Prep,
    watches: WatchTable<ConnKey>,
    /// Who each watching connection has proved to be.
    watchers: IdMap<ConnKey, Vec<Id>>,
    fired: Vec<Fired<ConnKey>>,
    outcome: Outcome,
    events: BytesMut,
    hash_seed: u64,
}

impl Default for ZnodeMachine {
    fn default() -> Self {
        Self::new(0)
    }
}

impl ZnodeMachine {
    /// An empty tree. `hash_seed` makes its hash tables unpredictable to clients; it changes nothing
    /// that can be seen.
    pub fn new(hash_seed: u64) -> Self {
        Self::with_limits(hash_seed, PrepLimits::default().txn_len_max)
    }

    /// An empty tree whose transactions have at most `txn_len_max` bytes, twice jute.maxbuffer.
    pub fn with_limits(hash_seed: u64, txn_len_max: usize) -> Self {
        Self {
            tree: DataTree::new(hash_seed),
            prep: Prep::with_digest(PrepLimits { txn_len_max }),
            watches: WatchTable::new(hash_seed),
            watchers: IdMap::default(),
            fired: Vec::new(),
            outcome: Outcome::Deleted,
            events: BytesMut::new(),
            hash_seed,
        }
    }

    /// The tree, for tools and tests.
    pub const fn tree(&self) -> &DataTree {
        &self.tree
    }

    /// Turns what has fired into frames, in order. A watcher that may not read the node hears
    /// nothing; its watch is gone all the same (ZOOKEEPER-4799).
    fn deliver(&mut self, zxid: i64, events: &mut Vec<Event>) {
        for fired in self.fired.drain(..) {
            let open = fired.acl.as_ref().is_none_or(|list| {
                let ids = self.watchers.get(&fired.watcher).map_or(&[][..], Vec::as_slice);
                acl::allows(list, Permissions::READ, ids)
            });
            if !open {
                continue;
            }
            let frame = block::frame(&mut self.events, |out| {
                jute::encode_watch_event(zxid, fired.event, &fired.path, out);
            });
            events.push(Event { conn: fired.watcher, frame });
        }
    }
}

/// A write as the tree judges it. What cannot be decoded keeps its place in the order and is refused
/// with MarshallingError.
fn decode_write(opcode: i32, body: &[u8]) -> Request<'_> {
    match opcode {
        opcode::CREATE_SESSION => match body.first_chunk::<4>() {
            Some(timeout) => Request::CreateSession { timeout_ms: i32::from_be_bytes(*timeout) },
            None => Request::Refused(ErrorCode::MarshallingError),
        },
        opcode::CLOSE_SESSION => Request::CloseSession,
        _ => match jute::decode_request(opcode, body) {
            Ok(ClientRequest::Write(request)) => request,
            Ok(_) | Err(DecodeError::UnknownKind { .. }) => {
                Request::Refused(ErrorCode::Unimplemented)
            }
            Err(_) => Request::Refused(ErrorCode::MarshallingError),
        },
    }
}

impl StateMachine for ZnodeMachine {
    type Cut = Cut;
    type Restore = (Restore, EntryReader, Option<Zxid>);

    fn classify(&self, opcode: i32) -> RequestClass {
        match opcode {
            opcode::CREATE
            | opcode::CREATE2
            | opcode::DELETE
            | opcode::SET_DATA
            | opcode::SET_ACL
            | opcode::MULTI => RequestClass::Write,
            opcode::EXISTS
            | opcode::GET_DATA
            | opcode::GET_ACL
            | opcode::GET_CHILDREN
            | opcode::GET_CHILDREN2
            | opcode::SET_WATCHES => RequestClass::Read,
            opcode::SYNC => RequestClass::Sync,
            opcode::CLOSE_SESSION => RequestClass::Close,
            _ => RequestClass::Unknown,
        }
    }

    fn prepare(&mut self, proposal: &Proposal<'_>, txn: &mut BytesMut) -> i32 {
        let request = decode_write(proposal.opcode, proposal.body);
        let prepared = self.prep.prepare(
            &self.tree,
            proposal.session,
            proposal.ids,
            request,
            proposal.zxid,
            proposal.time_ms,
        );
        // A refusal leaves the tree as it is and carries no digest, as with ZooKeeper.
        let digest = self.prep.digest().filter(|_| !matches!(prepared, Txn::Error(_)));
        encode_record(&prepared, digest, txn)
    }

    fn judge_transaction(kind: i32, record: &[u8]) -> Result<(), String> {
        decode_record(kind, record).map(|_| ()).map_err(|error| error.to_string())
    }

    fn apply(
        &mut self,
        header: &TxnHeader,
        record: &[u8],
        events: &mut Vec<Event>,
    ) -> SessionChange {
        let (txn, digest) = decode_record(header.kind, record)
            .unwrap_or_else(|error| panic!("transaction {} cannot be read: {error}", header.zxid));
        self.outcome = self.tree.apply(header, &txn, &mut self.watches, &mut self.fired);
        if let Some(digest) = digest
            && digest.version == DIGEST_VERSION
        {
            // The leader computed it when it prepared the transaction: servers whose trees differ
            // must not go on (S15, R13).
            let ours = self.tree.digest();
            assert_eq!(
                ours, digest.tree_digest,
                "the tree differs from the leader's after {}",
                header.zxid
            );
        }
        if !self.fired.is_empty() {
            self.deliver(header.zxid.as_u64() as i64, events);
        }
        match self.outcome {
            Outcome::SessionOpened { timeout_ms } => SessionChange::Opened(millis(timeout_ms)),
            Outcome::SessionClosed => SessionChange::Closed,
            _ => SessionChange::None,
        }
    }

    fn encode_reply(&mut self, header: &TxnHeader, out: &mut BytesMut) {
        let (xid, zxid) = (header.cxid, header.zxid.as_u64() as i64);
        match &self.outcome {
            Outcome::Created { path, stat, with_stat: true } => {
                jute::encode_create2_reply(xid, zxid, path, stat, out);
            }
            Outcome::Created { path, .. } => jute::encode_create_reply(xid, zxid, path, out),
            Outcome::DataSet(stat) | Outcome::AclSet(stat) => {
                jute::encode_stat_reply(xid, zxid, stat, out);
            }
            Outcome::Multi(outcomes) => {
                jute::encode_multi_reply(xid, zxid, outcomes.iter().map(op_result), out);
            }
            Outcome::Failed(code) => jute::encode_reply_header(xid, zxid, code.code(), out),
            Outcome::Deleted
            | Outcome::Checked
            | Outcome::RolledBack
            | Outcome::SessionOpened { .. }
            | Outcome::SessionClosed => jute::encode_reply_header(xid, zxid, 0, out),
        }
    }

    fn query(
        &mut self,
        query: &Query<'_>,
        applied: Zxid,
        events: &mut Vec<Event>,
        out: &mut BytesMut,
    ) {
        let zxid = applied.as_u64() as i64;
        let Ok(ClientRequest::Read(question)) = jute::decode_request(query.opcode, query.body)
        else {
            let code = ErrorCode::MarshallingError.code();
            return jute::encode_reply_header(query.xid, zxid, code, out);
        };
        if let Err(code) = self.answer(query, zxid, question, events, out) {
            jute::encode_reply_header(query.xid, zxid, code.code(), out);
        }
    }

    fn digest(&self) -> u64 {
        self.tree.digest()
    }

    fn begin_cut(&mut self, at: Zxid) -> Cut {
        let cut = self.tree.open_cut();
        assert_eq!(cut.zxid(), at, "the tree is not where its core says");
        cut
    }

    fn cut_slice(&mut self, cut: &mut Cut, max: usize, out: &mut BytesMut) -> bool {
        cut.next_slice(&mut self.tree, max, |entry| stream::encode_entry(&entry, out))
    }

    fn end_cut(&mut self, cut: Cut) {
        self.tree.close_cut(cut);
    }

    fn begin_restore(&self) -> Self::Restore {
        (Restore::new(self.hash_seed), EntryReader::new(), None)
    }

    fn restore_chunk(&self, restore: &mut Self::Restore, bytes: &[u8]) -> Result<(), String> {
        let (restore, reader, ended) = restore;
        let taken = reader.push(bytes, |entry| {
            if let Entry::End(end) = &entry {
                *ended = Some(end.zxid);
            }
            restore.push(&entry)
        });
        taken.map_err(|error| error.to_string())
    }

    fn finish_restore(&mut self, restore: Self::Restore) -> Result<Zxid, String> {
        let (restore, reader, ended) = restore;
        if !reader.is_complete() {
            return Err("it ends in the middle".to_string());
        }
        let zxid = ended.ok_or("it has no end")?;
        self.tree = restore.finish().map_err(|error| format!("{error}"))?;
        self.prep.clear();
        Ok(zxid)
    }

    fn forget_staged(&mut self) {
        self.prep.clear();
    }

    fn staged_applied(&mut self, zxid: Zxid) {
        self.prep.committed(zxid);
    }

    fn for_each_session(&self, each: &mut dyn FnMut(SessionId, Duration)) {
        for (session, ms) in self.tree.sessions() {
            each(session, millis(ms));
        }
    }

    fn connection_gone(&mut self, conn: ConnKey) {
        self.watches.remove_watcher(conn);
        self.watchers.remove(&conn);
    }

    fn facts(&self, each: &mut dyn FnMut(&'static str, u64)) {
        each("znodes", self.tree.node_count() as u64);
        each("ephemerals", self.tree.ephemeral_count() as u64);
        each("sessions", self.tree.session_count() as u64);
        each("watches", self.watches.len() as u64);
        each("data_size", self.tree.approximate_data_size());
    }
}

fn op_result(outcome: &Outcome) -> OpResult<'_> {
    match outcome {
        Outcome::Created { path, stat, with_stat: true } => OpResult::Create2 { path, stat: *stat },
        Outcome::Created { path, .. } => OpResult::Create { path },
        Outcome::DataSet(stat) | Outcome::AclSet(stat) => OpResult::SetData { stat: *stat },
        Outcome::Deleted => OpResult::Delete,
        Outcome::Checked => OpResult::Check,
        Outcome::RolledBack => OpResult::Error(0),
        Outcome::Failed(code) => OpResult::Error(code.code()),
        Outcome::SessionOpened { .. } | Outcome::SessionClosed | Outcome::Multi(_) => {
            unreachable!("a multi holds single writes only")
        }
    }
}

impl ZnodeMachine {
    /// Remembers who a connection is when it leaves a watch.
    fn note_watcher(&mut self, query: &Query<'_>) {
        let known = self.watchers.entry(query.conn).or_default();
        if *known != query.ids {
            *known = query.ids.to_vec();
        }
    }

    fn answer(
        &mut self,
        query: &Query<'_>,
        zxid: i64,
        question: request::Query<'_>,
        events: &mut Vec<Event>,
        out: &mut BytesMut,
    ) -> Result<(), ErrorCode> {
        let (xid, ids) = (query.xid, query.ids);
        match question {
            request::Query::Exists { path, watch } => {
                let found = self.tree.exists(path, ids);
                // Left on a missing node too: it fires when the node is created.
                if watch && matches!(found, Ok(_) | Err(ErrorCode::NoNode)) {
                    self.note_watcher(query);
                    self.watches.watch_data(path, query.conn);
                }
                jute::encode_stat_reply(xid, zxid, &found?, out);
            }
            request::Query::GetData { path, watch } => {
                let (data, stat) = self.tree.get_data(path, ids)?;
                jute::encode_data_reply(xid, zxid, data, &stat, out);
                if watch {
                    self.note_watcher(query);
                    self.watches.watch_data(path, query.conn);
                }
            }
            request::Query::GetAcl { path } => {
                let (acl, stat) = self.tree.get_acl(path, ids)?;
                jute::encode_acl_reply(xid, zxid, &acl, &stat, out);
            }
            request::Query::GetChildren { path, watch, with_stat } => {
                let (children, stat) = self.tree.get_children(path, ids)?;
                let stat = with_stat.then_some(&stat);
                jute::encode_children_reply(xid, zxid, children, stat, out);
                if watch {
                    self.note_watcher(query);
                    self.watches.watch_children(path, query.conn);
                }
            }
            request::Query::SetWatches { relative_zxid, data, exist, child } => {
                self.note_watcher(query);
                let lists = ReplayedWatches { data: &data, exist: &exist, child: &child };
                let relative = Zxid::from_u64(relative_zxid.max(0) as u64);
                let fired = &mut self.fired;
                self.watches.set_watches(&self.tree, query.conn, relative, &lists, fired);
                self.deliver(-1, events);
                jute::encode_reply_header(xid, zxid, 0, out);
            }
        }
        Ok(())
    }
}
