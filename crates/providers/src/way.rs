//! The way to an engine: our own client where it is near and speaks without TLS, reqwest
//! where it is not.

use std::time::Duration;

use bytes::Bytes;
use proto::{JobFailure, UpstreamFault};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue};
use router::Reach;
use thread_local::ThreadLocal;

use crate::failure::{failure, of_error, of_near};
use crate::http::{self, Waits};
use crate::near::Near;

/// Connections to an engine that each thread keeps for later requests.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// How an engine is reached.
#[derive(Debug, Clone)]
pub(crate) struct WayOptions {
    /// Of every request.
    pub(crate) headers: HeaderMap,
    pub(crate) reach: Reach,
    /// The reach is what its address says, and not what somebody has set.
    pub(crate) must_be_near: bool,
    pub(crate) connect_timeout: Duration,
}

/// Takes requests to an engine.
#[derive(Debug)]
pub(crate) enum Way {
    Near(Box<http::Client>),
    Far(Box<Far>),
}

/// By way of reqwest.
#[derive(Debug)]
pub(crate) struct Far {
    options: WayOptions,
    /// One a thread: what a thread asks is answered on connections of its own, so that no
    /// answer has to wake another thread.
    clients: ThreadLocal<reqwest::Client>,
    /// For a thread that cannot have its own.
    client: reqwest::Client,
}

/// What is sent.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Get,
    /// JSON.
    Post {
        headers: &'a [(&'static str, String)],
        body: Vec<u8>,
    },
}

/// An answer whose body has not been read. Dropping it tells the engine to stop.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The body is a stream of events.
    pub(crate) is_stream: bool,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Body,
}

/// The body of an answer on its way.
#[derive(Debug)]
pub(crate) enum Body {
    Near(http::Body),
    Far(Box<reqwest::Response>, Bytes),
}

/// Why there is no answer, or why its body broke off.
#[derive(Debug)]
pub(crate) enum Broken {
    Near(http::Error),
    Far(reqwest::Error),
}

/// Why a body is not there whole.
#[derive(Debug)]
pub(crate) enum BodyError {
    Broken(Broken),
    TooLarge(usize),
}

impl Way {
    /// # Errors
    /// What reqwest says of its settings.
    pub(crate) fn new(url: &Url, options: WayOptions) -> reqwest::Result<Self> {
        // What goes to the internet may have to pass a proxy.
        if url.scheme() == "http" && options.reach != Reach::Cloud {
            let near = options.must_be_near.then_some(Near(options.reach));
            let WayOptions {
                headers,
                connect_timeout,
                ..
            } = &options;
            let client = http::Client::new(url, headers, *connect_timeout, near);
            return Ok(Self::Near(Box::new(client)));
        }
        Ok(Self::Far(Box::new(Far {
            client: client(&options)?,
            clients: ThreadLocal::new(),
            options,
        })))
    }

    /// Sends a message to a place of the engine's.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(crate) async fn send(&self, url: &Url, message: Message<'_>) -> Result<Answer, Broken> {
        match self {
            Self::Near(client) => {
                let request = match &message {
                    Message::Get => http::Request {
                        method: "GET",
                        path: url.path(),
                        headers: &[],
                        body: &[],
                    },
                    Message::Post { headers, body } => http::Request {
                        method: "POST",
                        path: url.path(),
                        headers,
                        body,
                    },
                };
                let answer = client.send(&request).await.map_err(Broken::Near)?;
                Ok(Answer {
                    status: answer.head.status,
                    is_stream: answer.head.is_stream,
                    retry_after: answer.head.retry_after,
                    body: Body::Near(answer.body),
                })
            }
            Self::Far(far) => far.send(url, message).await.map_err(Broken::Far),
        }
    }

    /// Closes connections that nobody has used for a while.
    pub(crate) fn close_old(&self) {
        // reqwest does it itself.
        if let Self::Near(client) = self {
            client.close_old();
        }
    }
}

impl Far {
    fn client(&self) -> &reqwest::Client {
        let own = self.clients.get_or_try(|| client(&self.options));
        own.unwrap_or(&self.client)
    }

    async fn send(&self, url: &Url, message: Message<'_>) -> reqwest::Result<Answer> {
        let request = match message {
            Message::Get => self.client().get(url.clone()),
            Message::Post { headers, body } => {
                let json = HeaderValue::from_static("application/json");
                let post = self.client().post(url.clone());
                let post = post.header(reqwest::header::CONTENT_TYPE, json).body(body);
                let headers = headers.iter();
                headers.fold(post, |post, (name, value)| post.header(*name, value))
            }
        };
        let response = request.send().await?;
        let mut is_stream = false;
        let mut waits = Waits::default();
        for (name, value) in response.headers() {
            if name == reqwest::header::CONTENT_TYPE {
                is_stream = http::is_stream(value.as_bytes());
            }
            waits.note(name.as_str(), value.as_bytes());
        }
        Ok(Answer {
            status: response.status().as_u16(),
            is_stream,
            retry_after: waits.shortest(),
            body: Body::Far(Box::new(response), Bytes::new()),
        })
    }
}

impl Body {
    /// The next bytes, once there are some; `None` after the last.
    ///
    /// # Errors
    /// It broke off.
    pub(crate) async fn chunk(&mut self) -> Result<Option<&[u8]>, Broken> {
        match self {
            Self::Near(body) => body.chunk().await.map_err(Broken::Near),
            Self::Far(response, bytes) => {
                let Some(chunk) = response.chunk().await.map_err(Broken::Far)? else {
                    return Ok(None);
                };
                *bytes = chunk;
                Ok(Some(bytes))
            }
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// It broke off, or has more than `limit` bytes.
    pub(crate) async fn whole(mut self, limit: usize) -> Result<Vec<u8>, BodyError> {
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await.map_err(BodyError::Broken)? {
            if whole.len() + chunk.len() > limit {
                return Err(BodyError::TooLarge(limit));
            }
            whole.extend_from_slice(chunk);
        }
        Ok(whole)
    }
}

impl Broken {
    /// The same in words.
    pub(crate) fn told(&self, name: &str) -> JobFailure {
        match self {
            Self::Near(error) => of_near(name, error),
            Self::Far(error) => of_error(name, error),
        }
    }
}

impl BodyError {
    /// The same in words.
    pub(crate) fn told(&self, name: &str) -> JobFailure {
        match self {
            Self::Broken(broken) => broken.told(name),
            Self::TooLarge(limit) => failure(
                UpstreamFault::Malformed,
                format!("`{name}` sent an answer of over {limit} bytes."),
            ),
        }
    }
}

pub(crate) fn client(options: &WayOptions) -> reqwest::Result<reqwest::Client> {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        // A redirect could lead farther away than the request may travel.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(options.connect_timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        // Who is asked next, and whether, is decided elsewhere.
        .retry(reqwest::retry::never())
        .tcp_nodelay(true)
        .default_headers(options.headers.clone())
        .user_agent(concat!("sextant/", env!("CARGO_PKG_VERSION")));
    if options.reach == Reach::Cloud {
        return builder.build();
    }
    // Nor does what stays in the house pass through a proxy outside.
    let builder = builder.no_proxy();
    match options.must_be_near {
        false => builder.build(),
        // Its name says that it is near; its addresses have to say so too.
        true => builder.dns_resolver(Near(options.reach)).build(),
    }
}
