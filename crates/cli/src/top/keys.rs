//! From what the terminal sends to what it means.

use ratatui::crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::{Event, Key};

/// `None` for what has no meaning here.
pub(super) fn event(input: &Input) -> Option<Event> {
    match *input {
        Input::Key(key) if key.kind != KeyEventKind::Release => Some(Event::Key(meaning(key))),
        Input::Resize(width, height) => Some(Event::Resize { width, height }),
        _ => None,
    }
}

fn meaning(key: KeyEvent) -> Key {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            // In raw mode the terminal does not make a signal of it.
            KeyCode::Char('c' | 'd') => Key::Quit,
            KeyCode::Char('f') => Key::PageDown,
            KeyCode::Char('b') => Key::PageUp,
            _ => Key::Other,
        };
    }
    match key.code {
        KeyCode::Char('q' | 'Q') => Key::Quit,
        KeyCode::Char('j') | KeyCode::Down => Key::Down,
        KeyCode::Char('k') | KeyCode::Up => Key::Up,
        KeyCode::Char('g') | KeyCode::Home => Key::First,
        KeyCode::Char('G') | KeyCode::End => Key::Last,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown | KeyCode::Char(' ') => Key::PageDown,
        KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') => Key::Enter,
        KeyCode::Esc | KeyCode::Left | KeyCode::Backspace | KeyCode::Char('h') => Key::Back,
        KeyCode::Char('?') | KeyCode::F(1) => Key::Help,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_help_says() {
        let plain = |code| meaning(KeyEvent::new(code, KeyModifiers::NONE));
        for (code, want) in [
            (KeyCode::Char('q'), Key::Quit),
            (KeyCode::Down, Key::Down),
            (KeyCode::Char('j'), Key::Down),
            (KeyCode::Up, Key::Up),
            (KeyCode::Char('k'), Key::Up),
            (KeyCode::Enter, Key::Enter),
            (KeyCode::Esc, Key::Back),
            (KeyCode::Char('?'), Key::Help),
            (KeyCode::Char('x'), Key::Other),
        ] {
            assert_eq!(plain(code), want, "{code:?}");
        }
        let control = |c| meaning(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL));
        assert_eq!(control('c'), Key::Quit);
        assert_eq!(control('j'), Key::Other);
    }
}
