//! Reading memory with one core, two, four and so on.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use stdx::Bytes;

use super::{MeasureError, best_and_median, on_each_core};
use crate::{CpuSet, Machine};

/// Where no cache is known, and at least: eight times the largest of a board.
const BUFFER_MIN: Bytes = Bytes::mib(64);
/// Four times the caches of a server of two sockets.
const BUFFER_MAX: Bytes = Bytes::mib(4096);
const TIMES_CACHE: u64 = 4;
/// Of what is available.
const AVAILABLE_SHARE: u64 = 4;
const ROUNDS_MIN: usize = 3;
const ROUNDS_MAX: usize = 9;

/// How fast some cores read together, in GB/s (1e9 bytes).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BandwidthPoint {
    pub n_cores: usize,
    pub best_gb_per_second: f64,
    pub median_gb_per_second: f64,
    pub n_rounds: usize,
}

/// What must be read so that caches do not count.
pub(super) fn buffer_bytes(machine: &Machine) -> Result<Bytes, MeasureError> {
    let caches = machine.processor.last_level_bytes().unwrap_or_default();
    let wanted = caches.0.saturating_mul(TIMES_CACHE);
    let wanted = Bytes(wanted.clamp(BUFFER_MIN.0, BUFFER_MAX.0));
    let available = machine.budget().unwrap_or(BUFFER_MAX);
    if available.0 / AVAILABLE_SHARE >= wanted.0 {
        return Ok(wanted);
    }
    // Less, as long as it is still beyond the caches.
    let less = Bytes(available.0 / AVAILABLE_SHARE);
    if less >= BUFFER_MIN && less.0 >= caches.0.saturating_mul(2) {
        return Ok(less);
    }
    Err(MeasureError::NoMemory { wanted, available })
}

/// What the threads of a sweep share.
struct Sweep {
    /// A part for each core, made by it.
    parts: Vec<OnceLock<Vec<u64>>>,
    /// Threads that read in this round.
    n_active: AtomicUsize,
    done: AtomicBool,
    /// All threads and the one that counts.
    gate: Barrier,
    spans: Mutex<Vec<(Instant, Instant)>>,
}

/// Points for one core, two, four, ..., all; and whether all threads were pinned.
pub(super) fn sweep(
    cores: &CpuSet,
    buffer: Bytes,
    time: Duration,
) -> Result<(Vec<BandwidthPoint>, bool), MeasureError> {
    let n_cores = cores.len();
    let words_a_part = (buffer.0 / 8).div_ceil(n_cores as u64) as usize;
    let sweep = Sweep {
        parts: (0..n_cores).map(|_| OnceLock::new()).collect(),
        n_active: AtomicUsize::new(0),
        done: AtomicBool::new(false),
        gate: Barrier::new(n_cores + 1),
        spans: Mutex::default(),
    };
    let counts = counts(n_cores);
    let lead = || {
        // The parts are made.
        sweep.gate.wait();
        let bytes = (words_a_part * 8 * n_cores) as f64;
        let time = time / u32::try_from(counts.len()).unwrap_or(1);
        let points = counts
            .iter()
            .map(|n_active| sweep.point(*n_active, bytes, time));
        let points: Vec<_> = points.collect();
        sweep.done.store(true, Ordering::Release);
        sweep.gate.wait();
        points
    };
    let work = |index, is_pinned| {
        sweep.work(index, words_a_part);
        is_pinned
    };
    let (points, pinned) = on_each_core(cores, work, lead)?;
    Ok((points, pinned.into_iter().all(|is_pinned| is_pinned)))
}

/// 1, 2, 4, ... and the number itself.
fn counts(n_cores: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |n| Some(n * 2));
    let mut counts: Vec<_> = powers.take_while(|n| *n < n_cores).collect();
    counts.push(n_cores);
    counts
}

impl Sweep {
    fn work(&self, index: usize, n_words: usize) {
        // Not zeros: pages of those may be one and the same.
        let _ = self.parts[index].set(vec![index as u64 + 1; n_words]);
        self.gate.wait();
        loop {
            self.gate.wait();
            if self.done.load(Ordering::Acquire) {
                return;
            }
            let n_active = self.n_active.load(Ordering::Acquire);
            if index < n_active {
                let start = Instant::now();
                let mine = self.parts.iter().skip(index).step_by(n_active);
                let sum = mine.fold(0u64, |sum, part| {
                    let words = part.get().map_or(&[][..], Vec::as_slice);
                    sum.wrapping_add(total(words))
                });
                black_box(sum);
                let span = (start, Instant::now());
                self.spans
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(span);
            }
            self.gate.wait();
        }
    }

    /// Rounds with this many threads until the time is over.
    fn point(&self, n_active: usize, bytes: f64, time: Duration) -> BandwidthPoint {
        self.n_active.store(n_active, Ordering::Release);
        let start = Instant::now();
        let mut figures = Vec::new();
        while figures.len() < ROUNDS_MIN || (figures.len() < ROUNDS_MAX && start.elapsed() < time) {
            self.gate.wait();
            self.gate.wait();
            let spans =
                std::mem::take(&mut *self.spans.lock().unwrap_or_else(PoisonError::into_inner));
            let first = spans.iter().map(|(start, _)| *start).min();
            let last = spans.iter().map(|(_, end)| *end).max();
            if let (Some(first), Some(last)) = (first, last) {
                let seconds = last.duration_since(first).as_secs_f64();
                figures.push(bytes / seconds.max(1e-9) / 1e9);
            }
        }
        let n_rounds = figures.len();
        let (best, median) = best_and_median(figures);
        BandwidthPoint {
            n_cores: n_active,
            best_gb_per_second: best,
            median_gb_per_second: median,
            n_rounds,
        }
    }
}

/// The sum of all words. The plain loop: the compiler makes of it several sums side by side
/// in vector registers, 173 GB/s from a core's own cache on Zen 5. Written out by hand as
/// sixteen sums it became 22 GB/s, which is slower than memory.
fn total(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_and_counts_double() {
        let words: Vec<u64> = (0..1003).collect();
        assert_eq!(total(&words), 1002 * 1003 / 2);
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(4), [1, 2, 4]);
        assert_eq!(counts(6), [1, 2, 4, 6]);
    }
}
