//! `quorate hist`: what HdrHistogram logs say, as a table, a picture in the terminal, or JSON.
//!
//! Reads logs of quorate and of other programs; values are taken as nanoseconds. Draws no files:
//! `chart` does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use quorate::metrics::{Nanos, Stage, Summary, read_log};
use serde_json::{Map, Value, json};

/// Logs are read whole; a day of one-second intervals stays below this.
const FILE_LEN_MAX: u64 = 1024 * 1024 * 1024;
/// What values without a tag are called.
const UNTAGGED: &str = "(no tag)";

/// All intervals of a log added up, by tag.
#[derive(Clone, Debug)]
pub struct Dump {
    /// The file.
    pub path: PathBuf,
    /// How long it covers, from the first interval's begin to the last one's end.
    pub duration: Duration,
    /// The tags in the order of a write's stages, others behind them as they came.
    pub tags: Vec<(String, Histogram<u64>)>,
}

impl Dump {
    /// Reads a log.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged: then with the line.
    pub fn read(path: &Path) -> Result<Self> {
        let of_file = || path.display().to_string();
        let len = fs::metadata(path).with_context(of_file)?.len();
        if len > FILE_LEN_MAX {
            bail!("{}: it is larger than {FILE_LEN_MAX} bytes", path.display());
        }
        Self::parse(path, &fs::read(path).with_context(of_file)?)
    }

    fn parse(path: &Path, log: &[u8]) -> Result<Self> {
        let intervals = read_log(log).with_context(|| path.display().to_string())?;
        let mut tags: Vec<(String, Histogram<u64>)> = Vec::new();
        let (mut begin, mut end) = (None, SystemTime::UNIX_EPOCH);
        for interval in intervals {
            begin = Some(begin.map_or(interval.start, |begin| interval.start.min(begin)));
            end = end.max(interval.start + interval.duration);
            let name = if interval.tag.is_empty() { UNTAGGED } else { &interval.tag };
            match tags.iter_mut().find(|(tag, _)| tag == name) {
                Some((_, sum)) => add(sum, &interval.histogram)
                    .with_context(|| format!("{}: tag {name}", path.display()))?,
                None => tags.push((name.to_owned(), interval.histogram)),
            }
        }
        if tags.is_empty() {
            bail!("{}: there is no interval in it", path.display());
        }
        tags.sort_by_key(|(tag, _)| {
            Stage::from_name(tag).map_or(Stage::COUNT, |stage| stage as usize)
        });
        let duration = begin.and_then(|begin| end.duration_since(begin).ok()).unwrap_or_default();
        Ok(Self { path: path.to_owned(), duration, tags })
    }

    /// Only tags that have one of `names`; all of them if no name is given.
    ///
    /// # Errors
    /// If there is no such tag.
    pub fn select(mut self, names: &[String]) -> Result<Self> {
        if let Some(name) = names.iter().find(|name| self.tag(name).is_none()) {
            let known: Vec<&str> = self.tags.iter().map(|(tag, _)| tag.as_str()).collect();
            bail!("{}: no tag {name}; there are {}", self.path.display(), known.join(", "));
        }
        self.tags.retain(|(tag, _)| names.is_empty() || names.contains(tag));
        Ok(self)
    }

    fn tag(&self, name: &str) -> Option<&Histogram<u64>> {
        self.tags.iter().find(|(tag, _)| tag == name).map(|(_, histogram)| histogram)
    }

    /// The percentiles of every tag.
    pub fn table(&self) -> String {
        let seconds = self.duration.as_secs_f64();
        let mut text = format!("{} ({seconds:.1} s)\n{}\n", self.path.display(), Summary::head());
        for (tag, histogram) in &self.tags {
            text += &Summary::of(histogram).row(tag);
            text.push('\n');
        }
        text
    }

    /// One strip per tag on a common axis of time: the darker, the more values.
    pub fn picture(&self) -> String {
        let scale = Scale::of(self.tags.iter().map(|(_, histogram)| histogram));
        let name_width = self.tags.iter().map(|(tag, _)| tag.chars().count()).max().unwrap_or(0);
        let mut text = format!("{:name_width$} {}\n", "", scale.labels());
        for (tag, histogram) in &self.tags {
            text += &format!("{tag:name_width$} {}\n", scale.strip(histogram));
        }
        text += &format!("{:name_width$}  darker: more values; |: p50, then p99\n", "");
        text
    }

    /// For scripts: microseconds by tag.
    pub fn json(&self) -> Value {
        let mut tags = Map::new();
        for (tag, histogram) in &self.tags {
            tags.insert(tag.clone(), micros(&Summary::of(histogram)));
        }
        json!({
            "file": self.path,
            "seconds": self.duration.as_secs_f64(),
            "latency_us": tags,
        })
    }
}

/// Adds, with room for values that are larger than what came before.
fn add(sum: &mut Histogram<u64>, other: &Histogram<u64>) -> Result<()> {
    sum.auto(true);
    sum.add(other).map_err(|error| anyhow::anyhow!("its intervals do not add up: {error}"))
}

fn micros(summary: &Summary) -> Value {
    let mut object = Map::new();
    for (name, nanos) in Summary::NAMES.into_iter().zip(summary.values()) {
        object.insert(name.to_owned(), (nanos as f64 / 1000.0).into());
    }
    object.insert("count".to_owned(), summary.count.into());
    object.into()
}

/// A logarithmic axis of time in the terminal: whole powers of ten, equally many cells each.
#[derive(Clone, Copy, Debug)]
struct Scale {
    first_decade: u32,
    decades: u32,
    cells_per_decade: usize,
}

/// Leaves room for names on a terminal of 80 columns.
const CELLS: usize = 60;
const SHADES: [char; 6] = [' ', '.', ':', 'o', 'O', '#'];

impl Scale {
    fn of<'a>(histograms: impl Iterator<Item = &'a Histogram<u64>>) -> Self {
        let filled: Vec<&Histogram<u64>> = histograms.filter(|h| !h.is_empty()).collect();
        let min = filled.iter().map(|h| h.value_at_quantile(0.01)).min().unwrap_or(1).max(1);
        let max = filled.iter().map(|h| h.max()).max().unwrap_or(1).max(min);
        let first_decade = min.ilog10();
        let decades = max.ilog10() - first_decade + 1;
        // A label such as 100us takes five cells.
        let cells_per_decade = (CELLS / decades as usize).clamp(6, 12);
        Self { first_decade, decades, cells_per_decade }
    }

    const fn cells(self) -> usize {
        self.decades as usize * self.cells_per_decade
    }

    fn cell(self, nanos: u64) -> usize {
        let above = (nanos.max(1) as f64).log10() - f64::from(self.first_decade);
        ((above * self.cells_per_decade as f64).max(0.0) as usize).min(self.cells() - 1)
    }

    fn labels(self) -> String {
        let decade = |n: u32| Nanos(10_u64.saturating_pow(self.first_decade + n)).to_string();
        let width = self.cells_per_decade;
        (0..self.decades).map(|n| format!("{:<width$}", short(&decade(n)))).collect()
    }

    fn strip(self, histogram: &Histogram<u64>) -> String {
        let mut counts = vec![0_u64; self.cells()];
        for value in histogram.iter_recorded() {
            counts[self.cell(value.value_iterated_to())] += value.count_at_value();
        }
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let mut cells: Vec<char> = counts.into_iter().map(|count| shade(count, most)).collect();
        if !histogram.is_empty() {
            for quantile in [0.5, 0.99] {
                cells[self.cell(histogram.value_at_quantile(quantile))] = '|';
            }
        }
        cells.into_iter().collect::<String>().trim_end().to_owned()
    }
}

/// `1.00 ms` as `1ms`.
fn short(text: &str) -> String {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    };
    format!("{number}{unit}")
}

/// Logarithmic, so that a tail of a thousandth still shows.
fn shade(count: u64, most: u64) -> char {
    if count == 0 {
        return SHADES[0];
    }
    let darkest = SHADES.len() - 1;
    let weight = 1.0 + (count as f64 / most as f64).log10() / 4.0;
    SHADES[1 + (weight.max(0.0) * (darkest - 1) as f64).round() as usize]
}

/// Two dumps side by side: each percentile of the tags that both have, and how it changed.
pub fn comparison(a: &Dump, b: &Dump) -> String {
    let mut text = format!("A {}\nB {}\n\n", a.path.display(), b.path.display());
    text += &format!("{:18}{:>8}{:>12}{:>12}{:>9}\n", "", "", "A", "B", "B/A");
    for (tag, summary_a, summary_b) in common(a, b) {
        let pairs = summary_a.values().into_iter().zip(summary_b.values());
        for (at, (name, (a, b))) in Summary::NAMES.into_iter().zip(pairs).enumerate() {
            let tag = if at == 0 { tag } else { "" };
            let name = name.replace('_', ".");
            let (of_a, of_b) = (Nanos(a), Nanos(b));
            text += &format!("{tag:18}{name:>8}{of_a:>12}{of_b:>12}{:>9}\n", ratio(a, b));
        }
        text += &format!("{:18}{:>8}{:>12}{:>12}\n", "", "count", summary_a.count, summary_b.count);
    }
    for (name, only) in [("A", missing(a, b)), ("B", missing(b, a))] {
        if !only.is_empty() {
            text += &format!("\nonly in {name}: {}\n", only.join(", "));
        }
    }
    text
}

/// The same for scripts.
pub fn comparison_json(a: &Dump, b: &Dump) -> Value {
    let mut tags = Map::new();
    for (tag, summary_a, summary_b) in common(a, b) {
        let mut ratios = Map::new();
        for (at, name) in Summary::NAMES.into_iter().enumerate() {
            let (a, b) = (summary_a.values()[at], summary_b.values()[at]);
            ratios.insert(name.to_owned(), (b as f64 / a.max(1) as f64).into());
        }
        tags.insert(
            tag.to_owned(),
            json!({ "a_us": micros(&summary_a), "b_us": micros(&summary_b), "b_to_a": ratios }),
        );
    }
    json!({ "a": a.path, "b": b.path, "tags": tags, "only_in_a": missing(a, b), "only_in_b": missing(b, a) })
}

fn common<'a>(a: &'a Dump, b: &'a Dump) -> impl Iterator<Item = (&'a str, Summary, Summary)> {
    a.tags.iter().filter_map(|(tag, histogram)| {
        Some((tag.as_str(), Summary::of(histogram), Summary::of(b.tag(tag)?)))
    })
}

fn missing<'a>(from: &'a Dump, other: &Dump) -> Vec<&'a str> {
    let names = from.tags.iter().map(|(tag, _)| tag.as_str());
    names.filter(|tag| other.tag(tag).is_none()).collect()
}

fn ratio(a: u64, b: u64) -> String {
    if a == 0 { "-".to_owned() } else { format!("{:.2}x", b as f64 / a as f64) }
}

#[cfg(test)]
mod tests {
    use quorate::metrics::{Interval, write_log};

    use super::*;

    fn log(tags: &[(&str, &[u64])]) -> Vec<u8> {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let intervals: Vec<Interval> = tags
            .iter()
            .enumerate()
            .map(|(at, (tag, values))| {
                let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
                values.iter().for_each(|&value| histogram.record(value).unwrap());
                Interval {
                    tag: (*tag).to_owned(),
                    start: start + Duration::from_secs(at as u64),
                    duration: Duration::from_secs(1),
                    histogram,
                }
            })
            .collect();
        let mut log = Vec::new();
        write_log(&mut log, start, &intervals).unwrap();
        log
    }

    fn dump(name: &str, tags: &[(&str, &[u64])]) -> Dump {
        Dump::parse(Path::new(name), &log(tags)).unwrap()
    }

    const US: u64 = 1_000;

    #[test]
    fn intervals_of_a_tag_add_up_and_stages_stand_in_their_order() {
        let dump = dump(
            "a.hlog",
            &[
                ("other", &[5]),
                ("quorum", &[1]),
                ("received", &[1, 2]),
                ("quorum", &[3]),
                ("", &[9]),
            ],
        );
        let tags: Vec<(&str, u64)> = dump.tags.iter().map(|(t, h)| (t.as_str(), h.len())).collect();
        assert_eq!(tags, [("received", 2), ("quorum", 2), ("other", 1), ("(no tag)", 1)]);
        assert_eq!(dump.duration, Duration::from_secs(5));
    }

    #[test]
    fn the_table_has_a_row_per_tag() {
        let values: Vec<u64> = (1..=1000).map(|n| n * US).collect();
        let text = dump("a.hlog", &[("write", &values)]).table();
        assert_eq!(
            text,
            "a.hlog (1.0 s)\n                         p50       p90       p99     p99.9    p99.99       max       count\n\
             write                 500 us    900 us    990 us    999 us   1.00 ms   1.00 ms        1000\n"
        );
    }

    #[test]
    fn the_picture_shows_where_the_values_are() {
        let mut values = vec![20 * US; 900];
        values.extend([300 * US; 100]);
        let text = dump("a.hlog", &[("write", &values), ("read", &[25 * US])]).picture();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "      10us        100us       ");
        assert_eq!(lines[1], "write    |             |");
        assert_eq!(lines[2], "read      |");
    }

    #[test]
    fn rare_values_are_lighter_and_never_invisible() {
        let shades: Vec<char> =
            [0, 1, 10, 1_000, 10_000].map(|count| shade(count, 10_000)).to_vec();
        assert_eq!(shades, [' ', '.', ':', 'O', '#']);
    }

    #[test]
    fn a_comparison_has_both_and_their_ratio() {
        let a = dump("a.hlog", &[("write", &[100 * US]), ("read", &[5])]);
        let b = dump("b.hlog", &[("write", &[50 * US])]);
        let text = comparison(&a, &b);
        let expected = "write                  p50      100 us     50.0 us    0.50x";
        assert!(text.lines().any(|line| line == expected), "{text}");
        assert!(text.contains("only in A: read"), "{text}");
        let json = comparison_json(&a, &b);
        assert!((json["tags"]["write"]["b_to_a"]["p50"].as_f64().unwrap() - 0.5).abs() < 0.01);
        assert_eq!(json["only_in_a"][0], "read");
    }

    #[test]
    fn tags_can_be_chosen_and_a_wrong_one_names_the_others() {
        let both = || dump("a.hlog", &[("write", &[1]), ("read", &[1])]);
        let chosen = both().select(&["read".to_owned()]).unwrap();
        assert_eq!(chosen.tags.len(), 1);
        let error = both().select(&["reed".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "a.hlog: no tag reed; there are write, read");
        assert_eq!(both().select(&[]).unwrap().tags.len(), 2);
    }

    #[test]
    fn the_json_has_microseconds() {
        let json = dump("a.hlog", &[("write", &[1_500])]).json();
        assert_eq!(json["latency_us"]["write"]["p50"], 1.5);
        assert_eq!(json["latency_us"]["write"]["count"], 1);
    }

    #[test]
    fn a_damaged_file_is_named_with_its_line() {
        let error = Dump::parse(Path::new("x.hlog"), b"#\nrubbish\n").unwrap_err();
        assert!(format!("{error:#}").starts_with("x.hlog: line 2: expected"), "{error:#}");
        let empty = Dump::parse(Path::new("x.hlog"), b"#\n").unwrap_err().to_string();
        assert!(empty.contains("no interval"));
    }
}
