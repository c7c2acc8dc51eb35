//! Kept responses on disk. What may stay, and for how long, is the gateway's to say.

use std::collections::HashSet;

use router::Reach;
use rusqlite::{Connection, params};

use crate::keys::{clamped, unsigned};
use crate::{Session, StoreError};

/// A response and what it answered, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub id: String,
    /// The response that this one continues.
    pub previous: Option<String>,
    /// An array of the input items, each with an id; those of earlier responses are not
    /// among them.
    pub input: Vec<u8>,
    /// The response object.
    pub response: Vec<u8>,
    /// How far it may travel.
    pub reach: Reach,
    /// The id of the key that made it; `None`: it was made without one.
    pub owner: Option<String>,
}

impl Kept {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.id.len() + self.input.len() + self.response.len()
    }
}

/// The last use of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub id: String,
    /// Seconds since 1970.
    pub at_s: u64,
    /// Its place among all uses: the greater is the later.
    pub order: u64,
}

impl Session {
    /// All responses, the least recently used first, and when that was.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn responses(&self) -> Result<Vec<(Kept, u64)>, StoreError> {
        let sql = "SELECT id, previous, owner, reach, input, response, used_s FROM responses \
             ORDER BY used_s, used";
        let mut statement = self.told(self.connection.prepare(sql))?;
        let rows = statement.query_map((), |row| {
            let reach: String = row.get(3)?;
            let kept = Kept {
                id: row.get(0)?,
                previous: row.get(1)?,
                owner: row.get(2)?,
                // What cannot be read lets nothing out of this machine.
                reach: Reach::from_label(&reach).unwrap_or(Reach::Device),
                input: row.get(4)?,
                response: row.get(5)?,
            };
            Ok((kept, unsigned(row.get(6)?)))
        });
        let rows = self.told(rows)?;
        self.told(rows.collect())
    }
}

pub(crate) fn put(connection: &Connection, kept: &Kept, used: &Used) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO responses \
         (id, previous, owner, reach, input, response, used_s, used) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.prepare_cached(sql)?.execute(params![
        kept.id,
        kept.previous,
        kept.owner,
        kept.reach.label(),
        kept.input,
        kept.response,
        clamped(used.at_s),
        clamped(used.order)
    ])?;
    Ok(())
}

pub(crate) fn used(connection: &Connection, used: &Used) -> rusqlite::Result<()> {
    let sql = "UPDATE responses SET used_s = ?2, used = ?3 WHERE id = ?1";
    let values = params![used.id, clamped(used.at_s), clamped(used.order)];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// The ids of all responses in the file.
pub(crate) fn ids(connection: &Connection) -> rusqlite::Result<HashSet<String>> {
    let mut statement = connection.prepare("SELECT id FROM responses")?;
    let ids = statement.query_map((), |row| row.get(0))?;
    ids.collect()
}

pub(crate) fn delete(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    let sql = "DELETE FROM responses WHERE id = ?1";
    connection.prepare_cached(sql)?.execute([id])?;
    Ok(())
}
