//! `quorate log`: what stands in the log of a data directory, with everything checked on the way.
//!
//! Reads only; whether an end is to be cut or refused is recovery's to decide at the next start.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use quorate::config::JUTE_MAXBUFFER_MAX;
use quorate_proto::Zxid;
use quorate_storage::Reason;
use quorate_storage::inspect::{Epochs, SegmentItem, inspect_epochs, inspect_segment};
use quorate_storage::segment::{Origin, SegmentHeader};
use quorate_tree::{Txn, TxnHeader};
use quorate_wire::Frame;
use quorate_wire::jute::txn::decode_txn;
use quorate_wire::native::proposal::proposal_body;
use serde_json::{Value, json};

use crate::source::FileSource;

/// The longest body that any configuration allows, and slack.
const BODY_LEN_MAX: u32 = 64 * 1024 * 1024;
const _: () = assert!(2 * JUTE_MAXBUFFER_MAX + 64 * 1024 <= BODY_LEN_MAX);

/// The folder of ours within a dataLogDir, which is the dataDir unless it is set.
pub const STORE_FOLDER: &str = "quorate";

/// Where a segment ends, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As a segment in good order does: full, or nothing was written there yet.
    Clean(Reason),
    /// What stands there is no record: writes that a crash tore, if the log ends here or went on
    /// here after that crash; damage otherwise.
    Torn(Reason),
    /// More whole blocks follow than can have been in flight: something durable is damaged.
    Damaged(Reason),
}

/// A segment, read to its end.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// Its header, if that can be read.
    pub header: Option<SegmentHeader>,
    /// Blocks.
    pub blocks: u64,
    /// Records.
    pub records: u64,
    /// The first and last transaction.
    pub range: Option<(Zxid, Zxid)>,
    /// Where the records end.
    pub end_offset: u64,
    /// How.
    pub end: End,
}

/// What a record holds.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where in the file.
    pub offset: u64,
    /// The transaction.
    pub zxid: Zxid,
    /// The frame as it is in the file.
    pub frame: Frame,
}

/// The segments that `path` names: itself, or all of a data directory in their order.
///
/// # Errors
/// If there is none.
pub fn segments_of(path: &Path) -> Result<Vec<PathBuf>> {
    files_of(path, "log.", "log segments")
}

/// The files of one kind below `path`, or `path` itself if it is a file.
pub(crate) fn files_of(path: &Path, prefix: &str, what: &str) -> Result<Vec<PathBuf>> {
    let of_path = || path.display().to_string();
    if fs::metadata(path).with_context(of_path)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let own = path.join(STORE_FOLDER);
    let folder = if own.is_dir() { own } else { path.to_owned() };
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let digits = name.strip_prefix(prefix).unwrap_or_default();
        if digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{}: no {what} there; expected a dataDir, or its folder quorate", folder.display());
    }
    // Names have digits of one width, so their order is the numbers'.
    files.sort();
    Ok(files)
}

/// The epochs of a data directory, if `path` is one and has them.
///
/// # Errors
/// If they cannot be read.
pub fn epochs_of(path: &Path) -> Result<Option<Epochs>> {
    let file = [path.join(STORE_FOLDER).join("epochs"), path.join("epochs")];
    let Some(file) = file.into_iter().find(|file| file.is_file()) else { return Ok(None) };
    let mut source = FileSource::open(&file).with_context(|| file.display().to_string())?;
    match inspect_epochs(&mut source) {
        Ok(epochs) => Ok(Some(epochs)),
        Err((offset, reason)) => bail!("{}: at {offset}: {reason}", file.display()),
    }
}

/// Reads a segment to its end and gives each record to `each`.
///
/// # Errors
/// If the system cannot read the file, or what `each` returns.
pub fn read_segment(
    path: &Path,
    mut each: impl FnMut(&Record) -> io::Result<()>,
) -> Result<Segment> {
    let of_file = || path.display().to_string();
    let mut source = FileSource::open(path).with_context(of_file)?;
    let mut segment = Segment {
        path: path.to_owned(),
        header: None,
        blocks: 0,
        records: 0,
        range: None,
        end_offset: 0,
        end: End::Torn(Reason::ShortFile),
    };
    let mut behind = 0;
    for item in inspect_segment(&mut source, BODY_LEN_MAX) {
        match item {
            SegmentItem::Header(header) => segment.header = Some(header),
            SegmentItem::Block { .. } => segment.blocks += 1,
            SegmentItem::Record { offset, zxid, frame } => {
                segment.records += 1;
                segment.range = Some((segment.range.map_or(zxid, |(first, _)| first), zxid));
                each(&Record { offset, zxid, frame }).with_context(of_file)?;
            }
            SegmentItem::End { offset, reason } => {
                segment.end_offset = offset;
                segment.end = match reason {
                    Reason::Full | Reason::Blank | Reason::Stale if offset > 0 => {
                        End::Clean(reason)
                    }
                    reason => End::Torn(reason),
                };
            }
            SegmentItem::Behind { offset, .. } => {
                behind += 1;
                // A write that is torn may have had others beside it in flight, which arrived.
                if segment.header.is_none_or(|header| behind >= u32::from(header.writes_max)) {
                    segment.end = End::Damaged(Reason::BlockBehind { offset });
                    break;
                }
                if let End::Clean(reason) = segment.end {
                    segment.end = End::Torn(reason);
                }
            }
        }
    }
    match source.take_failure() {
        Some(error) => Err(error).with_context(of_file),
        None => Ok(segment),
    }
}

/// What is wrong with the segments of one log, in their order; empty if nothing is.
pub fn faults(segments: &[Segment]) -> Vec<String> {
    let mut faults = Vec::new();
    for (at, segment) in segments.iter().enumerate() {
        // The log ends here, or a later start or TRUNC has cut it here.
        let next = segments.get(at + 1).and_then(|next| next.header);
        let may_be_torn = segment.header.is_some()
            && (at + 1 == segments.len() || next.is_some_and(|next| next.origin != Origin::Roll));
        match &segment.end {
            End::Clean(_) => {}
            End::Torn(_) if may_be_torn => {}
            End::Torn(reason) | End::Damaged(reason) => {
                let (path, offset) = (segment.path.display(), segment.end_offset);
                faults.push(format!("{path} at {offset}: {reason}"));
            }
        }
    }
    faults
}

impl Segment {
    /// One line for people.
    pub fn line(&self) -> String {
        let range = self.range.map_or_else(
            || "no records".to_owned(),
            |(first, last)| format!("{first} to {last}, {} records", self.records),
        );
        let end = match &self.end {
            End::Clean(reason) => format!("ends well ({reason})"),
            End::Torn(reason) => format!("torn: {reason}"),
            End::Damaged(reason) => format!("DAMAGED: {reason}"),
        };
        let header = self.header.as_ref().map_or_else(
            || "no header".to_owned(),
            |header| {
                let (sid, previous) = (header.sid, header.previous);
                format!("server {sid}, after segment {previous:#x}, {:?}", header.origin)
            },
        );
        format!(
            "{}: {header}; {range} in {} blocks, {} bytes used; {end}",
            self.path.display(),
            self.blocks,
            self.end_offset
        )
    }

    /// One object for scripts.
    pub fn json(&self) -> Value {
        let (end, reason) = match &self.end {
            End::Clean(reason) => ("clean", reason),
            End::Torn(reason) => ("torn", reason),
            End::Damaged(reason) => ("damaged", reason),
        };
        json!({
            "file": self.path,
            "sid": self.header.map(|header| header.sid.0),
            "sequence": self.header.map(|header| header.seq),
            "previous": self.header.map(|header| header.previous),
            "origin": self.header.map(|header| format!("{:?}", header.origin)),
            "blocks": self.blocks,
            "records": self.records,
            "first": self.range.map(|(first, _)| first.to_string()),
            "last": self.range.map(|(_, last)| last.to_string()),
            "end_offset": self.end_offset,
            "end": end,
            "reason": reason.to_string(),
        })
    }
}

impl Record {
    /// Writes a line: place, transaction, session, time, and what it does.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{:>12} {:>13} ", self.offset, self.zxid)?;
        match decode_txn(proposal_body(&self.frame)) {
            Ok((header, txn, _)) => {
                let TxnHeader { session, cxid, time, .. } = header;
                writeln!(out, "{time} session {session} cxid {cxid:#x} {}", describe(&txn))
            }
            // A state machine of an embedder's own; its bytes are its own.
            Err(_) => writeln!(out, "{} bytes", proposal_body(&self.frame).len()),
        }
    }

    /// One object for scripts.
    pub fn json(&self) -> Value {
        let body = proposal_body(&self.frame);
        let mut value = json!({
            "offset": self.offset,
            "zxid": self.zxid.to_string(),
            "bytes": body.len(),
        });
        if let Ok((header, txn, digest)) = decode_txn(body) {
            value["session"] = header.session.to_string().into();
            value["cxid"] = header.cxid.into();
            value["time_ms"] = header.time.into();
            value["txn"] = describe(&txn).into();
            value["digest"] = digest.map(|digest| format!("{:#x}", digest.tree_digest)).into();
        }
        value
    }
}

/// A path in one line, whatever its bytes are.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

/// How much data a znode has.
pub(crate) fn size(data: Option<&[u8]>) -> String {
    data.map_or_else(|| "null".to_owned(), |data| format!("{} bytes", data.len()))
}

fn describe(txn: &Txn<'_>) -> String {
    match txn {
        Txn::Create { path, data, ephemeral, .. } => {
            let kind = if *ephemeral { " ephemeral" } else { "" };
            format!("create{kind} {} {}", shown(path), size(*data))
        }
        Txn::Delete { path } => format!("delete {}", shown(path)),
        Txn::SetData { path, data, version } => {
            format!("setData {} {} version {version}", shown(path), size(*data))
        }
        Txn::SetAcl { path, version, .. } => format!("setACL {} version {version}", shown(path)),
        Txn::Check { path, version } => format!("check {} version {version}", shown(path)),
        Txn::CreateSession { timeout_ms } => format!("createSession {timeout_ms} ms"),
        Txn::CloseSession { paths } => format!("closeSession, {} ephemerals", paths.len()),
        Txn::Multi(txns) => {
            let all: Vec<String> = txns.iter().map(describe).collect();
            format!("multi [{}]", all.join("; "))
        }
        Txn::Error(code) => format!("error {code}"),
    }
}
