//! `sextant bench all`: whatever is measured of models, in one command and one folder.
//!
//! Each part is a command of its own that goes on where an earlier run of it ended, so the same
//! command goes on too. Models of this machine are asked through a server that is started for
//! them, other engines where they are.

mod child;
mod part;
mod server;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ArgMatches;
use config::Config;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use self::part::{Part, Profile, Rates, Target, about, parts};
use self::server::OwnServer;
use super::attempts_file::Lines;
use super::page;
use crate::configuration;
use crate::http::Server;
use crate::models_here::{self, served_name};
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};

/// What the folder is about.
const PLAN: &str = "all.json";
const VERSION: u32 = 1;
/// Parts that have ended, a line each.
const DONE: &str = "done";
const LOCK: &str = "lock";

/// What was asked for, which must be the same for a run to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    version: u32,
    models: Vec<String>,
    /// Of a server that is there; else one is started.
    url: Option<String>,
    peers: Vec<(String, String)>,
    profile: String,
    /// What flags have set.
    settings: Vec<(String, String)>,
    /// Of the server that is started: it is the same each time, since results name it.
    port: u16,
}

/// A run as it goes on.
struct Run {
    folder: PathBuf,
    plan: Plan,
    profile: Profile,
    config: Config,
    environment: Vec<(String, String)>,
    /// Whether parts keep their results beside the folder.
    keep: Vec<String>,
    /// Nobody else works in the folder.
    _lock: File,
}

/// The models that are named.
#[derive(Debug, Default)]
struct Found {
    /// Those of this machine, as they are named; their speed is measured.
    here: Vec<String>,
    /// All of them, as the server calls them.
    served: Vec<String>,
    /// Of the largest file; 0 where none is here.
    bytes: u64,
}

pub(super) fn run(matches: &ArgMatches) -> Outcome {
    let run = Run::read(matches)?;
    let found = run.found()?;
    let mut targets = vec![Target {
        name: None,
        url: run.url(),
        models: found.served.clone(),
    }];
    for peer in &run.plan.peers {
        targets.push(run.peer(peer)?);
    }
    let parts = parts(&run.profile, &found.here, &targets);
    let failed = run.measure(&parts, &found)?;
    run.report(&parts)?;
    match failed.is_empty() {
        true => Ok(()),
        false => Err(fault(
            Code::Failure,
            format!(
                "not measured: {}; the same command tries again",
                failed.join("; ")
            ),
        )),
    }
}

impl Run {
    fn read(matches: &ArgMatches) -> Outcome<Self> {
        let (raw, config) = configuration::read_quiet_raw(matches)?;
        let words = |name: &str| -> Vec<String> {
            let words = matches.get_many::<String>(name).unwrap_or_default();
            words.cloned().collect()
        };
        let profile = match matches.get_flag("quick") {
            true => Profile::QUICK,
            false => Profile::WHOLE,
        };
        let folder = matches.get_one::<PathBuf>("out").cloned();
        let folder = folder.ok_or_else(|| fault(Code::Usage, "name a folder with --out"))?;
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let settings = child::settings(matches, &raw);
        let asked = Plan {
            version: VERSION,
            models: words("models"),
            url: matches.get_one::<String>("url").cloned(),
            peers: words("peer")
                .iter()
                .map(|word| peer(word))
                .collect::<Outcome<_>>()?,
            profile: profile.name.to_owned(),
            settings: settings.clone(),
            port: server::free_port(&config)?,
        };
        let keep = matches.get_flag("no-keep").then(|| "--no-keep".to_owned());
        Ok(Self {
            _lock: locked(&folder)?,
            plan: begun(&folder, asked)?,
            folder,
            profile,
            environment: child::environment(settings, &config)?,
            config,
            keep: keep.into_iter().collect(),
        })
    }

    /// Where the named models are asked.
    fn url(&self) -> String {
        let own = || server::url(&self.config, self.plan.port);
        self.plan.url.clone().unwrap_or_else(own)
    }

    /// With a server that is there, models may be on its machine alone.
    fn found(&self) -> Outcome<Found> {
        let environment = models_here::environment(&self.config);
        let mut all = Found::default();
        for name in &self.plan.models {
            let found = match (models_here::find(&environment, name), &self.plan.url) {
                (Ok(found), _) => found,
                (Err(fault), None) => return Err(fault),
                (Err(_), Some(url)) => {
                    say(&format!(
                        "`{name}` is not on this machine: its speed alone is not measured, but only \
                         what {url} makes of it"
                    ));
                    all.served.push(name.clone());
                    continue;
                }
            };
            let file = fs::metadata(&found.path);
            all.bytes = all.bytes.max(file.map_or(0, |file| file.len()));
            all.here.push(name.clone());
            all.served.push(match self.plan.url {
                Some(_) => name.clone(),
                None => served_name(&found),
            });
        }
        Ok(all)
    }

    /// A peer with its models: the only one that it has, else those that are named.
    fn peer(&self, (name, url): &(String, String)) -> Outcome<Target> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let server = Server::at(url.clone(), &self.config)?;
        let list = runtime.block_on(server.models())?;
        let models = match list.as_slice() {
            [only] => vec![only.clone()],
            _ => {
                let named = self.plan.models.iter();
                let named = named.map(|wanted| runtime.block_on(server.model(wanted)));
                named.collect::<Outcome<_>>()?
            }
        };
        Ok(Target {
            name: Some(name.clone()),
            url: server.base().to_owned(),
            models,
        })
    }

    /// Runs what is left of the parts; those that fail, with how they ended.
    fn measure(&self, parts: &[Part], found: &Found) -> Outcome<Vec<String>> {
        let done = fs::read_to_string(self.folder.join(DONE)).unwrap_or_default();
        let is_done = |part: &Part| done.lines().any(|line| line == part.file);
        let left: Vec<&Part> = parts.iter().filter(|part| !is_done(part)).collect();
        let (mut own, mut failed) = (None, Vec::new());
        for (place, part) in left.iter().enumerate() {
            let place_of_all = (parts.len() - left.len() + place + 1, parts.len());
            self.tell(place_of_all, &left[place..], found.bytes);
            if part.asks_a_server() && own.is_none() && self.plan.url.is_none() {
                let place = (self.folder.as_path(), self.plan.port);
                let how = (&self.config, self.environment.as_slice());
                own = Some(OwnServer::start(place, &self.plan.models, how)?);
            }
            match self.ended(part)? {
                None => note_done(&self.folder, part)?,
                Some(why) => {
                    say(&format!("{}: {why}", part.what));
                    failed.push(format!("{} ({why})", part.what));
                }
            }
        }
        Ok(failed)
    }

    /// Which part comes, and how long it and those after it take about.
    fn tell(&self, (place, n): (usize, usize), left: &[&Part], bytes: u64) {
        let [part, ..] = left else { return };
        let measured = Rates::measured(&self.folder.join("speed.jsonl"));
        let (rates, how) = match measured {
            Some(rates) => (Some(rates), "by the speeds that were measured"),
            None => (
                (bytes > 0).then(|| Rates::guess(bytes)),
                "guessed by the size of the files",
            ),
        };
        let told = match rates {
            Some(rates) => {
                let seconds = |part: &Part| part.seconds_left(&self.folder, rates);
                let all: f64 = left.iter().map(|part| seconds(part)).sum();
                format!(
                    "about {}, {} with all that comes after it, {how}",
                    about(seconds(part)),
                    about(all)
                )
            }
            None => "how long it takes nobody knows yet".to_owned(),
        };
        say(&format!("part {place} of {n}: {}; {told}", part.what));
    }

    /// Runs a part; why there is no result, where there is none.
    fn ended(&self, part: &Part) -> Outcome<Option<String>> {
        let mut command = child::command(&self.environment)?;
        command
            .arg("bench")
            .args(&part.arguments)
            .arg("--out")
            .arg(part.path(&self.folder))
            .args(&self.keep)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        let status = command.status().context("this program cannot be started")?;
        let asked_to_end = [Signal::INT, Signal::TERM].map(|signal| Some(signal.as_raw()));
        let is_interrupted = status.code() == Some(Code::Interrupted as i32)
            || asked_to_end.contains(&status.signal());
        match status.success() {
            true => Ok(None),
            false if is_interrupted => {
                say("interrupted; the same command goes on");
                Err(fault(Code::Interrupted, "interrupted"))
            }
            false => Ok(Some(status.to_string())),
        }
    }

    /// Writes what is there as pages, and says where they are.
    fn report(&self, parts: &[Part]) -> Outcome {
        let mut lines = Vec::new();
        for part in parts {
            let read = Lines::of_file(&part.path(&self.folder));
            match read.and_then(|lines| page::section(&lines).map(|_| lines)) {
                Ok(found) => lines.push(found),
                Err(why) => say(&format!("not in the report: {}: {why}", part.what)),
            }
        }
        let title = format!("Measured with Sextant: {}", self.plan.models.join(", "));
        let page = page::page(title, &lines)?;
        for (name, text) in [("report.md", page.markdown()), ("report.html", page.html())] {
            let path = self.folder.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
            output::line(&path.display().to_string())?;
        }
        Ok(())
    }
}

/// `NAME=URL`.
fn peer(word: &str) -> Outcome<(String, String)> {
    let parts = word.split_once('=');
    let parts = parts.filter(|(name, url)| !name.is_empty() && !url.is_empty());
    let (name, url) = parts.ok_or_else(|| {
        let message = format!(
            "--peer is `{word}`; it must be NAME=URL, such as llama-server=http://127.0.0.1:8080"
        );
        fault(Code::Usage, message)
    })?;
    Ok((name.to_owned(), url.to_owned()))
}

/// Held as long as this process lives.
fn locked(folder: &Path) -> Outcome<File> {
    let path = folder.join(LOCK);
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    file.try_lock().map_err(|_| {
        let message = format!(
            "another `bench all` is at work in `{}`; wait for it, or name another folder",
            folder.display()
        );
        fault(Code::Usage, message)
    })?;
    Ok(file)
}

/// The plan of the folder, which is this one where there is none.
fn begun(folder: &Path, asked: Plan) -> Outcome<Plan> {
    let path = folder.join(PLAN);
    let there: Plan = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Whole or not at all: a plan that was cut could not be gone on with.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer_pretty(&mut file, &asked)?;
            file.persist(&path)?;
            return Ok(asked);
        }
        text => {
            let text = text.with_context(|| path.display().to_string())?;
            let told = || format!("`{}` cannot be read; name another folder", path.display());
            serde_json::from_str(&text).with_context(told)?
        }
    };
    let same = Plan {
        port: there.port,
        ..asked
    };
    match there == same {
        true => Ok(there),
        false => Err(fault(
            Code::Usage,
            format!(
                "`{}` holds a run of other models, peers or settings; go on with that by its own \
                 command, or name another folder",
                folder.display()
            ),
        )),
    }
}

fn note_done(folder: &Path, part: &Part) -> Outcome {
    use std::io::Write;

    let path = folder.join(DONE);
    let mut open = fs::OpenOptions::new();
    let open = open.create(true).append(true).open(&path);
    let mut file = open.with_context(|| path.display().to_string())?;
    Ok(writeln!(file, "{}", part.file)?)
}
