//! The gateways of the overhead bench: where each comes from and how it is started.
//!
//! Each runs with its default policy, logs errors only, and has one back end. What is not
//! on the machine is fetched once, into the cache.

use super::dummy::MODEL;
use crate::cache;
use crate::shell::{self, program, root, sextant};
use crate::tools::python_environment;
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    Direct,
    Nginx,
    Sextant,
    VllmRouter,
    SglangRouter,
    Portkey,
    Litellm,
}

pub(super) const ALL: [Kind; 7] = [
    Kind::Direct,
    Kind::Nginx,
    Kind::Sextant,
    Kind::VllmRouter,
    Kind::SglangRouter,
    Kind::Portkey,
    Kind::Litellm,
];

const PORTKEY: &str = "@portkey-ai/gateway";
/// Sextant and LiteLLM ask for it: LiteLLM does not start without one, and Sextant is
/// measured as one would run it. It opens nothing but these two for as long as they run.
const KEY: &str = "sk-5d0c8a1fb27e4963a4f19e60c7d2835b8e1f60a94c37d52b";

/// Portkey listens on every address and has no option for it.
const LISTEN_ON_LOOPBACK: &str = "const { Server } = require('node:net');
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, ...rest) {
  const callback = rest.find((argument) => typeof argument === 'function');
  return listen.call(this, port, '127.0.0.1', callback);
};
";

/// A gateway that is there to be started.
pub(super) struct Gateway {
    pub(super) kind: Kind,
    pub(super) version: String,
    binary: PathBuf,
}

/// Where one start of a gateway listens, whom it asks, and where its files lie.
pub(super) struct Place<'a> {
    pub(super) port: u16,
    pub(super) engine: SocketAddr,
    pub(super) folder: &'a Path,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Sextant => "Sextant",
            Self::VllmRouter => "vllm-router",
            Self::SglangRouter => "sglang-router",
            Self::Portkey => "Portkey",
            Self::Litellm => "LiteLLM",
        }
    }

    /// Finds or fetches the gateway.
    pub(super) fn ensure(self, ours: Option<&Path>) -> Result<Gateway> {
        let (binary, version) = match self {
            Self::Direct => (PathBuf::new(), "the dummy engine itself".to_owned()),
            Self::Nginx => nginx()?,
            Self::Sextant => our_binary(ours)?,
            Self::VllmRouter => python("vllm-router", "vllm-router")?,
            Self::SglangRouter => python("sglang-router", "python")?,
            Self::Litellm => python("litellm", "litellm")?,
            Self::Portkey => portkey()?,
        };
        Ok(Gateway {
            kind: self,
            version,
            binary,
        })
    }
}

fn our_binary(ours: Option<&Path>) -> Result<(PathBuf, String)> {
    let binary = ours.map_or_else(sextant, Path::to_path_buf);
    if !binary.is_file() {
        bail!("there is no {}; run 'make build' first", binary.display());
    }
    let binary = binary.canonicalize()?;
    let version = shell::output(&mut program(&binary, &["--version"]))?;
    Ok((binary, version.trim().to_owned()))
}

fn folder(name: &str) -> Result<PathBuf> {
    let folder = cache::folder()?.join("gateways").join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The installed one, else the Debian package's, unpacked into the cache.
fn nginx() -> Result<(PathBuf, String)> {
    let folder = folder("nginx")?;
    let fetched = folder.join("usr/sbin/nginx");
    let installed = PathBuf::from("/usr/sbin/nginx");
    let binary = if installed.is_file() {
        installed
    } else {
        if !fetched.is_file() {
            let mut fetch = program("apt-get", &["download", "nginx"]);
            shell::run(fetch.current_dir(&folder))?;
            let package = fs::read_dir(&folder)?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
                .context("apt-get left no package")?;
            shell::run(program("dpkg", &["-x"]).arg(package).arg(&folder))?;
        }
        fetched
    };
    // It says its version on standard error.
    let output = Command::new(&binary)
        .arg("-v")
        .output()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    let version = String::from_utf8_lossy(&output.stderr);
    let version = version.rsplit("version: ").next().unwrap_or_default();
    Ok((binary, version.trim().to_owned()))
}

/// A program of a Python package, in an environment of its own.
fn python(package: &str, binary: &str) -> Result<(PathBuf, String)> {
    let folder = folder(package)?;
    let requirements = root().join(format!("xtask/peers/{package}.txt"));
    python_environment(&folder, &requirements)?;
    let version = fs::read_to_string(&requirements)?;
    Ok((folder.join("bin").join(binary), version.trim().to_owned()))
}

fn portkey() -> Result<(PathBuf, String)> {
    let folder = folder("portkey")?;
    let pins = root().join("xtask/peers/portkey/package.json");
    let wanted = fs::read_to_string(&pins)?;
    let stamp = folder.join("package.stamp");
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        fs::write(folder.join("package.json"), &wanted)?;
        let install = ["install", "--no-audit", "--no-fund", "--ignore-scripts"];
        shell::run(program("npm", &install).current_dir(&folder))?;
        fs::write(&stamp, &wanted)?;
    }
    let pins: serde_json::Value = serde_json::from_str(&wanted)?;
    let version = pins["dependencies"][PORTKEY]
        .as_str()
        .context("no version")?;
    let node = shell::output(&mut program("node", &["--version"]))?;
    let script = folder.join("node_modules/@portkey-ai/gateway/build/start-server.js");
    Ok((script, format!("{PORTKEY} {version}, node {}", node.trim())))
}

impl Gateway {
    /// What starts it; `None` for the engine itself, which runs already.
    pub(super) fn command(&self, place: &Place) -> Result<Option<Command>> {
        let port = place.port.to_string();
        let engine = format!("http://{}", place.engine);
        let mut command = Command::new(&self.binary);
        match self.kind {
            Kind::Direct => return Ok(None),
            Kind::Nginx => {
                let file = place.folder.join("nginx.conf");
                fs::write(&file, nginx_config(place))?;
                command.args(["-e", "stderr", "-p"]).arg(place.folder);
                command.arg("-c").arg(file);
            }
            Kind::Sextant => {
                let file = place.folder.join("sextant.toml");
                fs::write(&file, sextant_config(place))?;
                command.arg("serve").arg("--config").arg(file);
                command.arg("--discovery=false");
                // Models and settings of this machine have no part in it.
                command.env("HOME", place.folder);
                for (name, _) in std::env::vars() {
                    if name.starts_with("SEXTANT_") || name.starts_with("XDG_") {
                        command.env_remove(name);
                    }
                }
            }
            Kind::VllmRouter | Kind::SglangRouter => {
                if self.kind == Kind::SglangRouter {
                    command.args(["-m", "sglang_router.launch_router"]);
                }
                command.args(["--host", "127.0.0.1", "--port", &port]);
                command.args(["--worker-urls", &engine, "--policy", "round_robin"]);
                let metrics = crate::server::free_port()?.to_string();
                command.args(["--log-level", "error", "--prometheus-port", &metrics]);
                command.args(["--prometheus-host", "127.0.0.1"]);
            }
            Kind::Portkey => {
                let preload = place.folder.join("loopback.cjs");
                fs::write(&preload, LISTEN_ON_LOOPBACK)?;
                command = Command::new("node");
                command.arg("--require").arg(preload).arg(&self.binary);
                command.args([&format!("--port={port}"), "--headless"]);
            }
            Kind::Litellm => {
                let file = place.folder.join("litellm.yaml");
                fs::write(&file, litellm_config(&engine))?;
                command.arg("--config").arg(file);
                command.args(["--host", "127.0.0.1", "--port", &port]);
                command.args(["--num_workers", "1", "--telemetry", "False"]);
                command.env("LITELLM_LOG", "ERROR");
                command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
            }
        }
        command.current_dir(place.folder);
        Ok(Some(command))
    }

    /// The request, as a client of this gateway has to send it.
    pub(super) fn request(&self, place: &Place, stream: bool) -> Vec<u8> {
        let body = format!(
            "{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"system\",\"content\":\
             \"You are a helpful assistant.\"}},{{\"role\":\"user\",\"content\":\
             \"Say twenty short words, please.\"}}],\"max_tokens\":64,\
             \"temperature\":0,\"stream\":{stream}}}"
        );
        let headers = match self.kind {
            Kind::Sextant | Kind::Litellm => format!("authorization: Bearer {KEY}\r\n"),
            Kind::Portkey => format!(
                "authorization: Bearer none\r\nx-portkey-provider: openai\r\n\
                 x-portkey-custom-host: http://{}/v1\r\n",
                place.engine
            ),
            _ => String::new(),
        };
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n{headers}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            place.port,
            body.len()
        )
        .into_bytes()
    }
}

fn nginx_config(place: &Place) -> String {
    let folder = place.folder.display();
    format!(
        "daemon off;\nworker_processes auto;\npid {folder}/nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n\
         \x20 client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n\
         \x20 fastcgi_temp_path {folder}/fastcgi;\n  uwsgi_temp_path {folder}/uwsgi;\n\
         \x20 scgi_temp_path {folder}/scgi;\n\
         \x20 upstream engine {{ server {}; keepalive 512; keepalive_requests 1000000000; }}\n\
         \x20 server {{\n    listen 127.0.0.1:{};\n    keepalive_requests 1000000000;\n\
         \x20   location / {{\n      proxy_pass http://engine;\n      proxy_http_version 1.1;\n\
         \x20     proxy_set_header Connection \"\";\n      proxy_buffering off;\n    }}\n  }}\n}}\n",
        place.engine, place.port
    )
}

/// Keys are on; what there is of metrics always is.
fn sextant_config(place: &Place) -> String {
    format!(
        "listen = \"127.0.0.1:{}\"\napi_key = \"{KEY}\"\nrequests_max = 1024\n\
         log_level = \"error\"\n\n[[providers]]\nname = \"dummy\"\nkind = \"openai\"\n\
         url = \"http://{}\"\nrequests_max = 1024\n",
        place.port, place.engine
    )
}

fn litellm_config(engine: &str) -> String {
    format!(
        "model_list:\n  - model_name: {MODEL}\n    litellm_params:\n\
         \x20     model: openai/{MODEL}\n      api_base: {engine}/v1\n      api_key: none\n\
         general_settings:\n  master_key: {KEY}\n"
    )
}
