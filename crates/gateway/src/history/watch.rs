//! What happened, seen by how models are from look to look, and by how the clock goes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::{LoadSpec, ModelFacts};
use serde_json::Value;
use store::{CLOCK_SET_S, Mark, MarkKind};
use supervisor::{ModelPhase, ModelStatus};

use crate::wire::events::AskedSettings;

/// Bytes of the reason of a crash: its first line, without the log's last words.
const REASON_BYTES_MAX: usize = 240;
/// Changed settings of a model that are told.
const CHANGES_TOLD_MAX: usize = 8;
/// A clock that differs so much from the time that passed was set.
const CLOCK_JUMP_MIN: Duration = Duration::from_secs(3);
/// After that long without a jump the clock is believed in what is old.
const STEADY_AFTER: Duration = Duration::from_secs(600);

/// Follows the models.
#[derive(Debug, Default)]
pub(super) struct ModelWatch {
    known: BTreeMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    is_ready: bool,
    has_failed: bool,
    pid: Option<u32>,
    restarts: u32,
    last_crash: Option<String>,
    /// The crash before the coming restart was told.
    crash_told: bool,
    /// As it was last loaded.
    spec: Option<LoadSpec>,
    tuned: Vec<String>,
}

impl ModelWatch {
    /// What happened since the look before.
    pub(super) fn step<'a>(
        &mut self,
        now_ms: u64,
        models: impl IntoIterator<Item = &'a ModelStatus>,
    ) -> Vec<Mark> {
        let (mut marks, mut names) = (Vec::new(), BTreeSet::new());
        for model in models {
            names.insert(&model.name);
            let known = self
                .known
                .entry(model.name.clone())
                .or_insert_with(|| Known {
                    // What was before the first look is nobody's news.
                    restarts: model.restarts,
                    last_crash: model.last_crash.clone(),
                    ..Known::default()
                });
            let told = known.step(model).into_iter();
            marks.extend(
                told.map(|(kind, text)| Mark::new(now_ms, kind, text).of_model(&model.name)),
            );
        }
        let gone = self.known.iter().filter(|(name, _)| !names.contains(name));
        let gone = gone.filter(|(_, known)| known.is_ready);
        marks.extend(gone.map(|(name, _)| Mark::new(now_ms, MarkKind::Unload, "").of_model(name)));
        self.known.retain(|name, known| {
            let is_there = names.contains(name);
            // With which settings it was loaded is told when it comes again.
            known.is_ready &= is_there;
            is_there || known.spec.is_some()
        });
        marks
    }
}

impl Known {
    fn step(&mut self, model: &ModelStatus) -> Vec<(MarkKind, String)> {
        let mut told = Vec::new();
        if self.crashed(model) {
            let reason = model.last_crash.as_deref().unwrap_or_default();
            let line = reason.lines().next().unwrap_or_default();
            let line = &line[..line.floor_char_boundary(REASON_BYTES_MAX)];
            told.push((MarkKind::Crash, line.to_owned()));
            self.is_ready = false;
        }
        match &model.phase {
            ModelPhase::Ready(facts) => {
                if !self.is_ready || self.pid != model.pid {
                    self.loaded(model, facts, &mut told);
                }
                self.is_ready = true;
            }
            ModelPhase::Draining | ModelPhase::Unloaded => {
                if std::mem::replace(&mut self.is_ready, false) {
                    let text = match model.place.was_shed {
                        true => "memory was short",
                        false => "",
                    };
                    told.push((MarkKind::Unload, text.to_owned()));
                }
            }
            ModelPhase::Failed(failure) => {
                if !self.has_failed {
                    let line = failure.message.lines().next().unwrap_or_default();
                    told.push((MarkKind::Failed, line.to_owned()));
                }
                self.is_ready = false;
            }
            _ => self.is_ready = false,
        }
        self.has_failed = matches!(model.phase, ModelPhase::Failed(_));
        self.pid = model.pid;
        told
    }

    /// Whether its worker died since. The cause is known before the restart is counted, so one
    /// crash is seen in two looks.
    fn crashed(&mut self, model: &ModelStatus) -> bool {
        let is_counted = model.restarts > self.restarts;
        let is_new = model.last_crash.is_some() && model.last_crash != self.last_crash;
        let crashed = is_new || (is_counted && !self.crash_told);
        self.crash_told = match is_counted {
            true => false,
            false => self.crash_told || is_new,
        };
        self.restarts = model.restarts;
        self.last_crash.clone_from(&model.last_crash);
        crashed
    }

    fn loaded(
        &mut self,
        model: &ModelStatus,
        facts: &ModelFacts,
        told: &mut Vec<(MarkKind, String)>,
    ) {
        let kv = match facts.kv_type_k == facts.kv_type_v {
            true => facts.kv_type_k.clone(),
            false => format!("{}/{}", facts.kv_type_k, facts.kv_type_v),
        };
        let seconds = facts.load_ms / 1000.0;
        let text = format!("context {}, cache {kv}, {seconds:.1} s", facts.context);
        told.push((MarkKind::Load, text));
        let before = self.spec.replace(model.spec.clone());
        let changes = before.map_or_else(Vec::new, |before| changes(&before, &model.spec));
        if !changes.is_empty() {
            told.push((MarkKind::Setting, changes.join(", ")));
        }
        if !facts.tuned.is_empty() && facts.tuned != self.tuned {
            let names = facts.tuned.join(", ");
            told.push((MarkKind::Tuned, format!("as measured here: {names}")));
        }
        self.tuned.clone_from(&facts.tuned);
    }
}

/// Settings that are others than before, each as `name before → now`.
fn changes(before: &LoadSpec, now: &LoadSpec) -> Vec<String> {
    let fields = |spec| match serde_json::to_value(AskedSettings::new(spec)) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (before, now) = (fields(before), fields(now));
    let word = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "as it is chosen".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let changed = now.iter().filter(|(name, value)| {
        // Told by a mark of its own.
        *name != "tuned" && before.get(*name) != Some(value)
    });
    let told = changed.map(|(name, value)| {
        let (before, now) = (word(before.get(name)), word(Some(value)));
        format!("{name} {before} → {now}")
    });
    told.take(CHANGES_TOLD_MAX).collect()
}

/// Follows the clock of the day.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    /// The time of day and the time since the start, at the look before.
    before: Option<(u64, Duration)>,
    steady_since: Duration,
}

/// What a look at the clock says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ClockTold {
    /// Milliseconds that it went too far, or back.
    pub(super) jump_ms: Option<i64>,
    /// Nobody has set it since the machine started.
    pub(super) is_unset: bool,
    /// It may say what is old.
    pub(super) is_steady: bool,
}

impl ClockWatch {
    /// Looks at the clock, so long after the start.
    pub(super) fn step(&mut self, now_ms: u64, elapsed: Duration) -> ClockTold {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let jump_ms = self.before.and_then(|(before_ms, before)| {
            let passed = elapsed.saturating_sub(before).as_millis();
            let passed = i64::try_from(passed).unwrap_or(i64::MAX);
            let jump = signed(now_ms)
                .saturating_sub(signed(before_ms))
                .saturating_sub(passed);
            let least = signed(CLOCK_JUMP_MIN.as_millis() as u64);
            (jump.abs() >= least).then_some(jump)
        });
        self.before = Some((now_ms, elapsed));
        if jump_ms.is_some() {
            self.steady_since = elapsed;
        }
        let is_unset = now_ms / 1000 < CLOCK_SET_S;
        ClockTold {
            jump_ms,
            is_unset,
            is_steady: !is_unset && elapsed.saturating_sub(self.steady_since) >= STEADY_AFTER,
        }
    }
}

/// A jump in words.
pub(super) fn jump_text(ms: i64) -> String {
    let s = ms.unsigned_abs() / 1000;
    let span = match s {
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        7200..=172_799 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    };
    match ms < 0 {
        true => format!("it went back by {span}"),
        false => format!("it went forward by {span}, or the machine slept"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::{LoadFailure, LoadFailureKind};

    use super::*;
    use crate::tests::scripted::{facts, ready_model, shelved, status};

    fn told(watch: &mut ModelWatch, models: &[ModelStatus]) -> Vec<(&'static str, String)> {
        let marks = watch.step(5, models);
        assert!(marks.iter().all(|mark| mark.model.as_deref() == Some("m")));
        let told = marks.into_iter();
        told.map(|mark| (mark.kind.word(), mark.text)).collect()
    }

    fn kinds(watch: &mut ModelWatch, models: &[ModelStatus]) -> Vec<&'static str> {
        told(watch, models).into_iter().map(|one| one.0).collect()
    }

    #[test]
    fn a_life_of_a_model() {
        let mut watch = ModelWatch::default();
        assert_eq!(kinds(&mut watch, &[shelved("m")]), [""; 0]);
        let loading = status("m", ModelPhase::Loading { fraction: 0.5 });
        assert_eq!(kinds(&mut watch, &[loading]), [""; 0]);
        let ready = ready_model("m");
        let load = told(&mut watch, std::slice::from_ref(&ready));
        assert_eq!(load.len(), 1);
        assert!(load[0].1.starts_with("context 4096, cache f16"), "{load:?}");
        assert_eq!(
            kinds(&mut watch, std::slice::from_ref(&ready)),
            [""; 0],
            "it is as before"
        );
        // Its worker dies: the cause comes first, the count of restarts later.
        let crash = Some("killed by signal 9\nlast words of the log".to_owned());
        let dead = ModelStatus {
            last_crash: crash.clone(),
            ..status("m", ModelPhase::Restarting { in_ms: 250 })
        };
        let crashed = told(&mut watch, &[dead]);
        assert_eq!(crashed, [("crash", "killed by signal 9".to_owned())]);
        let again = ModelStatus {
            last_crash: crash.clone(),
            restarts: ready.restarts + 1,
            pid: Some(8),
            ..ready.clone()
        };
        assert_eq!(kinds(&mut watch, std::slice::from_ref(&again)), ["load"]);
        // The same once more, so quick that nobody saw it without its worker.
        let third = ModelStatus {
            restarts: ready.restarts + 2,
            pid: Some(9),
            ..again
        };
        assert_eq!(
            kinds(&mut watch, std::slice::from_ref(&third)),
            ["crash", "load"]
        );
        let draining = ModelStatus {
            phase: ModelPhase::Draining,
            ..third.clone()
        };
        assert_eq!(kinds(&mut watch, &[draining]), ["unload"]);
        let out = ModelStatus {
            phase: ModelPhase::Unloaded,
            ..third
        };
        assert_eq!(kinds(&mut watch, &[out]), [""; 0]);
        assert_eq!(kinds(&mut watch, &[]), [""; 0]);
    }

    #[test]
    fn one_that_is_gone_at_once_was_unloaded_and_one_that_failed_says_why_once() {
        let mut watch = ModelWatch::default();
        assert_eq!(kinds(&mut watch, &[ready_model("m")]), ["load"]);
        assert_eq!(kinds(&mut watch, &[]), ["unload"]);
        assert_eq!(kinds(&mut watch, &[]), [""; 0]);
        let failed = status(
            "m",
            ModelPhase::Failed(LoadFailure {
                kind: LoadFailureKind::NotFound,
                message: "There is no such file.\nmore".into(),
            }),
        );
        let expected = [("failed", "There is no such file.".to_owned())];
        assert_eq!(told(&mut watch, std::slice::from_ref(&failed)), expected);
        assert_eq!(told(&mut watch, &[failed]), []);
        let shed = ModelStatus {
            place: supervisor::Place {
                was_shed: true,
                ..supervisor::Place::default()
            },
            ..shelved("m")
        };
        assert_eq!(kinds(&mut watch, &[ready_model("m")]), ["load"]);
        let expected = [("unload", "memory was short".to_owned())];
        assert_eq!(told(&mut watch, &[shed]), expected);
    }

    #[test]
    fn a_load_with_other_settings_tells_which_and_measured_ones_have_a_mark() {
        let mut watch = ModelWatch::default();
        let mut model = ready_model("m");
        kinds(&mut watch, &[model.clone()]);
        kinds(&mut watch, &[]);
        model.spec.context = Some(8192);
        model.spec.tuned = vec!["threads".into()];
        let tuned = ModelFacts {
            tuned: vec!["threads".into()],
            ..facts("m")
        };
        model.phase = ModelPhase::Ready(Arc::new(tuned));
        let marks = told(&mut watch, &[model.clone()]);
        assert_eq!(
            marks[1..],
            [
                ("setting", "context as it is chosen → 8192".to_owned()),
                ("tuned", "as measured here: threads".to_owned()),
            ]
        );
        // The same again is no news, but for the load.
        kinds(&mut watch, &[]);
        assert_eq!(kinds(&mut watch, &[model]), ["load"]);
    }

    #[test]
    fn a_clock_that_is_set_is_told_and_not_believed_for_a_while() {
        const DAY_MS: i64 = 86_400_000;
        let mut clock = ClockWatch::default();
        let at = |s: u64| Duration::from_secs(s);
        let start_ms = CLOCK_SET_S * 1000;
        assert!(clock.step(1000, at(0)).is_unset);
        let jumped = clock.step(start_ms, at(1)).jump_ms.unwrap();
        assert!(jumped > 19_000 * DAY_MS);
        // It runs as it should, and is corrected by little.
        assert_eq!(clock.step(start_ms + 1900, at(2)).jump_ms, None);
        assert!(!clock.step(start_ms + 600_000, at(600)).is_steady);
        assert!(clock.step(start_ms + 601_000, at(602)).is_steady);
        let back = clock.step(start_ms, at(603));
        assert_eq!((back.jump_ms, back.is_steady), (Some(-602_000), false));
        assert_eq!(jump_text(-602_000), "it went back by 10 min");
        assert!(jump_text(3 * DAY_MS).starts_with("it went forward by 3 days"));
    }
}
