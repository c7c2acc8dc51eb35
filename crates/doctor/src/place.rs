//! Where a server works: its folders, its address, its clock, the files it may open.

use std::net::SocketAddr;
use std::path::PathBuf;

use hardware::storage::{Storage, StorageKind};
use stdx::Bytes;

use crate::{Code, Finding, Severity};

/// Room in a folder below which a report warns.
pub const DISK_FREE_MIN: Bytes = Bytes(Bytes::GIB);
/// Room below which not even a database can be written.
const DISK_FULL: Bytes = Bytes::mib(16);
/// A clock off by more than this is told: a day, since some clocks keep local time.
pub const CLOCK_OFF_MAX_SECS: u64 = 86_400;
/// No clock that is right says less: 2026-01-01, before this program was released.
const CLOCK_MIN_UNIX_S: u64 = 1_767_225_600;
/// Files that a server has open beside its connections: database, workers, providers.
const DESCRIPTORS_BESIDE: u64 = 64;

/// What was found around this program. `None` is what could not be read, or was not looked at.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub folders: Vec<Folder>,
    /// Who listens at the address already.
    pub port: Option<Port>,
    pub clock: Option<Clock>,
    pub descriptors: Option<Descriptors>,
}

/// A folder that is written to.
#[derive(Debug, Clone)]
pub struct Folder {
    pub path: PathBuf,
    /// The folder itself, or what of the way to it is there.
    pub there: PathBuf,
    pub used_for: Use,
    pub state: FolderState,
    pub free: Option<Bytes>,
    pub storage: Option<Storage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The database, written while requests run.
    Data,
    /// Measurements and what else may be lost.
    Cache,
    /// Downloads.
    Models,
}

impl Use {
    const fn name(self) -> &'static str {
        match self {
            Self::Data => "data folder",
            Self::Cache => "cache folder",
            Self::Models => "folder of models",
        }
    }

    /// How another one is named.
    const fn setting(self) -> &'static str {
        match self {
            Self::Data => "`data_dir`",
            Self::Cache => "the variable `XDG_CACHE_HOME`",
            Self::Models => "`models_dir`",
        }
    }
}

/// Whether this user may write there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FolderState {
    /// It is there, or can be made.
    Writable,
    Denied,
    /// The file system takes no changes.
    ReadOnly,
    /// This is on the way to it and no folder.
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub address: SocketAddr,
    /// `None` where other users' processes may not be looked at.
    pub holder: Option<Holder>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: u32,
    /// The name of its program, as the kernel has it.
    pub program: String,
}

/// What clocks say, seconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    pub now_unix_s: u64,
    /// The clock that goes on while the machine is off.
    pub hardware_unix_s: Option<u64>,
    /// When the latest file of ours was written.
    pub written_unix_s: Option<u64>,
}

/// Files that this process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    pub soft_max: u64,
    pub hard_max: u64,
    /// The setting.
    pub connections_max: u64,
}

/// Everything that is wrong around the program.
#[must_use]
pub fn of_place(place: &Place) -> Vec<Finding> {
    let mut findings: Vec<Finding> = place.folders.iter().flat_map(of_folder).collect();
    findings.extend(place.port.as_ref().map(of_port));
    findings.extend(place.clock.and_then(of_clock));
    findings.extend(place.descriptors.and_then(of_descriptors));
    findings
}

fn of_folder(folder: &Folder) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (path, name) = (folder.path.display(), folder.used_for.name());
    let setting = folder.used_for.setting();
    let trouble = match &folder.state {
        FolderState::Writable => None,
        FolderState::Denied => Some(Finding::new(
            Code::FolderNotWritable,
            format!("this user may not write into the {name} `{path}`"),
            match folder.there == folder.path {
                true => format!("`sudo chown -R $USER {path}`, or name another with {setting}"),
                false => format!(
                    "`sudo mkdir -p {path} && sudo chown $USER {path}`, or name another with \
                     {setting}"
                ),
            },
        )),
        FolderState::ReadOnly => Some(Finding::new(
            Code::FolderNotWritable,
            format!("the {name} `{path}` is on a file system that takes no changes"),
            format!("mount it for writing, or name another with {setting}"),
        )),
        FolderState::File(file) => Some(Finding::new(
            Code::FolderIsFile,
            format!(
                "the {name} `{path}` cannot be: `{}` is a file",
                file.display()
            ),
            format!("move that file away, or name another folder with {setting}"),
        )),
    };
    // What may be lost need not be kept.
    let is_cache = folder.used_for == Use::Cache;
    findings.extend(trouble.map(|finding| match is_cache {
        true => Finding {
            severity: Severity::Warning,
            ..finding
        },
        false => finding,
    }));
    let less = "delete what is not needed (`sextant rm MODEL`)";
    match folder.free {
        Some(free) if free < DISK_FULL => findings.push(Finding::new(
            Code::DiskFull,
            format!("the {name} `{path}` has {free} of room left, {DISK_FULL} are needed"),
            format!("{less}, or name another with {setting}"),
        )),
        Some(free) if free < DISK_FREE_MIN => findings.push(Finding::new(
            Code::DiskNearlyFull,
            format!("the {name} `{path}` has {free} of room left, less than {DISK_FREE_MIN}"),
            format!("{less}, or name another with {setting}"),
        )),
        _ => {}
    }
    let network = folder.storage.as_ref();
    let network = network.filter(|storage| storage.kind == StorageKind::Network);
    // Models on a network load slowly, which is `hardware`'s to say.
    if let Some(storage) = network.filter(|_| folder.used_for != Use::Models) {
        findings.push(Finding::new(
            Code::FolderOnNetwork,
            format!(
                "the {name} `{path}` is on a network file system ({} at `{}`), where locks and \
                 shared memory cannot be relied on",
                storage.file_system, storage.mount_point
            ),
            format!("name a folder on a local disk with {setting}"),
        ));
    }
    findings
}

fn of_port(port: &Port) -> Finding {
    let address = port.address;
    match &port.holder {
        Some(holder) if holder.program == "sextant" => Finding::new(
            Code::AlreadyServing,
            format!(
                "another Sextant serves at {address} already, as process {}",
                holder.pid
            ),
            "use it (`sextant ps` lists its models), or serve at another with `--port`",
        ),
        Some(holder) => Finding::new(
            Code::PortTaken,
            format!(
                "`{}` listens at {address}, as process {}",
                holder.program, holder.pid
            ),
            format!(
                "end it (`kill {}`), or serve at another with `--port`",
                holder.pid
            ),
        ),
        None => Finding::new(
            Code::PortTaken,
            format!("a process of another user listens at {address}"),
            format!(
                "`sudo ss -ltnp 'sport = :{}'` tells which; end it, or serve at another with \
                 `--port`",
                address.port()
            ),
        ),
    }
}

fn of_clock(clock: Clock) -> Option<Finding> {
    let now = clock.now_unix_s;
    let hardware = clock.hardware_unix_s;
    // A clock without a battery starts in 1970, and says nothing of the other one.
    let hardware = hardware.filter(|other| *other >= CLOCK_MIN_UNIX_S);
    let off_by = |other: u64| now.abs_diff(other);
    let what = if now < CLOCK_MIN_UNIX_S {
        let days = (CLOCK_MIN_UNIX_S - now) / 86_400;
        format!(
            "the clock is at least {days} days behind: it says a time before this program was made"
        )
    } else if let Some(other) = hardware.filter(|other| off_by(*other) > CLOCK_OFF_MAX_SECS) {
        let (days, way) = (off_by(other) / 86_400, way(now, other));
        format!("the clock is {days} days {way} the one that runs on a battery")
    } else {
        let written = clock.written_unix_s?;
        let behind = written.saturating_sub(now);
        if behind <= CLOCK_OFF_MAX_SECS {
            return None;
        }
        format!(
            "the clock is {} days behind a file that was written here",
            behind / 86_400
        )
    };
    Some(Finding::new(
        Code::ClockOff,
        what,
        "set it: `sudo timedatectl set-ntp true`, or `sudo date -s ...` without a network",
    ))
}

fn way(now: u64, other: u64) -> &'static str {
    if now < other { "behind" } else { "ahead of" }
}

fn of_descriptors(descriptors: Descriptors) -> Option<Finding> {
    let Descriptors {
        soft_max,
        hard_max,
        connections_max,
    } = descriptors;
    let need = connections_max.saturating_add(DESCRIPTORS_BESIDE);
    (soft_max < need).then(|| {
        let raise = match hard_max >= need {
            true => format!("`ulimit -n {need}` before it starts"),
            false => format!("`LimitNOFILE={need}` in its unit"),
        };
        let fits = soft_max.saturating_sub(DESCRIPTORS_BESIDE).max(1);
        let finding = Finding::new(
            Code::DescriptorsFew,
            format!(
                "this process may have {soft_max} files open, and `connections_max` = \
                 {connections_max} needs {need}"
            ),
            format!("{raise}, or `connections_max = {fits}`"),
        );
        // Most systems allow 1,024, and hardly anybody has half as many connections.
        match soft_max < need / 2 {
            true => finding,
            false => Finding {
                severity: Severity::Note,
                ..finding
            },
        }
    })
}
