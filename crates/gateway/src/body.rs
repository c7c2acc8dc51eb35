//! Reading a request body: size, encoding, JSON, shape, each with its own error.

use std::pin::pin;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use serde::de::DeserializeOwned;

use crate::AppState;
use crate::error::{ApiError, ErrorCode};
use crate::limits::{self, JSON_NESTING_MAX};
use crate::names;

/// A whole body within the limits. The content type does not matter.
#[derive(Debug)]
pub(crate) struct RawBody(pub(crate) Bytes);

impl FromRequest<AppState> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let config = state.config();
        check_headers(request.headers(), config.body_bytes_max)?;
        let body = request.into_body();
        let mut read = pin!(read(body, config.body_bytes_max));
        // A short body came with its head, and needs no timer.
        if let Some(bytes) = read.as_mut().now_or_never() {
            return Ok(Self(bytes?));
        }
        match tokio::time::timeout(config.body_timeout, read).await {
            Ok(bytes) => Ok(Self(bytes?)),
            Err(_) => Err(too_slow(config.body_timeout)),
        }
    }
}

fn check_headers(headers: &HeaderMap, limit: usize) -> Result<(), ApiError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let value = String::from_utf8_lossy(encoding.as_bytes());
        return Err(ApiError::new(
            ErrorCode::EncodingUnsupported,
            &[("value", &value)],
        ));
    }
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match announced {
        Some(length) if length > limit as u64 => Err(too_large(limit)),
        _ => Ok(()),
    }
}

async fn read(body: axum::body::Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            let detail = format!("it broke off ({error})");
            ApiError::new(ErrorCode::InvalidJson, &[("detail", &detail)])
        })?;
        if whole.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

fn too_large(limit: usize) -> ApiError {
    let limit = limit.to_string();
    ApiError::new(ErrorCode::BodyTooLarge, &[("limit", &limit)])
}

fn too_slow(limit: Duration) -> ApiError {
    let limit = limit.as_secs().to_string();
    ApiError::new(ErrorCode::BodyTimeout, &[("limit", &limit)])
}

/// Reads `bytes` as a `T`. A syntax error names line and column, a wrong type
/// names the field, and so does a field that is almost one of `T`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    parse_with_warnings(bytes).map(|(value, _)| value)
}

/// As [`parse`], with warnings about fields that are read elsewhere and not here.
pub(crate) fn parse_with_warnings<T: DeserializeOwned>(
    bytes: &[u8],
) -> Result<(T, Vec<String>), ApiError> {
    parse_with(bytes, &names::ELSEWHERE)
}

/// As [`parse_with_warnings`], for a dialect in which `elsewhere` has other counterparts.
pub(crate) fn parse_with<T: DeserializeOwned>(
    bytes: &[u8],
    elsewhere: &[(&str, &str)],
) -> Result<(T, Vec<String>), ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to().to_string();
        ApiError::new(ErrorCode::InvalidUtf8, &[("offset", &offset)])
    })?;
    check_nesting(bytes)?;
    if !text.trim_start().starts_with('{') {
        return Err(not_an_object(text));
    }
    let read = names::read::<T>(text).map_err(|error| explained::<T>(text, &error))?;
    // A second look at the text, which few requests need.
    let warnings = match read.has_strays {
        true => names::check::<T>(text, elsewhere)?,
        false => Vec::new(),
    };
    Ok((read.value, warnings))
}

/// Says which field is at fault. Keeping the path to each field takes time, so it is done
/// only for what has failed.
fn explained<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> ApiError {
    let mut reader = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(located) if located.inner().is_data() => {
            wrong_type(&located.path().to_string(), located.inner())
        }
        _ => syntax(error),
    }
}

fn not_an_object(text: &str) -> ApiError {
    match serde_json::from_str::<serde_json::Value>(text) {
        Err(error) => syntax(&error),
        Ok(_) => {
            let facts = [("detail", "it is JSON, but no object")];
            ApiError::new(ErrorCode::InvalidJson, &facts)
        }
    }
}

fn syntax(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorCode::InvalidJson, &[("detail", &error.to_string())])
        .with("line", error.line())
        .with("column", error.column())
}

fn wrong_type(path: &str, error: &serde_json::Error) -> ApiError {
    let detail = error.to_string();
    let param = match path {
        "." => "body",
        path => path,
    };
    let facts = [("param", param), ("detail", &*detail)];
    ApiError::new(ErrorCode::InvalidType, &facts)
}

/// Refuses what is nested too deeply, before anything recurses.
fn check_nesting(bytes: &[u8]) -> Result<(), ApiError> {
    // Nothing is deeper than it has brackets, and most requests have few of them.
    let opening = |byte: &&u8| matches!(byte, b'{' | b'[');
    if bytes.iter().filter(opening).count() <= JSON_NESTING_MAX {
        return Ok(());
    }
    let deepest = nesting(bytes);
    limits::count("body", deepest, JSON_NESTING_MAX, "levels of nesting")
}

/// Levels of brackets outside strings.
fn nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_do_not_count() {
        let text = format!(r#"{{"a": "\"{}"}}"#, "[".repeat(500));
        assert!(check_nesting(text.as_bytes()).is_ok());
        let deep = "[".repeat(JSON_NESTING_MAX + 1);
        assert!(check_nesting(deep.as_bytes()).is_err());
    }
}
