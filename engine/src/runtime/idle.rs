//! `Idle`: what a thread does when a turn found no work.
//!
//! Sleeps nowhere itself; the [`host`](super::host) does.

use std::time::Duration;

/// How long a turning thread looks for work before it sleeps.
///
/// A look at memory costs 0.15 us a hop, a parked thread's wake-up tens of microseconds; a looking
/// thread takes its CPU from everybody else. So spinning pays only where the CPU is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Never sleeps. For a CPU that nothing else needs.
    Spin,
    /// Looks for this long after the last work, then sleeps.
    SpinThenPark(Duration),
    /// Sleeps at once.
    Park,
}

impl Idle {
    /// The budget of the adaptive kind: about one wake-up, so that spinning never costs more than
    /// twice what sleeping at once would have.
    pub const ADAPTIVE: Self = Self::SpinThenPark(Duration::from_micros(50));

    /// The default for `threads` turning threads on `cpus` CPUs. Without a CPU to spare, a spinning
    /// thread delays the very peer, client or disk whose work it waits for: two spinning ends on
    /// one CPU exchanged 4 000 messages a second where two sleeping ones exchanged 20 000.
    pub const fn default_for(threads: usize, cpus: usize) -> Self {
        if threads < cpus { Self::ADAPTIVE } else { Self::Park }
    }

    /// How long to look before sleeping; `None`: for ever.
    pub const fn budget(self) -> Option<Duration> {
        match self {
            Self::Spin => None,
            Self::SpinThenPark(budget) => Some(budget),
            Self::Park => Some(Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_spin_only_with_a_cpu_to_spare() {
        assert_eq!(Idle::default_for(2, 1), Idle::Park);
        assert_eq!(Idle::default_for(2, 2), Idle::Park);
        assert_eq!(Idle::default_for(2, 3), Idle::ADAPTIVE);
        assert_eq!(Idle::Park.budget(), Some(Duration::ZERO));
        assert_eq!(Idle::Spin.budget(), None);
    }
}
