//! `quorate snapshot`: what a snapshot holds, rebuilt and compared with its own digest.
//!
//! Reads only.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use quorate_storage::inspect::verify_snapshot;
use quorate_storage::snapshot::{SnapshotHeader, SnapshotTotals};
use quorate_tree::snapshot::{Entry, Restore};
use quorate_wire::native::snapshot::EntryReader;
use serde_json::{Value, json};

use crate::log::{files_of, shown, size};
use crate::source::FileSource;

/// Larger than any chunk that a server writes.
const CHUNK_LEN_MAX: usize = 64 * 1024 * 1024;

/// A snapshot whose every checksum, count and digest fits.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The file.
    pub path: PathBuf,
    /// Its header.
    pub header: SnapshotHeader,
    /// Chunks and bytes.
    pub totals: SnapshotTotals,
    /// What the tree in it is.
    pub tree: Tree,
}

/// The rebuilt tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Open sessions.
    pub sessions: u64,
    /// Znodes, the root included.
    pub nodes: u64,
    /// The digest.
    pub digest: u64,
}

/// The snapshots that `path` names: itself, or all of a data directory in their order.
///
/// # Errors
/// If there is none.
pub fn snapshots_of(path: &Path) -> Result<Vec<PathBuf>> {
    files_of(path, "snapshot.", "snapshots")
}

/// Reads a snapshot, rebuilds the tree in it, and writes a line per entry to `nodes` if asked to. The
/// inner error is what is wrong with the snapshot, and where.
///
/// # Errors
/// If the system cannot read the file, or those of `nodes`.
pub fn verify(path: &Path, mut nodes: Option<&mut dyn Write>) -> Result<Result<Snapshot, String>> {
    let of_file = || path.display().to_string();
    let mut source = FileSource::open(path).with_context(of_file)?;
    let mut reader = EntryReader::new();
    let mut restore = Restore::new(0);
    let (mut failed, mut unwritten) = (None, None);
    let read = verify_snapshot(&mut source, CHUNK_LEN_MAX, |chunk| {
        if failed.is_some() {
            return;
        }
        let pushed = reader.push(&chunk, |entry| {
            if let Some(out) = &mut nodes
                && let Err(error) = write_entry(&entry, out)
            {
                unwritten = Some(error);
                return Err("its entries cannot be written".to_owned());
            }
            restore.push(&entry).map_err(|error| error.to_string())
        });
        failed = pushed.err().map(|error| error.to_string());
    });
    if let Some(error) = source.take_failure().or(unwritten) {
        return Err(error).with_context(of_file);
    }
    let found = read.map_err(|(offset, reason)| format!("at {offset}: {reason}"));
    let found = found.and_then(|(header, totals)| {
        failed.map_or(Ok(()), Err)?;
        let tree = restore.finish().map_err(|error| error.to_string())?;
        let tree = Tree {
            sessions: tree.session_count() as u64,
            nodes: tree.node_count() as u64,
            digest: tree.digest(),
        };
        Ok(Snapshot { path: path.to_owned(), header, totals, tree })
    });
    Ok(found.map_err(|why| format!("{}: {why}", path.display())))
}

fn write_entry(entry: &Entry<'_>, out: &mut dyn Write) -> io::Result<()> {
    match entry {
        Entry::Session { id, timeout_ms } => writeln!(out, "session {id} {timeout_ms} ms"),
        Entry::Node { path, data, stat, .. } => {
            let path = if path.is_empty() { b"/" } else { *path };
            writeln!(
                out,
                "{} {} version {} mzxid {} owner {:#x}",
                shown(path),
                size(*data),
                stat.version,
                stat.mzxid,
                stat.ephemeral_owner
            )
        }
        Entry::End(_) => Ok(()),
    }
}

impl Snapshot {
    /// One line for people.
    pub fn line(&self) -> String {
        let Tree { sessions, nodes, digest } = self.tree;
        format!(
            "{}: at {}, server {}, {:?}; {nodes} znodes, {sessions} sessions, digest {digest:#x}; \
             {} bytes in {} chunks; all checks pass",
            self.path.display(),
            self.header.zxid,
            self.header.sid,
            self.header.kind,
            self.totals.bytes,
            self.totals.chunks
        )
    }

    /// One object for scripts.
    pub fn json(&self) -> Value {
        json!({
            "file": self.path,
            "valid": true,
            "zxid": self.header.zxid.to_string(),
            "sid": self.header.sid.0,
            "kind": format!("{:?}", self.header.kind),
            "bytes": self.totals.bytes,
            "chunks": self.totals.chunks,
            "znodes": self.tree.nodes,
            "sessions": self.tree.sessions,
            "digest": format!("{:#x}", self.tree.digest),
        })
    }
}
