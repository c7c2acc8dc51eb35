//! How a prompt leaves an earlier one: what stands between the place where they part and the
//! one where they meet again.

use std::collections::{HashMap, HashSet};

use proto::PrefixDetail;

use crate::scheduler::sequences::common_prefix;
use crate::{TokenId, Vocabulary};

/// Tokens in a row that two texts do not share by chance: the marks between two turns are
/// fewer.
const ANCHOR: usize = 16;
/// What is looked at behind the place where two prompts part.
const REACH: usize = 1 << 15;
/// Tokens of a time, a date or an identifier.
const COUNTER_MAX: usize = 24;
/// Tokens that a cut changes beside it: words begin otherwise behind another word.
const SEAM: usize = 2;
/// Bytes by which the end of an answer is told from something else.
const END_MIN: usize = 4;
/// What some templates put where they leave reasoning out.
const NO_REASONING: &str = "<think></think>";

/// What was done to `old` to make `new` of it; both begin where they part. `None`: they have
/// nothing more in common.
pub(crate) fn edit(
    old: &[TokenId],
    new: &[TokenId],
    vocabulary: &dyn Vocabulary,
) -> Option<PrefixDetail> {
    let (old, new) = (&old[..old.len().min(REACH)], &new[..new.len().min(REACH)]);
    let mut places = HashMap::new();
    for (at, anchor) in old.windows(ANCHOR).enumerate() {
        places.entry(anchor).or_insert(at);
    }
    let met = new.windows(ANCHOR).enumerate();
    let (to, from) = met
        .filter_map(|(to, anchor)| Some((to, *places.get(anchor)?)))
        .next()?;
    let is_elsewhere = |whole: &[TokenId], part: &[TokenId]| {
        let anchor = part.get(..ANCHOR);
        anchor.is_some_and(|anchor| whole.windows(ANCHOR).any(|other| other == anchor))
    };
    if is_elsewhere(new, &old[..from]) || is_elsewhere(old, &new[..to]) {
        return Some(PrefixDetail::Moved);
    }
    let has_digit =
        |tokens: &[TokenId]| text(tokens, vocabulary).contains(|c: char| c.is_ascii_digit());
    let is_short = from <= COUNTER_MAX && to <= COUNTER_MAX;
    if is_short && has_digit(&old[..from]) && has_digit(&new[..to]) {
        return Some(PrefixDetail::Counter);
    }
    if from <= SEAM && to > SEAM || from == 0 {
        return Some(PrefixDetail::Inserted);
    }
    if to <= SEAM && from > SEAM || to == 0 {
        return Some(PrefixDetail::Removed);
    }
    Some(PrefixDetail::Replaced)
}

/// Which of several earlier prompts has at least half of `new` in it, at whatever place.
pub(crate) fn found_again<'a>(
    earlier: impl Iterator<Item = &'a [TokenId]>,
    new: &[TokenId],
) -> Option<usize> {
    let new = &new[..new.len().min(REACH)];
    let anchors: HashSet<&[TokenId]> = new.windows(ANCHOR).collect();
    let known = |old: &[TokenId]| {
        let old = &old[..old.len().min(REACH)];
        let chunks = old.chunks_exact(ANCHOR);
        chunks.filter(|chunk| anchors.contains(chunk)).count() * ANCHOR
    };
    let known = earlier.map(known).enumerate();
    let (at, most) = known.max_by_key(|(_, known)| *known)?;
    (most >= ANCHOR && most * 2 >= new.len()).then_some(at)
}

/// What became of an answer: `old` as it was generated, `new` what stands at its place.
pub(crate) fn rewrite(
    old: &[TokenId],
    new: &[TokenId],
    vocabulary: &dyn Vocabulary,
) -> PrefixDetail {
    let is_end = |token: &TokenId| vocabulary.is_end_of_generation(*token);
    let ended = old.iter().rposition(|token| !is_end(token));
    let old = &old[..ended.map_or(0, |last| last + 1)];
    let new = &new[..new.len().min(REACH)];
    let (before, after) = (text(old, vocabulary), text(new, vocabulary));
    if after.starts_with(&before) {
        return PrefixDetail::Retokenised;
    }
    let (before, after) = (dense(&before), dense(&after));
    if after.starts_with(&before) {
        return PrefixDetail::Respaced;
    }
    let after = after.strip_prefix(NO_REASONING).unwrap_or(&after);
    let mut ends = before.char_indices().skip(1).map(|(at, _)| &before[at..]);
    if ends.any(|end| end.len() >= END_MIN && after.starts_with(end)) {
        return PrefixDetail::ReasoningLeftOut;
    }
    let ends_early = |token: &TokenId| vocabulary.is_control(*token);
    match new.get(common_prefix(old, new)) {
        Some(token) if ends_early(token) => PrefixDetail::Shortened,
        _ => PrefixDetail::Replaced,
    }
}

fn text(tokens: &[TokenId], vocabulary: &dyn Vocabulary) -> String {
    let bytes = tokens
        .iter()
        .flat_map(|token| vocabulary.piece(*token, true));
    String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
}

fn dense(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}
