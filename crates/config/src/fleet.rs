//! The tables of the configuration file: providers and how requests go to them.
//!
//! They have names of the operator's choosing and lists, which no flag or variable could
//! hold, so they are read from the file alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use stdx::{Cost, Secret};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::raw::Source;

/// The keys of the file that are no settings but tables of this module.
pub(crate) const TABLES: [&str; 3] = ["models", "providers", "routing"];

/// Providers and routing, as the file says; words are not checked yet.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct FleetTables {
    pub models: Vec<ModelTable>,
    pub providers: Vec<ProviderTable>,
    pub routing: RoutingTable,
}

/// `[[models]]`: a model that may be loaded on demand, with settings of its own.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ModelTable {
    /// What requests call it.
    pub name: String,
    /// Which model: a name as `sextant ls` shows it, or a path; left out: `name`.
    pub model: Option<String>,
    /// Further names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Once in memory it stays there.
    #[serde(default)]
    pub pin: bool,
    /// How long it stays without a request; 0: until memory is needed for another.
    pub keep_alive_secs: Option<u64>,
    /// The model that this one is for. It is never taken out of memory for this one.
    pub helps: Option<String>,
    /// Engine settings, in place of those for all models.
    #[serde(flatten)]
    pub settings: BTreeMap<String, toml::Value>,
}

/// `[[providers]]`: an engine that somebody else runs, or a llama-server that we run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderTable {
    /// Where it stands: file and line.
    #[serde(skip)]
    pub place: String,
    /// What requests call it: `NAME:MODEL`.
    pub name: String,
    /// `sextant`, `llama-server`, `ollama`, `vllm`, `lm-studio` or `openai`.
    pub kind: String,
    /// Where it is, with or without `/v1`; this or `command`.
    pub url: Option<String>,
    /// How it is started, program and arguments: then we run it. For `llama-server` only.
    pub command: Option<Vec<SecretText>>,
    /// When `command` is started: `on_demand` or `always`.
    pub start: Option<String>,
    /// How long it may be without a request before it is stopped; 0: for ever.
    pub idle_timeout_secs: Option<u64>,
    /// How long it may take until it answers.
    pub start_timeout_secs: Option<u64>,
    /// Further variables of its environment.
    #[serde(default)]
    pub env: BTreeMap<String, SecretText>,
    /// The environment variable that holds its key.
    pub key_env: Option<String>,
    /// The file whose first line is its key.
    pub key_file: Option<PathBuf>,
    /// Further headers of each request.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretText>,
    /// The smaller is tried first.
    #[serde(default = "default_priority")]
    pub priority: u32,
    /// Its share among providers of the same priority; 0 takes no new conversations.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// `device`, `lan` or `cloud`; left out: as the address says.
    pub reach: Option<String>,
    /// Requests it is given at once.
    #[serde(default = "default_requests_max")]
    pub requests_max: u32,
    /// What answers where no model is named.
    pub default_model: Option<String>,
    /// The models that are used of it; left out: all it lists.
    #[serde(default)]
    pub models: Vec<String>,
    /// Models that see images, where the engine does not say so; `*` stands for all.
    #[serde(default)]
    pub vision: Vec<String>,
    /// Whether answers are asked for as streams also where they are shown whole; left out:
    /// of all but services on the internet (`openai`).
    pub stream_always: Option<bool>,
    /// What its tokens cost; left out: nothing.
    #[serde(default)]
    pub cost_per_million: PriceTable,
    /// What the tokens of single models cost, where that differs.
    #[serde(default)]
    pub model_cost_per_million: BTreeMap<String, PriceTable>,
    #[serde(default = "default_connect")]
    pub connect_timeout_secs: u64,
    /// From the request to the first text; prompts take minutes on small boards.
    #[serde(default = "default_first_token")]
    pub first_token_timeout_secs: u64,
    /// Without a byte.
    #[serde(default = "default_silence")]
    pub silence_timeout_secs: u64,
}

impl FleetTables {
    /// Says of each table where it stands.
    pub(crate) fn locate(&mut self, file: &DeTable<'_>, at: &impl Fn(usize) -> Source) {
        let place = |value: &Spanned<DeValue<'_>>| at(value.span().start).to_string();
        let items = |value: Option<&Spanned<DeValue<'_>>>| match value.map(Spanned::get_ref) {
            Some(DeValue::Array(items)) => items.iter().map(place).collect(),
            _ => Vec::new(),
        };
        let places = items(file.get("providers"));
        for (provider, place) in self.providers.iter_mut().zip(places) {
            provider.place = place;
        }
        let Some(routing) = file.get("routing") else {
            return;
        };
        self.routing.place = place(routing);
        let DeValue::Table(routing) = routing.get_ref() else {
            return;
        };
        for (key, value) in routing {
            let places = &mut self.routing.places;
            let name = key.get_ref();
            places.insert(name.to_string(), at(key.span().start).to_string());
            let DeValue::Table(entries) = value.get_ref() else {
                continue;
            };
            for entry in entries.keys() {
                let path = format!("{name}.{}", entry.get_ref());
                places.insert(path, at(entry.span().start).to_string());
            }
        }
        let places = items(routing.get("rules"));
        for (rule, place) in self.routing.rules.iter_mut().zip(places) {
            rule.place = place;
        }
    }
}

/// What a million tokens cost, in whatever currency the operator counts in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriceTable {
    pub prompt: Amount,
    pub completion: Amount,
}

/// An amount of money, as a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Amount(pub Cost);

impl TryFrom<f64> for Amount {
    type Error = stdx::NoAmount;

    fn try_from(number: f64) -> Result<Self, stdx::NoAmount> {
        // As it is written, so that 0.15 is exactly that.
        number.to_string().parse().map(Self)
    }
}

/// A text that may be a secret: the value of a header or a variable, a part of a command.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "String")]
pub struct SecretText(pub Secret);

impl From<String> for SecretText {
    fn from(value: String) -> Self {
        Self(Secret::new(value))
    }
}

/// `[routing]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingTable {
    /// Where it stands: file and line.
    #[serde(skip)]
    pub place: String,
    /// Where its keys stand, and those of its tables (`aliases.NAME`).
    #[serde(skip)]
    pub places: BTreeMap<String, String>,
    /// How far requests travel that say nothing of it: `local_only`, `lan_only` or `any`.
    pub privacy: Option<String>,
    /// How far requests with images travel; left out: as far as the strictest rule allows.
    pub image_privacy: Option<String>,
    /// What `auto` means, in order.
    pub auto: Vec<String>,
    /// What answers where the model that was named cannot, in order.
    pub fallback: Vec<String>,
    /// The place of the models of this process among the providers.
    pub embedded_priority: Option<u32>,
    /// How long a request waits for a place at a provider that is full.
    pub queue_timeout_secs: Option<u64>,
    /// After so long without a text the next provider is asked too; left out: never.
    pub hedge_after_ms: Option<u64>,
    /// Whether an answer that breaks off is continued by the next provider, where the request
    /// does not say.
    pub continue_streams: Option<bool>,
    /// Names that stand for others, in order.
    pub aliases: BTreeMap<String, Vec<String>>,
    /// What `auto:TASK` means, in order.
    pub tasks: BTreeMap<String, Vec<String>>,
    /// How far the requests for a model or an alias may travel.
    pub model_privacy: BTreeMap<String, String>,
    pub rules: Vec<RuleTable>,
}

/// `[[routing.rules]]`: a request whose text matches travels no farther than `privacy`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleTable {
    /// Where it stands: file and line.
    #[serde(skip)]
    pub place: String,
    pub name: String,
    /// Regular expressions, or `secrets` or `pii`.
    pub patterns: Vec<String>,
    pub privacy: String,
}

impl RoutingTable {
    /// Where a key stands: file and line; that of the whole table where nobody knows.
    #[must_use]
    pub fn place_of(&self, key: &str) -> &str {
        self.places.get(key).unwrap_or(&self.place)
    }
}

impl ProviderTable {
    /// The settings of an engine that we run, as far as they are there.
    #[must_use]
    pub fn settings_of_command(&self) -> Vec<&'static str> {
        let given = [
            ("start", self.start.is_some()),
            ("idle_timeout_secs", self.idle_timeout_secs.is_some()),
            ("start_timeout_secs", self.start_timeout_secs.is_some()),
            ("env", !self.env.is_empty()),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given);
        given.map(|(name, _)| name).collect()
    }
}

const fn default_priority() -> u32 {
    100
}

const fn default_weight() -> u32 {
    100
}

const fn default_requests_max() -> u32 {
    16
}

const fn default_connect() -> u64 {
    5
}

const fn default_first_token() -> u64 {
    600
}

const fn default_silence() -> u64 {
    60
}
