//! The rows of the next pass.

use crate::scheduler::job::Job;
use crate::scheduler::{Scheduler, Shape};
use crate::{Row, SequenceId, TokenId};

/// One part in so many of the rows is for a prompt that is being read. Streams that
/// take more take turns with it, a pass each.
const KEPT_SHARE: usize = 4;

/// The rows one choice has in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Index into the running jobs.
    pub(crate) job: usize,
    pub(crate) choice: usize,
    pub(crate) first_row: usize,
    pub(crate) n_rows: usize,
    /// Of those, the last ones are a draft.
    pub(crate) n_draft: usize,
    /// The last row before the draft gives the next token.
    pub(crate) output: bool,
}

/// What is left of a pass.
struct Budget {
    rows: usize,
    outputs: usize,
}

impl Scheduler {
    /// Fills `self.rows` and says whose they are.
    pub(crate) fn plan(&mut self) -> Vec<Lease> {
        self.rows.clear();
        let mut leases = Vec::new();
        let Shape {
            batch,
            ubatch,
            outputs,
            context,
            can_cut,
            ..
        } = self.shape;
        let mut budget = Budget {
            rows: batch,
            outputs,
        };
        let n_decoding = self.running.iter().map(n_decoding).sum::<usize>();
        let is_reading = self.running.iter().any(is_reading);
        // What drafts leave to a prompt, and the logits it ends with. Drafts also stay
        // below `ubatch`: in a pass that is split, llama.cpp's sliding-window cache may
        // forget what the first rows of a sequence attend to when it places the last.
        let kept = if is_reading {
            ubatch.div_ceil(KEPT_SHARE)
        } else {
            0
        };
        let streams_max = ubatch - kept;
        self.is_prompts_turn = is_reading && n_decoding > streams_max && !self.is_prompts_turn;
        let mut drafts = outputs
            .saturating_sub(kept.min(1))
            .min(streams_max)
            .saturating_sub(n_decoding);
        let streams = match self.is_prompts_turn {
            true => &mut [],
            false => self.running.as_mut_slice(),
        };
        for (at, job) in streams.iter_mut().enumerate() {
            for choice in 0..job.choices.len() {
                let draft = if can_cut {
                    draft(job, choice, drafts, context)
                } else {
                    Vec::new()
                };
                if let Some(lease) =
                    decode_lease(job, at, choice, &draft, &mut self.rows, &mut budget)
                {
                    drafts -= lease.n_draft;
                    leases.push(lease);
                }
            }
        }
        let decoding = !self.rows.is_empty();
        let room = ubatch.saturating_sub(self.rows.len()).min(budget.rows);
        budget.rows = if decoding {
            self.pace.chunk(ubatch).min(room)
        } else {
            room
        };
        for (at, job) in self.running.iter().enumerate() {
            for choice in 0..job.choices.len() {
                leases.extend(prefill_lease(job, at, choice, &mut self.rows, &mut budget));
            }
        }
        leases
    }
}

fn n_decoding(job: &Job) -> usize {
    let decoding =
        |choice: &&super::Choice| choice.is_running() && choice.is_decoding(job.prompt_len);
    job.choices.iter().filter(decoding).count()
}

/// Whether a choice of the job has tokens to read before it can go on.
fn is_reading(job: &Job) -> bool {
    let reading =
        |choice: &super::Choice| choice.is_running() && !choice.is_decoding(job.prompt_len);
    job.restore.is_none() && job.choices.iter().any(reading)
}

/// Draft tokens for a choice, within what may still be generated.
fn draft(job: &mut Job, choice: usize, room: usize, context: usize) -> Vec<TokenId> {
    let prompt_len = job.prompt_len;
    let max_tokens = job
        .request
        .max_tokens
        .map_or(usize::MAX, |max| max as usize);
    let choice = &mut job.choices[choice];
    if !choice.is_running() || !choice.is_decoding(prompt_len) || !choice.forced.is_empty() {
        return Vec::new();
    }
    if std::mem::take(&mut choice.careful) {
        return Vec::new();
    }
    let left = max_tokens.saturating_sub(choice.n_generated(prompt_len));
    let fits = context.saturating_sub(choice.tokens.len() + 1);
    // The pass gives one token beyond the draft.
    let room = room.min(left.saturating_sub(1)).min(fits);
    match &mut choice.drafter {
        Some(drafter) => drafter.draft(&choice.tokens, room).to_vec(),
        None => Vec::new(),
    }
}

fn decode_lease(
    job: &Job,
    at: usize,
    choice_at: usize,
    draft: &[TokenId],
    rows: &mut Vec<Row>,
    budget: &mut Budget,
) -> Option<Lease> {
    let choice = &job.choices[choice_at];
    let sequence = choice.sequence.filter(|_| choice.is_running())?;
    let n_rows = 1 + draft.len();
    if !choice.is_decoding(job.prompt_len) || budget.rows < n_rows || budget.outputs < n_rows {
        return None;
    }
    budget.rows -= n_rows;
    budget.outputs -= n_rows;
    let first_row = rows.len();
    let tokens = choice.tokens[choice.n_kv..].iter().chain(draft);
    push_rows(rows, sequence, choice.n_kv, tokens, |_| true);
    Some(Lease {
        job: at,
        choice: choice_at,
        first_row,
        n_rows,
        n_draft: draft.len(),
        output: true,
    })
}

fn prefill_lease(
    job: &Job,
    at: usize,
    choice_at: usize,
    rows: &mut Vec<Row>,
    budget: &mut Budget,
) -> Option<Lease> {
    let choice = &job.choices[choice_at];
    let sequence = choice.sequence.filter(|_| choice.is_running())?;
    if choice.is_decoding(job.prompt_len) || job.restore.is_some() {
        return None;
    }
    let every_row = job.request.prompt_logprobs && choice.n_kv < job.prompt_len;
    let most = if every_row {
        budget.rows.min(budget.outputs)
    } else {
        budget.rows
    };
    let stop = job.checkpoints.iter().find(|at| **at > choice.n_kv);
    let until_stop = stop.map_or(usize::MAX, |at| at - choice.n_kv);
    let n_rows = choice.pending().min(most).min(until_stop);
    let output = n_rows == choice.pending();
    let n_outputs = if every_row {
        n_rows
    } else {
        usize::from(output)
    };
    if n_rows == 0 || budget.outputs < n_outputs {
        return None;
    }
    budget.rows -= n_rows;
    budget.outputs -= n_outputs;
    let first_row = rows.len();
    let tokens = choice.tokens[choice.n_kv..][..n_rows].iter();
    push_rows(rows, sequence, choice.n_kv, tokens, |row| {
        every_row || (output && row + 1 == n_rows)
    });
    Some(Lease {
        job: at,
        choice: choice_at,
        first_row,
        n_rows,
        n_draft: 0,
        output,
    })
}

fn push_rows<'a>(
    rows: &mut Vec<Row>,
    sequence: SequenceId,
    first_position: usize,
    tokens: impl Iterator<Item = &'a TokenId>,
    output: impl Fn(usize) -> bool,
) {
    rows.extend(tokens.enumerate().map(|(at, token)| Row {
        token: *token,
        // Positions are below the context, which is a u32.
        position: u32::try_from(first_position + at).unwrap_or(u32::MAX),
        sequence,
        output: output(at),
    }));
}
