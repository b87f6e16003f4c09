//! `ErrorCode`: ZooKeeper's codes, as clients see them.

use core::fmt;

/// Why a request was refused; the discriminants are those of ZooKeeper's `KeeperException.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
#[non_exhaustive]
pub enum ErrorCode {
    /// In a failed multi: this operation was not reached.
    RuntimeInconsistency = -2,
    /// The connection broke; whether the request took effect is unknown. Never sent by a server.
    ConnectionLoss = -4,
    /// The request could not be decoded.
    MarshallingError = -5,
    /// The operation is not known here.
    Unimplemented = -6,
    /// A path, flag or time-to-live is not allowed.
    BadArguments = -8,
    /// The node, or the parent of a node to be created, does not exist.
    NoNode = -101,
    /// An access control list forbids it.
    NoAuth = -102,
    /// The version given is not the node's.
    BadVersion = -103,
    /// An ephemeral node cannot have children.
    NoChildrenForEphemerals = -108,
    /// The node exists already.
    NodeExists = -110,
    /// The node has children.
    NotEmpty = -111,
    /// The session has ended.
    SessionExpired = -112,
    /// An access control list is empty or invalid.
    InvalidAcl = -114,
    /// Authentication failed.
    AuthFailed = -115,
    /// The session belongs to another server now.
    SessionMoved = -118,
    /// A write on a read-only server.
    NotReadOnly = -119,
    /// The watch to be removed is not there.
    NoWatcher = -121,
    /// Reconfiguration is switched off.
    ReconfigDisabled = -123,
}

impl ErrorCode {
    /// The number that goes over the wire.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The code of a number, if this crate knows it.
    pub fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            -2 => Self::RuntimeInconsistency,
            -4 => Self::ConnectionLoss,
            -5 => Self::MarshallingError,
            -6 => Self::Unimplemented,
            -8 => Self::BadArguments,
            -101 => Self::NoNode,
            -102 => Self::NoAuth,
            -103 => Self::BadVersion,
            -108 => Self::NoChildrenForEphemerals,
            -110 => Self::NodeExists,
            -111 => Self::NotEmpty,
            -112 => Self::SessionExpired,
            -114 => Self::InvalidAcl,
            -115 => Self::AuthFailed,
            -118 => Self::SessionMoved,
            -119 => Self::NotReadOnly,
            -121 => Self::NoWatcher,
            -123 => Self::ReconfigDisabled,
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} ({})", self.code())
    }
}

impl core::error::Error for ErrorCode {}
