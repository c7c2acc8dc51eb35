//! How fast the storage is on which a folder lies, by its kind.
//!
//! The folder's mount is found in `/proc/self/mountinfo`, its device in `/sys/dev/block`, and
//! below partitions, encryption and volumes the disk in `/sys/class/block`.

use std::path::Path;

use crate::Root;
use crate::mounts::{Mount, mounts};

/// Devices one below the other.
const DEPTH_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    pub kind: StorageKind,
    /// The disk, or the source of a mount that has none.
    pub device: String,
    pub file_system: String,
    pub mount_point: String,
}

/// With what such devices read in a row, as an order of magnitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorageKind {
    /// Gigabytes a second.
    Memory,
    /// 1 to 14 GB/s.
    Nvme,
    /// About 0.5 GB/s.
    Ssd,
    /// A virtual machine's disk: only its host knows.
    Virtual,
    /// 0.1 to 0.3 GB/s.
    Emmc,
    /// About 0.1 GB/s, with long seeks.
    HardDisk,
    /// 0.02 to 0.1 GB/s.
    SdCard,
    /// As fast as the way there.
    Network,
    Unknown,
}

impl StorageKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Nvme => "nvme",
            Self::Ssd => "ssd",
            Self::Virtual => "virtual disk",
            Self::Emmc => "emmc",
            Self::HardDisk => "hard disk",
            Self::SdCard => "sd card",
            Self::Network => "network",
            Self::Unknown => "unknown",
        }
    }
}

/// The storage of an absolute folder; links in it are for the caller to follow. `None`
/// where nothing is known of mounts.
#[must_use]
pub fn of_folder(root: &Root, folder: &Path) -> Option<Storage> {
    let mounts = mounts(root);
    // Of several mounts at one place the last one is seen.
    let mount = mounts
        .iter()
        .filter(|mount| folder.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.len())?;
    let disk = disk(root, mount);
    let kind = match mount.kind.as_str() {
        "tmpfs" | "ramfs" => StorageKind::Memory,
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph" | "glusterfs" | "fuse.sshfs"
        | "fuse.rclone" | "virtiofs" | "afs" | "lustre" => StorageKind::Network,
        _ => disk
            .as_deref()
            .map_or(StorageKind::Unknown, |disk| of_disk(root, disk)),
    };
    Some(Storage {
        kind,
        device: disk.unwrap_or_else(|| mount.source.clone()),
        file_system: mount.kind.clone(),
        mount_point: mount.point.clone(),
    })
}

/// The disk below a mount: partitions belong to one, volumes lie on one.
fn disk(root: &Root, mount: &Mount) -> Option<String> {
    let link = root.link(&format!("/sys/dev/block/{}", mount.device));
    let mut name = match &link {
        Some(target) => last(target).to_owned(),
        // File systems over several devices, such as btrfs, have no number of their own.
        // A volume's name is a link to it (`/dev/mapper/luks-1` to `../dm-0`).
        None => {
            let named = mount.source.strip_prefix("/dev/")?;
            let volume = root.link(&mount.source);
            last(volume.as_deref().unwrap_or(named)).to_owned()
        }
    };
    for _ in 0..DEPTH_MAX {
        let block = format!("/sys/class/block/{name}");
        if root.exists(&format!("{block}/partition")) {
            name = parent(root, &name, link.as_deref())?;
            continue;
        }
        match root.names(&format!("{block}/slaves")).into_iter().next() {
            Some(slave) => name = slave,
            None => break,
        }
    }
    Some(name)
}

/// The disk of a partition: the folder in which the kernel has it.
fn parent(root: &Root, partition: &str, link: Option<&str>) -> Option<String> {
    let own = root.link(&format!("/sys/class/block/{partition}"));
    let target = own
        .as_deref()
        .or(link)
        .filter(|target| last(target) == partition)?;
    let folder = target.strip_suffix(partition)?.trim_end_matches('/');
    Some(last(folder).to_owned())
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn of_disk(root: &Root, disk: &str) -> StorageKind {
    let file = |name: &str| root.line(&format!("/sys/class/block/{disk}/{name}"));
    if disk.starts_with("nvme") {
        return StorageKind::Nvme;
    }
    if disk.starts_with("mmcblk") {
        return match file("device/type").as_deref() {
            Some("SD") => StorageKind::SdCard,
            Some("MMC") => StorageKind::Emmc,
            _ => StorageKind::Unknown,
        };
    }
    if disk.starts_with("vd") || disk.starts_with("xvd") {
        return StorageKind::Virtual;
    }
    if disk.starts_with("ram") || disk.starts_with("zram") {
        return StorageKind::Memory;
    }
    match file("queue/rotational").as_deref() {
        Some("0") => StorageKind::Ssd,
        Some("1") => StorageKind::HardDisk,
        _ => StorageKind::Unknown,
    }
}
