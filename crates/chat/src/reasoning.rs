//! Tags that wrap a model's reasoning, as data.

/// How one family marks its thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasoningTags {
    /// Short name, for logs and settings.
    pub name: &'static str,
    /// Text that opens a thought.
    pub open: &'static str,
    /// Text that closes it.
    pub close: &'static str,
    /// Whether `open` starts a thought wherever it stands. Tags that people also
    /// write about in prose count only where an answer (or a part of it) begins.
    pub anywhere: bool,
}

/// Every family this crate knows. The first is what a model without any tag in
/// its template is parsed with.
pub const REASONING_TAGS: [ReasoningTags; 10] = [
    tags("think", "<think>", "</think>"),
    tags("seed", "<seed:think>", "</seed:think>"),
    tags("mistral", "[THINK]", "[/THINK]"),
    ReasoningTags {
        anywhere: true,
        ..tags("channel", "<|channel>thought", "<channel|>")
    },
    tags("thinking", "<thinking>", "</thinking>"),
    tags("thought", "<thought>", "</thought>"),
    tags("reasoning", "<reasoning>", "</reasoning>"),
    ReasoningTags {
        anywhere: true,
        ..tags("command", "<|START_THINKING|>", "<|END_THINKING|>")
    },
    tags("kimi", "◁think▷", "◁/think▷"),
    ReasoningTags {
        anywhere: true,
        ..tags("inner", "<|inner_prefix|>", "<|inner_suffix|>")
    },
];

const fn tags(name: &'static str, open: &'static str, close: &'static str) -> ReasoningTags {
    ReasoningTags {
        name,
        open,
        close,
        anywhere: false,
    }
}

impl ReasoningTags {
    /// The tags a template's source mentions, `None` if it mentions none.
    #[must_use]
    pub fn detect(template_source: &str) -> Option<Self> {
        REASONING_TAGS.into_iter().find(|tags| {
            template_source.contains(tags.open) || template_source.contains(tags.close)
        })
    }

    /// Whether `prompt` ends with an opening tag that the model's answer continues.
    #[must_use]
    pub fn left_open_by(&self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.open)
    }
}

impl Default for ReasoningTags {
    fn default() -> Self {
        REASONING_TAGS[0]
    }
}

/// The text that closes a thought, for an engine that ends one early (a reasoning
/// budget). Feed it to the output parser as well: it is part of the answer.
#[must_use]
pub fn end_of_reasoning(tags: &ReasoningTags) -> String {
    format!("\n{}\n\n", tags.close)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_a_template() {
        assert_eq!(ReasoningTags::detect("{{ 'x' }}"), None);
        let seed = ReasoningTags::detect("...'</seed:think>'...").unwrap();
        assert_eq!(seed.name, "seed");
        assert!(seed.left_open_by("<bos>assistant\n<seed:think>\n"));
        assert!(!seed.left_open_by("<seed:think></seed:think>"));
        assert_eq!(
            end_of_reasoning(&ReasoningTags::default()),
            "\n</think>\n\n"
        );
    }
}
