//! Runs in real worker processes.

use std::time::Instant;

use hardware::Root;
use hardware::measure::Steal;
use proto::{Generation, LoadSpec, Placement};
use supervisor::{Fleet, ModelPhase};
use tuner::{Again, Gate, Outcome as Ran, Part, Run, Sample};

use super::space::Values;
use crate::outcome::{Code, Outcome, fault};
use crate::trial::{self, PROSE, Trial};

/// Tokens of a run's prompt and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) prompt_tokens: u32,
    pub(super) answer_tokens: u32,
}

/// Asks for a copy of code with a small change, which is what agents do all day.
const CODE: &str = include_str!("gate.txt");

/// What kind of text a workload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Prose,
    Code,
}

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
        let trial = self.trial(&name);
        let Some(ModelPhase::Ready(facts)) = trial.status().map(|status| status.phase) else {
            return Err(fault(Code::LoadFailed, "the model is gone again"));
        };
        let tokens = trial.tokens(text).await;
        self.tokens = tokens.map_err(|why| fault(Code::Failure, why))?;
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
            trial::cool_down(&mut self.gate).await;
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
        let model = self.trial(name).status()?;
        let is_ready = matches!(model.phase, ModelPhase::Ready(_));
        model.pid.filter(|_| is_ready)
    }

    fn generation(&self, part: Part, pair: usize) -> Generation {
        let max_tokens = match part {
            Part::Prefill => 1,
            _ => self.shape.answer_tokens,
        };
        // An answer is measured after a prompt that is read already, where that can be.
        let cache_prompt = (part != Part::Decode).then_some(false);
        trial::generation(max_tokens, cache_prompt, pair as u64)
    }

    async fn job(&self, model: &str, generation: Generation) -> Result<Sample, String> {
        let n_tokens = self.shape.prompt_tokens as usize;
        let tokens = self.tokens.iter().copied().cycle().take(n_tokens).collect();
        let answered = self.trial(model).answer(tokens, generation).await?;
        let a_token = |ms: f64, n: u32| ms / 1e3 / f64::from(n.max(1));
        Ok(Sample {
            prefill_seconds_a_token: a_token(answered.timings.prefill_ms, answered.n_read()),
            decode_seconds_a_token: a_token(answered.timings.decode_ms, answered.n_decoded()),
            took_seconds: 0.0,
        })
    }

    fn trial<'a>(&'a self, model: &'a str) -> Trial<'a> {
        Trial {
            fleet: &self.fleet,
            model,
        }
    }
}
