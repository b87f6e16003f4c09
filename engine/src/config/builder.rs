//! `Builder`: settings made by a program, with defaults for all, validated when built.
//!
//! Reads no file and no environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_proto::{ServerId, Ticks, VoterSet};

use super::error::ConfigError;
use super::member::{HostPort, Member};
use super::{Config, FourLetterWords, Idle, Placement, Settings, Warning};

/// The highest `jute.maxbuffer`, bytes: whatever requests of this length make of a znode fits one
/// entry of a snapshot.
pub const JUTE_MAXBUFFER_MAX: u32 = 16 * 1024 * 1024;

/// Makes a [`Config`]. Every setting has a default but the data directory.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is built"]
pub struct Builder {
    settings: Settings,
    data_log_dir: Option<PathBuf>,
    min_session_timeout: Option<Duration>,
    max_session_timeout: Option<Duration>,
    standalone_enabled: bool,
    pub(super) warnings: Vec<Warning>,
}

impl Builder {
    pub(super) fn new(data_dir: PathBuf) -> Self {
        let Ticks { tick, init_limit, sync_limit } = Ticks::default();
        let settings = Settings {
            my_sid: ServerId(1),
            standalone: true,
            servers: Vec::new(),
            groups: BTreeMap::new(),
            weights: BTreeMap::new(),
            config_version: 0,
            cluster_id: 0,
            tick_time: tick,
            init_limit,
            sync_limit,
            quorum_listen_on_all_ips: false,
            data_log_dir: data_dir.clone(),
            data_dir,
            durable: true,
            client: None,
            client_backlog: 1024,
            max_client_cnxns: 60,
            min_session_timeout: tick * 2,
            max_session_timeout: tick * 20,
            jute_maxbuffer: 0xf_ffff,
            four_letter_words: FourLetterWords::Listed(Vec::new()),
            snap_count: 100_000,
            snap_retain_count: 3,
            segment_len: 64 * 1024 * 1024,
            window_max: 16 * 1024,
            placement: Placement::Auto,
            idle: Idle::Auto,
            shards: 0,
        };
        Self {
            settings,
            data_log_dir: None,
            min_session_timeout: None,
            max_session_timeout: None,
            standalone_enabled: true,
            warnings: Vec::new(),
        }
    }

    /// This server's id.
    pub fn my_sid(mut self, sid: ServerId) -> Self {
        self.settings.my_sid = sid;
        self
    }

    /// All members, this one among them. One alone, or none, makes a server that serves alone.
    pub fn servers(mut self, servers: impl IntoIterator<Item = Member>) -> Self {
        self.settings.servers = servers.into_iter().collect();
        self
    }

    /// Whether a server that is the only participant serves alone (the default), or is an ensemble
    /// of one that observers can join.
    pub const fn standalone_enabled(mut self, enabled: bool) -> Self {
        self.standalone_enabled = enabled;
        self
    }

    /// tickTime, initLimit and syncLimit.
    pub const fn ticks(mut self, ticks: Ticks) -> Self {
        self.settings.tick_time = ticks.tick;
        self.settings.init_limit = ticks.init_limit;
        self.settings.sync_limit = ticks.sync_limit;
        self
    }

    /// Where clients connect; port 0 lets the system choose.
    pub fn client(mut self, address: HostPort) -> Self {
        self.settings.client = Some(address);
        self
    }

    /// Connections per client host; 0 for any number.
    pub const fn max_client_cnxns(mut self, count: u32) -> Self {
        self.settings.max_client_cnxns = count;
        self
    }

    /// The shortest session time-out granted; 2 ticks by default.
    pub const fn min_session_timeout(mut self, timeout: Duration) -> Self {
        self.min_session_timeout = Some(timeout);
        self
    }

    /// The longest session time-out granted; 20 ticks by default.
    pub const fn max_session_timeout(mut self, timeout: Duration) -> Self {
        self.max_session_timeout = Some(timeout);
        self
    }

    /// Where log, snapshots and epochs lie; in the data directory by default.
    pub fn data_log_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_log_dir = Some(path.into());
        self
    }

    /// Whether writes are on disk before they are acknowledged; otherwise all is in memory only.
    pub const fn durable(mut self, durable: bool) -> Self {
        self.settings.durable = durable;
        self
    }

    /// Where the threads run.
    pub const fn placement(mut self, placement: Placement) -> Self {
        self.settings.placement = placement;
        self
    }

    /// What the threads do while there is nothing to do.
    pub const fn idle(mut self, idle: Idle) -> Self {
        self.settings.idle = idle;
        self
    }

    /// How many shards serve connections; 0 for what fits the CPUs.
    pub const fn shards(mut self, count: u16) -> Self {
        self.settings.shards = count;
        self
    }

    /// Changes any setting in place. `standalone`, `data_log_dir` and the session time-outs are
    /// derived when built: set them by the methods above.
    pub fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Whether it will serve alone.
    pub(super) fn is_alone(&self) -> bool {
        let servers = &self.settings.servers;
        servers.is_empty() || (self.standalone_enabled && servers.len() == 1)
    }

    /// The id of the only member.
    pub(super) fn only_sid(&self) -> Option<ServerId> {
        let [only] = &self.settings.servers[..] else { return None };
        Some(only.sid)
    }

    pub(super) fn me(&self) -> Option<&Member> {
        self.settings.me()
    }

    pub(super) const fn client_address(&self) -> Option<&HostPort> {
        self.settings.client.as_ref()
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    /// Resolves what was left open and checks everything.
    ///
    /// # Errors
    /// [`ConfigError::Setting`] with the key of `zoo.cfg` that the setting is named by.
    pub fn build(self) -> Result<Config, ConfigError> {
        let standalone = self.is_alone();
        let mut settings = self.settings;
        settings.standalone = standalone;
        check_range(&settings)?;
        settings.servers.sort_by_key(|member| member.sid);
        settings.data_log_dir = self.data_log_dir.unwrap_or_else(|| settings.data_dir.clone());
        let tick = settings.tick_time;
        settings.min_session_timeout = self.min_session_timeout.unwrap_or(tick * 2);
        settings.max_session_timeout = self.max_session_timeout.unwrap_or(tick * 20);
        let asked = if self.min_session_timeout.is_some() { MIN_TIMEOUT } else { MAX_TIMEOUT };
        check_timeouts(&settings, asked)?;
        check_members(&settings)?;
        check_groups(&settings)?;
        if settings.client.is_none() {
            settings.client = settings.me().and_then(|me| me.client.clone());
        }
        Ok(Config { settings, warnings: self.warnings })
    }
}

fn check_range(settings: &Settings) -> Result<(), ConfigError> {
    let wrong = |key, problem: &str| Err(ConfigError::setting(key, problem));
    if settings.data_dir.as_os_str().is_empty() {
        return wrong("dataDir", "it is empty: expected the folder that keeps the server's data");
    }
    if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&settings.tick_time) {
        return wrong("tickTime", "expected 1 to 3600000 milliseconds, e.g. tickTime=2000");
    }
    if !(1..=100_000).contains(&settings.init_limit) {
        return wrong("initLimit", "expected 1 to 100000 ticks, e.g. initLimit=10");
    }
    if !(1..=100_000).contains(&settings.sync_limit) {
        return wrong("syncLimit", "expected 1 to 100000 ticks, e.g. syncLimit=5");
    }
    if !(1024..=JUTE_MAXBUFFER_MAX).contains(&settings.jute_maxbuffer) {
        let problem = format!("expected 1024 to {JUTE_MAXBUFFER_MAX} bytes");
        return wrong("jute.maxbuffer", &problem);
    }
    if settings.snap_count < 2 {
        return wrong("snapCount", "expected at least 2 transactions between snapshots");
    }
    if settings.snap_retain_count < 3 {
        return wrong("autopurge.snapRetainCount", "expected at least 3 snapshots to be kept");
    }
    if settings.segment_len == 0 || settings.segment_len > 2 << 30 {
        return wrong("preAllocSize", "expected 1 to 2097152 KiB");
    }
    if settings.window_max == 0 {
        return wrong("commitLogCount", "expected at least 1 transaction");
    }
    if settings.my_sid.0 > 255 {
        return wrong(
            "myid",
            "expected a server's number from 0 to 255: it is a byte of session ids",
        );
    }
    Ok(())
}

const MIN_TIMEOUT: &str = "minSessionTimeout";
const MAX_TIMEOUT: &str = "maxSessionTimeout";

/// `asked` is the one that was set: it is named if both do not fit.
fn check_timeouts(settings: &Settings, asked: &str) -> Result<(), ConfigError> {
    let (min, max) = (settings.min_session_timeout, settings.max_session_timeout);
    if min.is_zero() || max > Duration::from_millis(i32::MAX as u64) {
        let problem = "expected session time-outs of 1 to 2147483647 milliseconds";
        return Err(ConfigError::setting(asked, problem));
    }
    if min > max {
        let problem = format!(
            "minSessionTimeout ({} ms) is above maxSessionTimeout ({} ms); unset ones are 2 and 20 \
             times tickTime",
            min.as_millis(),
            max.as_millis()
        );
        return Err(ConfigError::setting(asked, problem));
    }
    Ok(())
}

fn check_members(settings: &Settings) -> Result<(), ConfigError> {
    let mut taken: BTreeMap<(&str, u16), ServerId> = BTreeMap::new();
    for (at, member) in settings.servers.iter().enumerate() {
        let wrong =
            |problem: String| Err(ConfigError::setting(format!("server.{}", member.sid), problem));
        if settings.servers[..at].iter().any(|other| other.sid == member.sid) {
            return wrong("it is there twice".to_owned());
        }
        if member.sid.0 > 255 {
            return wrong("expected a server's number from 0 to 255".to_owned());
        }
        if member.addresses.is_empty() {
            return wrong("it has no address".to_owned());
        }
        for address in &member.addresses {
            for port in [address.quorum_port, address.election_port] {
                if let Some(other) = taken.insert((&address.host, port), member.sid) {
                    return wrong(format!("server.{other} has {}:{port} already", address.host));
                }
            }
        }
    }
    check_voters(settings)
}

fn check_voters(settings: &Settings) -> Result<(), ConfigError> {
    let voters = settings.voters().count();
    if voters > VoterSet::CAPACITY {
        let problem = format!("{voters} participants: at most {} vote", VoterSet::CAPACITY);
        return Err(ConfigError::setting("server", problem));
    }
    if !settings.servers.is_empty() && voters == 0 {
        let problem = "all members are observers: expected at least one participant";
        return Err(ConfigError::setting("server", problem));
    }
    if !settings.standalone && settings.me().is_none() {
        let sids: Vec<String> =
            settings.servers.iter().map(|member| member.sid.to_string()).collect();
        let (me, sids) = (settings.my_sid, sids.join(", "));
        let problem = format!(
            "server {me} is not among the members ({sids}): expected one of them, or a line \
             server.{me}=host:quorumPort:electionPort"
        );
        return Err(ConfigError::setting("myid", problem));
    }
    Ok(())
}

/// Every voter is in exactly one group, as ZooKeeper's hierarchical quorums ask; weights name
/// members.
fn check_groups(settings: &Settings) -> Result<(), ConfigError> {
    if let Some(sid) = settings.weights.keys().find(|sid| settings.server(**sid).is_none()) {
        let problem = format!("there is no server.{sid}");
        return Err(ConfigError::setting(format!("weight.{sid}"), problem));
    }
    if settings.groups.is_empty() {
        return Ok(());
    }
    let mut home: BTreeMap<ServerId, u64> = BTreeMap::new();
    for (&group, members) in &settings.groups {
        let wrong = |problem: String| Err(ConfigError::setting(format!("group.{group}"), problem));
        for &sid in members {
            if settings.server(sid).is_none() {
                return wrong(format!("there is no server.{sid}"));
            }
            if let Some(other) = home.insert(sid, group) {
                return wrong(format!("server {sid} is in group.{other} already"));
            }
        }
    }
    if let Some(member) = settings.voters().find(|member| !home.contains_key(&member.sid)) {
        let problem = "it is in no group: expected every participant in one";
        return Err(ConfigError::setting(format!("server.{}", member.sid), problem));
    }
    if settings.voters().all(|member| settings.weight(member.sid) == 0) {
        return Err(ConfigError::setting("weight", "all weights are 0: nobody could lead"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<Member> {
        (1..=3).map(|n| Member::new(ServerId(n), format!("zoo{n}"), 2888, 3888)).collect()
    }

    fn problem(builder: Builder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn a_server_without_members_serves_alone() {
        let config = Config::standalone("data").build().unwrap();
        assert!(config.standalone && config.me().is_none());
        assert_eq!(config.client, Some(HostPort::new("", 2181)));
        assert_eq!(config.data_log_dir, config.data_dir);
    }

    #[test]
    fn a_lone_member_serves_alone_unless_told_otherwise() {
        let one = || Config::builder("data").servers(three().into_iter().take(1));
        assert!(one().build().unwrap().standalone);
        assert!(!one().standalone_enabled(false).build().unwrap().standalone);
    }

    #[test]
    fn session_timeouts_follow_the_tick() {
        let ticks = Ticks { tick: Duration::from_millis(200), init_limit: 5, sync_limit: 2 };
        let config = Config::standalone("data").ticks(ticks).build().unwrap();
        assert_eq!(config.min_session_timeout, Duration::from_millis(400));
        assert_eq!(config.max_session_timeout, Duration::from_secs(4));
        assert_eq!(config.ticks(), ticks);
        let max = Duration::from_millis(100);
        let text = problem(Config::standalone("data").ticks(ticks).max_session_timeout(max));
        assert!(text.contains("400 ms") && text.contains("100 ms"), "{text}");
    }

    #[test]
    fn members_come_in_order_and_their_line_may_name_the_client_port() {
        let mut members = three();
        members[1].client = Some(HostPort::new("", 2182));
        members.reverse();
        let config = Config::builder("d").my_sid(ServerId(2)).servers(members).build().unwrap();
        let sids: Vec<u64> = config.servers.iter().map(|member| member.sid.0).collect();
        assert_eq!(sids, [1, 2, 3]);
        assert_eq!(config.client, Some(HostPort::new("", 2182)));
    }

    #[test]
    fn members_that_contradict_each_other_are_refused() {
        let members = |change: fn(&mut Vec<Member>)| {
            let mut members = three();
            change(&mut members);
            problem(Config::builder("d").servers(members))
        };
        assert!(members(|m| m[1].sid = ServerId(1)).starts_with("server.1: it is there twice"));
        assert!(
            members(|m| m[2].addresses[0].host = "zoo1".into())
                .contains("server.1 has zoo1:2888 already")
        );
        assert!(members(|m| m[0].sid = ServerId(300)).contains("0 to 255"));
        assert!(members(|m| m.iter_mut().for_each(|m| *m = m.clone().observer())).contains("all"));
        assert!(members(|m| drop(m.remove(0))).contains("not among the members (2, 3)"));
        assert!(members(|m| m[0].addresses.clear()).contains("no address"));
    }

    #[test]
    fn groups_hold_every_voter_once() {
        let groups = |pairs: &[(u64, &[u64])]| {
            let groups = pairs.iter().map(|(group, sids)| {
                (*group, sids.iter().map(|&sid| ServerId(sid)).collect::<Vec<_>>())
            });
            let groups: BTreeMap<_, _> = groups.collect();
            Config::builder("d").servers(three()).with(|settings| settings.groups = groups)
        };
        assert!(groups(&[(1, &[1, 2]), (2, &[3])]).build().is_ok());
        assert!(problem(groups(&[(1, &[1, 2])])).starts_with("server.3: it is in no group"));
        assert!(
            problem(groups(&[(1, &[1, 2]), (2, &[2, 3])]))
                .starts_with("group.2: server 2 is in group.1")
        );
        assert!(
            problem(groups(&[(1, &[1, 2, 3, 4])])).starts_with("group.1: there is no server.4")
        );
    }

    #[test]
    fn values_out_of_range_name_their_key() {
        let key = |change: fn(&mut Settings)| problem(Config::standalone("d").with(change));
        assert!(key(|s| s.tick_time = Duration::ZERO).starts_with("tickTime: "));
        assert!(key(|s| s.init_limit = 0).starts_with("initLimit: "));
        assert!(key(|s| s.sync_limit = 0).starts_with("syncLimit: "));
        assert!(key(|s| s.jute_maxbuffer = 10).starts_with("jute.maxbuffer: "));
        let text = key(|s| s.jute_maxbuffer = JUTE_MAXBUFFER_MAX + 1);
        assert_eq!(text, "jute.maxbuffer: expected 1024 to 16777216 bytes");
        assert!(key(|s| s.snap_count = 1).starts_with("snapCount: "));
        assert!(key(|s| s.snap_retain_count = 2).starts_with("autopurge.snapRetainCount: "));
        assert!(key(|s| s.window_max = 0).starts_with("commitLogCount: "));
        assert!(key(|s| s.segment_len = 0).starts_with("preAllocSize: "));
        assert!(key(|s| s.my_sid = ServerId(256)).starts_with("myid: "));
        assert!(key(|s| s.data_dir = PathBuf::new()).starts_with("dataDir: "));
    }
}
