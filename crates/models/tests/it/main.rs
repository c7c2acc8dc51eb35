//! Tests at the crate's edges: hostile bytes, other programs' stores, and
//! downloads from a server that misbehaves.

mod gguf_properties;
