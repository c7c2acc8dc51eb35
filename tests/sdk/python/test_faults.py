"""Workers that die and clients that leave: what the others see of it."""

import json
import os
import signal
import socket
import threading

import httpx2
import pytest
from own_server import OwnServer, model_path, wait_for

STREAMS = 8
# About 6,000 tokens, which takes many batches to read.
LONG_PROMPT = "The keeper counts another ship. " * 1000


@pytest.fixture(scope="module")
def server(base_url, tmp_path_factory):
    log = tmp_path_factory.mktemp("faults") / "server.log"
    with OwnServer(model_path(base_url), log, slots=STREAMS, context=8192) as server:
        yield server


def chat(text, **changes):
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": 0, "cache_prompt": False} | changes


class Stream(threading.Thread):
    """Reads a stream to its end and keeps its events."""

    def __init__(self, server, index):
        super().__init__(daemon=True)
        self.server, self.index = server, index
        self.began, self.events, self.failure, self.status = threading.Event(), [], None, None

    def run(self):
        text = f"Write a very long story about ship {self.index}."
        body = chat(text, stream=True, ignore_eos=True, max_tokens=900)
        try:
            with self.server.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                self.status = answer.status_code
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.read(line.removeprefix("data: "))
        except httpx2.HTTPError as error:
            self.failure = error

    def read(self, data):
        self.events.append(data)
        if data != "[DONE]" and any(
            choice["delta"].get("content") for choice in json.loads(data).get("choices", [])
        ):
            self.began.set()


class HealthWatch(threading.Thread):
    """Asks for /health until told to stop."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.over, self.seen = server, threading.Event(), []

    def run(self):
        while not self.over.wait(0.02):
            try:
                self.seen.append(self.server.http.get("/health", timeout=5).status_code)
            except httpx2.HTTPError as error:
                self.seen.append(repr(error))


def test_a_killed_worker_ends_streams_with_an_error_and_comes_back(server):
    before = server.model()
    health = HealthWatch(server)
    health.start()
    streams = [Stream(server, index) for index in range(STREAMS)]
    for stream in streams:
        stream.start()
    for stream in streams:
        assert stream.began.wait(120), "a stream gave no text"
    assert all(stream.is_alive() for stream in streams), "a stream ended too early"

    os.kill(before["pid"], signal.SIGKILL)
    for stream in streams:
        stream.join(30)
        assert not stream.is_alive(), "a stream hangs"

    # The next request waits for the restart.
    answer = server.http.post("/v1/chat/completions", json=chat("Say hello.", max_tokens=4))
    health.over.set()
    health.join()

    for stream in streams:
        assert stream.failure is None and stream.status == 200
        [error] = [json.loads(e)["error"] for e in stream.events if '"error"' in e]
        assert error["code"] == "worker_lost" and error["type"] == "server_error"
        assert error["message"]
        # No reason to finish is given before the error; after it only the chunk that
        # closes the choice may follow, and never the mark of a good end.
        events = [json.loads(event) for event in stream.events if event != "[DONE]"]
        assert "[DONE]" not in stream.events
        at = events.index({"error": error})
        before_error = [event["choices"][0]["finish_reason"] for event in events[:at]]
        assert set(before_error) == {None}
        assert [event["choices"][0]["delta"] for event in events[at + 1 :]] in ([], [{}])
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    assert len(health.seen) > 2 and set(health.seen) == {200}, set(health.seen)

    after = server.model()
    assert after["restarts"] == before["restarts"] + 1
    assert after["pid"] != before["pid"] and after["state"] == "ready"
    assert after["last_crash"]
    assert server.metric("sextant_worker_restarts_total") == after["restarts"]


def test_a_worker_that_dies_during_a_whole_answer_is_a_5xx(server):
    before = server.model()
    answers = []

    def ask():
        body = chat("Write a long story.", ignore_eos=True, max_tokens=900)
        answers.append(server.http.post("/v1/chat/completions", json=body))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    wait_for("the answer to begin", lambda: busy(server, "generated_tokens"))
    os.kill(before["pid"], signal.SIGKILL)
    asking.join(30)
    [answer] = answers
    assert answer.status_code == 502, answer.text
    assert answer.json()["error"]["code"] == "worker_lost"
    wait_for("the restart", server.is_ready)
    assert server.model()["restarts"] == before["restarts"] + 1


def test_a_stream_that_the_end_of_the_server_cuts_off_is_told_so(base_url, tmp_path):
    log = tmp_path / "server.log"
    with OwnServer(model_path(base_url), log, drain_timeout_secs=1) as server:
        stream = Stream(server, 0)
        stream.start()
        assert stream.began.wait(120), "the stream gave no text"
        server.process.send_signal(signal.SIGTERM)
        stream.join(30)
        assert stream.failure is None and "[DONE]" not in stream.events
        [error] = [json.loads(e)["error"] for e in stream.events if '"error"' in e]
        assert error["code"] == "draining" and "1000 ms" in error["message"]
        assert server.process.wait(30) == 0


def slots(server):
    worker = server.model()["worker"]
    return worker["slots"] if worker else []


def busy(server, count):
    """The first slot that has done some of `count`."""
    return next((slot for slot in slots(server) if slot["job"] and slot[count] > 0), None)


def is_idle(server):
    wire = server.http.get("/slots").json()
    return not any(slot["is_processing"] for slot in wire)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_during_prefill_frees_its_slot(server, stream):
    wait_for("idle slots", lambda: is_idle(server))
    names = ["jobs_cancelled", "jobs", "completion_tokens"]
    metrics = {name: f"sextant_worker_{name}_total" for name in names}
    before = {name: server.metric(metric) for name, metric in metrics.items()}

    body = json.dumps(chat(LONG_PROMPT, stream=stream, max_tokens=64)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head.encode() + body)
        seen = wait_for("prefill to begin", lambda: busy(server, "prompt_done"))
    assert seen["prompt_tokens"] > 5000
    assert seen["prompt_done"] < seen["prompt_tokens"], "it left too late for this test"
    assert seen["generated_tokens"] == 0

    wait_for("the slot to be freed", lambda: is_idle(server))
    after = {name: server.metric(metric) for name, metric in metrics.items()}
    # It was cancelled, and before its prompt was read: no token came of it.
    assert after["jobs_cancelled"] == before["jobs_cancelled"] + 1
    assert after["completion_tokens"] == before["completion_tokens"]
    answer = server.http.post("/v1/chat/completions", json=chat("Hi", max_tokens=2))
    assert answer.status_code == 200, answer.text
