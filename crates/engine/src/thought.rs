//! Whether the model is thinking, for how many tokens, and when that is enough.

use crate::ThoughtSpec;

/// Follows the answer's text through the reasoning tags.
#[derive(Debug, Clone)]
pub(crate) struct Thought {
    spec: ThoughtSpec,
    inside: bool,
    n_tokens: u32,
    /// The end of the text, as long as a tag may still begin in it.
    tail: String,
}

impl Thought {
    pub(crate) fn new(spec: ThoughtSpec) -> Self {
        let inside = spec.starts_inside;
        Self {
            spec,
            inside,
            n_tokens: 0,
            tail: String::new(),
        }
    }

    pub(crate) fn inside(&self) -> bool {
        self.inside
    }

    /// Tokens spent on reasoning, tags included.
    pub(crate) fn n_tokens(&self) -> u32 {
        self.n_tokens
    }

    /// The thought has used its budget and must be closed now.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.inside
            && self
                .spec
                .budget_tokens
                .is_some_and(|budget| self.n_tokens >= budget)
    }

    pub(crate) fn close_tokens(&self) -> &[crate::TokenId] {
        &self.spec.close_tokens
    }

    /// Adds one token's text.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let was_inside = self.inside;
        self.tail.push_str(&String::from_utf8_lossy(bytes));
        loop {
            let tag = if self.inside {
                &self.spec.close
            } else {
                &self.spec.open
            };
            if tag.is_empty() {
                break;
            }
            let Some(at) = self.tail.find(tag.as_str()) else {
                break;
            };
            self.tail.drain(..at + tag.len());
            self.inside = !self.inside;
        }
        let keep = self.spec.open.len().max(self.spec.close.len());
        let cut = self.tail.len().saturating_sub(keep);
        self.tail.drain(..self.tail.floor_char_boundary(cut));
        if was_inside || self.inside {
            self.n_tokens += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thought(starts_inside: bool, budget_tokens: Option<u32>) -> Thought {
        Thought::new(ThoughtSpec {
            open: "<think>".into(),
            close: "</think>".into(),
            starts_inside,
            budget_tokens,
            close_tokens: vec![9],
        })
    }

    #[test]
    fn tags_may_span_tokens() {
        let mut thought = thought(false, None);
        let steps = [
            ("<th", false),
            ("ink>a", true),
            ("b</thi", true),
            ("nk>c", false),
            ("d", false),
        ];
        for (text, inside) in steps {
            thought.push(text.as_bytes());
            assert_eq!(thought.inside(), inside, "after {text}");
        }
        assert_eq!(thought.n_tokens(), 3);
    }

    #[test]
    fn the_budget_counts_tokens_inside_only() {
        let mut thought = thought(true, Some(2));
        thought.push(b"a");
        assert!(!thought.is_over_budget());
        thought.push(b"b");
        assert!(thought.is_over_budget());
        thought.push(b"</think>");
        assert!(!thought.is_over_budget());
    }
}
