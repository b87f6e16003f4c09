//! What a client asks, decoded but not yet judged. Everything borrows from the received frame.
//!
//! Paths are raw bytes here: only `path::check` says which are valid.

use alloc::vec::Vec;

use crate::acl::Acl;

/// The create flags of ZooKeeper's `CreateMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// 0: lives until deleted.
    Persistent,
    /// 1: lives as long as its session.
    Ephemeral,
    /// 2: persistent, with a number appended to its name.
    PersistentSequential,
    /// 3: ephemeral, with a number appended to its name.
    EphemeralSequential,
}

impl CreateMode {
    /// The mode of a create's flags field; containers and TTL modes are not served yet.
    pub const fn from_flags(flags: i32) -> Option<Self> {
        match flags {
            0 => Some(Self::Persistent),
            1 => Some(Self::Ephemeral),
            2 => Some(Self::PersistentSequential),
            3 => Some(Self::EphemeralSequential),
            _ => None,
        }
    }

    /// The flags field of this mode.
    pub const fn flags(self) -> i32 {
        match self {
            Self::Persistent => 0,
            Self::Ephemeral => 1,
            Self::PersistentSequential => 2,
            Self::EphemeralSequential => 3,
        }
    }

    /// Whether the node dies with its session.
    pub const fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral | Self::EphemeralSequential)
    }

    /// Whether a number is appended to the name.
    pub const fn is_sequential(self) -> bool {
        matches!(self, Self::PersistentSequential | Self::EphemeralSequential)
    }
}

/// One write, alone or inside a multi.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// create (1) and create2 (15).
    Create {
        /// Where.
        path: &'a [u8],
        /// The data; null and empty differ.
        data: Option<&'a [u8]>,
        /// The access control list as sent; empty stands for null too.
        acl: Vec<Acl>,
        /// The flags as sent, checked by prep.
        flags: i32,
        /// Whether the reply carries a Stat (create2).
        with_stat: bool,
    },
    /// delete (2).
    Delete {
        /// Which.
        path: &'a [u8],
        /// Expected data version, -1 for any.
        version: i32,
    },
    /// setData (5).
    SetData {
        /// Which.
        path: &'a [u8],
        /// The data; null and empty differ.
        data: Option<&'a [u8]>,
        /// Expected data version, -1 for any.
        version: i32,
    },
    /// setACL (7); not allowed inside a multi.
    SetAcl {
        /// Which.
        path: &'a [u8],
        /// The access control list as sent; empty stands for null too.
        acl: Vec<Acl>,
        /// Expected ACL version, -1 for any.
        version: i32,
    },
    /// check (13); only inside a multi.
    Check {
        /// Which.
        path: &'a [u8],
        /// Expected data version, -1 for existence only.
        version: i32,
    },
}

/// A request that changes the replicated state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// A single write.
    Single(Op<'a>),
    /// All or nothing (14).
    Multi(Vec<Op<'a>>),
    /// Opens a session (-10); internal.
    CreateSession {
        /// The negotiated time-out in milliseconds.
        timeout_ms: i32,
    },
    /// Closes a session (-11), by its client or by expiry.
    CloseSession,
    /// A write that is refused before it is looked at, but keeps its place in the order.
    Refused(crate::ErrorCode),
}

/// A request that only reads, served by the server that the client is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// exists (3).
    Exists {
        /// Which.
        path: &'a [u8],
        /// Whether to leave a watch.
        watch: bool,
    },
    /// getData (4).
    GetData {
        /// Which.
        path: &'a [u8],
        /// Whether to leave a watch.
        watch: bool,
    },
    /// getACL (6).
    GetAcl {
        /// Which.
        path: &'a [u8],
    },
    /// getChildren (8) and getChildren2 (12).
    GetChildren {
        /// Which.
        path: &'a [u8],
        /// Whether to leave a watch.
        watch: bool,
        /// Whether the reply carries the parent's Stat (getChildren2).
        with_stat: bool,
    },
    /// setWatches (101): what a client had before it reconnected.
    SetWatches {
        /// The highest zxid that the client had seen.
        relative_zxid: i64,
        /// Data watches.
        data: Vec<&'a [u8]>,
        /// Watches on nodes that did not exist.
        exist: Vec<&'a [u8]>,
        /// Child watches.
        child: Vec<&'a [u8]>,
    },
}
