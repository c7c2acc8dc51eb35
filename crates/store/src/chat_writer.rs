//! The thread that writes chats.
//!
//! Unlike what [`crate::Writer`] takes, a change of a chat is answered: whoever sends a message
//! is told whether it is in the file. Changes that wait are written in one transaction; where
//! that fails each is tried by itself, so that one cannot take others with it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use rusqlite::TransactionBehavior;

use crate::{ChatWrite, Session, Store, StoreError};

/// Changes that wait to be written; one more is refused.
pub const CHAT_QUEUE_MAX: usize = 1024;
/// Changes of one transaction.
const BATCH_MAX: usize = 256;

/// Is told whether a change is in the file. Called by the thread that writes, so it must be
/// quick.
pub type Written = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Entry {
    writes: Vec<ChatWrite>,
    written: Written,
}

/// A handle to the thread; cheap to clone. The thread ends, with all written, when the last one
/// is dropped.
#[derive(Debug, Clone)]
pub struct ChatWriter(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    /// Taken when the thread is to end.
    queue: Option<SyncSender<Entry>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes chats panicked");
        }
    }
}

impl ChatWriter {
    pub(crate) fn start(store: &Store) -> Result<Self, StoreError> {
        let mut session = store.connect()?;
        session.write(&[ChatWrite::CutOff])?;
        let (queue, entries) = sync_channel(CHAT_QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("chat-writer".to_owned())
            .spawn(move || work(&mut session, &entries))
            .map_err(|error| StoreError::Unreachable {
                path: store.path().to_owned(),
                detail: error.to_string(),
            })?;
        Ok(Self(Arc::new(Handle {
            queue: Some(queue),
            thread: Some(thread),
        })))
    }

    /// Writes changes, all of them or none. `false`: the queue was full, and `written` is not
    /// called.
    #[must_use]
    pub fn write(&self, writes: Vec<ChatWrite>, written: Written) -> bool {
        let Some(queue) = &self.0.queue else {
            return false;
        };
        match queue.try_send(Entry { writes, written }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }
}

fn work(session: &mut Session, entries: &Receiver<Entry>) {
    while let Ok(first) = entries.recv() {
        let rest = entries.try_iter().take(BATCH_MAX - 1);
        let batch: Vec<_> = std::iter::once(first).chain(rest).collect();
        let all: Vec<_> = batch.iter().flat_map(|one| one.writes.clone()).collect();
        let together = session.write(&all);
        for entry in batch {
            let outcome = match &together {
                Ok(()) => Ok(()),
                Err(_) => session.write(&entry.writes),
            };
            if let Err(error) = &outcome {
                tracing::warn!(%error, "a chat was not written");
            }
            (entry.written)(outcome);
        }
    }
}

impl Session {
    /// Writes changes in one transaction.
    fn write(&mut self, writes: &[ChatWrite]) -> Result<(), StoreError> {
        let path = self.path.clone();
        let told = |error: rusqlite::Error| StoreError::of(&path, &error);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(told)?;
        let mut writes = writes.iter();
        writes
            .try_for_each(|write| write.apply(&transaction))
            .map_err(told)?;
        transaction.commit().map_err(told)
    }
}
