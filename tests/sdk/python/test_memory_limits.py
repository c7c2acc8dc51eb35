"""Inside a control group: what is admitted survives its full context on all slots, and what
is refused names a context that does.

Needs a control group of memory that this user may make; without one the tests are skipped.
"""

import re
import threading

from own_group import kills
from own_server import OwnServer, model_path

MIB = 1 << 20
SLOTS = 4
# Words of a prompt besides those that are counted: its number, and room for an answer.
SPARE_TOKENS = 40


def fill(server, context):
    """A prompt on each slot at once, together the whole context, and one that fills it alone."""
    counts = []

    def ask(number, n_tokens):
        prompt = f"{number}" + " word" * (n_tokens - SPARE_TOKENS)
        body = {"prompt": prompt, "max_tokens": 4, "temperature": 0}
        answer = server.http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        counts.append(answer.json()["usage"]["prompt_tokens"])

    asked = [threading.Thread(target=ask, args=(n, context // SLOTS)) for n in range(SLOTS)]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    ask(SLOTS, context)
    assert len(counts) == SLOTS + 1
    assert max(counts) > context - 2 * SPARE_TOKENS


def test_what_is_admitted_survives_its_full_context(base_url, group_of, tmp_path):
    group = group_of(512 * MIB)
    model = model_path(base_url)
    flags = {"context": 8192, "slots": SLOTS}
    with OwnServer(model, tmp_path / "log", group=group, **flags) as server:
        fill(server, 8192)
        assert kills(group) == 0
        # What it holds is what was planned for it.
        assert "is off its plan" not in (tmp_path / "log").read_text()


def test_what_is_refused_names_a_context_that_fits(base_url, group_of, tmp_path):
    group = group_of(320 * MIB)
    model = model_path(base_url)
    refused = OwnServer(model, tmp_path / "log", group=group, context=8192, slots=SLOTS)
    assert refused.process.wait(60) != 0
    refused.http.close()
    said = (tmp_path / "log").read_text()
    found = re.search(r"takes about .* load it with a context of (\d+) tokens or less", said)
    assert found, said
    context = int(found.group(1))
    with OwnServer(model, tmp_path / "log2", group=group, context=context, slots=SLOTS) as server:
        fill(server, context)
    assert kills(group) == 0
