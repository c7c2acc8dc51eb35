//! Why a prompt was not known farther than it was.
//!
//! The last prompts are remembered with their answers. The one that a new prompt is most like
//! tells where the new one leaves it, and so whose doing it is.

use std::collections::VecDeque;

use prefix::BLOCK_TOKENS;
use proto::{PrefixCause, PrefixDetail, PrefixReport};

use crate::scheduler::change;
use crate::scheduler::saturate;
use crate::scheduler::sequences::common_prefix;
use crate::{TokenId, Vocabulary};

/// Prompts that are remembered, and their tokens in all.
const PROMPTS_MAX: usize = 64;
const TOKENS_MAX: usize = 1 << 20;
/// A beginning shorter than this is that of many prompts, and tells nothing.
const COMMON_MIN: usize = BLOCK_TOKENS;
/// What is lost because blocks are restored whole.
const LOST_MIN: usize = BLOCK_TOKENS;
/// Tokens at the end of a prompt that open the answer, reasoning included.
const OPENING_MAX: usize = 8;
/// Tokens of the text that is shown, before the place and behind it.
const EXCERPT_BEFORE: usize = 4;
const EXCERPT_BEHIND: usize = 12;
const EXCERPT_CHARS_MAX: usize = 200;

#[derive(Debug, Default)]
pub(crate) struct History {
    past: VecDeque<Past>,
}

#[derive(Debug)]
struct Past {
    tokens: Vec<TokenId>,
    prompt_len: usize,
}

/// What a prompt began with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Begun {
    pub(crate) live: usize,
    pub(crate) restored: usize,
    pub(crate) opted_out: Option<PrefixDetail>,
    /// What is put away was left there: fetching it takes longer than computing it.
    pub(crate) is_slower: bool,
    /// What the most similar running request has in common with it, and has not yet read.
    pub(crate) unread: usize,
    /// Tokens that are still known, but not at a place that one can go on from.
    pub(crate) stranded: usize,
    /// Why one can go on from few places of this model.
    pub(crate) window: Option<PrefixDetail>,
    /// Seconds a token.
    pub(crate) pace: Option<f64>,
}

impl History {
    /// Remembers a prompt, of `prompt_len` tokens, and its answer.
    pub(crate) fn remember(&mut self, tokens: Vec<TokenId>, prompt_len: usize) {
        if tokens.len() > TOKENS_MAX {
            return;
        }
        // What goes on from an earlier one replaces it.
        self.past.retain(|past| !tokens.starts_with(&past.tokens));
        self.past.push_back(Past { tokens, prompt_len });
        let mut held: usize = self.past.iter().map(|past| past.tokens.len()).sum();
        while self.past.len() > PROMPTS_MAX || held > TOKENS_MAX {
            held -= self.past.pop_front().map_or(0, |past| past.tokens.len());
        }
    }

    /// What is to be said of a prompt that begins like this.
    pub(crate) fn explain(
        &self,
        prompt: &[TokenId],
        begun: &Begun,
        vocabulary: &dyn Vocabulary,
    ) -> PrefixReport {
        let like = self
            .past
            .iter()
            .map(|past| (common_prefix(&past.tokens, prompt), past));
        let like = like.max_by_key(|(common, _)| *common);
        let reused = (begun.live + begun.restored).min(prompt.len());
        let common = like.map_or(0, |(common, _)| common).max(begun.unread);
        let common = common.max(reused);
        let past = like
            .filter(|(of_past, _)| *of_past == common)
            .map(|(_, past)| past);
        let told = Told {
            prompt,
            common,
            reused,
            vocabulary,
        };
        let (cause, detail, lost) = match told.of_ours(begun) {
            Some(ours) => ours,
            None if common >= COMMON_MIN => told.of_theirs(past),
            None => told.of_beginning(&self.past),
        };
        let is_shown = matches!(cause, PrefixCause::Edited | PrefixCause::Rewritten);
        PrefixReport {
            live_tokens: saturate(begun.live),
            restored_tokens: saturate(begun.restored),
            computed_tokens: saturate(prompt.len() - reused),
            cause,
            detail,
            common_tokens: saturate(common),
            lost_tokens: saturate(lost),
            lost_seconds: begun.pace.map(|pace| pace * lost as f64),
            excerpt: is_shown.then(|| excerpt(prompt, common, vocabulary)),
        }
    }
}

/// The cause, what exactly, and the tokens that were computed because of it.
type Verdict = (PrefixCause, Option<PrefixDetail>, usize);

/// A prompt, and how far it is known.
struct Told<'a> {
    prompt: &'a [TokenId],
    /// Tokens that were read once, and of those the ones that need not be read again.
    common: usize,
    reused: usize,
    vocabulary: &'a dyn Vocabulary,
}

impl Told<'_> {
    /// What stands between a prompt that was read and its state: none of the prompt's doing.
    fn of_ours(&self, begun: &Begun) -> Option<Verdict> {
        // The last token of a prompt is always computed.
        let lost = self.common.min(self.prompt.len() - 1);
        let lost = lost.saturating_sub(self.reused);
        if begun.opted_out.is_some() {
            return Some((PrefixCause::OptedOut, begun.opted_out, lost));
        }
        if self.common < COMMON_MIN || lost < LOST_MIN {
            return None;
        }
        Some(if begun.unread >= self.common {
            (PrefixCause::Running, None, lost)
        } else if begun.is_slower {
            (PrefixCause::Slower, None, lost)
        } else if begun.stranded >= self.reused + LOST_MIN {
            (PrefixCause::Window, begun.window, lost)
        } else {
            (PrefixCause::Evicted, None, lost)
        })
    }

    /// Where the prompt leaves an earlier one that it begins like.
    fn of_theirs(&self, past: Option<&Past>) -> Verdict {
        let len = self.prompt.len();
        // The last token of an answer was never computed.
        let was_extended = past.is_none_or(|past| self.common + 1 >= past.tokens.len());
        if self.common + 1 >= len {
            return (PrefixCause::Repeated, None, 0);
        }
        let Some(past) = past.filter(|_| !was_extended) else {
            return (PrefixCause::Extended, None, 0);
        };
        let lost = past.tokens.len().min(len - 1).saturating_sub(self.reused);
        let has_answer = past.tokens.len() > past.prompt_len;
        if has_answer && self.common + OPENING_MAX >= past.prompt_len {
            let from = past.prompt_len.min(self.common);
            let how = change::rewrite(&past.tokens[from..], &self.prompt[from..], self.vocabulary);
            if self.common >= past.prompt_len || how == PrefixDetail::ReasoningLeftOut {
                return (PrefixCause::Rewritten, Some(how), lost);
            }
        }
        let rest = (&past.tokens[self.common..], &self.prompt[self.common..]);
        match change::edit(rest.0, rest.1, self.vocabulary) {
            Some(how) => (PrefixCause::Edited, Some(how), lost),
            None => (PrefixCause::Branched, None, 0),
        }
    }

    /// A prompt that begins like none: something may have been put before what is known.
    fn of_beginning(&self, past: &VecDeque<Past>) -> Verdict {
        let earlier = past.iter().map(|past| past.tokens.as_slice());
        let found = change::found_again(earlier, self.prompt).and_then(|at| past.get(at));
        let verdict = found.and_then(|past| {
            let common = common_prefix(&past.tokens, self.prompt);
            let rest = (&past.tokens[common..], &self.prompt[common..]);
            let how = change::edit(rest.0, rest.1, self.vocabulary)?;
            let lost = past.tokens.len().min(self.prompt.len() - 1);
            Some((
                PrefixCause::Edited,
                Some(how),
                lost.saturating_sub(self.reused),
            ))
        });
        verdict.unwrap_or((PrefixCause::New, None, 0))
    }
}

fn excerpt(prompt: &[TokenId], at: usize, vocabulary: &dyn Vocabulary) -> String {
    let from = at.saturating_sub(EXCERPT_BEFORE);
    let to = (at + EXCERPT_BEHIND).min(prompt.len());
    let bytes: Vec<u8> = prompt[from..to]
        .iter()
        .flat_map(|token| vocabulary.piece(*token, true))
        .collect();
    let text = String::from_utf8_lossy(&bytes);
    text.chars().take(EXCERPT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
