//! A server of our own for the time of a run.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use config::Config;
use rustix::process::{Pid, Signal, kill_process};

use super::child;
use crate::http::{Server, scheme};
use crate::outcome::{Code, Outcome, fault};
use crate::output::say;

/// How long models may take to load.
const READY_WITHIN: Duration = Duration::from_secs(1800);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it may take to end what it does.
const END_WITHIN: Duration = Duration::from_secs(10);
/// What it says goes here, in the folder of the run.
const LOG: &str = "server.log";
/// Lines of that which an error has.
const LOG_LINES_MAX: usize = 5;

/// Ends with this value, and with this process.
pub(super) struct OwnServer(Child);

/// A port that is free: the configured one, so that results name the server as routes do, else
/// any.
pub(super) fn free_port(config: &Config) -> Outcome<u16> {
    let at = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let listener = at(config.listen.port())
        .or_else(|_| at(0))
        .context("no port of this machine can be listened on")?;
    Ok(listener.local_addr()?.port())
}

pub(super) fn url(config: &Config, port: u16) -> String {
    format!("{}://{}:{port}", scheme(config), Ipv4Addr::LOCALHOST)
}

impl OwnServer {
    /// Starts it, and waits until it can answer. Its data are in the folder: it shares nothing with
    /// a server that runs here already.
    pub(super) fn start(
        (folder, port): (&Path, u16),
        models: &[String],
        (config, environment): (&Config, &[(String, String)]),
    ) -> Outcome<Self> {
        let log_path = folder.join(LOG);
        let log = File::create(&log_path).with_context(|| log_path.display().to_string())?;
        let address = Ipv4Addr::LOCALHOST;
        let mut command = child::command(environment)?;
        command
            .arg("serve")
            .args(models)
            .args(["--listen", &format!("{address}:{port}")])
            .args(["--host", &address.to_string()])
            .args(["--port", &port.to_string()])
            .args(["--discovery=false", "--data-dir"])
            .arg(folder.join("server"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut own = Self(spawn(&mut command)?);
        let url = url(config, port);
        say(&format!(
            "starting a server for {} at {url}",
            models.join(", ")
        ));
        own.wait(&Server::at(url, config)?, &log_path)?;
        Ok(own)
    }

    fn wait(&mut self, server: &Server, log: &Path) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let started = Instant::now();
        loop {
            if runtime.block_on(server.get("/ready")).is_ok() {
                return Ok(());
            }
            let ended = self.0.try_wait()?;
            let why = match (ended, started.elapsed() > READY_WITHIN) {
                (Some(status), _) => format!("the server has ended ({status})"),
                (None, true) => format!("the server is not ready in {} s", READY_WITHIN.as_secs()),
                (None, false) => {
                    std::thread::sleep(LOOK_EVERY);
                    continue;
                }
            };
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_MAX)..];
            let message = format!(
                "{why}; its last lines in `{}`:\n{}",
                log.display(),
                last.join("\n")
            );
            return Err(fault(Code::LoadFailed, message));
        }
    }
}

fn spawn(command: &mut Command) -> Outcome<Child> {
    Ok(command.spawn().context("this program cannot be started")?)
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        let started = Instant::now();
        while asked && started.elapsed() < END_WITHIN {
            match self.0.try_wait() {
                Ok(None) => std::thread::sleep(LOOK_EVERY),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        // It has had its time, or is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
