//! `Cut`: the tree at one zxid, read in slices while transactions go on; `Restore`: the way back.
//!
//! Copy-before-write: whoever changes a node or session that an open cut has not passed yet keeps a
//! copy for it first. A fuzzy snapshot would be smaller and has caused a dozen faults (R11). Knows
//! no encoding.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use quorate_proto::{SessionId, Zxid};

use crate::acl::Acl;
use crate::data_tree::{DataTree, ROOT, Session};
use crate::hash::IdMap;
use crate::path::{self, PathError};
use crate::stat::StatPersisted;
use crate::znode::{NIL, Znode};

/// One piece of a snapshot. Sessions come first, then nodes with parents before children, then the
/// end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// An open session.
    Session {
        /// Its id.
        id: SessionId,
        /// Its time-out in milliseconds.
        timeout_ms: i32,
    },
    /// A node.
    Node {
        /// Where; the root's path is empty.
        path: &'a [u8],
        /// The data; null and empty differ.
        data: Option<&'a [u8]>,
        /// The stored access control list.
        acl: &'a [Acl],
        /// The stored counters.
        stat: &'a StatPersisted,
    },
    /// The end.
    End(SnapshotEnd),
}

/// What a complete snapshot must add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// The last transaction that the snapshot reflects.
    pub zxid: Zxid,
    /// The tree's digest there.
    pub digest: u64,
    /// Number of sessions.
    pub sessions: u64,
    /// Number of nodes, the root included.
    pub nodes: u64,
}

/// An open cut. Dropping it closes it; [`DataTree::close_cut`] also frees its copies at once.
#[derive(Debug)]
pub struct Cut {
    token: Arc<()>,
    end: SnapshotEnd,
    node_at: u32,
    /// Nodes that wait for their parents.
    waiting: Vec<u32>,
    ended: bool,
}

/// A node as an open cut must show it.
#[derive(Debug)]
struct Image {
    path: Arc<[u8]>,
    data: Option<Vec<u8>>,
    acl: Arc<[Acl]>,
    stat: StatPersisted,
    parent: u32,
}

/// The tree's side of one open cut.
#[derive(Debug)]
struct Open {
    token: Arc<()>,
    /// Slots there were when the cut was opened.
    node_limit: u32,
    /// One bit per slot: passed.
    passed: Vec<u64>,
    /// Slots changed since and not passed yet; `None` was vacant.
    nodes: IdMap<u32, Option<Image>>,
    session_limit: u32,
    session_at: u32,
    sessions: IdMap<u32, Option<Session>>,
}

impl Open {
    fn has_passed(&self, at: u32) -> bool {
        self.passed[at as usize / 64] & 1 << (at % 64) != 0
    }

    fn pass(&mut self, at: u32) {
        self.passed[at as usize / 64] |= 1 << (at % 64);
    }

    fn must_keep_node(&self, at: u32) -> bool {
        at < self.node_limit && !self.has_passed(at) && !self.nodes.contains_key(&at)
    }
}

/// All open cuts of a tree.
#[derive(Debug, Default)]
pub(crate) struct Cuts(Vec<Open>);

impl Cuts {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets cuts whose other half was dropped.
    fn prune(&mut self) {
        self.0.retain(|open| Arc::strong_count(&open.token) > 1);
    }

    pub(crate) fn before_change(&mut self, at: u32, node: &Znode, acl: &Arc<[Acl]>) {
        self.prune();
        for open in &mut self.0 {
            if open.must_keep_node(at) {
                let image = Image {
                    path: node.path.clone(),
                    data: node.data.clone(),
                    acl: acl.clone(),
                    stat: node.stat,
                    parent: node.parent,
                };
                open.nodes.insert(at, Some(image));
            }
        }
    }

    pub(crate) fn before_insert_node(&mut self, at: u32) {
        for open in &mut self.0 {
            if open.must_keep_node(at) {
                open.nodes.insert(at, None);
            }
        }
    }

    pub(crate) fn before_session(&mut self, at: u32, session: Option<Session>) {
        for open in &mut self.0 {
            if (open.session_at..open.session_limit).contains(&at) {
                open.sessions.entry(at).or_insert(session);
            }
        }
    }
}

impl DataTree {
    /// Opens a cut of the tree as it is now. Several may be open at once; while one is, the first
    /// change of each node that it has not passed costs a copy.
    pub fn open_cut(&mut self) -> Cut {
        self.cuts.prune();
        let token = Arc::new(());
        let node_limit = self.nodes.bound();
        self.cuts.0.push(Open {
            token: token.clone(),
            node_limit,
            passed: vec![0; (node_limit as usize).div_ceil(64)],
            nodes: IdMap::default(),
            session_limit: self.sessions.bound(),
            session_at: 0,
            sessions: IdMap::default(),
        });
        Cut {
            token,
            end: SnapshotEnd {
                zxid: self.last_zxid(),
                digest: self.digest(),
                sessions: self.session_count() as u64,
                nodes: self.node_count() as u64,
            },
            node_at: 0,
            waiting: Vec::new(),
            ended: false,
        }
    }

    /// Closes a cut, read to its end or not.
    pub fn close_cut(&mut self, cut: Cut) {
        drop(cut);
        self.cuts.prune();
    }
}

impl Cut {
    /// The zxid at which it was cut.
    pub const fn zxid(&self) -> Zxid {
        self.end.zxid
    }

    /// What it will add up to.
    pub const fn end(&self) -> SnapshotEnd {
        self.end
    }

    /// Gives the next entries, about `max_bytes` of them (at least one), to `each`; true when the
    /// end was among them. The order depends on nothing but the history of the tree.
    ///
    /// # Panics
    /// If `tree` is not the one on which the cut was opened.
    pub fn next_slice(
        &mut self,
        tree: &mut DataTree,
        max_bytes: usize,
        mut each: impl FnMut(Entry<'_>),
    ) -> bool {
        if self.ended {
            return true;
        }
        let DataTree { cuts, nodes, sessions, acls, .. } = tree;
        let open = cuts.0.iter_mut().find(|open| Arc::ptr_eq(&open.token, &self.token));
        let open = open.expect("a cut is read from the tree on which it was opened");
        let mut bytes = 0;
        while open.session_at < open.session_limit {
            if bytes >= max_bytes.max(1) {
                return false;
            }
            let at = open.session_at;
            open.session_at += 1;
            let kept = open.sessions.remove(&at);
            if let Some(session) = kept.unwrap_or_else(|| sessions.get(at).copied()) {
                each(Entry::Session { id: session.id, timeout_ms: session.timeout_ms });
            }
            bytes += 12;
        }
        loop {
            while self.waiting.is_empty()
                && self.node_at < open.node_limit
                && open.has_passed(self.node_at)
            {
                self.node_at += 1;
            }
            let at = self.waiting.last().copied().unwrap_or(self.node_at);
            if at >= open.node_limit {
                break;
            }
            if bytes >= max_bytes.max(1) {
                return false;
            }
            let node = match open.nodes.get(&at) {
                Some(kept) => kept
                    .as_ref()
                    .map(|node| (node.parent, &node.path, &node.data, &node.acl, &node.stat)),
                None => nodes.get(at).map(|node| {
                    (node.parent, &node.path, &node.data, acls.list(node.acl), &node.stat)
                }),
            };
            match node {
                Some((parent, ..)) if parent != NIL && !open.has_passed(parent) => {
                    if self.waiting.is_empty() {
                        self.waiting.push(at);
                    }
                    self.waiting.push(parent);
                    continue;
                }
                Some((_, path, data, acl, stat)) => {
                    let data = data.as_deref();
                    let list = acl.iter().map(|acl| 12 + acl.id.scheme.len() + acl.id.id.len());
                    let list: usize = list.sum();
                    bytes += 76 + path.len() + data.map_or(0, <[u8]>::len) + list;
                    each(Entry::Node { path, data, acl, stat });
                }
                None => bytes += 1,
            }
            open.nodes.remove(&at);
            open.pass(at);
            self.waiting.pop();
        }
        assert!(open.nodes.is_empty() && open.sessions.is_empty(), "a cut has passed what it kept");
        self.ended = true;
        each(Entry::End(self.end));
        true
    }
}

/// Why a snapshot cannot become a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError {
    /// The session came twice, or has the id 0.
    BadSession(SessionId),
    /// A node's path is not allowed.
    BadPath(PathError),
    /// A node came twice.
    DuplicateNode,
    /// A node came before its parent.
    NoParent,
    /// A node is below an ephemeral.
    EphemeralParent,
    /// The end came without a root before it.
    NoRoot,
    /// Something came behind the end, or the end never came.
    Unfinished,
    /// The sessions or nodes are not as many as the end says.
    Count {
        /// What the end says: sessions and nodes.
        expected: (u64, u64),
        /// What came.
        found: (u64, u64),
    },
    /// The digest is not the one that the end says.
    Digest {
        /// What the end says.
        expected: u64,
        /// What came.
        found: u64,
    },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadSession(session) => write!(f, "session {session} is not possible"),
            Self::BadPath(error) => write!(f, "a node's path is not possible: {error}"),
            Self::DuplicateNode => f.write_str("a node came twice"),
            Self::NoParent => f.write_str("a node came before its parent"),
            Self::EphemeralParent => f.write_str("a node is below an ephemeral"),
            Self::NoRoot => f.write_str("the root is missing"),
            Self::Unfinished => f.write_str("the end is not where it must be"),
            Self::Count { expected, found } => {
                write!(f, "{found:?} sessions and nodes came, {expected:?} were announced")
            }
            Self::Digest { expected, found } => {
                write!(f, "the digest is {found:#x}, it must be {expected:#x}")
            }
        }
    }
}

impl core::error::Error for RestoreError {}

/// A tree that is being rebuilt from the entries of a cut.
#[derive(Debug)]
pub struct Restore {
    tree: DataTree,
    end: Option<SnapshotEnd>,
}

impl Restore {
    /// Starts with nothing; the seed is that of [`DataTree::new`].
    pub fn new(hash_seed: u64) -> Self {
        Self { tree: DataTree::empty(hash_seed), end: None }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`RestoreError`]; this restore is then of no more use.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<(), RestoreError> {
        if self.end.is_some() {
            return Err(RestoreError::Unfinished);
        }
        match *entry {
            Entry::Session { id, timeout_ms } => self.session(id, timeout_ms),
            Entry::Node { path, data, acl, stat } => self.node(path, data, acl, stat),
            Entry::End(end) => {
                self.end = Some(end);
                Ok(())
            }
        }
    }

    fn session(&mut self, id: SessionId, timeout_ms: i32) -> Result<(), RestoreError> {
        if id == SessionId(0) || self.tree.session_timeout_ms(id).is_some() {
            return Err(RestoreError::BadSession(id));
        }
        self.tree.open_session(id, timeout_ms);
        Ok(())
    }

    fn node(
        &mut self,
        path: &[u8],
        data: Option<&[u8]>,
        acl: &[Acl],
        stat: &StatPersisted,
    ) -> Result<(), RestoreError> {
        let parent = if path.is_empty() {
            NIL
        } else {
            path::check(path).map_err(RestoreError::BadPath)?;
            let parent = path::parent(path).expect("a checked path has a slash");
            let parent = self.tree.find(parent).ok_or(RestoreError::NoParent)?;
            if self.tree.nodes[parent].is_ephemeral() {
                return Err(RestoreError::EphemeralParent);
            }
            parent
        };
        if self.tree.find(path).is_some() {
            return Err(RestoreError::DuplicateNode);
        }
        let acl = self.tree.intern_acl(acl);
        self.tree.insert_node(path, parent, data, acl, *stat);
        Ok(())
    }

    /// Checks counts and digest against the end and gives the tree.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn finish(self) -> Result<DataTree, RestoreError> {
        let end = self.end.ok_or(RestoreError::Unfinished)?;
        let tree = self.finish_at(end.zxid)?;
        let found = (tree.session_count() as u64, tree.node_count() as u64);
        let expected = (end.sessions, end.nodes);
        if found != expected {
            return Err(RestoreError::Count { expected, found });
        }
        if tree.digest() != end.digest {
            return Err(RestoreError::Digest { expected: end.digest, found: tree.digest() });
        }
        Ok(tree)
    }

    /// Gives the tree of a source that has no end and no digest (ZooKeeper's SNAP stream).
    ///
    /// # Errors
    /// [`RestoreError::NoRoot`].
    pub fn finish_at(mut self, zxid: Zxid) -> Result<DataTree, RestoreError> {
        if self.tree.nodes.get(ROOT).is_none() {
            return Err(RestoreError::NoRoot);
        }
        self.tree.last_zxid = zxid;
        Ok(self.tree)
    }
}
