//! The table of models: the columns that have room, the most telling first.

use std::ops::Range;
use std::time::Duration;

use ratatui::text::{Line, Span};
use stdx::Bytes;

use super::state::State;
use super::theme::{Theme, Tone};
use super::width::{Side, padded};
use crate::bus::ModelState;
use crate::figures::{inert, percent, short_span, speed};

/// The narrowest that names may be.
const NAME_MIN: usize = 12;
/// And the widest that helps.
const NAME_MAX: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    State,
    Run,
    Slots,
    Cache,
    Write,
    Read,
    Memory,
    Stays,
}

/// From left to right, with their widths.
const COLUMNS: [(Column, &str, usize); 8] = [
    (Column::State, "STATE", 10),
    (Column::Run, "RUN", 5),
    (Column::Slots, "SLOTS", 5),
    (Column::Cache, "CACHE", 5),
    (Column::Write, "WRITE", 6),
    (Column::Read, "READ", 6),
    (Column::Memory, "MEMORY", 11),
    (Column::Stays, "STAYS", 9),
];

/// Which of them stays longest where the screen is narrow.
const MOST_TELLING: [Column; 8] = [
    Column::State,
    Column::Write,
    Column::Slots,
    Column::Memory,
    Column::Cache,
    Column::Read,
    Column::Run,
    Column::Stays,
];

/// A head and a row for each of the models that are shown.
pub(super) fn table(
    state: &State,
    theme: Theme,
    models: &[&ModelState],
    shown: Range<usize>,
) -> Vec<Line<'static>> {
    let width = usize::from(state.width);
    let (name_width, columns) = columns(width);
    let head = match shown.len() < models.len() {
        true => format!("MODEL {}-{}/{}", shown.start + 1, shown.end, models.len()),
        false => "MODEL".to_owned(),
    };
    let mut text = padded(&head, name_width, Side::Left, theme);
    for (column, title, width) in &columns {
        text.push(' ');
        text.push_str(&padded(title, *width, side(*column), theme));
    }
    let mut lines = vec![Line::styled(text, theme.style(Tone::Dim))];
    let chosen = state.chosen().map(|model| &model.name);
    for model in models.get(shown).unwrap_or_default() {
        let name = padded(&inert(&model.name), name_width, Side::Left, theme);
        let mut row = vec![Span::raw(name)];
        for (column, _, width) in &columns {
            let (text, tone) = cell(*column, model, state.now_ms);
            let text = format!(" {}", padded(&text, *width, side(*column), theme));
            row.push(Span::styled(text, theme.style(tone)));
        }
        let mut line = Line::from(row);
        if Some(&model.name) == chosen {
            line = line.patch_style(Theme::chosen());
        }
        lines.push(line);
    }
    lines
}

/// What has room, and how wide names are beside it.
fn columns(width: usize) -> (usize, Vec<(Column, &'static str, usize)>) {
    let mut used = NAME_MIN;
    let mut kept = Vec::new();
    for wanted in MOST_TELLING {
        let column = COLUMNS.iter().find(|(column, ..)| *column == wanted);
        let Some((column, _, n_columns)) = column else {
            continue;
        };
        if used + 1 + n_columns > width {
            break;
        }
        used += 1 + n_columns;
        kept.push(*column);
    }
    let shown = COLUMNS
        .into_iter()
        .filter(|(column, ..)| kept.contains(column));
    let rest = width.saturating_sub(used);
    let name = (NAME_MIN + rest).min(NAME_MAX).min(width);
    (name, shown.collect())
}

const fn side(column: Column) -> Side {
    match column {
        Column::State => Side::Left,
        _ => Side::Right,
    }
}

fn cell(column: Column, model: &ModelState, now_ms: u64) -> (String, Tone) {
    let worker = model.worker.as_ref();
    let none = || "-".to_owned();
    match column {
        Column::State => phase(model),
        Column::Run => run(model),
        Column::Slots => (worker.map_or_else(none, slots), Tone::Plain),
        Column::Cache => {
            let share = worker.map_or_else(none, |worker| {
                let used = worker.kv_cells_running + worker.kv_cells_cached;
                percent(used.into(), worker.kv_cells.into())
            });
            (share, Tone::Plain)
        }
        Column::Write => (
            speed(worker.and_then(|worker| worker.decode_tps)),
            Tone::Plain,
        ),
        Column::Read => (
            speed(worker.and_then(|worker| worker.prefill_tps)),
            Tone::Plain,
        ),
        Column::Memory => (memory(model), Tone::Plain),
        Column::Stays => (stays(model, now_ms, short_span), Tone::Plain),
    }
}

fn run(model: &ModelState) -> (String, Tone) {
    let queued = model.worker.as_ref().map_or(0, |worker| worker.queued);
    let waiting = model.requests_waiting + queued;
    match (model.requests_running, waiting) {
        (0, 0) => ("-".to_owned(), Tone::Plain),
        (running, 0) => (running.to_string(), Tone::Plain),
        (running, waiting) => (format!("{running}+{waiting}"), Tone::Busy),
    }
}

/// The state in a word, with how far a load is.
pub(super) fn phase(model: &ModelState) -> (String, Tone) {
    let is_busy = |model: &ModelState| {
        let worker = model.worker.as_ref();
        worker.is_some_and(|worker| worker.slots.iter().any(|slot| slot.phase != "idle"))
    };
    let word = || inert(&model.phase);
    match (model.phase.as_str(), model.load_fraction) {
        ("loading", Some(fraction)) => (format!("load {:.0} %", fraction * 100.0), Tone::Busy),
        ("loading" | "starting", _) => (word(), Tone::Busy),
        ("ready", _) if is_busy(model) => ("busy".to_owned(), Tone::Busy),
        ("ready", _) => (word(), Tone::Good),
        ("failed", _) => (word(), Tone::Bad),
        ("restarting" | "draining", _) => (word(), Tone::Warn),
        ("unloaded", _) => ("on disk".to_owned(), Tone::Dim),
        _ => (word(), Tone::Plain),
    }
}

/// Slots that are busy, of all.
pub(super) fn slots(worker: &crate::bus::Worker) -> String {
    let busy = worker.slots.iter().filter(|slot| slot.phase != "idle");
    format!("{}/{}", busy.count(), worker.slots.len())
}

/// What the ledger counts; an estimate has a `~`.
pub(super) fn memory(model: &ModelState) -> String {
    match (model.memory_bytes, model.memory_measured) {
        (0, _) => "-".to_owned(),
        (bytes, true) => Bytes(bytes).to_string(),
        (bytes, false) => format!("~{}", Bytes(bytes)),
    }
}

/// Until when it is in memory, in spans as `span` writes them.
pub(super) fn stays(model: &ModelState, now_ms: u64, span: fn(Duration) -> String) -> String {
    let left = model.expires_s.map(|at_s| {
        let secs = at_s.saturating_sub(now_ms / 1000);
        span(Duration::from_secs(secs))
    });
    match (model.phase.as_str(), left) {
        ("unloaded" | "failed", _) => "-".to_owned(),
        _ if model.pinned => "pinned".to_owned(),
        (_, Some(left)) => left,
        (_, None) => "as needed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_give_way_from_the_least_telling() {
        let names = |width| {
            let (name, columns) = columns(width);
            let titles: Vec<_> = columns.iter().map(|(_, title, _)| *title).collect();
            (name, titles.join(" "))
        };
        assert_eq!(
            names(80),
            (15, "STATE RUN SLOTS CACHE WRITE READ MEMORY STAYS".into())
        );
        assert_eq!(names(40), (16, "STATE SLOTS WRITE".into()));
        assert_eq!(names(20), (20, String::new()));
        assert_eq!(names(8), (8, String::new()));
        assert_eq!(names(200).0, NAME_MAX);
        // A row is never wider than the screen.
        for width in 0..200 {
            let (name, columns) = columns(width);
            let rest: usize = columns.iter().map(|(_, _, width)| width + 1).sum();
            assert!(name + rest <= width, "{width}");
        }
    }
}
