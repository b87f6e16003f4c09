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

    /// The default for `threads` turning threads on `cpus` CPUs: with fewer CPUs than threads a
    /// spinning thread delays the very thread whose work it waits for.
    pub const fn default_for(threads: usize, cpus: usize) -> Self {
        if threads > cpus { Self::Park } else { Self::ADAPTIVE }
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
    fn more_threads_than_cpus_do_not_spin() {
        assert_eq!(Idle::default_for(2, 1), Idle::Park);
        assert_eq!(Idle::default_for(2, 2), Idle::ADAPTIVE);
        assert_eq!(Idle::Park.budget(), Some(Duration::ZERO));
        assert_eq!(Idle::Spin.budget(), None);
    }
}
