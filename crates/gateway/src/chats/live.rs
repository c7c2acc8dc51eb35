//! An answer that is being written, and those who follow it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use store::{ChatMessage, MessageState};
use tokio::sync::{Notify, watch};

use crate::wire::encode::Prefill;

/// An answer that is being written.
#[derive(Debug)]
pub(crate) struct Live {
    /// The id of its message.
    pub(crate) id: String,
    pub(crate) chat: String,
    pub(crate) owner: Option<String>,
    pub(crate) model: Option<String>,
    /// Milliseconds since 1970.
    pub(crate) began_ms: u64,
    progress: Mutex<Progress>,
    changed: watch::Sender<()>,
    stop: Notify,
}

#[derive(Debug, Default)]
struct Progress {
    text: String,
    reasoning: String,
    prefill: Option<(u32, u32)>,
    /// Tokens of the prompt, and how many of them were in the cache.
    prompt: Option<(u32, u32)>,
    end: Option<ChatMessage>,
}

/// How much of an answer somebody has: bytes of its text and of its reasoning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) text: usize,
    pub(crate) reasoning: usize,
}

impl Mark {
    /// As an event's id has it; what cannot be read is the beginning.
    pub(crate) fn read(id: &str) -> Self {
        let parsed = id.split_once('.').and_then(|(text, reasoning)| {
            Some(Self {
                text: text.parse().ok()?,
                reasoning: reasoning.parse().ok()?,
            })
        });
        parsed.unwrap_or_default()
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.text, self.reasoning)
    }
}

/// What has come since a mark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) prefill: Option<(u32, u32)>,
    pub(crate) prompt: Option<(u32, u32)>,
    pub(crate) end: Option<ChatMessage>,
    /// Where that ends.
    pub(crate) mark: Mark,
    /// The mark was not one of this answer, and all of it is here.
    pub(crate) restart: bool,
}

impl Live {
    pub(crate) fn new(message: &ChatMessage, owner: Option<&str>, model: Option<String>) -> Self {
        Self {
            id: message.id.clone(),
            chat: message.chat.clone(),
            owner: owner.map(str::to_owned),
            model,
            began_ms: message.created_ms,
            // One that goes on with another has the text of that.
            progress: Mutex::new(Progress {
                text: message.text.clone(),
                reasoning: message.reasoning.clone(),
                ..Progress::default()
            }),
            changed: watch::Sender::new(()),
            stop: Notify::new(),
        }
    }

    /// Ends it where it is.
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    pub(super) async fn stopped(&self) {
        self.stop.notified().await;
    }

    pub(crate) fn follow(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What has come since a mark. One that is not of this answer is taken for its beginning.
    pub(crate) fn news(&self, since: Mark) -> News {
        let progress = self.progress();
        let is_known = progress.text.is_char_boundary(since.text)
            && progress.reasoning.is_char_boundary(since.reasoning);
        let since = match is_known {
            true => since,
            false => Mark::default(),
        };
        News {
            text: progress.text[since.text..].to_owned(),
            reasoning: progress.reasoning[since.reasoning..].to_owned(),
            prefill: progress.prefill,
            prompt: progress.prompt,
            end: progress.end.clone(),
            mark: Mark {
                text: progress.text.len(),
                reasoning: progress.reasoning.len(),
            },
            restart: !is_known,
        }
    }

    /// Puts what there is into a message that is shown.
    pub(crate) fn show(&self, message: &mut ChatMessage) {
        let progress = self.progress();
        if message.state != MessageState::Open {
            return;
        }
        if let Some(end) = &progress.end {
            message.clone_from(end);
            return;
        }
        message.text.clone_from(&progress.text);
        message.reasoning.clone_from(&progress.reasoning);
    }

    pub(super) fn texts(&self) -> (String, String) {
        let progress = self.progress();
        (progress.text.clone(), progress.reasoning.clone())
    }

    pub(super) fn started(&self, prompt_tokens: u32, cached_tokens: u32) {
        self.progress().prompt = Some((prompt_tokens, cached_tokens));
        self.changed.send_replace(());
    }

    pub(super) fn prefill(&self, prefill: Prefill) {
        self.progress().prefill = Some((prefill.done, prefill.total));
        self.changed.send_replace(());
    }

    pub(super) fn text(&self, text: &str) {
        let mut progress = self.progress();
        progress.prefill = None;
        progress.text.push_str(text);
        drop(progress);
        self.changed.send_replace(());
    }

    pub(super) fn reasoning(&self, text: &str) {
        let mut progress = self.progress();
        progress.prefill = None;
        progress.reasoning.push_str(text);
        drop(progress);
        self.changed.send_replace(());
    }

    pub(super) fn end(&self, message: ChatMessage) {
        self.progress().end = Some(message);
        self.changed.send_replace(());
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
