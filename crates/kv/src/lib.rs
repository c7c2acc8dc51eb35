//! What a model's cache of keys, values and states takes, to the byte.
//!
//! [`Shape::read`] makes of a model's metadata which layers hold what; [`Plan::new`] makes of
//! a shape and the wish for a context ([`Request`]) the caches that llama.cpp will allocate, in
//! the types of a [`TypePlan`];
//! [`losses`] says what that choice costs besides bytes, and [`calibrate`] makes a plan for a
//! budget of what layers were measured to lose. [`state`] takes the states of sequences apart that
//! were filled, and [`parked`] puts them away in fewer bytes; [`turboquant`] is a codec to compare
//! others with. Nothing here does input or output.
//!
//! The source of every formula is the pinned llama.cpp itself (`llama-hparams.cpp`,
//! `llama-kv-cache*.cpp`, `llama-memory-*.cpp`, `llama_model::create_memory`), and its log
//! lines are the test: `crates/planner/tests` loads small models of each family and compares.
//! An architecture whose cache is not derived here is refused by name, never guessed.

mod allocate;
mod cache_type;
pub mod calibrate;
mod chance;
mod family;
mod header;
mod loss;
pub mod parked;
mod plan;
mod rotation;
mod sequences;
mod shape;
pub mod state;
pub mod turboquant;
mod type_plan;

pub use allocate::{AllocateError, Allocation, Candidate, Choice, allocate};
pub use cache_type::{CacheType, UnknownCacheType};
pub use family::ARCHITECTURES;
pub use header::Header;
pub use loss::{Attention, Loss, NoShift, Side, losses};
pub use plan::{Cache, LayerCache, Part, Plan, PlanError, Pool, Request, Types, WindowCells};
pub use rotation::{rotate, rotation};
pub use sequences::{Cut, output_rows, sequences, sequences_least};
pub use shape::{KeysValues, Layer, Shape, ShapeError, State, Window};
pub use type_plan::{LayerTypes, TypePlan, TypePlanError};
