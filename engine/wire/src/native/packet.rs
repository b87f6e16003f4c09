//! `ToLeader` and `ToLearner` as native frames.
//!
//! Judges no packet: whether it may come now is the protocol's business. Decoders expect frames that
//! a [`FrameReader`](crate::FrameReader) has verified, and hand out payloads as slices of them.

use core::time::Duration;

use bytes::BytesMut;
use quorate_proto::{Epoch, ServerId, SessionId, ToLeader, ToLearner, Zxid};
use rkyv::rend::unaligned::{u32_ule, u64_ule};

use super::header::{self, Kind, Opened, encode_frame, payload};
pub use super::proposal::{
    ProposalEncoder, is_proposal, proposal_body, proposal_committed, proposal_zxid, verify_proposal,
};
use crate::{DecodeError, Frame};

portable! {
    struct LearnerInfo [8] {
        sid: u64_ule,
    }
}

portable! {
    struct AckEpochBody [8] {
        current_epoch: u32_ule,
        has_current_epoch: u8,
        reserved: [u8; 3],
    }
}

portable! {
    struct PingBody [8] {
        round: u64_ule,
    }
}

portable! {
    struct RevalidateBody [12] {
        session: u64_ule,
        timeout_ms: u32_ule,
    }
}

portable! {
    struct RevalidateReplyBody [9] {
        session: u64_ule,
        valid: u8,
    }
}

portable! {
    struct SnapChunkHead [1] {
        last: u8,
    }
}

/// Appends a learner's packet as one frame. Allocates only if `out` has no room.
pub fn encode_to_leader(packet: &ToLeader<Frame>, out: &mut BytesMut) {
    match packet {
        ToLeader::FollowerInfo { sid, accepted_epoch } => {
            let body = LearnerInfo { sid: sid.0.into() };
            encode(Kind::FollowerInfo, accepted_epoch.start(), &body.to_bytes(), &[], out);
        }
        ToLeader::ObserverInfo { sid, accepted_epoch } => {
            let body = LearnerInfo { sid: sid.0.into() };
            encode(Kind::ObserverInfo, accepted_epoch.start(), &body.to_bytes(), &[], out);
        }
        ToLeader::AckEpoch { current_epoch, last_zxid } => {
            let body = AckEpochBody {
                current_epoch: current_epoch.map_or(0, Epoch::get).into(),
                has_current_epoch: current_epoch.is_some().into(),
                reserved: [0; 3],
            };
            encode(Kind::AckEpoch, *last_zxid, &body.to_bytes(), &[], out);
        }
        ToLeader::Ack { zxid } => bare(Kind::Ack, *zxid, Zxid::ZERO, out),
        ToLeader::Request(request) => encode(Kind::Request, Zxid::ZERO, &[], request, out),
        ToLeader::Ping { round, touched } => {
            let body = PingBody { round: (*round).into() };
            encode(Kind::PingReply, Zxid::ZERO, &body.to_bytes(), touched, out);
        }
        ToLeader::Revalidate { session, timeout } => {
            let body = RevalidateBody {
                session: session.0.into(),
                timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).into(),
            };
            encode(Kind::Revalidate, Zxid::ZERO, &body.to_bytes(), &[], out);
        }
    }
}

/// A learner's packet as a frame of its own.
pub fn to_leader_frame(packet: &ToLeader<Frame>) -> Frame {
    let payload_len = match packet {
        ToLeader::Request(payload) | ToLeader::Ping { touched: payload, .. } => payload.len(),
        ToLeader::FollowerInfo { .. }
        | ToLeader::ObserverInfo { .. }
        | ToLeader::AckEpoch { .. }
        | ToLeader::Ack { .. }
        | ToLeader::Revalidate { .. } => 0,
    };
    let mut out = BytesMut::with_capacity(SMALL_FRAME_LEN + payload_len);
    encode_to_leader(packet, &mut out);
    Frame::new(out.freeze())
}

/// Reads a learner's packet.
///
/// # Errors
/// [`DecodeError::UnknownKind`] for a frame that is not a learner's packet, and
/// [`DecodeError::BadValue`] for a value that does not exist; otherwise as
/// [`open`](super::header::open).
#[inline]
pub fn decode_to_leader(frame: &Frame) -> Result<ToLeader<Frame>, DecodeError> {
    let opened = header::open(frame)?;
    let Opened { kind, zxid, body, .. } = opened;
    // No learner says what is committed.
    unused(opened.committed)?;
    match kind {
        Kind::Ack => Ok(ToLeader::Ack { zxid }),
        Kind::Request => {
            unused(zxid)?;
            Ok(ToLeader::Request(payload(frame, 0)))
        }
        Kind::PingReply => {
            unused(zxid)?;
            let head = fixed(PingBody::read(body))?;
            let touched = payload(frame, PingBody::LEN);
            Ok(ToLeader::Ping { round: head.round.to_native(), touched })
        }
        Kind::FollowerInfo => {
            let sid = ServerId(fixed(LearnerInfo::read(body))?.sid.to_native());
            Ok(ToLeader::FollowerInfo { sid, accepted_epoch: epoch_of(zxid)? })
        }
        Kind::ObserverInfo => {
            let sid = ServerId(fixed(LearnerInfo::read(body))?.sid.to_native());
            Ok(ToLeader::ObserverInfo { sid, accepted_epoch: epoch_of(zxid)? })
        }
        Kind::AckEpoch => {
            let body = fixed(AckEpochBody::read(body))?;
            let epoch = body.current_epoch.to_native();
            let current_epoch = match (boolean(body.has_current_epoch)?, epoch) {
                (true, epoch) => Some(Epoch::new(epoch)),
                (false, 0) => None,
                (false, _) => return Err(DecodeError::BadValue { what: "absent current epoch" }),
            };
            Ok(ToLeader::AckEpoch { current_epoch, last_zxid: zxid })
        }
        Kind::Revalidate => {
            unused(zxid)?;
            let body = fixed(RevalidateBody::read(body))?;
            Ok(ToLeader::Revalidate {
                session: SessionId(body.session.to_native()),
                timeout: Duration::from_millis(body.timeout_ms.to_native().into()),
            })
        }
        Kind::Proposal
        | Kind::Commit
        | Kind::Ping
        | Kind::Sync
        | Kind::Inform
        | Kind::NewLeader
        | Kind::UpToDate
        | Kind::Diff
        | Kind::Trunc
        | Kind::Snap
        | Kind::LeaderInfo
        | Kind::SnapChunk
        | Kind::RevalidateReply
        | Kind::Hello
        | Kind::Welcome
        | Kind::Notification => Err(DecodeError::UnknownKind { got: kind as i32 }),
    }
}

/// Appends a leader's packet as one frame. A proposal's `txn` is its whole frame already and is
/// copied as it is; [`to_learner_frame`] shares it instead.
pub fn encode_to_learner(packet: &ToLearner<Frame>, out: &mut BytesMut) {
    match packet {
        ToLearner::LeaderInfo { epoch } => bare(Kind::LeaderInfo, epoch.start(), Zxid::ZERO, out),
        ToLearner::Diff { zxid } => bare(Kind::Diff, *zxid, Zxid::ZERO, out),
        ToLearner::Trunc { zxid } => bare(Kind::Trunc, *zxid, Zxid::ZERO, out),
        ToLearner::Snap { zxid } => bare(Kind::Snap, *zxid, Zxid::ZERO, out),
        ToLearner::SnapChunk { bytes, last } => {
            let head = SnapChunkHead { last: (*last).into() };
            encode(Kind::SnapChunk, Zxid::ZERO, &head.to_bytes(), bytes, out);
        }
        ToLearner::NewLeader { zxid } => bare(Kind::NewLeader, *zxid, Zxid::ZERO, out),
        ToLearner::UpToDate { committed } => bare(Kind::UpToDate, Zxid::ZERO, *committed, out),
        ToLearner::Proposal { zxid, txn, .. } => {
            debug_assert!(is_proposal(txn) && proposal_zxid(txn) == *zxid);
            out.extend_from_slice(txn);
        }
        ToLearner::Commit { zxid } => bare(Kind::Commit, *zxid, Zxid::ZERO, out),
        ToLearner::Inform { zxid, txn } => {
            debug_assert!(is_proposal(txn) && proposal_zxid(txn) == *zxid);
            encode(Kind::Inform, *zxid, &[], txn, out);
        }
        ToLearner::Ping { round, committed } => {
            let body = PingBody { round: (*round).into() };
            encode_frame(Kind::Ping, Zxid::ZERO, *committed, &body.to_bytes(), &[], out);
        }
        ToLearner::Revalidate { session, valid } => {
            let body = RevalidateReplyBody { session: session.0.into(), valid: (*valid).into() };
            encode(Kind::RevalidateReply, Zxid::ZERO, &body.to_bytes(), &[], out);
        }
        ToLearner::Sync { request } => encode(Kind::Sync, Zxid::ZERO, &[], request, out),
    }
}

/// A leader's packet as a frame of its own; a proposal is shared, not copied.
pub fn to_learner_frame(packet: &ToLearner<Frame>) -> Frame {
    let payload_len = match packet {
        ToLearner::Proposal { txn, .. } => return txn.clone(),
        ToLearner::SnapChunk { bytes: payload, .. }
        | ToLearner::Inform { txn: payload, .. }
        | ToLearner::Sync { request: payload } => payload.len(),
        ToLearner::LeaderInfo { .. }
        | ToLearner::Diff { .. }
        | ToLearner::Trunc { .. }
        | ToLearner::Snap { .. }
        | ToLearner::NewLeader { .. }
        | ToLearner::UpToDate { .. }
        | ToLearner::Commit { .. }
        | ToLearner::Ping { .. }
        | ToLearner::Revalidate { .. } => 0,
    };
    let mut out = BytesMut::with_capacity(SMALL_FRAME_LEN + payload_len);
    encode_to_learner(packet, &mut out);
    Frame::new(out.freeze())
}

/// Reads a leader's packet. The `txn` of a proposal is the whole frame, as it goes into the log; that
/// of an inform is the whole proposal inside it, whose own checksum is verified here.
///
/// # Errors
/// [`DecodeError::UnknownKind`] for a frame that is not a leader's packet, and
/// [`DecodeError::BadValue`] for a value that does not exist; otherwise as
/// [`open`](super::header::open).
#[inline]
pub fn decode_to_learner(frame: &Frame) -> Result<ToLearner<Frame>, DecodeError> {
    let Opened { kind, zxid, committed, body } = header::open(frame)?;
    Ok(match kind {
        Kind::Request
        | Kind::Ack
        | Kind::Revalidate
        | Kind::FollowerInfo
        | Kind::ObserverInfo
        | Kind::AckEpoch
        | Kind::PingReply
        | Kind::Hello
        | Kind::Welcome
        | Kind::Notification => return Err(DecodeError::UnknownKind { got: kind as i32 }),
        Kind::Proposal => ToLearner::Proposal { zxid, txn: frame.clone(), committed },
        Kind::Ping => {
            unused(zxid)?;
            let round = fixed(PingBody::read(body))?.round.to_native();
            ToLearner::Ping { round, committed }
        }
        Kind::UpToDate => {
            unused(zxid)?;
            ToLearner::UpToDate { committed }
        }
        // No other packet says what is committed.
        _ if committed != Zxid::ZERO => return Err(UNUSED),
        Kind::Commit => ToLearner::Commit { zxid },
        Kind::LeaderInfo => ToLearner::LeaderInfo { epoch: epoch_of(zxid)? },
        Kind::Diff => ToLearner::Diff { zxid },
        Kind::Trunc => ToLearner::Trunc { zxid },
        Kind::Snap => ToLearner::Snap { zxid },
        Kind::NewLeader => {
            epoch_of(zxid)?;
            ToLearner::NewLeader { zxid }
        }
        Kind::SnapChunk => {
            unused(zxid)?;
            let last = boolean(fixed(SnapChunkHead::read(body))?.last)?;
            ToLearner::SnapChunk { bytes: payload(frame, SnapChunkHead::LEN), last }
        }
        Kind::Inform => {
            if verify_proposal(body)? != zxid {
                return Err(DecodeError::BadValue { what: "zxid of an inform" });
            }
            ToLearner::Inform { zxid, txn: payload(frame, 0) }
        }
        Kind::RevalidateReply => {
            unused(zxid)?;
            let body = fixed(RevalidateReplyBody::read(body))?;
            ToLearner::Revalidate {
                session: SessionId(body.session.to_native()),
                valid: boolean(body.valid)?,
            }
        }
        Kind::Sync => {
            unused(zxid)?;
            ToLearner::Sync { request: payload(frame, 0) }
        }
    })
}

/// Room for any frame without a payload, bytes.
const SMALL_FRAME_LEN: usize = 64;

const _: () = {
    assert!(Kind::FollowerInfo.fixed_len() as usize == LearnerInfo::LEN);
    assert!(Kind::ObserverInfo.fixed_len() as usize == LearnerInfo::LEN);
    assert!(Kind::AckEpoch.fixed_len() as usize == AckEpochBody::LEN);
    assert!(Kind::Ping.fixed_len() as usize == PingBody::LEN);
    assert!(Kind::PingReply.fixed_len() as usize == PingBody::LEN);
    assert!(Kind::Revalidate.fixed_len() as usize == RevalidateBody::LEN);
    assert!(Kind::RevalidateReply.fixed_len() as usize == RevalidateReplyBody::LEN);
    assert!(Kind::SnapChunk.fixed_len() as usize == SnapChunkHead::LEN);
};

/// A frame that is only its header.
#[inline]
fn bare(kind: Kind, zxid: Zxid, committed: Zxid, out: &mut BytesMut) {
    out.extend_from_slice(&header::seal_bare(kind, zxid, committed));
}

#[inline]
fn encode(kind: Kind, zxid: Zxid, fixed: &[u8], payload: &[u8], out: &mut BytesMut) {
    encode_frame(kind, zxid, Zxid::ZERO, fixed, payload, out);
}

#[inline]
fn fixed<T>(body: Option<&T>) -> Result<&T, DecodeError> {
    body.ok_or(DecodeError::Truncated { what: "fixed part of a body" })
}

#[inline]
fn boolean(byte: u8) -> Result<bool, DecodeError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::BadValue { what: "boolean" }),
    }
}

const UNUSED: DecodeError = DecodeError::BadValue { what: "unused zxid of a frame header" };

/// A header field that the kind does not use is 0, so that a later version can give it a meaning.
#[inline]
fn unused(field: Zxid) -> Result<(), DecodeError> {
    if field == Zxid::ZERO { Ok(()) } else { Err(UNUSED) }
}

/// The epoch of a zxid that stands for an epoch (`epoch << 32`).
#[inline]
fn epoch_of(zxid: Zxid) -> Result<Epoch, DecodeError> {
    if zxid.counter() == 0 {
        Ok(zxid.epoch())
    } else {
        Err(DecodeError::BadValue { what: "zxid that stands for an epoch" })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::native::header::HEADER_LEN;
    use crate::testing::{Rng, assert_truncation_fails, hex};

    const ZXID: Zxid = Zxid::from_u64(0x2_0000_0007);

    fn proposal(zxid: Zxid, committed: Zxid, body: &[u8]) -> Frame {
        let mut encoder = ProposalEncoder::new();
        encoder.begin(zxid, committed).extend_from_slice(body);
        encoder.finish()
    }

    fn leader_packets(rng: &mut Rng) -> Vec<ToLearner<Frame>> {
        let zxid = Zxid::from_u64(rng.next());
        let committed = Zxid::from_u64(rng.next());
        let epoch = Epoch::new(rng.next() as u32);
        let payload = Frame::copy_from(&rng.bytes(300));
        let txn = proposal(zxid, committed, &payload);
        let session = SessionId(rng.next());
        alloc::vec![
            ToLearner::LeaderInfo { epoch },
            ToLearner::Diff { zxid },
            ToLearner::Trunc { zxid },
            ToLearner::Snap { zxid },
            ToLearner::SnapChunk { bytes: payload.clone(), last: rng.coin() },
            ToLearner::NewLeader { zxid: epoch.start() },
            ToLearner::UpToDate { committed },
            ToLearner::Proposal { zxid, txn: txn.clone(), committed },
            ToLearner::Commit { zxid },
            ToLearner::Inform { zxid, txn },
            ToLearner::Ping { round: rng.next(), committed },
            ToLearner::Revalidate { session, valid: rng.coin() },
            ToLearner::Sync { request: payload },
        ]
    }

    fn learner_packets(rng: &mut Rng) -> Vec<ToLeader<Frame>> {
        let zxid = Zxid::from_u64(rng.next());
        let epoch = Epoch::new(rng.next() as u32);
        let payload = Frame::copy_from(&rng.bytes(300));
        let sid = ServerId(rng.next());
        alloc::vec![
            ToLeader::FollowerInfo { sid, accepted_epoch: epoch },
            ToLeader::ObserverInfo { sid, accepted_epoch: epoch },
            ToLeader::AckEpoch { current_epoch: Some(epoch), last_zxid: zxid },
            ToLeader::AckEpoch { current_epoch: None, last_zxid: zxid },
            ToLeader::Ack { zxid },
            ToLeader::Request(payload.clone()),
            ToLeader::Ping { round: rng.next(), touched: payload },
            ToLeader::Revalidate {
                session: SessionId(rng.next()),
                timeout: Duration::from_millis(rng.next() >> 32),
            },
        ]
    }

    #[test]
    fn every_packet_of_a_leader_comes_back() {
        let mut rng = Rng::new(1);
        for _ in 0..100 {
            for packet in leader_packets(&mut rng) {
                let frame = to_learner_frame(&packet);
                assert!(header::verify(&frame).is_ok());
                assert_eq!(decode_to_learner(&frame).as_ref(), Ok(&packet));
                let mut out = BytesMut::from(&b"before"[..]);
                encode_to_learner(&packet, &mut out);
                assert_eq!(out[6..], frame[..]);
                assert!(decode_to_leader(&frame).is_err(), "{packet:?} in the wrong direction");
            }
        }
    }

    #[test]
    fn every_packet_of_a_learner_comes_back() {
        let mut rng = Rng::new(2);
        for _ in 0..100 {
            for packet in learner_packets(&mut rng) {
                let frame = to_leader_frame(&packet);
                assert!(header::verify(&frame).is_ok());
                assert_eq!(decode_to_leader(&frame).as_ref(), Ok(&packet));
                assert!(decode_to_learner(&frame).is_err(), "{packet:?} in the wrong direction");
            }
        }
    }

    #[test]
    fn a_packet_that_is_cut_anywhere_is_refused() {
        let mut rng = Rng::new(3);
        for packet in leader_packets(&mut rng) {
            let frame = to_learner_frame(&packet);
            assert_truncation_fails(&frame, |b| decode_to_learner(&Frame::copy_from(b)).is_err());
        }
        for packet in learner_packets(&mut rng) {
            let frame = to_leader_frame(&packet);
            assert_truncation_fails(&frame, |b| decode_to_leader(&Frame::copy_from(b)).is_err());
        }
    }

    #[test]
    fn random_bytes_behind_a_good_header_never_panic() {
        let mut rng = Rng::new(4);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..20_000 {
            let kind = rng.below(80) as u8;
            let body = rng.bytes(40);
            let Ok(kind) = Kind::from_u8(kind) else { continue };
            let zxid = if rng.coin() { Zxid::ZERO } else { Zxid::from_u64(rng.next()) };
            let mut out = BytesMut::new();
            encode(kind, zxid, &[], &body, &mut out);
            let frame = Frame::new(out.freeze());
            for ok in [decode_to_leader(&frame).is_ok(), decode_to_learner(&frame).is_ok()] {
                if ok { good += 1 } else { bad += 1 }
            }
        }
        assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
    }

    #[test]
    fn the_bytes_of_each_fixed_body_are_frozen() {
        let body = |frame: Frame| (frame[3], frame[HEADER_LEN..].to_vec());
        let sid = ServerId(3);
        let epoch = Epoch::new(2);
        let session = SessionId(0x0100_0000_0000_00aa);
        let leader = |packet| body(to_leader_frame(&packet));
        let learner = |packet| body(to_learner_frame(&packet));
        assert_eq!(
            leader(ToLeader::FollowerInfo { sid, accepted_epoch: epoch }),
            (11, hex("0300000000000000"))
        );
        assert_eq!(
            leader(ToLeader::ObserverInfo { sid, accepted_epoch: epoch }),
            (16, hex("0300000000000000"))
        );
        assert_eq!(
            leader(ToLeader::AckEpoch { current_epoch: Some(epoch), last_zxid: ZXID }),
            (18, hex("02000000 01 000000"))
        );
        assert_eq!(
            leader(ToLeader::Revalidate { session, timeout: Duration::from_millis(10_000) }),
            (6, hex("aa00000000000001 10270000"))
        );
        assert_eq!(
            leader(ToLeader::Ping { round: 5, touched: Frame::from_static(b"t") }),
            (65, hex("0500000000000000 74"))
        );
        assert_eq!(
            learner(ToLearner::Ping { round: 5, committed: ZXID }),
            (5, hex("0500000000000000"))
        );
        assert_eq!(
            learner(ToLearner::Revalidate { session, valid: true }),
            (66, hex("aa00000000000001 01"))
        );
        assert_eq!(
            learner(ToLearner::SnapChunk { bytes: Frame::from_static(b"t"), last: true }),
            (64, hex("01 74"))
        );
        let frame = to_leader_frame(&ToLeader::Ack { zxid: ZXID });
        assert_eq!(frame.len(), HEADER_LEN);
        assert_eq!(frame[..16], hex("5172 01 03 00000000 0700000002000000"));
    }

    #[test]
    fn a_decoded_proposal_is_the_frame_itself() {
        let frame = proposal(ZXID, Zxid::ZERO, b"txn");
        let ToLearner::Proposal { txn, .. } = decode_to_learner(&frame).unwrap() else {
            panic!("not a proposal");
        };
        assert_eq!(txn.as_ptr(), frame.as_ptr());
        assert_eq!(txn.len(), frame.len());
    }

    #[test]
    fn an_inform_whose_proposal_is_damaged_or_another_is_refused() {
        let txn = proposal(ZXID, Zxid::ZERO, b"txn");
        let inform = |zxid: Zxid, txn: &[u8]| {
            let mut out = BytesMut::new();
            encode(Kind::Inform, zxid, &[], txn, &mut out);
            decode_to_learner(&Frame::new(out.freeze()))
        };
        assert!(inform(ZXID, &txn).is_ok());
        assert!(inform(Zxid::from_u64(1), &txn).is_err());
        let mut damaged = txn.to_vec();
        damaged[HEADER_LEN] ^= 1;
        assert!(matches!(inform(ZXID, &damaged), Err(DecodeError::BadChecksum { .. })));
    }

    #[test]
    fn values_that_do_not_exist_are_refused() {
        let leader = |kind, zxid, committed, body: &[u8]| {
            let mut out = BytesMut::new();
            encode_frame(kind, zxid, committed, &[], body, &mut out);
            decode_to_learner(&Frame::new(out.freeze()))
        };
        let zero = Zxid::ZERO;
        let what = "boolean";
        assert_eq!(leader(Kind::SnapChunk, zero, zero, &[2]), Err(DecodeError::BadValue { what }));
        let what = "unused zxid of a frame header";
        assert_eq!(leader(Kind::Commit, ZXID, ZXID, &[]), Err(DecodeError::BadValue { what }));
        assert_eq!(leader(Kind::UpToDate, ZXID, zero, &[]), Err(DecodeError::BadValue { what }));
        let alien = DecodeError::UnknownKind { got: Kind::Ack as i32 };
        assert_eq!(leader(Kind::Ack, ZXID, ZXID, &[]), Err(alien), "before its fields are judged");
        let what = "zxid that stands for an epoch";
        assert_eq!(leader(Kind::NewLeader, ZXID, zero, &[]), Err(DecodeError::BadValue { what }));
        assert_eq!(leader(Kind::LeaderInfo, ZXID, zero, &[]), Err(DecodeError::BadValue { what }));
    }
}
