//! A znode's counters, as they are stored (`StatPersisted`) and as clients see them (`Stat`).

use quorate_proto::{SessionId, Zxid};

/// The stored part of a node's status (60 bytes in ZooKeeper's encoding).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatPersisted {
    /// The transaction that created the node.
    pub czxid: Zxid,
    /// The transaction that last changed its data.
    pub mzxid: Zxid,
    /// Creation time, milliseconds since 1970 on the leader's wall clock.
    pub ctime: i64,
    /// Time of the last data change, milliseconds since 1970.
    pub mtime: i64,
    /// Number of data changes.
    pub version: i32,
    /// Number of children ever created; also the next sequence number.
    pub cversion: i32,
    /// Number of ACL changes.
    pub aversion: i32,
    /// 0, the owning session, or the marker of a container or TTL node.
    pub ephemeral_owner: i64,
    /// The transaction that last added or removed a child.
    pub pzxid: Zxid,
}

impl StatPersisted {
    /// The counters of a node that this transaction creates; `owner` is an ephemeral's session.
    pub(crate) fn created(zxid: Zxid, time_ms: i64, owner: Option<SessionId>) -> Self {
        Self {
            czxid: zxid,
            mzxid: zxid,
            ctime: time_ms,
            mtime: time_ms,
            ephemeral_owner: owner.map_or(0, |session| session.0 as i64),
            pzxid: zxid,
            ..Self::default()
        }
    }
}

/// A node's status as clients see it (68 bytes in ZooKeeper's encoding).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The transaction that created the node.
    pub czxid: Zxid,
    /// The transaction that last changed its data.
    pub mzxid: Zxid,
    /// Creation time, milliseconds since 1970.
    pub ctime: i64,
    /// Time of the last data change, milliseconds since 1970.
    pub mtime: i64,
    /// Number of data changes.
    pub version: i32,
    /// Creations plus deletions of children: `2 * stored - num_children`.
    pub cversion: i32,
    /// Number of ACL changes.
    pub aversion: i32,
    /// The owning session of an ephemeral, otherwise 0 (containers and TTL nodes included).
    pub ephemeral_owner: i64,
    /// Bytes of data.
    pub data_length: i32,
    /// Number of children.
    pub num_children: i32,
    /// The transaction that last added or removed a child.
    pub pzxid: Zxid,
}
