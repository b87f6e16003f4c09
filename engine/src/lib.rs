//! quorate: a replicated, ordered, durable log with ZooKeeper's protocol and semantics, as a
//! thread-per-core engine on io_uring.
//!
//! [`Server`] is one server of an ensemble: it recovers its data, takes part in elections, leads or
//! follows, and serves clients over TCP and in this process. Its replicated state is ZooKeeper's
//! tree ([`Server::start`]) or a state of the embedder's own ([`Server::start_with`], with
//! [`Replicated`] or [`StateMachine`]).
//!
//! The library installs no logger, no signal handler and no allocator, and never exits the process:
//! a server that cannot go on stops, and its owner learns of it as an [`Error`]. It reports through
//! `tracing`.

mod addresses;
pub mod config;
mod control;
mod error;
pub mod in_process;
mod memory_disk;
pub mod metrics;
mod node;
mod replicated;
// For this package's tests and examples; not part of what we promise.
#[doc(hidden)]
pub mod runtime;
mod server;
mod session;

pub use bytes;
pub use config::{Config, ConfigError};
pub use error::Error;
pub use metrics::{Histograms, Stage};
pub use quorate_peer::StateMachine;
pub use quorate_peer::links::ConnKey;
pub use quorate_peer::machine;
pub use quorate_peer::znode::ZnodeMachine;
pub use quorate_proto::{Epoch, ServerId, SessionId, Ticks, Zxid};
pub use quorate_tree::{Acl, CreateMode, ErrorCode, Op, Permissions, Stat, TxnHeader};
pub use quorate_wire::Frame;
pub use quorate_wire::jute::client::EventKind;
pub use replicated::{Copied, Machine, Replicated};
pub use server::{Role, Server};
pub use session::{Pending, Proposer, Session, WatchedEvent};
