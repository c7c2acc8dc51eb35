"""A llama-server that our server runs: started by a request, again after a crash, stopped
when idle and at the end.

It is what `cargo xtask peer` builds; without it on this machine the tests are skipped.
"""

import json
import os
import signal
from pathlib import Path

import openai
import pytest
from own_server import OwnServer, model_path, wait_for
from test_llama_server import program

CONFIG = """
[[providers]]
name = "big"
kind = "llama-server"
command = {command}
idle_timeout_secs = {idle}
env = {{ LLAMA_ARG_THREADS = "2", HF_TOKEN = "hf_not_for_logs" }}
"""
HELLO = [{"role": "user", "content": "Name three colours."}]
KEY = "sk-not-for-logs"

pytestmark = pytest.mark.skipif(program() is None, reason="run `cargo xtask peer` first")


def table(base_url, idle):
    flags = ["--ctx-size", "2048", "--no-webui", "--jinja", "--api-key", KEY]
    command = [str(program()), "--model", model_path(base_url), *flags]
    return CONFIG.format(command=json.dumps(command), idle=idle)


def front(server):
    url = f"{server.http.base_url}/v1"
    return openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=120)


def ask(server, **arguments):
    return front(server).chat.completions.create(
        model="big:", messages=HELLO, temperature=0, max_tokens=8, **arguments
    )


def entry(server):
    listed = server.http.get("/v1/providers").json()["data"]
    return next(one for one in listed if one["name"] == "big")


def phase(server):
    return entry(server)["process"]["phase"]


def lives(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture
def config(tmp_path, base_url):
    file = tmp_path / "config.toml"
    file.write_text(table(base_url, idle=0))
    return file


@pytest.fixture
def server(tmp_path, config):
    with OwnServer(None, tmp_path / "front.log", config=config, log_level="debug") as server:
        yield server


def test_started_by_a_request_and_again_after_a_crash(server):
    before = entry(server)
    assert before["state"] == "up" and before["process"]["phase"] == "stopped"
    assert [model["loaded"] for model in before["models"]] == [False]

    chunks = list(ask(server, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    process = entry(server)["process"]
    assert (process["phase"], process["restarts"]) == ("up", 0)
    wait_for("its model to be known", lambda: entry(server)["models"][0]["loaded"])
    assert entry(server)["models"][0]["context"] == 2048

    os.kill(process["pid"], signal.SIGKILL)
    wait_for("it to be started again", lambda: entry(server)["process"]["restarts"] == 1)
    wait_for("it to be up again", lambda: phase(server) == "up")
    wait_for("the router to know it", lambda: entry(server)["state"] == "up")
    assert ask(server).choices[0].message.content
    again = entry(server)["process"]
    assert again["pid"] != process["pid"] and "SIGKILL" in again["last_error"]

    shown = json.dumps(entry(server)) + server.log.read_text()
    assert "--api-key ****" in shown and "big" in shown
    assert "not-for-logs" not in shown and "hf_not" not in shown

    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
    assert not lives(again["pid"])


def test_it_does_not_outlive_a_server_that_is_killed(server):
    ask(server)
    pid = entry(server)["process"]["pid"]
    server.process.kill()
    server.process.wait()
    wait_for("it to end", lambda: not lives(pid))


def test_stopped_when_idle_and_when_it_is_not_configured_any_more(server, config, base_url):
    ask(server)
    first = entry(server)["process"]["pid"]
    config.write_text(table(base_url, idle=1))
    assert server.http.post("/admin/reload").status_code == 200
    wait_for("the one of before to end", lambda: not lives(first))

    ask(server)
    second = entry(server)["process"]["pid"]
    wait_for("it to be stopped when idle", lambda: phase(server) == "stopped")
    assert not lives(second)
    assert ask(server).choices[0].message.content
    third = entry(server)["process"]["pid"]
    assert third not in (first, second)

    config.write_text("")
    assert server.http.post("/admin/reload").status_code == 200
    wait_for("the last one to end", lambda: not lives(third))
