//! From a request to whoever answers it.
//!
//! [`Dispatch`] knows all providers: the models of this process behind [`Backend`], and
//! engines that others run. It draws a picture of them for [`router::decide`] and runs jobs
//! by the decision, from candidate to candidate until one begins to answer.

mod continuation;
mod needs;
mod places;
mod post;
mod price;
mod refusal;
mod run;
mod trail;
mod worded;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use proto::{Job, ModelFacts};
use providers::{HOPS_HEADER, PRIORITY_HEADER, PRIVACY_HEADER, Provider, discover};
use router::{
    Ask, Availability, Bound, Capability, Decision, Fleet, Knowledge, Limit, Load, Model, Policy,
    Reach, Rules, Target, Wanted, same_name,
};
use stdx::Priority;
use supervisor::{ModelPhase, ModelStatus};

use crate::access::{Head, Visit};
use crate::backend::Backend;
use crate::error::{ApiError, ErrorCode};
use crate::limits::quoted;
use worded::Wordings;

pub(crate) use needs::Facts;
pub(crate) use post::Post;
pub(crate) use price::Estimate;
pub use price::{Price, Prices};
pub(crate) use refusal::{not_loaded, refusal};
pub(crate) use run::Delivery;
pub(crate) use trail::{Tracing, Trail, Try};
pub(crate) use worded::Worded;

/// The name under which the models of this process are asked for.
pub const EMBEDDED: &str = "embedded";

/// Conversations whose provider is remembered; the oldest half goes when there are more.
const HOMES_MAX: usize = 8_192;
/// How long the first request waits until all providers have been looked at once.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Providers and rules, as the operator wants them.
#[derive(Debug)]
pub struct Routing {
    pub providers: Vec<RoutedProvider>,
    pub policy: Policy,
    pub rules: Rules,
    /// How far requests travel that say nothing of it.
    pub reach_default: Reach,
    /// How far requests with images travel; `None`: as far as the strictest rule allows.
    pub image_reach: Option<Reach>,
    /// The embedded engine's place among the providers.
    pub embedded_priority: u32,
    /// How long a request waits for a place at a provider that is full.
    pub queue_timeout: Duration,
    /// After so long a silence the next candidate is asked too; `None`: never.
    pub hedge_after: Option<Duration>,
    /// Whether an answer that breaks off is continued elsewhere where the request does not
    /// say.
    pub continue_streams: bool,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            providers: Vec::new(),
            policy: Policy::default(),
            rules: Rules::default(),
            reach_default: Reach::Cloud,
            image_reach: None,
            embedded_priority: 0,
            queue_timeout: Duration::from_secs(30),
            hedge_after: None,
            continue_streams: false,
        }
    }
}

/// An engine that somebody else runs.
#[derive(Debug)]
pub struct RoutedProvider {
    pub name: String,
    pub provider: Arc<dyn Provider>,
    pub reach: Reach,
    /// The smaller is tried first.
    pub priority: u32,
    /// Its share among providers of the same priority; 0 takes no new conversations.
    pub weight: u32,
    /// Requests it is given at once.
    pub requests_max: u32,
    /// What answers where no model is named.
    pub default_model: Option<String>,
    /// What its tokens cost.
    pub prices: Prices,
}

/// What a request says of where it may go.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// As the client names it.
    model: Option<String>,
    /// The model of this process that is meant, whatever the client calls it.
    own: Option<String>,
    /// The values of its privacy headers.
    privacy: Vec<String>,
    /// What the client calls its conversation.
    conversation: Option<String>,
    /// Endpoints of ours that have sent the request on.
    hops: Option<String>,
    /// How far the kept texts may travel that it continues.
    kept: Option<Reach>,
    /// Its headers on priority and continuation, as they are.
    priority: Option<String>,
    continues: Option<String>,
    /// The request itself.
    visit: Arc<Visit>,
}

/// Asks for an answer that breaks off to be continued by another provider.
const CONTINUE_HEADER: &str = "x-sextant-continue";
/// Endpoints of ours that a request may pass; more is a circle.
const HOPS_MAX: u32 = 3;

// Each request is searched for them, so their names are read once and not each time.
static PRIVACY: HeaderName = HeaderName::from_static(PRIVACY_HEADER);
static HOPS: HeaderName = HeaderName::from_static(HOPS_HEADER);
static PRIORITY: HeaderName = HeaderName::from_static(PRIORITY_HEADER);
static CONTINUE: HeaderName = HeaderName::from_static(CONTINUE_HEADER);
/// Names of conversations, as agents send them.
static CONVERSATION: [HeaderName; 3] = [
    HeaderName::from_static("x-session-affinity"),
    HeaderName::from_static("x-claude-code-session-id"),
    HeaderName::from_static("x-session-id"),
];

impl Question {
    /// For this model of this process, which the client calls `asked`.
    pub(crate) fn own(model: &str, asked: Option<String>, head: &Head) -> Self {
        Self {
            own: Some(format!("{EMBEDDED}:{model}")),
            ..Self::new(asked, head)
        }
    }

    /// The same, continuing what may travel only so far.
    pub(crate) fn within(mut self, kept: Reach) -> Self {
        self.kept = Some(kept);
        self
    }

    pub(crate) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    pub(crate) fn visit(&self) -> &Arc<Visit> {
        &self.visit
    }

    pub(crate) fn new(model: Option<String>, head: &Head) -> Self {
        let headers: &HeaderMap = head;
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let mut conversations = CONVERSATION.iter().filter_map(|name| headers.get(name));
        Self {
            model,
            own: None,
            privacy: headers.get_all(&PRIVACY).iter().map(text).collect(),
            conversation: conversations.next().map(text),
            hops: headers.get(&HOPS).map(text),
            kept: None,
            priority: headers.get(&PRIORITY).map(text),
            continues: headers.get(&CONTINUE).map(text),
            visit: Arc::clone(head.visit()),
        }
    }

    /// Endpoints of ours that have sent the request on. One that cannot be read is refused:
    /// read as none, it would let a circle go on for ever.
    fn hops(&self) -> Result<u32, ApiError> {
        let Some(text) = self.hops.as_deref() else {
            return Ok(0);
        };
        let hops = text.parse().map_err(|_| {
            let rule = format!("a whole number from 0 to {HOPS_MAX}");
            ApiError::invalid(HOPS_HEADER, &quoted(text), &rule)
        })?;
        match hops > HOPS_MAX {
            true => Err(circle(hops)),
            false => Ok(hops),
        }
    }

    /// How the request wants to be run.
    fn terms(&self, dispatch: &Dispatch) -> Result<Terms, ApiError> {
        let priority = self.priority.as_deref().map(|word| {
            Priority::from_word(word).ok_or_else(|| {
                let words = Priority::ALL.map(Priority::word).join(", ");
                ApiError::invalid(PRIORITY_HEADER, &quoted(word), &format!("one of {words}"))
            })
        });
        let asked = priority.transpose()?;
        // A key's priority holds where nothing is said, and as a ceiling.
        let ceiling = self.visit().caller().priority();
        let priority = match (asked, ceiling) {
            (Some(asked), Some(ceiling)) => asked.min(ceiling),
            (asked, ceiling) => asked.or(ceiling).unwrap_or_default(),
        };
        let continues = self.continues.as_deref().map(|word| match word {
            "on" => Ok(true),
            "off" => Ok(false),
            word => Err(ApiError::invalid(
                CONTINUE_HEADER,
                &quoted(word),
                "on or off",
            )),
        });
        Ok(Terms {
            priority,
            hedge_after: dispatch.hedge_after,
            continues: continues.transpose()?.unwrap_or(dispatch.continue_streams),
        })
    }
}

/// How a request is run.
#[derive(Debug, Clone, Copy)]
struct Terms {
    priority: Priority,
    hedge_after: Option<Duration>,
    continues: bool,
}

/// A model that is not of this process, as clients ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoutedModel {
    /// `PROVIDER:MODEL`, or an alias.
    pub(crate) id: String,
    /// What the name stands for.
    pub(crate) targets: Vec<Target>,
    pub(crate) provider: String,
    pub(crate) is_loaded: bool,
    pub(crate) context: Option<u32>,
    pub(crate) capabilities: Vec<&'static str>,
}

impl RoutedModel {
    fn new(provider: &str, model: &Model) -> Self {
        let known = model.capabilities.iter();
        let has = known.filter(|(_, knowledge)| *knowledge == Knowledge::Has);
        Self {
            id: format!("{provider}:{}", model.name),
            targets: vec![Target {
                provider: provider.to_owned(),
                model: model.name.clone(),
            }],
            provider: provider.to_owned(),
            is_loaded: model.is_loaded,
            context: model.context,
            capabilities: has.map(|(capability, _)| capability.word()).collect(),
        }
    }
}

/// A decision with what was known when it was made.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) decision: Arc<Worded>,
    /// Of its tokens, where somebody counts them.
    pub(crate) estimate: Option<Estimate>,
    conversation: Option<u64>,
    hops: u32,
    terms: Terms,
}

/// Knows all providers and runs jobs.
pub(crate) struct Dispatch {
    backend: Arc<dyn Backend>,
    posts: Vec<Arc<Post>>,
    policy: Policy,
    rules: Rules,
    reach_default: Reach,
    image_reach: Option<Reach>,
    embedded_priority: u32,
    queue_timeout: Duration,
    hedge_after: Option<Duration>,
    continue_streams: bool,
    memory: Arc<Memory>,
}

/// What outlives a change of the rules.
#[derive(Default)]
struct Memory {
    /// Jobs of the embedded engine that run or wait.
    embedded_running: Arc<AtomicU32>,
    homes: Mutex<HashMap<u64, Home>>,
    tickets: AtomicU64,
    wordings: Wordings,
}

struct Home {
    target: Target,
    /// The greater is the younger.
    age: u64,
}

impl Dispatch {
    /// Keeps an eye on all providers for as long as it is there, so it needs a runtime.
    pub(crate) fn new(backend: Arc<dyn Backend>, routing: Routing) -> Self {
        Self::build(backend, routing, &[], Arc::default())
    }

    /// The same endpoint under other rules. Engines that were there before keep what is
    /// known of them, and their connections; requests that run are not touched.
    pub(crate) fn renewed(&self, routing: Routing) -> Self {
        let (backend, memory) = (Arc::clone(&self.backend), Arc::clone(&self.memory));
        Self::build(backend, routing, &self.posts, memory)
    }

    fn build(
        backend: Arc<dyn Backend>,
        routing: Routing,
        known: &[Arc<Post>],
        memory: Arc<Memory>,
    ) -> Self {
        let providers = routing.providers.into_iter();
        let posts = providers.map(|routed| Arc::new(Post::new(routed, known)));
        Self {
            backend,
            posts: posts.collect(),
            policy: routing.policy,
            rules: routing.rules,
            reach_default: routing.reach_default,
            image_reach: routing.image_reach,
            embedded_priority: routing.embedded_priority,
            queue_timeout: routing.queue_timeout,
            hedge_after: routing.hedge_after,
            continue_streams: routing.continue_streams,
            memory,
        }
    }

    /// Names of the providers that `self` has and `other` has not, or has at another engine.
    pub(crate) fn others_than(&self, other: &Self) -> Vec<String> {
        let is_known = |post: &&Arc<Post>| other.posts.iter().any(|known| known.is_at(post));
        let new = self.posts.iter().filter(|post| !is_known(post));
        new.map(|post| post.name.to_string()).collect()
    }

    /// The ports of this machine at which providers are asked.
    pub(crate) fn local_ports(&self) -> Vec<u16> {
        let addresses = self.posts.iter().filter_map(|post| post.provider().url());
        addresses
            .filter_map(|address| discover::local_port(&address))
            .collect()
    }

    /// Ends the engines that we run, whoever is being answered.
    pub(crate) async fn close(&self) {
        let closing = self.posts.iter().map(|post| post.provider().close());
        futures_util::future::join_all(closing).await;
    }

    /// Whether a target can go on with an answer that another one began.
    fn can_continue(&self, target: &Target) -> bool {
        let post = self.post(&target.provider);
        post.is_none_or(|post| post.has(&target.model, Capability::Continuation))
    }

    pub(crate) fn post(&self, name: &str) -> Option<&Arc<Post>> {
        self.posts.iter().find(|post| &*post.name == name)
    }

    /// Where a request goes. Without jobs only the model's name counts.
    pub(crate) async fn settle(
        &self,
        question: &Question,
        jobs: &[Job],
    ) -> Result<Settled, ApiError> {
        let hops = question.hops()?;
        let mut facts = Facts::default();
        // The rules are asked also where nobody else can answer: what is kept of the request
        // is bound by what they say.
        if !self.posts.is_empty() || !self.rules.is_empty() {
            facts = Facts::of_all(jobs);
        }
        if self.posts.is_empty() {
            facts.needs = Facts::for_us_alone(jobs).needs;
        }
        let wanted = question.own.as_deref().or(question.model.as_deref());
        let wanted =
            Wanted::parse(wanted).ok_or_else(|| no_such_task(wanted.unwrap_or_default()))?;
        let limit = self.limit(question, &facts, jobs)?;
        let terms = question.terms(self)?;
        let conversation = self.conversation(question, &facts);
        let ask = Ask {
            wanted,
            limit,
            needs: facts.needs,
            home: conversation.and_then(|key| self.home(key)),
            ticket: conversation
                .unwrap_or_else(|| self.memory.tickets.fetch_add(1, Ordering::Relaxed)),
        };
        self.first_look().await;
        let mut decision = router::decide(&ask, &self.picture(), &self.policy);
        let visit = question.visit();
        let estimate = visit.counts_tokens().then(|| Estimate::of(jobs));
        let asked = question.model.as_deref();
        visit.restrict(&mut decision, asked, |target| {
            let estimate = estimate.unwrap_or_default();
            estimate.at(self.price(target)).cost
        });
        Ok(Settled {
            decision: self.memory.wordings.of(decision),
            estimate,
            conversation,
            hops,
            terms,
        })
    }

    /// What a model's tokens cost; those of our own engine cost nothing.
    fn price(&self, target: &Target) -> Price {
        let post = self.post(&target.provider);
        post.map_or_else(Price::default, |post| post.prices.of(&target.model))
    }

    /// The prices of a decision's candidates; empty where none costs anything.
    pub(crate) fn prices(&self, decision: &Decision) -> Vec<Price> {
        if self
            .posts
            .iter()
            .all(|post| post.prices == Prices::default())
        {
            return Vec::new();
        }
        let candidates = decision.candidates.iter();
        candidates
            .map(|candidate| self.price(&candidate.target))
            .collect()
    }

    async fn first_look(&self) {
        if self.posts.iter().all(|post| post.was_looked_at()) {
            return;
        }
        let looked = async {
            for post in &self.posts {
                post.looked().await;
            }
        };
        // Whoever is that slow counts as having nothing yet.
        let _ = tokio::time::timeout(FIRST_LOOK, looked).await;
    }

    /// How far the request may travel, and who says so.
    fn limit(
        &self,
        question: &Question,
        facts: &Facts<'_>,
        jobs: &[Job],
    ) -> Result<Limit, ApiError> {
        let mut limits = Vec::new();
        for label in &question.privacy {
            let reach = Reach::from_label(label).ok_or_else(|| no_such_label(label))?;
            let bound = Bound::Header;
            limits.push(Limit { reach, bound });
        }
        limits.extend(question.visit().caller().limit());
        limits.extend(self.policy.name_limit(question.model.as_deref()));
        limits.extend(question.kept.map(|reach| Limit {
            reach,
            bound: Bound::Kept,
        }));
        limits.extend(self.found(facts, jobs));
        if facts.needs.capabilities.contains(&Capability::Vision) {
            limits.extend(self.image_limit());
        }
        Ok(Limit::strictest(limits, self.reach_default))
    }

    /// How far images travel. No rule can look into one, so where nothing else is said each
    /// counts as found by all of them.
    fn image_limit(&self) -> Option<Limit> {
        let reach = self.image_reach.or_else(|| self.rules.strictest())?;
        let bound = Bound::Images;
        Some(Limit { reach, bound })
    }

    /// What the rules say of the texts.
    fn found(&self, facts: &Facts<'_>, jobs: &[Job]) -> Vec<Limit> {
        if self.rules.is_empty() {
            return Vec::new();
        }
        let unescaped = needs::unescaped(jobs);
        let unescaped: Vec<_> = unescaped.iter().map(String::as_str).collect();
        let found = self.rules.limits(&facts.texts);
        found.chain(self.rules.limits(&unescaped)).collect()
    }

    /// A number for the conversation: as the client names it, else by how it began. Without
    /// other providers there is nothing to remember.
    fn conversation(&self, question: &Question, facts: &Facts<'_>) -> Option<u64> {
        if self.posts.is_empty() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        match &question.conversation {
            Some(name) => name.hash(&mut hasher),
            None => facts.beginning()?.hash(&mut hasher),
        }
        question.model.hash(&mut hasher);
        Some(hasher.finish())
    }

    fn home(&self, conversation: u64) -> Option<Target> {
        let homes = self
            .memory
            .homes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        homes.get(&conversation).map(|home| home.target.clone())
    }

    /// Remembers who answered.
    fn settle_down(&self, conversation: u64, target: &Target) {
        let age = self.memory.tickets.fetch_add(1, Ordering::Relaxed);
        let mut homes = self
            .memory
            .homes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(home) = homes.get_mut(&conversation)
            && home.target == *target
        {
            home.age = age;
            return;
        }
        let target = target.clone();
        homes.insert(conversation, Home { target, age });
        if homes.len() > HOMES_MAX {
            let mut ages: Vec<u64> = homes.values().map(|home| home.age).collect();
            let (_, middle, _) = ages.select_nth_unstable(HOMES_MAX / 2);
            let middle = *middle;
            homes.retain(|_, home| home.age > middle);
        }
    }

    /// Whether another provider can answer now.
    pub(crate) fn has_others_up(&self) -> bool {
        let mut pictures = self.posts.iter().map(|post| post.picture());
        pictures.any(|provider| {
            provider.availability == Availability::Up && !provider.models.is_empty()
        })
    }

    /// All providers as they are now.
    pub(crate) fn picture(&self) -> Fleet {
        let mut providers = Vec::with_capacity(1 + self.posts.len());
        providers.push(self.embedded());
        providers.extend(self.posts.iter().map(|post| post.picture()));
        Fleet { providers }
    }

    /// The models of other providers and the aliases, by the names that clients use.
    pub(crate) fn routed_models(&self) -> Vec<RoutedModel> {
        let posts = self.posts.iter().map(|post| post.picture());
        let models = posts.flat_map(|provider| {
            let models = provider.models.iter();
            let models = models.map(|model| RoutedModel::new(&provider.name, model));
            models.collect::<Vec<_>>()
        });
        let fleet = self.picture();
        let aliases = self.policy.aliases.iter();
        let aliases = aliases.map(|(alias, names)| {
            let targets: Vec<_> = names.iter().flat_map(|name| self.targets(name)).collect();
            RoutedModel {
                id: alias.clone(),
                is_loaded: targets.iter().any(|target| is_loaded(&fleet, target)),
                targets,
                provider: "alias".to_owned(),
                context: None,
                capabilities: Vec::new(),
            }
        });
        models.chain(aliases).collect()
    }

    /// What a name in the rules may mean, as far as it is known without asking anybody.
    fn targets(&self, name: &str) -> Vec<Target> {
        let target = |provider: &str, model: &str| Target {
            provider: provider.to_owned(),
            model: model.to_owned(),
        };
        let named = name.split_once(':');
        let is_known = |name: &str| name == EMBEDDED || self.post(name).is_some();
        if let Some((provider, model)) = named.filter(|(name, _)| is_known(name)) {
            return vec![target(provider, model)];
        }
        let posts = self.posts.iter().map(|post| &*post.name);
        let providers = std::iter::once(EMBEDDED).chain(posts);
        providers.map(|provider| target(provider, name)).collect()
    }

    fn embedded(&self) -> router::Provider {
        let statuses = self.backend.models();
        let slots = statuses.iter().filter_map(facts).map(|facts| facts.slots);
        let can_load = statuses.iter().any(|model| model.place.is_listed);
        router::Provider {
            name: EMBEDDED.to_owned(),
            reach: Reach::Device,
            priority: self.embedded_priority,
            weight: 100,
            availability: Availability::Up,
            load: Load {
                running: self.memory.embedded_running.load(Ordering::Relaxed),
                // A model that would have to be loaded has a place too.
                running_max: slots.sum::<u32>().max(u32::from(can_load)),
            },
            ttft: None,
            default_model: default_model(&statuses).map(|model| model.name.clone()),
            models: statuses.iter().map(model).collect(),
        }
    }
}

/// Whether what a target stands for is in memory where it is.
fn is_loaded(fleet: &Fleet, target: &Target) -> bool {
    let Some(provider) = fleet.provider(&target.provider) else {
        return false;
    };
    let name = match target.model.as_str() {
        "" => provider.default_model.as_deref(),
        name => Some(name),
    };
    let mut models = provider.models.iter();
    models.any(|model| model.is_loaded && name.is_some_and(|name| same_name(name, &model.name)))
}

fn no_such_task(model: &str) -> ApiError {
    let tasks = router::Task::ALL.map(router::Task::word).join(", ");
    let rule = format!("auto, or auto: and one of {tasks}, or the name of a model");
    ApiError::invalid("model", &quoted(model), &rule)
}

fn circle(hops: u32) -> ApiError {
    let (value, limit) = (hops.to_string(), HOPS_MAX.to_string());
    ApiError::new(
        ErrorCode::RoutingCircle,
        &[("value", &value), ("limit", &limit)],
    )
}

fn no_such_label(label: &str) -> ApiError {
    let labels = Reach::ALL.map(Reach::label).join(", ");
    ApiError::invalid(PRIVACY_HEADER, &quoted(label), &format!("one of {labels}"))
}

/// The first model that can answer, or will; one in memory before one that has to be loaded.
pub(crate) fn default_model(models: &[ModelStatus]) -> Option<&ModelStatus> {
    let can_answer =
        |model: &&ModelStatus| !matches!(model.phase, ModelPhase::Failed(_) | ModelPhase::Draining);
    let is_here = |model: &&ModelStatus| model.phase != ModelPhase::Unloaded;
    let mut able = models.iter().filter(can_answer);
    let first = able.clone().next();
    able.find(is_here).or(first).or_else(|| models.first())
}

fn facts(status: &ModelStatus) -> Option<&ModelFacts> {
    match &status.phase {
        ModelPhase::Ready(facts) => Some(facts),
        _ => None,
    }
}

/// A model of ours as the router sees it.
fn model(status: &ModelStatus) -> Model {
    let facts = facts(status);
    let knowledge = |has| match has {
        true => Knowledge::Has,
        false => Knowledge::Lacks,
    };
    let mut capabilities = vec![
        (Capability::Vision, Knowledge::Lacks),
        (Capability::JsonSchema, Knowledge::Has),
        (Capability::Grammar, Knowledge::Has),
        (Capability::Logprobs, Knowledge::Has),
        (Capability::Tokens, Knowledge::Has),
        (Capability::Continuation, Knowledge::Has),
    ];
    if let Some(facts) = facts {
        capabilities.extend([
            (Capability::Chat, knowledge(facts.can_chat)),
            (Capability::Tools, knowledge(facts.can_chat)),
            (Capability::Completion, knowledge(facts.can_complete)),
            (Capability::Embeddings, knowledge(facts.can_embed)),
        ]);
    } else if status.place.is_listed {
        // What the file says of it.
        let traits = &status.place.traits;
        capabilities.extend([
            (Capability::Chat, knowledge(traits.can_complete)),
            (Capability::Tools, knowledge(traits.can_complete)),
            (Capability::Completion, knowledge(traits.can_complete)),
            (Capability::Embeddings, knowledge(traits.can_embed)),
        ]);
    }
    Model {
        name: status.name.clone(),
        is_loaded: facts.is_some(),
        context: match facts {
            Some(facts) => Some(facts.context),
            None => status.place.traits.context,
        },
        capabilities,
    }
}
