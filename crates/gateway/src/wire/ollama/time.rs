//! Spans as Ollama writes them, in nanoseconds; its moments are RFC 3339.

/// Milliseconds as whole nanoseconds.
pub(crate) fn nanoseconds(ms: f64) -> u64 {
    // The conversion saturates, and makes 0 of what is negative or no number.
    (ms * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_whole_nanoseconds() {
        assert_eq!(nanoseconds(0.5), 500_000);
        assert_eq!(nanoseconds(-1.0), 0);
        assert_eq!(nanoseconds(f64::NAN), 0);
    }
}
