//! What a job says of itself. Pure.

use proto::{ChatJob, Constraint, EmbeddingInput, Generation, Job, Prompt, Role, ToolChoice};
use router::{Capability, Needs};

/// The facts of a job that decide where it goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts<'a> {
    pub(crate) needs: Needs,
    /// Every text that would leave with it.
    pub(crate) texts: Vec<&'a str>,
    /// Of those, how many a conversation begins with: what comes before the first answer.
    n_beginning: usize,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(job: &'a Job) -> Self {
        match job {
            Job::Chat(job) => Self::of_chat(job),
            Job::Completion(job) => {
                let mut facts = Self::needing(Capability::Completion);
                facts.constrained(job.constraint.as_ref());
                facts.generating(&job.generation);
                match &job.prompt {
                    Prompt::Text(text) => facts.texts.push(text),
                    Prompt::Tokens(_) => facts.need(Capability::Tokens),
                }
                facts
            }
            Job::Embedding(job) => {
                let mut facts = Self::needing(Capability::Embeddings);
                for input in &job.inputs {
                    match input {
                        EmbeddingInput::Text(text) => facts.texts.push(text),
                        EmbeddingInput::Tokens(_) => facts.need(Capability::Tokens),
                    }
                }
                facts
            }
            Job::Tokenize { text, .. } => {
                let mut facts = Self::needing(Capability::Tokens);
                facts.texts.push(text);
                facts
            }
            Job::Detokenize { .. } => Self::needing(Capability::Tokens),
            Job::Render(job) => {
                let mut facts = Self::of_chat(job);
                facts.need(Capability::Tokens);
                facts
            }
        }
    }

    fn needing(capability: Capability) -> Self {
        let mut facts = Self::default();
        facts.need(capability);
        facts
    }

    fn need(&mut self, capability: Capability) {
        if !self.needs.capabilities.contains(&capability) {
            self.needs.capabilities.push(capability);
        }
    }

    fn of_chat(job: &'a ChatJob) -> Self {
        let mut facts = Self::needing(Capability::Chat);
        if !job.tools.is_empty() && job.tool_choice != ToolChoice::None {
            facts.need(Capability::Tools);
        }
        facts.constrained(job.constraint.as_ref());
        facts.generating(&job.generation);
        let mut answered = false;
        for message in &job.messages {
            answered |= message.role == Role::Assistant;
            facts.texts.extend(message.content.as_deref());
            facts.texts.extend(message.reasoning_content.as_deref());
            let calls = message.tool_calls.iter();
            facts
                .texts
                .extend(calls.map(|call| call.arguments.as_str()));
            if !answered {
                facts.n_beginning = facts.texts.len();
            }
        }
        for tool in &job.tools {
            facts.texts.extend(tool.description.as_deref());
        }
        facts
    }

    fn constrained(&mut self, constraint: Option<&Constraint>) {
        match constraint {
            None => {}
            Some(Constraint::JsonObject | Constraint::JsonSchema { .. }) => {
                self.need(Capability::JsonSchema);
            }
            Some(Constraint::Regex { .. } | Constraint::Lark { .. } | Constraint::Gbnf { .. }) => {
                self.need(Capability::Grammar);
            }
        }
    }

    fn generating(&mut self, generation: &Generation) {
        if generation.logprobs.is_some() {
            self.need(Capability::Logprobs);
        }
    }

    /// How a conversation begins; `None` for what is no conversation.
    pub(crate) fn beginning(&self) -> Option<&[&'a str]> {
        (self.n_beginning > 0).then(|| &self.texts[..self.n_beginning])
    }
}
