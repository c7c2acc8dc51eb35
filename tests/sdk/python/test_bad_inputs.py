"""Requests that are wrong in one way each: refused with a status of 4xx, the name of
the field or limit in the message, and nothing left behind in memory."""

import json
import random

import pytest
from own_server import OwnServer, model_path

CONTEXT = 512
BODY_BYTES_MAX = 1 << 20
MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
LOAD = "/admin/models/load"

GROWTH_BYTES_MAX = 16 << 20
WARM_UP, MEASURED = 200, 1000


@pytest.fixture(scope="module")
def model(base_url):
    return model_path(base_url)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    log = tmp_path_factory.mktemp("bad") / "server.log"
    flags = {"slots": 2, "context": CONTEXT, "body_bytes_max": BODY_BYTES_MAX}
    with OwnServer(model, log, **flags) as server:
        yield server


def chat(**changes):
    return {"messages": MESSAGES, "max_tokens": 1} | changes


def text_nested(depth):
    return '{"messages":' + "[" * depth + "]" * depth + "}"


def schema_text(depth):
    """As text, because Python's own encoder does not go that deep."""
    inner = '{"properties":{"a":' * depth + "{}" + "}}" * depth
    return '{"response_format":{"type":"json_schema","schema":' + inner + "}}"


def schema(schema):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return chat(response_format=form)


def form(**fields):
    return chat(response_format=fields)


def tool(name):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


# Name, path, body (JSON, or text or bytes as they are), status, word of the message.
CASES = [
    # The body itself.
    ("empty", CHAT, "", 400, "JSON"),
    ("half a body", CHAT, '{"messages": [', 400, "JSON"),
    ("two bodies", CHAT, '{"messages": []} {}', 400, "JSON"),
    ("no object", CHAT, "[1, 2]", 400, "object"),
    ("null", CHAT, "null", 400, "object"),
    ("html", CHAT, "<html></html>", 400, "JSON"),
    ("trailing comma", CHAT, '{"messages": [],}', 400, "JSON"),
    ("twice the same field", CHAT, '{"n": 1, "n": 2}', 400, "n"),
    ("NaN", CHAT, '{"temperature": NaN}', 400, "JSON"),
    ("Infinity", CHAT, '{"temperature": Infinity}', 400, "JSON"),
    ("number too large", CHAT, '{"temperature": 1e999}', 400, "number"),
    ("bad UTF-8", CHAT, b'{"messages": "\xff\xfe"}', 400, "UTF-8"),
    ("overlong UTF-8", CHAT, b'{"messages": "\xc0\xaf"}', 400, "UTF-8"),
    ("lone surrogate", CHAT, r'{"messages": "\ud800"}', 400, "JSON"),
    ("nested arrays", CHAT, text_nested(1000), 400, "nesting"),
    ("over the body limit", CHAT, " " * (BODY_BYTES_MAX + 1), 413, str(BODY_BYTES_MAX)),
    # Wrong types.
    ("messages text", CHAT, {"messages": "hi"}, 400, "messages"),
    ("messages object", CHAT, {"messages": {}}, 400, "messages"),
    ("message number", CHAT, {"messages": [1]}, 400, "messages[0]"),
    ("content number", CHAT, {"messages": [{"role": "user", "content": 1}]}, 400, "content"),
    ("model number", CHAT, chat(model=1), 400, "model"),
    ("max_tokens text", CHAT, chat(max_tokens="many"), 400, "max_tokens"),
    ("max_tokens fraction", CHAT, chat(max_tokens=1.5), 400, "max_tokens"),
    ("temperature text", CHAT, chat(temperature="hot"), 400, "temperature"),
    ("top_p list", CHAT, chat(top_p=[1]), 400, "top_p"),
    ("seed text", CHAT, chat(seed="x"), 400, "seed"),
    ("stream text", CHAT, chat(stream="yes"), 400, "stream"),
    ("stop number", CHAT, chat(stop=5), 400, "stop"),
    ("tools object", CHAT, chat(tools={}), 400, "tools"),
    ("logit_bias list", CHAT, chat(logit_bias=[1]), 400, "logit_bias"),
    ("response_format text", CHAT, chat(response_format="json"), 400, "response_format"),
    ("prompt object", COMPLETIONS, {"prompt": {}}, 400, "prompt"),
    # Missing or empty.
    ("no messages", CHAT, {}, 400, "messages"),
    ("empty messages", CHAT, {"messages": []}, 400, "messages"),
    ("no role", CHAT, {"messages": [{"content": "hi"}]}, 400, "role"),
    ("no prompt", COMPLETIONS, {}, 400, "prompt"),
    ("no input", EMBEDDINGS, {}, 400, "input"),
    ("no text", "/tokenize", {}, 400, "content"),
    ("no tokens", "/detokenize", {}, 400, "tokens"),
    # Values out of range.
    ("unknown role", CHAT, {"messages": [{"role": "wizard", "content": "a"}]}, 400, "role"),
    ("unknown model", CHAT, chat(model="no-such"), 404, "no-such"),
    ("max_tokens negative", CHAT, chat(max_tokens=-2), 400, "max_tokens"),
    ("max_tokens huge", CHAT, chat(max_tokens=1 << 40), 400, "max_tokens"),
    ("max_tokens past 64 bits", CHAT, chat(max_tokens=1 << 80), 400, "max_tokens"),
    ("temperature negative", CHAT, chat(temperature=-0.1), 400, "temperature"),
    ("top_p above 1", CHAT, chat(top_p=1.1), 400, "top_p"),
    ("min_p negative", CHAT, chat(min_p=-1), 400, "min_p"),
    ("top_k negative", CHAT, chat(top_k=-5), 400, "top_k"),
    ("n zero", CHAT, chat(n=0), 400, "n"),
    ("n too big", CHAT, chat(n=1000), 400, "n"),
    ("presence_penalty", CHAT, chat(presence_penalty=3), 400, "presence_penalty"),
    ("repeat_penalty zero", CHAT, chat(repeat_penalty=0), 400, "repeat_penalty"),
    ("top_logprobs", CHAT, chat(logprobs=True, top_logprobs=99), 400, "top_logprobs"),
    ("many stops", CHAT, chat(stop=["a"] * 100), 400, "stop"),
    ("long stop", CHAT, chat(stop="a" * 10_000), 400, "stop"),
    ("bias of no token", CHAT, chat(logit_bias={"x": 1}), 400, "logit_bias"),
    ("bias past the vocabulary", CHAT, chat(logit_bias={"99999999": 1}), 400, "logit_bias"),
    ("bias too strong", CHAT, chat(logit_bias={"1": 1000}), 400, "logit_bias"),
    ("many biases", CHAT, chat(logit_bias={str(i): 1 for i in range(5000)}), 400, "logit_bias"),
    ("an image", CHAT, {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:"}}]}]}, 400, "content"),
    ("too long a prompt", CHAT, chat(messages=[
        {"role": "user", "content": "word " * 2 * CONTEXT}]), 400, str(CONTEXT)),
    ("too long a completion", COMPLETIONS, {"prompt": [5] * 2 * CONTEXT}, 400, str(CONTEXT)),
    ("prompt of bad ids", COMPLETIONS, {"prompt": [99999999]}, 400, "99999999"),
    ("prompt of negative ids", COMPLETIONS, {"prompt": [-1]}, 400, "-1"),
    ("suffix", COMPLETIONS, {"prompt": "a", "suffix": "b"}, 400, "suffix"),
    ("best_of", COMPLETIONS, {"prompt": "a", "best_of": 5}, 400, "best_of"),
    # Tools.
    ("unknown tool_choice", CHAT, chat(tools=[tool("a")], tool_choice="maybe"), 400, "tool_choice"),
    ("choice of no tool", CHAT, chat(tool_choice="required"), 400, "tool"),
    ("choice of another tool", CHAT, chat(tools=[tool("a")], tool_choice={
        "type": "function", "function": {"name": "b"}}), 400, "b"),
    ("tool without a name", CHAT, chat(tools=[{"type": "function", "function": {}}]), 400, "name"),
    ("tools alike", CHAT, chat(tools=[tool("a"), tool("a")]), 400, "tools"),
    ("tool parameters", CHAT, chat(tools=[{"type": "function", "function": {
        "name": "a", "parameters": 5}}]), 400, "parameters"),
    ("old functions", CHAT, chat(functions=[{"name": "a"}]), 400, "functions"),
    # Constraints.
    ("unknown form", CHAT, form(type="poem"), 400, "response_format"),
    ("form without a type", CHAT, form(), 400, "type"),
    ("no schema", CHAT, form(type="json_schema"), 400, "json_schema"),
    ("schema is a number", CHAT, schema(5), 400, "schema"),
    ("reference to itself", CHAT, schema({"$ref": "#"}), 400, "response_format"),
    ("references in a ring", CHAT, schema({"$ref": "#/$defs/a", "$defs": {
        "a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}), 400, "response_format"),
    ("reference to nothing", CHAT, schema({"$ref": "#/$defs/none"}), 400, "$ref"),
    ("reference outside", CHAT, schema({"$ref": "file:///etc/passwd"}), 400, "$ref"),
    ("deep schema", CHAT, schema_text(1000), 400, "nesting"),
    ("hostile pattern", CHAT, schema({"type": "string", "pattern": "(" * 5000}), 400, "pattern"),
    ("giant enum", CHAT, schema({"enum": [f"value number {i}" for i in range(40_000)]}), 400, "schema"),
    ("unknown schema type", CHAT, schema({"type": "colour"}), 400, "type"),
    ("contradiction", CHAT, schema({"type": "integer", "minimum": 9, "maximum": 1}), 400, "minimum"),
    ("bad pattern", CHAT, form(type="regex", pattern="(a"), 400, "pattern"),
    ("bad GBNF", CHAT, form(type="gbnf", grammar="root ::= ("), 400, "GBNF"),
    ("GBNF without a root", CHAT, form(type="gbnf", grammar='a ::= "b"'), 400, "root"),
    ("GBNF with an unknown rule", CHAT, form(type="gbnf", grammar="root ::= nothing"), 400, "nothing"),
    ("bad Lark", CHAT, form(type="lark", grammar="start: ("), 400, "response_format"),
    ("two constraints", CHAT, chat(grammar='root ::= "a"', json_schema={}), 400, "json_schema"),
    # Embeddings and token routes.
    ("empty input", EMBEDDINGS, {"input": []}, 400, "input"),
    ("mixed input", EMBEDDINGS, {"input": ["a", 1]}, 400, "input"),
    ("input object", EMBEDDINGS, {"input": {}}, 400, "input"),
    ("many inputs", EMBEDDINGS, {"input": ["a"] * 5000}, 400, "input"),
    ("unknown encoding", EMBEDDINGS, {"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
    ("other dimensions", EMBEDDINGS, {"input": "a", "dimensions": 7}, 400, "dimensions"),
    ("long input", EMBEDDINGS, {"input": "word " * 2 * CONTEXT}, 400, str(CONTEXT)),
    ("ids past the vocabulary", "/detokenize", {"tokens": [99999999]}, 400, "99999999"),
    ("negative ids", "/detokenize", {"tokens": [-7]}, 400, "-7"),
    ("ids past 32 bits", "/detokenize", {"tokens": [1 << 40]}, 400, "tokens"),
    ("template of nothing", "/apply-template", {}, 400, "messages"),
    # Routes.
    ("no such route", "/v1/nothing", {}, 404, "/v1/nothing"),
    ("wrong method", "/v1/models", {}, 405, "POST"),
    # Loading.
    ("load nothing", LOAD, {}, 400, "path"),
    ("load with an unknown setting", LOAD, {"path": "a", "colour": 1}, 400, "colour"),
    ("load with bad slots", LOAD, {"path": "a", "slots": -1}, 400, "slots"),
    ("unload nothing", "/admin/models/unload", {"model": "no-such"}, 404, "no-such"),
]


def content(body):
    if isinstance(body, (str, bytes)):
        return body
    return json.dumps(body).encode()


def send(server, path, body):
    headers = {"content-type": "application/json"}
    return server.http.post(path, content=content(body), headers=headers)


def check(answer, status, word):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() >= {"message", "type", "param", "code"}
    assert error["type"] and error["code"]
    assert word in error["message"], error


@pytest.mark.parametrize(("path", "body", "status", "word"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])
def test_a_bad_request_is_refused_and_says_why(server, path, body, status, word):
    pid = server.model()["pid"]
    check(send(server, path, body), status, word)
    assert server.model()["pid"] == pid, "the worker died"


def test_an_exploding_pattern_costs_little(server):
    before = server.resident_bytes()
    pattern = "((((a{1,200}){1,200}){1,200}){1,200}){1,200}"
    answer = send(server, CHAT, schema({"type": "string", "pattern": pattern}))
    # It may be taken, because it is only worked out as far as the answer goes.
    if answer.status_code != 200:
        check(answer, 400, "pattern")
    growth = [b - a for a, b in zip(before, server.resident_bytes())]
    assert max(growth) < 8 * GROWTH_BYTES_MAX, growth


def gguf_head(model, size):
    with open(model, "rb") as file:
        return file.read(size)


# Name of a file, how it comes about, status.
FILES = {
    "empty.gguf": (lambda model: b"", 422),
    "head.gguf": (lambda model: gguf_head(model, 64), 422),
    "cut-in-metadata.gguf": (lambda model: gguf_head(model, 100_000), 422),
    "cut-in-weights.gguf": (lambda model: gguf_head(model, 4 << 20), 422),
    "magic.gguf": (lambda model: b"GGML" + gguf_head(model, 100_000)[4:], 422),
    "version.gguf": (lambda model: b"GGUF\xff\xff\xff\x7f" + bytes(4096), 422),
    "counts.gguf": (lambda model: b"GGUF\x03\0\0\0" + b"\xff" * 64, 422),
    "random.gguf": (lambda model: random.Random(1).randbytes(1 << 16), 422),
    "page.gguf": (lambda model: b"<!DOCTYPE html><html>404</html>" * 100, 422),
}


def still_answers(server):
    answer = server.http.post(CHAT, json=chat())
    assert answer.status_code == 200, answer.text
    assert server.model()["state"] == "ready"


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_by_name(server, model, tmp_path, name):
    make, status = FILES[name]
    (tmp_path / name).write_bytes(make(model))
    answer = send(server, LOAD, {"path": str(tmp_path / name), "model": "hostile"})
    check(answer, status, name)
    failed = server.http.get("/admin/models").json()["models"][-1]
    assert (failed["name"], failed["state"]) == ("hostile", "failed") and failed["why"]
    still_answers(server)


def test_a_path_of_no_file_is_refused_by_name(server, tmp_path):
    missing = tmp_path / "missing.gguf"
    check(send(server, LOAD, {"path": str(missing), "model": "hostile"}), 404, "missing.gguf")
    folder = send(server, LOAD, {"path": str(tmp_path), "model": "hostile"})
    assert 400 <= folder.status_code < 500, folder.text
    assert tmp_path.name in folder.json()["error"]["message"]
    still_answers(server)


@pytest.mark.parametrize("template", ["{% for", "{{ 1 / 0 }}", "{% if x %}", "{{ nothing.at.all }}"])
def test_a_broken_template_is_refused_or_warned_of(server, model, template):
    request = {"path": model, "model": "broken", "context": 256, "slots": 1,
               "chat_template": template}
    answer = send(server, LOAD, request)
    if answer.status_code != 200:
        assert 400 <= answer.status_code < 500, answer.text
        assert "template" in answer.json()["error"]["message"]
        return
    try:
        said = server.http.post(CHAT, json=chat(model="broken"))
        if not answer.json()["facts"]["template_warnings"]:
            check(said, 400, "template")
        else:
            assert said.status_code in (200, 400), said.text
    finally:
        assert send(server, "/admin/models/unload", {"model": "broken"}).status_code == 200


def test_bad_requests_leave_no_memory_behind(server):
    # Without those whose bodies alone take long to send.
    cheap = [case for case in CASES if len(content(case[2])) < 100_000]
    choose = random.Random(7)

    def send_bad(count):
        for _ in range(count):
            name, path, body, status, _ = choose.choice(cheap)
            assert send(server, path, body).status_code == status, name

    send_bad(WARM_UP)
    before = server.resident_bytes()
    pid = server.model()["pid"]
    send_bad(MEASURED)
    growth = [b - a for a, b in zip(before, server.resident_bytes())]
    print(f"after {MEASURED} bad requests: gateway {growth[0]:+d}, worker {growth[1]:+d} bytes")
    assert server.model()["pid"] == pid
    assert max(growth) < GROWTH_BYTES_MAX, growth
