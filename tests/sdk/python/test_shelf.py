"""Several models on one machine: loaded on demand, swapped within a budget, kept and let go.

Both models are the one file that the suite has; to the server they are two, and its budget
is for one of them."""

import os
import signal
import threading
from datetime import datetime, timezone

import ollama
import pytest
from own_server import OwnServer, model_path, wait_for

CONFIG = """
model_memory_max = "330MiB"
swap_wait_max_secs = 2
load_on_demand = false

[[models]]
name = "one"
model = "{path}"
context = 512
aliases = ["first"]

[[models]]
name = "two"
model = "{path}"
context = 1024
slots = 2
"""
REQUESTS_EACH = 12


@pytest.fixture(scope="module")
def server(base_url, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    config = folder / "config.toml"
    config.write_text(CONFIG.format(path=model_path(base_url)))
    with OwnServer(None, folder / "server.log", config=config) as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server):
    """Every test begins with nothing in memory."""
    for name in ("one", "two"):
        answer = server.http.post("/admin/models/unload", json={"model": name})
        assert answer.status_code == 200, answer.text
    assert states(server) == {"one": "unloaded", "two": "unloaded"}


def states(server):
    models = server.http.get("/admin/models").json()["models"]
    return {model["name"]: model["state"] for model in models}


def entry(server, name):
    models = server.http.get("/admin/models").json()["models"]
    return next(model for model in models if model["name"] == name)


def ask(server, model, **changes):
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8}
    return server.http.post("/v1/chat/completions", json=body | changes)


def n_starts(server):
    return sum(line.rstrip().endswith("starting") for line in lines(server))


def lines(server):
    return server.log.read_text().splitlines()


def test_models_are_listed_before_they_are_loaded(server):
    listed = {model["id"]: model for model in server.http.get("/v1/models").json()["data"]}
    assert {"one", "two", "first"} <= set(listed)
    one = listed["one"]
    assert (one["state"], one["loaded"], one["context_length"]) == ("unloaded", False, None)
    assert {"chat", "completion"} <= set(one["capabilities"])
    assert one["context_train"] == 8192
    assert states(server) == {"one": "unloaded", "two": "unloaded"}, "nothing was loaded"


def test_a_request_loads_its_model_and_takes_another_out(server):
    for name, asked, context in (("one", "first", 512), ("two", "two", 1024)):
        answer = ask(server, asked)
        assert answer.status_code == 200, answer.text
        assert entry(server, name)["facts"]["context"] == context
    assert states(server) == {"one": "unloaded", "two": "ready"}
    seen = server.http.get("/admin/models").json()
    assert seen["memory_bytes"] <= seen["memory_bytes_max"]
    assert entry(server, "two")["memory_measured"]


def test_interleaved_requests_are_answered_in_few_swaps(server):
    before = n_starts(server)
    answers = []

    def client(name):
        for _ in range(REQUESTS_EACH):
            answers.append(ask(server, name))

    threads = [threading.Thread(target=client, args=(name,)) for name in ("one", "two") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive(), "a request hangs"
    assert [answer.status_code for answer in answers] == [200] * (4 * REQUESTS_EACH)
    # First come, first served would load almost once a request.
    assert n_starts(server) - before <= REQUESTS_EACH


def test_streams_wait_for_their_model_too(server):
    with server.http.stream(
        "POST",
        "/v1/chat/completions",
        json={
            "model": "two",
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 4,
            "stream": True,
        },
    ) as answer:
        assert answer.status_code == 200
        assert "data: [DONE]" in list(answer.iter_lines())


def test_keep_alive_is_kept(server):
    client = ollama.Client(host=str(server.http.base_url))
    messages = [{"role": "user", "content": "Hi"}]
    options = {"num_predict": 4}
    client.chat("one", messages=messages, options=options, keep_alive=300)
    [running] = client.ps().models
    left = (running.expires_at - datetime.now(timezone.utc)).total_seconds()
    assert 200 < left <= 301
    client.chat("one", messages=messages, options=options, keep_alive=1)
    wait_for("the model to go", lambda: not client.ps().models, 20)
    client.chat("one", messages=messages, options=options, keep_alive=0)
    wait_for("the model to go", lambda: states(server)["one"] == "unloaded", 20)
    # Without a text it is about the model alone.
    assert client.generate("two", "", keep_alive=-1).done_reason == "load"
    [running] = client.ps().models
    assert (running.model, running.expires_at.year) == ("two:latest", 2200)
    assert client.generate("two", "", keep_alive=0).done_reason == "unload"
    assert not client.ps().models
    assert client.show("two").capabilities, "to show it does not load it"
    assert states(server)["two"] == "unloaded"


def test_a_pinned_model_stays_and_what_does_not_fit_is_told_with_figures(server):
    load = {"model": "one", "pin": True}
    assert server.http.post("/admin/models/load", json=load).status_code == 200
    refused = ask(server, "two")
    assert refused.status_code == 503
    error = refused.json()["error"]
    assert error["code"] == "model_unavailable"
    for part in ("`two` takes about", "330.0 MiB", "`one` (pinned"):
        assert part in error["message"], error
    by_name = server.http.post("/admin/models/load", json={"model": "two"})
    assert (by_name.status_code, by_name.json()["error"]["code"]) == (
        503,
        "model_resources_missing",
    )
    assert states(server) == {"one": "ready", "two": "unloaded"}
    server.http.post("/admin/models/load", json=load | {"pin": False})
    assert ask(server, "two").status_code == 200
    # By force both are in memory.
    forced = server.http.post("/admin/models/load", json={"model": "one", "force": True})
    assert forced.status_code == 200, forced.text
    assert states(server)["one"] == "ready"


def test_a_worker_killed_while_it_loads_is_an_error_and_not_a_loop(server):
    for _ in range(50):
        answers = []
        request = threading.Thread(target=lambda: answers.append(ask(server, "one")))
        request.start()
        pid = wait_for("a worker", lambda: answers or entry(server, "one")["pid"], 60)
        if not answers and entry(server, "one")["state"] in ("starting", "loading"):
            os.kill(pid, signal.SIGKILL)
        request.join(60)
        if answers[0].status_code != 200:
            break
        # It was faster than we are.
        server.http.post("/admin/models/unload", json={"model": "one"})
    [answer] = answers
    assert answer.status_code == 503, answer.text
    assert "SIGKILL" in answer.json()["error"]["message"]
    starts = n_starts(server)
    for _ in range(3):
        again = ask(server, "one")
        assert again.status_code == 503
        assert "it is tried again in" in again.json()["error"]["message"]
    assert n_starts(server) == starts
    assert "tried again" in entry(server, "one")["why"]
    # The others do not suffer, and whoever asks by name need not wait.
    assert ask(server, "two").status_code == 200
    loaded = server.http.post("/admin/models/load", json={"model": "one"})
    assert loaded.status_code == 200, loaded.text
    assert ask(server, "one").status_code == 200
