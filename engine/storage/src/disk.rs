//! The vocabulary between storage and whoever executes its disk operations.
//!
//! Operations on one handle are executed in the order given; all others may overlap and finish in any
//! order, those on names included: storage waits for an outcome wherever it needs an order. Paths are
//! relative to the server's data directory. Executes nothing.

use alloc::string::String;
use alloc::vec::Vec;

use quorate_wire::Frame;

/// The unit in which the log is written: every write to a log segment starts and ends at a multiple.
pub const BLOCK_SIZE: usize = 4096;

/// Names an operation, so that its outcome can be matched. Never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Names an open file, chosen by storage. Never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to be read.
    Read,
    /// An existing file, to be read and written.
    Write,
    /// A new file; an existing one of that name is an error.
    CreateNew,
}

/// Something to be done on the disk.
#[derive(Clone, Debug)]
pub enum DiskOp {
    /// Opens a file under the name `file`. `direct` asks for unbuffered, block-aligned access where
    /// the file system offers it.
    Open {
        /// The operation.
        id: OpId,
        /// The handle to use from now on, also in operations queued before this one is done.
        file: FileId,
        /// The path.
        path: String,
        /// How.
        mode: OpenMode,
        /// Whether to bypass the page cache.
        direct: bool,
    },
    /// Forgets a handle; queued operations on it finish first. Has no outcome.
    Close {
        /// The handle.
        file: FileId,
    },
    /// Writes `parts` one after the other at `offset`, zero-padded to `len` bytes. With `sync` the
    /// bytes are durable when the operation is done. `offset` and `len` are multiples of
    /// [`BLOCK_SIZE`] for a direct file; `len` is at least the sum of the parts.
    Write {
        /// The operation.
        id: OpId,
        /// The file.
        file: FileId,
        /// Where.
        offset: u64,
        /// What, in order; empty for zeros only.
        parts: Vec<Frame>,
        /// How many bytes in all.
        len: usize,
        /// Whether it must be durable when done.
        sync: bool,
    },
    /// Reserves space without writing it, so that a full disk is noticed early. The file's length
    /// becomes `len` and reads as zeros, also on a file system that cannot reserve, which is no
    /// failure: a segment that is shorter than its header says counts as damaged.
    Allocate {
        /// The operation.
        id: OpId,
        /// The file.
        file: FileId,
        /// The length in bytes.
        len: u64,
    },
    /// Makes everything written to the file durable.
    Sync {
        /// The operation.
        id: OpId,
        /// The file.
        file: FileId,
    },
    /// Reads `len` bytes at `offset`; fewer come back at the end of the file.
    Read {
        /// The operation.
        id: OpId,
        /// The file.
        file: FileId,
        /// Where.
        offset: u64,
        /// How many.
        len: u32,
    },
    /// Renames a file, replacing an existing one.
    Rename {
        /// The operation.
        id: OpId,
        /// The old path.
        from: String,
        /// The new path.
        to: String,
    },
    /// Removes a file; one that is not there is no failure.
    Remove {
        /// The operation.
        id: OpId,
        /// The path.
        path: String,
    },
    /// Makes creations, renames and removals in the data directory durable.
    SyncDir {
        /// The operation.
        id: OpId,
    },
}

impl DiskOp {
    /// The operation, unless it has no outcome.
    pub const fn id(&self) -> Option<OpId> {
        match self {
            Self::Open { id, .. }
            | Self::Write { id, .. }
            | Self::Allocate { id, .. }
            | Self::Sync { id, .. }
            | Self::Read { id, .. }
            | Self::Rename { id, .. }
            | Self::Remove { id, .. }
            | Self::SyncDir { id } => Some(*id),
            Self::Close { .. } => None,
        }
    }
}

/// What a disk operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskDone {
    /// The operation.
    pub id: OpId,
    /// Its outcome.
    pub result: Result<DiskOutput, DiskError>,
}

/// What a successful operation gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOutput {
    /// Nothing.
    Done,
    /// The bytes of a read.
    Bytes(Frame),
}

/// A failed operation. After a failed write or sync the file is not used again (R3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskError {
    /// What failed, with the path or file, for the operator.
    pub what: String,
    /// The system's error number.
    pub errno: i32,
}

/// The files of the data directory and their sizes in bytes, listed once at start.
pub type Listing = Vec<(String, u64)>;
