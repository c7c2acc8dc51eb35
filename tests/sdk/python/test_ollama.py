"""The Ollama dialect, through Ollama's own client."""

import asyncio
import json

import httpx
import pytest
from ollama import AsyncClient, Client, ResponseError

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo", "Lima"]}},
    "required": ["city"],
    "additionalProperties": False,
}
GREEDY = {"temperature": 0, "num_predict": 24}
ASK = [{"role": "user", "content": "Name three colours."}]


@pytest.fixture(scope="module")
def root(base_url):
    return base_url.removesuffix("/v1")


@pytest.fixture(scope="module")
def ollama(root):
    return Client(host=root, timeout=120)


@pytest.fixture(scope="module")
def name(ollama):
    """The first model's name, as it is listed."""
    return ollama.list().models[0].model


def figures_are_there(answer):
    assert answer.done is True
    assert answer.done_reason in ("stop", "length")
    assert answer.prompt_eval_count > 0 and answer.eval_count > 0
    # Nanoseconds: no answer of this model takes less than one of a millisecond.
    assert answer.total_duration >= answer.eval_duration > 1_000
    assert answer.prompt_eval_duration > 0


def test_models_are_listed_described_and_running(ollama, name, model):
    assert name.removesuffix(":latest") == model.removesuffix(":latest")
    [listed] = ollama.list().models
    assert listed.size > 1_000_000 and len(listed.digest) == 64
    assert listed.modified_at.year >= 2020
    assert listed.details.format == "gguf" and listed.details.family == "llama"
    assert listed.details.quantization_level and listed.details.parameter_size.endswith("M")
    shown = ollama.show(name)
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] > 0
    assert "completion" in shown.capabilities
    assert "num_ctx" in shown.parameters and shown.template
    [running] = ollama.ps().models
    assert running.model == name and running.size > 0
    assert running.context_length == shown.modelinfo[f"{architecture}.context_length"]
    assert running.expires_at.year > 2100


def test_a_chat_answer_is_whole(ollama, name):
    answer = ollama.chat(name, ASK, options=GREEDY)
    assert answer.model == name and answer.message.role == "assistant"
    assert answer.message.content.strip() and not answer.message.tool_calls
    figures_are_there(answer)


def test_a_stream_carries_the_same_text(ollama, name):
    whole = ollama.chat(name, ASK, options=GREEDY)
    parts = list(ollama.chat(name, ASK, options=GREEDY, stream=True))
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    # Another prefix may come from the cache, which rounds differently; the start is safe.
    text = "".join(part.message.content for part in parts)
    assert text[:8] == whole.message.content[:8]
    figures_are_there(parts[-1])


def test_the_asynchronous_client_reads_a_stream(root, name):
    async def read():
        client = AsyncClient(host=root, timeout=120)
        stream = await client.chat(name, ASK, options=GREEDY, stream=True)
        return [part async for part in stream]

    assert asyncio.run(read())[-1].done is True


def test_generate_with_a_system_message_raw_and_streamed(ollama, name):
    answer = ollama.generate(name, "Say hello.", system="Be brief.", options=GREEDY)
    assert answer.response.strip()
    figures_are_there(answer)
    raw = ollama.generate(name, "One, two, three,", raw=True, options=GREEDY)
    assert raw.response and raw.prompt_eval_count < answer.prompt_eval_count
    parts = list(ollama.generate(name, "Say hello.", options=GREEDY, stream=True))
    assert "".join(part.response for part in parts).strip()
    figures_are_there(parts[-1])


def test_num_predict_is_exact_and_stop_ends_before_itself(ollama, name):
    answer = ollama.generate(
        name, "Write a long story.", options={"temperature": 0, "num_predict": 5}
    )
    assert (answer.done_reason, answer.eval_count) == ("length", 5)
    whole = ollama.generate(name, "Once upon a time a ship", options=GREEDY).response
    stop = whole[5:9]
    cut = ollama.generate(name, "Once upon a time a ship", options=GREEDY | {"stop": [stop]})
    assert stop not in cut.response and cut.done_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_holds(ollama, name, stream):
    options = {"temperature": 0.8, "seed": 7, "num_predict": 64}
    asked = {"format": CITY, "options": options, "stream": stream}
    answer = ollama.chat(name, [{"role": "user", "content": "Pick a city."}], **asked)
    parts = list(answer) if stream else [answer]
    value = json.loads("".join(part.message.content for part in parts))
    assert set(value) == {"city"} and value["city"] in CITY["properties"]["city"]["enum"]


def test_json_is_an_object(ollama, name):
    answer = ollama.generate(
        name, "An object with a colour.", format="json", options={"num_predict": 400, "seed": 1}
    )
    if answer.done_reason == "stop":
        assert isinstance(json.loads(answer.response), dict)


def get_weather(city: str) -> str:
    """Says what the weather is like.

    Args:
      city: The name of a city.
    """
    return f"Rain in {city}."


def test_tools_are_offered_and_results_are_taken(ollama, name):
    asked = [{"role": "user", "content": "What is the weather in Oslo? Use the tool."}]
    for stream in (False, True):
        answer = ollama.chat(
            name, asked, tools=[get_weather], options=GREEDY | {"num_predict": 64}, stream=stream
        )
        parts = list(answer) if stream else [answer]
        # A model this small may or may not call; a call is always whole.
        for call in [call for part in parts for call in part.message.tool_calls or []]:
            assert call.function.name == "get_weather"
            assert isinstance(call.function.arguments, dict)
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    history = asked + [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": get_weather("Oslo"), "tool_name": "get_weather"},
    ]
    answer = ollama.chat(name, history, tools=[get_weather], options=GREEDY)
    figures_are_there(answer)


def test_embeddings_in_both_forms(ollama, name):
    answer = ollama.embed(name, ["A cat.", "A dog."])
    assert len(answer.embeddings) == 2 and answer.prompt_eval_count > 0
    for vector in answer.embeddings:
        assert abs(sum(x * x for x in vector) - 1) < 1e-3
    older = ollama.embeddings(name, "A cat.").embedding
    assert len(older) == len(answer.embeddings[0])
    assert max(abs(a - b) for a, b in zip(older, answer.embeddings[0])) < 1e-2


def test_a_request_without_text_says_that_the_model_is_loaded(ollama, name):
    for answer in (ollama.generate(name), ollama.chat(name, keep_alive=-1)):
        assert (answer.done, answer.done_reason) == (True, "load")


def test_both_spellings_of_a_name_are_one_model(ollama, name):
    bare = name.removesuffix(":latest")
    if ":" in bare:
        pytest.skip("the model has a tag of its own")
    for spelling in (bare, f"{bare}:latest"):
        assert ollama.generate(spelling, "Hi", options={"num_predict": 1}).model == spelling


@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_a_status_and_a_sentence(ollama, name, stream):
    def refused(status, *words, model=name, **asked):
        with pytest.raises(ResponseError) as caught:
            answer = ollama.chat(model, ASK, stream=stream, **asked)
            list(answer)
        assert caught.value.status_code == status
        assert all(word in caught.value.error for word in words), caught.value.error

    refused(404, "no-such", model="no-such")
    refused(400, "options.temperature", "from 0 to 2", options={"temperature": 9})
    refused(400, "num_predct", "num_predict", options={"num_predct": 9})
    refused(400, "keep_alive", keep_alive="soon")


def test_a_prompt_that_is_too_long_is_refused_with_its_size(ollama, name):
    with pytest.raises(ResponseError, match="tokens") as caught:
        ollama.generate(name, "word " * 20_000)
    assert caught.value.status_code == 400


def test_what_is_not_done_is_in_a_header(root, name):
    body = {
        "model": name,
        "messages": ASK,
        "stream": False,
        "options": {"num_ctx": 123, "num_predict": 1},
        "keep_alive": "5m",
    }
    answer = httpx.post(f"{root}/api/chat", json=body, timeout=120)
    told = answer.headers["x-sextant-warning"]
    assert "num_ctx is 123" in told and "keep_alive" in told


def test_the_raw_stream_is_lines_of_json(root, name):
    body = {"model": name, "prompt": "Hi", "options": {"num_predict": 4}}
    answer = httpx.post(f"{root}/api/generate", json=body, timeout=120)
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]


def test_what_cannot_be_pulled_or_deleted_is_told(ollama):
    with pytest.raises(ResponseError) as caught:
        ollama.pull("https://host.example/model.gguf")
    assert caught.value.status_code == 400
    with pytest.raises(ResponseError) as caught:
        ollama.delete("no-such-model")
    assert caught.value.status_code == 404
