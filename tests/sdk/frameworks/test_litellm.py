"""LiteLLM as a client, through each of its prefixes that can be pointed at us."""

import json
import os

# Its table of prices comes from the net otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
import pytest  # noqa: E402
from conftest import TRIP, check_trip  # noqa: E402

litellm.num_retries = 0
litellm.telemetry = False

# Where each prefix wants the address to end.
PREFIXES = {
    "openai": "/v1",
    "anthropic": "",
    "ollama_chat": "",
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "plan_trip", "description": "Plans a trip.", "parameters": TRIP},
    }
]
CHOICE = {"type": "function", "function": {"name": "plan_trip"}}
QUESTION = {"role": "user", "content": "Plan a trip to Oslo for three days."}


@pytest.fixture(params=PREFIXES)
def prefix(request):
    return request.param


@pytest.fixture
def pointed(base, model, prefix):
    """What every call of this prefix begins with."""
    return {
        "model": f"{prefix}/{model}",
        "api_base": base + PREFIXES[prefix],
        "api_key": "unused",
        "temperature": 0,
        "max_tokens": 48,
    }


def test_an_answer_whole_and_streamed(pointed):
    messages = [{"role": "user", "content": "Name three colours."}]
    whole = litellm.completion(messages=messages, **pointed)
    assert whole.choices[0].message.content
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.completion_tokens > 0
    chunks = list(litellm.completion(messages=messages, stream=True, **pointed))
    assert len(chunks) > 2
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    # The two answers may differ: their tokens lie in other cells, and sums round otherwise.
    assert [reason for reason in reasons if reason] in (["stop"], ["length"])


def test_a_tool_is_called_and_its_result_goes_back(pointed, prefix):
    if prefix == "ollama_chat":
        pytest.skip("Ollama's dialect cannot say that a tool must be called")
    first = litellm.completion(messages=[QUESTION], tools=TOOLS, tool_choice=CHOICE, **pointed)
    call = first.choices[0].message.tool_calls[0]
    check_trip(json.loads(call.function.arguments))
    assert first.choices[0].finish_reason in ("tool_calls", "stop")
    stream = litellm.completion(
        messages=[QUESTION], tools=TOOLS, tool_choice=CHOICE, stream=True, **pointed
    )
    deltas = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].id and deltas[0].function.name == "plan_trip"
    check_trip(json.loads("".join(one.function.arguments or "" for one in deltas)))
    result = {"role": "tool", "tool_call_id": call.id, "content": "Booked."}
    messages = [QUESTION, first.choices[0].message.model_dump(), result]
    answer = litellm.completion(messages=messages, tools=TOOLS, **pointed)
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_a_schema_is_obeyed(pointed, prefix):
    if prefix == "anthropic":
        pytest.skip("LiteLLM makes an optional tool of it there, which need not be called")
    schema = {"type": "json_schema", "json_schema": {"name": "trip", "schema": TRIP, "strict": True}}
    answer = litellm.completion(messages=[QUESTION], response_format=schema, **pointed)
    check_trip(json.loads(answer.choices[0].message.content))


def test_an_unknown_model_is_told(pointed, prefix):
    unknown = pointed | {"model": f"{prefix}/no-such-model"}
    with pytest.raises(litellm.exceptions.NotFoundError, match="no-such-model"):
        litellm.completion(messages=[QUESTION], **unknown)


def test_embeddings(base, model):
    answer = litellm.embedding(
        model=f"openai/{model}", input=["ships"], api_base=f"{base}/v1", api_key="unused"
    )
    assert answer.data[0]["embedding"]
