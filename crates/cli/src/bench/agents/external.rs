//! Coding agents of others: how each is found, pointed at an endpoint, given a task without a
//! screen, and ended. `docs/compatibility.md` has the same for people.
//!
//! They run with the rights of whoever measures, in a folder and with a home of their own: they
//! need the network for the endpoint, so they cannot be confined as a model's code is. What they
//! reach of the endpoint is a [`Relay`], which also counts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use bench::agents::{Calls, Ended};
use bench::quality::{Answer, Fault};
use clap::ArgMatches;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::folder::Folder;
use super::relay::{Asked, Relay};
use super::{Place, Went};
use crate::http::Server;
use crate::outcome::{Code, Outcome, fault};
use crate::tether;

/// By the names that `--agents` knows.
pub(in crate::bench) const NAMES: [&str; 5] = ["opencode", "aider", "codex", "claude", "pi"];
/// Where a server does not say what its context is.
const CONTEXT_USUAL: u64 = 32_768;
/// The end of what an agent prints is kept.
const TAIL_BYTES_MAX: usize = 8 << 10;
/// For what is still in its pipes once it has ended.
const PIPES_TIME_MAX: Duration = Duration::from_secs(2);

/// An agent that is here.
#[derive(Debug, Clone)]
pub(super) struct External {
    name: String,
    program: PathBuf,
}

/// How an agent is started.
#[derive(Debug, Default, PartialEq)]
struct Pointed {
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    /// By their paths from its home.
    files: Vec<(&'static str, String)>,
}

/// Where it finds a model.
struct Endpoint<'a> {
    url: &'a str,
    key: &'a str,
    model: &'a str,
    context: u64,
}

/// The programs that `--program AGENT=PATH` names.
pub(super) fn programs(matches: &ArgMatches) -> Outcome<BTreeMap<String, PathBuf>> {
    let mut programs = BTreeMap::new();
    for text in matches.get_many::<String>("program").unwrap_or_default() {
        let named = text
            .split_once('=')
            .filter(|(name, _)| NAMES.contains(name));
        let Some((name, path)) = named else {
            let names = NAMES.join(", ");
            let message = format!("`--program {text}` is not AGENT=PATH with one of {names}");
            return Err(fault(Code::Usage, message));
        };
        if !is_program(Path::new(path)) {
            let message = format!("`{path}`, which --program names, is no program");
            return Err(fault(Code::Usage, message));
        }
        let path = std::path::absolute(path).context(path.to_owned())?;
        programs.insert(name.to_owned(), path);
    }
    Ok(programs)
}

fn is_program(path: &Path) -> bool {
    let there = fs::metadata(path);
    there.is_ok_and(|there| there.is_file() && there.permissions().mode() & 0o111 != 0)
}

impl External {
    /// The one that is named, else the one of the PATH.
    pub(super) fn find(name: &str, programs: &BTreeMap<String, PathBuf>) -> Option<Self> {
        let program = programs.get(name).cloned().or_else(|| {
            let path = std::env::var_os("PATH")?;
            let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
            places.find(|program| program.is_absolute() && is_program(program))
        })?;
        Some(Self {
            name: name.to_owned(),
            program,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Lets it work on a task for so long. What it has started ends with it.
    pub(super) fn run(
        &self,
        server: Server,
        place: &Place<'_>,
        folder: &Folder,
        time_max: Duration,
    ) -> Outcome<Went> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (relay, is_late, tail) = runtime.block_on(async {
            let context = server.context_of(place.model).await;
            let relay = Relay::start(server).await?;
            let endpoint = Endpoint {
                url: &relay.url,
                key: &relay.key,
                model: place.model,
                context: context.unwrap_or(CONTEXT_USUAL),
            };
            let pointed = point(&self.name, &endpoint, place);
            let command = self.command(&pointed, folder)?;
            let (is_late, tail) = watch(command, time_max).await?;
            Ok::<_, crate::outcome::Fault>((relay, is_late, tail))
        })?;
        // With it all connections end, so that no answer is still under way.
        drop(runtime);
        Ok(went(relay.asked(), is_late, tail))
    }

    fn command(&self, pointed: &Pointed, folder: &Folder) -> Outcome<Command> {
        let home = folder.home();
        for (path, text) in &pointed.files {
            let file = home.join(path);
            fs::create_dir_all(file.parent().unwrap_or(&file))?;
            fs::write(file, text)?;
        }
        let temporary = home.join("tmp");
        fs::create_dir_all(&temporary)?;
        // Its own interpreter may lie beside it.
        let beside = self.program.parent().map(Path::to_owned);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(beside.into_iter().chain(std::env::split_paths(&path)))?;
        let mut words = tether::prefix()?;
        words.push(self.program.clone().into());
        words.extend(pointed.arguments.iter().map(OsString::from));
        let (program, arguments) = words.split_first().context("there is no program")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(folder.work())
            .env_clear()
            .env("PATH", path)
            .env("HOME", &home)
            .env("TMPDIR", temporary)
            .envs([
                ("LANG", "C.UTF-8"),
                ("TERM", "dumb"),
                ("CI", "1"),
                ("DO_NOT_TRACK", "1"),
                ("PYTHONDONTWRITEBYTECODE", "1"),
            ])
            .envs(
                pointed
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }
}

/// Waits for an agent, and ends its group when its time is up or it has gone: whether it was
/// late, and the end of what it said.
async fn watch(mut command: Command, time_max: Duration) -> Outcome<(bool, String)> {
    let mut child = command.spawn().context("the agent cannot be started")?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let output = tokio::spawn(tail(child.stdout.take()));
    let errors = tokio::spawn(tail(child.stderr.take()));
    let is_late = end(&mut child, pid, time_max).await?;
    // What has left the group may hold the pipes for ever.
    let both = async { (output.await, errors.await) };
    let said = match tokio::time::timeout(PIPES_TIME_MAX, both).await {
        Ok((output, errors)) => [output.unwrap_or_default(), errors.unwrap_or_default()],
        Err(_) => [String::new(), String::new()],
    };
    let said = said.map(|text| text.trim().to_owned());
    Ok((is_late, said.join("\n").trim().to_owned()))
}

async fn end(child: &mut Child, pid: Option<Pid>, time_max: Duration) -> Outcome<bool> {
    let ended = tokio::time::timeout(time_max, child.wait()).await;
    // Servers that it has left behind hold its pipes, and would work on.
    if let Some(pid) = pid {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    match ended {
        Ok(status) => {
            status?;
            Ok(false)
        }
        Err(_) => {
            child.wait().await?;
            Ok(true)
        }
    }
}

/// The last of what a process says.
async fn tail(pipe: Option<impl AsyncRead + Unpin + Send + 'static>) -> String {
    let Some(mut pipe) = pipe else {
        return String::new();
    };
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..n]);
        let over = kept.len().saturating_sub(TAIL_BYTES_MAX);
        kept.drain(..over);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// What the requests of an agent tell of its attempt.
fn went(asked: Vec<Asked>, is_late: bool, tail: String) -> Went {
    let last = asked.last().and_then(|one| one.exchange.fault);
    let error = asked.last().and_then(|one| one.exchange.error.clone());
    let is_failed = |one: &Asked| one.exchange.fault.is_some();
    let is_answered = |one: &&Asked| !is_failed(one) && !one.exchange.was_left;
    let has_answers = asked.iter().any(|one| is_answered(&one));
    let ended = match last {
        None if asked.is_empty() => Ended::Unasked,
        // What was said once fits no more.
        Some(Fault::ContextTooSmall) if has_answers => Ended::Context,
        Some(fault) if fault.voids() => Ended::Fault,
        _ if is_late => Ended::Time,
        _ => Ended::Done,
    };
    let mut calls = Calls::default();
    for one in &asked {
        calls += one.exchange.calls;
    }
    let sum = |of: fn(&Asked) -> Option<u64>| {
        let counted = asked.iter().filter_map(of);
        counted.reduce(|sum, more| sum + more)
    };
    let n_failed = asked.iter().filter(|one| is_failed(one)).count();
    let n_retries = n_failed - usize::from(last.is_some());
    Went {
        ended,
        fault: last.filter(|_| ended.voids()),
        turn_seconds: asked
            .iter()
            .filter(is_answered)
            .map(|one| one.seconds)
            .collect(),
        calls,
        n_prompt: sum(|one| one.exchange.n_prompt),
        n_answer: sum(|one| one.exchange.n_answer),
        n_retries: n_retries as u64,
        answer: Answer::default(),
        said: error.unwrap_or(tail),
    }
}

fn point(name: &str, endpoint: &Endpoint<'_>, place: &Place<'_>) -> Pointed {
    let prompt = place.task.prompt();
    match name {
        "opencode" => opencode(endpoint, prompt),
        "aider" => aider(endpoint, prompt, place),
        "codex" => codex(endpoint, prompt),
        "claude" => claude(endpoint, prompt),
        _ => pi(endpoint, prompt),
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn opencode(endpoint: &Endpoint<'_>, prompt: String) -> Pointed {
    let Endpoint {
        url,
        key,
        model,
        context,
    } = endpoint;
    let limit = json!({ "context": context, "output": 4096_u64.min(context / 16) });
    let config = json!({ "provider": { "sextant": {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Sextant",
        "options": { "baseURL": format!("{url}/v1"), "apiKey": key },
        "models": { (*model): { "tool_call": true, "limit": limit } },
    } } });
    let mut arguments = words(["run", "--auto", "--format", "json", "-m"]);
    arguments.extend([format!("sextant/{model}"), prompt]);
    Pointed {
        arguments,
        environment: vec![
            ("OPENCODE_DISABLE_MODELS_FETCH", "1".into()),
            ("OPENCODE_DISABLE_AUTOUPDATE", "1".into()),
        ],
        files: vec![(".config/opencode/opencode.json", config.to_string())],
    }
}

fn aider(endpoint: &Endpoint<'_>, prompt: String, place: &Place<'_>) -> Pointed {
    let mut arguments = vec!["--model".to_owned(), format!("openai/{}", endpoint.model)];
    arguments.extend(["--message".to_owned(), prompt]);
    arguments.extend(words([
        "--edit-format",
        "whole",
        // In a stream it does not ask for the count of tokens.
        "--no-stream",
        "--yes-always",
        "--no-git",
        "--map-tokens",
        "0",
        "--chat-history-file",
        ".aider.chat.md",
        "--input-history-file",
        ".aider.input",
        "--analytics-disable",
        "--no-check-update",
        "--no-show-model-warnings",
    ]));
    // It is told of files; tests are to be read only.
    for file in place.task.given() {
        let is_test = file.path.starts_with("test_");
        arguments.extend(is_test.then(|| "--read".to_owned()));
        arguments.push(file.path.clone());
    }
    Pointed {
        arguments,
        environment: vec![
            ("OPENAI_API_BASE", format!("{}/v1", endpoint.url)),
            ("OPENAI_API_KEY", endpoint.key.to_owned()),
            ("LITELLM_LOCAL_MODEL_COST_MAP", "True".into()),
        ],
        files: Vec::new(),
    }
}

fn codex(endpoint: &Endpoint<'_>, prompt: String) -> Pointed {
    let Endpoint { url, key, .. } = endpoint;
    let text = |text: &str| json!(text).to_string();
    let config = format!(
        "model = {}\nmodel_provider = \"sextant\"\n\n[model_providers.sextant]\nname = \"Sextant\"\n\
         base_url = {}\nwire_api = \"responses\"\nenv_key = \"SEXTANT_RELAY_KEY\"\n",
        text(endpoint.model),
        text(&format!("{url}/v1"))
    );
    let mut arguments = words([
        "exec",
        "--skip-git-repo-check",
        "--dangerously-bypass-approvals-and-sandbox",
        "--json",
    ]);
    arguments.push(prompt);
    Pointed {
        arguments,
        environment: vec![("SEXTANT_RELAY_KEY", (*key).to_owned())],
        files: vec![(".codex/config.toml", config)],
    }
}

fn claude(endpoint: &Endpoint<'_>, prompt: String) -> Pointed {
    let model = || endpoint.model.to_owned();
    let mut arguments = vec!["-p".to_owned(), prompt];
    arguments.extend(words([
        "--output-format",
        "json",
        "--allowedTools",
        "Bash,Read,Write,Edit",
    ]));
    Pointed {
        arguments,
        environment: vec![
            ("ANTHROPIC_BASE_URL", endpoint.url.to_owned()),
            ("ANTHROPIC_AUTH_TOKEN", endpoint.key.to_owned()),
            ("ANTHROPIC_MODEL", model()),
            // What it does on the side (titles, summaries) it asks of this model.
            ("ANTHROPIC_DEFAULT_HAIKU_MODEL", model()),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".into()),
        ],
        files: Vec::new(),
    }
}

fn pi(endpoint: &Endpoint<'_>, prompt: String) -> Pointed {
    let Endpoint {
        url,
        key,
        model,
        context,
    } = endpoint;
    let config = json!({ "providers": { "sextant": {
        "baseUrl": format!("{url}/v1"),
        "api": "openai-completions",
        "apiKey": key,
        "models": [{ "id": model, "contextWindow": context, "maxTokens": context / 4 }],
    } } });
    let mut arguments = words(["--offline", "--provider", "sextant", "--model"]);
    arguments.push(endpoint.model.to_owned());
    arguments.extend(words(["--no-session", "-p"]));
    arguments.push(prompt);
    Pointed {
        arguments,
        files: vec![(".pi/agent/models.json", config.to_string())],
        ..Pointed::default()
    }
}

#[cfg(test)]
mod tests {
    use bench::agents::wire::Exchange;

    use super::*;

    fn asked(fault: Option<Fault>) -> Asked {
        let is_answer = fault.is_none();
        Asked {
            exchange: Exchange {
                fault,
                n_prompt: is_answer.then_some(50),
                ..Exchange::default()
            },
            seconds: 2.0,
        }
    }

    #[test]
    fn an_answer_that_was_not_waited_for_is_no_turn() {
        let mut last = asked(None);
        last.exchange.was_left = true;
        let went = went(vec![asked(None), last.clone()], true, String::new());
        assert_eq!((went.ended, went.turn_seconds.len()), (Ended::Time, 1));
        assert_eq!(
            super::went(vec![last], true, String::new()).ended,
            Ended::Time
        );
    }

    #[test]
    fn an_attempt_ends_as_its_requests_tell() {
        let (well, busy) = (None, Some(Fault::Busy));
        let long = Some(Fault::ContextTooSmall);
        for (faults, is_late, ended, n_retries) in [
            (&[][..], false, Ended::Unasked, 0),
            (&[], true, Ended::Unasked, 0),
            (&[well, well], false, Ended::Done, 0),
            (&[well, well], true, Ended::Time, 0),
            (&[busy, well], false, Ended::Done, 1),
            (&[well, busy, busy], false, Ended::Fault, 1),
            (&[well, busy], true, Ended::Fault, 0),
            (&[long], false, Ended::Fault, 0),
            (&[well, long], false, Ended::Context, 0),
        ] {
            let went = went(
                faults.iter().copied().map(asked).collect(),
                is_late,
                "x".into(),
            );
            assert_eq!(
                (went.ended, went.n_retries),
                (ended, n_retries),
                "{faults:?}"
            );
            let n_well = faults.iter().filter(|fault| fault.is_none()).count();
            assert_eq!(went.turn_seconds.len(), n_well);
            let n_prompt = (n_well > 0).then_some(50 * n_well as u64);
            assert_eq!(went.n_prompt, n_prompt);
        }
    }

    #[test]
    fn each_agent_is_told_where_the_endpoint_is_and_by_which_key() {
        let tasks = bench::agents::suite().unwrap();
        let task = tasks.iter().find(|task| task.id == "ledger").unwrap();
        let place = Place {
            model: "m\"1",
            task,
            repeat: 0,
        };
        let endpoint = Endpoint {
            url: "http://127.0.0.1:7",
            key: "only-here",
            model: place.model,
            context: 8192,
        };
        for name in NAMES {
            let pointed = point(name, &endpoint, &place);
            let values = pointed.environment.iter().map(|(_, value)| value);
            let files = pointed.files.iter().map(|(_, text)| text);
            let all: Vec<&String> = values.chain(files).chain(&pointed.arguments).collect();
            let has = |text: &str| all.iter().any(|one| one.contains(text));
            assert!(has("http://127.0.0.1:7") && has("only-here"), "{name}");
            assert!(has("m\"1") || has("m\\\"1"), "{name}");
            assert!(pointed.arguments.contains(&task.prompt()), "{name}");
            // A key in an argument could be seen by everybody.
            let is_told = |word: &String| word.contains("only-here");
            assert!(!pointed.arguments.iter().any(is_told), "{name}");
        }
    }
}
