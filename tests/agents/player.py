"""A back end that plays the model: it drives an agent through one task with real tool calls.

The task is to copy the word of one file into another. The script does not know the word, so
it can only be written by an agent whose tool result came all the way back: first the tool
that reads is called, then, with the word from its result, the tool that writes, and then the
answer is given. Which tools those are, and how their parameters are called, is read from the
`tools` of the request.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SOURCE = "word.txt"
COPY = "hello.txt"
TASK = (
    f"Read the file {SOURCE} in the current folder. "
    f"Then create the file {COPY} that holds the same word and nothing else."
)
WORD = re.compile(r"word-[0-9a-f]{12}")
MODEL = "player"
# More requests than this for a task of three turns is a loop; they are refused.
REQUESTS_MAX = 12

# Tools by what they do, as the agents call them; the first that is there is called.
READERS = ("read", "read_file", "read_files")
WRITERS = ("write", "write_to_file", "write_file", "editor")
SHELLS = ("bash", "exec_command", "shell", "shell_command", "run_commands", "execute_command")

COMMANDS = ("command", "cmd", "commands")
PATHS = ("filepath", "file_path", "path", "file_paths", "files")
TEXTS = ("content", "contents", "new_text", "new_string", "file_text")


class Manner:
    """How an engine speaks: `plain` as it should, the others as engines are known to."""

    PLAIN = "plain"
    # No ids, no indices, `stop` after a tool call, whole arguments, no usage, no [DONE].
    SLOPPY = "sloppy"
    # The first request is answered as by an engine that is still loading.
    LOADING = "loading"


def choose(tools, names):
    by_name = {tool["function"]["name"].lower(): tool["function"] for tool in tools}
    return next((by_name[name] for name in names if name in by_name), None)


def value_for(name, schema, wanted):
    """A value for one parameter: what is `wanted` of its kind, else something harmless."""
    key = name.lower()
    for names, value in wanted.items():
        if key in names:
            return in_shape(schema, value)
    if "enum" in schema:
        return schema["enum"][0]
    return {"boolean": False, "integer": 1, "number": 1, "array": [], "object": {}}.get(
        schema.get("type"), "the word"
    )


def in_shape(schema, value):
    """A text as the schema wants it: itself, in a list, or as an object in a list."""
    if schema.get("type") != "array":
        return value
    item = schema.get("items", {})
    options = [item, *item.get("anyOf", []), *item.get("oneOf", [])]
    if any(option.get("type") == "string" for option in options):
        return [value]
    properties = next((one["properties"] for one in options if "properties" in one), {})
    key = next((key for key in properties if key.lower() in PATHS + COMMANDS), "path")
    return [{key: value}]


def call(function, wanted):
    """Name and arguments of a call: what the schema requires, and what is wanted."""
    schema = function.get("parameters") or {}
    properties = schema.get("properties", {})
    named = {name for names in wanted for name in names}
    given = [
        name for name in properties if name in schema.get("required", []) or name.lower() in named
    ]
    arguments = {name: value_for(name, properties[name], wanted) for name in given}
    return function["name"], arguments


def path_of(name, folder):
    return f"{folder}/{name}"


def read_call(tools, folder):
    if tool := choose(tools, READERS):
        return call(tool, {PATHS: path_of(SOURCE, folder)})
    return shell_call(tools, f"cat {SOURCE}")


def write_call(tools, folder, word):
    if tool := choose(tools, WRITERS):
        return call(tool, {PATHS: path_of(COPY, folder), TEXTS: word})
    return shell_call(tools, f"printf %s {word} > {COPY}")


def shell_call(tools, command):
    tool = choose(tools, SHELLS)
    if tool is None:
        names = [tool["function"]["name"] for tool in tools]
        raise ValueError(f"no tool to read, write or run a command among {names}")
    return call(tool, {COMMANDS: command})


def text_of(message):
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content)


def next_step(body, folder):
    """What the model says: `("text", text)` or `("call", (name, arguments))`."""
    messages = body["messages"]
    tools = body.get("tools") or []
    results = [text_of(one) for one in messages if one["role"] == "tool"]
    if not tools:
        return "text", without_tools(messages)
    if not any("Then create the file" in text_of(one) for one in messages):
        return "text", "A copied word"
    if not results:
        return "call", read_call(tools, folder)
    found = WORD.search("\n".join(results))
    if found is None:
        return "text", f"The results hold no word: {results}"
    if len(results) == 1:
        return "call", write_call(tools, folder, found[0])
    if tool := choose(tools, ("submit_and_exit", "attempt_completion")):
        return "call", call(tool, {("result", "summary"): f"The word is {found[0]}."})
    return "text", f"The word is {found[0]}."


def without_tools(messages):
    """A title; or the whole file, for an agent that reads its edits from the text."""
    whole = "\n".join(text_of(one) for one in messages)
    found = WORD.search(whole)
    if "file listing" not in whole or found is None:
        return "A copied word"
    return f"The word is {found[0]}.\n\n{COPY}\n```\n{found[0]}\n```\n"


def chunks(step, n, manner):
    """The chunks of a streamed answer, without their envelope."""
    kind, what = step
    sloppy = manner == Manner.SLOPPY
    if not sloppy:
        yield {"role": "assistant", "content": None}, None
    if kind == "text":
        for piece in re.findall(r"\S+\s*", what):
            yield {"content": piece}, None
        yield {}, "stop"
        return
    name, arguments = what
    text = json.dumps(arguments)
    if sloppy:
        yield {"content": None, "tool_calls": [{"function": {"name": name, "arguments": text}}]}, None
        yield {}, "stop"
        return
    head = {"name": name, "arguments": ""}
    yield {"tool_calls": [{"index": 0, "id": f"call_{n}", "type": "function", "function": head}]}, None
    for start in range(0, len(text), 7):
        part = {"arguments": text[start : start + 7]}
        yield {"tool_calls": [{"index": 0, "function": part}]}, None
    yield {}, "tool_calls"


def whole_message(step, n, manner):
    kind, what = step
    if kind == "text":
        return {"role": "assistant", "content": what}, "stop"
    name, arguments = what
    made = {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    if manner == Manner.SLOPPY:
        return {"tool_calls": [made]}, "stop"
    return {"role": "assistant", "content": None, "tool_calls": [{"id": f"call_{n}"} | made]}, "tool_calls"


class Player:
    """The back end, on a port of its own; use it as a context manager."""

    def __init__(self, folder, manner=Manner.PLAIN):
        self.folder = folder
        self.manner = manner
        self.requests = []
        self.said = []
        self.lock = threading.Lock()
        player = self

        class Handler(Conversation):
            owner = player

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def take(self, body):
        """What is said to a request, and the number of the answer; `None`: still loading."""
        with self.lock:
            self.requests.append(body)
            n = len(self.requests)
            if n > REQUESTS_MAX:
                raise ValueError(f"this is request {n}; the task takes fewer than {REQUESTS_MAX}")
            if self.manner == Manner.LOADING and n == 1:
                return None, n
            step = next_step(body, self.folder)
            self.said.append(step)
            return step, n

    def calls(self):
        """The tools that were called, in order."""
        with self.lock:
            return [what[0] for kind, what in self.said if kind == "call"]

    def results(self):
        """The most tool results that one request had."""
        with self.lock:
            counts = [sum(m["role"] == "tool" for m in body["messages"]) for body in self.requests]
        return max(counts, default=0)


class Conversation(BaseHTTPRequestHandler):
    """OpenAI's chat completions and list of models, as far as the script needs them."""

    protocol_version = "HTTP/1.1"
    owner = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.json(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            step, n = self.owner.take(body)
        except ValueError as error:
            return self.json(400, {"error": {"message": str(error)}})
        if step is None:
            return self.json(503, {"error": {"message": "Loading model", "code": 503}})
        if body.get("stream"):
            return self.stream(step, n)
        message, reason = whole_message(step, n, self.owner.manner)
        self.json(200, envelope(n, "chat.completion") | {
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": USAGE,
        })

    def json(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, step, n):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        sloppy = self.owner.manner == Manner.SLOPPY
        head = envelope(n, "chat.completion.chunk")
        for delta, reason in chunks(step, n, self.owner.manner):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            self.event(json.dumps(head | {"choices": [choice]}))
        if not sloppy:
            self.event(json.dumps(head | {"choices": [], "usage": USAGE}))
            self.event("[DONE]")
        self.close_connection = True

    def event(self, data):
        self.wfile.write(f"data: {data}\n\n".encode())


USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def envelope(n, kind):
    return {"id": f"chatcmpl-{n}", "object": kind, "created": 0, "model": MODEL}
