//! The one thread that writes while requests run.
//!
//! Producers put entries into a bounded queue and never wait: what finds it full is dropped
//! and counted. The thread sleeps while there is nothing, wakes at the first entry, lets more
//! gather for [`FLUSH_AFTER`] and writes them in one transaction. So a busy server pays for a
//! wake-up a few times a second, not with each request.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{CachedStatement, Connection, TransactionBehavior};
use stdx::Cost;

use crate::audit::{self, AuditSource};
use crate::keys::now_s;
use crate::response::{self, Kept, Used};
use crate::{Session, Store, StoreError, Usage, usage};

/// How long entries gather before they are written.
pub const FLUSH_AFTER: Duration = Duration::from_millis(200);
/// As many entries are written at once, however short they gathered: rows in waiting hold the
/// decisions that they tell of.
const GATHERED_MAX: usize = 512;
/// Entries that wait to be written; one more is dropped.
pub const QUEUE_MAX: usize = 16_384;
/// Bytes of texts and responses that wait to be written; more are dropped.
pub const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Entries of one transaction.
pub const BATCH_MAX: usize = 512;
/// Deletions that wait to be written, beside the queue and after a failure.
const DELETIONS_DUE_MAX: usize = 16_384;
/// Keys and days whose usage waits to be written again after a failure.
const USAGE_DUE_MAX: usize = 16_384;
/// How long after a failure what is due is written again although nothing else comes.
const RETRY_AFTER: Duration = Duration::from_secs(1);
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

enum Entry {
    Audit(Box<dyn AuditSource>),
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
    /// Deletions that found the queue full.
    owed: Mutex<Vec<String>>,
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
        let work = Work::new(session, entries, Arc::clone(&shared), retention);
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

    /// Writes a row of the audit log, which the thread that writes reads from `source`. `bytes`
    /// are those of the texts that it holds. `false`: the queue was full, and the row is lost.
    pub fn audit(&self, bytes: usize, source: impl AuditSource) -> bool {
        self.send(bytes, Entry::Audit(Box::new(source)))
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

    /// Forgets a response. What the queue has no room for is remembered beside it, so a
    /// response that is said to be deleted is. `false`: that is full too.
    pub fn delete_response(&self, id: &str) -> bool {
        self.send(0, Entry::Gone(id.to_owned()))
    }

    /// Waits until all that was given so far is in the file. Blocks.
    pub fn flush(&self) {
        let (answer, answered) = sync_channel(1);
        let Some(queue) = &self.0.queue else { return };
        // Now, as a full queue keeps `send` waiting until the thread has woken.
        self.0.shared.hurry();
        self.0.shared.queued.fetch_add(1, Ordering::Relaxed);
        if queue.send((0, Entry::Flush(answer))).is_ok() {
            // And again, as the thread may have used that up on entries before this one.
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
                    Ok(()) => Ok(()),
                    Err(TrySendError::Full(one) | TrySendError::Disconnected(one)) => Err(one.1),
                }
            }
            _ => Err(entry),
        };
        // One of the producers counts to it exactly, so one of them takes the lock and not each
        // that finds more.
        if n_queued == GATHERED_MAX {
            shared.hurry();
        }
        let Err(entry) = sent else { return true };
        shared.queued.fetch_sub(1, Ordering::Relaxed);
        shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Entry::Gone(id) = entry
            && shared.owe(id)
        {
            return true;
        }
        shared.dropped.fetch_add(1, Ordering::Relaxed);
        shared.tell_full(kind);
        false
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

    fn owed(&self) -> MutexGuard<'_, Vec<String>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: there is no room for it.
    fn owe(&self, id: String) -> bool {
        let mut owed = self.owed();
        let has_room = owed.len() < DELETIONS_DUE_MAX;
        if has_room {
            owed.push(id);
        }
        has_room
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

/// What is written again until it is in the file.
#[derive(Debug, Default)]
struct Due {
    /// By key and day.
    usage: HashMap<(String, u64), Usage>,
    gone: HashSet<String>,
}

impl Due {
    fn is_empty(&self) -> bool {
        self.usage.is_empty() && self.gone.is_empty()
    }

    /// `false`: more keys and days than may wait.
    fn add(&mut self, usage: Usage) -> bool {
        let at = (usage.key_id.clone(), usage.day);
        if let Some(sum) = self.usage.get_mut(&at) {
            sum.tokens = sum.tokens.saturating_add(usage.tokens);
            sum.cost = Cost(sum.cost.0.saturating_add(usage.cost.0));
            return true;
        }
        let has_room = self.usage.len() < USAGE_DUE_MAX;
        if has_room {
            self.usage.insert(at, usage);
        } else {
            tracing::error!(
                limit = USAGE_DUE_MAX,
                "the database takes nothing: what a key has used is lost"
            );
        }
        has_room
    }

    fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut usage = self.usage.values();
        usage.try_for_each(|one| usage::add(connection, one))?;
        let mut gone = self.gone.iter();
        gone.try_for_each(|id| response::delete(connection, id))
    }
}

/// Deletions that found the queue full, and how many entries may still be before them.
struct Owed {
    gone: Vec<String>,
    n_before_max: usize,
}

/// What a failed transaction loses.
#[derive(Debug, Default)]
struct Lost {
    rows: u64,
    responses: u64,
    uses: u64,
}

impl Lost {
    fn of(batch: &[(usize, Entry)]) -> Self {
        let count = |kind| {
            batch
                .iter()
                .filter(|(_, entry)| entry.kind() == kind)
                .count() as u64
        };
        Self {
            rows: count(Kind::Audit),
            responses: count(Kind::Response),
            uses: count(Kind::Used),
        }
    }
}

/// The thread's side.
struct Work {
    session: Session,
    entries: Receiver<(usize, Entry)>,
    shared: Arc<Shared>,
    retention: Retention,
    due: Due,
    owed: Option<Owed>,
    /// Who waits for the file.
    waiting: Vec<SyncSender<()>>,
    prune_every: Duration,
    pruned: Instant,
    /// The last look left rows that are too old.
    prune_more: bool,
    rows_since: u64,
    /// A failure was logged, and nothing went well since.
    told: bool,
}

impl Work {
    fn new(
        session: Session,
        entries: Receiver<(usize, Entry)>,
        shared: Arc<Shared>,
        retention: Retention,
    ) -> Self {
        Self {
            session,
            entries,
            shared,
            retention,
            due: Due::default(),
            owed: None,
            waiting: Vec::new(),
            prune_every: PRUNE_EVERY,
            pruned: Instant::now(),
            prune_more: false,
            rows_since: 0,
            told: false,
        }
    }

    /// Until no producer is left and all is written.
    fn run(mut self) {
        self.prune();
        while self.turn() {}
        while self.owes() {
            self.take(None);
        }
        if !self.due.is_empty() {
            self.write(Vec::new());
        }
        if !self.due.is_empty() {
            tracing::error!(
                n_usage = self.due.usage.len(),
                n_deletions = self.due.gone.len(),
                "the database did not take what keys have used and which responses were deleted \
                 before the end; a restart does not know of it"
            );
        }
    }

    /// Writes what comes, or what is due although nothing comes. `false`: no producer is left.
    fn turn(&mut self) -> bool {
        match self.entries.recv_timeout(self.patience()) {
            Ok(first) => self.take(Some(first)),
            Err(RecvTimeoutError::Timeout) if self.owes() => self.take(None),
            Err(RecvTimeoutError::Timeout) if !self.due.is_empty() => self.write(Vec::new()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        // Producers are served between two rounds.
        if self.prune_more
            || self.rows_since >= PRUNE_AFTER_ROWS
            || self.pruned.elapsed() >= self.prune_every
        {
            self.prune();
        }
        true
    }

    /// How long nothing may come before there is something to do.
    fn patience(&self) -> Duration {
        let until_look = self.prune_every.saturating_sub(self.pruned.elapsed());
        match self.prune_more || self.owes() {
            true => Duration::ZERO,
            false if !self.due.is_empty() => until_look.min(RETRY_AFTER),
            false => until_look,
        }
    }

    fn owes(&self) -> bool {
        self.owed.is_some() || !self.shared.owed().is_empty()
    }

    fn take(&mut self, first: Option<(usize, Entry)>) {
        if first.is_some() {
            self.shared.gather();
        }
        let mut batch = Vec::from_iter(first);
        loop {
            self.look_what_is_owed();
            let room = BATCH_MAX - batch.len();
            batch.extend(self.entries.try_iter().take(room));
            self.shared.queued.fetch_sub(batch.len(), Ordering::Relaxed);
            let was_full = batch.len() == BATCH_MAX;
            self.pass(batch.len(), was_full);
            self.write(std::mem::take(&mut batch));
            if !was_full {
                self.shared.caught_up();
                break;
            }
        }
    }

    fn look_what_is_owed(&mut self) {
        if self.owed.is_none() {
            let gone = std::mem::take(&mut *self.shared.owed());
            self.owed = (!gone.is_empty()).then_some(Owed {
                gone,
                n_before_max: QUEUE_MAX,
            });
        }
    }

    /// What is owed is due once all that was in the queue before it has been taken: the
    /// response itself may be among that.
    fn pass(&mut self, n_taken: usize, was_full: bool) {
        let Some(owed) = &mut self.owed else { return };
        owed.n_before_max = owed.n_before_max.saturating_sub(n_taken);
        if (!was_full || owed.n_before_max == 0)
            && let Some(owed) = self.owed.take()
        {
            self.due.gone.extend(owed.gone);
        }
    }

    fn write(&mut self, batch: Vec<(usize, Entry)>) {
        let lost = Lost::of(&batch);
        match self.transact(batch) {
            Ok(()) => {
                self.told = false;
                self.due = Due::default();
            }
            Err(error) => self.failed(&error, &lost),
        }
        if !self.owes() {
            for answer in self.waiting.drain(..) {
                // Whoever waited may have left.
                let _ = answer.try_send(());
            }
        }
    }

    fn failed(&mut self, error: &rusqlite::Error, lost: &Lost) {
        let n_lost = lost.rows + lost.responses + lost.uses;
        self.shared.failed.fetch_add(n_lost, Ordering::Relaxed);
        // Once, not with each batch, while the disk is full.
        if !std::mem::replace(&mut self.told, true) {
            let error = StoreError::of(&self.session.path, error);
            tracing::error!(
                %error,
                rows_lost = lost.rows,
                responses_in_memory_only = lost.responses,
                uses_lost = lost.uses,
                usage_to_be_written_again = self.due.usage.len(),
                deletions_to_be_written_again = self.due.gone.len(),
                "the database did not take what was written"
            );
        }
        self.bound_deletions();
    }

    /// Only what is in the file has to go from it, and that is no more than the gateway keeps.
    fn bound_deletions(&mut self) {
        if self.due.gone.len() <= DELETIONS_DUE_MAX {
            return;
        }
        let found = response::ids(&self.session.connection);
        let gone = &mut self.due.gone;
        match found {
            Ok(found) => gone.retain(|id| found.contains(id)),
            Err(_) => {
                tracing::error!(
                    n_deletions = gone.len(),
                    limit = DELETIONS_DUE_MAX,
                    "the database can be neither written nor read: deleted responses stay in \
                     the file, and a restart finds them there"
                );
                self.shared
                    .failed
                    .fetch_add(gone.len() as u64, Ordering::Relaxed);
                gone.clear();
            }
        }
    }

    /// Usage and deletions are due whatever becomes of the transaction. A deletion may come
    /// after all else: no id is given to a second response.
    fn transact(&mut self, batch: Vec<(usize, Entry)>) -> rusqlite::Result<()> {
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
        let mut inserts = transaction.as_deref().map(Inserts::new);
        for (bytes, entry) in batch {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            match (entry, &mut inserts) {
                (Entry::Flush(answer), _) => self.waiting.push(answer),
                (Entry::Gone(id), _) => {
                    self.due.gone.insert(id);
                }
                (Entry::Usage(usage), _) => {
                    let n_lost = u64::from(!self.due.add(usage));
                    self.shared.failed.fetch_add(n_lost, Ordering::Relaxed);
                }
                (entry, Some(inserts)) if outcome.is_ok() => {
                    self.rows_since += u64::from(matches!(entry, Entry::Audit(_)));
                    outcome = inserts.insert(entry);
                }
                _ => {}
            }
        }
        drop(inserts);
        outcome?;
        let Some(transaction) = transaction else {
            return Ok(());
        };
        self.due.write(&transaction)?;
        transaction.commit()
    }

    /// One round of deleting rows of the audit log that are too old or too many.
    fn prune(&mut self) {
        self.pruned = Instant::now();
        self.rows_since = 0;
        let days = u64::from(self.retention.days);
        let before_ms = now_s().saturating_sub(days * 86_400) * 1000;
        let connection = &self.session.connection;
        let keep_max = self.retention.rows_max;
        match audit::prune(connection, before_ms, keep_max, PRUNE_ROWS_MAX) {
            Ok(more) => self.prune_more = more,
            Err(error) => {
                // Tried again at the next look.
                self.prune_more = false;
                let error = StoreError::of(&self.session.path, &error);
                tracing::warn!(%error, "old rows of the audit log were not deleted");
            }
        }
    }
}

/// Writes the entries of one transaction.
struct Inserts<'a> {
    connection: &'a Connection,
    /// Looked up with the first row, not with each of some hundreds.
    audit: Option<CachedStatement<'a>>,
}

impl<'a> Inserts<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            audit: None,
        }
    }

    fn insert(&mut self, entry: Entry) -> rusqlite::Result<()> {
        match entry {
            Entry::Audit(source) => {
                let inserting = match &mut self.audit {
                    Some(inserting) => inserting,
                    none => none.insert(audit::inserting(self.connection)?),
                };
                audit::insert(inserting, &source.row())
            }
            Entry::Response(kept, used) => response::put(self.connection, &kept, &used),
            Entry::Used(used) => used
                .iter()
                .try_for_each(|one| response::used(self.connection, one)),
            // Handled before: they outlive the transaction.
            Entry::Usage(_) | Entry::Gone(_) | Entry::Flush(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::AuditRow;

    /// The thread's side without its thread.
    fn work(store: &Store, retention: Retention) -> (SyncSender<(usize, Entry)>, Work) {
        let (queue, entries) = sync_channel(QUEUE_MAX);
        let session = store.connect().unwrap();
        (
            queue,
            Work::new(session, entries, Arc::default(), retention),
        )
    }

    fn n_rows(store: &Store) -> u64 {
        let connection = store.connect().unwrap().connection;
        let count = connection.query_row("SELECT count(*) FROM audit", (), |row| row.get(0));
        count.map(crate::keys::unsigned).unwrap()
    }

    /// Puts rows of that age into the log.
    fn fill(store: &Store, n_rows: u32, at_ms: u64) {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
             INSERT INTO audit (at_ms, request_id, route, attempts, status, prompt_tokens, \
             cached_tokens, completion_tokens, duration_ms, cost) \
             SELECT ?2, 'r' || i, '', 0, 200, 0, 0, 0, 0.0, 0 FROM n";
        let values = rusqlite::params![n_rows, crate::keys::clamped(at_ms)];
        let connection = store.connect().unwrap().connection;
        connection.execute(sql, values).unwrap();
    }

    #[test]
    fn deleting_old_rows_goes_on_while_there_are_more_and_lets_entries_through() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        fill(&store, 3 * PRUNE_ROWS_MAX, 1);
        let (queue, mut work) = work(&store, Retention::default());
        work.prune();
        assert_eq!(n_rows(&store), u64::from(2 * PRUNE_ROWS_MAX));
        let (answer, answered) = sync_channel(1);
        queue.send((0, Entry::Flush(answer))).unwrap();
        work.shared.hurry();
        assert!(work.turn());
        answered.try_recv().unwrap();
        while work.prune_more {
            assert!(work.turn());
        }
        assert_eq!(n_rows(&store), 0);
    }

    #[test]
    fn old_rows_go_although_nothing_comes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (_queue, mut work) = work(&store, Retention::default());
        work.prune();
        fill(&store, 3, 1);
        work.prune_every = Duration::from_millis(1);
        // Ends, as there is a time after which it waits for nothing.
        assert!(work.turn());
        assert_eq!(n_rows(&store), 0);
    }

    fn kept(id: &str) -> (Arc<Kept>, Used) {
        let kept = Kept {
            id: id.to_owned(),
            previous: None,
            input: b"[]".to_vec(),
            response: b"{}".to_vec(),
            reach: router::Reach::Device,
            owner: None,
        };
        let used = Used {
            id: id.to_owned(),
            at_s: 1,
            order: 1,
        };
        (Arc::new(kept), used)
    }

    /// Waits inside its row until the sender is dropped.
    struct Held {
        begun: mpsc::Sender<()>,
        wait: mpsc::Receiver<()>,
    }

    impl AuditSource for Held {
        fn row(&self) -> AuditRow<&str> {
            let _ = self.begun.send(());
            let _ = self.wait.recv();
            AuditRow {
                request_id: "first",
                ..AuditRow::default()
            }
        }
    }

    fn row(id: &str) -> AuditRow {
        AuditRow {
            request_id: id.to_owned(),
            ..AuditRow::default()
        }
    }

    /// Keeps the thread inside a row until the sender is dropped.
    fn hold(writer: &Writer) -> mpsc::Sender<()> {
        let (go_on, wait) = mpsc::channel();
        let (begun, has_begun) = mpsc::channel();
        assert!(writer.audit(0, Held { begun, wait }));
        has_begun.recv().unwrap();
        go_on
    }

    #[test]
    fn a_deletion_that_finds_the_queue_full_is_written_after_the_response() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let writer = store.writer(Retention::default()).unwrap();
        let (a, used_a) = kept("a");
        let go_on = hold(&writer);
        for _ in 1..QUEUE_MAX {
            assert!(writer.audit(0, row("more")));
        }
        assert!(writer.put_response(a, used_a));
        assert!(writer.delete_response("a"));
        assert_eq!(writer.dropped(), 0);
        drop(go_on);
        writer.flush();
        assert!(store.connect().unwrap().responses().unwrap().is_empty());
    }

    #[test]
    fn usage_and_deletions_outlive_a_failed_transaction() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let session = store.connect().unwrap();
        let trigger = "CREATE TRIGGER poison BEFORE INSERT ON audit \
             WHEN NEW.request_id = 'poison' BEGIN SELECT RAISE(ABORT, 'as if full'); END";
        session.connection.execute_batch(trigger).unwrap();
        let writer = store.writer(Retention::default()).unwrap();
        let (a, used_a) = kept("a");
        assert!(writer.put_response(a, used_a));
        writer.flush();
        let go_on = hold(&writer);
        // One batch, as all of it waits when the thread looks.
        assert!(writer.audit(0, row("poison")));
        for _ in 0..2 {
            assert!(writer.usage(Usage {
                key_id: "k".to_owned(),
                day: 3,
                tokens: 10,
                cost: Cost(5),
            }));
        }
        assert!(writer.delete_response("a"));
        drop(go_on);
        writer.flush();
        assert_eq!(writer.failed(), 1, "only the row is lost");
        drop(writer);
        assert!(session.responses().unwrap().is_empty());
        let spent = session.spent(3).unwrap()["k"];
        assert_eq!((spent.tokens_today, spent.cost_month), (20, Cost(10)));
    }
}
