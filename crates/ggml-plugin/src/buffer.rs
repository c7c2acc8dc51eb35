//! Memory: one type of buffer for what a graph computes, one for packed weights.
//!
//! ggml knows one buffer type of a device, [`host`]: plain memory in ggml's own layouts,
//! which the CPU back end can use as well. Tensors that are allocated as a list with
//! weights among them get a buffer of the type [`packed`] instead. It is not host memory to
//! anybody else: a weight of a packable type is kept as panels there (`kernels::matmul`),
//! and is given back in ggml's layout when somebody reads it.
//!
//! A weight is known by its name, which in GGUF ends in `.weight`. The KV cache, which
//! may be of the same types and comes as a list too, has other names. A list may also be a
//! whole graph, and in it an operation that cannot read panels: then the list stays in
//! ggml's layouts.

use crate::abi::{self, Buffer, BufferInterface, BufferType, Tensor, op};
use crate::device;
use crate::guard::guard;
use crate::tensor::weight_type;
use kernels::matmul::{PANEL_ROWS, WeightType, pack_panel, unpack_row};
use kernels::memory::{HugeMemory, HugePages};
use std::ffi::{c_char, c_int, c_void};
use std::ops::Range;
use std::ptr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A cache line, and a vector of AVX-512.
const ALIGNMENT: usize = 64;

/// Bytes of a tensor below which it is packed by one thread.
const PARALLEL_BYTES_MIN: usize = 1 << 20;

/// Wraps a table of functions so that it can be a static. ggml writes to none of them.
struct Table(BufferType);

// SAFETY: nothing in it is written after it was made.
unsafe impl Sync for Table {}

const fn buffer_type(
    get_name: extern "C" fn(*mut BufferType) -> *const c_char,
    alloc_buffer: extern "C" fn(*mut BufferType, usize) -> *mut Buffer,
) -> BufferType {
    BufferType {
        get_name,
        alloc_buffer,
        alloc_buffer_n: None,
        get_alignment: alignment,
        get_max_size: None,
        get_alloc_size: None,
        get_alloc_size_n: None,
        is_host: None,
        device: device::device(),
        context: ptr::null_mut(),
    }
}

static HOST: Table = Table(BufferType {
    alloc_buffer_n: Some(alloc_list),
    get_alloc_size_n: Some(list_size),
    is_host: Some(yes),
    ..buffer_type(host_name, alloc_host)
});

static PACKED: Table = Table(BufferType {
    get_alloc_size: Some(packed_size),
    ..buffer_type(packed_name, alloc_packed)
});

/// The buffer type of the device.
pub(crate) fn host() -> *mut BufferType {
    (&raw const HOST.0).cast_mut()
}

/// The type of the buffers that hold weights.
pub(crate) fn packed() -> *mut BufferType {
    (&raw const PACKED.0).cast_mut()
}

/// A weight that is kept as panels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    pub(crate) weight_type: WeightType,
    pub(crate) k: usize,
    /// Rows of one matrix.
    pub(crate) rows: usize,
    pub(crate) matrices: usize,
    data: *mut u8,
}

impl Packed {
    /// What is kept as panels of a tensor or of what it views; `None` for ggml's layout.
    pub(crate) fn of(tensor: &Tensor) -> Option<Self> {
        let root = tensor.root();
        // SAFETY: a tensor's buffer is null or alive.
        let buffer = unsafe { root.buffer.as_ref() }?;
        if buffer.buffer_type != packed() {
            return None;
        }
        Self::would_be(root)
    }

    /// What would be kept as panels if the tensor came into a buffer of packed weights.
    pub(crate) fn would_be(root: &Tensor) -> Option<Self> {
        let weight_type = weight_type(root.kind).filter(|_| is_weight(root))?;
        let [k, rows, n2, n3] = root.shape();
        let fits = k.is_multiple_of(weight_type.block_len())
            && root.nb[0] == weight_type.block_bytes()
            && root.is_contiguous(weight_type.row_bytes(k));
        let packed = Self {
            weight_type,
            k,
            rows,
            matrices: n2 * n3,
            data: root.data.cast(),
        };
        (fits && !root.is_empty()).then_some(packed)
    }

    pub(crate) fn panel_bytes(&self) -> usize {
        self.weight_type.panel_bytes(self.k)
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    fn bytes(&self) -> usize {
        self.matrices * self.panels() * self.panel_bytes()
    }

    fn row_bytes(&self) -> usize {
        self.weight_type.row_bytes(self.k)
    }

    /// One panel of one matrix.
    ///
    /// # Safety
    /// The tensor's memory must be there, and nobody may write to it meanwhile.
    pub(crate) unsafe fn panel<'a>(&self, matrix: usize, panel: usize) -> &'a [u8] {
        debug_assert!(matrix < self.matrices && panel < self.panels());
        let start = (matrix * self.panels() + panel) * self.panel_bytes();
        // SAFETY: within the tensor's memory, which the caller promises.
        unsafe { std::slice::from_raw_parts(self.data.add(start), self.panel_bytes()) }
    }

    /// Rows of a panel that exist.
    pub(crate) fn panel_rows(&self, panel: usize) -> usize {
        (self.rows - panel * PANEL_ROWS).min(PANEL_ROWS)
    }

    /// Reads bytes of the tensor in ggml's layout.
    fn read(&self, range: Range<usize>, mut put: impl FnMut(&[u8])) {
        let row_bytes = self.row_bytes();
        let mut row = vec![0; row_bytes];
        for index in range.start / row_bytes..range.end.div_ceil(row_bytes) {
            let (matrix, in_matrix) = (index / self.rows, index % self.rows);
            // SAFETY: ggml reads tensors that are allocated, and does not write meanwhile.
            let panel = unsafe { self.panel(matrix, in_matrix / PANEL_ROWS) };
            unpack_row(
                self.weight_type,
                self.k,
                panel,
                in_matrix % PANEL_ROWS,
                &mut row,
            );
            let start = range.start.saturating_sub(index * row_bytes);
            let end = (range.end - index * row_bytes).min(row_bytes);
            put(&row[start..end]);
        }
    }

    /// Writes bytes of the tensor, which come in ggml's layout.
    fn write(&self, offset: usize, bytes: &[u8]) {
        let row_bytes = self.row_bytes();
        let (first, last) = (
            offset / row_bytes,
            (offset + bytes.len()).div_ceil(row_bytes),
        );
        let panels = Panels {
            packed: *self,
            offset,
            bytes,
        };
        let matrices = first / self.rows..last.div_ceil(self.rows);
        let all: Vec<(usize, usize)> = matrices
            .flat_map(|matrix| (0..self.panels()).map(move |panel| (matrix, panel)))
            .filter(|(matrix, panel)| {
                let start = matrix * self.rows + panel * PANEL_ROWS;
                start < last && start + self.panel_rows(*panel) > first
            })
            .collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        if bytes.len() < PARALLEL_BYTES_MIN || threads == 1 {
            all.iter()
                .for_each(|(matrix, panel)| panels.write(*matrix, *panel));
            return;
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((matrix, panel)) = all.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        panels.write(*matrix, *panel);
                    }
                });
            }
        });
    }
}

/// Whether the name is a weight's. Tests of operations, whose tensors have other names, set
/// `GGML_SEXTANT_PACK=all`.
fn is_weight(root: &Tensor) -> bool {
    static ALL: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("GGML_SEXTANT_PACK").is_some_and(|all| all == "all"));
    root.name().ends_with(b".weight") || *ALL
}

/// Bytes on their way into panels.
struct Panels<'a> {
    packed: Packed,
    offset: usize,
    bytes: &'a [u8],
}

// SAFETY: each thread writes panels of its own.
unsafe impl Sync for Panels<'_> {}

impl Panels<'_> {
    /// Writes what of the bytes belongs to one panel.
    fn write(&self, matrix: usize, panel: usize) {
        let packed = &self.packed;
        let row_bytes = packed.row_bytes();
        let rows = packed.panel_rows(panel);
        let start = (matrix * packed.rows + panel * PANEL_ROWS) * row_bytes;
        let end = start + rows * row_bytes;
        let bytes = packed.panel_bytes();
        let place = (matrix * packed.panels() + panel) * bytes;
        // SAFETY: within the tensor's memory; no other thread has this panel.
        let out = unsafe { std::slice::from_raw_parts_mut(packed.data.add(place), bytes) };
        if self.offset <= start && end <= self.offset + self.bytes.len() {
            let source = &self.bytes[start - self.offset..end - self.offset];
            pack_panel(packed.weight_type, packed.k, source, out);
            return;
        }
        // Only a part of the panel comes: the rest keeps what it has.
        let mut source = vec![0; rows * row_bytes];
        for (row, old) in source.chunks_exact_mut(row_bytes).enumerate() {
            unpack_row(packed.weight_type, packed.k, out, row, old);
        }
        let (from, to) = (
            self.offset.max(start),
            end.min(self.offset + self.bytes.len()),
        );
        source[from - start..to - start]
            .copy_from_slice(&self.bytes[from - self.offset..to - self.offset]);
        pack_panel(packed.weight_type, packed.k, &source, out);
    }
}

extern "C" fn yes(_: *mut BufferType) -> bool {
    true
}

extern "C" fn alignment(_: *mut BufferType) -> usize {
    ALIGNMENT
}

extern "C" fn host_name(_: *mut BufferType) -> *const c_char {
    c"Sextant".as_ptr()
}

extern "C" fn packed_name(_: *mut BufferType) -> *const c_char {
    c"Sextant_Packed".as_ptr()
}

extern "C" fn alloc_host(_: *mut BufferType, size: usize) -> *mut Buffer {
    guard(ptr::null_mut(), || allocate(host(), size))
}

extern "C" fn alloc_packed(_: *mut BufferType, size: usize) -> *mut Buffer {
    guard(ptr::null_mut(), || allocate(packed(), size))
}

static HUGE_PAGES: AtomicBool = AtomicBool::new(false);

/// Whether the memory that is allocated from now on is to be in large pages, where the
/// system has them. It must let the process: see `PR_SET_THP_DISABLE`.
pub fn ask_for_huge_pages(ask: HugePages) {
    HUGE_PAGES.store(ask == HugePages::Ask, Ordering::Relaxed);
}

/// Buffers are mapped one by one, past the allocator: it would keep the memory of a cache that
/// was freed, and a cache is freed because memory is short. Pages are aligned to more than
/// [`ALIGNMENT`].
fn allocate(buffer_type: *mut BufferType, size: usize) -> *mut Buffer {
    let pages = match HUGE_PAGES.load(Ordering::Relaxed) {
        true => HugePages::Ask,
        false => HugePages::AsTheSystemDoes,
    };
    let Some(memory) = HugeMemory::new(size, pages) else {
        return ptr::null_mut();
    };
    let memory = memory.into_raw();
    // SAFETY: the functions live as long as the process; ggml owns what it returns.
    unsafe { abi::ggml_backend_buffer_init(buffer_type, INTERFACE, memory.cast(), size) }
}

const INTERFACE: BufferInterface = BufferInterface {
    free_buffer: Some(free_buffer),
    get_base: base,
    init_tensor: None,
    memset_tensor: Some(memset_tensor),
    set_tensor: Some(set_tensor),
    get_tensor: Some(get_tensor),
    set_tensor_2d: None,
    get_tensor_2d: None,
    cpy_tensor: None,
    clear: Some(clear),
    reset: None,
};

extern "C" fn free_buffer(buffer: *mut Buffer) {
    // SAFETY: ggml frees a buffer of ours once; the memory has this size.
    drop(unsafe { HugeMemory::from_raw((*buffer).context.cast(), (*buffer).size) });
}

extern "C" fn base(buffer: *mut Buffer) -> *mut c_void {
    // SAFETY: ggml calls this for buffers of ours.
    unsafe { (*buffer).context }
}

extern "C" fn clear(buffer: *mut Buffer, value: u8) {
    // SAFETY: the memory has that size.
    unsafe {
        (*buffer)
            .context
            .cast::<u8>()
            .write_bytes(value, (*buffer).size)
    };
}

extern "C" fn memset_tensor(
    _: *mut Buffer,
    tensor: *mut Tensor,
    value: u8,
    offset: usize,
    size: usize,
) {
    guard((), || {
        // SAFETY: ggml checks the range, and that the tensor is allocated.
        let tensor = unsafe { &*tensor };
        match Packed::of(tensor) {
            Some(packed) => packed.write(tensor.view_offs + offset, &vec![value; size]),
            // SAFETY: as above.
            None => unsafe {
                tensor
                    .data
                    .cast::<u8>()
                    .add(offset)
                    .write_bytes(value, size)
            },
        }
    });
}

extern "C" fn set_tensor(
    _: *mut Buffer,
    tensor: *mut Tensor,
    data: *const c_void,
    offset: usize,
    size: usize,
) {
    guard((), || {
        // SAFETY: ggml checks the range, and that the tensor is allocated.
        unsafe {
            let tensor = &*tensor;
            match Packed::of(tensor) {
                Some(packed) => {
                    let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size);
                    packed.write(tensor.view_offs + offset, bytes);
                }
                None => {
                    let out = tensor.data.cast::<u8>().add(offset);
                    out.copy_from_nonoverlapping(data.cast(), size);
                }
            }
        }
    });
}

extern "C" fn get_tensor(
    _: *mut Buffer,
    tensor: *const Tensor,
    data: *mut c_void,
    offset: usize,
    size: usize,
) {
    guard((), || {
        // SAFETY: ggml checks the range, and that the tensor is allocated.
        unsafe {
            let tensor = &*tensor;
            let mut out = data.cast::<u8>();
            match Packed::of(tensor) {
                Some(packed) => {
                    let start = tensor.view_offs + offset;
                    packed.read(start..start + size, |bytes| {
                        out.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
                        out = out.add(bytes.len());
                    });
                }
                None => out.copy_from_nonoverlapping(tensor.data.cast::<u8>().add(offset), size),
            }
        }
    });
}

/// Bytes of a tensor in a buffer of packed weights.
extern "C" fn packed_size(_: *mut BufferType, tensor: *const Tensor) -> usize {
    // SAFETY: ggml gives a tensor.
    let (tensor, plain) = unsafe { (&*tensor, abi::ggml_nbytes(tensor)) };
    guard(plain, || {
        Packed::would_be(tensor).map_or(plain, |packed| packed.bytes().max(plain))
    })
}

fn padded(size: usize) -> usize {
    size.next_multiple_of(ALIGNMENT)
}

/// The tensors of a list; ggml counts with a C int.
///
/// # Safety
/// `tensors` must point to that many tensors.
unsafe fn list<'a>(tensors: *mut *mut Tensor, count: c_int) -> &'a [*mut Tensor] {
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(tensors, count) }
}

/// Whether the tensor needs memory of its own.
///
/// # Safety
/// The tensor must be alive.
unsafe fn needs_memory(tensor: *mut Tensor) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*tensor).data.is_null() && (*tensor).view_src.is_null() }
}

/// Whether an operation of that number reads its first source as panels where that is packed:
/// as the weights of a product, or the table of `GET_ROWS`.
pub(crate) fn reads_panels(op: i32) -> bool {
    matches!(op, op::MUL_MAT | op::MUL_MAT_ID | op::GET_ROWS)
}

/// Whether all that the list computes can read its packable tensors as panels.
///
/// # Safety
/// The tensors and their sources must be alive.
unsafe fn may_be_packed(tensors: &[*mut Tensor]) -> bool {
    tensors.iter().all(|tensor| {
        // SAFETY: the caller's promise.
        let node = unsafe { &**tensor };
        let can_be_read = |index: usize, source: &Tensor| {
            let takes = index == 0 && reads_panels(node.op);
            (takes && source.view_src.is_null()) || Packed::would_be(source.root()).is_none()
        };
        let mut sources = (0..node.src.len())
            .filter_map(|index| node.source(index).map(|source| (index, source)));
        node.is_view()
            || (Packed::would_be(node.root()).is_none()
                && sources.all(|(index, source)| can_be_read(index, source)))
    })
}

/// Where the tensors of a list go.
///
/// # Safety
/// As for [`may_be_packed`].
unsafe fn type_of_list(tensors: &[*mut Tensor]) -> *mut BufferType {
    // SAFETY: the caller's promise.
    let has_weights = unsafe {
        tensors
            .iter()
            .any(|tensor| Packed::would_be(&**tensor).is_some())
            && may_be_packed(tensors)
    };
    if has_weights { packed() } else { host() }
}

/// Bytes of a tensor in a buffer of that type.
///
/// # Safety
/// The tensor must be alive.
unsafe fn size_in(buffer_type: *mut BufferType, tensor: *const Tensor) -> usize {
    if buffer_type == packed() {
        return padded(packed_size(buffer_type, tensor));
    }
    // SAFETY: the caller's promise.
    padded(unsafe { abi::ggml_nbytes(tensor) })
}

extern "C" fn list_size(_: *mut BufferType, tensors: *mut *mut Tensor, count: c_int) -> usize {
    guard(0, || {
        // SAFETY: ggml gives a list of tensors.
        unsafe {
            let tensors = list(tensors, count);
            let buffer_type = type_of_list(tensors);
            let own = tensors.iter().filter(|tensor| needs_memory(**tensor));
            own.map(|tensor| size_in(buffer_type, *tensor)).sum()
        }
    })
}

extern "C" fn alloc_list(
    own_type: *mut BufferType,
    tensors: *mut *mut Tensor,
    count: c_int,
) -> *mut Buffer {
    guard(ptr::null_mut(), || {
        let size = list_size(own_type, tensors, count);
        // SAFETY: ggml gives a list of tensors; the buffer has room for all of them.
        unsafe {
            let tensors = list(tensors, count);
            let buffer_type = type_of_list(tensors);
            let buffer = allocate(buffer_type, size);
            if buffer.is_null() {
                return buffer;
            }
            let mut place = base(buffer).cast::<u8>();
            for &tensor in tensors {
                if needs_memory(tensor) {
                    abi::ggml_backend_tensor_alloc(buffer, tensor, place.cast());
                    place = place.add(size_in(buffer_type, tensor));
                } else if (*tensor).buffer.is_null() && !(*tensor).view_src.is_null() {
                    abi::ggml_backend_view_init(tensor);
                }
            }
            buffer
        }
    })
}
