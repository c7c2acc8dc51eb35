//! How much the predictions of a model suffer from errors in the keys or the values of one layer.
//!
//! A piece is read once, in 16 bits. Then, for each tensor, its state is taken back with that tensor
//! changed, and the tokens that follow are read again: once with the errors that rounding to 4
//! bits makes, enlarged; once with the last bit of every second value changed, which is the floor.
//! What is read is changed likewise after each step, so that errors lie in all that is looked
//! back at, as they do in a cache of that type.
//!
//! Errors are those of the live cache: after the rotation by which llama.cpp spreads outliers, and
//! by ggml's own rounding. The floor differs from layer to layer: what is changed early is
//! enlarged by all that follows.

use anyhow::{Context as _, ensure};
use bench::divergence::{Position, Prediction, difference};
use kv::calibrate::Sensitivity;
use kv::state::{Form, Place};
use kv::{CacheType, Shape, Side, Types, rotate, rotation};
use llama::{Batch, CacheTypes, Context, Extent, Model, narrow_f16, round_to, widen_f16};
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
const JUDGED_MAX: usize = 128;

/// Keys or values of one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    layer: u32,
    side: Side,
    place: Place,
    /// Numbers of a token.
    row_values: u64,
    /// It is rotated in blocks of this many before it is rounded.
    block: Option<usize>,
}

/// All that a model keeps.
pub(super) fn tensors(shape: &Shape) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    // Layers with a window have a cache of their own.
    let mut seen = [0_u32; 2];
    for (layer, at) in shape.layers.iter().zip(0..) {
        let Some(of) = layer.keys_values else {
            continue;
        };
        let is_windowed = layer.is_windowed && shape.window.is_some();
        let among = &mut seen[usize::from(is_windowed)];
        for (side, width) in [(Side::Keys, of.key_width), (Side::Values, of.value_width)] {
            tensors.push(Tensor {
                layer: at,
                side,
                place: Place {
                    is_windowed,
                    layer: *among,
                    side,
                },
                row_values: of.heads * width,
                block: rotation(shape, layer, side),
            });
        }
        *among += 1;
    }
    tensors
}

/// Tokens that are read to measure them.
pub(super) fn tokens(tensors: &[Tensor], pieces: &[Vec<i32>]) -> u32 {
    let each = pieces.iter().map(|piece| 2 * tensors.len() * judged(piece));
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
    (model, reading, file): (&Model, &CompareRequest, &models::Facts),
    (tensors, pieces): (&[Tensor], &[Vec<i32>]),
    work: &mut Work<'_>,
) -> anyhow::Result<Measured> {
    let types = CacheTypes::Uniform(Types::default());
    let mut context = compare::context(model, (reading, types))?;
    let form = compare::form(model, &mut context)?.with_context(|| {
        format!(
            "states of {} cannot be taken apart, so that its layers cannot be measured one by one; \
             compare plans of your own with `sextant kv compare`",
            file.architecture
        )
    })?;
    let mut probe = Probe { context, form };
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
    /// The sum of all squares, and for each type that of its errors.
    square: f64,
    errors: [f64; TYPES.len()],
}

impl Tally {
    fn found(self, tensor: Tensor) -> Option<Found> {
        let more = difference(&self.probe, &self.floor)?;
        let lost = TYPES.iter().zip(self.errors).map(|(cache_type, error)| {
            let is_base = *cache_type == CacheType::F16;
            // Where all is 0 nothing is lost.
            let share = error / self.square.max(f64::MIN_POSITIVE);
            (*cache_type, if is_base { 0.0 } else { share })
        });
        let lost: Vec<_> = lost.collect();
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

    /// What types lose of a row.
    fn row(&mut self, tensor: &Tensor, row: &[u8]) {
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

/// A context in 16 bits, and what its states look like.
struct Probe {
    context: Context,
    form: Form,
}

impl Probe {
    fn piece(
        &mut self,
        (tensors, all): (&[Tensor], &mut [Tally]),
        piece: &[i32],
        work: &mut Work<'_>,
    ) -> anyhow::Result<()> {
        let (prefix, rest) = piece.split_at(piece.len() - judged(piece));
        self.context.clear();
        for (pass, from) in prefix
            .chunks(PASS as usize)
            .zip((0..).step_by(PASS as usize))
        {
            self.decode(pass, from, false)?;
        }
        let mut state = self.state()?;
        for (tensor, tally) in tensors.iter().zip(&mut *all) {
            let read = self.form.change(&mut state, (tensor.place, 0), |row| {
                tally.row(tensor, row);
            });
            read.with_context(|| no_tensor(tensor))?;
        }
        let piece = Piece {
            state,
            prefix_len: prefix.len(),
            rest,
        };
        let base = self.read(&piece, None, |_, said| Some(said))?;
        for (tensor, tally) in tensors.iter().zip(all) {
            for change in [Change::LastBits, Change::Errors] {
                let positions = self.read(&piece, Some((tensor, change)), |at, said| {
                    let next = usize::try_from(*rest.get(at + 1)?).ok()?;
                    Some(base.get(at)?.compare(&said, next))
                })?;
                match change {
                    Change::LastBits => tally.floor.push(positions),
                    Change::Errors => tally.probe.push(positions),
                }
                work.add(rest.len());
            }
        }
        Ok(())
    }

    /// Reads what follows, with a tensor changed; `keep` makes of the prediction behind each token
    /// what is kept.
    fn read<T>(
        &mut self,
        piece: &Piece<'_>,
        change: Option<(&Tensor, Change)>,
        keep: impl Fn(usize, Prediction) -> Option<T>,
    ) -> anyhow::Result<Vec<T>> {
        let mut state = piece.state.clone();
        self.change(&mut state, change, 0)?;
        self.context.clear();
        let mut kept = Vec::new();
        for (step, at) in piece.rest.chunks(STEP).zip((0..).step_by(STEP)) {
            let from = piece.prefix_len + at;
            if at > 0 && change.is_some() {
                state = self.state()?;
                self.change(&mut state, change, from - STEP)?;
            }
            if at == 0 || change.is_some() {
                ensure!(
                    self.context.set_state(0, &state),
                    "the state cannot be put back"
                );
            }
            self.decode(step, from, true)?;
            for row in 0..step.len() {
                let said = self.context.logits(row).and_then(Prediction::new);
                let said = said.context("it computes what is no number")?;
                kept.extend(keep(at + row, said));
            }
        }
        Ok(kept)
    }

    fn change(
        &self,
        state: &mut [u8],
        change: Option<(&Tensor, Change)>,
        from: usize,
    ) -> anyhow::Result<()> {
        let Some((tensor, change)) = change else {
            return Ok(());
        };
        let made = self.form.change(state, (tensor.place, from), |row| {
            change.make(tensor, row);
        });
        made.with_context(|| no_tensor(tensor))?;
        Ok(())
    }

    fn state(&mut self) -> anyhow::Result<Vec<u8>> {
        let state = self.context.state(0, Extent::Whole);
        state.context("the state cannot be read")
    }

    fn decode(&mut self, tokens: &[i32], from: usize, output: bool) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        for (at, token) in tokens.iter().enumerate() {
            batch.push(*token, i32::try_from(from + at)?, 0, output);
        }
        Ok(self.context.decode(&mut batch)?)
    }
}

/// A piece that was read up to what is judged.
struct Piece<'a> {
    state: Vec<u8>,
    prefix_len: usize,
    rest: &'a [i32],
}

fn no_tensor(tensor: &Tensor) -> String {
    format!(
        "layer {} is not in the state as it was expected; with flash attention off values have no \
         rows, turn it on",
        tensor.layer
    )
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

    /// Layers with a window are counted apart from the others.
    #[test]
    fn places_are_those_of_the_two_caches() {
        let shape = shape(Family::Gemma3);
        let tensors = tensors(&shape);
        assert_eq!(tensors.len(), 2 * shape.layers_with_keys());
        for is_windowed in [false, true] {
            let of = tensors
                .iter()
                .filter(|one| one.place.is_windowed == is_windowed);
            let keys: Vec<_> = of.filter(|one| one.side == Side::Keys).collect();
            assert!(!keys.is_empty());
            for (at, one) in (0..).zip(keys) {
                assert_eq!(one.place.layer, at);
                assert_eq!(shape.layers[one.layer as usize].is_windowed, is_windowed);
            }
        }
    }

    #[test]
    fn errors_are_enlarged_and_last_bits_are_not() {
        let tensor = Tensor {
            layer: 0,
            side: Side::Keys,
            place: Place {
                is_windowed: false,
                layer: 0,
                side: Side::Keys,
            },
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
        let mut tally = Tally::default();
        tally.row(&tensor, &row);
        let place = TYPES.iter().position(|of| *of == PROBE).unwrap();
        let made = after(Change::Errors) / tally.errors[place];
        assert!((3.9..4.1).contains(&made), "{made}");
        assert!(after(Change::LastBits) < tally.errors[place] / 100.0);
        assert!(after(Change::LastBits) > 0.0);
    }

    fn row_before(values: &[f32]) -> Vec<u8> {
        let mut row = vec![0; 2 * values.len()];
        narrow_f16(values, &mut row);
        row
    }
}
