//! What `top` knows and shows, and what becomes of it with each thing that happens. Pure: the
//! driver brings events and the time, and does what is asked of it.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::predicted::{Plan, question};
use super::view;
use crate::bus::{Board, BusEvent, ModelState};

/// Seconds of rates that are kept, and as many as are drawn at most.
const RATES_MAX: usize = 240;
/// Rates over less time say nothing.
const RATE_MS_MIN: u64 = 250;

#[derive(Debug)]
pub(super) enum Event {
    /// The server is there and begins to tell.
    Open,
    Bus(BusEvent),
    /// It is gone; why.
    Lost(String),
    Planned {
        model: String,
        /// What was asked, which may be outdated by now.
        question: Value,
        plan: Result<Plan, String>,
    },
    Key(Key),
    Resize {
        width: u16,
        height: u16,
    },
    /// A second has passed.
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Enter,
    Back,
    Help,
    Quit,
    /// Without a meaning of its own.
    Other,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    Quit,
    /// Ask the planner; the answer is an event.
    Plan {
        model: String,
        question: Value,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Page {
    #[default]
    List,
    Details,
    Help,
}

/// Whether the server is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Link {
    #[default]
    Open,
    Lost {
        why: String,
        since_ms: u64,
    },
}

/// What the planner says, or why it does not.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Predicted {
    question: Value,
    /// `None` until it has answered.
    pub(super) plan: Option<Result<Plan, String>>,
}

/// Tokens a second of all models.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) written: Option<f64>,
    pub(super) read: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Counters {
    at_ms: u64,
    written: u64,
    read: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The server's address, as people know it.
    pub(super) address: String,
    pub(super) board: Board,
    pub(super) link: Link,
    pub(super) page: Page,
    /// Milliseconds since 1970.
    pub(super) now_ms: u64,
    pub(super) rates: VecDeque<Rates>,
    pub(super) predicted: BTreeMap<String, Predicted>,
    /// The name of the model that is looked at; it stays so where it is gone for a moment.
    chosen: Option<String>,
    /// Lines of the details that are above the screen.
    pub(super) scroll: usize,
    pub(super) width: u16,
    pub(super) height: u16,
    counters: Option<Counters>,
}

impl State {
    pub(super) fn new(address: &str, (width, height): (u16, u16), now_ms: u64) -> Self {
        Self {
            address: address.to_owned(),
            width,
            height,
            now_ms,
            ..Self::default()
        }
    }

    pub(super) fn step(&mut self, event: Event, now_ms: u64) -> Vec<Action> {
        self.now_ms = now_ms;
        match event {
            Event::Open => {
                self.link = Link::Open;
                self.counters = None;
                // What could not be asked while it was away.
                self.predicted
                    .retain(|_, known| matches!(known.plan, Some(Ok(_))));
                return self.questions();
            }
            Event::Bus(event) => {
                self.board.take(event);
                return self.questions();
            }
            Event::Lost(why) => {
                let since_ms = match self.link {
                    Link::Lost { since_ms, .. } => since_ms,
                    Link::Open => now_ms,
                };
                self.link = Link::Lost { why, since_ms };
                self.counters = None;
            }
            Event::Planned {
                model,
                question,
                plan,
            } => {
                let known = self.predicted.get_mut(&model);
                if let Some(known) = known.filter(|known| known.question == question) {
                    known.plan = Some(plan);
                }
            }
            Event::Key(key) => return self.key(key),
            Event::Resize { width, height } => (self.width, self.height) = (width, height),
            Event::Tick => self.count(),
        }
        self.scroll = self.scroll.min(self.scroll_max());
        Vec::new()
    }

    /// The model that is looked at: the one that was chosen, else the first.
    pub(super) fn chosen(&self) -> Option<&ModelState> {
        let chosen = self.chosen.as_deref();
        let known = chosen.and_then(|name| self.board.model(name));
        known.or_else(|| self.board.in_order().into_iter().next())
    }

    /// What is to be asked of the planner about models as they are now.
    fn questions(&mut self) -> Vec<Action> {
        let models: Vec<_> = self.board.models.values().collect();
        self.predicted
            .retain(|name, _| models.iter().any(|model| model.name == *name));
        let mut actions = Vec::new();
        for model in models {
            let Some(question) = question(model) else {
                continue;
            };
            let known = self.predicted.get(&model.name);
            if known.is_some_and(|known| known.question == question) {
                continue;
            }
            let asked = Predicted {
                question: question.clone(),
                plan: None,
            };
            self.predicted.insert(model.name.clone(), asked);
            actions.push(Action::Plan {
                model: model.name.clone(),
                question,
            });
        }
        actions
    }

    fn key(&mut self, key: Key) -> Vec<Action> {
        let page_lines = usize::from(self.height / 2).max(1);
        match (self.page, key) {
            (_, Key::Quit) => return vec![Action::Quit],
            (Page::Help, _) => self.page = Page::List,
            (_, Key::Help) => self.page = Page::Help,
            (Page::List, Key::Enter) => {
                if self.chosen().is_some() {
                    (self.page, self.scroll) = (Page::Details, 0);
                }
            }
            (Page::List, Key::Back) => {}
            (Page::List, key) => self.choose(key, page_lines),
            (Page::Details, Key::Enter | Key::Back) => self.page = Page::List,
            (Page::Details, key) => {
                let wanted = moved(self.scroll, key, page_lines);
                self.scroll = wanted.min(self.scroll_max());
            }
        }
        Vec::new()
    }

    fn choose(&mut self, key: Key, page_lines: usize) {
        let models = self.board.in_order();
        let name = self.chosen().map(|model| &model.name);
        let place = models.iter().position(|model| Some(&model.name) == name);
        let Some(place) = place else { return };
        let wanted = moved(place, key, page_lines).min(models.len() - 1);
        self.chosen = Some(models[wanted].name.clone());
    }

    fn scroll_max(&self) -> usize {
        view::details_hidden(self)
    }

    /// Notes the tokens that came since the last look, a second.
    fn count(&mut self) {
        if self.link != Link::Open {
            return;
        }
        let workers = self.board.models.values();
        let workers = workers.filter_map(|model| model.worker.as_ref());
        let mut now = Counters {
            at_ms: self.now_ms,
            written: 0,
            read: 0,
        };
        for worker in workers {
            let cached = worker.prompt_tokens_cached_total;
            now.written += worker.completion_tokens_total;
            now.read += worker.prompt_tokens_total.saturating_sub(cached);
        }
        let Some(before) = self.counters else {
            self.counters = Some(now);
            return;
        };
        let elapsed_ms = now.at_ms.saturating_sub(before.at_ms);
        if elapsed_ms < RATE_MS_MIN {
            return;
        }
        // A worker that was started again, or is gone, counts from 0.
        let rate = |before: u64, now: u64| {
            let tokens = now.checked_sub(before)?;
            Some(tokens as f64 * 1e3 / elapsed_ms as f64)
        };
        if self.rates.len() >= RATES_MAX {
            self.rates.pop_front();
        }
        self.rates.push_back(Rates {
            written: rate(before.written, now.written),
            read: rate(before.read, now.read),
        });
        self.counters = Some(now);
    }
}

fn moved(place: usize, key: Key, page_lines: usize) -> usize {
    match key {
        Key::Up => place.saturating_sub(1),
        Key::Down => place.saturating_add(1),
        Key::PageUp => place.saturating_sub(page_lines),
        Key::PageDown => place.saturating_add(page_lines),
        Key::First => 0,
        Key::Last => usize::MAX,
        Key::Enter | Key::Back | Key::Help | Key::Quit | Key::Other => place,
    }
}
