//! The planner against the engine: small models of every family are loaded, and what
//! llama.cpp says of its caches must be what was planned.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod architectures;
mod exact;
mod gpu;
mod ledger;
mod published;
mod sized;
mod sparing;
