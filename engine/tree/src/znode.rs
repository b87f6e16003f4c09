//! One node: its path, data, counters and links to its family.
//!
//! Decides nothing; the tree keeps nodes consistent with each other.

use alloc::sync::Arc;
use alloc::vec::Vec;

use quorate_proto::SessionId;

use crate::digest::{content_crc, node_digest};
use crate::stat::{Stat, StatPersisted};

/// No node.
pub(crate) const NIL: u32 = u32::MAX;

/// `ephemeral_owner` of a container (`client.md` 2.4).
const CONTAINER: u64 = 0x8000_0000_0000_0000;
/// The high byte of a TTL node's `ephemeral_owner`.
const TTL_BYTE: u64 = 0xff;

/// The session that an `ephemeral_owner` field names; containers and TTL nodes have none.
pub(crate) const fn owner_session(ephemeral_owner: i64) -> Option<SessionId> {
    let owner = ephemeral_owner as u64;
    if owner == 0 || owner == CONTAINER || owner >> 56 == TTL_BYTE {
        None
    } else {
        Some(SessionId(owner))
    }
}

/// A node of the tree. Children are a doubly linked list through the nodes themselves, so that
/// adding and removing one costs the same in a family of two and of a million.
#[derive(Debug)]
pub(crate) struct Znode {
    pub(crate) path: Arc<[u8]>,
    pub(crate) data: Option<Vec<u8>>,
    pub(crate) stat: StatPersisted,
    /// In the tree's table of lists; 0 is the open one.
    pub(crate) acl: u32,
    pub(crate) hash: u32,
    pub(crate) parent: u32,
    pub(crate) first_child: u32,
    pub(crate) children: u32,
    pub(crate) next_sibling: u32,
    pub(crate) prev_sibling: u32,
    /// Where an ephemeral stands in its session's list.
    pub(crate) ephemeral_at: u32,
    /// The checksum over path and data.
    pub(crate) content: u32,
    /// What this node adds to the tree's digest.
    pub(crate) digest: u32,
}

impl Znode {
    pub(crate) fn new(
        path: Arc<[u8]>,
        hash: u32,
        data: Option<Vec<u8>>,
        stat: StatPersisted,
        acl: u32,
        parent: u32,
    ) -> Self {
        let content = content_crc(&path, data.as_deref());
        let digest = node_digest(content, &stat);
        Self {
            path,
            data,
            stat,
            acl,
            hash,
            parent,
            first_child: NIL,
            children: 0,
            next_sibling: NIL,
            prev_sibling: NIL,
            ephemeral_at: NIL,
            content,
            digest,
        }
    }

    pub(crate) fn data_len(&self) -> usize {
        self.data.as_ref().map_or(0, Vec::len)
    }

    pub(crate) const fn is_ephemeral(&self) -> bool {
        owner_session(self.stat.ephemeral_owner).is_some()
    }

    /// The status as clients see it: cversion counts deletions too, and the owner of a container or
    /// TTL node is hidden.
    pub(crate) fn client_stat(&self) -> Stat {
        let stat = &self.stat;
        Stat {
            czxid: stat.czxid,
            mzxid: stat.mzxid,
            ctime: stat.ctime,
            mtime: stat.mtime,
            version: stat.version,
            cversion: stat.cversion.wrapping_mul(2).wrapping_sub(self.children as i32),
            aversion: stat.aversion,
            ephemeral_owner: owner_session(stat.ephemeral_owner).map_or(0, |s| s.0 as i64),
            data_length: self.data_len() as i32,
            num_children: self.children as i32,
            pzxid: stat.pzxid,
        }
    }

    /// Replaces the data in place: the buffer is kept unless it would waste more than it holds.
    pub(crate) fn set_data(&mut self, data: Option<&[u8]>) {
        match (&mut self.data, data) {
            (Some(old), Some(new)) => {
                if old.capacity() / 2 > new.len() + 64 {
                    *old = Vec::with_capacity(new.len());
                }
                old.clear();
                old.reserve_exact(new.len());
                old.extend_from_slice(new);
            }
            (slot, new) => *slot = new.map(Vec::from),
        }
        self.content = content_crc(&self.path, self.data.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sessions_own_ephemerals() {
        assert_eq!(owner_session(0), None);
        assert_eq!(owner_session(CONTAINER as i64), None);
        assert_eq!(owner_session((0xff00_0000_0000_0000u64 | 1000) as i64), None);
        let negative = 0x8100_0000_0000_0001u64;
        assert_eq!(owner_session(negative as i64), Some(SessionId(negative)), "ZOOKEEPER-1622");
    }
}
