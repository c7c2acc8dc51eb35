//! Everything that a model takes, as named terms.

use kv::{Part, Plan};
use stdx::Bytes;

use crate::buffers::Buffers;
use crate::model::Model;
use crate::setup::Setup;
use crate::weights::Weights;

/// Where a term's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Memory that the process keeps.
    Host,
    /// Pages of a file that the system may take back at no cost.
    Cached,
    /// Memory of a GPU.
    Device,
    /// Not taken at once: it may come while requests run.
    Later,
}

/// How a term's bytes are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// By the engine's own formula.
    Exact,
    /// By a model that was fitted to measurements.
    Fitted,
    /// As somebody else says.
    Given,
}

/// Names of the terms that are weights.
pub const WEIGHTS: [&str; 4] = [
    "weights, packed",
    "weights, read",
    "weights, mapped",
    "weights on the GPU",
];
/// Names of the terms that are reserved and not resident before the first pass.
pub const WRITTEN_BY_PASSES: [&str; 2] = ["output rows", "compute buffer"];
/// Names of the terms that are caches.
pub const CACHES: [&str; 5] = [
    "keys and values",
    "keys and values of windows",
    "index keys",
    "states",
    "caches on the GPU",
];

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub name: &'static str,
    pub bytes: Bytes,
    pub place: Place,
    pub basis: Basis,
}

/// What one model takes, and what else is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    pub terms: Vec<Term>,
}

/// What others take of the same memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Others {
    /// Models that are in memory already.
    pub models: u64,
    /// A draft model that goes with this one.
    pub draft: u64,
    /// Prompts that are kept outside the context.
    pub prompt_cache: u64,
}

impl Ledger {
    /// The ledger of a model with the caches of `plan`.
    #[must_use]
    pub fn of(model: &Model, setup: &Setup, plan: &Plan, others: &Others) -> Self {
        let weights = Weights::of(model, setup);
        let buffers = Buffers::of(model, setup, plan);
        let (kv_device, kv_host) = split_kv(model, setup, plan);
        let mut ledger = Self::default();
        let lines = [
            ("weights, packed", weights.packed, Place::Host, Basis::Exact),
            ("weights, read", weights.read, Place::Host, Basis::Exact),
            ("weights, mapped", weights.mapped, Place::Host, Basis::Exact),
            (
                "weights on the GPU",
                weights.device,
                Place::Device,
                Basis::Exact,
            ),
            ("keys and values", kv_host.tokens, Place::Host, Basis::Exact),
            (
                "keys and values of windows",
                kv_host.windows,
                Place::Host,
                Basis::Exact,
            ),
            ("index keys", kv_host.index, Place::Host, Basis::Exact),
            ("states", kv_host.states, Place::Host, Basis::Exact),
            ("caches on the GPU", kv_device, Place::Device, Basis::Exact),
            ("output rows", buffers.output, Place::Host, Basis::Exact),
            (
                "compute buffer",
                buffers.compute,
                compute_place(setup),
                Basis::Fitted,
            ),
            ("cells", buffers.cells, Place::Host, Basis::Fitted),
            ("vocabulary", buffers.vocabulary, Place::Host, Basis::Fitted),
            ("process", buffers.process, Place::Host, Basis::Fitted),
            ("binary", buffers.binary, Place::Host, Basis::Fitted),
            ("draft model", others.draft, Place::Host, Basis::Given),
            (
                "prompt cache",
                others.prompt_cache,
                Place::Host,
                Basis::Given,
            ),
            ("other models", others.models, Place::Host, Basis::Given),
            (
                "file pages left over",
                weights.left_over,
                Place::Cached,
                Basis::Exact,
            ),
            (
                "compute buffer, full",
                buffers.compute_more,
                compute_later(setup),
                Basis::Fitted,
            ),
            (
                "output rows of drafts",
                buffers.output_more,
                Place::Later,
                Basis::Exact,
            ),
        ];
        for (name, bytes, place, basis) in lines {
            ledger.add(name, bytes, place, basis);
        }
        ledger
    }

    fn add(&mut self, name: &'static str, bytes: u64, place: Place, basis: Basis) {
        if bytes > 0 {
            self.terms.push(Term {
                name,
                bytes: Bytes(bytes),
                place,
                basis,
            });
        }
    }

    /// Bytes of the terms in one place.
    #[must_use]
    pub fn bytes_in(&self, place: Place) -> u64 {
        let there = self.terms.iter().filter(|term| term.place == place);
        there.map(|term| term.bytes.0).fold(0, u64::saturating_add)
    }

    /// Bytes that must be free on the host: what is kept, and what may come later.
    #[must_use]
    pub fn host_needed(&self) -> u64 {
        self.bytes_in(Place::Host)
            .saturating_add(self.bytes_in(Place::Later))
    }

    /// Bytes that the process will show as resident after a prompt, file pages included.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.bytes_in(Place::Host)
            .saturating_add(self.bytes_in(Place::Cached))
    }

    /// Bytes of one term; 0 where it is not there.
    #[must_use]
    pub fn bytes_of(&self, name: &str) -> u64 {
        let found = self.terms.iter().find(|term| term.name == name);
        found.map_or(0, |term| term.bytes.0)
    }
}

const fn compute_place(setup: &Setup) -> Place {
    if setup.gpu_layers > 0 {
        Place::Device
    } else {
        Place::Host
    }
}

const fn compute_later(setup: &Setup) -> Place {
    if setup.gpu_layers > 0 {
        Place::Device
    } else {
        Place::Later
    }
}

/// Caches on the host, by what they are for.
#[derive(Debug, Clone, Copy, Default)]
struct HostCaches {
    tokens: u64,
    windows: u64,
    index: u64,
    states: u64,
}

/// A layer's caches lie where the layer is.
fn split_kv(model: &Model, setup: &Setup, plan: &Plan) -> (u64, HostCaches) {
    let layers = model.n_layers.max(1);
    let on_device = u64::from(setup.gpu_layers).min(layers);
    let host = |part: Part| {
        let bytes = plan.bytes_of(part);
        bytes - bytes / layers * on_device
    };
    let caches = HostCaches {
        tokens: host(Part::Tokens),
        windows: host(Part::Window),
        index: host(Part::Index),
        states: host(Part::States),
    };
    let on_host = caches.tokens + caches.windows + caches.index + caches.states;
    (plan.bytes().saturating_sub(on_host), caches)
}
