//! From what is known to the lines of the screen, for any size of it. Pure.

use ratatui::text::{Line, Span};
use std::time::Duration;
use stdx::Bytes;

use super::details::{self, Entry};
use super::state::{Link, Page, State};
use super::table::table;
use super::theme::{Signs, Theme, Tone};
use super::width::{fit, spread, width};
use crate::bus::{Board, MemoryState};
use crate::figures::{inert, span, speed};

/// Columns of the names of things, on the left.
const LABEL: usize = 10;
/// Cells of a bar where there is room for it.
const BAR: usize = 14;
/// Lines about the chosen model that stay below a list that is longer than the screen.
const PANEL_MIN: usize = 7;
/// Rows of models that stay above them.
const ROWS_MIN: usize = 3;
/// A course of rates that is shorter says nothing.
const SPARK_MIN: usize = 8;

const HELP: [(&str, &str); 8] = [
    ("j k, arrows", "choose a model; move through its details"),
    ("PgUp PgDn", "half a screen"),
    ("g G", "the first, the last"),
    ("enter", "all that is known of the model, and back"),
    ("esc", "back"),
    ("?", "this page"),
    ("q, Ctrl-C", "leave; server and models go on"),
    ("", ""),
];

const MEANINGS: [(&str, &str); 8] = [
    ("RUN", "requests that are answered + that wait"),
    ("SLOTS", "busy of all"),
    ("CACHE", "cells of the KV cache in use or kept, of all"),
    ("WRITE", "tokens a second of the last answers (decode)"),
    (
        "READ",
        "tokens a second of the last prompts (prefill), cached ones left out",
    ),
    ("MEMORY", "what it takes; ~ is an estimate"),
    ("STAYS", "until when it is in memory"),
    (
        "differs",
        "the engine has something else than was asked for",
    ),
];

type Spans = Vec<Span<'static>>;

/// The whole screen, at most as many lines as it has.
pub(super) fn screen(state: &State, theme: Theme) -> Vec<Line<'static>> {
    let (width, height) = (usize::from(state.width), usize::from(state.height));
    let mut lines = vec![title(state, theme, width)];
    lines.extend(trouble(state, theme, width));
    match state.page {
        Page::List => list(state, theme, &mut lines),
        Page::Details => details_page(state, theme, &mut lines),
        Page::Help => help(theme, width, &mut lines),
    }
    lines.truncate(height.saturating_sub(1));
    while lines.len() + 1 < height {
        lines.push(Line::default());
    }
    lines.push(keys(state.page, theme, width));
    lines.truncate(height);
    lines
}

fn title(state: &State, theme: Theme, width: usize) -> Line<'static> {
    let mut left = vec![Span::styled("sextant", theme.style(Tone::Strong))];
    if let Some(server) = &state.board.server {
        left.push(Span::raw(format!(" {}", inert(&server.version))));
    }
    left.push(Span::raw(format!("  {}", inert(&state.address))));
    if let Some(server) = &state.board.server {
        let up = Duration::from_secs((state.now_ms / 1000).saturating_sub(server.started_s));
        let text = format!("  up {}", span(up));
        left.push(Span::styled(text, theme.style(Tone::Dim)));
    }
    let right = match &state.link {
        Link::Open => Span::styled("live", theme.style(Tone::Good)),
        Link::Lost { since_ms, .. } => {
            let gone = Duration::from_millis(state.now_ms.saturating_sub(*since_ms));
            let text = format!("gone for {}, trying again", span(gone));
            Span::styled(text, theme.style(Tone::Warn))
        }
    };
    spread(left, right, width, theme)
}

/// What keeps the screen from being the truth.
fn trouble(state: &State, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Link::Lost { why, .. } = &state.link {
        let text = fit(&inert(why), width, theme);
        lines.push(Line::styled(text, theme.style(Tone::Warn)));
    }
    if let Some((key, why)) = state.board.unread.iter().next() {
        let text = format!("cannot read {key} of this server: {why}");
        let text = fit(&inert(&text), width, theme);
        lines.push(Line::styled(text, theme.style(Tone::Warn)));
    }
    lines
}

fn list(state: &State, theme: Theme, lines: &mut Vec<Line<'static>>) {
    let (width, height) = (usize::from(state.width), usize::from(state.height));
    lines.extend(summary(state, theme, width));
    lines.push(Line::default());
    let models = state.board.in_order();
    let Some(chosen) = state.chosen() else {
        let text = "no model here yet; `sextant pull SPEC` fetches one";
        lines.push(Line::styled(
            fit(text, width, theme),
            theme.style(Tone::Dim),
        ));
        return;
    };
    // The head of the table, a line between it and the panel, and the keys.
    let room = height.saturating_sub(lines.len() + 3);
    let n_rows = match models.len() + PANEL_MIN <= room {
        true => models.len(),
        false => models
            .len()
            .min(room.saturating_sub(PANEL_MIN).max(ROWS_MIN)),
    };
    let place = models.iter().position(|model| model.name == chosen.name);
    let place = place.unwrap_or(0);
    let first = (place + 1).saturating_sub(n_rows);
    let shown = first..(first + n_rows).min(models.len());
    lines.extend(table(state, theme, &models, shown));
    lines.push(Line::default());
    let room = height.saturating_sub(lines.len() + 1);
    let mut panel = wrapped(&details::entries(state, chosen, theme), width, theme);
    if panel.len() > room {
        panel.truncate(room.saturating_sub(1));
        let text = fit("enter shows the rest", width, theme);
        panel.push(Line::styled(text, theme.style(Tone::Dim)));
    }
    lines.extend(panel);
}

/// What holds for all models.
fn summary(state: &State, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let last = state.rates.back().copied().unwrap_or_default();
    let (written, read) = (speed(last.written), speed(last.read));
    let mut rates = format!("{written} written, {read} read");
    let written: Vec<_> = state.rates.iter().map(|one| one.written).collect();
    let room = width.saturating_sub(LABEL + rates.len() + 2);
    if room >= SPARK_MIN {
        rates.push_str("  ");
        rates.push_str(&theme.spark(&written, room));
    }
    lines.push(fact("tokens/s", vec![Span::raw(rates)], width, theme));
    let (running, waiting) = requests(&state.board);
    let tone = match waiting {
        0 => Tone::Plain,
        _ => Tone::Busy,
    };
    let told = format!("{running} running, {waiting} waiting");
    let told = Span::styled(told, theme.style(tone));
    lines.push(fact("requests", vec![told], width, theme));
    if let Some(memory) = &state.board.memory {
        lines.push(fact("memory", host(memory, width, theme), width, theme));
        if let Some(max) = memory.gpu_memory_bytes_max {
            let of = (memory.gpu_memory_bytes, Some(max));
            lines.push(fact("on GPUs", taken(of, width, theme), width, theme));
        }
    }
    for pull in state.board.pulls.values() {
        let done: u64 = pull.files.iter().map(|file| file.done_bytes).sum();
        let total: Option<u64> = pull.files.iter().map(|file| file.total_bytes).sum();
        let mut spans = taken((done, total.filter(|total| *total > 0)), width, theme);
        spans.push(Span::raw(format!(", {}", inert(&pull.spec))));
        lines.push(fact("download", spans, width, theme));
    }
    lines
}

/// Requests of all models that are answered, and that wait.
pub(super) fn requests(board: &Board) -> (u32, u32) {
    let models = board.models.values();
    models.fold((0, 0), |(running, waiting), model| {
        let queued = model.worker.as_ref().map_or(0, |worker| worker.queued);
        (
            running + model.requests_running,
            waiting + model.requests_waiting + queued,
        )
    })
}

fn host(memory: &MemoryState, width: usize, theme: Theme) -> Spans {
    let of = (memory.memory_bytes, memory.memory_bytes_max);
    let mut spans = taken(of, width, theme);
    let (tone, text) = pressure(memory);
    spans.push(Span::raw(", "));
    spans.push(Span::styled(text, theme.style(tone)));
    spans
}

/// How short the machine is of memory, and what was given up for it.
pub(super) fn pressure(memory: &MemoryState) -> (Tone, String) {
    let tone = match memory.pressure.as_str() {
        "calm" | "" => Tone::Plain,
        "critical" => Tone::Bad,
        _ => Tone::Warn,
    };
    let mut text = inert(&memory.pressure);
    if memory.shrinks + memory.unloads > 0 {
        let (shrinks, unloads) = (memory.shrinks, memory.unloads);
        text.push_str(&format!(" ({shrinks} shrunk, {unloads} unloaded)"));
    }
    (tone, text)
}

fn taken((bytes, max): (u64, Option<u64>), width: usize, theme: Theme) -> Spans {
    let Some(max) = max else {
        return vec![Span::raw(format!("{}, no limit", Bytes(bytes)))];
    };
    let mut text = String::new();
    if width >= LABEL + 3 * BAR {
        text = format!("[{}] ", theme.bar(BAR, max, [bytes, 0]));
    }
    text.push_str(&format!("{} of {}", Bytes(bytes), Bytes(max)));
    vec![Span::raw(text)]
}

fn details_page(state: &State, theme: Theme, lines: &mut Vec<Line<'static>>) {
    let room = usize::from(state.height).saturating_sub(lines.len() + 1);
    let all = all_details(state, theme);
    let shown = all.into_iter().skip(state.scroll).take(room);
    lines.extend(shown);
}

fn all_details(state: &State, theme: Theme) -> Vec<Line<'static>> {
    let width = usize::from(state.width);
    let entries = state
        .chosen()
        .map(|model| details::entries(state, model, theme));
    wrapped(&entries.unwrap_or_default(), width, theme)
}

/// Lines of the details that have no room on the screen.
pub(super) fn details_hidden(state: &State) -> usize {
    // How many lines there are does not depend on how they look.
    let theme = Theme {
        colours: super::theme::Colours::None,
        signs: Signs::Ascii,
    };
    let width = usize::from(state.width);
    let above = 1 + trouble(state, theme, width).len();
    let room = usize::from(state.height).saturating_sub(above + 1);
    all_details(state, theme).len().saturating_sub(room)
}

fn help(theme: Theme, width: usize, lines: &mut Vec<Line<'static>>) {
    let parts = HELP.into_iter().chain(MEANINGS);
    let entries: Vec<_> = parts
        .map(|(name, text)| Entry::new(name, text.to_owned()))
        .collect();
    lines.push(Line::default());
    lines.extend(wrapped_at(&entries, 13, width, theme));
}

fn keys(page: Page, theme: Theme, width: usize) -> Line<'static> {
    let text = match page {
        Page::List => "q quit  j k move  enter details  ? help",
        Page::Details => "q quit  j k move  esc back  ? help",
        Page::Help => "q quit  any other key: back",
    };
    Line::styled(fit(text, width, theme), theme.style(Tone::Dim))
}

/// A name and what is to be said of it, in one line.
fn fact(label: &str, spans: Spans, width: usize, theme: Theme) -> Line<'static> {
    let label = Span::styled(format!("{label:<LABEL$}"), theme.style(Tone::Dim));
    let mut line = vec![label];
    line.extend(spans);
    super::width::cut(line, width, theme)
}

fn wrapped(entries: &[Entry], width: usize, theme: Theme) -> Vec<Line<'static>> {
    wrapped_at(entries, LABEL, width, theme)
}

/// Entries below one another: the name on the left, the text beside it in as many lines as it
/// takes.
fn wrapped_at(entries: &[Entry], label: usize, columns: usize, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let room = columns.saturating_sub(label).max(1);
    for entry in entries {
        let name = format!("{:<label$}", entry.name);
        let mut line = vec![Span::styled(name, theme.style(Tone::Dim))];
        let (mut used, mut gap) = (0, "");
        for (text, tone) in &entry.parts {
            for word in text.split_inclusive(' ') {
                let bare = word.trim_end_matches(' ');
                for piece in pieces(bare, room) {
                    if used > 0 && used + gap.len() + width(piece) > room {
                        lines.push(super::width::cut(line, columns, theme));
                        line = vec![Span::raw(" ".repeat(label))];
                        (used, gap) = (0, "");
                    }
                    used += gap.len() + width(piece);
                    line.push(Span::styled(format!("{gap}{piece}"), theme.style(*tone)));
                    gap = "";
                }
                gap = if word.len() > bare.len() { " " } else { "" };
            }
        }
        lines.push(super::width::cut(line, columns, theme));
    }
    lines
}

/// A word in pieces of at most so many columns.
fn pieces(word: &str, columns: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (at, c) in word.char_indices() {
        let n = width(c.encode_utf8(&mut [0; 4]));
        if used + n > columns && at > start {
            pieces.push(&word[start..at]);
            (start, used) = (at, 0);
        }
        used += n;
    }
    pieces.push(&word[start..]);
    pieces
}
