"""The server under test is started by `cargo xtask sdk`, which says where it is."""

import os

import pytest
from openai import OpenAI

pytest_plugins = ["own_group"]


@pytest.fixture(scope="session")
def base_url():
    return os.environ["SEXTANT_BASE_URL"]


@pytest.fixture(scope="session")
def client(base_url):
    # No retries: a request that fails once has failed.
    return OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def model(client):
    return client.models.list().data[0].id


@pytest.fixture(scope="session")
def ask(client, model):
    """One greedy chat request; an argument is changed by name, left out by None."""

    def ask(text="Name three colours.", **changes):
        arguments = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 32,
            # A prompt partly taken from the cache is computed in batches of another
            # size, which round differently; without it, equal requests are equal work.
            "extra_body": {"cache_prompt": False},
        }
        arguments |= changes
        given = {name: value for name, value in arguments.items() if value is not None}
        return client.chat.completions.create(**given)

    return ask
