//! How many threads suit this machine, before anything was measured.
//!
//! One per physical core among those this process may use; on parts with big and
//! little cores, the big ones only: a pass ends when its slowest thread does.

use std::collections::BTreeMap;
use std::path::Path;

/// Threads for both prefill and decode.
pub(crate) fn default_threads() -> u32 {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = count_cores(Path::new("/sys/devices/system/cpu"));
    let threads = match cores {
        0 => allowed,
        cores => cores.min(allowed),
    };
    u32::try_from(threads).unwrap_or(1).max(1)
}

/// Physical cores of the fastest class under a sysfs CPU directory; 0 if it cannot be read.
fn count_cores(root: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(root) else {
        return 0;
    };
    // The capacity of each core, under the name of its first thread.
    let mut cores: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_cpu = name
            .to_str()
            .and_then(|name| name.strip_prefix("cpu"))
            .is_some_and(|number| number.parse::<u32>().is_ok());
        if !is_cpu {
            continue;
        }
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).ok();
        let Some(siblings) = read("topology/thread_siblings_list") else {
            continue;
        };
        let capacity = read("cpu_capacity").and_then(|text| text.trim().parse().ok());
        cores.insert(siblings.trim().to_owned(), capacity.unwrap_or(0));
    }
    let fastest = cores.values().max().copied().unwrap_or(0);
    cores
        .values()
        .filter(|capacity| **capacity == fastest)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: &[(&str, Option<&str>)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (number, (siblings, capacity)) in cpus.iter().enumerate() {
            let cpu = root.path().join(format!("cpu{number}"));
            std::fs::create_dir_all(cpu.join("topology")).unwrap();
            std::fs::write(cpu.join("topology/thread_siblings_list"), siblings).unwrap();
            if let Some(capacity) = capacity {
                std::fs::write(cpu.join("cpu_capacity"), capacity).unwrap();
            }
        }
        std::fs::create_dir(root.path().join("cpufreq")).unwrap();
        root
    }

    #[test]
    fn threads_of_one_core_count_once() {
        let root = machine(&[
            ("0,2\n", None),
            ("1,3\n", None),
            ("0,2\n", None),
            ("1,3\n", None),
        ]);
        assert_eq!(count_cores(root.path()), 2);
    }

    #[test]
    fn little_cores_do_not_count() {
        let little = Some("379\n");
        let big = Some("1024\n");
        let root = machine(&[
            ("0", little),
            ("1", little),
            ("2", big),
            ("3", big),
            ("4", big),
        ]);
        assert_eq!(count_cores(root.path()), 3);
    }

    #[test]
    fn an_unreadable_machine_is_not_guessed_at() {
        assert_eq!(count_cores(Path::new("/nonexistent")), 0);
    }
}
