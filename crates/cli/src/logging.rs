//! The log: on standard error, as text or JSON.

use std::io::{self, IsTerminal};

use config::{LogFormat, LogLevel};
use tracing_subscriber::filter::LevelFilter;

use crate::progress::LogWriter;

/// Starts the log of a command that a person or a service runs.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| LogWriter);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
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
