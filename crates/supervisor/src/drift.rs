//! What a model was expected to take, next to what its process holds.

use stdx::Bytes;

use crate::MemoryCost;

/// A difference beyond this is worth a warning, percent of what was expected.
const DRIFT_PERCENT_MAX: f64 = 5.0;

/// Memory of a model that was just loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// As the engine says; 0 where it does not.
    pub(crate) kv_bytes: u64,
    /// Resident memory of its process.
    pub(crate) resident_bytes: u64,
    /// On a GPU, as the engine says; 0 where there is none.
    pub(crate) device_bytes: u64,
}

/// The term that is off by more than [`DRIFT_PERCENT_MAX`], if one is.
fn drifted(planned: &MemoryCost, held: Held) -> Option<(&'static str, u64, u64)> {
    let is_off = |planned: u64, seen: u64| {
        let difference = planned.abs_diff(seen) as f64;
        difference * 100.0 > planned as f64 * DRIFT_PERCENT_MAX
    };
    let terms = [
        ("keys and values", planned.kv_bytes, held.kv_bytes),
        (
            "resident memory",
            planned.resident_bytes,
            held.resident_bytes,
        ),
        ("memory of the GPU", planned.device_bytes, held.device_bytes),
    ];
    let mut told = terms.into_iter().filter(|(_, _, seen)| *seen > 0);
    told.find(|(_, planned, seen)| is_off(*planned, *seen))
}

/// Logs both, and warns where they drift apart.
pub(crate) fn log(model: &str, planned: &MemoryCost, held: Held) {
    tracing::info!(
        model,
        planned = %Bytes(planned.resident_bytes),
        held = %Bytes(held.resident_bytes),
        "memory"
    );
    if planned.device_bytes.max(held.device_bytes) > 0 {
        tracing::info!(
            model,
            planned = %Bytes(planned.device_bytes),
            held = %Bytes(held.device_bytes),
            "memory of the GPU"
        );
    }
    if let Some((term, planned, held)) = drifted(planned, held) {
        tracing::warn!(
            model,
            term,
            planned = %Bytes(planned),
            held = %Bytes(held),
            "memory is off its plan by more than {DRIFT_PERCENT_MAX} %"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_term_that_is_off_is_named() {
        let planned = MemoryCost {
            kv_bytes: 100,
            resident_bytes: 1000,
            device_bytes: 500,
            ..MemoryCost::default()
        };
        let term = |kv_bytes, resident_bytes| {
            let held = Held {
                kv_bytes,
                resident_bytes,
                device_bytes: 0,
            };
            drifted(&planned, held).map(|(term, _, _)| term)
        };
        assert_eq!(term(100, 1000), None);
        assert_eq!(term(105, 950), None);
        assert_eq!(term(106, 1000), Some("keys and values"));
        assert_eq!(term(94, 2000), Some("keys and values"));
        assert_eq!(term(100, 1051), Some("resident memory"));
        assert_eq!(term(0, 949), Some("resident memory"));
        let on_gpu = |device_bytes| {
            let held = Held {
                kv_bytes: 100,
                resident_bytes: 1000,
                device_bytes,
            };
            drifted(&planned, held).map(|(term, _, _)| term)
        };
        assert_eq!(on_gpu(525), None);
        assert_eq!(on_gpu(526), Some("memory of the GPU"));
    }
}
