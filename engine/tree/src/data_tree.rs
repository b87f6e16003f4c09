//! `DataTree`: the nodes, their children, the ephemerals per session, and the sessions: all that
//! servers agree on. Answers reads.
//!
//! Changes only through `apply` (and `snapshot`, which rebuilds it); knows nothing of outstanding
//! transactions, of watches, or of who is connected.

use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;

use quorate_proto::{SessionId, Zxid};

use crate::ErrorCode;
use crate::acl::{self, Acl, Id, Permissions};
use crate::acl_table::{AclTable, OPEN};
use crate::digest::{counts, node_digest};
use crate::hash::{IdMap, hash_path};
use crate::owners::Owners;
use crate::path;
use crate::path_index::PathIndex;
use crate::slab::Slab;
use crate::snapshot::Cuts;
use crate::stat::{Stat, StatPersisted};
use crate::znode::{NIL, Znode, owner_session};

/// The root's slot: it is made first and never removed.
pub(crate) const ROOT: u32 = 0;

/// Nodes that exist in every tree and that delete refuses (`client.md` 2.16).
pub(crate) const SYSTEM_NODES: [&[u8]; 3] =
    [b"/zookeeper", b"/zookeeper/quota", b"/zookeeper/config"];

/// The path under which a node is filed: the root's is empty.
pub(crate) fn canonical(path: &[u8]) -> &[u8] {
    if path == b"/" { b"" } else { path }
}

/// A session that is open everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) timeout_ms: i32,
}

/// The replicated state of a ZooKeeper ensemble, without its watches.
#[derive(Debug)]
pub struct DataTree {
    pub(crate) nodes: Slab<Znode>,
    index: PathIndex,
    seed: u64,
    pub(crate) acls: AclTable,
    pub(crate) ephemerals: Owners,
    pub(crate) sessions: Slab<Session>,
    session_index: IdMap<SessionId, u32>,
    digest: u64,
    pub(crate) last_zxid: Zxid,
    data_bytes: u64,
    path_bytes: u64,
    pub(crate) cuts: Cuts,
}

impl Default for DataTree {
    fn default() -> Self {
        Self::new(0)
    }
}

impl DataTree {
    /// The tree of a fresh server: `/`, `/zookeeper`, `/zookeeper/quota`, `/zookeeper/config`. The
    /// seed goes into the hash of paths and into nothing that can be seen; servers need not share
    /// it, and one that clients cannot know keeps them from making paths collide.
    pub fn new(hash_seed: u64) -> Self {
        let mut tree = Self::empty(hash_seed);
        let zero = StatPersisted::default();
        let root = tree.insert_node(b"", NIL, Some(b""), OPEN, zero);
        let zookeeper = tree.insert_node(b"/zookeeper", root, Some(b""), OPEN, zero);
        tree.insert_node(b"/zookeeper/quota", zookeeper, Some(b""), OPEN, zero);
        let read_only = tree.acls.intern(&[Acl::world(Permissions::READ)]);
        let config = StatPersisted { aversion: -1, ..zero };
        tree.insert_node(b"/zookeeper/config", zookeeper, Some(b""), read_only, config);
        tree
    }

    /// A tree without even a root; only a restore starts here.
    pub(crate) fn empty(hash_seed: u64) -> Self {
        Self {
            nodes: Slab::new(),
            index: PathIndex::new(),
            seed: hash_seed,
            acls: AclTable::new(),
            ephemerals: Owners::default(),
            sessions: Slab::new(),
            session_index: IdMap::default(),
            digest: 0,
            last_zxid: Zxid::ZERO,
            data_bytes: 0,
            path_bytes: 0,
            cuts: Cuts::default(),
        }
    }

    /// The last transaction applied; [`Zxid::ZERO`] for a fresh tree.
    pub const fn last_zxid(&self) -> Zxid {
        self.last_zxid
    }

    /// The running digest of all nodes (`quorum.md` 1.5), equal on servers with equal trees.
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// Number of nodes, the root counted once.
    pub const fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Number of ephemeral nodes.
    pub fn ephemeral_count(&self) -> usize {
        self.ephemerals.count()
    }

    /// Bytes of paths and data, ZooKeeper's `approximate_data_size`.
    pub const fn approximate_data_size(&self) -> u64 {
        self.data_bytes + self.path_bytes
    }

    /// The negotiated time-out of an open session in milliseconds.
    pub fn session_timeout_ms(&self, session: SessionId) -> Option<i32> {
        let at = *self.session_index.get(&session)?;
        Some(self.sessions[at].timeout_ms)
    }

    /// All open sessions with their time-outs in milliseconds.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, i32)> {
        self.sessions.iter().map(|(_, session)| (session.id, session.timeout_ms))
    }

    /// Number of open sessions.
    pub const fn session_count(&self) -> usize {
        self.sessions.len()
    }

    // --- reads ---------------------------------------------------------------------------------

    /// exists (3). The caller leaves the watch also when this says [`ErrorCode::NoNode`].
    ///
    /// # Errors
    /// BadArguments for a NUL in the path, NoNode, NoAuth.
    pub fn exists(&self, path: &[u8], ids: &[Id]) -> Result<Stat, ErrorCode> {
        if path.contains(&0) {
            return Err(ErrorCode::BadArguments);
        }
        Ok(self.readable(path, ids)?.client_stat())
    }

    /// getData (4); null and empty data differ.
    ///
    /// # Errors
    /// NoNode, NoAuth; then no watch is left.
    pub fn get_data(&self, path: &[u8], ids: &[Id]) -> Result<(Option<&[u8]>, Stat), ErrorCode> {
        let node = self.readable(path, ids)?;
        Ok((node.data.as_deref(), node.client_stat()))
    }

    /// getACL (6): the stored list, its digest ids masked for a caller who may not set it.
    ///
    /// # Errors
    /// NoNode; NoAuth without READ and ADMIN.
    pub fn get_acl(&self, path: &[u8], ids: &[Id]) -> Result<(Cow<'_, [Acl]>, Stat), ErrorCode> {
        let node = &self.nodes[self.find(path).ok_or(ErrorCode::NoNode)?];
        let list = self.acls.list(node.acl);
        let stat = node.client_stat();
        if acl::allows(list, Permissions::ADMIN, ids) {
            Ok((Cow::Borrowed(list), stat))
        } else if acl::allows(list, Permissions::READ, ids) {
            Ok((Cow::Owned(acl::masked(list)), stat))
        } else {
            Err(ErrorCode::NoAuth)
        }
    }

    /// getChildren (8) and getChildren2 (12): names in no particular order, and the parent's Stat.
    ///
    /// # Errors
    /// NoNode, NoAuth; then no watch is left.
    pub fn get_children(&self, path: &[u8], ids: &[Id]) -> Result<(Children<'_>, Stat), ErrorCode> {
        let node = self.readable(path, ids)?;
        let children = Children {
            nodes: &self.nodes,
            next: node.first_child,
            left: node.children,
            skip: node.path.len() + 1,
        };
        Ok((children, node.client_stat()))
    }

    /// Paths of the session's ephemerals.
    pub fn ephemerals(&self, session: SessionId) -> impl Iterator<Item = &[u8]> {
        self.ephemerals.slots(session).iter().map(|at| &*self.nodes[*at].path)
    }

    fn readable(&self, path: &[u8], ids: &[Id]) -> Result<&Znode, ErrorCode> {
        let node = &self.nodes[self.find(path).ok_or(ErrorCode::NoNode)?];
        if self.allows(node, Permissions::READ, ids) { Ok(node) } else { Err(ErrorCode::NoAuth) }
    }

    fn allows(&self, node: &Znode, wanted: Permissions, ids: &[Id]) -> bool {
        self.acls.closed(node.acl).is_none_or(|list| acl::allows(list, wanted, ids))
    }

    // --- lookups for the rest of the crate -----------------------------------------------------

    /// The hash under which this tree files a [`canonical`] path.
    pub(crate) fn hash(&self, path: &[u8]) -> u32 {
        hash_path(self.seed, path)
    }

    pub(crate) fn find(&self, path: &[u8]) -> Option<u32> {
        let path = canonical(path);
        self.find_hashed(self.hash(path), path)
    }

    /// The node that is filed under this very path.
    pub(crate) fn find_hashed(&self, hash: u32, path: &[u8]) -> Option<u32> {
        self.index.find(hash, |node| *self.nodes[node].path == *path)
    }

    // --- the only ways to change something -----------------------------------------------------

    /// Changes a node in place and keeps digest, sizes and open cuts in step.
    pub(crate) fn change(&mut self, at: u32, change: impl FnOnce(&mut Znode)) {
        self.save_node(at);
        let node = &mut self.nodes[at];
        let (digest, len) = (node.digest, node.data_len());
        change(node);
        node.digest = node_digest(node.content, &node.stat);
        if counts(&node.path) {
            let change = u64::from(node.digest).wrapping_sub(u64::from(digest));
            self.digest = self.digest.wrapping_add(change);
        }
        self.data_bytes = self.data_bytes - len as u64 + node.data_len() as u64;
    }

    /// Gives a node another list.
    pub(crate) fn change_acl(&mut self, at: u32, list: &[Acl]) {
        self.save_node(at);
        let list = self.acls.intern(list);
        let old = core::mem::replace(&mut self.nodes[at].acl, list);
        self.acls.release(old);
    }

    /// Adds a node below `parent`, with a list from [`DataTree::intern_acl`], and files it as its
    /// session's if it is an ephemeral. Leaves the parent's counters alone.
    pub(crate) fn insert_node(
        &mut self,
        path: &[u8],
        parent: u32,
        data: Option<&[u8]>,
        acl: u32,
        stat: StatPersisted,
    ) -> u32 {
        let hash = self.hash(path);
        self.cuts.before_insert_node(self.nodes.next_index());
        let node = Znode::new(Arc::from(path), hash, data.map(Vec::from), stat, acl, parent);
        self.data_bytes += node.data_len() as u64;
        self.path_bytes += path.len() as u64;
        if counts(path) {
            self.digest = self.digest.wrapping_add(u64::from(node.digest));
        }
        let at = self.nodes.insert(node);
        self.index.insert(hash, at);
        if parent != NIL {
            self.link(at, parent);
        }
        if let Some(session) = owner_session(stat.ephemeral_owner) {
            self.nodes[at].ephemeral_at = self.ephemerals.add(session, at, path.len());
        }
        at
    }

    pub(crate) fn intern_acl(&mut self, list: &[Acl]) -> u32 {
        self.acls.intern(list)
    }

    /// Removes a node without children. Leaves the parent's counters alone.
    pub(crate) fn remove_node(&mut self, at: u32) {
        self.save_node(at);
        self.unlink(at);
        let node = self.nodes.remove(at);
        assert!(node.children == 0 && at != ROOT, "a node with children is removed");
        self.index.remove(node.hash, at);
        if counts(&node.path) {
            self.digest = self.digest.wrapping_sub(u64::from(node.digest));
        }
        self.data_bytes -= node.data_len() as u64;
        self.path_bytes -= node.path.len() as u64;
        self.acls.release(node.acl);
        if let Some(session) = owner_session(node.stat.ephemeral_owner) {
            let place = node.ephemeral_at;
            if let Some(moved) = self.ephemerals.remove(session, place, node.path.len()) {
                self.nodes[moved].ephemeral_at = place;
            }
        }
    }

    fn link(&mut self, at: u32, parent: u32) {
        let first = core::mem::replace(&mut self.nodes[parent].first_child, at);
        self.nodes[parent].children += 1;
        self.nodes[at].next_sibling = first;
        if first != NIL {
            self.nodes[first].prev_sibling = at;
        }
    }

    fn unlink(&mut self, at: u32) {
        let Znode { parent, next_sibling, prev_sibling, .. } = self.nodes[at];
        if next_sibling != NIL {
            self.nodes[next_sibling].prev_sibling = prev_sibling;
        }
        if prev_sibling != NIL {
            self.nodes[prev_sibling].next_sibling = next_sibling;
        } else {
            // The parent's image must have the counters of before the removal, and the caller
            // saves it when it changes them; links are not part of an image.
            self.nodes[parent].first_child = next_sibling;
        }
        self.nodes[parent].children -= 1;
    }

    /// Opens a session, or gives an open one another time-out.
    pub(crate) fn open_session(&mut self, id: SessionId, timeout_ms: i32) {
        if let Some(at) = self.session_index.get(&id).copied() {
            let session = self.sessions[at];
            self.cuts.before_session(at, Some(session));
            self.sessions[at].timeout_ms = timeout_ms;
            return;
        }
        self.cuts.before_session(self.sessions.next_index(), None);
        let at = self.sessions.insert(Session { id, timeout_ms });
        self.session_index.insert(id, at);
    }

    /// Ends a session; what it owns is the caller's business.
    pub(crate) fn close_session(&mut self, id: SessionId) {
        let Some(at) = self.session_index.remove(&id) else { return };
        let session = self.sessions[at];
        self.cuts.before_session(at, Some(session));
        self.sessions.remove(at);
    }

    /// Copy-before-write: cuts that have not passed this node keep what it is now.
    fn save_node(&mut self, at: u32) {
        if !self.cuts.is_empty() {
            let node = &self.nodes[at];
            self.cuts.before_change(at, node, self.acls.list(node.acl));
        }
    }

    /// Asserts that every index agrees with the nodes. Walks the whole tree: for tests.
    pub fn check_invariants(&self) {
        let mut digest = 0u64;
        let (mut data_bytes, mut path_bytes, mut owned) = (0, 0, 0);
        for (at, node) in self.nodes.iter() {
            assert_eq!(self.find(&node.path), Some(at), "a node is not found by its path");
            assert_eq!(
                node.digest,
                node_digest(
                    crate::digest::content_crc(&node.path, node.data.as_deref()),
                    &node.stat
                )
            );
            if counts(&node.path) {
                digest = digest.wrapping_add(u64::from(node.digest));
            }
            data_bytes += node.data_len() as u64;
            path_bytes += node.path.len() as u64;
            if at != ROOT {
                let parent = path::parent(&node.path).expect("every node but the root has one");
                assert_eq!(self.find(parent), Some(node.parent), "a node has another parent");
            }
            let mut counted = 0;
            let (mut previous, mut child) = (NIL, node.first_child);
            while child != NIL {
                assert_eq!(self.nodes[child].parent, at);
                assert_eq!(self.nodes[child].prev_sibling, previous);
                (previous, child) = (child, self.nodes[child].next_sibling);
                counted += 1;
            }
            assert_eq!(counted, node.children, "the number of children is wrong");
            if let Some(session) = owner_session(node.stat.ephemeral_owner) {
                assert_eq!(self.ephemerals.slots(session)[node.ephemeral_at as usize], at);
                owned += 1;
            }
        }
        assert_eq!(owned, self.ephemeral_count());
        assert_eq!(self.index.len(), self.nodes.len());
        assert_eq!(self.session_index.len(), self.sessions.len());
        assert_eq!(
            (digest, data_bytes, path_bytes),
            (self.digest, self.data_bytes, self.path_bytes)
        );
    }
}

/// The names of a node's children.
#[derive(Clone, Debug)]
pub struct Children<'a> {
    nodes: &'a Slab<Znode>,
    next: u32,
    left: u32,
    /// Bytes of a child's path before its name.
    skip: usize,
}

impl<'a> Iterator for Children<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.next == NIL {
            return None;
        }
        let node = &self.nodes[self.next];
        self.next = node.next_sibling;
        self.left -= 1;
        Some(&node.path[self.skip..])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Children<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_tree_is_zookeepers() {
        let tree = DataTree::default();
        tree.check_invariants();
        assert_eq!(tree.digest(), 0x51c6_d660);
        assert_eq!(tree.node_count(), 4);
        assert_eq!(tree.last_zxid(), Zxid::ZERO);
        let (data, stat) = tree.get_data(b"/zookeeper/config", &[]).unwrap();
        assert_eq!((data, stat.aversion, stat.version), (Some(&b""[..]), -1, 0));
        let (mut children, stat) = tree.get_children(b"/", &[]).unwrap();
        assert_eq!(children.len(), 1);
        assert_eq!(children.next(), Some(&b"zookeeper"[..]));
        assert_eq!(children.next(), None);
        assert_eq!((stat.cversion, stat.num_children), (-1, 1));
        let (mut names, stat) = tree.get_children(b"/zookeeper", &[]).unwrap();
        assert!(names.any(|name| name == b"quota"));
        assert_eq!(stat.cversion, -2);
        assert_eq!(tree.get_data(b"", &[]), tree.get_data(b"/", &[]), "the root has two names");
    }

    #[test]
    fn the_seed_changes_nothing_that_can_be_seen() {
        assert_eq!(DataTree::new(1).digest(), DataTree::new(2).digest());
    }

    #[test]
    fn reads_are_refused_in_zookeepers_order() {
        let mut tree = DataTree::default();
        let secret = tree.intern_acl(&[Acl {
            perms: Permissions::READ,
            id: Id { scheme: (*b"digest").into(), id: (*b"bob:h").into() },
        }]);
        tree.insert_node(b"/s", ROOT, None, secret, StatPersisted::default());
        let bob = [Id { scheme: (*b"digest").into(), id: (*b"bob:h").into() }];
        assert_eq!(tree.exists(b"/a\0", &[]), Err(ErrorCode::BadArguments));
        assert_eq!(tree.exists(b"/a/", &[]), Err(ErrorCode::NoNode));
        assert_eq!(tree.exists(b"/s", &[]), Err(ErrorCode::NoAuth));
        assert_eq!(tree.get_data(b"/s", &[]), Err(ErrorCode::NoAuth));
        assert_eq!(tree.get_acl(b"/s", &[]), Err(ErrorCode::NoAuth));
        assert!(tree.get_children(b"/s", &[]).is_err());
        assert_eq!(tree.get_data(b"/s", &bob).unwrap().0, None);
        let (list, _) = tree.get_acl(b"/s", &bob).unwrap();
        assert_eq!(&*list[0].id.id, b"bob:x", "READ without ADMIN sees no hash");
        let (list, _) = tree.get_acl(b"/", &[]).unwrap();
        assert_eq!(list, [Acl::open()].as_slice());
    }
}
