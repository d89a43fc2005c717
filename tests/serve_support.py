"""A program that behaves like `llama-server`, for tests of servers that a run starts.

Its model file is a JSON object that says how it behaves:

    delay: seconds before it is healthy. Default 0.
    late: seconds before it listens at its port. Default 0.
    waits_for: file that must exist before it is healthy. Default: none.
    says: text that it writes to its standard error at the start.
    dies: the status with which it ends at once, unless `port_free_at` is reached.
    port_free_at: which start is the first that does not die. Default: none.
    refuses: the status with which it refuses completions.
    dies_at: the number of the chat request at which it ends with status 9.
    slow: seconds that a chat reply takes. Default 0.
    stubborn: whether it ignores SIGTERM.
    child: whether it starts a process in a session of its own, as engines of several processes do.

It demands the key in LLAMA_API_KEY, if there is one. Each start appends a line to `<model file>.starts`: its process
number, the child's, its arguments and its threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness_ext.serving.server import ServerSpec


def fake_server(folder: Path) -> Path:
    """Write the program to a folder, unless another process of the test has done so, and return its path."""
    program = folder / "llama-server"
    if not program.exists():
        part = folder / f"llama-server.{os.getpid()}"
        part.write_text(f"#!/bin/sh\nexec '{sys.executable}' -S '{Path(__file__).resolve()}' \"$@\"\n")
        part.chmod(0o755)
        part.replace(program)  # a program that is being written cannot be run
    return program


def fake_model(folder: Path, name: str = "model", **behaviour: Any) -> Path:
    """Write a model file to a folder, and return its path."""
    path = folder / f"{name}.gguf"
    path.write_text(json.dumps(behaviour))
    return path


def spec_of(folder: Path, model: Path, **more: Any) -> ServerSpec:
    """Return what a fake server with this model is started with."""
    from harness_ext.serving.server import ServerSpec

    command = (*(str(fake_server(folder)), "--model", str(model), "--alias", "{name}"), "--host", "{host}", "--port")
    return ServerSpec("llamacpp", str(model), (*command, "{port}"), **more)


def starts(model: Path) -> list[dict[str, Any]]:
    """Return what is known about each start of a server with this model."""
    file = Path(f"{model}.starts")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie, which only waits for its status to be collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()


def main(arguments: list[str]) -> int:
    given = dict(pairwise(arguments))
    model = Path(given["--model"])
    behaviour = json.loads(model.read_text())
    if behaviour.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = 0
    if behaviour.get("child"):
        child = subprocess.Popen(["sleep", "600"], start_new_session=True).pid
    seen = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LLAMA_API_KEY", "RANK")}
    line = {"pid": os.getpid(), "child": child, "arguments": arguments, "environment": seen}
    with Path(f"{model}.starts").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(behaviour.get("says", "starting"), file=sys.stderr, flush=True)
    if "dies" in behaviour and len(starts(model)) < behaviour.get("port_free_at", 10**9):
        return int(behaviour["dies"])
    time.sleep(behaviour.get("late", 0))
    healthy_at = time.monotonic() + behaviour.get("delay", 0)
    chats = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                return self._reply(200, {"data": [{"id": given["--alias"]}]})
            awaited = Path(behaviour.get("waits_for", model)).exists()
            return self._reply(200 if awaited and time.monotonic() >= healthy_at else 503, {"status": "?"})

        def do_POST(self) -> None:
            nonlocal chats
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = os.environ.get("LLAMA_API_KEY")
            if key and self.headers.get("Authorization") != f"Bearer {key}":
                return self._reply(401, {"error": {"message": "a key is needed"}})
            if behaviour.get("refuses"):
                return self._reply(behaviour["refuses"], {"error": {"message": "no such model"}})
            if body.get("model") != given["--alias"]:
                return self._reply(404, {"error": {"message": "another model"}})
            chat = "messages" in body
            if chat:
                chats += 1
                if chats == behaviour.get("dies_at"):
                    print("CUDA error: an illegal memory access", file=sys.stderr, flush=True)
                    os._exit(9)
                time.sleep(behaviour.get("slow", 0))
            text = f"re: {body['messages'][-1]['content']}" if chat else "1"
            said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            usage = {"prompt_tokens": 1, "completion_tokens": 1}
            return self._reply(200, {"choices": [{"index": 0, "finish_reason": "stop", **said}], "usage": usage})

        def _reply(self, status: int, data: Any) -> None:
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    ThreadingHTTPServer((given["--host"], int(given["--port"])), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
