//! The tokens of one forward pass.

/// Rows for [`crate::Context::decode`]: each is one token at one position of one sequence.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) tokens: Vec<i32>,
    pub(crate) positions: Vec<i32>,
    pub(crate) sequences: Vec<i32>,
    pub(crate) outputs: Vec<i8>,
}

impl Batch {
    /// Adds a row; `output` asks for its logits (or embedding).
    pub fn push(&mut self, token: i32, position: i32, sequence: i32, output: bool) {
        self.tokens.push(token);
        self.positions.push(position);
        self.sequences.push(sequence);
        self.outputs.push(i8::from(output));
    }

    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.outputs.clear();
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
