//! What the ensemble orders: decided completely, so that applying it cannot fail.
//!
//! The variants and their meaning are those of ZooKeeper's transaction records; their bytes are the
//! business of the wire crate.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use quorate_proto::{SessionId, Zxid};

use crate::ErrorCode;
use crate::acl::Acl;

/// The part that every transaction has (32 bytes in ZooKeeper's encoding).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxnHeader {
    /// The session that asked for it.
    pub session: SessionId,
    /// The client's number for the request; 0 for a session's opening and expiry.
    pub cxid: i32,
    /// Its place in the order.
    pub zxid: Zxid,
    /// The leader's wall clock, milliseconds since 1970; becomes ctime and mtime.
    pub time: i64,
    /// The operation code, which says which [`Txn`] follows.
    pub kind: i32,
}

/// The tree's digest after a transaction, as the leader computed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnDigest {
    /// The digest's algorithm, 2.
    pub version: i32,
    /// The sum over all nodes.
    pub tree_digest: u64,
}

/// A change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Txn<'a> {
    /// A node is created (types 1 and 15).
    Create {
        /// The final path, with the number of a sequential node.
        path: Cow<'a, [u8]>,
        /// The data; null and empty differ.
        data: Option<&'a [u8]>,
        /// The stored access control list.
        acl: Vec<Acl>,
        /// Whether it belongs to the header's session.
        ephemeral: bool,
        /// The parent's stored cversion afterwards.
        parent_cversion: i32,
        /// Whether the type is create2 (15) rather than create (1).
        with_stat: bool,
    },
    /// A node is deleted (type 2).
    Delete {
        /// Which.
        path: &'a [u8],
    },
    /// A node's data changes (type 5).
    SetData {
        /// Which.
        path: &'a [u8],
        /// The data.
        data: Option<&'a [u8]>,
        /// The version afterwards.
        version: i32,
    },
    /// A node's access control list changes (type 7).
    SetAcl {
        /// Which.
        path: &'a [u8],
        /// The stored access control list.
        acl: Vec<Acl>,
        /// The ACL version afterwards.
        version: i32,
    },
    /// Inside a multi: a version was checked (type 13).
    Check {
        /// Which.
        path: &'a [u8],
        /// The version afterwards, as ZooKeeper records it.
        version: i32,
    },
    /// A session opens (type -10).
    CreateSession {
        /// Its time-out in milliseconds.
        timeout_ms: i32,
    },
    /// A session ends and its ephemerals go (type -11). The list is what the leader saw; whatever
    /// the session still owns when this is applied goes too.
    CloseSession {
        /// The ephemerals.
        paths: Vec<Cow<'a, [u8]>>,
    },
    /// All of these, or, if any is an [`Txn::Error`], none (type 14).
    Multi(Vec<Self>),
    /// A refused request that keeps its place (type -1).
    Error(ErrorCode),
}

impl Txn<'_> {
    /// The operation code that names this record in a header or inside a multi.
    pub const fn kind(&self) -> i32 {
        match self {
            Self::Create { with_stat: false, .. } => 1,
            Self::Create { with_stat: true, .. } => 15,
            Self::Delete { .. } => 2,
            Self::SetData { .. } => 5,
            Self::SetAcl { .. } => 7,
            Self::Check { .. } => 13,
            Self::Multi(_) => 14,
            Self::CreateSession { .. } => -10,
            Self::CloseSession { .. } => -11,
            Self::Error(_) => -1,
        }
    }

    /// Bytes of the record in ZooKeeper's encoding, without header and digest.
    pub fn encoded_len(&self) -> usize {
        let acl_len = |acl: &[Acl]| {
            let entry = |entry: &Acl| 12 + entry.id.scheme.len() + entry.id.id.len();
            4 + acl.iter().map(entry).sum::<usize>()
        };
        match self {
            Self::Create { path, data, acl, .. } => {
                4 + path.len() + 4 + data.map_or(0, <[u8]>::len) + acl_len(acl) + 5
            }
            Self::Delete { path } => 4 + path.len(),
            Self::SetData { path, data, .. } => {
                4 + path.len() + 4 + data.map_or(0, <[u8]>::len) + 4
            }
            Self::SetAcl { path, acl, .. } => 4 + path.len() + acl_len(acl) + 4,
            Self::Check { path, .. } => 4 + path.len() + 4,
            Self::CreateSession { .. } | Self::Error(_) => 4,
            Self::CloseSession { paths } => {
                4 + paths.iter().map(|path| 4 + path.len()).sum::<usize>()
            }
            Self::Multi(ops) => 4 + ops.iter().map(|op| 8 + op.encoded_len()).sum::<usize>(),
        }
    }
}
