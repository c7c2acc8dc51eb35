//! Models that are already on this machine, used where they lie.
//!
//! | store | where | id of a model |
//! |---|---|---|
//! | ours | `$SEXTANT_MODELS`, or `sextant/models` in the data folder | file name without `.gguf` |
//! | Hugging Face | `$HF_HUB_CACHE`, `$HF_HOME/hub`, `~/.cache/huggingface/hub` | `owner/repo:QUANT` |
//! | Ollama | `$OLLAMA_MODELS`, `~/.ollama/models`, the Linux service's folder, Windows users seen from WSL | `name:tag` |
//! | LM Studio | `downloadsFolder` of its settings, `~/.lmstudio/models`, `~/.cache/lm-studio/models` | `owner/repo/file` |
//! | llama.cpp | `$LLAMA_CACHE`, `llama.cpp` in the cache folder | file name without `.gguf` |
//!
//! Looking never changes a store. A folder that is missing or may not be read
//! holds no models; a model file that is broken is listed with its fault.

mod environment;
mod hugging_face;
mod lm_studio;
pub(crate) mod ollama;
mod own;
mod resolve;
mod scan;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use stdx::Bytes;

use crate::diagnose::{ArtifactFault, diagnose};
use crate::quant;

pub use environment::{Environment, Platform};
pub(crate) use own::with_suffix;
pub use own::{Manifest, RemoveError, Removed, remove};
pub use resolve::{ResolveError, Resolved, resolve};

/// Files looked at in one store; a bigger store is listed up to here.
pub const FILES_PER_STORE_MAX: usize = 20_000;
/// How deep folders are followed in stores without a fixed layout.
pub const DEPTH_MAX: usize = 6;

/// The program a model belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Store {
    Own,
    HuggingFace,
    Ollama,
    LmStudio,
    LlamaCpp,
    /// A path given by hand.
    Path,
}

impl Store {
    /// The short name that stands before a model's id where the id alone is
    /// ambiguous: `ollama:smollm2:135m`.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Own => "sextant",
            Self::HuggingFace => "hf",
            Self::Ollama => "ollama",
            Self::LmStudio => "lmstudio",
            Self::LlamaCpp => "llamacpp",
            Self::Path => "path",
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "Sextant",
            Self::HuggingFace => "Hugging Face",
            Self::Ollama => "Ollama",
            Self::LmStudio => "LM Studio",
            Self::LlamaCpp => "llama.cpp",
            Self::Path => "file",
        })
    }
}

/// One model on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Unique within its store; see the table above. Where two models would
    /// share an id, both get a longer one.
    pub id: String,
    pub store: Store,
    /// The file to give to an engine: the first shard of a split model.
    pub path: PathBuf,
    /// Every file of the model.
    pub files: Vec<PathBuf>,
    pub bytes: Bytes,
    pub quant: Option<String>,
    pub architecture: Option<String>,
    pub name: Option<String>,
    /// The context the model was trained for, tokens.
    pub context_length: Option<u64>,
    pub n_parameters: Option<u64>,
    pub has_chat_template: bool,
    /// Where it was pulled from, when our own manifest says so.
    pub source: Option<String>,
    /// The Go template and parameters Ollama keeps beside the model.
    pub ollama: Option<OllamaLayers>,
    /// The same file under other names or in other stores.
    pub also: Vec<(Store, PathBuf)>,
    /// Why it cannot be used. A model with a fault is listed and resolved like
    /// any other: look here before loading it.
    pub fault: Option<ArtifactFault>,
}

/// What an Ollama manifest adds to the weights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OllamaLayers {
    /// A Go template (not Jinja).
    pub template: Option<PathBuf>,
    /// Sampling parameters, JSON.
    pub params: Option<PathBuf>,
    /// The system prompt.
    pub system: Option<PathBuf>,
    /// A vision projector.
    pub projector: Option<PathBuf>,
}

/// A model file before its header is read.
struct Candidate {
    id: String,
    /// Takes the place of `id` where two models of the store would share it.
    long_id: String,
    store: Store,
    path: PathBuf,
    source: Option<String>,
    ollama: Option<OllamaLayers>,
}

impl Candidate {
    fn new(store: Store, id: String, path: PathBuf) -> Self {
        Self {
            id,
            long_id: path.display().to_string(),
            store,
            path,
            source: None,
            ollama: None,
        }
    }
}

/// Every model in every store, sorted by store and id; the same file found
/// twice is listed once. Reads each file's header: blocking, a few milliseconds
/// a model.
#[must_use]
pub fn list(environment: &Environment) -> Vec<Found> {
    let mut candidates = own::candidates(environment);
    candidates.extend(hugging_face::candidates(environment));
    candidates.extend(ollama::candidates(environment));
    candidates.extend(lm_studio::candidates(environment));
    candidates.extend(llama_cpp_candidates(environment));
    let mut found = merge(candidates);
    make_unique(&mut found);
    let mut found: Vec<Found> = found.into_iter().map(|(model, _)| model).collect();
    found.sort_by(|a, b| (a.store, &a.id, &a.path).cmp(&(b.store, &b.id, &b.path)));
    found
}

/// Which file this is, whatever it is called.
#[derive(PartialEq, Eq, Hash)]
enum Identity {
    #[cfg(unix)]
    Inode(u64, u64),
    Path(PathBuf),
}

fn identity(path: &Path) -> Identity {
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata(path) {
        use std::os::unix::fs::MetadataExt;
        return Identity::Inode(metadata.dev(), metadata.ino());
    }
    Identity::Path(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
}

/// Each model with the longer id it may need.
fn merge(candidates: Vec<Candidate>) -> Vec<(Found, String)> {
    let mut found: Vec<(Found, String)> = Vec::new();
    let mut places: HashMap<Identity, usize> = HashMap::new();
    for candidate in candidates {
        let identity = identity(&candidate.path);
        let known = places
            .get(&identity)
            .and_then(|place| found.get_mut(*place));
        if let Some((known, _)) = known {
            known.also.push((candidate.store, candidate.path));
            continue;
        }
        let long_id = candidate.long_id.clone();
        if let Some(model) = inspect(candidate) {
            places.insert(identity, found.len());
            found.push((model, long_id));
        }
    }
    found
}

/// Two models of one store never share an id: those that would get the longer
/// id, and if even that is shared, their path.
fn make_unique(found: &mut [(Found, String)]) {
    for round in 0..2 {
        let mut counts: HashMap<(Store, String), usize> = HashMap::new();
        for (model, _) in found.iter() {
            *counts
                .entry((model.store, model.id.to_lowercase()))
                .or_default() += 1;
        }
        for (model, long_id) in found.iter_mut() {
            if counts.get(&(model.store, model.id.to_lowercase())) > Some(&1) {
                model.id = match round {
                    0 => long_id.clone(),
                    _ => model.path.display().to_string(),
                };
            }
        }
    }
}

/// Reads the header; `None` for files that are sound but no models.
fn inspect(candidate: Candidate) -> Option<Found> {
    let mut model = Found {
        id: candidate.id,
        store: candidate.store,
        files: vec![candidate.path.clone()],
        bytes: Bytes(std::fs::metadata(&candidate.path).map_or(0, |metadata| metadata.len())),
        quant: file_name(&candidate.path).and_then(quant::of_file_name),
        architecture: None,
        name: None,
        context_length: None,
        n_parameters: None,
        has_chat_template: false,
        source: candidate.source,
        ollama: candidate.ollama,
        also: Vec::new(),
        fault: None,
        path: candidate.path,
    };
    match diagnose(&model.path) {
        Ok(facts) => {
            model.path = facts.path;
            model.files = facts.files;
            model.bytes = facts.bytes;
            model.quant = facts.quant.or(model.quant);
            model.architecture = Some(facts.architecture);
            model.name = facts.name;
            model.context_length = facts.context_length;
            model.n_parameters = Some(facts.n_parameters);
            model.has_chat_template = facts.chat_template.is_some();
        }
        Err(ArtifactFault::NotAModel { .. } | ArtifactFault::NoWeights { .. }) => return None,
        Err(fault) => model.fault = Some(fault),
    }
    Some(model)
}

/// The flat cache of llama.cpp: files named after their repository. The
/// manifests it keeps there (`manifest=owner=repo=tag.json`) repeat the names.
fn llama_cpp_candidates(environment: &Environment) -> Vec<Candidate> {
    let folder = environment
        .var_path("LLAMA_CACHE")
        .or_else(|| Some(environment.cache_dir()?.join("llama.cpp")));
    let Some(folder) = folder else {
        return Vec::new();
    };
    scan::model_files(&folder, 1)
        .into_iter()
        .map(|path| Candidate::new(Store::LlamaCpp, scan::stem(&path), path))
        .collect()
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

#[cfg(test)]
mod tests;
