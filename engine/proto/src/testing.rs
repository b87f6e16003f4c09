//! What the unit tests share; never part of the crate.

use core::time::Duration;

use crate::{Epoch, HistoryIndex, Instant, Ticks, Zxid};

pub(crate) const TICKS: Ticks =
    Ticks { tick: Duration::from_millis(200), init_limit: 10, sync_limit: 5 };

pub(crate) fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

pub(crate) const fn z(epoch: u32, counter: u32) -> Zxid {
    Zxid::new(Epoch::new(epoch), counter)
}

/// A history of these zxids after a floor.
pub(crate) fn history(floor: Zxid, zxids: &[Zxid]) -> HistoryIndex {
    let mut history = HistoryIndex::new(floor);
    for zxid in zxids {
        history.append(*zxid);
    }
    history
}

/// Seeded numbers.
pub(crate) struct Lcg(u64);

impl Lcg {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
