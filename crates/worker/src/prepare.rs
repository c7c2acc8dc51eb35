//! From a job to a request the scheduler can take: template, tokens, sampling
//! values, grammar, stop strings.
//!
//! Runs on the blocking pool, next to the engine thread; nothing here changes state.

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use chat::{
    GrammarRequest, OutputParser, OutputSpec, PromptEnding, ReasoningTags, RenderInput, Rendered,
    Template, TemplateError, TemplateTokens, Thought,
};
use engine::{JobKey, Request, ThoughtSpec, TokenId, Vocabulary};
use proto::{
    ChatJob, CompletionJob, Constraint as Wanted, EmbeddingInput, EmbeddingJob, Event, FailureKind,
    Generation, Job, JobFailure, JobId, ModelFacts, Prompt, Reasoning, SamplingOverrides,
    ToolChoice, ToolDefinition,
};
use sampling::{
    BREAKER_BYTES_MAX, Constraint, ConstraintError, ConstraintFactory, DryBreakers, Grammar,
    Params, TokenBytes, TokenKind,
};

use crate::answer::Answer;
use crate::engine_thread::unsupported;
use crate::load::{Loaded, values};

/// Choices of one request.
const CHOICES_MAX: u32 = 16;

/// What a job becomes.
#[derive(Debug)]
pub(crate) enum Work {
    Run(Box<Prepared>),
    Embed(Vec<Vec<TokenId>>),
    /// Nothing is left for the engine to do.
    Done(Event),
}

/// A request and what will turn its text into events.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) request: Request,
    pub(crate) answer: Answer,
}

/// Everything about a model that preparing needs; shared between requests.
pub(crate) struct Preparer {
    vocabulary: Arc<dyn Vocabulary>,
    template: Template,
    facts: ModelFacts,
    defaults: Params,
    /// Built at the first constrained request: a large vocabulary takes a while.
    constraints: OnceLock<Result<ConstraintFactory, String>>,
    /// The usual ones, built at the first request with DRY: that reads the vocabulary.
    usual_breakers: OnceLock<Arc<DryBreakers>>,
}

impl Preparer {
    pub(crate) fn new(loaded: &Loaded) -> Result<Self, TemplateError> {
        let mut facts = loaded.facts.clone();
        let tokens = TemplateTokens {
            bos: facts.bos.clone().unwrap_or_default(),
            eos: facts.eos.clone().unwrap_or_default(),
        };
        let (template, warning) = usable_template(loaded.template.as_deref(), tokens)?;
        facts.own_template = warning.is_none();
        facts.template_warnings.extend(warning);
        facts.chat_template.clone_from(&loaded.template);
        facts.tool_format = template.tool_format().name().to_owned();
        facts.can_reason = template.reasoning_tags().is_some();
        let defaults = defaults(&facts);
        Ok(Self {
            vocabulary: Arc::clone(&loaded.vocabulary),
            template,
            facts,
            defaults,
            constraints: OnceLock::new(),
            usual_breakers: OnceLock::new(),
        })
    }

    /// The facts, with what is known of the template.
    pub(crate) fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    pub(crate) fn prepare(&self, id: JobId, job: Job) -> Result<Work, JobFailure> {
        if job.images().next().is_some() {
            let message = "The models of this process cannot see images.";
            return Err(unsupported(message));
        }
        match job {
            Job::Chat(job) => self.chat(id, *job),
            Job::Completion(job) => self.completion(id, *job),
            Job::Embedding(job) => self.embedding(job),
            Job::Tokenize {
                text,
                add_special,
                parse_special,
                with_pieces,
            } => {
                let tokens = self.vocabulary.tokenize(&text, add_special, parse_special);
                let pieces =
                    with_pieces.then(|| tokens.iter().map(|token| self.piece(*token)).collect());
                Ok(Work::Done(Event::Tokens { tokens, pieces }))
            }
            Job::Detokenize { tokens } => self.detokenize(&tokens),
            Job::Render(mut job) => {
                self.settle_reasoning(&mut job.reasoning);
                let rendered = self.render(&job)?;
                let n_tokens = self.tokenize_prompt(&rendered).len();
                let n_tokens = u32::try_from(n_tokens).unwrap_or(u32::MAX);
                Ok(Work::Done(Event::Rendered {
                    prompt: rendered.prompt,
                    n_tokens,
                }))
            }
        }
    }

    fn chat(&self, id: JobId, mut job: ChatJob) -> Result<Work, JobFailure> {
        if !self.facts.can_chat {
            return Err(unsupported("This model cannot chat; it only embeds"));
        }
        if job.tool_choice == ToolChoice::None {
            job.tools.clear();
        }
        check_max_tokens(&job.generation)?;
        self.settle_reasoning(&mut job.reasoning);
        let rendered = self.render(&job)?;
        let prompt = self.tokenize_prompt(&rendered);
        let tags = self.template.reasoning_tags().unwrap_or_default();
        let mut warnings = rendered.warnings.clone();
        let constraint = self.chat_constraint(&job, &rendered, &mut warnings)?;
        let mut request = self.request(id, prompt, &job.generation)?;
        // A grammar of calls has room for the thought before them, a format has not.
        request.constrain_thought = job.constraint.is_none();
        request.constraint = constraint;
        request.special_text = true;
        request.thought = Some(self.thought(&job, tags, rendered.opens_thinking));
        let own_stops = self.add_format_stops(&mut request, &job.tools);
        let parsers = (0..request.n)
            .map(|choice| {
                let spec = OutputSpec {
                    format: self.template.tool_format(),
                    tools: job.tools.clone(),
                    reasoning: Some(tags),
                    starts_in_reasoning: rendered.opens_thinking,
                    id_seed: request.sampling.seed ^ (id.0 << 8) ^ u64::from(choice),
                };
                Some(OutputParser::new(spec))
            })
            .collect();
        let answer = Answer::new(values(&request.sampling), parsers)
            .with_warnings(warnings)
            .with_own_stops(own_stops);
        Ok(Work::Run(Box::new(Prepared { request, answer })))
    }

    /// The model's budget for thoughts, where the caller names none. One of 0 gives way to
    /// whoever asks for thinking.
    fn settle_reasoning(&self, asked: &mut Reasoning) {
        if asked.budget_tokens.is_some() || !self.facts.can_reason {
            return;
        }
        match self.facts.reasoning_budget {
            Some(0) if asked.enabled == Some(true) || asked.effort.is_some() => {}
            Some(0) => asked.enabled = Some(false),
            budget => asked.budget_tokens = budget,
        }
    }

    /// What the answer must obey: the grammar of the call that is demanded, or the format.
    fn chat_constraint(
        &self,
        job: &ChatJob,
        rendered: &Rendered,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Constraint>, JobFailure> {
        let Some(format) = &job.constraint else {
            return match self.tool_grammar(job, &job.tools, rendered)? {
                Some(grammar) => self.call_constraint(&grammar, job, rendered, warnings),
                None => Ok(None),
            };
        };
        if matches!(job.tool_choice, ToolChoice::Required | ToolChoice::Named(_)) {
            return Err(invalid(
                "tool_choice",
                "tool_choice demands a call and response_format demands an answer: ask for one of them"
                    .into(),
            ));
        }
        if !job.tools.is_empty() {
            warnings.push(
                "response_format holds for the whole answer, so no tool can be called".into(),
            );
        }
        Ok(Some(self.compile(format, "response_format")?))
    }

    fn tool_grammar(
        &self,
        job: &ChatJob,
        tools: &[ToolDefinition],
        rendered: &Rendered,
    ) -> Result<Option<Wanted>, JobFailure> {
        let thought = match self.template.reasoning_tags() {
            None => Thought::None,
            Some(tags) if rendered.opens_thinking => Thought::Open(tags),
            Some(_) if job.reasoning.enabled == Some(false) => Thought::None,
            Some(tags) => Thought::Possible(tags),
        };
        let request = GrammarRequest {
            format: self.template.tool_format(),
            tools,
            choice: &job.tool_choice,
            // A choice by name is a choice of one call.
            parallel: job.parallel_tool_calls.unwrap_or(true)
                && !matches!(job.tool_choice, ToolChoice::Named(_)),
            thought,
            control_token: &|marker| self.control_token(marker),
        };
        match chat::tool_grammar(&request) {
            Ok(grammar) => Ok(grammar.map(|grammar| grammar.constraint)),
            Err(error) => Err(invalid("tool_choice", error.to_string())),
        }
    }

    /// Compiles the grammar of calls. Clients send tool schemas with keywords that no
    /// grammar can express and check the arguments themselves, so unless a tool is
    /// `strict` its call is then bound to an object only, and a warning says so.
    fn call_constraint(
        &self,
        grammar: &Wanted,
        job: &ChatJob,
        rendered: &Rendered,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Constraint>, JobFailure> {
        let failure = match self.compile(grammar, "tools") {
            Ok(constraint) => return Ok(Some(constraint)),
            Err(failure) => failure,
        };
        if job.tools.iter().any(|tool| tool.strict == Some(true)) {
            return Err(failure);
        }
        let relaxed: Vec<ToolDefinition> = job
            .tools
            .iter()
            .map(|tool| ToolDefinition {
                parameters: Some(serde_json::json!({"type": "object"})),
                ..tool.clone()
            })
            .collect();
        warnings.push(format!(
            "the tools' schemas cannot be enforced, so arguments are any JSON object: {}",
            failure.message
        ));
        let grammar = self.tool_grammar(job, &relaxed, rendered)?;
        grammar
            .map(|grammar| self.compile(&grammar, "tools"))
            .transpose()
    }

    /// The id of a marker that is one control token of this vocabulary.
    fn control_token(&self, marker: &str) -> Option<u32> {
        match self.vocabulary.tokenize(marker, false, true)[..] {
            [token] if self.vocabulary.is_control(token) => u32::try_from(token).ok(),
            _ => None,
        }
    }

    fn thought(&self, job: &ChatJob, tags: ReasoningTags, starts_inside: bool) -> ThoughtSpec {
        let close = chat::end_of_reasoning(&tags);
        let off = job.reasoning.enabled == Some(false);
        ThoughtSpec {
            open: tags.open.to_owned(),
            close: tags.close.to_owned(),
            starts_inside,
            // Switched off, a thought the model opens by itself is closed at once.
            budget_tokens: if off {
                Some(0)
            } else {
                job.reasoning.budget_tokens
            },
            close_tokens: self.vocabulary.tokenize(&close, false, true),
        }
    }

    /// Markers that end a call in this format; they are not the caller's stop strings.
    fn add_format_stops(&self, request: &mut Request, tools: &[ToolDefinition]) -> Vec<String> {
        if tools.is_empty() {
            return Vec::new();
        }
        let markers = self.template.tool_format().stop_markers();
        let own: Vec<String> = markers
            .iter()
            .map(|marker| (*marker).to_owned())
            .filter(|marker| !request.stop.contains(marker))
            .collect();
        request.stop.extend(own.iter().cloned());
        own
    }

    fn completion(&self, id: JobId, job: CompletionJob) -> Result<Work, JobFailure> {
        let (tokens, text, n_hidden) = match &job.prompt {
            Prompt::Text(text) => {
                let tokens = self.vocabulary.tokenize(text, true, true);
                let n_hidden = self.n_added_in_front(&tokens, text);
                (tokens, Some(text.clone()), n_hidden)
            }
            Prompt::Tokens(tokens) => (tokens.clone(), None, 0),
        };
        if !job.echo {
            // With echo, 0 asks for the prompt alone, with its log-probabilities.
            check_max_tokens(&job.generation)?;
        }
        let mut request = self.request(id, tokens, &job.generation)?;
        let wanted = job.constraint.as_ref();
        request.constraint = wanted
            .map(|wanted| self.compile(wanted, "response_format"))
            .transpose()?;
        request.prompt_logprobs = job.echo && request.logprobs.is_some();
        let echo = job
            .echo
            .then(|| text.unwrap_or_else(|| self.text_of(&request.prompt)));
        let parsers = (0..request.n).map(|_| None).collect();
        let answer = Answer::new(values(&request.sampling), parsers).with_echo(echo, n_hidden);
        Ok(Work::Run(Box::new(Prepared { request, answer })))
    }

    /// Whether the vocabulary put a token (BOS) before those of the text: 1 or 0.
    fn n_added_in_front(&self, tokens: &[TokenId], text: &str) -> usize {
        let plain = self.vocabulary.tokenize(text, false, true);
        let added = tokens != plain && tokens.get(1..).is_some_and(|rest| rest.starts_with(&plain));
        usize::from(added)
    }

    fn embedding(&self, job: EmbeddingJob) -> Result<Work, JobFailure> {
        if !self.facts.can_embed {
            return Err(unsupported("This model cannot embed"));
        }
        let inputs = job
            .inputs
            .into_iter()
            .map(|input| match input {
                EmbeddingInput::Text(text) => self.vocabulary.tokenize(&text, true, true),
                EmbeddingInput::Tokens(tokens) => tokens,
            })
            .collect::<Vec<_>>();
        for (at, tokens) in inputs.iter().enumerate() {
            if tokens.is_empty() {
                return Err(invalid("input", format!("Input {at} has no tokens")));
            }
            self.check_tokens("input", tokens)?;
        }
        Ok(Work::Embed(inputs))
    }

    fn detokenize(&self, tokens: &[TokenId]) -> Result<Work, JobFailure> {
        self.check_tokens("tokens", tokens)?;
        Ok(Work::Done(Event::Text {
            text: self.text_of(tokens),
        }))
    }

    fn check_tokens(&self, field: &str, tokens: &[TokenId]) -> Result<(), JobFailure> {
        let n_vocab = self.vocabulary.n_tokens();
        let outside = |token: &&TokenId| usize::try_from(**token).map_or(true, |id| id >= n_vocab);
        match tokens.iter().find(outside) {
            Some(token) => {
                let last = n_vocab.saturating_sub(1);
                let message =
                    format!("{field} holds token {token}; this model has ids 0 to {last}");
                Err(invalid(field, message))
            }
            None => Ok(()),
        }
    }

    fn render(&self, job: &ChatJob) -> Result<Rendered, JobFailure> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let input = RenderInput {
            messages: &job.messages,
            tools: &job.tools,
            ending: match job.continues {
                true => PromptEnding::AnswerBeginning,
                false => PromptEnding::AnswerOpening,
            },
            reasoning: &job.reasoning,
            kwargs: &job.template_kwargs,
            now_unix_s: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        };
        self.template.render(&input).map_err(|error| {
            let kind = FailureKind::TemplateFailed;
            JobFailure {
                kind,
                message: error.to_string(),
                param: Some("messages".into()),
            }
        })
    }

    fn tokenize_prompt(&self, rendered: &Rendered) -> Vec<TokenId> {
        self.vocabulary
            .tokenize(&rendered.prompt, !rendered.starts_with_bos, true)
    }

    fn request(
        &self,
        id: JobId,
        prompt: Vec<TokenId>,
        generation: &Generation,
    ) -> Result<Request, JobFailure> {
        let n = generation.n.max(1);
        if n > CHOICES_MAX {
            return Err(invalid(
                "n",
                format!("n is {n}, the limit is {CHOICES_MAX}"),
            ));
        }
        let sampling = self.sampling(&generation.sampling)?;
        Ok(Request {
            key: JobKey(id.0),
            prompt,
            n,
            max_tokens: generation.max_tokens,
            stop: generation.stop.clone(),
            sampling,
            constraint: None,
            constrain_thought: false,
            logprobs: generation.logprobs.map(usize::from),
            prompt_logprobs: false,
            speculation: generation.speculation.or(self.facts.speculation),
            cache_prompt: generation.cache_prompt.unwrap_or(true),
            attention_sinks: self.sinks(generation),
            ignore_eos: generation.ignore_eos,
            priority: generation.priority,
            special_text: false,
            thought: None,
        })
    }

    /// As the request says, else as the model was loaded where it has one choice.
    fn sinks(&self, generation: &Generation) -> Option<u32> {
        let by_model = self.facts.attention_sinks.filter(|_| generation.n <= 1);
        let sinks = generation.attention_sinks.or(by_model);
        sinks.filter(|sinks| *sinks > 0)
    }

    fn sampling(&self, asked: &SamplingOverrides) -> Result<Params, JobFailure> {
        let d = &self.defaults;
        let params = Params {
            temperature: asked.temperature.unwrap_or(d.temperature),
            top_k: asked.top_k.unwrap_or(d.top_k),
            top_p: asked.top_p.unwrap_or(d.top_p),
            min_p: asked.min_p.unwrap_or(d.min_p),
            typical_p: asked.typical_p.unwrap_or(d.typical_p),
            repeat_penalty: asked.repeat_penalty.unwrap_or(d.repeat_penalty),
            repeat_last_n: asked.repeat_last_n.unwrap_or(d.repeat_last_n),
            presence_penalty: asked.presence_penalty.unwrap_or(d.presence_penalty),
            frequency_penalty: asked.frequency_penalty.unwrap_or(d.frequency_penalty),
            dry_multiplier: asked.dry_multiplier.unwrap_or(d.dry_multiplier),
            dry_base: asked.dry_base.unwrap_or(d.dry_base),
            dry_allowed_length: asked.dry_allowed_length.unwrap_or(d.dry_allowed_length),
            dry_penalty_last_n: asked.dry_penalty_last_n.unwrap_or(d.dry_penalty_last_n),
            dry_breakers: Arc::default(),
            seed: asked.seed.unwrap_or_else(fresh_seed),
            logit_bias: asked.logit_bias.clone(),
            banned: Vec::new(),
        };
        let params = match params.dry_multiplier > 0.0 {
            true => Params {
                dry_breakers: self.breakers(asked)?,
                ..params
            },
            false => params,
        };
        match params.validate(self.vocabulary.n_tokens()) {
            Ok(()) => Ok(params),
            Err(error) => Err(invalid(error.field, error.to_string())),
        }
    }

    /// Tokens that end a repetition, by the strings asked for or the usual ones.
    fn breakers(&self, asked: &SamplingOverrides) -> Result<Arc<DryBreakers>, JobFailure> {
        const USUAL: [&str; 4] = ["\n", ":", "\"", "*"];
        let Some(strings) = &asked.dry_sequence_breakers else {
            let usual = || self.breakers_of(&USUAL.map(str::to_owned));
            return Ok(Arc::clone(self.usual_breakers.get_or_init(usual)));
        };
        let too_long = |text: &&String| text.len() > BREAKER_BYTES_MAX;
        if let Some(text) = strings.iter().find(too_long) {
            let message = format!(
                "A sequence breaker has {} bytes, the limit is {BREAKER_BYTES_MAX}",
                text.len()
            );
            return Err(invalid("dry_sequence_breakers", message));
        }
        Ok(self.breakers_of(strings))
    }

    fn breakers_of(&self, strings: &[String]) -> Arc<DryBreakers> {
        let ids = 0..TokenId::try_from(self.vocabulary.n_tokens()).unwrap_or(TokenId::MAX);
        let pieces: Vec<Vec<u8>> = ids
            .clone()
            .map(|token| self.vocabulary.piece(token, false))
            .collect();
        let pieces = ids.zip(pieces.iter().map(Vec::as_slice));
        let tokenize = |bytes: &[u8]| {
            self.vocabulary
                .tokenize(&String::from_utf8_lossy(bytes), false, false)
        };
        Arc::new(DryBreakers::from_strings(strings, pieces, tokenize))
    }

    fn compile(&self, wanted: &Wanted, field: &str) -> Result<Constraint, JobFailure> {
        let grammar = match wanted {
            Wanted::JsonObject => Grammar::JsonObject,
            Wanted::JsonSchema { schema } => Grammar::JsonSchema(schema.clone()),
            Wanted::Regex { pattern } => Grammar::Regex(pattern.clone()),
            Wanted::Lark { grammar } => Grammar::Lark(grammar.clone()),
            Wanted::Gbnf { grammar } => Grammar::Gbnf(grammar.clone()),
        };
        let factory = self.constraints.get_or_init(|| self.factory());
        let factory = factory.as_ref().map_err(|message| JobFailure {
            kind: FailureKind::Internal,
            message: message.clone(),
            param: None,
        })?;
        factory.compile(&grammar).map_err(|error| {
            let part = match wanted {
                _ if field != "response_format" => "",
                Wanted::Regex { .. } => ".pattern",
                Wanted::Lark { .. } | Wanted::Gbnf { .. } => ".grammar",
                Wanted::JsonSchema { .. } | Wanted::JsonObject => "",
            };
            let message = format!("{field}{part}: {error}");
            let kind = match error {
                ConstraintError::Unsupported { keyword, .. } => {
                    FailureKind::ConstraintUnsupported { keyword }
                }
                _ => FailureKind::InvalidRequest,
            };
            JobFailure {
                kind,
                message,
                param: Some(field.to_owned()),
            }
        })
    }

    fn factory(&self) -> Result<ConstraintFactory, String> {
        let ids = 0..TokenId::try_from(self.vocabulary.n_tokens()).unwrap_or(TokenId::MAX);
        let tokens = ids.clone().map(|token| self.token_bytes(token)).collect();
        let ends: Vec<TokenId> = ids
            .filter(|token| self.vocabulary.is_end_of_generation(*token))
            .collect();
        let vocabulary = sampling::Vocabulary::new(tokens, &ends)
            .map_err(|error| format!("This vocabulary cannot be constrained: {error}"))?;
        ConstraintFactory::new(Arc::new(vocabulary))
            .map_err(|error| format!("This vocabulary cannot be constrained: {error}"))
    }

    fn token_bytes(&self, token: TokenId) -> TokenBytes {
        let bytes = self.vocabulary.piece(token, true);
        let kind = match () {
            () if self.vocabulary.is_control(token) => TokenKind::Control,
            () if bytes.is_empty() => TokenKind::Unused,
            () => TokenKind::Text,
        };
        TokenBytes { bytes, kind }
    }

    fn piece(&self, token: TokenId) -> String {
        String::from_utf8_lossy(&self.vocabulary.piece(token, true)).into_owned()
    }

    fn text_of(&self, tokens: &[TokenId]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| self.vocabulary.piece(*token, true))
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The model's template if it works, the fallback otherwise, and what to tell about it.
fn usable_template(
    source: Option<&str>,
    tokens: TemplateTokens,
) -> Result<(Template, Option<String>), TemplateError> {
    let why = match source.map(|source| Template::compile(source, tokens.clone())) {
        Some(Ok(template)) => return Ok((template, None)),
        Some(Err(error)) => format!("The model's own template is unusable ({error})"),
        None => "The model has no chat template".to_owned(),
    };
    Ok((
        Template::fallback(tokens)?,
        Some(format!("{why}; ChatML is used instead")),
    ))
}

fn check_max_tokens(generation: &Generation) -> Result<(), JobFailure> {
    if generation.max_tokens == Some(0) {
        let message = "max_tokens is 0, it must be at least 1".to_owned();
        return Err(invalid("max_tokens", message));
    }
    Ok(())
}

fn invalid(field: &str, message: String) -> JobFailure {
    JobFailure {
        kind: FailureKind::InvalidRequest,
        message,
        param: Some(field.to_owned()),
    }
}

fn defaults(facts: &ModelFacts) -> Params {
    let s = &facts.sampling;
    Params {
        temperature: s.temperature,
        top_k: s.top_k,
        top_p: s.top_p,
        min_p: s.min_p,
        typical_p: s.typical_p,
        repeat_penalty: s.repeat_penalty,
        repeat_last_n: s.repeat_last_n,
        presence_penalty: s.presence_penalty,
        frequency_penalty: s.frequency_penalty,
        dry_multiplier: s.dry_multiplier,
        dry_base: s.dry_base,
        dry_allowed_length: s.dry_allowed_length,
        dry_penalty_last_n: s.dry_penalty_last_n,
        ..Params::default()
    }
}

/// A seed nobody asked for. It is reported, so that the answer can be had again;
/// 53 bits, so that it survives JSON numbers.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(SystemTime::now()) >> 11
}

#[cfg(test)]
mod tests {
    use engine::fake::FakeVocabulary;
    use proto::Message;

    use super::*;

    const HERMES: &str = "\
        {%- for tool in tools %}<tools>{{ tool|tojson }}</tools><tool_call>{% endfor -%}
        {%- for message in messages -%}
        {{ message.role }}: {{ message.content }}
        {%- for call in message.tool_calls %}<tool_call>{{ call|tojson }}</tool_call>{% endfor -%}
        {%- endfor -%}";

    fn preparer() -> Preparer {
        let facts = ModelFacts {
            can_chat: true,
            can_complete: true,
            sampling: values(&Params::default()),
            ..ModelFacts::default()
        };
        let loaded = Loaded {
            prefixes: None,
            decoder: None,
            vocabulary: Arc::new(FakeVocabulary),
            embedder: None,
            facts,
            template: Some(HERMES.into()),
        };
        Preparer::new(&loaded).unwrap()
    }

    fn chat(tool_choice: ToolChoice) -> Job {
        Job::Chat(Box::new(ChatJob {
            messages: vec![Message {
                content: Some("hi".into()),
                ..Message::default()
            }],
            tools: vec![ToolDefinition {
                name: "look".into(),
                strict: Some(true),
                ..ToolDefinition::default()
            }],
            tool_choice,
            constraint: Some(Wanted::JsonObject),
            ..ChatJob::default()
        }))
    }

    #[test]
    fn a_format_goes_with_tools_that_may_be_called_but_not_with_one_that_must() {
        let preparer = preparer();
        assert_eq!(preparer.facts().tool_format, "hermes");
        let work = preparer.prepare(JobId(1), chat(ToolChoice::Auto)).unwrap();
        let Work::Run(prepared) = work else {
            panic!("{work:?}")
        };
        assert!(prepared.request.constraint.is_some());
        for choice in [ToolChoice::Required, ToolChoice::Named("look".into())] {
            let failure = preparer.prepare(JobId(2), chat(choice)).unwrap_err();
            assert_eq!(failure.param.as_deref(), Some("tool_choice"));
        }
    }

    #[test]
    fn a_models_budget_for_thoughts_is_for_jobs_that_name_none() {
        let mut preparer = preparer();
        preparer.facts.can_reason = true;
        let mut settled = |budget, asked: Reasoning| {
            preparer.facts.reasoning_budget = budget;
            let mut asked = asked;
            preparer.settle_reasoning(&mut asked);
            (asked.enabled, asked.budget_tokens)
        };
        let silent = Reasoning::default;
        let eager = || Reasoning {
            enabled: Some(true),
            ..silent()
        };
        let exact = || Reasoning {
            budget_tokens: Some(7),
            ..silent()
        };
        assert_eq!(settled(None, silent()), (None, None));
        assert_eq!(settled(Some(64), silent()), (None, Some(64)));
        assert_eq!(settled(Some(64), eager()), (Some(true), Some(64)));
        assert_eq!(settled(Some(64), exact()), (None, Some(7)));
        assert_eq!(settled(Some(0), silent()), (Some(false), None));
        assert_eq!(settled(Some(0), eager()), (Some(true), None));
        assert_eq!(settled(Some(0), exact()), (None, Some(7)));
    }

    #[test]
    fn an_echo_leaves_out_the_token_that_its_text_does_not_show() {
        let preparer = preparer();
        // The fake's tokens are bytes, and 1 stands for a BOS here.
        for (tokens, n_added) in [(&[97, 98][..], 0), (&[1, 97, 98], 1), (&[98, 97], 0)] {
            assert_eq!(preparer.n_added_in_front(tokens, "ab"), n_added);
        }
    }

    #[test]
    fn sequence_breakers_are_taken_whole_or_refused() {
        let preparer = preparer();
        let breakers = |strings: Option<Vec<String>>| {
            preparer.breakers(&SamplingOverrides {
                dry_sequence_breakers: strings,
                ..SamplingOverrides::default()
            })
        };
        let (one, other) = (breakers(None).unwrap(), breakers(None).unwrap());
        assert!(Arc::ptr_eq(&one, &other) && !one.is_empty());
        let whole = "é".repeat(32);
        let cut = "é".repeat(20);
        assert_ne!(
            breakers(Some(vec![whole.clone()])),
            breakers(Some(vec![cut]))
        );
        let failure = breakers(Some(vec![format!("{whole}.")])).unwrap_err();
        assert_eq!(
            failure.message,
            "A sequence breaker has 65 bytes, the limit is 64"
        );
    }
}
