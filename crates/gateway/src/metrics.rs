//! Counters and histograms, written as OpenMetrics text.
//!
//! What the gateway sees is counted as it happens; what workers count is read from
//! them when `/metrics` is asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use axum::http::Method;
use futures_util::StreamExt;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use proto::{Event, PrefixDetail, PrefixReport, PrefixUse, WorkerState};
use supervisor::pressure::Level;
use supervisor::{ModelPhase, ModelStatus, PressureState};
use thread_local::ThreadLocal;

use crate::access::{Control, Visit};
use crate::backend::EventStream;
use crate::edge::POLLED;
use crate::error::ApiError;
use crate::history::Tally;
use crate::logs::PAGE_LOG;
use crate::ui::is_of_workbench;

/// Content type of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the time histograms, in seconds: from a cached answer on a
/// workstation to a long prompt on a board.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    model: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    model: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PrefixLabels {
    model: String,
    cause: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// What the gateway counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    duration: Histograms<RouteLabels>,
    first_token: Histograms<ModelLabels>,
    in_flight: Gauge,
    prompt_tokens: Family<ModelLabels, Counter>,
    cached_tokens: Family<ModelLabels, Counter>,
    completion_tokens: Family<ModelLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    prompts: Family<PrefixLabels, Counter>,
    lost_tokens: Family<PrefixLabels, Counter>,
    tally: Tally,
    /// Each thread has a table of its own, so that none waits for another.
    of_models: ThreadLocal<RefCell<HashMap<String, Arc<OfModel>>>>,
}

/// What is counted of the answers of one model: the entries of that name in the families, found
/// once for an answer.
#[derive(Debug)]
struct OfModel {
    first_token: Histogram,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    completion_tokens: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS);
        let metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            duration: Family::new_with_constructor(seconds),
            first_token: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
            prompt_tokens: Family::default(),
            cached_tokens: Family::default(),
            completion_tokens: Family::default(),
            failures: Family::default(),
            prompts: Family::default(),
            lost_tokens: Family::default(),
            tally: Tally::default(),
            of_models: ThreadLocal::new(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let to = &mut self.registry;
        to.register(
            "sextant_http_requests",
            "Requests answered",
            self.requests.clone(),
        );
        to.register(
            "sextant_http_request_duration_seconds",
            "Time from the request's headers to the last byte of the answer",
            self.duration.clone(),
        );
        to.register(
            "sextant_time_to_first_token_seconds",
            "Time from the request's body to the first token",
            self.first_token.clone(),
        );
        to.register(
            "sextant_http_requests_in_flight",
            "Requests being answered",
            self.in_flight.clone(),
        );
        to.register(
            "sextant_prompt_tokens",
            "Prompt tokens of finished jobs",
            self.prompt_tokens.clone(),
        );
        to.register(
            "sextant_prompt_tokens_cached",
            "Prompt tokens of finished jobs that came from the cache",
            self.cached_tokens.clone(),
        );
        to.register(
            "sextant_completion_tokens",
            "Tokens generated by finished jobs",
            self.completion_tokens.clone(),
        );
        to.register(
            "sextant_job_failures",
            "Failed jobs by error code, also those that failed inside a stream",
            self.failures.clone(),
        );
        to.register(
            "sextant_prompts",
            "Prompts by why they were read as far as they were",
            self.prompts.clone(),
        );
        to.register(
            "sextant_prompt_tokens_lost",
            "Prompt tokens that would not have been computed without that cause",
            self.lost_tokens.clone(),
        );
        self
    }

    /// Counts a request that has come in.
    pub(crate) fn begin(self: &Arc<Self>, visit: &Arc<Visit>, method: &Method) -> RequestWatch {
        self.in_flight.inc();
        RequestWatch {
            metrics: Arc::clone(self),
            visit: Arc::clone(visit),
            method: method.clone(),
            status: 499,
        }
    }

    /// Counts the tokens of `events` and times the first.
    pub(crate) fn watch(
        self: &Arc<Self>,
        model: String,
        since: Instant,
        (visit, job): (Arc<Visit>, usize),
        events: EventStream,
    ) -> EventStream {
        let metrics = Arc::clone(self);
        let mut waiting = true;
        let mut counts: Option<Arc<OfModel>> = None;
        let mut count = move |event: &Event| match event {
            Event::Delta { .. } if waiting => {
                waiting = false;
                let counts = counts.get_or_insert_with(|| metrics.of_model(&model));
                let seconds = since.elapsed().as_secs_f64();
                counts.first_token.observe(seconds);
                metrics.tally.first_token(seconds);
            }
            Event::Done { usage, timings } => {
                metrics.tally.answered(usage, timings);
                let counts = counts.get_or_insert_with(|| metrics.of_model(&model));
                let used = [
                    (&counts.prompt_tokens, usage.prompt_tokens),
                    (&counts.cached_tokens, usage.cached_tokens),
                    (&counts.completion_tokens, usage.completion_tokens),
                ];
                for (counter, count) in used {
                    counter.inc_by(u64::from(count));
                }
            }
            Event::Prefix(told) => metrics.explained(&model, told),
            Event::Failed(failure) => {
                metrics.tally.failed();
                let failure = FailureLabels {
                    model: model.clone(),
                    code: ApiError::from(failure.clone()).row().code,
                };
                metrics.failures.get_or_create(&failure).inc();
            }
            _ => {}
        };
        let see = move |event: &Event| {
            visit.saw(job, event);
            count(event);
        };
        events.inspect(see).boxed()
    }

    /// What the history takes of the requests.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Counts why a prompt was read, and says so where it need not have been.
    fn explained(&self, model: &str, told: &PrefixReport) {
        let labels = PrefixLabels {
            model: model.to_owned(),
            cause: told.cause.name(),
        };
        self.prompts.get_or_create(&labels).inc();
        if told.lost_tokens == 0 {
            return;
        }
        let lost = u64::from(told.lost_tokens);
        self.lost_tokens.get_or_create(&labels).inc_by(lost);
        // The excerpt is the client's own text, and no business of the log.
        tracing::info!(
            model,
            cause = labels.cause,
            detail = told.detail.map(PrefixDetail::name),
            lost_tokens = lost,
            lost_seconds = told.lost_seconds,
            "a prompt was read again"
        );
    }

    fn of_model(&self, model: &str) -> Arc<OfModel> {
        let mut known = self.of_models.get_or_default().borrow_mut();
        if let Some(counts) = known.get(model) {
            return Arc::clone(counts);
        }
        let labels = labels(model);
        let counts = Arc::new(OfModel {
            first_token: self.first_token.get_or_create_owned(&labels),
            prompt_tokens: self.prompt_tokens.get_or_create_owned(&labels),
            cached_tokens: self.cached_tokens.get_or_create_owned(&labels),
            completion_tokens: self.completion_tokens.get_or_create_owned(&labels),
        });
        known.insert(model.to_owned(), Arc::clone(&counts));
        counts
    }

    /// All metrics, with what the workers say of themselves.
    pub(crate) fn text(
        &self,
        models: &[(ModelStatus, Option<WorkerState>)],
        pressure: PressureState,
        control: Option<&Control>,
    ) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode_registry(&mut out, &self.registry);
        let _ = text::encode_registry(&mut out, &worker_registry(models));
        let _ = text::encode_registry(&mut out, &memory_registry(pressure));
        if let Some(control) = control {
            let _ = text::encode_registry(&mut out, &store_registry(control));
        }
        let _ = text::encode_eof(&mut out);
        out
    }
}

/// A request in progress; when dropped it is counted.
#[derive(Debug)]
pub(crate) struct RequestWatch {
    metrics: Arc<Metrics>,
    visit: Arc<Visit>,
    method: Method,
    /// 499 until there is a response: the client left before.
    pub(crate) status: u16,
}

impl Drop for RequestWatch {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        let seconds = self.visit.began().elapsed().as_secs_f64();
        let (id, route) = (self.visit.id(), &**self.visit.route());
        let (method, status) = (self.method.as_str(), self.status);
        let ms = (seconds * 1000.0).round();
        // Polls would bury everything else.
        if POLLED.contains(&route) {
            tracing::debug!(id, route, method, status, ms, "answered");
        } else if is_of_workbench(route) {
            tracing::info!(target: PAGE_LOG, id, route, method, status, ms, "answered");
        } else {
            tracing::info!(id, route, method, status, ms, "answered");
        }
        let route = Arc::clone(self.visit.route());
        let labels = RequestLabels {
            route: route.clone(),
            method: method_label(&self.method),
            status,
        };
        self.metrics.requests.get_or_create(&labels).inc();
        let duration = &self.metrics.duration;
        duration
            .get_or_create(&RouteLabels { route })
            .observe(seconds);
    }
}

/// The method as a label. HTTP lets any word be a method; each label that is new stays in
/// memory, so words that no route knows share one.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let mut known = KNOWN.into_iter();
    known.find(|known| method == known).unwrap_or("other")
}

/// Name, help and reading of one number a worker reports.
type Reading<T> = (&'static str, &'static str, fn(&WorkerState) -> T);

const COUNTS: [Reading<u64>; 15] = [
    ("prompt_tokens", "Prompt tokens read", |s| {
        s.prompt_tokens_total
    }),
    (
        "prompt_tokens_cached",
        "Prompt tokens taken from the cache",
        |s| s.prompt_tokens_cached_total,
    ),
    (
        "prompt_tokens_restored",
        "Of those, from states that had been put away",
        |s| s.prompt_tokens_restored_total,
    ),
    (
        "prompt_cache_written_bytes",
        "States of prompts written to disk",
        |s| of_prefixes(s, |kept| kept.written_bytes_total),
    ),
    (
        "prompt_cache_read_bytes",
        "States of prompts read from disk",
        |s| of_prefixes(s, |kept| kept.read_bytes_total),
    ),
    (
        "prompt_cache_refused_bytes",
        "States of prompts not written because of the limit for a day",
        |s| of_prefixes(s, |kept| kept.refused_bytes_total),
    ),
    (
        "prompt_cache_faulty",
        "States of prompts that were found faulty and left out",
        |s| of_prefixes(s, |kept| kept.faulty_total),
    ),
    ("completion_tokens", "Tokens generated", |s| {
        s.completion_tokens_total
    }),
    ("draft_tokens", "Tokens drafted by speculation", |s| {
        s.draft_tokens_total
    }),
    ("draft_tokens_accepted", "Drafted tokens that stood", |s| {
        s.draft_accepted_tokens_total
    }),
    ("jobs", "Jobs ended", |s| s.jobs_total),
    ("jobs_failed", "Jobs that failed", |s| s.jobs_failed_total),
    ("jobs_cancelled", "Jobs that were cancelled", |s| {
        s.jobs_cancelled_total
    }),
    (
        "preemptions",
        "Jobs moved out of the cache for others",
        |s| s.preemptions_total,
    ),
    (
        "parkings",
        "Slots that went to a more urgent request",
        |s| s.parkings_total,
    ),
];

const SECOND_COUNTS: [Reading<f64>; 2] = [
    ("prefill_seconds", "Time spent in prefill", |s| {
        s.prefill_seconds_total
    }),
    ("decode_seconds", "Time spent in decode", |s| {
        s.decode_seconds_total
    }),
];

fn of_prefixes(state: &WorkerState, read: fn(&PrefixUse) -> u64) -> u64 {
    state.prefixes.as_ref().map_or(0, read)
}

fn held_by_prefixes(state: &WorkerState, read: fn(&PrefixUse) -> u64) -> i64 {
    i64::try_from(of_prefixes(state, read)).unwrap_or(i64::MAX)
}

const GAUGES: [Reading<i64>; 9] = [
    (
        "prompt_cache_ram_bytes",
        "States of prompts in memory",
        |s| held_by_prefixes(s, |kept| kept.ram_bytes),
    ),
    (
        "prompt_cache_disk_bytes",
        "States of prompts on disk, of all models",
        |s| held_by_prefixes(s, |kept| kept.disk_bytes),
    ),
    (
        "prompt_cache_pending_bytes",
        "States of prompts on their way to the disk",
        |s| held_by_prefixes(s, |kept| kept.pending_bytes),
    ),
    ("queued", "Jobs waiting for a slot", |s| i64::from(s.queued)),
    ("slots_busy", "Slots at work", |s| {
        let busy = s.slots.iter().filter(|slot| slot.job.is_some()).count();
        i64::try_from(busy).unwrap_or(i64::MAX)
    }),
    ("resident_bytes", "Memory of the process", |s| {
        i64::try_from(s.resident_bytes).unwrap_or(i64::MAX)
    }),
    ("kv_cells", "Cells of the KV cache", |s| {
        i64::from(s.kv.cells)
    }),
    ("kv_cells_running", "Cells of running jobs", |s| {
        i64::from(s.kv.cells_running)
    }),
    ("kv_cells_cached", "Cells held for prefix reuse", |s| {
        i64::from(s.kv.cells_cached)
    }),
];

fn worker_registry(models: &[(ModelStatus, Option<WorkerState>)]) -> Registry {
    let mut registry = Registry::with_prefix("sextant_worker");
    let states: Vec<_> = models
        .iter()
        .filter_map(|(model, state)| Some((labels(&model.name), state.as_ref()?)))
        .collect();
    for (name, help, read) in COUNTS {
        let family = Family::<ModelLabels, Counter>::default();
        for (labels, state) in &states {
            family.get_or_create(labels).inc_by(read(state));
        }
        registry.register(name, help, family);
    }
    for (name, help, read) in SECOND_COUNTS {
        let family = Family::<ModelLabels, Counter<f64, AtomicU64>>::default();
        for (labels, state) in &states {
            family.get_or_create(labels).inc_by(read(state).max(0.0));
        }
        registry.register(name, help, family);
    }
    for (name, help, read) in GAUGES {
        let family = Family::<ModelLabels, Gauge>::default();
        for (labels, state) in &states {
            family.get_or_create(labels).set(read(state));
        }
        registry.register(name, help, family);
    }
    register_phases(&mut registry, models);
    registry
}

/// How short memory is, and what was given up for it.
fn memory_registry(pressure: PressureState) -> Registry {
    let mut registry = Registry::with_prefix("sextant_memory");
    let level = Gauge::<i64>::default();
    level.set(match pressure.level {
        Level::Calm => 0,
        Level::Short => 1,
        Level::Critical => 2,
    });
    registry.register(
        "pressure",
        "0 while there is memory, 1 when caches were given back, 2 when models were unloaded",
        level,
    );
    let counts = [
        (
            "pressure_shrinks",
            "Times that idle models gave their caches back",
            pressure.shrinks,
        ),
        (
            "pressure_unloads",
            "Models that were unloaded because memory was short",
            pressure.unloads,
        ),
    ];
    for (name, help, count) in counts {
        let counter = Counter::<u64>::default();
        counter.inc_by(count);
        registry.register(name, help, counter);
    }
    registry
}

/// What the database did not get to hold.
fn store_registry(control: &Control) -> Registry {
    let mut registry = Registry::with_prefix("sextant_store");
    let writer = control.writer();
    let counts = [
        (
            "entries_dropped",
            "Rows of the audit log and others that found the writer's queue full",
            writer.dropped(),
        ),
        (
            "entries_failed",
            "Rows of the audit log and others that the database did not take",
            writer.failed(),
        ),
    ];
    for (name, help, count) in counts {
        let counter = Counter::<u64>::default();
        counter.inc_by(count);
        registry.register(name, help, counter);
    }
    registry
}

fn register_phases(registry: &mut Registry, models: &[(ModelStatus, Option<WorkerState>)]) {
    let restarts = Family::<ModelLabels, Counter>::default();
    let phase = Family::<StateLabels, Gauge>::default();
    let ready = Family::<ModelLabels, Gauge>::default();
    for (model, _) in models {
        let name = labels(&model.name);
        restarts
            .get_or_create(&name)
            .inc_by(u64::from(model.restarts));
        let is_ready = matches!(model.phase, ModelPhase::Ready(_));
        ready.get_or_create(&name).set(i64::from(is_ready));
        let state = StateLabels {
            model: model.name.clone(),
            state: model.phase.word().to_owned(),
        };
        phase.get_or_create(&state).set(1);
    }
    registry.register("restarts", "Restarts after crashes", restarts);
    registry.register("ready", "1 while the model can answer", ready);
    registry.register("state", "1 for the state the model is in", phase);
}

fn labels(model: &str) -> ModelLabels {
    ModelLabels {
        model: model.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_nobody_knows_share_a_label() {
        let label = |method: &str| method_label(&method.parse().unwrap());
        assert_eq!(label("POST"), "POST");
        assert_eq!(label("BREW"), "other");
        assert_eq!(label("post"), "other");
    }
}
