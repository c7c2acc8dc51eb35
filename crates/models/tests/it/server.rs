//! A local HTTP server that serves fixed paths, with one fault for each request
//! that asks for one.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, header};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status with these headers and no body.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection breaks after this many bytes of the body.
    CutAfter(usize),
    /// Nothing more comes after this many bytes, and the connection stays open.
    HoldAfter(usize),
    /// A `Range` is ignored: the whole body with status 200.
    IgnoreRange,
    /// A 206 that starts at the first byte, whatever was asked for.
    WrongRange,
    /// A body without `Content-Length`.
    NoLength,
}

#[derive(Debug, Clone, Default)]
struct Resource {
    body: Bytes,
    etag: Option<String>,
    content_type: &'static str,
    faults: VecDeque<Fault>,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    resources: Mutex<HashMap<String, Resource>>,
    seen: Mutex<Vec<Seen>>,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, shared }
    }

    /// Serves `body` at `path`.
    pub(crate) fn put(&self, path: &str, body: impl Into<Bytes>) {
        let resource = Resource {
            body: body.into(),
            content_type: if path.ends_with(".gguf") {
                "application/octet-stream"
            } else {
                "application/json"
            },
            ..Resource::default()
        };
        self.shared
            .resources
            .lock()
            .unwrap()
            .insert(path.to_owned(), resource);
    }

    pub(crate) fn put_html(&self, path: &str, body: String) {
        self.put(path, body);
        self.change(path, |resource| resource.content_type = "text/html");
    }

    pub(crate) fn etag(&self, path: &str, etag: &str) {
        let etag = Some(etag.to_owned());
        self.change(path, |resource| resource.etag = etag);
    }

    /// The next requests for `path` meet these faults, one each.
    pub(crate) fn faults(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().collect();
        self.change(path, |resource| resource.faults = faults);
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Resource)) {
        change(self.shared.resources.lock().unwrap().get_mut(path).unwrap());
    }

    /// The requests for `path` so far.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| seen.path == path)
            .cloned()
            .collect()
    }

    /// A hub repository with these files; gives the paths their bytes are at.
    pub(crate) fn put_repository(&self, repo: &str, files: &[(&str, &[u8])]) -> Vec<String> {
        let siblings: Vec<_> = files
            .iter()
            .map(|(name, body)| {
                serde_json::json!({
                    "rfilename": name, "size": body.len(),
                    "lfs": { "sha256": sha256(body), "size": body.len(), "pointerSize": 134 },
                })
            })
            .collect();
        let info = serde_json::json!({ "id": repo, "sha": "c0ffee", "siblings": siblings });
        self.put(&format!("/api/models/{repo}"), info.to_string());
        let path_of = |name: &str| format!("/{repo}/resolve/c0ffee/{name}");
        files
            .iter()
            .map(|(name, body)| {
                self.put(&path_of(name), body.to_vec());
                path_of(name)
            })
            .collect()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let headers = request.headers();
    let text = |name| {
        let value = headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let path = request.uri().path().to_owned();
    shared.seen.lock().unwrap().push(Seen {
        path: path.clone(),
        authorization: text(header::AUTHORIZATION),
        range: text(header::RANGE),
    });
    let mut resources = shared.resources.lock().unwrap();
    let Some(resource) = resources.get_mut(&path) else {
        return Response::builder().status(404).body(Body::empty()).unwrap();
    };
    let fault = resource.faults.pop_front();
    respond(resource, fault, headers)
}

fn respond(resource: &Resource, fault: Option<Fault>, headers: &HeaderMap) -> Response<Body> {
    if let Some(Fault::Status(status, extra)) = &fault {
        let mut response = Response::builder().status(*status);
        for (name, value) in extra {
            response = response.header(*name, value);
        }
        return response.body(Body::empty()).unwrap();
    }
    let length = resource.body.len();
    let start = match &fault {
        Some(Fault::IgnoreRange) => None,
        _ => wanted_start(resource, headers),
    };
    let mut response = Response::builder().header(header::CONTENT_TYPE, resource.content_type);
    if let Some(etag) = &resource.etag {
        response = response.header(header::ETAG, etag);
    }
    let first = match start {
        None => 0,
        Some(start) if start >= length => {
            return response
                .status(416)
                .header(header::CONTENT_RANGE, format!("bytes */{length}"))
                .body(Body::empty())
                .unwrap();
        }
        Some(start) => {
            let first = if matches!(fault, Some(Fault::WrongRange)) {
                0
            } else {
                start
            };
            let range = format!("bytes {first}-{}/{length}", length - 1);
            response = response.status(206).header(header::CONTENT_RANGE, range);
            first
        }
    };
    let body = resource.body.slice(first..);
    if !matches!(fault, Some(Fault::NoLength)) {
        response = response.header(header::CONTENT_LENGTH, body.len());
    }
    response.body(stream_of(body, fault)).unwrap()
}

/// The start of the range, unless `If-Range` names another version.
fn wanted_start(resource: &Resource, headers: &HeaderMap) -> Option<usize> {
    if let Some(version) = headers.get(header::IF_RANGE)
        && resource.etag.as_deref() != version.to_str().ok()
    {
        return None;
    }
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

fn stream_of(body: Bytes, fault: Option<Fault>) -> Body {
    let pieces = |bytes: &Bytes| {
        let pieces: Vec<io::Result<Bytes>> = bytes
            .chunks(64 << 10)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        stream::iter(pieces)
    };
    match fault {
        Some(Fault::CutAfter(n)) => {
            let cut = stream::iter([Err(io::Error::other("cut"))]);
            Body::from_stream(pieces(&body.slice(..n.min(body.len()))).chain(cut))
        }
        Some(Fault::HoldAfter(n)) => {
            let held = stream::pending::<io::Result<Bytes>>();
            Body::from_stream(pieces(&body.slice(..n.min(body.len()))).chain(held))
        }
        _ => Body::from_stream(pieces(&body)),
    }
}
