use std::fs;
use std::path::{Path, PathBuf};

use super::{ArtifactFault, Foreign, Kind, diagnose};
use crate::gguf::write::Writer;

fn fault_of(bytes: &[u8]) -> ArtifactFault {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    diagnose(&path).unwrap_err()
}

#[test]
fn a_sound_model_tells_its_facts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let bytes = Writer::tiny_model().bytes();
    fs::write(&path, &bytes).unwrap();
    let facts = diagnose(&path).unwrap();
    assert_eq!(facts.files, [path]);
    assert_eq!(facts.bytes.0, bytes.len() as u64);
    assert_eq!(facts.architecture, "llama");
    assert_eq!(facts.quant.as_deref(), Some("Q4_K_M"));
    assert_eq!(facts.n_parameters, 1280);
    assert!(!facts.is_embedder);
}

#[test]
fn models_that_only_embed_are_told_by_their_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for (writer, is_embedder) in [
        (
            Writer::tiny_model().raw("llama.attention.causal", 7, &[0]),
            true,
        ),
        (
            Writer::tiny_model().raw("llama.attention.causal", 7, &[1]),
            false,
        ),
        (Writer::tiny_model().u32("llama.pooling_type", 1), true),
        (Writer::tiny_model().u32("llama.pooling_type", 0), false),
    ] {
        fs::write(&path, writer.bytes()).unwrap();
        assert_eq!(diagnose(&path).unwrap().is_embedder, is_embedder);
    }
}

/// Each broken file: its bytes, its fault, and how the message ends.
#[test]
fn every_fault_is_typed_and_ends_in_its_fix() {
    let model = Writer::tiny_model();
    let whole = model.bytes();
    let header_only = Writer::new().str("general.architecture", "llama");
    let safetensors = [&64_u64.to_le_bytes()[..], b"{\"__metadata__\":{}}"].concat();
    type Check = fn(&ArtifactFault) -> bool;
    fn foreign(fault: &ArtifactFault, expected: Foreign) -> bool {
        matches!(fault, ArtifactFault::WrongFormat { format, .. } if *format == expected)
    }
    let table: Vec<(&str, Vec<u8>, Check, &str)> = vec![
        (
            "empty",
            vec![],
            |f| matches!(f, ArtifactFault::Empty { .. }),
            "pull the model again",
        ),
        (
            "data cut",
            whole[..whole.len() - 100].to_vec(),
            |f| matches!(f, ArtifactFault::Truncated { .. }),
            "continues where it stopped",
        ),
        (
            "header cut",
            whole[..60].to_vec(),
            |f| matches!(f, ArtifactFault::Truncated { .. }),
            "continues where it stopped",
        ),
        (
            "web page",
            b"\n<!DOCTYPE html><html>404</html>".to_vec(),
            |f| foreign(f, Foreign::Html),
            "a token",
        ),
        (
            "lfs",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00".to_vec(),
            |f| foreign(f, Foreign::GitLfsPointer),
            "`hf:owner/repo`",
        ),
        (
            "zip",
            b"PK\x03\x04rest".to_vec(),
            |f| foreign(f, Foreign::Zip),
            "`pypi:NAME`",
        ),
        (
            "safetensors",
            safetensors,
            |f| foreign(f, Foreign::Safetensors),
            "convert_hf_to_gguf.py",
        ),
        (
            "rkllm",
            b"\x01\x00\x00\x00 rkllm-toolkit 1.2".to_vec(),
            |f| foreign(f, Foreign::Rkllm),
            "the GGUF of this model",
        ),
        (
            "pickle",
            b"\x80\x02}q".to_vec(),
            |f| foreign(f, Foreign::Pickle),
            "conversion of this model",
        ),
        (
            "ggml",
            b"tjgg\x01\0\0\0".to_vec(),
            |f| foreign(f, Foreign::OldGgml),
            "current GGUF of this model",
        ),
        (
            "json",
            b"{\"error\":\"no\"}".to_vec(),
            |f| foreign(f, Foreign::Json),
            "pull the model again",
        ),
        (
            "zeros",
            vec![0; 5000],
            |f| foreign(f, Foreign::Zeros),
            "pull the model again",
        ),
        (
            "one byte",
            vec![b'G'],
            |f| foreign(f, Foreign::Unknown),
            "pull a GGUF file",
        ),
        (
            "big-endian",
            Writer::new().version(3 << 24).bytes(),
            |f| matches!(f, ArtifactFault::BigEndian { .. }),
            "gguf_convert_endian.py",
        ),
        (
            "version 1",
            Writer::new().version(1).bytes(),
            |f| matches!(f, ArtifactFault::UnsupportedVersion { found: 1, .. }),
            "current GGUF of this model",
        ),
        (
            "version 4",
            Writer::new().version(4).bytes(),
            |f| matches!(f, ArtifactFault::UnsupportedVersion { found: 4, .. }),
            "update this program",
        ),
        (
            "tensor type",
            model.clone().raw_tensor("x", (77, 0), &[32]).bytes(),
            |f| matches!(f, ArtifactFault::UnknownTensorType { .. }),
            "another quantisation",
        ),
        (
            "damaged",
            model.clone().u32("general.name", 1).bytes(),
            |f| matches!(f, ArtifactFault::Corrupt { .. }),
            "pull the model again",
        ),
        (
            "no architecture",
            Writer::new().str("a", "b").bytes(),
            |f| matches!(f, ArtifactFault::MissingArchitecture { .. }),
            "conversion of this model",
        ),
        (
            "no tokenizer",
            header_only.clone().tensor("t", 0, &[8]).bytes(),
            |f| matches!(f, ArtifactFault::MissingTokenizer { .. }),
            "another conversion",
        ),
        (
            "vocabulary",
            header_only
                .clone()
                .str("tokenizer.ggml.model", "gpt2")
                .bytes(),
            |f| matches!(f, ArtifactFault::NoWeights { .. }),
            "name the model itself",
        ),
        (
            "mmproj",
            Writer::new().str("general.architecture", "clip").bytes(),
            |f| {
                matches!(
                    f,
                    ArtifactFault::NotAModel {
                        kind: Kind::Projector,
                        ..
                    }
                )
            },
            "it belongs to",
        ),
        (
            "lora",
            header_only.str("general.type", "adapter").bytes(),
            |f| {
                matches!(
                    f,
                    ArtifactFault::NotAModel {
                        kind: Kind::Adapter,
                        ..
                    }
                )
            },
            "it belongs to",
        ),
        (
            "shard name",
            model.u32("split.count", 2).bytes(),
            |f| matches!(f, ArtifactFault::ShardName { .. }),
            "-of-00002.gguf",
        ),
    ];
    for (name, bytes, is_expected, ending) in table {
        let fault = fault_of(&bytes);
        assert!(is_expected(&fault), "{name}: {fault:?}");
        let message = fault.to_string();
        assert!(message.ends_with(ending), "{name}: {message}");
    }
}

#[test]
fn a_vocabulary_without_padding_is_not_cut_off() {
    let header = Writer::new()
        .str("general.architecture", "llama")
        .str("tokenizer.ggml.model", "gpt2")
        .header();
    assert!(!header.len().is_multiple_of(32));
    let fault = fault_of(&header);
    assert!(matches!(fault, ArtifactFault::NoWeights { .. }), "{fault}");
}

#[test]
fn missing_files_and_folders_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.gguf");
    assert_eq!(
        diagnose(&missing),
        Err(ArtifactFault::NotFound { path: missing })
    );
    assert!(matches!(
        diagnose(folder.path()),
        Err(ArtifactFault::Folder { .. })
    ));
    assert!(matches!(
        diagnose(Path::new("/dev/zero")),
        Err(ArtifactFault::NoFile { .. })
    ));
}

#[test]
fn a_split_model_is_one_model_from_any_shard_and_names_the_missing_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |n: u32| -> PathBuf { folder.path().join(format!("big-{n:05}-of-00003.gguf")) };
    let first = Writer::tiny_model()
        .u32("split.count", 3)
        .u32("split.no", 0);
    fs::write(path(1), first.bytes()).unwrap();
    for n in [2, 3] {
        let shard = Writer::new()
            .u32("split.count", 3)
            .u32("split.no", n - 1)
            .tensor(&format!("blk.{n}"), 0, &[64]);
        fs::write(path(n), shard.bytes()).unwrap();
    }
    let facts = diagnose(&path(2)).unwrap();
    assert_eq!(facts.path, path(1));
    assert_eq!(facts.files.len(), 3);
    assert_eq!(facts.n_parameters, 1280 + 64 + 64);

    fs::remove_file(path(3)).unwrap();
    assert_eq!(
        diagnose(&path(1)),
        Err(ArtifactFault::MissingShard {
            path: path(3),
            number: 3,
            count: 3
        })
    );
}
