//! What went wrong at another engine, in our words.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use proto::{FailureKind, JobFailure, UpstreamFault};
use stdx::Secret;

use crate::http;

/// Keys and headers that an engine was sent, and may repeat in what it says of a failure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets(Arc<[Secret]>);

impl Secrets {
    pub(crate) fn new(secrets: impl Iterator<Item = Secret>) -> Self {
        Self(secrets.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A failure that tells none of them.
    pub(crate) fn hide(&self, mut failure: JobFailure) -> JobFailure {
        for secret in self.0.iter().map(Secret::expose) {
            // A short one would be found in any word, and can be guessed anyway.
            if secret.len() < SECRET_BYTES_MIN {
                continue;
            }
            if failure.message.contains(secret) {
                failure.message = failure.message.replace(secret, "****");
            }
            // A message that was cut may end inside of it.
            let beginnings = (SECRET_BYTES_MIN..secret.len()).rev();
            let mut beginnings = beginnings.filter_map(|end| secret.get(..end));
            let cut = beginnings.find(|beginning| failure.message.ends_with(beginning));
            if let Some(beginning) = cut {
                let end = failure.message.len() - beginning.len();
                failure.message.truncate(end);
                failure.message.push_str("****");
            }
        }
        failure
    }
}

/// Shorter values of headers are no secrets: `1`, `true`.
const SECRET_BYTES_MIN: usize = 6;
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

/// The same of an exchange with an engine that is near.
pub(crate) fn of_near(provider: &str, error: &http::Error) -> JobFailure {
    let (fault, what, detail) = match error {
        http::Error::Unreachable(detail) => {
            (UpstreamFault::Unreachable, "cannot be reached", detail)
        }
        http::Error::Broken(detail) => (UpstreamFault::CutOff, "broke the connection off", detail),
        http::Error::Malformed(detail) => {
            (UpstreamFault::Malformed, "sent what cannot be read", detail)
        }
    };
    failure(fault, format!("`{provider}` {what}: {detail}."))
}

/// The innermost cause says most; the outer ones repeat the address, which may hold a key.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_repeats_is_hidden() {
        let secrets = ["sk-123456", "1"].map(|text| Secret::new(text.to_owned()));
        let secrets = Secrets::new(secrets.into_iter());
        let told = of_status("p", 400, "bad with Bearer sk-123456 at 1", None);
        let hidden = secrets.hide(told);
        let said = "`p` answered with status 400: bad with Bearer **** at 1";
        assert_eq!(hidden.message, said);
        let cut = failure(UpstreamFault::Broken, "key: sk-12345".into());
        assert_eq!(secrets.hide(cut).message, "key: ****");
    }
}
