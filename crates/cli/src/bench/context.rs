//! `sextant bench context`: a fact at some depth of longer and longer texts.
//!
//! Each answer is a line of a file as soon as it is there, so a run that was ended goes on where
//! it was. The first length that a server refuses is the last one that it is asked.

use std::path::PathBuf;
use std::time::Duration;

use bench::context::{Came, Report, Trial, plant, report};
use bench::quality::{self, Answered};
use clap::ArgMatches;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ask::post;
use super::attempts_file::{Kind, Lines, Log};
use super::origin::{self, Origin};
use super::results::{Finished, Keeping};
use crate::http::Server;
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};
use crate::{configuration, tune};

pub(super) const VERSION: u32 = 1;
/// Words of a token, before a server has counted any.
const WORDS_FIRST: f64 = 0.75;
/// A text may turn out longer in tokens than foretold; by this share it is made shorter.
const MARGIN: f64 = 0.03;

/// The first line of a file: what must be the same for attempts to go together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Heading {
    /// Of this file's form.
    pub(super) version: u32,
    server: String,
    model: String,
    tokens_max: u64,
    seconds_max: u64,
    seed: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Attempt {
    context: u64,
    depth: f64,
    repeat: u64,
    /// [`Came::word`].
    came: String,
    n_prompt: Option<u64>,
    words: usize,
    seconds: f64,
    /// The answer, or the error.
    said: String,
}

impl Attempt {
    fn trial(&self) -> Option<Trial> {
        Some(Trial {
            context: self.context,
            depth: self.depth,
            came: Came::of_word(&self.came)?,
            n_prompt: self.n_prompt,
            seconds: self.seconds,
        })
    }
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let server = Server::new(matches, &config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wanted = matches.get_one::<String>("model");
    let model = runtime.block_on(server.model(wanted.map_or("", String::as_str)))?;
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or(0);
    let heading = Heading {
        version: VERSION,
        server: server.base().to_owned(),
        model,
        tokens_max: number("tokens"),
        seconds_max: number("seconds"),
        seed: number("seed"),
    };
    let keeping = Keeping::begin(matches, &config)?;
    let file = matches.get_one::<PathBuf>("out").map(PathBuf::as_path);
    let (log, attempts): (Log, Vec<Attempt>) = Log::open(file, &heading)?;
    if !attempts.is_empty() {
        say(&format!("{} answers are there already", attempts.len()));
    }
    let mut probe = Probe {
        lengths: lengths(matches, heading.tokens_max)?,
        depths: depths(number("depths")),
        repeats: number("repeats"),
        server,
        heading,
        runtime,
        log,
        is_origin_told: false,
        attempts,
    };
    probe.run()?;
    let trials: Vec<Trial> = probe.attempts.iter().filter_map(Attempt::trial).collect();
    let report = report(&trials);
    match output::wants_json(matches) {
        true => output::json(&as_json(&probe.heading, &report))?,
        false => write(&report)?,
    }
    keeping.keep(Finished {
        kind: Kind::Context,
        server: Some(probe.heading.server),
        models: origin::models(&probe.log, &[probe.heading.model]),
        log: &probe.log,
    })
}

/// What was kept of a run.
pub(super) fn of_lines(lines: &Lines) -> Report {
    let attempts: Vec<Attempt> = lines.attempts();
    let trials: Vec<Trial> = attempts.iter().filter_map(Attempt::trial).collect();
    report(&trials)
}

/// In order; each has room for a text beside the answer.
fn lengths(matches: &ArgMatches, tokens_max: u64) -> Outcome<Vec<u64>> {
    let named = matches.get_many::<u64>("lengths").unwrap_or_default();
    let mut lengths: Vec<u64> = named.copied().collect();
    lengths.sort_unstable();
    lengths.dedup();
    let least = 2 * tokens_max;
    match lengths.first() {
        Some(first) if *first < least => {
            let message = format!(
                "the length {first} leaves too little room beside answers of {tokens_max} tokens; give \
                 at least {least}, or less with --tokens"
            );
            Err(fault(Code::Usage, message))
        }
        _ => Ok(lengths),
    }
}

/// From the beginning to the end, evenly.
#[expect(clippy::cast_precision_loss, reason = "few")]
fn depths(n: u64) -> Vec<f64> {
    let last = n.saturating_sub(1).max(1);
    (0..n).map(|at| at as f64 / last as f64).collect()
}

struct Probe {
    server: Server,
    heading: Heading,
    lengths: Vec<u64>,
    depths: Vec<f64>,
    repeats: u64,
    runtime: tokio::runtime::Runtime,
    log: Log,
    /// By this run; an earlier one may have been on something else.
    is_origin_told: bool,
    attempts: Vec<Attempt>,
}

impl Probe {
    fn run(&mut self) -> Outcome {
        let n = self.lengths.len() * self.depths.len();
        say(&format!(
            "{} questions of {} tokens at most, up to {} s each",
            n as u64 * self.repeats,
            self.lengths.last().unwrap_or(&0),
            self.heading.seconds_max
        ));
        let mut plan = Vec::new();
        for context in &self.lengths {
            for repeat in 0..self.repeats {
                plan.extend(self.depths.iter().map(|depth| (*context, repeat, *depth)));
            }
        }
        for (context, repeat, depth) in plan {
            let is_this =
                |one: &&Attempt| (one.context, one.repeat, one.depth) == (context, repeat, depth);
            let there = self.attempts.iter().find(is_this).cloned();
            let attempt = match there {
                Some(attempt) => attempt,
                None => self.ask(context, depth, repeat)?,
            };
            if attempt.came == Came::Refused.word() {
                say(&format!("no longer texts are tried: {}", attempt.said));
                break;
            }
        }
        Ok(())
    }

    fn ask(&mut self, context: u64, depth: f64, repeat: u64) -> Outcome<Attempt> {
        let attempt = self.attempt(context, depth, repeat);
        tell(&attempt);
        self.note_origin(&attempt)?;
        self.log.append(&attempt)?;
        self.attempts.push(attempt.clone());
        Ok(attempt)
    }

    /// On what it is measured, told once a model has answered, since it is loaded then.
    fn note_origin(&mut self, attempt: &Attempt) -> Outcome {
        if self.is_origin_told || attempt.came == Came::Refused.word() {
            return Ok(());
        }
        self.is_origin_told = true;
        let asked = Origin::ask(&self.server, &self.heading.model, tune::now_unix_secs());
        let origin = self.runtime.block_on(asked);
        self.log.append(&origin.line())
    }

    /// Words of a token, by what the server has counted of texts that it has read as a whole.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of words and tokens are small"
    )]
    fn words_per_token(&self) -> f64 {
        let counted = self.attempts.iter().filter(|one| {
            let came = Came::of_word(&one.came);
            matches!(came, Some(Came::Right | Came::Wrong))
        });
        let counted = counted.filter_map(|one| Some((one.words, one.n_prompt?)));
        let (words, tokens) = counted.fold((0, 0), |(words, tokens), one| {
            (words + one.0, tokens + one.1)
        });
        match tokens {
            0 => WORDS_FIRST,
            tokens => words as f64 / tokens as f64,
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of words and tokens are small"
    )]
    fn attempt(&self, context: u64, depth: f64, repeat: u64) -> Attempt {
        let room = context.saturating_sub(self.heading.tokens_max) as f64 * (1.0 - MARGIN);
        let per_token = self.words_per_token();
        let seed = self.heading.seed ^ context ^ (repeat << 32) ^ depth.to_bits().rotate_left(7);
        let planted = plant((room * per_token) as usize, depth, seed);
        let body = json!({
            "model": self.heading.model,
            "messages": [{ "role": "user", "content": planted.text }],
            "max_tokens": self.heading.tokens_max,
            "temperature": 0,
            "chat_template_kwargs": { "enable_thinking": false },
        });
        let time_max = Duration::from_secs(self.heading.seconds_max);
        let asked = post(&self.server, &body, time_max);
        let (came, time) = self.runtime.block_on(asked);
        let expected = planted.words as f64 / per_token;
        let (came, n_prompt, said) = match came {
            quality::Came::Answered(Answered {
                answer, n_prompt, ..
            }) => {
                // Nobody has counted yet: what was cut cannot be told from a dense vocabulary.
                let expected = if self.attempts.is_empty() {
                    0.0
                } else {
                    expected
                };
                let came = Came::of(&answer.text, &planted.code, n_prompt, expected);
                (came, n_prompt, answer.text)
            }
            quality::Came::Late => (Came::Late, None, "nothing came in time".to_owned()),
            quality::Came::Unreachable(why) => (Came::Refused, None, why),
            quality::Came::Refused {
                status, message, ..
            } => (Came::Refused, None, format!("HTTP {status}: {message}")),
        };
        Attempt {
            context,
            depth,
            repeat,
            came: came.word().to_owned(),
            n_prompt,
            words: planted.words,
            seconds: time.as_secs_f64(),
            said,
        }
    }
}

fn tell(attempt: &Attempt) {
    let tokens = attempt.n_prompt.map(|n| format!("{n} tokens read, "));
    say(&format!(
        "{} at {:.0} %: {} ({}{:.1} s)",
        attempt.context,
        100.0 * attempt.depth,
        attempt.came,
        tokens.unwrap_or_default(),
        attempt.seconds
    ));
}

fn as_json(heading: &Heading, report: &Report) -> Value {
    let lengths = report.lengths.iter().map(|one| {
        let depths = one.depths.iter();
        let depths =
            depths.map(|(depth, right, n)| json!({ "depth": depth, "right": right, "n": n }));
        let others = one.others.iter().map(|(came, n)| (came.word(), *n));
        json!({
            "context": one.context,
            "n_prompt": one.n_prompt,
            "right": one.right,
            "n": one.n,
            "interval": super::interval(one.interval),
            "seconds": one.seconds,
            "depths": depths.collect::<Vec<_>>(),
            "others": others.collect::<std::collections::BTreeMap<_, _>>(),
        })
    });
    json!({
        "model": heading.model,
        "carries": report.carries,
        "accepts": report.accepts,
        "lengths": lengths.collect::<Vec<_>>(),
    })
}

fn write(report: &Report) -> Outcome {
    let depths: Vec<f64> = report.lengths.first().map_or_else(Vec::new, |one| {
        one.depths.iter().map(|depth| depth.0).collect()
    });
    let names: Vec<String> = depths
        .iter()
        .map(|depth| format!("AT {:.0} %", 100.0 * depth))
        .collect();
    let mut head = vec!["CONTEXT", "READ"];
    head.extend(names.iter().map(String::as_str));
    head.extend(["RIGHT", "95 %", "SECONDS", ""]);
    let rows: Vec<Vec<String>> = report
        .lengths
        .iter()
        .map(|one| {
            let mut row = vec![
                one.context.to_string(),
                one.n_prompt.map_or("-".into(), |n| n.to_string()),
            ];
            row.extend(depths.iter().map(|wanted| {
                let here = one.depths.iter().find(|depth| depth.0 == *wanted);
                here.map_or("-".into(), |(_, right, n)| format!("{right}/{n}"))
            }));
            let others = one.others.iter();
            let others = others.map(|(came, n)| format!("{n} {}", came.word()));
            row.extend([
                format!("{}/{}", one.right, one.n),
                format!(
                    "{:.0} to {:.0} %",
                    100.0 * one.interval.low,
                    100.0 * one.interval.high
                ),
                format!("{:.1}", one.seconds),
                others.collect::<Vec<_>>().join(", "),
            ]);
            row
        })
        .collect();
    output::table(&head, &rows)?;
    output::line(&told(report))?;
    Ok(())
}

/// In a sentence.
pub(super) fn told(report: &Report) -> String {
    let tokens = |tokens: Option<u64>| match tokens {
        Some(tokens) => format!("{tokens} tokens"),
        None => "none of these lengths".to_owned(),
    };
    format!(
        "right at every depth up to {}; read as a whole up to {}",
        tokens(report.carries),
        tokens(report.accepts)
    )
}
