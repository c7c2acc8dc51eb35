//! How model families write tool calls: one file a family.
//!
//! Each family has a machine ([`CallMachine`]) that reads a call one character at a
//! time, beginning after the marker that opened it. Reading by characters is what
//! makes the result independent of how the engine cuts its output.

mod args;
mod deepseek;
mod gemma;
mod generic;
mod glm;
mod hermes;
mod json;
mod llama;
mod mistral;
mod pythonic;
mod scan;
mod sink;
mod xml;

pub(crate) use sink::{ArgumentKind, CallEvent, CallSink, Toolbox, argument_kind};

/// How a model writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ToolFormat {
    /// `<tool_call>{"name": "f", "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3.
    Hermes,
    /// `<tool_call><function=f><parameter=k>v</parameter></function></tool_call>`: Qwen3-Coder.
    QwenXml,
    /// `{"name": "f", "parameters": {…}}`, bare or after `<|python_tag|>`: Llama 3.
    Llama3,
    /// `[TOOL_CALLS][{"name": "f", "arguments": {…}}]`: Mistral until 2024.
    Mistral,
    /// `[TOOL_CALLS]f[ARGS]{…}`: Mistral since.
    MistralArgs,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>f` and fenced JSON: DeepSeek V3, R1.
    DeepSeekV3,
    /// `<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`: DeepSeek V3.1.
    DeepSeekV31,
    /// `<tool_call>f<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>`: GLM 4.
    Glm,
    /// A `tool_code` fence with a Python call: Gemma 3 as commonly prompted.
    GemmaCode,
    /// `<start_function_call>call:f{k:<escape>v<escape>}<end_function_call>`.
    FunctionGemma,
    /// `<|tool_call>call:f{k:<|"|>v<|"|>}<tool_call|>`: Gemma 4.
    Gemma4,
    /// `<|tool_call_start|>[f(k="v")]<|tool_call_end|>`: LFM2.
    Lfm2,
    /// `{"tool_call": {"name": "f", "arguments": {…}}}`: any model, told so in words.
    #[default]
    Generic,
}

/// All formats, in the order detection tries them: a marker that only one family
/// has comes before one that several share.
const FORMATS: [ToolFormat; 13] = [
    ToolFormat::QwenXml,
    ToolFormat::Glm,
    ToolFormat::DeepSeekV3,
    ToolFormat::DeepSeekV31,
    ToolFormat::MistralArgs,
    ToolFormat::Mistral,
    ToolFormat::FunctionGemma,
    ToolFormat::Gemma4,
    ToolFormat::Lfm2,
    ToolFormat::GemmaCode,
    ToolFormat::Hermes,
    ToolFormat::Llama3,
    ToolFormat::Generic,
];

impl ToolFormat {
    /// The format whose markers a chat template contains; `None` if it shows none.
    #[must_use]
    pub fn detect(template_source: &str) -> Option<Self> {
        FORMATS
            .into_iter()
            .find(|format| format.shows_in(template_source))
    }

    fn shows_in(self, source: &str) -> bool {
        let has = |text: &str| source.contains(text);
        match self {
            Self::QwenXml => has("<function=") && has("<parameter="),
            Self::Glm => has("<arg_key>"),
            Self::DeepSeekV3 => has(deepseek::CALL_BEGIN) && has("```json"),
            Self::DeepSeekV31 => has(deepseek::CALL_BEGIN),
            Self::MistralArgs => has(mistral::OPEN) && has(mistral::ARGS),
            Self::Mistral => has(mistral::OPEN),
            Self::FunctionGemma => has(gemma::FUNCTION_GEMMA.open),
            Self::Gemma4 => has(gemma::GEMMA_4.open),
            Self::Lfm2 => [
                pythonic::LFM_OPEN,
                "<|tool_list_start|>",
                "List of tools: [",
            ]
            .iter()
            .any(|text| has(text)),
            Self::GemmaCode => has("tool_code"),
            Self::Hermes => has(hermes::OPEN),
            Self::Llama3 => {
                has(llama::PYTHON_TAG)
                    || has("<|eom_id|>")
                    || (has("<|start_header_id|>") && has("\"parameters\":"))
            }
            Self::Generic => has("\"tool_call\""),
        }
    }

    /// The name used in settings and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::QwenXml => "qwen_xml",
            Self::Llama3 => "llama3",
            Self::Mistral => "mistral",
            Self::MistralArgs => "mistral_args",
            Self::DeepSeekV3 => "deepseek_v3",
            Self::DeepSeekV31 => "deepseek_v3.1",
            Self::Glm => "glm",
            Self::GemmaCode => "gemma_code",
            Self::FunctionGemma => "function_gemma",
            Self::Gemma4 => "gemma4",
            Self::Lfm2 => "lfm2",
            Self::Generic => "generic",
        }
    }

    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        FORMATS.into_iter()
    }

    /// Texts at which an answer is over, besides the model's own end tokens: where a
    /// model would go on to invent the result of its call.
    #[must_use]
    pub fn stop_markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::QwenXml => &["<tool_response>"],
            Self::Llama3 => &["<|eom_id|>"],
            Self::Mistral | Self::MistralArgs => &["[TOOL_RESULTS]"],
            Self::DeepSeekV3 | Self::DeepSeekV31 => {
                &["<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>"]
            }
            Self::Glm => &["<|observation|>"],
            Self::GemmaCode => &["```tool_output"],
            Self::FunctionGemma => &["<start_function_response>"],
            Self::Gemma4 => &["<|tool_response>"],
            Self::Lfm2 => &["<|tool_response_start|>"],
            Self::Generic => &[],
        }
    }

    /// The machine for a call in this format and the texts that open one.
    pub(crate) fn openers(self) -> &'static [Opener] {
        match self {
            Self::Hermes | Self::QwenXml | Self::Glm => &hermes::OPENERS,
            Self::Generic => &generic::FOREIGN_OPENERS,
            Self::Llama3 => &llama::OPENERS,
            Self::Mistral | Self::MistralArgs => &mistral::OPENERS,
            Self::DeepSeekV3 | Self::DeepSeekV31 => &deepseek::OPENERS,
            Self::GemmaCode => &pythonic::CODE_OPENERS,
            Self::FunctionGemma => &gemma::FUNCTION_GEMMA_OPENERS,
            Self::Gemma4 => &gemma::GEMMA_4_OPENERS,
            Self::Lfm2 => &pythonic::LFM_OPENERS,
        }
    }

    /// Openers that every format has, because small models mix formats up and because
    /// the grammar of some formats falls back to the generic form.
    pub(crate) fn common_openers() -> &'static [Opener] {
        &generic::OPENERS
    }

    /// Ids are nine letters or digits.
    pub(crate) fn has_short_ids(self) -> bool {
        matches!(self, Self::Mistral | Self::MistralArgs)
    }
}

/// A text that opens a call.
#[derive(Debug)]
pub(crate) struct Opener {
    pub(crate) text: &'static str,
    pub(crate) place: Place,
    pub(crate) machine: fn() -> Box<dyn CallMachine>,
}

/// Where an opener counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A marker made for calls: anywhere, and with any well-formed name.
    Anywhere,
    /// A marker that prose may contain: anywhere, but only with an offered tool's name.
    AnywhereIfOffered,
    /// Ordinary text such as `{`: where an answer or a part of it begins, and only
    /// with an offered tool's name.
    AtStart,
}

/// What became of one character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Taken; more is needed.
    More,
    /// Taken; the calls are complete.
    Done,
    /// Not taken; the calls are complete without it.
    DoneBefore,
    /// Not taken; this is no call.
    Fail,
}

/// Reads what follows an opener.
pub(crate) trait CallMachine: std::fmt::Debug + Send {
    fn feed(&mut self, c: char, sink: &mut CallSink<'_>) -> Step;

    /// The output ended here. `false` if the call being read is incomplete.
    fn end(&mut self, sink: &mut CallSink<'_>) -> bool;
}

/// Whether a character may stand in a tool's name.
pub(crate) fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/')
}

/// Longest name a call may have; OpenAI allows 64.
pub(crate) const NAME_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        for format in ToolFormat::all() {
            let same = ToolFormat::all().filter(|other| other.name() == format.name());
            assert_eq!(same.count(), 1, "{format:?}");
        }
    }

    #[test]
    fn openers_are_distinct() {
        for format in ToolFormat::all() {
            let texts: Vec<_> = format
                .openers()
                .iter()
                .chain(ToolFormat::common_openers())
                .map(|opener| opener.text)
                .collect();
            for (i, a) in texts.iter().enumerate() {
                for (j, b) in texts.iter().enumerate() {
                    assert!(i == j || a != b, "{format:?}: {a:?} twice");
                }
            }
        }
    }
}
