//! Packed weights taken apart, four rows at a time: signed values and scales.

use super::super::weights::IQ4_NL_CODES;
use super::super::{BLOCK, PANEL_ROWS, WeightType};
use std::arch::aarch64::*;

/// Rows of a quarter panel: lanes of a register.
pub(super) const QUARTER_ROWS: usize = PANEL_ROWS / 4;

/// Words of four values that make 32.
pub(super) const WORDS: usize = BLOCK / 4;

/// The values of 32 elements of four rows: word `g` of row `r` is lane `r` of register `g`.
pub(super) type Words = [int8x16_t; WORDS];

/// Where 32 elements of the weights are, and which quarter of the rows is meant.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    /// What the superblock begins with.
    pub(super) header: *const u8,
    pub(super) scales: *const u8,
    pub(super) codes: *const u8,
    /// 0 to 3.
    pub(super) quarter: usize,
}

/// The scales of 32 elements of four rows.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    /// Of the first and the last 16 elements; equal but for half scales.
    pub(super) scale: [float32x4_t; 2],
    pub(super) minimum: float32x4_t,
}

/// One packed weight type. Methods are inlined into functions that have the features.
pub(super) trait Format {
    const WEIGHT_TYPE: WeightType;

    /// How many products of a value and an activation a sum of 16 bits holds: see
    /// [`super::Plain`].
    const PRODUCTS_16_BITS: usize = match Self::WEIGHT_TYPE {
        WeightType::Q8_0 | WeightType::IQ4_NL => 2,
        _ => 8,
    };

    /// # Safety
    /// NEON must be there, the unit must be readable for the type's sizes.
    unsafe fn scales(unit: Unit) -> Scales;

    /// # Safety
    /// As for `scales`.
    unsafe fn words(unit: Unit) -> Words;
}

impl Unit {
    /// Four of sixteen f16.
    ///
    /// # Safety
    /// NEON must be there; 32 bytes must be readable.
    #[inline(always)]
    unsafe fn halves(self, bytes: *const u8) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let place = bytes.add(2 * QUARTER_ROWS * self.quarter);
            vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(place)))
        }
    }

    /// Four of sixteen bytes, in the lowest lanes.
    ///
    /// # Safety
    /// NEON must be there; 16 bytes must be readable.
    #[inline(always)]
    unsafe fn bytes(self, bytes: *const u8) -> uint8x8_t {
        // SAFETY: the caller's promise.
        unsafe {
            let place = bytes.add(QUARTER_ROWS * self.quarter).cast::<u32>();
            vcreate_u8(u64::from(place.read_unaligned()))
        }
    }

    /// Four of sixteen unsigned bytes as floats.
    ///
    /// # Safety
    /// As for `bytes`.
    #[inline(always)]
    unsafe fn unsigned(self, bytes: *const u8) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(self.bytes(bytes))))) }
    }

    /// Four of sixteen signed bytes as floats.
    ///
    /// # Safety
    /// As for `bytes`.
    #[inline(always)]
    unsafe fn signed(self, bytes: *const u8) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = vreinterpret_s8_u8(self.bytes(bytes));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        }
    }

    /// This quarter of the codes' vector at `index`.
    ///
    /// # Safety
    /// NEON must be there; the vector must be readable.
    #[inline(always)]
    unsafe fn vector(self, index: usize) -> uint8x16_t {
        let place = 4 * (PANEL_ROWS * index + QUARTER_ROWS * self.quarter);
        // SAFETY: the caller's promise.
        unsafe { vld1q_u8(self.codes.add(place)) }
    }
}

/// Words with nothing in them yet.
///
/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn no_words() -> Words {
    // SAFETY: the caller's promise.
    unsafe { [vdupq_n_s8(0); WORDS] }
}

/// Nibbles as they are.
///
/// # Safety
/// NEON must be there; four vectors of codes must be readable.
#[inline(always)]
unsafe fn nibbles(unit: Unit) -> Words {
    // SAFETY: the caller's promise.
    unsafe {
        let mut words = no_words();
        for index in 0..4 {
            let both = unit.vector(index);
            words[index] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
            words[index + 4] = vreinterpretq_s8_u8(vshrq_n_u8::<4>(both));
        }
        words
    }
}

/// Nibbles less 8.
///
/// # Safety
/// As for [`nibbles`].
#[inline(always)]
unsafe fn centred_nibbles(unit: Unit) -> Words {
    // SAFETY: the caller's promise.
    unsafe { nibbles(unit).map(|word| vsubq_s8(word, vdupq_n_s8(8))) }
}

/// Nibbles as names of IQ4_NL's values.
///
/// # Safety
/// As for [`nibbles`].
#[inline(always)]
unsafe fn looked_up(unit: Unit) -> Words {
    // SAFETY: the caller's promise; the table has sixteen bytes.
    unsafe {
        let table = from_offset_128(vld1q_u8(IQ4_NL_CODES.as_ptr()));
        nibbles(unit).map(|word| vqtbl1q_s8(table, vreinterpretq_u8_s8(word)))
    }
}

/// # Safety
/// NEON must be there; eight vectors must be readable.
#[inline(always)]
unsafe fn bytes(unit: Unit) -> Words {
    // SAFETY: the caller's promise.
    unsafe {
        let mut words = no_words();
        for (index, word) in words.iter_mut().enumerate() {
            *word = from_offset_128(unit.vector(index));
        }
        words
    }
}

/// # Safety
/// NEON must be there.
#[inline(always)]
unsafe fn from_offset_128(codes: uint8x16_t) -> int8x16_t {
    // SAFETY: the caller's promise.
    unsafe { vreinterpretq_s8_u8(veorq_u8(codes, vdupq_n_u8(0x80))) }
}

/// Puts the upper halves of `high`'s bytes above the nibbles of the codes.
///
/// # Safety
/// As for [`nibbles`].
#[inline(always)]
unsafe fn below(unit: Unit, high: [uint8x16_t; WORDS]) -> Words {
    // SAFETY: the caller's promise.
    unsafe {
        let mut words = no_words();
        for index in 0..4 {
            let both = unit.vector(index);
            let low = vbslq_u8(vdupq_n_u8(15), both, high[index]);
            words[index] = vreinterpretq_s8_u8(low);
            words[index + 4] = vreinterpretq_s8_u8(vsriq_n_u8::<4>(high[index + 4], both));
        }
        words
    }
}

/// For each code of each word, the byte of the mask that its fifth bit is in: bit `i % 8` for
/// code `i` of the sixteen. The masks are first exclusively or-ed with `flip`.
///
/// # Safety
/// As for [`nibbles`], with the masks of the fifth bits behind them.
#[inline(always)]
unsafe fn mask_bytes(unit: Unit, flip: u8) -> [uint8x16_t; WORDS] {
    // Which bytes of two masks a quarter's sixteen codes look at.
    const FIRST: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
    const SECOND: [u8; 16] = [8, 8, 8, 8, 8, 8, 8, 8, 9, 9, 9, 9, 9, 9, 9, 9];
    // SAFETY: the caller's promise; the tables have sixteen bytes.
    unsafe {
        let quarter = vdupq_n_u8(2 * unit.quarter as u8);
        let first = vaddq_u8(vld1q_u8(FIRST.as_ptr()), quarter);
        let second = vaddq_u8(vld1q_u8(SECOND.as_ptr()), quarter);
        let mut bytes = [quarter; WORDS];
        for (pair, bytes) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let masks = vld1q_u8(unit.codes.add(256 + 16 * pair));
            let masks = veorq_u8(masks, vdupq_n_u8(flip));
            *bytes = [vqtbl1q_u8(masks, first), vqtbl1q_u8(masks, second)];
        }
        bytes
    }
}

/// Five bits as they are.
///
/// # Safety
/// As for [`mask_bytes`].
#[inline(always)]
unsafe fn five_bits(unit: Unit) -> Words {
    // From bit `i` to bit 4.
    const SHIFTS: [i8; 16] = [4, 3, 2, 1, 0, -1, -2, -3, 4, 3, 2, 1, 0, -1, -2, -3];
    // SAFETY: the caller's promise; the table has sixteen bytes.
    unsafe {
        let shifts = vld1q_s8(SHIFTS.as_ptr());
        let fifth = |byte| vandq_u8(vshlq_u8(byte, shifts), vdupq_n_u8(16));
        below(unit, mask_bytes(unit, 0).map(fifth))
    }
}

/// Five bits less 16: the nibble, and above it ones where the fifth bit is not set.
///
/// # Safety
/// As for [`mask_bytes`].
#[inline(always)]
unsafe fn centred_five_bits(unit: Unit) -> Words {
    const OWN: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    // SAFETY: the caller's promise; the table has sixteen bytes.
    unsafe {
        let own = vld1q_u8(OWN.as_ptr());
        let unset = mask_bytes(unit, 0xff).map(|byte| vtstq_u8(byte, own));
        below(unit, unset)
    }
}

/// Six bits less 32: the nibble, and above it the pair less 2, a signed number of two bits
/// that differs from the pair in its upper bit.
///
/// # Safety
/// As for [`nibbles`], with the pairs of high bits behind them.
#[inline(always)]
unsafe fn centred_six_bits(unit: Unit) -> Words {
    // SAFETY: the caller's promise.
    unsafe {
        let mut high = [vdupq_n_u8(0); WORDS];
        for (index, high) in high.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            // The pair of word `f` of four is at bit 2f of each byte; it goes to bit 6, and
            // from there down to bit 4 with its sign.
            let pairs = veorq_u8(unit.vector(4 + index), vdupq_n_u8(0xaa));
            let raised = [
                vshlq_n_u8::<6>(pairs),
                vshlq_n_u8::<4>(pairs),
                vshlq_n_u8::<2>(pairs),
                pairs,
            ];
            *high =
                raised.map(|pair| vreinterpretq_u8_s8(vshrq_n_s8::<2>(vreinterpretq_s8_u8(pair))));
        }
        below(unit, high)
    }
}

/// # Safety
/// NEON must be there; 32 bytes of scales must be readable.
#[inline(always)]
unsafe fn one_scale(unit: Unit) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        Scales {
            scale: [unit.halves(unit.scales); 2],
            minimum: vdupq_n_f32(0.0),
        }
    }
}

/// # Safety
/// NEON must be there; 64 bytes of scales must be readable.
#[inline(always)]
unsafe fn scale_and_minimum(unit: Unit) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        Scales {
            scale: [unit.halves(unit.scales); 2],
            minimum: unit.halves(unit.scales.add(2 * PANEL_ROWS)),
        }
    }
}

/// # Safety
/// NEON must be there; 64 bytes of header and 32 of scales must be readable.
#[inline(always)]
unsafe fn k_scales(unit: Unit) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = vmulq_f32(unit.halves(unit.header), unit.unsigned(unit.scales));
        let minimum = vmulq_f32(
            unit.halves(unit.header.add(2 * PANEL_ROWS)),
            unit.unsigned(unit.scales.add(PANEL_ROWS)),
        );
        Scales {
            scale: [scale; 2],
            minimum: vnegq_f32(minimum),
        }
    }
}

/// # Safety
/// NEON must be there; 32 bytes of header and of scales must be readable.
#[inline(always)]
unsafe fn half_scales(unit: Unit) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        let d = unit.halves(unit.header);
        Scales {
            scale: [
                vmulq_f32(d, unit.signed(unit.scales)),
                vmulq_f32(d, unit.signed(unit.scales.add(PANEL_ROWS))),
            ],
            minimum: vdupq_n_f32(0.0),
        }
    }
}

macro_rules! format {
    ($name:ident, $weight_type:ident, $words:path, $scales:path) => {
        pub(super) struct $name;

        impl Format for $name {
            const WEIGHT_TYPE: WeightType = WeightType::$weight_type;

            #[inline(always)]
            unsafe fn scales(unit: Unit) -> Scales {
                // SAFETY: the caller's promise.
                unsafe { $scales(unit) }
            }

            #[inline(always)]
            unsafe fn words(unit: Unit) -> Words {
                // SAFETY: the caller's promise.
                unsafe { $words(unit) }
            }
        }
    };
}

format!(Q4_0, Q4_0, centred_nibbles, one_scale);
format!(Q4_1, Q4_1, nibbles, scale_and_minimum);
format!(Q5_0, Q5_0, centred_five_bits, one_scale);
format!(Q5_1, Q5_1, five_bits, scale_and_minimum);
format!(Q8_0, Q8_0, bytes, one_scale);
format!(Iq4Nl, IQ4_NL, looked_up, one_scale);
format!(Q4K, Q4_K, nibbles, k_scales);
format!(Q5K, Q5_K, five_bits, k_scales);
format!(Q6K, Q6_K, centred_six_bits, half_scales);
