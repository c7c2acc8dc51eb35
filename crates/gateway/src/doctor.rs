//! The seam between HTTP and whoever looks at this machine.
//!
//! The gateway reads no file, device or table of the kernel itself: routes see only
//! [`Doctor`]. The real one is the command line's, tests use a scripted one.

use doctor::Finding;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::LoadSpec;

/// Looks for what is wrong. What blocks must not run on the thread that polls.
pub trait Doctor: std::fmt::Debug + Send + Sync + 'static {
    /// Looks at the settings, at what is around the program, at the machine and, where one is
    /// named, at a model. Changes nothing. The error says in a sentence why nothing is known.
    fn examine(&self, complaint: Complaint) -> BoxFuture<'_, Result<Checkup, String>>;

    /// What is found about a model whose load has failed with `message`: faults and warnings.
    fn of_failed_load(&self, spec: LoadSpec, message: String) -> BoxFuture<'_, Vec<Finding>>;

    /// What the machine is, in short; `None` where nobody knows.
    fn sketch(&self) -> BoxFuture<'_, Option<MachineSketch>> {
        std::future::ready(None).boxed()
    }
}

/// A machine in short.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineSketch {
    /// The board or the computer, where it has a name.
    pub name: Option<String>,
    pub processor: String,
    pub cores: usize,
    /// Threads that a model computes with.
    pub threads: u32,
    pub memory_bytes: Option<u64>,
    /// What is free now.
    pub memory_available_bytes: Option<u64>,
    /// What models may take of it.
    pub memory_for_models_bytes: Option<u64>,
    pub gpus: Vec<String>,
    pub npus: Vec<String>,
    /// Where models are kept.
    pub models_folder: Option<String>,
    /// Bytes a second in billions, as measured; `None`: nobody has measured yet.
    pub gb_per_second: Option<f64>,
}

/// What is to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Complaint {
    /// A model's name, or the path of its file.
    pub model: Option<String>,
    pub reading: Reading,
    pub asking: Asking,
}

/// How much of a model's files is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reading {
    #[default]
    Headers,
    /// All of it, for its checksum: as long as the disk takes.
    Whole,
}

/// Whether other machines are asked anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Asking {
    #[default]
    Nobody,
    /// The providers of the configuration.
    Providers,
}

/// What was found, and where it was looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkup {
    /// By class, in each the more severe first.
    pub findings: Vec<Finding>,
    pub looked_at: Vec<String>,
    /// What was not, and why.
    pub not_looked_at: Vec<(String, String)>,
}
