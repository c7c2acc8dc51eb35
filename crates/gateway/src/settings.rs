//! What an operator may set, and the rules that follow from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stdx::Secret;
use traces::Traces;

use crate::{Control, Doctor, HistoryKeeper, Library, Logs, Pages, RoutingSource, Tls};

/// Settings of the HTTP edge.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Most bytes of one request body.
    pub body_bytes_max: usize,
    /// Longest time for a body to arrive.
    pub body_timeout: Duration,
    /// Longest time for a request's headers to arrive.
    pub header_timeout: Duration,
    /// Seconds of silence in a stream before a keep-alive comment.
    pub keep_alive_secs: u64,
    /// How long a stream waits for its first event before it answers 200. Until
    /// then a failure is a real HTTP status; after it, an error inside the stream.
    pub commit_after: Duration,
    /// Open connections.
    pub connections_max: usize,
    /// Requests in progress, not counting `/health`, `/ready` and `/metrics`.
    pub requests_max: usize,
    /// Longest wait for open connections at shutdown.
    pub shutdown_timeout: Duration,
    /// The operator's key, which may do everything. When it is set, or [`Self::control`] has
    /// keys, every route but `/health` asks for one.
    pub api_key: Option<Secret>,
    /// Origins of web pages that may call, besides loopback ones; `*` allows all.
    pub cors_origins: Vec<String>,
    /// Host names answered to, besides loopback names and IP addresses; `*` allows all.
    pub hosts: Vec<String>,
    /// Keys, usage, the audit log and kept responses; without it there are none, and responses
    /// are kept in memory.
    pub control: Option<Control>,
    /// The models on disk; without it none can be pulled or deleted.
    pub library: Option<Arc<dyn Library>>,
    /// Who looks for what is wrong; without it nobody does.
    pub doctor: Option<Arc<dyn Doctor>>,
    /// Where the history of figures is kept; without it there is none.
    pub history: Option<HistoryKeeper>,
    /// The certificate; without it the endpoint speaks HTTP in plain text.
    pub tls: Option<Tls>,
    /// Who takes the spans of requests; without it there are none.
    pub traces: Option<Traces>,
    /// Where providers and rules can be read again.
    pub routing_source: Option<Arc<dyn RoutingSource>>,
    /// The workbench.
    pub pages: Pages,
    /// The last lines of the log.
    pub logs: Logs,
    /// Ports that this endpoint listens on, so that it does not find itself.
    pub own_ports: Vec<u16>,
}

impl GatewayConfig {
    /// Whether a request needs a key. Keys may come and go while the server runs.
    #[must_use]
    pub fn asks_for_a_key(&self) -> bool {
        let control = self.control.as_ref();
        self.api_key.is_some() || control.is_some_and(Control::asks_for_a_key)
    }
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 << 20,
            body_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(15),
            keep_alive_secs: 10,
            commit_after: Duration::from_secs(1),
            connections_max: 1024,
            requests_max: 256,
            shutdown_timeout: Duration::from_secs(30),
            api_key: None,
            cors_origins: Vec::new(),
            hosts: Vec::new(),
            control: None,
            library: None,
            doctor: None,
            history: None,
            tls: None,
            traces: None,
            routing_source: None,
            pages: Pages::default(),
            logs: Logs::default(),
            own_ports: Vec::new(),
        }
    }
}

/// An address that must not be opened, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindRefused(String);

impl std::fmt::Display for BindRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BindRefused {}

/// Whether the endpoint may listen on `address`: other machines only with a key.
pub fn bind_policy(address: SocketAddr, has_key: bool) -> Result<(), BindRefused> {
    if has_key || is_loopback(address) {
        return Ok(());
    }
    Err(BindRefused(format!(
        "{address} can be reached from other machines and no API key is asked for; \
         make one with `sextant key add`, set `api_key_file`, or listen on 127.0.0.1"
    )))
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_open_without_a_key() {
        let cases = [
            ("127.0.0.1:80", false, true),
            ("127.8.0.1:80", false, true),
            ("[::1]:80", false, true),
            ("[::ffff:127.0.0.1]:80", false, true),
            ("0.0.0.0:80", false, false),
            ("[::]:80", false, false),
            ("192.168.1.4:80", false, false),
            ("192.168.1.4:80", true, true),
        ];
        for (address, has_key, allowed) in cases {
            let result = bind_policy(address.parse().unwrap(), has_key);
            assert_eq!(result.is_ok(), allowed, "{address} {has_key}");
        }
    }
}
