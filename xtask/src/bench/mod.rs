//! Sextant against the native `llama-server`: same model, threads, context and
//! client, both resident, one asked at a time, in one run.
//!
//! Each round starts both afresh: where the pages of a process come to lie moves its
//! speed by several percent for as long as it lives. Within a round the order of the
//! two alternates (A B, B A, ...), so that a machine that warms up or slows down
//! does so to both. Ratios are taken within a round and their median is reported
//! with the spread between rounds, which is the noise of this run.

mod cases;
mod kernels;
pub(crate) mod machine;
pub(crate) mod prompt;
mod report;
mod simulated;
mod speed;

use crate::models::{self, SMOLLM2};
use crate::overhead;
use crate::peer::{self, Peer};
use crate::server::{Server, Setting};
use crate::shell::{self, program, sextant};
use anyhow::{Result, bail};
use cases::{CASES, Case};
use prompt::Prompts;
use report::{Report, Row};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// Worker threads spin for a moment after their last task; the other server is
/// asked only after that.
const SETTLE: Duration = Duration::from_millis(400);
const STREAMS_MAX: u32 = 8;
/// Above this, something else is using the machine.
const LOAD_MAX: f64 = 0.7;
const ROUNDS_MIN: usize = 5;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// A GGUF file; the default is the small test model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Measured rounds of each case; at least 5.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Tokens each stream may use.
    #[arg(long, default_value_t = 2048)]
    context: u32,
    /// Only cases whose name contains this text; nothing is written then.
    #[arg(long)]
    only: Option<String>,
    /// Puts a second llama-server in Sextant's place: what the ratios show then is
    /// the machine's noise. Nothing is written.
    #[arg(long)]
    control: bool,
    /// Further flags for llama-server, in one argument; the report's name carries them.
    #[arg(long, allow_hyphen_values = true)]
    peer_flags: Option<String>,
    /// The day the report carries; default: today.
    #[arg(long)]
    date: Option<String>,
}

/// Benches with other peers.
#[derive(clap::Subcommand)]
enum Other {
    /// Measures what Sextant adds to an engine that others run, against other gateways.
    Overhead(overhead::Arguments),
    /// Measures our kernels against llama.cpp's own.
    Kernels(kernels::Arguments),
    /// Holds what `sextant bench load` tells against a server whose latencies are known.
    Simulated,
    /// Holds what `sextant bench speed` measures against llama-bench.
    Speed(speed::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.other {
        Some(Other::Overhead(arguments)) => overhead::run(arguments),
        Some(Other::Kernels(arguments)) => kernels::run(arguments),
        Some(Other::Simulated) => simulated::run(),
        Some(Other::Speed(arguments)) => speed::run(arguments),
        None => against_llama_server(arguments),
    }
}

fn against_llama_server(arguments: &Arguments) -> Result<()> {
    if arguments.rounds < ROUNDS_MIN && arguments.only.is_none() {
        bail!(
            "--rounds {} is too few for a median with a spread; give at least {ROUNDS_MIN}",
            arguments.rounds
        );
    }
    let model = match &arguments.model {
        Some(path) => path.canonicalize()?,
        None => models::ensure(&SMOLLM2)?,
    };
    let peer = peer::ensure()?;
    let peer_flags = arguments.peer_flags.as_deref().unwrap_or_default();
    let setting = Setting {
        model,
        threads: arguments.threads,
        slots: STREAMS_MAX,
        context_per_slot: arguments.context,
        our_flags: Vec::new(),
        peer_flags: peer_flags.split_whitespace().map(str::to_owned).collect(),
    };
    let load_before = machine::load_average();
    if load_before.parse::<f64>().is_ok_and(|load| load > LOAD_MAX) {
        eprintln!("the machine is busy (load {load_before}): the figures will be mostly noise");
    }
    let cases: Vec<&'static Case> = CASES
        .iter()
        .filter(|case| {
            let only = arguments.only.as_ref();
            only.is_none_or(|only| case.name.contains(only))
        })
        .collect();
    let mut rows: Vec<Vec<Row>> = cases
        .iter()
        .map(|case| case.metrics.iter().map(Row::new).collect())
        .collect();
    let mut last = None;
    for round in 0..arguments.rounds {
        // The servers of the round before end first.
        drop(last.take());
        let pair = Pair::start(&peer, &setting, arguments.control)?;
        eprintln!("round {}", round + 1);
        for (at, case) in cases.iter().enumerate() {
            pair.measure(case, round, (round + at) % 2 == 0, &mut rows[at])?;
        }
        last = Some(pair);
    }
    let Some(Pair { ours, theirs, .. }) = last else {
        bail!("no round was run");
    };
    let idle_cpu = machine::idle_cpu(&[&ours, &theirs]);
    let report = Report {
        rows: rows.into_iter().flatten().collect(),
        rounds: arguments.rounds,
        facts: facts(&ours, &theirs, &peer.version()?, &setting, arguments)?,
        load: format!("{load_before} before, {} after", machine::load_average()),
        idle_cpu,
    };
    println!("{}", report.table());
    if arguments.only.is_none() && !arguments.control {
        report.write(&setting)?;
    }
    Ok(())
}

/// Both servers of a round.
struct Pair {
    ours: Server,
    theirs: Server,
    prompts: Prompts,
}

impl Pair {
    fn start(peer: &Peer, setting: &Setting, control: bool) -> Result<Self> {
        let theirs = Server::peer(peer, setting)?;
        let ours = if control {
            Server::peer(peer, setting)?
        } else {
            Server::ours(setting)?
        };
        let prompts = Prompts::new(theirs.client.clone());
        for server in [&ours, &theirs] {
            cases::warm_up(server, &prompts)?;
        }
        Ok(Self {
            ours,
            theirs,
            prompts,
        })
    }

    /// Takes one sample of the case from each server.
    fn measure(&self, case: &Case, round: usize, ours_first: bool, rows: &mut [Row]) -> Result<()> {
        let sample = |server| {
            sleep(SETTLE);
            (case.measure)(server, &self.prompts, round)
        };
        let (mine, peer) = if ours_first {
            let mine = sample(&self.ours)?;
            (mine, sample(&self.theirs)?)
        } else {
            let peer = sample(&self.theirs)?;
            (sample(&self.ours)?, peer)
        };
        for (row, (mine, peer)) in rows.iter_mut().zip(mine.into_iter().zip(peer)) {
            eprintln!("  {}: {mine:.1} / {peer:.1}", row.metric.name);
            row.ours.push(mine);
            row.peer.push(peer);
        }
        Ok(())
    }
}

/// Everything a reader needs to repeat the run, as name and value.
fn facts(
    ours: &Server,
    theirs: &Server,
    peer_version: &str,
    setting: &Setting,
    arguments: &Arguments,
) -> Result<Vec<(&'static str, String)>> {
    let date = match &arguments.date {
        Some(date) => date.clone(),
        None => shell::output(&mut program("date", &["-u", "+%F"]))?,
    };
    let home = std::env::var("HOME").unwrap_or_default();
    let short = |text: &str| text.replace(&home, "~");
    Ok(vec![
        ("date", date.trim().to_owned()),
        ("model", machine::file_name(&setting.model)),
        ("threads", setting.threads.to_string()),
        ("context per stream", setting.context_per_slot.to_string()),
        ("streams at most", setting.slots.to_string()),
        ("CPU", machine::cpu()),
        (
            "kernel",
            shell::output(&mut program("uname", &["-sr"]))?
                .trim()
                .to_owned(),
        ),
        (
            "Sextant",
            shell::output(&mut program(sextant(), &["--version"]))
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
        ),
        ("Sextant flags", short(&ours.flags)),
        ("llama-server", peer_version.to_owned()),
        ("llama-server flags", short(&theirs.flags)),
        ("llama-server build", peer::CMAKE_FLAGS.join(" ")),
    ])
}
