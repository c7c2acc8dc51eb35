//! Decisions and providers on the wire.

use providers::discover::Found;
use providers::{ProcessStatus, Provider as Engine};
use router::{Availability, Decision, Provider, Route};
use serde::Serialize;
use utoipa::ToSchema;

/// Where a request goes, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireDecision<'a> {
    /// How the request's `model` was read: `explicit`, `alias`, `task`, `name` or `auto`.
    route: &'static str,
    /// The same in words.
    because: String,
    privacy: WirePrivacy,
    /// In the order in which they are tried; nobody where it is empty.
    candidates: Vec<WireCandidate<'a>>,
    excluded: Vec<WireExcluded<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WirePrivacy {
    /// `local_only`, `lan_only` or `any`
    label: &'static str,
    /// Who says so.
    because: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireCandidate<'a> {
    provider: &'a str,
    model: &'a str,
    /// `device`, `lan` or `cloud`
    reach: &'static str,
    /// Its place in the route's list, from 0.
    rank: usize,
    /// What puts it before the next candidate, in a word.
    ahead: Option<&'static str>,
    /// The same in words.
    because: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireExcluded<'a> {
    provider: &'a str,
    model: Option<&'a str>,
    /// Why, in a word.
    reason: &'static str,
    /// The same in words.
    because: String,
}

impl<'a> From<&'a Decision> for WireDecision<'a> {
    fn from(decision: &'a Decision) -> Self {
        let candidates = decision.candidates.iter().map(|candidate| WireCandidate {
            provider: &candidate.target.provider,
            model: &candidate.target.model,
            reach: candidate.reach.word(),
            rank: candidate.rank,
            ahead: candidate.ahead.map(router::Advantage::word),
            because: candidate.ahead.map(router::Advantage::sentence),
        });
        let excluded = decision.excluded.iter().map(|one| WireExcluded {
            provider: &one.provider,
            model: one.model.as_deref(),
            reason: one.reason.word(),
            because: one.reason.to_string(),
        });
        Self {
            route: match decision.route {
                Route::Explicit => "explicit",
                Route::Alias(_) => "alias",
                Route::Task(_) => "task",
                Route::Name(_) => "name",
                Route::Auto => "auto",
            },
            because: decision.route.to_string(),
            privacy: WirePrivacy {
                label: decision.limit.reach.label(),
                because: decision.limit.bound.to_string(),
            },
            candidates: candidates.collect(),
            excluded: excluded.collect(),
        }
    }
}

/// A provider as it is now.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireProvider {
    name: String,
    /// `device`, `lan` or `cloud`
    reach: &'static str,
    priority: u32,
    weight: u32,
    /// `up`, `unknown`, `down`, `broken` or `cooling`
    state: &'static str,
    /// Why it cannot be asked.
    cause: Option<String>,
    /// Seconds until it may be asked again.
    pause_s: Option<f64>,
    running: u32,
    running_max: u32,
    /// A running mean.
    ttft_ms: Option<f64>,
    default_model: Option<String>,
    models: Vec<WireModel>,
    /// It is an endpoint of Sextant's, and the workbench can show it (`/hosts/{name}/`).
    is_host: bool,
    /// Of an engine that we run.
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<WireProcess>,
}

/// A process that we run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireProcess {
    /// `stopped`, `starting`, `up`, `stopping`, `backoff` or `failed`
    phase: &'static str,
    pid: Option<u32>,
    /// Starts after a crash.
    restarts: u32,
    /// The effective command line; secrets show as `****`. Only for the scope `admin`, as is
    /// what follows: an engine may log what it is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    /// Why it last ended without being told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// The last lines that it wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Vec<String>>,
}

impl WireProcess {
    fn new(status: ProcessStatus, sight: Sight) -> Self {
        let all = sight == Sight::All;
        Self {
            phase: status.phase,
            pid: status.pid,
            restarts: status.restarts,
            command: all.then_some(status.command),
            last_error: status.last_error.filter(|_| all),
            log: all.then_some(status.log),
        }
    }
}

/// How much of a process is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// How it does.
    Health,
    All,
}

/// An engine that runs on this machine and is not in use.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireFound {
    /// What it is: `Ollama`, `llama-server`, `vLLM`, ...
    product: &'static str,
    /// The `kind` of a provider that is one.
    kind: &'static str,
    /// A name for it.
    name: &'static str,
    url: String,
    version: Option<String>,
    /// It wants a key, so its models are not known.
    needs_key: bool,
    models: Vec<WireModel>,
}

impl From<&Found> for WireFound {
    fn from(found: &Found) -> Self {
        Self {
            product: found.product.name(),
            kind: found.product.kind().word(),
            name: found.product.word(),
            url: found.url.clone(),
            version: found.version.clone(),
            needs_key: found.needs_key,
            models: found.models.iter().map(WireModel::from).collect(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WireModel {
    name: String,
    loaded: bool,
    /// Tokens.
    context: Option<u32>,
    /// What it is known to do.
    has: Vec<&'static str>,
    /// What it is known not to do.
    lacks: Vec<&'static str>,
}

impl WireProvider {
    pub(crate) fn new(provider: &Provider, engine: Option<&dyn Engine>, sight: Sight) -> Self {
        let process = engine.and_then(Engine::process);
        let (state, cause, pause) = match &provider.availability {
            Availability::Up => ("up", None, None),
            Availability::Unknown => ("unknown", None, None),
            Availability::Down { cause } => ("down", Some(cause), None),
            Availability::Broken { cause, pause } => ("broken", Some(cause), Some(pause)),
            Availability::Cooling { pause } => ("cooling", None, Some(pause)),
        };
        Self {
            name: provider.name.clone(),
            reach: provider.reach.word(),
            priority: provider.priority,
            weight: provider.weight,
            state,
            cause: cause.cloned(),
            pause_s: pause.map(std::time::Duration::as_secs_f64),
            running: provider.load.running,
            running_max: provider.load.running_max,
            ttft_ms: provider.ttft.map(|ttft| ttft.as_secs_f64() * 1000.0),
            default_model: provider.default_model.clone(),
            models: provider.models.iter().map(WireModel::from).collect(),
            is_host: sight == Sight::All && engine.is_some_and(Engine::is_ours),
            process: process.map(|status| WireProcess::new(status, sight)),
        }
    }
}

impl From<&router::Model> for WireModel {
    fn from(model: &router::Model) -> Self {
        let known = |wanted| {
            let known = model.capabilities.iter();
            let known = known.filter(move |(_, knowledge)| *knowledge == wanted);
            known.map(|(capability, _)| capability.word()).collect()
        };
        Self {
            name: model.name.clone(),
            loaded: model.is_loaded,
            context: model.context,
            has: known(router::Knowledge::Has),
            lacks: known(router::Knowledge::Lacks),
        }
    }
}
