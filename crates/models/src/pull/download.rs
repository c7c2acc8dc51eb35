//! One file: resume, verify, rename.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE,
};
use reqwest::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stdx::Bytes;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::http::{self, Failure, Request, chain, text_of};
use super::retry::Retry;
use super::{Context, PullError, blocking, disk, lock};
use crate::diagnose::check_file;
use crate::source::shown;
use crate::stores::{Manifest, with_suffix};

/// This much progress wipes the slate of earlier failures.
const PROGRESS_BYTES: u64 = 1 << 20;

/// A file to fetch.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    /// The name shown to people.
    pub file: String,
    pub request: Request,
    pub dest: PathBuf,
    pub bytes: Option<u64>,
    /// Lower-case hex.
    pub sha256: Option<String>,
    /// What to do about a 401 or 403, where the source knows better.
    pub denied_fix: Option<String>,
}

impl Remote {
    /// A refusal with the source's own advice.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        match (failure, &self.denied_fix) {
            (Failure::Final(PullError::Denied { url, status, .. }), Some(fix)) => {
                Failure::Final(PullError::Denied {
                    url,
                    status,
                    fix: fix.clone(),
                })
            }
            (failure, _) => failure,
        }
    }
}

/// What is remembered beside an unfinished file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sidecar {
    url: String,
    etag: Option<String>,
    total: Option<u64>,
    sha256: Option<String>,
}

impl Sidecar {
    /// True when bytes that came earlier can be proven to belong to the same
    /// file: by its checksum in the end, or by an entity tag now.
    const fn can_resume(&self) -> bool {
        self.sha256.is_some() || self.etag.is_some()
    }

    fn is_same_file(&self, remote: &Remote) -> bool {
        match (&self.sha256, &remote.sha256) {
            (Some(saved), Some(wanted)) => saved == wanted,
            (None, None) => self.etag.is_some() && self.url == shown(&remote.request.url),
            _ => false,
        }
    }
}

/// Fetches a file unless it is there already.
pub(super) async fn fetch(context: &Context<'_>, remote: Remote) -> Result<(), PullError> {
    let folder = remote.dest.parent().unwrap_or(context.store());
    fs::create_dir_all(folder).map_err(|error| PullError::io(folder, error))?;
    let _lock = lock::acquire(&context.puller.options, &remote.dest).await?;
    if let Some(bytes) = already_here(context, &remote).await? {
        context.report(&remote.file, bytes, Some(bytes));
        return Ok(());
    }
    let mut part = Part::open(context, &remote).await?;
    loop {
        let resumed = part.resumed;
        if let Err(error) = part.receive().await {
            if part.done == 0 {
                part.discard();
            }
            return Err(error);
        }
        match part.verify().await {
            Ok(sha256) => return part.keep(sha256).await,
            // The mistake may lie in the bytes of an earlier run: once more from the start.
            Err(PullError::Checksum { .. }) if resumed => part.reset().await?,
            Err(error) => {
                part.discard();
                return Err(error);
            }
        }
    }
}

/// The size of the finished file, if it is there and is the one that is wanted.
async fn already_here(context: &Context<'_>, remote: &Remote) -> Result<Option<u64>, PullError> {
    let Ok(metadata) = fs::metadata(&remote.dest) else {
        return Ok(None);
    };
    let bytes = metadata.len();
    if let Some(manifest) = Manifest::read(&remote.dest) {
        let is_same = match &remote.sha256 {
            Some(sha256) => *sha256 == manifest.sha256,
            None => manifest.source == context.source,
        };
        return Ok((is_same && manifest.bytes == bytes).then_some(bytes));
    }
    let Some(wanted) = &remote.sha256 else {
        return Ok(None);
    };
    let dest = remote.dest.clone();
    let (hasher, _) = blocking(&remote.dest, move || {
        hash_file(&dest).map_err(|error| PullError::io(dest, error))
    })
    .await?;
    if hex(&hasher.finalize()) != *wanted {
        return Ok(None);
    }
    let manifest = context.manifest(&remote.request.url, wanted.clone(), bytes);
    write_json(&Manifest::path_of(&remote.dest), &manifest)?;
    Ok(Some(bytes))
}

/// An unfinished file.
struct Part<'a> {
    context: &'a Context<'a>,
    remote: &'a Remote,
    path: PathBuf,
    file: tokio::fs::File,
    sidecar: Sidecar,
    hasher: Sha256,
    done: u64,
    /// True while bytes of an earlier run are in front.
    resumed: bool,
}

impl<'a> Part<'a> {
    async fn open(context: &'a Context<'a>, remote: &'a Remote) -> Result<Self, PullError> {
        let path = with_suffix(&remote.dest, ".part");
        let saved = fs::read(sidecar_path(&path))
            .ok()
            .and_then(|text| serde_json::from_slice::<Sidecar>(&text).ok())
            .filter(|saved| saved.is_same_file(remote));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(saved.is_none());
        let file = options
            .open(&path)
            .map_err(|error| PullError::io(&path, error))?;
        let (hasher, done) = match &saved {
            None => (Sha256::new(), 0),
            Some(_) => {
                let path = path.clone();
                blocking(&remote.dest, move || {
                    hash_file(&path).map_err(|error| PullError::io(path, error))
                })
                .await?
            }
        };
        let sidecar = saved.unwrap_or_else(|| Sidecar {
            url: shown(&remote.request.url),
            etag: None,
            total: remote.bytes,
            sha256: remote.sha256.clone(),
        });
        let mut part = Self {
            context,
            remote,
            file: tokio::fs::File::from_std(file),
            sidecar,
            hasher,
            done,
            resumed: done > 0,
            path,
        };
        if part.sidecar.total.is_some_and(|total| done > total) {
            part.reset().await?;
        }
        part.seek(part.done).await?;
        Ok(part)
    }

    /// Asks until every byte is here.
    async fn receive(&mut self) -> Result<(), PullError> {
        let remote = self.remote;
        let mut retry = Retry::new(self.context, &remote.request.url);
        loop {
            let before = self.done;
            let result = self.attempt().await;
            // Even what a broken connection brought must be on disk before it counts.
            self.file
                .flush()
                .await
                .map_err(|error| self.write_error(error))?;
            let Err(failure) = result else {
                return Ok(());
            };
            if self.done >= before.saturating_add(PROGRESS_BYTES) {
                retry.made_progress();
            }
            retry.pause(remote.explain(failure)).await?;
            if !self.sidecar.can_resume() {
                self.reset().await?;
            }
        }
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        if self.done > 0 && self.sidecar.total == Some(self.done) {
            return Ok(());
        }
        let mut request = self
            .remote
            .request
            .clone()
            .header(ACCEPT_ENCODING, "identity");
        if self.done > 0 {
            request = request.header(RANGE, format!("bytes={}-", self.done));
            if let Some(etag) = &self.sidecar.etag {
                request = request.header(IF_RANGE, etag.clone());
            }
        }
        let response = http::get(&self.context.puller.client, &request).await?;
        let total = match response.status() {
            StatusCode::PARTIAL_CONTENT => self.accept_range(&response).await?,
            StatusCode::RANGE_NOT_SATISFIABLE => return self.beyond_the_end(&response).await,
            _ => {
                http::check_status(&request.url, &response)?;
                // The whole file, asked for or not: the server knows no ranges, or
                // the file has changed.
                self.reset().await.map_err(Failure::Final)?;
                text_of(response.headers(), CONTENT_LENGTH).and_then(|text| text.parse().ok())
            }
        };
        self.begin(&response, total).map_err(Failure::Final)?;
        self.stream(response).await
    }

    /// Checks that a 206 continues where we stopped; gives the file's size.
    async fn accept_range(&mut self, response: &Response) -> Result<Option<u64>, Failure> {
        let range = text_of(response.headers(), CONTENT_RANGE).and_then(content_range);
        let etag_changed = strong_etag(response).is_some_and(|etag| {
            self.sidecar
                .etag
                .as_ref()
                .is_some_and(|saved| *saved != etag)
        });
        match range {
            Some((Some(start), total)) if start == self.done && !etag_changed => Ok(total),
            _ => {
                self.reset().await.map_err(Failure::Final)?;
                Err(Failure::Transient(
                    "the server sent another range than was asked for".to_owned(),
                    None,
                ))
            }
        }
    }

    /// A 416: right if we have everything, else the server is confused or the
    /// file has shrunk.
    async fn beyond_the_end(&mut self, response: &Response) -> Result<(), Failure> {
        let total = text_of(response.headers(), CONTENT_RANGE)
            .and_then(content_range)
            .and_then(|(_, total)| total);
        if self.done > 0 && total == Some(self.done) {
            self.sidecar.total = total;
            return Ok(());
        }
        self.reset().await.map_err(Failure::Final)?;
        Err(Failure::Transient(
            "the server refused the range (HTTP 416)".to_owned(),
            None,
        ))
    }

    /// Takes note of the size and the entity tag, and checks that there is room.
    fn begin(&mut self, response: &Response, total: Option<u64>) -> Result<(), PullError> {
        let remote = self.remote;
        if let Some(encoding) = text_of(response.headers(), CONTENT_ENCODING)
            && !encoding.eq_ignore_ascii_case("identity")
        {
            return Err(PullError::Protocol {
                url: shown(&remote.request.url),
                problem: format!("content encoding `{encoding}`, which was not asked for"),
            });
        }
        if let (Some(expected), Some(got)) = (remote.bytes, total)
            && expected != got
        {
            return Err(PullError::Size {
                file: remote.file.clone(),
                expected: Bytes(expected),
                got: Bytes(got),
            });
        }
        self.sidecar.total = total.or(remote.bytes);
        if let Some(etag) = strong_etag(response) {
            self.sidecar.etag = Some(etag);
        }
        write_json(&sidecar_path(&self.path), &self.sidecar)?;
        let left = self.sidecar.total.unwrap_or(0).saturating_sub(self.done);
        let folder = self.path.parent().unwrap_or(&self.path);
        disk::check_room(&self.context.puller.options, folder, left)
    }

    async fn stream(&mut self, mut response: Response) -> Result<(), Failure> {
        let total = self.sidecar.total;
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Err(Failure::Transient(chain(&error.without_url()), None)),
            };
            let after = self.done + chunk.len() as u64;
            if let Some(total) = total.filter(|total| after > *total) {
                return Err(Failure::Final(PullError::Size {
                    file: self.remote.file.clone(),
                    expected: Bytes(total),
                    got: Bytes(after),
                }));
            }
            self.file
                .write_all(&chunk)
                .await
                .map_err(|error| Failure::Final(self.write_error(error)))?;
            self.hasher.update(&chunk);
            self.done = after;
            self.context.report(&self.remote.file, after, total);
        }
        match total {
            Some(total) if self.done < total => Err(Failure::Transient(
                format!("the body ended after {} of {total} bytes", self.done),
                None,
            )),
            _ => Ok(()),
        }
    }

    fn write_error(&self, error: io::Error) -> PullError {
        let folder = self.path.parent().unwrap_or(&self.path);
        match PullError::io(&self.path, error) {
            PullError::DiskFull { .. } => PullError::DiskFull {
                folder: folder.to_owned(),
                need: Bytes(self.sidecar.total.unwrap_or(0).saturating_sub(self.done)),
                free: self
                    .context
                    .puller
                    .options
                    .disk
                    .free_bytes(folder)
                    .ok()
                    .map(Bytes),
            },
            other => other,
        }
    }

    /// Starts from nothing.
    async fn reset(&mut self) -> Result<(), PullError> {
        self.resumed = false;
        self.sidecar.etag = None;
        self.sidecar.total = self.remote.bytes;
        if self.done == 0 {
            return Ok(());
        }
        self.done = 0;
        self.hasher = Sha256::new();
        self.file
            .set_len(0)
            .await
            .map_err(|error| PullError::io(&self.path, error))?;
        self.seek(0).await
    }

    async fn seek(&mut self, place: u64) -> Result<(), PullError> {
        self.file
            .seek(io::SeekFrom::Start(place))
            .await
            .map(|_| ())
            .map_err(|error| PullError::io(&self.path, error))
    }

    /// The checksum of the whole file, after everything that can be wrong was checked.
    async fn verify(&mut self) -> Result<String, PullError> {
        self.file
            .sync_all()
            .await
            .map_err(|error| self.write_error(error))?;
        let got = hex(&self.hasher.clone().finalize());
        if let Some(expected) = self.remote.sha256.as_ref().filter(|sha256| **sha256 != got) {
            return Err(PullError::Checksum {
                file: self.remote.file.clone(),
                expected: expected.clone(),
                got,
            });
        }
        if self
            .remote
            .dest
            .extension()
            .is_some_and(|extension| extension == "gguf")
        {
            let path = self.path.clone();
            blocking(&self.path, move || Ok(check_file(&path).map(|_| ()))).await??;
        }
        Ok(got)
    }

    async fn keep(self, sha256: String) -> Result<(), PullError> {
        drop(self.file);
        let manifest = self
            .context
            .manifest(&self.remote.request.url, sha256, self.done);
        let dest = self.remote.dest.clone();
        let part = self.path.clone();
        blocking(&self.path, move || {
            put_in_place(&part, &dest)?;
            write_json(&Manifest::path_of(&dest), &manifest)?;
            let _ = fs::remove_file(sidecar_path(&part));
            Ok(())
        })
        .await
    }

    /// Deletes what is known to be wrong, or empty.
    fn discard(self) {
        drop(self.file);
        let _ = fs::remove_file(sidecar_path(&self.path));
        let _ = fs::remove_file(&self.path);
    }
}

fn sidecar_path(part: &Path) -> PathBuf {
    with_suffix(part, ".json")
}

/// Renames a flushed file into its place so that a power cut leaves one of the
/// two names, whole.
pub(super) fn put_in_place(part: &Path, dest: &Path) -> Result<(), PullError> {
    fs::rename(part, dest).map_err(|error| PullError::io(dest, error))?;
    #[cfg(unix)]
    if let Some(folder) = dest.parent() {
        // The rename itself is on disk only when the folder is.
        fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| PullError::io(folder, error))?;
    }
    Ok(())
}

/// Writes JSON so that a reader sees the old text or the new one, never half.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), PullError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| PullError::io(path, io::Error::other(error)))?;
    let temporary = with_suffix(path, ".tmp");
    fs::write(&temporary, text).map_err(|error| PullError::io(&temporary, error))?;
    fs::rename(&temporary, path).map_err(|error| PullError::io(path, error))
}

fn hash_file(path: &Path) -> io::Result<(Sha256, u64)> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher, bytes)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..read).unwrap_or_default());
        bytes += read as u64;
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A weak tag says "about the same", which is not enough to glue bytes together.
fn strong_etag(response: &Response) -> Option<String> {
    let etag = text_of(response.headers(), ETAG)?;
    (!etag.starts_with("W/")).then(|| etag.to_owned())
}

/// `bytes START-END/TOTAL`, where START-END or TOTAL may be `*`.
pub(super) fn content_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range
        .split_once('-')
        .and_then(|(start, _)| start.parse().ok());
    Some((start, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn reads_content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(content_range("bytes */10"), Some((None, Some(10))));
        assert_eq!(content_range("lines 1-2/3"), None);
    }
}
