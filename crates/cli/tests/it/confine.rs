//! What code of a model can do to the machine: nothing.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

/// Runs Python confined, with a folder of its own.
fn confined(folder: &Path, limits: [u64; 2], program: &str) -> Output {
    let [cpu_seconds, memory_bytes] = limits.map(|limit| limit.to_string());
    std::process::Command::new(env!("CARGO_BIN_EXE_sextant"))
        .args(["confine", "--cpu-seconds", &cpu_seconds])
        .args(["--memory-bytes", &memory_bytes])
        .args(["--file-bytes", "65536", "--open-files", "32", "--folder"])
        .arg(folder)
        .args(["--", "python3", "-I", "-c", program])
        .output()
        .unwrap()
}

const ROOM: u64 = 512 << 20;

/// Runs lines of which each must fail, and says which did not.
fn failing(folder: &Path, lines: &[&str]) {
    let tries = lines.iter().map(|line| {
        format!("try:\n    {line}\n    print({line:?})\nexcept (OSError, MemoryError, RuntimeError): pass\n")
    });
    let program = format!(
        "import os, socket, subprocess, signal, threading, ctypes\n{}print('end')\n",
        tries.collect::<String>()
    );
    let ran = confined(folder, [10, ROOM], &program);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(
        said.trim(),
        "end",
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
fn what_is_harmless_runs() {
    let folder = tempfile::tempdir().unwrap();
    let program = "import json, re\nopen('x', 'w').write('1')\nprint(json.dumps([int(open('x').read()) + 1]))";
    let ran = confined(folder.path(), [10, ROOM], program);
    let said = String::from_utf8_lossy(&ran.stdout);
    assert_eq!(
        said.trim(),
        "[2]",
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
fn there_is_no_network_no_other_process_and_no_file_outside() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = secret.display();
    failing(
        folder.path(),
        &[
            "socket.create_connection(('127.0.0.1', 80), 1)",
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))",
            "socket.socket(socket.AF_UNIX)",
            "os.fork()",
            "os.spawnl(os.P_WAIT, '/bin/true', 'true')",
            "subprocess.run(['true'])",
            "threading.Thread(target=print).start()",
            "os.kill(os.getppid(), signal.SIGTERM)",
            &format!("open('{secret}').read()"),
            &format!("open('{secret}', 'w')"),
            &format!("os.unlink('{secret}')"),
            &format!("os.rename('{secret}', 'mine')"),
            &format!("os.link('{secret}', 'mine')"),
            "open('/etc/passwd').read()",
            "open('/tmp/left-by-a-model', 'w')",
            "open('/usr/left-by-a-model', 'w')",
            "os.mkdir('/tmp/left-by-a-model')",
            "open('/proc/1/environ').read()",
            "os.listdir('/root')",
        ],
    );
    assert!(outside.path().join("secret").exists());
    assert!(!Path::new("/tmp/left-by-a-model").exists());
}

#[test]
fn bombs_are_contained() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    for program in [
        // Processes, threads, memory, time, files.
        "import os\nwhile True: os.fork()",
        "import threading\nwhile True: threading.Thread(target=input).start()",
        "x = []\nwhile True: x.append(bytearray(1 << 24))",
        "while True: pass",
        "open('big', 'wb').write(bytes(1 << 24))",
        "[open('x', 'w') for _ in [open(str(i), 'w') for i in range(100)]]",
        "def f(): f()\nimport sys\nsys.setrecursionlimit(1 << 30)\nf()",
        "import os\nos.abort()",
    ] {
        let ran = confined(folder.path(), [1, 256 << 20], program);
        assert!(!ran.status.success(), "{program}");
    }
    assert!(started.elapsed() < Duration::from_secs(120));
    let big = folder.path().join("big");
    assert!(std::fs::metadata(big).unwrap().len() <= 65_536);
}
