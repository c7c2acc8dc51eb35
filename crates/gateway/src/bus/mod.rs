//! One stream for everything that changes: `GET /api/events`.
//!
//! [`Bus`] holds an entry for each thing and a bounded course of changes. A reader gets all
//! entries once and then what changes; one that comes back goes on where it was, or begins anew
//! where the course no longer reaches so far. While somebody reads, [`sample`] looks at the
//! engines twice a second and notes only what is not as before. No reader holds another up: each
//! takes from the course at its own pace.

mod sample;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::access::Head;
use crate::chats::Live;
use crate::error::{ApiError, ErrorCode};
use crate::limits::{BUS_CHANGES_KEPT_MAX, BUS_READERS_MAX};
use crate::wire::events::{BusEntry, BusEvent, BusState, ChatsState, OpenAnswer};
use crate::wire::telemetry::{MarksState, TelemetryPoint};

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Bus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Tells one run of the program from another.
    run: String,
    course: Mutex<Course>,
    latest: watch::Sender<u64>,
    readers: AtomicUsize,
    is_sampling: AtomicBool,
}

#[derive(Debug, Default)]
struct Course {
    entries: BTreeMap<String, Entry>,
    /// The last changes, the oldest first.
    changes: VecDeque<Change>,
    /// Of the last change.
    number: u64,
    speeds: HashMap<String, sample::Meter>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    sight: Sight,
    state: BusState,
}

#[derive(Debug, Clone)]
struct Change {
    number: u64,
    key: String,
    /// Whoever may see what is gone may know that it is.
    sight: Sight,
    /// `None`: it is gone.
    state: Option<BusState>,
}

/// Who may see an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sight {
    Everybody,
    /// Who may use this model.
    Model(String),
    /// The key that it belongs to.
    Owner(Option<String>),
    /// Who may change what is on disk.
    Admin,
    /// Who may read what the endpoint measures.
    Metrics,
}

impl Sight {
    fn allows(&self, head: &Head) -> bool {
        match self {
            Self::Everybody => true,
            Self::Model(model) => head.sees_own(model),
            Self::Owner(owner) => owner.as_deref() == head.owner(),
            Self::Admin => head.has(store::Scope::Admin),
            Self::Metrics => head.has(store::Scope::Metrics),
        }
    }
}

impl Bus {
    pub(crate) fn new(run: &str) -> Self {
        Self(Arc::new(Inner {
            run: run.to_owned(),
            course: Mutex::default(),
            latest: watch::Sender::new(0),
            readers: AtomicUsize::new(0),
            is_sampling: AtomicBool::new(false),
        }))
    }

    /// A reader that goes on after the event of that id.
    pub(crate) fn read(&self, head: Head, last_id: Option<&str>) -> Result<Reader, ApiError> {
        let readers = &self.0.readers;
        if readers.fetch_add(1, Ordering::Relaxed) >= BUS_READERS_MAX {
            readers.fetch_sub(1, Ordering::Relaxed);
            let limit = BUS_READERS_MAX.to_string();
            let facts = [("limit", limit.as_str())];
            return Err(ApiError::new(ErrorCode::TooManyRequests, &facts));
        }
        let parsed = last_id.and_then(|id| id.rsplit_once('.'));
        let parsed = parsed.filter(|(run, _)| *run == self.0.run);
        Ok(Reader {
            after: parsed.and_then(|(_, number)| number.parse().ok()),
            latest: self.0.latest.subscribe(),
            bus: self.clone(),
            head,
        })
    }

    /// The list of an owner's chats is no longer as it was.
    pub(crate) fn chats_changed(&self, owner: Option<&str>) {
        let key = format!("chats/{}", owner.unwrap_or_default());
        let mut course = self.course();
        let known = course.entries.get(&key).map(|entry| &entry.state);
        let changes = match known {
            Some(BusState::Chats(state)) => state.changes + 1,
            _ => 1,
        };
        let entry = Entry {
            sight: Sight::Owner(owner.map(str::to_owned)),
            state: BusState::Chats(ChatsState { changes }),
        };
        course.put(key, entry);
        self.tell(course);
    }

    /// Ten seconds of the history have ended.
    pub(crate) fn telemetry(&self, point: TelemetryPoint) {
        self.measured("telemetry", BusState::Telemetry(Box::new(point)));
    }

    /// The marks of the history have changed for so many times.
    pub(crate) fn marks_changed(&self, changes: u64) {
        self.measured("marks", BusState::Marks(MarksState { changes }));
    }

    fn measured(&self, key: &str, state: BusState) {
        let sight = Sight::Metrics;
        let mut course = self.course();
        course.put(key.to_owned(), Entry { sight, state });
        self.tell(course);
    }

    /// These answers are being written, and no others.
    pub(crate) fn answers(&self, lives: &[Arc<Live>]) {
        let entries = lives.iter().map(|live| {
            let answer = OpenAnswer {
                chat: live.chat.clone(),
                message: live.id.clone(),
                model: live.model.clone(),
                began_ms: live.began_ms,
            };
            let entry = Entry {
                sight: Sight::Owner(live.owner.clone()),
                state: BusState::Answer(answer),
            };
            (format!("answer/{}", live.id), entry)
        });
        self.replace("answer/", entries.collect());
    }

    /// All entries whose keys begin so.
    fn replace(&self, prefix: &str, entries: Vec<(String, Entry)>) {
        let mut course = self.course();
        let known = course.entries.keys();
        let gone: Vec<String> = known
            .filter(|key| key.starts_with(prefix))
            .filter(|key| !entries.iter().any(|(kept, _)| kept == *key))
            .cloned()
            .collect();
        for key in gone {
            course.remove(&key);
        }
        for (key, entry) in entries {
            course.put(key, entry);
        }
        self.tell(course);
    }

    fn tell(&self, course: MutexGuard<'_, Course>) {
        let number = course.number;
        drop(course);
        self.0.latest.send_if_modified(|latest| {
            let is_new = *latest < number;
            *latest = number.max(*latest);
            is_new
        });
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        let course = self.0.course.lock();
        course.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Course {
    fn put(&mut self, key: String, entry: Entry) {
        if self.entries.get(&key) == Some(&entry) {
            return;
        }
        self.note(Change {
            number: self.number + 1,
            key: key.clone(),
            sight: entry.sight.clone(),
            state: Some(entry.state.clone()),
        });
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &str) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        self.note(Change {
            number: self.number + 1,
            key: key.to_owned(),
            sight: entry.sight,
            state: None,
        });
    }

    fn note(&mut self, change: Change) {
        self.number = change.number;
        if self.changes.len() >= BUS_CHANGES_KEPT_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Whether all changes after that number are still here.
    fn reaches(&self, number: u64) -> bool {
        let first = self
            .changes
            .front()
            .map_or(self.number + 1, |one| one.number);
        number <= self.number && number + 1 >= first
    }
}

/// Somebody who reads the bus.
#[derive(Debug)]
pub(crate) struct Reader {
    bus: Bus,
    head: Head,
    /// The last change that it has; `None`: nothing.
    after: Option<u64>,
    latest: watch::Receiver<u64>,
}

impl Reader {
    /// What has come, each with its id; empty where nothing has.
    pub(crate) fn take(&mut self) -> Vec<(String, BusEvent)> {
        // Before the look, so that what comes after it is waited for.
        self.latest.mark_unchanged();
        let course = self.bus.course();
        let id = |number: u64| format!("{}.{number}", self.bus.0.run);
        let after = self.after.filter(|after| course.reaches(*after));
        self.after = Some(course.number);
        let Some(after) = after else {
            let seen = course.entries.iter();
            let seen = seen.filter(|(_, entry)| entry.sight.allows(&self.head));
            let entries = seen.map(|(key, entry)| BusEntry {
                key: key.clone(),
                state: self.own(entry.state.clone()),
            });
            let snapshot = BusEvent::Snapshot {
                entries: entries.collect(),
            };
            return vec![(id(course.number), snapshot)];
        };
        let news = course.changes.iter().filter(|one| one.number > after);
        let seen = news.filter(|change| change.sight.allows(&self.head));
        let events = seen.map(|change| {
            let key = change.key.clone();
            let event = match &change.state {
                None => BusEvent::Remove { key },
                Some(state) => BusEvent::Upsert {
                    entry: Box::new(BusEntry {
                        key,
                        state: self.own(state.clone()),
                    }),
                },
            };
            (id(change.number), event)
        });
        events.collect()
    }

    /// What differs from reader to reader.
    fn own(&self, mut state: BusState) -> BusState {
        if let BusState::Server(server) = &mut state {
            server.may_manage = self.head.has(store::Scope::Admin);
        }
        state
    }

    /// Waits for a change.
    pub(crate) async fn changed(&mut self) {
        // The sender is in the bus, which this holds.
        let _ = self.latest.changed().await;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.bus.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
