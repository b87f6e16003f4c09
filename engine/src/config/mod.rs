//! What a server is told: a [`Config`], from `zoo.cfg` or from a [`Builder`], validated once and
//! immutable from then on.
//!
//! Alone reads files for settings. Resolves no host name and opens no port.

mod builder;
mod error;
mod keys;
mod local;
mod member;
mod properties;
mod zoo_cfg;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use builder::{Builder, JUTE_MAXBUFFER_MAX};
pub use error::ConfigError;
pub use member::{HostPort, Member, MemberAddress, MemberRole};
use quorate_proto::{ServerId, Ticks};

/// Where the threads of a server run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Placement {
    /// What fits the CPUs that the process may use.
    #[default]
    Auto,
    /// All cores on one thread.
    Single,
    /// Two threads: the shard with the log, and the quorum with the tree.
    Compact,
    /// Quorum, tree and log apart as far as there are CPUs, every other CPU a shard.
    Dedicated,
}

/// What a thread does while there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Idle {
    /// What fits the number of threads and CPUs.
    #[default]
    Auto,
    /// It polls for ever: the lowest latency, a whole CPU each.
    Spin,
    /// It polls for this long, then sleeps.
    SpinThenPark(Duration),
    /// It sleeps at once.
    Park,
}

/// Which four-letter words are answered (`4lw.commands.whitelist`). `srvr` and `qsta` always are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FourLetterWords {
    /// All of them.
    All,
    /// These.
    Listed(Vec<String>),
}

/// All settings, resolved: no default is left open. Read through [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This server's id (myid). 1 where it is alone.
    pub my_sid: ServerId,
    /// Whether it serves alone, without links to others.
    pub standalone: bool,
    /// All members in sid order, this one among them. Empty if it is alone and was given none.
    pub servers: Vec<Member>,
    /// Groups of a hierarchical quorum, `group.N=sid:sid`; empty for a plain majority.
    pub groups: BTreeMap<u64, Vec<ServerId>>,
    /// Votes of members that have not one (`weight.N`).
    pub weights: BTreeMap<ServerId, u64>,
    /// The version of the member list: the suffix of `dynamicConfigFile`, 0 without one.
    pub config_version: u64,
    /// Names the ensemble, so that servers of another one are refused; 0 accepts all.
    pub cluster_id: u64,
    /// tickTime, 1 ms to 1 h.
    pub tick_time: Duration,
    /// initLimit in ticks.
    pub init_limit: u32,
    /// syncLimit in ticks.
    pub sync_limit: u32,
    /// Listens for peers on all addresses, not only on the one of its own line.
    pub quorum_listen_on_all_ips: bool,
    /// Where `myid` and `initialize` lie, and all data unless `data_log_dir` is another folder.
    pub data_dir: PathBuf,
    /// Where log, snapshots and epochs lie, in its folder `quorate`; equal to `data_dir` by default.
    pub data_log_dir: PathBuf,
    /// Whether a write is on disk before it is acknowledged. Otherwise everything is kept in memory
    /// only: a server that stops comes back empty.
    pub durable: bool,
    /// Where clients connect; none if only this process has clients.
    pub client: Option<HostPort>,
    /// Connections that may wait to be accepted.
    pub client_backlog: u32,
    /// Connections per client host; 0 for any number.
    pub max_client_cnxns: u32,
    /// The shortest session time-out granted.
    pub min_session_timeout: Duration,
    /// The longest session time-out granted.
    pub max_session_timeout: Duration,
    /// Bytes of one client frame, at most [`JUTE_MAXBUFFER_MAX`].
    pub jute_maxbuffer: u32,
    /// Which four-letter words are answered.
    pub four_letter_words: FourLetterWords,
    /// Transactions between two snapshots.
    pub snap_count: u64,
    /// Snapshots that are kept, at least 3.
    pub snap_retain_count: u32,
    /// The length of a log segment in bytes (preAllocSize, there in KiB); raised to what the largest
    /// transaction needs.
    pub segment_len: u64,
    /// Committed transactions that are kept in memory for learners that come back soon
    /// (commitLogCount).
    pub window_max: usize,
    /// Where the threads run.
    pub placement: Placement,
    /// What they do while there is nothing to do.
    pub idle: Idle,
    /// How many shards serve connections; 0 for what fits the CPUs.
    pub shards: u16,
}

impl Settings {
    /// tickTime, initLimit and syncLimit together.
    pub const fn ticks(&self) -> Ticks {
        Ticks { tick: self.tick_time, init_limit: self.init_limit, sync_limit: self.sync_limit }
    }

    /// This server's own line; `None` if it is alone and has none.
    pub fn me(&self) -> Option<&Member> {
        self.server(self.my_sid)
    }

    /// A member's line.
    pub fn server(&self, sid: ServerId) -> Option<&Member> {
        self.servers.iter().find(|member| member.sid == sid)
    }

    /// Those that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.servers.iter().filter(|member| member.is_voter())
    }

    /// Those that do not.
    pub fn observers(&self) -> impl Iterator<Item = &Member> {
        self.servers.iter().filter(|member| !member.is_voter())
    }

    /// A member's votes.
    pub fn weight(&self, sid: ServerId) -> u64 {
        self.weights.get(&sid).copied().unwrap_or(1)
    }
}

/// A key that was accepted and does nothing, or was given twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What the operator should know.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

/// A validated configuration. Its [`Settings`] are read through it.
#[derive(Clone, Debug)]
pub struct Config {
    settings: Settings,
    warnings: Vec<Warning>,
}

impl Config {
    /// Reads a `zoo.cfg` and, for a member of an ensemble, `myid` in its dataDir.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, the line and what is expected.
    pub fn from_zoo_cfg(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        zoo_cfg::read(path.as_ref())
    }

    /// Begins a configuration in a program.
    pub fn builder(data_dir: impl Into<PathBuf>) -> Builder {
        Builder::new(data_dir.into())
    }

    /// One server that serves alone: clients on port 2181 of all addresses, unless changed.
    pub fn standalone(data_dir: impl Into<PathBuf>) -> Builder {
        Self::builder(data_dir).client(HostPort::new("", 2181))
    }

    /// One member of an ensemble within a process or on one machine: clients on a port of loopback
    /// that the system chooses, any number of them, unless changed.
    pub fn embedded(
        my_sid: ServerId,
        servers: impl IntoIterator<Item = Member>,
        data_dir: impl Into<PathBuf>,
    ) -> Builder {
        Self::builder(data_dir)
            .my_sid(my_sid)
            .servers(servers)
            .client(HostPort::new("127.0.0.1", 0))
            .max_client_cnxns(0)
    }

    /// What the operator should know: keys without effect, keys that stand twice.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

impl Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}
