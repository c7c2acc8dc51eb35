//! Starting and stopping the two servers that suites and benches talk to.

use crate::http::Client;
use crate::peer::Peer;
use crate::shell::{program, sextant, target_dir};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Loading a test model takes a second or two; a busy machine may need many more.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// What both servers are started with.
pub(crate) struct Setting {
    pub(crate) model: PathBuf,
    pub(crate) threads: u32,
    /// Most streams at once.
    pub(crate) slots: u32,
    /// Tokens each stream may use.
    pub(crate) context_per_slot: u32,
    /// Further flags for Sextant alone.
    pub(crate) our_flags: Vec<String>,
    /// Further flags for llama-server alone.
    pub(crate) peer_flags: Vec<String>,
}

/// Where servers under test keep their database: the user's own has keys and a log of use.
pub(crate) fn data_dir() -> PathBuf {
    target_dir().join("test-data")
}

/// A running server; dropping it stops it.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) base: String,
    pub(crate) client: Client,
    /// The command it was started with, for reports.
    pub(crate) flags: String,
    log: PathBuf,
    child: Child,
}

impl Server {
    pub(crate) fn ours(setting: &Setting) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(sextant());
        command.arg("serve").arg(&setting.model);
        command.env("SEXTANT_DATA_DIR", data_dir());
        // A prompt of an earlier run must not be known; who wants it gives the flag.
        command.env("SEXTANT_PROMPT_CACHE_DISK_MAX", "0");
        // Whatever else runs on this machine is not asked.
        command.arg("--discovery=false");
        for (flag, value) in [
            ("--listen", format!("127.0.0.1:{port}")),
            ("--threads", setting.threads.to_string()),
            ("--slots", setting.slots.to_string()),
            ("--context", setting.context_per_slot.to_string()),
        ] {
            command.arg(flag).arg(value);
        }
        command.args(&setting.our_flags);
        Self::start("sextant", command, port, "/ready")
    }

    pub(crate) fn peer(peer: &Peer, setting: &Setting) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(&peer.server);
        command.arg("--model").arg(&setting.model);
        for (flag, value) in [
            ("--host", "127.0.0.1".to_owned()),
            ("--port", port.to_string()),
            ("--threads", setting.threads.to_string()),
            ("--parallel", setting.slots.to_string()),
            (
                "--ctx-size",
                (setting.slots * setting.context_per_slot).to_string(),
            ),
        ] {
            command.arg(flag).arg(value);
        }
        command.arg("--no-webui").args(&setting.peer_flags);
        Self::start("llama-server", command, port, "/health")
    }

    /// Starts a server that listens on `port`, and waits until it answers at `ready`.
    pub(crate) fn start(
        name: &'static str,
        mut command: Command,
        port: u16,
        ready: &str,
    ) -> Result<Self> {
        let folder = target_dir().join("xtask-logs");
        fs::create_dir_all(&folder)?;
        let log = folder.join(format!("{name}-{port}.log"));
        let file = File::create(&log)?;
        let flags = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let base = format!("http://127.0.0.1:{port}");
        let mut server = Self {
            name,
            client: Client::new(&base),
            base,
            flags,
            log,
            child,
        };
        server.wait_until(ready)?;
        Ok(server)
    }

    /// Waits until a model can answer.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        self.wait_until("/ready")
    }

    fn wait_until(&mut self, ready: &str) -> Result<()> {
        let start = Instant::now();
        while self.client.status(ready) != Some(200) {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, tail(&self.log));
            }
            if start.elapsed() > READY_TIMEOUT {
                let seconds = READY_TIMEOUT.as_secs();
                bail!(
                    "{} was not ready after {seconds} s:\n{}",
                    self.name,
                    tail(&self.log)
                );
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// All that the server printed.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// The end of what the server printed.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// What a suite that failed says of the server: little, so that the failure itself, which
    /// was told before, stays near the end of what is printed.
    pub(crate) fn told(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let loud: Vec<&str> = text
            .lines()
            .filter(|line| !line.contains(" INFO "))
            .collect();
        let last = loud[loud.len().saturating_sub(10)..].join("\n");
        format!(
            "the server's log is {}; what it warned of last:\n{last}",
            self.log.display()
        )
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        // Politely first: a killed endpoint could not take its workers along.
        let _ = program("kill", &["-TERM", &pid]).status();
        let start = Instant::now();
        while start.elapsed() < STOP_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        eprintln!("{} did not stop when asked; killing it", self.name);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port nobody listens on now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
