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
    /// Pages of a file that the system may take back: at no cost, or at that of a row that is
    /// read again.
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

/// What a term is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Weights,
    Caches,
    /// Of the computation: reserved, and resident once a pass has written them.
    Buffers,
    /// The process, what it knows of the model, and pages of the file.
    Process,
    /// What is not this model's.
    Others,
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub name: &'static str,
    pub kind: Kind,
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
        let host = |kind, basis| (kind, Place::Host, basis);
        let device = |kind| (kind, Place::Device, Basis::Exact);
        let mut ledger = Self::default();
        let weights_host = [
            ("weights, packed", weights.packed),
            ("weights, read", weights.read),
            ("weights, mapped", weights.mapped),
        ];
        ledger.add(host(Kind::Weights, Basis::Exact), &weights_host);
        ledger.add(
            device(Kind::Weights),
            &[("weights on the GPU", weights.device)],
        );
        let caches_host = [
            ("keys and values", kv_host.tokens),
            ("keys and values of windows", kv_host.windows),
            ("index keys", kv_host.index),
            ("states", kv_host.states),
        ];
        ledger.add(host(Kind::Caches, Basis::Exact), &caches_host);
        ledger.add(device(Kind::Caches), &[("caches on the GPU", kv_device)]);
        ledger.add(
            host(Kind::Buffers, Basis::Exact),
            &[("output rows", buffers.output)],
        );
        let compute = (Kind::Buffers, compute_place(setup), Basis::Fitted);
        ledger.add(compute, &[("compute buffer", buffers.compute)]);
        let process = [
            ("cells", buffers.cells),
            ("vocabulary", buffers.vocabulary),
            ("process", buffers.process),
            ("binary", buffers.binary),
        ];
        ledger.add(host(Kind::Process, Basis::Fitted), &process);
        let beside = [
            ("draft model", others.draft),
            ("prompt cache", others.prompt_cache),
            ("other models", others.models),
        ];
        ledger.add(host(Kind::Others, Basis::Given), &beside);
        let pages = |kind| (kind, Place::Cached, Basis::Exact);
        ledger.add(pages(Kind::Weights), &[("tables, mapped", weights.tables)]);
        let left_over = [("file pages left over", weights.left_over)];
        ledger.add(pages(Kind::Process), &left_over);
        let later = (Kind::Buffers, compute_later(setup), Basis::Fitted);
        ledger.add(later, &[("compute buffer, full", buffers.compute_more)]);
        let drafts = (Kind::Buffers, Place::Later, Basis::Exact);
        ledger.add(drafts, &[("output rows of drafts", buffers.output_more)]);
        ledger
    }

    fn add(&mut self, (kind, place, basis): (Kind, Place, Basis), lines: &[(&'static str, u64)]) {
        let taken = lines.iter().filter(|(_, bytes)| *bytes > 0);
        self.terms.extend(taken.map(|(name, bytes)| Term {
            name,
            kind,
            bytes: Bytes(*bytes),
            place,
            basis,
        }));
    }

    /// Bytes of the terms of one kind that must be free somewhere.
    #[must_use]
    pub fn bytes_for(&self, kind: Kind) -> u64 {
        self.sum(|term| term.kind == kind && term.place != Place::Cached)
    }

    fn sum(&self, counts: impl Fn(&Term) -> bool) -> u64 {
        let counted = self.terms.iter().filter(|term| counts(term));
        counted
            .map(|term| term.bytes.0)
            .fold(0, u64::saturating_add)
    }

    /// Bytes of the terms in one place.
    #[must_use]
    pub fn bytes_in(&self, place: Place) -> u64 {
        self.sum(|term| term.place == place)
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

    /// Bytes that it will show once it is loaded, before the first pass has written buffers.
    #[must_use]
    pub fn resident_when_loaded(&self) -> u64 {
        let is_there = |term: &Term| match term.place {
            Place::Host => term.kind != Kind::Buffers,
            Place::Cached => true,
            Place::Device | Place::Later => false,
        };
        self.sum(is_there)
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
