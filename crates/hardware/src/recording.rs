//! A machine in one text: what its files said, a line or a few each.
//!
//! ```text
//! # a comment
//! /sys/devices/system/cpu/online = 0-7
//! /sys/devices/system/cpu/cpu{0-3}/cpu_capacity = 406
//! /sys/devices/system/cpu/cpu{0-3}/topology/core_cpus_list = {},{+4}
//! /proc/meminfo:
//! | MemTotal:       24684092 kB
//! | MemAvailable:   24127116 kB
//! /sys/dev/block/259:1 -> ../../devices/pci0000:00/nvme/nvme0n1/nvme0n1p1
//! /sys/class/powercap/intel-rapl:0/energy_uj denied
//! /dev/rknpu node
//! ```
//!
//! A list in braces stands for a line for each of its numbers; in the value `{}` is that
//! number, `{+4}` and `{-4}` are others beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::iter;

use crate::CpuSet;

/// Paths of a recording.
const PATHS_MAX: usize = 200_000;
/// Bytes of its paths and texts, once its braces are written out. A large server has 8 MiB.
const BYTES_MAX: usize = 64 << 20;

/// The files of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording(BTreeMap<String, Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Text(String),
    /// There, but this user may not.
    Denied,
    Link(String),
    /// A device, or a file of which only the presence counts.
    Node,
}

impl Entry {
    /// Bytes of its text.
    const fn len(&self) -> usize {
        match self {
            Self::Text(text) | Self::Link(text) => text.len(),
            Self::Denied | Self::Node => 0,
        }
    }
}

const TOO_LARGE: &str = "it makes more than 64 MiB of paths and texts";

/// A line that is none of a recording.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "line {line}: {what}; a line is `PATH = VALUE`, `PATH:` with `| ` lines below it, \
     `PATH -> TARGET`, `PATH denied` or `PATH node`, and a path begins with `/`"
)]
pub struct RecordError {
    pub line: usize,
    pub what: &'static str,
}

impl Recording {
    /// Reads a recording.
    ///
    /// # Errors
    /// At the first line that is not one of a recording, or when its braces stand for more
    /// paths than a machine has.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let mut recording = Self::default();
        // The paths whose lines follow.
        let mut open: Vec<String> = Vec::new();
        let mut bytes = 0_usize;
        for (index, line) in text.lines().enumerate() {
            let fault = |what| RecordError {
                line: index + 1,
                what,
            };
            if let Some(content) = line.strip_prefix('|') {
                if open.is_empty() {
                    return Err(fault("there is no path above it"));
                }
                let content = content.strip_prefix(' ').unwrap_or(content);
                bytes = bytes.saturating_add(open.len().saturating_mul(content.len() + 1));
                if bytes > BYTES_MAX {
                    return Err(fault(TOO_LARGE));
                }
                for path in &open {
                    if let Some(Entry::Text(text)) = recording.0.get_mut(path) {
                        text.push_str(content);
                        text.push('\n');
                    }
                }
                continue;
            }
            open.clear();
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if !line.starts_with('/') {
                return Err(fault("it is no path"));
            }
            let (pattern, entry) = split(line).ok_or(fault("it says nothing of the path"))?;
            let is_open = entry == Entry::Text(String::new()) && line.ends_with(':');
            for (path, entry) in expand(pattern, &entry).ok_or(fault("its list is none"))? {
                bytes = bytes.saturating_add(path.len() + entry.len());
                if bytes > BYTES_MAX {
                    return Err(fault(TOO_LARGE));
                }
                if is_open {
                    open.push(path.clone());
                }
                recording.0.insert(path, entry);
            }
            if recording.0.len() > PATHS_MAX {
                return Err(fault("it makes more than 200,000 paths"));
            }
        }
        Ok(recording)
    }

    /// A recording of these files.
    #[must_use]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| {
            let entry = Entry::Text((*text).to_owned());
            ((*path).to_owned(), entry)
        });
        Self(files.collect())
    }

    pub(crate) fn entry(&self, path: &str) -> Option<&Entry> {
        self.0.get(path)
    }

    /// Keeps what was seen first, but for a node, which says less than anything else.
    pub(crate) fn insert_new(&mut self, path: &str, entry: Entry) {
        let known = self.0.entry(path.to_owned()).or_insert(Entry::Node);
        if *known == Entry::Node {
            *known = entry;
        }
    }

    /// The names right below a path.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let folder = format!("{}/", path.trim_end_matches('/'));
        let mut names: Vec<String> = Vec::new();
        for (path, _) in self.0.range(folder.clone()..) {
            let Some(rest) = path.strip_prefix(&folder) else {
                break;
            };
            let name = rest.split('/').next().unwrap_or(rest);
            if names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names.dedup();
        names
    }
}

impl fmt::Display for Recording {
    /// One that [`Recording::parse`] reads back, without braces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, entry) in &self.0 {
            // A path that would be read as something else is left out.
            if path.contains(['{', '\n', '=']) || path.contains(" ->") {
                continue;
            }
            match entry {
                Entry::Denied => writeln!(f, "{path} denied")?,
                Entry::Node => writeln!(f, "{path} node")?,
                Entry::Link(target) => writeln!(f, "{path} -> {target}")?,
                Entry::Text(text) => {
                    writeln!(f, "{path}:")?;
                    for line in text.lines() {
                        writeln!(f, "| {line}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn split(line: &str) -> Option<(&str, Entry)> {
    if let Some((path, value)) = line.split_once(" = ") {
        return Some((path, Entry::Text(format!("{}\n", value.trim_end()))));
    }
    if let Some((path, target)) = line.split_once(" -> ") {
        return Some((path, Entry::Link(target.trim_end().to_owned())));
    }
    if let Some(path) = line.strip_suffix(" denied") {
        return Some((path, Entry::Denied));
    }
    if let Some(path) = line.strip_suffix(" node") {
        return Some((path, Entry::Node));
    }
    let path = line.trim_end().strip_suffix(':')?;
    Some((path, Entry::Text(String::new())))
}

/// The lines that one with braces stands for.
fn expand<'a>(
    pattern: &'a str,
    entry: &'a Entry,
) -> Option<Box<dyn Iterator<Item = (String, Entry)> + 'a>> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return Some(Box::new(iter::once((pattern.to_owned(), entry.clone()))));
    };
    let (list, after) = rest.split_once('}')?;
    let numbers: CpuSet = list.parse().ok()?;
    let numbers: Vec<_> = numbers.iter().collect();
    let lines = numbers.into_iter().map(move |number| {
        let entry = match entry {
            Entry::Text(text) => Entry::Text(fill(text, number)),
            Entry::Link(target) => Entry::Link(fill(target, number)),
            other => other.clone(),
        };
        (format!("{before}{number}{after}"), entry)
    });
    Some(Box::new(lines))
}

/// The text with `{}`, `{+4}` and `{-4}` filled in.
fn fill(text: &str, number: u32) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        filled.push_str(before);
        let place = behind.split_once('}').and_then(|(offset, after)| {
            let offset: i64 = if offset.is_empty() {
                0
            } else {
                offset.parse().ok()?
            };
            Some((i64::from(number).checked_add(offset)?, after))
        });
        match place {
            Some((value, after)) => {
                filled.push_str(&value.to_string());
                rest = after;
            }
            None => {
                filled.push('{');
                rest = behind;
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read() {
        let text = "# board\n/a/cpu{0-1}/siblings = {},{+2}\n/m:\n| x: 1\n|  y\n\n\
                    /l -> ../t{0}\n/s denied\n/dev/npu node\n";
        let recording = Recording::parse(text).unwrap();
        let text = |path| match recording.entry(path) {
            Some(Entry::Text(text)) => text.as_str(),
            _ => "",
        };
        assert_eq!(text("/a/cpu0/siblings"), "0,2\n");
        assert_eq!(text("/a/cpu1/siblings"), "1,3\n");
        assert_eq!(text("/m"), "x: 1\n y\n");
        assert_eq!(recording.entry("/s"), Some(&Entry::Denied));
        assert_eq!(recording.entry("/dev/npu"), Some(&Entry::Node));
        assert_eq!(recording.names("/a"), ["cpu0", "cpu1"]);
        assert_eq!(recording.names("/"), ["a", "dev", "l", "m", "s"]);
        let printed = recording.to_string();
        assert_eq!(Recording::parse(&printed).unwrap(), recording);
    }

    #[test]
    fn other_lines_are_refused_with_their_number() {
        for (text, line) in [
            ("/a = 1\nb = 2\n", 2),
            ("| x\n", 1),
            ("/a\n", 1),
            ("/a{0-} = 1\n", 1),
            ("/a{0-9999999} = 1\n", 1),
        ] {
            assert_eq!(Recording::parse(text).unwrap_err().line, line, "{text}");
        }
    }

    /// A small text must not become a large machine.
    #[test]
    fn what_braces_stand_for_is_bounded() {
        let long = "x".repeat(100_000);
        let one_line = format!("/a{{0-1023}} = {long}\n");
        let below = format!("/a{{0-1023}}:\n| {long}\n");
        for (text, line) in [(one_line, 1), (below, 2)] {
            let error = Recording::parse(&text).unwrap_err();
            assert_eq!((error.line, error.what), (line, TOO_LARGE));
        }
        let many = format!("/a{{0-99}} = {long}\n");
        assert!(Recording::parse(&many).is_ok());
    }
}
