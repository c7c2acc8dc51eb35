//! AVX2: eight rows are the lanes of one register.
use super::super::{Operands, Products, multiply_scalar};

pub(in super::super) fn multiply(operands: &Operands<'_>, products: Products<'_>) {
    multiply_scalar(operands, products);
}
