"""Control groups of memory, for servers under test."""

import os
import re
from pathlib import Path

import pytest
from own_server import wait_for


def own_group():
    """The folder of this process's group, and the name of its file with the limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path("/sys/fs/cgroup/memory") / path.strip("/"), "memory.limit_in_bytes"
    return Path("/sys/fs/cgroup"), "memory.max"


@pytest.fixture
def group_of():
    """Makes a group with a limit in bytes; all are removed at the end."""
    parent, limit_file = own_group()
    made = []

    def make(limit):
        folder = parent / f"sextant-test-{os.getpid()}-{len(made)}"
        try:
            folder.mkdir()
            made.append(folder)
            (folder / limit_file).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no control group of memory can be made here: {error}")
        return folder

    yield make
    for folder in made:
        wait_for("the group to be empty", lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


def kills(group):
    files = [group / "memory.events", group / "memory.oom_control"]
    text = next(file.read_text() for file in files if file.exists())
    return int(re.search(r"^oom_kill (\d+)$", text, re.MULTILINE).group(1))
