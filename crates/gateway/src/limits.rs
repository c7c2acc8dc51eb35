//! Every limit of the HTTP edge, and the checks that name them.

use std::time::Duration;

use crate::error::{ApiError, ErrorCode};

/// Messages in one chat request.
pub const MESSAGES_MAX: usize = 4096;
/// Parts in one message's content.
pub const CONTENT_PARTS_MAX: usize = 1024;
/// Bytes of the address of an image; one that is itself in the request may be as long as that.
pub const IMAGE_ADDRESS_BYTES_MAX: usize = 8 << 10;
/// Tools in one chat request.
pub const TOOLS_MAX: usize = 512;
/// Tool calls in one assistant message.
pub const TOOL_CALLS_MAX: usize = 128;
/// Bytes of a tool's name.
pub const TOOL_NAME_BYTES_MAX: usize = 128;
/// Stop strings; OpenAI takes 4.
pub const STOPS_MAX: usize = 16;
/// Bytes of one stop string.
pub const STOP_BYTES_MAX: usize = 512;
/// Choices of one prompt.
pub const CHOICES_MAX: i64 = 16;
/// Tokens that stay when a context is full; half of the context is the limit of each model.
pub const ATTENTION_SINKS_MAX: i64 = 1 << 20;
/// Prompts in one completion request.
pub const PROMPTS_MAX: usize = 256;
/// Entries of `logit_bias`.
pub const LOGIT_BIAS_MAX: usize = 1024;
/// Alternatives reported for each token.
pub const TOP_LOGPROBS_MAX: i64 = 20;
/// Inputs of one embedding request.
pub const EMBEDDING_INPUTS_MAX: usize = 2048;
/// Bytes of a grammar, a regular expression or a schema.
pub const GRAMMAR_BYTES_MAX: usize = 256 << 10;
/// Sequence breakers of the DRY sampler.
pub const DRY_BREAKERS_MAX: usize = 16;
/// Bytes of one sequence breaker.
pub const DRY_BREAKER_BYTES_MAX: usize = 64;
/// Objects and arrays inside one another in a body. The JSON parser itself stops at 128.
pub const JSON_NESTING_MAX: usize = 100;
/// Tokens drafted a step.
pub const DRAFT_TOKENS_MAX: i64 = 64;
/// Tokens of the n-gram that has to match.
pub const DRAFT_NGRAM_MAX: i64 = 16;
/// Tokens that `max_tokens` and the windows of the penalties may name.
pub const TOKENS_MAX: i64 = i32::MAX as i64;
/// Models that are downloaded at the same time.
pub const PULLS_MAX: usize = 4;
/// Models that a plan counts beside the one that is asked for.
pub const PLAN_BESIDE_MAX: usize = 16;
/// Answers of chats that are being written at the same time.
pub const ANSWERS_OPEN_MAX: usize = 64;
/// Messages of one chat, all branches together.
pub const CHAT_MESSAGES_MAX: usize = 4096;
/// Bytes of a chat's title.
pub const CHAT_TITLE_BYTES_MAX: usize = 512;
/// Bytes of what chats are searched for.
pub const CHAT_SEARCH_BYTES_MAX: usize = 512;
/// Pages that read what changes at the same time.
pub const BUS_READERS_MAX: usize = 64;
/// Changes that are kept for pages that come back.
pub const BUS_CHANGES_KEPT_MAX: usize = 1024;
/// Points in one answer of the history.
pub const TELEMETRY_POINTS_MAX: i64 = 2000;
/// The latest time that the history can be asked for, seconds since 1970: the year 9999.
pub const TELEMETRY_TIME_MAX_S: i64 = 253_402_300_799;
/// Bytes of a note.
pub const NOTE_BYTES_MAX: usize = 500;
/// Bytes of a model's name.
pub const MODEL_NAME_BYTES_MAX: usize = 256;
/// Bytes of what a checkup is to look at: a model's name, or the path of its file.
pub const DOCTOR_MODEL_BYTES_MAX: usize = 4096;
/// Bytes of a request id that is taken over from the client.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// Items in the input of one response.
pub const INPUT_ITEMS_MAX: usize = MESSAGES_MAX;
/// Kept responses that the references of one request name the items of.
pub const REFERENCED_RESPONSES_MAX: usize = 512;
/// Entries of a response's `metadata`; OpenAI takes as many.
pub const METADATA_ENTRIES_MAX: usize = 16;
/// Bytes of a key and of a value of `metadata`.
pub const METADATA_KEY_BYTES_MAX: usize = 64;
/// See [`METADATA_KEY_BYTES_MAX`].
pub const METADATA_VALUE_BYTES_MAX: usize = 512;
/// Responses that are kept to be continued or read again.
pub const RESPONSES_KEPT_MAX: usize = 1024;
/// Bytes of all kept responses with their inputs, as JSON.
pub const RESPONSES_KEPT_BYTES_MAX: usize = 64 << 20;
/// How long a response is kept after it was last used.
pub const RESPONSE_IDLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Items on one page of a response's input.
pub const ITEMS_PAGE_MAX: i64 = 100;
/// Documents of one rerank request.
pub const RERANK_DOCUMENTS_MAX: usize = 1024;
/// Bytes of the query and of each document of a rerank request.
pub const RERANK_TEXT_BYTES_MAX: usize = 64 << 10;
/// Bytes of a request's prompts, and of its answers, that the audit log keeps where it keeps
/// texts.
pub const AUDIT_TEXT_BYTES_MAX: usize = 16 << 10;
/// Rows of the audit log in one answer.
pub const AUDIT_ROWS_MAX: i64 = 10_000;
/// Bytes of the rows of the audit log in one answer.
pub const AUDIT_BYTES_MAX: usize = 8 << 20;
/// Bytes of a given value that an error message repeats.
const QUOTED_BYTES_MAX: usize = 80;

/// Refuses more than `limit` of `unit` in `param`.
pub(crate) fn count(param: &str, given: usize, limit: usize, unit: &str) -> Result<(), ApiError> {
    if given <= limit {
        return Ok(());
    }
    let (given, limit) = (given.to_string(), limit.to_string());
    let facts = [
        ("param", param),
        ("value", &*given),
        ("unit", unit),
        ("limit", &*limit),
    ];
    Err(ApiError::new(ErrorCode::LimitExceeded, &facts))
}

/// A number from `low` to `high`, both included.
pub(crate) fn float(
    param: &str,
    given: Option<f64>,
    low: f64,
    high: f64,
) -> Result<Option<f32>, ApiError> {
    match given {
        None => Ok(None),
        // The range check also refuses NaN and infinities.
        Some(value) if (low..=high).contains(&value) => Ok(Some(value as f32)),
        Some(value) => Err(outside(
            param,
            &value.to_string(),
            &low.to_string(),
            &high.to_string(),
        )),
    }
}

/// A whole number from `low` to `high`, both included.
pub(crate) fn integer(
    param: &str,
    given: Option<i64>,
    low: i64,
    high: i64,
) -> Result<Option<i64>, ApiError> {
    match given {
        Some(value) if !(low..=high).contains(&value) => Err(outside(
            param,
            &value.to_string(),
            &low.to_string(),
            &high.to_string(),
        )),
        given => Ok(given),
    }
}

fn outside(param: &str, value: &str, low: &str, high: &str) -> ApiError {
    ApiError::invalid(param, value, &format!("from {low} to {high}"))
}

/// One of a few words.
pub(crate) fn word<'a>(param: &str, given: &'a str, words: &[&str]) -> Result<&'a str, ApiError> {
    if words.contains(&given) {
        return Ok(given);
    }
    let rule = format!("one of {}", words.join(", "));
    Err(ApiError::invalid(param, &quoted(given), &rule))
}

/// `text` in backticks, cut where it is too long to repeat.
pub(crate) fn quoted(text: &str) -> String {
    if text.len() <= QUOTED_BYTES_MAX {
        return format!("`{text}`");
    }
    let cut = text.floor_char_boundary(QUOTED_BYTES_MAX);
    format!("`{}...` ({} bytes)", &text[..cut], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_numbers_are_out_of_every_range() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(float("temperature", Some(value), 0.0, 2.0).is_err());
        }
        assert_eq!(
            float("temperature", Some(2.0), 0.0, 2.0).unwrap(),
            Some(2.0)
        );
    }

    #[test]
    fn long_values_are_cut_at_a_character() {
        let text = "é".repeat(100);
        assert!(quoted(&text).ends_with("...` (200 bytes)"));
    }
}
