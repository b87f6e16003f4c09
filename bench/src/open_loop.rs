//! The open loop: requests fall due by a schedule, whether or not earlier ones were answered.
//!
//! Latency counts from the moment at which a request was due. A server that stalls for a second
//! thus shows in every request that was due in that second, and not only in those that happened to
//! be under way (coordinated omission). Sends nothing itself.

use std::collections::VecDeque;

use crate::workload::Draw;

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arrivals {
    /// Independent of each other, as many clients' requests are.
    Poisson,
    /// At equal distances.
    Fixed,
}

impl Arrivals {
    /// Its name in results and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Fixed => "fixed",
        }
    }
}

/// When requests are due, and which of them still wait for a free session.
#[derive(Debug)]
pub(crate) struct OpenLoop {
    arrivals: Arrivals,
    draw: Draw,
    /// Nanoseconds between two requests, on average.
    distance: f64,
    /// When the next one is due. A float, so that distances do not lose their fractions.
    due: f64,
    /// Due, and not sent for want of a session with room in its pipeline.
    waiting: VecDeque<u64>,
}

impl OpenLoop {
    /// `rate` requests a second.
    pub(crate) const fn new(rate: f64, arrivals: Arrivals, seed: u64) -> Self {
        let distance = 1e9 / rate;
        Self { arrivals, draw: Draw::new(seed), distance, due: 0.0, waiting: VecDeque::new() }
    }

    /// The first request is due one distance after `now`, in nanoseconds.
    pub(crate) fn start(&mut self, now: u64) {
        self.due = now as f64;
        self.advance();
    }

    /// The next request that is due by `now`; its intended time.
    pub(crate) fn take(&mut self, now: u64) -> Option<u64> {
        self.gather(now);
        self.waiting.pop_front()
    }

    /// Notes all that is due by `now`.
    pub(crate) fn gather(&mut self, now: u64) {
        while self.due <= now as f64 {
            self.waiting.push_back(self.due as u64);
            self.advance();
        }
    }

    /// Nothing is due after `now`; what is due by then and was not sent still waits.
    pub(crate) fn stop(&mut self, now: u64) {
        self.gather(now);
        self.due = f64::INFINITY;
    }

    /// Whether a request that is due was not sent.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When the next request is due, if none waits already.
    pub(crate) const fn due(&self) -> u64 {
        self.due as u64
    }

    /// Those that were due and never sent, oldest first.
    pub(crate) fn never_sent(&mut self) -> impl Iterator<Item = u64> {
        self.waiting.drain(..)
    }

    fn advance(&mut self) {
        self.due += match self.arrivals {
            Arrivals::Fixed => self.distance,
            // Exponential distances make a Poisson process. 1 - u is never 0.
            Arrivals::Poisson => -(1.0 - self.draw.unit()).ln() * self.distance,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_arrivals_keep_their_rate_without_drift() {
        let mut open = OpenLoop::new(3_000_000.0, Arrivals::Fixed, 1);
        open.start(1_000);
        let mut count = 0;
        let mut last = 0;
        while let Some(due) = open.take(1_000_001_000) {
            assert!(due > last);
            last = due;
            count += 1;
        }
        assert!((2_999_999..=3_000_001).contains(&count), "{count}");
    }

    #[test]
    fn poisson_arrivals_keep_their_rate_on_average_and_vary() {
        let mut open = OpenLoop::new(10_000.0, Arrivals::Poisson, 7);
        open.start(0);
        let due: Vec<u64> = std::iter::from_fn(|| open.take(10_000_000_000)).collect();
        assert!((98_500..101_500).contains(&due.len()), "{}", due.len());
        let distances: Vec<u64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let short = distances.iter().filter(|&&d| d < 10_000).count() as f64;
        // A tenth of the mean distance: 1 - e^-0.1 of all.
        let share = short / distances.len() as f64;
        assert!((0.090..0.100).contains(&share), "{share}");
    }

    #[test]
    fn nothing_is_due_early_and_all_is_due_later() {
        let mut open = OpenLoop::new(1_000.0, Arrivals::Fixed, 1);
        open.start(0);
        assert_eq!(open.take(999_999), None);
        assert_eq!(open.due(), 1_000_000);
        assert_eq!(open.take(1_000_000), Some(1_000_000));
        open.gather(5_000_000);
        assert_eq!(
            open.never_sent().collect::<Vec<_>>(),
            [2_000_000, 3_000_000, 4_000_000, 5_000_000]
        );
    }

    #[test]
    fn a_stopped_schedule_keeps_what_was_due_and_adds_nothing() {
        let mut open = OpenLoop::new(1_000.0, Arrivals::Fixed, 1);
        open.start(0);
        open.stop(2_500_000);
        assert!(open.is_waiting());
        let rest: Vec<u64> = std::iter::from_fn(|| open.take(u64::MAX)).collect();
        assert_eq!(rest, [1_000_000, 2_000_000]);
        assert!(!open.is_waiting());
    }
}
