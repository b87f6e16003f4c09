//! What people and scripts want to know of a histogram: a few percentiles, and times in words.
//!
//! Draws nothing and writes no file.

use std::fmt;

use hdrhistogram::Histogram;

/// The percentiles of a histogram of nanoseconds. All zero if it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// Half of the values are at most this, in nanoseconds, as are the following.
    pub p50: u64,
    /// 90 % of the values are at most this.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// 99.99 %.
    pub p99_99: u64,
    /// The largest value.
    pub max: u64,
}

impl Summary {
    /// The names of the columns, in the order of [`Summary::values`], as scripts know them.
    pub const NAMES: [&str; 6] = ["p50", "p90", "p99", "p99_9", "p99_99", "max"];

    /// Reads them off.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        // A percentile is reported as the end of its bucket, which may lie above the largest value.
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
        }
    }

    /// The times, in nanoseconds.
    pub const fn values(&self) -> [u64; 6] {
        [self.p50, self.p90, self.p99, self.p99_9, self.p99_99, self.max]
    }

    /// The head of a table whose rows are [`Summary::row`]s.
    pub fn head() -> String {
        let mut line = " ".repeat(NAME_WIDTH);
        for name in Self::NAMES {
            line += &format!("{:>10}", name.replace('_', "."));
        }
        line + &format!("{:>12}", "count")
    }

    /// One line of a table.
    pub fn row(&self, name: &str) -> String {
        let mut line = format!("{name:<NAME_WIDTH$}");
        for nanos in self.values() {
            line += &format!("{:>10}", Nanos(nanos));
        }
        line + &format!("{:>12}", self.count)
    }
}

/// Room for the longest stage's name.
const NAME_WIDTH: usize = 18;

/// A time in nanoseconds, printed with three digits and the unit that fits: `812 us`, `1.25 ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "ns";
        for next in ["us", "ms", "s"] {
            // 999.5 would be shown with four digits.
            if value < 999.5 {
                break;
            }
            value /= 1000.0;
            unit = next;
        }
        let digits = match value {
            _ if unit == "ns" => 0,
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        f.pad(&format!("{value:.digits$} {unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_the_unit_that_fits() {
        for (nanos, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (12_340, "12.3 us"),
            (99_960, "100 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (1_250_000, "1.25 ms"),
            (60_000_000_000, "60.0 s"),
            (5_000_000_000_000, "5000 s"),
        ] {
            assert_eq!(Nanos(nanos).to_string(), text);
        }
    }

    #[test]
    fn percentiles_never_exceed_the_largest_value() {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 2).unwrap();
        histogram.record(1_000_001).unwrap();
        let summary = Summary::of(&histogram);
        assert_eq!(summary.count, 1);
        assert!(summary.values().into_iter().all(|value| value <= summary.max));
    }

    #[test]
    fn an_empty_histogram_has_a_summary_of_zeros() {
        let histogram = Histogram::new_with_bounds(1, 1000, 2).unwrap();
        assert_eq!(Summary::of(&histogram), Summary::default());
    }

    #[test]
    fn rows_line_up_under_the_head() {
        let summary = Summary { count: 12, p50: 1500, ..Summary::default() };
        assert_eq!(summary.row("write").len(), Summary::head().len());
        assert!(summary.row("write").starts_with("write                1.50 us"));
    }
}
