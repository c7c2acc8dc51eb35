//! Which entries there are, and what goes when room is short. No clock, thread or file.
//!
//! An entry is in memory, on disk, or both. What is given up first is what saves the
//! fewest seconds of prefill for a byte: the seconds that it took to compute, by its
//! bytes, times how often it was used, by how long ago that was (hyperbolic caching,
//! Blankstein, Sen and Freedman, USENIX ATC 2017). Of equals the later block of a prompt
//! goes first, because without the earlier ones it is of no use.

use std::collections::HashMap;
use std::time::Duration;

use crate::{Fingerprint, Id, Key, Plane};

/// An entry that was used just now is worth as much as one that has been used within this
/// span: below it the order of requests says nothing.
const RECENT: Duration = Duration::from_secs(600);
/// A file's time of use is renewed when it is older than this: finer differences decide
/// little, and each renewal is a write.
const TOUCH_AFTER: Duration = Duration::from_secs(3600);
/// When room is made, so much of a budget is left free, so that not every entry that
/// comes makes another go.
const SLACK: u64 = 32;
/// Wear is counted over this span.
const DAY: Duration = Duration::from_secs(86_400);

/// How much may be kept, and how much may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    pub ram_bytes: u64,
    pub disk_bytes: u64,
    /// Bytes that may be written to disk in a day.
    pub day_bytes: u64,
}

/// What a state of the model is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// It has keys and values of every token.
    pub rows: bool,
    /// Blocks before a place whose windowed keys and values are needed there.
    pub window_blocks: usize,
    /// It has a recurrent state.
    pub state: bool,
}

impl Needs {
    /// Any place can be gone on from, and not only chosen ones.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.window_blocks == 0 && !self.state
    }
}

/// What is known of an entry besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its place in its prompt, in blocks from 0.
    pub depth: u32,
    pub bytes: u64,
    /// Microseconds of prefill that it took, and saves.
    pub cost_us: u32,
}

/// A new entry, in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub id: Id,
    pub facts: Facts,
}

/// An entry that was found on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    pub fingerprint: Fingerprint,
    pub id: Id,
    pub facts: Facts,
    /// How long ago it was last used.
    pub age: Duration,
}

/// What happens to the cache.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The engine has computed an entry and gives its content.
    Stored(Stored),
    /// An entry was restored.
    Used(Id),
    /// An entry's file is written.
    Written(Id),
    /// It could not be written.
    NotWritten(Id),
    /// An entry's file is gone or not to be read.
    Lost(Id),
    /// All files of all models, as they are now, and the bytes written within a day.
    Listed {
        entries: Vec<Listed>,
        written_bytes: u64,
    },
    /// Memory is short: what is held there goes.
    Pressure,
}

/// What the driver has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write an entry, whose content is in memory until it is written.
    Write(Id),
    /// Drop the content from memory.
    Forget(Id),
    /// Renew the time of the last use of a file.
    Touch(Id, Facts),
    /// Delete the file.
    Delete(Fingerprint, Id, Facts),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    facts: Facts,
    uses: u32,
    used_at: Duration,
    in_memory: bool,
    disk: OnDisk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDisk {
    No,
    Coming,
    Yes,
}

/// The entries of one model, and of the others on the same disk as far as their room goes.
#[derive(Debug)]
pub struct Cache {
    fingerprint: Fingerprint,
    needs: Needs,
    budgets: Budgets,
    entries: HashMap<Id, Entry>,
    /// Of other models; their age is that of the listing.
    others: HashMap<(Fingerprint, Id), (Facts, Duration)>,
    ram_bytes: u64,
    disk_bytes: u64,
    /// Bytes written, and when that count began to fall.
    written: f64,
    written_at: Duration,
    refused_bytes: u64,
}

impl Cache {
    #[must_use]
    pub fn new(fingerprint: Fingerprint, needs: Needs, budgets: Budgets) -> Self {
        Self {
            fingerprint,
            needs,
            budgets,
            entries: HashMap::new(),
            others: HashMap::new(),
            ram_bytes: 0,
            disk_bytes: 0,
            written: 0.0,
            written_at: Duration::ZERO,
            refused_bytes: 0,
        }
    }

    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Bytes of contents in memory, those on their way to the disk among them.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    /// Bytes on disk, of all models.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    #[must_use]
    pub fn n_entries(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that were not written because of the limit for a day.
    #[must_use]
    pub fn refused_bytes(&self) -> u64 {
        self.refused_bytes
    }

    /// What is known of an entry, if it can be had.
    #[must_use]
    pub fn facts(&self, id: Id) -> Option<Facts> {
        let entry = self.entries.get(&id)?;
        (entry.in_memory || entry.disk == OnDisk::Yes).then_some(entry.facts)
    }

    #[must_use]
    pub fn is_on_disk(&self, id: Id) -> bool {
        let entry = self.entries.get(&id);
        entry.is_some_and(|entry| entry.disk == OnDisk::Yes)
    }

    /// Of how many of the blocks the rows are there without a gap.
    #[must_use]
    pub fn known(&self, keys: &[Key]) -> usize {
        if !self.needs.rows {
            return 0;
        }
        let has = |key: &&Key| {
            let (key, plane) = (**key, Plane::Rows);
            self.facts(Id { key, plane }).is_some()
        };
        keys.iter().take_while(has).count()
    }

    /// How many of the blocks are there to the last one, with all that it takes to go on
    /// from there.
    #[must_use]
    pub fn longest(&self, keys: &[Key]) -> usize {
        let has = |at: usize, plane| {
            let key = keys[at];
            self.facts(Id { key, plane }).is_some()
        };
        let rows = match self.needs.rows {
            true => self.known(keys),
            false => keys.len(),
        };
        let window = self.needs.window_blocks;
        let can_go_on = |blocks: &usize| {
            let first = blocks.saturating_sub(window);
            let window_is_there = (first..*blocks).all(|at| has(at, Plane::Window));
            let state_is_there = !self.needs.state || has(blocks - 1, Plane::State);
            (window == 0 || window_is_there) && state_is_there
        };
        (1..=rows).rev().find(can_go_on).unwrap_or(0)
    }

    /// Takes note of an event; the actions are to be done in their order. `now` counts from
    /// a moment before any use of any file, such as the start of 1970.
    #[must_use]
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Stored(stored) => self.store(stored, now, &mut actions),
            Event::Used(id) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    let is_old = now.saturating_sub(entry.used_at) > TOUCH_AFTER;
                    if is_old && entry.disk == OnDisk::Yes {
                        actions.push(Action::Touch(id, entry.facts));
                    }
                    entry.uses = entry.uses.saturating_add(1);
                    entry.used_at = now;
                }
            }
            Event::Written(id) => self.written(id),
            Event::NotWritten(id) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.disk = OnDisk::No;
                }
            }
            Event::Lost(id) => self.lose(id),
            Event::Listed {
                entries,
                written_bytes,
            } => self.list(entries, written_bytes, now),
            Event::Pressure => self.budgets.ram_bytes = 0,
        }
        self.make_room(now, &mut actions);
        self.entries
            .retain(|_, entry| entry.in_memory || entry.disk != OnDisk::No);
        actions
    }

    fn store(&mut self, stored: Stored, now: Duration, actions: &mut Vec<Action>) {
        let Stored { id, facts } = stored;
        if self.facts(id).is_some() {
            return;
        }
        let writes = self.may_write(facts.bytes, now);
        self.ram_bytes += facts.bytes;
        let entry = Entry {
            facts,
            uses: 1,
            used_at: now,
            in_memory: true,
            disk: if writes { OnDisk::Coming } else { OnDisk::No },
        };
        self.entries.insert(id, entry);
        if writes {
            self.written += facts.bytes as f64;
            actions.push(Action::Write(id));
        }
    }

    /// A bucket that a day fills and that every write empties: what was written counts less
    /// and less over the day after it.
    fn may_write(&mut self, bytes: u64, now: Duration) -> bool {
        if self.budgets.disk_bytes < bytes {
            return false;
        }
        self.forget_old_writes(now);
        let may = self.written + bytes as f64 <= self.budgets.day_bytes as f64;
        if !may {
            self.refused_bytes += bytes;
        }
        may
    }

    fn forget_old_writes(&mut self, now: Duration) {
        let since = now.saturating_sub(self.written_at).as_secs_f64();
        let forgotten = self.budgets.day_bytes as f64 * since / DAY.as_secs_f64();
        self.written = (self.written - forgotten).max(0.0);
        self.written_at = now;
    }

    fn written(&mut self, id: Id) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.disk != OnDisk::Yes
        {
            entry.disk = OnDisk::Yes;
            self.disk_bytes += entry.facts.bytes;
        }
    }

    /// The file is of no use. What is in memory still is.
    fn lose(&mut self, id: Id) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.disk == OnDisk::Yes
        {
            entry.disk = OnDisk::No;
            self.disk_bytes = self.disk_bytes.saturating_sub(entry.facts.bytes);
        }
    }

    fn list(&mut self, listed: Vec<Listed>, written_bytes: u64, now: Duration) {
        for entry in self.entries.values_mut() {
            if entry.disk == OnDisk::Yes {
                entry.disk = OnDisk::No;
            }
        }
        self.others.clear();
        self.disk_bytes = 0;
        for Listed {
            fingerprint,
            id,
            facts,
            age,
        } in listed
        {
            self.disk_bytes += facts.bytes;
            let used_at = now.saturating_sub(age);
            if fingerprint != self.fingerprint {
                self.others.insert((fingerprint, id), (facts, used_at));
                continue;
            }
            let found = Entry {
                facts,
                uses: 1,
                used_at,
                in_memory: false,
                disk: OnDisk::Yes,
            };
            let entry = self.entries.entry(id).or_insert(found);
            entry.disk = OnDisk::Yes;
        }
        self.forget_old_writes(now);
        self.written = self.written.max(written_bytes as f64);
    }

    fn make_room(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.ram_bytes > self.budgets.ram_bytes {
            let goal = self.budgets.ram_bytes - self.budgets.ram_bytes / SLACK;
            // Contents on their way to the disk stay until they are there.
            let can_go = |entry: &Entry| entry.in_memory && entry.disk != OnDisk::Coming;
            for id in self.cheapest(now, can_go) {
                if self.ram_bytes <= goal {
                    break;
                }
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.in_memory = false;
                    self.ram_bytes -= entry.facts.bytes;
                    actions.push(Action::Forget(id));
                }
            }
        }
        if self.disk_bytes > self.budgets.disk_bytes {
            self.make_room_on_disk(now, actions);
        }
    }

    /// Entries by what they are worth, the least first.
    fn cheapest(&self, now: Duration, can_go: impl Fn(&Entry) -> bool) -> Vec<Id> {
        let mut worth: Vec<(f64, u32, Id)> = self
            .entries
            .iter()
            .filter(|(_, entry)| can_go(entry))
            .map(|(id, entry)| {
                let value = value(entry.facts, entry.uses, now.saturating_sub(entry.used_at));
                (value, entry.facts.depth, *id)
            })
            .collect();
        worth.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
        worth.into_iter().map(|(_, _, id)| id).collect()
    }

    fn make_room_on_disk(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let goal = self.budgets.disk_bytes - self.budgets.disk_bytes / SLACK;
        let ours = self.entries.iter();
        let ours = ours.filter(|(_, entry)| entry.disk == OnDisk::Yes);
        let ours = ours.map(|(id, entry)| {
            let value = value(entry.facts, entry.uses, now.saturating_sub(entry.used_at));
            (value, entry.facts, (self.fingerprint, *id))
        });
        let others = self.others.iter().map(|(of, (facts, used_at))| {
            let value = value(*facts, 1, now.saturating_sub(*used_at));
            (value, *facts, *of)
        });
        let mut worth: Vec<_> = ours.chain(others).collect();
        worth.sort_by(|a, b| {
            let depth = b.1.depth.cmp(&a.1.depth);
            a.0.total_cmp(&b.0).then(depth).then(a.2.cmp(&b.2))
        });
        for (_, facts, (fingerprint, id)) in worth {
            if self.disk_bytes <= goal {
                break;
            }
            self.disk_bytes = self.disk_bytes.saturating_sub(facts.bytes);
            self.others.remove(&(fingerprint, id));
            if fingerprint == self.fingerprint
                && let Some(entry) = self.entries.get_mut(&id)
            {
                entry.disk = OnDisk::No;
            }
            actions.push(Action::Delete(fingerprint, id, facts));
        }
    }
}

fn value(facts: Facts, uses: u32, age: Duration) -> f64 {
    let density = f64::from(facts.cost_us) / facts.bytes.max(1) as f64;
    density * f64::from(uses) / (age + RECENT).as_secs_f64()
}

#[cfg(test)]
#[path = "core/tests.rs"]
mod tests;
