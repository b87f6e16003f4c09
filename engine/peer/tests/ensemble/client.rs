//! A client at the other end of an in-memory connection: jute bytes out, frames in. Decides nothing.

use bytes::BytesMut;
use quorate_proto::{SessionId, Zxid};
use quorate_tree::acl::Acl;
use quorate_wire::Frame;
use quorate_wire::jute::client::{
    self as jute, ConnectRequest, ConnectResponse, EventKind, ReplyHeader, WatchEvent,
};
use quorate_wire::reader::{FrameReader, Framing};

/// What a client heard, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The answer to its first frame.
    Session {
        id: SessionId,
        timeout_ms: i32,
    },
    Reply {
        xid: i32,
        zxid: i64,
        err: i32,
        body: Vec<u8>,
    },
    Event {
        kind: EventKind,
        path: String,
    },
    /// The server closed.
    Closed,
    /// Bytes that are no frames: an administrator's answer.
    Text(String),
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) server: usize,
    pub(crate) heard: Vec<Heard>,
    pub(crate) session: SessionId,
    pub(crate) password: Vec<u8>,
    pub(crate) zxid_seen: i64,
    pub(crate) closed: bool,
    pub(crate) next_xid: i32,
    /// How many of `heard` the test has looked at.
    pub(crate) seen: usize,
    reader: FrameReader,
    is_text: bool,
}

impl Client {
    pub(crate) fn new(server: usize, is_text: bool) -> Self {
        Self {
            server,
            heard: Vec::new(),
            session: SessionId(0),
            password: Vec::new(),
            zxid_seen: 0,
            closed: false,
            next_xid: 1,
            seen: 0,
            reader: FrameReader::new(Framing::Jute { max: 8 << 20 }),
            is_text,
        }
    }

    pub(crate) fn hear(&mut self, bytes: Frame) {
        if self.is_text {
            let more = String::from_utf8_lossy(&bytes);
            match self.heard.last_mut() {
                Some(Heard::Text(text)) => text.push_str(&more),
                _ => self.heard.push(Heard::Text(more.into_owned())),
            }
            return;
        }
        self.reader.push(bytes.into_bytes());
        while let Some(frame) = self.reader.next_frame().expect("a server sends whole frames") {
            let heard = self.read(&frame);
            self.heard.push(heard);
        }
    }

    fn read(&mut self, frame: &[u8]) -> Heard {
        if self.heard.is_empty() {
            let answer = ConnectResponse::decode(frame).expect("an answer to the first frame");
            self.session = answer.session;
            self.password = answer.password.to_vec();
            return Heard::Session { id: answer.session, timeout_ms: answer.timeout_ms };
        }
        let (header, body) = ReplyHeader::decode(frame).expect("a reply has a header");
        if header.xid == jute::XID_EVENT {
            let event = WatchEvent::decode(body).expect("a watch event");
            let path = String::from_utf8(event.path.to_vec()).expect("paths are text");
            return Heard::Event { kind: event.kind, path };
        }
        if header.zxid > 0 {
            // C2, C3: what a session sees never goes back.
            assert!(
                header.zxid >= self.zxid_seen,
                "zxid {:#x} after {:#x}",
                header.zxid,
                self.zxid_seen
            );
            self.zxid_seen = header.zxid;
        }
        Heard::Reply { xid: header.xid, zxid: header.zxid, err: header.err, body: body.to_vec() }
    }

    pub(crate) fn xid(&mut self) -> i32 {
        self.next_xid += 1;
        self.next_xid - 1
    }
}

pub(crate) fn encoded(encode: impl FnOnce(&mut BytesMut)) -> Frame {
    let mut out = BytesMut::new();
    encode(&mut out);
    Frame::from(out.freeze())
}

pub(crate) fn connect(session: SessionId, password: &[u8], timeout_ms: i32, seen: i64) -> Frame {
    encoded(|out| {
        ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid::from_u64(seen as u64),
            timeout_ms,
            session,
            password,
            read_only: Some(false),
        }
        .encode(out);
    })
}

pub(crate) const PERSISTENT: i32 = 0;
pub(crate) const EPHEMERAL: i32 = 1;

pub(crate) fn create(xid: i32, path: &str, data: &[u8], flags: i32) -> Frame {
    let acl = [Acl::open()];
    encoded(|out| jute::encode_create(xid, path.as_bytes(), Some(data), &acl, flags, false, out))
}

pub(crate) fn set(xid: i32, path: &str, data: &[u8]) -> Frame {
    encoded(|out| jute::encode_set_data(xid, path.as_bytes(), Some(data), -1, out))
}

pub(crate) fn delete(xid: i32, path: &str) -> Frame {
    encoded(|out| jute::encode_delete(xid, path.as_bytes(), -1, out))
}

pub(crate) fn get(xid: i32, path: &str, watch: bool) -> Frame {
    encoded(|out| jute::encode_get_data(xid, path.as_bytes(), watch, out))
}

pub(crate) fn exists(xid: i32, path: &str, watch: bool) -> Frame {
    encoded(|out| jute::encode_exists(xid, path.as_bytes(), watch, out))
}

pub(crate) fn sync(xid: i32, path: &str) -> Frame {
    encoded(|out| jute::encode_sync(xid, path.as_bytes(), out))
}

pub(crate) fn ping() -> Frame {
    encoded(jute::encode_ping)
}

pub(crate) fn close(xid: i32) -> Frame {
    encoded(|out| jute::encode_close_session(xid, out))
}

pub(crate) fn request(xid: i32, request: &jute::ClientRequest<'_>) -> Frame {
    encoded(|out| jute::encode_request(xid, request, out))
}
