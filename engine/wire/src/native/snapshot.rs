//! Entries of a tree snapshot, for SNAPCHUNK and for snapshot files: sessions, nodes, end.
//!
//! ```text
//! entry   = kind u8 | version u8 | flags u8 | 0 | len u32 | len bytes
//! session = session u64 | timeout_ms i32
//! node    = stat (60) | path_len u32 | data_len u32 | path | data | acl to the end
//! acl     = perms i32 | scheme_len u32 | id_len u32 | scheme | id
//! end     = zxid u64 | digest u64 | sessions u64 | nodes u64
//! ```
//!
//! Entries may be cut anywhere between pieces. There is no checksum here: the frame or the file that
//! carries the bytes has one. Nothing here builds a tree or compares a digest.

use alloc::vec::Vec;
use core::fmt;

use bytes::{BufMut, BytesMut};
use quorate_proto::{SessionId, Zxid};
pub use quorate_tree::snapshot::{Entry, SnapshotEnd};
use quorate_tree::{Acl, Permissions, StatPersisted};
use rkyv::rend::unaligned::{i32_ule, i64_ule, u32_ule, u64_ule};

use super::request::{id_len, len_u32, put_id, take, take_id};
use crate::DecodeError;

/// The version of the entries' layout that this crate writes and reads.
pub const ENTRY_VERSION: u8 = 1;
/// The longest entry, bytes behind its head: any node that a client could have made, and slack.
pub const ENTRY_LEN_MAX: u32 = 64 * 1024 * 1024;

const KIND_SESSION: u8 = 1;
const KIND_NODE: u8 = 2;
const KIND_END: u8 = 3;
/// A node whose data is null rather than empty.
const FLAG_NULL_DATA: u8 = 1;
/// Bytes of the permissions in front of an identity.
const PERMS_LEN: usize = size_of::<i32>();

portable! {
    struct EntryHead [8] {
        kind: u8,
        version: u8,
        flags: u8,
        reserved: u8,
        len: u32_ule,
    }
}

portable! {
    struct SessionBody [12] {
        session: u64_ule,
        timeout_ms: i32_ule,
    }
}

portable! {
    struct NodeHead [68] {
        czxid: u64_ule,
        mzxid: u64_ule,
        ctime: i64_ule,
        mtime: i64_ule,
        version: i32_ule,
        cversion: i32_ule,
        aversion: i32_ule,
        ephemeral_owner: i64_ule,
        pzxid: u64_ule,
        path_len: u32_ule,
        data_len: u32_ule,
    }
}

portable! {
    struct EndBody [32] {
        zxid: u64_ule,
        digest: u64_ule,
        sessions: u64_ule,
        nodes: u64_ule,
    }
}

/// Appends one entry.
pub fn encode_entry(entry: &Entry<'_>, out: &mut BytesMut) {
    match entry {
        Entry::Session { id, timeout_ms } => {
            let body = SessionBody { session: id.0.into(), timeout_ms: (*timeout_ms).into() };
            put_head(KIND_SESSION, 0, SessionBody::LEN, out);
            out.extend_from_slice(&body.to_bytes());
        }
        Entry::Node { path, data, acl, stat } => encode_node(path, *data, acl, stat, out),
        Entry::End(end) => {
            let body = EndBody {
                zxid: end.zxid.as_u64().into(),
                digest: end.digest.into(),
                sessions: end.sessions.into(),
                nodes: end.nodes.into(),
            };
            put_head(KIND_END, 0, EndBody::LEN, out);
            out.extend_from_slice(&body.to_bytes());
        }
    }
}

/// Appends a node's entry.
pub fn encode_node(
    path: &[u8],
    data: Option<&[u8]>,
    acl: &[Acl],
    stat: &StatPersisted,
    out: &mut BytesMut,
) {
    let bytes = data.unwrap_or_default();
    let acl_len: usize = acl.iter().map(|entry| PERMS_LEN + id_len(&entry.id)).sum();
    let len = NodeHead::LEN + path.len() + bytes.len() + acl_len;
    out.reserve(EntryHead::LEN + len);
    put_head(KIND_NODE, if data.is_none() { FLAG_NULL_DATA } else { 0 }, len, out);
    let head = NodeHead {
        czxid: stat.czxid.as_u64().into(),
        mzxid: stat.mzxid.as_u64().into(),
        ctime: stat.ctime.into(),
        mtime: stat.mtime.into(),
        version: stat.version.into(),
        cversion: stat.cversion.into(),
        aversion: stat.aversion.into(),
        ephemeral_owner: stat.ephemeral_owner.into(),
        pzxid: stat.pzxid.as_u64().into(),
        path_len: len_u32(path.len()).into(),
        data_len: len_u32(bytes.len()).into(),
    };
    out.extend_from_slice(&head.to_bytes());
    out.put_slice(path);
    out.put_slice(bytes);
    for entry in acl {
        out.put_i32_le(entry.perms.0);
        put_id(&entry.id, out);
    }
}

fn put_head(kind: u8, flags: u8, len: usize, out: &mut BytesMut) {
    let len = len_u32(len).into();
    let head = EntryHead { kind, version: ENTRY_VERSION, flags, reserved: 0, len };
    out.extend_from_slice(&head.to_bytes());
}

/// Why a snapshot was refused: its bytes do not hold together, or whoever took its entries says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryError<E> {
    /// The bytes do not hold together.
    Bytes(DecodeError),
    /// The receiver of the entries refused one.
    Refused(E),
}

impl<E> From<DecodeError> for EntryError<E> {
    fn from(error: DecodeError) -> Self {
        Self::Bytes(error)
    }
}

impl<E: fmt::Display> fmt::Display for EntryError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(error) => error.fmt(f),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error> core::error::Error for EntryError<E> {}

/// Decodes a snapshot that arrives in pieces, which may end anywhere. An entry that lies within one
/// piece is read in place; one that was cut is assembled once.
#[derive(Debug, Default)]
pub struct EntryReader {
    partial: Vec<u8>,
    scratch: Scratch,
    ended: bool,
}

impl EntryReader {
    /// A reader at the beginning of a snapshot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece and calls `each` for every entry that is whole now.
    ///
    /// # Errors
    /// The first entry that does not hold together, [`DecodeError::BadValue`] for bytes behind the
    /// end, or what `each` returns. The snapshot is then lost.
    pub fn push<E>(
        &mut self,
        mut piece: &[u8],
        mut each: impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), EntryError<E>> {
        let ended = &mut self.ended;
        let mut seen = |entry: Entry<'_>| {
            if *ended {
                return Err(DecodeError::BadValue { what: "entry behind a snapshot's end" }.into());
            }
            *ended = matches!(entry, Entry::End(_));
            each(entry).map_err(EntryError::Refused)
        };
        while !self.partial.is_empty() && !piece.is_empty() {
            // To the end of the head first, which says how long the entry is.
            let want = entry_len(&self.partial)?.unwrap_or(EntryHead::LEN);
            let missing = (want - self.partial.len()).min(piece.len());
            self.partial.extend_from_slice(&piece[..missing]);
            piece = &piece[missing..];
            if entry_len(&self.partial)? == Some(self.partial.len()) {
                self.scratch.decode_entries(&self.partial, &mut seen)?;
                self.partial.clear();
            }
        }
        if !piece.is_empty() {
            let taken = self.scratch.decode_entries(piece, &mut seen)?;
            self.partial.extend_from_slice(&piece[taken..]);
        }
        Ok(())
    }

    /// Whether the end has been seen and nothing is left over.
    pub const fn is_complete(&self) -> bool {
        self.ended && self.partial.is_empty()
    }
}

/// Head and body of the entry that `bytes` begin; `None` until it is known.
fn entry_len(bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
    let Some(head) = EntryHead::read(bytes) else { return Ok(None) };
    if head.version != ENTRY_VERSION {
        return Err(DecodeError::BadVersion { got: head.version });
    }
    let len = head.len.to_native();
    let expected = match head.kind {
        KIND_SESSION => Some(SessionBody::LEN),
        KIND_NODE => None,
        KIND_END => Some(EndBody::LEN),
        _ => return Err(DecodeError::UnknownKind { got: head.kind.into() }),
    };
    if expected.is_some_and(|expected| expected != len as usize) {
        let expected = expected.unwrap_or_default() as u64;
        return Err(DecodeError::WrongSize { got: len.into(), expected });
    }
    if len > ENTRY_LEN_MAX {
        return Err(DecodeError::BadLength { got: len.into(), max: ENTRY_LEN_MAX.into() });
    }
    let allowed = if head.kind == KIND_NODE { FLAG_NULL_DATA } else { 0 };
    if head.flags & !allowed != 0 || head.reserved != 0 {
        return Err(DecodeError::BadValue { what: "flags of a snapshot's entry" });
    }
    Ok(Some(EntryHead::LEN + len as usize))
}

/// What a decoded node borrows that is not in the received bytes as the tree wants it.
#[derive(Debug, Default)]
struct Scratch {
    /// The last access control list by its bytes: most nodes have the same one as the node before.
    acl_bytes: Vec<u8>,
    acl: Vec<Acl>,
    stat: StatPersisted,
}

impl Scratch {
    /// Decodes the whole entries at the start of `bytes` and says how many bytes they took; the rest
    /// is the beginning of an entry that goes on elsewhere.
    fn decode_entries<E>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Entry<'_>) -> Result<(), EntryError<E>>,
    ) -> Result<usize, EntryError<E>> {
        let mut taken = 0;
        while let Some(len) = entry_len(&bytes[taken..])? {
            let Some(entry) = bytes.get(taken..taken + len) else { break };
            each(self.decode_entry(entry)?)?;
            taken += len;
        }
        Ok(taken)
    }

    /// Decodes one entry whose head `entry_len` has judged.
    fn decode_entry<'a>(&'a mut self, entry: &'a [u8]) -> Result<Entry<'a>, DecodeError> {
        const SHORT: DecodeError = DecodeError::Truncated { what: "snapshot's entry" };
        let head = EntryHead::read(entry).ok_or(SHORT)?;
        let body = &entry[EntryHead::LEN..];
        match head.kind {
            KIND_SESSION => {
                let body = SessionBody::read(body).ok_or(SHORT)?;
                Ok(Entry::Session {
                    id: SessionId(body.session.to_native()),
                    timeout_ms: body.timeout_ms.to_native(),
                })
            }
            KIND_NODE => {
                let node = NodeHead::read(body).ok_or(SHORT)?;
                let mut rest = &body[NodeHead::LEN..];
                let path = take(&mut rest, node.path_len.to_native()).ok_or(SHORT)?;
                let data = take(&mut rest, node.data_len.to_native()).ok_or(SHORT)?;
                let is_null = head.flags & FLAG_NULL_DATA != 0;
                if is_null && !data.is_empty() {
                    return Err(DecodeError::BadValue { what: "null data with bytes" });
                }
                self.stat = node.stat();
                self.remember_acl(rest)?;
                Ok(Entry::Node {
                    path,
                    data: (!is_null).then_some(data),
                    acl: &self.acl,
                    stat: &self.stat,
                })
            }
            KIND_END => {
                let body = EndBody::read(body).ok_or(SHORT)?;
                Ok(Entry::End(SnapshotEnd {
                    zxid: Zxid::from_u64(body.zxid.to_native()),
                    digest: body.digest.to_native(),
                    sessions: body.sessions.to_native(),
                    nodes: body.nodes.to_native(),
                }))
            }
            other => Err(DecodeError::UnknownKind { got: other.into() }),
        }
    }

    fn remember_acl(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if self.acl_bytes != bytes {
            // If the list does not hold together, the empty list is remembered.
            let mut acl = core::mem::take(&mut self.acl);
            acl.clear();
            self.acl_bytes.clear();
            let mut rest = bytes;
            while !rest.is_empty() {
                acl.push(take_acl(&mut rest)?);
            }
            self.acl = acl;
            self.acl_bytes.extend_from_slice(bytes);
        }
        Ok(())
    }
}

fn take_acl(rest: &mut &[u8]) -> Result<Acl, DecodeError> {
    const SHORT: DecodeError = DecodeError::Truncated { what: "access control list" };
    let (perms, behind) = rest.split_first_chunk().ok_or(SHORT)?;
    *rest = behind;
    let id = take_id(rest).ok_or(SHORT)?;
    Ok(Acl { perms: Permissions(i32::from_le_bytes(*perms)), id })
}

impl NodeHead {
    fn stat(&self) -> StatPersisted {
        StatPersisted {
            czxid: Zxid::from_u64(self.czxid.to_native()),
            mzxid: Zxid::from_u64(self.mzxid.to_native()),
            ctime: self.ctime.to_native(),
            mtime: self.mtime.to_native(),
            version: self.version.to_native(),
            cversion: self.cversion.to_native(),
            aversion: self.aversion.to_native(),
            ephemeral_owner: self.ephemeral_owner.to_native(),
            pzxid: Zxid::from_u64(self.pzxid.to_native()),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::convert::Infallible;

    use super::*;
    use crate::testing::{self, Rng, assert_truncation_fails, hex};

    fn random_entry(rng: &mut Rng) -> (Vec<u8>, Option<Vec<u8>>, Vec<Acl>, StatPersisted) {
        let acl = match rng.below(4) {
            0 => testing::acl(rng),
            _ => alloc::vec![Acl::open()],
        };
        let stat = StatPersisted {
            czxid: Zxid::from_u64(rng.next()),
            mzxid: Zxid::from_u64(rng.next()),
            ctime: rng.next() as i64,
            mtime: rng.next() as i64,
            version: rng.next() as i32,
            cversion: rng.next() as i32,
            aversion: rng.next() as i32,
            ephemeral_owner: rng.next() as i64,
            pzxid: Zxid::from_u64(rng.next()),
        };
        (rng.bytes(60), rng.coin().then(|| rng.bytes(300)), acl, stat)
    }

    fn owned(entry: &Entry<'_>) -> alloc::string::String {
        alloc::format!("{entry:?}")
    }

    /// A snapshot and its entries in words.
    fn random_snapshot(seed: u64) -> (BytesMut, Vec<alloc::string::String>) {
        let mut rng = Rng::new(seed);
        let (mut out, mut words) = (BytesMut::new(), Vec::new());
        let mut put = |entry: &Entry<'_>, out: &mut BytesMut| {
            encode_entry(entry, out);
            words.push(owned(entry));
        };
        for _ in 0..rng.below(10) {
            let id = SessionId(rng.next());
            put(&Entry::Session { id, timeout_ms: rng.next() as i32 }, &mut out);
        }
        for _ in 0..rng.below(60) {
            let (path, data, acl, stat) = random_entry(&mut rng);
            let (acl, stat) = (&acl[..], &stat);
            put(&Entry::Node { path: &path, data: data.as_deref(), acl, stat }, &mut out);
        }
        let end = SnapshotEnd {
            zxid: Zxid::from_u64(rng.next()),
            digest: rng.next(),
            sessions: 1,
            nodes: 2,
        };
        put(&Entry::End(end), &mut out);
        (out, words)
    }

    #[test]
    fn any_cutting_gives_the_same_entries() {
        for seed in 0..40 {
            let (bytes, words) = random_snapshot(seed);
            let mut rng = Rng::new(seed + 1000);
            let (mut reader, mut seen, mut rest) = (EntryReader::new(), Vec::new(), &bytes[..]);
            while !rest.is_empty() {
                assert!(!reader.is_complete());
                let bound = if rng.coin() { 8 } else { 2000 };
                let (piece, behind) = rest.split_at(rng.below(bound).min(rest.len()));
                reader
                    .push(piece, |entry| {
                        seen.push(owned(&entry));
                        Ok::<(), Infallible>(())
                    })
                    .unwrap();
                rest = behind;
            }
            assert!(reader.is_complete());
            assert_eq!(seen, words);
        }
    }

    #[test]
    fn whole_entries_are_decoded_and_the_rest_is_left() {
        let (bytes, words) = random_snapshot(7);
        for cut in 0..bytes.len() {
            let mut count = 0;
            let taken = Scratch::default().decode_entries::<Infallible>(&bytes[..cut], |_| {
                count += 1;
                Ok(())
            });
            assert!(taken.unwrap() <= cut);
            assert!(count < words.len());
        }
    }

    #[test]
    fn the_bytes_of_each_entry_are_frozen() {
        let mut out = BytesMut::new();
        let id = SessionId(0x0100_0000_0000_0001);
        encode_entry(&Entry::Session { id, timeout_ms: 10_000 }, &mut out);
        assert_eq!(out, hex("01 01 00 00 0c000000 0100000000000001 10270000"));
        out.clear();
        let end = SnapshotEnd { zxid: Zxid::from_u64(1 << 32), digest: 5, sessions: 1, nodes: 2 };
        encode_entry(&Entry::End(end), &mut out);
        let golden = "03010000 20000000 0000000001000000 0500000000000000
                      0100000000000000 0200000000000000";
        assert_eq!(out, hex(golden));
        out.clear();
        let stat = StatPersisted { version: 3, ..StatPersisted::default() };
        encode_node(b"/a", None, &[Acl::open()], &stat, &mut out);
        let golden = "02010100 5d000000 0000000000000000 0000000000000000 0000000000000000
                      0000000000000000 03000000 00000000 00000000 0000000000000000
                      0000000000000000 02000000 00000000 2f61
                      1f000000 05000000 06000000 776f726c64 616e796f6e65";
        assert_eq!(out, hex(golden));
    }

    #[test]
    fn entries_that_do_not_hold_together_are_refused() {
        let refused = |bytes: &[u8]| {
            let taken = Scratch::default().decode_entries::<Infallible>(bytes, |_| Ok(()));
            match taken {
                Err(EntryError::Bytes(error)) => error,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(&hex("0401000000000000")), DecodeError::UnknownKind { got: 4 });
        assert_eq!(refused(&hex("0102000000000000")), DecodeError::BadVersion { got: 2 });
        let wrong = DecodeError::WrongSize { got: 13, expected: 12 };
        assert_eq!(refused(&hex("010100000d000000")), wrong);
        let long = DecodeError::BadLength { got: u32::MAX.into(), max: ENTRY_LEN_MAX.into() };
        assert_eq!(refused(&hex("02010000ffffffff")), long);
        assert!(matches!(refused(&hex("020102000c000000")), DecodeError::BadValue { .. }));
        assert!(matches!(refused(&hex("010101000c000000")), DecodeError::BadValue { .. }));
        // A node's inner lengths end with the entry.
        let mut node = BytesMut::new();
        encode_node(b"/abc", Some(b"data"), &[Acl::open()], &StatPersisted::default(), &mut node);
        for at in [EntryHead::LEN + 60, EntryHead::LEN + 64] {
            let mut bad = node.clone();
            bad[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(matches!(refused(&bad), DecodeError::Truncated { .. }));
        }
    }

    #[test]
    fn a_shortened_entry_is_refused_wherever_it_was_cut() {
        let mut node = BytesMut::new();
        encode_node(b"/abc", None, &[Acl::open()], &StatPersisted::default(), &mut node);
        let node = node.freeze();
        assert_truncation_fails(&node[EntryHead::LEN..], |body| {
            // No list at all is a list; every other cut is seen.
            if body.len() == NodeHead::LEN + 4 {
                return true;
            }
            let mut bytes = BytesMut::new();
            put_head(KIND_NODE, FLAG_NULL_DATA, body.len(), &mut bytes);
            bytes.extend_from_slice(body);
            Scratch::default().decode_entries::<Infallible>(&bytes, |_| Ok(())).is_err()
        });
    }

    #[test]
    fn nothing_may_follow_the_end() {
        let mut out = BytesMut::new();
        let end = SnapshotEnd { zxid: Zxid::ZERO, digest: 0, sessions: 0, nodes: 0 };
        encode_entry(&Entry::End(end), &mut out);
        encode_entry(&Entry::End(end), &mut out);
        let mut reader = EntryReader::new();
        let what = "entry behind a snapshot's end";
        let refused = EntryError::Bytes(DecodeError::BadValue { what });
        assert_eq!(reader.push(&out, |_| Ok::<(), Infallible>(())), Err(refused));
    }

    #[test]
    fn an_entry_that_its_receiver_refuses_ends_the_snapshot() {
        let (bytes, _) = random_snapshot(3);
        let mut seen = 0;
        let result = EntryReader::new().push(&bytes, |_| {
            seen += 1;
            if seen == 2 { Err("no") } else { Ok(()) }
        });
        assert_eq!((result, seen), (Err(EntryError::Refused("no")), 2));
    }

    #[test]
    fn damaged_snapshots_never_panic() {
        for seed in 0..300 {
            let (mut bytes, _) = random_snapshot(seed % 20);
            let mut rng = Rng::new(seed);
            for _ in 0..1 + rng.below(5) {
                let at = rng.below(bytes.len());
                bytes[at] = rng.next() as u8;
            }
            let mut nodes = 0;
            let result = EntryReader::new().push(&bytes, |entry| {
                nodes += usize::from(matches!(entry, Entry::Node { .. }));
                Ok::<(), Infallible>(())
            });
            assert!(result.is_err() || nodes <= 60);
        }
    }
}
