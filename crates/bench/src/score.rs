//! One figure for quality and pace together.

/// No answer is so slow that its quality counts for less than this part.
pub const PACE_MIN: f64 = 0.1;
/// Mean seconds of an answer at which the pace is 1.
const PACE_SECONDS: f64 = 60.0;

/// The weighted quality, times how often an answer of the mean duration fits into a minute;
/// from ten minutes on the pace counts no less.
///
/// `seconds_mean` is above 0 where anything was measured; 0 or less gives infinity or nonsense
/// only where there was no quality either, so it is taken as no score.
#[must_use]
pub fn composite(weighted_quality: f64, seconds_mean: f64) -> f64 {
    if seconds_mean <= 0.0 {
        return 0.0;
    }
    weighted_quality * (PACE_SECONDS / seconds_mean).max(PACE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weighted quality, mean seconds and score, as published for twelve models on a board.
    const PUBLISHED: [(&str, f64, f64, f64); 12] = [
        ("Qwen2.5-3B on the NPU", 22.0, 44.8, 29.5),
        ("Qwen3-1.7B on the NPU", 20.5, 42.3, 29.1),
        ("LFM2.5-350M", 13.5, 33.5, 24.2),
        ("LFM2.5-1.2B", 18.0, 46.2, 23.4),
        ("Qwen3.5-0.8B distilled", 18.5, 49.9, 22.2),
        ("Qwen2.5-Coder-3B on the NPU", 17.0, 52.4, 19.5),
        ("Qwen3.5-2B", 23.5, 74.0, 19.1),
        ("GLM-4.7 REAP 23B", 19.5, 62.1, 18.8),
        ("Qwen2.5-3B on the CPU", 22.0, 87.0, 15.2),
        ("Qwen3-4B", 19.0, 101.4, 11.2),
        ("Qwen3.5-4B", 20.5, 126.5, 9.7),
        ("Gemma-4-26B-A4B", 25.0, 179.2, 8.4),
    ];

    #[test]
    fn published_scores_come_out_to_their_decimal() {
        for (model, quality, seconds, published) in PUBLISHED {
            let score = (composite(quality, seconds) * 10.0).round() / 10.0;
            assert!((score - published).abs() < 1e-9, "{model}: {score}");
        }
    }

    #[test]
    fn the_pace_has_a_floor_and_nothing_measured_has_no_score() {
        assert!((composite(20.0, 600.0) - composite(20.0, 6000.0)).abs() < 1e-9);
        assert!((composite(20.0, 599.0)) > composite(20.0, 600.0));
        assert_eq!(composite(20.0, 0.0).to_bits(), 0.0_f64.to_bits());
    }
}
