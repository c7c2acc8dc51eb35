//! The tree that everything is read from: the file system of this machine, a folder with
//! a copy of another's, or a recording of one in a single text (see [`crate::recording`]).
//!
//! Reading neither fails nor hangs: what is not a plain file is not opened for reading,
//! every file and every listing is read up to a limit, and what was there but could not be
//! read is remembered, so that a report can say so.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::recording::{Entry, RecordError, Recording};

/// Bytes of a file that are read; `/proc/cpuinfo` of 1,024 x86 threads has 1.6 MB.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// Names of a folder that are read.
pub const NAMES_MAX: usize = 8192;
/// Paths remembered as unreadable.
const UNREAD_MAX: usize = 256;

/// Where facts are read from. Paths given to it are absolute, as on the machine.
#[derive(Debug)]
pub struct Root {
    source: Source,
    unread: RefCell<BTreeMap<String, Why>>,
    /// What was read, where somebody wants to keep it.
    kept: Option<RefCell<Recording>>,
}

#[derive(Debug)]
enum Source {
    Folder(PathBuf),
    Recorded(Recording),
}

/// A path that is there and could not be read in whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub path: String,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// This user may not.
    Denied,
    /// It is longer than the limit; the beginning was read.
    TooLong,
    /// The system's own words.
    Failed(String),
}

/// What this user may do with a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Absent,
    Denied,
    Usable,
}

impl Root {
    /// This machine.
    #[must_use]
    pub fn live() -> Self {
        Self::folder("/")
    }

    /// A folder that holds `proc`, `sys` and so on.
    #[must_use]
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Self::of(Source::Folder(folder.into()))
    }

    /// A recording of a machine.
    #[must_use]
    pub fn recorded(recording: Recording) -> Self {
        Self::of(Source::Recorded(recording))
    }

    /// A folder, or a file with a recording. Blocking.
    ///
    /// # Errors
    /// When there is nothing at the path, or it is no recording.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Read {
            path: path.to_owned(),
            source,
        };
        if fs::metadata(path).map_err(failed)?.is_dir() {
            return Ok(Self::folder(path));
        }
        let (text, why) = read_bounded(path).map_err(failed)?;
        if why.is_some() {
            return Err(OpenError::TooLong(path.to_owned()));
        }
        let recording = Recording::parse(&text).map_err(|source| OpenError::Recording {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::recorded(recording))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            unread: RefCell::default(),
            kept: None,
        }
    }

    /// The same, and it keeps what is read.
    #[must_use]
    pub fn keeping(mut self) -> Self {
        self.kept = Some(RefCell::default());
        self
    }

    /// What was read so far, where it was to be kept.
    #[must_use]
    pub fn kept(&self) -> Recording {
        self.kept
            .as_ref()
            .map(|kept| kept.borrow().clone())
            .unwrap_or_default()
    }

    /// Whether this is the machine the program runs on.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(&self.source, Source::Folder(folder) if folder == Path::new("/"))
    }

    /// Whether this is a recording.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        matches!(self.source, Source::Recorded(_))
    }

    /// What was there and could not be read.
    #[must_use]
    pub fn unread(&self) -> Vec<Unread> {
        let unread = self.unread.borrow();
        let unread = unread.iter().map(|(path, why)| Unread {
            path: path.clone(),
            why: why.clone(),
        });
        unread.collect()
    }

    /// The text of a file, at most [`FILE_BYTES_MAX`] of it; `None` where there is none to
    /// be read. What is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        match &self.source {
            Source::Recorded(recording) => match recording.entry(path)? {
                Entry::Text(text) => Some(text.clone()),
                Entry::Denied => {
                    self.remember(path, Why::Denied);
                    None
                }
                Entry::Link(_) | Entry::Node => None,
            },
            Source::Folder(folder) => match read_bounded(&below(folder, path)) {
                Ok((text, why)) => {
                    if let Some(why) = why {
                        self.remember(path, why);
                    }
                    self.keep(path, || Entry::Text(without_owner(path, &text)));
                    Some(text)
                }
                Err(error) => {
                    self.note(path, &error);
                    None
                }
            },
        }
    }

    /// The text without the white space around it; `None` where nothing is left.
    #[must_use]
    pub fn line(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The number that a file consists of.
    #[must_use]
    pub fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.line(path)?.parse().ok()
    }

    /// The names in a folder, in the order of their numbers, at most [`NAMES_MAX`].
    #[must_use]
    pub fn names(&self, path: &str) -> Vec<String> {
        let mut names = match &self.source {
            Source::Recorded(recording) => recording.names(path),
            Source::Folder(folder) => {
                let entries = match fs::read_dir(below(folder, path)) {
                    Ok(entries) => entries,
                    Err(error) => {
                        self.note(path, &error);
                        return Vec::new();
                    }
                };
                let names = entries.flatten().take(NAMES_MAX);
                names
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .collect()
            }
        };
        names.sort_by_cached_key(|name| natural(name));
        names.truncate(NAMES_MAX);
        for name in &names {
            self.keep(&format!("{}/{name}", path.trim_end_matches('/')), || {
                Entry::Node
            });
        }
        names
    }

    /// The names in a folder that are `prefix` and a number.
    #[must_use]
    pub fn numbered(&self, path: &str, prefix: &str) -> Vec<(u32, String)> {
        let names = self.names(path).into_iter();
        let folder = path.trim_end_matches('/');
        let names = names.filter_map(|name| {
            let number = name.strip_prefix(prefix)?.parse().ok()?;
            Some((number, format!("{folder}/{name}")))
        });
        names.collect()
    }

    /// What a symbolic link says.
    #[must_use]
    pub fn link(&self, path: &str) -> Option<String> {
        match &self.source {
            Source::Recorded(recording) => match recording.entry(path)? {
                Entry::Link(target) => Some(target.clone()),
                _ => None,
            },
            Source::Folder(folder) => {
                let target = fs::read_link(below(folder, path)).ok()?;
                let target = target.to_str()?.to_owned();
                self.keep(path, || Entry::Link(target.clone()));
                Some(target)
            }
        }
    }

    /// Whether this user may read and write a device node.
    #[must_use]
    pub fn access(&self, path: &str) -> Access {
        let access = match &self.source {
            Source::Recorded(recording) => match recording.entry(path) {
                None if recording.names(path).is_empty() => Access::Absent,
                Some(Entry::Denied) => Access::Denied,
                _ => Access::Usable,
            },
            Source::Folder(folder) => {
                let path = below(folder, path);
                let wanted = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
                if !path.exists() {
                    Access::Absent
                } else if rustix::fs::access(&path, wanted).is_ok() {
                    Access::Usable
                } else {
                    Access::Denied
                }
            }
        };
        match access {
            Access::Absent => {}
            Access::Denied => self.keep(path, || Entry::Denied),
            Access::Usable => self.keep(path, || Entry::Node),
        }
        access
    }

    /// Whether there is anything at the path.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        match &self.source {
            Source::Recorded(_) => self.access(path) != Access::Absent,
            Source::Folder(folder) => {
                let found = below(folder, path).exists();
                if found {
                    self.keep(path, || Entry::Node);
                }
                found
            }
        }
    }

    fn note(&self, path: &str, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
            io::ErrorKind::PermissionDenied => {
                self.remember(path, Why::Denied);
                self.keep(path, || Entry::Denied);
            }
            _ => self.remember(path, Why::Failed(error.to_string())),
        }
    }

    fn remember(&self, path: &str, why: Why) {
        let mut unread = self.unread.borrow_mut();
        if unread.len() < UNREAD_MAX {
            unread.insert(path.to_owned(), why);
        }
    }

    fn keep(&self, path: &str, entry: impl FnOnce() -> Entry) {
        if let Some(kept) = &self.kept {
            kept.borrow_mut().insert_new(&without_user(path), entry());
        }
    }
}

/// A tree that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("`{}` cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is longer than {FILE_BYTES_MAX} bytes, the most that a recording may have", .0.display())]
    TooLong(PathBuf),
    #[error("`{}` is neither a folder nor a recording of a machine: {source}", path.display())]
    Recording { path: PathBuf, source: RecordError },
}

fn below(folder: &Path, path: &str) -> PathBuf {
    folder.join(path.trim_start_matches('/'))
}

/// The beginning of a plain file, and why that is not all of it. Anything else, a pipe for
/// one, is not waited for.
fn read_bounded(path: &Path) -> io::Result<(String, Option<Why>)> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking.bits() as i32)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let too_long = bytes.len() as u64 > FILE_BYTES_MAX;
    bytes.truncate(FILE_BYTES_MAX as usize);
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    Ok((text, too_long.then_some(Why::TooLong)))
}

/// What the number of a user follows in the names of control groups and mounts.
const USER_MARKS: [&str; 3] = ["user-", "user@", "/run/user/"];

/// A path, or a text with paths in it, with 0 for the number of the user. Other paths stay,
/// and what one file says of another's path stays true.
fn without_user(text: &str) -> String {
    let mut text = text.to_owned();
    for mark in USER_MARKS {
        let mut parts = text.split(mark);
        let mut without = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
            without.push_str(mark);
            without.push_str(if rest.len() < part.len() { "0" } else { "" });
            without.push_str(rest);
        }
        text = without;
    }
    text
}

/// The text of a file without what tells whose machine it is: a board's serial number, a
/// process's user.
fn without_owner(path: &str, text: &str) -> String {
    let stays = |line: &&str| match path {
        "/proc/cpuinfo" => !line.starts_with("Serial"),
        "/proc/self/status" => line.starts_with("Cpus_allowed_list"),
        _ => true,
    };
    let lines = text.lines().filter(stays);
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    match path {
        "/proc/self/cgroup" | "/proc/self/mountinfo" => without_user(&text),
        _ => text,
    }
}

/// `cpu10` after `cpu9`.
fn natural(name: &str) -> (String, u64, String) {
    let digits = name
        .find(|c: char| c.is_ascii_digit())
        .unwrap_or(name.len());
    let (stem, rest) = name.split_at(digits);
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let number = rest[..end].parse().unwrap_or(0);
    (stem.to_owned(), number, rest[end..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_folders_and_long_files_do_not_stop_a_reading() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        fs::create_dir(folder.path().join("dir")).unwrap();
        let long = vec![b'a'; FILE_BYTES_MAX as usize + 7];
        fs::write(folder.path().join("long"), long).unwrap();
        fs::write(folder.path().join("bytes"), [0xff, 0xfe, b'7', b'\n']).unwrap();
        let root = Root::folder(folder.path());
        assert_eq!(root.text("/pipe"), None);
        assert_eq!(root.text("/dir"), None);
        assert_eq!(root.text("/absent"), None);
        assert_eq!(root.text("/long").unwrap().len() as u64, FILE_BYTES_MAX);
        assert!(root.text("/bytes").unwrap().ends_with("7\n"));
        let unread = root.unread();
        assert_eq!(unread.len(), 1, "{unread:?}");
        assert_eq!(unread[0].why, Why::TooLong);
    }

    #[test]
    fn what_is_kept_has_no_owner() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("proc/self")).unwrap();
        let cpuinfo = "processor : 0\nSerial : 10000000deadbeef\nModel : Pi\n";
        fs::write(folder.path().join("proc/cpuinfo"), cpuinfo).unwrap();
        let status = "Uid:\t1000\nCpus_allowed_list:\t0-3\n";
        fs::write(folder.path().join("proc/self/status"), status).unwrap();
        let root = Root::folder(folder.path()).keeping();
        assert_eq!(root.text("/proc/cpuinfo").unwrap(), cpuinfo);
        let _ = root.text("/proc/self/status");
        let kept = root.kept().to_string();
        assert!(
            !kept.contains("deadbeef") && !kept.contains("1000"),
            "{kept}"
        );
        assert!(
            kept.contains("Model : Pi") && kept.contains("0-3"),
            "{kept}"
        );
    }

    #[test]
    fn what_was_read_can_be_kept_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        for n in [10, 9, 1] {
            fs::create_dir(folder.path().join(format!("cpu{n}"))).unwrap();
            fs::write(folder.path().join(format!("cpu{n}/size")), "48K\n").unwrap();
        }
        let root = Root::folder(folder.path()).keeping();
        let of = |root: &Root| -> Vec<_> {
            let cpus = root.numbered("/", "cpu").into_iter();
            cpus.map(|(n, path)| (n, root.line(&format!("{path}/size"))))
                .collect()
        };
        let read = of(&root);
        let size = Some("48K".to_owned());
        assert_eq!(read, [1, 9, 10].map(|n| (n, size.clone())));
        let text = root.kept().to_string();
        let again = Root::recorded(Recording::parse(&text).unwrap());
        assert_eq!(of(&again), read);
    }

    /// A recording says nothing of who made it, and reads as before.
    #[test]
    fn the_number_of_a_user_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let group = "sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service";
        fs::create_dir_all(folder.path().join(group)).unwrap();
        fs::write(folder.path().join(group).join("memory.max"), "1048576\n").unwrap();
        fs::create_dir_all(folder.path().join("proc/self")).unwrap();
        let own = "0::/user.slice/user-1000.slice/user@1000.service\n";
        fs::write(folder.path().join("proc/self/cgroup"), own).unwrap();
        let root = Root::folder(folder.path()).keeping();
        let read = crate::Limits::read(&root);
        assert_eq!(read.memory_max, Some(stdx::Bytes(1 << 20)));
        let text = root.kept().to_string();
        assert!(
            !text.contains("1000") && text.contains("user-0.slice"),
            "{text}"
        );
        let again = Root::recorded(Recording::parse(&text).unwrap());
        assert_eq!(crate::Limits::read(&again), read);
    }
}
