//! Checks that surround every route.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method};
use stdx::Secret;

use super::scripted::{Reply, Scripted, Step, config, hello, post, request, router, send, started};
use crate::GatewayConfig;

type Headers = &'static [(&'static str, &'static str)];

async fn with_headers(
    config: GatewayConfig,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Reply {
    let mut request = request(method, path, "");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    send(router(&Scripted::idle(), config), request).await
}

#[tokio::test]
async fn a_key_is_asked_for_everywhere_but_at_health() {
    let config = || GatewayConfig {
        api_key: Some(Secret::new("s3cret")),
        ..config()
    };
    let cases: Vec<(&str, Headers, u16)> = vec![
        ("/health", &[], 200),
        ("/ready", &[], 401),
        ("/metrics", &[], 401),
        ("/v1/models", &[], 401),
        ("/nowhere", &[], 401),
        ("/v1/models", &[("authorization", "Bearer wrong")], 401),
        ("/v1/models", &[("authorization", "Bearer s3cret")], 200),
        ("/v1/models", &[("authorization", "bearer s3cret")], 200),
        ("/v1/models", &[("x-api-key", "s3cret")], 200),
    ];
    for (path, headers, status) in cases {
        let reply = with_headers(config(), Method::GET, path, headers).await;
        assert_eq!(reply.status, status, "{path} {headers:?}");
        assert!(!reply.body.contains("s3cret"));
    }
}

#[tokio::test]
async fn rebound_names_are_refused() {
    let own = || GatewayConfig {
        hosts: vec!["box.lan".into()],
        ..config()
    };
    let cases = [
        ("localhost:8080", 200),
        ("app.localhost", 200),
        ("127.0.0.1:8080", 200),
        ("192.168.1.5", 200),
        ("[::1]:8080", 200),
        ("BOX.lan:8080", 200),
        ("evil.example", 403),
        ("localhost.evil.example:80", 403),
    ];
    for (host, status) in cases {
        let reply = with_headers(own(), Method::GET, "/health", &[("host", host)]).await;
        assert_eq!(reply.status, status, "{host}");
    }
}

#[tokio::test]
async fn foreign_pages_are_refused() {
    let own = || GatewayConfig {
        cors_origins: vec!["https://ui.example".into()],
        ..config()
    };
    let cases = [
        ("http://localhost:5173", 200),
        ("http://127.0.0.1", 200),
        ("http://[::1]:3000", 200),
        ("https://ui.example", 200),
        ("http://10.0.0.9:8080", 200),
        ("app://obsidian.md", 200),
        ("https://evil.example", 403),
        ("http://10.0.0.10", 403),
        ("null", 403),
    ];
    for (origin, status) in cases {
        let headers = [("origin", origin), ("host", "10.0.0.9:8080")];
        let reply = with_headers(own(), Method::GET, "/health", &headers).await;
        assert_eq!(reply.status, status, "{origin}");
    }
    let headers = [("origin", "https://ui.example")];
    let reply = with_headers(own(), Method::GET, "/health", &headers).await;
    let allowed = reply.header("access-control-allow-origin");
    assert_eq!(allowed, Some("https://ui.example"));
}

#[tokio::test]
async fn a_preflight_needs_no_key() {
    let config = GatewayConfig {
        api_key: Some(Secret::new("k")),
        ..config()
    };
    let headers = [
        ("origin", "http://localhost:5173"),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization, content-type",
        ),
    ];
    let path = "/v1/chat/completions";
    let reply = with_headers(config, Method::OPTIONS, path, &headers).await;
    assert_eq!(reply.status, 204);
    let allowed = reply.header("access-control-allow-headers");
    assert_eq!(allowed, Some("authorization, content-type"));
}

#[tokio::test]
async fn unknown_routes_and_methods_are_json() {
    let reply = with_headers(config(), Method::GET, "/v2/x", &[]).await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error"]["code"], "route_not_found");
    let reply = with_headers(config(), Method::GET, "/v1/completions", &[]).await;
    assert_eq!(reply.status, 405);
    assert_eq!(reply.json()["error"]["code"], "method_not_allowed");
    assert_eq!(reply.header("allow"), Some("POST"));
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_announced_or_not() {
    let small = || GatewayConfig {
        body_bytes_max: 100,
        ..config()
    };
    let body = "x".repeat(101);
    let mut announced = request(Method::POST, "/tokenize", "");
    announced
        .headers_mut()
        .insert("content-length", "101".parse().unwrap());
    let chunks = [
        Ok::<_, std::io::Error>(body[..60].to_owned()),
        Ok(body[60..].to_owned()),
    ];
    let chunked = request(
        Method::POST,
        "/tokenize",
        Body::from_stream(futures_util::stream::iter(chunks)),
    );
    for request in [announced, chunked] {
        let reply = send(router(&Scripted::idle(), small()), request).await;
        assert_eq!(reply.status, 413);
        assert!(reply.body.contains("limit of 100 bytes"), "{}", reply.body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let body = Body::from_stream(futures_util::stream::pending::<
        Result<String, std::io::Error>,
    >());
    let reply = post(&Scripted::idle(), "/tokenize", body).await;
    assert_eq!(reply.status, 408);
}

#[tokio::test]
async fn packed_bodies_are_refused() {
    let headers = [("content-encoding", "gzip")];
    let reply = with_headers(config(), Method::POST, "/tokenize", &headers).await;
    assert_eq!(reply.status, 415);
}

#[tokio::test]
async fn one_request_too_many_is_told_to_wait() {
    let config = GatewayConfig {
        requests_max: 1,
        ..config()
    };
    let script = vec![Step::from(started()), Step::Wait(Duration::from_secs(3600))];
    let backend = Scripted::new(vec![script]);
    let router = router(&backend, config);
    let body = r#"{"prompt": "x", "stream": true}"#;
    let first = request(Method::POST, "/v1/completions", body);
    let open = tower::ServiceExt::oneshot(router.clone(), first)
        .await
        .unwrap();
    let second = send(router.clone(), request(Method::GET, "/v1/models", "")).await;
    assert_eq!(second.status, 429);
    assert_eq!(second.header("retry-after"), Some("1"));
    assert!(second.body.contains("1 requests are running"));
    let health = send(router.clone(), request(Method::GET, "/health", "")).await;
    assert_eq!(health.status, 200);
    drop(open);
    let third = send(router, request(Method::GET, "/v1/models", "")).await;
    assert_eq!(third.status, 200);
}

#[tokio::test]
async fn a_panic_costs_one_request() {
    let backend = Scripted::new(vec![vec![Step::Panic]]);
    let reply = post(&backend, "/v1/completions", r#"{"prompt": "x"}"#).await;
    assert_eq!(reply.status, 500);
    assert_eq!(reply.json()["error"]["code"], "internal_error");
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let reply = with_headers(config(), Method::GET, "/health", &[]).await;
    assert_eq!(reply.header("x-request-id"), Some("req-0"));
    let reply = with_headers(config(), Method::GET, "/x", &[("x-request-id", "mine")]).await;
    assert_eq!(reply.header("x-request-id"), Some("mine"));
    let long = "x".repeat(200);
    let reply = with_headers(config(), Method::GET, "/x", &[("x-request-id", &long)]).await;
    assert_eq!(reply.header("x-request-id"), Some("req-0"));
}

#[tokio::test]
async fn a_dropped_answer_cancels_its_job() {
    let script = vec![Step::from(started()), Step::Wait(Duration::from_secs(3600))];
    let backend = Scripted::new(vec![script]);
    let body = r#"{"prompt": "x", "stream": true}"#;
    let request = request(Method::POST, "/v1/completions", body);
    let response = tower::ServiceExt::oneshot(router(&backend, config()), request)
        .await
        .unwrap();
    assert_eq!(backend.n_cancelled(), 0);
    drop(response);
    assert_eq!(backend.n_cancelled(), 1);
}

#[tokio::test]
async fn a_finished_answer_cancels_nothing() {
    let backend = Scripted::new(vec![hello()]);
    let body = r#"{"prompt": "x", "stream": true}"#;
    let reply = post(&backend, "/v1/completions", body).await;
    assert!(reply.body.ends_with("[DONE]\n\n"));
    assert_eq!(backend.n_cancelled(), 0);
    let headers: &HeaderMap = &reply.headers;
    assert_eq!(headers["content-type"], "text/event-stream; charset=utf-8");
}
