//! HdrHistogram's interval log, written and read: one line of text per tag and interval, the
//! histogram in it V2, deflated, in base64.
//!
//! Knows no stage, so that logs of other programs are read too. Merges nothing.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

/// The column of maxima is for people: nanoseconds are shown as milliseconds.
const MAX_VALUE_DIVISOR: f64 = 1e6;

/// Java's reader takes a line's time as one since the log's start if it is more than a year's worth
/// of seconds below that start, and as a time since 1970 otherwise (`HistogramLogReader`).
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// One line of a log: what was recorded under one tag within one interval of time.
#[derive(Clone, Debug)]
pub struct Interval {
    /// The tag; empty if there is none. Without comma, space or line end.
    pub tag: String,
    /// When the interval began.
    pub start: SystemTime,
    /// How long it lasted.
    pub duration: Duration,
    /// The values, in nanoseconds where quorate wrote them.
    pub histogram: Histogram<u64>,
}

/// A log that can not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogError {
    /// The line that is damaged, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for LogError {}

/// Writes a log line by line.
#[derive(Debug)]
pub struct LogWriter<W> {
    out: W,
    start: SystemTime,
    bytes: Vec<u8>,
    text: String,
}

impl<W: Write> LogWriter<W> {
    /// Begins a log at `start`: format 1.3, with StartTime, MaxValueDivisor and legend.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(mut out: W, start: SystemTime) -> io::Result<Self> {
        let epoch = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        writeln!(out, "#[Histogram log format version 1.3]")?;
        writeln!(out, "#[StartTime: {:.3} (seconds since epoch)]", epoch.as_secs_f64())?;
        writeln!(out, "#[MaxValueDivisor: {MAX_VALUE_DIVISOR:.1}]")?;
        writeln!(
            out,
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
             \"Interval_CompressedHistogram\""
        )?;
        Ok(Self { out, start, bytes: Vec::new(), text: String::new() })
    }

    /// Writes one line.
    ///
    /// # Errors
    /// Those of the output; `InvalidInput` if the tag has a comma, a space or a line end in it.
    pub fn write(&mut self, interval: &Interval) -> io::Result<()> {
        if interval.tag.contains([',', ' ', '\n', '\r']) {
            let reason = format!("{:?} can not be a histogram's tag", interval.tag);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        self.bytes.clear();
        self.text.clear();
        let mut serializer = V2DeflateSerializer::new();
        serializer.serialize(&interval.histogram, &mut self.bytes).map_err(io::Error::other)?;
        STANDARD.encode_string(&self.bytes, &mut self.text);
        if !interval.tag.is_empty() {
            write!(self.out, "Tag={},", interval.tag)?;
        }
        writeln!(
            self.out,
            "{:.3},{:.3},{:.3},{}",
            interval.start.duration_since(self.start).unwrap_or_default().as_secs_f64(),
            interval.duration.as_secs_f64(),
            interval.histogram.max() as f64 / MAX_VALUE_DIVISOR,
            self.text,
        )
    }

    /// Hands everything to the output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a whole log that began at `start`.
///
/// # Errors
/// As [`LogWriter::write`].
pub fn write_log<'a>(
    out: &mut impl Write,
    start: SystemTime,
    intervals: impl IntoIterator<Item = &'a Interval>,
) -> io::Result<()> {
    let mut writer = LogWriter::begin(out, start)?;
    intervals.into_iter().try_for_each(|interval| writer.write(interval))?;
    writer.finish()
}

/// Reads a log, of quorate or of another program. Comments and legend are skipped.
///
/// # Errors
/// [`LogError`] with the first line that is damaged.
pub fn read_log(log: &[u8]) -> Result<Vec<Interval>, LogError> {
    Ok(read_lines(log)?.into_iter().map(|(_, interval)| interval).collect())
}

/// The same, each interval with its line.
pub(super) fn read_lines(log: &[u8]) -> Result<Vec<(usize, Interval)>, LogError> {
    let mut reader = Reader { start: None, base: None, deserializer: Deserializer::new() };
    let mut intervals = Vec::new();
    for (at, line) in log.split(|&byte| byte == b'\n').enumerate() {
        let at = at + 1;
        let interval = reader.read(line.strip_suffix(b"\r").unwrap_or(line));
        let interval = interval.map_err(|reason| LogError { line: at, reason })?;
        intervals.extend(interval.map(|interval| (at, interval)));
    }
    Ok(intervals)
}

/// What a log has said about its times so far.
struct Reader {
    start: Option<Duration>,
    base: Option<Duration>,
    deserializer: Deserializer,
}

impl Reader {
    fn read(&mut self, line: &[u8]) -> Result<Option<Interval>, &'static str> {
        if line.is_empty() || line.starts_with(b"\"") {
            return Ok(None);
        }
        let mut whole = line.to_vec();
        whole.push(b'\n');
        let Some(entry) = IntervalLogIterator::new(&whole).next() else { return Ok(None) };
        let entry = entry.map_err(|_| {
            "expected a comment (#...) or [Tag=name,]start,length,max,histogram of an HdrHistogram log"
        })?;
        match entry {
            LogEntry::StartTime(time) => self.start = Some(time),
            LogEntry::BaseTime(time) => self.base = Some(time),
            LogEntry::Interval(interval) => {
                let bytes = STANDARD
                    .decode(interval.encoded_histogram())
                    .map_err(|_| "the histogram is not base64: the line is cut or damaged")?;
                let histogram = self
                    .deserializer
                    .deserialize(&mut &bytes[..])
                    .map_err(|_| "the histogram is not in HdrHistogram's V2 format, or damaged")?;
                return Ok(Some(Interval {
                    tag: interval.tag().map_or_else(String::new, |tag| tag.as_str().to_owned()),
                    start: SystemTime::UNIX_EPOCH + self.since_1970(interval.start_timestamp()),
                    duration: interval.duration(),
                    histogram,
                }));
            }
        }
        Ok(None)
    }

    fn since_1970(&self, timestamp: Duration) -> Duration {
        match (self.base, self.start) {
            (Some(base), _) => base + timestamp,
            (None, Some(start)) if timestamp + YEAR < start => start + timestamp,
            (None, _) => timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by HdrHistogram's Python implementation: 1, 2, 2 and 5000 us under the tag `ping`.
    const FOREIGN: &str = "#[Written by another program]\n\
        #[Histogram log format version 1.2]\n\
        #[StartTime: 1441812279.474 (seconds since epoch), Wed Sep 09 08:24:39 PDT 2015]\n\
        \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_CompressedHistogram\"\n\
        Tag=ping,0.127,1.007,5.000,HISTFAAAACt4nJNpmSzMwMDAxQABzFCaEYh5f7hHMNh/gAic52c6y8/ydDMjEwCMIAeD\n";

    fn histogram(values: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        values.iter().for_each(|&value| histogram.record(value).unwrap());
        histogram
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn intervals_read_back_with_their_tags_and_times() {
        let written = [
            Interval {
                tag: "write".to_owned(),
                start: at(1_700_000_001),
                duration: Duration::from_millis(1500),
                histogram: histogram(&[1, 1_000_000, 59_000_000_000]),
            },
            Interval {
                tag: String::new(),
                start: at(1_700_000_002),
                duration: Duration::from_secs(2),
                histogram: histogram(&[]),
            },
        ];
        let mut log = Vec::new();
        write_log(&mut log, at(1_700_000_000), &written).unwrap();
        let read = read_log(&log).unwrap();
        assert_eq!(read.len(), 2);
        for (written, read) in written.iter().zip(&read) {
            assert_eq!(written.tag, read.tag);
            assert_eq!(written.start, read.start);
            assert_eq!(written.duration, read.duration);
            assert_eq!(written.histogram, read.histogram);
        }
    }

    #[test]
    fn the_header_lines_are_those_of_the_format() {
        let mut log = Vec::new();
        write_log(&mut log, at(1_700_000_000), &[]).unwrap();
        let text = String::from_utf8(log).unwrap();
        assert_eq!(
            text,
            "#[Histogram log format version 1.3]\n\
             #[StartTime: 1700000000.000 (seconds since epoch)]\n\
             #[MaxValueDivisor: 1000000.0]\n\
             \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
             \"Interval_CompressedHistogram\"\n"
        );
    }

    #[test]
    fn a_log_of_another_program_is_read() {
        let read = read_log(FOREIGN.as_bytes()).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(
            read[0].start,
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_441_812_279_601)
        );
        assert_eq!(read[0].duration, Duration::from_millis(1007));
        assert_eq!(read[0].tag, "ping");
        let values: Vec<u64> =
            read[0].histogram.iter_recorded().map(|v| v.value_iterated_to() / 1000).collect();
        assert_eq!((values, read[0].histogram.len()), (vec![1, 2, 5001], 4));
    }

    #[test]
    fn times_are_absolute_without_a_start_and_relative_to_a_base() {
        let line = FOREIGN.lines().last().unwrap().trim_start_matches("Tag=ping,0.127");
        let absolute = format!("1441812279.500{line}\r\n");
        let read = read_log(absolute.as_bytes()).unwrap();
        assert_eq!(
            read[0].start,
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_441_812_279_500)
        );
        let relative = format!("#[BaseTime: 1000.000 (seconds since epoch)]\n5.000{line}");
        assert_eq!(read_log(relative.as_bytes()).unwrap()[0].start, at(1005));
    }

    #[test]
    fn a_damaged_line_is_named() {
        let mut log = FOREIGN.to_owned();
        log.push_str("not a line\n");
        assert_eq!(read_log(log.as_bytes()).unwrap_err().line, 6);
        let cut = &FOREIGN[..FOREIGN.len() - 20];
        let error = read_log(cut.as_bytes()).unwrap_err();
        assert_eq!(error.line, 5);
        assert!(error.to_string().starts_with("line 5: the histogram"), "{error}");
    }

    #[test]
    fn a_tag_that_would_break_the_line_is_refused() {
        let interval = Interval {
            tag: "a,b".to_owned(),
            start: at(0),
            duration: Duration::ZERO,
            histogram: histogram(&[1]),
        };
        let error = write_log(&mut Vec::new(), at(0), &[interval]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
