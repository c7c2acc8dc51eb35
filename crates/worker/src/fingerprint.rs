//! What a state depends on beyond its tokens, as one number.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use prefix::Fingerprint;
use proto::ModelFacts;

/// Bytes that are read of each tensor, at its start and in its middle. Reading whole files
/// of many gigabytes would take as long as loading them; models that differ, differ in
/// nearly every tensor.
const SAMPLE_BYTES: u64 = 1024;

/// Of the model's files and of how they are run. The header holds the tokenizer and what
/// positions mean. States that are kept `inexact`, at a level of that name, go into a cache of any
/// types.
pub(crate) fn of(
    path: &Path,
    facts: &ModelFacts,
    inexact: Option<&str>,
) -> io::Result<Fingerprint> {
    let mut files = Vec::new();
    for file in files_of(path) {
        files.push(sample(&file)?);
    }
    let build = crate::build();
    // Some models scale positions otherwise in a context above the one they were made for.
    let context = (facts.context > facts.context_train / 2).then_some(facts.context);
    let (types, layers) = match inexact {
        None => (
            format!("{} {}", facts.kv_type_k, facts.kv_type_v),
            layers(facts),
        ),
        Some(level) => (format!("kept in {level}"), String::new()),
    };
    let how = format!(
        "{types} {} {} {} {context:?}",
        facts.flash_attention, facts.kernels, facts.gpu_layers
    );
    let mut parts: Vec<(&str, &[u8])> = files.iter().map(|file| ("file", &file[..])).collect();
    parts.push(("build", build.as_bytes()));
    parts.push(("how", how.as_bytes()));
    if !layers.is_empty() {
        parts.push(("layers", layers.as_bytes()));
    }
    Ok(Fingerprint::of(parts))
}

/// The types of each layer, where they differ.
fn layers(facts: &ModelFacts) -> String {
    let layers = facts.kv_layers.iter();
    let each = layers.map(|layer| format!("{}:{}/{}", layer.layer, layer.keys, layer.values));
    each.collect::<Vec<_>>().join(",")
}

fn files_of(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(models::gguf::shard_name) {
        Some(shards) => shards.all().map(|name| path.with_file_name(name)).collect(),
        None => vec![path.to_owned()],
    }
}

/// The whole header, the length, and a little of each tensor.
fn sample(path: &Path) -> io::Result<Vec<u8>> {
    let header = models::Gguf::open(path).map_err(io::Error::other)?;
    let mut file = File::open(path)?;
    let mut bytes = file.metadata()?.len().to_le_bytes().to_vec();
    (&mut file)
        .take(header.data_offset())
        .read_to_end(&mut bytes)?;
    for tensor in header.tensors() {
        let start = header.data_offset().saturating_add(tensor.offset());
        for at in [start, start.saturating_add(tensor.bytes() / 2)] {
            file.seek(SeekFrom::Start(at))?;
            let len = SAMPLE_BYTES.min(tensor.bytes());
            (&mut file).take(len).read_to_end(&mut bytes)?;
        }
    }
    Ok(bytes)
}
