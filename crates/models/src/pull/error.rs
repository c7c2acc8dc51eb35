//! What can stop a pull. Each message names the cause and ends in the fix.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use stdx::Bytes;

use crate::diagnose::ArtifactFault;
use crate::source::SourceError;

/// Why a pull failed. Addresses in messages carry no user, password or query.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Source(#[from] SourceError),
    /// 401 or 403.
    #[error("{url} refused access (HTTP {status}); {fix}")]
    Denied {
        url: String,
        status: u16,
        fix: String,
    },
    /// 404 or 410.
    #[error("{url} does not exist (HTTP {status}); check the spelling of the name and the tag")]
    NotFound { url: String, status: u16 },
    /// 429, with a wait longer than we are willing to sit out.
    #[error("{url} asks us to slow down (HTTP 429); try again {}, or sign in for a higher limit", retry_after.map_or_else(|| "in a few minutes".to_owned(), |wait| format!("in {} s", wait.as_secs())))]
    RateLimited {
        url: String,
        retry_after: Option<Duration>,
    },
    /// Any other status that is no success.
    #[error("{url} answered HTTP {status}; {}", if *status >= 500 { "the server has a problem, try again later" } else { "check the address" })]
    Status { url: String, status: u16 },
    /// The connection failed as often as we are willing to try.
    #[error(
        "{url} could not be read after {attempts} attempts ({message}); check the network and pull again, the download continues where it stopped"
    )]
    Network {
        url: String,
        attempts: u32,
        message: String,
    },
    /// The HTTP client could not be built.
    #[error(
        "the HTTPS client could not start ({message}); check that the system has CA certificates (SSL_CERT_FILE)"
    )]
    Client { message: String },
    /// A redirect to where we will not go.
    #[error("{url} redirects to {target}, which {why}; pull from another address")]
    Redirect {
        url: String,
        target: String,
        why: &'static str,
    },
    /// The server answered something the protocol does not allow.
    #[error(
        "{url} answered something unexpected: {problem}; check the address, or the endpoint setting"
    )]
    Protocol { url: String, problem: String },
    /// The repository or package holds no file we could use.
    #[error("{source_name} holds no {wanted}; {}", if available.is_empty() { "name another one".to_owned() } else { format!("it holds: {}", available.join(", ")) })]
    NothingToPull {
        source_name: String,
        wanted: String,
        available: Vec<String>,
    },
    #[error(
        "{file}: the checksum is wrong: expected sha256 {expected}, got {got}; the bytes were deleted, pull again"
    )]
    Checksum {
        file: String,
        expected: String,
        got: String,
    },
    #[error(
        "{file} should be {expected}, the server sent {got}; pull again, and if it happens twice the file there is broken"
    )]
    Size {
        file: String,
        expected: Bytes,
        got: Bytes,
    },
    #[error("the disk of `{}` is full: {need} needed{}; free some space, or set SEXTANT_MODELS to a folder on another disk", folder.display(), free.map_or_else(String::new, |free| format!(", {free} free")))]
    DiskFull {
        folder: PathBuf,
        need: Bytes,
        free: Option<Bytes>,
    },
    #[error("another process has been pulling `{}` for {} s; wait for it, or stop it", path.display(), waited.as_secs())]
    Locked { path: PathBuf, waited: Duration },
    #[error("`{}`: {error}; check that the folder exists and may be written", path.display())]
    Io { path: PathBuf, error: io::Error },
    /// The bytes arrived whole, and are no sound model.
    #[error("what was pulled is no sound model: {0}")]
    Artifact(#[from] ArtifactFault),
    /// A package has to be fetched whole before what is in it can be read.
    #[error(
        "the header of {source_name} cannot be read by itself, since it comes in a package; pull it first"
    )]
    NoHeader { source_name: String },
    #[error("there is no folder to keep models in; set SEXTANT_MODELS")]
    NoStore,
}

impl PullError {
    /// Wraps a file error; a full disk gets its own variant.
    pub(crate) fn io(path: impl Into<PathBuf>, error: io::Error) -> Self {
        let path = path.into();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                folder: path
                    .parent()
                    .map(std::path::Path::to_owned)
                    .unwrap_or_default(),
                need: Bytes(0),
                free: None,
            },
            _ => Self::Io { path, error },
        }
    }
}
