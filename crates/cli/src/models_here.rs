//! Finding models on this machine, with the command line's exit codes.

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use config::Config;
use models::pull::{Options, Puller};
use models::{Environment, Found, Resolved, Store};

use crate::outcome::{Code, Outcome, WithCode, fault};

/// This process's environment with the configured folder for our own models.
pub(crate) fn environment(config: &Config) -> Environment {
    let environment = Environment::from_process();
    match &config.models_dir {
        Some(dir) => environment.with_var("SEXTANT_MODELS", dir.to_string_lossy()),
        None => environment,
    }
}

/// Which model a name means and the settings in force for it: of a preset those of its table.
pub(crate) fn with_settings<'a>(config: &'a Config, name: &'a str) -> (&'a str, &'a Config) {
    let preset = config.presets.iter().find(|one| one.name == name);
    preset.map_or((name, config), |preset| (&preset.model, &preset.config))
}

/// What a command is given as its model; empty where it may go without and does.
pub(crate) fn name_in(matches: &ArgMatches) -> &str {
    matches
        .get_one::<String>("model")
        .map_or("", String::as_str)
}

/// The model that a command is given, which must be here and sound.
pub(crate) fn asked(matches: &ArgMatches, config: &Config) -> Outcome<Found> {
    find(&environment(config), name_in(matches))
}

/// The model that `spec` names, which must be here and sound.
pub(crate) fn find(environment: &Environment, spec: &str) -> Outcome<Found> {
    let found = present(environment, spec)?;
    match found.fault.clone() {
        None => Ok(found),
        Some(fault) => Err(fault).code(Code::ModelNotFound),
    }
}

/// The model that `spec` names, which must be here and may be broken.
pub(crate) fn present(environment: &Environment, spec: &str) -> Outcome<Found> {
    match models::resolve(environment, spec).code(Code::ModelNotFound)? {
        Resolved::Present(found) => Ok(*found),
        Resolved::Pull(source) => Err(fault(
            Code::ModelNotFound,
            format!("`{source}` is not here yet; get it with `sextant pull {source}`"),
        )),
    }
}

/// The name as it is given; for a model that is not here and can be pulled the path of its header, which is
/// fetched into `folder`. Blocking.
pub(crate) fn find_or_header(
    environment: &Environment,
    spec: &str,
    folder: &Path,
) -> Outcome<String> {
    let Ok(Resolved::Pull(source)) = models::resolve(environment, spec) else {
        return Ok(spec.to_owned());
    };
    let options = Options::from_environment(environment).code(Code::Download)?;
    let puller = Puller::new(options).code(Code::Download)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let path = runtime
        .block_on(puller.headers(&source, folder))
        .code(Code::Download)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Whether there is no model here that could be served.
pub(crate) fn is_bare(environment: &Environment) -> bool {
    let found = models::list(environment);
    found.iter().all(|found| found.fault.is_some())
}

/// The models to load: those configured, else the only one on this machine.
pub(crate) fn to_load(environment: &Environment, specs: &[String]) -> Outcome<Vec<Found>> {
    if !specs.is_empty() {
        return specs.iter().map(|spec| find(environment, spec)).collect();
    }
    let usable: Vec<_> = models::list(environment)
        .into_iter()
        .filter(|found| found.fault.is_none())
        .collect();
    let message = match usable.as_slice() {
        [_] => return Ok(usable),
        [] => "there is no model on this machine yet; get one, for example with \
               `sextant pull hf:OWNER/REPO`, then start again"
            .to_owned(),
        several => {
            let ids: Vec<_> = several.iter().map(|found| found.id.as_str()).collect();
            format!(
                "which model? Name one or more: `sextant serve MODEL`. Here are: {}",
                ids.join(", ")
            )
        }
    };
    Err(fault(Code::ModelNotFound, message))
}

/// The name clients use: the id, for a path the file's name.
pub(crate) fn served_name(found: &Found) -> String {
    match found.store {
        Store::Path => found
            .path
            .file_stem()
            .map_or_else(|| found.id.clone(), |stem| stem.to_string_lossy().into()),
        _ => found.id.clone(),
    }
}

/// Refuses two files under one name, of which clients could reach only one.
pub(crate) fn check_names(found: &[Found]) -> Outcome {
    for (index, later) in found.iter().enumerate() {
        let name = served_name(later);
        let earlier = found
            .iter()
            .take(index)
            .find(|one| served_name(one) == name);
        if let Some(earlier) = earlier.filter(|one| absolute(&one.path) != absolute(&later.path)) {
            let message = format!(
                "`{}` and `{}` would both be served as `{name}`; serve one of them, or rename \
                 a file",
                earlier.path.display(),
                later.path.display()
            );
            return Err(fault(Code::Usage, message));
        }
    }
    Ok(())
}

/// An absolute path, since a worker or a server may run elsewhere.
pub(crate) fn absolute(path: &PathBuf) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.clone())
}
