//! The HTTP edge: wire dialects, server-sent events, limits, keys, errors, metrics.
//!
//! [`app`] builds the router over a [`Backend`]; [`serve`] runs it. Every dialect is
//! translated to [`proto::Job`] and every answer is folded from [`proto::Event`]s,
//! so nothing below this crate knows a wire format.

mod access;
mod aside;
mod backend;
mod body;
mod bus;
mod chats;
mod dispatch;
mod doctor;
mod edge;
mod error;
mod history;
mod holding;
mod ids;
mod kept;
mod library;
pub mod limits;
mod linger;
mod logs;
mod metrics;
mod names;
mod openapi;
mod reload;
mod routes;
mod serve;
mod settings;
mod stream;
mod tls;
mod ui;
pub mod wire;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub use self::doctor::{Asking, Checkup, Complaint, Doctor, MachineSketch, Reading};
pub use access::{Control, ControlOptions};
pub use backend::{Backend, EventStream};
pub use dispatch::{EMBEDDED, Price, Prices, RoutedProvider, Routing};
pub use error::{ApiError, ErrorCode, ErrorRow, Fault, error_table};
pub use history::{HistoryKeeper, Pulse};
pub use library::{
    FileProgress, Library, LibraryFailure, LibraryFailureKind, PlanAsk, Planned, PullProgressFn,
    StoredModel,
};
pub use logs::{LOG_LINE_BYTES_MAX, LOG_LINES_MAX, LogLine, Logs, PAGE_LOG};
pub use openapi::openapi_json;
pub use reload::{Reloaded, RoutingSource};
pub use serve::serve;
pub use settings::{BindRefused, GatewayConfig, bind_policy};
pub use tls::{Tls, TlsError, TlsFiles};
pub use ui::{PageFile, Pages};

use access::Head;
use bus::Bus;
use chats::Chats;
use dispatch::Dispatch;
use ids::Stamps;
use kept::{Bounds, Own, ResponseStore, Responses};
use library::Pulls;
use metrics::Metrics;
use reload::Reloads;

/// What handlers share; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Arc<dyn Backend>,
    dispatch: ArcSwap<Dispatch>,
    config: GatewayConfig,
    metrics: Arc<Metrics>,
    stamps: Stamps,
    pulls: Pulls,
    request_slots: Arc<Semaphore>,
    responses: Arc<dyn ResponseStore>,
    reloads: Reloads,
    /// `None` without a database.
    chats: Option<Chats>,
    bus: Bus,
    /// Where work goes that outlives its request; requests have threads of their own.
    runtime: Option<Handle>,
    /// Seconds since 1970.
    started: u64,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl AppState {
    /// State over `backend`.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, config: GatewayConfig) -> Self {
        Self::routed(backend, config, Routing::default())
    }

    /// State over `backend` and other engines beside it. Keeps an eye on them, so it needs
    /// a runtime.
    #[must_use]
    pub fn routed(backend: Arc<dyn Backend>, config: GatewayConfig, routing: Routing) -> Self {
        Self::with_stamps(backend, config, routing, Stamps::random())
    }

    fn with_stamps(
        backend: Arc<dyn Backend>,
        config: GatewayConfig,
        routing: Routing,
        stamps: Stamps,
    ) -> Self {
        let dispatch = Dispatch::new(Arc::clone(&backend), routing);
        let shared = Shared {
            dispatch: ArcSwap::from_pointee(dispatch),
            backend,
            metrics: Arc::new(Metrics::new()),
            pulls: Pulls::default(),
            request_slots: Arc::new(Semaphore::new(config.requests_max)),
            reloads: Reloads::new(stamps.now()),
            chats: config
                .control
                .as_ref()
                .map(|control| control.chats().clone()),
            bus: Bus::new(&stamps.id("")),
            runtime: Handle::try_current().ok(),
            responses: match config.control.as_ref().and_then(Control::responses) {
                Some(responses) => Arc::clone(responses) as Arc<dyn ResponseStore>,
                None => Arc::new(Responses::in_memory(Bounds::default())),
            },
            started: stamps.now(),
            stamps,
            config,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn backend(&self) -> &Arc<dyn Backend> {
        &self.shared.backend
    }

    /// The rules in force; a request keeps those that it came under.
    fn dispatch(&self) -> Arc<Dispatch> {
        self.shared.dispatch.load_full()
    }

    fn replace_dispatch(&self, dispatch: Arc<Dispatch>) {
        self.shared.dispatch.store(dispatch);
    }

    fn runtime(&self) -> Option<&Handle> {
        self.shared.runtime.as_ref()
    }

    fn reloads(&self) -> &Reloads {
        &self.shared.reloads
    }

    fn config(&self) -> &GatewayConfig {
        &self.shared.config
    }

    fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    fn stamps(&self) -> &Stamps {
        &self.shared.stamps
    }

    fn pulls(&self) -> &Pulls {
        &self.shared.pulls
    }

    fn request_slots(&self) -> &Arc<Semaphore> {
        &self.shared.request_slots
    }

    /// Chats; an error without a database.
    fn chats(&self) -> Result<&Chats, ApiError> {
        self.shared.chats.as_ref().ok_or_else(|| {
            let message = "This endpoint has no database to keep chats in.";
            ApiError::message(ErrorCode::NoDatabase, message)
        })
    }

    fn bus(&self) -> &Bus {
        &self.shared.bus
    }

    /// The kept responses that a request may see.
    fn responses(&self, head: &Head) -> Arc<dyn ResponseStore> {
        Arc::new(Own {
            store: Arc::clone(&self.shared.responses),
            owner: head.owner().map(str::to_owned),
        })
    }

    fn control(&self) -> Option<&Control> {
        self.shared.config.control.as_ref()
    }

    fn started(&self) -> u64 {
        self.shared.started
    }
}

/// The router with all routes and the checks around them.
pub fn app(state: AppState) -> Router {
    routes::router()
        .layer(axum::middleware::from_fn_with_state(
            state.clone(),
            edge::edge,
        ))
        .with_state(state)
}

#[cfg(test)]
mod tests;
