//! One request with redirects followed by hand, so that a token never leaves the
//! host it is for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};
use stdx::Secret;

use super::PullError;
use crate::source::{is_allowed, shown};

const REDIRECTS_MAX: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that gives no byte for this long counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Manifests, file lists and index pages. The longest package pages are a few megabytes.
const DOCUMENT_BYTES_MAX: usize = 32 << 20;

/// What proves who we are, to one origin only.
#[derive(Debug, Clone, Default)]
pub(super) enum Auth {
    #[default]
    None,
    Bearer(Secret),
    Basic {
        user: String,
        password: Secret,
    },
}

/// A request before redirects.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub url: Url,
    pub auth: Auth,
    pub headers: Vec<(HeaderName, String)>,
}

impl Request {
    /// A request for `url`; a user and password in it become basic authentication.
    pub(super) fn new(mut url: Url) -> Self {
        let auth = match (url.username(), url.password()) {
            ("", None) => Auth::None,
            (user, password) => Auth::Basic {
                user: user.to_owned(),
                password: Secret::new(password.unwrap_or_default()),
            },
        };
        // Neither can fail for an address that just gave us a host and a user.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Self {
            url,
            auth,
            headers: Vec::new(),
        }
    }

    pub(super) fn bearer(mut self, token: Option<&Secret>) -> Self {
        if let Some(token) = token {
            self.auth = Auth::Bearer(token.clone());
        }
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A failed request: worth another try, or not.
#[derive(Debug)]
pub(super) enum Failure {
    Final(PullError),
    /// The message, and how long the server asks to wait.
    Transient(String, Option<Duration>),
    /// HTTP 429, and how long the server asks to wait.
    SlowDown(Option<Duration>),
}

pub(super) fn client() -> Result<Client, PullError> {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(concat!("sextant/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| PullError::Client {
            message: chain(&error),
        })
}

/// Sends a GET and follows redirects. The answer has any status but a redirect.
pub(super) async fn get(client: &Client, request: &Request) -> Result<Response, Failure> {
    let origin = request.url.origin();
    let mut url = request.url.clone();
    for _ in 0..=REDIRECTS_MAX {
        let mut builder = client.get(url.clone());
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if url.origin() == origin {
            builder = match &request.auth {
                Auth::None => builder,
                Auth::Bearer(token) => builder.bearer_auth(token.expose()),
                Auth::Basic { user, password } => builder.basic_auth(user, Some(password.expose())),
            };
        }
        let response = builder
            .send()
            .await
            .map_err(|error| Failure::Transient(chain(&error.without_url()), None))?;
        if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        url = redirect_target(&url, response.headers()).map_err(Failure::Final)?;
    }
    Err(Failure::Final(PullError::Redirect {
        url: shown(&request.url),
        target: shown(&url),
        why: "is one redirect too many",
    }))
}

fn redirect_target(from: &Url, headers: &HeaderMap) -> Result<Url, PullError> {
    let location = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok());
    let target = location.and_then(|location| from.join(location).ok());
    let Some(target) = target else {
        return Err(PullError::Protocol {
            url: shown(from),
            problem: "a redirect without an address".to_owned(),
        });
    };
    let refuse = |why| PullError::Redirect {
        url: shown(from),
        target: shown(&target),
        why,
    };
    if !is_allowed(&target) {
        return Err(refuse("is not HTTPS"));
    }
    if from.scheme() == "https" && target.scheme() != "https" {
        return Err(refuse("drops the encryption"));
    }
    Ok(target)
}

/// Turns a status that is no success into the failure it means.
pub(super) fn check_status(url: &Url, response: &Response) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let url = shown(url);
    let code = status.as_u16();
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Final(PullError::Denied {
            url,
            status: code,
            fix: "check the name and the credentials".to_owned(),
        }),
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            Failure::Final(PullError::NotFound { url, status: code })
        }
        StatusCode::TOO_MANY_REQUESTS => Failure::SlowDown(retry_after(response.headers())),
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            Failure::Transient(format!("HTTP {code}"), retry_after(response.headers()))
        }
        _ => Failure::Final(PullError::Status { url, status: code }),
    })
}

/// `Retry-After`, in seconds or as an HTTP date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = http_date_unix_s(value)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(at.saturating_sub(now)))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date_unix_s(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut parts = text.split_once(", ")?.1.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let month_name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == month_name)? as u64;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut clock = parts
        .next()?
        .split(':')
        .map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let leaps = (1970..year).filter(|year| is_leap(*year)).count() as u64;
    let before_month =
        [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334].get(month as usize)?;
    let leap_day = u64::from(month > 1 && is_leap(year));
    let days = (year - 1970) * 365 + leaps + before_month + leap_day + day - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// Reads a small document whole, within [`DOCUMENT_BYTES_MAX`].
pub(super) async fn document(url: &Url, mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(bytes),
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= DOCUMENT_BYTES_MAX => {
                bytes.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => {
                return Err(Failure::Final(PullError::Protocol {
                    url: shown(url),
                    problem: format!("more than {DOCUMENT_BYTES_MAX} bytes where a list belongs"),
                }));
            }
            Err(error) => return Err(Failure::Transient(chain(&error.without_url()), None)),
        }
    }
}

/// A header's text.
pub(super) fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers
        .get(name)
        .and_then(|value: &HeaderValue| value.to_str().ok())
}

/// An error with its causes: reqwest's own message hides what went wrong.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::http_date_unix_s;

    #[test]
    fn reads_http_dates() {
        let table = [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200)),
            ("tomorrow", None),
        ];
        for (text, expected) in table {
            assert_eq!(http_date_unix_s(text), expected, "{text}");
        }
    }
}
