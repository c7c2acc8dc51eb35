//! Finds out what a template can do, by rendering conversations with marker words
//! and looking for the words in the prompt.

use serde_json::{Map, Value as Json, json};

use super::{Template, TemplateError, Values};

/// What a template was seen to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// A system message at the start reaches the prompt.
    pub supports_system: bool,
    /// A system message later in the conversation does, too.
    pub supports_late_system: bool,
    /// The template knows the role `developer`.
    pub supports_developer: bool,
    /// Tool definitions reach the prompt.
    pub supports_tools: bool,
    /// An assistant's earlier tool calls reach the prompt.
    pub supports_tool_calls: bool,
    /// Messages of the role `tool` reach the prompt as such.
    pub supports_tool_results: bool,
    /// `function.arguments` is given as an object rather than as JSON text.
    pub wants_object_arguments: bool,
    /// JSON text works as well, so arguments that do not parse can be shown as they are.
    pub takes_string_arguments: bool,
    /// An assistant message with calls has `content: null` rather than `""`.
    pub wants_null_content: bool,
    /// Call ids must be nine letters or digits.
    pub wants_short_call_ids: bool,
    /// Two user messages in a row are refused.
    pub requires_alternation: bool,
    /// The boolean variable that switches thinking on and off.
    pub thinking_switch: Option<&'static str>,
    /// `reasoning_effort` changes the prompt.
    pub reads_reasoning_effort: bool,
    /// With its defaults the generation prompt ends inside an open thought.
    pub opens_thinking: bool,
}

/// Names templates use for the switch, the most common first.
const THINKING_SWITCHES: [&str; 6] = [
    "enable_thinking",
    "thinking",
    "enable_reasoning",
    "use_thinking",
    "think",
    "reasoning",
];

const SYSTEM: &str = "qzSystemWord";
const USER: &str = "qzUserWord";
const TOOL: &str = "qz_tool_word";
const RESULT: &str = "qzResultWord";
const KEY: &str = "qz_key_word";
const VALUE: &str = "qzValueWord";

/// # Errors
/// The template cannot render a lone user message, nor one after a system message.
pub(super) fn features(template: &Template, source: &str) -> Result<Features, TemplateError> {
    let probe = Probe { template };
    let plain = probe.render(vec![user()]);
    let with_system = probe.render(vec![system(), user()]);
    if let (Err(error), Err(_)) = (plain, &with_system) {
        return Err(error);
    }
    let mut features = Features {
        supports_system: shows(&with_system, SYSTEM) && shows(&with_system, USER),
        ..Features::default()
    };
    features.supports_late_system = features.supports_system
        && shows(
            &probe.render(vec![user(), assistant("ok"), system(), user()]),
            SYSTEM,
        );
    let mentions = |word: &str| source.contains(word);
    features.supports_developer = mentions("developer")
        && shows(
            &probe.render(vec![
                json!({"role": "developer", "content": SYSTEM}),
                user(),
            ]),
            SYSTEM,
        );
    features.requires_alternation = features.system_then(&probe, vec![user(), user()]).is_err()
        && features.system_then(&probe, vec![user()]).is_ok();
    probe.tools(source, &mut features);
    probe.thinking(source, &mut features);
    Ok(features)
}

impl Features {
    /// Renders after a system message where a template insists on one.
    fn system_then(&self, probe: &Probe<'_>, turns: Vec<Json>) -> Result<String, TemplateError> {
        probe.render(turns.clone()).or_else(|error| {
            if !self.supports_system {
                return Err(error);
            }
            let mut with_system = vec![system()];
            with_system.extend(turns);
            probe.render(with_system)
        })
    }
}

struct Probe<'a> {
    template: &'a Template,
}

impl Probe<'_> {
    fn render(&self, messages: Vec<Json>) -> Result<String, TemplateError> {
        self.render_with(messages, Vec::new(), Map::new())
    }

    fn render_with(
        &self,
        messages: Vec<Json>,
        tools: Vec<Json>,
        extra: Map<String, Json>,
    ) -> Result<String, TemplateError> {
        self.template.render_values(&Values {
            messages,
            tools,
            add_generation_prompt: true,
            extra,
            now_unix_s: 0,
        })
    }

    fn tools(&self, source: &str, features: &mut Features) {
        let reaches = |turns| shows(&self.render_with(turns, vec![tool()], Map::new()), TOOL);
        features.supports_tools = reaches(vec![user()]) || reaches(vec![system(), user()]);

        let long = "call_abcdefghijklmnopqrstuvwx";
        let short = "abcdefghi";
        features.wants_short_call_ids = [long, short].map(|id| {
            [Json::Null, json!("")]
                .into_iter()
                .any(|content| self.answered(call(id, object(), content), id).is_ok())
        }) == [false, true];
        let id = if features.wants_short_call_ids {
            short
        } else {
            long
        };
        // A template may treat a call at the end and one in the middle differently.
        let with = |content: Json| call(id, object(), content);
        features.wants_null_content = null_is_as_good(
            &self.unanswered(with(Json::Null)),
            &self.unanswered(with(json!(""))),
        ) && null_is_as_good(
            &self.answered(with(Json::Null), id),
            &self.answered(with(json!("")), id),
        );
        self.arguments(source, id, features);
    }

    /// How arguments are wanted, and whether calls and results are shown at all.
    fn arguments(&self, source: &str, id: &str, features: &mut Features) {
        let content = if features.wants_null_content {
            Json::Null
        } else {
            json!("")
        };
        let text = json!(object().to_string());
        let as_object = self.unanswered(call(id, object(), content.clone()));
        let as_text = self.unanswered(call(id, text.clone(), content.clone()));
        let good_object = shows(&as_object, VALUE) && !shows(&as_object, &format!("{{'{KEY}'"));
        features.takes_string_arguments = shows(&as_text, VALUE);
        features.wants_object_arguments = good_object || !features.takes_string_arguments;
        features.supports_tool_calls = good_object || features.takes_string_arguments;

        // A template that prints any role would pass `tool` through to a model that has
        // never seen it, so the source must speak of tools, too.
        let speaks_of_tools = ["tool", "ipython", "observation", "function"]
            .iter()
            .any(|word| source.contains(word));
        let arguments = if features.wants_object_arguments {
            object()
        } else {
            text
        };
        features.supports_tool_results =
            speaks_of_tools && shows(&self.answered(call(id, arguments, content), id), RESULT);
    }

    /// A conversation that ends with the call.
    fn unanswered(&self, call: Json) -> Result<String, TemplateError> {
        self.render_with(vec![user(), call], vec![tool()], Map::new())
    }

    /// A conversation that goes on after the call.
    fn answered(&self, call: Json, id: &str) -> Result<String, TemplateError> {
        let result = json!({
            "role": "tool", "content": RESULT, "tool_call_id": id, "name": TOOL,
        });
        let turns = vec![user(), call, result, assistant("ok"), user()];
        self.render_with(turns, vec![tool()], Map::new())
    }

    fn thinking(&self, source: &str, features: &mut Features) {
        let with = |name: &str, value: Json| {
            let extra = Map::from_iter([(name.to_owned(), value)]);
            self.render_with(vec![user()], Vec::new(), extra).ok()
        };
        features.thinking_switch = THINKING_SWITCHES.into_iter().find(|name| {
            source.contains(name) && with(name, json!(true)) != with(name, json!(false))
        });
        features.reads_reasoning_effort = source.contains("reasoning_effort")
            && with("reasoning_effort", json!("low")) != with("reasoning_effort", json!("high"));
        let tags = self.template.reasoning.unwrap_or_default();
        features.opens_thinking = self
            .render(vec![user()])
            .or_else(|_| self.render(vec![system(), user()]))
            .is_ok_and(|prompt| tags.left_open_by(&prompt));
    }
}

/// Whether a rendering with `content: null` can stand for one with an empty text.
fn null_is_as_good(
    null: &Result<String, TemplateError>,
    empty: &Result<String, TemplateError>,
) -> bool {
    match (null, empty) {
        (Ok(null), Ok(empty)) => ["None", "null"]
            .iter()
            .all(|word| null.matches(word).count() <= empty.matches(word).count()),
        (null, _) => null.is_ok(),
    }
}

fn tool() -> Json {
    json!({"type": "function", "function": {
        "name": TOOL,
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {KEY: {"type": "string", "description": "d"}},
            "required": [KEY],
        },
    }})
}

fn object() -> Json {
    json!({KEY: VALUE})
}

fn shows(output: &Result<String, TemplateError>, word: &str) -> bool {
    output.as_ref().is_ok_and(|text| text.contains(word))
}

fn user() -> Json {
    json!({"role": "user", "content": USER})
}

fn system() -> Json {
    json!({"role": "system", "content": SYSTEM})
}

fn assistant(content: &str) -> Json {
    json!({"role": "assistant", "content": content})
}

fn call(id: &str, arguments: Json, content: Json) -> Json {
    json!({"role": "assistant", "content": content, "tool_calls": [
        {"id": id, "type": "function", "function": {"name": TOOL, "arguments": arguments}},
    ]})
}
