//! One server: its role, its memory and its disk.

use quorate_proto::election::{Election, Vote};
use quorate_proto::leader::{Leader, LeaderPhase};
use quorate_proto::learner::Learner;
use quorate_proto::{Epoch, Instant, ServerId, ToLearner, Zxid};

use super::{Disk, z};

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per server")]
pub enum Role {
    Down,
    /// Out of a role, until the disk has finished (S14).
    Settling,
    Looking,
    Leading(Leader<String>),
    Learning(Learner<String>, Link),
}

#[derive(Debug)]
pub struct Link {
    pub leader: ServerId,
    pub retry_at: Option<Instant>,
    pub attempts: u32,
}

#[derive(Debug)]
pub struct Node {
    pub sid: ServerId,
    pub disk: Disk,
    pub election: Election,
    pub role: Role,
    /// What was received, durable or not.
    pub memory: Vec<(Zxid, String)>,
    pub committed: Zxid,
}

impl Node {
    pub fn new(sid: ServerId, election: Election) -> Self {
        Self {
            sid,
            disk: Disk::default(),
            election,
            role: Role::Down,
            memory: Vec::new(),
            committed: Zxid::ZERO,
        }
    }

    pub fn boot(&mut self, election: Election) {
        self.election = election;
        self.role = Role::Settling;
        self.disk.recover();
        // A restarted server knows to be committed what its snapshot holds, and no more.
        self.committed = self.disk.floor;
    }

    /// Memory is what the disk holds, whatever was received besides (S14, R19).
    pub fn reload(&mut self) {
        self.disk.recover();
        self.memory.clone_from(&self.disk.history);
        // A commit may have run ahead of the own disk; what is not there is not known any more.
        self.committed = self.committed.min(self.disk.last()).max(self.disk.floor);
    }

    pub fn own_vote(&self) -> Option<Vote> {
        let (peer_epoch, zxid) = (self.disk.current, self.disk.last());
        Some(Vote { leader: self.sid, zxid, peer_epoch })
    }

    /// The committed prefix as two pieces.
    pub fn snapshot(&self, at: Zxid) -> Vec<ToLearner<String>> {
        let all: Vec<String> = self
            .memory
            .iter()
            .filter(|(zxid, _)| *zxid <= at)
            .map(|(zxid, txn)| format!("{}={txn}", z(*zxid)))
            .collect();
        let (first, second) = all.split_at(all.len() / 2);
        vec![
            ToLearner::SnapChunk { bytes: first.join(" "), last: false },
            ToLearner::SnapChunk { bytes: second.join(" "), last: true },
        ]
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let role = match &self.role {
            Role::Down => return None,
            Role::Settling | Role::Looking => None,
            Role::Leading(leader) => leader.poll_timeout(),
            Role::Learning(learner, link) => {
                learner.poll_timeout().into_iter().chain(link.retry_at).min()
            }
        };
        self.election.poll_timeout().into_iter().chain(role).min()
    }

    pub fn check_invariants(&self) {
        match &self.role {
            Role::Down => return,
            Role::Settling | Role::Looking => {}
            Role::Leading(leader) => leader.check_invariants(),
            Role::Learning(learner, _) => learner.check_invariants(),
        }
        self.election.check_invariants();
        assert!(self.disk.current <= self.disk.accepted, "current beyond accepted (S10)");
    }

    pub fn describe(&self) -> String {
        let role = match &self.role {
            Role::Down => "down".to_string(),
            Role::Settling => "settling".to_string(),
            Role::Looking => "looking".to_string(),
            Role::Leading(leader) => match leader.phase() {
                LeaderPhase::Discovery => "leading, discovery".to_string(),
                LeaderPhase::Synchronization => "leading, synchronization".to_string(),
                LeaderPhase::Broadcast => format!("leading epoch {}", leader.epoch()),
            },
            Role::Learning(learner, link) => {
                format!("learning from {}, {:?}", link.leader, learner.phase()).to_lowercase()
            }
        };
        let history: Vec<String> =
            self.disk.history.iter().map(|(zxid, txn)| format!("{}={txn}", z(*zxid))).collect();
        format!(
            "{}: {role}; accepted {} current {} committed {} disk [{}]",
            self.sid,
            self.disk.accepted,
            self.disk.current,
            z(self.committed),
            history.join(" ")
        )
    }
}

/// `1/1=a 1/2=b` as transactions.
pub fn parse_chunk(text: &str) -> Vec<(Zxid, String)> {
    text.split_whitespace()
        .map(|word| {
            let (zxid, txn) = word.split_once('=').expect("zxid=txn");
            (parse_zxid(zxid), txn.to_string())
        })
        .collect()
}

/// `1/2` as a zxid.
pub fn parse_zxid(text: &str) -> Zxid {
    let (epoch, counter) = text.split_once('/').expect("epoch/counter");
    let number = |text: &str| text.parse().expect("a number");
    Zxid::new(Epoch::new(number(epoch)), number(counter))
}
