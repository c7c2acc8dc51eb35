//! Command-line flags from the settings table.

use clap::{Arg, ArgAction, Command};

use crate::{Kind, SETTINGS, Setting};

/// Adds the flags of the settings that the command `takes`, and `--config`.
///
/// Values stay text here: they are checked where the other sources are, so that a
/// bad value reads the same wherever it came from.
#[must_use]
pub fn augment(command: Command, takes: impl Fn(&Setting) -> bool) -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .help("Read settings from this TOML file [env: SEXTANT_CONFIG]");
    SETTINGS
        .iter()
        .filter(|setting| takes(setting))
        .map(arg)
        .fold(command.arg(file), Command::arg)
}

fn arg(setting: &Setting) -> Arg {
    let arg = Arg::new(setting.name)
        .help(help(setting))
        .help_heading(setting.group.title());
    let value_name = match setting.kind {
        Kind::Address => "ADDRESS",
        Kind::Host => "HOST",
        Kind::Path => "PATH",
        Kind::Url => "URL",
        Kind::Secret => "KEY",
        Kind::Arguments => "MODEL",
        Kind::List => "LIST",
        Kind::Count { .. } => "N",
        Kind::Bytes { .. } => "BYTES",
        Kind::Cpus => "CPUS",
        Kind::KvPlan => "PLAN",
        Kind::Switch => "BOOL",
        Kind::Choice(_) => "WORD",
    };
    let arg = arg.value_name(value_name);
    match setting.kind {
        Kind::Arguments => arg.action(ArgAction::Append).num_args(0..),
        Kind::List => arg
            .long(setting.flag())
            .action(ArgAction::Append)
            .value_delimiter(','),
        Kind::Switch => arg
            .long(setting.flag())
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        _ => arg.long(setting.flag()),
    }
}

fn help(setting: &Setting) -> String {
    let mut text = setting.doc.to_owned();
    match setting.kind {
        Kind::Choice(_) | Kind::Count { .. } => {
            text.push_str(&format!(" Takes {}.", setting.kind.allowed()));
        }
        _ => {}
    }
    match setting.default {
        Some(default) => text.push_str(&format!(" [default: {default}]")),
        None => text.push_str(&format!(" [default: {}]", setting.unset)),
    }
    text.push_str(&format!(" [env: {}]", setting.env()));
    text
}
