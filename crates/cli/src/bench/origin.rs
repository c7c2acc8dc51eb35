//! On what attempts were made: which file, build and machine answered.
//!
//! A file of attempts has a line for each model and run, ahead of its attempts, which name it by
//! its id. What the engine does not say is left out, and then nobody can tell whether it has
//! changed since.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bench::stale::Grounds;
use providers::discover::local_port;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::ResultModel;

use super::attempts_file::{self, Lines, Log};
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
        log: &mut Log,
    ) -> Outcome<String> {
        if let Some(id) = self.known(model) {
            return Ok(id);
        }
        let origin = Origin::ask(server, model, at_unix_secs).await;
        log.append(&origin.line())?;
        self.0.insert(model.to_owned(), origin.id.clone());
        Ok(origin.id)
    }
}

/// The line of an origin, which no attempt looks like.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OriginLine {
    pub(super) origin: Origin,
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

    pub(super) fn line(&self) -> OriginLine {
        OriginLine {
            origin: self.clone(),
        }
    }

    fn model(&self) -> ResultModel {
        let path = self.path.as_deref();
        ResultModel {
            name: self.model.clone(),
            path: path.map(|path| path.display().to_string()),
            bytes: self.fingerprint.as_deref().and_then(tune::bytes_of),
            fingerprint: self.fingerprint.clone(),
            build: self.build.clone(),
            hardware: self.hardware.clone(),
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

/// The models of a run as results tell of them: each origin that its lines name, and those of
/// which nothing is known by their names.
pub(super) fn models(log: &Log, names: &[String]) -> Vec<ResultModel> {
    let lines = log.lines.iter();
    of_lines(lines.map(String::as_str), names)
}

pub(super) fn of_lines<'a>(
    lines: impl Iterator<Item = &'a str>,
    names: &[String],
) -> Vec<ResultModel> {
    let lines = lines.filter_map(|line| serde_json::from_str::<OriginLine>(line).ok());
    let mut models: Vec<ResultModel> = Vec::new();
    for OriginLine { origin } in lines {
        let model = origin.model();
        if !models.contains(&model) {
            models.push(model);
        }
    }
    for name in names {
        if !models.iter().any(|model| model.name == *name) {
            models.push(ResultModel {
                name: name.clone(),
                ..ResultModel::default()
            });
        }
    }
    models
}

/// What `bench quality` has kept in a file.
pub(crate) struct Stored {
    /// The file, or the id of the run.
    pub(crate) file: PathBuf,
    /// Where it was measured.
    pub(crate) server: String,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) origins: Vec<Origin>,
}

impl Stored {
    pub(crate) fn of(lines: &Lines) -> Self {
        let heading: Value = lines.heading().unwrap_or_default();
        let origins = attempts_file::read::<OriginLine>(&lines.text).into_iter();
        Self {
            file: lines.name.clone(),
            server: heading["server"].as_str().unwrap_or_default().to_owned(),
            attempts: lines.attempts(),
            origins: origins.map(|line| line.origin).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
