//! The parts of a whole run: which commands measure what, and how long they take about.

use std::path::{Path, PathBuf};

use bench::speeds::quantile;

use crate::bench::attempts_file::{Kind, Lines};
use crate::bench::speed;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) name: &'static str,
    /// Of `bench speed`, with tokens of a prompt and of an answer.
    rounds: u64,
    prompt: u64,
    answer: u64,
    /// Of `bench quality`.
    repeats: u64,
    /// Of `bench context`.
    lengths: &'static [u64],
    depths: u64,
    /// Of `bench load`.
    requests: u64,
    clients: u64,
    words: u64,
    tokens: u64,
    /// Of `bench agents`, with its built-in agent; empty: all.
    tasks: &'static [&'static str],
}

impl Profile {
    pub(super) const WHOLE: Self = Self {
        name: "whole",
        rounds: 7,
        prompt: 512,
        answer: 128,
        repeats: 3,
        lengths: &[1024, 2048, 4096, 8192],
        depths: 5,
        requests: 32,
        clients: 4,
        words: 256,
        tokens: 64,
        tasks: &[],
    };
    pub(super) const QUICK: Self = Self {
        name: "quick",
        rounds: 3,
        prompt: 128,
        answer: 32,
        repeats: 1,
        lengths: &[512, 1024],
        depths: 3,
        requests: 8,
        clients: 2,
        words: 64,
        tokens: 16,
        tasks: &["call_read", "pages"],
    };
}

/// Questions of `bench quality`, and what one takes about.
const QUESTIONS: u64 = 14;
const QUESTION_TOKENS: u64 = 120;
const QUESTION_ANSWER_TOKENS: u64 = 150;
/// Of `bench context`.
const FACT_ANSWER_TOKENS: u64 = 16;
/// Tasks of `bench agents`, and what one takes about, of all answers together.
const TASKS: u64 = 9;
const TASK_TOKENS: u64 = 6000;
const TASK_ANSWER_TOKENS: u64 = 1000;
/// To start a process and load a model into it.
const START_SECONDS: f64 = 2.0;

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// In the names of files; `None`: that of the models that are named.
    pub(super) name: Option<String>,
    pub(super) url: String,
    pub(super) models: Vec<String>,
}

/// A command, and the file in which it goes on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    kind: Kind,
    pub(super) what: String,
    /// Its name in the folder.
    pub(super) file: String,
    /// After `sextant bench`, without the file.
    pub(super) arguments: Vec<String>,
    /// Records that it makes, and tokens that each of them reads and says on the average.
    n_records: u64,
    read: u64,
    said: u64,
}

/// All of them, in their order: first what has a process of its own, then what asks servers.
///
/// What measures something else of a server belongs here as one more function beside
/// [`quality`]; it needs a command with `--url` and `--out`.
pub(super) fn parts(profile: &Profile, speed_of: &[String], targets: &[Target]) -> Vec<Part> {
    let own = (!speed_of.is_empty()).then(|| speed(profile, speed_of));
    let qualities = targets.iter().map(|target| quality(profile, target));
    let bake_offs = targets.iter().map(|target| agents(profile, target));
    let of_each = |part: fn(&Profile, &Target, &str) -> Part| {
        let pairs = targets
            .iter()
            .flat_map(|target| target.models.iter().map(move |model| (target, model)));
        pairs.map(move |(target, model)| part(profile, target, model))
    };
    own.into_iter()
        .chain(qualities)
        .chain(of_each(context))
        .chain(of_each(load))
        .chain(bake_offs)
        .collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn speed(profile: &Profile, models: &[String]) -> Part {
    let mut arguments = words(&["speed"]);
    arguments.extend(models.iter().cloned());
    for (flag, number) in [
        ("--rounds", profile.rounds),
        ("--prompt", profile.prompt),
        ("--answer", profile.answer),
    ] {
        arguments.extend([flag.to_owned(), number.to_string()]);
    }
    Part {
        kind: Kind::Speed,
        what: format!("speed of {}", models.join(", ")),
        file: "speed.jsonl".to_owned(),
        arguments,
        n_records: profile.rounds * models.len() as u64,
        read: profile.prompt,
        said: profile.answer,
    }
}

fn quality(profile: &Profile, target: &Target) -> Part {
    let mut arguments = words(&["quality", "--url", &target.url, "--repeats"]);
    arguments.push(profile.repeats.to_string());
    arguments.extend(target.models.iter().cloned());
    Part {
        kind: Kind::Quality,
        what: format!("quality of {}{}", target.models.join(", "), at(target)),
        file: file("quality", target, None),
        arguments,
        n_records: QUESTIONS * profile.repeats * target.models.len() as u64,
        read: QUESTION_TOKENS,
        said: QUESTION_ANSWER_TOKENS,
    }
}

fn context(profile: &Profile, target: &Target, model: &str) -> Part {
    let lengths: Vec<String> = profile.lengths.iter().map(u64::to_string).collect();
    let lengths = lengths.join(",");
    let mut arguments = words(&[
        "context",
        model,
        "--url",
        &target.url,
        "--lengths",
        &lengths,
    ]);
    arguments.extend(["--depths".to_owned(), profile.depths.to_string()]);
    let n_lengths = profile.lengths.len() as u64;
    Part {
        kind: Kind::Context,
        what: format!("context of {model}{}", at(target)),
        file: file("context", target, Some(model)),
        arguments,
        n_records: n_lengths * profile.depths,
        read: profile.lengths.iter().sum::<u64>() / n_lengths.max(1),
        said: FACT_ANSWER_TOKENS,
    }
}

fn load(profile: &Profile, target: &Target, model: &str) -> Part {
    let mut arguments = words(&["load", model, "--url", &target.url]);
    for (flag, number) in [
        ("--requests", profile.requests),
        ("--clients", profile.clients),
        ("--prompt-words", profile.words),
        ("--tokens", profile.tokens),
    ] {
        arguments.extend([flag.to_owned(), number.to_string()]);
    }
    Part {
        kind: Kind::Load,
        what: format!("load on {model}{}", at(target)),
        file: file("load", target, Some(model)),
        arguments,
        n_records: profile.requests,
        read: profile.words,
        said: profile.tokens,
    }
}

/// With the agent that every build has.
fn agents(profile: &Profile, target: &Target) -> Part {
    let mut arguments = words(&["agents", "--url", &target.url]);
    if !profile.tasks.is_empty() {
        arguments.extend(["--tasks".to_owned(), profile.tasks.join(",")]);
    }
    arguments.extend(target.models.iter().cloned());
    let n_tasks = match profile.tasks.len() as u64 {
        0 => TASKS,
        n => n,
    };
    Part {
        kind: Kind::Agents,
        what: format!("{} as agents{}", target.models.join(", "), at(target)),
        file: file("agents", target, None),
        arguments,
        n_records: n_tasks * target.models.len() as u64,
        read: TASK_TOKENS,
        said: TASK_ANSWER_TOKENS,
    }
}

fn at(target: &Target) -> String {
    let name = target.name.as_ref();
    name.map_or_else(String::new, |name| format!(" at {name}"))
}

/// A name of plain characters, whatever models are called.
fn file(what: &str, target: &Target, model: Option<&str>) -> String {
    let names = target.name.as_deref().into_iter().chain(model);
    let names = names.map(|name| {
        // Some engines call a model by the path of its file.
        let name = match name.starts_with('/') {
            true => name.rsplit('/').next().unwrap_or(name),
            false => name,
        };
        let plain = |c: char| match c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
            true => c,
            false => '-',
        };
        format!("-{}", name.chars().map(plain).collect::<String>())
    });
    format!("{what}{}.jsonl", names.collect::<String>())
}

/// Tokens a second of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    prefill: f64,
    decode: f64,
}

impl Rates {
    /// Before anything is measured, by the size of the largest file: each token that is said reads
    /// all weights, and a slow memory gives this many bytes a second. Reading is several times as
    /// fast.
    #[expect(clippy::cast_precision_loss, reason = "a guess of one digit")]
    pub(super) fn guess(bytes: u64) -> Self {
        const BYTES_PER_SECOND: f64 = 8e9;
        const READING_IS_FASTER_BY: f64 = 6.0;
        let decode = BYTES_PER_SECOND / (bytes.max(1) as f64);
        Self {
            prefill: READING_IS_FASTER_BY * decode,
            decode,
        }
    }

    /// The middle of all runs of a file of `bench speed`.
    pub(super) fn measured(file: &Path) -> Option<Self> {
        let lines = Lines::of_file(file).ok()?;
        let runs: Vec<speed::Run> = lines.attempts();
        let middle = |of: fn(&speed::Figures) -> f64| {
            let good = runs.iter().filter(|run| run.failed.is_none());
            let mut speeds: Vec<f64> = good.map(|run| of(&run.figures)).collect();
            speeds.sort_by(f64::total_cmp);
            let middle = (!speeds.is_empty()).then(|| quantile(&speeds, 0.5));
            middle.filter(|speed| *speed > 0.0)
        };
        Some(Self {
            prefill: middle(|figures| figures.prefill_tokens_s)?,
            decode: middle(|figures| figures.decode_tokens_s)?,
        })
    }
}

impl Part {
    /// What is left of it, by the lines of its file. Requests of a load count as if they came one
    /// after another.
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens are small")]
    pub(super) fn seconds_left(&self, folder: &Path, rates: Rates) -> f64 {
        let there = self.n_there(&folder.join(&self.file));
        let left = self.n_records.saturating_sub(there) as f64;
        let start = match self.kind {
            Kind::Speed => START_SECONDS,
            _ => 0.0,
        };
        left * (start + self.read as f64 / rates.prefill + self.said as f64 / rates.decode)
    }

    fn n_there(&self, file: &Path) -> u64 {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().skip(1).count() as u64
    }

    pub(super) fn asks_a_server(&self) -> bool {
        self.kind != Kind::Speed
    }

    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.file)
    }
}

/// About how long, as one would say it.
pub(super) fn about(seconds: f64) -> String {
    match seconds {
        ..90.0 => format!("{seconds:.0} s"),
        90.0..5400.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Vec<Target> {
        vec![
            Target {
                name: None,
                url: "http://a".to_owned(),
                models: vec!["m".to_owned(), "own/n:q4".to_owned()],
            },
            Target {
                name: Some("peer".to_owned()),
                url: "http://b".to_owned(),
                models: vec!["/models/m.gguf".to_owned()],
            },
        ]
    }

    #[test]
    fn each_part_has_a_file_of_its_own() {
        let speed_of = ["m".to_owned()];
        let parts = parts(&Profile::WHOLE, &speed_of, &targets());
        let files: Vec<&str> = parts.iter().map(|part| part.file.as_str()).collect();
        let wanted = [
            "speed.jsonl",
            "quality.jsonl",
            "quality-peer.jsonl",
            "context-m.jsonl",
            "context-own-n-q4.jsonl",
            "context-peer-m.gguf.jsonl",
            "load-m.jsonl",
            "load-own-n-q4.jsonl",
            "load-peer-m.gguf.jsonl",
            "agents.jsonl",
            "agents-peer.jsonl",
        ];
        assert_eq!(files, wanted);
    }

    #[test]
    fn what_is_there_takes_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let part = quality(&Profile::QUICK, &targets()[1]);
        let rates = Rates {
            prefill: 120.0,
            decode: 150.0,
        };
        let left = || part.seconds_left(folder.path(), rates);
        assert!((left() - 28.0).abs() < 1e-9, "{}", left());
        let text = format!("{{}}\n{}", "{}\n".repeat(7));
        std::fs::write(part.path(folder.path()), text).unwrap();
        assert!((left() - 14.0).abs() < 1e-9, "{}", left());
    }
}
