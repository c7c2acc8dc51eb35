//! What engines say about their models. Pure.

use router::{Capability, Knowledge, Model, same_name};
use serde::Deserialize;
use serde_json::Value;

use crate::kind::Kind;

/// Models of one provider that are looked at; further ones are left out.
pub(crate) const MODELS_MAX: usize = 2_000;

/// The route that lists models, and one that tells more where the list says little.
pub(crate) struct Routes {
    pub(crate) list: Route,
    pub(crate) more: Option<Route>,
}

/// A route below the dialect's base address, or below the root of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Base(&'static str),
    Root(&'static str),
}

impl Routes {
    pub(crate) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::LlamaServer => Self {
                list: Route::Base("models"),
                more: Some(Route::Root("props")),
            },
            Kind::Ollama => Self {
                list: Route::Root("api/tags"),
                more: Some(Route::Root("api/ps")),
            },
            Kind::LmStudio => Self {
                list: Route::Root("api/v0/models"),
                more: None,
            },
            Kind::Sextant | Kind::Vllm | Kind::OpenAi => Self {
                list: Route::Base("models"),
                more: None,
            },
        }
    }
}

/// The models in the answers of both routes; `None` if the list is no list.
pub(crate) fn models(kind: Kind, list: &Value, more: Option<&Value>) -> Option<Vec<Model>> {
    let entries = list.get("data").or_else(|| list.get("models"))?;
    let entries = entries.as_array()?.iter().take(MODELS_MAX);
    let entries = entries.filter_map(|entry| Entry::deserialize(entry).ok());
    Some(
        entries
            .filter_map(|entry| model(kind, entry, more))
            .collect(),
    )
}

/// A model without anything known but its name.
pub(crate) fn named(kind: Kind, name: &str) -> Model {
    Model {
        name: name.to_owned(),
        is_loaded: true,
        context: None,
        capabilities: of_kind(kind),
    }
}

/// Takes the operator's word for it that some models see; `*` stands for all.
pub(crate) fn let_see(models: &mut [Model], seeing: &[String]) {
    for model in models {
        let is_it = |name: &String| name == "*" || same_name(name, &model.name);
        if seeing.iter().any(is_it) {
            know(model, Capability::Vision, true);
        }
    }
}

#[derive(Deserialize)]
struct Entry {
    id: Option<String>,
    name: Option<String>,
    state: Option<String>,
    owned_by: Option<String>,
    remote_host: Option<String>,
    #[serde(rename = "type")]
    model_type: Option<String>,
    loaded_context_length: Option<u32>,
    context_length: Option<u32>,
    max_model_len: Option<u32>,
    context_window: Option<u32>,
    #[serde(default)]
    capabilities: Value,
}

fn model(kind: Kind, entry: Entry, more: Option<&Value>) -> Option<Model> {
    // What another endpoint only sends on is listed by its owner: two that name each other
    // would list each other's lists.
    let is_own = entry
        .owned_by
        .as_deref()
        .is_none_or(|owner| owner == "sextant");
    if kind == Kind::Sextant && !is_own {
        return None;
    }
    let name = entry.id.or(entry.name).filter(|name| !name.is_empty())?;
    // Ollama sends these on to its makers, so they are not where it is.
    let is_sent_on =
        entry.remote_host.is_some() || name.ends_with("-cloud") || name.ends_with(":cloud");
    if kind == Kind::Ollama && is_sent_on {
        return None;
    }
    let mut model = named(kind, &name);
    let listed = entry.loaded_context_length.or(entry.context_length);
    model.context = listed.or(entry.max_model_len).or(entry.context_window);
    let state = entry.state.as_deref();
    model.is_loaded = matches!(state, None | Some("loaded" | "ready"));
    match kind {
        // An alias lists none: nobody knows yet which model will answer.
        Kind::Sextant if !words(&entry.capabilities).is_empty() => {
            let words = words(&entry.capabilities);
            let has = |names: &[&str]| words.iter().any(|word| names.contains(word));
            know(&mut model, Capability::Chat, has(&["chat"]));
            know(&mut model, Capability::Completion, has(&["completion"]));
            know(
                &mut model,
                Capability::Embeddings,
                has(&["embedding", "embeddings"]),
            );
            know(&mut model, Capability::Tools, has(&["tools"]));
            know(&mut model, Capability::Vision, has(&["vision"]));
        }
        Kind::LmStudio => {
            let words = words(&entry.capabilities);
            know(&mut model, Capability::Tools, words.contains(&"tool_use"));
            let model_type = entry.model_type.as_deref();
            let is_embedder = model_type == Some("embeddings");
            know(&mut model, Capability::Embeddings, is_embedder);
            know(&mut model, Capability::Chat, !is_embedder);
            know(&mut model, Capability::Completion, !is_embedder);
            know(&mut model, Capability::Vision, model_type == Some("vlm"));
        }
        Kind::LlamaServer => of_llama_server(&mut model, more),
        Kind::Ollama => {
            let running = more.and_then(|running| running.get("models")?.as_array());
            let is_it = |one: &&Value| one.get("name").and_then(Value::as_str) == Some(&*name);
            let running = running.and_then(|running| running.iter().find(is_it));
            model.is_loaded = running.is_some();
            let context = running.and_then(|running| running.get("context_length")?.as_u64());
            model.context = context.and_then(|context| u32::try_from(context).ok());
        }
        Kind::Sextant | Kind::Vllm | Kind::OpenAi => {}
    }
    Some(model)
}

/// What llama-server's `/props` tell of its model.
fn of_llama_server(model: &mut Model, props: Option<&Value>) {
    let settings = props.and_then(|props| props.get("default_generation_settings"));
    let context = settings.and_then(|settings| settings.get("n_ctx")?.as_u64());
    let context = context.and_then(|context| u32::try_from(context).ok());
    model.context = context.or(model.context);
    let vision = props.and_then(|props| props.get("modalities")?.get("vision")?.as_bool());
    if let Some(vision) = vision {
        know(model, Capability::Vision, vision);
    }
    // With a template that knows no tools it leaves them out without a word.
    let caps = props.and_then(|props| props.get("chat_template_caps"));
    if let Some(tools) = caps.and_then(|caps| caps.get("supports_tools")?.as_bool()) {
        know(model, Capability::Tools, tools);
    }
}

/// Names in a list of capabilities.
fn words(capabilities: &Value) -> Vec<&str> {
    let words = capabilities.as_array().into_iter().flatten();
    words.filter_map(Value::as_str).collect()
}

fn know(model: &mut Model, capability: Capability, has: bool) {
    let knowledge = match has {
        true => Knowledge::Has,
        false => Knowledge::Lacks,
    };
    model.capabilities.retain(|(known, _)| *known != capability);
    model.capabilities.push((capability, knowledge));
}

/// What holds for every model of a kind of engine.
fn of_kind(kind: Kind) -> Vec<(Capability, Knowledge)> {
    let constrains = kind != Kind::OpenAi;
    let mut known = vec![
        // What the adapter itself does not pass on.
        (Capability::Tokens, Knowledge::Lacks),
    ];
    if constrains {
        known.push((Capability::JsonSchema, Knowledge::Has));
    }
    if kind == Kind::Sextant {
        known.push((Capability::Grammar, Knowledge::Has));
    } else if kind != Kind::LlamaServer {
        known.push((Capability::Grammar, Knowledge::Lacks));
    }
    if matches!(kind, Kind::Sextant | Kind::LlamaServer | Kind::Vllm) {
        known.push((Capability::Logprobs, Knowledge::Has));
    }
    // Services differ in this, and none of them says so.
    let continues = !matches!(kind, Kind::LmStudio | Kind::OpenAi);
    known.push((
        Capability::Continuation,
        match continues {
            true => Knowledge::Has,
            false => Knowledge::Lacks,
        },
    ));
    known
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(kind: Kind, list: Value, more: Option<Value>) -> Model {
        let mut models = models(kind, &list, more.as_ref()).unwrap();
        assert_eq!(models.len(), 1);
        models.remove(0)
    }

    #[test]
    fn each_kind_is_read() {
        let ours = one(
            Kind::Sextant,
            json!({ "object": "list", "data": [{
                "id": "smol", "state": "ready", "context_length": 4096,
                "capabilities": ["chat", "completion"],
            }] }),
            None,
        );
        assert_eq!((ours.context, ours.is_loaded), (Some(4096), true));
        assert_eq!(ours.knowledge(Capability::Chat), Some(Knowledge::Has));
        assert_eq!(ours.knowledge(Capability::Tools), Some(Knowledge::Lacks));

        let llama = one(
            Kind::LlamaServer,
            json!({ "data": [{ "id": "m.gguf", "meta": { "n_ctx_train": 8192 } }] }),
            Some(json!({
                "default_generation_settings": { "n_ctx": 2048 },
                "modalities": { "vision": false },
                "chat_template_caps": { "supports_tools": false },
            })),
        );
        assert_eq!(llama.context, Some(2048));
        assert_eq!(llama.knowledge(Capability::Tools), Some(Knowledge::Lacks));
        assert_eq!(llama.knowledge(Capability::Vision), Some(Knowledge::Lacks));

        let ollama = one(
            Kind::Ollama,
            json!({ "models": [{ "name": "qwen3:4b", "model": "qwen3:4b" }] }),
            Some(json!({ "models": [{ "name": "qwen3:4b", "context_length": 8192 }] })),
        );
        assert_eq!((ollama.context, ollama.is_loaded), (Some(8192), true));

        let theirs = json!({ "data": [
            { "id": "smol", "owned_by": "sextant" },
            { "id": "cloud:big", "owned_by": "cloud" },
        ] });
        assert_eq!(models(Kind::Sextant, &theirs, None).unwrap().len(), 1);
        let sent_on = json!({ "models": [
            { "name": "gpt-oss:120b-cloud" },
            { "name": "odd", "remote_host": "https://ollama.com" },
        ] });
        assert_eq!(models(Kind::Ollama, &sent_on, None).unwrap(), []);

        let studio = one(
            Kind::LmStudio,
            json!({ "data": [{
                "id": "nomic", "type": "embeddings", "state": "not-loaded",
                "max_context_length": 2048,
            }] }),
            None,
        );
        assert!(!studio.is_loaded);
        assert_eq!(studio.knowledge(Capability::Chat), Some(Knowledge::Lacks));

        assert_eq!(studio.knowledge(Capability::Vision), Some(Knowledge::Lacks));

        let vllm = one(
            Kind::Vllm,
            json!({ "data": [{ "id": "q", "max_model_len": 32768 }] }),
            None,
        );
        assert_eq!(vllm.context, Some(32768));
        assert_eq!(vllm.knowledge(Capability::Vision), None);
        assert!(models(Kind::OpenAi, &json!({ "error": "no" }), None).is_none());
    }

    #[test]
    fn the_operator_knows_who_sees() {
        let sees = |names: &[&str]| {
            let mut models = vec![named(Kind::Ollama, "a:latest"), named(Kind::Ollama, "b")];
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let_see(&mut models, &names);
            let sees = |model: &Model| model.knowledge(Capability::Vision) == Some(Knowledge::Has);
            models.iter().map(sees).collect::<Vec<_>>()
        };
        assert_eq!(sees(&["a"]), [true, false]);
        assert_eq!(sees(&["*"]), [true, true]);
        assert_eq!(sees(&[]), [false, false]);
    }
}
