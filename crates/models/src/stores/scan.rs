//! Walking folders with limits.

use std::fs;
use std::path::{Path, PathBuf};

use super::{FILES_PER_STORE_MAX, file_name};
use crate::gguf::shard_name;
use crate::quant::is_companion;

/// The entries of a folder in order of their names; none if it cannot be read.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .take(FILES_PER_STORE_MAX)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths
}

/// The model files below `folder`, one path for each model: companions, hidden
/// files and later shards are left out. Links to files are followed, links to
/// folders are not, so a cycle cannot form.
pub(super) fn model_files(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut budget = FILES_PER_STORE_MAX;
    walk(folder, depth, &mut budget, &mut found);
    found
}

fn walk(folder: &Path, depth: usize, budget: &mut usize, found: &mut Vec<PathBuf>) {
    if depth == 0 {
        return;
    }
    for path in entries(folder) {
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        let Some(name) = file_name(&path).filter(|name| !name.starts_with('.')) else {
            continue;
        };
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if is_folder {
            walk(&path, depth - 1, budget, found);
        } else if is_model_name(name) && path.is_file() {
            found.push(path);
        }
    }
}

fn is_model_name(name: &str) -> bool {
    name.ends_with(".gguf")
        && !is_companion(name)
        && shard_name(name).is_none_or(|shard| shard.number == 1)
}

/// The file name without `.gguf` and without shard numbers.
pub(super) fn stem(path: &Path) -> String {
    let name = file_name(path).unwrap_or_default();
    shard_name(name).map_or_else(
        || name.strip_suffix(".gguf").unwrap_or(name).to_owned(),
        |shard| shard.stem,
    )
}
