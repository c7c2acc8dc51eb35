//! Rows of one tensor through a [`Port`], each number in the context of its channel in the rows
//! before it.
//!
//! Channels differ much in size and in their mean, and keep both from token to token; entropy
//! coding takes no rotation to make use of that. What is said here of a channel is
//! integer arithmetic over what was coded before, so that a reader has it, too.

use super::rans::Port;

/// Contexts of numbers of a grid: how far they lie from what was expected, in halves of octaves.
pub(super) const GRID_CONTEXTS: usize = 24;
/// Contexts of the upper half of a 16-bit float: how steady its size is, and its sign; and one
/// for the first row.
pub(super) const HALF_CONTEXTS: usize = 17;
/// Contexts of other bytes: the upper half of the byte above.
pub(super) const BYTE_CONTEXTS: usize = 16;

/// Binary digits of a mean behind the point.
const POINT: u32 = 4;
/// Numbers are taken as at most this where means are formed.
const MEAN_MOST: i32 = 1 << 20;
/// The symbol of what is farther from its expectation than symbols go; the number follows.
const FAR: u8 = u8::MAX;
/// A mean over many rows follows a new one by a part of 1 in 2 to this. Positions turn keys, so that
/// what is expected of them does not last; how far they lie from there does.
const MEAN_SHIFT: u32 = 2;
const SPREAD_SHIFT: u32 = 3;

/// Of a row by its place: the first sets a mean, then it moves by less and less.
fn shift(row: usize, most: u32) -> u32 {
    let shift = match row {
        0 => 0,
        1 => 1,
        2 | 3 => 2,
        _ => 3,
    };
    shift.min(most)
}

fn zigzag(number: i32) -> u32 {
    ((number << 1) ^ (number >> 31)).cast_unsigned()
}

fn unzigzag(number: u32) -> i32 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

/// A number as a symbol, and behind an escape as bytes.
#[inline]
fn number(port: &mut impl Port, context: usize, number: i32) -> i32 {
    let folded = zigzag(number);
    let symbol = match u8::try_from(folded) {
        Ok(symbol) if symbol < FAR => symbol,
        _ => FAR,
    };
    let symbol = port.symbol(context, symbol);
    if symbol < FAR {
        return unzigzag(u32::from(symbol));
    }
    unzigzag(u32::from_le_bytes(
        folded.to_le_bytes().map(|byte| port.byte(byte)),
    ))
}

/// What is known of a channel of a grid.
#[derive(Debug, Clone, Copy, Default)]
struct Channel {
    mean: i32,
    /// The mean distance from what was expected.
    spread: i32,
}

/// Rows of numbers of a grid.
#[derive(Debug)]
pub(super) struct Grid {
    channels: Vec<Channel>,
    rows: usize,
    first_context: usize,
}

impl Grid {
    pub(super) fn new(n_channels: usize, first_context: usize) -> Self {
        Self {
            channels: vec![Channel::default(); n_channels],
            rows: 0,
            first_context,
        }
    }

    pub(super) fn row(&mut self, port: &mut impl Port, row: &mut [i32]) {
        let spread_shift = shift(self.rows, SPREAD_SHIFT);
        let mean_shift = shift(self.rows, MEAN_SHIFT);
        // What is near in the row is of its size, too.
        let mut near = 1 << POINT;
        for (value, channel) in row.iter_mut().zip(&mut self.channels) {
            let expected = match self.rows {
                0 => 0,
                _ => (channel.mean + (1 << (POINT - 1))) >> POINT,
            };
            let spread = match self.rows {
                0 => near,
                _ => (3 * channel.spread + near) >> 2,
            };
            let context = self.first_context + octave(spread);
            let distance = number(port, context, value.wrapping_sub(expected));
            *value = expected.wrapping_add(distance);
            let far = (distance.unsigned_abs().min(MEAN_MOST as u32) << POINT) as i32;
            near += (far - near) >> SPREAD_SHIFT;
            channel.spread += (far - channel.spread) >> spread_shift;
            let now = (*value).clamp(-MEAN_MOST, MEAN_MOST) << POINT;
            channel.mean += (now - channel.mean) >> mean_shift;
        }
        self.rows += 1;
    }
}

/// Twice the logarithm, by the first bit behind it.
#[inline]
fn octave(spread: i32) -> usize {
    let spread = spread.max(1).cast_unsigned();
    let whole = spread.ilog2();
    let half = ((spread << 1) >> whole) & 1;
    ((2 * whole + half) as usize).min(GRID_CONTEXTS - 1)
}

/// What is known of a channel of 16-bit floats.
#[derive(Debug, Clone, Copy, Default)]
struct HalfChannel {
    /// The exponent with two digits, as a mean.
    size: i32,
    /// Its mean distance from there.
    spread: i32,
    /// Above 0 for positive ones; at most 64.
    sign: i32,
}

/// Rows of 16-bit floats as they are.
#[derive(Debug)]
pub(super) struct Halves {
    channels: Vec<HalfChannel>,
    rows: usize,
    first_context: usize,
}

impl Halves {
    pub(super) fn new(n_channels: usize, first_context: usize) -> Self {
        Self {
            channels: vec![HalfChannel::default(); n_channels],
            rows: 0,
            first_context,
        }
    }

    pub(super) fn row(&mut self, port: &mut impl Port, row: &mut [u8]) {
        let shift = shift(self.rows, SPREAD_SHIFT);
        let mut near = 0;
        for (pair, channel) in row
            .as_chunks_mut::<2>()
            .0
            .iter_mut()
            .zip(&mut self.channels)
        {
            let (size, context) = match self.rows {
                0 => (near, HALF_CONTEXTS - 1),
                _ => (channel.size, channel.context()),
            };
            let expected = ((size + (1 << (POINT - 1))) >> POINT) as u8 & 0x7f;
            let flip = if channel.sign < 0 { 0x80 } else { 0 };
            let upper = pair[1];
            let distance = (upper & 0x7f).wrapping_sub(expected) & 0x7f;
            let symbol = port.symbol(
                self.first_context + context,
                distance | ((upper & 0x80) ^ flip),
            );
            let found = symbol.wrapping_add(expected) & 0x7f;
            pair[1] = found | ((symbol & 0x80) ^ flip);
            pair[0] = port.byte(pair[0]);
            let now = i32::from(found) << POINT;
            near += (now - near) >> 2;
            channel.spread += ((now - size).abs() - channel.spread) >> shift;
            channel.size += (now - channel.size) >> shift;
            let sign = if pair[1] < 0x80 { 64 } else { -64 };
            channel.sign += (sign - channel.sign) >> shift;
        }
        self.rows += 1;
    }
}

impl HalfChannel {
    fn context(&self) -> usize {
        let steady = match self.sign.abs() {
            60.. => 3,
            40.. => 2,
            20.. => 1,
            _ => 0,
        };
        let narrow = match self.spread {
            0..=23 => 0,
            24..=47 => 1,
            48..=79 => 2,
            _ => 3,
        };
        4 * steady + narrow
    }
}

/// What a byte of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing is known of it before.
    Plain,
    /// Like the byte of its place in the row before.
    Scale,
    /// The same, of another kind.
    Digit,
}

/// Rows of any bytes that repeat after `roles`.
#[derive(Debug)]
pub(super) struct Bytes<'a> {
    above: Vec<u8>,
    roles: &'a [Role],
    first_context: usize,
}

impl<'a> Bytes<'a> {
    /// There are twice [`BYTE_CONTEXTS`].
    pub(super) fn new(row_bytes: usize, roles: &'a [Role], first_context: usize) -> Self {
        Self {
            above: vec![0; row_bytes],
            roles,
            first_context,
        }
    }

    pub(super) fn row(&mut self, port: &mut impl Port, row: &mut [u8]) {
        let roles = self.roles.iter().cycle();
        for ((byte, above), role) in row.iter_mut().zip(&mut self.above).zip(roles) {
            let first = match role {
                Role::Plain => {
                    *byte = port.byte(*byte);
                    continue;
                }
                Role::Scale => self.first_context,
                Role::Digit => self.first_context + BYTE_CONTEXTS,
            };
            *byte = port.symbol(first + usize::from(*above >> 4), *byte);
            *above = *byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_folded_and_unfolded() {
        for number in [0, -1, 1, 127, -128, 128, i32::MAX, i32::MIN] {
            assert_eq!(unzigzag(zigzag(number)), number);
        }
        assert_eq!([0, -1, 1, -2].map(zigzag), [0, 1, 2, 3]);
    }

    #[test]
    fn octaves_are_halved() {
        let found = [0, 1, 2, 3, 4, 6, 8, 11, 12, i32::MAX].map(octave);
        assert_eq!(found, [0, 0, 2, 3, 4, 5, 6, 6, 7, GRID_CONTEXTS - 1]);
    }
}
