//! Prompt-lookup drafts: what followed the last time these tokens were seen.
//!
//! Source: Saxena, "Prompt Lookup Decoding" (2023). No model is asked; the draft
//! is a copy from the sequence itself, which pays where answers repeat their prompt.

use proto::Speculation;

use crate::TokenId;

/// Drafts tried before the first judgement.
const TRIAL_TOKENS: u32 = 32;
/// Below this share of accepted draft tokens drafting costs more than it gives:
/// a drafted row costs a part of a decoded one, even if the weights are read once.
const ACCEPTED_SHARE_MIN: f64 = 0.3;
/// Generated tokens without drafts after a bad trial.
const PAUSE_TOKENS: u32 = 64;

/// Drafting state of one choice: it pauses itself while drafts do not stand.
#[derive(Debug, Clone)]
pub(crate) struct Drafter {
    settings: Speculation,
    drafted: u32,
    accepted: u32,
    pause: u32,
}

impl Drafter {
    pub(crate) fn new(settings: Speculation) -> Self {
        Self {
            settings,
            drafted: 0,
            accepted: 0,
            pause: 0,
        }
    }

    /// The tokens that may follow `tokens`; often none.
    pub(crate) fn draft<'a>(&mut self, tokens: &'a [TokenId], room: usize) -> &'a [TokenId] {
        if self.pause > 0 {
            self.pause -= 1;
            return &[];
        }
        let most = (self.settings.draft_tokens_max as usize).min(room);
        lookup(tokens, self.settings.ngram as usize, most)
    }

    /// Reports how a draft fared.
    pub(crate) fn judge(&mut self, drafted: usize, accepted: usize) {
        self.drafted += u32::try_from(drafted).unwrap_or(u32::MAX);
        self.accepted += u32::try_from(accepted).unwrap_or(u32::MAX);
        if self.drafted >= TRIAL_TOKENS {
            if f64::from(self.accepted) < ACCEPTED_SHARE_MIN * f64::from(self.drafted) {
                self.pause = PAUSE_TOKENS;
            }
            self.drafted = 0;
            self.accepted = 0;
        }
    }
}

/// Up to `most` tokens that followed the latest earlier occurrence of the last
/// `ngram` tokens.
fn lookup(tokens: &[TokenId], ngram: usize, most: usize) -> &[TokenId] {
    if ngram == 0 || most == 0 || tokens.len() <= ngram {
        return &[];
    }
    let suffix = &tokens[tokens.len() - ngram..];
    let earlier = &tokens[..tokens.len() - 1];
    match earlier.windows(ngram).rposition(|window| window == suffix) {
        Some(at) => {
            let from = at + ngram;
            &tokens[from..(from + most).min(tokens.len())]
        }
        None => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_earlier_occurrence_is_copied() {
        let cases: &[(&[TokenId], usize, usize, &[TokenId])] = &[
            (&[1, 2, 3, 9, 1, 2], 2, 2, &[3, 9]),
            (&[1, 2, 3, 1, 2, 4, 1, 2], 2, 1, &[4]),
            (&[1, 2, 3], 2, 4, &[]),
            (&[7, 7, 7], 1, 4, &[7]),
            (&[1, 2], 2, 4, &[]),
            (&[], 2, 4, &[]),
            (&[1, 1, 1, 1], 0, 4, &[]),
        ];
        for (tokens, ngram, most, expected) in cases {
            assert_eq!(lookup(tokens, *ngram, *most), *expected, "{tokens:?}");
        }
    }

    #[test]
    fn bad_drafts_pause_themselves() {
        let mut drafter = Drafter::new(Speculation {
            draft_tokens_max: 4,
            ngram: 1,
        });
        let tokens = [5, 5];
        assert_eq!(drafter.draft(&tokens, 4), [5]);
        drafter.judge(32, 0);
        for _ in 0..PAUSE_TOKENS {
            assert!(drafter.draft(&tokens, 4).is_empty());
        }
        assert_eq!(drafter.draft(&tokens, 4), [5]);
    }
}
