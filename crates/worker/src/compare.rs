//! What plans for the KV cache lose: the same text is read under each of them and under f16, in
//! step, and probabilities are compared position by position.
//!
//! All contexts share one model. The first half of a piece is read for its keys and values alone,
//! the second half is judged in small steps, so that logits of few rows are there at once. Then
//! the piece is continued by what f16 thinks most likely, until a plan thinks otherwise: up to
//! there a continuation of its own would have been the same.
//!
//! Weights in few bits make the engine round what it computes with, so that the smallest change of
//! a key is enlarged. The floor says by how much: it is f16 with the last bit of half of its
//! values changed.

mod trial;

use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use bench::divergence::{Divergence, Position, Prediction};
use kv::state::Form;
use llama::{Batch, CacheTypes, Context, ContextParams, Extent, LoadMode, Model, ModelParams};
use proto::{
    CompareKind, CompareReport, CompareRequest, CompareRow, DivergenceFacts, FlashAttention,
    LoadSpec,
};

use crate::{load, place, types};

use trial::Parker;
pub use trial::Trial;

/// Rows whose logits are there at once.
pub(crate) const STEP: usize = 32;
/// Tokens of a pass over a first half.
pub(crate) const PASS: u32 = 512;
/// A piece has at least a step of each half.
pub const PIECE_TOKENS_MIN: u32 = 2 * STEP as u32;
/// Contexts that are in memory at once, the base and the floor among them.
pub const PLANS_MAX: usize = 14;
const BASE: &str = "f16";

/// Reads the text under all plans. `progress` gets pieces that are done, and all.
///
/// # Errors
/// What of the request cannot be done, with the limit and the value; or what the engine refuses.
pub fn compare(
    request: &CompareRequest,
    mut progress: impl FnMut(u32, u32),
) -> anyhow::Result<CompareReport> {
    let n_plans = request.plans.len();
    ensure!(
        n_plans <= PLANS_MAX,
        "{n_plans} plans were given, at most {PLANS_MAX} are compared at once; leave some out"
    );
    let (model, file) = open(&request.spec)?;
    let pieces = pieces(&model, request)?;
    let mut readers = readers(&model, (request, &file))?;
    let n_pieces = u32::try_from(pieces.len())?;
    for (at, piece) in pieces.iter().enumerate() {
        read_piece(&mut readers, piece, request.answer_tokens)
            .with_context(|| format!("piece {} of the text", at + 1))?;
        progress(u32::try_from(at + 1)?, n_pieces);
    }
    let rows: Option<Vec<CompareRow>> = readers.iter().map(Reader::row).collect();
    let rows = rows.context("no position was judged")?;
    let judged = readers
        .iter()
        .map(|one| one.judged.iter().flatten().count());
    Ok(CompareReport {
        pieces: n_pieces,
        positions: judged.max().unwrap_or(0) as u64,
        rows,
    })
}

/// The model, without a context.
pub(crate) fn open(spec: &LoadSpec) -> anyhow::Result<(Model, models::Facts)> {
    let file = load::check_file(spec).map_err(|failure| anyhow!(failure.message))?;
    ensure!(
        !file.is_embedder,
        "{} only embeds texts; it has no context whose types could be compared",
        spec.path.display()
    );
    llama::init(crate::log_line, load::kernels(spec, &file));
    let params = ModelParams {
        load_mode: LoadMode::Mmap,
        offload: None,
    };
    let model = Model::load(&spec.path, params, |_| true)?;
    Ok((model, file))
}

/// The text in pieces of one length, each with the token that the model begins with.
pub(crate) fn pieces(model: &Model, request: &CompareRequest) -> anyhow::Result<Vec<Vec<i32>>> {
    let len = request.piece_tokens;
    let trained = model.context_train();
    let room = trained.saturating_sub(request.answer_tokens);
    ensure!(
        (PIECE_TOKENS_MIN..=room).contains(&len),
        "a piece has {len} tokens; with this model it must have {PIECE_TOKENS_MIN} to {room}, its \
         {trained} less {} of the continuation",
        request.answer_tokens
    );
    let begins_with = model.tokenize("", true, false);
    let tokens = model.tokenize(&request.text, false, false);
    let body = (len as usize).saturating_sub(begins_with.len()).max(1);
    let whole = tokens.chunks_exact(body).take(request.pieces_max as usize);
    let pieces: Vec<_> = whole
        .map(|piece| [&begins_with[..], piece].concat())
        .collect();
    ensure!(
        !pieces.is_empty(),
        "the text has {} tokens, a piece {len}; give a longer text or shorter pieces",
        tokens.len()
    );
    Ok(pieces)
}

/// A context and what it said.
pub(crate) struct Reader {
    pub(crate) kind: CompareKind,
    pub(crate) plan: String,
    pub(crate) token_bytes: u64,
    context: Context,
    change: Option<Change>,
    pub(crate) judged: Vec<Vec<Position>>,
    first_differences: Vec<Option<u32>>,
    prefill: Rate,
    decode: Rate,
}

/// What becomes of cells after they were computed.
enum Change {
    /// The floor: last bits are changed.
    LastBits(Form),
    Parked(Box<Parker>),
}

#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    tokens: usize,
    time: Duration,
}

impl Rate {
    fn per_second(self) -> Option<f64> {
        let seconds = self.time.as_secs_f64();
        (self.tokens > 0 && seconds > 0.0).then(|| self.tokens as f64 / seconds)
    }
}

pub(crate) fn readers(
    model: &Model,
    (request, file): (&CompareRequest, &models::Facts),
) -> anyhow::Result<Vec<Reader>> {
    let shape = shape(file)?;
    let plans = request
        .plans
        .iter()
        .map(|plan| (CompareKind::Plan, plan.as_str()));
    let first = [(CompareKind::Base, BASE), (CompareKind::Floor, BASE)];
    let mut readers = Vec::new();
    for (kind, plan) in first.into_iter().chain(plans) {
        let trial = plan.parse::<Trial>().ok();
        let spec = LoadSpec {
            kv_plan: Some(trial.map_or(plan, |_| BASE).to_owned()),
            ..request.spec.clone()
        };
        let types = types::chosen(&spec, file).map_err(|failure| anyhow!(failure.message))?;
        let asked = types::types_asked(&spec).map_err(|failure| anyhow!(failure.message))?;
        let mut reader = Reader {
            kind,
            plan: trial.map_or_else(|| asked.to_string(), |trial| trial.to_string()),
            token_bytes: asked.token_bytes(&shape)?,
            context: Context::new(model, &params(request, types)?)?,
            change: None,
            judged: Vec::new(),
            first_differences: Vec::new(),
            prefill: Rate::default(),
            decode: Rate::default(),
        };
        if kind == CompareKind::Floor {
            let form = form(model, &mut reader.context)?;
            reader.change = form.map(Change::LastBits);
            // Without it nobody knows the floor.
            if reader.change.is_none() {
                continue;
            }
        }
        if let Some(trial) = trial {
            let form = form(model, &mut reader.context)?;
            let form = form.context("states of this model cannot be taken apart")?;
            reader.change = Some(Change::Parked(Box::new(Parker::new(trial, form, &shape))));
        }
        readers.push(reader);
    }
    Ok(readers)
}

/// Which layers keep keys and values.
pub(crate) fn shape(file: &models::Facts) -> anyhow::Result<kv::Shape> {
    let headers: Result<Vec<_>, _> = file
        .files
        .iter()
        .map(|file| models::Gguf::open(file))
        .collect();
    Ok(planner::Model::read(&headers?)?.shape)
}

/// Of one sequence with room for a piece and its continuation.
pub(crate) fn params(request: &CompareRequest, types: CacheTypes) -> anyhow::Result<ContextParams> {
    let cores = place::choose(&request.spec, &hardware::DefaultCores::read())
        .map_err(|failure| anyhow!(failure.message))?;
    Ok(ContextParams {
        cells: request.piece_tokens + request.answer_tokens,
        batch: PASS,
        ubatch: PASS,
        sequences: 1,
        outputs: STEP as u32,
        placement: cores,
        types,
        flash_attention: match request.spec.flash_attention {
            None | Some(FlashAttention::Auto) => llama::FlashAttention::Auto,
            Some(FlashAttention::On) => llama::FlashAttention::On,
            Some(FlashAttention::Off) => llama::FlashAttention::Off,
        },
        swa_full: request.spec.swa_full.unwrap_or(false),
        embeddings: None,
    })
}

fn form(model: &Model, context: &mut Context) -> anyhow::Result<Option<Form>> {
    let mut batch = Batch::default();
    for at in 0..3 {
        batch.push(model.bos().unwrap_or(0), at, 0, at == 2);
    }
    context.decode(&mut batch)?;
    let form = engine::find_form(model, context);
    context.clear();
    Ok(form)
}

pub(crate) fn read_piece(
    readers: &mut [Reader],
    piece: &[i32],
    answer_tokens: u32,
) -> anyhow::Result<()> {
    let half = piece.len() / 2;
    for reader in readers.iter_mut() {
        reader.context.clear();
        reader.judged.push(Vec::new());
        reader.read_first(&piece[..half])?;
    }
    let mut last = Vec::new();
    for from in (half..piece.len()).step_by(STEP) {
        let to = (from + STEP).min(piece.len());
        let next: Vec<i32> = piece[from..to].iter().skip(1).copied().collect();
        let next: Vec<i32> = next.into_iter().chain(piece.get(to).copied()).collect();
        let mut base: Vec<Prediction> = Vec::new();
        for reader in readers.iter_mut() {
            let said = reader.step(&piece[from..to], from)?;
            match reader.kind {
                CompareKind::Base => base = said,
                CompareKind::Floor | CompareKind::Plan => reader.judge(&base, &said, &next),
            }
        }
        last = base;
    }
    let Some(first) = last.last().map(Prediction::top) else {
        return Ok(());
    };
    continue_piece(readers, (piece.len(), first), answer_tokens)
}

/// The base's greedy continuation, and where each of the others leaves it.
fn continue_piece(
    readers: &mut [Reader],
    (at, first): (usize, usize),
    answer_tokens: u32,
) -> anyhow::Result<()> {
    let Some((base, others)) = readers.split_first_mut() else {
        return Ok(());
    };
    let mut tokens = vec![i32::try_from(first)?];
    for _ in 1..answer_tokens {
        let said = base.next(&tokens, at)?;
        tokens.push(i32::try_from(said)?);
    }
    for reader in others {
        let mut difference = None;
        // The first of them is judged with the text.
        for n in 1..tokens.len() {
            if reader.next(&tokens[..n], at)? != usize::try_from(tokens[n])? {
                difference = Some(u32::try_from(n)?);
                break;
            }
        }
        reader.first_differences.push(difference);
    }
    Ok(())
}

impl Reader {
    fn read_first(&mut self, tokens: &[i32]) -> anyhow::Result<()> {
        let started = Instant::now();
        for (pass, from) in tokens
            .chunks(PASS as usize)
            .zip((0..).step_by(PASS as usize))
        {
            self.decode(pass, from, false)?;
        }
        self.prefill.time += started.elapsed();
        self.prefill.tokens += tokens.len();
        self.nudge(0)
    }

    /// What is thought behind each of these tokens.
    fn step(&mut self, tokens: &[i32], from: usize) -> anyhow::Result<Vec<Prediction>> {
        self.decode(tokens, from, true)?;
        let said: Option<Vec<_>> = (0..tokens.len())
            .map(|row| Prediction::new(self.context.logits(row)?))
            .collect();
        let said =
            said.with_context(|| format!("under `{}` it computes what is no number", self.plan))?;
        self.nudge(from)?;
        Ok(said)
    }

    /// The most likely token behind the last of a continuation that began at `at`.
    fn next(&mut self, tokens: &[i32], at: usize) -> anyhow::Result<usize> {
        let [.., last] = tokens else { return Ok(0) };
        let started = Instant::now();
        self.decode(&[*last], at + tokens.len() - 1, true)?;
        self.decode.time += started.elapsed();
        self.decode.tokens += 1;
        let said = self.context.logits(0).and_then(Prediction::new);
        let said =
            said.with_context(|| format!("under `{}` it computes what is no number", self.plan))?;
        Ok(said.top())
    }

    fn decode(&mut self, tokens: &[i32], from: usize, output: bool) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        for (at, token) in tokens.iter().enumerate() {
            batch.push(*token, i32::try_from(from + at)?, 0, output);
        }
        Ok(self.context.decode(&mut batch)?)
    }

    /// Changes what was kept from that position on, where that is wanted.
    fn nudge(&mut self, from: usize) -> anyhow::Result<()> {
        let Some(change) = &mut self.change else {
            return Ok(());
        };
        let state = self.context.state(0, Extent::Whole);
        let mut state = state.context("the state cannot be read")?;
        let changed = match change {
            Change::LastBits(form) => form.nudge(&mut state, from).map(|_| state),
            Change::Parked(parker) => parker.restored(&state, from),
        };
        let changed = changed.context("the state cannot be taken apart")?;
        ensure!(
            self.context.set_state(0, &changed),
            "the state cannot be put back"
        );
        Ok(())
    }

    fn judge(&mut self, base: &[Prediction], said: &[Prediction], next: &[i32]) {
        let each = base.iter().zip(said).zip(next);
        let positions = each.filter_map(|((base, said), next)| {
            Some(base.compare(said, usize::try_from(*next).ok()?))
        });
        if let Some(piece) = self.judged.last_mut() {
            piece.extend(positions);
        }
    }

    fn row(&self) -> Option<CompareRow> {
        let divergence = match self.kind {
            CompareKind::Base => None,
            CompareKind::Floor | CompareKind::Plan => Some(self.divergence()?),
        };
        let parker = match &self.change {
            Some(Change::Parked(parker)) => Some(&**parker),
            _ => None,
        };
        let (save_tps, load_tps) = parker.and_then(Parker::speeds).unzip();
        Some(CompareRow {
            kind: self.kind,
            plan: self.plan.clone(),
            token_bytes: parker.map_or(self.token_bytes, Parker::token_bytes),
            save_tps,
            load_tps,
            divergence,
            prefill_tps: self.prefill.per_second(),
            decode_tps: self.decode.per_second(),
        })
    }

    pub(crate) fn divergence(&self) -> Option<DivergenceFacts> {
        let of = Divergence::of(&self.judged)?;
        Some(DivergenceFacts {
            kld_mean: of.mean.value,
            kld_mean_error: of.mean.error,
            kld_median: of.median,
            kld_p99: of.p99,
            kld_p999: of.p999,
            kld_max: of.most,
            top1: of.agreement.value,
            top1_error: of.agreement.error,
            perplexity_ratio: of.perplexity_ratio.value,
            perplexity_ratio_error: of.perplexity_ratio.error,
            first_differences: self.first_differences.clone(),
        })
    }
}
