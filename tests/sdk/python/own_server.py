"""A server of a module's own, for tests that kill, load or measure."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx2

REPOSITORY = Path(__file__).resolve().parents[3]
READY_SECONDS = 120
STOP_SECONDS = 30


def binary():
    target = os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")
    return Path(target) / "release/sextant"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, ready, seconds=READY_SECONDS):
    """Polls until `ready()` is true and returns that value; time only limits the wait."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := ready():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


def model_path(base_url):
    """The file that the server under test has loaded."""
    root = base_url.removesuffix("/v1")
    answer = httpx2.get(f"{root}/admin/models", timeout=READY_SECONDS)
    return answer.json()["models"][0]["path"]


class OwnServer:
    """Started with `flags`, stopped at the end of the `with` block. Without a model it
    serves those of its configuration. `group` is the folder of a control group to run in."""

    def __init__(self, model, log, group=None, **flags):
        self.port = free_port()
        self.log = log
        models = [model] if model else []
        arguments = [binary(), "serve", *models, "--listen", f"127.0.0.1:{self.port}"]
        # Its keys, audit log and responses are nobody else's, and whatever else runs on this
        # machine is not asked.
        own = {"threads": 2, "data_dir": Path(log).parent / f"data-{self.port}"}
        arguments.append("--discovery=false")
        for name, value in (own | flags).items():
            arguments += [f"--{name.replace('_', '-')}", str(value)]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=group and (lambda: (group / "cgroup.procs").write_text("0")),
            )
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

    def __enter__(self):
        try:
            wait_for("the server to be ready", self.is_ready)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def is_ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.http.get("/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def model(self):
        """The entry of the first model in /admin/models."""
        return self.http.get("/admin/models").json()["models"][0]

    def metric(self, name):
        """The value of a metric that has the model as its only label."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"{name}{{model="):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def resident_bytes(self):
        """Of the gateway and of the first model's worker."""
        return [resident(pid) for pid in (self.process.pid, self.model()["pid"])]


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no resident memory")
