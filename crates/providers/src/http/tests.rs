use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A client of an engine on this machine, and that engine's ear.
async fn pair() -> (Client, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let url = Url::parse(&url).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "Bearer key".parse().unwrap());
    let client = Client::new(&url, &headers, Duration::from_secs(5), None);
    (client, listener)
}

const POST: Request<'static> = Request {
    method: "POST",
    path: "/v1/chat/completions",
    headers: &[],
    body: b"{}",
};

/// Reads a request with the body `{}`.
async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n{}") {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
    }
    String::from_utf8(bytes).unwrap()
}

async fn whole(client: &Client) -> Result<Vec<u8>, Error> {
    let mut body = client.send(&POST).await?.body;
    let mut whole = Vec::new();
    while let Some(chunk) = body.chunk().await? {
        whole.extend_from_slice(chunk);
    }
    Ok(whole)
}

/// What a client gets of an engine that answers its first request with `answer` and closes.
async fn answered(answer: &[u8]) -> Result<Vec<u8>, Error> {
    let (client, listener) = pair().await;
    let engine = async {
        let mut stream = listener.accept().await.unwrap().0;
        request(&mut stream).await;
        stream.write_all(answer).await.unwrap();
    };
    tokio::join!(whole(&client), engine).0
}

#[tokio::test]
async fn a_request_has_all_its_lines() {
    let (client, listener) = pair().await;
    let headers = [("x-more", "a\r\nb: c".to_owned())];
    let post = Request {
        headers: &headers,
        ..POST
    };
    let engine = async {
        let mut stream = listener.accept().await.unwrap().0;
        let text = request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 204 Fine\r\n\r\n")
            .await
            .unwrap();
        text
    };
    let (answer, text) = tokio::join!(client.send(&post), engine);
    assert_eq!(answer.unwrap().head.status, 204);
    let host = listener.local_addr().unwrap();
    let lines = [
        "POST /v1/chat/completions HTTP/1.1".to_owned(),
        format!("host: {host}"),
        concat!("user-agent: sextant/", env!("CARGO_PKG_VERSION")).to_owned(),
        "accept: */*".to_owned(),
        "authorization: Bearer key".to_owned(),
        "x-more: ab: c".to_owned(),
        "content-type: application/json".to_owned(),
        "content-length: 2".to_owned(),
        String::new(),
        "{}".to_owned(),
    ];
    assert_eq!(text.split("\r\n").collect::<Vec<_>>(), lines);
}

#[tokio::test]
async fn bodies_come_whole_in_each_framing() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nhello",
        "HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        assert_eq!(
            answered(answer.as_bytes()).await.unwrap(),
            b"hello",
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_large_body_comes_whole() {
    let large = "0123456789abcdef".repeat(100_000);
    let length = large.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{large}");
    let read = answered(answer.as_bytes()).await.unwrap();
    assert!(read == large.as_bytes(), "{} bytes of {length}", read.len());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let broken = answered(answer.as_bytes()).await;
        assert!(
            matches!(broken, Err(Error::Broken(_))),
            "{answer}: {broken:?}"
        );
    }
    for answer in [
        "220 mail.example ESMTP\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nhello\r\n",
    ] {
        let odd = answered(answer.as_bytes()).await;
        assert!(matches!(odd, Err(Error::Malformed(_))), "{answer}: {odd:?}");
    }
}

#[tokio::test]
async fn nobody_at_an_address_is_unreachable() {
    let (client, listener) = pair().await;
    drop(listener);
    assert!(matches!(
        client.send(&POST).await,
        Err(Error::Unreachable(_))
    ));
}

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// An engine that answers `n` requests of a connection and gives it back.
async fn answers(listener: &TcpListener, n: usize, with: &[u8]) -> TcpStream {
    let mut stream = listener.accept().await.unwrap().0;
    for _ in 0..n {
        request(&mut stream).await;
        stream.write_all(with).await.unwrap();
    }
    stream
}

/// Two requests, one after the other.
async fn two(client: &Client) -> [Result<Vec<u8>, Error>; 2] {
    [whole(client).await, whole(client).await]
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.unwrap()
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let (client, listener) = pair().await;
    // A second connection would never be accepted.
    let both = async { tokio::join!(two(&client), answers(&listener, 2, HELLO)) };
    let ([first, second], _stream) = within(both).await;
    assert_eq!(
        (first.unwrap(), second.unwrap()),
        (b"hello".to_vec(), b"hello".to_vec())
    );
}

#[tokio::test]
async fn a_connection_is_not_used_again_where_that_is_unsure() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
        // Bytes that belong to no answer.
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello, you",
    ] {
        let (client, listener) = pair().await;
        let engine = async {
            let first = answers(&listener, 1, answer.as_bytes()).await;
            (first, answers(&listener, 1, HELLO).await)
        };
        let ([first, second], _) = within(async { tokio::join!(two(&client), engine) }).await;
        assert!(first.is_ok() && second.is_ok(), "{answer}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_engine_closes_costs_no_answer() {
    let (client, listener) = pair().await;
    let engine = async {
        let mut stale = answers(&listener, 1, HELLO).await;
        // It closes as the next request is on its way already.
        request(&mut stale).await;
        drop(stale);
        answers(&listener, 1, HELLO).await
    };
    let ([_, second], _) = within(async { tokio::join!(two(&client), engine) }).await;
    assert_eq!(second.unwrap(), b"hello");
}

#[tokio::test]
async fn a_request_is_not_sent_again_once_it_is_being_answered() {
    let (client, listener) = pair().await;
    let engine = async {
        let mut stream = answers(&listener, 1, HELLO).await;
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 2").await.unwrap();
    };
    let ([_, second], ()) = within(async { tokio::join!(two(&client), engine) }).await;
    assert!(matches!(second, Err(Error::Broken(_))), "{second:?}");
}

#[tokio::test]
async fn a_new_connection_that_is_closed_is_not_tried_twice() {
    let (client, listener) = pair().await;
    let engine = async {
        let mut stream = listener.accept().await.unwrap().0;
        request(&mut stream).await;
    };
    let (answer, ()) = within(async { tokio::join!(client.send(&POST), engine) }).await;
    assert!(matches!(answer, Err(Error::Broken(_))));
}

#[tokio::test]
async fn who_answers_before_the_request_is_there_is_heard() {
    let (client, listener) = pair().await;
    let body = vec![b' '; 64 << 20];
    let post = Request {
        body: &body,
        ..POST
    };
    let engine = async {
        let mut stream = listener.accept().await.unwrap().0;
        // And does not read the rest.
        stream
            .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        stream
    };
    let (answer, _stream) = within(async { tokio::join!(client.send(&post), engine) }).await;
    let answer = answer.unwrap();
    assert_eq!(answer.head.status, 413);
    assert!(!answer.body.is_kept, "half a request lies in it");
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_ends_its_connection() {
    let (client, listener) = pair().await;
    let engine = async {
        let mut stream = listener.accept().await.unwrap().0;
        request(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let n_read = stream.read(&mut [0]).await;
        n_read.unwrap_or_default()
    };
    let asks = async { drop(client.send(&POST).await.unwrap()) };
    let ((), n_read) = within(async { tokio::join!(asks, engine) }).await;
    assert_eq!(n_read, 0);
}
