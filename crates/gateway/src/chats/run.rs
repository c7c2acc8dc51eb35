//! Writes an answer, whoever follows it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{FutureExt, StreamExt};
use proto::{Delta, Event, FinishReason, Job};
use store::{ChatMessage, ChatWrite, MessageState};

use super::outlive::OutlivesGuard;
use super::{Chats, Live};
use crate::AppState;
use crate::backend::EventStream;
use crate::dispatch::Delivery;
use crate::error::{ApiError, ErrorCode};
use crate::routes::Call;
use crate::wire::chats::AnswerDetail;
use crate::wire::encode::{Prefill, json};
use crate::wire::prefix::WirePrefix;

/// At most as much of an answer is lost when the process is killed.
const SAVE_EVERY: Duration = Duration::from_millis(500);

/// An answer about to be written.
pub(crate) struct Run {
    pub(crate) state: AppState,
    pub(crate) chats: Chats,
    pub(crate) live: Arc<Live>,
    pub(crate) call: Call,
    /// Open, and in the file.
    pub(crate) message: ChatMessage,
    pub(crate) detail: AnswerDetail,
    pub(crate) outlives: OutlivesGuard,
}

/// How an answer ends.
struct Ending {
    state: MessageState,
    error: Option<ApiError>,
}

impl Run {
    /// Runs the job to its end, which is written down whatever it is.
    pub(crate) async fn write(mut self, job: Job) {
        let events = self.call.run(&self.state, job, Delivery::Stream);
        let work = AssertUnwindSafe(self.follow(events)).catch_unwind().await;
        let ending = work.unwrap_or_else(|_| Ending {
            state: MessageState::Failed,
            error: Some(ApiError::message(
                ErrorCode::Internal,
                "Writing the answer failed by a defect.",
            )),
        });
        self.detail.settle(&self.state, &self.call);
        self.detail.error = ending.error.map(|error| error.body()["error"].take());
        (self.message.text, self.message.reasoning) = self.live.texts();
        self.message.state = ending.state;
        self.message.detail = String::from_utf8(json(&self.detail)).ok();
        let end = ChatWrite::End(Box::new(self.message.clone()));
        if let Err(error) = self.chats.write(vec![end]).await {
            tracing::error!(
                error = error.text(),
                "the end of an answer is not in the file"
            );
        }
        self.live.end(self.message);
        self.chats.close(&self.live);
        drop(self.outlives);
    }

    async fn follow(&mut self, mut events: EventStream) -> Ending {
        let (began, mut saved) = (Instant::now(), Instant::now());
        loop {
            let event = tokio::select! {
                biased;
                () = self.live.stopped() => {
                    return Ending { state: MessageState::Stopped, error: None };
                }
                event = events.next() => event,
            };
            let Some(event) = event else {
                return Ending {
                    state: MessageState::Failed,
                    error: Some(crate::backend::cut_off().into()),
                };
            };
            if let Some(ending) = self.take(event, began) {
                return ending;
            }
            if saved.elapsed() >= SAVE_EVERY {
                saved = Instant::now();
                let (text, reasoning) = self.live.texts();
                self.chats.write_soon(ChatWrite::Progress {
                    id: self.live.id.clone(),
                    text,
                    reasoning,
                });
            }
        }
    }

    fn take(&mut self, event: Event, began: Instant) -> Option<Ending> {
        let detail = &mut self.detail;
        match event {
            Event::Started {
                prompt_tokens,
                cached_tokens,
                sampling,
                warnings,
            } => {
                detail.prompt_tokens = prompt_tokens;
                detail.cached_tokens = cached_tokens;
                detail.sampling = sampling.map(|values| *values);
                detail.warnings.extend(warnings);
                self.live.started(prompt_tokens, cached_tokens);
            }
            Event::Prefill { done, total } => self.live.prefill(Prefill { done, total }),
            Event::Delta { delta, .. } => {
                detail.saw(&delta, began.elapsed());
                match delta {
                    Delta::Text { text } => self.live.text(&text),
                    Delta::Reasoning { text } => self.live.reasoning(&text),
                    // No tools are offered.
                    Delta::ToolCallStart { .. } | Delta::ToolCallArguments { .. } => {}
                }
            }
            Event::Finished { reason, .. } => {
                detail.finish_reason = Some(match reason {
                    FinishReason::Stop => "stop".to_owned(),
                    FinishReason::Length => "length".to_owned(),
                    FinishReason::ToolCalls => "tool_calls".to_owned(),
                });
            }
            Event::Prefix(told) => detail.prefix = Some(WirePrefix::new(&told)),
            Event::Continued { by } => {
                detail
                    .warnings
                    .push(format!("The engine failed; {by} went on."));
            }
            Event::Done { usage, timings } => {
                detail.used(&usage, &timings);
                return Some(Ending {
                    state: MessageState::Done,
                    error: None,
                });
            }
            Event::Failed(failure) => {
                return Some(Ending {
                    state: MessageState::Failed,
                    error: Some(failure.into()),
                });
            }
            _ => {
                return Some(Ending {
                    state: MessageState::Failed,
                    error: Some(crate::routes::wrong_event()),
                });
            }
        }
        None
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
