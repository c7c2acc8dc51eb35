use proptest::prelude::*;

use super::*;
use crate::state::{Form as StateForm, Kinds, join};

const LIMIT: usize = 1 << 26;
const CELLS: usize = 32;
const HEADS: usize = 3;
const HEAD_WIDTH: usize = 64;
const WIDTH: usize = HEADS * HEAD_WIDTH;
const LAYERS: usize = 6;

struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 + 0.5) / (1 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        let (radius, angle) = (self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f32::consts::TAU * angle).cos()
    }
}

/// Keys and values like those of small models: channels of keys differ in size by a lot and some have
/// a mean far from 0, positions turn pairs of channels, tokens differ in size, and the first
/// token is unlike all others.
fn tensor(side: Side, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let channels: Vec<(f32, f32)> = (0..WIDTH)
        .map(|_| {
            let size = random.normal().exp();
            let mean = if random.uniform() < 0.15 {
                4.0 * random.normal()
            } else {
                0.0
            };
            (size, mean * size)
        })
        .collect();
    let mut numbers = Vec::new();
    for cell in 0..CELLS {
        let token = (0.3 * random.normal()).exp();
        let first = if cell == 0 { 6.0 } else { 1.0 };
        let mut row: Vec<f32> = channels
            .iter()
            .map(|(size, mean)| first * (mean + token * size * random.normal()))
            .collect();
        if side == Side::Values {
            row.iter_mut()
                .zip(&channels)
                .for_each(|(value, (_, mean))| *value -= mean);
        }
        for head in row.chunks_mut(HEAD_WIDTH).filter(|_| side == Side::Keys) {
            for pair in 0..HEAD_WIDTH / 2 {
                let angle = cell as f32 / 10_000_f32.powf(pair as f32 / 32.0);
                let (sin, cos) = angle.sin_cos();
                let (a, b) = (head[pair], head[pair + HEAD_WIDTH / 2]);
                head[pair] = a * cos - b * sin;
                head[pair + HEAD_WIDTH / 2] = a * sin + b * cos;
            }
        }
        numbers.extend(row);
    }
    numbers
}

fn side_of(at: usize) -> Side {
    if at < LAYERS {
        Side::Keys
    } else {
        Side::Values
    }
}

fn numbers() -> Vec<Vec<f32>> {
    (0..2 * LAYERS)
        .map(|at| tensor(side_of(at), at as u64 + 1))
        .collect()
}

/// A section in one type for each side; `rotated`: as a quantised cache has it.
fn section(types: [CacheType; 2], rotated: [usize; 2], transposed: bool) -> Vec<u8> {
    let number = |cache_type: CacheType| {
        (0..64)
            .find(|number| values::of_ggml(*number) == Some(cache_type))
            .unwrap()
    };
    let mut out = Vec::new();
    out.extend(1_u32.to_le_bytes());
    out.extend((CELLS as u32).to_le_bytes());
    for cell in 0..CELLS as i32 {
        out.extend(cell.to_le_bytes());
        out.extend(1_u32.to_le_bytes());
        out.extend(0_i32.to_le_bytes());
    }
    for number in [
        u32::from(transposed),
        LAYERS as u32,
        rotated[0] as u32,
        rotated[1] as u32,
    ] {
        out.extend(number.to_le_bytes());
    }
    for (at, mut numbers) in numbers().into_iter().enumerate() {
        let side = usize::from(side_of(at) == Side::Values);
        let (cache_type, rotation) = (types[side], rotated[side]);
        rotate(&mut numbers, rotation);
        let row_bytes = cache_type.row_bytes(WIDTH as u64) as usize;
        let mut rows = vec![0; row_bytes * CELLS];
        values::write(cache_type, &numbers, &mut rows);
        out.extend(number(cache_type).to_le_bytes());
        if transposed && side == 1 {
            out.extend(2_u32.to_le_bytes());
            out.extend((WIDTH as u32).to_le_bytes());
            for channel in 0..WIDTH {
                for cell in 0..CELLS {
                    let at = cell * row_bytes + 2 * channel;
                    out.extend(&rows[at..at + 2]);
                }
            }
        } else {
            out.extend((row_bytes as u64).to_le_bytes());
            out.extend(rows);
        }
    }
    out
}

fn f16() -> Vec<u8> {
    section([CacheType::F16; 2], [0; 2], false)
}

/// Of a model with nothing but rows.
fn form(section: &[u8]) -> StateForm {
    let state = [&[9, 9, 9, 9, 0, 0, 0, 0], section].concat();
    let kinds = Kinds {
        attention: true,
        window: false,
        recurrent: false,
    };
    StateForm::find(kinds, &state, &state).unwrap()
}

fn encoded(section: &[u8], options: &Options) -> Vec<u8> {
    encode(&form(section).read(section).unwrap(), options)
}

fn layout(section: &[u8]) -> Layout {
    Layout::of(&form(section).read(section).unwrap()).unwrap()
}

/// The share of the square that is lost between two sections, in some cells: of keys, and of values.
fn shares(before: &[u8], after: &[u8], cells: std::ops::Range<usize>) -> [f64; 2] {
    let of = |section: &[u8]| {
        let read = form(section);
        let read = read.read(section).unwrap();
        let frame = Frame::of(&read).unwrap();
        let tensors = read.tensors().zip(frame.forms);
        let rows = tensors.map(|(tensor, form)| {
            let mut numbers = vec![0.0; WIDTH * CELLS];
            let rows = form.rows(tensor.data, CELLS);
            values::read(form.cache_type.unwrap(), &rows, &mut numbers);
            rotate(&mut numbers, form.rotation);
            numbers[cells.start * WIDTH..cells.end * WIDTH].to_vec()
        });
        rows.collect::<Vec<_>>()
    };
    let square = |x: f32| f64::from(x) * f64::from(x);
    let shares = of(before).into_iter().zip(of(after)).map(|(a, b)| {
        let lost: f64 = a.iter().zip(&b).map(|(a, b)| square(a - b)).sum();
        lost / a.iter().map(|x| square(*x)).sum::<f64>()
    });
    let shares: Vec<f64> = shares.collect();
    let (keys, values) = shares.split_at(LAYERS);
    [keys, values].map(|side| side.iter().sum::<f64>() / LAYERS as f64)
}

fn share(before: &[u8], after: &[u8], cells: std::ops::Range<usize>) -> f64 {
    let [keys, values] = shares(before, after, cells);
    f64::midpoint(keys, values)
}

fn zstd(bytes: &[u8], level: i32) -> usize {
    zstd::bulk::compress(bytes, level).unwrap().len()
}

#[test]
fn lossless_is_to_the_bit_in_every_type() {
    for cache_type in CacheType::ALL {
        let rotation = if cache_type.is_quantised() {
            HEAD_WIDTH
        } else {
            0
        };
        let section = section([cache_type; 2], [rotation; 2], false);
        let stream = encoded(&section, &Options::new(Level::Lossless));
        assert_eq!(
            decode(&stream, None, LIMIT),
            Ok(section.clone()),
            "{cache_type}"
        );
        let same = decode(&stream, Some(&layout(&section)), LIMIT);
        assert_eq!(same.unwrap(), section, "{cache_type}");
        let about = about(&stream).unwrap();
        assert_eq!((about.class, about.bytes), (Class::Exact, section.len()));
        // Of digits that were rounded to a few bits there is next to nothing left to take.
        let theirs = zstd(&section, 19) as f64;
        let most = match cache_type.is_quantised() {
            true => 1.01 * theirs,
            false => theirs,
        };
        let ours = stream.len() as f64;
        assert!(ours < most, "{cache_type}: {ours} and {theirs}");
    }
    let transposed = section([CacheType::F16; 2], [0; 2], true);
    let stream = encoded(&transposed, &Options::new(Level::Lossless));
    assert_eq!(decode(&stream, None, LIMIT), Ok(transposed));
}

/// Half of a float's digits are noise, so that not much is to be had; a general compressor finds
/// less of it.
#[test]
fn lossless_is_smaller_than_a_general_compressor_makes_it() {
    let section = f16();
    let ours = encoded(&section, &Options::new(Level::Lossless)).len() as f64;
    for level in [3, 19] {
        let theirs = zstd(&section, level) as f64;
        assert!(ours < 0.95 * theirs, "zstd -{level}: {ours} and {theirs}");
    }
    assert!(ours < 0.88 * section.len() as f64, "{ours}");
}

#[test]
fn levels_take_about_their_bits_and_lose_what_a_grid_loses() {
    let section = f16();
    let numbers = (2 * LAYERS * CELLS * WIDTH) as f64;
    for bits in 3..=8 {
        let options = Options {
            exact_first: 1,
            ..Options::new(Level::Bits(bits))
        };
        let stream = encoded(&section, &options);
        let taken = 8.0 * stream.len() as f64 / numbers;
        let sink = 13.0 / CELLS as f64;
        assert!(taken < f64::from(bits) + sink + 0.2, "{bits}: {taken}");
        let back = decode(&stream, None, LIMIT).unwrap();
        assert_eq!(back.len(), section.len());
        // A grid loses a twelfth of the square of its step, of both sides alike.
        let step = |side: f32| f64::from((NORMAL_BITS - f32::from(bits) - side).exp2());
        let bound = (step(SIDE_BITS).powi(2) + step(-SIDE_BITS).powi(2)) / 24.0;
        let lost = share(&section, &back, 1..CELLS);
        assert!(lost < 1.05 * bound, "{bits}: {lost}, bound {bound}");
        assert!(lost > 0.2 * bound, "{bits}: {lost}, bound {bound}");
        assert_eq!(share(&section, &back, 0..1), 0.0, "the first cell is exact");
        assert_eq!(about(&stream).unwrap().level, Level::Bits(bits));
    }
}

/// At a quarter of the bytes of 16 bits no more is lost than the live cache of 4 bits loses, with
/// its rotation, in more bytes; where keys count for three quarters.
#[test]
fn four_bits_lose_less_than_the_type_of_four_bits() {
    let section = f16();
    let live = crate::parked::tests::section([CacheType::Q4_0; 2], [HEAD_WIDTH; 2], false);
    let weighted = |after: &[u8]| {
        let [keys, values] = shares(&section, after, 0..CELLS);
        KEYS_SHARE * keys + (1.0 - KEYS_SHARE) * values
    };
    let theirs = weighted(&live);
    let stream = encoded(&section, &Options::new(Level::Bits(4)));
    let back = decode(&stream, None, LIMIT).unwrap();
    let ours = weighted(&back);
    assert!(
        4 * stream.len() < section.len(),
        "{} of {}",
        stream.len(),
        section.len()
    );
    assert!(stream.len() < live.len());
    assert!(ours < theirs, "{ours} and {theirs}");
}

#[test]
fn classes_follow_what_is_lost() {
    let section = f16();
    let class = |level| {
        about(&encoded(&section, &Options::new(level)))
            .unwrap()
            .class
    };
    let classes: Vec<Class> = Level::ALL.into_iter().map(class).collect();
    assert!(classes.is_sorted(), "{classes:?}");
    assert_eq!((classes[0], classes[5]), (Class::Exact, Class::Q4));
    assert_eq!(classes[7], Class::Coarse);
}

/// What was put away from a context of 16 bits goes into one of 8, and back, within what those lose.
#[test]
fn states_go_into_contexts_of_other_types() {
    let wide = f16();
    let pairs = [
        [CacheType::Q8_0; 2],
        [CacheType::Q8_0, CacheType::Q4_0],
        [CacheType::Iq4Nl, CacheType::Q5_1],
        [CacheType::Bf16; 2],
    ];
    for types in pairs {
        let is_quantised = types[0].is_quantised();
        let rotation = if is_quantised {
            [HEAD_WIDTH; 2]
        } else {
            [0; 2]
        };
        let live = section(types, rotation, false);
        let bound = 1.02 * share(&wide, &live, 0..CELLS);
        for level in [Level::Lossless, Level::Bits(8)] {
            let more = if level == Level::Lossless { 0.0 } else { 4e-5 };
            let there = decode(
                &encoded(&wide, &Options::new(level)),
                Some(&layout(&live)),
                LIMIT,
            );
            let there = there.unwrap();
            assert_eq!(there.len(), live.len());
            let lost = share(&wide, &there, 0..CELLS);
            assert!(
                lost <= bound + more,
                "{types:?} {level}: {lost}, bound {bound}"
            );
            let back = decode(
                &encoded(&live, &Options::new(level)),
                Some(&layout(&wide)),
                LIMIT,
            );
            let lost = share(&live, &back.unwrap(), 0..CELLS);
            assert!(lost <= 1e-6 + more, "{types:?} {level} back: {lost}");
        }
    }
    // Values may be transposed where they are not quantised.
    let transposed = section([CacheType::F16; 2], [0; 2], true);
    let stream = encoded(&wide, &Options::new(Level::Lossless));
    assert_eq!(
        decode(&stream, Some(&layout(&transposed)), LIMIT),
        Ok(transposed)
    );
}

#[test]
fn another_model_is_refused() {
    let wide = f16();
    let stream = encoded(&wide, &Options::new(Level::Lossless));
    // A layer less.
    let mut fewer = layout(&wide);
    fewer = Layout::of(
        &form(&without_a_layer(&wide))
            .read(&without_a_layer(&wide))
            .unwrap(),
    )
    .filter(|other| *other != fewer)
    .unwrap();
    assert_eq!(
        decode(&stream, Some(&fewer), LIMIT),
        Err(ParkedError::Layout)
    );
    assert!(matches!(
        decode(&stream, None, 1000),
        Err(ParkedError::TooLarge { .. })
    ));
}

fn without_a_layer(section: &[u8]) -> Vec<u8> {
    let tensor = 12 + 2 * WIDTH * CELLS;
    let start = 8 + 12 * CELLS;
    let mut out = section[..section.len() - 2 * tensor].to_vec();
    out[start + 4..start + 8].copy_from_slice(&(LAYERS as u32 - 1).to_le_bytes());
    out
}

#[test]
fn blocks_are_put_together_after_they_were_parked() {
    let wide = f16();
    let read = form(&wide);
    let whole = read.read(&wide).unwrap();
    let halves = [
        whole.cut(0, CELLS / 2).unwrap(),
        whole.cut(CELLS / 2, CELLS).unwrap(),
    ];
    let parked = halves.map(|half| {
        let stream = encode(&read.read(&half).unwrap(), &Options::new(Level::Lossless));
        decode(&stream, None, LIMIT).unwrap()
    });
    let sections = [
        read.read(&parked[0]).unwrap(),
        read.read(&parked[1]).unwrap(),
    ];
    assert_eq!(join(&sections), Some(wide));
}

#[test]
fn numbers_that_are_none_are_kept_as_they_are() {
    let mut wide = f16();
    // The first key of the first layer becomes infinite, a later one no number.
    let first = 8 + 12 * CELLS + 16 + 12;
    wide[first..first + 2].copy_from_slice(&[0x00, 0x7c]);
    wide[first + 20..first + 22].copy_from_slice(&[0x01, 0x7e]);
    let stream = encoded(&wide, &Options::new(Level::Bits(4)));
    let back = decode(&stream, None, LIMIT).unwrap();
    let tensor = 2 * WIDTH * CELLS;
    assert_eq!(back[..first + tensor], wide[..first + tensor]);
    assert_ne!(back, wide);
}

#[test]
fn other_bytes_and_empty_ones_are_kept() {
    let state: Vec<u8> = numbers()[0]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    let stream = encode_bytes(&state);
    assert!(
        stream.len() < zstd(&state, 19),
        "{} and {}",
        stream.len(),
        zstd(&state, 19)
    );
    assert_eq!(decode(&stream, None, LIMIT), Ok(state));
    for bytes in [&b""[..], b"a", b"abc", &[0; 100_000]] {
        let stream = encode_bytes(bytes);
        assert_eq!(decode(&stream, None, LIMIT).as_deref(), Ok(bytes));
        assert!(stream.len() <= bytes.len() + HEADER_BYTES);
    }
    let nothing = crate::state::nothing();
    assert_eq!(decode(&encode_bytes(&nothing), None, LIMIT), Ok(nothing));
}

#[test]
fn levels_have_names() {
    for level in Level::ALL {
        assert_eq!(level.to_string().parse(), Ok(level));
    }
    assert!(
        "9bit"
            .parse::<Level>()
            .unwrap_err()
            .to_string()
            .contains("9bit")
    );
}

fn small() -> Vec<u8> {
    let wide = f16();
    let read = form(&wide);
    read.read(&wide).unwrap().cut(3, 9).unwrap()
}

proptest! {
    #[test]
    fn no_change_of_any_byte_passes(at in any::<prop::sample::Index>(), change in 1_u8.., bits in 0_u8..5) {
        let level = if bits < 2 { Level::Lossless } else { Level::Bits(bits) };
        let mut stream = encoded(&small(), &Options::new(level));
        let at = at.index(stream.len());
        stream[at] ^= change;
        prop_assert!(decode(&stream, None, LIMIT).is_err());
    }

    /// A right checksum over wrong bytes.
    #[test]
    fn hostile_bytes_are_no_accident(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        front in any::<bool>(),
        bits in 0_u8..5,
        len in any::<prop::sample::Index>(),
    ) {
        let level = if bits < 2 { Level::Lossless } else { Level::Bits(bits) };
        let mut stream = encoded(&small(), &Options::new(level));
        for (at, byte) in changes {
            // Heads and tables are few bytes at the front.
            let at = at.index(if front { 400 } else { stream.len() });
            stream[at] = byte;
        }
        let into = layout(&section([CacheType::Q8_0; 2], [64; 2], false));
        let limit = 1 << 22;
        for stream in [stream[..len.index(stream.len())].to_vec(), stream] {
            let stream = signed(&stream);
            for into in [None, Some(&into)] {
                if let Ok(bytes) = decode(&stream, into, limit) {
                    prop_assert!(bytes.len() <= limit);
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0_u8..4) {
        let mut stream = [&MAGIC[..], &[VERSION, kind, 0, 0], &bytes].concat();
        prop_assert!(decode(&bytes, None, LIMIT).is_err());
        stream.resize(stream.len().max(HEADER_BYTES), 0);
        let _ = decode(&signed(&stream), None, LIMIT);
    }

    #[test]
    fn any_bytes_are_kept(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(decode(&encode_bytes(&bytes), None, LIMIT), Ok(bytes));
    }
}
