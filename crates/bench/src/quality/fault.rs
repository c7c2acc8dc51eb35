//! Whose fault it is that an answer is not there: a pipeline's is never counted as a model's.

use super::{Answer, Question};

/// What came of asking once.
#[derive(Debug, Clone, PartialEq)]
pub enum Came {
    /// Nothing, in the time there was.
    Late,
    /// No connection, or one that broke.
    Unreachable(String),
    /// An error, with its HTTP status, its code and its message.
    Refused {
        status: u16,
        code: String,
        message: String,
    },
    Answered(Answered),
}

/// An answer, and what came with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answered {
    pub answer: Answer,
    /// `stop`, `length`, `tool_calls`
    pub finish: String,
    /// The model that says it has answered.
    pub model: String,
    /// Tokens of the prompt that were read, where that is told.
    pub n_prompt: Option<u64>,
    /// Tokens of the answer, thoughts included.
    pub n_answer: Option<u64>,
}

/// What a pipeline did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Unreachable,
    /// Nothing came in time. Of one model this may be the model; of all of them it is not.
    Late,
    /// The runtime's context is smaller than the pipeline says.
    ContextTooSmall,
    /// Functions were offered and not taken.
    ToolsRefused,
    /// Something else than the model answered.
    Intercepted,
    /// A program of the pipeline may not be executed.
    NoPermission,
    /// It had no place for the request.
    Busy,
    /// Any other error.
    Refused,
    /// A call stands in the text, where it should have been taken out.
    LeakedCall,
    /// As does a thought. The answer is judged without it.
    LeakedThought,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::Late,
        Self::ContextTooSmall,
        Self::ToolsRefused,
        Self::Intercepted,
        Self::NoPermission,
        Self::Busy,
        Self::Refused,
        Self::LeakedCall,
        Self::LeakedThought,
    ];

    /// The fault that has this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.word() == word)
    }

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Late => "late",
            Self::ContextTooSmall => "context_too_small",
            Self::ToolsRefused => "tools_refused",
            Self::Intercepted => "intercepted",
            Self::NoPermission => "no_permission",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::LeakedCall => "leaked_call",
            Self::LeakedThought => "leaked_thought",
        }
    }

    /// What to do about it.
    #[must_use]
    pub const fn fix(self) -> &'static str {
        match self {
            Self::Unreachable => "start the server, or name another with --url",
            Self::Late => "if it is late for every model, look for what waits in the pipeline",
            Self::ContextTooSmall => {
                "register no more context than the runtime takes, or load with a larger one"
            }
            Self::ToolsRefused => "serve the model with a template that knows tools",
            Self::Intercepted => "switch off what answers in place of the model",
            Self::NoPermission => "make the runtime's helper program executable (chmod +x)",
            Self::Busy => "ask less at once, or wait until the model is loaded",
            Self::Refused => "the error says what is wrong with the request",
            Self::LeakedCall => "serve the model with the tool-call format of its template",
            Self::LeakedThought => "serve the model with the reasoning marks of its template",
        }
    }

    /// Whether there is nothing to judge, so that the attempt says nothing of the model.
    #[must_use]
    pub const fn voids(self) -> bool {
        !matches!(self, Self::LeakedThought | Self::LeakedCall | Self::Late)
    }
}

/// A token has seldom more characters than this: of fewer tokens than that the prompt was not
/// read as it was sent.
const CHARS_PER_TOKEN_MAX: u64 = 16;

impl Question {
    /// What the pipeline did wrong, if anything. `asked` is the model's name in the request, and
    /// `tokens_max` the length that was allowed.
    #[must_use]
    pub fn fault(&self, came: &Came, asked: &str, tokens_max: u64) -> Option<Fault> {
        match came {
            Came::Late => Some(Fault::Late),
            Came::Unreachable(_) => Some(Fault::Unreachable),
            Came::Refused {
                status,
                code,
                message,
            } => Some(of_error(*status, &format!("{code} {message}"))),
            Came::Answered(answered) => self.of_answer(answered, asked, tokens_max),
        }
    }

    fn of_answer(&self, came: &Answered, asked: &str, tokens_max: u64) -> Option<Fault> {
        if is_intercepted(came, asked, self.prompt.chars().count() as u64) {
            return Some(Fault::Intercepted);
        }
        // It ended for its length and has not reached the one that was allowed.
        let is_short = came.n_answer.is_some_and(|n_answer| n_answer < tokens_max);
        if came.finish == "length" && is_short {
            return Some(Fault::ContextTooSmall);
        }
        let called = self.tools.iter().filter_map(|tool| {
            let name = tool.pointer("/function/name");
            name.and_then(serde_json::Value::as_str)
        });
        let text = &came.answer.text;
        let is_call = |name: &str| text.contains(name) && text.contains(['{', '(']);
        if came.answer.calls.is_empty() && called.into_iter().any(is_call) {
            return Some(Fault::LeakedCall);
        }
        let leaks = came.answer.has_leaked_thought();
        leaks.then_some(Fault::LeakedThought)
    }
}

/// Whether another than the model has answered, which would have read so many characters.
pub(crate) fn is_intercepted(came: &Answered, asked: &str, n_chars: u64) -> bool {
    let is_unread = |n_prompt| n_prompt < n_chars / CHARS_PER_TOKEN_MAX;
    !is_name(&came.model, asked) || came.n_prompt.is_some_and(is_unread)
}

/// Whether an answer's model is the one that was asked for. Engines add a tag or a path, or
/// leave the name out.
pub(crate) fn is_name(said: &str, asked: &str) -> bool {
    let plain = |name: &str| {
        let name = name.rsplit('/').next().unwrap_or(name);
        let name = name.strip_suffix(".gguf").unwrap_or(name);
        name.to_lowercase()
    };
    let (said, asked) = (plain(said), plain(asked));
    let last = asked.rsplit(':').next().unwrap_or(&asked);
    said.is_empty()
        || asked.is_empty()
        || said.starts_with(&asked)
        || said.contains(last)
        || asked.contains(&said)
}

/// What an error of this status and text is.
pub(crate) fn of_error(status: u16, text: &str) -> Fault {
    let text = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&[
        "permission denied",
        "eacces",
        "not executable",
        "os error 13",
    ]) {
        Fault::NoPermission
    } else if has(&["prompt is too long"]) // as Anthropic says it
        || has(&["context"]) && has(&["exceed", "length", "larger", "longer", "n_ctx", "fit"])
    {
        Fault::ContextTooSmall
    } else if has(&["tool"]) && has(&["support", "require", "cannot", "not", "unknown"]) {
        Fault::ToolsRefused
    } else if status == 429 || status == 503 {
        Fault::Busy
    } else {
        Fault::Refused
    }
}

/// What one model made of one question, over all attempts at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub model: String,
    pub question: String,
    /// Through which pipeline.
    pub path: String,
    pub n_right: usize,
    pub n_late: usize,
    pub n: usize,
}

/// Questions on which a pipeline is to be suspected: each of at least three models was late at
/// each attempt; or a model that is right on one path never is on another.
#[must_use]
pub fn suspects(records: &[Record]) -> Vec<(String, String)> {
    const MODELS_MIN: usize = 3;
    let mut found = Vec::new();
    for record in records.iter().filter(|record| record.n > 0) {
        let here = |other: &&Record| {
            other.question == record.question && other.path == record.path && other.n > 0
        };
        let all: Vec<&Record> = records.iter().filter(here).collect();
        let are_late = all.iter().all(|other| other.n_late == other.n);
        let elsewhere = records.iter().any(|other| {
            other.model == record.model
                && other.question == record.question
                && other.path != record.path
                && other.n > 1
                && other.n_right == other.n
        });
        let is_never_right = record.n > 1 && record.n_right == 0 && elsewhere;
        if (are_late && all.len() >= MODELS_MIN) || is_never_right {
            let suspect = (record.path.clone(), record.question.clone());
            if !found.contains(&suspect) {
                found.push(suspect);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::{Call, suite};

    fn question(id: &str) -> Question {
        let mut suite = suite().unwrap().into_iter();
        suite.find(|question| question.id == id).unwrap()
    }

    fn answered(text: &str) -> Answered {
        Answered {
            answer: Answer {
                text: text.into(),
                calls: Vec::new(),
            },
            finish: "stop".into(),
            model: "qwen3".into(),
            n_prompt: Some(60),
            n_answer: Some(12),
        }
    }

    fn refused(status: u16, code: &str, message: &str) -> Came {
        Came::Refused {
            status,
            code: code.into(),
            message: message.into(),
        }
    }

    #[test]
    fn each_known_mistake_is_told_from_the_others() {
        let capital = question("capital");
        let tool = question("calculator");
        let of = |question: &Question, came: Came| question.fault(&came, "qwen3", 512);
        let cut = Answered {
            finish: "length".into(),
            n_answer: Some(40),
            ..answered("The")
        };
        let long = Answered {
            finish: "length".into(),
            n_answer: Some(512),
            ..answered("The")
        };
        let other = Answered {
            model: "workspace-router".into(),
            ..answered("I have searched the web for you.")
        };
        let unread = Answered {
            n_prompt: Some(0),
            ..answered("Done!")
        };
        let called = Answered {
            answer: Answer {
                text: String::new(),
                calls: vec![Call {
                    name: "calculator".into(),
                    arguments: serde_json::json!({}),
                }],
            },
            ..answered("")
        };
        for (question, came, fault) in [
            (&capital, Came::Answered(answered("Canberra")), None),
            (&capital, Came::Answered(answered("Sydney")), None),
            (&capital, Came::Answered(long), None),
            (&tool, Came::Answered(called), None),
            (&tool, Came::Answered(answered("1888264")), None),
            (&capital, Came::Answered(cut), Some(Fault::ContextTooSmall)),
            (&capital, Came::Answered(other), Some(Fault::Intercepted)),
            (&capital, Came::Answered(unread), Some(Fault::Intercepted)),
            (&capital, Came::Late, Some(Fault::Late)),
            (
                &capital,
                Came::Unreachable("refused".into()),
                Some(Fault::Unreachable),
            ),
            (
                &capital,
                Came::Answered(answered("<|channel>thought\nAustralia<channel|>Canberra")),
                Some(Fault::LeakedThought),
            ),
            (
                &capital,
                Came::Answered(answered("<think></think>Canberra")),
                Some(Fault::LeakedThought),
            ),
            (
                &tool,
                Came::Answered(answered(
                    "<tool_call>{\"name\": \"calculator\"}</tool_call>",
                )),
                Some(Fault::LeakedCall),
            ),
            (
                &capital,
                refused(
                    400,
                    "exceed_context_size_error",
                    "the request exceeds the context size",
                ),
                Some(Fault::ContextTooSmall),
            ),
            (
                &capital,
                refused(
                    400,
                    "",
                    "max_context_len 8192 is larger than the runtime's limit 4096",
                ),
                Some(Fault::ContextTooSmall),
            ),
            (
                &capital,
                refused(400, "", "prompt is too long: 12054 tokens > 8192 maximum"),
                Some(Fault::ContextTooSmall),
            ),
            (
                &tool,
                refused(400, "", "qwen3 does not support tools"),
                Some(Fault::ToolsRefused),
            ),
            (
                &tool,
                refused(500, "", "tools param requires --jinja flag"),
                Some(Fault::ToolsRefused),
            ),
            (
                &capital,
                refused(
                    502,
                    "",
                    "spawn ./llm_bridge: Permission denied (os error 13)",
                ),
                Some(Fault::NoPermission),
            ),
            (
                &capital,
                refused(503, "", "Loading model"),
                Some(Fault::Busy),
            ),
            (
                &capital,
                refused(400, "", "unknown field"),
                Some(Fault::Refused),
            ),
        ] {
            let shown = format!("{came:?}");
            assert_eq!(of(question, came), fault, "{shown}");
        }
    }

    #[test]
    fn engines_write_names_in_their_own_way() {
        for (said, asked) in [
            ("qwen3:latest", "qwen3"),
            ("/models/Qwen3.gguf", "qwen3"),
            ("qwen3", "box:qwen3"),
            ("", "qwen3"),
            ("Qwen/Qwen3", "qwen3"),
        ] {
            assert!(is_name(said, asked), "{said}, {asked}");
        }
        assert!(!is_name("gemma", "qwen3"));
    }

    #[test]
    fn what_is_late_for_all_or_wrong_on_one_path_alone_is_the_pipelines() {
        let record =
            |model: &str, path: &str, question: &str, [right, late, n]: [usize; 3]| Record {
                model: model.into(),
                question: question.into(),
                path: path.into(),
                n_right: right,
                n_late: late,
                n,
            };
        let mut records = vec![
            record("a", "gateway", "json", [0, 3, 3]),
            record("b", "gateway", "json", [0, 3, 3]),
            record("a", "gateway", "csv", [0, 0, 3]),
            record("b", "gateway", "csv", [3, 0, 3]),
        ];
        assert!(suspects(&records).is_empty());
        records.push(record("c", "gateway", "json", [0, 3, 3]));
        records.push(record("a", "direct", "csv", [3, 0, 3]));
        let wanted = [("gateway", "json"), ("gateway", "csv")];
        let wanted = wanted.map(|(path, question)| (path.to_owned(), question.to_owned()));
        assert_eq!(suspects(&records), wanted);
    }
}
