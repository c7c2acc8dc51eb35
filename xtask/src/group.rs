//! Control groups of memory, of either version, for processes under test.

use crate::shell::program;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Processes that were killed take a moment to be gone.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(20);

/// A group with a limit; dropping it removes it.
pub(crate) struct Group {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn limit_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }

    /// Where kills are counted.
    fn events_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.oom_control",
            Self::V2 => "memory.events",
        }
    }

    fn peak_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.max_usage_in_bytes",
            Self::V2 => "memory.peak",
        }
    }
}

impl Group {
    /// A new group below this process's own, without swap.
    pub(crate) fn new(name: &str, limit_bytes: u64) -> Result<Self> {
        let (parent, version) = own()?;
        let folder = parent.join(format!("sextant-{name}-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| {
            format!(
                "no control group can be made in {}; run it as a user who may",
                parent.display()
            )
        })?;
        let group = Self { folder, version };
        fs::write(
            group.folder.join(version.limit_file()),
            limit_bytes.to_string(),
        )
        .context("the group takes no limit of memory")?;
        // Not every kernel counts swap, and a machine without swap needs no limit of it.
        let (swap, bytes) = match version {
            Version::V1 => ("memory.memsw.limit_in_bytes", limit_bytes),
            Version::V2 => ("memory.swap.max", 0),
        };
        let _ = fs::write(group.folder.join(swap), bytes.to_string());
        Ok(group)
    }

    /// The same command, run in the group.
    pub(crate) fn command(&self, command: &Command) -> Command {
        let mut inside = program("sh", &["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        inside
            .arg(self.folder.join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Processes of the group that the kernel has killed for want of memory.
    pub(crate) fn kills(&self) -> Result<u64> {
        let path = self.folder.join(self.version.events_file());
        let text = fs::read_to_string(&path)?;
        kills_in(&text).with_context(|| format!("{} counts no kills", path.display()))
    }

    /// The most that was in use at once, file cache included; 0 where nobody says.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let path = self.folder.join(self.version.peak_file());
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let start = Instant::now();
        while let Err(error) = fs::remove_dir(&self.folder) {
            if start.elapsed() > EMPTY_TIMEOUT {
                eprintln!("{} stays: {error}", self.folder.display());
                return;
            }
            sleep(Duration::from_millis(50));
        }
    }
}

/// The value of `oom_kill` in a file of lines of a name and a number.
fn kills_in(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

/// The folder of this process's own group of memory.
fn own() -> Result<(PathBuf, Version)> {
    let text = fs::read_to_string("/proc/self/cgroup").context("there are no control groups")?;
    let place = own_in(&text);
    match place {
        Some((folder, version)) if folder.is_dir() => Ok((folder, version)),
        _ => bail!("this process is in no control group of memory under /sys/fs/cgroup"),
    }
}

fn own_in(text: &str) -> Option<(PathBuf, Version)> {
    let lines = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?, parts.next()?.trim_start_matches('/')))
    });
    let lines: Vec<(&str, &str)> = lines.collect();
    let has_memory = |controllers: &str| controllers.split(',').any(|one| one == "memory");
    let v1 = lines
        .iter()
        .find(|(controllers, _)| has_memory(controllers));
    let base = Path::new("/sys/fs/cgroup");
    if let Some((_, path)) = v1 {
        return Some((base.join("memory").join(path), Version::V1));
    }
    let (_, path) = lines
        .iter()
        .find(|(controllers, _)| controllers.is_empty())?;
    Some((base.join(path), Version::V2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_both_versions() {
        let both = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/c\n";
        let (folder, version) = own_in(both).unwrap();
        assert_eq!(folder, Path::new("/sys/fs/cgroup/memory/a/b"));
        assert!(version == Version::V1);
        let (folder, version) = own_in("0::/c/d\n").unwrap();
        assert_eq!(folder, Path::new("/sys/fs/cgroup/c/d"));
        assert!(version == Version::V2);
    }

    #[test]
    fn kills_are_counted_where_both_versions_write_them() {
        assert_eq!(
            kills_in("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            Some(3)
        );
        assert_eq!(
            kills_in("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n"),
            Some(1)
        );
        assert_eq!(kills_in(""), None);
    }
}
