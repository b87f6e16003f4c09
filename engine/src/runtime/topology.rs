//! `Topology`: the CPUs this process may use, and which of them share a core.
//!
//! Reads the affinity mask and sysfs once at start; decides nothing.

use std::fs;
use std::io;

use super::uring::sys;

/// One logical CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu {
    /// The kernel's number.
    pub id: usize,
    /// Names the physical core: CPUs with the same value are hardware threads of one core.
    pub core: usize,
}

/// The CPUs of the affinity mask that the process was started with, which also is what its
/// cpuset allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    cpus: Vec<Cpu>,
}

impl Topology {
    /// What the system says.
    ///
    /// # Errors
    /// When the affinity mask cannot be read.
    pub fn detect() -> io::Result<Self> {
        let cpu = |id| Cpu { id, core: first_sibling(id).unwrap_or(id) };
        Ok(Self::new(sys::affinity()?.into_iter().map(cpu).collect()))
    }

    /// A topology of these CPUs.
    pub fn new(mut cpus: Vec<Cpu>) -> Self {
        cpus.sort_unstable();
        cpus.dedup();
        Self { cpus }
    }

    /// All CPUs, ascending.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// The CPUs in the order in which threads should take them: first one of each core, then the
    /// cores' other hardware threads.
    pub fn by_preference(&self) -> Vec<usize> {
        let is_first =
            |cpu: &Cpu| !self.cpus.iter().any(|other| other.core == cpu.core && other < cpu);
        let (first, second): (Vec<Cpu>, Vec<Cpu>) = self.cpus.iter().partition(|cpu| is_first(cpu));
        first.into_iter().chain(second).map(|cpu| cpu.id).collect()
    }
}

/// The lowest CPU on the same physical core; it serves as the core's name.
fn first_sibling(id: usize) -> Option<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{id}/topology/thread_siblings_list");
    first_number(&fs::read_to_string(path).ok()?)
}

/// The first number of a list as the kernel writes it: `0,4` or `0-1`.
fn first_number(list: &str) -> Option<usize> {
    list.trim().split([',', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topology_is_the_affinity_mask() {
        let topology = Topology::detect().unwrap();
        let ids: Vec<_> = topology.cpus().iter().map(|cpu| cpu.id).collect();
        assert_eq!(ids, sys::affinity().unwrap());
        let mut preferred = topology.by_preference();
        preferred.sort_unstable();
        assert_eq!(preferred, ids);
    }

    #[test]
    fn siblings_come_after_one_cpu_of_each_core() {
        let cpu = |id, core| Cpu { id, core };
        let topology = Topology::new(vec![cpu(0, 0), cpu(1, 0), cpu(2, 2), cpu(3, 2), cpu(9, 9)]);
        assert_eq!(topology.by_preference(), [0, 2, 9, 1, 3]);
    }

    #[test]
    fn sibling_lists_are_read_in_both_forms() {
        assert_eq!(first_number("0,4\n"), Some(0));
        assert_eq!(first_number("6-7\n"), Some(6));
        assert_eq!(first_number("\n"), None);
    }
}
