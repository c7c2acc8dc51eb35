mod bad_inputs;
mod edge;
mod properties;
mod routes;
mod scripted;
mod server;
mod transcripts;
mod translation;
