//! Chat templates: from messages and tools to the prompt a model was trained on.
//!
//! A template comes out of a model file, so it is treated as untrusted input: its
//! size, its running time, its depth and its output are limited. Its memory is not:
//! the template engine has no such limit, and a text that is put behind itself forty
//! times ends the process for want of memory. That is the worker's process only. What it can do is
//! not declared anywhere, so [`Template::compile`] finds out by rendering small
//! probe conversations and looking at what came out (`Features`). Messages it
//! cannot take are rewritten, and every rewriting is told in [`Rendered::warnings`].

mod adapt;
mod environment;
mod probe;

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::{Environment, Error, ErrorKind, Value};
use proto::{Message, Reasoning, ToolDefinition};
use serde_json::{Map, Value as Json, json};
use thiserror::Error;

use crate::format::ToolFormat;
use crate::reasoning::ReasoningTags;
pub use environment::{FUEL_MAX, RECURSION_MAX};
use environment::{Raised, TEMPLATE_NAME, environment, strftime, to_template_value};
use probe::Features;

/// Most bytes a template's source may have. The largest published ones are near 30 KiB.
pub const SOURCE_BYTES_MAX: usize = 512 << 10;
/// Most bytes of a rendered prompt: below the frame limit of the worker protocol.
pub const PROMPT_BYTES_MAX: usize = 32 << 20;

const CHATML: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}";

#[derive(Debug, Error)]
pub enum TemplateError {
    #[error("the chat template has {bytes} bytes, the limit is {SOURCE_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("the chat template is broken in line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("the chat template failed in line {line}: {message}")]
    Failed { line: usize, message: String },
    /// The template called `raise_exception`; these are its own words.
    #[error("the chat template refused these messages: {message}")]
    Refused { message: String },
    #[error("the chat template ran for more than {FUEL_MAX} steps")]
    OutOfFuel,
    #[error("the rendered prompt is over the limit of {PROMPT_BYTES_MAX} bytes")]
    PromptTooLarge,
    /// The engine panics over some templates, such as one that turns an empty list around.
    #[error("the chat template does what the template engine cannot (it panicked)")]
    EnginePanicked,
}

/// Texts of the model's special tokens; empty where the model has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    pub bos: String,
    pub eos: String,
}

/// One conversation to render.
#[derive(Debug, Clone, Copy)]
pub struct RenderInput<'a> {
    pub messages: &'a [Message],
    pub tools: &'a [ToolDefinition],
    pub ending: PromptEnding,
    pub reasoning: &'a Reasoning,
    /// Extra template variables; they win over those this crate sets.
    pub kwargs: &'a Map<String, Json>,
    /// What `strftime_now` tells; this crate has no clock. Add the local offset for local time.
    pub now_unix_s: i64,
}

/// What a prompt ends with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PromptEnding {
    /// The last message.
    LastMessage,
    /// The opening of an assistant turn.
    #[default]
    AnswerOpening,
    /// An assistant turn that is opened and holds the text of the last message, which is
    /// the assistant's: the model goes on with it.
    AnswerBeginning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub prompt: String,
    /// What was changed so that the template takes the messages, and what was asked
    /// for and cannot be had; whole sentences for the user.
    pub warnings: Vec<String>,
    /// The prompt ends inside a thought: the answer begins with reasoning.
    pub opens_thinking: bool,
    /// The prompt already begins with the BOS text, so the tokeniser must not add one.
    pub starts_with_bos: bool,
}

/// A compiled chat template and what is known of it.
pub struct Template {
    env: Environment<'static>,
    tokens: TemplateTokens,
    features: Features,
    tool_format: ToolFormat,
    reasoning: Option<ReasoningTags>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("tokens", &self.tokens)
            .field("features", &self.features)
            .field("tool_format", &self.tool_format)
            .field("reasoning", &self.reasoning)
            .finish_non_exhaustive()
    }
}

impl Template {
    /// Compiles `source` and probes it.
    ///
    /// # Errors
    /// `TooLarge` and `Syntax` name what is wrong with the source. A template that
    /// cannot even render one user message gives that rendering's error.
    pub fn compile(source: &str, tokens: TemplateTokens) -> Result<Self, TemplateError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(TemplateError::TooLarge {
                bytes: source.len(),
            });
        }
        let env = environment(source).map_err(|error| TemplateError::Syntax {
            line: error.line().unwrap_or(0),
            message: described(&error),
        })?;
        let mut template = Self {
            env,
            tokens,
            features: Features::default(),
            tool_format: ToolFormat::Generic,
            reasoning: ReasoningTags::detect(source),
        };
        template.features = probe::features(&template, source)?;
        if template.features.supports_tools {
            template.tool_format = ToolFormat::detect(source).unwrap_or_default();
        }
        Ok(template)
    }

    /// ChatML: what a model without a usable template gets.
    ///
    /// # Errors
    /// None in practice; the source is compiled like any other.
    pub fn fallback(tokens: TemplateTokens) -> Result<Self, TemplateError> {
        Self::compile(CHATML, tokens)
    }

    /// How the model writes tool calls. `Generic` where the template knows no tools:
    /// then `render` describes them in words.
    #[must_use]
    pub fn tool_format(&self) -> ToolFormat {
        self.tool_format
    }

    /// The reasoning tags the template mentions.
    #[must_use]
    pub fn reasoning_tags(&self) -> Option<ReasoningTags> {
        self.reasoning
    }

    /// Renders the prompt, adapting messages the template cannot take.
    ///
    /// # Errors
    /// `Refused` carries the template's own words; `Failed` names the line;
    /// `OutOfFuel` and `PromptTooLarge` name the limit.
    pub fn render(&self, input: &RenderInput<'_>) -> Result<Rendered, TemplateError> {
        let (messages, beginning) = match (input.ending, input.messages.split_last()) {
            (PromptEnding::AnswerBeginning, Some((last, before))) => {
                (before, last.content.as_deref())
            }
            _ => (input.messages, None),
        };
        let opens_answer = input.ending != PromptEnding::LastMessage;
        let adapted = adapt::adapt(messages, input.tools, &self.features, self.tool_format);
        let mut warnings = adapted.warnings;
        let off = self.thinking_is_off(input.reasoning);
        let mut extra = Map::new();
        self.set_thinking(input.reasoning, off, &mut extra, &mut warnings);
        for (key, value) in input.kwargs {
            extra.insert(key.clone(), value.clone());
        }
        let mut prompt = self.render_values(&Values {
            messages: adapted.messages,
            tools: adapted.tools,
            add_generation_prompt: opens_answer,
            extra,
            now_unix_s: input.now_unix_s,
        })?;
        if off && opens_answer {
            self.close_thought(&mut prompt, &mut warnings);
        }
        let tags = self.reasoning.unwrap_or_default();
        if let Some(beginning) = beginning {
            // The text is of the answer, so the thought before it is over.
            if tags.left_open_by(&prompt) {
                prompt = format!("{}\n\n{}\n\n", prompt.trim_end(), tags.close);
            }
            prompt.push_str(beginning);
        }
        Ok(Rendered {
            opens_thinking: opens_answer && tags.left_open_by(&prompt),
            starts_with_bos: !self.tokens.bos.is_empty() && prompt.starts_with(&self.tokens.bos),
            prompt,
            warnings,
        })
    }

    fn thinking_is_off(&self, reasoning: &Reasoning) -> bool {
        match reasoning.enabled {
            Some(enabled) => !enabled,
            None => reasoning.effort.as_deref() == Some("none"),
        }
    }

    fn set_thinking(
        &self,
        reasoning: &Reasoning,
        off: bool,
        extra: &mut Map<String, Json>,
        warnings: &mut Vec<String>,
    ) {
        let asked_on = reasoning.enabled == Some(true);
        match self.features.thinking_switch {
            Some(switch) if off || asked_on => {
                extra.insert(switch.to_owned(), Json::Bool(!off));
            }
            None if asked_on && self.reasoning.is_none() => warnings.push(
                "Thinking was asked for, but the model's chat template knows no thinking; it was ignored."
                    .to_owned(),
            ),
            _ => {}
        }
        if let Some(effort) = &reasoning.effort {
            extra.insert("reasoning_effort".to_owned(), json!(effort));
            if !self.features.reads_reasoning_effort && effort != "none" {
                warnings.push(format!(
                    "reasoning_effort \"{effort}\" has no effect: the model's chat template does not read it."
                ));
            }
        }
    }

    /// Makes sure that a model told not to think finds its thought already closed.
    fn close_thought(&self, prompt: &mut String, warnings: &mut Vec<String>) {
        let Some(tags) = self.reasoning else {
            return;
        };
        let how = if tags.left_open_by(prompt) {
            *prompt = format!("{}\n\n{}\n\n", prompt.trim_end(), tags.close);
            "the thought it opens was closed in the prompt"
        } else if self.features.thinking_switch.is_none() {
            *prompt = format!("{prompt}{}\n\n{}\n\n", tags.open, tags.close);
            "an empty thought was put in the prompt"
        } else {
            return;
        };
        warnings.push(format!(
            "Thinking was switched off, which the model's chat template cannot do by itself; {how}."
        ));
    }

    fn render_values(&self, values: &Values) -> Result<String, TemplateError> {
        let template = self.env.get_template(TEMPLATE_NAME).map_err(failure)?;
        let mut context = Map::new();
        context.insert("messages".to_owned(), Json::from(values.messages.clone()));
        let tools = match values.tools.as_slice() {
            [] => Json::Null,
            tools => Json::from(tools.to_vec()),
        };
        context.insert("tools".to_owned(), tools);
        context.insert(
            "add_generation_prompt".to_owned(),
            Json::Bool(values.add_generation_prompt),
        );
        context.insert("bos_token".to_owned(), json!(self.tokens.bos));
        context.insert("eos_token".to_owned(), json!(self.tokens.eos));
        context.extend(values.extra.clone());
        let now = values.now_unix_s;
        let clock = Value::from_function(move |format: String| strftime(&format, now));
        let variables = context
            .iter()
            .map(|(key, value)| (key.clone(), to_template_value(value)))
            .chain([("strftime_now".to_owned(), clock)]);
        let mut out = LimitedBuffer::default();
        // What a panic leaves half done is `out`, which is not looked at then.
        let result = catch_unwind(AssertUnwindSafe(|| {
            template
                .render_captured_to(Value::from_pairs(variables), &mut out)
                .map(drop)
        }));
        match result {
            Err(_) => Err(TemplateError::EnginePanicked),
            Ok(_) if out.full => Err(TemplateError::PromptTooLarge),
            Ok(Err(error)) => Err(failure(error)),
            // The engine writes whole strings, so a valid prompt is valid UTF-8.
            Ok(Ok(())) => Ok(String::from_utf8_lossy(&out.bytes).into_owned()),
        }
    }
}

/// The template's variables, in the shapes it takes.
#[derive(Debug, Clone, Default)]
struct Values {
    messages: Vec<Json>,
    tools: Vec<Json>,
    add_generation_prompt: bool,
    extra: Map<String, Json>,
    now_unix_s: i64,
}

#[derive(Default)]
struct LimitedBuffer {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for LimitedBuffer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > PROMPT_BYTES_MAX {
            self.full = true;
            return Err(io::Error::other("the prompt is over its limit"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failure(error: Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::OutOfFuel;
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref::<Raised>() {
            return TemplateError::Refused {
                message: message.clone(),
            };
        }
        let inner = cause.downcast_ref::<Error>().map(Error::kind);
        if inner == Some(ErrorKind::OutOfFuel) {
            return TemplateError::OutOfFuel;
        }
        source = cause.source();
    }
    TemplateError::Failed {
        line: error.line().unwrap_or(0),
        message: described(&error),
    }
}

fn described(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests;
