//! The workbench's chats: who holds them, and the answers that are being written.
//!
//! An answer belongs to the server: it goes on when the page that asked is closed, any number of
//! pages follow it, and its text so far is in the database. [`Live`] is such an answer,
//! [`Run`] writes it. Reading is done on threads that may block, over connections of their own;
//! writing by the thread of [`store::ChatWriter`].

mod live;
mod outlive;
mod run;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use store::{
    Chat, ChatFilter, ChatMessage, ChatRow, ChatWrite, ChatWriter, Session, Store, StoreError,
};
use tokio::sync::oneshot;

pub(crate) use live::{Live, Mark, News};
pub(crate) use outlive::Outlives;
pub(crate) use run::{Run, now_ms};

use crate::error::{ApiError, ErrorCode};
use crate::limits::ANSWERS_OPEN_MAX;

/// Connections for reading that are kept for the next request.
const SESSIONS_KEPT_MAX: usize = 4;

/// All chats; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Chats(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    writer: ChatWriter,
    sessions: Mutex<Vec<Session>>,
    open: Mutex<HashMap<String, Arc<Live>>>,
}

impl Chats {
    pub(crate) fn new(store: Store, writer: ChatWriter) -> Self {
        Self(Arc::new(Inner {
            store,
            writer,
            sessions: Mutex::default(),
            open: Mutex::default(),
        }))
    }

    pub(crate) async fn list(&self, filter: ChatFilter) -> Result<Vec<ChatRow>, ApiError> {
        self.read(move |session| session.chats(&filter)).await
    }

    /// A chat of this owner and its messages; an answer that is being written as far as it is.
    pub(crate) async fn chat(
        &self,
        id: &str,
        owner: Option<&str>,
    ) -> Result<(Chat, Vec<ChatMessage>), ApiError> {
        let (id, owner) = (id.to_owned(), owner.map(str::to_owned));
        let asked = id.clone();
        // Taken before the file is read: what ends in between is in one of the two.
        let open = self.open_of(&id);
        let found = self
            .read(move |session| {
                let Some(chat) = session.chat(&id, owner.as_deref())? else {
                    return Ok(None);
                };
                Ok(Some((chat, session.chat_messages(&id)?)))
            })
            .await?;
        let (chat, mut messages) = found.ok_or_else(|| not_found("chat", &asked))?;
        for message in &mut messages {
            if let Some(live) = open.iter().find(|live| live.id == message.id) {
                live.show(message);
            }
        }
        Ok((chat, messages))
    }

    /// Writes changes; returns when they are in the file.
    pub(crate) async fn write(&self, writes: Vec<ChatWrite>) -> Result<(), ApiError> {
        let (sender, receiver) = oneshot::channel();
        let written = Box::new(move |outcome| {
            // Whoever asked may have left.
            let _ = sender.send(outcome);
        });
        if !self.0.writer.write(writes, written) {
            let message = "The database does not keep up: too many changes of chats wait.";
            return Err(ApiError::message(ErrorCode::DatabaseFailed, message));
        }
        match receiver.await {
            Ok(outcome) => outcome.map_err(|error| failed(&error)),
            Err(_) => Err(ApiError::message(
                ErrorCode::DatabaseFailed,
                "The endpoint is ending.",
            )),
        }
    }

    /// Writes a change that nobody waits for; one that is refused is followed by a later one.
    pub(crate) fn write_soon(&self, write: ChatWrite) {
        let written = Box::new(|_| {});
        if !self.0.writer.write(vec![write], written) {
            tracing::warn!("the text of an answer so far was not written");
        }
    }

    /// Notes an answer that is being written.
    pub(crate) fn open(&self, live: &Arc<Live>) -> Result<(), ApiError> {
        let mut open = self.all_open();
        if open.len() >= ANSWERS_OPEN_MAX {
            let limit = ANSWERS_OPEN_MAX.to_string();
            let facts = [("limit", limit.as_str())];
            return Err(ApiError::new(ErrorCode::TooManyRequests, &facts));
        }
        open.insert(live.id.clone(), Arc::clone(live));
        Ok(())
    }

    pub(crate) fn close(&self, live: &Live) {
        self.all_open().remove(&live.id);
    }

    /// An answer that is being written.
    pub(crate) fn live(&self, message: &str) -> Option<Arc<Live>> {
        self.all_open().get(message).cloned()
    }

    pub(crate) fn open_of(&self, chat: &str) -> Vec<Arc<Live>> {
        let open = self.all_open();
        let of_chat = open.values().filter(|live| live.chat == chat);
        of_chat.cloned().collect()
    }

    /// All answers that are being written.
    pub(crate) fn lives(&self) -> Vec<Arc<Live>> {
        self.all_open().values().cloned().collect()
    }

    fn all_open(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads with a connection of its own, where it may block.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Session) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let inner = Arc::clone(&self.0);
        let reading = move || {
            let kept = inner.sessions().pop();
            let session = match kept {
                Some(session) => session,
                None => inner.store.connect()?,
            };
            let found = work(&session)?;
            let mut sessions = inner.sessions();
            if sessions.len() < SESSIONS_KEPT_MAX {
                sessions.push(session);
            }
            Ok(found)
        };
        match tokio::task::spawn_blocking(reading).await {
            Ok(read) => read.map_err(|error: StoreError| failed(&error)),
            Err(_) => Err(ApiError::message(
                ErrorCode::Internal,
                "Reading chats failed by a defect.",
            )),
        }
    }
}

impl Inner {
    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: &StoreError) -> ApiError {
    tracing::error!(%error, "chats");
    ApiError::message(ErrorCode::DatabaseFailed, &error.to_string())
}

/// Nothing of that id is there, or it is another's.
pub(crate) fn not_found(what: &str, id: &str) -> ApiError {
    let facts = [("what", what), ("value", id)];
    ApiError::new(ErrorCode::ChatNotFound, &facts)
}
