//! A back end of ggml for CPUs, with [`kernels`] as its arithmetic.
//!
//! Two products of one code: [`registry`] is linked into the worker, and the shared
//! library of this crate is loaded by any llama.cpp with back ends in libraries when
//! `GGML_BACKEND_PATH` names it. Either way ggml sees one device that computes in the
//! host's memory: where no GPU is, llama.cpp puts the layers on it. Weights of the types it
//! can pack come to it, and it takes each operation that it can compute exactly
//! ([`support`]). What it declines, the CPU back end does, in the same memory.
//!
//! | module | what |
//! |---|---|
//! | `abi` | ggml's structures, and whether the host has the same |
//! | `buffer` | memory, and packing of weights |
//! | `device` | what ggml asks: names, support, back ends |
//! | `support` | which operations are taken |
//! | `graph` | from a graph to steps, and running them |
//! | `ops` | the steps |
//! | `pool` | threads |

pub mod abi;
mod buffer;
mod device;
mod graph;
mod guard;
mod ops;
mod pool;
mod support;
mod tensor;

pub use buffer::ask_for_huge_pages;
pub use device::{Refusal, registry};
pub use kernels::memory::HugePages;

/// Whether weights of the type with that name are packed and multiplied here.
#[must_use]
pub fn takes(type_name: &str) -> bool {
    kernels::matmul::WeightType::from_name(type_name).is_some()
}

/// The name of the instruction set that the kernels use.
#[must_use]
pub fn instruction_set() -> &'static str {
    device::isa().map_or("none", |isa| isa.level().name())
}

/// Where the device is, to tell it from others.
#[must_use]
pub fn device_address() -> *mut std::ffi::c_void {
    device::device().cast()
}

/// What ggml looks for in a library that it loads.
///
/// Returns null, and says why on stderr, when the host's ggml is of another kind than the
/// one this was compiled for.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_init() -> *mut abi::Registry {
    match registry() {
        Ok(registry) => registry,
        Err(refusal) => {
            #[expect(
                clippy::print_stderr,
                reason = "a library in a foreign process has no log"
            )]
            {
                eprintln!("sextant: {refusal}");
            }
            std::ptr::null_mut()
        }
    }
}
