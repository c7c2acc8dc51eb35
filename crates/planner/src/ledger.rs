//! Everything that a model takes, as named terms.

use kv::{Part, Plan, TypePlan};
use stdx::Bytes;

use crate::buffers::Buffers;
use crate::model::Model;
use crate::setup::{Purpose, Setup};
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
    /// Rows of logits, written when they are made.
    Rows,
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
}

impl Ledger {
    /// The ledger of a model with the caches of `plan`.
    #[must_use]
    pub fn of(model: &Model, setup: &Setup, plan: &Plan, others: &Others) -> Self {
        let weights = Weights::of(model, setup);
        let buffers = Buffers::of(model, setup, plan);
        let mut ledger = Self::default();
        let weights_host = [
            ("weights, packed", weights.packed),
            ("weights, read", weights.read),
            ("weights, mapped", weights.mapped),
        ];
        ledger.add((Kind::Weights, Place::Host, Basis::Exact), &weights_host);
        ledger.add(
            (Kind::Weights, Place::Device, Basis::Exact),
            &[("weights on the GPU", weights.device)],
        );
        ledger.add_context(split_kv(model, setup, plan), &buffers, setup);
        let process = [
            ("vocabulary", buffers.vocabulary),
            ("process", buffers.process),
            ("binary", buffers.binary),
            ("driver of the GPU", buffers.driver),
        ];
        ledger.add((Kind::Process, Place::Host, Basis::Fitted), &process);
        let beside = [
            ("draft model", others.draft),
            ("other models", others.models),
        ];
        ledger.add((Kind::Others, Place::Host, Basis::Given), &beside);
        let of_pages = match setup.is_locked {
            true => Place::Host,
            false => Place::Cached,
        };
        let pages = |kind| (kind, of_pages, Basis::Exact);
        ledger.add(pages(Kind::Weights), &[("tables, mapped", weights.tables)]);
        let left_over = [("file pages left over", weights.left_over)];
        ledger.add(pages(Kind::Process), &left_over);
        ledger.add_later(&buffers, setup);
        ledger
    }

    /// What comes with the context: on loading, or with the first text that is embedded.
    fn add_context(&mut self, (device, host): (u64, HostCaches), buffers: &Buffers, setup: &Setup) {
        let place = match setup.purpose {
            Purpose::Generate => Place::Host,
            Purpose::Embed => Place::Later,
        };
        let caches = [
            ("keys and values", host.tokens),
            ("keys and values of windows", host.windows),
            ("index keys", host.index),
            ("states", host.states),
        ];
        self.add((Kind::Caches, place, Basis::Exact), &caches);
        self.add(
            (Kind::Caches, Place::Device, Basis::Exact),
            &[("caches on the GPU", device)],
        );
        self.add(
            (Kind::Rows, place, Basis::Exact),
            &[("output rows", buffers.output)],
        );
        let compute = (Kind::Buffers, place, Basis::Fitted);
        self.add(compute, &[("compute buffer", buffers.compute)]);
        self.add(
            (Kind::Buffers, Place::Device, Basis::Fitted),
            &[("compute buffer on the GPU", buffers.device)],
        );
        self.add(
            (Kind::Process, place, Basis::Fitted),
            &[("cells", buffers.cells)],
        );
    }

    fn add_later(&mut self, buffers: &Buffers, setup: &Setup) {
        let later = (Kind::Buffers, Place::Later, Basis::Fitted);
        self.add(later, &[("compute buffer, full", buffers.compute_more)]);
        let rows = match setup.purpose {
            Purpose::Generate => "output rows of drafts",
            Purpose::Embed => "output rows of a text",
        };
        let later = (Kind::Rows, Place::Later, Basis::Exact);
        self.add(later, &[(rows, buffers.output_more)]);
        if setup.purpose == Purpose::Generate {
            let later = (Kind::Caches, Place::Later, Basis::Given);
            self.add(later, &[("prompt cache", setup.prompt_cache)]);
        }
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

/// Caches on the host, by what they are for.
#[derive(Debug, Clone, Copy, Default)]
struct HostCaches {
    tokens: u64,
    windows: u64,
    index: u64,
    states: u64,
}

/// A layer's caches lie where the layer is: on the host those of the first ones.
fn split_kv(model: &Model, setup: &Setup, plan: &Plan) -> (u64, HostCaches) {
    let on_host = (setup.gpu_layers > 0).then(|| host_plan(model, setup, plan));
    let host = on_host.flatten();
    let host = host.as_ref().unwrap_or(plan);
    let caches = HostCaches {
        tokens: host.bytes_of(Part::Tokens),
        windows: host.bytes_of(Part::Window),
        index: host.bytes_of(Part::Index),
        states: host.bytes_of(Part::States),
    };
    (plan.bytes().saturating_sub(host.bytes()), caches)
}

/// The caches of the layers that stay on the host.
fn host_plan(model: &Model, setup: &Setup, plan: &Plan) -> Option<Plan> {
    let mut shape = model.shape.clone();
    let first = usize::try_from(setup.first_on_device(model)).unwrap_or(usize::MAX);
    for layer in shape.layers.iter_mut().skip(first) {
        *layer = kv::Layer::default();
    }
    let mut request = setup.request(model);
    // Layers that a plan names are gone; beside a GPU all have the same types.
    if let Some(types) = plan.uniform_types() {
        request.types = TypePlan::uniform(types);
    }
    // It was planned with all of them, which is more.
    Plan::new(&shape, &request).ok()
}
