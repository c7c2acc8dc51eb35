//! An engine behind an address.

use std::any::Any;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, stream};
use proto::{Event, FailureKind, JobFailure, Timings, UpstreamFault};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url};
use router::{Model, Reach};
use serde_json::Value;
use stdx::Secret;
use thread_local::ThreadLocal;
use tokio::time::{Instant, timeout};

use crate::failure::{Secrets, failure, of_error, of_status};
use crate::kind::Kind;
use crate::near::{Near, reach};
use crate::openai::answer::{Reader, WireError};
use crate::openai::call_ids::CallIds;
use crate::openai::request::{self, Endpoint, Request};
use crate::sse::Frames;
use crate::survey::{self, Route, Routes};
use crate::{EventStream, Order, Provider, Survey};

/// Bytes of an answer that comes whole, or is shown whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Connections to an engine that each thread keeps for later requests.
const IDLE_CONNECTIONS_MAX: usize = 32;
/// Time for a list of models.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(5);

/// Where an engine is and how it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteConfig {
    pub name: String,
    pub kind: Kind,
    /// With or without `/v1`.
    pub url: String,
    pub key: Option<Secret>,
    /// Further headers of each request.
    pub headers: Vec<(String, Secret)>,
    /// `None`: as the address says.
    pub reach: Option<Reach>,
    pub timeouts: Timeouts,
    /// Its models, where it does not list them; with a list, those that are used of it.
    pub models: Vec<String>,
    /// Its models that see images, where it does not say so; `*` stands for all.
    pub vision: Vec<String>,
    pub streams: Streams,
}

/// When an answer is asked for as a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// Also where it is shown whole: only so can silence be told from work.
    Always,
    /// Where it is shown as it comes.
    AsShown,
}

/// How long each phase of a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the request to the first text.
    pub first_token: Duration,
    /// Without a byte.
    pub silence: Duration,
}

/// An address or a header that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    pub provider: String,
    pub detail: String,
}

impl std::fmt::Display for AddressError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the provider `{}` {}", self.provider, self.detail)
    }
}

impl std::error::Error for AddressError {}

/// An engine that is asked over HTTP.
#[derive(Debug)]
pub struct Remote {
    config: RemoteConfig,
    /// What it is sent and clients must not see.
    secrets: Secrets,
    reach: Reach,
    /// Where the dialect's routes are; ends with a slash.
    base: Url,
    /// By [`Endpoint`].
    endpoints: [Url; Endpoint::ALL.len()],
    /// Where the engine's own routes are; ends with a slash.
    root: Url,
    /// One a thread: what a thread asks is answered on connections of its own, so that no
    /// answer has to wake another thread.
    clients: ThreadLocal<Client>,
    /// For a thread that cannot have its own.
    client: Client,
}

impl Remote {
    /// # Errors
    /// [`AddressError`] says what to change.
    pub fn new(config: RemoteConfig) -> Result<Self, AddressError> {
        let refuse = |detail: String| AddressError {
            provider: config.name.clone(),
            detail,
        };
        let url = Url::parse(&config.url)
            .map_err(|error| refuse(format!("has an address that is none: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            let scheme = url.scheme();
            let detail = format!("has an address with `{scheme}:`; it must be http or https");
            return Err(refuse(detail));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let detail = "has a user or a password in its address; use `key_env` or `headers`";
            return Err(refuse(detail.to_owned()));
        }
        if url.query().is_some() {
            // It would be shown wherever the address is.
            let detail = "has a `?` in its address; use `key_env` or `headers` for keys";
            return Err(refuse(detail.to_owned()));
        }
        let reach = config.reach.unwrap_or_else(|| reach(&url));
        let has_secrets = config.key.is_some() || !config.headers.is_empty();
        if url.scheme() == "http" && reach == Reach::Cloud && has_secrets {
            let detail = "would send its key or headers in plain text over the internet; use https";
            return Err(refuse(detail.to_owned()));
        }
        let headers = headers(&config).map_err(refuse)?;
        let client = client(headers, reach, &config)
            .map_err(|error| refuse(format!("cannot be set up: {error}")))?;
        let (base, root) = addresses(url);
        let endpoints = Endpoint::ALL.map(|endpoint| {
            let mut url = base.clone();
            url.set_path(&format!("{}{}", base.path(), endpoint.path()));
            url
        });
        let values = config.headers.iter().map(|(_, value)| value);
        let secrets = Secrets::new(config.key.iter().chain(values).cloned());
        Ok(Self {
            config,
            secrets,
            reach,
            base,
            endpoints,
            root,
            clients: ThreadLocal::new(),
            client,
        })
    }

    fn client(&self) -> &Client {
        let own = self.clients.get_or_try(|| {
            let headers = headers(&self.config).map_err(drop)?;
            client(headers, self.reach, &self.config).map_err(drop)
        });
        own.unwrap_or(&self.client)
    }

    /// How far away it is.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach
    }

    async fn look(&self) -> Result<Survey, String> {
        let routes = Routes::of(self.config.kind);
        let list = self.get(routes.list).await;
        let more = match (&list, routes.more) {
            (Ok(_), Some(route)) => self.get(route).await.ok(),
            _ => None,
        };
        let listed = match list {
            Ok(list) => survey::models(self.config.kind, &list, more.as_ref()),
            // Some services have no such route; then the configuration has to name the models.
            Err(NoList::Status(404 | 405 | 501)) => None,
            Err(NoList::Status(status)) => {
                return Err(format!("it lists its models with status {status}"));
            }
            Err(NoList::Cause(cause)) => return Err(cause),
        };
        let listed = match (listed, self.config.models.is_empty()) {
            (Some(models), true) => return Ok(self.survey_of(models)),
            (None, true) => return Err("it does not list its models; name them".to_owned()),
            (listed, false) => listed.unwrap_or_default(),
        };
        let known = |name: &String| {
            let listed = listed.iter().find(|model| model.name == *name);
            listed
                .cloned()
                .unwrap_or_else(|| survey::named(self.config.kind, name))
        };
        Ok(self.survey_of(self.config.models.iter().map(known).collect()))
    }

    /// The models with what the operator knows of them.
    fn survey_of(&self, mut models: Vec<Model>) -> Survey {
        survey::let_see(&mut models, &self.config.vision);
        Survey { models }
    }

    async fn get(&self, route: Route) -> Result<Value, NoList> {
        let url = match route {
            Route::Base(path) => self.base.join(path),
            Route::Root(path) => self.root.join(path),
        };
        let url = url.map_err(|error| NoList::Cause(error.to_string()))?;
        let of_failure = |failure: JobFailure| NoList::Cause(failure.message);
        let answer = async {
            let response = self.client().get(url).send().await;
            let response =
                response.map_err(|error| of_failure(of_error(&self.config.name, &error)))?;
            let status = response.status();
            if !status.is_success() {
                return Err(NoList::Status(status.as_u16()));
            }
            let body = whole(response, ANSWER_BYTES_MAX).await;
            let body = body.map_err(|error| of_failure(error.told(&self.config.name)))?;
            serde_json::from_slice(&body)
                .map_err(|error| NoList::Cause(format!("its list is no JSON: {error}")))
        };
        let limit = SURVEY_TIMEOUT.as_secs();
        let late = || NoList::Cause(format!("it did not list its models within {limit} s"));
        let answer = timeout(SURVEY_TIMEOUT, answer).await;
        answer.unwrap_or_else(|_| Err(late()))
    }

    async fn ask(&self, order: Order) -> Result<EventStream, JobFailure> {
        let sent = Instant::now();
        let salt = RandomState::new().hash_one(&order.model);
        let call_ids = CallIds::new(&order.job, salt);
        let is_streamed = !order.is_whole || self.config.streams == Streams::Always;
        // Somebody gathers what is shown whole.
        let bytes_max = match order.is_whole {
            true => ANSWER_BYTES_MAX,
            false => usize::MAX,
        };
        let request = request::request(self.config.kind, is_streamed, order)?;
        let response = match timeout(self.config.timeouts.first_token, self.send(&request)).await {
            Ok(response) => response?,
            Err(_) => return Err(late(&self.config.name, self.config.timeouts.first_token)),
        };
        let is_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let reader = Reader::new(
            &self.config.name,
            request.answer,
            call_ids,
            request.warnings,
        );
        if is_stream {
            let reading = Reading {
                name: self.config.name.clone(),
                bytes: response.bytes_stream().boxed(),
                bytes_left: bytes_max,
                frames: Frames::default(),
                reader,
                events: VecDeque::new(),
                timeouts: self.config.timeouts,
                clock: Clock::new(sent),
            };
            return Ok(reading.into_events());
        }
        self.read_whole(response, reader, Clock::new(sent)).await
    }

    async fn send(&self, request: &Request) -> Result<Response, JobFailure> {
        let url = self.endpoints[request.endpoint as usize].clone();
        let mut post = self.client().post(url).json(&request.body);
        for (name, value) in &request.headers {
            post = post.header(*name, value);
        }
        let sent = post.send().await;
        let response = sent.map_err(|error| of_error(&self.config.name, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// Reads an error. Its body is a courtesy: without it the status says enough.
    async fn refusal(&self, response: Response) -> JobFailure {
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let body = timeout(
            self.config.timeouts.silence,
            whole(response, ERROR_BYTES_MAX),
        )
        .await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let json: Option<Value> = serde_json::from_slice(&body).ok();
        let error = json
            .as_ref()
            .and_then(|json| json.get("error").or(Some(json)));
        if let Some(exceeded) = error.and_then(context_exceeded) {
            return exceeded;
        }
        let said = error.and_then(|error| serde_json::from_value::<WireError>(error.clone()).ok());
        let said = said.map_or_else(
            || String::from_utf8_lossy(&body).into_owned(),
            |error| error.read().1,
        );
        of_status(&self.config.name, status, &said, retry_after)
    }

    async fn read_whole(
        &self,
        response: Response,
        mut reader: Reader,
        mut clock: Clock,
    ) -> Result<EventStream, JobFailure> {
        let rest = self
            .config
            .timeouts
            .first_token
            .saturating_sub(clock.sent.elapsed());
        let body = match timeout(rest, whole(response, ANSWER_BYTES_MAX)).await {
            Ok(body) => body.map_err(|error| error.told(&self.config.name))?,
            Err(_) => return Err(late(&self.config.name, self.config.timeouts.first_token)),
        };
        let mut events = Vec::new();
        clock.token();
        reader.whole(&body, clock.timings(), &mut events);
        match events.pop() {
            Some(Event::Failed(failure)) if events.is_empty() => Err(failure),
            last => Ok(stream::iter(events.into_iter().chain(last)).boxed()),
        }
    }
}

impl Provider for Remote {
    fn survey(&self) -> BoxFuture<'_, Result<Survey, String>> {
        self.look().boxed()
    }

    fn submit(&self, order: Order) -> BoxFuture<'_, Result<EventStream, JobFailure>> {
        async move {
            let asked = self.ask(order).await;
            let events = asked.map_err(|failure| self.secrets.hide(failure))?;
            if self.secrets.is_empty() {
                return Ok(events);
            }
            let secrets = self.secrets.clone();
            let events = events.map(move |event| match event {
                Event::Failed(failure) => Event::Failed(secrets.hide(failure)),
                event => event,
            });
            Ok(events.boxed())
        }
        .boxed()
    }

    fn address(&self) -> Option<(&str, u16)> {
        Some((self.base.host_str()?, self.base.port_or_known_default()?))
    }

    fn is_same(&self, other: &dyn Provider) -> bool {
        let other = (other as &dyn Any).downcast_ref::<Self>();
        other.is_some_and(|other| other.config == self.config)
    }

    fn url(&self) -> Option<String> {
        Some(self.root.to_string())
    }
}

fn late(name: &str, limit: Duration) -> JobFailure {
    let message = format!(
        "`{name}` did not begin its answer within {} s.",
        limit.as_secs()
    );
    failure(UpstreamFault::TimedOut, message)
}

/// The clock of one request.
#[derive(Debug)]
struct Clock {
    sent: Instant,
    first: Option<Instant>,
    last: Instant,
}

impl Clock {
    fn new(sent: Instant) -> Self {
        Self {
            sent,
            first: None,
            last: sent,
        }
    }

    fn token(&mut self) {
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
    }

    fn timings(&self) -> Timings {
        let ms = |span: Duration| span.as_secs_f64() * 1000.0;
        let first = self.first.unwrap_or(self.last);
        Timings {
            queue_ms: 0.0,
            prefill_ms: ms(first - self.sent),
            decode_ms: ms(self.last - first),
        }
    }
}

/// A streamed answer while it is read.
struct Reading {
    name: String,
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    /// How many more may come.
    bytes_left: usize,
    frames: Frames,
    reader: Reader,
    events: VecDeque<Event>,
    timeouts: Timeouts,
    clock: Clock,
}

impl Reading {
    fn into_events(self) -> EventStream {
        stream::unfold(self, |mut reading| async move {
            let event = reading.next().await?;
            Some((event, reading))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.reader.is_over() {
                return None;
            }
            let limit = self.patience();
            let received = timeout(limit, self.bytes.next()).await;
            let mut events = Vec::new();
            match received {
                Err(_) => self.reader.fail(self.silent(), &mut events),
                Ok(None) => self.reader.end(self.clock.timings(), &mut events),
                Ok(Some(Err(error))) => {
                    let failure = of_error(&self.name, &error);
                    self.reader.fail(failure, &mut events);
                }
                Ok(Some(Ok(bytes))) => self.take(&bytes, &mut events),
            }
            self.events.extend(events);
        }
    }

    /// How long the next bytes may take.
    fn patience(&self) -> Duration {
        match self.clock.first {
            Some(_) => self.timeouts.silence,
            // A long prompt is read in silence.
            None => {
                let rest = self.timeouts.first_token;
                rest.saturating_sub(self.clock.sent.elapsed())
            }
        }
    }

    fn silent(&self) -> JobFailure {
        let waited = self.clock.sent.elapsed();
        if self.clock.first.is_none() && waited >= self.timeouts.first_token {
            return late(&self.name, self.timeouts.first_token);
        }
        let limit = self.timeouts.silence.as_secs();
        let message = format!("`{}` was silent for {limit} s.", self.name);
        failure(UpstreamFault::TimedOut, message)
    }

    fn take(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        let Some(left) = self.bytes_left.checked_sub(bytes.len()) else {
            let failure = BodyError::TooLarge(ANSWER_BYTES_MAX).told(&self.name);
            return self.reader.fail(failure, events);
        };
        self.bytes_left = left;
        let mut frames = Vec::new();
        if self.frames.take(bytes, &mut frames).is_err() {
            let limit = crate::sse::EVENT_BYTES_MAX;
            let message = format!("`{}` sent an event of over {limit} bytes.", self.name);
            return self
                .reader
                .fail(failure(UpstreamFault::Malformed, message), events);
        }
        for data in frames {
            let known = events.len();
            self.reader.data(&data, self.clock.timings(), events);
            let is_token = |event: &Event| matches!(event, Event::Delta { .. });
            if events[known..].iter().any(is_token) {
                self.clock.token();
            }
        }
    }
}

/// Why there is no list of models.
enum NoList {
    Status(u16),
    Cause(String),
}

/// Why a body is not there whole.
enum BodyError {
    Broken(reqwest::Error),
    TooLarge(usize),
}

impl BodyError {
    fn told(&self, name: &str) -> JobFailure {
        match self {
            Self::Broken(error) => of_error(name, error),
            Self::TooLarge(limit) => failure(
                UpstreamFault::Malformed,
                format!("`{name}` sent an answer of over {limit} bytes."),
            ),
        }
    }
}

async fn whole(response: Response, limit: usize) -> Result<Bytes, BodyError> {
    let mut chunks = response.bytes_stream();
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(BodyError::Broken)?;
        if whole.len() + chunk.len() > limit {
            return Err(BodyError::TooLarge(limit));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// An error that says how long the prompt was and how long it may be.
fn context_exceeded(error: &Value) -> Option<JobFailure> {
    let number = |name: &str| {
        let number = error.get(name)?.as_u64()?;
        u32::try_from(number).ok()
    };
    Some(JobFailure {
        kind: FailureKind::ContextExceeded {
            prompt_tokens: number("n_prompt_tokens")?,
            context: number("n_ctx")?,
        },
        message: String::new(),
        param: None,
    })
}

/// `Retry-After` in seconds, or in milliseconds as some write it. Dates are not read: an
/// engine that sends one means hours, and is asked again after the usual pause.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        value.trim().parse::<f64>().ok()
    };
    let seconds = number("retry-after-ms").map(|ms| ms / 1000.0);
    let seconds = seconds.or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn headers(config: &RemoteConfig) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let secret = |value: &str| {
        let value = HeaderValue::from_str(value);
        value.map(|mut value| {
            value.set_sensitive(true);
            value
        })
    };
    if let Some(key) = &config.key {
        let value = secret(&format!("Bearer {}", key.expose()));
        let value = value.map_err(|_| "has a key that no header can hold".to_owned())?;
        headers.insert(header::AUTHORIZATION, value);
    }
    for (name, value) in &config.headers {
        let refuse = || format!("has the header `{name}`, which HTTP does not allow");
        let value = secret(value.expose()).map_err(|_| refuse())?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse())?;
        headers.insert(name, value);
    }
    Ok(headers)
}

fn client(headers: HeaderMap, reach: Reach, config: &RemoteConfig) -> reqwest::Result<Client> {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        // A redirect could lead farther away than the request may travel.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(config.timeouts.connect)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        // Who is asked next, and whether, is decided elsewhere.
        .retry(reqwest::retry::never())
        .tcp_nodelay(true)
        .default_headers(headers)
        .user_agent(concat!("sextant/", env!("CARGO_PKG_VERSION")));
    if reach == Reach::Cloud {
        return builder.build();
    }
    // Nor does what stays in the house pass through a proxy outside.
    let builder = builder.no_proxy();
    match config.reach {
        Some(_) => builder.build(),
        // Its name says that it is near; its addresses have to say so too.
        None => builder.dns_resolver(Near(reach)).build(),
    }
}

/// The base of the dialect's routes and the root of the engine's own. An address without
/// a path means `/v1`.
fn addresses(mut url: Url) -> (Url, Url) {
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    let base = match path.as_str() {
        "" => "/v1/".to_owned(),
        path => format!("{path}/"),
    };
    let mut root = url.clone();
    root.set_path(&format!("{}/", path.strip_suffix("/v1").unwrap_or(&path)));
    url.set_path(&base);
    (url, root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::request::AnswerKind;

    #[test]
    fn addresses_are_taken_with_and_without_the_version() {
        let cases = [
            ("http://h:1", "http://h:1/v1/", "http://h:1/"),
            ("http://h:1/", "http://h:1/v1/", "http://h:1/"),
            ("http://h:1/v1", "http://h:1/v1/", "http://h:1/"),
            ("http://h/api/v1/", "http://h/api/v1/", "http://h/api/"),
            (
                "http://h/openai?x=1",
                "http://h/openai/",
                "http://h/openai/",
            ),
        ];
        for (url, base, root) in cases {
            let (a, b) = addresses(Url::parse(url).unwrap());
            assert_eq!((a.as_str(), b.as_str()), (base, root), "{url}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_gathered_has_a_limit() {
        let chunk = "data: {\"choices\": [{\"index\": 0, \"delta\": {\"content\": \"a\"}}]}\n\n";
        let reading = Reading {
            name: "desk".to_owned(),
            bytes: stream::repeat_with(move || Ok(Bytes::from(chunk))).boxed(),
            bytes_left: 3 * chunk.len(),
            frames: Frames::default(),
            reader: Reader::new(
                "desk",
                AnswerKind::Chat { n: 1 },
                CallIds::default(),
                Vec::new(),
            ),
            events: VecDeque::new(),
            timeouts: Timeouts {
                connect: Duration::from_secs(1),
                first_token: Duration::from_secs(1),
                silence: Duration::from_secs(1),
            },
            clock: Clock::new(Instant::now()),
        };
        let events: Vec<_> = reading.into_events().collect().await;
        let texts = events
            .iter()
            .filter(|event| matches!(event, Event::Delta { .. }));
        assert_eq!(texts.count(), 3);
        let Some(Event::Failed(failure)) = events.last() else {
            panic!("{:?}", events.last());
        };
        assert!(
            failure.message.contains("over 67108864 bytes"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn waits_are_read_in_seconds_and_milliseconds() {
        let wait = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            retry_after(&headers)
        };
        assert_eq!(wait("retry-after", "30"), Some(Duration::from_secs(30)));
        assert_eq!(
            wait("retry-after-ms", "250"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(wait("retry-after", "-1"), None);
        assert_eq!(wait("retry-after", "Sat, 21 Nov 2026 12:00:00 GMT"), None);
    }
}
