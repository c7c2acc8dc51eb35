//! `sextant bench quality`: questions in six dimensions, asked again and again: fourteen, or a
//! larger set.
//!
//! Each attempt is a line of a file as soon as it is made, so a run that was ended goes on where
//! it was.

use std::path::PathBuf;
use std::time::Duration;

use bench::quality::{Came, Fault, Grade, Question, Script, Weighed, suite};
use clap::ArgMatches;
use confine::{Confinement, Limits};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ask::{Manner, ask};
use super::attempts_file::{Kind, Log};
use super::origin::{self, Origins};
use super::results::{Finished, Keeping};
use super::{report, sets};
use crate::http::Server;
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};
use crate::{configuration, confine as confined, tune};

/// Of the code in an answer.
const CODE_CPU_SECONDS: u64 = 5;

/// One attempt at one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) model: String,
    pub(crate) question: String,
    pub(crate) repeat: u64,
    pub(crate) seconds: f64,
    pub(crate) right: bool,
    /// Why not.
    pub(crate) why: Option<String>,
    /// What the pipeline did wrong, by its word.
    pub(crate) fault: Option<String>,
    /// Whether it says nothing of the model.
    pub(crate) void: bool,
    pub(crate) tokens: Option<u64>,
    /// The text of the answer, or the error.
    pub(crate) said: String,
    /// What the question counts for, where it is none of the short set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<Weighed>,
    /// On what it was made, by the id of its [`Origin`].
    #[serde(default)]
    pub(crate) origin: Option<String>,
    /// When; 0: nobody wrote it down.
    #[serde(default)]
    pub(crate) at_unix_secs: u64,
}

/// The first line of a file of attempts: what must be the same for them to go together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Heading {
    /// Of this file's form.
    pub(super) version: u32,
    server: String,
    tokens_max: u64,
    seconds_max: u64,
    temperature: Option<f64>,
    thinking: Option<bool>,
    /// How many questions of each dimension; `None`: the short set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    items: Option<u64>,
}

pub(super) const VERSION: u32 = 1;
/// How often questions are asked, unless it is said.
const REPEATS: u64 = 3;
const REPEATS_OF_LARGE: u64 = 1;

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let server = Server::new(matches, &config)?;
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or(0);
    let is_large = matches
        .get_one::<String>("set")
        .is_some_and(|set| set == "large");
    let items = is_large.then(|| number("items"));
    let suite = match items {
        None => suite()?,
        Some(n) => sets::questions(&config, usize::try_from(n)?)?,
    };
    let usual = if is_large { REPEATS_OF_LARGE } else { REPEATS };
    let repeats = matches.get_one::<u64>("repeats").copied().unwrap_or(usual);
    let manner = Manner {
        tokens_max: number("tokens"),
        time_max: Duration::from_secs(number("seconds")),
        temperature: matches.get_one::<f64>("temperature").copied(),
        thinking: match matches.get_one::<String>("thinking").map(String::as_str) {
            Some("on") => Some(true),
            Some("off") => Some(false),
            _ => None,
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wanted = matches.get_many::<String>("models").unwrap_or_default();
    let mut models = Vec::new();
    for name in wanted {
        models.push(runtime.block_on(server.model(name))?);
    }
    let heading = Heading {
        version: VERSION,
        server: server.base().to_owned(),
        tokens_max: manner.tokens_max,
        seconds_max: manner.time_max.as_secs(),
        temperature: manner.temperature,
        thinking: manner.thinking,
        items,
    };
    let keeping = Keeping::begin(matches, &config)?;
    let file = matches.get_one::<PathBuf>("out").map(PathBuf::as_path);
    let (mut log, mut attempts) = Log::open(file, &heading)?;
    if !attempts.is_empty() {
        say(&format!("{} attempts are there already", attempts.len()));
    }
    let bench = Bench {
        server,
        suite,
        is_large,
        manner,
        runtime,
    };
    check_confinement()?;
    bench.tell_ahead(models.len(), repeats);
    bench.run(&models, repeats, (&mut log, &mut attempts))?;
    write(matches, &models, &attempts)?;
    keeping.keep(Finished {
        kind: Kind::Quality,
        server: Some(bench.server.base().to_owned()),
        models: origin::models(&log, &models),
        log: &log,
    })
}

fn write(matches: &ArgMatches, models: &[String], attempts: &[Attempt]) -> Outcome {
    let asked = report::asked(attempts)?;
    let results: Vec<_> = models
        .iter()
        .map(|model| report::result(model, &asked, attempts))
        .collect();
    if output::wants_json(matches) {
        let results: Vec<_> = results.iter().map(report::as_json).collect();
        let suspects = report::suspects(attempts);
        return Ok(output::json(
            &json!({ "results": results, "suspects": suspects }),
        )?);
    }
    report::write(&results, &asked, attempts)
}

struct Bench {
    server: Server,
    suite: Vec<Question>,
    is_large: bool,
    manner: Manner,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn tell_ahead(&self, n_models: usize, repeats: u64) {
        let n = n_models as u64 * repeats * self.suite.len() as u64;
        let repeats_of_all = usize::try_from(repeats).unwrap_or(usize::MAX);
        let items = self.suite.len().saturating_mul(repeats_of_all);
        let least = 100.0 * bench::rates::detectable_difference(items);
        say(&format!(
            "{n} questions, {} s at most each; two models that differ by less than about {least:.0} \
             points of a hundred will not be told apart",
            self.manner.time_max.as_secs()
        ));
    }

    fn run(
        &self,
        models: &[String],
        repeats: u64,
        (log, attempts): (&mut Log, &mut Vec<Attempt>),
    ) -> Outcome {
        let mut origins = Origins::default();
        for repeat in 0..repeats {
            // Every other time the other way round, so that no model always comes last.
            let order: Vec<&String> = match repeat % 2 {
                0 => models.iter().collect(),
                _ => models.iter().rev().collect(),
            };
            for model in order {
                for question in &self.suite {
                    let is_this = |one: &Attempt| {
                        one.model == *model && one.question == question.id && one.repeat == repeat
                    };
                    if attempts.iter().any(is_this) {
                        continue;
                    }
                    let mut attempt = self.attempt(model, question, repeat)?;
                    tell(&attempt);
                    attempt.origin = self.origin(&mut origins, &attempt, log)?;
                    log.append(&attempt)?;
                    attempts.push(attempt);
                }
            }
        }
        Ok(())
    }

    /// On what an attempt was made.
    fn origin(
        &self,
        origins: &mut Origins,
        attempt: &Attempt,
        log: &mut Log,
    ) -> Outcome<Option<String>> {
        if attempt.void {
            return Ok(origins.known(&attempt.model));
        }
        let made = (attempt.model.as_str(), attempt.at_unix_secs);
        let asked = origins.id(&self.server, made, log);
        self.runtime.block_on(asked).map(Some)
    }

    fn attempt(&self, model: &str, question: &Question, repeat: u64) -> Outcome<Attempt> {
        let at_unix_secs = tune::now_unix_secs();
        let asked = ask(&self.server, model, question, &self.manner, repeat);
        let (came, time) = self.runtime.block_on(asked);
        let found = question.fault(&came, model, self.manner.tokens_max);
        let (judged, tokens, said) = match came {
            Came::Answered(answered) => (
                settle(question.grade(&answered.answer))?,
                answered.n_answer,
                said(&answered.answer),
            ),
            Came::Late => (Err("nothing came in time".to_owned()), None, String::new()),
            Came::Unreachable(why) => (Err("no answer".to_owned()), None, why),
            Came::Refused {
                status, message, ..
            } => (Err(format!("HTTP {status}")), None, message),
        };
        Ok(Attempt {
            model: model.to_owned(),
            question: question.id.clone(),
            repeat,
            seconds: time.as_secs_f64(),
            right: judged.is_ok(),
            why: judged.err(),
            fault: found.map(|fault| fault.word().to_owned()),
            void: found.is_some_and(Fault::voids),
            tokens,
            said,
            of: self.is_large.then(|| question.weighed()),
            origin: None,
            at_unix_secs,
        })
    }
}

/// The models of attempts, in the order in which they first came.
pub(super) fn models(attempts: &[Attempt]) -> Vec<String> {
    let mut models: Vec<String> = Vec::new();
    for attempt in attempts {
        if !models.contains(&attempt.model) {
            models.push(attempt.model.clone());
        }
    }
    models
}

pub(super) fn said(answer: &bench::quality::Answer) -> String {
    let calls = answer
        .calls
        .iter()
        .map(|call| format!("{}({})", call.name, call.arguments));
    let text = std::iter::once(answer.text.clone()).filter(|text| !text.is_empty());
    text.chain(calls).collect::<Vec<_>>().join("\n")
}

/// Runs a program of Python where it can do no harm.
fn run_confined(program: String) -> Outcome<confine::Outcome> {
    let confinement = Confinement {
        limits: Limits {
            cpu_seconds: CODE_CPU_SECONDS,
            ..Limits::default()
        },
        command: ["python3", "-I", "-"].map(Into::into).to_vec(),
        ..Confinement::default()
    };
    Ok(confined::confined(&confinement, program)?)
}

/// Whether code can be run at all, so that what fails later is the code's fault.
pub(super) fn check_confinement() -> Outcome {
    let ended = run_confined("print('ready')".to_owned())?;
    match ended.output.trim() {
        "ready" => Ok(()),
        _ => {
            let why = ended.errors.trim();
            let message = format!("code of answers cannot be judged here: {why}");
            Err(fault(Code::Failure, message))
        }
    }
}

/// Runs what has to be run. Outside of a confinement nothing is.
fn settle(grade: Grade) -> Outcome<Result<(), String>> {
    let Script(program) = match grade {
        Grade::Right => return Ok(Ok(())),
        Grade::Wrong(why) => return Ok(Err(why)),
        Grade::Run(script) => script,
    };
    let ended = run_confined(program)?;
    Ok(match ended.end {
        confine::End::Exit(0) => Script::judge(&ended.output),
        confine::End::Exit(_) => Err("the code ended its own process".into()),
        confine::End::Signal(_) => Err("the code went over a limit".into()),
        confine::End::Late => Err("the code does not end".into()),
    })
}

fn tell(attempt: &Attempt) {
    let verdict = match (&attempt.fault, &attempt.why) {
        (Some(fault), _) if attempt.void => format!("void: {fault}"),
        (_, None) => "right".to_owned(),
        (_, Some(why)) => format!("wrong: {why}"),
    };
    say(&format!(
        "{} {} #{}: {verdict} ({:.1} s)",
        attempt.model,
        attempt.question,
        attempt.repeat + 1,
        attempt.seconds
    ));
}
