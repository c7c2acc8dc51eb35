//! On what attempts were made: which file, build and machine answered.
//!
//! A file of attempts has a line for each model and run, ahead of its attempts, which name it by
//! its id. What the engine does not say is left out, and then nobody can tell whether it has
//! changed since.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bench::stale::Grounds;
use providers::discover::local_port;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::attempts_file;
use super::quality::Attempt;
use crate::http::Server;
use crate::outcome::Outcome;
use crate::tune;

/// What answered the attempts of one model in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// What routes name as their evidence.
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) server: String,
    /// When its first attempt was made.
    pub(crate) at_unix_secs: u64,
    /// The model's file, where it is on this machine.
    pub(crate) path: Option<PathBuf>,
    /// Of that file, by its size and a hash of its ends.
    pub(crate) fingerprint: Option<String>,
    pub(crate) build: Option<String>,
    pub(crate) hardware: Option<String>,
}

/// The ids of what has answered in this run, by model.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, String>);

impl Origins {
    pub(super) fn known(&self, model: &str) -> Option<String> {
        self.0.get(model).cloned()
    }

    /// On what an attempt was made that began at this time. It is asked for once a model has
    /// answered, since it is loaded then, and written ahead of the attempt.
    pub(super) async fn id(
        &mut self,
        server: &Server,
        (model, at_unix_secs): (&str, u64),
        file: Option<&Path>,
    ) -> Outcome<String> {
        if let Some(id) = self.known(model) {
            return Ok(id);
        }
        let origin = Origin::ask(server, model, at_unix_secs).await;
        if let Some(file) = file {
            attempts_file::append(file, &origin.line())?;
        }
        self.0.insert(model.to_owned(), origin.id.clone());
        Ok(origin.id)
    }
}

/// The line of an origin, which no attempt looks like.
#[derive(Serialize, Deserialize)]
struct Line {
    origin: Origin,
}

impl Origin {
    /// Asks the server of a model that it has loaded.
    pub(super) async fn ask(server: &Server, model: &str, at_unix_secs: u64) -> Self {
        let props = server.props(model).await.unwrap_or_default();
        let is_here = local_port(server.base()).is_some();
        Self::of(&props, is_here).named((server.base(), model), at_unix_secs)
    }

    /// A file that is found here was read here: then this machine has computed, and not another
    /// one behind the same port.
    fn of(props: &Value, is_here: bool) -> Self {
        let text = |name: &str| props[name].as_str().filter(|text| !text.is_empty());
        let path = text("model_path").map(PathBuf::from);
        let path = path.filter(|path| is_here && path.is_file());
        let fingerprint = path
            .as_deref()
            .and_then(|path| tune::fingerprint(path).ok());
        Self {
            id: String::new(),
            model: String::new(),
            server: String::new(),
            at_unix_secs: 0,
            hardware: path.is_some().then(|| tune::hardware().to_owned()),
            build: text("build_info").map(|told| build(told, is_here)),
            path,
            fingerprint,
        }
    }

    fn named(self, (server, model): (&str, &str), at_unix_secs: u64) -> Self {
        let named = Self {
            model: model.to_owned(),
            server: server.to_owned(),
            at_unix_secs,
            ..self
        };
        let hash = tune::hash(json!(named).to_string().as_bytes());
        Self {
            // Eight digits are enough for the runs of a machine's life.
            id: format!("q-{:08x}", hash >> 32),
            ..named
        }
    }

    pub(super) fn line(&self) -> impl Serialize {
        Line {
            origin: self.clone(),
        }
    }

    /// Whether Sextant has answered.
    pub(crate) fn is_ours(&self) -> bool {
        let build = self.build.as_deref();
        build.is_some_and(|build| build.starts_with("sextant "))
    }

    pub(crate) fn grounds(&self) -> Grounds {
        Grounds {
            model: self.fingerprint.clone(),
            build: self.build.clone(),
            hardware: self.hardware.clone(),
        }
    }
}

/// The build that a server tells. One of our version on this machine is taken for this program,
/// whose size tells it from others of the same version.
fn build(told: &str, is_here: bool) -> String {
    // As `/props` says it.
    let ours = format!("{})", worker::build().replacen(", ", " (", 1));
    match is_here && told == ours {
        true => tune::build().to_owned(),
        false => told.to_owned(),
    }
}

/// What `bench quality` has kept in a file.
pub(crate) struct Stored {
    pub(crate) file: PathBuf,
    /// Where it was measured.
    pub(crate) server: String,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) origins: Vec<Origin>,
}

impl Stored {
    pub(crate) fn read(file: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let heading: Value = text
            .lines()
            .next()
            .and_then(|line| serde_json::from_str(line).ok())
            .unwrap_or_default();
        let lines = attempts_file::read::<Line>(&text).into_iter();
        Ok(Self {
            file: file.to_owned(),
            server: heading["server"].as_str().unwrap_or_default().to_owned(),
            attempts: attempts_file::read(&text),
            origins: lines.map(|line| line.origin).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_of_this_machine_only_where_its_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.gguf");
        std::fs::write(&file, "weights").unwrap();
        let props = |path: &Path| json!({ "model_path": path, "build_info": "b9-1a2b" });
        let here = Origin::of(&props(&file), true);
        assert!(here.fingerprint.is_some() && here.hardware.is_some());
        assert_eq!(here.build.as_deref(), Some("b9-1a2b"));
        assert!(!here.is_ours());
        for (path, is_here) in [(file.as_path(), false), (Path::new("/no/such.gguf"), true)] {
            let elsewhere = Origin::of(&props(path), is_here).grounds();
            assert_eq!((elsewhere.model, elsewhere.hardware), (None, None));
        }
        assert_eq!(Origin::of(&Value::Null, true).grounds(), Grounds::default());
    }

    #[test]
    fn a_build_of_this_version_is_told_from_others_of_it_by_its_size() {
        let told = format!("{})", worker::build().replacen(", ", " (", 1));
        let ours = Origin::of(&json!({ "build_info": told }), true);
        assert_eq!(ours.build.as_deref(), Some(tune::build()));
        assert!(ours.is_ours());
        let elsewhere = Origin::of(&json!({ "build_info": told }), false);
        assert_eq!(elsewhere.build.as_deref(), Some(told.as_str()));
    }

    #[test]
    fn ids_are_of_what_was_measured_and_when() {
        let id = |model: &str, at| {
            Origin::of(&Value::Null, true)
                .named(("http://a", model), at)
                .id
        };
        assert_eq!(id("m", 7), id("m", 7));
        assert_ne!(id("m", 7), id("m", 8));
        assert_ne!(id("m", 7), id("n", 7));
        assert_eq!(id("m", 7).len(), "q-12345678".len());
    }
}
