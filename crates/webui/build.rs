//! Embeds `ui/dist`, where somebody has built it. Runs no other program and asks no network.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use sha2::{Digest, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../ui/dist");
    // The folder is always there, as one file of it is in the repository: cargo would run this
    // with each build if it were not.
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let mut table = String::from("&[\n");
    for path in &files {
        let name = path
            .strip_prefix(&root)?
            .to_string_lossy()
            .replace('\\', "/");
        let Some(media_type) = media_type(&name) else {
            continue;
        };
        let hash = Sha256::digest(fs::read(path)?);
        let mut etag = String::new();
        for byte in &hash[..12] {
            write!(etag, "{byte:02x}")?;
        }
        writeln!(
            table,
            "Asset {{ path: {name:?}, media_type: {media_type:?}, etag: {etag:?}, plain: {}, \
             gzip: {}, brotli: {} }},",
            included(path)?,
            sibling(path, "gz")?,
            sibling(path, "br")?
        )?;
    }
    table.push(']');
    let out = PathBuf::from(env::var("OUT_DIR")?).join("assets.rs");
    Ok(fs::write(out, table)?)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => collect(&entry.path(), files)?,
            false => files.push(entry.path()),
        }
    }
    Ok(())
}

/// `None` for what is not served by itself.
fn media_type(name: &str) -> Option<&'static str> {
    match name.rsplit('.').next()? {
        "html" => Some("text/html; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        "png" => Some("image/png"),
        "woff2" => Some("font/woff2"),
        "webmanifest" => Some("application/manifest+json"),
        _ => None,
    }
}

fn included(path: &Path) -> Result<String, Box<dyn Error>> {
    Ok(format!("include_bytes!({:?})", path.canonicalize()?))
}

/// The same, packed before.
fn sibling(path: &Path, extension: &str) -> Result<String, Box<dyn Error>> {
    let mut packed = path.as_os_str().to_owned();
    packed.push(".");
    packed.push(extension);
    let packed = PathBuf::from(packed);
    match packed.exists() {
        true => Ok(format!("Some({})", included(&packed)?)),
        false => Ok("None".to_owned()),
    }
}
