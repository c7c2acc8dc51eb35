//! What the machine is and how busy it was.

use crate::server::Server;
use crate::shell::{self, program, sextant};
use anyhow::Result;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::thread::{available_parallelism, sleep};
use std::time::Duration;

/// Ticks of `/proc/PID/stat` in a second; fixed at 100 in Linux's user interface.
const TICKS_PER_S: f64 = 100.0;

pub(crate) fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, name)| name.trim());
    let cores = available_parallelism().map_or(0, usize::from);
    format!("{name}, {cores} cores to use")
}

/// Ticks of all CPUs since the start of the machine.
pub(crate) struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let ticks = line.split_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = ticks.filter_map(|field| field.parse().ok()).collect();
        Self {
            all: ticks.iter().sum(),
            stolen: ticks.get(7).copied().unwrap_or(0),
        }
    }

    /// What the host of a virtual machine took meanwhile.
    pub(crate) fn stolen_percent_since(&self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        100.0 * self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// The last table of a page: what it was measured on, and with which program.
pub(crate) fn facts() -> Result<String> {
    let version = shell::output(&mut program(sextant(), &["--version"]))?;
    Ok(format!(
        "\n| fact | value |\n|---|---|\n| CPU | {} |\n| program | {} |\n",
        cpu(),
        version.trim()
    ))
}

pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The share of one core that the servers use while nobody asks them anything.
pub(super) fn idle_cpu(servers: &[&Server]) -> String {
    let before: Vec<u64> = servers.iter().map(|server| ticks(server.pid())).collect();
    let span = Duration::from_secs(2);
    sleep(span);
    let shares: Vec<String> = servers
        .iter()
        .zip(before)
        .map(|(server, before)| {
            let used = ticks(server.pid()).saturating_sub(before) as f64 / TICKS_PER_S;
            format!("{} {:.1} %", server.name, 100.0 * used / span.as_secs_f64())
        })
        .collect();
    shares.join(", ")
}

/// CPU time of a process and all its descendants.
fn ticks(pid: u32) -> u64 {
    family(pid).iter().map(|(_, ticks)| ticks).sum()
}

/// The same in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    ticks(pid) as f64 / TICKS_PER_S
}

/// Resident memory of a process and all its descendants; what they share counts for each.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let resident = |id: u32| {
        let text = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let family = family(pid);
    family
        .iter()
        .filter_map(|(id, _)| resident(*id))
        .sum::<u64>()
        * 1024
}

/// A process and all its descendants, each with its CPU time in ticks.
pub(crate) fn family(pid: u32) -> Vec<(u32, u64)> {
    let mut parents: HashMap<u32, (u32, u64)> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(facts) = parent_and_ticks(&stat) {
            parents.insert(id, facts);
        }
    }
    let belongs = |mut id: u32| loop {
        if id == pid {
            return true;
        }
        match parents.get(&id) {
            Some((parent, _)) => id = *parent,
            None => return false,
        }
    };
    parents
        .iter()
        .filter(|(id, _)| belongs(**id))
        .map(|(id, (_, ticks))| (*id, *ticks))
        .collect()
}

/// Fields 4 (parent), 14 and 15 (user and system time) of `/proc/PID/stat`. The
/// name in field 2 may hold spaces, so counting starts behind its parenthesis.
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some((fields.get(1)?.parse().ok()?, user + system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_name_with_spaces() {
        let stat = "42 (a ) b) S 7 1 1 0 -1 0 1 2 3 4 30 12 0 0 20 0 1 0";
        assert_eq!(parent_and_ticks(stat), Some((7, 42)));
    }
}
