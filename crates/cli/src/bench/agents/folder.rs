//! The folder of one attempt: what tools do in it, and whether what is left there is right.
//!
//! Nothing that an agent has left is run in its place: tests run on a copy, confined, and no link
//! is followed on the way.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use bench::agents::tools::Use;
use bench::agents::{File, Repair, Task, cases_program, judge_cases, judge_tests, tests_program};
use bench::quality::Script;
use confine::{Confinement, End, Limits};
use tempfile::TempDir;

use crate::confine::confined;
use crate::outcome::Outcome;

/// Of tests and of calls.
const CODE_CPU_SECONDS: u64 = 10;
/// What is read of a file; more is not shown to a model anyway.
const READ_BYTES_MAX: u64 = 256 << 10;
/// Files of a folder that are listed, and how deep.
const LISTED_MAX: usize = 200;
const DEPTH_MAX: usize = 8;
/// What is copied to be judged. An agent that leaves more than that has not solved a task of three
/// files.
const COPIED_FILES_MAX: usize = 500;
const COPIED_BYTES_MAX: u64 = 8 << 20;

/// A task's files where an agent may change them, and a home for the agent.
pub(super) struct Folder {
    dir: TempDir,
}

/// A file that is there: its path from the folder, and its size.
struct There {
    path: PathBuf,
    n_bytes: u64,
}

impl Folder {
    pub(super) fn of(task: &Task) -> Outcome<Self> {
        let folder = Self {
            dir: tempfile::Builder::new()
                .prefix("sextant-agent-")
                .tempdir()?,
        };
        fs::create_dir(folder.home())?;
        fs::create_dir(folder.work())?;
        put(&folder.work(), task.given())?;
        Ok(folder)
    }

    /// What the agent works on.
    pub(super) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub(super) fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Carries out what a call asks for, and gives what the model is told.
    pub(super) fn carry_out(&self, what: &Use) -> Outcome<String> {
        let done = match what {
            Use::Read { path } => self.read(path),
            Use::Write { path, content } => self.write(path, content),
            Use::List { path } => self.list(path),
            Use::RunTests => return self.run_tests(),
        };
        Ok(done.unwrap_or_else(|why| format!("error: {why}")))
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        let file = self.plain(path)?;
        if !file.is_file() {
            return Err(format!("there is no file `{}`", path.display()));
        }
        let mut bytes = Vec::new();
        let open = fs::File::open(file).map_err(|error| error.to_string())?;
        let read = open.take(READ_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn write(&self, path: &Path, content: &str) -> Result<String, String> {
        let file = self.plain(path)?;
        let folder = file.parent().unwrap_or(&file);
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        fs::write(&file, content).map_err(|error| error.to_string())?;
        Ok(format!("{} bytes are written", content.len()))
    }

    fn list(&self, path: &Path) -> Result<String, String> {
        let folder = self.plain(path)?;
        if !folder.is_dir() {
            return Err(format!("there is no folder `{}`", path.display()));
        }
        let files = files_of(&folder).map_err(|error| error.to_string())?;
        let mut lines: Vec<String> = files
            .iter()
            .map(|file| {
                format!(
                    "{} ({} bytes)",
                    path.join(&file.path).display(),
                    file.n_bytes
                )
            })
            .take(LISTED_MAX)
            .collect();
        match files.len() {
            0 => lines.push("no files".to_owned()),
            n if n > LISTED_MAX => lines.push(format!("and {} more", n - LISTED_MAX)),
            _ => {}
        }
        Ok(lines.join("\n"))
    }

    fn run_tests(&self) -> Outcome<String> {
        let copy = match self.copy(&[])? {
            Ok(copy) => copy,
            Err(why) => return Ok(format!("error: {why}")),
        };
        let ended = run(&copy, tests_program(None))?;
        let said = format!("{}\n{}", ended.output.trim(), ended.errors.trim());
        Ok(match ended.end {
            End::Exit(_) => said,
            End::Signal(_) => format!("{said}\nthe tests went over a limit"),
            End::Late => format!("{said}\nthe tests do not end"),
        })
    }

    /// Whether a repository is repaired: its tests, restored, and the calls that nobody was shown,
    /// each on a copy of its own.
    pub(super) fn judge(&self, task: &Task, repair: &Repair) -> Outcome<Result<(), String>> {
        let first = match self.copy(&repair.tests)? {
            Ok(copy) => copy,
            Err(why) => return Ok(Err(why)),
        };
        let tests = run(&first, tests_program(Some(repair)))?;
        if let Err(why) = judge_tests(&tests.output) {
            return Ok(Err(why));
        }
        let second = match self.copy(&repair.tests)? {
            Ok(copy) => copy,
            Err(why) => return Ok(Err(why)),
        };
        let cases = run(&second, cases_program(task, repair))?;
        Ok(judge_cases(repair, &cases.output).map_err(|why| format!("unseen: {why}")))
    }

    /// A copy with these files as they were.
    fn copy(&self, restored: &[File]) -> Outcome<Result<TempDir, String>> {
        let work = self.work();
        let files = match files_of(&work) {
            Ok(files) => files,
            Err(error) => return Ok(Err(format!("what is left cannot be read: {error}"))),
        };
        let n_bytes: u64 = files.iter().map(|file| file.n_bytes).sum();
        if files.len() > COPIED_FILES_MAX || n_bytes > COPIED_BYTES_MAX {
            return Ok(Err(format!(
                "{} files of {n_bytes} bytes are there; at most {COPIED_FILES_MAX} of {COPIED_BYTES_MAX} \
                 can be tested",
                files.len()
            )));
        }
        let copy = tempfile::Builder::new()
            .prefix("sextant-judge-")
            .tempdir()?;
        for file in files {
            // Where a test should be nothing else may be, nor below it.
            if restored.iter().any(|one| file.path.starts_with(&one.path)) {
                continue;
            }
            let (from, to) = (work.join(&file.path), copy.path().join(&file.path));
            fs::create_dir_all(to.parent().unwrap_or(&to))?;
            if let Err(error) = fs::copy(from, to) {
                let path = file.path.display();
                return Ok(Err(format!("`{path}` cannot be read: {error}")));
            }
        }
        put(copy.path(), restored.iter())?;
        Ok(Ok(copy))
    }

    /// Where a path leads, if nothing on the way is a link.
    fn plain(&self, path: &Path) -> Result<PathBuf, String> {
        let mut place = self.work();
        for part in path.components() {
            place.push(part);
            let is_link = fs::symlink_metadata(&place).is_ok_and(|there| there.is_symlink());
            if is_link {
                return Err(format!("`{}` leads over a link", path.display()));
            }
        }
        Ok(place)
    }
}

fn put<'a>(folder: &Path, files: impl Iterator<Item = &'a File>) -> Outcome {
    for file in files {
        let path = folder.join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(path, &file.text)?;
    }
    Ok(())
}

/// Plain files, in order: what agents keep for themselves (`.git`, `.aider...`), what Python does
/// and links are left out.
fn files_of(folder: &Path) -> std::io::Result<Vec<There>> {
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::new(), 0)];
    while let Some((below, depth)) = open.pop() {
        for entry in fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let name = entry.file_name();
            let is_hidden = name.as_encoded_bytes().starts_with(b".");
            if is_hidden || name == "__pycache__" {
                continue;
            }
            let (path, metadata) = (below.join(name), entry.metadata()?);
            if metadata.is_dir() && depth < DEPTH_MAX {
                open.push((path, depth + 1));
            } else if metadata.is_file() {
                let n_bytes = metadata.len();
                found.push(There { path, n_bytes });
            }
            // Whoever leaves a million files is told at once.
            if found.len() > COPIED_FILES_MAX {
                return Ok(found);
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Runs a program of Python in a folder, confined.
fn run(folder: &TempDir, Script(program): Script) -> Outcome<confine::Outcome> {
    let confinement = Confinement {
        limits: Limits {
            cpu_seconds: CODE_CPU_SECONDS,
            ..Limits::default()
        },
        folder: Some(folder.path().to_owned()),
        command: ["python3", "-I", "-B", "-"].map(Into::into).to_vec(),
        ..Confinement::default()
    };
    Ok(confined(&confinement, program)?)
}
