//! A safe, thin layer over llama.cpp; the only crate that names `llama-cpp-sys-2`.
//!
//! Call [`init`] once, load a [`Model`], open a [`Context`] on it, fill a
//! [`Batch`] and call [`Context::decode`]. Nothing here schedules, samples or
//! knows of requests: that is the engine's work.
//!
//! llama.cpp may end the process on an internal error (`GGML_ABORT`), so this
//! crate is only used inside worker processes.

mod affinity;
mod batch;
mod context;
mod device;
mod ffi;
mod layer_types;
mod log;
mod model;
mod plugin;
mod rounding;
mod stored_rows;
mod threads;

pub use batch::Batch;
pub use context::{
    CacheTypes, Context, ContextError, ContextParams, ContextReport, DecodeError, Extent,
    FlashAttention, Pooling,
};
pub use device::{Device, DeviceKind, devices};
pub use kv::{CacheType, LayerTypes, Types};
pub use layer_types::{LayerReport, can_choose_layer_types};
pub use log::{Level, LogSink};
pub use model::{LoadError, LoadMode, Model, ModelParams, Offload, Token, TokenKind};
pub use rounding::{narrow_f16, round_to, widen_f16};
pub use stored_rows::RowChange;
pub use threads::Placement;

use std::sync::Once;

use llama_cpp_sys_2 as sys;

/// Who multiplies, normalises and attends on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// The crate `ggml-plugin`, and ggml's own for what it does not take.
    #[default]
    Own,
    /// ggml's own.
    Ggml,
}

/// Starts llama.cpp's backends and sends its log to `sink`. Later calls change nothing.
pub fn init(sink: LogSink, kernels: Kernels) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::install(sink);
        // SAFETY: no argument; guarded so that it runs once, before any other call.
        unsafe { sys::llama_backend_init() };
        if kernels == Kernels::Own {
            plugin::register(sink);
        }
    });
}

/// Asks for large pages for the weights that our kernels pack from now on, or no longer.
pub use ggml_plugin::{HugePages, ask_for_huge_pages};

/// The CPU features and back ends that llama.cpp found, as one line; our kernels first.
#[must_use]
pub fn system_info() -> String {
    // SAFETY: returns a pointer to a static, NUL-terminated string.
    let of_ggml = ffi::string(unsafe { sys::llama_print_system_info() });
    match plugin::instruction_set() {
        Some(instructions) => format!("own : {instructions} = 1 | {of_ggml}"),
        None => of_ggml,
    }
}

/// Whether [`Kernels::Own`] multiply weights of the type with that name, for example `Q4_K`.
#[must_use]
pub fn own_kernels_take(type_name: &str) -> bool {
    ggml_plugin::takes(type_name)
}

/// Whether llama.cpp was built with a back end for GPUs.
pub const HAS_GPU_BACK_END: bool = cfg!(any(feature = "vulkan", feature = "cuda"));

/// The version of the llama.cpp that was compiled in.
#[must_use]
pub fn version() -> String {
    // SAFETY: returns a pointer to a static, NUL-terminated string.
    ffi::string(unsafe { sys::llama_version() })
}
