//! Wire dialects: each translates its requests to [`proto::Job`] and folds
//! [`proto::Event`]s into its answers. The types here are the only ones that
//! know how a client spells things.

pub mod openai;
