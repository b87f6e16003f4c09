//! What the programs of quorate's operators are made of: a module for each thing they look at.
//!
//! Parses no command line, and prints nothing: each module reads, and gives text or JSON back.

pub mod chart;
pub mod hist;
pub mod log;
pub mod snapshot;
pub mod source;
pub mod status;
