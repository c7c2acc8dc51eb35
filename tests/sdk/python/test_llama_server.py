"""llama-server behind us: every dialect in front of it, and what is seen when it dies.

It is what `cargo xtask peer` builds; without it on this machine the tests are skipped.
"""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import anthropic
import httpx2
import ollama
import openai
import pytest
from own_server import OwnServer, free_port, model_path, wait_for

CONFIG = """
[[providers]]
name = "peer"
kind = "llama-server"
url = "{url}"
priority = 1
reach = "lan"

[routing]
embedded_priority = 100

[routing.aliases]
either = ["peer:", "embedded:{model}"]
"""
TRIP = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
HELLO = [{"role": "user", "content": "Name three colours."}]
STORY = [{"role": "user", "content": "Write a very long story about a ship."}]
STREAMS = 4


def program():
    cache = os.environ.get("SEXTANT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    found = sorted(Path(cache or Path(base) / "sextant").glob("peer/*/bin/llama-server"))
    return found[-1] if found else None


pytestmark = pytest.mark.skipif(program() is None, reason="run `cargo xtask peer` first")


class Peer:
    """llama-server on a port that stays the same when it is started again."""

    def __init__(self, model, log):
        self.model, self.log, self.port = model, log, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        flags = ["--host", "127.0.0.1", "--port", str(self.port), "--threads", "2"]
        flags += ["--ctx-size", "8192", "--parallel", str(STREAMS), "--no-webui", "--jinja"]
        with open(self.log, "ab") as file:
            self.process = subprocess.Popen(
                [program(), "--model", self.model, *flags],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def is_ready(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx2.get(f"{self.url}/health").status_code == 200
        except httpx2.TransportError:
            return False

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def servers(base_url, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama-server")
    path = model_path(base_url)
    peer = Peer(path, folder / "peer.log")
    peer.start()
    try:
        wait_for("llama-server to be ready", peer.is_ready)
        config = folder / "front.toml"
        config.write_text(CONFIG.format(url=peer.url, model=model))
        with OwnServer(path, folder / "front.log", context=2048, config=config) as front:
            yield front, peer
    finally:
        peer.kill()


@pytest.fixture(scope="module")
def base(servers):
    return str(servers[0].http.base_url).rstrip("/")


@pytest.fixture(scope="module")
def front(base):
    return openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0, timeout=120)


def state(server):
    listed = server.http.get("/v1/providers").json()["data"]
    return next(one["state"] for one in listed if one["name"] == "peer")


def served_by(answer):
    return answer.headers["x-sextant-served-by"].split(":")[0]


def test_chat_completions(front):
    raw = front.chat.completions.with_raw_response.create(
        model="peer:", messages=HELLO, temperature=0, max_tokens=24
    )
    assert served_by(raw) == "peer"
    whole = raw.parse()
    chunks = list(
        front.chat.completions.create(
            model="peer:",
            messages=HELLO,
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason]


def test_tools_go_where_they_are_known(front):
    """SmolLM2's template has no tools: llama-server says so, and would leave them out."""
    function = {"name": "plan_trip", "parameters": TRIP}
    arguments = {
        "messages": HELLO,
        "temperature": 0,
        "max_tokens": 64,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
    }
    raw = front.chat.completions.with_raw_response.create(model="either", **arguments)
    assert served_by(raw) == "embedded"
    answer = raw.parse().choices[0]
    assert answer.finish_reason == "tool_calls"
    assert json.loads(answer.message.tool_calls[0].function.arguments).keys() == {"city", "days"}
    with pytest.raises(openai.APIStatusError) as refused:
        front.chat.completions.create(model="peer:", **arguments)
    assert refused.value.code == "capability_missing"


def test_schemas_and_logprobs(front):
    schema = {"type": "json_schema", "json_schema": {"name": "trip", "schema": TRIP}}
    held = front.chat.completions.create(
        model="peer:", messages=HELLO, temperature=0, max_tokens=64, response_format=schema
    )
    assert json.loads(held.choices[0].message.content).keys() == {"city", "days"}
    told = front.chat.completions.create(
        model="peer:", messages=HELLO, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3
    )
    tokens = told.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == told.choices[0].message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens)


def test_completions(front):
    arguments = {"model": "peer:", "prompt": "The sea is", "temperature": 0, "max_tokens": 12}
    whole = front.completions.create(**arguments)
    chunks = list(front.completions.create(stream=True, **arguments))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text != ""


def test_responses(front):
    arguments = {"model": "peer:", "input": "Name three colours.", "temperature": 0}
    whole = front.responses.create(max_output_tokens=24, **arguments)
    events = list(front.responses.create(max_output_tokens=24, stream=True, **arguments))
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.output_text == whole.output_text != ""
    form = {"type": "json_schema", "name": "trip", "schema": TRIP}
    held = front.responses.create(max_output_tokens=64, text={"format": form}, **arguments)
    assert json.loads(held.output_text).keys() == {"city", "days"}


def test_messages(base):
    client = anthropic.Anthropic(base_url=base, api_key="unused", max_retries=0, timeout=120)
    arguments = {"model": "peer:", "messages": HELLO, "max_tokens": 24}
    # The SDK has no temperature any more.
    arguments["extra_body"] = {"temperature": 0}
    whole = client.messages.create(**arguments)
    with client.messages.stream(**arguments) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text != ""
    assert final.stop_reason == whole.stop_reason


def test_ollama(base):
    client = ollama.Client(base)
    options = {"temperature": 0, "num_predict": 24}
    whole = client.chat("peer:", messages=HELLO, options=options)
    parts = list(client.chat("peer:", messages=HELLO, options=options, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content != ""
    assert parts[-1].done and whole.eval_count > 0
    held = client.chat("peer:", messages=HELLO, options=options | {"num_predict": 64}, format=TRIP)
    assert json.loads(held.message.content).keys() == {"city", "days"}


class Reader(threading.Thread):
    """Reads a long stream of chunks to its end."""

    def __init__(self, front, model):
        super().__init__(daemon=True)
        self.front, self.model = front, model
        self.began, self.text, self.error, self.reason = threading.Event(), "", None, None

    def run(self):
        try:
            for chunk in self.front.chat.completions.create(
                model=self.model, messages=STORY, max_tokens=1200, stream=True
            ):
                for choice in chunk.choices:
                    self.text += choice.delta.content or ""
                    self.reason = choice.finish_reason or self.reason
                if self.text:
                    self.began.set()
        except openai.APIError as error:
            self.error = error
        finally:
            self.began.set()


def test_killed_under_streams_and_between_them_and_started_again(front, servers):
    server, peer = servers
    readers = [Reader(front, "either") for _ in range(STREAMS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        assert reader.began.wait(120)
    peer.kill()
    for reader in readers:
        reader.join(60)
        assert not reader.is_alive()
    # Who had text already gets a typed error, unless it had all of it.
    broken = [reader for reader in readers if reader.error is not None]
    assert broken
    for reader in broken:
        assert reader.error.code == "upstream_failed", reader.error
        assert reader.reason is None or reader.reason == "length"
    for reader in set(readers) - set(broken):
        assert reader.reason in ("stop", "length")

    # In between, the other engine steps in at once; who wants this one is told.
    for _ in range(3):
        answer = front.chat.completions.with_raw_response.create(
            model="either", messages=HELLO, max_tokens=8
        )
        assert served_by(answer) == "embedded"
    with pytest.raises(openai.InternalServerError) as refused:
        front.chat.completions.create(model="peer:", messages=HELLO, max_tokens=8)
    assert refused.value.code in ("upstream_unreachable", "no_provider")

    # While it loads, whatever it says, requests are answered.
    peer.start()
    sources = set()

    def back():
        answer = front.chat.completions.with_raw_response.create(
            model="either", messages=HELLO, max_tokens=4
        )
        assert answer.parse().choices[0].finish_reason in ("stop", "length")
        sources.add(served_by(answer))
        return served_by(answer) == "peer"

    wait_for("llama-server to be taken back", back)
    assert sources <= {"embedded", "peer"}
    wait_for("it to be known as up", lambda: state(server) == "up")
