//! The rotation that spreads outliers over a head before it is rounded.
//!
//! llama.cpp multiplies what it stores in a quantised cache by Hadamard's matrix (Sylvester's, over
//! the root of its width), and queries and results by the same, which is its own inverse
//! (`llama_kv_cache`, `ggml_gen_hadamard`).

use crate::loss::{ROTATION_MIN, Side, is_rotated};
use crate::shape::{Layer, Shape};

/// In blocks of how many values llama.cpp rotates a side of that layer where it is quantised; `None`
/// where it does not, or nothing is kept.
#[must_use]
pub fn rotation(shape: &Shape, layer: &Layer, side: Side) -> Option<usize> {
    let of = layer.keys_values?;
    if shape.is_latent || !is_rotated(shape, side) {
        return None;
    }
    let block = match side {
        Side::Keys => {
            // The largest power of two that divides a head.
            let zeros = of.key_width.trailing_zeros();
            1_u64.checked_shl(zeros)?
        }
        Side::Values => ROTATION_MIN,
    };
    usize::try_from(block).ok()
}

/// Multiplies each block of that many values, a power of two, by Hadamard's matrix. Doing it
/// again takes it back. What is no whole block stays as it is.
pub fn rotate(values: &mut [f32], block: usize) {
    if !block.is_power_of_two() {
        return;
    }
    let scale = 1.0 / (block as f32).sqrt();
    for block_values in values.chunks_exact_mut(block) {
        let mut half = 1;
        while half < block {
            for pair in block_values.chunks_exact_mut(2 * half) {
                let (left, right) = pair.split_at_mut(half);
                for (a, b) in left.iter_mut().zip(right) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        for value in block_values {
            *value *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{KeysValues, State, Window};

    #[test]
    fn a_rotation_is_the_matrix_and_its_own_inverse() {
        // Sylvester's of four, over two.
        let mut values = [1.0, 2.0, 3.0, 4.0, 9.0];
        rotate(&mut values, 4);
        assert_eq!(values, [5.0, -1.0, -2.0, 0.0, 9.0]);
        rotate(&mut values, 4);
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 9.0]);
        // One outlier is spread over all.
        let mut values = [0.0; 64];
        values[17] = 8.0;
        rotate(&mut values, 64);
        assert!(values.iter().all(|value| value.abs() == 1.0), "{values:?}");
    }

    fn shape(widths: &[u64]) -> Shape {
        let layer = |width: &u64| Layer {
            keys_values: Some(KeysValues {
                heads: 1,
                key_width: *width,
                value_width: *width,
            }),
            ..Layer::default()
        };
        let layers: Vec<Layer> = widths.iter().map(layer).collect();
        Shape {
            architecture: "llama".into(),
            context_train: 4096,
            first_head: layers[0].keys_values.unwrap(),
            layers,
            window: None,
            state: State::default(),
            is_latent: false,
            value_row_max: 256,
            has_many_positions: false,
            is_encoder: false,
        }
    }

    #[test]
    fn blocks_are_those_of_the_engine() {
        let blocks = |shape: &Shape| {
            [Side::Keys, Side::Values].map(|side| rotation(shape, &shape.layers[0], side))
        };
        assert_eq!(blocks(&shape(&[64, 64])), [Some(64), Some(64)]);
        assert_eq!(blocks(&shape(&[256])), [Some(256), Some(64)]);
        assert_eq!(blocks(&shape(&[192])), [Some(64), Some(64)]);
        assert_eq!(blocks(&shape(&[80])), [None, None]);
        // Layers of one cache that differ are not rotated; those of two caches may differ.
        assert_eq!(blocks(&shape(&[128, 64])), [None, None]);
        let mut windowed = shape(&[256, 512]);
        windowed.window = Some(Window { tokens: 512 });
        windowed.layers[0].is_windowed = true;
        let second = rotation(&windowed, &windowed.layers[1], Side::Keys);
        assert_eq!((blocks(&windowed)[0], second), (Some(256), Some(512)));
        let latent = Shape {
            is_latent: true,
            ..shape(&[64])
        };
        assert_eq!(blocks(&latent), [None, None]);
    }
}
