//! The server loop over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::scripted::{Scripted, Step, config, hello, router, started, text};
use crate::{GatewayConfig, serve};

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) task: JoinHandle<()>,
}

pub(super) async fn run(backend: &Arc<Scripted>, config: GatewayConfig) -> Running {
    let app = router(backend, config.clone());
    run_app(app, config).await
}

pub(super) async fn run_app(app: Router, config: GatewayConfig) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        let served = serve(vec![listener], app, &config, shutdown).await;
        served.unwrap();
    });
    Running {
        address,
        stop,
        task,
    }
}

pub(super) fn raw(body: &str) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(super) const STREAM: &str = r#"{"prompt": "x", "stream": true}"#;

pub(super) async fn read_until(socket: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        let n = socket.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "closed after: {text}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    text
}

/// Polls a condition that another task makes true.
pub(super) async fn eventually(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_job() {
    let script = vec![
        Step::from(started()),
        text(0, "a").into(),
        Step::Wait(Duration::from_secs(3600)),
    ];
    let backend = Scripted::new(vec![script]);
    let running = run(&backend, config()).await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    socket.write_all(raw(STREAM).as_bytes()).await.unwrap();
    // The event arrives although nothing follows it: it was flushed on its own.
    read_until(&mut socket, "\"text\":\"a\"").await;
    drop(socket);
    eventually(|| backend.n_cancelled() == 1).await;
    running.task.abort();
}

#[tokio::test]
async fn a_client_that_leaves_before_a_whole_answer_cancels_too() {
    let script = vec![Step::from(started()), Step::Wait(Duration::from_secs(3600))];
    let backend = Scripted::new(vec![script]);
    let running = run(&backend, config()).await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    socket
        .write_all(raw(r#"{"prompt": "x"}"#).as_bytes())
        .await
        .unwrap();
    eventually(|| !backend.jobs.lock().unwrap().is_empty()).await;
    drop(socket);
    eventually(|| backend.n_cancelled() == 1).await;
    running.task.abort();
}

#[tokio::test]
async fn headers_come_before_the_first_token() {
    let script = vec![Step::Wait(Duration::from_secs(3600))];
    let backend = Scripted::new(vec![script]);
    let config = GatewayConfig {
        commit_after: Duration::from_millis(20),
        ..config()
    };
    let running = run(&backend, config).await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    socket.write_all(raw(STREAM).as_bytes()).await.unwrap();
    let seen = read_until(&mut socket, ": keep-alive").await;
    assert!(seen.starts_with("HTTP/1.1 200 OK"), "{seen}");
    running.task.abort();
}

#[tokio::test]
async fn shutdown_waits_for_what_is_running() {
    let mut script = vec![
        Step::from(started()),
        Step::Wait(Duration::from_millis(200)),
    ];
    script.extend(hello().into_iter().skip(1).map(Step::from));
    let backend = Scripted::new(vec![script]);
    let running = run(&backend, config()).await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    socket
        .write_all(raw(r#"{"prompt": "x"}"#).as_bytes())
        .await
        .unwrap();
    eventually(|| !backend.jobs.lock().unwrap().is_empty()).await;
    running.stop.send(()).unwrap();
    let answer = read_until(&mut socket, "Hello world").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    tokio::time::timeout(Duration::from_secs(10), running.task)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn shutdown_cuts_what_takes_too_long() {
    let script = vec![
        Step::from(started()),
        text(0, "a").into(),
        Step::Wait(Duration::from_secs(3600)),
    ];
    let backend = Scripted::new(vec![script]);
    let config = GatewayConfig {
        shutdown_timeout: Duration::from_millis(20),
        ..config()
    };
    let running = run(&backend, config).await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    socket.write_all(raw(STREAM).as_bytes()).await.unwrap();
    read_until(&mut socket, "\"text\":\"a\"").await;
    running.stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running.task)
        .await
        .unwrap()
        .unwrap();
    eventually(|| backend.n_cancelled() == 1).await;
}

#[tokio::test]
async fn headers_that_do_not_come_close_the_connection() {
    let config = GatewayConfig {
        header_timeout: Duration::from_millis(50),
        ..config()
    };
    let running = run(&Scripted::idle(), config).await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    socket
        .write_all(b"GET /health HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut rest)).await;
    assert!(closed.is_ok());
    running.task.abort();
}

#[tokio::test]
async fn who_sends_a_refused_body_to_its_end_still_gets_the_answer() {
    let running = run(&Scripted::idle(), config()).await;
    // One is refused for its announced length, the other for its path.
    let too_long = raw(&" ".repeat(20 << 20));
    let unknown = too_long.replacen("/v1/completions", "/nowhere", 1);
    for (request, status) in [(too_long, " 413 "), (unknown, " 404 ")] {
        let mut socket = TcpStream::connect(running.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut socket, "\r\n\r\n").await;
        assert!(answer.contains(status), "{answer}");
    }
    running.task.abort();
}

#[tokio::test]
async fn a_connection_over_the_limit_waits() {
    let config = GatewayConfig {
        connections_max: 1,
        ..config()
    };
    let running = run(&Scripted::idle(), config).await;
    let ask = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut first = TcpStream::connect(running.address).await.unwrap();
    first.write_all(ask).await.unwrap();
    read_until(&mut first, "ok").await;
    let mut second = TcpStream::connect(running.address).await.unwrap();
    second.write_all(ask).await.unwrap();
    let mut byte = [0];
    let waits = tokio::time::timeout(Duration::from_millis(100), second.read(&mut byte)).await;
    assert!(waits.is_err(), "served over the limit");
    drop(first);
    read_until(&mut second, "ok").await;
    running.task.abort();
}
