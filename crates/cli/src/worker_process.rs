//! `sextant worker`: the process that hosts one model. Started by the supervisor.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::outcome::Outcome;
use crate::output;

pub(crate) fn run(matches: &clap::ArgMatches) -> Outcome {
    crate::logging::start_in_worker();
    if matches.get_flag("devices") {
        let devices = serde_json::to_value(worker::devices())?;
        return Ok(output::json(&devices)?);
    }
    if matches.get_flag("compare") {
        return crate::kv_plans::answer_compare();
    }
    if matches.get_flag("calibrate") {
        return crate::kv_plans::answer_calibrate();
    }
    if matches.get_flag("stream") {
        return crate::kv_plans::answer_stream();
    }
    // A terminal sends Ctrl-C to every process of its group, and a service manager
    // SIGTERM to all of a service. What they mean is the supervisor's to decide: it
    // drains this worker, or closes the socket, which ends it.
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let socket = matches.get_one::<PathBuf>("socket");
    let socket = socket.ok_or_else(|| anyhow::anyhow!("--socket is missing"))?;
    worker::main(socket)?;
    Ok(())
}
