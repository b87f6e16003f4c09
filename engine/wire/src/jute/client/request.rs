//! What clients ask: decoded for the server, encoded for load generators, embedders and tests.
//!
//! Paths, flags and lists are handed on as they came; whether they are allowed is the tree's
//! business.

use alloc::vec::Vec;

use bytes::BytesMut;
use quorate_tree::request::Query;
use quorate_tree::{Acl, Op, Request};

use crate::DecodeError;
use crate::jute::archive::{Reader, Writer};
use crate::jute::opcode;

/// The xid of a ping and of its answer.
pub const XID_PING: i32 = -2;
/// The xid of an auth packet and of its answer.
pub const XID_AUTH: i32 = -4;
/// The xid of setWatches and of its answer.
pub const XID_SET_WATCHES: i32 = -8;
/// Operations that one multi may have.
pub const MULTI_OPS_MAX: usize = 64 * 1024;

/// The two numbers in front of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The client's number for the request.
    pub xid: i32,
    /// The operation.
    pub opcode: i32,
}

impl RequestHeader {
    /// Bytes of a request header.
    pub const LEN: usize = 8;

    /// Splits a frame without its length into header and body.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]; the connection is closed.
    #[inline]
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        const WHAT: &str = "request header";
        let mut reader = Reader::new(frame);
        let header = Self { xid: reader.int(WHAT)?, opcode: reader.int(WHAT)? };
        Ok((header, reader.rest()))
    }
}

/// What a client's frame asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRequest<'a> {
    /// Changes the replicated state.
    Write(Request<'a>),
    /// Answered by the server that the client is connected to.
    Read(Query<'a>),
    /// sync (9).
    Sync {
        /// Echoed unchanged; null and nodes that do not exist are fine.
        path: Option<&'a [u8]>,
    },
    /// ping (11).
    Ping,
    /// auth (100).
    Auth(Auth<'a>),
    /// closeSession (-11).
    CloseSession,
}

/// An auth packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// The scheme; null counts as empty, which no server knows.
    pub scheme: &'a [u8],
    /// What the scheme wants to see; null counts as empty.
    pub auth: &'a [u8],
}

/// Reads the body of a request. Bytes behind the record are ignored, as ZooKeeper does.
///
/// # Errors
/// [`DecodeError::UnknownKind`] for an operation that is not served: answer with Unimplemented and
/// close. Anything else: answer with MarshallingError and keep the connection. Inside a multi an
/// alien operation is [`DecodeError::BadValue`], because there it spoils the request and not the
/// connection (client.md 1.8).
pub fn decode_request(opcode: i32, body: &[u8]) -> Result<ClientRequest<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    Ok(match opcode {
        opcode::CREATE | opcode::CREATE2 | opcode::DELETE | opcode::SET_DATA | opcode::SET_ACL => {
            ClientRequest::Write(Request::Single(decode_op(opcode, &mut reader)?))
        }
        opcode::MULTI => ClientRequest::Write(Request::Multi(decode_multi(&mut reader)?)),
        opcode::EXISTS
        | opcode::GET_DATA
        | opcode::GET_ACL
        | opcode::GET_CHILDREN
        | opcode::GET_CHILDREN2
        | opcode::SET_WATCHES => ClientRequest::Read(decode_query(opcode, &mut reader)?),
        opcode::SYNC => ClientRequest::Sync { path: reader.buffer("sync's path")? },
        opcode::PING => ClientRequest::Ping,
        opcode::AUTH => ClientRequest::Auth(decode_auth(body)?),
        opcode::CLOSE_SESSION => ClientRequest::CloseSession,
        _ => return Err(DecodeError::UnknownKind { got: opcode }),
    })
}

/// Reads the body of an auth packet.
///
/// # Errors
/// [`DecodeError::Truncated`] or [`DecodeError::BadLength`].
pub fn decode_auth(body: &[u8]) -> Result<Auth<'_>, DecodeError> {
    const WHAT: &str = "auth packet";
    let mut reader = Reader::new(body);
    reader.int(WHAT)?;
    let scheme = reader.buffer(WHAT)?.unwrap_or_default();
    let auth = reader.buffer(WHAT)?.unwrap_or_default();
    Ok(Auth { scheme, auth })
}

/// Reads one write's record. The caller has chosen an operation of this list.
fn decode_op<'a>(opcode: i32, reader: &mut Reader<'a>) -> Result<Op<'a>, DecodeError> {
    Ok(match opcode {
        opcode::CREATE | opcode::CREATE2 => Op::Create {
            path: reader.bytes("create's path")?,
            data: reader.buffer("create's data")?,
            acl: reader.acl()?,
            flags: reader.int("create's flags")?,
            with_stat: opcode == opcode::CREATE2,
        },
        opcode::DELETE => Op::Delete {
            path: reader.bytes("delete's path")?,
            version: reader.int("delete's version")?,
        },
        opcode::SET_DATA => Op::SetData {
            path: reader.bytes("setData's path")?,
            data: reader.buffer("setData's data")?,
            version: reader.int("setData's version")?,
        },
        opcode::SET_ACL => Op::SetAcl {
            path: reader.bytes("setACL's path")?,
            acl: reader.acl()?,
            version: reader.int("setACL's version")?,
        },
        opcode::CHECK => Op::Check {
            path: reader.bytes("check's path")?,
            version: reader.int("check's version")?,
        },
        _ => return Err(DecodeError::UnknownKind { got: opcode }),
    })
}

fn decode_query<'a>(opcode: i32, reader: &mut Reader<'a>) -> Result<Query<'a>, DecodeError> {
    const PATH: &str = "path of a read";
    const WATCH: &str = "watch flag";
    const WATCHES: &str = "setWatches";
    Ok(match opcode {
        opcode::EXISTS => {
            Query::Exists { path: reader.bytes(PATH)?, watch: reader.boolean(WATCH)? }
        }
        opcode::GET_DATA => {
            Query::GetData { path: reader.bytes(PATH)?, watch: reader.boolean(WATCH)? }
        }
        opcode::GET_ACL => Query::GetAcl { path: reader.bytes(PATH)? },
        opcode::GET_CHILDREN | opcode::GET_CHILDREN2 => Query::GetChildren {
            path: reader.bytes(PATH)?,
            watch: reader.boolean(WATCH)?,
            with_stat: opcode == opcode::GET_CHILDREN2,
        },
        opcode::SET_WATCHES => Query::SetWatches {
            relative_zxid: reader.long(WATCHES)?,
            data: reader.strings(WATCHES)?,
            exist: reader.strings(WATCHES)?,
            child: reader.strings(WATCHES)?,
        },
        _ => return Err(DecodeError::UnknownKind { got: opcode }),
    })
}

/// Reads a multi's operations in one pass: each behind its MultiHeader (type, done, err), until one
/// says done.
fn decode_multi<'a>(reader: &mut Reader<'a>) -> Result<Vec<Op<'a>>, DecodeError> {
    const HEADER: &str = "header inside a multi";
    let mut ops = Vec::new();
    loop {
        let opcode = reader.int(HEADER)?;
        let done = reader.boolean(HEADER)?;
        reader.int(HEADER)?;
        if done {
            return Ok(ops);
        }
        if ops.len() == MULTI_OPS_MAX {
            let (got, max) = (ops.len() as i64 + 1, MULTI_OPS_MAX as u64);
            return Err(DecodeError::BadLength { got, max });
        }
        ops.push(match opcode {
            opcode::CREATE
            | opcode::CREATE2
            | opcode::DELETE
            | opcode::SET_DATA
            | opcode::CHECK => decode_op(opcode, reader)?,
            _ => return Err(DecodeError::BadValue { what: "operation inside a multi" }),
        });
    }
}

/// Appends a request as a client sends it, with its length. A ping and an auth packet have xids of
/// their own, whatever `xid` says. [`Request::CreateSession`] and [`Request::Refused`] are internal
/// and become frames that no server accepts.
pub fn encode_request(xid: i32, request: &ClientRequest<'_>, out: &mut BytesMut) {
    match request {
        ClientRequest::Write(request) => encode_write(xid, request, out),
        ClientRequest::Read(query) => encode_query(xid, query, out),
        ClientRequest::Sync { path } => {
            encode_framed(xid, opcode::SYNC, out, |writer| writer.buffer(*path));
        }
        ClientRequest::Ping => encode_ping(out),
        ClientRequest::Auth(auth) => encode_auth(auth.scheme, auth.auth, out),
        ClientRequest::CloseSession => encode_close_session(xid, out),
    }
}

fn encode_write(xid: i32, request: &Request<'_>, out: &mut BytesMut) {
    match request {
        Request::Single(op) => encode_op(xid, op, out),
        Request::Multi(ops) => encode_multi(xid, ops, out),
        Request::CreateSession { timeout_ms } => {
            encode_framed(xid, opcode::CREATE_SESSION, out, |writer| writer.int(*timeout_ms));
        }
        Request::CloseSession => encode_close_session(xid, out),
        Request::Refused(code) => {
            encode_framed(xid, opcode::ERROR, out, |writer| writer.int(code.code()));
        }
    }
}

fn encode_query(xid: i32, query: &Query<'_>, out: &mut BytesMut) {
    match query {
        Query::Exists { path, watch } => encode_exists(xid, path, *watch, out),
        Query::GetData { path, watch } => encode_get_data(xid, path, *watch, out),
        Query::GetAcl { path } => {
            encode_framed(xid, opcode::GET_ACL, out, |writer| writer.bytes(path));
        }
        Query::GetChildren { path, watch, with_stat } => {
            encode_get_children(xid, path, *watch, *with_stat, out);
        }
        Query::SetWatches { relative_zxid, data, exist, child } => {
            encode_framed(xid, opcode::SET_WATCHES, out, |writer| {
                writer.long(*relative_zxid);
                writer.strings(data);
                writer.strings(exist);
                writer.strings(child);
            });
        }
    }
}

/// Appends create (1), or create2 (15) if the reply shall carry a Stat.
pub fn encode_create(
    xid: i32,
    path: &[u8],
    data: Option<&[u8]>,
    acl: &[Acl],
    flags: i32,
    with_stat: bool,
    out: &mut BytesMut,
) {
    let opcode = if with_stat { opcode::CREATE2 } else { opcode::CREATE };
    encode_framed(xid, opcode, out, |writer| put_create(path, data, acl, flags, writer));
}

/// Appends delete (2).
pub fn encode_delete(xid: i32, path: &[u8], version: i32, out: &mut BytesMut) {
    encode_op(xid, &Op::Delete { path, version }, out);
}

/// Appends setData (5).
pub fn encode_set_data(
    xid: i32,
    path: &[u8],
    data: Option<&[u8]>,
    version: i32,
    out: &mut BytesMut,
) {
    encode_op(xid, &Op::SetData { path, data, version }, out);
}

/// Appends exists (3).
pub fn encode_exists(xid: i32, path: &[u8], watch: bool, out: &mut BytesMut) {
    encode_watched(xid, opcode::EXISTS, path, watch, out);
}

/// Appends getData (4).
pub fn encode_get_data(xid: i32, path: &[u8], watch: bool, out: &mut BytesMut) {
    encode_watched(xid, opcode::GET_DATA, path, watch, out);
}

/// Appends getChildren (8), or getChildren2 (12) if the reply shall carry the parent's Stat.
pub fn encode_get_children(
    xid: i32,
    path: &[u8],
    watch: bool,
    with_stat: bool,
    out: &mut BytesMut,
) {
    let opcode = if with_stat { opcode::GET_CHILDREN2 } else { opcode::GET_CHILDREN };
    encode_watched(xid, opcode, path, watch, out);
}

/// Appends sync (9).
pub fn encode_sync(xid: i32, path: &[u8], out: &mut BytesMut) {
    encode_framed(xid, opcode::SYNC, out, |writer| writer.bytes(path));
}

/// Appends multi (14).
pub fn encode_multi(xid: i32, ops: &[Op<'_>], out: &mut BytesMut) {
    encode_framed(xid, opcode::MULTI, out, |writer| {
        for op in ops {
            put_multi_header(opcode_of(op), false, -1, writer);
            put_op(op, writer);
        }
        put_multi_header(-1, true, -1, writer);
    });
}

/// Appends ping (11).
pub fn encode_ping(out: &mut BytesMut) {
    encode_framed(XID_PING, opcode::PING, out, |_| {});
}

/// Appends an auth packet (100).
pub fn encode_auth(scheme: &[u8], auth: &[u8], out: &mut BytesMut) {
    encode_framed(XID_AUTH, opcode::AUTH, out, |writer| {
        writer.int(0);
        writer.bytes(scheme);
        writer.bytes(auth);
    });
}

/// Appends closeSession (-11).
pub fn encode_close_session(xid: i32, out: &mut BytesMut) {
    encode_framed(xid, opcode::CLOSE_SESSION, out, |_| {});
}

fn encode_op(xid: i32, op: &Op<'_>, out: &mut BytesMut) {
    encode_framed(xid, opcode_of(op), out, |writer| put_op(op, writer));
}

fn encode_watched(xid: i32, opcode: i32, path: &[u8], watch: bool, out: &mut BytesMut) {
    encode_framed(xid, opcode, out, |writer| {
        writer.bytes(path);
        writer.boolean(watch);
    });
}

fn encode_framed(xid: i32, opcode: i32, out: &mut BytesMut, body: impl FnOnce(&mut Writer<'_>)) {
    Writer::new(out).framed(|writer| {
        writer.int(xid);
        writer.int(opcode);
        body(writer);
    });
}

/// The operation code of a write.
pub const fn opcode_of(op: &Op<'_>) -> i32 {
    match op {
        Op::Create { with_stat: false, .. } => opcode::CREATE,
        Op::Create { with_stat: true, .. } => opcode::CREATE2,
        Op::Delete { .. } => opcode::DELETE,
        Op::SetData { .. } => opcode::SET_DATA,
        Op::SetAcl { .. } => opcode::SET_ACL,
        Op::Check { .. } => opcode::CHECK,
    }
}

fn put_op(op: &Op<'_>, writer: &mut Writer<'_>) {
    match op {
        Op::Create { path, data, acl, flags, with_stat: _ } => {
            put_create(path, *data, acl, *flags, writer);
        }
        Op::Delete { path, version } | Op::Check { path, version } => {
            writer.bytes(path);
            writer.int(*version);
        }
        Op::SetData { path, data, version } => {
            writer.bytes(path);
            writer.buffer(*data);
            writer.int(*version);
        }
        Op::SetAcl { path, acl, version } => {
            writer.bytes(path);
            writer.acl(acl);
            writer.int(*version);
        }
    }
}

fn put_create(path: &[u8], data: Option<&[u8]>, acl: &[Acl], flags: i32, writer: &mut Writer<'_>) {
    writer.bytes(path);
    writer.buffer(data);
    writer.acl(acl);
    writer.int(flags);
}

/// A MultiHeader: 9 bytes.
pub(super) fn put_multi_header(kind: i32, done: bool, err: i32, writer: &mut Writer<'_>) {
    writer.int(kind);
    writer.boolean(done);
    writer.int(err);
}
