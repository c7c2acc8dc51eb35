//! What is measured. Every figure is taken by the client, from the wire.

use super::prompt::Prompts;
use crate::http::StreamEvent;
use crate::server::Server;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::thread;
use std::time::Instant;

pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    /// The lowest ratio that passes.
    pub(super) ratio_min: f64,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Better {
    Higher,
    Lower,
}

type Measure = fn(&Server, &Prompts, usize) -> Result<Vec<f64>>;

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) metrics: &'static [Metric],
    /// One sample for each metric, for the round of this number.
    pub(super) measure: Measure,
}

const fn speed(name: &'static str) -> Metric {
    Metric {
        name,
        unit: "tokens/s",
        better: Better::Higher,
        ratio_min: 1.0,
    }
}

const fn delay(name: &'static str, ratio_min: f64) -> Metric {
    Metric {
        name,
        unit: "ms",
        better: Better::Lower,
        ratio_min,
    }
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "prefill",
        metrics: &[speed("prefill of 512 tokens")],
        measure: prefill,
    },
    Case {
        name: "decode",
        metrics: &[speed("decode of 128 tokens")],
        measure: decode,
    },
    Case {
        name: "first token",
        metrics: &[delay("time to first token, 128-token prompt", 1.0)],
        measure: first_token,
    },
    Case {
        name: "1 stream",
        metrics: &[speed("1 stream, 128 tokens, prompt included")],
        measure: |server, prompts, round| streams(server, prompts, round, 1),
    },
    Case {
        name: "4 streams",
        metrics: &[speed("4 streams, sum of their tokens")],
        measure: |server, prompts, round| streams(server, prompts, round, 4),
    },
    Case {
        name: "8 streams",
        metrics: &[speed("8 streams, sum of their tokens")],
        measure: |server, prompts, round| streams(server, prompts, round, 8),
    },
    Case {
        name: "repeated prefix",
        metrics: &[
            delay("time to first token, 1,000-token prefix, first time", 1.0),
            // At most 1.1 times the peer's delay.
            delay(
                "time to first token, 1,000-token prefix, repeated",
                1.0 / 1.1,
            ),
        ],
        measure: repeated_prefix,
    },
];

const COMPLETIONS: &str = "/v1/completions";

struct Ask<'a> {
    prompt: &'a str,
    max_tokens: u32,
    cache: bool,
}

impl Ask<'_> {
    /// Greedy and never stopped early, so that both do the same work.
    fn body(&self, server: &Server) -> Result<Value> {
        Ok(json!({
            "model": model_id(server)?,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "ignore_eos": true,
            "cache_prompt": self.cache,
            "stream": true,
            "stream_options": {"include_usage": true},
        }))
    }

    fn stream(&self, server: &Server) -> Result<Stream> {
        Stream::run(server, &self.body(server)?)
    }
}

/// What one stream showed.
struct Stream {
    first_s: f64,
    last_s: f64,
    n_tokens: u64,
    n_prompt: u64,
}

impl Stream {
    fn run(server: &Server, body: &Value) -> Result<Self> {
        let events = server.client.stream(COMPLETIONS, body)?;
        let stream = Self::read(&events).with_context(|| format!("stream of {}", server.name))?;
        let (got, wanted) = (stream.n_tokens, &body["max_tokens"]);
        if *wanted != got {
            bail!("{} gave {got} tokens, not {wanted}", server.name);
        }
        Ok(stream)
    }

    fn read(events: &[StreamEvent]) -> Result<Self> {
        // A token that ends inside a character has no text, so with few tokens
        // there may be no text at all; any choice tells the time just as well.
        let arrivals = |wanted: fn(&Value) -> bool| -> Vec<f64> {
            events
                .iter()
                .filter(|event| wanted(&event.data["choices"][0]))
                .map(|event| event.at.as_secs_f64())
                .collect()
        };
        let mut times = arrivals(|choice| choice["text"].as_str().is_some_and(|t| !t.is_empty()));
        if times.is_empty() {
            times = arrivals(Value::is_object);
        }
        let usage = events
            .iter()
            .rev()
            .map(|event| &event.data["usage"])
            .find(|usage| usage.is_object())
            .context("no event carries usage")?;
        let count = |name: &str| usage[name].as_u64().with_context(|| format!("no {name}"));
        Ok(Self {
            first_s: *times.first().context("no event carries a choice")?,
            last_s: *times.last().context("no event carries a choice")?,
            n_tokens: count("completion_tokens")?,
            n_prompt: count("prompt_tokens")?,
        })
    }
}

/// A request that does not count: pages are touched and threads awake after it.
pub(super) fn warm_up(server: &Server, prompts: &Prompts) -> Result<()> {
    let prompt = prompts.text(128, 0)?;
    uncached(&prompt, 32).stream(server)?;
    Ok(())
}

fn prefill(server: &Server, prompts: &Prompts, round: usize) -> Result<Vec<f64>> {
    let prompt = prompts.text(512, 1000 + round)?;
    let stream = uncached(&prompt, 1).stream(server)?;
    if stream.n_prompt != 512 {
        bail!(
            "{} counted {} prompt tokens, not 512",
            server.name,
            stream.n_prompt
        );
    }
    Ok(vec![512.0 / stream.first_s])
}

fn decode(server: &Server, prompts: &Prompts, round: usize) -> Result<Vec<f64>> {
    let prompt = prompts.text(16, 2000 + round)?;
    let stream = uncached(&prompt, 128).stream(server)?;
    Ok(vec![127.0 / (stream.last_s - stream.first_s)])
}

fn first_token(server: &Server, prompts: &Prompts, round: usize) -> Result<Vec<f64>> {
    let prompt = prompts.text(128, 3000 + round)?;
    let stream = uncached(&prompt, 8).stream(server)?;
    Ok(vec![1e3 * stream.first_s])
}

fn streams(server: &Server, prompts: &Prompts, round: usize, n: usize) -> Result<Vec<f64>> {
    let bodies: Vec<Value> = (0..n)
        .map(|index| {
            let prompt = prompts.text(64, 4000 + 100 * round + index)?;
            uncached(&prompt, 128).body(server)
        })
        .collect::<Result<_>>()?;
    let start = Instant::now();
    let tokens: u64 = thread::scope(|scope| {
        let running: Vec<_> = bodies
            .iter()
            .map(|body| scope.spawn(|| Stream::run(server, body)))
            .collect();
        running
            .into_iter()
            .map(|stream| match stream.join() {
                Ok(stream) => stream.map(|stream| stream.n_tokens),
                Err(_) => bail!("a stream's thread panicked"),
            })
            .sum::<Result<u64>>()
    })?;
    Ok(vec![tokens as f64 / start.elapsed().as_secs_f64()])
}

fn repeated_prefix(server: &Server, prompts: &Prompts, round: usize) -> Result<Vec<f64>> {
    let prefix = prompts.text(1000, 5000 + round)?;
    let ask = |question: &str| {
        let prompt = format!("{prefix}\n{question}");
        let ask = Ask {
            prompt: &prompt,
            max_tokens: 8,
            cache: true,
        };
        ask.stream(server).map(|stream| 1e3 * stream.first_s)
    };
    Ok(vec![
        ask("What comes first in this list?")?,
        ask("Which word is the longest one here?")?,
    ])
}

fn uncached(prompt: &str, max_tokens: u32) -> Ask<'_> {
    Ask {
        prompt,
        max_tokens,
        cache: false,
    }
}

fn model_id(server: &Server) -> Result<String> {
    let models = server.client.get("/v1/models")?;
    let id = models["data"][0]["id"].as_str();
    Ok(id
        .with_context(|| format!("{} lists no model", server.name))?
        .to_owned())
}
