//! What the user said, and where.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use toml::de::{DeTable, DeValue};

use crate::fleet::{FleetTables, TABLES};
use crate::resolve::read;
use crate::{ConfigError, Kind, SETTINGS, Setting, setting};

/// Variables of ours that are no settings: where the file is, and the folder of the
/// `models` crate, which `models_dir` overrides.
const OTHER_VARIABLES: &[&str] = &["CONFIG", "MODELS"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Flag(String),
    Env(String),
    File {
        path: PathBuf,
        line: usize,
    },
    /// A table of `[[models]]`, by its name.
    Preset(String),
    Default,
}

impl Source {
    /// The greater wins.
    pub(crate) fn strength(&self) -> u8 {
        match self {
            Self::Preset(_) => 4,
            Self::Flag(_) => 3,
            Self::Env(_) => 2,
            Self::File { .. } => 1,
            Self::Default => 0,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Env(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Preset(name) => write!(f, "the model `{name}`"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The values as given, each with its source; the strongest source has won already.
#[derive(Debug, Clone, Default)]
pub struct RawConfig {
    pub(crate) values: BTreeMap<&'static str, RawValue>,
    pub(crate) fleet: FleetTables,
    pub(crate) problems: Vec<String>,
    /// `SEXTANT_*` variables that are no setting: worth a warning, not an error,
    /// since other programs may own them.
    pub unknown_env: Vec<String>,
}

/// One value; a list has any number of texts, all else one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawValue {
    pub(crate) texts: Vec<String>,
    pub(crate) source: Source,
}

/// A setting with the value in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub setting: &'static Setting,
    /// As a user would write it; `None` where the setting is left out. A secret
    /// shows as `****`.
    pub value: Option<String>,
    pub source: Source,
}

/// The configuration file to read: `--config`, else `SEXTANT_CONFIG`, else
/// `sextant/config.toml` in the user's configuration directory if it exists.
#[must_use]
pub fn file_to_read(flags: &ArgMatches, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let (path, is_named) = place(flags, env)?;
    (is_named || path.is_file()).then_some(path)
}

/// The file that [`file_to_read`] would read if it existed; `None` without a home directory.
#[must_use]
pub fn file_to_write(flags: &ArgMatches, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    place(flags, env).map(|(path, _)| path)
}

/// Where the file is, and whether somebody says so.
fn place(flags: &ArgMatches, env: impl Fn(&str) -> Option<String>) -> Option<(PathBuf, bool)> {
    if let Ok(Some(path)) = flags.try_get_one::<String>("config") {
        return Some((path.into(), true));
    }
    if let Some(path) = env("SEXTANT_CONFIG").filter(|path| !path.is_empty()) {
        return Some((path.into(), true));
    }
    let base = env("XDG_CONFIG_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")))?;
    Some((base.join("sextant").join("config.toml"), false))
}

/// The environment. A variable that is not UTF-8 is read with replacement characters, so that
/// the error names it.
fn variables() -> impl Iterator<Item = (String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (lossy(name), lossy(value)))
}

impl RawConfig {
    /// Collects from all three sources. `file` is a path and its text. Unknown keys
    /// and values of no usable type are kept as problems for [`RawConfig::resolve`].
    pub fn gather(
        flags: &ArgMatches,
        env: impl IntoIterator<Item = (String, String)>,
        file: Option<(&Path, &str)>,
    ) -> Self {
        let mut raw = Self::default();
        if let Some((path, text)) = file {
            raw.take_file(path, text);
        }
        raw.take_env(env);
        raw.take_flags(flags);
        raw
    }

    /// As [`RawConfig::gather`], from this process: its environment and the file of
    /// [`file_to_read`].
    pub fn from_process(flags: &ArgMatches) -> Result<Self, ConfigError> {
        let path = file_to_read(flags, |name| std::env::var(name).ok());
        let text = path.as_deref();
        let text = text
            .map(|path| read("the configuration file", path))
            .transpose()?;
        let file = path.as_deref().zip(text.as_deref());
        Ok(Self::gather(flags, variables(), file))
    }

    /// The same without any file, as for one that is yet to be written.
    #[must_use]
    pub fn without_file(flags: &ArgMatches) -> Self {
        Self::gather(flags, variables(), None)
    }

    /// The same with one setting as `by` gives it, whatever the sources say.
    ///
    /// # Errors
    /// There is no such setting. Its value is checked by [`RawConfig::resolve`].
    pub fn with(&self, name: &str, value: &str, by: &str) -> Result<Self, ConfigError> {
        let unknown = || format!("{by}: unknown setting `{name}`{}", suggestion(name));
        let setting = setting(name).ok_or_else(|| ConfigError::Invalid(vec![unknown()]))?;
        let given = RawValue {
            texts: texts(setting, value.to_owned()),
            source: Source::Flag(by.to_owned()),
        };
        let mut with = self.clone();
        with.values.insert(setting.name, given);
        Ok(with)
    }

    /// Every setting with the value in force, in the table's order.
    #[must_use]
    pub fn effective(&self) -> Vec<Effective> {
        let one = |setting: &'static Setting| match self.values.get(setting.name) {
            Some(value) => Effective {
                setting,
                value: Some(shown(setting, &value.texts)),
                source: value.source.clone(),
            },
            None => Effective {
                setting,
                value: setting.default.map(str::to_owned),
                source: Source::Default,
            },
        };
        SETTINGS.iter().map(one).collect()
    }

    fn take_flags(&mut self, flags: &ArgMatches) {
        for setting in SETTINGS {
            let Ok(Some(given)) = flags.try_get_many::<String>(setting.name) else {
                continue;
            };
            let texts: Vec<_> = given.cloned().collect();
            if !texts.is_empty() {
                let source = Source::Flag(setting.flag_in_words());
                self.values.insert(setting.name, RawValue { texts, source });
            }
        }
    }

    fn take_env(&mut self, env: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in env {
            let Some(key) = name.strip_prefix("SEXTANT_") else {
                continue;
            };
            // An empty variable counts as unset: that is how shells clear one.
            if OTHER_VARIABLES.contains(&key) || value.is_empty() {
                continue;
            }
            let Some(setting) = setting(&key.to_lowercase()).filter(|found| found.env() == name)
            else {
                self.unknown_env.push(name);
                continue;
            };
            let texts = texts(setting, value);
            let source = Source::Env(name);
            self.values.insert(setting.name, RawValue { texts, source });
        }
        self.unknown_env.sort();
    }

    fn take_file(&mut self, path: &Path, text: &str) {
        let at = |offset: usize| Source::File {
            path: path.to_owned(),
            line: 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count(),
        };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let source = at(error.span().map_or(0, |span| span.start));
                self.problems
                    .push(format!("{source}: this is not TOML: {}", error.message()));
                return;
            }
        };
        self.take_fleet(text, table.get_ref(), &at);
        for (key, value) in table.get_ref() {
            if TABLES.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let source = at(key.span().start);
            let Some(setting) = setting(key.get_ref()) else {
                let hint = suggestion(key.get_ref());
                self.problems.push(format!(
                    "{source}: unknown setting `{}`{hint}",
                    key.get_ref()
                ));
                continue;
            };
            let texts = match (setting.kind, value.get_ref()) {
                (Kind::List | Kind::Arguments, DeValue::Array(items)) => {
                    items.iter().map(|item| scalar(item.get_ref())).collect()
                }
                (_, value) => scalar(value).map(|text| vec![text]),
            };
            match texts {
                Some(texts) => {
                    self.values.insert(setting.name, RawValue { texts, source });
                }
                None => self.problems.push(format!(
                    "{source}: `{}` must be {}, not a TOML {}",
                    setting.name,
                    setting.kind.allowed(),
                    value.get_ref().type_str()
                )),
            }
        }
    }
}

impl RawConfig {
    fn take_fleet(&mut self, text: &str, file: &DeTable<'_>, at: &impl Fn(usize) -> Source) {
        match toml::from_str::<FleetTables>(text) {
            Ok(mut fleet) => {
                fleet.locate(file, at);
                self.fleet = fleet;
            }
            Err(error) => {
                let source = at(error.span().map_or(0, |span| span.start));
                let message = without_value(error.message());
                self.problems.push(format!("{source}: {message}"));
            }
        }
    }
}

/// A message about a value of the wrong type, without the value: it may be a secret.
fn without_value(message: &str) -> String {
    let parts = message.split_once('"').zip(message.rsplit_once('"'));
    match parts {
        Some(((before, _), (_, after))) => format!("{before}...{after}"),
        None => message.to_owned(),
    }
}

/// A TOML value as text; `None` for tables, arrays and dates.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// `; did you mean ...?` where a setting's name is near enough.
pub(crate) fn suggestion(key: &str) -> String {
    let wanted = key.to_lowercase().replace('-', "_");
    let nearest = SETTINGS
        .iter()
        .map(|setting| (strsim::jaro_winkler(&wanted, setting.name), setting.name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((score, name)) if score > 0.8 => format!("; did you mean `{name}`?"),
        _ => "; `sextant config` lists all settings".into(),
    }
}

/// The values of a setting that are given in one text.
fn texts(setting: &Setting, text: String) -> Vec<String> {
    match setting.kind {
        Kind::List | Kind::Arguments => text.split(',').map(|part| part.trim().into()).collect(),
        _ => vec![text],
    }
}

pub(crate) fn shown(setting: &Setting, texts: &[String]) -> String {
    match setting.kind {
        Kind::Secret => "****".into(),
        _ => texts.join(", "),
    }
}
