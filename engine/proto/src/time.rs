//! Points in time that only the caller makes, and the protocol's time limits.
//!
//! Reads no clock. The caller's clock is monotonic and its origin has no meaning.

use core::ops::Add;
use core::time::Duration;

/// An opaque point on the caller's monotonic clock, in nanoseconds from an arbitrary origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// A point `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// ZooKeeper's time limits: tickTime, and the limits that count in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    /// tickTime: the unit of the other two; PING leaves each half tick.
    pub tick: Duration,
    /// initLimit: ticks within which a learner must have connected and synchronised.
    pub init_limit: u32,
    /// syncLimit: ticks of silence after which a learner, or a leader, is given up.
    pub sync_limit: u32,
}

impl Ticks {
    /// initLimit as a duration.
    pub fn init_time(&self) -> Duration {
        self.tick * self.init_limit
    }

    /// syncLimit as a duration.
    pub fn sync_time(&self) -> Duration {
        self.tick * self.sync_limit
    }

    /// The time between two PINGs.
    pub fn half_tick(&self) -> Duration {
        self.tick / 2
    }
}

impl Default for Ticks {
    /// ZooKeeper's sample configuration: tickTime 2000 ms, initLimit 10, syncLimit 5.
    fn default() -> Self {
        Self { tick: Duration::from_millis(2000), init_limit: 10, sync_limit: 5 }
    }
}
