//! Requests that are handed on to another endpoint of ours as they are, for its own routes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use proto::{JobFailure, UpstreamFault};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Url};
use tokio::time::timeout;

use crate::failure::{Secrets, failure, of_error};

/// A request for a route of another endpoint's.
#[derive(Debug, Clone)]
pub struct Errand {
    pub method: Method,
    /// Below its root, without a slash at the beginning, with the query.
    pub path: String,
    /// Besides those by which it is asked at all.
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What came of it.
pub struct Fetched {
    pub status: u16,
    pub headers: HeaderMap,
    /// On its way; dropping it ends the connection. An error says why it broke off.
    pub body: BoxStream<'static, Result<Bytes, String>>,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut told = f.debug_struct("Fetched");
        told.field("status", &self.status).finish_non_exhaustive()
    }
}

/// Runs errands to one endpoint.
#[derive(Debug)]
pub(crate) struct Runner {
    client: Client,
    /// Ends with a slash.
    root: Url,
}

impl Runner {
    pub(crate) const fn new(client: Client, root: Url) -> Self {
        Self { client, root }
    }

    /// Gives the answer as soon as its head is there, whatever its status.
    pub(crate) async fn run(
        &self,
        (name, secrets): (&str, &Secrets),
        errand: Errand,
        head_max: Duration,
    ) -> Result<Fetched, JobFailure> {
        let no_place = || {
            let message = format!("`{}` is no place at `{name}`.", errand.path);
            failure(UpstreamFault::Rejected, message)
        };
        // One that leads out of the endpoint's own part of a server is none of its.
        let url = self.root.join(&errand.path).map_err(|_| no_place())?;
        let is_below =
            url.origin() == self.root.origin() && url.path().starts_with(self.root.path());
        if !is_below {
            return Err(no_place());
        }
        let request = self.client.request(errand.method.clone(), url);
        let request = request
            .headers(errand.headers.clone())
            .body(errand.body.clone());
        match timeout(head_max, request.send()).await {
            Ok(Ok(response)) => Ok(fetched(response)),
            Ok(Err(error)) => Err(secrets.hide(of_error(name, &error))),
            Err(_) => {
                let seconds = head_max.as_secs();
                let message = format!("`{name}` did not answer within {seconds} s.");
                Err(failure(UpstreamFault::TimedOut, message))
            }
        }
    }
}

fn fetched(mut response: reqwest::Response) -> Fetched {
    Fetched {
        status: response.status().as_u16(),
        headers: std::mem::take(response.headers_mut()),
        body: response
            .bytes_stream()
            .map(|chunk| chunk.map_err(|error| error.without_url().to_string()))
            .boxed(),
    }
}
