//! How a model is to be run.

use kv::{Attention, Cut, Pool, Request, Types, WindowCells};

use crate::model::Model;

/// Who computes, and so in which form weights lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compute {
    /// Our kernels on the CPU: weights are packed when they are loaded.
    Own,
    /// ggml's on the CPU: weights are read where the file is mapped, or repacked.
    Ggml,
}

/// How the file gets into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loading {
    Mapped,
    Read,
}

/// Settings of one model, as the worker resolves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Tokens of the KV cache, over all slots.
    pub context: u32,
    pub slots: u32,
    /// Sequences, where somebody said how many.
    pub sequences: Option<u32>,
    pub batch: u32,
    pub ubatch: u32,
    pub types: Types,
    pub window: WindowCells,
    pub has_flash_attention: bool,
    pub compute: Compute,
    pub loading: Loading,
    /// Layers on a GPU.
    pub gpu_layers: u32,
}

impl Setup {
    /// Sequences that the engine keeps for the slots.
    #[must_use]
    pub fn sequences(&self, model: &Model) -> u32 {
        if let Some(sequences) = self.sequences {
            return sequences;
        }
        let cut = if model.shape.has_state() {
            Cut::Never
        } else {
            Cut::Anywhere
        };
        kv::sequences(self.slots, cut)
    }

    /// The context as llama.cpp is asked for it.
    #[must_use]
    pub fn request(&self, model: &Model) -> Request {
        Request {
            context: u64::from(self.context),
            sequences: u64::from(self.sequences(model)),
            batch: u64::from(self.batch),
            ubatch: u64::from(self.ubatch),
            types: self.types,
            pool: Pool::Shared,
            window: self.window,
            has_flash_attention: self.has_flash_attention,
            alignment: match self.compute {
                Compute::Own => 64,
                Compute::Ggml => 32,
            },
        }
    }

    pub(crate) fn attention(&self) -> Attention {
        if self.gpu_layers > 0 {
            return Attention::Device;
        }
        match self.compute {
            Compute::Own => Attention::Own,
            Compute::Ggml => Attention::Ggml,
        }
    }
}
