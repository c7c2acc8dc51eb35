//! The spans of a request: one for it all, and one below for each try at a provider.
//!
//! They are made at its end, of what is written down of it anyway, in the words of
//! OpenTelemetry's semantic conventions for generative AI. No text of the request is in them.

use std::time::{Duration, Instant, SystemTime};

use axum::http::{HeaderMap, HeaderName, header};
use proto::FinishReason;
use traces::{Attribute, Side, Span, TRACE_PARENT_HEADER, TraceParent, Traces};

use crate::dispatch::{Tracing, Try};

static TRACE_PARENT: HeaderName = HeaderName::from_static(TRACE_PARENT_HEADER);

/// How a request is traced.
#[derive(Debug)]
pub(super) struct Trace {
    /// Where the client says it is.
    remote: Option<TraceParent>,
    /// Where we are, and who takes the spans; `None`: nobody wants them.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    place: TraceParent,
    traces: Traces,
    /// As the client calls us.
    host: Option<String>,
}

/// A request, as its span tells it.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub(super) route: String,
    pub(super) request_id: String,
    pub(super) status: u16,
    pub(super) model: Option<String>,
    pub(super) served: Option<router::Target>,
    pub(super) decision: Option<String>,
    pub(super) privacy: Option<&'static str>,
    pub(super) attempts: u32,
    pub(super) trail: Option<String>,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) finish_reasons: Vec<FinishReason>,
    pub(super) first: Option<Duration>,
    pub(super) error: Option<&'static str>,
    pub(super) tries: Vec<Try>,
}

impl Trace {
    pub(super) fn new(headers: &HeaderMap, traces: Option<&Traces>) -> Self {
        let remote = headers.get(&TRACE_PARENT);
        let remote = remote.and_then(|value| TraceParent::parse(value.to_str().ok()?));
        // Whoever began the trace says whether it is recorded.
        let is_wanted = remote.is_none_or(TraceParent::is_sampled);
        let own = traces.filter(|_| is_wanted).map(|traces| Own {
            place: remote.map_or_else(TraceParent::root, TraceParent::child),
            traces: traces.clone(),
            host: headers
                .get(header::HOST)
                .and_then(|host| Some(host.to_str().ok()?.to_owned())),
        });
        Self { remote, own }
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.own.is_some()
    }

    /// What the tries at providers are told.
    pub(super) fn tracing(&self) -> Tracing {
        match (&self.own, self.remote) {
            (Some(own), _) => Tracing::Below(own.place),
            (None, Some(remote)) => Tracing::PassedOn(remote),
            (None, None) => Tracing::Off,
        }
    }

    /// Hands over the spans of a request that began at `began` and is over.
    pub(super) fn record(&self, began: Instant, story: Story) {
        let Some(own) = &self.own else { return };
        let clock = Clock::new();
        for one in &story.tries {
            own.traces.record(attempt(own.place, one, &clock));
        }
        let operation = operation(&story.route);
        let span = Span {
            place: own.place,
            parent: self.remote,
            side: Side::Server,
            name: match &story.model {
                Some(model) => format!("{operation} {model}"),
                None => operation.to_owned(),
            },
            began: clock.at(began),
            ended: clock.wall,
            error: story.error,
            attributes: attributes(operation, own.host.as_deref(), story),
        };
        own.traces.record(span);
    }
}

/// One moment on both clocks.
struct Clock {
    wall: SystemTime,
    monotonic: Instant,
}

impl Clock {
    fn new() -> Self {
        Self {
            wall: SystemTime::now(),
            monotonic: Instant::now(),
        }
    }

    fn at(&self, moment: Instant) -> SystemTime {
        let ago = self.monotonic.saturating_duration_since(moment);
        self.wall.checked_sub(ago).unwrap_or(self.wall)
    }
}

/// `gen_ai.operation.name` of a route.
fn operation(route: &str) -> &'static str {
    match route {
        "/v1/completions" | "/api/generate" => "text_completion",
        "/v1/embeddings" | "/api/embed" | "/api/embeddings" => "embeddings",
        "/v1/rerank" | "/v1/reranking" | "/rerank" => "rerank",
        _ => "chat",
    }
}

fn attributes(
    operation: &'static str,
    host: Option<&str>,
    story: Story,
) -> Vec<(&'static str, Attribute)> {
    let mut all: Vec<(&'static str, Attribute)> = vec![
        ("gen_ai.operation.name", operation.into()),
        ("http.route", story.route.into()),
        ("http.response.status_code", u64::from(story.status).into()),
        ("sextant.request_id", story.request_id.into()),
        ("sextant.attempts", u64::from(story.attempts).into()),
    ];
    let mut add = |name, value: Option<Attribute>| all.extend(value.map(|value| (name, value)));
    add("gen_ai.request.model", story.model.map(Into::into));
    if let Some(served) = story.served {
        add("gen_ai.provider.name", Some(served.provider.into()));
        add("gen_ai.response.model", Some(served.model.into()));
        add(
            "gen_ai.usage.input_tokens",
            Some(story.prompt_tokens.into()),
        );
        add(
            "gen_ai.usage.output_tokens",
            Some(story.completion_tokens.into()),
        );
        add(
            "gen_ai.usage.cache_read.input_tokens",
            (story.cached_tokens > 0).then(|| story.cached_tokens.into()),
        );
    }
    let reasons: Vec<_> = story.finish_reasons.into_iter().map(word).collect();
    add(
        "gen_ai.response.finish_reasons",
        (!reasons.is_empty()).then_some(Attribute::Texts(reasons)),
    );
    let (address, port) = host.map_or((None, None), authority);
    add("server.address", address.map(Into::into));
    add("server.port", port.map(Into::into));
    add("sextant.route", story.decision.map(Into::into));
    add("sextant.privacy", story.privacy.map(Into::into));
    add("sextant.trail", story.trail.map(Into::into));
    let first = story.first.map(|first| first.as_secs_f64() * 1000.0);
    add("sextant.time_to_first_token_ms", first.map(Into::into));
    all
}

/// The name and the port of a `Host` header.
fn authority(host: &str) -> (Option<&str>, Option<u64>) {
    match host.rsplit_once(':') {
        // Not within an IPv6 address.
        Some((name, port)) if !port.contains(']') => (Some(name), port.parse().ok()),
        _ => (Some(host), None),
    }
}

fn word(reason: FinishReason) -> String {
    let word = match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    };
    word.to_owned()
}

/// The span of one try. It has no usage, so that tokens are counted once.
fn attempt(above: TraceParent, one: &Try, clock: &Clock) -> Span {
    let mut attributes: Vec<(&'static str, Attribute)> = vec![
        ("gen_ai.provider.name", one.target.provider.as_str().into()),
        ("gen_ai.request.model", one.target.model.as_str().into()),
    ];
    if let Some((address, port)) = &one.address {
        attributes.push(("server.address", address.as_str().into()));
        attributes.push(("server.port", u64::from(*port).into()));
    }
    Span {
        place: one.place,
        parent: Some(above),
        side: Side::Client,
        name: format!("attempt {}", one.target),
        began: clock.at(one.began),
        ended: one.ended.map_or(clock.wall, |ended| clock.at(ended)),
        attributes,
        error: one.error,
    }
}
