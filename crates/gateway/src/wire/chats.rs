//! The workbench's chats on the wire.

use std::time::Duration;

use proto::{Delta, SamplingValues, Timings, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Chat, ChatMessage, ChatRow};
use utoipa::ToSchema;

use crate::AppState;
use crate::chats::News;
use crate::dispatch::EMBEDDED;
use crate::routes::{Call, own_facts};
use crate::wire::prefix::WirePrefix;

/// Body of `POST /api/chats`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NewChat {
    /// Absent or empty: the beginning of its first message.
    pub(crate) title: Option<String>,
    /// What the model is told first.
    pub(crate) system: Option<String>,
}

/// Body of `POST /api/chats/{id}`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ChangedChat {
    pub(crate) title: Option<String>,
    /// The last message of the branch that is looked at.
    pub(crate) leaf: Option<String>,
}

/// Body of `POST /api/chats/{id}/messages`: a message and the answer to it, another answer, or the
/// rest of one.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Turn {
    /// The message that is followed; absent: the new message begins the chat.
    pub(crate) parent: Option<String>,
    /// What is said. Absent: `parent` is answered once more.
    pub(crate) text: Option<String>,
    /// An answer that ended early: another version of it begins with its text and goes on where
    /// it ended. Stands instead of `parent` and `text`.
    pub(crate) continues: Option<String>,
    /// Absent or empty: whoever the routing rules choose.
    pub(crate) model: Option<String>,
    /// 0 to 2; absent: the model's own.
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) seed: Option<u64>,
    pub(crate) max_tokens: Option<i64>,
    /// Whether the model thinks first, where it can.
    pub(crate) thinking: Option<bool>,
    /// After as many tokens a thought is closed.
    pub(crate) thinking_tokens_max: Option<i64>,
}

/// Body of `POST /api/chats/{id}/stop`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StopRequest {
    /// The answer to end; absent: all of the chat.
    pub(crate) message: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Stopped {
    /// Answers that were told to end.
    pub(crate) stopped: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ChatDeleted {
    pub(crate) id: String,
    pub(crate) deleted: bool,
}

/// A chat without its messages.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ChatHead {
    id: String,
    title: String,
    /// The model that was asked last.
    model: Option<String>,
    /// The last message of the branch that was looked at last.
    leaf: Option<String>,
    /// Milliseconds since 1970.
    created_ms: u64,
    changed_ms: u64,
    /// The part of a message that was found.
    excerpt: Option<String>,
}

impl ChatHead {
    pub(crate) fn new(chat: &Chat) -> Self {
        Self {
            id: chat.id.clone(),
            title: chat.title.clone(),
            model: chat.model.clone(),
            leaf: chat.leaf.clone(),
            created_ms: chat.created_ms,
            changed_ms: chat.changed_ms,
            excerpt: None,
        }
    }
}

/// Answer of `GET /api/chats`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ChatList {
    /// The last changed first.
    chats: Vec<ChatHead>,
    /// What to give as `before` for the next page; null where this is the last.
    next: Option<u64>,
}

impl ChatList {
    pub(crate) fn new(rows: Vec<ChatRow>, limit: u32) -> Self {
        let is_full = rows.len() >= limit as usize;
        let last = rows.last().map(|row| row.chat.changed_ms);
        let chats = rows.into_iter().map(|row| ChatHead {
            excerpt: row.excerpt,
            ..ChatHead::new(&row.chat)
        });
        Self {
            chats: chats.collect(),
            next: last.filter(|_| is_full),
        }
    }
}

/// A chat with its messages: a tree, in the order in which they were begun.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ChatWhole {
    #[serde(flatten)]
    head: ChatHead,
    messages: Vec<WireMessage>,
}

impl ChatWhole {
    pub(crate) fn new(chat: &Chat, messages: &[ChatMessage]) -> Self {
        Self {
            head: ChatHead::new(chat),
            messages: messages.iter().map(WireMessage::new).collect(),
        }
    }
}

/// A message of a chat.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct WireMessage {
    id: String,
    /// The message that it follows. Messages with the same one are versions of one another.
    parent: Option<String>,
    /// `system`, `user` or `assistant`
    role: &'static str,
    text: String,
    reasoning: String,
    /// `open` while it is written, then `done`, `stopped`, `failed` or `cut_off`
    state: &'static str,
    /// How far it may travel: `local_only`, `lan_only` or `any`
    privacy: &'static str,
    /// Who answered and what it took; null for what a person wrote.
    #[schema(value_type = Option<AnswerDetail>)]
    detail: Option<Value>,
    /// Milliseconds since 1970.
    created_ms: u64,
}

impl WireMessage {
    pub(crate) fn new(message: &ChatMessage) -> Self {
        let detail = message.detail.as_deref();
        Self {
            id: message.id.clone(),
            parent: message.parent.clone(),
            role: message.role.word(),
            text: message.text.clone(),
            reasoning: message.reasoning.clone(),
            state: message.state.word(),
            privacy: message.reach.label(),
            detail: detail.and_then(|detail| serde_json::from_str(detail).ok()),
            created_ms: message.created_ms,
        }
    }
}

/// Answer of `POST /api/chats/{id}/messages`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TurnBegun {
    pub(crate) chat: ChatHead,
    /// What was said, where something was.
    pub(crate) message: Option<WireMessage>,
    /// The answer, still open.
    pub(crate) answer: WireMessage,
}

/// Who answered, and what it took. Figures are the engine's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct AnswerDetail {
    /// The model as it was asked for; null: the routing rules chose.
    model: Option<String>,
    /// `PROVIDER:MODEL`
    served_by: Option<String>,
    pub(crate) prompt_tokens: u32,
    /// Of those, how many were in the KV cache.
    pub(crate) cached_tokens: u32,
    /// Why the prompt was read as far as it was; null where the engine did not say.
    pub(crate) prefix: Option<WirePrefix>,
    /// 0 where the answer was stopped: the engine tells at the end.
    completion_tokens: u32,
    reasoning_tokens: u32,
    draft_tokens: u32,
    draft_accepted_tokens: u32,
    queue_ms: f64,
    prefill_ms: f64,
    decode_ms: f64,
    /// From the request to the first piece of text, as the endpoint saw it.
    ttft_ms: Option<f64>,
    /// From the first piece of a thought to the first of the answer.
    thinking_ms: Option<f64>,
    /// `stop` or `length`
    pub(crate) finish_reason: Option<String>,
    /// The answer whose text this one begins with: the figures are of what came after it.
    pub(crate) continues: Option<String>,
    /// Sampling values in force; null where another engine chose them.
    #[schema(value_type = Option<Object>)]
    pub(crate) sampling: Option<SamplingValues>,
    /// What computed, where it is a model of this process.
    engine: Option<AnswerEngine>,
    pub(crate) warnings: Vec<String>,
    /// Why it failed, as `error` in the error table has it.
    #[schema(value_type = Option<Object>)]
    pub(crate) error: Option<Value>,
    #[serde(skip)]
    thought_at: Option<Duration>,
}

/// The engine as it was when it answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub(crate) struct AnswerEngine {
    description: String,
    context: u32,
    kv_type_k: String,
    kv_type_v: String,
    /// Where layers differ, the plan in full.
    kv_plan: Option<String>,
    flash_attention: bool,
    threads: u32,
    kernels: String,
    llama_version: String,
}

impl AnswerDetail {
    /// Of an answer by the model that was asked for, before anything has come; `continues` is the
    /// answer that it goes on with.
    pub(crate) fn new(model: Option<String>, continues: Option<String>) -> Self {
        Self {
            model,
            continues,
            ..Self::default()
        }
    }

    /// Notes when the first pieces come.
    pub(crate) fn saw(&mut self, delta: &Delta, elapsed: Duration) {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        self.ttft_ms.get_or_insert(ms(elapsed));
        match (delta, self.thought_at) {
            (Delta::Reasoning { .. }, None) => self.thought_at = Some(elapsed),
            (Delta::Text { .. }, Some(since)) if self.thinking_ms.is_none() => {
                self.thinking_ms = Some(ms(elapsed.saturating_sub(since)));
            }
            _ => {}
        }
    }

    pub(crate) fn used(&mut self, usage: &Usage, timings: &Timings) {
        self.prompt_tokens = usage.prompt_tokens;
        self.cached_tokens = usage.cached_tokens;
        self.completion_tokens = usage.completion_tokens;
        self.reasoning_tokens = usage.reasoning_tokens;
        self.draft_tokens = usage.draft_tokens;
        self.draft_accepted_tokens = usage.draft_accepted_tokens;
        self.queue_ms = timings.queue_ms;
        self.prefill_ms = timings.prefill_ms;
        self.decode_ms = timings.decode_ms;
    }

    /// Says who answered.
    pub(crate) fn settle(&mut self, state: &AppState, call: &Call) {
        let target = call.target();
        if target.provider == EMBEDDED {
            self.engine = own_facts(state, &target).map(|facts| AnswerEngine {
                description: facts.description.clone(),
                context: facts.context,
                kv_type_k: facts.kv_type_k.clone(),
                kv_type_v: facts.kv_type_v.clone(),
                kv_plan: facts.kv_plan.clone(),
                flash_attention: facts.flash_attention,
                threads: facts.threads,
                kernels: facts.kernels.clone(),
                llama_version: facts.llama_version.clone(),
            });
        }
        self.served_by = Some(target.name());
    }
}

/// An event of an answer that is being written. The id of the event is the place up to which
/// the reader has it; `Last-Event-ID` goes on from there.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum AnswerEvent {
    /// More of it. The first one has all so far, or what came since `Last-Event-ID`.
    More {
        #[serde(skip_serializing_if = "String::is_empty")]
        text: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        reasoning: String,
        /// It does not go on where the reader is, but begins anew.
        restart: bool,
    },
    /// The prompt is being read.
    Prompt {
        /// Tokens read, those from the cache among them; null where that is not told.
        done: Option<u32>,
        total: u32,
        cached: u32,
    },
    /// The answer as it ended.
    End { message: Box<WireMessage> },
}

impl AnswerEvent {
    /// What a reader is told of what has come.
    pub(crate) fn of(news: &News) -> Vec<Self> {
        let mut events = Vec::new();
        let has_text = !news.text.is_empty() || !news.reasoning.is_empty();
        if has_text || news.restart {
            events.push(Self::More {
                text: news.text.clone(),
                reasoning: news.reasoning.clone(),
                restart: news.restart,
            });
        }
        let is_reading = news.mark == crate::chats::Mark::default();
        if let Some((total, cached)) = news.prompt.filter(|_| is_reading) {
            events.push(Self::Prompt {
                done: news.prefill.map(|(done, _)| done),
                total,
                cached,
            });
        }
        if let Some(end) = &news.end {
            events.push(Self::End {
                message: Box::new(WireMessage::new(end)),
            });
        }
        events
    }
}
