//! `sextant serve`: loads models and serves them until a signal.

mod endpoint;
mod fleet;
mod pulse;
mod reload;

use std::net::SocketAddr;
use std::sync::Arc;

use clap::ArgMatches;
use config::Config;
use gateway::{GatewayConfig, Logs};
use supervisor::{Fleet, Keep, Listing, LoadOrder, ModelPhase, ModelStatus};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::reload::ProcessConfig;
use crate::doctor::MachineDoctor;
use crate::http::{reachable, scheme};
use crate::library::DiskLibrary;
use crate::outcome::{Code, Fault, Outcome, WithCode, fault};
use crate::output::say;
use crate::shelf::Missing;
use crate::{configuration, load, logging, models_here, shelf, tune};

/// Checks the rules of the configuration, and not its providers: their keys may be there for
/// the server alone.
pub(crate) fn check_rules(config: &Config) -> Outcome {
    fleet::check_rules(&shelf::with_aliases(config).routing)
}

/// The providers and rules of the configuration. Nobody is asked anything.
pub(crate) fn routing(config: &Config) -> Outcome<gateway::Routing> {
    fleet::routing(&shelf::with_aliases(config))
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let logs = logging::start_kept(config.log_level, config.log_format);
    let environment = models_here::environment(&config);
    let listings = shelf::listings(&config, &environment, Missing::Refuse)?;
    let start = to_load(matches, &config, &listings)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let source = Arc::new(ProcessConfig::new(matches, &config).code(Code::Usage)?);
    runtime.block_on(serve(&config, (listings, start), (source, logs)))
}

/// The models to begin with. There may be none where other providers or models on demand
/// can answer.
fn to_load(matches: &ArgMatches, config: &Config, listings: &[Listing]) -> Outcome<Vec<LoadOrder>> {
    let environment = models_here::environment(config);
    let (mut specs, mut found) = (Vec::new(), Vec::new());
    let listed = |name: &String| listings.iter().find(|listing| listing.spec.name == *name);
    for name in &config.load {
        match listed(name) {
            Some(listing) => specs.push(listing.spec.clone()),
            None => found.push(models_here::find(&environment, name)?),
        }
    }
    let is_named = !config.load.is_empty();
    if !is_named && config.presets.is_empty() {
        let only = models_here::to_load(&environment, &[]);
        // On a machine without any model the web page fetches the first.
        let is_bare = models_here::is_bare(&environment);
        let can_do_without = !config.fleet.providers.is_empty() || !listings.is_empty() || is_bare;
        found = match can_do_without {
            true => only.unwrap_or_default(),
            false => only?,
        };
    }
    models_here::check_names(&found)?;
    for found in &found {
        specs.push(load::spec(config, found)?);
    }
    let orders = specs.into_iter().map(|spec| LoadOrder {
        spec,
        pin: is_named.then_some(true),
        force: matches.get_flag("force"),
    });
    Ok(orders.collect())
}

fn say_providers(config: &Config) {
    for provider in &config.fleet.providers {
        let (name, kind) = (&provider.name, &provider.kind);
        let place = match &provider.url {
            Some(url) => format!("at {url}"),
            None => format!(
                "run by us, {}",
                provider.start.as_deref().unwrap_or("on_demand")
            ),
        };
        say(&format!("provider {name}: {kind} {place}"));
    }
}

async fn serve(
    config: &Config,
    (listings, start): (Vec<Listing>, Vec<LoadOrder>),
    (source, logs): (Arc<ProcessConfig>, Logs),
) -> Outcome {
    let mut signals = Signals::new()?;
    let fleet = load::fleet(config)?;
    let doctor = MachineDoctor::new(source.matches(), config, &fleet);
    let edge = GatewayConfig {
        logs,
        ..endpoint::settings(config, library(config, &fleet), doctor)?
    };
    let key = match edge.asks_for_a_key() {
        true => " -H \"Authorization: Bearer $YOUR_KEY\"",
        false => "",
    };
    let routing = routing(config)?;
    let listener = bind(config.listen).await?;
    let address = listener.local_addr()?;
    say(&format!("listening on {}://{address}", scheme(config)));
    say_providers(config);
    if config.discovery {
        tokio::spawn(crate::discover::tell(config.clone(), address.port()));
    }
    say_shelf(&fleet, &listings);
    fleet.shelve(listings);
    fleet
        .expect(start.iter().map(|order| order.spec.clone()))
        .await;
    if config.tuned {
        let environment = models_here::environment(config);
        tokio::spawn(tune::watch(environment, shelve_again(config, &fleet)));
    }

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
        loaded = load_all(&fleet, &start) => loaded.map(|()| true),
        () = signals.next() => Ok(false),
    };
    if let Ok(true) = loaded {
        let page = format!("{}://{}/", scheme(config), reachable(address));
        say_page(&page, config, &fleet);
        say(&usage(&format!("{page}v1"), &fleet, key));
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
    tokio::select! {
        served = server => Ok(served?),
        () = signals.next() => Err(cut_short()),
    }
}

/// Where the web page is; on a machine without any model, what it is good for.
fn say_page(page: &str, config: &Config, fleet: &Fleet) {
    match fleet.models().is_empty() && config.fleet.providers.is_empty() {
        true => say(&format!(
            "no model on this machine yet: {page} fetches one, or `sextant pull SPEC` does"
        )),
        false => say(&format!("web page: {page}")),
    }
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
async fn load_all(fleet: &Fleet, start: &[LoadOrder]) -> Outcome {
    for order in start {
        let spec = &order.spec;
        say(&format!("loading {} ({})", spec.name, spec.path.display()));
        let facts = load::load(fleet, order.clone()).await?;
        // The only model of a machine need not go while nobody needs its memory.
        fleet.keep(&spec.name, Keep::Forever);
        say(&load::summary(&facts));
        load::warn(&facts);
        let (held, max) = fleet.memory();
        if let Some(max) = max.filter(|max| held > *max) {
            say(&format!(
                "warning: the models take about {}, more than `model_memory_max` with {}",
                stdx::Bytes(held),
                stdx::Bytes(max)
            ));
        }
    }
    Ok(())
}

/// The models on disk. What is pulled or deleted goes onto the shelf or off it.
fn library(config: &Config, fleet: &Fleet) -> DiskLibrary {
    let environment = models_here::environment(config);
    let changed = shelve_again(config, fleet);
    DiskLibrary::new(environment, config.clone()).on_change(Arc::new(changed))
}

/// Puts the models on demand onto the shelf anew, with the settings that they have by now.
fn shelve_again(config: &Config, fleet: &Fleet) -> impl Fn() + Send + Sync + 'static {
    let (config, fleet) = (config.clone(), fleet.clone());
    let environment = models_here::environment(&config);
    move || match shelf::listings(&config, &environment, Missing::Skip) {
        Ok(listings) => fleet.shelve(listings),
        Err(error) => tracing::error!("the models on demand stay as they were: {error}"),
    }
}

fn say_shelf(fleet: &Fleet, listings: &[Listing]) {
    if let (_, Some(max)) = fleet.memory() {
        say(&format!("models may take {} of memory", stdx::Bytes(max)));
    }
    if let (_, Some(max)) = fleet.device_memory() {
        say(&format!("and {} of the GPU's", stdx::Bytes(max)));
    }
    if !listings.is_empty() {
        let names: Vec<_> = listings
            .iter()
            .map(|listing| listing.spec.name.as_str())
            .collect();
        say(&format!("on demand: {}", names.join(", ")));
    }
}

async fn drain(fleet: &Fleet, signals: &mut Signals) -> Outcome {
    tokio::select! {
        () = fleet.shutdown() => Ok(()),
        () = signals.next() => Err(cut_short()),
    }
}

fn cut_short() -> Fault {
    fault(Code::Interrupted, "ended before all requests were")
}

/// How to use what now runs. `key` is the part of a command that gives one.
fn usage(url: &str, fleet: &Fleet, key: &str) -> String {
    let models = fleet.models();
    let ready = |model: &&ModelStatus| matches!(model.phase, ModelPhase::Ready(_));
    let model = models.iter().find(ready).or_else(|| models.first());
    let model = model.map_or("auto", |model| &model.name);
    format!(
        "ready. Base URL for OpenAI clients: {url}\n  curl {url}/chat/completions{key} -H \
         'Content-Type: application/json' -d '{{\"model\": \"{model}\", \"messages\": \
         [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'"
    )
}

/// Ctrl-C and SIGTERM.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Heard so that it does not end the server: a write beyond the limit on the size of files
    /// then fails like any other that has no room.
    #[expect(dead_code, reason = "held until the end")]
    file_too_large: Signal,
}

impl Signals {
    fn new() -> Outcome<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate()).code(Code::Failure)?,
            file_too_large: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
