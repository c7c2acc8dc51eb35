//! Random weights in the formats of ggml.

use std::io::{self, Write};

/// A type of weights, by ggml's name.
#[expect(non_camel_case_types, reason = "the field's names for these formats")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightKind {
    #[default]
    F32,
    Q4_0,
    Q4_1,
    Q5_0,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// Where random weights lie: `mean` plus or minus `width`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) mean: f32,
    pub(crate) width: f32,
}

/// A block of a quantised format: random bytes, but for its scales.
struct Block {
    weights: u64,
    bytes: usize,
    /// Where the scale in 16 bits is.
    scale_at: usize,
    /// Where the scale of the minimum is, and how many times the scale it is.
    minimum: Option<(usize, f32)>,
    /// The largest value that codes stand for, without the scale.
    largest: f32,
}

impl WeightKind {
    pub const QUANTISED: [Self; 7] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// Its number in a GGUF file.
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
        }
    }

    const fn block(self) -> Option<Block> {
        let (weights, bytes, scale_at, minimum, largest) = match self {
            Self::F32 => return None,
            Self::Q4_0 => (32, 18, 0, None, 8.0),
            // Codes are 0 to 15 above a minimum.
            Self::Q4_1 => (32, 20, 0, Some((2, -8.0)), 8.0),
            Self::Q5_0 => (32, 22, 0, None, 16.0),
            Self::Q8_0 => (32, 34, 0, None, 128.0),
            // Scales of 6 bits times codes; the minimum is taken away.
            Self::Q4_K => (256, 144, 0, Some((2, 8.0)), 63.0 * 15.0),
            Self::Q5_K => (256, 176, 0, Some((2, 16.0)), 63.0 * 31.0),
            Self::Q6_K => (256, 210, 208, None, 128.0 * 32.0),
        };
        Some(Block {
            weights,
            bytes,
            scale_at,
            minimum,
            largest,
        })
    }

    /// Bytes of so many weights, whole blocks of them.
    pub(crate) const fn bytes(self, n_weights: u64) -> u64 {
        match self.block() {
            None => n_weights * 4,
            Some(block) => n_weights.div_ceil(block.weights) * block.bytes as u64,
        }
    }

    /// Writes so many random weights.
    pub(crate) fn write(
        self,
        n_weights: u64,
        spread: Spread,
        random: &mut Random,
        to: &mut impl Write,
    ) -> io::Result<()> {
        let Some(block) = self.block() else {
            for _ in 0..n_weights {
                let value = spread.mean + spread.width * random.uniform();
                to.write_all(&value.to_le_bytes())?;
            }
            return Ok(());
        };
        let scale = spread.width / block.largest;
        let mut bytes = vec![0; block.bytes.next_multiple_of(8)];
        for _ in 0..n_weights.div_ceil(block.weights) {
            for word in bytes.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
            put_f16(&mut bytes[block.scale_at..], scale);
            if let Some((at, times)) = block.minimum {
                put_f16(&mut bytes[at..], scale * times);
            }
            to.write_all(&bytes[..block.bytes])?;
        }
        Ok(())
    }
}

/// Writes the power of two below a number, in 16 bits.
fn put_f16(to: &mut [u8], value: f32) {
    const BIAS: i32 = 15;
    let exponent = (value.abs().log2().floor() as i32 + BIAS).clamp(1, 30);
    let sign = if value < 0.0 { 0x8000 } else { 0 };
    let bits = sign | (exponent as u16) << 10;
    to[..2].copy_from_slice(&bits.to_le_bytes());
}

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug, Default)]
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }
}
