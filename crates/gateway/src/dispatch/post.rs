//! One provider: what it has, how it does, who is there.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use providers::Provider;
use router::{Capability, Knowledge, Model, Outcome, Reach, Standing, same_name};
use tokio::sync::{Notify, watch as channel};

use super::places::Places;
use super::{Prices, RoutedProvider};

/// Time between two looks at a provider that is there.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The first pause after a look at one that is not; each further look doubles it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A provider as the rules in force see it.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) name: Arc<str>,
    pub(crate) reach: Reach,
    priority: u32,
    weight: u32,
    default_model: Option<String>,
    pub(super) prices: Prices,
    site: Arc<Site>,
}

/// An engine and what is known of it; stays when the rules around it change.
#[derive(Debug)]
struct Site {
    name: Arc<str>,
    provider: Arc<dyn Provider>,
    places: Arc<Places>,
    state: Mutex<State>,
    /// Becomes true with the first look.
    looked: channel::Sender<bool>,
    /// Something says that it should be looked at now.
    look_now: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    standing: Standing,
    models: Arc<[Model]>,
}

impl Post {
    /// A post at the engine that one of `known` stands at already, or at a new one, which is
    /// looked at from now on.
    pub(super) fn new(routed: RoutedProvider, known: &[Arc<Self>]) -> Self {
        let name: Arc<str> = routed.name.into();
        let is_same =
            |post: &&Arc<Self>| post.name == name && routed.provider.is_same(&*post.site.provider);
        let site = match known.iter().find(is_same) {
            Some(post) => {
                post.site.places.set_max(routed.requests_max);
                Arc::clone(&post.site)
            }
            None => {
                let site = Site::new(Arc::clone(&name), routed.provider, routed.requests_max);
                watch(&site);
                site
            }
        };
        Self {
            name,
            reach: routed.reach,
            priority: routed.priority,
            weight: routed.weight,
            default_model: routed.default_model,
            prices: routed.prices,
            site,
        }
    }

    /// Whether both stand at one engine.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.site, &other.site)
    }

    pub(crate) fn provider(&self) -> &dyn Provider {
        &*self.site.provider
    }

    pub(super) fn places(&self) -> &Arc<Places> {
        &self.site.places
    }

    pub(super) fn picture(&self) -> router::Provider {
        let state = self.site.state();
        router::Provider {
            name: self.name.to_string(),
            reach: self.reach,
            priority: self.priority,
            weight: self.weight,
            availability: state.standing.availability(Instant::now()),
            load: self.site.places.load(),
            ttft: state.standing.ttft(),
            default_model: self.default_model(&state.models),
            models: Arc::clone(&state.models),
        }
    }

    /// The one that is set, else its only one.
    fn default_model(&self, models: &[Model]) -> Option<String> {
        let only = || match models {
            [model] => Some(model.name.clone()),
            _ => None,
        };
        self.default_model.clone().or_else(only)
    }

    /// Whether a model of it is known to have a capability.
    pub(super) fn has(&self, model: &str, capability: Capability) -> bool {
        let state = self.site.state();
        let mut models = state.models.iter();
        let model = models.find(|known| same_name(&known.name, model));
        model.is_some_and(|model| model.knowledge(capability) == Some(Knowledge::Has))
    }

    pub(super) fn was_looked_at(&self) -> bool {
        *self.site.looked.borrow()
    }

    /// Waits until it has been looked at once.
    pub(super) async fn looked(&self) {
        let mut looked = self.site.looked.subscribe();
        // The sender lives as long as the site.
        let _ = looked.wait_for(|looked| *looked).await;
    }

    pub(super) fn sent(&self) {
        self.site.state().standing.sent(Instant::now());
    }

    pub(super) fn began(&self, ttft: Duration) {
        self.site.state().standing.began(ttft);
    }

    pub(super) fn ended(&self, outcome: &Outcome) {
        self.site.state().standing.ended(outcome, Instant::now());
        if matches!(outcome, Outcome::Unreachable { .. }) {
            self.site.look_now.notify_one();
        }
    }
}

impl Site {
    fn new(name: Arc<str>, provider: Arc<dyn Provider>, requests_max: u32) -> Arc<Self> {
        Arc::new(Self {
            name,
            provider,
            places: Places::new(requests_max),
            state: Mutex::default(),
            looked: channel::Sender::new(false),
            look_now: Arc::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at it once; the pause until the next look. `failing` is the pause after the
    /// last look if that found nobody.
    async fn look(&self, failing: &mut Duration) -> Duration {
        let survey = self.provider.survey().await;
        let next = {
            let mut state = self.state();
            match survey {
                Ok(survey) => {
                    state.models = survey.models.into();
                    state.standing.looked_at(Ok(()));
                    *failing = Duration::ZERO;
                    LOOK_EVERY
                }
                Err(cause) => {
                    tracing::debug!(provider = %self.name, cause, "a provider is down");
                    state.standing.looked_at(Err(cause));
                    *failing = (*failing * 2).clamp(LOOK_AGAIN, LOOK_EVERY);
                    *failing
                }
            }
        };
        self.looked.send_replace(true);
        next
    }
}

/// A pause that is up to a fifth longer, so that many boxes do not look at one in step.
fn jittered(pause: Duration, name: &str) -> Duration {
    let random = RandomState::new().hash_one(name) % 1000;
    pause + pause.mul_f64(0.2 * random as f64 / 1000.0)
}

/// Looks at an engine from time to time until it is gone. Between two looks nothing holds it.
fn watch(site: &Arc<Site>) {
    let site = Arc::downgrade(site);
    tokio::spawn(async move {
        let mut failing = Duration::ZERO;
        while let Some(site) = site.upgrade() {
            let pause = site.look(&mut failing).await;
            let pause = jittered(pause, &site.name);
            let (asked, changed) = (Arc::clone(&site.look_now), site.provider.changed());
            drop(site);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changed => {}
                () = asked.notified() => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    });
}
