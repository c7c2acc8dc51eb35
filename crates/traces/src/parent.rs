//! Places in a trace.

use std::fmt;

use opentelemetry::trace::{SpanId, TraceFlags, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

/// The header of W3C Trace Context.
pub const TRACE_PARENT_HEADER: &str = "traceparent";

/// Characters of `00-TRACE-SPAN-FLAGS`.
const CHARACTERS: usize = 55;

/// A place in a trace, as the header `traceparent` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    pub(crate) flags: TraceFlags,
}

impl TraceParent {
    /// The beginning of a new trace, which is to be recorded.
    #[must_use]
    pub fn root() -> Self {
        let random = RandomIdGenerator::default();
        Self {
            trace: random.new_trace_id(),
            span: random.new_span_id(),
            flags: TraceFlags::SAMPLED,
        }
    }

    /// A place of its own below this one.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span: RandomIdGenerator::default().new_span_id(),
            ..self
        }
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags.is_sampled()
    }

    /// Reads the header; `None` for what is none. A later version may have more behind it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let head = text.get(..CHARACTERS)?;
        match &text[CHARACTERS..] {
            "" => {}
            rest if rest.starts_with('-') && !text.starts_with("00") => {}
            _ => return None,
        }
        let mut parts = head.split('-');
        let mut part = |length: usize| {
            let part = parts.next()?;
            let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
            (part.len() == length && part.bytes().all(is_hex)).then_some(part)
        };
        let version = part(2)?;
        let (trace, span, flags) = (part(32)?, part(16)?, part(2)?);
        let parent = Self {
            trace: TraceId::from_hex(trace).ok()?,
            span: SpanId::from_hex(span).ok()?,
            // Of the others nobody has said what they mean.
            flags: TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED,
        };
        let is_valid = parent.trace != TraceId::INVALID && parent.span != SpanId::INVALID;
        (version != "ff" && is_valid).then_some(parent)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn the_header_is_read_as_the_standard_has_it() {
        let cases = [
            (format!("00-{TRACE}-00f067aa0ba902b7-01"), Some(true)),
            (format!("00-{TRACE}-00f067aa0ba902b7-00"), Some(false)),
            (format!("00-{TRACE}-00f067aa0ba902b7-03"), Some(true)),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01-more"), Some(true)),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01more"), None),
            (format!("00-{TRACE}-00f067aa0ba902b7-01-more"), None),
            (format!("ff-{TRACE}-00f067aa0ba902b7-01"), None),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-0000000000000000-01"), None),
            (format!("00-{TRACE}-00F067AA0BA902B7-01"), None),
            (format!("00-{TRACE}-00f067aa0ba902b7"), None),
            (format!("00-{TRACE}-+0f067aa0ba902b7-01"), None),
            ("é".repeat(40), None),
            (String::new(), None),
        ];
        for (text, sampled) in cases {
            let parent = TraceParent::parse(&text);
            assert_eq!(parent.map(TraceParent::is_sampled), sampled, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        // A trace that begins with zeros keeps them.
        let text = "00-00f7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
        let parent = TraceParent::parse(text).unwrap();
        assert_eq!(parent.to_string(), text);
        for parent in [TraceParent::root(), parent.child()] {
            assert_eq!(TraceParent::parse(&parent.to_string()), Some(parent));
        }
        let child = parent.child();
        assert_eq!(child.trace, parent.trace);
        assert_ne!(child.span, parent.span);
    }
}
