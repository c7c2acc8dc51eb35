//! Models on the wire: `/api/tags`, `/api/ps` and `/api/show`.
//!
//! In these lists a name without a tag has `:latest` added, since some clients add it
//! to whatever they send and then look it up in what was listed. Requests may spell it
//! either way.

use std::hash::{DefaultHasher, Hash, Hasher};

use proto::ModelFacts;
use router::LATEST;
use serde::Serialize;
use serde_json::{Map, Value, json};
use stdx::rfc3339;
use supervisor::ModelStatus;
use utoipa::ToSchema;

use crate::library::StoredModel;
use crate::wire::openai::models::{can_call_tools, facts};

/// When a model that stays loaded goes. Ollama's own client calls anything more than 20
/// years ahead "Forever", and counts nanoseconds in 64 bits, which end in 2262.
const NEVER: &str = "2200-01-01T00:00:00Z";

/// Answer of `GET /api/version`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaVersion {
    /// The release of Ollama whose API this follows.
    pub(crate) version: &'static str,
    /// The version of this program.
    pub(crate) sextant: &'static str,
}

/// Answer of `GET /api/tags`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaTags {
    pub(crate) models: Vec<OllamaTag>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaTag {
    /// With a tag.
    name: String,
    /// The same.
    model: String,
    /// RFC 3339; when the file was pulled, else when this program started.
    modified_at: String,
    /// Bytes of the file.
    size: u64,
    /// SHA-256 of the file where it is known, else 64 digits that belong to this file
    /// alone.
    digest: String,
    details: OllamaDetails,
}

/// Answer of `GET /api/ps`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaRunning {
    pub(crate) models: Vec<OllamaProcess>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaProcess {
    /// With a tag.
    name: String,
    /// The same.
    model: String,
    /// Bytes of weights and KV cache.
    size: u64,
    digest: String,
    details: OllamaDetails,
    /// RFC 3339; far ahead where it stays until memory is needed for another.
    expires_at: String,
    /// Bytes of `size` on an accelerator, by the share of layers there.
    size_vram: u64,
    /// Most tokens of one request.
    context_length: u32,
}

/// What a list says of a model. Texts are empty where nothing is known.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct OllamaDetails {
    parent_model: &'static str,
    /// `gguf`
    format: &'static str,
    /// The architecture.
    family: String,
    families: Vec<String>,
    /// For example `134.52M`.
    parameter_size: String,
    /// For example `Q4_K_M`.
    quantization_level: String,
}

/// Answer of `POST /api/show`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaShow {
    modelfile: String,
    /// A line a parameter.
    parameters: String,
    /// The chat template, in Jinja.
    template: String,
    details: OllamaDetails,
    /// Figures under the names of GGUF metadata. The context length is the one in force.
    #[schema(value_type = Object)]
    model_info: Map<String, Value>,
    /// Any of `completion`, `tools`, `thinking`, `embedding`.
    capabilities: Vec<&'static str>,
    /// RFC 3339
    modified_at: String,
}

impl OllamaTag {
    /// `stored` is what the library knows of the file, `started` when this program did.
    pub(crate) fn new(model: &ModelStatus, stored: Option<&StoredModel>, started: u64) -> Self {
        let name = tagged(&model.name);
        let bytes = facts(model).map(|facts| facts.weights_bytes);
        Self {
            model: name.clone(),
            name,
            modified_at: modified_at(stored, started),
            size: stored.map(|stored| stored.bytes).or(bytes).unwrap_or(0),
            digest: digest(model, stored),
            details: OllamaDetails::new(facts(model), stored),
        }
    }
}

impl OllamaProcess {
    pub(crate) fn new(
        model: &ModelStatus,
        facts: &ModelFacts,
        stored: Option<&StoredModel>,
        now: u64,
    ) -> Self {
        let name = tagged(&model.name);
        let expires_in_ms = model.place.expires_in_ms;
        let size = facts.weights_bytes.saturating_add(facts.kv_bytes);
        let layers = facts.n_layer.max(1);
        let on_accelerator = f64::from(facts.gpu_layers.min(layers)) / f64::from(layers);
        Self {
            model: name.clone(),
            name,
            size,
            digest: digest(model, stored),
            details: OllamaDetails::new(Some(facts), stored),
            expires_at: expires_in_ms.map_or_else(
                || NEVER.to_owned(),
                |ms| rfc3339(now.saturating_add(ms.div_ceil(1000))),
            ),
            size_vram: (size as f64 * on_accelerator) as u64,
            context_length: facts.context,
        }
    }
}

impl OllamaDetails {
    fn new(facts: Option<&ModelFacts>, stored: Option<&StoredModel>) -> Self {
        let from_facts = facts.map(|facts| Self {
            family: facts.architecture.clone(),
            parameter_size: in_short(facts.n_params),
            quantization_level: quantisation(&facts.description),
            ..Self::default()
        });
        let mut details = from_facts.unwrap_or_default();
        details.format = "gguf";
        if let Some(stored) = stored {
            let known = [
                (&mut details.family, &stored.architecture),
                (&mut details.quantization_level, &stored.quant),
            ];
            for (text, known) in known {
                if let Some(known) = known {
                    text.clone_from(known);
                }
            }
            if let Some(n) = stored.n_parameters.filter(|_| facts.is_none()) {
                details.parameter_size = in_short(n);
            }
        }
        details.families = match details.family.is_empty() {
            true => Vec::new(),
            false => vec![details.family.clone()],
        };
        details
    }
}

impl OllamaShow {
    pub(crate) fn new(facts: &ModelFacts, stored: Option<&StoredModel>, started: u64) -> Self {
        let parameters = parameters(facts);
        let in_file = parameters
            .each_ref()
            .map(|(name, value)| format!("PARAMETER {name} {value}\n"));
        let in_columns = parameters.map(|(name, value)| format!("{name:<30} {value}"));
        Self {
            modelfile: format!("FROM {}\n{}", facts.path.display(), in_file.concat()),
            parameters: in_columns.join("\n"),
            template: facts.chat_template.clone().unwrap_or_default(),
            details: OllamaDetails::new(Some(facts), stored),
            model_info: model_info(facts),
            capabilities: capabilities(facts),
            modified_at: modified_at(stored, started),
        }
    }
}

impl OllamaShow {
    /// Of a model that is not in memory, as its file tells it.
    pub(crate) fn unloaded(
        model: &ModelStatus,
        stored: Option<&StoredModel>,
        started: u64,
    ) -> Self {
        let traits = &model.place.traits;
        let facts = ModelFacts {
            architecture: traits.architecture.clone().unwrap_or_default(),
            n_params: traits.n_params,
            context: traits.context.unwrap_or_default(),
            ..ModelFacts::default()
        };
        let capabilities = [
            ("completion", traits.can_complete),
            ("tools", traits.can_call_tools),
            ("embedding", traits.can_embed),
        ];
        let mut details = OllamaDetails::new(Some(&facts), stored);
        if let Some(quant) = &traits.quant {
            details.quantization_level.clone_from(quant);
        }
        let mut model_info = model_info(&facts);
        // Of the others nothing is known.
        model_info.retain(|_, value| value.as_u64() != Some(0));
        Self {
            modelfile: format!("FROM {}\n", model.spec.path.display()),
            parameters: String::new(),
            template: String::new(),
            details,
            model_info,
            capabilities: capabilities
                .into_iter()
                .filter(|(_, can)| *can)
                .map(|(name, _)| name)
                .collect(),
            modified_at: modified_at(stored, started),
        }
    }
}

/// The name as Ollama's lists have it.
pub(crate) fn tagged(name: &str) -> String {
    match name.contains(':') {
        true => name.to_owned(),
        false => format!("{name}{LATEST}"),
    }
}

fn modified_at(stored: Option<&StoredModel>, started: u64) -> String {
    let pulled = stored.and_then(|stored| stored.pulled_unix_s);
    rfc3339(pulled.unwrap_or(started))
}

/// Clients show the first twelve digits, and tell models apart by it; so where no checksum
/// is known, something stands in for it that changes with path and size.
fn digest(model: &ModelStatus, stored: Option<&StoredModel>) -> String {
    if let Some(sha256) = stored.and_then(|stored| stored.sha256.as_ref()) {
        return sha256.clone();
    }
    let bytes = facts(model).map(|facts| facts.weights_bytes);
    stand_in(&(&model.spec.path, bytes))
}

/// As many digits as a SHA-256 has, the same for the same `value`.
pub(crate) fn stand_in(value: &impl Hash) -> String {
    let sixteen_digits = |index: u8| {
        let mut hasher = DefaultHasher::new();
        (value, index).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    (0..4).map(sixteen_digits).collect()
}

/// 134515008 as `134.52M`, in the steps in which Ollama counts; 0 is not known.
fn in_short(n: u64) -> String {
    match n {
        0 => String::new(),
        1..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.0}K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", n as f64 / 1e6),
        _ => format!("{:.1}B", n as f64 / 1e9),
    }
}

/// The quantisation at the end of an engine's description: `llama 8B Q4_K - Medium` is
/// `Q4_K_M`.
fn quantisation(description: &str) -> String {
    let rest = description.splitn(3, ' ').nth(2).unwrap_or_default();
    let rest = rest.trim_start_matches("(guessed) ");
    let rest = rest.trim_start_matches("all ");
    let (kind, size) = rest.split_once(" - ").unwrap_or((rest, ""));
    match size {
        "Small" => format!("{kind}_S"),
        "Medium" => format!("{kind}_M"),
        "Large" => format!("{kind}_L"),
        // Bits per weight.
        _ => kind.to_owned(),
    }
}

/// What a request that sets nothing gets.
fn parameters(facts: &ModelFacts) -> [(&'static str, String); 7] {
    let sampling = &facts.sampling;
    [
        ("num_ctx", facts.context.to_string()),
        ("temperature", sampling.temperature.to_string()),
        ("top_k", sampling.top_k.to_string()),
        ("top_p", sampling.top_p.to_string()),
        ("min_p", sampling.min_p.to_string()),
        ("repeat_penalty", sampling.repeat_penalty.to_string()),
        ("repeat_last_n", sampling.repeat_last_n.to_string()),
    ]
}

fn model_info(facts: &ModelFacts) -> Map<String, Value> {
    let architecture = &facts.architecture;
    let general = [
        ("general.architecture".to_owned(), json!(architecture)),
        ("general.parameter_count".to_owned(), json!(facts.n_params)),
    ];
    let own = [
        ("context_length", facts.context),
        ("embedding_length", facts.n_embd),
        ("block_count", facts.n_layer),
        ("vocab_size", facts.n_vocab),
    ];
    let own = own.map(|(name, value)| (format!("{architecture}.{name}"), json!(value)));
    general.into_iter().chain(own).collect()
}

fn capabilities(facts: &ModelFacts) -> Vec<&'static str> {
    let all = [
        ("completion", facts.can_chat || facts.can_complete),
        ("tools", can_call_tools(facts)),
        ("thinking", facts.can_reason),
        ("embedding", facts.can_embed),
    ];
    all.into_iter()
        .filter(|(_, can)| *can)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_but_for_the_latest_tag() {
        assert_eq!(tagged("tiny"), "tiny:latest");
        assert_eq!(tagged("org/tiny:Q4_0"), "org/tiny:Q4_0");
        for (one, other, same) in [
            ("tiny", "tiny", true),
            ("tiny", "tiny:latest", true),
            ("tiny:latest", "tiny", true),
            ("tiny", "tiny:135m", false),
            ("tiny:latest", "tiny:135m", false),
            ("tiny", "tin", false),
        ] {
            assert_eq!(router::same_name(one, other), same, "{one} {other}");
        }
    }

    #[test]
    fn sizes_and_quantisations_are_written_as_ollama_does() {
        for (n, text) in [
            (999, "999"),
            (50_000, "50K"),
            (134_515_008, "134.52M"),
            (8_030_261_248, "8.0B"),
        ] {
            assert_eq!(in_short(n), text);
        }
        for (description, text) in [
            ("llama 135M Q4_1", "Q4_1"),
            ("llama 8B Q4_K - Medium", "Q4_K_M"),
            ("qwen3moe 30B.A3B (guessed) Q5_K - Small", "Q5_K_S"),
            ("gemma3 270M all F32", "F32"),
            ("llama 1B IQ4_NL - 4.5 bpw", "IQ4_NL"),
            ("llama", ""),
            ("", ""),
        ] {
            assert_eq!(quantisation(description), text, "{description}");
        }
    }
}
