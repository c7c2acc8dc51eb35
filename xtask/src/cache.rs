//! The folder that keeps what is fetched or built once: test models, the peer.

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// `$SEXTANT_CACHE`, else `sextant` in the user's cache folder.
pub(crate) fn folder() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("SEXTANT_CACHE") {
        return Ok(folder.into());
    }
    if let Some(folder) = env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(folder).join("sextant"));
    }
    let home = env::var_os("HOME").context("neither SEXTANT_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/sextant"))
}

pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn verify(path: &Path, wanted: &str) -> Result<()> {
    let found = sha256(path)?;
    if found != wanted {
        bail!(
            "{} has sha256 {found}, not {wanted}; delete it and try again",
            path.display()
        );
    }
    Ok(())
}
