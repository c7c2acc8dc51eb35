//! The table itself, in the order of help and docs.

use super::{Group, Kind, Setting};

const CACHE_TYPES: Kind = Kind::Choice(&[
    "f32", "f16", "bf16", "q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl",
]);

const THREADS: Kind = Kind::Count { min: 1, max: 1024 };

/// The fields every entry shares; each entry below overrides what differs.
const BASE: Setting = Setting {
    name: "",
    group: Group::Server,
    doc: "",
    kind: Kind::Switch,
    default: None,
    unset: "",
    unit: None,
    since: "0.1.0",
};

/// Every setting, in the order of the reference page.
///
/// The port is none that a local model server listens on by default (Ollama 11434,
/// llama-server 8080, LM Studio 1234, vLLM 8000), and it lies below the range from
/// which systems pick ports for outgoing connections. A sextant spans 60 degrees.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "listen",
        doc: "Address and port of the HTTP server.",
        kind: Kind::Address,
        default: Some("127.0.0.1:11460"),
        ..BASE
    },
    Setting {
        name: "host",
        doc: "Address to listen on, in place of the one in `listen`.",
        kind: Kind::Host,
        unset: "the one in `listen`",
        ..BASE
    },
    Setting {
        name: "port",
        doc: "Port to listen on, in place of the one in `listen`.",
        kind: Kind::Count {
            min: 0,
            max: 65_535,
        },
        unset: "the one in `listen`",
        ..BASE
    },
    Setting {
        name: "api_key",
        doc: "The operator's key, which may do everything: `Authorization: Bearer KEY`. Other users of the \
              machine can see flags; prefer `api_key_file` or the environment.",
        kind: Kind::Secret,
        unset: "a key is asked for once `sextant key add` has made one",
        ..BASE
    },
    Setting {
        name: "api_key_file",
        doc: "File whose first line is the key; instead of `api_key`.",
        kind: Kind::Path,
        unset: "as without `api_key`",
        ..BASE
    },
    Setting {
        name: "tls_cert_file",
        doc: "Certificate of the server in PEM, with the chain that leads to its authority; the \
              server then speaks HTTPS only. It is read again when it changes, and on SIGHUP.",
        kind: Kind::Path,
        unset: "HTTP in plain text",
        ..BASE
    },
    Setting {
        name: "tls_key_file",
        doc: "Private key of `tls_cert_file`, in PEM and not encrypted.",
        kind: Kind::Path,
        unset: "HTTP in plain text",
        ..BASE
    },
    Setting {
        name: "ca_file",
        doc: "Certificates in PEM that `sextant ps`, `load`, `unload` and `run --url` trust besides \
              the system's when they ask a server.",
        kind: Kind::Path,
        unset: "those of the system",
        ..BASE
    },
    Setting {
        name: "data_dir",
        doc: "Folder of the database `sextant.db`: API keys and what they have used, the audit \
              log, kept responses; and of `results.db`, what `sextant bench` has measured.",
        kind: Kind::Path,
        unset: "`sextant` in the user's data directory",
        ..BASE
    },
    Setting {
        name: "audit",
        doc: "Keep a row of each request in the audit log: who asked, the decision, who \
              answered, tokens, times and cost, but no texts.",
        kind: Kind::Switch,
        default: Some("true"),
        ..BASE
    },
    Setting {
        name: "audit_texts",
        doc: "Also keep the beginning of each prompt and answer in the audit log.",
        kind: Kind::Switch,
        default: Some("false"),
        ..BASE
    },
    Setting {
        name: "audit_days",
        doc: "Rows of the audit log that are older are deleted.",
        kind: Kind::Count { min: 1, max: 3650 },
        default: Some("30"),
        unit: Some("days"),
        ..BASE
    },
    Setting {
        name: "audit_rows_max",
        doc: "Rows that the audit log keeps; the oldest go first.",
        kind: Kind::Count {
            min: 1,
            max: 1_000_000_000,
        },
        default: Some("1000000"),
        unit: Some("rows"),
        ..BASE
    },
    Setting {
        name: "history",
        doc: "Keep the figures of the page Telemetry (rates, waits, memory, heat) in \
              `telemetry.db` of `data_dir`. There are no texts of requests in it, and nothing of \
              it leaves this machine.",
        kind: Kind::Switch,
        default: Some("true"),
        ..BASE
    },
    Setting {
        name: "history_days",
        doc: "How far that goes back: every 10 seconds for the first day, every minute for the \
              first week, then every quarter of an hour.",
        kind: Kind::Count { min: 1, max: 90 },
        default: Some("90"),
        unit: Some("days"),
        ..BASE
    },
    Setting {
        name: "responses",
        doc: "Where the responses of `/v1/responses` are kept: on disk a conversation survives \
              a restart.",
        kind: Kind::Choice(&["disk", "memory"]),
        default: Some("disk"),
        ..BASE
    },
    Setting {
        name: "otlp_endpoint",
        doc: "Address of an OpenTelemetry collector that gets a trace of each request by OTLP over \
              HTTP, such as `http://127.0.0.1:4318`. There are no texts in it.",
        kind: Kind::Url,
        unset: "`OTEL_EXPORTER_OTLP_ENDPOINT` of the environment, else no traces",
        ..BASE
    },
    Setting {
        name: "otlp_headers_file",
        doc: "File with a header a line, `NAME: VALUE`, that the collector is sent.",
        kind: Kind::Path,
        unset: "`OTEL_EXPORTER_OTLP_HEADERS` of the environment, else none",
        ..BASE
    },
    Setting {
        name: "body_bytes_max",
        doc: "Largest request body. A larger one is refused with status 413.",
        kind: Kind::Bytes {
            min: 1 << 10,
            max: 48 << 20,
        },
        default: Some("16MiB"),
        unit: Some("bytes"),
        ..BASE
    },
    Setting {
        name: "keep_alive_secs",
        doc: "After this long without a token, a streamed answer gets a comment line, so that \
              clients and proxies do not give up while a long prompt is read. 0 sends none.",
        kind: Kind::Count { min: 0, max: 3600 },
        default: Some("10"),
        unit: Some("seconds"),
        ..BASE
    },
    Setting {
        name: "connections_max",
        doc: "Open connections; more wait to be accepted.",
        kind: Kind::Count {
            min: 1,
            max: 1 << 16,
        },
        default: Some("1024"),
        ..BASE
    },
    Setting {
        name: "requests_max",
        doc: "Requests in progress over all models. One more is refused with status 429.",
        kind: Kind::Count {
            min: 1,
            max: 1 << 16,
        },
        default: Some("256"),
        ..BASE
    },
    Setting {
        name: "cors_origins",
        doc: "Origins of web pages that may call the server besides those of this machine, \
              such as `https://app.example`; `*` allows all.",
        kind: Kind::List,
        unset: "pages of this machine",
        ..BASE
    },
    Setting {
        name: "hosts",
        doc: "Host names the server answers to besides names of this machine and IP addresses; \
              `*` allows all.",
        kind: Kind::List,
        unset: "names of this machine and IP addresses",
        ..BASE
    },
    Setting {
        name: "discovery",
        doc: "Whether to look at the start for engines on usual ports of this machine, and to \
              say what was found. Nothing is used unless it is configured.",
        kind: Kind::Switch,
        default: Some("true"),
        ..BASE
    },
    Setting {
        name: "load",
        group: Group::Models,
        doc: "Models to load at the start: names as `sextant ls` shows them, or paths of GGUF \
              files.",
        kind: Kind::Arguments,
        unset: "the only model on this machine, if there is just one",
        ..BASE
    },
    Setting {
        name: "models_dir",
        group: Group::Models,
        doc: "Where `sextant pull` puts models, and one of the places they are looked for.",
        kind: Kind::Path,
        unset: "`sextant/models` in the user's data directory",
        ..BASE
    },
    Setting {
        name: "load_on_demand",
        group: Group::Models,
        doc: "Serve every model on this machine: a request for one loads it. Off, only the \
              models that are named are served, and those of `[[models]]`.",
        kind: Kind::Switch,
        unset: "on where no model is named, off where one is",
        ..BASE
    },
    Setting {
        name: "model_memory_max",
        group: Group::Models,
        doc: "Memory that all models together may take. Models are taken out of memory for \
              one that is asked for and would go over it.",
        kind: Kind::Bytes {
            min: 1 << 20,
            max: 1 << 50,
        },
        unset: "what is available at the start, less a tenth",
        unit: Some("bytes"),
        ..BASE
    },
    Setting {
        name: "gpu_memory_max",
        group: Group::Models,
        doc: "Memory of the GPU that all models together may take, in a build with a back end for \
              GPUs. As many layers of a model go there as fit.",
        kind: Kind::Bytes {
            min: 1 << 20,
            max: 1 << 50,
        },
        unset: "what is free there at the start, less a sixteenth of all, at least 256 MiB and \
                at most 1 GiB",
        unit: Some("bytes"),
        ..BASE
    },
    Setting {
        name: "swap_wait_max_secs",
        group: Group::Models,
        doc: "How long a request waits before busy models make room for its model. Until then \
              they take further requests, so that a swap serves many.",
        kind: Kind::Count { min: 0, max: 3600 },
        default: Some("10"),
        unit: Some("seconds"),
        ..BASE
    },
    Setting {
        name: "model_keep_alive_secs",
        group: Group::Models,
        doc: "How long a model that was loaded on demand stays in memory without a request. 0 \
              keeps it until memory is needed for another. Models named at the start stay.",
        kind: Kind::Count {
            min: 0,
            max: 31_536_000,
        },
        default: Some("1800"),
        unit: Some("seconds"),
        ..BASE
    },
    Setting {
        name: "memory_pressure",
        group: Group::Models,
        doc: "Watch the memory that is left, of the machine and of the control groups of this \
              process: where it runs short, idle models first give back their caches and then \
              are unloaded, before the kernel ends a process.",
        kind: Kind::Switch,
        default: Some("true"),
        ..BASE
    },
    Setting {
        name: "chat_template_file",
        group: Group::Models,
        doc: "A Jinja template that replaces the one in the model file.",
        kind: Kind::Path,
        unset: "the model's own template",
        ..BASE
    },
    Setting {
        name: "context",
        group: Group::Engine,
        doc: "Most tokens one request may use, prompt and answer together.",
        kind: Kind::Count {
            min: 8,
            max: 1 << 24,
        },
        unset: "the worker chooses by model and memory",
        unit: Some("tokens"),
        ..BASE
    },
    Setting {
        name: "slots",
        group: Group::Engine,
        doc: "Requests that one model works on at the same time.",
        kind: Kind::Count { min: 1, max: 64 },
        unset: "the worker chooses",
        ..BASE
    },
    Setting {
        name: "queue_max",
        group: Group::Engine,
        doc: "Requests that may wait for a slot of one model. One more is refused with status \
              429.",
        kind: Kind::Count { min: 1, max: 4096 },
        unset: "the worker chooses",
        ..BASE
    },
    Setting {
        name: "batch",
        group: Group::Engine,
        doc: "Most tokens handed to the engine in one step.",
        kind: Kind::Count {
            min: 8,
            max: 1 << 16,
        },
        unset: "the worker chooses",
        unit: Some("tokens"),
        ..BASE
    },
    Setting {
        name: "ubatch",
        group: Group::Engine,
        doc: "Most tokens computed at once; at most `batch`. More is faster in prefill and \
              takes more memory.",
        kind: Kind::Count {
            min: 8,
            max: 1 << 16,
        },
        unset: "the worker chooses",
        unit: Some("tokens"),
        ..BASE
    },
    Setting {
        name: "threads",
        group: Group::Engine,
        doc: "Threads that generate.",
        kind: THREADS,
        unset: "the worker chooses by the cores of this machine",
        ..BASE
    },
    Setting {
        name: "threads_batch",
        group: Group::Engine,
        doc: "Threads that read prompts.",
        kind: THREADS,
        unset: "as `threads`",
        ..BASE
    },
    Setting {
        name: "cpus",
        group: Group::Engine,
        doc: "CPUs on which `threads` may run, such as `4-7`.",
        kind: Kind::Cpus,
        unset: "the big cores, or anywhere where all are alike",
        ..BASE
    },
    Setting {
        name: "cpus_batch",
        group: Group::Engine,
        doc: "CPUs on which `threads_batch` may run.",
        kind: Kind::Cpus,
        unset: "as `cpus`",
        ..BASE
    },
    Setting {
        name: "kv_type_k",
        group: Group::Engine,
        doc: "Type of the keys in the KV cache. A smaller one fits more context and costs \
              quality.",
        kind: CACHE_TYPES,
        unset: "the worker chooses",
        ..BASE
    },
    Setting {
        name: "kv_type_v",
        group: Group::Engine,
        doc: "Type of the values in the KV cache. A quantised one needs flash attention.",
        kind: CACHE_TYPES,
        unset: "the worker chooses",
        ..BASE
    },
    Setting {
        name: "kv_plan",
        group: Group::Engine,
        doc: "Types of the KV cache by layer, such as `k=q8_0,v=q4_0;k[18,20-23]=f16` \
              (docs/kv-plans.md). What it leaves open is as `kv_type_k` and `kv_type_v` say.",
        kind: Kind::KvPlan,
        unset: "the same types in every layer",
        ..BASE
    },
    Setting {
        name: "flash_attention",
        group: Group::Engine,
        doc: "Whether attention is computed without storing its whole matrix.",
        kind: Kind::Choice(&["auto", "on", "off"]),
        unset: "the worker chooses",
        ..BASE
    },
    Setting {
        name: "sequences",
        group: Group::Engine,
        doc: "Token sequences that the KV cache keeps apart: those of running requests, and \
              beyond them prefixes for later ones. Fewer take less memory where the model has \
              sliding windows or a large vocabulary.",
        kind: Kind::Count { min: 1, max: 256 },
        unset: "16 and 4 a slot, fewer where memory is short; with recurrent states 1 and 1 a \
                slot",
        ..BASE
    },
    Setting {
        name: "kernels",
        group: Group::Engine,
        doc: "Who computes on the CPU: our own kernels, with ggml's for what they do not take, \
              or ggml's alone.",
        kind: Kind::Choice(&["own", "ggml"]),
        unset: "own where they take the model's types of weights, and ggml's where only these \
                fit into memory",
        ..BASE
    },
    Setting {
        name: "gpu_layers",
        group: Group::Engine,
        doc: "Layers to keep on the GPU, from the last, where the output counts as one; all of them \
              when it is more than the model has. It does nothing in a build without a back end \
              for GPUs, and a model that does not fit so is refused.",
        kind: Kind::Count { min: 0, max: 9999 },
        unset: "as many as fit into `gpu_memory_max`",
        unit: Some("layers"),
        ..BASE
    },
    Setting {
        name: "mmap",
        group: Group::Engine,
        doc: "Map the model file into memory instead of reading it.",
        kind: Kind::Switch,
        unset: "the worker chooses",
        ..BASE
    },
    Setting {
        name: "mlock",
        group: Group::Engine,
        doc: "Keep the mapped model in memory, whatever else wants it. Needs the right to lock so \
              much (`ulimit -l`).",
        kind: Kind::Switch,
        unset: "off",
        ..BASE
    },
    Setting {
        name: "huge_pages",
        group: Group::Engine,
        doc: "Ask for large pages for packed weights and caches, where the system gives them to \
              whoever asks (`transparent_hugepage` is `madvise` or `always`).",
        kind: Kind::Switch,
        unset: "on",
        ..BASE
    },
    Setting {
        name: "swa_full",
        group: Group::Engine,
        doc: "Keep all tokens of sliding-window layers, so that any shared prefix can be reused; \
              takes more memory.",
        kind: Kind::Switch,
        unset: "the worker chooses",
        ..BASE
    },
    Setting {
        name: "attention_sinks",
        group: Group::Engine,
        doc: "For requests that do not say: when the context is full, so many tokens at its \
              beginning stay, the older half of the others is dropped, and the answer goes on; 0: \
              it ends there. At most half of the context; a model whose positions cannot be moved \
              is not loaded with it.",
        kind: Kind::Count {
            min: 0,
            max: 1_048_576,
        },
        unit: Some("tokens"),
        unset: "0",
        ..BASE
    },
    Setting {
        name: "reasoning_budget",
        group: Group::Engine,
        doc: "Tokens of a thought after which it is closed and the answer begins, for requests \
              that do not say; 0: no thinking unless a request asks for it.",
        kind: Kind::Count {
            min: 0,
            max: 1_048_576,
        },
        unit: Some("tokens"),
        unset: "no limit",
        ..BASE
    },
    Setting {
        name: "prompt_cache_disk_max",
        group: Group::Engine,
        doc: "Room on disk for what was computed of prompts, of all models together, so that \
              it outlives requests, models that are unloaded, crashes and restarts. It is never \
              more than a quarter of what is free there; 0 keeps nothing on disk. Who may read \
              the folder can learn from it what was in the prompts.",
        kind: Kind::Bytes {
            min: 0,
            max: 1 << 50,
        },
        default: Some("0"),
        unit: Some("bytes"),
        ..BASE
    },
    Setting {
        name: "prompt_cache_ram_max",
        group: Group::Engine,
        doc: "Memory of each model for the same, beyond its KV cache. What is on disk is usually \
              in the system's cache of files, so this is for machines without a disk to write \
              to.",
        kind: Kind::Bytes {
            min: 0,
            max: 1 << 50,
        },
        default: Some("0"),
        unit: Some("bytes"),
        ..BASE
    },
    Setting {
        name: "prompt_cache_writes_max",
        group: Group::Engine,
        doc: "Most bytes that `prompt_cache_disk_max` lets be written in a day, so that flash \
              memory lasts. Beyond them nothing is written until hours have passed.",
        kind: Kind::Bytes {
            min: 0,
            max: 1 << 50,
        },
        default: Some("16GiB"),
        unit: Some("bytes"),
        ..BASE
    },
    Setting {
        name: "prompt_cache_dir",
        group: Group::Engine,
        doc: "The folder on disk. It is made for this user alone.",
        kind: Kind::Path,
        unset: "`sextant/prompts` in the user's cache directory",
        ..BASE
    },
    Setting {
        name: "prompt_cache_codec",
        group: Group::Engine,
        doc: "How what is kept of prompts is made smaller, in memory and on disk: not at all, to \
              the bit, or in about so many bits a number, which loses something: what is \
              restored is then not quite what was computed. States in bits also go into a KV cache \
              of other types than they came from.",
        kind: Kind::Choice(&["none", "lossless", "8bit", "6bit", "5bit", "4bit", "3bit"]),
        default: Some("none"),
        ..BASE
    },
    Setting {
        name: "speculation",
        group: Group::Engine,
        doc: "Draft tokens by looking up n-grams of the text so far. The answers stay the same.",
        kind: Kind::Choice(&["off", "ngram"]),
        unset: "off, unless `sextant tune` has found it faster",
        ..BASE
    },
    Setting {
        name: "speculation_draft_tokens_max",
        group: Group::Engine,
        doc: "Longest draft of one step, with `speculation = \"ngram\"`.",
        kind: Kind::Count { min: 1, max: 64 },
        default: Some("8"),
        unit: Some("tokens"),
        ..BASE
    },
    Setting {
        name: "speculation_ngram",
        group: Group::Engine,
        doc: "How many tokens must match before a draft is made, with `speculation = \"ngram\"`.",
        kind: Kind::Count { min: 1, max: 16 },
        default: Some("3"),
        unit: Some("tokens"),
        ..BASE
    },
    Setting {
        name: "tuned",
        group: Group::Engine,
        doc: "Use what `sextant tune` has measured of a model on this machine, for settings that \
              nobody gives.",
        kind: Kind::Switch,
        default: Some("true"),
        ..BASE
    },
    Setting {
        name: "hello_timeout_secs",
        group: Group::Supervision,
        doc: "Longest wait for a worker process to connect after it was started.",
        kind: Kind::Count { min: 1, max: 600 },
        default: Some("10"),
        unit: Some("seconds"),
        ..BASE
    },
    Setting {
        name: "drain_timeout_secs",
        group: Group::Supervision,
        doc: "Longest wait for running requests when a model is unloaded or the server ends; \
              then they are cut off.",
        kind: Kind::Count { min: 0, max: 3600 },
        default: Some("30"),
        unit: Some("seconds"),
        ..BASE
    },
    Setting {
        name: "restarts_max",
        group: Group::Supervision,
        doc: "How often a crashed worker is started again within `restart_window_secs` before \
              its model is given up.",
        kind: Kind::Count { min: 0, max: 1000 },
        default: Some("3"),
        ..BASE
    },
    Setting {
        name: "restart_window_secs",
        group: Group::Supervision,
        doc: "The span of time in which restarts are counted.",
        kind: Kind::Count {
            min: 1,
            max: 86_400,
        },
        default: Some("600"),
        unit: Some("seconds"),
        ..BASE
    },
    Setting {
        name: "log_level",
        group: Group::Log,
        doc: "Least important messages that are logged. At `debug` the workers' own log lines \
              are among them.",
        kind: Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        default: Some("info"),
        ..BASE
    },
    Setting {
        name: "log_format",
        group: Group::Log,
        doc: "Log lines for people or for machines.",
        kind: Kind::Choice(&["text", "json"]),
        default: Some("text"),
        ..BASE
    },
];
