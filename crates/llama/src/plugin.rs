//! Our own kernels as a back end of ggml.

use ggml_plugin::abi;
use llama_cpp_sys_2 as sys;
use std::sync::atomic::{AtomicBool, Ordering};

static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Offers `ggml-plugin` to ggml, before its own back end for CPUs.
pub(crate) fn register() {
    // The release of llama.cpp is pinned and `LAYOUT` compares at compile time, so a
    // refusal is a mistake of ours; the model still runs, on ggml's kernels.
    if let Ok(registry) = ggml_plugin::registry() {
        // SAFETY: the registry is a static of the version that ggml checks for.
        unsafe { sys::ggml_backend_register(registry.cast()) };
        REGISTERED.store(true, Ordering::Relaxed);
    }
}

/// Whether models that are loaded from now on use our kernels.
pub(crate) fn is_registered() -> bool {
    REGISTERED.load(Ordering::Relaxed)
}

/// `ggml-plugin` writes ggml's structures down by hand; these are the header's.
const LAYOUT: () = {
    assert!(size_of::<sys::ggml_tensor>() == abi::TENSOR_BYTES);
    assert!(sys::GGML_OP_MUL_MAT == abi::op::MUL_MAT.cast_unsigned());
    assert!(sys::GGML_OP_GLU == abi::op::GLU.cast_unsigned());
};
const _: () = LAYOUT;
