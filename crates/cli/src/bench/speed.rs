//! `sextant bench speed`: how fast a model reads and answers, over combinations of settings.
//!
//! Each run has a worker process of its own, so that its start counts too and nothing of an
//! earlier run is left; a run's figures come from one invocation that reads a prompt and answers
//! it. Each run is a line of a file as soon as it is made.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bench::sweep::{self, Axis};
use clap::ArgMatches;
use config::{Config, Group, RawConfig, setting};
use hardware::energy::{Meter, Reading};
use hardware::measure::Steal;
use hardware::{Held, Root, Sensors};
use models::Found;
use proto::ModelFacts;
use serde::{Deserialize, Serialize};
use store::ResultModel;
use supervisor::Fleet;
use tuner::Gate;

use super::attempts_file::{Kind, Log};
use super::results::{Finished, Keeping};
use super::speed_report::{self, Results};
use crate::configuration;
use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::output::{self, say};
use crate::progress::{self, Unit};
use crate::trial::{self, PROSE, Trial};
use crate::tune::Key;
use crate::{load, logging, models_here, tune};

/// Of this file's form.
pub(super) const VERSION: u32 = 1;
/// Where values of an axis go that is no engine setting.
pub(super) const MODEL: &str = "model";
const SHAPE: [&str; 3] = ["prompt", "answer", "depth"];
/// Tokens that a fresh process reads and says before anything counts.
const WARM_UP: Shape = Shape {
    prompt: 64,
    answer: 8,
    depth: 0,
};
/// Seconds in all for which a hot machine may cool down.
const COOLING_SECONDS_MAX: f64 = 1800.0;

/// Tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    prompt: u32,
    answer: u32,
    /// Read before the prompt, and not counted.
    depth: u32,
}

/// One run, with its point's value on each axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) point: Vec<String>,
    pub(super) round: u64,
    /// Why there are no figures.
    pub(super) failed: Option<String>,
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// What a host took of the cores meanwhile, percent.
    pub(super) stolen: Option<f64>,
    /// The hottest zone after it.
    pub(super) celsius: Option<f64>,
    /// All that is metered, after it.
    pub(super) watts: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Figures {
    /// From the start of a process to a model that can answer.
    pub(super) start_seconds: f64,
    pub(super) prefill_tokens_s: f64,
    pub(super) decode_tokens_s: f64,
    /// Tokens read and said by the time of both.
    pub(super) both_tokens_s: f64,
    /// From the request to the first text.
    pub(super) ttft_seconds: f64,
    /// Between pieces of text.
    pub(super) gaps_seconds: Vec<f64>,
    /// After the answer.
    pub(super) resident_bytes: u64,
    pub(super) proportional_bytes: u64,
    /// As the engine tells them.
    pub(super) weights_bytes: u64,
    pub(super) kv_bytes: u64,
    pub(super) n_read: u32,
    pub(super) n_said: u32,
    /// What the machine has used until the first text and after it; `None` where nobody counts.
    pub(super) joules_read: Option<f64>,
    pub(super) joules_said: Option<f64>,
    /// What has counted them.
    pub(super) energy_of: Vec<String>,
}

/// The first line of a file of runs: what must be the same for them to go together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Heading {
    pub(super) version: u32,
    pub(super) build: String,
    pub(super) hardware: String,
    /// Size and hash of each file.
    pub(super) models: Vec<String>,
    pub(super) axes: Vec<(String, Vec<String>)>,
    pub(super) prompt: u32,
    pub(super) answer: u32,
    pub(super) depth: u32,
    /// Engine settings that somebody has chosen.
    pub(super) settings: Vec<(String, String)>,
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let (raw, config) = configuration::read_quiet_raw(matches)?;
    logging::start(config.log_level, config.log_format);
    let sweep = Sweep::read(matches, raw, &config)?;
    let keeping = Keeping::begin(matches, &config)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (runs, log) = runtime.block_on(async {
        tokio::select! {
            runs = sweep.run(&config) => runs,
            _ = tokio::signal::ctrl_c() => Err(fault(Code::Interrupted, "interrupted")),
        }
    })?;
    let results = Results::new(&sweep.heading, &sweep.points, &runs);
    match output::wants_json(matches) {
        true => output::json(&results.as_json())?,
        false => results.write()?,
    }
    keeping.keep(Finished {
        kind: Kind::Speed,
        server: None,
        models: sweep.measured_models(),
        log: &log,
    })
}

struct Sweep {
    raw: RawConfig,
    models: Vec<Found>,
    axes: Vec<Axis>,
    points: Vec<Vec<String>>,
    rounds: u64,
    shape: Shape,
    file: Option<PathBuf>,
    heading: Heading,
}

impl Sweep {
    fn read(matches: &ArgMatches, raw: RawConfig, config: &Config) -> Outcome<Self> {
        let names = matches.get_many::<String>("models").unwrap_or_default();
        let environment = models_here::environment(config);
        let models: Vec<Found> = names
            .map(|name| models_here::find(&environment, name))
            .collect::<Outcome<_>>()?;
        let axes = axes(matches, &models)?;
        let usage = |message| fault(Code::Usage, message);
        let points = sweep::points(&axes).map_err(usage)?;
        let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or(0);
        let tokens = |name: &str| u32::try_from(number(name)).unwrap_or(u32::MAX);
        let shape = Shape {
            prompt: tokens("prompt"),
            answer: tokens("answer"),
            depth: tokens("depth"),
        };
        let keys = models.iter().map(|model| Key::read(&model.path));
        let keys: Vec<Key> = keys.collect::<Result<_, _>>()?;
        let first = keys
            .first()
            .ok_or_else(|| usage("name a model".to_owned()))?;
        let effective = raw.effective().into_iter();
        let chosen = effective.filter(|one| {
            one.setting.group == Group::Engine && one.source != config::Source::Default
        });
        let heading = Heading {
            version: VERSION,
            build: first.build.clone(),
            hardware: first.hardware.clone(),
            models: keys.iter().map(|key| key.model.clone()).collect(),
            axes: axes
                .iter()
                .map(|axis| (axis.name.clone(), axis.values.clone()))
                .collect(),
            prompt: shape.prompt,
            answer: shape.answer,
            depth: shape.depth,
            settings: chosen
                .map(|one| (one.setting.name.to_owned(), one.value.unwrap_or_default()))
                .collect(),
        };
        let sweep = Self {
            raw,
            models,
            axes,
            points,
            rounds: number("rounds"),
            shape,
            file: matches.get_one::<PathBuf>("out").cloned(),
            heading,
        };
        // What a point asks for is checked before anything is measured.
        for point in &sweep.points {
            sweep.settled(point)?;
        }
        Ok(sweep)
    }

    /// The model, the settings and the tokens of a point.
    fn settled(&self, point: &[String]) -> Outcome<(&Found, Config, Shape)> {
        let mut raw = self.raw.clone();
        let mut shape = self.shape;
        let mut model = self.models.first();
        for (axis, value) in self.axes.iter().zip(point) {
            let name = axis.name.as_str();
            let tokens = || {
                value.parse().map_err(|_| {
                    let message = format!("--vary {name}: `{value}` is no number of tokens");
                    fault(Code::Usage, message)
                })
            };
            match name {
                MODEL => model = self.models.iter().find(|model| model.id == *value),
                "prompt" => shape.prompt = tokens()?,
                "answer" => shape.answer = tokens()?,
                "depth" => shape.depth = tokens()?,
                _ => raw = raw.with(name, value, "--vary").code(Code::Usage)?,
            }
        }
        if shape.prompt == 0 || shape.answer < 2 {
            let message = "a run wants at least 1 token of a prompt and 2 of an answer";
            return Err(fault(Code::Usage, message));
        }
        let model = model.ok_or_else(|| fault(Code::Usage, "name a model"))?;
        Ok((model, raw.resolve().code(Code::Usage)?, shape))
    }

    /// As results tell of them.
    fn measured_models(&self) -> Vec<ResultModel> {
        let models = self.models.iter().zip(&self.heading.models);
        let models = models.map(|(found, fingerprint)| ResultModel {
            name: found.id.clone(),
            path: Some(found.path.display().to_string()),
            bytes: tune::bytes_of(fingerprint),
            fingerprint: Some(fingerprint.clone()),
            build: Some(self.heading.build.clone()),
            hardware: Some(self.heading.hardware.clone()),
        });
        models.collect()
    }

    async fn run(&self, config: &Config) -> Outcome<(Vec<Run>, Log)> {
        let opened = Log::open(self.file.as_deref(), &self.heading)?;
        let (mut log, mut runs): (Log, Vec<Run>) = opened;
        let n_all = self.points.len() * usize::try_from(self.rounds).unwrap_or(usize::MAX);
        say(&match runs.len() {
            0 => format!("{n_all} runs"),
            n => format!("{n_all} runs, {n} of them are there already"),
        });
        let mut bench = Bench {
            fleet: load::fleet(config)?,
            gate: Gate::new(COOLING_SECONDS_MAX),
            meter: Meter::live(),
            n_loaded: 0,
        };
        let bar = progress::bar("measuring", Unit::Percent);
        let mut made = Made::default();
        for round in 0..self.rounds {
            for place in sweep::order(self.points.len(), round) {
                let point = &self.points[place];
                let is_this = |run: &Run| run.round == round && run.point == *point;
                if runs.iter().any(is_this) {
                    continue;
                }
                let started = Instant::now();
                let run = self.once(&mut bench, point, round).await?;
                made.add(started.elapsed());
                log.append(&run)?;
                runs.push(run);
                bar.set_position(100 * runs.len() as u64 / n_all.max(1) as u64);
                if made.is_worth_telling() {
                    say(&made.left(n_all.saturating_sub(runs.len())));
                }
            }
        }
        bar.finish_and_clear();
        bench.fleet.shutdown().await;
        if bench.gate.was_hot() {
            say("the machine was hot for some of the runs, and did not cool down");
        }
        Ok((runs, log))
    }

    async fn once(&self, bench: &mut Bench, point: &[String], round: u64) -> Outcome<Run> {
        let (model, config, shape) = self.settled(point)?;
        let spec = load::spec(&config, model)?;
        trial::cool_down(&mut bench.gate).await;
        let root = Root::live();
        let steal = Steal::begin(&root);
        let measured = bench.measure(spec, shape, round).await;
        let sensors = Sensors::read(&root);
        let (figures, failed) = match measured {
            Ok(figures) => (figures, None),
            Err(why) => (Figures::default(), Some(why)),
        };
        if let Some(why) = &failed {
            say(&format!(
                "{}: {why}",
                speed_report::label(&self.heading, point)
            ));
        }
        let watts = sensors.power.iter().filter_map(|meter| meter.watts);
        let watts: Vec<f64> = watts.collect();
        Ok(Run {
            point: point.to_vec(),
            round,
            failed,
            figures,
            stolen: steal.percent(&root),
            celsius: sensors
                .zones
                .iter()
                .map(|zone| zone.celsius)
                .max_by(f64::total_cmp),
            watts: (!watts.is_empty()).then(|| watts.iter().sum()),
        })
    }
}

/// What varies; models do where several are named.
fn axes(matches: &ArgMatches, models: &[Found]) -> Outcome<Vec<Axis>> {
    let usage = |message: String| fault(Code::Usage, message);
    let mut axes = Vec::new();
    if models.len() > 1 {
        axes.push(Axis {
            name: MODEL.to_owned(),
            values: models.iter().map(|model| model.id.clone()).collect(),
        });
    }
    for text in matches.get_many::<String>("vary").unwrap_or_default() {
        let axis = Axis::parse(text).map_err(|why| usage(format!("--vary {why}")))?;
        let is_engine = setting(&axis.name).is_some_and(|one| one.group == Group::Engine);
        if !is_engine && !SHAPE.contains(&axis.name.as_str()) {
            return Err(usage(format!(
                "--vary {text}: `{}` is no setting of the engine, and none of {}",
                axis.name,
                SHAPE.join(", ")
            )));
        }
        if axes.iter().any(|other: &Axis| other.name == axis.name) {
            return Err(usage(format!("--vary {} stands there twice", axis.name)));
        }
        axes.push(axis);
    }
    Ok(axes)
}

/// The time that runs have taken.
#[derive(Default)]
struct Made {
    n: u32,
    time: Duration,
}

impl Made {
    fn add(&mut self, time: Duration) {
        self.n += 1;
        self.time += time;
    }

    /// After the first, and then now and again.
    fn is_worth_telling(&self) -> bool {
        self.n.is_power_of_two()
    }

    fn left(&self, n_runs: usize) -> String {
        let each = self.time.as_secs_f64() / f64::from(self.n.max(1));
        let left = each * n_runs as f64;
        format!("a run takes {each:.1} s; {n_runs} to go, about {left:.0} s")
    }
}

/// Workers, one after another.
struct Bench {
    fleet: Fleet,
    gate: Gate,
    meter: Meter,
    n_loaded: u64,
}

impl Bench {
    /// One run in a fresh process.
    async fn measure(
        &mut self,
        spec: proto::LoadSpec,
        shape: Shape,
        round: u64,
    ) -> Result<Figures, String> {
        self.n_loaded += 1;
        let name = format!("{}#{}", spec.name, self.n_loaded);
        let named = proto::LoadSpec {
            name: name.clone(),
            ..spec
        };
        let started = Instant::now();
        let facts = self.fleet.load(named).await;
        let facts = facts.map_err(|failure| failure.message)?;
        let start_seconds = started.elapsed().as_secs_f64();
        let figures = self.figures(&name, &facts, shape, round).await;
        self.fleet.unload(&name).await;
        Ok(Figures {
            start_seconds,
            ..figures?
        })
    }

    async fn figures(
        &self,
        name: &str,
        facts: &ModelFacts,
        shape: Shape,
        round: u64,
    ) -> Result<Figures, String> {
        let trial = Trial {
            fleet: &self.fleet,
            model: name,
        };
        // The points of a round say the same.
        let generation = |answer, is_kept| trial::generation(answer, Some(is_kept), round);
        let text = trial.tokens(PROSE).await?;
        let n_all = shape.depth as usize + shape.prompt as usize;
        let tokens: Vec<i32> = text.iter().copied().cycle().take(n_all).collect();
        let warm_up = tokens.iter().rev().take(WARM_UP.prompt as usize);
        let warm_up = warm_up.copied().collect();
        trial
            .answer(warm_up, generation(WARM_UP.answer, false))
            .await?;
        if shape.depth > 0 {
            let before = tokens[..shape.depth as usize].to_vec();
            trial.answer(before, generation(1, true)).await?;
        }
        let is_deep = shape.depth > 0;
        let before = self.meter.read();
        let mut between = Reading::default();
        let answered = trial
            .answer_watched(tokens, generation(shape.answer, is_deep), || {
                between = self.meter.read();
            })
            .await?;
        let after = self.meter.read();
        let pid = trial.status().and_then(|status| status.pid);
        let held = pid.and_then(|pid| Held::of(&Root::live(), pid));
        let timings = &answered.timings;
        let (n_read, n_said) = (answered.n_read(), answered.usage.completion_tokens);
        let pieces = &answered.pieces_seconds;
        let speed = |n: u32, ms: f64| f64::from(n) * 1e3 / ms.max(1e-6);
        Ok(Figures {
            start_seconds: 0.0,
            prefill_tokens_s: speed(n_read, timings.prefill_ms),
            decode_tokens_s: speed(answered.n_decoded(), timings.decode_ms),
            both_tokens_s: speed(n_read + n_said, timings.prefill_ms + timings.decode_ms),
            ttft_seconds: pieces.first().copied().unwrap_or(0.0),
            gaps_seconds: pieces.windows(2).map(|pair| pair[1] - pair[0]).collect(),
            resident_bytes: held.map_or(0, |held| held.resident.0),
            proportional_bytes: held.map_or(0, |held| held.proportional.0),
            weights_bytes: facts.weights_bytes,
            kv_bytes: facts.kv_bytes,
            n_read,
            n_said,
            joules_read: between.joules_since(&before),
            joules_said: after.joules_since(&between),
            energy_of: after.names().map(str::to_owned).collect(),
        })
    }
}
