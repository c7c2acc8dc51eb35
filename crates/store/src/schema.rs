//! The file, its schema, and the way from one version of the schema to the next.

use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::StoreError;

/// The name of the file in the data directory.
pub const FILE_NAME: &str = "sextant.db";

/// How long a lock of another program is waited for.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A kind of file.
#[derive(Debug)]
pub(crate) struct Form {
    /// Marks a file as one of this kind.
    application_id: i64,
    /// One step of the schema each; `user_version` counts those that were made.
    migrations: &'static [&'static str],
}

impl Form {
    /// The version of the schema that this program writes.
    pub(crate) const fn version(&self) -> i64 {
        self.migrations.len() as i64
    }
}

/// [`FILE_NAME`], marked "Sxtn".
pub(crate) const MAIN: Form = Form {
    application_id: 0x5378_746e,
    migrations: &[
        include_str!("v1.sql"),
        include_str!("v2.sql"),
        include_str!("v3.sql"),
    ],
};

/// [`crate::RESULTS_FILE_NAME`], marked "Sxtr".
pub(crate) const RESULTS: Form = Form {
    application_id: 0x5378_7472,
    migrations: &[include_str!("results_v1.sql")],
};

/// Makes the file where there is none and brings it to the form's version.
pub(crate) fn prepare(path: &Path, form: &Form) -> Result<(), StoreError> {
    create(path).map_err(|error| StoreError::Unreachable {
        path: path.to_owned(),
        detail: error.to_string(),
    })?;
    let mut connection = connect(path)?;
    let told = |error: &rusqlite::Error| StoreError::of(path, error);
    // Two programs that start at once migrate one after the other.
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|error| told(&error))?;
    let found = version(&transaction, path, form)?;
    let steps = form
        .migrations
        .iter()
        .skip(usize::try_from(found).unwrap_or(0));
    for step in steps {
        transaction
            .execute_batch(step)
            .map_err(|error| told(&error))?;
    }
    let pragmas = [
        ("user_version", form.version()),
        ("application_id", form.application_id),
    ];
    for (name, value) in pragmas {
        let set = transaction.pragma_update(None, name, value);
        set.map_err(|error| told(&error))?;
    }
    transaction.commit().map_err(|error| told(&error))
}

/// Looks at a file of [`MAIN`] without changing anything, not even beside it.
pub(crate) fn inspect(path: &Path) -> Result<(), StoreError> {
    let told = |error: rusqlite::Error| StoreError::of(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let connection = if Path::new(&log).exists() {
        Connection::open_with_flags(path, flags)
    } else {
        // Nobody writes, and SQLite need not make files of its own to read along.
        let flags = flags | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(immutable(path), flags)
    };
    let connection = connection.map_err(told)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(told)?;
    version(&connection, path, &MAIN)?;
    let check = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0));
    let detail: String = check.map_err(told)?;
    match detail.as_str() {
        "ok" => Ok(()),
        _ => Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail,
        }),
    }
}

/// The address by which SQLite opens a file that does not change.
fn immutable(path: &Path) -> OsString {
    let mut address = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' => address.extend(format!("%{byte:02X}").bytes()),
            byte => address.push(*byte),
        }
    }
    address.extend(b"?immutable=1");
    OsString::from_vec(address)
}

/// Others of this machine read neither the folder, if it is new, nor the file; SQLite gives
/// the files beside it the same rights.
pub(crate) fn create(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let file = options.open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

/// The version of the schema in the file, which must be of this form.
fn version(connection: &Connection, path: &Path, form: &Form) -> Result<i64, StoreError> {
    let number = |name: &str| {
        let number = connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        number.map_err(|error| StoreError::of(path, &error))
    };
    let (found, owner) = (number("user_version")?, number("application_id")?);
    let tables = connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0));
    let tables: i64 = tables.map_err(|error| StoreError::of(path, &error))?;
    let is_ours = owner == form.application_id || (owner == 0 && tables == 0);
    match is_ours {
        false => Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: "it belongs to another program".to_owned(),
        }),
        true if !(0..=form.version()).contains(&found) => Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known: form.version(),
        }),
        true => Ok(found),
    }
}

/// Memory for pages that each connection takes, in KiB.
const CACHE_KIB: i64 = 512;

/// A connection with the pragmas that every one has.
pub(crate) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let told = |error: rusqlite::Error| StoreError::of(path, &error);
    // No URIs, so any path is a path; each connection stays on one thread at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(told)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(told)?;
    // Readers do not wait for the writer. What is committed outlives the process; the last
    // commits before a power cut may be lost, the file stays whole.
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(told)?;
    if mode != "wal" {
        tracing::warn!(mode, "the file system of the database has no shared memory");
    }
    connection
        .pragma_update(None, "synchronous", "NORMAL")
        .map_err(told)?;
    // What is deleted is overwritten. FAST would leave long texts, which have pages of their own,
    // in the free pages.
    connection
        .pragma_update(None, "secure_delete", "ON")
        .map_err(told)?;
    // The kernel keeps the file's pages too.
    connection
        .pragma_update(None, "cache_size", -CACHE_KIB)
        .map_err(told)?;
    Ok(connection)
}
