//! A process killed in the middle of a download, and another one that continues.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use models::stores::Platform;
use models::{Environment, Source};

use crate::pull::{Machine, model_of};
use crate::server::{Fault, Server};

const ENDPOINT: &str = "SEXTANT_TEST_PULL_ENDPOINT";
const STORE: &str = "SEXTANT_TEST_PULL_STORE";

/// Not a test of its own: the process that gets killed. It does nothing unless
/// the test below starts it.
#[tokio::test]
async fn process_that_is_killed() {
    let (Ok(endpoint), Ok(store)) = (std::env::var(ENDPOINT), std::env::var(STORE)) else {
        return;
    };
    let environment = Environment::bare(Platform::Linux, &store)
        .with_var("SEXTANT_MODELS", &store)
        .with_var("HF_ENDPOINT", endpoint);
    let options = models::pull::Options::from_environment(&environment).unwrap();
    let source = Source::parse("hf:o/r").unwrap().unwrap();
    let report = |progress: models::Progress| println!("done {}", progress.done.0);
    models::Puller::new(options)
        .unwrap()
        .pull(&source, &report)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_a_download_that_continues() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = model_of(8 << 20);
    let path = server
        .put_repository("o/r", &[("m-Q4_0.gguf", &model)])
        .remove(0);
    server.faults(&path, [Fault::HoldAfter(6 << 20)]);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "pull_kill::process_that_is_killed",
            "--nocapture",
        ])
        .env(ENDPOINT, &server.url)
        .env(STORE, &machine.store)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let arrived = tokio::task::spawn_blocking(move || {
        stdout
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.rsplit_once("done ")?.1.parse::<u64>().ok())
            .any(|done| done >= 6 << 20)
    });
    assert!(
        arrived.await.unwrap(),
        "the child ended before it had 6 MiB"
    );
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());

    let pulled = machine.pull("hf:o/r").await.unwrap();
    assert!(std::fs::read(&pulled.path).unwrap() == model);
    let seen = server.seen(&path);
    assert_eq!(seen.len(), 2);
    let range = seen[1].range.as_ref().unwrap();
    let start: u64 = range
        .trim_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .unwrap();
    // The last piece may not have reached the file; everything before it had.
    assert!(start >= 3 << 20, "continued at {start}");
}
