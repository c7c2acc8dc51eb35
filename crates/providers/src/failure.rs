//! What went wrong at another engine, in our words.

use std::error::Error;
use std::time::Duration;

use proto::{FailureKind, JobFailure, UpstreamFault};

/// Characters of another engine's message that are passed on.
const MESSAGE_CHARS_MAX: usize = 600;

/// A failure without a status.
pub(crate) fn failure(fault: UpstreamFault, message: String) -> JobFailure {
    JobFailure {
        kind: FailureKind::Upstream {
            fault,
            status: None,
            retry_after_ms: None,
        },
        message,
        param: None,
    }
}

/// What a status other than 2xx means. `said` is the engine's own message.
pub(crate) fn of_status(
    provider: &str,
    status: u16,
    said: &str,
    retry_after: Option<Duration>,
) -> JobFailure {
    let fault = match status {
        401..=405 => UpstreamFault::Denied,
        408 | 504 => UpstreamFault::TimedOut,
        429 => UpstreamFault::RateLimited,
        400..=499 => UpstreamFault::Rejected,
        _ => UpstreamFault::Broken,
    };
    let retry_after = retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    // A refusal may repeat our key.
    let said = match status {
        401..=403 => "",
        _ => said.trim(),
    };
    let said: String = said.chars().take(MESSAGE_CHARS_MAX).collect();
    let message = match said.is_empty() {
        true => format!("`{provider}` answered with status {status}."),
        false => format!("`{provider}` answered with status {status}: {said}"),
    };
    JobFailure {
        kind: FailureKind::Upstream {
            fault,
            status: Some(status),
            retry_after_ms: retry_after,
        },
        message,
        param: None,
    }
}

/// What a failed exchange means.
pub(crate) fn of_error(provider: &str, error: &reqwest::Error) -> JobFailure {
    let (fault, what) = if error.is_connect() {
        (UpstreamFault::Unreachable, "cannot be reached")
    } else if error.is_timeout() {
        (UpstreamFault::TimedOut, "does not answer")
    } else if error.is_builder() {
        (UpstreamFault::Malformed, "cannot be asked")
    } else {
        (UpstreamFault::CutOff, "broke the connection off")
    };
    failure(fault, format!("`{provider}` {what}: {}.", innermost(error)))
}

/// The innermost cause says most; the outer ones repeat the address, which may hold a key.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
