//! One question to one model over HTTP, and what came of it.

use std::time::{Duration, Instant};

use bench::quality::{Answer, Answered, Call, Came, Question};
use serde_json::{Value, json};

use crate::http::Server;

/// How a model is asked.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// Tokens of an answer, thoughts included.
    pub(super) tokens_max: u64,
    pub(super) time_max: Duration,
    /// `None` leaves it to the model.
    pub(super) temperature: Option<f64>,
    /// Whether it may think; `None` leaves it to the model.
    pub(super) thinking: Option<bool>,
}

/// Asks once. The time is that from the first byte that is sent to the last that came.
pub(super) async fn ask(
    server: &Server,
    model: &str,
    question: &Question,
    manner: &Manner,
    seed: u64,
) -> (Came, Duration) {
    let mut body = json!({
        "model": model,
        "messages": [{ "role": "user", "content": question.prompt.trim() }],
        "max_tokens": manner.tokens_max,
        "seed": seed,
    });
    if !question.tools.is_empty() {
        body["tools"] = json!(question.tools);
    }
    if let Some(temperature) = manner.temperature {
        body["temperature"] = json!(temperature);
    }
    if let Some(thinking) = manner.thinking {
        body["chat_template_kwargs"] = json!({ "enable_thinking": thinking });
    }
    post(server, &body, manner.time_max).await
}

/// What comes of a request, and how long it took.
pub(super) async fn post(server: &Server, body: &Value, time_max: Duration) -> (Came, Duration) {
    let started = Instant::now();
    let asked = server.try_post("/v1/chat/completions", body);
    let came = match tokio::time::timeout(time_max, asked).await {
        Err(_) => Came::Late,
        Ok(Err(error)) => Came::Unreachable(error.to_string()),
        Ok(Ok((200, body))) => Came::Answered(answered(&body)),
        Ok(Ok((status, body))) => refused(status, &body),
    };
    (came, started.elapsed())
}

fn refused(status: u16, body: &Value) -> Came {
    let error = &body["error"];
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    };
    // Some engines give a text in place of an object.
    let message = match &error["message"] {
        Value::Null => text(error),
        message => text(message),
    };
    Came::Refused {
        status,
        code: text(&error["code"]),
        message,
    }
}

fn answered(body: &Value) -> Answered {
    let choice = &body["choices"][0];
    let message = &choice["message"];
    let calls = message["tool_calls"].as_array();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Answered {
        answer: Answer {
            text: text(&message["content"]),
            calls: calls.into_iter().flatten().map(call).collect(),
        },
        finish: text(&choice["finish_reason"]),
        model: text(&body["model"]),
        n_prompt: body["usage"]["prompt_tokens"].as_u64(),
        n_answer: body["usage"]["completion_tokens"].as_u64(),
    }
}

fn call(call: &Value) -> Call {
    let function = &call["function"];
    let text = function["arguments"].as_str().unwrap_or_default();
    Call {
        name: function["name"].as_str().unwrap_or_default().to_owned(),
        arguments: serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}
