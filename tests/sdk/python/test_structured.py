"""Schemas and tools: what is constrained must hold, whatever the model is like."""

import enum
import json

import pytest
from openai import BadRequestError
from pydantic import BaseModel

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


def tool(name, parameters=CITY):
    function = {"name": name, "description": f"Does {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


def check_city(text):
    value = json.loads(text)
    assert set(value) == {"city", "days"}
    assert value["city"] in CITY["properties"]["city"]["enum"]
    assert value["days"] in range(1, 10)


def json_schema(schema, name="answer"):
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "strict": True, "schema": schema},
    }


class Streamed:
    """What a stream of tool calls adds up to; its order is checked on the way."""

    def __init__(self, chunks):
        self.calls, self.content, self.reason, self.pieces = [], "", None, 0
        for chunk in chunks:
            for choice in chunk.choices:
                self.content += choice.delta.content or ""
                for delta in choice.delta.tool_calls or []:
                    self.read(delta)
                self.reason = choice.finish_reason or self.reason

    def read(self, delta):
        if delta.index == len(self.calls):
            assert delta.id and delta.type == "function" and delta.function.name
            self.calls.append({"id": delta.id, "name": delta.function.name, "arguments": ""})
        else:
            # Only the first delta of a call names it.
            assert delta.index == len(self.calls) - 1
            assert not delta.id and not delta.function.name
        self.calls[delta.index]["arguments"] += delta.function.arguments or ""
        self.pieces += bool(delta.function.arguments)


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_named_tool_is_called(ask, temperature):
    answer = ask(
        "Plan a trip.",
        tools=[tool("book_hotel"), tool("plan_trip")],
        tool_choice={"type": "function", "function": {"name": "plan_trip"}},
        temperature=temperature,
        seed=5,
        max_tokens=200,
    )
    [choice] = answer.choices
    [call] = choice.message.tool_calls
    assert call.id and call.type == "function" and call.function.name == "plan_trip"
    check_city(call.function.arguments)
    # OpenAI says "stop" for a named function; most clients look for "tool_calls".
    assert choice.finish_reason in ("tool_calls", "stop")


def test_a_named_tool_streams_its_arguments(ask):
    chunks = ask(
        "Plan a trip.",
        tools=[tool("plan_trip")],
        tool_choice={"type": "function", "function": {"name": "plan_trip"}},
        max_tokens=200,
        stream=True,
    )
    streamed = Streamed(chunks)
    [call] = streamed.calls
    assert call["name"] == "plan_trip"
    check_city(call["arguments"])
    assert streamed.pieces > 1, "the arguments came in one piece"
    assert streamed.content == ""


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_tool_is_called(ask, stream):
    answer = ask(
        "Where should I go?",
        tools=[tool("book_hotel"), tool("plan_trip")],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=200,
        stream=stream,
    )
    if stream:
        streamed = Streamed(answer)
        [call], reason = streamed.calls, streamed.reason
        name, arguments = call["name"], call["arguments"]
    else:
        [call], reason = answer.choices[0].message.tool_calls, answer.choices[0].finish_reason
        name, arguments = call.function.name, call.function.arguments
    assert name in ("book_hotel", "plan_trip")
    check_city(arguments)
    assert reason == "tool_calls"


def test_no_tool_is_called_when_forbidden(ask):
    answer = ask("Plan a trip.", tools=[tool("plan_trip")], tool_choice="none")
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].message.content


def test_a_tool_result_is_taken_back(ask):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "plan_trip", "arguments": '{"city": "Oslo", "days": 2}'},
    }
    answer = ask(
        messages=[
            {"role": "user", "content": "Plan a trip."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Two days in Oslo."},
        ],
        tools=[tool("plan_trip")],
        tool_choice="none",
    )
    assert answer.choices[0].message.content


def test_a_forced_call_of_an_unknown_tool_is_refused(ask):
    with pytest.raises(BadRequestError) as caught:
        ask(
            tools=[tool("plan_trip")],
            tool_choice={"type": "function", "function": {"name": "fly"}},
        )
    assert "fly" in caught.value.message


@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_is_obeyed(ask, temperature, stream):
    answer = ask(
        "Plan a trip.",
        response_format=json_schema(CITY),
        temperature=temperature,
        seed=9,
        max_tokens=200,
        stream=stream,
    )
    if stream:
        text = "".join(c.choices[0].delta.content or "" for c in answer if c.choices)
    else:
        text = answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
    check_city(text)


def test_the_sdks_own_parser_takes_the_answer(client, model):
    class Mood(str, enum.Enum):
        good = "good"
        bad = "bad"

    class Review(BaseModel):
        mood: Mood
        stars: bool

    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "The film was wonderful. Review it."}],
        response_format=Review,
        temperature=0,
        max_tokens=200,
    )
    assert isinstance(answer.choices[0].message.parsed, Review)


def test_characters_are_never_cut(ask):
    wanted = "naïve 😀 日本"
    schema = {"type": "string", "const": wanted}
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in ask(response_format=json_schema(schema), stream=True, max_tokens=200)
        if chunk.choices
    ]
    assert json.loads("".join(pieces)) == wanted
    assert not any("\ufffd" in piece for piece in pieces)


def test_json_object_gives_an_object(ask):
    answer = ask(
        'Answer in JSON: {"colour": "red"} or another colour.',
        response_format={"type": "json_object"},
        max_tokens=300,
    )
    [choice] = answer.choices
    text = choice.message.content
    assert text.lstrip().startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_schema_that_cannot_be_honoured_is_refused_by_name(ask):
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    with pytest.raises(BadRequestError) as caught:
        ask(response_format=json_schema(schema))
    assert "uniqueItems" in caught.value.message
