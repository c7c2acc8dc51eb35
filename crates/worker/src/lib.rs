//! One process, one model: hosts an engine behind a Unix socket.
//!
//! The supervisor starts `sextant worker --socket PATH`; [`main`] connects, says
//! hello, loads what it is told to and serves jobs until the socket closes or it is
//! told to drain. A crash in here is an ordinary event for the supervisor.
//!
//! ```text
//! socket -> serve (async) -> prepare (blocking pool: template, tokens, grammar)
//!                         -> engine thread (one pass after another)
//! socket <- serve         <- events (text parsed into deltas on the engine thread)
//! ```
//!
//! **API boundary**: this crate translates between `proto` and the engine's types;
//! nothing above it sees a token scheduler, nothing below it a wire message.

mod answer;
mod calibrate;
mod compare;
mod engine_thread;
mod fingerprint;
mod landed;
mod load;
mod parking;
mod place;
mod prefixes;
mod prepare;
mod serve;
mod stream;
mod types;

use std::path::Path;

use anyhow::Context;
use tokio::net::UnixStream;

pub use calibrate::{BUDGETS_MAX, calibrate};
pub use compare::{PIECE_TOKENS_MIN, PLANS_MAX, Trial, compare};
pub use engine::CONTEXT_MIN;
pub use load::{
    CONTEXT_DEFAULT_MAX, Counts, HAS_GPU_BACK_END, LlamaLoader, Loaded, Loader, allow_huge_pages,
    build, devices, kernels_of,
};
pub use prefixes::prompt_cache_bytes;
pub use serve::{ServeError, serve};
pub use stream::stream;
pub use types::types_asked;

/// Runs a worker until its socket closes. llama.cpp's log goes to standard error,
/// which the supervisor keeps the end of.
pub fn main(socket: &Path) -> anyhow::Result<()> {
    die_with_parent();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Preparing requests must not take the cores from the engine.
        .max_blocking_threads(2)
        .build()
        .context("could not start the worker's event loop")?;
    runtime.block_on(async {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("could not connect to {}", socket.display()))?;
        serve(stream, LlamaLoader).await?;
        Ok(())
    })
}

/// Asks the kernel to end this process when the supervisor's ends, however it does.
fn die_with_parent() {
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
    {
        tracing::warn!(%error, "the worker may outlive its supervisor");
    }
}

fn log_line(level: llama::Level, line: &str) {
    match level {
        llama::Level::Error => tracing::error!(target: "llama.cpp", "{line}"),
        llama::Level::Warn => tracing::warn!(target: "llama.cpp", "{line}"),
        llama::Level::Info => tracing::info!(target: "llama.cpp", "{line}"),
        llama::Level::Debug => tracing::debug!(target: "llama.cpp", "{line}"),
    }
    load::note_log_line(line);
}
