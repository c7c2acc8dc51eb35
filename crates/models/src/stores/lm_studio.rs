//! LM Studio's store: `OWNER/REPO/FILE.gguf` in a folder its settings may move.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Candidate, DEPTH_MAX, Environment, Platform, Store, scan};

/// The settings file is small; a huge one is not it.
const SETTINGS_BYTES_MAX: u64 = 4 << 20;

pub(super) fn candidates(environment: &Environment) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for root in roots(environment) {
        for path in scan::model_files(&root, DEPTH_MAX) {
            let id = id(&root, &path);
            candidates.push(Candidate::new(Store::LmStudio, id, path));
        }
    }
    candidates
}

fn roots(environment: &Environment) -> Vec<PathBuf> {
    let mut homes: Vec<PathBuf> = [".lmstudio", ".cache/lm-studio"]
        .iter()
        .filter_map(|folder| environment.below_home(folder))
        .collect();
    // The pointer file names the folder when the user has moved all of it.
    let pointer = environment.below_home(".lmstudio-home-pointer");
    if let Some(text) = pointer.and_then(|path| read_small(&path)) {
        homes.insert(0, PathBuf::from(text.trim()));
    }
    if environment.platform == Platform::Wsl {
        for user in scan::entries(&environment.absolute("/mnt/c/Users")) {
            homes.push(user.join(".lmstudio"));
        }
    }
    let mut roots = Vec::new();
    for home in homes {
        for root in [downloads_folder(&home), Some(home.join("models"))] {
            roots.extend(root.filter(|root| !roots.contains(root)));
        }
    }
    roots
}

fn downloads_folder(home: &Path) -> Option<PathBuf> {
    let text = read_small(&home.join("settings.json"))?;
    let settings: serde_json::Value = serde_json::from_str(&text).ok()?;
    let folder = settings.get("downloadsFolder")?.as_str()?;
    (!folder.is_empty()).then(|| PathBuf::from(folder))
}

fn read_small(path: &Path) -> Option<String> {
    let is_small = fs::metadata(path).ok()?.len() <= SETTINGS_BYTES_MAX;
    is_small.then(|| fs::read_to_string(path).ok())?
}

fn id(root: &Path, path: &Path) -> String {
    let folder = path
        .parent()
        .and_then(|folder| folder.strip_prefix(root).ok());
    let folder = folder.map(|folder| folder.to_string_lossy().replace('\\', "/"));
    match folder.as_deref() {
        None | Some("") => scan::stem(path),
        Some(folder) => format!("{folder}/{}", scan::stem(path)),
    }
}
