//! Large requests beside the streams of others.

use axum::http::Method;
use futures_util::StreamExt;
use router::{Reach, Rule, Rules};
use serde_json::json;
use std::time::Duration;
use tower::ServiceExt;

use super::scripted::{Scripted, Step, config, hello, request, routed, send, started, text};
use crate::Routing;

const CHAT: &str = "/v1/chat/completions";
/// Events that others get while a large request is read, looked through and answered; where
/// that holds them up there are one or two.
const EVENTS_MEANWHILE: usize = 10;

/// Everything happens on this test's one thread, as on a lane, unless it is sent away.
#[tokio::test]
async fn a_large_request_does_not_hold_up_a_stream() {
    let steps =
        (0..60_000).flat_map(|_| [Step::Wait(Duration::from_millis(1)), text(0, "x").into()]);
    let endless = [Step::from(started())].into_iter().chain(steps);
    let backend = Scripted::new(vec![
        endless.collect(),
        hello().into_iter().map(Step::from).collect(),
    ]);
    let rule = |pattern: &str| Rule {
        name: pattern.into(),
        patterns: vec![pattern.into()],
        reach: Reach::Device,
    };
    let routing = Routing {
        rules: Rules::new(&[rule("secrets"), rule("pii")]).unwrap(),
        ..Routing::default()
    };
    let app = routed(&backend, config(), routing);
    let ask = |text: String, stream: bool| {
        let message = json!({ "role": "user", "content": text });
        let body = json!({ "messages": [message], "stream": stream }).to_string();
        let n_bytes = body.len();
        let mut request = request(Method::POST, CHAT, body);
        let headers = request.headers_mut();
        headers.insert("content-length", n_bytes.into());
        request
    };
    let stream = app.clone().oneshot(ask("Hi".into(), true)).await.unwrap();
    let mut events = stream.into_body().into_data_stream();
    events.next().await.unwrap().unwrap();
    let large = ask(
        "Some words, and 12 figures. ".repeat((15 << 20) / 28),
        false,
    );
    let large = tokio::spawn(send(app.clone(), large));
    let mut n_meanwhile = 0;
    while !large.is_finished() {
        events.next().await.unwrap().unwrap();
        n_meanwhile += 1;
    }
    assert_eq!(large.await.unwrap().status, 200);
    assert!(n_meanwhile >= EVENTS_MEANWHILE, "{n_meanwhile} events");
}
