//! Why a prompt was not known farther than it was.
//!
//! The last prompts are remembered with their answers. The one that a new prompt is most like
//! tells where the new one leaves it, and so whose doing it is.

use std::collections::VecDeque;

use prefix::BLOCK_TOKENS;
use proto::{PrefixCause, PrefixReport};

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
    pub(crate) opted_out: bool,
    /// What the most similar running request has in common with it, and has not yet read.
    pub(crate) unread: usize,
    /// Tokens that are still known, but not at a place that one can go on from.
    pub(crate) stranded: usize,
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
        let (cause, lost) = cause(prompt.len(), common, past, begun);
        let is_shown = matches!(cause, PrefixCause::Edited | PrefixCause::Rewritten);
        PrefixReport {
            live_tokens: saturate(begun.live),
            restored_tokens: saturate(begun.restored),
            computed_tokens: saturate(prompt.len() - reused),
            cause,
            common_tokens: saturate(common),
            lost_tokens: saturate(lost),
            lost_seconds: begun.pace.map(|pace| pace * lost as f64),
            excerpt: is_shown.then(|| excerpt(prompt, common, vocabulary)),
        }
    }
}

/// The cause, and the tokens that were computed because of it.
fn cause(len: usize, common: usize, past: Option<&Past>, begun: &Begun) -> (PrefixCause, usize) {
    let reused = begun.live + begun.restored;
    // The last token of a prompt is always computed.
    let lost = common.min(len - 1).saturating_sub(reused);
    if begun.opted_out {
        return (PrefixCause::OptedOut, lost);
    }
    if common < COMMON_MIN {
        return (PrefixCause::New, 0);
    }
    if lost >= LOST_MIN {
        let cause = if begun.unread >= common {
            PrefixCause::Running
        } else if begun.stranded >= reused + LOST_MIN {
            PrefixCause::Window
        } else {
            PrefixCause::Evicted
        };
        return (cause, lost);
    }
    // The last token of an answer was never computed.
    let was_extended = past.is_none_or(|past| common + 1 >= past.tokens.len());
    let until = past.map_or(common, |past| past.tokens.len()).min(len - 1);
    let lost = until.saturating_sub(reused);
    if common + 1 >= len {
        (PrefixCause::Repeated, 0)
    } else if was_extended {
        (PrefixCause::Extended, 0)
    } else if past.is_some_and(|past| common >= past.prompt_len) {
        (PrefixCause::Rewritten, lost)
    } else {
        (PrefixCause::Edited, lost)
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
mod tests {
    use super::*;
    use crate::fake::FakeVocabulary;

    fn tokens(text: &str) -> Vec<TokenId> {
        text.bytes().map(TokenId::from).collect()
    }

    const SYSTEM: &str = "You are a helpful assistant that answers in one word. ";

    /// Each cause by a script: what was read before, what comes, and what it began with.
    #[test]
    fn causes_are_told_apart() {
        let ask = format!("{SYSTEM}Q: What is the capital of France? A:");
        let answered = format!("{ask} <think>hm, easy</think> Paris, of course");
        let went_on = format!("{answered}. Q: And of Spain? A:");
        let dropped = format!("{ask} Paris, of course. Q: And of Spain? A:");
        let edited = ask.replace("France", "Norway, which is far in the north of Europe");
        let dated = format!("It is 14:38. {ask}");
        let begun = |live: usize| Begun {
            live,
            ..Begun::default()
        };
        let common = |text: &str| common_prefix(&tokens(&answered), &tokens(text));
        let unread = Begun {
            unread: ask.len(),
            ..begun(0)
        };
        let stranded = Begun {
            stranded: ask.len(),
            ..begun(0)
        };
        let opted_out = Begun {
            opted_out: true,
            ..begun(0)
        };
        let restored = Begun {
            restored: 96,
            ..begun(0)
        };
        let cases = [
            (&ask, begun(ask.len() - 1), PrefixCause::Repeated, 0),
            (&ask, restored, PrefixCause::Repeated, 0),
            (
                &went_on,
                begun(answered.len() - 1),
                PrefixCause::Extended,
                0,
            ),
            (
                &dropped,
                begun(common(&dropped)),
                PrefixCause::Rewritten,
                (dropped.len() - 1).min(answered.len()) - common(&dropped),
            ),
            (
                &edited,
                begun(common(&edited)),
                PrefixCause::Edited,
                answered.len().min(edited.len() - 1) - common(&edited),
            ),
            (&dated, begun(0), PrefixCause::New, 0),
            (&ask, begun(0), PrefixCause::Evicted, ask.len() - 1),
            (&edited, begun(0), PrefixCause::Evicted, common(&edited)),
            (&ask, unread, PrefixCause::Running, ask.len() - 1),
            (&ask, stranded, PrefixCause::Window, ask.len() - 1),
            (&ask, opted_out, PrefixCause::OptedOut, ask.len() - 1),
        ];
        let mut history = History::default();
        history.remember(tokens(&answered), ask.len());
        for (at, (prompt, begun, cause, lost)) in cases.into_iter().enumerate() {
            let told = history.explain(&tokens(prompt), &begun, &FakeVocabulary);
            assert_eq!(
                (told.cause, told.lost_tokens as usize),
                (cause, lost),
                "case {at}"
            );
        }
    }

    #[test]
    fn without_a_history_what_was_restored_tells() {
        let prompt = tokens(&SYSTEM.repeat(2));
        let explain = |restored| {
            let begun = Begun {
                restored,
                ..Begun::default()
            };
            History::default()
                .explain(&prompt, &begun, &FakeVocabulary)
                .cause
        };
        assert_eq!(explain(0), PrefixCause::New);
        assert_eq!(explain(32), PrefixCause::Extended);
        assert_eq!(explain(prompt.len() - 1), PrefixCause::Repeated);
    }

    #[test]
    fn only_a_change_is_shown_and_the_place_is_in_it() {
        let mut history = History::default();
        let old = format!("{SYSTEM}The time is 14:38 and the question is this.");
        let new = format!("{SYSTEM}The time is 15:02 and the question is this.");
        history.remember(tokens(&old), old.len());
        let begun = Begun::default();
        let live = Begun {
            live: SYSTEM.len() + 13,
            ..begun
        };
        let told = history.explain(&tokens(&new), &live, &FakeVocabulary);
        assert_eq!(told.cause, PrefixCause::Edited);
        let excerpt = told.excerpt.unwrap();
        assert!(excerpt.contains("15:02"), "{excerpt}");
        let told = history.explain(
            &tokens("Something else altogether"),
            &begun,
            &FakeVocabulary,
        );
        assert_eq!((told.cause, told.excerpt), (PrefixCause::New, None));
    }

    #[test]
    fn memory_of_the_past_is_bounded() {
        let mut history = History::default();
        for at in 0..1000 {
            history.remember(vec![at; 5], 5);
        }
        assert_eq!(history.past.len(), PROMPTS_MAX);
        history.remember(vec![7; TOKENS_MAX + 1], 1);
        assert_eq!(history.past.len(), PROMPTS_MAX);
    }
}
