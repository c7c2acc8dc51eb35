//! A home of its own for each run, and a server that answers what it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use models::gguf::write::Writer;

pub(crate) const JSON: &str = "application/json";

/// The user without rights, by custom.
const NOBODY: u32 = 65_534;

pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
    vars: BTreeMap<String, String>,
}

/// A running server; dropping it ends it.
pub(crate) struct Served {
    pub(crate) address: String,
    child: Child,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    /// What a request is answered, as JSON.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> serde_json::Value {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            vars: BTreeMap::new(),
        }
    }

    pub(crate) fn program() -> &'static str {
        env!("CARGO_BIN_EXE_sextant")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.vars.insert(name.into(), value.into());
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir().join(name), text).unwrap();
    }

    /// A sound file without weights worth the name, in our own store.
    pub(crate) fn add_model(&self, name: &str) -> PathBuf {
        let store = self.dir().join("models");
        std::fs::create_dir_all(&store).unwrap();
        let path = store.join(format!("{name}.gguf"));
        std::fs::write(&path, Writer::tiny_model().bytes()).unwrap();
        path
    }

    /// A small model of a family, with random weights.
    pub(crate) fn add_family(&self, name: &str, family: testkit::tiny::Family) {
        self.add_bytes(name, &testkit::tiny::gguf(family));
    }

    pub(crate) fn add_bytes(&self, name: &str, bytes: &[u8]) {
        let store = self.dir().join("models");
        std::fs::create_dir_all(&store).unwrap();
        std::fs::write(store.join(format!("{name}.gguf")), bytes).unwrap();
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with_input(args, "")
    }

    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let mut child = self
            .command(Self::program())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read its input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a program as nobody where this is root, else as who this is.
    pub(crate) fn run_without_rights(&self, program: &Path, args: &[&str]) -> Ran {
        let mut command = self.command(program.to_str().unwrap());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.args(args).output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts a server on a port of its own, unless told which; its address, once it listens.
    pub(crate) fn serve(&self, args: &[&str]) -> Served {
        let is_placed = args.iter().any(|arg| arg.starts_with("--port="));
        let port: &[&str] = if is_placed { &[] } else { &["--port=0"] };
        let mut child = self
            .command(Self::program())
            .args([&["serve"], port, args].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().find_map(|line| {
            let line = line.unwrap();
            line.strip_prefix("listening on http://").map(str::to_owned)
        });
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Served {
            address: address.expect("it ended before it listened"),
            child,
        }
    }

    pub(crate) fn shell(&self, script: &str) -> i32 {
        let status = self.command("bash").args(["-c", script]).status().unwrap();
        status.code().unwrap_or(-1)
    }

    /// Our program with these arguments, not started.
    pub(crate) fn command_of(&self, args: &[&str]) -> Command {
        let mut command = self.command(Self::program());
        command.args(args);
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir())
            .env("SEXTANT_MODELS_DIR", self.dir().join("models"))
            // Whatever else runs on this machine is not asked.
            .env("SEXTANT_DISCOVERY", "false")
            .envs(&self.vars);
        command
    }
}

/// Serves a request for each answer (status, content type, body) and gives the URL and,
/// when joined, what was asked.
pub(crate) fn answers(list: &[(&str, &str, &str)]) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = |(status, kind, body): &(&str, &str, &str)| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let list: Vec<_> = list.iter().map(answer).collect();
    let serve = move |answer: String| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut buffer = [0; 4096];
        while !is_whole(&asked) {
            let n = stream.read(&mut buffer).unwrap();
            assert_ne!(n, 0, "the request is cut");
            asked.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    };
    let thread = std::thread::spawn(|| list.into_iter().map(serve).collect());
    (url, thread)
}

fn is_whole(asked: &[u8]) -> bool {
    let text = String::from_utf8_lossy(asked);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse::<usize>().ok())?
    });
    body.len() >= length.unwrap_or(0)
}
