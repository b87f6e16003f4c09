//! Applies one committed transaction: total, deterministic, and the same for leader, follower,
//! replay and synchronisation (R13).
//!
//! Judges nothing: what is impossible here was refused by `prep`. What an import of ZooKeeper's
//! fuzzy snapshots makes possible (a node that is there already, or gone already) is tolerated as
//! ZooKeeper tolerates it (`quorum.md` 1.6).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::Hash;

use quorate_proto::{SessionId, Zxid};

use crate::ErrorCode;
use crate::acl::Acl;
use crate::data_tree::{DataTree, ROOT};
use crate::path;
use crate::stat::{Stat, StatPersisted};
use crate::txn::{Txn, TxnHeader};
use crate::watch::{Fired, WatchKind, WatchTable};

/// What the client of an applied transaction is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// create and create2.
    Created {
        /// The final path.
        path: Arc<[u8]>,
        /// The new node's Stat.
        stat: Stat,
        /// Whether the reply carries the Stat (create2).
        with_stat: bool,
    },
    /// delete.
    Deleted,
    /// setData.
    DataSet(Stat),
    /// setACL.
    AclSet(Stat),
    /// check, inside a multi.
    Checked,
    /// A session is open.
    SessionOpened {
        /// Its time-out in milliseconds.
        timeout_ms: i32,
    },
    /// A session has ended with its ephemerals.
    SessionClosed,
    /// multi: one outcome per operation. Of a failed multi each is [`Outcome::RolledBack`] or
    /// [`Outcome::Failed`], and the reply's header still says 0 (`client.md` 1.8).
    Multi(Vec<Self>),
    /// Inside a failed multi: this operation would have succeeded (code 0 in the reply).
    RolledBack,
    /// The request was refused with this code.
    Failed(ErrorCode),
}

impl Outcome {
    /// The error of the reply's header; a failed multi has none there.
    pub const fn error(&self) -> Option<ErrorCode> {
        match self {
            Self::Failed(code) => Some(*code),
            _ => None,
        }
    }
}

/// Where and when a transaction happens.
#[derive(Clone, Copy)]
struct At {
    session: SessionId,
    zxid: Zxid,
    time: i64,
}

/// A watch table and where its events go.
struct Events<'e, C> {
    watches: &'e mut WatchTable<C>,
    fired: &'e mut Vec<Fired<C>>,
}

impl DataTree {
    /// Applies the next committed transaction. Events are appended to `fired` in the order in which
    /// they must leave: per operation the node's data watchers, its child watchers, its parent's
    /// child watchers (`client.md` 2.6).
    pub fn apply<C: Copy + Eq + Hash>(
        &mut self,
        header: &TxnHeader,
        txn: &Txn<'_>,
        watches: &mut WatchTable<C>,
        fired: &mut Vec<Fired<C>>,
    ) -> Outcome {
        let at = At { session: header.session, zxid: header.zxid, time: header.time };
        let mut events = Events { watches, fired };
        let outcome = match txn {
            Txn::Multi(ops) => Outcome::Multi(self.apply_multi(at, ops, &mut events)),
            single => self.apply_op(at, single, &mut events),
        };
        // Only after the whole multi (ZOOKEEPER-3127), and never back.
        self.last_zxid = self.last_zxid.max(header.zxid);
        outcome
    }

    fn apply_multi<C: Copy + Eq + Hash>(
        &mut self,
        at: At,
        ops: &[Txn<'_>],
        events: &mut Events<'_, C>,
    ) -> Vec<Outcome> {
        let rolled_back = ops.iter().any(|op| matches!(op, Txn::Error(_)));
        let outcome = |op: &Txn<'_>| match op {
            Txn::Error(code) => Outcome::Failed(*code),
            _ if rolled_back => Outcome::RolledBack,
            op => self.apply_op(at, op, events),
        };
        ops.iter().map(outcome).collect()
    }

    fn apply_op<C: Copy + Eq + Hash>(
        &mut self,
        at: At,
        txn: &Txn<'_>,
        events: &mut Events<'_, C>,
    ) -> Outcome {
        let result = match txn {
            Txn::Create { path, data, acl, ephemeral, parent_cversion, with_stat } => {
                let owner = ephemeral.then_some(at.session);
                let created = self.create(at, path, *data, acl, owner, *parent_cversion, events);
                if created == Err(ErrorCode::NodeExists) && !*with_stat {
                    self.replay_create(at, path, acl, *parent_cversion);
                }
                created.map(|node| Outcome::Created {
                    path: self.nodes[node].path.clone(),
                    stat: self.nodes[node].client_stat(),
                    with_stat: *with_stat,
                })
            }
            Txn::Delete { path } => self.delete(at, path, events),
            Txn::SetData { path, data, version } => {
                self.set_data(at, path, *data, *version, events)
            }
            Txn::SetAcl { path, acl, version } => self.set_acl(path, acl, *version),
            Txn::Check { .. } => Ok(Outcome::Checked),
            Txn::CreateSession { timeout_ms } => {
                self.open_session(at.session, *timeout_ms);
                Ok(Outcome::SessionOpened { timeout_ms: *timeout_ms })
            }
            Txn::CloseSession { paths } => {
                for path in paths {
                    // A path that is gone already is nothing to report.
                    let _ = self.delete(at, path, events);
                }
                self.delete_ephemerals(at, events);
                self.close_session(at.session);
                Ok(Outcome::SessionClosed)
            }
            // prep makes no nested multi and the wire decodes none.
            Txn::Multi(_) => Err(ErrorCode::MarshallingError),
            Txn::Error(code) => Err(*code),
        };
        result.unwrap_or_else(Outcome::Failed)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record, taken apart once")]
    fn create<C: Copy + Eq + Hash>(
        &mut self,
        at: At,
        path: &[u8],
        data: Option<&[u8]>,
        acl: &[Acl],
        owner: Option<SessionId>,
        parent_cversion: i32,
        events: &mut Events<'_, C>,
    ) -> Result<u32, ErrorCode> {
        let parent_path = path::parent(path).ok_or(ErrorCode::BadArguments)?;
        let parent = self.find(parent_path).ok_or(ErrorCode::NoNode)?;
        if self.find(path).is_some() {
            return Err(ErrorCode::NodeExists);
        }
        if self.nodes[parent].is_ephemeral() {
            return Err(ErrorCode::NoChildrenForEphemerals);
        }
        let stat = StatPersisted::created(at.zxid, at.time, owner);
        let acl = self.intern_acl(acl);
        let node = self.insert_node(path, parent, data, acl, stat);
        self.count_child(at.zxid, parent, parent_cversion);
        if !events.watches.is_empty() {
            let readers = self.readers(node).cloned();
            events.watches.fire_data(WatchKind::NodeCreated, path, readers.as_ref(), events.fired);
            self.fire_parent(parent, events);
        }
        Ok(node)
    }

    /// The parent's cversion and pzxid rise together or not at all, so that replay over a later
    /// state changes nothing. The comparison wraps: the counter may pass its end (`client.md` 2.2).
    fn count_child(&mut self, zxid: Zxid, parent: u32, parent_cversion: i32) {
        let now = self.nodes[parent].stat.cversion;
        // -1 is from a record of before 3.4: count here.
        let next = if parent_cversion == -1 { now.wrapping_add(1) } else { parent_cversion };
        if next.wrapping_sub(now) > 0 {
            self.change(parent, |node| {
                node.stat.cversion = next;
                node.stat.pzxid = zxid;
            });
        }
    }

    /// A create (type 1) of what exists already still counts at the parent, and its list holds
    /// (ZOOKEEPER-4846).
    fn replay_create(&mut self, at: At, path: &[u8], acl: &[Acl], parent_cversion: i32) {
        if let Some(parent) = path::parent(path).and_then(|parent| self.find(parent)) {
            self.count_child(at.zxid, parent, parent_cversion);
        }
        if let Some(node) = self.find(path) {
            self.change_acl(node, acl);
        }
    }

    fn delete<C: Copy + Eq + Hash>(
        &mut self,
        at: At,
        path: &[u8],
        events: &mut Events<'_, C>,
    ) -> Result<Outcome, ErrorCode> {
        let node = self.find(path);
        if node == Some(ROOT) {
            return Err(ErrorCode::BadArguments);
        }
        if node.is_some_and(|node| self.nodes[node].children > 0) {
            return Err(ErrorCode::NotEmpty);
        }
        let parent = match node {
            Some(node) => Some(self.nodes[node].parent),
            None => path::parent(path).and_then(|parent| self.find(parent)),
        };
        // Also when the child is gone already: pzxid only goes up, and by every delete.
        if let Some(parent) = parent
            && self.nodes[parent].stat.pzxid < at.zxid
        {
            self.change(parent, |node| node.stat.pzxid = at.zxid);
        }
        let node = node.ok_or(ErrorCode::NoNode)?;
        let parent = parent.expect("every node but the root has a parent");
        if events.watches.is_empty() {
            self.remove_node(node);
        } else {
            let readers = self.readers(node).cloned();
            self.remove_node(node);
            events.watches.fire_deleted(path, readers.as_ref(), events.fired);
            self.fire_parent(parent, events);
        }
        Ok(Outcome::Deleted)
    }

    /// What the session still owns: the list in a closeSession is what the leader saw, and what is
    /// deleted is decided here (R31).
    fn delete_ephemerals<C: Copy + Eq + Hash>(&mut self, at: At, events: &mut Events<'_, C>) {
        let left = self.ephemerals.slots(at.session).to_vec();
        for node in left {
            let path = self.nodes[node].path.clone();
            let _ = self.delete(at, &path, events);
        }
    }

    fn set_data<C: Copy + Eq + Hash>(
        &mut self,
        at: At,
        path: &[u8],
        data: Option<&[u8]>,
        version: i32,
        events: &mut Events<'_, C>,
    ) -> Result<Outcome, ErrorCode> {
        let node = self.find(path).ok_or(ErrorCode::NoNode)?;
        self.change(node, |node| {
            node.set_data(data);
            node.stat.version = version;
            node.stat.mzxid = at.zxid;
            node.stat.mtime = at.time;
        });
        if !events.watches.is_empty() {
            let event = WatchKind::NodeDataChanged;
            events.watches.fire_data(event, path, self.readers(node), events.fired);
        }
        Ok(Outcome::DataSet(self.nodes[node].client_stat()))
    }

    fn set_acl(&mut self, path: &[u8], acl: &[Acl], version: i32) -> Result<Outcome, ErrorCode> {
        let node = self.find(path).ok_or(ErrorCode::NoNode)?;
        self.change_acl(node, acl);
        self.change(node, |node| node.stat.aversion = version);
        Ok(Outcome::AclSet(self.nodes[node].client_stat()))
    }

    /// The list that says who may hear of a node; `None` for everybody.
    fn readers(&self, node: u32) -> Option<&Arc<[Acl]>> {
        self.acls.closed(self.nodes[node].acl)
    }

    fn fire_parent<C: Copy + Eq + Hash>(&self, parent: u32, events: &mut Events<'_, C>) {
        let path: &[u8] = if parent == ROOT { b"/" } else { &self.nodes[parent].path };
        events.watches.fire_children(path, self.readers(parent), events.fired);
    }
}
