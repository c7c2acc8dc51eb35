//! Who looks at this machine for the history of figures.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use config::Config;
use gateway::{HistoryKeeper, Pulse};
use hardware::{Root, Vitals, VitalsAsk, Watcher};
use store::History;

use crate::database;

/// Looks again and again, and remembers what the difference is taken to.
#[derive(Debug, Default)]
struct Machine(Mutex<Watcher>);

impl Pulse for Machine {
    fn look(&self, ask: VitalsAsk<'_>) -> Vitals {
        let mut watcher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watcher.look(&Root::live(), ask)
    }
}

/// The history, where one is wanted and there is a place for it. Nothing is opened yet: a file
/// that cannot be used keeps no endpoint from starting.
pub(super) fn history(config: &Config) -> Option<HistoryKeeper> {
    let days = config.history_days?;
    Some(keeper(&database::folder(config)?, days))
}

fn keeper(folder: &Path, days: u32) -> HistoryKeeper {
    HistoryKeeper::new(History::new(folder, days), Arc::new(Machine::default()))
}
