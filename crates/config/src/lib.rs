//! One settings table, three sources, one typed result.
//!
//! [`SETTINGS`] is the only list of settings. From it come the flags of `serve`
//! ([`augment`]), the environment names, the TOML keys and the reference page
//! ([`reference_markdown`]). [`RawConfig::gather`] collects what the user said (a
//! flag wins over the environment, the environment over the file), and
//! [`RawConfig::resolve`] turns it into a checked [`Config`] or says every problem
//! at once, each with its source, value and allowed range.

mod append;
mod flags;
mod fleet;
mod presets;
mod raw;
mod reference;
mod resolve;
mod routes;
mod settings;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use thiserror::Error;

pub use append::{NewProvider, with_providers};
pub use flags::augment;
pub use fleet::{
    Amount, FleetTables, ModelTable, PriceTable, ProviderTable, RoutingTable, RuleTable, SecretText,
};
pub use presets::Preset;
pub use raw::{Effective, RawConfig, Source, file_to_read, file_to_write};
pub use reference::reference_markdown;
pub use resolve::{
    CacheType, Config, FlashAttention, Kernels, LogFormat, LogLevel, PromptCache, ResponsesIn,
    Speculation, SpeculationMode,
};
pub use routes::{NewRoute, RouteChange, routes_of, with_routes};
pub use settings::{Group, Kind, SETTINGS, Setting, setting};

/// What is wrong with the configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Every value or key that cannot be used, one sentence each.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
    /// A file that a setting names, or the configuration file itself.
    #[error("{what} `{}` cannot be read: {error}", path.display())]
    Unreadable {
        what: &'static str,
        path: PathBuf,
        error: std::io::Error,
    },
}
