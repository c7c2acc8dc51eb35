//! Types of keys and values for each layer of a context.
//!
//! llama.cpp is told one type for all keys and one for all values. Its caches make one tensor for
//! the keys of a layer and one for the values, with `ggml_new_tensor_3d`, and whatever reads or
//! writes them afterwards asks the tensor. Programs are linked so that those calls come here
//! (`link.rs`), and while a context is made under a choice each gets the type that it is to have.
//! Afterwards the tensors are asked, by their names, what became of it.

use std::cell::Cell;
use std::hint::black_box;

use kv::{CacheType, LayerTypes, Types};
use llama_cpp_sys_2 as sys;

use crate::ffi;

type NewTensor = unsafe extern "C" fn(
    *mut sys::ggml_context,
    sys::ggml_type,
    i64,
    i64,
    i64,
) -> *mut sys::ggml_tensor;

/// The cache of one layer, as ggml reports its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerReport {
    pub layer: u32,
    pub types: Types,
    pub keys_bytes: u64,
    pub values_bytes: u64,
}

/// Whether this program was linked so that the types of layers can be chosen.
#[must_use]
pub fn can_choose_layer_types() -> bool {
    let (called, ours): (NewTensor, NewTensor) =
        (sys::ggml_new_tensor_3d, __wrap_ggml_new_tensor_3d);
    // To the compiler they are two functions.
    black_box(called as usize) == black_box(ours as usize)
}

/// The one type that llama.cpp is told for a side: whether it is quantised decides about rotation
/// and flash attention for all layers.
pub(crate) fn told(layers: &[LayerTypes]) -> Types {
    let side = |of: fn(&LayerTypes) -> CacheType| {
        let mut types = layers.iter().map(of);
        let first = types.clone().next().unwrap_or(CacheType::F16);
        types.find(|of| of.is_quantised()).unwrap_or(first)
    };
    Types {
        keys: side(|layer| layer.types.keys),
        values: side(|layer| layer.types.values),
    }
}

/// A choice that is being made.
struct Choice {
    /// What llama.cpp was told; tensors of other types are none of a cache.
    told: [sys::ggml_type; 2],
    /// Keys and values of each layer in turn.
    types: Vec<sys::ggml_type>,
    made: Vec<*mut sys::ggml_tensor>,
}

impl Choice {
    /// The type of the next tensor, if it may be one of a cache.
    fn next(&self, asked: sys::ggml_type) -> Option<sys::ggml_type> {
        let at = self.made.len();
        let chosen = self.types.get(at).copied()?;
        (asked == self.told[at % 2]).then_some(chosen)
    }
}

thread_local! {
    /// Contexts are made on the thread that asks for them.
    static CHOICE: Cell<Option<Box<Choice>>> = const { Cell::new(None) };
}

/// In place of ggml's, which does just this with the type that it is asked for. Nothing in it
/// panics.
///
/// # Safety
/// As of ggml's.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_ggml_new_tensor_3d(
    context: *mut sys::ggml_context,
    asked: sys::ggml_type,
    width: i64,
    rows: i64,
    planes: i64,
) -> *mut sys::ggml_tensor {
    let shape = [width, rows, planes];
    // Threads that end have none any more.
    let mut choice = CHOICE.try_with(Cell::take).unwrap_or_default();
    let chosen = choice.as_ref().and_then(|choice| choice.next(asked));
    // SAFETY: the caller's promise; `shape` has as many numbers as are said.
    let tensor =
        unsafe { sys::ggml_new_tensor(context, chosen.unwrap_or(asked), 3, shape.as_ptr()) };
    if let Some(choice) = choice.as_mut().filter(|_| chosen.is_some()) {
        choice.made.push(tensor);
    }
    let _ = CHOICE.try_with(|cell| cell.set(choice));
    tensor
}

/// Ends a choice, whatever happens.
struct Armed;

impl Armed {
    fn new(layers: &[LayerTypes]) -> Self {
        let Types { keys, values } = told(layers);
        let each = layers
            .iter()
            .flat_map(|layer| [layer.types.keys, layer.types.values]);
        let choice = Choice {
            told: [ggml_type(keys), ggml_type(values)],
            types: each.map(ggml_type).collect(),
            made: Vec::with_capacity(2 * layers.len()),
        };
        CHOICE.set(Some(Box::new(choice)));
        Self
    }

    fn made(&self) -> Vec<*mut sys::ggml_tensor> {
        CHOICE.take().map_or_else(Vec::new, |choice| choice.made)
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        CHOICE.set(None);
    }
}

/// Makes a context whose layers keep these types, and the tensors in which they do.
pub(crate) fn choosing(
    layers: &[LayerTypes],
    make: impl FnOnce() -> *mut sys::llama_context,
) -> (*mut sys::llama_context, Vec<*mut sys::ggml_tensor>) {
    let armed = Armed::new(layers);
    let context = make();
    (context, armed.made())
}

/// What the tensors of a context say of themselves; else in words what is not as it was chosen.
///
/// # Safety
/// They must be those of [`choosing`], and the context that it made must live.
pub(crate) unsafe fn check(
    layers: &[LayerTypes],
    made: &[*mut sys::ggml_tensor],
) -> Result<Vec<LayerReport>, String> {
    let (pairs, rest) = made.as_chunks::<2>();
    if pairs.len() != layers.len() || !rest.is_empty() {
        let (wanted, found) = (2 * layers.len(), made.len());
        return Err(format!(
            "the caches have {found} tensors of the chosen types, {wanted} were planned"
        ));
    }
    let mut reports = Vec::with_capacity(layers.len());
    for (wanted, [keys, values]) in layers.iter().zip(pairs) {
        let bytes = |side, tensor, cache_type| {
            // SAFETY: the caller's promise: the cache of the context holds the tensor.
            unsafe { check_tensor((side, wanted.layer), tensor, cache_type) }
        };
        reports.push(LayerReport {
            layer: wanted.layer,
            types: wanted.types,
            keys_bytes: bytes("k", *keys, wanted.types.keys)?,
            values_bytes: bytes("v", *values, wanted.types.values)?,
        });
    }
    Ok(reports)
}

/// The bytes of a tensor that has that name and type.
///
/// # Safety
/// The tensor must live.
unsafe fn check_tensor(
    (side, layer): (&str, u32),
    tensor: *const sys::ggml_tensor,
    cache_type: CacheType,
) -> Result<u64, String> {
    // SAFETY: the caller's promise.
    let (name, found, bytes) = unsafe {
        (
            ffi::string(sys::ggml_get_name(tensor)),
            (*tensor).type_,
            sys::ggml_nbytes(tensor),
        )
    };
    let wanted = format!("cache_{side}_l{layer}");
    if name != wanted {
        return Err(format!(
            "`{name}` is where `{wanted}` was to be: llama.cpp makes its caches in another order"
        ));
    }
    if found != ggml_type(cache_type) {
        return Err(format!(
            "`{name}` has ggml's type {found}, {cache_type} was planned"
        ));
    }
    Ok(bytes as u64)
}

pub(crate) fn ggml_type(cache: CacheType) -> sys::ggml_type {
    match cache {
        CacheType::F32 => sys::GGML_TYPE_F32,
        CacheType::F16 => sys::GGML_TYPE_F16,
        CacheType::Bf16 => sys::GGML_TYPE_BF16,
        CacheType::Q8_0 => sys::GGML_TYPE_Q8_0,
        CacheType::Q5_0 => sys::GGML_TYPE_Q5_0,
        CacheType::Q5_1 => sys::GGML_TYPE_Q5_1,
        CacheType::Q4_0 => sys::GGML_TYPE_Q4_0,
        CacheType::Q4_1 => sys::GGML_TYPE_Q4_1,
        CacheType::Iq4Nl => sys::GGML_TYPE_IQ4_NL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(layer: u32, keys: CacheType, values: CacheType) -> LayerTypes {
        LayerTypes {
            layer,
            types: Types { keys, values },
        }
    }

    #[test]
    fn the_engine_is_told_a_quantised_type_where_there_is_one() {
        use CacheType::{F16, F32, Q4_0, Q8_0};
        let layers = [layer(0, F16, F32), layer(1, Q8_0, F16), layer(2, Q4_0, F16)];
        let Types { keys, values } = told(&layers);
        assert_eq!((keys, values), (Q8_0, F32));
    }

    #[test]
    fn tests_are_linked_as_the_program_is() {
        assert!(can_choose_layer_types());
    }

    /// A tensor of another type in between is none of the cache's, and the next one is.
    #[test]
    fn only_tensors_of_the_told_types_are_chosen() {
        use CacheType::{F16, Q8_0};
        let layers = [layer(0, Q8_0, F16), layer(1, F16, F16)];
        // SAFETY: the context has room for these tensors' descriptions and is freed at the end.
        unsafe {
            let params = sys::ggml_init_params {
                mem_size: 64 * 1024,
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            };
            let ggml = sys::ggml_init(params);
            let new = |of| sys::ggml_new_tensor_3d(ggml, of, 64, 4, 1);
            let kinds = |tensors: &[*mut sys::ggml_tensor]| {
                let each = tensors.iter().map(|tensor| (**tensor).type_);
                each.collect::<Vec<_>>()
            };
            let mut all = Vec::new();
            let (_, made) = choosing(&layers, || {
                let asked = [Q8_0, Q8_0, F16, Q8_0, F16, F16, Q8_0];
                all.extend(asked.map(ggml_type).map(new));
                std::ptr::null_mut()
            });
            let expected = [Q8_0, Q8_0, F16, F16, F16, F16, Q8_0].map(ggml_type);
            assert_eq!(kinds(&all), expected);
            assert_eq!(kinds(&made), [Q8_0, F16, F16, F16].map(ggml_type));
            let error = check(&layers, &made).unwrap_err();
            assert!(error.contains("`cache_k_l0`"), "{error}");
            let error = check(&layers[..1], &made).unwrap_err();
            assert!(
                error.contains("4 tensors") && error.contains("2 were"),
                "{error}"
            );
            // Without a choice nothing is changed.
            assert_eq!(kinds(&[new(ggml_type(Q8_0))]), [ggml_type(Q8_0)]);
            sys::ggml_free(ggml);
        }
    }
}
