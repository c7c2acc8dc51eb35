//! Is there room? Asked before the first byte, not after the last one.

use std::fmt;
use std::io;
use std::path::Path;

use stdx::Bytes;

use super::{Options, PullError};

/// Says how much space is left; tests put a full disk here.
pub trait DiskProbe: fmt::Debug + Send + Sync {
    /// Bytes this user may still write below `folder`, which exists.
    ///
    /// # Errors
    /// The system does not say; the pull then goes on and meets the limit itself.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;
}

/// The real file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl DiskProbe for SystemDisk {
    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        fs4::available_space(folder)
    }
}

/// Refuses to start what cannot finish.
pub(super) fn check_room(options: &Options, folder: &Path, need: u64) -> Result<(), PullError> {
    let Ok(free) = options.disk.free_bytes(folder) else {
        return Ok(());
    };
    let need = need.saturating_add(options.disk_reserve.0);
    if free >= need {
        return Ok(());
    }
    Err(PullError::DiskFull {
        folder: folder.to_owned(),
        need: Bytes(need),
        free: Some(Bytes(free)),
    })
}
