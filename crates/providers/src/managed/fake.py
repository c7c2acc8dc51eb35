#!/usr/bin/env python3
"""Speaks as much of llama-server as the tests need, and misbehaves as its flags say."""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

arguments = sys.argv[1:]


def flag(name, default=None):
    return arguments[arguments.index(name) + 1] if name in arguments else default


print("api_keys: ****" + flag("--api-key", "none")[-4:], flag("--api-key"), file=sys.stderr)
if "--refuse" in arguments:
    sys.exit("error: no such model")
if "--ignore-term" in arguments:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        gate = flag("--gate")
        if self.path == "/health":
            if gate and not os.path.exists(gate):
                return self.answer(503, {"error": {"message": "Loading model"}})
            return self.answer(200, {"status": "ok"})
        if self.path == "/v1/models":
            return self.answer(200, {"data": [{"id": flag("--alias")}]})
        if self.path == "/props":
            return self.answer(200, {"default_generation_settings": {"n_ctx": 512}})
        self.answer(404, {})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if "--die-on-request" in arguments:
            print("GGML_ASSERT(x) failed", file=sys.stderr, flush=True)
            os.abort()
        delta = {"role": "assistant", "content": f"pid {os.getpid()}"}
        chunks = [
            {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self.answer(200, "".join([*lines, "data: [DONE]\n\n"]).encode(), "text/event-stream")


server = ThreadingHTTPServer((flag("--host"), int(flag("--port"))), Handler)
if "--child" in arguments:
    # Something that it starts itself and does not look after.
    child = os.fork()
    if child == 0:
        signal.pause()
    print(f"child {child}", file=sys.stderr, flush=True)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
while True:
    signal.pause()
