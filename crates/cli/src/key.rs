//! `sextant key`: making, listing, revoking and forgetting API keys.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::ArgMatches;
use router::Reach;
use serde_json::{Value, json};
use stdx::{Cost, Priority};
use store::{Key, KeyLimits, NewKey, Scope, Scopes, Spent, day_of};

use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::{configuration, database, output};

const DAY_SECS: u64 = 86_400;
/// Characters of a key's name.
const NAME_CHARS_MAX: usize = 64;
/// Patterns of models of one key.
const PATTERNS_MAX: usize = 64;

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    match matches.subcommand() {
        Some(("add", matches)) => add(matches),
        Some(("list", matches)) => list(matches),
        Some(("revoke", matches)) => revoke(matches),
        Some(("forget-all", matches)) => forget_all(matches),
        // The parser asks for a subcommand and knows no other.
        _ => Ok(()),
    }
}

fn add(matches: &ArgMatches) -> Outcome {
    let config = configuration::read_quiet(matches)?;
    let new = new_key(matches)?;
    let store = database::open(&config)?;
    let (secret, key) = store.connect()?.add_key(&new).code(Code::Usage)?;
    // The key alone is data, so that it can go into a file or a variable.
    output::line(secret.expose())?;
    output::say(&format!(
        "the key `{}` ({}) may do: {}. It is shown this once; only its hash is kept, in `{}`.",
        key.facts.name,
        key.id,
        key.facts.scopes,
        store.path().display()
    ));
    Ok(())
}

fn new_key(matches: &ArgMatches) -> Outcome<NewKey> {
    let text = |name| matches.get_one::<String>(name).map(String::as_str);
    let days: Option<u64> = number(matches, "expires")?;
    Ok(NewKey {
        name: name(text("name").unwrap_or_default())?,
        scopes: scopes(text("scope").unwrap_or_default())?,
        privacy: text("privacy").map(reach).transpose()?,
        models: text("models")
            .map(patterns)
            .transpose()?
            .unwrap_or_default(),
        limits: KeyLimits {
            requests_per_minute: number(matches, "requests-per-minute")?,
            tokens_per_minute: number(matches, "tokens-per-minute")?,
            tokens_per_day: number(matches, "tokens-per-day")?,
            cost_per_month: text("cost-per-month").map(cost).transpose()?,
            concurrency: number(matches, "concurrency")?,
        },
        priority: priority(text("priority").unwrap_or_default())?,
        expires_s: match days {
            None => None,
            Some(days) => Some(now_s()?.saturating_add(days.saturating_mul(DAY_SECS))),
        },
    })
}

fn wrong(flag: &str, value: &str, rule: &str) -> crate::outcome::Fault {
    let message = format!("`--{flag}` is `{value}`; it must be {rule}");
    fault(Code::Usage, message)
}

/// A name goes into headers of no kind, but into errors and the log.
fn name(text: &str) -> Outcome<String> {
    let is_plain = |one: char| one.is_alphanumeric() || "-_.@".contains(one);
    match !text.is_empty() && text.chars().count() <= NAME_CHARS_MAX && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => {
            let rule = format!("1 to {NAME_CHARS_MAX} letters, digits, `-`, `_`, `.` or `@`");
            Err(wrong("name", text, &rule))
        }
    }
}

fn scopes(text: &str) -> Outcome<Scopes> {
    let scopes = text.split(',').map(|word| {
        Scope::from_word(word.trim()).ok_or_else(|| {
            let words = Scope::ALL.map(Scope::word).join(", ");
            wrong(
                "scope",
                text,
                &format!("one or more of {words}, with commas between them"),
            )
        })
    });
    scopes.collect()
}

fn reach(label: &str) -> Outcome<Reach> {
    Reach::from_label(label).ok_or_else(|| {
        let labels = Reach::ALL.map(Reach::label).join(", ");
        wrong("privacy", label, &format!("one of {labels}"))
    })
}

fn patterns(text: &str) -> Outcome<Vec<String>> {
    let patterns = text.split(',').map(str::trim);
    let patterns: Vec<_> = patterns
        .filter(|pattern| !pattern.is_empty())
        .map(str::to_owned)
        .collect();
    // Without a pattern the key would be for every model.
    match (1..=PATTERNS_MAX).contains(&patterns.len()) {
        true => Ok(patterns),
        false => {
            let rule = format!("1 to {PATTERNS_MAX} patterns, with commas between them");
            Err(wrong("models", text, &rule))
        }
    }
}

fn cost(text: &str) -> Outcome<Cost> {
    text.parse()
        .map_err(|_| wrong("cost-per-month", text, "an amount such as 20 or 0.15"))
}

fn priority(text: &str) -> Outcome<Priority> {
    Priority::from_word(text).ok_or_else(|| {
        let words = Priority::ALL.map(Priority::word).join(", ");
        wrong("priority", text, &format!("one of {words}"))
    })
}

/// A whole number that allows something.
fn number<T: std::str::FromStr + Default + PartialEq>(
    matches: &ArgMatches,
    flag: &str,
) -> Outcome<Option<T>> {
    let Some(text) = matches.get_one::<String>(flag) else {
        return Ok(None);
    };
    let number = text.parse().ok().filter(|number| *number != T::default());
    let rule = "a whole number of at least 1";
    number.map(Some).ok_or_else(|| wrong(flag, text, rule))
}

fn now_s() -> Outcome<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

fn revoke(matches: &ArgMatches) -> Outcome {
    let config = configuration::read_quiet(matches)?;
    let name = matches.get_one::<String>("name").map_or("", String::as_str);
    let store = database::open(&config)?;
    store.connect()?.revoke_key(name).code(Code::Usage)?;
    output::say(&format!(
        "the key `{name}` is revoked; a running server refuses it within a second"
    ));
    Ok(())
}

fn forget_all(matches: &ArgMatches) -> Outcome {
    let config = configuration::read_quiet(matches)?;
    let store = database::open(&config)?;
    let n = store.connect()?.forget_keys().code(Code::Usage)?;
    output::say(&format!(
        "{n} revoked keys are forgotten; a server that is started now asks for no key, unless \
         `api_key` or `api_key_file` is set"
    ));
    Ok(())
}

fn list(matches: &ArgMatches) -> Outcome {
    let config = configuration::read_quiet(matches)?;
    let store = database::open_existing(&config)?;
    let (keys, spent) = match &store {
        None => Default::default(),
        Some(store) => {
            let session = store.connect()?;
            (session.keys()?, session.spent(day_of(now_s()?))?)
        }
    };
    let now_s = now_s()?;
    let spent = |key: &Key| spent.get(&key.id).copied().unwrap_or_default();
    if output::wants_json(matches) {
        let keys = keys.iter().map(|key| as_json(key, spent(key), now_s));
        output::json(&keys.collect())?;
        return Ok(());
    }
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            let spent = spent(key);
            vec![
                key.facts.name.clone(),
                format!("{}...", key.shown),
                state(key, now_s).to_owned(),
                key.facts.scopes.to_string(),
                key.facts.privacy.map_or("-", Reach::label).to_owned(),
                limits(&key.facts.limits),
                format!(
                    "{} tokens today, {} this month",
                    spent.tokens_today, spent.cost_month
                ),
            ]
        })
        .collect();
    let head = [
        "NAME", "KEY", "STATE", "SCOPES", "PRIVACY", "LIMITS", "USED",
    ];
    output::table(&head, &rows)?;
    Ok(())
}

fn state(key: &Key, now_s: u64) -> &'static str {
    if key.revoked_s.is_some() {
        "revoked"
    } else if key.facts.expires_s.is_some_and(|end| end <= now_s) {
        "expired"
    } else {
        "in use"
    }
}

fn limits(limits: &KeyLimits) -> String {
    let mut words = Vec::new();
    words.extend(
        limits
            .requests_per_minute
            .map(|n| format!("{n} requests/min")),
    );
    words.extend(limits.tokens_per_minute.map(|n| format!("{n} tokens/min")));
    words.extend(limits.tokens_per_day.map(|n| format!("{n} tokens/day")));
    words.extend(limits.cost_per_month.map(|cost| format!("{cost}/month")));
    words.extend(limits.concurrency.map(|n| format!("{n} at once")));
    match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(", "),
    }
}

fn as_json(key: &Key, spent: Spent, now_s: u64) -> Value {
    let (facts, limits) = (&key.facts, &key.facts.limits);
    let scopes = Scope::ALL
        .into_iter()
        .filter(|scope| facts.scopes.has(*scope));
    json!({
        "id": key.id,
        "name": facts.name,
        "key": format!("{}...", key.shown),
        "state": state(key, now_s),
        "scopes": scopes.map(Scope::word).collect::<Vec<_>>(),
        "privacy": facts.privacy.map(Reach::label),
        "models": facts.models,
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "tokens_per_day": limits.tokens_per_day,
        "cost_per_month": limits.cost_per_month.map(Cost::amount),
        "concurrency": limits.concurrency,
        "priority": facts.priority.word(),
        "created": key.created_s,
        "expires": facts.expires_s,
        "revoked": key.revoked_s,
        "tokens_today": spent.tokens_today,
        "cost_this_month": spent.cost_month.amount(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Outcome<NewKey> {
        let command = ["sextant", "key", "add"].iter().chain(arguments);
        let matches = crate::args::command()
            .try_get_matches_from(command)
            .unwrap();
        let (_, matches) = matches.subcommand().unwrap();
        let (_, matches) = matches.subcommand().unwrap();
        new_key(matches)
    }

    #[test]
    fn a_key_is_what_its_flags_say() {
        let plain = parsed(&["--name", "a"]).unwrap();
        assert_eq!(plain.scopes.to_string(), "chat,embeddings,models");
        assert_eq!(plain.limits, KeyLimits::default());
        assert_eq!((plain.privacy, plain.expires_s), (None, None));
        let arguments = "--name phone.2 --scope chat,admin --privacy lan_only --models tiny*,box:* \
             --requests-per-minute 60 --tokens-per-minute 1000 --tokens-per-day 5000000000 \
             --cost-per-month 2.5 --concurrency 2 --priority low --expires 1";
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        let key = parsed(&arguments).unwrap();
        assert_eq!(key.scopes.to_string(), "chat,admin");
        assert_eq!(key.privacy, Some(Reach::Lan));
        assert_eq!(key.models, ["tiny*", "box:*"]);
        assert_eq!(key.limits.tokens_per_day, Some(5_000_000_000));
        assert_eq!(key.limits.cost_per_month, Some(Cost(2_500_000_000)));
        assert_eq!(key.priority, Priority::Low);
        assert!(key.expires_s.unwrap() > now_s().unwrap() + DAY_SECS - 60);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_rule() {
        for (flag, value) in [
            ("--name", "a b"),
            ("--name", ""),
            ("--scope", "chat,everything"),
            ("--scope", ""),
            ("--scope", ","),
            ("--models", ""),
            ("--models", ","),
            ("--models", " , "),
            ("--privacy", "house"),
            ("--requests-per-minute", "0"),
            ("--requests-per-minute", "5000000000"),
            ("--tokens-per-day", "-"),
            ("--cost-per-month", "1,50"),
            ("--priority", "highest"),
            ("--expires", "soon"),
        ] {
            let flag_and_value = format!("{flag}={value}");
            let arguments = match flag {
                "--name" => vec![&*flag_and_value],
                _ => vec!["--name", "a", &flag_and_value],
            };
            let told = parsed(&arguments).unwrap_err().to_string();
            assert!(
                told.starts_with(&format!("`{flag}` is `{value}`; it must be")),
                "{told}"
            );
        }
    }
}
