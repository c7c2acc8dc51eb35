//! `/api/chats`: the workbench's chats.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use proto::Job;
use router::Reach;
use serde::Deserialize;
use store::{
    CHATS_PAGE_MAX, Chat, ChatFilter, ChatMessage, ChatRole, ChatWrite, MessageState, Scope,
};
use tokio::sync::watch;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::{Call, MaybeQuery, given, ok};
use crate::AppState;
use crate::access::Head;
use crate::body::{RawBody, parse};
use crate::chats::{Chats, Live, Mark, Outlives, Run, not_found, now_ms};
use crate::dispatch::Question;
use crate::error::ApiError;
use crate::limits::{self, CHAT_MESSAGES_MAX, CHAT_SEARCH_BYTES_MAX, CHAT_TITLE_BYTES_MAX};
use crate::stream::streamed;
use crate::wire::chats::{
    AnswerDetail, AnswerEvent, ChangedChat, ChatDeleted, ChatHead, ChatList, ChatWhole, NewChat,
    StopRequest, Stopped, Turn, TurnBegun, WireMessage,
};
use crate::wire::encode::json;
use crate::wire::openai::request::{ReasoningRequest, RequestMessage};
use crate::wire::openai::shapes::Content;
use crate::wire::openai::{ChatRequest, chat_plan};

/// Least time between two pieces of an answer that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Characters of a first message that become a title.
const TITLE_CHARS: usize = 60;
static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// Words that stand in the title or in one message; the last may be the beginning of one.
    search: Option<String>,
    /// Only chats that changed before then, milliseconds since 1970.
    before: Option<u64>,
    /// 1 to 200; 50 by default.
    limit: Option<u32>,
}

/// Lists the chats that the request's key has begun, the last changed first.
#[utoipa::path(get, path = "/api/chats", operation_id = "chats_list", tag = "workbench",
    params(ListQuery),
    responses(
        (status = 200, description = "A page of them", body = ChatList),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn list(
    State(state): State<AppState>,
    head: Head,
    query: MaybeQuery<ListQuery>,
) -> Result<Response, ApiError> {
    head.require(Scope::Chat)?;
    let query = given(query)?;
    let words = query.search.unwrap_or_default();
    limits::count("search", words.len(), CHAT_SEARCH_BYTES_MAX, "bytes")?;
    let limit = query.limit.unwrap_or(50).clamp(1, CHATS_PAGE_MAX);
    let filter = ChatFilter {
        owner: head.owner().map(str::to_owned),
        words,
        before_ms: query.before,
        limit,
    };
    let rows = state.chats()?.list(filter).await?;
    Ok(ok(&ChatList::new(rows, limit)))
}

/// Begins a chat.
#[utoipa::path(post, path = "/api/chats", operation_id = "chats_create", tag = "workbench",
    request_body = NewChat,
    responses(
        (status = 200, description = "It is there", body = ChatWhole),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn create(
    State(state): State<AppState>,
    head: Head,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    head.require(Scope::Chat)?;
    let request: NewChat = parse(&body)?;
    let now = now_ms();
    let mut chat = Chat {
        id: state.stamps().id("chat_"),
        owner: head.owner().map(str::to_owned),
        title: title(request.title)?,
        model: None,
        leaf: None,
        created_ms: now,
        changed_ms: now,
    };
    let mut messages = Vec::new();
    if let Some(text) = request.system.filter(|text| !text.trim().is_empty()) {
        let system = ChatMessage {
            role: ChatRole::System,
            ..said(&state, &chat.id, None, text)
        };
        chat.leaf = Some(system.id.clone());
        messages.push(system);
    }
    let mut writes = vec![ChatWrite::Chat(chat.clone())];
    writes.extend(
        messages
            .iter()
            .cloned()
            .map(Box::new)
            .map(ChatWrite::Message),
    );
    state.chats()?.write(writes).await?;
    state.bus().chats_changed(head.owner());
    Ok(ok(&ChatWhole::new(&chat, &messages)))
}

type MaybePath = Result<Path<String>, PathRejection>;

fn id_of(id: MaybePath) -> String {
    id.map_or_else(|_| "(not UTF-8)".to_owned(), |Path(id)| id)
}

/// Gives a chat with all its messages. An answer that is being written is given as far as it is.
#[utoipa::path(get, path = "/api/chats/{id}", operation_id = "chats_one", tag = "workbench",
    params(("id" = String, Path, description = "The chat's id")),
    responses(
        (status = 200, description = "The chat", body = ChatWhole),
        (status = 404, description = "No such chat", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn one(
    State(state): State<AppState>,
    head: Head,
    id: MaybePath,
) -> Result<Response, ApiError> {
    head.require(Scope::Chat)?;
    let (chat, messages) = state.chats()?.chat(&id_of(id), head.owner()).await?;
    Ok(ok(&ChatWhole::new(&chat, &messages)))
}

/// Gives a chat another title, or notes which branch is looked at.
#[utoipa::path(post, path = "/api/chats/{id}", operation_id = "chats_change", tag = "workbench",
    params(("id" = String, Path, description = "The chat's id")), request_body = ChangedChat,
    responses(
        (status = 200, description = "The chat as it is now", body = ChatHead),
        (status = 404, description = "No such chat", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn change(
    State(state): State<AppState>,
    head: Head,
    id: MaybePath,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    head.require(Scope::Chat)?;
    let request: ChangedChat = parse(&body)?;
    let chats = state.chats()?;
    let (mut chat, messages) = chats.chat(&id_of(id), head.owner()).await?;
    if request.title.is_some() {
        chat.title = title(request.title)?;
    }
    if let Some(leaf) = request.leaf {
        if !messages.iter().any(|message| message.id == leaf) {
            return Err(not_found("message", &leaf));
        }
        chat.leaf = Some(leaf);
    }
    chats.write(vec![ChatWrite::Chat(chat.clone())]).await?;
    state.bus().chats_changed(head.owner());
    Ok(ok(&ChatHead::new(&chat)))
}

/// Forgets a chat. Its answers that are being written are stopped.
#[utoipa::path(delete, path = "/api/chats/{id}", operation_id = "chats_delete", tag = "workbench",
    params(("id" = String, Path, description = "The chat's id")),
    responses(
        (status = 200, description = "It is gone", body = ChatDeleted),
        (status = 404, description = "No such chat", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    head: Head,
    id: MaybePath,
) -> Result<Response, ApiError> {
    head.require(Scope::Chat)?;
    let chats = state.chats()?;
    let (chat, _) = chats.chat(&id_of(id), head.owner()).await?;
    chats.open_of(&chat.id).iter().for_each(|live| live.stop());
    let gone = ChatWrite::Delete {
        id: chat.id.clone(),
    };
    chats.write(vec![gone]).await?;
    state.bus().chats_changed(head.owner());
    Ok(ok(&ChatDeleted {
        id: chat.id,
        deleted: true,
    }))
}

/// Says something and begins the answer to it, or answers a message once more. The answer is
/// written whether somebody follows it or not.
#[utoipa::path(post, path = "/api/chats/{id}/messages", operation_id = "chats_turn",
    tag = "workbench", params(("id" = String, Path, description = "The chat's id")),
    request_body = Turn,
    responses(
        (status = 200, description = "The answer is being written", body = TurnBegun),
        (status = "4XX", description = "See the error table", body = crate::openapi::ErrorBody),
        (status = "5XX", description = "See the error table", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn turn(
    State(state): State<AppState>,
    head: Head,
    id: MaybePath,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    let mut turn: Turn = parse(&body)?;
    let chats = state.chats()?;
    let (mut chat, messages) = chats.chat(&id_of(id), head.owner()).await?;
    let n_after = messages.len() + 2;
    limits::count(
        "messages of the chat",
        n_after,
        CHAT_MESSAGES_MAX,
        "messages",
    )?;
    let model = turn.model.take().filter(|model| !model.is_empty());
    let asked = Asked::new(&state, &chat, &messages, &mut turn)?;
    let kept = asked.all().map(|message| message.reach).min();
    let job = job(turn, &asked)?;
    let question = Question::new(model.clone(), &head).within(kept.unwrap_or(Reach::Cloud));
    let call = Call::new(&state, &question, &job).await?;
    let reach = call.reach_max();
    let answer = asked.answer(&state, &chat.id, reach);
    let continues = asked.begun.map(|begun| begun.id.clone());
    let message = asked
        .message
        .map(|message| ChatMessage { reach, ..message });
    settle(&mut chat, &message, &answer, model.as_deref());
    let response = TurnBegun {
        chat: ChatHead::new(&chat),
        message: message.as_ref().map(WireMessage::new),
        answer: WireMessage::new(&answer),
    };
    let begun = Begun {
        chat,
        message,
        answer,
        model,
        continues,
    };
    let outlives = begin(&state, &head, (call, job), begun).await?;
    let mut response = ok(&response);
    response.extensions_mut().insert(outlives);
    Ok(response)
}

/// A turn that is about to be written down.
struct Begun {
    chat: Chat,
    message: Option<ChatMessage>,
    answer: ChatMessage,
    model: Option<String>,
    /// The answer that this one goes on with.
    continues: Option<String>,
}

/// Writes the turn down and starts the answer.
async fn begin(
    state: &AppState,
    head: &Head,
    (call, job): (Call, Job),
    begun: Begun,
) -> Result<Outlives, ApiError> {
    let chats = state.chats()?.clone();
    let live = Arc::new(Live::new(&begun.answer, head.owner(), begun.model.clone()));
    chats.open(&live)?;
    let mut writes = vec![ChatWrite::Chat(begun.chat)];
    writes.extend(begun.message.map(Box::new).map(ChatWrite::Message));
    writes.push(ChatWrite::Message(Box::new(begun.answer.clone())));
    if let Err(error) = chats.write(writes).await {
        chats.close(&live);
        return Err(error);
    }
    let outlives = Outlives::default();
    let run = Run {
        state: state.clone(),
        chats,
        live,
        call,
        message: begun.answer,
        detail: AnswerDetail::new(begun.model, begun.continues),
        outlives: outlives.guard(),
    };
    let owner = head.owner().map(str::to_owned);
    let bus = state.clone();
    let lives = state.chats()?.clone();
    let work = async move {
        bus.bus().answers(&lives.lives());
        run.write(job).await;
        bus.bus().answers(&lives.lives());
        bus.bus().chats_changed(owner.as_deref());
    };
    match state.runtime() {
        // The answer outlives the connection that asked for it.
        Some(runtime) => runtime.spawn(work),
        None => tokio::spawn(work),
    };
    Ok(outlives)
}

/// What a turn asks to have answered.
struct Asked<'a> {
    /// From the beginning of the chat to what was said last; what is said now is not in it.
    path: Vec<&'a ChatMessage>,
    /// What is said now.
    message: Option<ChatMessage>,
    /// The answer that is gone on with.
    begun: Option<&'a ChatMessage>,
}

impl<'a> Asked<'a> {
    fn new(
        state: &AppState,
        chat: &Chat,
        messages: &'a [ChatMessage],
        turn: &mut Turn,
    ) -> Result<Self, ApiError> {
        let text = turn.text.take().filter(|text| !text.trim().is_empty());
        if let Some(id) = turn.continues.take() {
            let other = match (&turn.parent, &text) {
                (Some(_), _) => Some("parent"),
                (None, Some(_)) => Some("text"),
                (None, None) => None,
            };
            if let Some(other) = other {
                let detail = "an answer that is gone on with has a place and a text";
                return Err(ApiError::conflict("continues", other, detail));
            }
            return Self::rest_of(messages, &id);
        }
        let path = path_to(messages, turn.parent.as_deref())?;
        let message = text.map(|text| said(state, &chat.id, turn.parent.clone(), text));
        let last = message.as_ref().or(path.last().copied());
        last.filter(|last| last.role == ChatRole::User)
            .ok_or_else(|| ApiError::missing("text", "what is said"))?;
        Ok(Self {
            path,
            message,
            begun: None,
        })
    }

    /// To go on with an answer that has ended.
    fn rest_of(messages: &'a [ChatMessage], id: &str) -> Result<Self, ApiError> {
        let mut path = path_to(messages, Some(id))?;
        let begun = path.pop();
        let usable = |begun: &&ChatMessage| {
            begun.role == ChatRole::Assistant && !begun.text.trim().is_empty()
        };
        let Some(begun) = begun.filter(usable) else {
            return Err(ApiError::invalid("continues", id, "an answer with text"));
        };
        Ok(Self {
            path,
            message: None,
            begun: Some(begun),
        })
    }

    /// All that the model reads, in its order.
    fn all(&self) -> impl Iterator<Item = &ChatMessage> {
        let path = self.path.iter().copied();
        path.chain(&self.message).chain(self.begun)
    }

    /// The answer before its first word.
    fn answer(&self, state: &AppState, chat: &str, reach: Reach) -> ChatMessage {
        let (text, reasoning) = match self.begun {
            Some(begun) => (begun.text.clone(), begun.reasoning.clone()),
            None => (String::new(), String::new()),
        };
        let asked = self.message.as_ref().or(self.path.last().copied());
        let parent = asked.map(|asked| asked.id.clone());
        ChatMessage {
            id: state.stamps().id("msg_"),
            role: ChatRole::Assistant,
            state: MessageState::Open,
            reasoning,
            reach,
            ..said(state, chat, parent, text)
        }
    }
}

/// What a chat is called, who was asked last, and where it is looked at.
fn settle(
    chat: &mut Chat,
    message: &Option<ChatMessage>,
    answer: &ChatMessage,
    model: Option<&str>,
) {
    if let Some(message) = message.as_ref().filter(|_| chat.title.is_empty()) {
        chat.title = first_words(&message.text);
    }
    chat.model = model.map(str::to_owned);
    chat.leaf = Some(answer.id.clone());
    chat.changed_ms = now_ms();
}

/// The messages from the beginning of the chat to that one.
fn path_to<'a>(
    messages: &'a [ChatMessage],
    last: Option<&str>,
) -> Result<Vec<&'a ChatMessage>, ApiError> {
    let mut path = Vec::new();
    let mut next = last.map(str::to_owned);
    while let Some(id) = next {
        let found = messages.iter().find(|message| message.id == id);
        let found = found.ok_or_else(|| not_found("message", &id))?;
        if found.state == MessageState::Open {
            let detail = "it is still being written";
            return Err(ApiError::conflict("parent", &id, detail));
        }
        path.push(found);
        next = found.parent.clone();
    }
    path.reverse();
    Ok(path)
}

fn said(state: &AppState, chat: &str, parent: Option<String>, text: String) -> ChatMessage {
    ChatMessage {
        id: state.stamps().id("msg_"),
        chat: chat.to_owned(),
        parent,
        role: ChatRole::User,
        text,
        reasoning: String::new(),
        state: MessageState::Done,
        reach: Reach::Cloud,
        detail: None,
        created_ms: now_ms(),
    }
}

/// The same checks as those of `/v1/chat/completions`.
fn job(turn: Turn, asked: &Asked<'_>) -> Result<Job, ApiError> {
    let messages = asked.all().filter(|message| !message.text.is_empty());
    let messages = messages.map(|message| RequestMessage {
        role: Some(message.role.word().to_owned()),
        content: Some(Content::Text(message.text.clone())),
        ..RequestMessage::default()
    });
    let plan = chat_plan(ChatRequest {
        messages: Some(messages.collect()),
        continue_final_message: asked.begun.map(|_| true),
        temperature: turn.temperature,
        top_p: turn.top_p,
        top_k: turn.top_k,
        min_p: turn.min_p,
        seed: turn.seed.map(Into::into),
        max_tokens: turn.max_tokens,
        reasoning: Some(ReasoningRequest {
            enabled: turn.thinking,
            budget_tokens: turn.thinking_tokens_max,
            ..ReasoningRequest::default()
        }),
        ..ChatRequest::default()
    })?;
    Ok(Job::Chat(Box::new(plan.job)))
}

fn title(given: Option<String>) -> Result<String, ApiError> {
    let title = given.unwrap_or_default();
    limits::count("title", title.len(), CHAT_TITLE_BYTES_MAX, "bytes")?;
    Ok(title.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The beginning of a text, in one line.
fn first_words(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TITLE_CHARS) {
        None => line,
        Some((at, _)) => format!("{}…", line[..at].trim_end()),
    }
}

/// Ends answers of a chat where they are; what is there of them stays.
#[utoipa::path(post, path = "/api/chats/{id}/stop", operation_id = "chats_stop", tag = "workbench",
    params(("id" = String, Path, description = "The chat's id")), request_body = StopRequest,
    responses(
        (status = 200, description = "They are told to end", body = Stopped),
        (status = 404, description = "No such chat", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn stop(
    State(state): State<AppState>,
    head: Head,
    id: MaybePath,
    RawBody(body): RawBody,
) -> Result<Response, ApiError> {
    head.require(Scope::Chat)?;
    let request: StopRequest = parse(&body)?;
    let chats = state.chats()?;
    let (chat, _) = chats.chat(&id_of(id), head.owner()).await?;
    let wanted = |live: &&Arc<Live>| request.message.as_ref().is_none_or(|id| *id == live.id);
    let open = chats.open_of(&chat.id);
    let stopped = open.iter().filter(wanted).map(|live| live.stop()).count();
    Ok(ok(&Stopped { stopped }))
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct MessagePath {
    id: String,
    message: String,
}

/// Follows an answer. Ends with it; begins at `Last-Event-ID`, so that nothing is sent twice.
#[utoipa::path(get, path = "/api/chats/{id}/messages/{message}/events",
    operation_id = "chats_follow", tag = "workbench",
    params(("id" = String, Path, description = "The chat's id"),
           ("message" = String, Path, description = "The answer's id")),
    responses(
        (status = 200, description = "Its events",
         content((AnswerEvent = "text/event-stream"))),
        (status = 404, description = "No such answer", body = crate::openapi::ErrorBody),
    ))]
pub(crate) async fn follow(
    State(state): State<AppState>,
    head: Head,
    path: Result<Path<MessagePath>, PathRejection>,
) -> Result<Response, ApiError> {
    head.require(Scope::Chat)?;
    let Ok(Path(path)) = path else {
        return Err(not_found("message", "(not UTF-8)"));
    };
    let chats = state.chats()?;
    let owned = |live: &Arc<Live>| live.chat == path.id && live.owner.as_deref() == head.owner();
    let source = match chats.live(&path.message).filter(owned) {
        Some(live) => Source::Live(live.follow(), live),
        None => Source::Ended(Box::new(ended(chats, &head, &path).await?)),
    };
    let seconds = state.config().keep_alive_secs;
    let followed = Followed {
        source,
        mark: mark(&head),
        keep_alive: (seconds > 0).then(|| Duration::from_secs(seconds)),
        prompt: None,
        over: false,
    };
    Ok(followed.into_response())
}

fn mark(headers: &HeaderMap) -> Mark {
    let given = headers.get(&LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    given.map(Mark::read).unwrap_or_default()
}

async fn ended(chats: &Chats, head: &Head, path: &MessagePath) -> Result<ChatMessage, ApiError> {
    let (_, messages) = chats.chat(&path.id, head.owner()).await?;
    let mut messages = messages.into_iter();
    let found = messages.find(|message| message.id == path.message);
    found.ok_or_else(|| not_found("message", &path.message))
}

/// An answer as one reader follows it.
struct Followed {
    source: Source,
    mark: Mark,
    keep_alive: Option<Duration>,
    /// Said last of the prompt.
    prompt: Option<AnswerEvent>,
    over: bool,
}

enum Source {
    Live(watch::Receiver<()>, Arc<Live>),
    /// It had ended before.
    Ended(Box<ChatMessage>),
}

impl Followed {
    fn into_response(self) -> Response {
        let events = stream::unfold(self, |mut followed| async move {
            let bytes = followed.next().await?;
            Some((Ok::<_, Infallible>(bytes), followed))
        });
        streamed(
            Body::from_stream(events),
            "text/event-stream; charset=utf-8",
        )
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let (changed, live) = match &mut self.source {
            Source::Live(changed, live) => (changed, live),
            Source::Ended(message) => {
                self.over = true;
                let end = AnswerEvent::End {
                    message: Box::new(WireMessage::new(message)),
                };
                return Some(event(&end, self.mark).into());
            }
        };
        loop {
            // Before the look, so that what comes after it is waited for.
            changed.mark_unchanged();
            let news = live.news(self.mark);
            self.mark = news.mark;
            self.over = news.end.is_some();
            let mut events = AnswerEvent::of(&news);
            let said = self.prompt.take();
            events.retain(|one| Some(one) != said.as_ref());
            let mut prompts = events.iter();
            let prompt = prompts.find(|one| matches!(one, AnswerEvent::Prompt { .. }));
            self.prompt = prompt.cloned().or(said);
            let bytes: Vec<u8> = events
                .iter()
                .flat_map(|one| event(one, news.mark))
                .collect();
            let silence = self.keep_alive.unwrap_or(Duration::MAX);
            if !bytes.is_empty() {
                // Pieces that come closer together go in one.
                if !self.over {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                return Some(bytes.into());
            }
            match timeout(silence, changed.changed()).await {
                Ok(_) => {}
                Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
            }
        }
    }
}

/// A framed event.
fn event(event: &AnswerEvent, mark: Mark) -> Vec<u8> {
    let mut out = format!("id: {mark}\ndata: ").into_bytes();
    out.extend_from_slice(&json(event));
    out.extend_from_slice(b"\n\n");
    out
}
