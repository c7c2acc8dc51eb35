//! Turns generated text into deltas of text, reasoning and tool calls.
//!
//! The parser moves one character at a time and decides only by what came before, so
//! the result cannot depend on how the engine cuts its output: whole, by token or by
//! byte, the deltas join to the same answer. Text waits only while it may still be
//! (part of) a marker, and a call's arguments stream as they come.
//!
//! Nothing is lost. What turns out to be no call is given back verbatim and read
//! again as text, from its second character on, so that a good call inside a bad one
//! is still found. Only markers, the format's own framing of a call, and white space
//! at the edges of thoughts and calls do not reach the client.
//!
//! A call that broke off after its arguments had begun to stream stays as it is,
//! its arguments unfinished: closing them would make a half-written file look whole
//! to an agent. [`OutputParser::unfinished_calls`] counts those.

use std::collections::VecDeque;

use proto::{Delta, ToolDefinition};

use crate::format::{CallEvent, CallMachine, CallSink, Opener, Place, Step, ToolFormat, Toolbox};
use crate::ids::IdGenerator;
use crate::reasoning::ReasoningTags;

/// Most bytes held back while it is open whether they are a call. Beyond it they are text.
pub const CALL_HELD_BYTES_MAX: usize = 64 << 10;
/// Most bytes of failed calls read a second time in one answer. Beyond it a failed
/// call is passed on as text without another look, which bounds the work per byte.
pub const RESCANNED_BYTES_MAX: usize = 1 << 20;

/// How an answer is to be read.
#[derive(Debug, Clone, Default)]
pub struct OutputSpec {
    pub format: ToolFormat,
    /// The tools the request offers. Without any, call markers are ordinary text.
    pub tools: Vec<ToolDefinition>,
    /// `None` leaves reasoning where it is, tags included, as text.
    pub reasoning: Option<ReasoningTags>,
    /// The prompt ended inside a thought ([`crate::Rendered::opens_thinking`]).
    pub starts_in_reasoning: bool,
    /// Seeds the ids of calls; another one for each answer.
    pub id_seed: u64,
}

/// Reads one answer.
#[derive(Debug)]
pub struct OutputParser {
    format: ToolFormat,
    tools: Toolbox,
    tags: Option<ReasoningTags>,
    ids: IdGenerator,
    /// Characters not read yet.
    queue: VecDeque<char>,
    mode: Mode,
    /// What may be the beginning of a marker.
    pending: String,
    /// White space that is dropped if a marker or the end follows.
    space: String,
    place: TextPlace,
    thought_begun: bool,
    n_calls: u32,
    n_unfinished: u32,
    n_rescanned: usize,
    out: Vec<Delta>,
}

#[derive(Debug)]
enum Mode {
    Text,
    Reasoning,
    Call(Call),
}

/// Where in the answer the next text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextPlace {
    Start,
    AfterReasoning,
    AfterCall,
    /// Other text stands before it.
    Inside,
}

#[derive(Debug)]
struct Call {
    machine: Box<dyn CallMachine>,
    /// What was read and belongs to no started call: given back if this fails.
    held: String,
    offered_only: bool,
    in_thought: bool,
    /// The call whose arguments are being read.
    open: Option<u32>,
    n_started: u32,
}

#[derive(Debug, Clone, Copy)]
enum Marker {
    ThoughtOpens(&'static str),
    ThoughtCloses(&'static str),
    Call(&'static Opener),
}

impl Marker {
    fn text(&self) -> &'static str {
        match self {
            Self::ThoughtOpens(text) | Self::ThoughtCloses(text) => text,
            Self::Call(opener) => opener.text,
        }
    }
}

impl OutputParser {
    #[must_use]
    pub fn new(spec: OutputSpec) -> Self {
        let in_thought = spec.starts_in_reasoning && spec.reasoning.is_some();
        Self {
            format: spec.format,
            tools: Toolbox::new(spec.tools),
            tags: spec.reasoning,
            ids: IdGenerator::new(spec.id_seed),
            queue: VecDeque::new(),
            mode: if in_thought {
                Mode::Reasoning
            } else {
                Mode::Text
            },
            pending: String::new(),
            space: String::new(),
            place: TextPlace::Start,
            thought_begun: false,
            n_calls: 0,
            n_unfinished: 0,
            n_rescanned: 0,
            out: Vec::new(),
        }
    }

    /// Reads the next piece of the answer, of any size.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.queue.extend(text.chars());
        self.drain();
        std::mem::take(&mut self.out)
    }

    /// The answer is over: what was held back comes out.
    pub fn finish(&mut self) -> Vec<Delta> {
        loop {
            self.drain();
            match &self.mode {
                Mode::Call(_) => self.end_call(),
                Mode::Reasoning => {
                    for c in std::mem::take(&mut self.pending).chars() {
                        self.thought_char(c);
                    }
                    self.space.clear();
                    break;
                }
                Mode::Text if self.pending.is_empty() => {
                    if self.place == TextPlace::Start {
                        let space = std::mem::take(&mut self.space);
                        self.emit_text(&space);
                    }
                    self.space.clear();
                    break;
                }
                Mode::Text => self.scan(AtEnd::Yes),
            }
        }
        std::mem::take(&mut self.out)
    }

    /// Whether any call was found so far.
    #[must_use]
    pub fn had_tool_calls(&self) -> bool {
        self.n_calls > 0
    }

    /// Calls that were begun and broke off: their arguments are not valid JSON.
    #[must_use]
    pub fn unfinished_calls(&self) -> u32 {
        self.n_unfinished
    }

    fn drain(&mut self) {
        while let Some(c) = self.queue.pop_front() {
            if matches!(self.mode, Mode::Call(_)) {
                self.call_char(c);
            } else {
                self.pending.push(c);
                self.scan(AtEnd::No);
            }
        }
    }

    /// Looks for markers at the start of `pending`; releases what cannot be one.
    fn scan(&mut self, at_end: AtEnd) {
        while !self.pending.is_empty() {
            let mut longest: Option<Marker> = None;
            let mut may_grow = false;
            for marker in self.markers() {
                let text = marker.text();
                if self.pending.starts_with(text) {
                    if longest.is_none_or(|best| best.text().len() < text.len()) {
                        longest = Some(marker);
                    }
                } else if text.starts_with(&self.pending) {
                    may_grow = true;
                }
            }
            if may_grow && at_end == AtEnd::No {
                return;
            }
            if let Some(marker) = longest {
                let rest = self.pending.split_off(marker.text().len());
                self.pending.clear();
                self.requeue(&rest);
                self.enter(marker);
                return;
            }
            let c = self.pending.remove(0);
            self.plain_char(c);
        }
    }

    /// The markers that count at this place.
    fn markers(&self) -> impl Iterator<Item = Marker> + use<> {
        let in_thought = matches!(self.mode, Mode::Reasoning);
        let inside = self.place == TextPlace::Inside;
        let opens = self.tags.filter(|tags| match in_thought {
            // A model may repeat the tag that its prompt ended with.
            true => !self.thought_begun,
            false => tags.anywhere || !inside,
        });
        let closes = self.tags.filter(|_| in_thought || !inside);
        let (own, common) = if self.tools.is_empty() {
            (&[][..], &[][..])
        } else {
            (self.format.openers(), ToolFormat::common_openers())
        };
        let calls = own
            .iter()
            .chain(common)
            .filter(move |opener| opener.place != Place::AtStart || !(in_thought || inside));
        opens
            .map(|tags| Marker::ThoughtOpens(tags.open))
            .into_iter()
            .chain(closes.map(|tags| Marker::ThoughtCloses(tags.close)))
            .chain(calls.map(Marker::Call))
    }

    fn enter(&mut self, marker: Marker) {
        let in_thought = matches!(self.mode, Mode::Reasoning);
        match marker {
            Marker::ThoughtOpens(_) => {
                self.space.clear();
                self.thought_begun = false;
                self.mode = Mode::Reasoning;
            }
            Marker::ThoughtCloses(_) => {
                self.space.clear();
                self.mode = Mode::Text;
                self.place = TextPlace::AfterReasoning;
            }
            Marker::Call(opener) => {
                self.mode = Mode::Call(Call {
                    machine: (opener.machine)(),
                    held: opener.text.to_owned(),
                    offered_only: in_thought || opener.place != Place::Anywhere,
                    in_thought,
                    open: None,
                    n_started: 0,
                });
            }
        }
    }

    fn call_char(&mut self, c: char) {
        let Mode::Call(call) = &mut self.mode else {
            return;
        };
        let was_open = call.open.is_some();
        let mut sink = CallSink {
            tools: &self.tools,
            offered_only: call.offered_only,
            events: Vec::new(),
        };
        let step = call.machine.feed(c, &mut sink);
        let events = sink.events;
        if step == Step::More && !was_open && events.is_empty() {
            call.held.push(c);
        }
        let too_much = call.held.len() > CALL_HELD_BYTES_MAX;
        self.apply(events);
        match step {
            Step::More if too_much => self.call_failed(None),
            Step::More => {}
            Step::Done => self.call_done(),
            Step::DoneBefore => {
                self.call_done();
                self.queue.push_front(c);
            }
            Step::Fail => self.call_failed(Some(c)),
        }
    }

    fn end_call(&mut self) {
        let Mode::Call(call) = &mut self.mode else {
            return;
        };
        let mut sink = CallSink {
            tools: &self.tools,
            offered_only: call.offered_only,
            events: Vec::new(),
        };
        let complete = call.machine.end(&mut sink);
        let events = sink.events;
        self.apply(events);
        if complete {
            self.call_done();
        } else {
            self.call_failed(None);
        }
    }

    fn apply(&mut self, events: Vec<CallEvent>) {
        for event in events {
            let Mode::Call(call) = &mut self.mode else {
                return;
            };
            match event {
                CallEvent::Start(name) => {
                    let index = self.n_calls;
                    self.n_calls += 1;
                    call.open = Some(index);
                    call.n_started += 1;
                    call.held.clear();
                    self.space.clear();
                    let id = if self.format.has_short_ids() {
                        self.ids.short_id()
                    } else {
                        self.ids.long_id()
                    };
                    self.out.push(Delta::ToolCallStart { index, id, name });
                }
                CallEvent::Arguments(text) => {
                    if let Some(index) = call.open {
                        self.emit(Delta::ToolCallArguments { index, text });
                    }
                }
                CallEvent::End => {
                    call.open = None;
                    call.held.clear();
                }
            }
        }
    }

    fn call_done(&mut self) {
        self.mode = Mode::Text;
        self.place = TextPlace::AfterCall;
        self.space.clear();
    }

    /// Gives back what is no call; `c` was not taken.
    fn call_failed(&mut self, c: Option<char>) {
        let Mode::Call(call) = std::mem::replace(&mut self.mode, Mode::Text) else {
            return;
        };
        if let Some(c) = c {
            self.queue.push_front(c);
        }
        if call.open.is_some() {
            self.n_unfinished += 1;
        }
        if call.n_started > 0 {
            self.place = TextPlace::AfterCall;
        } else if call.in_thought {
            self.mode = Mode::Reasoning;
        }
        self.n_rescanned += call.held.len();
        if self.n_rescanned > RESCANNED_BYTES_MAX {
            call.held.chars().for_each(|c| self.plain_char(c));
            return;
        }
        let mut held = call.held.chars();
        // The opener's first character is text now, so the opener is not found again.
        if call.n_started == 0
            && let Some(first) = held.next()
        {
            self.plain_char(first);
        }
        self.requeue(held.as_str());
    }

    fn requeue(&mut self, text: &str) {
        for c in text.chars().rev() {
            self.queue.push_front(c);
        }
    }

    /// A character that belongs to no marker.
    fn plain_char(&mut self, c: char) {
        if matches!(self.mode, Mode::Reasoning) {
            self.thought_char(c);
            return;
        }
        if self.place != TextPlace::Inside {
            if c.is_whitespace() {
                self.space.push(c);
                return;
            }
            let space = std::mem::take(&mut self.space);
            if self.place != TextPlace::AfterReasoning {
                self.emit_text(&space);
            }
            self.place = TextPlace::Inside;
        }
        self.emit_text(c.encode_utf8(&mut [0; 4]));
    }

    fn thought_char(&mut self, c: char) {
        if c.is_whitespace() {
            self.space.push(c);
            return;
        }
        let mut text = std::mem::take(&mut self.space);
        if !self.thought_begun {
            text.clear();
            self.thought_begun = true;
        }
        text.push(c);
        self.emit(Delta::Reasoning { text });
    }

    fn emit_text(&mut self, text: &str) {
        if !text.is_empty() {
            self.emit(Delta::Text {
                text: text.to_owned(),
            });
        }
    }

    /// Joins with the delta before it where the two are of one kind.
    fn emit(&mut self, delta: Delta) {
        match (self.out.last_mut(), &delta) {
            (Some(Delta::Text { text }), Delta::Text { text: more })
            | (Some(Delta::Reasoning { text }), Delta::Reasoning { text: more }) => {
                text.push_str(more);
            }
            (
                Some(Delta::ToolCallArguments { index, text }),
                Delta::ToolCallArguments {
                    index: same,
                    text: more,
                },
            ) if index == same => text.push_str(more),
            _ => self.out.push(delta),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    Yes,
    No,
}

#[cfg(test)]
mod tests;
