//! Two ways to use a machine: a model for every day, and a strong one for what may take longer.
//! Never one for all.

use hardware::Tier;
use kv::{CacheType, Types};

/// What a preset is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Answers faster than one reads.
    Daily,
    /// As good as the machine can, at a pace that one waits for.
    Strong,
}

impl Purpose {
    pub const ALL: [Self; 2] = [Self::Daily, Self::Strong];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Strong => "strong",
        }
    }
}

/// Settings for one purpose on one class of machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preset {
    pub purpose: Purpose,
    /// The largest model that decodes at least so many tokens a second is the one to take.
    pub decode_min: f64,
    pub context: u32,
    pub slots: u32,
    pub types: Types,
    /// Tokens of a thought, for requests that do not say: about a minute of decoding for every
    /// day, none on a board, where a minute is a few sentences; `None`: no limit.
    pub reasoning_budget: Option<u32>,
    pub reason: &'static str,
}

const PLAIN: Types = Types {
    keys: CacheType::F16,
    values: CacheType::F16,
};
const EIGHT_BITS: Types = Types {
    keys: CacheType::Q8_0,
    values: CacheType::Q8_0,
};
/// Keys need their bits more than values do: less than a fifth of the error of the opposite, at
/// the same size (KLD 0.013 against 0.072 for SmolLM2).
const FOUR_BIT_VALUES: Types = Types {
    keys: CacheType::Q8_0,
    values: CacheType::Q4_0,
};

const fn preset(
    purpose: Purpose,
    (decode_min, context, slots): (f64, u32, u32),
    types: Types,
    reasoning_budget: Option<u32>,
    reason: &'static str,
) -> Preset {
    Preset {
        purpose,
        decode_min,
        context,
        slots,
        types,
        reasoning_budget,
        reason,
    }
}

/// After published runs on an RK3588 with 24 GB: a 2 B model at 8.7 tokens/s was stable with 32,768
/// tokens of context, a 9 B model at 2.5 with 8,192; keys in q8_0 and values in q4_0 on the four
/// big cores, and no thinking.
const ROCKCHIP: [Preset; 2] = [
    preset(
        Purpose::Daily,
        (8.0, 16_384, 1),
        FOUR_BIT_VALUES,
        Some(0),
        "one person, a 2 B model on the big cores; a small cache leaves the narrow memory to the weights",
    ),
    preset(
        Purpose::Strong,
        (2.0, 8192, 1),
        FOUR_BIT_VALUES,
        Some(0),
        "up to a 9 B model was stable with this context; larger ones fall below a token a second",
    ),
];

const ARM: [Preset; 2] = [
    preset(
        Purpose::Daily,
        (6.0, 8192, 1),
        FOUR_BIT_VALUES,
        Some(0),
        "one person on a narrow memory, and often 4 to 8 GB of it for everything",
    ),
    preset(
        Purpose::Strong,
        (2.0, 4096, 1),
        FOUR_BIT_VALUES,
        Some(0),
        "a short context, so that its cache and a larger model fit together",
    ),
];

const LAPTOP: [Preset; 2] = [
    preset(
        Purpose::Daily,
        (15.0, 16_384, 2),
        EIGHT_BITS,
        Some(1024),
        "heat lowers the clocks after minutes, so half as fast must still be pleasant",
    ),
    preset(
        Purpose::Strong,
        (4.0, 16_384, 1),
        FOUR_BIT_VALUES,
        None,
        "on mains power; the cache stays small beside a model that fills the memory",
    ),
];

const UNIFIED: [Preset; 2] = [
    preset(
        Purpose::Daily,
        (25.0, 32_768, 4),
        EIGHT_BITS,
        Some(2048),
        "much memory at a middling pace: long contexts and several streams are cheap",
    ),
    preset(
        Purpose::Strong,
        (6.0, 32_768, 2),
        EIGHT_BITS,
        None,
        "a mixture of experts reads a part of its weights only, and is the best use of such memory",
    ),
];

const NUMA: [Preset; 2] = [
    preset(
        Purpose::Daily,
        (20.0, 32_768, 8),
        PLAIN,
        Some(1024),
        "memory is plenty and streams share each pass over the weights",
    ),
    preset(
        Purpose::Strong,
        (4.0, 32_768, 2),
        PLAIN,
        None,
        "a large model reads memory of both nodes: fewer streams keep it usable",
    ),
];

const DESKTOP: [Preset; 2] = [
    preset(
        Purpose::Daily,
        (20.0, 16_384, 4),
        EIGHT_BITS,
        Some(1024),
        "an editor, a chat and an agent at once; keys and values in 8 bits cost next to no quality",
    ),
    preset(
        Purpose::Strong,
        (5.0, 16_384, 1),
        FOUR_BIT_VALUES,
        None,
        "one stream, so that the largest model and its cache fit",
    ),
];

/// The presets of a class of machine. But for Rockchip's they are rules of thumb until
/// `sextant tune` has measured.
#[must_use]
pub const fn presets(tier: Tier) -> [Preset; 2] {
    match tier {
        Tier::RockchipBoard => ROCKCHIP,
        Tier::ArmBoard => ARM,
        Tier::Laptop => LAPTOP,
        Tier::NvidiaUnified | Tier::AmdUnified => UNIFIED,
        Tier::NumaServer => NUMA,
        Tier::Workstation | Tier::VirtualMachine | Tier::Unknown => DESKTOP,
    }
}

/// One model, as a preset would use it here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub fits: bool,
    /// Weights, as a measure of what it can do.
    pub n_weights: u64,
    /// The middle of the predicted band, tokens a second.
    pub decode: f64,
}

/// The place of the model that a preset takes: the largest that is fast enough, or, where none
/// is, the fastest. `None` where none fits.
#[must_use]
pub fn choose(preset: &Preset, candidates: &[Candidate]) -> Option<usize> {
    let fitting = || candidates.iter().enumerate().filter(|(_, one)| one.fits);
    let fast_enough = fitting().filter(|(_, one)| one.decode >= preset.decode_min);
    let largest = fast_enough.max_by_key(|(_, one)| one.n_weights);
    let fastest = || fitting().max_by(|(_, a), (_, b)| a.decode.total_cmp(&b.decode));
    largest.or_else(fastest).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIERS: [Tier; 9] = [
        Tier::RockchipBoard,
        Tier::ArmBoard,
        Tier::NvidiaUnified,
        Tier::AmdUnified,
        Tier::NumaServer,
        Tier::VirtualMachine,
        Tier::Laptop,
        Tier::Workstation,
        Tier::Unknown,
    ];

    #[test]
    fn every_class_has_a_fast_and_a_strong_preset() {
        for tier in TIERS {
            let [daily, strong] = presets(tier);
            assert_eq!([daily.purpose, strong.purpose], Purpose::ALL, "{tier:?}");
            assert!(daily.decode_min > strong.decode_min, "{tier:?}");
            assert!(daily.context >= strong.context && daily.slots >= strong.slots);
        }
    }

    #[test]
    fn the_largest_that_is_fast_enough_is_chosen_and_else_the_fastest() {
        let one = |fits, n_weights, decode| Candidate {
            fits,
            n_weights,
            decode,
        };
        let [daily, strong] = presets(Tier::RockchipBoard);
        // The published rates of 0.8 B to 27 B on that board.
        let board = [
            one(true, 800_000_000, 12.07),
            one(true, 2_000_000_000, 8.68),
            one(true, 4_000_000_000, 3.62),
            one(true, 9_000_000_000, 2.48),
            one(true, 27_000_000_000, 0.62),
        ];
        assert_eq!(choose(&daily, &board), Some(1));
        assert_eq!(choose(&strong, &board), Some(3));
        let slow = [one(true, 9, 0.5), one(true, 5, 0.7), one(false, 1, 9.0)];
        assert_eq!(choose(&daily, &slow), Some(1));
        assert_eq!(choose(&daily, &[one(false, 1, 9.0)]), None);
    }
}
