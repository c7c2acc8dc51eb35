//! How much memory models may take on this machine.

use std::fs;
use std::path::Path;

/// What other programs and the endpoint itself keep free: a tenth, and at least this.
const MARGIN_BYTES_MIN: u64 = 512 << 20;
const MARGIN_SHARE: u64 = 10;

/// Bytes that models may take together: what is available now, less a margin; `None` where
/// the system does not say. Blocking, some small files.
///
/// Available is what the kernel could give without swapping, or what the control group of
/// this process leaves, whichever is less.
#[must_use]
pub fn budget_bytes() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    budget(read)
}

fn budget(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let available = mem_available(&read(Path::new("/proc/meminfo"))?)?;
    let group = read(Path::new("/proc/self/cgroup")).and_then(|text| group_left(&text, &read));
    let available = group.map_or(available, |left| left.min(available));
    let margin = (available / MARGIN_SHARE).max(MARGIN_BYTES_MIN);
    Some(available.saturating_sub(margin))
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least that any group above this process still has.
fn group_left(groups: &str, read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let lefts = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        // Version 2 has one hierarchy, version 1 one for memory. In a container the path
        // may be that of the host, and its files lie at the root of the mount.
        let (root, files) = match (hierarchy, controllers) {
            ("0", "") => ("/sys/fs/cgroup", ["memory.max", "memory.current"]),
            (_, list) if list.split(',').any(|one| one == "memory") => (
                "/sys/fs/cgroup/memory",
                ["memory.limit_in_bytes", "memory.usage_in_bytes"],
            ),
            _ => return None,
        };
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let upwards = own.ancestors().take_while(|one| one.starts_with(root));
        upwards.filter_map(|dir| left_in(dir, files, read)).min()
    });
    lefts.min()
}

/// What one group has left; `None` without a limit. Its file cache can be given back.
fn left_in(
    dir: &Path,
    [max, current]: [&str; 2],
    read: &impl Fn(&Path) -> Option<String>,
) -> Option<u64> {
    let number = |name: &str| read(&dir.join(name))?.trim().parse::<u64>().ok();
    let cache = || {
        let stat = read(&dir.join("memory.stat"))?;
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix("inactive_file "))?;
        line.trim().parse::<u64>().ok()
    };
    let used = number(current)?.saturating_sub(cache().unwrap_or(0));
    Some(number(max)?.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn budget_of(files: &[(&str, &str)]) -> Option<u64> {
        budget(|path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    const MEMINFO: (&str, &str) = (
        "/proc/meminfo",
        "MemTotal: 33554432 kB\nMemAvailable:   20971520 kB\n",
    );

    #[test]
    fn a_tenth_of_what_is_available_is_kept() {
        assert_eq!(budget_of(&[MEMINFO]), Some(18 * GIB));
        let little = ("/proc/meminfo", "MemAvailable: 1048576 kB\n");
        assert_eq!(budget_of(&[little]), Some(GIB / 2));
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
                "anon 1\ninactive_file 1073741824\nactive_file 7\n",
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
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "0"),
        ];
        assert_eq!(budget_of(&one), Some(9 * GIB));
    }
}
