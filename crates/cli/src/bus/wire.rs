//! The events of a server as they are sent. What is absent, or newer than this program, is left
//! out: a server may be of another version.

use serde::Deserialize;
use serde_json::Value;

/// An event of `GET /api/events`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum BusEvent {
    /// All that there is; what was known before is void.
    Snapshot {
        entries: Vec<BusEntry>,
    },
    Upsert {
        entry: BusEntry,
    },
    Remove {
        key: String,
    },
    #[serde(other)]
    Newer,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct BusEntry {
    pub(crate) key: String,
    pub(crate) state: Value,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum BusState {
    Server(ServerState),
    Memory(MemoryState),
    Model(Box<ModelState>),
    Pull(PullState),
    Log(LogState),
    /// Of the chats, or newer.
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ServerState {
    pub(crate) version: String,
    /// Seconds since 1970.
    pub(crate) started_s: u64,
    /// The key of this program may read the log, load and unload.
    pub(crate) may_manage: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct MemoryState {
    pub(crate) memory_bytes: u64,
    pub(crate) memory_bytes_max: Option<u64>,
    pub(crate) gpu_memory_bytes: u64,
    pub(crate) gpu_memory_bytes_max: Option<u64>,
    pub(crate) pressure: String,
    pub(crate) shrinks: u64,
    pub(crate) unloads: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PullState {
    pub(crate) spec: String,
    pub(crate) files: Vec<PullFile>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PullFile {
    pub(crate) name: String,
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct LogState {
    /// The number of the last line.
    pub(crate) latest: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ModelState {
    pub(crate) name: String,
    pub(crate) phase: String,
    pub(crate) load_fraction: Option<f64>,
    pub(crate) why: Option<String>,
    pub(crate) restarts: u32,
    pub(crate) last_crash: Option<String>,
    pub(crate) pinned: bool,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_measured: bool,
    pub(crate) gpu_memory_bytes: u64,
    pub(crate) expires_s: Option<u64>,
    pub(crate) helps: Option<String>,
    pub(crate) requests_running: u32,
    pub(crate) requests_waiting: u32,
    pub(crate) architecture: Option<String>,
    pub(crate) quant: Option<String>,
    pub(crate) context: Option<u32>,
    pub(crate) asked: Asked,
    pub(crate) facts: Option<Facts>,
    pub(crate) worker: Option<Worker>,
}

/// Settings as somebody asked for them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    pub(crate) context: Option<u32>,
    pub(crate) slots: Option<u32>,
    pub(crate) batch: Option<u32>,
    pub(crate) ubatch: Option<u32>,
    pub(crate) threads: Option<u32>,
    pub(crate) threads_batch: Option<u32>,
    pub(crate) kv_type_k: Option<String>,
    pub(crate) kv_type_v: Option<String>,
    pub(crate) kv_plan: Option<String>,
    pub(crate) flash_attention: Option<String>,
}

/// Values in force, as the engine reports them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Facts {
    pub(crate) description: String,
    pub(crate) weights_bytes: u64,
    pub(crate) kv_bytes: u64,
    pub(crate) n_layer: u32,
    pub(crate) context: u32,
    pub(crate) context_train: u32,
    pub(crate) slots: u32,
    pub(crate) queue_max: u32,
    pub(crate) batch: u32,
    pub(crate) ubatch: u32,
    pub(crate) threads: u32,
    pub(crate) threads_batch: u32,
    pub(crate) cpus: String,
    pub(crate) cpus_batch: String,
    pub(crate) kv_type_k: String,
    pub(crate) kv_type_v: String,
    pub(crate) kv_plan: Option<String>,
    pub(crate) flash_attention: bool,
    pub(crate) gpu_layers: u32,
    pub(crate) devices: Vec<Device>,
    pub(crate) kernels: String,
    pub(crate) llama_version: String,
    pub(crate) load_ms: f64,
    pub(crate) tuned: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Device {
    pub(crate) weights_bytes: u64,
    pub(crate) kv_bytes: u64,
    pub(crate) compute_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Worker {
    pub(crate) slots: Vec<Slot>,
    pub(crate) queued: u32,
    pub(crate) kv_cells: u32,
    pub(crate) kv_cells_running: u32,
    pub(crate) kv_cells_cached: u32,
    pub(crate) cached_prefixes: u32,
    pub(crate) resident_bytes: u64,
    pub(crate) prefill_tps: Option<f64>,
    pub(crate) decode_tps: Option<f64>,
    pub(crate) prompt_tokens_total: u64,
    pub(crate) prompt_tokens_cached_total: u64,
    pub(crate) completion_tokens_total: u64,
    pub(crate) draft_tokens_total: u64,
    pub(crate) draft_accepted_tokens_total: u64,
    pub(crate) jobs_total: u64,
    pub(crate) jobs_failed_total: u64,
    pub(crate) preemptions_total: u64,
    pub(crate) parkings_total: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Slot {
    pub(crate) slot: u32,
    pub(crate) phase: String,
    pub(crate) prompt_tokens: u32,
    pub(crate) prompt_done: u32,
    pub(crate) generated_tokens: u32,
}

/// The names of the fields that a struct reads.
#[cfg(test)]
pub(crate) fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    use serde::de::value::Error;
    use serde::de::{Error as _, Visitor};
    use serde::{Deserializer, forward_to_deserialize_any};

    struct Names<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("it is no struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            *self.0 = fields;
            Err(Error::custom("enough"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    let mut fields: &'static [&'static str] = &[];
    let read = T::deserialize(Names(&mut fields));
    assert!(read.is_err() && !fields.is_empty());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Absent fields are left out in silence, so a field that the server renames must fail here.
    #[test]
    fn every_field_is_one_that_the_server_sends() {
        let description: Value = serde_json::from_str(&gateway::openapi_json()).unwrap();
        let schemas = &description["components"]["schemas"];
        for (schema, fields) in [
            ("ServerState", fields_of::<ServerState>()),
            ("MemoryState", fields_of::<MemoryState>()),
            ("PullProgress", fields_of::<PullState>()),
            ("PullFile", fields_of::<PullFile>()),
            ("LogState", fields_of::<LogState>()),
            ("ModelState", fields_of::<ModelState>()),
            ("AskedSettings", fields_of::<Asked>()),
            ("RuntimeFacts", fields_of::<Facts>()),
            ("DeviceView", fields_of::<Device>()),
            ("WorkerView", fields_of::<Worker>()),
            ("SlotView", fields_of::<Slot>()),
        ] {
            let sent = schemas[schema]["properties"].as_object();
            let sent = sent.unwrap_or_else(|| panic!("no schema {schema}"));
            for field in fields {
                assert!(sent.contains_key(*field), "{schema} has no `{field}`");
            }
        }
        let kinds = schemas["BusState"].to_string();
        for kind in ["server", "memory", "model", "pull", "log"] {
            assert!(kinds.contains(&format!("\"{kind}\"")), "{kind}");
        }
    }
}
