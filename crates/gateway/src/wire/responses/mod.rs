//! OpenAI's Responses dialect: items in, items out, as a stream of typed events or whole.
//!
//! A request becomes the same [`proto::ChatJob`] as a chat's. What it continues is read
//! from the store, where its own answer goes.

pub(crate) mod events;
pub(crate) mod input;
pub(crate) mod items;
pub(crate) mod plan;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod tools;
