//! The driver of the prefix cache: contents in memory, files, and the threads that read and
//! write them. What is kept and what goes is decided by [`prefix::Cache`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant, SystemTime};

use engine::{PrefixStore, StoreReport};
use prefix::{
    Action, Budgets, Cache, Content, Event, Facts, Fingerprint, Folder, Id, Key, Listed, Needs,
    Stored,
};

use crate::parking::Codec;

/// Contents on their way to the disk: beyond so many bytes no more are taken until some are
/// written.
const PENDING_BYTES_MAX: u64 = 16 << 20;
/// What other processes have done to the folder is looked at so often, where this one writes.
const LIST_EVERY: Duration = Duration::from_secs(60);
/// The cache takes at most one part in so many of what is free for it on the disk.
const DISK_SHARE: u64 = 4;
/// Bytes a second that are taken to be fetched before anything was measured.
const FETCH_RATE_FIRST: f64 = 200e6;
/// Bytes a second at which contents are checked and copied into place, beyond fetching them.
const COPY_RATE: f64 = 1.5e9;
/// Of an entry that is not there.
const NOTHING: Facts = Facts {
    depth: 0,
    bytes: 0,
    cost_us: 0,
};
/// Weight of the newest measurement.
const EMA_WEIGHT: f64 = 0.5;
/// Fetches of less are not measured.
const MEASURED_BYTES_MIN: u64 = 1 << 20;

/// What is on its way to the disk and from it, in memory: contents that wait to be written, and
/// a part that is fetched, joined and handed over.
const TRANSIT_BYTES: u64 = 4 * PENDING_BYTES_MAX;

/// Most bytes of memory that keeping states of prompts takes.
#[must_use]
pub fn prompt_cache_bytes(spec: &proto::LoadSpec) -> u64 {
    let settings = spec.prefixes.as_deref();
    settings.map_or(0, |settings| {
        settings.ram_bytes.saturating_add(TRANSIT_BYTES)
    })
}

/// What the reading and writing threads are told. The first queue is of writes and what must
/// keep its place among them, the other one of reads, which nobody lets wait.
enum Task {
    Write(Id, Facts, Arc<Content>),
    Delete(Fingerprint, Id, Facts),
    Touch(Id, Facts),
    List,
}

struct Read {
    ticket: u64,
    ids: Vec<(Id, Facts)>,
    /// Of those that are in memory, as they are kept.
    found: HashMap<Id, Arc<Content>>,
}

/// A content that is to be kept in fewer bytes.
struct Park {
    stored: Stored,
    content: Vec<u8>,
}

enum News {
    /// A content as it is kept, and the bytes that it had.
    Parked(Stored, Content, u64),
    Written(Id, u64),
    NotWritten(Id, u64),
    Listed(Vec<Listed>, u64),
    Read {
        ticket: u64,
        result: Result<Vec<Arc<Content>>, Id>,
        fetched: Fetched,
    },
}

/// How much was fetched.
#[derive(Debug, Clone, Copy, Default)]
struct Fetched {
    from_disk: u64,
    /// As it was kept, and as the context takes it.
    kept: u64,
    ready: u64,
    took: Duration,
}

/// A cache with a folder, or with memory alone.
pub(crate) struct DiskStore {
    cache: Cache,
    contents: HashMap<Id, Arc<Content>>,
    tickets: HashMap<u64, Ticket>,
    tasks: Option<Tasks>,
    encodes: bool,
    /// On their way to the form in which they are kept.
    parking: HashSet<Id>,
    pending_bytes: u64,
    written_bytes: u64,
    read_bytes: u64,
    faulty: u64,
    /// Bytes as they are kept that are fetched in a second.
    fetch_rate: f64,
    /// How many times more bytes they have then.
    ratio: f64,
    listed_at: Instant,
}

struct Tasks {
    tasks: Sender<Task>,
    reads: Sender<Read>,
    parks: Sender<Park>,
    news: Receiver<News>,
}

/// A fetch in progress.
struct Ticket {
    ids: Vec<Id>,
    /// What was in memory when it was asked for.
    found: HashMap<Id, Arc<Content>>,
    result: Option<Option<Vec<Arc<Content>>>>,
}

impl DiskStore {
    /// Lists the folder and starts the threads. Where there is no folder, or it cannot be
    /// used, which the log then tells, states are kept in memory alone.
    pub(crate) fn open(
        settings: &proto::PrefixSettings,
        (fingerprint, needs): (Fingerprint, Needs),
        codec: Codec,
    ) -> Self {
        let folder = match &settings.folder {
            Some(path) if settings.disk_bytes > 0 => match Folder::open(path) {
                Ok(folder) => Some(Arc::new(folder)),
                Err(error) => {
                    tracing::warn!("{error}; prompts are kept in memory alone");
                    None
                }
            },
            _ => None,
        };
        let budgets = Budgets {
            ram_bytes: settings.ram_bytes,
            disk_bytes: folder
                .as_ref()
                .map_or(0, |folder| disk_bytes(folder, settings)),
            day_bytes: settings.day_bytes,
        };
        let (encodes, ratio) = (codec.encodes(), codec.ratio());
        let has_work = folder.is_some() || encodes;
        let keeper = Keeper {
            folder,
            fingerprint,
            day_bytes: settings.day_bytes,
            codec,
        };
        let tasks = has_work.then(|| start(&Arc::new(keeper)));
        let tasks = tasks.and_then(|started| {
            started
                .inspect_err(|error| tracing::warn!("prompts are kept in memory alone: {error}"))
                .ok()
        });
        let mut store = Self {
            encodes: encodes && tasks.is_some(),
            parking: HashSet::new(),
            cache: Cache::new(fingerprint, needs, budgets),
            contents: HashMap::new(),
            tickets: HashMap::new(),
            tasks,
            pending_bytes: 0,
            written_bytes: 0,
            read_bytes: 0,
            faulty: 0,
            fetch_rate: FETCH_RATE_FIRST / ratio,
            ratio,
            listed_at: Instant::now(),
        };
        // The listing is asked for by `start`; requests come after it.
        let first = store
            .tasks
            .as_ref()
            .and_then(|tasks| tasks.news.recv().ok());
        if let Some(news) = first {
            store.hear(news);
        }
        store
    }

    fn step(&mut self, event: Event) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        for action in self.cache.step(event, now.unwrap_or_default()) {
            match action {
                Action::Write(id) => self.write(id),
                Action::Touch(id, facts) => self.tell(Task::Touch(id, facts)),
                Action::Forget(id) => drop(self.contents.remove(&id)),
                Action::Delete(fingerprint, id, facts) => {
                    self.tell(Task::Delete(fingerprint, id, facts));
                }
            }
        }
    }

    fn write(&mut self, id: Id) {
        let known = self.cache.facts(id).zip(self.contents.get(&id).cloned());
        if let Some((facts, content)) = known {
            self.pending_bytes += facts.bytes;
            self.tell(Task::Write(id, facts, content));
        }
    }

    fn tell(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            // The threads end only after the sender is gone.
            let _ = tasks.tasks.send(task);
        }
    }

    /// Takes note of what the threads have done.
    fn look(&mut self) {
        while let Some(news) = self
            .tasks
            .as_ref()
            .and_then(|tasks| tasks.news.try_recv().ok())
        {
            self.hear(news);
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Parked(stored, content, bytes) => {
                self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
                self.parking.remove(&stored.id);
                self.learn_ratio(bytes, stored.facts.bytes);
                self.contents.insert(stored.id, Arc::new(content));
                self.step(Event::Stored(stored));
            }
            News::Written(id, bytes) => {
                self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
                self.written_bytes += bytes;
                self.step(Event::Written(id));
                if self.listed_at.elapsed() > LIST_EVERY {
                    self.listed_at = Instant::now();
                    self.tell(Task::List);
                }
            }
            News::NotWritten(id, bytes) => {
                self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
                self.step(Event::NotWritten(id));
            }
            News::Listed(entries, written_bytes) => {
                self.step(Event::Listed {
                    entries,
                    written_bytes,
                });
            }
            News::Read {
                ticket,
                result,
                fetched,
            } => self.take_read(ticket, result, fetched),
        }
    }

    fn learn_ratio(&mut self, ready: u64, kept: u64) {
        if self.encodes && kept > 0 {
            self.ratio += EMA_WEIGHT * (ready as f64 / kept as f64 - self.ratio);
        }
    }

    fn take_read(&mut self, ticket: u64, result: Result<Vec<Arc<Content>>, Id>, fetched: Fetched) {
        self.read_bytes += fetched.from_disk;
        if fetched.kept >= MEASURED_BYTES_MIN && !fetched.took.is_zero() {
            let rate = fetched.kept as f64 / fetched.took.as_secs_f64();
            self.fetch_rate += EMA_WEIGHT * (rate - self.fetch_rate);
            self.learn_ratio(fetched.ready, fetched.kept);
        }
        if let Err(lost) = result {
            self.faulty += 1;
            self.step(Event::Lost(lost));
        }
        let Some(waiting) = self.tickets.get_mut(&ticket) else {
            return;
        };
        let Ok(read) = result else {
            waiting.result = Some(None);
            return;
        };
        let mut read = read.into_iter();
        let found = &waiting.found;
        let contents = waiting.ids.iter();
        let contents = contents.map(|id| found.get(id).cloned().or_else(|| read.next()));
        waiting.result = Some(contents.collect());
    }
}

impl PrefixStore for DiskStore {
    fn fingerprint(&self) -> Fingerprint {
        self.cache.fingerprint()
    }

    fn longest(&self, keys: &[Key]) -> (usize, usize) {
        (self.cache.longest(keys), self.cache.known(keys))
    }

    fn facts(&self, id: Id) -> Option<Facts> {
        self.cache.facts(id)
    }

    fn has(&self, id: Id) -> bool {
        self.parking.contains(&id) || self.cache.facts(id).is_some()
    }

    fn has_room(&self) -> bool {
        self.pending_bytes < PENDING_BYTES_MAX
    }

    fn store(&mut self, stored: Stored, content: Vec<u8>) {
        self.look();
        if self.has(stored.id) {
            return;
        }
        if self.encodes
            && let Some(tasks) = &self.tasks
        {
            self.pending_bytes += content.len() as u64;
            self.parking.insert(stored.id);
            // The threads end only after the sender is gone.
            let _ = tasks.parks.send(Park { stored, content });
            return;
        }
        self.contents
            .insert(stored.id, Arc::new(Content::new(content)));
        self.step(Event::Stored(stored));
    }

    fn fetch(&mut self, ticket: u64, ids: Vec<Id>) {
        self.look();
        let mut found = HashMap::new();
        let mut lacking = Vec::new();
        for id in &ids {
            match (self.contents.get(id), self.cache.facts(*id)) {
                (Some(content), _) => drop(found.insert(*id, Arc::clone(content))),
                (None, Some(facts)) => lacking.push((*id, facts)),
                // A read of nothing that fails.
                (None, None) => lacking.push((*id, NOTHING)),
            }
        }
        for id in &ids {
            self.step(Event::Used(*id));
        }
        let mut parked = HashMap::new();
        if self.encodes {
            lacking = ids
                .iter()
                .map(|id| (*id, self.cache.facts(*id).unwrap_or(NOTHING)))
                .collect();
            parked = std::mem::take(&mut found);
        }
        let is_here = lacking.is_empty();
        let here = || ids.iter().map(|id| found.get(id).cloned()).collect();
        let result = is_here.then(here);
        let waiting = Ticket { result, found, ids };
        self.tickets.insert(ticket, waiting);
        if is_here {
            return;
        }
        let told = self.tasks.as_ref().map(|tasks| {
            tasks.reads.send(Read {
                ticket,
                ids: lacking,
                found: parked,
            })
        });
        if !matches!(told, Some(Ok(())))
            && let Some(waiting) = self.tickets.get_mut(&ticket)
        {
            waiting.result = Some(None);
        }
    }

    fn fetched(&mut self, ticket: u64) -> Option<Option<Vec<Arc<Content>>>> {
        self.look();
        let result = self.tickets.get_mut(&ticket)?.result.take()?;
        self.tickets.remove(&ticket);
        Some(result)
    }

    fn abandon(&mut self, ticket: u64) {
        self.tickets.remove(&ticket);
    }

    fn fetch_seconds(&self, bytes: u64) -> f64 {
        bytes as f64 / self.fetch_rate + self.fetched_bytes(bytes) as f64 / COPY_RATE
    }

    fn fetched_bytes(&self, bytes: u64) -> u64 {
        (bytes as f64 * self.ratio) as u64
    }

    fn wait(&mut self, at_most: Duration) {
        let news = self
            .tasks
            .as_ref()
            .map(|tasks| tasks.news.recv_timeout(at_most));
        if let Some(Ok(news)) = news {
            self.hear(news);
            self.look();
        }
    }

    fn shrink(&mut self) {
        self.step(Event::Pressure);
    }

    fn flush(&mut self, at_most: Duration) {
        let until = Instant::now() + at_most;
        self.look();
        while self.pending_bytes > 0 && Instant::now() < until {
            self.wait(until.saturating_duration_since(Instant::now()));
        }
    }

    fn report(&self) -> StoreReport {
        StoreReport {
            ram_bytes: self.cache.ram_bytes(),
            disk_bytes: self.cache.disk_bytes(),
            pending_bytes: self.pending_bytes,
            entries: self.cache.n_entries(),
            written_bytes: self.written_bytes,
            read_bytes: self.read_bytes,
            refused_bytes: self.cache.refused_bytes(),
            faulty: self.faulty,
        }
    }
}

/// What was asked for, and less where the disk is nearly full.
fn disk_bytes(folder: &Folder, settings: &proto::PrefixSettings) -> u64 {
    let Ok(about) = rustix::fs::statvfs(folder.root()) else {
        return settings.disk_bytes;
    };
    let listed = folder.list().unwrap_or_default();
    let held: u64 = listed.iter().map(|entry| entry.facts.bytes).sum();
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    let most = free.saturating_add(held) / DISK_SHARE;
    if most < settings.disk_bytes {
        let (most, wanted) = (stdx::Bytes(most), stdx::Bytes(settings.disk_bytes));
        tracing::info!(
            "the prompt cache takes {most} of the disk and not {wanted}: it is nearly full"
        );
    }
    most.min(settings.disk_bytes)
}

/// What the threads work with.
struct Keeper {
    /// `None`: in memory alone.
    folder: Option<Arc<Folder>>,
    fingerprint: Fingerprint,
    day_bytes: u64,
    codec: Codec,
}

/// Starts the threads; the first news is the listing. They end with the senders.
fn start(keeper: &Arc<Keeper>) -> std::io::Result<Tasks> {
    let (tasks, tasks_inbox) = channel();
    let (reads, reads_inbox) = channel::<Read>();
    let (parks, parks_inbox) = channel::<Park>();
    let (news, outbox) = channel();
    let named = |name: &str| std::thread::Builder::new().name(name.into());
    let (of_writer, to) = (Arc::clone(keeper), news.clone());
    named("prefixes-write").spawn(move || {
        let mut has_new_names = false;
        while let Some(task) = of_writer.next_task(&tasks_inbox, &mut has_new_names) {
            has_new_names |= matches!(task, Task::Write(..));
            if let Some(done) = of_writer.carry_out(task)
                && to.send(done).is_err()
            {
                return;
            }
        }
    })?;
    let (of_reader, to) = (Arc::clone(keeper), news.clone());
    named("prefixes-read").spawn(move || {
        for read in reads_inbox {
            if to.send(of_reader.read(read)).is_err() {
                return;
            }
        }
    })?;
    let of_parker = Arc::clone(keeper);
    named("prefixes-park").spawn(move || {
        for park in parks_inbox {
            if news.send(of_parker.park(park)).is_err() {
                return;
            }
        }
    })?;
    // The receiver is there.
    let _ = tasks.send(Task::List);
    Ok(Tasks {
        tasks,
        reads,
        parks,
        news: outbox,
    })
}

impl Keeper {
    /// The next task. Before it waits for one, names that were written are made to last.
    fn next_task(&self, inbox: &Receiver<Task>, has_new_names: &mut bool) -> Option<Task> {
        match inbox.try_recv() {
            Ok(task) => return Some(task),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        if std::mem::take(has_new_names)
            && let Some(folder) = &self.folder
            && let Err(error) = folder.sync_names(&self.fingerprint)
        {
            tracing::warn!("names in the prompt cache may not survive a power cut: {error}");
        }
        inbox.recv().ok()
    }

    fn carry_out(&self, task: Task) -> Option<News> {
        let (fingerprint, day_bytes) = (&self.fingerprint, self.day_bytes);
        let Some(folder) = &self.folder else {
            // Without one nothing but a listing is asked for.
            return matches!(task, Task::List).then(|| News::Listed(Vec::new(), 0));
        };
        match task {
            Task::Write(id, facts, content) => {
                let written = folder
                    .write(fingerprint, (id, &facts), &content)
                    .and_then(|()| folder.wear(facts.bytes, day_bytes));
                Some(match written {
                    Ok(_) => News::Written(id, facts.bytes),
                    Err(error) => {
                        tracing::warn!("a state could not be written to the prompt cache: {error}");
                        News::NotWritten(id, facts.bytes)
                    }
                })
            }
            Task::Delete(of, id, facts) => {
                if let Err(error) = folder.delete(&of, id, &facts) {
                    tracing::warn!("an entry of the prompt cache could not be deleted: {error}");
                }
                None
            }
            Task::Touch(id, facts) => {
                // It only sorts what goes first.
                let _ = folder.touch(fingerprint, id, &facts);
                None
            }
            Task::List => {
                let listed = folder.list().unwrap_or_else(|error| {
                    tracing::warn!("the prompt cache could not be listed: {error}");
                    Vec::new()
                });
                let wear = folder.wear(0, day_bytes).unwrap_or_default();
                Some(News::Listed(listed, wear.bytes as u64))
            }
        }
    }

    fn park(&self, park: Park) -> News {
        let Park {
            mut stored,
            content,
        } = park;
        let bytes = content.len() as u64;
        let kept = self.codec.encode(stored.id, stored.facts.depth, content);
        stored.facts.bytes = kept.len() as u64;
        News::Parked(stored, Content::new(kept), bytes)
    }

    fn read(&self, read: Read) -> News {
        let started = Instant::now();
        let mut fetched = Fetched::default();
        let mut contents = Vec::with_capacity(read.ids.len());
        let mut result = Ok(());
        for (id, facts) in &read.ids {
            match self.read_one((*id, facts), read.found.get(id), &mut fetched) {
                Ok(content) => contents.push(content),
                Err(reason) => {
                    tracing::warn!(
                        "an entry of the prompt cache ({}) is left out, and the prompt computed: \
                         {reason}",
                        id.key
                    );
                    result = Err(*id);
                    break;
                }
            }
        }
        fetched.took = started.elapsed();
        News::Read {
            ticket: read.ticket,
            result: result.map(|()| contents),
            fetched,
        }
    }

    /// An entry as the context takes it, or why it is not to be had.
    fn read_one(
        &self,
        (id, facts): (Id, &Facts),
        found: Option<&Arc<Content>>,
        fetched: &mut Fetched,
    ) -> Result<Arc<Content>, String> {
        let kept = match (found, &self.folder) {
            (Some(found), _) => Arc::clone(found),
            (None, Some(folder)) => {
                let file = folder.read(&self.fingerprint, id, facts);
                fetched.from_disk += facts.bytes;
                Arc::new(Content::of_file(file.map_err(|lost| lost.to_string())?))
            }
            (None, None) => return Err("it is gone".into()),
        };
        fetched.kept += kept.len() as u64;
        let content = match self.codec.decode(id.plane, &kept) {
            None => kept,
            Some(Ok(content)) => Arc::new(Content::new(content)),
            Some(Err(error)) => {
                if let Some(folder) = &self.folder {
                    // If it cannot be deleted it is listed and found faulty again, no more.
                    let _ = folder.delete(&self.fingerprint, id, facts);
                }
                return Err(error.to_string());
            }
        };
        fetched.ready += content.len() as u64;
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use prefix::{BLOCK_TOKENS, Plane, chain};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn settings(folder: &std::path::Path) -> proto::PrefixSettings {
        proto::PrefixSettings {
            folder: Some(folder.to_owned()),
            ram_bytes: 0,
            disk_bytes: 1 << 20,
            day_bytes: 1 << 20,
            codec: None,
        }
    }

    fn open(settings: &proto::PrefixSettings) -> DiskStore {
        let needs = Needs {
            rows: true,
            ..Needs::default()
        };
        let fingerprint = Fingerprint::of([("model", &b"m"[..])]);
        let codec = Codec::new(settings.codec.as_deref(), None).unwrap();
        DiskStore::open(settings, (fingerprint, needs), codec)
    }

    fn keys(store: &DiskStore) -> Vec<Key> {
        let tokens: Vec<i32> = (0..).take(4 * BLOCK_TOKENS).collect();
        chain(&store.fingerprint(), &tokens)
    }

    fn ids(keys: &[Key]) -> Vec<Id> {
        let plane = Plane::Rows;
        keys.iter().map(|key| Id { key: *key, plane }).collect()
    }

    fn fill(store: &mut DiskStore) {
        for (depth, id) in (0..).zip(ids(&keys(store))) {
            let content = vec![u8::try_from(depth).unwrap(); 1000];
            let facts = Facts {
                depth,
                bytes: 1000,
                cost_us: 5,
            };
            store.store(Stored { id, facts }, content);
        }
    }

    fn fetch(store: &mut DiskStore, ticket: u64, ids: Vec<Id>) -> Option<Vec<Vec<u8>>> {
        store.fetch(ticket, ids);
        loop {
            if let Some(fetched) = store.fetched(ticket) {
                let contents = fetched?;
                return Some(contents.iter().map(|content| content.to_vec()).collect());
            }
            store.wait(LONG);
        }
    }

    #[test]
    fn what_was_stored_is_there_for_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let mut first = open(&settings);
        fill(&mut first);
        first.flush(LONG);
        let report = first.report();
        assert_eq!((report.pending_bytes, report.ram_bytes), (0, 0));
        assert_eq!((report.disk_bytes, report.written_bytes), (4000, 4000));
        drop(first);
        let mut second = open(&settings);
        let keys = keys(&second);
        assert_eq!(second.longest(&keys), (4, 4));
        let contents = fetch(&mut second, 1, ids(&keys)).unwrap();
        assert_eq!(contents[3], [3; 1000]);
        assert_eq!(second.report().read_bytes, 4000);
    }

    #[test]
    fn a_faulty_file_ends_the_fetch_and_is_not_asked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let mut store = open(&settings);
        fill(&mut store);
        store.flush(LONG);
        let of_model = folder.path().join(store.fingerprint().to_string());
        let keys = keys(&store);
        let name = format!("{}.r.2.5", keys[2]);
        std::fs::write(of_model.join(name), b"not a state").unwrap();
        assert_eq!(fetch(&mut store, 1, ids(&keys)), None);
        assert_eq!((store.longest(&keys), store.report().faulty), ((2, 2), 1));
        assert!(fetch(&mut store, 1, ids(&keys[..2])).is_some());
    }

    #[test]
    fn without_a_folder_it_is_kept_in_memory_and_goes_when_memory_is_short() {
        let settings = proto::PrefixSettings {
            ram_bytes: 1 << 20,
            ..proto::PrefixSettings::default()
        };
        let mut store = open(&settings);
        fill(&mut store);
        let keys = keys(&store);
        assert!(fetch(&mut store, 1, ids(&keys)).is_some());
        store.shrink();
        assert_eq!(
            (store.longest(&keys), store.report().ram_bytes),
            ((0, 0), 0)
        );
    }

    /// On disk and in memory, and read again without the setting.
    #[test]
    fn what_is_kept_in_fewer_bytes_comes_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let plain = settings(folder.path());
        let smaller = proto::PrefixSettings {
            codec: Some("lossless".into()),
            ..plain.clone()
        };
        let mut first = open(&smaller);
        fill(&mut first);
        let keys = keys(&first);
        assert!(ids(&keys).iter().all(|id| first.has(*id)));
        first.flush(LONG);
        let report = first.report();
        assert_eq!((report.pending_bytes, report.ram_bytes), (0, 0));
        assert!((1..3000).contains(&report.disk_bytes), "{report:?}");
        drop(first);
        for settings in [&smaller, &plain] {
            let mut again = open(settings);
            let contents = fetch(&mut again, 1, ids(&keys)).unwrap();
            assert_eq!(
                (&contents[0][..], &contents[3][..]),
                (&[0; 1000][..], &[3; 1000][..])
            );
        }
        let in_memory = proto::PrefixSettings {
            ram_bytes: 1 << 20,
            codec: smaller.codec,
            ..proto::PrefixSettings::default()
        };
        let mut store = open(&in_memory);
        fill(&mut store);
        store.flush(LONG);
        assert!((1..3000).contains(&store.report().ram_bytes));
        let contents = fetch(&mut store, 1, ids(&keys)).unwrap();
        assert_eq!(contents[2], [2; 1000]);
    }

    #[test]
    fn no_more_is_written_in_a_day_than_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let settings = proto::PrefixSettings {
            day_bytes: 2500,
            ..settings(folder.path())
        };
        let mut first = open(&settings);
        fill(&mut first);
        first.flush(LONG);
        let report = first.report();
        assert_eq!((report.written_bytes, report.refused_bytes), (2000, 2000));
        drop(first);
        // Another process counts what this one has written.
        let mut second = open(&settings);
        let others = chain(&second.fingerprint(), &[9; BLOCK_TOKENS]);
        let facts = Facts {
            depth: 0,
            bytes: 1000,
            cost_us: 5,
        };
        let id = ids(&others)[0];
        second.store(Stored { id, facts }, vec![1; 1000]);
        assert_eq!(second.report().refused_bytes, 1000);
    }
}
