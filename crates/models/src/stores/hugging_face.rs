//! The hub cache: `models--OWNER--REPO/snapshots/REVISION/FILE`, where `FILE` is
//! a link into `blobs/` and `refs/` says which revisions are current.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Candidate, DEPTH_MAX, Environment, Store, file_name, scan};
use crate::quant;

pub(super) fn candidates(environment: &Environment) -> Vec<Candidate> {
    let Some(hub) = environment.hugging_face_hub() else {
        return Vec::new();
    };
    let mut candidates = Vec::new();
    for folder in scan::entries(&hub) {
        let repo = file_name(&folder).and_then(|name| name.strip_prefix("models--"));
        let Some(repo) = repo.map(|name| name.replacen("--", "/", 1)) else {
            continue;
        };
        for snapshot in snapshots(&folder) {
            for path in scan::model_files(&snapshot, DEPTH_MAX) {
                let id = id(&repo, &snapshot, &path);
                let long_id = format!("{repo}:{}", scan::stem(&path));
                let mut candidate = Candidate::new(Store::HuggingFace, id, path);
                candidate.long_id = long_id;
                candidates.push(candidate);
            }
        }
    }
    candidates
}

/// `owner/repo:QUANT`, or the file's name where that says no quantisation.
fn id(repo: &str, snapshot: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(snapshot).unwrap_or(path);
    match quant::of_file_name(&inside.to_string_lossy()) {
        Some(quant) => format!("{repo}:{quant}"),
        None => format!("{repo}:{}", scan::stem(path)),
    }
}

/// The snapshots some ref points to; the newest one where there are no refs.
fn snapshots(folder: &Path) -> Vec<PathBuf> {
    let snapshots = folder.join("snapshots");
    let mut revisions = BTreeSet::new();
    read_refs(&folder.join("refs"), DEPTH_MAX, &mut revisions);
    let current: Vec<PathBuf> = revisions
        .iter()
        .map(|revision| snapshots.join(revision))
        .filter(|path| path.is_dir())
        .collect();
    if !current.is_empty() {
        return current;
    }
    let newest = scan::entries(&snapshots).into_iter().max_by_key(|path| {
        fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .ok()
    });
    newest.into_iter().collect()
}

/// Refs are files that hold a commit hash; pull requests lie a folder deeper.
fn read_refs(folder: &Path, depth: usize, revisions: &mut BTreeSet<String>) {
    if depth == 0 {
        return;
    }
    for path in scan::entries(folder) {
        if path.is_dir() {
            read_refs(&path, depth - 1, revisions);
        } else if let Ok(revision) = fs::read_to_string(&path) {
            let revision = revision.trim();
            if !revision.is_empty() && revision.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                revisions.insert(revision.to_owned());
            }
        }
    }
}
