//! Entries as files: `FOLDER/FINGERPRINT/KEY.PLANE.DEPTH.COST`.
//!
//! A file is written under another name, synced and renamed, so that it is there whole or
//! not at all; what a power cut or a bad disk makes of it nevertheless, its checksum tells.
//! Several processes may use one folder: names are those of contents, so two that write
//! the same entry write the same file, and one that is deleted is only missing. What the
//! cache must know of an entry is in its name and its size, so listing opens no file.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use fs4::FileExt;
use thiserror::Error;

use crate::core::{Facts, Listed};
use crate::key::{Id, unhex};
use crate::record::{self, Fault, HEADER_BYTES, Label};
use crate::{Fingerprint, Key, Plane};

/// What was written of late: seconds since 1970 and bytes, as text.
pub const WEAR_FILE: &str = "written";

/// More files than this are not listed. At 4 KiB a file that is 4 GiB.
const LISTED_MAX: usize = 1 << 20;
/// Unfinished files are deleted when they are older: no write takes so long.
const UNFINISHED_AGE: Duration = Duration::from_secs(600);
const UNFINISHED: &str = "unfinished-";
const DAY_SECS: f64 = 86_400.0;

/// Why a folder cannot be used.
#[derive(Debug, Error)]
#[error("the folder of the prefix cache, {}, cannot be used: {source}", path.display())]
pub struct FolderError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// Why an entry could not be read.
#[derive(Debug, Error)]
pub enum Lost {
    /// Somebody else has deleted it, or it never was.
    #[error("it is gone")]
    Gone,
    /// It was not what it should be, and is deleted.
    #[error("{0}")]
    Faulty(#[from] Fault),
    #[error("{0}")]
    Io(io::Error),
}

/// Bytes that were written within about a day.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct WearLog {
    pub at_secs: f64,
    pub bytes: f64,
}

impl WearLog {
    /// What counts of it at a later time, where a day's bytes are that many.
    #[must_use]
    pub fn left(&self, now_secs: f64, day_bytes: u64) -> f64 {
        let since = (now_secs - self.at_secs).max(0.0);
        (self.bytes - day_bytes as f64 * since / DAY_SECS).max(0.0)
    }
}

/// A folder of entries.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    unfinished: AtomicU64,
}

impl Folder {
    /// Makes the folder where it is missing, for nobody but this user: states tell much of
    /// the texts they were computed from.
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        make(root).map_err(|source| FolderError {
            path: root.to_owned(),
            source,
        })?;
        Ok(Self {
            root: root.to_owned(),
            unfinished: AtomicU64::new(0),
        })
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn place(&self, fingerprint: &Fingerprint, id: Id, facts: &Facts) -> PathBuf {
        let Facts { depth, cost_us, .. } = facts;
        let name = format!("{}.{}.{depth}.{cost_us}", id.key, id.plane.letter());
        self.root.join(fingerprint.to_string()).join(name)
    }

    /// Writes an entry. When this returns without an error it survives the end of the process;
    /// after [`Folder::sync_names`] also a power cut.
    pub fn write(
        &self,
        fingerprint: &Fingerprint,
        (id, facts): (Id, &Facts),
        content: &[u8],
    ) -> io::Result<()> {
        let place = self.place(fingerprint, id, facts);
        let folder = self.root.join(fingerprint.to_string());
        make(&folder)?;
        let label = Label {
            fingerprint: *fingerprint,
            id,
            depth: facts.depth,
        };
        let n = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let unfinished = folder.join(format!("{UNFINISHED}{}-{n}", std::process::id()));
        let written = (|| {
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(&record::header(&label, content))?;
            file.write_all(content)?;
            file.sync_data()?;
            fs::rename(&unfinished, &place)
        })();
        if written.is_err() {
            // Nothing more can be done about it than is done about those of dead processes.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Makes names that were written before survive a power cut, too.
    pub fn sync_names(&self, fingerprint: &Fingerprint) -> io::Result<()> {
        File::open(self.root.join(fingerprint.to_string()))?.sync_all()
    }

    /// The file of an entry, whose content begins at [`HEADER_BYTES`]. One that is not what
    /// it should be is deleted.
    pub fn read(&self, fingerprint: &Fingerprint, id: Id, facts: &Facts) -> Result<Vec<u8>, Lost> {
        let place = self.place(fingerprint, id, facts);
        let expected = Label {
            fingerprint: *fingerprint,
            id,
            depth: facts.depth,
        };
        let fault = match read(&place, facts.bytes) {
            Ok(file) => match record::decode(&file, &expected) {
                Ok(_) => return Ok(file),
                Err(fault) => Lost::Faulty(fault),
            },
            Err(lost) => lost,
        };
        if !matches!(fault, Lost::Gone) {
            // If it cannot be deleted it is listed and found faulty again, no more.
            let _ = fs::remove_file(&place);
        }
        Err(fault)
    }

    /// Deletes an entry; one that is gone already is no fault.
    pub fn delete(&self, fingerprint: &Fingerprint, id: Id, facts: &Facts) -> io::Result<()> {
        match fs::remove_file(self.place(fingerprint, id, facts)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Notes that an entry was used, for listings to come.
    pub fn touch(&self, fingerprint: &Fingerprint, id: Id, facts: &Facts) -> io::Result<()> {
        let file = File::open(self.place(fingerprint, id, facts))?;
        file.set_times(FileTimes::new().set_modified(SystemTime::now()))
    }

    /// All entries of all models. What is no entry is left alone, but for files that a
    /// process has not finished and will not: those are deleted.
    pub fn list(&self) -> io::Result<Vec<Listed>> {
        let now = SystemTime::now();
        let mut listed = Vec::new();
        for folder in fs::read_dir(&self.root)? {
            let folder = folder?;
            let Some(fingerprint) = folder.file_name().to_str().and_then(unhex) else {
                continue;
            };
            let fingerprint = Fingerprint(fingerprint);
            let Ok(files) = fs::read_dir(folder.path()) else {
                continue;
            };
            for file in files.flatten() {
                if listed.len() >= LISTED_MAX {
                    return Ok(listed);
                }
                listed.extend(entry(fingerprint, &file, now));
            }
        }
        Ok(listed)
    }

    /// Counts bytes that are written, for all processes with this folder, and gives what
    /// counts for now.
    pub fn wear(&self, add: u64, day_bytes: u64) -> io::Result<WearLog> {
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.root.join(WEAR_FILE))?;
        FileExt::lock(&file)?;
        let mut text = String::new();
        // What cannot be read counts as nothing: it bounds wear, not what is right.
        let _ = (&file).take(256).read_to_string(&mut text);
        let mut words = text.split_whitespace();
        let mut number = || words.next()?.parse::<f64>().ok().filter(|n| n.is_finite());
        let known = match (number(), number()) {
            (Some(at_secs), Some(bytes)) => WearLog { at_secs, bytes },
            _ => WearLog::default(),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at_secs = now.unwrap_or_default().as_secs_f64();
        let bytes = known.left(at_secs, day_bytes) + add as f64;
        if add > 0 {
            io::Seek::rewind(&mut file)?;
            file.set_len(0)?;
            writeln!(file, "{at_secs:.0} {bytes:.0}")?;
        }
        Ok(WearLog { at_secs, bytes })
    }
}

fn make(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder)
}

fn entry(fingerprint: Fingerprint, file: &fs::DirEntry, now: SystemTime) -> Option<Listed> {
    let name = file.file_name();
    let name = name.to_str()?;
    // Not of the target of a link, which is no entry.
    let about = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let age = about.modified().ok()?;
    let age = now.duration_since(age).unwrap_or_default();
    if name.starts_with(UNFINISHED) {
        if age > UNFINISHED_AGE {
            let _ = fs::remove_file(file.path());
        }
        return None;
    }
    let mut parts = name.split('.');
    let id = Id {
        key: Key::from_hex(parts.next()?)?,
        plane: Plane::from_letter(parts.next()?)?,
    };
    let facts = Facts {
        depth: parts.next()?.parse().ok()?,
        cost_us: parts.next()?.parse().ok()?,
        bytes: about.len().checked_sub(HEADER_BYTES as u64)?,
    };
    parts.next().is_none().then_some(Listed {
        fingerprint,
        id,
        facts,
        age,
    })
}

/// A file of just that many bytes behind its header.
fn read(place: &Path, content_bytes: u64) -> Result<Vec<u8>, Lost> {
    let of_io = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => Lost::Gone,
        _ => Lost::Io(error),
    };
    // A pipe would be waited for.
    let about = fs::symlink_metadata(place).map_err(of_io)?;
    if !about.is_file() {
        return Err(Fault::Foreign.into());
    }
    let expected = content_bytes.saturating_add(HEADER_BYTES as u64);
    if about.len() != expected {
        return Err(Fault::Length {
            given: about.len().saturating_sub(HEADER_BYTES as u64),
            expected: content_bytes,
        }
        .into());
    }
    let mut bytes = Vec::new();
    let len = usize::try_from(expected).unwrap_or(usize::MAX);
    let reserved = bytes.try_reserve_exact(len);
    reserved.map_err(|_| Lost::Io(ErrorKind::OutOfMemory.into()))?;
    let file = File::open(place).map_err(of_io)?;
    file.take(expected).read_to_end(&mut bytes).map_err(of_io)?;
    Ok(bytes)
}
