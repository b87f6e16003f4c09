//! `Overlay`: what nodes will be once every outstanding transaction is applied.
//!
//! One record per changed node, forgotten when the last transaction that changed it is applied. Can
//! take back everything since a mark, which is how a multi fails. Judges nothing.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashTable;
use quorate_proto::{SessionId, Zxid};

use crate::acl::{self, Acl, Id, Permissions};
use crate::data_tree::DataTree;
use crate::digest::{content_crc, counts, node_digest};
use crate::hash::spread;
use crate::owners::Owners;
use crate::slab::Slab;
use crate::stat::StatPersisted;
use crate::znode::{NIL, owner_session};

/// Where the truth about a path stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a record: an outstanding transaction changed, created or deleted it.
    Record(u32),
    /// In the tree.
    Node(u32),
    /// It does not exist.
    Nowhere,
}

/// What [`Overlay::locate`] found for a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    hash: u32,
    place: Place,
}

/// A node as the next transaction will find it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) stat: &'a StatPersisted,
    pub(crate) children: u32,
    /// `None` is open.
    acl: Option<&'a [Acl]>,
}

impl View<'_> {
    pub(crate) fn allows(&self, wanted: Permissions, ids: &[Id]) -> bool {
        self.acl.is_none_or(|acl| acl::allows(acl, wanted, ids))
    }

    pub(crate) const fn is_ephemeral(&self) -> bool {
        owner_session(self.stat.ephemeral_owner).is_some()
    }
}

/// What a node will be; by default it does not exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeState {
    pub(crate) exists: bool,
    pub(crate) stat: StatPersisted,
    pub(crate) children: u32,
    /// `None` is open.
    pub(crate) acl: Option<Arc<[Acl]>>,
    /// Kept up only by an overlay that computes digests.
    content: u32,
    digest: u32,
}

impl NodeState {
    /// The session whose ephemeral this is.
    fn owner(&self) -> Option<SessionId> {
        if self.exists { owner_session(self.stat.ephemeral_owner) } else { None }
    }
}

#[derive(Debug)]
struct Record {
    path: Vec<u8>,
    hash: u32,
    /// The last transaction that changed it.
    zxid: Zxid,
    state: NodeState,
    /// Where it stands in its session's list.
    owned_at: u32,
}

#[derive(Clone, Copy, Debug)]
struct Indexed {
    hash: u32,
    record: u32,
}

/// A change that can be taken back: what the record was, or `None` if there was none.
#[derive(Debug)]
struct Undo {
    record: u32,
    before: Option<(Zxid, NodeState)>,
}

#[derive(Debug, Default)]
struct Mark {
    queue_len: usize,
    running: u64,
}

#[derive(Debug)]
pub(crate) struct Overlay {
    records: Slab<Record>,
    index: HashTable<Indexed>,
    /// Which transaction changed which record, oldest first.
    queue: VecDeque<(Zxid, u32)>,
    /// Records of ephemerals.
    owned: Owners,
    /// While a multi is prepared.
    mark: Option<Mark>,
    undo: Vec<Undo>,
    /// Emptied paths, for the next records.
    spare: Vec<Vec<u8>>,
    /// The digest after every outstanding transaction, if it is computed.
    running: Option<u64>,
}

/// How many emptied paths are kept.
const SPARE_MAX: usize = 1024;
/// Bytes beyond which an emptied path is not kept.
const SPARE_LEN_MAX: usize = 512;

impl Overlay {
    pub(crate) fn new(digest: bool) -> Self {
        Self {
            records: Slab::new(),
            index: HashTable::new(),
            queue: VecDeque::new(),
            owned: Owners::default(),
            mark: None,
            undo: Vec::new(),
            spare: Vec::new(),
            running: if digest { Some(0) } else { None },
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.records.len()
    }

    /// The digest after every outstanding transaction.
    pub(crate) const fn digest(&self) -> Option<u64> {
        self.running
    }

    /// Begins the next transaction: with nothing outstanding the digest is the tree's.
    pub(crate) fn begin(&mut self, tree: &DataTree) {
        if self.queue.is_empty()
            && let Some(running) = &mut self.running
        {
            *running = tree.digest();
        }
    }

    /// Where a path stands, taken as it is written: `/` names nothing, the root is the empty path.
    pub(crate) fn locate(&self, tree: &DataTree, path: &[u8]) -> Spot {
        let hash = tree.hash(path);
        Spot { hash, place: self.locate_hashed(tree, hash, path) }
    }

    fn locate_hashed(&self, tree: &DataTree, hash: u32, path: &[u8]) -> Place {
        if self.records.len() > 0 {
            let is_it = |i: &Indexed| i.hash == hash && *self.records[i.record].path == *path;
            if let Some(indexed) = self.index.find(spread(hash), is_it) {
                return Place::Record(indexed.record);
            }
        }
        tree.find_hashed(hash, path).map_or(Place::Nowhere, Place::Node)
    }

    pub(crate) fn view<'v>(&'v self, tree: &'v DataTree, spot: Spot) -> Option<View<'v>> {
        match spot.place {
            Place::Record(record) => {
                let state = &self.records[record].state;
                state.exists.then_some(View {
                    stat: &state.stat,
                    children: state.children,
                    acl: state.acl.as_deref(),
                })
            }
            Place::Node(node) => {
                let node = &tree.nodes[node];
                let acl = tree.acls.closed(node.acl).map(|list| &**list);
                Some(View { stat: &node.stat, children: node.children, acl })
            }
            Place::Nowhere => None,
        }
    }

    /// Changes what a path will be. `spot` is what [`Overlay::locate`] found.
    pub(crate) fn change(
        &mut self,
        tree: &DataTree,
        spot: Spot,
        path: &[u8],
        zxid: Zxid,
        change: impl FnOnce(&mut NodeState),
    ) {
        let record = self.record(tree, spot, path, zxid);
        let owner = self.records[record].state.owner();
        let before = self.records[record].state.digest;
        change(&mut self.records[record].state);
        self.follow(record, owner, before);
    }

    /// Creates or replaces a node's content: as [`Overlay::change`], and the digest reads the data.
    pub(crate) fn change_content(
        &mut self,
        tree: &DataTree,
        spot: Spot,
        path: &[u8],
        data: Option<&[u8]>,
        zxid: Zxid,
        change: impl FnOnce(&mut NodeState),
    ) {
        let content = if self.running.is_some() { content_crc(path, data) } else { 0 };
        self.change(tree, spot, path, zxid, |state| {
            change(state);
            state.content = content;
        });
    }

    /// The record of a path, made if there is none, with its queue entry and what undoes it.
    fn record(&mut self, tree: &DataTree, spot: Spot, path: &[u8], zxid: Zxid) -> u32 {
        let Spot { hash, place } = spot;
        let state = match place {
            Place::Record(at) => {
                let record = &mut self.records[at];
                if self.mark.is_some() {
                    let before = Some((record.zxid, record.state.clone()));
                    self.undo.push(Undo { record: at, before });
                }
                if record.zxid != zxid {
                    record.zxid = zxid;
                    self.queue.push_back((zxid, at));
                }
                return at;
            }
            Place::Node(node) => {
                let node = &tree.nodes[node];
                NodeState {
                    exists: true,
                    stat: node.stat,
                    children: node.children,
                    acl: tree.acls.closed(node.acl).cloned(),
                    content: node.content,
                    digest: node.digest,
                }
            }
            Place::Nowhere => NodeState::default(),
        };
        let mut own_path = self.spare.pop().unwrap_or_default();
        own_path.extend_from_slice(path);
        let owner = state.owner();
        let at = self.records.insert(Record { path: own_path, hash, zxid, state, owned_at: NIL });
        self.index.insert_unique(spread(hash), Indexed { hash, record: at }, |i| spread(i.hash));
        self.queue.push_back((zxid, at));
        if let Some(session) = owner {
            self.own(session, at);
        }
        if self.mark.is_some() {
            self.undo.push(Undo { record: at, before: None });
        }
        at
    }

    /// After a change of a record: its session's list and the digest follow.
    fn follow(&mut self, at: u32, owner: Option<SessionId>, digest: u32) {
        let now = self.records[at].state.owner();
        if now != owner {
            if let Some(session) = owner {
                self.disown(session, at);
            }
            if let Some(session) = now {
                self.own(session, at);
            }
        }
        if let Some(running) = &mut self.running {
            let Record { path, state, .. } = &mut self.records[at];
            state.digest = if state.exists { node_digest(state.content, &state.stat) } else { 0 };
            if counts(path) {
                let change = u64::from(state.digest).wrapping_sub(u64::from(digest));
                *running = running.wrapping_add(change);
            }
        }
    }

    fn own(&mut self, session: SessionId, at: u32) {
        let record = &mut self.records[at];
        record.owned_at = self.owned.add(session, at, record.path.len());
    }

    fn disown(&mut self, session: SessionId, at: u32) {
        let record = &mut self.records[at];
        let place = core::mem::replace(&mut record.owned_at, NIL);
        if let Some(moved) = self.owned.remove(session, place, record.path.len()) {
            self.records[moved].owned_at = place;
        }
    }

    /// Bytes that the session's ephemerals in records would take in a closeSession.
    pub(crate) fn owned_bytes(&self, session: SessionId) -> usize {
        self.owned.bytes(session)
    }

    /// Paths of all ephemerals that the session will own, those of the tree first.
    pub(crate) fn ephemerals(&self, tree: &DataTree, session: SessionId) -> Vec<Vec<u8>> {
        let unchanged = tree.ephemerals.slots(session).iter().filter_map(|at| {
            let node = &tree.nodes[*at];
            let place = self.locate_hashed(tree, node.hash, &node.path);
            matches!(place, Place::Node(_)).then(|| node.path.to_vec())
        });
        let records = self.owned.slots(session).iter();
        let changed = records.map(|record| self.records[*record].path.clone());
        unchanged.chain(changed).collect()
    }

    // --- taking back ---------------------------------------------------------------------------

    /// From here on everything can be taken back.
    pub(crate) fn set_mark(&mut self) {
        debug_assert!(self.mark.is_none() && self.undo.is_empty());
        let queue_len = self.queue.len();
        self.mark = Some(Mark { queue_len, running: self.running.unwrap_or(0) });
    }

    /// Keeps everything since the mark.
    pub(crate) fn keep(&mut self) {
        self.mark = None;
        self.undo.clear();
    }

    /// Takes everything since the mark back, sequence numbers included.
    pub(crate) fn take_back(&mut self) {
        let mark = self.mark.take().expect("a mark was set");
        while let Some(Undo { record, before }) = self.undo.pop() {
            let owner = self.records[record].state.owner();
            match before {
                Some((zxid, state)) => {
                    self.records[record].zxid = zxid;
                    self.records[record].state = state;
                    let digest = self.records[record].state.digest;
                    self.follow(record, owner, digest);
                }
                None => self.forget(record),
            }
        }
        self.queue.truncate(mark.queue_len);
        if let Some(running) = &mut self.running {
            *running = mark.running;
        }
    }

    // --- forgetting ----------------------------------------------------------------------------

    /// Forgets what the tree shows by itself now.
    pub(crate) fn applied(&mut self, through: Zxid) {
        while let Some((zxid, record)) = self.queue.front().copied() {
            if zxid > through {
                break;
            }
            self.queue.pop_front();
            if self.records[record].zxid == zxid {
                self.forget(record);
            }
        }
    }

    fn forget(&mut self, at: u32) {
        if let Some(session) = self.records[at].state.owner() {
            self.disown(session, at);
        }
        let Record { mut path, hash, .. } = self.records.remove(at);
        self.index
            .find_entry(spread(hash), |indexed| indexed.record == at)
            .expect("every record is in the index")
            .remove();
        if self.spare.len() < SPARE_MAX && path.capacity() <= SPARE_LEN_MAX {
            path.clear();
            self.spare.push(path);
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.running.is_some());
    }
}
