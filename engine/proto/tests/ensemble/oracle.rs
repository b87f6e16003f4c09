//! What must hold over a whole run, checked from the outside: from what servers announce and from
//! what their disks hold, never from what they say of themselves.

use std::collections::BTreeMap;

use quorate_proto::quorum::Membership;
use quorate_proto::{Epoch, ProtocolError, ServerId, VoterSet, Zxid};

use super::Disk;

pub struct Oracle {
    membership: Membership,
    leaders: BTreeMap<Epoch, ServerId>,
    /// The one sequence that everybody delivers a prefix of.
    pub committed: Vec<(Zxid, String)>,
    /// What was committed anywhere when a sync was asked for.
    syncs: BTreeMap<(ServerId, u64), Zxid>,
    pub protocol_errors: Vec<String>,
}

impl Oracle {
    pub fn new(membership: Membership) -> Self {
        Self {
            membership,
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            syncs: BTreeMap::new(),
            protocol_errors: Vec::new(),
        }
    }

    pub fn last_committed(&self) -> Zxid {
        self.committed.last().map_or(Zxid::ZERO, |(zxid, _)| *zxid)
    }

    /// S7: one leader an epoch.
    pub fn established(&mut self, sid: ServerId, epoch: Epoch) {
        let other = self.leaders.insert(epoch, sid);
        assert!(other.is_none(), "epoch {epoch} has two leaders: {other:?} and {sid}");
    }

    /// S2: deliveries are prefixes of one sequence; S8: a quorum of disks holds what a leader
    /// commits.
    pub fn committed(
        &mut self,
        sid: ServerId,
        memory: &[(Zxid, String)],
        through: Zxid,
        by_leader: bool,
        disks: &[(ServerId, &Disk)],
    ) {
        let delivered = memory.iter().filter(|(zxid, _)| *zxid <= through);
        let mut count = 0;
        for (at, txn) in delivered.enumerate() {
            count = at + 1;
            match self.committed.get(at) {
                Some(agreed) => assert_eq!(agreed, txn, "server {sid} delivers another history"),
                None => {
                    assert!(by_leader, "server {sid} delivers {txn:?}, which no leader committed");
                    self.committed.push(txn.clone());
                }
            }
        }
        let reached = memory[..count].last().map_or(Zxid::ZERO, |(zxid, _)| *zxid);
        assert!(
            reached == through || through.counter() == 0,
            "server {sid} commits {through}, but holds only {reached}"
        );
        if by_leader {
            self.check_disks(disks.iter().copied());
        }
    }

    /// S9: what is committed is on the disks of a quorum, for ever.
    pub fn check_disks<'a>(&self, disks: impl Iterator<Item = (ServerId, &'a Disk)>) {
        let holders: VoterSet = disks
            .filter(|(_, disk)| disk.history.len() >= self.committed.len())
            .filter(|(_, disk)| {
                disk.history.get(self.committed.len().wrapping_sub(1)) == self.committed.last()
            })
            .filter_map(|(sid, _)| self.membership.voter_index(sid))
            .collect();
        assert!(
            self.committed.is_empty() || self.membership.verifier().contains_quorum(holders),
            "{:?} is committed, and only {holders:?} hold it",
            self.committed.last()
        );
    }

    pub fn sync_asked(&mut self, sid: ServerId, token: u64) {
        self.syncs.insert((sid, token), self.last_committed());
    }

    /// C5: a confirmed sync has seen everything that was committed when it was asked for.
    pub fn sync_confirmed(&mut self, sid: ServerId, token: u64, committed: Zxid) {
        let before = self.syncs.remove(&(sid, token)).expect("a sync that nobody asked for");
        assert!(committed >= before, "sync {token} at {sid}: {committed} is older than {before}");
    }

    pub fn protocol_error(&mut self, sid: ServerId, error: &ProtocolError) {
        self.protocol_errors.push(format!("server {sid}: {error}"));
    }
}
