//! The system prompt and the conversation, checked and translated.

use proto::{Image, Message, Role, ToolCall};
use serde_json::Value;

use super::request::{Block, Content, Turn};
use crate::error::ApiError;
use crate::limits::{self, quoted};
use crate::wire::images::{self, Parts};
use crate::wire::openai::shapes::shown;

const ROLES: &str = "one of user, assistant, system";
const CONTENT: &str = "a string or an array of content blocks";

/// Claude Code begins its system prompt with a line for Anthropic's own servers:
/// `x-anthropic-billing-header: cc_version=2.1.37; cc_entrypoint=cli; cch=fa690;`. It
/// tells the model nothing, and its `cch` is another in every request, so with it no
/// request would find anything after it in the prefix cache.
const ATTRIBUTION: &str = "x-anthropic-billing-header:";

/// The messages as a template takes them, the system prompt first.
pub(crate) fn messages(
    system: Option<Content>,
    turns: Option<Vec<Turn>>,
) -> Result<Vec<Message>, ApiError> {
    let rule = "an array of at least 1 message";
    let turns = turns.ok_or_else(|| ApiError::missing("messages", rule))?;
    if turns.is_empty() {
        return Err(ApiError::invalid("messages", "empty", rule));
    }
    limits::count("messages", turns.len(), limits::MESSAGES_MAX, "messages")?;
    let mut messages = Vec::with_capacity(turns.len() + 1);
    if let Some(content) = system {
        add_system("system", content, &mut messages)?;
    }
    for (index, turn) in turns.into_iter().enumerate() {
        add_turn(&format!("messages[{index}]"), turn, &mut messages)?;
    }
    match messages.is_empty() {
        true => Err(ApiError::invalid("messages", "without text", rule)),
        false => Ok(messages),
    }
}

fn add_turn(path: &str, turn: Turn, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let param = format!("{path}.role");
    let role = turn.role.ok_or_else(|| ApiError::missing(&param, ROLES))?;
    let add = match role.as_str() {
        "user" => add_user,
        "assistant" => add_assistant,
        // Claude Code also has instructions that come up during a conversation.
        "system" => add_system,
        other => return Err(ApiError::invalid(&param, &quoted(other), ROLES)),
    };
    let param = format!("{path}.content");
    let content = turn.content;
    let content = content.ok_or_else(|| ApiError::missing(&param, CONTENT))?;
    add(&param, content, messages)
}

fn add_system(path: &str, content: Content, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let mut texts = Vec::new();
    each_block(path, content, |path, kind, block| {
        let text = text(path, kind, block)?;
        texts.push(without_attribution(&text).to_owned());
        Ok(())
    })?;
    texts.retain(|text| !text.is_empty());
    if !texts.is_empty() {
        messages.push(Message {
            role: Role::System,
            content: Some(texts.join("\n")),
            ..Message::default()
        });
    }
    Ok(())
}

/// Results of tools come first, right behind the calls that they answer. Blocks of text
/// are of different origin (the user's words, reminders of the client), so each begins on
/// a line of its own. Images of results go before the user's words: other dialects have no
/// place for them in a result.
fn add_user(path: &str, content: Content, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let n_before = messages.len();
    let mut shown = Vec::new();
    let mut parts = Parts::default();
    each_block(path, content, |path, kind, block| {
        match kind {
            "tool_result" => messages.push(tool_result(path, block, &mut shown)?),
            "image" => parts.image(image(path, block)?),
            _ => parts.line(&text(path, kind, block)?),
        }
        Ok(())
    })?;
    shown.append(&mut parts.images);
    if !parts.is_empty() || !shown.is_empty() || messages.len() == n_before {
        messages.push(Message {
            role: Role::User,
            content: Some(parts.text),
            images: shown,
            ..Message::default()
        });
    }
    Ok(())
}

/// Blocks are joined as they are: the model wrote them, and so they are found in the
/// prefix cache.
fn add_assistant(
    path: &str,
    content: Content,
    messages: &mut Vec<Message>,
) -> Result<(), ApiError> {
    let mut message = Message {
        role: Role::Assistant,
        ..Message::default()
    };
    each_block(path, content, |path, kind, block| {
        match kind {
            "thinking" => {
                let thinking = required(path, "thinking", block.thinking)?;
                append(&mut message.reasoning_content, &thinking);
            }
            // Only Anthropic can read it.
            "redacted_thinking" => {}
            "tool_use" => message.tool_calls.push(tool_call(path, block)?),
            _ => append(&mut message.content, &text(path, kind, block)?),
        }
        Ok(())
    })?;
    let n_calls = message.tool_calls.len();
    limits::count(path, n_calls, limits::TOOL_CALLS_MAX, "tool uses")?;
    messages.push(message);
    Ok(())
}

fn append(to: &mut Option<String>, text: &str) {
    to.get_or_insert_default().push_str(text);
}

/// Hands each block with its path and type to `take`; a string is one block of text.
fn each_block(
    path: &str,
    content: Content,
    mut take: impl FnMut(&str, &str, Block) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let blocks = match content {
        Content::Blocks(blocks) => blocks,
        Content::Text(text) => vec![Block {
            kind: Some("text".into()),
            text: Some(text),
            ..Block::default()
        }],
    };
    limits::count(path, blocks.len(), limits::CONTENT_PARTS_MAX, "blocks")?;
    for (index, mut block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let kind = required(&path, "type", block.kind.take())?;
        take(&path, &kind, block)?;
    }
    Ok(())
}

/// The text of a block that a text model can read.
fn text(path: &str, kind: &str, block: Block) -> Result<String, ApiError> {
    let detail = match kind {
        "text" => return required(path, "text", block.text),
        "document" => return document(path, block),
        "image" => return Err(images::only_of_the_user(path)),
        _ => "only text can stand here",
    };
    let value = format!("a block of type {}", quoted(kind));
    Err(ApiError::not_supported(path, &value, detail))
}

fn image(path: &str, block: Block) -> Result<Image, ApiError> {
    let path = format!("{path}.source");
    let source = block.source;
    let source = source.ok_or_else(|| ApiError::missing(&path, "an object"))?;
    match &*required(&path, "type", source.kind)? {
        "base64" => {
            let media_type = required(&path, "media_type", source.media_type)?;
            let data = required(&path, "data", source.data)?;
            images::of_base64(&path, Some(&media_type), &data)
        }
        "url" => images::image(&path, required(&path, "url", source.url)?, None),
        other => {
            let value = format!("of type {}", quoted(other));
            let detail = "images are read of types `base64` and `url`";
            Err(ApiError::not_supported(&path, &value, detail))
        }
    }
}

fn document(path: &str, block: Block) -> Result<String, ApiError> {
    let path = format!("{path}.source");
    let source = block.source;
    let source = source.ok_or_else(|| ApiError::missing(&path, "an object"))?;
    let kind = required(&path, "type", source.kind)?;
    if kind != "text" {
        let value = format!("of type {}", quoted(&kind));
        let detail = "this endpoint's models read documents of type `text` only";
        return Err(ApiError::not_supported(&path, &value, detail));
    }
    let data = required(&path, "data", source.data)?;
    let parts = [block.title, block.context, Some(data)];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    Ok(parts.join("\n"))
}

/// What a tool has to show goes to `shown`.
fn tool_result(path: &str, block: Block, shown: &mut Vec<Image>) -> Result<Message, ApiError> {
    let id = required(path, "tool_use_id", block.tool_use_id)?;
    let mut texts = Vec::new();
    if let Some(content) = block.content {
        each_block(&format!("{path}.content"), content, |path, kind, block| {
            match kind {
                "image" => shown.push(image(path, block)?),
                _ => texts.push(text(path, kind, block)?),
            }
            Ok(())
        })?;
    }
    let result = texts.join("\n");
    Ok(Message {
        role: Role::Tool,
        // Templates have no place for a failure, so it has to be said in words.
        content: Some(match block.is_error {
            Some(true) => format!("Error: {result}"),
            _ => result,
        }),
        tool_call_id: Some(id),
        ..Message::default()
    })
}

fn tool_call(path: &str, block: Block) -> Result<ToolCall, ApiError> {
    let id = required(path, "id", block.id)?;
    let name = required(path, "name", block.name)?;
    let arguments = match block.input {
        None => "{}".to_owned(),
        Some(input @ Value::Object(_)) => input.to_string(),
        Some(other) => {
            let param = format!("{path}.input");
            return Err(ApiError::invalid(&param, &shown(&other), "an object"));
        }
    };
    Ok(ToolCall {
        id,
        name,
        arguments,
    })
}

fn required(path: &str, field: &str, given: Option<String>) -> Result<String, ApiError> {
    given.ok_or_else(|| ApiError::missing(&format!("{path}.{field}"), "a string"))
}

/// `text` without the line of [`ATTRIBUTION`] in front. Its fields end with semicolons;
/// what follows the last of them on the same line is prompt again.
fn without_attribution(text: &str) -> &str {
    let Some(rest) = text.strip_prefix(ATTRIBUTION) else {
        return text;
    };
    let mut rest = rest.trim_start();
    loop {
        let end = rest.find([';', '\n']).unwrap_or(rest.len());
        if !is_field(&rest[..end]) {
            return rest;
        }
        rest = rest[end..].trim_start_matches(';').trim_start();
    }
}

/// Whether `text` is a field such as `cch=fa690`.
fn is_field(text: &str) -> bool {
    !text.contains(char::is_whitespace) && text.split_once('=').is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribution_goes_and_the_prompt_stays() {
        let cases = [
            ("You are x.", "You are x."),
            ("x-anthropic-billing-header: a=1; cch=0; ", ""),
            ("x-anthropic-billing-header: a=1; cch=0", ""),
            ("x-anthropic-billing-header:", ""),
            (
                "x-anthropic-billing-header: a=1; cch=0;\nYou are x; y=1;",
                "You are x; y=1;",
            ),
            (
                "x-anthropic-billing-header: a=1; cch=0\nYou are x.",
                "You are x.",
            ),
            ("x-anthropic-billing-header: cch=0;You are x.", "You are x."),
            (
                "It sends x-anthropic-billing-header: cch=0;",
                "It sends x-anthropic-billing-header: cch=0;",
            ),
        ];
        for (text, left) in cases {
            assert_eq!(without_attribution(text), left);
        }
    }
}
