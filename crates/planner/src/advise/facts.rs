//! What others have published of engines, each with its source. Nothing of it was measured here.

use super::Engine;

/// A published fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    /// By which reasons name it.
    pub id: &'static str,
    pub engine: Engine,
    pub says: &'static str,
    /// Who says so, and when it was read.
    pub source: &'static str,
}

const fn fact(id: &'static str, engine: Engine, says: &'static str, source: &'static str) -> Fact {
    Fact {
        id,
        engine,
        says,
        source,
    }
}

/// The table.
pub const FACTS: &[Fact] = &[
    fact(
        "llama-server-slots",
        Engine::LlamaServer,
        "it has 4 slots unless told otherwise, shares one cache among them or splits it evenly, and \
         serves them first come, first served",
        "llama.cpp b11434, tools/server and common/ (source)",
    ),
    fact(
        "llama-server-cache",
        Engine::LlamaServer,
        "it keeps up to 8 GiB of prompts in memory (`--cache-ram`), whatever the machine has",
        "llama.cpp b11434, tools/server (source)",
    ),
    fact(
        "llama-server-threads",
        Engine::LlamaServer,
        "on ARM it takes all cores, the small ones too",
        "llama.cpp b11434, common/common.cpp (source); issue 7176",
    ),
    fact(
        "llama-batches",
        Engine::LlamaServer,
        "LLaMA 7B in 16 bits on a GPU answered 8 streams 3.4 times as fast as one, 16 streams 5.8 \
         times",
        "llama.cpp, batched-bench/README.md, sample results",
    ),
    fact(
        "vllm-paging",
        Engine::Vllm,
        "it pages the cache and shares prefixes between requests, and served 2 to 4 times the \
         requests of the systems before it at the same latency",
        "Kwon et al., PagedAttention, SOSP 2023, arXiv 2309.06180",
    ),
    fact(
        "vllm-gguf",
        Engine::Vllm,
        "it reads GGUF by a plugin only, and on GPUs only",
        "vLLM's documentation, GGUF, 2026",
    ),
    fact(
        "vllm-arm",
        Engine::Vllm,
        "on ARM processors it computes with 32 and 16 bits only, so that weights take two to four \
         times the memory of a quantised file, and as much longer to read",
        "vLLM's documentation, CPU installation, 2026",
    ),
    fact(
        "vllm-hardware",
        Engine::Vllm,
        "it wants Linux and, of NVIDIA, compute capability 7.0 or higher; AMD's and Intel's GPUs too",
        "vLLM's documentation, GPU installation, 2026",
    ),
    fact(
        "vllm-memory",
        Engine::Vllm,
        "it takes nine tenths of a GPU's memory at once (`--gpu-memory-utilization`)",
        "vLLM's documentation, engine arguments, 2026",
    ),
    fact(
        "sglang-prefixes",
        Engine::Sglang,
        "it finds shared prefixes of all requests in a tree (RadixAttention), for conversations and \
         agents with the same beginnings",
        "Zheng et al., SGLang, NeurIPS 2024, arXiv 2312.07104",
    ),
    fact(
        "ollama-wraps",
        Engine::Ollama,
        "it runs llama-server underneath",
        "Ollama 0.33, llm/llama_server.go (source)",
    ),
    fact(
        "ollama-parallel",
        Engine::Ollama,
        "it answers one request of a model at a time unless OLLAMA_NUM_PARALLEL says otherwise",
        "Ollama's documentation, FAQ, 2026",
    ),
    fact(
        "ollama-context",
        Engine::Ollama,
        "its context is 4,096 tokens on less than 24 GiB of a GPU, and it drops the oldest messages \
         of longer ones without a word",
        "Ollama's documentation, context length, 2026; issue 18107",
    ),
];

/// The fact of that name.
#[must_use]
pub fn fact_named(id: &str) -> Option<&'static Fact> {
    FACTS.iter().find(|fact| fact.id == id)
}
