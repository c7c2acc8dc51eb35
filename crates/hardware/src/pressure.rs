//! How near the memory's end is: the machine's own, and that of each control group above this
//! process.
//!
//! Two signals, since neither is enough alone. What is left tells how near the kernel is to
//! killing somebody: file cache counts as left, because it is dropped before that. Time lost
//! to waiting for memory (pressure stall information, PSI) tells when dropping that cache has
//! become the work: pages that are needed are read again and again.

use stdx::Bytes;

use crate::limits::{group_margin, groups_of_memory, machine_margin};
use crate::memory::Memory;
use crate::{GroupFolder, Root};

/// Memory that runs out for all in it at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// `the machine`, or the folder of the group.
    pub name: String,
    pub limit: Bytes,
    /// Until somebody is killed.
    pub left: Bytes,
    /// What the budget of models has left free of it, at the time the pools were found.
    pub margin: Bytes,
    /// Microseconds, since the pool was made, in which every task of it that could have run
    /// waited for memory; `None` where nobody counts them.
    pub stalled_us: Option<u64>,
    /// Processes that were killed for want of memory since the pool was made.
    pub kills: u64,
}

/// Where to look: found once, since neither groups nor their limits are moved often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pools {
    groups: Vec<GroupFolder>,
    /// By the names of the pools.
    margins: Vec<(String, Bytes)>,
}

impl Pools {
    /// The pools of this process. Blocking, some small files.
    #[must_use]
    pub fn find(root: &Root) -> Self {
        let mut pools = Self {
            groups: groups_of_memory(root),
            margins: Vec::new(),
        };
        let found = pools.read(root).into_iter();
        pools.margins = found.map(|pool| (pool.name, pool.margin)).collect();
        pools
    }

    /// What is left in each of them now; groups without a limit are left out. Blocking, some
    /// small files.
    #[must_use]
    pub fn read(&self, root: &Root) -> Vec<Pool> {
        let groups = self.groups.iter().filter_map(|group| of_group(root, group));
        let mut pools: Vec<Pool> = machine(root).into_iter().chain(groups).collect();
        for pool in &mut pools {
            let known = self.margins.iter().find(|(name, _)| *name == pool.name);
            pool.margin = known.map_or(pool.margin, |(_, margin)| *margin);
        }
        pools
    }
}

fn machine(root: &Root) -> Option<Pool> {
    let memory = Memory::read(root);
    let left = memory.available?;
    Some(Pool {
        name: "the machine".to_owned(),
        limit: memory.total?,
        left,
        margin: machine_margin(left),
        stalled_us: stalled(root, "/proc/pressure/memory"),
        kills: counter(root, "/proc/vmstat", "oom_kill").unwrap_or(0),
    })
}

fn of_group(root: &Root, group: &GroupFolder) -> Option<Pool> {
    let file = |name: &str| format!("{}/{name}", group.folder);
    let (limit, used, events) = match group.is_v2 {
        true => ("memory.max", "memory.current", "memory.events"),
        false => (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "memory.oom_control",
        ),
    };
    let limit = group.limit(root, limit)?;
    let used: u64 = root.number(&file(used))?;
    let stat = file("memory.stat");
    // Version 1 tells of the group alone, and of all below it with a prefix.
    let cached = |name: &str| {
        let all = counter(root, &stat, &format!("total_{name}"));
        all.or_else(|| counter(root, &stat, name)).unwrap_or(0)
    };
    let cache = cached("inactive_file").saturating_add(cached("active_file"));
    let used = used.saturating_sub(cache);
    let left = limit.saturating_sub(Bytes(used));
    Some(Pool {
        name: group.folder.clone(),
        limit,
        left,
        margin: group_margin(left),
        stalled_us: stalled(root, &file("memory.pressure")),
        kills: counter(root, &file(events), "oom_kill").unwrap_or(0),
    })
}

/// The total of the line `full avg10=0.00 avg60=0.00 avg300=0.00 total=12`.
fn stalled(root: &Root, path: &str) -> Option<u64> {
    let text = root.text(path)?;
    let line = text.lines().find(|line| line.starts_with("full "))?;
    let (_, total) = line.rsplit_once("total=")?;
    total.trim().parse().ok()
}

/// The number behind a name at the start of a line.
fn counter(root: &Root, path: &str, name: &str) -> Option<u64> {
    let text = root.text(path)?;
    let of = |line: &str| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    };
    text.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recording;

    const MIB: u64 = 1 << 20;

    fn read(files: &[(&str, &str)]) -> Vec<Pool> {
        let root = Root::recorded(Recording::of(files));
        Pools::find(&root).read(&root)
    }

    #[test]
    fn the_machine_is_a_pool_by_itself() {
        let pools = read(&[
            (
                "/proc/meminfo",
                "MemTotal: 8192 kB\nMemAvailable: 1024 kB\n",
            ),
            (
                "/proc/pressure/memory",
                "some avg10=1.00 avg60=0.00 avg300=0.00 total=900\n\
                 full avg10=0.50 avg60=0.00 avg300=0.00 total=400\n",
            ),
            ("/proc/vmstat", "oom_kill_total 9\noom_kill 3\n"),
        ]);
        let machine = Pool {
            name: "the machine".to_owned(),
            limit: Bytes(8 * MIB),
            left: Bytes(MIB),
            margin: Bytes(128 * MIB),
            stalled_us: Some(400),
            kills: 3,
        };
        assert_eq!(pools, [machine]);
        assert_eq!(read(&[("/proc/meminfo", "MemTotal: x kB\n")]), []);
    }

    #[test]
    fn groups_of_both_versions_count_their_cache_as_left() {
        let v2 = read(&[
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/b/memory.current", "7\n"),
            ("/sys/fs/cgroup/a/memory.max", "104857600\n"),
            ("/sys/fs/cgroup/a/memory.current", "104857600\n"),
            (
                "/sys/fs/cgroup/a/memory.stat",
                "anon 1\ninactive_file 10485760\nactive_file 20971520\n",
            ),
            (
                "/sys/fs/cgroup/a/memory.events",
                "max 4\noom 2\noom_kill 1\n",
            ),
            (
                "/sys/fs/cgroup/a/memory.pressure",
                "full avg10=0.00 avg60=0.00 avg300=0.00 total=77\n",
            ),
        ]);
        assert_eq!(v2.len(), 1);
        assert_eq!(
            (v2[0].limit, v2[0].left),
            (Bytes(100 * MIB), Bytes(30 * MIB))
        );
        assert_eq!((v2[0].stalled_us, v2[0].kills), (Some(77), 1));
        let v1 = read(&[
            ("/proc/self/cgroup", "4:memory:/x\n"),
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "104857600"),
            ("/sys/fs/cgroup/memory/x/memory.usage_in_bytes", "94371840"),
            (
                "/sys/fs/cgroup/memory/x/memory.stat",
                "inactive_file 0\ntotal_inactive_file 10485760\ntotal_active_file 0\n",
            ),
            (
                "/sys/fs/cgroup/memory/x/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
            ),
        ]);
        assert_eq!(v1.len(), 1);
        assert_eq!((v1[0].left, v1[0].kills), (Bytes(20 * MIB), 5));
        assert_eq!(v1[0].stalled_us, None);
    }

    #[test]
    fn margins_stay_as_they_were_found() {
        let at = |used: &'static str| {
            Root::recorded(Recording::of(&[
                ("/proc/self/cgroup", "0::/a\n"),
                ("/sys/fs/cgroup/a/memory.max", "1073741824\n"),
                ("/sys/fs/cgroup/a/memory.current", used),
            ]))
        };
        let pools = Pools::find(&at("0"));
        let full = pools.read(&at("1073741824"));
        assert_eq!(full[0].left, Bytes(0));
        assert_eq!(full[0].margin, Bytes((1 << 30) / 10));
    }
}
