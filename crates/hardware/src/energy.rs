//! Energy that a machine has used, from what counts or measures it.
//!
//! | what | from |
//! |---|---|
//! | processors, and the memory at them | `/sys/class/powercap`: `intel-rapl:N` called `package-*`, and `intel-rapl:N:M` called `dram`; AMD's have the same names |
//! | GPUs of NVIDIA | NVML, from Volta on |
//! | boards, where nothing of that is there | the power meters of [`Sensors`], many times a second |
//!
//! A counter counts for all that runs on the machine, idle parts included, so what a program has
//! used is at most this.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::nvml::LIBRARY;
use crate::sensors::PowerMeter;
use crate::{Root, Sensors};

const POWERCAP: &str = "/sys/class/powercap";
/// The control type; `intel-rapl-mmio` counts the same packages once more.
const RAPL: &str = "intel-rapl";
/// Between two looks at power meters.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const MICRO: f64 = 1e6;

/// What counters said at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    counters: Vec<Counter>,
}

#[derive(Debug, Clone, PartialEq)]
struct Counter {
    name: String,
    microjoules: u64,
    /// Behind this it begins again at 0; `None`: it never does.
    max_microjoules: Option<u64>,
}

impl Reading {
    /// What the kernel counts. Blocking, some small files; most systems let only root read them.
    #[must_use]
    pub fn of_kernel(root: &Root) -> Self {
        let names = root.names(POWERCAP).into_iter();
        let zones = names.filter(|zone| zone.split(':').next() == Some(RAPL));
        let counters = zones.filter_map(|zone| {
            let file = |name: &str| format!("{POWERCAP}/{zone}/{name}");
            let name = root.line(&file("name"))?;
            // Other parts are within these, or these within them (`psys`).
            let counts = match zone.matches(':').count() {
                1 => name.starts_with("package"),
                _ => name == "dram",
            };
            let microjoules = counts.then(|| root.number(&file("energy_uj")))??;
            Some(Counter {
                name: format!("rapl {zone} {name}"),
                microjoules,
                max_microjoules: root.number(&file("max_energy_range_uj")),
            })
        });
        Self {
            counters: counters.collect(),
        }
    }

    /// What is counted, in words.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.counters.iter().map(|counter| counter.name.as_str())
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.counters.is_empty()
    }

    /// Joules since an earlier reading; `None` where nothing is counted, or not the same as then.
    ///
    /// A counter that has come round is taken to have done so once: at 200 W the shortest ones of
    /// today (65 kJ) do so every five minutes, so readings must not be farther apart.
    #[must_use]
    pub fn joules_since(&self, earlier: &Self) -> Option<f64> {
        if self.is_empty() || self.counters.len() != earlier.counters.len() {
            return None;
        }
        let pairs = self.counters.iter().zip(&earlier.counters);
        pairs.map(|(now, then)| now.joules_since(then)).sum()
    }
}

impl Counter {
    #[expect(clippy::cast_precision_loss, reason = "a difference, to six digits")]
    fn joules_since(&self, earlier: &Self) -> Option<f64> {
        if self.name != earlier.name {
            return None;
        }
        let used = match self.microjoules.checked_sub(earlier.microjoules) {
            Some(used) => used,
            None => {
                let rest = self.max_microjoules?.checked_sub(earlier.microjoules)?;
                // From the highest value to 0 is a step too.
                rest + 1 + self.microjoules
            }
        };
        Some(used as f64 / MICRO)
    }
}

/// Reads whatever this machine has. Power meters are looked at by a thread of its own until this is
/// dropped.
pub struct Meter {
    root: Root,
    nvml: Option<nvml_wrapper::Nvml>,
    sampler: Option<Sampler>,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl Meter {
    /// That of this machine. Blocking; opens NVIDIA's library where it is there.
    #[must_use]
    pub fn live() -> Self {
        let nvml = nvml_wrapper::Nvml::builder()
            .lib_path(OsStr::new(LIBRARY))
            .init();
        let mut meter = Self {
            root: Root::live(),
            nvml: nvml.ok(),
            sampler: None,
        };
        if meter.read().is_empty() {
            meter.sampler = Sampler::start();
        }
        meter
    }

    /// What is counted so far. Blocking, some small files.
    #[must_use]
    pub fn read(&self) -> Reading {
        let mut reading = Reading::of_kernel(&self.root);
        reading.counters.extend(self.nvidia());
        reading
            .counters
            .extend(self.sampler.as_ref().map(Sampler::counter));
        reading
    }

    fn nvidia(&self) -> Vec<Counter> {
        let Some(nvml) = &self.nvml else {
            return Vec::new();
        };
        let count = nvml.device_count().unwrap_or(0);
        let counters = (0..count).filter_map(|index| {
            let device = nvml.device_by_index(index).ok()?;
            let millijoules = device.total_energy_consumption().ok()?;
            let name = device.name().unwrap_or_else(|_| "NVIDIA device".to_owned());
            Some(Counter {
                name: format!("nvml {index} {name}"),
                microjoules: millijoules.saturating_mul(1000),
                max_microjoules: None,
            })
        });
        counters.collect()
    }
}

/// Watts over time, summed up.
#[derive(Debug, Default)]
struct Integral {
    joules: f64,
    /// Seconds and watts.
    last: Option<(f64, f64)>,
}

impl Integral {
    /// Between two looks the power is taken to have changed evenly.
    fn add(&mut self, at_seconds: f64, watts: f64) {
        if let Some((then, before)) = self.last {
            self.joules += (at_seconds - then) * (watts + before) / 2.0;
        }
        self.last = Some((at_seconds, watts));
    }

    /// As if the power had stayed what it was.
    fn until(&self, at_seconds: f64) -> f64 {
        let rest = self
            .last
            .map_or(0.0, |(then, watts)| (at_seconds - then) * watts);
        self.joules + rest
    }
}

/// The watts of all meters together: of a board those of what comes in, where it has such a meter,
/// since the others are parts of it.
fn watts(meters: &[PowerMeter]) -> Option<f64> {
    let readable = || {
        meters
            .iter()
            .filter_map(|meter| Some((&meter.name, meter.watts?)))
    };
    let comes_in = |name: &str| name.ends_with("_IN");
    let incoming: Vec<f64> = readable()
        .filter(|(name, _)| comes_in(name))
        .map(|(_, watts)| watts)
        .collect();
    match incoming.is_empty() {
        false => Some(incoming.iter().sum()),
        true => {
            let all: Vec<f64> = readable().map(|(_, watts)| watts).collect();
            (!all.is_empty()).then(|| all.iter().sum())
        }
    }
}

/// A thread that looks at power meters.
struct Sampler {
    began: Instant,
    integral: Arc<Mutex<Integral>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// `None` where no meter can be read.
    fn start() -> Option<Self> {
        watts(&Sensors::read(&Root::live()).power)?;
        let mut sampler = Self {
            began: Instant::now(),
            integral: Arc::default(),
            end: Arc::default(),
            thread: None,
        };
        let (began, integral, end) = (
            sampler.began,
            Arc::clone(&sampler.integral),
            Arc::clone(&sampler.end),
        );
        let look = move || {
            let root = Root::live();
            while !end.load(Ordering::Relaxed) {
                if let Some(watts) = watts(&Sensors::read_power(&root)) {
                    let at = began.elapsed().as_secs_f64();
                    let mut integral = integral.lock().unwrap_or_else(PoisonError::into_inner);
                    integral.add(at, watts);
                }
                std::thread::sleep(LOOK_EVERY);
            }
        };
        let thread = std::thread::Builder::new().name("power".to_owned());
        sampler.thread = Some(thread.spawn(look).ok()?);
        Some(sampler)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "joules of a run are far below the limits"
    )]
    fn counter(&self) -> Counter {
        let integral = self.integral.lock().unwrap_or_else(PoisonError::into_inner);
        let joules = integral.until(self.began.elapsed().as_secs_f64());
        Counter {
            name: "power meters".to_owned(),
            microjoules: (joules * MICRO).max(0.0) as u64,
            max_microjoules: None,
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, and if it panicked there is nothing to be done.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recording;

    /// What two packages say, with whatever must not be counted beside them.
    fn root(energies: [&str; 2]) -> Root {
        let [first, second] = energies;
        let files = [
            ("intel-rapl:0/name", "package-0"),
            ("intel-rapl:0/energy_uj", first),
            ("intel-rapl:0/max_energy_range_uj", "262143328850"),
            ("intel-rapl:0:0/name", "core"),
            ("intel-rapl:0:0/energy_uj", "5"),
            ("intel-rapl:0:1/name", "dram"),
            ("intel-rapl:0:1/energy_uj", second),
            ("intel-rapl:0:1/max_energy_range_uj", "65712999613"),
            ("intel-rapl:1/name", "psys"),
            ("intel-rapl:1/energy_uj", "77"),
            ("intel-rapl-mmio:0/name", "package-0"),
            ("intel-rapl-mmio:0/energy_uj", first),
            ("intel-rapl/enabled", "1"),
        ];
        let files = files.map(|(name, text)| (format!("{POWERCAP}/{name}"), text));
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(path, text)| (path.as_str(), *text))
            .collect();
        Root::recorded(Recording::of(&files))
    }

    fn reading(energies: [&str; 2]) -> Reading {
        Reading::of_kernel(&root(energies))
    }

    #[test]
    fn packages_and_their_memory_are_counted_once() {
        let then = reading(["1000000", "500000"]);
        let names: Vec<&str> = then.names().collect();
        let wanted = ["rapl intel-rapl:0 package-0", "rapl intel-rapl:0:1 dram"];
        assert_eq!(names, wanted);
        let now = reading(["3500000", "750000"]);
        assert_eq!(now.joules_since(&then), Some(2.75));
        assert_eq!(then.joules_since(&then), Some(0.0));
    }

    #[test]
    fn a_counter_that_has_come_round_goes_on() {
        let then = reading(["262143328849", "65712999613"]);
        let now = reading(["999998", "999999"]);
        // Two steps and 999,998 in the one, one and 999,999 in the other.
        assert_eq!(now.joules_since(&then), Some(2.0));
    }

    #[test]
    fn what_cannot_be_told_is_none() {
        let none = Reading::of_kernel(&Root::recorded(Recording::default()));
        assert!(none.is_empty());
        assert_eq!(none.joules_since(&none), None);
        let some = reading(["1", "2"]);
        assert_eq!(some.joules_since(&none), None);
        assert_eq!(none.joules_since(&some), None);
        // Root may read it, and we may not.
        let denied = "/sys/class/powercap/intel-rapl:0/name = package-0\n\
             /sys/class/powercap/intel-rapl:0/energy_uj denied\n";
        let denied = Root::recorded(Recording::parse(denied).unwrap());
        assert!(Reading::of_kernel(&denied).is_empty());
        let words = reading(["many", "few"]);
        assert!(words.is_empty());
        // One that has fallen without saying where it begins again.
        let bare = |microjoules| Reading {
            counters: vec![Counter {
                name: "a".to_owned(),
                microjoules,
                max_microjoules: None,
            }],
        };
        assert_eq!(bare(5).joules_since(&bare(6)), None);
        assert_eq!(bare(6).joules_since(&bare(5)), Some(1e-6));
    }

    #[test]
    fn power_is_summed_over_time() {
        let mut integral = Integral::default();
        integral.add(10.0, 4.0);
        integral.add(11.0, 8.0);
        integral.add(13.0, 8.0);
        assert!((integral.joules - 22.0).abs() < 1e-9);
        assert!((integral.until(13.5) - 26.0).abs() < 1e-9);
        let meter = |name: &str, watts| PowerMeter {
            name: name.to_owned(),
            watts,
            readable: watts.is_some(),
        };
        let parts = [meter("VDD_SOC", Some(2.0)), meter("VDD_CPU", Some(3.0))];
        assert_eq!(watts(&parts), Some(5.0));
        let board = [&parts[..], &[meter("VDD_IN", Some(9.0))]].concat();
        assert_eq!(watts(&board), Some(9.0));
        assert_eq!(watts(&[meter("rapl package-0", None)]), None);
    }
}
