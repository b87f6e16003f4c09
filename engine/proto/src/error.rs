//! `ProtocolError`: what a peer did wrong, precise enough to log and to close its connection on.

use core::fmt;

use crate::{Epoch, ServerId, Zxid};

/// A peer broke the protocol. Always the end of that one connection, never of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A packet that this phase of the connection does not know.
    OutOfPhase {
        /// The packet's name.
        packet: &'static str,
        /// What the connection was waiting for.
        expected: &'static str,
    },
    /// A proposal that does not follow the previous one.
    Gap {
        /// The last zxid seen.
        after: Zxid,
        /// The one that came.
        got: Zxid,
    },
    /// A commit or an acknowledgement beyond what was sent to its sender.
    BeyondProposed {
        /// The highest zxid that was sent.
        proposed: Zxid,
        /// The one that came.
        got: Zxid,
    },
    /// An acknowledgement below an earlier one.
    AckWentBack {
        /// The earlier one.
        acked: Zxid,
        /// The one that came.
        got: Zxid,
    },
    /// A leader that offers an epoch below the promised one.
    StaleEpoch {
        /// The epoch that was promised.
        accepted: Epoch,
        /// The one that came.
        got: Epoch,
    },
    /// An epoch too far outside what can be expected (R25 of the safety rules).
    ImplausibleEpoch {
        /// The epoch that came.
        got: Epoch,
        /// The highest that would have been believed.
        limit: Epoch,
    },
    /// A learner whose history is ahead of the leader's.
    LearnerAhead {
        /// The learner.
        sid: ServerId,
        /// The end of its history.
        last_zxid: Zxid,
    },
    /// A server id that the configuration does not have, or has in another role.
    UnknownServer {
        /// The id.
        sid: ServerId,
    },
    /// TRUNC to a zxid that this server cannot go back to.
    CannotTruncate {
        /// The zxid.
        to: Zxid,
        /// What is known to be committed here.
        committed: Zxid,
    },
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfPhase { packet, expected } => {
                write!(f, "{packet} is out of phase, expected {expected}")
            }
            Self::Gap { after, got } => write!(f, "zxid {got} does not follow {after}"),
            Self::BeyondProposed { proposed, got } => {
                write!(f, "zxid {got} is beyond {proposed}, the last that was proposed")
            }
            Self::AckWentBack { acked, got } => {
                write!(f, "acknowledgement of {got} after one of {acked}")
            }
            Self::StaleEpoch { accepted, got } => {
                write!(f, "epoch {got} is older than the promised epoch {accepted}")
            }
            Self::ImplausibleEpoch { got, limit } => {
                write!(f, "epoch {got} is implausible, the highest believable is {limit}")
            }
            Self::LearnerAhead { sid, last_zxid } => {
                write!(f, "server {sid} is ahead with last zxid {last_zxid}")
            }
            Self::UnknownServer { sid } => {
                write!(f, "server {sid} is not in the configuration in this role")
            }
            Self::CannotTruncate { to, committed } => {
                write!(f, "cannot truncate to {to}, {committed} is committed here")
            }
        }
    }
}

impl core::error::Error for ProtocolError {}
