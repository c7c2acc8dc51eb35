//! What was put away and taken back is what was there, to the bit, and it is gone on from as
//! if it had been computed.

#![expect(clippy::expect_used, clippy::panic, reason = "test code")]

mod tiny_model;

use std::sync::Arc;

use engine::{Decoder, LlamaDecoder, LlamaEngine, Pieces, Place, Row, TokenId};
use kv::parked;
use llama::{CacheType, CacheTypes, LayerTypes, Types};
use prefix::{BLOCK_TOKENS, Content, Needs, Plane};
use testkit::tiny::{Family, Purpose};
use tiny_model::TinyModel;

const BLOCKS: usize = 6;
/// Tokens after the place that is gone on from.
const TAIL: usize = 20;
const SCRATCH: i32 = 1;

fn token(at: usize) -> TokenId {
    TokenId::try_from(4 + (at * at + at / 7) % 200).expect("few")
}

/// Reads tokens `from..to` of the text into a sequence, in passes of at most 16; gives the
/// last logits.
fn read(decoder: &mut LlamaDecoder, sequence: i32, from: usize, to: usize) -> Vec<f32> {
    let mut logits = Vec::new();
    let positions: Vec<usize> = (from..to).collect();
    for pass in positions.chunks(16) {
        let rows: Vec<Row> = pass
            .iter()
            .map(|at| Row {
                token: token(*at),
                position: u32::try_from(*at).expect("few"),
                sequence,
                output: at + 1 == to,
            })
            .collect();
        decoder.decode(&rows).expect("it is read");
        if let Some(last) = decoder.logits(rows.len() - 1) {
            logits = last.to_vec();
        }
    }
    logits
}

fn open(model: &TinyModel, types: CacheType) -> LlamaDecoder {
    let both = Types {
        keys: types,
        values: types,
    };
    open_with(model, &CacheTypes::Uniform(both))
}

fn open_with(model: &TinyModel, types: &CacheTypes) -> LlamaDecoder {
    llama::init(|_, _| {}, llama::Kernels::Own);
    let is_exact = |types: &Types| types.values == CacheType::F32;
    let options = engine::OpenOptions {
        types: types.clone(),
        flash_attention: match types {
            CacheTypes::Uniform(types) if is_exact(types) => llama::FlashAttention::Off,
            _ => llama::FlashAttention::Auto,
        },
        ..tiny_model::options(model, 512, 2)
    };
    let engine = LlamaEngine::open(&options, |_| true).expect("the model loads");
    engine.decoder.expect("it generates")
}

/// All that is needed to go on behind so many blocks, of a sequence that ends there.
fn save(decoder: &mut LlamaDecoder, needs: &Needs, at: Place, blocks: usize) -> Pieces {
    let contents = |pieces: Option<Vec<Vec<u8>>>| -> Vec<Arc<Content>> {
        let pieces = pieces.expect("it can be taken");
        pieces
            .into_iter()
            .map(|piece| Arc::new(Content::new(piece)))
            .collect()
    };
    let mut pieces = Pieces {
        is_last: true,
        ..Pieces::default()
    };
    if needs.rows {
        pieces.rows = contents(decoder.save(at, Plane::Rows, 0..blocks));
    }
    if needs.window_blocks > 0 {
        let first = blocks.saturating_sub(needs.window_blocks);
        pieces.window = contents(decoder.save(at, Plane::Window, first..blocks));
    }
    if needs.state {
        let state = contents(decoder.save(at, Plane::State, blocks - 1..blocks));
        pieces.state = state.into_iter().next();
    }
    pieces
}

fn bytes(pieces: &Pieces) -> Vec<Vec<u8>> {
    let all = pieces
        .rows
        .iter()
        .chain(&pieces.window)
        .chain(&pieces.state);
    all.map(|content| content.to_vec()).collect()
}

/// How far two rows of logits are from each other. A model of random weights may compute what
/// is no number, and then must compute it again.
fn distance(got: &[f32], expected: &[f32]) -> f32 {
    let each = got
        .iter()
        .zip(expected)
        .map(|(a, b)| match (a.is_nan(), b.is_nan()) {
            (true, true) => 0.0,
            (false, false) => (a - b).abs(),
            _ => f32::INFINITY,
        });
    each.fold(0.0, f32::max)
}

/// Saves in one engine, restores in another one, and compares bytes and what comes next. `None`:
/// what comes next is no number, so that it tells less.
fn check(model: &TinyModel, types: &CacheTypes, what: &str) -> Option<Needs> {
    let len = BLOCKS * BLOCK_TOKENS;
    let mut first = open_with(model, types);
    let needs = first
        .needs()
        .unwrap_or_else(|| panic!("{what}: states cannot be taken apart"));
    read(&mut first, 0, 0, len);
    let with_scratch = Place {
        sequence: 0,
        scratch: Some(SCRATCH),
    };
    let pieces = save(&mut first, &needs, with_scratch, BLOCKS);
    let expected = read(&mut first, 0, len, len + TAIL);

    let mut second = open_with(model, types);
    // Other tokens in the way, so that the cells are not the same ones.
    read(&mut second, 2, 0, 40);
    let place = Place {
        sequence: 0,
        scratch: None,
    };
    assert!(
        second.restore(place, 0..BLOCKS, &pieces),
        "{what}: nothing restored"
    );
    let again = save(&mut second, &needs, with_scratch, BLOCKS);
    assert_eq!(bytes(&again), bytes(&pieces), "{what}: other bits");
    let got = read(&mut second, 0, len, len + TAIL);
    let far = distance(&got, &expected);
    assert!(far < 2e-3, "{what}: logits differ by {far}");

    // In an empty context the cells are the same ones, and so is every bit that follows.
    let mut third = open_with(model, types);
    assert!(third.restore(place, 0..BLOCKS, &pieces));
    let got = read(&mut third, 0, len, len + TAIL);
    if needs.window_blocks == 0 {
        let bits = |logits: &[f32]| logits.iter().map(|one| one.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&expected), "{what}: other logits");
    }
    // In two parts it is the same.
    let mut fourth = open_with(model, types);
    if needs.rows {
        let first = Pieces {
            rows: pieces.rows[..2].to_vec(),
            window: Vec::new(),
            state: pieces.state.clone(),
            is_last: false,
        };
        let second = Pieces {
            rows: pieces.rows[2..].to_vec(),
            ..pieces.clone()
        };
        assert!(
            fourth.restore(with_scratch, 0..2, &first),
            "{what}: not the first part"
        );
        assert!(
            fourth.restore(with_scratch, 2..BLOCKS, &second),
            "{what}: not the second"
        );
        let again = save(&mut fourth, &needs, with_scratch, BLOCKS);
        assert_eq!(bytes(&again), bytes(&pieces), "{what}: other bits in parts");
        let got = read(&mut fourth, 0, len, len + TAIL);
        assert!(
            distance(&got, &expected) < 2e-3,
            "{what}: other logits in parts"
        );
    }
    // It can be shared and, where that is possible, cut.
    assert!(third.share(0, 2, len + TAIL), "{what}: not shared");
    let is_finite = expected.iter().all(|logit| logit.is_finite());
    is_finite.then_some(needs)
}

#[test]
fn states_of_every_family_come_back_to_the_bit() {
    let mut shapes = Vec::new();
    for family in Family::ALL {
        let what = format!("{family:?}");
        let model = TinyModel::write(family, Purpose::default());
        let types: &[CacheType] = match family {
            Family::DeepSeek2 => &[CacheType::F32],
            _ => &[CacheType::F32, CacheType::F16],
        };
        for types in types {
            let both = CacheTypes::Uniform(Types {
                keys: *types,
                values: *types,
            });
            let needs = check(&model, &both, &format!("{what} {types:?}"));
            let shape = |needs: Needs| (needs.rows, needs.window_blocks > 0, needs.state);
            shapes.extend(needs.map(shape));
        }
    }
    // Plain, windowed, recurrent and both: a family that was taken for another kind would
    // leave one of these out.
    for shape in [
        (true, false, false),
        (true, true, false),
        (false, false, true),
        (true, false, true),
    ] {
        assert!(shapes.contains(&shape), "{shape:?}");
    }
}

/// The layers of a family that keep keys, in the order of their tensors.
fn key_layers(family: Family) -> &'static [u32] {
    match family {
        // The sixth sees all tokens, the others a window.
        Family::Gemma3 => &[5, 0, 1, 2, 3, 4],
        Family::FalconH1 => &[0, 1],
        _ => &[0, 1, 2],
    }
}

/// A model and a small context on it, without the engine.
fn bare(
    model: &TinyModel,
    (types, attention): (CacheTypes, llama::FlashAttention),
) -> (llama::Model, llama::Context) {
    let loaded = load(model);
    let params = bare_params(types, attention);
    let context = llama::Context::new(&loaded, &params).expect("it can be made");
    (loaded, context)
}

fn load(model: &TinyModel) -> llama::Model {
    let params = llama::ModelParams {
        load_mode: llama::LoadMode::Mmap,
        offload: None,
    };
    llama::Model::load(model.path(), params, |_| true).expect("it loads")
}

fn bare_params(types: CacheTypes, attention: llama::FlashAttention) -> llama::ContextParams {
    llama::ContextParams {
        cells: 256,
        batch: 16,
        ubatch: 16,
        sequences: 1,
        outputs: 1,
        placement: llama::Placement::default(),
        types,
        flash_attention: attention,
        swa_full: false,
        embeddings: None,
    }
}

/// The state of a sequence after a pass over some more tokens.
fn state_after(context: &mut llama::Context, positions: std::ops::Range<i32>) -> Vec<u8> {
    let last = positions.end - 1;
    let mut batch = llama::Batch::default();
    for at in positions {
        batch.push(4 + at, at, 0, at == last);
    }
    context.decode(&mut batch).expect("it is read");
    let state = context.state(0, llama::Extent::Whole);
    state.expect("there is one")
}

/// Bytes that a token of a sequence takes, by llama.cpp's own count.
fn state_bytes_a_token(model: &TinyModel, types: CacheTypes) -> usize {
    let (_, mut context) = bare(model, (types, llama::FlashAttention::On));
    let eight = state_after(&mut context, 0..8).len();
    (state_after(&mut context, 8..16).len() - eight) / 8
}

/// A cell of a state, besides its keys and values.
const CELL_BYTES: usize = 12;

#[test]
fn layers_of_different_types_are_kept_and_come_back() {
    llama::init(|_, _| {}, llama::Kernels::Own);
    let types = |keys, values| Types { keys, values };
    let mixed = [
        types(CacheType::F16, CacheType::Q4_0),
        types(CacheType::Q8_0, CacheType::F16),
        types(CacheType::Q5_1, CacheType::Iq4Nl),
    ];
    for family in [Family::Llama, Family::Gemma3, Family::FalconH1] {
        let what = format!("{family:?}");
        let model = TinyModel::write(family, Purpose::default());
        let layers = key_layers(family).iter().zip(mixed.iter().cycle());
        let layers = layers.map(|(layer, types)| LayerTypes {
            layer: *layer,
            types: *types,
        });
        let layers = CacheTypes::Layers(layers.collect());
        check_bytes(&model, &layers, &what);
    }
    // Only one of two sides that are alike is another: a swap would show.
    let model = TinyModel::write(Family::Llama, Purpose::default());
    let of = |second: Types| {
        let base = types(CacheType::F16, CacheType::F16);
        let each = [base, second, base].into_iter().zip(0..);
        let layers = each.map(|(types, layer)| LayerTypes { layer, types });
        state_bytes_a_token(&model, CacheTypes::Layers(layers.collect()))
    };
    // Two heads of 32 values a side.
    let row = |of: CacheType| usize::try_from(of.row_bytes(64)).expect("few");
    let plain = CELL_BYTES + 6 * row(CacheType::F16);
    let keys = of(types(CacheType::Q8_0, CacheType::F16));
    assert_eq!(keys, plain - row(CacheType::F16) + row(CacheType::Q8_0));
    let values = of(types(CacheType::F16, CacheType::Q4_0));
    assert_eq!(values, plain - row(CacheType::F16) + row(CacheType::Q4_0));
}

/// What a comparison takes for the noise of 16 bits.
#[test]
fn a_nudge_changes_the_last_bit_of_every_second_value() {
    llama::init(|_, _| {}, llama::Kernels::Own);
    let model = TinyModel::write(Family::Gemma3, Purpose::default());
    for attention in [llama::FlashAttention::On, llama::FlashAttention::Off] {
        let types = CacheTypes::Uniform(Types::default());
        let (loaded, mut context) = bare(&model, (types, attention));
        let before = state_after(&mut context, 0..12);
        let form = engine::find_form(&loaded, &mut context).expect("it can be taken apart");
        let mut state = before.clone();
        // Two heads of 64 values a side in six layers; eight of twelve cells.
        let changed = form.nudge(&mut state, 4).expect("it is of this form");
        assert_eq!(changed, 8 * 6 * 2 * 128 / 2);
        let differing = before.iter().zip(&state).filter(|(a, b)| a != b);
        let differing: Vec<_> = differing.map(|(a, b)| a ^ b).collect();
        assert_eq!(differing, vec![1; changed]);
        assert!(context.set_state(0, &state));
        let after = context.state(0, llama::Extent::Whole);
        assert_eq!(after.as_ref(), Some(&state), "{attention:?}");
        form.nudge(&mut state, 4).expect("it is of this form");
        assert_eq!(state, before, "twice is not at all");
    }
}

/// What a calibration measures one layer by: rows of its keys or values alone are changed while they
/// are stored, and what follows looks back at the changed ones.
#[test]
fn rows_of_one_tensor_are_changed_before_they_are_looked_at() {
    use kv::Side::{Keys, Values};
    llama::init(|_, _| {}, llama::Kernels::Own);
    let model = TinyModel::write(Family::Gemma3, Purpose::default());
    let types = CacheTypes::Uniform(Types::default());
    let after = |attention, change: Option<(u32, kv::Side)>| {
        let params = bare_params(types.clone(), attention);
        let loaded = load(&model);
        let mut context = llama::Context::with_changes(&loaded, &params).expect("it can be made");
        let flip = |row: &mut [u8]| row.iter_mut().for_each(|byte| *byte ^= 0x80);
        context.change_stored(change.map(|(layer, side)| (layer, side, Box::new(flip) as _)));
        let state = state_after(&mut context, 0..12);
        let logits = context
            .logits(11)
            .expect("the last asked for them")
            .to_vec();
        (state, logits, context.n_stored_changed())
    };
    let on = llama::FlashAttention::On;
    let (before, said, none) = after(on, None);
    assert_eq!(none, 0);
    let differing = |state: &[u8]| {
        let pairs = before.iter().zip(state).filter(|(a, b)| a != b);
        pairs.count()
    };
    // Two heads of 64 values of 16 bits.
    let bytes = 12 * 256;
    for side in [Keys, Values] {
        // Nothing is kept of what comes after the last layer.
        let (state, changed, n) = after(on, Some((5, side)));
        assert_eq!((n, differing(&state)), (12, bytes), "{side:?}");
        assert_ne!(changed, said, "{side:?}");
        // Deeper layers keep something else then. These have a window, the last has none.
        for layer in [0, 3] {
            let (state, _, n) = after(on, Some((layer, side)));
            assert_eq!(n, 12, "{side:?} of {layer}");
            assert!(differing(&state) > 2 * bytes, "{side:?} of {layer}");
        }
    }
    assert_eq!(after(on, Some((6, Keys))), (before, said, 0));
    // Transposed values have no rows.
    let off = llama::FlashAttention::Off;
    assert_eq!(after(off, Some((0, Values))).2, 0);
    assert_eq!(after(off, Some((0, Keys))).2, 12);
}

/// Saved and restored bytes are the same, and in the same cells so is every bit that follows.
fn check_bytes(model: &TinyModel, types: &CacheTypes, what: &str) {
    let len = BLOCKS * BLOCK_TOKENS;
    let mut first = open_with(model, types);
    let needs = first.needs().expect("states can be taken apart");
    read(&mut first, 0, 0, len);
    let at = |scratch| Place {
        sequence: 0,
        scratch,
    };
    let pieces = save(&mut first, &needs, at(Some(SCRATCH)), BLOCKS);
    let expected = read(&mut first, 0, len, len + TAIL);
    let mut second = open_with(model, types);
    assert!(second.restore(at(None), 0..BLOCKS, &pieces), "{what}");
    let again = save(&mut second, &needs, at(Some(SCRATCH)), BLOCKS);
    assert_eq!(bytes(&again), bytes(&pieces), "{what}: other bits");
    let got = read(&mut second, 0, len, len + TAIL);
    if needs.window_blocks == 0 {
        let bits = |logits: &[f32]| logits.iter().map(|one| one.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&expected), "{what}: other logits");
    }
    // Of other types they are not taken.
    let mut stranger = open(model, CacheType::F16);
    assert!(!stranger.restore(at(None), 0..BLOCKS, &pieces), "{what}");
}

/// What was computed with one type and put away is gone on from with another, rotated or not, about
/// as well as the two types agree when both compute everything.
#[test]
fn parked_states_go_into_a_cache_of_other_types() {
    let len = BLOCKS * BLOCK_TOKENS;
    let at = |scratch| Place {
        sequence: 0,
        scratch,
    };
    let pairs = [
        (CacheType::F16, CacheType::Q8_0),
        (CacheType::Q8_0, CacheType::F16),
    ];
    for family in [Family::Llama, Family::Gemma3] {
        let model = TinyModel::write(family, Purpose::default());
        for (of, to) in pairs {
            let mut first = open(&model, of);
            let needs = first.needs().expect("states can be taken apart");
            read(&mut first, 0, 0, len);
            let mut pieces = save(&mut first, &needs, at(Some(SCRATCH)), BLOCKS);
            let before = read(&mut first, 0, len, len + TAIL);
            let mut fresh = open(&model, to);
            read(&mut fresh, 0, 0, len);
            let expected = read(&mut fresh, 0, len, len + TAIL);

            let mut second = open(&model, to);
            let states = second.states().expect("states can be taken apart");
            assert!(!second.restore(at(None), 0..BLOCKS, &pieces), "{family:?}");
            let planes = [
                (&mut pieces.rows, &states.rows),
                (&mut pieces.window, &states.window),
            ];
            for (contents, layout) in planes {
                for content in contents {
                    let section = states.form.read(content).expect("it is a section");
                    let options = parked::Options::new(parked::Level::Lossless);
                    let stream = parked::encode(&section, &options);
                    let there = parked::decode(&stream, layout.as_ref(), 1 << 24);
                    *content = Arc::new(Content::new(there.expect("it can be changed")));
                }
            }
            let what = format!("{family:?}: {of:?} into {to:?}");
            assert!(second.restore(at(None), 0..BLOCKS, &pieces), "{what}");
            let got = read(&mut second, 0, len, len + TAIL);
            let bound = 4.0 * distance(&before, &expected) + 1e-3;
            let found = distance(&got, &expected);
            assert!(found <= bound, "{what}: {found}, bound {bound}");
        }
    }
}

/// A plan for layers that are not there is no plan that took effect.
#[test]
fn a_plan_that_the_engine_does_not_follow_is_refused() {
    let model = TinyModel::write(Family::Llama, Purpose::default());
    llama::init(|_, _| {}, llama::Kernels::Own);
    let pair = |values| Types {
        keys: CacheType::F16,
        values,
    };
    let layers = |numbers: &[u32]| {
        let types = [CacheType::Q8_0, CacheType::F16].into_iter().cycle();
        let each = numbers.iter().zip(types).map(|(layer, values)| LayerTypes {
            layer: *layer,
            types: pair(values),
        });
        CacheTypes::Layers(each.collect())
    };
    for (numbers, told) in [
        (&[0, 2, 1][..], "another order"),
        (&[0, 1, 2, 3][..], "8 were planned"),
    ] {
        let options = engine::OpenOptions {
            types: layers(numbers),
            flash_attention: llama::FlashAttention::On,
            ..tiny_model::options(&model, 512, 2)
        };
        let error = LlamaEngine::open(&options, |_| true).expect_err("it is refused");
        let error = error.to_string();
        assert!(error.contains("did not take effect"), "{error}");
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn blocks_join_what_a_sequence_shares_with_another_one() {
    let model = TinyModel::write(Family::Llama, Purpose::default());
    let mut decoder = open(&model, CacheType::F16);
    let len = BLOCKS * BLOCK_TOKENS;
    read(&mut decoder, 0, 0, len);
    let at = |sequence| Place {
        sequence,
        scratch: Some(SCRATCH),
    };
    let needs = decoder.needs().expect("it can");
    let pieces = save(&mut decoder, &needs, at(0), BLOCKS);
    let expected = read(&mut decoder, 0, len, len + TAIL);
    // Two blocks are shared, the others restored behind them.
    assert!(decoder.share(0, 2, 2 * BLOCK_TOKENS));
    let rest = Pieces {
        rows: pieces.rows[2..].to_vec(),
        is_last: true,
        ..Pieces::default()
    };
    assert!(decoder.restore(at(2), 2..BLOCKS, &rest));
    let again = save(&mut decoder, &needs, at(2), BLOCKS);
    assert_eq!(bytes(&again), bytes(&pieces));
    let got = read(&mut decoder, 2, len, len + TAIL);
    assert!(distance(&got, &expected) < 2e-3);
}

#[test]
fn pieces_that_do_not_fit_are_refused() {
    let model = TinyModel::write(Family::Llama, Purpose::default());
    let other = TinyModel::write(Family::Gemma3, Purpose::default());
    let mut decoder = open(&model, CacheType::F16);
    let mut stranger = open(&other, CacheType::F16);
    read(&mut decoder, 0, 0, 64);
    read(&mut stranger, 0, 0, 64);
    let at = Place {
        sequence: 0,
        scratch: Some(SCRATCH),
    };
    let needs = decoder.needs().expect("it can");
    let pieces = save(&mut decoder, &needs, at, 2);
    let rows = |rows: Vec<Vec<u8>>| Pieces {
        rows: rows
            .into_iter()
            .map(|piece| Arc::new(Content::new(piece)))
            .collect(),
        is_last: true,
        ..Pieces::default()
    };
    let good: Vec<Vec<u8>> = bytes(&pieces);
    let of_stranger = stranger
        .save(at, Plane::Rows, 0..2)
        .expect("it can be taken");
    let mut faulty = vec![
        rows(of_stranger),
        rows(vec![good[0].clone()]),
        rows(vec![good[1].clone(), good[0].clone()]),
        rows(vec![good[0].clone(), good[0].clone()]),
        rows(vec![good[0].clone(), Vec::new()]),
    ];
    // Every byte of what describes the rows, and some of the rows' length.
    for at in (0..BLOCK_TOKENS * 12 + 40).step_by(3) {
        let mut changed = good.clone();
        changed[1][at] ^= 0x41;
        faulty.push(rows(changed));
    }
    for cut in [1, 100, good[1].len() - 1] {
        let mut changed = good.clone();
        changed[1].truncate(cut);
        faulty.push(rows(changed));
    }
    decoder.truncate(0, 0);
    let mut refused = 0;
    for pieces in &faulty {
        // Some fields say nothing that is used, such as another sequence's number.
        refused += usize::from(!decoder.restore(at, 0..2, pieces));
        decoder.truncate(0, 0);
    }
    assert!(
        refused * 10 > faulty.len() * 7,
        "{refused} of {}",
        faulty.len()
    );
    assert!(
        faulty[..5]
            .iter()
            .all(|pieces| !decoder.restore(at, 0..2, pieces))
    );
    assert!(decoder.restore(at, 0..2, &pieces));
}
