//! What a model is served as follows from what its file says it was made for.

#![expect(clippy::expect_used, reason = "test code")]

mod tiny_model;

use engine::{Decoder, Embedder, LlamaEngine, OpenError, Row};
use testkit::tiny::{Family, Purpose};
use tiny_model::TinyModel;

fn open(model: &TinyModel) -> Result<LlamaEngine, OpenError> {
    // Its log is long and says nothing of this.
    llama::init(|_, _| {}, llama::Kernels::Own);
    let options = tiny_model::options(model, 64, 1);
    LlamaEngine::open(&options, |_| true)
}

/// The vector of a text, and whether the model also generates.
fn vector(family: Family, purpose: Purpose) -> (Vec<f32>, bool) {
    let model = TinyModel::write(family, purpose);
    let mut engine = open(&model).expect("the tiny model loads");
    let vector = engine.embedder.embed(&[70, 71, 72]).expect("a vector");
    (vector, engine.decoder.is_some())
}

#[test]
fn a_reranker_is_refused() {
    for pooling_type in [4, 9] {
        let purpose = Purpose {
            pooling_type: Some(pooling_type),
            ..Purpose::default()
        };
        let model = TinyModel::write(Family::Llama, purpose);
        let error = open(&model).expect_err("it gives no vectors");
        let message = error.to_string();
        assert!(
            message.contains(&format!("pooling_type is {pooling_type};")),
            "{message}"
        );
    }
}

#[test]
fn models_embed_as_their_files_say() {
    let purpose = |pooling_type, is_causal| Purpose {
        pooling_type,
        is_causal,
        ..Purpose::default()
    };
    // Without a way to pool, an encoder gives the mean.
    let (unstated, generates) = vector(Family::Llama, purpose(None, Some(false)));
    assert!(!generates);
    let (mean, generates) = vector(Family::Llama, purpose(Some(1), Some(false)));
    assert!(!generates);
    assert_eq!((unstated.len(), &unstated), (64, &mean));
    let (last, _) = vector(Family::Llama, purpose(Some(3), Some(false)));
    assert_ne!(last, mean);
    // A chat model does both.
    for family in [Family::Llama, Family::Gemma3] {
        let (vector, generates) = vector(family, purpose(Some(0), None));
        assert!(generates);
        assert_eq!(vector.len(), 64);
    }
    assert!(open(&TinyModel::write(Family::Llama, Purpose::default())).is_ok());
}

#[test]
fn what_was_given_back_is_taken_again() {
    let model = TinyModel::write(Family::Llama, Purpose::default());
    let engine = open(&model).expect("the tiny model loads");
    let (mut decoder, mut embedder) = (engine.decoder.expect("it generates"), engine.embedder);
    let rows: Vec<Row> = (0..5)
        .map(|position| Row {
            token: 70 + i32::try_from(position).expect("a small number"),
            position,
            sequence: 1,
            output: position == 4,
        })
        .collect();
    let mut answer = || {
        decoder.decode(&rows).expect("it decodes");
        let logits = decoder.logits(4).expect("asked for").to_vec();
        assert!(decoder.truncate(1, 0));
        decoder.give_back();
        assert!(decoder.logits(4).is_none());
        assert!(decoder.truncate(1, 0) && !decoder.share(1, 0, 3));
        logits
    };
    assert_eq!(answer(), answer());
    let first = embedder.embed(&[70, 71]).expect("a vector");
    embedder.give_back();
    assert_eq!(embedder.embed(&[70, 71]).expect("a vector"), first);
}
