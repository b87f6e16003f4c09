//! Every key of ZooKeeper's configuration, and what becomes of it here.
//!
//! Interprets no value; `zoo_cfg` does.

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is applied.
    Honoured,
    /// It is accepted and does nothing, for this reason.
    WithoutEffect(&'static str),
    /// It asks for a protection that is not there yet: refused unless it has this value.
    RefusedUnless(&'static str),
}

use Fate::{Honoured, RefusedUnless, WithoutEffect};

const JAVA: Fate = WithoutEffect("it tunes ZooKeeper's threads and buffers");
const WIRE: Fate = WithoutEffect("the native links between quorate servers do not need it");
const ADMIN: Fate =
    WithoutEffect("there is no HTTP server; use `quorate status` and `quorate hist`");
const NETTY: Fate = WithoutEffect("clients are served by io_uring");
const ALWAYS: Fate = WithoutEffect("it is always so");
const ABSENT: Fate = WithoutEffect("this is not available yet");
const TLS: Fate = WithoutEffect("TLS is not available yet");
const SASL: Fate = WithoutEffect("SASL is not available yet");
const THROTTLE: Fate = WithoutEffect("connections are held back by not reading from them");

/// Keys with one name. Sorted by what they are about, in the order of ZooKeeper's manual.
const EXACT: &[(&str, Fate)] = &[
    // The ensemble.
    ("tickTime", Honoured),
    ("initLimit", Honoured),
    ("syncLimit", Honoured),
    ("dataDir", Honoured),
    ("dataLogDir", Honoured),
    ("peerType", Honoured),
    ("electionAlg", Honoured),
    ("quorumListenOnAllIPs", Honoured),
    ("standaloneEnabled", Honoured),
    ("dynamicConfigFile", Honoured),
    ("connectToLearnerMasterLimit", WithoutEffect("initLimit bounds connecting")),
    ("reconfigEnabled", ABSENT),
    ("syncEnabled", WithoutEffect("observers always keep a log")),
    ("observer.syncEnabled", WithoutEffect("observers always keep a log")),
    ("observerMasterPort", WithoutEffect("observers follow the leader")),
    ("oraclePath", ABSENT),
    ("leaderServes", WithoutEffect("the leader serves clients")),
    ("sslQuorum", RefusedUnless("false")),
    ("sslQuorumReloadCertFiles", TLS),
    ("portUnification", TLS),
    ("ensembleAuthName", ABSENT),
    // Clients.
    ("clientPort", Honoured),
    ("clientPortAddress", Honoured),
    ("clientPortListenBacklog", Honoured),
    ("maxClientCnxns", Honoured),
    ("minSessionTimeout", Honoured),
    ("maxSessionTimeout", Honoured),
    ("globalOutstandingLimit", WithoutEffect("back-pressure has bounds of its own")),
    ("jute.maxbuffer", Honoured),
    ("4lw.commands.whitelist", Honoured),
    ("jute.maxbuffer.extrasize", WithoutEffect("a transaction may have twice jute.maxbuffer")),
    ("maxCnxns", ABSENT),
    ("secureClientPort", RefusedUnless("")),
    ("secureClientPortAddress", RefusedUnless("")),
    ("client.portUnification", TLS),
    ("client.certReload", TLS),
    ("serverCnxnFactory", NETTY),
    ("clientTcpKeepAlive", ABSENT),
    ("localSessionsEnabled", WithoutEffect("all sessions are global, which clients do not notice")),
    ("localSessionsUpgradingEnabled", WithoutEffect("all sessions are global")),
    ("readonlymode.enabled", ABSENT),
    ("extendedTypesEnabled", ABSENT),
    ("emulate353TTLNodes", ABSENT),
    ("znode.container.checkIntervalMs", ABSENT),
    ("znode.container.maxPerMinute", ABSENT),
    ("znode.container.maxNeverUsedIntervalMs", ABSENT),
    ("enforceQuota", ABSENT),
    ("closeSessionTxn.enabled", ALWAYS),
    ("digest.enabled", ALWAYS),
    ("largeRequestThreshold", THROTTLE),
    ("largeRequestMaxBytes", THROTTLE),
    ("request_stale_connection_check", THROTTLE),
    ("request_stale_latency_check", THROTTLE),
    ("throttled_op_wait_time", THROTTLE),
    ("maxResponseCacheSize", JAVA),
    ("maxGetChildrenResponseCacheSize", JAVA),
    ("intBufferStartingSizeBytes", JAVA),
    ("watchManagerName", JAVA),
    ("watcherCleanThreshold", JAVA),
    ("watcherCleanIntervalInSeconds", JAVA),
    ("watcherCleanThreadsNum", JAVA),
    ("maxInProcessingDeadWatchers", JAVA),
    ("bitHashCacheSize", JAVA),
    // Who may do what.
    ("skipACL", WithoutEffect("ACLs are always checked")),
    ("superUser", ABSENT),
    ("enableEagerACLCheck", ABSENT),
    ("enforce.auth.enabled", RefusedUnless("false")),
    ("enforce.auth.schemes", ABSENT),
    ("sessionRequireClientSASLAuth", RefusedUnless("false")),
    ("allowSaslFailedClients", SASL),
    ("requireClientAuthScheme", SASL),
    ("sasl.serverconfig", SASL),
    ("security.auth_to_local", SASL),
    ("fips-mode", TLS),
    // Log and snapshots.
    ("snapCount", Honoured),
    ("autopurge.snapRetainCount", Honoured),
    ("autopurge.purgeInterval", WithoutEffect("old files are purged after every snapshot")),
    ("commitLogCount", Honoured),
    ("snapshotSizeFactor", WithoutEffect("the log itself serves learners that come back")),
    ("forceSnapshotSync", ABSENT),
    ("snapSizeLimitInKb", WithoutEffect("snapCount decides when a snapshot is taken")),
    ("txnLogSizeLimitInKb", WithoutEffect("segments have a fixed size")),
    ("preAllocSize", Honoured),
    ("forceSync", WithoutEffect("writes are always synced; see quorate.durable")),
    ("fsync.warningthresholdms", WithoutEffect("the stage log_device shows it")),
    ("maxBatchSize", WithoutEffect("a batch is what gathers while one write is in flight")),
    ("flushDelay", WithoutEffect("a batch is what gathers while one write is in flight")),
    (
        "maxWriteQueuePollTime",
        WithoutEffect("a batch is what gathers while one write is in flight"),
    ),
    ("serializeLastProcessedZxid.enabled", ALWAYS),
    ("snapshot.compression.method", ABSENT),
    ("snapshot.trust.empty", WithoutEffect("a log without its snapshot is never trusted")),
    ("datadir.autocreate", ALWAYS),
    ("db.autocreate", WithoutEffect("an empty server does not vote until it knows the others")),
    // Links between servers.
    ("leader.maxTimeToWaitForEpoch", WIRE),
    ("leader.maxConcurrentSnapSyncs", WIRE),
    ("leader.maxConcurrentDiffSyncs", WIRE),
    ("leader.ackLoggingFrequency", WIRE),
    ("leader.closeSocketAsync", WIRE),
    ("leader.nodelay", ALWAYS),
    ("follower.nodelay", ALWAYS),
    ("learner.closeSocketAsync", WIRE),
    ("learner.asyncSending", WIRE),
    ("leaderConnectDelayDuringRetryMs", WIRE),
    ("observer.reconnectDelayMs", WIRE),
    ("observer.election.DelayMs", WIRE),
    ("observerMaster.sizeLimit", WIRE),
    ("cnxTimeout", WIRE),
    ("quorumCnxnTimeoutMs", WIRE),
    ("tcpKeepAlive", WIRE),
    ("electionPortBindRetry", WIRE),
    ("quorum.cnxn.threads.size", JAVA),
    ("quorum.auth.enableSasl", RefusedUnless("false")),
    ("quorum.auth.serverRequireSasl", RefusedUnless("false")),
    ("quorum.auth.learnerRequireSasl", RefusedUnless("false")),
    ("messageTracker.Enabled", WIRE),
    ("messageTracker.BufferSize", WIRE),
    // Our own.
    ("quorate.placement", Honoured),
    ("quorate.idle", Honoured),
    ("quorate.shards", Honoured),
    ("quorate.durable", Honoured),
    ("quorate.clusterId", Honoured),
];

/// Families of keys, by their beginning.
const PREFIXES: &[(&str, Fate)] = &[
    ("server.", Honoured),
    ("group.", Honoured),
    ("weight.", Honoured),
    ("admin.", ADMIN),
    ("metricsProvider.", ADMIN),
    ("audit.", ABSENT),
    ("authProvider.", ABSENT),
    ("DigestAuthenticationProvider.", ABSENT),
    ("IPAuthenticationProvider.", ABSENT),
    ("X509AuthenticationProvider.", TLS),
    ("SASLAuthenticationProvider.", SASL),
    ("ssl.", TLS),
    ("superUser.", ABSENT),
    ("kerberos.", SASL),
    ("quorum.auth.", SASL),
    ("multiAddress.", WIRE),
    ("fastleader.", WIRE),
    ("netty.", NETTY),
    ("nio.", NETTY),
    ("commitProcessor.", JAVA),
    ("pathStats.", JAVA),
    ("request_throttle", THROTTLE),
    ("connection_throttle_", THROTTLE),
];

/// What becomes of a key; `None` if ZooKeeper has no such key either.
pub(super) fn fate(key: &str) -> Option<Fate> {
    let exact = EXACT.iter().find(|(name, _)| *name == key);
    let family =
        || PREFIXES.iter().find(|(prefix, _)| key.len() > prefix.len() && key.starts_with(prefix));
    exact.or_else(family).map(|&(_, fate)| fate)
}

/// The known key that is most like a mistyped one, if any is like it at all.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase();
    let key = key.strip_prefix("zookeeper.").unwrap_or(&key);
    let distance = |name: &str| edit_distance(key, &name.to_ascii_lowercase());
    let (name, edits) =
        EXACT.iter().map(|&(name, _)| (name, distance(name))).min_by_key(|&(_, edits)| edits)?;
    (edits <= 2 && edits * 3 <= key.len()).then_some(name)
}

/// Insertions, deletions and replacements that make one text of the other.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_stands_twice() {
        for (at, (name, _)) in EXACT.iter().enumerate() {
            assert!(!EXACT[..at].iter().any(|(other, _)| other == name), "{name}");
        }
    }

    #[test]
    fn keys_and_families_are_found_and_others_are_not() {
        assert_eq!(fate("tickTime"), Some(Honoured));
        assert_eq!(fate("server.7"), Some(Honoured));
        assert_eq!(fate("server."), None);
        assert_eq!(fate("ticktime"), None);
        assert!(matches!(fate("metricsProvider.httpPort"), Some(WithoutEffect(_))));
        assert!(matches!(fate("sslQuorum"), Some(RefusedUnless("false"))));
        assert!(matches!(fate("ssl.quorum.keyStore.location"), Some(WithoutEffect(_))));
        assert_eq!(fate("quorate.placment"), None);
    }

    #[test]
    fn a_mistyped_key_finds_its_neighbour_and_nonsense_finds_none() {
        assert_eq!(nearest("ticktime"), Some("tickTime"));
        assert_eq!(nearest("tikTime"), Some("tickTime"));
        assert_eq!(nearest("zookeeper.snapCount"), Some("snapCount"));
        assert_eq!(nearest("quorate.placment"), Some("quorate.placement"));
        assert_eq!(nearest("frobnicate"), None);
    }

    #[test]
    fn edit_distance_counts_single_changes() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }
}
