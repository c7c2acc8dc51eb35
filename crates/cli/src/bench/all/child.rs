//! This program once more, as a child that ends with us.

use std::process::Command;

use anyhow::Context;
use clap::ArgMatches;
use config::{Config, Kind, RawConfig, SETTINGS, Source};

use crate::outcome::{Code, Outcome, WithCode};
use crate::tether;

/// The program without arguments yet.
pub(super) fn command(environment: &[(String, String)]) -> Outcome<Command> {
    let mut words = tether::prefix()?.into_iter();
    let program = std::env::current_exe().context("this program cannot be found")?;
    let mut command = match words.next() {
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

/// What flags have set, as variables: children have flags of their own. Secrets are left out.
pub(super) fn settings(matches: &ArgMatches, raw: &RawConfig) -> Vec<(String, String)> {
    let flags = raw.effective().into_iter();
    let flags = flags.filter(|one| matches!(one.source, Source::Flag(_)));
    let flags = flags.filter(|one| !matches!(one.setting.kind, Kind::Secret));
    let set = flags.filter_map(|one| Some((one.setting.env(), one.value?)));
    let file = matches.get_one::<String>("config");
    let file = file.map(|file| ("SEXTANT_CONFIG".to_owned(), file.clone()));
    set.chain(file).collect()
}

/// The same with the key that servers are asked with.
pub(super) fn environment(
    mut settings: Vec<(String, String)>,
    config: &Config,
) -> Outcome<Vec<(String, String)>> {
    let setting = SETTINGS.iter().find(|setting| setting.name == "api_key");
    let key = config.read_api_key().code(Code::Usage)?;
    if let Some((setting, key)) = setting.zip(key) {
        // Where a file has the key, the variable would contradict it.
        if config.api_key_file.is_none() {
            settings.push((setting.env(), key.expose().to_owned()));
        }
    }
    Ok(settings)
}
