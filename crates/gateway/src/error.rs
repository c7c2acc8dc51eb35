//! The one table of everything that can go wrong at the HTTP edge.
//!
//! A handler returns an [`ApiError`], which names a row of the table by its
//! [`ErrorCode`]; status, OpenAI type, whether a client should try again and the
//! hint all come from that row. The documentation page is generated from
//! [`error_table`].

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use proto::{FailureKind, JobFailure, LoadFailure, LoadFailureKind, UpstreamFault};
use serde_json::{Value, json};

/// Who has to change something before the request can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request is at fault.
    Caller,
    /// The configuration or the model is at fault.
    Operator,
    /// The machine is busy or the program failed.
    Server,
    /// Another engine that was asked.
    Upstream,
}

impl Fault {
    /// One lower-case word, for documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Operator => "operator",
            Self::Server => "server",
            Self::Upstream => "upstream",
        }
    }
}

/// One row of the error table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorRow {
    /// The row's key.
    pub id: ErrorCode,
    /// `error.code` on the wire; stable.
    pub code: &'static str,
    /// HTTP status, where the response has not begun yet.
    pub status: u16,
    /// `error.type` on the wire.
    pub kind: &'static str,
    /// The same request may succeed later without a change.
    pub retryable: bool,
    /// Seconds for `Retry-After`.
    pub retry_after_s: Option<u32>,
    /// Who has to act.
    pub fault: Fault,
    /// The message, with `{names}` for the facts of the case.
    pub template: &'static str,
    /// What to do next.
    pub hint: &'static str,
}

/// Declares the code enum and the table together, so that neither can lack a row.
macro_rules! error_rows {
    ($($id:ident, $code:literal, $status:literal, $kind:literal, $retry:expr, $fault:ident,
       $template:literal, $hint:literal;)*) => {
        /// Key of a row in the error table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "each variant is described by its row")]
        pub enum ErrorCode { $($id),* }

        const TABLE: &[ErrorRow] = &[$(ErrorRow {
            id: ErrorCode::$id,
            code: $code,
            status: $status,
            kind: $kind,
            retryable: $retry.0,
            retry_after_s: $retry.1,
            fault: Fault::$fault,
            template: $template,
            hint: $hint,
        }),*];
    };
}

/// The fact that says how long to wait, where that is known better than the row has it.
pub(crate) const RETRY_AFTER_MS: &str = "retry_after_ms";

/// The request will fail again until something is changed.
const NEVER: (bool, Option<u32>) = (false, None);
/// As `NEVER`, but an operator may repair it; do not ask more often than this.
const LATER: (bool, Option<u32>) = (false, Some(30));
/// Worth trying again at once.
const AGAIN: (bool, Option<u32>) = (true, None);
/// Worth trying again after a second.
const SOON: (bool, Option<u32>) = (true, Some(1));

error_rows! {
    InvalidJson, "invalid_json", 400, "invalid_request_error", NEVER, Caller,
        "The body is not JSON: {detail}.",
        "Send one JSON object, encoded as UTF-8.";
    InvalidUtf8, "invalid_utf8", 400, "invalid_request_error", NEVER, Caller,
        "The body is not UTF-8: byte {offset} does not belong there.",
        "Encode the body as UTF-8.";
    InvalidType, "invalid_type", 400, "invalid_request_error", NEVER, Caller,
        "{param} has the wrong type: {detail}.",
        "Compare the field with /openapi.json.";
    InvalidValue, "invalid_value", 400, "invalid_request_error", NEVER, Caller,
        "{param} is {value}; it must be {rule}.",
        "Change the named field.";
    MissingField, "missing_field", 400, "invalid_request_error", NEVER, Caller,
        "{param} is missing; it must be {rule}.",
        "Add the named field.";
    UnknownField, "unknown_field", 400, "invalid_request_error", NEVER, Caller,
        "There is no field {value}; `{meant}` is one.",
        "Correct the name. Other fields that are not known here are ignored.";
    LimitExceeded, "limit_exceeded", 400, "invalid_request_error", NEVER, Caller,
        "{param} has {value} {unit}; the limit is {limit}.",
        "Send less in the named field.";
    Conflict, "conflicting_fields", 400, "invalid_request_error", NEVER, Caller,
        "{param} cannot be combined with {other}: {detail}.",
        "Leave one of the two out.";
    NotSupported, "not_supported", 400, "invalid_request_error", NEVER, Caller,
        "{param} is {value}, which is not supported: {detail}.",
        "Leave the named field out.";
    ContextExceeded, "context_length_exceeded", 400, "exceed_context_size_error", NEVER, Caller,
        "The prompt has {prompt_tokens} tokens and exceeds the available context size: this model's maximum context length is {context} tokens.",
        "Shorten the prompt, or load the model with a larger context.";
    ConstraintUnsupported, "constraint_unsupported", 400, "invalid_request_error", NEVER, Caller,
        "{message} (in the way: {keyword})",
        "Simplify the schema or grammar at the named keyword.";
    JobInvalid, "invalid_request", 400, "invalid_request_error", NEVER, Caller,
        "{message}",
        "Change the request as the message says.";
    TemplateFailed, "template_failed", 400, "invalid_request_error", NEVER, Caller,
        "{message}",
        "Check the order of roles, or load the model with another chat template.";
    CapabilityMissing, "capability_missing", 400, "invalid_request_error", NEVER, Caller,
        "{message}",
        "Pick a model whose entry in /v1/models lists the capability.";
    PreviousResponseNotFound, "previous_response_not_found", 400, "invalid_request_error", NEVER, Caller,
        "Previous response with id '{value}' not found.",
        "Send the whole conversation as input: responses are kept, unless `store` is false, for the key that made them, until they are deleted, make room for newer ones, are not used for a day or, with `responses = \"memory\"`, the endpoint stops.";
    Unauthorized, "invalid_api_key", 401, "authentication_error", NEVER, Caller,
        "{detail}",
        "Send `Authorization: Bearer KEY` or `x-api-key: KEY`.";
    BudgetExhausted, "budget_exhausted", 402, "billing_error", NEVER, Caller,
        "{message}",
        "Wait until the day or the month is over, use what costs less, or ask the operator for more.";
    Forbidden, "forbidden", 403, "permission_error", NEVER, Caller,
        "This key lacks the scope `{scope}`; it has: {has}.",
        "Use another key, or have one made with that scope (`sextant key add --scope`).";
    ModelForbidden, "model_forbidden", 403, "permission_error", NEVER, Caller,
        "The request's key may not use {value}: {reasons}.",
        "Ask for a model that the key may use, or have one made with other `--models`.";
    HostRefused, "host_not_allowed", 403, "permission_error", NEVER, Operator,
        "The host name `{value}` is not one this endpoint answers to.",
        "Use localhost or the address, or add the name to the allowed hosts.";
    OriginRefused, "origin_not_allowed", 403, "permission_error", NEVER, Operator,
        "Pages from `{value}` may not call this endpoint.",
        "Add the origin to the allowed origins.";
    ModelNotFound, "model_not_found", 404, "not_found_error", NEVER, Caller,
        "There is no model `{value}` here. There are: {loaded}.",
        "Use a loaded name, leave `model` out, or load the model first.";
    RouteNotFound, "route_not_found", 404, "not_found_error", NEVER, Caller,
        "There is no {method} {path} here.",
        "The routes are listed in /openapi.json.";
    ResponseNotFound, "response_not_found", 404, "not_found_error", NEVER, Caller,
        "Response with id '{value}' not found.",
        "Responses are kept in memory, unless `store` is false, until they are deleted, make room for newer ones or the endpoint stops.";
    ChatNotFound, "chat_not_found", 404, "not_found_error", NEVER, Caller,
        "There is no {what} `{value}` here.",
        "Chats are seen only with the key that began them; it may have been deleted.";
    NoteNotFound, "note_not_found", 404, "not_found_error", NEVER, Caller,
        "There is no note {value} here.",
        "It may have been deleted; GET /api/telemetry lists notes with their `id`.";
    MethodNotAllowed, "method_not_allowed", 405, "invalid_request_error", NEVER, Caller,
        "{path} does not take {method}.",
        "See the Allow header.";
    BodyTimeout, "request_timeout", 408, "invalid_request_error", AGAIN, Caller,
        "The body did not arrive within {limit} seconds.",
        "Send the body without pauses.";
    BodyTooLarge, "body_too_large", 413, "invalid_request_error", NEVER, Caller,
        "The body is over the limit of {limit} bytes.",
        "Send a smaller body, or raise the body limit in the configuration.";
    EncodingUnsupported, "encoding_unsupported", 415, "invalid_request_error", NEVER, Caller,
        "The body is encoded as `{value}`; only plain bodies are read.",
        "Send the body uncompressed.";
    RateLimited, "rate_limited", 429, "rate_limit_error", SOON, Caller,
        "{message}",
        "Wait as long as Retry-After says.";
    TooManyRequests, "too_many_requests", 429, "rate_limit_error", SOON, Server,
        "{limit} requests are running; that is the limit.",
        "Wait for one to end, or raise the request limit in the configuration.";
    QueueFull, "queue_full", 429, "rate_limit_error", SOON, Server,
        "{limit} jobs are waiting for this model; that is the limit.",
        "Wait, or load the model with more slots or a longer queue.";
    Cancelled, "cancelled", 499, "cancelled_error", NEVER, Caller,
        "{message}",
        "The request was cancelled; send it again if that was not meant.";
    ConfigurationInvalid, "configuration_invalid", 422, "invalid_request_error", NEVER, Operator,
        "The configuration cannot be used, the one before stays in force: {reason}",
        "Correct the line that the message names and reload again.";
    Internal, "internal_error", 500, "server_error", AGAIN, Server,
        "{message}",
        "This is a defect; the log has more under the request id.";
    WorkerLost, "worker_lost", 502, "server_error", SOON, Server,
        "{message}",
        "The model is started again by itself; /admin/models shows the cause.";
    UpstreamUnreachable, "upstream_unreachable", 502, "server_error", SOON, Upstream,
        "{message}",
        "Start that engine, or correct its address in the configuration.";
    UpstreamTimeout, "upstream_timeout", 504, "server_error", AGAIN, Upstream,
        "{message}",
        "The engine is overloaded or hangs; its time limits are in the configuration.";
    UpstreamRateLimited, "upstream_rate_limited", 429, "rate_limit_error", SOON, Upstream,
        "{message}",
        "Wait as long as Retry-After says, or add another provider for this model.";
    UpstreamDenied, "upstream_denied", 502, "server_error", LATER, Operator,
        "{message}",
        "Correct the provider's key, or the model's name, in the configuration.";
    UpstreamRejected, "upstream_rejected", 400, "invalid_request_error", NEVER, Caller,
        "{message}",
        "Change the request as the engine says.";
    UpstreamFailed, "upstream_failed", 502, "server_error", AGAIN, Upstream,
        "{message}",
        "The log of that engine has more.";
    UpstreamUnavailable, "upstream_unavailable", 503, "unavailable_error", SOON, Upstream,
        "{message}",
        "That engine is loading its model or is overloaded; ask again.";
    NoProvider, "no_provider", 503, "unavailable_error", SOON, Operator,
        "No provider can answer this now: {reasons}.",
        "POST /v1/route with the same body explains the decision.";
    RoutingCircle, "routing_circle", 508, "server_error", NEVER, Operator,
        "This request was sent on {value} times from one endpoint to another; the limit is {limit}.",
        "Two endpoints name each other as providers; take one of the entries out.";
    PrivacyRefused, "privacy_refused", 403, "permission_error", NEVER, Caller,
        "This request may not leave for who could answer it: {reasons}.",
        "Name a nearer provider or model, or allow a wider `x-routing-privacy`.";
    Draining, "draining", 503, "unavailable_error", SOON, Server,
        "{message}",
        "The model is being unloaded or the endpoint is stopping.";
    ModelUnavailable, "model_unavailable", 503, "unavailable_error", LATER, Operator,
        "{message}",
        "/admin/models shows why; load the model again.";
    NoModel, "no_model_loaded", 503, "unavailable_error", LATER, Operator,
        "No model is loaded.",
        "Load one with `sextant load` or POST /admin/models/load.";
    ModelFileMissing, "model_file_not_found", 404, "not_found_error", NEVER, Operator,
        "{message}",
        "Check the path of the model file.";
    ModelFileInvalid, "model_file_invalid", 422, "invalid_request_error", NEVER, Operator,
        "{message}",
        "Fetch the file again, or pick a GGUF file this version can load.";
    ModelSettingInvalid, "model_setting_invalid", 400, "invalid_request_error", NEVER, Operator,
        "{message}",
        "Change the named setting.";
    ModelResources, "model_resources_missing", 503, "unavailable_error", LATER, Operator,
        "{message}",
        "Free memory, or load with a smaller context or another model.";
    ModelLoadCrashed, "model_load_crashed", 500, "server_error", NEVER, Operator,
        "{message}",
        "The log has the last words of the worker.";
    ModelUnknown, "model_unknown", 404, "not_found_error", NEVER, Caller,
        "{message}",
        "Check the spelling; `sextant ls` lists the models on the server's machine.";
    ModelNotOurs, "model_not_ours", 403, "permission_error", NEVER, Caller,
        "`{value}` belongs to {owner}, and the files of other programs are never deleted.",
        "Remove it with the program it belongs to.";
    TooManyPulls, "too_many_pulls", 429, "rate_limit_error", SOON, Server,
        "{limit} models are being pulled; that is the limit.",
        "Wait for one of them to arrive.";
    LibraryFailed, "library_failed", 502, "server_error", AGAIN, Server,
        "{message}",
        "Change what the message names and ask again; a download continues where it stopped.";
    NoDatabase, "no_database", 501, "not_supported_error", NEVER, Operator,
        "{message}",
        "Start the endpoint with a `data_dir` that it can write to.";
    NoHistory, "no_history", 501, "not_supported_error", NEVER, Operator,
        "{message}",
        "Start the endpoint with `history = true` and a `data_dir` that it can write to.";
    DatabaseFailed, "database_failed", 503, "unavailable_error", SOON, Server,
        "{message}",
        "Do what the message says; the log has more.";
    NoDoctor, "no_doctor", 501, "not_supported_error", NEVER, Operator,
        "{message}",
        "Run `sextant doctor` on the server's machine.";
    NoLibrary, "no_library", 501, "not_supported_error", NEVER, Operator,
        "{message}",
        "Pull and delete models on the server's machine.";
}

/// All rows, in order of status; the source of the error documentation.
#[must_use]
pub fn error_table() -> &'static [ErrorRow] {
    TABLE
}

impl ErrorCode {
    /// The row of this code.
    #[must_use]
    pub const fn row(self) -> &'static ErrorRow {
        // Variants and rows come from the same list, in the same order.
        &TABLE[self as usize]
    }
}

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    param: Option<String>,
    extra: Vec<(String, Value)>,
}

impl ApiError {
    /// Fills the row's template. A `param` among `facts` also becomes `error.param`.
    #[must_use]
    pub fn new(code: ErrorCode, facts: &[(&str, &str)]) -> Self {
        let param = facts
            .iter()
            .find(|(name, _)| *name == "param")
            .map(|(_, value)| (*value).to_owned());
        Self {
            code,
            message: fill(code.row().template, facts),
            param,
            extra: Vec::new(),
        }
    }

    /// An error whose row says only `{message}`.
    #[must_use]
    pub fn message(code: ErrorCode, message: &str) -> Self {
        Self::new(code, &[("message", message)])
    }

    /// `param` is `value` and must be `rule`.
    #[must_use]
    pub fn invalid(param: &str, value: &str, rule: &str) -> Self {
        let facts = [("param", param), ("value", value), ("rule", rule)];
        Self::new(ErrorCode::InvalidValue, &facts)
    }

    /// `param` is missing and must be `rule`.
    #[must_use]
    pub fn missing(param: &str, rule: &str) -> Self {
        Self::new(ErrorCode::MissingField, &[("param", param), ("rule", rule)])
    }

    /// `param` is `value`, which this endpoint does not do.
    #[must_use]
    pub fn not_supported(param: &str, value: &str, detail: &str) -> Self {
        let facts = [("param", param), ("value", value), ("detail", detail)];
        Self::new(ErrorCode::NotSupported, &facts)
    }

    /// `param` and `other` exclude each other.
    #[must_use]
    pub fn conflict(param: &str, other: &str, detail: &str) -> Self {
        let facts = [("param", param), ("other", other), ("detail", detail)];
        Self::new(ErrorCode::Conflict, &facts)
    }

    /// Names the field at fault.
    #[must_use]
    pub fn with_param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// Adds a machine-readable fact beside the message.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.push((name.to_owned(), value.into()));
        self
    }

    /// A fact given with [`Self::with`].
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&Value> {
        let mut facts = self.extra.iter();
        facts.find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The row this error belongs to.
    #[must_use]
    pub const fn row(&self) -> &'static ErrorRow {
        self.code.row()
    }

    /// What another engine asked for goes before what the row says.
    fn retry_after_s(&self) -> Option<u64> {
        let asked = self.extra.iter().find(|(name, _)| name == RETRY_AFTER_MS);
        let asked = asked.and_then(|(_, wait)| wait.as_u64());
        let asked = asked.map(|wait_ms| wait_ms.div_ceil(1000));
        asked.or(self.row().retry_after_s.map(u64::from))
    }

    /// What went wrong, in a sentence or two.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.message
    }

    /// The field at fault.
    #[must_use]
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// The `{"error": ...}` object in OpenAI's shape.
    #[must_use]
    pub fn body(&self) -> Value {
        let row = self.row();
        let mut error = json!({
            "message": self.message,
            "type": row.kind,
            "param": self.param,
            "code": row.code,
            "hint": row.hint,
        });
        if let Some(fields) = error.as_object_mut() {
            fields.extend(self.extra.iter().cloned());
        }
        json!({ "error": error })
    }
}

/// Replaces `{name}` by its fact in one pass, so that braces inside a fact stay as they are.
fn fill(template: &str, facts: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            out.push('{');
            rest = after;
            continue;
        };
        match facts.iter().find(|(key, _)| *key == name) {
            Some((_, value)) => out.push_str(value),
            None => out.push_str(name),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// In OpenAI's shape. The error itself goes along as an extension, so that the edge can
/// say it in the dialect of the request.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let row = self.row();
        let status = StatusCode::from_u16(row.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if !row.retryable {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if row.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<JobFailure> for ApiError {
    fn from(failure: JobFailure) -> Self {
        let mut error = from_kind(&failure.kind, &failure.message);
        if failure.param.is_some() {
            error.param = failure.param;
        }
        error
    }
}

fn from_kind(kind: &FailureKind, message: &str) -> ApiError {
    let plain = |code| ApiError::message(code, message);
    match kind {
        FailureKind::ContextExceeded {
            prompt_tokens,
            context,
        } => {
            let (tokens, limit) = (prompt_tokens.to_string(), context.to_string());
            let facts = [("prompt_tokens", &*tokens), ("context", &*limit)];
            ApiError::new(ErrorCode::ContextExceeded, &facts)
                .with("n_prompt_tokens", *prompt_tokens)
                .with("n_ctx", *context)
        }
        FailureKind::InvalidRequest => plain(ErrorCode::JobInvalid),
        FailureKind::ConstraintUnsupported { keyword } => {
            let facts = [("message", message), ("keyword", keyword)];
            ApiError::new(ErrorCode::ConstraintUnsupported, &facts)
                .with("keyword", keyword.as_str())
        }
        FailureKind::TemplateFailed => plain(ErrorCode::TemplateFailed),
        FailureKind::Unsupported => plain(ErrorCode::CapabilityMissing),
        FailureKind::QueueFull { limit } => {
            ApiError::new(ErrorCode::QueueFull, &[("limit", &limit.to_string())])
        }
        FailureKind::Draining => plain(ErrorCode::Draining),
        FailureKind::Cancelled => plain(ErrorCode::Cancelled),
        FailureKind::WorkerLost { cause } => plain(ErrorCode::WorkerLost).with("cause", &**cause),
        FailureKind::ModelUnavailable => plain(ErrorCode::ModelUnavailable),
        FailureKind::Upstream {
            fault,
            status,
            retry_after_ms,
        } => {
            let error = plain(upstream_code(*fault, *status));
            let error = match status {
                Some(status) => error.with("upstream_status", *status),
                None => error,
            };
            match retry_after_ms {
                Some(wait) => error.with(RETRY_AFTER_MS, *wait),
                None => error,
            }
        }
        FailureKind::NoProvider => ApiError::new(ErrorCode::NoProvider, &[("reasons", message)]),
        FailureKind::Internal => plain(ErrorCode::Internal),
    }
}

fn upstream_code(fault: UpstreamFault, status: Option<u16>) -> ErrorCode {
    match fault {
        UpstreamFault::Broken if status == Some(503) => ErrorCode::UpstreamUnavailable,
        UpstreamFault::Unreachable => ErrorCode::UpstreamUnreachable,
        UpstreamFault::TimedOut => ErrorCode::UpstreamTimeout,
        UpstreamFault::RateLimited => ErrorCode::UpstreamRateLimited,
        UpstreamFault::Denied => ErrorCode::UpstreamDenied,
        UpstreamFault::Rejected => ErrorCode::UpstreamRejected,
        UpstreamFault::Broken | UpstreamFault::Malformed | UpstreamFault::CutOff => {
            ErrorCode::UpstreamFailed
        }
    }
}

impl From<LoadFailure> for ApiError {
    fn from(failure: LoadFailure) -> Self {
        let code = match failure.kind {
            LoadFailureKind::NotFound => ErrorCode::ModelFileMissing,
            LoadFailureKind::Artifact => ErrorCode::ModelFileInvalid,
            LoadFailureKind::Setting => ErrorCode::ModelSettingInvalid,
            LoadFailureKind::Resources => ErrorCode::ModelResources,
            LoadFailureKind::Crashed => ErrorCode::ModelLoadCrashed,
        };
        Self::message(code, &failure.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_points_at_its_own_row() {
        for row in error_table() {
            assert_eq!(row.id.row(), row);
        }
    }

    #[test]
    fn the_table_is_as_published() {
        let mut page = String::new();
        for row in error_table() {
            page += &format!(
                "{} {} {} retry={} after={:?} fault={}\n  {}\n  {}\n",
                row.status,
                row.code,
                row.kind,
                row.retryable,
                row.retry_after_s,
                row.fault.name(),
                row.template,
                row.hint
            );
        }
        insta::assert_snapshot!(page);
    }

    #[test]
    fn codes_are_unique_and_429_and_503_say_when() {
        let mut codes: Vec<_> = error_table().iter().map(|row| row.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), error_table().len());
        for row in error_table() {
            assert_eq!(
                matches!(row.status, 429 | 503),
                row.retry_after_s.is_some() && row.status != 502,
                "{}",
                row.code
            );
        }
    }

    #[test]
    fn facts_with_braces_are_not_filled_again() {
        let error = ApiError::invalid("stop", "{rule}", "short");
        assert_eq!(error.message, "stop is {rule}; it must be short.");
    }
}
