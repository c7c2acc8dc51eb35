//! Runs in real worker processes.

use std::time::{Duration, Instant};

use hardware::measure::Steal;
use hardware::{Root, Sensors};
use proto::{
    CompletionJob, Event, Generation, Job, LoadSpec, Placement, Prompt, SamplingOverrides,
};
use supervisor::Fleet;
use tuner::{Again, Gate, Outcome as Ran, Part, Run, Sample, Wait};

use super::space::Values;
use crate::outcome::{Code, Outcome, fault};

/// Tokens of a run's prompt and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) prompt_tokens: u32,
    pub(super) answer_tokens: u32,
}

/// Text like this is read and continued. The first is prose, the second asks for a copy of
/// code with a small change, which is what agents do all day.
pub(crate) const PROSE: &str = include_str!("prose.txt");
const CODE: &str = include_str!("gate.txt");

/// What kind of text a workload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Prose,
    Code,
}

/// As `sextant hw` warns of a hot zone.
const HOT_CELSIUS: f64 = 10.0;
/// Warm, as people sample: greedy answers of small models go in circles, which would flatter
/// speculation.
const TEMPERATURE: f32 = 0.8;

/// A loaded model; several with different settings are there at once where memory allows.
struct Side {
    name: String,
    spec: LoadSpec,
    /// Of its worker: another one has lost the placement, and has not warmed up.
    pid: Option<u32>,
    placement: Option<Placement>,
}

/// What it took to have the last run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Made {
    /// Of the time that the run wanted, what a host took; `None` where nobody knows.
    pub(super) stolen_percent: Option<f64>,
    pub(super) attempts: usize,
    /// In attempts that do not count.
    pub(super) wasted_seconds: f64,
}

pub(super) struct Bench {
    fleet: Fleet,
    base: LoadSpec,
    shape: Shape,
    tokens: Vec<i32>,
    /// The one that was used last is the last.
    sides: Vec<Side>,
    sides_max: usize,
    n_loaded: usize,
    gate: Gate,
    again: Again,
    made: Made,
}

impl Bench {
    pub(super) fn new((fleet, base): (Fleet, LoadSpec), sides_max: usize, gate: Gate) -> Self {
        Self {
            fleet,
            base,
            shape: Shape {
                prompt_tokens: 0,
                answer_tokens: 0,
            },
            tokens: Vec::new(),
            sides: Vec::new(),
            sides_max: sides_max.max(1),
            n_loaded: 0,
            gate,
            again: Again::default(),
            made: Made::default(),
        }
    }

    pub(super) fn again(&self) -> &Again {
        &self.again
    }

    pub(super) fn made(&self) -> Made {
        self.made
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Loads the model as it is without tuning, and takes `shape` tokens of the text.
    pub(super) async fn begin(&mut self, text: Text) -> Outcome<std::sync::Arc<proto::ModelFacts>> {
        let spec = self.base.clone();
        let index = self
            .side(&spec)
            .await
            .map_err(|why| fault(Code::LoadFailed, why))?;
        let name = self.sides[index].name.clone();
        let text = match text {
            Text::Prose => PROSE,
            Text::Code => CODE,
        };
        let job = Job::Tokenize {
            text: text.to_owned(),
            add_special: true,
            parse_special: false,
            with_pieces: false,
        };
        let ready = self
            .fleet
            .models()
            .into_iter()
            .find_map(|model| match model.phase {
                supervisor::ModelPhase::Ready(facts) if model.name == name => Some(facts),
                _ => None,
            });
        let facts = ready.ok_or_else(|| fault(Code::LoadFailed, "the model is gone again"))?;
        let mut stream = self.fleet.submit(&name, job).await.map_err(failed)?;
        while let Some(event) = stream.next().await {
            match event {
                Event::Tokens { tokens, .. } => self.tokens = tokens,
                Event::Failed(failure) => return Err(failed(failure)),
                _ => {}
            }
        }
        if self.tokens.is_empty() {
            return Err(fault(Code::Failure, "the model has no token for any text"));
        }
        Ok(facts)
    }

    /// Speeds of a short run of the defaults, for choosing the shape.
    pub(super) async fn probe(&mut self, shape: Shape) -> Outcome<Sample> {
        self.shape = shape;
        let spec = self.base.clone();
        let index = self
            .side(&spec)
            .await
            .map_err(|why| fault(Code::LoadFailed, why))?;
        let name = self.sides[index].name.clone();
        let generation = self.generation(Part::Both, 0);
        let ran = self.job(&name, generation).await;
        ran.map_err(|why| fault(Code::Failure, why))
    }

    pub(super) fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// One run; what it took includes loading, cooling down, and attempts in which the host took
    /// too much: of those the least disturbed one counts.
    pub(super) async fn run(&mut self, values: &Values, run: &Run) -> Ran {
        let started = Instant::now();
        let mut kept: Option<(Sample, Made)> = None;
        let mut attempts = 0;
        let mut wasted_seconds = 0.0;
        loop {
            attempts += 1;
            self.cool_down().await;
            let begun = Instant::now();
            let (sample, stolen_percent) = match self.measured(values, run).await {
                Ok(measured) => measured,
                Err(why) => {
                    let took_seconds = started.elapsed().as_secs_f64();
                    return Ran::Failed { why, took_seconds };
                }
            };
            // The first one may have loaded the model, which is not for nothing.
            if attempts > 1 {
                wasted_seconds += begun.elapsed().as_secs_f64();
            }
            let made = Made {
                stolen_percent,
                ..Made::default()
            };
            let is_less = |(_, other): &(Sample, Made)| stolen_percent < other.stolen_percent;
            if kept.as_ref().is_none_or(is_less) {
                kept = Some((sample, made));
            }
            if !self.again.wants(attempts, stolen_percent) {
                break;
            }
        }
        let (sample, made) = kept.unwrap_or_default();
        self.made = Made {
            attempts,
            wasted_seconds,
            ..made
        };
        Ran::Measured(Sample {
            took_seconds: started.elapsed().as_secs_f64(),
            ..sample
        })
    }

    /// The times, and what a host took meanwhile.
    async fn measured(
        &mut self,
        values: &Values,
        run: &Run,
    ) -> Result<(Sample, Option<f64>), String> {
        let spec = values.load(&run.point, &self.base);
        let index = self.side(&spec).await?;
        let placement = values.placement(&run.point);
        let side = &mut self.sides[index];
        if side.placement.as_ref() != Some(&placement) {
            self.fleet.place(&side.name, placement.clone());
            side.placement = Some(placement);
        }
        let name = side.name.clone();
        let generation = Generation {
            speculation: values.speculation(&run.point),
            ..self.generation(run.part, run.pair)
        };
        let root = Root::live();
        let steal = Steal::begin(&root);
        let sample = self.job(&name, generation).await?;
        Ok((sample, steal.percent(&root)))
    }

    async fn cool_down(&mut self) {
        loop {
            let margin = margin_celsius(&Sensors::read(&Root::live()));
            match self.gate.look(margin) {
                Wait::Go => return,
                Wait::For { seconds } => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
            }
        }
    }

    /// The place of a process with these settings, which is the last afterwards.
    async fn side(&mut self, spec: &LoadSpec) -> Result<usize, String> {
        let known = self.sides.iter().position(|side| side.spec == *spec);
        if let Some(at) = known {
            if self.ready_pid(&self.sides[at].name) == self.sides[at].pid {
                self.sides[at..].rotate_left(1);
                return Ok(self.sides.len() - 1);
            }
            // It has made room for another, or has crashed.
            let gone = self.sides.remove(at);
            self.fleet.unload(&gone.name).await;
        }
        if self.sides.len() >= self.sides_max {
            let oldest = self.sides.remove(0);
            self.fleet.unload(&oldest.name).await;
        }
        self.n_loaded += 1;
        let name = format!("{}#{}", self.base.name, self.n_loaded);
        let named = LoadSpec {
            name: name.clone(),
            ..spec.clone()
        };
        let loaded = self.fleet.load(named).await;
        loaded.map_err(|failure| failure.message)?;
        self.sides.push(Side {
            name: name.clone(),
            spec: spec.clone(),
            pid: self.ready_pid(&name),
            placement: None,
        });
        // Pages and buffers are touched once before anything counts.
        if self.shape.prompt_tokens > 0 && !self.tokens.is_empty() {
            let generation = self.generation(Part::Both, 0);
            self.job(&name, generation).await?;
        }
        Ok(self.sides.len() - 1)
    }

    /// The process of a model that is loaded.
    fn ready_pid(&self, name: &str) -> Option<u32> {
        let mut models = self.fleet.models().into_iter();
        let model = models.find(|model| model.name == name)?;
        let is_ready = matches!(model.phase, supervisor::ModelPhase::Ready(_));
        model.pid.filter(|_| is_ready)
    }

    fn generation(&self, part: Part, pair: usize) -> Generation {
        let max_tokens = match part {
            Part::Prefill => 1,
            _ => self.shape.answer_tokens,
        };
        Generation {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            // An answer is measured after a prompt that is read already, where that can be.
            cache_prompt: (part != Part::Decode).then_some(false),
            sampling: SamplingOverrides {
                temperature: Some(TEMPERATURE),
                // Both sides of a pair say the same, as far as their rounding allows.
                seed: Some(pair as u64 + 1),
                ..SamplingOverrides::default()
            },
            ..Generation::default()
        }
    }

    async fn job(&self, model: &str, generation: Generation) -> Result<Sample, String> {
        let n_tokens = self.shape.prompt_tokens as usize;
        let tokens = self.tokens.iter().copied().cycle().take(n_tokens).collect();
        let job = Job::Completion(Box::new(CompletionJob {
            prompt: Prompt::Tokens(tokens),
            echo: false,
            constraint: None,
            generation,
        }));
        let stream = self.fleet.submit(model, job).await;
        let mut stream = stream.map_err(|failure| failure.message)?;
        while let Some(event) = stream.next().await {
            match event {
                Event::Done { usage, timings } => {
                    let read = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
                    let said = usage.completion_tokens.saturating_sub(1);
                    let a_token = |ms: f64, n: u32| ms / 1e3 / f64::from(n.max(1));
                    return Ok(Sample {
                        prefill_seconds_a_token: a_token(timings.prefill_ms, read),
                        decode_seconds_a_token: a_token(timings.decode_ms, said),
                        took_seconds: 0.0,
                    });
                }
                Event::Failed(failure) => return Err(failure.message),
                _ => {}
            }
        }
        Err("the run ended without an answer".to_owned())
    }
}

/// The least distance of any zone from where clocks are lowered; none is left where a firmware
/// says that it lowers them, since its limit is in no zone.
pub(crate) fn margin_celsius(sensors: &Sensors) -> Option<f64> {
    if sensors.is_throttled_by_heat() {
        return Some(0.0);
    }
    let margins = sensors.zones.iter();
    let margins = margins.filter_map(|zone| Some(zone.slows_at()? - zone.celsius));
    margins.min_by(f64::total_cmp)
}

/// Whether a zone is so near to where clocks are lowered that what is measured may be the heat.
pub(crate) fn is_hot(sensors: &Sensors) -> bool {
    margin_celsius(sensors).is_some_and(|margin| margin < HOT_CELSIUS)
}

fn failed(failure: proto::JobFailure) -> crate::outcome::Fault {
    fault(Code::Failure, failure.message)
}
