//! Other providers and routing rules, from the configuration's tables.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use config::{FleetTables, PriceTable, ProviderTable, RoutingTable, SecretText};
use gateway::{EMBEDDED, Price, Prices, RoutedProvider, Routing};
use providers::{
    Kind, Managed, ManagedConfig, Provider, Remote, RemoteConfig, Start, Streams, Timeouts,
};
use router::{Policy, Reach, Rule, Rules, Task};
use stdx::Secret;

use crate::outcome::{Code, Outcome, WithCode};
use crate::tether;

/// Names of providers that mean something else to those who ask.
const RESERVED: [&str; 4] = [EMBEDDED, "alias", "auto", "sextant"];

/// How long an engine that we run may be without a request, where nothing is said of it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1_800);
/// How long it may take until it answers: big models are read for minutes.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// How long it may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(10);

/// Checks the tables and sets the providers up. Nobody is asked anything yet.
pub(super) fn routing(tables: &FleetTables) -> Outcome<Routing> {
    build(tables).code(Code::Usage)
}

/// Checks what requests are routed by.
pub(super) fn check_rules(table: &RoutingTable) -> Outcome {
    checked_policy(table).code(Code::Usage)?;
    rules(table).code(Code::Usage)?;
    Ok(())
}

fn build(tables: &FleetTables) -> anyhow::Result<Routing> {
    let mut providers: Vec<RoutedProvider> = Vec::new();
    for table in &tables.providers {
        let (name, place) = (&table.name, &table.place);
        if RESERVED.contains(&name.as_str()) || providers.iter().any(|known| known.name == *name) {
            bail!("{place}: `[[providers]]` has the name `{name}`, which is taken; choose another");
        }
        if name.is_empty() || name.contains([':', '/']) || name.contains(char::is_whitespace) {
            bail!(
                "{place}: `[[providers]]` has the name `{name}`; it must be a word without `:` and `/`"
            );
        }
        providers.push(provider(table).with_context(|| format!("{place}: the provider `{name}`"))?);
    }
    let table = &tables.routing;
    terms(table, providers, checked_policy(table)?)
}

fn checked_policy(table: &RoutingTable) -> anyhow::Result<Policy> {
    let policy = policy(table)?;
    policy.check().map_err(|error| {
        let place = table.place_of(&format!("aliases.{}", error.alias()));
        anyhow!("{place}: `[routing.aliases]`: {error}")
    })?;
    Ok(policy)
}

fn terms(
    table: &RoutingTable,
    providers: Vec<RoutedProvider>,
    policy: Policy,
) -> anyhow::Result<Routing> {
    let default = Routing::default();
    if table.hedge_after_ms == Some(0) {
        let place = table.place_of("hedge_after_ms");
        bail!("{place}: `hedge_after_ms` is 0; it must be at least 1, or left out");
    }
    let label = |key: &str, label: &Option<String>| {
        let place = format!("{}: `routing.{key}`", table.place_of(key));
        label.as_ref().map(|label| reach(&place, label)).transpose()
    };
    Ok(Routing {
        providers,
        policy,
        rules: rules(table)?,
        reach_default: label("privacy", &table.privacy)?.unwrap_or(default.reach_default),
        image_reach: label("image_privacy", &table.image_privacy)?,
        embedded_priority: table.embedded_priority.unwrap_or(default.embedded_priority),
        queue_timeout: table
            .queue_timeout_secs
            .map_or(default.queue_timeout, Duration::from_secs),
        hedge_after: table.hedge_after_ms.map(Duration::from_millis),
        continue_streams: table.continue_streams.unwrap_or(default.continue_streams),
    })
}

fn provider(table: &ProviderTable) -> anyhow::Result<RoutedProvider> {
    let kind = Kind::from_word(&table.kind).ok_or_else(|| {
        let kinds = Kind::ALL.map(Kind::word).join(", ");
        anyhow!("`kind` is `{}`; it must be one of {kinds}", table.kind)
    })?;
    for (name, value) in [
        ("connect_timeout_secs", table.connect_timeout_secs),
        ("first_token_timeout_secs", table.first_token_timeout_secs),
        ("silence_timeout_secs", table.silence_timeout_secs),
        ("requests_max", table.requests_max.into()),
    ] {
        if value == 0 {
            bail!("`{name}` is 0; it must be at least 1");
        }
    }
    let place = table.reach.as_ref().map(|word| {
        let mut all = Reach::ALL.into_iter();
        all.find(|reach| reach.word() == word).ok_or_else(|| {
            let words = Reach::ALL.map(Reach::word).join(", ");
            anyhow!("`reach` is `{word}`; it must be one of {words}")
        })
    });
    let headers = table.headers.iter();
    let remote = RemoteConfig {
        name: table.name.clone(),
        kind,
        url: table.url.clone().unwrap_or_default(),
        key: key(table)?,
        headers: headers
            .map(|(name, value)| (name.clone(), value.0.clone()))
            .collect(),
        reach: place.transpose()?,
        timeouts: Timeouts {
            connect: Duration::from_secs(table.connect_timeout_secs),
            first_token: Duration::from_secs(table.first_token_timeout_secs),
            silence: Duration::from_secs(table.silence_timeout_secs),
        },
        models: table.models.clone(),
        vision: table.vision.clone(),
        streams: match table.stream_always {
            Some(true) => Streams::Always,
            Some(false) => Streams::AsShown,
            None => kind.streams(),
        },
    };
    let (provider, reach) = engine(table, remote)?;
    Ok(RoutedProvider {
        name: table.name.clone(),
        reach,
        provider,
        priority: table.priority,
        weight: table.weight,
        requests_max: table.requests_max,
        default_model: table.default_model.clone(),
        prices: Prices {
            other: price(&table.cost_per_million),
            models: table
                .model_cost_per_million
                .iter()
                .map(|(model, table)| (model.clone(), price(table)))
                .collect(),
        },
    })
}

/// The engine at an address, or the one that we run; and how far away it is.
fn engine(
    table: &ProviderTable,
    remote: RemoteConfig,
) -> anyhow::Result<(Arc<dyn Provider>, Reach)> {
    match (&table.url, &table.command) {
        (Some(_), Some(_)) => bail!("`url` and `command` are both set; keep one of them"),
        (None, None) => bail!("neither `url` nor `command` is set; it needs one of them"),
        (Some(_), None) => {
            if let Some(name) = table.settings_of_command().first() {
                bail!("`{name}` is set without `command`; it is for engines that we run");
            }
            let remote = Remote::new(remote)?;
            let reach = remote.reach();
            Ok((Arc::new(remote), reach))
        }
        (None, Some(_)) if remote.kind != Kind::LlamaServer => bail!(
            "`command` is set and `kind` is `{}`; only `{}` is run by us",
            remote.kind.word(),
            Kind::LlamaServer.word()
        ),
        (None, Some(command)) => {
            let managed = Managed::new(managed(table, command, remote)?)?;
            let reach = managed.reach();
            Ok((Arc::new(managed), reach))
        }
    }
}

fn managed(
    table: &ProviderTable,
    command: &[SecretText],
    remote: RemoteConfig,
) -> anyhow::Result<ManagedConfig> {
    let start = table.start.as_ref().map(|word| {
        let mut all = Start::ALL.into_iter();
        all.find(|start| start.word() == word).ok_or_else(|| {
            let words = Start::ALL.map(Start::word).join(", ");
            anyhow!("`start` is `{word}`; it must be one of {words}")
        })
    });
    let seconds = |given: Option<u64>| given.map(Duration::from_secs);
    let start_timeout = seconds(table.start_timeout_secs).unwrap_or(START_TIMEOUT);
    if start_timeout.is_zero() {
        bail!("`start_timeout_secs` is 0; it must be at least 1");
    }
    let idle_timeout = seconds(table.idle_timeout_secs).unwrap_or(IDLE_TIMEOUT);
    let env = table.env.iter();
    Ok(ManagedConfig {
        remote,
        command: command.iter().map(|word| word.0.clone()).collect(),
        env: env
            .map(|(name, value)| (name.clone(), value.0.clone()))
            .collect(),
        tether: tether::prefix()?,
        start: start.transpose()?.unwrap_or_default(),
        idle_timeout: Some(idle_timeout).filter(|time| !time.is_zero()),
        start_timeout,
        grace: GRACE,
    })
}

fn price(table: &PriceTable) -> Price {
    Price {
        prompt: table.prompt.0,
        completion: table.completion.0,
    }
}

/// The key from its variable or its file. A name that leads nowhere is an error: requests
/// without the key would only fail later.
fn key(table: &ProviderTable) -> anyhow::Result<Option<Secret>> {
    match (&table.key_env, &table.key_file) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => bail!("`key_env` and `key_file` are both set; keep one of them"),
        // The name of a variable: whoever wrote the key itself here must not see it again.
        (Some(name), None) if !is_variable(name) => {
            bail!("`key_env` is not the name of a variable (letters, digits and `_`)")
        }
        (Some(name), None) => {
            let key = std::env::var(name).ok().filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| anyhow!("the variable `{name}` (`key_env`) is not set"))?;
            Ok(Some(Secret::new(key)))
        }
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("`key_file` `{}` cannot be read", path.display()))?;
            match text.lines().next().map(str::trim) {
                Some(key) if !key.is_empty() => Ok(Some(Secret::new(key))),
                _ => bail!("the first line of `key_file` `{}` is empty", path.display()),
            }
        }
    }
}

fn is_variable(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(is_part)
}

fn policy(table: &RoutingTable) -> anyhow::Result<Policy> {
    let tasks = table.tasks.iter().map(|(word, targets)| {
        let task = Task::from_word(word).ok_or_else(|| {
            let words = Task::ALL.map(Task::word).join(", ");
            let place = table.place_of(&format!("tasks.{word}"));
            anyhow!("{place}: `[routing.tasks]` has `{word}`; it must be one of {words}")
        })?;
        Ok((task, targets.clone()))
    });
    let models = table.model_privacy.iter().map(|(model, label)| {
        let place = table.place_of(&format!("model_privacy.{model}"));
        let place = format!("{place}: `routing.model_privacy.{model}`");
        Ok((model.clone(), reach(&place, label)?))
    });
    Ok(Policy {
        aliases: table.aliases.clone(),
        tasks: tasks.collect::<anyhow::Result<BTreeMap<_, _>>>()?,
        auto: table.auto.clone(),
        fallback: table.fallback.clone(),
        model_reach: models.collect::<anyhow::Result<BTreeMap<_, _>>>()?,
    })
}

fn rules(table: &RoutingTable) -> anyhow::Result<Rules> {
    let rules = table.rules.iter().map(|rule| {
        let name = format!("{}: the rule `{}`", rule.place, rule.name);
        if rule.patterns.is_empty() {
            bail!("{name} has no patterns, so it would find nothing");
        }
        let mut patterns = rule.patterns.iter();
        let lists = ["secret", "SECRETS", "PII"];
        if let Some(odd) = patterns.find(|pattern| lists.contains(&pattern.as_str())) {
            bail!("{name} has the pattern `{odd}`; our lists are `secrets` and `pii`");
        }
        Ok(Rule {
            name: rule.name.clone(),
            patterns: rule.patterns.clone(),
            reach: reach(&format!("{name}: privacy"), &rule.privacy)?,
        })
    });
    let rules = rules.collect::<anyhow::Result<Vec<_>>>()?;
    Rules::new(&rules).map_err(|error| {
        let mut tables = table.rules.iter();
        let faulty = tables.find(|rule| rule.name == error.rule());
        let place = faulty.map_or(&table.place, |rule| &rule.place);
        anyhow!("{place}: {error}")
    })
}

fn reach(place: &str, label: &str) -> anyhow::Result<Reach> {
    Reach::from_label(label).ok_or_else(|| {
        let labels = Reach::ALL.map(Reach::label).join(", ");
        anyhow!("{place} is `{label}`; it must be one of {labels}")
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use config::RawConfig;

    use super::*;

    fn fault(text: &str) -> String {
        let command = config::augment(clap::Command::new("serve"), |_| true);
        let flags = command.get_matches_from(["serve"]);
        let raw = RawConfig::gather(&flags, [], Some((Path::new("s.toml"), text)));
        routing(&raw.resolve().unwrap().fleet)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_fault_names_its_own_line() {
        for (text, expected) in [
            (
                "[routing.aliases]\ngood = ['a:b']\nbad = []\n",
                "s.toml:3: `[routing.aliases]`: the alias `bad` stands for nothing",
            ),
            (
                "[routing]\nauto = []\nprivacy = 'all'\n",
                "s.toml:3: `routing.privacy` is `all`",
            ),
            (
                "[routing]\n\nimage_privacy = 'all'\n",
                "s.toml:3: `routing.image_privacy` is `all`",
            ),
            (
                "[routing.model_privacy]\na = 'any'\nb = 'x'\n",
                "s.toml:3: `routing.model_privacy.b` is `x`",
            ),
            (
                "[routing.tasks]\ncode = []\ncod = []\n",
                "s.toml:3: `[routing.tasks]` has `cod`",
            ),
            (
                "[routing]\nhedge_after_ms = 0\n",
                "s.toml:2: `hedge_after_ms` is 0",
            ),
            (
                "[[routing.rules]]\nname = 'a'\npatterns = ['b']\nprivacy = 'any'\n\
                 [[routing.rules]]\nname = 'c'\npatterns = ['(']\nprivacy = 'any'\n",
                "s.toml:5: the privacy rule `c` has the pattern `(`",
            ),
        ] {
            let told = fault(text);
            assert!(told.starts_with(expected), "{told}");
        }
    }
}
