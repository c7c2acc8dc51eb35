//! An Ollama registry: the manifest's layers, each a blob named by its digest.

use reqwest::header::ACCEPT;

use super::download::Remote;
use super::http::Request;
use super::{Context, PullError, retry};
use crate::source::shown;
use crate::stores::ollama::{OllamaManifest, media};

const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The layers we keep, and what their files end in. The model comes first.
const FILES: [(&str, &str); 5] = [
    (media::MODEL, ".gguf"),
    (media::TEMPLATE, ".template"),
    (media::PARAMS, ".params.json"),
    (media::SYSTEM, ".system"),
    (media::PROJECTOR, ".mmproj.gguf"),
];

/// The model, then its template, parameters, system prompt and projector.
pub(super) async fn plan(
    context: &Context<'_>,
    name: &str,
    tag: &str,
) -> Result<Vec<Remote>, PullError> {
    let registry = &context.puller.options.ollama;
    let path = match name.contains('/') {
        true => name.to_owned(),
        false => format!("library/{name}"),
    };
    let join = |rest: String| {
        registry
            .join(&format!("v2/{path}/{rest}"))
            .map_err(|error| PullError::Protocol {
                url: shown(registry),
                problem: format!("`{path}` makes no address ({error})"),
            })
    };
    let request = Request::new(join(format!("manifests/{tag}"))?).header(ACCEPT, MANIFEST_TYPE);
    let document = retry::document(context, &request).await?;
    let manifest: OllamaManifest =
        serde_json::from_slice(&document.bytes).map_err(|error| PullError::Protocol {
            url: shown(&request.url),
            problem: format!("no manifest ({error})"),
        })?;
    if !manifest.has(media::MODEL) {
        return Err(PullError::NothingToPull {
            source_name: context.source.clone(),
            wanted: "GGUF layer".to_owned(),
            available: manifest
                .layers
                .into_iter()
                .map(|layer| layer.media_type)
                .collect(),
        });
    }
    let folder = context.store().join("ollama").join(&path);
    let mut remotes = Vec::new();
    for (kind, suffix) in FILES {
        // A model split into several layers would need gluing that no engine asks for.
        let Some(layer) = manifest
            .layers
            .iter()
            .find(|layer| layer.media_type == kind)
        else {
            continue;
        };
        let Some(sha256) = layer.sha256() else {
            return Err(PullError::Protocol {
                url: shown(&request.url),
                problem: format!("the digest `{}` is no SHA-256", layer.digest),
            });
        };
        remotes.push(Remote {
            file: format!("{name}:{tag}{suffix}"),
            request: Request::new(join(format!("blobs/sha256:{sha256}"))?),
            dest: folder.join(format!("{tag}{suffix}")),
            bytes: (layer.size > 0).then_some(layer.size),
            sha256: Some(sha256.to_owned()),
            denied_fix: None,
        });
    }
    Ok(remotes)
}
