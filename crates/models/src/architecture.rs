//! The architectures that the llama.cpp in this program can load.
//!
//! The list is made from llama.cpp's own sources by `cargo xtask codegen`, which fails in CI
//! when they have changed.

const LIST: &str = include_str!("architectures.txt");

/// Whether models of this `general.architecture` can be loaded.
#[must_use]
pub fn is_known(architecture: &str) -> bool {
    all().any(|known| known == architecture)
}

/// All of them, in alphabetical order.
pub fn all() -> impl Iterator<Item = &'static str> {
    LIST.lines()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_has_what_everybody_runs() {
        let all: Vec<_> = all().collect();
        assert!(all.is_sorted() && all.len() > 100, "{}", all.len());
        for name in ["llama", "qwen3", "gemma3", "bert", "gpt-oss"] {
            assert!(is_known(name), "{name}");
        }
        // A projector's, and what llama.cpp calls the unknown.
        for name in ["clip", "(unknown)", "", "Llama"] {
            assert!(!is_known(name), "{name}");
        }
    }
}
