//! AVX2: eight rows are the lanes of one register, a panel is two such halves.
//!
//! A half's 32 codes a row are taken apart once, to eight words, and then multiplied by
//! the columns of the tile in groups of four: four sums of integers, a word of codes, a
//! broadcast word of activations and their product leave room in sixteen registers.
//! The sums of floats wait in the first cache.
//!
//! **Integer sums.** `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs to 16
//! bits, in which a few words can be summed before they must be widened. With activations
//! of at most 127 a word adds to each 16 bits at most
//!
//! | codes | one word | words | their sum |
//! |---|---|---|---|
//! | 4 bits | 2 * 15 * 127 = 3,810 | 8 | 30,480 |
//! | 5 bits | 2 * 31 * 127 = 7,874 | 4 | 31,496 |
//! | 6 bits | 2 * 63 * 127 = 16,002 | 2 | 32,004 |
//! | signed 8 bits | 2 * 128 * 127 = 32,512 | 1 | 32,512 |
//!
//! all below 2^15, so nothing saturates or wraps. Unsigned codes of 8 bits would; they
//! become signed values, whose sign goes over to the activations.

use super::super::activations::COLUMN_BYTES;
use super::super::weights::{Bits, IQ4_NL_CODES};
use super::super::{BLOCK, Operands, PANEL_ROWS, Products, TILE_COLUMNS, WeightType};
use super::{PREFETCH_COLUMNS_MAX, prefetch};
use std::arch::x86_64::*;

/// Rows of a half panel: lanes of a register.
const HALF_ROWS: usize = PANEL_ROWS / 2;

/// Columns that are multiplied at once.
const GROUP_COLUMNS: usize = 4;

/// Words of 32 elements.
const WORDS: usize = BLOCK / 4;

/// The sums of all columns for one half of a panel, by groups.
type Sums = [[__m256; GROUP_COLUMNS]; TILE_COLUMNS / GROUP_COLUMNS];

/// Where 32 elements of the weights are, and which half of the rows is meant.
#[derive(Clone, Copy)]
struct Unit {
    /// What the superblock begins with.
    header: *const u8,
    scales: *const u8,
    codes: *const u8,
    /// 0 or 1.
    half: usize,
}

/// The scales of 32 elements of eight rows.
#[derive(Clone, Copy)]
struct Scales {
    /// Of the first and the last 16 elements; equal but for half scales.
    scale: [__m256; 2],
    minimum: __m256,
}

/// 32 elements of eight rows.
struct Weights {
    /// Codes, four of each row a word; values if the format is signed.
    words: [__m256i; WORDS],
    scales: Scales,
}

/// One packed weight type. Methods are inlined into functions that have the features.
trait Format {
    const WEIGHT_TYPE: WeightType;

    /// Whether `words` gives signed values rather than codes.
    const SIGNED: bool = Self::WEIGHT_TYPE.offset() == 128;

    /// Words whose sum fits 16 bits: see the top of this file.
    const WORDS_16_BITS: usize = match Self::WEIGHT_TYPE.bits() {
        _ if Self::SIGNED => 1,
        Bits::Four => 8,
        Bits::Five => 4,
        Bits::Six => 2,
        Bits::Eight => 1,
    };

    /// # Safety
    /// AVX2 and F16C must be there, the unit must be readable for the type's sizes.
    unsafe fn scales(unit: Unit) -> Scales;

    /// # Safety
    /// As for `scales`.
    unsafe fn words(unit: Unit) -> [__m256i; WORDS];
}

impl Unit {
    /// Eight of sixteen f16.
    ///
    /// # Safety
    /// AVX2 and F16C must be there; 32 bytes must be readable.
    #[inline(always)]
    unsafe fn halves(self, bytes: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bytes.add(2 * HALF_ROWS * self.half).cast())) }
    }

    /// Eight of sixteen bytes, in the low half.
    ///
    /// # Safety
    /// AVX2 must be there; 16 bytes must be readable.
    #[inline(always)]
    unsafe fn bytes(self, bytes: *const u8) -> __m128i {
        // SAFETY: the caller's promise.
        unsafe { _mm_loadl_epi64(bytes.add(HALF_ROWS * self.half).cast()) }
    }

    /// This half of the codes' vector at `index`.
    ///
    /// # Safety
    /// AVX2 must be there; the vector must be readable.
    #[inline(always)]
    unsafe fn vector(self, index: usize) -> __m256i {
        let place = 4 * (PANEL_ROWS * index + HALF_ROWS * self.half);
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_si256(self.codes.add(place).cast()) }
    }
}

/// # Safety
/// AVX2 must be there; four vectors of codes must be readable.
#[inline(always)]
unsafe fn nibbles(unit: Unit) -> [__m256i; WORDS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let mut words = [mask; WORDS];
        for index in 0..4 {
            let both = unit.vector(index);
            words[index] = _mm256_and_si256(both, mask);
            words[index + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
        }
        words
    }
}

/// # Safety
/// As for [`nibbles`], with the masks of the fifth bits behind them.
#[inline(always)]
unsafe fn five_bits(unit: Unit) -> [__m256i; WORDS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut words = nibbles(unit);
        // Eight bytes get the byte that holds their bits, then each looks at its own bit.
        let bytes = _mm256_setr_epi64x(
            0,
            0x0101_0101_0101_0101,
            0x0202_0202_0202_0202,
            0x0303_0303_0303_0303,
        );
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let fifth = _mm256_set1_epi8(16);
        let masks = unit.codes.add(256).cast::<i32>().add(unit.half);
        for (index, word) in words.iter_mut().enumerate() {
            let mask = _mm256_set1_epi32(masks.add(2 * index).read_unaligned());
            let own = _mm256_and_si256(_mm256_shuffle_epi8(mask, bytes), bit);
            let set = _mm256_cmpeq_epi8(own, bit);
            *word = _mm256_or_si256(*word, _mm256_and_si256(set, fifth));
        }
        words
    }
}

/// # Safety
/// As for [`nibbles`], with the pairs of high bits behind them.
#[inline(always)]
unsafe fn six_bits(unit: Unit) -> [__m256i; WORDS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut words = nibbles(unit);
        let mask = _mm256_set1_epi8(0x30);
        for (index, words) in words.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            // The pair of word `f` of four is at bit 2f of each byte; it has to be at bit 4.
            let pairs = unit.vector(4 + index);
            let raised = [
                _mm256_slli_epi16::<4>(pairs),
                _mm256_slli_epi16::<2>(pairs),
                pairs,
                _mm256_srli_epi16::<2>(pairs),
            ];
            for (word, high) in words.iter_mut().zip(raised) {
                *word = _mm256_or_si256(*word, _mm256_and_si256(high, mask));
            }
        }
        words
    }
}

/// From an offset of 128 to signed.
///
/// # Safety
/// AVX2 must be there.
#[inline(always)]
unsafe fn signed(codes: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN)) }
}

/// # Safety
/// AVX2 must be there; eight vectors must be readable.
#[inline(always)]
unsafe fn signed_bytes(unit: Unit) -> [__m256i; WORDS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut words = [_mm256_setzero_si256(); WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            *word = signed(unit.vector(index));
        }
        words
    }
}

/// # Safety
/// As for [`nibbles`].
#[inline(always)]
unsafe fn looked_up(unit: Unit) -> [__m256i; WORDS] {
    // SAFETY: the caller's promise; the table has sixteen bytes.
    unsafe {
        let table = _mm_loadu_si128(IQ4_NL_CODES.as_ptr().cast());
        let table = signed(_mm256_broadcastsi128_si256(table));
        let mut words = nibbles(unit);
        for word in &mut words {
            *word = _mm256_shuffle_epi8(table, *word);
        }
        words
    }
}

/// # Safety
/// AVX2 and F16C must be there; 32 bytes of scales must be readable.
#[inline(always)]
unsafe fn one_scale(unit: Unit) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        Scales {
            scale: [unit.halves(unit.scales); 2],
            minimum: _mm256_setzero_ps(),
        }
    }
}

/// # Safety
/// AVX2 and F16C must be there; 64 bytes of scales must be readable.
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
/// AVX2 and F16C must be there; 64 bytes of header and 32 of scales must be readable.
#[inline(always)]
unsafe fn k_scales(unit: Unit) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        let scale = _mm256_cvtepu8_epi32(unit.bytes(unit.scales));
        let scale = _mm256_mul_ps(unit.halves(unit.header), _mm256_cvtepi32_ps(scale));
        let minimum = _mm256_cvtepu8_epi32(unit.bytes(unit.scales.add(PANEL_ROWS)));
        let minimum = _mm256_mul_ps(
            unit.halves(unit.header.add(2 * PANEL_ROWS)),
            _mm256_cvtepi32_ps(minimum),
        );
        Scales {
            scale: [scale; 2],
            minimum: _mm256_xor_ps(minimum, _mm256_set1_ps(-0.0)),
        }
    }
}

/// # Safety
/// AVX2 and F16C must be there; 32 bytes of header and of scales must be readable.
#[inline(always)]
unsafe fn half_scales(unit: Unit) -> Scales {
    // SAFETY: the caller's promise.
    unsafe {
        let d = unit.halves(unit.header);
        let first = _mm256_cvtepi8_epi32(unit.bytes(unit.scales));
        let last = _mm256_cvtepi8_epi32(unit.bytes(unit.scales.add(PANEL_ROWS)));
        Scales {
            scale: [
                _mm256_mul_ps(d, _mm256_cvtepi32_ps(first)),
                _mm256_mul_ps(d, _mm256_cvtepi32_ps(last)),
            ],
            minimum: _mm256_setzero_ps(),
        }
    }
}

macro_rules! format {
    ($name:ident, $weight_type:ident, $words:path, $scales:path) => {
        struct $name;

        impl Format for $name {
            const WEIGHT_TYPE: WeightType = WeightType::$weight_type;

            #[inline(always)]
            unsafe fn scales(unit: Unit) -> Scales {
                // SAFETY: the caller's promise.
                unsafe { $scales(unit) }
            }

            #[inline(always)]
            unsafe fn words(unit: Unit) -> [__m256i; WORDS] {
                // SAFETY: the caller's promise.
                unsafe { $words(unit) }
            }
        }
    };
}

format!(Q4_0, Q4_0, nibbles, one_scale);
format!(Q4_1, Q4_1, nibbles, scale_and_minimum);
format!(Q5_0, Q5_0, five_bits, one_scale);
format!(Q5_1, Q5_1, five_bits, scale_and_minimum);
format!(Q8_0, Q8_0, signed_bytes, one_scale);
format!(Iq4Nl, IQ4_NL, looked_up, one_scale);
format!(Q4K, Q4_K, nibbles, k_scales);
format!(Q5K, Q5_K, five_bits, k_scales);
format!(Q6K, Q6_K, six_bits, half_scales);

pub(in super::super) fn multiply(operands: &Operands<'_>, products: Products<'_>) {
    // SAFETY: the caller has checked all lengths, and an `Isa` of this level exists only
    // where the features were found.
    unsafe {
        match operands.weight_type {
            WeightType::Q4_0 => tile::<Q4_0>(operands, products),
            WeightType::Q4_1 => tile::<Q4_1>(operands, products),
            WeightType::Q5_0 => tile::<Q5_0>(operands, products),
            WeightType::Q5_1 => tile::<Q5_1>(operands, products),
            WeightType::Q8_0 => tile::<Q8_0>(operands, products),
            WeightType::IQ4_NL => tile::<Iq4Nl>(operands, products),
            WeightType::Q4_K => tile::<Q4K>(operands, products),
            WeightType::Q5_K => tile::<Q5K>(operands, products),
            WeightType::Q6_K => tile::<Q6K>(operands, products),
        }
    }
}

/// Multiplies one panel by the columns of a tile.
///
/// # Safety
/// The features must be there and all lengths as [`super::super::multiply`] checks them.
#[target_feature(enable = "avx2,f16c,fma")]
unsafe fn tile<F: Format>(operands: &Operands<'_>, mut products: Products<'_>) {
    let weight_type = F::WEIGHT_TYPE;
    let units = weight_type.block_len() / BLOCK;
    let halves = products.rows.div_ceil(HALF_ROWS);
    let mut sums: [Sums; 2] = [[[_mm256_setzero_ps(); GROUP_COLUMNS]; _]; 2];
    let mut weights = operands.panel.as_ptr();
    let mut block = Block {
        start: operands.tile.as_ptr(),
        columns: operands.columns,
    };
    for _ in 0..operands.k / weight_type.block_len() {
        let header = weights;
        // SAFETY: the panel holds that many superblocks of a header and its units, the
        // tile as many blocks.
        unsafe {
            weights = weights.add(weight_type.header_bytes());
            for _ in 0..units {
                if operands.columns <= PREFETCH_COLUMNS_MAX {
                    prefetch(weights, weight_type.unit_bytes());
                }
                for (half, sums) in sums.iter_mut().enumerate().take(halves) {
                    let unit = Unit {
                        header,
                        scales: weights,
                        codes: weights.add(weight_type.unit_scale_bytes()),
                        half,
                    };
                    half_unit::<F>(unit, block, sums);
                }
                weights = weights.add(weight_type.unit_bytes());
                block.start = block.start.add(operands.columns * COLUMN_BYTES);
            }
        }
    }
    for column in 0..operands.columns {
        let mut rows = [0f32; PANEL_ROWS];
        for (rows, sums) in rows.as_chunks_mut::<HALF_ROWS>().0.iter_mut().zip(&sums) {
            let sum = sums[column / GROUP_COLUMNS][column % GROUP_COLUMNS];
            // SAFETY: eight floats are writable.
            unsafe { _mm256_storeu_ps(rows.as_mut_ptr(), sum) };
        }
        let places = products.column(column);
        places.copy_from_slice(&rows[..places.len()]);
    }
}

/// Adds 32 elements of eight rows and of each column to the sums.
///
/// # Safety
/// The features must be there, the unit and the block be readable.
#[inline]
#[target_feature(enable = "avx2,f16c,fma")]
unsafe fn half_unit<F: Format>(unit: Unit, block: Block, sums: &mut Sums) {
    // SAFETY: the caller's promise; no group goes beyond the columns.
    unsafe {
        let weights = Weights {
            words: F::words(unit),
            scales: F::scales(unit),
        };
        for (index, sums) in sums.iter_mut().enumerate() {
            let first = index * GROUP_COLUMNS;
            let group = Group { block, first };
            match block.columns.saturating_sub(first) {
                0 => break,
                1 => group.add::<F, 1>(&weights, sums),
                2 => group.add::<F, 2>(&weights, sums),
                3 => group.add::<F, 3>(&weights, sums),
                _ => group.add::<F, GROUP_COLUMNS>(&weights, sums),
            }
        }
    }
}

/// 32 elements of all columns of a tile, in lines of `columns` words.
#[derive(Clone, Copy)]
struct Block {
    start: *const u8,
    columns: usize,
}

/// Neighbouring columns of a block.
#[derive(Clone, Copy)]
struct Group {
    block: Block,
    first: usize,
}

impl Group {
    const SCALE: usize = 8;
    const NEGATIVE_SUM: usize = 9;
    const NEGATIVE_LAST_SUM: usize = 10;
    const SCALED_SUM: usize = 11;

    /// One word of a column in every lane.
    ///
    /// # Safety
    /// AVX2 must be there, and the block be readable.
    #[inline(always)]
    unsafe fn word(self, line: usize, column: usize) -> __m256i {
        let place = line * self.block.columns + self.first + column;
        // SAFETY: the caller's promise.
        unsafe { _mm256_set1_epi32(self.block.start.cast::<i32>().add(place).read_unaligned()) }
    }

    /// # Safety
    /// As for `word`.
    #[inline(always)]
    unsafe fn float(self, line: usize, column: usize) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_castsi256_ps(self.word(line, column)) }
    }

    /// Adds 32 elements of `N` columns to the sums.
    ///
    /// # Safety
    /// The features must be there, and the block be readable.
    #[inline]
    #[target_feature(enable = "avx2,f16c,fma")]
    unsafe fn add<F: Format, const N: usize>(
        self,
        weights: &Weights,
        sums: &mut [__m256; GROUP_COLUMNS],
    ) {
        let Weights { words, scales } = weights;
        // SAFETY: the caller's promise.
        unsafe {
            if F::WEIGHT_TYPE.has_half_scales() {
                let (first, last) = words.split_at(WORDS / 2);
                let dots = self.dots::<F, N>(first, 0);
                self.scale(sums, &dots, scales.scale[0]);
                let dots = self.dots::<F, N>(last, WORDS / 2);
                self.scale(sums, &dots, scales.scale[1]);
                return;
            }
            let dots = self.dots::<F, N>(words, 0);
            self.scale(sums, &dots, scales.scale[0]);
            if F::WEIGHT_TYPE.has_minimum() {
                for (column, sum) in sums.iter_mut().enumerate().take(N) {
                    let scaled_sum = self.float(Self::SCALED_SUM, column);
                    *sum = _mm256_fmadd_ps(scales.minimum, scaled_sum, *sum);
                }
            }
        }
    }

    /// The integer products of `words`, the first of which meets the activations of `line`.
    ///
    /// # Safety
    /// As for `word`.
    #[inline(always)]
    unsafe fn dots<F: Format, const N: usize>(
        self,
        words: &[__m256i],
        line: usize,
    ) -> [__m256i; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut dots = self.starts::<F, N>(line);
            for (part, words) in words.chunks_exact(F::WORDS_16_BITS).enumerate() {
                let mut short = [_mm256_setzero_si256(); N];
                for (index, word) in words.iter().enumerate() {
                    let line = line + part * F::WORDS_16_BITS + index;
                    for (column, short) in short.iter_mut().enumerate() {
                        let product = product::<F>(*word, self.word(line, column));
                        *short = _mm256_add_epi16(*short, product);
                    }
                }
                for (dot, short) in dots.iter_mut().zip(short) {
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(short, ones));
                }
            }
            dots
        }
    }

    /// What the integer sums start with. A code is larger by the offset than its value, so
    /// they start lower by so many times the sum of the activations.
    ///
    /// # Safety
    /// As for `word`.
    #[inline(always)]
    unsafe fn starts<F: Format, const N: usize>(self, line: usize) -> [__m256i; N] {
        // SAFETY: the caller's promise. All offsets are powers of two.
        unsafe {
            let mut starts = [_mm256_setzero_si256(); N];
            let offset = F::WEIGHT_TYPE.offset();
            if F::SIGNED || offset == 0 {
                return starts;
            }
            let shift = _mm_cvtsi32_si128(offset.trailing_zeros().cast_signed());
            for (column, start) in starts.iter_mut().enumerate() {
                let mut sum = self.word(Self::NEGATIVE_SUM, column);
                if F::WEIGHT_TYPE.has_half_scales() {
                    let last = self.word(Self::NEGATIVE_LAST_SUM, column);
                    sum = if line == 0 {
                        _mm256_sub_epi32(sum, last)
                    } else {
                        last
                    };
                }
                *start = _mm256_sll_epi32(sum, shift);
            }
            starts
        }
    }

    /// Adds what the integers stand for to the sums.
    ///
    /// # Safety
    /// As for `word`, with FMA.
    #[inline(always)]
    unsafe fn scale<const N: usize>(
        self,
        sums: &mut [__m256; GROUP_COLUMNS],
        dots: &[__m256i; N],
        scale: __m256,
    ) {
        for (column, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let scale = _mm256_mul_ps(scale, self.float(Self::SCALE, column));
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(*dot), scale, *sum);
            }
        }
    }
}

/// Products of bytes, added by pairs. `vpsignb` gives an activation the sign of its value;
/// the activations, never -128, can bear that, and a value of -128 is 128 without a sign.
///
/// # Safety
/// AVX2 must be there.
#[inline(always)]
unsafe fn product<F: Format>(word: __m256i, activations: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if F::SIGNED {
            let activations = _mm256_sign_epi8(activations, word);
            _mm256_maddubs_epi16(_mm256_abs_epi8(word), activations)
        } else {
            _mm256_maddubs_epi16(word, activations)
        }
    }
}

/// Rounds columns into a tile, whose length the caller has checked.
pub(in super::super) fn quantize_tile(columns: &[&[f32]], tile: &mut [u8]) {
    let width = columns.len();
    for (index, column) in columns.iter().enumerate() {
        let blocks = tile.chunks_exact_mut(width * COLUMN_BYTES);
        for (values, bytes) in column.as_chunks::<BLOCK>().0.iter().zip(blocks) {
            // SAFETY: an `Isa` of this level exists only where the features were found.
            unsafe { quantize_block(values, bytes, width, index) };
        }
    }
}

/// Rounds 32 values to one column's places in a block of a tile.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_block(values: &[f32; BLOCK], bytes: &mut [u8], width: usize, column: usize) {
    assert!(bytes.len() == width * COLUMN_BYTES && column < width);
    // SAFETY: 32 floats are readable.
    let vectors: [__m256; 4] =
        std::array::from_fn(|index| unsafe { _mm256_loadu_ps(values.as_ptr().add(8 * index)) });
    let sign = _mm256_set1_ps(-0.0);
    let [a, b, c, d] = vectors.map(|v| _mm256_andnot_ps(sign, v));
    let largest = largest(_mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, d)));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let inverse = _mm256_set1_ps(inverse);
    let [a, b, c, d] = vectors.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
    let last_sum = sum(_mm256_add_epi32(c, d));
    let all_sum = sum(_mm256_add_epi32(a, b)).wrapping_add(last_sum);
    // A difference of a value and itself is 0 but for what is not finite.
    let [e, f, g, h] = vectors.map(|v| _mm256_sub_ps(v, v));
    let zeros = _mm256_or_ps(_mm256_or_ps(e, f), _mm256_or_ps(g, h));
    let equal = _mm256_cmp_ps::<_CMP_EQ_OQ>(zeros, _mm256_setzero_ps());
    let scale = match _mm256_movemask_ps(equal) {
        0xff => largest / 127.0,
        _ => f32::NAN,
    };
    // Packing works on each half of a register, so its words come out of order.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let quants = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    let mut lines = [0u32; 12];
    // SAFETY: eight words are writable; the places of a column are within the block, whose
    // length was checked above.
    unsafe {
        let words = _mm256_permutevar8x32_epi32(quants, order);
        _mm256_storeu_si256(lines.as_mut_ptr().cast(), words);
        lines[8] = scale.to_bits();
        lines[9] = all_sum.wrapping_neg().cast_unsigned();
        lines[10] = last_sum.wrapping_neg().cast_unsigned();
        lines[11] = (scale * all_sum as f32).to_bits();
        let out = bytes.as_mut_ptr().cast::<u32>().add(column);
        for (line, word) in lines.iter().enumerate() {
            out.add(line * width).write_unaligned(*word);
        }
    }
}

/// The largest lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest(lanes: __m256) -> f32 {
    let four = _mm_max_ps(
        _mm256_castps256_ps128(lanes),
        _mm256_extractf128_ps::<1>(lanes),
    );
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// The sum of all lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum(lanes: __m256i) -> i32 {
    let (low, high) = (
        _mm256_castsi256_si128(lanes),
        _mm256_extracti128_si256::<1>(lanes),
    );
    let four = _mm_add_epi32(low, high);
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}
