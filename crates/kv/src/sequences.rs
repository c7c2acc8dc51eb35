//! How many sequences our engine keeps for its slots.

/// Sequences beyond the slots that may hold a prefix for later requests.
const KEPT: u32 = 16;
/// Choices over all running requests that may be sampled at the same time.
const CHOICES_PER_SLOT: u32 = 4;
/// llama.cpp's own bound on sequences of one context.
const MAX: u32 = 256;
/// Rows of one pass that may ask for logits, beyond one a sequence (drafts): so many at most,
/// and for each sequence.
const DRAFT_OUTPUTS: u32 = 64;
const DRAFT_OUTPUTS_PER_SEQUENCE: u32 = 4;

/// Whether a sequence can be cut back to an earlier position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Anywhere,
    /// It has a state, which is held for each sequence whether that is used or not.
    Never,
}

/// Sequences of a context with that many slots.
#[must_use]
pub const fn sequences(slots: u32, cut: Cut) -> u32 {
    let wanted = match cut {
        Cut::Anywhere => slots.saturating_mul(CHOICES_PER_SLOT).saturating_add(KEPT),
        Cut::Never => slots.saturating_add(1),
    };
    if wanted < MAX { wanted } else { MAX }
}

/// Most rows of a pass of at most `batch` tokens that ask for logits.
#[must_use]
pub const fn output_rows(sequences: u32, batch: u32) -> u32 {
    let drafts = sequences.saturating_mul(DRAFT_OUTPUTS_PER_SEQUENCE);
    let drafts = if drafts < DRAFT_OUTPUTS {
        drafts
    } else {
        DRAFT_OUTPUTS
    };
    let wanted = sequences.saturating_add(drafts);
    if wanted < batch { wanted } else { batch }
}

/// The fewest sequences that so many slots can work with: a prefix is kept only where a slot
/// is free, and by the one beyond them.
#[must_use]
pub const fn sequences_least(slots: u32) -> u32 {
    let wanted = slots.saturating_add(1);
    if wanted < MAX { wanted } else { MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_not_kept_for_later() {
        assert_eq!(sequences(4, Cut::Anywhere), 32);
        assert_eq!(sequences(4, Cut::Never), 5);
        assert_eq!(sequences(200, Cut::Anywhere), 256);
        assert_eq!(output_rows(32, 2048), 96);
        assert_eq!(output_rows(32, 40), 40);
        assert_eq!(output_rows(5, 2048), 25);
        assert_eq!((sequences_least(4), sequences_least(300)), (5, 256));
    }
}
