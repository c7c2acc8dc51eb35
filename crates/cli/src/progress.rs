//! Progress on standard error: bars on a terminal, lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use supervisor::{Fleet, ModelPhase, ModelStatus};

use crate::output::say;

/// Loads that end sooner show nothing.
const QUIET: Duration = Duration::from_secs(1);
/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Runs `write` while no bar is drawn.
pub(crate) fn above_bars<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

/// Standard error for log lines, above the bars.
#[derive(Debug)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        above_bars(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A bar in per cent, or in bytes where `total_bytes` is known.
pub(crate) fn bar(label: &str, unit: Unit) -> ProgressBar {
    let template = match unit {
        Unit::Percent => "{prefix:.bold} {wide_bar} {percent:>3} %",
        Unit::Bytes => {
            "{prefix:.bold} {wide_bar} {binary_bytes:>10} of {binary_total_bytes:>10} \
             {binary_bytes_per_sec:>12} {eta:>4}"
        }
    };
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("##-");
    let bar = BARS.add(ProgressBar::new(100));
    bar.set_style(style);
    bar.set_prefix(label.to_owned());
    bar
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Percent,
    Bytes,
}

/// Shows how far a model's load is until it is ready or has failed. Ends by being
/// dropped at the latest.
pub(crate) async fn follow_load(fleet: Fleet, name: String) {
    let mut statuses = fleet.subscribe();
    let started = Instant::now();
    let is_terminal = io::stderr().is_terminal();
    let mut shown = Shown::Nothing;
    tokio::time::sleep(QUIET).await;
    loop {
        let phase = {
            let statuses = statuses.borrow_and_update();
            statuses
                .iter()
                .find(|status| status.name == name)
                .map(|status: &ModelStatus| status.phase.clone())
        };
        match phase {
            Some(ModelPhase::Starting) => shown.at(&name, 0.0, is_terminal),
            Some(ModelPhase::Loading { fraction }) => shown.at(&name, fraction, is_terminal),
            Some(ModelPhase::Ready(_)) => {
                shown.clear();
                tracing::debug!(model = %name, after = ?started.elapsed(), "loaded");
                return;
            }
            _ => return shown.clear(),
        }
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Line(Instant),
}

impl Shown {
    fn at(&mut self, name: &str, fraction: f32, is_terminal: bool) {
        let percent = (fraction * 100.0) as u64;
        match self {
            Self::Bar(bar) => bar.set_position(percent),
            Self::Nothing if is_terminal => {
                let bar = bar(&format!("loading {name}"), Unit::Percent);
                bar.set_position(percent);
                *self = Self::Bar(bar);
            }
            Self::Line(last) if last.elapsed() < LINE_EVERY => {}
            Self::Nothing | Self::Line(_) => {
                say(&format!("loading {name}: {percent} %"));
                *self = Self::Line(Instant::now());
            }
        }
    }

    fn clear(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.clear();
    }
}
