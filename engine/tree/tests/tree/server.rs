//! One server's tree with everything around it, for the tests: stages, applies, and keeps order.
//!
//! Has neither clock nor network: the tests say when something is applied.

use std::collections::VecDeque;

use quorate_proto::{Epoch, SessionId, Zxid};
use quorate_tree::acl::{Acl, Id, Permissions};
use quorate_tree::prep::{Prep, PrepLimits};
use quorate_tree::{DataTree, ErrorCode, Fired, Op, Outcome, Request, Txn, TxnHeader, WatchTable};

pub(crate) const S: SessionId = SessionId(0x0100_0000_0000_0001);
pub(crate) const T: SessionId = SessionId(0x0200_0000_0000_0002);

pub(crate) struct Server {
    pub(crate) tree: DataTree,
    pub(crate) prep: Prep,
    /// Prepares the same without digests.
    plain: Prep,
    pub(crate) watches: WatchTable<u32>,
    pub(crate) fired: Vec<Fired<u32>>,
    pub(crate) zxid: Zxid,
    pub(crate) staged: VecDeque<(TxnHeader, Txn<'static>, Option<u64>)>,
    /// Everything applied, for a second server.
    pub(crate) log: Vec<(TxnHeader, Txn<'static>)>,
}

impl Server {
    /// A fresh server in epoch 1 without sessions.
    pub(crate) fn fresh() -> Self {
        Self::with_limits(PrepLimits::default())
    }

    pub(crate) fn with_limits(limits: PrepLimits) -> Self {
        Self {
            tree: DataTree::new(7),
            prep: Prep::with_digest(limits),
            plain: Prep::new(limits),
            watches: WatchTable::new(9),
            fired: Vec::new(),
            zxid: Epoch::new(1).start(),
            staged: VecDeque::new(),
            log: Vec::new(),
        }
    }

    /// A server with the sessions `S` and `T`.
    pub(crate) fn open() -> Self {
        let mut server = Self::fresh();
        for session in [S, T] {
            let opened = server.run_as(session, &[], Request::CreateSession { timeout_ms: 4000 });
            assert_eq!(opened, Outcome::SessionOpened { timeout_ms: 4000 });
        }
        server
    }

    pub(crate) fn next_time(&self) -> i64 {
        1_000_000 + i64::from(self.zxid.counter()) + 1
    }

    /// Prepares a request without applying it.
    pub(crate) fn stage(
        &mut self,
        session: SessionId,
        ids: &[Id],
        request: Request<'static>,
    ) -> &Txn<'static> {
        let time = self.next_time();
        self.zxid = self.zxid.next().unwrap();
        let plain = self.plain.prepare(&self.tree, session, ids, request.clone(), self.zxid, time);
        let txn = self.prep.prepare(&self.tree, session, ids, request, self.zxid, time);
        assert_eq!(txn, plain, "the digest has a say");
        assert_eq!(self.plain.digest(), None);
        let kind = txn.kind();
        let header = TxnHeader { session, cxid: 1, zxid: self.zxid, time, kind };
        let digest = self.prep.digest().map(|digest| digest.tree_digest);
        self.staged.push_back((header, txn, digest));
        &self.staged.back().unwrap().1
    }

    /// Loses the leadership with everything staged.
    pub(crate) fn forget_staged(&mut self) {
        self.staged.clear();
        self.prep.clear();
        self.plain.clear();
    }

    /// Applies the oldest staged transaction.
    pub(crate) fn apply(&mut self) -> Outcome {
        let (header, txn, digest) = self.staged.pop_front().unwrap();
        let outcome = self.tree.apply(&header, &txn, &mut self.watches, &mut self.fired);
        self.prep.committed(header.zxid);
        self.plain.committed(header.zxid);
        assert_eq!(self.tree.last_zxid(), header.zxid);
        assert_eq!(Some(self.tree.digest()), digest, "prep foresaw another digest: {txn:?}");
        self.log.push((header, txn));
        outcome
    }

    pub(crate) fn run_as(
        &mut self,
        session: SessionId,
        ids: &[Id],
        request: Request<'static>,
    ) -> Outcome {
        self.stage(session, ids, request);
        while self.staged.len() > 1 {
            self.apply();
        }
        let outcome = self.apply();
        assert_eq!(self.prep.outstanding_nodes(), 0, "something outstanding is left over");
        outcome
    }

    pub(crate) fn run(&mut self, op: Op<'static>) -> Outcome {
        self.run_as(S, &[], Request::Single(op))
    }

    pub(crate) fn multi(&mut self, ops: Vec<Op<'static>>) -> Outcome {
        self.run_as(S, &[], Request::Multi(ops))
    }

    /// The events since the last call, as watcher, code and path.
    pub(crate) fn events(&mut self) -> Vec<(u32, i32, String)> {
        let text = |fired: Fired<u32>| {
            (fired.watcher, fired.event.code(), String::from_utf8(fired.path.to_vec()).unwrap())
        };
        self.fired.drain(..).map(text).collect()
    }
}

pub(crate) fn failed(code: ErrorCode) -> Outcome {
    Outcome::Failed(code)
}

/// The path of a created node.
pub(crate) fn created(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Created { path, .. } => std::str::from_utf8(path).unwrap(),
        other => panic!("not created: {other:?}"),
    }
}

/// Lives as long as the test, like a received frame that its transaction borrows from.
pub(crate) fn leak(bytes: &[u8]) -> &'static [u8] {
    Box::leak(Box::from(bytes))
}

pub(crate) fn create_with(path: &str, data: &str, acl: Vec<Acl>, flags: i32) -> Op<'static> {
    let (path, data) = (leak(path.as_bytes()), leak(data.as_bytes()));
    Op::Create { path, data: Some(data), acl, flags, with_stat: false }
}

pub(crate) fn create(path: &str) -> Op<'static> {
    create_with(path, "", vec![Acl::open()], 0)
}

pub(crate) fn create_flags(path: &str, flags: i32) -> Op<'static> {
    create_with(path, "", vec![Acl::open()], flags)
}

pub(crate) fn delete(path: &str, version: i32) -> Op<'static> {
    Op::Delete { path: leak(path.as_bytes()), version }
}

pub(crate) fn set(path: &str, data: &str, version: i32) -> Op<'static> {
    let (path, data) = (leak(path.as_bytes()), leak(data.as_bytes()));
    Op::SetData { path, data: Some(data), version }
}

pub(crate) fn set_acl(path: &str, acl: Vec<Acl>, version: i32) -> Op<'static> {
    Op::SetAcl { path: leak(path.as_bytes()), acl, version }
}

pub(crate) fn check(path: &str, version: i32) -> Op<'static> {
    Op::Check { path: leak(path.as_bytes()), version }
}

pub(crate) fn id(scheme: &str, id: &str) -> Id {
    Id { scheme: scheme.as_bytes().into(), id: id.as_bytes().into() }
}

pub(crate) fn entry(perms: i32, scheme: &str, text: &str) -> Acl {
    Acl { perms: Permissions(perms), id: id(scheme, text) }
}

/// A small fixed generator: the same seed gives the same test.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    pub(crate) fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}
