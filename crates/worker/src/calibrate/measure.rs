//! How much the predictions of a model suffer from errors in the keys or the values of one layer.
//!
//! A piece is read in 16 bits; then, for each tensor, twice more with each of its rows changed when it
//! is stored: once with the errors that rounding to 4 bits makes, enlarged; once with the last
//! bit of every second value changed, which is the floor. All that is read after a row looks back at
//! the changed one, and what deeper layers keep of it suffers too, as in a cache of such a type. (Of
//! states that are changed when they are complete the latter is missing, and what the first
//! layers lose is mostly that.)
//!
//! Errors are those of the live cache: after the rotation by which llama.cpp spreads outliers, and
//! by ggml's own rounding. The floor differs from layer to layer: what is changed early is
//! enlarged by all that follows.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use bench::divergence::{Position, Prediction, difference};
use kv::calibrate::Sensitivity;
use kv::{CacheType, Shape, Side, Types, rotate, rotation};
use llama::{Batch, CacheTypes, Context, Model, RowChange, narrow_f16, round_to, widen_f16};
use proto::{CompareRequest, TextFacts};

use crate::compare::{self, PASS, STEP};

use super::Work;

/// What tensors may have. Those of 32 bits and bf16 take no fewer bytes than f16 and are no nearer to
/// what the engine computes with.
const TYPES: [CacheType; 7] = [
    CacheType::F16,
    CacheType::Q8_0,
    CacheType::Q5_1,
    CacheType::Q5_0,
    CacheType::Q4_1,
    CacheType::Q4_0,
    CacheType::Iq4Nl,
];
/// Whose errors are made.
const PROBE: CacheType = CacheType::Q4_0;
/// By how much they are enlarged: four times the square, which one tensor alone needs to be told
/// from the floor, and as much as a type of 3 bits would lose.
const GAIN: f32 = 2.0;
/// Positions of a piece that are judged, at the end of it: its predictions are kept in memory.
const JUDGED_MAX: usize = 256;

/// Keys or values of one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    layer: u32,
    side: Side,
    /// Numbers of a token.
    row_values: u64,
    /// It is rotated in blocks of this many before it is rounded.
    block: Option<usize>,
}

/// All that a model keeps.
pub(super) fn tensors(shape: &Shape) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for (layer, at) in shape.layers.iter().zip(0..) {
        let Some(of) = layer.keys_values else {
            continue;
        };
        for (side, width) in [(Side::Keys, of.key_width), (Side::Values, of.value_width)] {
            tensors.push(Tensor {
                layer: at,
                side,
                row_values: of.heads * width,
                block: rotation(shape, layer, side),
            });
        }
    }
    tensors
}

/// Tokens that are read to measure them.
pub(super) fn tokens(tensors: &[Tensor], pieces: &[Vec<i32>]) -> u32 {
    let each = pieces.iter().map(|piece| 2 * tensors.len() * piece.len());
    u32::try_from(each.sum::<usize>()).unwrap_or(u32::MAX)
}

/// Tokens at the end of a piece that are judged, the last of which nothing follows.
fn judged(piece: &[i32]) -> usize {
    (piece.len() / 2).min(JUDGED_MAX)
}

/// What was found.
pub(super) struct Measured {
    pub(super) text: TextFacts,
    pub(super) tensors: Vec<Found>,
}

/// Of one tensor.
pub(super) struct Found {
    tensor: Tensor,
    /// Mean divergences of the change of last bits, and of enlarged errors.
    pub(super) floor: f64,
    pub(super) probe: f64,
    slope: f64,
    slope_error: f64,
    lost: Vec<(CacheType, f64)>,
}

impl Measured {
    pub(super) fn table(&self) -> Vec<Sensitivity> {
        let each = self.tensors.iter().map(|found| Sensitivity {
            layer: found.tensor.layer,
            side: found.tensor.side,
            row_values: found.tensor.row_values,
            slope: found.slope,
            slope_error: found.slope_error,
            lost: found.lost.clone(),
        });
        each.collect()
    }
}

/// Reads the pieces, once as they are and twice for each tensor.
pub(super) fn run(
    (model, reading): (&Model, &CompareRequest),
    (tensors, pieces): (&[Tensor], &[Vec<i32>]),
    work: &mut Work<'_>,
) -> anyhow::Result<Measured> {
    let types = CacheTypes::Uniform(Types::default());
    let params = compare::params(reading, types)?;
    let mut probe = Probe(Context::with_changes(model, &params)?);
    let mut all: Vec<Tally> = tensors.iter().map(|_| Tally::default()).collect();
    for (at, piece) in pieces.iter().enumerate() {
        probe
            .piece((tensors, &mut all), piece, work)
            .with_context(|| format!("piece {} of those that are measured", at + 1))?;
    }
    let positions = pieces.iter().map(|piece| judged(piece) as u64 - 1);
    let found = tensors.iter().zip(all);
    let found: Option<Vec<_>> = found.map(|(of, tally)| tally.found(*of)).collect();
    Ok(Measured {
        text: TextFacts {
            pieces: u32::try_from(pieces.len())?,
            positions: positions.sum(),
        },
        tensors: found.context("no position was judged")?,
    })
}

/// What was seen of a tensor.
#[derive(Default)]
struct Tally {
    floor: Vec<Vec<Position>>,
    probe: Vec<Vec<Position>>,
    /// In the hands of the context while it reads.
    lost: Arc<Mutex<Lost>>,
}

/// What types lose of the rows of a tensor.
#[derive(Debug, Clone, Copy, Default)]
struct Lost {
    /// The sum of all squares, and for each type that of its errors.
    square: f64,
    errors: [f64; TYPES.len()],
}

impl Lost {
    fn add(&mut self, tensor: &Tensor, row: &[u8]) {
        let values = turned(tensor, widen_f16(row));
        let square = |of: f32| f64::from(of) * f64::from(of);
        self.square += values.iter().map(|value| square(*value)).sum::<f64>();
        for (cache_type, sum) in TYPES.iter().zip(&mut self.errors) {
            let mut rounded = values.clone();
            round_to(*cache_type, &mut rounded);
            let pairs = values.iter().zip(&rounded);
            *sum += pairs.map(|(a, b)| square(a - b)).sum::<f64>();
        }
    }

    /// The shares of the square.
    fn shares(&self) -> Vec<(CacheType, f64)> {
        let each = TYPES.iter().zip(self.errors);
        let each = each.map(|(cache_type, error)| {
            let is_base = *cache_type == CacheType::F16;
            // Where all is 0 nothing is lost.
            let share = error / self.square.max(f64::MIN_POSITIVE);
            (*cache_type, if is_base { 0.0 } else { share })
        });
        each.collect()
    }
}

impl Tally {
    fn found(self, tensor: Tensor) -> Option<Found> {
        let more = difference(&self.probe, &self.floor)?;
        let lost = self
            .lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shares();
        let of_probe = lost.iter().find(|(cache_type, _)| *cache_type == PROBE)?.1;
        let made = of_probe * f64::from(GAIN).powi(2);
        let slope = |kld: f64| if made > 0.0 { kld / made } else { 0.0 };
        Some(Found {
            tensor,
            floor: mean(&self.floor),
            probe: mean(&self.probe),
            slope: slope(more.value),
            slope_error: slope(more.error.unwrap_or(0.0)),
            lost,
        })
    }
}

fn mean(pieces: &[Vec<Position>]) -> f64 {
    let all = || pieces.iter().flatten();
    all().map(|one| one.kld).sum::<f64>() / all().count().max(1) as f64
}

/// As a quantised cache keeps it, and back: it is the same twice.
fn turned(tensor: &Tensor, mut values: Vec<f32>) -> Vec<f32> {
    if let Some(block) = tensor.block {
        rotate(&mut values, block);
    }
    values
}

#[derive(Debug, Clone, Copy)]
enum Change {
    /// The last bit of every second value.
    LastBits,
    /// Enlarged errors of [`PROBE`].
    Errors,
}

impl Change {
    fn make(self, tensor: &Tensor, row: &mut [u8]) {
        match self {
            Self::LastBits => {
                for value in row.chunks_exact_mut(2).step_by(2) {
                    value[0] ^= 1;
                }
            }
            Self::Errors => {
                let mut values = turned(tensor, widen_f16(row));
                let mut rounded = values.clone();
                round_to(PROBE, &mut rounded);
                for (value, rounded) in values.iter_mut().zip(rounded) {
                    *value += GAIN * (rounded - *value);
                }
                narrow_f16(&turned(tensor, values), row);
            }
        }
    }
}

/// A context in 16 bits.
struct Probe(Context);

impl Probe {
    fn piece(
        &mut self,
        (tensors, all): (&[Tensor], &mut [Tally]),
        piece: &[i32],
        work: &mut Work<'_>,
    ) -> anyhow::Result<()> {
        let base = self.read(piece, None, |_, said| Some(said))?;
        let rest = &piece[piece.len() - judged(piece)..];
        let compare = |at: usize, said: Prediction| {
            let next = usize::try_from(*rest.get(at + 1)?).ok()?;
            Some(base.get(at)?.compare(&said, next))
        };
        for (tensor, tally) in tensors.iter().copied().zip(all) {
            let lost = Arc::clone(&tally.lost);
            let floor: RowChange = Box::new(move |row| {
                // The context reads in one thread.
                let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
                lost.add(&tensor, row);
                Change::LastBits.make(&tensor, row);
            });
            tally
                .floor
                .push(self.read(piece, Some((tensor, floor)), compare)?);
            work.add(piece.len());
            let errors: RowChange = Box::new(move |row| Change::Errors.make(&tensor, row));
            tally
                .probe
                .push(self.read(piece, Some((tensor, errors)), compare)?);
            work.add(piece.len());
        }
        Ok(())
    }

    /// Reads a piece with the rows of a tensor changed; `keep` makes of the prediction behind each
    /// judged token what is kept.
    fn read<T>(
        &mut self,
        piece: &[i32],
        change: Option<(Tensor, RowChange)>,
        keep: impl Fn(usize, Prediction) -> Option<T>,
    ) -> anyhow::Result<Vec<T>> {
        let changed = change.as_ref().map(|(tensor, _)| *tensor);
        self.0.clear();
        self.0
            .change_stored(change.map(|(tensor, change)| (tensor.layer, tensor.side, change)));
        let (prefix, rest) = piece.split_at(piece.len() - judged(piece));
        for (pass, from) in prefix
            .chunks(PASS as usize)
            .zip((0..).step_by(PASS as usize))
        {
            self.decode(pass, from, false)?;
        }
        let mut kept = Vec::new();
        for (step, at) in rest.chunks(STEP).zip((0..).step_by(STEP)) {
            self.decode(step, prefix.len() + at, true)?;
            for row in 0..step.len() {
                let said = self.0.logits(row).and_then(Prediction::new);
                let said = said.context("it computes what is no number")?;
                kept.extend(keep(at + row, said));
            }
        }
        let n_changed = self.0.n_stored_changed();
        self.0.change_stored(None);
        if let Some(Tensor { layer, .. }) = changed {
            ensure!(
                n_changed == piece.len() as u64,
                "of layer {layer} {n_changed} rows were stored in 16 bits, {} were expected; with \
                 flash attention off values have no rows, turn it on",
                piece.len()
            );
        }
        Ok(kept)
    }

    fn decode(&mut self, tokens: &[i32], from: usize, output: bool) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        for (at, token) in tokens.iter().enumerate() {
            batch.push(*token, i32::try_from(from + at)?, 0, output);
        }
        Ok(self.0.decode(&mut batch)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::tiny::{self, Family};

    fn shape(family: Family) -> Shape {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        std::fs::write(&path, tiny::gguf(family)).unwrap();
        compare::shape(&models::diagnose(&path).unwrap()).unwrap()
    }

    #[test]
    fn each_layer_that_keeps_keys_is_measured_on_both_sides() {
        for (family, layers) in [
            (Family::Gemma3, vec![0, 1, 2, 3, 4, 5]),
            (Family::FalconH1, vec![0, 1]),
        ] {
            let shape = shape(family);
            let expected = layers
                .into_iter()
                .flat_map(|at| [(at, Side::Keys), (at, Side::Values)]);
            let found = tensors(&shape).into_iter().map(|one| (one.layer, one.side));
            assert!(found.eq(expected), "{family:?}");
        }
    }

    #[test]
    fn errors_are_enlarged_and_last_bits_are_not() {
        let tensor = Tensor {
            layer: 0,
            side: Side::Keys,
            row_values: 64,
            block: Some(64),
        };
        let values: Vec<f32> = (0..64_u8).map(|at| (f32::from(at) * 1.7).sin()).collect();
        let mut row = vec![0; 128];
        narrow_f16(&values, &mut row);
        let after = |change: Change| {
            let mut row = row.clone();
            change.make(&tensor, &mut row);
            let pairs = widen_f16(&row)
                .into_iter()
                .zip(widen_f16(&row_before(&values)));
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let mut lost = Lost::default();
        lost.add(&tensor, &row);
        let place = TYPES.iter().position(|of| *of == PROBE).unwrap();
        let made = after(Change::Errors) / lost.errors[place];
        assert!((3.9..4.1).contains(&made), "{made}");
        assert!(after(Change::LastBits) < lost.errors[place] / 100.0);
        assert!(after(Change::LastBits) > 0.0);
    }

    fn row_before(values: &[f32]) -> Vec<u8> {
        let mut row = vec![0; 2 * values.len()];
        narrow_f16(values, &mut row);
        row
    }
}
