//! Providers, rules and the certificate are read again when their files change, and on SIGHUP.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use clap::ArgMatches;
use config::{Config, ConfigError, Effective, Preset, RawConfig, file_to_read};
use gateway::{AppState, Routing, RoutingSource, Tls};
use tokio::signal::unix::{SignalKind, signal};

use super::fleet;
use crate::shelf;

/// Time between two looks at the file. A change counts once two looks saw the same: an
/// editor may be half way through.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The configuration of this process, read as at the start.
#[derive(Debug)]
pub(super) struct ProcessConfig {
    matches: ArgMatches,
    /// What the settings and the models were then: they need a new start.
    at_start: Vec<Effective>,
    presets: Vec<Preset>,
    /// The file that was read last.
    read_from: Mutex<Option<PathBuf>>,
}

impl ProcessConfig {
    pub(super) fn new(matches: &ArgMatches, config: &Config) -> Result<Self, ConfigError> {
        Ok(Self {
            matches: matches.clone(),
            at_start: RawConfig::from_process(matches)?.effective(),
            presets: config.presets.clone(),
            read_from: Mutex::new(path(matches)),
        })
    }

    /// What this process was started with.
    pub(super) fn matches(&self) -> &ArgMatches {
        &self.matches
    }

    fn path(&self) -> Option<PathBuf> {
        path(&self.matches)
    }

    fn warn_of_settings(&self, now: &[Effective]) {
        for (old, new) in self.at_start.iter().zip(now) {
            if old.value != new.value {
                let setting = new.setting.name;
                tracing::warn!(setting, "the setting has changed; it needs a new start");
            }
        }
    }
}

fn path(matches: &ArgMatches) -> Option<PathBuf> {
    file_to_read(matches, |name| std::env::var(name).ok())
}

/// A file that was read before and is gone says nothing. Read as no file at all it would take
/// every provider and every rule away.
fn check_there(before: Option<&Path>, now: Option<&Path>) -> Result<(), String> {
    match (before, now) {
        (Some(before), None) => Err(format!(
            "{}: the file was read before and is gone; put it back, an empty one where nothing \
             of it is to hold, or start without it",
            before.display()
        )),
        _ => Ok(()),
    }
}

impl RoutingSource for ProcessConfig {
    fn read(&self) -> Result<Routing, String> {
        let read_from = self.read_from.lock();
        let mut read_from = read_from.unwrap_or_else(PoisonError::into_inner);
        let now = self.path();
        check_there(read_from.as_deref(), now.as_deref())?;
        let raw = RawConfig::from_process(&self.matches).map_err(|error| error.to_string())?;
        let config = raw.clone().resolve().map_err(|error| error.to_string())?;
        let tables = shelf::with_aliases(&config);
        let routing = fleet::routing(&tables).map_err(|fault| fault.to_string())?;
        self.warn_of_settings(&raw.effective());
        if config.presets != self.presets {
            tracing::warn!("`[[models]]` has changed; it needs a new start");
        }
        *read_from = now;
        Ok(routing)
    }
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
        })
    }
}

/// Files that are read again once they have changed.
struct Watched {
    in_force: Vec<Option<Stamp>>,
    seen: Vec<Option<Stamp>>,
}

impl Watched {
    fn new(now: Vec<Option<Stamp>>) -> Self {
        Self {
            in_force: now.clone(),
            seen: now,
        }
    }

    /// Whether to read them: two looks saw the same, and it is not what is in force. Without a
    /// file there is nothing to read: what was read stays.
    fn is_due(&mut self, now: Vec<Option<Stamp>>, told: bool) -> bool {
        let is_settled = self.seen == now;
        self.seen = now;
        let is_new = self.seen != self.in_force && self.seen.iter().all(Option::is_some);
        let is_due = told || (is_settled && is_new);
        if is_due {
            self.in_force.clone_from(&self.seen);
        }
        is_due
    }
}

/// Reads the configuration and the certificate again, whenever there is a reason to, for as
/// long as it is polled.
pub(super) async fn watch(state: AppState, source: Arc<ProcessConfig>, tls: Option<Tls>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return tracing::warn!("SIGHUP cannot be heard; changes need a new start");
    };
    let stamp = || vec![source.path().and_then(|path| Stamp::of(&path))];
    let stamps = |tls: &Tls| {
        let files = tls.files();
        vec![Stamp::of(&files.certificate), Stamp::of(&files.key)]
    };
    let mut rules = Watched::new(stamp());
    let mut certificate = tls.as_ref().map(|tls| Watched::new(stamps(tls)));
    loop {
        let told = tokio::select! {
            heard = hangup.recv() => heard.is_some(),
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        if rules.is_due(stamp(), told) {
            let (state, source) = (state.clone(), Arc::clone(&source));
            // The log has what came of it.
            let _ = tokio::task::spawn_blocking(move || state.reload(&*source)).await;
        }
        if let (Some(tls), Some(certificate)) = (&tls, &mut certificate)
            && certificate.is_due(stamps(tls), told)
        {
            let tls = tls.clone();
            let _ = tokio::task::spawn_blocking(move || renew(&tls)).await;
        }
    }
}

fn renew(tls: &Tls) {
    match tls.renew() {
        Ok(()) => tracing::info!("the certificate was read again"),
        Err(error) => tracing::error!(%error, "the certificate is not renewed; the old one stays"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_gone_is_not_read_as_an_empty_one() {
        let file = Some(Path::new("/etc/sextant.toml"));
        let told = check_there(file, None).unwrap_err();
        assert!(told.starts_with("/etc/sextant.toml: "), "{told}");
        for (before, now) in [(None, None), (None, file), (file, file)] {
            assert_eq!(check_there(before, now), Ok(()));
        }
    }
}
