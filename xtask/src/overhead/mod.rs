//! What Sextant adds to an engine that others run, next to other gateways: same dummy
//! engine, same client, same requests, one gateway at a time, in one run.
//!
//! Each round starts every gateway afresh, in another order, and asks it for whole
//! answers and streams at several concurrencies. Client, gateway and engine share the
//! machine's cores. An answer that is not whole fails its cell.

pub(crate) mod dummy;
mod gateways;
mod load;
mod report;
mod wire;

use crate::bench::machine;
use crate::server::{free_port, tail};
use crate::shell::{program, root, target_dir};
use anyhow::{Context, Result, bail};
use gateways::{ALL, Gateway, Kind, Place};
use load::{Load, Seen};
use report::Report;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take once nothing new is asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a gateway that starts is asked whether it is ready.
const READY_INTERVAL: Duration = Duration::from_millis(5);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measured rounds; each starts every gateway afresh.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these; nothing is written then.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// One round of short cells, to see that everything works; nothing is written.
    #[arg(long)]
    quick: bool,
    /// Measured time of each cell, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    cell_ms: u64,
    /// Sextant's binary; default: that of the release profile.
    #[arg(long)]
    sextant: Option<PathBuf>,
    /// The day the report carries; default: today.
    #[arg(long)]
    date: Option<String>,
}

/// One row of what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    pub(super) mode: Mode,
    pub(super) concurrency: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Whole,
    /// All chunks at once.
    Burst,
    /// A chunk every [`PACE`], the first one after that time too.
    Paced,
}

/// 200 tokens a second: a small model on a good machine.
pub(super) const PACE: Duration = Duration::from_millis(5);

pub(super) const CELLS: [Cell; 10] = [
    cell(Mode::Whole, 1),
    cell(Mode::Whole, 16),
    cell(Mode::Whole, 64),
    cell(Mode::Whole, 256),
    cell(Mode::Burst, 1),
    cell(Mode::Burst, 16),
    cell(Mode::Burst, 64),
    cell(Mode::Burst, 256),
    cell(Mode::Paced, 1),
    cell(Mode::Paced, 16),
];

const fn cell(mode: Mode, concurrency: usize) -> Cell {
    Cell { mode, concurrency }
}

/// What one cell showed in one round. Times in milliseconds; those that a cell does not
/// have are NaN.
#[derive(Clone, Copy, Debug)]
struct Sample {
    pub(super) per_s: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) ttft_p50: f64,
    pub(super) ttft_p99: f64,
    pub(super) gap_p99: f64,
    /// CPU time of the gateway for each answer, in microseconds.
    pub(super) cpu_us: f64,
}

/// What a gateway showed over all rounds.
struct Found {
    kind: Kind,
    pub(super) version: String,
    pub(super) command: String,
    /// Why it, or a part of it, could not be measured.
    pub(super) faults: Vec<String>,
    pub(super) samples: Vec<(Cell, Sample)>,
    pub(super) ready_s: Vec<f64>,
    pub(super) idle_mb: Vec<f64>,
    pub(super) loaded_mb: Vec<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let load_before = machine::load_average();
    let wanted = |kind: &Kind| arguments.only.is_empty() || arguments.only.contains(kind);
    let mut found = Vec::new();
    let mut gateways = Vec::new();
    for kind in ALL.into_iter().filter(wanted) {
        let mut entry = Found::new(kind);
        match kind.ensure(arguments.sextant.as_deref()) {
            Ok(gateway) => {
                entry.version.clone_from(&gateway.version);
                gateways.push(gateway);
            }
            Err(error) => {
                eprintln!("{} is left out: {error:#}", kind.name());
                entry.faults.push(format!("left out: {error:#}"));
            }
        }
        found.push(entry);
    }
    let engine = Engine::start()?;
    let rounds = if arguments.quick { 1 } else { arguments.rounds };
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for at in 0..gateways.len() {
            let gateway = &gateways[(at + round) % gateways.len()];
            let entry = found.iter_mut().find(|entry| entry.kind == gateway.kind);
            let entry = entry.context("a gateway without an entry")?;
            if let Err(error) = one_round(gateway, &engine, arguments, entry) {
                eprintln!("  {}: {error:#}", gateway.kind.name());
                entry.faults.push(format!("{error:#}"));
            }
        }
    }
    let report = Report {
        found,
        rounds,
        load: format!("{load_before} before, {} after", machine::load_average()),
        date: arguments.date.clone(),
        cell: arguments.span(),
    };
    println!("{}", report.tables());
    if arguments.only.is_empty() && !arguments.quick {
        report.write()?;
    }
    Ok(())
}

impl Arguments {
    fn span(&self) -> Duration {
        Duration::from_millis(if self.quick { 300 } else { self.cell_ms })
    }
}

impl Found {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            version: String::new(),
            command: String::new(),
            faults: Vec::new(),
            samples: Vec::new(),
            ready_s: Vec::new(),
            idle_mb: Vec::new(),
            loaded_mb: Vec::new(),
        }
    }
}

/// Starts a gateway, runs all cells, and stops it.
fn one_round(
    gateway: &Gateway,
    engine: &Engine,
    arguments: &Arguments,
    entry: &mut Found,
) -> Result<()> {
    let folder = scratch(gateway.kind)?;
    let direct = gateway.kind == Kind::Direct;
    let place = Place {
        port: if direct {
            engine.address.port()
        } else {
            free_port()?
        },
        engine: engine.address,
        folder: &folder,
    };
    engine.pace(Duration::ZERO)?;
    let start = Instant::now();
    let running = gateway
        .command(&place)?
        .map(|command| Running::start(command, &folder))
        .transpose()?;
    let pid = match &running {
        Some(running) => {
            running.wait_until_ready(gateway, &place)?;
            entry.ready_s.push(start.elapsed().as_secs_f64());
            entry.command.clone_from(&running.line);
            running.pid
        }
        None => engine.child.id(),
    };
    entry.idle_mb.push(megabytes(pid));
    for cell in CELLS {
        let paced = cell.mode == Mode::Paced;
        engine.pace(if paced { PACE } else { Duration::ZERO })?;
        match measure(gateway, &place, cell, arguments.span(), pid) {
            Ok(sample) => {
                eprintln!(
                    "  {} {:?} {}: {:.0}/s, p50 {:.3}, p99 {:.3} ms",
                    gateway.kind.name(),
                    cell.mode,
                    cell.concurrency,
                    sample.per_s,
                    sample.p50,
                    sample.p99
                );
                entry.samples.push((cell, sample));
            }
            Err(error) => {
                let (mode, n) = (cell.mode, cell.concurrency);
                let fault = format!("{mode:?} at {n}: {error:#}");
                eprintln!("  {}: {fault}", gateway.kind.name());
                entry.faults.push(fault);
            }
        }
    }
    entry.loaded_mb.push(megabytes(pid));
    Ok(())
}

fn measure(
    gateway: &Gateway,
    place: &Place,
    cell: Cell,
    span: Duration,
    pid: u32,
) -> Result<Sample> {
    let stream = cell.mode != Mode::Whole;
    let load = Load {
        address: SocketAddr::from(([127, 0, 0, 1], place.port)),
        request: gateway.request(place, stream),
        stream,
        concurrency: cell.concurrency,
        warm_up: span / 5,
        span,
        patience: PATIENCE,
    };
    let before = machine::cpu_seconds(pid);
    let mut seen = load::run(&load)?;
    let cpu_s = machine::cpu_seconds(pid) - before;
    Ok(seen.sample(cpu_s))
}

impl Seen {
    fn sample(&mut self, cpu_s: f64) -> Sample {
        for times in [&mut self.totals_ms, &mut self.ttfts_ms, &mut self.gaps_ms] {
            times.sort_by(f32::total_cmp);
        }
        Sample {
            per_s: self.per_s,
            p50: percentile(&self.totals_ms, 50),
            p99: percentile(&self.totals_ms, 99),
            ttft_p50: percentile(&self.ttfts_ms, 50),
            ttft_p99: percentile(&self.ttfts_ms, 99),
            gap_p99: percentile(&self.gaps_ms, 99),
            cpu_us: 1e6 * cpu_s / self.answers as f64,
        }
    }
}

/// The smallest value that at least so many percent of the sorted ones do not exceed.
fn percentile(sorted: &[f32], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted
        .get(rank - 1)
        .map_or(f64::NAN, |value| f64::from(*value))
}

/// The dummy engine, a process of its own.
struct Engine {
    child: Child,
    address: SocketAddr,
}

impl Engine {
    fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("dummy-engine")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the dummy engine")?;
        let mut line = String::new();
        let output = child.stdout.take().context("no standard output")?;
        BufReader::new(output).read_line(&mut line)?;
        match line.trim().parse() {
            Ok(address) => Ok(Self { child, address }),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the dummy engine said {line:?}, not its address")
            }
        }
    }

    fn pace(&self, pace: Duration) -> Result<()> {
        let path = format!("/pace/{}", pace.as_micros());
        let request = format!("POST {path} HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
        let mut socket = connect(self.address)?;
        socket.write_all(request.as_bytes())?;
        let mut answer = [0; 256];
        let n = socket.read(&mut answer)?;
        if !answer[..n].starts_with(b"HTTP/1.1 200") {
            bail!("the dummy engine refused {path}");
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gateway's processes; dropping it ends them.
struct Running {
    child: Child,
    pid: u32,
    /// The command, as it would be typed.
    line: String,
    log: PathBuf,
}

impl Running {
    fn start(mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join("log");
        let file = File::create(&log)?;
        let home = std::env::var("HOME").unwrap_or_default();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let here = format!("{}/", root().display());
        let line = words.join(" ").replace(&here, "").replace(&home, "~");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {line}"))?;
        Ok(Self {
            pid: child.id(),
            child,
            line,
            log,
        })
    }

    /// Until it answers a chat request, whole.
    fn wait_until_ready(&self, gateway: &Gateway, place: &Place) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], place.port));
        let request = gateway.request(place, false);
        let start = Instant::now();
        loop {
            let Err(error) = ask_once(address, &request) else {
                return Ok(());
            };
            if !Path::new(&format!("/proc/{}/exe", self.pid)).exists() {
                bail!("it ended:\n{}", tail(&self.log));
            }
            if start.elapsed() > READY_TIMEOUT {
                let seconds = READY_TIMEOUT.as_secs();
                let log = tail(&self.log);
                bail!("it was not ready after {seconds} s ({error:#}):\n{log}");
            }
            sleep(READY_INTERVAL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let family = machine::family(self.pid);
        let _ = program("kill", &["-TERM", &self.pid.to_string()]).status();
        let start = Instant::now();
        while start.elapsed() < STOP_TIMEOUT && matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Children that outlived it. Nobody took their numbers in these few seconds.
        for (pid, _) in family.into_iter().filter(|(pid, _)| *pid != self.pid) {
            if Path::new(&format!("/proc/{pid}")).exists() {
                let mut kill = program("kill", &["-KILL", &pid.to_string()]);
                let _ = kill.stderr(Stdio::null()).status();
            }
        }
    }
}

fn ask_once(address: SocketAddr, request: &[u8]) -> Result<()> {
    let mut socket = connect(address)?;
    socket.write_all(request)?;
    let mut answer = wire::Answer::new(false);
    let mut buffer = [0; 16 << 10];
    while !answer.is_complete() {
        match socket.read(&mut buffer)? {
            0 => answer.end()?,
            n => answer.feed(&buffer[..n], Instant::now())?,
        }
    }
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// An empty folder for a gateway's files.
fn scratch(kind: Kind) -> Result<PathBuf> {
    let folder = target_dir().join("overhead").join(kind.name());
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn megabytes(pid: u32) -> f64 {
    machine::resident_bytes(pid) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let sorted: Vec<f32> = (1u8..=100).map(f32::from).collect();
        assert_eq!(percentile(&sorted, 50), 50.0);
        assert_eq!(percentile(&sorted, 99), 99.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert!(percentile(&[], 50).is_nan());
    }
}
