"""Drives coding agents, without a screen, through a whole task against the release binary.

    cargo xtask agents [--agent NAME]... [--real]      installs what is missing and runs this

A run is one agent in a fresh home and a fresh folder, in front of a server of its own. By
default `player.py` plays the model behind it, once for each manner of speaking; a run has
passed when the agent ended well, the file is there and holds the word, and every tool result
came back to the player. With `--real` SmolLM2 answers, which is too small to do the task: a
run has passed when the agent ended by itself and no request went wrong on the way.

Where the kernel allows it, everything runs in a namespace without a network but loopback.
"""

import argparse
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from agents import AGENTS, Place
from player import COPY, MODEL, REQUESTS_MAX, SOURCE, TASK, Manner, Player

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
READY_SECONDS = 120
STOP_SECONDS = 30
TASK_SECONDS = 180
REAL_SECONDS = 600
MANNERS = (Manner.PLAIN, Manner.SLOPPY, Manner.LOADING)

CONFIG = """
[[providers]]
name = "player"
kind = "openai"
url = "{url}"
"""


def main():
    arguments = parse()
    if arguments.isolated:
        loopback_up()
    elif again := isolated():
        return subprocess.run(again, check=False).returncode
    else:
        print("no namespaces here: the agents may reach the network", file=sys.stderr)
    names = arguments.agent or list(AGENTS)
    shutil.rmtree(arguments.runs, ignore_errors=True)
    rows = []
    for name in names:
        manners = ("real",) if arguments.real else arguments.manner or MANNERS
        for manner in manners:
            rows.append(run(arguments, name, manner))
            print(line(rows[-1]), flush=True)
    return int(any(row["problems"] for row in rows))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent", action="append", choices=list(AGENTS))
    parser.add_argument("--manner", action="append", choices=MANNERS)
    parser.add_argument("--real", action="store_true", help="SmolLM2 answers")
    parser.add_argument("--binary", type=Path, default=TARGET / "release/sextant")
    parser.add_argument("--programs", type=Path, default=TARGET / "agents")
    parser.add_argument("--runs", type=Path, default=TARGET / "agents/runs")
    parser.add_argument("--model", type=Path, help="the GGUF file of --real")
    parser.add_argument("--context", type=int, default=8192, help="its context, in tokens")
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def isolated():
    """The command that runs this again without a network, if there is one."""
    unshare = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork"]
    unshare += ["--mount-proc", "--kill-child"]
    try:
        works = subprocess.run([*unshare, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    if works.returncode != 0:
        return None
    return [*unshare, sys.executable, *sys.argv, "--isolated"]


def loopback_up():
    """What `ip link set lo up` does."""
    up_and_running = 0x1 | 0x40
    set_flags = 0x8914
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", up_and_running)
        fcntl.ioctl(any_socket, set_flags, request)


def run(arguments, name, manner):
    """One agent, one task; returns a row of the table."""
    folder = arguments.runs / f"{name}-{manner}"
    place = Place(
        base="",
        model=MODEL,
        home=folder / "home",
        work=folder / "work",
        programs=arguments.programs.resolve(),
        context=arguments.context if manner == "real" else 200_000,
    )
    for one in (place.home, place.work):
        one.mkdir(parents=True)
    word = f"word-{secrets.token_hex(6)}"
    (place.work / SOURCE).write_text(f"{word}\n")
    row = {"agent": name, "manner": manner, "problems": []}
    if manner == "real":
        with server(arguments, folder, model=arguments.model) as base:
            place.base, place.model = base, model_of(base)
            drive(name, place, row, REAL_SECONDS)
            judge_real(row, base, folder / "output.log")
        return row
    with Player(place.work, manner) as player:
        with server(arguments, folder, config=CONFIG.format(url=player.url)) as base:
            place.base = base
            drive(name, place, row, TASK_SECONDS)
            judge(row, name, place, player, word)
            row["served"] = served(base)
    return row


@contextmanager
def server(arguments, folder, config="", model=None):
    """Sextant, on a free port, with nothing of this user's configuration."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    file = folder / "sextant.toml"
    file.write_text(config)
    command = [arguments.binary, "serve", "--listen", f"127.0.0.1:{port}", "--config", file]
    command.append("--discovery=false")
    if model:
        command += [model, "--context", str(arguments.context), "--slots", "2"]
    base = f"http://127.0.0.1:{port}"
    environment = os.environ | {"HOME": str(folder), "SEXTANT_MODELS": str(folder / "none")}
    with open(folder / "sextant.log", "wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_until_ready(base, process, folder / "sextant.log")
        yield base
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until_ready(base, process, log):
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"sextant ended:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"{base}/ready"):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"sextant was not ready after {READY_SECONDS} s")


def get(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def model_of(base):
    return re.search(r'"id":\s*"([^"]+)"', get(f"{base}/v1/models"))[1]


def served(base):
    """How many requests of each route had which status."""
    pattern = r'sextant_http_requests_total\{route="([^"]+)",method="POST",status="(\d+)"\} (\d+)'
    found = re.findall(pattern, get(f"{base}/metrics"))
    return {f"{route} {status}": int(count) for route, status, count in found}


def drive(name, place, row, seconds):
    """Runs the agent and writes down how it ended."""
    command, more = AGENTS[name].start(place, TASK)
    before = more.pop("before", None)
    bins = [place.programs / "npm/node_modules/.bin", *os.environ["PATH"].split(":")]
    environment = {
        "PATH": ":".join(map(str, bins)),
        "HOME": str(place.home),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "CI": "1",
        "DO_NOT_TRACK": "1",
    } | more
    row["seconds"] = 0
    for words in filter(None, (before, command)):
        start = time.monotonic()
        with open(place.home.parent / "output.log", "ab") as output:
            process = subprocess.Popen(
                words,
                cwd=place.work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                code = f"still running after {seconds} s"
        row["seconds"] = time.monotonic() - start
        if code != 0:
            row["problems"].append(f"exit: {code}")
            return


def judge(row, name, place, player, word):
    agent = AGENTS[name]
    row["requests"] = len(player.requests)
    row["calls"] = player.calls()
    copy = place.work / COPY
    if not copy.is_file():
        row["problems"].append(f"there is no {COPY}")
    elif copy.read_text().strip() != word:
        row["problems"].append(f"{COPY} holds {copy.read_text()!r}, not {word}")
    if player.results() < agent.results:
        row["problems"].append(f"{player.results()} of {agent.results} tool results came back")
    if len(player.requests) > REQUESTS_MAX:
        row["problems"].append(f"{len(player.requests)} requests")


# What an answer may be that has nothing to do with the protocol: the prompt did not fit.
EXCUSED = {"context_length_exceeded"}
# How Codex ends where the model went on to the limit: it has understood `response.incomplete`.
UNDERSTOOD = "Incomplete response returned, reason: max_output_tokens"


def judge_real(row, base, output):
    if UNDERSTOOD in output.read_text(errors="replace"):
        row["problems"] = [problem for problem in row["problems"] if problem != "exit: 1"]
    row["served"] = served(base)
    metrics = get(f"{base}/metrics")
    failures = dict(re.findall(r'sextant_job_failures_total\{[^}]*code="([^"]+)"\} (\d+)', metrics))
    row["calls"] = [f"{code}: {count}" for code, count in failures.items()]
    for code in failures.keys() - EXCUSED:
        row["problems"].append(f"failed with {code}")
    for what, count in row["served"].items():
        if what.split()[1] not in ("200", "400"):
            row["problems"].append(f"{count} x {what}")


def line(row):
    verdict = "; ".join(row["problems"]) or "passed"
    served = ", ".join(f"{count} x {what}" for what, count in row.get("served", {}).items())
    calls = ", ".join(row.get("calls", []))
    seconds = f"{row['seconds']:.0f} s"
    return f"{row['agent']:<12} {row['manner']:<8} {seconds:>6}  {verdict}  [{served}] [{calls}]"


if __name__ == "__main__":
    sys.exit(main())
