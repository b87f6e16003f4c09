//! What the operator should read: one notice is one line of the log.
//!
//! Cores say what happened; whoever drives them decides where it is written.

use alloc::string::String;
use core::fmt;

/// How urgent a notice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Of interest when looking for a cause.
    Debug,
    /// A change of role, a connection of a learner, a snapshot.
    Info,
    /// A peer, a client or the disk did something it should not.
    Warn,
    /// The server cannot go on.
    Error,
}

/// One line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How urgent it is.
    pub level: Level,
    /// What happened, with the peer and the reason.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
