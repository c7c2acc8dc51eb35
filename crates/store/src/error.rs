//! What can go wrong, in words that name the file and what to do.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::schema::BUSY_TIMEOUT;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the database `{}` is of version {found}, and this program knows versions up to \
         {known}; start the newer program that wrote it, or name another `data_dir`",
        path.display()
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error(
        "the database `{}` cannot be used ({detail}); move it away and a new one is begun \
         (what it holds stays in the old one)",
        path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
    #[error(
        "the database `{}` has been locked by another program for {} s; end that program, or \
         name another `data_dir`",
        path.display(), BUSY_TIMEOUT.as_secs()
    )]
    Locked { path: PathBuf },
    #[error(
        "the database `{}` cannot be opened ({detail}); make its folder writable, or name \
         another `data_dir`",
        path.display()
    )]
    Unreachable { path: PathBuf, detail: String },
    #[error("there is a key `{name}` already; choose another name, or revoke that key first")]
    NameTaken { name: String },
    #[error("there is no key `{name}` in use; `sextant key list` shows those there are")]
    NoSuchKey { name: String },
    #[error(
        "{n} keys are in use; revoke each of them with `sextant key revoke NAME` first, since \
         without any key the endpoint answers whoever asks"
    )]
    KeysInUse { n: i64 },
    #[error("the system gave no random bytes ({0}); nothing was changed")]
    Random(String),
}

impl StoreError {
    pub(crate) fn of(path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path },
            Some(
                ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure,
            ) => Self::Unreachable {
                path,
                detail: error.to_string(),
            },
            _ => Self::Corrupt {
                path,
                detail: error.to_string(),
            },
        }
    }
}
