//! A vote on an election link.
//!
//! Judges no vote, and does not check that `from` is the server at the other end of the link.

use bytes::BytesMut;
use quorate_proto::{Epoch, ServerId, Zxid};
use rkyv::rend::unaligned::{u32_ule, u64_ule};

use super::header::{Kind, encode_frame, open_kind};
use crate::DecodeError;

portable! {
    struct NotificationBody [32] {
        from: u64_ule,
        leader: u64_ule,
        round: u64_ule,
        peer_epoch: u32_ule,
        state: u8,
        reserved: [u8; 3],
    }
}

const _: () = assert!(Kind::Notification.fixed_len() as usize == NotificationBody::LEN);

/// The state of the server that votes; the numbers are those of ZooKeeper's `ServerState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WireState {
    /// Looks for a leader.
    Looking = 0,
    /// Follows one.
    Following = 1,
    /// Leads.
    Leading = 2,
    /// Observes, without a vote of its own.
    Observing = 3,
}

/// A vote with its sender, as it travels. The zxid of the vote is in the frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireNotification {
    /// Who votes.
    pub from: ServerId,
    /// What it is doing.
    pub state: WireState,
    /// For whom.
    pub leader: ServerId,
    /// The end of the history of the one voted for.
    pub zxid: Zxid,
    /// The current epoch of the one voted for.
    pub peer_epoch: Epoch,
    /// The voter's logical clock (electionEpoch).
    pub round: u64,
}

impl WireNotification {
    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let body = NotificationBody {
            from: self.from.0.into(),
            leader: self.leader.0.into(),
            round: self.round.into(),
            peer_epoch: self.peer_epoch.get().into(),
            state: self.state as u8,
            reserved: [0; 3],
        };
        encode_frame(Kind::Notification, self.zxid, Zxid::ZERO, &body.to_bytes(), &[], out);
    }

    /// Reads a frame that a [`FrameReader`](crate::FrameReader) has verified.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`] if it is no notification, [`DecodeError::BadValue`] for a state
    /// that does not exist, otherwise as [`open`](super::header::open).
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let opened = open_kind(frame, Kind::Notification)?;
        let short = DecodeError::Truncated { what: "notification" };
        let body = NotificationBody::read(opened.body).ok_or(short)?;
        Ok(Self {
            from: ServerId(body.from.to_native()),
            state: match body.state {
                0 => WireState::Looking,
                1 => WireState::Following,
                2 => WireState::Leading,
                3 => WireState::Observing,
                _ => return Err(DecodeError::BadValue { what: "state of a notification" }),
            },
            leader: ServerId(body.leader.to_native()),
            zxid: opened.zxid,
            peer_epoch: Epoch::new(body.peer_epoch.to_native()),
            round: body.round.to_native(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::header::HEADER_LEN;
    use crate::testing::{Rng, assert_truncation_fails, hex};

    #[test]
    fn a_vote_has_frozen_bytes() {
        let vote = WireNotification {
            from: ServerId(1),
            state: WireState::Leading,
            leader: ServerId(2),
            zxid: Zxid::from_u64(0x1_0000_0005),
            peer_epoch: Epoch::new(4),
            round: 7,
        };
        let mut out = BytesMut::new();
        vote.encode(&mut out);
        assert_eq!(out[8..16], hex("0500000001000000"));
        let golden = "0100000000000000 0200000000000000 0700000000000000 04000000 02 000000";
        assert_eq!(out[HEADER_LEN..], hex(golden));
        assert_truncation_fails(&out, |bytes| WireNotification::decode(bytes).is_err());
        out[HEADER_LEN + 28] = 4;
        let what = "state of a notification";
        assert_eq!(WireNotification::decode(&out), Err(DecodeError::BadValue { what }));
    }

    #[test]
    fn any_vote_comes_back() {
        let mut rng = Rng::new(11);
        let states =
            [WireState::Looking, WireState::Following, WireState::Leading, WireState::Observing];
        for at in 0..200 {
            let vote = WireNotification {
                from: ServerId(rng.next()),
                state: states[at % 4],
                leader: ServerId(rng.next()),
                zxid: Zxid::from_u64(rng.next()),
                peer_epoch: Epoch::new(rng.next() as u32),
                round: rng.next(),
            };
            let mut out = BytesMut::new();
            vote.encode(&mut out);
            assert_eq!(WireNotification::decode(&out), Ok(vote));
        }
    }
}
