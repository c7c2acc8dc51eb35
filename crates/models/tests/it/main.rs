//! Tests at the crate's edges: hostile bytes, and downloads from a server that
//! misbehaves.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may fail a test like the tests themselves"
)]

mod gguf_properties;
mod headers;
mod pull;
mod pull_faults;
mod pull_kill;
mod pull_packages;
mod server;
