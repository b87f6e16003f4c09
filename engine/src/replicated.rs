//! `Replicated`: the short way to a replicated state of one's own, for states that fit a copy.
//!
//! A state that is too large to be copied at a snapshot implements `StateMachine` itself, which
//! reads its cut in slices.

use std::fmt;

use bytes::{BufMut, BytesMut};
use quorate_peer::StateMachine;
use quorate_peer::machine::{Event, OP_PROPOSE, Proposal, Query, RequestClass, SessionChange};
use quorate_proto::Zxid;
use quorate_tree::txn::TxnHeader;
use quorate_wire::jute::client::{encode_reply, encode_reply_header};
use quorate_wire::jute::opcode;

/// The operation code of a question to a [`Replicated`] state.
pub(crate) const OP_ASK: i32 = -200;
/// The transaction type of a command.
const TYPE_COMMAND: i32 = 0;

/// A deterministic state: equal commands in equal order give equal states on every server. It reads
/// no clock, draws no random number and iterates over nothing in random order.
///
/// ```
/// use std::time::Duration;
///
/// use quorate::{Config, Error, Machine, Replicated, Server, Zxid};
///
/// #[derive(Default)]
/// struct Counter(u64);
///
/// impl Replicated for Counter {
///     fn apply(&mut self, _zxid: Zxid, command: &[u8], reply: &mut Vec<u8>) {
///         self.0 += u64::from(command.first().copied().unwrap_or(0));
///         reply.extend(self.0.to_le_bytes());
///     }
///
///     fn ask(&self, _question: &[u8], answer: &mut Vec<u8>) {
///         answer.extend(self.0.to_le_bytes());
///     }
///
///     fn snapshot(&self) -> Vec<u8> {
///         self.0.to_le_bytes().to_vec()
///     }
///
///     fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
///         let bytes = snapshot.try_into().map_err(|_| "a counter has 8 bytes".to_owned())?;
///         self.0 = u64::from_le_bytes(bytes);
///         Ok(())
///     }
/// }
///
/// # fn main() -> Result<(), Error> {
/// // In memory, without a port: for this example.
/// let config = Config::builder("unused").durable(false).build()?;
/// let server = Server::start_with(config, Machine::new(Counter::default()))?;
/// server.wait_serving(Duration::from_secs(30))?;
/// let proposer = server.proposer();
/// proposer.propose(&[40]).wait()?;
/// assert_eq!(proposer.propose(&[2]).wait()?, 42_u64.to_le_bytes());
/// assert_eq!(proposer.ask(b"").wait()?, 42_u64.to_le_bytes());
/// server.shutdown()
/// # }
/// ```
pub trait Replicated: Send + 'static {
    /// Applies a committed command and writes what the proposer gets back. Runs on every server, for
    /// every command, once and in order; `zxid` grows. It cannot fail: an error is a reply too.
    /// Commands that a snapshot covers are not applied again after a restart.
    fn apply(&mut self, zxid: Zxid, command: &[u8], reply: &mut Vec<u8>);

    /// Answers a question from the local state, which may lag behind the leader's.
    fn ask(&self, _question: &[u8], _answer: &mut Vec<u8>) {}

    /// The whole state as bytes. The server waits for it: a state that takes long to copy implements
    /// [`StateMachine`].
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the state by what [`Replicated::snapshot`] gave, on this server or on the leader. The
    /// state before may be any.
    ///
    /// # Errors
    /// What does not hold together.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;

    /// A number that is equal on servers with equal state. By default that of a whole snapshot, which
    /// is slow for a large state; it is asked for by administrators.
    fn digest(&self) -> u64 {
        u64::from(crc32c::crc32c(&self.snapshot()))
    }
}

/// A [`Replicated`] state as the engine wants it.
pub struct Machine<R> {
    state: R,
    reply: Vec<u8>,
}

impl<R> fmt::Debug for Machine<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

impl<R: Replicated> Machine<R> {
    /// Wraps a state that is as it was before the first command.
    pub const fn new(state: R) -> Self {
        Self { state, reply: Vec::new() }
    }
}

/// The copied state, and how much of it was read.
#[derive(Debug)]
pub struct Copied {
    bytes: Vec<u8>,
    at: usize,
}

impl<R: Replicated> StateMachine for Machine<R> {
    type Cut = Copied;
    type Restore = Vec<u8>;

    fn classify(&self, opcode: i32) -> RequestClass {
        match opcode {
            OP_PROPOSE => RequestClass::Write,
            OP_ASK => RequestClass::Read,
            _ => RequestClass::Unknown,
        }
    }

    fn prepare(&mut self, proposal: &Proposal<'_>, txn: &mut BytesMut) -> i32 {
        txn.put_slice(proposal.body);
        TYPE_COMMAND
    }

    fn apply(
        &mut self,
        header: &TxnHeader,
        record: &[u8],
        _events: &mut Vec<Event>,
    ) -> SessionChange {
        self.reply.clear();
        if header.kind == TYPE_COMMAND {
            self.state.apply(header.zxid, record, &mut self.reply);
        }
        SessionChange::None
    }

    fn encode_reply(&mut self, header: &TxnHeader, out: &mut BytesMut) {
        let (xid, zxid) = (header.cxid, header.zxid.as_u64() as i64);
        if header.kind == opcode::ERROR {
            // Refused before the state saw it.
            return encode_reply_header(xid, zxid, opcode::ERROR, out);
        }
        encode_reply(xid, zxid, out, |writer| writer.raw(&self.reply));
    }

    fn query(
        &mut self,
        query: &Query<'_>,
        applied: Zxid,
        _events: &mut Vec<Event>,
        out: &mut BytesMut,
    ) {
        self.reply.clear();
        self.state.ask(query.body, &mut self.reply);
        let zxid = applied.as_u64() as i64;
        encode_reply(query.xid, zxid, out, |writer| writer.raw(&self.reply));
    }

    fn digest(&self) -> u64 {
        self.state.digest()
    }

    fn begin_cut(&mut self, at: Zxid) -> Copied {
        let mut bytes = at.as_u64().to_le_bytes().to_vec();
        bytes.extend(self.state.snapshot());
        Copied { bytes, at: 0 }
    }

    fn cut_slice(&mut self, cut: &mut Copied, max: usize, out: &mut BytesMut) -> bool {
        let end = (cut.at + max).min(cut.bytes.len());
        out.put_slice(&cut.bytes[cut.at..end]);
        cut.at = end;
        end == cut.bytes.len()
    }

    fn end_cut(&mut self, _cut: Copied) {}

    fn begin_restore(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore_chunk(&self, restore: &mut Vec<u8>, bytes: &[u8]) -> Result<(), String> {
        restore.extend(bytes);
        Ok(())
    }

    fn finish_restore(&mut self, restore: Vec<u8>) -> Result<Zxid, String> {
        let (zxid, state) =
            restore.split_first_chunk::<8>().ok_or("a snapshot without its zxid")?;
        self.state.restore(state)?;
        Ok(Zxid::from_u64(u64::from_le_bytes(*zxid)))
    }
}
