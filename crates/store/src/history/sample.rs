//! What is known of a stretch of time, and how two stretches become one.

use std::collections::BTreeMap;

use super::Figure;

/// Cells of the strip of cores. A machine with more cores has several of them in each.
pub const CORES_SHOWN_MAX: usize = 32;
/// Processes of a sample: those that hold most.
pub const PROCESSES_MAX: usize = 8;
/// Bytes of a process's name; the rest is cut.
pub const PROCESS_NAME_BYTES_MAX: usize = 96;

/// The steps of [`Waits`]: the first begins at 1 ms, the last at 100 minutes.
pub const WAIT_STEPS: usize = 320;
/// Each step is 5 % longer than the one before: a quantile is off by 2.5 % at most.
const WAIT_RATIO: f64 = 1.05;

/// Least, mean and most of a figure over a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// How much the mean counts where two become one: looks, or seconds of work.
    pub weight: f32,
    pub min: f32,
    pub mean: f32,
    pub max: f32,
}

impl Spread {
    /// One look.
    #[must_use]
    pub fn of(value: f64) -> Self {
        Self::weighted(value, 1.0)
    }

    #[must_use]
    pub fn weighted(value: f64, weight: f64) -> Self {
        let value = value as f32;
        Self {
            weight: weight as f32,
            min: value,
            mean: value,
            max: value,
        }
    }

    /// Takes in another time.
    pub fn add(&mut self, other: &Self) {
        let weight = f64::from(self.weight) + f64::from(other.weight);
        if weight > 0.0 {
            let sum = f64::from(self.mean) * f64::from(self.weight)
                + f64::from(other.mean) * f64::from(other.weight);
            self.mean = (sum / weight) as f32;
        }
        self.weight = weight as f32;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    fn is_finite(&self) -> bool {
        let all = [self.weight, self.min, self.mean, self.max];
        all.iter().all(|one| one.is_finite()) && self.weight >= 0.0
    }
}

/// How long requests waited for their first token, counted by length: quantiles of any number
/// of samples together are those of all their requests, which no mean of quantiles is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waits(BTreeMap<u16, u32>);

impl Waits {
    /// The step that a wait of so many seconds belongs to.
    #[must_use]
    pub fn step_of(seconds: f64) -> usize {
        let ms = (seconds * 1000.0).max(1.0);
        let step = (ms.ln() / WAIT_RATIO.ln()) as usize;
        step.min(WAIT_STEPS - 1)
    }

    /// The middle of a step, in seconds.
    fn seconds_of(step: u16) -> f64 {
        WAIT_RATIO.powf(f64::from(step) + 0.5) / 1000.0
    }

    /// Adds `count` waits of a step; a step that there is not counts as the last.
    pub fn add(&mut self, step: usize, count: u32) {
        if count == 0 {
            return;
        }
        let step = step.min(WAIT_STEPS - 1) as u16;
        let sum = self.0.entry(step).or_default();
        *sum = sum.saturating_add(count);
    }

    fn merge(&mut self, other: &Self) {
        for (step, count) in &other.0 {
            self.add(usize::from(*step), *count);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().map(|count| u64::from(*count)).sum()
    }

    /// The wait in seconds that the share `q` of all did not exceed; `None` where there is none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let wanted = (q.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut passed = 0;
        for (step, count) in &self.0 {
            passed += u64::from(*count);
            if passed >= wanted {
                return Some(Self::seconds_of(*step));
            }
        }
        None
    }

    pub(super) fn steps(&self) -> impl ExactSizeIterator<Item = (u16, u32)> {
        self.0.iter().map(|(step, count)| (*step, *count))
    }
}

/// How much each core worked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cores {
    /// Cores in each cell.
    pub each: u8,
    /// Percent of each cell, at most [`CORES_SHOWN_MAX`].
    pub percent: Vec<u8>,
    pub weight: f32,
}

impl Cores {
    /// Of the share of each core, 0 to 1.
    #[must_use]
    pub fn of(shares: &[f64]) -> Self {
        let each = shares.len().div_ceil(CORES_SHOWN_MAX).clamp(1, 255);
        let cells = shares.chunks(each).take(CORES_SHOWN_MAX);
        let percent = cells.map(|cell| {
            let mean = cell.iter().sum::<f64>() / cell.len() as f64;
            (mean.clamp(0.0, 1.0) * 100.0).round() as u8
        });
        Self {
            each: each as u8,
            percent: percent.collect(),
            weight: 1.0,
        }
    }

    fn merge(&mut self, other: &Self) {
        if other.percent.is_empty() {
            return;
        }
        // Another number of cores: the machine is not the same any more, and the later counts.
        if self.percent.len() != other.percent.len() {
            self.clone_from(other);
            return;
        }
        let weight = self.weight + other.weight;
        let pairs = self.percent.iter_mut().zip(&other.percent);
        for (own, others) in pairs {
            let sum = f32::from(*own) * self.weight + f32::from(*others) * other.weight;
            *own = (sum / weight.max(f32::MIN_POSITIVE)).round() as u8;
        }
        self.weight = weight;
    }
}

/// What is known of a stretch of time. Absent is what nobody could read: never 0 in its place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// When it begins, seconds since 1970.
    pub at_s: u64,
    figures: [Option<Spread>; Figure::COUNT],
    pub waits: Waits,
    pub cores: Cores,
    /// Memory of each process, by the name of its model.
    processes: BTreeMap<String, Spread>,
}

impl Sample {
    #[must_use]
    pub fn at(at_s: u64) -> Self {
        Self {
            at_s,
            ..Self::default()
        }
    }

    #[must_use]
    pub fn get(&self, figure: Figure) -> Option<Spread> {
        self.figures[figure.index()]
    }

    /// Takes in a value of a figure; what is no number is left out.
    pub fn add(&mut self, figure: Figure, spread: Spread) {
        if !spread.is_finite() {
            return;
        }
        match &mut self.figures[figure.index()] {
            Some(known) => known.add(&spread),
            none => *none = Some(spread),
        }
    }

    /// Takes in the memory of a process.
    pub fn add_process(&mut self, name: &str, spread: Spread) {
        if !spread.is_finite() {
            return;
        }
        let name = &name[..name.floor_char_boundary(PROCESS_NAME_BYTES_MAX)];
        match self.processes.get_mut(name) {
            Some(known) => known.add(&spread),
            None => {
                self.processes.insert(name.to_owned(), spread);
            }
        }
    }

    /// Those with most memory, by name.
    #[must_use]
    pub fn processes(&self) -> Vec<(&str, Spread)> {
        let all = self.processes.iter();
        let mut all: Vec<_> = all.map(|(name, one)| (name.as_str(), *one)).collect();
        all.sort_by(|a, b| b.1.max.total_cmp(&a.1.max));
        all.truncate(PROCESSES_MAX);
        all.sort_by_key(|(name, _)| *name);
        all
    }

    /// Takes in another stretch; the time stays this one's.
    pub fn merge(&mut self, other: &Self) {
        for figure in Figure::ALL {
            if let Some(spread) = other.get(*figure) {
                self.add(*figure, spread);
            }
        }
        self.waits.merge(&other.waits);
        self.cores.merge(&other.cores);
        for (name, spread) in &other.processes {
            self.add_process(name, *spread);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_two_times_are_those_of_all_their_requests() {
        let (mut quiet, mut busy) = (Waits::default(), Waits::default());
        quiet.add(Waits::step_of(10.0), 1);
        busy.add(Waits::step_of(0.1), 99);
        let near = |found: Option<f64>, wanted: f64| {
            let found = found.unwrap();
            assert!((found / wanted - 1.0).abs() < 0.05, "{found} {wanted}");
        };
        near(quiet.quantile(0.5), 10.0);
        busy.merge(&quiet);
        near(busy.quantile(0.5), 0.1);
        near(busy.quantile(0.99), 0.1);
        near(busy.quantile(1.0), 10.0);
        assert_eq!(busy.count(), 100);
        assert_eq!(Waits::default().quantile(0.5), None);
    }

    #[test]
    fn waits_of_any_length_have_a_step() {
        for (seconds, step) in [
            (f64::NAN, 0),
            (-1.0, 0),
            (0.0, 0),
            (f64::INFINITY, WAIT_STEPS - 1),
        ] {
            assert_eq!(Waits::step_of(seconds), step, "{seconds}");
        }
        let steps: Vec<_> = [0.002, 0.05, 1.0, 60.0, 3600.0].map(Waits::step_of).into();
        assert!(steps.is_sorted_by(|a, b| a < b), "{steps:?}");
    }

    #[test]
    fn the_mean_is_weighted_and_the_ends_are_kept() {
        let mut one = Sample::at(5);
        one.add(Figure::DecodeSpeed, Spread::weighted(10.0, 1.0));
        let mut two = Sample::at(15);
        two.add(Figure::DecodeSpeed, Spread::weighted(40.0, 2.0));
        two.add(Figure::Celsius, Spread::of(f64::NAN));
        one.merge(&two);
        let spread = one.get(Figure::DecodeSpeed).unwrap();
        assert_eq!((spread.min, spread.mean, spread.max), (10.0, 30.0, 40.0));
        assert_eq!((one.at_s, one.get(Figure::Celsius)), (5, None));
    }

    #[test]
    fn many_cores_share_cells_and_another_machine_takes_the_strip_over() {
        let cores = Cores::of(&vec![0.5; 100]);
        assert_eq!((cores.each, cores.percent.len()), (4, 25));
        let mut few = Cores::of(&[0.0, 1.0]);
        few.merge(&Cores::of(&[1.0, 1.0]));
        assert_eq!(few.percent, [50, 100]);
        few.merge(&cores);
        assert_eq!(few.percent.len(), 25);
    }

    #[test]
    fn only_the_largest_processes_stay() {
        let mut sample = Sample::default();
        for n in 0..PROCESSES_MAX + 3 {
            sample.add_process(&format!("model {n:02}"), Spread::of(n as f64));
        }
        let names: Vec<_> = sample
            .processes()
            .iter()
            .map(|one| one.0.to_owned())
            .collect();
        assert_eq!(
            (names.len(), names[0].as_str()),
            (PROCESSES_MAX, "model 03")
        );
        sample.add_process(&"é".repeat(200), Spread::of(1e9));
        let longest = sample.processes().iter().map(|one| one.0.len()).max();
        assert_eq!(longest, Some(PROCESS_NAME_BYTES_MAX));
    }
}
