//! How another engine takes over an answer of which the client has the beginning. Pure.
//!
//! The text so far becomes the beginning of the next engine's answer: the last message of a
//! chat, or the end of a prompt. That is possible for plain text alone. What was reasoned or
//! called cannot be handed over in any dialect, and a grammar would start anew in the middle.
//!
//! An engine looks for stop strings in what it writes itself. So what may be the beginning of
//! one is held back until it is known not to be: where the answer breaks off there, the next
//! engine writes it anew, and finds the stop string whole.

use std::collections::VecDeque;

use proto::{Constraint, Delta, Event, Job, Message, Prompt, Role, ToolChoice, Usage};

/// Bytes of an answer that are kept to be handed over; a longer one is not continued.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// What the client has of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    stops: Vec<String>,
    /// What the client is not sent yet: events whose texts end with the beginning of a stop
    /// string.
    held: VecDeque<Event>,
    text: String,
    /// About as many tokens.
    n_deltas: u32,
    /// Of those, how many came before the last cut.
    n_carried: u32,
    prompt_tokens: u32,
    /// Something that cannot be handed over.
    is_closed: bool,
}

impl Told {
    /// Of a job that has not begun.
    pub(super) fn new(job: &Job) -> Self {
        let stops = match job {
            Job::Chat(job) => job.generation.stop.clone(),
            Job::Completion(job) => job.generation.stop.clone(),
            _ => Vec::new(),
        };
        Self {
            stops,
            ..Self::default()
        }
    }

    /// The next event of the answer; what may be sent of it and of those held back goes to
    /// `out`, and is noted.
    pub(super) fn pass(&mut self, event: Event, out: &mut VecDeque<Event>) {
        let is_text = text_of(&event).is_some();
        self.held.push_back(event);
        match is_text {
            true => self.send(self.n_free(), out),
            false => self.release(out),
        }
    }

    /// Sends what is held back: nothing follows it.
    pub(super) fn release(&mut self, out: &mut VecDeque<Event>) {
        self.send(self.held.len(), out);
    }

    fn send(&mut self, n_events: usize, out: &mut VecDeque<Event>) {
        for event in self.held.drain(..n_events).collect::<Vec<_>>() {
            self.note(&event);
            out.push_back(event);
        }
    }

    /// The events that are held back and have no part in what may become a stop string.
    fn n_free(&self) -> usize {
        if self.stops.is_empty() {
            return self.held.len();
        }
        let text: String = self.held.iter().filter_map(text_of).collect();
        let begins = |start: &usize| {
            let end = &text[*start..];
            let mut stops = self.stops.iter();
            stops.any(|stop| stop.len() > end.len() && stop.starts_with(end))
        };
        let mut starts = text.char_indices().map(|(start, _)| start);
        let free_bytes = starts.find(begins).unwrap_or(text.len());
        let ends = self.held.iter().scan(0, |end, event| {
            *end += text_of(event).map_or(0, str::len);
            Some(*end)
        });
        ends.take_while(|end| *end <= free_bytes).count()
    }

    /// Takes note of what is sent.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Started { prompt_tokens, .. } => self.prompt_tokens = *prompt_tokens,
            Event::Delta {
                choice: 0,
                delta: Delta::Text { text },
                ..
            } if self.text.len() + text.len() <= TEXT_BYTES_MAX => {
                self.text.push_str(text);
                self.n_deltas = self.n_deltas.saturating_add(1);
            }
            Event::Delta { .. } | Event::Finished { .. } => self.is_closed = true,
            _ => {}
        }
    }

    /// The answer broke off: the rest of `job`, for another engine; `None` where it cannot
    /// be handed over.
    pub(super) fn rest(&mut self, mut job: Job) -> Option<Job> {
        self.n_carried = self.n_deltas;
        let can = |constraint: &Option<Constraint>| !self.is_closed && constraint.is_none();
        match &mut job {
            Job::Chat(chat) => {
                let is_free = matches!(chat.tool_choice, ToolChoice::Auto | ToolChoice::None);
                if !can(&chat.constraint) || !is_free {
                    return None;
                }
                match chat.messages.last_mut().filter(|_| chat.continues) {
                    Some(begun) => {
                        let content = begun.content.get_or_insert_default();
                        content.push_str(&self.text);
                    }
                    None => chat.messages.push(Message {
                        role: Role::Assistant,
                        content: Some(self.text.clone()),
                        ..Message::default()
                    }),
                }
                chat.continues = true;
            }
            Job::Completion(completion) => {
                let Prompt::Text(prompt) = &mut completion.prompt else {
                    return None;
                };
                if !can(&completion.constraint) || completion.echo {
                    return None;
                }
                prompt.push_str(&self.text);
            }
            _ => return None,
        }
        let generation = job.generation_mut()?;
        if generation.n > 1 {
            return None;
        }
        if let Some(left) = &mut generation.max_tokens {
            *left = left.checked_sub(self.n_deltas).filter(|left| *left > 0)?;
        }
        self.held.clear();
        Some(job)
    }

    /// The usage of the whole answer, of whose end `usage` is told.
    pub(super) fn add_to(&self, usage: &mut Usage) {
        usage.completion_tokens = usage.completion_tokens.saturating_add(self.n_carried);
        if self.prompt_tokens > 0 {
            usage.prompt_tokens = self.prompt_tokens;
        }
    }
}

/// The text of an event that is nothing else.
fn text_of(event: &Event) -> Option<&str> {
    match event {
        Event::Delta {
            choice: 0,
            delta: Delta::Text { text },
            ..
        } => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proto::{ChatJob, CompletionJob, FinishReason, Generation};

    use super::*;

    fn text(text: &str) -> Event {
        Event::Delta {
            choice: 0,
            delta: Delta::Text { text: text.into() },
            logprobs: Vec::new(),
        }
    }

    fn told(events: &[Event]) -> Told {
        let mut told = Told::default();
        events.iter().for_each(|event| told.note(event));
        told
    }

    fn chat(change: impl FnOnce(&mut ChatJob)) -> Job {
        let mut job = ChatJob {
            messages: vec![Message {
                content: Some("Hi".into()),
                ..Message::default()
            }],
            ..ChatJob::default()
        };
        change(&mut job);
        Job::Chat(Box::new(job))
    }

    #[test]
    fn the_rest_begins_with_what_was_told() {
        let mut told = told(&[text("One, "), text("two")]);
        let limited = chat(|job| job.generation.max_tokens = Some(10));
        let Some(Job::Chat(rest)) = told.rest(limited) else {
            panic!("no rest");
        };
        assert!(rest.continues);
        assert_eq!(rest.messages.len(), 2);
        assert_eq!(rest.messages[1].role, Role::Assistant);
        assert_eq!(rest.messages[1].content.as_deref(), Some("One, two"));
        assert_eq!(rest.generation.max_tokens, Some(8));
        // An answer that was begun by the caller, or by an engine before, grows.
        let again = told.rest(Job::Chat(rest));
        let Some(Job::Chat(again)) = again else {
            panic!("no rest");
        };
        assert_eq!(again.messages.len(), 2);
        let content = again.messages[1].content.as_deref();
        assert_eq!(content, Some("One, twoOne, two"));
        let completion = Job::Completion(Box::new(CompletionJob {
            prompt: Prompt::Text("Count: ".into()),
            echo: false,
            constraint: None,
            generation: Generation::default(),
        }));
        let Some(Job::Completion(rest)) = told.rest(completion) else {
            panic!("no rest");
        };
        assert_eq!(rest.prompt, Prompt::Text("Count: One, two".into()));
    }

    #[test]
    fn what_cannot_be_handed_over_is_not() {
        let plain = || told(&[text("One")]);
        let refused = [
            chat(|job| job.constraint = Some(Constraint::JsonObject)),
            chat(|job| job.tool_choice = ToolChoice::Required),
            chat(|job| job.generation.n = 2),
            chat(|job| job.generation.max_tokens = Some(1)),
            Job::Detokenize { tokens: Vec::new() },
        ];
        for job in refused {
            assert_eq!(plain().rest(job), None);
        }
        let reasoned = Event::Delta {
            choice: 0,
            delta: Delta::Reasoning { text: "Hm".into() },
            logprobs: Vec::new(),
        };
        assert_eq!(told(&[reasoned, text("One")]).rest(chat(|_| ())), None);
        let long = text(&"x".repeat(TEXT_BYTES_MAX + 1));
        assert_eq!(told(&[long]).rest(chat(|_| ())), None);
    }

    #[test]
    fn what_may_begin_a_stop_string_is_held_back() {
        let job = chat(|job| job.generation.stop = vec!["END".into(), "\n\n".into()]);
        let mut told = Told::new(&job);
        let mut sent = |event: Event| {
            let mut out = VecDeque::new();
            told.pass(event, &mut out);
            let texts = out.iter().map(|event| text_of(event).unwrap_or("(end)"));
            texts.collect::<Vec<_>>().join("|")
        };
        for (given, expected) in [
            ("One", "One"),
            (" E", ""),
            ("N", ""),
            ("T", " E|N|T"),
            ("\n", ""),
            ("E", "\n"),
            ("x", "E|x"),
            ("éE", ""),
        ] {
            assert_eq!(sent(text(given)), expected, "{given:?}");
        }
        let end = Event::Finished {
            choice: 0,
            reason: FinishReason::Stop,
            stop: None,
        };
        assert_eq!(sent(end), "éE|(end)");
        // Who goes on writes anew what the client has not got.
        let mut told = Told::new(&job);
        let mut out = VecDeque::new();
        told.pass(text("One"), &mut out);
        told.pass(text(" EN"), &mut out);
        let Some(Job::Chat(rest)) = told.rest(job) else {
            panic!("no rest");
        };
        assert_eq!(rest.messages[1].content.as_deref(), Some("One"));
        out.clear();
        told.pass(text(" two"), &mut out);
        assert_eq!(out, [text(" two")]);
    }

    #[test]
    fn usage_counts_both_parts() {
        let mut told = told(&[text("One"), text("two")]);
        assert!(told.rest(chat(|_| ())).is_some());
        told.note(&text("three"));
        let mut usage = Usage {
            prompt_tokens: 9,
            completion_tokens: 3,
            ..Usage::default()
        };
        told.add_to(&mut usage);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (9, 5));
    }
}
