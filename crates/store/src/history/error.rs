//! Why the history cannot be used; the endpoint goes on without it.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// What is wrong with the file of the history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error(
        "the history `{}` is of version {found}, and this program knows versions up to {known}; \
         start the newer program that wrote it, or move the file away and a new one is begun",
        path.display()
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("the history `{}` is damaged ({detail})", path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error(
        "the history `{}` is locked by another program; it is tried again",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error(
        "the history `{}` cannot be written ({detail}); make room or its folder writable: it is \
         tried again",
        path.display()
    )]
    Unreachable { path: PathBuf, detail: String },
    #[error("{limit} notes are kept, and that is the limit; delete one first")]
    TooManyNotes { limit: u32 },
}

impl HistoryError {
    pub(super) fn of(path: &Path, error: &rusqlite::Error) -> Self {
        let path = path.to_owned();
        let detail = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, detail }
            }
            // Tables that are missing, or not as they should be.
            Some(ErrorCode::Unknown | ErrorCode::TypeMismatch | ErrorCode::SchemaChanged) => {
                Self::Corrupt { path, detail }
            }
            _ => Self::Unreachable { path, detail },
        }
    }
}
