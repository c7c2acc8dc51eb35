//! Two back ends of the plugin at once, with fewer and more threads than there are cores and
//! with one core for both: every graph ends, with the same bits.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use llama_cpp_sys_2 as sys;
use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::mpsc;
use std::time::Duration;

/// Layers of a graph: each two products of one source, with floats and with codes of 8 bits,
/// their sum and a norm.
const LAYERS: usize = 40;
const WIDTH: i64 = 96;
/// Rounded by each thread for itself, or once for all; a tile, and more than one.
const COLUMNS: [i64; 3] = [1, 4, 13];
const THREADS: [i32; 8] = [1, 2, 3, 5, 8, 17, 48, 70];

/// A graph with its memory, on a back end of its own.
struct Machine {
    context: *mut sys::ggml_context,
    backend: sys::ggml_backend_t,
    graph: *mut sys::ggml_cgraph,
    result: *mut sys::ggml_tensor,
}

impl Machine {
    fn new(columns: i64) -> Self {
        let params = sys::ggml_init_params {
            mem_size: 4 << 20,
            mem_buffer: ptr::null_mut(),
            no_alloc: false,
        };
        // SAFETY: tensors are used while their context lives; each has as many floats as its
        // shape says.
        unsafe {
            let context = sys::ggml_init(params);
            let fill = |tensor: *mut sys::ggml_tensor, seed: usize| {
                let count = usize::try_from(sys::ggml_nelements(tensor)).unwrap();
                let floats = std::slice::from_raw_parts_mut((*tensor).data.cast::<f32>(), count);
                for (place, float) in floats.iter_mut().enumerate() {
                    *float = ((place * 31 + seed * 17) % 23) as f32 / 11.0 - 1.0;
                }
                tensor
            };
            let float = sys::GGML_TYPE_F32;
            let new = |columns| sys::ggml_new_tensor_2d(context, float, WIDTH, columns);
            let mut result = fill(new(columns), 1);
            let weights = fill(new(WIDTH), 2);
            let codes = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_Q8_0, WIDTH, WIDTH);
            sys::ggml_quantize_chunk(
                sys::GGML_TYPE_Q8_0,
                (*weights).data.cast::<f32>(),
                (*codes).data,
                0,
                WIDTH,
                WIDTH,
                ptr::null(),
            );
            for _ in 0..LAYERS {
                let of_floats = sys::ggml_mul_mat(context, weights, result);
                let of_codes = sys::ggml_mul_mat(context, codes, result);
                result = sys::ggml_add(context, of_floats, of_codes);
                result = sys::ggml_rms_norm(context, result, 1e-5);
            }
            let graph = sys::ggml_new_graph(context);
            sys::ggml_build_forward_expand(graph, result);
            let device = sys::ggml_backend_dev_by_name(c"Sextant".as_ptr());
            assert!(!device.is_null(), "the plugin is registered");
            Self {
                context,
                backend: sys::ggml_backend_dev_init(device, ptr::null()),
                graph,
                result,
            }
        }
    }

    fn set_threads(&self, threads: i32) {
        type SetThreads = unsafe extern "C" fn(sys::ggml_backend_t, i32);
        let name: &CStr = c"ggml_backend_set_n_threads";
        // SAFETY: the function that goes by this name in ggml's back ends.
        unsafe {
            let device = sys::ggml_backend_get_device(self.backend);
            let registry = sys::ggml_backend_dev_backend_reg(device);
            let address: *mut c_void =
                sys::ggml_backend_reg_get_proc_address(registry, name.as_ptr());
            assert!(!address.is_null(), "the plugin's threads can be set");
            std::mem::transmute::<*mut c_void, SetThreads>(address)(self.backend, threads);
        }
    }

    /// The bits of the result.
    fn compute(&self) -> Vec<u32> {
        // SAFETY: the graph's tensors have their memory.
        unsafe {
            let status = sys::ggml_backend_graph_compute(self.backend, self.graph);
            assert_eq!(status, sys::GGML_STATUS_SUCCESS);
            let count = usize::try_from(sys::ggml_nelements(self.result)).unwrap();
            let floats = std::slice::from_raw_parts((*self.result).data.cast::<f32>(), count);
            floats.iter().map(|float| float.to_bits()).collect()
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: freed once.
        unsafe {
            sys::ggml_backend_free(self.backend);
            sys::ggml_free(self.context);
        }
    }
}

fn compute_with_all_numbers_of_threads(columns: i64, expected: &[u32]) {
    let machine = Machine::new(columns);
    for threads in THREADS {
        machine.set_threads(threads);
        for _ in 0..4 {
            let computed = machine.compute();
            assert_eq!(computed, expected, "{threads} threads, {columns} columns");
        }
    }
}

fn stay_on_one_core() {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    let mut one = rustix::thread::CpuSet::new();
    one.set(first.expect("a core to run on"));
    rustix::thread::sched_setaffinity(None, &one).unwrap();
}

#[test]
fn graphs_of_two_back_ends_end_with_the_same_bits() {
    llama::init(|_, _| {}, llama::Kernels::Own);
    let (done, all_done) = mpsc::channel();
    for is_on_one_core in [false, false, true, true] {
        let done = done.clone();
        std::thread::spawn(move || {
            if is_on_one_core {
                stay_on_one_core();
            }
            for columns in COLUMNS {
                let expected = Machine::new(columns).compute();
                assert!(expected.iter().any(|bits| f32::from_bits(*bits) != 0.0));
                compute_with_all_numbers_of_threads(columns, &expected);
            }
            done.send(()).unwrap();
        });
    }
    drop(done);
    for _ in 0..4 {
        // Seconds on a slow machine; a deadlock is for ever.
        all_done
            .recv_timeout(Duration::from_mins(5))
            .expect("a thread failed or waits for ever");
    }
}
