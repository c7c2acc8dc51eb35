//! `sextant ls` and `sextant rm`.

use clap::ArgMatches;
use models::Found;
use models::stores::{RemoveError, remove};
use serde_json::json;

use crate::outcome::{Code, Outcome, WithCode};
use crate::{configuration, models_here, output};

pub(crate) fn ls(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let found = models::list(&models_here::environment(&config));
    if output::wants_json(matches) {
        output::json(&found.iter().map(as_json).collect())?;
        return Ok(());
    }
    if found.is_empty() {
        output::say("There is no model on this machine yet; get one with `sextant pull SPEC`.");
        return Ok(());
    }
    let rows: Vec<_> = found.iter().map(row).collect();
    output::table(
        &[
            "MODEL",
            "STORE",
            "SIZE",
            "QUANT",
            "ARCHITECTURE",
            "CONTEXT",
            "STATE",
        ],
        &rows,
    )?;
    Ok(())
}

pub(crate) fn rm(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let environment = models_here::environment(&config);
    let name = models_here::name_in(matches);
    let removed = match remove(&environment, name) {
        Err(error @ (RemoveError::Resolve(_) | RemoveError::NotHere { .. })) => {
            Err(error).code(Code::ModelNotFound)?
        }
        other => other?,
    };
    output::say(&format!(
        "removed {} ({} files, {})",
        removed.id,
        removed.files.len(),
        removed.freed
    ));
    Ok(())
}

fn row(found: &Found) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    vec![
        found.id.clone(),
        found.store.to_string(),
        found.bytes.to_string(),
        or_dash(&found.quant),
        or_dash(&found.architecture),
        found.context_length.map_or("-".into(), |n| n.to_string()),
        found
            .fault
            .as_ref()
            .map_or("ok".into(), ToString::to_string),
    ]
}

/// A model as the JSON of `ls` and `show` has it.
pub(crate) fn as_json(found: &Found) -> serde_json::Value {
    json!({
        "id": found.id,
        "store": found.store.prefix(),
        "path": found.path,
        "files": found.files,
        "bytes": found.bytes.0,
        "quant": found.quant,
        "architecture": found.architecture,
        "name": found.name,
        "context_length": found.context_length,
        "parameters": found.n_parameters,
        "has_chat_template": found.has_chat_template,
        "source": found.source,
        "fault": found.fault.as_ref().map(ToString::to_string),
    })
}
