//! What others took of the machine while it was measured.

use crate::{Machine, Root};

/// Shares above which a figure should be taken again.
const OTHERS_PERCENT_MAX: f64 = 10.0;
const STOLEN_PERCENT_MAX: f64 = 2.0;

/// What is known of others; none of it where the kernel did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Busy {
    /// Of all CPUs' time, what other processes took.
    pub others_percent: Option<f64>,
    /// Of all CPUs' time, what the host of a virtual machine took.
    pub stolen_percent: Option<f64>,
    /// Processes that wanted a CPU in the minute before, by the number of CPUs.
    pub load_a_cpu: Option<f64>,
}

impl Busy {
    /// Whether others took so much that the figures may be too low.
    #[must_use]
    pub fn was_busy(&self) -> bool {
        self.others_percent
            .is_some_and(|percent| percent > OTHERS_PERCENT_MAX)
            || self
                .stolen_percent
                .is_some_and(|percent| percent > STOLEN_PERCENT_MAX)
    }

    pub(super) fn between(before: &Times, after: &Times, machine: &Machine) -> Self {
        let n_cpus = machine.processor.cpus.len().max(1) as f64;
        let of = |field: fn(&Times) -> Option<u64>| {
            Some(field(after)?.saturating_sub(field(before)?) as f64)
        };
        let all = of(|times| times.all).filter(|all| *all > 0.0);
        let percent = |part: Option<f64>| Some(part? / all? * 100.0);
        let others = of(|times| times.busy)
            .zip(of(|times| times.own))
            .map(|(busy, own)| (busy - own).max(0.0));
        Self {
            others_percent: percent(others),
            stolen_percent: percent(of(|times| times.stolen)),
            load_a_cpu: before.load.map(|load| load / n_cpus),
        }
    }
}

/// Clock ticks since the start of the machine, and of this process.
#[derive(Debug, Default)]
pub(super) struct Times {
    all: Option<u64>,
    /// Neither idle nor stolen.
    busy: Option<u64>,
    stolen: Option<u64>,
    own: Option<u64>,
    load: Option<f64>,
}

impl Times {
    pub(super) fn read(root: &Root) -> Self {
        let stat = root.text("/proc/stat").unwrap_or_default();
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
        let ticks: Vec<u64> = line
            .unwrap_or_default()
            .split_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        // user, nice, system, idle, waiting, interrupts, soft interrupts, stolen; what
        // guests took is in the first two already.
        let known = (ticks.len() >= 8).then(|| {
            let all = ticks[..8].iter().copied().fold(0, u64::saturating_add);
            let idle = ticks[3].saturating_add(ticks[4]);
            (all, all.saturating_sub(idle).saturating_sub(ticks[7]))
        });
        let own = root.text("/proc/self/stat").and_then(|text| {
            // The name before them may have blanks in it.
            let (_, fields) = text.rsplit_once(')')?;
            let mut fields = fields.split_whitespace().skip(11);
            let mut next = || fields.next()?.parse::<u64>().ok();
            next()?.checked_add(next()?)
        });
        let load = root.line("/proc/loadavg");
        Self {
            all: known.map(|(all, _)| all),
            busy: known.map(|(_, busy)| busy),
            stolen: ticks.get(7).copied(),
            own,
            load: load.and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }
}

/// What a host takes of a virtual machine from a moment on, by the kernel's count: the time
/// in which a processor had work and the host did not let it run.
#[derive(Debug)]
pub struct Steal(Times);

impl Steal {
    /// Begins to count.
    #[must_use]
    pub fn begin(root: &Root) -> Self {
        Self(Times::read(root))
    }

    /// What was taken since, percent of the time that was wanted: an idle core loses nothing.
    /// `None` where the kernel does not say, or nothing was wanted.
    #[must_use]
    pub fn percent(&self, root: &Root) -> Option<f64> {
        let now = Times::read(root);
        let of = |field: fn(&Times) -> Option<u64>| {
            Some(field(&now)?.saturating_sub(field(&self.0)?) as f64)
        };
        let stolen = of(|times| times.stolen)?;
        let wanted = of(|times| times.busy)? + stolen;
        (wanted > 0.0).then(|| 100.0 * stolen / wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recording;

    fn times(stat: &str, own: &str) -> Times {
        let root = Root::recorded(Recording::of(&[
            ("/proc/stat", stat),
            ("/proc/self/stat", own),
            ("/proc/loadavg", "0.50 0.40 0.30 1/90 777\n"),
        ]));
        Times::read(&root)
    }

    #[test]
    fn own_time_is_not_others() {
        let own = |ticks: u32| format!("7 (a ) b) S 1 7 7 0 -1 4 1 0 0 0 {ticks} 5 0 0 20 0\n");
        let before = times("cpu  100 0 50 800 0 0 0 10 0 0\n", &own(20));
        let after = times("cpu  200 0 60 880 0 0 0 20 0 0\n", &own(100));
        let machine = Machine::read(&Root::recorded(Recording::default()));
        let busy = Busy::between(&before, &after, &machine);
        // Of 200 ticks 110 were busy, 80 of them ours, and 10 stolen.
        assert_eq!(busy.others_percent, Some(15.0));
        assert_eq!(busy.stolen_percent, Some(5.0));
        assert_eq!(busy.load_a_cpu, Some(0.5));
        assert!(busy.was_busy());
        let unknown = Busy::between(&times("", ""), &times("cpu x", ""), &machine);
        assert_eq!(unknown.others_percent, None);
        assert!(!unknown.was_busy());
    }

    #[test]
    fn what_is_stolen_is_of_what_was_wanted() {
        let tree = |stat: &str| Root::recorded(Recording::of(&[("/proc/stat", stat)]));
        let steal = Steal::begin(&tree("cpu  100 0 50 800 0 0 0 10 0 0\n"));
        // 90 ticks of work, 10 stolen, and one core that was idle for 100.
        let after = tree("cpu  190 0 50 900 0 0 0 20 0 0\n");
        assert_eq!(steal.percent(&after), Some(10.0));
        let idle = tree("cpu  100 0 50 900 0 0 0 10 0 0\n");
        assert_eq!(steal.percent(&idle), None);
        assert_eq!(steal.percent(&tree("")), None);
    }
}
