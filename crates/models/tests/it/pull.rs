//! Pulls that work: what is asked for, what lands where, what is not asked twice.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use models::gguf::write::Writer;
use models::pull::{Options, PullError, Pulled, Puller};
use models::stores::{Manifest, Platform};
use models::{Environment, Progress, Resolved, Source, Store, resolve};

use crate::server::{Fault, Server, sha256};

/// A machine with an empty home that pulls from a local server only.
pub(crate) struct Machine {
    _folder: tempfile::TempDir,
    pub(crate) environment: Environment,
    pub(crate) store: PathBuf,
}

impl Machine {
    pub(crate) fn new(server: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("models");
        let environment = Environment::bare(Platform::Linux, folder.path())
            .with_root(folder.path())
            .with_var("SEXTANT_MODELS", store.display().to_string())
            .with_var("HF_ENDPOINT", server.url.clone())
            .with_var("OLLAMA_REGISTRY", server.url.clone())
            .with_var("PIP_INDEX_URL", format!("{}/simple/", server.url));
        Self {
            _folder: folder,
            environment,
            store,
        }
    }

    pub(crate) fn options(&self) -> Options {
        let mut options = Options::from_environment(&self.environment).unwrap();
        options.backoff = Duration::from_millis(1);
        options
    }

    pub(crate) fn puller(&self) -> Puller {
        Puller::new(self.options()).unwrap()
    }

    pub(crate) async fn pull(&self, spec: &str) -> Result<Pulled, PullError> {
        pull_with(&self.puller(), spec).await
    }
}

pub(crate) async fn pull_with(puller: &Puller, spec: &str) -> Result<Pulled, PullError> {
    let source = Source::parse(spec).unwrap().unwrap();
    puller.pull(&source, &|_: Progress| ()).await
}

/// A sound model of about `bytes` bytes.
pub(crate) fn model_of(bytes: u64) -> Vec<u8> {
    Writer::tiny_model().tensor("bulk", 24, &[bytes]).bytes()
}

#[tokio::test]
async fn a_hub_repository_gives_the_preferred_quantisation_and_its_manifest() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let (small, large) = (model_of(5000), model_of(9000));
    let paths = server.put_repository(
        "owner/Tiny-GGUF",
        &[
            ("Tiny-Q8_0.gguf", &large),
            ("Tiny-Q4_K_M.gguf", &small),
            ("mmproj-F16.gguf", &large),
        ],
    );
    let pulled = machine.pull("hf:owner/Tiny-GGUF").await.unwrap();
    assert_eq!(
        pulled.path,
        machine.store.join("hf/owner/Tiny-GGUF/Tiny-Q4_K_M.gguf")
    );
    assert_eq!(fs::read(&pulled.path).unwrap(), small);
    let manifest = Manifest::read(&pulled.path).unwrap();
    assert_eq!(manifest.source, "hf:owner/Tiny-GGUF");
    assert_eq!(manifest.sha256, sha256(&small));
    assert_eq!(manifest.bytes, small.len() as u64);

    let Resolved::Present(found) = resolve(&machine.environment, "hf:owner/Tiny-GGUF").unwrap()
    else {
        panic!("just pulled");
    };
    assert_eq!(found.store, Store::Own);
    // A second pull reads the list and no file.
    machine.pull("hf:owner/Tiny-GGUF").await.unwrap();
    assert_eq!(server.seen(&paths[1]).len(), 1);
    let names: Vec<String> = fs::read_dir(pulled.path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[tokio::test]
async fn shards_come_together_or_not_at_all() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let first = Writer::tiny_model().u32("split.count", 2).bytes();
    let second = Writer::new()
        .u32("split.count", 2)
        .u32("split.no", 1)
        .tensor("x", 0, &[64])
        .bytes();
    server.put_repository(
        "o/split",
        &[
            ("m-Q4_0-00001-of-00002.gguf", &first),
            ("m-Q4_0-00002-of-00002.gguf", &second),
        ],
    );
    let pulled = machine.pull("hf:o/split:Q4_0").await.unwrap();
    assert_eq!(pulled.files.len(), 2);
    assert!(pulled.path.ends_with("m-Q4_0-00001-of-00002.gguf"));
    let removed = models::stores::remove(&machine.environment, "m-Q4_0").unwrap();
    assert_eq!(removed.files.len(), 4);
}

#[tokio::test]
async fn an_ollama_model_comes_with_its_template() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let (model, template) = (model_of(3000), b"{{ .Prompt }}".to_vec());
    let layer = |kind: &str, body: &[u8]| {
        server.put(
            &format!("/v2/library/tiny/blobs/sha256:{}", sha256(body)),
            body.to_vec(),
        );
        serde_json::json!({
            "mediaType": format!("application/vnd.ollama.image.{kind}"),
            "digest": format!("sha256:{}", sha256(body)), "size": body.len(),
        })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2, "layers": [layer("model", &model), layer("template", &template)],
    });
    server.put("/v2/library/tiny/manifests/1b", manifest.to_string());
    let pulled = machine.pull("ollama:tiny:1b").await.unwrap();
    assert_eq!(
        pulled.path,
        machine.store.join("ollama/library/tiny/1b.gguf")
    );
    assert_eq!(fs::read(&pulled.files[1]).unwrap(), template);
    let Resolved::Present(found) = resolve(&machine.environment, "tiny").unwrap() else {
        panic!("just pulled");
    };
    assert_eq!(found.id, "tiny:1b");
    let missing = machine.pull("ollama:tiny:2b").await.unwrap_err();
    assert!(matches!(missing, PullError::NotFound { .. }), "{missing}");
}

#[tokio::test]
async fn an_address_needs_no_length_and_no_checksum() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = model_of(200_000);
    server.put("/a/m.gguf", model.clone());
    server.faults("/a/m.gguf", [Fault::NoLength]);
    let spec = format!("{}/a/m.gguf?key=secret", server.url);
    let pulled = machine.pull(&spec).await.unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), model);
    let manifest = fs::read_to_string(Manifest::path_of(&pulled.path)).unwrap();
    assert!(!manifest.contains("secret"), "{manifest}");
}

#[tokio::test]
async fn addresses_of_one_file_name_do_not_meet() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let mut paths = Vec::new();
    for folder in ["a", "b"] {
        server.put(&format!("/{folder}/m.gguf"), model_of(200_000));
        let spec = format!("{}/{folder}/m.gguf", server.url);
        paths.push(machine.pull(&spec).await.unwrap().path);
    }
    assert_ne!(paths[0], paths[1]);
    assert!(paths.iter().all(|path| path.is_file()));
}

#[tokio::test]
async fn progress_counts_up_to_the_total() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = model_of(1 << 20);
    server.put("/m.gguf", model.clone());
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let source = Source::parse(&format!("{}/m.gguf", server.url))
        .unwrap()
        .unwrap();
    let report = move |progress| sender.send(progress).unwrap();
    machine.puller().pull(&source, &report).await.unwrap();
    let mut last = 0;
    while let Ok(progress) = receiver.try_recv() {
        assert!(progress.done.0 > last);
        assert_eq!(progress.total.unwrap().0, model.len() as u64);
        last = progress.done.0;
    }
    assert_eq!(last, model.len() as u64);
}

#[tokio::test]
async fn two_pulls_of_one_file_fetch_it_once() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = model_of(500_000);
    let paths = server.put_repository("o/r", &[("m-Q4_0.gguf", &model)]);
    let (one, two) = (machine.puller(), machine.puller());
    let (a, b) = tokio::join!(pull_with(&one, "hf:o/r"), pull_with(&two, "hf:o/r"));
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(server.seen(&paths[0]).len(), 1);
}
