"""Another program takes the memory of a control group with two models in it: the idle one goes,
the other one goes on answering, and the kernel kills nobody.

Needs a control group of memory that this user may make; without one the test is skipped.
"""

import subprocess
import sys
import threading

from own_group import kills
from own_server import OwnServer, model_path, wait_for

MIB = 1 << 20
CONFIG = """
load_on_demand = false

[[models]]
name = "busy"
model = "{path}"
context = 8192

[[models]]
name = "idle"
model = "{path}"
context = 4096
"""
ANSWER_TOKENS = 500
# Takes memory step by step until it is told to stop, then keeps it until its input ends.
HOG = """
import select, sys
held = []
while not select.select([sys.stdin], [], [], 0.05)[0]:
    held.append(bytearray(b"x") * (2 << 20))
sys.stdin.read()
"""


def hog_in(group):
    """A process of the group that grows by 40 MiB a second."""
    return subprocess.Popen(
        [sys.executable, "-c", HOG],
        stdin=subprocess.PIPE,
        preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
    )


def ask(server, model, n_tokens):
    body = {
        "model": model,
        "prompt": "Once upon a time",
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    return server.http.post("/v1/completions", json=body)


def entry(server, model):
    models = server.http.get("/admin/models").json()["models"]
    return next(one for one in models if one["name"] == model)


def number(server, metric):
    for line in server.http.get("/metrics").text.splitlines():
        if line.startswith(f"{metric} "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no metric {metric}")


def test_an_idle_model_goes_before_the_kernel_kills(base_url, group_of, tmp_path):
    group = group_of(1024 * MIB)
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(path=model_path(base_url)))
    with OwnServer(None, tmp_path / "log", group=group, config=config) as server:
        for model in ("idle", "busy"):
            assert ask(server, model, 4).status_code == 200
        answers = []
        asked = threading.Thread(
            target=lambda: answers.append(ask(server, "busy", ANSWER_TOKENS))
        )
        asked.start()
        hog = hog_in(group)
        try:
            wait_for("the idle model to go", lambda: entry(server, "idle")["state"] == "unloaded")
            hog.stdin.write(b"stop\n")
            hog.stdin.flush()
            asked.join()
            assert answers[0].status_code == 200, answers[0].text
            assert answers[0].json()["usage"]["completion_tokens"] == ANSWER_TOKENS
            assert "memory was short" in entry(server, "idle")["why"]
            assert entry(server, "busy")["state"] == "ready"
            assert number(server, "sextant_memory_pressure_unloads_total") >= 1
            assert number(server, "sextant_memory_pressure_shrinks_total") >= 1
            # What takes the memory is still there: it fits beside the model, or says why not.
            again = ask(server, "idle", 4)
            assert again.status_code in (200, 503), again.text
            if again.status_code == 503:
                assert "memory is short" in again.text
        finally:
            hog.communicate()
        # When it is calm, the model comes back.
        wait_for("the idle model to answer", lambda: ask(server, "idle", 4).status_code == 200)
        wait_for("ten calm seconds", lambda: number(server, "sextant_memory_pressure") == 0)
        assert kills(group) == 0
