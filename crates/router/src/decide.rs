//! The decision.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{
    Advantage, Ask, Availability, Candidate, Capability, Decision, Excluded, Exclusion, Fleet,
    Knowledge, Limit, Model, Policy, Provider, Reach, Route, Target, Wanted, same_name,
};

/// Where a request goes: the candidates in the order in which they are tried, and what was
/// left out.
#[must_use]
pub fn decide(ask: &Ask, fleet: &Fleet, policy: &Policy) -> Decision {
    let (route, rungs) = rungs(ask, fleet, policy);
    let mut excluded = Vec::new();
    let mut standings: Vec<Standing<'_>> = Vec::new();
    for (rank, rung) in rungs.iter().enumerate() {
        for (order, provider) in fleet.providers.iter().enumerate() {
            if rung.provider.is_some_and(|name| name != provider.name) {
                continue;
            }
            match admit(ask, policy, provider, rung.model) {
                Ok((model, reach_max)) => {
                    let is_new = |other: &Standing<'_>| {
                        other.provider.name != provider.name || other.model.name != model.name
                    };
                    if standings.iter().all(is_new) {
                        standings.push(Standing {
                            rank,
                            order,
                            is_home: is_home(ask, provider, model),
                            unknown: unknown(ask, provider, model),
                            draw: draw(ask.ticket, provider, fleet),
                            reach_max,
                            provider,
                            model,
                        });
                    }
                }
                Err(reason) => excluded.push(Excluded {
                    provider: provider.name.clone(),
                    model: rung.model.map(str::to_owned),
                    reason,
                }),
            }
        }
    }
    standings.sort_by(|a, b| compare(a, b).0);
    let ahead = |index: usize| {
        let next = standings.get(index + 1)?;
        Some(compare(&standings[index], next).1)
    };
    let candidates = standings
        .iter()
        .enumerate()
        .map(|(index, standing)| Candidate {
            target: standing.target(),
            reach: standing.provider.reach,
            reach_max: standing.reach_max,
            rank: standing.rank,
            ahead: ahead(index),
        });
    Decision {
        route,
        limit: ask.limit.clone(),
        candidates: candidates.collect(),
        excluded,
    }
}

/// One entry of a route's list.
#[derive(Debug, Clone, Copy)]
struct Rung<'a> {
    /// `None`: any.
    provider: Option<&'a str>,
    /// `None`: the provider's default.
    model: Option<&'a str>,
}

impl<'a> Rung<'a> {
    const ANY: Self = Self {
        provider: None,
        model: None,
    };

    /// Reads a name. Only names of providers count before a colon: models have colons too.
    fn parse(name: &'a str, fleet: &Fleet) -> Self {
        match name.split_once(':') {
            Some((provider, model)) if fleet.provider(provider).is_some() => Self {
                provider: Some(provider),
                model: Some(model).filter(|model| !model.is_empty()),
            },
            _ => Self {
                provider: None,
                model: Some(name),
            },
        }
    }
}

fn rungs<'a>(ask: &'a Ask, fleet: &Fleet, policy: &'a Policy) -> (Route, Vec<Rung<'a>>) {
    let parse = |names: &'a [String]| {
        let names = names.iter();
        names.map(|name| Rung::parse(name, fleet)).collect()
    };
    let auto = || match policy.auto.is_empty() {
        true => vec![Rung::ANY],
        false => parse(&policy.auto),
    };
    match &ask.wanted {
        Wanted::Auto => (Route::Auto, auto()),
        Wanted::Task(task) => {
            let rungs = policy.tasks.get(task);
            (
                Route::Task(*task),
                rungs.map_or_else(auto, |names| parse(names)),
            )
        }
        Wanted::Named(name) => {
            if let Some(targets) = policy.aliases.get(name) {
                return (Route::Alias(name.clone()), parse(targets));
            }
            let rung = Rung::parse(name, fleet);
            if rung.provider.is_some() {
                return (Route::Explicit, vec![rung]);
            }
            let mut rungs = vec![rung];
            // Vectors and tokens of another model would be wrong, not second best.
            let is_of_the_model = [Capability::Embeddings, Capability::Tokens];
            let needs = &ask.needs.capabilities;
            if !is_of_the_model
                .iter()
                .any(|capability| needs.contains(capability))
            {
                rungs.extend(parse(&policy.fallback));
            }
            (Route::Name(name.clone()), rungs)
        }
    }
}

/// The provider's model, or the first reason why not. Privacy comes first, so that nothing
/// else of a provider that is too far is ever told.
fn admit<'a>(
    ask: &Ask,
    policy: &Policy,
    provider: &'a Provider,
    model: Option<&str>,
) -> Result<(&'a Model, Reach), Exclusion> {
    near_enough(provider, &ask.limit)?;
    if let (Availability::Down { cause }, []) = (&provider.availability, &*provider.models) {
        // Nobody knows what it has.
        let cause = cause.clone();
        return Err(Exclusion::Down { cause });
    }
    let wanted = model.or(provider.default_model.as_deref());
    let wanted = wanted.ok_or(Exclusion::NoDefaultModel)?;
    let find = |is_it: &dyn Fn(&str) -> bool| {
        let mut models = provider.models.iter();
        models.find(|model| is_it(&model.name))
    };
    let model = find(&|name| name == wanted).or_else(|| find(&|name| same_name(name, wanted)));
    let model = model.ok_or(Exclusion::LacksModel)?;
    let label = policy.target_limit(&provider.name, &model.name);
    if let Some(limit) = &label {
        near_enough(provider, limit)?;
    }
    suits(ask, model)?;
    match &provider.availability {
        Availability::Up | Availability::Unknown => {}
        Availability::Down { cause } => {
            return Err(Exclusion::Down {
                cause: cause.clone(),
            });
        }
        Availability::Broken { cause, pause } => {
            return Err(Exclusion::Broken {
                cause: cause.clone(),
                pause: *pause,
            });
        }
        Availability::Cooling { pause } => return Err(Exclusion::Cooling { pause: *pause }),
    }
    if provider.weight == 0 && !is_home(ask, provider, model) {
        return Err(Exclusion::Drained);
    }
    let label = label.map_or(ask.limit.reach, |limit| limit.reach);
    Ok((model, label.min(ask.limit.reach)))
}

fn near_enough(provider: &Provider, limit: &Limit) -> Result<(), Exclusion> {
    match provider.reach > limit.reach {
        true => Err(Exclusion::TooFar {
            reach: provider.reach,
            limit: limit.clone(),
        }),
        false => Ok(()),
    }
}

/// Whether the model can do what is needed.
fn suits(ask: &Ask, model: &Model) -> Result<(), Exclusion> {
    let lacks = |capability: &Capability| model.knowledge(*capability) == Some(Knowledge::Lacks);
    if let Some(capability) = ask.needs.capabilities.iter().copied().find(lacks) {
        return Err(Exclusion::LacksCapability(capability));
    }
    // A model that cannot see may answer all the same, as if there were no image.
    let vision = Capability::Vision;
    if ask.needs.capabilities.contains(&vision) && model.knowledge(vision).is_none() {
        return Err(Exclusion::UnknownCapability(vision));
    }
    match (ask.needs.tokens, model.context) {
        (Some(tokens), Some(context)) if tokens > context => {
            Err(Exclusion::ContextTooSmall { context, tokens })
        }
        _ => Ok(()),
    }
}

fn is_home(ask: &Ask, provider: &Provider, model: &Model) -> bool {
    let home = ask.home.as_ref();
    home.is_some_and(|home| home.provider == provider.name && home.model == model.name)
}

/// What decides between candidates.
#[derive(Debug)]
struct Standing<'a> {
    provider: &'a Provider,
    model: &'a Model,
    reach_max: Reach,
    rank: usize,
    /// The provider's place in the configuration.
    order: usize,
    is_home: bool,
    unknown: usize,
    /// By weight, the greater goes first; the same for all where weights do not differ.
    draw: f64,
}

impl Standing<'_> {
    fn target(&self) -> Target {
        Target {
            provider: self.provider.name.clone(),
            model: self.model.name.clone(),
        }
    }

    /// The share of its places that is taken.
    fn busyness(&self) -> f64 {
        let load = self.provider.load;
        f64::from(load.running) / f64::from(load.running_max.max(1))
    }
}

/// Which goes first, and the first thing that tells them apart.
fn compare(a: &Standing<'_>, b: &Standing<'_>) -> (Ordering, Advantage) {
    let full = |standing: &Standing<'_>| standing.provider.load.is_full();
    let steps = [
        (a.rank.cmp(&b.rank), Advantage::Rank),
        (
            a.provider.priority.cmp(&b.provider.priority),
            Advantage::Priority,
        ),
        (full(a).cmp(&full(b)), Advantage::Room),
        (b.is_home.cmp(&a.is_home), Advantage::Home),
        (b.draw.total_cmp(&a.draw), Advantage::Weight),
        (a.unknown.cmp(&b.unknown), Advantage::Certainty),
        (b.model.is_loaded.cmp(&a.model.is_loaded), Advantage::Loaded),
        (a.busyness().total_cmp(&b.busyness()), Advantage::Idleness),
        // Nothing measured yet goes first, and then is measured.
        (a.provider.ttft.cmp(&b.provider.ttft), Advantage::Latency),
        (a.order.cmp(&b.order), Advantage::Order),
    ];
    let decisive = steps.into_iter().find(|(order, _)| order.is_ne());
    decisive.unwrap_or((Ordering::Equal, Advantage::Order))
}

/// Needed things of which nobody knows whether they are there, its health among them.
fn unknown(ask: &Ask, provider: &Provider, model: &Model) -> usize {
    let needed = ask.needs.capabilities.iter();
    let unknown = needed.filter(|capability| model.knowledge(**capability).is_none());
    unknown.count() + usize::from(provider.availability != Availability::Up)
}

/// A random key by which the greatest of several is each one with a probability in
/// proportion to its weight: Efraimidis and Spirakis, "Weighted random sampling with a
/// reservoir", 2006. Zero where all weights of its priority are the same.
fn draw(ticket: u64, provider: &Provider, fleet: &Fleet) -> f64 {
    let mut others = fleet.providers.iter();
    let differs =
        |other: &Provider| other.priority == provider.priority && other.weight != provider.weight;
    if !others.any(differs) {
        return 0.0;
    }
    let mut hasher = DefaultHasher::new();
    (ticket, &provider.name).hash(&mut hasher);
    let bits = u32::try_from(hasher.finish() >> 32).unwrap_or(u32::MAX);
    // Between 0 and 1, neither included.
    let uniform = (f64::from(bits) + 0.5) / (f64::from(u32::MAX) + 1.0);
    uniform.ln() / f64::from(provider.weight)
}
