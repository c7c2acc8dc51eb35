//! How much prefill may share a pass with running streams.

use std::time::Duration;

/// Smallest chunk: below it the fixed cost of a pass outweighs the patience saved.
const CHUNK_MIN: usize = 32;
/// ggml's attention takes this many rows at once where there are as many, which is
/// cheaper, so larger chunks are whole multiples.
const TILE: usize = 64;
/// Chunk before anything was measured.
const CHUNK_FIRST: usize = 128;
/// Weight of the newest measurement; a few passes settle it.
const EMA_WEIGHT: f64 = 0.3;

/// Learns the cost of a prefill row and sizes chunks to a target delay.
#[derive(Debug)]
pub(crate) struct Pace {
    target: Duration,
    row_seconds: Option<f64>,
}

impl Pace {
    /// `target`: how long a pass with running streams in it should take.
    pub(crate) fn new(target: Duration) -> Self {
        Self {
            target,
            row_seconds: None,
        }
    }

    /// Reports a pass of `rows` rows, most of them prefill.
    pub(crate) fn observe(&mut self, rows: usize, took: Duration) {
        if rows < CHUNK_MIN {
            return;
        }
        let sample = took.as_secs_f64() / rows as f64;
        self.row_seconds = Some(match self.row_seconds {
            Some(known) => known + EMA_WEIGHT * (sample - known),
            None => sample,
        });
    }

    /// Seconds that a row of a prompt takes, once that was measured.
    pub(crate) fn row_seconds(&self) -> Option<f64> {
        self.row_seconds
    }

    /// Prefill rows for a pass that also decodes.
    pub(crate) fn chunk(&self, rows_max: usize) -> usize {
        let rows = match self.row_seconds {
            Some(seconds) if seconds > 0.0 => (self.target.as_secs_f64() / seconds) as usize,
            _ => CHUNK_FIRST,
        };
        let tiled = if rows < TILE {
            rows
        } else {
            rows - rows % TILE
        };
        tiled.clamp(CHUNK_MIN.min(rows_max), rows_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunk_follows_the_measured_cost() {
        let mut pace = Pace::new(Duration::from_millis(100));
        assert_eq!(pace.chunk(512), CHUNK_FIRST);
        pace.observe(100, Duration::from_millis(100));
        assert_eq!(pace.chunk(512), 64);
        for _ in 0..50 {
            pace.observe(100, Duration::from_secs(100));
        }
        assert_eq!(pace.chunk(512), CHUNK_MIN);
        assert_eq!(pace.chunk(8), 8);
    }

    #[test]
    fn small_passes_say_nothing_about_prefill() {
        let mut pace = Pace::new(Duration::from_millis(100));
        pace.observe(4, Duration::from_secs(1));
        assert_eq!(pace.chunk(512), CHUNK_FIRST);
    }
}
