//! The process's clocks: the monotonic one as the cores' [`Instant`], and the wall's.
//!
//! No core reads them: a turn gets its time as an argument.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_proto::Instant;

/// The origin is shared by all threads, so that an `Instant` made on one means the same on another.
static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();

/// Reads the monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds since the first reading of the
/// process. A copy of it costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// The process's clock.
    pub fn new() -> Self {
        Self { origin: *ORIGIN.get_or_init(std::time::Instant::now) }
    }

    /// Now.
    pub fn now(&self) -> Instant {
        let nanos = self.origin.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The time from `now` until `until`; zero if that has passed.
    pub fn until(now: Instant, until: Instant) -> Duration {
        until.since(now)
    }
}

/// The wall clock in milliseconds since 1970, as ZooKeeper's ctime and mtime count. It may go
/// back.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clocks_share_one_origin_and_do_not_run_backwards() {
        let (first, second) = (Clock::new(), Clock::new());
        let a = first.now();
        let b = second.now();
        let c = first.now();
        assert!(a <= b && b <= c);
        assert_eq!(Clock::until(c, a), Duration::ZERO);
    }

    #[test]
    fn the_wall_clock_counts_milliseconds() {
        // After 2020 and before 2100.
        assert!((1_577_836_800_000..4_102_444_800_000).contains(&wall_ms()));
    }
}
