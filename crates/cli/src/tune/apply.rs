//! Measured settings in place of those that nobody gives, and whether they still win.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use config::Config;
use models::Environment;
use proto::LoadSpec;
use supervisor::{Company, Observe, Seen};
use tuner::{Answer, Recheck, Stale};

use super::cache;
use crate::models_here;

/// How often a server looks whether something was measured.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The spec with what `sextant tune` has measured of its model, and the names of what that
/// changed in it.
pub(crate) fn apply(spec: LoadSpec, config: &Config) -> LoadSpec {
    if !config.tuned {
        return spec;
    }
    let environment = models_here::environment(config);
    let entry = cache::file(&environment).and_then(|file| cache::find(&file, &spec.path));
    let Some(entry) = entry else {
        return spec;
    };
    if let Some(why) = &entry.stale {
        tracing::info!(model = spec.name, "its tuning is not used: {why}");
        return spec;
    }
    if !entry.is_for(&spec) {
        tracing::info!(
            model = spec.name,
            given = %serde_json::Value::Object(entry.given),
            "its tuning is not used: it was made with other settings given"
        );
        return spec;
    }
    // No is an answer, too.
    let drafts = match config.speculation.mode {
        None => Drafts::Open,
        Some(_) => Drafts::Given,
    };
    merged(spec, &entry.settings, drafts)
}

/// Whether somebody has said if to speculate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drafts {
    Open,
    Given,
}

/// Settings that hang together are taken together or not at all.
fn merged(mut spec: LoadSpec, tuned: &LoadSpec, drafts: Drafts) -> LoadSpec {
    let mut names: Vec<&str> = Vec::new();
    let has_cores = spec.threads.is_some()
        || spec.cpus.is_some()
        || spec.threads_batch.is_some()
        || spec.cpus_batch.is_some();
    if !has_cores && tuned.threads.is_some() {
        (spec.threads, spec.cpus) = (tuned.threads, tuned.cpus.clone());
        (spec.threads_batch, spec.cpus_batch) = (tuned.threads_batch, tuned.cpus_batch.clone());
        names.extend(["threads", "threads_batch", "cpus", "cpus_batch"]);
    }
    let has_types = spec.kv_type_k.is_some() || spec.kv_type_v.is_some() || spec.kv_plan.is_some();
    let has_attention = spec.flash_attention.is_some();
    // The two were measured together, and not every pair of them is one.
    if !has_types && !has_attention {
        if tuned.kv_type_k.is_some() {
            (spec.kv_type_k, spec.kv_type_v) = (tuned.kv_type_k, tuned.kv_type_v);
            names.extend(["kv_type_k", "kv_type_v"]);
        }
        if tuned.flash_attention.is_some() {
            spec.flash_attention = tuned.flash_attention;
            names.push("flash_attention");
        }
    }
    if spec.batch.is_none() && spec.ubatch.is_none() {
        take(&mut spec.batch, tuned.batch, "batch", &mut names);
        take(&mut spec.ubatch, tuned.ubatch, "ubatch", &mut names);
    }
    take(&mut spec.kernels, tuned.kernels, "kernels", &mut names);
    take(&mut spec.mmap, tuned.mmap, "mmap", &mut names);
    take(&mut spec.mlock, tuned.mlock, "mlock", &mut names);
    take(
        &mut spec.huge_pages,
        tuned.huge_pages,
        "huge_pages",
        &mut names,
    );
    if drafts == Drafts::Open {
        take(
            &mut spec.speculation,
            tuned.speculation,
            "speculation",
            &mut names,
        );
    }
    spec.tuned = names.into_iter().map(str::to_owned).collect();
    spec
}

fn take<T: Copy>(
    place: &mut Option<T>,
    tuned: Option<T>,
    name: &'static str,
    names: &mut Vec<&str>,
) {
    if place.is_none() && tuned.is_some() {
        *place = tuned;
        names.push(name);
    }
}

/// The entry by which a model runs, and what its answers have shown since.
struct Watched {
    /// Of the file that it was read from.
    stamp: Option<SystemTime>,
    at_unix_secs: u64,
    /// `None` where the model does not run with what was measured, or that is stale.
    recheck: Option<Recheck>,
}

impl Watched {
    /// A few small files.
    fn read(file: &Path, spec: &LoadSpec) -> Self {
        let stamp = cache::stamp(file);
        let entry = cache::find(file, &spec.path);
        let entry = entry.filter(|entry| entry.stale.is_none() && entry.is_in_force(spec));
        Self {
            stamp,
            at_unix_secs: entry.as_ref().map_or(0, |entry| entry.at_unix_secs),
            recheck: entry.map(|entry| Recheck::new(entry.speeds)),
        }
    }

    /// The same after the file was written: what was seen of an entry that is still there stays.
    fn again(self, file: &Path, spec: &LoadSpec) -> Self {
        let new = Self::read(file, spec);
        match new.recheck.is_some() && new.at_unix_secs == self.at_unix_secs {
            true => Self {
                stamp: new.stamp,
                ..self
            },
            false => new,
        }
    }
}

/// Compares the answers that are given anyway with what was measured, and drops a choice
/// that has stopped to be fast: it is not used by the next load.
pub(crate) fn recheck(environment: &Environment) -> Option<Observe> {
    let file = cache::file(environment)?;
    let known: Mutex<HashMap<PathBuf, Watched>> = Mutex::default();
    let observe = move |seen: &Seen<'_>| {
        if seen.spec.tuned.is_empty() || seen.company == Company::Others {
            return;
        }
        let path = &seen.spec.path;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = match known.remove(path) {
            Some(watched) if watched.stamp == cache::stamp(&file) => watched,
            Some(watched) => watched.again(&file, seen.spec),
            None => Watched::read(&file, seen.spec),
        };
        let watched = known.entry(path.clone()).or_insert(watched);
        let recheck = watched.recheck.as_mut();
        if let Some(stale) = recheck.and_then(|recheck| recheck.see(&answer(seen))) {
            drop_entry(&file, (seen.spec, watched.at_unix_secs), stale);
        }
    };
    Some(Observe(Arc::new(observe)))
}

/// Calls `changed` whenever something was measured, or has stopped to be true. Ends with the
/// program.
pub(crate) async fn watch(environment: Environment, changed: impl Fn() + Send + Sync + 'static) {
    let Some(file) = cache::file(&environment) else {
        return;
    };
    let changed = Arc::new(changed);
    let mut stamp = cache::stamp(&file);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = cache::stamp(&file);
        if now != stamp {
            stamp = now;
            let changed = Arc::clone(&changed);
            // It reads the headers of all models.
            let _ = tokio::task::spawn_blocking(move || changed()).await;
        }
    }
}

fn answer(seen: &Seen<'_>) -> Answer {
    Answer {
        prompt_tokens: seen.usage.prompt_tokens,
        cached_tokens: seen.usage.cached_tokens,
        completion_tokens: seen.usage.completion_tokens,
        prefill_ms: seen.timings.prefill_ms,
        decode_ms: seen.timings.decode_ms,
    }
}

fn drop_entry(file: &Path, (spec, at_unix_secs): (&LoadSpec, u64), stale: Stale) {
    let why = format!(
        "{} is down to {:.1} tokens a second from {:.1} when it was measured",
        stale.phase, stale.seen_tokens_s, stale.measured_tokens_s
    );
    tracing::warn!(
        model = spec.name,
        "its tuning is dropped at the next load: {why}; `sextant tune` measures again"
    );
    let (file, path) = (file.to_owned(), spec.path.clone());
    // Nobody waits for the disk.
    std::thread::spawn(move || {
        if let Err(error) = cache::mark_stale(&file, (&path, at_unix_secs), &why) {
            tracing::warn!(%error, "`{}` cannot be written", file.display());
        }
    });
}

#[cfg(test)]
mod tests {
    use proto::{CacheType, FlashAttention};

    use super::*;

    fn tuned() -> LoadSpec {
        LoadSpec {
            threads: Some(1),
            threads_batch: Some(2),
            cpus: Some("0".into()),
            cpus_batch: Some("0-1".into()),
            ubatch: Some(256),
            kv_type_k: Some(CacheType::Q8_0),
            kv_type_v: Some(CacheType::Q8_0),
            huge_pages: Some(true),
            speculation: Some(proto::Speculation {
                draft_tokens_max: 8,
                ngram: 3,
            }),
            ..LoadSpec::default()
        }
    }

    #[test]
    fn what_is_given_goes_before_what_was_measured() {
        let all = merged(LoadSpec::default(), &tuned(), Drafts::Open);
        let names = "threads threads_batch cpus cpus_batch kv_type_k kv_type_v ubatch huge_pages \
                     speculation";
        assert_eq!(all.tuned.join(" "), names);
        assert_eq!(
            all,
            LoadSpec {
                tuned: all.tuned.clone(),
                ..tuned()
            }
        );

        let given = LoadSpec {
            threads: Some(2),
            flash_attention: Some(FlashAttention::Off),
            batch: Some(128),
            huge_pages: Some(false),
            ..LoadSpec::default()
        };
        let merged = merged(given.clone(), &tuned(), Drafts::Given);
        assert_eq!(merged, given, "nothing of it goes with what is given");
    }
}
