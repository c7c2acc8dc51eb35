//! The workbench's chats: trees of messages, found again by their words.

use std::collections::HashSet;
use std::fmt::Write as _;

use router::Reach;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::keys::{clamped, unsigned};
use crate::{Session, StoreError};

/// Chats of one page of a list.
pub const CHATS_PAGE_MAX: u32 = 200;
/// Messages that a search looks at, the youngest first, until it has the chats of a page: a word
/// that is in most of them must not take longer than one that is rare.
const HITS_MAX: u32 = 8192;
/// Characters of a text around what was found.
const EXCERPT_CHARS: usize = 120;

/// A chat without its messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chat {
    pub id: String,
    /// The id of the key that began it; `None`: it was begun without one.
    pub owner: Option<String>,
    pub title: String,
    /// The model that was asked last.
    pub model: Option<String>,
    /// The last message of the branch that was looked at last.
    pub leaf: Option<String>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    pub changed_ms: u64,
}

/// A message of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    pub id: String,
    pub chat: String,
    /// The message that it follows; `None`: it begins the chat.
    pub parent: Option<String>,
    pub role: ChatRole,
    pub text: String,
    pub reasoning: String,
    pub state: MessageState,
    /// How far it may travel.
    pub reach: Reach,
    /// JSON.
    pub detail: Option<String>,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatRole {
    System,
    User,
    Assistant,
}

impl ChatRole {
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    fn from_word(word: &str) -> Self {
        match word {
            "system" => Self::System,
            "assistant" => Self::Assistant,
            _ => Self::User,
        }
    }
}

/// Whether a message has ended, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// It is being written.
    Open,
    Done,
    /// Somebody stopped it.
    Stopped,
    Failed,
    /// The process that wrote it ended.
    CutOff,
}

impl MessageState {
    const ALL: [Self; 5] = [
        Self::Open,
        Self::Done,
        Self::Stopped,
        Self::Failed,
        Self::CutOff,
    ];

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::CutOff => "cut_off",
        }
    }

    fn from_word(word: &str) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|state| state.word() == word)
            .unwrap_or(Self::CutOff)
    }
}

/// What a list of chats is to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatFilter {
    pub owner: Option<String>,
    /// Only chats with all these words in their title or in one message; empty: all.
    pub words: String,
    /// Only chats that changed before then, milliseconds since 1970.
    pub before_ms: Option<u64>,
    /// At most [`CHATS_PAGE_MAX`].
    pub limit: u32,
}

/// A chat of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatRow {
    pub chat: Chat,
    /// What was found in it, where words were looked for in messages.
    pub excerpt: Option<String>,
}

/// A change of the chats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatWrite {
    /// A new chat, or one whose title, model, leaf and time are replaced.
    Chat(Chat),
    /// A new message.
    Message(Box<ChatMessage>),
    /// The text of an open message so far.
    Progress {
        id: String,
        text: String,
        reasoning: String,
    },
    /// The end of an open message.
    End(Box<ChatMessage>),
    /// Forget a chat with all its messages.
    Delete { id: String },
    /// Messages that an earlier process left open are cut off.
    CutOff,
}

impl ChatWrite {
    pub(crate) fn apply(&self, connection: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::Chat(chat) => put_chat(connection, chat),
            Self::Message(message) => add_message(connection, message),
            Self::Progress {
                id,
                text,
                reasoning,
            } => {
                let sql = "UPDATE messages SET text = ?2, reasoning = ?3 \
                     WHERE id = ?1 AND state = 'open'";
                let values = params![id, text, reasoning];
                connection.prepare_cached(sql)?.execute(values).map(drop)
            }
            Self::End(message) => end_message(connection, message),
            Self::Delete { id } => delete(connection, id),
            Self::CutOff => cut_off(connection),
        }
    }
}

fn put_chat(connection: &Connection, chat: &Chat) -> rusqlite::Result<()> {
    let sql = "INSERT INTO chats (id, owner, title, model, leaf, created_ms, changed_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET \
         title = ?3, model = ?4, leaf = ?5, changed_ms = ?7";
    connection.prepare_cached(sql)?.execute(params![
        chat.id,
        chat.owner,
        chat.title,
        chat.model,
        chat.leaf,
        clamped(chat.created_ms),
        clamped(chat.changed_ms)
    ])?;
    Ok(())
}

fn add_message(connection: &Connection, message: &ChatMessage) -> rusqlite::Result<()> {
    let sql = "INSERT INTO messages \
         (id, chat, parent, role, text, reasoning, state, reach, detail, created_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    connection.prepare_cached(sql)?.execute(params![
        message.id,
        message.chat,
        message.parent,
        message.role.word(),
        message.text,
        message.reasoning,
        message.state.word(),
        message.reach.label(),
        message.detail,
        clamped(message.created_ms)
    ])?;
    match message.state {
        MessageState::Open => Ok(()),
        _ => index(connection, connection.last_insert_rowid()),
    }
}

/// Puts the words of a message that has ended into the index.
fn index(connection: &Connection, n: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO message_words (rowid, text, owner) \
         SELECT n, text, owner FROM messages_ended WHERE n = ?1";
    connection.prepare_cached(sql)?.execute([n]).map(drop)
}

fn end_message(connection: &Connection, message: &ChatMessage) -> rusqlite::Result<()> {
    let sql = "UPDATE messages SET text = ?2, reasoning = ?3, state = ?4, reach = ?5, detail = ?6 \
         WHERE id = ?1 AND state = 'open' RETURNING n";
    let n: Option<i64> = connection
        .prepare_cached(sql)?
        .query_row(
            params![
                message.id,
                message.text,
                message.reasoning,
                message.state.word(),
                message.reach.label(),
                message.detail
            ],
            |row| row.get(0),
        )
        .optional()?;
    // Deleted meanwhile, where there is none.
    n.map_or(Ok(()), |n| index(connection, n))
}

fn delete(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    let sqls = [
        "INSERT INTO message_words (message_words, rowid, text, owner) \
         SELECT 'delete', n, text, owner FROM messages_ended \
         WHERE n IN (SELECT n FROM messages WHERE chat = ?1)",
        "DELETE FROM messages WHERE chat = ?1",
        "DELETE FROM chats WHERE id = ?1",
    ];
    for sql in sqls {
        connection.prepare_cached(sql)?.execute([id])?;
    }
    Ok(())
}

fn cut_off(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "UPDATE messages SET state = 'cut_off' WHERE state = 'open' RETURNING n";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map((), |row| row.get(0))?;
    let cut: Vec<i64> = rows.collect::<rusqlite::Result<_>>()?;
    cut.into_iter().try_for_each(|n| index(connection, n))
}

const CHAT_COLUMNS: &str = "c.id, c.owner, c.title, c.model, c.leaf, c.created_ms, c.changed_ms";

fn chat(row: &Row<'_>) -> rusqlite::Result<Chat> {
    Ok(Chat {
        id: row.get(0)?,
        owner: row.get(1)?,
        title: row.get(2)?,
        model: row.get(3)?,
        leaf: row.get(4)?,
        created_ms: unsigned(row.get(5)?),
        changed_ms: unsigned(row.get(6)?),
    })
}

fn message(row: &Row<'_>) -> rusqlite::Result<ChatMessage> {
    let reach: String = row.get(7)?;
    Ok(ChatMessage {
        id: row.get(0)?,
        chat: row.get(1)?,
        parent: row.get(2)?,
        role: ChatRole::from_word(&row.get::<_, String>(3)?),
        text: row.get(4)?,
        reasoning: row.get(5)?,
        state: MessageState::from_word(&row.get::<_, String>(6)?),
        // What cannot be read lets nothing out of this machine.
        reach: Reach::from_label(&reach).unwrap_or(Reach::Device),
        detail: row.get(8)?,
        created_ms: unsigned(row.get(9)?),
    })
}

impl Session {
    /// A chat of this owner without its messages.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn chat(&self, id: &str, owner: Option<&str>) -> Result<Option<Chat>, StoreError> {
        let sql = format!("SELECT {CHAT_COLUMNS} FROM chats c WHERE id = ?1 AND owner IS ?2");
        let mut statement = self.told(self.connection.prepare_cached(&sql))?;
        self.told(statement.query_row(params![id, owner], chat).optional())
    }

    /// The messages of a chat in the order in which they were begun.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn chat_messages(&self, chat: &str) -> Result<Vec<ChatMessage>, StoreError> {
        let sql = "SELECT id, chat, parent, role, text, reasoning, state, reach, detail, \
             created_ms FROM messages WHERE chat = ?1 ORDER BY n";
        let mut statement = self.told(self.connection.prepare_cached(sql))?;
        let rows = self.told(statement.query_map([chat], message))?;
        self.told(rows.collect())
    }

    /// Chats, the last changed first.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn chats(&self, filter: &ChatFilter) -> Result<Vec<ChatRow>, StoreError> {
        let words = quoted_words(&filter.words);
        if words.is_empty() {
            return self.chats_by_title(filter);
        }
        let mut found = self.chats_by_title(filter)?;
        for row in self.chats_by_words(filter, &words)? {
            match found.iter_mut().find(|one| one.chat.id == row.chat.id) {
                Some(known) => known.excerpt = row.excerpt,
                None => found.push(row),
            }
        }
        found.sort_by_key(|row| std::cmp::Reverse(row.chat.changed_ms));
        found.truncate(filter.limit.min(CHATS_PAGE_MAX) as usize);
        Ok(found)
    }

    fn chats_by_title(&self, filter: &ChatFilter) -> Result<Vec<ChatRow>, StoreError> {
        let sql = format!(
            "SELECT {CHAT_COLUMNS} FROM chats c WHERE owner IS ?1 AND changed_ms < ?2 \
             AND title LIKE ?3 ESCAPE '\\' ORDER BY changed_ms DESC LIMIT ?4"
        );
        let mut statement = self.told(self.connection.prepare_cached(&sql))?;
        let values = params![
            filter.owner,
            before(filter),
            like(&filter.words),
            filter.limit.min(CHATS_PAGE_MAX)
        ];
        let rows = statement.query_map(values, |row| {
            Ok(ChatRow {
                chat: chat(row)?,
                excerpt: None,
            })
        });
        let rows = self.told(rows)?;
        self.told(rows.collect())
    }

    /// By the youngest of their messages that has the words.
    fn chats_by_words(&self, filter: &ChatFilter, words: &str) -> Result<Vec<ChatRow>, StoreError> {
        let sql = format!(
            "SELECT rowid FROM message_words WHERE message_words MATCH ?1 \
             ORDER BY rowid DESC LIMIT {HITS_MAX}"
        );
        let mut statement = self.told(self.connection.prepare_cached(&sql))?;
        let sql = "SELECT chat FROM messages WHERE n = ?1";
        let mut chat_of = self.told(self.connection.prepare_cached(sql))?;
        let words = whose(filter.owner.as_deref(), words);
        let mut hits = self.told(statement.query([words]))?;
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        // The rows come from the index one by one, so a page that is full ends the search.
        while found.len() < filter.limit.min(CHATS_PAGE_MAX) as usize
            && let Some(hit) = self.told(hits.next())?
        {
            let n: i64 = self.told(hit.get(0))?;
            let id = chat_of.query_row([n], |row| row.get(0)).optional();
            let id: Option<String> = self.told(id)?;
            let Some(id) = id.filter(|id| !seen.contains(id)) else {
                continue;
            };
            found.extend(self.hit(filter, n, &id)?);
            seen.insert(id);
        }
        Ok(found)
    }

    /// The chat of a message that has the words, if it is one that is looked for.
    fn hit(&self, filter: &ChatFilter, n: i64, id: &str) -> Result<Option<ChatRow>, StoreError> {
        let sql = format!(
            "SELECT {CHAT_COLUMNS}, m.text FROM chats c, messages m \
             WHERE c.id = ?1 AND c.owner IS ?2 AND c.changed_ms < ?3 AND m.n = ?4"
        );
        let mut statement = self.told(self.connection.prepare_cached(&sql))?;
        let row = statement.query_row(params![id, filter.owner, before(filter), n], |row| {
            let text: String = row.get(7)?;
            Ok(ChatRow {
                chat: chat(row)?,
                excerpt: Some(excerpt(&text, &filter.words)),
            })
        });
        self.told(row.optional())
    }
}

fn before(filter: &ChatFilter) -> i64 {
    filter.before_ms.map_or(i64::MAX, clamped)
}

/// A pattern for titles that hold the text.
fn like(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.trim().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// The words as FTS5 reads them: each is a phrase of its own, so none is an operator, and the
/// last may be the beginning of one.
fn quoted_words(text: &str) -> String {
    let words = text.split_whitespace();
    let usable = words.filter(|word| word.chars().any(char::is_alphanumeric));
    let quoted: Vec<_> = usable
        .map(|word| format!("\"{}\"", word.replace('"', "\"\"")))
        .collect();
    match quoted.is_empty() {
        true => String::new(),
        false => quoted.join(" ") + "*",
    }
}

/// A query for words in texts of this owner, as the view `messages_ended` names owners.
fn whose(owner: Option<&str>, words: &str) -> String {
    let mut name = String::from("o");
    for byte in owner.unwrap_or_default().bytes() {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02X}");
    }
    format!("owner : \"{name}\" AND text : ({words})")
}

/// The part of a text around the first of the words, in one line.
fn excerpt(text: &str, words: &str) -> String {
    let lower = text.to_lowercase();
    let mut places = words
        .split_whitespace()
        .filter_map(|word| lower.find(&word.to_lowercase()));
    let at = places.next().unwrap_or(0);
    // Lower case may be of another length; a character is all that is needed.
    let before = lower[..at].chars().count();
    let start = before.saturating_sub(EXCERPT_CHARS / 4);
    let part: String = text.chars().skip(start).take(EXCERPT_CHARS).collect();
    let line = part.split_whitespace().collect::<Vec<_>>().join(" ");
    match start {
        0 => line,
        _ => format!("… {line}"),
    }
}

#[cfg(test)]
mod tests;
