//! `sextant run`: one answer, or a conversation at the terminal.
//!
//! The model runs in a worker of its own, or on a server with `--url`. Tokens go to
//! standard output; thoughts, statistics and the rest of the talk to standard error.

mod backend;
mod options;

use std::io::{self, IsTerminal, Read};

use clap::ArgMatches;
use proto::{Message, Role};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use supervisor::LoadOrder;
use tokio::runtime::Runtime;

use self::backend::{Backend, Piece, Summary};
use self::options::Options;
use crate::http::Server;
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};
use crate::{configuration, load, logging, models_here};

const HELP: &str = "\
/set NAME VALUE   change an option: system, temperature, top_p, top_k, min_p, seed,
                  max_tokens, repeat_penalty, presence_penalty, frequency_penalty,
                  reasoning (on or off); /set alone shows them
/clear            forget the conversation
/exit             leave; so do Ctrl-D and Ctrl-C twice
Ctrl-C            stops an answer";

/// Most bytes read from a pipe as a prompt.
const PROMPT_BYTES_MAX: u64 = 32 << 20;

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read_quiet(matches)?;
    logging::start(config.log_level, config.log_format);
    let mut options = Options::default();
    for pair in matches.get_many::<String>("set").unwrap_or_default() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        options
            .set(name, value)
            .map_err(|message| fault(Code::Usage, message))?;
    }
    options.system = matches.get_one::<String>("system").cloned();
    let prompt = prompt(matches)?;
    let model = models_here::name_in(matches);

    let runtime = Runtime::new()?;
    let backend = if matches.get_one::<String>("url").is_some() {
        let server = Server::new(matches, &config)?;
        let model = runtime.block_on(server.model(model))?;
        Backend::Remote { server, model }
    } else {
        let found = models_here::asked(matches, &config)?;
        let spec = load::spec(&config, &found)?;
        let model = spec.name.clone();
        let fleet = runtime.block_on(async { load::fleet(&config) })?;
        let order = LoadOrder {
            spec,
            pin: Some(true),
            force: matches.get_flag("force"),
        };
        let facts = runtime.block_on(load::load(&fleet, order))?;
        if io::stderr().is_terminal() {
            say(&load::summary(&facts));
        }
        load::warn(&facts);
        Backend::Local { fleet, model }
    };
    let mut talk = Talk {
        runtime,
        backend,
        options,
        messages: Vec::new(),
    };
    let outcome = match prompt {
        Some(prompt) => talk.answer_once(prompt),
        None => talk.converse(),
    };
    talk.runtime.block_on(talk.backend.close());
    outcome
}

/// The prompt of `-p` and of a pipe; `None` means a conversation.
fn prompt(matches: &ArgMatches) -> Outcome<Option<String>> {
    let given = matches.get_one::<String>("prompt").cloned();
    if io::stdin().is_terminal() {
        return Ok(given);
    }
    let mut piped = String::new();
    let mut stdin = io::stdin().lock().take(PROMPT_BYTES_MAX + 1);
    stdin
        .read_to_string(&mut piped)
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => fault(Code::Usage, "the piped prompt is not UTF-8 text"),
            _ => error.into(),
        })?;
    if piped.len() as u64 > PROMPT_BYTES_MAX {
        let limit = stdx::Bytes(PROMPT_BYTES_MAX);
        let message = format!("the piped prompt is over the limit of {limit}");
        return Err(fault(Code::Usage, message));
    }
    let piped = piped.trim();
    let parts: Vec<_> = given
        .as_deref()
        .into_iter()
        .chain((!piped.is_empty()).then_some(piped))
        .collect();
    match parts.as_slice() {
        [] => Err(fault(
            Code::Usage,
            "there is no prompt: standard input is empty and -p was not given",
        )),
        parts => Ok(Some(parts.join("\n\n"))),
    }
}

struct Talk {
    runtime: Runtime,
    backend: Backend,
    options: Options,
    messages: Vec<Message>,
}

/// How an answer ended.
enum Ended {
    Whole(Summary),
    Interrupted,
}

impl Talk {
    fn answer_once(&mut self, prompt: String) -> Outcome {
        match self.answer(prompt)? {
            Ended::Interrupted => Err(fault(Code::Interrupted, "interrupted")),
            Ended::Whole(summary) => {
                if io::stderr().is_terminal() {
                    say(&summary.to_string());
                }
                Ok(())
            }
        }
    }

    fn converse(&mut self) -> Outcome {
        let mut editor = DefaultEditor::new()?;
        say("/help shows the commands.");
        let mut interrupted = false;
        loop {
            match editor.readline(">>> ") {
                Ok(line) => {
                    interrupted = false;
                    let line = line.trim();
                    if line.is_empty() {
                        continue;
                    }
                    let _ = editor.add_history_entry(line);
                    if let Some(command) = line.strip_prefix('/') {
                        if !self.command(command) {
                            return Ok(());
                        }
                        continue;
                    }
                    self.turn(line.to_owned())?;
                }
                Err(ReadlineError::Interrupted) if !interrupted => {
                    interrupted = true;
                    say("Ctrl-C again, or Ctrl-D, leaves.");
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One turn of a conversation: an error is told, and the talk goes on.
    fn turn(&mut self, line: String) -> Outcome {
        let n_before = self.messages.len();
        match self.answer(line) {
            Ok(Ended::Whole(summary)) => say(&summary.to_string()),
            Ok(Ended::Interrupted) => say("(stopped)"),
            Err(error) => {
                self.messages.truncate(n_before);
                error.unless_fatal()?;
            }
        }
        Ok(())
    }

    /// Streams the answer to `prompt`; Ctrl-C stops it. Both become part of the
    /// conversation, as far as the answer got.
    fn answer(&mut self, prompt: String) -> Outcome<Ended> {
        self.messages.push(message(Role::User, prompt));
        let mut messages = self.messages.clone();
        if let Some(system) = &self.options.system {
            messages.insert(0, message(Role::System, system.clone()));
        }
        let mut answer = String::new();
        let mut is_thinking = false;
        let show_thoughts = io::stderr().is_terminal();
        let mut sink = |piece: Piece| -> io::Result<()> {
            match piece {
                Piece::Thought(text) if show_thoughts => {
                    is_thinking = true;
                    output::whisper(&text);
                }
                Piece::Thought(_) => {}
                Piece::Text(text) => {
                    if std::mem::take(&mut is_thinking) {
                        output::whisper("\n");
                    }
                    output::piece(&text)?;
                    answer.push_str(&text);
                }
            }
            Ok(())
        };
        let ended = self.runtime.block_on(async {
            tokio::select! {
                summary = self.backend.answer(messages, &self.options, &mut sink) => {
                    summary.map(Ended::Whole)
                }
                _ = tokio::signal::ctrl_c() => Ok(Ended::Interrupted),
            }
        });
        if !answer.is_empty() {
            output::piece("\n")?;
        }
        let ended = ended?;
        self.messages.push(message(Role::Assistant, answer));
        Ok(ended)
    }

    /// Obeys a command; `false` ends the conversation.
    fn command(&mut self, command: &str) -> bool {
        let (name, rest) = command.split_once(' ').unwrap_or((command, ""));
        match name {
            "exit" | "quit" | "bye" => return false,
            "clear" => {
                self.messages.clear();
                say("The conversation is forgotten.");
            }
            "set" if rest.trim().is_empty() => say(&self.options.to_string()),
            "set" => {
                let (name, value) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
                if let Err(message) = self.options.set(name, value.trim()) {
                    say(&message);
                }
            }
            "help" | "?" => say(HELP),
            other => say(&format!("There is no command /{other}; /help shows them.")),
        }
        true
    }
}

fn message(role: Role, content: String) -> Message {
    Message {
        role,
        content: Some(content),
        ..Message::default()
    }
}
