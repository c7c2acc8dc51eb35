//! What survives a restart: keys, what they have used, the audit log, kept responses, chats; and
//! the figures of the past, in a file of their own ([`History`]).
//!
//! One SQLite file in the data directory. [`Store::open`] checks it and brings it to the
//! schema of this program. All that is written while requests run goes over one bounded
//! queue to one thread ([`Writer`]), which never keeps a request waiting; reading uses
//! connections of its own. Of a process that is killed at most [`FLUSH_AFTER`] of writing is
//! lost, plus the transaction at work. Chats have a thread of their own ([`ChatWriter`]), which
//! answers.
//!
//! Results of measurements are in a file of their own ([`Results`]), which may be copied, given
//! away or deleted without what the server needs, and whose writers do not wait for the server's.

mod audit;
mod chat_writer;
mod chats;
mod error;
mod history;
mod keys;
mod response;
mod results;
mod schema;
mod usage;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use rusqlite::Connection;

pub use audit::{AuditFilter, AuditLines, AuditPage, AuditRow, AuditSource, span};
pub use chat_writer::{CHAT_QUEUE_MAX, ChatWriter, Written};
pub use chats::{
    CHATS_PAGE_MAX, Chat, ChatFilter, ChatMessage, ChatRole, ChatRow, ChatWrite, MessageState,
};
pub use error::StoreError;
pub use history::{
    CLOCK_SET_S, CORES_SHOWN_MAX, Cores, Figure, HISTORY_BYTES_MAX, HISTORY_DAYS_MAX,
    HISTORY_FILE_NAME, History, HistoryAsk, HistoryError, HistoryPage, MARK_TEXT_BYTES_MAX,
    MARKS_PENDING_MAX, MARKS_READ_MAX, Mark, MarkKind, NOTES_MAX, PENDING_MAX,
    PROCESS_NAME_BYTES_MAX, PROCESSES_MAX, STEP_S, Sample, Shown, Spread, WAIT_STEPS, Waits,
};
pub use keys::{Key, KeyLimits, NewKey, Scope, Scopes, hash};
pub use response::{Kept, Used};
pub use results::{
    Added, LIST_MAX, RECORD_BYTES_MAX, RESULTS_FILE_NAME, RESULTS_VERSION, RUN_BYTES_MAX,
    ResultFilter, ResultMachine, ResultModel, ResultRun, Results, ResultsSession, Stored,
    result_id,
};
pub use schema::FILE_NAME;
pub use usage::{Spent, Usage, day_of, days_of_month};
pub use writer::{BATCH_MAX, FLUSH_AFTER, QUEUE_BYTES_MAX, QUEUE_MAX, Retention, Writer};

/// A database of this program, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Opens the database of a data directory, or begins one there. Only its owner can read
    /// it.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do about it.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE_NAME);
        schema::prepare(&path, &schema::MAIN)?;
        Ok(Self { path })
    }

    /// The database of a data directory if there is one; none is begun.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(data_dir: &Path) -> Result<Option<Self>, StoreError> {
        match data_dir.join(FILE_NAME).exists() {
            true => Self::open(data_dir).map(Some),
            false => Ok(None),
        }
    }

    /// Whether the database of a data directory, if there is one, can be used. Nothing is
    /// changed; the whole file is read.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn inspect(data_dir: &Path) -> Result<(), StoreError> {
        let path = data_dir.join(FILE_NAME);
        match path.exists() {
            true => schema::inspect(&path),
            false => Ok(()),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection for reading, and for the few writes of the command line.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn connect(&self) -> Result<Session, StoreError> {
        Ok(Session {
            connection: schema::connect(&self.path)?,
            path: self.path.clone(),
        })
    }

    /// Starts the thread that writes. It ends, with all written, when the last clone of the
    /// writer is dropped.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn writer(&self, retention: Retention) -> Result<Writer, StoreError> {
        Writer::start(self, retention)
    }

    /// Starts the thread that writes chats; what an earlier process left open is cut off. It
    /// ends, with all written, when the last clone of the writer is dropped.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn chat_writer(&self) -> Result<ChatWriter, StoreError> {
        ChatWriter::start(self)
    }
}

/// A connection to the database. Keys are in `keys.rs`, the audit log in `audit.rs`, usage in
/// `usage.rs`, responses in `response.rs`, chats in `chats.rs`.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    path: PathBuf,
}

impl Session {
    /// Says which file an error of SQLite is about.
    fn told<T>(&self, result: rusqlite::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::of(&self.path, &error))
    }
}
