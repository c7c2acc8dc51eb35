//! Rows of the KV cache, changed when they are stored and before anything looks back at them: as a
//! cache of another type would have them, or worse.
//!
//! ggml's scheduler asks a callback behind which nodes of a graph it is to stop. What stores the keys
//! or the values of a layer is a `SET_ROWS` into the tensor that llama.cpp names `cache_k_l` or
//! `cache_v_l` with the number of the layer (`llama_kv_cache`).

use std::ffi::{CStr, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::{Mutex, PoisonError};

use kv::Side;
use llama_cpp_sys_2 as sys;

/// What becomes of a row of 16-bit floats, little-endian.
pub type RowChange = Box<dyn FnMut(&mut [u8]) + Send>;

/// What a context changes.
#[derive(Default)]
pub(crate) struct StoredRows {
    /// A tensor's name, and what becomes of its rows.
    wanted: Option<(String, RowChange)>,
    n_changed: u64,
}

impl fmt::Debug for StoredRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.wanted.as_ref().map(|(name, _)| name);
        f.debug_tuple("StoredRows").field(&name).finish()
    }
}

impl StoredRows {
    /// From now on.
    pub(crate) fn want(&mut self, wanted: Option<(u32, Side, RowChange)>) {
        self.n_changed = 0;
        self.wanted = wanted.map(|(layer, side, change)| {
            let side = match side {
                Side::Keys => 'k',
                Side::Values => 'v',
            };
            (format!("cache_{side}_l{layer}"), change)
        });
    }

    /// Rows since then.
    pub(crate) const fn n_changed(&self) -> u64 {
        self.n_changed
    }

    /// What the scheduler is told of a node: whether to stop behind it if it asks, else whether
    /// to go on.
    ///
    /// # Safety
    /// The node is one of a live graph, and computed unless `ask`.
    unsafe fn node(&mut self, node: *const sys::ggml_tensor, ask: bool) -> bool {
        let Some((name, change)) = &mut self.wanted else {
            return !ask;
        };
        // SAFETY: the caller's.
        let Some(rows) = (unsafe { Rows::of(node, name) }) else {
            return !ask;
        };
        if !ask {
            for place in rows.places {
                // SAFETY: the node is computed, and its thread waits for this call.
                let Some(row) = (unsafe { rows.row(*place) }) else {
                    continue;
                };
                change(row);
                self.n_changed += 1;
            }
        }
        true
    }
}

/// The rows that a node stores.
struct Rows<'a> {
    node: &'a sys::ggml_tensor,
    /// Their places in the cache; before it is computed they are not known.
    places: &'a [i64],
}

impl<'a> Rows<'a> {
    /// `None` where the node stores nothing into the tensor of that name, or not in rows of 16 bits
    /// that this process can reach.
    ///
    /// # Safety
    /// As of [`StoredRows::node`].
    unsafe fn of(node: *const sys::ggml_tensor, name: &str) -> Option<Self> {
        // SAFETY: the caller's; what a node of a live graph points at lives as long.
        let node = unsafe { node.as_ref() }?;
        if node.op != sys::GGML_OP_SET_ROWS || node.type_ != sys::GGML_TYPE_F16 {
            return None;
        }
        // SAFETY: as above.
        let (cache, places) = unsafe { (node.view_src.as_ref()?, node.src[1].as_ref()?) };
        // SAFETY: ggml ends names with a zero.
        let found = unsafe { CStr::from_ptr(cache.name.as_ptr()) };
        if found.to_bytes() != name.as_bytes() || places.type_ != sys::GGML_TYPE_I64 {
            return None;
        }
        // Transposed values are rows of one number.
        let is_plain = node.ne[0] > 1 && node.ne[2..] == [1, 1] && places.ne[1..] == [1, 1, 1];
        let is_here = [node, places].into_iter().all(|one| {
            // SAFETY: a tensor's buffer lives as long as it.
            !one.data.is_null()
                && !one.buffer.is_null()
                && unsafe { sys::ggml_backend_buffer_is_host(one.buffer) }
        });
        let n = usize::try_from(places.ne[0]).ok()?;
        (is_plain && is_here).then(|| {
            // SAFETY: it is a vector of so many numbers, in memory of this process.
            let places = unsafe { slice::from_raw_parts(places.data.cast::<i64>(), n) };
            Self { node, places }
        })
    }

    /// # Safety
    /// Nothing else uses the row.
    unsafe fn row(&self, place: i64) -> Option<&'a mut [u8]> {
        if !(0..self.node.ne[1]).contains(&place) {
            return None;
        }
        let at = usize::try_from(place).ok()? * self.node.nb[1];
        let len = usize::try_from(self.node.ne[0]).ok()? * size_of::<u16>();
        // SAFETY: the tensor has that row, of as many numbers of 16 bits, without gaps.
        Some(unsafe { slice::from_raw_parts_mut(self.node.data.cast::<u8>().add(at), len) })
    }
}

/// What the scheduler calls; `data` is the mutex of [`StoredRows`] that the context holds.
pub(crate) extern "C" fn on_node(
    node: *mut sys::ggml_tensor,
    ask: bool,
    data: *mut c_void,
) -> bool {
    let told = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the context keeps it until after its last graph.
        let stored = unsafe { &*data.cast::<Mutex<StoredRows>>() };
        let mut stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the scheduler gives nodes of the graph that it computes.
        unsafe { stored.node(node, ask) }
    }));
    // A panic of the change stops nothing: the next node is computed.
    told.unwrap_or(!ask)
}
