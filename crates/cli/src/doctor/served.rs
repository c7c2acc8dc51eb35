//! The doctor of a running server: what it finds goes over HTTP.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use clap::ArgMatches;
use config::Config;
use doctor::Finding;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway::{Checkup, Complaint, Doctor, MachineSketch, Reading};
use hardware::{Machine, Root};
use models::examine::Depth;
use proto::LoadSpec;
use supervisor::{Fleet, ModelPhase};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::{Asked, examine, of_failed_load};
use crate::{hw, models_here};

/// The server that asks.
pub(super) struct Serving {
    /// What it was started with. The files may say something else by now.
    pub(super) config: Config,
    fleet: Fleet,
}

impl Serving {
    /// Whether a model is in memory.
    pub(super) fn has(&self, path: &Path) -> bool {
        let Ok(path) = std::path::absolute(path) else {
            return false;
        };
        let mut models = self.fleet.models().into_iter();
        models.any(|model| matches!(model.phase, ModelPhase::Ready(_)) && model.spec.path == path)
    }
}

/// Looks at this machine for a server that runs on it.
#[derive(Clone)]
pub(crate) struct MachineDoctor {
    matches: Arc<ArgMatches>,
    serving: Arc<Serving>,
    /// Held by the checkup that runs: they read disks and devices, and one that nobody waits
    /// for any more still goes on.
    one: Arc<Mutex<()>>,
}

impl fmt::Debug for MachineDoctor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineDoctor").finish_non_exhaustive()
    }
}

impl MachineDoctor {
    pub(crate) fn new(matches: &ArgMatches, config: &Config, fleet: &Fleet) -> Self {
        Self {
            matches: Arc::new(matches.clone()),
            serving: Arc::new(Serving {
                config: config.clone(),
                fleet: fleet.clone(),
            }),
            one: Arc::default(),
        }
    }
}

impl Doctor for MachineDoctor {
    fn examine(&self, complaint: Complaint) -> BoxFuture<'_, Result<Checkup, String>> {
        let (matches, serving) = (Arc::clone(&self.matches), Arc::clone(&self.serving));
        async move {
            let turn = Arc::clone(&self.one).lock_owned().await;
            let work = move || {
                let _turn = turn;
                let report = examine(Asked {
                    matches: &matches,
                    root: Root::live(),
                    model: complaint.model.as_deref(),
                    depth: match complaint.reading {
                        Reading::Headers => Depth::Headers,
                        Reading::Whole => Depth::Whole,
                    },
                    asking: complaint.asking,
                    server: Some(&serving),
                });
                report.map(super::Report::into_checkup)
            };
            match spawn_blocking(work).await {
                Ok(checkup) => checkup.map_err(|fault| fault.to_string()),
                // The log has more.
                Err(_) => Err("The checkup failed by a defect.".to_owned()),
            }
        }
        .boxed()
    }

    fn sketch(&self) -> BoxFuture<'_, Option<MachineSketch>> {
        let config = self.serving.config.clone();
        let work = move || sketch(&config);
        spawn_blocking(work).map(Result::ok).boxed()
    }

    fn of_failed_load(&self, spec: LoadSpec, message: String) -> BoxFuture<'_, Vec<Finding>> {
        let work = move || of_failed_load(&spec, &message);
        spawn_blocking(work).map(Result::unwrap_or_default).boxed()
    }
}

/// This machine in short. Reads the kernel's tables; measures nothing.
pub(crate) fn sketch(config: &Config) -> MachineSketch {
    let environment = models_here::environment(config);
    let root = Root::live();
    let kept = hw::kept(&environment);
    let gb_per_second = kept
        .as_ref()
        .and_then(|(_, kept)| kept.best_gb_per_second());
    let machine = kept.map_or_else(|| Machine::read(&root), |(machine, _)| machine);
    let gpus = machine.gpus.iter().map(|gpu| gpu.name.clone());
    let npus = machine.npus.iter().map(|npu| npu.kind.name().to_owned());
    MachineSketch {
        name: machine.surroundings.model.clone(),
        processor: machine.processor.name(),
        cores: machine.processor.n_cores(),
        threads: machine.plan.threads(),
        memory_bytes: machine.memory.total.map(|bytes| bytes.0),
        memory_available_bytes: machine.memory.available.map(|bytes| bytes.0),
        memory_for_models_bytes: machine.budget().map(|bytes| bytes.0),
        gpus: gpus.collect(),
        npus: npus.collect(),
        models_folder: environment
            .own_store()
            .map(|folder| folder.display().to_string()),
        gb_per_second,
    }
}
