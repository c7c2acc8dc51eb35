//! Providers and rules that change while requests run.
//!
//! A request keeps the rules that it came under; the next one comes under the new ones. What
//! cannot be used changes nothing, and is shown with its reason until it is mended.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::runtime::Handle;
use utoipa::ToSchema;

use crate::{AppState, Routing};

/// Where providers and rules are read from.
pub trait RoutingSource: Debug + Send + Sync {
    /// Reads them as they are now. Blocks.
    ///
    /// # Errors
    /// Where (file and line) and why they cannot be used.
    fn read(&self) -> Result<Routing, String>;
}

/// What a reload changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reloaded {
    /// Providers that are new, or are another engine now.
    pub added: Vec<String>,
    /// Providers that are gone, or are another engine now.
    pub removed: Vec<String>,
}

/// The configuration in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct RoutingStatus {
    /// When it was read, seconds since 1970.
    loaded: u64,
    /// How often it was replaced since the start.
    reloads: u64,
    /// Why the file as it is now cannot be used; what was read before stays in force.
    error: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Reloads {
    /// Held while the source is read: one reload at a time.
    turn: Mutex<()>,
    status: Mutex<RoutingStatus>,
}

impl Reloads {
    pub(crate) fn new(now: u64) -> Self {
        let status = RoutingStatus {
            loaded: now,
            ..RoutingStatus::default()
        };
        Self {
            turn: Mutex::default(),
            status: Mutex::new(status),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RoutingStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> RoutingStatus {
        self.lock().clone()
    }
}

impl AppState {
    /// Reads providers and rules again and puts them in force. Requests that run are not
    /// touched. Needs a runtime; blocks while the source is read.
    ///
    /// # Errors
    /// Why the source cannot be used; nothing has changed then.
    pub fn reload(&self, source: &dyn RoutingSource) -> Result<Reloaded, String> {
        let turn = &self.reloads().turn;
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let routing = match source.read() {
            Ok(routing) => routing,
            Err(error) => {
                tracing::error!(error, "the configuration cannot be used; the old one stays");
                self.reloads().lock().error = Some(error.clone());
                return Err(error);
            }
        };
        let old = self.dispatch();
        // Those who look after new providers outlive the lane that asked.
        let _entered = self.runtime().map(Handle::enter);
        let new = Arc::new(old.renewed(routing));
        let reloaded = Reloaded {
            added: new.others_than(&old),
            removed: old.others_than(&new),
        };
        self.replace_dispatch(new);
        let mut status = self.reloads().lock();
        *status = RoutingStatus {
            loaded: self.stamps().now(),
            reloads: status.reloads + 1,
            error: None,
        };
        drop(status);
        let (added, removed) = (&reloaded.added, &reloaded.removed);
        tracing::info!(?added, ?removed, "the configuration was read again");
        self.mark_reload(&reloaded);
        Ok(reloaded)
    }

    /// Ends the engines that we run and waits until they are gone; for the end of the process.
    pub async fn close_providers(&self) {
        self.dispatch().close().await;
    }
}
