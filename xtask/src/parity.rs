//! Greedy output of both servers, token for token, on both test models; and of this
//! one with and without drafts.

use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::peer::{self, Peer};
use crate::server::{Server, Setting};
use crate::shell::root;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;

const TOKENS: u32 = 64;
/// How close two candidates must be for a difference to count as a tie that
/// rounding decides: about what one reordered f32 sum moves a logit by.
const TIE_NATS: f64 = 0.05;
/// The same for a pass over several rows against one: see `NEAR_TIE_LOGITS` in
/// `crates/engine/src/scheduler/collect.rs`.
const TIE_WITH_DRAFTS_NATS: f64 = 0.5;

/// Sextant keeps the whole cache of layers with a sliding window. Without this,
/// llama-server keeps little more than the window, which orders its cells otherwise,
/// and ends batches early to take checkpoints of it; both round differently. With
/// the same cache the answers can be compared, and log probabilities are equal too.
const PEER_FLAGS: &[&str] = &["--swa-full"];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Only models whose file name contains this text; nothing is written then.
    #[arg(long)]
    only: Option<String>,
    /// Ends with an error when an output differs and no tie explains it.
    #[arg(long)]
    strict: bool,
}

/// The short prompts; the long ones are made from [`LONG`].
const PROMPTS: &[&str] = &[
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "The three laws of thermodynamics are:\n1.",
    "Q: What is 17 + 25?\nA:",
    "Dear Ms. Alvarez,\n\nThank you for your letter of",
    "{\"name\": \"Ada\", \"born\": 1815, \"",
    "SELECT name, age FROM people WHERE",
    "Ingredients: flour, eggs, milk.\nMethod:",
    "La bibliothèque de la ville est",
    "Der Zug nach München fährt",
    "日本の首都は",
    "#include <stdio.h>\nint main(void) {",
    "The opposite of hot is",
    "| city | country |\n|---|---|\n| Rome |",
    "Water boils at 100 degrees Celsius because",
    "😀 means happy, 😢 means",
    "<html>\n<head>\n<title>",
];

/// Repeated until a prompt is longer than one batch of 512 tokens.
const LONG: &str = "A lighthouse keeper wrote down the weather every hour: wind, cloud, the \
     height of the waves and the ships that passed. ";
const LONG_REPEATS: [usize; 2] = [25, 45];

/// One generated token, as a server reports it.
struct Token {
    text: String,
    /// The candidates, best first, with their log probabilities.
    top: Vec<(String, f64)>,
}

struct Answer {
    text: String,
    tokens: Vec<Token>,
    /// Tokens drafted, and how many of them stood.
    drafted: (u64, u64),
}

impl Token {
    /// How much likelier the best candidate was than the second, in nats.
    fn margin(&self) -> f64 {
        match self.top.as_slice() {
            [first, second, ..] => first.1 - second.1,
            _ => f64::NAN,
        }
    }
}

impl Answer {
    /// The number of the token that byte `offset` of the text belongs to.
    fn token_at(&self, offset: usize) -> usize {
        let mut end = 0;
        let ends = self.tokens.iter().map(|token| {
            end += token.text.len();
            end
        });
        ends.take_while(|end| *end <= offset).count()
    }
}

/// The drafts asked of this server; llama-server is not asked for any.
#[derive(Clone, Copy)]
enum Drafts {
    Off,
    On,
}

enum Outcome {
    /// So many tokens.
    Same(usize),
    /// Different from this position on.
    Differs { at: usize, why: String, tie: bool },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let peer = peer::ensure()?;
    let mut report = format!(
        "# Greedy parity with llama-server\n\nWritten by `cargo xtask parity`. Raw completion \
         prompts, temperature 0, {TOKENS} tokens,\n{} threads, no prompt cache; llama-server is \
         {},\nwith `{}`.\n",
        arguments.threads,
        peer.version()?,
        PEER_FLAGS.join(" ")
    );
    let mut unexplained = 0;
    let wanted = |model: &&TestModel| match &arguments.only {
        Some(part) => model.file.contains(part),
        None => true,
    };
    for model in [&SMOLLM2, &GEMMA3].into_iter().filter(wanted) {
        for kernels in ["ggml", "own"] {
            let (table, faults) = one_model(model, kernels, &peer, arguments.threads)?;
            println!("{table}");
            report += &table;
            unexplained += faults;
        }
    }
    if arguments.only.is_none() {
        let folder = root().join("docs/benchmarks");
        fs::create_dir_all(&folder)?;
        let file = folder.join("parity.md");
        fs::write(&file, report)?;
        println!("written: {}", file.display());
    }
    anyhow::ensure!(
        unexplained == 0 || !arguments.strict,
        "{unexplained} outputs differ and no tie explains it"
    );
    Ok(())
}

/// The model's table on those kernels, and how many differences nothing explains.
fn one_model(
    model: &TestModel,
    kernels: &str,
    peer: &Peer,
    threads: u32,
) -> Result<(String, usize)> {
    // The same kernels round alike, other kernels as much apart as those for several rows.
    let tie_nats = if kernels == "ggml" {
        TIE_NATS
    } else {
        TIE_WITH_DRAFTS_NATS
    };
    let setting = Setting {
        model: models::ensure(model)?,
        threads,
        slots: 1,
        context_per_slot: 2048,
        our_flags: vec!["--kernels".to_owned(), kernels.to_owned()],
        peer_flags: PEER_FLAGS.iter().map(|flag| (*flag).to_owned()).collect(),
    };
    let theirs = Server::peer(peer, &setting)?;
    let ours = Server::ours(&setting)?;
    let long = LONG_REPEATS.map(|times| LONG.repeat(times));
    let prompts = PROMPTS
        .iter()
        .copied()
        .chain(long.iter().map(String::as_str));
    let mut table = String::new();
    let (mut same, mut count, mut unexplained) = (0, 0, 0);
    let (mut same_drafted, mut drafted, mut stood) = (0, 0, 0);
    for prompt in prompts {
        count += 1;
        let answer = ask(&ours, prompt, Drafts::Off)?;
        let with_drafts = ask(&ours, prompt, Drafts::On)?;
        drafted += with_drafts.drafted.0;
        stood += with_drafts.drafted.1;
        let mut cell = |outcome: Outcome, same: &mut usize| match outcome {
            Outcome::Same(tokens) => {
                *same += 1;
                format!("same, {tokens} tokens")
            }
            Outcome::Differs { at, why, tie } => {
                unexplained += usize::from(!tie);
                format!("differs from token {at}: {why}")
            }
        };
        let to_peer = cell(
            compare(&answer, &ask(&theirs, prompt, Drafts::Off)?, tie_nats),
            &mut same,
        );
        let to_self = cell(
            compare(&with_drafts, &answer, TIE_WITH_DRAFTS_NATS),
            &mut same_drafted,
        );
        let prompt = cell_text(prompt);
        let _ = writeln!(table, "| {count} | {prompt} | {to_peer} | {to_self} |");
    }
    let heading = format!(
        "\n## {}, kernels: {kernels}\n\n{same} of {count} outputs are the same as llama-server's. With drafts, \
         {same_drafted} of {count} are the same\nas without; {stood} of {drafted} drafted tokens \
         stood.\n\n| | prompt | against llama-server | drafts against none |\n|---|---|---|---|\n",
        model.file
    );
    Ok((heading + &table, unexplained))
}

fn ask(server: &Server, prompt: &str, drafts: Drafts) -> Result<Answer> {
    let models = server.client.get("/v1/models")?;
    let mut body = json!({
        "model": models["data"][0]["id"],
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "cache_prompt": false,
        "logprobs": 5,
    });
    if matches!(drafts, Drafts::On) {
        body["speculation"] = json!({"draft_tokens_max": 4, "ngram": 2});
    }
    let answer = server.client.post("/v1/completions", &body)?;
    let count = |key: &str| answer["sextant"][key].as_u64().unwrap_or(0);
    let choice = &answer["choices"][0];
    let text = choice["text"].as_str();
    Ok(Answer {
        text: text
            .with_context(|| format!("{}: no text in {answer}", server.name))?
            .to_owned(),
        tokens: tokens_of(&choice["logprobs"]),
        drafted: (count("draft_tokens"), count("draft_accepted_tokens")),
    })
}

/// Reads either shape of log probabilities: OpenAI's for completions (parallel
/// lists) or the one for chat (a list of tokens), which llama-server uses for both.
fn tokens_of(logprobs: &Value) -> Vec<Token> {
    if let Some(content) = logprobs["content"].as_array() {
        return content.iter().map(chat_token).collect();
    }
    let texts = logprobs["tokens"].as_array().into_iter().flatten();
    texts
        .zip(logprobs["top_logprobs"].as_array().into_iter().flatten())
        .map(|(text, top)| {
            let top = top.as_object().into_iter().flatten();
            token(text, top.map(|(text, value)| (text.clone(), value)))
        })
        .collect()
}

fn chat_token(item: &Value) -> Token {
    let top = item["top_logprobs"].as_array().into_iter().flatten();
    let text_of = |item: &Value| item["token"].as_str().unwrap_or_default().to_owned();
    token(
        &item["token"],
        top.map(|item| (text_of(item), &item["logprob"])),
    )
}

fn token<'a>(text: &Value, top: impl Iterator<Item = (String, &'a Value)>) -> Token {
    let mut top: Vec<(String, f64)> = top
        .map(|(text, value)| (text, value.as_f64().unwrap_or(f64::NEG_INFINITY)))
        .collect();
    top.sort_by(|a, b| b.1.total_cmp(&a.1));
    Token {
        text: text.as_str().unwrap_or_default().to_owned(),
        top,
    }
}

fn compare(ours: &Answer, theirs: &Answer, tie_nats: f64) -> Outcome {
    // Texts decide: a server may show the bytes of an unfinished character, and the
    // token that ends the text, in its own way.
    if ours.text == theirs.text {
        return Outcome::Same(theirs.tokens.len());
    }
    let pairs = ours.text.bytes().zip(theirs.text.bytes());
    let shared = pairs.take_while(|(ours, theirs)| ours == theirs).count();
    let at = theirs.token_at(shared);
    let (Some(mine), Some(peer)) = (ours.tokens.get(at), theirs.tokens.get(at)) else {
        let why = format!(
            "{} tokens here, {} there",
            ours.tokens.len(),
            theirs.tokens.len()
        );
        return Outcome::Differs {
            at,
            why,
            tie: false,
        };
    };
    let tie = mine.margin() < tie_nats
        && peer.margin() < tie_nats
        && peer.top.iter().take(2).any(|(text, _)| *text == mine.text);
    let verdict = if tie { "a tie" } else { "NOT a tie" };
    let why = format!(
        "{:?} here, {:?} there; best two are {:.4} nats apart here, {:.4} there: {verdict}",
        mine.text,
        peer.text,
        mine.margin(),
        peer.margin()
    );
    Outcome::Differs { at, why, tie }
}

/// The start of a prompt, safe inside a table.
fn cell_text(prompt: &str) -> String {
    let start: String = prompt.chars().take(40).collect();
    let dots = if start.len() < prompt.len() {
        "..."
    } else {
        ""
    };
    let text = start.replace('\n', "\\n").replace('|', "\\|");
    format!("`{text}`{dots}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(tokens: &[(&str, f64, &str)]) -> Answer {
        Answer {
            text: tokens.iter().map(|(text, ..)| *text).collect(),
            tokens: tokens
                .iter()
                .map(|(text, margin, second)| Token {
                    text: (*text).to_owned(),
                    top: vec![
                        ((*text).to_owned(), -0.1),
                        ((*second).to_owned(), -0.1 - margin),
                    ],
                })
                .collect(),
            drafted: (0, 0),
        }
    }

    #[test]
    fn a_difference_is_a_tie_only_when_both_sides_were_undecided() {
        let theirs = answer(&[("a", 1.0, "z"), ("b", 0.01, "c")]);
        let tied = answer(&[("a", 1.0, "z"), ("c", 0.01, "b")]);
        assert!(matches!(
            compare(&tied, &theirs, TIE_NATS),
            Outcome::Differs {
                at: 1,
                tie: true,
                ..
            }
        ));
        let sure = answer(&[("a", 1.0, "z"), ("c", 2.0, "b")]);
        assert!(matches!(
            compare(&sure, &theirs, TIE_NATS),
            Outcome::Differs {
                at: 1,
                tie: false,
                ..
            }
        ));
        assert!(matches!(
            compare(&theirs, &theirs, TIE_NATS),
            Outcome::Same(2)
        ));
    }

    #[test]
    fn both_shapes_of_logprobs_are_read() {
        let lists = json!({"tokens": ["a"], "top_logprobs": [{"b": -2.0, "a": -1.0}]});
        let chat = json!({"content": [{"token": "a", "top_logprobs": [
            {"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}]}]});
        for shape in [lists, chat] {
            let tokens = tokens_of(&shape);
            assert_eq!(tokens[0].text, "a");
            assert_eq!(tokens[0].top[1], ("b".to_owned(), -2.0));
        }
    }
}
