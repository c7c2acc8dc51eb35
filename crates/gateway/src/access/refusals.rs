//! Refusals of keys as errors.

use std::time::Duration;

use router::{Exclusion, Target};
use store::{Scope, Scopes};

use super::quota::Refusal;
use crate::error::{ApiError, ErrorCode, RETRY_AFTER_MS};

/// The key may not do this at all.
pub(super) fn forbidden(scope: Scope, has: Scopes) -> ApiError {
    let has = has.to_string();
    let has = match has.is_empty() {
        true => "none",
        false => &has,
    };
    let facts = [("scope", scope.word()), ("has", has)];
    ApiError::new(ErrorCode::Forbidden, &facts)
}

/// The key may not use this model.
pub(super) fn barred(key: &str, target: &Target) -> ApiError {
    let reason = Exclusion::NotAllowed {
        key: key.to_owned(),
    };
    let reasons = format!("`{}`: {reason}", target.provider);
    let model = format!("`{}`", target.model);
    let facts = [("value", &*model), ("reasons", &*reasons)];
    ApiError::new(ErrorCode::ModelForbidden, &facts)
}

/// The key has used up one of its limits.
pub(super) fn refused(key: &str, refusal: Refusal) -> ApiError {
    let (code, message, wait) = match refusal {
        Refusal::RequestsPerMinute { limit, wait } => (
            ErrorCode::RateLimited,
            format!("The key `{key}` may send {limit} requests a minute, and has"),
            Some(wait),
        ),
        Refusal::Concurrency { limit } => (
            ErrorCode::RateLimited,
            format!("The key `{key}` may have {limit} requests at the same time, and has"),
            None,
        ),
        Refusal::TokensPerMinute { limit, asked, wait } => (
            ErrorCode::RateLimited,
            format!(
                "The key `{key}` may use {limit} tokens a minute, and this request may take \
                 {asked}, which are not left"
            ),
            Some(wait),
        ),
        Refusal::TokensPerDay {
            limit,
            asked,
            left,
            wait,
        } => (
            ErrorCode::BudgetExhausted,
            format!(
                "The key `{key}` may use {limit} tokens a day; {left} are left until midnight \
                 UTC, and this request may take {asked}"
            ),
            Some(wait),
        ),
        Refusal::CostPerMonth { limit, left, wait } => (
            ErrorCode::BudgetExhausted,
            format!(
                "The key `{key}` may spend {limit} a month; {left} is left, and this request \
                 may cost more"
            ),
            Some(wait),
        ),
    };
    let error = ApiError::message(code, &(message + "."));
    match wait {
        Some(wait) => error.with(RETRY_AFTER_MS, milliseconds(wait)),
        None => error,
    }
}

fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
