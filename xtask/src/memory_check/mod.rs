//! What is admitted survives, and what is refused would not: `cargo xtask memory-check`.
//!
//! Each case is a model, a context and a number of slots in a control group of its own. Our
//! server decides whether it loads. If it does, the whole context is filled, on all slots at
//! once and then by one prompt alone, every answer is checked, and the group must have killed
//! nobody. If it refuses, llama-server gets the same context and slots, its other flags as
//! they are by default, and what becomes of it is written down. The model is a copy that nobody
//! else uses, and is dropped from the system's cache before each start, so that its pages are
//! charged to the group that reads them. Writes `docs/benchmarks/memory-limits.{md,json}`.

mod fill;
mod report;

use crate::bench::machine;
use crate::group::Group;
use crate::models::{self, GEMMA3, SMOLLM2};
use crate::peer::{self, Peer};
use crate::server::{self, Server, free_port};
use crate::shell::{self, program, sextant, target_dir};
use anyhow::{Context, Result, bail};
use fill::{Filled, Load};
use report::{Report, Row};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::fat;

const MIB: u64 = 1 << 20;
/// Decoding at less than this share of the speed without a limit is no use to anybody.
const USABLE_SHARE: f64 = 0.1;

/// A cell takes 256 KiB: half of what a model of 7 billion parameters with full attention
/// takes, so that a gigabyte is filled in half a minute.
const FAT: fat::Sizes = fat::Sizes {
    layers: 32,
    heads: 16,
    head_width: 128,
    context: 32_768,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only cases whose line in the table contains this text; nothing is written then.
    #[arg(long)]
    only: Option<String>,
    /// Runs llama-server on the cases that are admitted, too.
    #[arg(long)]
    peer_always: bool,
    /// The day the report carries; default: today.
    #[arg(long)]
    date: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Smol,
    Gemma,
    Fat,
}

impl Which {
    const fn name(self) -> &'static str {
        match self {
            Self::Smol => "SmolLM2-135M Q4_1",
            Self::Gemma => "Gemma 3 270M Q4_K_M",
            Self::Fat => "random, 256 KiB a token",
        }
    }

    /// Writes its file. It is a copy of its own: pages of a file that another process uses
    /// are charged to that one's group, and cannot be dropped.
    fn write(self, to: &Path) -> Result<()> {
        match self {
            Self::Smol => fs::copy(models::ensure(&SMOLLM2)?, to).map(|_| ())?,
            Self::Gemma => fs::copy(models::ensure(&GEMMA3)?, to).map(|_| ())?,
            Self::Fat => fs::write(to, fat::gguf(&FAT))?,
        }
        Ok(())
    }
}

/// The file that is served; dropping it removes it.
struct Served {
    path: PathBuf,
    which: Which,
}

impl Served {
    fn new(which: Which) -> Result<Self> {
        let folder = target_dir().join("test-data");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("memory-check-{}.gguf", std::process::id()));
        which.write(&path)?;
        Ok(Self { path, which })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
struct Case {
    limit_mib: u64,
    which: Which,
    context: u32,
    slots: u32,
}

impl Case {
    fn line(&self) -> String {
        format!(
            "{} MiB, {}, context {}, {} slots",
            self.limit_mib,
            self.which.name(),
            self.context,
            self.slots
        )
    }
}

/// Limits in MiB, each with models and their contexts and slots. Both sides of the border
/// are there for each limit.
type Ladder = (u64, &'static [(Which, u32, &'static [u32])]);

const LADDER: [Ladder; 3] = [
    (
        512,
        &[
            (Which::Smol, 8192, &[4, 64]),
            (Which::Gemma, 2048, &[4]),
            (Which::Gemma, 8192, &[4]),
            (Which::Gemma, 32_768, &[4]),
            (Which::Fat, 1024, &[1]),
            (Which::Fat, 2048, &[4]),
        ],
    ),
    (
        1024,
        &[
            (Which::Smol, 8192, &[64]),
            (Which::Gemma, 16_384, &[4]),
            (Which::Fat, 2048, &[4]),
            (Which::Fat, 4096, &[4]),
        ],
    ),
    (
        2048,
        &[
            (Which::Gemma, 8192, &[64]),
            (Which::Fat, 4096, &[4]),
            (Which::Fat, 8192, &[4]),
        ],
    ),
];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (limit_mib, models) in LADDER {
        for (which, context, all_slots) in models {
            cases.extend(all_slots.iter().map(|slots| Case {
                limit_mib,
                which: *which,
                context: *context,
                slots: *slots,
            }));
        }
    }
    cases
}

/// What became of a server.
#[derive(Debug, Clone)]
enum Fate {
    /// It would not load, and said why.
    Refused(String),
    /// The kernel killed it, at this point.
    Killed(&'static str),
    /// It answered all prompts.
    Survived(Filled),
    /// It neither answered nor was killed.
    Failed(String),
}

/// A run of one server on one case.
#[derive(Debug, Clone)]
struct Run {
    fate: Fate,
    kills: u64,
    peak_bytes: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let peer = peer::ensure()?;
    let mut rows = Vec::new();
    let mut served: Option<Served> = None;
    for case in cases() {
        let only = arguments.only.as_ref();
        if only.is_some_and(|only| !case.line().contains(only)) {
            continue;
        }
        eprintln!("{}", case.line());
        // The copy of before goes first.
        let served = match served.take().filter(|known| known.which == case.which) {
            Some(known) => served.insert(known),
            None => served.insert(Served::new(case.which)?),
        };
        let model = served.path.as_path();
        let ours = in_group(&case, Side::Ours, model)?;
        eprintln!("  sextant: {}", report::fate(&ours, None));
        let is_refused = matches!(ours.fate, Fate::Refused(_));
        let (mut theirs, mut free) = (None, None);
        if is_refused || arguments.peer_always {
            free = free_decode(&case, &peer, model);
            let run = in_group(&case, Side::Peer(&peer), model)?;
            eprintln!("  llama-server: {}", report::fate(&run, free));
            theirs = Some(run);
        }
        rows.push(Row {
            case,
            ours,
            theirs,
            peer_free_tokens_per_s: free,
        });
    }
    let report = Report {
        rows,
        facts: facts(arguments, &peer)?,
    };
    println!("{}", report.table());
    if arguments.only.is_none() && !arguments.peer_always {
        report.write()?;
    }
    report.check()
}

/// Whose server.
#[derive(Clone, Copy)]
enum Side<'a> {
    Ours,
    Peer(&'a Peer),
}

impl Side<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "sextant",
            Self::Peer(_) => "llama-server",
        }
    }

    const fn ready(self) -> &'static str {
        match self {
            Self::Ours => "/ready",
            Self::Peer(_) => "/health",
        }
    }

    /// The command of somebody who wants this context and so many slots, and says no more.
    fn command(self, case: &Case, model: &Path, port: u16) -> Command {
        match self {
            Self::Ours => {
                let mut command = Command::new(sextant());
                command.arg("serve").arg(model);
                command.env("SEXTANT_DATA_DIR", server::data_dir());
                command.args(["--discovery=false", "--listen"]);
                command.arg(format!("127.0.0.1:{port}"));
                command.arg("--context").arg(case.context.to_string());
                command.arg("--slots").arg(case.slots.to_string());
                command
            }
            Self::Peer(peer) => {
                let mut command = Command::new(&peer.server);
                command.arg("-m").arg(model);
                command.arg("--port").arg(port.to_string());
                command.arg("-c").arg(case.context.to_string());
                command.arg("-np").arg(case.slots.to_string());
                command
            }
        }
    }
}

fn in_group(case: &Case, side: Side<'_>, model: &Path) -> Result<Run> {
    drop_from_cache(model)?;
    let group = Group::new("memory-check", case.limit_mib * MIB)?;
    let port = free_port()?;
    let command = group.command(&side.command(case, model, port));
    let fate = match Server::start(side.name(), command, port, side.ready()) {
        Ok(mut server) => filled(case, side, &group, &mut server)?,
        Err(error) => not_loaded(&group, &format!("{error:#}"))?,
    };
    Ok(Run {
        fate,
        kills: group.kills()?,
        peak_bytes: group.peak_bytes(),
    })
}

fn not_loaded(group: &Group, error: &str) -> Result<Fate> {
    if group.kills()? > 0 {
        return Ok(Fate::Killed("while it loaded"));
    }
    let refusal = error.lines().find(|line| line.contains("takes about"));
    Ok(match refusal {
        Some(line) => Fate::Refused(line.trim().to_owned()),
        None => Fate::Failed(error.to_owned()),
    })
}

fn filled(case: &Case, side: Side<'_>, group: &Group, server: &mut Server) -> Result<Fate> {
    let load = Load {
        context: case.context,
        slots: case.slots,
        // llama-server divides its context among slots that are given in number.
        alone: matches!(side, Side::Ours).then_some(case.context),
    };
    let filled = fill::fill(server, &load);
    if group.kills()? > 0 || server.ended().is_some() {
        let log = server.log_tail();
        return Ok(match group.kills()? {
            0 => not_loaded(group, &log)?,
            _ => Fate::Killed("while it was filled"),
        });
    }
    Ok(match filled {
        Ok(filled) => Fate::Survived(filled),
        // Before the load is refused, a server without a model counts as ready.
        Err(error) => not_loaded(group, &format!("{error:#}"))?,
    })
}

/// How fast llama-server decodes where nothing limits it; `None` where it does not run.
fn free_decode(case: &Case, peer: &Peer, model: &Path) -> Option<f64> {
    let side = Side::Peer(peer);
    let port = free_port().ok()?;
    let command = side.command(case, model, port);
    let server = Server::start(side.name(), command, port, side.ready()).ok()?;
    fill::decode_tokens_per_s(&server).ok()
}

fn drop_from_cache(path: &Path) -> Result<()> {
    use rustix::fs::{Advice, fadvise};
    let file = File::open(path)?;
    // Only what is on the disk can be dropped.
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)
        .with_context(|| format!("the cache of {} cannot be dropped", path.display()))
}

fn facts(arguments: &Arguments, peer: &Peer) -> Result<Vec<(&'static str, String)>> {
    let date = match &arguments.date {
        Some(date) => date.clone(),
        None => shell::output(&mut program("date", &["-u", "+%F"]))?,
    };
    let version = shell::output(&mut program(sextant(), &["--version"]))?;
    let kernel = shell::output(&mut program("uname", &["-sr"]))?;
    Ok(vec![
        ("date", date.trim().to_owned()),
        ("CPU", machine::cpu()),
        ("kernel", kernel.trim().to_owned()),
        ("swap", swap()?),
        ("Sextant", version.trim().to_owned()),
        (
            "Sextant flags",
            "serve MODEL --discovery=false --context N --slots S".to_owned(),
        ),
        ("llama-server", peer.version()?),
        ("llama-server flags", "-m MODEL -c N -np S".to_owned()),
        ("llama-server build", peer::CMAKE_FLAGS.join(" ")),
    ])
}

fn swap() -> Result<String> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("SwapTotal:"));
    let Some(line) = line else {
        bail!("/proc/meminfo has no SwapTotal");
    };
    Ok(format!("{}, none of it for the groups", line.trim()))
}
