//! Ollama's store: `manifests/HOST/NAMESPACE/NAME/TAG` is JSON that lists layers,
//! each a file `blobs/sha256-HEX`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Candidate, Environment, OllamaLayers, Platform, Store, file_name, scan};

/// A manifest is a few hundred bytes; anything far larger is not one.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// The media types of the layers we know.
pub(crate) mod media {
    pub(crate) const MODEL: &str = "application/vnd.ollama.image.model";
    pub(crate) const TEMPLATE: &str = "application/vnd.ollama.image.template";
    pub(crate) const PARAMS: &str = "application/vnd.ollama.image.params";
    pub(crate) const SYSTEM: &str = "application/vnd.ollama.image.system";
    pub(crate) const PROJECTOR: &str = "application/vnd.ollama.image.projector";
}

/// A manifest, in the store and on the wire.
#[derive(Debug, Deserialize)]
pub(crate) struct OllamaManifest {
    #[serde(default)]
    pub(crate) layers: Vec<Layer>,
}

impl OllamaManifest {
    pub(crate) fn has(&self, media_type: &str) -> bool {
        self.layers
            .iter()
            .any(|layer| layer.media_type == media_type)
    }
}

/// One layer of a manifest.
#[derive(Debug, Deserialize)]
pub(crate) struct Layer {
    #[serde(rename = "mediaType")]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
}

impl Layer {
    /// The SHA-256 in lower-case hex, when the digest is one.
    pub(crate) fn sha256(&self) -> Option<&str> {
        let hex = self.digest.strip_prefix("sha256:")?;
        (hex.len() == 64
            && hex
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .then_some(hex)
    }
}

pub(super) fn candidates(environment: &Environment) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for root in roots(environment) {
        for path in manifests(&root.join("manifests")) {
            candidates.extend(candidate(&root, &path));
        }
    }
    candidates
}

/// The folders Ollama may keep models in, most specific first.
fn roots(environment: &Environment) -> Vec<PathBuf> {
    if let Some(root) = environment.var_path("OLLAMA_MODELS") {
        return vec![root];
    }
    let mut roots: Vec<PathBuf> = environment
        .below_home(".ollama/models")
        .into_iter()
        .collect();
    if matches!(environment.platform, Platform::Linux | Platform::Wsl) {
        roots.push(environment.absolute("/usr/share/ollama/.ollama/models"));
        roots.push(environment.absolute("/var/lib/ollama/models"));
    }
    if environment.platform == Platform::Wsl {
        for user in scan::entries(&environment.absolute("/mnt/c/Users")) {
            roots.push(user.join(".ollama/models"));
        }
    }
    roots
}

/// Files exactly four levels down: host, namespace, name, tag.
fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut level = vec![folder.to_owned()];
    for _ in 0..4 {
        level = level
            .iter()
            .flat_map(|folder| scan::entries(folder))
            .filter(|path| file_name(path).is_some_and(|name| !name.starts_with('.')))
            .take(super::FILES_PER_STORE_MAX)
            .collect();
    }
    level.retain(|path| path.is_file());
    level
}

fn candidate(root: &Path, manifest_path: &Path) -> Option<Candidate> {
    if fs::metadata(manifest_path).ok()?.len() > MANIFEST_BYTES_MAX {
        return None;
    }
    let text = fs::read(manifest_path).ok()?;
    let manifest: OllamaManifest = serde_json::from_slice(&text).ok()?;
    let layer = |media_type: &str| {
        let layer = manifest
            .layers
            .iter()
            .find(|layer| layer.media_type == media_type)?;
        Some(root.join(format!("blobs/sha256-{}", layer.sha256()?)))
    };
    let layers = OllamaLayers {
        template: layer(media::TEMPLATE),
        params: layer(media::PARAMS),
        system: layer(media::SYSTEM),
        projector: layer(media::PROJECTOR),
    };
    let mut candidate = Candidate::new(Store::Ollama, id(manifest_path)?, layer(media::MODEL)?);
    candidate.ollama = Some(layers);
    Some(candidate)
}

/// `name:tag` for the library, `namespace/name:tag` for others, with the host in
/// front where it is not Ollama's own.
fn id(path: &Path) -> Option<String> {
    let tag = file_name(path)?;
    let name = file_name(path.parent()?)?;
    let namespace_path = path.parent()?.parent()?;
    let namespace = file_name(namespace_path)?;
    let host = file_name(namespace_path.parent()?)?;
    Some(match (host, namespace) {
        ("registry.ollama.ai", "library") => format!("{name}:{tag}"),
        ("registry.ollama.ai", namespace) => format!("{namespace}/{name}:{tag}"),
        (host, namespace) => format!("{host}/{namespace}/{name}:{tag}"),
    })
}
