//! Models on the wire.

use std::hash::{DefaultHasher, Hash, Hasher};

use proto::ModelFacts;
use serde::Serialize;
use supervisor::{ModelPhase, ModelStatus, ModelTraits};
use utoipa::ToSchema;

use crate::dispatch::RoutedModel;

/// Answer of `GET /v1/models`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`
    pub(crate) object: &'static str,
    pub(crate) data: Vec<ModelEntry>,
    /// The same models in the form Codex looks for.
    pub(crate) models: Vec<CodexModel>,
}

/// One model in OpenAI's form, with extras.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelEntry {
    id: String,
    /// `model`
    object: &'static str,
    created: u64,
    /// `sextant`, or the name of the provider.
    owned_by: String,
    /// `starting`, `loading`, `ready`, `restarting`, `draining`, `failed` or `unloaded`
    state: &'static str,
    /// Whether it is in memory. One that is not is loaded by a request for it.
    loaded: bool,
    /// Most tokens of one request, prompt and answer together; null until loaded.
    context_length: Option<u32>,
    /// vLLM's name for `context_length`.
    max_model_len: Option<u32>,
    /// What the model was trained for.
    context_train: Option<u32>,
    /// Any of `chat`, `completion`, `embedding`, `tools`, `reasoning`.
    capabilities: Vec<&'static str>,
    modalities: Vec<&'static str>,
    description: Option<String>,
}

/// What Codex reads of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CodexModel {
    slug: String,
    display_name: String,
    description: Option<String>,
    context_window: Option<u32>,
    supported_in_api: bool,
    /// `list`
    visibility: &'static str,
    priority: u32,
    supports_parallel_tool_calls: bool,
}

impl ModelList {
    pub(crate) fn new(models: &[ModelStatus], created: u64) -> Self {
        Self {
            object: "list",
            data: models
                .iter()
                .map(|model| ModelEntry::new(model, created))
                .collect(),
            models: models.iter().map(CodexModel::new).collect(),
        }
    }
}

impl ModelList {
    /// Adds what other providers have.
    pub(crate) fn add_routed(&mut self, models: &[RoutedModel], created: u64) {
        let entries = models
            .iter()
            .map(|model| ModelEntry::routed(model, created));
        self.data.extend(entries);
        self.models.extend(models.iter().map(CodexModel::routed));
    }
}

impl ModelEntry {
    pub(crate) fn routed(model: &RoutedModel, created: u64) -> Self {
        Self {
            id: model.id.clone(),
            object: "model",
            created,
            owned_by: model.provider.clone(),
            state: match model.is_loaded {
                true => "ready",
                false => "unloaded",
            },
            loaded: model.is_loaded,
            context_length: model.context,
            max_model_len: model.context,
            context_train: None,
            capabilities: model.capabilities.clone(),
            modalities: vec!["text"],
            description: None,
        }
    }

    pub(crate) fn new(model: &ModelStatus, created: u64) -> Self {
        let facts = facts(model);
        let context = facts.map(|facts| facts.context);
        Self {
            id: model.name.clone(),
            object: "model",
            created,
            owned_by: "sextant".to_owned(),
            state: model.phase.word(),
            loaded: facts.is_some(),
            context_length: context,
            max_model_len: context,
            context_train: match facts {
                Some(facts) => Some(facts.context_train),
                None => model.place.traits.context_train,
            },
            capabilities: match facts {
                Some(facts) => capabilities(facts),
                None => expected(&model.place.traits),
            },
            modalities: vec!["text"],
            description: facts.map(|facts| facts.description.clone()),
        }
    }
}

impl CodexModel {
    fn routed(model: &RoutedModel) -> Self {
        Self {
            slug: model.id.clone(),
            display_name: model.id.clone(),
            description: None,
            context_window: model.context,
            supported_in_api: true,
            visibility: "list",
            priority: 1,
            supports_parallel_tool_calls: model.capabilities.contains(&"tools"),
        }
    }

    fn new(model: &ModelStatus) -> Self {
        let facts = facts(model);
        Self {
            slug: model.name.clone(),
            display_name: model.name.clone(),
            description: facts.map(|facts| facts.description.clone()),
            context_window: facts.map(|facts| facts.context),
            supported_in_api: true,
            visibility: "list",
            priority: 0,
            supports_parallel_tool_calls: facts.is_none_or(can_call_tools),
        }
    }
}

/// What is known of a model that is ready.
pub(crate) fn facts(model: &ModelStatus) -> Option<&ModelFacts> {
    match &model.phase {
        ModelPhase::Ready(facts) => Some(facts),
        _ => None,
    }
}

fn capabilities(facts: &ModelFacts) -> Vec<&'static str> {
    let all = [
        ("chat", can_chat(facts)),
        ("completion", facts.can_complete),
        ("embedding", facts.can_embed),
        ("tools", can_call_tools(facts)),
        ("reasoning", facts.can_reason),
    ];
    all.into_iter()
        .filter(|(_, can)| *can)
        .map(|(name, _)| name)
        .collect()
}

/// The capabilities of a model that is not in memory, as its file tells them.
fn expected(traits: &ModelTraits) -> Vec<&'static str> {
    let all = [
        ("chat", traits.can_chat),
        ("completion", traits.can_complete),
        ("embedding", traits.can_embed),
        ("tools", traits.can_call_tools),
    ];
    let has = all.into_iter().filter(|(_, can)| *can);
    has.map(|(name, _)| name).collect()
}

/// A model without a chat template of its own answers a chat all the same, through
/// `ChatML`, but it was not trained to.
fn can_chat(facts: &ModelFacts) -> bool {
    facts.can_chat && facts.own_template
}

pub(crate) fn can_call_tools(facts: &ModelFacts) -> bool {
    can_chat(facts) && !facts.tool_format.is_empty()
}

/// Changes whenever the same seed may give another answer: other weights, other
/// kernels, other cache types.
pub(crate) fn fingerprint(facts: &ModelFacts) -> String {
    let mut hasher = DefaultHasher::new();
    (
        &facts.path,
        facts.weights_bytes,
        &facts.llama_version,
        &facts.kernels,
    )
        .hash(&mut hasher);
    (&facts.kv_type_k, &facts.kv_type_v, facts.flash_attention).hash(&mut hasher);
    for layer in &facts.kv_layers {
        (layer.layer, &layer.keys, &layer.values).hash(&mut hasher);
    }
    (facts.context, facts.batch, facts.ubatch, facts.gpu_layers).hash(&mut hasher);
    format!("fp_{:016x}", hasher.finish())
}
