//! `StoreConfig`: the sizes and bounds of a store, and whose it is.
//!
//! Reads no file; whoever opens the store fills it in.

use quorate_proto::ServerId;

use crate::disk::BLOCK_SIZE;
use crate::record::RECORD_HEADER_LEN;
use crate::segment::block_len;
use crate::snapshot_store::chunk_fits;

/// What a store is made with. The defaults fit a server; tests make everything small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// This server; a directory of another one is refused (R41).
    pub sid: ServerId,
    /// The ensemble; a directory of another one is refused.
    pub cluster_id: u64,
    /// The length of a log segment in bytes, a multiple of [`BLOCK_SIZE`].
    pub segment_len: u64,
    /// How many snapshots are kept, at least two.
    pub snapshots_retained: usize,
    /// How many bytes of records one batch may have; a longer record makes a batch of its own.
    pub batch_len_max: usize,
    /// How many durable writes of the log may be in flight at once, 1 to 4.
    pub writes_max: usize,
    /// The longest body of a record in bytes.
    pub body_len_max: u32,
    /// The longest chunk of a snapshot file in bytes.
    pub chunk_len_max: usize,
    /// How much of a new segment is written with zeros at once, in bytes.
    pub fill_len: u64,
    /// How many files of old segments are kept for their next use.
    pub spares_max: usize,
    /// How many bytes one piece of a stream has, about.
    pub stream_len: usize,
}

impl StoreConfig {
    /// The defaults for a server of an ensemble.
    pub const fn new(sid: ServerId, cluster_id: u64) -> Self {
        Self {
            sid,
            cluster_id,
            segment_len: 64 * 1024 * 1024,
            snapshots_retained: 3,
            batch_len_max: 1024 * 1024,
            writes_max: 1,
            body_len_max: 4 * 1024 * 1024,
            chunk_len_max: 4 * 1024 * 1024,
            fill_len: 128 * 1024,
            spares_max: 2,
            stream_len: 256 * 1024,
        }
    }

    pub(crate) fn check(&self) {
        let record = block_len(RECORD_HEADER_LEN as u64 + u64::from(self.body_len_max));
        assert!(self.segment_len.is_multiple_of(BLOCK_SIZE as u64), "segment_len is not aligned");
        assert!(self.segment_len >= BLOCK_SIZE as u64 + record, "a record must fit a segment");
        assert!(self.segment_len <= u64::from(u32::MAX), "block lengths have 32 bits");
        assert!((1..=4).contains(&self.writes_max), "writes_max is 1 to 4");
        assert!(self.fill_len > 0 && self.fill_len.is_multiple_of(BLOCK_SIZE as u64));
        assert!(
            self.chunk_len_max > 0 && chunk_fits(self.chunk_len_max),
            "a chunk must fit a read"
        );
        assert!(self.batch_len_max > 0 && self.stream_len > 0);
    }
}
