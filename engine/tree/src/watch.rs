//! `WatchTable`: who waits for what, and whom a change concerns, in ZooKeeper's order.
//!
//! Watches belong to connections and are neither replicated nor stored. Only one-shot watches so
//! far; a longer-lived mode becomes one more list per path that firing does not empty. Filters
//! nothing: the list that says who may read a node travels with the event.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::Hash;

use hashbrown::HashTable;
use quorate_proto::Zxid;

use crate::acl::Acl;
use crate::data_tree::DataTree;
use crate::hash::{IdMap, hash_path, spread};
use crate::slab::Slab;
use crate::znode::NIL;

/// What happened; the discriminants are those of ZooKeeper's `Watcher.Event.EventType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum WatchKind {
    /// A node was created.
    NodeCreated = 1,
    /// A node was deleted.
    NodeDeleted = 2,
    /// A node's data was set.
    NodeDataChanged = 3,
    /// A child was created or deleted.
    NodeChildrenChanged = 4,
}

impl WatchKind {
    /// The number that goes over the wire.
    pub const fn code(self) -> i32 {
        self as i32
    }
}

/// An event on its way to one watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired<C> {
    /// Whose watch it was.
    pub watcher: C,
    /// What happened.
    pub event: WatchKind,
    /// Where; the parent for [`WatchKind::NodeChildrenChanged`].
    pub path: Arc<[u8]>,
    /// The node's access control list at that moment, if it is not open to the world: a watcher
    /// without READ consumes its watch and hears nothing (ZOOKEEPER-4799). `None` also for events
    /// of setWatches, which are not filtered.
    pub acl: Option<Arc<[Acl]>>,
}

/// What a watch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// Left by exists and getData.
    Data = 0,
    /// Left by getChildren and getChildren2.
    Child = 1,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

impl Ends {
    const EMPTY: Self = Self { first: NIL, last: NIL };
}

#[derive(Debug)]
struct Watched {
    path: Arc<[u8]>,
    hash: u32,
    lists: [Ends; 2],
}

#[derive(Debug)]
struct Watcher<C> {
    id: C,
    first: u32,
    /// Watches it has.
    count: u32,
}

/// One watch: a member of its path's list, in the order of leaving, and of its watcher's.
#[derive(Debug)]
struct Watch {
    path: u32,
    watcher: u32,
    list: List,
    next: u32,
    prev: u32,
    next_own: u32,
    prev_own: u32,
}

/// The watches of all connections of one server.
#[derive(Debug)]
pub struct WatchTable<C> {
    watches: Slab<Watch>,
    paths: Slab<Watched>,
    watchers: Slab<Watcher<C>>,
    path_index: HashTable<u32>,
    watcher_index: IdMap<C, u32>,
    /// Finds a watch by path, watcher and list: leaving it twice is leaving it once.
    watch_index: HashTable<u32>,
    seed: u64,
}

impl<C: Copy + Eq + Hash> Default for WatchTable<C> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<C: Copy + Eq + Hash> WatchTable<C> {
    /// No watches. The seed goes into the hash of paths, as in [`DataTree::new`].
    pub fn new(hash_seed: u64) -> Self {
        Self {
            watches: Slab::new(),
            paths: Slab::new(),
            watchers: Slab::new(),
            path_index: HashTable::new(),
            watcher_index: IdMap::default(),
            watch_index: HashTable::new(),
            seed: hash_seed,
        }
    }

    /// Whether nobody waits for anything.
    pub const fn is_empty(&self) -> bool {
        self.watches.len() == 0
    }

    /// Watches in total, ZooKeeper's `watch_count`.
    pub const fn len(&self) -> usize {
        self.watches.len()
    }

    /// Watches of one connection.
    pub fn count_of(&self, watcher: C) -> usize {
        self.watcher_index.get(&watcher).map_or(0, |at| self.watchers[*at].count as usize)
    }

    /// Leaves a data watch: getData on success, exists also on a missing node.
    pub fn watch_data(&mut self, path: &[u8], watcher: C) {
        self.leave(path, watcher, List::Data);
    }

    /// Leaves a child watch: getChildren and getChildren2 on success.
    pub fn watch_children(&mut self, path: &[u8], watcher: C) {
        self.leave(path, watcher, List::Child);
    }

    /// Forgets a connection with all its watches, at the cost of those alone.
    pub fn remove_watcher(&mut self, watcher: C) {
        let Some(at) = self.watcher_index.get(&watcher).copied() else { return };
        // The watcher goes with its last watch.
        for _ in 0..self.watchers[at].count {
            self.remove(self.watchers[at].first);
        }
    }

    /// setWatches (101): what a connection's client waited for before it reconnected, compared with
    /// the tree as it is now. Each path gives an event at once or leaves its watch, never both (R36,
    /// `client.md` 2.8).
    pub fn set_watches(
        &mut self,
        tree: &DataTree,
        watcher: C,
        relative_zxid: Zxid,
        lists: &ReplayedWatches<'_>,
        fired: &mut Vec<Fired<C>>,
    ) {
        let mut fire = |path: &[u8], event| {
            fired.push(Fired { watcher, event, path: Arc::from(path), acl: None });
        };
        for path in lists.data {
            match tree.find(path) {
                None => fire(path, WatchKind::NodeDeleted),
                Some(at) if tree.nodes[at].stat.mzxid > relative_zxid => {
                    fire(path, WatchKind::NodeDataChanged);
                }
                Some(_) => self.watch_data(path, watcher),
            }
        }
        for path in lists.exist {
            match tree.find(path) {
                None => self.watch_data(path, watcher),
                Some(_) => fire(path, WatchKind::NodeCreated),
            }
        }
        for path in lists.child {
            match tree.find(path) {
                None => fire(path, WatchKind::NodeDeleted),
                Some(at) if tree.nodes[at].stat.pzxid > relative_zxid => {
                    fire(path, WatchKind::NodeChildrenChanged);
                }
                Some(_) => self.watch_children(path, watcher),
            }
        }
    }

    // --- what a change fires -------------------------------------------------------------------

    pub(crate) fn fire_data(
        &mut self,
        event: WatchKind,
        path: &[u8],
        acl: Option<&Arc<[Acl]>>,
        fired: &mut Vec<Fired<C>>,
    ) {
        if let Some(at) = self.find_path(path) {
            self.fire(at, List::Data, event, acl, fired);
        }
    }

    pub(crate) fn fire_children(
        &mut self,
        path: &[u8],
        acl: Option<&Arc<[Acl]>>,
        fired: &mut Vec<Fired<C>>,
    ) {
        if let Some(at) = self.find_path(path) {
            self.fire(at, List::Child, WatchKind::NodeChildrenChanged, acl, fired);
        }
    }

    /// Data watchers first, then child watchers that were not told yet.
    pub(crate) fn fire_deleted(
        &mut self,
        path: &[u8],
        acl: Option<&Arc<[Acl]>>,
        fired: &mut Vec<Fired<C>>,
    ) {
        let Some(at) = self.find_path(path) else { return };
        let mut child = self.paths[at].lists[List::Child as usize].first;
        while child != NIL {
            let Watch { next, watcher, .. } = self.watches[child];
            if self.find_watch(at, watcher, List::Data).is_some() {
                self.remove(child);
            }
            child = next;
        }
        let keep = self.paths[at].lists[List::Child as usize].first != NIL;
        self.fire(at, List::Data, WatchKind::NodeDeleted, acl, fired);
        if keep {
            self.fire(at, List::Child, WatchKind::NodeDeleted, acl, fired);
        }
    }

    fn fire(
        &mut self,
        at: u32,
        list: List,
        event: WatchKind,
        acl: Option<&Arc<[Acl]>>,
        fired: &mut Vec<Fired<C>>,
    ) {
        let mut next = self.paths[at].lists[list as usize].first;
        if next == NIL {
            return;
        }
        let path = self.paths[at].path.clone();
        while next != NIL {
            let watch = &self.watches[next];
            let watcher = self.watchers[watch.watcher].id;
            fired.push(Fired { watcher, event, path: path.clone(), acl: acl.cloned() });
            let this = core::mem::replace(&mut next, watch.next);
            self.remove(this);
        }
    }

    // --- the lists -----------------------------------------------------------------------------

    fn find_path(&self, path: &[u8]) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let hash = hash_path(self.seed, path);
        let is_it = |at: &u32| self.paths[*at].hash == hash && *self.paths[*at].path == *path;
        self.path_index.find(spread(hash), is_it).copied()
    }

    fn find_watch(&self, path: u32, watcher: u32, list: List) -> Option<u32> {
        let is_it = |at: &u32| {
            let watch = &self.watches[*at];
            watch.path == path && watch.watcher == watcher && watch.list == list
        };
        self.watch_index.find(watch_hash(path, watcher, list), is_it).copied()
    }

    fn leave(&mut self, path: &[u8], watcher: C, list: List) {
        let path = self.find_path(path).unwrap_or_else(|| self.add_path(path));
        let watcher = match self.watcher_index.get(&watcher) {
            Some(at) => *at,
            None => {
                let at = self.watchers.insert(Watcher { id: watcher, first: NIL, count: 0 });
                self.watcher_index.insert(watcher, at);
                at
            }
        };
        if self.find_watch(path, watcher, list).is_some() {
            return;
        }
        let prev = self.paths[path].lists[list as usize].last;
        let next_own = self.watchers[watcher].first;
        let watch = Watch { path, watcher, list, next: NIL, prev, next_own, prev_own: NIL };
        let at = self.watches.insert(watch);
        let ends = &mut self.paths[path].lists[list as usize];
        ends.last = at;
        if prev == NIL {
            ends.first = at;
        } else {
            self.watches[prev].next = at;
        }
        if next_own != NIL {
            self.watches[next_own].prev_own = at;
        }
        self.watchers[watcher].first = at;
        self.watchers[watcher].count += 1;
        let watches = &self.watches;
        self.watch_index.insert_unique(watch_hash(path, watcher, list), at, |at| {
            let watch = &watches[*at];
            watch_hash(watch.path, watch.watcher, watch.list)
        });
    }

    fn add_path(&mut self, path: &[u8]) -> u32 {
        let hash = hash_path(self.seed, path);
        let watched = Watched { path: Arc::from(path), hash, lists: [Ends::EMPTY; 2] };
        let at = self.paths.insert(watched);
        let paths = &self.paths;
        self.path_index.insert_unique(spread(hash), at, |at| spread(paths[*at].hash));
        at
    }

    /// Removes one watch, and its path and watcher if it was their last.
    fn remove(&mut self, at: u32) {
        let Watch { path, watcher, list, .. } = self.watches[at];
        self.watch_index
            .find_entry(watch_hash(path, watcher, list), |other| *other == at)
            .expect("every watch is in the index")
            .remove();
        let Watch { next, prev, next_own, prev_own, .. } = self.watches.remove(at);
        let ends = &mut self.paths[path].lists[list as usize];
        if prev == NIL {
            ends.first = next;
        }
        if next == NIL {
            ends.last = prev;
        }
        if prev != NIL {
            self.watches[prev].next = next;
        }
        if next != NIL {
            self.watches[next].prev = prev;
        }
        if next_own != NIL {
            self.watches[next_own].prev_own = prev_own;
        }
        if prev_own == NIL {
            self.watchers[watcher].first = next_own;
        } else {
            self.watches[prev_own].next_own = next_own;
        }
        self.watchers[watcher].count -= 1;
        if self.watchers[watcher].count == 0 {
            let watcher = self.watchers.remove(watcher);
            self.watcher_index.remove(&watcher.id);
        }
        if self.paths[path].lists.iter().all(|ends| ends.first == NIL) {
            let watched = self.paths.remove(path);
            self.path_index
                .find_entry(spread(watched.hash), |other| *other == path)
                .expect("every watched path is in the index")
                .remove();
        }
    }
}

const fn watch_hash(path: u32, watcher: u32, list: List) -> u64 {
    let low = (watcher << 1 | list as u32) as u64;
    let mixed = ((path as u64) << 32 | low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// What setWatches brings: three lists of paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayedWatches<'a> {
    /// Data watches.
    pub data: &'a [&'a [u8]],
    /// Watches on nodes that did not exist.
    pub exist: &'a [&'a [u8]],
    /// Child watches.
    pub child: &'a [&'a [u8]],
}
