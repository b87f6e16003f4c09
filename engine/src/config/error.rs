//! What can be wrong with a configuration, in words that say where it stands and what is expected.
//!
//! Prints nothing itself.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A configuration that can not be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file can not be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it is for, and what to do.
        purpose: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A line of a file can not be used.
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1; for a value that goes over several lines the first one.
        line: usize,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// Something that must be there is missing in a file, or is wrong as a whole.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// A setting that was made by a program can not be used.
    Setting {
        /// The setting, named by its key of `zoo.cfg`.
        key: String,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

impl ConfigError {
    pub(super) fn line(path: &Path, line: usize, problem: impl Into<String>) -> Self {
        Self::Line { path: path.to_owned(), line, problem: problem.into() }
    }

    pub(super) fn file(path: &Path, problem: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), problem: problem.into() }
    }

    pub(super) fn setting(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Setting { key: key.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, purpose, source } => {
                write!(f, "{}: {source} ({purpose})", path.display())
            }
            Self::Line { path, line, problem } => {
                write!(f, "{}:{line}: {problem}", path.display())
            }
            Self::File { path, problem } => write!(f, "{}: {problem}", path.display()),
            Self::Setting { key, problem } => write!(f, "{key}: {problem}"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Line { .. } | Self::File { .. } | Self::Setting { .. } => None,
        }
    }
}
