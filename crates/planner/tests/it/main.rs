//! The planner against the engine: small models of every family are loaded, and what
//! llama.cpp says of its caches must be what was planned.

mod exact;
