//! The queue of spans and the thread that sends them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceState};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_otlp::{Protocol, SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanExporter, SpanLinks,
    SpanProcessor,
};
use reqwest::blocking::Client;
use reqwest::redirect::Policy;
use stdx::Secret;

use crate::{Attribute, Side, Span};

/// Spans that wait to be sent; more are dropped.
const SPANS_WAITING_MAX: usize = 4096;
/// How long a batch may take to be taken.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two words about spans that were lost.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How long the end waits for what is queued.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where traces go.
#[derive(Debug, Clone, Default)]
pub struct TraceOptions {
    /// Address of the receiver, with or without `/v1/traces`. `None`: as OpenTelemetry's own
    /// variables of the environment say, if they do.
    pub endpoint: Option<String>,
    /// Headers of each batch, besides those that the environment names.
    pub headers: Vec<(String, Secret)>,
}

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    #[error("traces cannot be sent to `{endpoint}`: {why}")]
    Unusable { endpoint: String, why: String },
}

/// Takes spans and sends them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Traces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    queue: Arc<Queue>,
    endpoint: String,
}

/// What the thread has not taken yet.
#[derive(Debug, Default)]
struct Queue {
    waiting: AtomicUsize,
    dropped: AtomicUsize,
}

impl Traces {
    /// Starts the thread; `None` where nobody says where traces go.
    ///
    /// # Errors
    /// Why nothing can be sent there.
    pub fn open(options: TraceOptions) -> Result<Option<Self>, TracesError> {
        let environment = |name: &str| std::env::var(name).ok();
        let Some(endpoint) = endpoint(options.endpoint.as_deref(), environment) else {
            return Ok(None);
        };
        let queue = Arc::new(Queue::default());
        let exporter = Telling {
            inner: exporter(&endpoint, options.headers)?,
            queue: Arc::clone(&queue),
            endpoint: endpoint.clone(),
            told: Mutex::default(),
        };
        // More than can wait, so that what is dropped is dropped, and counted, here.
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_WAITING_MAX * 2)
            .build();
        let mut processor = BatchSpanProcessor::new(exporter, config);
        processor.set_resource(&resource());
        let scope = InstrumentationScope::builder("sextant")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Ok(Some(Self(Arc::new(Inner {
            processor,
            scope,
            queue,
            endpoint,
        }))))
    }

    /// The address that batches are sent to.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// Queues a span; never waits.
    pub fn record(&self, span: Span) {
        let queue = &self.0.queue;
        if queue.waiting.fetch_add(1, Ordering::Relaxed) >= SPANS_WAITING_MAX {
            queue.waiting.fetch_sub(1, Ordering::Relaxed);
            queue.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.0.processor.on_end(data(span, self.0.scope.clone()));
    }

    /// Sends what is queued, within a few seconds, and ends the thread. Blocks.
    pub fn end(&self) {
        if let Err(error) = self.0.processor.shutdown_with_timeout(LAST_WORDS) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }

    /// Sends what is queued now. Blocks.
    pub fn flush(&self) {
        // What goes wrong is told where it is sent.
        let _ = self.0.processor.force_flush();
    }
}

/// Where traces go, by our setting or else by the variables that OpenTelemetry defines.
fn endpoint(ours: Option<&str>, environment: impl Fn(&str) -> Option<String>) -> Option<String> {
    let named = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
    let below = |base: &str| match base.trim_end_matches('/') {
        whole if whole.ends_with("/v1/traces") => whole.to_owned(),
        base => format!("{base}/v1/traces"),
    };
    if let Some(ours) = ours {
        return Some(below(ours));
    }
    let is_off = named("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || named("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    if is_off {
        return None;
    }
    // The one for traces is taken as it is.
    named("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        .or_else(|| named("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| below(&base)))
}

fn exporter(endpoint: &str, headers: Vec<(String, Secret)>) -> Result<Otlp, TracesError> {
    let unusable = |why: String| TracesError::Unusable {
        endpoint: endpoint.to_owned(),
        why,
    };
    let headers: HashMap<_, _> = headers
        .into_iter()
        .map(|(name, value)| (name, value.expose().to_owned()))
        .collect();
    // On a thread of its own, because it may not be made where others must not block.
    let client = std::thread::spawn(client).join();
    let client = client.map_err(|_| unusable("its client could not be made".to_owned()))?;
    Otlp::builder()
        .with_http()
        .with_http_client(client.map_err(|error| unusable(error.to_string()))?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint)
        .with_timeout(SEND_TIMEOUT)
        .with_headers(headers)
        .build()
        .map_err(|error| unusable(error.to_string()))
}

fn client() -> reqwest::Result<Client> {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(Policy::none())
        .timeout(SEND_TIMEOUT)
        .user_agent(concat!("sextant/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Who we are: as the environment says, else by our name.
fn resource() -> Resource {
    let resource = Resource::builder().build();
    let name = resource.get(&"service.name".into());
    match name.is_some_and(|name| !name.as_str().starts_with("unknown_service")) {
        true => resource,
        false => Resource::builder().with_service_name("sextant").build(),
    }
}

/// Tells what is lost, but not each time.
#[derive(Debug)]
struct Telling {
    inner: Otlp,
    queue: Arc<Queue>,
    endpoint: String,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// Spans that were lost since, on the way.
    lost: usize,
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let n_spans = batch.len();
        self.queue.waiting.fetch_sub(n_spans, Ordering::Relaxed);
        let sent = self.inner.export(batch).await;
        let lost = match &sent {
            Ok(()) => 0,
            Err(_) => n_spans,
        };
        let error = sent.as_ref().err().map(ToString::to_string);
        self.tell(lost, error.as_deref());
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl Telling {
    fn tell(&self, lost: usize, error: Option<&str>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.lost += lost;
        let is_time = told.at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if !is_time || (told.lost == 0 && self.queue.dropped.load(Ordering::Relaxed) == 0) {
            return;
        }
        let dropped = self.queue.dropped.swap(0, Ordering::Relaxed);
        let (endpoint, lost) = (&self.endpoint, std::mem::take(&mut told.lost));
        told.at = Some(Instant::now());
        tracing::warn!(
            endpoint,
            lost,
            dropped,
            waiting_max = SPANS_WAITING_MAX,
            error,
            "spans were lost on their way, or dropped because too many were waiting"
        );
    }
}

fn data(span: Span, instrumentation_scope: InstrumentationScope) -> SpanData {
    let (place, is_server) = (span.place, span.side == Side::Server);
    let parent = span.parent.map(|parent| parent.span);
    let attributes = span.attributes.into_iter();
    let mut attributes: Vec<_> = attributes
        .map(|(name, value)| KeyValue::new(name, value))
        .collect();
    let error = span.error;
    attributes.extend(error.map(|code| KeyValue::new("error.type", code)));
    SpanData {
        span_context: SpanContext::new(
            place.trace,
            place.span,
            place.flags,
            false,
            TraceState::default(),
        ),
        parent_span_is_remote: is_server && parent.is_some(),
        parent_span_id: parent.unwrap_or(SpanId::INVALID),
        span_kind: match span.side {
            Side::Server => SpanKind::Server,
            Side::Client => SpanKind::Client,
        },
        name: span.name.into(),
        start_time: span.began,
        end_time: span.ended,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: error.map_or(Status::Unset, Status::error),
        instrumentation_scope,
    }
}

impl From<Attribute> for Value {
    fn from(attribute: Attribute) -> Self {
        match attribute {
            Attribute::Text(text) => text.into(),
            Attribute::Count(count) => i64::try_from(count).unwrap_or(i64::MAX).into(),
            Attribute::Number(number) => number.into(),
            Attribute::Texts(texts) => {
                let texts = texts.into_iter().map(StringValue::from).collect();
                Self::Array(Array::String(texts))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_setting_goes_before_the_environment() {
        let url = |base: &str| format!("http://{base}/v1/traces");
        let generic = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://generic:4318/");
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own/at/all");
        let off = ("OTEL_SDK_DISABLED", "true");
        let none = ("OTEL_TRACES_EXPORTER", "none");
        let empty = ("OTEL_EXPORTER_OTLP_ENDPOINT", "");
        let cases = [
            (None, vec![], None),
            (None, vec![empty], None),
            (Some("http://ours"), vec![], Some(url("ours"))),
            (Some("http://ours/v1/traces/"), vec![], Some(url("ours"))),
            (
                Some("http://ours/"),
                vec![generic, own, off],
                Some(url("ours")),
            ),
            (None, vec![generic], Some(url("generic:4318"))),
            (None, vec![generic, own], Some("http://own/at/all".into())),
            (None, vec![generic, off], None),
            (None, vec![generic, none], None),
        ];
        for (ours, environment, want) in cases {
            let look = |name: &str| {
                let mut found = environment.iter().filter(|(known, _)| *known == name);
                found.next().map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(endpoint(ours, look), want, "{ours:?} {environment:?}");
        }
    }
}
