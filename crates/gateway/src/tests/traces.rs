//! Spans, as a collector gets them.

use std::sync::{Arc, Mutex};

use ::traces::{TraceOptions, Traces};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use router::Reach;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::scripted::{Scripted, config, hello, request, routed, send};
use super::upstream::{Fate, Upstream};
use crate::{GatewayConfig, Routing};

/// A collector on a socket of its own.
struct Collector {
    url: String,
    got: Got,
    task: AbortHandle,
}

type Got = Arc<Mutex<Vec<(HeaderMap, ExportTraceServiceRequest)>>>;

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(got): State<Got>, headers: HeaderMap, body: Bytes) {
    let batch = ExportTraceServiceRequest::decode(body).unwrap();
    got.lock().unwrap().push((headers, batch));
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let got = Got::default();
        let app = Router::new()
            .route("/v1/traces", post(take))
            .with_state(Arc::clone(&got));
        let serve = async move { axum::serve(listener, app).await.unwrap() };
        let task = tokio::spawn(serve).abort_handle();
        Self { url, got, task }
    }

    fn traces(&self) -> Traces {
        let options = TraceOptions {
            endpoint: Some(self.url.clone()),
            headers: vec![("x-team".into(), stdx::Secret::new("blue"))],
        };
        Traces::open(options).unwrap().unwrap()
    }

    /// The spans of all batches, once what is queued is there.
    async fn spans(&self, traces: &Traces) -> Vec<Span> {
        flush(traces).await;
        let got = self.got.lock().unwrap();
        let of_resource = got.iter().flat_map(|(_, batch)| &batch.resource_spans);
        let of_scope = of_resource.flat_map(|resource| &resource.scope_spans);
        of_scope.flat_map(|scope| scope.spans.clone()).collect()
    }
}

/// Blocks a thread that may be blocked: the collector answers on this one.
async fn flush(traces: &Traces) {
    let traces = traces.clone();
    let flush = tokio::task::spawn_blocking(move || traces.flush());
    flush.await.unwrap();
}

fn traced(traces: &Traces) -> GatewayConfig {
    GatewayConfig {
        traces: Some(traces.clone()),
        ..config()
    }
}

/// A fact of a span, in words.
fn fact(span: &Span, name: &str) -> Option<String> {
    let pair = span.attributes.iter().find(|pair| pair.key == name)?;
    let words = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(_) => "a number".to_owned(),
        other => panic!("{name}: {other:?}"),
    };
    Some(match pair.value.as_ref()?.value.as_ref()? {
        Value::ArrayValue(array) => {
            let values = array.values.iter();
            let values: Vec<_> = values
                .map(|one| words(one.value.as_ref().unwrap()))
                .collect();
            values.join(",")
        }
        value => words(value),
    })
}

fn check(span: &Span, facts: &[(&str, &str)]) {
    for (name, want) in facts {
        assert_eq!(fact(span, name).as_deref(), Some(*want), "{name}: {span:?}");
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

fn chat(model: &str, trace_parent: Option<&str>) -> axum::http::Request<axum::body::Body> {
    let body = format!(
        r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "a secret of mine"}}]}}"#
    );
    let mut request = request(Method::POST, "/v1/chat/completions", body);
    request
        .headers_mut()
        .insert("host", "localhost:8080".parse().unwrap());
    if let Some(parent) = trace_parent {
        let headers = request.headers_mut();
        headers.insert("traceparent", parent.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_request_is_a_span_in_the_trace_of_its_client() {
    let collector = Collector::start().await;
    let traces = collector.traces();
    let app = routed(
        &Scripted::new(vec![hello()]),
        traced(&traces),
        Routing::default(),
    );
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let answer = send(app.clone(), chat("tiny", Some(&parent))).await;
    assert_eq!(answer.status, 200);
    let spans = collector.spans(&traces).await;
    let [attempt, whole] = spans.as_slice() else {
        panic!("{spans:?}")
    };
    assert_eq!((whole.name.as_str(), whole.kind), ("chat tiny", SERVER));
    assert_eq!(hex(&whole.trace_id), TRACE);
    assert_eq!(hex(&whole.parent_span_id), PARENT);
    check(
        whole,
        &[
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "embedded"),
            ("gen_ai.request.model", "tiny"),
            ("gen_ai.response.model", "tiny"),
            ("gen_ai.usage.input_tokens", "12"),
            ("gen_ai.usage.cache_read.input_tokens", "4"),
            ("gen_ai.response.finish_reasons", "stop"),
            ("server.address", "localhost"),
            ("server.port", "8080"),
            ("http.response.status_code", "200"),
            ("sextant.attempts", "1"),
            ("sextant.time_to_first_token_ms", "a number"),
        ],
    );
    assert!(fact(whole, "sextant.route").is_some());
    assert!(fact(whole, "sextant.privacy").is_some());
    assert_eq!(fact(whole, "error.type"), None);
    assert_eq!(
        (attempt.name.as_str(), attempt.kind),
        ("attempt embedded:tiny", CLIENT)
    );
    assert_eq!(attempt.parent_span_id, whole.span_id);
    assert_eq!(attempt.trace_id, whole.trace_id);
    assert!(whole.start_time_unix_nano <= attempt.start_time_unix_nano);
    assert!(attempt.end_time_unix_nano <= whole.end_time_unix_nano);
    assert!(attempt.start_time_unix_nano < attempt.end_time_unix_nano);

    let got = collector.got.lock().unwrap();
    let (headers, batch) = &got[0];
    assert_eq!(headers["x-team"], "blue");
    let shown = format!("{batch:?}");
    assert!(
        shown.contains("StringValue(\"sextant\")"),
        "no service.name: {shown}"
    );
    assert!(!shown.contains("secret of mine"), "{shown}");
}

#[tokio::test]
async fn a_request_that_fails_over_has_two_attempts() {
    let collector = Collector::start().await;
    let traces = collector.traces();
    let (broken, sound) = (
        Upstream::with(Fate::Status(500)).await,
        Upstream::with(Fate::Answer).await,
    );
    let routing = Routing {
        providers: vec![
            broken.provider("broken", Reach::Device, 1),
            sound.provider("sound", Reach::Device, 2),
        ],
        ..Routing::default()
    };
    let app = routed(&Scripted::idle(), traced(&traces), routing);
    let answer = send(app.clone(), chat("m", None)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let spans = collector.spans(&traces).await;
    let [first, second, whole] = spans.as_slice() else {
        panic!("{spans:?}")
    };
    assert!(whole.parent_span_id.is_empty(), "it begins its trace");
    check(
        whole,
        &[
            ("gen_ai.provider.name", "sound"),
            ("gen_ai.usage.input_tokens", "3"),
            ("gen_ai.usage.output_tokens", "5"),
            ("sextant.attempts", "2"),
        ],
    );
    let trail = fact(whole, "sextant.trail").unwrap();
    assert!(trail.starts_with("broken:m="), "{trail}");
    for (span, name, upstream) in [(first, "broken:m", &broken), (second, "sound:m", &sound)] {
        assert_eq!(span.name, format!("attempt {name}"));
        assert_eq!(span.parent_span_id, whole.span_id);
        let port = upstream.url.rsplit_once(':').unwrap().1;
        check(
            span,
            &[("server.address", "127.0.0.1"), ("server.port", port)],
        );
        // The provider was told which span of ours asks it.
        let told = upstream.trace_parents();
        let want = format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id));
        assert_eq!(told, [Some(want)]);
    }
    assert!(trail.ends_with(&fact(first, "error.type").unwrap()));
    assert_eq!(first.status.as_ref().unwrap().code, ERROR);
    assert_eq!(fact(second, "error.type"), None);
    // Failed over is no failure.
    assert_eq!(fact(whole, "error.type"), None);
}

#[tokio::test]
async fn what_is_not_recorded_is_passed_on_as_it_came() {
    let collector = Collector::start().await;
    let traces = collector.traces();
    let sampled = format!("00-{TRACE}-{PARENT}-01");
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    // The client does not want it recorded; nobody collects; the client has no trace.
    let cases = [
        (traced(&traces), Some(&unsampled)),
        (config(), Some(&sampled)),
        (config(), None),
    ];
    for (config, parent) in cases {
        let upstream = Upstream::with(Fate::Answer).await;
        let routing = Routing {
            providers: vec![upstream.provider("one", Reach::Device, 1)],
            ..Routing::default()
        };
        let app = routed(&Scripted::idle(), config, routing);
        let answer = send(app.clone(), chat("m", parent.map(String::as_str))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(upstream.trace_parents(), [parent.cloned()]);
    }
    assert!(collector.spans(&traces).await.is_empty());
}

#[tokio::test]
async fn an_error_is_told_by_its_code() {
    let collector = Collector::start().await;
    let traces = collector.traces();
    let app = routed(&Scripted::idle(), traced(&traces), Routing::default());
    let answer = send(app.clone(), chat("nowhere", None)).await;
    assert_eq!(answer.status, 404);
    let spans = collector.spans(&traces).await;
    let [whole] = spans.as_slice() else {
        panic!("{spans:?}")
    };
    let code = answer.json()["error"]["code"].as_str().unwrap().to_owned();
    check(
        whole,
        &[("error.type", &code), ("http.response.status_code", "404")],
    );
    assert_eq!(whole.status.as_ref().unwrap().code, ERROR);
}

#[tokio::test]
async fn without_a_collector_requests_are_answered() {
    // An address at which nobody listens any more.
    let url = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let options = TraceOptions {
        endpoint: Some(url),
        ..TraceOptions::default()
    };
    let traces = Traces::open(options).unwrap().unwrap();
    let n = 50;
    let app = routed(
        &Scripted::new(vec![hello(); n]),
        traced(&traces),
        Routing::default(),
    );
    for _ in 0..n {
        let answer = send(app.clone(), chat("tiny", None)).await;
        assert_eq!(answer.status, 200);
    }
}
