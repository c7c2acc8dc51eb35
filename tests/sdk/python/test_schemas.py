"""The JSON Schema test suite's schemas: what is accepted holds, what is not is named."""

import collections
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from jsonschema import Draft3Validator, Draft4Validator

SUITE = Path(__file__).parents[1] / "node/node_modules/json-schema-test-suite/tests"
DRAFTS = {"draft3": Draft3Validator, "draft4": Draft4Validator}
WANTED = 200
AT_ONCE = 4
SEED = 20
PROMPT = "Another small JSON value."
# Short values of all kinds, so that answers are varied and come to an end.
EXAMPLES = ["7", '"ok"', '{"foo": 1, "bar": "x"}', "[1, 2]", "true", '{"a": 3}', "null", "2.5"]
# Codes of a schema that is refused: not enforceable, or not a schema.
REFUSALS = ("constraint_unsupported", "invalid_request")


class Case:
    """A schema and the drafts by which an answer to it is judged."""

    def __init__(self, schema, validators, seed):
        self.schema, self.validators, self.seed = schema, validators, seed
        self.answer = None

    def messages(self):
        messages = [{"role": "user", "content": PROMPT}]
        for example in random.Random(self.seed).sample(EXAMPLES, 4):
            messages.append({"role": "assistant", "content": example})
            messages.append({"role": "user", "content": PROMPT})
        return messages

    def ask(self, http):
        for max_tokens in (48, 128):
            body = {
                "messages": self.messages(),
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "value", "schema": self.schema, "strict": True},
                },
                "temperature": 1.0,
                "seed": self.seed,
                "max_tokens": max_tokens,
            }
            self.answer = http.post("/chat/completions", json=body)
            if not self.accepted or self.finish_reason == "stop":
                return self
        return self

    @property
    def accepted(self):
        return self.answer.status_code == 200

    @property
    def choice(self):
        return self.answer.json()["choices"][0]

    @property
    def finish_reason(self):
        return self.choice["finish_reason"]

    def problem(self):
        """What is wrong with the answer; None where it is right or cannot be judged."""
        if not self.accepted:
            return self.refusal_problem()
        text = self.choice["message"]["content"]
        if self.finish_reason == "length":
            return None
        if self.finish_reason != "stop":
            return f"finish_reason {self.finish_reason}"
        try:
            value = json.loads(text)
        except ValueError as error:
            return f"{text!r} is not JSON: {error}"
        for validator in self.validators:
            for error in validator(self.schema).iter_errors(value):
                return f"{text!r} under {validator.__name__}: {error.message}"
        return None

    def refusal_problem(self):
        if self.answer.status_code != 400:
            return f"{self.answer.status_code}: {self.answer.text}"
        error = self.answer.json()["error"]
        if error["code"] not in REFUSALS:
            return f"code {error['code']}: {error['message']}"
        if not self.named_keyword():
            return f"no keyword is named: {error['message']}"
        return None

    def named_keyword(self):
        """The keyword of the schema that the refusal is about."""
        error = self.answer.json()["error"]
        if "keyword" in error:
            known = error["keyword"] in keywords(self.schema)
            return error["keyword"] if known and error["keyword"] in error["message"] else None
        # A keyword in quotes, or at the end of a JSON pointer.
        forms = ("'{}'", "`{}`", "/{}:")
        for keyword in sorted(keywords(self.schema)):
            if any(form.format(keyword) in error["message"] for form in forms):
                return keyword
        return None


def keywords(schema):
    """All member names anywhere in a schema."""
    if isinstance(schema, dict):
        return set(schema).union(*map(keywords, schema.values()))
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    return set()


def suite_cases():
    """Each schema once, judged by every draft it is in."""
    drafts_of = collections.defaultdict(set)
    for draft in DRAFTS:
        for file in sorted((SUITE / draft).rglob("*.json")):
            for group in json.loads(file.read_text()):
                drafts_of[json.dumps(group["schema"], sort_keys=True)].add(draft)
    assert drafts_of, f"there is nothing in {SUITE}; run npm ci"
    return [
        Case(json.loads(schema), [DRAFTS[draft] for draft in sorted(drafts)], SEED + index)
        for index, (schema, drafts) in enumerate(sorted(drafts_of.items()))
    ]


def combined(cases, choose):
    """Two schemas of the suite as members of an object or one as items of an array."""
    # A reference is relative to the root, so it cannot be moved inside.
    plain = [case for case in cases if "$ref" not in keywords(case.schema)]
    draft4 = [case for case in plain if Draft4Validator in case.validators]
    while True:
        if choose.random() < 0.3:
            case = choose.choice(plain)
            schema = {"type": "array", "items": case.schema, "minItems": 1, "maxItems": 2}
            yield Case(schema, case.validators, choose.randrange(1 << 32))
        else:
            names = choose.sample(["a", "size", "名", "x y"], 2)
            members = {name: choose.choice(draft4).schema for name in names}
            schema = {
                "type": "object",
                "properties": members,
                "required": sorted(members),
                "additionalProperties": False,
            }
            yield Case(schema, [Draft4Validator], choose.randrange(1 << 32))


@pytest.fixture(scope="module")
def answered(base_url):
    """All of the suite, then random combinations, until enough were accepted."""
    choose = random.Random(SEED)
    with (
        httpx2.Client(base_url=base_url, timeout=300) as http,
        ThreadPoolExecutor(AT_ONCE) as threads,
    ):
        def ask(cases):
            return list(threads.map(lambda case: case.ask(http), cases))

        done = ask(suite_cases())
        accepted = [case for case in done if case.accepted]
        more = combined(accepted, choose)
        while (lacking := WANTED - sum(case.accepted for case in done)) > 0:
            assert len(done) < 3 * WANTED, "too much is refused"
            done += ask([next(more) for _ in range(lacking)])
    return done


def test_every_answer_that_ends_is_valid(answered):
    accepted = [case for case in answered if case.accepted]
    cut = [case for case in accepted if case.finish_reason == "length"]
    print(f"accepted {len(accepted)}, of which cut by max_tokens {len(cut)}")
    assert len(accepted) >= WANTED
    problems = [(case.schema, p) for case in accepted if (p := case.problem())]
    assert not problems, "\n".join(map(str, problems))
    assert len(cut) < len(accepted) / 5, [case.schema for case in cut]


def test_every_refusal_names_its_keyword(answered):
    refused = [case for case in answered if not case.accepted]
    counts = collections.Counter(str(case.named_keyword()) for case in refused
                                 if case.answer.status_code == 400)
    print(f"refused {len(refused)}:", dict(counts.most_common()))
    assert refused
    problems = [(case.schema, p) for case in refused if (p := case.problem())]
    assert not problems, "\n".join(map(str, problems))
