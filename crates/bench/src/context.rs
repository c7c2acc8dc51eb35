//! How far a context carries: a fact stands somewhere in a text of some length, and is asked for
//! behind it (the "needle in a haystack" of G. Kamradt, 2023).
//!
//! A length that a server accepts is not yet one that it reads: some cut what is too long and say
//! nothing. The tokens that a server says it has read tell that.

use fastrand::Rng;

use crate::rates::{Interval, wilson};
use crate::speeds::quantile;

const WHO: [&str; 16] = [
    "the miller",
    "a young teacher",
    "the ferryman",
    "my neighbour",
    "the baker's sister",
    "an old sailor",
    "the gardener",
    "a travelling singer",
    "the postman",
    "our doctor",
    "the clockmaker",
    "a student",
    "the shepherd",
    "her uncle",
    "the painter",
    "a fisherman",
];
const DID: [&str; 16] = [
    "repaired",
    "sold",
    "carried home",
    "painted",
    "forgot",
    "looked for",
    "borrowed",
    "admired",
    "gave away",
    "washed",
    "described",
    "wrapped up",
    "found",
    "ordered",
    "photographed",
    "hid",
];
const WHAT: [&str; 16] = [
    "a wooden chair",
    "the green lantern",
    "some letters",
    "a basket of plums",
    "the heavy door",
    "a woollen coat",
    "the small boat",
    "an empty bottle",
    "the garden bench",
    "a pair of boots",
    "the silver spoon",
    "a map of the coast",
    "the broken window",
    "a loaf of bread",
    "the tall ladder",
    "an old violin",
];
const WHEN: [&str; 16] = [
    "before the rain came",
    "on the way to the market",
    "late in the evening",
    "while the bells were ringing",
    "in the first week of spring",
    "after a long walk",
    "near the stone bridge",
    "without a word",
    "during the summer fair",
    "at the edge of the forest",
    "when the train had left",
    "with great care",
    "for the third time",
    "in front of the school",
    "just after breakfast",
    "as the snow began to melt",
];
const CODE_DIGITS: std::ops::Range<u32> = 100_000..1_000_000;
/// A share of the tokens that were to be read: with fewer the text was cut.
const CUT_BELOW: f64 = 0.85;

/// A text with a fact in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planted {
    pub text: String,
    pub words: usize,
    /// What is asked for.
    pub code: String,
}

/// A text of at least so many words with the fact at that depth, 0 at its beginning and 1 at its
/// end, and the question behind it. The same for the same seed.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of words are small, and a depth is from 0 to 1"
)]
pub fn plant(words: usize, depth: f64, seed: u64) -> Planted {
    let mut random = Rng::with_seed(seed);
    let code = random.u32(CODE_DIGITS).to_string();
    let mut sentences = Vec::new();
    let mut n_words = 0;
    while n_words < words {
        let mut one = |of: &[&'static str; 16]| of[random.usize(..of.len())];
        let sentence = format!(
            "{} {} {} {}.",
            capital(one(&WHO)),
            one(&DID),
            one(&WHAT),
            one(&WHEN)
        );
        n_words += sentence.split(' ').count();
        sentences.push(sentence);
    }
    let at = (depth.clamp(0.0, 1.0) * sentences.len() as f64).round() as usize;
    let fact = format!("The code of the blue cabinet is {code}.");
    sentences.insert(at.min(sentences.len()), fact);
    sentences
        .push("\nWhat is the code of the blue cabinet? Answer with the number alone.".to_owned());
    let text = sentences.join(" ");
    Planted {
        words: text.split_whitespace().count(),
        text,
        code,
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).collect()
}

/// Whether an answer gives the code, and no other number of its kind.
#[must_use]
pub fn is_right(said: &str, code: &str) -> bool {
    let joined: String = said.chars().filter(|c| !matches!(c, ',' | '_')).collect();
    let numbers = joined.split(|c: char| !c.is_ascii_digit());
    let mut numbers = numbers
        .filter(|number| number.len() >= code.len())
        .peekable();
    numbers.peek().is_some() && numbers.all(|number| number == code)
}

/// What came of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    Right,
    Wrong,
    /// The server has read fewer tokens than it was given, and did not say so.
    Cut,
    /// An error, such as one that names a limit.
    Refused,
    Late,
}

impl Came {
    /// Of an answer; `n_prompt` are the tokens that the server says it has read, and `expected`
    /// those that the text should have.
    #[must_use]
    pub fn of(said: &str, code: &str, n_prompt: Option<u64>, expected: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts of tokens are small")]
        let is_cut = n_prompt.is_some_and(|n| (n as f64) < CUT_BELOW * expected);
        match (is_cut, is_right(said, code)) {
            (true, _) => Self::Cut,
            (false, true) => Self::Right,
            (false, false) => Self::Wrong,
        }
    }

    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::Cut => "cut",
            Self::Refused => "refused",
            Self::Late => "late",
        }
    }

    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        let all = [
            Self::Right,
            Self::Wrong,
            Self::Cut,
            Self::Refused,
            Self::Late,
        ];
        all.into_iter().find(|came| came.word() == word)
    }
}

/// A question that was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Tokens of the whole context: the prompt, and room for the answer.
    pub context: u64,
    pub depth: f64,
    pub came: Came,
    pub n_prompt: Option<u64>,
    pub seconds: f64,
}

/// All trials of a length.
#[derive(Debug, Clone, PartialEq)]
pub struct Length {
    pub context: u64,
    /// Median of what the server says it has read.
    pub n_prompt: Option<u64>,
    /// Depths in order, with right answers and all.
    pub depths: Vec<(f64, usize, usize)>,
    pub right: usize,
    pub n: usize,
    pub interval: Interval,
    /// Median.
    pub seconds: f64,
    /// What came instead of an answer to the question, with how often.
    pub others: Vec<(Came, usize)>,
}

/// What trials say.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// From the shortest.
    pub lengths: Vec<Length>,
    /// The greatest length up to which every answer was right.
    pub carries: Option<u64>,
    /// The greatest length of which the server has read all, and answered.
    pub accepts: Option<u64>,
}

/// The report over all trials of one model.
#[must_use]
pub fn report(trials: &[Trial]) -> Report {
    let mut contexts: Vec<u64> = trials.iter().map(|trial| trial.context).collect();
    contexts.sort_unstable();
    contexts.dedup();
    let lengths: Vec<Length> = contexts
        .into_iter()
        .map(|context| {
            let of: Vec<&Trial> = trials.iter().filter(|one| one.context == context).collect();
            length(context, &of)
        })
        .collect();
    let whole = |length: &&Length| length.right == length.n;
    let read = |length: &&Length| length.others.is_empty();
    Report {
        carries: lengths
            .iter()
            .take_while(whole)
            .last()
            .map(|one| one.context),
        accepts: lengths.iter().rfind(read).map(|one| one.context),
        lengths,
    }
}

fn length(context: u64, trials: &[&Trial]) -> Length {
    let is_right = |trial: &&&Trial| trial.came == Came::Right;
    let mut depths: Vec<f64> = trials.iter().map(|trial| trial.depth).collect();
    depths.sort_by(f64::total_cmp);
    depths.dedup();
    let depths = depths.into_iter().map(|depth| {
        let here = || trials.iter().filter(move |trial| trial.depth == depth);
        (depth, here().filter(is_right).count(), here().count())
    });
    let others = [Came::Cut, Came::Refused, Came::Late].into_iter();
    let others = others.map(|came| {
        let n = trials.iter().filter(|trial| trial.came == came).count();
        (came, n)
    });
    let right = trials.iter().filter(is_right).count();
    let mut seconds: Vec<f64> = trials.iter().map(|trial| trial.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let mut tokens: Vec<u64> = trials.iter().filter_map(|trial| trial.n_prompt).collect();
    tokens.sort_unstable();
    Length {
        context,
        n_prompt: tokens.get(tokens.len() / 2).copied(),
        depths: depths.collect(),
        right,
        n: trials.len(),
        interval: wilson(right, trials.len()),
        seconds: quantile(&seconds, 0.5),
        others: others.filter(|(_, n)| *n > 0).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_where_it_was_planted_and_the_question_comes_last() {
        for (depth, low, high) in [(0.0, 0.0, 0.01), (0.5, 0.45, 0.55), (1.0, 0.9, 1.0)] {
            let planted = plant(1000, depth, 7);
            let fact = format!("cabinet is {}.", planted.code);
            let at = planted.text.find(&fact).unwrap() as f64 / planted.text.len() as f64;
            assert!((low..=high).contains(&at), "{depth}: {at}");
            assert_eq!(planted.text.matches(&planted.code).count(), 1);
            assert!(planted.text.ends_with("alone."));
            assert!((1000..1060).contains(&planted.words), "{}", planted.words);
        }
        assert_eq!(plant(100, 0.3, 1), plant(100, 0.3, 1));
        assert_ne!(plant(100, 0.3, 1).code, plant(100, 0.3, 2).code);
    }

    #[test]
    fn only_the_code_is_right() {
        for said in [
            "482913",
            "The code is 482913.",
            "482,913",
            "**482913**",
            "4 8: 482913",
        ] {
            assert!(is_right(said, "482913"), "{said}");
        }
        for said in [
            "",
            "48291",
            "4829130",
            "482913 or 482914",
            "I do not know",
            "482 913",
        ] {
            assert!(!is_right(said, "482913"), "{said}");
        }
    }

    #[test]
    fn a_text_that_was_cut_is_no_wrong_answer() {
        assert_eq!(Came::of("482913", "482913", Some(4096), 8000.0), Came::Cut);
        assert_eq!(
            Came::of("482913", "482913", Some(7900), 8000.0),
            Came::Right
        );
        assert_eq!(Came::of("none", "482913", None, 8000.0), Came::Wrong);
        for came in [
            Came::Right,
            Came::Wrong,
            Came::Cut,
            Came::Refused,
            Came::Late,
        ] {
            assert_eq!(Came::of_word(came.word()), Some(came));
        }
    }

    #[test]
    fn a_length_carries_if_all_shorter_ones_do() {
        let trial = |context, depth, came| Trial {
            context,
            depth,
            came,
            n_prompt: Some(context - 50),
            seconds: 1.0,
        };
        let trials = [
            trial(4096, 0.0, Came::Right),
            trial(4096, 1.0, Came::Right),
            trial(1024, 0.0, Came::Right),
            trial(1024, 1.0, Came::Right),
            trial(2048, 0.0, Came::Wrong),
            trial(2048, 1.0, Came::Right),
            trial(8192, 0.0, Came::Refused),
        ];
        let report = report(&trials);
        assert_eq!((report.carries, report.accepts), (Some(1024), Some(4096)));
        assert_eq!(report.lengths[1].depths, [(0.0, 0, 1), (1.0, 1, 1)]);
        assert_eq!(report.lengths[3].others, [(Came::Refused, 1)]);
        assert_eq!(super::report(&[]).carries, None);
    }
}
