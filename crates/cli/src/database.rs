//! Where the database is, and opening it with the command line's words.

use std::path::PathBuf;

use config::Config;
use store::Store;

use crate::models_here;
use crate::outcome::{Code, Outcome, WithCode, fault};

/// The folder of the database: the setting, else ours in the user's data directory; `None`
/// where there is no such directory.
pub(crate) fn folder(config: &Config) -> Option<PathBuf> {
    let default = || Some(models_here::environment(config).data_dir()?.join("sextant"));
    config.data_dir.clone().or_else(default)
}

/// The database, begun where there is none. `None` where there is no place for one.
pub(crate) fn open_if_any(config: &Config) -> Outcome<Option<Store>> {
    let folder = folder(config);
    let store = folder.map(|folder| Store::open(&folder));
    store.transpose().code(Code::Failure)
}

/// The database, begun where there is none.
pub(crate) fn open(config: &Config) -> Outcome<Store> {
    open_if_any(config)?.ok_or_else(no_place)
}

/// The database of a server that has run here.
pub(crate) fn open_existing(config: &Config) -> Outcome<Option<Store>> {
    let folder = folder(config).ok_or_else(no_place)?;
    Store::open_existing(&folder).code(Code::Failure)
}

pub(crate) fn no_place() -> crate::outcome::Fault {
    let message =
        "there is no home directory to keep the database in; name a folder with `--data-dir`";
    fault(Code::Usage, message)
}
