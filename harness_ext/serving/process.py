"""A server as a child process: its watcher, its log, and the questions that show whether it is ready."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness_ext.errors import LoadError
from harness_ext.files import open_to_append
from harness_ext.serving import watcher
from harness_ext.terminal import clean, note, outside

HOST = "127.0.0.1"
END_WITHIN = 5.0  # seconds after SIGTERM; Slurm and Kubernetes kill a whole job 30 seconds after it
LOOK_EVERY = 0.2  # seconds
LOOK_TIMEOUT = 5.0  # seconds for a question that a healthy server answers at once
LINES_SHOWN, ERRORS_SHOWN = 12, 4
TAIL = 2**18  # bytes at the end of a log that are looked at
_ERROR = re.compile(r"\b\w*(Error|Exception)\b|\berror:", re.IGNORECASE)
_PORT_TAKEN = re.compile(r"address (is )?already in use|couldn't bind|port is already|errno 98", re.IGNORECASE)
# What the last lines of a log say, and what to do about it. The first that applies counts.
REMEDIES: Sequence[tuple[str, str]] = (
    (
        r"operator torchvision::|could not load this library: .*(torchvision|torchaudio|torchcodec)",
        "the torchvision, torchaudio and torchcodec of its environment were built for another torch: install them from "
        "the index that torch came from, or remove them, since text models need none (`<python> -m pip uninstall "
        "torchvision torchaudio torchcodec`)",
    ),
    (
        r"out of memory|free memory on device|available memory (on node|for the cache)|failed to allocate",
        "give it more GPUs (`serve.devices`, `--tensor-parallel-size` in `serve.args`), less to keep (`serve.context`, "
        "`serve.slots`), or another share of the memory (`serve.memory`)",
    ),
    (
        r"unrecognized argument|invalid argument|no such option|unknown argument|error while handling argument",
        "correct `serve.args`: the installed version does not know one of the arguments",
    ),
    (
        r"no module named|modulenotfounderror|cannot import|missing dependencies|requires fastapi|pip install",
        "install what is missing into the environment of `serve.python`, or name another one",
    ),
    (
        r"not a local folder and is not a valid model|repository not found|offline mode|unknown model architecture",
        "check that this version of the engine can read the model, and that its files are on this machine",
    ),
)


class ServerProcess:
    """A running server and the watcher that ends it with this process, however that ends.

    command: the command.
    environment: the environment variables of the server.
    log: the file to which the server's output is appended.
    port: its port, which is released when it ends.

    Raises LoadError if the command cannot be run.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, port: Port) -> None:
        self.log, self.port = log, port
        with open_to_append(log) as file:
            file.write(f"[harness-ext] {clean(' '.join(command))}\n")
        self._begin = log.stat().st_size
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", watcher.__file__, str(os.getpid()), str(END_WITHIN), str(log), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the server
        )
        self.pid = 0
        assert self._watcher.stdout is not None
        kind, _, rest = self._watcher.stdout.readline().decode("utf-8", "replace").strip().partition(" ")
        if kind != "pid":
            self.stop()
            raise LoadError(f"{outside(command[0])} cannot be run: {outside(rest) or 'its watcher ended'}")
        self.pid = int(rest)

    @property
    def status(self) -> int | None:
        """Return the exit status of the server, or None as long as it runs."""
        return self._watcher.poll()

    def stop(self) -> None:
        """End the server and everything that it has started, and wait until that is done."""
        for pipe in (self._watcher.stdin, self._watcher.stdout):
            if pipe is not None:
                with suppress(OSError, ValueError):
                    if pipe is self._watcher.stdin:
                        pipe.write(b"end\n")  # a forked child may hold a copy of the pipe, so closing is not enough
                    pipe.close()
        self.port.release()
        with suppress(subprocess.TimeoutExpired):
            self._watcher.wait(END_WITHIN + 2 * watcher.REAPED_WITHIN + 5)
        if (self._watcher.poll() or 0) < 0 and self.pid:  # somebody has killed the watcher itself
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)

    def last_lines(self) -> list[str]:
        """Return the end of what the server has written, safe to print: errors from further above, then the last lines.

        Engines of several processes write the cause of an error long before the last line.
        """
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self._begin, self.log.stat().st_size - TAIL))
            lines = [line for raw in file.read().decode("utf-8", "replace").splitlines() if (line := outside(raw, 400))]
            above = [line for line in lines[:-LINES_SHOWN] if _ERROR.search(line)]
            return [*list(dict.fromkeys(above))[-ERRORS_SHOWN:], *lines[-LINES_SHOWN:]]
        return []

    def lost_its_port(self) -> bool:
        """Return whether the server says that another program has taken its port."""
        return any(_PORT_TAKEN.search(line) for line in self.last_lines())

    def obituary(self, name: str, when: str) -> str:
        """Return the message about a server that has ended by itself.

        name: the server's name.
        when: when that was, such as `while it was starting`.
        """
        lines = self.last_lines()
        said = "".join(f"\n  | {line}" for line in lines) or "\n  | (it wrote nothing)"
        text = "\n".join(lines).lower()
        remedy = next((what for mark, what in REMEDIES if re.search(mark, text)), "")
        advice = f"\n{remedy[0].upper()}{remedy[1:]}. " if remedy else "\n"
        return (
            f"{name} ended {when} (status {self.status}). The last lines of {self.log}:{said}{advice}"
            "The first line of the log is the command, to try it by hand."
        )


class Port:
    """A port on which nobody listens.

    host: the address of the interface. Default: that of the loopback interface.

    On Linux it stays reserved for programs that are told about it, until it is released: the system gives it to nobody
    else who asks for any port.
    """

    def __init__(self, host: str = HOST) -> None:
        self._socket = socket.socket()
        # With this option, which servers set as well, they can listen at a port that is taken but not listened at.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, 0))
        self.number = int(self._socket.getsockname()[1])
        if sys.platform != "linux":
            self.release()

    def release(self) -> None:
        """Let other programs have it."""
        self._socket.close()


def is_healthy(url: str) -> bool:
    """Return whether a server answers 200 at this address."""
    with suppress(OSError, ValueError), _open(url, None, LOOK_TIMEOUT, "") as response:
        return bool(response.status == 200)
    return False


def has_model(base_url: str, model: str, key: str = "") -> bool:
    """Return whether the server at an address has a model of this name. Another program may listen there.

    base_url: its address, up to `/v1`.
    model: the name.
    key: the key that it demands. Default: none.
    """
    with (
        suppress(OSError, ValueError, KeyError, TypeError),
        _open(f"{base_url}/models", None, LOOK_TIMEOUT, key) as response,
    ):
        return any(entry["id"] == model for entry in json.load(response)["data"])
    return False


def answers(base_url: str, model: str, timeout: float, key: str = "") -> str | None:
    """Ask a server for one token. Return None if it answers, and otherwise what is wrong, safe to print.

    base_url: its address, up to `/v1`.
    model: the model's name on it.
    timeout: the time that this may take, in seconds.
    key: the key that it demands. Default: none.

    Raises LoadError if the server refuses the request, as it would refuse all.
    """
    body = json.dumps({"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}).encode()
    try:
        with _open(f"{base_url}/completions", body, timeout, key) as response:
            reply = json.load(response)
        return None if isinstance(reply, dict) and reply.get("choices") else f"no completion: {outside(reply)}"
    except urllib.error.HTTPError as error:
        with suppress(OSError):
            said = outside(error.read(4096).decode("utf-8", "replace"))
            if 400 <= error.code < 500 and error.code not in (408, 425, 429):
                raise LoadError(
                    f"the server that was started refuses a completion (HTTP {error.code}: {said})"
                ) from None
            return f"HTTP {error.code}: {said}"
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return outside(error)


def _open(url: str, body: bytes | None, timeout: float, key: str) -> urllib.request._UrlopenRet:
    # No proxy leads to this machine's own loopback interface, or to another node of a cluster.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(url, body, headers | ({"Authorization": f"Bearer {key}"} if key else {}))
    return opener.open(request, timeout=timeout)


class Clock:
    """Says from time to time that something is still awaited, in a thread of its own, as a context manager.

    line: returns the line, given the seconds so far.
    every: seconds between two lines.
    """

    def __init__(self, line: Callable[[float], str], every: float) -> None:
        self._line, self._every = line, every
        self._over = threading.Event()
        self.started = time.monotonic()

    def __enter__(self) -> Clock:
        self._thread = threading.Thread(target=self._run, name="harness-ext waiting", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(5)

    @property
    def seconds(self) -> float:
        """Return how long it has been."""
        return time.monotonic() - self.started

    def _run(self) -> None:
        while not self._over.wait(self._every):
            note(self._line(self.seconds))
