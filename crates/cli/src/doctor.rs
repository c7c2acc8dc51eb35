//! `sextant doctor`: what is wrong with a model, the configuration and this machine.
//!
//! Here everything is read, and nothing written; `doctor`, the crate, judges.

mod look;
mod ports;
pub(crate) mod report;
mod served;
mod settings;

use std::path::{Path, PathBuf};

use clap::ArgMatches;
use config::Config;
use doctor::{Demand, Finding, Severity, Templates, Wishes};
use gateway::Asking;
use hardware::warning::Context;
use hardware::{Machine, Root};
use models::examine::{Checksum, Depth};
use models::{Environment, Examination, Resolved};
use proto::LoadSpec;
use stdx::Bytes;

use self::report::Report;
use self::served::Serving;
pub(crate) use self::served::{MachineDoctor, sketch};
use crate::gpu::{self, Share};
use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::{hw, load, models_here, output, shelf, tune};

/// What is to be looked at, and for whom.
struct Asked<'a> {
    /// Of the command that runs: they say where the settings come from.
    matches: &'a ArgMatches,
    root: Root,
    model: Option<&'a str>,
    depth: Depth,
    asking: Asking,
    server: Option<&'a Serving>,
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let root = match matches.get_one::<PathBuf>("root") {
        None => Root::live(),
        Some(path) => Root::open(path).code(Code::Usage)?,
    };
    let report = examine(Asked {
        matches,
        root,
        model: matches.get_one::<String>("model").map(String::as_str),
        depth: match matches.get_flag("checksum") {
            true => Depth::Whole,
            false => Depth::Headers,
        },
        asking: match matches.get_flag("network") {
            true => Asking::Providers,
            false => Asking::Nobody,
        },
        server: None,
    })?;
    finish(matches, &report)
}

/// Looks at everything. Blocking.
fn examine(asked: Asked<'_>) -> Outcome<Report> {
    let mut report = Report::default();
    let root = &asked.root;
    let config = settings::read(asked.matches, asked.server, &mut report)?;
    let environment = models_here::environment(&config);
    let machine = Machine::read(root);
    if let Some(name) = asked.model {
        let mut patient = Patient {
            config: &config,
            environment: &environment,
            machine: &machine,
            server: asked.server,
            report: &mut report,
        };
        patient.model(name, asked.depth);
    }
    if root.is_live() {
        settings::names(&config, &environment, &mut report);
        settings::providers(&config, asked.asking, &mut report)?;
    } else {
        report.skip(
            "settings, folders and the database",
            "they are this machine's, and `--root` names another",
        );
    }
    report.add(look::around(root, &config, &environment));
    let folder = hw::models_folder(root, &environment, config.models_dir.as_deref());
    let context = Context {
        threads: config.threads,
        storage: hardware::storage::of_folder(root, &folder),
    };
    report.look("the machine");
    report.add(doctor::of_machine(&machine, &context));
    if root.is_live() {
        let compiled = doctor::compiled_features();
        report.add(doctor::of_program(&compiled, &machine.processor));
    }
    Ok(report.in_order())
}

fn finish(matches: &ArgMatches, report: &Report) -> Outcome {
    if output::wants_json(matches) {
        output::json(&serde_json::to_value(report.as_wire())?)?;
    } else {
        output::piece(&report.as_text())?;
    }
    match report.count(Severity::Fault) {
        0 => Ok(()),
        1 => Err(fault(Code::Faults, "there is a fault; its fix is with it")),
        n => Err(fault(
            Code::Faults,
            format!("there are {n} faults; each has its fix with it"),
        )),
    }
}

/// One model, looked at with everything around it.
struct Patient<'a> {
    config: &'a Config,
    environment: &'a Environment,
    machine: &'a Machine,
    server: Option<&'a Serving>,
    report: &'a mut Report,
}

impl Patient<'_> {
    fn model(&mut self, name: &str, depth: Depth) {
        self.report.look(&format!("the model `{name}`"));
        let (wanted, config) = models_here::with_settings(self.config, name);
        let path = match self.path(wanted) {
            Ok(path) => path,
            Err(finding) => return self.report.add([finding]),
        };
        let examination = models::examine(&path, depth);
        let template = config.read_chat_template().ok().flatten();
        let wishes = Wishes {
            context: config.context,
            template: template.as_deref(),
            templates: Templates::Run,
            chip: chip(self.machine),
        };
        self.report.add(doctor::of_model(&examination, &wishes));
        let is_unread = |one: &(PathBuf, Checksum)| one.1 == Checksum::NotRead;
        if examination.checksums.iter().any(is_unread) {
            self.report
                .skip("its checksum", "`--checksum` reads the whole file");
        }
        if self.server.is_some_and(|server| server.has(&path)) {
            // It would be counted twice.
            return self.report.skip("its memory", "it is loaded here");
        }
        let max = self.config.model_memory_max;
        if let Ok(settings) = load::settings(config) {
            let spec = LoadSpec {
                name: name.to_owned(),
                path: path.clone(),
                ..settings
            };
            let spec = tune::apply(spec, config);
            let gpu = gpu::share(self.config);
            let limits = (max, gpu.as_ref());
            self.report
                .add(of_memory(&spec, &examination, self.machine, limits));
        }
    }

    /// The file that the name means.
    fn path(&self, name: &str) -> Result<PathBuf, Finding> {
        let as_path = Path::new(name);
        // Also what is no model is a patient.
        if as_path.symlink_metadata().is_ok() && !as_path.is_dir() {
            return Ok(as_path.to_owned());
        }
        let unknown = |message: &str| Finding::of_message(doctor::Code::ModelUnknown, message);
        match models::resolve(self.environment, name) {
            Ok(Resolved::Present(found)) => Ok(found.path),
            Ok(Resolved::Pull(source)) => Err(unknown(&format!(
                "`{source}` is not here yet; get it with `sextant pull {source}`"
            ))),
            Err(models::stores::ResolveError::Fault(_)) => Ok(as_path.to_owned()),
            Err(error) => Err(unknown(&error.to_string())),
        }
    }
}

/// The chip of a machine that RKLLM makes files for.
fn chip(machine: &Machine) -> Option<&'static str> {
    let mut platforms = models::rkllm::PLATFORMS.iter().copied();
    platforms.find(|name| machine.surroundings.is_chip(&format!("rockchip,{name}")))
}

/// Whether it fits, loaded as the shelf would load it. `memory_max` is the setting.
fn of_memory(
    spec: &LoadSpec,
    examination: &Examination,
    machine: &Machine,
    (memory_max, gpu): (Option<Bytes>, Option<&Share>),
) -> Vec<Finding> {
    let Ok(facts) = &examination.diagnosis else {
        let bytes = std::fs::metadata(&spec.path).map_or(0, |metadata| metadata.len());
        return doctor::of_cma(examination, machine, Bytes(bytes))
            .into_iter()
            .collect();
    };
    let bytes = memory_max.or_else(|| machine.budget());
    let budget = shelf::Budget {
        host: bytes.map(|bytes| bytes.0),
        gpu: gpu.cloned(),
    };
    let (_, cost) = shelf::planned(spec.clone(), facts, &budget);
    let demand = Demand {
        model: &spec.name,
        weights: Bytes(cost.weights_bytes),
        kv: Bytes(cost.kv_bytes),
        other: Bytes(cost.other_bytes),
        context: cost.context,
        context_max: cost.context_max,
        gpu_layers: spec.gpu_layers,
        gpu: of_gpu(spec, facts, gpu),
        on_card: Bytes(cost.total().saturating_sub(cost.host_bytes())),
        memory_max,
    };
    doctor::of_demand(&demand, machine)
}

/// What of the GPU it would take, with all layers or those that somebody has set.
fn of_gpu<'a>(spec: &LoadSpec, facts: &models::Facts, gpu: Option<&'a Share>) -> doctor::Gpu<'a> {
    let Some(gpu) = gpu else {
        return match worker::HAS_GPU_BACK_END {
            true => doctor::Gpu::NoDevice,
            false => doctor::Gpu::NoBackEnd,
        };
    };
    let with = |gpu_layers: Option<u32>, bytes: u64| {
        let budget = shelf::Budget {
            host: None,
            gpu: Some(Share {
                bytes,
                ..gpu.clone()
            }),
        };
        let spec = LoadSpec {
            gpu_layers,
            ..spec.clone()
        };
        let (placed, cost) = shelf::planned(spec, facts, &budget);
        (placed.gpu.map_or(0, |gpu| gpu.layers), cost.device_bytes)
    };
    let (_, need) = with(spec.gpu_layers, u64::MAX);
    let (layers, _) = with(None, u64::MAX);
    let (fitting, _) = with(None, gpu.bytes);
    doctor::Gpu::Usable(doctor::OnGpu {
        name: &gpu.description,
        room: Bytes(gpu.bytes),
        need: Bytes(need),
        fitting,
        layers,
    })
}

/// What is found about a model whose load has failed, as lines below the error; nothing where
/// nothing is found. Blocking.
pub(crate) fn below_error(spec: &LoadSpec, message: &str) -> String {
    report::lines(&of_failed_load(spec, message))
}

/// Faults and warnings that concern a model whose load has failed with a message. Blocking.
fn of_failed_load(spec: &LoadSpec, message: &str) -> Vec<Finding> {
    let machine = Machine::read(&Root::live());
    let examination = models::examine(&spec.path, Depth::Headers);
    let wishes = Wishes {
        context: spec.context,
        template: None,
        // What a template does with memory ends a worker at most.
        templates: Templates::Skip,
        chip: chip(&machine),
    };
    let mut findings = doctor::of_model(&examination, &wishes);
    let is_known = |findings: &[Finding], code| findings.iter().any(|one| one.code == code);
    for finding in doctor::of_failure(message) {
        if !is_known(&findings, finding.code) {
            findings.push(finding);
        }
    }
    // The supervisor has told of its own limit.
    let gpu = gpu::share_up_to(None);
    findings.extend(of_memory(
        spec,
        &examination,
        &machine,
        (None, gpu.as_ref()),
    ));
    let compiled = doctor::compiled_features();
    findings.extend(doctor::of_program(&compiled, &machine.processor));
    findings.retain(|finding| finding.severity > Severity::Note);
    doctor::in_order(findings)
}
