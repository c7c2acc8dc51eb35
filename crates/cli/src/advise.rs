//! `sextant advise`: which engine and which settings for so many users on a machine.

mod settings;
mod site;
mod text;

use std::path::PathBuf;

use bench::stale::Grounds;
use clap::{Arg, ArgMatches, Command, value_parser};
use config::{Config, augment};
use gateway::PlanAsk;
use models::Environment;
use planner::advise::{
    Choosable, Judged, Known, Load, Met, Room, Shared, Site, judge, room, share,
};
use planner::{Band, Open, Speed};
use proto::LoadSpec;

use crate::args::{self, json, number};
use crate::bench::{Measured, Rates, measured};
use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::output::{self, say};
use crate::plan::{self, Premises};
use crate::{configuration, models_here, tune};

pub(crate) fn command() -> Command {
    let real = |name: &'static str, value: &'static str, help: &'static str| {
        let arg = Arg::new(name).long(name).value_name(value);
        arg.value_parser(value_parser!(f64)).help(help)
    };
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let command = Command::new("advise")
        .about("Say which engine and which settings suit so many users here; loads nothing")
        .args([
            number("users", 1..=1024, "1", "Users who are answered at the same time"),
            number("ctx", 256..=1_048_576, "8192", "Tokens that each of them may have"),
            option(
                "model",
                "MODEL",
                "A name as `sextant ls` shows it, a part of one, a path, or hf:OWNER/REPO [default: \
                 the only one here]",
            ),
            option("prompt", "N", "Tokens of a prompt that is read anew [default: half of --ctx]")
                .value_parser(value_parser!(u32).range(1..)),
            real("ttft", "SECONDS", "Wanted: the first token within this time"),
            real("tps", "N", "Wanted: tokens a second for each user"),
            option("memory", "BYTES", "Memory to plan against [default: what is left here]"),
            option("device", "NAME", "A known machine, for example rk3588-lpddr5 or rtx4090"),
            option(
                "measured",
                "FILE",
                "What `bench speed --out` or `bench load --json` has measured of it; may be given \
                 again",
            )
            .value_parser(value_parser!(PathBuf))
            .action(clap::ArgAction::Append),
            json(),
        ]);
    augment(command, |setting| args::MEMORY.contains(&setting.name))
}

/// All that is told.
struct Advice {
    premises: Premises,
    load: Load,
    site: Site,
    room: Room,
    /// Of one stream, and how that is known.
    one: Speed,
    one_is: (Known, String),
    shared: Shared,
    shared_is: (Known, String),
    /// What was wanted, and whether it is reached.
    wanted: Vec<(String, Met)>,
    /// The most users who would all have the wanted pace.
    users_at_pace: Option<u32>,
    judged: Vec<Judged>,
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read_quiet(matches)?;
    let environment = models_here::environment(&config);
    let load = load(matches)?;
    // Headers of a model that is not here; they go with the end of this command.
    let headers = tempfile::tempdir()?;
    let wanted = match matches.get_one::<String>("model") {
        Some(model) => models_here::find_or_header(&environment, model, headers.path())?,
        None => only_model(&config, &environment)?,
    };
    let device = matches.get_one::<String>("device").cloned();
    let memory = matches.get_one::<String>("memory").cloned();
    let ask = PlanAsk {
        model: wanted,
        context: Some(load.context),
        memory_bytes: plan::bytes("--memory", memory)?,
        device,
        ..PlanAsk::default()
    };
    let files = matches.get_many::<PathBuf>("measured").unwrap_or_default();
    let files: Vec<Measured> = files.map(|file| measured(file)).collect::<Outcome<_>>()?;
    let advice = Advice::of(&config, &environment, (&ask, load), &files)?;
    match output::wants_json(matches) {
        true => Ok(output::json(&text::as_json(&advice))?),
        false => text::write(&advice),
    }
}

fn load(matches: &ArgMatches) -> Outcome<Load> {
    let number = |name: &str| {
        let given = matches.get_one::<u64>(name).copied().unwrap_or(1);
        u32::try_from(given).unwrap_or(u32::MAX)
    };
    let real = |name: &str| matches.get_one::<f64>(name).copied();
    for name in ["ttft", "tps"] {
        if let Some(given) = real(name).filter(|given| !(given.is_finite() && *given > 0.0)) {
            let message = format!("--{name} is {given}; it must be above 0");
            return Err(fault(Code::Usage, message));
        }
    }
    let context = number("ctx");
    let prompt = matches.get_one::<u32>("prompt").copied();
    let prompt = prompt.unwrap_or((context / 2).max(1));
    if prompt > context {
        let message =
            format!("--prompt is {prompt}, and a user has {context} tokens in all (--ctx)");
        return Err(fault(Code::Usage, message));
    }
    Ok(Load {
        users: number("users"),
        context,
        prompt,
        ttft_seconds_max: real("ttft"),
        tokens_s_min: real("tps"),
    })
}

/// The model that is configured, else the only one here that answers.
fn only_model(config: &Config, environment: &Environment) -> Outcome<String> {
    if let [model] = config.load.as_slice() {
        return Ok(model.clone());
    }
    let all = models::list(environment);
    let usable = all.iter().filter(|found| found.fault.is_none());
    let ids: Vec<&str> = usable.map(|found| found.id.as_str()).collect();
    let message = match ids.as_slice() {
        [id] => return Ok((*id).to_owned()),
        [] => {
            "there is no model here; `--model hf:OWNER/REPO` asks about one that is not".to_owned()
        }
        ids => format!("which model? `--model NAME`; here are {}", ids.join(", ")),
    };
    Err(fault(Code::ModelNotFound, message))
}

impl Advice {
    fn of(
        config: &Config,
        environment: &Environment,
        (ask, load): (&PlanAsk, Load),
        files: &[Measured],
    ) -> Outcome<Self> {
        let mut premises = plan::premises(config, environment, ask)?;
        let site = site::site(&mut premises, ask);
        let room = room(
            &premises.model,
            &premises.setup,
            premises.available,
            (&load, choosable(&premises.spec)),
        )
        .code(Code::Usage)?;
        premises.on = premises
            .on
            .with_layers(premises.here.as_ref(), &room.answer);
        let predicted = premises.on.speed(&premises.model, &room.answer);
        let found = Found::of(&premises, environment, (ask, &load), files);
        let (one, one_is) = match found.one {
            Some((prefill, decode, source)) => (
                measured_speed(&predicted, prefill, decode),
                (Known::Measured, source),
            ),
            None => (predicted, (Known::Predicted, premises.on.source.clone())),
        };
        let shares = |users| share(&one, &premises.model, site.class, users, load.prompt);
        let mut shared = shares(load.users);
        let mut shared_is = (Known::Predicted, text::low_end(shared.low_end).to_owned());
        if let Some((tokens_s, ttft, source)) = found.shared {
            let exactly = |value| Band {
                low: value,
                high: value,
            };
            shared.each = exactly(tokens_s);
            shared.ttft_together = Some(exactly(ttft));
            shared_is = (Known::Measured, source);
        }
        let pace = load.tokens_s_min;
        let has_pace = |users: &u32| {
            pace.is_some_and(|pace| Met::at_least(shares(*users).each, pace) == Met::Yes)
        };
        Ok(Self {
            wanted: wanted(&load, &shared),
            users_at_pace: (1..=load.users).rev().find(has_pace),
            judged: judge(site, &load, &room),
            load,
            site,
            room,
            one,
            one_is,
            shared,
            shared_is,
            premises,
        })
    }
}

/// What somebody has set stands.
const fn choosable(spec: &LoadSpec) -> Choosable {
    Choosable {
        types: spec.kv_type_k.is_none() && spec.kv_type_v.is_none() && spec.kv_plan.is_none(),
        sparing: Open {
            sequences: spec.sequences.is_none(),
            compute: spec.kernels.is_none(),
        },
    }
}

fn wanted(load: &Load, shared: &Shared) -> Vec<(String, Met)> {
    let mut wanted = Vec::new();
    if let Some(pace) = load.tokens_s_min {
        let met = Met::at_least(shared.each, pace);
        wanted.push((format!("{pace} tokens/s for each"), met));
    }
    if let Some(seconds) = load.ttft_seconds_max {
        let of_one = Met::at_most(shared.ttft_alone, seconds);
        wanted.push((format!("the first token in {seconds} s, alone"), of_one));
        let of_all = Met::at_most(shared.ttft_together, seconds);
        wanted.push((
            format!("the first token in {seconds} s, all at once"),
            of_all,
        ));
    }
    wanted
}

/// One stream's speeds as they were measured; what full caches add is still predicted.
fn measured_speed(predicted: &Speed, prefill: f64, decode: f64) -> Speed {
    let with_cache = |short: f64, full: f64| 1.0 / (1.0 / decode + 1.0 / full - 1.0 / short);
    let (short, full) = (predicted.decode, predicted.decode_full);
    Speed {
        decode: Band {
            low: decode,
            high: decode,
        },
        decode_full: Band {
            low: with_cache(short.low, full.low),
            high: with_cache(short.high, full.high),
        },
        prefill: Some(Band {
            low: prefill,
            high: prefill,
        }),
    }
}

/// Measurements that tell of this model on this machine.
#[derive(Default)]
struct Found {
    /// Prefill and decode of one stream, and whence.
    one: Option<(f64, f64, String)>,
    /// Tokens a second and seconds to the first token of each of the users, and whence.
    shared: Option<(f64, f64, String)>,
}

impl Found {
    fn of(
        premises: &Premises,
        environment: &Environment,
        (ask, load): (&PlanAsk, &Load),
        files: &[Measured],
    ) -> Self {
        let mut found = Self::default();
        if ask.device.is_some() {
            if !files.is_empty() {
                say("warning: what was measured here says nothing of another machine");
            }
            return found;
        }
        if let Some((speeds, at)) = tune::measured(environment, &premises.spec) {
            let source = format!("`sextant tune`, {}", stdx::rfc3339(at));
            found.one = Some((speeds.prefill_tokens_s, speeds.decode_tokens_s, source));
        }
        let now = Grounds {
            model: tune::fingerprint(&premises.spec.path).ok(),
            build: Some(tune::build().to_owned()),
            hardware: Some(tune::hardware().to_owned()),
        };
        for file in files {
            let name = file.file.display();
            if let Some(why) = file.objection(&now) {
                say(&format!("warning: `{name}` is not used: {why}"));
                continue;
            }
            match file.rates {
                Rates::One {
                    prefill_tokens_s,
                    decode_tokens_s,
                } => {
                    let source = format!("`sextant bench speed`, {name}");
                    found.one = Some((prefill_tokens_s, decode_tokens_s, source));
                }
                Rates::Shared {
                    clients,
                    tokens_s,
                    ttft_seconds,
                } if clients == load.users => {
                    let source = format!("`sextant bench load`, {name}");
                    found.shared = Some((tokens_s, ttft_seconds, source));
                }
                Rates::Shared { clients, .. } => say(&format!(
                    "warning: `{name}` is not used: it is of {clients} clients, and {} users are asked \
                     about",
                    load.users
                )),
            }
        }
        found
    }
}
