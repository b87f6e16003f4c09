//! One recorder per core, and the histograms that it hands over to be merged.
//!
//! Not shared between threads: the owner records, and shows what it has and empties it when asked.
//! Nothing is allocated on the recording path.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

use super::Stage;
use super::dump::{self, Interval, LogError};

/// The longest time that is told apart, 60 s. Longer ones count as this.
const NANOS_MAX: u64 = 60_000_000_000;

/// Two significant digits: at most 1 % off, and a stage fits 30 KiB, so that the stages of a core
/// stay in its L2 cache while three digits (216 KiB) would not.
const SIGNIFICANT_DIGITS: u8 = 2;

/// One histogram per stage over an interval of time, values in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histograms {
    stages: Box<[Histogram<u64>; Stage::COUNT]>,
    start: SystemTime,
    duration: Duration,
}

impl Histograms {
    /// Empty ones, for an interval that begins now.
    pub fn new() -> Self {
        Self::starting(SystemTime::now())
    }

    /// Empty ones, for an interval that begins at `start`.
    pub fn starting(start: SystemTime) -> Self {
        let empty = Histogram::new_with_bounds(1, NANOS_MAX, SIGNIFICANT_DIGITS)
            .expect("1 ns to 60 s with two digits are bounds that a histogram can have");
        let stages = Box::new(std::array::from_fn(|_| empty.clone()));
        Self { stages, start, duration: Duration::ZERO }
    }

    /// A stage's histogram, in nanoseconds.
    pub fn stage(&self, stage: Stage) -> &Histogram<u64> {
        &self.stages[stage as usize]
    }

    /// When the interval began.
    pub const fn start(&self) -> SystemTime {
        self.start
    }

    /// How long it lasted; zero while it is being recorded.
    pub const fn duration(&self) -> Duration {
        self.duration
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.stages.iter().all(Histogram::is_empty)
    }

    /// Adds what another core recorded. The interval becomes the one that covers both.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.stages.iter_mut().zip(other.stages.iter()) {
            own.add(others).expect("all recorders have the same bounds");
        }
        let end = (self.start + self.duration).max(other.start + other.duration);
        self.start = self.start.min(other.start);
        self.duration = end.duration_since(self.start).unwrap_or_default();
    }

    /// Forgets all values; the interval begins anew at `start`. Keeps the memory.
    pub fn reset(&mut self, start: SystemTime) {
        self.stages.iter_mut().for_each(Histogram::reset);
        self.start = start;
        self.duration = Duration::ZERO;
    }

    /// Writes an HdrHistogram interval log (V2, deflated): one line and tag per stage that has
    /// values. Every HdrHistogram viewer opens it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_log(&self, out: &mut impl Write) -> io::Result<()> {
        let recorded = Stage::ALL.into_iter().filter(|&stage| !self.stage(stage).is_empty());
        let intervals: Vec<Interval> = recorded
            .map(|stage| Interval {
                tag: stage.name().to_owned(),
                start: self.start,
                duration: self.duration,
                histogram: self.stage(stage).clone(),
            })
            .collect();
        dump::write_log(out, self.start, &intervals)
    }

    /// Reads such a log back; several intervals of a stage add up, tags that name no stage are left
    /// out.
    ///
    /// # Errors
    /// [`LogError`] with the line that is damaged.
    pub fn read_log(log: &[u8]) -> Result<Self, LogError> {
        let intervals = dump::read_lines(log)?;
        let start = intervals.iter().map(|(_, interval)| interval.start).min();
        let mut all = Self::starting(start.unwrap_or(SystemTime::UNIX_EPOCH));
        for (line, interval) in &intervals {
            if let Some(stage) = Stage::from_name(&interval.tag) {
                all.stages[stage as usize].add(&interval.histogram).map_err(|_| LogError {
                    line: *line,
                    reason: "the histogram has values above 60 s, which no stage has",
                })?;
                let end = interval.start + interval.duration;
                let lasted = end.duration_since(all.start).unwrap_or_default();
                all.duration = all.duration.max(lasted);
            }
        }
        Ok(all)
    }
}

impl Default for Histograms {
    fn default() -> Self {
        Self::new()
    }
}

/// A core's histograms while they are being filled.
#[derive(Debug)]
pub struct Recorder {
    current: Histograms,
}

impl Recorder {
    /// An empty recorder whose interval begins now.
    pub fn new() -> Self {
        Self { current: Histograms::new() }
    }

    /// Records one value in nanoseconds: 0 counts as 1 ns, more than 60 s as 60 s. About 4 ns.
    #[inline]
    pub fn record(&mut self, stage: Stage, nanos: u64) {
        self.current.stages[stage as usize].saturating_record(nanos.clamp(1, NANOS_MAX));
    }

    /// Gives `into` what was recorded since the recorder began or was last drained, and goes on
    /// empty, in the same memory. The clock is read once.
    pub fn drain<R>(&mut self, into: impl FnOnce(&Histograms) -> R) -> R {
        let now = SystemTime::now();
        self.current.duration = now.duration_since(self.current.start).unwrap_or_default();
        let result = into(&self.current);
        self.current.reset(now);
        result
    }

    /// The same, as a copy of the caller's own.
    pub fn take(&mut self) -> Histograms {
        self.drain(Histograms::clone)
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_hands_over_all_values_and_leaves_none() {
        let mut recorder = Recorder::new();
        recorder.record(Stage::Quorum, 1_000);
        recorder.record(Stage::Quorum, 2_000);
        recorder.record(Stage::Applied, 5);
        let taken = recorder.take();
        assert_eq!(taken.stage(Stage::Quorum).len(), 2);
        assert_eq!(taken.stage(Stage::Applied).len(), 1);
        assert!(recorder.take().is_empty());
    }

    #[test]
    fn values_out_of_range_are_counted_at_the_ends() {
        let mut recorder = Recorder::new();
        recorder.record(Stage::EndToEnd, 0);
        recorder.record(Stage::EndToEnd, u64::MAX);
        let taken = recorder.take();
        let histogram = taken.stage(Stage::EndToEnd);
        assert_eq!((histogram.len(), histogram.min()), (2, 1));
        assert!(histogram.max() >= NANOS_MAX && histogram.max() < NANOS_MAX / 100 * 102);
    }

    #[test]
    fn merging_adds_the_values_and_covers_both_intervals() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let (mut one, mut other) = (Histograms::starting(at(10)), Histograms::starting(at(5)));
        one.stages[0].record(7).unwrap();
        other.stages[0].record(9).unwrap();
        one.duration = Duration::from_secs(10);
        other.duration = Duration::from_secs(1);
        one.merge(&other);
        assert_eq!(one.stage(Stage::Received).len(), 2);
        assert_eq!((one.start(), one.duration()), (at(5), Duration::from_secs(15)));
    }

    #[test]
    fn a_log_reads_back_equal() {
        let mut recorder = Recorder::new();
        for (at, stage) in Stage::ALL.into_iter().enumerate() {
            for value in 1..=100 {
                recorder.record(stage, value * 1_000 * (at as u64 + 1));
            }
        }
        let full = recorder.take();
        let mut log = Vec::new();
        full.write_log(&mut log).unwrap();
        let read = Histograms::read_log(&log).unwrap();
        for stage in Stage::ALL {
            assert_eq!(full.stage(stage), read.stage(stage), "{stage}");
        }
    }

    #[test]
    fn values_beyond_the_range_of_a_stage_are_refused_when_read() {
        let mut far = Histogram::<u64>::new_with_bounds(1, 1 << 50, 2).unwrap();
        far.record(1 << 49).unwrap();
        let interval = Interval {
            tag: "quorum".to_owned(),
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            histogram: far,
        };
        let mut log = Vec::new();
        dump::write_log(&mut log, SystemTime::UNIX_EPOCH, &[interval]).unwrap();
        assert_eq!(Histograms::read_log(&log).unwrap_err().line, 5);
    }
}
