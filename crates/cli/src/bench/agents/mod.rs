//! `sextant bench agents`: models as coding agents, on small repositories whose tests fail.
//!
//! An attempt has a folder of its own. Whether it solved its task is said by the tests of that
//! repository, run confined, and never by the agent. Each attempt is a line of a file as soon as
//! it is made, so a run that was ended goes on where it was.

mod builtin;
mod external;
mod folder;
mod relay;
mod table;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bench::agents::{
    Calls, Check, Contestant, Ended, Limits, Report, Task, Trial, report, sources, suite,
};
use bench::quality::{Answer, Fault};
use clap::ArgMatches;
use config::Config;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::external::External;
use self::folder::Folder;
use super::attempts_file::{Kind, Log};
use super::origin::{self, Origins};
use super::quality::check_confinement;
use super::results::{Finished, Keeping};
use crate::http::Server;
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};
use crate::{configuration, tune};

pub(super) use self::external::NAMES;
pub(super) use self::table::section;

/// The agent that every build has.
pub(super) const BUILTIN: &str = "builtin";
/// Of what an agent or an endpoint says in the end, so much is kept.
const SAID_CHARS_MAX: usize = 2000;
/// And of its last line, where that says why an attempt is void.
const TOLD_CHARS_MAX: usize = 160;
pub(super) const VERSION: u32 = 1;

/// One attempt at one task, as a file keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Attempt {
    model: String,
    agent: String,
    task: String,
    repeat: u64,
    /// The tests pass; or the call is right.
    solved: bool,
    /// Why not.
    why: Option<String>,
    /// [`Ended::word`].
    ended: String,
    /// What the pipeline did wrong, by its word.
    fault: Option<String>,
    /// Of each answer of the model.
    turn_seconds: Vec<f64>,
    calls_right: usize,
    calls_wrong: usize,
    calls_malformed: usize,
    prompt_tokens: Option<u64>,
    answer_tokens: Option<u64>,
    retries: u64,
    seconds: f64,
    said: String,
    /// On what it was made, by the id of its origin.
    origin: Option<String>,
    at_unix_secs: u64,
}

impl Attempt {
    fn trial(&self) -> Option<Trial> {
        Some(Trial {
            contestant: Contestant {
                model: self.model.clone(),
                agent: self.agent.clone(),
            },
            task: self.task.clone(),
            repeat: self.repeat,
            solved: self.solved,
            ended: Ended::from_word(&self.ended)?,
            turn_seconds: self.turn_seconds.clone(),
            calls: Calls {
                right: self.calls_right,
                wrong: self.calls_wrong,
                malformed: self.calls_malformed,
            },
            n_prompt: self.prompt_tokens,
            n_answer: self.answer_tokens,
            seconds: self.seconds,
            n_retries: self.retries,
        })
    }
}

/// What attempts of a file come to.
fn report_of(attempts: &[Attempt]) -> Report {
    let trials: Vec<Trial> = attempts.iter().filter_map(Attempt::trial).collect();
    report(&trials)
}

/// The first line of a file: what must be the same for attempts to go together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Heading {
    /// Of this file's form.
    version: u32,
    server: String,
    seconds_max: u64,
    turns_max: usize,
    answer_tokens_max: u64,
    /// Of the texts of all tasks.
    tasks_hash: String,
}

impl Heading {
    fn new(server: &Server, seconds_max: u64) -> Outcome<Self> {
        let limits = Limits::default();
        let texts = serde_json::to_string(&sources())?;
        Ok(Self {
            version: VERSION,
            server: server.base().to_owned(),
            seconds_max,
            turns_max: limits.turns,
            answer_tokens_max: limits.tokens,
            tasks_hash: format!("{:016x}", tune::hash(texts.as_bytes())),
        })
    }
}

/// What an attempt is made with.
struct Place<'a> {
    model: &'a str,
    task: &'a Task,
    repeat: u64,
}

/// How an agent went about its task, whether or not it solved it.
struct Went {
    ended: Ended,
    fault: Option<Fault>,
    turn_seconds: Vec<f64>,
    calls: Calls,
    n_prompt: Option<u64>,
    n_answer: Option<u64>,
    n_retries: u64,
    /// The last; of our own agent only.
    answer: Answer,
    said: String,
}

/// Who works on the tasks.
enum Agent {
    Builtin,
    External(External),
}

impl Agent {
    fn name(&self) -> &str {
        match self {
            Self::Builtin => BUILTIN,
            Self::External(external) => external.name(),
        }
    }

    /// Tasks about calls are about the tools of our own.
    fn takes(&self, task: &Task) -> bool {
        matches!(self, Self::Builtin) || matches!(task.check, Check::Repair(_))
    }
}

pub(super) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let server = Server::new(matches, &config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut models = Vec::new();
    for name in matches.get_many::<String>("models").unwrap_or_default() {
        models.push(runtime.block_on(server.model(name))?);
    }
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or(0);
    let (agents, absent) = agents(matches)?;
    for name in &absent {
        say(&format!(
            "{name} is not on this machine's PATH and is left out; --program {name}=PATH names it"
        ));
    }
    if agents.is_empty() {
        let message = "none of these agents is here; `builtin` always is";
        return Err(fault(Code::Usage, message));
    }
    let heading = Heading::new(&server, number("seconds"))?;
    let file = matches.get_one::<PathBuf>("out").map(PathBuf::as_path);
    let keeping = Keeping::begin(matches, &config)?;
    let (log, attempts) = Log::open(file, &heading)?;
    if !attempts.is_empty() {
        say(&format!("{} attempts are there already", attempts.len()));
    }
    check_confinement()?;
    let mut bake_off = BakeOff {
        matches,
        config: &config,
        tasks: tasks(matches)?,
        agents,
        repeats: number("repeats"),
        time_max: Duration::from_secs(number("seconds")),
        log,
        origins: Origins::default(),
        attempts,
        server,
        runtime,
    };
    bake_off.run(&models)?;
    let report = report_of(&bake_off.attempts);
    if output::wants_json(matches) {
        let mut shown = table::as_json(&report);
        shown["absent"] = json!(absent);
        output::json(&shown)?;
    } else {
        table::write(&report)?;
    }
    keeping.keep(Finished {
        kind: Kind::Agents,
        server: Some(bake_off.server.base().to_owned()),
        models: origin::models(&bake_off.log, &models),
        log: &bake_off.log,
    })
}

/// Those that are asked for and here, and those that are not here.
fn agents(matches: &ArgMatches) -> Outcome<(Vec<Agent>, Vec<String>)> {
    let programs = external::programs(matches)?;
    let (mut here, mut absent) = (Vec::<Agent>::new(), Vec::new());
    for name in matches.get_many::<String>("agents").unwrap_or_default() {
        if here.iter().any(|agent| agent.name() == name) {
            continue;
        }
        if name == BUILTIN {
            here.push(Agent::Builtin);
            continue;
        }
        match External::find(name, &programs) {
            Some(external) => here.push(Agent::External(external)),
            None => absent.push(name.clone()),
        }
    }
    Ok((here, absent))
}

/// Those that are named, else all.
fn tasks(matches: &ArgMatches) -> Outcome<Vec<Task>> {
    let all = suite()?;
    let Some(named) = matches.get_many::<String>("tasks") else {
        return Ok(all);
    };
    let named: Vec<&String> = named.collect();
    let ids: Vec<&str> = all.iter().map(|task| task.id.as_str()).collect();
    if let Some(unknown) = named.iter().find(|name| !ids.contains(&name.as_str())) {
        let message = format!("there is no task `{unknown}`; there are {}", ids.join(", "));
        return Err(fault(Code::Usage, message));
    }
    let is_named = |task: &Task| named.contains(&&task.id);
    Ok(all.into_iter().filter(is_named).collect())
}

struct BakeOff<'a> {
    matches: &'a ArgMatches,
    config: &'a Config,
    server: Server,
    runtime: tokio::runtime::Runtime,
    tasks: Vec<Task>,
    agents: Vec<Agent>,
    repeats: u64,
    time_max: Duration,
    log: Log,
    origins: Origins,
    attempts: Vec<Attempt>,
}

impl BakeOff<'_> {
    fn run(&mut self, models: &[String]) -> Outcome {
        let plan = self.plan(models);
        let items = self.tasks.len() as u64 * self.repeats;
        let items = usize::try_from(items).unwrap_or(usize::MAX);
        let least = 100.0 * bench::rates::detectable_difference(items);
        say(&format!(
            "{} attempts, {} s at most each; two that differ by less than about {least:.0} points of a \
             hundred will not be told apart",
            plan.len(),
            self.time_max.as_secs()
        ));
        for (model, agent, task, repeat) in plan {
            let (name, id) = (self.agents[agent].name(), &self.tasks[task].id);
            let is_this = |one: &Attempt| {
                one.model == *model && one.agent == name && one.task == *id && one.repeat == repeat
            };
            if self.attempts.iter().any(is_this) {
                continue;
            }
            let place = Place {
                model,
                task: &self.tasks[task],
                repeat,
            };
            let mut attempt = self.attempt(&self.agents[agent], &place)?;
            tell(&attempt);
            attempt.origin = self.origin(&attempt)?;
            self.log.append(&attempt)?;
            self.attempts.push(attempt);
        }
        Ok(())
    }

    /// Model, agent and task (by their places), and repeat of every attempt, in order.
    fn plan<'m>(&self, models: &'m [String]) -> Vec<(&'m str, usize, usize, u64)> {
        let mut plan = Vec::new();
        for repeat in 0..self.repeats {
            // Every other time the other way round, so that no model always comes last.
            let order: Vec<&String> = match repeat % 2 {
                0 => models.iter().collect(),
                _ => models.iter().rev().collect(),
            };
            for model in order {
                for (agent, with) in self.agents.iter().enumerate() {
                    let tasks = self.tasks.iter().enumerate();
                    let taken = tasks.filter(|(_, task)| with.takes(task));
                    plan.extend(taken.map(|(task, _)| (model.as_str(), agent, task, repeat)));
                }
            }
        }
        plan
    }

    fn origin(&mut self, attempt: &Attempt) -> Outcome<Option<String>> {
        if Ended::from_word(&attempt.ended).is_some_and(Ended::voids) {
            return Ok(self.origins.known(&attempt.model));
        }
        let made = (attempt.model.as_str(), attempt.at_unix_secs);
        let asked = self.origins.id(&self.server, made, &mut self.log);
        self.runtime.block_on(asked).map(Some)
    }

    fn attempt(&self, agent: &Agent, place: &Place<'_>) -> Outcome<Attempt> {
        let at_unix_secs = tune::now_unix_secs();
        let folder = Folder::of(place.task)?;
        let started = Instant::now();
        let went = match agent {
            Agent::Builtin => {
                let run = builtin::run(&self.server, place, &folder, self.time_max);
                self.runtime.block_on(run)?
            }
            Agent::External(external) => {
                // On a runtime of its own, which ends with all that the agent has left open.
                let server = Server::new(self.matches, self.config)?;
                external.run(server, place, &folder, self.time_max)?
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        let judged = match &place.task.check {
            _ if went.ended.voids() => Err("there is nothing to judge".to_owned()),
            Check::Call(call) => call.judge(&went.answer),
            Check::Repair(repair) => folder.judge(place.task, repair)?,
        };
        Ok(Attempt {
            model: place.model.to_owned(),
            agent: agent.name().to_owned(),
            task: place.task.id.clone(),
            repeat: place.repeat,
            solved: judged.is_ok(),
            why: judged.err(),
            ended: went.ended.word().to_owned(),
            fault: went.fault.map(|fault| fault.word().to_owned()),
            turn_seconds: went.turn_seconds,
            calls_right: went.calls.right,
            calls_wrong: went.calls.wrong,
            calls_malformed: went.calls.malformed,
            prompt_tokens: went.n_prompt,
            answer_tokens: went.n_answer,
            retries: went.n_retries,
            seconds,
            said: went.said.chars().take(SAID_CHARS_MAX).collect(),
            origin: None,
            at_unix_secs,
        })
    }
}

fn tell(attempt: &Attempt) {
    let lines = attempt.said.lines().rev();
    let last = lines.map(str::trim).find(|line| !line.is_empty());
    let last: String = last.unwrap_or("-").chars().take(TOLD_CHARS_MAX).collect();
    let verdict = match (&attempt.fault, &attempt.why) {
        (_, None) => "solved".to_owned(),
        (Some(fault), _) if attempt.ended == Ended::Fault.word() => {
            format!("void: {fault}: {last}")
        }
        _ if attempt.ended == Ended::Unasked.word() => {
            format!("void: it asked for nothing: {last}")
        }
        (_, Some(why)) => format!("not solved: {why}"),
    };
    say(&format!(
        "{} {} {} #{}: {verdict} (ended by {}, {} turns, {:.1} s)",
        attempt.model,
        attempt.agent,
        attempt.task,
        attempt.repeat + 1,
        attempt.ended,
        attempt.turn_seconds.len(),
        attempt.seconds
    ));
}
