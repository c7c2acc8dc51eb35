//! The header of a model that is not here: what a plan needs, without the weights.
//!
//! The first bytes are asked for with ranges, more and more of them until the header is whole.
//! They are written to a file of the model's full length that is otherwise a hole: everything
//! that reads headers reads it, and it takes no more room than the header.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use reqwest::{Response, StatusCode};

use super::download::{Remote, content_range};
use super::http::{self, Failure, Request, chain, text_of};
use super::retry::Retry;
use super::{Context, PullError, Puller, hugging_face, ollama};
use crate::gguf::{Arrays, Gguf, GgufError};
use crate::source::{Source, shown};

/// The first piece; most headers with a vocabulary of 50,000 tokens are shorter.
const FIRST_BYTES: u64 = 2 << 20;
/// The longest header: ten times that of a vocabulary of 260,000 tokens.
const HEADER_BYTES_MAX: u64 = 128 << 20;

impl Puller {
    /// Reads the headers of a model and puts them into `folder` as files that have the model's
    /// length and no weights. Gives the first, for a model in several files.
    ///
    /// # Errors
    /// [`PullError`]; a package cannot be read in parts.
    pub async fn headers(&self, source: &Source, folder: &Path) -> Result<PathBuf, PullError> {
        let context = Context {
            puller: self,
            progress: &|_| (),
            source: source.to_string(),
        };
        let remotes = match source {
            Source::HuggingFace { repo, quant } => {
                hugging_face::plan(&context, repo, quant.as_deref()).await?
            }
            Source::Ollama { name, tag } => {
                let mut remotes = ollama::plan(&context, name, tag).await?;
                // The model comes first, what follows are its settings.
                remotes.truncate(1);
                remotes
            }
            Source::Url(url) => vec![context.address(url)],
            Source::PyPi { .. } => {
                return Err(PullError::NoHeader {
                    source_name: context.source,
                });
            }
        };
        let mut first = None;
        for remote in remotes {
            let name = remote.file.rsplit('/').next().unwrap_or(&remote.file);
            let path = folder.join(name);
            Header::new(&context, &remote).fetch(&path).await?;
            first.get_or_insert(path);
        }
        first.ok_or(PullError::NothingToPull {
            source_name: context.source,
            wanted: "GGUF file".to_owned(),
            available: Vec::new(),
        })
    }
}

/// A header on its way.
struct Header<'a> {
    context: &'a Context<'a>,
    remote: &'a Remote,
    bytes: Vec<u8>,
    /// Length of the whole file.
    total: Option<u64>,
}

impl<'a> Header<'a> {
    fn new(context: &'a Context<'a>, remote: &'a Remote) -> Self {
        Self {
            context,
            remote,
            bytes: Vec::new(),
            total: remote.bytes,
        }
    }

    async fn fetch(mut self, path: &Path) -> Result<(), PullError> {
        let mut wanted = FIRST_BYTES;
        loop {
            self.receive(wanted).await?;
            let total = self.total.unwrap_or(self.bytes.len() as u64);
            match Gguf::read(self.bytes.as_slice(), total, Arrays::SkipLong) {
                Ok(_) => {
                    return write(path, &self.bytes, total)
                        .map_err(|error| PullError::io(path, error));
                }
                Err(GgufError::Truncated { .. })
                    if self.has_more() && wanted < HEADER_BYTES_MAX =>
                {
                    wanted = wanted.saturating_mul(4).min(HEADER_BYTES_MAX);
                }
                Err(error) => {
                    return Err(PullError::Protocol {
                        url: shown(&self.remote.request.url),
                        problem: format!("no header of a model ({error})"),
                    });
                }
            }
        }
    }

    fn has_more(&self) -> bool {
        self.total
            .is_none_or(|total| (self.bytes.len() as u64) < total)
    }

    /// Asks until so many bytes of the file are here, or all of it.
    async fn receive(&mut self, wanted: u64) -> Result<(), PullError> {
        let remote = self.remote;
        let mut retry = Retry::new(self.context, &remote.request.url);
        while (self.bytes.len() as u64) < wanted && self.has_more() {
            let before = self.bytes.len();
            if let Err(failure) = self.attempt(wanted).await {
                if self.bytes.len() > before {
                    retry.made_progress();
                }
                retry.pause(remote.explain(failure)).await?;
            }
        }
        Ok(())
    }

    async fn attempt(&mut self, wanted: u64) -> Result<(), Failure> {
        let start = self.bytes.len() as u64;
        let range = format!("bytes={start}-{}", wanted - 1);
        let request = self.remote.request.clone();
        let request = request
            .header(ACCEPT_ENCODING, "identity")
            .header(RANGE, range);
        let response = http::get(&self.context.puller.client, &request).await?;
        self.accept(&request, &response)?;
        self.stream(response, wanted).await
    }

    /// Takes note of the file's length; a server that knows no ranges begins anew.
    fn accept(&mut self, request: &Request, response: &Response) -> Result<(), Failure> {
        http::check_status(&request.url, response)?;
        let number = |text: &str| text.parse().ok();
        if response.status() != StatusCode::PARTIAL_CONTENT {
            self.bytes.clear();
            self.total = text_of(response.headers(), CONTENT_LENGTH)
                .and_then(number)
                .or(self.total);
            return Ok(());
        }
        let start = self.bytes.len() as u64;
        match text_of(response.headers(), CONTENT_RANGE).and_then(content_range) {
            Some((Some(from), total)) if from == start => {
                self.total = total.or(self.total);
                Ok(())
            }
            _ => {
                self.bytes.clear();
                Err(Failure::Transient(
                    "the server sent another range than was asked for".to_owned(),
                    None,
                ))
            }
        }
    }

    /// Takes bytes up to so many, and no more even where the server would go on.
    async fn stream(&mut self, mut response: Response, wanted: u64) -> Result<(), Failure> {
        while (self.bytes.len() as u64) < wanted {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let missing = wanted - self.bytes.len() as u64;
                    let taken = (chunk.len() as u64).min(missing);
                    self.bytes.extend_from_slice(&chunk[..taken as usize]);
                }
                Ok(None) => {
                    // Without a length the end of the answer is the end of the file.
                    self.total.get_or_insert(self.bytes.len() as u64);
                    return Ok(());
                }
                Err(error) => return Err(Failure::Transient(chain(&error.without_url()), None)),
            }
        }
        Ok(())
    }
}

/// A file with that beginning and length, and a hole between.
fn write(path: &Path, header: &[u8], total: u64) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = File::create(path)?;
    file.write_all(header)?;
    file.set_len(total)
}
