//! Figures as people read them, the same as in the workbench.

use std::time::Duration;

/// Tokens in short: 812, 12.4k, 131k.
pub(crate) fn tokens(n: u64) -> String {
    match n {
        0..1000 => n.to_string(),
        1000..100_000 => {
            let short = format!("{:.1}", n as f64 / 1e3);
            format!("{}k", short.trim_end_matches(".0"))
        }
        100_000..10_000_000 => format!("{:.0}k", n as f64 / 1e3),
        _ => format!("{:.0}M", n as f64 / 1e6),
    }
}

/// Tokens a second; `-` before the first.
pub(crate) fn speed(tokens_s: Option<f64>) -> String {
    match tokens_s {
        Some(n) if n.is_finite() && n >= 100.0 => format!("{n:.0}"),
        Some(n) if n.is_finite() => format!("{n:.1}"),
        _ => "-".to_owned(),
    }
}

pub(crate) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        whole => format!("{:.0} %", 100.0 * part as f64 / whole as f64),
    }
}

/// By how much a figure differs from the one that was expected.
pub(crate) fn difference(got: u64, expected: u64) -> String {
    match expected {
        0 => "-".to_owned(),
        expected => format!("{:+.1} %", 100.0 * (got as f64 / expected as f64 - 1.0)),
    }
}

/// In the two largest units that there are: 5 s, 2 min 5 s, 3 h 12 min, 4 d 1 h.
pub(crate) fn span(time: Duration) -> String {
    let secs = time.as_secs();
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86_400);
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{minutes} min {} s", secs % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// In the largest unit that there is, for where there is little room.
pub(crate) fn short_span(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{} min", secs / 60),
        3600..86_400 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// A text that can do nothing to a terminal: what controls one is shown as a dot.
pub(crate) fn inert(text: &str) -> String {
    let each = text.chars().map(|c| match c {
        '\t' => ' ',
        c if c.is_control() || is_invisible(c) => '\u{b7}',
        c => c,
    });
    each.collect()
}

/// Marks that change the direction of what stands beside them, or take no place.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1k"),
            (12_449, "12.4k"),
            (131_072, "131k"),
            (25_000_000, "25M"),
        ];
        for (n, want) in cases {
            assert_eq!(tokens(n), want);
        }
        for (n, want) in [(None, "-"), (Some(9.96), "10.0"), (Some(412.4), "412")] {
            assert_eq!(speed(n), want);
        }
        assert_eq!((percent(1, 3), percent(1, 0)), ("33 %".into(), "-".into()));
        assert_eq!(difference(103, 100), "+3.0 %");
        assert_eq!(difference(97, 100), "-3.0 %");
        assert_eq!(difference(1, 0), "-");
    }

    #[test]
    fn spans_have_two_units() {
        for (secs, want) in [
            (5, "5 s"),
            (125, "2 min 5 s"),
            (11_520, "3 h 12 min"),
            (349_200, "4 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_secs(secs)), want);
            let short = short_span(Duration::from_secs(secs));
            assert!(want.starts_with(&short), "{short}");
        }
    }

    #[test]
    fn nothing_that_controls_a_terminal_is_left() {
        let text = "a\u{1b}[2J\u{9b}b\r\n\tc\u{202e}d\u{7f}";
        let inert = inert(text);
        assert_eq!(inert, "a\u{b7}[2J\u{b7}b\u{b7}\u{b7} c\u{b7}d\u{b7}");
    }
}
