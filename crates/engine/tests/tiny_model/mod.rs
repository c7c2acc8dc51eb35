//! A tiny model in a file.

use std::io::Write;
use std::path::Path;

use testkit::tiny::{Family, Purpose, gguf_for};

#[derive(Debug)]
pub(crate) struct TinyModel {
    file: tempfile::NamedTempFile,
}

impl TinyModel {
    pub(crate) fn write(family: Family, purpose: Purpose) -> Self {
        let mut file = tempfile::Builder::new()
            .suffix(".gguf")
            .tempfile()
            .expect("a temporary file");
        file.write_all(&gguf_for(family, purpose))
            .expect("room for a small file");
        Self { file }
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }
}

/// How the tests open a tiny model: in 32 bits throughout, on one thread.
pub(crate) fn options(model: &TinyModel, context: u32, slots: u32) -> engine::OpenOptions {
    engine::OpenOptions {
        path: model.path().to_owned(),
        context: Some(context),
        context_max: context,
        slots,
        sequences: None,
        batch: 64,
        ubatch: 16,
        placement: engine::Placement {
            threads: 1,
            threads_batch: 1,
            ..engine::Placement::default()
        },
        types: llama::CacheTypes::Uniform(llama::Types {
            keys: llama::CacheType::F32,
            values: llama::CacheType::F32,
        }),
        flash_attention: llama::FlashAttention::Off,
        offload: None,
        mmap: false,
        mlock: false,
        huge_pages: false,
        swa_full: false,
    }
}
