//! The registry, its one device, and back ends on it.

use crate::abi::{
    self, AbortCallback, Backend, BufferType, Device, DeviceProperties, Registry, Tensor,
};
use crate::graph::Engine;
use crate::guard::guard;
use crate::{buffer, support};
use kernels::Isa;
use kernels::isa::Level;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::OnceLock;

/// Names the instruction set that the kernels use instead of the machine's best; for tests.
const ISA_VARIABLE: &str = "GGML_SEXTANT_ISA";

/// Why the back end is not offered.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The host's ggml differs in this.
    Host(String),
    /// `GGML_SEXTANT_ISA` names a set of instructions that does not exist.
    UnknownIsa(String),
    /// `GGML_SEXTANT_ISA` names one that this machine does not have.
    UnavailableIsa(Level),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(difference) => write!(
                f,
                "this back end was built for another release of ggml: {difference}"
            ),
            Self::UnknownIsa(name) => {
                let names = Level::ALL.map(Level::name).join(", ");
                write!(f, "{ISA_VARIABLE} is {name:?}; it must be one of {names}")
            }
            Self::UnavailableIsa(level) => {
                let names: Vec<_> = Isa::available().map(|isa| isa.level().name()).collect();
                let (name, names) = (level.name(), names.join(", "));
                write!(f, "{ISA_VARIABLE} is {name}, but this machine has {names}")
            }
        }
    }
}

impl std::error::Error for Refusal {}

struct Static<T>(T);

// SAFETY: nothing in it is written after it was made.
unsafe impl<T> Sync for Static<T> {}

static REGISTRY: Static<Registry> = Static(Registry {
    api_version: abi::API_VERSION,
    get_name: registry_name,
    get_device_count: device_count,
    get_device: device_at,
    get_proc_address: proc_address,
    context: ptr::null_mut(),
});

static DEVICE: Static<Device> = Static(Device {
    get_name: device_name,
    get_description: device_description,
    get_memory: device_memory,
    get_type: device_type,
    get_properties: device_properties,
    init_backend,
    get_buffer_type: device_buffer_type,
    get_host_buffer_type: None,
    buffer_from_host_ptr: None,
    supports_op,
    supports_buffer_type,
    offload_op: None,
    unused_events: [None; 3],
    registry: (&raw const REGISTRY.0).cast_mut(),
    context: ptr::null_mut(),
});

static GUID: [u8; 16] = *b"sextant-kernels1";

/// The registry to give to `ggml_backend_register`; it lives for ever.
///
/// # Errors
/// When the host numbers operations or types otherwise, or has other tensors; when the
/// environment asks for instructions that cannot be had.
pub fn registry() -> Result<*mut Registry, Refusal> {
    if let Some(difference) = abi::host_mismatch() {
        return Err(Refusal::Host(difference));
    }
    isa()?;
    Ok((&raw const REGISTRY.0).cast_mut())
}

/// The instruction set of this process: the environment's choice, else the best.
pub(crate) fn isa() -> Result<Isa, Refusal> {
    static ISA: OnceLock<Result<Isa, Refusal>> = OnceLock::new();
    let choose = || {
        let Some(name) = std::env::var_os(ISA_VARIABLE) else {
            return Ok(Isa::best());
        };
        let name = name.to_string_lossy();
        let level = Level::from_name(&name);
        let level = level.ok_or_else(|| Refusal::UnknownIsa(name.into_owned()))?;
        Isa::detect(level).ok_or(Refusal::UnavailableIsa(level))
    };
    ISA.get_or_init(choose).clone()
}

pub(crate) const fn device() -> *mut Device {
    (&raw const DEVICE.0).cast_mut()
}

extern "C" fn registry_name(_: *mut Registry) -> *const c_char {
    c"Sextant".as_ptr()
}

extern "C" fn device_count(_: *mut Registry) -> usize {
    1
}

extern "C" fn device_at(_: *mut Registry, _: usize) -> *mut Device {
    device()
}

extern "C" fn proc_address(_: *mut Registry, name: *const c_char) -> *mut c_void {
    // SAFETY: ggml gives a NUL-terminated string.
    let name = unsafe { CStr::from_ptr(name) };
    if name == c"ggml_backend_set_n_threads" {
        return set_threads as *mut c_void;
    }
    if name == c"ggml_backend_set_abort_callback" {
        return set_abort_callback as *mut c_void;
    }
    ptr::null_mut()
}

extern "C" fn device_name(_: *mut Device) -> *const c_char {
    c"Sextant".as_ptr()
}

extern "C" fn device_description(_: *mut Device) -> *const c_char {
    match isa().map(Isa::level) {
        Ok(Level::Avx512Vnni) => c"CPU kernels, avx512-vnni".as_ptr(),
        Ok(Level::Avx2) => c"CPU kernels, avx2".as_ptr(),
        Ok(Level::NeonI8mm) => c"CPU kernels, neon-i8mm".as_ptr(),
        Ok(Level::NeonDotprod) => c"CPU kernels, neon-dotprod".as_ptr(),
        Ok(Level::Neon) => c"CPU kernels, neon".as_ptr(),
        Ok(Level::Scalar) => c"CPU kernels, scalar".as_ptr(),
        // Nothing was registered then.
        Err(_) => c"CPU kernels".as_ptr(),
    }
}

/// The host's memory: what is available of it, and all. A GPU that reports none makes
/// llama.cpp's `--fit` divide by zero.
extern "C" fn device_memory(_: *mut Device, free: *mut usize, total: *mut usize) {
    let [available, all] = host_memory();
    // SAFETY: ggml gives two places to write to.
    unsafe {
        *free = available;
        *total = all;
    }
}

/// `MemAvailable` and `MemTotal`, bytes; 0 where the system does not say.
fn host_memory() -> [usize; 2] {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    ["MemAvailable:", "MemTotal:"].map(|name| {
        let mut lines = text.lines();
        let kib = lines.find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        let kib = kib.and_then(|kib| kib.parse::<usize>().ok());
        kib.map_or(0, |kib| kib.saturating_mul(1024))
    })
}

/// "Integrated GPU": a device that computes in the host's memory, and that llama.cpp puts
/// all layers on where there is no GPU. As `ACCEL` it would get operations too, but not the
/// layers: llama.cpp would then give every norm to the CPU, which cuts a graph in sixty,
/// and refuse flash attention by itself.
extern "C" fn device_type(_: *mut Device) -> c_int {
    abi::DEVICE_INTEGRATED
}

extern "C" fn device_properties(device: *mut Device, properties: *mut DeviceProperties) {
    let [memory_free, memory_total] = host_memory();
    let filled = DeviceProperties {
        name: device_name(device),
        description: device_description(device),
        memory_free,
        memory_total,
        kind: abi::DEVICE_INTEGRATED,
        device_id: ptr::null(),
        capabilities: [false, false, false, false, true],
    };
    // SAFETY: ggml gives a place to write to.
    unsafe { properties.write(filled) };
}

extern "C" fn device_buffer_type(_: *mut Device) -> *mut BufferType {
    buffer::host()
}

extern "C" fn supports_op(_: *mut Device, tensor: *const Tensor) -> bool {
    // SAFETY: ggml gives a tensor whose sources are alive.
    guard(false, || support::supports(unsafe { &*tensor }))
}

extern "C" fn supports_buffer_type(_: *mut Device, buffer_type: *mut BufferType) -> bool {
    if buffer_type == buffer::host() || buffer_type == buffer::packed() {
        return true;
    }
    // SAFETY: ggml gives a buffer type; its functions may be called with it.
    unsafe {
        (*buffer_type)
            .is_host
            .is_some_and(|is_host| is_host(buffer_type))
    }
}

extern "C" fn init_backend(device: *mut Device, _: *const c_char) -> *mut Backend {
    guard(ptr::null_mut(), || {
        let Ok(isa) = isa() else {
            return ptr::null_mut();
        };
        let engine = Box::into_raw(Box::new(Engine::new(isa)));
        Box::into_raw(Box::new(Backend {
            guid: &raw const GUID,
            get_name: backend_name,
            free: free_backend,
            unused: [None; 10],
            graph_compute,
            unused_events: [None; 3],
            device,
            context: engine.cast(),
        }))
    })
}

extern "C" fn backend_name(_: *mut Backend) -> *const c_char {
    c"Sextant".as_ptr()
}

extern "C" fn free_backend(backend: *mut Backend) {
    guard((), || {
        // SAFETY: both were made by `init_backend`; ggml frees a back end once.
        unsafe {
            let backend = Box::from_raw(backend);
            drop(Box::from_raw(backend.context.cast::<Engine>()));
        }
    });
}

/// The engine of a back end.
///
/// # Safety
/// The back end must be ours, and used by one thread at a time, as ggml does.
unsafe fn engine<'a>(backend: *mut Backend) -> &'a mut Engine {
    // SAFETY: the caller's promise; made by `init_backend`.
    unsafe { &mut *(*backend).context.cast::<Engine>() }
}

extern "C" fn graph_compute(backend: *mut Backend, graph: *mut abi::Graph) -> c_int {
    // SAFETY: ggml gives a back end of ours and a graph whose tensors are allocated.
    guard(abi::STATUS_FAILED, || unsafe {
        engine(backend).compute(graph)
    })
}

extern "C" fn set_threads(backend: *mut Backend, threads: c_int) {
    // SAFETY: ggml gives a back end of ours.
    guard((), || unsafe {
        engine(backend).set_threads(usize::try_from(threads).unwrap_or(1))
    });
}

extern "C" fn set_abort_callback(
    backend: *mut Backend,
    callback: AbortCallback,
    context: *mut c_void,
) {
    // SAFETY: ggml gives a back end of ours.
    guard((), || unsafe {
        engine(backend).set_abort_callback(callback, context)
    });
}
