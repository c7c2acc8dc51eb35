//! Headers of model files, which come from strangers. Both ways to read arrays
//! must agree on everything but the arrays, and every accessor must stand what
//! was let through.

#![no_main]

use libfuzzer_sys::fuzz_target;
use models::gguf::{Arrays, Gguf};

fuzz_target!(|bytes: &[u8]| {
    let whole = Gguf::parse(bytes);
    let short = Gguf::read(bytes, bytes.len() as u64, Arrays::SkipLong);
    assert_eq!(whole.is_ok(), short.is_ok(), "{whole:?} but {short:?}");
    let (Ok(whole), Ok(short)) = (whole, short) else {
        return;
    };
    assert_eq!(whole.tensors(), short.tensors());
    assert_eq!(whole.metadata().len(), short.metadata().len());
    for gguf in [&whole, &short] {
        for entry in gguf.metadata() {
            let _ = format!("{entry:?}");
        }
        for tensor in gguf.tensors() {
            let _ = (tensor.name(), tensor.dims(), tensor.n_weights());
            assert!(tensor.offset().checked_add(tensor.bytes()).is_some());
        }
        let _ = (gguf.architecture(), gguf.name(), gguf.chat_template());
        let _ = (gguf.context_length(), gguf.quant(), gguf.split());
        let _ = (gguf.n_parameters(), gguf.weights_bytes());
    }
});
