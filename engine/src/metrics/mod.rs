//! How long each step of a write takes: stages, one recorder per core, and HdrHistogram's log format.
//!
//! Reads no clock on the recording path: whoever records has measured already. Knows no core and no
//! protocol packet.

mod dump;
mod recorder;
mod summary;

pub use quorate_peer::timing::Stage;

pub use dump::{Interval, LogError, LogWriter, read_log, write_log};
pub use recorder::{Histograms, Recorder};
pub use summary::{Nanos, Summary};
