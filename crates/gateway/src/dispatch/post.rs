//! One provider: what it has, how it does, who is there.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use providers::Provider;
use router::{Load, Model, Outcome, Reach, Standing};
use tokio::sync::{Notify, Semaphore, watch as channel};

use super::{Prices, RoutedProvider};

/// Time between two looks at a provider that is there.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The first pause after a look at one that is not; each further look doubles it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A provider with what is known of it.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) name: Arc<str>,
    pub(crate) reach: Reach,
    pub(crate) provider: Arc<dyn Provider>,
    priority: u32,
    weight: u32,
    default_model: Option<String>,
    pub(super) prices: Prices,
    places_max: u32,
    pub(super) places: Arc<Semaphore>,
    state: Mutex<State>,
    /// Becomes true with the first look.
    looked: channel::Sender<bool>,
    /// Something says that it should be looked at now.
    look_now: Notify,
}

#[derive(Debug, Default)]
struct State {
    standing: Standing,
    models: Arc<[Model]>,
}

impl Post {
    pub(super) fn new(routed: RoutedProvider) -> Self {
        let places_max = routed.requests_max.max(1);
        Self {
            name: routed.name.into(),
            reach: routed.reach,
            provider: routed.provider,
            priority: routed.priority,
            weight: routed.weight,
            default_model: routed.default_model,
            prices: routed.prices,
            places_max,
            places: Arc::new(Semaphore::new(places_max as usize)),
            state: Mutex::default(),
            looked: channel::Sender::new(false),
            look_now: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has been looked at once.
    pub(super) async fn looked(&self) {
        let mut looked = self.looked.subscribe();
        // The sender lives as long as `self`.
        let _ = looked.wait_for(|looked| *looked).await;
    }

    pub(super) fn picture(&self) -> router::Provider {
        let state = self.state();
        let free = u32::try_from(self.places.available_permits()).unwrap_or(u32::MAX);
        router::Provider {
            name: self.name.to_string(),
            reach: self.reach,
            priority: self.priority,
            weight: self.weight,
            availability: state.standing.availability(Instant::now()),
            load: Load {
                running: self.places_max.saturating_sub(free),
                running_max: self.places_max,
            },
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

    pub(super) fn sent(&self) {
        self.state().standing.sent(Instant::now());
    }

    pub(super) fn began(&self, ttft: Duration) {
        self.state().standing.began(ttft);
    }

    pub(super) fn ended(&self, outcome: &Outcome) {
        self.state().standing.ended(outcome, Instant::now());
        if matches!(outcome, Outcome::Unreachable { .. }) {
            self.look_now.notify_one();
        }
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

/// Looks at a provider from time to time until it is gone.
pub(super) fn watch(post: &Arc<Post>) {
    let post = Arc::downgrade(post);
    tokio::spawn(async move {
        let mut failing = Duration::ZERO;
        while let Some(post) = post.upgrade() {
            let pause = post.look(&mut failing).await;
            let name = Arc::clone(&post.name);
            tokio::select! {
                () = tokio::time::sleep(jittered(pause, &name)) => {}
                () = post.look_now.notified() => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    });
}
