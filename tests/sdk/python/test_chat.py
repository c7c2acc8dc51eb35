"""Chat and completions: whole answers, streams, sampling, stops, log probabilities."""

import asyncio
import json
import urllib.request

import pytest
from openai import AsyncOpenAI


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def test_models_are_listed_and_found(client, model):
    listed = client.models.list().data
    assert [entry.object for entry in listed] == ["model"] * len(listed)
    assert client.models.retrieve(model).id == model


def test_a_chat_answer_is_whole(ask, model):
    answer = ask()
    assert answer.object == "chat.completion"
    assert answer.id and answer.created > 1_600_000_000
    assert answer.model == model
    [choice] = answer.choices
    assert choice.index == 0
    assert choice.message.role == "assistant"
    assert choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_system_and_developer_messages_and_parts_are_taken(ask):
    for role in ("system", "developer"):
        answer = ask(
            messages=[
                {"role": role, "content": "Answer in one word."},
                {"role": "user", "content": [{"type": "text", "text": "Say hello."}]},
            ]
        )
        assert answer.choices[0].message.content


def test_a_stream_carries_the_same_text(ask):
    whole = ask().choices[0]
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == whole.message.content
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    roles = [c.choices[0].delta.role for c in chunks if c.choices]
    assert roles[0] == "assistant" and not any(roles[1:])
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert [reason for reason in reasons if reason] == [whole.finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_usage_is_streamed_only_when_asked_for(ask):
    chunks = list(ask(stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_the_raw_stream_ends_with_done(base_url, model):
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 4,
        "stream": True,
    }
    request = urllib.request.Request(
        f"{base_url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.read().decode().split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith(("data: ", ":")) for line in lines)


def test_max_tokens_is_exact_and_named(ask):
    for name in ("max_tokens", "max_completion_tokens"):
        limits = {"max_tokens": None, name: 5}
        answer = ask("Write a long story about the sea.", **limits)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_before_itself(ask, stream):
    whole = ask(max_tokens=48).choices[0].message.content
    # From the middle of a word to the middle of another, so it spans tokens.
    stop = whole[9:15]
    answer = ask(max_tokens=48, stop=[stop, "never said"], stream=stream)
    if stream:
        chunks = list(answer)
        text = text_of(chunks)
        [reason] = [r for c in chunks if c.choices and (r := c.choices[0].finish_reason)]
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert text == whole[: whole.index(stop)]
    assert reason == "stop"


def test_two_choices_share_one_prompt(ask):
    one = ask(temperature=1, seed=3)
    two = ask(temperature=1, seed=3, n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert all(choice.message.content for choice in two.choices)
    assert two.usage.prompt_tokens == one.usage.prompt_tokens
    streamed = {0: "", 1: ""}
    reasons = {}
    for chunk in ask(temperature=1, seed=3, n=2, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert set(reasons) == {0, 1} and all(streamed.values())


def test_a_seed_repeats_an_answer(ask):
    def sample(seed):
        text = "Tell me a story about a fox."
        return ask(text, temperature=1.2, seed=seed, max_tokens=24).choices[0].message.content

    first = sample(11)
    assert sample(11) == first
    assert any(sample(seed) != first for seed in (12, 13))


def test_greedy_answers_repeat(ask):
    answers = {ask().choices[0].message.content for _ in range(3)}
    assert len(answers) == 1


def test_logprobs_describe_every_token(ask):
    answer = ask(logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens or (
        answer.choices[0].finish_reason == "stop"
    )
    joined = b"".join(bytes(token.bytes) for token in tokens)
    assert joined.decode() == answer.choices[0].message.content
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        values = [top.logprob for top in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        # Greedy: the token is the best candidate.
        assert token.token == token.top_logprobs[0].token


def test_logprobs_are_streamed(ask):
    chunks = list(ask(logprobs=True, top_logprobs=1, stream=True))
    tokens = [
        token
        for chunk in chunks
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == text_of(chunks)


def test_logit_bias_forbids_a_token(ask, client, model, base_url):
    first = ask(max_tokens=1, logprobs=True).choices[0].logprobs.content[0].token
    request = urllib.request.Request(
        base_url.removesuffix("/v1") + "/tokenize",
        data=json.dumps({"content": first, "add_special": False}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        [token] = json.load(answer)["tokens"]
    other = ask(max_tokens=1, logit_bias={str(token): -100})
    assert other.choices[0].message.content != first


def test_completions_continue_a_prompt(client, model):
    arguments = {"model": model, "prompt": "The capital of France is", "temperature": 0}
    answer = client.completions.create(**arguments, max_tokens=8, logprobs=2)
    [choice] = answer.choices
    assert answer.object == "text_completion"
    assert choice.text and choice.finish_reason in ("stop", "length")
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs)
    assert "".join(choice.logprobs.tokens) == choice.text
    streamed = client.completions.create(**arguments, max_tokens=8, stream=True)
    assert "".join(c.choices[0].text for c in streamed if c.choices) == choice.text
    echoed = client.completions.create(**arguments, max_tokens=8, echo=True)
    assert echoed.choices[0].text == arguments["prompt"] + choice.text


def test_a_repeated_prompt_is_read_from_the_cache(ask):
    text = "Remember these words: " + "lantern harbour compass " * 40
    ask(text, max_tokens=4, extra_body={})
    again = ask(text, max_tokens=4, extra_body={}).usage
    assert again.prompt_tokens_details.cached_tokens > again.prompt_tokens // 2


def test_many_at_once_answer_as_one_does(ask, base_url, model):
    alone = ask(max_tokens=16).choices[0].message.content

    async def together():
        async with AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
            requests = [
                client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": f"Name {n} colours."}],
                    max_tokens=16,
                    temperature=0,
                )
                for n in ("three", "four", "five", "six", "three", "seven")
            ]
            return await asyncio.gather(*requests)

    answers = asyncio.run(together())
    assert all(answer.choices[0].message.content for answer in answers)
    # Batches of other sizes round differently, so only the start is compared.
    assert answers[0].choices[0].message.content[:8] == alone[:8]
