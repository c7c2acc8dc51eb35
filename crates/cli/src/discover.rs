//! `sextant providers discover`, and what `sextant serve` says of engines beside it.

use clap::ArgMatches;
use config::{Config, NewProvider, with_providers};
use providers::discover::{Found, discover, local_port, ports_without};
use serde_json::{Value, json};

use crate::configuration::Editable;
use crate::outcome::{Code, Outcome, WithCode};
use crate::output::{self, say};
use crate::{configuration, logging};

/// Names of models that are shown of one engine; all are counted.
const MODELS_SHOWN_MAX: usize = 5;

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("discover", matches)) => run_discover(matches),
        // The parser asks for a subcommand and knows no other.
        _ => Ok(()),
    }
}

fn run_discover(matches: &ArgMatches) -> Outcome {
    let config = configuration::read_quiet(matches)?;
    logging::start(config.log_level, config.log_format);
    let runtime = tokio::runtime::Runtime::new()?;
    let ports = unknown_ports(&config, config.listen.port());
    let found = runtime.block_on(discover(&ports));
    let tables = tables(&config, &found);
    if matches.get_flag("add") {
        add(matches, &tables)?;
    }
    if output::wants_json(matches) {
        let list = found.iter().map(described).collect::<Value>();
        output::json(&json!({ "found": list, "toml": toml(&tables) }))?;
        return Ok(());
    }
    for one in &found {
        say(&sentence(one));
    }
    if found.is_empty() {
        say("found no engine on this machine that is not configured");
    } else if !matches.get_flag("add") && !tables.is_empty() {
        output::piece(&toml(&tables))?;
        say("these lines go into the configuration file; `--add` writes them there");
    }
    Ok(())
}

/// Says which engines are here that are not configured. Nobody waits for it.
pub(crate) async fn tell(config: Config, own_port: u16) {
    for one in discover(&unknown_ports(&config, own_port)).await {
        let sentence = sentence(&one);
        say(&match one.needs_key {
            true => sentence,
            false => format!("{sentence}; `sextant providers discover --add` uses it"),
        });
    }
}

/// The usual ports without our own and those of providers.
fn unknown_ports(config: &Config, own_port: u16) -> Vec<u16> {
    let urls = config.fleet.providers.iter();
    let urls = urls.filter_map(|table| table.url.as_deref());
    let mut known: Vec<u16> = urls.filter_map(local_port).collect();
    known.push(own_port);
    ports_without(&known)
}

fn sentence(found: &Found) -> String {
    let name = found.product.name();
    let port = found.port;
    if found.needs_key {
        return format!(
            "found {name} on port {port}, it seems; it wants a key, so write its provider \
             yourself, with `key_env`"
        );
    }
    let version = found.version.as_ref();
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    let models = match found.models.len() {
        0 => "no models".to_owned(),
        1 => "1 model".to_owned(),
        n => format!("{n} models"),
    };
    format!("found {name}{version} with {models} on port {port}")
}

/// The tables of those that can be used as they are, under names that are free among them.
fn tables(config: &Config, found: &[Found]) -> Vec<NewProvider> {
    let mut tables: Vec<NewProvider> = Vec::new();
    for one in found.iter().filter(|one| !one.needs_key) {
        let word = one.product.word();
        let is_taken = tables.iter().any(|table| table.name == word)
            || config
                .fleet
                .providers
                .iter()
                .any(|table| table.name == word);
        let names = one.models.iter().map(|model| model.name.as_str());
        let names: Vec<_> = names.take(MODELS_SHOWN_MAX).collect();
        let rest = match one.models.len() > names.len() {
            true => ", ...",
            false => "",
        };
        let models = match names.is_empty() {
            true => String::new(),
            false => format!(": {}{rest}", names.join(", ")),
        };
        tables.push(NewProvider {
            comment: format!("{}{models}", sentence(one)),
            name: match is_taken {
                true => format!("{word}-{}", one.port),
                false => word.to_owned(),
            },
            kind: one.product.kind().word().to_owned(),
            url: one.url.clone(),
        });
    }
    tables
}

fn toml(tables: &[NewProvider]) -> String {
    let tables: Vec<_> = tables.iter().map(NewProvider::toml).collect();
    tables.join("\n")
}

fn described(found: &Found) -> Value {
    let models = found.models.iter().map(
        |model| json!({ "name": model.name, "context": model.context, "loaded": model.is_loaded }),
    );
    json!({
        "product": found.product.name(),
        "kind": found.product.kind().word(),
        "url": found.url,
        "version": found.version,
        "needs_key": found.needs_key,
        "models": models.collect::<Value>(),
    })
}

fn add(matches: &ArgMatches, tables: &[NewProvider]) -> Outcome {
    if tables.is_empty() {
        say("there is nothing to add");
        return Ok(());
    }
    let file = Editable::open(matches)?;
    let path = file.path.display();
    let after = with_providers(&file.text, tables)
        .map_err(|why| anyhow::anyhow!("`{path}` was not changed: {why}"))
        .code(Code::Usage)?;
    file.replace(&after)?;
    let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
    say(&format!("added {} to {path}", names.join(", ")));
    Ok(())
}
