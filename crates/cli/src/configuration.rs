//! `sextant config`, and reading the configuration for all other commands.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ArgMatches;
use config::{Config, Effective, LogLevel, RawConfig, Source, file_to_write};
use serde_json::json;

use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::output;

/// The configuration file as a command that changes it has found it.
pub(crate) struct Editable {
    pub(crate) path: PathBuf,
    /// Empty where there is none.
    pub(crate) text: String,
}

impl Editable {
    /// The file that these flags and the environment name.
    pub(crate) fn open(matches: &ArgMatches) -> Outcome<Self> {
        let path = file_to_write(matches, |name| std::env::var(name).ok());
        let path = path.ok_or_else(|| {
            let message = "there is no home directory to put a configuration file into; name one \
                           with `--config`";
            fault(Code::Usage, message)
        })?;
        // What a link stands for is written, and the link stays.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let text = text_of(&path)?;
        Ok(Self { path, text })
    }

    /// Puts another text in its place, which is there whole until then.
    pub(crate) fn replace(&self, text: &str) -> Outcome {
        let path = &self.path;
        if text_of(path)? != self.text {
            let message = format!(
                "`{}` has changed meanwhile, so it was not written; run this again",
                path.display()
            );
            return Err(fault(Code::Failure, message));
        }
        replace_file(path, text)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
        Ok(())
    }
}

fn text_of(path: &Path) -> Outcome<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        text => Ok(text.with_context(|| format!("`{}` cannot be read", path.display()))?),
    }
}

/// The configuration of a command: its flags, the environment and the file.
pub(crate) fn read(matches: &ArgMatches) -> Outcome<Config> {
    Ok(read_both(matches)?.1)
}

/// The configuration of a command for one person: unless told otherwise it logs
/// only what needs attention.
pub(crate) fn read_quiet(matches: &ArgMatches) -> Outcome<Config> {
    Ok(read_quiet_raw(matches)?.1)
}

/// The same with what it was made from.
pub(crate) fn read_quiet_raw(matches: &ArgMatches) -> Outcome<(RawConfig, Config)> {
    let (raw, mut config) = read_both(matches)?;
    let is_default =
        |one: &Effective| one.setting.name == "log_level" && one.source == Source::Default;
    if raw.effective().iter().any(is_default) {
        config.log_level = LogLevel::Warn;
    }
    Ok((raw, config))
}

fn read_both(matches: &ArgMatches) -> Outcome<(RawConfig, Config)> {
    let raw = RawConfig::from_process(matches).code(Code::Usage)?;
    warn_unknown(&raw);
    let config = raw.resolve().code(Code::Usage)?;
    Ok((raw, config))
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    // Values that cannot be used are not in force, so they are an error here too.
    let (raw, _) = read_both(matches)?;
    let effective = raw.effective();
    if output::wants_json(matches) {
        let values = effective.iter().map(|one| {
            json!({
                "name": one.setting.name,
                "value": one.value,
                "source": one.source.to_string(),
            })
        });
        output::json(&values.collect())?;
        return Ok(());
    }
    let rows: Vec<_> = effective
        .iter()
        .map(|one| {
            let unset = || format!("({})", one.setting.unset);
            vec![
                one.setting.name.to_owned(),
                one.value.clone().unwrap_or_else(unset),
                one.source.to_string(),
            ]
        })
        .collect();
    output::table(&["SETTING", "VALUE", "SOURCE"], &rows)?;
    Ok(())
}

fn warn_unknown(raw: &RawConfig) {
    for name in &raw.unknown_env {
        output::say(&format!(
            "warning: {name} is set, but there is no such setting; `sextant config` lists them"
        ));
    }
}

/// Puts a file in the place of another, which is there whole until then.
pub(crate) fn replace_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    // Who may read it does not change.
    if let Ok(metadata) = fs::metadata(path) {
        fs::set_permissions(file.path(), metadata.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
