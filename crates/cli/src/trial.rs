//! Short runs of a model in a worker process, and the heat that would spoil their times: what
//! `tune` and `bench speed` have in common.

use std::time::{Duration, Instant};

use hardware::{Root, Sensors};
use proto::{CompletionJob, Event, Generation, Job, Prompt, SamplingOverrides, Timings, Usage};
use supervisor::{Fleet, ModelPhase, ModelStatus};
use tuner::{Gate, Wait};

/// Text that is read and continued.
pub(crate) const PROSE: &str = include_str!("tune/prose.txt");
/// As `sextant hw` warns of a hot zone.
const HOT_CELSIUS: f64 = 10.0;
/// Warm, as people sample: greedy answers of small models go in circles, which would flatter
/// speculation.
const TEMPERATURE: f32 = 0.8;

/// A loaded model.
#[derive(Clone, Copy)]
pub(crate) struct Trial<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) model: &'a str,
}

/// What a request took, by the engine's clock and by that of who asked.
pub(crate) struct Answered {
    pub(crate) usage: Usage,
    pub(crate) timings: Timings,
    /// When each piece of text came, after the request.
    pub(crate) pieces_seconds: Vec<f64>,
}

impl Answered {
    /// Tokens of the prompt that were not known already.
    pub(crate) fn n_read(&self) -> u32 {
        let usage = &self.usage;
        usage.prompt_tokens.saturating_sub(usage.cached_tokens)
    }

    /// Tokens that the time of decoding is for: the first one is the prompt's.
    pub(crate) fn n_decoded(&self) -> u32 {
        self.usage.completion_tokens.saturating_sub(1)
    }
}

impl Trial<'_> {
    /// The tokens of a text, at least one.
    ///
    /// # Errors
    /// Why there are none, in words.
    pub(crate) async fn tokens(self, text: &str) -> Result<Vec<i32>, String> {
        let job = Job::Tokenize {
            text: text.to_owned(),
            add_special: true,
            parse_special: false,
            with_pieces: false,
        };
        let stream = self.fleet.submit(self.model, job).await;
        let mut stream = stream.map_err(|failure| failure.message)?;
        while let Some(event) = stream.next().await {
            match event {
                Event::Tokens { tokens, .. } if !tokens.is_empty() => return Ok(tokens),
                Event::Failed(failure) => return Err(failure.message),
                _ => {}
            }
        }
        Err("the model has no token for any text".to_owned())
    }

    /// Reads the tokens and answers them.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub(crate) async fn answer(
        self,
        tokens: Vec<i32>,
        generation: Generation,
    ) -> Result<Answered, String> {
        self.answer_watched(tokens, generation, || {}).await
    }

    /// The same; `at_first` is called when the first piece of text is there.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub(crate) async fn answer_watched(
        self,
        tokens: Vec<i32>,
        generation: Generation,
        at_first: impl FnOnce(),
    ) -> Result<Answered, String> {
        let job = Job::Completion(Box::new(CompletionJob {
            prompt: Prompt::Tokens(tokens),
            echo: false,
            constraint: None,
            generation,
        }));
        let started = Instant::now();
        let stream = self.fleet.submit(self.model, job).await;
        let mut stream = stream.map_err(|failure| failure.message)?;
        let mut pieces_seconds = Vec::new();
        let mut at_first = Some(at_first);
        while let Some(event) = stream.next().await {
            match event {
                Event::Delta { .. } => {
                    pieces_seconds.push(started.elapsed().as_secs_f64());
                    if let Some(at_first) = at_first.take() {
                        at_first();
                    }
                }
                Event::Done { usage, timings } => {
                    return Ok(Answered {
                        usage,
                        timings,
                        pieces_seconds,
                    });
                }
                Event::Failed(failure) => return Err(failure.message),
                _ => {}
            }
        }
        match self.status().map(|status| status.phase) {
            Some(ModelPhase::Failed(failure)) => Err(failure.message),
            _ => Err("the worker ended without an answer".to_owned()),
        }
    }

    /// What is known of its worker.
    pub(crate) fn status(self) -> Option<ModelStatus> {
        let mut statuses = self.fleet.models().into_iter();
        statuses.find(|status| status.name == self.model)
    }
}

/// An answer of so many tokens. Those with the same `lot` say the same, as far as the rounding
/// of their settings allows.
pub(crate) fn generation(answer_tokens: u32, cache_prompt: Option<bool>, lot: u64) -> Generation {
    Generation {
        max_tokens: Some(answer_tokens),
        ignore_eos: true,
        cache_prompt,
        sampling: SamplingOverrides {
            temperature: Some(TEMPERATURE),
            seed: Some(lot + 1),
            ..SamplingOverrides::default()
        },
        ..Generation::default()
    }
}

/// Waits until the machine is cool, for as long as the gate allows.
pub(crate) async fn cool_down(gate: &mut Gate) {
    loop {
        let margin = margin_celsius(&Sensors::read(&Root::live()));
        match gate.look(margin) {
            Wait::Go => return,
            Wait::For { seconds } => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
        }
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
