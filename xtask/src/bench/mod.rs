//! Sextant against the native `llama-server`: same model, threads, context and
//! client, both resident, one asked at a time, in one run.
//!
//! The order of the two alternates from round to round (A B, B A, ...), so that
//! a machine that warms up or slows down does so to both. The first round of
//! each case is discarded. Ratios are taken within a round and their median is
//! reported with the spread between rounds, which is the noise of this run.

mod cases;
mod machine;
mod prompt;
mod report;

use crate::models::{self, SMOLLM2};
use crate::peer;
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
pub(crate) struct Arguments {
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
    /// The day the report carries; default: today.
    #[arg(long)]
    date: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
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
    let setting = Setting {
        model,
        threads: arguments.threads,
        slots: STREAMS_MAX,
        context_per_slot: arguments.context,
        peer_flags: &[],
    };
    let load_before = machine::load_average();
    if load_before.parse::<f64>().is_ok_and(|load| load > LOAD_MAX) {
        eprintln!("the machine is busy (load {load_before}): the figures will be mostly noise");
    }
    let theirs = Server::peer(&peer, &setting)?;
    let ours = if arguments.control {
        Server::peer(&peer, &setting)?
    } else {
        Server::ours(&setting)?
    };
    let idle_cpu = machine::idle_cpu(&[&ours, &theirs]);
    let prompts = Prompts::new(theirs.client.clone());
    let mut rows = Vec::new();
    for case in CASES {
        if arguments
            .only
            .as_ref()
            .is_some_and(|only| !case.name.contains(only))
        {
            continue;
        }
        eprintln!("{}", case.name);
        rows.extend(one_case(case, &ours, &theirs, &prompts, arguments.rounds)?);
    }
    let report = Report {
        rows,
        rounds: arguments.rounds,
        facts: facts(&ours, &theirs, &peer.version()?, &setting, arguments)?,
        load: format!("{load_before} before, {} after", machine::load_average()),
        idle_cpu,
    };
    println!("{}", report.table());
    if arguments.only.is_none() && !arguments.control {
        report.write(&setting.model)?;
    }
    Ok(())
}

/// The case's metrics, each with the samples of both servers.
fn one_case(
    case: &Case,
    ours: &Server,
    theirs: &Server,
    prompts: &Prompts,
    rounds: usize,
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = case.metrics.iter().map(Row::new).collect();
    for round in 0..=rounds {
        let mut samples = [Vec::new(), Vec::new()];
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let server = [ours, theirs][side];
            sleep(SETTLE);
            samples[side] = (case.measure)(server, prompts, round)?;
        }
        let [mine, peer] = samples;
        let shown: Vec<String> = mine
            .iter()
            .zip(&peer)
            .map(|(mine, peer)| format!("{mine:.1} / {peer:.1}"))
            .collect();
        let note = if round == 0 { " (warm-up)" } else { "" };
        eprintln!("  round {round}: {}{note}", shown.join(", "));
        if round > 0 {
            for (row, (mine, peer)) in rows.iter_mut().zip(mine.into_iter().zip(peer)) {
                row.ours.push(mine);
                row.peer.push(peer);
            }
        }
    }
    Ok(rows)
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
