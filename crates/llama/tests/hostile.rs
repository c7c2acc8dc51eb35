//! Operations that no graph should hold: shapes, strides, types and places that do not fit.
//! The plugin declines them, or computes them within the memory that the tensors own: each
//! tensor ends at a page that nobody may touch.

#![expect(clippy::unwrap_used, reason = "a test")]

use llama_cpp_sys_2 as sys;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;

/// Operations that are tried, half of them broken somewhere.
const CASES: u64 = 40_000;

/// A tensor that would be larger is asked about but not computed with.
const BYTES_MAX: usize = 1 << 20;

const PAGE: usize = 4096;

/// Numbers that look random and are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn small(&mut self) -> i64 {
        self.one_of(&[1, 1, 2, 3, 5, 16, 17])
    }
}

const FLOATS: [sys::ggml_type; 3] = [sys::GGML_TYPE_F32, sys::GGML_TYPE_F16, sys::GGML_TYPE_BF16];

const QUANTISED: [sys::ggml_type; 10] = [
    sys::GGML_TYPE_Q4_0,
    sys::GGML_TYPE_Q4_1,
    sys::GGML_TYPE_Q5_0,
    sys::GGML_TYPE_Q5_1,
    sys::GGML_TYPE_Q8_0,
    sys::GGML_TYPE_IQ4_NL,
    sys::GGML_TYPE_Q4_K,
    sys::GGML_TYPE_Q5_K,
    sys::GGML_TYPE_Q6_K,
    // One that the plugin does not know.
    sys::GGML_TYPE_Q2_K,
];

/// A context of ggml's, with room for one operation.
struct Bench {
    context: *mut sys::ggml_context,
}

impl Bench {
    fn new() -> Self {
        let params = sys::ggml_init_params {
            mem_size: 1 << 20,
            mem_buffer: ptr::null_mut(),
            no_alloc: true,
        };
        // SAFETY: plain parameters.
        let context = unsafe { sys::ggml_init(params) };
        assert!(!context.is_null());
        Self { context }
    }

    fn tensor(&self, kind: sys::ggml_type, shape: [i64; 4]) -> *mut sys::ggml_tensor {
        let [n0, n1, n2, n3] = shape;
        // SAFETY: the context is alive and large enough.
        unsafe { sys::ggml_new_tensor_4d(self.context, kind, n0, n1, n2, n3) }
    }

    fn floats(&self, shape: [i64; 4]) -> *mut sys::ggml_tensor {
        self.tensor(sys::GGML_TYPE_F32, shape)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: freed once.
        unsafe { sys::ggml_free(self.context) };
    }
}

/// A sound operation: the node, with its sources.
fn operation(bench: &Bench, random: &mut Random) -> *mut sys::ggml_tensor {
    let [a, b, c, d] = [(); 4].map(|()| random.small());
    let k = 256 * random.one_of(&[1, 1, 2]);
    let shape = [random.one_of(&[1, 7, 64, 100]), a, b, c];
    let numbers = |shape| bench.tensor(sys::GGML_TYPE_I32, shape);
    let any = |random: &mut Random| match random.below(2) {
        0 => random.one_of(&FLOATS),
        _ => random.one_of(&QUANTISED),
    };
    let (op, result, sources) = match random.below(16) {
        0 | 1 => {
            let weights = bench.tensor(any(random), [k, a, b, 1]);
            let columns = bench.floats([k, c, b * d, 1]);
            let result = bench.floats([a, c, b * d, 1]);
            (sys::GGML_OP_MUL_MAT, result, vec![weights, columns])
        }
        2 | 3 => {
            let weights = bench.tensor(any(random), [k, a, b, 1]);
            let columns = bench.floats([k, 1, d, 1]);
            let result = bench.floats([a, c, d, 1]);
            let ids = numbers([c, d, 1, 1]);
            (sys::GGML_OP_MUL_MAT_ID, result, vec![weights, columns, ids])
        }
        4 => {
            let table = bench.tensor(any(random), [k, a, b, 1]);
            let result = bench.floats([k, c, b, 1]);
            let ids = numbers([c, b, 1, 1]);
            (sys::GGML_OP_GET_ROWS, result, vec![table, ids])
        }
        5 => {
            let table = bench.tensor(any(random), [k, a, b, 1]);
            let rows = bench.floats([k, c, b, 1]);
            let ids = random.one_of(&[sys::GGML_TYPE_I32, sys::GGML_TYPE_I64]);
            let ids = bench.tensor(ids, [c, b, 1, 1]);
            // The result is the table itself.
            // SAFETY: tensors of a context that is alive.
            let result = unsafe { sys::ggml_view_tensor(bench.context, table) };
            (sys::GGML_OP_SET_ROWS, result, vec![rows, ids, table])
        }
        6 => {
            let op = random.one_of(&[
                sys::GGML_OP_ADD,
                sys::GGML_OP_SUB,
                sys::GGML_OP_MUL,
                sys::GGML_OP_DIV,
            ]);
            let second = bench.floats([random.one_of(&[1, shape[0]]), 1, b, 1]);
            (op, bench.floats(shape), vec![bench.floats(shape), second])
        }
        7 => {
            let op = random.one_of(&[
                sys::GGML_OP_RMS_NORM,
                sys::GGML_OP_NORM,
                sys::GGML_OP_L2_NORM,
                sys::GGML_OP_SCALE,
                sys::GGML_OP_CLAMP,
                sys::GGML_OP_UNARY,
            ]);
            (op, bench.floats(shape), vec![bench.floats(shape)])
        }
        8 => {
            let second = random.below(2) == 0;
            let width = if second { shape[0] } else { 2 * shape[0] };
            let source = || bench.floats([width, a, b, c]);
            let sources = match second {
                true => vec![source(), source()],
                false => vec![source()],
            };
            (sys::GGML_OP_GLU, bench.floats(shape), sources)
        }
        9 => {
            let mask = bench.tensor(random.one_of(&FLOATS), [shape[0], a, 1, 1]);
            let sources = vec![bench.floats(shape), mask, bench.floats([b, 1, 1, 1])];
            let keep = 1 + random.below(3);
            let sources = sources.into_iter().take(keep).collect();
            (sys::GGML_OP_SOFT_MAX, bench.floats(shape), sources)
        }
        10 => {
            let [from, to] = [(); 2].map(|()| random.one_of(&FLOATS));
            let op = random.one_of(&[sys::GGML_OP_CPY, sys::GGML_OP_CONT, sys::GGML_OP_DUP]);
            (op, bench.tensor(to, shape), vec![bench.tensor(from, shape)])
        }
        11 => {
            let head = random.one_of(&[2, 64, 80]);
            let shape = [head, a, b, 1];
            let sources = vec![
                bench.floats(shape),
                numbers([b, 1, 1, 1]),
                bench.floats([head / 2, 1, 1, 1]),
            ];
            let keep = 2 + random.below(2);
            let sources = sources.into_iter().take(keep).collect();
            (sys::GGML_OP_ROPE, bench.floats(shape), sources)
        }
        12 => {
            let head = random.one_of(&[32, 64, 80]);
            let [heads, cells, positions] = [a * b, 16 * c, d];
            let kind = random.one_of(&[sys::GGML_TYPE_F16, sys::GGML_TYPE_Q8_0]);
            let cache = || bench.tensor(kind, [head / 32 * 32, cells, a, 1]);
            let queries = bench.floats([head / 32 * 32, positions, heads, 1]);
            let mask = bench.tensor(sys::GGML_TYPE_F16, [cells, positions, 1, 1]);
            let result = bench.floats([head / 32 * 32, heads, positions, 1]);
            let sources = vec![queries, cache(), cache(), mask];
            (sys::GGML_OP_FLASH_ATTN_EXT, result, sources)
        }
        13 => {
            let dimension = random.below(4);
            let mut result = shape;
            result[dimension] += shape[dimension];
            let sources = vec![bench.floats(shape), bench.floats(shape)];
            (sys::GGML_OP_CONCAT, bench.floats(result), sources)
        }
        14 => {
            let source = bench.floats([a + 3, k, b, 1]);
            let weights = bench.floats([4, k, 1, 1]);
            let result = bench.floats([k, a, b, 1]);
            (sys::GGML_OP_SSM_CONV, result, vec![source, weights])
        }
        _ => match random.below(2) {
            0 => {
                let [_, n1, n2, n3] = shape;
                let sum = bench.floats([1, n1, n2, n3]);
                (sys::GGML_OP_SUM_ROWS, sum, vec![bench.floats(shape)])
            }
            _ => (
                sys::GGML_OP_ARGSORT,
                numbers(shape),
                vec![bench.floats(shape)],
            ),
        },
    };
    // SAFETY: tensors of a context that is alive.
    unsafe {
        (*result).op = op;
        for (place, source) in (*result).src.iter_mut().zip(sources) {
            *place = source;
        }
        parameters(op, &mut (*result).op_params, random);
    }
    result
}

/// Parameters of an operation, the usual ones or any.
fn parameters(op: sys::ggml_op, parameters: &mut [i32; 16], random: &mut Random) {
    if random.below(8) == 0 {
        *parameters = [(); 16].map(|()| random.next() as i32);
        return;
    }
    let float = |x: f32| x.to_bits().cast_signed();
    match op {
        sys::GGML_OP_ROPE => {
            parameters[1] = random.one_of(&[2, 64, 80, 3]);
            parameters[2] = random.one_of(&[0, 2]);
            parameters[5] = float(1e4);
            parameters[6] = float(1.0);
            parameters[8] = float(1.0);
        }
        sys::GGML_OP_UNARY | sys::GGML_OP_GLU => parameters[0] = random.below(18) as i32,
        sys::GGML_OP_ARGSORT => parameters[0] = random.below(3) as i32,
        sys::GGML_OP_CONCAT => parameters[0] = random.below(5) as i32,
        _ => parameters[0] = float(0.5),
    }
}

/// Breaks one thing of the node or a source.
fn break_something(bench: &Bench, node: *mut sys::ggml_tensor, random: &mut Random) {
    // SAFETY: tensors of a context that is alive.
    unsafe {
        let sources: Vec<_> = (*node)
            .src
            .iter()
            .copied()
            .filter(|it| !it.is_null())
            .collect();
        let mut all = sources.clone();
        all.push(node);
        let victim = &mut *random.one_of(&all);
        let dimension = random.below(4);
        match random.below(8) {
            0 => victim.ne[dimension] = random.one_of(&[0, 1, 2, 3, 31, 33, 1 << 40, -1]),
            1 => {
                victim.nb[dimension] =
                    victim.nb[dimension].wrapping_add(random.one_of(&[1, 2, 4, 64]))
            }
            2 => victim.nb[dimension] = random.one_of(&[0, 1, 2, 4, 34, 1 << 45, usize::MAX]),
            3 => victim.type_ = random.one_of(&FLOATS),
            4 => victim.type_ = random.one_of(&QUANTISED),
            5 => {
                let place = random.below(4);
                (*node).src[place] = ptr::null_mut();
            }
            // ggml has no views of views.
            6 if !ptr::eq((*node).view_src, victim) => {
                // A view that starts anywhere, of a tensor like it.
                let root = bench.tensor(victim.type_, victim.ne.map(|n| n.clamp(1, 512)));
                victim.view_src = root;
                victim.view_offs = random.one_of(&[1, 2, 3, 4, 18, 64]);
            }
            _ => {
                if let [first, ..] = sources[..]
                    && (*first).view_src.is_null()
                {
                    (*node).view_src = first;
                    (*node).view_offs = random.one_of(&[0, 4, 64]);
                }
            }
        }
    }
}

/// Memory of zeros that ends where nobody may read or write.
struct Guarded {
    start: *mut c_void,
    bytes: usize,
    /// Where the tensor lies: it ends with the last line before the guard.
    place: *mut c_void,
}

impl Guarded {
    fn new(needed: usize) -> Self {
        let needed = needed.next_multiple_of(64);
        let usable = needed.next_multiple_of(PAGE).max(PAGE);
        let bytes = usable + PAGE;
        // SAFETY: new memory; the guard is its last page.
        unsafe {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            let start = mmap_anonymous(ptr::null_mut(), bytes, prot, MapFlags::PRIVATE).unwrap();
            mprotect(start.byte_add(usable), PAGE, MprotectFlags::empty()).unwrap();
            let place = start.byte_add(usable - needed);
            Self {
                start,
                bytes,
                place,
            }
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { munmap(self.start, self.bytes).unwrap() };
    }
}

/// Gives every tensor its memory; `None` where one is too large.
fn allocate(node: *mut sys::ggml_tensor) -> Option<Vec<Guarded>> {
    // SAFETY: tensors of a context that is alive.
    unsafe {
        let mut needed: BTreeMap<*mut sys::ggml_tensor, usize> = BTreeMap::new();
        let all: Vec<_> = (*node)
            .src
            .iter()
            .copied()
            .chain([node])
            .filter(|it| !it.is_null())
            .collect();
        for &tensor in &all {
            let root = if (*tensor).view_src.is_null() {
                tensor
            } else {
                (*tensor).view_src
            };
            let end = sys::ggml_nbytes(tensor).checked_add((*tensor).view_offs)?;
            if end > BYTES_MAX || sys::ggml_nbytes(root) > BYTES_MAX {
                return None;
            }
            let bytes = needed.entry(root).or_default();
            *bytes = end.max(sys::ggml_nbytes(root)).max(*bytes);
        }
        let mut memory = Vec::new();
        for (root, bytes) in needed {
            let guarded = Guarded::new(bytes);
            (*root).data = guarded.place;
            memory.push(guarded);
        }
        for tensor in all {
            if !(*tensor).view_src.is_null() {
                (*tensor).data = (*(*tensor).view_src).data.byte_add((*tensor).view_offs);
            }
        }
        Some(memory)
    }
}

fn description(node: *mut sys::ggml_tensor) -> String {
    // SAFETY: tensors of a context that is alive.
    unsafe {
        let mut text = format!("operation {} {:?}", (*node).op, (*node).op_params);
        for tensor in [node].iter().chain(&(*node).src).filter(|it| !it.is_null()) {
            let tensor = &**tensor;
            let (kind, place) = (tensor.type_, tensor.view_offs);
            text += &format!("; type {kind} {:?} {:?} at {place}", tensor.ne, tensor.nb);
        }
        text
    }
}

/// What became of the cases of an operation.
#[derive(Debug, Default)]
struct Counts {
    declined: u64,
    computed: u64,
}

#[test]
fn what_does_not_fit_is_declined_or_stays_within_its_memory() {
    llama::init(|_, _| {}, llama::Kernels::Own);
    // SAFETY: the name is a string of C; the device lives as long as the process.
    let (device, backend) = unsafe {
        let device = sys::ggml_backend_dev_by_name(c"Sextant".as_ptr());
        assert!(!device.is_null(), "the plugin is registered");
        (device, sys::ggml_backend_dev_init(device, ptr::null()))
    };
    let mut counts: BTreeMap<sys::ggml_op, Counts> = BTreeMap::new();
    for case in 0..CASES {
        let mut random = Random(case << 20);
        let bench = Bench::new();
        let node = operation(&bench, &mut random);
        for _ in 0..random.below(3) {
            break_something(&bench, node, &mut random);
        }
        // SAFETY: the node is of a context that is alive.
        let (op, supported) =
            unsafe { ((*node).op, sys::ggml_backend_dev_supports_op(device, node)) };
        let counts = counts.entry(op).or_default();
        let memory = if supported { allocate(node) } else { None };
        if memory.is_none() {
            counts.declined += 1;
            continue;
        }
        // Shown when the test fails, by a signal too.
        eprintln!("case {case}: {}", description(node));
        // SAFETY: every tensor has its memory.
        let status = unsafe {
            // Computing, as a graph that ggml builds has it.
            (*node).flags |= 16;
            let graph = sys::ggml_new_graph_custom(bench.context, 16, false);
            sys::ggml_graph_add_node(graph, node);
            sys::ggml_backend_graph_compute(backend, graph)
        };
        assert_eq!(
            status,
            sys::GGML_STATUS_SUCCESS,
            "case {case}, operation {op}"
        );
        counts.computed += 1;
    }
    // SAFETY: made above.
    unsafe { sys::ggml_backend_free(backend) };
    for (op, counts) in counts {
        let Counts { declined, computed } = counts;
        assert!(declined > 0 && computed > 0, "operation {op}: {counts:?}");
    }
}
