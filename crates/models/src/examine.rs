//! A whole examination of one model: more than an engine needs to know before it loads it.

use std::path::{Path, PathBuf};

use crate::checksum;
use crate::diagnose::{ArtifactFault, Facts, Foreign, diagnose};
use crate::gguf::{Arrays, Gguf};
use crate::rkllm::RkllmFacts;
use crate::tokenizer::{self, TokenizerFlaw};

/// How much of a model's files is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Headers: milliseconds.
    Headers,
    /// Every byte, for the checksum: as long as the disk takes.
    Whole,
}

/// What was found out about one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Examination {
    pub path: PathBuf,
    pub diagnosis: Result<Facts, ArtifactFault>,
    pub tokenizer: Vec<TokenizerFlaw>,
    /// The texts of the beginning and the end of a sequence, which templates use.
    pub bos: String,
    pub eos: String,
    /// Of each file, in order.
    pub checksums: Vec<(PathBuf, Checksum)>,
    /// Where it is a file of RKLLM.
    pub rkllm: Option<RkllmFacts>,
}

/// Whether a file is the one that its store names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// The store has none.
    Unknown,
    /// The store has one, and the file was not read.
    NotRead,
    Matches,
    Differs {
        expected: String,
        found: String,
    },
    /// The file cannot be read to its end; the system's words.
    Unreadable(String),
}

/// Examines the model at `path`. Blocking; see [`Depth`].
#[must_use]
pub fn examine(path: &Path, depth: Depth) -> Examination {
    let mut examination = Examination {
        path: path.to_owned(),
        diagnosis: diagnose(path),
        tokenizer: Vec::new(),
        bos: String::new(),
        eos: String::new(),
        checksums: Vec::new(),
        rkllm: None,
    };
    let files = match &examination.diagnosis {
        Ok(facts) => facts.files.clone(),
        // A damaged file may have a name that proves it.
        Err(_) if path.is_file() => vec![path.to_owned()],
        Err(_) => Vec::new(),
    };
    if examination.diagnosis.is_ok() {
        read_tokenizer(&files, &mut examination);
    }
    if let Err(ArtifactFault::WrongFormat {
        format: Foreign::Rkllm,
        path,
    }) = &examination.diagnosis
    {
        examination.rkllm = RkllmFacts::read(path).ok();
    }
    let files = files.into_iter().map(|file| {
        let checksum = checksum_of(&file, depth);
        (file, checksum)
    });
    examination.checksums = files.collect();
    examination
}

/// Reads the headers again, now with the vocabulary.
fn read_tokenizer(files: &[PathBuf], into: &mut Examination) {
    let read = |file: &PathBuf| Gguf::open_with(file, Arrays::Read).ok();
    let Some(shards) = files.iter().map(read).collect::<Option<Vec<_>>>() else {
        return;
    };
    let Some(first) = shards.first() else {
        return;
    };
    into.tokenizer = tokenizer::flaws(first, shards.iter().flat_map(|gguf| gguf.tensors()));
    let text = |name: &str| {
        let id = first.get_u32(&format!("tokenizer.ggml.{name}_token_id"))?;
        let token = first.get_array("tokenizer.ggml.tokens")?.get(id as usize)?;
        token.as_str().map(str::to_owned)
    };
    into.bos = text("bos").unwrap_or_default();
    into.eos = text("eos").unwrap_or_default();
}

fn checksum_of(path: &Path, depth: Depth) -> Checksum {
    let Some(expected) = checksum::expected(path) else {
        return Checksum::Unknown;
    };
    if depth == Depth::Headers {
        return Checksum::NotRead;
    }
    match checksum::of_file(path) {
        Ok(found) if found == expected => Checksum::Matches,
        Ok(found) => Checksum::Differs { expected, found },
        Err(error) => Checksum::Unreadable(error.to_string()),
    }
}
