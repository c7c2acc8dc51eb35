//! From worker events to the parts of an answer.
//!
//! [`Fold`] is a pure state machine and the only reader of events. A stream sends
//! its parts as they come; a plain answer collects the same parts in an
//! [`Answer`], so the two cannot disagree.

use std::sync::Arc;

use proto::{
    Delta, Event, FinishReason, PrefixReport, SamplingValues, Timings, TokenLogprob, Usage,
};

use crate::error::ApiError;

/// A step of an answer, in the order in which it is sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    /// The first part of each choice.
    Open { choice: usize, prompt: PromptTokens },
    Text {
        choice: usize,
        text: String,
        logprobs: Vec<TokenLogprob>,
    },
    Reasoning {
        choice: usize,
        text: String,
        logprobs: Vec<TokenLogprob>,
    },
    CallStart {
        choice: usize,
        index: u32,
        id: String,
        name: String,
    },
    CallArguments {
        choice: usize,
        index: u32,
        text: String,
    },
    /// The last part of each choice. The very last one of an answer that went well
    /// carries the report.
    Finish {
        choice: usize,
        reason: FinishReason,
        stop: Option<String>,
        report: Option<Arc<Report>>,
    },
    /// The end of an answer that went well.
    End(Arc<Report>),
    /// The answer broke off. The choices that were still open are finished after it.
    Error(ApiError),
}

/// Tokens of the prompt that a choice continues; zero where they were not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PromptTokens {
    pub(crate) all: u32,
    /// Of those, how many were already in the KV cache.
    pub(crate) cached: u32,
}

/// What is known at the end of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Report {
    /// Jobs that made the answer; usage and timings are summed over them.
    pub(crate) jobs: u32,
    pub(crate) usage: Usage,
    pub(crate) timings: Timings,
    /// `None` where another engine chose them.
    pub(crate) sampling: Option<SamplingValues>,
    pub(crate) warnings: Vec<String>,
    /// Of the last of the jobs that told it.
    pub(crate) prefix: Option<PrefixReport>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Choice {
    opened: bool,
    called: bool,
    finished: bool,
}

/// Folds the events of one or more jobs, each with the same number of choices.
#[derive(Debug)]
pub(crate) struct Fold {
    choices: Vec<Choice>,
    choices_per_job: usize,
    jobs_open: usize,
    /// The last choice's finish waits here for the report.
    held: Option<(usize, FinishReason, Option<String>)>,
    report: Report,
    over: bool,
}

impl Fold {
    pub(crate) fn new(jobs: usize, choices_per_job: usize, warnings: Vec<String>) -> Self {
        Self {
            choices: vec![Choice::default(); jobs * choices_per_job],
            choices_per_job,
            jobs_open: jobs,
            held: None,
            report: Report {
                warnings,
                ..Report::default()
            },
            over: false,
        }
    }

    /// Whether the answer has ended; later events are ignored.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Takes the next event of job `job` and appends what it means to `parts`.
    pub(crate) fn step(&mut self, job: usize, event: Event, parts: &mut Vec<Part>) {
        if self.over {
            return;
        }
        match event {
            Event::Started {
                prompt_tokens,
                cached_tokens,
                sampling,
                warnings,
            } => {
                let prompt = PromptTokens {
                    all: prompt_tokens,
                    cached: cached_tokens,
                };
                for choice in self.job_choices(job) {
                    self.open(choice, prompt, parts);
                }
                self.start(sampling.map(|values| *values), warnings);
            }
            Event::Delta {
                choice,
                delta,
                logprobs,
            } => self.delta(job, choice, delta, logprobs, parts),
            Event::Finished {
                choice,
                reason,
                stop,
            } => self.finish(self.index(job, choice), reason, stop, parts),
            Event::Done { usage, timings } => self.done(job, usage, timings, parts),
            Event::Failed(failure) => self.fail(failure.into(), parts),
            Event::Prefill { .. } => {}
            Event::Prefix(told) => self.report.prefix = Some(*told),
            Event::Continued { by } => {
                let warning = format!("The answer broke off and was continued by {by}.");
                self.report.warnings.push(warning);
            }
            Event::Tokens { .. }
            | Event::Text { .. }
            | Event::Rendered { .. }
            | Event::Embeddings { .. } => self.fail(stray(), parts),
        }
    }

    /// The index of a choice over all jobs; `None` if the job has no such choice.
    fn index(&self, job: usize, choice: u32) -> Option<usize> {
        let choice = choice as usize;
        let index = job * self.choices_per_job + choice;
        (choice < self.choices_per_job && index < self.choices.len()).then_some(index)
    }

    fn job_choices(&self, job: usize) -> std::ops::Range<usize> {
        let first = job * self.choices_per_job;
        first..(first + self.choices_per_job).min(self.choices.len())
    }

    fn start(&mut self, sampling: Option<SamplingValues>, warnings: Vec<String>) {
        self.report.sampling = sampling;
        for warning in warnings {
            if !self.report.warnings.contains(&warning) {
                self.report.warnings.push(warning);
            }
        }
    }

    fn open(&mut self, choice: usize, prompt: PromptTokens, parts: &mut Vec<Part>) {
        let state = &mut self.choices[choice];
        if !state.opened {
            state.opened = true;
            parts.push(Part::Open { choice, prompt });
        }
    }

    fn delta(
        &mut self,
        job: usize,
        choice: u32,
        delta: Delta,
        logprobs: Vec<TokenLogprob>,
        parts: &mut Vec<Part>,
    ) {
        let Some(choice) = self.index(job, choice) else {
            return self.fail(stray(), parts);
        };
        if self.choices[choice].finished {
            return self.fail(stray(), parts);
        }
        self.open(choice, PromptTokens::default(), parts);
        parts.push(match delta {
            Delta::Text { text } | Delta::Reasoning { text }
                if text.is_empty() && logprobs.is_empty() =>
            {
                return;
            }
            Delta::Text { text } => Part::Text {
                choice,
                text,
                logprobs,
            },
            Delta::Reasoning { text } => Part::Reasoning {
                choice,
                text,
                logprobs,
            },
            Delta::ToolCallStart { index, id, name } => {
                self.choices[choice].called = true;
                Part::CallStart {
                    choice,
                    index,
                    id,
                    name,
                }
            }
            Delta::ToolCallArguments { text, .. } if text.is_empty() => return,
            Delta::ToolCallArguments { index, text } => Part::CallArguments {
                choice,
                index,
                text,
            },
        });
    }

    fn finish(
        &mut self,
        choice: Option<usize>,
        reason: FinishReason,
        stop: Option<String>,
        parts: &mut Vec<Part>,
    ) {
        let Some(choice) = choice else {
            return self.fail(stray(), parts);
        };
        if self.choices[choice].finished {
            return;
        }
        self.open(choice, PromptTokens::default(), parts);
        self.choices[choice].finished = true;
        if self.choices.iter().all(|choice| choice.finished) {
            self.held = Some((choice, reason, stop));
        } else {
            parts.push(Part::Finish {
                choice,
                reason,
                stop,
                report: None,
            });
        }
    }

    fn done(&mut self, job: usize, usage: Usage, timings: Timings, parts: &mut Vec<Part>) {
        // A worker that went well has finished every choice; should it have forgotten
        // one, the client still needs its closing chunk.
        for choice in self.job_choices(job) {
            let reason = match self.choices[choice].called {
                true => FinishReason::ToolCalls,
                false => FinishReason::Stop,
            };
            self.finish(Some(choice), reason, None, parts);
        }
        self.report.jobs += 1;
        add_usage(&mut self.report.usage, usage);
        add_timings(&mut self.report.timings, timings);
        self.jobs_open = self.jobs_open.saturating_sub(1);
        if self.jobs_open > 0 {
            return;
        }
        let report = Arc::new(std::mem::take(&mut self.report));
        self.release(Some(Arc::clone(&report)), parts);
        parts.push(Part::End(report));
        self.over = true;
    }

    fn release(&mut self, report: Option<Arc<Report>>, parts: &mut Vec<Part>) {
        if let Some((choice, reason, stop)) = self.held.take() {
            parts.push(Part::Finish {
                choice,
                reason,
                stop,
                report,
            });
        }
    }

    /// The error comes first, so that no client takes the closing chunks for a good
    /// end; they still come, because some clients ask again for ever without them.
    fn fail(&mut self, error: ApiError, parts: &mut Vec<Part>) {
        self.release(None, parts);
        parts.push(Part::Error(error));
        for (choice, state) in self.choices.iter_mut().enumerate() {
            if !state.finished {
                state.finished = true;
                parts.push(Part::Finish {
                    choice,
                    reason: FinishReason::Length,
                    stop: None,
                    report: None,
                });
            }
        }
        self.over = true;
    }
}

fn stray() -> ApiError {
    let message = "The worker sent an event that does not belong to this answer.";
    ApiError::message(crate::error::ErrorCode::Internal, message)
}

fn add_usage(sum: &mut Usage, usage: Usage) {
    sum.prompt_tokens += usage.prompt_tokens;
    sum.cached_tokens += usage.cached_tokens;
    sum.restored_tokens += usage.restored_tokens;
    sum.completion_tokens += usage.completion_tokens;
    sum.reasoning_tokens += usage.reasoning_tokens;
    sum.draft_tokens += usage.draft_tokens;
    sum.draft_accepted_tokens += usage.draft_accepted_tokens;
    sum.dropped_tokens += usage.dropped_tokens;
}

fn add_timings(sum: &mut Timings, timings: Timings) {
    sum.queue_ms += timings.queue_ms;
    sum.prefill_ms += timings.prefill_ms;
    sum.decode_ms += timings.decode_ms;
}

/// A whole answer, collected from parts.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) choices: Vec<AnswerChoice>,
    pub(crate) report: Arc<Report>,
}

/// One choice of an answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct AnswerChoice {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<AnswerCall>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) reasoning_logprobs: Vec<TokenLogprob>,
    pub(crate) reason: Option<FinishReason>,
    pub(crate) stop: Option<String>,
    /// What came in which order.
    runs: Vec<Run>,
}

/// Neighbouring parts of one kind, told by their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    kind: RunKind,
    bytes: usize,
    tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunKind {
    Text,
    Reasoning,
    Call,
}

/// One tool call of a choice.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct AnswerCall {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

impl Answer {
    pub(crate) fn new(choices: usize) -> Self {
        let mut answer = Self::default();
        answer.choices.resize_with(choices, AnswerChoice::default);
        answer
    }

    /// Adds a part; the error of a broken answer is given back.
    pub(crate) fn add(&mut self, part: Part) -> Result<(), ApiError> {
        match part {
            Part::Open { .. } => {}
            Part::Text {
                choice,
                text,
                logprobs,
            } => {
                let choice = &mut self.choices[choice];
                choice.extend_run(RunKind::Text, text.len(), logprobs.len());
                choice.text.push_str(&text);
                choice.logprobs.extend(logprobs);
            }
            Part::Reasoning {
                choice,
                text,
                logprobs,
            } => {
                let choice = &mut self.choices[choice];
                choice.extend_run(RunKind::Reasoning, text.len(), logprobs.len());
                choice.reasoning.push_str(&text);
                choice.reasoning_logprobs.extend(logprobs);
            }
            Part::CallStart {
                choice, id, name, ..
            } => {
                let choice = &mut self.choices[choice];
                choice.extend_run(RunKind::Call, 0, 0);
                choice.calls.push(AnswerCall {
                    id,
                    name,
                    arguments: String::new(),
                });
            }
            Part::CallArguments {
                choice,
                index,
                text,
            } => {
                if let Some(call) = self.choices[choice].calls.get_mut(index as usize) {
                    call.arguments.push_str(&text);
                }
            }
            Part::Finish {
                choice,
                reason,
                stop,
                ..
            } => {
                self.choices[choice].reason = Some(reason);
                self.choices[choice].stop = stop;
            }
            Part::End(report) => self.report = report,
            Part::Error(error) => return Err(error),
        }
        Ok(())
    }

    /// The parts again, neighbours of one kind joined: for a dialect whose answers are
    /// lists of items, in the order in which they came.
    pub(crate) fn into_parts(self) -> Vec<Part> {
        let mut parts = Vec::new();
        for (index, choice) in self.choices.into_iter().enumerate() {
            choice.parts(index, &mut parts);
        }
        parts.push(Part::End(self.report));
        parts
    }
}

impl AnswerChoice {
    fn extend_run(&mut self, kind: RunKind, bytes: usize, tokens: usize) {
        match self.runs.last_mut() {
            Some(run) if run.kind == kind && kind != RunKind::Call => {
                run.bytes += bytes;
                run.tokens += tokens;
            }
            _ => self.runs.push(Run {
                kind,
                bytes,
                tokens,
            }),
        }
    }

    fn parts(mut self, choice: usize, parts: &mut Vec<Part>) {
        let mut calls = self.calls.into_iter().zip(0..);
        for run in self.runs {
            match run.kind {
                RunKind::Text => parts.push(Part::Text {
                    choice,
                    text: self.text.drain(..run.bytes).collect(),
                    logprobs: self.logprobs.drain(..run.tokens).collect(),
                }),
                RunKind::Reasoning => parts.push(Part::Reasoning {
                    choice,
                    text: self.reasoning.drain(..run.bytes).collect(),
                    logprobs: self.reasoning_logprobs.drain(..run.tokens).collect(),
                }),
                RunKind::Call => {
                    if let Some((call, index)) = calls.next() {
                        parts.extend(call_parts(choice, index, call));
                    }
                }
            }
        }
        parts.extend(self.reason.map(|reason| Part::Finish {
            choice,
            reason,
            stop: self.stop,
            report: None,
        }));
    }
}

fn call_parts(choice: usize, index: u32, call: AnswerCall) -> [Part; 2] {
    let start = Part::CallStart {
        choice,
        index,
        id: call.id,
        name: call.name,
    };
    let arguments = Part::CallArguments {
        choice,
        index,
        text: call.arguments,
    };
    [start, arguments]
}
