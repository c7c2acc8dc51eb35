"""The messages API through Anthropic's own SDK: answers, streams, tools, errors, clients
that leave."""

import json
import time

import anthropic
import pytest
from anthropic import BadRequestError, NotFoundError

CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def claude(base_url):
    root = base_url.removesuffix("/v1")
    return anthropic.Anthropic(base_url=root, api_key="unused", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def arguments(model):
    """Those of a greedy request; one is changed by name, left out by None."""

    def arguments(text="Name three colours.", **changes):
        given = {
            "model": model,
            "max_tokens": 32,
            "messages": [{"role": "user", "content": text}],
            # The API has it; this SDK no longer does, because new models do without.
            "extra_body": {"temperature": 0},
        }
        given |= changes
        return {name: value for name, value in given.items() if value is not None}

    return arguments


@pytest.fixture(scope="module")
def ask(claude, arguments):
    return lambda *text, **changes: claude.messages.create(**arguments(*text, **changes))


def tool(name):
    return {"name": name, "description": f"Does {name}.", "input_schema": CITY}


def check_city(value):
    assert set(value) == {"city", "days"}
    assert value["city"] in CITY["properties"]["city"]["enum"]
    assert value["days"] in range(1, 10)


def test_a_message_is_whole(ask, model):
    message = ask(system="Answer in a few words.")
    assert message.id.startswith("msg_") and message.type == "message"
    assert message.role == "assistant" and message.model == model
    [block] = message.content
    assert block.type == "text" and block.text.strip()
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.stop_sequence is None
    usage = message.usage
    assert usage.input_tokens + usage.cache_read_input_tokens > 0
    assert 0 < usage.output_tokens <= 32
    assert message._request_id


def test_blocks_and_late_instructions_are_taken(ask):
    def text(text):
        return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}

    document = {"type": "text", "media_type": "text/plain", "data": "The sky is green."}
    message = ask(
        system=[text("x-anthropic-billing-header: cc_version=1; cch=00000;"), text("Be brief.")],
        messages=[
            {"role": "user", "content": [text("Hello."), text("Who are you?")]},
            {"role": "assistant", "content": [text("A model.")]},
            {"role": "system", "content": "From now on, answer in one word."},
            {"role": "user", "content": [{"type": "document", "source": document}, text("Why?")]},
        ],
    )
    assert message.content[0].text


def test_max_tokens_is_exact(ask):
    message = ask("Write a long story about the sea.", max_tokens=5)
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 5


def test_a_prompt_is_read_from_the_cache_whatever_the_attribution_says(ask):
    def usage(cch):
        attribution = f"x-anthropic-billing-header: cc_version=2.1; cch={cch};"
        words = "Remember these words: " + "lantern harbour compass " * 40
        system = [{"type": "text", "text": text} for text in (attribution, words)]
        return ask(system=system, max_tokens=4).usage

    usage("fa690")
    again = usage("00b1c")
    assert again.cache_read_input_tokens > again.input_tokens
    assert again.cache_creation_input_tokens == 0


def test_a_stream_comes_in_order(claude, arguments):
    events = list(claude.messages.create(**arguments(), stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    start, end = events[0].message, events[-2]
    assert start.content == [] and start.stop_reason is None
    assert start.usage.input_tokens + start.usage.cache_read_input_tokens > 0
    assert end.delta.stop_reason in ("end_turn", "max_tokens")
    assert 0 < end.usage.output_tokens <= 32
    assert all(event.delta.text for event in events[2:-3])


def test_the_sdk_puts_a_stream_together(claude, arguments):
    with claude.messages.stream(**arguments()) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    [block] = message.content
    assert len(pieces) > 1 and "".join(pieces) == block.text
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.output_tokens > 0
    assert stream.request_id


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice",
    [{"type": "tool", "name": "plan_trip"}, {"type": "any", "disable_parallel_tool_use": True}],
)
def test_a_tool_is_called_when_told(claude, arguments, choice, stream):
    given = arguments(
        "Plan a trip.",
        tools=[tool("book_hotel"), tool("plan_trip")],
        tool_choice=choice,
        max_tokens=200,
    )
    if stream:
        with claude.messages.stream(**given) as events:
            parts = [e.partial_json for e in events if e.type == "input_json"]
            message = events.get_final_message()
        assert len(parts) > 1, "the arguments came in one piece"
        assert json.loads("".join(parts)) == message.content[0].input
    else:
        message = claude.messages.create(**given)
    [call] = message.content
    assert call.type == "tool_use" and call.id
    assert call.name == choice.get("name", call.name)
    check_city(call.input)
    assert message.stop_reason == "tool_use"


def test_no_tool_is_called_when_forbidden(ask):
    message = ask("Plan a trip.", tools=[tool("plan_trip")], tool_choice={"type": "none"})
    assert [block.type for block in message.content] == ["text"]


@pytest.mark.parametrize("is_error", [False, True])
def test_a_tool_result_is_taken_back(ask, is_error):
    call = {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "plan_trip",
        "input": {"city": "Oslo", "days": 2},
    }
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "text", "text": "Two days in Oslo."}],
        "is_error": is_error,
    }
    message = ask(
        messages=[
            {"role": "user", "content": "Plan a trip."},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result, {"type": "text", "text": "What is it?"}]},
        ],
        tools=[tool("plan_trip")],
        tool_choice={"type": "none"},
    )
    assert message.content[0].text


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_without_thinking_the_answer_comes_first(ask, thinking):
    message = ask(thinking=thinking)
    assert message.content[0].type == "text"


def test_thinking_that_is_sent_back_is_taken(ask):
    thought = {"type": "thinking", "thinking": "A greeting.", "signature": ""}
    message = ask(
        thinking={"type": "enabled", "budget_tokens": 16},
        messages=[
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": [thought, {"type": "text", "text": "Hi."}]},
            {"role": "user", "content": "Name a colour."},
        ],
    )
    assert message.content


def test_a_schema_is_obeyed(ask):
    form = {"format": {"type": "json_schema", "schema": CITY}}
    message = ask("Plan a trip.", max_tokens=200, output_config=form)
    check_city(json.loads(message.content[0].text))
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_ends_the_answer_before_itself(claude, arguments, stream):
    given = arguments("Write a story.", max_tokens=200, stop_sequences=["never said", "e"])
    if stream:
        with claude.messages.stream(**given) as events:
            message = events.get_final_message()
    else:
        message = claude.messages.create(**given)
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == "e"
    assert "e" not in "".join(block.text for block in message.content)


def test_tokens_are_counted_as_they_are_used(claude, ask, arguments):
    given = arguments("How many tokens is this?", system="Be brief.")
    usage = ask("How many tokens is this?", system="Be brief.").usage
    names = ("model", "messages", "system")
    count = claude.messages.count_tokens(**{name: given[name] for name in names})
    assert count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"temperature": 1.5}}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content[0].source"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ],
)
def test_bad_values_name_their_field(ask, changes, word, stream):
    with pytest.raises(BadRequestError) as caught:
        ask(stream=stream, **changes)
    error = caught.value.body["error"]
    assert error["type"] == "invalid_request_error"
    assert word in error["message"]


def test_a_prompt_over_the_context_states_the_figures(ask):
    with pytest.raises(BadRequestError) as caught:
        ask("word " * 5000)
    message = caught.value.body["error"]["message"]
    assert message.startswith("prompt is too long: ")
    assert message.endswith(" tokens > 2048 maximum")


def test_an_unknown_model_is_not_found(ask):
    with pytest.raises(NotFoundError) as caught:
        ask(model="no-such-model")
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert caught.value.request_id


def test_clients_that_leave_free_their_slots(ask):
    # As many as there are slots; each would run for minutes if it were kept.
    streams = [
        ask("Write a very long story.", max_tokens=1800, stream=True, extra_body=None)
        for _ in range(4)
    ]
    for stream in streams:
        next(iter(stream))
    for stream in streams:
        stream.close()
    start = time.monotonic()
    assert ask(max_tokens=2).content
    assert time.monotonic() - start < 10
