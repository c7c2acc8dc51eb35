//! Results of `sextant bench`: finished runs with all that they have measured.
//!
//! A file of its own beside the server's database. Whole runs are added in one transaction each
//! call, so what is there is whole; programs that write at once wait for one another.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::keys::{clamped, unsigned};
use crate::{StoreError, schema};

/// The name of the file in the data directory.
pub const RESULTS_FILE_NAME: &str = "results.db";
/// The version of its schema.
pub const RESULTS_VERSION: i64 = schema::RESULTS.version();
/// Bytes of one record, which is a line of a file of `--out`.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Bytes of all records of a run together.
pub const RUN_BYTES_MAX: usize = 256 << 20;
/// Runs of one list.
pub const LIST_MAX: u32 = 10_000;
/// Bytes of a hash that are in an id: a machine makes some thousands of runs in its life.
const ID_BYTES: usize = 5;

/// A run without its records. Serialises to what lists and exports have of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultRun {
    /// [`result_id`].
    pub id: String,
    /// `speed`, `quality`, `context`, `load`, `llama-bench`, ...
    pub kind: String,
    /// Seconds since 1970; 0: nobody wrote it down.
    pub began_s: u64,
    pub ended_s: u64,
    /// The words of the command line, secrets left out.
    pub command: Vec<String>,
    /// `bench`, or the name of the file that it was imported from.
    pub source: String,
    /// The address of the endpoint that was measured; `None`: none was.
    pub server: Option<String>,
    /// The build of the program that has measured.
    pub program: Option<String>,
    pub machine: ResultMachine,
    /// How many programs wanted to compute, an average of a minute.
    pub load_before: Option<f64>,
    pub load_after: Option<f64>,
    pub models: Vec<ResultModel>,
    /// The first line of a file of `--out`.
    pub heading: Value,
    /// Attempts, rounds or requests.
    pub n_records: u64,
    /// Of heading and records.
    pub bytes: u64,
}

/// The machine that has measured, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultMachine {
    pub cpu: Option<String>,
    /// Logical ones that are in use.
    pub cores: Option<u64>,
    pub kernel: Option<String>,
    pub memory_bytes: Option<u64>,
    pub board: Option<String>,
}

/// What was measured, as far as the engine tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultModel {
    pub name: String,
    pub path: Option<String>,
    pub bytes: Option<u64>,
    /// Of the file, by its size and a hash of its ends.
    pub fingerprint: Option<String>,
    /// Of the engine.
    pub build: Option<String>,
    /// The machine that has computed.
    pub hardware: Option<String>,
}

/// A run with its records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stored {
    pub run: ResultRun,
    /// JSON each, without a line end.
    pub records: Vec<String>,
}

/// What became of a run that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    New,
    /// It was there already, and stays as it is.
    There,
}

/// Which runs are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultFilter {
    pub kind: Option<String>,
    /// A part of a model's name, in any case of letters.
    pub model: Option<String>,
    /// At most [`LIST_MAX`]; `None`: so many.
    pub limit: Option<u32>,
}

/// The name of a measurement: its kind, and a hash of what was measured.
#[must_use]
pub fn result_id(kind: &str, heading: &Value, records: &[String]) -> String {
    let mut hash = Sha256::new();
    hash.update(kind);
    hash.update("\n");
    hash.update(heading.to_string());
    for record in records {
        hash.update("\n");
        hash.update(record);
    }
    let hash = hash.finalize();
    let digits: String = hash
        .iter()
        .take(ID_BYTES)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{kind}-{digits}")
}

/// The file of results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Results {
    path: PathBuf,
}

impl Results {
    /// Opens the file of a data directory, or begins one there. Only its owner can read it.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do about it.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(RESULTS_FILE_NAME);
        schema::prepare(&path, &schema::RESULTS)?;
        Ok(Self { path })
    }

    /// The file of a data directory if there is one; none is begun.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_existing(data_dir: &Path) -> Result<Option<Self>, StoreError> {
        match data_dir.join(RESULTS_FILE_NAME).exists() {
            true => Self::open(data_dir).map(Some),
            false => Ok(None),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// # Errors
    /// As [`Self::open`].
    pub fn connect(&self) -> Result<ResultsSession, StoreError> {
        Ok(ResultsSession {
            connection: schema::connect(&self.path)?,
            path: self.path.clone(),
        })
    }
}

/// A connection to the file of results.
#[derive(Debug)]
pub struct ResultsSession {
    connection: Connection,
    path: PathBuf,
}

const COLUMNS: &str = "n, id, kind, began_s, ended_s, command, source, server, program, cpu, \
     cores, kernel, memory_bytes, board, load_before, load_after, heading, n_records, bytes";

impl ResultsSession {
    /// Adds runs, all or none. What became of each is told in their order.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn add(&mut self, runs: &[Stored]) -> Result<Vec<Added>, StoreError> {
        let added = self.in_transaction(|transaction| {
            let each = runs.iter().map(|stored| insert(transaction, stored));
            each.collect()
        });
        self.told(added)
    }

    /// Runs, the last first.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn runs(&self, filter: &ResultFilter) -> Result<Vec<ResultRun>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM runs WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR n IN \
             (SELECT run FROM run_models WHERE instr(lower(name), lower(?2)) > 0)) \
             ORDER BY n DESC LIMIT ?3"
        );
        let limit = filter.limit.unwrap_or(LIST_MAX).min(LIST_MAX);
        self.several(&sql, params![filter.kind, filter.model, limit])
    }

    /// The run with this id.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn run(&self, id: &str) -> Result<Option<ResultRun>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM runs WHERE id = ?1");
        Ok(self.several(&sql, params![id])?.pop())
    }

    /// Runs whose ids begin so, two at most: more than one is not the one that is meant.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn runs_that_begin(&self, id: &str) -> Result<Vec<ResultRun>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM runs WHERE substr(id, 1, length(?1)) = ?1 ORDER BY n LIMIT 2"
        );
        self.several(&sql, params![id])
    }

    /// The last run of a kind, or of any; `back` counts from it into the past.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn last(&self, kind: Option<&str>, back: u32) -> Result<Option<ResultRun>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM runs WHERE ?1 IS NULL OR kind = ?1 ORDER BY n DESC LIMIT 1 OFFSET ?2"
        );
        Ok(self.several(&sql, params![kind, back])?.pop())
    }

    /// The records of a run, in their order.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn records(&self, id: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT record FROM records WHERE run = (SELECT n FROM runs WHERE id = ?1) \
             ORDER BY place";
        let mut statement = self.told(self.connection.prepare_cached(sql))?;
        let rows = self.told(statement.query_map([id], |row| row.get(0)))?;
        self.told(rows.collect())
    }

    /// Forgets runs, all or none; how many there were. The file gives their room back, unless
    /// somebody else is using it.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn remove(&mut self, ids: &[String]) -> Result<usize, StoreError> {
        let removed = self.in_transaction(|transaction| {
            let mut n_removed = 0;
            for id in ids {
                for table in ["records", "run_models"] {
                    let sql = format!(
                        "DELETE FROM {table} WHERE run = (SELECT n FROM runs WHERE id = ?1)"
                    );
                    transaction.execute(&sql, [id])?;
                }
                n_removed += transaction.execute("DELETE FROM runs WHERE id = ?1", [id])?;
            }
            Ok(n_removed)
        });
        let n_removed = self.told(removed)?;
        if n_removed > 0 {
            // While another program reads, the file stays as long as it is, and its free pages are
            // used again.
            let _ = self.connection.execute_batch("VACUUM");
        }
        Ok(n_removed)
    }

    fn several(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
    ) -> Result<Vec<ResultRun>, StoreError> {
        let mut statement = self.told(self.connection.prepare_cached(sql))?;
        let rows = self.told(statement.query_map(values, |row| Ok((row.get(0)?, run(row)?))))?;
        let rows: Vec<(i64, ResultRun)> = self.told(rows.collect())?;
        let mut runs = Vec::with_capacity(rows.len());
        for (n, run) in rows {
            let models = self.told(models(&self.connection, n))?;
            runs.push(ResultRun { models, ..run });
        }
        Ok(runs)
    }

    /// Begins to write at once, so that another program's writing is waited for before anything
    /// is read.
    fn in_transaction<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let behavior = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behavior)?;
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// Says which file an error of SQLite is about.
    fn told<T>(&self, result: rusqlite::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::of(&self.path, &error))
    }
}

fn insert(transaction: &Transaction<'_>, stored: &Stored) -> rusqlite::Result<Added> {
    let run = &stored.run;
    let sql = "INSERT INTO runs (id, kind, began_s, ended_s, command, source, server, program, \
         cpu, cores, kernel, memory_bytes, board, load_before, load_after, heading, n_records, \
         bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, \
         ?17, ?18) ON CONFLICT (id) DO NOTHING";
    let machine = &run.machine;
    let n_inserted = transaction.prepare_cached(sql)?.execute(params![
        run.id,
        run.kind,
        clamped(run.began_s),
        clamped(run.ended_s),
        Value::from(run.command.clone()).to_string(),
        run.source,
        run.server,
        run.program,
        machine.cpu,
        machine.cores.map(clamped),
        machine.kernel,
        machine.memory_bytes.map(clamped),
        machine.board,
        run.load_before,
        run.load_after,
        run.heading.to_string(),
        clamped(run.n_records),
        clamped(run.bytes),
    ])?;
    if n_inserted == 0 {
        return Ok(Added::There);
    }
    let n = transaction.last_insert_rowid();
    let sql = "INSERT INTO run_models (run, place, name, path, bytes, fingerprint, build, hardware) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let mut statement = transaction.prepare_cached(sql)?;
    for (place, model) in run.models.iter().enumerate() {
        statement.execute(params![
            n,
            clamped(place as u64),
            model.name,
            model.path,
            model.bytes.map(clamped),
            model.fingerprint,
            model.build,
            model.hardware,
        ])?;
    }
    let sql = "INSERT INTO records (run, place, record) VALUES (?1, ?2, ?3)";
    let mut statement = transaction.prepare_cached(sql)?;
    for (place, record) in stored.records.iter().enumerate() {
        statement.execute(params![n, clamped(place as u64), record])?;
    }
    Ok(Added::New)
}

fn models(connection: &Connection, n: i64) -> rusqlite::Result<Vec<ResultModel>> {
    let sql = "SELECT name, path, bytes, fingerprint, build, hardware FROM run_models \
         WHERE run = ?1 ORDER BY place";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([n], |row| {
        Ok(ResultModel {
            name: row.get(0)?,
            path: row.get(1)?,
            bytes: row.get::<_, Option<i64>>(2)?.map(unsigned),
            fingerprint: row.get(3)?,
            build: row.get(4)?,
            hardware: row.get(5)?,
        })
    })?;
    rows.collect()
}

/// Its models are in a table of their own.
fn run(row: &Row<'_>) -> rusqlite::Result<ResultRun> {
    let number = |name| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(name)?.map(unsigned));
    let json = |name| {
        let text: String = row.get(name)?;
        // Only we write it.
        Ok::<_, rusqlite::Error>(serde_json::from_str::<Value>(&text).unwrap_or_default())
    };
    let command = json("command")?;
    let words = command.as_array().into_iter().flatten();
    Ok(ResultRun {
        id: row.get("id")?,
        kind: row.get("kind")?,
        began_s: unsigned(row.get("began_s")?),
        ended_s: unsigned(row.get("ended_s")?),
        command: words
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect(),
        source: row.get("source")?,
        server: row.get("server")?,
        program: row.get("program")?,
        machine: ResultMachine {
            cpu: row.get("cpu")?,
            cores: number("cores")?,
            kernel: row.get("kernel")?,
            memory_bytes: number("memory_bytes")?,
            board: row.get("board")?,
        },
        load_before: row.get("load_before")?,
        load_after: row.get("load_after")?,
        models: Vec::new(),
        heading: json("heading")?,
        n_records: unsigned(row.get("n_records")?),
        bytes: unsigned(row.get("bytes")?),
    })
}

#[cfg(test)]
mod tests;
