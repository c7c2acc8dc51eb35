//! One request, from the door to the last byte of its answer.

use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::{Delta, Event, FinishReason};
use router::{Decision, Exclusion, Route, Target};
use stdx::{Cost, Secret};
use store::Scope;
use subtle::ConstantTimeEq;

use super::refusals::{barred, forbidden, refused};
use super::row::{Numbers, Packed, Texts};
use super::span::{Story, Trace};
use super::{Amount, Caller, Clock, Control, Holder, Moment, Need};
use crate::AppState;
use crate::dispatch::{EMBEDDED, Price, Settled, Tracing, Trail};
use crate::error::{ApiError, ErrorCode};
use crate::limits::AUDIT_TEXT_BYTES_MAX;

/// A request's headers, and the request itself for those who write down what becomes of it.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    headers: HeaderMap,
    visit: Arc<Visit>,
}

impl Deref for Head {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        &self.headers
    }
}

impl Head {
    pub(crate) fn visit(&self) -> &Arc<Visit> {
        &self.visit
    }

    /// Whose responses the request may see.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.visit.caller().owner()
    }

    pub(crate) fn has(&self, scope: Scope) -> bool {
        self.visit.caller().has(scope)
    }

    /// For what needs more than the route it stands behind.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), ApiError> {
        self.visit.require(scope)
    }

    /// Whether a list of models shows it one of this process.
    pub(crate) fn sees_own(&self, model: &str) -> bool {
        let own = Target {
            provider: EMBEDDED.to_owned(),
            model: model.to_owned(),
        };
        self.sees(model, &[own])
    }

    /// Whether a list of models shows it one of this name, which stands for these targets.
    pub(crate) fn sees(&self, name: &str, targets: &[Target]) -> bool {
        let Some(holder) = self.visit.holder() else {
            return true;
        };
        let mut targets = targets.iter();
        targets.any(|target| holder.may_use(Some(name), target))
    }

    /// For what changes what is on disk: the audit log notes it.
    pub(crate) fn changes(&self, model: &str) {
        self.visit.asks(Some(model));
    }

    /// For what loads or unloads a model of this process without asking it for an answer:
    /// the audit log notes it, and a key does it to the models that it may use.
    pub(crate) fn manages(&self, model: &str) -> Result<(), ApiError> {
        self.visit.manages(model)
    }
}

impl FromRequestParts<AppState> for Head {
    type Rejection = ApiError;

    /// Nothing is answered that did not come through the door, since nobody has looked at
    /// its key.
    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, ApiError> {
        let visit = parts.extensions.get::<Arc<Visit>>().cloned();
        let stray = || ApiError::message(ErrorCode::Internal, "Nobody has looked at its key.");
        Ok(Self {
            headers: parts.headers.clone(),
            visit: visit.ok_or_else(stray)?,
        })
    }
}

/// A request and what became of it.
#[derive(Debug)]
pub(crate) struct Visit {
    id: String,
    route: Arc<str>,
    began: Instant,
    at_ms: u64,
    keeps_texts: bool,
    trace: Trace,
    /// Not the whole [`Control`], which must end with the server.
    clock: Option<Arc<Clock>>,
    caller: OnceLock<Caller>,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    /// It is worth a row of the audit log.
    is_due: bool,
    /// It was asked for a key and has none that holds.
    is_stranger: bool,
    /// It has one of its key's places.
    has_place: bool,
    model: Option<String>,
    settled: Option<Arc<Settled>>,
    trail: Option<Arc<Trail>>,
    /// Of the decision's candidates; empty where none costs anything.
    prices: Vec<Price>,
    reserved: Amount,
    jobs: Vec<JobUse>,
    cached_tokens: u64,
    first: Option<Duration>,
    /// Where they are recorded.
    finish_reasons: Vec<FinishReason>,
    error: Option<&'static str>,
    prompt: String,
    answer: String,
}

/// What one of a request's jobs used.
#[derive(Debug, Default)]
struct JobUse {
    /// What its prompt may take; counted where no answer tells.
    prompt_estimate: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    /// Bytes that were generated and that no answer has counted.
    open_bytes: u64,
    /// Something has come of it.
    began: bool,
}

impl JobUse {
    /// Tokens of its prompt and of its answer. `held_bytes` were generated and not shown;
    /// `None`: nobody was sent the job.
    fn tokens(&self, held_bytes: Option<u64>) -> (u64, u64) {
        if !self.began && held_bytes.is_none() {
            return (0, 0);
        }
        let prompt = match self.prompt_tokens {
            0 => self.prompt_estimate,
            told => told,
        };
        let bytes = self.open_bytes.saturating_add(held_bytes.unwrap_or(0));
        (
            prompt,
            self.completion_tokens + bytes.div_ceil(BYTES_PER_TOKEN),
        )
    }
}

/// Bytes of text that make a token, about; the rule of thumb for English.
pub(crate) const BYTES_PER_TOKEN: u64 = 4;

impl Visit {
    pub(crate) fn begin(
        state: &AppState,
        headers: &HeaderMap,
        (id, route): (String, Arc<str>),
    ) -> Arc<Self> {
        let control = state.control();
        let visit = Arc::new(Self {
            id,
            route,
            began: Instant::now(),
            at_ms: control.map_or(0, |control| control.now().unix_ms),
            keeps_texts: control.is_some_and(|control| control.options().audit_texts),
            trace: Trace::new(headers, state.config().traces.as_ref()),
            clock: control.map(|control| Arc::clone(control.clock())),
            caller: OnceLock::new(),
            record: Mutex::default(),
        });
        #[cfg(test)]
        if let Some(control) = control {
            control.began(&visit);
        }
        visit
    }

    /// Tokens of its prompts and of its answers so far.
    #[cfg(test)]
    pub(crate) fn tokens(&self) -> (u64, u64) {
        let (prompt, completion, _) = Self::used(&self.record());
        (prompt, completion)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// As it is written in the table of routes.
    pub(crate) fn route(&self) -> &Arc<str> {
        &self.route
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Held for a few assignments, never over an await.
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn caller(&self) -> &Caller {
        const ANYONE: &Caller = &Caller::Anyone;
        self.caller.get().unwrap_or(ANYONE)
    }

    fn holder(&self) -> Option<&Arc<Holder>> {
        self.caller().holder()
    }

    /// What the providers are told of the trace that it belongs to.
    pub(crate) fn tracing(&self) -> Tracing {
        self.trace.tracing()
    }

    /// Whose limits it counts against, and the time.
    fn metered(&self) -> Option<(&Arc<Holder>, Moment)> {
        Some((self.holder()?, self.clock.as_ref()?.now()))
    }

    /// Finds out who it is and whether they may do this. `operator` is the key of the
    /// settings.
    pub(crate) fn identify(
        &self,
        need: Need,
        headers: &HeaderMap,
        operator: Option<&Secret>,
        control: Option<&Control>,
    ) -> Result<(), ApiError> {
        let asks = operator.is_some() || control.is_some_and(Control::asks_for_a_key);
        if need == Need::Nothing || !asks {
            return Ok(());
        }
        let caller = caller(headers, operator, control).map_err(|detail| {
            self.record().is_stranger = true;
            ApiError::new(ErrorCode::Unauthorized, &[("detail", detail)])
        })?;
        // Nobody else sets it.
        let _ = self.caller.set(caller);
        match need {
            Need::Scope(scope) => self.require(scope),
            Need::Key | Need::Nothing => Ok(()),
        }
    }

    fn require(&self, scope: Scope) -> Result<(), ApiError> {
        let caller = self.caller();
        if caller.has(scope) {
            return Ok(());
        }
        self.record().is_due = true;
        Err(forbidden(scope, caller.scopes()))
    }

    /// Takes one of the key's requests.
    pub(crate) fn enter(&self) -> Result<(), ApiError> {
        let Some((holder, now)) = self.metered() else {
            return Ok(());
        };
        let entered = holder.enter(now);
        let mut record = self.record();
        record.has_place = entered.is_ok();
        record.is_due |= entered.is_err();
        entered.map_err(|refusal| refused(holder.name(), refusal))
    }

    /// It is an act of an administrator, and worth a row whatever comes of it.
    pub(crate) fn acts(&self) {
        self.record().is_due = true;
    }

    /// It asks for an answer of this model.
    pub(crate) fn asks(&self, model: Option<&str>) {
        let mut record = self.record();
        record.is_due = true;
        record.model = model.map(str::to_owned);
    }

    fn manages(&self, model: &str) -> Result<(), ApiError> {
        self.asks(Some(model));
        let target = Target {
            provider: EMBEDDED.to_owned(),
            model: model.to_owned(),
        };
        match self.holder() {
            Some(holder) if !holder.may_use(None, &target) => Err(barred(holder.name(), &target)),
            _ => Ok(()),
        }
    }

    /// Whether its tokens are to be estimated before it runs.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.holder().is_some_and(|holder| holder.counts_tokens())
    }

    /// Whether the audit log keeps the beginning of its texts.
    pub(crate) fn keeps_texts(&self) -> bool {
        self.keeps_texts
    }

    /// Keeps the beginning of the prompts.
    pub(crate) fn prompts(&self, texts: &[&str]) {
        let mut record = self.record();
        for text in texts {
            let prompt = &mut record.prompt;
            if !prompt.is_empty() {
                append(prompt, "\n");
            }
            append(prompt, text);
        }
    }

    /// Takes out the candidates that the key may not use, or cannot pay for.
    pub(crate) fn restrict(
        &self,
        decision: &mut Decision,
        asked: Option<&str>,
        cost: impl Fn(&Target) -> Cost,
    ) {
        let Some((holder, now)) = self.metered() else {
            return;
        };
        // The name of a model stands for that model alone, not for what answers in its place.
        let asked = asked.filter(|_| !matches!(decision.route, Route::Name(_)));
        decision.exclude(|candidate| holder.bars(asked, candidate));
        if let Some(left) = holder.cost_left(now) {
            decision.exclude(|candidate| {
                (cost(&candidate.target) > left).then(|| Exclusion::OverBudget {
                    key: holder.name().to_owned(),
                })
            });
        }
    }

    /// A decision was made; from here on `trail` tells the rest.
    pub(crate) fn decided(&self, settled: &Arc<Settled>, trail: &Arc<Trail>, prices: Vec<Price>) {
        let mut record = self.record();
        record.settled = Some(Arc::clone(settled));
        record.trail = Some(Arc::clone(trail));
        record.prices = prices;
    }

    /// Sets aside what it may take.
    pub(crate) fn reserve(&self, asked: Amount) -> Result<(), ApiError> {
        let Some((holder, now)) = self.metered() else {
            return Ok(());
        };
        let reserved = holder.reserve(asked, now);
        reserved.map_err(|refusal| refused(holder.name(), refusal))?;
        self.record().reserved = asked;
        Ok(())
    }

    /// One of its jobs is to run. Gives the job's place among them.
    pub(crate) fn adds_job(&self, prompt_estimate: u64) -> usize {
        let mut record = self.record();
        record.jobs.push(JobUse {
            prompt_estimate,
            ..JobUse::default()
        });
        record.jobs.len() - 1
    }

    /// Looks at an event of one of its jobs on its way out.
    pub(crate) fn saw(&self, job: usize, event: &Event) {
        let mut record = self.record();
        let record = &mut *record;
        let Some(used) = record.jobs.get_mut(job) else {
            return;
        };
        match event {
            Event::Delta { delta, .. } => {
                used.open_bytes = used.open_bytes.saturating_add(delta_bytes(delta));
                if record.first.is_none() {
                    record.first = Some(self.began.elapsed());
                }
                if let (true, Delta::Text { text }) = (self.keeps_texts, delta) {
                    append(&mut record.answer, text);
                }
            }
            Event::Finished { reason, .. } if self.trace.is_recorded() => {
                record.finish_reasons.push(*reason);
            }
            Event::Done { usage, .. } => {
                used.prompt_tokens += u64::from(usage.prompt_tokens);
                used.completion_tokens += u64::from(usage.completion_tokens);
                if usage.prompt_tokens > 0 || usage.completion_tokens > 0 {
                    used.open_bytes = 0;
                }
                record.cached_tokens += u64::from(usage.cached_tokens);
            }
            Event::Embeddings { prompt_tokens, .. } => {
                used.prompt_tokens += u64::from(*prompt_tokens);
            }
            Event::Failed(failure) => {
                record.error = Some(ApiError::from(failure.clone()).row().code);
                return;
            }
            _ => {}
        }
        used.began = true;
    }

    /// It was answered with this error.
    pub(crate) fn failed(&self, error: &ApiError) {
        self.record().error = Some(error.row().code);
    }

    /// Says in OpenAI's headers what the key has left of this minute.
    pub(crate) fn tell_levels(&self, headers: &mut HeaderMap) {
        let Some((holder, now)) = self.metered() else {
            return;
        };
        for (names, level) in LEVELS.iter().zip(holder.levels(now)) {
            let Some(level) = level else { continue };
            headers.insert(names[0].clone(), HeaderValue::from(level.limit));
            headers.insert(names[1].clone(), HeaderValue::from(level.remaining));
            if let Ok(reset) = HeaderValue::from_str(&in_go(level.reset)) {
                headers.insert(names[2].clone(), reset);
            }
        }
    }

    /// What it used, by the answer, or by estimate where that broke off or does not tell.
    fn used(record: &Record) -> (u64, u64, Cost) {
        let (Some(trail), Some(settled)) = (&record.trail, &record.settled) else {
            return (0, 0, Cost::default());
        };
        let Some(served) = trail.worked() else {
            return (0, 0, Cost::default());
        };
        let jobs = record.jobs.iter().enumerate();
        let (prompt, completion) = jobs
            .map(|(index, job)| job.tokens(trail.held_of(index)))
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let mut candidates = settled.decision.candidates.iter();
        let place = candidates.position(|candidate| candidate.target == served);
        let price = place.and_then(|place| record.prices.get(place));
        let cost = price.map_or(Cost::default(), |price| price.of(prompt, completion));
        (prompt, completion, cost)
    }

    /// Settles what was reserved, and gives up the key's place.
    fn charge(&self) {
        let Some((holder, now)) = self.metered() else {
            return;
        };
        let mut record = self.record();
        let (prompt, completion, cost) = Self::used(&record);
        let used = Amount {
            tokens: prompt + completion,
            cost,
        };
        let reserved = std::mem::take(&mut record.reserved);
        holder.settle(reserved, used, now);
        if std::mem::take(&mut record.has_place) {
            holder.leave();
        }
    }

    /// Its spans.
    fn tell_story(&self, status: u16) {
        let mut record = self.record();
        if !self.trace.is_recorded() || !record.is_due {
            return;
        }
        let (prompt_tokens, completion_tokens, _) = Self::used(&record);
        let finish_reasons = std::mem::take(&mut record.finish_reasons);
        let decision = record.settled.as_ref().map(|settled| &settled.decision);
        let trail = record.trail.as_ref();
        let story = Story {
            route: self.route.to_string(),
            request_id: self.id.clone(),
            status,
            model: record.model.clone(),
            served: trail.and_then(|trail| trail.target()),
            decision: decision.map(|decision| decision.route.to_string()),
            privacy: decision.map(|decision| decision.limit.reach.label()),
            attempts: trail.map_or(0, |trail| trail.attempts()),
            trail: trail.and_then(|trail| trail.failures()),
            tries: trail.map_or_else(Vec::new, |trail| trail.recorded()),
            prompt_tokens,
            cached_tokens: record.cached_tokens,
            completion_tokens,
            finish_reasons,
            first: record.first,
            error: record.error,
        };
        drop(record);
        self.trace.record(self.began, story);
    }

    /// Its row of the audit log.
    fn row(&self, status: u16, duration: Duration) -> Packed {
        let record = self.record();
        let (prompt_tokens, completion_tokens, cost) = Self::used(&record);
        let trail = record.trail.as_ref();
        let numbers = Numbers {
            at_ms: self.at_ms,
            attempts: trail.map_or(0, |trail| trail.attempts()),
            status,
            prompt_tokens,
            cached_tokens: record.cached_tokens,
            completion_tokens,
            ttft_ms: record.first.map(milliseconds),
            duration_ms: milliseconds(duration),
            cost,
        };
        let kept = record.prompt.len() + record.answer.len();
        let mut texts = Texts::with_capacity(kept + ROW_BYTES);
        texts
            .add(Some(&self.id))
            .add(self.holder().map(|holder| &holder.key.id))
            .add(match self.caller() {
                Caller::Anyone => None,
                Caller::Operator => Some(OPERATOR),
                Caller::Holder(holder) => Some(holder.name()),
            })
            .add(Some(&self.route))
            .add(record.model.as_ref())
            .add(trail.and_then(|trail| trail.served_by()))
            .add(trail.and_then(|trail| trail.failures()))
            .add(record.error)
            .add(self.keeps_texts.then_some(&record.prompt))
            .add(self.keeps_texts.then_some(&record.answer));
        let settled = record.settled.as_ref();
        Packed {
            numbers,
            texts,
            decision: settled.map(|settled| Arc::clone(&settled.decision)),
        }
    }
}

/// Bytes that the short texts of a row take, about.
const ROW_BYTES: usize = 192;
/// What the audit log calls the holder of the key of the settings.
const OPERATOR: &str = "(operator)";

/// Ends a visit when it is dropped, which is when the last byte was sent or the client left.
#[derive(Debug)]
pub(crate) struct VisitEnd {
    pub(crate) visit: Arc<Visit>,
    pub(crate) control: Option<Control>,
    pub(crate) status: u16,
}

impl Drop for VisitEnd {
    fn drop(&mut self) {
        if self.visit.trace.is_recorded() {
            self.visit.tell_story(self.status);
        }
        let Some(control) = &self.control else { return };
        self.visit.charge();
        if !control.options().audit {
            return;
        }
        let is_due = {
            let record = self.visit.record();
            record.is_due || (record.is_stranger && control.notes_stranger())
        };
        if is_due {
            let duration = self.visit.began.elapsed();
            let row = self.visit.row(self.status, duration);
            control.writer().audit(row.n_bytes(), row);
        }
    }
}

/// Whose key the request has, or what is wrong with it.
fn caller(
    headers: &HeaderMap,
    operator: Option<&Secret>,
    control: Option<&Control>,
) -> Result<Caller, &'static str> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    let given = bearer.or_else(|| {
        headers
            .get("x-api-key")
            .and_then(|value| value.to_str().ok())
    });
    let given = given.ok_or("This endpoint asks for an API key and the request has none.")?;
    // Comparison in constant time does not tell how much of a guess was right.
    let is_operator = |key: &Secret| bool::from(given.as_bytes().ct_eq(key.expose().as_bytes()));
    if operator.is_some_and(is_operator) {
        return Ok(Caller::Operator);
    }
    let holder = control.and_then(|control| control.find(given));
    // An expired or revoked key is not told from one that never was.
    holder.map(Caller::Holder).ok_or("The API key is wrong.")
}

/// Bytes of text that were generated.
pub(crate) fn delta_bytes(delta: &Delta) -> u64 {
    let bytes = match delta {
        Delta::Text { text } | Delta::Reasoning { text } => text.len(),
        Delta::ToolCallStart { name, .. } => name.len(),
        Delta::ToolCallArguments { text, .. } => text.len(),
    };
    bytes as u64
}

/// As much of a text as the audit log keeps.
fn append(kept: &mut String, text: &str) {
    let room = AUDIT_TEXT_BYTES_MAX.saturating_sub(kept.len());
    let cut = text.floor_char_boundary(room.min(text.len()));
    kept.push_str(&text[..cut]);
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Limit, remaining and reset, of requests and of tokens.
static LEVELS: [[HeaderName; 3]; 2] = [
    [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
];

/// A time as Go writes it, which is how OpenAI's headers have it: `250ms`, `59.5s`, `1m30s`.
fn in_go(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{}ms", time.as_millis());
    }
    let mut text = String::new();
    let minutes = time.as_secs() / 60;
    if minutes > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, "{minutes}m");
    }
    let seconds = (time - Duration::from_secs(minutes * 60)).as_millis();
    let _ = write!(text, "{}s", seconds as f64 / 1000.0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_does() {
        for (ms, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (1000, "1s"),
            (59_500, "59.5s"),
            (90_000, "1m30s"),
            (120_000, "2m0s"),
        ] {
            assert_eq!(in_go(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn kept_texts_end_at_a_character() {
        let mut kept = String::new();
        append(&mut kept, &"é".repeat(AUDIT_TEXT_BYTES_MAX));
        append(&mut kept, "more");
        assert_eq!(kept.len(), AUDIT_TEXT_BYTES_MAX);
        let mut kept = "a".to_owned();
        append(&mut kept, &"é".repeat(AUDIT_TEXT_BYTES_MAX));
        assert_eq!(kept.len(), AUDIT_TEXT_BYTES_MAX - 1);
    }
}
