//! The results that routes rest on: when they were measured and on what, and whether that is
//! still there.

use std::path::PathBuf;

use bench::stale::{Ground, Grounds, Standing, standing};
use config::Config;
use models::Environment;
use serde_json::{Value, json};
use stdx::rfc3339;

use crate::bench::{Origin, Stored};
use crate::{models_here, tune};

/// What was measured of one model in one run.
pub(super) struct Shown {
    origin: Origin,
    file: PathBuf,
    n_attempts: usize,
    /// Moments of the first and the last attempt.
    first_unix_secs: u64,
    last_unix_secs: u64,
    standing: Standing,
}

/// The results of all files that have attempts.
pub(super) fn shown(stored: &[Stored], config: &Config, environment: &Environment) -> Vec<Shown> {
    let each = stored.iter().flat_map(|one| {
        let of_file = one.origins.iter();
        of_file.filter_map(move |origin| {
            let is_its = |id: &Option<String>| id.as_ref() == Some(&origin.id);
            let attempts = one
                .attempts
                .iter()
                .filter(|attempt| is_its(&attempt.origin));
            let times = attempts.map(|attempt| attempt.at_unix_secs);
            let times: Vec<u64> = times.collect();
            Some(Shown {
                origin: origin.clone(),
                file: one.file.clone(),
                n_attempts: times.len(),
                first_unix_secs: times.iter().min().copied()?,
                last_unix_secs: times.iter().max().copied()?,
                standing: standing(&origin.grounds(), &now(origin, config, environment)),
            })
        })
    });
    each.collect()
}

/// What it would stand on if it were measured now.
fn now(origin: &Origin, config: &Config, environment: &Environment) -> Grounds {
    Grounds {
        model: fingerprint_now(origin, config, environment),
        // Of other engines nobody here knows the build without asking them.
        build: origin.is_ours().then(|| tune::build().to_owned()),
        hardware: Some(tune::hardware().to_owned()),
    }
}

/// Of the file that the name means now, else of the one that was measured.
fn fingerprint_now(origin: &Origin, config: &Config, environment: &Environment) -> Option<String> {
    let measured = origin.path.as_ref()?;
    let name = origin.model.strip_prefix("embedded:");
    let name = name.unwrap_or(&origin.model);
    let (wanted, _) = models_here::with_settings(config, name);
    let named = origin
        .is_ours()
        .then(|| models_here::find(environment, wanted));
    let path = match named {
        Some(Ok(found)) => found.path,
        Some(Err(_)) | None => measured.clone(),
    };
    let gone = |_| format!("a file that is gone ({})", path.display());
    Some(tune::fingerprint(&path).unwrap_or_else(gone))
}

/// What to know before these results are trusted.
pub(super) fn warnings(stored: &[Stored], shown: &[Shown]) -> Vec<String> {
    let mut warnings: Vec<String> = shown.iter().filter_map(Shown::warning).collect();
    for one in stored {
        let counted = || one.attempts.iter().filter(|attempt| !attempt.void);
        let is_known = |id: &String| one.origins.iter().any(|origin| origin.id == *id);
        let of_nobody_knows_what = |id: &Option<String>| !id.as_ref().is_some_and(is_known);
        let unknown = counted().filter(|attempt| of_nobody_knows_what(&attempt.origin));
        let n_unknown = unknown.count();
        if n_unknown > 0 {
            warnings.push(format!(
                "{n_unknown} of {} attempts in `{}` do not say on what they were made, so nobody can \
                 tell whether it has changed; `sextant bench quality` into a new file does",
                counted().count(),
                one.file.display()
            ));
        }
    }
    warnings
}

impl Shown {
    fn warning(&self) -> Option<String> {
        let changes = self.standing.changed.iter().map(|change| change.sentence());
        let changes: Vec<String> = changes.collect();
        (!changes.is_empty()).then(|| {
            format!(
                "the evidence {} of `{}` is stale: {}; `sextant bench quality {} --out FILE` \
                 measures again",
                self.origin.id,
                self.origin.model,
                changes.join("; "),
                self.origin.model
            )
        })
    }

    fn unknown(&self) -> Vec<&'static str> {
        let unknown = self.standing.unknown.iter();
        unknown.map(|ground| Ground::word(*ground)).collect()
    }

    pub(super) fn line(&self) -> String {
        let Origin {
            id, model, server, ..
        } = &self.origin;
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        format!(
            "{id}: {} attempts of {model} at {server}, {} to {}, in {}; file {}; build {}; \
             hardware {}",
            self.n_attempts,
            rfc3339(self.first_unix_secs),
            rfc3339(self.last_unix_secs),
            self.file.display(),
            or_unknown(&self.origin.fingerprint),
            or_unknown(&self.origin.build),
            or_unknown(&self.origin.hardware)
        )
    }

    pub(super) fn as_json(&self) -> Value {
        let stale = self.standing.changed.iter();
        let stale = stale.map(|change| {
            json!({ "ground": change.ground.word(), "then": change.then, "now": change.now })
        });
        json!({
            "id": self.origin.id,
            "model": self.origin.model,
            "server": self.origin.server,
            "file": self.file,
            "attempts": self.n_attempts,
            "first_at": rfc3339(self.first_unix_secs),
            "last_at": rfc3339(self.last_unix_secs),
            "path": self.origin.path,
            "fingerprint": self.origin.fingerprint,
            "build": self.origin.build,
            "hardware": self.origin.hardware,
            "stale": stale.collect::<Vec<_>>(),
            "unknown": self.unknown(),
        })
    }
}
