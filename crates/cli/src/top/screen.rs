//! The terminal while `top` has it. It is given back as it was however `top` ends: by dropping
//! [`Screen`], which a panic does too.

use std::io::{self, Stdout, stdout};
use std::panic;
use std::sync::Once;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    _raw: Raw,
}

/// The terminal is ours.
struct Raw;

impl Drop for Raw {
    fn drop(&mut self) {
        give_back();
    }
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            // Else the message of a panic would go to the screen that is left with it.
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |what| {
                give_back();
                usual(what);
            }));
        });
        enable_raw_mode()?;
        let raw = Raw;
        execute!(stdout(), EnterAlternateScreen)?;
        let mut terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        terminal.hide_cursor()?;
        Ok(Self {
            terminal,
            _raw: raw,
        })
    }

    pub(super) fn size(&self) -> io::Result<(u16, u16)> {
        let size = self.terminal.size()?;
        Ok((size.width, size.height))
    }

    pub(super) fn show(&mut self, lines: Vec<Line<'static>>) -> io::Result<()> {
        self.terminal.draw(|frame| {
            let area = frame.area();
            frame.render_widget(Paragraph::new(lines), area);
        })?;
        Ok(())
    }
}

/// As it was before. What fails here has nobody left to be told.
fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
}

#[cfg(test)]
mod tests;
