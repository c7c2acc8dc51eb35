//! Talking to a running server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::ArgMatches;
use config::Config;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use stdx::Secret;

use crate::outcome::{Code, Outcome, WithCode, fault};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A server's address and key.
#[derive(Debug)]
pub(crate) struct Server {
    client: Client,
    base: String,
    key: Option<Secret>,
}

impl Server {
    /// The server of `--url`, else the one at the configured address.
    pub(crate) fn new(matches: &ArgMatches, config: &Config) -> Outcome<Self> {
        let base = match matches.get_one::<String>("url") {
            Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
            Some(host) => format!("http://{}", host.trim_end_matches('/')),
            None => format!("http://{}", reachable(config.listen)),
        };
        // Fails when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).build()?;
        Ok(Self {
            client,
            base,
            key: config.read_api_key().code(Code::Usage)?,
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Outcome<Value> {
        let response = self.send(self.client.get(self.address(path))).await?;
        json(response).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        json(self.post_streaming(path, body).await?).await
    }

    /// Gives the response with its body still to come.
    pub(crate) async fn post_streaming(&self, path: &str, body: &Value) -> Outcome<Response> {
        self.send(self.client.post(self.address(path)).json(body))
            .await
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, mut request: RequestBuilder) -> Outcome<Response> {
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose());
        }
        let response = request.send().await.map_err(|error| {
            let hint = "is it running? `sextant serve` starts one, --url names another";
            fault(
                Code::NoServer,
                format!("no server at {}: {}; {hint}", self.base, root_cause(&error)),
            )
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let code = match status {
            StatusCode::NOT_FOUND => Code::ModelNotFound,
            _ => Code::Failure,
        };
        let text = response.text().await.unwrap_or_default();
        Err(fault(code, message_of(&text, status)))
    }
}

async fn json(response: Response) -> Outcome<Value> {
    let text = response.text().await.code(Code::NoServer)?;
    Ok(serde_json::from_str(&text)?)
}

/// The message of an error body, with its hint where it has one.
fn message_of(body: &str, status: StatusCode) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let error = &value["error"];
    match (error["message"].as_str(), error["hint"].as_str()) {
        (Some(message), Some(hint)) => format!("{message} {hint}"),
        (Some(message), None) => message.to_owned(),
        _ => format!("the server answered {status}"),
    }
}

/// The innermost error: the others repeat the address.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Where a server that listens on `address` is reached from this machine.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_the_servers_words() {
        let status = StatusCode::BAD_REQUEST;
        let cases = [
            (r#"{"error":{"message":"Too long."}}"#, "Too long."),
            (
                r#"{"error":{"message":"Too long.","hint":"Cut it."}}"#,
                "Too long. Cut it.",
            ),
            ("<html>", "the server answered 400 Bad Request"),
        ];
        for (body, want) in cases {
            assert_eq!(message_of(body, status), want);
        }
    }

    #[test]
    fn an_address_for_all_interfaces_is_reached_on_this_machine() {
        let cases = [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ];
        for (listen, want) in cases {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), want);
        }
    }
}
