//! What servers answer: encoded with framing and header, decoded for clients.
//!
//! Chooses no xid, zxid or error: those are arguments. A body never follows an error.

use alloc::vec::Vec;

use bytes::BytesMut;
pub use quorate_tree::WatchKind as EventKind;
use quorate_tree::{Acl, Stat};

use super::request::put_multi_header;
use crate::DecodeError;
use crate::jute::archive::{Reader, Writer};
use crate::jute::opcode;

/// The xid of a watch event.
pub const XID_EVENT: i32 = -1;
/// The only state that a server sends in a watch event, SyncConnected.
const STATE_SYNC_CONNECTED: i32 = 3;

/// The fields in front of every reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The request's number, or one of the special ones.
    pub xid: i32,
    /// The last transaction that the server had applied; 0 or -1 where there is nothing to say.
    pub zxid: i64,
    /// 0, or why the request was refused (see [`ErrorCode`](quorate_tree::ErrorCode)).
    pub err: i32,
}

impl ReplyHeader {
    /// Bytes of a reply header.
    pub const LEN: usize = 16;

    /// Splits a frame without its length into header and body.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        const WHAT: &str = "reply header";
        let mut reader = Reader::new(frame);
        let (xid, zxid, err) = (reader.int(WHAT)?, reader.long(WHAT)?, reader.int(WHAT)?);
        Ok((Self { xid, zxid, err }, reader.rest()))
    }
}

// --- the server's side ---------------------------------------------------------------------------

/// Appends a whole reply without a body: errors, and delete, ping, auth, setWatches, closeSession.
#[inline]
pub fn encode_reply_header(xid: i32, zxid: i64, err: i32, out: &mut BytesMut) {
    let mut bytes = [0; 4 + ReplyHeader::LEN];
    bytes[3] = ReplyHeader::LEN as u8;
    bytes[4..8].copy_from_slice(&xid.to_be_bytes());
    bytes[8..16].copy_from_slice(&zxid.to_be_bytes());
    bytes[16..].copy_from_slice(&err.to_be_bytes());
    out.extend_from_slice(&bytes);
}

/// Appends a reply with a body that `body` writes.
#[inline]
pub fn encode_reply(xid: i32, zxid: i64, out: &mut BytesMut, body: impl FnOnce(&mut Writer<'_>)) {
    let start = out.len();
    encode_reply_header(xid, zxid, 0, out);
    body(&mut Writer::new(out));
    let len = i32::try_from(out.len() - start - 4).expect("a reply is far below 2 GiB");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

/// Appends the reply to create: the final path.
pub fn encode_create_reply(xid: i32, zxid: i64, path: &[u8], out: &mut BytesMut) {
    encode_reply(xid, zxid, out, |writer| writer.bytes(path));
}

/// Appends the reply to create2: the final path and the Stat.
pub fn encode_create2_reply(xid: i32, zxid: i64, path: &[u8], stat: &Stat, out: &mut BytesMut) {
    encode_reply(xid, zxid, out, |writer| {
        writer.bytes(path);
        writer.stat(stat);
    });
}

/// Appends the reply to exists, setData and setACL.
pub fn encode_stat_reply(xid: i32, zxid: i64, stat: &Stat, out: &mut BytesMut) {
    encode_reply(xid, zxid, out, |writer| writer.stat(stat));
}

/// Appends the reply to getData.
pub fn encode_data_reply(
    xid: i32,
    zxid: i64,
    data: Option<&[u8]>,
    stat: &Stat,
    out: &mut BytesMut,
) {
    encode_reply(xid, zxid, out, |writer| {
        writer.buffer(data);
        writer.stat(stat);
    });
}

/// Appends the reply to getACL.
pub fn encode_acl_reply(xid: i32, zxid: i64, acl: &[Acl], stat: &Stat, out: &mut BytesMut) {
    encode_reply(xid, zxid, out, |writer| {
        writer.acl(acl);
        writer.stat(stat);
    });
}

/// Appends the reply to getChildren, or with the parent's Stat to getChildren2.
pub fn encode_children_reply<S: AsRef<[u8]>>(
    xid: i32,
    zxid: i64,
    children: impl IntoIterator<Item = S>,
    stat: Option<&Stat>,
    out: &mut BytesMut,
) {
    encode_reply(xid, zxid, out, |writer| {
        writer.strings(children);
        if let Some(stat) = stat {
            writer.stat(stat);
        }
    });
}

/// Appends the reply to sync from the request's body: both are the same record, a path, which may be
/// null. Bytes behind the record, or a body that is none, are not echoed.
pub fn encode_sync_reply(xid: i32, zxid: i64, request_body: &[u8], out: &mut BytesMut) {
    let path = Reader::new(request_body).buffer("sync's path").unwrap_or_default();
    encode_reply(xid, zxid, out, |writer| writer.buffer(path));
}

/// One operation's part of the reply to a multi.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpResult<'a> {
    /// create: the final path.
    Create {
        /// The final path.
        path: &'a [u8],
    },
    /// create2.
    Create2 {
        /// The final path.
        path: &'a [u8],
        /// The Stat right after the operation.
        stat: Stat,
    },
    /// delete.
    Delete,
    /// setData.
    SetData {
        /// The Stat right after the operation.
        stat: Stat,
    },
    /// check.
    Check,
    /// In a multi that failed, every operation: 0 before the one that failed, its code, then -2
    /// (RuntimeInconsistency).
    Error(i32),
}

/// Appends the reply to a multi. The header's error is 0 for a failed one too.
pub fn encode_multi_reply<'a>(
    xid: i32,
    zxid: i64,
    results: impl IntoIterator<Item = OpResult<'a>>,
    out: &mut BytesMut,
) {
    encode_reply(xid, zxid, out, |writer| {
        for result in results {
            put_result(&result, writer);
        }
        put_multi_header(-1, true, -1, writer);
    });
}

fn put_result(result: &OpResult<'_>, writer: &mut Writer<'_>) {
    match result {
        OpResult::Create { path } => {
            put_multi_header(opcode::CREATE, false, 0, writer);
            writer.bytes(path);
        }
        OpResult::Create2 { path, stat } => {
            put_multi_header(opcode::CREATE2, false, 0, writer);
            writer.bytes(path);
            writer.stat(stat);
        }
        OpResult::Delete => put_multi_header(opcode::DELETE, false, 0, writer),
        OpResult::SetData { stat } => {
            put_multi_header(opcode::SET_DATA, false, 0, writer);
            writer.stat(stat);
        }
        OpResult::Check => put_multi_header(opcode::CHECK, false, 0, writer),
        OpResult::Error(code) => {
            put_multi_header(-1, false, *code, writer);
            writer.int(*code);
        }
    }
}

/// Appends a watch event. `zxid` is the transaction that fired it, or -1 for an event that
/// setWatches replays.
pub fn encode_watch_event(zxid: i64, kind: EventKind, path: &[u8], out: &mut BytesMut) {
    encode_reply(XID_EVENT, zxid, out, |writer| {
        writer.int(kind as i32);
        writer.int(STATE_SYNC_CONNECTED);
        writer.bytes(path);
    });
}

// --- the client's side ---------------------------------------------------------------------------

/// Reads the body of a reply to create or sync: a path. A sync's may be null, which counts as empty.
///
/// # Errors
/// Like its neighbours, [`DecodeError::Truncated`] or [`DecodeError::BadLength`].
pub fn decode_path(body: &[u8]) -> Result<&[u8], DecodeError> {
    Ok(Reader::new(body).buffer("path of a reply")?.unwrap_or_default())
}

/// Reads the body of a reply to create2.
///
/// # Errors
/// See [`decode_path`].
pub fn decode_path_and_stat(body: &[u8]) -> Result<(&[u8], Stat), DecodeError> {
    let mut reader = Reader::new(body);
    Ok((reader.bytes("path of a reply")?, reader.stat()?))
}

/// Reads the body of a reply to exists, setData or setACL.
///
/// # Errors
/// See [`decode_path`].
pub fn decode_stat(body: &[u8]) -> Result<Stat, DecodeError> {
    Reader::new(body).stat()
}

/// Reads the body of a reply to getData.
///
/// # Errors
/// See [`decode_path`].
pub fn decode_data_and_stat(body: &[u8]) -> Result<(Option<&[u8]>, Stat), DecodeError> {
    let mut reader = Reader::new(body);
    Ok((reader.buffer("data of a reply")?, reader.stat()?))
}

/// Reads the body of a reply to getACL.
///
/// # Errors
/// See [`decode_path`].
pub fn decode_acl_and_stat(body: &[u8]) -> Result<(Vec<Acl>, Stat), DecodeError> {
    let mut reader = Reader::new(body);
    Ok((reader.acl()?, reader.stat()?))
}

/// Reads the body of a reply to getChildren.
///
/// # Errors
/// See [`decode_path`].
pub fn decode_children(body: &[u8]) -> Result<Vec<&[u8]>, DecodeError> {
    Reader::new(body).strings("children of a reply")
}

/// Reads the body of a reply to getChildren2.
///
/// # Errors
/// See [`decode_path`].
pub fn decode_children_and_stat(body: &[u8]) -> Result<(Vec<&[u8]>, Stat), DecodeError> {
    let mut reader = Reader::new(body);
    Ok((reader.strings("children of a reply")?, reader.stat()?))
}

/// Reads the body of a reply to a multi.
///
/// # Errors
/// See [`decode_path`]; [`DecodeError::UnknownKind`] for a result that no multi has, and
/// [`DecodeError::BadValue`] for a failed one whose two codes differ.
pub fn decode_multi_reply(body: &[u8]) -> Result<Vec<OpResult<'_>>, DecodeError> {
    const HEADER: &str = "header inside a multi's reply";
    const PATH: &str = "path inside a multi's reply";
    let mut reader = Reader::new(body);
    let mut results = Vec::new();
    loop {
        let kind = reader.int(HEADER)?;
        let done = reader.boolean(HEADER)?;
        let err = reader.int(HEADER)?;
        if done {
            return Ok(results);
        }
        results.push(match kind {
            opcode::CREATE => OpResult::Create { path: reader.bytes(PATH)? },
            opcode::CREATE2 => {
                OpResult::Create2 { path: reader.bytes(PATH)?, stat: reader.stat()? }
            }
            opcode::DELETE => OpResult::Delete,
            opcode::SET_DATA => OpResult::SetData { stat: reader.stat()? },
            opcode::CHECK => OpResult::Check,
            opcode::ERROR => {
                if reader.int("error inside a multi's reply")? != err {
                    return Err(DecodeError::BadValue { what: "error inside a multi's reply" });
                }
                OpResult::Error(err)
            }
            _ => return Err(DecodeError::UnknownKind { got: kind }),
        });
    }
}

/// A watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchEvent<'a> {
    /// What happened.
    pub kind: EventKind,
    /// The connection's state; servers send 3, SyncConnected.
    pub state: i32,
    /// Where.
    pub path: &'a [u8],
}

impl<'a> WatchEvent<'a> {
    /// Reads the body behind a reply header whose xid is [`XID_EVENT`].
    ///
    /// # Errors
    /// See [`decode_path`]; [`DecodeError::UnknownKind`] for an event that does not exist.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "watch event";
        let mut reader = Reader::new(body);
        let kind = match reader.int(WHAT)? {
            1 => EventKind::NodeCreated,
            2 => EventKind::NodeDeleted,
            3 => EventKind::NodeDataChanged,
            4 => EventKind::NodeChildrenChanged,
            got => return Err(DecodeError::UnknownKind { got }),
        };
        Ok(Self { kind, state: reader.int(WHAT)?, path: reader.bytes(WHAT)? })
    }
}
