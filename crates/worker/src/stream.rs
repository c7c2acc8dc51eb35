//! What a model makes of a text that is longer than its context, when the older half of the
//! context is dropped each time it is full: with the first tokens kept, and without.
//!
//! The same positions are judged with a context that was read afresh: windows that overlap by
//! half, of which each time the second half counts.

use anyhow::{Context as _, anyhow, bail, ensure};
use llama::{Batch, Context};
use proto::{CompareRequest, StreamReport, StreamRequest, StreamRow};

use crate::compare::{self, PASS, STEP};
use crate::types;

/// Ways of dropping that are tried at once.
const SINKS_MAX: usize = 8;
/// Parts of the text whose levels are told.
const PARTS: usize = 8;

/// Reads the text in each way. `progress` gets tokens that are read, and all.
///
/// # Errors
/// What of the request cannot be done, with the limit and the value; or what the engine refuses.
pub fn stream(
    request: &StreamRequest,
    progress: &mut dyn FnMut(u32, u32),
) -> anyhow::Result<StreamReport> {
    check(request)?;
    let ways = &request.sinks;
    let context = request.context as usize;
    let (model, file) = compare::open(&request.spec)?;
    let trained = model.context_train();
    ensure!(
        request.context <= trained,
        "a context of {context} tokens is more than the {trained} that the model was made for"
    );
    let begins_with = model.tokenize("", true, false);
    let mut text = model.tokenize(&request.text, false, false);
    text.truncate(request.tokens_max as usize);
    ensure!(
        text.len() > 2 * context,
        "the text has {} tokens, more than twice the context of {context} are needed; give a longer \
         text or a smaller window",
        text.len()
    );
    let types = types::chosen(&request.spec, &file).map_err(|failure| anyhow!(failure.message))?;
    let room = CompareRequest {
        spec: request.spec.clone(),
        piece_tokens: request.context,
        ..CompareRequest::default()
    };
    let params = compare::params(&room, types)?;
    let mut reader = Reader {
        context: Context::new(&model, &params)?,
        size: context,
        losses: Vec::new(),
    };
    if let Some(reason) = engine::cannot_shift(&model, &reader.context, &params) {
        bail!("this model cannot read on past its context: {reason}");
    }
    // Reading afresh goes over everything twice.
    let all = u32::try_from(text.len() * (ways.len() + 2))?;
    let mut n_read = 0;
    let mut tell = |n: usize| {
        n_read += u32::try_from(n).unwrap_or(u32::MAX);
        progress(n_read.min(all), all);
    };
    reader.read_afresh((&begins_with, &text), &mut tell)?;
    let afresh = std::mem::take(&mut reader.losses);
    let judged = context..text.len();
    let mut rows = Vec::new();
    for sinks in ways {
        let shifts = reader.read_on((&begins_with, &text), *sinks as usize, &mut tell)?;
        let losses = std::mem::take(&mut reader.losses);
        rows.push(StreamRow {
            sinks: *sinks,
            perplexity: perplexity(&losses[judged.clone()]),
            shifts,
            parts: parts(&losses[judged.clone()], &afresh[judged.clone()]),
        });
    }
    Ok(StreamReport {
        tokens: u32::try_from(text.len())?,
        positions: judged.len() as u64,
        in_context: perplexity(&afresh[judged]),
        rows,
    })
}

/// What can be told before a model is loaded.
fn check(request: &StreamRequest) -> anyhow::Result<()> {
    let ways = &request.sinks;
    ensure!(
        (1..=SINKS_MAX).contains(&ways.len()),
        "{} numbers of sinks were given, 1 to {SINKS_MAX} are tried at once; leave some out",
        ways.len()
    );
    let context = request.context as usize;
    let half = request.context / 2;
    ensure!(
        context >= 4 * STEP,
        "a context of {context} tokens is too short, it must have at least {}",
        4 * STEP
    );
    if let Some(sinks) = ways.iter().find(|sinks| **sinks > half) {
        bail!("{sinks} sinks are more than {half}, half of the context; give fewer");
    }
    Ok(())
}

/// Of surprises, in nats.
fn perplexity(losses: &[f64]) -> f64 {
    (losses.iter().sum::<f64>() / losses.len().max(1) as f64).exp()
}

fn parts(losses: &[f64], afresh: &[f64]) -> Vec<f64> {
    let len = losses.len().div_ceil(PARTS).max(1);
    let each = losses.chunks(len).zip(afresh.chunks(len));
    each.map(|(on, afresh)| perplexity(on) / perplexity(afresh))
        .collect()
}

struct Reader {
    context: Context,
    /// Cells of it.
    size: usize,
    /// By the token's place in the text: how little it was expected; 0 where it was not judged.
    losses: Vec<f64>,
}

impl Reader {
    fn read_afresh(
        &mut self,
        (begins_with, text): (&[i32], &[i32]),
        tell: &mut impl FnMut(usize),
    ) -> anyhow::Result<()> {
        self.losses = vec![0.0; text.len()];
        let window = self.size - begins_with.len();
        let half = window / 2;
        for from in (0..text.len()).step_by(window - half) {
            let to = (from + window).min(text.len());
            if from + half >= to {
                break;
            }
            self.context.clear();
            let first = [begins_with, &text[from..from + half]].concat();
            for (at, pass) in first.chunks(PASS as usize).enumerate() {
                self.decode(pass, at * PASS as usize, false)?;
            }
            // Of a step's rows each expects the token behind it, the last one that of the next.
            let mut n = first.len() - 1;
            self.context.truncate(0, i32::try_from(n)?);
            for step in (from + half..to).collect::<Vec<_>>().chunks(STEP) {
                self.judge(text, step, n)?;
                n += step.len();
            }
            tell(to - from);
        }
        Ok(())
    }

    /// How often something was dropped.
    fn read_on(
        &mut self,
        (begins_with, text): (&[i32], &[i32]),
        sinks: usize,
        tell: &mut impl FnMut(usize),
    ) -> anyhow::Result<u32> {
        self.losses = vec![0.0; text.len()];
        self.context.clear();
        let first = [begins_with, &text[..1]].concat();
        let mut n = first.len() - 1;
        if n > 0 {
            self.decode(&first[..n], 0, false)?;
        }
        let mut shifts = 0;
        for step in (1..text.len()).collect::<Vec<_>>().chunks(STEP) {
            if n + step.len() > self.size {
                let dropped = (n - sinks) / 2;
                let (from, by) = (i32::try_from(sinks)?, i32::try_from(dropped)?);
                ensure!(
                    self.context.shift(0, from, by),
                    "positions could not be moved"
                );
                n -= dropped;
                shifts += 1;
            }
            self.judge(text, step, n)?;
            n += step.len();
            tell(step.len());
        }
        Ok(shifts)
    }

    /// Judges the tokens at these places by what is expected behind those before them, which go
    /// to position `n` and on.
    fn judge(&mut self, text: &[i32], places: &[usize], n: usize) -> anyhow::Result<()> {
        let before: Vec<i32> = places.iter().map(|at| text[at - 1]).collect();
        self.decode(&before, n, true)?;
        for (row, at) in places.iter().enumerate() {
            let logits = self.context.logits(row).context("a row has no logits")?;
            self.losses[*at] = surprise(logits, text[*at]).context("it computes no number")?;
        }
        Ok(())
    }

    fn decode(&mut self, tokens: &[i32], from: usize, output: bool) -> anyhow::Result<()> {
        let mut batch = Batch::default();
        for (at, token) in tokens.iter().enumerate() {
            batch.push(*token, i32::try_from(from + at)?, 0, output);
        }
        Ok(self.context.decode(&mut batch)?)
    }
}

/// How little a token was expected, in nats.
fn surprise(logits: &[f32], token: i32) -> Option<f64> {
    let own = f64::from(*logits.get(usize::try_from(token).ok()?)?);
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits
        .iter()
        .map(|one| (f64::from(*one) - most).exp())
        .sum();
    let surprise = most + sum.ln() - own;
    surprise.is_finite().then_some(surprise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_their_positions() {
        let even = surprise(&[0.0; 4], 2).unwrap();
        assert!((even - 4.0f64.ln()).abs() < 1e-12);
        assert!(surprise(&[f32::NAN, 0.0], 1).is_none());
        assert!((perplexity(&[even; 5]) - 4.0).abs() < 1e-12);
        let parts = parts(&[even; 16], &[0.0; 16]);
        assert_eq!(parts.len(), PARTS);
        assert!(parts.iter().all(|part| (part - 4.0).abs() < 1e-12));
    }
}
