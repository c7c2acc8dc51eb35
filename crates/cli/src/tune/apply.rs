//! Measured settings in place of those that nobody gives, and whether they still win.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use config::Config;
use models::Environment;
use proto::LoadSpec;
use supervisor::{Company, Observe, Seen};
use tuner::{Answer, Recheck, Stale};

use super::cache;
use crate::models_here;

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

/// Compares the answers that are given anyway with what was measured, and drops a choice
/// that has stopped to be fast: it is not used by the next load.
pub(crate) fn recheck(environment: &Environment) -> Option<Observe> {
    let file = cache::file(environment)?;
    let known: Mutex<HashMap<PathBuf, Option<Recheck>>> = Mutex::default();
    let observe = move |seen: &Seen<'_>| {
        if seen.spec.tuned.is_empty() || seen.company == Company::Others {
            return;
        }
        let path = &seen.spec.path;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(path) {
            // A few small files, once a model.
            let entry = cache::find(&file, path);
            known.insert(path.clone(), entry.map(|entry| Recheck::new(entry.speeds)));
        }
        let recheck = known.get_mut(path).and_then(Option::as_mut);
        if let Some(stale) = recheck.and_then(|recheck| recheck.see(&answer(seen))) {
            drop_entry(&file, seen.spec, stale);
        }
    };
    Some(Observe(Arc::new(observe)))
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

fn drop_entry(file: &std::path::Path, spec: &LoadSpec, stale: Stale) {
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
        if let Err(error) = cache::mark_stale(&file, &path, &why) {
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
