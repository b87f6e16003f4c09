//! One session of ZooKeeper's client protocol, cheap per request: bytes out, bytes in, no socket.
//!
//! Only what a load generator needs: connect, ping, create, delete, getData, setData, close. Replies
//! are matched by their order and xid (client.md 1.2); bodies are skipped. Knows no server address.

use std::collections::VecDeque;

use crate::workload::{Kind, Request};

/// Nanoseconds since the run began.
pub(crate) type Nanos = u64;

const OP_CREATE: i32 = 1;
const OP_DELETE: i32 = 2;
const OP_GET_DATA: i32 = 4;
const OP_SET_DATA: i32 = 5;
const OP_PING: i32 = 11;
const OP_CLOSE: i32 = -11;
const XID_PING: i32 = -2;
const XID_EVENT: i32 = -1;
/// Larger than any reply to what is sent here; a length beyond it is no ZooKeeper server's.
const FRAME_LEN_MAX: usize = 64 * 1024 * 1024;
/// xid, zxid, err.
const REPLY_HEADER_LEN: usize = 16;
const PASSWORD_LEN: usize = 16;

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has no connection, or has not sent its ConnectRequest.
    Apart,
    /// ConnectRequest is sent.
    Connecting,
    /// Requests flow.
    Ready,
    /// closeSession is sent.
    Closing,
    /// closeSession is answered.
    Closed,
}

/// What a request under way was, for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Part of the load.
    Load(Kind),
    /// Making or removing the znodes of a run.
    Setup,
    /// closeSession.
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    xid: i32,
    asked: Asked,
    intended: Nanos,
}

/// What the bytes of a server mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The session is open, or open again.
    Ready,
    /// The session had expired; the next connection opens a new one.
    Expired,
    /// A reply, in order.
    Replied {
        /// What it answers.
        asked: Asked,
        /// When the request was due.
        intended: Nanos,
        /// ZooKeeper's error code, 0 if it was done.
        code: i32,
    },
}

/// A server that does not speak the protocol; its connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

/// A session that is or was open at some server.
#[derive(Debug)]
pub(crate) struct Session {
    state: State,
    /// Bytes for the server.
    out: Vec<u8>,
    /// The beginning of a frame whose rest has not come.
    partial: Vec<u8>,
    pending: VecDeque<Pending>,
    next_xid: i32,
    id: i64,
    password: [u8; PASSWORD_LEN],
    zxid: i64,
    wanted_timeout_ms: i32,
    /// A third of what the server granted.
    ping_after: Nanos,
    last_sent: Nanos,
}

impl Session {
    /// A session that will ask for this time-out.
    pub(crate) fn new(timeout_ms: i32) -> Self {
        Self {
            state: State::Apart,
            out: Vec::new(),
            partial: Vec::new(),
            pending: VecDeque::new(),
            next_xid: 1,
            id: 0,
            password: [0; PASSWORD_LEN],
            zxid: 0,
            wanted_timeout_ms: timeout_ms,
            ping_after: Nanos::MAX,
            last_sent: 0,
        }
    }

    /// A connection is there: asks for a session, the former one if there was one.
    pub(crate) fn connect(&mut self, now: Nanos) {
        debug_assert!(self.pending.is_empty(), "requests of a lost connection were given up");
        self.state = State::Connecting;
        self.last_sent = now;
        self.out.clear();
        self.partial.clear();
        self.out.extend_from_slice(&45_u32.to_be_bytes());
        self.out.extend_from_slice(&0_i32.to_be_bytes());
        self.out.extend_from_slice(&self.zxid.to_be_bytes());
        self.out.extend_from_slice(&self.wanted_timeout_ms.to_be_bytes());
        self.out.extend_from_slice(&self.id.to_be_bytes());
        self.out.extend_from_slice(&(PASSWORD_LEN as u32).to_be_bytes());
        self.out.extend_from_slice(&self.password);
        self.out.push(0);
    }

    /// The connection is gone. What was under way has no known outcome; how much that was, and the
    /// requests themselves.
    pub(crate) fn disconnect(&mut self) -> usize {
        if self.state != State::Closed {
            self.state = State::Apart;
        }
        self.out.clear();
        self.partial.clear();
        let lost = self.pending.len();
        self.pending.clear();
        lost
    }

    /// Whether requests may be sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether its close was answered.
    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Requests under way.
    pub(crate) fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// When each of the requests under way was due.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = (Asked, Nanos)> + '_ {
        self.pending.iter().map(|pending| (pending.asked, pending.intended))
    }

    /// Bytes that wait to be sent.
    pub(crate) fn out(&self) -> &[u8] {
        &self.out
    }

    /// The first `count` of them were sent.
    pub(crate) fn sent(&mut self, count: usize) {
        if count == self.out.len() {
            self.out.clear();
        } else {
            self.out.drain(..count);
        }
    }

    /// All of them, to be sent by another way.
    pub(crate) fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Sends a request of the load that was due at `intended`.
    pub(crate) fn send(&mut self, request: &Request<'_>, intended: Nanos, now: Nanos) {
        let asked = Asked::Load(request.kind);
        match request.kind {
            Kind::Read => {
                self.header(OP_GET_DATA, request.path.len() + 1, asked, intended, now);
                self.out.extend_from_slice(request.path);
                self.out.push(0);
            }
            Kind::SetData => {
                let len = request.path.len() + 4 + request.data.len() + 4;
                self.header(OP_SET_DATA, len, asked, intended, now);
                self.out.extend_from_slice(request.path);
                self.buffer(request.data);
                self.out.extend_from_slice(&(-1_i32).to_be_bytes());
            }
            Kind::Create => self.create(request.path, request.data, asked, intended, now),
        }
    }

    /// Sends a create that prepares a run; `path` is a jute string.
    pub(crate) fn prepare(&mut self, path: &[u8], data: &[u8], now: Nanos) {
        self.create(path, data, Asked::Setup, now, now);
    }

    /// Sends a delete of any version; `path` is a jute string.
    pub(crate) fn delete(&mut self, path: &[u8], now: Nanos) {
        self.header(OP_DELETE, path.len() + 4, Asked::Setup, now, now);
        self.out.extend_from_slice(path);
        self.out.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    /// Ends the session.
    pub(crate) fn close(&mut self, now: Nanos) {
        self.header(OP_CLOSE, 0, Asked::Close, now, now);
        self.state = State::Closing;
    }

    /// Sends a ping if a third of the time-out has passed in silence; whether it did.
    pub(crate) fn ping(&mut self, now: Nanos) -> bool {
        let due = self.state == State::Ready && now - self.last_sent >= self.ping_after;
        if due {
            self.last_sent = now;
            self.out.extend_from_slice(&8_u32.to_be_bytes());
            self.out.extend_from_slice(&XID_PING.to_be_bytes());
            self.out.extend_from_slice(&OP_PING.to_be_bytes());
        }
        due
    }

    fn create(&mut self, path: &[u8], data: &[u8], asked: Asked, intended: Nanos, now: Nanos) {
        // One entry, everything allowed to world:anyone; persistent.
        const OPEN_ACL: &[u8] = b"\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone";
        let len = path.len() + 4 + data.len() + OPEN_ACL.len() + 4;
        self.header(OP_CREATE, len, asked, intended, now);
        self.out.extend_from_slice(path);
        self.buffer(data);
        self.out.extend_from_slice(OPEN_ACL);
        self.out.extend_from_slice(&0_i32.to_be_bytes());
    }

    fn header(&mut self, op: i32, body_len: usize, asked: Asked, intended: Nanos, now: Nanos) {
        let xid = self.next_xid;
        // xids above 0 are requests; the others have meanings of their own.
        self.next_xid = if xid == i32::MAX - 1 { 1 } else { xid + 1 };
        self.pending.push_back(Pending { xid, asked, intended });
        self.last_sent = now;
        self.out.extend_from_slice(&(body_len as u32 + 8).to_be_bytes());
        self.out.extend_from_slice(&xid.to_be_bytes());
        self.out.extend_from_slice(&op.to_be_bytes());
    }

    fn buffer(&mut self, data: &[u8]) {
        self.out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        self.out.extend_from_slice(data);
    }

    /// Takes bytes of the server, cut anywhere, and says what they mean.
    ///
    /// # Errors
    /// [`Broken`] if they mean nothing.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        mut on: impl FnMut(Event),
    ) -> Result<(), Broken> {
        let mut joined = std::mem::take(&mut self.partial);
        let whole = if joined.is_empty() {
            bytes
        } else {
            joined.extend_from_slice(bytes);
            &joined
        };
        let mut rest = whole;
        while let Some(frame) = split_frame(&mut rest)? {
            let event = match self.state {
                State::Connecting => Some(self.connected(frame)?),
                State::Apart | State::Closed => None,
                State::Ready | State::Closing => self.reply(frame)?,
            };
            if let Some(event) = event {
                on(event);
            }
        }
        if !rest.is_empty() {
            self.partial = rest.to_vec();
        }
        Ok(())
    }

    /// ConnectResponse: version, time-out, id, password.
    fn connected(&mut self, frame: &[u8]) -> Result<Event, Broken> {
        const SHORT: Broken = Broken("the answer to the ConnectRequest is too short");
        let timeout_ms = be_i32(frame, 4).ok_or(SHORT)?;
        let id = be_i64(frame, 8).ok_or(SHORT)?;
        let password = frame.get(20..20 + PASSWORD_LEN).ok_or(SHORT)?;
        if timeout_ms <= 0 {
            self.state = State::Apart;
            self.id = 0;
            self.password = [0; PASSWORD_LEN];
            self.zxid = 0;
            return Ok(Event::Expired);
        }
        self.state = State::Ready;
        self.id = id;
        self.password.copy_from_slice(password);
        self.ping_after = timeout_ms as Nanos * 1_000_000 / 3;
        Ok(Event::Ready)
    }

    fn reply(&mut self, frame: &[u8]) -> Result<Option<Event>, Broken> {
        let header = frame.get(..REPLY_HEADER_LEN).ok_or(Broken("a reply has no header"))?;
        let fields = (be_i32(header, 0), be_i64(header, 4), be_i32(header, 12));
        let (Some(xid), Some(zxid), Some(code)) = fields else {
            return Err(Broken("a reply has no header"));
        };
        if zxid > 0 {
            self.zxid = zxid;
        }
        if xid == XID_PING || xid == XID_EVENT {
            return Ok(None);
        }
        let Some(first) = self.pending.pop_front() else {
            return Err(Broken("a reply without a request"));
        };
        if first.xid != xid {
            return Err(Broken("replies are out of order"));
        }
        if first.asked == Asked::Close {
            self.state = State::Closed;
        }
        Ok(Some(Event::Replied { asked: first.asked, intended: first.intended, code }))
    }
}

/// Splits the first whole frame off.
fn split_frame<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Broken> {
    let Some(len) = be_i32(bytes, 0) else { return Ok(None) };
    let len = usize::try_from(len).ok().filter(|&len| len <= FRAME_LEN_MAX);
    let len = len.ok_or(Broken("a frame's length is none of a ZooKeeper server's"))?;
    let Some(frame) = bytes.get(4..4 + len) else { return Ok(None) };
    *bytes = &bytes[4 + len..];
    Ok(Some(frame))
}

fn be_i32(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn be_i64(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// What an error code is called (client.md 1.10).
pub(crate) fn code_name(code: i32) -> &'static str {
    match code {
        -4 => "connection_loss",
        -5 => "marshalling_error",
        -6 => "unimplemented",
        -8 => "bad_arguments",
        -101 => "no_node",
        -102 => "no_auth",
        -103 => "bad_version",
        -110 => "node_exists",
        -111 => "not_empty",
        -112 => "session_expired",
        -118 => "session_moved",
        -119 => "not_read_only",
        -125 => "quota_exceeded",
        -127 => "throttled_op",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::jute_string;

    /// From a recorded dialogue with ZooKeeper 3.9.3 (client.md 1.12), blanks removed.
    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    const CONNECTED: &str = "00000025 00000000 00002710 01000021 34d30004 00000010 3bdd69c2 d0f75f25 \
                             ba6ecba9 6845aa97 00";

    fn events(session: &mut Session, bytes: &[u8]) -> Result<Vec<Event>, Broken> {
        let mut all = Vec::new();
        session.receive(bytes, |event| all.push(event))?;
        Ok(all)
    }

    fn ready() -> Session {
        let mut session = Session::new(10_000);
        session.connect(0);
        session.sent(session.out().len());
        assert_eq!(events(&mut session, &hex(CONNECTED)).unwrap(), [Event::Ready]);
        session
    }

    #[test]
    fn requests_are_those_of_the_recorded_dialogue() {
        let mut session = Session::new(10_000);
        session.connect(0);
        let connect = "0000002d 00000000 00000000 00000000 00002710 00000000 00000000 00000010 \
                       00000000 00000000 00000000 00000000 00";
        assert_eq!(session.out(), hex(connect));
        let mut session = ready();
        let path = jute_string("/v");
        session.next_xid = 2;
        session.prepare(&path, b"hi", 0);
        let create = "00000033 00000002 00000001 00000002 2f760000 00026869 00000001 0000001f \
                      00000005 776f726c 64000000 06616e79 6f6e6500 000000";
        assert_eq!(session.out(), hex(create));
        session.sent(session.out().len());
        session.send(&Request { kind: Kind::Read, path: &path, data: &[] }, 0, 0);
        assert_eq!(session.out(), hex("0000000f 00000003 00000004 00000002 2f7600"));
        session.sent(session.out().len());
        session.next_xid = 5;
        session.delete(&path, 0);
        assert_eq!(session.out(), hex("00000012 00000005 00000002 00000002 2f76ffff ffff"));
        session.sent(session.out().len());
        session.close(0);
        assert_eq!(session.out(), hex("00000008 00000006 fffffff5"));
    }

    #[test]
    fn set_data_has_path_data_and_any_version() {
        let mut session = ready();
        let path = jute_string("/v");
        session.send(&Request { kind: Kind::SetData, path: &path, data: b"abc" }, 0, 0);
        let expected = "00000019 00000001 00000005 00000002 2f76 00000003 616263 ffffffff";
        assert_eq!(session.out(), hex(expected));
    }

    #[test]
    fn replies_come_back_with_their_intended_times_however_the_bytes_are_cut() {
        let replies = hex("00000016 00000001 00000000 00000134 00000000 00000002 2f76 \
             00000010 fffffffe 00000000 00000134 00000000 \
             00000010 00000002 00000000 00000135 ffffff9b");
        for step in 1..=replies.len() {
            let mut session = ready();
            let path = jute_string("/v");
            for intended in [7, 8] {
                let request = Request { kind: Kind::SetData, path: &path, data: &[] };
                session.send(&request, intended, 9);
            }
            let mut all = Vec::new();
            for piece in replies.chunks(step) {
                all.extend(events(&mut session, piece).unwrap());
            }
            let asked = Asked::Load(Kind::SetData);
            assert_eq!(
                all,
                [
                    Event::Replied { asked, intended: 7, code: 0 },
                    Event::Replied { asked, intended: 8, code: -101 },
                ]
            );
            assert_eq!((session.outstanding(), session.zxid), (0, 0x135));
        }
    }

    #[test]
    fn a_reply_out_of_order_breaks_the_connection() {
        let mut session = ready();
        let request = Request { kind: Kind::Read, path: b"\0\0\0\x01/", data: &[] };
        session.send(&request, 0, 0);
        let wrong = hex("00000010 00000009 00000000 00000134 00000000");
        assert_eq!(events(&mut session, &wrong).unwrap_err().0, "replies are out of order");
        let mut session = ready();
        assert_eq!(events(&mut session, &wrong).unwrap_err().0, "a reply without a request");
    }

    #[test]
    fn a_length_that_is_none_breaks_the_connection() {
        for bytes in [[0xff; 4], *b"HTTP"] {
            assert!(events(&mut ready(), &bytes).is_err());
        }
        let mut session = ready();
        assert!(events(&mut session, &hex("00000004 00000001")).is_err());
    }

    #[test]
    fn a_session_comes_back_with_its_id_password_and_zxid() {
        let mut session = ready();
        session.send(&Request { kind: Kind::Read, path: b"\0\0\0\x01/", data: &[] }, 0, 0);
        let reply = hex("00000010 00000001 00000000 00000134 00000000");
        events(&mut session, &reply).unwrap();
        session.send(&Request { kind: Kind::Read, path: b"\0\0\0\x01/", data: &[] }, 0, 0);
        assert_eq!(session.disconnect(), 1);
        assert!(!session.is_ready() && session.out().is_empty());
        session.connect(0);
        let again = "0000002d 00000000 00000000 00000134 00002710 01000021 34d30004 00000010 \
                     3bdd69c2 d0f75f25 ba6ecba9 6845aa97 00";
        assert_eq!(session.out(), hex(again));
    }

    #[test]
    fn an_expired_session_is_opened_anew() {
        let mut session = ready();
        session.disconnect();
        session.connect(0);
        let refused =
            format!("00000025 00000000 00000000 {} 00000010 {} 00", "0".repeat(16), "0".repeat(32));
        assert_eq!(events(&mut session, &hex(&refused)).unwrap(), [Event::Expired]);
        session.connect(0);
        assert_eq!(session.out()[20..28], [0; 8]);
    }

    #[test]
    fn an_idle_session_pings_after_a_third_of_its_timeout() {
        let mut session = ready();
        assert!(!session.ping(3_333_000_000));
        assert!(session.ping(3_334_000_000));
        assert_eq!(session.out(), hex("00000008 fffffffe 0000000b"));
        assert!(!session.ping(3_335_000_000), "it has just spoken");
    }
}
