//! The models of `[[models]]`, each with the settings that are in force for it.
//!
//! A setting in a model's table stands in place of the same setting for all models,
//! wherever that came from: what is said of one model is meant more than what is said of
//! all.

use std::time::Duration;

use crate::fleet::{FleetTables, ModelTable};
use crate::raw::{RawConfig, RawValue, Source, suggestion};
use crate::{Config, ConfigError, Group, Setting, setting};

/// A model that may be loaded on demand.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    pub name: String,
    /// Which model: a name as `sextant ls` shows it, or a path.
    pub model: String,
    pub aliases: Vec<String>,
    pub pin: bool,
    /// `None` says nothing; `Some(None)` keeps it until memory is needed for another.
    pub keep_alive: Option<Option<Duration>>,
    pub helps: Option<String>,
    /// The configuration as it is for this model.
    pub config: Box<Config>,
}

/// Every preset that can be used, and what is wrong with the others.
pub(crate) fn read(raw: &RawConfig) -> (Vec<Preset>, Vec<String>) {
    let mut presets: Vec<Preset> = Vec::new();
    let mut problems = Vec::new();
    for table in &raw.fleet.models {
        let name = &table.name;
        if name.trim() != name || name.is_empty() || name.chars().any(char::is_control) {
            problems.push(format!(
                "`[[models]]` has the name `{name}`; it must be a text without control \
                 characters and without spaces around it"
            ));
        } else if presets.iter().any(|one| one.name == *name) {
            problems.push(format!(
                "`[[models]]` has the name `{name}` twice; choose another"
            ));
        }
        match preset(raw, table) {
            Ok(preset) => presets.push(preset),
            Err(found) => problems.extend(found),
        }
    }
    (presets, problems)
}

fn preset(raw: &RawConfig, table: &ModelTable) -> Result<Preset, Vec<String>> {
    let mut own = RawConfig {
        values: raw.values.clone(),
        fleet: FleetTables::default(),
        ..RawConfig::default()
    };
    for (key, value) in &table.settings {
        match one(table, key, value) {
            Ok((setting, value)) => {
                own.values.insert(setting.name, value);
            }
            Err(problem) => own.problems.push(problem),
        }
    }
    let config = own.resolve().map_err(|error| match error {
        // What is wrong for all models is told once.
        ConfigError::Invalid(problems) => {
            let source = Source::Preset(table.name.clone()).to_string();
            let own = problems.into_iter();
            own.filter(|problem| problem.contains(&source)).collect()
        }
        error @ ConfigError::Unreadable { .. } => vec![error.to_string()],
    })?;
    let keep_alive = table.keep_alive_secs.map(|secs| match secs {
        0 => None,
        secs => Some(Duration::from_secs(secs)),
    });
    Ok(Preset {
        name: table.name.clone(),
        model: table.model.clone().unwrap_or_else(|| table.name.clone()),
        aliases: table.aliases.clone(),
        pin: table.pin,
        keep_alive,
        helps: table.helps.clone(),
        config: Box::new(config),
    })
}

fn one(
    table: &ModelTable,
    key: &str,
    value: &toml::Value,
) -> Result<(&'static Setting, RawValue), String> {
    let source = Source::Preset(table.name.clone());
    let per_model =
        |found: &&Setting| found.group == Group::Engine || found.name == "chat_template_file";
    let Some(found) = setting(key) else {
        let hint = suggestion(key);
        return Err(format!("{source}: unknown setting `{key}`{hint}"));
    };
    let Some(setting) = Some(found).filter(per_model) else {
        return Err(format!("{source}: `{key}` is for the whole server"));
    };
    let text = match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(value) => value.to_string(),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            return Err(format!(
                "{source}: `{key}` must be {}, not a TOML {}",
                setting.kind.allowed(),
                value.type_str()
            ));
        }
    };
    let texts = vec![text];
    Ok((setting, RawValue { texts, source }))
}
