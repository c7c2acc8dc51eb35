//! The log: on standard error, as text or JSON; the last lines of a server also in memory, for
//! those who look from afar.

use std::fmt::{Debug, Write as _};
use std::io::{self, IsTerminal};

use config::{LogFormat, LogLevel};
use gateway::{LogLine, Logs, PAGE_LOG};
use supervisor::ENGINE_LOG;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::progress::LogWriter;

/// Starts the log of a command that a person or a service runs.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    Registry::default().with(shown(level, format)).init();
}

/// Starts the log of a server, whose last lines are kept: those of the endpoint that are shown
/// and not below `info`, without requests of the workbench, and all that engines say.
pub(crate) fn start_kept(level: LogLevel, format: LogFormat) -> Logs {
    let logs = Logs::default();
    // A line that nobody sees costs every request the time to write it.
    let of_endpoint = filter(level).min(LevelFilter::INFO);
    let kept = Kept(logs.clone()).with_filter(
        FilterFn::new(move |line| match line.target() {
            ENGINE_LOG => true,
            PAGE_LOG => false,
            _ => *line.level() <= of_endpoint,
        })
        .with_max_level_hint(LevelFilter::DEBUG),
    );
    Registry::default()
        .with(shown(level, format))
        .with(kept)
        .init();
    logs
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn shown(level: LogLevel, format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let level = filter(level);
    let log = fmt::layer().with_writer(|| LogWriter);
    match format {
        LogFormat::Text => {
            let log = log.with_ansi(io::stderr().is_terminal());
            log.with_filter(level).boxed()
        }
        LogFormat::Json => log.json().with_filter(level).boxed(),
    }
}

/// Starts the log of a worker: bare lines, since the supervisor stamps them and
/// keeps the last ones for its error messages.
pub(crate) fn start_in_worker() {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::INFO)
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
}

/// Puts lines where they are kept.
struct Kept(Logs);

impl<S: Subscriber> Layer<S> for Kept {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let text = said.message + &said.rest;
        let metadata = event.metadata();
        let (level, text) = match metadata.target() {
            ENGINE_LOG => of_worker(&text),
            _ => (word(*metadata.level()), text.as_str()),
        };
        self.0.push(LogLine {
            level,
            source: metadata.target().to_owned(),
            model: said.model,
            text: text.to_owned(),
        });
    }
}

/// Fields of a line.
#[derive(Default)]
struct Said {
    message: String,
    model: Option<String>,
    rest: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "model" => self.model = Some(value.to_owned()),
            _ => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "model" => write!(self.model.insert(String::new()), "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
    }
}

/// A worker's line begins with its level.
fn of_worker(line: &str) -> (&'static str, &str) {
    let line = line.trim();
    for level in [
        Level::ERROR,
        Level::WARN,
        Level::INFO,
        Level::DEBUG,
        Level::TRACE,
    ] {
        let rest = line.strip_prefix(level.as_str());
        if let Some(rest) = rest.filter(|rest| rest.starts_with(' ')) {
            return (word(level), rest.trim_start());
        }
    }
    // What is printed past the log: an abort's last words, a library's complaint.
    ("info", line)
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_tells_its_level_first() {
        for (line, told) in [
            (" WARN it goes on", ("warn", "it goes on")),
            ("ERROR  no memory", ("error", "no memory")),
            ("INFORMED guess", ("info", "INFORMED guess")),
            (
                "double free or corruption",
                ("info", "double free or corruption"),
            ),
            ("TRACE x", ("debug", "x")),
        ] {
            assert_eq!(of_worker(line), told);
        }
    }
}
