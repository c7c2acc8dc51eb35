//! What happens to every request before and after its handler: request id, host
//! and origin checks, CORS, key, request limit, panic guard, counting.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use store::Scope;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use crate::AppState;
use crate::access::{Need, Visit, VisitEnd, need};
use crate::aside::{aside, is_large};
use crate::chats::Outlives;
use crate::error::{ApiError, ErrorCode};
use crate::holding::Holding;
use crate::limits::REQUEST_ID_BYTES_MAX;
use crate::linger::Lingering;
use crate::wire::Dialect;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Routes that monitors poll: they answer even when the request limit is reached.
pub(crate) const POLLED: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Origins of desktop applications, which are no web pages.
const APP_SCHEMES: [&str; 4] = ["app://", "tauri://", "vscode-file://", "vscode-webview://"];

pub(crate) async fn edge(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let mut request = linger(request);
    let need = need(request.extensions().get().map(MatchedPath::as_str));
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("unmatched", MatchedPath::as_str);
    let id = request_id(request.headers(), &state);
    let visit = Visit::begin(&state, request.headers(), (id, route.into()));
    let mut watch = state.metrics().begin(&visit, request.method());
    let mut end = VisitEnd {
        visit: Arc::clone(&visit),
        control: state.control().cloned(),
        status: watch.status,
    };
    request.extensions_mut().insert(Arc::clone(&visit));
    let origin = request.headers().get(header::ORIGIN).cloned();
    let dialect = Dialect::of(request.uri().path());
    let span = tracing::info_span!("request", id = visit.id());
    let (mut response, permit) = match admit(&state, &request, need, &visit) {
        Err(error) => (error.into_response(), None),
        Ok(Admission::Preflight) => (preflight(request.headers()), None),
        Ok(Admission::Enter(permit)) => {
            let is_large = is_large(&request);
            let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
            let handled = handled.instrument(span);
            let handled = match is_large {
                true => aside(handled).await.and_then(Result::ok),
                false => handled.await.ok(),
            };
            (handled.unwrap_or_else(panicked), permit)
        }
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        visit.failed(&error);
        translate(&mut response, dialect.error(&error));
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(visit.id()) {
        if dialect == Dialect::Anthropic {
            // Where Anthropic's SDKs look for it.
            headers.insert("request-id", id.clone());
        }
        headers.insert(REQUEST_ID, id);
    }
    if let Some(origin) = origin.filter(|origin| origin_allowed(&state, origin, None)) {
        allow_origin(headers, origin);
    }
    if need.is_metered() {
        visit.tell_levels(headers);
    }
    watch.status = response.status().as_u16();
    end.status = watch.status;
    if let Some(outlives) = response.extensions_mut().remove::<Outlives>() {
        outlives.hold((end, watch, permit));
        return response;
    }
    // These are dropped in their order: what the request used is settled before it counts as
    // answered, and its place is free only after both.
    response.map(|body| Body::new(Holding::new(body, (end, watch, permit))))
}

/// Whoever waits for a word before sending the body sends none after a refusal.
fn linger(request: Request) -> Request {
    match request.headers().contains_key(header::EXPECT) {
        true => request,
        false => request.map(Lingering::wrap),
    }
}

/// Gives an error the body of its dialect.
fn translate(response: &mut Response, body: Vec<u8>) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = Body::from(body);
}

enum Admission {
    Preflight,
    Enter(Option<OwnedSemaphorePermit>),
}

fn admit(
    state: &AppState,
    request: &Request,
    need: Need,
    visit: &Visit,
) -> Result<Admission, ApiError> {
    let headers = request.headers();
    let host = headers.get(header::HOST);
    check_host(state, host)?;
    if let Some(origin) = headers.get(header::ORIGIN)
        && !origin_allowed(state, origin, host)
    {
        let value = String::from_utf8_lossy(origin.as_bytes());
        return Err(ApiError::new(
            ErrorCode::OriginRefused,
            &[("value", &value)],
        ));
    }
    let asks_first = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == Method::OPTIONS && asks_first {
        return Ok(Admission::Preflight);
    }
    let operator = state.config().api_key.as_ref();
    visit.identify(need, headers, operator, state.control())?;
    if POLLED.contains(&&**visit.route()) {
        return Ok(Admission::Enter(None));
    }
    if need == Need::Scope(Scope::Admin) && request.method() != Method::GET {
        visit.acts();
    }
    let slots = state.request_slots();
    let kept_free = visit.caller().places_kept_free(state.config().requests_max);
    let permit = match slots.available_permits() > kept_free {
        true => Arc::clone(slots).try_acquire_owned().ok(),
        false => None,
    };
    match permit {
        Some(permit) => {
            if need.is_metered() {
                visit.enter()?;
            }
            Ok(Admission::Enter(Some(permit)))
        }
        None => {
            let limit = state.config().requests_max.to_string();
            Err(ApiError::new(
                ErrorCode::TooManyRequests,
                &[("limit", &limit)],
            ))
        }
    }
}

/// The client's own id where it is short and printable, else a new one.
fn request_id(headers: &HeaderMap, state: &AppState) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let usable = given.filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX);
    usable.map_or_else(|| state.stamps().id("req-"), str::to_owned)
}

/// A page whose name was rebound to this address still sends its own name as host.
fn check_host(state: &AppState, host: Option<&HeaderValue>) -> Result<(), ApiError> {
    let Some(host) = host else { return Ok(()) };
    let text = String::from_utf8_lossy(host.as_bytes());
    let name = host_name(&text);
    let mut allowed = state.config().hosts.iter();
    if is_local_name(name)
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok()
        || allowed.any(|host| host == "*" || host.eq_ignore_ascii_case(name))
    {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::HostRefused, &[("value", name)]))
}

/// A host without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') =>
        {
            name
        }
        _ => host,
    }
}

fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let last = name.rsplit('.').next();
    last.is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

/// Pages of this machine, pages that this endpoint served itself, applications, and
/// what the configuration names. Others could send requests from any tab.
fn origin_allowed(state: &AppState, origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    let listed = &state.config().cors_origins;
    if listed
        .iter()
        .any(|allowed| allowed == "*" || allowed == origin)
    {
        return true;
    }
    if APP_SCHEMES.iter().any(|scheme| origin.starts_with(scheme)) {
        return true;
    }
    let Some((_, authority)) = origin.split_once("://") else {
        return false;
    };
    let name = host_name(authority);
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let local = is_local_name(name) || address.is_ok_and(|address| address.is_loopback());
    local || host.is_some_and(|host| host.as_bytes() == authority.as_bytes())
}

fn preflight(headers: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let out = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST, DELETE, OPTIONS");
    out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    out.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    if let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    if headers.contains_key("access-control-request-private-network") {
        let name = HeaderName::from_static("access-control-allow-private-network");
        out.insert(name, HeaderValue::from_static("true"));
    }
    response
}

/// Headers of ours that pages may read.
const EXPOSED: &str = "x-request-id, request-id, x-should-retry, retry-after, x-sextant-warning, \
     x-sextant-served-by, x-sextant-route, x-sextant-attempts, x-sextant-trail, x-sextant-audit-before, \
     x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
     x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";

fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let exposed = HeaderValue::from_static(EXPOSED);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
}

fn panicked() -> Response {
    tracing::error!("a handler panicked");
    ApiError::message(ErrorCode::Internal, "The request's handler failed.").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_only_their_port() {
        let cases = [
            ("localhost:80", "localhost"),
            ("localhost", "localhost"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("evil.example:1", "evil.example"),
        ];
        for (host, name) in cases {
            assert_eq!(host_name(host), name);
        }
    }
}
