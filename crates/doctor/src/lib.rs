//! What is wrong with a model, a configuration or a machine, and what to do about it.
//!
//! The crate is pure: it reads no file, socket or clock. Others read — `models` a model's
//! files, `hardware` the machine, the command line its surroundings — and what they found is
//! judged here: [`of_model`], [`of_demand`], [`of_machine`], [`of_program`], [`of_place`],
//! [`of_failure`]. Each gives [`Finding`]s, and every one ends in its fix.
//!
//! ```no_run
//! let examination = models::examine("model.gguf".as_ref(), models::examine::Depth::Headers);
//! for finding in doctor::of_model(&examination, &doctor::Wishes::default()) {
//!     println!("{}: {}; {}", finding.code, finding.what, finding.fix);
//! }
//! ```

mod codes;
mod demand;
mod failure;
mod finding;
mod machine;
mod model;
mod place;
mod program;

pub use codes::{CODES, Code, CodeRow, codes_markdown};
pub use demand::{Demand, Gpu, OnGpu, of_cma, of_demand};
pub use failure::of_failure;
pub use finding::{Class, Finding, Severity, in_order};
pub use machine::of_machine;
pub use model::{Templates, Wishes, of_model};
pub use place::{
    CLOCK_OFF_MAX_SECS, Clock, DISK_FREE_MIN, Descriptors, Folder, FolderState, Holder, Place,
    Port, Use, of_place,
};
pub use program::{compiled_features, of_program};
