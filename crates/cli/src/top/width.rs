//! Texts and the columns that they take on a terminal.

use ratatui::text::{Line, Span};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::theme::Theme;

pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// The text in at most so many columns; what is cut away is told by an ellipsis.
pub(super) fn fit(text: &str, columns: usize, theme: Theme) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let n = c.width().unwrap_or(0);
        if used + n >= columns {
            break;
        }
        used += n;
        cut.push(c);
    }
    if columns > 0 {
        cut.push_str(theme.ellipsis());
    }
    cut
}

/// A line of at most so many columns.
pub(super) fn cut(spans: Vec<Span<'static>>, columns: usize, theme: Theme) -> Line<'static> {
    let mut line = Vec::new();
    let mut used = 0;
    for span in spans {
        let n = span.width();
        if used + n <= columns {
            used += n;
            line.push(span);
            continue;
        }
        let text = fit(&span.content, columns.saturating_sub(used), theme);
        line.push(Span::styled(text, span.style));
        break;
    }
    Line::from(line)
}

/// What is on the left, as far as it has room beside what is on the right.
pub(super) fn spread(
    left: Vec<Span<'static>>,
    right: Span<'static>,
    columns: usize,
    theme: Theme,
) -> Line<'static> {
    let n_right = right.width();
    if n_right >= columns {
        return cut(vec![right], columns, theme);
    }
    let mut line = cut(left, columns - n_right - 1, theme);
    let gap = columns - n_right - line.width();
    line.push_span(Span::raw(" ".repeat(gap)));
    line.push_span(right);
    line
}

/// The text in just so many columns.
pub(super) fn padded(text: &str, columns: usize, side: Side, theme: Theme) -> String {
    let text = fit(text, columns, theme);
    let gap = " ".repeat(columns - width(&text));
    match side {
        Side::Left => text + &gap,
        Side::Right => gap + &text,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

#[cfg(test)]
mod tests {
    use super::super::theme::{Colours, Signs};
    use super::*;

    const THEME: Theme = Theme {
        colours: Colours::None,
        signs: Signs::Ascii,
    };

    #[test]
    fn texts_take_the_columns_that_they_are_given() {
        for (text, columns, want) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab~"),
            ("abcd", 1, "~"),
            ("abcd", 0, ""),
            // Two columns each: the second has no room beside the ellipsis.
            ("\u{6f22}\u{5b57}", 3, "\u{6f22}~"),
            ("\u{6f22}\u{5b57}", 2, "~"),
        ] {
            assert_eq!(fit(text, columns, THEME), want, "{text} in {columns}");
        }
        assert_eq!(padded("ab", 4, Side::Right, THEME), "  ab");
        assert_eq!(padded("\u{6f22}", 4, Side::Left, THEME), "\u{6f22}  ");
    }

    #[test]
    fn the_right_side_stays_and_the_left_gives_way() {
        let line = |columns| {
            let left = vec![Span::raw("left and long"), Span::raw(" more")];
            spread(left, Span::raw("right"), columns, THEME).to_string()
        };
        assert_eq!(line(30), "left and long more       right");
        assert_eq!(line(15), "left and~ right");
        assert_eq!(line(4), "rig~");
    }
}
