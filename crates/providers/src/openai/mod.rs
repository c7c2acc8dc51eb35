//! OpenAI's dialect from the client's side.

pub(crate) mod answer;
pub(crate) mod call_ids;
pub(crate) mod request;
#[cfg(test)]
mod tests;
