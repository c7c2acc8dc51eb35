//! From a job to a request body. Pure.

use std::collections::BTreeMap;

use proto::{
    ChatJob, CompletionJob, Constraint, EmbeddingInput, EmbeddingJob, FailureKind, Generation,
    Image, Job, JobFailure, Message, Prompt, Reasoning, Role, SamplingOverrides, ToolChoice,
    ToolDefinition,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::kind::{Extra, Kind};
use crate::{HOPS_HEADER, Order, PRIORITY_HEADER, PRIVACY_HEADER, TRACE_PARENT_HEADER};

/// Bytes of a body for which there is room from the start; short questions have fewer.
const BODY_BYTES: usize = 1 << 10;

/// A request, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) endpoint: Endpoint,
    /// A JSON object.
    pub(crate) body: Vec<u8>,
    pub(crate) answer: AnswerKind,
    /// Further headers.
    pub(crate) headers: Vec<(&'static str, String)>,
    /// What the engine has no words for and was left out, in ours.
    pub(crate) warnings: Vec<String>,
}

/// Where it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 3] = [Self::Chat, Self::Completions, Self::Embeddings];

    /// Below the base address.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    Chat { n: u32 },
    Completion { n: u32 },
    Embeddings { n: usize },
}

/// Writes a job in the dialect as that kind of engine knows it.
pub(crate) fn request(kind: Kind, is_streamed: bool, order: Order) -> Result<Request, JobFailure> {
    let mut writer = Writer {
        kind,
        is_streamed,
        body: Vec::with_capacity(BODY_BYTES),
        warnings: Vec::new(),
    };
    writer.set("model", order.model);
    let (endpoint, answer) = match order.job {
        Job::Chat(job) => {
            let n = job.generation.n.max(1);
            writer.streamed();
            writer.chat(*job)?;
            (Endpoint::Chat, AnswerKind::Chat { n })
        }
        Job::Completion(job) => {
            let n = job.generation.n.max(1);
            writer.streamed();
            writer.completion(*job)?;
            (Endpoint::Completions, AnswerKind::Completion { n })
        }
        Job::Embedding(job) => {
            let n = job.inputs.len();
            writer.embedding(job)?;
            (Endpoint::Embeddings, AnswerKind::Embeddings { n })
        }
        Job::Tokenize { .. } | Job::Detokenize { .. } | Job::Render(_) => {
            return Err(unsupported("tokenising, and rendering templates"));
        }
    };
    // Another endpoint of ours must not send farther what may not go farther, nor back.
    let mut headers = match kind {
        Kind::Sextant => vec![
            (PRIVACY_HEADER, order.reach_max.label().to_owned()),
            (HOPS_HEADER, (order.hops + 1).to_string()),
            (PRIORITY_HEADER, order.priority.word().to_owned()),
        ],
        _ => Vec::new(),
    };
    headers.extend(
        order
            .trace_parent
            .map(|parent| (TRACE_PARENT_HEADER, parent)),
    );
    Ok(Request {
        endpoint,
        warnings: std::mem::take(&mut writer.warnings),
        body: writer.into_body(),
        answer,
        headers,
    })
}

fn unsupported(what: &str) -> JobFailure {
    JobFailure {
        kind: FailureKind::Unsupported,
        message: format!("Another engine cannot do this for us: {what}."),
        param: None,
    }
}

struct Writer {
    kind: Kind,
    is_streamed: bool,
    /// The object as far as it is written, without its end.
    body: Vec<u8>,
    warnings: Vec<String>,
}

impl Writer {
    /// Adds a field; each is set once.
    fn set(&mut self, name: &str, value: impl Serialize) {
        let separator = if self.body.is_empty() { b'{' } else { b',' };
        self.body.push(separator);
        // Strings, numbers and what is made of them always serialise, and memory takes all.
        let _ = serde_json::to_writer(&mut self.body, name);
        self.body.push(b':');
        let _ = serde_json::to_writer(&mut self.body, &value);
    }

    fn into_body(mut self) -> Vec<u8> {
        self.body.push(b'}');
        self.body
    }

    fn maybe<T: Serialize>(&mut self, name: &str, value: Option<T>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// A value that OpenAI's dialect does not have.
    fn extra<T: Serialize>(&mut self, field: Extra, value: Option<T>) {
        let Some(value) = value else { return };
        match self.kind.spelling(field) {
            Some(name) => self.set(name, value),
            None => self.left_out(field.name()),
        }
    }

    fn left_out(&mut self, what: &str) {
        let kind = self.kind.word();
        let warning =
            format!("`{what}` was left out: an engine of kind `{kind}` does not know it.");
        self.warnings.push(warning);
    }

    fn streamed(&mut self) {
        if !self.is_streamed {
            return self.set("stream", false);
        }
        self.set("stream", true);
        self.set("stream_options", json!({ "include_usage": true }));
    }

    fn chat(&mut self, job: ChatJob) -> Result<(), JobFailure> {
        let messages = job.messages.iter();
        let messages = messages.map(|one| message(self.kind, one));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        self.set("messages", messages);
        if job.continues && matches!(self.kind, Kind::Sextant | Kind::Vllm) {
            // To the others a last message of the assistant's says it.
            self.set("continue_final_message", true);
            self.set("add_generation_prompt", false);
        }
        if !job.tools.is_empty() {
            let tools: Vec<Value> = job.tools.into_iter().map(tool).collect();
            self.set("tools", tools);
            self.set("tool_choice", tool_choice(job.tool_choice));
            self.maybe("parallel_tool_calls", job.parallel_tool_calls);
        }
        self.reasoning(job.reasoning);
        let kwargs = Some(job.template_kwargs).filter(|kwargs| !kwargs.is_empty());
        self.extra(Extra::TemplateKwargs, kwargs);
        self.constraint(job.constraint)?;
        let logprobs = job.generation.logprobs;
        self.generation(job.generation);
        if let Some(top) = logprobs {
            self.set("logprobs", true);
            self.set("top_logprobs", top);
        }
        Ok(())
    }

    fn completion(&mut self, job: CompletionJob) -> Result<(), JobFailure> {
        match job.prompt {
            Prompt::Text(text) => self.set("prompt", text),
            Prompt::Tokens(_) => return Err(unsupported("token ids as a prompt")),
        }
        if job.echo {
            self.set("echo", true);
        }
        self.constraint(job.constraint)?;
        let logprobs = job.generation.logprobs;
        self.generation(job.generation);
        self.maybe("logprobs", logprobs);
        Ok(())
    }

    fn embedding(&mut self, job: EmbeddingJob) -> Result<(), JobFailure> {
        let texts = job.inputs.into_iter().map(|input| match input {
            EmbeddingInput::Text(text) => Ok(text),
            EmbeddingInput::Tokens(_) => Err(unsupported("token ids as an input")),
        });
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        self.set("input", texts);
        self.set("encoding_format", "float");
        Ok(())
    }

    fn reasoning(&mut self, reasoning: Reasoning) {
        let is_ours = self.kind == Kind::Sextant;
        if is_ours && reasoning != Reasoning::default() {
            let mut fields = Map::new();
            let mut set = |name: &str, value: Option<Value>| {
                if let Some(value) = value {
                    fields.insert(name.to_owned(), value);
                }
            };
            set("enabled", reasoning.enabled.map(Value::from));
            set("budget_tokens", reasoning.budget_tokens.map(Value::from));
            set("effort", reasoning.effort.map(Value::from));
            self.set("reasoning", fields);
            return;
        }
        if reasoning.budget_tokens.is_some() {
            self.left_out("reasoning.budget_tokens");
        }
        match (reasoning.effort, reasoning.enabled) {
            (Some(effort), _) => self.set("reasoning_effort", effort),
            (None, Some(false)) => self.set("reasoning_effort", "none"),
            (None, _) => {}
        }
    }

    fn constraint(&mut self, constraint: Option<Constraint>) -> Result<(), JobFailure> {
        let format = match constraint {
            None => return Ok(()),
            // LM Studio knows schemas only.
            Some(Constraint::JsonObject) if self.kind == Kind::LmStudio => {
                schema_format(json!({ "type": "object" }))
            }
            Some(Constraint::JsonObject) => json!({ "type": "json_object" }),
            Some(Constraint::JsonSchema { schema }) => schema_format(schema),
            Some(constraint) if self.kind == Kind::Sextant => match constraint {
                Constraint::Regex { pattern } => json!({ "type": "regex", "pattern": pattern }),
                Constraint::Lark { grammar } => json!({ "type": "lark", "grammar": grammar }),
                Constraint::Gbnf { grammar } => json!({ "type": "gbnf", "grammar": grammar }),
                Constraint::JsonObject | Constraint::JsonSchema { .. } => return Ok(()),
            },
            Some(Constraint::Gbnf { grammar }) if self.kind == Kind::LlamaServer => {
                self.set("grammar", grammar);
                return Ok(());
            }
            // A constraint is never dropped: the answer would not be what was asked for.
            Some(_) => return Err(unsupported("answers held to this kind of grammar")),
        };
        self.set("response_format", format);
        Ok(())
    }

    fn generation(&mut self, generation: Generation) {
        if generation.n > 1 {
            self.set("n", generation.n);
        }
        self.maybe("max_tokens", generation.max_tokens);
        if !generation.stop.is_empty() {
            self.set("stop", generation.stop);
        }
        self.sampling(generation.sampling);
        self.extra(Extra::CachePrompt, generation.cache_prompt);
        self.extra(Extra::AttentionSinks, generation.attention_sinks);
        self.extra(Extra::IgnoreEos, generation.ignore_eos.then_some(true));
    }

    fn sampling(&mut self, sampling: SamplingOverrides) {
        self.maybe("temperature", sampling.temperature);
        self.maybe("top_p", sampling.top_p);
        self.maybe("presence_penalty", sampling.presence_penalty);
        self.maybe("frequency_penalty", sampling.frequency_penalty);
        self.maybe("seed", sampling.seed);
        if !sampling.logit_bias.is_empty() {
            let biases = sampling.logit_bias.into_iter();
            let biases = biases.map(|(token, bias)| (token.to_string(), bias));
            self.set("logit_bias", biases.collect::<BTreeMap<_, _>>());
        }
        self.extra(Extra::TopK, sampling.top_k);
        self.extra(Extra::MinP, sampling.min_p);
        self.extra(Extra::TypicalP, sampling.typical_p);
        self.extra(Extra::RepeatPenalty, sampling.repeat_penalty);
        self.extra(Extra::RepeatLastN, sampling.repeat_last_n);
        self.extra(Extra::DryMultiplier, sampling.dry_multiplier);
        self.extra(Extra::DryBase, sampling.dry_base);
        self.extra(Extra::DryAllowedLength, sampling.dry_allowed_length);
        self.extra(Extra::DryPenaltyLastN, sampling.dry_penalty_last_n);
        self.extra(Extra::DrySequenceBreakers, sampling.dry_sequence_breakers);
    }
}

fn schema_format(schema: Value) -> Value {
    json!({
        "type": "json_schema",
        "json_schema": { "name": "answer", "schema": schema, "strict": true },
    })
}

/// A message on the wire.
#[derive(Serialize)]
struct WireMessage<'a> {
    role: &'static str,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WireCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

/// Text alone, or with images.
#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(Option<&'a str>),
    Parts(Vec<Value>),
}

#[derive(Serialize)]
struct WireCall<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: WireFunction<'a>,
}

#[derive(Serialize)]
struct WireFunction<'a> {
    name: &'a str,
    arguments: &'a str,
}

fn message(kind: Kind, message: &Message) -> Result<WireMessage<'_>, JobFailure> {
    let calls = message.tool_calls.iter().map(|call| WireCall {
        id: &call.id,
        kind: "function",
        function: WireFunction {
            name: &call.name,
            arguments: &call.arguments,
        },
    });
    let content = match message.images.is_empty() {
        true => Content::Text(message.content.as_deref()),
        false => {
            let text = message.content.as_deref().unwrap_or_default();
            Content::Parts(parts(kind, text, &message.images)?)
        }
    };
    Ok(WireMessage {
        role: match message.role {
            Role::System => "system",
            // Templates of open models know no other name for it.
            Role::Developer if !matches!(kind, Kind::Sextant | Kind::OpenAi) => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        },
        content,
        reasoning_content: message.reasoning_content.as_deref(),
        tool_calls: calls.collect(),
        tool_call_id: message.tool_call_id.as_deref(),
        name: message.name.as_deref(),
    })
}

/// A text with the images at their places.
fn parts(kind: Kind, text: &str, images: &[Image]) -> Result<Vec<Value>, JobFailure> {
    let mut parts = Vec::new();
    let add_text = |parts: &mut Vec<Value>, text: &str| {
        if !text.is_empty() {
            parts.push(json!({ "type": "text", "text": text }));
        }
    };
    let mut told = 0;
    for image in images {
        // They take images themselves only, and the address is not ours to ask.
        if matches!(kind, Kind::Ollama | Kind::LmStudio) && !image.is_inline() {
            return Err(unsupported("images that are given by their address"));
        }
        let before = text.get(told..image.at).unwrap_or_default();
        add_text(&mut parts, before);
        told += before.len();
        let mut fields = json!({ "url": image.url });
        if let Some(detail) = &image.detail {
            fields["detail"] = detail.as_str().into();
        }
        parts.push(json!({ "type": "image_url", "image_url": fields }));
    }
    add_text(&mut parts, &text[told..]);
    Ok(parts)
}

fn tool(tool: ToolDefinition) -> Value {
    let mut function = Map::new();
    function.insert("name".into(), tool.name.into());
    if let Some(description) = tool.description {
        function.insert("description".into(), description.into());
    }
    let no_arguments = || json!({ "type": "object", "properties": {} });
    let parameters = tool.parameters.unwrap_or_else(no_arguments);
    function.insert("parameters".into(), parameters);
    if let Some(strict) = tool.strict {
        function.insert("strict".into(), strict.into());
    }
    json!({ "type": "function", "function": function })
}

fn tool_choice(choice: ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Named(name) => json!({ "type": "function", "function": { "name": name } }),
    }
}
