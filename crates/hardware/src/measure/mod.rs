//! What the machine does rather than what it says: how fast its cores read memory, and how
//! fast they multiply.
//!
//! **Memory.** A buffer of four times the last cache's size, at least 64 MiB, is read from
//! end to end: each of `n` threads, pinned to a core of the plan, sums the words of its
//! share. Decoding reads all weights of a model for every token, so this is its ceiling. The
//! memory is touched first by the core that owns its part, as an engine's would be. For one
//! core, two, four and so on up to all, a few short rounds are run; the best and the median
//! are given: a wide gap says that something else was running.
//!
//! **Arithmetic.** A caller gives the inner loops to time ([`Workload`]): those that tell of the
//! machine are run on one core and on all, those of a program's own kernels on all.
//!
//! All of it takes a second or two. What others took of the machine meanwhile is measured too
//! ([`Busy`]).

mod bandwidth;
mod busy;
mod compute;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use stdx::Bytes;

pub use self::bandwidth::BandwidthPoint;
pub use self::busy::{Busy, Steal};
pub use self::compute::{ComputePoint, Workload};

use crate::{CpuSet, Machine, Root};

/// Time for all rounds of reading.
const BANDWIDTH_TIME: Duration = Duration::from_millis(600);
/// Time for a workload on one core, and on all.
const COMPUTE_TIME: Duration = Duration::from_millis(80);
/// Time for one of a program's kernels.
const KERNEL_TIME: Duration = Duration::from_millis(30);
/// A point whose number of cores reaches this share of the best bandwidth has enough.
const ENOUGH_PERCENT: f64 = 95.0;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub cores: CpuSet,
    /// By the number of cores, the least first.
    pub bandwidth: Vec<BandwidthPoint>,
    pub compute: Vec<ComputePoint>,
    /// On all cores.
    pub kernels: Vec<ComputePoint>,
    /// What was read from end to end.
    pub buffer: Bytes,
    /// Whether every thread could be bound to its core.
    pub is_pinned: bool,
    pub busy: Busy,
    pub seconds: f64,
}

impl Measured {
    /// The best bandwidth of any number of cores, in GB/s (1e9 bytes).
    #[must_use]
    pub fn best_gb_per_second(&self) -> Option<f64> {
        let points = self.bandwidth.iter();
        points
            .map(|point| point.best_gb_per_second)
            .max_by(f64::total_cmp)
    }

    /// The least number of cores that reads nearly as fast as any: more do not decode
    /// faster.
    #[must_use]
    pub fn enough_cores(&self) -> Option<usize> {
        let enough = self.best_gb_per_second()? * ENOUGH_PERCENT / 100.0;
        let mut points = self.bandwidth.iter();
        let point = points.find(|point| point.best_gb_per_second >= enough)?;
        Some(point.n_cores)
    }
}

/// Why nothing was measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    #[error("there is no core to measure on")]
    NoCore,
    #[error(
        "{available} of memory are left and {wanted} are wanted to read beyond the caches; \
         stop something and try again"
    )]
    NoMemory { wanted: Bytes, available: Bytes },
    #[error("a measuring thread was not to be had: {0}")]
    Thread(String),
}

/// What a caller wants timed besides memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Workloads<'a> {
    /// On one core and on all.
    pub machine: &'a [Workload<'a>],
    /// On all cores only: there are many of them.
    pub kernels: &'a [Workload<'a>],
}

/// Measures the cores of the machine's plan. Blocking for a second or two, on all of them.
///
/// # Errors
/// When there is no core, too little memory, or no thread to be had.
pub fn measure(
    root: &Root,
    machine: &Machine,
    workloads: Workloads<'_>,
) -> Result<Measured, MeasureError> {
    let cores = machine.plan.decode.cpus.clone();
    if cores.is_empty() {
        return Err(MeasureError::NoCore);
    }
    let buffer = bandwidth::buffer_bytes(machine)?;
    let before = busy::Times::read(root);
    let start = Instant::now();
    let (bandwidth, is_pinned) = bandwidth::sweep(&cores, buffer, BANDWIDTH_TIME)?;
    let mut compute = Vec::new();
    for workload in workloads.machine {
        let one = cores.first_n(1);
        compute.push(compute::point(&one, workload, COMPUTE_TIME)?);
        if cores.len() > 1 {
            compute.push(compute::point(&cores, workload, COMPUTE_TIME)?);
        }
    }
    let kernels = compute::interleaved(&cores, workloads.kernels, KERNEL_TIME)?;
    Ok(Measured {
        busy: Busy::between(&before, &busy::Times::read(root), machine),
        seconds: start.elapsed().as_secs_f64(),
        cores,
        bandwidth,
        compute,
        kernels,
        buffer,
        is_pinned,
    })
}

/// How fast a core computes while everything else goes on as it does, in operations a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoreSpeed {
    pub cpu: u32,
    pub operations_s: f64,
}

/// Runs the loop on one core after another, for so long each. Unlike [`measure`] it counts
/// what others take: a core that is half busy is half as fast.
///
/// # Errors
/// When no thread is to be had.
pub fn each_core(
    cores: &CpuSet,
    workload: &Workload<'_>,
    time: Duration,
) -> Result<Vec<CoreSpeed>, MeasureError> {
    let speeds = cores.iter().map(|cpu| {
        let core: CpuSet = std::iter::once(cpu).collect();
        Ok(CoreSpeed {
            cpu,
            operations_s: compute::rate(&core, workload, time)?,
        })
    });
    speeds.collect()
}

/// Sleeps for a moment and says what others took of the machine meanwhile.
#[must_use]
pub fn look(root: &Root, machine: &Machine, time: Duration) -> Busy {
    let before = busy::Times::read(root);
    std::thread::sleep(time);
    Busy::between(&before, &busy::Times::read(root), machine)
}

/// Runs one pinned thread for each core, all of them or none: `work` gets the thread's place
/// among the cores and its CPU, and begins when every thread is there. Meanwhile `lead` runs
/// on this thread.
fn on_each_core<T: Send, L>(
    cores: &CpuSet,
    work: impl Fn(usize, bool) -> T + Sync,
    lead: impl FnOnce() -> L,
) -> Result<(L, Vec<T>), MeasureError> {
    std::thread::scope(|scope| {
        let work = &work;
        let mut threads = Vec::new();
        let mut starts = Vec::new();
        for (index, cpu) in cores.iter().enumerate() {
            let (start, started) = mpsc::channel::<()>();
            // Where a thread cannot be had, the others learn it by the end of their channels.
            let thread = std::thread::Builder::new()
                .name(format!("measure-{cpu}"))
                .spawn_scoped(scope, move || {
                    started.recv().ok()?;
                    Some(work(index, pin(cpu)))
                })
                .map_err(|error| MeasureError::Thread(error.to_string()))?;
            threads.push(thread);
            starts.push(start);
        }
        for start in &starts {
            let _ = start.send(());
        }
        let led = lead();
        let results = threads.into_iter().map(|thread| {
            let result = thread.join().ok().flatten();
            result.ok_or_else(|| MeasureError::Thread("it failed while measuring".to_owned()))
        });
        Ok((led, results.collect::<Result<_, _>>()?))
    })
}

/// Binds this thread to a CPU; says whether that went well.
fn pin(cpu: u32) -> bool {
    let mut set = rustix::thread::CpuSet::new();
    let index = cpu as usize;
    if index >= rustix::thread::CpuSet::MAX_CPU {
        return false;
    }
    set.set(index);
    rustix::thread::sched_setaffinity(None, &set).is_ok()
}

/// The best and the median of some figures; 0 of none.
fn best_and_median(mut figures: Vec<f64>) -> (f64, f64) {
    figures.sort_by(f64::total_cmp);
    let best = figures.last().copied().unwrap_or(0.0);
    let median = figures.get(figures.len() / 2).copied().unwrap_or(0.0);
    (best, median)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recording;

    #[test]
    fn this_machine_reads_and_computes() {
        let root = Root::live();
        let machine = Machine::read(&root);
        let make = || -> Box<dyn FnMut()> {
            let mut x = 1.0f32;
            Box::new(move || {
                for _ in 0..1000 {
                    x = std::hint::black_box(x * 1.000_1 + 0.5);
                }
            })
        };
        let workload = Workload {
            name: "multiply and add",
            operations: 2000.0,
            make: &make,
        };
        let workloads = Workloads {
            machine: &[workload],
            kernels: &[workload],
        };
        let measured = measure(&root, &machine, workloads).unwrap();
        assert!(measured.seconds < 30.0);
        let n_cores = machine.plan.decode.cpus.len();
        assert_eq!(measured.bandwidth.last().unwrap().n_cores, n_cores);
        for point in &measured.bandwidth {
            let best = point.best_gb_per_second;
            assert!(best > 0.0 && best < 20_000.0, "{best} GB/s");
            assert!(point.median_gb_per_second <= best && point.n_rounds >= 3);
        }
        assert!(measured.enough_cores().unwrap() <= n_cores);
        assert_eq!(measured.kernels.len(), 1);
        for point in measured.compute.iter().chain(&measured.kernels) {
            assert!(point.best_giga_per_second > 0.001);
        }
        let cores = &machine.plan.usable;
        let speeds = each_core(cores, &workload, Duration::from_millis(5)).unwrap();
        assert_eq!(speeds.len(), cores.len());
        assert!(speeds.iter().all(|speed| speed.operations_s > 1e6));
        let busy = look(&root, &machine, Duration::from_millis(30));
        assert!(busy.others_percent.is_none_or(|percent| percent <= 100.0));
    }

    #[test]
    fn without_cores_or_memory_nothing_is_measured() {
        let nothing = Root::recorded(Recording::default());
        let machine = Machine::read(&nothing);
        let measured = measure(&nothing, &machine, Workloads::default());
        assert_eq!(measured, Err(MeasureError::NoCore));
        let little = Root::recorded(Recording::of(&[
            ("/sys/devices/system/cpu/online", "0\n"),
            ("/proc/meminfo", "MemAvailable: 65536 kB\n"),
        ]));
        let machine = Machine::read(&little);
        let error = measure(&little, &machine, Workloads::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "0 B of memory are left and 64.0 MiB are wanted to read beyond the caches; stop \
             something and try again"
        );
    }
}
