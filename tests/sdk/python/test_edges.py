"""Embeddings, errors as the SDK's own exceptions, and clients that leave."""

import math
import time

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError


def norm(vector):
    return math.sqrt(sum(value * value for value in vector))


def test_embeddings_are_unit_vectors_in_both_encodings(client, model):
    text = "a lighthouse on a cliff"
    # Without encoding_format the SDK asks for base64 and decodes it itself.
    default = client.embeddings.create(model=model, input=text)
    floats = client.embeddings.create(model=model, input=text, encoding_format="float")
    [one], [two] = default.data, floats.data
    assert one.object == "embedding" and default.object == "list"
    assert len(one.embedding) == len(two.embedding) > 100
    assert norm(one.embedding) == pytest.approx(1, abs=1e-3)
    assert one.embedding == pytest.approx(two.embedding, abs=1e-5)
    assert default.usage.prompt_tokens == default.usage.total_tokens > 0


def test_a_batch_of_embeddings_keeps_its_order(client, model):
    texts = ["red", "a much longer sentence about the sea", "red"]
    answer = client.embeddings.create(model=model, input=texts)
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    first, second, third = (entry.embedding for entry in answer.data)
    assert first == pytest.approx(third, abs=1e-2)
    alone = client.embeddings.create(model=model, input=texts[1]).data[0].embedding
    likeness = sum(a * b for a, b in zip(second, alone))
    assert likeness > 0.99


def test_an_empty_batch_is_refused(client, model):
    with pytest.raises(BadRequestError):
        client.embeddings.create(model=model, input=[])


def check_error(error, word):
    """Every error is an object with message, type, param and code."""
    assert isinstance(error, APIStatusError)
    assert error.body.keys() >= {"message", "type", "param", "code"}
    assert word in error.body["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"max_tokens": -5}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 7}, "top_p"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "role"),
        ({"messages": "hi"}, "messages"),
        ({"logprobs": True, "top_logprobs": 1000}, "top_logprobs"),
        ({"response_format": {"type": "poem"}}, "response_format"),
        ({"tool_choice": "required"}, "tool"),
    ],
)
def test_bad_values_name_their_field(ask, changes, word, stream):
    with pytest.raises(BadRequestError) as caught:
        ask(stream=stream, **changes)
    check_error(caught.value, word)


def test_a_prompt_over_the_context_states_the_figures(ask):
    with pytest.raises(BadRequestError) as caught:
        ask("word " * 5000)
    error = caught.value
    check_error(error, "context")
    assert error.code == "context_length_exceeded"
    assert "2048" in error.body["message"]


def test_an_unknown_model_is_not_found(ask, client):
    with pytest.raises(NotFoundError) as caught:
        ask(model="no-such-model")
    check_error(caught.value, "no-such-model")
    with pytest.raises(NotFoundError):
        client.models.retrieve("no-such-model")


def test_an_unknown_path_is_not_found(client):
    with pytest.raises(NotFoundError) as caught:
        client.post("/no/such/path", body={}, cast_to=object)
    check_error(caught.value, "/no/such/path")


def test_clients_that_leave_free_their_slots(ask):
    # As many as there are slots; each would run for minutes if it were kept.
    streams = [
        ask("Write a very long story.", max_tokens=1800, stream=True, extra_body={"ignore_eos": True})
        for _ in range(4)
    ]
    for stream in streams:
        next(iter(stream))
    for stream in streams:
        stream.close()
    start = time.monotonic()
    assert ask(max_tokens=2).choices[0].message
    assert time.monotonic() - start < 10
