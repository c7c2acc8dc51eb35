//! What was measured, kept for the loads that follow.
//!
//! One file, `sextant/tune.json` in the cache folder. An entry counts for one model file, by
//! its size and a hash of its ends, one build and one machine; where one of these differs it is
//! as if it were not there. Each class of temperature has one of its own, and where a class has
//! none that of another is used.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use hardware::{Machine, Root, Sensors};
use models::Environment;
use proto::LoadSpec;
use serde_json::{Map, Value, json};
use tuner::Speeds;

use crate::hw;
use crate::trial::{is_hot, margin_celsius};

/// Counts up when what is kept changes.
const VERSION: u64 = 2;
const FILE_BYTES_MAX: u64 = 4 << 20;
/// The oldest go first.
const ENTRIES_MAX: usize = 256;
/// Bytes at either end of a model file that are hashed: a GGUF file's header is at its start.
const END_BYTES: u64 = 1 << 20;
/// Settings on which it depends what is fastest: what was measured with some of them given holds
/// where they are given again.
const MATTERS: [&str; 14] = [
    "threads",
    "threads_batch",
    "cpus",
    "cpus_batch",
    "kv_type_k",
    "kv_type_v",
    "flash_attention",
    "batch",
    "ubatch",
    "kernels",
    "mmap",
    "mlock",
    "huge_pages",
    "gpu_layers",
];

/// What an entry counts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) model: String,
    pub(crate) build: String,
    pub(crate) hardware: String,
    pub(crate) thermal: &'static str,
}

/// A measurement that is kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// What is chosen; empty where the defaults won.
    pub(crate) settings: LoadSpec,
    /// What was given meanwhile, by name.
    pub(crate) given: Map<String, Value>,
    pub(crate) at_unix_secs: u64,
    pub(crate) speeds: Speeds,
    /// Of speeds against the defaults; 1 where they won.
    pub(crate) gain: f64,
    /// Why it is no longer used.
    pub(crate) stale: Option<String>,
}

impl Key {
    /// That of a model here and now. Blocking; a few hundred small files.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        Ok(Self {
            model: fingerprint(path)?,
            build: build().to_owned(),
            hardware: hardware().to_owned(),
            thermal: thermal(&Sensors::read(&Root::live())),
        })
    }

    fn is_of(&self, entry: &Value) -> bool {
        self.is_of_model(entry) && entry["thermal"] == self.thermal
    }

    /// In whatever thermal state.
    fn is_of_model(&self, entry: &Value) -> bool {
        entry["model"] == *self.model
            && entry["build"] == *self.build
            && entry["hardware"] == *self.hardware
    }
}

impl Entry {
    /// Whether it was measured with what a spec gives, as far as it depends on that.
    pub(crate) fn is_for(&self, spec: &LoadSpec) -> bool {
        has_all(&given(spec), &self.given)
    }

    /// Whether a spec has all of its settings, so that the speeds are those to be expected.
    pub(crate) fn is_in_force(&self, spec: &LoadSpec) -> bool {
        let settings = fields(&self.settings);
        let is_tuned = |name: &String| spec.tuned.contains(name);
        has_all(&fields(spec), &settings) && settings.keys().all(is_tuned)
    }
}

/// What of a spec is given and matters, by name.
pub(crate) fn given(spec: &LoadSpec) -> Map<String, Value> {
    let mut fields = fields(spec);
    fields.retain(|name, _| MATTERS.contains(&name.as_str()));
    fields
}

fn has_all(fields: &Map<String, Value>, wanted: &Map<String, Value>) -> bool {
    let mut wanted = wanted.iter();
    wanted.all(|(name, value)| fields.get(name) == Some(value))
}

/// What is set in a spec, but for what the model is.
fn fields(spec: &LoadSpec) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(spec) else {
        return Map::new();
    };
    fields.retain(|name, value| {
        let is_model = ["name", "path", "tuned"].contains(&name.as_str());
        !value.is_null() && !is_model
    });
    fields
}

/// Of a model's file: size, and a hash of both ends. The same wherever it lies.
pub(crate) fn fingerprint(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut ends = Vec::new();
    file.by_ref().take(END_BYTES).read_to_end(&mut ends)?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(END_BYTES)))?;
    file.take(END_BYTES).read_to_end(&mut ends)?;
    Ok(format!("{bytes}-{:016x}", hash(&ends)))
}

/// The size of the file, of what [`fingerprint`] gives.
pub(crate) fn bytes_of(fingerprint: &str) -> Option<u64> {
    fingerprint.split_once('-')?.0.parse().ok()
}

/// FNV-1a: nobody would make two models collide to have the wrong number of threads.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The versions, and the size of the program: a build of the same version with other kernels
/// is seldom of the same size to the byte.
pub(crate) fn build() -> &'static str {
    static BUILD: OnceLock<String> = OnceLock::new();
    BUILD.get_or_init(|| {
        let program = std::env::current_exe().and_then(fs::metadata);
        let bytes = program.map_or(0, |program| program.len());
        format!("{}, {bytes} bytes", worker::build())
    })
}

/// This machine, as far as speeds depend on it.
pub(crate) fn hardware() -> &'static str {
    static HARDWARE: OnceLock<String> = OnceLock::new();
    HARDWARE.get_or_init(|| hw::key(&Machine::read(&Root::live())))
}

fn thermal(sensors: &Sensors) -> &'static str {
    match margin_celsius(sensors) {
        None => "unknown",
        Some(_) if is_hot(sensors) => "hot",
        Some(_) => "cool",
    }
}

/// Where they are kept.
pub(crate) fn file(environment: &Environment) -> Option<PathBuf> {
    Some(environment.cache_dir()?.join("sextant/tune.json"))
}

/// What was measured of the model at `path`, stale entries included. Where nothing at all is
/// kept this costs one look for a file.
pub(crate) fn find(file: &Path, path: &Path) -> Option<Entry> {
    let entries = read(file);
    if entries.is_empty() {
        return None;
    }
    let key = Key::read(path).ok()?;
    let of_model = || entries.iter().filter(|entry| key.is_of_model(entry));
    let same_heat = of_model().find(|entry| key.is_of(entry));
    of_json(same_heat.or_else(|| of_model().next_back())?)
}

/// When the file was last written; `None` where there is none.
pub(crate) fn stamp(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|file| file.modified()).ok()
}

/// Keeps an entry in place of another of its key.
pub(crate) fn keep(file: &Path, key: &Key, entry: &Entry) -> io::Result<()> {
    let mut entries = read(file);
    entries.retain(|known| !key.is_of(known));
    entries.push(as_json(key, entry));
    let excess = entries.len().saturating_sub(ENTRIES_MAX);
    entries.drain(..excess);
    write(file, &entries)
}

/// Forgets all that was measured of a model, in whatever state of the machine; says how many
/// entries that were.
pub(crate) fn forget(file: &Path, path: &Path) -> io::Result<usize> {
    let model = fingerprint(path)?;
    let mut entries = read(file);
    let n_before = entries.len();
    entries.retain(|entry| entry["model"] != *model);
    let n_gone = n_before - entries.len();
    if n_gone > 0 {
        write(file, &entries)?;
    }
    Ok(n_gone)
}

/// Notes that the entry of a model that was made then has stopped to be true.
pub(crate) fn mark_stale(
    file: &Path,
    (path, at_unix_secs): (&Path, u64),
    why: &str,
) -> io::Result<()> {
    let key = Key::read(path)?;
    let mut entries = read(file);
    let is_it =
        |entry: &&mut Value| key.is_of_model(entry) && entry["at_unix_secs"] == at_unix_secs;
    for entry in entries.iter_mut().filter(is_it) {
        entry["stale"] = json!(why);
    }
    write(file, &entries)
}

pub(crate) fn now_unix_secs() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// None where there is no file, or one that cannot be read.
fn read(file: &Path) -> Vec<Value> {
    let fits = fs::metadata(file).is_ok_and(|file| file.len() <= FILE_BYTES_MAX);
    let text = if fits {
        fs::read_to_string(file).ok()
    } else {
        None
    };
    let value: Option<Value> = text.and_then(|text| serde_json::from_str(&text).ok());
    match value {
        Some(mut value) if value["version"] == VERSION => match value["entries"].take() {
            Value::Array(entries) => entries,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn write(file: &Path, entries: &[Value]) -> io::Result<()> {
    let value = json!({ "version": VERSION, "entries": entries });
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = tempfile::NamedTempFile::new_in(folder)?;
    fs::write(new.path(), format!("{value:#}\n"))?;
    new.persist(file)?;
    Ok(())
}

/// The settings that are there, by their names.
pub(crate) fn settings_json(settings: &LoadSpec) -> Value {
    Value::Object(fields(settings))
}

fn as_json(key: &Key, entry: &Entry) -> Value {
    json!({
        "model": key.model,
        "build": key.build,
        "hardware": key.hardware,
        "thermal": key.thermal,
        "at_unix_secs": entry.at_unix_secs,
        "given": entry.given,
        "settings": settings_json(&entry.settings),
        "prefill_tokens_s": entry.speeds.prefill_tokens_s,
        "decode_tokens_s": entry.speeds.decode_tokens_s,
        "depth": entry.speeds.depth,
        "gain": entry.gain,
        "stale": entry.stale,
    })
}

fn of_json(value: &Value) -> Option<Entry> {
    Some(Entry {
        settings: serde_json::from_value(value["settings"].clone()).ok()?,
        given: value["given"].as_object().cloned().unwrap_or_default(),
        at_unix_secs: value["at_unix_secs"].as_u64()?,
        speeds: Speeds {
            prefill_tokens_s: value["prefill_tokens_s"].as_f64()?,
            decode_tokens_s: value["decode_tokens_s"].as_f64()?,
            depth: u32::try_from(value["depth"].as_u64()?).ok()?,
        },
        gain: value["gain"].as_f64()?,
        stale: value["stale"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            settings: LoadSpec {
                threads: Some(4),
                cpus: Some("4-7".into()),
                ubatch: Some(256),
                ..LoadSpec::default()
            },
            given: Map::new(),
            at_unix_secs: 7,
            speeds: Speeds {
                prefill_tokens_s: 100.5,
                decode_tokens_s: 10.25,
                depth: 300,
            },
            gain: 1.2,
            stale: None,
        }
    }

    #[test]
    fn an_entry_counts_for_its_key_until_it_is_forgotten_or_stale() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sextant/tune.json");
        let (one, other) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
        fs::write(&one, "first").unwrap();
        fs::write(&other, "other").unwrap();
        assert_eq!(find(&file, &one), None);
        let key = Key::read(&one).unwrap();
        keep(&file, &key, &entry()).unwrap();
        assert_eq!(find(&file, &one), Some(entry()));
        assert_eq!(find(&file, &other), None, "of the same size");
        let moved = folder.path().join("moved.gguf");
        fs::copy(&one, &moved).unwrap();
        assert_eq!(
            find(&file, &moved),
            Some(entry()),
            "the same model elsewhere"
        );
        for changed in [
            Key {
                build: "another".into(),
                ..key.clone()
            },
            Key {
                hardware: "another".into(),
                ..key.clone()
            },
            Key {
                thermal: "hot",
                ..key.clone()
            },
        ] {
            let better = Entry {
                gain: 2.0,
                ..entry()
            };
            keep(&file, &changed, &better).unwrap();
            assert_eq!(find(&file, &one), Some(entry()), "{changed:?}");
        }
        mark_stale(&file, (&one, 8), "slow").unwrap();
        assert_eq!(
            find(&file, &one).unwrap().stale,
            None,
            "made at another time"
        );
        mark_stale(&file, (&one, 7), "slow").unwrap();
        assert_eq!(find(&file, &one).unwrap().stale.as_deref(), Some("slow"));
        assert_eq!(forget(&file, &other).unwrap(), 0);
        assert_eq!(forget(&file, &one).unwrap(), 4);
        assert_eq!(find(&file, &one), None);
    }

    #[test]
    fn what_was_measured_in_another_heat_is_better_than_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (file, model) = (
            folder.path().join("tune.json"),
            folder.path().join("a.gguf"),
        );
        fs::write(&model, "first").unwrap();
        let key = Key {
            thermal: "another",
            ..Key::read(&model).unwrap()
        };
        keep(&file, &key, &entry()).unwrap();
        assert_eq!(find(&file, &model), Some(entry()));
        mark_stale(&file, (&model, 7), "slow").unwrap();
        assert!(find(&file, &model).unwrap().stale.is_some());
    }

    #[test]
    fn an_entry_is_for_what_it_was_measured_with() {
        let with = |threads: Option<u32>, context: u32| LoadSpec {
            threads,
            context: Some(context),
            ..LoadSpec::default()
        };
        let of_four = Entry {
            given: given(&with(Some(4), 4096)),
            ..entry()
        };
        assert!(
            of_four.is_for(&with(Some(4), 512)),
            "the context does not matter"
        );
        assert!(!of_four.is_for(&with(Some(2), 4096)) && !of_four.is_for(&with(None, 4096)));
        let tuned = LoadSpec {
            tuned: ["threads", "cpus", "ubatch"].map(str::to_owned).to_vec(),
            context: Some(512),
            ..entry().settings
        };
        assert!(entry().is_in_force(&tuned));
        let in_part = LoadSpec {
            ubatch: Some(512),
            ..tuned.clone()
        };
        assert!(!entry().is_in_force(&in_part), "something else was given");
    }

    #[test]
    fn a_broken_file_is_none_and_an_old_one_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tune.json");
        let model = folder.path().join("a.gguf");
        fs::write(&model, "first").unwrap();
        for text in ["", "{", "[]", "{\"version\": 0, \"entries\": [{}]}"] {
            fs::write(&file, text).unwrap();
            assert_eq!(find(&file, &model), None, "{text}");
        }
        keep(&file, &Key::read(&model).unwrap(), &entry()).unwrap();
        assert_eq!(find(&file, &model), Some(entry()));
    }
}
