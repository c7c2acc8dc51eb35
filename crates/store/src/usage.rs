//! What keys have used, by the day.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use rusqlite::params;
use stdx::Cost;

use crate::keys::{clamped, unsigned};
use crate::{Session, StoreError};

/// Days are of UTC.
const DAY_SECS: u64 = 86_400;

/// What a key has used of its budgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Today.
    pub tokens_today: u64,
    /// This month.
    pub cost_month: Cost,
}

/// What a key has used on one day since it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub key_id: String,
    /// As [`day_of`] counts.
    pub day: u64,
    pub tokens: u64,
    pub cost: Cost,
}

/// The day of UTC that a second since 1970 lies in, counted from 1970.
#[must_use]
pub const fn day_of(unix_s: u64) -> u64 {
    unix_s / DAY_SECS
}

/// The days of the month that a day lies in. By Howard Hinnant's `civil_from_days`
/// (chrono-Compatible Low-Level Date Algorithms, 2013), whose years begin in March.
#[must_use]
pub const fn days_of_month(day: u64) -> RangeInclusive<u64> {
    let since_era = (day + 719_468) % 146_097;
    let year = (since_era - since_era / 1_460 + since_era / 36_524 - since_era / 146_096) / 365;
    let of_year = since_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5;
    let first = day - of_month;
    // Months from March: 11 is February, which ends the year of this count.
    let n_days = match month {
        11 => {
            let next = year + 1;
            let is_leap =
                next.is_multiple_of(4) && (!next.is_multiple_of(100) || next.is_multiple_of(400));
            28 + is_leap as u64
        }
        _ => (153 * (month + 1) + 2) / 5 - (153 * month + 2) / 5,
    };
    first..=first + n_days - 1
}

impl Session {
    /// What each key has used by this day.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn spent(&self, day: u64) -> Result<HashMap<String, Spent>, StoreError> {
        let month = days_of_month(day);
        let sql = "SELECT key_id, sum(CASE day WHEN ?1 THEN tokens ELSE 0 END), sum(cost) \
             FROM usage WHERE day BETWEEN ?2 AND ?3 GROUP BY key_id";
        let mut statement = self.told(self.connection.prepare(sql))?;
        let days = params![clamped(day), clamped(*month.start()), clamped(*month.end())];
        let rows = statement.query_map(days, |row| {
            let spent = Spent {
                tokens_today: unsigned(row.get(1)?),
                cost_month: Cost(unsigned(row.get(2)?)),
            };
            Ok((row.get(0)?, spent))
        });
        let rows = self.told(rows)?;
        self.told(rows.collect())
    }
}

/// Adds to what the key has used on that day.
pub(crate) fn add(connection: &rusqlite::Connection, usage: &Usage) -> rusqlite::Result<()> {
    let sql = "INSERT INTO usage (key_id, day, tokens, cost) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (key_id, day) DO UPDATE \
         SET tokens = tokens + excluded.tokens, cost = cost + excluded.cost";
    connection.prepare_cached(sql)?.execute(params![
        usage.key_id,
        clamped(usage.day),
        clamped(usage.tokens),
        clamped(usage.cost.0)
    ])?;
    Ok(())
}
