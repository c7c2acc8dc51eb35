//! `sextant route derive`: routes from what `sextant bench quality` has measured.

mod apply;
mod evidence;

use std::collections::BTreeSet;

use bench::derive::{Choice, Derivation, Evidence, derive};
use clap::ArgMatches;
use config::Config;
use router::Task;
use serde_json::{Value, json};

use self::evidence::Shown;
use crate::bench::{Attempt, Stored, interval};
use crate::http::{reachable, scheme};
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};
use crate::{configuration, models_here};

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("derive", matches)) => derived(matches),
        // The parser asks for a subcommand and knows no other.
        _ => Ok(()),
    }
}

fn derived(matches: &ArgMatches) -> Outcome {
    let config = configuration::read_quiet(matches)?;
    let lines = crate::bench::lines(matches, "files")?;
    let mut stored: Vec<Stored> = lines.iter().map(Stored::of).collect();
    for one in &mut stored {
        name_as_routed(one, &config);
    }
    let all: Vec<Attempt> = stored.iter().flat_map(|one| one.attempts.clone()).collect();
    if all.is_empty() {
        let message = "there is no attempt in these files; `sextant bench quality MODEL --out FILE` \
                       makes some";
        return Err(fault(Code::Usage, message));
    }
    let derivations = derivations(&all)?;
    let shown = evidence::shown(&stored, &config, &models_here::environment(&config));
    let wants_json = output::wants_json(matches);
    if !wants_json {
        write(&derivations, &shown)?;
    }
    for warning in evidence::warnings(&stored, &shown) {
        say(&format!("warning: {warning}"));
    }
    let applied = match matches.get_flag("apply") {
        true => Some(apply::apply(matches, &derivations)?),
        false => None,
    };
    if wants_json {
        let routes = derivations.iter().map(as_json);
        let evidence = shown.iter().map(Shown::as_json);
        output::json(&json!({
            "routes": routes.collect::<Vec<_>>(),
            "evidence": evidence.collect::<Vec<_>>(),
            "applied": applied.map(|applied| applied.as_json()),
        }))?;
    }
    Ok(())
}

/// Names the models of a file as routes name them: those of a provider after it.
fn name_as_routed(stored: &mut Stored, config: &Config) {
    let plain = |url: &str| url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
    let at = plain(&stored.server);
    let mut providers = config.fleet.providers.iter();
    let provider = providers.find(|table| table.url.as_deref().map(plain).as_ref() == Some(&at));
    if let Some(provider) = provider {
        let named = |model: &str| format!("{}:{model}", provider.name);
        for attempt in &mut stored.attempts {
            attempt.model = named(&attempt.model);
        }
        return;
    }
    let own = format!("{}://{}", scheme(config), reachable(config.listen));
    if at != own && !stored.attempts.is_empty() {
        say(&format!(
            "warning: `{}` was measured at {at}, which is neither this configuration's server nor \
             one of its providers; the names of its models may mean nothing here",
            stored.file.display()
        ));
    }
}

fn derivations(all: &[Attempt]) -> Outcome<Vec<Derivation>> {
    let asked = crate::bench::asked(all)?;
    let models: BTreeSet<&str> = all.iter().map(|one| one.model.as_str()).collect();
    let evidence: Vec<Evidence> = models
        .into_iter()
        .map(|model| crate::bench::evidence(model, &asked, all))
        .collect();
    let tasks = Task::ALL.into_iter();
    Ok(tasks.map(|task| derive(task, &evidence)).collect())
}

/// The lines of a route, and above them whence it comes.
fn write(derivations: &[Derivation], shown: &[Shown]) -> Outcome {
    say("add this to the configuration file to use it; `--apply` does");
    output::line("[routing.tasks]")?;
    for one in derivations {
        for refused in &one.refused {
            let (task, model, why) = (one.task.word(), &refused.model, refused.why.reason());
            output::line(&format!("# {task}: not {model}: {why}"))?;
        }
        let Some(route) = &one.route else {
            output::line(&format!(
                "# {}: no model that was measured is for it",
                one.task.word()
            ))?;
            continue;
        };
        let targets = targets(one).into_iter();
        let targets: Vec<String> = targets
            .map(|target| Value::from(target).to_string())
            .collect();
        output::line(&format!("# {}", route.reason()))?;
        let evidence = route.evidence();
        if !evidence.is_empty() {
            output::line(&format!("# evidence: {}", evidence.join(", ")))?;
        }
        output::line(&format!("{} = [{}]", one.task.word(), targets.join(", ")))?;
    }
    for one in shown {
        output::line(&format!("# {}", one.line()))?;
    }
    Ok(())
}

/// Who takes a task, in order; empty where nobody does.
fn targets(derivation: &Derivation) -> Vec<String> {
    let route = derivation.route.iter();
    let choices = route.flat_map(|route| std::iter::once(&route.primary).chain(&route.backup));
    choices.map(|choice| choice.model.clone()).collect()
}

fn as_json(derivation: &Derivation) -> Value {
    let choice = |choice: &Choice| {
        json!({
            "model": choice.model,
            "right": choice.right,
            "n": choice.n,
            "interval": interval(choice.interval),
            "seconds_mean": choice.seconds_mean,
            "evidence": choice.evidence,
        })
    };
    let refused = derivation.refused.iter().map(
        |one| json!({ "model": one.model, "why": one.why.word(), "reason": one.why.reason() }),
    );
    let route = derivation.route.as_ref();
    json!({
        "task": derivation.task.word(),
        "primary": route.map(|route| choice(&route.primary)),
        "backup": route.and_then(|route| route.backup.as_ref()).map(choice),
        "inseparable": route.map(|route| &route.inseparable),
        "reason": route.map(|route| route.reason()),
        "refused": refused.collect::<Vec<_>>(),
    })
}
