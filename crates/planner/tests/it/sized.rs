//! Llamas of any size with random weights: what they have instead of a meaning.

use std::fs::File;
use std::io::BufWriter;

use models::Gguf;
use planner::Model;
use testkit::sized::{Llama, WeightKind, write};

fn small(weights: WeightKind) -> Llama {
    Llama {
        n_layers: 2,
        n_embd: 256,
        n_ff: 512,
        n_head: 4,
        n_head_kv: 2,
        n_vocab: 300,
        weights,
        more_bits: None,
    }
}

#[test]
fn every_type_of_weights_makes_a_file_whose_tensors_fill_it() {
    let folder = tempfile::tempdir().unwrap();
    for weights in WeightKind::QUANTISED {
        let path = folder.path().join(format!("{weights:?}.gguf"));
        write(
            &small(weights),
            &mut BufWriter::new(File::create(&path).unwrap()),
        )
        .unwrap();
        let model = Model::read(&[Gguf::open(&path).unwrap()]).unwrap();
        let kinds = model.tensors.iter().filter(|tensor| tensor.is_matrix);
        assert!(
            kinds
                .clone()
                .all(|tensor| tensor.kind == format!("{weights:?}"))
        );
        assert_eq!(
            kinds.count(),
            2 * 7 + 1,
            "matrices of layers, and the output"
        );
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(model.file_bytes() < length && length < model.file_bytes() + (16 << 10));
    }
}
