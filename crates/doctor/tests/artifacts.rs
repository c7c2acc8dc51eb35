//! Broken models, each with what must be said of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use doctor::{Class, Finding, Severity, Templates, Wishes, of_model};
use models::examine::Depth;
use models::gguf::write::Writer;
use sha2::{Digest, Sha256};

/// A broken model: how it is made, what is asked of it, and the code, the class and a word of
/// the fix that must be among what is found.
struct Case {
    name: &'static str,
    make: fn(&Path) -> PathBuf,
    wishes: Wishes<'static>,
    code: &'static str,
    class: Class,
    fix: &'static str,
}

const fn case(
    name: &'static str,
    make: fn(&Path) -> PathBuf,
    (code, fix): (&'static str, &'static str),
) -> Case {
    Case {
        name,
        make,
        wishes: Wishes {
            context: None,
            template: None,
            templates: Templates::Run,
            chip: None,
        },
        code,
        class: Class::Artifact,
        fix,
    }
}

fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn model(folder: &Path, bytes: impl AsRef<[u8]>) -> PathBuf {
    put(folder, "m.gguf", bytes)
}

fn llama() -> Writer {
    Writer::new()
        .str("general.architecture", "llama")
        .tensor("token_embd.weight", 0, &[32, 4])
}

fn with_tokens(kind: &str) -> Writer {
    llama()
        .str("tokenizer.ggml.model", kind)
        .strings("tokenizer.ggml.tokens", &["a", "b", "c", "d"])
}

fn shard(number: u32, count: u32) -> Writer {
    Writer::new()
        .u32("split.count", count)
        .u32("split.no", number - 1)
}

/// The first of two shards, which says how many tensors both have.
fn first_shard() -> Writer {
    Writer::tiny_model()
        .u32("split.count", 2)
        .u32("split.no", 0)
        .u32("split.tensors.count", 3)
}

fn shards(folder: &Path, first: &Writer, second: &Writer) -> PathBuf {
    put(folder, "big-00002-of-00002.gguf", second.bytes());
    put(folder, "big-00001-of-00002.gguf", first.bytes())
}

fn template(folder: &Path, source: &str) -> PathBuf {
    let writer = with_tokens("llama").str("tokenizer.chat_template", source);
    model(folder, writer.bytes())
}

/// A blob of Ollama's, by the name that the content of `named` gives.
fn blob(folder: &Path, named: &[u8], content: &[u8]) -> PathBuf {
    let digest = Sha256::digest(named);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let blobs = folder.join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    put(&blobs, &format!("sha256-{hex}"), content)
}

const RKLLM: &[u8] = b"\x01\0\0\0rkllm-toolkit version: 1.2.1, max_context_limit: 4096, \
                       npu_core_num: 3, target_platform: RK3588, model_dtype: W8A8";

fn files() -> Vec<Case> {
    vec![
        case(
            "nothing there",
            |f| f.join("none.gguf"),
            ("file_missing", "sextant ls"),
        ),
        case(
            "a link to nothing",
            |f| {
                let link = f.join("m.gguf");
                std::os::unix::fs::symlink("gone.gguf", &link).unwrap();
                link
            },
            ("link_dangling", "bring back"),
        ),
        case(
            "a folder",
            Path::to_owned,
            ("is_folder", ".gguf file in it"),
        ),
        case(
            "a device",
            |_| "/dev/null".into(),
            ("no_plain_file", "name a .gguf"),
        ),
        case("0 bytes", |f| model(f, ""), ("file_empty", "pull")),
        case(
            "data cut",
            |f| {
                let bytes = Writer::tiny_model().bytes();
                model(f, &bytes[..bytes.len() - 99])
            },
            ("file_truncated", "continues"),
        ),
        case(
            "header cut",
            |f| model(f, &Writer::tiny_model().bytes()[..70]),
            ("file_truncated", "continues"),
        ),
        case(
            "a web page",
            |f| model(f, "<!doctype html>"),
            ("web_page", "token"),
        ),
        case(
            "an LFS pointer",
            |f| model(f, "version https://git-lfs.github.com/spec/v1\n"),
            ("lfs_pointer", "git lfs pull"),
        ),
        case(
            "a wheel",
            |f| model(f, "PK\x03\x04"),
            ("zip_archive", "extract"),
        ),
        case(
            "safetensors",
            |f| model(f, b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}"),
            ("safetensors", "convert"),
        ),
        case("a pickle", |f| model(f, b"\x80\x02}q"), ("pickle", "GGUF")),
        case(
            "GGML",
            |f| model(f, b"tjgg\x01\0\0\0"),
            ("old_ggml", "current"),
        ),
        case(
            "an error as JSON",
            |f| model(f, "{\"error\":1}"),
            ("json_text", "pull"),
        ),
        case(
            "gzip",
            |f| model(f, [0x1f, 0x8b, 8]),
            ("gzip_data", "decompress"),
        ),
        case("zeros", |f| model(f, [0; 999]), ("zeros_only", "pull")),
        case(
            "noise",
            |f| model(f, b"\x07\x08\x09noise"),
            ("format_unknown", "GGUF"),
        ),
        case(
            "big-endian",
            |f| model(f, Writer::new().version(3 << 24).bytes()),
            ("big_endian", "little-endian"),
        ),
        case(
            "version 1",
            |f| model(f, Writer::new().version(1).bytes()),
            ("gguf_version", "current"),
        ),
        case(
            "version 9",
            |f| model(f, Writer::new().version(9).bytes()),
            ("gguf_version", "update"),
        ),
        case(
            "an unknown quantisation",
            |f| {
                model(
                    f,
                    Writer::tiny_model().raw_tensor("x", (99, 0), &[32]).bytes(),
                )
            },
            ("tensor_type", "another quantisation"),
        ),
        case(
            "a key twice",
            |f| model(f, Writer::tiny_model().u32("general.name", 1).bytes()),
            ("damaged", "pull"),
        ),
    ]
}

fn metadata() -> Vec<Case> {
    vec![
        case(
            "no architecture",
            |f| model(f, Writer::new().str("a", "b").bytes()),
            ("architecture_missing", "conversion"),
        ),
        case(
            "an architecture of tomorrow",
            |f| {
                let writer = Writer::new()
                    .str("general.architecture", "llama9")
                    .str("tokenizer.ggml.model", "none")
                    .tensor("t", 0, &[8]);
                model(f, writer.bytes())
            },
            ("architecture_unknown", "update"),
        ),
        case(
            "no tokenizer",
            |f| model(f, llama().bytes()),
            ("tokenizer_missing", "conversion"),
        ),
        case(
            "a tokenizer of tomorrow",
            |f| model(f, with_tokens("quux").bytes()),
            ("tokenizer_unknown", "update"),
        ),
        case(
            "no tokens",
            |f| model(f, llama().str("tokenizer.ggml.model", "llama").bytes()),
            ("tokens_missing", "conversion"),
        ),
        case(
            "more tokens than embeddings",
            |f| {
                let writer = llama()
                    .str("tokenizer.ggml.model", "llama")
                    .strings("tokenizer.ggml.tokens", &["a", "b", "c", "d", "e"]);
                model(f, writer.bytes())
            },
            ("tokens_mismatched", "conversion"),
        ),
        case(
            "no merges",
            |f| model(f, with_tokens("gpt2").bytes()),
            ("merges_missing", "conversion"),
        ),
        case(
            "too few types of tokens",
            |f| {
                let writer = with_tokens("llama").u32s("tokenizer.ggml.token_type", &[1, 1]);
                model(f, writer.bytes())
            },
            ("token_table_short", "conversion"),
        ),
        case(
            "an end that is no token",
            |f| {
                model(
                    f,
                    with_tokens("llama")
                        .u32("tokenizer.ggml.eos_token_id", 9)
                        .bytes(),
                )
            },
            ("special_token_range", "conversion"),
        ),
        case(
            "a vocabulary",
            |f| {
                let writer = Writer::new()
                    .str("general.architecture", "llama")
                    .str("tokenizer.ggml.model", "gpt2");
                model(f, writer.bytes())
            },
            ("weights_missing", "name the model"),
        ),
        case(
            "a projector",
            |f| model(f, Writer::new().str("general.architecture", "clip").bytes()),
            ("projector_alone", "it belongs to"),
        ),
        case(
            "an adapter",
            |f| model(f, llama().str("general.type", "adapter").bytes()),
            ("adapter_alone", "it belongs to"),
        ),
        case(
            "an importance matrix",
            |f| model(f, llama().str("general.type", "imatrix").bytes()),
            ("imatrix_alone", "it belongs to"),
        ),
        case(
            "no template",
            |f| model(f, with_tokens("llama").bytes()),
            ("template_missing", "chat_template_file"),
        ),
        case(
            "a template that is none",
            |f| template(f, "{% for message in messages %}"),
            ("template_broken", "chat_template_file"),
        ),
        case(
            "a template that fails",
            |f| template(f, "{{ messages[0].content.no.such.thing }}"),
            ("template_broken", "chat_template_file"),
        ),
        case(
            "a file that was changed",
            |f| {
                let bytes = Writer::tiny_model().bytes();
                let mut changed = bytes.clone();
                *changed.last_mut().unwrap() ^= 1;
                blob(f, &bytes, &changed)
            },
            ("checksum_differs", "pull"),
        ),
    ]
}

fn sets_and_wishes() -> Vec<Case> {
    let rkllm = |f: &Path| put(f, "m.rkllm", RKLLM);
    vec![
        case(
            "a shard without the others",
            |f| put(f, "big-00001-of-00002.gguf", first_shard().bytes()),
            ("shard_missing", "pull"),
        ),
        case(
            "a shard by another name",
            |f| model(f, first_shard().bytes()),
            ("shard_name", "rename"),
        ),
        case(
            "shards in the wrong order",
            |f| shards(f, &first_shard(), &shard(1, 2).tensor("x", 0, &[8])),
            ("shards_mixed", "all of its shards"),
        ),
        case(
            "a shard of a larger set",
            |f| shards(f, &first_shard(), &shard(2, 3).tensor("x", 0, &[8])),
            ("shards_mixed", "all of its shards"),
        ),
        case(
            "a tensor in two shards",
            |f| {
                let second = shard(2, 2).tensor("output_norm.weight", 0, &[256]);
                shards(f, &first_shard(), &second)
            },
            ("shards_mixed", "all of its shards"),
        ),
        case(
            "shards with too few tensors",
            |f| shards(f, &first_shard(), &shard(2, 2)),
            ("shards_mixed", "all of its shards"),
        ),
        case("RKLLM", rkllm, ("rkllm_file", "GGUF")),
        case(
            "RKLLM with its letters masked",
            |f| put(f, "m.rkllm", b"\xda\xee\xb3\x36\x03\0\0\0\x01\x02"),
            ("rkllm_file", "GGUF"),
        ),
        case("RKLLM on a PC", rkllm, ("rkllm_platform", "GGUF")),
        Case {
            wishes: Wishes {
                chip: Some("rk3576"),
                ..Wishes::default()
            },
            ..case(
                "RKLLM of another board",
                rkllm,
                ("rkllm_platform", "RK3576"),
            )
        },
        Case {
            wishes: Wishes {
                chip: Some("rk3588"),
                context: Some(16384),
                ..Wishes::default()
            },
            class: Class::Configuration,
            ..case(
                "RKLLM with a long context",
                rkllm,
                ("rkllm_context", "4096"),
            )
        },
        Case {
            wishes: Wishes {
                context: Some(8192),
                ..Wishes::default()
            },
            class: Class::Configuration,
            ..case(
                "more context than it was trained for",
                |f| model(f, Writer::tiny_model().bytes()),
                ("context_above_trained", "2048"),
            )
        },
        Case {
            wishes: Wishes {
                template: Some("{{ nothing("),
                ..Wishes::default()
            },
            ..case(
                "a template of one's own that is none",
                |f| model(f, Writer::tiny_model().bytes()),
                ("template_broken", "chat_template_file"),
            )
        },
    ]
}

fn found(case: &Case) -> Vec<Finding> {
    let folder = tempfile::tempdir().unwrap();
    let path = (case.make)(folder.path());
    let mut findings = of_model(&models::examine(&path, Depth::Whole), &case.wishes);
    for finding in &mut findings {
        let name = folder.path().display().to_string();
        finding.what = finding.what.replace(&name, "DIR");
    }
    findings
}

#[test]
fn every_broken_model_is_told_apart() {
    let tables = [files(), metadata(), sets_and_wishes()];
    let cases: Vec<Case> = tables.into_iter().flatten().collect();
    assert!(cases.len() >= 25);
    let mut page = String::new();
    for case in &cases {
        let findings = found(case);
        let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
        let finding = findings.iter().find(|finding| finding.code == case.code);
        let finding = finding.unwrap_or_else(|| panic!("{}: found {codes:?}", case.name));
        assert_eq!(finding.class, case.class, "{}", case.name);
        assert!(
            finding.fix.contains(case.fix),
            "{}: {}",
            case.name,
            finding.fix
        );
        // One cause, one fault: nothing else is wrong with the file.
        let faults = findings
            .iter()
            .filter(|one| one.severity == Severity::Fault);
        assert!(faults.count() <= 2, "{}: {codes:?}", case.name);
        page.push_str(&format!("{}\n  {}: {finding}\n", case.name, finding.code));
    }
    insta::assert_snapshot!(page);
}

#[test]
fn a_sound_model_has_nothing() {
    let sound = |make: fn(&Path) -> PathBuf| found(&case("sound", make, ("", "")));
    assert_eq!(sound(|f| model(f, Writer::tiny_model().bytes())), []);
    let second = |f: &Path| {
        let second = shard(2, 2).tensor("x", 0, &[8]);
        shards(f, &first_shard(), &second)
    };
    assert_eq!(sound(second), []);
    let bytes = |f: &Path| {
        let bytes = Writer::tiny_model().bytes();
        blob(f, &bytes, &bytes)
    };
    assert_eq!(sound(bytes), []);
}

/// Root may read everything, so the fault is made by hand; the command line's test drops its
/// rights where it can.
#[test]
fn a_file_that_may_not_be_read_is_no_broken_file() {
    let path = PathBuf::from("/srv/m.gguf");
    let folder = tempfile::tempdir().unwrap();
    let mut examination = models::examine(&folder.path().join("none"), Depth::Headers);
    let unreadable = |kind, message: &str| models::ArtifactFault::Unreadable {
        path: path.clone(),
        kind,
        message: message.to_owned(),
    };
    examination.diagnosis = Err(unreadable(std::io::ErrorKind::PermissionDenied, "no"));
    let denied = &of_model(&examination, &Wishes::default())[0];
    assert_eq!(denied.code, "permission_denied");
    assert!(denied.fix.contains("read access"), "{}", denied.fix);
    examination.diagnosis = Err(unreadable(std::io::ErrorKind::Other, "I/O error"));
    let broken = &of_model(&examination, &Wishes::default())[0];
    assert_eq!(broken.code, "file_unreadable");
}
