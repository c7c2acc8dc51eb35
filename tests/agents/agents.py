"""The agents: how each is pointed at an endpoint and given a task, without a screen.

Each is a function that gets a `Place` and writes whatever configuration the agent wants into
the home folder of its own; it returns the command, and what the environment has besides. The
same lines are in docs/compatibility.md, for people.
"""

import json
from dataclasses import dataclass
from pathlib import Path


# Below this they are told to offer less.
SMALL_CONTEXT = 32_768
BRIEF = "You are a coding agent. Use the tools to do what you are asked."


@dataclass
class Place:
    """Where one run happens."""

    base: str
    model: str
    home: Path
    work: Path
    programs: Path
    context: int

    @property
    def is_small(self):
        """Whether what the agents usually begin with does not fit."""
        return self.context < SMALL_CONTEXT

    def npm(self, name):
        return str(self.programs / "npm/node_modules/.bin" / name)

    def write(self, path, content):
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))


def claude_code(place, task):
    environment = {
        "ANTHROPIC_BASE_URL": place.base,
        "ANTHROPIC_AUTH_TOKEN": "unused",
        "ANTHROPIC_MODEL": place.model,
        # What it does on the side (titles, summaries) it asks of this model.
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": place.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    flags = ["--output-format", "json", "--allowedTools", "Bash,Read,Write,Edit"]
    if place.is_small:
        flags += ["--tools", "Read,Write", "--system-prompt", BRIEF]
    return [place.npm("claude"), "-p", task, *flags], environment


CODEX = """\
model = "{model}"
model_provider = "sextant"

[model_providers.sextant]
name = "Sextant"
base_url = "{base}/v1"
wire_api = "responses"
"""


def codex(place, task):
    place.write(".codex/config.toml", CODEX.format(model=place.model, base=place.base))
    flags = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json"]
    if place.is_small:
        place.write("brief.md", BRIEF)
        flags += ["-c", f"model_instructions_file={place.home}/brief.md"]
    return [place.npm("codex"), "exec", *flags, task], {}


def opencode(place, task):
    limit = {"context": place.context, "output": min(4096, place.context // 16)}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Sextant",
        "options": {"baseURL": f"{place.base}/v1", "apiKey": "unused"},
        "models": {place.model: {"tool_call": True, "limit": limit}},
    }
    config = {"provider": {"sextant": provider}}
    if place.is_small:
        tools = {"*": False, "read": True, "write": True}
        config["agent"] = {"build": {"prompt": BRIEF, "tools": tools}}
    place.write(".config/opencode/opencode.json", config)
    flags = ["--auto", "--format", "json", "-m", f"sextant/{place.model}"]
    return [place.npm("opencode"), "run", *flags, task], {
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
    }


def pi(place, task):
    provider = {
        "baseUrl": f"{place.base}/v1",
        "api": "openai-completions",
        "apiKey": "unused",
        "models": [
            {"id": place.model, "contextWindow": place.context, "maxTokens": place.context // 4}
        ],
    }
    place.write(".pi/agent/models.json", {"providers": {"sextant": provider}})
    flags = ["--offline", "--provider", "sextant", "--model", place.model, "--no-session"]
    return [place.npm("pi"), *flags, "-p", task], {}


def cline(place, task):
    pointed = ["-p", "openai-compatible", "-k", "unused", "-m", place.model]
    before = [place.npm("cline"), "auth", *pointed, "-b", f"{place.base}/v1"]
    flags = ["--json", "-P", "openai-compatible", "-m", place.model, "--auto-approve", "true"]
    if place.is_small:
        flags += ["-s", BRIEF]
    return [place.npm("cline"), *flags, task], {"before": before}


def aider(place, task):
    environment = {
        "OPENAI_API_BASE": f"{place.base}/v1",
        "OPENAI_API_KEY": "unused",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    flags = ["--edit-format", "whole", "--yes-always", "--no-git", "--map-tokens", "0"]
    # Otherwise they go to the root of whatever repository it finds itself in.
    flags += ["--chat-history-file", "chat.md", "--input-history-file", "input.txt"]
    quiet = ["--analytics-disable", "--no-check-update", "--no-show-model-warnings"]
    files = ["--read", "word.txt", "hello.txt"]
    program = str(place.programs / "aider/bin/aider")
    words = ["--model", f"openai/{place.model}", "--message", task]
    return [program, *words, *flags, *quiet, *files], environment


@dataclass
class Agent:
    """An agent, and what a whole task of it looks like from behind."""

    start: callable
    dialect: str
    # Tool results that its last request has; 0: it has no tools.
    results: int = 2


AGENTS = {
    "claude-code": Agent(claude_code, "/v1/messages"),
    "codex": Agent(codex, "/v1/responses"),
    "opencode": Agent(opencode, "/v1/chat/completions"),
    "aider": Agent(aider, "/v1/chat/completions", results=0),
    "pi": Agent(pi, "/v1/chat/completions"),
    "cline": Agent(cline, "/v1/chat/completions"),
}
