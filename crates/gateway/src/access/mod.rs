//! Who asks, what they may do, and what is written down of it.
//!
//! [`Control`] is the database with all that comes from it: a snapshot of the keys that is
//! swapped when they change, what each key has used, the audit log, kept responses. A request
//! reads the snapshot and never the database; what it leaves behind goes into the writer's
//! queue. [`Visit`] is one request on its way.

mod glob;
mod holder;
mod keyring;
mod quota;
mod refusals;
mod row;
mod scopes;
mod span;
mod visit;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use store::{Retention, Session, Store, StoreError, Writer};

pub(crate) use holder::{Caller, Holder};
pub(crate) use quota::{Amount, Moment};
pub(crate) use scopes::{Need, need};
pub(crate) use visit::{BYTES_PER_TOKEN, Head, Visit, VisitEnd, delta_bytes};

use crate::chats::Chats;
use crate::kept::{Bounds, Responses};
use keyring::Keyring;
use quota::Bucket;

/// Time between two looks for changed keys, and at most as long is lost of what keys used
/// when the process is killed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Requests without a key, or with a wrong one, that the audit log notes in a minute. Whoever
/// has no key cannot bury the rows of those who have.
pub(crate) const STRANGERS_NOTED_PER_MINUTE: u32 = 60;

/// What is written down, as the operator wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlOptions {
    /// Keep an audit log.
    pub audit: bool,
    /// With the beginning of each prompt and answer.
    pub audit_texts: bool,
    pub audit_retention: Retention,
    /// Keep responses on disk.
    pub responses_on_disk: bool,
}

impl Default for ControlOptions {
    fn default() -> Self {
        Self {
            audit: true,
            audit_texts: false,
            audit_retention: Retention::default(),
            responses_on_disk: true,
        }
    }
}

/// Keys, usage, audit log and kept responses over a database; cheap to clone.
#[derive(Debug, Clone)]
pub struct Control(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    options: ControlOptions,
    writer: Writer,
    keyring: ArcSwap<Keyring>,
    /// Turns true with the first key and stays so, also over a restart: an endpoint does not
    /// open itself because its last key was taken away.
    asks: AtomicBool,
    looking: Mutex<Looking>,
    strangers: Mutex<Bucket>,
    clock: Arc<Clock>,
    #[cfg(test)]
    visit: Mutex<Weak<Visit>>,
    /// `None`: they are kept in memory.
    responses: Option<Arc<Responses>>,
    chats: Chats,
    /// The thread that looks ends when this is dropped.
    _stop: SyncSender<()>,
}

/// What was seen at the last look.
#[derive(Debug)]
struct Looking {
    session: Session,
    data_version: i64,
    generation: i64,
    /// A failure was logged, and nothing went well since.
    told: bool,
}

/// Tells the time.
#[derive(Debug)]
pub(crate) struct Clock {
    time: Time,
    /// The latest time of day that was ever told.
    latest_ms: AtomicU64,
}

/// Where the time comes from.
#[derive(Debug)]
pub(crate) enum Time {
    System(Instant),
    #[cfg(test)]
    Manual(Arc<Mutex<Moment>>),
}

impl Clock {
    pub(crate) fn new(time: Time) -> Self {
        Self {
            time,
            latest_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        let now = self.time.now();
        self.latest_ms.fetch_max(now.unix_ms, Ordering::Relaxed);
        now
    }

    /// The time by which keys expire, seconds since 1970: it never goes back, whatever is done
    /// to the clock of the machine, so an expired key does not come to life again.
    fn expiry_s(&self) -> u64 {
        let now = self.now().unix_ms;
        now.max(self.latest_ms.load(Ordering::Relaxed)) / 1000
    }
}

impl Time {
    fn now(&self) -> Moment {
        match self {
            Self::System(start) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                Moment {
                    elapsed: start.elapsed(),
                    unix_ms: since.map_or(0, |since| {
                        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
                    }),
                }
            }
            #[cfg(test)]
            Self::Manual(moment) => *moment.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl Control {
    /// Reads the keys and what they have used, and starts to write.
    ///
    /// # Errors
    /// What is wrong with the database.
    pub fn open(store: Store, options: ControlOptions) -> Result<Self, StoreError> {
        Self::with_clock(store, options, Clock::new(Time::System(Instant::now())))
    }

    pub(crate) fn with_clock(
        store: Store,
        options: ControlOptions,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let session = store.connect()?;
        // In this order, so that what changes meanwhile is read again.
        let looking = Looking {
            data_version: session.data_version()?,
            generation: session.keys_generation()?,
            session,
            told: false,
        };
        let keyring = Keyring::read(&looking.session, &Keyring::default(), clock.now())?;
        if keyring.has_had_keys() && !keyring.has_keys() {
            tracing::warn!(
                "there were keys and none is in use: the endpoint goes on to ask for one; \
                 `sextant key add` makes one, `sextant key forget-all` opens the endpoint"
            );
        }
        let writer = store.writer(options.audit_retention)?;
        let responses = match options.responses_on_disk {
            true => Some(Arc::new(Responses::on_disk(
                Bounds::default(),
                looking.session.responses()?,
                writer.clone(),
            ))),
            false => None,
        };
        let (stop, stopped) = sync_channel(0);
        let control = Self(Arc::new(Inner {
            responses,
            chats: Chats::new(store.clone(), store.chat_writer()?),
            writer,
            options,
            asks: AtomicBool::new(keyring.has_had_keys()),
            keyring: ArcSwap::from_pointee(keyring),
            looking: Mutex::new(looking),
            strangers: Mutex::new(Bucket::new(STRANGERS_NOTED_PER_MINUTE, clock.now().elapsed)),
            clock: Arc::new(clock),
            #[cfg(test)]
            visit: Mutex::default(),
            _stop: stop,
            store,
        }));
        let weak = Arc::downgrade(&control.0);
        let watch = move || watch(&weak, &stopped);
        std::thread::Builder::new()
            .name("key-watch".to_owned())
            .spawn(watch)
            .map_err(|error| StoreError::Unreachable {
                path: control.0.store.path().to_owned(),
                detail: error.to_string(),
            })?;
        Ok(control)
    }

    /// Whether requests are asked for a key.
    #[must_use]
    pub fn asks_for_a_key(&self) -> bool {
        self.0.asks.load(Ordering::Relaxed)
    }

    /// Writes all that was used and done so far to the file. Blocks.
    pub fn flush(&self) {
        self.0.save_usage();
        self.0.writer.flush();
    }

    /// The request that came last, while it runs.
    #[cfg(test)]
    pub(crate) fn visit(&self) -> Option<Arc<Visit>> {
        let visit = self.0.visit.lock();
        visit.unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    #[cfg(test)]
    fn began(&self, visit: &Arc<Visit>) {
        let last = self.0.visit.lock();
        *last.unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(visit);
    }

    /// Looks for changed keys now.
    #[cfg(test)]
    pub(crate) fn look(&self) {
        self.0.look();
    }

    pub(crate) fn find(&self, key: &str) -> Option<Arc<Holder>> {
        self.0.keyring.load().find(key, self.0.clock.expiry_s())
    }

    pub(crate) fn now(&self) -> Moment {
        self.0.clock.now()
    }

    /// Whether one more request of somebody without a key is noted.
    fn notes_stranger(&self) -> bool {
        let now = self.now().elapsed;
        let strangers = self.0.strangers.lock();
        let mut strangers = strangers.unwrap_or_else(PoisonError::into_inner);
        strangers.take(1, now).is_ok()
    }

    pub(crate) fn clock(&self) -> &Arc<Clock> {
        &self.0.clock
    }

    /// Responses on disk, where the operator wants them there.
    pub(crate) fn responses(&self) -> Option<&Arc<Responses>> {
        self.0.responses.as_ref()
    }

    pub(crate) fn chats(&self) -> &Chats {
        &self.0.chats
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn writer(&self) -> &Writer {
        &self.0.writer
    }

    pub(crate) fn options(&self) -> ControlOptions {
        self.0.options
    }
}

/// Looks for changed keys until there is nobody whose keys they would be.
fn watch(inner: &Weak<Inner>, stopped: &std::sync::mpsc::Receiver<()>) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
        let Some(inner) = inner.upgrade() else { return };
        // A key that expires while nobody asks has expired all the same.
        inner.clock.now();
        inner.look();
        inner.save_usage();
    }
}

impl Inner {
    /// Reads the keys again if they have changed. A failure leaves the old ones in force.
    fn look(&self) {
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        match self.try_look(&mut looking) {
            Ok(()) => looking.told = false,
            Err(error) if !std::mem::replace(&mut looking.told, true) => {
                tracing::error!(%error, "the keys were not read again; the old ones hold");
            }
            Err(_) => {}
        }
    }

    fn try_look(&self, looking: &mut Looking) -> Result<(), StoreError> {
        let data_version = looking.session.data_version()?;
        if data_version == looking.data_version {
            return Ok(());
        }
        let generation = looking.session.keys_generation()?;
        if generation != looking.generation {
            let old = self.keyring.load();
            let keyring = Keyring::read(&looking.session, &old, self.clock.now())?;
            if keyring.has_had_keys() {
                self.asks.store(true, Ordering::Relaxed);
            }
            tracing::info!(keys = keyring.len(), "the keys have changed");
            self.keyring.store(Arc::new(keyring));
            looking.generation = generation;
        }
        looking.data_version = data_version;
        Ok(())
    }

    fn save_usage(&self) {
        let keyring = self.keyring.load();
        for holder in keyring.holders() {
            holder.save(|usage| self.writer.usage(usage));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.save_usage();
    }
}
