//! Finding models on this machine, with the command line's exit codes.

use std::path::PathBuf;

use config::Config;
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
