//! How runs that are kept are named where a file could stand.
//!
//! | word | run |
//! |---|---|
//! | `@last` | the last one |
//! | `@quality` | the last one of its kind |
//! | `@quality~2` | the one two before it |
//! | `quality-1a2b3c4d5e`, `@quality-1a` | the one with this id, or the only one whose id begins so |
//!
//! A file that is there goes before a run; `@` says that a run is meant.

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use store::{ResultRun, Results, ResultsSession, Stored};

use crate::bench::attempts_file::{Kind, Lines};
use crate::outcome::{Code, Fault, Outcome, fault};
use crate::{configuration, database};

const MARK: char = '@';
const LAST: &str = "last";
/// Between the kind of a run and how far it lies back.
const BACK: char = '~';

/// What files and runs hold, in the order in which they are named by the argument `name`.
pub(crate) fn lines(matches: &ArgMatches, name: &str) -> Outcome<Vec<Lines>> {
    let words = matches.get_many::<PathBuf>(name).unwrap_or_default();
    let mut session = None;
    words
        .map(|word| match wanted(word) {
            None => Lines::of_file(word),
            Some(wanted) => {
                let session = match &session {
                    Some(session) => session,
                    None => session.insert(open(matches)?),
                };
                let run = find(session, wanted)?;
                let records = session.records(&run.id)?;
                Ok(of_stored(&Stored { run, records }))
            }
        })
        .collect()
}

/// As a file of `--out` has them.
pub(super) fn of_stored(stored: &Stored) -> Lines {
    let mut text = stored.run.heading.to_string();
    for record in &stored.records {
        text.push('\n');
        text.push_str(record);
    }
    text.push('\n');
    Lines {
        name: PathBuf::from(&stored.run.id),
        text,
    }
}

/// The results of this configuration, which must be there.
pub(super) fn open(matches: &ArgMatches) -> Outcome<ResultsSession> {
    let config = configuration::read_quiet(matches)?;
    let folder = database::folder(&config).ok_or_else(database::no_place)?;
    match Results::open_existing(&folder)? {
        Some(results) => Ok(results.connect()?),
        None => Err(fault(
            Code::Usage,
            format!(
                "no results are kept in `{}` yet; `sextant bench` keeps those of each run that ends",
                folder.display()
            ),
        )),
    }
}

/// The run that a word means; `None`: it is a file.
fn wanted(word: &Path) -> Option<&str> {
    let text = word.to_str()?;
    match text.strip_prefix(MARK) {
        Some(rest) => Some(rest),
        None => (looks_like_an_id(text) && !word.exists()).then_some(text),
    }
}

fn looks_like_an_id(text: &str) -> bool {
    let Some((kind, digits)) = text.rsplit_once('-') else {
        return false;
    };
    Kind::of_word(kind).is_some()
        && !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The run that a word means, with the mark or without it.
pub(super) fn find(session: &ResultsSession, word: &str) -> Outcome<ResultRun> {
    let wanted = word.strip_prefix(MARK).unwrap_or(word);
    let (base, back) = match wanted.split_once(BACK) {
        None => (wanted, 0),
        Some((base, back)) => (base, back.parse().map_err(|_| no_such(word))?),
    };
    let kind = Kind::of_word(base);
    let is_last = base == LAST;
    if kind.is_some() || is_last {
        let found = session.last(kind.map(Kind::word), back)?;
        return found.ok_or_else(|| no_such(word));
    }
    if back > 0 || base.is_empty() {
        return Err(no_such(word));
    }
    if let Some(run) = session.run(base)? {
        return Ok(run);
    }
    let mut runs = session.runs_that_begin(base)?;
    match (runs.pop(), runs.pop()) {
        (Some(run), None) => Ok(run),
        (Some(one), Some(other)) => {
            let message = format!("which one is `{word}`? It fits {} and {}", other.id, one.id);
            Err(fault(Code::Usage, message))
        }
        (None, _) => Err(no_such(word)),
    }
}

fn no_such(word: &str) -> Fault {
    let kinds = Kind::ALL.map(|kind| format!("{MARK}{}", kind.word()));
    let message = format!(
        "there is no run `{word}` among the results; `sextant bench results` lists their ids, and \
         {MARK}{LAST}, {} and, for example, {MARK}quality{BACK}1 stand for the last ones",
        kinds.join(", ")
    );
    fault(Code::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_told_from_files() {
        for (word, run) in [
            ("@quality", Some("quality")),
            ("@quality~1", Some("quality~1")),
            ("quality-1a2b", Some("quality-1a2b")),
            ("llama-bench-00ff", Some("llama-bench-00ff")),
            ("quality.jsonl", None),
            ("quality", None),
            ("my-1a2b", None),
            ("quality-mine", None),
            ("./@quality", None),
        ] {
            assert_eq!(wanted(Path::new(word)), run, "{word}");
        }
    }
}
