//! Local servers that answer as each product does, and others that do not.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// A server that knows these routes and answers 404 to all others.
struct Server {
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Reply = fn(&str) -> Option<String>;

fn reply(status: &str, headers: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}connection: close\r\n\r\n{body}"
    ))
}

fn ok(body: &str) -> Option<String> {
    reply("200 OK", "content-type: application/json\r\n", body)
}

async fn server(answer: Reply) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut buffer = [0; 1024];
                while !request.windows(4).any(|part| part == b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(n @ 1..) => request.extend_from_slice(&buffer[..n]),
                        _ => return,
                    }
                }
                let request = String::from_utf8_lossy(&request);
                assert!(request.starts_with("GET "), "{request}");
                let path = request.split(' ').nth(1).unwrap();
                let none = || reply("404 Not Found", "", "nothing here");
                let text = answer(path).or_else(none).unwrap();
                let _ = stream.write_all(text.as_bytes()).await;
            });
        }
    });
    Server { port, task }
}

async fn found(answer: Reply) -> Option<Found> {
    let server = server(answer).await;
    discover(&[server.port]).await.pop()
}

const OPENAI: &str = r#"{"object":"list","data":[{"id":"m","object":"model"}]}"#;

#[tokio::test]
async fn each_product_is_known_by_its_own_route() {
    let cases: [(Reply, Product, &str, Option<u32>); 8] = [
        (
            |path| match path {
                "/api/version" => ok(r#"{"version":"0.12.1","sextant":"0.1.0"}"#),
                "/props" => ok(r#"{"default_generation_settings":{"n_ctx":1}}"#),
                "/v1/models" => ok(r#"{"data":[{"id":"m","context_length":4096}]}"#),
                _ => None,
            },
            Product::Sextant,
            "0.1.0",
            Some(4096),
        ),
        (
            |path| match path {
                "/api/version" => ok(r#"{"version":"0.9.0"}"#),
                "/api/tags" => ok(r#"{"models":[{"name":"m"}]}"#),
                "/api/ps" => ok(r#"{"models":[{"name":"m","context_length":8192}]}"#),
                _ => None,
            },
            Product::Ollama,
            "0.9.0",
            Some(8192),
        ),
        (
            |path| match path {
                "/api/version" => ok(r#"{"version":"0.7.0"}"#),
                "/api/extra/version" => ok(r#"{"result":"KoboldCpp","version":"1.99"}"#),
                "/v1/models" => ok(OPENAI),
                _ => None,
            },
            Product::KoboldCpp,
            "1.99",
            None,
        ),
        (
            |path| match path {
                "/api/v0/models" => ok(
                    r#"{"data":[{"id":"m","type":"llm","state":"loaded","loaded_context_length":99}]}"#,
                ),
                // It answers routes that it does not know too.
                _ => ok(r#"{"error":"Unexpected endpoint or method."}"#),
            },
            Product::LmStudio,
            "",
            Some(99),
        ),
        (
            |path| match path {
                "/props" => ok(r#"{"default_generation_settings":{"n_ctx":2048}}"#),
                "/v1/models" => ok(OPENAI),
                _ => None,
            },
            Product::LlamaServer,
            "",
            Some(2048),
        ),
        (
            |path| match path {
                "/version" => ok(r#"{"version":"0.11.0\u001b[2J\n[evil]"}"#),
                "/v1/models" => {
                    ok(r#"{"data":[{"id":"m","owned_by":"vllm","max_model_len":32768}]}"#)
                }
                _ => None,
            },
            Product::Vllm,
            "0.11.02Jevil",
            Some(32768),
        ),
        (
            |path| match path {
                "/v1/internal/model/info" => ok(r#"{"model_name":"m","lora_names":[]}"#),
                "/v1/models" => ok(OPENAI),
                _ => None,
            },
            Product::TextGenerationWebui,
            "",
            None,
        ),
        (
            |path| match path {
                "/v1/models" => ok(OPENAI),
                _ => None,
            },
            Product::Unknown,
            "",
            None,
        ),
    ];
    for (answer, product, version, context) in cases {
        let found = found(answer)
            .await
            .unwrap_or_else(|| panic!("no {product:?}"));
        assert_eq!(found.product, product);
        assert_eq!(
            found.version.as_deref().unwrap_or_default(),
            version,
            "{product:?}"
        );
        let models: Vec<_> = found
            .models
            .iter()
            .map(|one| (&*one.name, one.context))
            .collect();
        assert_eq!(models, [("m", context)], "{product:?}");
        assert!(!found.needs_key);
    }
}

#[tokio::test]
async fn one_that_wants_a_key_is_told_as_such() {
    // It says who it is with every answer.
    let found = found(|_| reply("401 Unauthorized", "server: llama.cpp\r\n", "{}"))
        .await
        .unwrap();
    assert_eq!(
        (found.product, found.needs_key),
        (Product::LlamaServer, true)
    );
    assert_eq!(found.models, []);
}

#[tokio::test]
async fn what_is_no_engine_is_not_found() {
    assert_eq!(
        found(|_| ok("<!doctype html>")).await,
        None,
        "a page for all paths"
    );
    assert_eq!(found(|_| None).await, None);
    assert_eq!(found(|_| reply("401 Unauthorized", "", "")).await, None);
    let moved: Reply = |_| reply("302 Found", "location: http://127.0.0.1:9/\r\n", "");
    assert_eq!(found(moved).await, None);
    assert_eq!(
        found(|_| Some("SSH-2.0-OpenSSH_9.9\r\n".into())).await,
        None
    );
    assert_eq!(found(|_| ok("[1, 2")).await, None);
}

#[tokio::test]
async fn nobody_and_one_who_hangs_take_no_time() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = silent.local_addr().unwrap().port();
    let engine = server(|path| (path == "/v1/models").then(|| ok(OPENAI)).flatten()).await;
    let began = Instant::now();
    let found = discover(&[closed, hangs, engine.port]).await;
    assert!(began.elapsed() < 5 * ANSWER, "{:?}", began.elapsed());
    let ports: Vec<_> = found.iter().map(|one| one.port).collect();
    assert_eq!(ports, [engine.port], "the engine beside it is found");
}

#[test]
fn addresses_of_this_machine_have_a_port_here() {
    let cases = [
        ("http://127.0.0.1:8080/v1", Some(8080)),
        ("http://localhost:1234", Some(1234)),
        ("http://[::1]:5000", Some(5000)),
        ("http://192.168.1.7:8080", None),
        ("https://api.example.com/v1", None),
    ];
    for (address, port) in cases {
        assert_eq!(local_port(address), port, "{address}");
    }
    let rest = ports_without(&[8080, 11460]);
    assert_eq!(rest, [11434, 1234, 8000, 5001, 5000]);
}
