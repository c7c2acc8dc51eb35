//! OpenTelemetry traces: what a span is here, and the way to whoever collects them.
//!
//! A [`Span`] is made when all of it is known, from a record that exists anyway. [`Traces`]
//! queues it for a thread of its own, which sends batches by OTLP over HTTP; nobody waits for
//! that, and what does not fit into the queue is dropped and told. [`TraceParent`] is a place
//! in a trace, as the header `traceparent` of W3C Trace Context writes it.

mod export;
mod parent;

use std::time::SystemTime;

pub use export::{TraceOptions, Traces, TracesError};
pub use parent::{TRACE_PARENT_HEADER, TraceParent};

/// Something that took its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its own place.
    pub place: TraceParent,
    /// The place it is below; `None`: it begins its trace.
    pub parent: Option<TraceParent>,
    pub side: Side,
    pub name: String,
    pub began: SystemTime,
    pub ended: SystemTime,
    pub attributes: Vec<(&'static str, Attribute)>,
    /// The code of the error that it ended with.
    pub error: Option<&'static str>,
}

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It answers somebody else, whose span its parent is.
    Server,
    /// It asks somebody else.
    Client,
}

/// A fact of a span.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    Text(String),
    Texts(Vec<String>),
    Count(u64),
    Number(f64),
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Attribute {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Attribute {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}
