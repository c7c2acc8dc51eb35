"""The Responses API: whole, streamed, with tools and schemas, kept and continued."""

import json
from typing import Literal

import pytest
from openai import BadRequestError, NotFoundError
from pydantic import BaseModel, Field

TRIP = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
PLAN_TRIP = {
    "type": "function",
    "name": "plan_trip",
    "description": "Plans a trip.",
    "parameters": TRIP,
    "strict": True,
}


class Trip(BaseModel):
    city: Literal["Paris", "Oslo", "Lima"]
    days: int = Field(ge=1, le=9)


@pytest.fixture(scope="module")
def arguments(model):
    """Of one greedy request; an argument is changed by name."""

    def arguments(prompt="Name three colours.", **changes):
        return {
            "model": model,
            "input": prompt,
            "temperature": 0,
            "max_output_tokens": 32,
            # So that equal requests are equal work.
            "extra_body": {"cache_prompt": False},
        } | changes

    return arguments


@pytest.fixture(scope="module")
def respond(client, arguments):
    return lambda *prompt, **changes: client.responses.create(**arguments(*prompt, **changes))


def check_trip(text):
    trip = json.loads(text)
    assert trip["city"] in TRIP["properties"]["city"]["enum"]
    assert 1 <= trip["days"] <= 9


def test_a_response_is_whole(respond, model):
    response = respond(instructions="Be brief.", metadata={"run": "7"})
    assert response.object == "response" and response.id.startswith("resp_")
    assert response.model == model
    assert response.status in ("completed", "incomplete")
    [message] = response.output
    assert message.type == "message" and message.role == "assistant"
    assert response.output_text.strip()
    usage = response.usage
    assert usage.input_tokens > 0 and usage.output_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert response.instructions == "Be brief."
    assert response.metadata == {"run": "7"}
    assert response.temperature == 0


def test_a_stream_ends_with_the_same_response(respond):
    whole = respond()
    events = list(respond(stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    ends = {"response.completed", "response.incomplete", "response.failed"}
    assert [kind for kind in kinds if kind in ends] == kinds[-1:]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    last = events[-1].response
    assert last.output_text == whole.output_text
    assert last.status == whole.status
    assert last.usage.output_tokens == whole.usage.output_tokens


def test_what_is_cut_off_is_incomplete(respond):
    text = "Write a long story about the sea."
    for stream in (False, True):
        answer = respond(text, max_output_tokens=5, stream=stream)
        response = list(answer)[-1].response if stream else answer
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.output[0].status == "incomplete"
        assert response.usage.output_tokens == 5


def test_items_of_every_role_are_taken(respond):
    response = respond(
        [
            {"role": "system", "content": "Answer in one word."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Again."},
        ]
    )
    assert response.output_text


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "name": "plan_trip"}])
def test_a_tool_is_called_and_its_result_answered(respond, tool_choice):
    question = [{"role": "user", "content": "Plan a trip."}]
    tools = {"tools": [PLAN_TRIP], "parallel_tool_calls": False, "max_output_tokens": 200}
    called = respond(question, tool_choice=tool_choice, **tools)
    [call] = called.output
    assert call.type == "function_call" and call.name == "plan_trip"
    check_trip(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Booked."}
    changes = {"tools": [PLAN_TRIP], "tool_choice": "none"}
    stateless = respond([*question, call.to_dict(), result], **changes)
    continued = respond([result], previous_response_id=called.id, **changes)
    assert stateless.output_text and stateless.output_text == continued.output_text
    assert stateless.usage.input_tokens == continued.usage.input_tokens


def test_the_stream_helper_takes_a_call(client, arguments):
    request = arguments(
        "Plan a trip.",
        tools=[PLAN_TRIP],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=200,
    )
    parts = []
    with client.responses.stream(**request) as stream:
        for event in stream:
            if event.type == "response.function_call_arguments.delta":
                parts.append(event.delta)
        [call] = stream.get_final_response().output
    assert "".join(parts) == call.arguments
    check_trip(call.arguments)


def test_functions_of_namespaces_are_called_by_both_names(respond):
    trips = {"type": "namespace", "name": "trips", "description": "Trips", "tools": [PLAN_TRIP]}
    response = respond(
        "Plan a trip.", tools=[trips], tool_choice="required", max_output_tokens=200
    )
    call = response.output[0]
    assert (call.namespace, call.name) == ("trips", "plan_trip")


def test_a_schema_is_obeyed(client, arguments, respond):
    schema = {"type": "json_schema", "name": "trip", "schema": TRIP, "strict": True}
    for temperature in (0, 1.5):
        response = respond(
            "Plan a trip.",
            text={"format": schema},
            temperature=temperature,
            max_output_tokens=200,
        )
        assert response.status == "completed"
        check_trip(response.output_text)
    request = arguments("Plan a trip.", text_format=Trip, max_output_tokens=200)
    assert isinstance(client.responses.parse(**request).output_parsed, Trip)
    with client.responses.stream(**request) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Trip)


def test_log_probabilities_describe_the_tokens(respond):
    response = respond(include=["message.output_text.logprobs"], top_logprobs=2)
    [part] = response.output[0].content
    spelt = bytes(byte for token in part.logprobs for byte in token.bytes)
    assert spelt.decode() == part.text
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in part.logprobs)


def test_a_response_is_kept_continued_and_forgotten(client, respond):
    first = respond("My name is Ada.")
    assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
    second = respond("What is my name?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.total_tokens
    items = client.responses.input_items.list(second.id).data
    assert [item.content[0].text for item in items] == ["What is my name?"]
    client.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(BadRequestError) as caught:
        respond(previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"


def test_what_is_not_stored_is_not_kept(client, respond):
    response = respond(store=False)
    assert response.output_text
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response.id)


def test_input_tokens_are_counted_as_they_are_used(client, respond, model):
    request = {"input": "Name three colours.", "instructions": "Be brief."}
    counted = client.responses.input_tokens.count(model=model, **request)
    assert counted.object == "response.input_tokens"
    used = respond(request["input"], instructions=request["instructions"])
    assert counted.input_tokens == used.usage.input_tokens


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_output_tokens": -5}, "max_output_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"background": True}, "background"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
        ),
    ],
)
def test_errors_are_the_sdks_own(respond, changes, param):
    text = changes.pop("input", "Hi")
    for stream in (False, True):
        with pytest.raises(BadRequestError) as caught:
            respond(text, stream=stream, **changes)
        assert caught.value.param == param


def test_a_prompt_over_the_context_is_refused(respond):
    with pytest.raises(BadRequestError) as caught:
        respond("word " * 5000, truncation="auto")
    assert caught.value.code == "context_length_exceeded"
