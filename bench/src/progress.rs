//! The progress line on standard error: rewritten in place on a terminal, a line a second elsewhere.
//!
//! Knows nothing of what it says.

use std::io::{self, IsTerminal, Write};

/// The line.
#[derive(Debug)]
pub(crate) struct Progress {
    is_quiet: bool,
    is_terminal: bool,
    last: String,
}

impl Progress {
    pub(crate) fn new(is_quiet: bool) -> Self {
        Self { is_quiet, is_terminal: io::stderr().is_terminal(), last: String::new() }
    }

    /// What happens now; repeating it says nothing.
    pub(crate) fn say(&mut self, text: &str) {
        if text != self.last {
            text.clone_into(&mut self.last);
            self.second(text);
        }
    }

    /// What happened in the last second.
    pub(crate) fn second(&self, text: &str) {
        if self.is_quiet {
            return;
        }
        let mut err = io::stderr().lock();
        // Progress that cannot be shown is no reason to end a run.
        let _ = if self.is_terminal {
            write!(err, "\r\x1b[K{text}").and_then(|()| err.flush())
        } else {
            writeln!(err, "{text}")
        };
    }

    /// Clears the line for the results.
    pub(crate) fn end(&self) {
        if !self.is_quiet && self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
