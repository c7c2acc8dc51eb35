//! What a setting is, and the table of them.

mod table;

pub use table::SETTINGS;

/// One setting: everything the flags, the file, the docs and the form need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The TOML key, in snake_case; the other names derive from it.
    pub name: &'static str,
    pub group: Group,
    /// What it does, in one or two sentences.
    pub doc: &'static str,
    pub kind: Kind,
    /// In the form a user would write it; `None` where leaving it out has a meaning
    /// of its own, told by `unset`.
    pub default: Option<&'static str>,
    /// What happens without a value; empty where there is a default.
    pub unset: &'static str,
    pub unit: Option<&'static str>,
    /// The first version with it.
    pub since: &'static str,
}

/// Where a setting belongs in help and docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Server,
    Models,
    Engine,
    Supervision,
    Log,
}

/// What values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An IP address with a port.
    Address,
    /// An IP address.
    Host,
    Path,
    /// The address of an HTTP server.
    Url,
    /// Text that is never shown.
    Secret,
    /// In TOML an array, elsewhere separated by commas.
    List,
    /// As `List`, on the command line given as arguments instead of a flag.
    Arguments,
    /// A whole number within the bounds, both included.
    Count {
        min: u64,
        max: u64,
    },
    /// As `Count`, also with `KiB`, `MiB` or `GiB` behind it.
    Bytes {
        min: u64,
        max: u64,
    },
    /// Numbers of CPUs, such as `0-3,7`.
    Cpus,
    /// Types of the KV cache by layer.
    KvPlan,
    /// `true` or `false`.
    Switch,
    Choice(&'static [&'static str]),
}

impl Setting {
    /// The flag without its dashes. [`Kind::Arguments`] has none.
    #[must_use]
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The environment variable.
    #[must_use]
    pub fn env(&self) -> String {
        format!("SEXTANT_{}", self.name.to_uppercase())
    }

    /// How the flag is written in a sentence.
    #[must_use]
    pub fn flag_in_words(&self) -> String {
        match self.kind {
            Kind::Arguments => "arguments".into(),
            _ => format!("--{}", self.flag()),
        }
    }
}

impl Group {
    pub const ALL: &'static [Self] = &[
        Self::Server,
        Self::Models,
        Self::Engine,
        Self::Supervision,
        Self::Log,
    ];

    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Models => "Models",
            Self::Engine => "Engine",
            Self::Supervision => "Supervision",
            Self::Log => "Log",
        }
    }
}

impl Kind {
    /// The allowed values, to follow "must be".
    #[must_use]
    pub fn allowed(&self) -> String {
        match self {
            Self::Address => "an IP address with a port, such as 127.0.0.1:11460".into(),
            Self::Host => "an IP address, or localhost".into(),
            Self::Url => "an address that begins with http:// or https://".into(),
            Self::Path => "a path".into(),
            Self::Secret => "a text that is not empty".into(),
            Self::List | Self::Arguments => "a list of texts that are not empty".into(),
            Self::Count { min, max } => format!("a whole number from {min} to {max}"),
            Self::Bytes { min, max } => format!(
                "a number of bytes from {} to {}, such as 16MiB",
                stdx::Bytes(*min),
                stdx::Bytes(*max)
            ),
            Self::Cpus => format!(
                "a list of CPUs such as 0-3,7, each below {}",
                hardware::CPUS_MAX
            ),
            Self::KvPlan => {
                "a plan such as k=q8_0,v=q4_0;k[18,20-23]=f16, a pair of types or first-third"
                    .into()
            }
            Self::Switch => "true or false".into(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }
}

/// The setting of that name.
#[must_use]
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}
