//! A loaded model computes the same wherever it is told to, and as often as it is told.

#![expect(clippy::expect_used, reason = "test code")]

mod tiny_model;

use engine::{Decoder, LlamaEngine, Placement, Row};
use testkit::tiny::{Family, Purpose};

fn row(position: u32, output: bool) -> Row {
    Row {
        token: 70 + i32::try_from(position).expect("few"),
        position,
        sequence: 0,
        output,
    }
}

/// Logits after a prompt, and after a token of its own.
fn logits(decoder: &mut dyn Decoder) -> Vec<f32> {
    decoder.truncate(0, 0);
    let prompt: Vec<Row> = (0..20)
        .map(|position| row(position, position == 19))
        .collect();
    decoder.decode(&prompt).expect("the prompt is read");
    let mut all = decoder.logits(19).expect("they were asked for").to_vec();
    decoder.decode(&[row(20, true)]).expect("a token is read");
    all.extend(decoder.logits(0).expect("they were asked for"));
    all
}

#[test]
fn threads_and_cpus_change_over_between_passes() {
    llama::init(|_, _| {}, llama::Kernels::Own);
    let cpus: Vec<u32> = hardware_cpus();
    let one = vec![cpus[0]];
    let last = vec![cpus[cpus.len() - 1]];
    let place = |threads, threads_batch, cpus: &[u32], cpus_batch: &[u32]| Placement {
        threads,
        threads_batch,
        cpus: cpus.to_vec(),
        cpus_batch: cpus_batch.to_vec(),
    };
    let places = [
        place(1, 2, &[], &[]),
        place(2, 1, &[], &one),
        place(1, 1, &one, &last),
        place(2, 2, &cpus, &cpus),
        place(1, 1, &last, &one),
        place(1, 1, &[], &[]),
    ];
    for family in [Family::Llama, Family::Gemma3] {
        let model = tiny_model::TinyModel::write(family, Purpose::default());
        let options = tiny_model::options(&model, 64, 1);
        let engine = LlamaEngine::open(&options, |_| true).expect("the tiny model loads");
        let mut decoder = engine.decoder.expect("it generates");
        let expected = logits(&mut decoder);
        for round in 0..5 {
            for place in &places {
                assert!(decoder.place(place));
                if round % 2 == 0 {
                    // Without a pass in between.
                    assert!(decoder.place(&places[1]));
                    assert!(decoder.place(place));
                }
                let got = logits(&mut decoder);
                let far = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                assert!(far.fold(0.0, f32::max) < 1e-3, "{place:?}");
            }
        }
    }
}

/// Those that this thread may run on.
fn hardware_cpus() -> Vec<u32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let parts = list.unwrap_or("0").trim().split(',');
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().expect("a number");
        number(first)..=number(last)
    };
    parts.flat_map(range).collect()
}
