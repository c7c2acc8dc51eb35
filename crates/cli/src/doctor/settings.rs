//! What the configuration says, and whether what it names is there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, Command};
use config::{Config, ConfigError, RawConfig, augment};
use doctor::{Code, Finding};
use futures_util::future::join_all;
use gateway::{Asking, RoutedProvider};
use models::Environment;
use rustix::fs::Access;

use super::{Report, Serving};
use crate::outcome::{Code as Exit, Outcome, WithCode};
use crate::{models_here, serve};

/// Time that a provider has to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The configuration as its files have it now, and everything that is wrong with it. Where it
/// cannot be used, the rest is judged by what the server that asks was started with, or by the
/// defaults.
pub(super) fn read(
    matches: &ArgMatches,
    server: Option<&Serving>,
    report: &mut Report,
) -> Outcome<Config> {
    let path = config::file_to_read(matches, |name| std::env::var(name).ok());
    report.look(&match path {
        Some(path) => format!("the settings (`{}`)", path.display()),
        None => "the settings (no file)".to_owned(),
    });
    let raw = RawConfig::from_process(matches);
    let unknown = raw
        .as_ref()
        .map_or(&[][..], |raw| raw.unknown_env.as_slice());
    report.add(unknown.iter().map(|name| {
        Finding::new(
            Code::VariableUnknown,
            format!("{name} is set, and there is no such setting"),
            "`sextant config` lists them; correct its name, or unset it",
        )
    }));
    match raw.and_then(|raw| raw.resolve()) {
        Ok(config) => {
            files(&config, report);
            Ok(config)
        }
        Err(error) => {
            report.add(of_error(&error));
            let judged_by = match server {
                Some(_) => "what this server was started with",
                None => "the defaults",
            };
            report.skip(
                "what the settings name",
                &format!("they cannot be used, so the rest is judged by {judged_by}"),
            );
            if let Some(server) = server {
                return Ok(server.config.clone());
            }
            let none = augment(Command::new("none"), |_| true).get_matches_from(["none"]);
            RawConfig::gather(&none, [], None)
                .resolve()
                .code(Exit::Usage)
        }
    }
}

fn of_error(error: &ConfigError) -> Vec<Finding> {
    match error {
        ConfigError::Invalid(problems) => problems
            .iter()
            .map(|problem| Finding::of_message(Code::ConfigInvalid, problem))
            .collect(),
        ConfigError::Unreadable { .. } => {
            vec![Finding::new(
                Code::ConfigUnreadable,
                error.to_string(),
                "correct its path, or let this user read it",
            )]
        }
    }
}

/// The files that settings name.
fn files(config: &Config, report: &mut Report) {
    let errors = [
        config.read_chat_template().err(),
        config.read_api_key().err(),
        config.read_ca_file().err(),
        config.read_otlp_headers().err(),
        config.tls_files().err(),
    ];
    for error in errors.iter().flatten() {
        report.add(of_error(error));
    }
    if let Ok(Some((certificate, key))) = config.tls_files() {
        for (what, path) in [("the certificate", certificate), ("its key", key)] {
            if let Err(error) = std::fs::read(path) {
                let path = path.to_owned();
                report.add(of_error(&ConfigError::Unreadable { what, path, error }));
            }
        }
    }
}

/// The models that the configuration names.
pub(super) fn names(config: &Config, environment: &Environment, report: &mut Report) {
    let presets = config.presets.iter();
    let presets = presets.map(|preset| (format!("the model `{}`", preset.name), &preset.model));
    let is_preset = |name: &String| config.presets.iter().any(|one| one.name == *name);
    let loads = config.load.iter().filter(|name| !is_preset(name));
    let loads = loads.map(|name| ("`load`".to_owned(), name));
    for (who, name) in presets.chain(loads) {
        if let Err(error) = models_here::find(environment, name) {
            let message = format!("{who}: {error}");
            report.add([Finding::of_message(Code::PresetModel, &message)]);
        }
    }
}

/// The providers, their programs and, where the network may be used, whether they answer.
pub(super) fn providers(config: &Config, asking: Asking, report: &mut Report) -> Outcome {
    for table in &config.fleet.providers {
        if let Some(program) = table.command.as_ref().and_then(|words| words.first()) {
            report.add(of_program(&table.name, Path::new(program.0.expose())));
        }
    }
    let routing = match serve::routing(config) {
        Ok(routing) => routing,
        Err(error) => {
            let message = error.to_string();
            report.add([Finding::of_message(Code::ProviderInvalid, &message)]);
            return Ok(());
        }
    };
    if routing.providers.is_empty() {
        return Ok(());
    }
    if asking == Asking::Nobody {
        report.skip("whether providers answer", "`--network` asks them");
        return Ok(());
    }
    report.look("the providers");
    let runtime = tokio::runtime::Runtime::new()?;
    let asked = routing.providers.iter().map(unreachable);
    report.add(runtime.block_on(join_all(asked)).into_iter().flatten());
    Ok(())
}

async fn unreachable(routed: &RoutedProvider) -> Option<Finding> {
    // What we run ourselves is started when it is needed.
    if routed.provider.process().is_some() {
        return None;
    }
    let told = match tokio::time::timeout(ANSWER, routed.provider.survey()).await {
        Ok(Ok(_)) => return None,
        Ok(Err(cause)) => cause,
        Err(_) => format!("it does not answer within {} s", ANSWER.as_secs()),
    };
    let place = routed.provider.url().unwrap_or_default();
    Some(Finding::new(
        Code::ProviderUnreachable,
        format!(
            "the provider `{}` {place} cannot be used: {told}",
            routed.name
        ),
        "start it, or correct its `url` and its key in `[[providers]]`",
    ))
}

/// The program that runs a provider.
fn of_program(provider: &str, program: &Path) -> Option<Finding> {
    let Some(path) = find_program(program) else {
        return Some(Finding::new(
            Code::ProgramMissing,
            format!(
                "the provider `{provider}` is run by `{}`, which is not there",
                program.display()
            ),
            "install it, or write its whole path into `command`",
        ));
    };
    let shown = path.display();
    let may = rustix::fs::access(&path, Access::EXEC_OK).is_ok();
    (!may).then(|| {
        Finding::new(
            Code::ProgramNotExecutable,
            format!("the provider `{provider}` is run by `{shown}`, which may not be executed"),
            format!("`chmod +x {shown}`"),
        )
    })
}

/// Where the system would find it.
fn find_program(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let folders = std::env::var_os("PATH")?;
    let mut paths = std::env::split_paths(&folders).map(|folder| folder.join(program));
    paths.find(|path| path.is_file())
}
