//! What was measured, as lines: a heading, then a line of JSON for each attempt. A file of them
//! is written as they are made, so that a run that was ended goes on where it was; runs that are
//! kept have the same lines.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::outcome::{Code, Outcome, fault};

/// What lines are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Speed,
    Quality,
    Context,
    Agents,
    Load,
    LlamaBench,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Speed,
        Self::Quality,
        Self::Context,
        Self::Agents,
        Self::Load,
        Self::LlamaBench,
    ];

    /// The word for it, which the ids of its runs begin with.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Speed => "speed",
            Self::Quality => "quality",
            Self::Context => "context",
            Self::Agents => "agents",
            Self::Load => "load",
            Self::LlamaBench => "llama-bench",
        }
    }

    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// By a heading.
    pub(super) fn of(heading: &Value) -> Option<Self> {
        if heading["axes"].is_array() {
            Some(Self::Speed)
        } else if heading["requests"].is_number() {
            Some(Self::Load)
        } else if heading["seed"].is_number() {
            Some(Self::Context)
        } else if heading["tasks_hash"].is_string() {
            Some(Self::Agents)
        } else if heading["server"].is_string() {
            Some(Self::Quality)
        } else if heading["llama_bench"].is_number() {
            Some(Self::LlamaBench)
        } else {
            None
        }
    }
}

/// The lines of a file or of a run that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    /// Of the file, or the id of the run.
    pub(crate) name: PathBuf,
    pub(crate) text: String,
}

impl Lines {
    pub(crate) fn of_file(file: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Ok(Self {
            name: file.to_owned(),
            text,
        })
    }

    fn first(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    /// By the first line.
    pub(super) fn kind(&self) -> Outcome<Kind> {
        let heading: Value = serde_json::from_str(self.first()).unwrap_or_default();
        Kind::of(&heading).ok_or_else(|| {
            let message = format!(
                "`{}` is no file of `bench speed`, `quality`, `context`, `load` or `agents` with `--out`",
                self.name.display()
            );
            fault(Code::Usage, message)
        })
    }

    pub(super) fn heading<H: DeserializeOwned>(&self) -> Outcome<H> {
        let told = || format!("`{}` has a heading of another version", self.name.display());
        Ok(serde_json::from_str(self.first()).with_context(told)?)
    }

    /// The attempts, whatever the heading says.
    pub(super) fn attempts<A: DeserializeOwned>(&self) -> Vec<A> {
        read(&self.text)
    }
}

/// Lines as they are made: in memory, and in a file where one is named.
pub(super) struct Log {
    file: Option<PathBuf>,
    pub(super) heading: String,
    /// After the heading.
    pub(super) lines: Vec<String>,
}

impl Log {
    /// With the attempts of an earlier run into the same file.
    pub(super) fn open<H, A>(file: Option<&Path>, heading: &H) -> Outcome<(Self, Vec<A>)>
    where
        H: Serialize + DeserializeOwned + PartialEq,
        A: DeserializeOwned,
    {
        let text = match file {
            Some(file) => begun(file, heading)?,
            None => String::new(),
        };
        // Earlier versions have left the beginnings of lines that were cut.
        let is_whole = |line: &&str| serde_json::from_str::<IgnoredAny>(line).is_ok();
        let lines = text.lines().skip(1).filter(is_whole);
        let log = Self {
            file: file.map(Path::to_owned),
            heading: serde_json::to_string(heading)?,
            lines: lines.map(str::to_owned).collect(),
        };
        Ok((log, read(&text)))
    }

    pub(super) fn append(&mut self, line: &impl Serialize) -> Outcome {
        self.append_all(std::slice::from_ref(line))
    }

    /// All in one piece.
    pub(super) fn append_all(&mut self, lines: &[impl Serialize]) -> Outcome {
        let first = self.lines.len();
        for line in lines {
            self.lines.push(serde_json::to_string(line)?);
        }
        if let Some(file) = &self.file {
            let text: String = self.lines[first..]
                .iter()
                .map(|line| format!("{line}\n"))
                .collect();
            write(file, &text)?;
        }
        Ok(())
    }

    /// The lines that are of this form.
    pub(super) fn read<A: DeserializeOwned>(&self) -> Vec<A> {
        let lines = self.lines.iter();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Leaves nothing but the heading.
    pub(super) fn clear(&mut self) -> Outcome {
        self.lines.clear();
        if let Some(file) = &self.file {
            std::fs::write(file, format!("{}\n", self.heading))
                .with_context(|| file.display().to_string())?;
        }
        Ok(())
    }
}

/// What an earlier run with the same heading has left; the file is begun where there is none.
fn begun<H>(file: &Path, heading: &H) -> Outcome<String>
where
    H: Serialize + DeserializeOwned + PartialEq,
{
    let mut text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(anyhow::anyhow!(error).context(file.display().to_string()))?,
    };
    let Some(first) = text.lines().next() else {
        write(file, &format!("{}\n", serde_json::to_string(heading)?))?;
        return Ok(text);
    };
    let there: Option<H> = serde_json::from_str(first).ok();
    if there.as_ref() != Some(heading) {
        let message = format!(
            "`{}` holds what was measured of something else or in another manner; name another file",
            file.display()
        );
        return Err(fault(Code::Usage, message));
    }
    // A line that was not written to its end is no line, and nothing must join it.
    let whole = match text.rfind('\n') {
        Some(end) => end + 1,
        None => {
            write(file, "\n")?;
            text.len()
        }
    };
    if whole < text.len() {
        text.truncate(whole);
        let open = OpenOptions::new().write(true).open(file);
        open.and_then(|open| open.set_len(whole as u64))
            .with_context(|| file.display().to_string())?;
    }
    Ok(text)
}

pub(super) fn read<A: DeserializeOwned>(text: &str) -> Vec<A> {
    let lines = text.lines().skip(1);
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn write(file: &Path, text: &str) -> Outcome {
    let mut open = OpenOptions::new();
    let mut file = open
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| file.display().to_string())?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
