//! One pull for each file, across processes.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Options, PullError};

/// How often a lock held by another process is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Held while a file is being pulled. The system lets go of it when the process
/// dies. Lock files stay behind empty: removing one would let two processes hold
/// "the" lock of different files of the same name.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

pub(super) async fn acquire(options: &Options, dest: &Path) -> Result<Lock, PullError> {
    let folder = options.store.join(".locks");
    fs::create_dir_all(&folder).map_err(|error| PullError::io(&folder, error))?;
    let name = super::download::hex(&Sha256::digest(dest.as_os_str().as_encoded_bytes()));
    let path = folder.join(name);
    let file = File::create(&path).map_err(|error| PullError::io(&path, error))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::Error(error)) => return Err(PullError::io(&path, error)),
            Err(TryLockError::WouldBlock) if start.elapsed() >= options.lock_wait_max => {
                return Err(PullError::Locked {
                    path: dest.to_owned(),
                    waited: start.elapsed(),
                });
            }
            Err(TryLockError::WouldBlock) => tokio::time::sleep(POLL).await,
        }
    }
}
