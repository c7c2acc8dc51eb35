//! The state of one request: its choices, their tokens, text and clocks.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use prefix::{Content, Key};
use proto::{FinishReason, PrefixDetail, PrefixReport, Usage};
use sampling::{Constraint, Sampler};

use crate::request::{JobKey, Request};
use crate::scheduler::draft::Drafter;
use crate::scheduler::park::Parking;
use crate::text::TextStream;
use crate::thought::Thought;
use crate::{SequenceId, TokenId, Vocabulary};

/// A request in the queue or in a slot.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    /// Tokens of the prompt that are still in the context.
    pub(crate) prompt_len: usize,
    /// Which of the slots it has; of no meaning in the queue.
    pub(crate) slot: usize,
    pub(crate) choices: Vec<Choice>,
    /// Choices after the first have been split off; before, only the first runs.
    pub(crate) forked: bool,
    pub(crate) usage: Usage,
    pub(crate) clocks: Clocks,
    /// `Started` was sent: a preempted job is not announced again.
    pub(crate) announced: bool,
    pub(crate) prompt_logprobs: Vec<proto::TokenLogprob>,
    /// A state that its first choice waits for.
    pub(crate) restore: Option<Restore>,
    /// What is put away of its prompt was left there: computing it is sooner.
    pub(crate) fetch_is_slower: bool,
    pub(crate) parking: Parking,
    /// Lengths at which a pass must end, so that the state there can be put away; ascending.
    pub(crate) checkpoints: Vec<usize>,
    /// What is to be told of its prefix.
    pub(crate) prefix: Option<Box<PrefixReport>>,
}

/// A restore in progress: what is there so far is what the sequence holds.
#[derive(Debug, Clone)]
pub(crate) struct Restore {
    pub(crate) keys: Vec<Key>,
    /// Blocks that are on their way.
    pub(crate) coming: Range<usize>,
    /// Blocks there will be in the end.
    pub(crate) to: usize,
    /// The state that goes with every part.
    pub(crate) state: Option<Arc<Content>>,
    /// Tokens that the sequence held before.
    pub(crate) n_live: usize,
}

/// When things happened to a job, on the caller's clock.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clocks {
    pub(crate) submitted: Duration,
    pub(crate) started: Duration,
    pub(crate) first_token: Option<Duration>,
    pub(crate) last_token: Duration,
}

/// One of a request's `n` answers.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) index: u32,
    pub(crate) sequence: Option<SequenceId>,
    /// The prompt and what was generated, without what has left the context.
    pub(crate) tokens: Vec<TokenId>,
    /// `tokens[..n_kv]` are in the KV cache.
    pub(crate) n_kv: usize,
    /// Tokens that have left the context, and how many of those are the answer's.
    pub(crate) n_dropped: usize,
    pub(crate) n_answer_dropped: usize,
    pub(crate) sampler: Sampler,
    pub(crate) constraint: Option<Constraint>,
    pub(crate) constrain_thought: bool,
    pub(crate) text: TextStream,
    pub(crate) thought: Option<Thought>,
    pub(crate) drafter: Option<Drafter>,
    /// Tokens to take instead of sampling.
    pub(crate) forced: VecDeque<TokenId>,
    pub(crate) finished: Option<FinishReason>,
    /// The next row is decoded without a draft: its last result was too close to call.
    pub(crate) careful: bool,
    /// Put aside for want of room, until another choice of the job ends.
    pub(crate) parked: bool,
}

impl Job {
    pub(crate) fn new(mut request: Request, now: Duration) -> Self {
        let prompt = std::mem::take(&mut request.prompt);
        let mut sampler = Sampler::new(&request.sampling);
        for token in &prompt {
            sampler.accept(*token);
        }
        let first = Choice {
            index: 0,
            sequence: None,
            n_kv: 0,
            n_dropped: 0,
            n_answer_dropped: 0,
            sampler,
            constraint: request.constraint.take(),
            constrain_thought: request.constrain_thought,
            text: TextStream::new(&request.stop),
            thought: request.thought.clone().map(Thought::new),
            drafter: request.speculation.map(Drafter::new),
            forced: VecDeque::new(),
            finished: None,
            careful: false,
            parked: false,
            tokens: prompt,
        };
        let prompt_len = first.tokens.len();
        Self {
            prompt_len,
            slot: 0,
            choices: vec![first],
            forked: request.n <= 1,
            usage: Usage {
                prompt_tokens: u32::try_from(prompt_len).unwrap_or(u32::MAX),
                ..Usage::default()
            },
            clocks: Clocks {
                submitted: now,
                ..Clocks::default()
            },
            announced: false,
            prompt_logprobs: Vec::new(),
            restore: None,
            fetch_is_slower: false,
            parking: Parking::default(),
            checkpoints: Vec::new(),
            prefix: None,
            request,
        }
    }

    pub(crate) fn key(&self) -> JobKey {
        self.request.key
    }

    /// Whether its prompt may begin with what others have computed.
    pub(crate) fn reuses(&self) -> bool {
        self.opted_out().is_none()
    }

    /// Why nothing that is known of its prompt may be used.
    pub(crate) fn opted_out(&self) -> Option<PrefixDetail> {
        if !self.request.cache_prompt {
            return Some(PrefixDetail::CachePrompt);
        }
        self.request
            .prompt_logprobs
            .then_some(PrefixDetail::PromptLogprobs)
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.forked && self.choices.iter().all(|choice| choice.finished.is_some())
    }

    /// Sequences it needs to run all its choices.
    pub(crate) fn n_sequences(&self) -> usize {
        self.request.n.max(1) as usize
    }

    /// Adds the choices after the first, as copies of it after its prefill.
    pub(crate) fn fork(&mut self) -> std::ops::Range<usize> {
        self.forked = true;
        let first = &self.choices[0];
        let others: Vec<Choice> = (1..self.request.n)
            .map(|index| Choice {
                index,
                sequence: None,
                tokens: first.tokens.clone(),
                n_kv: 0,
                n_dropped: 0,
                n_answer_dropped: 0,
                sampler: first.sampler.fork(index),
                constraint: first.constraint.as_ref().map(Constraint::fork),
                constrain_thought: first.constrain_thought,
                text: TextStream::new(&self.request.stop),
                thought: first.thought.clone(),
                drafter: first.drafter.clone(),
                forced: VecDeque::new(),
                finished: None,
                careful: false,
                parked: false,
            })
            .collect();
        self.choices.extend(others);
        1..self.choices.len()
    }

    pub(crate) fn reasoning_tokens(&self) -> u32 {
        let of = |choice: &Choice| choice.thought.as_ref().map_or(0, Thought::n_tokens);
        self.choices.iter().map(of).sum()
    }
}

impl Choice {
    pub(crate) fn is_running(&self) -> bool {
        self.finished.is_none() && self.sequence.is_some()
    }

    /// Open, and without a place in the cache.
    pub(crate) fn waits_for_prompt(&self) -> bool {
        self.finished.is_none() && self.sequence.is_none() && !self.parked
    }

    /// Tokens that still have to go through the model.
    pub(crate) fn pending(&self) -> usize {
        self.tokens.len() - self.n_kv
    }

    /// Tokens of the answer, those that have left the context among them.
    pub(crate) fn n_generated(&self, prompt_len: usize) -> usize {
        self.tokens.len() - prompt_len + self.n_answer_dropped
    }

    /// Exactly the last token is pending: the next pass gives the next one.
    pub(crate) fn is_decoding(&self, prompt_len: usize) -> bool {
        self.pending() == 1 && self.tokens.len() > prompt_len
    }

    /// Whether the constraint holds at this point; a thought is free unless it covers that.
    pub(crate) fn is_constrained(&self) -> bool {
        let in_thought = self.thought.as_ref().is_some_and(Thought::inside);
        self.constraint.is_some() && (self.constrain_thought || !in_thought)
    }

    /// Adds one token of the answer to everything that follows it.
    pub(crate) fn push_token(
        &mut self,
        token: TokenId,
        vocabulary: &dyn Vocabulary,
        special_text: bool,
        logprob: Option<proto::TokenLogprob>,
    ) {
        self.tokens.push(token);
        self.sampler.accept(token);
        let bytes = vocabulary.piece(token, special_text);
        self.text.push(&bytes, logprob);
        if let Some(thought) = &mut self.thought {
            let was_inside = thought.inside();
            thought.push(&bytes);
            if was_inside
                && !thought.inside()
                && !self.constrain_thought
                && self.constraint.is_some()
            {
                // The answer begins here, and what comes next must obey its grammar.
                self.forced.clear();
            }
            if thought.is_over_budget() && self.forced.is_empty() {
                self.forced.extend(thought.close_tokens());
            }
        }
    }
}
