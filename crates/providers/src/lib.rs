//! Engines that others run: one adapter a kind, behind one trait.
//!
//! A [`Provider`] takes the jobs that our own workers take and answers with the same
//! events, so nothing above knows whose engine it was. [`Remote`] speaks OpenAI's dialect
//! over HTTP, which all of them know, and each [`Kind`]'s own routes for what that dialect
//! does not tell: contexts, capabilities, what is loaded. Engines that are near are asked by
//! `http`, a small client of our own; `way` chooses between it and reqwest.
//!
//! [`Managed`] starts a llama-server, asks it as a [`Remote`] and stops it again.
//!
//! [`discover`] finds engines that run on this machine already.
//!
//! Translations are pure: `openai::request` writes a job, `openai::answer` reads what comes
//! back, `sse` cuts a stream into events.

pub mod discover;
mod errand;
mod failure;
mod http;
mod kind;
mod managed;
mod near;
mod openai;
mod remote;
mod sse;
mod survey;
mod way;

use std::any::Any;
use std::fmt::Debug;
use std::pin::Pin;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use proto::{Event, Job, JobFailure};
use router::{Model, Reach};
use stdx::Priority;

pub use errand::{Errand, Fetched};
pub use kind::Kind;
pub use managed::{Managed, ManagedConfig, Start};
pub use remote::{AddressError, Remote, RemoteConfig, Streams, Timeouts};

/// Says how often a request was sent on from one endpoint of ours to another.
pub const HOPS_HEADER: &str = "x-sextant-hops";
/// Says how far a request may travel.
pub const PRIVACY_HEADER: &str = "x-routing-privacy";

/// Says to which trace a request belongs (W3C Trace Context).
const TRACE_PARENT_HEADER: &str = "traceparent";
/// Says who goes first among requests that wait.
pub const PRIORITY_HEADER: &str = "x-sextant-priority";

/// The events of one job, up to and including the last. Dropping it cancels the job.
pub type EventStream = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Something that holds models and runs jobs.
pub trait Provider: Any + Debug + Send + Sync {
    /// Looks whether it is there and what it has; the cause if it is not.
    fn survey(&self) -> BoxFuture<'_, Result<Survey, String>>;

    /// Hands a job over. Whatever is wrong before the first event may also be the
    /// stream's only event.
    fn submit(&self, order: Order) -> BoxFuture<'_, Result<EventStream, JobFailure>>;

    /// The host and the port that it is asked at, where it has some.
    fn address(&self) -> Option<(&str, u16)> {
        None
    }

    /// Whether `other` is the same engine, asked in the same way.
    fn is_same(&self, other: &dyn Provider) -> bool;

    /// The process behind it, where that is ours to run.
    fn process(&self) -> Option<ProcessStatus> {
        None
    }

    /// Where it is asked now.
    fn url(&self) -> Option<String> {
        None
    }

    /// Whether it is an endpoint of ours, whose own routes can be asked for.
    fn is_ours(&self) -> bool {
        false
    }

    /// Hands a request on to an endpoint of ours; `None`: it is none.
    fn run_errand(&self, errand: Errand) -> Option<BoxFuture<'_, Result<Fetched, JobFailure>>> {
        drop(errand);
        None
    }

    /// Returns when it knows that another survey would find something else than the last one.
    /// Does not keep it alive.
    fn changed(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    /// Ends the process behind it, whoever is being answered, and returns when it is gone.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A process that we run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessStatus {
    /// `stopped`, `starting`, `up`, `stopping`, `backoff` or `failed`
    pub phase: &'static str,
    pub pid: Option<u32>,
    /// Starts after a crash.
    pub restarts: u32,
    /// The effective command line; secrets show as `****`.
    pub command: String,
    /// Why it last ended without being told to.
    pub last_error: Option<String>,
    /// The last lines that it wrote before that; of one that runs, its last lines so far.
    pub log: Vec<String>,
}

/// A job for one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub model: String,
    pub job: Job,
    /// How far it may travel, for an endpoint of ours that may send it on.
    pub reach_max: Reach,
    /// Endpoints of ours that have sent it on so far.
    pub hops: u32,
    pub priority: Priority,
    /// Nobody sees anything of the answer before its end.
    pub is_whole: bool,
    /// The header `traceparent`, where the request belongs to a trace.
    pub trace_parent: Option<String>,
}

/// What a provider has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    pub models: Vec<Model>,
}
