//! What the planner knows of a model: its shape, its tensors and a few widths.

use kv::{Header, Shape, ShapeError};
use models::Gguf;
use models::gguf::{TensorInfo, Value};
use thiserror::Error;

/// Metadata of a GGUF file, for [`kv`].
struct Metadata<'a>(&'a Gguf);

impl Header for Metadata<'_> {
    fn number(&self, key: &str) -> Option<u64> {
        number(self.0.get(key)?)
    }

    fn numbers(&self, key: &str) -> Option<Vec<u64>> {
        let array = self.0.get(key)?.as_array()?;
        let items: Option<Vec<u64>> = array.iter().map(|item| number(&item)).collect();
        items.filter(|items| !items.is_empty())
    }

    fn text(&self, key: &str) -> Option<String> {
        self.0.get_str(key).map(str::to_owned)
    }
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_bool().map(u64::from))
}

/// Why there is no plan for a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelError {
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error("the file has no table of tokens; get another conversion of this model")]
    NoVocabulary,
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A table of which each token reads one row.
    Table,
    /// Read whole for every token.
    Weight,
    /// One of several that a token picks some of.
    Expert,
}

/// A tensor of the file, as far as memory goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    /// The name of its type, for example `Q4_K`.
    pub kind: &'static str,
    /// Values of a row, and rows of all its matrices.
    pub row: u64,
    pub rows: u64,
    /// Experts have a matrix each.
    pub matrices: u64,
    pub bytes: u64,
    pub role: Role,
    /// The layer it belongs to; `None` for tables and the output.
    pub layer: Option<u64>,
    /// It is a matrix that the input is multiplied with, not a norm or a bias.
    pub is_matrix: bool,
}

/// A model's header, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub shape: Shape,
    pub tensors: Vec<Tensor>,
    pub n_vocab: u64,
    pub n_embd: u64,
    pub n_layers: u64,
    /// Width of the widest feed-forward part that a token passes.
    pub n_ff: u64,
    pub n_head: u64,
    pub experts: u64,
    pub experts_used: u64,
    /// The output multiplies with the table of tokens.
    pub is_tied: bool,
}

impl Model {
    /// Reads what is needed of a model's files; a split model has several.
    ///
    /// # Errors
    /// [`ModelError`]: what is missing, or an architecture that is not derived.
    pub fn read(files: &[Gguf]) -> Result<Self, ModelError> {
        let Some(first) = files.first() else {
            return Err(ModelError::NoVocabulary);
        };
        let shape = Shape::read(&Metadata(first))?;
        let tensors: Vec<Tensor> = files.iter().flat_map(Gguf::tensors).map(tensor).collect();
        let n_vocab = first
            .get_array("tokenizer.ggml.tokens")
            .map(models::gguf::Array::len)
            .ok_or(ModelError::NoVocabulary)?;
        let metadata = Metadata(first);
        let key = |last: &str| format!("{}.{last}", shape.architecture);
        let most = |last: &str| {
            let one = metadata.number(&key(last));
            one.or_else(|| metadata.numbers(&key(last))?.into_iter().max())
                .unwrap_or(0)
        };
        let experts_used = most("expert_used_count");
        let of_experts = most("expert_feed_forward_length").saturating_mul(experts_used);
        Ok(Self {
            n_vocab,
            n_embd: most("embedding_length"),
            n_layers: shape.layers.len() as u64,
            n_ff: most("feed_forward_length").max(of_experts),
            n_head: most("attention.head_count"),
            experts: most("expert_count"),
            experts_used,
            is_tied: !tensors.iter().any(|tensor| tensor.name == "output.weight"),
            tensors,
            shape,
        })
    }

    /// Bytes of all tensors as they lie in the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let each = self.tensors.iter().map(|tensor| tensor.bytes);
        each.fold(0, u64::saturating_add)
    }

    /// Bytes that are read for one token: tables give one row, of experts some are picked.
    #[must_use]
    pub fn active_bytes(&self) -> u64 {
        let each = self
            .tensors
            .iter()
            .map(|tensor| self.active(tensor, tensor.bytes));
        each.fold(self.tied_bytes(), u64::saturating_add)
    }

    /// Weights that are multiplied for one token.
    #[must_use]
    pub fn active_weights(&self) -> u64 {
        let count = |tensor: &Tensor| tensor.row.saturating_mul(tensor.rows);
        let matrices = self.tensors.iter().filter(|tensor| tensor.is_matrix);
        let each = matrices.map(|tensor| self.active(tensor, count(tensor)));
        let tied = self.table().filter(|_| self.is_tied).map_or(0, count);
        each.fold(tied, u64::saturating_add)
    }

    /// The table of tokens.
    #[must_use]
    pub fn table(&self) -> Option<&Tensor> {
        self.tensors
            .iter()
            .find(|tensor| tensor.name == "token_embd.weight")
    }

    fn tied_bytes(&self) -> u64 {
        self.table()
            .filter(|_| self.is_tied)
            .map_or(0, |table| table.bytes)
    }

    pub(crate) fn active(&self, tensor: &Tensor, of_all: u64) -> u64 {
        match tensor.role {
            Role::Table => of_all / tensor.rows.max(1),
            Role::Weight => of_all,
            Role::Expert => {
                let picked = self.experts_used.min(self.experts.max(1));
                of_all / self.experts.max(1) * picked
            }
        }
    }
}

fn tensor(info: &TensorInfo) -> Tensor {
    let name = info.name();
    let dims = info.dims();
    let row = dims.first().copied().unwrap_or(1);
    let layer = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split('.').next()?.parse().ok());
    let is_table = [
        "token_embd.weight",
        "per_layer_token_embd.weight",
        "position_embd.weight",
    ];
    let role = if is_table.contains(&name) {
        Role::Table
    } else if name.contains("_exps.") {
        Role::Expert
    } else {
        Role::Weight
    };
    Tensor {
        name: name.to_owned(),
        kind: info.tensor_type().name(),
        row,
        rows: info.n_weights() / row.max(1),
        matrices: dims.iter().skip(2).product(),
        bytes: info.bytes(),
        role,
        layer,
        is_matrix: dims.len() >= 2 && role != Role::Table && name.ends_with(".weight"),
    }
}
