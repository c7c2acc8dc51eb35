//! On which cores a model computes.

use engine::Placement;
use hardware::{CpuSet, DefaultCores};
use proto::{LoadFailure, LoadFailureKind, LoadSpec};

/// What was asked for, else the machine's own plan: as many threads as it has cores to
/// compute on, and the big ones where there are little ones too.
///
/// # Errors
/// When CPUs are asked for that are none, or that this process may not use.
pub(crate) fn choose(spec: &LoadSpec, cores: &DefaultCores) -> Result<Placement, LoadFailure> {
    let asked = parse("cpus", spec.cpus.as_deref(), cores)?;
    let asked_batch = parse("cpus_batch", spec.cpus_batch.as_deref(), cores)?;
    let count = |set: &Option<CpuSet>| {
        let set = set.as_ref()?;
        u32::try_from(set.len()).ok()
    };
    let threads = spec.threads.or(count(&asked)).unwrap_or(cores.threads);
    let threads_batch = spec
        .threads_batch
        .or(count(&asked_batch))
        .unwrap_or(threads);
    // Who asks for more threads than there are big cores wants the little ones too.
    let big = |threads: u32| {
        let cpus = cores.cpus.as_ref();
        cpus.filter(|cpus| cpus.len() >= threads as usize).cloned()
    };
    let (cpus, cpus_batch) = match (asked, asked_batch) {
        (None, None) => (big(threads), big(threads_batch)),
        (Some(cpus), None) => (Some(cpus.clone()), Some(cpus)),
        (None, Some(batch)) => (big(threads), Some(batch)),
        both => both,
    };
    let numbers = |set: Option<CpuSet>| set.map_or(Vec::new(), |set| set.iter().collect());
    Ok(Placement {
        threads,
        threads_batch,
        cpus: numbers(cpus),
        cpus_batch: numbers(cpus_batch),
    })
}

/// The same for a model that is loaded; its texts were made by `sextant` itself.
pub(crate) fn of_message(message: &proto::Placement) -> Placement {
    let numbers = |text: &str| {
        let set: CpuSet = text.parse().unwrap_or_default();
        set.iter().collect()
    };
    Placement {
        threads: message.threads.max(1),
        threads_batch: message.threads_batch.max(1),
        cpus: numbers(&message.cpus),
        cpus_batch: numbers(&message.cpus_batch),
    }
}

/// CPUs as they are written.
pub(crate) fn set(cpus: &[u32]) -> String {
    cpus.iter().copied().collect::<CpuSet>().to_string()
}

fn parse(
    name: &str,
    text: Option<&str>,
    cores: &DefaultCores,
) -> Result<Option<CpuSet>, LoadFailure> {
    let Some(text) = text else {
        return Ok(None);
    };
    let failure = |message: String| LoadFailure {
        kind: LoadFailureKind::Setting,
        message,
    };
    let set: CpuSet = text
        .parse()
        .map_err(|error| failure(format!("{name} is `{text}`: {error}")))?;
    if set.is_empty() {
        return Err(failure(format!("{name} is empty; it must name a CPU")));
    }
    let usable = &cores.usable;
    let denied = set.without(usable);
    if !usable.is_empty() && !denied.is_empty() {
        return Err(failure(format!(
            "{name} is `{text}`, and this process may not use {denied}; it may use {usable}"
        )));
    }
    Ok(Some(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(big: Option<&str>) -> DefaultCores {
        DefaultCores {
            threads: 4,
            cpus: big.map(|text| text.parse().unwrap()),
            usable: "0-7".parse().unwrap(),
        }
    }

    fn told(spec: &LoadSpec, big: Option<&str>) -> String {
        match choose(spec, &cores(big)) {
            Ok(placement) => format!(
                "{}@{} {}@{}",
                placement.threads,
                set(&placement.cpus),
                placement.threads_batch,
                set(&placement.cpus_batch)
            ),
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn big_cores_are_the_default_and_what_is_asked_for_goes_before() {
        let spec = |threads, threads_batch, cpus: &str, cpus_batch: &str| LoadSpec {
            threads,
            threads_batch,
            cpus: Some(cpus.to_owned()).filter(|text| !text.is_empty()),
            cpus_batch: Some(cpus_batch.to_owned()).filter(|text| !text.is_empty()),
            ..LoadSpec::default()
        };
        let hybrid = Some("4-7");
        let cases = [
            (spec(None, None, "", ""), hybrid, "4@4-7 4@4-7"),
            (spec(None, None, "", ""), None, "4@ 4@"),
            (spec(Some(2), None, "", ""), hybrid, "2@4-7 2@4-7"),
            (spec(None, Some(8), "", ""), hybrid, "4@4-7 8@"),
            (spec(None, None, "0-1", ""), hybrid, "2@0-1 2@0-1"),
            (spec(Some(1), None, "6", "4-7"), hybrid, "1@6 4@4-7"),
            (spec(None, None, "", "0-3"), None, "4@ 4@0-3"),
            (
                spec(None, None, "6-9", ""),
                None,
                "cpus is `6-9`, and this process may not use 8-9; it may use 0-7",
            ),
        ];
        for (spec, big, want) in cases {
            assert_eq!(told(&spec, big), want);
        }
    }
}
