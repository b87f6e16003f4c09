//! What learners send on behalf of clients: `ForwardedRequest` and `Touches`.
//!
//! A request's body stays in the client's own encoding; nothing here looks into it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::BytesMut;
use quorate_proto::SessionId;
use quorate_tree::acl::Id;
use rkyv::rend::unaligned::{i32_ule, u32_ule, u64_ule};

use crate::{DecodeError, Frame};

portable! {
    struct RequestHead [20] {
        session: u64_ule,
        cxid: i32_ule,
        opcode: i32_ule,
        ids: u32_ule,
    }
}

portable! {
    struct IdHead [8] {
        scheme_len: u32_ule,
        id_len: u32_ule,
    }
}

portable! {
    struct Touch [12] {
        session: u64_ule,
        timeout_ms: i32_ule,
    }
}

/// A client's write or sync on its way to the leader; the payload of
/// [`ToLeader::Request`](quorate_proto::ToLeader::Request).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedRequest {
    /// The client's session.
    pub session: SessionId,
    /// The client's number for the request.
    pub cxid: i32,
    /// The operation.
    pub opcode: i32,
    /// Who the client's connection has proved to be.
    pub ids: Vec<Id>,
    /// The request as the client sent it, without its header.
    pub body: Frame,
}

impl ForwardedRequest {
    /// Appends the payload: head, identities, body.
    pub fn encode(&self, out: &mut BytesMut) {
        let ids_len: usize = self.ids.iter().map(id_len).sum();
        out.reserve(RequestHead::LEN + ids_len + self.body.len());
        let head = RequestHead {
            session: self.session.0.into(),
            cxid: self.cxid.into(),
            opcode: self.opcode.into(),
            ids: len_u32(self.ids.len()).into(),
        };
        out.extend_from_slice(&head.to_bytes());
        for id in &self.ids {
            put_id(id, out);
        }
        out.extend_from_slice(&self.body);
    }

    /// Reads a payload; the body shares its buffer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] or [`DecodeError::BadLength`]; nothing is allocated for a count or
    /// a length that the payload cannot hold.
    pub fn decode(payload: &Frame) -> Result<Self, DecodeError> {
        let short = DecodeError::Truncated { what: "forwarded request" };
        let head = RequestHead::read(payload).ok_or(short)?;
        let mut rest = &payload[RequestHead::LEN..];
        let count = head.ids.to_native() as usize;
        if count > rest.len() / IdHead::LEN {
            let max = (rest.len() / IdHead::LEN) as u64;
            return Err(DecodeError::BadLength { got: count as i64, max });
        }
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let short = DecodeError::Truncated { what: "identity of a forwarded request" };
            ids.push(take_id(&mut rest).ok_or(short)?);
        }
        Ok(Self {
            session: SessionId(head.session.to_native()),
            cxid: head.cxid.to_native(),
            opcode: head.opcode.to_native(),
            ids,
            body: payload.slice(payload.len() - rest.len()..),
        })
    }
}

/// The sessions that a learner has heard of since the last PING, with their time-outs; the payload
/// of [`ToLeader::Ping`](quorate_proto::ToLeader::Ping). No session is no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touches<'a>(&'a [u8]);

impl<'a> Touches<'a> {
    /// Appends sessions with their time-outs in milliseconds.
    pub fn encode(touches: impl IntoIterator<Item = (SessionId, i32)>, out: &mut BytesMut) {
        for (session, timeout_ms) in touches {
            let touch = Touch { session: session.0.into(), timeout_ms: timeout_ms.into() };
            out.extend_from_slice(&touch.to_bytes());
        }
    }

    /// A list over a payload, read in place.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if it ends inside an entry.
    pub const fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        if payload.len().is_multiple_of(Touch::LEN) {
            Ok(Self(payload))
        } else {
            Err(DecodeError::Truncated { what: "touched session" })
        }
    }

    /// How many sessions are listed.
    pub const fn len(&self) -> usize {
        self.0.len() / Touch::LEN
    }

    /// Whether no session is listed.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sessions with their time-outs in milliseconds, in the order encoded.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, i32)> + use<'a> {
        self.0
            .chunks_exact(Touch::LEN)
            .filter_map(Touch::read)
            .map(|touch| (SessionId(touch.session.to_native()), touch.timeout_ms.to_native()))
    }
}

/// A length in its wire form. Whatever is encoded was received under a frame limit far below 4 GiB.
pub(super) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("frames are far below 4 GiB")
}

/// Cuts `len` bytes off the front.
pub(super) fn take<'a>(rest: &mut &'a [u8], len: u32) -> Option<&'a [u8]> {
    let (taken, behind) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = behind;
    Some(taken)
}

/// Bytes of an identity.
pub(super) fn id_len(id: &Id) -> usize {
    IdHead::LEN + id.scheme.len() + id.id.len()
}

/// Appends an identity.
pub(super) fn put_id(id: &Id, out: &mut BytesMut) {
    let head =
        IdHead { scheme_len: len_u32(id.scheme.len()).into(), id_len: len_u32(id.id.len()).into() };
    out.extend_from_slice(&head.to_bytes());
    out.extend_from_slice(&id.scheme);
    out.extend_from_slice(&id.id);
}

/// Cuts an identity off the front.
pub(super) fn take_id(rest: &mut &[u8]) -> Option<Id> {
    let head = *IdHead::read(rest)?;
    *rest = &rest[IdHead::LEN..];
    let scheme = Box::from(take(rest, head.scheme_len.to_native())?);
    let id = Box::from(take(rest, head.id_len.to_native())?);
    Some(Id { scheme, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, assert_truncation_fails, hex};

    fn id(scheme: &[u8], id: &[u8]) -> Id {
        Id { scheme: Box::from(scheme), id: Box::from(id) }
    }

    #[test]
    fn any_forwarded_request_comes_back_and_shares_its_buffer() {
        let mut rng = Rng::new(21);
        for _ in 0..300 {
            let count = rng.below(4);
            let request = ForwardedRequest {
                session: SessionId(rng.next()),
                cxid: rng.next() as i32,
                opcode: rng.next() as i32,
                ids: (0..count).map(|_| id(&rng.bytes(12), &rng.bytes(40))).collect(),
                body: Frame::copy_from(&rng.bytes(200)),
            };
            let mut out = BytesMut::new();
            request.encode(&mut out);
            let payload = Frame::new(out.freeze());
            let decoded = ForwardedRequest::decode(&payload).unwrap();
            assert_eq!(decoded, request);
            let end = payload.as_ptr_range().end;
            assert_eq!(decoded.body.as_ptr_range().end, end);
        }
    }

    #[test]
    fn a_forwarded_request_has_frozen_bytes_and_is_refused_when_cut() {
        let request = ForwardedRequest {
            session: SessionId(0x0100_0000_0000_0007),
            cxid: 5,
            opcode: -10,
            ids: alloc::vec![id(b"ip", b"::1")],
            body: Frame::default(),
        };
        let mut out = BytesMut::new();
        request.encode(&mut out);
        let golden = "0700000000000001 05000000 f6ffffff 01000000 02000000 03000000 6970 3a3a31";
        assert_eq!(out, hex(golden));
        assert_truncation_fails(&out, |b| ForwardedRequest::decode(&Frame::copy_from(b)).is_err());
    }

    #[test]
    fn a_count_that_the_payload_cannot_hold_is_refused_before_allocation() {
        let mut bytes = hex("0700000000000001 05000000 f6ffffff ffffffff");
        bytes.extend_from_slice(&[0; 16]);
        let refused = ForwardedRequest::decode(&Frame::copy_from(&bytes));
        assert_eq!(refused, Err(DecodeError::BadLength { got: u32::MAX.into(), max: 2 }));
        bytes[16..20].copy_from_slice(&1u32.to_le_bytes());
        bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(ForwardedRequest::decode(&Frame::copy_from(&bytes)).is_err());
    }

    #[test]
    fn touched_sessions_come_back_in_order_and_none_is_no_bytes() {
        let touched: Vec<(SessionId, i32)> =
            (0..50).map(|n| (SessionId(n << 40), 1000 + n as i32)).collect();
        let mut out = BytesMut::new();
        Touches::encode(touched.iter().copied(), &mut out);
        let touches = Touches::decode(&out).unwrap();
        assert_eq!(touches.len(), 50);
        assert_eq!(touches.iter().collect::<Vec<_>>(), touched);
        assert!(Touches::decode(&out[..13]).is_err());
        assert!(Touches::decode(&[]).unwrap().is_empty());
        let mut out = BytesMut::new();
        Touches::encode([(SessionId(1), 10_000)], &mut out);
        assert_eq!(out, hex("0100000000000000 10270000"));
    }
}
