//! `sextant ps`, `load` and `unload`: the running server's models.

use clap::ArgMatches;
use proto::LoadSpec;
use serde_json::{Value, json};
use stdx::Bytes;

use crate::http::Server;
use crate::outcome::Outcome;
use crate::output::{self, say};
use crate::{configuration, load, models_here};

pub(crate) fn ps(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let server = Server::new(matches, &config)?;
    let answer = block_on(server.get("/admin/models"))?;
    if output::wants_json(matches) {
        output::json(&answer)?;
        return Ok(());
    }
    let models = answer["models"].as_array().map_or(&[][..], Vec::as_slice);
    if models.is_empty() {
        say("The server has no model loaded; `sextant load MODEL` loads one.");
        return Ok(());
    }
    let rows: Vec<_> = models.iter().map(row).collect();
    output::table(
        &[
            "MODEL", "STATE", "MEMORY", "STAYS", "CONTEXT", "SLOTS", "KV", "RESTARTS", "PID",
        ],
        &rows,
    )?;
    for model in models {
        if let (Some(name), Some(why)) = (model["name"].as_str(), model["why"].as_str()) {
            say(&format!("{name}: {why}"));
        }
    }
    Ok(())
}

pub(crate) fn load(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let server = Server::new(matches, &config)?;
    let name = models_here::name_in(matches);
    let known = block_on(server.get("/admin/models"))?;
    let known = known["models"].as_array().map_or(&[][..], Vec::as_slice);
    // A model that the server knows has its settings there; those given here go before them.
    let spec = match known.iter().any(|model| model["name"] == *name) {
        true => LoadSpec {
            name: name.to_owned(),
            ..load::settings(&config)?
        },
        false => load::spec(&config, &models_here::asked(matches, &config)?)?,
    };
    let name = spec.name.clone();
    let mut body = serde_json::to_value(spec)?;
    body["model"] = json!(name);
    if let Some(fields) = body.as_object_mut() {
        // What was not given is the server's to choose.
        fields.retain(|_, value| !value.is_null());
        fields.remove("name");
        if fields["path"] == "" {
            fields.remove("path");
        }
        for flag in ["pin", "force"] {
            if matches.get_flag(flag) {
                fields.insert(flag.to_owned(), json!(true));
            }
        }
    }
    say(&format!("loading {name} ..."));
    block_on(server.post("/admin/models/load", &body))?;
    say(&format!("{name} is ready"));
    Ok(())
}

pub(crate) fn unload(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let server = Server::new(matches, &config)?;
    let name = models_here::name_in(matches);
    let name = block_on(async {
        let name = server.model(name).await?;
        let body = json!({ "model": name });
        server.post("/admin/models/unload", &body).await?;
        Ok(name)
    })?;
    say(&format!("{name} is unloaded"));
    Ok(())
}

fn block_on<T>(future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(future)
}

fn row(model: &Value) -> Vec<String> {
    let facts = &model["facts"];
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let of = |name: &str| facts[name].as_str();
    let kv = match (of("kv_plan"), of("kv_type_k"), of("kv_type_v")) {
        (Some(plan), _, _) => plan.to_owned(),
        (None, Some(k), Some(v)) => format!("{k}/{v}"),
        _ => "-".into(),
    };
    vec![
        text(&model["name"]),
        text(&model["state"]),
        memory(model),
        stays(model),
        text(&facts["context"]),
        text(&facts["slots"]),
        kv,
        text(&model["restarts"]),
        text(&model["pid"]),
    ]
}

/// What the ledger counts; an estimate has a `~`.
fn memory(model: &Value) -> String {
    let bytes = model["memory_bytes"].as_u64().filter(|bytes| *bytes > 0);
    let about = match model["memory_measured"].as_bool() {
        Some(true) => "",
        _ => "~",
    };
    bytes.map_or_else(|| "-".into(), |bytes| format!("{about}{}", Bytes(bytes)))
}

/// Until when a model that is in memory stays there.
fn stays(model: &Value) -> String {
    if model["pinned"].as_bool() == Some(true) {
        return "pinned".into();
    }
    match (&model["expires_in_ms"], model["state"].as_str()) {
        (Value::Number(ms), _) => format!("{} s", ms.as_u64().unwrap_or(0).div_ceil(1000)),
        (_, Some("ready")) => "until needed".into(),
        _ => "-".into(),
    }
}
