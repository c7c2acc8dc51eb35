//! `sextant route derive`: routes from what `sextant bench quality` has measured.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bench::derive::{Derived, Evidence, derive};
use bench::quality::suite;
use clap::ArgMatches;
use router::Task;
use serde_json::{Value, json};

use crate::bench::{Attempt, attempts, evidence, interval};
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("derive", matches)) => derived(matches),
        // The parser asks for a subcommand and knows no other.
        _ => Ok(()),
    }
}

fn derived(matches: &ArgMatches) -> Outcome {
    let files = matches.get_many::<PathBuf>("files").unwrap_or_default();
    let mut all: Vec<Attempt> = Vec::new();
    for file in files {
        all.extend(attempts(file)?);
    }
    if all.is_empty() {
        let message = "there is no attempt in these files; `sextant bench quality MODEL --out FILE` \
                       makes some";
        return Err(fault(Code::Usage, message));
    }
    let suite = suite()?;
    let models: BTreeSet<&str> = all.iter().map(|one| one.model.as_str()).collect();
    let evidence: Vec<Evidence> = models
        .into_iter()
        .map(|model| evidence(model, &suite, &all))
        .collect();
    let routes: Vec<(Task, Option<Derived>)> = Task::ALL
        .into_iter()
        .map(|task| (task, derive(task, &evidence)))
        .collect();
    if output::wants_json(matches) {
        let routes = routes
            .iter()
            .map(|(task, route)| as_json(*task, route.as_ref()));
        return Ok(output::json(
            &json!({ "routes": routes.collect::<Vec<_>>() }),
        )?);
    }
    say("add this to the configuration file to use it");
    output::line("[routing.tasks]")?;
    for (task, route) in &routes {
        let Some(route) = route else {
            output::line(&format!(
                "# {}: no model that was measured is for it",
                task.word()
            ))?;
            continue;
        };
        let backup = route.backup.iter();
        let targets = std::iter::once(&route.primary).chain(backup);
        let targets: Vec<String> = targets
            .map(|choice| Value::from(choice.model.as_str()).to_string())
            .collect();
        output::line(&format!("# {}", route.reason()))?;
        output::line(&format!("{} = [{}]", task.word(), targets.join(", ")))?;
    }
    Ok(())
}

fn as_json(task: Task, route: Option<&Derived>) -> Value {
    let Some(route) = route else {
        return json!({ "task": task.word(), "primary": null, "backup": null });
    };
    let choice = |choice: &bench::derive::Choice| {
        json!({
            "model": choice.model,
            "right": choice.right,
            "n": choice.n,
            "interval": interval(choice.interval),
            "seconds_mean": choice.seconds_mean,
        })
    };
    json!({
        "task": task.word(),
        "primary": choice(&route.primary),
        "backup": route.backup.as_ref().map(choice),
        "inseparable": route.inseparable,
        "reason": route.reason(),
    })
}
