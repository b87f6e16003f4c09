//! `Prep`: turns a request into the transaction that the ensemble orders, judged against the tree
//! plus all outstanding changes.
//!
//! Runs on the leader only and is total: whatever it lets pass applies on every server (R39). A
//! refusal is a transaction too, so that it keeps its place (R37). Says nothing about who owns a
//! session; that is the tracker's business.

use alloc::borrow::Cow;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use quorate_proto::{SessionId, Zxid};

use crate::acl::{self, Acl, Id, Permissions};
use crate::data_tree::{DataTree, SYSTEM_NODES, canonical};
use crate::hash::IdMap;
use crate::overlay::{Overlay, Spot, View};
use crate::path;
use crate::request::{CreateMode, Op, Request};
use crate::stat::StatPersisted;
use crate::txn::Txn;
use crate::{DIGEST_VERSION, ErrorCode};

/// The bounds that hold for what the server itself makes longer (R35).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepLimits {
    /// Bytes of a transaction's record, without its header: twice jute.maxbuffer, as ZooKeeper
    /// allows (jute.maxbuffer.extrasize). A session's ephemerals are bounded so that its
    /// closeSession fits too (ZOOKEEPER-4306).
    pub txn_len_max: usize,
}

impl Default for PrepLimits {
    fn default() -> Self {
        Self { txn_len_max: 2 * 0xf_ffff }
    }
}

/// What an outstanding transaction does to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionFate {
    Opening,
    Closing,
}

/// Everything that is the same for all operations of one request.
#[derive(Clone, Copy)]
struct Asked<'r> {
    tree: &'r DataTree,
    session: SessionId,
    ids: &'r [Id],
    zxid: Zxid,
    time_ms: i64,
}

/// The leader's preparation of requests.
#[derive(Debug)]
pub struct Prep {
    limits: PrepLimits,
    overlay: Overlay,
    sessions: IdMap<SessionId, (Zxid, SessionFate)>,
    session_queue: VecDeque<(Zxid, SessionId)>,
}

impl Default for Prep {
    fn default() -> Self {
        Self::new(PrepLimits::default())
    }
}

impl Prep {
    /// Nothing outstanding. Computes no digests.
    pub fn new(limits: PrepLimits) -> Self {
        Self::with(limits, false)
    }

    /// As [`Prep::new`], and each write costs one more checksum over its data so that
    /// [`Prep::digest`] can be sent along.
    pub fn with_digest(limits: PrepLimits) -> Self {
        Self::with(limits, true)
    }

    fn with(limits: PrepLimits, digest: bool) -> Self {
        Self {
            limits,
            overlay: Overlay::new(digest),
            sessions: IdMap::default(),
            session_queue: VecDeque::new(),
        }
    }

    /// Nodes that outstanding transactions change.
    pub const fn outstanding_nodes(&self) -> usize {
        self.overlay.len()
    }

    /// The tree's digest after the transaction that was prepared last, if this was made to compute
    /// it. ZooKeeper sends it with all but the error transactions of single requests.
    pub fn digest(&self) -> Option<crate::txn::TxnDigest> {
        let tree_digest = self.overlay.digest()?;
        Some(crate::txn::TxnDigest { version: DIGEST_VERSION, tree_digest })
    }

    /// Everything up to `zxid` has been applied to the tree: what it changed need not be remembered.
    pub fn committed(&mut self, zxid: Zxid) {
        self.overlay.applied(zxid);
        while let Some((prepared, session)) = self.session_queue.front().copied() {
            if prepared > zxid {
                break;
            }
            self.session_queue.pop_front();
            if self.sessions.get(&session).is_some_and(|(last, _)| *last == prepared) {
                self.sessions.remove(&session);
            }
        }
    }

    /// This server no longer leads: forgets everything outstanding.
    pub fn clear(&mut self) {
        self.overlay.clear();
        self.sessions.clear();
        self.session_queue.clear();
    }

    /// Whether the session exists and is not closing, outstanding transactions included.
    pub fn session_is_open(&self, tree: &DataTree, session: SessionId) -> bool {
        match self.sessions.get(&session) {
            Some((_, fate)) => *fate == SessionFate::Opening,
            None => tree.session_timeout_ms(session).is_some(),
        }
    }

    /// Judges a request and gives its transaction, which will have this zxid and time. `ids` are
    /// what the asking connection had proved when the request was received.
    ///
    /// A refused single request is [`Txn::Error`]; a refused multi is a [`Txn::Multi`] in which the
    /// refused operation and those behind it are errors (`quorum.md` 1.4). Checks come in
    /// ZooKeeper's order (`client.md` 1.7); the first that fails decides.
    pub fn prepare<'a>(
        &mut self,
        tree: &DataTree,
        session: SessionId,
        ids: &[Id],
        request: Request<'a>,
        zxid: Zxid,
        time_ms: i64,
    ) -> Txn<'a> {
        self.overlay.begin(tree);
        let asked = Asked { tree, session, ids, zxid, time_ms };
        match request {
            // A check has no reply of its own (3.9.3 and later).
            Request::Single(Op::Check { .. }) => Txn::Error(ErrorCode::Unimplemented),
            Request::Single(op) => self.op(&asked, op).unwrap_or_else(Txn::Error),
            Request::Multi(ops) => self.multi(&asked, ops),
            Request::CreateSession { timeout_ms } => self.create_session(&asked, timeout_ms),
            Request::CloseSession => self.close_session(&asked),
            Request::Refused(code) => Txn::Error(code),
        }
    }

    /// Whether a transaction may become as long as this one.
    fn check_len(&self, txn: &Txn<'_>) -> Result<(), ErrorCode> {
        if txn.encoded_len() <= self.limits.txn_len_max {
            Ok(())
        } else {
            Err(ErrorCode::MarshallingError)
        }
    }

    fn check_session(&self, asked: &Asked<'_>) -> Result<(), ErrorCode> {
        if self.session_is_open(asked.tree, asked.session) {
            Ok(())
        } else {
            Err(ErrorCode::SessionExpired)
        }
    }

    // --- sessions ------------------------------------------------------------------------------

    fn set_fate(&mut self, asked: &Asked<'_>, fate: SessionFate) {
        self.sessions.insert(asked.session, (asked.zxid, fate));
        self.session_queue.push_back((asked.zxid, asked.session));
    }

    fn create_session<'a>(&mut self, asked: &Asked<'_>, timeout_ms: i32) -> Txn<'a> {
        // Only a server's clock that was set back can make an id twice; two clients must not share
        // a session then.
        let known = self.session_is_open(asked.tree, asked.session);
        if known || asked.session == SessionId(0) {
            return Txn::Error(ErrorCode::SessionExpired);
        }
        self.set_fate(asked, SessionFate::Opening);
        Txn::CreateSession { timeout_ms }
    }

    /// Lists what the session will own when this is applied: from here on it creates nothing (R31).
    /// Closing twice, or an unknown session, is no error.
    fn close_session<'a>(&mut self, asked: &Asked<'_>) -> Txn<'a> {
        let Asked { tree, zxid, .. } = *asked;
        self.set_fate(asked, SessionFate::Closing);
        let paths = self.overlay.ephemerals(tree, asked.session);
        for path in &paths {
            let parent_path = path::parent(path).expect("the root is no ephemeral");
            // Each turn anew: the one before may have made a record of the parent.
            let parent = self.overlay.locate(tree, parent_path);
            let spot = self.overlay.locate(tree, path);
            self.remove(asked, path, spot, parent_path, parent);
        }
        // Before the session is gone nothing else can have been created under its name.
        debug_assert_eq!(self.overlay.ephemerals(tree, asked.session).len(), 0, "at {zxid}");
        Txn::CloseSession { paths: paths.into_iter().map(Cow::Owned).collect() }
    }

    // --- multi ---------------------------------------------------------------------------------

    fn multi<'a>(&mut self, asked: &Asked<'_>, ops: Vec<Op<'a>>) -> Txn<'a> {
        if ops.iter().any(|op| matches!(op, Op::SetAcl { .. })) {
            return Txn::Error(ErrorCode::MarshallingError);
        }
        self.overlay.set_mark();
        let mut txns = Vec::with_capacity(ops.len());
        let mut refused = false;
        let mut len = 4;
        for op in ops {
            let txn = if refused {
                Txn::Error(ErrorCode::RuntimeInconsistency)
            } else {
                self.op(asked, op).unwrap_or_else(Txn::Error)
            };
            refused |= matches!(txn, Txn::Error(_));
            // While it grows, not at its end: small `auth` entries become long lists.
            len += 8 + txn.encoded_len();
            if len > self.limits.txn_len_max {
                self.overlay.take_back();
                return Txn::Error(ErrorCode::MarshallingError);
            }
            txns.push(txn);
        }
        if refused {
            self.overlay.take_back();
        } else {
            self.overlay.keep();
        }
        Txn::Multi(txns)
    }

    // --- single operations ---------------------------------------------------------------------

    fn op<'a>(&mut self, asked: &Asked<'_>, op: Op<'a>) -> Result<Txn<'a>, ErrorCode> {
        match op {
            Op::Create { path, data, acl, flags, with_stat } => {
                self.create(asked, path, data, acl, flags, with_stat)
            }
            Op::Delete { path, version } => self.delete(asked, path, version),
            Op::SetData { path, data, version } => self.set_data(asked, path, data, version),
            Op::SetAcl { path, acl, version } => self.set_acl(asked, path, acl, version),
            Op::Check { path, version } => self.check(asked, path, version),
        }
    }

    fn create<'a>(
        &mut self,
        asked: &Asked<'_>,
        path: &'a [u8],
        data: Option<&'a [u8]>,
        acl: Vec<Acl>,
        flags: i32,
        with_stat: bool,
    ) -> Result<Txn<'a>, ErrorCode> {
        let Asked { tree, session, ids, zxid, time_ms } = *asked;
        let mode = create_mode(flags)?;
        self.check_session(asked)?;
        let parent_path = parent_of(path)?;
        let acl = acl::stored(acl, ids)?;
        let (parent_spot, parent) = self.existing(asked, parent_path, Permissions::CREATE)?;
        let (cversion, in_ephemeral) = (parent.stat.cversion, parent.is_ephemeral());
        let path = if mode.is_sequential() {
            Cow::Owned(numbered(path, cversion))
        } else {
            Cow::Borrowed(path)
        };
        let spot = self.overlay.locate(tree, check_path(&path)?);
        if self.overlay.view(tree, spot).is_some() {
            return Err(ErrorCode::NodeExists);
        }
        if in_ephemeral {
            return Err(ErrorCode::NoChildrenForEphemerals);
        }
        if mode.is_ephemeral() {
            self.check_ephemerals(asked, &path)?;
        }
        let parent_cversion = cversion.wrapping_add(1);
        let ephemeral = mode.is_ephemeral();
        let txn = Txn::Create { path, data, acl, ephemeral, parent_cversion, with_stat };
        self.check_len(&txn)?;
        let Txn::Create { path, acl, .. } = &txn else { unreachable!("made above") };
        self.overlay.change(tree, parent_spot, parent_path, zxid, |state| {
            state.stat.cversion = parent_cversion;
            state.stat.pzxid = zxid;
            state.children += 1;
        });
        self.overlay.change_content(tree, spot, path, data, zxid, |state| {
            state.exists = true;
            state.children = 0;
            state.acl = (!acl::is_open(acl)).then(|| acl.as_slice().into());
            let owner = ephemeral.then_some(session);
            state.stat = StatPersisted::created(zxid, time_ms, owner);
        });
        Ok(txn)
    }

    /// A session's ephemerals must fit its closeSession. Between apply and [`Prep::committed`] some
    /// are counted twice, which errs on the safe side.
    fn check_ephemerals(&self, asked: &Asked<'_>, path: &[u8]) -> Result<(), ErrorCode> {
        let owned =
            asked.tree.ephemerals.bytes(asked.session) + self.overlay.owned_bytes(asked.session);
        if 4 + owned + 4 + path.len() <= self.limits.txn_len_max {
            Ok(())
        } else {
            Err(ErrorCode::MarshallingError)
        }
    }

    fn delete<'a>(
        &mut self,
        asked: &Asked<'_>,
        path: &'a [u8],
        version: i32,
    ) -> Result<Txn<'a>, ErrorCode> {
        let tree = asked.tree;
        self.check_session(asked)?;
        let parent_path = parent_of(path)?;
        if path == b"/" || SYSTEM_NODES.contains(&path) {
            return Err(ErrorCode::BadArguments);
        }
        let (parent, _) = self.existing(asked, parent_path, Permissions::DELETE)?;
        let spot = self.overlay.locate(tree, path);
        let node = self.overlay.view(tree, spot).ok_or(ErrorCode::NoNode)?;
        expect_version(version, node.stat.version)?;
        if node.children > 0 {
            return Err(ErrorCode::NotEmpty);
        }
        self.remove(asked, path, spot, parent_path, parent);
        Ok(Txn::Delete { path })
    }

    /// Records that a node and its place in its parent go.
    fn remove(
        &mut self,
        asked: &Asked<'_>,
        path: &[u8],
        spot: Spot,
        parent_path: &[u8],
        parent: Spot,
    ) {
        let Asked { tree, zxid, .. } = *asked;
        self.overlay.change(tree, spot, path, zxid, |state| state.exists = false);
        self.overlay.change(tree, parent, parent_path, zxid, |state| {
            state.children -= 1;
            state.stat.pzxid = zxid;
        });
    }

    fn set_data<'a>(
        &mut self,
        asked: &Asked<'_>,
        path: &'a [u8],
        data: Option<&'a [u8]>,
        version: i32,
    ) -> Result<Txn<'a>, ErrorCode> {
        let Asked { tree, zxid, time_ms, .. } = *asked;
        self.check_session(asked)?;
        let filed = check_path(path)?;
        let (spot, node) = self.existing(asked, filed, Permissions::WRITE)?;
        let version = next_version(version, node.stat.version)?;
        let txn = Txn::SetData { path, data, version };
        self.check_len(&txn)?;
        self.overlay.change_content(tree, spot, filed, data, zxid, |state| {
            state.stat.version = version;
            state.stat.mzxid = zxid;
            state.stat.mtime = time_ms;
        });
        Ok(txn)
    }

    fn set_acl<'a>(
        &mut self,
        asked: &Asked<'_>,
        path: &'a [u8],
        acl: Vec<Acl>,
        version: i32,
    ) -> Result<Txn<'a>, ErrorCode> {
        let Asked { tree, ids, zxid, .. } = *asked;
        self.check_session(asked)?;
        let filed = check_path(path)?;
        let acl = acl::stored(acl, ids)?;
        let (spot, node) = self.existing(asked, filed, Permissions::ADMIN)?;
        let version = next_version(version, node.stat.aversion)?;
        let txn = Txn::SetAcl { path, acl, version };
        self.check_len(&txn)?;
        let Txn::SetAcl { acl, .. } = &txn else { unreachable!("made above") };
        self.overlay.change(tree, spot, filed, zxid, |state| {
            state.acl = (!acl::is_open(acl)).then(|| acl.as_slice().into());
            state.stat.aversion = version;
        });
        Ok(txn)
    }

    fn check<'a>(
        &self,
        asked: &Asked<'_>,
        path: &'a [u8],
        version: i32,
    ) -> Result<Txn<'a>, ErrorCode> {
        self.check_session(asked)?;
        let (_, node) = self.existing(asked, check_path(path)?, Permissions::READ)?;
        let version = next_version(version, node.stat.version)?;
        Ok(Txn::Check { path, version })
    }

    /// The node that is filed under this very path, if the caller may do there what is wanted. As a
    /// parent the root is the empty text before a first slash; the text `/` of `//a` is no node.
    fn existing<'v>(
        &'v self,
        asked: &Asked<'v>,
        path: &[u8],
        wanted: Permissions,
    ) -> Result<(Spot, View<'v>), ErrorCode> {
        let spot = self.overlay.locate(asked.tree, path);
        let node = self.overlay.view(asked.tree, spot).ok_or(ErrorCode::NoNode)?;
        if node.allows(wanted, asked.ids) { Ok((spot, node)) } else { Err(ErrorCode::NoAuth) }
    }
}

/// The mode of create and create2: flags 4 make a plain node there, and TTL needs its own opcode.
fn create_mode(flags: i32) -> Result<CreateMode, ErrorCode> {
    match flags {
        4 => Ok(CreateMode::Persistent),
        _ => CreateMode::from_flags(flags).ok_or(ErrorCode::BadArguments),
    }
}

/// Everything before the last slash: create and delete look for the parent before they check the
/// path as a whole.
fn parent_of(path: &[u8]) -> Result<&[u8], ErrorCode> {
    if path.contains(&0) {
        return Err(ErrorCode::BadArguments);
    }
    path::parent(path).ok_or(ErrorCode::BadArguments)
}

/// Checks a path and gives the one under which it is filed.
fn check_path(path: &[u8]) -> Result<&[u8], ErrorCode> {
    path::check(path).map_err(|_| ErrorCode::BadArguments)?;
    Ok(canonical(path))
}

fn expect_version(expected: i32, version: i32) -> Result<(), ErrorCode> {
    if expected == -1 || expected == version { Ok(()) } else { Err(ErrorCode::BadVersion) }
}

/// The version after a change; -1, which means "any" in requests, is skipped (ZOOKEEPER-4743).
fn next_version(expected: i32, version: i32) -> Result<i32, ErrorCode> {
    expect_version(expected, version)?;
    match version.wrapping_add(1) {
        -1 => Ok(0),
        next => Ok(next),
    }
}

/// A sequential node's path: the parent's stored cversion in at least ten digits, as Java's `%010d`
/// writes it (`client.md` 2.2).
fn numbered(path: &[u8], number: i32) -> Vec<u8> {
    let mut digits = [b'0'; 11];
    let mut rest = number.unsigned_abs();
    let mut at = digits.len();
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    // Ten characters, a minus included; the lowest number takes eleven.
    let mut first = at.min(1);
    if number < 0 {
        first = (at - 1).min(1);
        digits[first] = b'-';
    }
    let mut numbered = Vec::with_capacity(path.len() + digits.len());
    numbered.extend_from_slice(path);
    numbered.extend_from_slice(&digits[first..]);
    numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_are_written_as_java_writes_them() {
        let text = |number| alloc::string::String::from_utf8(numbered(b"/n-", number)).unwrap();
        assert_eq!(text(0), "/n-0000000000");
        assert_eq!(text(42), "/n-0000000042");
        assert_eq!(text(i32::MAX), "/n-2147483647");
        assert_eq!(text(i32::MIN), "/n--2147483648");
        assert_eq!(text(-1), "/n--000000001");
        assert_eq!(text(-123_456_789), "/n--123456789");
        assert_eq!(text(-1_234_567_890), "/n--1234567890");
    }

    #[test]
    fn versions_skip_the_one_that_means_any() {
        assert_eq!(next_version(-1, 7), Ok(8));
        assert_eq!(next_version(7, 7), Ok(8));
        assert_eq!(next_version(-2, 7), Err(ErrorCode::BadVersion));
        assert_eq!(next_version(-1, i32::MAX), Ok(i32::MIN));
        assert_eq!(next_version(-2, -2), Ok(0));
    }
}
