//! The one thread that writes while requests run.
//!
//! Producers put entries into a bounded queue and never wait: what finds it full is dropped
//! and counted. The thread sleeps while there is nothing, wakes at the first entry, lets more
//! gather for [`FLUSH_AFTER`] and writes them in one transaction. So a busy server pays for a
//! wake-up a few times a second, not with each request.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use crate::audit::{self, AuditRow};
use crate::keys::now_s;
use crate::response::{self, Kept, Used};
use crate::{Session, Store, StoreError, Usage, usage};

/// How long entries gather before they are written.
pub const FLUSH_AFTER: Duration = Duration::from_millis(200);
/// As many entries are written at once, however short they gathered: rows in waiting hold the
/// decisions that they tell of.
const GATHERED_MAX: usize = 128;
/// Entries that wait to be written; one more is dropped.
pub const QUEUE_MAX: usize = 16_384;
/// Bytes of texts and responses that wait to be written; more are dropped.
pub const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Entries of one transaction.
pub const BATCH_MAX: usize = 256;
/// Time between two looks for rows of the audit log that are too old.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Rows of the audit log that are written between two looks.
const PRUNE_AFTER_ROWS: u64 = 10_000;
/// Rows that are deleted in one transaction.
const PRUNE_ROWS_MAX: u32 = 10_000;

/// What stays of the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub days: u32,
    pub rows_max: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            days: 30,
            rows_max: 1_000_000,
        }
    }
}

/// Makes a row, on the thread that writes it.
type MakeRow = Box<dyn FnOnce() -> AuditRow + Send>;

enum Entry {
    Audit(MakeRow),
    Usage(Usage),
    Response(Arc<Kept>, Used),
    Used(Vec<Used>),
    Gone(String),
    /// Answered once everything before it is in the file.
    Flush(SyncSender<()>),
}

/// What the queue has no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Audit,
    Usage,
    Response,
    Used,
    Gone,
    Flush,
}

impl Kind {
    const COUNT: usize = 6;

    /// What comes of it that an entry found the queue full.
    const fn loss(self) -> &'static str {
        match self {
            Self::Audit => "rows of the audit log are lost",
            Self::Usage => "what keys have used is written later",
            Self::Response => "responses are kept in memory only, and a restart loses them",
            Self::Used => "uses of responses are not noted, and a restart takes them for older",
            Self::Gone => "deleted responses stay in the file, and a restart finds them there",
            Self::Flush => "nobody waits",
        }
    }
}

impl Entry {
    const fn kind(&self) -> Kind {
        match self {
            Self::Audit(_) => Kind::Audit,
            Self::Usage(_) => Kind::Usage,
            Self::Response(..) => Kind::Response,
            Self::Used(_) => Kind::Used,
            Self::Gone(_) => Kind::Gone,
            Self::Flush(_) => Kind::Flush,
        }
    }
}

/// A handle to the thread; cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    /// Taken when the thread is to end.
    queue: Option<SyncSender<(usize, Entry)>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    /// Entries that SQLite did not take.
    failed: AtomicU64,
    queued: AtomicUsize,
    queued_bytes: AtomicUsize,
    /// By [`Kind`]: a loss was logged, and the queue was not empty since.
    told_full: [AtomicBool; Kind::COUNT],
    /// Somebody waits for the file.
    hurry: Mutex<bool>,
    hurried: Condvar,
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.queue.take());
        self.shared.hurry();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the database panicked");
        }
    }
}

impl Writer {
    pub(crate) fn start(store: &Store, retention: Retention) -> Result<Self, StoreError> {
        let session = store.connect()?;
        let (queue, entries) = sync_channel(QUEUE_MAX);
        let shared = Arc::<Shared>::default();
        let work = Work {
            session,
            entries,
            shared: Arc::clone(&shared),
            retention,
            pruned: None,
            rows_since: 0,
            told: false,
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || work.run())
            .map_err(|error| StoreError::Unreachable {
                path: store.path().to_owned(),
                detail: error.to_string(),
            })?;
        Ok(Self(Arc::new(Handle {
            queue: Some(queue),
            shared,
            thread: Some(thread),
        })))
    }

    /// Writes a row of the audit log; `make` runs on the thread that writes. `bytes` are
    /// those of the texts that it holds. `false`: the queue was full, and the row is lost.
    pub fn audit(&self, bytes: usize, make: impl FnOnce() -> AuditRow + Send + 'static) -> bool {
        self.send(bytes, Entry::Audit(Box::new(make)))
    }

    /// Adds to what a key has used. `false`: it was not taken, and should be given again.
    #[must_use]
    pub fn usage(&self, usage: Usage) -> bool {
        self.send(0, Entry::Usage(usage))
    }

    /// Keeps a response. `false`: the queue was full.
    pub fn put_response(&self, kept: Arc<Kept>, used: Used) -> bool {
        self.send(kept.bytes(), Entry::Response(kept, used))
    }

    /// Responses were used again. `false`: the queue was full.
    pub fn used_responses(&self, used: Vec<Used>) -> bool {
        let bytes = used.iter().map(|one| size_of::<Used>() + one.id.len());
        self.send(bytes.sum(), Entry::Used(used))
    }

    /// Forgets a response.
    pub fn delete_response(&self, id: &str) -> bool {
        self.send(0, Entry::Gone(id.to_owned()))
    }

    /// Waits until all that was given so far is in the file. Blocks.
    pub fn flush(&self) {
        let (answer, answered) = sync_channel(1);
        let Some(queue) = &self.0.queue else { return };
        self.0.shared.hurry();
        self.0.shared.queued.fetch_add(1, Ordering::Relaxed);
        if queue.send((0, Entry::Flush(answer))).is_ok() {
            self.0.shared.hurry();
            // An error means that the thread has ended.
            let _ = answered.recv();
        }
    }

    /// Entries that were lost because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.shared.dropped.load(Ordering::Relaxed)
    }

    /// Entries that were lost because the database did not take them.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0.shared.failed.load(Ordering::Relaxed)
    }

    fn send(&self, bytes: usize, entry: Entry) -> bool {
        let shared = &self.0.shared;
        let kind = entry.kind();
        let queued = shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let n_queued = shared.queued.fetch_add(1, Ordering::Relaxed) + 1;
        let sent = match &self.0.queue {
            Some(queue) if queued.saturating_add(bytes) <= QUEUE_BYTES_MAX => {
                match queue.try_send((bytes, entry)) {
                    Ok(()) => true,
                    Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
                }
            }
            _ => false,
        };
        if n_queued == GATHERED_MAX {
            shared.hurry();
        }
        if !sent {
            shared.queued.fetch_sub(1, Ordering::Relaxed);
            shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            shared.tell_full(kind);
        }
        sent
    }
}

impl Shared {
    /// Once, not with each entry, until the thread has caught up.
    fn tell_full(&self, kind: Kind) {
        if !self.told_full[kind as usize].swap(true, Ordering::Relaxed) {
            let loss = kind.loss();
            tracing::warn!(
                entries_max = QUEUE_MAX,
                bytes_max = QUEUE_BYTES_MAX,
                "the queue of the database is full: {loss}"
            );
        }
    }

    fn caught_up(&self) {
        for told in &self.told_full {
            told.store(false, Ordering::Relaxed);
        }
    }

    fn hurry(&self) {
        *self.hurry.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.hurried.notify_one();
    }

    /// Lets entries gather, unless somebody waits.
    fn gather(&self) {
        let hurry = self.hurry.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .hurried
            .wait_timeout_while(hurry, FLUSH_AFTER, |hurry| !*hurry);
        let (mut hurry, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *hurry = false;
    }
}

/// The thread's side.
struct Work {
    session: Session,
    entries: Receiver<(usize, Entry)>,
    shared: Arc<Shared>,
    retention: Retention,
    pruned: Option<Instant>,
    rows_since: u64,
    /// A failure was logged, and nothing went well since.
    told: bool,
}

impl Work {
    /// Until no producer is left and all is written.
    fn run(mut self) {
        self.prune();
        while let Ok(first) = self.entries.recv() {
            self.shared.gather();
            let mut batch = vec![first];
            loop {
                let room = BATCH_MAX - batch.len();
                batch.extend(self.entries.try_iter().take(room));
                self.shared.queued.fetch_sub(batch.len(), Ordering::Relaxed);
                let was_full = batch.len() == BATCH_MAX;
                self.write(std::mem::take(&mut batch));
                if !was_full {
                    self.shared.caught_up();
                    break;
                }
            }
            if self.rows_since >= PRUNE_AFTER_ROWS
                || self.pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY)
            {
                self.prune();
            }
        }
    }

    fn write(&mut self, batch: Vec<(usize, Entry)>) {
        let n_entries = batch.len() as u64;
        let mut waiting = Vec::new();
        match self.transact(batch, &mut waiting) {
            Ok(()) => self.told = false,
            Err(error) => {
                self.shared.failed.fetch_add(n_entries, Ordering::Relaxed);
                // Once, not with each batch, while the disk is full.
                if !std::mem::replace(&mut self.told, true) {
                    let error = StoreError::of(&self.session.path, &error);
                    tracing::error!(%error, n_entries, "the database did not take what was written");
                }
            }
        }
        for answer in waiting {
            // Whoever waited may have left.
            let _ = answer.try_send(());
        }
    }

    fn transact(
        &mut self,
        batch: Vec<(usize, Entry)>,
        waiting: &mut Vec<SyncSender<()>>,
    ) -> rusqlite::Result<()> {
        let mut outcome = Ok(());
        let transaction = self
            .session
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = match transaction {
            Ok(transaction) => Some(transaction),
            Err(error) => {
                outcome = Err(error);
                None
            }
        };
        for (bytes, entry) in batch {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match (entry, &transaction) {
                (Entry::Flush(answer), _) => waiting.push(answer),
                (entry, Some(transaction)) if outcome.is_ok() => {
                    self.rows_since += u64::from(matches!(entry, Entry::Audit(_)));
                    outcome = insert(transaction, entry);
                }
                _ => {}
            }
        }
        outcome?;
        transaction.map_or(Ok(()), rusqlite::Transaction::commit)
    }

    fn prune(&mut self) {
        self.pruned = Some(Instant::now());
        self.rows_since = 0;
        let days = u64::from(self.retention.days);
        let before_ms = now_s().saturating_sub(days * 86_400) * 1000;
        let connection = &self.session.connection;
        let keep_max = self.retention.rows_max;
        // Producers are served between two rounds; what is left waits for the next look.
        if let Err(error) = audit::prune(connection, before_ms, keep_max, PRUNE_ROWS_MAX) {
            let error = StoreError::of(&self.session.path, &error);
            tracing::warn!(%error, "old rows of the audit log were not deleted");
        }
    }
}

fn insert(connection: &Connection, entry: Entry) -> rusqlite::Result<()> {
    match entry {
        Entry::Audit(make) => audit::insert(connection, &make()),
        Entry::Usage(one) => usage::add(connection, &one),
        Entry::Response(kept, used) => response::put(connection, &kept, &used),
        Entry::Used(used) => used
            .iter()
            .try_for_each(|one| response::used(connection, one)),
        Entry::Gone(id) => response::delete(connection, &id),
        Entry::Flush(_) => Ok(()),
    }
}
