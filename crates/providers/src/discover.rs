//! Engines that run on this machine, at the ports where they usually listen.
//!
//! Only 127.0.0.1 is asked, only by GET, and only what tells who is there and which models it
//! has. What is found is told and nothing else: it is used once the operator has put it into
//! the configuration.
//!
//! Some engines answer routes of others for their clients' sake, so the most particular route
//! counts: [`Product::of`] reads the answers and is pure.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::header::SERVER;
use reqwest::{Client, Response, StatusCode};
use router::{Model, Reach};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{Kind, Provider, Remote, RemoteConfig, Streams, Timeouts};

/// Time to connect; on one's own machine it takes none.
const CONNECT: Duration = Duration::from_millis(300);
/// Time for one answer. Whoever takes longer is no engine, or one that is busy.
const ANSWER: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Time for the list of models.
const SURVEY: Duration = Duration::from_secs(2);
/// Characters of a version that are shown.
const VERSION_CHARS_MAX: usize = 40;

/// What an engine is sold as; several of them are of one [`Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    Sextant,
    KoboldCpp,
    LmStudio,
    Ollama,
    LlamaServer,
    Vllm,
    TextGenerationWebui,
    /// Whoever else lists models as OpenAI does.
    Unknown,
}

impl Product {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sextant => "Sextant",
            Self::KoboldCpp => "KoboldCpp",
            Self::LmStudio => "LM Studio",
            Self::Ollama => "Ollama",
            Self::LlamaServer => "llama-server",
            Self::Vllm => "vLLM",
            Self::TextGenerationWebui => "text-generation-webui",
            Self::Unknown => "an OpenAI-compatible server",
        }
    }

    /// How it is asked.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Sextant => Kind::Sextant,
            Self::LmStudio => Kind::LmStudio,
            Self::Ollama => Kind::Ollama,
            Self::LlamaServer => Kind::LlamaServer,
            Self::Vllm => Kind::Vllm,
            Self::KoboldCpp | Self::TextGenerationWebui | Self::Unknown => Kind::OpenAi,
        }
    }

    /// What a provider may be called that is one.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            // `sextant` itself has a meaning of its own.
            Self::Sextant => "peer",
            Self::KoboldCpp => "koboldcpp",
            Self::LmStudio => "lm-studio",
            Self::Ollama => "ollama",
            Self::LlamaServer => "llama-server",
            Self::Vllm => "vllm",
            Self::TextGenerationWebui => "webui",
            Self::Unknown => "local",
        }
    }

    /// Who gave these answers; `None` while that is open.
    fn of(answers: &Answers) -> Option<Self> {
        let text = |route, field: &str| answers.json(route)?.get(field)?.as_str();
        let is_list = |route| answers.json(route)?.get("data")?.as_array();
        if text(Route::OllamaVersion, "sextant").is_some() {
            return Some(Self::Sextant);
        }
        if answers.server.as_deref() == Some("llama.cpp") {
            return Some(Self::LlamaServer);
        }
        if text(Route::KoboldVersion, "result") == Some("KoboldCpp") {
            return Some(Self::KoboldCpp);
        }
        // KoboldCpp speaks Ollama's dialect too, so that one has to be out of the question.
        answers.last_asked(Route::KoboldVersion)?;
        if text(Route::OllamaVersion, "version").is_some() {
            return Some(Self::Ollama);
        }
        let of_studio = |models: &Vec<Value>| {
            models
                .iter()
                .all(|model| model.get("state").is_some() && model.get("type").is_some())
        };
        if is_list(Route::LmStudioModels).is_some_and(of_studio) {
            return Some(Self::LmStudio);
        }
        let props = answers.json(Route::Props);
        if props.is_some_and(|props| props.get("default_generation_settings").is_some()) {
            return Some(Self::LlamaServer);
        }
        if text(Route::WebuiModel, "model_name").is_some() {
            return Some(Self::TextGenerationWebui);
        }
        let models = is_list(Route::Models)?;
        let is_vllm = |model: &Value| model.get("owned_by").and_then(Value::as_str) == Some("vllm");
        match models.iter().any(is_vllm) && text(Route::VllmVersion, "version").is_some() {
            true => Some(Self::Vllm),
            false => Some(Self::Unknown),
        }
    }
}

/// What tells engines apart, in the order in which it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    OllamaVersion,
    KoboldVersion,
    LmStudioModels,
    Props,
    VllmVersion,
    WebuiModel,
    Models,
}

impl Route {
    const ALL: [Self; 7] = [
        Self::OllamaVersion,
        Self::KoboldVersion,
        Self::LmStudioModels,
        Self::Props,
        Self::VllmVersion,
        Self::WebuiModel,
        Self::Models,
    ];

    const fn path(self) -> &'static str {
        match self {
            Self::OllamaVersion => "/api/version",
            Self::KoboldVersion => "/api/extra/version",
            Self::LmStudioModels => "/api/v0/models",
            Self::Props => "/props",
            Self::VllmVersion => "/version",
            Self::WebuiModel => "/v1/internal/model/info",
            Self::Models => "/v1/models",
        }
    }
}

/// The ports that are looked at, and who usually listens there.
pub const USUAL: [(u16, Product); 7] = [
    (11434, Product::Ollama),
    (8080, Product::LlamaServer),
    (1234, Product::LmStudio),
    (8000, Product::Vllm),
    (11460, Product::Sextant),
    (5001, Product::KoboldCpp),
    (5000, Product::TextGenerationWebui),
];

/// An engine on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub product: Product,
    pub port: u16,
    pub url: String,
    pub version: Option<String>,
    /// It wants a key, so more is not known of it; who it is, is a guess by its port then.
    pub needs_key: bool,
    pub models: Vec<Model>,
}

/// The usual ports without these: our own, and those of engines that are known.
#[must_use]
pub fn ports_without(known: &[u16]) -> Vec<u16> {
    let ports = USUAL.iter().map(|(port, _)| *port);
    ports.filter(|port| !known.contains(port)).collect()
}

/// The port of an address on this machine.
#[must_use]
pub fn local_port(address: &str) -> Option<u16> {
    let url = reqwest::Url::parse(address).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    let is_here = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback());
    url.port_or_known_default().filter(|_| is_here)
}

/// Looks who listens on these ports of 127.0.0.1; all at once, within a few seconds.
pub async fn discover(ports: &[u16]) -> Vec<Found> {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        .user_agent(concat!("sextant/", env!("CARGO_PKG_VERSION")))
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "there is no client to look for engines with");
            return Vec::new();
        }
    };
    let found = join_all(ports.iter().map(|port| look(&client, *port))).await;
    found.into_iter().flatten().collect()
}

async fn look(client: &Client, port: u16) -> Option<Found> {
    let connected = timeout(CONNECT, TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await;
    drop(connected.ok()?.ok()?);
    let url = format!("http://127.0.0.1:{port}");
    let mut answers = Answers::default();
    for route in Route::ALL {
        // Whoever does not answer one does not answer the others either.
        answers.ask(client, &url, route).await?;
        if let Some(product) = Product::of(&answers) {
            let version = answers.version();
            let models = models(product.kind(), &url).await;
            return Some(Found {
                product,
                port,
                url,
                version,
                needs_key: models.is_none(),
                models: models.unwrap_or_default(),
            });
        }
    }
    let usual = USUAL.iter().find(|(usual, _)| *usual == port);
    // A web page behind a password is asked for its models too, and refuses.
    let (_, product) = usual.filter(|_| answers.refused == Route::ALL.len())?;
    Some(Found {
        product: *product,
        port,
        url,
        version: None,
        needs_key: true,
        models: Vec::new(),
    })
}

/// What it has; `None` where it does not say.
async fn models(kind: Kind, url: &str) -> Option<Vec<Model>> {
    let remote = Remote::new(RemoteConfig {
        name: "found".into(),
        kind,
        url: url.to_owned(),
        key: None,
        headers: Vec::new(),
        reach: Some(Reach::Device),
        timeouts: Timeouts {
            connect: CONNECT,
            first_token: SURVEY,
            silence: SURVEY,
        },
        models: Vec::new(),
        vision: Vec::new(),
        streams: Streams::AsShown,
    });
    let remote = remote.ok()?;
    let survey = timeout(SURVEY, remote.survey()).await.ok()?;
    survey.ok().map(|survey| survey.models)
}

/// What somebody has answered so far.
#[derive(Debug, Default)]
struct Answers {
    /// Of the routes that were asked, what came as JSON.
    told: Vec<(Route, Option<Value>)>,
    /// What the server calls itself.
    server: Option<String>,
    /// Routes that want a key.
    refused: usize,
}

impl Answers {
    fn json(&self, route: Route) -> Option<&Value> {
        let (_, json) = self.told.iter().find(|(told, _)| *told == route)?;
        json.as_ref()
    }

    /// Nothing, unless the route has been asked.
    fn last_asked(&self, route: Route) -> Option<()> {
        let mut told = self.told.iter();
        told.any(|(told, _)| *told == route).then_some(())
    }

    fn version(&self) -> Option<String> {
        let text = |route, field: &str| self.json(route)?.get(field)?.as_str();
        let version = text(Route::OllamaVersion, "sextant")
            .or_else(|| text(Route::KoboldVersion, "version"))
            .or_else(|| text(Route::OllamaVersion, "version"))
            .or_else(|| text(Route::VllmVersion, "version"))?;
        // It goes into a file and onto a terminal.
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || ".-+_".contains(*c);
        let version: String = version
            .chars()
            .filter(is_plain)
            .take(VERSION_CHARS_MAX)
            .collect();
        (!version.is_empty()).then_some(version)
    }

    /// `None` where there is no answer to speak of.
    async fn ask(&mut self, client: &Client, url: &str, route: Route) -> Option<()> {
        let response = client
            .get(format!("{url}{}", route.path()))
            .send()
            .await
            .ok()?;
        let server = response.headers().get(SERVER);
        self.server = server
            .and_then(|name| name.to_str().ok())
            .map(str::to_owned);
        let status = response.status();
        self.refused += usize::from(matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ));
        let json = match status.is_success() {
            true => json(response).await,
            false => None,
        };
        self.told.push((route, json));
        Some(())
    }
}

async fn json(mut response: Response) -> Option<Value> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return None;
        }
    }
    serde_json::from_slice(&body).ok()
}

#[cfg(test)]
mod tests;
