//! The model's tokens as bytes, arranged so that grammars can walk them.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::TokenId;

/// Most tokens a vocabulary may have; the trie packs ids into 22 bits.
pub const VOCABULARY_TOKENS_MAX: usize = 1 << 21;

/// Longer text tokens are never allowed by a grammar; the trie packs depths into
/// 10 bits. Such tokens are runs of spaces or rules that no grammar needs whole.
pub const TOKEN_BYTES_MAX: usize = 1000;

/// One token of the model's vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBytes {
    /// The bytes it stands for; they need not be whole UTF-8. For a control token its name.
    pub bytes: Vec<u8>,
    pub kind: TokenKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text, whole or in single bytes.
    Text,
    /// A token such as `<|im_start|>`: allowed only where a grammar names it.
    Control,
    /// Padding and the like: never allowed.
    Unused,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VocabularyError {
    #[error("the vocabulary has {n_tokens} tokens; 1 to {VOCABULARY_TOKENS_MAX} are possible")]
    Size { n_tokens: usize },
    #[error("the vocabulary names no end-of-generation token, so no grammar could ever end")]
    NoEnd,
    #[error("end-of-generation token {token} is outside the vocabulary of {n_tokens} tokens")]
    EndOutside { token: TokenId, n_tokens: usize },
}

/// A model's vocabulary; built once a model and shared.
pub struct Vocabulary {
    env: TokEnv,
    /// Ends generation, ascending.
    ends: Vec<TokenId>,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary")
            .field("n_tokens", &self.n_tokens())
            .field("ends", &self.ends)
            .finish()
    }
}

impl Vocabulary {
    /// `tokens` by id, with the ids in `ends` ending generation. An ending token is
    /// read as a control token whatever its kind says.
    pub fn new(tokens: Vec<TokenBytes>, ends: &[TokenId]) -> Result<Self, VocabularyError> {
        let n_tokens = tokens.len();
        if n_tokens == 0 || n_tokens > VOCABULARY_TOKENS_MAX {
            return Err(VocabularyError::Size { n_tokens });
        }
        let mut ends = ends.to_vec();
        ends.sort_unstable();
        ends.dedup();
        let mut end_ids = Vec::with_capacity(ends.len());
        for &token in &ends {
            match u32::try_from(token) {
                Ok(id) if (id as usize) < n_tokens => end_ids.push(id),
                _ => return Err(VocabularyError::EndOutside { token, n_tokens }),
            }
        }
        let Some(&first_end) = end_ids.first() else {
            return Err(VocabularyError::NoEnd);
        };
        let words: Vec<Vec<u8>> = tokens
            .into_iter()
            .zip(0..)
            .map(|(token, id)| trie_word(token, ends.binary_search(&id).is_ok()))
            .collect();
        let info = TokRxInfo::new(n_tokens as u32, first_end);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&end_ids);
        Ok(Self {
            env: Arc::new(ApproximateTokEnv::new(trie)),
            ends,
        })
    }

    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.env.tok_trie().vocab_size()
    }

    /// The end-of-generation tokens, lowest first.
    #[must_use]
    pub fn ends(&self) -> &[TokenId] {
        &self.ends
    }

    #[must_use]
    pub fn is_end(&self, token: TokenId) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    /// The bytes of a text token; empty for other tokens and unknown ids.
    #[must_use]
    pub fn bytes(&self, token: TokenId) -> &[u8] {
        let word = self.word(token);
        if word.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
            &[]
        } else {
            word
        }
    }

    /// Every text token with its bytes, by id.
    pub fn pieces(&self) -> impl Iterator<Item = (TokenId, &[u8])> + Clone {
        (0..self.n_tokens() as TokenId)
            .map(|token| (token, self.bytes(token)))
            .filter(|(_, bytes)| !bytes.is_empty())
    }

    /// Splits text into the longest tokens that fit, left to right. Not the
    /// model's own tokenisation, which may split differently.
    #[must_use]
    pub fn tokenize_greedily(&self, text: &[u8]) -> Vec<TokenId> {
        let ids = self.env.tok_trie().greedy_tokenize(text);
        ids.into_iter().map(|id| id as TokenId).collect()
    }

    pub(crate) fn env(&self) -> &TokEnv {
        &self.env
    }

    /// Whether a grammar can ever see the token.
    pub(crate) fn is_usable(&self, token: TokenId) -> bool {
        !self.word(token).is_empty()
    }

    fn word(&self, token: TokenId) -> &[u8] {
        match u32::try_from(token) {
            Ok(id) if (id as usize) < self.n_tokens() => self.env.tok_trie().token(id),
            _ => &[],
        }
    }
}

/// How the trie spells a token: control tokens start with a marker byte that no
/// UTF-8 text contains, and tokens no grammar may use are empty.
fn trie_word(token: TokenBytes, is_end: bool) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let kind = if is_end {
        TokenKind::Control
    } else {
        token.kind
    };
    match kind {
        TokenKind::Unused => Vec::new(),
        TokenKind::Text if token.bytes.first() == Some(&MARKER) => Vec::new(),
        _ if token.bytes.len() > TOKEN_BYTES_MAX => Vec::new(),
        TokenKind::Text => token.bytes,
        TokenKind::Control => [&[MARKER], token.bytes.as_slice()].concat(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const END: TokenId = 256;
    pub(crate) const TURN_END: TokenId = 257;
    pub(crate) const TOOL: TokenId = 258;

    fn text(bytes: &[u8]) -> TokenBytes {
        TokenBytes {
            bytes: bytes.to_vec(),
            kind: TokenKind::Text,
        }
    }

    /// All single bytes, two end tokens, one control token, one unused, and
    /// pieces of the kind JSON and prose are made of.
    pub(crate) fn small() -> Arc<Vocabulary> {
        let mut tokens: Vec<TokenBytes> = (0..=255).map(|byte| text(&[byte])).collect();
        for name in ["</s>", "<|im_end|>", "<tool>"] {
            tokens.push(TokenBytes {
                bytes: name.as_bytes().to_vec(),
                kind: TokenKind::Control,
            });
        }
        tokens.push(TokenBytes {
            bytes: b"[PAD]".to_vec(),
            kind: TokenKind::Unused,
        });
        let pieces = [
            "{\"", "\":", "\": ", "\",", "\"}", "\"}]", "}}", "},", "[{", "[\"", "{}", "[]",
            "\":\"", "\": \"", "\", \"", ", ", ": ", "true", "false", "null", "  ", "    ", "\n  ",
            "\n", "tr", "fal", "name", "age", "city", "value", " the", " and", "ing", "er", "on",
            "an", "ab", "abc", "00", "10", "100", "12", "2024", "-0", "1.", ".5", "e+", "\\n",
            "\\\"", "\\u", "é", "ü", "日", "本", "日本", "🙂", "kind", "tags", "next", "child",
            "left", "right", "A", "a", "end", "root",
        ];
        tokens.extend(pieces.iter().map(|piece| text(piece.as_bytes())));
        // Halves of multi-byte characters, as byte-level vocabularies have them.
        for half in [
            &[0xf0, 0x9f][..],
            &[0x99, 0x82],
            &[0xe6, 0x97],
            &[0xa5, 0xe6],
            &[0xc3],
        ] {
            tokens.push(text(half));
        }
        Arc::new(Vocabulary::new(tokens, &[TURN_END, END]).unwrap())
    }

    #[test]
    fn tokens_are_found_by_kind() {
        let vocabulary = small();
        assert_eq!(vocabulary.ends(), [END, TURN_END]);
        assert_eq!(vocabulary.bytes(65), b"A");
        for hidden in [END, TOOL, 259, 255, -1, 99_999] {
            assert_eq!(vocabulary.bytes(hidden), b"", "token {hidden}");
        }
        assert!(vocabulary.is_usable(TOOL) && !vocabulary.is_usable(259));
        let tokens = vocabulary.tokenize_greedily("日本 the".as_bytes());
        assert_eq!(tokens.len(), 2);
    }

    #[test]
    fn impossible_vocabularies_are_refused() {
        let two = || vec![text(b"a"), text(b"b")];
        let table = [
            (Vec::new(), &[0][..], VocabularyError::Size { n_tokens: 0 }),
            (two(), &[], VocabularyError::NoEnd),
            (
                two(),
                &[2],
                VocabularyError::EndOutside {
                    token: 2,
                    n_tokens: 2,
                },
            ),
            (
                two(),
                &[-1],
                VocabularyError::EndOutside {
                    token: -1,
                    n_tokens: 2,
                },
            ),
        ];
        for (tokens, ends, expected) in table {
            assert_eq!(Vocabulary::new(tokens, ends).unwrap_err(), expected);
        }
    }

    #[test]
    fn overlong_tokens_are_left_out() {
        let long = text(&[b' '; TOKEN_BYTES_MAX + 1]);
        let vocabulary = Vocabulary::new(vec![text(b"a"), long], &[0]).unwrap();
        assert!(!vocabulary.is_usable(1));
    }
}
