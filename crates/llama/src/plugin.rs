//! Our own kernels as a back end of ggml.

use crate::log::{Level, LogSink};
use ggml_plugin::abi;
use llama_cpp_sys_2 as sys;
use std::sync::atomic::{AtomicBool, Ordering};

static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Offers `ggml-plugin` to ggml, before its own back end for CPUs. Where it refuses, the
/// model still runs, on ggml's kernels, and the log says why.
pub(crate) fn register(sink: LogSink) {
    match ggml_plugin::registry() {
        Ok(registry) => {
            // SAFETY: the registry is a static of the version that ggml checks for.
            unsafe { sys::ggml_backend_register(registry.cast()) };
            REGISTERED.store(true, Ordering::Relaxed);
        }
        Err(refusal) => sink(
            Level::Error,
            &format!("ggml's kernels compute alone: {refusal}"),
        ),
    }
}

/// Whether models that are loaded from now on use our kernels.
pub(crate) fn is_registered() -> bool {
    REGISTERED.load(Ordering::Relaxed)
}

/// The instructions that our kernels use; `None` where ggml's compute alone.
pub(crate) fn instruction_set() -> Option<&'static str> {
    is_registered().then(ggml_plugin::instruction_set)
}

/// `ggml-plugin` writes ggml's structures down by hand; these are the header's.
const LAYOUT: () = {
    assert!(size_of::<sys::ggml_tensor>() == abi::TENSOR_BYTES);
    assert!(sys::GGML_OP_MUL_MAT == abi::op::MUL_MAT.cast_unsigned());
    assert!(sys::GGML_OP_GLU == abi::op::GLU.cast_unsigned());
};
const _: () = LAYOUT;
