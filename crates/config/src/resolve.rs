//! From what the user said to values that can be used.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use stdx::{Bytes, Secret};

use crate::presets::{self, Preset};
use crate::raw::{RawConfig, RawValue, Source, shown};
use crate::{ConfigError, FleetTables, Kind, Setting, setting};

/// Bytes of a file that is read as text: the configuration, keys, a chat template.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The settings in force. `None` leaves the choice to whoever the table's `unset` names.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub listen: SocketAddr,
    /// As given; [`Config::read_api_key`] also looks into the file.
    pub api_key: Option<Secret>,
    pub api_key_file: Option<PathBuf>,
    /// [`Config::tls_files`] has both or neither.
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub audit: bool,
    pub audit_texts: bool,
    pub audit_days: u32,
    pub audit_rows_max: u32,
    /// How far the history of figures goes back, in days; `None` keeps none.
    pub history_days: Option<u32>,
    pub responses: ResponsesIn,
    pub otlp_endpoint: Option<String>,
    pub otlp_headers_file: Option<PathBuf>,
    pub body_bytes_max: Bytes,
    /// `None` sends no keep-alive lines.
    pub keep_alive: Option<Duration>,
    pub connections_max: u32,
    pub requests_max: u32,
    pub cors_origins: Vec<String>,
    pub hosts: Vec<String>,
    /// Whether to look for engines on this machine at the start.
    pub discovery: bool,
    /// Models to load at the start.
    pub load: Vec<String>,
    pub models_dir: Option<PathBuf>,
    pub load_on_demand: Option<bool>,
    pub model_memory_max: Option<Bytes>,
    pub gpu_memory_max: Option<Bytes>,
    pub swap_wait_max: Duration,
    /// `None` keeps models until memory is needed for another.
    pub memory_pressure: bool,
    pub model_keep_alive: Option<Duration>,
    /// The models with settings of their own.
    pub presets: Vec<Preset>,
    pub chat_template_file: Option<PathBuf>,
    pub context: Option<u32>,
    pub slots: Option<u32>,
    pub queue_max: Option<u32>,
    pub batch: Option<u32>,
    pub ubatch: Option<u32>,
    pub threads: Option<u32>,
    pub threads_batch: Option<u32>,
    /// CPUs, as the kernel writes sets of them.
    pub cpus: Option<String>,
    pub cpus_batch: Option<String>,
    pub kv_type_k: Option<CacheType>,
    pub kv_type_v: Option<CacheType>,
    /// As it was given; it can be read.
    pub kv_plan: Option<String>,
    pub flash_attention: Option<FlashAttention>,
    pub sequences: Option<u32>,
    pub kernels: Option<Kernels>,
    pub gpu_layers: Option<u32>,
    pub mmap: Option<bool>,
    pub mlock: Option<bool>,
    pub huge_pages: Option<bool>,
    pub swa_full: Option<bool>,
    /// Tokens of a thought, for requests that do not say.
    pub attention_sinks: Option<u32>,
    pub reasoning_budget: Option<u32>,
    pub prompt_cache: PromptCache,
    pub speculation: Speculation,
    /// Whether measured settings stand in for those that nobody gives.
    pub tuned: bool,
    pub hello_timeout: Duration,
    pub drain_timeout: Duration,
    pub restarts_max: u32,
    pub restart_window: Duration,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    /// Other providers, and the rules by which requests go to them.
    pub fleet: FleetTables,
}

/// A choice of the table as an enum: its words and back.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant),+ }

        impl $name {
            /// The word a user writes.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

choice!(
    /// Where kept responses are.
    ResponsesIn {
        Disk = "disk",
        Memory = "memory",
    }
);

choice!(
    /// Type of the entries of a KV cache.
    CacheType {
        F32 = "f32",
        F16 = "f16",
        Bf16 = "bf16",
        Q8_0 = "q8_0",
        Q5_0 = "q5_0",
        Q5_1 = "q5_1",
        Q4_0 = "q4_0",
        Q4_1 = "q4_1",
        Iq4Nl = "iq4_nl",
    }
);
choice!(FlashAttention { Auto = "auto", On = "on", Off = "off" });
choice!(Kernels { Own = "own", Ggml = "ggml" });
choice!(LogLevel {
    Error = "error",
    Warn = "warn",
    Info = "info",
    Debug = "debug",
    Trace = "trace",
});
choice!(LogFormat { Text = "text", Json = "json" });
choice!(SpeculationMode {
    Off = "off",
    Ngram = "ngram"
});

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speculation {
    /// `None`: nobody has said.
    pub mode: Option<SpeculationMode>,
    /// Longest draft a step.
    pub draft_tokens_max: u32,
    /// Length of the n-gram that must match.
    pub ngram: u32,
}

impl RawConfig {
    /// Checks every value. All problems are told together.
    pub fn resolve(&self) -> Result<Config, ConfigError> {
        let mut reader = Reader {
            raw: self,
            problems: self.problems.clone(),
        };
        let config = reader.config();
        reader.check_together(&config);
        if reader.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid(reader.problems))
        }
    }
}

impl Config {
    /// The key clients must send, from `api_key` or the first line of `api_key_file`.
    pub fn read_api_key(&self) -> Result<Option<Secret>, ConfigError> {
        let Some(path) = &self.api_key_file else {
            return Ok(self.api_key.clone());
        };
        let text = read("the API key file", path)?;
        match text.lines().next().map(str::trim) {
            Some(key) if !key.is_empty() => Ok(Some(Secret::new(key))),
            _ => Err(ConfigError::Invalid(vec![format!(
                "the first line of the API key file `{}` is empty; write the key there",
                path.display()
            )])),
        }
    }

    /// The files of the certificate and of its key, where they are set.
    pub fn tls_files(&self) -> Result<Option<(&Path, &Path)>, ConfigError> {
        let (missing, set) = match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(certificate), Some(key)) => return Ok(Some((certificate, key))),
            (None, None) => return Ok(None),
            (None, Some(_)) => ("tls_cert_file", "tls_key_file"),
            (Some(_), None) => ("tls_key_file", "tls_cert_file"),
        };
        Err(ConfigError::Invalid(vec![format!(
            "`{set}` is set and `{missing}` is not; TLS needs both"
        )]))
    }

    /// The text of `ca_file`, where one is set.
    pub fn read_ca_file(&self) -> Result<Option<String>, ConfigError> {
        let path = self.ca_file.as_ref();
        path.map(|path| read("the CA file", path)).transpose()
    }

    /// The headers in `otlp_headers_file`. Empty lines and those with a `#` in front have none.
    pub fn read_otlp_headers(&self) -> Result<Vec<(String, Secret)>, ConfigError> {
        let Some(path) = &self.otlp_headers_file else {
            return Ok(Vec::new());
        };
        let text = read("the file with headers", path)?;
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let header = |(index, line): (usize, &str)| match line.split_once(':') {
            Some((name, value)) => Ok((name.trim().to_owned(), Secret::new(value.trim()))),
            // The line may be a secret.
            None => Err(ConfigError::Invalid(vec![format!(
                "line {} of `{}` is no `NAME: VALUE`",
                index + 1,
                path.display()
            )])),
        };
        lines.map(header).collect()
    }

    /// The text of `chat_template_file`, where one is set.
    pub fn read_chat_template(&self) -> Result<Option<String>, ConfigError> {
        let path = self.chat_template_file.as_ref();
        path.map(|path| read("the chat template", path)).transpose()
    }
}

/// Reads a file of text with its limit on bytes.
pub(crate) fn read(what: &'static str, path: &Path) -> Result<String, ConfigError> {
    let text = || {
        let mut text = String::new();
        // One more than the limit tells a file that is too large.
        let file = File::open(path)?;
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            let message = format!("it has over {FILE_BYTES_MAX} bytes, the most that are read");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(text)
    };
    text().map_err(|error| ConfigError::Unreadable {
        what,
        path: path.to_owned(),
        error,
    })
}

/// What becomes of states of prompts beyond their requests: the settings that begin with
/// `prompt_cache_`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromptCache {
    pub disk_max: Bytes,
    pub ram_max: Bytes,
    /// In a day.
    pub writes_max: Bytes,
    pub dir: Option<PathBuf>,
    /// The name of a level; `None`: as it is.
    pub codec: Option<String>,
}

/// Reads values by name and gathers problems. After a problem it gives some value
/// of the right type, which [`RawConfig::resolve`] then throws away.
struct Reader<'a> {
    raw: &'a RawConfig,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn config(&mut self) -> Config {
        Config {
            listen: self.listen(),
            api_key: self.text("api_key").map(Secret::new),
            api_key_file: self.text("api_key_file").map(PathBuf::from),
            tls_cert_file: self.text("tls_cert_file").map(PathBuf::from),
            tls_key_file: self.text("tls_key_file").map(PathBuf::from),
            ca_file: self.text("ca_file").map(PathBuf::from),
            data_dir: self.text("data_dir").map(PathBuf::from),
            audit: self.parsed("audit").unwrap_or(true),
            audit_texts: self.parsed("audit_texts").unwrap_or(false),
            audit_days: self.count("audit_days").unwrap_or(0),
            audit_rows_max: self.count("audit_rows_max").unwrap_or(0),
            history_days: self.history_days(),
            responses: self
                .choice("responses", ResponsesIn::from_word)
                .unwrap_or(ResponsesIn::Disk),
            otlp_endpoint: self.url("otlp_endpoint"),
            otlp_headers_file: self.text("otlp_headers_file").map(PathBuf::from),
            body_bytes_max: Bytes(self.number("body_bytes_max").unwrap_or(0)),
            keep_alive: Some(self.seconds("keep_alive_secs")).filter(|wait| !wait.is_zero()),
            connections_max: self.count("connections_max").unwrap_or(0),
            requests_max: self.count("requests_max").unwrap_or(0),
            cors_origins: self.list("cors_origins"),
            hosts: self.list("hosts"),
            discovery: self.parsed("discovery").unwrap_or(true),
            load: self.list("load"),
            models_dir: self.text("models_dir").map(PathBuf::from),
            load_on_demand: self.parsed("load_on_demand"),
            model_memory_max: self.number("model_memory_max").map(Bytes),
            gpu_memory_max: self.number("gpu_memory_max").map(Bytes),
            swap_wait_max: self.seconds("swap_wait_max_secs"),
            memory_pressure: self.parsed("memory_pressure").unwrap_or(true),
            model_keep_alive: self.model_keep_alive(),
            presets: self.presets(),
            chat_template_file: self.text("chat_template_file").map(PathBuf::from),
            context: self.count("context"),
            slots: self.count("slots"),
            queue_max: self.count("queue_max"),
            batch: self.count("batch"),
            ubatch: self.count("ubatch"),
            threads: self.count("threads"),
            threads_batch: self.count("threads_batch"),
            cpus: self.cpus("cpus"),
            cpus_batch: self.cpus("cpus_batch"),
            kv_type_k: self.choice("kv_type_k", CacheType::from_word),
            kv_type_v: self.choice("kv_type_v", CacheType::from_word),
            kv_plan: self.kv_plan("kv_plan"),
            flash_attention: self.choice("flash_attention", FlashAttention::from_word),
            sequences: self.count("sequences"),
            kernels: self.choice("kernels", Kernels::from_word),
            gpu_layers: self.count("gpu_layers"),
            mmap: self.parsed("mmap"),
            mlock: self.parsed("mlock"),
            huge_pages: self.parsed("huge_pages"),
            swa_full: self.parsed("swa_full"),
            attention_sinks: self.count("attention_sinks"),
            reasoning_budget: self.count("reasoning_budget"),
            prompt_cache: self.prompt_cache(),
            speculation: self.speculation(),
            tuned: self.parsed("tuned").unwrap_or(true),
            hello_timeout: self.seconds("hello_timeout_secs"),
            drain_timeout: self.seconds("drain_timeout_secs"),
            restarts_max: self.count("restarts_max").unwrap_or(0),
            restart_window: self.seconds("restart_window_secs"),
            log_level: self.log_level(),
            log_format: self.log_format(),
            fleet: self.raw.fleet.clone(),
        }
    }

    fn log_level(&mut self) -> LogLevel {
        let level = self.choice("log_level", LogLevel::from_word);
        level.unwrap_or(LogLevel::Info)
    }

    fn log_format(&mut self) -> LogFormat {
        let format = self.choice("log_format", LogFormat::from_word);
        format.unwrap_or(LogFormat::Text)
    }

    /// Rules about more than one setting.
    fn check_together(&mut self, config: &Config) {
        if config.api_key.is_some() && config.api_key_file.is_some() {
            let problem = format!(
                "`api_key` ({}) and `api_key_file` ({}) are both set; keep one of them",
                self.source("api_key"),
                self.source("api_key_file")
            );
            self.problems.push(problem);
        }
        if let (Some(batch), Some(ubatch)) = (config.batch, config.ubatch)
            && ubatch > batch
        {
            let problem = format!(
                "`ubatch` is {ubatch} ({}), more than `batch` with {batch} ({}); it must be at \
                 most as large",
                self.source("ubatch"),
                self.source("batch")
            );
            self.problems.push(problem);
        }
    }

    /// `listen` with what `host` and `port` say, unless it comes from a stronger source.
    fn listen(&mut self) -> SocketAddr {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut address = self
            .with("listen", |_, text| {
                let text = text.replacen("localhost:", "127.0.0.1:", 1);
                text.parse().ok()
            })
            .unwrap_or(anywhere);
        let strength = self.source("listen").strength();
        let host = self.with("host", |_, text| match text {
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            text => text.trim_matches(['[', ']']).parse().ok(),
        });
        if let Some(host) = host.filter(|_| self.source("host").strength() >= strength) {
            address.set_ip(host);
        }
        let port = self
            .number("port")
            .and_then(|port| u16::try_from(port).ok());
        if let Some(port) = port.filter(|_| self.source("port").strength() >= strength) {
            address.set_port(port);
        }
        address
    }

    fn speculation(&mut self) -> Speculation {
        Speculation {
            mode: self.choice("speculation", SpeculationMode::from_word),
            draft_tokens_max: self.count("speculation_draft_tokens_max").unwrap_or(0),
            ngram: self.count("speculation_ngram").unwrap_or(0),
        }
    }

    fn presets(&mut self) -> Vec<Preset> {
        let (presets, problems) = presets::read(self.raw);
        self.problems.extend(problems);
        presets
    }

    fn source(&self, name: &str) -> Source {
        let value = self.raw.values.get(name);
        value.map_or(Source::Default, |value| value.source.clone())
    }

    /// The setting and what was given for it, or its default.
    fn given(&mut self, name: &'static str) -> Option<(&'static Setting, RawValue)> {
        let Some(setting) = setting(name) else {
            self.problems.push(format!("`{name}` is not in the table"));
            return None;
        };
        let value = match (self.raw.values.get(name), setting.default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => RawValue {
                texts: vec![default.to_owned()],
                source: Source::Default,
            },
            (None, None) => return None,
        };
        Some((setting, value))
    }

    fn refuse(&mut self, setting: &Setting, value: &RawValue) {
        let unit = setting.unit.map(|unit| format!(" ({unit})"));
        self.problems.push(format!(
            "{}: `{}` is `{}`; it must be {}{}",
            value.source,
            setting.name,
            shown(setting, &value.texts),
            setting.kind.allowed(),
            unit.unwrap_or_default()
        ));
    }

    fn with<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&Setting, &str) -> Option<T>,
    ) -> Option<T> {
        let (setting, value) = self.given(name)?;
        let parsed = match value.texts.as_slice() {
            [text] => parse(setting, text.trim()),
            _ => None,
        };
        if parsed.is_none() {
            self.refuse(setting, &value);
        }
        parsed
    }

    fn parsed<T: std::str::FromStr>(&mut self, name: &'static str) -> Option<T> {
        self.with(name, |_, text| text.parse().ok())
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        self.with(name, |_, text| (!text.is_empty()).then(|| text.to_owned()))
    }

    fn cpus(&mut self, name: &'static str) -> Option<String> {
        self.with(name, |_, text| {
            let set: hardware::CpuSet = text.parse().ok()?;
            (!set.is_empty()).then(|| set.to_string())
        })
    }

    /// What it names is checked with the model, which has the layers.
    fn kv_plan(&mut self, name: &'static str) -> Option<String> {
        let mut fault = None;
        let text = self.with(name, |_, text| match text.parse::<kv::TypePlan>() {
            Ok(_) => Some(text.to_owned()),
            Err(error) => {
                fault = Some(error);
                None
            }
        });
        // The problem that was just noted is told in full.
        if let (Some(fault), Some(problem)) = (fault, self.problems.last_mut()) {
            problem.push_str(&format!(": {fault}"));
        }
        text
    }

    fn url(&mut self, name: &'static str) -> Option<String> {
        self.with(name, |_, text| {
            let is_http = |scheme| {
                text.strip_prefix(scheme)
                    .is_some_and(|rest| !rest.is_empty())
            };
            (is_http("http://") || is_http("https://")).then(|| text.to_owned())
        })
    }

    fn list(&mut self, name: &'static str) -> Vec<String> {
        let Some((setting, value)) = self.given(name) else {
            return Vec::new();
        };
        if value.texts.iter().any(String::is_empty) {
            self.refuse(setting, &value);
        }
        value.texts
    }

    fn number(&mut self, name: &'static str) -> Option<u64> {
        self.with(name, |setting, text| match setting.kind {
            Kind::Count { min, max } => plain(text).filter(|n| (min..=max).contains(n)),
            Kind::Bytes { min, max } => bytes(text).filter(|n| (min..=max).contains(n)),
            _ => None,
        })
    }

    fn count(&mut self, name: &'static str) -> Option<u32> {
        // No count's upper bound is above what fits; a test holds the table to it.
        self.number(name).and_then(|n| u32::try_from(n).ok())
    }

    fn history_days(&mut self) -> Option<u32> {
        let days = self.count("history_days");
        let is_kept = self.parsed("history").unwrap_or(true);
        days.filter(|_| is_kept)
    }

    fn model_keep_alive(&mut self) -> Option<Duration> {
        Some(self.seconds("model_keep_alive_secs")).filter(|time| !time.is_zero())
    }

    fn prompt_cache(&mut self) -> PromptCache {
        PromptCache {
            disk_max: Bytes(self.number("prompt_cache_disk_max").unwrap_or(0)),
            ram_max: Bytes(self.number("prompt_cache_ram_max").unwrap_or(0)),
            writes_max: Bytes(self.number("prompt_cache_writes_max").unwrap_or(0)),
            dir: self.text("prompt_cache_dir").map(PathBuf::from),
            codec: self
                .with("prompt_cache_codec", |setting, word| match setting.kind {
                    Kind::Choice(words) => words.contains(&word).then(|| word.to_owned()),
                    _ => None,
                })
                .filter(|word| word != "none"),
        }
    }

    fn seconds(&mut self, name: &'static str) -> Duration {
        Duration::from_secs(self.number(name).unwrap_or(0))
    }

    fn choice<T>(&mut self, name: &'static str, of_word: fn(&str) -> Option<T>) -> Option<T> {
        self.with(name, |_, text| of_word(text))
    }
}

/// Digits, with `_` between them as TOML allows.
fn plain(text: &str) -> Option<u64> {
    text.replace('_', "").parse().ok()
}

fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    for (unit, shift) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return plain(number.trim_end())?.checked_mul(1 << shift);
        }
    }
    plain(text)
}
