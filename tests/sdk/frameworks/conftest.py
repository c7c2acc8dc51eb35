"""The server under test is started by `cargo xtask sdk`, which says where it is."""

import json
import os
import urllib.request

import pytest

TRIP = {
    "title": "trip",
    "description": "A planned trip.",
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


def check_trip(trip):
    assert trip.keys() == {"city", "days"}
    assert trip["city"] in TRIP["properties"]["city"]["enum"]
    assert 1 <= trip["days"] <= 9


@pytest.fixture(scope="session")
def base():
    """The server's address, without `/v1`."""
    return os.environ["SEXTANT_BASE_URL"].removesuffix("/v1")


@pytest.fixture(scope="session")
def model(base):
    with urllib.request.urlopen(f"{base}/v1/models") as answer:
        return json.load(answer)["data"][0]["id"]
