//! Our own store, the only one we write to.
//!
//! ```text
//! ROOT/hf/OWNER/REPO/FILE.gguf          ROOT/ollama/NAMESPACE/NAME/TAG.gguf
//! ROOT/pypi/PACKAGE/FILE.gguf           ROOT/url/HOST/DIGEST/FILE.gguf
//! ROOT/**/FILE.gguf.json                the manifest of the file beside it
//! ROOT/.staging/                        wheels on their way through
//! ROOT/.locks/                          one empty file for each download, never removed
//! ROOT/**/FILE.gguf.part, .part.json    a download that is not finished
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stdx::Bytes;

use super::{Candidate, DEPTH_MAX, Environment, ResolveError, Resolved, Store, file_name, scan};

/// What is written beside every file we pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The specification it was pulled by, without secrets.
    pub source: String,
    /// The address the bytes came from, without secrets.
    pub url: String,
    /// SHA-256 of the whole file, lower-case hex.
    pub sha256: String,
    pub bytes: u64,
    /// When the pull finished, seconds since 1970-01-01 UTC.
    pub pulled_unix_s: u64,
}

impl Manifest {
    /// Where the manifest of `file` lies.
    #[must_use]
    pub fn path_of(file: &Path) -> PathBuf {
        with_suffix(file, ".json")
    }

    /// The manifest of `file`; `None` when there is none or it cannot be read.
    #[must_use]
    pub fn read(file: &Path) -> Option<Self> {
        let text = fs::read(Self::path_of(file)).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// `path` with text appended to its file name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn candidates(environment: &Environment) -> Vec<Candidate> {
    let Some(root) = environment.own_store() else {
        return Vec::new();
    };
    scan::model_files(&root, DEPTH_MAX)
        .into_iter()
        .map(|path| {
            let source = Manifest::read(&path).map(|manifest| manifest.source);
            // Ollama's files are named after their tag: the model's name must come along.
            let id = match path.strip_prefix(root.join("ollama")) {
                Ok(inside) => ollama_id(inside),
                Err(_) => scan::stem(&path),
            };
            let inside = path.strip_prefix(&root).unwrap_or(&path);
            let folder = inside.parent().unwrap_or(inside).to_string_lossy();
            let long_id = format!("{}/{}", folder.replace('\\', "/"), scan::stem(&path));
            let mut candidate = Candidate::new(Store::Own, id, path);
            candidate.long_id = long_id;
            candidate.source = source;
            candidate
        })
        .collect()
}

fn ollama_id(inside: &Path) -> String {
    let folder = inside.parent().unwrap_or(inside);
    let name = folder.to_string_lossy().replace('\\', "/");
    let name = name.strip_prefix("library/").unwrap_or(&name);
    format!("{name}:{}", scan::stem(inside))
}

/// What [`remove`] took away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    pub id: String,
    pub files: Vec<PathBuf>,
    pub freed: Bytes,
}

/// Why a model was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("`{id}` is not on this machine; nothing to remove")]
    NotHere { id: String },
    #[error("`{id}` belongs to {store} (`{}`), and other programs' files are never deleted; {advice}", path.display())]
    OtherStore {
        id: String,
        store: Store,
        path: PathBuf,
        advice: String,
    },
    #[error("`{}` cannot be deleted: {error}; check the permissions of its folder", path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Deletes a model of our own store with its manifests and companion files.
///
/// # Errors
/// Refuses models of other stores, with the command that removes them there.
pub fn remove(environment: &Environment, name: &str) -> Result<Removed, RemoveError> {
    let found = match super::resolve(environment, name)? {
        Resolved::Present(found) => *found,
        Resolved::Pull(source) => {
            return Err(RemoveError::NotHere {
                id: source.to_string(),
            });
        }
    };
    let root = environment.own_store().unwrap_or_default();
    if found.store != Store::Own || !found.path.starts_with(&root) {
        return Err(RemoveError::OtherStore {
            advice: advice(found.store, &found.id),
            id: found.id,
            store: found.store,
            path: found.path,
        });
    }
    let mut removed = Removed {
        id: found.id,
        files: Vec::new(),
        freed: Bytes(0),
    };
    for file in &found.files {
        for path in companions(file) {
            remove_file(&path, &mut removed)?;
        }
    }
    prune(found.path.parent(), &root);
    Ok(removed)
}

fn advice(store: Store, id: &str) -> String {
    match store {
        Store::Ollama => format!("run `ollama rm {id}`"),
        Store::HuggingFace => "run `hf cache delete`".to_owned(),
        Store::LmStudio => "remove it in LM Studio".to_owned(),
        _ => "delete the file yourself if nothing else needs it".to_owned(),
    }
}

/// The file and everything whose name is the file's stem plus our suffixes.
fn companions(file: &Path) -> Vec<PathBuf> {
    let stem = file.with_extension("");
    let mut paths = vec![file.to_owned(), Manifest::path_of(file)];
    for suffix in [".template", ".params.json", ".system", ".mmproj.gguf"] {
        let path = with_suffix(&stem, suffix);
        paths.push(Manifest::path_of(&path));
        paths.push(path);
    }
    paths
}

fn remove_file(path: &Path, removed: &mut Removed) -> Result<(), RemoveError> {
    let bytes = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(_) => return Ok(()),
    };
    fs::remove_file(path).map_err(|error| RemoveError::Io {
        path: path.to_owned(),
        error,
    })?;
    removed.files.push(path.to_owned());
    removed.freed += Bytes(bytes);
    Ok(())
}

/// Removes folders that became empty, up to the root.
fn prune(folder: Option<&Path>, root: &Path) {
    let mut folder = folder;
    while let Some(path) = folder.filter(|path| *path != root && path.starts_with(root)) {
        // Fails when the folder is not empty, which ends the walk.
        if file_name(path).is_none() || fs::remove_dir(path).is_err() {
            return;
        }
        folder = path.parent();
    }
}
