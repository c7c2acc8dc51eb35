//! The interface of ggml that this plugin is compiled against: `ggml-backend-impl.h`,
//! version 3, and what it needs of `ggml.h`.
//!
//! The layouts are asserted here, and compared with the header's in the crate that links
//! llama.cpp. At run time [`host_mismatch`] asks the host for its own numbering of
//! operations and types: a library that llama.cpp loads may meet another release.

use std::ffi::{CStr, c_char, c_int, c_void};

/// `GGML_BACKEND_API_VERSION`.
pub(crate) const API_VERSION: c_int = 3;

pub(crate) const MAX_DIMS: usize = 4;
pub(crate) const MAX_SRC: usize = 10;

/// `GGML_TENSOR_FLAG_OUTPUT`.
pub(crate) const FLAG_OUTPUT: i32 = 2;

/// `GGML_TENSOR_FLAG_COMPUTE`: a graph also lists nodes that this run leaves out.
pub(crate) const FLAG_COMPUTE: i32 = 16;

/// `struct ggml_tensor`.
#[repr(C)]
#[derive(Debug)]
pub struct Tensor {
    pub(crate) kind: i32,
    pub(crate) buffer: *mut Buffer,
    pub(crate) ne: [i64; MAX_DIMS],
    pub(crate) nb: [usize; MAX_DIMS],
    pub(crate) op: i32,
    pub(crate) op_params: [i32; 16],
    pub(crate) flags: i32,
    pub(crate) src: [*mut Tensor; MAX_SRC],
    pub(crate) view_src: *mut Tensor,
    pub(crate) view_offs: usize,
    pub(crate) data: *mut c_void,
    pub(crate) name: [c_char; 64],
    pub(crate) extra: *mut c_void,
    pub(crate) padding: [c_char; 8],
}

/// `sizeof(struct ggml_tensor)`.
pub const TENSOR_BYTES: usize = 336;

const _: () = assert!(size_of::<Tensor>() == TENSOR_BYTES);
const _: () = assert!(std::mem::offset_of!(Tensor, op) == 80);
const _: () = assert!(std::mem::offset_of!(Tensor, src) == 152);
const _: () = assert!(std::mem::offset_of!(Tensor, data) == 248);

/// `struct ggml_cgraph`, whose fields are the host's own.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Graph {
    private: [u8; 0],
}

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident { $($constant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        pub mod $name {
            $(pub const $constant: i32 = $value;)*
            /// Every number with the name that ggml has for it.
            pub(crate) const NAMES: &[(i32, &str)] = &[$(($value, stringify!($constant)),)*];
        }
    };
}

numbers! {
    /// `enum ggml_op`, as far as it is used.
    op {
        NONE = 0, DUP = 1, ADD = 2, SUB = 6, MUL = 7, DIV = 8, SUM_ROWS = 15, CONCAT = 22,
        NORM = 24,
        RMS_NORM = 25, L2_NORM = 28, MUL_MAT = 29, MUL_MAT_ID = 30, SCALE = 32, CPY = 34,
        CONT = 35, RESHAPE = 36, VIEW = 37, PERMUTE = 38, TRANSPOSE = 39, GET_ROWS = 40,
        SET_ROWS = 42, SOFT_MAX = 46, ROPE = 48, CLAMP = 50, ARGSORT = 69,
        FLASH_ATTN_EXT = 74, SSM_CONV = 76, UNARY = 91, GLU = 100,
    }
}

numbers! {
    /// `enum ggml_type`, as far as it is used.
    kind {
        F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12,
        Q5_K = 13, Q6_K = 14, IQ4_NL = 20, I32 = 26, I64 = 27, BF16 = 30,
    }
}

pub(crate) const STATUS_FAILED: c_int = -1;
pub(crate) const STATUS_SUCCESS: c_int = 0;
pub(crate) const STATUS_ABORTED: c_int = 1;

/// `GGML_BACKEND_DEVICE_TYPE_IGPU`.
pub(crate) const DEVICE_INTEGRATED: c_int = 2;

pub(crate) type AbortCallback = Option<unsafe extern "C" fn(*mut c_void) -> bool>;

/// `struct ggml_backend_buffer_type`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct BufferType {
    pub(crate) get_name: extern "C" fn(*mut BufferType) -> *const c_char,
    pub(crate) alloc_buffer: extern "C" fn(*mut BufferType, usize) -> *mut Buffer,
    pub(crate) alloc_buffer_n:
        Option<extern "C" fn(*mut BufferType, *mut *mut Tensor, c_int) -> *mut Buffer>,
    pub(crate) get_alignment: extern "C" fn(*mut BufferType) -> usize,
    pub(crate) get_max_size: Option<extern "C" fn(*mut BufferType) -> usize>,
    pub(crate) get_alloc_size: Option<extern "C" fn(*mut BufferType, *const Tensor) -> usize>,
    pub(crate) get_alloc_size_n:
        Option<extern "C" fn(*mut BufferType, *mut *mut Tensor, c_int) -> usize>,
    pub(crate) is_host: Option<extern "C" fn(*mut BufferType) -> bool>,
    pub(crate) device: *mut Device,
    pub(crate) context: *mut c_void,
}

/// `struct ggml_backend_buffer_i`; functions that are not given here are `None`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferInterface {
    pub(crate) free_buffer: Option<extern "C" fn(*mut Buffer)>,
    pub(crate) get_base: extern "C" fn(*mut Buffer) -> *mut c_void,
    pub(crate) init_tensor: Option<extern "C" fn(*mut Buffer, *mut Tensor) -> c_int>,
    pub(crate) memset_tensor: Option<extern "C" fn(*mut Buffer, *mut Tensor, u8, usize, usize)>,
    pub(crate) set_tensor:
        Option<extern "C" fn(*mut Buffer, *mut Tensor, *const c_void, usize, usize)>,
    pub(crate) get_tensor:
        Option<extern "C" fn(*mut Buffer, *const Tensor, *mut c_void, usize, usize)>,
    pub(crate) set_tensor_2d: Option<extern "C" fn()>,
    pub(crate) get_tensor_2d: Option<extern "C" fn()>,
    pub(crate) cpy_tensor: Option<extern "C" fn(*mut Buffer, *const Tensor, *mut Tensor) -> bool>,
    pub(crate) clear: Option<extern "C" fn(*mut Buffer, u8)>,
    pub(crate) reset: Option<extern "C" fn(*mut Buffer)>,
}

/// `struct ggml_backend_buffer`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) interface: BufferInterface,
    pub(crate) buffer_type: *mut BufferType,
    pub(crate) context: *mut c_void,
    pub(crate) size: usize,
    pub(crate) usage: c_int,
}

/// `struct ggml_backend`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) guid: *const [u8; 16],
    pub(crate) get_name: extern "C" fn(*mut Backend) -> *const c_char,
    pub(crate) free: extern "C" fn(*mut Backend),
    /// `set_tensor_async` to `graph_plan_compute`: ten functions that are optional.
    pub(crate) unused: [Option<extern "C" fn()>; 10],
    pub(crate) graph_compute: extern "C" fn(*mut Backend, *mut Graph) -> c_int,
    /// `event_record`, `event_wait`, `graph_optimize`.
    pub(crate) unused_events: [Option<extern "C" fn()>; 3],
    pub(crate) device: *mut Device,
    pub(crate) context: *mut c_void,
}

/// `struct ggml_backend_dev_props`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct DeviceProperties {
    pub(crate) name: *const c_char,
    pub(crate) description: *const c_char,
    pub(crate) memory_free: usize,
    pub(crate) memory_total: usize,
    pub(crate) kind: c_int,
    pub(crate) device_id: *const c_char,
    /// `async`, `host_buffer`, `buffer_from_host_ptr`, `events`, `mmap_support`.
    pub(crate) capabilities: [bool; 5],
}

/// `struct ggml_backend_device`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) get_name: extern "C" fn(*mut Device) -> *const c_char,
    pub(crate) get_description: extern "C" fn(*mut Device) -> *const c_char,
    pub(crate) get_memory: extern "C" fn(*mut Device, *mut usize, *mut usize),
    pub(crate) get_type: extern "C" fn(*mut Device) -> c_int,
    pub(crate) get_properties: extern "C" fn(*mut Device, *mut DeviceProperties),
    pub(crate) init_backend: extern "C" fn(*mut Device, *const c_char) -> *mut Backend,
    pub(crate) get_buffer_type: extern "C" fn(*mut Device) -> *mut BufferType,
    pub(crate) get_host_buffer_type: Option<extern "C" fn()>,
    pub(crate) buffer_from_host_ptr: Option<extern "C" fn()>,
    pub(crate) supports_op: extern "C" fn(*mut Device, *const Tensor) -> bool,
    pub(crate) supports_buffer_type: extern "C" fn(*mut Device, *mut BufferType) -> bool,
    pub(crate) offload_op: Option<extern "C" fn()>,
    /// `event_new`, `event_free`, `event_synchronize`.
    pub(crate) unused_events: [Option<extern "C" fn()>; 3],
    pub(crate) registry: *mut Registry,
    pub(crate) context: *mut c_void,
}

/// `struct ggml_backend_reg`.
#[repr(C)]
#[derive(Debug)]
pub struct Registry {
    pub(crate) api_version: c_int,
    pub(crate) get_name: extern "C" fn(*mut Registry) -> *const c_char,
    pub(crate) get_device_count: extern "C" fn(*mut Registry) -> usize,
    pub(crate) get_device: extern "C" fn(*mut Registry, usize) -> *mut Device,
    pub(crate) get_proc_address: extern "C" fn(*mut Registry, *const c_char) -> *mut c_void,
    pub(crate) context: *mut c_void,
}

const _: () = assert!(size_of::<BufferType>() == 10 * 8);
const _: () = assert!(size_of::<BufferInterface>() == 11 * 8);
const _: () = assert!(size_of::<Buffer>() == 15 * 8);
const _: () = assert!(size_of::<Backend>() == 19 * 8);
const _: () = assert!(size_of::<DeviceProperties>() == 7 * 8);
const _: () = assert!(size_of::<Device>() == 17 * 8);
const _: () = assert!(size_of::<Registry>() == 6 * 8);

// SAFETY (of the declarations): as in ggml.h and ggml-backend-impl.h of the host.
unsafe extern "C" {
    pub(crate) fn ggml_backend_buffer_init(
        buffer_type: *mut BufferType,
        interface: BufferInterface,
        context: *mut c_void,
        size: usize,
    ) -> *mut Buffer;
    pub(crate) fn ggml_backend_tensor_alloc(
        buffer: *mut Buffer,
        tensor: *mut Tensor,
        address: *mut c_void,
    ) -> c_int;
    pub(crate) fn ggml_backend_view_init(tensor: *mut Tensor) -> c_int;
    pub(crate) fn ggml_graph_n_nodes(graph: *mut Graph) -> c_int;
    pub(crate) fn ggml_graph_node(graph: *mut Graph, index: c_int) -> *mut Tensor;
    pub(crate) fn ggml_nbytes(tensor: *const Tensor) -> usize;
    fn ggml_op_name(op: c_int) -> *const c_char;
    fn ggml_type_name(kind: c_int) -> *const c_char;
    fn ggml_tensor_overhead() -> usize;
}

/// What the host calls differently than this library was compiled for, if anything.
pub(crate) fn host_mismatch() -> Option<String> {
    /// `sizeof(struct ggml_object)`, which the host adds to a tensor.
    const OBJECT_BYTES: usize = 32;
    let differs = |given: *const c_char, expected: &str| {
        // SAFETY: the host returns NUL-terminated strings that live for ever.
        let given = (!given.is_null()).then(|| unsafe { CStr::from_ptr(given) });
        given.is_none_or(|given| !given.to_bytes().eq_ignore_ascii_case(expected.as_bytes()))
    };
    // SAFETY: functions of plain numbers.
    unsafe {
        if ggml_tensor_overhead() != TENSOR_BYTES + OBJECT_BYTES {
            return Some(format!(
                "a tensor has {} bytes",
                ggml_tensor_overhead() - OBJECT_BYTES
            ));
        }
        let op = op::NAMES
            .iter()
            .find(|(number, name)| differs(ggml_op_name(*number), name));
        if let Some((number, name)) = op {
            return Some(format!("operation {number} is not {name}"));
        }
        let kind = kind::NAMES
            .iter()
            .find(|(number, name)| differs(ggml_type_name(*number), name));
        kind.map(|(number, name)| format!("type {number} is not {name}"))
    }
}
