//! Keeping a run that has ended, with where and how it was made.

use std::path::PathBuf;

use clap::ArgMatches;
use config::{Config, Kind as SettingKind, SETTINGS};
use hardware::{Memory, Processor, Root, Surroundings};
use serde_json::Value;
use store::{
    Added, RECORD_BYTES_MAX, RUN_BYTES_MAX, ResultMachine, ResultModel, ResultRun, Results, Stored,
    result_id,
};

use crate::bench::attempts_file::{Kind, Log};
use crate::outcome::{Code, Outcome, fault};
use crate::output::say;
use crate::{database, tune};

/// What the source of a run says that was measured here.
const BENCH: &str = "bench";

/// A run that is under way, and where its results go.
pub(in crate::bench) struct Keeping {
    /// `None`: nowhere.
    results: Option<Results>,
    began_s: u64,
    load_before: Option<f64>,
}

/// A run that has ended.
pub(in crate::bench) struct Finished<'a> {
    pub(in crate::bench) kind: Kind,
    pub(in crate::bench) server: Option<String>,
    pub(in crate::bench) models: Vec<ResultModel>,
    pub(in crate::bench) log: &'a Log,
}

impl Keeping {
    /// Before anything is measured, so that hours of it are not lost to a file that cannot be
    /// written.
    pub(in crate::bench) fn begin(matches: &ArgMatches, config: &Config) -> Outcome<Self> {
        let results = match matches.get_flag("no-keep") {
            true => None,
            false => open(config)?,
        };
        Ok(Self {
            results,
            began_s: tune::now_unix_secs(),
            load_before: load_average(),
        })
    }

    /// Says under which id.
    pub(in crate::bench) fn keep(self, finished: Finished<'_>) -> Outcome {
        let Some(results) = &self.results else {
            return Ok(());
        };
        let log = finished.log;
        let n_records = log.lines.iter().filter(|line| !is_origin(line)).count();
        if n_records == 0 {
            return Ok(());
        }
        // A run that went on began when its first attempt was made.
        let times = super::import::times(log.lines.iter().map(String::as_str));
        let began_s = times.into_iter().fold(self.began_s, u64::min);
        let lines = Whole {
            kind: finished.kind,
            heading: serde_json::from_str(&log.heading)?,
            records: log.lines.clone(),
        };
        let stored = lines.stored(ResultRun {
            began_s,
            ended_s: tune::now_unix_secs(),
            command: without_secrets(command_line()),
            source: BENCH.to_owned(),
            server: finished.server,
            program: Some(tune::build().to_owned()),
            machine: machine(&Root::live()),
            load_before: self.load_before,
            load_after: load_average(),
            models: finished.models,
            ..ResultRun::default()
        })?;
        let id = stored.run.id.clone();
        let added = results.connect()?.add(&[stored])?;
        match added.as_slice() {
            [Added::There] => say(&format!("kept already as {id}")),
            _ => say(&format!("kept as {id}")),
        }
        Ok(())
    }
}

fn open(config: &Config) -> Outcome<Option<Results>> {
    let Some(folder) = database::folder(config) else {
        say("there is no home directory and no `data_dir`: the results are not kept");
        return Ok(None);
    };
    let results = Results::open(&folder).map_err(|error| {
        let message = format!("{error}; `--no-keep` measures without keeping the results");
        fault(Code::Failure, message)
    })?;
    Ok(Some(results))
}

/// The lines of a run, which are whole.
pub(super) struct Whole {
    pub(super) kind: Kind,
    pub(super) heading: Value,
    pub(super) records: Vec<String>,
}

impl Whole {
    /// With what else is known of it.
    ///
    /// # Errors
    /// When it is longer than what is kept.
    pub(super) fn stored(self, run: ResultRun) -> Outcome<Stored> {
        let heading = self.heading.to_string();
        let bytes = heading.len() + self.records.iter().map(String::len).sum::<usize>();
        let longest = self.records.iter().map(String::len).max().unwrap_or(0);
        let what = match (longest > RECORD_BYTES_MAX, bytes > RUN_BYTES_MAX) {
            (true, _) => Some(("a record", longest, RECORD_BYTES_MAX)),
            (_, true) => Some(("all of the run", bytes, RUN_BYTES_MAX)),
            _ => None,
        };
        if let Some((what, bytes, max)) = what {
            let message = format!(
                "{what} has {bytes} bytes, and at most {max} are kept; measure less at once, or \
                 keep it in a file alone, with `--out FILE --no-keep`"
            );
            return Err(fault(Code::Failure, message));
        }
        let records = self.records.iter();
        let n_records = records.filter(|line| !is_origin(line)).count();
        Ok(Stored {
            run: ResultRun {
                id: result_id(self.kind.word(), &self.heading, &self.records),
                kind: self.kind.word().to_owned(),
                heading: self.heading,
                n_records: n_records as u64,
                bytes: bytes as u64,
                ..run
            },
            records: self.records,
        })
    }
}

/// Whether a line tells on what others were measured, and is no record itself.
pub(super) fn is_origin(line: &str) -> bool {
    line.starts_with("{\"origin\":{") || line.starts_with("{\"ended\":{")
}

/// An average of the last minute.
fn load_average() -> Option<f64> {
    let line = Root::live().line("/proc/loadavg")?;
    line.split_whitespace().next()?.parse().ok()
}

/// What measures.
fn machine(root: &Root) -> ResultMachine {
    let processor = Processor::read(root);
    let surroundings = Surroundings::read(root, &processor);
    ResultMachine {
        cpu: Some(processor.name()),
        cores: Some(processor.cpus.len() as u64),
        kernel: surroundings.kernel,
        memory_bytes: Memory::read(root).total.map(|total| total.0),
        board: surroundings.model,
    }
}

fn command_line() -> impl Iterator<Item = String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned())
}

/// The words of a command line; what a secret setting is given is left out.
fn without_secrets(words: impl Iterator<Item = String>) -> Vec<String> {
    let secret = SETTINGS
        .iter()
        .filter(|setting| matches!(setting.kind, SettingKind::Secret));
    let flags: Vec<String> = secret
        .map(|setting| format!("--{}", setting.flag()))
        .collect();
    let mut is_next = false;
    let words = words.map(|word| {
        if std::mem::take(&mut is_next) {
            return "****".to_owned();
        }
        is_next = flags.contains(&word);
        match word.split_once('=') {
            Some((flag, _)) if flags.iter().any(|one| one == flag) => format!("{flag}=****"),
            _ => word,
        }
    });
    let mut words: Vec<String> = words.collect();
    // Where the program lies says nothing of what it is.
    if let Some(program) = words.first_mut() {
        let name = PathBuf::from(&*program);
        let name = name.file_name().map(|name| name.to_string_lossy());
        *program = name.map_or_else(String::new, |name| name.into_owned());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_kept_with_the_command() {
        let words = ["/usr/bin/sextant", "bench", "--api-key", "hunter2", "m"];
        let kept = without_secrets(words.map(str::to_owned).into_iter());
        assert_eq!(kept, ["sextant", "bench", "--api-key", "****", "m"]);
        let words = ["sextant", "--api-key=hunter2", "--api-key-file=f"];
        let kept = without_secrets(words.map(str::to_owned).into_iter());
        assert_eq!(kept, ["sextant", "--api-key=****", "--api-key-file=f"]);
    }

    #[test]
    fn a_run_that_is_too_long_is_refused_with_its_size() {
        let whole = |records: Vec<String>| Whole {
            kind: Kind::Load,
            heading: Value::Null,
            records,
        };
        let record = "x".repeat(RECORD_BYTES_MAX);
        assert!(
            whole(vec![record.clone()])
                .stored(ResultRun::default())
                .is_ok()
        );
        let longer = whole(vec![record + "x"]).stored(ResultRun::default());
        let told = longer.unwrap_err().to_string();
        assert!(told.contains(&(RECORD_BYTES_MAX + 1).to_string()), "{told}");
    }
}
