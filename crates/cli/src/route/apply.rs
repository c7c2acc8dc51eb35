//! Derived routes are written into the configuration file, once somebody agrees.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context;
use bench::derive::Derivation;
use clap::ArgMatches;
use config::{NewRoute, RawConfig, RouteChange, with_routes};
use serde_json::{Value, json};

use super::targets;
use crate::configuration::Editable;
use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::output::{self, say};
use crate::serve;

/// What was done to the file.
pub(super) struct Applied {
    path: PathBuf,
    /// The file as it was before; `None` where there was none, or nothing was written.
    backup: Option<PathBuf>,
    changes: Vec<RouteChange>,
    is_written: bool,
}

impl Applied {
    pub(super) fn as_json(&self) -> Value {
        let changes = self.changes.iter().filter(|change| change.is_another());
        let changes = changes.map(
            |change| json!({ "task": change.task, "before": change.before, "after": change.after }),
        );
        json!({
            "file": self.path,
            "backup": self.backup,
            "written": self.is_written,
            "changes": changes.collect::<Vec<_>>(),
        })
    }
}

pub(super) fn apply(matches: &ArgMatches, derivations: &[Derivation]) -> Outcome<Applied> {
    let file = Editable::open(matches)?;
    let path = file.path.display();
    let new: Vec<NewRoute> = derivations.iter().filter_map(route).collect();
    let (after, changes) = with_routes(&file.text, &new)
        .map_err(|why| anyhow::anyhow!("`{path}` was not changed: {why}"))
        .code(Code::Usage)?;
    let mut applied = Applied {
        path: file.path.clone(),
        backup: None,
        changes,
        is_written: false,
    };
    warn_of_refused(&file, derivations);
    if after == file.text {
        say(&match new.is_empty() {
            true => "no task has a route, so there is nothing to write".to_owned(),
            false => format!("`{path}` has these routes already; nothing was written"),
        });
        return Ok(applied);
    }
    check(matches, &file, &after)?;
    tell(&applied, output::wants_json(matches))?;
    if !matches.get_flag("yes") && !agreed(&file)? {
        say("nothing was written");
        return Ok(applied);
    }
    applied.backup = back_up(&file)?;
    file.replace(&after)?;
    applied.is_written = true;
    if let Some(backup) = &applied.backup {
        say(&format!("the file as it was is in `{}`", backup.display()));
    }
    say(&format!(
        "wrote `{path}`; a server that runs with it takes it within two seconds, at once on SIGHUP, \
         and says in its log and in `GET /v1/providers` where it cannot"
    ));
    Ok(applied)
}

fn route(derivation: &Derivation) -> Option<NewRoute> {
    let route = derivation.route.as_ref()?;
    let evidence = match route.evidence().as_slice() {
        [] => String::new(),
        ids => format!(" ({})", ids.join(", ")),
    };
    Some(NewRoute {
        task: derivation.task.word().to_owned(),
        targets: targets(derivation),
        note: format!("{}{evidence}", route.rule()),
    })
}

/// A route that stays as somebody set it may name a model that has failed.
fn warn_of_refused(file: &Editable, derivations: &[Derivation]) {
    for one in derivations.iter().filter(|one| one.route.is_none()) {
        let task = one.task.word();
        let kept = config::routes_of(&file.text).remove(task);
        for refused in &one.refused {
            let is_named = |target: &String| *target == refused.model;
            if kept.iter().flatten().any(is_named) {
                say(&format!(
                    "warning: `{task}` in `{}` names `{}`, which is not for it: {}; it stays, since \
                     no other model that was measured is",
                    file.path.display(),
                    refused.model,
                    refused.why.reason()
                ));
            }
        }
    }
}

/// The text must be one that a server would take.
fn check(matches: &ArgMatches, file: &Editable, after: &str) -> Outcome {
    let env = std::env::vars_os().map(|(name, value)| {
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        (text(&name), text(&value))
    });
    let raw = RawConfig::gather(matches, env, Some((file.path.as_path(), after)));
    let config = raw.resolve().code(Code::Usage)?;
    serve::check_rules(&config)
}

/// A comment alone may change too, when the same routes rest on new results.
fn tell(applied: &Applied, wants_json: bool) -> Outcome {
    let line = |text: &str| match wants_json {
        // There it is in the answer.
        true => {
            say(text);
            Ok(())
        }
        false => output::line(text),
    };
    line(&format!("--- {} [routing.tasks]", applied.path.display()))?;
    for change in &applied.changes {
        let shown = |targets: &[String]| {
            let targets = targets
                .iter()
                .map(|one| Value::from(one.as_str()).to_string());
            let targets: Vec<String> = targets.collect();
            format!("{} = [{}]", change.task, targets.join(", "))
        };
        if !change.is_another() {
            line(&format!("  {}", shown(&change.after)))?;
            continue;
        }
        if let Some(before) = &change.before {
            line(&format!("- {}", shown(before)))?;
        }
        line(&format!("+ {}", shown(&change.after)))?;
    }
    Ok(())
}

fn agreed(file: &Editable) -> Outcome<bool> {
    say(&format!("write this to `{}`? [y/N]", file.path.display()));
    let mut answer = String::new();
    if io::stdin().read_line(&mut answer)? == 0 {
        let message = "nobody answered, so nothing was written; `--yes` writes without asking";
        return Err(fault(Code::Usage, message));
    }
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// Keeps the file as it is beside it, with the same rights.
fn back_up(file: &Editable) -> Outcome<Option<PathBuf>> {
    if !file.path.exists() {
        return Ok(None);
    }
    let mut name = file.path.clone().into_os_string();
    name.push(".bak");
    let backup = PathBuf::from(name);
    fs::copy(&file.path, &backup)
        .with_context(|| format!("`{}` cannot be written", backup.display()))?;
    Ok(Some(backup))
}
