//! Filling the whole context of a server, and what it answers.

use crate::http::Client;
use crate::server::Server;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

const COMPLETIONS: &str = "/v1/completions";
/// Whoever reads his file again and again may take for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(240);
/// Tokens of each answer; the prompt leaves room for them.
const ANSWER_TOKENS: u32 = 4;
/// Tokens that a tokenizer may put before the prompt, and room at the end of a slot.
const SPARE_TOKENS: u32 = 8;
/// Tokens of the measured answer.
const DECODE_TOKENS: u32 = 24;
/// A thrashing server is given up after this time.
const DECODE_TIMEOUT: Duration = Duration::from_secs(60);

/// What to fill.
pub(super) struct Load {
    pub(super) context: u32,
    pub(super) slots: u32,
    /// The context that one request may fill alone, where one may.
    pub(super) alone: Option<u32>,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    pub(super) answers: usize,
    /// Of all prompts.
    pub(super) prompt_tokens: u64,
    pub(super) seconds: f64,
    /// Of one stream, after all was full.
    pub(super) decode_tokens_per_s: f64,
}

/// A prompt on each slot at once, together the whole context; then one that fills it alone.
///
/// # Errors
/// The first answer that did not come or is not as long as it must be.
pub(super) fn fill(server: &Server, load: &Load) -> Result<Filled> {
    let client = Client::with_timeout(&server.base, ANSWER_TIMEOUT);
    let start = Instant::now();
    let per_slot = load.context / load.slots;
    let together: Vec<Result<u64>> = thread::scope(|scope| {
        let asking: Vec<_> = (0..load.slots)
            .map(|slot| {
                scope.spawn({
                    let client = &client;
                    move || ask(client, slot, per_slot)
                })
            })
            .collect();
        let join = |one: thread::ScopedJoinHandle<'_, Result<u64>>| match one.join() {
            Ok(answer) => answer,
            Err(_) => bail!("a prompt's thread panicked"),
        };
        asking.into_iter().map(join).collect()
    });
    let mut counts = together.into_iter().collect::<Result<Vec<u64>>>()?;
    if let Some(context) = load.alone {
        counts.push(ask(&client, load.slots, context)?);
    }
    Ok(Filled {
        answers: counts.len(),
        prompt_tokens: counts.iter().sum(),
        seconds: start.elapsed().as_secs_f64(),
        decode_tokens_per_s: decode_tokens_per_s(server)?,
    })
}

/// Asks with a prompt that fills `room` tokens together with its answer; gives the prompt's
/// tokens as the server counted them.
fn ask(client: &Client, number: u32, room: u32) -> Result<u64> {
    let n_tokens = room.saturating_sub(ANSWER_TOKENS + SPARE_TOKENS);
    let body = json!({
        "prompt": tokens(number, n_tokens),
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": true,
    });
    let answer = client.post(COMPLETIONS, &body)?;
    let usage = |name: &str| answer["usage"][name].as_u64();
    let counted = usage("prompt_tokens").context("an answer counts no prompt")?;
    let written = usage("completion_tokens").context("an answer counts no tokens")?;
    if counted < u64::from(n_tokens) || written != u64::from(ANSWER_TOKENS) {
        bail!("a prompt of {n_tokens} tokens was counted as {counted} and answered by {written}");
    }
    Ok(counted)
}

/// Tokens of plain bytes or words, in any vocabulary; no two numbers begin alike.
fn tokens(number: u32, n: u32) -> Vec<u32> {
    let first = 40 + number % 200;
    (0..n)
        .map(|at| {
            if at == 0 {
                first
            } else {
                40 + (at * 7 + number) % 200
            }
        })
        .collect()
}

/// How fast one stream decodes.
pub(super) fn decode_tokens_per_s(server: &Server) -> Result<f64> {
    let client = Client::with_timeout(&server.base, DECODE_TIMEOUT);
    let body = json!({
        "prompt": tokens(77, 16),
        "max_tokens": DECODE_TOKENS,
        "temperature": 0,
        "ignore_eos": true,
        "stream": true,
    });
    let start = Instant::now();
    let events = match client.stream(COMPLETIONS, &body) {
        Ok(events) => events,
        // So slow that it is told as at most this.
        Err(_) if start.elapsed() >= DECODE_TIMEOUT => {
            return Ok(f64::from(DECODE_TOKENS) / DECODE_TIMEOUT.as_secs_f64());
        }
        Err(error) => return Err(error),
    };
    let times: Vec<Duration> = events
        .iter()
        .filter(|event| is_token(&event.data))
        .map(|event| event.at)
        .collect();
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        bail!("a stream of {DECODE_TOKENS} tokens had no event");
    };
    // An answer in one piece was at least this fast.
    let seconds = last.saturating_sub(*first).as_secs_f64().max(1e-3);
    Ok(f64::from(DECODE_TOKENS - 1) / seconds)
}

fn is_token(event: &Value) -> bool {
    event["choices"][0]["text"].is_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_begin_differently_and_have_their_length() {
        let all: Vec<Vec<u32>> = (0..66).map(|number| tokens(number, 9)).collect();
        assert!(all.iter().all(|tokens| tokens.len() == 9));
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other[0] != one[0]));
        }
    }
}
