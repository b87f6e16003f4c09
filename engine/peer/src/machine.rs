//! `StateMachine`: what is replicated, as a parameter of the server.
//!
//! The engine orders opaque transactions and makes them durable; a state machine says what a request
//! becomes and what a transaction does. The znode tree is one of them (and the default); an embedder
//! brings another to replicate something else.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::BytesMut;
use quorate_proto::{SessionId, Zxid};
use quorate_tree::acl::Id;
use quorate_tree::txn::TxnHeader;
use quorate_wire::Frame;

use crate::links::ConnKey;

/// The operation code of a proposal that comes from the embedding process rather than a client.
pub const OP_PROPOSE: i32 = 0;

/// What a request does to the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestClass {
    /// Answered by the server that the client is connected to.
    Read,
    /// Becomes a transaction.
    Write,
    /// Answered when everything committed before it has been applied here.
    Sync,
    /// Ends the session.
    Close,
    /// Not known: the connection is closed after an error.
    Unknown,
}

/// A request on its way to become a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    /// Who asks.
    pub session: SessionId,
    /// The client's number for it.
    pub cxid: i32,
    /// The operation.
    pub opcode: i32,
    /// Who the asking connection has proved to be.
    pub ids: &'a [Id],
    /// The request's bytes.
    pub body: &'a [u8],
    /// The place that its transaction will have.
    pub zxid: Zxid,
    /// The leader's wall clock, milliseconds since 1970.
    pub time_ms: i64,
}

/// A question that the local state answers.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The asking connection; watches belong to it.
    pub conn: ConnKey,
    /// Its session.
    pub session: SessionId,
    /// The client's number for it.
    pub xid: i32,
    /// The operation.
    pub opcode: i32,
    /// Who the asking connection has proved to be.
    pub ids: &'a [Id],
    /// The question's bytes.
    pub body: &'a [u8],
}

/// A frame for a connection that did not ask for it: a watch event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The connection.
    pub conn: ConnKey,
    /// The frame.
    pub frame: Frame,
}

/// What an applied transaction means for the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// Nothing.
    None,
    /// The header's session is open with this time-out.
    Opened(Duration),
    /// The header's session has ended.
    Closed,
}

/// A time-out as clients and transactions have it, in milliseconds; below zero it is none.
pub(crate) fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// A deterministic state machine: equal transactions in equal order give equal states on every
/// server. It reads no clock, draws no random number and iterates over nothing in random order.
///
/// [`StateMachine::prepare`] runs on the leader only and sees committed plus staged state;
/// [`StateMachine::apply`] runs on every server and cannot fail.
pub trait StateMachine: Send + 'static {
    /// An open cut: the state at one zxid, read in slices while the machine moves on.
    type Cut: Send;
    /// A state being rebuilt from the slices of a cut.
    type Restore: Send;

    /// What kind of request an operation code is.
    fn classify(&self, opcode: i32) -> RequestClass {
        if opcode == OP_PROPOSE { RequestClass::Write } else { RequestClass::Unknown }
    }

    /// Judges a request against committed plus staged state and appends the transaction's record to
    /// `txn`, behind its header. Returns the transaction's type for the header. A refusal is a
    /// transaction too: it keeps its place in the order.
    fn prepare(&mut self, proposal: &Proposal<'_>, txn: &mut BytesMut) -> i32;

    /// Whether a transaction that a leader sends can be applied: its type is known and its record can
    /// be decoded. Called before it is logged, so that a faulty leader costs its link only (R28).
    ///
    /// # Errors
    /// What does not hold together.
    fn judge_transaction(_kind: i32, _record: &[u8]) -> Result<(), String>
    where
        Self: Sized,
    {
        Ok(())
    }

    /// Applies a committed transaction; watch events go to `events` in the order in which they must
    /// reach their connections.
    ///
    /// # Panics
    /// If the record cannot be decoded: it passed [`StateMachine::prepare`], so the server's state
    /// cannot be trusted any more (R39).
    fn apply(
        &mut self,
        header: &TxnHeader,
        record: &[u8],
        events: &mut Vec<Event>,
    ) -> SessionChange;

    /// Appends the answer to the client whose transaction was applied last, whole with its framing.
    fn encode_reply(&mut self, header: &TxnHeader, out: &mut BytesMut);

    /// Answers a question from the applied state, whole with its framing. `applied` is the zxid that
    /// the answer reflects. Events precede the answer (setWatches).
    fn query(
        &mut self,
        query: &Query<'_>,
        applied: Zxid,
        events: &mut Vec<Event>,
        out: &mut BytesMut,
    );

    /// A number that is equal on servers with equal state.
    fn digest(&self) -> u64;

    /// Opens a cut of the state as applied now.
    fn begin_cut(&mut self, at: Zxid) -> Self::Cut;

    /// Appends about `max` bytes of the cut; true when it is complete.
    fn cut_slice(&mut self, cut: &mut Self::Cut, max: usize, out: &mut BytesMut) -> bool;

    /// Closes a cut, complete or not.
    fn end_cut(&mut self, cut: Self::Cut);

    /// Starts to rebuild a state beside the present one.
    fn begin_restore(&self) -> Self::Restore;

    /// Takes the next bytes of a cut; they may end anywhere.
    ///
    /// # Errors
    /// What does not hold together.
    fn restore_chunk(&self, restore: &mut Self::Restore, bytes: &[u8]) -> Result<(), String>;

    /// Replaces the present state by the rebuilt one, after checking its digest.
    ///
    /// # Errors
    /// What does not hold together; the present state stays.
    fn finish_restore(&mut self, restore: Self::Restore) -> Result<Zxid, String>;

    /// Forgets staged state: this server no longer leads.
    fn forget_staged(&mut self) {}

    /// Staged state up to here is applied now.
    fn staged_applied(&mut self, _zxid: Zxid) {}

    /// Calls `each` for every session of the applied state.
    fn for_each_session(&self, _each: &mut dyn FnMut(SessionId, Duration)) {}

    /// A connection is gone, with its watches.
    fn connection_gone(&mut self, _conn: ConnKey) {}

    /// Facts for an administrator: name and value.
    fn facts(&self, _each: &mut dyn FnMut(&'static str, u64)) {}
}
