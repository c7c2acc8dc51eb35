//! `sextant serve`: loads models and serves them until a signal.

mod endpoint;
mod fleet;
mod reload;

use std::net::SocketAddr;
use std::sync::Arc;

use clap::ArgMatches;
use config::Config;
use models::Found;
use supervisor::Fleet;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::reload::ProcessConfig;
use crate::http::reachable;
use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::output::say;
use crate::{configuration, load, logging, models_here};

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    logging::start(config.log_level, config.log_format);
    let found = to_load(&config)?;
    models_here::check_names(&found)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let source = Arc::new(ProcessConfig::new(matches).code(Code::Usage)?);
    runtime.block_on(serve(&config, &found, source))
}

/// The models to begin with. With other providers there may be none: a machine can serve
/// without running a model itself.
fn to_load(config: &Config) -> Outcome<Vec<Found>> {
    let environment = models_here::environment(config);
    let found = models_here::to_load(&environment, &config.load);
    match config.load.is_empty() && !config.fleet.providers.is_empty() {
        true => Ok(found.unwrap_or_default()),
        false => found,
    }
}

async fn serve(config: &Config, found: &[Found], source: Arc<ProcessConfig>) -> Outcome {
    let mut signals = Signals::new()?;
    let edge = endpoint::settings(config, config.listen)?;
    let routing = fleet::routing(&config.fleet)?;
    let listener = bind(config.listen).await?;
    let address = listener.local_addr()?;
    say(&format!("listening on http://{address}"));
    for provider in &config.fleet.providers {
        let (name, kind, url) = (&provider.name, &provider.kind, &provider.url);
        say(&format!("provider {name}: {kind} at {url}"));
    }
    let fleet = load::fleet(config)?;

    // The endpoint answers while models load: requests wait, and it says that it is
    // not ready yet.
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(endpoint::run(
        listener,
        fleet.clone(),
        (edge, routing),
        source,
        stopped,
    ));
    let loaded = tokio::select! {
        loaded = load_all(config, &fleet, found) => loaded.map(|()| true),
        () = signals.next() => Ok(false),
    };
    if let Ok(true) = loaded {
        say(&usage(address, found));
        signals.next().await;
    }
    if loaded.is_ok() {
        let limit_s = config.drain_timeout.as_secs();
        say(&format!(
            "ending: running requests have {limit_s} s to finish; Ctrl-C again ends at once"
        ));
    }
    // No receiver means that the endpoint has ended already.
    let _ = stop.send(true);
    drain(&fleet, &mut signals).await?;
    loaded?;
    // It has its own limit on how long open connections may take.
    server.await?;
    Ok(())
}

async fn bind(address: SocketAddr) -> Outcome<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let message = format!(
            "cannot listen on {address}: {error}; another program may use it, and `--listen` \
             names another address"
        );
        fault(Code::Failure, message)
    })
}

/// One after the other: two loads at once would compete for the same disk and memory.
async fn load_all(config: &Config, fleet: &Fleet, found: &[Found]) -> Outcome {
    for found in found {
        let spec = load::spec(config, found)?;
        say(&format!("loading {} ({})", spec.name, found.bytes));
        let facts = load::load(fleet, spec).await?;
        say(&load::summary(&facts));
        load::warn(&facts);
    }
    Ok(())
}

async fn drain(fleet: &Fleet, signals: &mut Signals) -> Outcome {
    tokio::select! {
        () = fleet.shutdown() => Ok(()),
        () = signals.next() => Err(fault(Code::Interrupted, "ended before all requests were")),
    }
}

/// How to use what now runs.
fn usage(address: SocketAddr, found: &[Found]) -> String {
    let model = found
        .first()
        .map_or_else(|| "auto".to_owned(), models_here::served_name);
    let url = format!("http://{}/v1", reachable(address));
    format!(
        "ready. Base URL for OpenAI clients: {url}\n  curl {url}/chat/completions -H \
         'Content-Type: application/json' -d '{{\"model\": \"{model}\", \"messages\": \
         [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'"
    )
}

/// Ctrl-C and SIGTERM.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Outcome<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate()).code(Code::Failure)?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
