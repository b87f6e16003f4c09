//! Answers to administrators' four-letter words, in ZooKeeper's text, and `qsta`, our own in JSON.
//!
//! Each core has added what it knows; here it becomes text.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::fmt::Write;

use quorate_proto::Zxid;
use quorate_proto::leader::LearnerRole;

use crate::links::{AdminQuorum, AdminShard};

/// The tree core's part of an answer.
#[derive(Debug)]
pub(crate) struct AdminTree {
    pub(crate) applied: Zxid,
    pub(crate) digest: u64,
    pub(crate) clients: usize,
    pub(crate) waiting: usize,
    pub(crate) facts: BTreeMap<&'static str, u64>,
}

/// Whether a word is answered. Others are taken as a frame's length and refused as such, which is
/// what ZooKeeper does with words that it does not know.
pub(crate) const fn is_served(word: [u8; 4]) -> bool {
    matches!(&word, b"ruok" | b"srvr" | b"stat" | b"mntr" | b"isro" | b"qsta")
}

/// The answer to a word, whole.
pub(crate) fn answer(
    word: [u8; 4],
    version: &str,
    shard: &AdminShard,
    quorum: &AdminQuorum,
    tree: &AdminTree,
) -> String {
    let serving = quorum.role != "looking";
    match &word {
        b"ruok" => String::from("imok"),
        b"isro" => String::from(if serving { "rw" } else { "null" }),
        b"qsta" => status(version, shard, quorum, tree),
        _ if !serving => {
            String::from("This ZooKeeper instance is not currently serving requests\n")
        }
        b"mntr" => mntr(version, quorum, tree),
        _ => srvr(version, shard, quorum, tree),
    }
}

fn fact(tree: &AdminTree, name: &str) -> u64 {
    tree.facts.get(name).copied().unwrap_or(0)
}

fn srvr(version: &str, shard: &AdminShard, quorum: &AdminQuorum, tree: &AdminTree) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Zookeeper version: {version}");
    let _ = writeln!(text, "Connections: {}", shard.connections);
    let _ = writeln!(text, "Outstanding: {}", tree.waiting);
    let _ = writeln!(text, "Zxid: {}", tree.applied);
    let _ = writeln!(text, "Mode: {}", quorum.role);
    let _ = writeln!(text, "Node count: {}", fact(tree, "znodes"));
    text
}

fn mntr(version: &str, quorum: &AdminQuorum, tree: &AdminTree) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "zk_version\t{version}");
    let _ = writeln!(text, "zk_server_state\t{}", quorum.role);
    let _ = writeln!(text, "zk_outstanding_requests\t{}", tree.waiting);
    let _ = writeln!(text, "zk_num_alive_connections\t{}", tree.clients);
    let _ = writeln!(text, "zk_znode_count\t{}", fact(tree, "znodes"));
    let _ = writeln!(text, "zk_watch_count\t{}", fact(tree, "watches"));
    let _ = writeln!(text, "zk_ephemerals_count\t{}", fact(tree, "ephemerals"));
    if quorum.role == "leader" {
        let synced = quorum
            .learners
            .iter()
            .filter(|(_, role, _, level)| *level && *role == LearnerRole::Follower);
        let _ = writeln!(text, "zk_learners\t{}", quorum.learners.len());
        let _ = writeln!(text, "zk_synced_followers\t{}", synced.count());
    }
    text
}

fn status(version: &str, shard: &AdminShard, quorum: &AdminQuorum, tree: &AdminTree) -> String {
    let mut text = String::from("{");
    let _ = write!(text, "\"sid\":{},\"role\":\"{}\"", quorum.sid, quorum.role);
    let _ = write!(text, ",\"epoch\":{}", quorum.epoch);
    match quorum.leader {
        Some(leader) => {
            let _ = write!(text, ",\"leader\":{leader}");
        }
        None => text.push_str(",\"leader\":null"),
    }
    let _ = write!(text, ",\"zxid\":\"{}\"", tree.applied);
    let _ = write!(text, ",\"committed\":\"{}\",\"last\":\"{}\"", quorum.committed, quorum.last);
    text.push_str(",\"learners\":[");
    for (at, (sid, role, acked, level)) in quorum.learners.iter().enumerate() {
        let role = match role {
            LearnerRole::Follower => "follower",
            LearnerRole::Observer => "observer",
        };
        let lag = quorum.last.as_u64().saturating_sub(acked.as_u64());
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{{\"sid\":{sid},\"role\":\"{role}\",\"acked\":\"{acked}\"");
        // Zxids of different epochs have no distance in transactions.
        if acked.epoch() == quorum.last.epoch() && role == "follower" {
            let _ = write!(text, ",\"lag\":{lag}");
        } else {
            text.push_str(",\"lag\":null");
        }
        let _ = write!(text, ",\"synced\":{level}}}");
    }
    let _ = write!(text, "],\"sessions\":{}", fact(tree, "sessions"));
    let _ = write!(text, ",\"connections\":{}", shard.connections);
    let _ = write!(text, ",\"znodes\":{}", fact(tree, "znodes"));
    let _ = write!(text, ",\"digest\":\"{:#x}\",\"version\":\"{version}\"}}", tree.digest);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use quorate_proto::{Epoch, ServerId};

    use super::*;

    fn parts() -> (AdminShard, AdminQuorum, AdminTree) {
        let z = |counter| Zxid::new(Epoch::new(2), counter);
        let quorum = AdminQuorum {
            sid: ServerId(1),
            role: "leader",
            epoch: Epoch::new(2),
            leader: Some(ServerId(1)),
            committed: z(7),
            last: z(9),
            learners: vec![(ServerId(2), LearnerRole::Follower, z(8), true)],
        };
        let facts = BTreeMap::from([("znodes", 5), ("sessions", 1)]);
        let tree = AdminTree { applied: z(7), digest: 0xab, clients: 1, waiting: 2, facts };
        (AdminShard { connections: 3 }, quorum, tree)
    }

    #[test]
    fn qsta_tells_role_epoch_zxid_and_each_learners_lag() {
        let (shard, quorum, tree) = parts();
        assert_eq!(
            answer(*b"qsta", "v", &shard, &quorum, &tree),
            "{\"sid\":1,\"role\":\"leader\",\"epoch\":2,\"leader\":1,\"zxid\":\"0x200000007\",\
             \"committed\":\"0x200000007\",\"last\":\"0x200000009\",\"learners\":[{\"sid\":2,\
             \"role\":\"follower\",\"acked\":\"0x200000008\",\"lag\":1,\"synced\":true}],\
             \"sessions\":1,\"connections\":3,\"znodes\":5,\"digest\":\"0xab\",\"version\":\"v\"}\n"
        );
    }

    #[test]
    fn a_server_that_does_not_serve_says_so_as_zookeeper_does() {
        let (shard, mut quorum, tree) = parts();
        quorum.role = "looking";
        let text = answer(*b"srvr", "v", &shard, &quorum, &tree);
        assert_eq!(text, "This ZooKeeper instance is not currently serving requests\n");
        assert_eq!(answer(*b"ruok", "v", &shard, &quorum, &tree), "imok");
    }

    #[test]
    fn srvr_has_zookeepers_lines() {
        let (shard, quorum, tree) = parts();
        let text = answer(*b"srvr", "v", &shard, &quorum, &tree);
        assert!(text.contains("Mode: leader\n") && text.contains("Zxid: 0x200000007\n"), "{text}");
    }
}
