//! From the text of `zoo.cfg`, its dynamic file and `myid` to a `Config`.
//!
//! Knows what each key's value looks like; what fits together is the builder's to check.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use quorate_proto::{ServerId, Ticks};

use super::builder::Builder;
use super::error::ConfigError;
use super::keys::{self, Fate};
use super::member::{HostPort, Member, MemberRole, parse_port, parse_role};
use super::properties::{self, Property};
use super::{Config, FourLetterWords, Idle, Placement, Warning};

/// A configuration has a line for each of at most a few hundred members.
const FILE_LEN_MAX: u64 = 1024 * 1024;
/// tickTime, if the file has none, in milliseconds.
const TICK_TIME_DEFAULT: u64 = 3000;
/// Fewer snapshots would not survive the damage of one (ZooKeeper's own floor).
const SNAP_RETAIN_MIN: u32 = 3;

pub(super) fn read(path: &Path) -> Result<Config, ConfigError> {
    let mut lines = Lines::read(path, "the configuration; expected a zoo.cfg")?;
    lines.check_keys()?;
    let named = lines.properties.get("dynamicConfigFile");
    let members = named.map(|named| lines.dynamic(named)).transpose()?;
    Reading { members, lines }.config()
}

/// The properties of one file, each key once.
struct Lines {
    path: PathBuf,
    properties: BTreeMap<String, Property>,
    warnings: Vec<Warning>,
}

impl Lines {
    fn read(path: &Path, purpose: &'static str) -> Result<Self, ConfigError> {
        let unreadable =
            |source| ConfigError::Unreadable { path: path.to_owned(), purpose, source };
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > FILE_LEN_MAX {
            return Err(unreadable(io::Error::other("it is larger than 1 MiB")));
        }
        let all = properties::parse(&bytes)
            .map_err(|(line, problem)| ConfigError::line(path, line, problem))?;
        let mut lines =
            Self { path: path.to_owned(), properties: BTreeMap::new(), warnings: Vec::new() };
        for property in all {
            // As in Java the last one counts; an operator should still know.
            if let Some(first) = lines.properties.insert(property.key.clone(), property.clone()) {
                lines.warn(
                    property.line,
                    format!("{} stands in line {} already; this one counts", first.key, first.line),
                );
            }
        }
        Ok(lines)
    }

    fn warn(&mut self, line: usize, message: String) {
        self.warnings.push(Warning { path: self.path.clone(), line, message });
    }

    fn error(&self, property: &Property, problem: impl std::fmt::Display) -> ConfigError {
        let Property { line, key, value } = property;
        ConfigError::line(&self.path, *line, format!("{key}={value}: {problem}"))
    }

    /// Every key must be one of ZooKeeper's or ours: a mistyped one must not silently do nothing.
    fn check_keys(&mut self) -> Result<(), ConfigError> {
        let mut idle = Vec::new();
        for property in self.properties.values() {
            let Property { line, key, value } = property;
            match keys::fate(key) {
                Some(Fate::Honoured) => {}
                Some(Fate::WithoutEffect(why)) => {
                    idle.push((*line, format!("{key} has no effect here: {why}")));
                }
                Some(Fate::RefusedUnless(harmless)) if value == harmless => {}
                Some(Fate::RefusedUnless(_)) => {
                    return Err(self.error(
                        property,
                        "this protection is not available yet, and serving without it would \
                         surprise you: remove the line if you can do without",
                    ));
                }
                None => {
                    let hint = keys::nearest(key)
                        .map_or_else(String::new, |near| format!(", did you mean {near}?"));
                    let problem = format!("unknown key {key:?}{hint}");
                    return Err(ConfigError::line(&self.path, *line, problem));
                }
            }
        }
        idle.sort_unstable();
        idle.into_iter().for_each(|(line, message)| self.warn(line, message));
        Ok(())
    }

    /// The lines of a family, `prefix.N`, each with its N.
    fn family(&self, prefix: &str) -> Result<Vec<(u64, Property)>, ConfigError> {
        let of_family = |(key, _): &(&String, &Property)| key.starts_with(prefix);
        let lines = self.properties.range(prefix.to_owned()..).take_while(of_family);
        lines
            .map(|(key, property)| {
                let number = key[prefix.len()..].parse().map_err(|_| {
                    let expected = format!("expected a number after {prefix:?}, as in {prefix}1");
                    self.error(property, expected)
                })?;
                Ok((number, property.clone()))
            })
            .collect()
    }

    /// The file that `dynamicConfigFile` names: the members and nothing else.
    fn dynamic(&self, named: &Property) -> Result<Self, ConfigError> {
        let is_member =
            |key: &str| ["server.", "group.", "weight."].iter().any(|p| key.starts_with(p));
        if let Some(property) = self.properties.values().find(|p| is_member(&p.key)) {
            let problem = "members stand in the dynamicConfigFile, so none may stand here";
            return Err(self.error(property, problem));
        }
        let path = PathBuf::from(&named.value);
        let lines = Self::read(&path, "named by dynamicConfigFile")?;
        for property in lines.properties.values() {
            if !is_member(&property.key) && property.key != "version" {
                let problem = "expected only server.N, group.N, weight.N and version here";
                return Err(lines.error(property, problem));
            }
        }
        Ok(lines)
    }
}

/// A number in decimal, or in hexadecimal after `0x`.
fn number<T: TryFrom<u64>>(text: &str) -> Option<T> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => u64::from_str(text).ok()?,
    };
    T::try_from(value).ok()
}

impl FromStr for Placement {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "auto" => Ok(Self::Auto),
            "single" => Ok(Self::Single),
            "compact" => Ok(Self::Compact),
            "dedicated" => Ok(Self::Dedicated),
            _ => {
                let problem = "expected auto, single, compact or dedicated";
                Err(ConfigError::setting("quorate.placement", problem))
            }
        }
    }
}

impl FromStr for Idle {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match (text, text.strip_suffix("us").and_then(number)) {
            ("auto", _) => Ok(Self::Auto),
            ("spin", _) => Ok(Self::Spin),
            ("park", _) => Ok(Self::Park),
            (_, Some(micros)) => Ok(Self::SpinThenPark(Duration::from_micros(micros))),
            (_, None) => {
                let problem =
                    "expected auto, spin, park, or the time to spin before parking, e.g. 50us";
                Err(ConfigError::setting("quorate.idle", problem))
            }
        }
    }
}

/// Both files while they become settings.
struct Reading {
    lines: Lines,
    /// The dynamic file, if there is one.
    members: Option<Lines>,
}

impl Reading {
    fn parsed<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(property) = self.lines.properties.get(key) else { return Ok(None) };
        match parse(&property.value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.lines.error(property, format!("expected {expected}"))),
        }
    }

    fn number<T: TryFrom<u64>>(&self, key: &str, expected: &str) -> Result<Option<T>, ConfigError> {
        self.parsed(key, expected, number)
    }

    /// A setting whose type reads its own text.
    fn setting<T>(&self, key: &str) -> Result<T, ConfigError>
    where
        T: FromStr<Err = ConfigError> + Default,
    {
        let Some(property) = self.lines.properties.get(key) else { return Ok(T::default()) };
        property.value.parse().map_err(|error| self.located(error))
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.parsed(key, "true or false", |text| match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        })
    }

    /// A session time-out; ZooKeeper writes an unset one as -1.
    fn timeout(&self, key: &str) -> Result<Option<Duration>, ConfigError> {
        let expected = "milliseconds from 1, or -1 for the default";
        let millis = self.parsed(key, expected, |text| match text {
            "-1" => Some(None),
            _ => number::<u64>(text).filter(|&millis| millis > 0).map(Some),
        })?;
        Ok(millis.flatten().map(Duration::from_millis))
    }

    fn config(mut self) -> Result<Config, ConfigError> {
        let Some(data_dir) = self.lines.properties.get("dataDir") else {
            let problem = "dataDir is missing: expected a line such as dataDir=/var/lib/quorate";
            return Err(ConfigError::file(&self.lines.path, problem));
        };
        let mut builder = Builder::new(PathBuf::from(&data_dir.value));
        if let Some(path) = self.lines.properties.get("dataLogDir") {
            builder = builder.data_log_dir(&path.value);
        }
        builder = self.times(builder)?;
        builder = self.clients(builder)?;
        builder = self.storage(builder)?;
        builder = self.threads(builder)?;
        builder = self.ensemble(builder)?;
        self.check_limits(&builder)?;
        builder = self.identity(builder)?;
        builder.warnings.append(&mut self.lines.warnings);
        if let Some(members) = &mut self.members {
            builder.warnings.append(&mut members.warnings);
        }
        builder.build().map_err(|error| self.located(error))
    }

    fn times(&self, builder: Builder) -> Result<Builder, ConfigError> {
        let tick: u64 = self
            .number("tickTime", "milliseconds, e.g. tickTime=2000")?
            .unwrap_or(TICK_TIME_DEFAULT);
        let ticks = Ticks::default();
        let init = self.number("initLimit", "a number of ticks, e.g. initLimit=10")?;
        let sync = self.number("syncLimit", "a number of ticks, e.g. syncLimit=5")?;
        let mut builder = builder.ticks(Ticks {
            tick: Duration::from_millis(tick),
            init_limit: init.unwrap_or(ticks.init_limit),
            sync_limit: sync.unwrap_or(ticks.sync_limit),
        });
        if let Some(timeout) = self.timeout("minSessionTimeout")? {
            builder = builder.min_session_timeout(timeout);
        }
        if let Some(timeout) = self.timeout("maxSessionTimeout")? {
            builder = builder.max_session_timeout(timeout);
        }
        Ok(builder)
    }

    fn clients(&self, mut builder: Builder) -> Result<Builder, ConfigError> {
        let port =
            self.parsed("clientPort", "a port from 1 to 65535, e.g. clientPort=2181", |text| {
                parse_port(text, "port").ok()
            })?;
        let address = self.lines.properties.get("clientPortAddress");
        builder = match (port, address) {
            (Some(port), address) => {
                let host = address.map_or("", |address| address.value.as_str());
                builder.client(HostPort::new(host.trim_matches(['[', ']']), port))
            }
            (None, Some(address)) => {
                return Err(self.lines.error(address, "expected a clientPort beside it"));
            }
            (None, None) => builder,
        };
        if let Some(count) = self.number("maxClientCnxns", "a number; 0 for any")? {
            builder = builder.max_client_cnxns(count);
        }
        let backlog = self.parsed("clientPortListenBacklog", "a number, or -1", |text| {
            if text == "-1" { Some(None) } else { number::<u32>(text).map(Some) }
        })?;
        let frame = self.number("jute.maxbuffer", "a number of bytes")?;
        let words = self.parsed(
            "4lw.commands.whitelist",
            "* or four-letter words separated by commas, e.g. ruok, srvr",
            parse_words,
        )?;
        Ok(builder.with(|settings| {
            settings.client_backlog = backlog.flatten().unwrap_or(settings.client_backlog);
            settings.jute_maxbuffer = frame.unwrap_or(settings.jute_maxbuffer);
            settings.four_letter_words =
                words.unwrap_or_else(|| settings.four_letter_words.clone());
        }))
    }

    fn storage(&mut self, builder: Builder) -> Result<Builder, ConfigError> {
        let snap_count = self.number("snapCount", "a number of transactions")?;
        let retain: Option<u32> = self.number("autopurge.snapRetainCount", "a number from 3")?;
        if retain.is_some_and(|count| count < SNAP_RETAIN_MIN) {
            let line = self.lines.properties["autopurge.snapRetainCount"].line;
            let message = format!("{SNAP_RETAIN_MIN} snapshots are kept, the least that is safe");
            self.lines.warn(line, message);
        }
        let segment_kib: Option<u64> = self.number("preAllocSize", "a number of KiB")?;
        let window_max = self.number("commitLogCount", "a number of transactions")?;
        let durable = self.boolean("quorate.durable")?;
        Ok(builder.with(|settings| {
            settings.snap_count = snap_count.unwrap_or(settings.snap_count);
            settings.snap_retain_count =
                retain.unwrap_or(settings.snap_retain_count).max(SNAP_RETAIN_MIN);
            settings.segment_len =
                segment_kib.map_or(settings.segment_len, |kib| kib.saturating_mul(1024));
            settings.window_max = window_max.unwrap_or(settings.window_max);
            settings.durable = durable.unwrap_or(settings.durable);
        }))
    }

    fn threads(&self, builder: Builder) -> Result<Builder, ConfigError> {
        let placement = self.setting("quorate.placement")?;
        let idle = self.setting("quorate.idle")?;
        let shards = self.parsed("quorate.shards", "a number from 1 to 1024, or auto", |text| {
            if text == "auto" {
                return Some(0);
            }
            number::<u16>(text).filter(|count| (1..=1024).contains(count))
        })?;
        Ok(builder.placement(placement).idle(idle).shards(shards.unwrap_or_default()))
    }

    fn ensemble(&self, mut builder: Builder) -> Result<Builder, ConfigError> {
        let algorithm: Option<u32> = self.number("electionAlg", "3")?;
        if algorithm.is_some_and(|algorithm| algorithm != 3) {
            let property = &self.lines.properties["electionAlg"];
            return Err(self.lines.error(property, "expected 3, fast leader election over TCP"));
        }
        if let Some(enabled) = self.boolean("standaloneEnabled")? {
            builder = builder.standalone_enabled(enabled);
        }
        let on_all = self.boolean("quorumListenOnAllIPs")?;
        let cluster = self.number("quorate.clusterId", "a number, the same on all members")?;
        let lines = self.members.as_ref().unwrap_or(&self.lines);
        let mut servers = Vec::new();
        for (sid, property) in lines.family("server.")? {
            let member = Member::parse(ServerId(sid), &property.value);
            servers.push(member.map_err(|problem| lines.error(&property, problem))?);
        }
        let (mut groups, mut weights) = (BTreeMap::new(), BTreeMap::new());
        for (group, property) in lines.family("group.")? {
            let sids: Option<Vec<ServerId>> =
                property.value.split(':').map(|sid| number(sid.trim()).map(ServerId)).collect();
            let sids = sids.ok_or_else(|| {
                lines.error(&property, "expected server numbers separated by colons, e.g. 1:2:3")
            })?;
            groups.insert(group, sids);
        }
        for (sid, property) in lines.family("weight.")? {
            let weight = number(&property.value)
                .ok_or_else(|| lines.error(&property, "expected a number of votes, 0 or more"))?;
            weights.insert(ServerId(sid), weight);
        }
        let version = self.members.as_ref().map_or(0, |lines| version_of(&lines.path));
        Ok(builder.servers(servers).with(|settings| {
            settings.groups = groups;
            settings.weights = weights;
            settings.config_version = version;
            settings.cluster_id = cluster.unwrap_or(0);
            settings.quorum_listen_on_all_ips = on_all.unwrap_or(false);
        }))
    }

    /// A member of an ensemble must be told its limits; there is no default that fits all sizes.
    fn check_limits(&self, builder: &Builder) -> Result<(), ConfigError> {
        if builder.is_alone() {
            return Ok(());
        }
        for (key, example) in [("initLimit", 10), ("syncLimit", 5)] {
            if !self.lines.properties.contains_key(key) {
                let problem =
                    format!("{key} is missing: an ensemble needs it, e.g. {key}={example}");
                return Err(ConfigError::file(&self.lines.path, problem));
            }
        }
        Ok(())
    }

    /// Who this server is, and with it the client port and the role of its line.
    fn identity(&mut self, builder: Builder) -> Result<Builder, ConfigError> {
        let sid = match (builder.is_alone(), builder.only_sid()) {
            (true, sid) => sid.unwrap_or(ServerId(1)),
            (false, _) => read_myid(&builder.data_dir().join("myid"))?,
        };
        let builder = builder.my_sid(sid);
        let me = builder.me();
        self.check_client(me, builder.client_address())?;
        if let (Some(me), Some(role)) = (me, self.lines.properties.get("peerType").cloned()) {
            let wanted = parse_role(&role.value).map_err(|why| self.lines.error(&role, why))?;
            if wanted != me.role {
                let actual = match me.role {
                    MemberRole::Participant => "a participant",
                    MemberRole::Observer => "an observer",
                };
                let message =
                    format!("server.{sid} is {actual} by its line, which counts; peerType differs");
                self.lines.warn(role.line, message);
            }
        }
        Ok(builder)
    }

    /// ZooKeeper refuses two different client addresses for one server (QuorumPeerConfig).
    fn check_client(
        &self,
        me: Option<&Member>,
        client: Option<&HostPort>,
    ) -> Result<(), ConfigError> {
        if let (Some(line), Some(own)) = (me.and_then(|me| me.client.as_ref()), client)
            && (line.port != own.port || (!own.host.is_empty() && line.host != own.host))
        {
            let property = &self.lines.properties["clientPort"];
            let problem = format!("this server's own line says {line}: expected the same, or none");
            return Err(self.lines.error(property, problem));
        }
        Ok(())
    }

    /// Names the line of what the builder refused.
    fn located(&self, error: ConfigError) -> ConfigError {
        let ConfigError::Setting { key, problem } = &error else { return error };
        let files = [Some(&self.lines), self.members.as_ref()];
        let found = files.into_iter().flatten().find_map(|lines| {
            lines.properties.get(key).map(|property| lines.error(property, problem))
        });
        let whole = || ConfigError::file(&self.lines.path, format!("{key}: {problem}"));
        found.unwrap_or_else(whole)
    }
}

fn parse_words(text: &str) -> Option<FourLetterWords> {
    if text == "*" {
        return Some(FourLetterWords::All);
    }
    let words: Vec<String> = text.split(',').map(|word| word.trim().to_owned()).collect();
    let is_word = |word: &String| word.len() == 4 && word.bytes().all(|b| b.is_ascii_lowercase());
    if words.iter().any(|word| word == "*") {
        return Some(FourLetterWords::All);
    }
    words.iter().all(is_word).then_some(FourLetterWords::Listed(words))
}

/// The version that a dynamic file's name ends in, in hexadecimal; 0 if it ends otherwise.
fn version_of(path: &Path) -> u64 {
    let suffix = path.extension().and_then(|suffix| suffix.to_str());
    suffix.and_then(|suffix| u64::from_str_radix(suffix, 16).ok()).unwrap_or(0)
}

fn read_myid(path: &Path) -> Result<ServerId, ConfigError> {
    let purpose = "it holds this server's number: the N of its server.N line, and nothing else";
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        purpose,
        source,
    })?;
    let sid = text.trim().parse().map_err(|_| {
        let problem =
            format!("{:?} is no server number: expected the N of a server.N line", text.trim());
        ConfigError::file(path, problem)
    })?;
    Ok(ServerId(sid))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const ENSEMBLE: &str = "# three servers\n\
        tickTime=2000\n\
        initLimit=10\n\
        syncLimit=5\n\
        dataDir=DIR\n\
        clientPort=2181\n\
        server.1=zoo1:2888:3888\n\
        server.2=zoo2:2888:3888\n\
        server.3=zoo3:2888:3888:observer\n";

    /// A folder with `zoo.cfg` and `myid`; DIR in the text stands for the folder.
    struct Files(TempDir);

    impl Files {
        fn new(text: &str, myid: &str) -> Self {
            let files = Self(tempfile::tempdir().unwrap());
            files.write("zoo.cfg", text);
            files.write("myid", myid);
            files
        }

        fn write(&self, name: &str, text: &str) {
            let dir = self.0.path().to_str().unwrap();
            fs::write(self.0.path().join(name), text.replace("DIR", dir)).unwrap();
        }

        fn read(&self) -> Result<Config, ConfigError> {
            Config::from_zoo_cfg(self.0.path().join("zoo.cfg"))
        }

        /// The error's text, the folder cut off.
        fn problem(&self) -> String {
            let text = self.read().unwrap_err().to_string();
            text.replace(&format!("{}/", self.0.path().display()), "")
        }
    }

    fn config(text: &str) -> Config {
        Files::new(text, "1\n").read().unwrap()
    }

    fn problem(text: &str) -> String {
        Files::new(text, "1\n").problem()
    }

    #[test]
    fn an_ensemble_is_read_with_myid() {
        let files = Files::new(ENSEMBLE, " 2\n");
        let config = files.read().unwrap();
        assert_eq!(config.my_sid, ServerId(2));
        assert_eq!(config.ticks(), Ticks::default());
        assert_eq!(config.data_dir, files.0.path());
        assert_eq!(config.client, Some(HostPort::new("", 2181)));
        assert_eq!(config.me().unwrap().addresses[0].host, "zoo2");
        assert_eq!((config.voters().count(), config.observers().count()), (2, 1));
        assert!(!config.standalone && config.durable);
        assert_eq!(config.warnings(), []);
    }

    #[test]
    fn a_file_without_members_needs_neither_limits_nor_myid() {
        let config = config("dataDir=DIR/data\nclientPort = 2181\nclientPortAddress=[::1]");
        assert!(config.standalone);
        assert_eq!(config.tick_time, Duration::from_millis(3000));
        assert_eq!(config.min_session_timeout, Duration::from_millis(6000));
        assert_eq!(config.max_session_timeout, Duration::from_millis(60_000));
        assert_eq!(config.client, Some(HostPort::new("::1", 2181)));
    }

    #[test]
    fn every_honoured_key_arrives() {
        let config = config(
            "dataDir=DIR\ndataLogDir=/log\nclientPortListenBacklog=7\nclientPort=1\n\
             maxClientCnxns=0\nminSessionTimeout=-1\nmaxSessionTimeout=90000\n\
             preAllocSize=512\ncommitLogCount=77\njute.maxbuffer=0x1fffff\n\
             4lw.commands.whitelist=ruok, mntr\nsnapCount=50\nautopurge.snapRetainCount=4\n\
             standaloneEnabled=false\ninitLimit=1\nsyncLimit=2\nelectionAlg=3\n\
             quorumListenOnAllIPs=true\nserver.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\n\
             group.1=1:2:3\nweight.3=2\nquorate.placement=compact\nquorate.idle=50us\n\
             quorate.shards=2\nquorate.durable=false\nquorate.clusterId=9\npeerType=participant",
        );
        assert_eq!(config.data_log_dir, Path::new("/log"));
        assert_eq!((config.client_backlog, config.max_client_cnxns), (7, 0));
        assert_eq!(config.min_session_timeout, Duration::from_secs(6));
        assert_eq!(config.max_session_timeout, Duration::from_secs(90));
        assert_eq!((config.segment_len, config.window_max), (512 * 1024, 77));
        assert_eq!(config.jute_maxbuffer, 0x1f_ffff);
        let words = ["ruok", "mntr"].map(str::to_owned).to_vec();
        assert_eq!(config.four_letter_words, FourLetterWords::Listed(words));
        assert_eq!((config.snap_count, config.snap_retain_count), (50, 4));
        assert!(config.quorum_listen_on_all_ips && !config.durable);
        assert_eq!(config.groups[&1].len(), 3);
        assert_eq!((config.weight(ServerId(3)), config.weight(ServerId(1))), (2, 1));
        assert_eq!(config.placement, Placement::Compact);
        assert_eq!(config.idle, Idle::SpinThenPark(Duration::from_micros(50)));
        assert_eq!((config.shards, config.cluster_id), (2, 9));
        assert_eq!(config.warnings(), []);
    }

    #[test]
    fn placements_and_ways_to_idle_are_read_from_their_names() {
        let placements = ["auto", "single", "compact", "dedicated"].map(|name| name.parse().ok());
        let (compact, dedicated) = (Placement::Compact, Placement::Dedicated);
        let expected = [Placement::Auto, Placement::Single, compact, dedicated];
        assert_eq!(placements, expected.map(Some));
        let idles = ["auto", "spin", "park", "0x10us"].map(|name| name.parse().ok());
        let sixteen = Idle::SpinThenPark(Duration::from_micros(16));
        assert_eq!(idles, [Idle::Auto, Idle::Spin, Idle::Park, sixteen].map(Some));
        let error = "fast".parse::<Placement>().unwrap_err().to_string();
        assert!(error.starts_with("quorate.placement: expected auto, "), "{error}");
        assert!("us".parse::<Idle>().is_err() && "Spin".parse::<Idle>().is_err());
    }

    #[test]
    fn a_bad_value_is_named_with_its_line() {
        for (line, expected) in [
            (
                "tickTime=soon",
                "zoo.cfg:2: tickTime=soon: expected milliseconds, e.g. tickTime=2000",
            ),
            ("tickTime=0", "zoo.cfg:2: tickTime=0: expected 1 to 3600000 milliseconds"),
            ("initLimit=", "zoo.cfg:2: initLimit=: expected a number of ticks"),
            ("clientPort=70000", "zoo.cfg:2: clientPort=70000: expected a port from 1 to 65535"),
            ("clientPortAddress=x", "zoo.cfg:2: clientPortAddress=x: expected a clientPort"),
            ("electionAlg=0", "zoo.cfg:2: electionAlg=0: expected 3"),
            ("standaloneEnabled=yes", "zoo.cfg:2: standaloneEnabled=yes: expected true or false"),
            ("minSessionTimeout=0", "zoo.cfg:2: minSessionTimeout=0: expected milliseconds"),
            (
                "maxSessionTimeout=10",
                "zoo.cfg:2: maxSessionTimeout=10: minSessionTimeout (6000 ms)",
            ),
            ("server.x=a:1:2", "zoo.cfg:2: server.x=a:1:2: expected a number after \"server.\""),
            ("server.1=a:1", "zoo.cfg:2: server.1=a:1: \"a:1\" is no member"),
            ("weight.1=2", "zoo.cfg:2: weight.1=2: there is no server.1"),
            ("group.1=a", "zoo.cfg:2: group.1=a: expected server numbers"),
            ("quorate.idle=50ms", "zoo.cfg:2: quorate.idle=50ms: expected auto, spin, park"),
            ("quorate.placement=x", "zoo.cfg:2: quorate.placement=x: expected auto, single"),
            ("quorate.shards=0", "zoo.cfg:2: quorate.shards=0: expected a number from 1"),
            ("4lw.commands.whitelist=a", "zoo.cfg:2: 4lw.commands.whitelist=a: expected *"),
            ("snapCount=1", "zoo.cfg:2: snapCount=1: expected at least 2"),
            ("a\\u00zz=1", "zoo.cfg:2: \\u00zz is no character"),
        ] {
            let text = problem(&format!("dataDir=DIR\n{line}\n"));
            assert!(text.starts_with(expected), "{line}: {text}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_with_a_guess() {
        assert_eq!(
            problem("dataDir=DIR\n\nticktime=3"),
            "zoo.cfg:3: unknown key \"ticktime\", did you mean tickTime?"
        );
        assert_eq!(problem("dataDir=DIR\nfrob=3"), "zoo.cfg:2: unknown key \"frob\"");
    }

    #[test]
    fn keys_without_effect_warn_once_each_and_in_order() {
        let config =
            config("forceSync=no\ndataDir=DIR\nadmin.serverPort=1\nadmin.enableServer=true");
        let lines: Vec<usize> = config.warnings().iter().map(|warning| warning.line).collect();
        assert_eq!(lines, [1, 3, 4]);
        assert!(config.warnings()[0].message.starts_with("forceSync has no effect here: "));
    }

    #[test]
    fn a_protection_that_is_not_there_is_refused() {
        assert!(problem("dataDir=DIR\nsslQuorum=true").starts_with("zoo.cfg:2: sslQuorum=true: "));
        assert!(problem("dataDir=DIR\nsecureClientPort=2281").contains("not available yet"));
        assert_eq!(config("dataDir=DIR\nsslQuorum=false").warnings(), []);
    }

    #[test]
    fn a_key_that_stands_twice_counts_once_with_a_warning() {
        let config = config("dataDir=DIR\ntickTime=1000\ntickTime=500");
        assert_eq!(config.tick_time, Duration::from_millis(500));
        assert_eq!(config.warnings()[0].line, 3);
        assert_eq!(
            config.warnings()[0].message,
            "tickTime stands in line 2 already; this one counts"
        );
    }

    #[test]
    fn what_an_ensemble_needs_is_asked_for() {
        let without = |line: &str| problem(&ENSEMBLE.replace(line, ""));
        assert!(without("syncLimit=5\n").starts_with("zoo.cfg: syncLimit is missing"));
        assert!(without("initLimit=10\n").starts_with("zoo.cfg: initLimit is missing"));
        assert!(without("dataDir=DIR\n").starts_with("zoo.cfg: dataDir is missing"));
    }

    #[test]
    fn myid_must_be_there_and_be_a_member() {
        let files = Files::new(ENSEMBLE, "one");
        assert!(files.problem().starts_with("myid: \"one\" is no server number"));
        files.write("myid", "4");
        assert!(files.problem().contains("server 4 is not among the members (1, 2, 3)"));
        fs::remove_file(files.0.path().join("myid")).unwrap();
        assert!(files.problem().contains("holds this server's number"), "{}", files.problem());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Config::from_zoo_cfg("/nowhere/zoo.cfg").unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/zoo.cfg: ") && error.contains("expected a zoo.cfg"));
    }

    #[test]
    fn two_members_on_one_port_are_named_with_the_line() {
        let text = ENSEMBLE.replace("zoo2:2888", "zoo1:2888");
        assert_eq!(
            problem(&text),
            "zoo.cfg:8: server.2=zoo1:2888:3888: server.1 has zoo1:2888 already"
        );
    }

    #[test]
    fn members_may_stand_in_a_dynamic_file() {
        let text =
            "dataDir=DIR\ninitLimit=1\nsyncLimit=1\ndynamicConfigFile=DIR/zoo.cfg.dynamic.1f\n";
        let files = Files::new(text, "1");
        files.write("zoo.cfg.dynamic.1f", "server.1=a:1:2;2181\nserver.2=b:1:2;2181\nversion=1f");
        let config = files.read().unwrap();
        assert_eq!((config.servers.len(), config.config_version), (2, 0x1f));
        assert_eq!(config.client, Some(HostPort::new("", 2181)));
        files.write("zoo.cfg.dynamic.1f", "server.1=a:1:2\ntickTime=3");
        assert!(files.problem().starts_with("zoo.cfg.dynamic.1f:2: tickTime=3: expected only"));
        files.write("zoo.cfg", &format!("{text}server.1=a:1:2"));
        assert!(files.problem().starts_with("zoo.cfg:5: server.1=a:1:2: members stand in"));
    }

    #[test]
    fn the_client_port_may_stand_in_one_place_or_agree() {
        let line =
            |client: &str| ENSEMBLE.replace("zoo1:2888:3888", &format!("zoo1:2888:3888;{client}"));
        assert!(Files::new(&line("2181"), "1").read().is_ok());
        assert!(
            problem(&line("2182")).starts_with("zoo.cfg:6: clientPort=2181: this server's own")
        );
    }

    #[test]
    fn a_peer_type_that_differs_from_the_line_warns() {
        let files = Files::new(&format!("{ENSEMBLE}peerType=observer\n"), "1");
        let config = files.read().unwrap();
        assert_eq!(config.warnings()[0].line, 10);
        assert!(config.warnings()[0].message.contains("server.1 is a participant"));
        files.write("myid", "3");
        assert_eq!(files.read().unwrap().warnings(), []);
    }

    #[test]
    fn too_few_snapshots_are_raised_to_the_least_that_is_safe() {
        let config = config("dataDir=DIR\nautopurge.snapRetainCount=1");
        assert_eq!(config.snap_retain_count, 3);
        assert_eq!(config.warnings().len(), 1);
    }

    #[test]
    fn a_file_of_a_megabyte_is_refused_unread() {
        let text = "#".repeat(1024 * 1024 + 1);
        assert!(problem(&text).contains("larger than 1 MiB"));
    }
}
