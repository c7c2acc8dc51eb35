//! A Hugging Face hub: which files make up the wanted model, and their checksums.

use std::collections::BTreeMap;
use std::fs;

use reqwest::Url;
use serde::Deserialize;
use stdx::Secret;

use super::download::Remote;
use super::http::Request;
use super::{Context, PullError, retry};
use crate::gguf::shard_name;
use crate::quant;
use crate::source::{is_plain_name, shown};
use crate::stores::Environment;

/// The answer of `/api/models/OWNER/REPO?blobs=true`, as far as we need it.
#[derive(Debug, Deserialize)]
struct Repository {
    /// The commit the list is from; files are fetched at it.
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Clone, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Clone, Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// The access token: `HF_TOKEN`, or the file the Hugging Face tools keep.
pub(super) fn token(environment: &Environment) -> Option<Secret> {
    let from_file = || {
        let path = environment
            .var_path("HF_TOKEN_PATH")
            .or_else(|| Some(environment.hugging_face_home()?.join("token")))?;
        fs::read_to_string(path).ok()
    };
    let token = environment
        .var("HF_TOKEN")
        .map(str::to_owned)
        .or_else(from_file)?;
    let token = token.trim();
    (!token.is_empty()).then(|| Secret::new(token))
}

/// The files of the wanted quantisation, shards in order.
pub(super) async fn plan(
    context: &Context<'_>,
    repo: &str,
    quant: Option<&str>,
) -> Result<Vec<Remote>, PullError> {
    let options = &context.puller.options;
    let endpoint = &options.hugging_face;
    let page = join(endpoint, repo)?;
    let denied_fix = if options.hugging_face_token.is_some() {
        format!(
            "accept the licence at {}, and check that HF_TOKEN may read it",
            shown(&page)
        )
    } else {
        format!(
            "accept the licence at {}, and set HF_TOKEN to a token from the settings page there",
            shown(&page)
        )
    };
    let mut url = join(endpoint, &format!("api/models/{repo}"))?;
    url.set_query(Some("blobs=true"));
    let request = Request::new(url).bearer(options.hugging_face_token.as_ref());
    let document = retry::document(context, &request)
        .await
        .map_err(|error| match error {
            PullError::Denied { url, status, .. } => PullError::Denied {
                url,
                status,
                fix: format!("check that the repository exists; if it does, {denied_fix}"),
            },
            other => other,
        })?;
    let repository: Repository =
        serde_json::from_slice(&document.bytes).map_err(|error| PullError::Protocol {
            url: shown(&request.url),
            problem: format!("no list of files ({error})"),
        })?;
    if !is_plain_name(&repository.sha) {
        return Err(PullError::Protocol {
            url: shown(&request.url),
            problem: "a revision that is no commit".to_owned(),
        });
    }
    let folder = context.store().join("hf").join(repo);
    choose(&context.source, repository.siblings, quant)?
        .into_iter()
        .map(|sibling| {
            let path = format!("{repo}/resolve/{}/{}", repository.sha, sibling.rfilename);
            let url = join(endpoint, &path)?;
            Ok(Remote {
                dest: folder.join(&sibling.rfilename),
                request: Request::new(url).bearer(options.hugging_face_token.as_ref()),
                bytes: sibling.lfs.as_ref().map(|lfs| lfs.size).or(sibling.size),
                sha256: sibling.lfs.map(|lfs| lfs.sha256.to_ascii_lowercase()),
                denied_fix: Some(denied_fix.clone()),
                file: sibling.rfilename,
            })
        })
        .collect()
}

fn join(endpoint: &Url, path: &str) -> Result<Url, PullError> {
    endpoint.join(path).map_err(|error| PullError::Protocol {
        url: shown(endpoint),
        problem: format!("`{path}` makes no address ({error})"),
    })
}

/// The files of one model: a single file, or all its shards.
fn choose(
    source: &str,
    siblings: Vec<Sibling>,
    quant: Option<&str>,
) -> Result<Vec<Sibling>, PullError> {
    let mut models: BTreeMap<String, Vec<Sibling>> = BTreeMap::new();
    for sibling in siblings {
        let name = &sibling.rfilename;
        let file = name.rsplit('/').next().unwrap_or(name);
        let is_safe = name.split('/').all(is_plain_name);
        if is_safe && name.ends_with(".gguf") && !quant::is_companion(file) {
            let model = shard_name(name).map_or_else(|| name.clone(), |shard| shard.stem);
            models.entry(model).or_default().push(sibling);
        }
    }
    let quant_of = |files: &[Sibling]| {
        let first = files.first()?;
        quant::of_file_name(&first.rfilename)
    };
    let size_of = |files: &[Sibling]| -> u64 {
        files
            .iter()
            .filter_map(|file| file.lfs.as_ref().map(|lfs| lfs.size).or(file.size))
            .fold(0, u64::saturating_add)
    };
    let mut available: Vec<String> = models
        .iter()
        .map(|(model, files)| quant_of(files).unwrap_or_else(|| model.clone()))
        .collect();
    available.sort();
    available.dedup();
    let best = models
        .into_iter()
        .filter(|(model, files)| match quant {
            None => true,
            Some(wanted) => {
                quant_of(files).is_some_and(|quant| quant.eq_ignore_ascii_case(wanted))
                    || model.to_lowercase().ends_with(&wanted.to_lowercase())
                    || model
                        .to_lowercase()
                        .ends_with(&format!("{}.gguf", wanted.to_lowercase()))
            }
        })
        .min_by_key(|(_, files)| (quant::rank(quant_of(files).as_deref()), size_of(files)));
    let wanted = match quant {
        Some(quant) => format!("GGUF file with quantisation `{quant}`"),
        None => "GGUF file".to_owned(),
    };
    let missing = |wanted: String, available| PullError::NothingToPull {
        source_name: source.to_owned(),
        wanted,
        available,
    };
    let Some((model, mut files)) = best else {
        return Err(missing(wanted, available));
    };
    files.sort_by(|a, b| a.rfilename.cmp(&b.rfilename));
    let shards = files.first().and_then(|file| shard_name(&file.rfilename));
    if let Some(shard) = shards
        && shard.count as usize != files.len()
    {
        let wanted = format!(
            "complete set of shards of `{model}` ({} of {})",
            files.len(),
            shard.count
        );
        return Err(missing(wanted, available));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{Sibling, choose};

    fn siblings(names: &[&str]) -> Vec<Sibling> {
        let sibling = |name: &&str| Sibling {
            rfilename: (*name).to_owned(),
            size: Some(10),
            lfs: None,
        };
        names.iter().map(sibling).collect()
    }

    #[test]
    fn takes_the_wanted_quantisation_or_the_preferred_one() {
        let names = [
            "README.md",
            "m-Q8_0.gguf",
            "m-Q4_K_M.gguf",
            "mmproj-Q4_K_M.gguf",
            "m-UD-Q4_K_XL.gguf",
            "BF16/m-BF16-00001-of-00002.gguf",
            "BF16/m-BF16-00002-of-00002.gguf",
            "broken-F32-00001-of-00002.gguf",
            "../evil-Q4_K_M.gguf",
        ];
        let table: [(Option<&str>, &[&str]); 5] = [
            (None, &["m-Q4_K_M.gguf"]),
            (Some("q8_0"), &["m-Q8_0.gguf"]),
            (Some("UD-Q4_K_XL"), &["m-UD-Q4_K_XL.gguf"]),
            (Some("Q4_K_XL"), &["m-UD-Q4_K_XL.gguf"]),
            (Some("BF16"), &names[5..7]),
        ];
        for (quant, expected) in table {
            let chosen = choose("s", siblings(&names), quant).unwrap();
            let chosen: Vec<_> = chosen.iter().map(|file| file.rfilename.as_str()).collect();
            assert_eq!(chosen, expected, "{quant:?}");
        }
        let absent = choose("hf:o/r", siblings(&names), Some("Q5_0")).unwrap_err();
        assert_eq!(
            absent.to_string(),
            "hf:o/r holds no GGUF file with quantisation `Q5_0`; \
             it holds: BF16, F32, Q4_K_M, Q4_K_XL, Q8_0"
        );
        let incomplete = choose("s", siblings(&names), Some("F32")).unwrap_err();
        assert!(incomplete.to_string().contains("(1 of 2)"), "{incomplete}");
    }
}
