//! What changes all the time, read again and again at little cost: how much each core works, the
//! memory that is left, heat, and what GPUs say.
//!
//! | fact | from |
//! |---|---|
//! | share of each core, and of some processes | the difference of two looks at `/proc/stat` and `/proc/PID/stat` |
//! | memory that is left | `/proc/meminfo` |
//! | temperature | `/sys/class/thermal/thermal_zone*`; of AMD's processors `k10temp` of `/sys/class/hwmon` |
//! | clocks lowered | what a Raspberry Pi's firmware says; counters of `thermal_throttle`; a zone at its passive trip point |
//!
//! Where sensors are is found out once. GPUs are asked only when that is wanted: asking one that
//! sleeps wakes it.

use std::collections::HashMap;

use stdx::Bytes;

use crate::gpu::{self, GpuMemory};
use crate::memory::kib_of;
use crate::nvml::Kept;
use crate::sensors::{degrees, slows_at, throttling};
use crate::{Gpu, Root, cpu_set::CPUS_MAX};

/// Chips whose first temperature is the processor's where no thermal zone has it.
const PROCESSOR_CHIPS: [&str; 2] = ["k10temp", "zenpower"];
/// Counts, by package and by core, of the times that clocks were lowered because of heat.
const THROTTLE_COUNTS: [&str; 2] = [
    "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count",
    "/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
];

/// What a look found. Absent is what this machine does not tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    /// What the kernel could give without swapping.
    pub available: Option<Bytes>,
    /// Share of each core that was at work since the look before, 0 to 1; empty at the first.
    pub cores: Vec<f64>,
    /// The same of all cores together.
    pub busy_share: Option<f64>,
    /// Cores' worth that the processes took since the look before.
    pub own_cores: Option<f64>,
    /// What this program has in memory.
    pub own_resident: Option<Bytes>,
    /// The hottest place.
    pub celsius: Option<f64>,
    /// Clocks are lowered because of heat or the supply.
    pub is_throttled: Option<bool>,
    /// What of the GPUs' own memory is taken.
    pub gpu_used: Option<Bytes>,
    /// The hottest of them.
    pub gpu_celsius: Option<f64>,
    /// Share of the busiest, 0 to 1.
    pub gpu_busy_share: Option<f64>,
}

/// What a look is to look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct VitalsAsk<'a> {
    /// Processes whose work is added up.
    pub pids: &'a [u32],
    /// Whether GPUs are asked.
    pub gpus: bool,
}

/// Looks again and again, and remembers what the difference is taken to.
#[derive(Debug, Default)]
pub struct Watcher {
    before: Option<Ticks>,
    places: Option<Places>,
    throttle_counts: Option<[Option<u64>; 2]>,
    nvml: Kept,
}

/// Ticks of the system's clock since its start.
#[derive(Debug, Clone, Default)]
struct Ticks {
    /// Of all, then of each core: in all, and of these at work.
    cores: Vec<(u64, u64)>,
    processes: HashMap<u32, u64>,
}

/// Where temperatures are.
#[derive(Debug, Default)]
struct Places {
    /// The file, and where clocks are lowered.
    files: Vec<(String, Option<f64>)>,
}

impl Watcher {
    /// Looks. Blocking: a dozen small files, with GPUs some milliseconds more.
    pub fn look(&mut self, root: &Root, ask: VitalsAsk<'_>) -> Vitals {
        let mut vitals = Vitals {
            available: available(root),
            own_resident: own_resident(root),
            ..Vitals::default()
        };
        let now = Ticks::read(root, ask.pids);
        if let Some(before) = self.before.replace(now.clone()) {
            now.since(&before, &mut vitals);
        }
        let places = self.places.get_or_insert_with(|| Places::find(root));
        let (celsius, is_at_trip) = places.read(root);
        vitals.celsius = celsius;
        vitals.is_throttled = self.is_throttled(root, is_at_trip);
        if ask.gpus {
            of_gpus(&gpu::read(root, &self.nvml), &mut vitals);
        }
        vitals
    }

    /// Whoever says yes is believed; `None` where nobody says anything.
    fn is_throttled(&mut self, root: &Root, is_at_trip: Option<bool>) -> Option<bool> {
        let counts = THROTTLE_COUNTS.map(|file| root.number::<u64>(file));
        let before = self.throttle_counts.replace(counts);
        let counted = before.and_then(|before| {
            let pairs = counts.iter().zip(&before);
            let mut grown = pairs.filter_map(|(now, before)| Some((*now)? > (*before)?));
            let first = grown.next()?;
            Some(first || grown.any(|one| one))
        });
        let firmware = throttling(root).map(|told| !told.now.is_empty());
        let told = [firmware, counted, is_at_trip].into_iter().flatten();
        told.reduce(|one, other| one || other)
    }
}

impl Ticks {
    fn read(root: &Root, pids: &[u32]) -> Self {
        let text = root.text("/proc/stat").unwrap_or_default();
        let cores = text.lines().map_while(|line| {
            let mut words = line.split_ascii_whitespace();
            words.next()?.starts_with("cpu").then_some(())?;
            // The time of guests is in the first two already.
            let ticks: Vec<u64> = words.take(8).map_while(|word| word.parse().ok()).collect();
            let all = ticks.iter().sum::<u64>();
            let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
            Some((all, all.saturating_sub(idle)))
        });
        let processes = pids.iter().filter_map(|pid| {
            let text = root.text(&format!("/proc/{pid}/stat"))?;
            // The name may have spaces and brackets in it.
            let (_, rest) = text.rsplit_once(')')?;
            let mut fields = rest.split_ascii_whitespace().skip(11);
            let user: u64 = fields.next()?.parse().ok()?;
            let system: u64 = fields.next()?.parse().ok()?;
            Some((*pid, user + system))
        });
        Self {
            cores: cores.take(CPUS_MAX as usize + 1).collect(),
            processes: processes.collect(),
        }
    }

    fn since(&self, before: &Self, vitals: &mut Vitals) {
        // A core that was switched on or off moves the others.
        if self.cores.len() != before.cores.len() || self.cores.is_empty() {
            return;
        }
        let shares = self.cores.iter().zip(&before.cores).map(|(now, before)| {
            let all = now.0.saturating_sub(before.0);
            let busy = now.1.saturating_sub(before.1);
            match all {
                0 => 0.0,
                all => (busy as f64 / all as f64).min(1.0),
            }
        });
        let mut shares: Vec<_> = shares.collect();
        vitals.busy_share = Some(shares.remove(0));
        let all = self.cores[0].0.saturating_sub(before.cores[0].0);
        let own = self.processes.iter().map(|(pid, now)| {
            let before = before.processes.get(pid).copied().unwrap_or(0);
            now.saturating_sub(before)
        });
        let own = own.sum::<u64>() as f64;
        vitals.own_cores = (all > 0).then(|| {
            let n_cores = shares.len() as f64;
            (own / all as f64 * n_cores).min(n_cores)
        });
        vitals.cores = shares;
    }
}

impl Places {
    fn find(root: &Root) -> Self {
        let zones = root.numbered("/sys/class/thermal", "thermal_zone");
        let zones = zones.into_iter();
        let mut files: Vec<_> = zones
            .map(|(_, folder)| (format!("{folder}/temp"), slows_at(root, &folder)))
            .collect();
        for (_, folder) in root.numbered("/sys/class/hwmon", "hwmon") {
            let name = root.line(&format!("{folder}/name")).unwrap_or_default();
            if PROCESSOR_CHIPS.contains(&name.as_str()) {
                files.push((format!("{folder}/temp1_input"), None));
            }
        }
        Self { files }
    }

    /// The hottest, and whether one is where clocks are lowered.
    fn read(&self, root: &Root) -> (Option<f64>, Option<bool>) {
        let (mut hottest, mut is_at_trip) = (None, None);
        for (file, slows_at) in &self.files {
            let Some(celsius) = degrees(root, file) else {
                continue;
            };
            hottest = Some(hottest.map_or(celsius, |known: f64| known.max(celsius)));
            if let Some(slows_at) = slows_at {
                is_at_trip = Some(is_at_trip == Some(true) || celsius >= *slows_at);
            }
        }
        (hottest, is_at_trip)
    }
}

fn available(root: &Root) -> Option<Bytes> {
    let text = root.text("/proc/meminfo")?;
    let mut lines = text.lines();
    lines.find_map(|line| kib_of(line.strip_prefix("MemAvailable:")?))
}

fn own_resident(root: &Root) -> Option<Bytes> {
    let text = root.text("/proc/self/status")?;
    let mut lines = text.lines();
    lines.find_map(|line| kib_of(line.strip_prefix("VmRSS:")?))
}

fn of_gpus(gpus: &[Gpu], vitals: &mut Vitals) {
    let used = gpus.iter().filter_map(|gpu| match gpu.memory {
        GpuMemory::Own { used, .. } => used,
        _ => None,
    });
    vitals.gpu_used = used.reduce(|sum, one| Bytes(sum.0.saturating_add(one.0)));
    let celsius = gpus.iter().filter_map(|gpu| gpu.temperature_celsius);
    vitals.gpu_celsius = celsius.max_by(f64::total_cmp);
    let busy = gpus.iter().filter_map(|gpu| gpu.busy_percent).max();
    vitals.gpu_busy_share = busy.map(|percent| f64::from(percent.min(100)) / 100.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recording;

    fn root(files: &[(&str, &str)]) -> Root {
        Root::recorded(Recording::of(files))
    }

    fn stat(pid_ticks: u64, cores: [(u64, u64); 2]) -> [(String, String); 2] {
        let line = |name: &str, (busy, idle): (u64, u64)| {
            format!("{name} {busy} 0 0 {idle} 0 0 0 0 99 99\n")
        };
        let sum = (cores[0].0 + cores[1].0, cores[0].1 + cores[1].1);
        let text = line("cpu ", sum) + &line("cpu0", cores[0]) + &line("cpu1", cores[1]);
        let process = format!("7 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 {pid_ticks} 10 0 0 20 0");
        [
            ("/proc/stat".to_owned(), format!("{text}intr 5\n")),
            ("/proc/7/stat".to_owned(), process),
        ]
    }

    fn look(watcher: &mut Watcher, files: &[(String, String)]) -> Vitals {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect();
        let ask = VitalsAsk {
            pids: &[7, 8],
            gpus: false,
        };
        watcher.look(&root(&files), ask)
    }

    #[test]
    fn shares_are_of_the_time_between_two_looks() {
        let mut watcher = Watcher::default();
        let first = look(&mut watcher, &stat(100, [(1000, 1000), (0, 2000)]));
        assert_eq!((first.busy_share, first.cores.len()), (None, 0));
        let second = look(&mut watcher, &stat(160, [(1100, 1000), (20, 2080)]));
        assert_eq!(second.cores, [1.0, 0.2]);
        assert_eq!(second.busy_share, Some(0.6));
        assert_eq!(second.own_cores, Some(0.6));
        // Counters that stand still, and such that begin anew.
        let still = look(&mut watcher, &stat(160, [(1100, 1000), (20, 2080)]));
        assert_eq!((still.busy_share, still.own_cores), (Some(0.0), None));
        let anew = look(&mut watcher, &stat(1, [(5, 5), (5, 5)]));
        assert_eq!(anew.busy_share, Some(0.0));
    }

    #[test]
    fn what_nobody_tells_is_absent() {
        let vitals = look(&mut Watcher::default(), &[]);
        assert_eq!(vitals, Vitals::default());
    }

    #[test]
    fn heat_and_lowered_clocks_are_found_where_they_are_told() {
        let zone = |celsius: &'static str| {
            [
                ("/sys/class/thermal/thermal_zone0/type", "soc-thermal"),
                ("/sys/class/thermal/thermal_zone0/temp", celsius),
                (
                    "/sys/class/thermal/thermal_zone0/trip_point_0_type",
                    "passive",
                ),
                (
                    "/sys/class/thermal/thermal_zone0/trip_point_0_temp",
                    "85000",
                ),
                ("/sys/class/hwmon/hwmon3/name", "k10temp"),
                ("/sys/class/hwmon/hwmon3/temp1_input", "41000"),
            ]
        };
        let mut watcher = Watcher::default();
        let mut look = |celsius| watcher.look(&root(&zone(celsius)), VitalsAsk::default());
        let cool = look("40500");
        assert_eq!((cool.celsius, cool.is_throttled), (Some(41.0), Some(false)));
        let hot = look("90000");
        assert_eq!((hot.celsius, hot.is_throttled), (Some(90.0), Some(true)));
        let mut watcher = Watcher::default();
        let mut counted = |count| {
            let files = [(THROTTLE_COUNTS[0], count)];
            watcher
                .look(&root(&files), VitalsAsk::default())
                .is_throttled
        };
        assert_eq!(
            [counted("4"), counted("4"), counted("5")],
            [None, Some(false), Some(true)]
        );
    }

    #[test]
    fn this_machine_tells_of_its_memory_and_cores() {
        let (root, mut watcher) = (Root::live(), Watcher::default());
        let pids = [std::process::id()];
        let ask = VitalsAsk {
            pids: &pids,
            gpus: false,
        };
        let first = watcher.look(&root, ask);
        assert!(first.available.is_some() && first.own_resident.is_some());
        let cores = watcher.look(&root, ask).cores;
        assert!(cores.iter().all(|share| (0.0..=1.0).contains(share)));
    }
}
