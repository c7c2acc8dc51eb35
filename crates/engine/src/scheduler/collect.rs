//! After a pass: from logits to tokens, text and news.

use proto::{FailureKind, FinishReason, JobFailure, TokenLogprob, TopLogprob};

use crate::request::Output;
use crate::scheduler::job::Choice;
use crate::scheduler::plan::Lease;
use crate::scheduler::{Scheduler, saturate};
use crate::{DecodeError, TokenId, Vocabulary};

/// Greedy results of a pass with drafts whose best two logits are closer than this
/// are computed again without a draft: a pass over several rows adds in another order
/// than a single one, and a close race could end differently for it.
///
/// Measured over 40 texts of 96 tokens with drafts of up to 4, the distance of the best
/// two moved by 0.08 in the median, 0.41 at the 99th percentile (Gemma 3 270M `Q4_K_M`,
/// whose kernels take several rows another way than one), and not at all where they do
/// not (SmolLM2 135M `Q4_1`). `cargo xtask parity` shows what comes of it.
const NEAR_TIE_LOGITS: f32 = 0.5;

/// What came of one row's logits.
enum Taken {
    /// A token, and the choice goes on.
    Token(TokenId),
    /// The choice is finished.
    Finished,
}

impl Scheduler {
    /// Runs the planned rows and takes what they give.
    pub(crate) fn pass(&mut self, leases: &[Lease]) -> Result<(), DecodeError> {
        let n_prefill: usize = leases
            .iter()
            .filter(|lease| lease.n_rows > lease.n_draft + 1)
            .map(|lease| lease.n_rows)
            .sum();
        let keys: Vec<_> = leases
            .iter()
            .map(|lease| self.running[lease.job].key())
            .collect();
        self.canceller.begin_pass(keys.into_iter());
        let before = (self.clock)();
        let result = self.decoder.decode(&self.rows);
        let took = (self.clock)().saturating_sub(before);
        self.canceller.end_pass();
        result?;
        if n_prefill * 2 > self.rows.len() {
            self.pace.observe(self.rows.len(), took);
        }
        let mut failures = Vec::new();
        for lease in leases {
            if let Err(failure) = self.collect(*lease) {
                failures.push((lease.job, failure));
            }
        }
        failures.sort_by_key(|(job, _)| *job);
        failures.dedup_by_key(|(job, _)| *job);
        for (job, failure) in failures.into_iter().rev() {
            self.fail(job, failure);
        }
        Ok(())
    }

    fn collect(&mut self, lease: Lease) -> Result<(), JobFailure> {
        let job = &mut self.running[lease.job];
        let choice = &job.choices[lease.choice];
        // What is read again after a shift is no news, and is nobody's prefix.
        let in_prompt = choice.n_kv < job.prompt_len && choice.n_dropped == 0;
        if in_prompt && job.request.prompt_logprobs {
            self.collect_prompt_logprobs(lease)?;
        }
        let job = &mut self.running[lease.job];
        if lease.n_draft == 0 {
            job.choices[lease.choice].n_kv += lease.n_rows;
        }
        if in_prompt && lease.choice == 0 {
            let done = job.choices[0].n_kv.min(job.prompt_len);
            let news = Output::Prefill {
                key: job.key(),
                done: saturate(done),
                total: saturate(job.prompt_len),
            };
            self.outputs.push(news);
        }
        if in_prompt {
            self.put_away(lease);
        }
        if !lease.output {
            return Ok(());
        }
        if lease.n_draft > 0 {
            return self.collect_draft(lease);
        }
        let row = lease.first_row + lease.n_rows - 1;
        let forked = if self.running[lease.job].forked {
            0..0
        } else {
            self.fork(lease.job)
        };
        for choice in std::iter::once(lease.choice).chain(forked) {
            self.take(lease.job, choice, row)?;
            self.report(lease.job, choice);
        }
        Ok(())
    }

    /// Splits off the choices after the first; they share its prompt's cells.
    fn fork(&mut self, job: usize) -> std::ops::Range<usize> {
        let forked = self.running[job].fork();
        let first = &self.running[job].choices[0];
        let (from, len) = (first.sequence, first.n_kv);
        for at in forked.clone() {
            let to = self.take_sequence(None);
            let shared = match (from, to) {
                (Some(from), Some(to)) => self.share(from, to, len),
                _ => false,
            };
            let choice = &mut self.running[job].choices[at];
            choice.sequence = to;
            choice.n_kv = if shared { len } else { 0 };
        }
        forked
    }

    /// Takes the token of row `row` for a choice.
    fn take(&mut self, job: usize, choice: usize, row: usize) -> Result<Taken, JobFailure> {
        let now = (self.clock)();
        let logits = self
            .decoder
            .logits(row)
            .ok_or_else(|| internal("a row has no logits"))?;
        let job = &mut self.running[job];
        let context = self.shape.context;
        if job.request.max_tokens == Some(0) {
            // Only the prompt was to be read.
            job.clocks.last_token = now;
            job.choices[choice].finished = Some(FinishReason::Length);
            return Ok(Taken::Finished);
        }
        job.usage.completion_tokens += 1;
        job.clocks.first_token.get_or_insert(now);
        job.clocks.last_token = now;
        let request = &job.request;
        let choice = &mut job.choices[choice];
        let token = next_token(choice, logits)?;
        if !request.ignore_eos && self.vocabulary.is_end_of_generation(token) {
            choice.finished = Some(FinishReason::Stop);
            return Ok(Taken::Finished);
        }
        let vocabulary = &*self.vocabulary;
        let logprob = request
            .logprobs
            .map(|n_top| token_logprob(vocabulary, logits, token, n_top));
        choice.push_token(token, vocabulary, request.special_text, logprob);
        let n_generated = choice.n_generated(job.prompt_len);
        let stopped = choice
            .constraint
            .as_ref()
            .is_some_and(sampling::Constraint::is_stopped);
        choice.finished =
            if choice.text.stop_hit().is_some() || (choice.is_constrained() && stopped) {
                Some(FinishReason::Stop)
            } else if request
                .max_tokens
                .is_some_and(|max| n_generated >= max as usize)
                || (choice.tokens.len() >= context && request.attention_sinks.is_none())
            {
                Some(FinishReason::Length)
            } else {
                None
            };
        Ok(if choice.finished.is_some() {
            Taken::Finished
        } else {
            Taken::Token(token)
        })
    }

    /// Takes tokens as long as they agree with the draft, and one more.
    fn collect_draft(&mut self, lease: Lease) -> Result<(), JobFailure> {
        let n_kv = self.running[lease.job].choices[lease.choice].n_kv;
        let mut n_valid = 0;
        for at in 0..lease.n_rows {
            let row = lease.first_row + at;
            let choice = &mut self.running[lease.job].choices[lease.choice];
            let logits = self
                .decoder
                .logits(row)
                .ok_or_else(|| internal("a row has no logits"))?;
            if is_near_tie(choice, logits)? {
                choice.careful = true;
                break;
            }
            n_valid = at + 1;
            let drafted = self
                .rows
                .get(row + 1)
                .filter(|_| at < lease.n_draft)
                .map(|row| row.token);
            match self.take(lease.job, lease.choice, row)? {
                Taken::Token(token) if Some(token) == drafted => {}
                Taken::Token(_) | Taken::Finished => break,
            }
        }
        let accepted = n_valid.saturating_sub(1);
        let job = &mut self.running[lease.job];
        job.usage.draft_tokens += saturate(lease.n_draft);
        job.usage.draft_accepted_tokens += saturate(accepted);
        let choice = &mut job.choices[lease.choice];
        if let Some(drafter) = &mut choice.drafter {
            drafter.judge(lease.n_draft, accepted);
        }
        choice.n_kv = n_kv + n_valid;
        if let Some(sequence) = choice.sequence
            && !self.decoder.truncate(sequence, choice.n_kv)
        {
            choice.n_kv = 0;
        }
        self.report(lease.job, lease.choice);
        Ok(())
    }

    /// Sends the text that is certain, and the end if the choice is over.
    pub(crate) fn report(&mut self, job_at: usize, choice_at: usize) {
        let job = &mut self.running[job_at];
        let key = job.key();
        let choice = &mut job.choices[choice_at];
        let (text, logprobs) = match choice.finished {
            Some(_) => choice.text.finish(),
            None => choice.text.take(),
        };
        if !text.is_empty() || !logprobs.is_empty() {
            self.outputs.push(Output::Text {
                key,
                choice: choice.index,
                text,
                logprobs,
            });
        }
        let Some(reason) = choice.finished else {
            return;
        };
        let stop = choice.text.stop_hit().map(str::to_owned);
        self.outputs.push(Output::Finished {
            key,
            choice: choice.index,
            reason,
            stop,
        });
        if job.request.n > 1 {
            self.make_way(job_at, choice_at);
        }
    }

    /// A finished choice keeps only the prompt, so that the others of its job have
    /// room; those put aside for want of it may go on.
    fn make_way(&mut self, job: usize, choice: usize) {
        let job = &mut self.running[job];
        for other in &mut job.choices {
            other.parked = false;
        }
        let len = job.prompt_len;
        let choice = &mut job.choices[choice];
        if let Some(sequence) = choice.sequence
            && choice.n_kv > len
        {
            let cut = self.decoder.truncate(sequence, len);
            choice.n_kv = if cut { len } else { 0 };
        }
    }

    /// Log-probabilities of the prompt tokens that follow the rows of a lease.
    fn collect_prompt_logprobs(&mut self, lease: Lease) -> Result<(), JobFailure> {
        let job = &mut self.running[lease.job];
        let choice = &job.choices[lease.choice];
        let n_top = job.request.logprobs.unwrap_or(0);
        if choice.n_kv == 0 {
            let (token, bytes) = token_text(&*self.vocabulary, choice.tokens[0]);
            job.prompt_logprobs = vec![TokenLogprob {
                token,
                bytes,
                logprob: None,
                top: Vec::new(),
            }];
        }
        for at in 0..lease.n_rows {
            let next = choice.n_kv + at + 1;
            if next >= job.prompt_len {
                break;
            }
            let logits = self
                .decoder
                .logits(lease.first_row + at)
                .ok_or_else(|| internal("a row has no logits"))?;
            let token = choice.tokens[next];
            job.prompt_logprobs
                .push(token_logprob(&*self.vocabulary, logits, token, n_top));
        }
        if lease.output {
            // Told once, even if the prompt is computed again later.
            job.request.prompt_logprobs = false;
            let logprobs = std::mem::take(&mut job.prompt_logprobs);
            self.outputs.push(Output::Prompt {
                key: job.key(),
                logprobs,
            });
        }
        Ok(())
    }
}

/// Whether the next token is the better of two that are too close to call.
fn is_near_tie(choice: &mut Choice, logits: &[f32]) -> Result<bool, JobFailure> {
    if !choice.sampler.is_greedy() || !choice.forced.is_empty() {
        return Ok(false);
    }
    let constrained = choice.is_constrained();
    let constraint = choice.constraint.as_mut().filter(|_| constrained);
    let mask = match constraint {
        Some(constraint) => Some(constraint.mask().map_err(|error| internal(&error))?),
        None => None,
    };
    Ok(choice.sampler.greedy_margin(logits, mask) < NEAR_TIE_LOGITS)
}

/// The next token of a choice: forced, or sampled under its constraint.
fn next_token(choice: &mut Choice, logits: &[f32]) -> Result<TokenId, JobFailure> {
    let constrained = choice.is_constrained();
    let mut constraint = choice.constraint.as_mut().filter(|_| constrained);
    let token = match (choice.forced.pop_front(), &mut constraint) {
        (Some(forced), _) => forced,
        (None, None) => choice
            .sampler
            .sample(logits, None)
            .map_err(|error| internal(&error))?,
        (None, Some(constraint)) => {
            let mask = constraint.mask().map_err(|error| internal(&error))?;
            choice
                .sampler
                .sample(logits, Some(mask))
                .map_err(|error| internal(&error))?
        }
    };
    if let Some(constraint) = constraint {
        constraint.accept(token).map_err(|error| internal(&error))?;
    }
    Ok(token)
}

fn token_logprob(
    vocabulary: &dyn Vocabulary,
    logits: &[f32],
    token: TokenId,
    n_top: usize,
) -> TokenLogprob {
    let found = sampling::logprobs(logits, token, n_top);
    let (name, bytes) = token_text(vocabulary, token);
    let top = found
        .top
        .iter()
        .map(|(token, logprob)| {
            let (token, bytes) = token_text(vocabulary, *token);
            TopLogprob {
                token,
                bytes,
                logprob: *logprob,
            }
        })
        .collect();
    TokenLogprob {
        token: name,
        bytes,
        logprob: Some(found.logprob),
        top,
    }
}

fn token_text(vocabulary: &dyn Vocabulary, token: TokenId) -> (String, Vec<u8>) {
    let bytes = vocabulary.piece(token, true);
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

fn internal(what: &(impl std::fmt::Display + ?Sized)) -> JobFailure {
    JobFailure {
        kind: FailureKind::Internal,
        message: what.to_string(),
        param: None,
    }
}
