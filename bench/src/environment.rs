//! What the run ran on: CPU, kernel, memory, and the disk under the data directory.
//!
//! Reads /proc and /sys; what cannot be read is left out. Judges nothing.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The machine, as far as it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Environment {
    pub(crate) cpu: String,
    /// CPUs that this process may use.
    pub(crate) cpus: usize,
    /// A guest of a hypervisor, where a parked thread wakes slowly.
    pub(crate) is_virtual: bool,
    pub(crate) governor: Option<String>,
    pub(crate) kernel: String,
    pub(crate) memory_mib: u64,
    pub(crate) disk: Option<Disk>,
}

/// The disk under the servers' data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    pub(crate) filesystem: String,
    pub(crate) device: String,
    /// `write back`: a durable write must also flush the device's cache.
    pub(crate) write_cache: Option<String>,
    /// Whether the device can write through its cache.
    pub(crate) fua: Option<bool>,
    pub(crate) rotational: Option<bool>,
}

impl Environment {
    /// Asks the machine; `data` is a folder on the disk that matters, if there is one.
    pub(crate) fn read(data: Option<&Path>) -> Self {
        let cpuinfo = text("/proc/cpuinfo");
        Self {
            cpu: cpu_model(&cpuinfo),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            is_virtual: has_flag(&cpuinfo, "hypervisor"),
            governor: setting("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory_mib(&text("/proc/meminfo")),
            disk: data.and_then(disk),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let guest = if self.is_virtual { " (virtual)" } else { "" };
        let mut line = format!(
            "{} x {}{guest}, {:.1} GiB, Linux {}",
            self.cpus,
            self.cpu,
            self.memory_mib as f64 / 1024.0,
            self.kernel
        );
        if let Some(governor) = &self.governor {
            line += &format!(", governor {governor}");
        }
        if let Some(disk) = &self.disk {
            line += &format!("; {} on {}", disk.filesystem, disk.device);
            if let Some(cache) = &disk.write_cache {
                line += &format!(", cache {cache}");
            }
            if let Some(fua) = disk.fua {
                line += if fua { ", FUA" } else { ", no FUA" };
            }
        }
        line
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn setting(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Its model on x86, its architecture elsewhere.
fn cpu_model(cpuinfo: &str) -> String {
    field(cpuinfo, "model name").unwrap_or(std::env::consts::ARCH).to_owned()
}

fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    field(cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|other| other == flag))
}

fn memory_mib(meminfo: &str) -> u64 {
    let kib = field(meminfo, "MemTotal").and_then(|value| value.split(' ').next()?.parse().ok());
    kib.unwrap_or(0_u64) / 1024
}

fn disk(data: &Path) -> Option<Disk> {
    let data = data.canonicalize().ok()?;
    let mount = mount_of(&text("/proc/self/mountinfo"), &data)?;
    let queue = Path::new("/sys/dev/block").join(&mount.number).canonicalize().ok();
    // A partition has no queue of its own.
    let queue = queue.and_then(|device| {
        let own = device.join("queue");
        if own.is_dir() { Some(own) } else { Some(device.parent()?.join("queue")) }
    });
    let of_queue = |name: &str| queue.as_ref().and_then(|queue| setting(queue.join(name)));
    Some(Disk {
        write_cache: of_queue("write_cache"),
        fua: of_queue("fua").map(|value| value == "1"),
        rotational: of_queue("rotational").map(|value| value == "1"),
        filesystem: mount.filesystem,
        device: mount.device,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// `major:minor`.
    number: String,
    filesystem: String,
    device: String,
}

/// The mount that holds `path`: the longest of those above it, of equals the last.
fn mount_of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let point = left.get(4)?.replace("\\040", " ");
        let mount = Mount {
            number: (*left.get(2)?).to_owned(),
            filesystem: right.next()?.to_owned(),
            device: right.next()?.to_owned(),
        };
        path.starts_with(&point).then_some((point.len(), mount))
    });
    mounts.max_by_key(|(len, _)| *len).map(|(_, mount)| mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        22 21 0:20 / /proc rw - proc proc rw\n\
        30 21 0:30 / /tmp rw shared:5 - tmpfs tmpfs rw,size=1g\n\
        31 30 259:1 / /tmp/my\\040data rw - xfs /dev/nvme0n1p1 rw\n";

    #[test]
    fn the_mount_with_the_longest_path_holds_a_file() {
        let device = |path: &str| mount_of(MOUNTS, Path::new(path)).unwrap().device;
        assert_eq!(device("/home/x"), "/dev/vda");
        assert_eq!(device("/tmp/x"), "tmpfs");
        assert_eq!(device("/tmp/my data/log"), "/dev/nvme0n1p1");
        assert_eq!(device("/tmpx"), "/dev/vda");
        assert_eq!(mount_of(MOUNTS, Path::new("/tmp")).unwrap().number, "0:30");
        assert_eq!(mount_of("rubbish\n\n - \n", Path::new("/tmp")), None);
    }

    #[test]
    fn cpu_and_memory_are_read_from_procs_text() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 3GHz\nflags\t\t: fpu hypervisor\n";
        assert_eq!(cpu_model(cpuinfo), "Some CPU @ 3GHz");
        assert!(has_flag(cpuinfo, "hypervisor") && !has_flag(cpuinfo, "hyper"));
        assert_eq!(memory_mib("MemTotal:       16384000 kB\nMemFree: 1 kB\n"), 16_000);
        assert_eq!(memory_mib(""), 0);
    }

    #[test]
    fn the_line_names_what_is_known_and_nothing_else() {
        let disk = Disk {
            filesystem: "ext4".to_owned(),
            device: "/dev/vda".to_owned(),
            write_cache: Some("write back".to_owned()),
            fua: Some(false),
            rotational: None,
        };
        let environment = Environment {
            cpu: "CPU".to_owned(),
            cpus: 2,
            is_virtual: true,
            kernel: "6.1".to_owned(),
            memory_mib: 2048,
            disk: Some(disk),
            governor: None,
        };
        assert_eq!(
            environment.line(),
            "2 x CPU (virtual), 2.0 GiB, Linux 6.1; ext4 on /dev/vda, cache write back, no FUA"
        );
    }
}
