//! Files of what was measured: a heading, then a line of JSON for each attempt, written as soon
//! as it is made, so that a run that was ended goes on where it was.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::outcome::{Code, Outcome, fault};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Speed,
    Quality,
    Context,
    Agents,
}

/// By the first line of a file.
pub(super) fn kind(file: &Path) -> Outcome<Kind> {
    let heading: Value = heading(file).unwrap_or_default();
    if heading["axes"].is_array() {
        return Ok(Kind::Speed);
    }
    if heading["seed"].is_number() {
        return Ok(Kind::Context);
    }
    if heading["tasks_hash"].is_string() {
        return Ok(Kind::Agents);
    }
    if heading["server"].is_string() {
        return Ok(Kind::Quality);
    }
    // A file that is not there says so itself.
    std::fs::metadata(file).with_context(|| file.display().to_string())?;
    let message = format!(
        "`{}` is no file of `bench speed`, `quality`, `context` or `agents` with `--out`",
        file.display()
    );
    Err(fault(Code::Usage, message))
}

pub(super) fn heading<H: DeserializeOwned>(file: &Path) -> Outcome<H> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let first = text.lines().next().unwrap_or_default();
    let told = || format!("`{}` has a heading of another version", file.display());
    Ok(serde_json::from_str(first).with_context(told)?)
}

/// The attempts of an earlier run with the same heading; the file is begun where there is none.
pub(super) fn kept<H, A>(file: &Path, heading: &H) -> Outcome<Vec<A>>
where
    H: Serialize + DeserializeOwned + PartialEq,
    A: DeserializeOwned,
{
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(anyhow::anyhow!(error).context(file.display().to_string()))?,
    };
    let mut lines = text.lines();
    let Some(first) = lines.next() else {
        append(file, heading)?;
        return Ok(Vec::new());
    };
    let there: Option<H> = serde_json::from_str(first).ok();
    if there.as_ref() != Some(heading) {
        let message = format!(
            "`{}` holds what was measured of something else or in another manner; name another file",
            file.display()
        );
        return Err(fault(Code::Usage, message));
    }
    // A line that was not written to its end is not an attempt; a new one must not join it.
    if !text.ends_with('\n') {
        let mut end = OpenOptions::new().append(true).open(file)?;
        end.write_all(b"\n")?;
    }
    Ok(read(&text))
}

/// The attempts of a file, whatever its heading says.
pub(super) fn attempts<A: DeserializeOwned>(file: &Path) -> Outcome<Vec<A>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(read(&text))
}

pub(super) fn read<A: DeserializeOwned>(text: &str) -> Vec<A> {
    let lines = text.lines().skip(1);
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

pub(super) fn append(file: &Path, line: &impl Serialize) -> Outcome {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut open = OpenOptions::new();
    let mut file = open
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| file.display().to_string())?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
