//! Reading `ggml_tensor`.

use crate::abi::{self, Tensor};
use kernels::matmul::WeightType;

/// Places of the four dimensions: an element, a row, or a matrix.
pub(crate) type Shape = [usize; abi::MAX_DIMS];

impl Tensor {
    pub(crate) fn name(&self) -> &[u8] {
        let end = self
            .name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(self.name.len());
        // SAFETY: characters of C and bytes are of one size.
        unsafe { std::slice::from_raw_parts(self.name.as_ptr().cast(), end) }
    }

    /// Elements of each dimension; a negative number, which ggml never has, counts as 0.
    pub(crate) fn shape(&self) -> Shape {
        self.ne.map(|n| usize::try_from(n).unwrap_or(0))
    }

    /// Rows of the first dimension.
    pub(crate) fn rows(&self) -> usize {
        let [_, n1, n2, n3] = self.shape();
        n1 * n2 * n3
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shape().contains(&0)
    }

    /// Whether it is memory under another shape, or memory that nothing computes.
    pub(crate) fn is_view(&self) -> bool {
        use abi::op;
        matches!(
            self.op,
            op::NONE | op::RESHAPE | op::VIEW | op::PERMUTE | op::TRANSPOSE
        )
    }

    /// The `index`th source; null is none.
    pub(crate) fn source(&self, index: usize) -> Option<&Tensor> {
        // SAFETY: ggml's sources are null or tensors that live as long as the graph.
        unsafe { self.src[index].as_ref() }
    }

    /// Whether numbers of elements are none that are negative, and places and their number can be
    /// counted.
    pub(crate) fn has_places(&self) -> bool {
        let end = self
            .ne
            .iter()
            .zip(self.nb)
            .try_fold(0usize, |end, (n, stride)| {
                let n = usize::try_from(*n).ok()?;
                end.checked_add(n.checked_mul(stride)?)
            });
        let count = self
            .shape()
            .into_iter()
            .try_fold(1usize, usize::checked_mul);
        let places = end.and_then(|end| end.checked_add(self.view_offs));
        // Four bytes an element is what is computed with beside the tensors' own.
        [places, count.and_then(|count| count.checked_mul(4))]
            .iter()
            .all(|number| number.is_some_and(|number| isize::try_from(number).is_ok()))
    }

    /// The tensor that owns the memory.
    pub(crate) fn root(&self) -> &Tensor {
        // SAFETY: as for sources; ggml never makes views of views.
        unsafe { self.view_src.as_ref() }.unwrap_or(self)
    }

    /// Where the row of that number starts, counting over dimensions 1 to 3.
    pub(crate) fn row(&self, index: usize) -> *mut u8 {
        let [_, n1, n2, _] = self.shape();
        self.at([index % n1, index / n1 % n2, index / n1 / n2])
    }

    /// Where the row of those places in dimensions 1 to 3 starts.
    pub(crate) fn at(&self, [i1, i2, i3]: [usize; 3]) -> *mut u8 {
        let offset = i1 * self.nb[1] + i2 * self.nb[2] + i3 * self.nb[3];
        self.data.cast::<u8>().wrapping_add(offset)
    }

    pub(crate) fn float_param(&self, index: usize) -> f32 {
        f32::from_bits(self.op_params[index].cast_unsigned())
    }

    /// Whether the elements of a row lie side by side, for a type of `bytes` an element.
    pub(crate) fn has_dense_rows(&self, bytes: usize) -> bool {
        self.nb[0] == bytes && self.strides_fit(bytes)
    }

    /// Whether dimensions 1 to 3 have whole elements as strides and a view starts at one, as
    /// slices need it.
    fn strides_fit(&self, bytes: usize) -> bool {
        let mut places = self.nb[1..].iter().chain([&self.view_offs]);
        places.all(|place| place.is_multiple_of(bytes))
    }

    /// Whether it is f32 with dense rows.
    pub(crate) fn is_float_rows(&self) -> bool {
        self.kind == abi::kind::F32 && self.has_dense_rows(4)
    }

    /// Whether it is f32 with strides of whole elements, a row's own among them.
    pub(crate) fn is_floats_apart(&self) -> bool {
        self.kind == abi::kind::F32 && self.nb[0].is_multiple_of(4) && self.strides_fit(4)
    }

    /// Whether there are no gaps and no permutation, for rows of `row_bytes`.
    pub(crate) fn is_contiguous(&self, row_bytes: usize) -> bool {
        let [_, n1, n2, _] = self.shape();
        self.nb[1] == row_bytes && self.nb[2] == self.nb[1] * n1 && self.nb[3] == self.nb[2] * n2
    }

    pub(crate) fn is_contiguous_floats(&self) -> bool {
        self.is_float_rows() && self.is_contiguous(4 * self.shape()[0])
    }
}

/// The quantised weight type of that number.
pub(crate) fn weight_type(kind: i32) -> Option<WeightType> {
    use abi::kind;
    Some(match kind {
        kind::Q4_0 => WeightType::Q4_0,
        kind::Q4_1 => WeightType::Q4_1,
        kind::Q5_0 => WeightType::Q5_0,
        kind::Q5_1 => WeightType::Q5_1,
        kind::Q8_0 => WeightType::Q8_0,
        kind::IQ4_NL => WeightType::IQ4_NL,
        kind::Q4_K => WeightType::Q4_K,
        kind::Q5_K => WeightType::Q5_K,
        kind::Q6_K => WeightType::Q6_K,
        _ => return None,
    })
}
