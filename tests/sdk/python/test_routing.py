"""One endpoint in front of another: a peer that answers, fails and comes back."""

import json
import os
import signal
import subprocess

import pytest
from openai import OpenAI
from own_server import OwnServer, binary, free_port, model_path, wait_for

CONFIG = """
[[providers]]
name = "peer"
kind = "sextant"
url = "{url}"
priority = 1
reach = "{reach}"

[routing]
embedded_priority = 100

[routing.aliases]
helper = ["peer:{model}", "embedded:{model}"]
"""


@pytest.fixture(scope="module")
def servers(base_url, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("routing")
    path = model_path(base_url)
    with OwnServer(path, folder / "peer.log", context=2048) as peer:
        config = folder / "front.toml"
        text = CONFIG.format(url=peer.http.base_url, reach="lan", model=model)
        config.write_text(text)
        with OwnServer(path, folder / "front.log", context=2048, config=config) as front:
            yield front, peer


@pytest.fixture(scope="module")
def front(servers):
    url = f"{servers[0].http.base_url}/v1"
    return OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=120)


MESSAGES = [{"role": "user", "content": "Name three colours."}]


def served_by(answer):
    return answer.headers["x-sextant-served-by"].split(":")[0]


def chat(front, model, **changes):
    arguments = {"messages": MESSAGES, "temperature": 0, "max_tokens": 16, **changes}
    return front.chat.completions.with_raw_response.create(model=model, **arguments)


def test_the_peer_answers_like_the_engine_itself(front, model):
    there = chat(front, f"peer:{model}")
    here = chat(front, f"embedded:{model}")
    assert (served_by(there), served_by(here)) == ("peer", "embedded")
    assert there.parse().choices[0].message.content == here.parse().choices[0].message.content
    usage = there.parse().usage
    assert usage.completion_tokens == here.parse().usage.completion_tokens > 0


def test_streams_tools_schemas_and_logprobs_pass_through(front, model):
    name = f"peer:{model}"
    stream = front.chat.completions.create(
        model=name,
        messages=MESSAGES,
        temperature=0,
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage.completion_tokens > 0
    tool = {
        "type": "function",
        "function": {
            "name": "pick",
            "parameters": {
                "type": "object",
                "properties": {"colour": {"enum": ["red", "blue"]}},
                "required": ["colour"],
                "additionalProperties": False,
            },
        },
    }
    choice = {"type": "function", "function": {"name": "pick"}}
    called = chat(front, name, tools=[tool], tool_choice=choice, max_tokens=64).parse()
    call = called.choices[0].message.tool_calls[0]
    assert call.id and json.loads(call.function.arguments)["colour"] in ("red", "blue")
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "integer", "maximum": 9, "minimum": 0}},
    }
    number = chat(front, name, response_format=schema).parse()
    assert 0 <= json.loads(number.choices[0].message.content) <= 9
    tokens = chat(front, name, logprobs=True, top_logprobs=2).parse()
    assert len(tokens.choices[0].logprobs.content[0].top_logprobs) == 2


def test_models_and_decisions_are_listed(front, servers, model):
    ids = [entry.id for entry in front.models.list().data]
    assert ids[0] == model and {f"peer:{model}", "helper"} <= set(ids)
    decision = servers[0].http.post("/v1/route", json={"model": "helper"}).json()
    assert decision["route"] == "alias"
    assert [one["provider"] for one in decision["candidates"]] == ["peer", "embedded"]


def test_privacy_keeps_a_request_here(front, model):
    headers = {"x-routing-privacy": "local_only"}
    assert served_by(chat(front, model)) == "peer"
    assert served_by(chat(front, model, extra_headers=headers)) == "embedded"


def test_a_peer_that_dies_is_replaced_and_taken_back(front, servers, model):
    _, peer = servers
    stream = front.chat.completions.create(
        model=model,
        messages=MESSAGES,
        temperature=0,
        max_tokens=200,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        extra_headers={"x-sextant-continue": "on"},
    )
    begun = [next(stream) for _ in range(4)]
    # Nothing more of it arrives, and then it is gone.
    os.kill(peer.process.pid, signal.SIGSTOP)
    os.kill(peer.process.pid, signal.SIGKILL)
    peer.process.wait()
    chunks = begun + list(stream)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    last = chunks[-1]
    warning = f"The answer broke off and was continued by embedded:{model}."
    assert warning in last.model_extra["sextant"]["warnings"]
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    # Sent as it comes, by one and then by the other.
    assert last.usage.completion_tokens == 200
    assert len(pieces) > 20
    for _ in range(3):
        answer = chat(front, model)
        assert served_by(answer) == "embedded"
        assert answer.parse().choices[0].message.content
    states = lambda: {
        one["name"]: one["state"] for one in servers[0].http.get("/v1/providers").json()["data"]
    }
    assert states()["peer"] == "down"
    flags = ["--listen", f"127.0.0.1:{peer.port}", "--threads", "2", "--context", "2048"]
    path = model_path(f"{servers[0].http.base_url}/v1")
    again = subprocess.Popen(
        [binary(), "serve", path, *flags, "--discovery=false"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for("the peer to be taken back", lambda: states()["peer"] == "up")
        wait_for("it to answer", lambda: served_by(chat(front, model)) == "peer")
    finally:
        again.send_signal(signal.SIGTERM)
        again.wait()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[providers]]\nname = "a"\nkind = "odd"\nurl = "http://h"', "`kind` is `odd`"),
        ('[[providers]]\nname = "a"\nkind = "vllm"\nurl = "ftp://h"', "must be http or https"),
        ('[[providers]]\nname = "a:b"\nkind = "vllm"\nurl = "http://h"', "without `:`"),
        ('[[providers]]\nname = "embedded"\nkind = "vllm"\nurl = "http://h"', "is taken"),
        (
            '[[providers]]\nname = "a"\nkind = "openai"\nurl = "https://h.example"\n'
            'key_env = "NO_SUCH_VARIABLE"',
            "`NO_SUCH_VARIABLE`",
        ),
        ('[[providers]]\nname = "a"\nkind = "vllm"\nulr = "http://h"', ":4: unknown field `ulr`"),
        ('[routing]\nprivacy = "local"', "one of local_only, lan_only, any"),
        ('[routing.tasks]\ncooking = ["m"]', "has `cooking`"),
        ('[routing.aliases]\na = ["b"]\nb = ["m"]', "stands for the alias `b`"),
        ('[[routing.rules]]\nname = "r"\npatterns = ["("]\nprivacy = "any"', "the pattern `(`"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(base_url, tmp_path, text, message):
    config = tmp_path / "config.toml"
    config.write_text(text)
    arguments = [binary(), "serve", model_path(base_url), "--config", config]
    refused = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2, refused.stderr
    assert message in refused.stderr


def test_an_endpoint_without_models_of_its_own(base_url, model, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(url=base_url, reach="device", model=model))
    port = free_port()
    home = os.environ | {"HOME": str(tmp_path), "SEXTANT_MODELS": str(tmp_path / "none")}
    server = subprocess.Popen(
        [
            binary(),
            "serve",
            "--discovery=false",
            "--listen",
            f"127.0.0.1:{port}",
            "--config",
            config,
        ],
        env=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/v1"
    front = OpenAI(base_url=url, api_key="unused", max_retries=10, timeout=120)
    try:
        assert served_by(chat(front, model)) == "peer"
        assert served_by(chat(front, "auto")) == "peer"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
