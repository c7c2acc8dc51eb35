//! How fast it is for each of several users, from how fast it is for one.
//!
//! One pass makes a token for everybody. It reads the weights once and the caches of all, and
//! computes as many tokens as there are users. So it takes no less than the longer of reading
//! and of computing them at the pace of prefill, and no more than the sum of both. Where nobody
//! knows how fast a machine computes, the low end is what a GPU was published to gain from
//! batches (`llama-batches`), or on a processor no gain at all.

use crate::model::{Model, Role};
use crate::roofline::{Band, Class, Speed};

/// Published rates of all streams together, as multiples of that of one.
const PUBLISHED_GAINS: [(f64, f64); 5] = [
    (1.0, 1.0),
    (2.0, 50.90 / 41.57),
    (4.0, 74.44 / 41.57),
    (8.0, 139.43 / 41.57),
    (16.0, 242.23 / 41.57),
];

/// Where the low ends of speeds for several users come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowEnd {
    /// From the machine's own speed of prefill.
    Prefill,
    /// From published gains of batches on GPUs.
    Published,
    /// From nothing: as if streams took turns.
    Turns,
}

/// What each user sees while all of them are answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shared {
    pub users: u32,
    /// Tokens a second for each, at the start of their contexts.
    pub each: Band,
    /// And when all contexts are full.
    pub each_full: Band,
    /// Seconds until the first token of a prompt: of one who comes alone, and of the last of all
    /// who come at once. `None` where the speed of prefill is not known.
    pub ttft_alone: Option<Band>,
    pub ttft_together: Option<Band>,
    pub low_end: LowEnd,
}

/// Shares a machine among users who have prompts of so many tokens. `one` is the speed of one
/// stream, and its full context the contexts of all.
#[must_use]
pub fn share(one: &Speed, model: &Model, class: Class, users: u32, prompt: u32) -> Shared {
    let n = f64::from(users.max(1));
    let spread = spread(model, n);
    let low_end = match (one.prefill, class) {
        (Some(_), _) => LowEnd::Prefill,
        (None, Class::Gpu | Class::UnifiedGpu) => LowEnd::Published,
        (None, Class::Board | Class::Cpu) => LowEnd::Turns,
    };
    // Seconds of a pass: the most, the least.
    let most = match one.prefill {
        Some(prefill) => spread / one.decode.low + (n - 1.0) / prefill.low,
        None if low_end == LowEnd::Published => {
            (spread / one.decode.low).max(n / (one.decode.low * published_gain(n)))
        }
        None => n / one.decode.low,
    };
    let computing = one.prefill.map_or(0.0, |prefill| n / prefill.high);
    let least = |reading: f64| reading.max(computing);
    let caches = |decode: f64, full: f64| (1.0 / full - 1.0 / decode).max(0.0);
    let (of_low, of_high) = (
        caches(one.decode.low, one.decode_full.low),
        caches(one.decode.high, one.decode_full.high),
    );
    let reading = spread / one.decode.high;
    let prompt = f64::from(prompt);
    let seconds = |prompts: f64| {
        one.prefill.map(|prefill| Band {
            low: prompts * prompt / prefill.high,
            high: prompts * prompt / prefill.low,
        })
    };
    Shared {
        users,
        each: Band {
            low: 1.0 / most,
            high: 1.0 / least(reading),
        },
        each_full: Band {
            low: 1.0 / (most + of_low),
            high: 1.0 / least(reading + of_high),
        },
        ttft_alone: seconds(1.0),
        ttft_together: seconds(n),
        low_end,
    }
}

/// How much more of the weights so many tokens of different users read than one does: each of
/// them picks experts of its own, as if by chance.
fn spread(model: &Model, n: f64) -> f64 {
    let (all, picked) = (model.experts as f64, model.experts_used as f64);
    if !(picked > 0.0 && picked < all) {
        return 1.0;
    }
    let experts = model.tensors.iter().filter(|one| one.role == Role::Expert);
    let of_experts: u64 = experts.map(|one| model.active(one, one.bytes)).sum();
    let active = model.active_bytes().max(1) as f64;
    let touched = all * (1.0 - (1.0 - picked / all).powf(n)) / picked;
    1.0 + of_experts as f64 / active * (touched - 1.0)
}

fn published_gain(n: f64) -> f64 {
    let after = PUBLISHED_GAINS.iter().position(|(users, _)| *users >= n);
    match after {
        Some(0) => 1.0,
        Some(place) => {
            let ((from, low), (to, high)) = (PUBLISHED_GAINS[place - 1], PUBLISHED_GAINS[place]);
            low + (high - low) * (n - from) / (to - from)
        }
        // Nobody published more.
        None => PUBLISHED_GAINS[PUBLISHED_GAINS.len() - 1].1,
    }
}
