//! How a model is to be run.

use kv::{Attention, CacheType, Cut, Pool, Request, TypePlan, Types, WindowCells};

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

/// What a model is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Its context is made on loading.
    Generate,
    /// It only embeds: the engine makes a context with the first text, for one sequence that
    /// goes through in one pass, its cache in 16 bits, and keeps it.
    Embed,
}

/// Settings of one model, as the worker resolves them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    pub purpose: Purpose,
    /// Tokens of the KV cache, over all slots.
    pub context: u32,
    pub slots: u32,
    /// Sequences, where somebody said how many.
    pub sequences: Option<u32>,
    pub batch: u32,
    pub ubatch: u32,
    pub types: TypePlan,
    pub window: WindowCells,
    pub has_flash_attention: bool,
    pub compute: Compute,
    pub loading: Loading,
    /// Pages of the file are locked in memory, and so cannot be taken back.
    pub is_locked: bool,
    /// Layers on a GPU, from the last: the output counts as one.
    pub gpu_layers: u32,
    /// Bytes for states of prompts beyond the caches, as somebody set them.
    pub prompt_cache: u64,
}

const PLAIN: TypePlan = TypePlan::uniform(Types {
    keys: CacheType::F16,
    values: CacheType::F16,
});

impl Setup {
    /// What a worker takes where nothing is set but the context, with one slot and our kernels.
    #[must_use]
    pub const fn usual(context: u32) -> Self {
        Self {
            purpose: Purpose::Generate,
            context,
            slots: 1,
            sequences: None,
            batch: 2048,
            ubatch: 512,
            types: PLAIN,
            window: WindowCells::Window,
            has_flash_attention: true,
            compute: Compute::Own,
            loading: Loading::Mapped,
            is_locked: false,
            gpu_layers: 0,
            prompt_cache: 0,
        }
    }

    /// Sequences that the engine keeps for the slots.
    #[must_use]
    pub fn sequences(&self, model: &Model) -> u32 {
        if let Some(sequences) = self.sequences {
            return sequences;
        }
        if self.purpose == Purpose::Embed {
            return 1;
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
        let (batch, ubatch, types) = match self.purpose {
            Purpose::Generate => (self.batch, self.ubatch, self.types.clone()),
            Purpose::Embed => (self.context, self.context, PLAIN),
        };
        Request {
            context: u64::from(self.context),
            sequences: u64::from(self.sequences(model)),
            batch: u64::from(batch),
            ubatch: u64::from(ubatch),
            types,
            pool: Pool::Shared,
            window: self.window,
            has_flash_attention: self.has_flash_attention,
            alignment: match self.compute {
                Compute::Own => 64,
                Compute::Ggml => 32,
            },
        }
    }

    /// The first layer on the GPU, as llama.cpp counts (`load_tensors`): the output comes
    /// after the last layer and goes there first.
    pub(crate) fn first_on_device(&self, model: &Model) -> u64 {
        (model.n_layers + 1).saturating_sub(u64::from(self.gpu_layers))
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
