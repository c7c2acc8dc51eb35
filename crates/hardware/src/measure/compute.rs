//! Timing an inner loop on some cores.

use std::time::{Duration, Instant};

use super::{MeasureError, best_and_median, on_each_core};
use crate::CpuSet;

const ROUNDS: u32 = 5;

/// An inner loop that somebody else has.
#[derive(Clone, Copy)]
pub struct Workload<'a> {
    pub name: &'a str,
    /// Operations of one call; a multiplication and an addition are two.
    pub operations: f64,
    /// Makes the loop of one thread, with the memory it works on. A call should take well
    /// below ten milliseconds.
    pub make: &'a (dyn Fn() -> Box<dyn FnMut()> + Sync),
}

impl std::fmt::Debug for Workload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workload")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How fast some cores compute together, in 1e9 operations a second.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputePoint {
    pub name: String,
    pub n_cores: usize,
    pub best_giga_per_second: f64,
    pub median_giga_per_second: f64,
}

pub(super) fn point(
    cores: &CpuSet,
    workload: &Workload<'_>,
    time: Duration,
) -> Result<ComputePoint, MeasureError> {
    let figures = rounds(cores, workload, ROUNDS, time / ROUNDS)?;
    Ok(of_rounds(workload, cores, figures))
}

/// Several workloads, a round of each in turn: what a host gives a guest changes within a
/// second, and would favour one of them otherwise.
pub(super) fn interleaved(
    cores: &CpuSet,
    workloads: &[Workload<'_>],
    time: Duration,
) -> Result<Vec<ComputePoint>, MeasureError> {
    let mut figures = vec![Vec::new(); workloads.len()];
    for _ in 0..ROUNDS {
        for (workload, figures) in workloads.iter().zip(&mut figures) {
            figures.extend(rounds(cores, workload, 1, time / ROUNDS)?);
        }
    }
    let each = workloads.iter().zip(figures);
    let each = each.map(|(workload, figures)| of_rounds(workload, cores, figures));
    Ok(each.collect())
}

fn of_rounds(workload: &Workload<'_>, cores: &CpuSet, figures: Vec<f64>) -> ComputePoint {
    let (best, median) = best_and_median(figures);
    ComputePoint {
        name: workload.name.to_owned(),
        n_cores: cores.len(),
        best_giga_per_second: best,
        median_giga_per_second: median,
    }
}

/// 1e9 operations a second of all cores together, for each round.
fn rounds(
    cores: &CpuSet,
    workload: &Workload<'_>,
    n_rounds: u32,
    time: Duration,
) -> Result<Vec<f64>, MeasureError> {
    let work = |_, _| rounds_of_core(workload, n_rounds, time);
    let ((), rates) = on_each_core(cores, work, || ())?;
    let figures = (0..n_rounds as usize).map(|round| {
        let of_round = rates.iter().filter_map(|rates| rates.get(round));
        of_round.sum::<f64>() / 1e9
    });
    Ok(figures.collect())
}

/// Operations a second of one core over all of the time, what others took of it included.
pub(super) fn rate(
    core: &CpuSet,
    workload: &Workload<'_>,
    time: Duration,
) -> Result<f64, MeasureError> {
    let work = |_, _| {
        let mut run = (workload.make)();
        run();
        let start = Instant::now();
        let mut n_calls = 0u32;
        while n_calls == 0 || start.elapsed() < time {
            run();
            n_calls += 1;
        }
        f64::from(n_calls) * workload.operations / start.elapsed().as_secs_f64()
    };
    let ((), rates) = on_each_core(core, work, || ())?;
    Ok(rates.iter().sum())
}

/// Operations a second of each round.
fn rounds_of_core(workload: &Workload<'_>, n_rounds: u32, time: Duration) -> Vec<f64> {
    let mut run = (workload.make)();
    // Caches and clocks come up.
    run();
    let rounds = (0..n_rounds).map(|_| {
        let start = Instant::now();
        let mut n_calls = 0u32;
        while n_calls == 0 || start.elapsed() < time {
            run();
            n_calls += 1;
        }
        f64::from(n_calls) * workload.operations / start.elapsed().as_secs_f64()
    });
    rounds.collect()
}
