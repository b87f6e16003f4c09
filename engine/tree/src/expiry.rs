//! `ExpiryQueue`: deadlines of sessions in buckets of a tick (`quorum.md` 4.7).
//!
//! Reads no clock. A deadline that moves later costs nothing here: its session stays in its bucket
//! and is filed again when that comes up.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use quorate_proto::{Instant, SessionId};

/// A multiple of the tick: what is due in it is due at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bucket(u64);

#[derive(Debug)]
pub(crate) struct ExpiryQueue {
    tick_ns: u64,
    buckets: BTreeMap<Bucket, Vec<SessionId>>,
    /// An emptied list, kept for the next bucket.
    spare: Vec<SessionId>,
}

impl ExpiryQueue {
    pub(crate) fn new(tick: Duration) -> Self {
        let tick_ns = u64::try_from(tick.as_nanos()).unwrap_or(u64::MAX).max(1);
        Self { tick_ns, buckets: BTreeMap::new(), spare: Vec::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.buckets.clear();
    }

    /// The bucket of `now + timeout`: `((now + timeout) / tick + 1) * tick`, so a session lives for
    /// its time-out and up to one tick more.
    pub(crate) fn bucket(&self, now: Instant, timeout: Duration) -> Bucket {
        Bucket((now + timeout).as_nanos() / self.tick_ns + 1)
    }

    pub(crate) fn file(&mut self, session: SessionId, bucket: Bucket) {
        let spare = &mut self.spare;
        self.buckets.entry(bucket).or_insert_with(|| core::mem::take(spare)).push(session);
    }

    /// Takes the first bucket that is over at `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(Bucket, Vec<SessionId>)> {
        let entry = self.buckets.first_entry()?;
        let is_over = entry.key().0.saturating_mul(self.tick_ns) <= now.as_nanos();
        is_over.then(|| entry.remove_entry())
    }

    /// Gives an emptied list back.
    pub(crate) fn reuse(&mut self, mut list: Vec<SessionId>) {
        list.clear();
        self.spare = list;
    }

    /// The end of the first bucket.
    pub(crate) fn next(&self) -> Option<Instant> {
        let (bucket, _) = self.buckets.first_key_value()?;
        Some(Instant::from_nanos(bucket.0.saturating_mul(self.tick_ns)))
    }
}
