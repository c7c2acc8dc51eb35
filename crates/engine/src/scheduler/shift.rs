//! Going on past a full context: the first tokens stay, and of the others the older half goes.
//!
//! Source: Xiao, Tian, Chen, Han, Lewis, "Efficient Streaming Language Models with Attention
//! Sinks" (2023). Models give much of their attention to the very first tokens, whatever these
//! say; a window without them ends in noise. Positions are those in the cache: what stays moves
//! down to close the gap. Half of a context goes at once, since every time all keys that stay
//! are turned to their new positions.

use proto::{FailureKind, JobFailure};

use crate::Decoder;
use crate::request::Request;
use crate::scheduler::draft::Drafter;
use crate::scheduler::{Scheduler, saturate};

/// Why sequences of a decoder cannot go on past their context with so many first tokens kept;
/// `None`: they can.
#[must_use]
pub fn sinks_refusal(decoder: &dyn Decoder, sinks: u32) -> Option<String> {
    let context = decoder.shape().context;
    let most = context / 2;
    if let Some(reason) = decoder.cannot_shift() {
        return Some(format!(
            "attention_sinks is {sinks}, and this model cannot go on past its context: {reason}; \
             leave attention_sinks out"
        ));
    }
    let is_right = (1..=most).contains(&(sinks as usize));
    (!is_right).then(|| {
        format!(
            "attention_sinks is {sinks}; with a context of {context} tokens it must be 1 to \
             {most}, so that half of them can go"
        )
    })
}

impl Scheduler {
    /// Why a request cannot go on past its context; `None`: it can, or does not want to.
    pub(super) fn refuse_sinks(&self, request: &Request) -> Option<JobFailure> {
        let sinks = request.attention_sinks?;
        let several = (request.n > 1).then(|| {
            format!(
                "attention_sinks goes with one choice, and n is {}; ask for each by itself",
                request.n
            )
        });
        let message = several.or_else(|| sinks_refusal(&*self.decoder, sinks))?;
        Some(JobFailure {
            kind: FailureKind::InvalidRequest,
            message,
            param: Some("attention_sinks".to_owned()),
        })
    }

    /// Makes room in the sequences that are full, where their requests want to go on.
    pub(super) fn shift_full(&mut self) {
        for at in 0..self.running.len() {
            let job = &self.running[at];
            let choice = &job.choices[0];
            let is_full = choice.tokens.len() >= self.shape.context;
            if let Some(sinks) = job.request.attention_sinks
                && is_full
                && choice.is_running()
                && job.restore.is_none()
            {
                self.shift(at, sinks as usize);
            }
        }
    }

    /// Drops the older half of what follows the first tokens of a job's only choice.
    fn shift(&mut self, at: usize, sinks: usize) {
        let choice = &self.running[at].choices[0];
        let (Some(sequence), n_kv, len) = (choice.sequence, choice.n_kv, choice.tokens.len())
        else {
            return;
        };
        let n = (len - sinks) / 2;
        self.forget_captures(sequence, sinks.min(n_kv));
        // Cells that others hold too would move for them as well: then what follows the first
        // tokens is read again, into cells of its own.
        let is_whole = n_kv + 1 == len && !self.sequences.is_shared(sequence);
        let n_kv = if is_whole && self.decoder.shift(sequence, sinks, n) {
            n_kv - n
        } else {
            let kept = sinks.min(n_kv);
            let cut = self.decoder.truncate(sequence, kept);
            self.sequences.set_unshared(sequence);
            if cut { kept } else { 0 }
        };
        let job = &mut self.running[at];
        let of_prompt = (sinks + n).min(job.prompt_len) - sinks.min(job.prompt_len);
        job.prompt_len -= of_prompt;
        job.checkpoints.clear();
        job.usage.dropped_tokens = job.usage.dropped_tokens.saturating_add(saturate(n));
        let choice = &mut job.choices[0];
        choice.tokens.drain(sinks..sinks + n);
        choice.n_kv = n_kv;
        choice.n_dropped += n;
        choice.n_answer_dropped += n - of_prompt;
        choice.drafter = job.request.speculation.map(Drafter::new);
    }
}
