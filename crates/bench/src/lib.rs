//! What measurements say: scores, intervals, and whether an answer is right. Pure.
//!
//! A run asks a model the questions of [`quality::suite`], through whatever pipeline is to be
//! measured, and gives each answer to [`quality::Question::grade`]. Rates of right answers come
//! with intervals ([`rates`]), speeds with intervals of their own ([`speeds`]), and two runs are
//! compared by tests that pair them, so that noise is not called a difference. What a stream
//! feels like to the one who waits for it is in [`latency`]. Which run of a sweep over settings
//! comes when, and what its rounds say, is in [`sweep`]; how far a context carries, in [`context`];
//! what models make of tools and repositories, by themselves and through coding agents, in [`agents`].
//! Which model takes which task is in [`derive`], and whether what was measured still tells of what is
//! there in [`stale`]. [`page`] shows all of it.

pub mod agents;
pub mod context;
pub mod derive;
pub mod divergence;
pub mod latency;
pub mod load;
pub mod page;
pub mod quality;
pub mod rates;
pub mod score;
pub mod speeds;
pub mod stale;
pub mod sweep;
