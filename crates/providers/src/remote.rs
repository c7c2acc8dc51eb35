//! An engine behind an address.

use std::any::Any;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use proto::{Event, FailureKind, JobFailure, Timings, UpstreamFault};
use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use router::{Model, Reach};
use serde_json::Value;
use stdx::Secret;
use tokio::time::{Instant, timeout};

use crate::errand::{Errand, Fetched, Runner};
use crate::failure::{Secrets, failure, of_status};
use crate::kind::Kind;
use crate::near::reach;
use crate::openai::answer::{Reader, WireError};
use crate::openai::call_ids::CallIds;
use crate::openai::request::{self, Endpoint, Request};
use crate::sse::Frames;
use crate::survey::{self, Route, Routes};
use crate::way::{self, Answer, Body, BodyError, Message, Way, WayOptions};
use crate::{EventStream, Order, Provider, Survey};

/// Bytes of an answer that comes whole, or is shown whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Bytes of an error's body that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;
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
    way: Way,
    /// For routes of its own, where it is an endpoint of ours.
    runner: Option<Runner>,
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
        let options = WayOptions {
            headers: headers(&config).map_err(refuse)?,
            reach,
            must_be_near: config.reach.is_none(),
            connect_timeout: config.timeouts.connect,
        };
        let no_client = |error| refuse(format!("cannot be set up: {error}"));
        let client = match config.kind {
            Kind::Sextant => Some(way::client(&options).map_err(no_client)?),
            _ => None,
        };
        let way = Way::new(&url, options).map_err(no_client)?;
        let (base, root) = addresses(url);
        let runner = client.map(|client| Runner::new(client, root.clone()));
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
            way,
            runner,
        })
    }

    /// How far away it is.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach
    }

    async fn look(&self) -> Result<Survey, String> {
        self.way.close_old();
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
            let answer = self.way.send(&url, Message::Get).await;
            let answer = answer.map_err(|error| of_failure(error.told(&self.config.name)))?;
            if !matches!(answer.status, 200..300) {
                return Err(NoList::Status(answer.status));
            }
            let body = answer.body.whole(ANSWER_BYTES_MAX).await;
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
        let mut request = request::request(self.config.kind, is_streamed, order)?;
        let answer = match timeout(self.config.timeouts.first_token, self.send(&mut request)).await
        {
            Ok(answer) => answer?,
            Err(_) => return Err(late(&self.config.name, self.config.timeouts.first_token)),
        };
        let reader = Reader::new(
            &self.config.name,
            request.answer,
            call_ids,
            request.warnings,
        );
        if answer.is_stream {
            let reading = Reading {
                body: answer.body,
                intake: Intake {
                    name: self.config.name.clone(),
                    bytes_left: bytes_max,
                    frames: Frames::default(),
                    reader,
                    events: VecDeque::new(),
                    clock: Clock::new(sent),
                },
                timeouts: self.config.timeouts,
            };
            return Ok(reading.into_events());
        }
        self.read_whole(answer.body, reader, Clock::new(sent)).await
    }

    /// Sends a request and takes its body.
    async fn send(&self, request: &mut Request) -> Result<Answer, JobFailure> {
        let url = &self.endpoints[request.endpoint as usize];
        let message = Message::Post {
            headers: &request.headers,
            body: std::mem::take(&mut request.body),
        };
        let answer = self.way.send(url, message).await;
        let answer = answer.map_err(|error| error.told(&self.config.name))?;
        match answer.status {
            200..300 => Ok(answer),
            _ => Err(self.refusal(answer).await),
        }
    }

    /// Reads an error. Its body is a courtesy: without it the status says enough.
    async fn refusal(&self, answer: Answer) -> JobFailure {
        let Answer {
            status,
            retry_after,
            body,
            ..
        } = answer;
        let body = timeout(self.config.timeouts.silence, body.whole(ERROR_BYTES_MAX)).await;
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
        body: Body,
        mut reader: Reader,
        mut clock: Clock,
    ) -> Result<EventStream, JobFailure> {
        let limit = self.config.timeouts.first_token;
        let mut whole = pin!(body.whole(ANSWER_BYTES_MAX));
        // A short answer came with its head, and needs no timer.
        let body = match whole.as_mut().now_or_never() {
            Some(body) => Ok(body),
            None => timeout(limit.saturating_sub(clock.sent.elapsed()), whole).await,
        };
        let body = body.map_err(|_| late(&self.config.name, limit))?;
        let body = body.map_err(|error| error.told(&self.config.name))?;
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

    fn is_ours(&self) -> bool {
        self.runner.is_some()
    }

    fn run_errand(&self, errand: Errand) -> Option<BoxFuture<'_, Result<Fetched, JobFailure>>> {
        let runner = self.runner.as_ref()?;
        let who = (&*self.config.name, &self.secrets);
        // A model may be loaded before the head comes.
        let head_max = self.config.timeouts.first_token;
        Some(runner.run(who, errand, head_max).boxed())
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
    body: Body,
    intake: Intake,
    timeouts: Timeouts,
}

/// What has come of a streamed answer.
struct Intake {
    name: String,
    /// How many more bytes may come.
    bytes_left: usize,
    frames: Frames,
    reader: Reader,
    events: VecDeque<Event>,
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
            if let Some(event) = self.intake.events.pop_front() {
                return Some(event);
            }
            if self.intake.reader.is_over() {
                return None;
            }
            let limit = self.patience();
            let received = timeout(limit, self.body.chunk()).await;
            let intake = &mut self.intake;
            let mut events = Vec::new();
            match received {
                Err(_) => {
                    let silent = self.silent();
                    self.intake.reader.fail(silent, &mut events);
                }
                Ok(Ok(None)) => intake.reader.end(intake.clock.timings(), &mut events),
                Ok(Err(error)) => intake.reader.fail(error.told(&intake.name), &mut events),
                Ok(Ok(Some(bytes))) => intake.take(bytes, &mut events),
            }
            self.intake.events.extend(events);
        }
    }

    /// How long the next bytes may take.
    fn patience(&self) -> Duration {
        let clock = &self.intake.clock;
        match clock.first {
            Some(_) => self.timeouts.silence,
            // A long prompt is read in silence.
            None => {
                let rest = self.timeouts.first_token;
                rest.saturating_sub(clock.sent.elapsed())
            }
        }
    }

    fn silent(&self) -> JobFailure {
        let (name, clock) = (&self.intake.name, &self.intake.clock);
        if clock.first.is_none() && clock.sent.elapsed() >= self.timeouts.first_token {
            return late(name, self.timeouts.first_token);
        }
        let limit = self.timeouts.silence.as_secs();
        let message = format!("`{name}` was silent for {limit} s.");
        failure(UpstreamFault::TimedOut, message)
    }
}

impl Intake {
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

    #[test]
    fn an_answer_that_is_gathered_has_a_limit() {
        let chunk = "data: {\"choices\": [{\"index\": 0, \"delta\": {\"content\": \"a\"}}]}\n\n";
        let mut intake = Intake {
            name: "desk".to_owned(),
            bytes_left: 3 * chunk.len(),
            frames: Frames::default(),
            reader: Reader::new(
                "desk",
                AnswerKind::Chat { n: 1 },
                CallIds::default(),
                Vec::new(),
            ),
            events: VecDeque::new(),
            clock: Clock::new(Instant::now()),
        };
        let mut events = Vec::new();
        while !intake.reader.is_over() {
            intake.take(chunk.as_bytes(), &mut events);
        }
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
}
