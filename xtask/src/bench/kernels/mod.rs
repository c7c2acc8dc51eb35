//! Our kernels against llama.cpp's own, by llama.cpp's own bench: `cargo xtask bench kernels`.
//!
//! The peer is `llama-bench` of a native build. Ours is the same program of a build with back
//! ends in libraries, which loads our plugin; with `--isa avx2` the peer is a build that knows
//! AVX2 only. Each figure is a process of its own, and within a round the two take turns, so
//! that a machine that slows down does so to both. A call goes on where the last one was stopped,
//! by `--seconds` or otherwise. Writes `docs/benchmarks/kernels.{md,json}` once all is there.

mod cases;
mod kept;
mod report;
mod sample;

use crate::bench::machine;
use crate::cache;
use crate::models;
use crate::peer::{self, BUILD};
use crate::shell::{self, program};
use crate::stock::{self, Instructions, Stock};
use anyhow::{Context, Result, bail};
use cases::{Case, Subject};
use kept::Kept;
use kernels::Isa;
use kernels::isa::Level;
use report::{Report, Row};
use sample::{Sample, Side};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measured rounds of each case.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Only cases whose line in the table contains this text; nothing is written then.
    #[arg(long)]
    only: Option<String>,
    /// The instruction set of both: avx2; default: the machine's best.
    #[arg(long, value_name = "LEVEL")]
    isa: Option<String>,
    /// The day the report carries; default: today.
    #[arg(long)]
    date: Option<String>,
    /// Begin no more pairs after so long; the next call goes on there.
    #[arg(long)]
    seconds: Option<u64>,
    /// Throw away what earlier calls have measured.
    #[arg(long)]
    fresh: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let isa = isa(arguments.isa.as_deref())?;
    let sides = sides(arguments.isa.as_deref())?;
    let cases: Vec<Case> = cases::all(isa)
        .into_iter()
        .filter(|case| {
            let only = arguments.only.as_deref();
            only.is_none_or(|only| case.name().contains(only))
        })
        .collect();
    if cases.is_empty() {
        bail!("no case's name contains what `--only` says");
    }
    let load = machine::load_average();
    let mut paths = BTreeMap::new();
    for case in &cases {
        if let Entry::Vacant(place) = paths.entry(case.subject) {
            place.insert(path(case.subject)?);
        }
    }
    let mut rows: Vec<Row> = cases.into_iter().map(Row::new).collect();
    let name = format!("{isa}-{}", arguments.threads);
    let kept = Kept::open(&name, programs(&sides)?, arguments.fresh)?;
    let limit = arguments.seconds.map(Duration::from_secs);
    let is_over = || limit.is_some_and(|limit| start.elapsed() >= limit);
    let (int8, left) = fill(&mut rows, (arguments, isa, kept), &sides, &paths, is_over)?;
    if left > 0 {
        println!("{left} pairs are left for further calls");
        return Ok(());
    }
    let date = match &arguments.date {
        Some(date) => date.clone(),
        None => shell::output(&mut program("date", &["-u", "+%F"]))?,
    };
    let report = Report {
        rows,
        rounds: arguments.rounds,
        threads: arguments.threads,
        isa: isa.to_string(),
        int8_ops_s: int8,
        bytes_s: bytes_s()?,
        sizes: sizes(&paths)?,
        facts: vec![
            ("date", date.trim().to_owned()),
            ("CPU", machine::cpu()),
            ("load average before", load),
            ("llama.cpp", BUILD.to_owned()),
            ("the peer", sides[1].what.to_owned()),
            ("Sextant", env!("CARGO_PKG_VERSION").to_owned()),
        ],
    };
    println!("{}", report.table());
    if arguments.only.is_none() {
        report.write(arguments.isa.as_deref())?;
    }
    Ok(())
}

/// All pairs that are kept or that there is time for; the most 8-bit operations a second that were
/// seen meanwhile, and how many pairs are left.
fn fill(
    rows: &mut [Row],
    (arguments, isa, mut kept): (&Arguments, Isa, Kept),
    sides: &[Side; 2],
    paths: &BTreeMap<Subject, PathBuf>,
    is_over: impl Fn() -> bool,
) -> Result<(f64, usize)> {
    let (mut int8, mut left): (f64, usize) = (0.0, 0);
    for round in 0..arguments.rounds {
        int8 = int8.max(int8_ops_s(isa, arguments.threads));
        for row in rows.iter_mut() {
            let name = row.case.name();
            let pair = match kept.pair(&name, round) {
                Some(pair) => pair,
                None if is_over() => {
                    left += 1;
                    continue;
                }
                None => {
                    let path = &paths[&row.case.subject];
                    let pair = measure(&row.case, sides, path, round, arguments.threads)?;
                    kept.keep(&name, round, pair)?;
                    pair
                }
            };
            row.push(pair);
        }
    }
    Ok((int8, left))
}

/// A pair of samples, ours first, taken in the order of the round.
fn measure(
    case: &Case,
    sides: &[Side; 2],
    model: &Path,
    round: usize,
    threads: u32,
) -> Result<[Sample; 2]> {
    let take = |side: usize| sample::take(&sides[side], model, case, threads);
    let (ours, peer) = match round % 2 {
        0 => (take(0)?, take(1)?),
        _ => {
            let peer = take(1)?;
            (take(0)?, peer)
        }
    };
    eprintln!(
        "round {}: {}: {:.1} and {:.1} tokens/s",
        round + 1,
        case.name(),
        ours.tokens_s,
        peer.tokens_s
    );
    Ok([ours, peer])
}

/// What is compared, so that figures of other programs are not taken for theirs.
fn programs(sides: &[Side; 2]) -> Result<String> {
    let files = sides.iter().flat_map(|side| {
        let plugin = side.plugin.as_deref();
        plugin.into_iter().chain([side.program.as_path()])
    });
    let sums: Vec<String> = files.map(cache::sha256).collect::<Result<_>>()?;
    Ok(sums.join(" "))
}

fn isa(named: Option<&str>) -> Result<Isa> {
    let Some(name) = named else {
        return Ok(Isa::best());
    };
    let level = Level::from_name(name).filter(|level| *level == Level::Avx2);
    let level =
        level.with_context(|| format!("`--isa {name}` has no peer; leave it out, or give avx2"))?;
    Isa::detect(level).with_context(|| format!("this machine has no {name}"))
}

/// Ours, and the peer.
fn sides(isa: Option<&str>) -> Result<[Side; 2]> {
    let ours = Side {
        what: "the plugin in a stock build",
        program: Stock::ensure(Instructions::Machine)?.path("llama-bench"),
        plugin: Some(stock::plugin()?),
        isa: isa.map(ToOwned::to_owned),
    };
    let peer = match isa {
        None => Side {
            what: "llama-bench of a native build",
            program: peer::ensure()?.bench,
            plugin: None,
            isa: None,
        },
        Some(_) => Side {
            what: "llama-bench of a build for AVX2",
            program: Stock::ensure(Instructions::Avx2)?.path("llama-bench"),
            plugin: None,
            isa: None,
        },
    };
    Ok([ours, peer])
}

fn path(subject: Subject) -> Result<PathBuf> {
    match subject {
        Subject::Real(at) => models::ensure(cases::REAL[at]),
        Subject::Random(shape, mixture) => {
            models::random(&cases::llama(shape, mixture), &subject.name())
        }
    }
}

/// The most 8-bit operations a second that the machine does on so many cores.
fn int8_ops_s(isa: Isa, threads: u32) -> f64 {
    const ROUNDS: u64 = 1 << 18;
    const SPAN: Duration = Duration::from_millis(200);
    let one = || {
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed() < SPAN {
            done += kernels::peak::int8(isa, ROUNDS);
        }
        done as f64 / start.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        all.into_iter().filter_map(|it| it.join().ok()).sum()
    })
}

/// What `sextant hw` measures of reading, by all cores, bytes a second.
fn bytes_s() -> Result<f64> {
    let hardware = crate::speed_check::sextant_json(&["hw", "--measure"])?;
    let all = hardware["measured"]["bandwidth"].as_array();
    let best = all
        .into_iter()
        .flatten()
        .filter_map(|point| point["best_gb_per_second"].as_f64())
        .fold(0.0, f64::max);
    Ok(best * 1e9)
}

/// Of each model: what a token multiplies by, and the bytes of it.
fn sizes(paths: &BTreeMap<Subject, PathBuf>) -> Result<BTreeMap<Subject, Sizes>> {
    let mut sizes = BTreeMap::new();
    for (subject, path) in paths {
        let model = planner::Model::read(&[::models::Gguf::open(path)?])?;
        sizes.insert(*subject, Sizes::of(&model));
    }
    Ok(sizes)
}

/// What one token costs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    /// Weights that a token of a prompt is multiplied by: all but the table and the output.
    layers_weights: u64,
    /// Bytes that a token of an answer reads: all matrices but the table.
    decode_bytes: u64,
}

impl Sizes {
    fn of(model: &planner::Model) -> Self {
        let matrices = model.tensors.iter().filter(|tensor| tensor.is_matrix);
        let mut sizes = Self::default();
        for tensor in matrices {
            if tensor.layer.is_some() {
                sizes.layers_weights += tensor.row * tensor.rows;
            }
            if tensor.role == planner::Role::Weight || model.is_tied {
                sizes.decode_bytes += tensor.bytes;
            }
        }
        sizes
    }
}
