//! From the inside: a process gives up what the program must not have, and becomes it.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::{Confinement, Limits};

/// Why a process could not confine itself. It must not go on.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    #[error("no program to run was given")]
    NoProgram,
    #[error(
        "this kernel does not enforce Landlock, so code cannot be confined; Linux 5.13 or newer \
         with `landlock` among its security modules does"
    )]
    NoLandlock,
    #[error("Landlock refuses: {0}")]
    Landlock(#[from] RulesetError),
    #[error("seccomp refuses: {0}")]
    Seccomp(#[from] seccompiler::Error),
    #[error("seccomp's filter cannot be made: {0}")]
    Filter(#[from] seccompiler::BackendError),
    #[error("a limit cannot be set: {0}")]
    Limit(io::Error),
    #[error("`{program}` cannot be run: {error}")]
    Program { program: String, error: io::Error },
}

/// What a program needs to be read so that it runs at all.
const SYSTEM: [&str; 8] = [
    "/usr",
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/opt",
];
/// Devices without a state.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"];

/// Calls by which a program would start another, reach a network or another process, or change
/// what the system is. All of them fail with `EPERM`.
const DENIED: [libc::c_long; 41] = [
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_io_uring_setup,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_setrlimit,
    libc::SYS_sched_setaffinity,
    libc::SYS_setpriority,
    libc::SYS_memfd_create,
    libc::SYS_shmget,
    libc::SYS_msgget,
];
/// And those that only older processor families have.
#[cfg(target_arch = "x86_64")]
const DENIED_OLD: [libc::c_long; 2] = [libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_OLD: [libc::c_long; 0] = [];

/// Confines this process and becomes the program. Comes back with an error only; the process
/// is then half confined, and should end.
///
/// It must have one thread: what is given up is given up by the thread that calls.
#[must_use]
pub fn enter(confinement: &Confinement) -> EnterError {
    match confine(confinement) {
        Err(error) => error,
        Ok(mut command) => EnterError::Program {
            program: command.get_program().to_string_lossy().into_owned(),
            error: command.exec(),
        },
    }
}

fn confine(confinement: &Confinement) -> Result<Command, EnterError> {
    let (program, arguments) = confinement
        .command
        .split_first()
        .ok_or(EnterError::NoProgram)?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(folder) = &confinement.folder {
        command.current_dir(folder);
    }
    hide_files(confinement)?;
    deny_calls()?;
    // Last, since what comes before takes memory of its own.
    limit(&confinement.limits)?;
    Ok(command)
}

fn hide_files(confinement: &Confinement) -> Result<(), EnterError> {
    // What every kernel with Landlock has must be enforced; what newer ones have as well is.
    let abi = ABI::V6;
    let readable = confinement.readable.iter().cloned();
    let readable = SYSTEM.iter().map(PathBuf::from).chain(readable);
    let writable = confinement.folder.iter();
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()
        .map_err(|_| EnterError::NoLandlock)?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(abi)))?
        .add_rules(path_beneath_rules(
            DEVICES,
            AccessFs::ReadFile | AccessFs::WriteFile,
        ))?
        .add_rules(path_beneath_rules(writable, AccessFs::from_all(abi)))?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(EnterError::NoLandlock),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

fn deny_calls() -> Result<(), EnterError> {
    let denied = DENIED.iter().chain(&DENIED_OLD);
    // No conditions: whatever the arguments are.
    let rules: BTreeMap<i64, Vec<_>> = denied.map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    let program = BpfProgram::try_from(filter)?;
    Ok(seccompiler::apply_filter(&program)?)
}

fn limit(limits: &Limits) -> Result<(), EnterError> {
    for (resource, most) in [
        (Resource::Cpu, limits.cpu_seconds),
        (Resource::Fsize, limits.file_bytes),
        (Resource::Nofile, limits.open_files),
        (Resource::Core, 0),
        (Resource::As, limits.memory_bytes),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit).map_err(|error| EnterError::Limit(error.into()))?;
    }
    Ok(())
}
