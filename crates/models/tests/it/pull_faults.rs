//! Servers and disks that misbehave.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use models::pull::{DiskProbe, PullError, Puller};
use models::{ArtifactFault, Source};

use crate::pull::{Machine, model_of, pull_with};
use crate::server::{Fault, Server};

fn status(status: u16) -> Fault {
    Fault::Status(status, Vec::new())
}

struct Hub {
    server: Server,
    machine: Machine,
    model: Vec<u8>,
    path: String,
}

/// A repository `o/r` with one model of 2 MB.
async fn hub() -> Hub {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = model_of(2 << 20);
    let path = server
        .put_repository("o/r", &[("m-Q4_0.gguf", &model)])
        .remove(0);
    Hub {
        server,
        machine,
        model,
        path,
    }
}

impl Hub {
    /// Pulls and checks that the right bytes arrived; gives the ranges asked for.
    async fn pull_right(&self) -> Vec<Option<u64>> {
        let pulled = self.machine.pull("hf:o/r").await.unwrap();
        assert!(fs::read(&pulled.path).unwrap() == self.model, "wrong bytes");
        self.ranges()
    }

    fn ranges(&self) -> Vec<Option<u64>> {
        let start = |range: String| {
            range
                .trim_matches(|c: char| !c.is_ascii_digit())
                .parse()
                .unwrap()
        };
        self.server
            .seen(&self.path)
            .into_iter()
            .map(|seen| seen.range.map(start))
            .collect()
    }

    async fn fail(&self) -> PullError {
        self.machine.pull("hf:o/r").await.unwrap_err()
    }

    fn part(&self) -> std::path::PathBuf {
        self.machine.store.join("hf/o/r/m-Q4_0.gguf.part")
    }
}

#[tokio::test]
async fn a_broken_connection_continues_where_it_stopped() {
    let hub = hub().await;
    hub.server.faults(
        &hub.path,
        [Fault::CutAfter(1 << 20), Fault::CutAfter(800_000)],
    );
    let ranges = hub.pull_right().await;
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[0], None);
    assert!(ranges[1] > Some(0) && ranges[2] > ranges[1], "{ranges:?}");
}

#[tokio::test]
async fn servers_that_mishandle_ranges_still_give_the_right_file() {
    let table: [(&str, Vec<Fault>, usize); 4] = [
        ("range ignored", vec![Fault::IgnoreRange], 2),
        ("wrong range", vec![Fault::WrongRange], 3),
        ("wrong 416", vec![status(416)], 3),
        ("server error", vec![status(503), status(500)], 4),
    ];
    for (name, mut faults, requests) in table {
        let hub = hub().await;
        faults.insert(0, Fault::CutAfter(1 << 20));
        hub.server.faults(&hub.path, faults);
        assert_eq!(hub.pull_right().await.len(), requests, "{name}");
    }
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_starts_again() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let (old, new) = (model_of(2 << 20), model_of((2 << 20) + 64));
    server.put("/m.gguf", old);
    server.etag("/m.gguf", "\"old\"");
    server.faults("/m.gguf", [Fault::CutAfter(1 << 20), status(404)]);
    let spec = format!("{}/m.gguf", server.url);
    assert!(machine.pull(&spec).await.is_err());
    server.put("/m.gguf", new.clone());
    server.etag("/m.gguf", "\"new\"");
    let pulled = machine.pull(&spec).await.unwrap();
    assert!(fs::read(&pulled.path).unwrap() == new);
    let last = server.seen("/m.gguf").pop().unwrap();
    assert!(
        last.range.is_some(),
        "the server was asked to continue and said no"
    );
}

#[tokio::test]
async fn without_a_checksum_or_an_entity_tag_nothing_is_glued_together() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = model_of(2 << 20);
    server.put("/m.gguf", model.clone());
    server.faults("/m.gguf", [Fault::CutAfter(1 << 20)]);
    let pulled = machine
        .pull(&format!("{}/m.gguf", server.url))
        .await
        .unwrap();
    assert!(fs::read(&pulled.path).unwrap() == model);
    assert!(
        server
            .seen("/m.gguf")
            .iter()
            .all(|seen| seen.range.is_none())
    );
}

#[tokio::test]
async fn a_refusal_leaves_no_empty_file() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    server.put("/m.gguf", model_of(2 << 20));
    server.faults("/m.gguf", [status(403)]);
    let url = format!("{}/m.gguf", server.url);
    let error = machine.pull(&url).await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    let hub = hub().await;
    hub.server.faults(&hub.path, [status(404)]);
    hub.fail().await;
    // The lock stays: deleting it would open a gap for two at once.
    for store in [&machine.store, &hub.machine.store] {
        assert_eq!(files_under(store), Vec::<std::path::PathBuf>::new());
    }
}

fn files_under(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with(".locks") {
            continue;
        }
        if path.is_dir() {
            files.extend(files_under(&path));
        } else {
            files.push(path);
        }
    }
    files
}

#[tokio::test]
async fn a_wrong_checksum_names_both_and_keeps_nothing() {
    let hub = hub().await;
    let mut evil = hub.model.clone();
    *evil.last_mut().unwrap() ^= 1;
    hub.server.put(&hub.path, evil);
    let error = hub.fail().await;
    let PullError::Checksum { expected, got, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(expected, &crate::server::sha256(&hub.model));
    assert_ne!(expected, got);
    assert!(!hub.part().exists() && !hub.machine.store.join("hf/o/r/m-Q4_0.gguf").exists());
}

#[tokio::test]
async fn bad_bytes_of_an_earlier_run_are_replaced() {
    let hub = hub().await;
    hub.server
        .faults(&hub.path, [Fault::CutAfter(1 << 20), status(404)]);
    assert!(matches!(hub.fail().await, PullError::NotFound { .. }));
    let mut part = fs::read(hub.part()).unwrap();
    part[1000] ^= 1;
    fs::write(hub.part(), part).unwrap();
    let ranges = hub.pull_right().await;
    assert_eq!(ranges.last(), Some(&None), "{ranges:?}");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let hub = hub().await;
    hub.server.faults(&hub.path, [status(401)]);
    let gated = hub.fail().await.to_string();
    let page = format!(
        "accept the licence at {}/o/r, and set HF_TOKEN",
        hub.server.url
    );
    assert!(
        gated.contains("(HTTP 401)") && gated.contains(&page),
        "{gated}"
    );

    hub.server.faults("/api/models/o/r", [status(403)]);
    let listed = hub.fail().await.to_string();
    assert!(
        listed.contains("check that the repository exists"),
        "{listed}"
    );

    let absent = hub.machine.pull("hf:o/other").await.unwrap_err();
    assert!(
        matches!(absent, PullError::NotFound { status: 404, .. }),
        "{absent}"
    );
}

#[tokio::test]
async fn too_many_requests_are_waited_for_within_reason() {
    let hub = hub().await;
    let after = |seconds: &str| Fault::Status(429, vec![("retry-after", seconds.to_owned())]);
    hub.server.faults(&hub.path, [after("3600")]);
    let error = hub.fail().await;
    let wait = Some(Duration::from_secs(3600));
    assert!(
        matches!(error, PullError::RateLimited { retry_after, .. } if retry_after == wait),
        "{error}"
    );
    assert!(error.to_string().contains("in 3600 s"), "{error}");

    hub.server.faults(&hub.path, [after("0"), after("0")]);
    hub.pull_right().await;
}

#[tokio::test]
async fn attempts_are_bounded() {
    let hub = hub().await;
    hub.server.faults(&hub.path, vec![status(503); 50]);
    let error = hub.fail().await;
    assert!(
        matches!(error, PullError::Network { attempts: 6, .. }),
        "{error}"
    );
    assert_eq!(hub.ranges().len(), 6);
}

#[tokio::test]
async fn the_token_stays_with_its_own_host() {
    let hub = hub().await;
    let storage = Server::start().await;
    storage.put("/blob.gguf", hub.model.clone());
    let there = vec![("location", format!("{}/blob.gguf", storage.url))];
    hub.server.faults(&hub.path, [Fault::Status(302, there)]);
    let mut machine = Machine::new(&hub.server);
    machine.environment = machine.environment.with_var("HF_TOKEN", "hf_secret");
    machine.pull("hf:o/r").await.unwrap();
    let bearer = Some("Bearer hf_secret".to_owned());
    assert_eq!(hub.server.seen("/api/models/o/r")[0].authorization, bearer);
    assert_eq!(hub.server.seen(&hub.path)[0].authorization, bearer);
    assert_eq!(storage.seen("/blob.gguf")[0].authorization, None);
}

#[tokio::test]
async fn redirects_may_not_leave_encryption_or_run_in_circles() {
    let hub = hub().await;
    let to = |target: &str| Fault::Status(302, vec![("location", target.to_owned())]);
    hub.server
        .faults(&hub.path, [to("http://models.example/x")]);
    let plain = hub.fail().await;
    assert!(plain.to_string().contains("is not HTTPS"), "{plain}");
    hub.server.faults(&hub.path, vec![to(&hub.path); 20]);
    let circle = hub.fail().await;
    assert!(
        circle.to_string().contains("one redirect too many"),
        "{circle}"
    );
}

#[tokio::test]
async fn a_web_page_under_a_models_name_does_not_land() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    server.put("/m.gguf", "<!doctype html><title>Sign in</title>");
    let error = machine
        .pull(&format!("{}/m.gguf", server.url))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            PullError::Artifact(ArtifactFault::WrongFormat { .. })
        ),
        "{error}"
    );
    assert!(models::list(&machine.environment).is_empty());
}

#[derive(Debug)]
struct SmallDisk(u64);

impl DiskProbe for SmallDisk {
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0)
    }
}

#[tokio::test]
async fn a_full_disk_is_noticed_before_the_first_byte() {
    let hub = hub().await;
    let mut options = hub.machine.options();
    options.disk = Arc::new(SmallDisk(1 << 20));
    let error = pull_with(&Puller::new(options).unwrap(), "hf:o/r")
        .await
        .unwrap_err();
    assert!(
        matches!(error, PullError::DiskFull { free: Some(_), .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("1.0 MiB free; free some space"),
        "{error}"
    );
    assert!(!hub.part().exists());
}

/// The device that is always full stands in for a disk that fills up meanwhile.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_disk_that_fills_up_meanwhile_is_called_full() {
    let hub = hub().await;
    fs::create_dir_all(hub.part().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", hub.part()).unwrap();
    let error = hub.fail().await;
    assert!(matches!(error, PullError::DiskFull { .. }), "{error}");
}

#[tokio::test]
async fn a_dropped_pull_is_continued_by_a_fresh_one() {
    let hub = hub().await;
    hub.server.faults(&hub.path, [Fault::HoldAfter(1 << 20)]);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let puller = hub.machine.puller();
    let task = tokio::spawn(async move {
        let source = Source::parse("hf:o/r").unwrap().unwrap();
        let report = move |progress: models::Progress| sender.send(progress.done.0).unwrap();
        puller.pull(&source, &report).await
    });
    while receiver.recv().await.unwrap() < 1 << 20 {}
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let ranges = hub.pull_right().await;
    assert_eq!(ranges.len(), 2);
    assert!(ranges[1] > Some(0), "{ranges:?}");
}
