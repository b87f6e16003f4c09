//! `Session` and `Proposer`: what an embedder does with a server in its own process.
//!
//! Both speak to a shard over an in-process connection, in the protocol that a socket would carry.
//! Whoever waits for an answer reads the mailbox for everybody; there is no thread in between.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use quorate_peer::links::Port;
use quorate_peer::machine::OP_PROPOSE;
use quorate_proto::{SessionId, Zxid};
use quorate_tree::{Acl, CreateMode, ErrorCode, Op, Stat};
use quorate_wire::jute::client as jute;
use quorate_wire::reader::{FrameReader, Framing};

use crate::error::Error;
use crate::in_process::{Arrival, Connection, Doors, Mailbox};
use crate::replicated::OP_ASK;

/// How long opening a session may take.
const OPEN_TIME: Duration = Duration::from_secs(30);
/// Bytes of one answer.
const FRAME_MAX: u32 = 64 * 1024 * 1024;
/// Bytes of a block from which requests are split: one allocation for some dozens of them.
const BLOCK_LEN: usize = 8 * 1024;
/// Room that most requests find without another look.
const REQUEST_LEN: usize = 512;
/// How long a waiter sleeps before it looks again by itself; it is woken long before.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A watch that has fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedEvent {
    /// What happened.
    pub kind: jute::EventKind,
    /// To which node.
    pub path: String,
}

/// One answer that somebody waits for.
#[derive(Debug, Default)]
struct Slot(Mutex<SlotState>);

#[derive(Debug, Default)]
struct SlotState {
    answer: Option<Result<Answer, Failure>>,
    waker: Option<Waker>,
}

impl Slot {
    fn take(&self) -> Option<Result<Answer, Failure>> {
        locked(&self.0).answer.take()
    }

    /// The answer, or the waker is left to be told of it.
    fn take_or_leave(&self, waker: &Waker) -> Option<Result<Answer, Failure>> {
        let mut state = locked(&self.0);
        if state.answer.is_none() {
            state.waker = Some(waker.clone());
        }
        state.answer.take()
    }

    fn is_filled(&self) -> bool {
        locked(&self.0).answer.is_some()
    }

    /// Puts the answer in; who is to be woken, once no lock is held.
    #[must_use]
    fn fill(&self, answer: Result<Answer, Failure>) -> Option<Waker> {
        let mut state = locked(&self.0);
        state.answer = Some(answer);
        state.waker.take()
    }
}

/// An answer's error code and body.
#[derive(Debug)]
struct Answer {
    err: i32,
    body: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Lost,
    Unreadable,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost => Self::ConnectionLost,
            Failure::Unreadable => Self::Answer("the connection's bytes are damaged".to_owned()),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection with its unanswered requests, oldest first.
#[derive(Debug)]
struct Line {
    connection: Connection,
    state: Mutex<LineState>,
}

#[derive(Debug)]
struct LineState {
    reader: FrameReader,
    next_xid: i32,
    pending: VecDeque<(i32, Arc<Slot>)>,
    out: BytesMut,
    zxid: Zxid,
    events: VecDeque<WatchedEvent>,
    lost: Option<Failure>,
    /// Whether slots were filled that no task waits for, but perhaps a thread.
    filled: bool,
    /// The tasks whose slots were filled.
    woken: Vec<Waker>,
}

impl Line {
    fn open(doors: &Doors, port: Port) -> Self {
        let mailbox = Mailbox::new();
        Self {
            connection: Connection::open(doors, port, &mailbox),
            state: Mutex::new(LineState {
                reader: FrameReader::new(Framing::Jute { max: FRAME_MAX }),
                next_xid: 1,
                pending: VecDeque::new(),
                out: BytesMut::new(),
                zxid: Zxid::ZERO,
                events: VecDeque::new(),
                lost: None,
                filled: false,
                woken: Vec::new(),
            }),
        }
    }

    /// Sends a request; its answer will be in the slot.
    fn request(&self, encode: impl FnOnce(i32, &mut BytesMut)) -> Arc<Slot> {
        let slot = Arc::new(Slot::default());
        let mut state = locked(&self.state);
        if let Some(failure) = state.lost {
            locked(&slot.0).answer = Some(Err(failure));
            return slot;
        }
        if state.out.capacity() < REQUEST_LEN {
            state.out.reserve(BLOCK_LEN);
        }
        let xid = state.next_xid;
        state.next_xid = if xid == i32::MAX { 1 } else { xid + 1 };
        state.pending.push_back((xid, Arc::clone(&slot)));
        encode(xid, &mut state.out);
        let bytes = state.out.split().freeze();
        // Under the lock: requests reach the server in the order of their numbers.
        self.connection.send(bytes);
        slot
    }

    /// Reads everything that has arrived, and wakes whoever has an answer now.
    fn pump(&self) {
        let mut state = locked(&self.state);
        while let Some(arrival) = self.connection.mailbox().take() {
            match arrival {
                Arrival::Bytes(_, bytes) => state.take(bytes),
                Arrival::Closed(_) => state.fail(Failure::Lost),
            }
        }
        let filled = std::mem::take(&mut state.filled);
        let woken = std::mem::take(&mut state.woken);
        // Without the lock: a waker may do more than it should.
        drop(state);
        if filled {
            self.connection.mailbox().ring_threads();
        }
        woken.into_iter().for_each(Waker::wake);
    }

    fn wait(&self, slot: &Slot) -> Result<Answer, Failure> {
        loop {
            self.pump();
            if let Some(answer) = slot.take() {
                return answer;
            }
            // Another waiter may read our answer at any moment; it rings after that.
            self.connection.mailbox().wait_unless(LOOK_AGAIN, || slot.is_filled());
        }
    }
}

impl LineState {
    fn take(&mut self, bytes: Bytes) {
        self.reader.push(bytes);
        loop {
            match self.reader.next_frame() {
                Ok(Some(frame)) => self.take_frame(frame.into_bytes()),
                Ok(None) => return,
                Err(_) => return self.fail(Failure::Unreadable),
            }
        }
    }

    fn take_frame(&mut self, frame: Bytes) {
        let Ok((header, body)) = jute::ReplyHeader::decode(&frame) else {
            return self.fail(Failure::Unreadable);
        };
        if header.zxid > 0 {
            self.zxid = self.zxid.max(Zxid::from_u64(header.zxid as u64));
        }
        match header.xid {
            jute::XID_PING => {}
            jute::XID_EVENT => match jute::WatchEvent::decode(body) {
                Ok(event) => {
                    self.events.push_back(WatchedEvent { kind: event.kind, path: text(event.path) })
                }
                Err(_) => self.fail(Failure::Unreadable),
            },
            xid => match self.pending.pop_front() {
                Some((expected, slot)) if expected == xid => {
                    let body = frame.slice(jute::ReplyHeader::LEN..);
                    self.fill(&slot, Ok(Answer { err: header.err, body }));
                }
                Some(_) | None => self.fail(Failure::Unreadable),
            },
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.lost.get_or_insert(failure);
        for (_, slot) in std::mem::take(&mut self.pending) {
            self.fill(&slot, Err(failure));
        }
    }

    fn fill(&mut self, slot: &Slot, answer: Result<Answer, Failure>) {
        match slot.fill(answer) {
            Some(waker) => self.woken.push(waker),
            None => self.filled = true,
        }
    }
}

/// The result of an operation that is under way: wait for it, or await it in any executor.
///
/// Operations are sent when they are made, so many may be under way before the first is waited for.
/// Dropping a result takes nothing back. The waker runs on a thread of the server or of another
/// waiter, and should only wake.
///
/// ```
/// # use std::time::Duration;
/// # use quorate::{Config, CreateMode, Error, Server};
/// # fn main() -> Result<(), Error> {
/// # let server = Server::start(Config::builder("unused").durable(false).build()?)?;
/// # server.wait_serving(Duration::from_secs(30))?;
/// # let session = server.session(Duration::from_secs(10))?;
/// session.create("/a", b"", CreateMode::Persistent).wait()?;
/// let pending: Vec<_> = (0..100).map(|n| session.set_data("/a", &[n], -1)).collect();
/// for (n, result) in pending.into_iter().enumerate() {
///     assert_eq!(result.wait()?.version, n as i32 + 1);
/// }
/// # server.shutdown()
/// # }
/// ```
#[must_use = "an operation's result is only known after waiting for it"]
pub struct Pending<T> {
    line: Arc<Line>,
    slot: Arc<Slot>,
    decode: fn(Bytes) -> Result<T, Error>,
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}

impl<T> Pending<T> {
    /// Waits for the result, on this thread.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server refused, with ZooKeeper's code; [`Error::ConnectionLost`] if
    /// the server stopped serving meanwhile: then the operation may or may not have taken effect.
    pub fn wait(self) -> Result<T, Error> {
        let answer = self.line.wait(&self.slot)?;
        finish(answer, self.decode)
    }
}

fn finish<T>(answer: Answer, decode: fn(Bytes) -> Result<T, Error>) -> Result<T, Error> {
    match answer.err {
        0 => decode(answer.body),
        code => Err(ErrorCode::from_code(code)
            .map_or_else(|| Error::Answer(format!("unknown error code {code}")), Error::Refused)),
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Or the pump below would wake this very task.
        locked(&self.slot.0).waker = None;
        let is_empty = self.line.connection.mailbox().register(context.waker());
        self.line.pump();
        match self.slot.take_or_leave(context.waker()) {
            Some(Ok(answer)) => Poll::Ready(finish(answer, self.decode)),
            Some(Err(failure)) => Poll::Ready(Err(failure.into())),
            None if is_empty => Poll::Pending,
            None => {
                // Something arrived while the waker was being left: it may have come too late.
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// A session of the znode tree within this process. It lives as long as this object: no pings are
/// needed. Its requests take effect and are answered in the order made, and threads and tasks may
/// share it.
///
/// [`Session::close`] ends it and removes its ephemerals. Dropped instead, it expires after
/// [`Session::timeout`]. Once an operation failed with [`Error::ConnectionLost`] all later ones do;
/// a new session is opened with [`Server::session`](crate::Server::session).
///
/// ```
/// use std::time::Duration;
///
/// use quorate::{Config, CreateMode, Error, ErrorCode, Server};
///
/// # fn main() -> Result<(), Error> {
/// // In memory, without a port: for this example.
/// let server = Server::start(Config::builder("unused").durable(false).build()?)?;
/// server.wait_serving(Duration::from_secs(30))?;
/// let session = server.session(Duration::from_secs(10))?;
///
/// let path = session.create("/lock-", b"me", CreateMode::EphemeralSequential).wait()?;
/// let (data, stat) = session.get_data_and_watch(&path).wait()?;
/// assert_eq!((data.as_slice(), stat.version), (&b"me"[..], 0));
/// session.set_data(&path, b"you", stat.version).wait()?;
/// assert_eq!(session.next_event().map(|event| event.path), Some(path.clone()));
///
/// let again = session.delete(&path, stat.version).wait();
/// assert!(matches!(again, Err(Error::Refused(ErrorCode::BadVersion))));
/// session.close().wait()?;
/// server.shutdown()
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    line: Arc<Line>,
    id: SessionId,
    timeout: Duration,
}

impl Session {
    pub(crate) fn open(doors: &Doors, timeout: Duration) -> Result<Self, Error> {
        let until = Instant::now() + OPEN_TIME;
        let line = Line::open(doors, Port::Client);
        let mut out = BytesMut::new();
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        jute::ConnectRequest::fresh(timeout_ms).encode(&mut out);
        line.connection.send(out.freeze());
        let mailbox = Arc::clone(line.connection.mailbox());
        loop {
            match mailbox.take() {
                Some(Arrival::Bytes(_, bytes)) => {
                    let response = bytes.get(4..).ok_or_else(jute_error).and_then(|frame| {
                        jute::ConnectResponse::decode(frame).map_err(|_| jute_error())
                    })?;
                    let granted = u64::try_from(response.timeout_ms).unwrap_or(0);
                    if granted == 0 {
                        return Err(Error::SessionExpired);
                    }
                    return Ok(Self {
                        line: Arc::new(line),
                        id: response.session,
                        timeout: Duration::from_millis(granted),
                    });
                }
                Some(Arrival::Closed(_)) => return Err(Error::ConnectionLost),
                None if Instant::now() >= until => return Err(Error::ConnectionLost),
                None => {
                    mailbox.wait(Duration::from_millis(100));
                }
            }
        }
    }

    /// The session's id.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// The time-out that was granted.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The highest zxid that an answer of this session has carried.
    pub fn last_zxid(&self) -> Zxid {
        self.line.pump();
        locked(&self.line.state).zxid
    }

    /// The next watch that has fired, if any. Never waits; an event is here before an answer that
    /// shows the change.
    pub fn next_event(&self) -> Option<WatchedEvent> {
        self.line.pump();
        locked(&self.line.state).events.pop_front()
    }

    fn request<T>(
        &self,
        decode: fn(Bytes) -> Result<T, Error>,
        encode: impl FnOnce(i32, &mut BytesMut),
    ) -> Pending<T> {
        Pending { line: Arc::clone(&self.line), slot: self.line.request(encode), decode }
    }

    /// Creates a node that everybody may use; the result is its final path, with the number of a
    /// sequential node. Refused with NoNode without its parent, NodeExists, BadArguments for a path
    /// that is none.
    pub fn create(&self, path: &str, data: &[u8], mode: CreateMode) -> Pending<String> {
        let acl = [Acl::open()];
        self.request(path_of, |xid, out| {
            jute::encode_create(xid, path.as_bytes(), Some(data), &acl, mode.flags(), false, out);
        })
    }

    /// Deletes a node without children, if its version is the one given (-1: any). Refused with
    /// NoNode, BadVersion or NotEmpty.
    pub fn delete(&self, path: &str, version: i32) -> Pending<()> {
        self.request(nothing, |xid, out| jute::encode_delete(xid, path.as_bytes(), version, out))
    }

    /// Replaces a node's data, if its version is the one given (-1: any); the result is the node's
    /// status behind it. Refused with NoNode or BadVersion.
    pub fn set_data(&self, path: &str, data: &[u8], version: i32) -> Pending<Stat> {
        self.request(stat_of, |xid, out| {
            jute::encode_set_data(xid, path.as_bytes(), Some(data), version, out);
        })
    }

    /// A node's data and status, as this server has them: [`Session::sync`] before it to see what
    /// others wrote elsewhere. Refused with NoNode.
    pub fn get_data(&self, path: &str) -> Pending<(Vec<u8>, Stat)> {
        self.request(data_of, |xid, out| {
            jute::encode_get_data(xid, path.as_bytes(), false, out);
        })
    }

    /// A node's data and status; [`Session::next_event`] tells of its next change, once. A refusal
    /// leaves no watch.
    pub fn get_data_and_watch(&self, path: &str) -> Pending<(Vec<u8>, Stat)> {
        self.request(data_of, |xid, out| jute::encode_get_data(xid, path.as_bytes(), true, out))
    }

    /// A node's status; refused with NoNode if there is none.
    pub fn exists(&self, path: &str) -> Pending<Stat> {
        self.request(stat_of, |xid, out| jute::encode_exists(xid, path.as_bytes(), false, out))
    }

    /// The names of a node's children, in no particular order.
    pub fn get_children(&self, path: &str) -> Pending<Vec<String>> {
        self.request(children_of, |xid, out| {
            jute::encode_get_children(xid, path.as_bytes(), false, false, out);
        })
    }

    /// Waits until this server has applied everything that was committed when the leader got this.
    pub fn sync(&self, path: &str) -> Pending<()> {
        self.request(nothing, |xid, out| jute::encode_sync(xid, path.as_bytes(), out))
    }

    /// Does all of the operations or none, at one place in the order; refused with the code of the
    /// operation that failed.
    pub fn multi(&self, ops: &[Op<'_>]) -> Pending<()> {
        self.request(multi_of, |xid, out| jute::encode_multi(xid, ops, out))
    }

    /// Ends the session: its ephemerals go with it. Dropping the object instead lets the session
    /// expire.
    pub fn close(self) -> Pending<()> {
        self.request(nothing, jute::encode_close_session)
    }
}

fn jute_error() -> Error {
    Error::Answer("the answer does not fit its operation".to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn nothing(_: Bytes) -> Result<(), Error> {
    Ok(())
}

fn path_of(body: Bytes) -> Result<String, Error> {
    jute::decode_path(&body).map(text).map_err(|_| jute_error())
}

fn stat_of(body: Bytes) -> Result<Stat, Error> {
    jute::decode_stat(&body).map_err(|_| jute_error())
}

fn data_of(body: Bytes) -> Result<(Vec<u8>, Stat), Error> {
    let (data, stat) = jute::decode_data_and_stat(&body).map_err(|_| jute_error())?;
    Ok((data.unwrap_or_default().to_vec(), stat))
}

fn children_of(body: Bytes) -> Result<Vec<String>, Error> {
    let names = jute::decode_children(&body).map_err(|_| jute_error())?;
    Ok(names.into_iter().map(text).collect())
}

fn multi_of(body: Bytes) -> Result<(), Error> {
    let results = jute::decode_multi_reply(&body).map_err(|_| jute_error())?;
    for result in results {
        match result {
            jute::OpResult::Error(0 | -2) => {}
            jute::OpResult::Error(code) => {
                let code = ErrorCode::from_code(code).ok_or_else(jute_error)?;
                return Err(Error::Refused(code));
            }
            jute::OpResult::Create { .. }
            | jute::OpResult::Create2 { .. }
            | jute::OpResult::Delete
            | jute::OpResult::SetData { .. }
            | jute::OpResult::Check => {}
        }
    }
    Ok(())
}

/// Proposes to the replicated state machine directly; see
/// [`Server::start_with`](crate::Server::start_with) and [`Replicated`](crate::Replicated).
///
/// Has no session: a command that was lost with [`Error::ConnectionLost`] may or may not be ordered.
/// The znode tree knows no commands and refuses them.
#[derive(Debug)]
pub struct Proposer {
    line: Arc<Line>,
}

impl Proposer {
    pub(crate) fn open(doors: &Doors) -> Self {
        Self { line: Arc::new(Line::open(doors, Port::Propose)) }
    }

    /// Orders a command; the result is what the state machine replied on this server, after the
    /// command was committed and applied here.
    pub fn propose(&self, command: &[u8]) -> Pending<Vec<u8>> {
        self.send(OP_PROPOSE, command)
    }

    /// Asks the local state, behind this proposer's own commands. It may lag behind the leader's; a
    /// question that must not is proposed as a command.
    pub fn ask(&self, question: &[u8]) -> Pending<Vec<u8>> {
        self.send(OP_ASK, question)
    }

    fn send(&self, opcode: i32, body: &[u8]) -> Pending<Vec<u8>> {
        let slot = self.line.request(|xid, out| {
            out.put_i32((8 + body.len()) as i32);
            out.put_i32(xid);
            out.put_i32(opcode);
            out.put_slice(body);
        });
        Pending { line: Arc::clone(&self.line), slot, decode: |body| Ok(body.to_vec()) }
    }
}
