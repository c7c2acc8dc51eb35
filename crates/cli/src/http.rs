//! Talking to a running server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::ArgMatches;
use config::Config;
use reqwest::header::{self, HeaderMap};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use stdx::Secret;

use crate::doctor;
use crate::outcome::{Code, Fault, Outcome, WithCode, fault};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PROPS_TIMEOUT: Duration = Duration::from_secs(10);

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
            None => format!("{}://{}", scheme(config), reachable(config.listen)),
        };
        Self::at(base, config)
    }

    /// The server at an address.
    pub(crate) fn at(base: String, config: &Config) -> Outcome<Self> {
        // Fails when a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tls_certs_merge(authorities(config)?)
            .build()?;
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

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The status and body of an answer, whatever it is; a body that is no JSON is a text.
    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> reqwest::Result<(u16, Value)> {
        let mut request = self.client.post(self.address(path)).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        let body =
            serde_json::from_str(&text).unwrap_or_else(|_| serde_json::json!({ "error": text }));
        Ok((status, body))
    }

    /// Passes a request on, with this server's key in place of the one that it came with. Whose
    /// connection it was, and in which coding an answer may come, is not passed on.
    pub(crate) async fn forward(
        &self,
        (method, path): (Method, &str),
        mut headers: HeaderMap,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<Response> {
        for name in [
            header::HOST,
            header::AUTHORIZATION,
            header::CONTENT_LENGTH,
            header::CONNECTION,
            header::TRANSFER_ENCODING,
            header::ACCEPT_ENCODING,
        ] {
            headers.remove(name);
        }
        headers.remove("x-api-key");
        let request = self.client.request(method, self.address(path));
        let mut request = request.headers(headers).body(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose());
        }
        request.send().await
    }

    /// The context of a model, where the server's list of models states it.
    pub(crate) async fn context_of(&self, model: &str) -> Option<u64> {
        let list = self.get("/v1/models").await.ok()?;
        let mut models = list["data"].as_array()?.iter();
        let found = models.find(|one| one["id"] == model)?;
        found["context_length"].as_u64()
    }

    /// What an engine of llama.cpp's kind says of a model that is loaded; `None` where it says
    /// nothing.
    pub(crate) async fn props(&self, model: &str) -> Option<Value> {
        let address = self.address("/props");
        let url = reqwest::Url::parse_with_params(&address, [("model", model)]).ok()?;
        let asked = self.send(self.client.get(url));
        let response = tokio::time::timeout(PROPS_TIMEOUT, asked)
            .await
            .ok()?
            .ok()?;
        json(response).await.ok()
    }

    /// Gives the response with its body still to come.
    pub(crate) async fn post_streaming(&self, path: &str, body: &Value) -> Outcome<Response> {
        self.send(self.client.post(self.address(path)).json(body))
            .await
    }

    /// The model of the server that `wanted` names, in whole or in part.
    pub(crate) async fn model(&self, wanted: &str) -> Outcome<String> {
        let names = self.models().await?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        pick(&names, wanted, &self.base)
    }

    /// What the server calls its models.
    pub(crate) async fn models(&self) -> Outcome<Vec<String>> {
        let list = self.get("/v1/models").await?;
        let models = list["data"].as_array().into_iter().flatten();
        let names = models.filter_map(|one| one["id"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// What a 401 means to someone at the command line.
    fn refused(&self) -> String {
        let ways = "`--api-key-file FILE`, SEXTANT_API_KEY or `--api-key KEY`";
        match &self.key {
            None => format!(
                "the server at {} asks for an API key; give it with {ways}",
                self.base
            ),
            Some(_) => format!(
                "the server at {} does not take this API key; give another with {ways}",
                self.base
            ),
        }
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// An event stream from the event after `last_id` on, with its body still to come.
    pub(crate) async fn events(
        &self,
        path: &str,
        last_id: Option<&str>,
    ) -> Result<Response, Refusal> {
        let mut request = self.client.get(self.address(path));
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = self.reach(request).await.map_err(|fault| Refusal {
            fault,
            is_final: false,
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        Err(Refusal {
            fault: self.refusal(response).await,
            is_final: status.is_client_error() && !passes.contains(&status),
        })
    }

    async fn send(&self, request: RequestBuilder) -> Outcome<Response> {
        let response = self.reach(request).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.refusal(response).await),
        }
    }

    /// What the server answers, whatever it is.
    async fn reach(&self, mut request: RequestBuilder) -> Outcome<Response> {
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose());
        }
        request.send().await.map_err(|error| {
            let hint = "is it running? `sextant serve` starts one, --url names another";
            fault(
                Code::NoServer,
                format!("no server at {}: {}; {hint}", self.base, root_cause(&error)),
            )
        })
    }

    /// What an answer that is none means.
    async fn refusal(&self, response: Response) -> Fault {
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            return fault(Code::Failure, self.refused());
        }
        let code = match status {
            StatusCode::NOT_FOUND => Code::ModelNotFound,
            _ => Code::Failure,
        };
        let text = response.text().await.unwrap_or_default();
        fault(code, message_of(&text, status))
    }
}

/// An answer that is no stream.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) fault: Fault,
    /// Asking again would be answered the same.
    pub(crate) is_final: bool,
}

/// The only name that is `wanted` or, in any case of letters, has it as a part.
fn pick(names: &[&str], wanted: &str, at: &str) -> Outcome<String> {
    if names.contains(&wanted) {
        return Ok(wanted.to_owned());
    }
    let part = wanted.to_lowercase();
    let fitting: Vec<_> = names
        .iter()
        .filter(|name| name.to_lowercase().contains(&part))
        .copied()
        .collect();
    let message = match (fitting.as_slice(), names) {
        ([name], _) => return Ok((*name).to_owned()),
        ([], []) => format!("the server at {at} has no model loaded"),
        ([], names) => format!(
            "no model of the server at {at} is called `{wanted}`; it has: {}",
            names.join(", ")
        ),
        (several, _) => format!("which one is `{wanted}`? It fits {}", several.join(", ")),
    };
    Err(fault(Code::ModelNotFound, message))
}

async fn json(response: Response) -> Outcome<Value> {
    let text = response.text().await.code(Code::NoServer)?;
    Ok(serde_json::from_str(&text)?)
}

/// The message of an error body, with its hint where it has one.
fn message_of(body: &str, status: StatusCode) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let error = &value["error"];
    let mut text = match (error["message"].as_str(), error["hint"].as_str()) {
        (Some(message), Some(hint)) => format!("{message} {hint}"),
        (Some(message), None) => message.to_owned(),
        _ => format!("the server answered {status}"),
    };
    // What the server's doctor has found, as `sextant doctor` would print it.
    for finding in error["findings"].as_array().into_iter().flatten() {
        let word = |name: &str| finding[name].as_str().unwrap_or("?").to_owned();
        let line =
            doctor::report::line([word("severity"), word("what"), word("code"), word("fix")]);
        text.push('\n');
        text.push_str(&line);
    }
    text
}

/// The innermost error: the others repeat the address.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What `ca_file` adds to the authorities of the system.
fn authorities(config: &Config) -> Outcome<Vec<Certificate>> {
    let Some(text) = config.read_ca_file().code(Code::Usage)? else {
        return Ok(Vec::new());
    };
    let found = Certificate::from_pem_bundle(text.as_bytes()).unwrap_or_default();
    if found.is_empty() {
        let message = "`ca_file` has no certificate that can be read; it must be a PEM file with \
                       at least one";
        return Err(fault(Code::Usage, message));
    }
    Ok(found)
}

/// How the server of this configuration is spoken to.
pub(crate) fn scheme(config: &Config) -> &'static str {
    match config.tls_cert_file {
        Some(_) => "https",
        None => "http",
    }
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

/// The `data:` lines of an event stream, whatever its chunks are.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut data = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.partial);
                if let Some(text) = line.strip_prefix("data:") {
                    data.push(text.trim().to_owned());
                }
                self.partial.clear();
            }
        }
        data
    }
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
    fn a_part_of_a_name_names_one_model() {
        let names = ["SmolLM2-135M", "SmolLM2-360M", "gemma-3", "gemma-3-it"];
        let cases = [
            ("gemma-3", Ok("gemma-3")),
            ("135m", Ok("SmolLM2-135M")),
            ("-it", Ok("gemma-3-it")),
            (
                "smol",
                Err("which one is `smol`? It fits SmolLM2-135M, SmolLM2-360M"),
            ),
            (
                "qwen",
                Err(
                    "no model of the server at URL is called `qwen`; it has: SmolLM2-135M, \
                     SmolLM2-360M, gemma-3, gemma-3-it",
                ),
            ),
        ];
        for (wanted, want) in cases {
            let picked = pick(&names, wanted, "URL");
            match (picked, want) {
                (Ok(name), Ok(want)) => assert_eq!(name, want),
                (Err(fault), Err(want)) => assert_eq!(fault.to_string(), want),
                (other, _) => panic!("{wanted}: {other:?}"),
            }
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

    #[test]
    fn event_lines_survive_any_chunking() {
        let stream = ": ping\r\n\r\ndata: {\"a\":\"\u{e9}\"}\r\n\r\ndata: [DONE]\n\n".as_bytes();
        for size in 1..stream.len() {
            let mut lines = Lines::default();
            let data: Vec<_> = stream.chunks(size).flat_map(|c| lines.feed(c)).collect();
            assert_eq!(data, ["{\"a\":\"\u{e9}\"}", "[DONE]"], "chunks of {size}");
        }
    }
}
