//! When to try again, and for how long.

use reqwest::Url;

use super::http::{self, Failure, Request};
use super::{Context, PullError};
use crate::source::shown;

/// Counts the failures of one address.
pub(super) struct Retry<'a> {
    context: &'a Context<'a>,
    url: &'a Url,
    failures: u32,
}

impl<'a> Retry<'a> {
    pub(super) const fn new(context: &'a Context<'a>, url: &'a Url) -> Self {
        Self {
            context,
            url,
            failures: 0,
        }
    }

    /// Forgets earlier failures: the address gives bytes after all.
    pub(super) const fn made_progress(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt, or gives the error that ends them.
    pub(super) async fn pause(&mut self, failure: Failure) -> Result<(), PullError> {
        let options = &self.context.puller.options;
        self.failures += 1;
        let (asked, give_up) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::SlowDown(wait) => (
                wait,
                PullError::RateLimited {
                    url: shown(self.url),
                    retry_after: wait,
                },
            ),
            Failure::Transient(message, wait) => (
                wait,
                PullError::Network {
                    url: shown(self.url),
                    attempts: self.failures,
                    message,
                },
            ),
        };
        if self.failures >= options.attempts_max || asked > Some(options.wait_max) {
            return Err(give_up);
        }
        let doubled = options
            .backoff
            .saturating_mul(1 << (self.failures - 1).min(16));
        tokio::time::sleep(asked.unwrap_or(doubled).min(options.wait_max)).await;
        Ok(())
    }
}

/// A small document and the content type it came with.
pub(super) struct Document {
    pub bytes: Vec<u8>,
    pub content_type: String,
}

/// Gets a small document, with retries.
pub(super) async fn document(
    context: &Context<'_>,
    request: &Request,
) -> Result<Document, PullError> {
    let mut retry = Retry::new(context, &request.url);
    loop {
        match attempt(context, request).await {
            Ok(document) => return Ok(document),
            Err(failure) => retry.pause(failure).await?,
        }
    }
}

async fn attempt(context: &Context<'_>, request: &Request) -> Result<Document, Failure> {
    let response = http::get(&context.puller.client, request).await?;
    http::check_status(&request.url, &response)?;
    let content_type = http::text_of(response.headers(), reqwest::header::CONTENT_TYPE)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let bytes = http::document(&request.url, response).await?;
    Ok(Document {
        bytes,
        content_type,
    })
}
