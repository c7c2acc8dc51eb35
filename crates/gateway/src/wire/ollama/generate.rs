//! A generate request, checked and translated: a chat of one message, or with `raw` a text
//! to continue.

use proto::{ChatJob, CompletionJob, Image, Job, Message, Prompt, Role};

use super::plan::{Plan, SharedFields, images};
use super::request::OllamaGenerate;
use crate::error::ApiError;

/// Pure: neither models nor limits of the running server are looked at.
pub(crate) fn generate_plan(request: OllamaGenerate) -> Result<Plan, ApiError> {
    refuse(&request)?;
    let mut warnings = Vec::new();
    let raw = request.raw.unwrap_or(false);
    let system = request.system.filter(|text| !text.is_empty());
    if raw && system.is_some() {
        let detail = "a raw prompt goes to the model as it is";
        return Err(ApiError::conflict("system", "raw", detail));
    }
    if raw && request.think.as_ref().is_some_and(|think| !think.is_null()) {
        warnings.push("think is not read with raw: the prompt says whether to think.".into());
    }
    let images = images("images", request.images)?;
    if raw && !images.is_empty() {
        let detail = "a raw prompt has no place for them";
        return Err(ApiError::conflict("images", "raw", detail));
    }
    let shared = SharedFields {
        stream: request.stream,
        format: request.format,
        options: request.options,
        think: request.think,
        keep_alive: request.keep_alive,
        logprobs: request.logprobs,
        top_logprobs: request.top_logprobs,
    };
    let shared = shared.check()?;
    let prompt = request.prompt.unwrap_or_default();
    if prompt.is_empty() && images.is_empty() {
        return Ok(shared.no_text(warnings));
    }
    Ok(
        shared.answer(warnings, |generation, constraint, reasoning| match raw {
            true => Job::Completion(Box::new(CompletionJob {
                prompt: Prompt::Text(prompt),
                echo: false,
                constraint,
                generation,
            })),
            false => Job::Chat(Box::new(ChatJob {
                messages: conversation(system, prompt, images),
                reasoning,
                constraint,
                generation,
                ..ChatJob::default()
            })),
        }),
    )
}

fn conversation(system: Option<String>, prompt: String, images: Vec<Image>) -> Vec<Message> {
    let message = |role, text| Message {
        role,
        content: Some(text),
        ..Message::default()
    };
    let system = system.map(|text| message(Role::System, text));
    let user = Message {
        images,
        ..message(Role::User, prompt)
    };
    system.into_iter().chain([user]).collect()
}

fn refuse(request: &OllamaGenerate) -> Result<(), ApiError> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let refused = [
        (
            "suffix",
            given(&request.suffix),
            "filling in the middle is not possible here",
        ),
        (
            "template",
            given(&request.template),
            "the model's own template is used; with raw the prompt goes without one",
        ),
        (
            "context",
            request
                .context
                .as_ref()
                .is_some_and(|list| !list.is_empty()),
            "use /api/chat for conversations",
        ),
    ];
    for (param, is_given, detail) in refused {
        if is_given {
            return Err(ApiError::not_supported(param, "given", detail));
        }
    }
    Ok(())
}
