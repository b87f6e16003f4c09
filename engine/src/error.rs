//! `Error`: why a server could not start, or an operation did not come to its result.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use quorate_tree::ErrorCode;

use crate::config::ConfigError;
use crate::runtime::net::AddressError;

/// What can go wrong for an embedder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong; the text names file and line.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A port could not be bound, or a name not be resolved.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A file or folder of the server could not be used.
    #[error("{path}: {source}")]
    File {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another server uses this data directory.
    #[error("{path} is in use by another server (its lock file is held)")]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// A thread or a ring could not be made.
    #[error("cannot start: {0}")]
    Start(String),
    /// The server stopped because it could not go on.
    #[error("the server stopped: {0}")]
    Failed(String),
    /// The server did not serve within the time given.
    #[error("the server did not serve within {waited:?}")]
    NotServing {
        /// The time given.
        waited: Duration,
    },
    /// The operation was refused.
    #[error("refused: {0}")]
    Refused(ErrorCode),
    /// The session's connection is gone; whether the operation took effect is unknown.
    #[error("the connection is lost, the operation may or may not have taken effect")]
    ConnectionLost,
    /// The session has ended.
    #[error("the session has expired")]
    SessionExpired,
    /// The server sent something that cannot be read.
    #[error("an answer cannot be read: {0}")]
    Answer(String),
}
