//! Runs code that nobody trusts, such as what a model wrote, where it can do no harm.
//!
//! A program is confined in two steps. [`Run::start`] starts a process of our own, with an
//! empty environment, which confines itself by [`enter`] and then becomes the program:
//!
//! - it can read the system's programs and libraries, write nothing but to one folder, if it
//!   is given one, and see no other file (Landlock);
//! - it has no network, starts no process or thread, and sends no signal (seccomp);
//! - it has only so much processor time, memory, file size and open files (resource limits);
//! - and whoever started it ends it after so much time and reads only so much of what it says.
//!
//! Where the kernel has no Landlock nothing is run, and the error says so. Linux only.

mod enter;
mod run;

use std::ffi::OsString;
use std::path::PathBuf;

pub use enter::{EnterError, enter};
pub use run::{End, Outcome, Run, StartError};

/// What a confined program may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Of processor time.
    pub cpu_seconds: u64,
    /// Of address space.
    pub memory_bytes: u64,
    /// Of each file that it writes.
    pub file_bytes: u64,
    pub open_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_seconds: 10,
            memory_bytes: 512 << 20,
            file_bytes: 4 << 20,
            open_files: 64,
        }
    }
}

/// What becomes of a process that confines itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    pub limits: Limits,
    /// The one folder that may be written to; its working directory.
    pub folder: Option<PathBuf>,
    /// Further folders that may be read.
    pub readable: Vec<PathBuf>,
    /// The program, and its arguments.
    pub command: Vec<OsString>,
}
