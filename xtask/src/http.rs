//! One plain HTTP client for both servers, so that whatever it costs, it costs
//! both the same.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
}

/// One event of a stream, and when it arrived, counted from the request.
pub(crate) struct StreamEvent {
    pub(crate) at: Duration,
    pub(crate) data: Value,
}

impl Client {
    pub(crate) fn new(base: &str) -> Self {
        Self::with_timeout(base, Duration::from_secs(300))
    }

    /// One whose requests end with an error after `timeout`.
    pub(crate) fn with_timeout(base: &str, timeout: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(timeout))
            .build();
        Self {
            agent: ureq::Agent::new_with_config(config),
            base: base.to_owned(),
        }
    }

    /// The status of a GET; `None` when nobody answers.
    pub(crate) fn status(&self, path: &str) -> Option<u16> {
        let answer = self.agent.get(format!("{}{path}", self.base)).call();
        answer.ok().map(|answer| answer.status().as_u16())
    }

    pub(crate) fn text(&self, path: &str) -> Result<String> {
        let mut answer = self.agent.get(format!("{}{path}", self.base)).call()?;
        let text = answer.body_mut().read_to_string()?;
        if !answer.status().is_success() {
            bail!("GET {path}: {} {text}", answer.status());
        }
        Ok(text)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let text = self.text(path)?;
        serde_json::from_str(&text).with_context(|| format!("GET {path} is not JSON: {text}"))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let mut answer = self.send(path, body)?;
        let text = answer.body_mut().read_to_string()?;
        serde_json::from_str(&text).with_context(|| format!("POST {path} is not JSON: {text}"))
    }

    /// Reads a stream of server-sent events to its end.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Result<Vec<StreamEvent>> {
        let start = Instant::now();
        let answer = self.send(path, body)?;
        let mut events = Vec::new();
        for line in BufReader::new(answer.into_body().into_reader()).lines() {
            let line = line?;
            let at = start.elapsed();
            let Some(text) = line.strip_prefix("data:") else {
                continue;
            };
            if text.trim() == "[DONE]" {
                return Ok(events);
            }
            let data: Value = serde_json::from_str(text)
                .with_context(|| format!("POST {path}: event is not JSON: {text}"))?;
            if let Some(error) = data.get("error") {
                bail!("POST {path}: error inside the stream: {error}");
            }
            events.push(StreamEvent { at, data });
        }
        bail!("POST {path}: the stream ended without [DONE]")
    }

    fn send(&self, path: &str, body: &Value) -> Result<ureq::http::Response<ureq::Body>> {
        let mut answer = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .send(body.to_string())
            .with_context(|| format!("POST {path}"))?;
        if !answer.status().is_success() {
            let text = answer.body_mut().read_to_string()?;
            bail!("POST {path}: {} {text}", answer.status());
        }
        Ok(answer)
    }
}
