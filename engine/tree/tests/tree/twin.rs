//! prep and apply against a naive model that executes each request at once, on whole copies.
//!
//! The model is written from the rules (`client.md` 1.7, 1.11, 2.1 to 2.5), not from the code.

use std::collections::BTreeMap;

use quorate_proto::{SessionId, Zxid};
use quorate_tree::acl::{Acl, Id};
use quorate_tree::{ErrorCode, Op, Outcome, Request, Stat};

use crate::server::{Dice, Server, entry, id, leak};

#[derive(Clone, Debug)]
struct Node {
    data: Option<Vec<u8>>,
    acl: Vec<Acl>,
    stat: Stat,
    /// Children ever created.
    created: i32,
}

#[derive(Clone, Debug, Default)]
struct Model {
    nodes: BTreeMap<String, Node>,
    sessions: BTreeMap<SessionId, i32>,
}

#[derive(Clone, Copy)]
struct Call<'c> {
    session: SessionId,
    ids: &'c [Id],
    zxid: Zxid,
    time: i64,
}

fn permits(node: &Node, bit: i32, ids: &[Id]) -> bool {
    node.acl.iter().any(|entry| {
        entry.perms.0 & bit != 0 && (*entry.id.scheme == *b"world" || ids.contains(&entry.id))
    })
}

fn valid(path: &str) -> bool {
    path == "/"
        || path.starts_with('/')
            && path[1..].split('/').all(|name| !matches!(name, "" | "." | ".."))
            && !path.contains(|c: char| c < ' ')
}

fn parent_of(path: &str) -> Option<&str> {
    match path.rfind('/') {
        None => None,
        Some(0) => Some("/"),
        // Only "//x" has the text "/" before its last slash, and that names nothing.
        Some(1) if path.starts_with("//") => Some("nothing"),
        Some(slash) => Some(&path[..slash]),
    }
}

impl Model {
    fn fresh() -> Self {
        let mut model = Self::default();
        for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
            let node = Node {
                data: Some(vec![]),
                acl: vec![Acl::open()],
                stat: Stat::default(),
                created: 0,
            };
            model.nodes.insert(path.into(), node);
        }
        model.nodes.get_mut("/zookeeper/config").unwrap().acl = vec![entry(1, "world", "anyone")];
        model.nodes.get_mut("/zookeeper/config").unwrap().stat.aversion = -1;
        model
    }

    fn children(&self, path: &str) -> i32 {
        let is_child = |other: &&String| *other != "/" && parent_of(other) == Some(path);
        self.nodes.keys().filter(is_child).count() as i32
    }

    fn stat(&self, path: &str) -> Stat {
        let node = &self.nodes[path];
        let num_children = self.children(path);
        Stat {
            data_length: node.data.as_ref().map_or(0, |data| data.len() as i32),
            num_children,
            cversion: 2 * node.created - num_children,
            ..node.stat
        }
    }

    fn remove(&mut self, path: &str, zxid: Zxid) {
        self.nodes.remove(path);
        self.nodes.get_mut(parent_of(path).unwrap()).unwrap().stat.pzxid = zxid;
    }

    fn run(&mut self, call: Call<'_>, request: &Request<'_>) -> Outcome {
        match request {
            Request::Single(Op::Check { .. }) => Outcome::Failed(ErrorCode::Unimplemented),
            Request::Single(op) => self.op(call, op).unwrap_or_else(Outcome::Failed),
            Request::Multi(ops) => self.multi(call, ops),
            Request::CreateSession { timeout_ms } => {
                if self.sessions.contains_key(&call.session) {
                    return Outcome::Failed(ErrorCode::SessionExpired);
                }
                self.sessions.insert(call.session, *timeout_ms);
                Outcome::SessionOpened { timeout_ms: *timeout_ms }
            }
            Request::CloseSession => {
                let owner = call.session.0 as i64;
                let owned =
                    self.nodes.iter().filter(|(_, node)| node.stat.ephemeral_owner == owner);
                let owned: Vec<String> = owned.map(|(path, _)| path.clone()).collect();
                for path in owned {
                    self.remove(&path, call.zxid);
                }
                self.sessions.remove(&call.session);
                Outcome::SessionClosed
            }
            Request::Refused(code) => Outcome::Failed(*code),
        }
    }

    fn multi(&mut self, call: Call<'_>, ops: &[Op<'_>]) -> Outcome {
        if ops.iter().any(|op| matches!(op, Op::SetAcl { .. })) {
            return Outcome::Failed(ErrorCode::MarshallingError);
        }
        let before = self.clone();
        let mut outcomes = Vec::new();
        for op in ops {
            match self.op(call, op) {
                Ok(outcome) => outcomes.push(outcome),
                Err(code) => {
                    *self = before;
                    let mut failed = vec![Outcome::RolledBack; outcomes.len()];
                    failed.push(Outcome::Failed(code));
                    failed.resize(ops.len(), Outcome::Failed(ErrorCode::RuntimeInconsistency));
                    return Outcome::Multi(failed);
                }
            }
        }
        Outcome::Multi(outcomes)
    }

    fn op(&mut self, call: Call<'_>, op: &Op<'_>) -> Result<Outcome, ErrorCode> {
        let Call { session, ids, zxid, time } = call;
        if let Op::Create { flags, .. } = op
            && !matches!(flags, 0..=4)
        {
            return Err(ErrorCode::BadArguments);
        }
        if !self.sessions.contains_key(&session) {
            return Err(ErrorCode::SessionExpired);
        }
        let (Op::Create { path, .. }
        | Op::Delete { path, .. }
        | Op::SetData { path, .. }
        | Op::SetAcl { path, .. }
        | Op::Check { path, .. }) = op;
        let path = std::str::from_utf8(path).unwrap();
        match op {
            Op::Create { data, acl, flags, with_stat, .. } => {
                let parent = parent_of(path).ok_or(ErrorCode::BadArguments)?;
                if acl.is_empty() {
                    return Err(ErrorCode::InvalidAcl);
                }
                let above = self.nodes.get(parent).ok_or(ErrorCode::NoNode)?.clone();
                if !permits(&above, 4, ids) {
                    return Err(ErrorCode::NoAuth);
                }
                let mut path = path.to_string();
                if matches!(flags, 2 | 3) {
                    path.push_str(&format!("{:010}", above.created));
                }
                if !valid(&path) {
                    return Err(ErrorCode::BadArguments);
                }
                if self.nodes.contains_key(&path) {
                    return Err(ErrorCode::NodeExists);
                }
                if above.stat.ephemeral_owner != 0 {
                    return Err(ErrorCode::NoChildrenForEphemerals);
                }
                let ephemeral_owner = if matches!(flags, 1 | 3) { session.0 as i64 } else { 0 };
                let stat = Stat {
                    czxid: zxid,
                    mzxid: zxid,
                    pzxid: zxid,
                    ctime: time,
                    mtime: time,
                    ephemeral_owner,
                    ..Stat::default()
                };
                let data = data.map(Vec::from);
                self.nodes.insert(path.clone(), Node { data, acl: acl.clone(), stat, created: 0 });
                let above = self.nodes.get_mut(parent).unwrap();
                above.created += 1;
                above.stat.pzxid = zxid;
                let stat = self.stat(&path);
                Ok(Outcome::Created { path: path.as_bytes().into(), stat, with_stat: *with_stat })
            }
            Op::Delete { version, .. } => {
                let parent = parent_of(path).ok_or(ErrorCode::BadArguments)?;
                if matches!(path, "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config") {
                    return Err(ErrorCode::BadArguments);
                }
                let above = self.nodes.get(parent).ok_or(ErrorCode::NoNode)?;
                if !permits(above, 8, ids) {
                    return Err(ErrorCode::NoAuth);
                }
                let node = self.nodes.get(path).ok_or(ErrorCode::NoNode)?;
                if *version != -1 && *version != node.stat.version {
                    return Err(ErrorCode::BadVersion);
                }
                if self.children(path) > 0 {
                    return Err(ErrorCode::NotEmpty);
                }
                self.remove(path, zxid);
                Ok(Outcome::Deleted)
            }
            Op::SetData { data, version, .. } => {
                let node = self.existing(path, 2, ids)?;
                if *version != -1 && *version != node.stat.version {
                    return Err(ErrorCode::BadVersion);
                }
                node.data = data.map(Vec::from);
                node.stat.version += 1;
                node.stat.mzxid = zxid;
                node.stat.mtime = time;
                Ok(Outcome::DataSet(self.stat(path)))
            }
            Op::SetAcl { acl, version, .. } => {
                if valid(path) && acl.is_empty() {
                    return Err(ErrorCode::InvalidAcl);
                }
                let node = self.existing(path, 16, ids)?;
                if *version != -1 && *version != node.stat.aversion {
                    return Err(ErrorCode::BadVersion);
                }
                node.acl.clone_from(acl);
                node.stat.aversion += 1;
                Ok(Outcome::AclSet(self.stat(path)))
            }
            Op::Check { version, .. } => {
                let node = self.existing(path, 1, ids)?;
                if *version != -1 && *version != node.stat.version {
                    return Err(ErrorCode::BadVersion);
                }
                Ok(Outcome::Checked)
            }
        }
    }

    fn existing(&mut self, path: &str, bit: i32, ids: &[Id]) -> Result<&mut Node, ErrorCode> {
        if !valid(path) {
            return Err(ErrorCode::BadArguments);
        }
        let node = self.nodes.get_mut(path).ok_or(ErrorCode::NoNode)?;
        if permits(node, bit, ids) { Ok(node) } else { Err(ErrorCode::NoAuth) }
    }

    fn compare(&self, server: &Server) {
        let root = [id("super", "")];
        assert_eq!(server.tree.node_count(), self.nodes.len());
        for (path, node) in &self.nodes {
            let bytes = path.as_bytes();
            let (data, stat) = server.tree.get_data(bytes, &root).unwrap();
            assert_eq!((data, stat), (node.data.as_deref(), self.stat(path)), "{path}");
            assert_eq!(server.tree.get_acl(bytes, &root).unwrap().0, node.acl, "{path}");
            let (children, _) = server.tree.get_children(bytes, &root).unwrap();
            assert_eq!(children.len(), self.children(path) as usize);
            for name in children {
                let mut child = if path == "/" { String::new() } else { path.clone() };
                child.push('/');
                child.push_str(std::str::from_utf8(name).unwrap());
                assert!(self.nodes.contains_key(&child), "{child}");
            }
        }
        let sessions: BTreeMap<SessionId, i32> = server.tree.sessions().collect();
        assert_eq!(sessions, self.sessions);
    }
}

fn random_path(dice: &mut Dice) -> &'static [u8] {
    const PATHS: [&str; 17] = [
        "/",
        "/a",
        "/b",
        "/a/x",
        "/a/y",
        "/a/x/1",
        "/b/x",
        "/b/x/2",
        "/c",
        "/c/q-",
        "/a/",
        "//a",
        "/a/.",
        "",
        "x",
        "/zookeeper/config",
        "/zookeeper",
    ];
    let common = dice.below(4) > 0;
    leak(if common { PATHS[1 + dice.below(9)] } else { *dice.pick(&PATHS) }.as_bytes())
}

fn random_acl(dice: &mut Dice) -> Vec<Acl> {
    match dice.below(12) {
        0 => vec![entry(1, "world", "anyone"), entry(31, "digest", "bob:h")],
        1 => vec![entry(31, "digest", "amy:h")],
        2 => vec![],
        _ => vec![Acl::open()],
    }
}

fn random_op(dice: &mut Dice) -> Op<'static> {
    let path = random_path(dice);
    let version = if dice.below(3) > 0 { -1 } else { dice.below(4) as i32 - 2 };
    let data = match dice.below(4) {
        0 => None,
        len => Some(leak(&b"some data of a node"[..len * 5])),
    };
    match dice.below(12) {
        0..5 => Op::Create {
            path,
            data,
            acl: random_acl(dice),
            flags: if dice.below(10) == 0 {
                dice.below(9) as i32 - 1
            } else {
                dice.below(4) as i32
            },
            with_stat: dice.below(2) == 0,
        },
        5..8 => Op::Delete { path, version },
        8..10 => Op::SetData { path, data, version },
        10 => Op::SetAcl { path, acl: random_acl(dice), version },
        _ => Op::Check { path, version },
    }
}

fn random_request(dice: &mut Dice) -> Request<'static> {
    match dice.below(40) {
        0 => Request::CloseSession,
        1..4 => Request::CreateSession { timeout_ms: 4000 + dice.below(9) as i32 },
        4..12 => {
            let ops = (0..dice.below(5)).map(|_| random_op(dice));
            Request::Multi(ops.filter(|op| !matches!(op, Op::SetAcl { .. })).collect())
        }
        12 => Request::Multi(vec![random_op(dice), random_op(dice)]),
        _ => Request::Single(random_op(dice)),
    }
}

#[test]
fn pipelined_requests_end_like_requests_executed_one_by_one() {
    for seed in 1..=60 {
        let mut dice = Dice(seed);
        let mut server = Server::fresh();
        let mut model = Model::fresh();
        let mut expected = Vec::new();
        let ids = [id("ip", "10.0.0.1"), id("digest", "bob:h")];
        for step in 0..600 {
            let session = SessionId(0x0100_0000_0000_0000 + 1 + dice.below(3) as u64);
            let ids = &ids[..dice.below(3)];
            let request = random_request(&mut dice);
            let time = server.next_time();
            let zxid = server.zxid.next().unwrap();
            let call = Call { session, ids, zxid, time };
            expected
                .push((format!("{request:?} at {zxid}, step {step}"), model.run(call, &request)));
            server.stage(session, ids, request);
            // The pipeline grows for a while, then drains.
            let keep = if step / 50 % 2 == 0 { 30 } else { dice.below(4) };
            while server.staged.len() > keep {
                let outcome = server.apply();
                let (asked, wanted) = expected.remove(0);
                assert_eq!(outcome, wanted, "seed {seed}: {asked}");
            }
        }
        while !server.staged.is_empty() {
            let outcome = server.apply();
            let (asked, wanted) = expected.remove(0);
            assert_eq!(outcome, wanted, "seed {seed}: {asked}");
        }
        assert_eq!(server.prep.outstanding_nodes(), 0);
        server.tree.check_invariants();
        model.compare(&server);

        let mut second = Server::fresh();
        second.tree = quorate_tree::DataTree::new(seed);
        for (header, txn) in &server.log {
            second.tree.apply(header, txn, &mut second.watches, &mut second.fired);
        }
        assert_eq!(second.tree.digest(), server.tree.digest());
        model.compare(&second);
    }
}
