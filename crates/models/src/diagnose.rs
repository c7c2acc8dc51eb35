//! Is this file a model an engine can load, and if not, what is wrong with it?
//!
//! Everything is decided from the header and the file's length; no weights are
//! read. A fault is about the artifact alone: drivers, memory and permissions of
//! helper programs are other people's business.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use stdx::Bytes;

use crate::gguf::{Gguf, GgufError, Value, shard_name};
use crate::kv::KvValues;

mod words;

/// Shards of one model we are willing to open. The largest published models have
/// about thirty; the count comes from the file and must not drive a loop freely.
pub const SHARDS_MAX: u32 = 1000;

/// What a GGUF file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A model that generates text or embeds it.
    Model,
    /// A vision or audio encoder that goes with a model (`mmproj`).
    Projector,
    /// A LoRA adapter or a control vector.
    Adapter,
    /// An importance matrix, used when quantising.
    ImportanceMatrix,
}

/// What a sound model file says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The file to give to an engine: the first shard of a split model.
    pub path: PathBuf,
    /// Every file of the model, in order.
    pub files: Vec<PathBuf>,
    /// All files together on disk.
    pub bytes: Bytes,
    /// Tensor data alone.
    pub weights_bytes: Bytes,
    pub architecture: String,
    pub name: Option<String>,
    pub quant: Option<String>,
    /// The context the model was trained for, tokens.
    pub context_length: Option<u64>,
    pub n_parameters: u64,
    /// Bytes of the weights that are single matrices, by the name of their type.
    pub matrix_bytes: BTreeMap<&'static str, u64>,
    /// Bytes of stacked matrices: the experts of a mixture.
    pub expert_bytes: u64,
    /// Numbers that the KV cache holds of each token; no layer is taken to forget any.
    pub kv_values: KvValues,
    /// It turns texts into vectors and generates nothing.
    pub is_embedder: bool,
    pub chat_template: Option<String>,
}

/// A format people download by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    Safetensors,
    Html,
    GitLfsPointer,
    Zip,
    Rkllm,
    Pickle,
    OldGgml,
    Json,
    Gzip,
    /// All zeros: space was reserved and never written.
    Zeros,
    Unknown,
}

/// What is wrong with a model file. Every message is [`ArtifactFault::what`] and
/// [`ArtifactFault::fix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactFault {
    NotFound {
        path: PathBuf,
    },
    /// A symbolic link that leads nowhere.
    Dangling {
        path: PathBuf,
        target: PathBuf,
    },
    Folder {
        path: PathBuf,
    },
    /// A device, a pipe or a socket.
    NoFile {
        path: PathBuf,
    },
    Unreadable {
        path: PathBuf,
        kind: io::ErrorKind,
        message: String,
    },
    Empty {
        path: PathBuf,
    },
    WrongFormat {
        path: PathBuf,
        format: Foreign,
    },
    BigEndian {
        path: PathBuf,
    },
    UnsupportedVersion {
        path: PathBuf,
        found: u32,
    },
    Truncated {
        path: PathBuf,
        have: Bytes,
        need: Bytes,
    },
    UnknownTensorType {
        path: PathBuf,
        error: GgufError,
    },
    Corrupt {
        path: PathBuf,
        error: GgufError,
    },
    MissingShard {
        path: PathBuf,
        number: u32,
        count: u32,
    },
    /// A shard that is not of the model whose name it has.
    MixedShards {
        path: PathBuf,
        mismatch: ShardMismatch,
    },
    ShardName {
        path: PathBuf,
        count: u32,
    },
    MissingArchitecture {
        path: PathBuf,
    },
    MissingTokenizer {
        path: PathBuf,
    },
    NoWeights {
        path: PathBuf,
    },
    NotAModel {
        path: PathBuf,
        kind: Kind,
    },
}

/// What tells that a shard is of another model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardMismatch {
    /// It says that its model has `found` shards, its name says `expected`.
    Count { found: u32, expected: u32 },
    /// It says that it is shard `found`, its name says `expected`; both from 1.
    Number { found: u32, expected: u32 },
    /// This tensor is in an earlier shard too.
    Tensor { name: String },
    /// All shards have `found` tensors together, and the first one says `expected`.
    Tensors { found: u64, expected: u64 },
}

/// Looks at the model at `path` and, when it is split, at its siblings.
///
/// # Errors
/// The first fault found, in the order of [`ArtifactFault`]'s variants.
pub fn diagnose(path: &Path) -> Result<Facts, ArtifactFault> {
    let (gguf, bytes) = open_sound(path)?;
    match gguf.split() {
        None => facts(path, vec![(path.to_owned(), gguf, bytes)]),
        Some(split) => {
            let shards = open_shards(path, split.count)?;
            let first = shards.first().map_or(path, |(path, _, _)| path).to_owned();
            facts(&first, shards)
        }
    }
}

/// Checks one file by itself: format, version, header, and that it holds all
/// the tensor data its table promises. Shards, projectors and adapters pass.
///
/// # Errors
/// See [`ArtifactFault`].
pub fn check_file(path: &Path) -> Result<Gguf, ArtifactFault> {
    open_sound(path).map(|(gguf, _)| gguf)
}

/// What the file is for, by its own metadata.
#[must_use]
pub fn kind_of(gguf: &Gguf) -> Kind {
    match (gguf.get_str("general.type"), gguf.architecture()) {
        (Some("mmproj"), _) | (_, Some("clip")) => Kind::Projector,
        (Some("adapter"), _) | (_, Some("controlvector")) => Kind::Adapter,
        (Some("imatrix"), _) => Kind::ImportanceMatrix,
        _ => Kind::Model,
    }
}

fn open_sound(path: &Path) -> Result<(Gguf, u64), ArtifactFault> {
    let path_of = || path.to_owned();
    let metadata = fs::metadata(path).map_err(|error| io_fault(path, &error))?;
    if metadata.is_dir() {
        return Err(ArtifactFault::Folder { path: path_of() });
    }
    // Opening a pipe would wait for someone to write into it.
    if !metadata.is_file() {
        return Err(ArtifactFault::NoFile { path: path_of() });
    }
    let bytes = metadata.len();
    if bytes == 0 {
        return Err(ArtifactFault::Empty { path: path_of() });
    }
    let gguf = Gguf::open(path).map_err(|error| header_fault(path, bytes, error))?;
    if gguf.data_end() > bytes {
        return Err(ArtifactFault::Truncated {
            path: path_of(),
            have: Bytes(bytes),
            need: Bytes(gguf.data_end()),
        });
    }
    Ok((gguf, bytes))
}

fn io_fault(path: &Path, error: &io::Error) -> ArtifactFault {
    match error.kind() {
        io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => ArtifactFault::Dangling {
                path: path.to_owned(),
                target,
            },
            Err(_) => ArtifactFault::NotFound {
                path: path.to_owned(),
            },
        },
        kind => ArtifactFault::Unreadable {
            path: path.to_owned(),
            kind,
            message: error.to_string(),
        },
    }
}

fn header_fault(path: &Path, file_bytes: u64, error: GgufError) -> ArtifactFault {
    let path = path.to_owned();
    match error {
        GgufError::Io { kind, message, .. } => ArtifactFault::Unreadable {
            path,
            kind,
            message,
        },
        GgufError::Magic { .. } => {
            let format = recognise(&path);
            ArtifactFault::WrongFormat { path, format }
        }
        // Too short even for the magic: only its text can tell.
        GgufError::Truncated { offset: 0, .. } => {
            let format = recognise(&path);
            ArtifactFault::WrongFormat { path, format }
        }
        GgufError::Truncated {
            offset, need_bytes, ..
        } => ArtifactFault::Truncated {
            path,
            have: Bytes(file_bytes),
            need: Bytes(offset.saturating_add(need_bytes)),
        },
        GgufError::BigEndian { .. } => ArtifactFault::BigEndian { path },
        GgufError::Version { found } => ArtifactFault::UnsupportedVersion { path, found },
        error @ GgufError::TensorType { .. } => ArtifactFault::UnknownTensorType { path, error },
        error => ArtifactFault::Corrupt { path, error },
    }
}

/// Names the format of a file that is not GGUF from its first bytes.
fn recognise(path: &Path) -> Foreign {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_end(&mut head));
    if read.is_err() {
        return Foreign::Unknown;
    }
    foreign_format(&head)
}

fn foreign_format(head: &[u8]) -> Foreign {
    let text = String::from_utf8_lossy(head).trim_start().to_lowercase();
    // Safetensors: a little-endian length, then a JSON header of that length.
    let is_safetensors = head.get(8) == Some(&b'{')
        && head
            .first_chunk()
            .is_some_and(|len| u64::from_le_bytes(*len) < 1 << 32);
    if head.iter().all(|byte| *byte == 0) {
        Foreign::Zeros
    } else if is_safetensors {
        Foreign::Safetensors
    } else if head.starts_with(b"PK\x03\x04") {
        Foreign::Zip
    } else if head.starts_with(b"RKNN") || is_masked_rkllm(head) {
        Foreign::Rkllm
    } else if head.starts_with(&[0x1f, 0x8b]) {
        Foreign::Gzip
    } else if matches!(
        head.first_chunk(),
        Some(b"lmgg" | b"fmgg" | b"tjgg" | b"algg")
    ) {
        Foreign::OldGgml
    } else if matches!(head.first_chunk(), Some([0x80, 2..=5])) {
        Foreign::Pickle
    } else if text.starts_with("version https://git-lfs") {
        Foreign::GitLfsPointer
    } else if text.starts_with("<!doctype")
        || text.starts_with("<html")
        || text.starts_with("<?xml")
    {
        Foreign::Html
    } else if text.starts_with('{') || text.starts_with('[') {
        Foreign::Json
    } else if mentions_rkllm(head) {
        Foreign::Rkllm
    } else {
        Foreign::Unknown
    }
}

/// Files of RKLLM 1.2 and later are built like GGUF, with their letters masked: a magic of
/// four bytes and the same number of a version behind it.
fn is_masked_rkllm(head: &[u8]) -> bool {
    head.starts_with(&[0xda, 0xee, 0xb3, 0x36, 3, 0, 0, 0])
}

/// Older ones name their converter early on.
fn mentions_rkllm(head: &[u8]) -> bool {
    head.windows(5)
        .any(|window| window.eq_ignore_ascii_case(b"rkllm"))
}

type Shard = (PathBuf, Gguf, u64);

fn open_shards(path: &Path, count: u32) -> Result<Vec<Shard>, ArtifactFault> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(shard) = name
        .and_then(shard_name)
        .filter(|shard| shard.count == count)
    else {
        return Err(ArtifactFault::ShardName {
            path: path.to_owned(),
            count,
        });
    };
    if count > SHARDS_MAX {
        return Err(ArtifactFault::Corrupt {
            path: path.to_owned(),
            error: GgufError::Limit {
                field: "`split.count`".to_owned(),
                offset: 0,
                value: count.into(),
                limit: SHARDS_MAX.into(),
            },
        });
    }
    let mut shards = Vec::new();
    for (number, sibling) in (1..).zip(shard.all()) {
        let path = path.with_file_name(sibling);
        let (gguf, bytes) = open_sound(&path).map_err(|fault| match fault {
            ArtifactFault::NotFound { path } => ArtifactFault::MissingShard {
                path,
                number,
                count,
            },
            other => other,
        })?;
        shards.push((path, gguf, bytes));
    }
    check_shards(&shards, count)?;
    Ok(shards)
}

/// Whether the shards are those of one model.
fn check_shards(shards: &[Shard], count: u32) -> Result<(), ArtifactFault> {
    let mixed = |path: &Path, mismatch| ArtifactFault::MixedShards {
        path: path.to_owned(),
        mismatch,
    };
    let mut names = HashSet::new();
    for (number, (path, gguf, _)) in (1..).zip(shards) {
        let found = gguf.get_u32("split.count").unwrap_or(1);
        if found != count {
            let expected = count;
            return Err(mixed(path, ShardMismatch::Count { found, expected }));
        }
        let found = gguf.get_u32("split.no").map_or(number, |index| {
            // A number beyond all limits is wrong as well.
            index.saturating_add(1)
        });
        if found != number {
            let expected = number;
            return Err(mixed(path, ShardMismatch::Number { found, expected }));
        }
        for tensor in gguf.tensors() {
            if !names.insert(tensor.name()) {
                let name = tensor.name().to_owned();
                return Err(mixed(path, ShardMismatch::Tensor { name }));
            }
        }
    }
    let first = shards.first();
    let expected = first.and_then(|(_, gguf, _)| gguf.get_u64("split.tensors.count"));
    let found = names.len() as u64;
    match (first, expected) {
        (Some((path, _, _)), Some(expected)) if found != expected => {
            Err(mixed(path, ShardMismatch::Tensors { found, expected }))
        }
        _ => Ok(()),
    }
}

fn facts(path: &Path, shards: Vec<Shard>) -> Result<Facts, ArtifactFault> {
    let owned = || path.to_owned();
    let Some((_, first, _)) = shards.first() else {
        return Err(ArtifactFault::NotFound { path: owned() });
    };
    match kind_of(first) {
        Kind::Model => {}
        kind => {
            return Err(ArtifactFault::NotAModel {
                path: owned(),
                kind,
            });
        }
    }
    let Some(architecture) = first.architecture() else {
        return Err(ArtifactFault::MissingArchitecture { path: owned() });
    };
    if first.get("tokenizer.ggml.model").is_none() {
        return Err(ArtifactFault::MissingTokenizer { path: owned() });
    }
    let total = |count: fn(&Gguf) -> u64| {
        shards
            .iter()
            .fold(0_u64, |sum, (_, gguf, _)| sum.saturating_add(count(gguf)))
    };
    let weights_bytes = total(Gguf::weights_bytes);
    if weights_bytes == 0 {
        return Err(ArtifactFault::NoWeights { path: owned() });
    }
    let (mut matrix_bytes, mut expert_bytes) = (BTreeMap::new(), 0);
    for tensor in shards.iter().flat_map(|(_, gguf, _)| gguf.tensors()) {
        match tensor.dims().len() {
            2 => *matrix_bytes.entry(tensor.tensor_type().name()).or_insert(0) += tensor.bytes(),
            3 => expert_bytes += tensor.bytes(),
            _ => {}
        }
    }
    Ok(Facts {
        kv_values: KvValues::of(first),
        is_embedder: is_embedder(first),
        matrix_bytes,
        expert_bytes,
        path: owned(),
        bytes: Bytes(shards.iter().map(|(_, _, bytes)| bytes).sum()),
        weights_bytes: Bytes(weights_bytes),
        architecture: architecture.to_owned(),
        name: first.name().map(str::to_owned),
        quant: first.quant().map(str::to_owned),
        context_length: first.context_length(),
        n_parameters: total(Gguf::n_parameters),
        chat_template: first.chat_template().map(str::to_owned),
        files: shards.into_iter().map(|(path, _, _)| path).collect(),
    })
}

/// Encoders have no causal mask, and models that are made for it say how they pool.
fn is_embedder(gguf: &Gguf) -> bool {
    let pools = gguf.arch_get("pooling_type").and_then(Value::as_u64);
    let looks_ahead = gguf.arch_get("attention.causal").and_then(Value::as_bool) == Some(false);
    looks_ahead || pools.is_some_and(|kind| kind > 0)
}

#[cfg(test)]
mod tests;
