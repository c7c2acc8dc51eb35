//! `sextant tune`: measures which settings are fastest for a model on this machine.

mod apply;
mod bench;
mod cache;
mod space;
mod sweep;
mod text;

use std::time::{Duration, Instant};

use clap::ArgMatches;
use config::Config;
use hardware::measure;
use hardware::{Machine, Root};
use models::{Environment, Found};
use proto::LoadSpec;
use serde_json::Value;
use tuner::{Effort, Gate, Judgement, Sample, Settings, Space, Speeds, Tuner, Verdict, Workload};

pub(crate) use self::apply::{apply, recheck, watch};
use self::bench::{Bench, Shape, Text};
use self::cache::Entry;
pub(crate) use self::cache::{Key, build, bytes_of, fingerprint, hardware, hash, now_unix_secs};
use self::space::{Ground, Reach, Values};
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};
use crate::{configuration, load, logging, models_here, shelf};

/// How long others are watched before the first run.
const LOOK: Duration = Duration::from_millis(300);
/// A share of the budget that may go into cooling down.
const COOLING_SHARE: f64 = 0.3;
/// What a run takes about, by the effort: of the prompt, and of the answer.
const RUN_SECONDS: [f64; 3] = [0.15, 0.3, 0.6];
const BUDGETS_SECONDS: [f64; 3] = [20.0, 60.0, 300.0];
const PROMPT_TOKENS_MIN: u32 = 64;
const ANSWER_TOKENS_MIN: u32 = 8;
const ANSWER_TOKENS_MAX: u32 = 64;
const PROBE: Shape = Shape {
    prompt_tokens: PROMPT_TOKENS_MIN,
    answer_tokens: ANSWER_TOKENS_MIN,
};
/// Processes with the model at once: the defaults, the incumbent and the challenger.
const SIDES_MAX: u64 = 3;

/// What was measured of a model that runs with it, and when.
pub(crate) fn measured(environment: &Environment, spec: &LoadSpec) -> Option<(Speeds, u64)> {
    let file = cache::file(environment)?;
    let entry = cache::find(&file, &spec.path)?;
    let is_used = entry.stale.is_none() && entry.is_in_force(spec);
    is_used.then_some((entry.speeds, entry.at_unix_secs))
}

/// All that is shown.
struct Report {
    model: String,
    purpose: String,
    workload: Workload,
    shape: Shape,
    space: Space,
    verdict: Verdict,
    budget_seconds: f64,
    spent_seconds: f64,
    defaults: Option<Sample>,
    chosen: Option<Sample>,
    settings: Value,
    remarks: Vec<String>,
    /// What became of the result.
    kept: String,
}

/// What was asked for.
struct Ask {
    effort: Effort,
    budget_seconds: f64,
    run_seconds: f64,
    purpose: String,
    workload: Workload,
    text: Text,
    kv_loss_max: f64,
    reach: Reach,
    axes: Vec<String>,
    shape: Option<Shape>,
    keeping: Keeping,
}

/// Whether a result of a busy machine is worth keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    UnlessBusy,
    Always,
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let mut config = configuration::read_quiet(matches)?;
    // What was measured before is what it is measured against only where it is asked for.
    config.tuned = false;
    logging::start(config.log_level, config.log_format);
    let found = models_here::asked(matches, &config)?;
    if matches.get_flag("forget") {
        return forget(&config, &found);
    }
    let ask = Ask::read(matches)?;
    let runtime = tokio::runtime::Runtime::new()?;
    if let Some(asked) = sweep::Asked::read(matches)? {
        return runtime.block_on(sweep::run(&config, &found, &ask, &asked));
    }
    let report = runtime.block_on(async {
        tokio::select! {
            report = tune(&config, &found, &ask) => report,
            _ = tokio::signal::ctrl_c() => Err(fault(Code::Interrupted, "interrupted")),
        }
    })?;
    if output::wants_json(matches) {
        output::json(&text::json(&report))?;
    } else {
        output::piece(&text::of(&report))?;
    }
    match report.verdict.failure {
        Some(why) => Err(fault(Code::LoadFailed, why)),
        None => Ok(()),
    }
}

fn forget(config: &Config, found: &Found) -> Outcome {
    let file = cache::file(&models_here::environment(config));
    let n_gone = match file {
        Some(file) => cache::forget(&file, &found.path)?,
        None => 0,
    };
    say(&format!("{} forgotten", text::count(n_gone, "measurement")));
    Ok(())
}

impl Ask {
    fn read(matches: &ArgMatches) -> Outcome<Self> {
        let (effort, index) = match (matches.get_flag("quick"), matches.get_flag("thorough")) {
            (true, _) => (Effort::Quick, 0),
            (_, true) => (Effort::Thorough, 2),
            _ => (Effort::Usual, 1),
        };
        let budget = matches
            .get_one::<u32>("budget")
            .map(|budget| f64::from(*budget));
        let purpose = matches
            .get_one::<String>("for")
            .map_or("chat", String::as_str);
        let (workload, text) = workload(purpose)?;
        let axes = matches.get_many::<String>("axes").unwrap_or_default();
        let shape = matches.get_one::<String>("run-tokens");
        let shape = shape.map(|shape| {
            let (prompt_tokens, answer_tokens) = two(shape)?;
            Some(Shape {
                prompt_tokens,
                answer_tokens,
            })
        });
        Ok(Self {
            effort,
            budget_seconds: budget.unwrap_or(BUDGETS_SECONDS[index]),
            run_seconds: RUN_SECONDS[index],
            purpose: purpose.to_owned(),
            workload,
            text,
            kv_loss_max: matches
                .get_one::<f64>("kv-loss-max")
                .copied()
                .unwrap_or(0.0),
            reach: match effort {
                Effort::Thorough => Reach::All,
                _ => Reach::Usual,
            },
            axes: axes.cloned().collect(),
            shape: shape.flatten(),
            keeping: match matches.get_flag("keep") {
                true => Keeping::Always,
                false => Keeping::UnlessBusy,
            },
        })
    }
}

/// Two whole numbers above 0, `2048:256`.
fn two(text: &str) -> Option<(u32, u32)> {
    let (one, other) = text.split_once(':')?;
    let number = |text: &str| text.parse().ok().filter(|n| (1..=1 << 20).contains(n));
    Some((number(one)?, number(other)?))
}

fn workload(purpose: &str) -> Outcome<(Workload, Text)> {
    let ((prompt, answer), text) = match purpose {
        "chat" => ((256, 256), Text::Prose),
        "agent" => ((2048, 256), Text::Code),
        other => match two(other) {
            Some(both) => (both, Text::Prose),
            None => {
                let message = format!(
                    "`--for` is `{other}`; it must be chat, agent, or tokens of a prompt and of \
                     an answer, such as 1024:128"
                );
                return Err(fault(Code::Usage, message));
            }
        },
    };
    let workload = Workload {
        prompt_tokens: f64::from(prompt),
        answer_tokens: f64::from(answer),
    };
    Ok((workload, text))
}

/// The model loaded, the runs sized and the axes made.
struct Prepared {
    bench: Bench,
    values: Values,
    shape: Shape,
    remarks: Vec<String>,
}

async fn prepare(config: &Config, found: &Found, ask: &Ask, sides_max: u64) -> Outcome<Prepared> {
    let base = load::spec(config, found)?;
    let (machine, mut remarks) = tokio::task::spawn_blocking(look_around).await?;
    let sides_max = sides_max.min(sides_that_fit(config, &base));
    if sides_max == 1 {
        remarks.push("memory holds the model once: it is loaded anew for every comparison".into());
    }
    let fleet = load::fleet(config)?;
    let gate = Gate::new(ask.budget_seconds * COOLING_SHARE);
    let mut bench = Bench::new(
        (fleet, base.clone()),
        usize::try_from(sides_max).unwrap_or(1),
        gate,
    );
    let facts = bench.begin(ask.text).await?;
    if !facts.can_complete {
        return Err(fault(
            Code::Usage,
            format!(
                "`{}` only embeds; there is nothing to tune for answers",
                base.name
            ),
        ));
    }
    // The first pass over new memory is slow, and says nothing.
    bench.probe(PROBE).await?;
    let seen = bench.probe(PROBE).await?;
    let shape = ask
        .shape
        .unwrap_or_else(|| shape(ask, &seen, facts.context));
    bench.set_shape(shape);
    let (given, axes, facts) = (base, ask.axes.clone(), facts.clone());
    let (kv_loss_max, reach) = (ask.kv_loss_max, ask.reach);
    let values = tokio::task::spawn_blocking(move || {
        Values::new(&Ground {
            machine: &machine,
            given: &given,
            kv_loss_max,
            prompt_tokens: shape.prompt_tokens,
            facts: &facts,
            reach,
            only: &axes,
        })
    });
    Ok(Prepared {
        values: values.await?,
        bench,
        shape,
        remarks,
    })
}

/// This machine, and what of it is in the way of measuring.
fn look_around() -> (Machine, Vec<String>) {
    let root = Root::live();
    let machine = Machine::read(&root);
    let busy = measure::look(&root, &machine, LOOK);
    let mut remarks = Vec::new();
    if busy.was_busy() {
        let percent = busy.others_percent.unwrap_or(0.0);
        let stolen = busy.stolen_percent.unwrap_or(0.0);
        remarks.push(format!(
            "{BUSY}: others take {percent:.0} % of its cores, and a host {stolen:.0} %"
        ));
    }
    (machine, remarks)
}

/// Remarks that begin so keep the result from being kept.
const BUSY: &str = "the machine is busy";
const HOT: &str = "the machine was hot for some of the runs, and did not cool down";

/// How many processes with the model fit into the memory for models, counted for the largest
/// cache that is tried.
fn sides_that_fit(config: &Config, spec: &LoadSpec) -> u64 {
    let (_, cost) = shelf::estimate(spec.clone(), &shelf::Budget::default());
    let cost = cost.total().max(1);
    let memory = config.model_memory_max.map(|max| max.0);
    let memory = memory.or_else(|| hardware::budget().map(|bytes| bytes.0));
    memory.map_or(1, |memory| (memory / cost).max(1))
}

/// Prompts and answers that take about as long as a run may, and no more than matter.
fn shape(ask: &Ask, seen: &Sample, context: u32) -> Shape {
    let tokens = |seconds_a_token: f64| (ask.run_seconds / seconds_a_token.max(1e-9)) as u32;
    let prompt_max = (ask.workload.prompt_tokens as u32).max(PROMPT_TOKENS_MIN);
    let prompt = tokens(seen.prefill_seconds_a_token).clamp(PROMPT_TOKENS_MIN, prompt_max);
    let answer = tokens(seen.decode_seconds_a_token);
    let answer = answer.clamp(ANSWER_TOKENS_MIN, ANSWER_TOKENS_MAX);
    Shape {
        // Whole steps of the engine's tiles.
        prompt_tokens: (prompt / 64 * 64)
            .min(context.saturating_sub(answer + 1))
            .max(1),
        answer_tokens: answer,
    }
}

async fn tune(config: &Config, found: &Found, ask: &Ask) -> Outcome<Report> {
    let started = Instant::now();
    // Before the runs heat the machine.
    let key = Key::read(&found.path);
    let Prepared {
        mut bench,
        values,
        shape,
        mut remarks,
    } = prepare(config, found, ask, SIDES_MAX).await?;
    let left = ask.budget_seconds - started.elapsed().as_secs_f64();
    let settings = Settings {
        budget_seconds: left,
        workload: ask.workload,
        effort: ask.effort,
    };
    let mut tuner = Tuner::new(values.space.clone(), settings);
    let mut n_told = 0;
    while let Some(run) = tuner.step() {
        let ran = bench.run(&values, &run).await;
        tuner.record(ran);
        let rows = tuner.verdict().rows;
        for row in &rows[n_told..] {
            say(&text::row(&values.space, row));
        }
        n_told = rows.len();
    }
    let verdict = tuner.verdict();
    let chosen = values.settings(&verdict.winner);
    if bench.gate().was_hot() {
        remarks.push(HOT.into());
    }
    bench.fleet().shutdown().await;
    // Somebody may have come meanwhile.
    let (_, busy) = tokio::task::spawn_blocking(look_around).await?;
    if !remarks.iter().any(|remark| remark.starts_with(BUSY)) {
        remarks.extend(busy);
    }
    remarks.extend(text::disturbed(bench.again()));
    let typical = |point| tuner.typical(point);
    let mut report = Report {
        model: load::spec(config, found)?.name,
        purpose: ask.purpose.clone(),
        workload: ask.workload,
        shape,
        budget_seconds: ask.budget_seconds,
        spent_seconds: started.elapsed().as_secs_f64(),
        defaults: typical(&verdict.defaults),
        chosen: typical(&verdict.winner),
        settings: cache::settings_json(&chosen),
        space: values.space.clone(),
        verdict,
        remarks,
        kept: String::new(),
    };
    report.kept = match is_to_be_kept(&report, ask.keeping) {
        Ok(sample) => {
            let entry = entry(&report, sample, (chosen, load::spec(config, found)?));
            store(config, key, &entry)
        }
        Err(why) => why.to_owned(),
    };
    Ok(report)
}

/// The speeds to keep, or why none are.
fn is_to_be_kept(report: &Report, keeping: Keeping) -> Result<Sample, &'static str> {
    let says = |words: &str| {
        report
            .remarks
            .iter()
            .any(|remark| remark.starts_with(words))
    };
    let is_busy = says(BUSY);
    let gain = report.verdict.gain.as_ref();
    if report.verdict.failure.is_some() {
        return Err("nothing is kept, since what ran before did not run any more");
    }
    if gain.is_some_and(|gain| gain.judgement == Judgement::OutOfTime) {
        return Err("nothing is kept, since there was no time for the last comparison");
    }
    if says(HOT) && keeping == Keeping::UnlessBusy {
        return Err("not kept, since the machine was hot: `--keep` keeps it anyway");
    }
    let was_compared = report.verdict.rows.iter().any(|row| row.n_pairs > 0);
    match report.chosen {
        Some(_) if is_busy && keeping == Keeping::UnlessBusy => {
            Err("not kept, since the machine was busy: `--keep` keeps it anyway")
        }
        Some(sample) if was_compared => Ok(sample),
        _ => Err("nothing is kept, since nothing was compared"),
    }
}

fn entry(report: &Report, sample: Sample, (settings, base): (LoadSpec, LoadSpec)) -> Entry {
    Entry {
        settings,
        given: cache::given(&base),
        at_unix_secs: cache::now_unix_secs(),
        speeds: Speeds {
            prefill_tokens_s: sample.prefill_seconds_a_token.recip(),
            decode_tokens_s: sample.decode_seconds_a_token.recip(),
            depth: report.shape.prompt_tokens + report.shape.answer_tokens,
        },
        gain: match report.verdict.keeps_defaults() {
            true => 1.0,
            false => report.verdict.gain.as_ref().map_or(1.0, |gain| gain.ratio),
        },
        stale: None,
    }
}

/// Keeps the result for the loads that follow, and says so.
fn store(config: &Config, key: std::io::Result<Key>, entry: &Entry) -> String {
    let environment = models_here::environment(config);
    let Some(file) = cache::file(&environment) else {
        return "not kept: there is no cache folder".to_owned();
    };
    let kept = key.and_then(|key| cache::keep(&file, &key, entry));
    match kept {
        Ok(()) => format!(
            "kept in {}; `serve`, `run` and `load` use it, `--forget` drops it",
            file.display()
        ),
        Err(error) => format!("not kept: `{}`: {error}", file.display()),
    }
}
