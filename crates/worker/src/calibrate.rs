//! Plans for the KV cache by measurement: what the keys and the values of each layer lose, the plan
//! of least loss for a budget, and whether it holds on text that it was not made by.
//!
//! Some pieces of the text are for measuring ([`measure`]), the others for judging: those are read
//! under the plan that came out and under the pairs of types that the budget also allows, all at
//! once. A plan stands only if it is nearer to f16 than the best pair by more than chance;
//! differences are taken position by position, and their error over pieces.

mod measure;

use std::time::Instant;

use anyhow::{Context as _, anyhow, ensure};
use bench::divergence::difference;
use kv::calibrate::{
    Budget, Calibrated, Control, Sensitivity, calibrate as best, control, first_layers,
    uniform_pairs,
};
use kv::{CacheType, Side, Types};
use llama::Model;
use proto::{
    BudgetFacts, CalibrateReport, CalibrateRequest, CompareKind, CompareRequest, GainFacts,
    LoadSpec, TensorFacts, TextFacts, TypeFacts, VerifyKind, VerifyRow,
};

use crate::compare::{self, Reader};
use crate::types;

use measure::Measured;

/// Pieces that sensitivities are measured on at most. More of them take longer and say little more;
/// more text serves the judgement.
const MEASURED_PIECES_MAX: usize = 4;
/// The least of each part: an error needs two.
const PART_PIECES_MIN: usize = 2;
/// Pairs of types that are judged: those that should be best.
const PAIRS_JUDGED: usize = 3;
/// Shuffled sensitivities that are judged.
const RANDOM_CONTROLS: u64 = 3;
/// Budgets of one run.
pub const BUDGETS_MAX: usize = 8;

/// Measures the layers of a model and makes a plan for each budget. `progress` gets what is done,
/// and all that there is to do, in tokens.
///
/// # Errors
/// What of the request cannot be done, with the limit and the value; or what the engine refuses.
pub fn calibrate(
    request: &CalibrateRequest,
    mut progress: impl FnMut(u32, u32),
) -> anyhow::Result<CalibrateReport> {
    let n_budgets = request.budgets.len();
    ensure!(
        (1..=BUDGETS_MAX).contains(&n_budgets),
        "{n_budgets} budgets were given; give 1 to {BUDGETS_MAX}"
    );
    let (model, file) = compare::open(&request.spec)?;
    let shape = compare::shape(&file)?;
    check_types(&request.spec, (&file, &shape))?;
    let budgets = budgets(&request.budgets, &shape)?;
    let reading = CompareRequest {
        spec: request.spec.clone(),
        plans: Vec::new(),
        text: request.text.clone(),
        piece_tokens: request.piece_tokens,
        pieces_max: request.pieces_max,
        // Plans are judged by the text alone.
        answer_tokens: 1,
    };
    let pieces = compare::pieces(&model, &reading)?;
    let parts = Parts::new(pieces)?;
    let tensors = measure::tensors(&shape);
    let judged = u32::try_from(n_budgets * parts.held_out.len() * contexts(request))?;
    let judged = judged.saturating_mul(request.piece_tokens);
    let mut work = Work {
        done: 0,
        all: measure::tokens(&tensors, &parts.measured).saturating_add(judged),
        tell: &mut progress,
    };
    let started = Instant::now();
    let measured = measure::run((&model, &reading), (&tensors, &parts.measured), &mut work)?;
    let measure_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let table = measured.table();
    let bench = Verify {
        model: &model,
        file: &file,
        reading,
        held_out: &parts.held_out,
        with_controls: request.with_controls,
        contexts: contexts(request),
    };
    let mut outcomes = Vec::new();
    let mut held_out = TextFacts::default();
    for (text, bytes) in request.budgets.iter().zip(budgets) {
        let (outcome, positions) = bench.budget(&table, (text, bytes), &mut work)?;
        outcomes.push(outcome);
        held_out = positions;
    }
    Ok(CalibrateReport {
        measured: measured.text,
        held_out,
        f16_bytes: Budget::Share(1.0).bytes(&shape)?,
        tensors: facts(&measured, &table),
        budgets: outcomes,
        measure_seconds,
        verify_seconds: started.elapsed().as_secs_f64(),
    })
}

/// How far it is.
struct Work<'a> {
    done: u32,
    all: u32,
    tell: &'a mut dyn FnMut(u32, u32),
}

impl Work<'_> {
    fn add(&mut self, tokens: usize) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.done = self.done.saturating_add(tokens).min(self.all);
        (self.tell)(self.done, self.all);
    }
}

/// Whether layers of this model can have types of their own, before anything is measured.
fn check_types(spec: &LoadSpec, (file, shape): (&models::Facts, &kv::Shape)) -> anyhow::Result<()> {
    let layers = shape.layers.iter().zip(0_u32..);
    let keeps: Vec<u32> = layers
        .filter_map(|(layer, at)| layer.keys_values.map(|_| at))
        .collect();
    let first = keeps
        .first()
        .context("the model keeps no keys and values whose types could be chosen")?;
    let four = |at: u32| [Side::Keys, Side::Values].map(|side| (at, side, CacheType::Q4_0));
    let others = keeps[1..]
        .iter()
        .flat_map(|at| [Side::Keys, Side::Values].map(|side| (*at, side, CacheType::F16)));
    let mixed = kv::TypePlan::from_tensors(four(*first).into_iter().chain(others));
    let spec = LoadSpec {
        kv_plan: Some(mixed.to_string()),
        ..spec.clone()
    };
    types::chosen(&spec, file).map_err(|failure| anyhow!(failure.message))?;
    Ok(())
}

/// Bytes of a token; those that nothing fits are told before the hours of measuring.
fn budgets(texts: &[String], shape: &kv::Shape) -> anyhow::Result<Vec<u64>> {
    let four = Types {
        keys: CacheType::Q4_0,
        values: CacheType::Q4_0,
    };
    let least = Budget::Pair(four).bytes(shape)?;
    let each = texts.iter().map(|text| -> anyhow::Result<u64> {
        let bytes = text.parse::<Budget>()?.bytes(shape)?;
        ensure!(
            bytes >= least,
            "the budget `{text}` is {bytes} bytes a token, and the keys and values of this model \
             take at least {least}, in q4_0; give at least {least}"
        );
        Ok(bytes)
    });
    each.collect()
}

/// Pieces for measuring, and the others.
struct Parts {
    measured: Vec<Vec<i32>>,
    held_out: Vec<Vec<i32>>,
}

impl Parts {
    /// Pieces for measuring are spread over the text, at most every second.
    fn new(pieces: Vec<Vec<i32>>) -> anyhow::Result<Self> {
        let n = pieces.len();
        ensure!(
            n >= 2 * PART_PIECES_MIN,
            "the text has {n} pieces, and {} are needed: {PART_PIECES_MIN} to measure and others to \
             judge by; give a longer text, more tokens or shorter pieces",
            2 * PART_PIECES_MIN
        );
        let n_measured = (n / 2).min(MEASURED_PIECES_MAX);
        let mut parts = Self {
            measured: Vec::new(),
            held_out: Vec::new(),
        };
        for (at, piece) in pieces.into_iter().enumerate() {
            let next = parts.measured.len() * n / n_measured;
            match at == next && parts.measured.len() < n_measured {
                true => parts.measured.push(piece),
                false => parts.held_out.push(piece),
            }
        }
        Ok(parts)
    }
}

/// Contexts that read each piece that is judged, for one budget, at most.
fn contexts(request: &CalibrateRequest) -> usize {
    let controls = RANDOM_CONTROLS as usize + 2;
    3 + PAIRS_JUDGED + if request.with_controls { controls } else { 0 }
}

struct Verify<'a> {
    model: &'a Model,
    file: &'a models::Facts,
    reading: CompareRequest,
    held_out: &'a [Vec<i32>],
    with_controls: bool,
    /// Those that read at once, at most.
    contexts: usize,
}

impl Verify<'_> {
    /// The plan for a budget, and what became of it on other text.
    fn budget(
        &self,
        table: &[Sensitivity],
        (text, bytes): (&str, u64),
        work: &mut Work<'_>,
    ) -> anyhow::Result<(BudgetFacts, TextFacts)> {
        let plans = self.plans(table, bytes)?;
        let reading = CompareRequest {
            plans: plans
                .iter()
                .map(|(_, made)| made.plan.to_string())
                .collect(),
            ..self.reading.clone()
        };
        let mut readers = compare::readers(self.model, (&reading, self.file))?;
        for (at, piece) in self.held_out.iter().enumerate() {
            compare::read_piece(&mut readers, piece, reading.answer_tokens)
                .with_context(|| format!("piece {} of those that judge", at + 1))?;
            work.add(self.contexts * piece.len());
        }
        let judged: Vec<&Reader> = readers
            .iter()
            .filter(|reader| reader.kind == CompareKind::Plan)
            .collect();
        let mut rows = Vec::new();
        for floor in readers.iter().filter(|one| one.kind == CompareKind::Floor) {
            rows.push(row(VerifyKind::Floor, floor, None)?);
        }
        for ((kind, made), reader) in plans.iter().zip(&judged) {
            rows.push(row(*kind, reader, Some(made.excess))?);
        }
        let positions = judged
            .first()
            .map_or(0, |one| one.judged.iter().flatten().count());
        let held_out = TextFacts {
            pieces: u32::try_from(self.held_out.len())?,
            positions: positions as u64,
        };
        Ok((decide((text, bytes), rows, (&plans, &judged))?, held_out))
    }

    /// The calibrated one first, then pairs from the likeliest, then controls.
    fn plans(
        &self,
        table: &[Sensitivity],
        bytes: u64,
    ) -> anyhow::Result<Vec<(VerifyKind, Calibrated)>> {
        let mut plans = vec![(VerifyKind::Calibrated, best(table, bytes)?)];
        let pairs = uniform_pairs(table, bytes).into_iter().take(PAIRS_JUDGED);
        plans.extend(pairs.map(|pair| (VerifyKind::Uniform, pair)));
        if self.with_controls {
            let first = first_layers(table, bytes);
            plans.extend(first.map(|made| (VerifyKind::FirstLayers, made)));
            for seed in 0..RANDOM_CONTROLS {
                let made = control(table, Control::Random(seed), bytes)?;
                plans.push((VerifyKind::Random, made));
            }
            let made = control(table, Control::Inverted, bytes)?;
            plans.push((VerifyKind::Inverted, made));
        }
        Ok(plans)
    }
}

fn row(kind: VerifyKind, reader: &Reader, predicted: Option<f64>) -> anyhow::Result<VerifyRow> {
    let divergence = reader.divergence().context("no position was judged")?;
    let pieces = reader.judged.iter().filter(|piece| !piece.is_empty());
    let means = pieces.map(|piece| {
        let sum: f64 = piece.iter().map(|position| position.kld).sum();
        sum / piece.len() as f64
    });
    Ok(VerifyRow {
        kind,
        plan: reader.plan.clone(),
        token_bytes: reader.token_bytes,
        predicted,
        divergence,
        piece_klds: means.collect(),
    })
}

/// The calibrated plan where it is nearer to f16 than the best pair beyond chance, else that pair.
fn decide(
    (text, bytes): (&str, u64),
    rows: Vec<VerifyRow>,
    (plans, judged): (&[(VerifyKind, Calibrated)], &[&Reader]),
) -> anyhow::Result<BudgetFacts> {
    let calibrated = *judged.first().context("no plan was judged")?;
    let mean = |reader: &Reader| {
        let divergence = reader.divergence();
        divergence.map_or(f64::INFINITY, |of| of.kld_mean)
    };
    let pairs = plans.iter().zip(judged);
    let pairs = pairs.filter(|((kind, _), _)| *kind == VerifyKind::Uniform);
    let pair = pairs
        .map(|(_, reader)| *reader)
        .min_by(|a, b| mean(a).total_cmp(&mean(b)));
    let gain = pair.and_then(|pair| difference(&pair.judged, &calibrated.judged));
    let n_pieces = calibrated.judged.len();
    let gain = gain.map(|gain| GainFacts {
        mean: gain.value,
        low: gain.bounds(n_pieces).map(|bounds| bounds.0),
        high: gain.bounds(n_pieces).map(|bounds| bounds.1),
    });
    let is_better = gain.and_then(|gain| gain.low).is_some_and(|low| low > 0.0);
    // Where no pair fits there is nothing to fall back to.
    let is_calibrated = is_better || pair.is_none();
    let plan = pair.filter(|_| !is_calibrated).unwrap_or(calibrated);
    Ok(BudgetFacts {
        budget: text.to_owned(),
        bytes,
        plan: plan.plan.clone(),
        is_calibrated,
        uniform: pair.map(|pair| pair.plan.clone()),
        gain,
        rows,
    })
}

fn facts(measured: &Measured, table: &[Sensitivity]) -> Vec<TensorFacts> {
    let tensors = measured.tensors.iter().zip(table);
    let facts = tensors.map(|(of, sensitivity)| TensorFacts {
        layer: sensitivity.layer,
        side: side_name(sensitivity.side).to_owned(),
        floor: of.floor,
        probe: of.probe,
        types: sensitivity
            .choice()
            .candidates
            .into_iter()
            .map(|one| TypeFacts {
                cache_type: one.cache_type.to_string(),
                bytes: one.bytes,
                excess: one.excess,
                error: Some(one.error),
            })
            .collect(),
    });
    facts.collect()
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Keys => "k",
        Side::Values => "v",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both parts are spread over the text, and none is in both.
    #[test]
    fn pieces_are_for_measuring_or_for_judging() {
        let parts = |n: i32| Parts::new((0..n).map(|at| vec![at]).collect());
        let firsts = |pieces: &[Vec<i32>]| pieces.concat();
        let few = parts(5).unwrap();
        assert_eq!(firsts(&few.measured), [0, 2]);
        assert_eq!(firsts(&few.held_out), [1, 3, 4]);
        let many = parts(32).unwrap();
        assert_eq!(firsts(&many.measured), [0, 8, 16, 24]);
        assert_eq!(many.held_out.len(), 28);
        for n in 4..100 {
            let parts = parts(n).unwrap();
            let mut all = [firsts(&parts.measured), firsts(&parts.held_out)].concat();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
            let n_measured = usize::try_from(n / 2).unwrap().min(MEASURED_PIECES_MAX);
            assert_eq!(parts.measured.len(), n_measured, "{n}");
        }
        let Err(error) = parts(3) else {
            panic!("three are too few")
        };
        assert!(error.to_string().contains("3 pieces, and 4 are needed"));
    }
}
