//! `/hosts/{name}/...`: the workbench of another endpoint of ours, seen through this one.
//!
//! The page asks its own endpoint alone, so it needs no key of another one and no leave to ask
//! it: this one hands the request on with the key of the configuration.

use axum::body::Body;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::TryStreamExt;
use providers::{Errand, Fetched};

use crate::AppState;
use crate::body::RawBody;
use crate::error::{ApiError, ErrorCode};
use crate::limits::quoted;

/// What of another endpoint may be asked for: what the page is made from.
const ROOTS: [&str; 3] = ["api/", "admin/", "v1/"];
/// What of a request goes along. Who asks here is nobody there.
const ASKED: [HeaderName; 4] = [
    header::ACCEPT,
    header::CONTENT_TYPE,
    header::IF_NONE_MATCH,
    HeaderName::from_static("last-event-id"),
];
/// What of an answer comes back.
const TOLD: [HeaderName; 5] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CACHE_CONTROL,
    header::ETAG,
    header::RETRY_AFTER,
];
/// Whatever it says it is, it is no page of ours.
const POLICY: &str = "default-src 'none'; sandbox";

/// Hands a request on.
pub(crate) async fn relay(
    State(state): State<AppState>,
    Path((name, _)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    let no_route = no_route(&request);
    let method = request.method().clone();
    let headers = picked(request.headers(), &ASKED);
    let uri = request.uri().clone();
    let path = uri.path_and_query().and_then(|whole| below(whole.as_str()));
    let dispatch = state.dispatch();
    let (Some(path), Some(post)) = (path, dispatch.post(&name)) else {
        return Err(no_route);
    };
    let RawBody(body) = RawBody::from_request(request, &state).await?;
    let errand = Errand {
        method,
        path: path.to_owned(),
        headers,
        body,
    };
    let running = post.provider().run_errand(errand).ok_or(no_route)?;
    answer(&name, running.await?)
}

fn no_route(request: &Request) -> ApiError {
    let (method, path) = (request.method().as_str(), quoted(request.uri().path()));
    let facts = [("method", method), ("path", &*path)];
    ApiError::new(ErrorCode::RouteNotFound, &facts)
}

/// What is asked of the other one, where that may be asked.
fn below(path: &str) -> Option<&str> {
    let mut parts = path.splitn(4, '/');
    let (root, hosts, _name, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_known = ROOTS.iter().any(|known| rest.starts_with(known));
    let route = rest
        .split('?')
        .next()?
        .to_ascii_lowercase()
        .replace("%2e", ".");
    let leads_out = route
        .split(['/', '\\'])
        .any(|part| matches!(part, "." | ".."));
    (root.is_empty() && hosts == "hosts" && is_known && !leads_out).then_some(rest)
}

fn answer(name: &str, fetched: Fetched) -> Result<Response, ApiError> {
    // Who asks here has no key for there: the configuration has.
    if fetched.status == 401 {
        let message = format!("`{name}` refuses the key of its `key_env` or `key_file`.");
        return Err(ApiError::message(ErrorCode::UpstreamDenied, &message));
    }
    let mut response = Response::new(Body::from_stream(
        fetched.body.map_err(std::io::Error::other),
    ));
    *response.status_mut() =
        StatusCode::from_u16(fetched.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    *headers = picked(&fetched.headers, &TOLD);
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

fn picked(all: &HeaderMap, wanted: &[HeaderName]) -> HeaderMap {
    let found = wanted.iter();
    let found = found.filter_map(|name| Some((name.clone(), all.get(name)?.clone())));
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn only_what_the_page_is_made_from_is_handed_on() {
        for (path, rest) in [
            ("/hosts/board/api/events", "api/events"),
            (
                "/hosts/a%20b/api/chats?limit=5&search=..",
                "api/chats?limit=5&search=..",
            ),
            ("/hosts/board/admin/models/load", "admin/models/load"),
            ("/hosts/board/v1/audit?limit=3", "v1/audit?limit=3"),
        ] {
            assert_eq!(below(path), Some(rest), "{path}");
        }
        for path in [
            "/hosts/board/",
            "/hosts/board",
            "/hosts/board/metrics",
            "/hosts/board/hosts/other/api/events",
            "/hosts/board/api/../metrics",
            "/hosts/board/api/%2e%2e/metrics",
            "/hosts/board/api/.%2E/x",
            "/hosts/board/api/..\\x",
            "/other/board/api/events",
            "",
            "/hosts/board//api/events",
            "/hosts/board/http://elsewhere/api/",
        ] {
            assert_eq!(below(path), None, "{path}");
        }
    }
}
