//! The server loop over TLS.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::scripted::{Scripted, Step, config, started, text};
use super::server::{Running, STREAM, eventually, raw, read_until, run};
use crate::{GatewayConfig, Tls, TlsError, TlsFiles};

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn issue() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// A folder with a certificate and its key.
struct Folder {
    folder: TempDir,
    issued: CertifiedKey<KeyPair>,
}

impl Folder {
    fn new() -> Self {
        let folder = Self {
            folder: tempfile::tempdir().unwrap(),
            issued: issue(),
        };
        folder.write(&folder.issued);
        folder
    }

    fn write(&self, issued: &CertifiedKey<KeyPair>) {
        let TlsFiles { certificate, key } = self.files();
        fs::write(certificate, issued.cert.pem()).unwrap();
        fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.path("cert.pem"),
            key: self.path("key.pem"),
        }
    }

    fn open(&self) -> Tls {
        Tls::open(self.files()).unwrap()
    }
}

async fn run_with(tls: &Tls, backend: &Arc<Scripted>) -> Running {
    let config = GatewayConfig {
        tls: Some(tls.clone()),
        ..config()
    };
    run(backend, config).await
}

/// A client that trusts one certificate.
fn connector(issued: &CertifiedKey<KeyPair>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn connect(running: &Running, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(running.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    connector.connect(name, socket).await.unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'_> {
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain[0].clone()
}

#[tokio::test]
async fn requests_are_answered_over_tls() {
    let folder = Folder::new();
    let running = run_with(&folder.open(), &Scripted::idle()).await;
    let mut stream = connect(&running, &connector(&folder.issued)).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    // More than one on a connection.
    for _ in 0..2 {
        stream.write_all(HEALTH).await.unwrap();
        let answer = read_until(&mut stream, "ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut stream, "<title>Sextant</title>").await;
    running.task.abort();
}

#[tokio::test]
async fn who_does_not_speak_tls_costs_only_itself() {
    let folder = Folder::new();
    let config = GatewayConfig {
        tls: Some(folder.open()),
        header_timeout: Duration::from_millis(200),
        ..config()
    };
    let running = run(&Scripted::idle(), config).await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    // A handshake that stops within its first record.
    let mut half = TcpStream::connect(running.address).await.unwrap();
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let mut plain = TcpStream::connect(running.address).await.unwrap();
    plain.write_all(HEALTH).await.unwrap();
    let mut told = String::new();
    plain.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 400 "), "{told}");
    let (head, body) = told.split_once("\r\n\r\n").unwrap();
    assert!(body.contains("https://"), "{told}");
    let length = format!("\r\ncontent-length: {}", body.len());
    assert!(head.ends_with(&length), "{told}");
    let mut garbage = TcpStream::connect(running.address).await.unwrap();
    garbage.write_all(&[22; 512]).await.unwrap();

    let mut stream = connect(&running, &connector(&folder.issued)).await;
    stream.write_all(HEALTH).await.unwrap();
    read_until(&mut stream, "ok").await;

    // They are let go in the time that headers have.
    for mut socket in silent.into_iter().chain([half, garbage]) {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut rest));
        assert!(end.await.is_ok(), "still open");
    }
    running.task.abort();
}

#[tokio::test]
async fn an_unfinished_handshake_does_not_hold_up_the_end() {
    let folder = Folder::new();
    let running = run_with(&folder.open(), &Scripted::idle()).await;
    let mut half = TcpStream::connect(running.address).await.unwrap();
    half.write_all(&[22, 3, 1]).await.unwrap();
    // Whoever comes later has been accepted later.
    let mut stream = connect(&running, &connector(&folder.issued)).await;
    stream.write_all(HEALTH).await.unwrap();
    read_until(&mut stream, "ok").await;
    let began = std::time::Instant::now();
    running.stop.send(()).unwrap();
    running.task.await.unwrap();
    assert!(began.elapsed() < config().header_timeout / 2);
}

#[tokio::test]
async fn a_renewed_certificate_is_for_those_who_come() {
    let folder = Folder::new();
    let tls = folder.open();
    let pause = Duration::from_secs(3600);
    let script = vec![
        Step::from(started()),
        text(0, "a").into(),
        Step::Wait(pause),
    ];
    let backend = Scripted::new(vec![script]);
    let config = GatewayConfig {
        tls: Some(tls.clone()),
        keep_alive_secs: 1,
        ..config()
    };
    let running = run(&backend, config).await;
    // The same client as later, so that it could resume its session.
    let old = connector(&folder.issued);
    let mut stream = connect(&running, &old).await;
    stream.write_all(raw(STREAM).as_bytes()).await.unwrap();
    read_until(&mut stream, "\"text\":\"a\"").await;
    assert_eq!(&shown(&stream), folder.issued.cert.der());

    let renewed = issue();
    folder.write(&renewed);
    tls.renew().unwrap();
    let new = connect(&running, &connector(&renewed)).await;
    assert_eq!(&shown(&new), renewed.cert.der());
    let socket = TcpStream::connect(running.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    assert!(
        old.connect(name, socket).await.is_err(),
        "the old one is shown"
    );

    // What cannot be used changes nothing.
    fs::write(folder.files().certificate, "-----BEGIN NONSENSE-----").unwrap();
    assert!(tls.renew().is_err());
    let new = connect(&running, &connector(&renewed)).await;
    assert_eq!(&shown(&new), renewed.cert.der());

    // The stream that began before goes on.
    read_until(&mut stream, ": keep-alive").await;
    assert_eq!(backend.n_cancelled(), 0);
    drop(stream);
    eventually(|| backend.n_cancelled() == 1).await;
    running.task.abort();
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let folder = Folder::new();
    let other = folder.path("other.pem");
    fs::write(&other, issue().signing_key.serialize_pem()).unwrap();
    let empty = folder.path("empty.pem");
    fs::write(&empty, "nothing\n").unwrap();
    let large = folder.path("large.pem");
    fs::write(&large, vec![b' '; (1 << 20) + 1]).unwrap();
    let missing = folder.path("missing.pem");
    let TlsFiles { certificate, key } = folder.files();
    let cases = [
        (&certificate, &other, "does not belong to the certificate"),
        (&certificate, &missing, "cannot read the key"),
        (
            &certificate,
            &certificate,
            "no PEM section with a private key",
        ),
        (&empty, &key, "no PEM section `CERTIFICATE`"),
        (&large, &key, "more than 1048576 bytes"),
        (&certificate, &large, "more than 1048576 bytes"),
    ];
    for (certificate, key, why) in cases {
        let files = TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let error = Tls::open(files).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(why), "{told}");
        let at_fault = match error {
            TlsError::Mismatch { key, .. } => key,
            TlsError::Unreadable { path, .. }
            | TlsError::TooLarge { path, .. }
            | TlsError::Unusable { path, .. } => path,
        };
        assert!(told.contains(at_fault.to_str().unwrap()), "{told}");
    }
}
