//! Whether a model's tokenizer is whole: what llama.cpp looks for while loading, told before.

use crate::gguf::{Gguf, TensorInfo, Value};

/// What `tokenizer.ggml.model` may be for the llama.cpp in this program.
pub const TOKENIZERS: &[&str] = &[
    "none",
    "no_vocab",
    "llama",
    "bert",
    "gpt2",
    "hybriddna",
    "whitespace",
    "t5",
    "rwkv",
    "plamo2",
    "gemma4",
    "test",
];

/// Those that put pieces together by a list of merges.
const WITH_MERGES: &[&str] = &["gpt2", "hybriddna", "whitespace", "gemma4"];

/// Tables with a row for each token.
const TABLES: &[&str] = &["tokenizer.ggml.scores", "tokenizer.ggml.token_type"];

/// Tokens with a meaning of their own.
const SPECIAL: &[&str] = &[
    "bos",
    "eos",
    "eot",
    "eom",
    "unknown",
    "seperator",
    "padding",
    "mask",
];

/// What is wrong with a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerFlaw {
    /// Of a kind that llama.cpp does not know.
    Unknown { model: String },
    /// There are no tokens (`tokenizer.ggml.tokens`).
    NoTokens,
    /// There are as many tokens as embeddings in a sound model.
    Embeddings { n_tokens: u64, n_rows: u64 },
    /// There are no merges (`tokenizer.ggml.merges`), and this kind works by them.
    NoMerges { model: String },
    /// A table that must have a row for each token.
    ShortTable {
        key: &'static str,
        n_rows: u64,
        n_tokens: u64,
    },
    /// A special token that is none of the tokens.
    OutOfRange { key: String, id: u64, n_tokens: u64 },
}

impl TokenizerFlaw {
    /// Whether llama.cpp refuses the model for it; otherwise it goes on with something else.
    #[must_use]
    pub fn prevents_loading(&self) -> bool {
        !matches!(self, Self::OutOfRange { .. })
    }
}

/// Everything that is wrong with the tokenizer in `gguf`, the first file of a model with
/// these tensors. A model without any tokenizer is an [`crate::ArtifactFault`].
#[must_use]
pub fn flaws<'a>(
    gguf: &Gguf,
    tensors: impl IntoIterator<Item = &'a TensorInfo>,
) -> Vec<TokenizerFlaw> {
    let Some(model) = gguf.get_str("tokenizer.ggml.model") else {
        return Vec::new();
    };
    if !TOKENIZERS.contains(&model) {
        let model = model.to_owned();
        return vec![TokenizerFlaw::Unknown { model }];
    }
    if matches!(model, "none" | "no_vocab") {
        return Vec::new();
    }
    let Some(tokens) = gguf.get_array("tokenizer.ggml.tokens") else {
        return vec![TokenizerFlaw::NoTokens];
    };
    let n_tokens = tokens.len();
    let mut flaws = Vec::new();
    let mut tensors = tensors.into_iter();
    let embeddings = tensors.find(|tensor| tensor.name() == "token_embd.weight");
    let n_rows = embeddings.and_then(|tensor| tensor.dims().get(1).copied());
    if let Some(n_rows) = n_rows.filter(|n_rows| *n_rows != n_tokens) {
        flaws.push(TokenizerFlaw::Embeddings { n_tokens, n_rows });
    }
    // Kimi K2 makes its pieces in another way.
    let is_kimi = gguf.get_str("tokenizer.ggml.pre") == Some("kimi-k2");
    let has_merges = gguf.get_array("tokenizer.ggml.merges").is_some();
    if WITH_MERGES.contains(&model) && !is_kimi && !has_merges {
        let model = model.to_owned();
        flaws.push(TokenizerFlaw::NoMerges { model });
    }
    for key in TABLES {
        let n_rows = gguf.get_array(key).map(|table| table.len());
        if let Some(n_rows) = n_rows.filter(|n_rows| *n_rows < n_tokens) {
            flaws.push(TokenizerFlaw::ShortTable {
                key,
                n_rows,
                n_tokens,
            });
        }
    }
    for name in SPECIAL {
        let key = format!("tokenizer.ggml.{name}_token_id");
        // The highest number stands for "there is none".
        let id = gguf.get(&key).and_then(Value::as_u64);
        if let Some(id) = id.filter(|id| *id >= n_tokens && *id != u64::from(u32::MAX)) {
            flaws.push(TokenizerFlaw::OutOfRange { key, id, n_tokens });
        }
    }
    flaws
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::write::Writer;

    fn of(writer: &Writer) -> Vec<TokenizerFlaw> {
        let gguf = Gguf::parse(&writer.bytes()).unwrap();
        flaws(&gguf, gguf.tensors())
    }

    #[test]
    fn each_flaw_is_told_with_its_numbers() {
        assert_eq!(of(&Writer::tiny_model()), []);
        let base = |model: &str| {
            Writer::new()
                .str("general.architecture", "llama")
                .str("tokenizer.ggml.model", model)
        };
        let few = |model: &str| base(model).strings("tokenizer.ggml.tokens", &["a", "b"]);
        let unknown = TokenizerFlaw::Unknown {
            model: "odd".into(),
        };
        assert_eq!(of(&base("odd")), [unknown]);
        assert_eq!(of(&base("llama")), [TokenizerFlaw::NoTokens]);
        assert_eq!(of(&base("none")), []);
        let no_merges = TokenizerFlaw::NoMerges {
            model: "gpt2".into(),
        };
        assert_eq!(of(&few("gpt2")), [no_merges]);
        assert_eq!(of(&few("gpt2").str("tokenizer.ggml.pre", "kimi-k2")), []);
        let rows = few("llama").tensor("token_embd.weight", 0, &[8, 3]);
        let embeddings = TokenizerFlaw::Embeddings {
            n_tokens: 2,
            n_rows: 3,
        };
        assert_eq!(of(&rows), [embeddings]);
        let short = few("llama").u32s("tokenizer.ggml.token_type", &[1]);
        let expected = TokenizerFlaw::ShortTable {
            key: "tokenizer.ggml.token_type",
            n_rows: 1,
            n_tokens: 2,
        };
        assert_eq!(of(&short), [expected]);
        let beyond = few("llama")
            .u32("tokenizer.ggml.eos_token_id", 2)
            .u32("tokenizer.ggml.padding_token_id", u32::MAX);
        let expected = TokenizerFlaw::OutOfRange {
            key: "tokenizer.ggml.eos_token_id".into(),
            id: 2,
            n_tokens: 2,
        };
        assert_eq!(of(&beyond), [expected]);
    }
}
