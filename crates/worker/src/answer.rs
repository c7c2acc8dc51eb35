//! From the scheduler's outputs to the events of one job.

use chat::OutputParser;
use engine::Output;
use proto::{Delta, Event, FinishReason, SamplingValues, TokenLogprob};

/// What turns a job's text into events.
#[derive(Debug)]
pub(crate) struct Answer {
    sampling: SamplingValues,
    warnings: Vec<String>,
    choices: Vec<ChoiceAnswer>,
    /// Text to repeat in front of each choice.
    echo: Option<String>,
    /// Tokens of the prompt that its text does not show: a BOS that was added.
    n_hidden: usize,
    /// Stop strings that the format needs, not the caller: not reported as theirs.
    own_stops: Vec<String>,
}

#[derive(Debug)]
struct ChoiceAnswer {
    /// `None`: the text is given as it is.
    parser: Option<OutputParser>,
    /// Log-probabilities whose text the parser still holds back.
    logprobs: Vec<TokenLogprob>,
}

impl Answer {
    /// `parsers`: one a choice, or none for plain text.
    pub(crate) fn new(sampling: SamplingValues, parsers: Vec<Option<OutputParser>>) -> Self {
        let choices = parsers
            .into_iter()
            .map(|parser| ChoiceAnswer {
                parser,
                logprobs: Vec::new(),
            })
            .collect();
        Self {
            sampling,
            warnings: Vec::new(),
            choices,
            echo: None,
            n_hidden: 0,
            own_stops: Vec::new(),
        }
    }

    pub(crate) fn with_warnings(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// `n_hidden`: tokens in front of the prompt that are not part of its text.
    pub(crate) fn with_echo(self, echo: Option<String>, n_hidden: usize) -> Self {
        Self {
            echo,
            n_hidden,
            ..self
        }
    }

    pub(crate) fn with_own_stops(self, own_stops: Vec<String>) -> Self {
        Self { own_stops, ..self }
    }

    pub(crate) fn on_output(&mut self, output: Output) -> Vec<Event> {
        match output {
            Output::Started {
                prompt_tokens,
                cached_tokens,
                ..
            } => self.started(prompt_tokens, cached_tokens),
            Output::Prefill { done, total, .. } => vec![Event::Prefill { done, total }],
            Output::Prefix { report, .. } => vec![Event::Prefix(report)],
            Output::Prompt { logprobs, .. } => self.prompt(&logprobs),
            Output::Text {
                choice,
                text,
                logprobs,
                ..
            } => self.text(choice, &text, logprobs),
            Output::Finished {
                choice,
                reason,
                stop,
                ..
            } => self.finished(choice, reason, stop),
            Output::Done { usage, timings, .. } => vec![Event::Done { usage, timings }],
            Output::Failed { failure, .. } => vec![Event::Failed(failure)],
        }
    }

    fn started(&mut self, prompt_tokens: u32, cached_tokens: u32) -> Vec<Event> {
        let mut events = vec![Event::Started {
            prompt_tokens,
            cached_tokens,
            sampling: Some(Box::new(self.sampling.clone())),
            warnings: std::mem::take(&mut self.warnings),
        }];
        if let Some(text) = self.echo.take() {
            events.extend(self.to_all(&Delta::Text { text }, &[]));
        }
        events
    }

    fn prompt(&mut self, logprobs: &[TokenLogprob]) -> Vec<Event> {
        // The echoed text went out with `Started`; these belong to it.
        let shown = logprobs.get(self.n_hidden..).unwrap_or_default();
        let text = String::new();
        self.to_all(&Delta::Text { text }, shown)
    }

    fn to_all(&self, delta: &Delta, logprobs: &[TokenLogprob]) -> Vec<Event> {
        (0..self.choices.len())
            .map(|choice| Event::Delta {
                choice: index(choice),
                delta: delta.clone(),
                logprobs: logprobs.to_vec(),
            })
            .collect()
    }

    fn text(&mut self, choice: u32, text: &str, logprobs: Vec<TokenLogprob>) -> Vec<Event> {
        let Some(state) = self.choices.get_mut(choice as usize) else {
            return Vec::new();
        };
        state.logprobs.extend(logprobs);
        let deltas = match &mut state.parser {
            Some(parser) => parser.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![Delta::Text {
                text: text.to_owned(),
            }],
        };
        state.events(choice, deltas)
    }

    fn finished(&mut self, choice: u32, reason: FinishReason, stop: Option<String>) -> Vec<Event> {
        let Some(state) = self.choices.get_mut(choice as usize) else {
            return Vec::new();
        };
        let deltas = state
            .parser
            .as_mut()
            .map_or_else(Vec::new, OutputParser::finish);
        let mut events = state.events(choice, deltas);
        let called = state
            .parser
            .as_ref()
            .is_some_and(OutputParser::had_tool_calls);
        let broke_off = state
            .parser
            .as_ref()
            .is_some_and(|parser| parser.unfinished_calls() > 0);
        let reason = match reason {
            // A call without its end must not look like one to be carried out.
            FinishReason::Stop if broke_off => FinishReason::Length,
            FinishReason::Stop if called => FinishReason::ToolCalls,
            reason => reason,
        };
        if !state.logprobs.is_empty() {
            // Tokens whose text was markup still have their place in the list.
            let text = String::new();
            let logprobs = std::mem::take(&mut state.logprobs);
            events.push(Event::Delta {
                choice,
                delta: Delta::Text { text },
                logprobs,
            });
        }
        let stop = stop.filter(|stop| !self.own_stops.contains(stop));
        events.push(Event::Finished {
            choice,
            reason,
            stop,
        });
        events
    }
}

impl ChoiceAnswer {
    /// The first delta carries the log-probabilities that have come so far.
    fn events(&mut self, choice: u32, deltas: Vec<Delta>) -> Vec<Event> {
        let mut events = Vec::with_capacity(deltas.len());
        for delta in deltas {
            let logprobs = std::mem::take(&mut self.logprobs);
            events.push(Event::Delta {
                choice,
                delta,
                logprobs,
            });
        }
        events
    }
}

fn index(choice: usize) -> u32 {
    u32::try_from(choice).unwrap_or(u32::MAX)
}
