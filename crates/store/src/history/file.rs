//! The file: its schema, rows that are written and thinned out, and what goes from it.
//!
//! Samples lie in three tables, each with longer stretches than the one before and for longer.
//! A coarse row is made anew from the finer ones whenever one of these is written, so nothing of
//! it is lost with the process, and there is no job that thins out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::codec::{decode, encode};
use super::{HistoryError, Mark, MarkKind, NOTES_MAX, Sample};
use crate::keys::{clamped, unsigned};
use crate::schema;

/// A table of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tier {
    pub(super) table: &'static str,
    /// Seconds of a row.
    pub(super) step_s: u64,
    pub(super) rows_max: u64,
}

/// Ten seconds for a day, a minute for a week, a quarter of an hour for 90 days.
pub(super) const TIERS: [Tier; 3] = [
    Tier {
        table: "fine",
        step_s: super::STEP_S,
        rows_max: 8640,
    },
    Tier {
        table: "minutes",
        step_s: 60,
        rows_max: 10_080,
    },
    Tier {
        table: "quarters",
        step_s: 900,
        rows_max: 8640,
    },
];

impl Tier {
    /// How far back it reaches where the history goes back so many days.
    pub(super) fn reach_s(&self, days: u32) -> u64 {
        (self.rows_max * self.step_s).min(u64::from(days) * DAY_S)
    }
}

const DAY_S: u64 = 86_400;
/// Bytes of the file; SQLite refuses to let it grow over that.
pub const HISTORY_BYTES_MAX: u64 = 48 << 20;
const PAGE_BYTES: u64 = 4096;
/// Marks that are kept; the oldest that are no notes go first.
pub(super) const MARKS_MAX: u64 = 10_000;
/// Rows of a table that are deleted in one look: a clock that is wrong for a while takes little.
const PRUNE_ROWS_MAX: u64 = 1000;
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// A lock of another program is waited for so long; nobody but the history waits with it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
const CACHE_KIB: i64 = 512;
/// Marks the file as one of ours: "SxtH".
const APPLICATION_ID: i64 = 0x5378_7448;
const VERSION: i64 = 1;
/// What is put behind the name of a damaged file.
pub(super) const BROKEN: &str = ".broken";

const SCHEMA: &str = "
    CREATE TABLE fine (at_s INTEGER PRIMARY KEY, figures BLOB NOT NULL);
    CREATE TABLE minutes (at_s INTEGER PRIMARY KEY, figures BLOB NOT NULL);
    CREATE TABLE quarters (at_s INTEGER PRIMARY KEY, figures BLOB NOT NULL);
    CREATE TABLE marks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at_ms INTEGER NOT NULL,
        kind TEXT NOT NULL,
        model TEXT,
        text TEXT NOT NULL
    );
    CREATE INDEX marks_at ON marks (at_ms);
";

/// The open file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) connection: Connection,
    path: PathBuf,
    pruned: Option<Instant>,
}

impl File {
    /// Opens the file, or begins one.
    pub(super) fn open(path: &Path) -> Result<Self, HistoryError> {
        schema::create(path).map_err(|error| HistoryError::Unreachable {
            path: path.to_owned(),
            detail: error.to_string(),
        })?;
        let told = |error: rusqlite::Error| HistoryError::of(path, &error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(told)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(told)?;
        let mut file = Self {
            connection,
            path: path.to_owned(),
            pruned: None,
        };
        file.set_up().map_err(told)?;
        match file.version().map_err(told)? {
            (VERSION, APPLICATION_ID) => Ok(file),
            (0, 0) => file.begin().map_err(told).map(|()| file),
            (found, APPLICATION_ID) if found > VERSION => Err(HistoryError::Newer {
                path: path.to_owned(),
                found,
                known: VERSION,
            }),
            _ => Err(HistoryError::Corrupt {
                path: path.to_owned(),
                detail: "it belongs to another program".to_owned(),
            }),
        }
    }

    fn set_up(&self) -> rusqlite::Result<()> {
        let set = |name: &str, value: i64| {
            // Some of them answer.
            self.connection
                .pragma_update_and_check(None, name, value, |_| Ok(()))
                .optional()
                .map(|_| ())
        };
        // Before the first table is made, else it changes nothing.
        self.connection
            .pragma_update(None, "page_size", PAGE_BYTES as i64)?;
        self.connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        self.connection
            .pragma_update(None, "synchronous", "NORMAL")?;
        set("max_page_count", (HISTORY_BYTES_MAX / PAGE_BYTES) as i64)?;
        // The log is written back when it has this many pages, which are mostly the same few.
        set("wal_autocheckpoint", 256)?;
        self.connection
            .pragma_update(None, "cache_size", -CACHE_KIB)
    }

    fn version(&self) -> rusqlite::Result<(i64, i64)> {
        let number = |name: &str| {
            self.connection
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
        };
        Ok((number("user_version")?, number("application_id")?))
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.commit()
    }

    fn told(&self, error: &rusqlite::Error) -> HistoryError {
        HistoryError::of(&self.path, error)
    }

    /// Writes samples and marks in one transaction, and the coarser rows that they belong to.
    pub(super) fn write(&mut self, samples: &[Sample], marks: &[Mark]) -> Result<(), HistoryError> {
        let path = self.path.clone();
        let told = |error: rusqlite::Error| HistoryError::of(&path, &error);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(told)?;
        written(&transaction, samples, marks).map_err(told)?;
        transaction.commit().map_err(told)
    }

    /// One round of deleting what is too old or too much, where it is time for one. `Now`'s clock
    /// is believed in what is too old only when it has been steady.
    pub(super) fn prune(&mut self, now_s: u64, limits: Limits) -> Result<(), HistoryError> {
        let is_due = self.pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY);
        if !is_due {
            return Ok(());
        }
        self.pruned = Some(Instant::now());
        pruned(&self.connection, now_s, limits).map_err(|error| self.told(&error))
    }

    /// Rows of a table that begin from `from_s` to before `to_s`, the oldest first.
    pub(super) fn rows(
        &self,
        tier: &Tier,
        (from_s, to_s): (u64, u64),
        take: impl FnMut(Sample),
    ) -> Result<(), HistoryError> {
        each_row(&self.connection, tier, (from_s, to_s), take).map_err(|error| self.told(&error))
    }

    /// The latest `limit` marks of that time, the oldest first.
    pub(super) fn marks(
        &self,
        (from_ms, to_ms): (u64, u64),
        limit: usize,
    ) -> Result<Vec<Mark>, HistoryError> {
        let reading = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT id, at_ms, kind, model, text FROM marks \
                 WHERE at_ms >= ?1 AND at_ms < ?2 ORDER BY at_ms DESC, id DESC LIMIT ?3",
            )?;
            let values = params![clamped(from_ms), clamped(to_ms), limit as i64];
            let rows = statement.query_map(values, |row| {
                let kind: String = row.get(2)?;
                Ok(Mark {
                    id: Some(row.get(0)?),
                    at_ms: unsigned(row.get(1)?),
                    kind: MarkKind::of_word(&kind),
                    model: row.get(3)?,
                    text: row.get(4)?,
                })
            })?;
            let mut marks = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            marks.reverse();
            Ok(marks)
        };
        reading().map_err(|error: rusqlite::Error| self.told(&error))
    }

    /// What the last run left: the last mark of a start or an end, and its last sample.
    pub(super) fn last_run(&self) -> Result<(Option<MarkKind>, Option<u64>), HistoryError> {
        let reading = || {
            let last: Option<String> = self
                .connection
                .query_row(
                    "SELECT kind FROM marks WHERE kind IN (?1, ?2) ORDER BY id DESC LIMIT 1",
                    (MarkKind::Start.word(), MarkKind::Stop.word()),
                    |row| row.get(0),
                )
                .optional()?;
            let sample: Option<i64> =
                self.connection
                    .query_row("SELECT max(at_s) FROM fine", (), |row| row.get(0))?;
            Ok((
                last.map(|word| MarkKind::of_word(&word)),
                sample.map(unsigned),
            ))
        };
        reading().map_err(|error: rusqlite::Error| self.told(&error))
    }

    /// Adds a note, and says its id.
    pub(super) fn add_note(&self, note: &Mark) -> Result<i64, HistoryError> {
        let writing = || {
            let sql = "SELECT count(*) FROM marks WHERE kind = ?1";
            let kind = (MarkKind::Note.word(),);
            let n_notes: u32 = self.connection.query_row(sql, kind, |row| row.get(0))?;
            if n_notes >= NOTES_MAX {
                return Ok(None);
            }
            put_mark(&self.connection, note)?;
            Ok(Some(self.connection.last_insert_rowid()))
        };
        let id = writing().map_err(|error: rusqlite::Error| self.told(&error))?;
        id.ok_or(HistoryError::TooManyNotes { limit: NOTES_MAX })
    }

    /// `false`: there is no such note.
    pub(super) fn remove_note(&self, id: i64) -> Result<bool, HistoryError> {
        let sql = "DELETE FROM marks WHERE id = ?1 AND kind = ?2";
        let deleted = self.connection.execute(sql, (id, MarkKind::Note.word()));
        let deleted = deleted.map_err(|error| self.told(&error))?;
        Ok(deleted > 0)
    }
}

/// What is kept, and whether the clock can be believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) days: u32,
    pub(super) is_steady: bool,
}

/// Puts a damaged file aside, in the place of an earlier one, so that a new one can be begun.
pub(super) fn put_aside(path: &Path) -> std::io::Result<PathBuf> {
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let aside = with(BROKEN);
    std::fs::rename(path, &aside)?;
    for end in ["-wal", "-shm"] {
        // They belong to the old file, and are not always there.
        let _ = std::fs::remove_file(with(end));
    }
    Ok(aside)
}

fn written(
    transaction: &Transaction<'_>,
    samples: &[Sample],
    marks: &[Mark],
) -> rusqlite::Result<()> {
    let [fine, coarser @ ..] = &TIERS;
    for sample in samples {
        put_sample(transaction, fine, sample)?;
    }
    let mut touched: BTreeSet<u64> = samples.iter().map(|sample| sample.at_s).collect();
    let mut finer = fine;
    for tier in coarser {
        touched = touched.iter().map(|at| at - at % tier.step_s).collect();
        for at_s in &touched {
            if let Some(sample) = rolled_up(transaction, finer, (*at_s, at_s + tier.step_s))? {
                put_sample(transaction, tier, &sample)?;
            }
        }
        finer = tier;
    }
    let mut marks = marks.iter();
    marks.try_for_each(|mark| put_mark(transaction, mark))
}

fn put_sample(connection: &Connection, tier: &Tier, sample: &Sample) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT OR REPLACE INTO {} (at_s, figures) VALUES (?1, ?2)",
        tier.table
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement.execute((clamped(sample.at_s), encode(sample)))?;
    Ok(())
}

fn put_mark(connection: &Connection, mark: &Mark) -> rusqlite::Result<()> {
    let sql = "INSERT INTO marks (at_ms, kind, model, text) VALUES (?1, ?2, ?3, ?4)";
    let mut statement = connection.prepare_cached(sql)?;
    let (at_ms, kind) = (clamped(mark.at_ms), mark.kind.word());
    statement.execute((at_ms, kind, &mark.model, &mark.text))?;
    Ok(())
}

fn each_row(
    connection: &Connection,
    tier: &Tier,
    (from_s, to_s): (u64, u64),
    mut take: impl FnMut(Sample),
) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT at_s, figures FROM {} WHERE at_s >= ?1 AND at_s < ?2 ORDER BY at_s",
        tier.table
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((clamped(from_s), clamped(to_s)))?;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(1)?.as_blob().unwrap_or_default();
        // One that is no sample is as good as none.
        if let Some(sample) = decode(unsigned(row.get(0)?), bytes) {
            take(sample);
        }
    }
    Ok(())
}

/// The rows of a table in that time as one.
fn rolled_up(
    connection: &Connection,
    tier: &Tier,
    span: (u64, u64),
) -> rusqlite::Result<Option<Sample>> {
    let mut sum: Option<Sample> = None;
    each_row(connection, tier, span, |sample| {
        sum.get_or_insert_with(|| Sample::at(span.0)).merge(&sample);
    })?;
    Ok(sum)
}

fn pruned(connection: &Connection, now_s: u64, limits: Limits) -> rusqlite::Result<()> {
    let now = clamped(now_s);
    for tier in &TIERS {
        let table = tier.table;
        let rows_max = tier.reach_s(limits.days) / tier.step_s;
        let count = format!("SELECT count(*) FROM {table}");
        let count: i64 = connection.query_row(&count, (), |row| row.get(0))?;
        let too_many = unsigned(count).saturating_sub(rows_max).min(PRUNE_ROWS_MAX);
        // The farthest from now first: of what a wrong clock has written, and of the oldest.
        let sql = format!(
            "DELETE FROM {table} WHERE at_s IN \
             (SELECT at_s FROM {table} ORDER BY abs(at_s - ?1) DESC LIMIT ?2)"
        );
        if too_many > 0 {
            connection.execute(&sql, (now, clamped(too_many)))?;
        }
        if limits.is_steady {
            let sql = format!(
                "DELETE FROM {table} WHERE at_s IN (SELECT at_s FROM {table} \
                 WHERE at_s < ?1 OR at_s > ?2 LIMIT ?3)"
            );
            let oldest = clamped(now_s.saturating_sub(tier.reach_s(limits.days)));
            let latest = clamped(now_s.saturating_add(DAY_S));
            connection.execute(&sql, (oldest, latest, clamped(PRUNE_ROWS_MAX)))?;
        }
    }
    let count: i64 = connection.query_row("SELECT count(*) FROM marks", (), |row| row.get(0))?;
    let too_many = unsigned(count)
        .saturating_sub(MARKS_MAX)
        .min(PRUNE_ROWS_MAX);
    if too_many > 0 {
        let sql = "DELETE FROM marks WHERE id IN \
             (SELECT id FROM marks WHERE kind <> ?1 ORDER BY at_ms LIMIT ?2)";
        connection.execute(sql, (MarkKind::Note.word(), clamped(too_many)))?;
    }
    if limits.is_steady {
        let sql = "DELETE FROM marks WHERE id IN \
             (SELECT id FROM marks WHERE at_ms < ?1 LIMIT ?2)";
        let oldest_s = now_s.saturating_sub(u64::from(limits.days) * DAY_S);
        let oldest_ms = clamped(oldest_s.saturating_mul(1000));
        connection.execute(sql, (oldest_ms, clamped(PRUNE_ROWS_MAX)))?;
    }
    Ok(())
}
