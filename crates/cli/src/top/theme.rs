//! How things look: colours where they are wanted, and signs that the terminal has. Colour never
//! says anything that no word says.

use ratatui::style::{Color, Modifier, Style};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Theme {
    pub(super) colours: Colours,
    pub(super) signs: Signs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    Sixteen,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signs {
    Unicode,
    Ascii,
}

/// What a text is, for its look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Beside the point.
    Dim,
    Strong,
    Good,
    Busy,
    Warn,
    Bad,
}

impl Theme {
    /// As the environment wants it: `NO_COLOR` takes the colours away, a locale without UTF-8
    /// and the kernel's console the signs that they lack.
    pub(super) fn of(var: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let mut locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(&var);
        let is_utf8 = locale.next().is_none_or(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        let is_console = var("TERM").as_deref() == Some("linux");
        Self {
            colours: match var("NO_COLOR") {
                Some(_) => Colours::None,
                None => Colours::Sixteen,
            },
            signs: match is_utf8 && !is_console {
                true => Signs::Unicode,
                false => Signs::Ascii,
            },
        }
    }

    pub(super) fn style(self, tone: Tone) -> Style {
        let plain = Style::new();
        let (colour, modifier) = match tone {
            Tone::Plain => return plain,
            Tone::Dim => return plain.add_modifier(Modifier::DIM),
            Tone::Strong => return plain.add_modifier(Modifier::BOLD),
            Tone::Good => (Color::Green, Modifier::empty()),
            Tone::Busy => (Color::Cyan, Modifier::BOLD),
            Tone::Warn => (Color::Yellow, Modifier::BOLD),
            Tone::Bad => (Color::Red, Modifier::BOLD),
        };
        match self.colours {
            Colours::Sixteen => plain.fg(colour).add_modifier(modifier),
            Colours::None => plain.add_modifier(modifier),
        }
    }

    /// The line that is chosen.
    pub(super) fn chosen() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) const fn ellipsis(self) -> &'static str {
        match self.signs {
            Signs::Unicode => "\u{2026}",
            Signs::Ascii => "~",
        }
    }

    /// A bar of `width` cells: shares of the whole after one another, each with its sign.
    pub(super) fn bar(self, width: usize, whole: u64, parts: [u64; 2]) -> String {
        let signs = match self.signs {
            Signs::Unicode => ['\u{2588}', '\u{2592}', '\u{2591}'],
            Signs::Ascii => ['#', '=', '.'],
        };
        let mut bar = String::new();
        let (mut sum, mut n_drawn) = (0_u64, 0);
        for (part, sign) in parts.into_iter().zip(signs) {
            sum = sum.saturating_add(part);
            let share = sum as f64 / whole.max(1) as f64;
            let end = ((share * width as f64).round() as usize).min(width);
            let n_cells = end.saturating_sub(n_drawn);
            bar.extend(std::iter::repeat_n(sign, n_cells));
            n_drawn += n_cells;
        }
        bar.extend(std::iter::repeat_n(signs[2], width - n_drawn));
        bar
    }

    /// The last `width` of these as a line of eight heights; a gap where there is none.
    pub(super) fn spark(self, values: &[Option<f64>], width: usize) -> String {
        let signs = match self.signs {
            Signs::Unicode => ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            Signs::Ascii => ['_', '.', ':', '-', '=', '+', '*', '#'],
        };
        let shown = &values[values.len().saturating_sub(width)..];
        let most = shown.iter().flatten().copied().fold(0.0, f64::max);
        let each = shown.iter().map(|value| match value {
            Some(value) if most > 0.0 => {
                let height = (value / most * (signs.len() - 1) as f64).round() as usize;
                signs[height.min(signs.len() - 1)]
            }
            Some(_) => signs[0],
            None => ' ',
        });
        each.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vars: &[(&str, &str)]) -> Theme {
        Theme::of(|name| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_chooses_colours_and_signs() {
        let cases: [(&[(&str, &str)], _, _); 7] = [
            (&[], Colours::Sixteen, Signs::Unicode),
            (&[("NO_COLOR", "1")], Colours::None, Signs::Unicode),
            (&[("NO_COLOR", "")], Colours::Sixteen, Signs::Unicode),
            (&[("LANG", "C")], Colours::Sixteen, Signs::Ascii),
            (&[("LANG", "de_DE.UTF-8")], Colours::Sixteen, Signs::Unicode),
            (
                &[("LC_ALL", "POSIX"), ("LANG", "en_US.utf8")],
                Colours::Sixteen,
                Signs::Ascii,
            ),
            (&[("TERM", "linux")], Colours::Sixteen, Signs::Ascii),
        ];
        for (vars, colours, signs) in cases {
            assert_eq!(of(vars), Theme { colours, signs }, "{vars:?}");
        }
    }

    #[test]
    fn without_colours_there_are_none() {
        let theme = of(&[("NO_COLOR", "1")]);
        for tone in [Tone::Good, Tone::Busy, Tone::Warn, Tone::Bad, Tone::Dim] {
            assert_eq!(theme.style(tone).fg, None, "{tone:?}");
        }
        assert!(of(&[]).style(Tone::Bad).fg.is_some());
    }

    #[test]
    fn bars_have_their_width_whatever_they_show() {
        let theme = of(&[("LANG", "C")]);
        let cases = [
            ((100, [0, 0]), ".........."),
            ((100, [50, 30]), "#####===.."),
            ((100, [90, 90]), "#########="),
            ((0, [1, 0]), "##########"),
            ((u64::MAX, [u64::MAX, u64::MAX]), "##########"),
        ];
        for ((whole, parts), want) in cases {
            assert_eq!(theme.bar(10, whole, parts), want);
        }
    }

    #[test]
    fn sparks_show_the_last_and_leave_gaps() {
        let theme = of(&[("LANG", "C")]);
        let values = [Some(9.0), None, Some(0.0), Some(5.0), Some(10.0)];
        assert_eq!(theme.spark(&values, 4), " _=#");
        assert_eq!(theme.spark(&[Some(0.0)], 9), "_");
        assert_eq!(theme.spark(&[], 9), "");
    }
}
