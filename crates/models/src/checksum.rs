//! Whether a file is the one that its store says it is.
//!
//! Ollama and the Hugging Face hub name files by their SHA-256, and a file that we pulled has
//! it in its manifest.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::stores::Manifest;

/// Read at once: enough for a disk to be the limit.
const BLOCK_BYTES: usize = 1 << 20;

/// The SHA-256 that the store of this file has of it, lower-case hex; `None` where it has none.
#[must_use]
pub fn expected(path: &Path) -> Option<String> {
    if let Some(manifest) = Manifest::read(path) {
        return Some(manifest.sha256).filter(|hex| is_sha256(hex));
    }
    // Snapshots of the hub are links to files with such names.
    let real = path.canonicalize().ok()?;
    let name = real.file_name()?.to_str()?;
    let is_blob = real.parent()?.file_name()? == "blobs";
    let hex = name.strip_prefix("sha256-").unwrap_or(name);
    (is_blob && is_sha256(hex)).then(|| hex.to_owned())
}

/// The SHA-256 of the whole file, lower-case hex. Blocking: as long as reading it takes.
///
/// # Errors
/// The file cannot be read to its end.
pub fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match file.read(&mut block)? {
            0 => break,
            n => digest.update(block.get(..n).unwrap_or_default()),
        }
    }
    let bytes = digest.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the three bytes `abc`, from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn stores_name_files_by_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs");
        std::fs::create_dir(&blobs).unwrap();
        for name in [format!("sha256-{ABC}"), ABC.to_owned()] {
            let path = blobs.join(name);
            std::fs::write(&path, "abc").unwrap();
            assert_eq!(expected(&path).as_deref(), Some(ABC));
            assert_eq!(of_file(&path).unwrap(), ABC);
        }
        let link = folder.path().join("model.gguf");
        std::os::unix::fs::symlink(blobs.join(ABC), &link).unwrap();
        assert_eq!(expected(&link).as_deref(), Some(ABC));
        let plain = folder.path().join("plain.gguf");
        std::fs::write(&plain, "abc").unwrap();
        assert_eq!(expected(&plain), None);
        let manifest = format!(
            "{{\"source\": \"s\", \"url\": \"u\", \"sha256\": \"{ABC}\", \"bytes\": 3, \
             \"pulled_unix_s\": 1}}"
        );
        std::fs::write(Manifest::path_of(&plain), manifest).unwrap();
        assert_eq!(expected(&plain).as_deref(), Some(ABC));
    }
}
