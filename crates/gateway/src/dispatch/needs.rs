//! What a job says of itself. Pure.

use proto::{ChatJob, Constraint, EmbeddingInput, Generation, Job, Prompt, Role, ToolChoice};
use router::{Capability, Needs};
use serde_json::Value;

/// The facts of a job that decide where it goes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Facts<'a> {
    pub(crate) needs: Needs,
    /// Every text that would leave with it.
    pub(crate) texts: Vec<&'a str>,
    /// Of those, how many a conversation begins with: what comes before the first answer.
    n_beginning: usize,
}

/// No text has longer tokens than this on the average.
const TOKEN_BYTES_MAX: usize = 16;

/// Every name and every text in a JSON value.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            fields
                .flat_map(|(name, value)| std::iter::once(name.as_str()).chain(strings(value)))
                .collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// What the texts of chats write in escapes: names and texts of JSON that is sent as text,
/// which no pattern would know otherwise.
pub(crate) fn unescaped(jobs: &[Job]) -> Vec<String> {
    let messages = jobs.iter().flat_map(|job| match job {
        Job::Chat(job) | Job::Render(job) => job.messages.as_slice(),
        _ => &[],
    });
    let texts = messages.flat_map(|message| {
        let result = message.content.as_deref();
        let result = result.filter(|_| message.role == Role::Tool);
        let calls = message.tool_calls.iter();
        calls.map(|call| call.arguments.as_str()).chain(result)
    });
    let values = texts.filter(|text| text.contains('\\'));
    let values = values.filter_map(|text| serde_json::from_str::<Value>(text).ok());
    let strings = values.map(|value| strings(&value).into_iter().map(str::to_owned).collect());
    strings.collect::<Vec<Vec<String>>>().concat()
}

impl<'a> Facts<'a> {
    /// Of all jobs of one request. They go the same way, so what one needs or says counts
    /// for all.
    pub(crate) fn of_all(jobs: &'a [Job]) -> Self {
        if let [job] = jobs {
            return Self::of(job);
        }
        let mut all = Self::default();
        for job in jobs {
            let facts = Self::of(job);
            for capability in facts.needs.capabilities {
                all.need(capability);
            }
            all.n_beginning = all.n_beginning.max(facts.n_beginning);
            all.texts.extend(facts.texts);
            all.needs.tokens = all.needs.tokens.max(facts.needs.tokens);
        }
        all
    }

    /// Of requests that only our own engine can answer: it says best itself, in words and
    /// numbers, what it cannot do. That it cannot see is known before.
    pub(crate) fn for_us_alone(jobs: &'a [Job]) -> Self {
        let has_images = jobs.iter().any(|job| job.images().next().is_some());
        match has_images {
            true => Self::needing(Capability::Vision),
            false => Self::default(),
        }
    }

    fn of(job: &'a Job) -> Self {
        let mut facts = Self::of_one(job);
        // An embedding's inputs are read one by one.
        if !matches!(job, Job::Embedding(_)) {
            let n_bytes: usize = facts.texts.iter().map(|text| text.len()).sum();
            facts.needs.tokens = u32::try_from(n_bytes / TOKEN_BYTES_MAX).ok();
        }
        facts
    }

    fn of_one(job: &'a Job) -> Self {
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
        if job.continues {
            facts.need(Capability::Continuation);
        }
        let mut answered = false;
        if job
            .messages
            .iter()
            .any(|message| !message.images.is_empty())
        {
            facts.need(Capability::Vision);
        }
        for message in &job.messages {
            answered |= message.role == Role::Assistant;
            facts.texts.extend(message.content.as_deref());
            facts.texts.extend(message.reasoning_content.as_deref());
            facts.texts.extend(message.name.as_deref());
            let addresses = message.images.iter().filter(|image| !image.is_inline());
            facts
                .texts
                .extend(addresses.map(|image| image.url.as_str()));
            for call in &message.tool_calls {
                facts.texts.extend([call.name.as_str(), &call.arguments]);
            }
            if !answered {
                facts.n_beginning = facts.texts.len();
            }
        }
        for tool in &job.tools {
            facts.texts.push(&tool.name);
            facts.texts.extend(tool.description.as_deref());
            facts.texts.extend(tool.parameters.iter().flat_map(strings));
        }
        for (name, value) in &job.template_kwargs {
            facts.texts.push(name);
            facts.texts.extend(strings(value));
        }
        facts.constrained(job.constraint.as_ref());
        facts.generating(&job.generation);
        facts
    }

    fn constrained(&mut self, constraint: Option<&'a Constraint>) {
        match constraint {
            None => {}
            Some(Constraint::JsonObject) => self.need(Capability::JsonSchema),
            Some(Constraint::JsonSchema { schema }) => {
                self.need(Capability::JsonSchema);
                self.texts.extend(strings(schema));
            }
            Some(
                Constraint::Regex { pattern: text }
                | Constraint::Lark { grammar: text }
                | Constraint::Gbnf { grammar: text },
            ) => {
                self.need(Capability::Grammar);
                self.texts.push(text);
            }
        }
    }

    fn generating(&mut self, generation: &'a Generation) {
        self.texts
            .extend(generation.stop.iter().map(String::as_str));
        if generation.logprobs.is_some() {
            self.need(Capability::Logprobs);
        }
    }

    /// How a conversation begins; `None` for what is no conversation.
    pub(crate) fn beginning(&self) -> Option<&[&'a str]> {
        (self.n_beginning > 0).then(|| &self.texts[..self.n_beginning])
    }
}
