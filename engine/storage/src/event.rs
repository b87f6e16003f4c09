//! What a store tells its owner: [`StoreEvent`], and what was found at start.
//!
//! Says nothing of how it was found out.

use alloc::string::String;
use alloc::vec::Vec;

use quorate_proto::{Durable, Epoch, HistoryIndex, Zxid};
use quorate_wire::Frame;

use crate::error::{Reason, StoreError};
use crate::stream::StreamId;

/// What a store tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// A chunk of the newest whole snapshot, as it was given; only while recovering.
    SnapshotChunk {
        /// The bytes.
        bytes: Frame,
        /// Whether it was the last one.
        last: bool,
    },
    /// A record behind the snapshot, in order; only while recovering.
    Record {
        /// The transaction.
        zxid: Zxid,
        /// The frame.
        frame: Frame,
    },
    /// Recovery is over; from now on the store takes appends and all else.
    Recovered(Recovered),
    /// The disk confirmed something.
    Durable(Durable),
    /// A piece of a stream, once for each [`Store::stream_next`](crate::Store::stream_next).
    StreamChunk {
        /// The stream.
        stream: StreamId,
        /// Its next records, in order.
        frames: Vec<Frame>,
        /// Whether the stream is over; its id is forgotten then.
        last: bool,
    },
    /// A snapshot of the own tree is durable and was read back.
    SnapshotWritten {
        /// Where it was cut.
        zxid: Zxid,
    },
    /// A snapshot of the own tree could not be written, as on a full disk; the log goes on.
    SnapshotFailed {
        /// Where it was cut.
        zxid: Zxid,
        /// Why.
        error: StoreError,
    },
    /// The store is at its end in this process (R3): stop the server.
    Failed(StoreError),
}

/// What was found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The directory was empty: nothing was ever promised or logged here.
    pub fresh: bool,
    /// The promise not to follow lower epochs.
    pub accepted_epoch: Epoch,
    /// The epoch whose leader's initial history is held here.
    pub current_epoch: Epoch,
    /// The snapshot that was given, if there is one.
    pub snapshot: Option<Zxid>,
    /// What the log holds, the part before the snapshot included as far as it was read.
    pub history: HistoryIndex,
    /// How far the history is known to be committed.
    pub committed_hint: Zxid,
    /// Something is damaged or lost: this server may have forgotten what it confirmed, and must not
    /// vote until a leader has synchronised it ([`Store::rebuilt`](crate::Store::rebuilt)).
    pub quarantined: Option<StoreError>,
    /// What the crash left at the end of the log.
    pub tail: TailFault,
}

/// The end of the log after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailFault {
    /// It ends with a whole batch.
    Clean,
    /// A batch that was never confirmed was cut off.
    Torn {
        /// The segment.
        file: String,
        /// Where.
        offset: u64,
        /// What is there.
        reason: Reason,
    },
}
