//! Whether a model fits, what it will take, and how fast it will be, before it is loaded.
//!
//! [`Model::read`] takes a model's header, [`answer`] plans it against memory: one [`Ledger`]
//! of named terms, and what follows from it as data ([`Answer`]). [`predict`] gives bands of
//! speed for a [`Machine`]; which engine and settings suit so many users is in [`advise`]. Caches are exact (`kv`), buffers of the computation are fitted to
//! measurements; `docs/planner.md` has the formulas, their sources and their errors. Nothing
//! here does input or output.

pub mod advise;
mod answer;
mod buffers;
mod device;
mod ledger;
mod measured;
mod model;
pub mod preset;
mod roofline;
mod setup;
mod weights;

pub use answer::{
    Answer, Available, Change, DeviceMemory, Fit, Layers, Open, Placed, SLOTS_MAX, TypeChoice,
    answer, context_sparing, placements, sparing,
};
pub use buffers::Buffers;
pub use device::{DEVICES, Device, Vendor, device_named, unmeasured};
pub use ledger::{Basis, Kind, Ledger, Others, Place, Term};
pub use measured::{KernelRate, PROMPT, Rates, predict_measured};
pub use model::{Model, ModelError, Role, Tensor};
pub use roofline::{Band, Class, Machine, Source, Speed, predict};
pub use setup::{Compute, Loading, Purpose, Setup};
pub use weights::Weights;
