//! Reads what is around this program: folders, address, clock, limits, database.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use config::Config;
use doctor::{Clock, Code, Descriptors, Finding, Folder, FolderState, Place, Port, Use, of_place};
use hardware::{Root, storage};
use models::Environment;
use rustix::fs::Access;
use rustix::io::Errno;
use stdx::Bytes;
use store::{Store, StoreError};

use super::ports;
use crate::database;

/// Everything around the program that is wrong. Of another machine's tree only what the tree
/// can tell: who listens, and how many files may be open.
pub(super) fn around(root: &Root, config: &Config, environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut place = Place {
        port: ports::taken(root, config.listen).filter(|port| !is_own(port)),
        descriptors: descriptors(root, config),
        ..Place::default()
    };
    if root.is_live() {
        let data = database::folder(config);
        let cache = environment.cache_dir().map(|dir| dir.join("sextant"));
        let folders = [
            (Use::Data, data.clone()),
            (Use::Cache, cache.clone()),
            (Use::Models, environment.own_store()),
        ];
        place.folders = folders
            .into_iter()
            .filter_map(|(used_for, path)| Some(folder(root, used_for, path?)))
            .collect();
        let files = [
            data.as_ref().map(|dir| dir.join(store::FILE_NAME)),
            cache.map(|dir| dir.join("hardware.json")),
        ];
        place.clock = clock(root, files.into_iter().flatten());
        findings.extend(data.and_then(|dir| of_database(&dir)));
    }
    findings.extend(of_place(&place));
    findings
}

/// Whether this very program listens there, as a server does that looks at itself.
fn is_own(port: &Port) -> bool {
    let holder = port.holder.as_ref();
    holder.is_some_and(|holder| holder.pid == std::process::id())
}

fn folder(root: &Root, used_for: Use, path: PathBuf) -> Folder {
    let (state, there) = state(&path);
    let real = there.canonicalize().unwrap_or_else(|_| there.clone());
    let space = rustix::fs::statvfs(&there).ok();
    Folder {
        free: space.map(|space| Bytes(space.f_bavail.saturating_mul(space.f_frsize))),
        storage: storage::of_folder(root, &real),
        used_for,
        state,
        there,
        path,
    }
}

/// Whether the folder can be written to, or made; and what of its path is there.
fn state(path: &Path) -> (FolderState, PathBuf) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for there in absolute.ancestors() {
        // A link to nowhere is there, and no folder can be made in its place.
        let metadata = match fs::metadata(there) {
            Ok(metadata) => metadata,
            Err(_) if there.is_symlink() => {
                return (FolderState::File(there.to_owned()), there.to_owned());
            }
            Err(_) => continue,
        };
        if !metadata.is_dir() {
            return (FolderState::File(there.to_owned()), there.to_owned());
        }
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        let state = match rustix::fs::access(there, wanted) {
            Ok(()) => FolderState::Writable,
            Err(Errno::ROFS) => FolderState::ReadOnly,
            Err(_) => FolderState::Denied,
        };
        return (state, there.to_owned());
    }
    (FolderState::Denied, PathBuf::from("/"))
}

fn clock(root: &Root, files: impl Iterator<Item = PathBuf>) -> Option<Clock> {
    let seconds = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .ok()
            .map(|time| time.as_secs())
    };
    let written = files.filter_map(|file| seconds(fs::metadata(file).ok()?.modified().ok()?));
    Some(Clock {
        // Before 1970 is as wrong as 1970.
        now_unix_s: seconds(SystemTime::now()).unwrap_or(0),
        hardware_unix_s: root.number("/sys/class/rtc/rtc0/since_epoch"),
        written_unix_s: written.max(),
    })
}

/// `Max open files            1024                 524288               files`.
fn descriptors(root: &Root, config: &Config) -> Option<Descriptors> {
    let text = root.text("/proc/self/limits")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_whitespace().map(|word| match word {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    });
    Some(Descriptors {
        soft_max: numbers.next()??,
        hard_max: numbers.next()??,
        connections_max: config.connections_max.into(),
    })
}

fn of_database(folder: &Path) -> Option<Finding> {
    let error = Store::inspect(folder).err()?;
    let code = match error {
        StoreError::Newer { .. } => Code::DatabaseNewer,
        StoreError::Locked { .. } => Code::DatabaseLocked,
        StoreError::Unreachable { .. } => Code::DatabaseUnreadable,
        _ => Code::DatabaseDamaged,
    };
    Some(Finding::of_message(code, &error.to_string()))
}
