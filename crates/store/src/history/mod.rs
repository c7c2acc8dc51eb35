//! What the endpoint's figures were: samples every ten seconds, thinned out by age, and marks of
//! what happened.
//!
//! It lies in a file of its own, `telemetry.db`: nothing that matters is lost with it, so what is
//! wrong with it never keeps the endpoint from working. Samples and marks gather in memory
//! ([`History::record`], [`History::mark`]) and are written together ([`History::flush`]), which
//! is a few pages for some minutes. A file that cannot be written is tried again with the next flush, and
//! what waits is bounded; a damaged one is put aside and a new one begun. Each trouble is logged
//! once. Reading gives what is in the file and what waits.

mod codec;
mod error;
mod figure;
mod file;
mod read;
mod sample;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use error::HistoryError;
pub use figure::{Figure, Shown};
pub use file::HISTORY_BYTES_MAX;
pub use sample::{
    CORES_SHOWN_MAX, Cores, PROCESS_NAME_BYTES_MAX, PROCESSES_MAX, Sample, Spread, WAIT_STEPS,
    Waits,
};

use file::{File, Limits};
use read::{Bins, Plan};

/// The name of the file in the data directory.
pub const HISTORY_FILE_NAME: &str = "telemetry.db";
/// Seconds of a sample.
pub const STEP_S: u64 = 10;
/// Samples that wait to be written: an hour of them. Then the oldest go.
pub const PENDING_MAX: usize = 360;
/// Marks that wait to be written; then the oldest go.
pub const MARKS_PENDING_MAX: usize = 256;
/// Notes that are kept.
pub const NOTES_MAX: u32 = 1000;
/// Marks of one answer: the latest.
pub const MARKS_READ_MAX: usize = 1000;
/// Bytes of a mark's text; the rest is cut.
pub const MARK_TEXT_BYTES_MAX: usize = 1024;
/// Days of the longest history.
pub const HISTORY_DAYS_MAX: u32 = 90;
/// Damaged files that are put aside while the program runs; after that the disk is at fault.
const PUT_ASIDE_MAX: u32 = 3;
/// No clock that has been set is before this: 2024-01-01.
pub const CLOCK_SET_S: u64 = 1_704_067_200;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    /// The endpoint was started.
    Start,
    /// It was ended.
    Stop,
    /// A model came into memory.
    Load,
    /// It left.
    Unload,
    /// Its engine died.
    Crash,
    /// It could not be loaded.
    Failed,
    /// A setting is another.
    Setting,
    /// Measured settings are in force.
    Tuned,
    /// The clock was set.
    Clock,
    /// Somebody's own words.
    Note,
    /// Of a newer program.
    Other,
}

impl MarkKind {
    pub const ALL: [Self; 11] = [
        Self::Start,
        Self::Stop,
        Self::Load,
        Self::Unload,
        Self::Crash,
        Self::Failed,
        Self::Setting,
        Self::Tuned,
        Self::Clock,
        Self::Note,
        Self::Other,
    ];

    /// One lower-case word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Load => "load",
            Self::Unload => "unload",
            Self::Crash => "crash",
            Self::Failed => "failed",
            Self::Setting => "setting",
            Self::Tuned => "tuned",
            Self::Clock => "clock",
            Self::Note => "note",
            Self::Other => "other",
        }
    }

    fn of_word(word: &str) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.word() == word).unwrap_or(Self::Other)
    }
}

/// Something that happened at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// `None` until it is in the file.
    pub id: Option<i64>,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub kind: MarkKind,
    pub model: Option<String>,
    /// What there is to say beyond the kind; may be empty.
    pub text: String,
}

impl Mark {
    /// With the text cut to its limit.
    #[must_use]
    pub fn new(at_ms: u64, kind: MarkKind, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(MARK_TEXT_BYTES_MAX));
        Self {
            id: None,
            at_ms,
            kind,
            model: None,
            text,
        }
    }

    #[must_use]
    pub fn of_model(self, model: &str) -> Self {
        Self {
            model: Some(model.to_owned()),
            ..self
        }
    }
}

/// A stretch of the history, and the most points that it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryAsk {
    /// Seconds since 1970.
    pub from_s: u64,
    /// Not among them.
    pub to_s: u64,
    /// At least 2.
    pub points: u32,
}

/// A stretch of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    /// Seconds of each point.
    pub step_s: u64,
    /// Those times of which something is known, the oldest first; the others are gaps.
    pub points: Vec<Sample>,
    /// The oldest first, at most [`MARKS_READ_MAX`].
    pub marks: Vec<Mark>,
    /// Why there may be less than was recorded.
    pub trouble: Option<HistoryError>,
}

/// The history of an endpoint; cheap to clone.
#[derive(Debug, Clone)]
pub struct History(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    days: u32,
    pending: Mutex<Pending>,
    /// Taken before [`Self::pending`].
    file: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Pending {
    samples: VecDeque<Sample>,
    marks: VecDeque<Mark>,
}

#[derive(Debug, Default)]
struct Slot {
    file: Option<File>,
    /// It is not tried again.
    refused: Option<HistoryError>,
    n_put_aside: u32,
    /// A trouble was logged, and nothing went well since.
    told: bool,
}

impl History {
    /// The history in a data directory, which goes back so many days. No file is opened yet.
    #[must_use]
    pub fn new(data_dir: &Path, days: u32) -> Self {
        Self(Arc::new(Inner {
            path: data_dir.join(HISTORY_FILE_NAME),
            days: days.clamp(1, HISTORY_DAYS_MAX),
            pending: Mutex::default(),
            file: Mutex::default(),
        }))
    }

    /// How far it goes back, in days.
    #[must_use]
    pub fn days(&self) -> u32 {
        self.0.days
    }

    /// Takes a sample in. It waits in memory for the next [`Self::flush`].
    pub fn record(&self, sample: Sample) {
        let mut pending = self.pending();
        pending.samples.push_back(sample);
        pending.bound();
    }

    /// Takes a mark in, as [`Self::record`] does.
    pub fn mark(&self, mark: Mark) {
        let mut pending = self.pending();
        pending.marks.push_back(mark);
        pending.bound();
    }

    /// Marks the start of the endpoint, and that it was not ended where it was not. Blocks.
    pub fn begin(&self, at_ms: u64, version: &str) {
        let mut slot = self.slot();
        let last = self.with_file(&mut slot, |file| file.last_run());
        let text = match last {
            Ok((Some(MarkKind::Start), Some(last_s))) => format!(
                "version {version}; the run before was cut off, its last figures are of {}",
                stdx::rfc3339(last_s)
            ),
            Ok((Some(MarkKind::Start), None)) => {
                format!("version {version}; the run before was cut off")
            }
            _ => format!("version {version}"),
        };
        drop(slot);
        self.mark(Mark::new(at_ms, MarkKind::Start, text));
    }

    /// Writes what waits, and deletes what is too old. `is_steady`: the clock has not been set
    /// for a while, so it may say what is old. Blocks.
    pub fn flush(&self, now_s: u64, is_steady: bool) {
        let mut slot = self.slot();
        let taken = std::mem::take(&mut *self.pending());
        let (samples, marks): (Vec<_>, Vec<_>) = (taken.samples.into(), taken.marks.into());
        let limits = Limits {
            days: self.0.days,
            is_steady,
        };
        let outcome = self.with_file(&mut slot, |file| {
            if !samples.is_empty() || !marks.is_empty() {
                file.write(&samples, &marks)?;
            }
            Ok(())
        });
        if outcome.is_err() {
            let mut pending = self.pending();
            for sample in samples.into_iter().rev() {
                pending.samples.push_front(sample);
            }
            for mark in marks.into_iter().rev() {
                pending.marks.push_front(mark);
            }
            pending.bound();
            return;
        }
        // What fails here is logged, and tried at the next look.
        let _ = self.with_file(&mut slot, |file| file.prune(now_s, limits));
    }

    /// Reads a stretch of it. Blocks, some milliseconds.
    #[must_use]
    pub fn read(&self, ask: &HistoryAsk, now_s: u64) -> HistoryPage {
        let plan = Plan::new(ask, now_s, self.0.days);
        let span = plan.span(ask);
        let mut slot = self.slot();
        let read = self.with_file(&mut slot, |file| {
            let mut bins = Bins::new(plan.bin_s);
            file.rows(&plan.tier, span, |sample| bins.add(&sample))?;
            let ms = (span.0.saturating_mul(1000), span.1.saturating_mul(1000));
            Ok((bins, file.marks(ms, MARKS_READ_MAX)?))
        });
        let (mut bins, mut marks, trouble) = match read {
            Ok((bins, marks)) => (bins, marks, None),
            Err(error) => (Bins::new(plan.bin_s), Vec::new(), Some(error)),
        };
        let pending = self.pending();
        let is_asked = |at_s: u64| (span.0..span.1).contains(&at_s);
        let samples = pending.samples.iter();
        samples
            .filter(|sample| is_asked(sample.at_s))
            .for_each(|sample| bins.add(sample));
        let waiting = pending.marks.iter();
        marks.extend(waiting.filter(|mark| is_asked(mark.at_ms / 1000)).cloned());
        drop(pending);
        marks.sort_by_key(|mark| mark.at_ms);
        HistoryPage {
            step_s: plan.bin_s,
            points: bins.into_points(),
            marks,
            trouble,
        }
    }

    /// Keeps a note, which is in the file when this returns. Blocks.
    ///
    /// # Errors
    /// There are too many, or the file cannot be written.
    pub fn add_note(&self, at_ms: u64, text: &str) -> Result<Mark, HistoryError> {
        let mut note = Mark::new(at_ms, MarkKind::Note, text);
        let mut slot = self.slot();
        let id = self.with_file(&mut slot, |file| file.add_note(&note))?;
        note.id = Some(id);
        Ok(note)
    }

    /// Forgets a note; `false` where there is none of that id. Blocks.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remove_note(&self, id: i64) -> Result<bool, HistoryError> {
        let mut slot = self.slot();
        self.with_file(&mut slot, |file| file.remove_note(id))
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        let pending = self.0.pending.lock();
        pending.unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the file, which is opened where it is not. With a damaged one it is
    /// tried twice: the second time with a new one.
    fn with_file<T>(
        &self,
        slot: &mut Slot,
        work: impl Fn(&mut File) -> Result<T, HistoryError>,
    ) -> Result<T, HistoryError> {
        let mut outcome = self.try_with_file(slot, &work);
        if let Err(HistoryError::Corrupt { .. }) = &outcome
            && slot.put_aside(&self.0.path)
        {
            outcome = self.try_with_file(slot, &work);
        }
        match &outcome {
            Ok(_) => slot.told = false,
            // It is the asker's, and the file is well.
            Err(HistoryError::TooManyNotes { .. }) => {}
            Err(error) => slot.failed(error),
        }
        outcome
    }

    fn try_with_file<T>(
        &self,
        slot: &mut Slot,
        work: &impl Fn(&mut File) -> Result<T, HistoryError>,
    ) -> Result<T, HistoryError> {
        if let Some(refused) = &slot.refused {
            return Err(refused.clone());
        }
        let file = match &mut slot.file {
            Some(file) => file,
            none => none.insert(File::open(&self.0.path)?),
        };
        work(file)
    }
}

impl Slot {
    fn failed(&mut self, error: &HistoryError) {
        match error {
            HistoryError::Locked { .. } => {}
            HistoryError::Newer { .. } | HistoryError::Corrupt { .. } => {
                self.refused = Some(error.clone());
                self.file = None;
            }
            _ => self.file = None,
        }
        // Once, not every minute while the disk is full.
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(%error, "the history is not written; the endpoint goes on without it");
        }
    }

    /// `false`: that did not work, or was done too often.
    fn put_aside(&mut self, path: &Path) -> bool {
        self.file = None;
        if self.n_put_aside >= PUT_ASIDE_MAX {
            return false;
        }
        self.n_put_aside += 1;
        match file::put_aside(path) {
            Ok(aside) => {
                let aside = aside.display();
                tracing::warn!(%aside, "the history was damaged and is put aside; a new one begins");
                true
            }
            Err(_) => false,
        }
    }
}

impl Pending {
    fn bound(&mut self) {
        let too_many = self.samples.len().saturating_sub(PENDING_MAX);
        self.samples.drain(..too_many);
        let too_many = self.marks.len().saturating_sub(MARKS_PENDING_MAX);
        self.marks.drain(..too_many);
    }
}

#[cfg(test)]
mod tests;
