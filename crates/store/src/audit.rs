//! The audit log: a row for each request, without its texts unless the operator asks.

use std::time::Duration;

use rusqlite::{CachedStatement, Connection, Row, params};
use serde::{Serialize, Serializer};
use serde_json::Value;
use stdx::Cost;

use crate::keys::{clamped, unsigned};
use crate::{Session, StoreError};

/// What became of a request. Serialises to the object that an export has on each line. Whoever
/// reads the log has rows with texts of their own; a row that is written lends them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(bound = "Text: Serialize + AsRef<str>")]
pub struct AuditRow<Text = String> {
    /// When it came in, since 1970.
    pub at_ms: u64,
    pub request_id: Text,
    pub key_id: Option<Text>,
    pub key_name: Option<Text>,
    pub route: Text,
    /// As the request spells it.
    pub model: Option<Text>,
    /// As `POST /v1/route` says it, in JSON.
    #[serde(serialize_with = "as_json")]
    pub decision: Option<Text>,
    /// How far it might travel: `local_only`, `lan_only` or `any`.
    pub privacy: Option<Text>,
    /// Who said so.
    pub privacy_by: Option<Text>,
    /// `PROVIDER:MODEL`
    pub served_by: Option<Text>,
    pub attempts: u32,
    /// Who failed, with the code of the error.
    pub trail: Option<Text>,
    pub status: u16,
    /// The code of the error, also of one inside a stream.
    pub error: Option<Text>,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub ttft_ms: Option<f64>,
    pub duration_ms: f64,
    #[serde(serialize_with = "as_amount")]
    pub cost: Cost,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Text>,
}

/// What a row of the audit log is read from, by the thread that writes it.
pub trait AuditSource: Send + 'static {
    fn row(&self) -> AuditRow<&str>;
}

impl AuditSource for AuditRow {
    fn row(&self) -> AuditRow<&str> {
        AuditRow {
            at_ms: self.at_ms,
            request_id: &self.request_id,
            key_id: self.key_id.as_deref(),
            key_name: self.key_name.as_deref(),
            route: &self.route,
            model: self.model.as_deref(),
            decision: self.decision.as_deref(),
            privacy: self.privacy.as_deref(),
            privacy_by: self.privacy_by.as_deref(),
            served_by: self.served_by.as_deref(),
            attempts: self.attempts,
            trail: self.trail.as_deref(),
            status: self.status,
            error: self.error.as_deref(),
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            ttft_ms: self.ttft_ms,
            duration_ms: self.duration_ms,
            cost: self.cost,
            prompt: self.prompt.as_deref(),
            answer: self.answer.as_deref(),
        }
    }
}

fn as_json<Text: Serialize + AsRef<str>, S: Serializer>(
    text: &Option<Text>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let parsed = text
        .as_ref()
        .map(|text| serde_json::from_str::<Value>(text.as_ref()));
    // Only we write it; what cannot be read is shown as it is.
    match parsed {
        Some(Ok(value)) => value.serialize(serializer),
        Some(Err(_)) | None => text.serialize(serializer),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn as_amount<S: Serializer>(cost: &Cost, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(cost.amount())
}

impl AuditRow {
    /// One line of an export, without its end.
    #[must_use]
    pub fn line(&self) -> String {
        // Strings and numbers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Which rows are exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Not those that came in before.
    pub since_ms: u64,
    /// Only those of the key with this name.
    pub key_name: Option<String>,
}

/// How much of the log one answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditPage {
    pub rows_max: u32,
    /// Of all lines; a single row may be longer.
    pub bytes_max: usize,
    /// Only rows before this one, as [`AuditLines::before`] said it.
    pub before: Option<u64>,
}

/// Rows as an export has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditLines {
    /// The oldest first; each ends with a line feed.
    pub lines: Vec<String>,
    /// The first row of them, where bytes were too few for those before it.
    pub before: Option<u64>,
}

const COLUMNS: &str = "at_ms, request_id, key_id, key_name, route, model, decision, privacy, \
     privacy_by, served_by, attempts, trail, status, error, prompt_tokens, cached_tokens, \
     completion_tokens, ttft_ms, duration_ms, cost, prompt, answer";
const N_COLUMNS: usize = 22;
const WANTED: &str = "at_ms >= ?1 AND (?2 IS NULL OR key_name = ?2)";

impl Session {
    /// Gives each row to `take`, the oldest first, until that says stop.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn audit<E>(
        &self,
        filter: &AuditFilter,
        mut take: impl FnMut(AuditRow) -> Result<(), E>,
    ) -> Result<Result<(), E>, StoreError> {
        // In the order of the table, so nothing is sorted or held back.
        let sql = format!("SELECT {COLUMNS} FROM audit WHERE {WANTED} ORDER BY id");
        let mut statement = self.told(self.connection.prepare(&sql))?;
        let values = params![clamped(filter.since_ms), filter.key_name];
        let mut rows = self.told(statement.query(values))?;
        while let Some(one) = self.told(rows.next())? {
            if let Err(stop) = take(self.told(row(one))?) {
                return Ok(Err(stop));
            }
        }
        Ok(Ok(()))
    }

    /// The latest rows that there is room for.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn audit_page(
        &self,
        filter: &AuditFilter,
        page: AuditPage,
    ) -> Result<AuditLines, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, id FROM audit WHERE {WANTED} AND id < ?3 ORDER BY id DESC LIMIT ?4"
        );
        let mut statement = self.told(self.connection.prepare(&sql))?;
        let before = page.before.map_or(i64::MAX, clamped);
        let values = params![
            clamped(filter.since_ms),
            filter.key_name,
            before,
            page.rows_max
        ];
        let mut rows = self.told(statement.query(values))?;
        let (mut page_of, mut n_bytes, mut first) = (AuditLines::default(), 0, None);
        while let Some(one) = self.told(rows.next())? {
            let mut line = self.told(row(one))?.line();
            line.push('\n');
            n_bytes += line.len();
            if n_bytes > page.bytes_max && first.is_some() {
                page_of.before = first;
                break;
            }
            page_of.lines.push(line);
            first = Some(unsigned(self.told(one.get(N_COLUMNS))?));
        }
        page_of.lines.reverse();
        Ok(page_of)
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        at_ms: unsigned(row.get(0)?),
        request_id: row.get(1)?,
        key_id: row.get(2)?,
        key_name: row.get(3)?,
        route: row.get(4)?,
        model: row.get(5)?,
        decision: row.get(6)?,
        privacy: row.get(7)?,
        privacy_by: row.get(8)?,
        served_by: row.get(9)?,
        attempts: row.get(10)?,
        trail: row.get(11)?,
        status: row.get(12)?,
        error: row.get(13)?,
        prompt_tokens: unsigned(row.get(14)?),
        cached_tokens: unsigned(row.get(15)?),
        completion_tokens: unsigned(row.get(16)?),
        ttft_ms: row.get(17)?,
        duration_ms: row.get(18)?,
        cost: Cost(unsigned(row.get(19)?)),
        prompt: row.get(20)?,
        answer: row.get(21)?,
    })
}

/// Prepares what [`insert`] executes.
pub(crate) fn inserting(connection: &Connection) -> rusqlite::Result<CachedStatement<'_>> {
    // Held to the columns by a test that reads back what it wrote.
    const SQL: &str = "INSERT INTO audit (at_ms, request_id, key_id, key_name, route, model, \
         decision, privacy, privacy_by, served_by, attempts, trail, status, error, \
         prompt_tokens, cached_tokens, completion_tokens, ttft_ms, duration_ms, cost, prompt, \
         answer) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, \
         ?16, ?17, ?18, ?19, ?20, ?21, ?22)";
    connection.prepare_cached(SQL)
}

/// Writes a row by a statement of [`inserting`].
pub(crate) fn insert(
    inserting: &mut CachedStatement<'_>,
    row: &AuditRow<&str>,
) -> rusqlite::Result<()> {
    inserting.execute(params![
        clamped(row.at_ms),
        row.request_id,
        row.key_id,
        row.key_name,
        row.route,
        row.model,
        row.decision,
        row.privacy,
        row.privacy_by,
        row.served_by,
        row.attempts,
        row.trail,
        row.status,
        row.error,
        clamped(row.prompt_tokens),
        clamped(row.cached_tokens),
        clamped(row.completion_tokens),
        row.ttft_ms,
        row.duration_ms,
        clamped(row.cost.0),
        row.prompt,
        row.answer,
    ])?;
    Ok(())
}

/// Deletes up to `rows_max` rows that came in before `before_ms` or are more than `keep_max`.
/// Whether there may be more of them.
pub(crate) fn prune(
    connection: &Connection,
    before_ms: u64,
    keep_max: u64,
    rows_max: u32,
) -> rusqlite::Result<bool> {
    let old = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_ms < ?1 LIMIT ?2)";
    let n_old = connection.execute(old, params![clamped(before_ms), rows_max])?;
    let many = "DELETE FROM audit WHERE id IN (SELECT id FROM audit \
         WHERE id <= (SELECT max(id) FROM audit) - ?1 ORDER BY id LIMIT ?2)";
    let n_many = connection.execute(many, params![clamped(keep_max), rows_max])?;
    Ok(n_old.max(n_many) >= rows_max as usize)
}

/// A span of time as people write it: a number and `s`, `m`, `h` or `d`.
#[must_use]
pub fn span(text: &str) -> Option<Duration> {
    let (number, secs) = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]
        .into_iter()
        .find_map(|(unit, secs)| Some((text.strip_suffix(unit)?, secs)))?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| is_number)?;
    Some(Duration::from_secs(number.checked_mul(secs)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_number_and_a_unit() {
        for (text, secs) in [("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604_800)] {
            assert_eq!(span(text), Some(Duration::from_secs(secs)));
        }
        for text in [
            "",
            "1",
            "h",
            "-1h",
            "+1h",
            "1.5h",
            "1 h",
            "99999999999999999999d",
            "1w",
        ] {
            assert_eq!(span(text), None, "{text}");
        }
    }
}
