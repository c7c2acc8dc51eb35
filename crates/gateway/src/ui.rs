//! The workbench's files over HTTP. They hold nothing of anybody, so they need no key: the page
//! asks for one where the endpoint does. Which files there are is the binary's to say
//! ([`Pages`]), so that a change of a page compiles little.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::AppState;
use crate::error::{ApiError, ErrorCode};
use crate::limits::quoted;
use crate::wire::OUR_API;

/// A file of the workbench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFile {
    /// Below `/`, such as `assets/index-Bx3.js`.
    pub path: &'static str,
    pub media_type: &'static str,
    /// Of its contents; without quotes.
    pub etag: &'static str,
    pub plain: &'static [u8],
    pub gzip: Option<&'static [u8]>,
    pub brotli: Option<&'static [u8]>,
}

/// The workbench's files.
#[derive(Debug, Clone)]
pub struct Pages {
    /// What `/` gives.
    pub index: PageFile,
    /// All others.
    pub files: Arc<[PageFile]>,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            index: PageFile {
                path: "index.html",
                media_type: "text/html; charset=utf-8",
                etag: "none",
                plain: b"<!doctype html>\n<title>Sextant</title>\n<p>There is no page here.\n",
                gzip: None,
                brotli: None,
            },
            files: Arc::default(),
        }
    }
}

/// No script, style, font or picture that is not a file of ours, no frame around the page, and
/// requests to this endpoint alone. `data:` is for pictures that the style sheets hold.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; font-src 'self'; connect-src 'self'; worker-src 'self'; \
     manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The names of these files change with their contents.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Whether only the workbench asks for a route.
pub(crate) fn is_of_workbench(route: &str) -> bool {
    let roots = ["/assets/", "/api/library", "/hosts/"]
        .iter()
        .chain(&OUR_API);
    route == "/" || roots.copied().any(|root| route.starts_with(root))
}

/// `GET /`
pub(crate) async fn page(State(state): State<AppState>, headers: HeaderMap) -> Response {
    served(&state.config().pages.index, &headers, "no-cache")
}

/// `GET /assets/{*path}`
pub(crate) async fn asset(
    State(state): State<AppState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let path = path.map_or_else(|_| String::new(), |Path(path)| format!("assets/{path}"));
    let mut files = state.config().pages.files.iter();
    let found = files.find(|file| file.path == path);
    match found {
        Some(asset) => Ok(served(asset, request.headers(), FOR_EVER)),
        None => {
            let path = quoted(request.uri().path());
            let facts = [("method", request.method().as_str()), ("path", &*path)];
            Err(ApiError::new(ErrorCode::RouteNotFound, &facts))
        }
    }
}

fn served(asset: &PageFile, asked: &HeaderMap, cache: &'static str) -> Response {
    let (bytes, encoding) = packed(asset, asked);
    // Another packing is another thing.
    let etag = format!("\"{}-{}\"", asset.etag, encoding.unwrap_or("plain"));
    let known = asked.get(header::IF_NONE_MATCH);
    let is_known = known
        .and_then(|known| known.to_str().ok())
        .is_some_and(|known| known.split(',').any(|one| one.trim() == etag));
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Response::new(Body::from(bytes)),
    };
    let headers = response.headers_mut();
    let fields = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CACHE_CONTROL, cache),
        (header::VARY, "accept-encoding"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let opener = header::HeaderName::from_static("cross-origin-opener-policy");
    headers.insert(opener, HeaderValue::from_static("same-origin"));
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// The smallest form that the client takes.
fn packed(asset: &PageFile, asked: &HeaderMap) -> (&'static [u8], Option<&'static str>) {
    let accepted = asked.get_all(header::ACCEPT_ENCODING).iter();
    let accepted: Vec<&str> = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let takes = |encoding: &str| {
        accepted.iter().any(|one| {
            let (name, quality) = one.split_once(';').unwrap_or((one, ""));
            let is_refused = matches!(quality.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
            name.trim().eq_ignore_ascii_case(encoding) && !is_refused
        })
    };
    match (asset.brotli, asset.gzip) {
        (Some(bytes), _) if takes("br") => (bytes, Some("br")),
        (_, Some(bytes)) if takes("gzip") => (bytes, Some("gzip")),
        _ => (asset.plain, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILE: PageFile = PageFile {
        path: "assets/x.js",
        media_type: "text/javascript; charset=utf-8",
        etag: "abc",
        plain: b"plain",
        gzip: Some(b"gz"),
        brotli: Some(b"br"),
    };

    fn asked(fields: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_smallest_form_that_is_taken_is_sent() {
        let cases = [
            ("gzip, deflate, br;q=0.9", Some("br")),
            ("gzip, br;q=0", Some("gzip")),
            ("identity", None),
            ("", None),
            ("GZIP", Some("gzip")),
        ];
        for (accepted, encoding) in cases {
            let headers = asked(&[(header::ACCEPT_ENCODING, accepted)]);
            assert_eq!(packed(&FILE, &headers).1, encoding, "{accepted}");
        }
        assert_eq!(packed(&FILE, &HeaderMap::new()).0, b"plain");
    }

    #[test]
    fn what_is_known_is_not_sent_again_and_nothing_comes_from_elsewhere() {
        let first = served(&FILE, &HeaderMap::new(), FOR_EVER);
        let etag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(etag, "\"abc-plain\"");
        let headers = asked(&[(header::IF_NONE_MATCH, "\"other\", \"abc-plain\"")]);
        assert_eq!(served(&FILE, &headers, FOR_EVER).status(), 304);
        let policy = first.headers()[header::CONTENT_SECURITY_POLICY].to_str();
        let policy = policy.unwrap();
        for never in ["unsafe-inline", "unsafe-eval", "http:", "https:", " *"] {
            assert!(!policy.contains(never), "{never}");
        }
        assert_eq!(first.headers()[header::CACHE_CONTROL], FOR_EVER);
    }
}
