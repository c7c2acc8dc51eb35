//! API keys: what they may do, and how they are found.
//!
//! A key is 32 random bytes, so nobody finds it by trying and its hash needs neither salt nor
//! slowness: SHA-256 alone is enough at rest, and cheap enough for every request.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use router::Reach;
use rusqlite::{Row, Transaction, TransactionBehavior, params};
use sha2::{Digest, Sha256};
use stdx::{Cost, Priority, Secret};

use crate::{Session, StoreError};

/// What all keys begin with.
const PREFIX: &str = "sx-";
/// Random bytes of a key.
const KEY_BYTES: usize = 32;
/// Characters of a key that are kept in the open, so that a person can tell keys apart. They
/// leave more than 220 bits unknown.
const SHOWN_CHARS: usize = PREFIX.len() + 5;

/// A kind of work that a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Chat,
    Embeddings,
    Models,
    Metrics,
    Admin,
}

impl Scope {
    pub const ALL: [Self; 5] = [
        Self::Chat,
        Self::Embeddings,
        Self::Models,
        Self::Metrics,
        Self::Admin,
    ];

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Embeddings => "embeddings",
            Self::Models => "models",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.word() == word)
    }
}

/// Several scopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    pub const ALL: Self = Self((1 << Scope::ALL.len()) - 1);

    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// Their words with commas between them; a word that is no scope is left out, which
    /// allows less, not more.
    fn from_words(words: &str) -> Self {
        words.split(',').filter_map(Scope::from_word).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        let bits = scopes.into_iter().map(|scope| 1 << scope as u8);
        Self(bits.fold(0, |all, bit| all | bit))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = Scope::ALL.into_iter().filter(|scope| self.has(*scope));
        let words: Vec<_> = words.map(Scope::word).collect();
        f.write_str(&words.join(","))
    }
}

/// How much a key may do; `None` sets no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyLimits {
    pub requests_per_minute: Option<u32>,
    pub tokens_per_minute: Option<u32>,
    pub tokens_per_day: Option<u64>,
    pub cost_per_month: Option<Cost>,
    /// Requests at the same time.
    pub concurrency: Option<u32>,
}

/// A key to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewKey {
    pub name: String,
    pub scopes: Scopes,
    /// How far its requests may travel.
    pub privacy: Option<Reach>,
    /// Patterns of the models that it may use, with `*` for any characters; empty: all.
    pub models: Vec<String>,
    pub limits: KeyLimits,
    pub priority: Priority,
    /// Seconds since 1970.
    pub expires_s: Option<u64>,
}

/// A key as it is kept: everything but the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Public; usage and the audit log name it.
    pub id: String,
    pub hash: [u8; 32],
    /// Its first characters.
    pub shown: String,
    pub facts: NewKey,
    pub created_s: u64,
    pub revoked_s: Option<u64>,
}

/// What a key is found by.
#[must_use]
pub fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

pub(crate) fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Random(error.to_string()))?;
    Ok(bytes)
}

const COLUMNS: &str = "id, name, hash, shown, scopes, privacy, models, requests_per_minute, \
     tokens_per_minute, tokens_per_day, cost_per_month, concurrency, priority, created_s, \
     expires_s, revoked_s";

impl Session {
    /// Makes a key and keeps its hash. The key itself is given here and never again.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], or what is wrong with the database.
    pub fn add_key(&mut self, new: &NewKey) -> Result<(Secret, Key), StoreError> {
        let secret = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<KEY_BYTES>()?));
        let key = Key {
            id: format!("key_{:08x}", u32::from_be_bytes(random()?)),
            hash: hash(&secret),
            shown: secret.chars().take(SHOWN_CHARS).collect(),
            facts: new.clone(),
            created_s: now_s(),
            revoked_s: None,
        };
        self.insert(&key)?;
        Ok((Secret::new(secret), key))
    }

    fn insert(&mut self, key: &Key) -> Result<(), StoreError> {
        let (facts, limits) = (&key.facts, &key.facts.limits);
        let path = self.path.clone();
        let told = |error: rusqlite::Error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::ConstraintViolation) => StoreError::NameTaken {
                name: facts.name.clone(),
            },
            _ => StoreError::of(&path, &error),
        };
        let sql = format!(
            "INSERT INTO keys ({COLUMNS}) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
        );
        let values = params![
            key.id,
            facts.name,
            key.hash.as_slice(),
            key.shown,
            facts.scopes.to_string(),
            facts.privacy.map(Reach::label),
            facts.models.join(","),
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.tokens_per_day.map(clamped),
            limits.cost_per_month.map(|cost| clamped(cost.0)),
            limits.concurrency,
            facts.priority.word(),
            clamped(key.created_s),
            facts.expires_s.map(clamped),
            key.revoked_s.map(clamped),
        ];
        let inserted = self.change(|transaction| transaction.execute(&sql, values));
        inserted.map(drop).map_err(told)
    }

    /// Changes the keys, whole or not at all, and has servers read them again.
    fn change<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        transaction.execute(COUNT, ())?;
        transaction.commit()?;
        Ok(done)
    }

    /// Takes a key out of use; a server refuses it within a second.
    ///
    /// # Errors
    /// [`StoreError::NoSuchKey`], or what is wrong with the database.
    pub fn revoke_key(&mut self, name: &str) -> Result<(), StoreError> {
        let sql = "UPDATE keys SET revoked_s = ?2 WHERE name = ?1 AND revoked_s IS NULL";
        let revoked = params![name, clamped(now_s())];
        let revoked = self.change(|transaction| transaction.execute(sql, revoked));
        match self.told(revoked)? {
            0 => Err(StoreError::NoSuchKey {
                name: name.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Forgets all keys, which are revoked, and gives their number. A server that starts
    /// afterwards asks for no key.
    ///
    /// # Errors
    /// [`StoreError::KeysInUse`], or what is wrong with the database.
    pub fn forget_keys(&mut self) -> Result<usize, StoreError> {
        let forgotten = self.change(|transaction| {
            let sql = "SELECT count(*) FROM keys WHERE revoked_s IS NULL";
            let n: i64 = transaction.query_row(sql, (), |row| row.get(0))?;
            match n {
                0 => transaction.execute("DELETE FROM keys", ()).map(Ok),
                n => Ok(Err(StoreError::KeysInUse { n })),
            }
        });
        self.told(forgotten)?
    }

    /// All keys, the oldest first, also those that are revoked or expired.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn keys(&self) -> Result<Vec<Key>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM keys ORDER BY created_s, rowid");
        let mut statement = self.told(self.connection.prepare(&sql))?;
        let keys = self.told(statement.query_map((), key))?;
        self.told(keys.collect())
    }

    /// Counts the changes of the keys. Reading it costs microseconds.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn keys_generation(&self) -> Result<i64, StoreError> {
        let sql = "SELECT n FROM generation";
        let mut statement = self.told(self.connection.prepare_cached(sql))?;
        self.told(statement.query_row((), |row| row.get(0)))
    }

    /// Changes whenever somebody else has written anything; reads no page of the file.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        let version = self
            .connection
            .pragma_query_value(None, "data_version", |row| row.get(0));
        self.told(version)
    }
}

const COUNT: &str = "UPDATE generation SET n = n + 1";

/// SQLite's whole numbers have a sign.
pub(crate) fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn key(row: &Row<'_>) -> rusqlite::Result<Key> {
    let text = |name| row.get::<_, String>(name);
    let number = |name| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(name)?.map(unsigned));
    let privacy: Option<String> = row.get("privacy")?;
    let models = text("models")?;
    let models = models.split(',').filter(|model| !model.is_empty());
    Ok(Key {
        id: text("id")?,
        hash: row.get("hash")?,
        shown: text("shown")?,
        facts: NewKey {
            name: text("name")?,
            scopes: Scopes::from_words(&text("scopes")?),
            // What cannot be read lets nothing out of this machine.
            privacy: privacy.map(|label| Reach::from_label(&label).unwrap_or(Reach::Device)),
            models: models.map(str::to_owned).collect(),
            limits: KeyLimits {
                requests_per_minute: row.get("requests_per_minute")?,
                tokens_per_minute: row.get("tokens_per_minute")?,
                tokens_per_day: number("tokens_per_day")?,
                cost_per_month: number("cost_per_month")?.map(Cost),
                concurrency: row.get("concurrency")?,
            },
            priority: Priority::from_word(&text("priority")?).unwrap_or(Priority::Low),
            expires_s: number("expires_s")?,
        },
        created_s: unsigned(row.get("created_s")?),
        revoked_s: number("revoked_s")?,
    })
}
