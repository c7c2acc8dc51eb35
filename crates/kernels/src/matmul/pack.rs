//! From GGUF's blocks to panels, and back to floats.
//!
//! Every source type is first taken apart to codes: eight words of four codes, one code a
//! byte, for 32 elements of one row. Codes of 4 bits are packed two a byte, word `g` in
//! the low half and word `g + 4` in the high half of the same byte. The fifth bit of 64
//! codes (a word of each of sixteen rows) makes one 64-bit mask; the fifth and sixth bits
//! of four words share a byte. Block layouts: ggml's `ggml-common.h`.

use super::weights::{Bits, IQ4_NL_CODES};
use super::{BLOCK, PANEL_ROWS, WeightType};
use crate::float::f16_to_f32;

/// Eight words of four codes.
type Words = [u32; 8];

const LOW_NIBBLES: u32 = 0x0f0f_0f0f;
const LOW_PAIRS: u32 = 0x0303_0303;

/// Packs up to [`PANEL_ROWS`] rows of the source, each `k` elements long, to one panel.
/// Rows that are missing become zeros.
///
/// # Panics
/// When a length is wrong: a mistake of the caller.
pub fn pack_panel(weight_type: WeightType, k: usize, rows: &[u8], panel: &mut [u8]) {
    let row_bytes = weight_type.row_bytes(k);
    assert!(rows.len() <= PANEL_ROWS * row_bytes && rows.len().is_multiple_of(row_bytes));
    assert_eq!(panel.len(), weight_type.panel_bytes(k));
    // A type that the compiler knows makes constants of the sizes and choices below, and the
    // packing several times as fast.
    macro_rules! for_each_type {
        ($($name:ident)*) => {
            match weight_type {
                $(WeightType::$name => pack_rows(WeightType::$name, rows, row_bytes, panel),)*
            }
        };
    }
    for_each_type!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL Q4_K Q5_K Q6_K);
}

#[inline(always)]
fn pack_rows(weight_type: WeightType, rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    let superblocks = panel.chunks_exact_mut(weight_type.superblock_bytes());
    for (index, superblock) in superblocks.enumerate() {
        superblock.fill(0);
        for (row, source) in rows.chunks_exact(row_bytes).enumerate() {
            let start = index * weight_type.block_bytes();
            let block = &source[start..start + weight_type.block_bytes()];
            pack_block(weight_type, block, row, superblock);
        }
    }
}

#[inline(always)]
fn pack_block(weight_type: WeightType, block: &[u8], row: usize, superblock: &mut [u8]) {
    let (header, units) = superblock.split_at_mut(weight_type.header_bytes());
    match weight_type {
        WeightType::Q4_K | WeightType::Q5_K => {
            header[2 * row..][..2].copy_from_slice(&block[0..2]);
            header[2 * PANEL_ROWS + 2 * row..][..2].copy_from_slice(&block[2..4]);
        }
        WeightType::Q6_K => header[2 * row..][..2].copy_from_slice(&block[208..210]),
        _ => {}
    }
    for (index, unit) in units.chunks_exact_mut(weight_type.unit_bytes()).enumerate() {
        let (scales, codes) = unit.split_at_mut(weight_type.unit_scale_bytes());
        pack_scales(weight_type, block, index, row, scales);
        pack_codes(
            weight_type.bits(),
            &words(weight_type, block, index),
            row,
            codes,
        );
    }
}

#[inline(always)]
fn pack_scales(weight_type: WeightType, block: &[u8], unit: usize, row: usize, scales: &mut [u8]) {
    let second = scales.len() / 2;
    match weight_type {
        WeightType::Q4_1 | WeightType::Q5_1 => {
            scales[2 * row..][..2].copy_from_slice(&block[0..2]);
            scales[second + 2 * row..][..2].copy_from_slice(&block[2..4]);
        }
        WeightType::Q4_K | WeightType::Q5_K => {
            let (scale, minimum) = k_scale(&block[4..16], unit);
            scales[row] = scale;
            scales[second + row] = minimum;
        }
        WeightType::Q6_K => {
            scales[row] = block[192 + 2 * unit];
            scales[second + row] = block[192 + 2 * unit + 1];
        }
        _ => scales[2 * row..][..2].copy_from_slice(&block[0..2]),
    }
}

/// The 6-bit scale and minimum of the `index`th of eight sub-blocks of a K type.
fn k_scale(packed: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let low = packed[index + 4];
        let (scale_high, minimum_high) = (packed[index - 4] >> 6, packed[index] >> 6);
        ((low & 15) | scale_high << 4, (low >> 4) | minimum_high << 4)
    }
}

/// The codes of 32 elements: the `unit`th 32 of a block.
#[inline(always)]
fn words(weight_type: WeightType, block: &[u8], unit: usize) -> Words {
    let word = |bytes: &[u8], index: usize| {
        let four = &bytes[4 * index..4 * index + 4];
        u32::from_le_bytes([four[0], four[1], four[2], four[3]])
    };
    // In blocks of 32 the low halves of 16 bytes hold the first 16 elements.
    let split = |nibbles: &[u8]| -> Words {
        std::array::from_fn(|g| (word(nibbles, g % 4) >> (4 * (g / 4))) & LOW_NIBBLES)
    };
    let with_high = |low: Words, high: u32| -> Words {
        std::array::from_fn(|g| low[g] | spread_bits((high >> (4 * g)) & 15) << 4)
    };
    match weight_type {
        WeightType::Q4_0 | WeightType::IQ4_NL => split(&block[2..]),
        WeightType::Q4_1 => split(&block[4..]),
        WeightType::Q5_0 => with_high(split(&block[6..]), word(&block[2..], 0)),
        WeightType::Q5_1 => with_high(split(&block[8..]), word(&block[4..], 0)),
        // From signed to an offset of 128: the sign bit flips.
        WeightType::Q8_0 => std::array::from_fn(|g| word(&block[2..], g) ^ 0x8080_8080),
        // In K types 32 bytes hold 32 elements in the low and the next 32 in the high halves.
        WeightType::Q4_K => {
            let nibbles = &block[16 + 32 * (unit / 2)..];
            std::array::from_fn(|g| (word(nibbles, g) >> (4 * (unit % 2))) & LOW_NIBBLES)
        }
        WeightType::Q5_K => {
            let nibbles = &block[48 + 32 * (unit / 2)..];
            let high = &block[16..48];
            std::array::from_fn(|g| {
                let low = (word(nibbles, g) >> (4 * (unit % 2))) & LOW_NIBBLES;
                low | ((word(high, g) >> unit) & 0x0101_0101) << 4
            })
        }
        WeightType::Q6_K => {
            let (half, quarter) = (unit / 4, unit % 4);
            let nibbles = &block[64 * half + 32 * (quarter % 2)..];
            let high = &block[128 + 32 * half..];
            std::array::from_fn(|g| {
                let low = (word(nibbles, g) >> (4 * (quarter / 2))) & LOW_NIBBLES;
                low | ((word(high, g) >> (2 * quarter)) & LOW_PAIRS) << 4
            })
        }
    }
}

/// Puts four bits into the lowest bits of four bytes.
fn spread_bits(four: u32) -> u32 {
    (four & 1) | (four & 2) << 7 | (four & 4) << 14 | (four & 8) << 21
}

/// The inverse of [`spread_bits`].
fn gather_bits(bytes: u32) -> u32 {
    (bytes & 1) | (bytes >> 7 & 2) | (bytes >> 14 & 4) | (bytes >> 21 & 8)
}

#[inline(always)]
fn pack_codes(bits: Bits, words: &Words, row: usize, codes: &mut [u8]) {
    let mut put = |vector: usize, word: u32| {
        codes[64 * vector + 4 * row..][..4].copy_from_slice(&word.to_le_bytes());
    };
    if bits == Bits::Eight {
        words.iter().enumerate().for_each(|(g, word)| put(g, *word));
        return;
    }
    for g in 0..4 {
        put(
            g,
            (words[g] & LOW_NIBBLES) | (words[g + 4] & LOW_NIBBLES) << 4,
        );
    }
    if bits == Bits::Six {
        for half in 0..2 {
            let high = |f: usize| ((words[4 * half + f] >> 4) & LOW_PAIRS) << (2 * f);
            put(4 + half, high(0) | high(1) | high(2) | high(3));
        }
    }
    if bits == Bits::Five {
        for (g, word) in words.iter().enumerate() {
            let nibble = gather_bits(word >> 4 & 0x0101_0101) as u8;
            codes[256 + 8 * g + row / 2] |= nibble << (4 * (row % 2));
        }
    }
}

/// Gives the `row`th row of a panel back in the source's form, bit for bit.
///
/// # Panics
/// When a length is wrong: a mistake of the caller.
pub fn unpack_row(weight_type: WeightType, k: usize, panel: &[u8], row: usize, out: &mut [u8]) {
    assert_eq!(panel.len(), weight_type.panel_bytes(k));
    assert!(out.len() == weight_type.row_bytes(k) && row < PANEL_ROWS);
    let superblocks = panel.chunks_exact(weight_type.superblock_bytes());
    for (superblock, block) in superblocks.zip(out.chunks_exact_mut(weight_type.block_bytes())) {
        block.fill(0);
        unpack_block(weight_type, superblock, row, block);
    }
}

fn unpack_block(weight_type: WeightType, superblock: &[u8], row: usize, block: &mut [u8]) {
    let (header, units) = superblock.split_at(weight_type.header_bytes());
    match weight_type {
        WeightType::Q4_K | WeightType::Q5_K => {
            block[0..2].copy_from_slice(&header[2 * row..][..2]);
            block[2..4].copy_from_slice(&header[2 * PANEL_ROWS + 2 * row..][..2]);
        }
        WeightType::Q6_K => block[208..210].copy_from_slice(&header[2 * row..][..2]),
        _ => {}
    }
    for (index, unit) in units.chunks_exact(weight_type.unit_bytes()).enumerate() {
        let (scales, codes) = unit.split_at(weight_type.unit_scale_bytes());
        unpack_scales(weight_type, scales, index, row, block);
        let codes = read_codes(weight_type.bits(), codes, row);
        for (element, code) in codes.into_iter().enumerate() {
            unpack_code(weight_type, code, index, element, block);
        }
    }
}

fn unpack_scales(
    weight_type: WeightType,
    scales: &[u8],
    unit: usize,
    row: usize,
    block: &mut [u8],
) {
    let second = scales.len() / 2;
    match weight_type {
        WeightType::Q4_1 | WeightType::Q5_1 => {
            block[0..2].copy_from_slice(&scales[2 * row..][..2]);
            block[2..4].copy_from_slice(&scales[second + 2 * row..][..2]);
        }
        WeightType::Q4_K | WeightType::Q5_K => {
            let (scale, minimum) = (scales[row], scales[second + row]);
            let packed = &mut block[4..16];
            if unit < 4 {
                packed[unit] |= scale;
                packed[unit + 4] |= minimum;
            } else {
                packed[unit + 4] |= (scale & 15) | (minimum & 15) << 4;
                packed[unit - 4] |= scale >> 4 << 6;
                packed[unit] |= minimum >> 4 << 6;
            }
        }
        WeightType::Q6_K => {
            block[192 + 2 * unit] = scales[row];
            block[192 + 2 * unit + 1] = scales[second + row];
        }
        _ => block[0..2].copy_from_slice(&scales[2 * row..][..2]),
    }
}

/// The inverse of [`words`], for one element.
fn unpack_code(weight_type: WeightType, code: u8, unit: usize, element: usize, block: &mut [u8]) {
    let (nibble, high) = (code & 15, code >> 4);
    let (place, shift) = (element % 16, 4 * (element / 16));
    match weight_type {
        WeightType::Q4_0 | WeightType::IQ4_NL => block[2 + place] |= nibble << shift,
        WeightType::Q4_1 => block[4 + place] |= nibble << shift,
        WeightType::Q5_0 => {
            block[2 + element / 8] |= high << (element % 8);
            block[6 + place] |= nibble << shift;
        }
        WeightType::Q5_1 => {
            block[4 + element / 8] |= high << (element % 8);
            block[8 + place] |= nibble << shift;
        }
        WeightType::Q8_0 => block[2 + element] = code ^ 0x80,
        WeightType::Q4_K => {
            block[16 + 32 * (unit / 2) + element] |= nibble << (4 * (unit % 2));
        }
        WeightType::Q5_K => {
            block[16 + element] |= high << unit;
            block[48 + 32 * (unit / 2) + element] |= nibble << (4 * (unit % 2));
        }
        WeightType::Q6_K => {
            let (half, quarter) = (unit / 4, unit % 4);
            block[64 * half + 32 * (quarter % 2) + element] |= nibble << (4 * (quarter / 2));
            block[128 + 32 * half + element] |= high << (2 * quarter);
        }
    }
}

/// One packed panel, to be read element by element: for the scalar reference.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel<'a> {
    pub(super) weight_type: WeightType,
    pub(super) bytes: &'a [u8],
}

/// 32 elements of one row.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Unsigned codes; the value is the code less [`WeightType::offset`].
    pub(super) codes: [u8; BLOCK],
    /// Scale of each half; the same twice but for Q6_K.
    pub(super) scales: [f32; 2],
    /// Added to each element; 0 for types without.
    pub(super) minimum: f32,
}

impl Panel<'_> {
    pub(super) fn block(&self, index: usize, row: usize) -> Block {
        let weight_type = self.weight_type;
        let units = weight_type.block_len() / BLOCK;
        let superblock = &self.bytes[index / units * weight_type.superblock_bytes()..];
        let (header, rest) = superblock.split_at(weight_type.header_bytes());
        let unit = &rest[index % units * weight_type.unit_bytes()..][..weight_type.unit_bytes()];
        let (scales, codes) = unit.split_at(weight_type.unit_scale_bytes());
        let (scales, minimum) = read_scales(weight_type, header, scales, row);
        let mut read = read_codes(weight_type.bits(), codes, row);
        if weight_type == WeightType::IQ4_NL {
            read = read.map(|code| IQ4_NL_CODES[usize::from(code)]);
        }
        Block {
            codes: read,
            scales,
            minimum,
        }
    }
}

fn half_at(bytes: &[u8], index: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]))
}

fn read_scales(
    weight_type: WeightType,
    header: &[u8],
    scales: &[u8],
    row: usize,
) -> ([f32; 2], f32) {
    let second = scales.len() / 2;
    match weight_type {
        WeightType::Q4_1 | WeightType::Q5_1 => {
            ([half_at(scales, row); 2], half_at(&scales[second..], row))
        }
        WeightType::Q4_K | WeightType::Q5_K => {
            let scale = half_at(header, row) * f32::from(scales[row]);
            let minimum = half_at(&header[2 * PANEL_ROWS..], row) * f32::from(scales[second + row]);
            ([scale; 2], -minimum)
        }
        WeightType::Q6_K => {
            let d = half_at(header, row);
            let scale = |byte: u8| d * f32::from(byte.cast_signed());
            ([scale(scales[row]), scale(scales[second + row])], 0.0)
        }
        _ => ([half_at(scales, row); 2], 0.0),
    }
}

fn read_codes(bits: Bits, codes: &[u8], row: usize) -> [u8; BLOCK] {
    std::array::from_fn(|element| {
        let (word, lane) = (element / 4, 4 * row + element % 4);
        if bits == Bits::Eight {
            return codes[64 * word + lane];
        }
        let low = (codes[64 * (word % 4) + lane] >> (4 * (word / 4))) & 15;
        match bits {
            Bits::Five => {
                let bit = codes[256 + 8 * word + lane / 8] >> (lane % 8) & 1;
                low | bit << 4
            }
            Bits::Six => {
                let pair = codes[256 + 64 * (word / 4) + lane] >> (2 * (word % 4)) & 3;
                low | pair << 4
            }
            _ => low,
        }
    })
}

/// A row of the source as floats, as ggml's `dequantize_row_*` gives them.
///
/// # Panics
/// When the lengths do not fit: a mistake of the caller.
pub fn dequantize_row(weight_type: WeightType, row: &[u8], out: &mut [f32]) {
    assert_eq!(row.len(), weight_type.row_bytes(out.len()));
    let blocks = row.chunks_exact(weight_type.block_bytes());
    for (block, out) in blocks.zip(out.chunks_exact_mut(weight_type.block_len())) {
        for (unit, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let (scales, minimum) = source_scales(weight_type, block, unit);
            let words = words(weight_type, block, unit);
            for (element, value) in out.iter_mut().enumerate() {
                let mut code = (words[element / 4] >> (8 * (element % 4))) as u8;
                if weight_type == WeightType::IQ4_NL {
                    code = IQ4_NL_CODES[usize::from(code)];
                }
                let quant = (i32::from(code) - weight_type.offset()) as f32;
                *value = scales[element / 16] * quant + minimum;
            }
        }
    }
}

fn source_scales(weight_type: WeightType, block: &[u8], unit: usize) -> ([f32; 2], f32) {
    match weight_type {
        WeightType::Q4_1 | WeightType::Q5_1 => ([half_at(block, 0); 2], half_at(block, 1)),
        WeightType::Q4_K | WeightType::Q5_K => {
            let (scale, minimum) = k_scale(&block[4..16], unit);
            let scale = half_at(block, 0) * f32::from(scale);
            ([scale; 2], -(half_at(block, 1) * f32::from(minimum)))
        }
        WeightType::Q6_K => {
            let d = half_at(&block[208..], 0);
            let scale = |half: usize| d * f32::from(block[192 + 2 * unit + half].cast_signed());
            ([scale(0), scale(1)], 0.0)
        }
        _ => ([half_at(block, 0); 2], 0.0),
    }
}
