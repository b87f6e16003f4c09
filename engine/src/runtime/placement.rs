//! `Placement` and `Plan`: which roles share a thread, and which CPU each thread gets.
//!
//! Starts no thread and knows the roles by name only. Never plans a CPU outside the affinity mask.

use std::fmt;

use super::idle::Idle;
use super::topology::Topology;

/// How roles are spread over threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Everything on one thread: for one CPU, and for many servers in one process.
    Single,
    /// Two threads: the shard with the log, and the quorum with the tree. For two or three CPUs.
    Compact,
    /// Quorum, tree and log apart as far as there are CPUs, every other CPU a shard.
    /// The CPUs are taken to be ours alone, so if there is one for each thread, threads look for
    /// work for 50 us before they sleep.
    Dedicated,
}

impl Placement {
    /// What suits the CPUs of the affinity mask.
    pub fn default_for(topology: &Topology) -> Self {
        match topology.cpus().len() {
            0 | 1 => Self::Single,
            2 | 3 => Self::Compact,
            4.. => Self::Dedicated,
        }
    }
}

/// A core of the server, or the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The shard core of this number and its sockets.
    Shard(u16),
    /// The quorum core.
    Quorum,
    /// The tree core.
    Tree,
    /// The log core and the disk.
    Log,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(number) => write!(f, "shard-{number}"),
            Self::Quorum => f.write_str("quorum"),
            Self::Tree => f.write_str("tree"),
            Self::Log => f.write_str("log"),
        }
    }
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadPlan {
    /// What runs on it, in turn order.
    pub roles: Vec<Role>,
    /// The CPU it is bound to, if any.
    pub cpu: Option<usize>,
    /// What it does without work.
    pub idle: Idle,
}

impl ThreadPlan {
    /// Whether it has sockets, and so runs as a shard thread.
    pub fn is_shard(&self) -> bool {
        self.roles.iter().any(|role| matches!(role, Role::Shard(_)))
    }

    /// A name within the kernel's 15 bytes for thread names.
    pub fn name(&self) -> String {
        let first = self.roles.first().map_or_else(|| "none".into(), Role::to_string);
        let more = if self.roles.len() > 1 { "+" } else { "" };
        format!("q-{first}{more}")
    }
}

/// All threads of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The threads; each role is on exactly one.
    pub threads: Vec<ThreadPlan>,
}

/// What the configuration leaves open or fixes.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// How roles are spread; `None` for what suits the CPUs.
    pub placement: Option<Placement>,
    /// How many shards under [`Placement::Dedicated`]; `None` for the CPUs left. At least one.
    pub shards: Option<u16>,
    /// Whether threads are bound to CPUs. Without it the scheduler moves them, which is better
    /// where several servers share a machine.
    pub pin: bool,
    /// What idle threads do; `None` for what suits the number of threads and CPUs.
    pub idle: Option<Idle>,
}

impl Plan {
    /// The threads for these CPUs.
    pub fn new(options: &PlanOptions, topology: &Topology) -> Self {
        let placement = options.placement.unwrap_or_else(|| Placement::default_for(topology));
        let cpus = topology.by_preference();
        let groups = match placement {
            Placement::Single => {
                vec![vec![Role::Shard(0), Role::Quorum, Role::Tree, Role::Log]]
            }
            Placement::Compact => {
                vec![vec![Role::Quorum, Role::Tree], vec![Role::Shard(0), Role::Log]]
            }
            Placement::Dedicated => dedicated(cpus.len(), options.shards),
        };
        let idle = options.idle.unwrap_or_else(|| match placement {
            // Whoever dedicates CPUs has nothing else to run on them.
            Placement::Dedicated if groups.len() <= cpus.len() => Idle::ADAPTIVE,
            Placement::Single | Placement::Compact | Placement::Dedicated => {
                Idle::default_for(groups.len(), cpus.len())
            }
        });
        // With more threads than CPUs a binding would only keep the scheduler from helping.
        let pins = options.pin && groups.len() <= cpus.len();
        let thread = |(index, roles)| ThreadPlan {
            roles,
            cpu: if pins { cpus.get(index).copied() } else { None },
            idle,
        };
        Self { threads: groups.into_iter().enumerate().map(thread).collect() }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        let roles = self.threads.iter().flat_map(|thread| &thread.roles);
        roles.filter(|role| matches!(role, Role::Shard(_))).count()
    }
}

/// With few CPUs the tree stays with the quorum: what it does between two batches is short, and a
/// second shard is worth more.
fn dedicated(cpus: usize, shards: Option<u16>) -> Vec<Vec<Role>> {
    let mut groups = match cpus {
        0..6 => vec![vec![Role::Quorum, Role::Tree], vec![Role::Log]],
        6.. => vec![vec![Role::Quorum], vec![Role::Tree], vec![Role::Log]],
    };
    let left = cpus.saturating_sub(groups.len());
    let shards = shards.unwrap_or_else(|| u16::try_from(left).unwrap_or(u16::MAX)).max(1);
    groups.extend((0..shards).map(|number| vec![Role::Shard(number)]));
    groups
}

#[cfg(test)]
mod tests {
    use super::super::topology::Cpu;
    use super::*;

    fn cpus(count: usize) -> Topology {
        Topology::new((0..count).map(|id| Cpu { id, core: id }).collect())
    }

    fn pinned() -> PlanOptions {
        PlanOptions { pin: true, ..PlanOptions::default() }
    }

    #[test]
    fn every_role_is_on_exactly_one_thread_and_no_cpu_is_outside_the_mask() {
        for count in 0..=64 {
            for placement in [Placement::Single, Placement::Compact, Placement::Dedicated] {
                let topology = cpus(count);
                let options = PlanOptions { placement: Some(placement), ..pinned() };
                let plan = Plan::new(&options, &topology);
                let roles: Vec<_> = plan.threads.iter().flat_map(|t| t.roles.clone()).collect();
                let count_of = |role| roles.iter().filter(|other| **other == role).count();
                for role in [Role::Quorum, Role::Tree, Role::Log, Role::Shard(0)] {
                    assert_eq!(count_of(role), 1, "{placement:?} on {count}");
                }
                assert_eq!(roles.len(), 3 + plan.shards());
                let mut used: Vec<_> = plan.threads.iter().filter_map(|t| t.cpu).collect();
                assert!(used.iter().all(|cpu| *cpu < count));
                used.dedup();
                assert!(used.is_empty() || used.len() == plan.threads.len());
                assert!(plan.threads.iter().all(|thread| thread.name().len() <= 15));
            }
        }
    }

    #[test]
    fn the_number_of_cpus_decides_the_placement() {
        let threads = |count| Plan::new(&pinned(), &cpus(count)).threads.len();
        assert_eq!([threads(1), threads(2), threads(3), threads(4), threads(8)], [1, 2, 2, 4, 8]);
        assert_eq!(Plan::new(&pinned(), &cpus(4)).shards(), 2);
        assert_eq!(Plan::new(&pinned(), &cpus(8)).shards(), 5);
    }

    #[test]
    fn threads_are_bound_if_there_are_cpus_and_spin_if_one_is_left() {
        let options = PlanOptions { placement: Some(Placement::Compact), ..pinned() };
        let plan = Plan::new(&options, &cpus(1));
        assert!(plan.threads.iter().all(|t| t.cpu.is_none() && t.idle == Idle::Park));
        let plan = Plan::new(&options, &cpus(2));
        assert!(plan.threads.iter().all(|t| t.cpu.is_some() && t.idle == Idle::Park));
        let dedicated = Plan::new(&pinned(), &cpus(4));
        assert!(dedicated.threads.iter().all(|t| t.cpu.is_some() && t.idle == Idle::ADAPTIVE));
        let plan = Plan::new(&options, &cpus(3));
        assert!(plan.threads.iter().all(|t| t.cpu.is_some() && t.idle == Idle::ADAPTIVE));
    }
}
