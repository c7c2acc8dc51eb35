//! What this process may use of the machine: control groups, the affinity mask, and the
//! memory that is left for models.
//!
//! Of control groups every one from this process up to the root counts, versions 1 and 2
//! and both together. In a container the paths may be those of the host; then the files lie
//! at the root of the mount.

use std::path::Path;

use stdx::Bytes;

use crate::memory::Memory;
use crate::mounts::{Mount, mounts};
use crate::{CpuSet, Root};

/// What other programs keep free of a machine: a tenth, and at least this.
const MACHINE_MARGIN_BYTES_MIN: u64 = 128 << 20;
/// What the endpoint itself keeps free of a control group: a tenth, and at least this.
const GROUP_MARGIN_BYTES_MIN: u64 = 32 << 20;
const MARGIN_SHARE: u64 = 10;
/// Version 1 writes "no limit" as the highest multiple of a page in 63 bits.
const NO_LIMIT: u64 = 1 << 60;
/// Groups one above the other.
const DEPTH_MAX: usize = 64;

/// The tightest of all groups above this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub version: Option<GroupVersion>,
    /// Beyond it a process is killed.
    pub memory_max: Option<Bytes>,
    /// Beyond it a process is slowed.
    pub memory_high: Option<Bytes>,
    /// The least that any group still has. File cache does not count as used.
    pub memory_left: Option<Bytes>,
    /// Which limit of that group is the lower.
    pub memory_left_below: Option<GroupLimit>,
    pub swap_max: Option<Bytes>,
    /// Thousandths of a CPU's time.
    pub quota_milli_cpus: Option<u64>,
    pub cpuset: Option<CpuSet>,
    /// CPUs that this process may run on (`Cpus_allowed_list`).
    pub affinity: Option<CpuSet>,
}

/// A limit of a group on memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupLimit {
    Max,
    High,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupVersion {
    V1,
    V2,
    /// Version 1 for some controllers, version 2 beside it.
    Both,
}

/// A control group that limits memory: where its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFolder {
    pub folder: String,
    pub is_v2: bool,
}

impl GroupFolder {
    /// The number in one of its files; `None` where that is no limit.
    pub(crate) fn limit(&self, root: &Root, name: &str) -> Option<Bytes> {
        let number: u64 = root.number(&format!("{}/{name}", self.folder))?;
        (number < NO_LIMIT).then_some(Bytes(number))
    }
}

/// The groups of memory from this process up to the root. Blocking, some small files.
pub(crate) fn groups_of_memory(root: &Root) -> Vec<GroupFolder> {
    let hierarchies = hierarchies(root);
    let of_memory = hierarchies.iter().filter(|hierarchy| {
        let mut controllers = hierarchy.controllers.split(',');
        hierarchy.version == GroupVersion::V2 || controllers.any(|one| one == "memory")
    });
    let folders = of_memory.flat_map(|hierarchy| {
        let is_v2 = hierarchy.version == GroupVersion::V2;
        let folders = hierarchy.folders().into_iter();
        folders.map(move |folder| GroupFolder { folder, is_v2 })
    });
    folders.collect()
}

/// A group hierarchy: its files at `folder`, those above it up to `top`.
struct Hierarchy {
    version: GroupVersion,
    controllers: String,
    top: String,
    folder: String,
}

impl Limits {
    /// Reads the limits. Blocking, some small files.
    #[must_use]
    pub fn read(root: &Root) -> Self {
        let hierarchies = hierarchies(root);
        let mut limits = Self::default();
        for hierarchy in &hierarchies {
            for folder in hierarchy.folders() {
                limits.tighten(root, hierarchy, &folder);
            }
        }
        let has = |version| hierarchies.iter().any(|one| one.version == version);
        limits.version = match (has(GroupVersion::V1), has(GroupVersion::V2)) {
            (true, true) => Some(GroupVersion::Both),
            (true, false) => Some(GroupVersion::V1),
            (false, true) => Some(GroupVersion::V2),
            (false, false) => None,
        };
        let status = root.text("/proc/self/status").unwrap_or_default();
        limits.affinity = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .and_then(|list| list.trim().parse().ok())
            .filter(|cpus: &CpuSet| !cpus.is_empty());
        limits
    }

    /// Of these CPUs those that the mask and the groups allow.
    #[must_use]
    pub fn usable(&self, online: &CpuSet) -> CpuSet {
        let mut usable = online.clone();
        for limit in [&self.affinity, &self.cpuset].into_iter().flatten() {
            let both = usable.and(limit);
            if !both.is_empty() {
                usable = both;
            }
        }
        usable
    }

    /// Whole CPUs of the quota, at least one.
    #[must_use]
    pub fn quota_cpus(&self) -> Option<usize> {
        let milli = self.quota_milli_cpus?;
        Some(usize::try_from(milli / 1000).unwrap_or(usize::MAX).max(1))
    }

    fn tighten(&mut self, root: &Root, hierarchy: &Hierarchy, folder: &str) {
        let is_v2 = hierarchy.version == GroupVersion::V2;
        let group = GroupFolder {
            folder: folder.to_owned(),
            is_v2,
        };
        let bytes = |name: &str| group.limit(root, name);
        let has = |name: &str| hierarchy.controllers.split(',').any(|one| one == name);
        if is_v2 || has("memory") {
            let (max, high, current) = if is_v2 {
                ("memory.max", "memory.high", "memory.current")
            } else {
                ("memory.limit_in_bytes", "", "memory.usage_in_bytes")
            };
            let max = bytes(max);
            let high = bytes(high).filter(|_| is_v2);
            if let (Some(limit), Some(used)) = (least(max, high), bytes(current)) {
                let used = used.saturating_sub(file_cache(root, folder));
                let left = limit.saturating_sub(used);
                if self.memory_left.is_none_or(|known| left < known) {
                    self.memory_left = Some(left);
                    self.memory_left_below = Some(match max == Some(limit) {
                        true => GroupLimit::Max,
                        false => GroupLimit::High,
                    });
                }
            }
            self.memory_max = least(self.memory_max, max);
            self.memory_high = least(self.memory_high, high);
            if is_v2 {
                self.swap_max = least(self.swap_max, bytes("memory.swap.max"));
            }
        }
        if is_v2 || has("cpu") {
            self.quota_milli_cpus = least(self.quota_milli_cpus, quota(root, folder, is_v2));
        }
        if self.cpuset.is_none() && (is_v2 || has("cpuset")) {
            let names: &[&str] = if is_v2 {
                &["cpuset.cpus.effective"]
            } else {
                &["cpuset.effective_cpus", "cpuset.cpus"]
            };
            let sets = names.iter().filter_map(|name| {
                let list = root.line(&format!("{folder}/{name}"))?;
                list.parse().ok().filter(|set: &CpuSet| !set.is_empty())
            });
            self.cpuset = sets.into_iter().next();
        }
    }
}

/// Bytes that models may take together: what is available now, less a margin; `None` where
/// the system does not say.
///
/// Available is what the kernel could give without swapping, or what the control groups of
/// this process leave, whichever is less.
#[must_use]
pub fn budget(memory: &Memory, limits: &Limits) -> Option<Bytes> {
    let available = memory.available?;
    let machine = available.saturating_sub(machine_margin(available));
    let group = limits
        .memory_left
        .map(|left| left.saturating_sub(group_margin(left)));
    least(Some(machine), group)
}

/// What models leave free of a machine with so much to give.
#[must_use]
pub fn machine_margin(available: Bytes) -> Bytes {
    Bytes((available.0 / MARGIN_SHARE).max(MACHINE_MARGIN_BYTES_MIN))
}

/// What models leave free of a control group with so much left.
#[must_use]
pub fn group_margin(left: Bytes) -> Bytes {
    Bytes((left.0 / MARGIN_SHARE).max(GROUP_MARGIN_BYTES_MIN))
}

/// The lesser of those there are.
fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// File cache, which can be given back: pages used lately too, as `MemAvailable` counts them.
/// Version 1 has sums over the groups below beside a group's own figures.
fn file_cache(root: &Root, folder: &str) -> Bytes {
    let stat = root
        .text(&format!("{folder}/memory.stat"))
        .unwrap_or_default();
    let number = |name: &str| -> Option<u64> {
        let mut words = stat.lines().filter_map(|line| line.split_once(' '));
        let (_, number) = words.find(|(word, _)| *word == name)?;
        number.trim().parse().ok()
    };
    let of = |name: &str| number(&format!("total_{name}")).or_else(|| number(name));
    let lists = ["inactive_file", "active_file"].into_iter();
    Bytes(lists.filter_map(of).fold(0, u64::saturating_add))
}

fn quota(root: &Root, folder: &str, is_v2: bool) -> Option<u64> {
    let (quota, period): (u64, u64) = if is_v2 {
        let line = root.line(&format!("{folder}/cpu.max"))?;
        let (quota, period) = line.split_once(' ')?;
        (quota.parse().ok()?, period.trim().parse().ok()?)
    } else {
        // No quota is -1, which is no number of this type.
        (
            root.number(&format!("{folder}/cpu.cfs_quota_us"))?,
            root.number(&format!("{folder}/cpu.cfs_period_us"))?,
        )
    };
    quota.checked_mul(1000)?.checked_div(period)
}

impl Hierarchy {
    /// From this process's group to the top.
    fn folders(&self) -> Vec<String> {
        let own = Path::new(&self.folder);
        let upwards = own.ancestors().take_while(|one| one.starts_with(&self.top));
        upwards
            .take(DEPTH_MAX)
            .filter_map(|folder| folder.to_str().map(str::to_owned))
            .collect()
    }
}

fn hierarchies(root: &Root) -> Vec<Hierarchy> {
    let text = root.text("/proc/self/cgroup").unwrap_or_default();
    let mounts = mounts(root);
    let hierarchies = text.lines().take(DEPTH_MAX).filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let version = match (number, controllers) {
            ("0", "") => GroupVersion::V2,
            (_, named) if named.is_empty() || named.starts_with("name=") => return None,
            _ => GroupVersion::V1,
        };
        let mount = mounts.iter().find(|mount| match version {
            GroupVersion::V2 => mount.kind == "cgroup2",
            _ => mount.kind == "cgroup" && same_controllers(mount, controllers),
        });
        let (top, inner) = match (mount, version) {
            (Some(mount), _) => (mount.point.clone(), mount.root.as_str()),
            // A container may be shown some hierarchies only.
            (None, _) if mounts.iter().any(|mount| mount.kind.starts_with("cgroup")) => {
                return None;
            }
            // As nearly every system has them.
            (None, GroupVersion::V2) => ("/sys/fs/cgroup".to_owned(), "/"),
            (None, _) => (format!("/sys/fs/cgroup/{controllers}"), "/"),
        };
        // A mount may show only a part of the hierarchy.
        let path = path.strip_prefix(inner).unwrap_or(path);
        let path: Vec<&str> = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != "." && *part != "..")
            .collect();
        let folder = format!("{top}/{}", path.join("/"));
        Some(Hierarchy {
            version,
            controllers: controllers.to_owned(),
            folder: folder.trim_end_matches('/').to_owned(),
            top,
        })
    });
    hierarchies.collect()
}

fn same_controllers(mount: &Mount, controllers: &str) -> bool {
    controllers
        .split(',')
        .all(|one| mount.options.split(',').any(|option| option == one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recording;

    const GIB: u64 = 1 << 30;

    fn budget_of(files: &[(&str, &str)]) -> Option<u64> {
        let root = Root::recorded(Recording::of(files));
        budget(&Memory::read(&root), &Limits::read(&root)).map(|bytes| bytes.0)
    }

    const MEMINFO: (&str, &str) = (
        "/proc/meminfo",
        "MemTotal: 33554432 kB\nMemAvailable:   20971520 kB\n",
    );

    #[test]
    fn a_tenth_of_what_is_available_is_kept() {
        assert_eq!(budget_of(&[MEMINFO]), Some(18 * GIB));
        let little = ("/proc/meminfo", "MemAvailable: 1048576 kB\n");
        assert_eq!(budget_of(&[little]), Some(GIB - (128 << 20)));
        let none = ("/proc/meminfo", "MemAvailable: 1024 kB\n");
        assert_eq!(budget_of(&[none]), Some(0));
        assert_eq!(budget_of(&[]), None);
        assert_eq!(budget_of(&[("/proc/meminfo", "MemAvailable: many")]), None);
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let two = [
            MEMINFO,
            ("/proc/self/cgroup", "0::/box.slice/sextant.service\n"),
            (
                "/sys/fs/cgroup/box.slice/sextant.service/memory.max",
                "max\n",
            ),
            (
                "/sys/fs/cgroup/box.slice/sextant.service/memory.current",
                "5",
            ),
            ("/sys/fs/cgroup/box.slice/memory.max", "10737418240\n"),
            ("/sys/fs/cgroup/box.slice/memory.current", "2147483648\n"),
            (
                "/sys/fs/cgroup/box.slice/memory.stat",
                "anon 1\ninactive_file 536870912\nactive_file 536870912\n",
            ),
        ];
        // 10 GiB less 2 in use, of which 1 is cache; a tenth of 9 is kept.
        assert_eq!(budget_of(&two), Some(9 * GIB - 9 * GIB / 10));
        let one = [
            MEMINFO,
            (
                "/proc/self/cgroup",
                "7:cpu:/x\n4:memory:/docker/abc\n0::/\n",
            ),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "10737418240"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824"),
            (
                "/sys/fs/cgroup/memory/memory.stat",
                "inactive_file 4096\ntotal_inactive_file 1073741824\n",
            ),
        ];
        // Version 1 has sums over the groups below beside a group's own figures.
        assert_eq!(budget_of(&one), Some(9 * GIB));
    }

    #[test]
    fn what_slows_a_process_limits_it_as_well() {
        let high = [
            MEMINFO,
            ("/proc/self/cgroup", "0::/a\n"),
            ("/sys/fs/cgroup/a/memory.max", "17179869184\n"),
            ("/sys/fs/cgroup/a/memory.high", "10737418240\n"),
            ("/sys/fs/cgroup/a/memory.current", "0\n"),
        ];
        assert_eq!(budget_of(&high), Some(9 * GIB));
        let limits = |files: &[(&str, &str)]| Limits::read(&Root::recorded(Recording::of(files)));
        assert_eq!(limits(&high).memory_left_below, Some(GroupLimit::High));
        let unit = [&high[..3], &high[4..]].concat();
        assert_eq!(limits(&unit).memory_left_below, Some(GroupLimit::Max));
    }

    #[test]
    fn groups_are_found_where_they_are_mounted() {
        let mountinfo = "41 31 0:38 / /cg/both rw - cgroup cgroup rw,cpu,cpuacct\n\
                         42 31 0:39 /docker/abc /cg/set rw - cgroup cgroup rw,cpuset\n\
                         43 31 0:40 / /cg/two rw - cgroup2 cgroup2 rw\n";
        let root = Root::recorded(Recording::of(&[
            (
                "/proc/self/cgroup",
                "4:cpu,cpuacct:/a/../b\n5:cpuset:/docker/abc/in\n1:name=systemd:/\n0::/\n",
            ),
            ("/proc/self/mountinfo", mountinfo),
            ("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-5\n"),
            ("/cg/both/a/b/cpu.cfs_quota_us", "250000\n"),
            ("/cg/both/a/b/cpu.cfs_period_us", "100000\n"),
            ("/cg/both/cpu.cfs_quota_us", "-1\n"),
            ("/cg/both/cpu.cfs_period_us", "100000\n"),
            ("/cg/set/in/cpuset.cpus", "\n"),
            ("/cg/set/cpuset.cpus", "2-9\n"),
            ("/cg/two/cpu.max", "max 100000\n"),
        ]));
        let limits = Limits::read(&root);
        assert_eq!(limits.version, Some(GroupVersion::Both));
        assert_eq!(limits.quota_milli_cpus, Some(2500));
        assert_eq!(limits.quota_cpus(), Some(2));
        let online: CpuSet = "0-15".parse().unwrap();
        assert_eq!(limits.usable(&online).to_string(), "2-5");
    }
}
