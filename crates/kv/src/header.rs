//! Metadata of a model file, as far as this crate reads them.

/// Looks up metadata by their whole key, for example `llama.block_count`.
///
/// The crate that parses files implements it; so can a table of known numbers in a test.
pub trait Header {
    /// An integer that is not negative. Flags count as 0 and 1.
    fn number(&self, key: &str) -> Option<u64>;

    /// An array of such; `None` for a single number, or where it was not kept.
    fn numbers(&self, key: &str) -> Option<Vec<u64>>;

    fn text(&self, key: &str) -> Option<String>;
}
