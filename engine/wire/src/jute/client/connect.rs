//! `ConnectRequest` and `ConnectResponse`: the first frame in each direction, without headers.
//!
//! Checks no password and grants no time-out.

use bytes::BytesMut;
use quorate_proto::{SessionId, Zxid};

use crate::DecodeError;
use crate::jute::archive::{Reader, Writer};

/// Bytes of a session's password.
pub const PASSWORD_LEN: usize = 16;

/// A client's first frame: 44 bytes with a password of 16, or 45 with the read-only field, which
/// clients send since 3.4 (the C client since 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRequest<'a> {
    /// 0; ignored.
    pub protocol_version: i32,
    /// The highest zxid that the client has seen in this session.
    pub last_zxid_seen: Zxid,
    /// The time-out it wants, milliseconds; any value.
    pub timeout_ms: i32,
    /// Its session, 0 for a new one.
    pub session: SessionId,
    /// What it presents as the session's password; null counts as empty, the length is its own.
    pub password: &'a [u8],
    /// Whether it would accept a read-only server; `None` if the field is absent, which the answer
    /// mirrors.
    pub read_only: Option<bool>,
}

impl ConnectRequest<'static> {
    /// Asks for a new session, as a client of today that has seen nothing yet.
    pub const fn fresh(timeout_ms: i32) -> Self {
        Self {
            protocol_version: 0,
            last_zxid_seen: Zxid::ZERO,
            timeout_ms,
            session: SessionId(0),
            password: &[0; PASSWORD_LEN],
            read_only: Some(false),
        }
    }
}

impl<'a> ConnectRequest<'a> {
    /// Reads a frame without its length.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] or [`DecodeError::BadLength`]; the connection is closed without a
    /// word.
    pub fn decode(frame: &'a [u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "connect request";
        let mut reader = Reader::new(frame);
        Ok(Self {
            protocol_version: reader.int(WHAT)?,
            last_zxid_seen: reader.zxid(WHAT)?,
            timeout_ms: reader.int(WHAT)?,
            session: SessionId(reader.long(WHAT)? as u64),
            password: reader.buffer(WHAT)?.unwrap_or_default(),
            read_only: trailing_boolean(&mut reader),
        })
    }

    /// Appends the frame with its length.
    pub fn encode(&self, out: &mut BytesMut) {
        Writer::new(out).framed(|writer| {
            writer.int(self.protocol_version);
            writer.zxid(self.last_zxid_seen);
            writer.int(self.timeout_ms);
            writer.long(self.session.0 as i64);
            writer.bytes(self.password);
            if let Some(read_only) = self.read_only {
                writer.boolean(read_only);
            }
        });
    }
}

/// Appends a server's first frame with its length: 36 bytes, or 37 if the request had the read-only
/// field (`has_read_only`), behind 4 of length. More would overrun the C client's buffer.
///
/// A refused session has time-out 0, session 0 and a password of zeros.
pub fn encode_connect_response(
    timeout_ms: i32,
    session: SessionId,
    password: &[u8; PASSWORD_LEN],
    has_read_only: bool,
    out: &mut BytesMut,
) {
    Writer::new(out).framed(|writer| {
        writer.int(0);
        writer.int(timeout_ms);
        writer.long(session.0 as i64);
        writer.bytes(password);
        if has_read_only {
            // This server is never read-only.
            writer.boolean(false);
        }
    });
}

/// A server's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// The time-out granted, milliseconds; 0 or less: the session is gone.
    pub timeout_ms: i32,
    /// The session; 0 if refused.
    pub session: SessionId,
    /// The session's password.
    pub password: [u8; PASSWORD_LEN],
    /// Whether the server is read-only; `None` if the field is absent.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// Reads a frame without its length.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::BadLength`], or [`DecodeError::WrongSize`] for a
    /// password that has not 16 bytes.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "connect response";
        let mut reader = Reader::new(frame);
        reader.int(WHAT)?;
        let timeout_ms = reader.int(WHAT)?;
        let session = SessionId(reader.long(WHAT)? as u64);
        let password = reader.bytes(WHAT)?;
        let password = password.try_into().map_err(|_| DecodeError::WrongSize {
            got: password.len() as u64,
            expected: PASSWORD_LEN as u64,
        })?;
        let read_only = trailing_boolean(&mut reader);
        Ok(Self { timeout_ms, session, password, read_only })
    }
}

fn trailing_boolean(reader: &mut Reader<'_>) -> Option<bool> {
    reader.boolean("read-only field").ok()
}
